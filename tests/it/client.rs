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

/// A modern server whose tool `t` wants the argument `region` mirrored into `Mcp-Param-` + the n-th of `names`, where
/// n is what the counter says; it refuses a call that does otherwise.
fn mirroring(names: &'static [&'static str]) -> (World, Arc<AtomicU64>) {
    let fake = Fake::default();
    let version = Arc::new(AtomicU64::new(0));
    let counter = version.clone();
    fake.upstream("a", move |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        let name = names[usize::try_from(version.load(Ordering::Relaxed)).unwrap()];
        let property = |header: &str| json!({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": header}}});
        let header = format!("mcp-param-{}", name.to_lowercase());
        let given = request.headers().get(header.as_str()).and_then(|value| value.to_str().ok());
        let call = message["method"] == "tools/call";
        if call && given != message["params"]["arguments"]["region"].as_str() {
            let error = json!({"code": -32020, "message": "header mismatch"});
            let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error});
            return Ok(Script::new(400, "application/json", body.to_string()));
        }
        let tools = json!([{"name": "t", "inputSchema": property(name)}, {"name": "bad", "inputSchema": property("a b")}]);
        let result = json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
            "tools": tools, "ttlMs": 3_600_000, "cacheScope": "public", "content": []});
        Ok(Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()))
    });
    (World::new(fake, plan(vec![server("a")])), counter)
}

const CALL: &str = "http.send POST a tools/call";
const LIST: &str = "http.send POST a tools/list";

#[test]
fn a_tool_that_wants_other_headers_is_called_again_by_its_new_definition() {
    let (world, version) = mirroring(&["Region", "Zone"]);
    let (session, _) = world.initialize("/mcp/a");
    let call =
        || world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t", "arguments": {"region": "é"}}));
    assert_eq!(call().brief(), "200 -32020", "é is not sent as it is, which is all this server understands");
    let call = || {
        world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t", "arguments": {"region": "eu"}}))
    };
    assert_eq!(call().brief(), "200 ok");
    version.store(1, Ordering::Relaxed);
    let got = call();
    assert_eq!(got.brief(), "200 ok", "{}", got.body);
    assert_eq!(got.trace, [CALL, LIST, CALL]);
    assert_eq!(call().trace, [CALL]);
}

#[test]
fn a_client_that_knows_a_newer_definition_than_the_gateway_is_believed() {
    let (world, version) = mirroring(&["Region", "Zone"]);
    let params = json!({"name": "t", "arguments": {"region": "eu"}});
    let call = |header| world.modern_with("/mcp/a", &[(header, "eu")], "tools/call", params.clone());
    assert_eq!(call("mcp-param-region").brief(), "200 ok");
    assert_eq!(call("mcp-param-zone").trace, [""; 0], "a list that has just been read is not doubted");
    version.store(1, Ordering::Relaxed);
    world.fake.pass(std::time::Duration::from_secs(2));
    let got = call("mcp-param-zone");
    assert_eq!(got.brief(), "200 ok");
    assert_eq!(got.trace, [LIST, CALL]);
    version.store(0, Ordering::Relaxed);
    let got = call("mcp-param-zone");
    assert_eq!(
        (got.brief().as_str(), &got.trace[..]),
        ("400 -32020", &[CALL.to_owned(), LIST.to_owned()][..])
    );
    assert_eq!(call("mcp-param-region").brief(), "200 ok", "the server's refusal has renewed the list");
}

#[test]
fn a_tool_whose_definition_is_invalid_cannot_be_called() {
    let (world, _) = mirroring(&["Region"]);
    let call = json!({"name": "bad", "arguments": {"region": "eu"}});
    let (session, _) = world.initialize("/mcp/a");
    assert_eq!(world.legacy("/mcp/a", &session, "tools/call", call.clone()).brief(), "200 -32602");
    let got = world.modern("/mcp/a", "tools/call", call.clone());
    assert_eq!((got.brief().as_str(), &got.trace[..]), ("200 -32602", &[][..]));
    assert_eq!(world.modern("/mcp", "tools/call", json!({"name": "a__bad"})).brief(), "200 -32602");
    let got = world.modern("/mcp/a", "tools/list", json!({}));
    assert_eq!(got.json()["result"]["tools"].as_array().unwrap().len(), 1);
}
