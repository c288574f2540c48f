//! How processes are kept.

use std::time::{Duration, Instant};

use causeway_suite::host::eventually;
use causeway_suite::{Client, ERAS, Era, with};
use serde_json::json;

use super::{below, children, fixture, gateway, is_there, left_out, processes, signal, status};

#[tokio::test]
async fn clients_that_can_be_asked_nothing_share_a_process() {
    if left_out("sharing") {
        return;
    }
    let gateway = gateway(with(fixture(&["--era", "legacy"]), json!({"session": "isolated"}))).await;
    let own = gateway.process().unwrap();
    assert_eq!(children(own).len(), 0, "nothing runs before it is needed");
    let mut clients = Vec::new();
    for n in 0..40 {
        let client = Client::connect(&gateway, "/mcp", ERAS[n % 2]).await;
        assert_eq!(client.tool("one__echo", json!({"text": n.to_string()})).await.text(), n.to_string());
        clients.push(client);
    }
    // One that they share, and the one from which the gateway reads the lists.
    assert_eq!(children(own).len(), 2);
    assert_eq!(processes(&gateway, "one").await.len(), 2);
    // At once, each with ids and progress tokens of its own that are the same for all.
    let calls = clients.iter().map(|client| client.tool("one__test_tool_with_progress", json!({})));
    for answer in futures_util::future::join_all(calls).await {
        assert!(answer.result()["content"].is_array());
    }
    assert_eq!(children(own).len(), 2);
}

#[tokio::test]
async fn a_client_that_can_be_asked_has_a_process_until_it_leaves() {
    if left_out("processes of their own") {
        return;
    }
    let gateway = gateway(with(fixture(&["--era", "legacy"]), json!({"processes": "session"}))).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = Client::connect(&gateway, "/mcp/one", Era::Legacy).await;
        client.tool("echo", json!({"text": "x"})).await;
        clients.push(client);
    }
    let before = processes(&gateway, "one").await.len();
    assert_eq!(before, 4, "three sessions, and the gateway's own");
    for client in &clients {
        client.bare("DELETE").await;
    }
    let gone = eventually(async || processes(&gateway, "one").await.len() == 1).await;
    assert!(gone, "{:?}", status(&gateway, "one").await);
    assert_eq!(children(gateway.process().unwrap()).len(), 1);
}

#[tokio::test]
async fn a_modern_program_needs_one_process() {
    if left_out("modern programs") {
        return;
    }
    let gateway = gateway(fixture(&["--era", "modern"])).await;
    for era in ERAS {
        for _ in 0..5 {
            let client = Client::connect(&gateway, "/mcp", era).await;
            assert_eq!(client.tool("one__echo", json!({"text": "x"})).await.text(), "x");
        }
    }
    assert_eq!(children(gateway.process().unwrap()).len(), 1);
}

#[tokio::test]
async fn a_pool_has_as_many_processes_as_it_was_given() {
    if left_out("pools") {
        return;
    }
    let eager = json!({"processes": 3, "start": "eager"});
    let gateway = gateway(with(fixture(&["--era", "legacy"]), eager)).await;
    assert!(eventually(async || children(gateway.process().unwrap()).len() == 3).await);
    for n in 0..12 {
        let client = Client::connect(&gateway, "/mcp", ERAS[n % 2]).await;
        assert_eq!(client.tool("one__echo", json!({"text": "x"})).await.text(), "x");
    }
    assert_eq!(children(gateway.process().unwrap()).len(), 3);
}

#[tokio::test]
async fn what_nobody_uses_is_stopped_and_started_again() {
    if left_out("idle_stop") {
        return;
    }
    for era in ["legacy", "modern"] {
        let gateway = gateway(with(fixture(&["--era", era]), json!({"idle_stop": "1s"}))).await;
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        client.tool("one__echo", json!({"text": "x"})).await;
        let own = gateway.process().unwrap();
        assert!(!children(own).is_empty());
        assert!(eventually(async || children(own).is_empty()).await, "{era}");
        assert_eq!(client.tool("one__echo", json!({"text": "again"})).await.text(), "again", "{era}");
    }
}

#[tokio::test]
async fn processes_are_replaced_without_a_call_being_lost() {
    if left_out("recycling") {
        return;
    }
    for era in ["legacy", "modern"] {
        let gateway = gateway(with(fixture(&["--era", era]), json!({"recycle": {"calls": 5}}))).await;
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        client.tool("one__echo", json!({"text": "x"})).await;
        let first = processes(&gateway, "one").await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(client.tool("one__echo", json!({"text": "x"})).await.text(), "x", "{era}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let last = processes(&gateway, "one").await;
        assert!(!first.iter().any(|pid| last.contains(pid)) || era == "legacy", "{era}: {first:?} {last:?}");
        assert!(last != first, "{era}");
        assert_eq!(status(&gateway, "one").await["restarts"], 0, "{era}: nothing ended by itself");
    }
}

#[tokio::test]
async fn an_eager_program_runs_before_it_is_asked_and_comes_back() {
    if left_out("eager programs") {
        return;
    }
    for era in ["legacy", "modern"] {
        let gateway =
            gateway(with(fixture(&["--era", era]), json!({"start": "eager", "idle_stop": "1s"}))).await;
        let own = gateway.process().unwrap();
        assert!(eventually(async || children(own).len() == 1).await, "{era}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        let first = children(own);
        assert_eq!(first.len(), 1, "{era}: it stays");
        signal("KILL", *first.first().unwrap());
        assert!(eventually(async || children(own).len() == 1 && children(own) != first).await, "{era}");
    }
}

#[tokio::test]
async fn a_change_of_the_configuration_stops_only_what_has_changed() {
    if left_out("changes") {
        return;
    }
    let config = |two: &str| json!({"mcpServers": {"one": fixture(&["--era", "modern"]), "two": fixture(&["--era", "modern", "--name", two])}});
    let gateway = causeway_suite::Gateway::start(config("a")).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    for name in ["one__echo", "two__echo"] {
        client.tool(name, json!({"text": "x"})).await;
    }
    let (one, two) = (processes(&gateway, "one").await, processes(&gateway, "two").await);
    gateway.configure(&config("b"));
    let changed = eventually(async || {
        client.tool("two__echo", json!({"text": "x"})).await;
        let now = processes(&gateway, "two").await;
        !now.is_empty() && now != two
    });
    assert!(changed.await);
    assert_eq!(processes(&gateway, "one").await, one, "what has not changed goes on");
    let own = gateway.process().unwrap();
    assert!(eventually(async || children(own).len() == 2).await, "what was replaced is gone");
}

#[tokio::test]
async fn a_gateway_that_stops_leaves_nothing_behind() {
    if left_out("stopping") {
        return;
    }
    for manners in ["exits-after-call", "stays"] {
        let gateway = gateway(fixture(&["--era", "legacy", "--manners", manners])).await;
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        assert_eq!(client.tool("one__echo", json!({"text": "x"})).await.text(), "x");
        client.tool_names().await;
        let own = gateway.process().unwrap();
        let before = children(own);
        assert!(!before.is_empty());
        signal("TERM", own);
        assert!(eventually(async || !is_there(own)).await, "{manners}");
        assert!(!before.iter().any(|pid| is_there(*pid)), "{manners}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_killed_leaves_nothing_behind() {
    if left_out("kill -9 of the gateway") {
        return;
    }
    let config = json!({"mcpServers": {
        "one": fixture(&["--era", "legacy"]),
        // It goes on when its input is closed and when it is asked to end.
        "two": fixture(&["--era", "modern", "--manners", "stays"]),
        "three": with(fixture(&["--era", "modern"]), json!({"sandbox": "off"})),
    }});
    let gateway = causeway_suite::Gateway::start(config).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    for name in ["one", "two", "three"] {
        assert_eq!(client.tool(&format!("{name}__echo"), json!({"text": "x"})).await.text(), "x", "{name}");
    }
    let own = gateway.process().unwrap();
    let all = below(own);
    assert!(all.len() >= 3, "{all:?}");
    signal("KILL", own);
    let left = || all.iter().filter(|(pid, _)| is_there(**pid)).collect::<Vec<_>>();
    assert!(eventually(async || left().is_empty()).await, "{:?}", left());
}
