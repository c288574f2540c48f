//! Models of every provider behind both dialects, over real HTTP.

use std::time::{Duration, Instant};

use causeway_fixture::model::{Fault, Manner, Model};
use causeway_suite::host::{eventually, skip};
use causeway_suite::models::{DIALECTS, Dialect, Heard, KINDS};
use causeway_suite::{Gateway, Host, Request, hash};
use serde_json::{Value, json};

/// A provider of each kind, each called as its kind, behind one gateway.
async fn all() -> (Vec<(&'static str, Model)>, Gateway) {
    let mut models = Vec::new();
    let mut providers = json!({});
    for kind in KINDS {
        let model = Model::start(kind).await;
        providers[kind] = model.entry();
        providers[kind]["retries"] = 0.into();
        models.push((kind, model));
    }
    let gateway = Gateway::start(json!({"mcpServers": {}, "llm": {"providers": providers}})).await;
    (models, gateway)
}

/// Two providers of the model `m`, asked in this order.
async fn pair(first: &str, second: &str, patch: Value) -> (Model, Model, Gateway) {
    let (one, two) = (Model::start(first).await, Model::start(second).await);
    let mut entry = one.entry();
    // It is to be asked each time, however often it has failed.
    entry["breaker"] = json!({"failures": 0});
    for (key, value) in patch.as_object().into_iter().flatten() {
        entry[key] = value.clone();
    }
    let providers = json!({"one": entry, "two": two.entry()});
    let llm = json!({"providers": providers, "models": {
        "m": ["one/m-1", "two/m-1"],
        // Nobody goes on with what another has begun.
        "one/m-1": {"features": ["tools"]},
        "two/m-1": {"features": ["tools"]},
    }});
    let gateway = Gateway::start(json!({"mcpServers": {}, "llm": llm})).await;
    (one, two, gateway)
}

fn stop(dialect: Dialect, what: &str) -> &'static str {
    match (dialect, what) {
        (Dialect::OpenAi, "end") => "stop",
        (Dialect::OpenAi, "tools") => "tool_calls",
        (Dialect::OpenAi, _) => "length",
        (Dialect::Anthropic, "end") => "end_turn",
        (Dialect::Anthropic, "tools") => "tool_use",
        (Dialect::Anthropic, _) => "max_tokens",
    }
}

fn check(heard: &Heard, at: &str) {
    assert_eq!(heard.error, "", "{at}");
    assert!(heard.over && heard.starts == 1, "{at}: {heard:?}");
    assert_eq!(heard.usage, (21, 9), "{at}: {heard:?}");
}

#[tokio::test]
async fn words_come_whole_and_as_they_come() {
    let (models, gateway) = all().await;
    for (kind, model) in &models {
        for dialect in DIALECTS {
            for stream in [false, true] {
                let at = format!("{dialect:?} to {kind}, stream {stream}");
                let before = model.seen().len();
                let question = dialect.question(&format!("{kind}/m-1"), "Hello there, you", stream);
                let (status, heard) = dialect.ask(&gateway, &question).await;
                assert_eq!(status, 200, "{at}: {heard:?}");
                assert_eq!(heard.text, "You said: Hello there, you", "{at}");
                assert_eq!(heard.stop, stop(dialect, "end"), "{at}");
                check(&heard, &at);
                assert_eq!(model.seen().len(), before + 1, "{at}: one request");
            }
        }
    }
}

#[tokio::test]
async fn tools_are_called_at_once_and_their_results_come_back() {
    let (models, gateway) = all().await;
    for (kind, _) in &models {
        for dialect in DIALECTS {
            for stream in [false, true] {
                let at = format!("{dialect:?} to {kind}, stream {stream}");
                let question =
                    dialect.question(&format!("{kind}/m-1"), "The weather in Paris and Rome?", stream);
                let question = dialect.with_weather(question);
                let (_, heard) = dialect.ask(&gateway, &question).await;
                check(&heard, &at);
                assert_eq!(heard.stop, stop(dialect, "tools"), "{at}");
                let called: Vec<_> =
                    heard.calls.iter().map(|(_, name, arguments)| (name.as_str(), arguments)).collect();
                let (paris, rome) = (json!({"city": "Paris"}), json!({"city": "Rome"}));
                assert_eq!(called, [("weather", &paris), ("weather", &rome)], "{at}");
                assert!(heard.calls[0].0 != heard.calls[1].0, "{at}: {heard:?}");
                let question = dialect.with_results(question, &heard, &["sun", "rain"]);
                let (_, heard) = dialect.ask(&gateway, &question).await;
                assert_eq!(heard.text, "The tools say sun and rain.", "{at}: {heard:?}");
                assert_eq!(heard.stop, stop(dialect, "end"), "{at}");
            }
        }
    }
}

#[tokio::test]
async fn one_tool_at_a_time_is_called_where_that_is_asked_for() {
    let (models, gateway) = all().await;
    for (kind, _) in &models {
        for dialect in DIALECTS {
            for stream in [false, true] {
                let at = format!("{dialect:?} to {kind}, stream {stream}");
                let question = dialect.question(&format!("{kind}/m-1"), "The weather in Rome?", stream);
                let (_, heard) = dialect.ask(&gateway, &dialect.with_weather(question)).await;
                check(&heard, &at);
                let called: Vec<_> = heard.calls.iter().map(|(_, _, arguments)| arguments).collect();
                assert_eq!(called, [&json!({"city": "Rome"})], "{at}");
                // These have a word for it.
                if matches!(*kind, "gemini" | "bedrock" | "ollama") {
                    continue;
                }
                let question =
                    dialect.question(&format!("{kind}/m-1"), "The weather in Paris and Rome?", stream);
                let mut question = dialect.with_weather(question);
                match dialect {
                    Dialect::OpenAi => question["parallel_tool_calls"] = false.into(),
                    Dialect::Anthropic => {
                        question["tool_choice"] = json!({"type": "auto", "disable_parallel_tool_use": true});
                    }
                }
                let (_, heard) = dialect.ask(&gateway, &question).await;
                assert_eq!(heard.calls.len(), 1, "{at}: {heard:?}");
            }
        }
    }
}

#[tokio::test]
async fn images_schemas_thoughts_and_limits_reach_every_provider() {
    let (models, gateway) = all().await;
    let png = "iVBORw0KGgo=";
    let person = json!({
        "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": false,
    });
    for (kind, _) in &models {
        for dialect in DIALECTS {
            for stream in [false, true] {
                let at = format!("{dialect:?} to {kind}, stream {stream}");
                let plain = |text: &str| dialect.question(&format!("{kind}/m-1"), text, stream);
                let mut question = plain("");
                question["messages"][0]["content"] = match dialect {
                    Dialect::OpenAi => json!([
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{png}")}},
                    ]),
                    Dialect::Anthropic => json!([
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}},
                        {"type": "text", "text": "What is it?"},
                    ]),
                };
                let (_, heard) = dialect.ask(&gateway, &question).await;
                assert_eq!(heard.text, "An image of 12 characters.", "{at}: {heard:?}");
                check(&heard, &at);

                let mut question = plain("A person");
                match dialect {
                    Dialect::OpenAi => {
                        let schema = json!({"name": "person", "schema": person, "strict": true});
                        question["response_format"] = json!({"type": "json_schema", "json_schema": schema});
                    }
                    Dialect::Anthropic => {
                        question["output_config"] =
                            json!({"format": {"type": "json_schema", "schema": person}});
                    }
                }
                let (_, heard) = dialect.ask(&gateway, &question).await;
                let answer: Value =
                    serde_json::from_str(&heard.text).unwrap_or_else(|_| panic!("{at}: {heard:?}"));
                assert_eq!(answer, json!({"name": "Ada", "age": 36}), "{at}");
                check(&heard, &at);

                if dialect == Dialect::OpenAi {
                    let mut question = plain("A person");
                    question["response_format"] = json!({"type": "json_object"});
                    let (_, heard) = dialect.ask(&gateway, &question).await;
                    assert_eq!(heard.text, "{\"name\":\"Ada\"}", "{at}: {heard:?}");
                }

                let mut question = dialect.question(&format!("{kind}/m-1"), "Think", stream);
                match dialect {
                    Dialect::OpenAi => question["reasoning_effort"] = "low".into(),
                    Dialect::Anthropic => {
                        question["thinking"] = json!({"type": "enabled", "budget_tokens": 2000})
                    }
                }
                let (_, heard) = dialect.ask(&gateway, &question).await;
                assert_eq!(
                    (heard.thought.as_str(), heard.text.as_str()),
                    ("Let me think.", "You said: Think"),
                    "{at}: {heard:?}"
                );
                check(&heard, &at);

                let mut question = plain("Hello");
                question["max_tokens"] = 1.into();
                let (_, heard) = dialect.ask(&gateway, &question).await;
                let said = (heard.text.as_str(), heard.stop.as_str());
                assert_eq!(said, ("Once", stop(dialect, "length")), "{at}");
            }
        }
    }
}

#[tokio::test]
async fn errors_of_every_provider_are_told_in_both_dialects() {
    let (models, gateway) = all().await;
    for (kind, model) in &models {
        for fault in Fault::ALL {
            if fault == Fault::ShortRateLimit {
                continue;
            }
            model.behave(Manner::Fails(fault));
            for (dialect, stream) in
                DIALECTS.into_iter().flat_map(|dialect| [(dialect, false), (dialect, true)])
            {
                let question = dialect.question(&format!("{kind}/m-1"), "Hello", stream);
                let (status, heard) = dialect.ask(&gateway, &question).await;
                let openai = match fault {
                    Fault::Authentication => (502, "provider_authentication"),
                    Fault::Quota => (429, "insufficient_quota"),
                    Fault::RateLimit | Fault::ShortRateLimit => (429, "rate_limit_exceeded"),
                    Fault::ContextTooLong => (400, "context_length_exceeded"),
                    Fault::Filtered => (400, "content_filter"),
                    Fault::Overloaded => (503, "overloaded"),
                    Fault::BadRequest => (400, "provider_refused"),
                    Fault::UnknownModel => (404, "model_not_found"),
                };
                let anthropic = match fault {
                    Fault::Authentication => (502, "api_error"),
                    Fault::Quota | Fault::RateLimit | Fault::ShortRateLimit => (429, "rate_limit_error"),
                    Fault::Overloaded => (529, "overloaded_error"),
                    Fault::UnknownModel => (404, "not_found_error"),
                    _ => (400, "invalid_request_error"),
                };
                let own = match dialect {
                    Dialect::OpenAi => !matches!(*kind, "anthropic" | "gemini" | "bedrock" | "ollama"),
                    Dialect::Anthropic => *kind == "anthropic",
                };
                let expected = if dialect == Dialect::OpenAi { openai } else { anthropic };
                // In a provider's own dialect its own words are told.
                if !own || fault == Fault::Authentication {
                    assert_eq!(
                        (status, heard.error.as_str()),
                        expected,
                        "{fault:?} of {kind} to {dialect:?}"
                    );
                } else {
                    assert!(
                        status >= 400 && !heard.error.is_empty() || *kind == "openrouter",
                        "{fault:?} of {kind}"
                    );
                }
            }
        }
        model.behave(Manner::Well);
    }
    assert!(!gateway.log().contains("sk-of"), "the log shows a key");
}

#[tokio::test]
async fn a_provider_that_fails_before_its_first_word_is_replaced() {
    for first in KINDS {
        let second = if first == "anthropic" { "openai" } else { "anthropic" };
        let quick = json!({"timeouts": {"first_byte": "300ms"}});
        let (one, two, gateway) = pair(first, second, quick).await;
        for manner in [
            Manner::Fails(Fault::Overloaded),
            Manner::Fails(Fault::Authentication),
            Manner::Fails(Fault::UnknownModel),
            Manner::Fails(Fault::RateLimit),
            Manner::CutAfter(0),
            Manner::StallAfter(0),
            Manner::BadAfter(0),
            Manner::FailsAfter(0),
        ] {
            one.behave(manner);
            for dialect in DIALECTS {
                let at = format!("{manner:?} of {first} then {second} to {dialect:?}");
                let asked = two.seen().len();
                let (status, heard) = dialect.ask(&gateway, &dialect.question("m", "Hello", true)).await;
                assert_eq!((status, heard.text.as_str()), (200, "You said: Hello"), "{at}: {heard:?}");
                check(&heard, &at);
                assert_eq!(two.seen().len(), asked + 1, "{at}");
            }
        }
    }
}

#[tokio::test]
async fn what_fails_after_its_first_word_ends_with_an_error_and_is_not_said_again() {
    for kind in KINDS {
        let quick = json!({"timeouts": {"idle": "300ms"}});
        let (one, two, gateway) = pair(kind, "openai", quick).await;
        for manner in [Manner::CutAfter(4), Manner::StallAfter(4), Manner::BadAfter(4), Manner::FailsAfter(4)]
        {
            one.behave(manner);
            for dialect in DIALECTS {
                let at = format!("{manner:?} of {kind} to {dialect:?}");
                let question = dialect.question("m", "one two three four five six seven", true);
                let request = Request::post(gateway.url(dialect.path()), &question);
                let text = request.send().await.text().await;
                let heard = dialect.streamed(&text);
                assert!(heard.text.starts_with("You "), "{at}: {text}");
                assert_eq!(heard.starts, 1, "{at}: {text}");
                assert!(!heard.error.is_empty(), "{at}: {text}");
                assert!(!heard.text.contains("seven") && !heard.over, "{at}: {text}");
            }
        }
        assert_eq!(two.seen().len(), 0, "{kind}: nobody else is asked");
    }
}

#[tokio::test]
async fn what_fails_after_its_first_word_goes_on_where_a_model_takes_the_beginning() {
    let (said, able) = ("one two three four five six seven", json!({"features": ["tools", "prefill"]}));
    for (first, second) in [
        ("anthropic", "openai"),
        ("ollama", "openai"),
        ("bedrock", "gemini"),
        ("openai", "anthropic"),
        ("gemini", "ollama"),
    ] {
        let (one, two) = (Model::start(first).await, Model::start(second).await);
        let mut entry = one.entry();
        entry["timeouts"] = json!({"idle": "300ms"});
        entry["breaker"] = json!({"failures": 0});
        // One of the two takes it.
        let takes = if matches!(first, "openai" | "gemini") { "two/m-1" } else { "one/m-1" };
        let other = if takes == "one/m-1" { "two/m-1" } else { "one/m-1" };
        let gateway = Gateway::start(json!({"mcpServers": {}, "llm": {
            "providers": {"one": entry, "two": two.entry()},
            "models": {"m": ["one/m-1", "two/m-1"], takes: able, other: {"features": ["tools"]}},
        }}))
        .await;
        for manner in [Manner::CutAfter(4), Manner::StallAfter(4), Manner::BadAfter(4), Manner::FailsAfter(4)]
        {
            for dialect in DIALECTS {
                let at = format!("{manner:?} of {first}, then {takes}, to {dialect:?}");
                one.behave_once(manner);
                let request = Request::post(gateway.url(dialect.path()), &dialect.question("m", said, true));
                let text = request.send().await.text().await;
                let heard = dialect.streamed(&text);
                assert_eq!(heard.text, format!("You said: {said}"), "{at}: {text}");
                assert_eq!((heard.starts, heard.error.as_str(), heard.over), (1, "", true), "{at}: {text}");
                assert_eq!(heard.stop, stop(dialect, "end"), "{at}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn models_answer_together_under_ordinary_names() {
    let (one, two, three) =
        (Model::start("ollama").await, Model::start("anthropic").await, Model::start("gemini").await);
    let mut strong = two.entry();
    strong["retries"] = 0.into();
    let gateway = Gateway::start(json!({"mcpServers": {}, "llm": {
        "providers": {"one": one.entry(), "two": strong, "three": three.entry()},
        "teams": {
            "t": {"how": "chain", "models": ["one/m-1", "two/m-1"], "instruction": "Do better"},
            "u": {"how": "cascade", "models": ["one/m-1", "two/m-1"]},
            "v": {"how": "compare", "models": ["one/m-1", "two/m-1", "three/m-1"]},
        },
    }}))
    .await;
    let asked = || [one.seen().len(), two.seen().len(), three.seen().len()];
    for dialect in DIALECTS {
        for stream in [false, true] {
            let at = format!("{dialect:?}, stream {stream}");
            let ask = |model: &'static str| {
                let question = dialect.question(model, "Hello", stream);
                let gateway = &gateway;
                async move { dialect.ask(gateway, &question).await }
            };
            let (status, heard) = ask("chain/t").await;
            assert_eq!((status, heard.text.as_str()), (200, "You said: Do better"), "{at}: {heard:?}");
            assert_eq!((heard.usage, heard.starts, heard.over), ((42, 18), 1, true), "{at}: both stages");
            two.behave_once(Manner::Fails(Fault::Overloaded));
            let (_, heard) = ask("chain/t").await;
            assert_eq!(heard.text, "You said: Hello", "{at}: the draft: {heard:?}");
            let before = asked();
            let (_, heard) = ask("cascade/u").await;
            assert_eq!(heard.text, "You said: Hello", "{at}: {heard:?}");
            assert_eq!(asked()[1], before[1], "{at}: the strong one is not asked");
            let (_, heard) = ask("compare/v").await;
            assert_eq!((heard.text.as_str(), heard.usage), ("You said: Hello", (63, 27)), "{at}: {heard:?}");
            assert_eq!(asked()[2], before[2] + 1, "{at}");
        }
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_stops_the_provider() {
    let (models, gateway) = all().await;
    for (kind, model) in &models {
        model.behave(Manner::Slow(Duration::from_millis(60)));
        let question = Dialect::OpenAi.question(&format!("{kind}/m-1"), &"word ".repeat(100), true);
        let reply = Request::post(gateway.url("/v1/chat/completions"), &question).send().await;
        assert_eq!(reply.status, 200, "{kind}");
        drop(reply);
        assert!(eventually(async || model.dropped() == 1).await, "{kind} talks on");
    }
}

#[tokio::test]
async fn words_are_passed_on_as_they_come() {
    let (models, gateway) = all().await;
    for (kind, model) in &models {
        model.behave(Manner::Slow(Duration::from_millis(50)));
        let question = Dialect::Anthropic.question(&format!("{kind}/m-1"), &"word ".repeat(30), true);
        let began = Instant::now();
        let reply = Request::post(gateway.url("/v1/messages"), &question).send().await;
        let first = began.elapsed();
        let heard = Dialect::Anthropic.streamed(&reply.text().await);
        assert_eq!(heard.error, "", "{kind}");
        // The last word is said a second and a half after the first, however late that was.
        let rest = began.elapsed().saturating_sub(first);
        assert!(rest > Duration::from_millis(500), "{kind}: {rest:?} behind {first:?}");
    }
}

#[tokio::test]
async fn a_lone_provider_is_asked_again_when_it_says_when() {
    let model = Model::start("gemini").await;
    let gateway = Gateway::start(json!({"llm": {"providers": {"gemini": model.entry()}}})).await;
    model.behave_once(Manner::Fails(Fault::ShortRateLimit));
    let began = Instant::now();
    let (status, heard) =
        Dialect::OpenAi.ask(&gateway, &Dialect::OpenAi.question("any", "Hello", false)).await;
    assert_eq!((status, heard.text.as_str()), (200, "You said: Hello"));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(model.seen().len(), 2);
}

/// `GET`, as whoever may.
async fn get(gateway: &Gateway, path: &str) -> Value {
    let mut request = Request::new("GET", gateway.url(path));
    if let Some(key) = gateway.key() {
        request = request.header("authorization", &format!("Bearer {key}"));
    }
    let text = request.send().await.text().await;
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text:?}"))
}

#[tokio::test]
async fn a_policy_chooses_among_models_and_says_why() {
    let (one, two) = (Model::start("ollama").await, Model::start("anthropic").await);
    let (mut here, mut there) = (one.entry(), two.entry());
    here["local"] = true.into();
    there["local"] = false.into();
    let gateway = Gateway::start(json!({"mcpServers": {}, "llm": {
        "providers": {"here": here, "there": there},
        "models": {"here/m-1": {"features": ["tools"]}},
        "policies": {
            "near": {"targets": ["there/m-1", "here/m-1"], "local_first": true},
            "private": {"targets": ["there/m-1"], "local_only": true},
        },
    }}))
    .await;
    for dialect in DIALECTS {
        let ask = |body: Value| Request::post(gateway.url(dialect.path()), &body).send();
        let reply = ask(dialect.question("near", "Hello", false)).await;
        assert_eq!(reply.header("x-causeway-provider"), "here", "{dialect:?}");
        assert_eq!(reply.header("x-causeway-why"), "policy near: local first");
        let mut image = dialect.question("near", "", false);
        image["messages"][0]["content"] = match dialect {
            Dialect::OpenAi => {
                json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}])
            }
            Dialect::Anthropic => {
                let source = json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="});
                json!([{"type": "image", "source": source}])
            }
        };
        let reply = ask(image).await;
        assert_eq!(reply.header("x-causeway-provider"), "there", "{dialect:?}: what is here sees nothing");
        one.behave_once(Manner::Fails(Fault::Overloaded));
        let reply = ask(dialect.question("near", "Hello", true)).await;
        assert_eq!(reply.header("x-causeway-provider"), "there", "{dialect:?}");
        let why = reply.header("x-causeway-why").to_owned();
        assert_eq!(why, "policy near: local first; here/m-1: overloaded", "{dialect:?}");
        assert_eq!(dialect.streamed(&reply.text().await).text, "You said: Hello");
        let asked = two.seen().len();
        let reply = ask(dialect.question("private", "Hello", false)).await;
        assert_eq!((reply.status, two.seen().len()), (400, asked), "what is private is asked of nobody");
    }
    let status = get(&gateway, "/status").await;
    let models = &status["models"];
    if Host::chosen() == Host::Native {
        // Elsewhere the next request may be another instance's.
        assert_eq!(models["decisions"][0]["asked"], "near", "{status}");
        assert_eq!(models["decisions"][0]["chosen"], "there/m-1", "{status}");
    }
    let places: Vec<&Value> =
        models["providers"].as_array().unwrap().iter().map(|provider| &provider["place"]).collect();
    assert_eq!(places, ["local", "cloud"], "{status}");
    let list = get(&gateway, "/v1/models").await;
    let here = list["data"].as_array().unwrap().iter().find(|model| model["id"] == "m-1").unwrap();
    assert_eq!(here["model_context"]["capabilities"]["images"], false, "{here}");
}

#[tokio::test]
async fn models_are_listed_counted_and_embedded() {
    let (_models, gateway) = all().await;
    let list = get(&gateway, "/v1/models").await;
    let names: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    for kind in ["openai", "anthropic", "gemini", "bedrock"] {
        assert!(names.contains(&format!("{kind}/m-1").as_str()), "{names:?}");
    }
    assert!(names.contains(&"m-1"), "{names:?}");
    for kind in ["openai", "gemini", "ollama", "azure"] {
        let body = json!({"model": format!("{kind}/m-1"), "input": ["a", "bcd"]});
        let text = Request::post(gateway.url("/v1/embeddings"), &body).send().await.text().await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["data"][1]["embedding"][0].as_f64(), Some(3.0), "{kind}: {answer}");
    }
    let count = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
        Request::post(gateway.url("/v1/messages/count_tokens"), &body).send()
    };
    for (model, expected) in [("anthropic/m-1", 42), ("gemini/m-1", 42), ("openai/m-1", 6)] {
        let answer: Value = serde_json::from_str(&count(model).await.text().await).unwrap();
        assert_eq!(answer["input_tokens"], expected, "{model}");
    }
}

#[tokio::test]
async fn official_sdks_work_with_another_base_url_and_key() {
    let npm = std::env::var_os("CAUSEWAY_NPM").map(std::path::PathBuf::from).unwrap_or_default();
    if !npm.join("node_modules/openai").exists() {
        return skip(
            "official_sdks_work_with_another_base_url_and_key",
            "the SDKs are not there: run scripts/setup",
        );
    }
    let (_models, gateway) = all().await;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/models_sdk.mjs");
    let mut command = tokio::process::Command::new("node");
    command.arg(script).arg(gateway.url("")).arg(gateway.key().unwrap_or("none"));
    command.args(KINDS.map(|kind| format!("{kind}/m-1")));
    let output = command.output().await.unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim() == "ok", "{said}\n{complained}");
}

#[tokio::test]
async fn official_python_sdks_work_with_another_base_url_and_key() {
    let case = "official_python_sdks_work_with_another_base_url_and_key";
    let python = std::env::var("CAUSEWAY_PYTHON").unwrap_or_default();
    let has = async |module: &str| {
        let check =
            tokio::process::Command::new(&python).args(["-c", &format!("import {module}")]).output().await;
        check.is_ok_and(|output| output.status.success())
    };
    if python.is_empty() || !has("openai, anthropic").await {
        return skip(case, "the SDKs are not there: run scripts/setup");
    }
    let (_models, gateway) = all().await;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/models_sdk.py");
    let mut command = tokio::process::Command::new(python);
    command.arg(script).arg(gateway.url("")).arg(gateway.key().unwrap_or("none"));
    command.args(KINDS.map(|kind| format!("{kind}/m-1")));
    let output = command.output().await.unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim() == "ok", "{said}\n{complained}");
}

/// A gateway on this machine without a configuration file, with these variables.
async fn from_variables(variables: &[(&str, String)]) -> (tokio::process::Child, String) {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let folder = std::env::temp_dir();
    let mut command = tokio::process::Command::new(causeway_suite::host::program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--state", "memory"]).current_dir(folder);
    command.env_remove("CAUSEWAY_CONFIG").envs(variables.iter().map(|(name, value)| (name, value)));
    command.stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, rest)) = line.split_once("listening on ") {
            let url = rest.split_whitespace().next().unwrap().trim_end_matches("/mcp").to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (process, url);
        }
        said += &line;
    }
    panic!("the gateway did not start: {said}");
}

#[tokio::test]
async fn one_variable_switches_the_provider() {
    if Host::chosen() != Host::Native {
        return skip("one_variable_switches_the_provider", "there the configuration is pushed");
    }
    for kind in KINDS {
        let model = Model::start(kind).await;
        let key = causeway_fixture::model::KEY.to_owned();
        let variables: Vec<(&str, String)> = match kind {
            "openai" => vec![("OPENAI_API_KEY", key), ("OPENAI_BASE_URL", model.url())],
            "anthropic" => vec![("ANTHROPIC_API_KEY", key), ("ANTHROPIC_BASE_URL", model.url())],
            "gemini" => vec![("GEMINI_API_KEY", key), ("GEMINI_BASE_URL", model.url())],
            "bedrock" => vec![
                ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", key),
                ("AWS_REGION", "us-east-1".to_owned()),
                ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", model.url()),
            ],
            "azure" => vec![("AZURE_OPENAI_API_KEY", key), ("AZURE_OPENAI_ENDPOINT", model.url())],
            "openrouter" => vec![("OPENROUTER_API_KEY", key), ("OPENROUTER_BASE_URL", model.url())],
            "dial" => vec![("DIAL_API_KEY", key), ("DIAL_URL", model.url())],
            "ollama" => vec![("OLLAMA_API_KEY", key), ("OLLAMA_HOST", model.url())],
            "lmstudio" => vec![("LMSTUDIO_API_KEY", key), ("LMSTUDIO_BASE_URL", model.url())],
            _ => vec![("LLM_API_KEY", key), ("LLM_BASE_URL", model.url())],
        };
        let own = [("LLM_PROVIDER", kind.to_owned()), ("LLM_MODEL", "m-1".to_owned())];
        let (_process, url) = from_variables(&[variables, own.to_vec()].concat()).await;
        for dialect in DIALECTS {
            // The very same question, whoever answers.
            let question = dialect.question("default", "Hello", true);
            let reply = Request::post(format!("{url}{}", dialect.path()), &question).send().await;
            let heard = dialect.streamed(&reply.text().await);
            assert_eq!(heard.text, "You said: Hello", "{kind} to {dialect:?}: {heard:?}");
        }
        let schema = Request::new("GET", format!("{url}/schema/answer")).send().await.text().await;
        let schema = jsonschema::draft202012::new(&serde_json::from_str(&schema).unwrap()).unwrap();
        let reply = Request::post(format!("{url}/ask"), &json!({"message": "Hello"})).send().await;
        let answer: Value = serde_json::from_str(&reply.text().await).unwrap();
        assert_eq!(
            (&answer["text"], &answer["provider"]),
            (&json!("You said: Hello"), &json!(kind)),
            "{answer}"
        );
        assert!(schema.is_valid(&answer), "{kind}: {answer}");
    }
}

#[tokio::test]
async fn both_ways_to_show_a_key_open_both_dialects() {
    let model = Model::start("ollama").await;
    let gateway = Gateway::start(json!({
        "llm": {"providers": {"ollama": model.entry()}},
        "keys": {"alice": {"hash": hash("k-alice"), "models": ["m-1"]}},
    }))
    .await;
    for dialect in DIALECTS {
        for (name, value) in [("authorization", "Bearer k-alice"), ("x-api-key", "k-alice")] {
            let ask = |model: &str| {
                let request =
                    Request::post(gateway.url(dialect.path()), &dialect.question(model, "Hello", false));
                request.header(name, value).send()
            };
            assert_eq!(ask("m-1").await.status, 200, "{dialect:?} {name}");
            assert_eq!(ask("m-2").await.status, 404, "{dialect:?} {name}");
        }
        let request = Request::post(gateway.url(dialect.path()), &dialect.question("m-1", "Hello", false));
        let reply = request.header("x-api-key", "wrong").send().await;
        assert_eq!(reply.status, 401);
        let word = if dialect == Dialect::OpenAi { "invalid_api_key" } else { "authentication_error" };
        assert_eq!(dialect.whole(&reply.text().await).error, word);
    }
}
