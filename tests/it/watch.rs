//! Calls that run in one instance and are given up in another.

use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use causeway::instance::Instance;
use causeway::platform::Clock as _;
use causeway::testing::{Fake, Script, Step};
use futures_util::future::join;
use http::Request;
use serde_json::{Value, json};

use crate::bridge::open;
use crate::server::{Kind, answer, put_streaming};
use crate::world::{Got, World, plan, server};

/// A modern server whose tool never comes to an end: it does not begin to answer, or does not go on.
fn endless(fake: &Fake, begins: bool) {
    fake.upstream("a", move |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        if message["method"] != "tools/call" {
            return Ok(answer(request, Kind::Modern, &["t"], &AtomicU64::new(0)));
        }
        let mut script = Script::new(200, "text/event-stream", "");
        let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}});
        script.body = vec![Step::Send(format!("data: {note}\n\n").into()), Step::Stall];
        if !begins {
            script.delay = Duration::from_secs(50);
        }
        Ok(script)
    });
}

/// What becomes of a call when, after a while, another instance is sent something.
fn given_up(
    begins: bool,
    path: &'static str,
    after: Duration,
    send: impl Fn(&str) -> Request<Bytes>,
) -> (Got, Duration) {
    let fake = Fake::default();
    endless(&fake, begins);
    let world = World::new(fake, plan(vec![server("a")]));
    let other = World { fake: world.fake.clone(), instance: Instance::new(world.instance.plan().unwrap()) };
    given_up_at(&world, &other, path, after, send)
}

fn given_up_at(
    world: &World,
    other: &World,
    path: &'static str,
    after: Duration,
    send: impl Fn(&str) -> Request<Bytes>,
) -> (Got, Duration) {
    let (session, _) = world.initialize(path);
    let name = if path == "/mcp" { "a__t" } else { "t" };
    let started = world.fake.now();
    world.fake.run(async {
        let call = pin!(async {
            let call = world.in_session(path, &session, "tools/call", json!({"name": name}));
            let got = world.sent(call, async |_: &str| false).await;
            (got, world.fake.now().since(started))
        });
        let tell = pin!(async {
            world.fake.sleep(after).await;
            let got = other.sent(send(&session), async |_: &str| false).await;
            assert!(matches!(got.status, 202 | 204), "{} {}", got.status, got.body);
        });
        join(call, tell).await.0
    })
}

fn cancel(path: &'static str) -> impl Fn(&str) -> Request<Bytes> {
    move |session| {
        let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
        Request::post(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", session)
            .header("mcp-protocol-version", "2025-06-18")
            .body(body.to_string().into())
            .unwrap()
    }
}

fn delete(path: &'static str) -> impl Fn(&str) -> Request<Bytes> {
    move |session| {
        let request = Request::delete(path).header("host", "localhost").header("mcp-session-id", session);
        request.body(Bytes::new()).unwrap()
    }
}

#[test]
fn a_call_ends_that_another_instance_is_told_to_cancel() {
    for path in ["/mcp", "/mcp/a"] {
        for begins in [true, false] {
            let after = Duration::from_secs(3);
            for (got, took) in
                [given_up(begins, path, after, cancel(path)), given_up(begins, path, after, delete(path))]
            {
                assert!(took < Duration::from_secs(4), "{path} begins {begins}: {took:?}");
                assert!(!got.body.contains("\"id\":1"), "nothing more is said about it: {}", got.body);
            }
        }
    }
}

#[test]
fn a_call_ends_that_was_cancelled_elsewhere_before_it_was_watched() {
    for begins in [true, false] {
        let fake = Fake::default();
        endless(&fake, begins);
        let first = World::new(fake, plan(vec![server("a")]));
        let (one, two) = (first.further(), first.further());
        let (got, took) = given_up_at(&one, &two, "/mcp/a", Duration::from_millis(300), cancel("/mcp/a"));
        assert!(took < Duration::from_secs(2), "begins {begins}: {took:?}");
        assert!(!got.body.contains("\"id\":1"), "nothing more is said about it: {}", got.body);
    }
}

#[test]
fn a_call_that_its_server_drops_is_not_answered_where_another_instance_has_told_it_to() {
    let fake = Fake::default();
    let steps = vec![Step::Send(":\n\n".into()), Step::Wait(Duration::from_millis(500))];
    put_streaming(&fake, "a", Kind::Legacy, steps);
    let first = World::new(fake, plan(vec![server("a")]));
    let (one, two) = (first.further(), first.further());
    let (got, _) = given_up_at(&one, &two, "/mcp/a", Duration::from_millis(100), cancel("/mcp/a"));
    assert!(!got.body.contains("\"id\":1"), "nothing is said about it: {}", got.body);
    let again = one.legacy("/mcp/a", &open(&one, "/mcp/a", &json!({})), "tools/call", json!({"name": "t"}));
    assert!(again.body.contains("error"), "who has not given it up is told: {}", again.body);
}

#[test]
fn nothing_is_kept_of_a_call_that_was_watched() {
    let fake = Fake::default();
    endless(&fake, false);
    let world = World::new(fake, plan(vec![server("a")]));
    let (session, _) = world.initialize("/mcp/a");
    let call = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    assert_eq!(
        call.trace.iter().filter(|line| line.starts_with("mailbox.post")).count(),
        1,
        "{:?}",
        call.trace
    );
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(world.fake.mailboxes(), 0);
}
