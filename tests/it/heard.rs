//! Subscriptions of modern clients that hear the sessions which their calls go over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use causeway::config::glob::Filter;
use causeway::platform::Clock as _;
use causeway::testing::{Fake, Script, Step};
use futures_util::future::join;
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{capable, last, request};
use crate::listen::open_able;
use crate::world::{World, key, plan, server};

const ONE: &str = "x://one";
const TWO: &str = "x://two";

/// A legacy server whose tool `touch` tells of a change of its argument `uri` in the session that it is called in, and
/// nowhere else.
#[derive(Clone, Default)]
struct Touchy {
    fake: Fake,
    sessions: Arc<AtomicU64>,
    /// Sessions up to this one are forgotten.
    forgotten: Arc<AtomicU64>,
    /// What came, as `session method uri`.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Touchy {
    fn put() -> Self {
        let server = Self::default();
        let own = server.clone();
        server.fake.upstream("a", move |request| Ok(own.answer(request)));
        server
    }

    fn answer(&self, request: &Request<Bytes>) -> Script {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let (method, params) = (message["method"].as_str().unwrap_or_default(), &message["params"]);
        let respond = |result: Value| {
            Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
        };
        let id = request.headers().get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        let Some(session) = id else {
            if method != "initialize" {
                return Script::new(400, "application/json", "no session id");
            }
            let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
            let able = json!({"tools": {}, "resources": {"subscribe": true}});
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": able,
                "serverInfo": {"name": "s", "version": "1"}});
            return respond(result).header("mcp-session-id", &number.to_string());
        };
        if session.parse::<u64>().unwrap() <= self.forgotten.load(Ordering::Relaxed) {
            return Script::new(404, "text/plain", "");
        }
        let note = |text: &str| self.seen.lock().unwrap().push(format!("{session} {text}"));
        let uri = params["uri"].as_str().unwrap_or_default();
        if request.method() == "GET" {
            let mut script = Script::new(200, "text/event-stream", "");
            script.body = vec![Step::Hear(session)];
            return script;
        }
        if request.method() == "DELETE" {
            note("DELETE");
            self.fake.say(&session, Step::Over);
            return Script::new(200, "text/plain", "");
        }
        if message.get("id").is_none() {
            return Script::new(202, "text/plain", "");
        }
        match method {
            "resources/subscribe" | "resources/unsubscribe" => {
                note(&format!("{} {uri}", method.trim_start_matches("resources/")));
                respond(json!({}))
            }
            "tools/list" => respond(json!({"tools": [{"name": "touch", "inputSchema": {"type": "object"}}]})),
            "resources/list" => {
                respond(json!({"resources": [{"uri": ONE, "name": "one"}, {"uri": TWO, "name": "two"}]}))
            }
            "resources/templates/list" => respond(json!({"resourceTemplates": []})),
            "tools/call" => {
                let uri = params["arguments"]["uri"].as_str().unwrap();
                note(&format!("touch {uri}"));
                let params = json!({"uri": uri});
                let told =
                    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params});
                self.fake.say(&session, Step::Send(format!("data: {told}\n\n").into()));
                let slow = params["uri"] == "x://slow";
                let script = respond(json!({"content": []}));
                Script { delay: Duration::from_secs(if slow { 5 } else { 0 }), ..script }
            }
            _ => panic!("{message}"),
        }
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn wanted(uris: &[&str]) -> (Value, Value) {
    (json!({"resourceSubscriptions": uris}), capable())
}

async fn touch(world: &World, uri: &str, key: &str) {
    let params = json!({"name": "touch", "arguments": {"uri": uri}});
    let got = world.sent(request("/mcp/a", 1, &params, &capable(), key), async |_: &str| false).await;
    assert!(last(&got)["result"]["content"].is_array(), "{}", got.body);
}

fn world(server_a: &Touchy) -> World {
    World::new(server_a.fake.clone(), plan(vec![server("a")]))
}

#[test]
fn what_a_call_changes_in_its_session_is_heard_by_a_subscription() {
    let server_a = Touchy::put();
    let world = world(&server_a);
    // Also where a call has made the session, and where a call goes over it when the news come.
    for before in [false, true] {
        world.fake.run(async {
            if before {
                touch(&world, TWO, "").await;
            }
            let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE, "x://slow"])).await;
            assert_eq!(heard.acknowledged().await, json!({"resourceSubscriptions": [ONE, "x://slow"]}));
            let slow = join(touch(&world, "x://slow", ""), heard.told_within(2)).await.1;
            assert_eq!(slow.len(), 1, "{slow:?}");
            for _ in 0..3 {
                touch(&world, ONE, "").await;
                let told = heard.told_within(2).await;
                assert!(told.len() == 1 && told[0].contains(ONE), "{told:?}");
            }
            touch(&world, TWO, "").await;
            assert_eq!(heard.told_within(2).await, [""; 0], "nothing that was not asked for");
            heard.hang_up().await;
        });
        world.fake.pass(Duration::from_secs(1));
        let seen = server_a.seen();
        let sessions: Vec<&str> = seen.iter().filter_map(|line| line.split(' ').next()).collect();
        assert!(sessions.iter().all(|session| *session == sessions[0]), "{seen:?}");
        assert!(seen.last().unwrap().contains("unsubscribe"), "{seen:?}");
        world.fake.pass(Duration::from_secs(180));
        let ended = server_a.seen();
        assert!(matches!(ended.as_slice(), [one] if one.ends_with("DELETE")), "{ended:?}");
        assert_eq!(world.fake.mailboxes(), 0);
    }
}

#[test]
fn subscriptions_of_one_client_share_the_session_and_those_of_another_do_not() {
    let server_a = Touchy::put();
    let keys = vec![
        key("alice", Filter::default(), Filter::default()),
        key("bob", Filter::default(), Filter::default()),
    ];
    let plan = causeway::config::Plan { keys, ..plan(vec![server("a")]) };
    let world = World::new(server_a.fake.clone(), plan);
    world.fake.run(async {
        let (alice, bob) = ([("authorization", "Bearer alice-key")], [("authorization", "Bearer bob-key")]);
        let mut first = open_able(&world, "/mcp/a", json!(7), &alice, wanted(&[ONE])).await;
        let mut second = open_able(&world, "/mcp/a", json!(7), &alice, wanted(&[ONE, TWO])).await;
        let mut other = open_able(&world, "/mcp/a", json!(7), &bob, wanted(&[ONE, TWO])).await;
        for heard in [&mut first, &mut second, &mut other] {
            heard.acknowledged().await;
        }
        touch(&world, ONE, "alice-key").await;
        assert_eq!(first.told_within(2).await.len(), 1);
        assert_eq!(second.told_within(2).await.len(), 1);
        assert_eq!(other.told_within(2).await, [""; 0]);
        server_a.seen();
        second.hang_up().await;
        world.fake.sleep(Duration::from_secs(2)).await;
        let left = server_a.seen();
        assert!(matches!(left.as_slice(), [one] if one.ends_with("unsubscribe x://two")), "{left:?}");
        // For as long as somebody listens, the session stays.
        world.fake.sleep(Duration::from_secs(600)).await;
        touch(&world, ONE, "alice-key").await;
        assert_eq!(first.told_within(2).await.len(), 1);
        touch(&world, ONE, "bob-key").await;
        assert_eq!((first.told_within(2).await.len(), other.told_within(2).await.len()), (0, 1));
    });
}

#[test]
fn a_session_that_its_server_has_forgotten_is_replaced_for_calls_and_subscriptions() {
    for ends in [true, false] {
        let server_a = Touchy::put();
        let world = world(&server_a);
        world.fake.run(async {
            let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
            heard.acknowledged().await;
            touch(&world, ONE, "").await;
            assert_eq!(heard.told_within(2).await.len(), 1);
            let opened = server_a.sessions.load(Ordering::Relaxed);
            server_a.forgotten.store(opened, Ordering::Relaxed);
            if ends {
                (1..=opened).for_each(|session| server_a.fake.say(&session.to_string(), Step::Over));
            } else {
                touch(&world, TWO, "").await;
            }
            let told = heard.told_within(5).await;
            assert!(told.len() == 1 && told[0].contains(ONE), "it may have changed meanwhile: {told:?}");
            touch(&world, ONE, "").await;
            assert_eq!(heard.told_within(2).await.len(), 1, "ends {ends}");
        });
    }
}

#[test]
fn a_server_without_a_stream_is_heard_no_otherwise_than_before() {
    let server_a = Touchy::default();
    let own = server_a.clone();
    server_a.fake.upstream("a", move |request| {
        let get = request.method() == "GET";
        Ok(if get { Script::new(405, "text/plain", "") } else { own.answer(request) })
    });
    let world = world(&server_a);
    world.fake.run(async {
        let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
        assert_eq!(heard.acknowledged().await, json!({}));
    });
}
