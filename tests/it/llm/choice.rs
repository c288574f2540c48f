//! Who is chosen: policies, what is known of models, breakers and keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway::config::plan::{Credential, Model, Policy, Provider, Target};
use causeway::config::types::ProviderKind;
use causeway::platform::{Clock as _, Platform as _, SeamError};
use causeway::testing::Script;
use http::Request;
use serde_json::{Value, json};

use super::calls::{answering, change, provider, question, world_of};
use crate::world::{Got, World};

fn get(world: &World, path: &str) -> Got {
    world.send(Request::get(path).header("host", "localhost").body(Bytes::new()).unwrap())
}

fn wait(world: &World, time: Duration) {
    world.fake.run(world.fake.clock().sleep(time));
}

fn target(text: &str) -> Target {
    let (provider, model) = text.split_once('/').unwrap();
    Target { provider: provider.into(), model: model.into() }
}

fn policy(targets: &[&str]) -> Policy {
    let targets = targets.iter().map(|text| (target(text), 0)).collect();
    Policy { name: "some-model".into(), targets, ..Policy::default() }
}

fn local(name: &str, kind: ProviderKind) -> Provider {
    Provider { local: true, ..provider(name, kind) }
}

const ANSWER: &str = "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}";

#[test]
fn what_is_known_of_models_is_listed_and_remembered() {
    let world = world_of(vec![local("box", ProviderKind::Ollama), provider("openai", ProviderKind::Openai)]);
    let world = change(&world, |plan| {
        let own = Model { name: "openai/gpt-5".into(), context: Some(1000), ..Model::default() };
        let smart = Model { name: "smart".into(), targets: vec![target("openai/gpt-5")], ..Model::default() };
        plan.llm.models = vec![own, smart];
        plan.llm.policies = vec![policy(&["box/qwen3:4b", "openai/gpt-5"])];
    });
    let tags = "{\"models\":[{\"model\":\"qwen3:4b\",\"details\":{\"family\":\"qwen3\",\"parameter_size\":\"4B\"}}]}";
    let show =
        "{\"capabilities\":[\"completion\",\"tools\"],\"model_info\":{\"qwen3.context_length\":40960}}";
    let asked = answering(&world, "box", vec![Ok(Script::json(tags)), Ok(Script::json(show))]);
    answering(&world, "openai", vec![Ok(Script::json("{\"data\":[{\"id\":\"gpt-5\"},{\"id\":\"o9\"}]}"))]);
    let list = get(&world, "/v1/models").json();
    let find = |list: &Value, id: &str| {
        list["data"].as_array().unwrap().iter().find(|model| model["id"] == id).unwrap().clone()
    };
    let qwen = &find(&list, "qwen3:4b")["model_context"];
    assert_eq!(qwen["identification"]["title"], "qwen3 4B");
    assert_eq!(qwen["inference"]["context_length"], 40960);
    assert_eq!(
        (&qwen["capabilities"]["tools"], &qwen["capabilities"]["images"]),
        (&json!(true), &json!(false))
    );
    let runtime = &qwen["runtime"];
    assert_eq!((&runtime["place"], &runtime["prices"]["input"]), (&json!("local"), &json!(0.0)));
    let gpt = &find(&list, "gpt-5")["model_context"];
    assert_eq!(
        gpt["inference"],
        json!({"context_length": 1000, "max_output_tokens": 128_000}),
        "the file wins"
    );
    assert_eq!(
        (&gpt["runtime"]["place"], &gpt["tokenizer"]["name"]),
        (&json!("cloud"), &json!("o200k_base"))
    );
    assert!(gpt["runtime"]["table"].is_string());
    let o9 = &find(&list, "openai/o9")["model_context"];
    assert!(
        o9["capabilities"].as_object().unwrap().is_empty() && o9["inference"].as_object().unwrap().is_empty()
    );
    assert_eq!(find(&list, "some-model")["targets"], json!(["box/qwen3:4b", "openai/gpt-5"]));
    assert_eq!(find(&list, "smart")["model_context"]["identification"]["model"], "gpt-5");

    let before = asked.lock().unwrap().len();
    assert_eq!(before, 2, "the list, and what there is to know of its one model");
    assert_eq!(get(&world, "/v1/models").json(), list);
    assert_eq!(asked.lock().unwrap().len(), before, "it is remembered");
    assert_eq!(get(&world, "/v1/models/qwen3:4b").json()["model_context"], *qwen);
    wait(&world, Duration::from_secs(31));
    get(&world, "/v1/models");
    assert!(asked.lock().unwrap().len() > before, "and asked for again after a while");
}

#[test]
fn a_policy_chooses_by_what_the_request_needs_and_says_why() {
    let world = world_of(vec![
        local("box", ProviderKind::OpenaiCompatible),
        provider("openai", ProviderKind::Openai),
    ]);
    let world = change(&world, |plan| {
        let features = Some(std::iter::once(causeway::config::types::Feature::Tools).collect());
        plan.llm.models = vec![Model { name: "box/small".into(), features, ..Model::default() }];
        plan.llm.policies = vec![Policy { local_first: true, ..policy(&["openai/gpt-5", "box/small"]) }];
    });
    for name in ["box", "openai"] {
        answering(&world, name, vec![Ok(Script::json(ANSWER))]);
    }
    let got = world.post("/v1/chat/completions", &[], &question(false));
    assert_eq!((got.header("x-causeway-provider"), got.header("x-causeway-model")), ("box", "small"));
    assert_eq!(got.header("x-causeway-why"), "policy some-model: local first");
    assert_eq!(got.trace, ["http.send POST box -"], "nothing is asked but the model");
    let mut image = question(false);
    image["messages"][0]["content"] = json!([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]);
    let got = world.post("/v1/chat/completions", &[], &image);
    assert_eq!(got.header("x-causeway-provider"), "openai", "{}", got.body);
    assert_eq!(got.header("x-causeway-why"), "policy some-model: the first in order, 1 left out");
    let status = get(&world, "/status").json();
    let decision = &status["models"]["decisions"][0];
    assert_eq!(decision["chosen"], "openai/gpt-5", "{status}");
    assert_eq!(decision["considered"], json!(["openai/gpt-5", "box/small: left out: no images"]));
    assert_eq!((&decision["outcome"], &decision["attempts"]), (&json!("ok"), &json!(1)));
    assert_eq!(status["models"]["decisions"].as_array().unwrap().len(), 2);
    let measured = &status["models"]["providers"][1]["models"][0];
    assert_eq!((&measured["model"], &measured["measured"]["calls"]), (&json!("gpt-5"), &json!(1)));
    assert!(!status.to_string().contains("secret"), "{status}");
}

#[test]
fn nobody_fits_is_told_with_the_reasons() {
    let world = world_of(vec![provider("openai", ProviderKind::Openai)]);
    let world = change(&world, |plan| {
        plan.llm.policies = vec![Policy { local_only: true, ..policy(&["openai/gpt-5"]) }];
    });
    let asked = answering(&world, "openai", vec![Ok(Script::json(ANSWER))]);
    let got = world.post("/v1/chat/completions", &[], &question(false));
    assert_eq!((got.status, &got.json()["error"]["param"]), (400, &json!("model")), "{}", got.body);
    assert!(got.body.contains("openai/gpt-5: left out: not local"), "{}", got.body);
    assert!(asked.lock().unwrap().is_empty(), "what is private is asked of nobody");
}

#[test]
fn a_provider_that_keeps_failing_is_left_alone_for_a_while() {
    let world = world_of(vec![Provider { retries: 0, ..provider("up", ProviderKind::Openai) }]);
    let refused = || Err(SeamError::Connect("connection refused".to_owned()));
    let asked = answering(
        &world,
        "up",
        vec![refused(), refused(), refused(), refused(), refused(), Ok(Script::json(ANSWER))],
    );
    let ask = || world.post("/v1/chat/completions", &[], &question(false));
    for _ in 0..5 {
        assert_eq!(ask().status, 502);
    }
    let got = ask();
    assert_eq!((got.status, got.header("retry-after")), (502, "10"), "{}", got.body);
    assert!(got.body.contains("left alone for 10 s"), "{}", got.body);
    assert_eq!(asked.lock().unwrap().len(), 5, "it is not asked");
    let status = get(&world, "/status").json();
    let up = &status["models"]["providers"][0];
    assert_eq!((&up["health"], &up["reason"]), (&json!(["paused"]), &json!("upstream_connect")), "{status}");
    wait(&world, Duration::from_secs(11));
    assert_eq!(ask().status, 200);
    assert_eq!(get(&world, "/status").json()["models"]["providers"][0]["health"], json!(["ok"]));
}

#[test]
fn each_key_has_its_own_limit() {
    let mut first = provider("up", ProviderKind::Openai);
    let second = Provider { credential: Credential::Key("sk-second".into()), slot: 1, ..first.clone() };
    first.twins = vec![Arc::new(second)];
    let world = world_of(vec![first]);
    let limited = Script::new(429, "application/json", "{\"error\":{\"message\":\"slow down\"}}")
        .header("retry-after", "60");
    let asked = answering(&world, "up", vec![Ok(limited), Ok(Script::json(ANSWER))]);
    let keys = || {
        let keys: Vec<String> = asked
            .lock()
            .unwrap()
            .drain(..)
            .map(|asked| asked.headers()["authorization"].to_str().unwrap().to_owned())
            .collect();
        keys.join(", ")
    };
    let got = world.post("/v1/chat/completions", &[], &question(false));
    assert_eq!((got.status, got.header("x-causeway-attempts")), (200, "2"), "{}", got.body);
    assert_eq!(got.header("x-causeway-why"), "asked for by name; up/some-model: rate_limited");
    assert_eq!(keys(), "Bearer sk-upstream, Bearer sk-second");
    for _ in 0..3 {
        assert_eq!(
            world.post("/v1/chat/completions", &[], &question(false)).header("x-causeway-attempts"),
            "1"
        );
    }
    assert_eq!(keys(), "Bearer sk-second, Bearer sk-second, Bearer sk-second");
    wait(&world, Duration::from_secs(61));
    for _ in 0..2 {
        world.post("/v1/chat/completions", &[], &question(false));
    }
    assert!(keys().contains("sk-upstream"), "it is asked again when it may be");
}
