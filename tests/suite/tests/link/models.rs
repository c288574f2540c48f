//! Models on a machine that only dials out.

use std::time::Duration;

use causeway_fixture::model::{Manner, Model};
use causeway_suite::host::eventually;
use causeway_suite::link::transports;
use causeway_suite::models::{DIALECTS, Dialect, Heard};
use causeway_suite::{Companion, Gateway, Request, hash};
use serde_json::{Value, json};

use super::proxy::Proxy;
use super::{CALLER, KEY};

const KINDS: [&str; 3] = ["ollama", "lmstudio", "openai-compatible"];

/// The gateway's side: providers behind `laptop`, each called as its kind, with nothing of where they are; and what else
/// `llm` has.
fn behind(kinds: &[&str], providers: Value, models: Value) -> Value {
    let mut all = json!({});
    for kind in kinds {
        all[kind] = json!({"kind": kind, "via": "laptop"});
    }
    for (name, provider) in providers.as_object().into_iter().flatten() {
        all[name] = provider.clone();
    }
    json!({
        "llm": {"providers": all, "models": models},
        "keys": {
            "laptop": {"hash": hash(KEY), "links": ["laptop"]},
            "me": {"hash": hash(CALLER), "admin": true},
        },
        "limits": {"link_resume": "6s"},
    })
}

/// The companion's side.
fn offering(models: &[(&str, &Model)]) -> Value {
    let mut providers = json!({});
    for (name, model) in models {
        providers[name] = model.entry();
    }
    json!({"llm": {"providers": providers}})
}

fn asking(gateway: &Gateway, dialect: Dialect, model: &str, text: &str, stream: bool) -> Request {
    Request::post(gateway.url(dialect.path()), &dialect.question(model, text, stream))
        .header("authorization", &format!("Bearer {CALLER}"))
        .header("anthropic-version", "2023-06-01")
}

async fn ask(gateway: &Gateway, dialect: Dialect, model: &str, text: &str, stream: bool) -> (u16, Heard) {
    let reply = asking(gateway, dialect, model, text, stream).send().await;
    let (status, streams) = (reply.status, reply.header("content-type").starts_with("text/event-stream"));
    let text = reply.text().await;
    (status, if streams { dialect.streamed(&text) } else { dialect.whole(&text) })
}

async fn get(gateway: &Gateway, path: &str) -> Value {
    let request = Request::new("GET", gateway.url(path)).header("authorization", &format!("Bearer {CALLER}"));
    serde_json::from_str(&request.send().await.text().await).unwrap()
}

/// The message of an error in OpenAI's dialect.
async fn complaint(gateway: &Gateway, model: &str) -> (u16, String) {
    let reply = asking(gateway, Dialect::OpenAi, model, "Hello", false).send().await;
    let status = reply.status;
    let body: Value = serde_json::from_str(&reply.text().await).unwrap();
    (status, body["error"]["message"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned())
}

#[tokio::test]
async fn models_behind_a_link_answer_whole_and_as_they_speak() {
    let mut models = Vec::new();
    for kind in KINDS {
        models.push((kind, Model::start(kind).await));
    }
    let gateway = Gateway::start(behind(&KINDS, json!({}), json!({}))).await;
    let offer = offering(&models.iter().map(|(kind, model)| (*kind, model)).collect::<Vec<_>>());
    for &transport in transports() {
        let more = ["--transport", transport];
        let companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &more).await;
        for (kind, model) in &models {
            let before = model.seen().len();
            for dialect in DIALECTS {
                for stream in [false, true] {
                    let at = format!("{dialect:?} to {kind} by {transport}, stream {stream}");
                    let (status, heard) =
                        ask(&gateway, dialect, &format!("{kind}/m-1"), "Hello there, you", stream).await;
                    assert_eq!((status, heard.text.as_str()), (200, "You said: Hello there, you"), "{at}");
                    assert!(heard.error.is_empty() && heard.over && heard.starts == 1, "{at}: {heard:?}");
                }
            }
            assert_eq!(model.seen().len(), before + 4, "{kind}: a request each, none more");
        }
        let shown = get(&gateway, "/status").await;
        assert_eq!(shown["links"][0]["models"].as_array().unwrap().len(), 3, "{shown}");
        drop(companion);
        assert!(
            eventually(async || get(&gateway, "/status").await["links"][0]["state"] != "connected").await
        );
    }
    // The provider's key is the companion's own: the gateway has none to show.
    assert!(!gateway.log().contains(causeway_fixture::model::KEY));
}

#[tokio::test]
async fn models_behind_a_link_are_listed_and_embed() {
    let model = Model::start("ollama").await;
    let gateway = Gateway::start(behind(&["ollama"], json!({}), json!({}))).await;
    let offer = offering(&[("ollama", &model)]);
    let _companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    let listed = get(&gateway, "/v1/models").await;
    assert_eq!(listed["data"][0]["id"], "m-1", "{listed}");
    let body = json!({"model": "ollama/m-1", "input": ["a", "bcd"]});
    let request = Request::post(gateway.url("/v1/embeddings"), &body)
        .header("authorization", &format!("Bearer {CALLER}"));
    let answer: Value = serde_json::from_str(&request.send().await.text().await).unwrap();
    assert_eq!(answer["data"][1]["embedding"][0].as_f64(), Some(3.0), "{answer}");
}

#[tokio::test]
async fn while_the_link_is_down_it_is_said_or_the_next_candidate_answers() {
    let (local, other) = (Model::start("ollama").await, Model::start("openai").await);
    let models = json!({"m": ["ollama/m-1", "openai/m-1"]});
    let gateway = Gateway::start(behind(&["ollama"], json!({"openai": other.entry()}), models)).await;
    let (status, said) = complaint(&gateway, "ollama/m-1").await;
    assert_eq!(status, 503);
    assert_eq!(
        said,
        "provider \"ollama\": link \"laptop\" is not connected, never seen; start `causeway connect` there"
    );
    for dialect in DIALECTS {
        let (status, heard) = ask(&gateway, dialect, "m", "Hello", true).await;
        assert_eq!((status, heard.text.as_str()), (200, "You said: Hello"), "{dialect:?}");
    }
    assert_eq!(other.seen().len(), 2);
    let offer = offering(&[("ollama", &local)]);
    let mut companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    assert_eq!(ask(&gateway, Dialect::OpenAi, "m", "Hello", true).await.0, 200);
    assert_eq!((local.seen().len(), other.seen().len()), (1, 2), "the first is there again");
    companion.kill().await;
    let told = eventually(async || {
        let (status, said) = complaint(&gateway, "ollama/m-1").await;
        status == 503 && said.contains("link \"laptop\" is not connected, last seen ")
    });
    assert!(told.await, "{:?}", complaint(&gateway, "ollama/m-1").await);
}

#[tokio::test]
async fn what_the_gateway_does_not_expect_is_not_taken() {
    let model = Model::start("ollama").await;
    let direct = json!({"direct": model.entry(), "elsewhere": {"kind": "ollama", "via": "desktop"}});
    let gateway = Gateway::start(behind(&["ollama"], direct, json!({}))).await;
    let names = ["ollama", "direct", "elsewhere", "new"];
    let offer = offering(&names.map(|name| (name, &model)));
    let companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    assert!(eventually(async || companion.events("verdict").len() >= 4).await);
    for verdict in companion.events("verdict") {
        assert_eq!(verdict["accepted"], verdict["offer"] == "model \"ollama\"", "{verdict}");
    }
    let (_, said) = complaint(&gateway, "elsewhere/m-1").await;
    assert!(said.contains("link \"desktop\" is not connected"), "{said}");
}

#[tokio::test]
async fn a_provider_of_another_kind_than_the_companions_is_asked_once() {
    let model = Model::start("openai-compatible").await;
    let gateway = Gateway::start(behind(&["ollama"], json!({}), json!({}))).await;
    let offer = offering(&[("ollama", &model)]);
    let companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    assert!(eventually(async || !companion.events("verdict").is_empty()).await);
    let (status, said) = complaint(&gateway, "ollama/m-1").await;
    assert_eq!(status, 502, "{said}");
    assert!(said.contains("both ends must name the same kind"), "{said}");
    let logged = async || gateway.log().lines().any(|line| line.contains("\"attempts\":1}"));
    assert!(eventually(logged).await, "{}", gateway.log());
}

#[tokio::test]
async fn a_model_goes_on_speaking_where_its_connection_was_cut() {
    let model = Model::start("openai-compatible").await;
    model.behave(Manner::Slow(Duration::from_millis(60)));
    let gateway = Gateway::start(behind(&["openai-compatible"], json!({}), json!({}))).await;
    let proxy = Proxy::to(gateway.authority()).await;
    let offer = offering(&[("openai-compatible", &model)]);
    let companion = Companion::start(&proxy.url(), "laptop", Some(KEY), &offer, &[]).await;
    let words: Vec<String> = (0..40).map(|word| format!("word{word}")).collect();
    let asked = asking(&gateway, Dialect::OpenAi, "openai-compatible/m-1", &words.join(" "), true);
    let reply = asked.send().await;
    assert_eq!(reply.status, 200);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.cut();
    }
    let heard = Dialect::OpenAi.streamed(&reply.text().await);
    assert_eq!(heard.text, format!("You said: {}", words.join(" ")), "{heard:?}");
    assert!(heard.over && heard.error.is_empty() && heard.starts == 1);
    assert!(companion.connections() > 1);
}

#[tokio::test]
async fn a_companion_killed_while_a_model_speaks_ends_the_answer_with_one_error() {
    // A kind of which it is not known that it could go on with what was said.
    let kind = "openai-compatible";
    let model = Model::start(kind).await;
    model.behave(Manner::Slow(Duration::from_millis(100)));
    let gateway = Gateway::start(behind(&[kind], json!({}), json!({}))).await;
    let offer = offering(&[(kind, &model)]);
    let mut companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    let long = "word ".repeat(1000);
    let reply = asking(&gateway, Dialect::OpenAi, &format!("{kind}/m-1"), &long, true).send().await;
    assert_eq!(reply.status, 200);
    companion.kill().await;
    companion.again().await;
    let heard = Dialect::OpenAi.streamed(&reply.text().await);
    assert!(!heard.error.is_empty() && !heard.over && heard.starts == 1, "{heard:?}");
    model.behave(Manner::Well);
    assert_eq!(
        ask(&gateway, Dialect::OpenAi, &format!("{kind}/m-1"), "Hello", true).await.1.text,
        "You said: Hello"
    );
}

#[tokio::test]
async fn a_caller_who_hangs_up_stops_a_model_behind_a_link() {
    let model = Model::start("ollama").await;
    model.behave(Manner::Slow(Duration::from_millis(60)));
    let gateway = Gateway::start(behind(&["ollama"], json!({}), json!({}))).await;
    let offer = offering(&[("ollama", &model)]);
    let _companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, &[]).await;
    let reply = asking(&gateway, Dialect::OpenAi, "ollama/m-1", &"word ".repeat(1000), true).send().await;
    assert_eq!(reply.status, 200);
    drop(reply);
    assert!(eventually(async || model.dropped() == 1).await, "it talks on");
}
