//! Several models answer together: chains, cascades, comparisons.

use std::time::Duration;

use bytes::Bytes;
use causeway::config::plan::{Model, Prices, Team};
use causeway::config::types::{ProviderKind, Together};
use causeway::llm::convert::Front;
use causeway::testing::{Script, Step};
use http::Request;
use serde_json::{Value, json};

use super::calls::{answering, change, heard, path, provider, question, streaming, words, world_of};
use super::fixtures::FRONTS;
use crate::world::{Got, World};

/// A whole answer that says `text`.
fn says(text: &str) -> Result<Script, causeway::platform::SeamError> {
    let message = json!({"role": "assistant", "content": text});
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5});
    let body = json!({"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage});
    Ok(Script::json(body.to_string()))
}

/// A streamed answer that says `text`.
fn streams(text: &str) -> Result<Script, causeway::platform::SeamError> {
    let chunk = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        format!("data: {}\n\n", json!({"id": "c", "choices": [choice]}))
    };
    let usage = json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 7}});
    let body = chunk(json!({"role": "assistant", "content": ""}), Value::Null)
        + &chunk(json!({"content": text}), Value::Null)
        + &chunk(json!({}), "stop".into())
        + &format!("data: {usage}\n\ndata: [DONE]\n\n");
    Ok(streaming(ProviderKind::Openai, vec![Step::Send(Bytes::from(body))]))
}

fn down() -> Result<Script, causeway::platform::SeamError> {
    Ok(Script::new(503, "application/json", "{\"error\":{\"message\":\"down\"}}"))
}

/// The team `t` of models of the providers `one`, `two`, `three`.
fn world(how: Together, models: &[&str], change_team: impl FnOnce(&mut Team)) -> World {
    let mut providers: Vec<_> =
        ["one", "two", "three"].map(|name| provider(name, ProviderKind::OpenaiCompatible)).into();
    for provider in &mut providers {
        provider.retries = 0;
    }
    change(&world_of(providers), |plan| {
        let mut team = Team {
            name: format!("{}/t", how.name()),
            how,
            models: models.iter().map(|name| format!("{name}/m")).collect(),
            time: Duration::from_secs(60),
            ..Team::default()
        };
        change_team(&mut team);
        plan.llm.teams = vec![team];
        let prices = Some(Prices { input: 1.0, output: 2.0, ..Prices::default() });
        plan.llm.models = vec![Model { name: "one/m".into(), prices, ..Model::default() }];
    })
}

fn ask(world: &World, front: Front, model: &str, stream: bool) -> Got {
    let mut question = question(stream);
    question["model"] = model.into();
    world.post(path(front), &[], &question)
}

/// Who did what in the answer, and what came of it.
fn stages(got: &Got) -> Vec<String> {
    let whole = got
        .body
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ").unwrap_or(line)).ok())
        .find_map(|value| value.get("causeway").cloned())
        .unwrap_or_else(|| panic!("no stages: {}", got.body));
    let stages = whole["stages"].as_array().unwrap().iter();
    let text = |stage: &Value, key: &str| stage[key].as_str().unwrap().to_owned();
    stages
        .map(|stage| format!("{} {} {}", text(stage, "stage"), text(stage, "model"), text(stage, "outcome")))
        .collect()
}

#[test]
fn a_chain_refines_the_draft_and_itemises_both() {
    for (_, front) in FRONTS {
        for stream in [false, true] {
            let at = format!("{front:?}, stream {stream}");
            let world = world(Together::Chain, &["one", "two"], |_| {});
            answering(&world, "one", vec![says("a draft")]);
            let asked =
                answering(&world, "two", vec![if stream { streams("refined") } else { says("refined") }]);
            let got = ask(&world, front, "chain/t", stream);
            let told = heard(front, &got, stream);
            assert_eq!((got.status, words(&told).as_str()), (200, "refined"), "{at}: {}", got.body);
            assert!(!got.body.contains("a draft"), "{at}: {}", got.body);
            assert_eq!(stages(&got), ["draft one/m ok", "refine two/m ok"], "{at}: {}", got.body);
            let sent: Value = serde_json::from_slice(asked.lock().unwrap()[0].body()).unwrap();
            assert_eq!(
                sent["messages"][1],
                json!({"role": "assistant", "content": "a draft"}),
                "{at}: {sent}"
            );
            assert_eq!(sent["messages"][2]["role"], "user", "{at}: {sent}");
            let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
            let (input, output) = if stream { (30, 12) } else { (20, 10) };
            assert_eq!(
                (&line["llm"]["input"], &line["llm"]["output"]),
                (&json!(input), &json!(output)),
                "{line}"
            );
            // What is known of the cost: the draft's.
            assert_eq!(line["llm"]["cost"], json!(0.00002), "{line}");
            assert_eq!(line["llm"]["stages"][0]["cost"], json!(0.00002), "{line}");
            assert!(!line.to_string().contains("a draft"), "{line}");
            assert_eq!(got.header("x-causeway-why"), "chain/t: refine; asked for by name", "{at}");
        }
    }
}

#[test]
fn a_chain_falls_back_to_the_draft() {
    for (_, front) in FRONTS {
        for stream in [false, true] {
            let at = format!("{front:?}, stream {stream}");
            let world = world(Together::Chain, &["one", "two"], |_| {});
            answering(&world, "one", vec![says("a draft")]);
            answering(&world, "two", vec![down()]);
            let got = ask(&world, front, "chain/t", stream);
            assert_eq!(
                (got.status, words(&heard(front, &got, stream)).as_str()),
                (200, "a draft"),
                "{at}: {}",
                got.body
            );
            assert_eq!(stages(&got), ["draft one/m ok", "refine two/m overloaded"], "{at}: {}", got.body);
        }
    }
    // Without a draft the last answers by itself.
    let both = world(Together::Chain, &["one", "two"], |_| {});
    answering(&both, "one", vec![down()]);
    answering(&both, "two", vec![says("alone")]);
    let got = ask(&both, Front::OpenAi, "chain/t", false);
    assert_eq!(words(&heard(Front::OpenAi, &got, false)), "alone", "{}", got.body);
    let neither = world(Together::Chain, &["one", "two"], |_| {});
    answering(&neither, "one", vec![down()]);
    answering(&neither, "two", vec![down()]);
    let got = ask(&neither, Front::OpenAi, "chain/t", false);
    assert_eq!((got.status, &got.json()["error"]["code"]), (503, &json!("overloaded")), "{}", got.body);
}

#[test]
fn a_cascade_asks_the_strong_only_where_the_cheap_will_not_do() {
    let check = |first: Result<Script, causeway::platform::SeamError>,
                 verdict: Option<&str>,
                 expect: &str,
                 asked_two: usize| {
        let world = world(Together::Cascade, &["one", "two"], |team| {
            team.judge = verdict.map(|_| "three/m".to_owned());
        });
        answering(&world, "one", vec![first]);
        let two = answering(&world, "two", vec![says("strong")]);
        let three = answering(&world, "three", vec![says(verdict.unwrap_or_default())]);
        let got = ask(&world, Front::Anthropic, "cascade/t", false);
        assert_eq!(words(&heard(Front::Anthropic, &got, false)), expect, "{verdict:?}: {}", got.body);
        assert_eq!(two.lock().unwrap().len(), asked_two, "{verdict:?}");
        let shown =
            three.lock().unwrap().first().map(|asked| String::from_utf8_lossy(asked.body()).into_owned());
        assert_eq!(shown.is_some(), verdict.is_some());
        assert!(shown.is_none_or(|shown| shown.contains("a secret question") && shown.contains("cheap")));
    };
    check(says("cheap"), None, "cheap", 0);
    check(says(" "), None, "strong", 1);
    check(down(), None, "strong", 1);
    check(says("cheap"), Some("YES"), "cheap", 0);
    check(says("cheap"), Some("No."), "strong", 1);
}

#[test]
fn a_comparison_asks_all_at_once_and_a_judge_or_a_vote_picks() {
    let check = |texts: [&str; 3], verdict: Option<&str>, expect: &str| {
        let world = world(Together::Compare, &["one", "two", "three"], |team| {
            team.judge = verdict.map(|_| "judge/m".to_owned());
        });
        let world = change(&world, |plan| {
            plan.llm.providers.push(provider("judge", ProviderKind::OpenaiCompatible).into());
            plan.llm.teams = vec![Team {
                name: "compare/t".into(),
                how: Together::Compare,
                models: vec!["one/m".into(), "two/m".into(), "three/m".into()],
                judge: verdict.map(|_| "judge/m".to_owned()),
                time: Duration::from_secs(60),
                ..Team::default()
            }];
        });
        for (name, text) in ["one", "two", "three"].into_iter().zip(texts) {
            let slow = Script { delay: Duration::from_secs(10), ..says(text).unwrap() };
            answering(&world, name, vec![if text.is_empty() { down() } else { Ok(slow) }]);
        }
        answering(&world, "judge", vec![says(verdict.unwrap_or_default())]);
        let got = ask(&world, Front::OpenAi, "compare/t", true);
        assert_eq!(words(&heard(Front::OpenAi, &got, true)), expect, "{verdict:?}: {}", got.body);
        let line: Value = serde_json::from_str(world.fake.logged().last().unwrap()).unwrap();
        assert!(line["ms"].as_f64().unwrap() < 15_000.0, "at once: {line}");
        for text in texts.into_iter().filter(|text| !text.is_empty()) {
            assert!(got.body.contains(&format!("\"text\":\"{text}\"")), "all are there: {}", got.body);
        }
    };
    check(["a", "b", "b"], None, "b");
    check(["a", "b", "c"], None, "a");
    check(["", "b", "c"], None, "b");
    check(["a", "b", "c"], Some("Answer 3 is the best."), "c");
    check(["", "b", "c"], Some("2"), "c");
    check(["a", "b", "c"], Some("I cannot say."), "a");
}

#[test]
fn time_and_money_are_bounded() {
    let slow = |seconds: u64| Ok(Script { delay: Duration::from_secs(seconds), ..says("late").unwrap() });
    let chain = world(Together::Chain, &["one", "two"], |_| {});
    answering(&chain, "one", vec![says("a draft")]);
    answering(&chain, "two", vec![slow(100)]);
    let got = ask(&chain, Front::OpenAi, "chain/t", false);
    assert_eq!(words(&heard(Front::OpenAi, &got, false)), "a draft", "{}", got.body);
    let chain = world(Together::Chain, &["one", "two"], |_| {});
    answering(&chain, "one", vec![slow(100)]);
    let two = answering(&chain, "two", vec![says("x")]);
    let got = ask(&chain, Front::OpenAi, "chain/t", false);
    assert_eq!((got.status, &got.json()["error"]["code"]), (504, &json!("upstream_timeout")), "{}", got.body);
    assert!(two.lock().unwrap().is_empty());
    let chain = world(Together::Chain, &["one", "two"], |team| team.cost = Some(0.00001));
    answering(&chain, "one", vec![says("a draft")]);
    let two = answering(&chain, "two", vec![says("x")]);
    let got = ask(&chain, Front::OpenAi, "chain/t", false);
    assert_eq!(words(&heard(Front::OpenAi, &got, false)), "a draft", "{}", got.body);
    assert!(two.lock().unwrap().is_empty(), "what there was is spent");
}

#[test]
fn a_team_is_a_model_like_any_other() {
    let world = world(Together::Chain, &["one", "two"], |_| {});
    for name in ["one", "two", "three"] {
        answering(&world, name, vec![Ok(Script::json("{\"data\":[]}"))]);
    }
    let get =
        |path: &str| world.send(Request::get(path).header("host", "localhost").body(Bytes::new()).unwrap());
    let list = get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "chain/t", "{list}");
    assert_eq!(list["data"][0]["targets"], json!(["one/m", "two/m"]));
    assert_eq!(get("/v1/models/chain%2Ft").status, 200);
    let body = json!({"model": "chain/t", "input": "x"});
    let got = world.post("/v1/embeddings", &[], &body);
    assert_eq!((got.status, &got.json()["error"]["param"]), (400, &json!("model")), "{}", got.body);
    let body = json!({"model": "chain/t"});
    let got = world.post("/v1/chat/completions", &[], &body);
    assert_eq!((got.status, &got.json()["error"]["param"]), (400, &json!("messages")), "{}", got.body);
}

#[test]
fn what_is_held_of_all_together_is_bounded() {
    for how in [Together::Chain, Together::Compare] {
        let world = world(how, &["one", "two"], |_| {});
        // Each has half of 16 MiB.
        answering(&world, "one", vec![says(&"x".repeat(9 << 20))]);
        answering(&world, "two", vec![says("short")]);
        let got = ask(&world, Front::OpenAi, &format!("{}/t", how.name()), false);
        assert_eq!(words(&heard(Front::OpenAi, &got, false)), "short", "{how:?}");
        assert!(stages(&got)[0].ends_with("one/m upstream_too_large"), "{how:?}: {:?}", stages(&got));
    }
}
