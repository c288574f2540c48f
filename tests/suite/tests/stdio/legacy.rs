//! Clients with a handshake.

use std::time::Duration;

use causeway_fixture::{Fixture, Options};
use causeway_suite::{Gateway, names, serving};
use serde_json::json;

use crate::stdio::client::{Client, complaint, hello, text};

/// A server of each era.
async fn servers() -> [Fixture; 2] {
    [Fixture::start(Options::modern("one")).await, Fixture::start(Options::legacy("one")).await]
}

#[tokio::test]
async fn a_client_with_a_handshake_uses_everything() {
    for fixture in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, prefix) in [("/mcp/one", ""), ("/mcp", "one__")] {
            let mut client = Client::at(&gateway, path);
            let hello = client.initialize().await;
            assert_eq!(hello["result"]["protocolVersion"], "2025-11-25");
            let tools = client.ask("tools/list", json!({})).await;
            assert!(names(&tools["result"]["tools"]).contains(&format!("{prefix}echo")), "{path}");
            let answer = client.tool(&format!("{prefix}echo"), json!({"text": "zwölf 🥊"})).await;
            assert_eq!(text(&answer), "zwölf 🥊");
            let read = client.ask("resources/read", json!({"uri": "test://static-text"})).await;
            assert_eq!(read["result"]["contents"][0]["mimeType"], "text/plain");
            let missing = client.tool(&format!("{prefix}no_such_tool"), json!({})).await;
            assert_eq!(missing["error"]["code"], -32602, "the server's own error: {missing}");
            let end = client.end().await;
            assert!(end.status.success() && end.last.is_empty(), "{:?} {}", end.last, end.log);
        }
    }
}

#[tokio::test]
async fn progress_comes_line_by_line_before_the_answer() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    for (path, prefix) in [("/mcp/one", ""), ("/mcp", "one__")] {
        let mut client = Client::at(&gateway, path);
        client.initialize().await;
        let params = json!({"name": format!("{prefix}stream"), "arguments": {"ms": 400}, "_meta": {"progressToken": "p"}});
        let id = client.send("tools/call", params).await;
        let progress = client.told("notifications/progress").await;
        assert_eq!(progress["params"]["progressToken"], "p");
        assert_eq!(text(&client.answer(&id).await), "streamed");
    }
}

#[tokio::test]
async fn many_calls_at_once_never_mix_their_lines() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    client.initialize().await;
    let mut waiting = Vec::new();
    for token in 0..40 {
        let large = token % 4 == 0;
        let name = if large { "blob" } else { "test_tool_with_progress" };
        let params = json!({"name": name, "arguments": {}, "_meta": {"progressToken": token}});
        waiting.push(client.send("tools/call", params).await);
    }
    let mut progress = 0;
    while !waiting.is_empty() {
        // Each line is checked to be one whole message.
        let message = client.hear().await;
        progress += usize::from(message["method"] == "notifications/progress");
        waiting.retain(|id| *id != message["id"]);
    }
    assert_eq!(progress, 3 * 30);
}

#[tokio::test]
async fn the_server_asks_the_user_in_the_middle_of_a_call() {
    for fixture in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, prefix) in [("/mcp/one", ""), ("/mcp", "one__")] {
            let mut client = Client::at(&gateway, path);
            client.initialize().await;
            // Either era's way for a server to ask.
            for (tool, content) in [
                ("test_elicitation", json!({"response": "yes"})),
                ("test_input_required_result_elicitation", json!({"name": "yes"})),
            ] {
                let call = json!({"name": format!("{prefix}{tool}"), "arguments": {"message": "well?"}});
                let id = client.send("tools/call", call).await;
                let asked = client.hear().await;
                assert_eq!(asked["method"], "elicitation/create", "{path} {tool}: {asked}");
                let result = json!({"action": "accept", "content": content});
                client.say(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": result})).await;
                assert!(text(&client.answer(&id).await).contains("yes"), "{path} {tool}");
            }
        }
    }
}

#[tokio::test]
async fn a_cancelled_call_is_stopped_and_never_answered() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    client.initialize().await;
    let call = json!({"name": "slow", "arguments": {"ms": 8000}, "_meta": {"progressToken": 1}});
    let id = client.send("tools/call", call).await;
    client.told("notifications/progress").await;
    client.notify("notifications/cancelled", json!({"requestId": id, "reason": "bored"})).await;
    assert!(fixture.until(|fixture| fixture.stopped() == ["tools/call slow"]).await, "{:?}", fixture.trace());
    client.heard.clear();
    assert_eq!(text(&client.tool("echo", json!({"text": "next"})).await), "next");
    assert!(client.heard.iter().all(|message| message["id"] != id), "{:?}", client.heard);
}

#[tokio::test]
async fn what_the_server_says_unasked_arrives() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    client.initialize().await;
    // Whatever opens the session upstream: the stream is there some time after it.
    client.ask("tools/list", json!({})).await;
    let changed = async {
        loop {
            fixture.changed("tools");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        told = client.told("notifications/tools/list_changed") => assert!(told["id"].is_null()),
        () = changed => {}
    }
}

#[tokio::test]
async fn a_stream_that_the_server_hangs_up_is_taken_up_again() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    for mut client in [Client::of(&fixture.url(), &[]), Client::at(&gateway, "/mcp/one")] {
        client.initialize().await;
        fixture.forget();
        let answer = client.tool("test_reconnection", json!({})).await;
        assert_eq!(text(&answer), "Reconnection test completed successfully.");
        let seen = fixture.seen();
        assert!(seen.iter().any(|seen| seen.http == "GET" && seen.header("last-event-id").is_some()));
        assert_eq!(seen.iter().filter(|seen| seen.method() == "tools/call").count(), 1, "not sent twice");
    }
}

#[tokio::test]
async fn a_lost_session_is_opened_again_with_all_that_was_set() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let mut client = Client::of(&fixture.url(), &[]);
    client.initialize().await;
    client.ask("logging/setLevel", json!({"level": "warning"})).await;
    client.ask("resources/subscribe", json!({"uri": "test://a"})).await;
    client.ask("resources/subscribe", json!({"uri": "test://b"})).await;
    client.ask("resources/unsubscribe", json!({"uri": "test://a"})).await;
    fixture.forget();
    fixture.forget_sessions();
    let answer = client.tool("count", json!({})).await;
    assert!(text(&answer).ends_with(" 1"), "the first call of a new session: {answer}");
    let trace: Vec<_> = fixture.trace().into_iter().filter(|method| method != "GET").collect();
    let again = ["initialize", "notifications/initialized", "logging/setLevel", "resources/subscribe"];
    assert_eq!(trace, [&["tools/call"], &again[..], &["tools/call"]].concat(), "once each");
    let seen = fixture.seen();
    let first = seen.iter().find(|seen| seen.method() == "initialize").unwrap();
    assert!(first.header("mcp-session-id").is_none() && first.header("mcp-protocol-version").is_none());
    assert_eq!(first.body["params"], hello(), "the client's own words");
    let last = seen.iter().rfind(|seen| seen.method() == "tools/call").unwrap();
    assert_eq!(last.header("mcp-protocol-version"), Some("2025-11-25"));
    assert!(
        client.heard.iter().any(|message| message["method"] == "notifications/tools/list_changed"),
        "what may have changed meanwhile is said to have: {:?}",
        client.heard
    );
    assert_eq!(fixture.sessions(), 1);
    // The new session's own stream is there, too.
    assert!(fixture.until(|fixture| fixture.trace().contains(&"GET".to_owned())).await);
    assert!(client.end().await.status.success());
    assert_eq!(fixture.sessions(), 0, "and it is ended at the end");
}

#[tokio::test]
async fn calls_that_find_the_session_lost_together_open_one() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let mut client = Client::of(&fixture.url(), &[]);
    client.initialize().await;
    client.tool("echo", json!({"text": "warm"})).await;
    fixture.forget();
    fixture.forget_sessions();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(client.send("tools/call", json!({"name": "count", "arguments": {}})).await);
    }
    while !waiting.is_empty() {
        let message = client.hear().await;
        assert!(message["error"].is_null(), "{message}");
        waiting.retain(|id| *id != message["id"]);
    }
    let handshakes = fixture.trace().iter().filter(|method| *method == "initialize").count();
    assert_eq!(handshakes, 1, "{:?}", fixture.trace());
}

#[tokio::test]
async fn everything_at_once_is_done_in_order() {
    // What people type: `printf … | causeway stdio`.
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp");
    client.send("initialize", hello()).await;
    client.notify("notifications/initialized", json!({})).await;
    let id = client.send("tools/call", json!({"name": "one__echo", "arguments": {"text": "hi"}})).await;
    let end = client.end().await;
    assert!(end.status.success());
    assert_eq!(text(end.last.iter().find(|message| message["id"] == id).unwrap()), "hi", "{}", end.log);
}

#[tokio::test]
async fn a_batch_is_answered_message_by_message() {
    let fixture = Fixture::start(Options { revision: "2025-03-26".into(), ..Options::legacy("one") }).await;
    let mut client = Client::of(&fixture.url(), &[]);
    let mut old = hello();
    old["protocolVersion"] = json!("2025-03-26");
    client.ask("initialize", old).await;
    let call = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": id.to_string()}}});
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    client.say(&json!([initialized, call(71), call(72), {"id": 73, "method": 1}])).await;
    let mut answers = [client.hear().await, client.hear().await, client.hear().await];
    answers.sort_by_key(|answer| answer["id"].as_u64());
    assert_eq!((text(&answers[0]), text(&answers[1])), ("71", "72"));
    assert_eq!((&answers[2]["id"], &answers[2]["error"]["code"]), (&json!(73), &json!(-32600)));
}

#[tokio::test]
async fn a_client_of_both_eras_falls_back_where_the_server_is_old() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let mut client = Client::of(&fixture.url(), &[]);
    let probe = client.ask_modern("server/discover", json!({})).await;
    let code = probe["error"]["code"].as_i64().unwrap();
    assert!(!(-32099..=-32020).contains(&code), "no error of the modern era: {probe}");
    client.initialize().await;
    assert_eq!(text(&client.tool("echo", json!({"text": "hi"})).await), "hi");
}

#[tokio::test]
async fn a_server_without_sessions_or_streams_will_do() {
    let fixture = Fixture::start(Options { sessions: false, ..Options::legacy("one") }).await;
    let mut client = Client::of(&fixture.url(), &[]);
    client.initialize().await;
    assert_eq!(text(&client.tool("echo", json!({"text": "hi"})).await), "hi");
    let bad = client.ask("no/such", json!({})).await;
    assert_eq!((bad["error"]["code"].as_i64(), complaint(&bad)), (Some(-32601), "Method not found"));
    assert!(client.end().await.status.success());
}
