//! Servers that fit their lists to what the client can do.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use causeway::testing::{Fake, Script};
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{capable, in_session, open};
use crate::world::{World, modern, plan, server};

const UI: &str = "io.modelcontextprotocol/ui";

/// What a server was asked: the number of its session, if it has any, and the method.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server whose tools are `t`, one for each thing that the client can be asked, and one for each extension that it has.
fn fitting(fake: &Fake, host: &str, is_modern: bool, fits: bool) -> Asked {
    let asked: Asked = Arc::default();
    let log = asked.clone();
    let sessions: Mutex<Vec<Value>> = Mutex::default();
    fake.upstream(host, move |request: &Request<Bytes>| {
        if request.method() != "POST" {
            return Ok(Script::new(405, "text/plain", ""));
        }
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        let of_request = &message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
        if of_request.is_object() != is_modern && message.get("id").is_some() {
            return Ok(Script::new(400, "text/plain", ""));
        }
        let mut sessions = sessions.lock().unwrap();
        let number = request.headers().get("mcp-session-id").map(|id| id.to_str().unwrap().parse::<usize>().unwrap());
        let able = if is_modern { of_request.clone() } else { number.map_or(Value::Null, |n| sessions[n].clone()) };
        if message.get("id").is_some() {
            log.lock().unwrap().push(format!("{} {}", number.map_or(String::new(), |n| n.to_string()), message["method"].as_str().unwrap()));
        }
        let script = |result: Value| Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string());
        Ok(match message["method"].as_str().unwrap() {
            "server/discover" => script(json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 60000, "cacheScope": "public"})),
            "initialize" => {
                sessions.push(message["params"]["capabilities"].clone());
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}});
                script(result).header("mcp-session-id", &(sessions.len() - 1).to_string())
            }
            "tools/list" => {
                let mut names = vec!["t".to_owned()];
                if fits {
                    names.extend(["sampling", "elicitation", "roots"].into_iter().filter(|name| able[name].is_object()).map(str::to_owned));
                    names.extend(able["extensions"].as_object().into_iter().flatten().map(|(name, _)| name.rsplit('/').next().unwrap().to_owned()));
                }
                let tools: Vec<Value> = names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
                script(json!({"tools": tools, "resultType": "complete", "ttlMs": 60000, "cacheScope": "public"}))
            }
            "tools/call" => script(json!({"content": [], "resultType": "complete"})),
            _ => Script::new(202, "text/plain", ""),
        })
    });
    asked
}

fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<String> = list["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// The tools that a client of either era is shown that has these capabilities.
fn shown(world: &World, path: &str, capabilities: &Value) -> Vec<String> {
    let request = modern(path, &[], "tools/list", json!({}));
    let (parts, body) = request.into_parts();
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities.clone();
    let new = names(&world.send(Request::from_parts(parts, body.to_string().into())).json());
    let session = open(world, path, capabilities);
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let old = names(&world.send(in_session(path, &session, &list)).json());
    assert_eq!(new, old, "{capabilities}");
    new
}

#[test]
fn the_merged_list_is_what_servers_offer_to_a_client_like_this_one() {
    for modern in [false, true] {
        let fake = Fake::default();
        fitting(&fake, "a", modern, true);
        let world = World::new(fake, plan(vec![server("a")]));
        let check = |capabilities: Value, expect: &[&str]| {
            let expect: Vec<String> = expect.iter().map(|name| format!("a__{name}")).collect();
            assert_eq!(shown(&world, "/mcp", &capabilities), expect, "modern {modern}: {capabilities}");
        };
        check(json!({}), &["t"]);
        check(capable(), &["elicitation", "roots", "sampling", "t"]);
        check(json!({"roots": {"listChanged": true}}), &["roots", "t"]);
        check(json!({"sampling": {}, "extensions": {UI: {"mimeTypes": ["m"]}}}), &["sampling", "t", "ui"]);
        check(json!({}), &["t"]);
    }
}

#[test]
fn a_server_that_offers_everybody_the_same_is_asked_twice_and_no_more() {
    let fake = Fake::default();
    let asked = fitting(&fake, "a", false, false);
    let world = World::new(fake, plan(vec![server("a")]));
    for capabilities in [json!({}), capable(), json!({"roots": {}}), json!({"extensions": {UI: {}}})] {
        assert_eq!(shown(&world, "/mcp", &capabilities), ["a__t"]);
    }
    let asked = asked.lock().unwrap().clone();
    let of = |method: &str| asked.iter().filter(|line| line.ends_with(method)).cloned().collect::<Vec<_>>();
    assert_eq!(of("tools/list"), ["0 tools/list", "1 tools/list"]);
    assert_eq!(of("initialize").len(), 2);
}

#[test]
fn clients_that_can_do_the_same_share_a_list_and_its_session() {
    let fake = Fake::default();
    let asked = fitting(&fake, "a", false, true);
    let world = World::new(fake, plan(vec![server("a")]));
    for capabilities in [
        json!({"roots": {}}),
        json!({"roots": {"listChanged": true}}),
        json!({"roots": {}, "experimental": {"x": {}}}),
    ] {
        assert_eq!(shown(&world, "/mcp", &capabilities), ["a__roots", "a__t"]);
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(
        asked.iter().filter(|line| line.ends_with("tools/list")).count(),
        3,
        "all, none, and these: {asked:?}"
    );
    assert_eq!(asked.iter().filter(|line| line.ends_with("initialize")).count(), 3);
}

#[test]
fn a_tool_that_is_only_offered_to_clients_like_this_one_can_be_called() {
    let fake = Fake::default();
    fitting(&fake, "a", true, true);
    let world = World::new(fake, plan(vec![server("a")]));
    let call = |name: &str, capabilities: &Value| {
        let request = modern("/mcp", &[], "tools/call", json!({"name": name}));
        let (parts, body) = request.into_parts();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities.clone();
        world.send(Request::from_parts(parts, body.to_string().into())).brief()
    };
    assert_eq!(call("a__ui", &json!({"extensions": {UI: {}}})), "200 ok");
    assert_eq!(call("a__nothing", &json!({"extensions": {UI: {}}})), "200 -32602");
}
