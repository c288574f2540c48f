//! Servers that ask back, across the eras.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use causeway::config::glob::Filter;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use crate::world::{Got, World, key, plan, server};

/// A legacy server whose tool asks `questions` (method and parameters) at once and answers when all are answered.
pub struct Asking {
    /// What came from the gateway that is no request.
    pub heard: Arc<Mutex<Vec<Value>>>,
    pub answered: Arc<AtomicBool>,
}

fn sse(message: &Value) -> Step {
    Step::Send(format!("event: message\ndata: {message}\n\n").into())
}

pub fn asking(fake: &Fake, host: &str, questions: Vec<(&'static str, Value)>) -> Asking {
    let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
    let answered = Arc::new(AtomicBool::new(false));
    let state = Asking { heard: heard.clone(), answered: answered.clone() };
    let (number, results) = (questions.len(), AtomicUsize::new(0));
    fake.upstream(host, move |request: &Request<Bytes>| {
        if request.method() != "POST" {
            return Ok(Script::new(405, "text/plain", ""));
        }
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        let id = &message["id"];
        let result = |result: Value| {
            Ok(Script::json(json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()))
        };
        match message["method"].as_str() {
            Some("initialize") => result(json!({"protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}, "resources": {}, "prompts": {}}, "serverInfo": {"name": "s", "version": "1"}}))
            .map(|script| script.header("mcp-session-id", "s1")),
            Some("server/discover") => Ok(Script::new(400, "text/plain", "")),
            Some("tools/list") => result(json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})),
            Some("tools/call") => {
                answered.store(false, Ordering::Relaxed);
                results.store(0, Ordering::Relaxed);
                let mut steps: Vec<Step> = vec![sse(
                    &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 5, "progress": 1}}),
                )];
                for (number, (method, params)) in questions.iter().enumerate() {
                    steps.push(sse(
                        &json!({"jsonrpc": "2.0", "id": number, "method": method, "params": params}),
                    ));
                }
                steps.push(Step::Until(answered.clone()));
                steps.push(sse(
                    &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 5, "progress": 2}}),
                ));
                steps.push(sse(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": [], "echo": message["params"]}})));
                let mut script = Script::new(200, "text/event-stream", "");
                script.body = steps;
                Ok(script)
            }
            _ => {
                if message["method"] != "notifications/initialized" {
                    heard.lock().unwrap().push(message.clone());
                }
                if message.get("result").is_some() && results.fetch_add(1, Ordering::Relaxed) + 1 == number {
                    answered.store(true, Ordering::Relaxed);
                }
                Ok(Script::new(202, "text/plain", ""))
            }
        }
    });
    state
}

pub const FORM: &str = "elicitation/create";

pub fn form() -> (&'static str, Value) {
    (FORM, json!({"message": "Name?", "requestedSchema": {"type": "object", "properties": {}}}))
}

pub fn capable() -> Value {
    json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}})
}

/// A modern call with an id, capabilities and a progress token.
pub fn request(path: &str, id: u64, params: &Value, capabilities: &Value, key: &str) -> Request<Bytes> {
    let mut params = params.clone();
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "progressToken": 5,
    });
    let name = params["name"].as_str().unwrap().to_owned();
    let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
    Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("authorization", format!("Bearer {key}"))
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", name)
        .body(body.to_string().into())
        .unwrap()
}

fn call(world: &World, id: u64, params: &Value) -> Got {
    world.send(request("/mcp/a", id, params, &capable(), "x"))
}

/// The last message of an answer, be it JSON or an event stream.
pub fn last(got: &Got) -> Value {
    messages(&got.body).pop().unwrap_or_else(|| panic!("{} {}", got.status, got.body))
}

pub fn messages(body: &str) -> Vec<Value> {
    if body.starts_with('{') {
        return vec![serde_json::from_str(body).unwrap()];
    }
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

pub fn retry(params: &Value, asked: &Value, answers: Value) -> Value {
    let mut params = params.clone();
    params["requestState"] = asked["result"]["requestState"].clone();
    params["inputResponses"] = answers;
    params
}

#[test]
fn a_modern_client_is_asked_what_a_legacy_server_wants_to_know() {
    let fake = Fake::default();
    let roots = ("roots/list", json!({}));
    let server_a = asking(&fake, "a", vec![form(), roots]);
    let world = World::new(fake, plan(vec![server("a")]));
    let params = json!({"name": "t", "arguments": {"b": 1, "a": 2}});
    let got = call(&world, 7, &params);
    let asked = last(&got);
    assert_eq!(asked["id"], 7);
    assert_eq!(asked["result"]["resultType"], "input_required");
    let questions = asked["result"]["inputRequests"].as_object().unwrap();
    assert_eq!(questions.len(), 2, "all that are open: {asked}");
    assert_eq!(questions["q1"], json!({"method": FORM, "params": form().1}));
    assert_eq!(questions["q2"]["method"], "roots/list");
    let progress = &messages(&got.body)[0];
    assert_eq!(progress["params"], json!({"progressToken": 5, "progress": 1}));

    // The members of the arguments may come in another order.
    let again = json!({"name": "t", "arguments": {"a": 2, "b": 1}});
    let answers = json!({"q1": {"action": "accept", "content": {"name": "x"}}, "q2": {"roots": []}});
    let got = call(&world, 8, &retry(&again, &asked, answers));
    let all = messages(&got.body);
    assert_eq!(all[0]["params"]["progress"], 2, "{}", got.body);
    assert_eq!(all[1]["id"], 8);
    assert_eq!(all[1]["result"]["resultType"], "complete");
    assert_eq!(all[1]["result"]["echo"]["arguments"], json!({"b": 1, "a": 2}), "made once, as it was first");
    let heard = server_a.heard.lock().unwrap().clone();
    assert_eq!(heard.len(), 2);
    assert_eq!(
        heard[0],
        json!({"jsonrpc": "2.0", "id": 0, "result": {"action": "accept", "content": {"name": "x"}}})
    );
    assert_eq!(heard[1], json!({"jsonrpc": "2.0", "id": 1, "result": {"roots": []}}));
}

#[test]
fn what_is_left_unanswered_is_asked_again() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form(), form()]);
    let world = World::new(fake, plan(vec![server("a")]));
    let params = json!({"name": "t"});
    let asked = last(&call(&world, 1, &params));
    let asked = last(&call(&world, 2, &retry(&params, &asked, json!({"q2": {"action": "decline"}}))));
    assert_eq!(asked["result"]["inputRequests"].as_object().unwrap().keys().collect::<Vec<_>>(), ["q1"]);
    let done = last(&call(&world, 3, &retry(&params, &asked, json!({"q1": {"action": "decline"}}))));
    assert_eq!(done["result"]["resultType"], "complete");
}

#[test]
fn a_request_state_works_once_for_its_caller_its_request_and_its_time() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form()]);
    let mut config = plan(vec![server("a")]);
    config.keys = ["alice", "bob"].map(|name| key(name, Filter::default(), Filter::default())).into();
    let mut world = World::new(fake, config);
    let params = json!({"name": "t", "arguments": {"n": 1}});
    let send = |world: &World, params: &Value, who: &str| {
        let got = world.send(request("/mcp/a", 1, params, &capable(), &format!("{who}-key")));
        last(&got)
    };
    let refused = |answer: &Value, what: &str| {
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("requestState") && message.contains(what), "{message}");
    };
    let answers = json!({"q1": {"action": "accept", "content": {}}});
    let asked = send(&world, &params, "alice");
    let good = retry(&params, &asked, answers.clone());
    refused(&send(&world, &good, "bob"), "none that this gateway gave to you");
    let mut other = good.clone();
    other["arguments"]["n"] = 2.into();
    refused(&send(&world, &other, "alice"), "belongs to another request");
    let mut forged = good.clone();
    let token = forged["requestState"].as_str().unwrap().to_owned();
    forged["requestState"] = format!("{}A{}", &token[..20], &token[21..]).into();
    refused(&send(&world, &forged, "alice"), "none that this gateway gave to you");
    assert_eq!(send(&world, &good, "alice")["result"]["resultType"], "complete", "the others did no harm");
    refused(&send(&world, &good, "alice"), "has ended");

    let asked = send(&world, &params, "alice");
    world.fake.pass(Duration::from_secs(601));
    refused(&send(&world, &retry(&params, &asked, answers.clone()), "alice"), "its time is up");

    let asked = send(&world, &params, "alice");
    world.restart();
    refused(&send(&world, &retry(&params, &asked, answers), "alice"), "restarted");
}

#[test]
fn answers_that_are_none_are_refused_and_the_question_stays_open() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form()]);
    let world = World::new(fake, plan(vec![server("a")]));
    let params = json!({"name": "t"});
    let asked = last(&call(&world, 1, &params));
    for wrong in [json!(5), json!([]), json!("x"), json!({"q1": 5}), json!({"q1": null})] {
        let refused = last(&call(&world, 2, &retry(&params, &asked, wrong.clone())));
        assert_eq!(refused["error"]["code"], -32602, "{wrong}");
        assert!(refused["error"]["message"].as_str().unwrap().contains("params.inputResponses"), "{refused}");
    }
    let done = last(&call(&world, 3, &retry(&params, &asked, json!({"q1": {"action": "decline"}}))));
    assert_eq!(done["result"]["resultType"], "complete");
}

#[test]
fn an_abandoned_call_is_cancelled_when_its_time_is_up_and_leaves_nothing() {
    let fake = Fake::default();
    let server_a = asking(&fake, "a", vec![form()]);
    let world = World::new(fake, plan(vec![server("a")]));
    call(&world, 1, &json!({"name": "t"}));
    assert_eq!(world.fake.mailboxes(), 1);
    world.fake.pass(Duration::from_secs(599));
    assert!(server_a.heard.lock().unwrap().is_empty());
    world.fake.pass(Duration::from_secs(2));
    assert_eq!(server_a.heard.lock().unwrap()[0]["method"], "notifications/cancelled");
    world.fake.pass(Duration::from_secs(130));
    assert_eq!(world.fake.mailboxes(), 0);
}

#[test]
fn a_modern_client_that_hangs_up_cancels_the_call() {
    let fake = Fake::default();
    let server_a = asking(&fake, "a", vec![]);
    let world = World::new(fake, plan(vec![server("a")]));
    let request = request("/mcp/a", 1, &json!({"name": "t"}), &capable(), "x");
    world.fake.run(world.sent(request, async |seen: &str| seen.contains("progress")));
    world.fake.pass(Duration::from_secs(1));
    let heard = server_a.heard.lock().unwrap().clone();
    assert_eq!(heard[0]["method"], "notifications/cancelled", "{heard:?}");
}

#[test]
fn a_client_that_cannot_be_asked_is_told_what_the_call_needs() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form()]);
    let world = World::new(fake, plan(vec![server("a")]));
    for capabilities in [json!({}), json!({"sampling": {}})] {
        let got = world.send(request("/mcp/a", 1, &json!({"name": "t"}), &capabilities, "x"));
        let error = &last(&got)["error"];
        assert_eq!(error["code"], -32021, "{capabilities} {}", got.body);
        assert_eq!(error["data"], json!({"requiredCapabilities": {"elicitation": {"form": {}}}}));
    }
}

#[test]
fn a_caller_has_a_bounded_number_of_calls_waiting() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form()]);
    let mut config = plan(vec![server("a")]);
    config.limits.parked = 2;
    let world = World::new(fake, config);
    let params = json!({"name": "t"});
    let asked = last(&call(&world, 1, &params));
    call(&world, 2, &params);
    assert!(last(&call(&world, 3, &params))["error"]["message"].as_str().unwrap().contains("limits.parked"));
    let answers = json!({"q1": {"action": "cancel"}});
    assert!(last(&call(&world, 4, &retry(&params, &asked, answers)))["result"].is_object());
}

/// A modern server whose tool asks `rounds` times and then answers with what it was told.
pub fn modern_asking(fake: &Fake, host: &str, rounds: u64) {
    fake.upstream(host, move |request: &Request<Bytes>| {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let params = &message["params"];
        let result = match message["method"].as_str() {
            Some("server/discover") => json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                "resultType": "complete", "ttlMs": 0, "cacheScope": "public"}),
            Some("tools/list") => json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}],
                "resultType": "complete", "ttlMs": 60000, "cacheScope": "public"}),
            Some("tools/call") => {
                let round = params["requestState"].as_str().map_or(0, |state| state.parse::<u64>().unwrap());
                if round < rounds {
                    json!({"resultType": "input_required", "requestState": (round + 1).to_string(), "inputRequests": {
                        "name": {"method": FORM, "params": form().1},
                        "thought": {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": round}}}})
                } else {
                    json!({"resultType": "complete", "content": [], "told": params["inputResponses"]})
                }
            }
            _ => return Ok(Script::new(404, "text/plain", "")),
        };
        Ok(Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()))
    });
}

pub fn open(world: &World, path: &str, capabilities: &Value) -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "c", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    world.post(path, &[], &body).header("mcp-session-id").to_owned()
}

pub fn in_session(path: &str, session: &str, body: &Value) -> Request<Bytes> {
    Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-session-id", session)
        .header("mcp-protocol-version", "2025-11-25")
        .body(body.to_string().into())
        .unwrap()
}

pub fn legacy_call(path: &str, session: &str, id: u64, name: &str) -> Request<Bytes> {
    let params = json!({"name": name});
    in_session(path, session, &json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}))
}

/// Answers every question that has been seen and not been answered yet.
pub async fn answer(world: &World, path: &str, session: &str, seen: &str, done: &mut Vec<Value>) {
    for question in
        messages(seen).iter().filter(|message| message["method"].is_string() && !message["id"].is_null())
    {
        if done.contains(&question["id"]) {
            continue;
        }
        done.push(question["id"].clone());
        let result = if question["method"] == FORM {
            json!({"action": "accept", "content": {"n": done.len()}})
        } else {
            json!({"role": "assistant", "content": {"type": "text", "text": "hm"}, "model": "m"})
        };
        let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": result});
        let got = world.sent(in_session(path, session, &body), async |_: &str| false).await;
        assert_eq!(got.status, 202, "{}", got.body);
    }
}

#[test]
fn a_legacy_client_is_asked_what_a_modern_server_wants_to_know() {
    for path in ["/mcp", "/mcp/a"] {
        let fake = Fake::default();
        modern_asking(&fake, "a", 2);
        let world = World::new(fake, plan(vec![server("a")]));
        let session = open(&world, path, &capable());
        let name = if path == "/mcp" { "a__t" } else { "t" };
        let mut done = Vec::new();
        let got = world.fake.run(world.sent(legacy_call(path, &session, 9, name), async |seen: &str| {
            answer(&world, path, &session, seen, &mut done).await;
            false
        }));
        let all = messages(&got.body);
        assert_eq!(all.len(), 5, "two questions, twice, and the result: {}", got.body);
        let result = all.last().unwrap();
        assert_eq!(result["id"], 9);
        assert!(result["result"].get("resultType").is_none(), "{result}");
        assert_eq!(result["result"]["told"]["thought"]["model"], "m");
        let mut ids: Vec<&str> = got.body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids.len(), 5);
        ids.dedup();
        assert_eq!(ids.len(), 5, "each event has an id of its own");
    }
}

#[test]
fn a_legacy_client_that_lost_its_stream_goes_on_with_it() {
    let fake = Fake::default();
    modern_asking(&fake, "a", 1);
    let world = World::new(fake, plan(vec![server("a")]));
    let session = open(&world, "/mcp/a", &capable());
    // It hangs up when the first question has come; the second one is on its way.
    let call = legacy_call("/mcp/a", &session, 9, "t");
    let got = world.fake.run(world.sent(call, async |seen: &str| seen.contains("id: cw-")));
    let first = messages(&got.body);
    assert_eq!(first.len(), 1);
    let last_id = got.body.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let resume = |id: &str| {
        Request::get("/mcp/a")
            .header("host", "localhost")
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25")
            .header("last-event-id", id)
            .body(Bytes::new())
            .unwrap()
    };
    let mut done = Vec::new();
    let before = got.body.clone();
    let got = world.fake.run(world.sent(resume(&last_id), async |seen: &str| {
        answer(&world, "/mcp/a", &session, &format!("{before}{seen}"), &mut done).await;
        false
    }));
    let rest = messages(&got.body);
    assert_eq!(rest.len(), 2, "nothing twice and nothing lost: {}", got.body);
    assert_ne!(rest[0]["id"], first[0]["id"]);
    assert_eq!(rest[1]["id"], 9);
    let stale = world.send(resume("cw-0123-1"));
    assert_eq!(stale.brief(), "400 -32600");
    assert_eq!(world.send(resume(&last_id)).status, 200, "it may be read again for a while");
    world.fake.pass(Duration::from_secs(61));
    assert_eq!(world.send(resume(&last_id)).brief(), "400 -32600");
    assert_eq!(world.fake.mailboxes(), 0);
}

#[test]
fn a_legacy_client_that_refuses_or_cannot_be_asked_ends_the_call() {
    let fake = Fake::default();
    modern_asking(&fake, "a", 1);
    let world = World::new(fake, plan(vec![server("a")]));
    let session = open(&world, "/mcp/a", &json!({"elicitation": {}}));
    let got = world.send(legacy_call("/mcp/a", &session, 1, "t"));
    assert_eq!(last(&got)["error"]["code"], -32021, "sampling was not declared: {}", got.body);
    let session = open(&world, "/mcp/a", &capable());
    let call = legacy_call("/mcp/a", &session, 2, "t");
    let got = world.fake.run(world.sent(call, async |seen: &str| {
        for question in messages(seen) {
            let error = json!({"code": -1, "message": "no"});
            let body = json!({"jsonrpc": "2.0", "id": question["id"], "error": error});
            world.sent(in_session("/mcp/a", &session, &body), async |_: &str| false).await;
        }
        false
    }));
    let message = last(&got)["error"]["message"].to_string();
    assert!(message.contains("sampling/createMessage with error -1"), "{message}");
    let call = legacy_call("/mcp/a", &session, 3, "t");
    let got = world.fake.run(world.sent(call, async |_: &str| {
        let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}});
        world.sent(in_session("/mcp/a", &session, &body), async |_: &str| false).await;
        false
    }));
    assert!(messages(&got.body).iter().all(|message| message["id"] != 3), "{}", got.body);
}

#[test]
fn questions_of_merged_legacy_servers_find_their_way_back() {
    let fake = Fake::default();
    let servers = ["a", "b"].map(|host| asking(&fake, host, vec![form()]));
    let world = World::new(fake, plan(vec![server("a"), server("b")]));
    let session = open(&world, "/mcp", &capable());
    for (name, other) in [("a__t", 1), ("b__t", 0)] {
        let mut done = Vec::new();
        let got = world.fake.run(world.sent(legacy_call("/mcp", &session, 4, name), async |seen: &str| {
            answer(&world, "/mcp", &session, seen, &mut done).await;
            false
        }));
        assert_eq!(last(&got)["id"], 4, "{}", got.body);
        assert_eq!(servers[1 - other].heard.lock().unwrap()[0]["id"], 0, "its own id");
        let heard_by_other = servers[other].heard.lock().unwrap().len();
        assert_eq!(heard_by_other, usize::from(name == "b__t"));
    }
    assert!(servers.iter().all(|server| server.answered.load(Ordering::Relaxed)));
}
