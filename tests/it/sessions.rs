//! Legacy sessions.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway::config::glob::Filter;
use causeway::platform::Clock as _;
use causeway::testing::Fake;
use futures_util::future::select;
use http::Request;
use serde_json::{Value, json};

use crate::server::{Kind, answer, put};
use crate::world::{World, key, plan, server};

fn delete(world: &World, path: &str, session: &str) -> u16 {
    let request = Request::delete(path).header("host", "localhost").header("mcp-session-id", session);
    world.send(request.body(bytes::Bytes::new()).unwrap()).status
}

#[test]
fn a_session_outlives_its_isolate_and_keeps_its_upstream_session() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Legacy, &["t"]);
    let mut world = World::new(fake, plan(vec![server("a")]));
    let (session, _) = world.initialize("/mcp/a");
    assert_eq!(
        world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"})).trace,
        ["http.send POST a tools/call [s2]"]
    );
    world.restart();
    let got = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    assert_eq!(got.trace.last().unwrap(), "http.send POST a tools/call [s2]");
    assert!(got.trace.contains(&"store.load session".to_owned()));
}

#[test]
fn a_session_that_the_server_has_forgotten_is_opened_again_in_silence() {
    let fake = Fake::default();
    let sessions = put(&fake, "a", Kind::Legacy, &["t"]);
    let world = World::new(fake, plan(vec![server("a")]));
    let (session, _) = world.initialize("/mcp/a");
    sessions.store(0, Ordering::Relaxed);
    let got = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    assert_eq!(got.brief(), "200 ok");
    assert_eq!(got.trace.last().unwrap(), "http.send POST a tools/call [s1]");
    let got = world.modern("/mcp/a", "tools/call", json!({"name": "t"}));
    assert_eq!(got.brief(), "200 ok");
    sessions.store(0, Ordering::Relaxed);
    assert_eq!(world.modern("/mcp/a", "tools/call", json!({"name": "t"})).brief(), "200 ok");
}

#[test]
fn a_deleted_session_is_gone_here_and_upstream() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Legacy, &["t"]);
    let mut world = World::new(fake, plan(vec![server("a")]));
    let (session, _) = world.initialize("/mcp/a");
    assert_eq!(delete(&world, "/mcp/a", &session), 204);
    assert!(world.fake.trace().contains(&"http.send DELETE a - [s2]".to_owned()));
    assert_eq!(world.legacy("/mcp/a", &session, "tools/list", json!({})).status, 404);
    world.restart();
    assert_eq!(world.legacy("/mcp/a", &session, "tools/list", json!({})).status, 404);
    assert_eq!(delete(&world, "/mcp/a", &session), 404);
}

#[test]
fn sessions_are_refused_when_foreign_forged_expired_or_for_another_endpoint() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Legacy, &["t"]);
    let mut two = plan(vec![server("a")]);
    two.keys = vec![
        key("alice", Filter::default(), Filter::default()),
        key("bob", Filter::default(), Filter::default()),
    ];
    let world = World::new(fake, two);
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}});
    let session =
        world.post("/mcp", &[("x-api-key", "alice-key")], &body).header("mcp-session-id").to_owned();
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let status = |path: &str, key: &str, session: &str| {
        world.post(path, &[("x-api-key", key), ("mcp-session-id", session)], &list).status
    };
    assert_eq!(status("/mcp", "alice-key", &session), 200);
    assert_eq!(status("/mcp", "bob-key", &session), 404);
    assert_eq!(status("/mcp/a", "alice-key", &session), 404);
    assert_eq!(status("/mcp", "alice-key", &session[1..]), 404);
    assert_eq!(status("/mcp", "alice-key", "nonsense"), 404);
    world.fake.pass(Duration::from_secs(25 * 60 * 60));
    assert_eq!(status("/mcp", "alice-key", &session), 404);
    assert_eq!(world.post("/mcp", &[("x-api-key", "alice-key")], &list).status, 400);
}

#[test]
fn a_level_that_is_set_while_the_stream_opens_is_not_forgotten() {
    let fake = Fake::default();
    let levels = Arc::new(Mutex::new(Vec::new()));
    let heard = levels.clone();
    fake.upstream("a", move |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        if message["method"] == "tools/call" {
            heard
                .lock()
                .unwrap()
                .push(message["params"]["_meta"]["io.modelcontextprotocol/logLevel"].clone());
        }
        Ok(answer(request, Kind::Modern, &["t"], &AtomicU64::new(0)))
    });
    let world = World::new(fake, plan(vec![server("a")]));
    let (session, _) = world.initialize("/mcp/a");
    world.fake.slow_loads(Duration::from_millis(100));
    let get = Request::get("/mcp/a").header("host", "localhost").header("accept", "text/event-stream");
    let get = get.header("mcp-session-id", &session).body(bytes::Bytes::new()).unwrap();
    world.fake.run(async {
        // The stream asks the store first, and is told what was there before the level was set.
        let stream = pin!(world.sent(get, async |_: &str| false));
        let call = pin!(async {
            world.fake.sleep(Duration::from_millis(50)).await;
            let ask = async |method: &str, params: Value| {
                world.sent(world.in_session("/mcp/a", &session, method, params), async |_: &str| false).await
            };
            assert_eq!(ask("logging/setLevel", json!({"level": "debug"})).await.brief(), "200 ok");
            world.fake.sleep(Duration::from_secs(1)).await;
            assert_eq!(ask("tools/call", json!({"name": "t"})).await.brief(), "200 ok");
        });
        select(stream, call).await;
    });
    assert_eq!(*levels.lock().unwrap(), ["debug"]);
}

#[test]
fn callers_never_share_an_upstream_session() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Legacy, &["t"]);
    let mut two = plan(vec![server("a")]);
    two.keys = vec![
        key("alice", Filter::default(), Filter::default()),
        key("bob", Filter::default(), Filter::default()),
    ];
    let world = World::new(fake, two);
    let call = |key: &str| {
        let got = world.modern_with("/mcp/a", &[("x-api-key", key)], "tools/call", json!({"name": "t"}));
        got.trace.last().unwrap().clone()
    };
    assert_ne!(call("alice-key"), call("bob-key"));
    assert_eq!(call("alice-key"), call("alice-key"));
}
