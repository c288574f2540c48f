//! Tasks: what a server calls one and what its client does, and how the one finds the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use causeway::config::plan::{Sampling, Server, SessionMode};
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{FORM, capable, form, in_session, last, messages, open};
use crate::peer::{Log, Peer, events, legacy, modern, result};
use crate::world::{World, globs, key, plan, server};

const TASKS: &str = "io.modelcontextprotocol/tasks";
const RELATED: &str = "io.modelcontextprotocol/related-task";

fn able() -> Value {
    json!({"extensions": {TASKS: {}}})
}

fn ack(message: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
        "_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]},
        "notifications": message["params"]["notifications"]}})
}

/// A modern server that makes a task `t+{host}` of every call, and tells of it to whoever listens.
fn new(fake: &Fake, host: &'static str, streams: bool) -> Log {
    Peer::modern(json!({"tools": {}, "extensions": {TASKS: {}}}))
        .react(move |message| {
            let id = format!("t+{host}");
            let state = json!({"taskId": id, "status": "working", "createdAt": "c", "lastUpdatedAt": "l", "ttlMs": null});
            let of = |mut more: Value| {
                more.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
                Some(result(message, more))
            };
            let params = &message["params"];
            match message["method"].as_str()? {
                "tools/call" if streams => {
                    let mut state = state;
                    state["resultType"] = "task".into();
                    Some(events(vec![Ok(json!({"jsonrpc": "2.0", "id": message["id"], "result": state}))]))
                }
                "tools/call" => of(json!({"resultType": "task"})),
                method if method.starts_with("tasks/") && params["taskId"] != id => {
                    let error = json!({"code": -32602, "message": "Task not found"});
                    Some(Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string()))
                }
                "tasks/get" => {
                    let done = json!({"content": [], "_meta": {RELATED: {"taskId": id}}});
                    of(json!({"status": "completed", "result": done, "about": params["_meta"][RELATED]}))
                }
                "tasks/update" => Some(result(message, json!({"got": params["inputResponses"]}))),
                "tasks/cancel" => Some(result(message, json!({}))),
                "subscriptions/listen" => {
                    let told = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": state});
                    let mut other = told.clone();
                    other["params"]["taskId"] = "another".into();
                    Some(events(vec![Ok(ack(message)), Ok(other), Ok(told), Err(Step::Stall)]))
                }
                _ => None,
            }
        })
        .put(fake, host)
}

fn world(fake: &Fake, names: &[&str]) -> World {
    World::new(fake.clone(), plan(names.iter().map(|name| server(name)).collect()))
}

fn send(world: &World, request: Request<Bytes>) -> Value {
    last(&world.send(request))
}

/// Whether `text` has come, or there is no use in waiting any longer.
fn has(seen: &str, text: &str) -> bool {
    seen.contains(text) || seen.matches(":\n").count() > 3
}

#[test]
fn a_modern_task_finds_its_server_again_on_any_instance() {
    for streams in [false, true] {
        let fake = Fake::default();
        let logs = ["a", "b"].map(|host| new(&fake, host, streams));
        let mut world = world(&fake, &["a", "b"]);
        let made = send(&world, modern("/mcp", "tools/call", json!({"name": "b__t"}), &able()));
        assert_eq!(made["result"]["resultType"], "task", "{made}");
        assert_eq!(made["result"]["taskId"], "b+t+b");
        world.restart();
        let ask = |method: &str, mut params: Value| {
            params["taskId"] = "b+t+b".into();
            params["_meta"] = json!({RELATED: {"taskId": "b+t+b"}});
            send(&world, modern("/mcp", method, params, &able()))
        };
        let got = ask("tasks/get", json!({}));
        assert_eq!(got["result"]["taskId"], "b+t+b", "{got}");
        assert_eq!(got["result"]["result"]["_meta"][RELATED]["taskId"], "b+t+b");
        assert_eq!(
            got["result"]["about"]["taskId"], "t+b",
            "what the client says is about it, is about it there, too"
        );
        assert_eq!(logs[1].last().name, "t+b", "mirrored as the server knows it");
        let got = ask("tasks/update", json!({"inputResponses": {"k": {"action": "accept"}}}));
        assert_eq!(got["result"]["got"], json!({"k": {"action": "accept"}}));
        assert_eq!(ask("tasks/cancel", json!({}))["result"]["resultType"], "complete");
        assert!(logs[0].of("tasks/get").is_empty() && logs[0].of("tasks/cancel").is_empty());
    }
}

#[test]
fn a_task_of_one_server_keeps_its_name_there() {
    let fake = Fake::default();
    let log = new(&fake, "a", false);
    let world = world(&fake, &["a"]);
    let made = send(&world, modern("/mcp/a", "tools/call", json!({"name": "t"}), &able()));
    assert_eq!(made["result"]["taskId"], "t+a");
    let got = send(&world, modern("/mcp/a", "tasks/get", json!({"taskId": "t+a"}), &able()));
    assert_eq!(got["result"]["status"], "working", "{got}");
    assert_eq!(log.last().name, "t+a");
}

#[test]
fn tasks_that_are_nowhere_or_not_for_this_caller_are_unknown() {
    let fake = Fake::default();
    new(&fake, "a", false);
    let hidden = new(&fake, "b", false);
    Peer::legacy(json!({"tools": {}, "tasks": {}})).put(&fake, "c");
    let mut config = plan(vec![server("a"), server("b"), server("c")]);
    config.keys = vec![key("alice", globs(&["a", "c"]), globs(&["*"]))];
    let world = World::new(fake, config);
    let ask = |id: Value| {
        let mut request = modern("/mcp", "tasks/get", json!({"taskId": id}), &able());
        request.headers_mut().insert("x-api-key", "alice-key".parse().unwrap());
        send(&world, request)
    };
    for id in ["t+a", "b+t+b", "nobody+t", "c+t", "a+", "+t", "", "a"] {
        let answer = ask(id.into());
        assert_eq!(answer["error"]["code"], -32602, "{id} {answer}");
    }
    assert_eq!(ask(7.into())["error"]["code"], -32602);
    assert!(hidden.of("tasks/get").is_empty());
    assert_eq!(ask("a+t+a".into())["result"]["status"], "working");
    let logged = world.fake.logged().join("\n");
    assert!(
        logged.contains("tasks/get") && !logged.contains("t+a"),
        "an id may be all that it takes: {logged}"
    );
}

#[test]
fn a_header_that_names_another_task_is_refused() {
    let fake = Fake::default();
    new(&fake, "a", false);
    let world = world(&fake, &["a"]);
    let ask = |name: Option<&str>| {
        let mut request = modern("/mcp", "tasks/get", json!({"taskId": "a+t+a"}), &able());
        request.headers_mut().remove("mcp-name");
        if let Some(name) = name {
            request.headers_mut().insert("mcp-name", name.parse().unwrap());
        }
        world.send(request).brief()
    };
    assert_eq!(ask(Some("a+t+a")), "200 ok");
    assert_eq!(ask(Some("a+other")), "400 -32020");
    assert_eq!(ask(None), "200 ok");
}

#[test]
fn a_client_is_told_of_its_tasks_by_the_names_it_knows() {
    for path in ["/mcp", "/mcp/a"] {
        let fake = Fake::default();
        let logs = ["a", "b"].map(|host| new(&fake, host, false));
        let mut config = plan(vec![server("a"), server("b")]);
        // So that the gateway itself listens at /mcp/a as well.
        config.servers[0] = Arc::new(Server { resources: globs(&["none"]), ..server("a") });
        let world = World::new(fake, config);
        let id = if path == "/mcp" { "a+t+a" } else { "t+a" };
        let wanted = json!({"notifications": {"taskIds": [id, "nobody+x"]}});
        let request = modern(path, "subscriptions/listen", wanted, &able());
        let got = world.fake.run(world.sent(request, async |seen: &str| has(seen, "notifications/tasks\"")));
        let all = messages(&got.body);
        let agreed = if path == "/mcp" { json!([id]) } else { json!([id, "nobody+x"]) };
        assert_eq!(all[0]["params"]["notifications"]["taskIds"], agreed, "{}", got.body);
        assert_eq!(all[1]["method"], "notifications/tasks");
        assert_eq!(all[1]["params"]["taskId"], id);
        assert_eq!(all[1]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1);
        assert_eq!(all.len(), 2, "{}", got.body);
        let asked = &logs[0].of("subscriptions/listen")[0]["params"];
        assert_eq!(asked["notifications"]["taskIds"][0], "t+a");
        assert_eq!(asked["_meta"]["io.modelcontextprotocol/clientCapabilities"], able());
        assert!(logs[1].of("subscriptions/listen").is_empty());
        let request =
            modern(path, "subscriptions/listen", json!({"notifications": {"taskIds": [id]}}), &json!({}));
        let refused = world.send(request);
        assert_eq!(refused.brief(), "400 -32021");
        assert_eq!(refused.json()["error"]["data"]["requiredCapabilities"], able());
    }
}

#[test]
fn a_task_that_asks_for_what_is_denied_fails_to_be_read() {
    let fake = Fake::default();
    let asks = json!({"inputRequests": {"k": {"method": "sampling/createMessage", "params": {}}}});
    let state = json!({"taskId": "t", "status": "input_required", "ttlMs": null, "inputRequests": asks["inputRequests"]});
    Peer::modern(json!({"tools": {}, "extensions": {TASKS: {}}}))
        .react(move |message| match message["method"].as_str()? {
            "tasks/get" => Some(result(message, state.clone())),
            "subscriptions/listen" => {
                let told = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": state});
                Some(events(vec![Ok(ack(message)), Ok(told)]))
            }
            _ => None,
        })
        .put(&fake, "a");
    let world = World::new(fake, plan(vec![Server { sampling: Sampling::Deny, ..server("a") }]));
    for (path, id) in [("/mcp", "a+t"), ("/mcp/a", "t")] {
        let got = send(&world, modern(path, "tasks/get", json!({"taskId": id}), &able()));
        assert!(got["error"]["message"].as_str().unwrap().contains("sampling: deny"), "{got}");
        let listen =
            modern(path, "subscriptions/listen", json!({"notifications": {"taskIds": [id]}}), &able());
        let mut comments = 0;
        let got = world.fake.run(world.sent(listen, async |seen: &str| {
            comments = seen.matches(":\n").count();
            comments > 2
        }));
        assert!(
            got.body.contains("acknowledged") && !got.body.contains("notifications/tasks\""),
            "{}",
            got.body
        );
    }
}

/// A legacy server that makes a task `t+{host}` of a call that asks for that; `tasks/result` asks for a form first.
fn old(fake: &Fake, host: &'static str, able: Value) -> Log {
    let answered = Arc::new(AtomicBool::new(false));
    let done = answered.clone();
    Peer::legacy(json!({"tools": {}, "tasks": able}))
        .react(move |message| {
            let id = format!("t+{host}");
            let state = json!({"taskId": id, "status": "working", "ttl": null});
            let related = json!({RELATED: {"taskId": id}});
            let params = &message["params"];
            if message["method"].is_null() && message["id"] == 70 {
                answered.store(true, Ordering::Relaxed);
            }
            match message["method"].as_str()? {
                "tools/call" if params["task"].is_object() => Some(result(message, json!({"task": state}))),
                "tasks/get" | "tasks/cancel" if params["taskId"] == id => Some(result(message, state)),
                "tasks/result" if params["taskId"] == id => {
                    let (method, mut params) = form();
                    params["_meta"] = related.clone();
                    let status = json!({"jsonrpc": "2.0", "method": "notifications/tasks/status", "params": state});
                    let ask = json!({"jsonrpc": "2.0", "id": 70, "method": method, "params": params});
                    let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "_meta": related}});
                    done.store(false, Ordering::Relaxed);
                    Some(events(vec![Ok(status), Ok(ask), Err(Step::Until(done.clone())), Ok(end)]))
                }
                "tasks/list" => {
                    let page = match params["cursor"].as_str() {
                        None => json!({"tasks": [state], "nextCursor": "c+2"}),
                        Some("c+2") => json!({"tasks": [{"taskId": "u"}]}),
                        Some(other) => panic!("{other}"),
                    };
                    Some(result(message, page))
                }
                _ => None,
            }
        })
        .put(fake, host)
}

#[test]
fn a_legacy_task_is_asked_about_and_asks_by_the_name_that_its_client_knows() {
    let fake = Fake::default();
    let all = json!({"cancel": {}, "requests": {"tools": {"call": {}}}});
    let logs = ["a", "b"].map(|host| old(&fake, host, all.clone()));
    let mut world = world(&fake, &["a", "b"]);
    let mut able = capable();
    able["tasks"] = json!({"requests": {"elicitation": {"create": {}}}});
    let session = open(&world, "/mcp", &able);
    let ask =
        |world: &World, method: &str, params: Value| send(world, legacy("/mcp", &session, method, params));
    let made = ask(&world, "tools/call", json!({"name": "b__t", "task": {"ttl": 5}}));
    assert_eq!(made["result"]["task"]["taskId"], "b+t+b", "{made}");
    let hello = logs[1].of("initialize").pop().unwrap();
    assert_eq!(
        hello["params"]["capabilities"]["tasks"], able["tasks"],
        "a server may make tasks of its questions"
    );
    let plain = ask(&world, "tools/call", json!({"name": "b__t"}));
    assert_eq!(plain["result"]["did"], "tools/call");
    world.restart();
    for method in ["tasks/get", "tasks/cancel"] {
        let got = ask(&world, method, json!({"taskId": "b+t+b"}));
        assert_eq!(got["result"]["taskId"], "b+t+b", "{method} {got}");
    }
    let mut answered = false;
    let request = legacy("/mcp", &session, "tasks/result", json!({"taskId": "b+t+b"}));
    let got = world.fake.run(world.sent(request, async |seen: &str| {
        if let Some(question) = messages(seen).iter().find(|message| message["method"] == FORM)
            && !std::mem::replace(&mut answered, true)
        {
            assert_eq!(question["params"]["_meta"][RELATED]["taskId"], "b+t+b", "{question}");
            let told = json!({"action": "accept", "_meta": question["params"]["_meta"]});
            let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": told});
            world.sent(in_session("/mcp", &session, &body), async |_: &str| false).await;
        }
        false
    }));
    let all = messages(&got.body);
    assert_eq!(all[0]["params"]["taskId"], "b+t+b", "{}", got.body);
    assert_eq!(last(&got)["result"]["_meta"][RELATED]["taskId"], "b+t+b");
    let answer = logs[1].of("").pop().unwrap();
    assert_eq!(answer["id"], 70);
    assert_eq!(answer["result"]["_meta"][RELATED]["taskId"], "t+b", "as its server knows it");
    assert!(logs[0].of("tasks/result").is_empty());
    let got = ask(&world, "tasks/get", json!({"taskId": "a+t+b"}));
    assert_eq!(got["error"]["code"], -32601, "what the server says: {got}");
}

#[test]
fn what_a_client_says_of_a_task_is_told_to_its_server_alone() {
    let fake = Fake::default();
    let logs = ["a", "b"].map(|host| old(&fake, host, json!({})));
    let world = world(&fake, &["a", "b"]);
    let session = open(&world, "/mcp", &capable());
    for name in ["a__t", "b__t"] {
        send(&world, legacy("/mcp", &session, "tools/call", json!({"name": name})));
    }
    let method = "notifications/progress";
    for (id, expect) in [("b+x", [0, 1]), ("x", [1, 2])] {
        let params = json!({"progressToken": 1, "progress": 1, "_meta": {RELATED: {"taskId": id}}});
        let body = json!({"jsonrpc": "2.0", "method": method, "params": params});
        assert_eq!(world.send(in_session("/mcp", &session, &body)).status, 202);
        assert_eq!(logs.each_ref().map(|log| log.of(method).len()), expect, "{id}");
    }
    assert_eq!(logs[1].of(method)[0]["params"]["_meta"][RELATED]["taskId"], "x");
}

#[test]
fn the_tasks_of_all_are_listed_one_server_after_the_other() {
    let fake = Fake::default();
    let listed = json!({"list": {}});
    old(&fake, "a", listed.clone());
    Peer::legacy(json!({"tools": {}, "tasks": listed})).put(&fake, "broken");
    old(&fake, "b", listed.clone());
    old(&fake, "unlisted", json!({}));
    let everybodys = old(&fake, "shared", listed.clone());
    let mut servers: Vec<Server> = ["a", "broken", "b", "unlisted"].into_iter().map(server).collect();
    servers.push(Server { session: Some(SessionMode::Shared), ..server("shared") });
    let world = World::new(fake, plan(servers));
    let session = open(&world, "/mcp", &json!({}));
    let list = |cursor: Value| {
        let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
        send(&world, legacy("/mcp", &session, "tasks/list", params))
    };
    let (mut ids, mut cursor) = (Vec::new(), Value::Null);
    for _ in 0..9 {
        let page = list(cursor)["result"].clone();
        ids.extend(
            page["tasks"].as_array().unwrap().iter().map(|task| task["taskId"].as_str().unwrap().to_owned()),
        );
        cursor = page["nextCursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(ids, ["a+t+a", "a+u", "b+t+b", "b+u"]);
    for wrong in ["nobody+1", "x", "+", "shared+"] {
        assert_eq!(list(wrong.into())["error"]["code"], -32602, "{wrong}");
    }
    assert!(everybodys.of("tasks/list").is_empty());
    let session = open(&world, "/mcp/shared", &json!({}));
    let got = send(&world, legacy("/mcp/shared", &session, "tasks/list", json!({})));
    assert_eq!(got["error"]["code"], -32601, "{got}");
    assert!(everybodys.of("tasks/list").is_empty(), "what one caller has begun is nothing to another");
    let got = send(&world, modern("/mcp", "tasks/list", json!({}), &able()));
    assert_eq!(got["error"]["code"], -32601);
}

#[test]
fn without_such_a_list_there_is_no_method() {
    let fake = Fake::default();
    old(&fake, "a", json!({}));
    let world = world(&fake, &["a"]);
    let session = open(&world, "/mcp", &json!({}));
    let got = send(&world, legacy("/mcp", &session, "tasks/list", json!({})));
    assert_eq!(got["error"]["code"], -32601);
}

#[test]
fn a_list_in_which_all_servers_fail_is_empty() {
    let fake = Fake::default();
    let listed = json!({"tools": {}, "tasks": {"list": {}}});
    Peer::legacy(listed).put(&fake, "a");
    let world = world(&fake, &["a"]);
    let session = open(&world, "/mcp", &json!({}));
    let got = send(&world, legacy("/mcp", &session, "tasks/list", json!({})));
    assert_eq!(got["result"], json!({"tasks": []}), "{got}");
}

#[test]
fn tasks_on_the_stream_of_a_session_are_named_too() {
    let fake = Fake::default();
    let status = json!({"jsonrpc": "2.0", "method": "notifications/tasks/status", "params": {"taskId": "t"}});
    Peer::legacy(json!({"tools": {}, "tasks": {}}))
        .react(move |message| message.is_null().then(|| events(vec![Ok(status.clone()), Err(Step::Stall)])))
        .put(&fake, "a");
    let world = world(&fake, &["a"]);
    for (path, id) in [("/mcp", "a+t"), ("/mcp/a", "t")] {
        let session = open(&world, path, &json!({}));
        let get = Request::get(path)
            .header("host", "localhost")
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25");
        let got = world
            .fake
            .run(world.sent(get.body(Bytes::new()).unwrap(), async |seen: &str| has(seen, "taskId")));
        assert_eq!(messages(&got.body)[0]["params"]["taskId"], id, "{path} {}", got.body);
    }
}

#[test]
fn a_task_with_an_endless_name_is_refused() {
    let fake = Fake::default();
    Peer::modern(json!({"tools": {}, "extensions": {TASKS: {}}}))
        .react(|message| {
            let made = json!({"resultType": "task", "taskId": "x".repeat(1025), "status": "working"});
            (message["method"] == "tools/call").then(|| result(message, made))
        })
        .put(&fake, "a");
    let world = world(&fake, &["a"]);
    let got = send(&world, modern("/mcp", "tools/call", json!({"name": "a__t"}), &able()));
    assert!(got["error"]["message"].as_str().unwrap().contains("/mcp/a"), "{got}");
    let got = send(&world, modern("/mcp/a", "tools/call", json!({"name": "t"}), &able()));
    assert_eq!(got["result"]["resultType"], "task");
}

#[test]
fn calls_that_cannot_become_tasks_are_passed_on_byte_for_byte() {
    let fake = Fake::default();
    let exact = r#"{"jsonrpc":"2.0","id":1,"result":{ "content":[], "taskId":"x", "resultType":"complete","n":1.50}}"#;
    Peer::modern(json!({"tools": {}, "extensions": {TASKS: {}}}))
        .react(move |message| (message["method"] == "tools/call").then(|| Script::json(exact)))
        .put(&fake, "a");
    let world = world(&fake, &["a"]);
    for able in [json!({}), able()] {
        assert_eq!(world.send(modern("/mcp", "tools/call", json!({"name": "a__t"}), &able)).body, exact);
    }
}
