//! Pushing configurations.

use causeway::config::glob::Filter;
use causeway::gateway::Pushed;
use causeway::instance::{Instance, LOOK_EVERY};
use causeway::platform::{Clock as _, KeyValue as _, Platform as _};
use causeway::testing::Fake;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Kind, put};
use crate::world::{Got, World, key, plan, server};

const ADMIN: &str = "an-admin-key-of-some-length";

fn world() -> World {
    let fake = Fake::default();
    put(&fake, "a", Kind::Modern, &["t"]);
    put(&fake, "b", Kind::Modern, &["t"]);
    fake.set_secret("CAUSEWAY_ADMIN_KEY", ADMIN);
    World { fake, instance: Instance::unconfigured("nothing was pushed".to_owned()) }
}

fn send(world: &World, method: &str, path: &str, key: &str, body: &Value) -> Got {
    let request =
        Request::builder().method(method).uri(path).header("host", "localhost").header("x-api-key", key);
    world.send(request.body(body.to_string().into()).unwrap())
}

fn config(name: &str) -> Value {
    json!({"mcpServers": {name: {"url": format!("http://{name}/mcp")}}})
}

fn tools(world: &World) -> Vec<String> {
    let json = world.modern("/mcp", "tools/list", json!({})).json();
    json["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_gateway_without_configuration_takes_its_first_from_the_administrator() {
    let mut world = world();
    assert_eq!(world.modern("/mcp", "tools/list", json!({})).status, 503);
    let path = "/admin/v1/config";
    assert_eq!(send(&world, "PUT", path, "wrong-key-of-some-length", &config("a")).status, 401);
    let got = send(&world, "PUT", path, ADMIN, &config("a"));
    assert_eq!(got.json()["current"]["version"], 1);
    assert_eq!(tools(&world), ["a__t"]);
    assert_eq!(send(&world, "PUT", path, ADMIN, &config("b")).json()["current"]["version"], 2);
    assert_eq!(tools(&world), ["b__t"]);
    assert_eq!(
        send(&world, "POST", "/admin/v1/config/rollback", ADMIN, &json!({})).json()["current"]["version"],
        1
    );
    assert_eq!(tools(&world), ["a__t"]);
    let listed = send(&world, "GET", path, ADMIN, &Value::Null).json();
    assert_eq!(listed["versions"].as_array().unwrap().len(), 2);
    // Another instance finds it in the store.
    world.instance = Instance::unconfigured(String::new());
    assert_eq!(world.fake.run(causeway::admin::refresh(&world.fake, &world.instance)), Ok(true));
    assert_eq!(world.fake.run(causeway::admin::refresh(&world.fake, &world.instance)), Ok(false));
    assert_eq!(tools(&world), ["a__t"]);
}

#[test]
fn a_bad_configuration_is_refused_and_the_old_one_goes_on() {
    let world = world();
    send(&world, "PUT", "/admin/v1/config", ADMIN, &config("a"));
    let got =
        send(&world, "PUT", "/admin/v1/config", ADMIN, &json!({"mcpServers": {"x": {"url": "ftp://x"}}}));
    assert_eq!(got.status, 422);
    assert!(got.json()["detail"].as_str().unwrap().contains("mcpServers.x.url"), "{}", got.body);
    assert_eq!(tools(&world), ["a__t"]);
    let got = send(&world, "POST", "/admin/v1/config/rollback", ADMIN, &json!({"version": 9}));
    assert_eq!(got.status, 422);
}

#[test]
fn only_administrators_may_push() {
    let fake = Fake::default();
    let mut keyed = plan(vec![server("a")]);
    keyed.keys = vec![key("alice", Filter::default(), Filter::default())];
    let world = World::new(fake, keyed);
    assert_eq!(send(&world, "PUT", "/admin/v1/config", "alice-key", &config("a")).status, 403);
    assert_eq!(send(&world, "GET", "/admin/v1/config", "", &config("a")).status, 401);
}

#[test]
fn an_instance_starts_with_what_is_stored_or_else_bundled() {
    let world = world();
    let start = || world.fake.run(causeway::admin::start(&world.fake));
    let serves = |instance: &Instance| {
        instance.plan().map_or_else(|| instance.reason(), |plan| plan.servers[0].name.clone())
    };
    assert!(serves(&start()).contains("causeway push"));
    world.fake.set_secret("CAUSEWAY_CONFIG", "{");
    assert!(serves(&start()).contains("CAUSEWAY_CONFIG"));
    assert!(world.fake.logged().concat().contains("CAUSEWAY_CONFIG"));
    world.fake.set_secret("CAUSEWAY_CONFIG", &config("b").to_string());
    assert_eq!(serves(&start()), "b");
    send(&world, "PUT", "/admin/v1/config", ADMIN, &config("a"));
    world.fake.trace();
    assert_eq!(serves(&start()), "a");
    assert_eq!(world.fake.trace(), ["kv.read config/current", "kv.read config/v/1"]);
}

#[test]
fn the_first_request_of_an_instance_reads_the_configuration_and_later_ones_look_when_it_is_time() {
    let world = world();
    send(&world, "PUT", "/admin/v1/config", ADMIN, &config("a"));
    let (fake, pushed) = (&world.fake, Pushed::new());
    fake.trace();
    fake.run(pushed.gateway(fake.clone()));
    assert_eq!(fake.trace(), ["kv.read config/current", "kv.read config/v/1"]);
    let gateway = fake.run(pushed.gateway(fake.clone()));
    fake.run(gateway.look_if_due());
    assert_eq!(fake.trace(), [""; 0]);
    fake.pass(LOOK_EVERY);
    for looked in [&["kv.read config/current"][..], &[]] {
        fake.run(gateway.look_if_due());
        assert_eq!(fake.trace(), looked);
    }
}

#[test]
fn a_stored_configuration_that_cannot_be_read_is_logged_once_and_the_old_one_goes_on() {
    let world = world();
    send(&world, "PUT", "/admin/v1/config", ADMIN, &config("a"));
    world.fake.logged();
    let key_value = world.fake.key_value();
    world.fake.run(key_value.write("config/current", "nonsense".into())).unwrap();
    for _ in 0..2 {
        world.fake.pass(LOOK_EVERY);
        world.fake.run(causeway::admin::look(&world.fake, &world.instance));
    }
    assert_eq!(world.fake.logged().len(), 1);
    assert_eq!(tools(&world), ["a__t"]);
}

#[test]
fn an_older_pointer_is_no_news() {
    let world = world();
    let read = || world.fake.run(world.fake.key_value().read("config/current")).unwrap().unwrap();
    send(&world, "PUT", "/admin/v1/config", ADMIN, &config("a"));
    let old = read();
    send(&world, "PUT", "/admin/v1/config", ADMIN, &config("b"));
    world.fake.run(world.fake.key_value().write("config/current", old)).unwrap();
    assert_eq!(world.fake.run(causeway::admin::refresh(&world.fake, &world.instance)), Ok(false));
    assert_eq!(tools(&world), ["b__t"]);
}

#[test]
fn one_look_every_ten_seconds() {
    let world = world();
    let due = || world.instance.look_due(world.fake.clock().now());
    assert!(due());
    assert!(!due());
    world.fake.pass(LOOK_EVERY);
    assert!(due());
}
