//! What every revision asks of a server, request by request.

use causeway::testing::Fake;
use serde_json::{Value, json};

use crate::server::{Kind, put};
use crate::world::{World, meta, plan, server};

fn world() -> World {
    let fake = Fake::default();
    put(&fake, "a", Kind::Modern, &["t"]);
    World::new(fake, plan(vec![server("a")]))
}

fn list() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta()}})
}

const MODERN: [(&str, &str); 2] = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];

fn check(headers: &[(&str, &str)], body: &Value, expect: &str) {
    let got = world().post("/mcp", headers, body);
    assert_eq!(got.brief(), expect, "{headers:?} {body} -> {}", got.body);
}

#[test]
fn headers_are_checked_before_the_body() {
    check(&[("accept", "text/html")], &list(), "406 -32600");
    check(&[("content-type", "text/plain")], &list(), "415 -32600");
    check(&[("origin", "http://evil.example")], &list(), "403 -32600");
    check(&[("host", "evil.example")], &list(), "403 -32600");
    check(&MODERN, &list(), "200 ok");
}

#[test]
fn modern_requests_must_say_who_they_are() {
    let mut body = list();
    body["params"]["_meta"] = json!({});
    check(&MODERN, &body, "400 -32602");
    body["params"] = json!({});
    check(&MODERN, &body, "400 -32602");
    check(&[("mcp-method", "tools/list")], &list(), "400 -32020");
    check(&[("mcp-protocol-version", "2026-07-28")], &list(), "400 -32020");
    check(&[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "TOOLS/LIST")], &list(), "400 -32020");
    check(&[("mcp-protocol-version", "2025-11-25"), ("mcp-method", "tools/list")], &list(), "400 -32020");
}

#[test]
fn unknown_versions_are_refused_with_the_ones_that_are_known() {
    let mut body = list();
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "1900-01-01".into();
    let got = world().post("/mcp", &[("mcp-protocol-version", "1900-01-01")], &body);
    assert_eq!(got.brief(), "400 -32022");
    assert_eq!(got.json()["error"]["data"]["requested"], "1900-01-01");
    assert_eq!(got.json()["error"]["data"]["supported"][0], "2026-07-28");
    assert_eq!(got.json()["id"], 1);
    let plain = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    check(&[("mcp-protocol-version", "1900-01-01")], &plain, "400 -32022");
}

#[test]
fn names_come_from_the_body_and_headers_must_agree() {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a__t", "_meta": meta()}});
    let with = |name: &str| {
        let headers =
            [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", name)];
        world().post("/mcp", &headers, &body).brief()
    };
    assert_eq!(with("a__t"), "200 ok");
    assert_eq!(with("a__other"), "400 -32020");
    assert_eq!(with("=?base64?YV9fdA==?="), "200 ok");
    check(&[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call")], &body, "400 -32020");
}

#[test]
fn methods_that_a_revision_lacks_are_unknown_there() {
    let world = world();
    for method in ["ping", "logging/setLevel", "resources/subscribe", "no/such"] {
        assert_eq!(world.modern("/mcp", method, json!({})).brief(), "404 -32601", "{method}");
    }
    let (session, _) = world.initialize("/mcp");
    assert_eq!(world.legacy("/mcp", &session, "ping", json!({})).brief(), "200 ok");
    assert_eq!(
        world.legacy("/mcp", &session, "logging/setLevel", json!({"level": "info"})).brief(),
        "200 ok"
    );
    assert_eq!(
        world.legacy("/mcp", &session, "logging/setLevel", json!({"level": "loud"})).brief(),
        "200 -32602"
    );
    assert_eq!(world.legacy("/mcp", &session, "server/discover", json!({})).brief(), "200 -32601");
    assert_eq!(world.legacy("/mcp", &session, "no/such", json!({})).brief(), "200 -32601");
}

#[test]
fn notifications_and_responses_are_taken_with_202() {
    let world = world();
    let (session, _) = world.initialize("/mcp");
    let headers = [("mcp-session-id", session.as_str())];
    let status = |body: Value| world.post("/mcp", &headers, &body).status;
    assert_eq!(status(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})), 202);
    assert_eq!(status(json!({"jsonrpc": "2.0", "id": 5, "result": {}})), 202);
    assert_eq!(
        world.post("/mcp", &[], &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).status,
        400
    );
    let modern = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "_meta": meta()}});
    assert_eq!(world.post("/mcp", &MODERN, &modern).status, 202);
}

#[test]
fn bodies_that_are_no_messages_are_refused_with_the_id_if_there_is_one() {
    let world = world();
    let send = |body: &'static str| {
        let request = http::Request::post("/mcp")
            .header("host", "localhost")
            .header("content-type", "application/json");
        let got = world.send(request.body(body.into()).unwrap());
        (got.brief(), got.json()["id"].to_string())
    };
    assert_eq!(send("{"), ("400 -32700".to_owned(), "null".to_owned()));
    assert_eq!(send(""), ("400 -32700".to_owned(), "null".to_owned()));
    assert_eq!(send("[]"), ("400 -32600".to_owned(), "null".to_owned()));
    assert_eq!(send(r#"{"id":7,"method":"ping"}"#), ("400 -32600".to_owned(), "7".to_owned()));
    assert_eq!(send(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#).0, "400 -32600");
}

#[test]
fn bodies_beyond_the_limit_are_refused() {
    let fake = Fake::default();
    let mut small = plan(vec![]);
    small.limits.body = 100;
    let world = World::new(fake, small);
    let got = world.post("/mcp", &[], &json!({"jsonrpc": "2.0", "id": 1, "method": "x".repeat(100)}));
    assert_eq!(got.status, 413);
}

#[test]
fn batches_are_taken_where_the_revision_has_them() {
    let world = world();
    let open = |version: &str| {
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}});
        world.post("/mcp", &[], &body).header("mcp-session-id").to_owned()
    };
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "a__t"}},
        {"jsonrpc": "2.0", "id": 3, "method": "no/such"},
    ]);
    let old = open("2025-03-26");
    let got = world.post("/mcp", &[("mcp-session-id", &old)], &batch);
    let ids: Vec<i64> = got.json().as_array().unwrap().iter().map(|r| r["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3]);
    let only = json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}]);
    assert_eq!(world.post("/mcp", &[("mcp-session-id", &old)], &only).status, 202);
    let new = open("2025-06-18");
    assert_eq!(world.post("/mcp", &[("mcp-session-id", &new)], &batch).brief(), "400 -32600");
}

#[test]
fn places_and_methods_that_are_not_here_are_named() {
    let world = world();
    let get = |path: &str| {
        world.send(
            http::Request::get(path)
                .header("host", "localhost")
                .header("accept", "text/event-stream")
                .body(bytes::Bytes::new())
                .unwrap(),
        )
    };
    assert_eq!(get("/nowhere").status, 404);
    assert_eq!(get("/nowhere").header("content-type"), "application/problem+json");
    assert_eq!(get("/mcp").brief(), "400 -32600", "a stream belongs to a session");
    let put = http::Request::put("/mcp").header("host", "localhost").body(bytes::Bytes::new()).unwrap();
    let put = world.send(put);
    assert_eq!((put.status, put.header("allow")), (405, "POST, GET, DELETE"));
    assert_eq!(get("/mcp/none").status, 404);
    assert_eq!(get("/health").json(), json!({"status": "ok"}));
    assert_eq!(get("/ready").json(), json!({"status": "ready"}));
    assert!(!get("/health").header("x-request-id").is_empty());
}

#[test]
fn without_keys_nothing_is_served_to_others() {
    let fake = Fake::default().public();
    let world = World::new(fake, plan(vec![]));
    assert_eq!(world.post("/mcp", &[], &list()).status, 503);
}

#[test]
fn logs_tell_who_asked_what_and_never_with_what() {
    let world = world();
    world.modern("/mcp", "tools/call", json!({"name": "a__t", "arguments": {"password": "hunter2"}}));
    let lines = world.fake.logged();
    let record: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(record["server"], "a");
    assert_eq!(record["name"], "t");
    assert_eq!(record["outcome"], "ok");
    assert!(!lines[0].contains("hunter2"));
}
