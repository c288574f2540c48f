//! `/ask`, stored contexts and their schemas, over real HTTP.

use causeway_fixture::model::{Fault, Manner, Model};
use causeway_suite::host::{program, skip};
use causeway_suite::models::KINDS;
use causeway_suite::{Gateway, Host, Request, hash};
use jsonschema::Validator;
use serde_json::{Value, json};

/// A provider of each kind, each called as its kind, behind one gateway.
async fn all() -> (Vec<(&'static str, Model)>, Gateway) {
    let (mut models, mut providers) = (Vec::new(), json!({}));
    for kind in KINDS {
        let model = Model::start(kind).await;
        providers[kind] = model.entry();
        providers[kind]["retries"] = 0.into();
        // It is to be asked each time, however often it has failed.
        providers[kind]["breaker"] = json!({"failures": 0});
        models.push((kind, model));
    }
    let llm = json!({"providers": providers, "models": {"default": ["openai/m-1", "anthropic/m-1"]}});
    let gateway = Gateway::start(json!({"mcpServers": {}, "llm": llm})).await;
    (models, gateway)
}

async fn sent(gateway: &Gateway, method: &str, path: &str, body: Option<&Value>) -> (u16, String, String) {
    let mut request = Request::new(method, gateway.url(path));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    if let Some(key) = gateway.key() {
        request = request.header("authorization", &format!("Bearer {key}"));
    }
    let reply = request.send().await;
    let (status, tag) = (reply.status, reply.header("etag").to_owned());
    (status, tag, reply.text().await)
}

async fn ask(gateway: &Gateway, body: &Value) -> (u16, Value) {
    let (status, _, text) = sent(gateway, "POST", "/ask", Some(body)).await;
    let streams = body["stream"] == true && status == 200;
    let told = if streams { done(&text) } else { serde_json::from_str(&text).unwrap() };
    (status, told)
}

/// The last event of a stream.
fn done(text: &str) -> Value {
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let data = last.strip_prefix("event: done\ndata: ").unwrap_or_else(|| panic!("{text}"));
    serde_json::from_str(data).unwrap()
}

async fn schema(url: String) -> Validator {
    let text = Request::new("GET", url).send().await.text().await;
    jsonschema::draft202012::new(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn fits(validator: &Validator, value: &Value, at: &str) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, [""; 0], "{at}: {value}");
}

#[tokio::test]
async fn every_provider_answers_in_one_shape() {
    let (models, gateway) = all().await;
    let answer = schema(gateway.url("/schema/answer")).await;
    let person = json!({
        "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": false,
    });
    let weather = json!({
        "name": "weather", "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
    });
    for (kind, _) in &models {
        for stream in [false, true] {
            let at = format!("{kind}, stream {stream}");
            let with = |more: Value| {
                let mut body = json!({"model": format!("{kind}/m-1"), "stream": stream, "message": "Hello"});
                body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                body
            };
            let (status, told) = ask(&gateway, &with(json!({}))).await;
            assert_eq!((status, &told["text"]), (200, &json!("You said: Hello")), "{at}: {told}");
            fits(&answer, &told, &at);
            assert_eq!((&told["provider"], &told["finish_reason"]), (&json!(kind), &json!("stop")), "{at}");
            assert_eq!(told["usage"]["input_tokens"], 21, "{at}: {told}");
            assert_eq!(told["attempts"].as_array().unwrap().len(), 1, "{at}");

            let tools = json!({"definitions": [weather]});
            let question = "The weather in Paris and Rome?";
            let (_, told) =
                ask(&gateway, &with(json!({"message": question, "context": {"tools": tools}}))).await;
            fits(&answer, &told, &at);
            assert_eq!(told["finish_reason"], "tool_calls", "{at}: {told}");
            let calls = told["tool_calls"].as_array().unwrap();
            let cities: Vec<&Value> = calls.iter().map(|call| &call["arguments"]["city"]).collect();
            assert_eq!(cities, ["Paris", "Rome"], "{at}");
            let results = calls
                .iter()
                .map(|call| json!({"role": "tool", "tool_call_id": call["id"], "content": "sun"}));
            let mut messages = vec![
                json!({"role": "user", "content": question}),
                json!({"role": "assistant", "content": told["text"].as_str().filter(|text| !text.is_empty()), "tool_calls": calls}),
            ];
            messages.extend(results);
            let mut body = with(json!({"messages": messages, "context": {"tools": tools}}));
            body.as_object_mut().unwrap().remove("message");
            let (_, told) = ask(&gateway, &body).await;
            assert_eq!(told["text"], "The tools say sun and sun.", "{at}: {told}");

            let format = json!({"type": "json", "schema": person});
            let (_, told) = ask(&gateway, &with(json!({"message": "A person", "format": format}))).await;
            fits(&answer, &told, &at);
            assert_eq!(told["data"], json!({"name": "Ada", "age": 36}), "{at}: {told}");

            let (_, told) = ask(&gateway, &with(json!({"message": "Think", "effort": "low"}))).await;
            assert_eq!(told["reasoning"], "Let me think.", "{at}: {told}");
            fits(&answer, &told, &at);
        }
    }
}

#[tokio::test]
async fn errors_of_every_provider_are_problems() {
    let (models, gateway) = all().await;
    let problem = schema(gateway.url("/schema/problem")).await;
    for (kind, model) in &models {
        for (fault, status, code) in [
            (Fault::Authentication, 502, "provider_authentication"),
            (Fault::Quota, 429, "provider_quota"),
            (Fault::ContextTooLong, 400, "context_too_long"),
            (Fault::Filtered, 400, "content_filtered"),
            (Fault::Overloaded, 503, "overloaded"),
            (Fault::BadRequest, 400, "provider_refused"),
            (Fault::UnknownModel, 404, "unknown_model"),
        ] {
            model.behave(Manner::Fails(fault));
            let body = json!({"model": format!("{kind}/m-1"), "message": "Hello"});
            let (got, told) = ask(&gateway, &body).await;
            assert_eq!((got, &told["code"]), (status, &json!(code)), "{fault:?} of {kind}: {told}");
            fits(&problem, &told, kind);
        }
        model.behave(Manner::Well);
    }
    let (status, told) = ask(&gateway, &json!({"messages": [{"role": "robot", "content": "x"}]})).await;
    assert_eq!((status, &told["errors"][0]["pointer"]), (422, &json!("#/messages/0/role")), "{told}");
    assert!(!gateway.log().contains("sk-of"), "the log shows a key");
}

#[tokio::test]
async fn contexts_are_kept_and_used() {
    let (models, mut gateway) = all().await;
    let kept = schema(gateway.url("/schema/kept")).await;
    let context = json!({"context": {"identity": {"name": "Ana"}, "memory": {"facts": ["Ana likes tea."]}}});
    let (status, tag, text) = sent(&gateway, "PUT", "/context/ana", Some(&context)).await;
    assert_eq!(status, 201, "{text}");
    fits(&kept, &serde_json::from_str(&text).unwrap(), "PUT");
    let question = json!({"message": "Hello", "user_id": "ana"});
    let (_, told) = ask(&gateway, &question).await;
    assert_eq!(told["remembered"], true, "{told}");
    let mut streamed = question.clone();
    streamed["stream"] = true.into();
    let (_, told) = ask(&gateway, &streamed).await;
    assert_eq!(told["remembered"], true, "{told}");
    let openai = &models.iter().find(|(kind, _)| *kind == "openai").unwrap().1;
    let seen = openai.seen().last().unwrap().body.to_string();
    assert!(seen.contains("Ana likes tea.") && seen.contains("You said: Hello"), "{seen}");
    gateway.restart().await;
    let (status, newer, text) = sent(&gateway, "GET", "/context/ana", None).await;
    assert_eq!(status, 200, "{text}");
    assert_ne!(newer, tag);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["context"]["memory"]["turns"].as_array().unwrap().len(), 4, "{value}");
    let (_, _, list) = sent(&gateway, "GET", "/context", None).await;
    assert_eq!(list, r#"{"user_ids":["ana"]}"#);
    let key = gateway.key().map(|key| format!("Bearer {key}")).unwrap_or_default();
    let stale = Request::post(gateway.url("/context/ana"), &context).header("if-match", &tag);
    assert_eq!(stale.header("authorization", &key).send().await.status, 412);
    assert_eq!(sent(&gateway, "DELETE", "/context/ana", None).await.0, 204);
    assert_eq!(sent(&gateway, "GET", "/context/ana", None).await.0, 404);
    let (_, _, list) = sent(&gateway, "GET", "/context", None).await;
    assert_eq!(list, r#"{"user_ids":[]}"#);
}

#[tokio::test]
async fn writers_at_the_same_time_lose_nothing() {
    let (_models, gateway) = all().await;
    let fact = |i: usize| json!({"context": {"memory": {"facts": [i.to_string()]}}});
    let bodies: Vec<Value> = (0..6).map(fact).collect();
    let writes = bodies.iter().map(|body| sent(&gateway, "POST", "/context/ana", Some(body)));
    for (status, _, text) in futures_util::future::join_all(writes).await {
        assert!(status < 300, "{status} {text}");
    }
    let (_, _, text) = sent(&gateway, "GET", "/context/ana", None).await;
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["context"]["memory"]["facts"].as_array().unwrap().len(), 6, "{value}");
}

#[tokio::test]
async fn keys_have_contexts_of_their_own() {
    let model = Model::start("ollama").await;
    let gateway = Gateway::start(json!({
        "llm": {"providers": {"ollama": model.entry()}},
        "keys": {
            "ann": {"hash": hash("k-ann")}, "bob": {"hash": hash("k-bob"), "contexts": "sales"},
            "cid": {"hash": hash("k-cid"), "contexts": "sales"},
        },
    }))
    .await;
    let of = |who: &str, method: &str| {
        let request =
            Request::new(method, gateway.url("/context/ana")).header("x-api-key", &format!("k-{who}"));
        let request = request.header("content-type", "application/json");
        if method == "PUT" { request.body("{}").send() } else { request.send() }
    };
    assert_eq!(of("bob", "PUT").await.status, 201);
    assert_eq!(of("cid", "GET").await.status, 200);
    assert_eq!(of("ann", "GET").await.status, 404);
    assert_eq!(of("nobody", "GET").await.status, 401);
}

/// What the command says, and whether it ended well.
async fn command(gateway: &Gateway, arguments: &[&str]) -> (String, String, bool) {
    let mut command = tokio::process::Command::new(program());
    command
        .args(arguments)
        .env("CAUSEWAY_URL", gateway.url(""))
        .env("CAUSEWAY_KEY", gateway.key().unwrap_or(""));
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

#[tokio::test]
async fn the_command_line_asks_and_lists() {
    let (models, gateway) = all().await;
    let (said, complained, well) = command(&gateway, &["ask", "Hello", "there"]).await;
    assert_eq!((said.as_str(), complained.as_str(), well), ("You said: Hello there\n", "", true));
    let (said, ..) =
        command(&gateway, &["ask", "--json", "-m", "gemini/m-1", "--user", "ana", "Hello"]).await;
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&answer["provider"], &answer["remembered"]), (&json!("gemini"), &json!(true)), "{answer}");
    let without = Gateway::start(json!({"mcpServers": {}})).await;
    let (said, complained, well) = command(&without, &["ask", "-m", "nowhere/x", "Hello"]).await;
    assert!(!well && said.is_empty() && complained.contains("nowhere/x"), "{said} {complained}");
    let gemini = &models.iter().find(|(kind, _)| *kind == "gemini").unwrap().1;
    gemini.behave(Manner::CutAfter(4));
    let question = ["ask", "-m", "gemini/m-1", "one two three four five six seven"];
    let (said, complained, well) = command(&gateway, &question).await;
    assert!(!well && said.starts_with("You ") && said.ends_with('\n'), "{said}");
    // What of a cut connection is seen, and how it is called, is the host's.
    assert!(complained.contains("provider \"gemini\""), "{complained}");
    let (said, complained, well) = command(&gateway, &["models"]).await;
    assert!(well && said.contains("openai/m-1") && said.contains("default"), "{said} {complained}");
    let (said, ..) = command(&gateway, &["models", "--json"]).await;
    assert!(serde_json::from_str::<Value>(&said).unwrap()["data"].is_array(), "{said}");
}

#[tokio::test]
async fn the_document_is_served() {
    if Host::chosen() != Host::Native {
        return skip("the_document_is_served", "it is the same text on every host");
    }
    let gateway = Gateway::start(json!({"mcpServers": {}})).await;
    let text = Request::new("GET", gateway.url("/openapi.json")).send().await.text().await;
    assert_eq!(text, include_str!("../../../schema/openapi.json"));
}
