//! Gateways, companions and connections that end in the middle of a call.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};
use causeway_suite::host::eventually;
use causeway_suite::link::transports;
use causeway_suite::{Companion, Gateway, with};
use futures_util::future::join;
use serde_json::json;

use crate::link::proxy::Proxy;
use crate::link::{KEY, World, assert_works, behind, call, error, offering};

/// A call that takes `ms` and says nothing meanwhile.
fn slow(gateway: &Gateway, ms: u64) -> causeway_suite::Request {
    call(gateway, "slow", json!({"ms": ms, "quiet": true}))
}

/// The calls that `fixture` got; that the gateway asks of what era it is does not count.
fn calls_at(fixture: &Fixture) -> usize {
    fixture.trace().iter().filter(|line| *line == "tools/call").count()
}

async fn behind_a_proxy(more: &[&str]) -> (Fixture, Gateway, Proxy, Companion) {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(behind(&["one"])).await;
    let proxy = Proxy::to(gateway.authority()).await;
    let offer = offering(&[("one", &fixture)]);
    let companion = Companion::start(&proxy.url(), "laptop", Some(KEY), &offer, more).await;
    (fixture, gateway, proxy, companion)
}

#[tokio::test]
async fn a_killed_companion_fails_its_calls_once_and_its_successor_serves() {
    let mut world = World::new(Options::modern("one"), &[]).await;
    let began = Instant::now();
    let calls: Vec<_> = (0..5).map(|_| tokio::spawn(slow(&world.gateway, 60_000).answer())).collect();
    assert!(world.fixture.until(|fixture| calls_at(fixture) >= 5).await, "all of them have arrived");
    world.companion.kill().await;
    world.companion.again().await;
    for call in calls {
        let why = error(&call.await.unwrap());
        assert!(why.contains("laptop"), "{why}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "told after {:?}", began.elapsed());
    world.assert_works().await;
}

#[tokio::test]
async fn a_companion_that_does_not_come_back_fails_its_calls_when_it_is_too_late() {
    let mut world = World::new(Options::modern("one"), &[]).await;
    let pending = tokio::spawn(slow(&world.gateway, 60_000).answer());
    assert!(world.fixture.until(|fixture| calls_at(fixture) >= 1).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.companion.kill().await;
    let began = Instant::now();
    let why = error(&pending.await.unwrap());
    assert!(why.contains("link laptop") || why.contains("link \"laptop\""), "{why}");
    assert!(began.elapsed() < Duration::from_secs(15), "told after {:?}", began.elapsed());
    // What is asked from now on is told at once.
    let began = Instant::now();
    let why = error(&world.call("echo", json!({"text": "hi"})).answer().await);
    assert!(why.contains("link \"laptop\" is not connected, last seen"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(8));
    world.companion.again().await;
    world.assert_works().await;
}

#[tokio::test]
async fn a_killed_gateway_is_dialled_again() {
    let mut world = World::new(Options::modern("one"), &[]).await;
    let pending = tokio::spawn(slow(&world.gateway, 60_000).try_send());
    assert!(world.fixture.until(|fixture| calls_at(fixture) >= 1).await);
    world.gateway.restart().await;
    world.companion.until_connected(2).await;
    assert_eq!(world.companion.events("connected")[1]["resumed"], false);
    // The client's own connection was cut; what it asked for has ended at the server, too.
    assert!(pending.await.unwrap().is_err() || world.gateway.host() != causeway_suite::Host::Native);
    world.assert_works().await;
}

#[tokio::test]
async fn calls_in_flight_outlive_cuts() {
    for &transport in transports() {
        let (_fixture, gateway, proxy, companion) = behind_a_proxy(&["--transport", transport]).await;
        for round in 0..5 {
            let calls: Vec<_> = (0..4).map(|_| tokio::spawn(slow(&gateway, 600).answer())).collect();
            tokio::time::sleep(Duration::from_millis(100 * round)).await;
            proxy.cut();
            for call in calls {
                let answer = call.await.unwrap();
                assert!(answer.result()["content"].is_array(), "{transport}: {answer:?}");
            }
            assert_works(&gateway).await;
        }
        let resumed = companion.events("connected").iter().filter(|event| event["resumed"] == true).count();
        assert!(resumed >= 4, "{transport}: {:?}", companion.events("connected"));
        assert!(proxy.connections() > 5);
    }
}

/// A network in which plain HTTP passes and WebSockets get nowhere.
async fn where_websockets_get_nowhere(mute: bool) {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(behind(&["one"])).await;
    let proxy = Proxy::to(gateway.authority()).await;
    proxy.swallow(mute);
    let offer = offering(&[("one", &fixture)]);
    let again = if mute { "600" } else { "1" };
    let more = ["--again", again];
    let companion = Companion::start(&proxy.url(), "laptop", Some(KEY), &offer, &more).await;
    let by = |event: &serde_json::Value| event["transport"].as_str().unwrap_or_default().to_owned();
    assert_eq!(by(&companion.events("connected")[0]), "http");
    assert_works(&gateway).await;
    if mute {
        // What works is dialled at once the next time.
        proxy.cut();
        companion.until_connected(2).await;
        assert_eq!(by(&companion.events("connected")[1]), "http");
        assert_eq!(companion.events("transport").len(), 1, "{:?}", companion.events("transport"));
        assert_works(&gateway).await;
        return;
    }
    // WebSockets pass again some time: it is seen beside the connection, and the session goes on.
    assert_eq!(companion.connections(), 1, "{:?}", companion.events("lost"));
    proxy.open();
    companion.until_connected(2).await;
    let back = companion.events("connected")[1].clone();
    assert_eq!((by(&back).as_str(), &back["resumed"]), ("websocket", &json!(true)));
    assert_eq!(companion.events("lost"), [json!(null); 0], "nothing was lost");
    assert_works(&gateway).await;
}

#[tokio::test]
async fn a_network_that_swallows_websockets_is_passed_by_events_and_posts_until_they_pass_again() {
    if transports().contains(&"websocket") {
        join(where_websockets_get_nowhere(false), where_websockets_get_nowhere(true)).await;
    }
}

#[tokio::test]
async fn calls_in_flight_outlive_a_network_that_is_gone_for_seconds() {
    let (_fixture, gateway, proxy, _companion) = behind_a_proxy(&[]).await;
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(slow(&gateway, 500).answer())).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Nobody is told that nothing passes, as when a cable is pulled.
    proxy.hold();
    tokio::time::sleep(Duration::from_secs(4)).await;
    proxy.open();
    for call in calls {
        let answer = call.await.unwrap();
        assert!(answer.result()["content"].is_array(), "{answer:?}");
    }
    assert_works(&gateway).await;
}

#[tokio::test]
async fn a_cut_past_the_time_to_resume_fails_each_call_once() {
    let (fixture, gateway, proxy, companion) = behind_a_proxy(&[]).await;
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(slow(&gateway, 60_000).answer())).collect();
    assert!(fixture.until(|fixture| calls_at(fixture) >= 4).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    proxy.close();
    for call in calls {
        let why = error(&call.await.unwrap());
        assert!(why.contains("laptop"), "{why}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "told after {:?}", began.elapsed());
    let before = companion.connections();
    proxy.open();
    companion.until_connected(before + 1).await;
    assert_works(&gateway).await;
}

/// A minute in which nothing passes and nobody is told; the link may be away for `resume`.
async fn a_minute_of_nothing(resume: &str) {
    const MINUTE: Duration = Duration::from_secs(61);
    let long = resume == "180s";
    let fixture = Fixture::start(Options::modern("one")).await;
    let patience = json!({"timeouts": {"first_byte": "4m", "idle": "4m", "total": "5m"}});
    let changes = json!({"mcpServers": {"one": patience}, "limits": {"link_resume": resume}});
    let gateway = Gateway::start(with(behind(&["one"]), changes)).await;
    let proxy = Proxy::to(gateway.authority()).await;
    let more = ["--resume", "180", "--pause", "2"];
    let offer = offering(&[("one", &fixture)]);
    let companion = Companion::start(&proxy.url(), "laptop", Some(KEY), &offer, &more).await;
    assert_works(&gateway).await;
    let known = fixture.trace().len();
    let calls: Vec<_> =
        (0..4).map(|_| tokio::spawn(slow(&gateway, 5_000).within(MINUTE * 3).answer())).collect();
    assert!(fixture.until(|fixture| fixture.trace().len() >= known + 4).await);
    proxy.hold();
    let began = Instant::now();
    if !long {
        // The edge gives up what is away for too long, while nothing passes yet.
        for call in calls {
            let why = error(&call.await.unwrap());
            assert!(why.contains("laptop"), "{why}");
        }
        assert!(began.elapsed() < MINUTE, "told after {:?}", began.elapsed());
        let asked = Instant::now();
        let why = error(&call(&gateway, "echo", json!({"text": "hi"})).answer().await);
        assert!(why.contains("link \"laptop\" is not connected, last seen"), "{why}");
        assert!(asked.elapsed() < Duration::from_secs(20), "told after {:?}", asked.elapsed());
        tokio::time::sleep(MINUTE.saturating_sub(began.elapsed())).await;
        proxy.open();
    } else {
        tokio::time::sleep(MINUTE).await;
        proxy.open();
        for call in calls {
            let answer = call.await.unwrap();
            assert!(answer.result()["content"].is_array(), "{answer:?}");
        }
    }
    let before = companion.connections();
    assert!(before >= 1);
    let back = async || {
        let answer = call(&gateway, "echo", json!({"text": "hi"})).answer().await;
        answer.messages.iter().any(|message| message["result"].is_object())
    };
    // The dials that were held up are given up one by one.
    assert!(eventually(back).await || eventually(back).await, "{:?}", companion.events("lost"));
    let resumed = companion.events("connected").last().unwrap()["resumed"] == true;
    assert_eq!(resumed, long);
}

#[tokio::test]
async fn a_minute_without_network_keeps_calls_if_links_may_be_away_for_as_long_and_ends_each_once_if_not() {
    tokio::join!(a_minute_of_nothing("6s"), a_minute_of_nothing("180s"));
}

/// A companion dials three times, and only the last of its connections lasts; the hellos arrive in another order, at a gateway
/// that is started anew meanwhile if it `forgets` the link.
async fn dials_in_the_wrong_order(transport: &str, forgets: bool) {
    let (fixture, mut gateway, proxy, companion) = behind_a_proxy(&["--transport", transport]).await;
    assert_works(&gateway).await;
    let known = calls_at(&fixture);
    let call = (!forgets).then(|| tokio::spawn(slow(&gateway, 2_000).answer()));
    if call.is_some() {
        assert!(fixture.until(|fixture| calls_at(fixture) > known).await);
    }
    let welcome = companion.connections();
    proxy.keep();
    if forgets {
        gateway.restart().await;
    }
    let (mut first, mut second) = (None, None);
    for dial in [&mut first, &mut second] {
        let kept = dial.insert(proxy.dial().await);
        kept.lose();
    }
    let third = proxy.dial().await;
    proxy.open();
    let second = second.unwrap().arrive().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let third = third.arrive().await;
    companion.until_connected(welcome + 1).await;
    let first = first.unwrap().arrive().await;
    // What was held up is let go of, and the companion goes on.
    let what = format!("{transport}, forgets: {forgets}");
    tokio::time::timeout(Duration::from_secs(20), join(first, second)).await.expect(&what);
    if let Some(call) = call {
        let answer = call.await.unwrap();
        assert!(answer.result()["content"].is_array(), "{what}: {answer:?}");
    }
    assert_works(&gateway).await;
    assert_eq!(companion.connections(), welcome + 1, "{what}: {:?}", companion.events("lost"));
    assert_eq!(companion.events("connected")[welcome]["resumed"], !forgets, "{what}");
    drop(third);
}

#[tokio::test]
async fn dials_that_arrive_in_the_wrong_order_keep_no_companion_away_and_lose_no_call() {
    for &transport in transports() {
        tokio::join!(dials_in_the_wrong_order(transport, false), dials_in_the_wrong_order(transport, true));
    }
}

#[tokio::test]
async fn the_newer_companion_takes_over_and_the_older_ends() {
    let mut world = World::new(Options::modern("one"), &[]).await;
    world.assert_works().await;
    let other = Fixture::start(Options::modern("other")).await;
    let offer = offering(&[("one", &other)]);
    let _newer = Companion::start(&world.gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    let (status, said) = world.companion.ended().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("a newer companion named \"laptop\" has taken over"), "{said}");
    world.fixture.forget();
    world.assert_works().await;
    assert!(world.fixture.trace().is_empty() && !other.trace().is_empty());
}
