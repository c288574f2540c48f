//! Answers that are kept for the very same question.

use causeway_fixture::model::{Fault, Manner, Model};
use causeway_suite::models::{DIALECTS, Dialect, Heard, KINDS};
use causeway_suite::{Gateway, Host, Request, hash};
use serde_json::{Value, json};

/// Asks, and gives what `cache-status` says beside what is heard.
async fn ask(gateway: &Gateway, dialect: Dialect, body: &Value, headers: &[(&str, &str)]) -> (String, Heard) {
    let mut request =
        Request::post(gateway.url(dialect.path()), body).header("anthropic-version", "2023-06-01");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let reply = request.send().await;
    let said = reply.header("cache-status").to_owned();
    let streams = reply.header("content-type").starts_with("text/event-stream");
    let text = reply.text().await;
    let heard = if streams { dialect.streamed(&text) } else { dialect.whole(&text) };
    let said = said.split(" ttl=").next().unwrap_or_default().to_owned();
    (said, heard)
}

const HIT: &str = "causeway; hit;";
const MISS: &str = "causeway; fwd=miss";

/// Asks what has been answered before. On Spin the next request may be another instance's, which finds an answer once it is
/// in the store; elsewhere it is there at once.
async fn ask_again(
    gateway: &Gateway,
    dialect: Dialect,
    body: &Value,
    headers: &[(&str, &str)],
) -> (String, Heard) {
    let mut told = ask(gateway, dialect, body, headers).await;
    for _ in 0..5 {
        if gateway.host() != Host::Spin || told.0 == HIT {
            break;
        }
        told = ask(gateway, dialect, body, headers).await;
    }
    told
}

#[tokio::test]
async fn an_answer_of_every_provider_is_given_again_whole_and_as_a_stream() {
    let mut models = Vec::new();
    let mut providers = json!({});
    for kind in KINDS {
        let model = Model::start(kind).await;
        providers[kind] = model.entry();
        models.push((kind, model));
    }
    let gateway =
        Gateway::start(json!({"mcpServers": {}, "llm": {"providers": providers, "cache": {}}})).await;
    for (kind, model) in &models {
        for dialect in DIALECTS {
            for first in [false, true] {
                let at = format!("{dialect:?} to {kind}, first as a stream: {first}");
                for text in ["Hello there", "The weather in Paris and Rome?"] {
                    let question = |stream: bool| {
                        let text = format!("{text} {first} {dialect:?}");
                        dialect.with_weather(dialect.question(&format!("{kind}/m-1"), &text, stream))
                    };
                    let (status, told) = ask(&gateway, dialect, &question(first), &[]).await;
                    assert_eq!((status.as_str(), told.usage), (MISS, (21, 9)), "{at}: {told:?}");
                    let before = model.seen().len();
                    for stream in [false, true] {
                        let (status, heard) = ask_again(&gateway, dialect, &question(stream), &[]).await;
                        assert_eq!(status, HIT, "{at}, then {stream}: {heard:?}");
                        assert_eq!((&heard.text, &heard.stop), (&told.text, &told.stop), "{at}");
                        assert_eq!(heard.calls, told.calls, "{at}");
                        assert_eq!((heard.usage, heard.starts, heard.over), ((0, 0), 1, true), "{at}");
                    }
                    let asked = model.seen().len() - before;
                    assert!(asked == 0 || gateway.host() == Host::Spin, "{at}: nobody is asked");
                }
            }
        }
    }
    assert!(!gateway.log().contains("Hello there"), "a question is in the log");
}

#[tokio::test]
async fn answers_are_a_callers_own_and_only_good_ones_are_kept() {
    let model = Model::start("ollama").await;
    let mut entry = model.entry();
    entry["retries"] = 0.into();
    entry["breaker"] = json!({"failures": 0});
    let gateway = Gateway::start(json!({
        "llm": {"providers": {"ollama": entry}, "cache": {"ttl": "10m"}},
        "keys": {"ann": {"hash": hash("k-ann")}, "bob": {"hash": hash("k-bob")}},
    }))
    .await;
    let (ann, bob) = (("x-api-key", "k-ann"), ("x-api-key", "k-bob"));
    let dialect = Dialect::OpenAi;
    let body = dialect.question("m-1", "Hello", false);
    assert_eq!(ask(&gateway, dialect, &body, &[ann]).await.0, MISS);
    assert_eq!(ask(&gateway, dialect, &body, &[bob]).await.0, MISS);
    assert_eq!(ask_again(&gateway, dialect, &body, &[ann]).await.0, HIT);
    let anew = [ann, ("cache-control", "no-cache")];
    assert_eq!(ask(&gateway, dialect, &body, &anew).await.0, "causeway; fwd=request");
    assert!(model.seen().len() == 3 || gateway.host() == Host::Spin);
    for (what, manner, body) in [
        ("an error", Manner::Fails(Fault::Overloaded), dialect.question("m-1", "one", false)),
        ("a cut", Manner::CutAfter(2), dialect.question("m-1", "one two three", true)),
        ("the end of what is allowed", Manner::Well, {
            let mut body = dialect.question("m-1", "short", false);
            body["max_tokens"] = 1.into();
            body
        }),
    ] {
        model.behave_once(manner);
        ask(&gateway, dialect, &body, &[ann]).await;
        assert_eq!(ask(&gateway, dialect, &body, &[ann]).await.0, MISS, "{what}");
    }
}

#[tokio::test]
async fn an_answer_outlives_the_instance_that_gave_it() {
    let model = Model::start("gemini").await;
    let mut gateway = Gateway::start(
        json!({"mcpServers": {}, "llm": {"providers": {"gemini": model.entry()}, "cache": {}}}),
    )
    .await;
    let body = Dialect::Anthropic.question("m-1", "Hello", false);
    ask(&gateway, Dialect::Anthropic, &body, &[]).await;
    // It is stored behind the answer: who is killed at once may not have come to it.
    for _ in 0..5 {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        gateway.restart().await;
        let (status, heard) = ask(&gateway, Dialect::Anthropic, &body, &[]).await;
        assert_eq!(heard.text, "You said: Hello");
        if status == HIT {
            return;
        }
    }
    panic!("no instance finds what another has kept");
}
