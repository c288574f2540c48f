//! A modern client of a legacy server: between its rounds the call waits in the gateway.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};
use causeway_suite::modern::{Modern, Round, retry};
use causeway_suite::party::{Able, Target, obliging};
use causeway_suite::{Gateway, hash, serving, with};
use serde_json::{Map, Value, json};

use crate::reliable::World;

fn call(name: &str) -> Value {
    json!({"name": name, "arguments": {}})
}

/// The answers that a willing client gives to everything that `round` asks.
fn answers(round: &Round) -> Map<String, Value> {
    let wants = round.wants().unwrap_or_else(|| panic!("the call asks for nothing: {}", round.answer));
    let requests = wants["inputRequests"].as_object().expect("questions");
    let answer = |request: &Value| obliging(request["method"].as_str().unwrap(), &request["params"]).unwrap();
    requests.iter().map(|(key, request)| (key.clone(), answer(request))).collect()
}

/// The same call with the answers to what `round` asked.
fn next(params: &Value, round: &Round) -> Value {
    let answers = answers(round);
    retry(params, round.wants().unwrap(), answers)
}

/// The call is refused as a request that cannot be right, and the message says what to do.
fn assert_refused(what: &str, round: &Round) {
    assert_eq!(round.code(), -32602, "{what}: {}", round.answer);
    assert_says_what_to_do(what, round);
}

fn assert_says_what_to_do(what: &str, round: &Round) {
    let complaint = round.complaint();
    let says = ["again", "anew", "repeat"].iter().any(|word| complaint.contains(word));
    assert!(says, "{what}: {complaint:?} does not say what to do");
}

fn text(round: &Round) -> &str {
    round.answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("no text: {}", round.answer))
}

async fn assert_works(client: &Modern) {
    let outcome = client.call("tools/call", call("ask_twice")).await.unwrap();
    assert_eq!(outcome.said().unwrap(), json!({"name": "Ada", "wish": "Ada"}));
}

async fn legacy_world() -> World {
    World::through_the_gateway(Options::legacy("one")).await
}

#[tokio::test]
async fn a_killed_gateway_has_lost_the_call_and_a_fresh_one_works() {
    let mut world = legacy_world().await;
    let params = call("ask_twice");
    for rounds in 1..=2 {
        let client = world.modern().await;
        let mut round = client.once("tools/call", params.clone()).await.unwrap();
        if rounds == 2 {
            round = client.once("tools/call", next(&params, &round)).await.unwrap();
        }
        let late = next(&params, &round);
        world.restart().await;
        let asked = Instant::now();
        let refused = client.once("tools/call", late).await.unwrap();
        let what = format!("killed after round {rounds}");
        assert!(refused.answer["error"].is_object(), "{what}: {}", refused.answer);
        assert_says_what_to_do(&what, &refused);
        assert!(asked.elapsed() < Duration::from_secs(15), "{what}: refused after {:?}", asked.elapsed());
        assert_works(&client).await;
    }
}

#[tokio::test]
async fn a_used_state_is_refused() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let params = call("ask_form");
    let first = client.once("tools/call", params.clone()).await.unwrap();
    let second = next(&params, &first);
    assert!(text(&client.once("tools/call", second.clone()).await.unwrap()).contains("Ada"));
    assert_refused("after the end", &client.once("tools/call", second).await.unwrap());
    assert_works(&client).await;
}

#[tokio::test]
async fn the_state_of_an_earlier_round_is_refused_and_the_later_one_still_works() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let params = call("ask_twice");
    let first = client.once("tools/call", params.clone()).await.unwrap();
    let second = client.once("tools/call", next(&params, &first)).await.unwrap();
    assert_refused("the first state", &client.once("tools/call", next(&params, &first)).await.unwrap());
    let done = client.once("tools/call", next(&params, &second)).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(text(&done)).unwrap(), json!({"name": "Ada", "wish": "Ada"}));
}

#[tokio::test]
async fn of_two_retries_at_once_one_goes_on() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let params = call("ask_form");
    for _ in 0..5 {
        let first = client.once("tools/call", params.clone()).await.unwrap();
        let second = next(&params, &first);
        let (one, two) = tokio::join!(
            client.once("tools/call", second.clone()),
            client.once("tools/call", second.clone())
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        let (good, bad) = if one.code() == 0 { (one, two) } else { (two, one) };
        assert!(text(&good).contains("Ada"));
        assert_refused("the other one", &bad);
    }
}

#[tokio::test]
async fn the_state_of_another_caller_is_refused_and_still_works_for_its_own() {
    let fixture = Fixture::start(Options::legacy("one").matrix()).await;
    let keys = json!({"keys": {"ada": {"hash": hash("key-of-ada")}, "bob": {"hash": hash("key-of-bob")}}});
    let gateway = Gateway::start(with(serving(&[("one", &fixture)]), keys)).await;
    let connect = async |key| {
        let target = Target::new(gateway.url("/mcp/one")).with_key(key);
        Modern::connect(&target, Able::all("2026-07-28")).await.unwrap()
    };
    let (ada, bob) = (connect("key-of-ada").await, connect("key-of-bob").await);
    let params = call("ask_form");
    let first = ada.once("tools/call", params.clone()).await.unwrap();
    assert_refused("of another caller", &bob.once("tools/call", next(&params, &first)).await.unwrap());
    assert!(text(&ada.once("tools/call", next(&params, &first)).await.unwrap()).contains("Ada"));
}

#[tokio::test]
async fn a_state_belongs_to_its_request_and_still_works_for_it() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let params = json!({"name": "ask_model", "arguments": {"prompt": "one"}});
    let first = client.once("tools/call", params.clone()).await.unwrap();
    let good = next(&params, &first);
    let mut other = good.clone();
    other["arguments"] = json!({"prompt": "two"});
    assert_refused("other arguments", &client.once("tools/call", other).await.unwrap());
    let mut other = good.clone();
    other["name"] = json!("ask_form");
    assert_refused("another tool", &client.once("tools/call", other).await.unwrap());
    let mut other = good.clone();
    other["name"] = json!("ask_prompt");
    assert_refused("another method", &client.once("prompts/get", other).await.unwrap());
    // Members in another order are the same arguments.
    assert!(text(&client.once("tools/call", good).await.unwrap()).contains("Paris"));
}

#[tokio::test]
async fn a_changed_state_is_refused() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let params = call("ask_form");
    let first = client.once("tools/call", params.clone()).await.unwrap();
    let good = next(&params, &first);
    let state = good["requestState"].as_str().unwrap();
    let last = state.len() - 1;
    for at in [0, 1, last / 3, last / 2, last - 1, last] {
        let mut bytes = state.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let mut changed = good.clone();
        changed["requestState"] = json!(String::from_utf8(bytes).unwrap());
        assert_refused(&format!("byte {at}"), &client.once("tools/call", changed).await.unwrap());
    }
    for nonsense in [json!(""), json!("nonsense"), json!("a".repeat(100_000)), json!(7), json!({"a": 1})] {
        let mut changed = good.clone();
        changed["requestState"] = nonsense.clone();
        let round = client.once("tools/call", changed).await.unwrap();
        assert_eq!(round.code(), -32602, "{}: {}", nonsense.to_string().len(), round.answer);
    }
    assert!(text(&client.once("tools/call", good).await.unwrap()).contains("Ada"));
}

#[tokio::test]
async fn a_call_that_nobody_takes_up_is_cancelled_upstream_and_its_state_is_refused() {
    let fixture = Fixture::start(Options::legacy("one").matrix()).await;
    let park = json!({"limits": {"park": "2s"}});
    let gateway = Gateway::start(with(serving(&[("one", &fixture)]), park)).await;
    let target = Target::new(gateway.url("/mcp/one"));
    let client = Modern::connect(&target, Able::all("2026-07-28")).await.unwrap();
    let params = call("ask_form");
    let asked = Instant::now();
    let first = client.once("tools/call", params.clone()).await.unwrap();
    let late = next(&params, &first);
    let gone = |fixture: &Fixture| fixture.stopped().contains(&"tools/call ask_form".to_owned());
    assert!(fixture.until(gone).await, "the server was not told that nobody waits any more");
    let waited = asked.elapsed();
    assert!(waited > Duration::from_millis(1800), "cancelled after {waited:?}, not 2s");
    assert_refused("too late", &client.once("tools/call", late).await.unwrap());
    assert_works(&client).await;
}

#[tokio::test]
async fn a_call_that_is_taken_up_in_time_waits_anew() {
    let fixture = Fixture::start(Options::legacy("one").matrix()).await;
    let park = json!({"limits": {"park": "6s"}});
    let gateway = Gateway::start(with(serving(&[("one", &fixture)]), park)).await;
    let target = Target::new(gateway.url("/mcp/one"));
    let client = Modern::connect(&target, Able::all("2026-07-28")).await.unwrap();
    let params = call("ask_twice");
    let first = client.once("tools/call", params.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let second = client.once("tools/call", next(&params, &first)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let done = client.once("tools/call", next(&params, &second)).await.unwrap();
    assert!(text(&done).contains("wish"), "{}", done.answer);
    assert!(fixture.stopped().is_empty(), "{:?}", fixture.stopped());
}

#[tokio::test]
async fn answers_that_are_missing_are_asked_for_again() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let params = call("ask_all");
    let mut first = client.once("tools/call", params.clone()).await.unwrap();
    for _ in 0..20 {
        if answers(&first).len() == 3 {
            break;
        }
        // Not all of them were there yet. Who answers none is asked all of them again.
        let none = retry(&params, first.wants().unwrap(), serde_json::Map::new());
        first = client.once("tools/call", none).await.unwrap();
    }
    let mut some = answers(&first);
    assert_eq!(some.len(), 3, "all questions come at once");
    let model =
        |key: &String| first.wants().unwrap()["inputRequests"][key]["method"] == "sampling/createMessage";
    let missing = some.keys().find(|key| model(key)).cloned().unwrap();
    some.remove(&missing);
    // What nobody asked for is ignored.
    some.insert("nobody-asked".into(), json!({"action": "accept"}));
    let second = client.once("tools/call", retry(&params, first.wants().unwrap(), some)).await.unwrap();
    let again = answers(&second);
    assert!(!again.is_empty(), "the missing answer is asked for again");
    let done = client.once("tools/call", next(&params, &second)).await.unwrap();
    let said: Value = serde_json::from_str(text(&done)).unwrap();
    assert_eq!(said["model"]["content"]["text"], "Paris");
    assert_eq!(said["name"]["content"]["name"], "Ada");
    assert_eq!(said["roots"]["roots"][0]["name"], "home");
}

#[tokio::test]
async fn who_hangs_up_after_an_answer_cancels_the_call_and_no_other() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let params = call("ask_form");
    let parked = client.once("tools/call", params.clone()).await.unwrap();
    let slow = json!({"name": "ask_slow", "arguments": {"ms": 8000}, "_meta": {"progressToken": "t"}});
    let first = client.once("tools/call", slow.clone()).await.unwrap();
    let mut running = client.begin("tools/call", next(&slow, &first)).await.unwrap();
    running.hear().await.unwrap();
    drop(running);
    let gone = |fixture: &Fixture| fixture.stopped() == ["tools/call ask_slow"];
    assert!(world.fixture.until(gone).await, "{:?}", world.fixture.stopped());
    let done = client.once("tools/call", next(&params, &parked)).await.unwrap();
    assert!(text(&done).contains("Ada"), "the parked call is not touched: {}", done.answer);
}

#[tokio::test]
async fn a_restarted_server_has_lost_the_call_and_a_fresh_one_works() {
    let fixture = Fixture::start(Options::legacy("one").matrix()).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client =
        Modern::connect(&Target::new(gateway.url("/mcp/one")), Able::all("2026-07-28")).await.unwrap();
    let params = call("ask_form");
    let first = client.once("tools/call", params.clone()).await.unwrap();
    let address = fixture.address();
    drop(fixture);
    let _fixture = Fixture::start_at(address, Options::legacy("one").matrix()).await;
    let refused = client.once("tools/call", next(&params, &first)).await.unwrap();
    assert!(refused.answer["error"].is_object(), "{}", refused.answer);
    assert_works(&client).await;
}

#[tokio::test]
async fn many_calls_are_parked_at_once_and_each_is_taken_up() {
    let world = legacy_world().await;
    let client = world.modern().await;
    let mut parked = Vec::new();
    for number in 0..50 {
        let params = json!({"name": "ask_model", "arguments": {"prompt": format!("question {number}")}});
        let round = client.once("tools/call", params.clone()).await.unwrap();
        parked.push((number, params, round));
    }
    // In another order than they came.
    parked.reverse();
    for (number, params, round) in parked {
        let mut answers = answers(&round);
        for answer in answers.values_mut() {
            answer["content"]["text"] = json!(format!("answer {number}"));
        }
        let done = client.once("tools/call", retry(&params, round.wants().unwrap(), answers)).await.unwrap();
        assert!(text(&done).contains(&format!("\"answer {number}\"")), "{number}: {}", done.answer);
    }
    assert!(world.fixture.stopped().is_empty(), "{:?}", world.fixture.stopped());
}
