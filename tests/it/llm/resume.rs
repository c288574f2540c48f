//! Answers that are cut go on where a model takes their beginning.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway::config::plan::{Model, Target};
use causeway::config::types::ProviderKind;
use causeway::llm::chat::Part;
use causeway::llm::convert::Front;
use causeway::testing::{Script, Step};
use serde_json::{Value, json};

use super::calls::{answering, change, heard, path, provider, question, streaming, words, world_of};
use super::fixtures::FRONTS;
use crate::world::{Got, World};

/// A stream of `kind` that says `texts`, each in a chunk of its own, and ends in good order if `ends`.
fn said(kind: ProviderKind, texts: &[&str], ends: bool) -> Vec<Step> {
    let event = |value: Value| {
        let name = value["type"].as_str().map(|name| format!("event: {name}\n")).unwrap_or_default();
        Step::Send(Bytes::from(format!("{name}data: {value}\n\n")))
    };
    let line = |value: Value| Step::Send(Bytes::from(format!("{value}\n")));
    let chunk = |delta: Value, reason: Value| {
        event(
            json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}),
        )
    };
    let mut steps = Vec::new();
    match kind {
        ProviderKind::Anthropic => {
            let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
                "usage": {"input_tokens": 10, "output_tokens": 1}});
            steps.push(event(json!({"type": "message_start", "message": message})));
            let block = json!({"type": "text", "text": ""});
            steps.push(event(json!({"type": "content_block_start", "index": 0, "content_block": block})));
            steps.extend(texts.iter().map(|text| {
                event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}))
            }));
            if ends {
                steps.push(event(json!({"type": "content_block_stop", "index": 0})));
                steps.push(event(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}})));
                steps.push(event(json!({"type": "message_stop"})));
            }
        }
        ProviderKind::Ollama => {
            steps.extend(texts.iter().map(|text| {
                line(json!({"model": "q", "message": {"role": "assistant", "content": text}, "done": false}))
            }));
            if ends {
                let message = json!({"role": "assistant", "content": ""});
                steps.push(line(
                    json!({"model": "q", "message": message, "done": true, "done_reason": "stop",
                    "prompt_eval_count": 10, "eval_count": 7}),
                ));
            }
        }
        _ => {
            steps.push(chunk(json!({"role": "assistant", "content": ""}), Value::Null));
            steps.extend(texts.iter().map(|text| chunk(json!({"content": text}), Value::Null)));
            if ends {
                steps.push(chunk(json!({}), json!("stop")));
                steps.push(event(
                    json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 7}}),
                ));
                steps.push(Step::Send(Bytes::from_static(b"data: [DONE]\n\n")));
            }
        }
    }
    steps
}

fn ending(mut steps: Vec<Step>, how: Step) -> Vec<Step> {
    steps.push(how);
    steps
}

fn model(kind: ProviderKind) -> &'static str {
    if kind == ProviderKind::Anthropic { "claude-haiku-4-5" } else { "m-1" }
}

/// `some-model` of these providers, called `one`, `two`, ….
fn world(kinds: &[ProviderKind]) -> World {
    let names = ["one", "two", "three"];
    let providers = kinds.iter().zip(names).map(|(kind, name)| provider(name, *kind)).collect();
    let targets = kinds.iter().zip(names);
    let targets =
        targets.map(|(kind, name)| Target { provider: name.into(), model: model(*kind).into() }).collect();
    change(&world_of(providers), |plan| {
        plan.llm.models = vec![Model { name: "some-model".into(), targets, ..Model::default() }];
        for provider in &mut plan.llm.providers {
            if let Some(provider) = Arc::get_mut(provider) {
                provider.timeouts.idle = Duration::from_secs(5);
            }
        }
    })
}

fn starts(front: Front, got: &Got) -> usize {
    match front {
        Front::OpenAi => got.body.matches("\"role\":\"assistant\"").count(),
        Front::Anthropic => got.body.matches("event: message_start").count(),
        Front::Ask | Front::Sampling => got.body.matches("event: start").count(),
    }
}

fn wanting_usage() -> Value {
    let mut question = question(true);
    question["stream_options"] = json!({"include_usage": true});
    question
}

#[test]
fn an_answer_that_is_cut_goes_on_with_the_same_provider() {
    for kind in [ProviderKind::Anthropic, ProviderKind::Ollama] {
        for (_, front) in FRONTS {
            for how in [Some(Step::Cut), Some(Step::Stall), None] {
                let at = format!("{kind:?} {how:?} to {front:?}");
                let world = world(&[kind]);
                let mut first = said(kind, &["Half an", " answer "], false);
                first.extend(how);
                let rest = said(kind, &[" and", " the rest."], true);
                let asked =
                    answering(&world, "one", vec![Ok(streaming(kind, first)), Ok(streaming(kind, rest))]);
                let got = world.post(path(front), &[], &wanting_usage());
                let told = heard(front, &got, true);
                assert_eq!(words(&told), "Half an answer and the rest.", "{at}: {}", got.body);
                assert_eq!(starts(front, &got), 1, "{at}: {}", got.body);
                assert!(!got.body.contains("error"), "{at}: {}", got.body);
                // What both parts used: the first is told by Anthropic only in so far as it was sent.
                let input = if kind == ProviderKind::Anthropic { 20 } else { 10 };
                let output = 3 + 7;
                let used = (told.usage.input, told.usage.output);
                assert_eq!(used, (Some(input), Some(output)), "{at}: {}", got.body);
                let asked = asked.lock().unwrap();
                assert_eq!(asked.len(), 2, "{at}");
                let sent: Value = serde_json::from_slice(asked[1].body()).unwrap();
                let last = sent["messages"].as_array().unwrap().last().unwrap();
                assert_eq!(last["role"], "assistant", "{at}: {sent}");
                assert!(last["content"].to_string().contains("Half an answer\""), "{at}: {sent}");
                let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
                assert_eq!((&line["outcome"], &line["llm"]["attempts"]), (&json!("ok"), &json!(2)), "{line}");
                assert_eq!(line["llm"]["output"], output, "{line}");
            }
        }
    }
}

#[test]
fn an_answer_that_is_cut_goes_on_with_another_provider() {
    for first in [ProviderKind::Openai, ProviderKind::Gemini, ProviderKind::Anthropic] {
        for (_, front) in FRONTS {
            let at = format!("{first:?} to {front:?}");
            let world = world(&[first, ProviderKind::Anthropic]);
            let world = change(&world, |plan| {
                let own = Model {
                    name: format!("one/{}", model(first)),
                    features: Some(Default::default()),
                    ..Model::default()
                };
                plan.llm.models.push(own);
            });
            let cut = match first {
                ProviderKind::Gemini => vec![Step::Send(Bytes::from(
                    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Half an answer\"}],\"role\":\"model\"}}]}\n\n",
                ))],
                _ => said(first, &["Half an", " answer"], false),
            };
            answering(&world, "one", vec![Ok(streaming(first, ending(cut, Step::Cut)))]);
            let rest = said(ProviderKind::Anthropic, &[", and the rest."], true);
            let asked = answering(&world, "two", vec![Ok(streaming(ProviderKind::Anthropic, rest))]);
            let got = world.post(path(front), &[], &question(true));
            let told = heard(front, &got, true);
            assert_eq!(words(&told), "Half an answer, and the rest.", "{at}: {}", got.body);
            assert_eq!(starts(front, &got), 1, "{at}: {}", got.body);
            assert_eq!(asked.lock().unwrap().len(), 1, "{at}");
        }
    }
}

#[test]
fn an_answer_goes_on_twice_at_most() {
    let kind = ProviderKind::Ollama;
    let world = world(&[kind]);
    let piece = |text: &'static str| Ok(streaming(kind, ending(said(kind, &[text], false), Step::Cut)));
    let asked = answering(&world, "one", vec![piece("one"), piece(" two"), piece(" three"), piece(" four")]);
    let got = world.post("/v1/messages", &[], &question(true));
    for word in ["one", " two", " three"] {
        assert_eq!(got.body.matches(&format!("\"{word}\"")).count(), 1, "{}", got.body);
    }
    assert!(!got.body.contains("four") && got.body.contains("event: error"), "{}", got.body);
    assert_eq!((asked.lock().unwrap().len(), starts(Front::Anthropic, &got)), (3, 1));
}

#[test]
fn what_cannot_go_on_ends_with_the_error_that_cut_it() {
    let kind = ProviderKind::Anthropic;
    let refused = || {
        Ok(Script::new(
            400,
            "application/json",
            "{\"error\":{\"type\":\"invalid_request_error\",\"message\":\"no\"}}",
        ))
    };
    let check = |how: &str, change: fn(&mut Value), tool: bool, times: usize| {
        for (_, front) in FRONTS {
            let world = world(&[kind]);
            let mut steps = said(kind, &["Half an"], false);
            if tool {
                let block = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
                let start = json!({"type": "content_block_start", "index": 1, "content_block": block});
                steps.push(Step::Send(Bytes::from(format!("event: content_block_start\ndata: {start}\n\n"))));
            }
            let asked =
                answering(&world, "one", vec![Ok(streaming(kind, ending(steps, Step::Cut))), refused()]);
            let mut question = question(true);
            change(&mut question);
            let got = world.post(path(front), &[], &question);
            assert_eq!(asked.lock().unwrap().len(), times, "{how} to {front:?}: {}", got.body);
            let word = if front == Front::OpenAi { "upstream_cut" } else { "event: error" };
            assert!(got.body.contains(word), "{how} to {front:?}: {}", got.body);
            assert_eq!(got.body.matches("Half an").count(), 1, "{how} to {front:?}: {}", got.body);
        }
    };
    check("nobody takes it", |_| {}, false, 2);
    check("a tool is being called", |_| {}, true, 1);
    check(
        "JSON to a schema",
        |question| {
            question["response_format"] =
                json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {}}});
            question["output_config"] = json!({"format": {"type": "json_schema", "schema": {}}});
        },
        false,
        1,
    );
}

#[test]
fn a_provider_that_errs_in_the_middle_is_taken_over_without_its_error_being_told() {
    // The same dialect on both sides, and the words before the error in the same chunk as the error.
    let (one, two) = (ProviderKind::OpenaiCompatible, ProviderKind::Ollama);
    let world = world(&[one, two]);
    let mut steps = said(one, &["Half an"], false);
    let both = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" lost\"}}]}\n\ndata: {\"error\":{\"code\":503,\"message\":\"overloaded\"}}\n\n";
    steps.push(Step::Send(Bytes::from(both)));
    answering(&world, "one", vec![Ok(streaming(one, steps))]);
    answering(&world, "two", vec![Ok(streaming(two, said(two, &[" answer."], true)))]);
    let got = world.post("/v1/chat/completions", &[], &question(true));
    let told = heard(Front::OpenAi, &got, true);
    assert_eq!(words(&told), "Half an answer.", "{}", got.body);
    assert!(told.parts.iter().all(|part| matches!(part, Part::Text(_))));
    assert!(!got.body.contains("overloaded"), "{}", got.body);
}
