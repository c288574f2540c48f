//! Every client era to every server era.

use causeway::testing::Fake;
use serde_json::json;

use crate::server::{Kind, put};
use crate::world::{World, plan, server};

fn world(kind: Kind) -> World {
    let fake = Fake::default();
    put(&fake, "a", kind, &["t"]);
    World::new(fake, plan(vec![server("a")]))
}

#[test]
fn a_modern_call_to_a_modern_server_costs_one_request_and_no_store() {
    let world = world(Kind::Modern);
    world.modern("/mcp", "tools/call", json!({"name": "a__t"}));
    let got = world.modern("/mcp", "tools/call", json!({"name": "a__t", "arguments": {"q": 1.50}}));
    assert_eq!(got.trace, ["http.send POST a tools/call"]);
    let result = &got.json()["result"];
    assert_eq!(result["echo"]["name"], "t");
    assert_eq!(result["echo"]["arguments"].to_string(), r#"{"q":1.5}"#);
    assert_eq!(result["headers"]["mcp-name"], "t");
    assert_eq!(result["headers"]["mcp-method"], "tools/call");
    assert_eq!(result["id"], 1);
}

#[test]
fn a_legacy_call_to_a_legacy_server_costs_one_request_and_no_store() {
    let world = world(Kind::Legacy);
    let (session, _) = world.initialize("/mcp");
    world.legacy("/mcp", &session, "tools/call", json!({"name": "a__t"}));
    let got = world.legacy("/mcp", &session, "tools/call", json!({"name": "a__t"}));
    assert_eq!(got.trace, ["http.send POST a tools/call [s2]"]);
    assert_eq!(got.json()["result"]["echo"], json!({"name": "t"}));
    assert_eq!(got.json()["id"], 1);
}

#[test]
fn a_legacy_client_calls_a_modern_server() {
    let world = world(Kind::Modern);
    let (session, got) = world.initialize("/mcp/a");
    assert_eq!(got.json()["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(got.json()["result"]["instructions"], "Be kind.");
    let got =
        world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t", "_meta": {"progressToken": 7}}));
    let echo = &got.json()["result"]["echo"]["_meta"];
    assert_eq!(echo["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(echo["io.modelcontextprotocol/clientInfo"]["name"], "c");
    assert_eq!(echo["io.modelcontextprotocol/clientCapabilities"], json!({"sampling": {}}));
    assert_eq!(echo["progressToken"], 7);
}

#[test]
fn a_modern_client_calls_a_legacy_server() {
    let world = world(Kind::Legacy);
    let got = world.modern("/mcp/a", "tools/call", json!({"name": "t"}));
    assert_eq!(got.status, 200, "{}", got.body);
    let got = world.modern("/mcp/a", "tools/call", json!({"name": "t"}));
    assert_eq!(got.trace, ["http.send POST a tools/call [s2]"]);
    let json = got.json();
    assert_eq!(json["result"]["resultType"], "complete");
    assert_eq!(json["id"], 1);
    assert_eq!(json["result"]["echo"]["_meta"], json!({}));
    let got = world.modern("/mcp/a", "tools/list", json!({}));
    assert_eq!(got.json()["result"]["cacheScope"], "private");
    let got = world.modern("/mcp/a", "server/discover", json!({}));
    assert_eq!(got.json()["result"]["capabilities"], json!({"tools": {}}));
    let got = world.modern("/mcp/a", "unheard/of", json!({}));
    assert_eq!(got.brief(), "404 -32601");
}

#[test]
fn a_server_of_both_eras_is_spoken_to_in_the_clients_own() {
    let world = world(Kind::Dual);
    let got = world.modern("/mcp", "tools/call", json!({"name": "a__t"}));
    assert_eq!(got.trace.last().unwrap(), "http.send POST a tools/call");
    let (session, _) = world.initialize("/mcp/a");
    let got = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    assert_eq!(got.trace, ["http.send POST a tools/call [s1]"]);
}

#[test]
fn a_server_that_changes_its_era_is_asked_again() {
    let world = world(Kind::Legacy);
    assert_eq!(world.modern("/mcp", "tools/call", json!({"name": "a__t"})).brief(), "200 ok");
    put(&world.fake, "a", Kind::Modern, &["t"]);
    assert_eq!(world.modern("/mcp", "tools/call", json!({"name": "a__t"})).brief(), "200 ok");
    put(&world.fake, "a", Kind::Legacy, &["t"]);
    assert_eq!(world.modern("/mcp", "tools/call", json!({"name": "a__t"})).brief(), "200 ok");
}

#[test]
fn a_server_without_session_ids_is_shared_with_ids_kept() {
    let world = world(Kind::Sessionless);
    let (session, _) = world.initialize("/mcp");
    world.legacy("/mcp", &session, "tools/call", json!({"name": "a__t"}));
    let got = world.legacy("/mcp", &session, "tools/call", json!({"name": "a__t"}));
    assert_eq!(got.trace, ["http.send POST a tools/call"]);
    assert_eq!(got.json()["result"]["id"], 1);
}
