//! The models as a server of MCP, over real HTTP.

use std::time::Duration;

use causeway_fixture::model::{Fault, Manner, Model};
use causeway_fixture::{Fixture, Options};
use causeway_suite::host::eventually;
use causeway_suite::party::{Able, Outcome, Party, REVISIONS, Target};
use causeway_suite::{Gateway, Request, hash, names};
use serde_json::{Value, json};

/// A gateway in front of one server and one provider.
async fn gateway(model: &Model, fixture: &Fixture, llm: Value) -> Gateway {
    let mut entry = model.entry();
    entry["retries"] = 0.into();
    entry["models"] = json!(["m-1", "m-2"]);
    let llm = causeway_suite::with(json!({"providers": {"p": entry}, "models": {"default": "p/m-1"}}), llm);
    Gateway::start(json!({
        "mcpServers": {"files": {"url": fixture.url()}},
        "llm": llm,
        "keys": {"ada": {"hash": hash("cw_ada")}, "eve": {"hash": hash("cw_eve"), "models": ["m-2"]}},
    }))
    .await
}

async fn party(gateway: &Gateway, path: &str, revision: &str, key: &str) -> Party {
    let target = Target::new(gateway.url(path)).with_key(key);
    Party::connect(&target, revision, Able::new(json!({}))).await.unwrap()
}

async fn call(party: &Party, method: &str, params: Value) -> Outcome {
    party.call(method, params).await.unwrap()
}

#[tokio::test]
async fn clients_of_every_era_ask_models_by_a_tool() {
    let model = Model::start("anthropic").await;
    let files = Fixture::start(Options::modern("files")).await;
    let gateway = gateway(&model, &files, json!({})).await;
    for revision in REVISIONS {
        for merged in [true, false] {
            let (path, prefix) = match (revision, merged) {
                ("2024-11-05", true) => ("/sse", "llm__"),
                ("2024-11-05", false) => ("/sse/llm", ""),
                (_, true) => ("/mcp", "llm__"),
                (_, false) => ("/mcp/llm", ""),
            };
            let at = format!("{revision} at {path}");
            let ada = party(&gateway, path, revision, "cw_ada").await;
            let list = call(&ada, "tools/list", json!({})).await;
            let listed = names(&list.answer["result"]["tools"]);
            let own = [format!("{prefix}ask"), format!("{prefix}models")];
            assert!(own.iter().all(|name| listed.contains(name)), "{at}: {listed:?}");
            assert_eq!(merged, listed.len() > 2, "{at}: {listed:?}");
            for progress in [false, true] {
                let before = model.seen().len();
                let mut params = json!({"name": own[0], "arguments": {"message": "Hello there"}});
                if progress {
                    params["_meta"] = json!({"progressToken": "t"});
                }
                let outcome = call(&ada, "tools/call", params).await;
                let result = outcome.result().unwrap_or_else(|why| panic!("{at}: {why}"));
                assert_eq!(result["content"][0]["text"], "You said: Hello there", "{at}: {result}");
                if revision >= "2025-06-18" {
                    assert_eq!(result["structuredContent"]["text"], "You said: Hello there", "{at}");
                    assert_eq!(result["structuredContent"]["model"], "m-1", "{at}");
                }
                assert_eq!(model.seen().len(), before + 1, "{at}: asked once");
                let told = outcome.told("notifications/progress");
                let words: Vec<&str> = told.iter().filter_map(|params| params["message"].as_str()).collect();
                assert_eq!(words.concat(), if progress { "You said: Hello there" } else { "" }, "{at}");
                assert_eq!(progress, words.len() > 1, "{at}: {words:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_known_of_models_is_read_by_who_may_use_them() {
    let model = Model::start("openai-compatible").await;
    let files = Fixture::start(Options::modern("files")).await;
    let prices = json!({"models": {"p/m-2": {"context": 8000, "prices": {"input": 1, "output": 2}}}});
    let gateway = gateway(&model, &files, prices).await;
    for revision in ["2025-11-25", "2026-07-28"] {
        for (key, expect) in [("cw_ada", &["default", "m-1", "m-2"][..]), ("cw_eve", &["m-2"])] {
            let party = party(&gateway, "/mcp", revision, key).await;
            let outcome = call(&party, "tools/call", json!({"name": "llm__models", "arguments": {}})).await;
            let models = names(&outcome.result().unwrap()["structuredContent"]["models"]);
            assert_eq!(models, expect, "{revision} {key}");
            let outcome = call(&party, "resources/list", json!({})).await;
            let all = outcome.result().unwrap()["resources"].as_array().unwrap().clone();
            let uris = all.iter().filter_map(|one| one["uri"].as_str());
            let uris: Vec<&str> = uris.filter_map(|uri| uri.strip_prefix("model://")).collect();
            assert_eq!(uris, expect, "{revision} {key}");
            let outcome = call(&party, "resources/templates/list", json!({})).await;
            assert!(outcome.answer.to_string().contains("model://{+name}"), "{}", outcome.answer);
            let outcome = call(&party, "resources/read", json!({"uri": "model://m-2"})).await;
            let text = outcome.result().unwrap()["contents"][0]["text"].as_str().unwrap().to_owned();
            let known: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(known["inference"]["context_length"], 8000, "{known}");
        }
        let eve = party(&gateway, "/mcp", revision, "cw_eve").await;
        let outcome = call(&eve, "resources/read", json!({"uri": "model://m-1"})).await;
        assert!([-32602, -32002].contains(&outcome.code()), "{}", outcome.answer);
        let arguments = json!({"message": "Hi", "model": "m-1"});
        let outcome = call(&eve, "tools/call", json!({"name": "llm__ask", "arguments": arguments})).await;
        assert_eq!(outcome.answer["result"]["isError"], true, "{}", outcome.answer);
    }
}

#[tokio::test]
async fn a_model_that_does_not_answer_is_a_tool_that_fails() {
    let model = Model::start("openai-compatible").await;
    let files = Fixture::start(Options::modern("files")).await;
    let gateway = gateway(&model, &files, json!({})).await;
    let ada = party(&gateway, "/mcp", "2026-07-28", "cw_ada").await;
    for (manner, why) in [
        (Manner::Fails(Fault::Authentication), "credential"),
        (Manner::Fails(Fault::RateLimit), "try again in"),
        (Manner::CutAfter(2), "ended"),
    ] {
        for progress in [false, true] {
            if manner == Manner::CutAfter(2) && !progress {
                continue;
            }
            model.behave(manner);
            let mut params = json!({"name": "llm__ask", "arguments": {"message": "Hello there, you"}});
            if progress {
                params["_meta"] = json!({"progressToken": "t"});
            }
            let outcome = call(&ada, "tools/call", params).await;
            let result = &outcome.answer["result"];
            assert_eq!(result["isError"], true, "{why}: {}", outcome.answer);
            let text = result["content"][0]["text"].as_str().unwrap();
            assert!(text.contains(why), "{why}: {text}");
        }
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_given_up_at_the_provider() {
    let model = Model::start("openai-compatible").await;
    let files = Fixture::start(Options::modern("files")).await;
    let gateway = gateway(&model, &files, json!({})).await;
    model.behave(Manner::Slow(Duration::from_secs(30)));
    let params =
        json!({"name": "llm__ask", "arguments": {"message": "Hello"}, "_meta": {"progressToken": 1}});
    let request = Request::modern(gateway.url("/mcp"), 7, "tools/call", params);
    let request = request.header("authorization", "Bearer cw_ada");
    let call = tokio::spawn(async move { request.send().await.text().await });
    assert!(eventually(async || !model.seen().is_empty()).await, "nobody asked");
    call.abort();
    let gone = |log: &str| log.lines().any(|line| line.contains("\"ask\"") && line.contains("\"gone\""));
    assert!(eventually(async || gone(&gateway.log())).await, "{}", gateway.log());
}

#[tokio::test]
async fn models_are_not_offered_where_that_is_switched_off() {
    let model = Model::start("openai-compatible").await;
    let files = Fixture::start(Options::modern("files")).await;
    let gateway = gateway(&model, &files, json!({"mcp": false})).await;
    let ada = party(&gateway, "/mcp", "2026-07-28", "cw_ada").await;
    let list = call(&ada, "tools/list", json!({})).await;
    let listed = names(&list.answer["result"]["tools"]);
    assert!(!listed.iter().any(|name| name.starts_with("llm__")), "{listed:?}");
    let request = Request::modern(gateway.url("/mcp/llm"), 7, "tools/list", json!({}));
    assert_eq!(request.header("authorization", "Bearer cw_ada").send().await.status, 404);
}
