//! Servers whose link is not there: listed or not, called in vain, shown as what they are; and links that sleep.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};
use causeway_suite::host::eventually;
use causeway_suite::{Companion, Gateway, Host, Request, names, with};
use serde_json::{Value, json};

use super::{CALLER, KEY, World, assert_works, behind, call, error, offering};

async fn tools(gateway: &Gateway) -> Vec<String> {
    let request = Request::modern(gateway.url("/mcp"), 1, "tools/list", json!({}))
        .header("authorization", &format!("Bearer {CALLER}"));
    let answer = request.answer().await;
    let mut servers: Vec<String> = names(&answer.result()["tools"])
        .iter()
        .map(|name| name.split("__").next().unwrap_or_default().to_owned())
        .collect();
    servers.dedup();
    servers
}

async fn status(gateway: &Gateway) -> Value {
    let request =
        Request::new("GET", gateway.url("/status")).header("authorization", &format!("Bearer {CALLER}"));
    serde_json::from_str(&request.send().await.text().await).unwrap()
}

#[tokio::test]
async fn a_server_whose_link_is_down_is_kept_or_hidden_and_is_no_failure() {
    let (one, two) =
        (Fixture::start(Options::legacy("one")).await, Fixture::start(Options::modern("two")).await);
    let config = with(
        behind(&["one", "two"]),
        json!({"mcpServers": {"two": {"offline": "hide"}}, "limits": {"link_resume": "1s"}}),
    );
    let mut gateway = Gateway::start(config).await;
    let offer = offering(&[("one", &one), ("two", &two)]);
    let began = Instant::now();
    let answer = call(&gateway, "echo", json!({"text": "hi"})).answer().await;
    assert_eq!(
        error(&answer),
        "server \"one\": link \"laptop\" is not connected, never seen; start `causeway connect` there"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "it is said at once");
    let mut companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    assert!(eventually(async || tools(&gateway).await == ["one", "two"]).await);
    let shown = status(&gateway).await;
    assert_eq!(shown["links"][0]["state"], "connected", "{shown}");
    assert_eq!(shown["links"][0]["servers"], json!(["one", "two"]), "{shown}");
    companion.kill().await;
    assert!(eventually(async || tools(&gateway).await == ["one"]).await, "two is hidden, one is kept");
    assert!(eventually(async || status(&gateway).await["links"][0]["state"] == "offline").await);
    let answer = call(&gateway, "echo", json!({"text": "hi"})).answer().await;
    let said = error(&answer);
    assert!(said.contains("is not connected, last seen ") && said.contains(" s ago; start"), "{said}");
    let shown = status(&gateway).await;
    assert_eq!(
        (&shown["servers"][0]["state"], &shown["servers"][0]["failed"]),
        (&json!("offline"), &json!(0)),
        "{shown}"
    );
    // A gateway that has never seen it knows it all the same.
    gateway.restart().await;
    assert!(eventually(async || tools(&gateway).await == ["one"]).await);
    let said = error(&call(&gateway, "echo", json!({"text": "hi"})).answer().await);
    assert!(said.contains("last seen "), "{said}");
    companion.again().await;
    assert!(eventually(async || tools(&gateway).await == ["one", "two"]).await);
    assert_works(&gateway).await;
    assert!(!gateway.log().contains("\"level\":\"error\""), "{}", gateway.log());
}

#[tokio::test]
async fn a_client_that_listens_is_told_when_the_link_comes_and_goes() {
    let mut world = World::new(Options::modern("one"), &[]).await;
    let params = json!({"notifications": {"toolsListChanged": true}});
    let request = Request::modern(world.gateway.url("/mcp"), 5, "subscriptions/listen", params)
        .header("authorization", &format!("Bearer {CALLER}"));
    let mut events = request.send().await.events();
    let (first, _) = events.next().await.expect("an acknowledgement");
    assert!(first.to_string().contains("toolsListChanged"), "{first}");
    world.companion.kill().await;
    world.companion.again().await;
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some((message, _)) = events.next().await {
            if message["method"] == "notifications/tools/list_changed" {
                return true;
            }
        }
        false
    });
    assert!(told.await.unwrap_or(false), "the client is told of the link");
}

#[tokio::test]
async fn an_idle_link_sleeps_and_goes_on_where_it_was() {
    let world = World::new(Options::legacy("one"), &[]).await;
    world.assert_works().await;
    let idle = if world.gateway.host() == Host::Cloudflare { 16 } else { 2 };
    for _ in 0..2 {
        // Long enough for the object to be taken out of memory.
        tokio::time::sleep(Duration::from_secs(idle)).await;
        world.assert_works().await;
    }
    assert_eq!(world.companion.connections(), 1, "its connection outlived that");
}
