//! A gateway that is down, restarts, refuses or makes no sense; clients that make none.

use std::time::Duration;

use causeway_fixture::{Fixture, Options, Trouble};
use causeway_suite::{Gateway, hash, serving, with};
use serde_json::json;

use crate::stdio::client::{Client, complaint, text};
use crate::stdio::serve::Serve;

#[tokio::test]
async fn a_gateway_that_comes_later_is_waited_for() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let mut gateway = Serve::new(&serving(&[("one", &fixture)]), true);
    let mut old = Client::of(&gateway.url("/mcp/one"), &[]);
    let mut new = Client::of(&gateway.url("/mcp/one"), &[]);
    let hello = old.send("initialize", crate::stdio::client::hello()).await;
    let discover = new.send_modern("server/discover", json!({})).await;
    assert!(old.is_silent(Duration::from_millis(300)).await, "no answer yet");
    gateway.start().await;
    assert!(old.answer(&hello).await["result"].is_object());
    assert!(new.answer(&discover).await["result"].is_object());
    old.notify("notifications/initialized", json!({})).await;
    assert_eq!(text(&old.tool("echo", json!({"text": "hi"})).await), "hi");
    assert_eq!(text(&new.tool_modern("echo", json!({"text": "hi"})).await), "hi");
}

#[tokio::test]
async fn a_restart_between_calls_goes_unnoticed() {
    for keeps in [true, false] {
        let fixture = Fixture::start(Options::legacy("one")).await;
        let mut gateway = Serve::new(&serving(&[("one", &fixture)]), keeps);
        gateway.start().await;
        let mut client = Client::of(&gateway.url("/mcp/one"), &[]);
        client.initialize().await;
        assert_eq!(text(&client.tool("echo", json!({"text": "a"})).await), "a");
        assert_eq!(text(&client.tool_modern("echo", json!({"text": "b"})).await), "b");
        gateway.stop().await;
        let waiting = client.send("tools/call", json!({"name": "echo", "arguments": {"text": "c"}})).await;
        gateway.start().await;
        assert_eq!(text(&client.answer(&waiting).await), "c", "keeps {keeps}: {}", client.log());
        assert_eq!(text(&client.tool("echo", json!({"text": "d"})).await), "d");
        assert_eq!(text(&client.tool_modern("echo", json!({"text": "e"})).await), "e");
        assert_eq!(client.log().contains("session.lost"), !keeps, "keeps {keeps}: {}", client.log());
        let calls = fixture.trace().iter().filter(|method| *method == "tools/call").count();
        assert_eq!(calls, 5, "each call has run once");
        // What the server says unasked arrives again, too.
        let changed = async {
            loop {
                fixture.changed("tools");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            _ = client.told("notifications/tools/list_changed") => {}
            () = changed => {}
        }
        assert!(client.end().await.status.success());
    }
}

#[tokio::test]
async fn a_call_that_may_have_run_is_not_sent_twice() {
    // Cut before the answer has begun, and in the middle of its stream.
    for (modern, quiet) in [(true, true), (true, false), (false, true), (false, false)] {
        let fixture = Fixture::start(Options::modern("one")).await;
        let mut gateway = Serve::new(&serving(&[("one", &fixture)]), true);
        gateway.start().await;
        let mut client = Client::of(&gateway.url("/mcp/one"), &[]);
        let call = json!({"name": "slow", "arguments": {"ms": 8000, "quiet": quiet}});
        let id = if modern {
            client.send_modern("tools/call", call).await
        } else {
            client.initialize().await;
            client.send("tools/call", call).await
        };
        assert!(fixture.until(|fixture| fixture.trace().contains(&"tools/call".to_owned())).await);
        gateway.stop().await;
        let answer = client.answer(&id).await;
        assert!(complaint(&answer).contains("may have been processed"), "{answer}");
        gateway.start().await;
        let echo = json!({"text": "on"});
        let next =
            if modern { client.tool_modern("echo", echo).await } else { client.tool("echo", echo).await };
        assert_eq!(text(&next), "on");
        let calls = fixture.seen().iter().filter(|seen| seen.body["params"]["name"] == "slow").count();
        assert_eq!(calls, 1, "modern {modern}, quiet {quiet}");
    }
}

#[tokio::test]
async fn a_gateway_that_stays_away_is_an_error_with_advice() {
    let gateway = Serve::new(&json!({}), true);
    let mut client = Client::of(&gateway.url("/mcp"), &["--wait", "1"]);
    let first = client.send("initialize", crate::stdio::client::hello()).await;
    let second = client.send_modern("tools/list", json!({})).await;
    let third = client.send("ping", json!({})).await;
    // A request that is given up while it waits was never sent, and is never answered.
    client.notify("notifications/cancelled", json!({"requestId": third})).await;
    let mut answers = [client.hear().await, client.hear().await];
    answers.sort_by_key(|answer| answer["id"].as_u64());
    for (answer, id) in answers.iter().zip([first, second]) {
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(-32603)));
        assert!(complaint(answer).contains("was not processed"), "{answer}");
        assert!(complaint(answer).contains("check that the gateway runs"), "{answer}");
    }
    let end = client.end().await;
    assert_eq!(end.status.code(), Some(1), "never reached");
    assert!(end.last.is_empty() && end.log.contains("could never be reached"), "{}", end.log);
}

#[tokio::test]
async fn a_bad_key_is_told_and_not_shown() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let config = with(serving(&[("one", &fixture)]), json!({"keys": {"me": {"hash": hash("cw_right")}}}));
    let gateway = Gateway::start(config).await;
    let mut client = Client::of(&gateway.url("/mcp"), &["--key", "cw_wrong_key"]);
    for answer in [
        client.ask("initialize", crate::stdio::client::hello()).await,
        client.ask_modern("tools/list", json!({})).await,
        client.ask("tools/list", json!({})).await,
    ] {
        assert!(complaint(&answer).contains("401"), "{answer}");
        assert!(complaint(&answer).contains("--key or CAUSEWAY_KEY"), "{answer}");
        assert!(!answer.to_string().contains("cw_wrong_key"), "{answer}");
    }
    let end = client.end().await;
    assert!(end.status.success(), "the gateway was reached: {}", end.log);
    assert!(!end.log.contains("cw_wrong_key") && end.log.contains("401"), "{}", end.log);
    let mut client = Client::of(&gateway.url("/mcp"), &["--key", "cw_right"]);
    client.initialize().await;
    assert_eq!(text(&client.tool("one__echo", json!({"text": "hi"})).await), "hi");
    let mut client = Client::of(&gateway.url("/mcp"), &[]);
    assert!(
        complaint(&client.ask("initialize", crate::stdio::client::hello()).await).contains("wants a key")
    );
}

#[tokio::test]
async fn a_wrong_url_is_told() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let key: Vec<_> = gateway.key().into_iter().flat_map(|key| ["--key", key]).collect();
    let mut client = Client::of(&gateway.url("/no/such?token=secret"), &key);
    let answer = client.ask("initialize", crate::stdio::client::hello()).await;
    assert!(answer["error"].is_object() && !answer.to_string().contains("secret"), "{answer}");
    let mut client = Client::of(&fixture.url().replace("/mcp", "/other"), &[]);
    let answer = client.ask("initialize", crate::stdio::client::hello()).await;
    assert!(complaint(&answer).contains("correct --url"), "{answer}");
}

#[tokio::test]
async fn answers_that_are_none_become_errors() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut client = Client::of(&fixture.url(), &[]);
    for (trouble, says) in [
        (Trouble::Html(200), "answers with text/html"),
        (Trouble::Html(502), "HTTP 502"),
        (Trouble::Status(500), "HTTP 500"),
        (Trouble::Status(429), "try again later"),
        (Trouble::Garbage, "another request"),
        (Trouble::NotRpc, "another request"),
        (Trouble::WrongId, "another request"),
        (Trouble::CutJson, "broke before the answer"),
        (Trouble::CutSse, "broke before the answer"),
        (Trouble::NoAnswer, "without the answer"),
        (Trouble::EndlessEvent, "larger than 64 MiB"),
        (Trouble::EndlessJson, "larger than 64 MiB"),
        (
            Trouble::Redirect(308, "https://elsewhere/mcp?token=secret".into()),
            "redirects to https://elsewhere/mcp ",
        ),
        (Trouble::Error(400, -32021, "needs sampling".into()), "needs sampling"),
    ] {
        fixture.trouble_once("tools/call", trouble.clone());
        let id = client.send_modern("tools/call", json!({"name": "echo", "arguments": {}})).await;
        let answer = client.answer(&id).await;
        assert!(complaint(&answer).contains(says), "{trouble:?}: {answer}");
        assert!(!answer.to_string().contains("secret"), "{answer}");
        assert_eq!(answer["error"]["code"], if says == "needs sampling" { -32021 } else { -32603 });
    }
    assert_eq!(text(&client.tool_modern("echo", json!({"text": "still here"})).await), "still here");
}

#[tokio::test]
async fn lines_that_are_no_messages_are_refused_one_by_one() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    for (line, id, code) in [
        (&b"nonsense"[..], json!(null), -32700),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1", json!(null), -32700),
        (b"\xff\xfe{}", json!(null), -32700),
        (b"[", json!(null), -32700),
        (b"[]", json!(null), -32600),
        (b"7", json!(null), -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":true,\"method\":\"ping\"}", json!(null), -32600),
        (b"{\"jsonrpc\":\"1.0\",\"id\":\"x\",\"method\":\"ping\"}", json!("x"), -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"ping\",\"params\":[]}", json!(5), -32600),
    ] {
        client.write(&[line, b"\n"].concat()).await;
        let answer = client.hear().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{answer}");
    }
    client.write(b"\n  \n\r\n").await;
    assert_eq!(text(&client.tool_modern("echo", json!({"text": "on"})).await), "on");
}

#[tokio::test]
async fn a_line_that_is_too_long_costs_only_its_own_request() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    client.initialize().await;
    let text_of = |size: usize| "x".repeat(size);
    // As SDKs write it, the id comes last.
    let long = format!(
        "{{\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\"arguments\":{{\"text\":\"{}\"}}}},\"jsonrpc\":\"2.0\",\"id\":\"long\"}}\n",
        text_of(5 << 20)
    );
    client.write(long.as_bytes()).await;
    let answer = client.answer(&json!("long")).await;
    assert!(complaint(&answer).contains("longer than 4194304 bytes"), "{answer}");
    client.write(&[text_of(5 << 20).as_bytes(), b"\n"].concat()).await;
    let answer = client.hear().await;
    assert!(answer["id"].is_null() && answer["error"]["code"] == -32600, "{answer}");
    // Just short enough.
    let answer = client.tool("echo", json!({"text": text_of(4_000_000)})).await;
    assert_eq!(text(&answer).len(), 4_000_000);
}

#[tokio::test]
async fn an_answer_that_is_too_long_becomes_an_error_for_the_server() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let mut client = Client::of(&fixture.url(), &["--max-message", "1"]);
    client.initialize().await;
    let id = client
        .send("tools/call", json!({"name": "test_elicitation", "arguments": {"message": "well?"}}))
        .await;
    let asked = client.told("elicitation/create").await;
    let result = json!({"action": "accept", "content": {"response": "x".repeat(2 << 20)}});
    client.say(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": result})).await;
    let answer = client.answer(&id).await;
    assert!(answer.to_string().contains("longer than 1048576 bytes"), "{answer}");
}

#[tokio::test]
async fn more_requests_than_there_is_room_for_are_refused() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut client = Client::of(&fixture.url(), &[]);
    let mut waiting = Vec::new();
    for _ in 0..257 {
        let call = json!({"name": "slow", "arguments": {"ms": 1500, "quiet": true}});
        waiting.push(client.send_modern("tools/call", call).await);
    }
    let refused = client.hear().await;
    assert_eq!(refused["id"], waiting[256]);
    assert!(complaint(&refused).contains("256 requests"), "{refused}");
    for _ in 0..256 {
        let answer = client.hear().await;
        assert_eq!(text(&answer), "slowly done");
    }
}
