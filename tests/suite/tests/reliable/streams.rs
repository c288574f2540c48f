//! A legacy client: sessions that outlive the gateway's process, streams that are taken up again.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};
use causeway_suite::legacy::{Heard, Legacy};
use causeway_suite::party::Outcome;
use causeway_suite::sse::Next;
use serde_json::{Value, json};

use crate::reliable::World;

in_each_world! {
    a_call_stream_that_is_cut_is_taken_up_without_loss
    a_question_and_its_answer_survive_a_cut
    a_last_event_id_that_nobody_knows_is_refused_cleanly
    delete_ends_the_session_at_once_and_what_runs_in_it
    a_get_stream_ends_with_its_session
}

fn call(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments, "_meta": {"progressToken": "token"}})
}

async fn assert_works(client: &Legacy, what: &str) {
    let outcome = client.call("tools/call", call("echo", json!({"text": "hi"}))).await;
    let said = outcome.and_then(|outcome| outcome.said());
    assert_eq!(said, Ok(json!("hi")), "{what}");
}

fn steps(outcome: &Outcome) -> Vec<u64> {
    let told = outcome.told("notifications/progress");
    told.iter().filter_map(|params| params["progress"].as_u64()).collect()
}

#[tokio::test]
async fn a_session_outlives_a_killed_gateway() {
    for options in [Options::modern("one"), Options::legacy("one")] {
        let what = format!("{:?}", options.era);
        let mut world = World::through_the_gateway(options).await;
        let client = world.legacy().await;
        assert_works(&client, &what).await;
        world.restart().await;
        assert_works(&client, &format!("{what}, after the restart")).await;
    }
}

/// The gateway dies between the question and the answer. The session goes on; only the call is lost, and the client
/// learns that when it comes back for the rest of its stream.
#[tokio::test]
async fn a_killed_gateway_has_lost_the_call_but_not_the_session() {
    let mut world = World::through_the_gateway(Options::modern("one")).await;
    for rounds in 1..=2 {
        let client = world.legacy().await;
        client.hold(if rounds == 1 { usize::MAX } else { 1 });
        let pending = client.start("tools/call", call("ask_twice", json!({})));
        if rounds == 2 {
            assert!(pending.until_asked(1).await, "the first question");
            client.hold(usize::MAX);
        }
        assert!(client.until_asked(rounds).await, "question {rounds}");
        world.restart().await;
        // An answer to what was asked before, as its user has it at last.
        for id in [client.asked()[rounds - 1].id.clone(), json!("ask-1"), json!(1)] {
            let late = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": {}}});
            let (status, text) = client.raw_post(&late).await.unwrap();
            assert_eq!(status, 202, "a response to a forgotten request: {text}");
        }
        let began = Instant::now();
        match pending.outcome().await {
            // The stream is known to have ended: an error for the call, on the stream that was taken up again.
            Ok(outcome) => assert!(outcome.answer["error"].is_object(), "{}", outcome.answer),
            // Or it is not known at all, and coming back to it is refused. 404 would end the session.
            Err(problem) => {
                assert!(problem.contains("HTTP 4") && !problem.contains("HTTP 404"), "{problem}");
            }
        }
        assert!(began.elapsed() < Duration::from_secs(25), "told after {:?}", began.elapsed());
        assert_works(&client, "after the restart").await;
    }
}

async fn a_call_stream_that_is_cut_is_taken_up_without_loss(world: World) {
    let what = world.what();
    let client = world.legacy().await;
    let pending = client.start("tools/call", call("progress", json!({"steps": 200})));
    for heard in [1, 20, 60, 61, 120] {
        assert!(pending.until_heard(heard).await, "{what}: {heard} steps");
        client.cut();
    }
    let outcome = pending.outcome().await.unwrap_or_else(|problem| panic!("{what}: {problem}"));
    assert_eq!(steps(&outcome), (1..=200).collect::<Vec<u64>>(), "{what}");
    assert_eq!(outcome.oddities, Vec::<String>::new(), "{what}");
    assert_eq!(world.fixture.stopped(), Vec::<String>::new(), "{what}: nothing was cancelled by the cuts");
}

async fn a_question_and_its_answer_survive_a_cut(world: World) {
    let what = world.what();
    let client = world.legacy().await;
    client.hold(2);
    let pending = client.start("tools/call", call("ask_form", json!({})));
    assert!(pending.until_asked(1).await, "{what}: the question");
    client.cut();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The second one makes the client answer both, on streams it has come back to.
    let other = client.start("tools/call", call("ask_form", json!({})));
    for (call, which) in [(pending, "first"), (other, "second")] {
        let outcome = call.outcome().await.unwrap_or_else(|problem| panic!("{what}, {which}: {problem}"));
        assert_eq!(outcome.said().unwrap()["content"]["name"], "Ada", "{what}, {which}");
    }
    assert_eq!(client.asked().len(), 2, "{what}: nothing is asked twice");
}

fn number(heard: &Heard) -> Option<u64> {
    heard.message["params"]["data"]["number"].as_u64()
}

#[tokio::test]
async fn what_is_said_while_a_client_is_away_is_told_when_it_is_back() {
    for options in [None, Some(Options::legacy("one"))] {
        let world = match options {
            None => World::direct(Options::legacy("one")).await,
            Some(options) => World::through_the_gateway(options).await,
        };
        let what = if world.gateway.is_some() { "through the gateway" } else { "directly" };
        let client = world.legacy().await;
        assert_eq!(client.listen().await, Ok(200), "{what}");
        assert!(world.fixture.until(|fixture| fixture.streams() > 0).await, "{what}");
        let mut mark = 0;
        for round in 0..5_u64 {
            world.fixture.broadcast(&json!({"number": round * 10}));
            let first = client.hear(&mut mark, |heard| number(heard) == Some(round * 10)).await;
            assert!(first.is_some(), "{what}: {round}");
            client.cut();
            for number in 1..10 {
                world.fixture.broadcast(&json!({"number": round * 10 + number}));
            }
            let last = client.hear(&mut mark, |heard| number(heard) == Some(round * 10 + 9)).await;
            assert!(last.is_some(), "{what}: {round}");
        }
        let numbers: Vec<u64> = client.heard().iter().filter_map(number).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<u64>>(), "{what}");
        assert_eq!(client.oddities(), Vec::<String>::new(), "{what}");
    }
}

async fn a_last_event_id_that_nobody_knows_is_refused_cleanly(world: World) {
    let what = world.what();
    let mut wrong = Vec::new();
    let (client, other) = (world.legacy().await, world.legacy().await);
    // An event id that is real, but of another session.
    assert_eq!(other.listen().await, Ok(200), "{what}");
    let foreign = {
        let reply = world.legacy().await;
        let stream = reply.raw_get(None).await.unwrap();
        let mut source = stream.source();
        match source.within(Duration::from_secs(15)).await {
            Some(Next::Event(event)) => event.id,
            _ => None,
        }
    };
    for last in ["nonsense", "get1_999999", "0", "s1_5", &"9".repeat(5000)]
        .map(str::to_owned)
        .into_iter()
        .chain(foreign)
    {
        let began = Instant::now();
        let reply = client.raw_get(Some(&last)).await.unwrap();
        let status = reply.status;
        let shown = &last[..last.len().min(30)];
        if !matches!(status, 400 | 409 | 410 | 431) {
            wrong.push(format!("{what}: {shown:?} gets HTTP {status}"));
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{what}: {shown:?} took {:?}", began.elapsed());
    }
    assert_works(&client, what).await;
    let fresh = client.raw_get(None).await.unwrap();
    assert_eq!(fresh.status, 200, "{what}: a stream from now on");
    // 404 would say that the session is gone, and the client would have to start over.
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn delete_ends_the_session_at_once_and_what_runs_in_it(world: World) {
    let what = world.what();
    let (client, other) = (world.legacy().await, world.legacy().await);
    assert_eq!(client.listen().await, Ok(200), "{what}");
    let slow = client.start("tools/call", call("slow", json!({"ms": 30000})));
    assert!(slow.until_heard(1).await, "{what}: it runs");
    let status = client.delete().await.unwrap();
    assert!(matches!(status, 200 | 202 | 204), "{what}: HTTP {status}");
    let (status, text) = client
        .raw_post(&json!({"jsonrpc": "2.0", "id": 99, "method": "tools/list", "params": {}}))
        .await
        .unwrap();
    assert_eq!(status, 404, "{what}: the next request: {text}");
    assert_eq!(client.raw_get(None).await.unwrap().status, 404, "{what}: the next stream");
    let gone = |fixture: &Fixture| fixture.stopped().contains(&"tools/call slow".to_owned());
    assert!(world.fixture.until(gone).await, "{what}: the call goes on: {:?}", world.fixture.stopped());
    // Whatever the client is told of its call, it is told soon.
    let began = Instant::now();
    let _ = slow.outcome().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{what}: the stream of the call goes on");
    assert_works(&other, &format!("{what}, another session")).await;
}

#[tokio::test]
async fn a_deleted_session_stays_deleted_after_a_restart() {
    let mut world = World::through_the_gateway(Options::modern("one")).await;
    let client = world.legacy().await;
    let status = client.delete().await.unwrap();
    assert!(matches!(status, 200 | 202 | 204), "HTTP {status}");
    world.restart().await;
    let list = json!({"jsonrpc": "2.0", "id": 99, "method": "tools/list", "params": {}});
    assert_eq!(client.raw_post(&list).await.unwrap().0, 404);
}

async fn a_get_stream_ends_with_its_session(world: World) {
    let what = world.what();
    let client = world.legacy().await;
    let stream = client.raw_get(None).await.unwrap();
    assert_eq!(stream.status, 200, "{what}");
    let mut source = stream.source();
    client.delete().await.unwrap();
    let began = Instant::now();
    loop {
        match source.within(Duration::from_secs(15)).await {
            Some(Next::Event(_)) => {}
            Some(Next::End | Next::Cut(_)) => break,
            None => panic!("{what}: the stream is still open"),
        }
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{what}");
}
