use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::plan::{Llm, Model, Policy, Prices, Provider, Target, Team};
use crate::config::types::ProviderKind;
use crate::llm::chat::{Call as Called, Part, Stop, Whole};
use crate::llm::convert::encode;

/// How a server's question reaches a provider of OpenAI's dialect.
fn asked(params: Value) -> Result<Value, String> {
    let (mut chat, _) = read(&params, 1000).map_err(|refusal| refusal.fault.message)?;
    chat.model = "m".to_owned();
    Ok(encode(&chat, ProviderKind::OpenaiCompatible).unwrap())
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

#[test]
fn what_a_server_asks_becomes_a_conversation() {
    let body = asked(json!({
        "messages": [
            {"role": "user", "content": text("What is this?")},
            {"role": "user", "content": [{"type": "image", "data": "QUJD", "mimeType": "image/jpeg"},
                {"type": "audio", "data": "QUJD", "mimeType": "audio/mp3"}]},
            {"role": "assistant", "content": text("A cat.")},
            {"role": "user", "content": {"type": "resource", "resource": {"uri": "a:b", "text": "Sure?"}}},
        ],
        "systemPrompt": "Be brief.", "temperature": 0.1, "maxTokens": 100, "stopSequences": ["END", ""],
        "includeContext": "allServers", "metadata": {"user_id": "u1", "tier": "gold"},
    }))
    .unwrap();
    assert_eq!(body["messages"][0], json!({"role": "system", "content": "Be brief."}));
    let user = &body["messages"][1]["content"];
    assert_eq!(user[0]["text"], "What is this?");
    assert_eq!(user[1]["image_url"]["url"], "data:image/jpeg;base64,QUJD");
    assert_eq!(user[2]["input_audio"], json!({"data": "QUJD", "format": "mp3"}));
    assert_eq!(body["messages"][2]["content"], "A cat.");
    assert_eq!(body["messages"][3]["content"], "Sure?");
    assert_eq!((&body["temperature"], &body["stop"]), (&json!(0.1), &json!(["END"])));
    assert!(!body.to_string().contains("gold"), "a provider's own parameters are not the server's to set");
    let (chat, _) = read(
        &json!({"messages": [{"role": "user", "content": text("x")}],
        "includeContext": "thisServer", "metadata": {"x": 1}}),
        10,
    )
    .unwrap();
    assert_eq!(chat.dropped, ["includeContext", "metadata"]);
}

#[test]
fn an_answer_has_no_more_tokens_than_the_configuration_allows() {
    for (wanted, expect) in
        [(json!(5), 5), (json!(5000), 1000), (Value::Null, 1000), (json!(0), 1), (json!(-1), 1000)]
    {
        let params = json!({"messages": [{"role": "user", "content": text("x")}], "maxTokens": wanted});
        assert_eq!(read(&params, 1000).unwrap().0.max_tokens, Some(expect), "{wanted}");
    }
}

#[test]
fn tools_and_what_they_answered_go_along() {
    let body = asked(json!({
        "messages": [
            {"role": "user", "content": text("Weather?")},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c1", "name": "w", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "c2", "name": "w", "input": {"city": "Rome"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "toolUseId": "c1", "content": [text("18")]},
                {"type": "tool_result", "toolUseId": "c2", "structuredContent": {"t": 20}, "isError": true}]},
        ],
        "tools": [{"name": "w", "description": "d", "inputSchema": {"type": "object"}}],
        "toolChoice": {"mode": "required"},
    }))
    .unwrap();
    assert_eq!(body["tools"][0]["function"]["name"], "w");
    assert_eq!(body["tool_choice"], "required");
    let calls = &body["messages"][1]["tool_calls"];
    assert_eq!(calls[1]["function"]["arguments"], r#"{"city":"Rome"}"#);
    assert_eq!(body["messages"][2]["tool_call_id"], "c1");
    assert!(body["messages"][3]["content"].to_string().contains("20"), "{body}");
}

#[test]
fn a_question_that_makes_no_sense_is_told_where() {
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (params, expect) in [
        (json!({}), "messages: must hold"),
        (json!(7), "messages: must hold"),
        (json!({"messages": [{"role": "system", "content": text("x")}]}), "messages[0].role: must be"),
        (user(json!("x")), "messages[0].content: must be a content block"),
        (user(json!({"type": "video"})), "messages[0].content[0].type: must be text"),
        (user(json!({"type": "image"})), "messages[0].content[0].data: is missing"),
        (
            user(json!({"type": "tool_use", "id": "a", "name": "b"})),
            "tool_use is for messages of the assistant",
        ),
        (user(json!([{"type": "tool_result", "toolUseId": "a"}, text("x")])), "must hold nothing else"),
        (
            json!({"messages": [{"role": "assistant", "content": {"type": "tool_use", "id": "a", "name": "b"}},
                {"role": "user", "content": text("and?")}]}),
            "a tool_use has no tool_result",
        ),
        (
            json!({"messages": [{"role": "user", "content": text("x")}], "toolChoice": {"mode": "any"}}),
            "toolChoice.mode: must be",
        ),
        (
            json!({"messages": [{"role": "user", "content": text("x")}], "tools": [{}]}),
            "tools[0].name: is missing",
        ),
    ] {
        let error = asked(params.clone()).unwrap_err();
        assert!(error.contains(expect), "{params}: {error}");
    }
}

#[test]
fn answers_are_written_as_servers_read_them() {
    let whole =
        |parts: Vec<Part>, stop: Option<Stop>| write::whole(&Whole { parts, stop, ..Whole::default() }, "m");
    let words = |text: &str| Part::Text(text.to_owned());
    let thought = Part::Reasoning { text: "hm".into(), signature: None };
    assert_eq!(
        whole(vec![thought, words("Par"), words("is")], Some(Stop::End)),
        json!({"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m", "stopReason": "endTurn"})
    );
    for (stop, expect) in [
        (Stop::Length, "maxTokens"),
        (Stop::Sequence(None), "stopSequence"),
        (Stop::Filtered, "contentFilter"),
        (Stop::Declined, "refusal"),
    ] {
        assert_eq!(whole(vec![], Some(stop))["stopReason"], expect);
    }
    let call =
        Called { id: "c".into(), name: "w".into(), arguments: json!({"x": 1}), signature: Some("s".into()) };
    let told = whole(vec![words("Wait."), Part::Call(call)], Some(Stop::End));
    assert_eq!(told["stopReason"], "toolUse");
    let used = json!({"type": "tool_use", "id": "c", "name": "w", "input": {"x": 1},
        "_meta": {"causeway/signature": "s"}});
    assert_eq!(told["content"], json!([{"type": "text", "text": "Wait."}, used]));
    // And back.
    let (chat, _) = read(
        &json!({"messages": [{"role": "assistant", "content": used},
            {"role": "user", "content": {"type": "tool_result", "toolUseId": "c", "content": []}}]}),
        10,
    )
    .unwrap();
    assert!(matches!(&chat.turns[0].parts[0], Part::Call(call) if call.signature.as_deref() == Some("s")));
}

fn plan() -> Arc<Plan> {
    let provider =
        |name: &str, kind: ProviderKind| Arc::new(Provider::new(name, kind, "http://x/v1".parse().unwrap()));
    let target = |text: &str| {
        let (provider, model) = text.split_once('/').unwrap();
        Target { provider: provider.into(), model: model.into() }
    };
    let model = |name: &str, to: &str, price: f64| Model {
        name: name.into(),
        targets: vec![target(to)],
        prices: Some(Prices { input: price, output: price, ..Prices::default() }),
        ..Model::default()
    };
    let llm = Llm {
        providers: vec![
            provider("a", ProviderKind::OpenaiCompatible),
            provider("b", ProviderKind::OpenaiCompatible),
        ],
        models: vec![
            model("a/big-opus", "a/big-opus", 10.0),
            model("b/small-haiku", "b/small-haiku", 1.0),
            model("fast", "b/small-haiku", 1.0),
        ],
        policies: vec![Policy {
            name: "both".into(),
            targets: vec![(target("a/big-opus"), 0), (target("b/small-haiku"), 0)],
            ..Policy::default()
        }],
        teams: vec![Team {
            name: "chain/x".into(),
            models: vec!["a/big-opus".into(), "fast".into()],
            time: Duration::from_secs(1),
            ..Team::default()
        }],
        ..Llm::default()
    };
    Arc::new(Plan { llm, ..Plan::empty() })
}

fn order(models: &[&str], caller: &Caller, wishes: Value) -> Result<(String, Vec<String>), String> {
    let models: Vec<String> = models.iter().map(|name| (*name).to_owned()).collect();
    let params = json!({"messages": [{"role": "user", "content": text("x")}], "modelPreferences": wishes});
    let (_, wishes) = read(&params, 10).unwrap();
    let memory = Memory::default();
    wished(&plan(), &memory, caller, &models, &wishes, Needs::default(), Timestamp(1000))
        .map(|(model, choice)| (model, choice.candidates.iter().map(Candidate::name).collect()))
        .map_err(|refusal| refusal.fault.message)
}

#[test]
fn what_a_server_prefers_decides_among_those_that_may_answer() {
    let (big, small) = ("a/big-opus", "b/small-haiku");
    let check = |models: &[&str], wishes: Value, expect: &[&str]| {
        let (_, got) = order(models, &Caller::anyone(false), wishes.clone()).unwrap();
        assert_eq!(got, expect, "{models:?} {wishes}");
    };
    let hint = |name: &str| json!({"hints": [{"name": "gone"}, {"name": name}]});
    check(&[big, small], Value::Null, &[big, small]);
    check(&[big, small], json!({"hints": 7, "costPriority": "x"}), &[big, small]);
    check(&[big, small], hint("Haiku"), &[small, big]);
    check(&["both"], hint("haiku"), &[small, big]);
    check(&["both"], Value::Null, &[big, small]);
    check(&[big], hint("haiku"), &[big]);
    check(&[big, small], json!({"costPriority": 1, "intelligencePriority": 0.1}), &[small, big]);
    check(&[big, small], json!({"costPriority": 0.1, "intelligencePriority": 1}), &[big, small]);
    check(&[small, big], json!({"hints": [{"name": "opus"}], "costPriority": 1}), &[big, small]);
}

#[test]
fn the_caller_pays_and_so_the_callers_rights_count() {
    let mut caller = Caller::anyone(false);
    caller.models.deny = vec![crate::config::glob::Glob::new("a/*")];
    let (model, got) = order(&["a/big-opus", "fast"], &caller, Value::Null).unwrap();
    assert_eq!((model.as_str(), got), ("fast", vec!["b/small-haiku".to_owned()]));
    let why = order(&["a/big-opus"], &caller, Value::Null).unwrap_err();
    assert!(why.contains("no model \"a/big-opus\" here"), "{why}");
}

#[test]
fn models_that_answer_together_may_answer_a_server() {
    let (model, got) = order(&["chain/x", "fast"], &Caller::anyone(false), Value::Null).unwrap();
    assert_eq!((model.as_str(), got.len()), ("chain/x", 0));
    let (model, _) =
        order(&["chain/x", "fast"], &Caller::anyone(false), json!({"hints": [{"name": "haiku"}]})).unwrap();
    assert_eq!(model, "fast");
}
