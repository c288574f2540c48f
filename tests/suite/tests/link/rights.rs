//! Who may open a link, and what may go through it.

use causeway_fixture::{Fixture, Options};
use causeway_suite::link::transports;
use causeway_suite::{Client, Companion, Era, Gateway};
use serde_json::json;

use crate::link::{CALLER, KEY, World, assert_works, behind, error, offering};

async fn refused(name: &str, key: Option<&str>) -> String {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(behind(&["one"])).await;
    let mut said = String::new();
    for &transport in transports() {
        let offer = offering(&[("one", &fixture)]);
        let more = ["--transport", transport];
        let mut companion = Companion::begin(&gateway.url(""), name, key, &offer, &more, &[]);
        let (status, why) = companion.ended().await;
        assert_eq!(status.code(), Some(1), "{transport}: {why}");
        assert_eq!(companion.connections(), 0);
        said = why;
    }
    said
}

#[tokio::test]
async fn a_key_must_have_the_right_to_the_link() {
    let why = refused("laptop", Some(CALLER)).await;
    assert!(why.contains("may not open a link called \"laptop\"") && why.contains("`links`"), "{why}");
    let why = refused("desktop", Some(KEY)).await;
    assert!(why.contains("may not open a link called \"desktop\""), "{why}");
    let why = refused("laptop", None).await;
    assert!(why.contains("CAUSEWAY_KEY"), "{why}");
    let why = refused("laptop", Some("nonsense")).await;
    assert!(why.contains("key") && !why.contains("nonsense"), "{why}");
}

#[tokio::test]
async fn only_what_the_gateway_expects_is_taken() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut config = behind(&["one"]);
    config["mcpServers"]["direct"] = json!({"url": fixture.url()});
    config["mcpServers"]["elsewhere"] = json!({"via": "desktop"});
    let gateway = Gateway::start(config).await;
    let offer =
        offering(&[("one", &fixture), ("direct", &fixture), ("elsewhere", &fixture), ("new", &fixture)]);
    let companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    assert!(causeway_suite::host::eventually(async || companion.events("verdict").len() >= 4).await);
    let verdicts = companion.events("verdict");
    let of =
        |name: &str| verdicts.iter().find(|verdict| verdict["offer"] == format!("server {name:?}")).unwrap();
    assert_eq!(of("one")["accepted"], true);
    for name in ["direct", "elsewhere", "new"] {
        assert_eq!(of(name)["accepted"], false, "{verdicts:?}");
    }
    assert!(of("new")["message"].as_str().unwrap().contains("no server \"new\""), "{verdicts:?}");
}

#[tokio::test]
async fn tools_that_are_not_exposed_are_neither_listed_nor_called() {
    let world = World::new(Options::modern("one"), &["--allow", "echo", "--allow", "one__s*"]).await;
    for era in [Era::Modern, Era::Legacy] {
        let client = Client::connect_as(&world.gateway, "/mcp/one", era, Some(CALLER)).await;
        let mut names = client.tool_names().await;
        names.sort();
        assert_eq!(names, ["echo", "slow", "stream"], "{era:?}");
    }
    world.assert_works().await;
    let refused = world.call("fail", json!({})).answer().await;
    assert!(error(&refused).contains("--allow") || error(&refused).contains("fail"), "{refused:?}");
    assert!(!world.fixture.trace().iter().any(|line| line.contains("fail")), "{:?}", world.fixture.trace());
}

#[tokio::test]
async fn once_says_whether_everything_works_and_leaves_the_link_to_whoever_has_it() {
    let (modern, legacy, old) = (
        Fixture::start(Options::modern("one")).await,
        Fixture::start(Options::legacy("two")).await,
        Fixture::start(Options::sse("three")).await,
    );
    let gateway = Gateway::start(behind(&["one", "two", "three"])).await;
    let mut offer = offering(&[("one", &modern), ("two", &legacy), ("three", &old)]);
    offer["mcpServers"]["three"]["type"] = json!("sse");
    let serving = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    for &transport in transports() {
        let more = ["--once", "--transport", transport];
        let mut fine = Companion::begin(&gateway.url(""), "laptop", Some(KEY), &offer, &more, &[]);
        let (status, said) = fine.ended().await;
        assert!(status.success(), "{transport}: {said}");
    }
    legacy.stop();
    let mut broken = Companion::begin(&gateway.url(""), "laptop", Some(KEY), &offer, &["--once"], &[]);
    assert_eq!(broken.ended().await.0.code(), Some(1));
    assert_works(&gateway).await;
    assert_eq!((serving.connections(), serving.events("lost").len()), (1, 0));
}
