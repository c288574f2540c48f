//! The same where the server is one of HTTP+SSE: one stream carries what its calls are answered and what is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway::config::Plan;
use causeway::config::glob::Filter;
use causeway::config::plan::{Server, Transport};
use causeway::platform::Clock as _;
use causeway::testing::{Fake, Script, Step};
use futures_util::future::join;
use serde_json::{Value, json};

use crate::bridge::{capable, form, last, messages, request, retry};
use crate::listen::open_able;
use crate::old::{Old, accepted};
use crate::world::{World, key, plan, server};

const ONE: &str = "x://one";
const TWO: &str = "x://two";

fn entry() -> Server {
    let mut entry =
        Server { transport: Transport::HttpSse, url: "http://a/sse".parse().unwrap(), ..server("a") };
    entry.timeouts.idle = Duration::from_secs(40);
    entry
}

fn update(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
}

/// A server whose tools tell of a change of the resource `uri` in the session that they are called in, and nowhere else.
/// `touch` is answered after that, `wait` only when the test says so, and `ask` when it has asked.
fn put() -> Old {
    let asked: Mutex<Vec<(u64, Value)>> = Mutex::default();
    Old::new(&Fake::default(), "a")
        .react(move |old, message, session| {
            if message["id"] == "question" {
                let mut asked = asked.lock().unwrap();
                for (session, call) in asked.drain(..) {
                    old.say(session, &old.result(&call).unwrap());
                }
                return Some(accepted());
            }
            if message["params"]["uri"] == "x://no" {
                let error = json!({"code": -32002, "message": "no such resource"});
                old.say(session, &json!({"jsonrpc": "2.0", "id": message["id"], "error": error}));
                return Some(accepted());
            }
            let uri = message["params"]["arguments"]["uri"].as_str()?;
            // In one breath with the answer: who reads the stream for the call reads both.
            let answer = old.result(message).unwrap();
            let told = format!("data: {}\n\n", update(uri));
            match message["params"]["name"].as_str()? {
                "touch" => old.raw(session, &format!("{told}data: {answer}\n\n{told}")),
                "wait" => old.raw(session, &told),
                "flood" => {
                    old.raw(session, &told.repeat(4000));
                    old.say(session, &answer);
                }
                "ask" => {
                    let (method, params) = form();
                    let question =
                        json!({"jsonrpc": "2.0", "id": "question", "method": method, "params": params});
                    old.raw(session, &format!("{told}data: {question}\n\n"));
                    asked.lock().unwrap().push((session, message.clone()));
                }
                _ => return None,
            }
            Some(accepted())
        })
        .put()
}

fn world(old: &Old) -> World {
    World::new(old.fake.clone(), plan(vec![entry()]))
}

fn wanted(uris: &[&str]) -> (Value, Value) {
    (json!({"resourceSubscriptions": uris}), capable())
}

fn params(name: &str, uri: &str) -> Value {
    json!({"name": name, "arguments": {"uri": uri}})
}

async fn touch(world: &World, uri: &str, key: &str) {
    let request = request("/mcp/a", 1, &params("touch", uri), &capable(), key);
    let got = world.sent(request, async |_: &str| false).await;
    assert_eq!(last(&got)["result"]["did"], "tools/call", "{}", got.body);
}

/// The session that was called or subscribed in last.
fn session(old: &Old) -> u64 {
    let seen = old.seen.lock().unwrap();
    let of =
        |message: &Value| matches!(message["method"].as_str(), Some("tools/call" | "resources/subscribe"));
    seen.iter().rfind(|(_, message)| of(message)).unwrap().0
}

/// The sessions of calls and subscriptions, in short.
fn seen(old: &Old) -> Vec<String> {
    let seen = std::mem::take(&mut *old.seen.lock().unwrap());
    let of = |(session, message): &(u64, Value)| {
        let params = &message["params"];
        let uri = params["uri"].as_str().or(params["arguments"]["uri"].as_str())?;
        let method = message["method"].as_str()?.trim_start_matches("resources/");
        Some(format!("{session} {} {uri}", method.trim_start_matches("tools/")))
    };
    seen.iter().filter_map(of).collect()
}

#[test]
fn what_a_call_changes_in_its_session_is_heard_on_the_one_stream() {
    for before in [false, true] {
        let old = put();
        let world = world(&old);
        world.fake.run(async {
            if before {
                touch(&world, TWO, "").await;
            }
            let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE, "x://no"])).await;
            assert_eq!(heard.acknowledged().await, json!({"resourceSubscriptions": [ONE]}));
            for _ in 0..3 {
                touch(&world, ONE, "").await;
                let told = heard.told_within(2).await;
                assert!(told.len() == 2 && told.iter().all(|one| one.contains(ONE)), "{told:?}");
            }
            touch(&world, TWO, "").await;
            assert_eq!(heard.told_within(2).await, [""; 0], "nothing that was not asked for");
            // With nobody there to be asked.
            let question = json!({"jsonrpc": "2.0", "id": "question", "method": "roots/list"});
            old.say(session(&old), &question);
            old.say(session(&old), &update(ONE));
            assert_eq!(heard.told_within(2).await.len(), 1);
            assert_eq!(old.seen.lock().unwrap().last().unwrap().1["error"]["code"], -32601);
            // For as long as somebody listens, the session stays.
            world.fake.sleep(Duration::from_secs(600)).await;
            touch(&world, ONE, "").await;
            assert_eq!(heard.told_within(2).await.len(), 2);
            heard.hang_up().await;
        });
        world.fake.pass(Duration::from_secs(1));
        let (own, seen) = (format!("{} ", session(&old)), seen(&old));
        assert!(seen.iter().all(|line| line.starts_with(&own)), "{seen:?}");
        assert_eq!(*seen.last().unwrap(), format!("{own}unsubscribe x://one"));
        world.fake.pass(Duration::from_secs(180));
        assert_eq!(world.fake.mailboxes(), 0);
    }
}

#[test]
fn subscriptions_of_one_client_share_its_stream_and_those_of_another_do_not() {
    let old = put();
    let keys = vec![
        key("alice", Filter::default(), Filter::default()),
        key("bob", Filter::default(), Filter::default()),
    ];
    let world = World::new(old.fake.clone(), Plan { keys, ..plan(vec![entry()]) });
    world.fake.run(async {
        let (alice, bob) = ([("authorization", "Bearer alice-key")], [("authorization", "Bearer bob-key")]);
        let mut first = open_able(&world, "/mcp/a", json!(7), &alice, wanted(&[ONE])).await;
        first.acknowledged().await;
        let mut second = open_able(&world, "/mcp/a", json!(7), &alice, wanted(&[ONE, TWO])).await;
        second.acknowledged().await;
        let mut other = open_able(&world, "/mcp/a", json!(7), &bob, wanted(&[ONE, TWO])).await;
        other.acknowledged().await;
        touch(&world, ONE, "alice-key").await;
        let own = session(&old);
        assert_eq!(first.told_within(2).await.len(), 2);
        assert_eq!(second.told_within(2).await.len(), 2);
        assert_eq!(other.told_within(2).await, [""; 0]);
        seen(&old);
        second.hang_up().await;
        world.fake.sleep(Duration::from_secs(2)).await;
        assert_eq!(seen(&old), [format!("{own} unsubscribe x://two")]);
        touch(&world, ONE, "bob-key").await;
        assert_eq!((first.told_within(2).await.len(), other.told_within(2).await.len()), (0, 2));
    });
}

#[test]
fn subscriptions_that_come_at_once_open_one_session() {
    let opened = |old: &Old| {
        let seen = old.seen.lock().unwrap();
        seen.iter().filter(|(_, message)| message["method"] == "initialize").count()
    };
    let three = async |world: &World, uris: [&str; 3]| {
        let [one, two, three] = uris.map(|uri| wanted(if uri == ONE { &[ONE] } else { &[TWO] }));
        let open = |wanted| open_able(world, "/mcp/a", json!(7), &[], wanted);
        let (one, (two, three)) = join(open(one), join(open(two), open(three))).await;
        [one, two, three]
    };
    let old = put();
    let world = world(&old);
    world.modern("/mcp", "tools/list", json!({}));
    let before = opened(&old);
    world.fake.run(async {
        let mut all = three(&world, [ONE, TWO, ONE]).await;
        for (heard, uri) in all.iter_mut().zip([ONE, TWO, ONE]) {
            assert_eq!(heard.acknowledged().await, json!({"resourceSubscriptions": [uri]}));
        }
        touch(&world, ONE, "").await;
        for (heard, count) in all.iter_mut().zip([2, 0, 2]) {
            assert_eq!(heard.told_within(2).await.len(), count);
        }
        assert_eq!(opened(&old), before + 1);
    });
}

#[test]
fn a_subscription_that_comes_in_mid_call_hears_the_session_of_the_call() {
    let old = put();
    let world = world(&old);
    world.fake.run(async {
        let made =
            world.sent(request("/mcp/a", 1, &params("wait", ONE), &capable(), ""), async |_: &str| false);
        let listens = async {
            world.fake.sleep(Duration::from_secs(1)).await;
            let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
            assert_eq!(heard.acknowledged().await, json!({"resourceSubscriptions": [ONE]}));
            let own = session(&old);
            old.say(own, &update(ONE));
            assert_eq!(heard.told_within(2).await.len(), 1);
            let call = old.last("tools/call");
            old.say(own, &old.result(&call).unwrap());
            old.say(own, &update(ONE));
            assert_eq!(heard.told_within(2).await.len(), 1);
            touch(&world, ONE, "").await;
            assert_eq!(heard.told_within(2).await.len(), 2);
        };
        let (got, ()) = join(made, listens).await;
        assert_eq!(last(&got)["result"]["did"], "tools/call", "{}", got.body);
    });
    let (own, seen) = (format!("{} ", session(&old)), seen(&old));
    assert!(seen.iter().all(|line| line.starts_with(&own)), "{seen:?}");
}

#[test]
fn what_is_told_while_a_call_waits_for_its_client_is_heard() {
    let old = put();
    let world = world(&old);
    world.fake.run(async {
        let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
        heard.acknowledged().await;
        let params = params("ask", ONE);
        let ask = async |id, params: &Value| {
            world.sent(request("/mcp/a", id, params, &capable(), ""), async |_: &str| false).await
        };
        let asked = last(&ask(1, &params).await);
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        assert_eq!(heard.told_within(2).await.len(), 1);
        old.say(session(&old), &update(ONE));
        assert_eq!(heard.told_within(2).await.len(), 1, "with nobody there but the subscription");
        // A call at the same time has another session, whose questions are its own.
        touch(&world, ONE, "").await;
        assert_eq!(heard.told_within(2).await, [""; 0]);
        let answers = json!({"q1": {"action": "accept", "content": {}}});
        let got = ask(2, &retry(&params, &asked, answers)).await;
        assert_eq!(last(&got)["result"]["did"], "tools/call", "{}", got.body);
        touch(&world, ONE, "").await;
        assert_eq!(heard.told_within(2).await.len(), 2, "it is the next call's again");
    });
}

#[test]
fn what_a_server_says_while_its_client_is_away_is_kept_within_bounds_and_the_rest_is_said() {
    let old = put();
    let world = world(&old);
    world.fake.run(async {
        let params = params("ask", ONE);
        let ask = async |id, params: &Value| {
            world.sent(request("/mcp/a", id, params, &capable(), ""), async |_: &str| false).await
        };
        let asked = last(&ask(1, &params).await);
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        for progress in 0..300 {
            let params = json!({"progressToken": 5, "progress": progress});
            let told = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
            old.say(session(&old), &told);
        }
        world.fake.sleep(Duration::from_secs(1)).await;
        let answers = json!({"q1": {"action": "accept", "content": {}}});
        let got = ask(2, &retry(&params, &asked, answers)).await;
        assert_eq!(last(&got)["result"]["did"], "tools/call", "{}", got.body);
        let all = messages(&got.body);
        assert_eq!((all.len(), &all[0]["params"]["progress"]), (257, &json!(44)));
    });
    let logged = world.fake.logged();
    let said: Vec<&String> = logged.iter().filter(|line| line.contains("park.dropped")).collect();
    let [one] = said[..] else { panic!("{said:?}") };
    assert!(one.contains("\"server\":\"a\"") && one.contains("\"messages\":44,"), "{one}");
}

#[test]
fn a_stream_that_breaks_is_told_to_calls_and_subscriptions_and_taken_up_again() {
    for (idle, step) in [(true, Step::Over), (true, Step::Cut), (false, Step::Over), (false, Step::Cut)] {
        let old = put();
        let world = world(&old);
        world.fake.run(async {
            let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
            heard.acknowledged().await;
            let own = session(&old);
            if idle {
                old.step(own, step);
            } else {
                let call = request("/mcp/a", 1, &params("wait", TWO), &capable(), "");
                let ends = async {
                    world.fake.sleep(Duration::from_secs(1)).await;
                    old.step(own, step);
                };
                let (got, ()) = join(world.sent(call, async |_: &str| false), ends).await;
                let said = last(&got)["error"]["message"].as_str().unwrap().to_owned();
                assert!(said.starts_with("server \"a\": "), "{said}");
            }
            let told = heard.told_within(5).await;
            assert!(told.len() == 1 && told[0].contains(ONE), "it may have changed meanwhile: {told:?}");
            touch(&world, ONE, "").await;
            assert_eq!(heard.told_within(2).await.len(), 2, "idle {idle}");
        });
        let (own, seen) = (session(&old), seen(&old));
        let after: Vec<&String> = seen.iter().filter(|line| line.starts_with(&format!("{own} "))).collect();
        assert_eq!(
            after[..2],
            [&format!("{own} subscribe x://one"), &format!("{own} call x://one")],
            "{seen:?}"
        );
    }
}

#[test]
fn a_session_that_its_server_has_forgotten_is_replaced_for_calls_and_for_subscriptions() {
    for called_first in [true, false] {
        let forgotten = Arc::new(AtomicU64::new(0));
        let (usual, up_to) = (put().react.clone(), forgotten.clone());
        let old = Old::new(&Fake::default(), "a")
            .react(move |old, message, session| {
                let knows = session > up_to.load(Ordering::Relaxed);
                if knows { usual(old, message, session) } else { Some(Script::new(404, "text/plain", "")) }
            })
            .put();
        let world = world(&old);
        world.fake.run(async {
            if called_first {
                // The subscription finds out.
                touch(&world, TWO, "").await;
                forgotten.store(session(&old), Ordering::Relaxed);
                let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
                assert_eq!(heard.acknowledged().await, json!({"resourceSubscriptions": [ONE]}));
                touch(&world, ONE, "").await;
                assert_eq!(heard.told_within(2).await.len(), 2);
            } else {
                // The call does.
                let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
                heard.acknowledged().await;
                forgotten.store(session(&old), Ordering::Relaxed);
                touch(&world, TWO, "").await;
                assert_eq!(heard.told_within(5).await.len(), 1, "it may have changed meanwhile");
                touch(&world, ONE, "").await;
                assert_eq!(heard.told_within(2).await.len(), 2);
            }
        });
    }
}

#[test]
fn a_call_that_is_given_up_leaves_the_session_to_the_subscription_and_calls_come_back_to_it() {
    let old = put();
    let world = world(&old);
    world.fake.run(async {
        let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
        heard.acknowledged().await;
        let call = request("/mcp/a", 1, &params("ask", ONE), &capable(), "");
        let asked = last(&world.sent(call, async |_: &str| false).await);
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        assert_eq!(heard.told_within(2).await.len(), 1);
        // Nobody comes back to it.
        world.fake.sleep(Duration::from_secs(10 * 60 + 5)).await;
        assert_eq!(old.last("notifications/cancelled")["params"]["reason"], "the client has gone");
        let own = session(&old);
        old.say(own, &update(ONE));
        assert_eq!(heard.told_within(2).await.len(), 1, "it is heard on");
        seen(&old);
        touch(&world, ONE, "").await;
        assert_eq!(heard.told_within(2).await, [""; 0]);
        world.fake.sleep(Duration::from_secs(180)).await;
        touch(&world, ONE, "").await;
        assert_eq!(heard.told_within(2).await.len(), 2);
        assert_eq!(seen(&old)[1..], [format!("{own} call x://one")]);
    });
}

#[test]
fn a_subscription_that_is_flooded_before_it_is_made_is_made_anew_and_told_what_may_have_changed() {
    // Too many; more than a subscription may leave unread; and more bytes than are kept, however fast they are read.
    for (messages, bytes, pause, dropped) in [(300, 1, 0, 257), (3, 200 * 1024, 0, 2), (8, 200 * 1024, 10, 6)]
    {
        let usual = put().react.clone();
        let flooded = AtomicU64::new(0);
        let old = Old::new(&Fake::default(), "a")
            .react(move |old, message, session| {
                if message["method"] == "resources/subscribe" && flooded.fetch_add(1, Ordering::Relaxed) == 0
                {
                    let mut told = update(ONE);
                    told["params"]["_meta"] = json!({"x": "x".repeat(bytes)});
                    for _ in 0..messages {
                        old.say(session, &told);
                        old.step(session, Step::Wait(Duration::from_millis(pause)));
                    }
                    // Long after the client has been told that it is listened to.
                    old.step(session, Step::Wait(Duration::from_secs(5)));
                }
                usual(old, message, session)
            })
            .put();
        let world = world(&old);
        world.fake.run(async {
            let mut heard = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
            assert_eq!(heard.acknowledged().await, json!({"resourceSubscriptions": [ONE]}));
            let told = heard.told_within(20).await;
            // The rest of the flood may come behind that.
            let one = told.iter().all(|told| told.contains(ONE));
            assert!(!told.is_empty() && one, "it may have changed meanwhile: {told:?}");
            touch(&world, ONE, "").await;
            assert_eq!(heard.told_within(2).await.len(), 2);
        });
        let subscribed = seen(&old).iter().filter(|line| line.contains(" subscribe ")).count();
        assert_eq!(subscribed, 2, "it is made anew");
        let logged = world.fake.logged();
        let said: Vec<&String> = logged.iter().filter(|line| line.contains("heard.dropped")).collect();
        let [one] = said[..] else { panic!("{said:?}") };
        assert!(
            one.contains("\"server\":\"a\"") && one.contains(&format!("\"messages\":{dropped},")),
            "{one}"
        );
    }
}

#[test]
fn a_subscription_that_does_not_read_holds_no_call_up_and_comes_again() {
    let old = put();
    let world = world(&old);
    world.fake.run(async {
        let mut slow = open_able(&world, "/mcp/a", json!(7), &[], wanted(&[ONE])).await;
        slow.acknowledged().await;
        let call = request("/mcp/a", 1, &params("flood", ONE), &capable(), "");
        let got = world.sent(call, async |_: &str| false).await;
        assert_eq!(last(&got)["result"]["did"], "tools/call", "{}", got.body);
        let told = slow.told_within(60).await.len();
        assert!((1000..4000).contains(&told), "what was kept, and then that it may have changed: {told}");
        touch(&world, ONE, "").await;
        assert_eq!(slow.told_within(2).await.len(), 2);
    });
}
