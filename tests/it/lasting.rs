//! Sessions with HTTP+SSE servers that last as long as a legacy client's own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use causeway::config::Plan;
use causeway::config::plan::{Limits, Server, Transport};
use causeway::platform::Clock as _;
use causeway::testing::{Fake, Script, Step};
use futures_util::future::{join, join_all};
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{capable, in_session, messages, open};
use crate::old::{Old, accepted};
use crate::world::{Got, World, plan, server};

fn entry(name: &'static str) -> Server {
    let url = format!("http://{name}/sse").parse().unwrap();
    let mut entry = Server { transport: Transport::HttpSse, url, ..server(name) };
    entry.timeouts.idle = Duration::from_secs(40);
    entry
}

fn world(fake: &Fake) -> World {
    World::new(fake.clone(), plan(vec![entry("a")]))
}

/// A call of the tool `name`, with its name as progress token.
fn call(path: &str, session: &str, id: u64, name: &str) -> Request<Bytes> {
    let params = json!({"name": name, "_meta": {"progressToken": name}});
    let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
    in_session(path, session, &body)
}

fn made(world: &World, path: &str, session: &str, name: &str) -> Value {
    let got = world.send(call(path, session, 1, name));
    messages(&got.body).pop().unwrap_or_else(|| panic!("{} {}", got.status, got.body))
}

fn told(world: &World, session: &str, method: &str) -> Got {
    world.send(in_session("/mcp/a", session, &json!({"jsonrpc": "2.0", "method": method})))
}

fn get(path: &str, session: &str) -> Request<Bytes> {
    let get = Request::get(path)
        .header("host", "localhost")
        .header("accept", "text/event-stream")
        .header("mcp-session-id", session);
    get.body(Bytes::new()).unwrap()
}

fn delete(path: &str, session: &str) -> Request<Bytes> {
    let delete = Request::delete(path).header("host", "localhost").header("mcp-session-id", session);
    delete.body(Bytes::new()).unwrap()
}

/// The sessions that messages of `method` came over. The first is the one in which the gateway found out what the server
/// is.
fn over(old: &Old, method: &str) -> Vec<u64> {
    let seen = old.seen.lock().unwrap();
    seen.iter().filter(|(_, message)| message["method"] == method).map(|(session, _)| *session).collect()
}

#[test]
fn calls_of_a_client_go_over_one_session_and_those_of_another_over_its_own() {
    for (path, name) in [("/mcp/a", "t"), ("/mcp", "a__t")] {
        let old = Old::new(&Fake::default(), "a").put();
        let world = world(&old.fake);
        let (one, other) = (open(&world, path, &capable()), open(&world, path, &json!({})));
        for session in [&one, &one, &other, &one, &other] {
            assert_eq!(made(&world, path, session, name)["result"]["did"], "tools/call");
        }
        let sessions = over(&old, "tools/call");
        let [first, second, third, fourth, fifth] = sessions[..] else { panic!("{sessions:?}") };
        assert_eq!((first, first, third), (second, fourth, fifth), "{sessions:?}");
        assert_ne!(first, third);
        // What a client can do is what its session was opened with.
        let seen = old.seen.lock().unwrap();
        let able = |session| {
            let opened =
                seen.iter().find(|(at, message)| *at == session && message["method"] == "initialize");
            opened.unwrap().1["params"]["capabilities"].clone()
        };
        assert_eq!((able(first), able(third)), (capable(), json!({})));
    }
}

/// A server whose calls are answered when `wait` of them have come, the last one first, each with progress before.
fn gathering(fake: &Fake, wait: usize) -> Old {
    let calls: Mutex<Vec<Value>> = Mutex::default();
    Old::new(fake, "a")
        .react(move |old, message, session| {
            if message["method"] != "tools/call" {
                return None;
            }
            let mut calls = calls.lock().unwrap();
            calls.push(message.clone());
            if calls.len() == wait {
                let progress = |call: &Value| {
                    let params =
                        json!({"progressToken": call["params"]["_meta"]["progressToken"], "progress": 1});
                    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
                };
                calls.iter().for_each(|call| old.say(session, &progress(call)));
                calls.drain(..).rev().for_each(|call| old.say(session, &old.result(&call).unwrap()));
            }
            Some(accepted())
        })
        .put()
}

#[test]
fn calls_at_the_same_time_get_each_what_is_theirs_even_by_one_id() {
    let old = gathering(&Fake::default(), 8);
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &json!({}));
    let names: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
    let calls = names.iter().map(|name| world.sent(call("/mcp/a", &session, 7, name), async |_: &str| false));
    for (got, name) in world.fake.run(join_all(calls)).iter().zip(&names) {
        let all = messages(&got.body);
        assert_eq!(all.len(), 2, "{}", got.body);
        assert_eq!(all[0]["params"]["progressToken"], **name);
        assert_eq!((&all[1]["id"], &all[1]["result"]["with"]["name"]), (&json!(7), &json!(name)));
    }
    let sessions = over(&old, "tools/call");
    assert!(sessions.len() == 8 && sessions.iter().all(|session| *session == sessions[0]), "{sessions:?}");
}

#[test]
fn no_more_calls_run_over_a_session_than_may() {
    let old = Old::new(&Fake::default(), "a")
        .react(|_, message, _| (message["params"]["name"] == "slow").then(accepted))
        .put();
    let limits = Limits { parked: 2, ..Limits::default() };
    let world = World::new(old.fake.clone(), Plan { limits, ..plan(vec![entry("a")]) });
    let session = open(&world, "/mcp/a", &json!({}));
    let sent = |id, name: &'static str| world.sent(call("/mcp/a", &session, id, name), async |_: &str| false);
    let (slow, third) = world.fake.run(join(join(sent(1, "slow"), sent(2, "slow")), async {
        world.fake.sleep(Duration::from_secs(1)).await;
        let third = sent(3, "t").await;
        let calls = old.seen.lock().unwrap().clone();
        for (session, message) in calls.iter().filter(|(_, message)| message["method"] == "tools/call") {
            old.say(*session, &old.result(message).unwrap());
        }
        third
    }));
    assert!(third.body.contains("limits.parked"), "{}", third.body);
    assert!(slow.0.body.contains("\"did\"") && slow.1.body.contains("\"did\""), "{}", slow.0.body);
    assert_eq!(made(&world, "/mcp/a", &session, "t")["result"]["did"], "tools/call", "there is room again");
}

#[test]
fn a_session_whose_server_ends_it_is_opened_anew_and_its_calls_are_told() {
    let old = Old::new(&Fake::default(), "a")
        .react(|old, message, session| {
            let end = match message["params"]["name"].as_str()? {
                "ends" => Step::Over,
                "cuts" => Step::Cut,
                _ => return None,
            };
            old.step(session, end);
            Some(accepted())
        })
        .put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &json!({}));
    for name in ["ends", "cuts"] {
        let got = world.send(call("/mcp/a", &session, 1, name));
        let all = messages(&got.body);
        assert_eq!(all.len(), 1, "one error: {}", got.body);
        assert_eq!(all[0]["id"], 1);
        assert!(all[0]["error"]["message"].as_str().unwrap().starts_with("server \"a\": "), "{}", got.body);
        assert_eq!(made(&world, "/mcp/a", &session, "t")["result"]["did"], "tools/call");
    }
    assert_eq!(over(&old, "tools/call"), [2, 3, 3, 4]);
    // One that ends while nobody calls.
    old.step(4, Step::Over);
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(world.fake.mailboxes(), 0, "nothing is left of it");
    assert_eq!(made(&world, "/mcp/a", &session, "t")["result"]["did"], "tools/call");
    assert_eq!(over(&old, "tools/call").last(), Some(&5));
}

#[test]
fn a_session_that_the_server_has_forgotten_is_opened_anew_for_the_same_call() {
    for status in [400, 404, 410] {
        let old = Old::new(&Fake::default(), "a")
            .react(move |_, message, session| {
                let forgotten = message["params"]["name"] == "again" && session == 2;
                forgotten.then(|| Script::new(status, "text/plain", "no such session"))
            })
            .put();
        let world = world(&old.fake);
        let session = open(&world, "/mcp/a", &json!({}));
        made(&world, "/mcp/a", &session, "t");
        assert_eq!(made(&world, "/mcp/a", &session, "again")["result"]["with"]["name"], "again");
        assert_eq!(over(&old, "tools/call"), [2, 2, 3]);
    }
    // A call that is refused for itself costs nobody the session.
    let old = Old::new(&Fake::default(), "a")
        .react(|_, message, _| {
            (message["params"]["name"] == "large").then(|| Script::new(413, "text/plain", "too large"))
        })
        .put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &json!({}));
    made(&world, "/mcp/a", &session, "t");
    let refused = made(&world, "/mcp/a", &session, "large");
    assert!(refused["error"]["message"].as_str().unwrap().contains("HTTP 413"), "{refused}");
    made(&world, "/mcp/a", &session, "t");
    assert_eq!(over(&old, "tools/call"), [2, 2, 2]);
}

#[test]
fn the_end_of_the_clients_session_closes_the_stream_and_ends_its_calls() {
    for path in ["/mcp/a", "/mcp"] {
        let name = if path == "/mcp" { "a__slow" } else { "slow" };
        let old = Old::new(&Fake::default(), "a")
            .react(|_, message, _| (message["params"]["name"] == "slow").then(accepted))
            .put();
        let world = world(&old.fake);
        let session = open(&world, path, &json!({}));
        made(&world, path, &session, &name.replace("slow", "t"));
        let running = world.sent(call(path, &session, 1, name), async |_: &str| false);
        let ended = async {
            world.fake.sleep(Duration::from_secs(3)).await;
            let before = world.fake.dropped();
            (world.sent(delete(path, &session), async |_: &str| false).await, before)
        };
        let (_, (ended, before)) = world.fake.run(join(running, ended));
        assert_eq!(ended.status, 204);
        world.fake.pass(Duration::from_secs(1));
        assert!(world.fake.dropped() > before);
        assert_eq!(world.fake.mailboxes(), 0);
    }
}

#[test]
fn a_session_that_nobody_uses_is_ended_after_a_while() {
    let old = Old::new(&Fake::default(), "a").put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &json!({}));
    made(&world, "/mcp/a", &session, "t");
    world.fake.pass(Duration::from_secs(9 * 60));
    made(&world, "/mcp/a", &session, "t");
    world.fake.pass(Duration::from_secs(9 * 60));
    made(&world, "/mcp/a", &session, "t");
    assert_eq!(over(&old, "tools/call"), [2, 2, 2]);
    let before = world.fake.dropped();
    world.fake.pass(Duration::from_secs(11 * 60));
    assert_eq!((world.fake.dropped(), world.fake.mailboxes()), (before + 1, 0));
    made(&world, "/mcp/a", &session, "t");
    assert_eq!(over(&old, "tools/call").last(), Some(&3));
}

#[test]
fn what_the_client_tells_reaches_the_session() {
    let old = Old::new(&Fake::default(), "a").put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &capable());
    told(&world, &session, "notifications/roots/list_changed");
    assert_eq!(over(&old, "notifications/roots/list_changed"), [0; 0], "there is none to tell");
    made(&world, "/mcp/a", &session, "t");
    told(&world, &session, "notifications/roots/list_changed");
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(over(&old, "notifications/roots/list_changed"), [2]);
    for level in ["debug", "error"] {
        let got = world.legacy("/mcp/a", &session, "logging/setLevel", json!({"level": level}));
        assert_eq!(got.brief(), "200 ok");
        world.fake.pass(Duration::from_secs(1));
        assert_eq!(old.last("logging/setLevel")["params"]["level"], level);
        made(&world, "/mcp/a", &session, "t");
    }
    assert_eq!(over(&old, "tools/call"), [2, 2, 2]);
}

#[test]
fn what_the_client_tells_while_its_session_is_opened_waits_within_bounds() {
    let old = Old::new(&Fake::default(), "a").react(|old, message, session| {
        if message["method"] == "initialize" && session == 2 {
            old.step(session, Step::Wait(Duration::from_secs(3)));
        }
        None
    });
    let old = old.put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &capable());
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    world.fake.run(async {
        let call = world.sent(call("/mcp/a", &session, 1, "t"), async |_: &str| false);
        let tell = async {
            world.fake.sleep(Duration::from_secs(1)).await;
            for _ in 0..300 {
                let got = world.sent(in_session("/mcp/a", &session, &changed), async |_: &str| false).await;
                assert_eq!(got.status, 202, "{}", got.body);
            }
        };
        let (got, ()) = join(call, tell).await;
        assert!(got.body.contains("tools/call"), "{}", got.body);
    });
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(over(&old, "notifications/roots/list_changed"), [2; 256]);
    assert_eq!(dropped(&world), ["line.dropped a 44"]);
    // There is room again.
    told(&world, &session, "notifications/roots/list_changed");
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(over(&old, "notifications/roots/list_changed").len(), 257);
}

/// What the log says of dropped messages: `event server caller messages`.
fn dropped(world: &World) -> Vec<String> {
    let lines = world.fake.logged().into_iter().filter(|line| line.contains(".dropped"));
    let lines = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or("-").to_owned();
    let brief =
        |line: Value| format!("{} {} {}", text(&line, "event"), text(&line, "server"), line["messages"]);
    lines.map(brief).collect()
}

#[test]
fn a_server_that_takes_no_messages_is_not_waited_for_without_end_and_that_is_said() {
    let old = Old::new(&Fake::default(), "a").react(|_, message, _| {
        let slow = message["method"] == "notifications/roots/list_changed";
        slow.then(|| Script { delay: Duration::from_secs(10), ..accepted() })
    });
    let old = old.put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &capable());
    made(&world, "/mcp/a", &session, "t");
    for _ in 0..300 {
        assert_eq!(told(&world, &session, "notifications/roots/list_changed").status, 202);
        world.fake.settle();
    }
    assert_eq!(dropped(&world), [""; 0]);
    world.fake.pass(Duration::from_secs(11));
    assert_eq!(dropped(&world), ["line.dropped a 44"]);
    assert_eq!(made(&world, "/mcp/a", &session, "t")["result"]["did"], "tools/call");
    assert_eq!(over(&old, "tools/call"), [2, 2], "the session goes on");
}

#[test]
fn what_is_told_while_nobody_reads_is_kept_within_bounds_and_the_rest_is_said_once() {
    for path in ["/mcp/a", "/mcp"] {
        let old = Old::new(&Fake::default(), "a").put();
        let limits = Limits { replay: 4096, ..Limits::default() };
        let world = World::new(old.fake.clone(), Plan { limits, ..plan(vec![entry("a")]) });
        let session = open(&world, path, &capable());
        let listens = || world.sent(get(path, &session), async |_: &str| true);
        assert_eq!(world.fake.run(listens()).body, ":\n");
        for number in 0..10 {
            let params = json!({"level": "info", "data": format!("{number} {}", "x".repeat(1000))});
            old.say(2, &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params}));
            world.fake.pass(Duration::from_secs(1));
        }
        assert_eq!(dropped(&world), [""; 0]);
        let back = world.sent(get(path, &session), async |seen: &str| seen.contains("\"9 x"));
        let back = world.fake.run(back);
        assert_eq!(messages(&back.body).len(), 4);
        let server = if path == "/mcp" { "-" } else { "a" };
        assert_eq!(dropped(&world), [format!("stream.dropped {server} 6")]);
        world.fake.run(listens());
        assert_eq!(dropped(&world), [""; 0], "once");
    }
}

#[test]
fn what_belongs_to_no_call_comes_on_the_stream_of_the_clients_session() {
    for path in ["/mcp/a", "/mcp"] {
        let old = Old::new(&Fake::default(), "a").put();
        let world = world(&old.fake);
        let session = open(&world, path, &capable());
        let subscribe =
            json!({"jsonrpc": "2.0", "id": 3, "method": "resources/subscribe", "params": {"uri": "x://r"}});
        let step = AtomicUsize::new(0);
        let listening = world.sent(get(path, &session), async |seen: &str| {
            let all = messages(seen);
            let number = step.fetch_add(1, Ordering::Relaxed);
            match number {
                0 => {
                    let got = world.sent(in_session(path, &session, &subscribe), async |_: &str| false).await;
                    assert_eq!(got.brief(), "200 ok", "{}", got.body);
                    for (method, params) in [
                        ("notifications/tools/list_changed", json!({})),
                        ("notifications/resources/updated", json!({"uri": "x://r"})),
                        ("notifications/resources/updated", json!({"uri": "x://other"})),
                        ("notifications/message", json!({"level": "info", "data": "d"})),
                    ] {
                        old.say(2, &json!({"jsonrpc": "2.0", "method": method, "params": params}));
                    }
                    old.say(2, &json!({"jsonrpc": "2.0", "id": 0, "method": "ping"}));
                    old.say(2, &json!({"jsonrpc": "2.0", "id": "q", "method": "roots/list"}));
                }
                _ if all.last().is_some_and(|last| last["method"] == "roots/list") => {
                    let methods: Vec<_> =
                        all.iter().map(|message| message["method"].as_str().unwrap()).collect();
                    assert_eq!(
                        methods,
                        [
                            "notifications/tools/list_changed",
                            "notifications/resources/updated",
                            "notifications/message",
                            "roots/list"
                        ]
                    );
                    let id = &all.last().unwrap()["id"];
                    let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"roots": []}});
                    world.sent(in_session(path, &session, &answer), async |_: &str| false).await;
                    return true;
                }
                _ => {}
            }
            false
        });
        world.fake.run(listening);
        let seen = old.seen.lock().unwrap().clone();
        let replies: Vec<_> = seen.iter().filter(|(_, message)| message.get("method").is_none()).collect();
        assert_eq!(replies.len(), 2, "{replies:?}");
        assert_eq!(replies[0], &(2, json!({"jsonrpc": "2.0", "id": 0, "result": {}})));
        assert_eq!(replies[1], &(2, json!({"jsonrpc": "2.0", "id": "q", "result": {"roots": []}})));
        let subscribed = over(&old, "resources/subscribe");
        assert_eq!(subscribed, [2], "over the session that brings the updates");
        // The calls go over the session that is heard.
        let name = if path == "/mcp" { "a__t" } else { "t" };
        made(&world, path, &session, name);
        assert_eq!(over(&old, "tools/call"), [2]);
    }
}

#[test]
fn subscriptions_are_made_anew_with_the_session_that_is_listened_to() {
    let old = Old::new(&Fake::default(), "a").put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &capable());
    let got = world.legacy("/mcp/a", &session, "resources/subscribe", json!({"uri": "x://r"}));
    assert_eq!(got.brief(), "200 ok");
    let ended = AtomicUsize::new(0);
    let listening = world.sent(get("/mcp/a", &session), async |seen: &str| {
        if ended.fetch_add(1, Ordering::Relaxed) == 0 {
            old.step(2, Step::Over);
        }
        seen.contains("resources/updated")
    });
    world.fake.run(listening);
    assert_eq!(over(&old, "resources/subscribe").last(), Some(&3), "{:?}", over(&old, "resources/subscribe"));
}

#[test]
fn a_question_without_anybody_to_ask_is_declined() {
    let old = Old::new(&Fake::default(), "a").put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &capable());
    made(&world, "/mcp/a", &session, "t");
    old.say(2, &json!({"jsonrpc": "2.0", "id": 5, "method": "roots/list"}));
    world.fake.pass(Duration::from_secs(1));
    let (_, reply) = old.seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(5), &json!(-32601)));
}

#[test]
fn a_call_lives_for_as_long_as_its_server_shows_that_it_does() {
    let old = Old::new(&Fake::default(), "a")
        .react(|old, message, session| {
            let alive = match message["params"]["name"].as_str()? {
                "alive" => true,
                "silent" => false,
                _ => return None,
            };
            for _ in 0..6 {
                old.step(session, Step::Wait(Duration::from_secs(30)));
                if alive {
                    old.raw(session, ": still here\n");
                }
            }
            old.say(session, &old.result(message)?);
            Some(accepted())
        })
        .put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &json!({}));
    assert_eq!(made(&world, "/mcp/a", &session, "alive")["result"]["did"], "tools/call");
    let silent = made(&world, "/mcp/a", &session, "silent");
    assert!(silent["error"]["message"].as_str().unwrap().contains("timeouts.idle"), "{silent}");
    world.fake.pass(Duration::from_secs(1));
    let id = old.last("tools/call")["id"].clone();
    assert_eq!(old.last("notifications/cancelled")["params"]["requestId"], id, "it is cancelled");
}

#[test]
fn a_reader_who_does_not_read_is_given_up_and_the_others_go_on() {
    let old = Old::new(&Fake::default(), "a")
        .react(|old, message, session| {
            if message["params"]["name"] != "talks" {
                return None;
            }
            let text = "x".repeat(100_000);
            for _ in 0..10 {
                let params = json!({"progressToken": "talks", "progress": 1, "message": text});
                old.say(
                    session,
                    &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}),
                );
            }
            Some(accepted())
        })
        .put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &json!({}));
    let slow = world.sent(call("/mcp/a", &session, 1, "talks"), async |_: &str| {
        world.fake.sleep(Duration::from_secs(100)).await;
        true
    });
    let other = async {
        world.fake.sleep(Duration::from_secs(1)).await;
        let got = world.sent(call("/mcp/a", &session, 2, "t"), async |_: &str| false).await;
        (got, world.fake.now())
    };
    let began = world.fake.now();
    let (_, (got, at)) = world.fake.run(join(slow, other));
    assert!(got.body.contains("\"did\""), "{}", got.body);
    assert!(at.since(began) <= Duration::from_secs(35), "{:?}", at.since(began));
}

#[test]
fn a_session_goes_on_from_another_instance_of_a_host_that_polls() {
    let old = Old::new(&Fake::default(), "a").put();
    let first = world(&old.fake);
    let (one, two) = (first.further(), first.further());
    let session = open(&one, "/mcp/a", &json!({}));
    for world in [&one, &two, &one, &two] {
        assert_eq!(made(world, "/mcp/a", &session, "t")["result"]["did"], "tools/call");
    }
    assert_eq!(over(&old, "tools/call"), [2, 2, 2, 2]);
    assert_eq!((one.fake.owns(), two.fake.owns()), (1, 0));
    assert_eq!(two.send(delete("/mcp/a", &session)).status, 204);
    one.fake.pass(Duration::from_secs(5));
    assert_eq!((one.fake.owns(), two.fake.owns()), (0, 0));
}

#[test]
fn sessions_end_with_the_entry_that_they_were_opened_by() {
    let old = Old::new(&Fake::default(), "a").put();
    let world = world(&old.fake);
    let session = open(&world, "/mcp/a", &json!({}));
    made(&world, "/mcp/a", &session, "t");
    let mut changed = entry("a");
    changed.headers.insert("authorization", "Bearer other".parse().unwrap());
    let changed = Plan { digest: "changed".to_owned(), ..plan(vec![changed]) };
    world.instance.install(Arc::new(changed));
    made(&world, "/mcp/a", &session, "t");
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(over(&old, "tools/call"), [2, 4]);
    assert_eq!(old.keys.lock().unwrap().last().unwrap(), "Bearer other");
}
