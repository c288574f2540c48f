//! Many sessions with open streams, of which some are cut all the time.

use std::io::Write as _;
use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};
use causeway_suite::behind::is_behind_stdio;
use causeway_suite::host::skip;
use causeway_suite::legacy::{Heard, Legacy};
use causeway_suite::party::{Able, Target};
use causeway_suite::{Gateway, Host, left_out_behind_stdio, serving};
use serde_json::json;

use crate::reliable::World;

/// Pseudo-random numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const EVENTS: u64 = 40;

fn number(heard: &Heard) -> Option<u64> {
    heard.message["params"]["data"]["number"].as_u64()
}

/// Opens `count` sessions with a stream each, sends them numbered events while one in ten is away at any time, and looks
/// whether each got each event once and in order.
async fn run(world: &World, count: usize) {
    let resident = || world.gateway.as_ref().and_then(causeway_suite::Gateway::resident);
    let before = resident();
    let mut clients: Vec<Legacy> = Vec::new();
    while clients.len() < count {
        let batch = (0..50.min(count - clients.len())).map(|_| async {
            let client = Legacy::connect(&world.target(), "2025-11-25", Able::all("2025-11-25")).await?;
            match client.listen().await? {
                200 => Ok(client),
                status => Err(format!("the GET stream is answered with HTTP {status}")),
            }
        });
        for client in futures_util::future::join_all(batch).await {
            clients.push(
                client.unwrap_or_else(|problem: String| panic!("session {}: {problem}", clients.len())),
            );
        }
    }
    // The gateway itself has a session, too, which has a stream where the server is a program.
    let all = world.fixture.until(|fixture| fixture.streams() >= count).await;
    assert!(all, "{} of {count} streams have reached the server", world.fixture.streams());
    let opened = resident();

    // Each has an event to come back to before the first one is cut.
    world.fixture.broadcast(&json!({"number": 0}));
    for (at, client) in clients.iter().enumerate() {
        let first = client.hear(&mut 0, |heard| number(heard) == Some(0)).await;
        assert!(first.is_some(), "session {at} did not hear the first event");
    }
    let began = Instant::now();
    let mut dice = Dice(20_261_120);
    let mut cuts = 0;
    for number in 1..=EVENTS {
        for client in &clients {
            if dice.below(10) == 0 {
                client.cut();
                cuts += 1;
            }
        }
        world.fixture.broadcast(&json!({"number": number}));
        tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
    }
    let expected: Vec<u64> = (0..=EVENTS).collect();
    let mut wrong = Vec::new();
    for (at, client) in clients.iter().enumerate() {
        let mut last = None;
        // For as long as more of them come: a busy machine takes its time.
        let mut known = usize::MAX;
        while last.is_none() && client.heard().len() != known {
            known = client.heard().len();
            last = client.hear(&mut 0, |heard| number(heard) == Some(EVENTS)).await;
        }
        let heard: Vec<u64> = client.heard().iter().filter_map(number).collect();
        if last.is_none() || heard != expected || !client.oddities().is_empty() {
            wrong.push(format!("session {at}: heard {heard:?}, {:?}", client.oddities()));
            if wrong.len() > 3 {
                break;
            }
        }
    }
    let after = resident();
    // Past the test harness, which shows the output of failing tests only.
    let _ = writeln!(
        std::io::stderr(),
        "{count} sessions, {EVENTS} events each, {cuts} cuts in {:?}; resident: {before:?} kB at first, {opened:?} kB \
         with all streams open, {after:?} kB at the end",
        began.elapsed()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Of few sessions, what the process needs for itself is most.
    let host = world.gateway.as_ref().filter(|_| count >= 200).map(causeway_suite::Gateway::host);
    if let (Some(before), Some(after), Some(Host::Native)) = (before, after, host) {
        let each = after.saturating_sub(before) / u64::try_from(count).unwrap();
        // An upstream connection, a client's connection and the log for those who come back. In a debug build.
        assert!(each <= 200, "{each} kB a session");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_gateway_nothing_is_lost_and_nothing_comes_twice() {
    run(&World::direct(Options::legacy("one")).await, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_lose_nothing_and_hear_nothing_twice() {
    // Enough of them to see what happens on this small machine: workerd keeps an object for each session, and each
    // client that can be asked has a process of its own.
    let count = match Host::chosen() {
        _ if is_behind_stdio() => 20,
        Host::Native => 1000,
        Host::Cloudflare | Host::Spin => 200,
    };
    run(&World::through_the_gateway(Options::legacy("one")).await, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_come_when_others_have_gone_need_no_memory_of_their_own() {
    if Host::chosen() != Host::Native {
        return skip("memory", "how much memory an engine holds says little about what runs on it");
    }
    if left_out_behind_stdio("memory of streams", "a program has no streams to be counted") {
        return;
    }
    let fixture = Fixture::start(Options::legacy("one").matrix()).await;
    let mut config = serving(&[("one", &fixture)]);
    config["limits"] = json!({"subscriptions": 1000});
    let gateway = Gateway::start(config).await;
    let (target, resident) = (Target::new(gateway.url("/mcp")), || gateway.resident().unwrap());
    let wave = async |count: usize| {
        let mut clients = Vec::new();
        for _ in 0..count {
            let client = Legacy::connect(&target, "2025-11-25", Able::all("2025-11-25")).await.unwrap();
            assert_eq!(client.listen().await, Ok(200));
            clients.push(client);
        }
        assert!(fixture.until(|fixture| fixture.streams() == count).await, "all are heard");
        let open = resident();
        for client in clients {
            assert_eq!(client.delete().await, Ok(204));
        }
        assert!(fixture.until(|fixture| fixture.streams() == 0).await, "all have ended");
        open
    };
    // What is needed once is there.
    wave(20).await;
    let before = resident();
    let (first, second, third) = (wave(200).await, wave(200).await, wave(200).await);
    let (each, more) = (first.saturating_sub(before), third.saturating_sub(first));
    let _ = writeln!(
        std::io::stderr(),
        "200 streams, three times: {before} kB before, {first}, {second} and {third} kB with all of them open"
    );
    assert!(more * 2 < each.max(2048), "{more} kB more than the first {each} kB");
}
