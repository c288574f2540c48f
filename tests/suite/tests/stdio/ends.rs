//! How it ends.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};
use causeway_suite::{Gateway, serving};
use serde_json::json;

use crate::stdio::client::{Client, text};

#[tokio::test]
async fn calls_in_flight_are_answered_before_the_end() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    client.initialize().await;
    let call = json!({"name": "stream", "arguments": {"ms": 500}});
    let old = client.send("tools/call", call.clone()).await;
    let new = client.send_modern("tools/call", call).await;
    let end = client.end().await;
    assert_eq!(end.status.code(), Some(0), "{}", end.log);
    for id in [old, new] {
        let answer = end.last.iter().find(|message| message["id"] == id);
        assert_eq!(text(answer.expect("an answer")), "streamed");
    }
}

#[tokio::test]
async fn calls_that_take_too_long_are_not_waited_for() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut client = Client::of(&fixture.url(), &["--grace", "1"]);
    client.send_modern("tools/call", json!({"name": "slow", "arguments": {"ms": 15000}})).await;
    assert!(fixture.until(|fixture| !fixture.seen().is_empty()).await);
    let began = Instant::now();
    let end = client.end().await;
    assert_eq!(end.status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(fixture.until(|fixture| fixture.stopped() == ["tools/call slow"]).await, "and are cancelled");
}

#[tokio::test]
async fn a_signal_ends_it_at_once_and_the_session_with_it() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    for signal in ["-TERM", "-INT"] {
        let mut client = Client::of(&fixture.url(), &[]);
        client.initialize().await;
        client.send("tools/call", json!({"name": "slow", "arguments": {"ms": 15000}})).await;
        assert!(fixture.until(|fixture| fixture.trace().contains(&"tools/call".to_owned())).await);
        assert_eq!(fixture.sessions(), 1);
        let began = Instant::now();
        let id = client.process().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
        let end = client.ended().await;
        assert_eq!(end.status.code(), Some(0), "{signal}");
        assert!(began.elapsed() < Duration::from_secs(10), "{signal}: {:?}", began.elapsed());
        assert_eq!(fixture.sessions(), 0, "{signal}: {:?}", fixture.trace());
        fixture.forget();
    }
}

#[tokio::test]
async fn a_client_that_has_gone_is_not_served() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let mut client = Client::of(&fixture.url(), &[]);
    client.initialize().await;
    client
        .send(
            "tools/call",
            json!({"name": "slow", "arguments": {"ms": 15000}, "_meta": {"progressToken": 1}}),
        )
        .await;
    client.told("notifications/progress").await;
    // Its input stays open; only nobody reads what it says.
    let (mut process, _input) = client.stop_reading();
    let ended = tokio::time::timeout(Duration::from_secs(20), process.wait()).await;
    assert_eq!(ended.expect("it ends").unwrap().code(), Some(0));
    assert_eq!(fixture.sessions(), 0);
}

#[tokio::test]
async fn nothing_asked_is_nothing_failed() {
    let end = Client::of("http://127.0.0.1:1/mcp", &[]).end().await;
    assert_eq!((end.status.code(), end.last.len()), (Some(0), 0), "{}", end.log);
}
