//! Answers that come as streams, and streams that break.

use std::pin::pin;
use std::time::Duration;

use causeway::gateway::{Body, Gateway};
use causeway::mcp::serve::Ticket;
use causeway::platform::Clock as _;
use causeway::testing::{Fake, Script, Step};
use futures_util::future::select;
use futures_util::{StreamExt as _, stream};
use http::Request;
use serde_json::json;

use crate::server::{Kind, put_streaming};
use crate::world::{World, meta, modern, plan, server};

const PROGRESS: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n";
const RESULT: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":$ID,\"result\":{\"content\":[]}}\n\n";

fn world(kind: Kind, steps: &[Step]) -> World {
    let fake = Fake::default();
    put_streaming(&fake, "a", kind, steps.to_vec());
    let mut short = server("a");
    short.timeouts.idle = Duration::from_secs(40);
    World::new(fake, plan(vec![short]))
}

fn send(text: &str) -> Step {
    Step::Send(bytes::Bytes::from(text.to_owned()))
}

fn check(kind: Kind, steps: &[Step], expect: &str) {
    let world = world(kind, steps);
    let got = world.modern("/mcp", "tools/call", json!({"name": "a__t"}));
    assert_eq!(got.header("content-type"), "text/event-stream");
    assert_eq!(got.body, expect);
}

#[test]
fn a_modern_stream_is_relayed_byte_for_byte() {
    let odd = "event: message\nid: 4\ndata:{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
    check(Kind::Modern, &[send(PROGRESS), send(odd)], &format!("{PROGRESS}{odd}"));
}

#[test]
fn a_legacy_stream_is_rewritten_for_a_modern_client() {
    let expect =
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"resultType\":\"complete\",\"content\":[]}}\n\n";
    check(Kind::Legacy, &[send(PROGRESS), send(RESULT)], &format!("{PROGRESS}{expect}"));
    let ping = "data: {\"jsonrpc\":\"2.0\",\"id\":99,\"method\":\"ping\"}\n\n";
    check(Kind::Legacy, &[send(ping), send(RESULT)], expect);
}

#[test]
fn an_error_that_a_legacy_server_streams_has_the_http_status_that_modern_clients_go_by() {
    let error = |code: i64| {
        format!(
            "data: {{\"jsonrpc\":\"2.0\",\"id\":$ID,\"error\":{{\"code\":{code},\"message\":\"m\"}}}}\n\n"
        )
    };
    let question =
        "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n";
    let log =
        "id: 1\ndata:\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    let wait = |seconds| Step::Wait(Duration::from_secs(seconds));
    let check = |steps: &[Step], expect: (u16, &str)| {
        let world = world(Kind::Legacy, steps);
        let got = world.modern("/mcp/a", "tools/call", json!({"name": "t"}));
        assert_eq!((got.status, got.header("content-type")), expect, "{}", got.body);
        got
    };
    let (json, events) = ("application/json", "text/event-stream");
    let got = check(&[send(question)], (400, json));
    assert_eq!(got.json()["error"]["code"], -32021);
    assert_eq!(got.json()["error"]["data"], json!({"requiredCapabilities": {"sampling": {}}}));
    // What does not reach the client does not begin its stream.
    check(&[send(log), send(&error(-32601))], (404, json));
    check(&[send(log), send(&error(-32602))], (200, events));
    check(&[send(PROGRESS), send(&error(-32601))], (200, events));
    check(&[send(RESULT)], (200, events));
    // A silent server does not hold up the head for long.
    check(&[wait(10), send(&error(-32601))], (200, events));
}

#[test]
fn a_call_that_is_given_up_before_a_legacy_server_has_said_anything_is_cancelled() {
    let world = world(Kind::Legacy, &[Step::Wait(Duration::from_secs(10)), send(RESULT)]);
    let ticket = Ticket::default();
    let request = modern("/mcp/a", &[], "tools/call", json!({"name": "t"}));
    let gateway = Gateway::new(world.fake.clone(), world.instance.clone());
    world.fake.run(async {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, stream::iter([Ok(body)]));
        let gone = world.fake.sleep(Duration::from_millis(500));
        drop(select(pin!(gateway.clone().handle_with(ticket.clone(), request)), pin!(gone)).await);
        world.fake.trace();
        gateway.abandon(ticket).await;
    });
    assert_eq!(world.fake.trace(), ["http.send POST a notifications/cancelled [s2]"]);
}

#[test]
fn a_legacy_server_is_told_of_a_call_that_it_has_taken_too_long_for() {
    let numbered =
        "id: 4\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n";
    let streams = [vec![Step::Stall], vec![send(PROGRESS), Step::Stall], vec![send(numbered), Step::Stall]];
    for steps in streams.iter().map(Some).chain([None]) {
        let world = world(Kind::Legacy, steps.map_or(&[], Vec::as_slice));
        let (session, _) = world.initialize("/mcp/a");
        if steps.is_none() {
            world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
            world.fake.upstream("a", |_: &Request<bytes::Bytes>| {
                Ok(Script { delay: Duration::from_secs(3600), ..Script::json("{}") })
            });
        }
        let got = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
        assert!(got.body.contains("(timeouts."), "{}", got.body);
        let behind = world.fake.trace();
        let told = behind.first().is_some_and(|line| line.contains("POST a notifications/cancelled"));
        assert!(told && behind.len() == 1, "{behind:?}");
    }
}

#[test]
fn silence_is_filled_with_comments() {
    let steps = [send(PROGRESS), Step::Wait(Duration::from_secs(35)), send(RESULT)];
    let result = RESULT.replace("$ID", "1");
    check(Kind::Modern, &steps, &format!("{PROGRESS}:\n:\n{result}"));
}

#[test]
fn a_broken_stream_ends_in_an_error_for_the_call() {
    let error = |steps: &[Step]| {
        let world = world(Kind::Modern, steps);
        let got = world.modern("/mcp", "tools/call", json!({"name": "a__t"}));
        let last = got.body.trim_end().rsplit("data: ").next().unwrap().to_owned();
        let value: serde_json::Value = serde_json::from_str(&last).unwrap_or_else(|_| panic!("{}", got.body));
        assert_eq!(value["id"], 1);
        value["error"]["message"].as_str().unwrap().to_owned()
    };
    assert!(error(&[send(PROGRESS)]).contains("without the response"));
    assert!(error(&[send(PROGRESS), Step::Cut]).contains("cut"));
    assert!(error(&[send("data: {\"half"), Step::Cut]).contains("cut"));
    assert!(error(&[send(PROGRESS), Step::Stall]).contains("timeouts.idle"));
    assert!(error(&[send(&"x".repeat(2 << 20))]).contains("max_response"));
}

#[test]
fn an_answer_that_takes_long_is_waited_for_on_a_stream() {
    let fake = Fake::default();
    fake.upstream("a", |request| {
        let id = serde_json::from_slice::<serde_json::Value>(request.body()).unwrap()["id"].clone();
        let result = json!({"resultType": "complete", "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}}, "tools": [{"name": "t"}], "ttlMs": 60_000});
        let mut script = Script::json(json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string());
        if String::from_utf8_lossy(request.body()).contains("tools/call") {
            script.delay = Duration::from_secs(40);
        }
        Ok(script)
    });
    let world = World::new(fake, plan(vec![server("a")]));
    let got = world.modern("/mcp", "tools/call", json!({"name": "a__t"}));
    assert!(got.body.starts_with(":\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,"), "{}", got.body);
    let json =
        world.modern_with("/mcp", &[("accept", "application/json")], "tools/call", json!({"name": "a__t"}));
    assert_eq!(json.json()["id"], 1);
}

#[test]
fn who_takes_only_one_form_gets_that_form() {
    let world = world(Kind::Modern, &[send(PROGRESS), send(RESULT)]);
    let got =
        world.modern_with("/mcp", &[("accept", "application/json")], "tools/call", json!({"name": "a__t"}));
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.json()["id"], 1);
    let got = world.modern_with("/mcp", &[("accept", "text/event-stream")], "tools/list", json!({}));
    assert_eq!(got.header("content-type"), "text/event-stream");
    assert!(got.body.starts_with("data: {"));
}

#[test]
fn a_client_that_hangs_up_cancels_the_call_upstream() {
    let check = |kind: Kind, expect: &[&str]| {
        let world = world(kind, &[send(PROGRESS), Step::Stall]);
        world.modern("/mcp", "tools/list", json!({}));
        let gateway = Gateway::new(world.fake.clone(), world.instance.clone());
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a__t", "_meta": meta()}});
        let request = Request::post("/mcp")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", "a__t")
            .body(stream::iter([Ok(bytes::Bytes::from(body.to_string()))]))
            .unwrap();
        world.fake.run(async {
            let reply = gateway.clone().handle(request).await;
            let Body::Stream(mut body) = reply.response.into_body() else { panic!("a whole body") };
            body.next().await.unwrap().unwrap();
            world.fake.trace();
            let before = world.fake.dropped();
            drop(body);
            assert_eq!(world.fake.dropped(), before + 1, "the upstream's body is let go");
            gateway.finish(reply.after).await;
        });
        assert_eq!(world.fake.trace(), expect);
        assert!(world.fake.logged().last().unwrap().contains("\"outcome\":\"gone\""));
    };
    check(Kind::Modern, &[]);
    check(Kind::Legacy, &["http.send POST a notifications/cancelled [s3]"]);
}
