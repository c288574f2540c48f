//! The gateway as a client, by the book: what it asks of servers, and what it makes of their refusals.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway::testing::{Fake, Script};
use serde_json::{Value, json};

use crate::world::{World, plan, server};

/// A server that refuses the version of its first `refusals` requests, saying that it speaks `supported`.
fn refusing(refusals: u64, supported: &'static [&'static str]) -> World {
    let fake = Fake::default();
    let asked = Arc::new(AtomicU64::new(0));
    fake.upstream("a", move |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        if asked.fetch_add(1, Ordering::Relaxed) < refusals {
            let data = json!({"supported": supported, "requested": "2026-07-28"});
            let error = json!({"code": -32022, "message": "Unsupported protocol version", "data": data});
            let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error});
            return Ok(Script::new(400, "application/json", body.to_string()));
        }
        let result = json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}}, "tools": [], "ttlMs": 60_000, "cacheScope": "public"});
        Ok(Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()))
    });
    World::new(fake, plan(vec![server("a")]))
}

#[test]
fn a_version_that_is_refused_and_listed_is_tried_again() {
    let world = refusing(1, &["2026-07-28"]);
    let got = world.modern("/mcp/a", "tools/list", json!({}));
    assert_eq!(got.brief(), "200 ok");
    let discover = "http.send POST a server/discover";
    assert_eq!(got.trace[..2], [discover, discover], "no initialize: the server is a modern one");

    let world = refusing(2, &["2026-07-28"]);
    let got = world.modern("/mcp/a", "tools/list", json!({}));
    assert_eq!(got.trace, [discover, discover], "and not for ever");
    assert!(got.json()["error"]["message"].as_str().unwrap().contains("-32022"), "{}", got.body);
}

#[test]
fn a_version_that_is_refused_is_left_for_one_that_both_speak() {
    let world = refusing(1, &["2025-11-25"]);
    let got = world.modern("/mcp/a", "tools/list", json!({}));
    assert_eq!(got.brief(), "200 ok");
    assert_eq!(got.trace[1], "http.send POST a initialize");

    let world = refusing(9, &["2031-01-01"]);
    let got = world.modern("/mcp/a", "tools/list", json!({}));
    assert_eq!(got.trace, ["http.send POST a server/discover"]);
    assert!(got.json()["error"]["message"].as_str().unwrap().contains("none of the protocol revisions"));
}

#[test]
fn a_server_that_has_lost_a_version_is_asked_again_what_it_speaks() {
    let world = refusing(0, &[]);
    assert_eq!(world.modern("/mcp/a", "tools/list", json!({})).brief(), "200 ok");
    let fake = &world.fake;
    fake.upstream("a", |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        let data = json!({"supported": ["2025-11-25"], "requested": "2026-07-28"});
        let error = json!({"code": -32022, "message": "Unsupported protocol version", "data": data});
        let result = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "prompts": []});
        let modern =
            request.headers().get("mcp-protocol-version").is_some_and(|version| version == "2026-07-28");
        let (status, member, value) = if modern { (400, "error", error) } else { (200, "result", result) };
        let body = json!({"jsonrpc": "2.0", "id": message["id"], member: value});
        Ok(Script::new(status, "application/json", body.to_string()))
    });
    assert_eq!(world.modern("/mcp/a", "prompts/list", json!({})).brief(), "200 ok");
}
