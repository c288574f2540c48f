//! Merged lists.

use causeway::config::glob::Filter;
use causeway::config::plan::Override;
use causeway::testing::Fake;
use serde_json::{Value, json};
use std::time::Duration;

use crate::server::{Kind, put, put_dead};
use crate::world::{Got, World, globs, key, plan, server};

fn names(got: &Got) -> Vec<String> {
    let json = got.json();
    json["result"]["tools"]
        .as_array()
        .unwrap_or_else(|| panic!("{json}"))
        .iter()
        .map(|t| t["name"].as_str().unwrap().to_owned())
        .collect()
}

fn three() -> World {
    let fake = Fake::default();
    put(&fake, "a", Kind::Modern, &["x", "y"]);
    put(&fake, "b", Kind::Legacy, &["x"]);
    put(&fake, "c", Kind::Sessionless, &["z"]);
    World::new(fake, plan(vec![server("a"), server("b"), server("c")]))
}

#[test]
fn tools_of_every_server_are_listed_in_the_order_of_the_plan() {
    let world = three();
    let got = world.modern("/mcp", "tools/list", json!({}));
    assert_eq!(names(&got), ["a__x", "a__y", "b__x", "c__z"]);
    assert!(got.body.contains("\"x\":1.5"), "unknown fields survive");
    assert_eq!(got.json()["result"]["resultType"], "complete");
    let again = world.modern("/mcp", "tools/list", json!({}));
    assert_eq!(again.trace, [""; 0], "served from memory");
    assert_eq!(again.json()["result"]["tools"], got.json()["result"]["tools"]);
    let (session, _) = world.initialize("/mcp");
    let legacy = world.legacy("/mcp", &session, "tools/list", json!({}));
    assert_eq!(legacy.json()["result"]["ttlMs"], Value::Null);
    assert_eq!(names(&legacy), names(&got));
}

#[test]
fn a_dead_server_takes_nothing_from_the_others_and_heals_by_itself() {
    let world = three();
    put_dead(&world.fake, "b");
    let got = world.modern("/mcp", "tools/list", json!({}));
    assert_eq!(names(&got), ["a__x", "a__y", "c__z"]);
    assert_eq!(got.json()["result"]["ttlMs"], 0, "an incomplete list is not kept");
    let request =
        http::Request::get("/status").header("host", "localhost").body(bytes::Bytes::new()).unwrap();
    let status = world.send(request).json();
    assert_eq!(status["servers"][1]["state"], "down");
    assert!(status["servers"][1]["last_error"].as_str().unwrap().contains("connection refused"));
    put(&world.fake, "b", Kind::Legacy, &["x"]);
    world.fake.pass(Duration::from_secs(4));
    assert_eq!(names(&world.modern("/mcp", "tools/list", json!({}))).len(), 4);
}

#[test]
fn a_list_that_has_passed_its_time_is_served_and_renewed_behind_the_reply() {
    let world = three();
    world.modern("/mcp", "tools/list", json!({}));
    put(&world.fake, "a", Kind::Modern, &["new"]);
    world.fake.pass(Duration::from_secs(61));
    let stale = world.modern("/mcp", "tools/list", json!({}));
    assert_eq!(names(&stale).len(), 4);
    assert_eq!(stale.trace, [""; 0]);
    assert_eq!(names(&world.modern("/mcp", "tools/list", json!({}))), ["a__new", "b__x", "c__z"]);
}

#[test]
fn what_a_key_may_not_call_it_does_not_see() {
    let mut world = three();
    let mut keyed = plan(vec![server("a"), server("b"), server("c")]);
    keyed.keys = vec![
        key("alice", globs(&["a", "b"]), globs(&["*__x"])),
        key("bob", Filter::default(), Filter::default()),
    ];
    world = World::new(world.fake, keyed);
    let list = |key: &str, path: &str| {
        names(&world.modern_with(path, &[("x-api-key", key)], "tools/list", json!({})))
    };
    assert_eq!(list("alice-key", "/mcp"), ["a__x", "b__x"]);
    assert_eq!(list("bob-key", "/mcp").len(), 4);
    assert_eq!(list("alice-key", "/mcp/a"), ["x"]);
    let call = |path: &str, name: &str| {
        world.modern_with(path, &[("x-api-key", "alice-key")], "tools/call", json!({"name": name})).brief()
    };
    assert_eq!(call("/mcp", "a__x"), "200 ok");
    assert_eq!(call("/mcp", "a__y"), "200 -32602");
    assert_eq!(call("/mcp", "c__z"), "200 -32602");
    assert_eq!(call("/mcp/a", "y"), "200 -32602");
    assert_eq!(call("/mcp/c", "z").split(' ').next(), Some("404"));
}

#[test]
fn tools_are_renamed_described_and_hidden_as_configured() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Modern, &["x", "y"]);
    let mut a = server("a");
    a.prefix = "p".to_owned();
    a.overrides.insert(
        "x".to_owned(),
        Override {
            rename: Some("search".to_owned()),
            description: Some("Finds \"it\".".to_owned()),
            hide: false,
        },
    );
    a.overrides.insert("y".to_owned(), Override { hide: true, ..Override::default() });
    let world = World::new(fake, plan(vec![a]));
    let got = world.modern("/mcp", "tools/list", json!({}));
    assert_eq!(names(&got), ["p__search"]);
    assert_eq!(got.json()["result"]["tools"][0]["description"], "Finds \"it\".");
    let call = |path: &str, name: &str| world.modern(path, "tools/call", json!({"name": name}));
    assert_eq!(call("/mcp", "p__search").json()["result"]["echo"]["name"], "x");
    assert_eq!(call("/mcp/a", "search").json()["result"]["echo"]["name"], "x");
    assert_eq!(call("/mcp", "p__x").brief(), "200 -32602");
    assert_eq!(call("/mcp", "p__y").brief(), "200 -32602");
    assert_eq!(call("/mcp/a", "x").brief(), "200 -32602");
    assert_eq!(names(&world.modern("/mcp/a", "tools/list", json!({}))), ["search"]);
}

#[test]
fn long_and_odd_names_are_shortened_and_still_found() {
    let fake = Fake::default();
    put(
        &fake,
        "a",
        Kind::Modern,
        &["odd.name", "a_very_long_name_that_goes_on_and_on_and_on_beyond_what_any_model_takes"],
    );
    let world = World::new(fake, plan(vec![server("a")]));
    let listed = names(&world.modern("/mcp", "tools/list", json!({})));
    assert!(listed.iter().all(|name| name.len() <= 64 && !name.contains('.')));
    let got = world.modern("/mcp", "tools/call", json!({"name": listed[0]}));
    assert_eq!(got.json()["result"]["echo"]["name"], "odd.name");
}

#[test]
fn long_lists_come_in_pages() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Modern, &["t0", "t1", "t2", "t3", "t4"]);
    let mut paged = plan(vec![server("a")]);
    paged.limits.page = 2;
    let world = World::new(fake, paged);
    let first = world.modern("/mcp", "tools/list", json!({}));
    assert_eq!(names(&first), ["a__t0", "a__t1"]);
    let cursor = first.json()["result"]["nextCursor"].clone();
    let second = world.modern("/mcp", "tools/list", json!({"cursor": cursor}));
    assert_eq!(names(&second), ["a__t2", "a__t3"]);
    let cursor = second.json()["result"]["nextCursor"].clone();
    let third = world.modern("/mcp", "tools/list", json!({"cursor": cursor}));
    assert_eq!(names(&third), ["a__t4"]);
    assert_eq!(third.json()["result"]["nextCursor"], Value::Null);
    assert_eq!(world.modern("/mcp", "tools/list", json!({"cursor": "made up"})).brief(), "200 -32602");
}

#[test]
fn handshakes_tell_of_every_server() {
    let world = three();
    let (_, got) = world.initialize("/mcp");
    let result = &got.json()["result"];
    assert_eq!(result["capabilities"], json!({"tools": {}}));
    let text = result["instructions"].as_str().unwrap();
    assert!(
        text.contains("## a ")
            && text.contains("Be kind.")
            && text.contains("## b ")
            && text.contains("Be quick.")
    );
    let got = world.modern("/mcp", "server/discover", json!({}));
    assert_eq!(got.json()["result"]["supportedVersions"][0], "2026-07-28");
    assert_eq!(got.json()["result"]["instructions"].as_str(), Some(text));
}

#[test]
fn a_server_that_hangs_does_not_hold_up_what_others_have() {
    let fake = Fake::default();
    let hang = Duration::from_secs(50);
    fake.upstream("a", move |_| {
        Ok(causeway::testing::Script { delay: hang, ..causeway::testing::Script::json("{}") })
    });
    put(&fake, "b", Kind::Modern, &["x"]);
    let mut quick = plan(vec![server("a"), server("b")]);
    quick.limits.merge_deadline = Duration::from_secs(2);
    let world = World::new(fake, quick);
    let took = |ask: &dyn Fn() -> Got| {
        let before = causeway::platform::Clock::now(&world.fake);
        ask();
        causeway::platform::Clock::now(&world.fake).since(before)
    };
    let read = || world.modern("/mcp", "resources/read", json!({"uri": "test://none"}));
    assert!(
        took(&read) <= Duration::from_secs(8),
        "two lists and what the servers are, each within the deadline"
    );
    assert!(took(&|| world.modern("/mcp", "tools/call", json!({"name": "b__x"}))) < Duration::from_secs(1));
    assert!(took(&|| world.initialize("/mcp").1) < Duration::from_secs(1), "it failed just now");
}
