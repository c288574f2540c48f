//! User interfaces of servers at the merged endpoint.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use causeway::testing::{Fake, Script};
use http::Request;
use serde_json::{Value, json};

use crate::world::{World, modern, plan, server};

const UI: &str = "io.modelcontextprotocol/ui";

/// A modern server whose tool `show` has the interface `uri`, which it does not list. What was asked for is kept.
fn showing(fake: &Fake, host: &'static str, uri: &'static str) -> Arc<Mutex<Vec<String>>> {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    fake.upstream(host, move |request: &Request<Bytes>| {
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        let params = &message["params"];
        let mut result = match message["method"].as_str().unwrap() {
            "server/discover" => {
                json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}, "resources": {}}})
            }
            "tools/list" => {
                let meta = json!({"ui": {"resourceUri": uri, "visibility": ["model", "app"]}, "ui/resourceUri": uri});
                json!({"tools": [
                    {"name": "show", "inputSchema": {"type": "object"}, "_meta": meta},
                    {"name": host, "inputSchema": {"type": "object"}},
                    {"name": "both", "inputSchema": {"type": "object"}},
                ]})
            }
            "resources/list" => json!({"resources": []}),
            "resources/templates/list" => json!({"resourceTemplates": []}),
            "resources/read" => {
                log.lock().unwrap().push(params["uri"].as_str().unwrap().to_owned());
                json!({"contents": [{"uri": params["uri"], "mimeType": "text/html;profile=mcp-app", "text": host}]})
            }
            "tools/call" => json!({"content": [], "called": params["name"]}),
            _ => return Ok(Script::new(404, "text/plain", "")),
        };
        result["resultType"] = "complete".into();
        result["ttlMs"] = 60_000.into();
        result["cacheScope"] = "public".into();
        Ok(Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()))
    });
    asked
}

fn world(names: &[(&'static str, &'static str)]) -> World {
    let fake = Fake::default();
    for (host, uri) in names {
        showing(&fake, host, uri);
    }
    World::new(fake, plan(names.iter().map(|(name, _)| server(name)).collect()))
}

/// The interface that the tool `name` of the endpoint names, in both places.
fn pointer(world: &World, path: &str, name: &str) -> String {
    let list = world.modern(path, "tools/list", json!({})).json();
    let tools = list["result"]["tools"].as_array().unwrap().clone();
    let tool = tools.iter().find(|tool| tool["name"] == name).unwrap();
    assert_eq!(tool["_meta"]["ui"]["resourceUri"], tool["_meta"]["ui/resourceUri"]);
    assert_eq!(tool["_meta"]["ui"]["visibility"], json!(["model", "app"]), "the rest stays as it is");
    tool["_meta"]["ui"]["resourceUri"].as_str().unwrap().to_owned()
}

fn read(world: &World, path: &str, uri: &str) -> Value {
    let got = world.modern(path, "resources/read", json!({"uri": uri})).json();
    got["result"]["contents"][0]["text"].clone()
}

#[test]
fn what_a_tool_names_can_be_read_where_the_tool_is_offered() {
    let mut world = world(&[("a", "ui://view"), ("b", "ui://other/view.html"), ("c", "ui://view")]);
    assert_eq!(pointer(&world, "/mcp", "a__show"), "ui://view");
    assert_eq!(pointer(&world, "/mcp", "b__show"), "ui://other/view.html");
    assert_eq!(pointer(&world, "/mcp", "c__show"), "ui://c+view", "a's is called the same");
    let at = [("ui://view", "a"), ("ui://other/view.html", "b"), ("ui://c+view", "c"), ("ui://a+view", "a")];
    for (uri, owner) in at {
        assert_eq!(read(&world, "/mcp", uri), owner, "{uri}");
        world.restart();
        assert_eq!(read(&world, "/mcp", uri), owner, "{uri}, by an instance that knows nothing");
    }
    let got = world.modern("/mcp", "resources/read", json!({"uri": "ui://nobody"}));
    assert_eq!(got.brief(), "200 -32602");
    assert_eq!(pointer(&world, "/mcp/c", "show"), "ui://view", "one server is as it is");
    assert_eq!(read(&world, "/mcp/c", "ui://view"), "c");
}

#[test]
fn what_the_server_is_asked_for_is_its_own_name() {
    let fake = Fake::default();
    showing(&fake, "a", "ui://view");
    let asked = showing(&fake, "b", "ui://view");
    let world = World::new(fake, plan(vec![server("a"), server("b")]));
    read(&world, "/mcp", "ui://b+view");
    assert_eq!(*asked.lock().unwrap(), ["ui://view"]);
}

#[test]
fn an_interface_calls_the_tools_of_its_server_by_their_own_names() {
    let world = world(&[("a", "ui://view"), ("b", "ui://view")]);
    world.modern("/mcp", "tools/list", json!({}));
    let call = |name: &str, able: Value| {
        let (parts, body) = modern("/mcp", &[], "tools/call", json!({"name": name})).into_parts();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = able;
        world.send(Request::from_parts(parts, body.to_string().into()))
    };
    let ui = json!({"extensions": {UI: {"mimeTypes": ["text/html;profile=mcp-app"]}}});
    assert_eq!(call("a__show", ui.clone()).json()["result"]["called"], "show");
    assert_eq!(call("b", ui.clone()).json()["result"]["called"], "b");
    assert_eq!(call("both", ui).brief(), "200 -32602", "two servers have it");
    assert_eq!(
        call("b", json!({})).brief(),
        "200 -32602",
        "a client without interfaces calls what it is shown"
    );
}
