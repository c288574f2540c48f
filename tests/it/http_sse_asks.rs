//! Servers of the HTTP+SSE transport that ask back: the question and its answer go over the call's own session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use causeway::config::glob::Filter;
use causeway::config::plan::{Server, SessionMode, Transport};
use causeway::platform::Clock;
use causeway::testing::Fake;
use futures_util::future::join;
use serde_json::{Value, json};

use crate::bridge::{
    FORM, answer, capable, form, in_session, last, legacy_call, messages, open, request, retry,
};
use crate::old::{Old, accepted};
use crate::world::{World, key, plan, server};

/// A server whose tool asks for a form and answers with what it was told.
fn asking(fake: &Fake, host: &'static str) -> Old {
    let call = AtomicU64::new(0);
    Old::new(fake, host)
        .react(move |old, message, session| {
            match message["method"].as_str() {
                Some("tools/call") => {
                    call.store(message["id"].as_u64()?, Ordering::Relaxed);
                    old.say(session, &json!({"jsonrpc": "2.0", "id": 0, "method": "ping"}));
                    let (method, params) = form();
                    old.say(session, &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
                }
                None if message["id"] == 1 => {
                    let id = call.load(Ordering::Relaxed);
                    let result = json!({"content": [], "told": message["result"], "in": session});
                    old.say(session, &json!({"jsonrpc": "2.0", "id": id, "result": result}));
                }
                _ => return None,
            }
            Some(accepted())
        })
        .put()
}

fn entry(name: &'static str) -> Server {
    let url = format!("http://{name}/sse").parse().unwrap();
    Server { transport: Transport::HttpSse, url, ..server(name) }
}

fn replies(old: &Old) -> Vec<(u64, Value)> {
    let seen = old.seen.lock().unwrap();
    seen.iter().filter(|(_, message)| message.get("method").is_none()).cloned().collect()
}

#[test]
fn a_legacy_client_is_asked_and_its_answer_goes_to_the_session_of_the_call() {
    for path in ["/mcp/a", "/mcp"] {
        let fake = Fake::default();
        let old = asking(&fake, "a");
        let mut world = World::new(fake, plan(vec![entry("a"), entry("b")]));
        asking(&world.fake, "b");
        let name = if path == "/mcp" { "a__t" } else { "t" };
        let session = open(&world, path, &capable());
        // Whoever takes the answer need not be the instance that runs the call.
        let elsewhere = World { fake: world.fake.clone(), instance: world.instance.clone() };
        world.restart();
        let mut done = Vec::new();
        let got = world.fake.run(world.sent(legacy_call(path, &session, 9, name), async |seen: &str| {
            answer(&elsewhere, path, &session, seen, &mut done).await;
            false
        }));
        let all = messages(&got.body);
        assert_eq!(all.len(), 2, "the question and the result, but not the ping: {}", got.body);
        assert_eq!(all[0]["method"], FORM);
        assert_eq!(all[1]["id"], 9);
        assert_eq!(all[1]["result"]["told"], json!({"action": "accept", "content": {"n": 1}}));
        let replies = replies(&old);
        assert_eq!(replies[0].1, json!({"jsonrpc": "2.0", "id": 0, "result": {}}), "the ping");
        assert_eq!(
            (replies[1].0, &replies[1].1["id"]),
            (all[1]["result"]["in"].as_u64().unwrap(), &json!(1))
        );
    }
}

#[test]
fn what_a_question_is_known_by_is_for_its_caller_and_tells_nothing_of_the_host() {
    let fake = Fake::default();
    let old = asking(&fake, "a");
    let mut config = plan(vec![entry("a")]);
    config.keys = ["alice", "bob"].map(|name| key(name, Filter::default(), Filter::default())).into();
    let world = World::new(fake, config);
    let keyed = |mut request: http::Request<bytes::Bytes>, who: &str| {
        request.headers_mut().insert("authorization", format!("Bearer {who}-key").parse().unwrap());
        request
    };
    let open = |who: &str| {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": capable(), "clientInfo": {"name": "c", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let mut request = keyed(in_session("/mcp/a", "", &body), who);
        request.headers_mut().remove("mcp-session-id");
        world.send(request).header("mcp-session-id").to_owned()
    };
    let (alice, bob) = (open("alice"), open("bob"));
    let call = keyed(legacy_call("/mcp/a", &alice, 9, "t"), "alice");
    world.fake.run(world.sent(call, async |seen: &str| {
        let all = messages(seen);
        if all.len() > 1 {
            return true;
        }
        let question = &all[0];
        let id = question["id"].as_str().unwrap();
        let sealed = id.strip_prefix("cw@").unwrap().split('@').next().unwrap();
        let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(sealed).unwrap();
        assert!(!String::from_utf8_lossy(&token).contains("http://"));
        let body = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept"}});
        let got = world.sent(keyed(in_session("/mcp/a", &bob, &body), "bob"), async |_: &str| false).await;
        assert_eq!(got.status, 202);
        assert_eq!(replies(&old).len(), 1, "the ping and nothing else");
        let forged = json!({"jsonrpc": "2.0", "id": format!("cw@x{sealed}@1"), "result": {}});
        world.sent(keyed(in_session("/mcp/a", &alice, &forged), "alice"), async |_: &str| false).await;
        assert_eq!(replies(&old).len(), 1);
        world.sent(keyed(in_session("/mcp/a", &alice, &body), "alice"), async |_: &str| false).await;
        assert_eq!(replies(&old).len(), 2);
        false
    }));
}

#[test]
fn a_call_that_its_client_takes_back_is_cancelled_at_the_server_and_ends() {
    for accept in ["application/json, text/event-stream", "application/json"] {
        let fake = Fake::default();
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress"});
        let old = Old::new(&fake, "a")
            .react(move |old, message, session| {
                if message["method"] == "tools/call" {
                    old.say(session, &progress);
                    return Some(accepted());
                }
                None
            })
            .put();
        let world = World::new(fake, plan(vec![entry("a")]));
        let session = open(&world, "/mcp/a", &json!({}));
        let mut call = legacy_call("/mcp/a", &session, 9, "t");
        call.headers_mut().insert("accept", accept.parse().unwrap());
        let cancel =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}});
        let cancel = || in_session("/mcp/a", &session, &cancel);
        let clock = world.fake.clone();
        let (got, _) = world.fake.run(join(world.sent(call, async |_: &str| false), async {
            Clock::sleep(&clock, Duration::from_secs(2)).await;
            world.sent(cancel(), async |_: &str| false).await;
        }));
        assert!(!got.body.contains("\"id\""), "nothing more is said of it: {}", got.body);
        let id = old.last("tools/call")["id"].clone();
        assert_eq!(old.last("notifications/cancelled")["params"]["requestId"], id);
        old.heard();
        world.send(cancel());
        assert_eq!(old.heard(), [""; 0], "the call is over");
    }
}

#[test]
fn a_modern_client_is_asked_and_comes_back_to_the_same_session() {
    for mode in [None, Some(SessionMode::Shared)] {
        let fake = Fake::default();
        let old = asking(&fake, "a");
        let world = World::new(fake, plan(vec![Server { session: mode, ..entry("a") }]));
        let send = |id, params: &Value| world.send(request("/mcp/a", id, params, &capable(), "x"));
        let params = json!({"name": "t"});
        let asked = last(&send(7, &params));
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        assert_eq!(asked["result"]["inputRequests"]["q1"], json!({"method": FORM, "params": form().1}));
        let introduced = old.last("initialize");
        assert_eq!(introduced["params"]["capabilities"], capable());
        assert_eq!(introduced["params"]["clientInfo"]["name"], "c");
        let done = last(&send(8, &retry(&params, &asked, json!({"q1": {"action": "accept"}}))));
        assert_eq!(done["id"], 8);
        assert_eq!(done["result"]["resultType"], "complete", "{done}");
        assert_eq!(done["result"]["told"], json!({"action": "accept"}));
        let (session, _) = replies(&old).pop().unwrap();
        assert_eq!(done["result"]["in"], session);
        world.fake.pass(Duration::from_secs(1));
        let asked = last(&send(9, &params));
        let done = last(&send(10, &retry(&params, &asked, json!({"q1": {"action": "accept"}}))));
        assert_eq!(done["result"]["in"], session, "the next call goes over the same session");
        world.fake.pass(Duration::from_secs(130));
        assert_eq!(world.fake.mailboxes(), 0, "it is kept for a while");
    }
}

#[test]
fn a_modern_client_that_hangs_up_while_a_mailbox_calls_cancels_the_call() {
    let fake = Fake::default();
    let over = Arc::new(AtomicU64::new(u64::MAX));
    let before = over.clone();
    let old = Old::new(&fake, "a")
        .react(move |old, message, session| {
            match message["method"].as_str()? {
                "tools/call" => old.say(
                    session,
                    &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 5, "progress": 1}}),
                ),
                "notifications/cancelled" => {
                    assert_eq!(old.fake.dropped(), before.load(Ordering::Relaxed), "the stream is still there");
                }
                _ => return None,
            }
            Some(accepted())
        })
        .put();
    let world = World::new(fake, plan(vec![entry("a")]));
    let call = request("/mcp/a", 1, &json!({"name": "t"}), &capable(), "x");
    world.fake.run(world.sent(call, async |_: &str| {
        over.store(old.fake.dropped(), Ordering::Relaxed);
        true
    }));
    world.fake.pass(Duration::from_secs(1));
    assert!(old.heard().last().unwrap().ends_with("notifications/cancelled"));
    assert_eq!(world.fake.mailboxes(), 0);
}

#[test]
fn a_list_is_made_for_what_the_client_can_do() {
    let fake = Fake::default();
    let old = Old::new(&fake, "a")
        .react(|old, message, session| {
            if message["method"] == "tools/list" {
                old.say(session, &json!({"jsonrpc": "2.0", "id": 5, "method": "roots/list"}));
            }
            None
        })
        .put();
    let world = World::new(fake, plan(vec![entry("a")]));
    let mut params = json!({"_meta": crate::world::meta()});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capable();
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params});
    let got = world.post("/mcp/a", &headers, &body);
    assert_eq!(got.json()["result"]["tools"][0]["name"], "t", "{}", got.body);
    assert_eq!(old.last("initialize")["params"]["capabilities"], capable());
    assert_eq!(replies(&old).pop().unwrap().1["error"]["code"], -32601, "nobody can be asked meanwhile");
    let got = world.modern("/mcp/a", "resources/templates/list", json!({}));
    assert_eq!(got.brief(), "404 -32601", "the status says what the answer is");
}
