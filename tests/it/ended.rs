//! Sessions that one of several instances ends, where the store that they share is far away.

use std::time::Duration;

use bytes::Bytes;
use causeway::config::plan::{Server, SessionMode};
use causeway::instance::Instance;
use causeway::platform::Clock as _;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use crate::server::{Kind, put};
use crate::world::{World, plan, request, server};

/// Two instances, and a session that both of them know.
fn both(fake: &Fake, server: Server, path: &'static str) -> (World, World, String) {
    let one = World::new(fake.clone(), plan(vec![server]));
    let two = World { fake: one.fake.clone(), instance: Instance::new(one.instance.plan().unwrap()) };
    let (session, _) = one.initialize(path);
    for world in [&one, &two] {
        let name = if path == "/mcp" { "a__t" } else { "t" };
        let got = world.legacy(path, &session, "tools/call", json!({"name": name}));
        assert!(got.brief().starts_with("200"), "{}", got.body);
    }
    (one, two, session)
}

fn end(world: &World, path: &str, session: &str) {
    let request = Request::delete(path).header("host", "localhost").header("mcp-session-id", session);
    assert_eq!(world.send(request.body(Bytes::new()).unwrap()).status, 204);
}

#[test]
fn a_session_that_one_instance_has_ended_is_served_by_no_other() {
    for kind in [Kind::Legacy, Kind::Modern, Kind::Sessionless] {
        for path in ["/mcp", "/mcp/a"] {
            let fake = Fake::default().far();
            put(&fake, "a", kind, &["t"]);
            let (one, two, session) = both(&fake, server("a"), path);
            let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-06-18")];
            let message = |mut message: Value| {
                message["jsonrpc"] = "2.0".into();
                request(path, &headers, &message)
            };
            let get = Request::get(path)
                .header("host", "localhost")
                .header("accept", "text/event-stream")
                .header("mcp-session-id", &session);
            end(&one, path, &session);
            let name = if path == "/mcp" { "a__t" } else { "t" };
            for request in [
                message(json!({"id": 7, "method": "tools/call", "params": {"name": name}})),
                message(json!({"id": 7, "method": "tools/list"})),
                message(json!({"id": 7, "method": "ping"})),
                message(json!({"id": 7, "method": "nothing/known"})),
                message(json!({"method": "notifications/roots/list_changed"})),
                message(json!({"id": "q", "result": {}})),
                get.body(Bytes::new()).unwrap(),
            ] {
                let what = format!("{kind:?} {path} {:?}", request.body());
                // It knows the session as one that lives, whatever it has been asked.
                let fresh = World { fake: two.fake.clone(), instance: two.instance.clone() };
                let got = fresh.send(request);
                assert_eq!(got.status, 404, "{what}: {}", got.body);
                assert!(got.body.contains("initialize"), "{what}: {}", got.body);
                if got.body.contains("\"id\":") && what.contains("\\\"id\\\":7") {
                    assert_eq!(got.json()["id"], 7, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_session_is_looked_up_side_by_side_with_the_call() {
    let fake = Fake::default().far();
    put(&fake, "a", Kind::Modern, &["t"]);
    let (_, two, session) = both(&fake, server("a"), "/mcp/a");
    fake.upstream("a", |_: &Request<Bytes>| {
        let result = json!({"resultType": "complete", "content": [{"type": "text", "text": "done"}]});
        let script = Script::json(json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string());
        Ok(Script { delay: Duration::from_millis(500), ..script })
    });
    two.fake.slow_loads(Duration::from_millis(400));
    let began = two.fake.now();
    let got = two.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    assert_eq!(got.trace, ["http.send POST a tools/call", "store.load session"]);
    assert_eq!(two.fake.now().since(began), Duration::from_millis(500), "neither waits for the other");
    // What comes sooner is not handed on sooner.
    two.fake.slow_loads(Duration::from_millis(700));
    let began = two.fake.now();
    assert!(two.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"})).body.contains("done"));
    assert_eq!(two.fake.now().since(began), Duration::from_millis(700));
}

#[test]
fn a_call_in_an_ended_session_is_hung_up_on_as_soon_as_that_is_known() {
    for head in [Duration::from_secs(40), Duration::ZERO] {
        let fake = Fake::default().far();
        put(&fake, "a", Kind::Modern, &["t"]);
        let (one, two, session) = both(&fake, server("a"), "/mcp/a");
        end(&one, "/mcp/a", &session);
        fake.upstream("a", move |_: &Request<Bytes>| {
            let mut script = Script::new(200, "text/event-stream", ":\n\n");
            (script.delay, script.body) = (head, vec![Step::Send(":\n\n".into()), Step::Stall]);
            Ok(script)
        });
        two.fake.slow_loads(Duration::from_millis(300));
        let (began, dropped) = (two.fake.now(), two.fake.dropped());
        let got = two.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
        assert_eq!(got.brief(), "404 -32001", "{}", got.body);
        assert_eq!(two.fake.now().since(began), Duration::from_millis(300));
        if head.is_zero() {
            assert_eq!(two.fake.dropped(), dropped + 1, "the answer that had begun is let go");
        }
    }
}

#[test]
fn a_server_whose_session_is_shared_is_told_that_nobody_waits() {
    for head in [Duration::from_secs(40), Duration::ZERO] {
        let fake = Fake::default().far();
        put(&fake, "a", Kind::Legacy, &["t"]);
        let shared = Server { session: Some(SessionMode::Shared), ..server("a") };
        let (one, two, session) = both(&fake, shared, "/mcp/a");
        end(&one, "/mcp/a", &session);
        fake.upstream("a", move |request: &Request<Bytes>| {
            if !String::from_utf8_lossy(request.body()).contains("tools/call") {
                return Ok(Script::new(202, "text/plain", ""));
            }
            let mut script = Script::new(200, "text/event-stream", "");
            (script.delay, script.body) = (head, vec![Step::Stall]);
            Ok(script)
        });
        two.fake.slow_loads(Duration::from_millis(300));
        two.fake.trace();
        let got = two.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
        assert_eq!(got.status, 404, "{}", got.body);
        let behind = two.fake.trace().join("\n");
        assert!(behind.contains("POST a notifications/cancelled"), "{head:?}: {behind}");
    }
}

#[test]
fn what_cannot_be_looked_up_is_not_served() {
    let fake = Fake::default().far();
    put(&fake, "a", Kind::Modern, &["t"]);
    let (_, two, session) = both(&fake, server("a"), "/mcp/a");
    two.fake.fail_loads(true);
    let got = two.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    assert_eq!(got.brief(), "500 -32603", "{}", got.body);
    two.fake.fail_loads(false);
    assert_eq!(two.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"})).brief(), "200 ok");
}

#[test]
fn only_sessions_are_looked_up_and_only_where_another_instance_may_have_ended_them() {
    let fake = Fake::default().far();
    put(&fake, "a", Kind::Dual, &["t"]);
    let (one, two, _) = both(&fake, server("a"), "/mcp/a");
    for world in [&one, &two] {
        world.modern("/mcp/a", "tools/call", json!({"name": "t"}));
        let got = world.modern("/mcp/a", "tools/call", json!({"name": "t"}));
        assert_eq!(got.trace, ["http.send POST a tools/call"]);
    }
    let fake = Fake::default();
    put(&fake, "a", Kind::Modern, &["t"]);
    let (one, _, session) = both(&fake, server("a"), "/mcp/a");
    one.fake.pass(Duration::from_secs(30));
    let got = one.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    assert_eq!(got.trace, ["http.send POST a tools/call"], "nobody else can have ended it");
    assert_eq!(one.fake.trace(), Vec::<String>::new(), "not behind the reply either");
}
