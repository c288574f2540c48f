//! Clients that never send back the session id that they were given.

use causeway::config::glob::Filter;
use causeway::config::plan::Plan;
use causeway::testing::Fake;
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{FORM, asking, capable, form, last, messages, modern_asking};
use crate::server::{Kind, put};
use crate::world::{World, key, plan, server};

fn lenient(names: &[&str]) -> Plan {
    Plan { lenient: true, ..plan(names.iter().map(|name| server(name)).collect()) }
}

const AGENT: (&str, &str) = ("user-agent", "forgetful/1");

/// A message without a session id, by a client of this name.
fn bare(path: &str, headers: &[(&str, &str)], body: &Value) -> Request<bytes::Bytes> {
    let mut request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.to_string().into()).unwrap()
}

fn ask(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn hello(capabilities: &Value) -> Value {
    let info = json!({"name": "forgetful", "version": "1"});
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": info});
    ask("initialize", &params)
}

#[test]
fn without_the_switch_they_are_told_what_is_missing_and_what_to_do() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Legacy, &["t"]);
    let world = World::new(fake, plan(vec![server("a")]));
    for path in ["/mcp", "/mcp/a"] {
        world.send(bare(path, &[AGENT], &hello(&json!({}))));
        let got = world.send(bare(path, &[AGENT], &ask("tools/list", &json!({}))));
        assert_eq!(got.brief(), "400 -32600");
        let message = got.json()["error"]["message"].to_string();
        assert!(message.contains("Mcp-Session-Id") && message.contains("sessions.lenient"), "{message}");
    }
}

#[test]
fn what_they_send_goes_over_one_session_for_each_caller_endpoint_and_kind_of_client() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Legacy, &["t"]);
    let mut config = lenient(&["a"]);
    config.keys = ["ann", "bob"].map(|name| key(name, Filter::default(), Filter::default())).into();
    let mut world = World::new(fake, config);
    let over = |world: &World, path: &str, who: &str, agent: &str| {
        let name = if path == "/mcp" { "a__t" } else { "t" };
        let headers = [("x-api-key", who), ("user-agent", agent)];
        let got = world.send(bare(path, &headers, &ask("tools/call", &json!({"name": name}))));
        assert_eq!(got.brief(), "200 ok", "{}", got.body);
        assert_eq!(got.json()["id"], 1);
        let told = got.json()["result"]["headers"]["mcp-session-id"].as_str().unwrap().to_owned();
        (told, got.json()["result"]["id"].clone())
    };
    let first = over(&world, "/mcp/a", "ann-key", "x/1");
    let again = over(&world, "/mcp/a", "ann-key", "x/1");
    assert_eq!(first.0, again.0);
    assert_ne!(first.1, again.1, "two clients may both count from one: the server is given other ids");
    let others = [("/mcp/a", "bob-key", "x/1"), ("/mcp/a", "ann-key", "y/1"), ("/mcp", "ann-key", "x/1")];
    for (path, who, agent) in others {
        assert_ne!(over(&world, path, who, agent).0, first.0, "{path} {who} {agent}");
    }
    world.restart();
    assert_eq!(over(&world, "/mcp/a", "ann-key", "x/1").0, first.0, "and after a restart");
    let told: Vec<String> =
        world.fake.logged().into_iter().filter(|line| line.contains("session.lenient")).collect();
    assert_eq!(told.len(), 3, "once for each caller and instance: {told:?}");
}

#[test]
fn what_they_said_of_themselves_is_remembered_until_they_say_otherwise() {
    let fake = Fake::default();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (log, sessions) = (seen.clone(), std::sync::atomic::AtomicU64::new(0));
    fake.upstream("a", move |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        if message["method"] == "initialize" {
            log.lock().unwrap().push(message["params"].clone());
        }
        Ok(crate::server::answer(request, Kind::Legacy, &["t"], &sessions))
    });
    let mut world = World::new(fake, lenient(&["a"]));
    let call = ask("tools/call", &json!({"name": "a__t"}));
    let told = || seen.lock().unwrap().last().unwrap().clone();
    assert_eq!(world.send(bare("/mcp", &[AGENT], &call)).brief(), "200 ok");
    assert_eq!(told()["capabilities"], json!({}), "nothing is known of it");
    assert_eq!(told()["protocolVersion"], "2025-03-26");

    world.send(bare("/mcp", &[AGENT], &hello(&capable())));
    world.restart();
    assert_eq!(world.send(bare("/mcp", &[AGENT], &call)).brief(), "200 ok");
    assert_eq!(told()["capabilities"], capable());
    assert_eq!(told()["clientInfo"]["name"], "forgetful");
    assert_eq!(told()["protocolVersion"], "2025-06-18");

    let before = seen.lock().unwrap().len();
    world.send(bare("/mcp", &[AGENT], &hello(&capable())));
    let got = world.send(bare("/mcp", &[AGENT], &call));
    assert_eq!(seen.lock().unwrap().len(), before, "it has said nothing new");
    let held = got.trace.last().unwrap().clone();

    world.send(bare("/mcp", &[AGENT], &hello(&json!({"roots": {}}))));
    let held = held.replace("POST a tools/call", "DELETE a -");
    assert!(world.fake.trace().contains(&held), "what was opened for another client is ended");
    assert_eq!(world.send(bare("/mcp", &[AGENT], &call)).brief(), "200 ok");
    assert_eq!(told()["capabilities"], json!({"roots": {}}));

    let end = Request::delete("/mcp").header("host", "localhost").header(AGENT.0, AGENT.1);
    assert_eq!(world.send(end.body(bytes::Bytes::new()).unwrap()).status, 204);
    assert_eq!(world.send(bare("/mcp", &[AGENT], &call)).brief(), "200 ok", "it can always begin anew");
    assert_eq!(told()["capabilities"], json!({}));
}

#[test]
fn they_are_asked_in_the_middle_of_a_call_and_answer_without_an_id() {
    for (path, name) in [("/mcp/a", "t"), ("/mcp", "a__t")] {
        for modern in [false, true] {
            let fake = Fake::default();
            if modern {
                modern_asking(&fake, "a", 1);
            } else {
                asking(&fake, "a", vec![form()]);
            }
            let world = World::new(fake, lenient(&["a"]));
            world.send(bare(path, &[AGENT], &hello(&capable())));
            let call = bare(path, &[AGENT], &ask("tools/call", &json!({"name": name})));
            let mut done = Vec::new();
            let got = world.fake.run(world.sent(call, async |seen: &str| {
                for question in messages(seen) {
                    if !question["method"].is_string()
                        || question["id"].is_null()
                        || done.contains(&question["id"])
                    {
                        continue;
                    }
                    done.push(question["id"].clone());
                    let result = if question["method"] == FORM {
                        json!({"action": "decline"})
                    } else {
                        json!({"role": "assistant", "content": {"type": "text", "text": "hm"}, "model": "m"})
                    };
                    let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": result});
                    let got = world.sent(bare(path, &[AGENT], &body), async |_: &str| false).await;
                    assert_eq!(got.status, 202, "{}", got.body);
                }
                false
            }));
            assert!(last(&got)["result"]["content"].is_array(), "{path} modern {modern}: {}", got.body);
            assert_eq!(last(&got)["id"], 1);
        }
    }
}

#[test]
fn those_who_keep_their_ids_are_not_touched() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Legacy, &["t"]);
    let world = World::new(fake, lenient(&["a"]));
    let (session, _) = world.initialize("/mcp/a");
    let own = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    let bare = world.send(bare("/mcp/a", &[], &ask("tools/call", &json!({"name": "t"}))));
    assert_ne!(own.trace.last(), bare.trace.last());
    assert_eq!(own.json()["result"]["id"], 1, "its ids are its own");
    assert_eq!(world.legacy("/mcp/a", "nonsense", "tools/list", json!({})).status, 404, "and are checked");
}
