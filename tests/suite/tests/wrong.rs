//! Questions to models that are wrong, or mean harm: each is told so in the caller's own dialect, and reaches no provider.

use causeway_fixture::model::{KEY, Model};
use causeway_suite::host::eventually;
use causeway_suite::models::{DIALECTS, Dialect, KINDS};
use causeway_suite::{Gateway, Request};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A provider of each kind, each called as its kind, with such models, behind one gateway that takes no more than 64 KiB.
async fn all(names: &[&str]) -> (Vec<(&'static str, Model)>, Gateway) {
    let mut models = Vec::new();
    let mut providers = json!({});
    for kind in KINDS {
        let model = Model::start(kind).await;
        providers[kind] = model.entry();
        providers[kind]["retries"] = 0.into();
        providers[kind]["models"] = names.into();
        models.push((kind, model));
    }
    let limits = json!({"body": "64KiB"});
    let gateway =
        Gateway::start(json!({"mcpServers": {}, "limits": limits, "llm": {"providers": providers}})).await;
    (models, gateway)
}

/// What is answered to `body`: the status, the dialect's word for the error, its message, and the member at fault.
async fn told(gateway: &Gateway, dialect: Option<Dialect>, body: &str) -> (u16, String, String, String) {
    let path = dialect.map_or("/ask", Dialect::path);
    let request = Request::post(gateway.url(path), &Value::Null).body(body.to_owned());
    let reply = request.header("anthropic-version", "2023-06-01").send().await;
    let status = reply.status;
    let json = if dialect.is_none() { "application/problem+json" } else { "application/json" };
    assert_eq!(reply.header("content-type"), json, "{body:.200}");
    let text = reply.text().await;
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{body:.200}: {text}"));
    let error = &answer["error"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match dialect {
        Some(Dialect::OpenAi) => {
            assert!(error["type"].is_string(), "{answer}");
            (status, word(&error["code"]), word(&error["message"]), word(&error["param"]))
        }
        Some(Dialect::Anthropic) => {
            assert_eq!(answer["type"], "error", "{answer}");
            (status, word(&error["type"]), word(&error["message"]), String::new())
        }
        None => {
            let place = word(&answer["errors"][0]["pointer"]);
            (status, word(&answer["code"]), word(&answer["detail"]), place)
        }
    }
}

#[tokio::test]
async fn a_wrong_question_is_told_what_is_wrong_in_its_own_dialect() {
    let (models, gateway) = all(&["m-1"]).await;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    // What is wrong, and where, whoever is to answer.
    let cases = [
        ("no JSON", "{".to_owned(), "malformed", ""),
        ("no object", "[1]".to_owned(), "malformed", ""),
        ("nothing", String::new(), "malformed", ""),
        ("half a text", "{\"model\": \"\\ud800\"}".to_owned(), "malformed", ""),
        (
            "deeper than anybody reads",
            format!("{{\"model\":\"gemini/m-1\",\"messages\":{}}}", deep(5000)),
            "malformed",
            "",
        ),
        (
            "no model",
            json!({"messages": [{"role": "user", "content": "x"}]}).to_string(),
            "unprocessable",
            "model",
        ),
        ("a number for a model", json!({"model": 7, "messages": []}).to_string(), "unprocessable", "model"),
        (
            "a word for a flag",
            json!({"model": "gemini/m-1", "messages": [], "stream": "yes"}).to_string(),
            "unprocessable",
            "stream",
        ),
        (
            "nobody's model",
            json!({"model": "no/such", "messages": [{"role": "user", "content": "x"}]}).to_string(),
            "unknown",
            "model",
        ),
        (
            "a model of a page",
            json!({"model": "x".repeat(20_000), "messages": []}).to_string(),
            "unknown",
            "model",
        ),
        (
            "too large",
            json!({"model": "gemini/m-1", "messages": [{"role": "user", "content": "x".repeat(70_000)}]})
                .to_string(),
            "large",
            "",
        ),
    ];
    for (what, body, kind, place) in &cases {
        let (status, word, message, param) = told(&gateway, Some(Dialect::OpenAi), body).await;
        let expected = match *kind {
            "malformed" => (400, "malformed"),
            "unknown" => (404, "model_not_found"),
            "large" => (413, "body_too_large"),
            _ => (400, "unprocessable"),
        };
        assert_eq!((status, word.as_str()), expected, "{what}: {message}");
        assert_eq!(param, *place, "{what}: {message}");
        assert!(!message.is_empty() && message.len() < 400, "{what}: {message}");

        let (status, word, message, _) = told(&gateway, Some(Dialect::Anthropic), body).await;
        let expected = match *kind {
            "unknown" => (404, "not_found_error"),
            "large" => (413, "request_too_large"),
            _ => (400, "invalid_request_error"),
        };
        assert_eq!((status, word.as_str()), expected, "{what}: {message}");
        assert!(message.contains(place) && message.len() < 400, "{what}: {message}");

        let (status, word, message, _) = told(&gateway, None, body).await;
        let fits = match *kind {
            // Here a body is checked as a whole, by its schema.
            "large" => (status, word.as_str()) == (413, "body_too_large"),
            "malformed" => matches!(status, 400 | 422),
            _ => matches!(status, 404 | 422),
        };
        assert!(fits && !message.is_empty() && message.len() < 400, "{what}: {status} {word} {message}");
    }
    // Wrong in the middle of a conversation, for whoever is asked through a conversion.
    let cases = [
        (json!("x"), "messages"),
        (json!([]), "messages"),
        (json!([{"role": "king", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user", "content": 7}]), "messages[0].content"),
        (json!([{"role": "user", "content": [{"type": "smell"}]}]), "messages[0].content[0]"),
    ];
    for (messages, place) in &cases {
        for kind in ["gemini", "bedrock", "ollama"] {
            for dialect in DIALECTS {
                let mut body = dialect.question(&format!("{kind}/m-1"), "", false);
                body["messages"] = messages.clone();
                let (status, word, message, param) = told(&gateway, Some(dialect), &body.to_string()).await;
                let expected =
                    if dialect == Dialect::OpenAi { "unprocessable" } else { "invalid_request_error" };
                assert_eq!((status, word.as_str()), (400, expected), "{kind}, {messages}: {message}");
                assert!(message.contains(place), "{kind}, {messages}: {message} names {place}");
                assert!(param.is_empty() || param.starts_with(place), "{kind}, {messages}: {param}");
            }
        }
    }
    for (kind, model) in &models {
        assert_eq!(model.seen().len(), 0, "{kind} is asked nothing of all this");
    }
}

#[tokio::test]
async fn a_schema_is_passed_on_and_what_it_points_at_is_not_fetched() {
    let (models, gateway) = all(&["*"]).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let there = format!("http://{}/schema.json", listener.local_addr().unwrap());
    let nested = (0..50)
        .fold(json!({"type": "string"}), |inner, _| json!({"type": "object", "properties": {"x": inner}}));
    for schema in [
        json!({"type": "object", "properties": {"city": {"$ref": there}}}),
        json!({"$schema": there, "$id": there, "type": "object", "properties": {"city": {"type": "string"}}}),
        json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/self"}}, "$defs": {"self": {"$ref": "#/$defs/self"}}}),
        nested,
    ] {
        for (kind, model) in &models {
            for dialect in DIALECTS {
                let at = format!("{dialect:?} to {kind}: {schema}");
                let mut body = dialect.question(&format!("{kind}/m-1"), "The weather in Paris?", false);
                body["tools"] = match dialect {
                    Dialect::OpenAi => {
                        json!([{"type": "function", "function": {"name": "weather", "parameters": schema}}])
                    }
                    Dialect::Anthropic => json!([{"name": "weather", "input_schema": schema}]),
                };
                let (status, heard) = dialect.ask(&gateway, &body).await;
                assert_eq!((status, heard.calls.len()), (200, 1), "{at}: {heard:?}");
                let seen = model.seen().last().unwrap().body.to_string();
                assert!(seen.contains("weather"), "{at}");
            }
        }
    }
    let came = tokio::time::timeout(std::time::Duration::from_millis(200), listener.accept()).await;
    assert!(came.is_err(), "somebody has fetched a schema");
}

#[tokio::test]
async fn no_name_becomes_a_header_or_another_path() {
    let (models, gateway) = all(&["*"]).await;
    for (kind, model) in &models {
        for name in ["m\r\nx-evil: 1", "../../admin", "m?key=1#x", "m%0d%0ax-evil:1", "m/../../x", "mü\u{0}"]
        {
            for dialect in DIALECTS {
                let before = model.seen().len();
                let mut body = dialect.question(&format!("{kind}/{name}"), "Hello\r\nx-evil: 1", false);
                body["user"] = "u\r\nx-evil: 1".into();
                let text = Request::post(gateway.url(dialect.path()), &body).send().await.text().await;
                assert!(serde_json::from_str::<Value>(&text).is_ok(), "{kind}, {name:?}: {text}");
                for asked in &model.seen()[before..] {
                    assert!(!asked.headers.contains_key("x-evil"), "{kind}, {name:?}: {:?}", asked.headers);
                    let mut segments = asked.path.split('?').next().unwrap().split('/');
                    let escaped = segments.all(|one| one != ".." && one != "admin" && one != "x");
                    assert!(escaped, "{kind}, {name:?}: {}", asked.path);
                    assert!(!asked.path.contains("key=1"), "{kind}, {name:?}: {}", asked.path);
                }
            }
        }
    }
    // A key that was pasted with more than itself is not sent: the provider is left out, and nobody sees the key.
    let model = Model::start("openai").await;
    let mut entry = model.entry();
    entry["api_key"] = "${PASTED}".into();
    let pasted = format!("{KEY}\r\nx-evil: 1");
    let gateway = Gateway::start_with(
        json!({"mcpServers": {}, "llm": {"providers": {"openai": entry}}}),
        &[("PASTED", pasted.as_str())],
    )
    .await;
    let question = Dialect::OpenAi.question("m-1", "Hello", false);
    let reply = Request::post(gateway.url("/v1/chat/completions"), &question).send().await;
    let (status, text) = (reply.status, reply.text().await);
    assert!(status >= 400 && !text.contains(KEY), "{status} {text}");
    assert!(eventually(async || model.seen().is_empty()).await);
    assert!(!gateway.log().contains(KEY), "{}", gateway.log());
}
