//! Pushing configurations.

use causeway::config::glob::Filter;
use causeway::instance::Instance;
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
