//! Servers that are denied a model's words: none is told that its clients have any, and no client is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use causeway::config::plan::{Sampling, Server};
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{FORM, capable, form, in_session, last, legacy_call, messages, open, request, retry};
use crate::old::{Old, accepted};
use crate::peer::{CAPABILITIES, Log, Peer, events, result};
use crate::world::{Got, World, plan, server};

const SAMPLING: &str = "sampling/createMessage";

fn denied(name: &str) -> Server {
    Server { sampling: Sampling::Deny, ..server(name) }
}

fn world(fake: Fake) -> World {
    World::new(fake, plan(vec![denied("a")]))
}

fn question(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": SAMPLING, "params": {"messages": [], "maxTokens": 1}})
}

/// A legacy server whose tool asks for a model's words and then for a form, and answers when both are answered.
fn legacy(fake: &Fake, host: &str) -> Log {
    let left = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let (method, params) = form();
    let done = Arc::new(AtomicBool::new(false));
    Peer::legacy(json!({"tools": {}}))
        .react(move |message| {
            if message["method"].is_null() && !message["id"].is_null() {
                left[usize::from(message["id"] == 51)].store(true, Ordering::Relaxed);
                done.store(left.iter().all(|left| left.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            if message["method"] != "tools/call" {
                return None;
            }
            left.iter().for_each(|left| left.store(false, Ordering::Relaxed));
            done.store(false, Ordering::Relaxed);
            let ask = json!({"jsonrpc": "2.0", "id": 51, "method": method, "params": params});
            let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "done": true}});
            Some(events(vec![Ok(question(50)), Ok(ask), Err(Step::Until(done.clone())), Ok(end)]))
        })
        .put(fake, host)
}

/// What the server was told of its clients' abilities when sessions were opened.
fn told(log: &Log) -> Vec<Value> {
    log.of("initialize").iter().map(|hello| hello["params"]["capabilities"].clone()).collect()
}

/// That the server was told of everything but sampling, was refused what it asked for, and got its form.
fn check_refused(log: &Log) {
    let told = told(log);
    assert!(told.iter().all(|able| able["sampling"].is_null()), "{told:?}");
    assert!(
        told.iter().any(|able| able["elicitation"]["url"].is_object() && able["roots"].is_object()),
        "{told:?}"
    );
    let answers = log.of("");
    let of = |id: u64| answers.iter().find(|answer| answer["id"] == id).unwrap();
    assert_eq!(of(50)["error"]["code"], -1, "{answers:?}");
    assert_eq!(of(51)["result"]["action"], "accept", "{answers:?}");
}

fn post(path: &str, session: &str, question: &Value) -> Request<Bytes> {
    let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}});
    in_session(path, session, &body)
}

/// Makes a call of a legacy client that answers forms.
fn legacy_asked(world: &World, path: &str, name: &str) -> (String, Got) {
    let session = open(world, path, &capable());
    let mut answered = false;
    let got = world.fake.run(world.sent(legacy_call(path, &session, 9, name), async |seen: &str| {
        if let Some(question) = messages(seen).iter().find(|message| message["method"] == FORM)
            && !std::mem::replace(&mut answered, true)
        {
            world.sent(post(path, &session, question), async |_: &str| false).await;
        }
        false
    }));
    (session, got)
}

#[test]
fn a_legacy_client_of_a_legacy_server_is_not_asked() {
    for (path, name) in [("/mcp/a", "t"), ("/mcp", "a__t")] {
        let fake = Fake::default();
        let log = legacy(&fake, "a");
        let world = world(fake);
        let (_, got) = legacy_asked(&world, path, name);
        assert!(!got.body.contains(SAMPLING), "{}", got.body);
        assert_eq!(last(&got)["result"]["done"], true);
        assert_eq!(last(&got)["id"], 9);
        check_refused(&log);
        let ids: Vec<&str> = got.body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        let of = |id: &str| if path == "/mcp" { format!("cw@a@{id}") } else { id.to_owned() };
        assert_eq!(ids, [of("e1"), of("e3")], "the places of its stream are what they were");
        if path == "/mcp/a" {
            let form = messages(&got.body).into_iter().find(|message| message["method"] == FORM).unwrap();
            assert_eq!(form["id"], 51, "as it is");
        }
    }
}

#[test]
fn a_legacy_client_is_not_asked_on_the_stream_of_its_session() {
    for (path, name) in [("/mcp/a", "t"), ("/mcp", "a__t")] {
        let fake = Fake::default();
        let (method, params) = form();
        let log = Peer::legacy(json!({"tools": {}}))
            .react(move |message| {
                let ask = json!({"jsonrpc": "2.0", "id": 51, "method": method, "params": params});
                message.is_null().then(|| events(vec![Ok(question(50)), Ok(ask), Err(Step::Stall)]))
            })
            .put(&fake, "a");
        let world = world(fake);
        let session = open(&world, path, &capable());
        world.send(legacy_call(path, &session, 9, name));
        let get = Request::get(path)
            .header("host", "localhost")
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25");
        let get = get.body(Bytes::new()).unwrap();
        let got = world
            .fake
            .run(world.sent(get, async |seen: &str| seen.contains(FORM) || seen.matches(":\n").count() > 3));
        assert!(!got.body.contains(SAMPLING), "{path}: {}", got.body);
        assert_eq!(log.of("")[0]["error"]["code"], -1, "{path}");
    }
}

#[test]
fn a_modern_client_of_a_legacy_server_is_not_asked() {
    for (path, name) in [("/mcp/a", "t"), ("/mcp", "a__t")] {
        let fake = Fake::default();
        let log = legacy(&fake, "a");
        let world = world(fake);
        let params = json!({"name": name});
        let got = world.send(request(path, 1, &params, &capable(), "x"));
        let asked = last(&got);
        assert_eq!(asked["result"]["inputRequests"].as_object().unwrap().len(), 1, "{asked}");
        assert!(!got.body.contains(SAMPLING), "{}", got.body);
        let params = retry(&params, &asked, json!({"q1": {"action": "accept"}}));
        let got = world.send(request(path, 2, &params, &capable(), "x"));
        assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
        check_refused(&log);
    }
}

#[test]
fn a_client_that_could_do_nothing_but_that_can_be_asked_nothing() {
    let fake = Fake::default();
    let log = Peer::legacy(json!({"tools": {}}))
        .react(|message| {
            let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "done": true}});
            (message["method"] == "tools/call").then(|| events(vec![Ok(question(50)), Ok(end)]))
        })
        .put(&fake, "a");
    let world = world(fake);
    let got = world.send(request("/mcp/a", 1, &json!({"name": "t"}), &json!({"sampling": {}}), "x"));
    assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
    assert_eq!(log.of("")[0]["error"]["code"], -1);
    assert_eq!(world.fake.mailboxes(), 0, "there is nothing to wait for");
}

/// A modern server whose tool asks for a model's words whatever it is told.
fn modern(fake: &Fake, host: &str, streams: bool) -> Log {
    Peer::modern(json!({"tools": {}}))
        .react(move |message| {
            let asks = json!({"resultType": "input_required", "requestState": "s", "inputRequests": {
                "one": {"method": FORM, "params": form().1},
                "two": {"method": SAMPLING, "params": {"messages": [], "maxTokens": 1}}}});
            let response = json!({"jsonrpc": "2.0", "id": message["id"], "result": asks});
            // Written otherwise, it means the same.
            let text = response.to_string().replace(SAMPLING, "sampling\\/create\\u004dessage");
            let sent = Step::Send(format!("data: {text}\n\n").into());
            (message["method"] == "tools/call").then(|| match streams {
                true => events(vec![Err(sent)]),
                false => Script::json(text),
            })
        })
        .put(fake, host)
}

#[test]
fn a_modern_server_is_not_told_and_its_call_fails_if_it_asks_all_the_same() {
    for (path, name) in [("/mcp/a", "t"), ("/mcp", "a__t")] {
        for streams in [false, true] {
            let fake = Fake::default();
            let log = modern(&fake, "a", streams);
            let world = world(fake);
            let check = |got: &Got| {
                assert!(!got.body.contains("inputRequests") && !got.body.contains(FORM), "{}", got.body);
                let error = &last(got)["error"];
                assert_eq!(error["code"], -32603, "{}", got.body);
                assert!(error["message"].as_str().unwrap().contains("sampling: deny"), "{error}");
                let told = &log.of("tools/call").pop().unwrap()["params"]["_meta"][CAPABILITIES];
                assert!(told["sampling"].is_null() && told["roots"].is_object(), "{told}");
            };
            check(&world.send(request(path, 1, &json!({"name": name}), &capable(), "x")));
            let session = open(&world, path, &capable());
            check(&world.send(legacy_call(path, &session, 2, name)));
        }
    }
}

#[test]
fn other_questions_and_other_servers_are_left_alone() {
    let fake = Fake::default();
    let ask = |message: &Value| {
        let asks = json!({"resultType": "input_required", "requestState": "s", "inputRequests": {
            "one": {"method": if message["params"]["name"] == "t" { FORM } else { SAMPLING }, "params": form().1}}});
        (message["method"] == "tools/call").then(|| result(message, asks))
    };
    let tools = json!([{"name": "t", "inputSchema": {"type": "object"}}, {"name": "u", "inputSchema": {"type": "object"}}]);
    let logs = ["a", "b"]
        .map(|host| Peer::modern(json!({"tools": {}})).tools(tools.clone()).react(ask).put(&fake, host));
    let world = World::new(fake, plan(vec![denied("a"), server("b")]));
    let call = |name: &str| world.send(request("/mcp", 1, &json!({"name": name}), &capable(), "x"));
    assert_eq!(last(&call("a__t"))["result"]["resultType"], "input_required");
    assert_eq!(last(&call("a__u"))["error"]["code"], -32603);
    assert_eq!(last(&call("b__u"))["result"]["resultType"], "input_required");
    let told = &logs[1].of("tools/call")[0]["params"]["_meta"][CAPABILITIES];
    assert!(told["sampling"].is_object(), "{told}");
}

#[test]
fn a_server_of_http_and_sse_is_refused_on_its_stream() {
    for (path, name) in [("/mcp/a", "t"), ("/mcp", "a__t")] {
        let fake = Fake::default();
        let old = Old::new(&fake, "a")
            .react(|old, message, session| {
                match message["method"].as_str() {
                    Some("tools/call") => old.say(session, &question(50)),
                    None if message["id"] == 50 => {
                        let id = &old.last("tools/call")["id"];
                        let result = json!({"content": [], "told": message});
                        old.say(session, &json!({"jsonrpc": "2.0", "id": id, "result": result}));
                    }
                    _ => return None,
                }
                Some(accepted())
            })
            .put();
        let url = "http://a/sse".parse().unwrap();
        let transport = causeway::config::plan::Transport::HttpSse;
        let world = World::new(fake, plan(vec![Server { transport, url, ..denied("a") }]));
        let session = open(&world, path, &capable());
        let all = [
            world.send(legacy_call(path, &session, 9, name)),
            world.send(request(path, 1, &json!({"name": name}), &capable(), "x")),
        ];
        for got in all {
            assert!(!got.body.contains(SAMPLING), "{}", got.body);
            assert_eq!(last(&got)["result"]["told"]["error"]["code"], -1, "{}", got.body);
        }
        let seen = old.seen.lock().unwrap();
        let hellos = seen.iter().filter(|(_, message)| message["method"] == "initialize");
        assert!(hellos.clone().count() > 2);
        assert!(
            hellos.map(|(_, hello)| &hello["params"]["capabilities"]).all(|able| able["sampling"].is_null())
        );
    }
}
