//! What flows while a call runs: progress, logs, silence, and the end of interest.

use std::time::Duration;

use causeway_fixture::{Fixture, Options, SseForm, Trouble};
use causeway_suite::host::{eventually, skip};
use causeway_suite::{Client, ERAS, Era, Gateway, Host, left_out_behind_stdio, serving, with};
use futures_util::future::{join, join_all};
use serde_json::json;

/// Each era of servers, by itself.
async fn servers() -> [(Era, Fixture); 2] {
    [
        (Era::Modern, Fixture::start(Options::modern("one")).await),
        (Era::Legacy, Fixture::start(Options::legacy("one")).await),
    ]
}

#[tokio::test]
async fn progress_arrives_before_the_result_exists() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, name) in [("/mcp/one", "stream"), ("/mcp", "one__stream")] {
            for era in ERAS {
                let client = Client::connect(&gateway, path, era).await;
                client.tool_names().await;
                let params =
                    json!({"name": name, "arguments": {"held": true}, "_meta": {"progressToken": "p"}});
                let reply = client.send("tools/call", params).await;
                assert!(
                    reply.header("content-type").starts_with("text/event-stream"),
                    "{path} {era:?}→{server:?}"
                );
                let mut events = reply.events();
                let (progress, _) = events.next().await.unwrap();
                assert_eq!(progress["method"], "notifications/progress");
                assert_eq!(progress["params"]["progressToken"], "p");
                let goes_on = eventually(async || fixture.held() == 1).await;
                assert!(goes_on, "{path} {era:?}→{server:?}: it has no result yet");
                fixture.let_go(1);
                let (result, _) = events.next().await.unwrap();
                assert_eq!(result["result"]["content"][0]["text"], "streamed");
                assert_eq!(events.next().await, None, "the stream ends with the result");
            }
        }
    }
}

#[tokio::test]
async fn logs_of_a_call_reach_its_caller() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for era in ERAS {
            let client = Client::connect(&gateway, "/mcp/one", era).await;
            let meta = json!({"io.modelcontextprotocol/logLevel": "info"});
            let params = json!({"name": "test_tool_with_logging", "arguments": {}, "_meta": meta});
            if era == Era::Legacy {
                let set = client.ask("logging/setLevel", json!({"level": "info"})).await;
                assert_eq!(set.result(), &json!({}));
            }
            let answer = client.ask("tools/call", params).await;
            assert_eq!(answer.told("notifications/message").len(), 3, "{era:?}→{server:?}");
            assert!(answer.result().is_object());
        }
    }
}

#[tokio::test]
async fn a_modern_client_that_asked_for_no_logs_gets_none() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        let answer = client.tool("test_tool_with_logging", json!({})).await;
        assert_eq!(answer.told("notifications/message").len(), 0, "Modern→{server:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_call() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        fixture.forget();
        let params = json!({"name": "slow", "arguments": {"ms": 8000}, "_meta": {"progressToken": 1}});
        let mut events = client.send("tools/call", params).await.events();
        events.next().await.unwrap();
        drop(events);
        let stopped = fixture.until(|fixture| fixture.stopped() == ["tools/call slow"]).await;
        assert!(stopped, "Modern→{server:?}: {:?} {:?}", fixture.stopped(), fixture.trace());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_head_cancels_the_call() {
    if Host::chosen() == Host::Spin {
        let case = "a_client_that_goes_away_before_the_head_cancels_the_call";
        return skip(case, "it tells nobody before an answer has begun");
    }
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        client.tool("echo", json!({"text": "warm"})).await;
        fixture.forget();
        let call =
            client.send("tools/call", json!({"name": "slow", "arguments": {"ms": 8000, "quiet": true}}));
        assert!(tokio::time::timeout(Duration::from_millis(400), call).await.is_err(), "no answer yet");
        drop(client);
        let stopped = fixture.until(|fixture| fixture.stopped() == ["tools/call slow"]).await;
        assert!(stopped, "Modern→{server:?}: {:?} {:?}", fixture.stopped(), fixture.trace());
    }
}

#[tokio::test]
async fn a_legacy_cancellation_reaches_the_server() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Legacy).await;
        fixture.forget();
        let params = json!({"name": "slow", "arguments": {"ms": 8000}, "_meta": {"progressToken": 1}});
        let request = client.request("tools/call", params).json("/id", json!("to-stop"));
        let mut events = request.send().await.events();
        events.next().await.unwrap();
        let told = client
            .notify("notifications/cancelled", json!({"requestId": "to-stop", "reason": "bored"}))
            .await;
        assert_eq!(told.status, 202);
        if server == Era::Legacy {
            let stopped = fixture.until(|fixture| fixture.stopped() == ["tools/call slow"]).await;
            assert!(stopped, "Legacy→{server:?}: {:?}", fixture.trace());
        }
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() {
    for (server, fixture) in servers().await {
        let config = with(serving(&[("one", &fixture)]), json!({"limits": {"keep_alive": "1s"}}));
        let gateway = Gateway::start(config).await;
        for (path, name) in [("/mcp/one", "stream"), ("/mcp", "one__stream")] {
            let client = Client::connect(&gateway, path, Era::Modern).await;
            let params = json!({"name": name, "arguments": {"ms": 2600}, "_meta": {"progressToken": 1}});
            let mut events = client.send("tools/call", params).await.events();
            while events.next().await.is_some() {}
            assert!((1..=4).contains(&events.comments), "{path} Modern→{server:?}: {}", events.comments);
        }
    }
}

#[tokio::test]
async fn every_liberty_of_the_event_format_is_understood() {
    if left_out_behind_stdio("the event format", "there are no events, but lines") {
        return;
    }
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        // Listing and prefixing need the gateway to read the events; calls may be passed on as they are.
        for form in
            [SseForm::CrLf, SseForm::Cr, SseForm::Bom, SseForm::Comments, SseForm::ManyLines, SseForm::Split]
        {
            let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
            fixture.trouble("tools/list", Trouble::Sse(form));
            let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
            // A busy machine may need longer for the first list than a caller is made to wait.
            let listed = async || client.tool_names().await.contains(&"one__echo".to_owned());
            assert!(eventually(listed).await, "Modern→{server:?} {form:?}");
            fixture.calm();
        }
        for form in [SseForm::CrLf, SseForm::Comments, SseForm::Split] {
            fixture.trouble("tools/call", Trouble::Sse(form));
            let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
            let answer = client.tool("one__echo", json!({"text": "hällo 🥊"})).await;
            assert_eq!(answer.text(), "hällo 🥊", "Legacy→{server:?} {form:?}");
            fixture.calm();
        }
    }
}

#[tokio::test]
async fn a_slow_body_is_passed_on_piece_by_piece() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
    fixture.trouble("tools/call", Trouble::SlowBody { size: 16, pause: Duration::from_millis(20) });
    let answer = client.tool("echo", json!({"text": "patience"})).await;
    assert_eq!(answer.text(), "patience");
}

#[tokio::test]
async fn a_large_result_arrives_whole() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, name) in [("/mcp/one", "blob"), ("/mcp", "one__blob")] {
            for era in ERAS {
                let client = Client::connect(&gateway, path, era).await;
                let length = client.tool(name, json!({})).await.text().len();
                assert_eq!(length, 65_560, "{path} {era:?}→{server:?}");
            }
        }
    }
}

#[tokio::test]
async fn calls_run_side_by_side() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
        let calls = (0..8).map(|_| client.tool("one__stream", json!({"held": true})));
        let all_run = async {
            let run = eventually(async || fixture.held() == 8).await;
            assert!(run, "Legacy→{server:?}: of eight calls {} run", fixture.held());
            fixture.let_go(8);
        };
        let (answers, ()) = join(join_all(calls), all_run).await;
        for answer in answers {
            assert_eq!(answer.text(), "streamed");
        }
    }
}
