//! The gateway's own server: its models, as tools and resources of MCP.

use std::sync::{Arc, Mutex};

use causeway::config::glob::{Filter, Glob};
use causeway::config::plan::{Caller, Key, Llm, Model, Plan, Prices, Provider, Server, Target};
use causeway::config::types::ProviderKind;
use causeway::platform::SeamError;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{last, messages};
use crate::peer::{Peer, legacy, modern};
use crate::world::{Got, World, globs, key, plan, server};

fn plan_of(servers: Vec<Server>) -> Plan {
    let mut plan = plan(servers);
    plan.servers.push(Arc::new(Server::own("llm://causeway".parse().unwrap())));
    let mut provider = Provider::new("p", ProviderKind::OpenaiCompatible, "http://p/v1".parse().unwrap());
    (provider.retries, provider.named) = (0, vec!["small".to_owned(), "large".to_owned()]);
    provider.models = Some(globs(&["small", "large"]));
    let target = |model: &str| Target { provider: "p".into(), model: model.into() };
    plan.llm = Llm {
        providers: vec![Arc::new(provider)],
        models: vec![
            Model { name: "default".into(), targets: vec![target("small")], ..Model::default() },
            Model {
                name: "p/large".into(),
                context: Some(8000),
                prices: Some(Prices { input: 1.0, output: 2.0, ..Prices::default() }),
                ..Model::default()
            },
        ],
        ..Llm::default()
    };
    plan.keys = vec![
        key("me", Filter::default(), Filter::default()),
        key("elsewhere", globs(&["a"]), Filter::default()),
        limited("small", &["small"]),
        limited("none", &["x/*"]),
    ];
    plan
}

fn limited(name: &str, models: &[&str]) -> Key {
    let Key { digest, caller } = key(name, Filter::default(), Filter::default());
    Key { digest, caller: Arc::new(Caller { models: globs(models), ..(*caller).clone() }) }
}

type Asked = Arc<Mutex<Vec<Value>>>;

fn provider(fake: &Fake, script: impl Fn() -> Result<Script, SeamError> + Send + Sync + 'static) -> Asked {
    let asked = Asked::default();
    let seen = asked.clone();
    fake.upstream("p", move |request| {
        if request.method() == "POST" {
            seen.lock().unwrap().push(serde_json::from_slice(request.body()).unwrap_or_default());
        }
        script()
    });
    asked
}

/// A provider that says two words, whole.
fn whole() -> Result<Script, SeamError> {
    let said = json!({"id": "c1", "object": "chat.completion", "model": "small-1", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": "secret words"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5}});
    Ok(Script::json(said.to_string()))
}

/// The same, one by one.
fn streamed() -> Result<Script, SeamError> {
    let piece = |delta: Value, reason: Value| {
        let piece = json!({"id": "c1", "object": "chat.completion.chunk", "model": "small-1",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        Step::Send(format!("data: {piece}\n\n").into())
    };
    let mut script = Script::new(200, "text/event-stream", "");
    script.body = vec![
        piece(json!({"role": "assistant", "content": "secret"}), Value::Null),
        Step::Wait(std::time::Duration::from_secs(1)),
        piece(json!({"content": " words"}), Value::Null),
        piece(json!({}), json!("stop")),
        Step::Send("data: [DONE]\n\n".into()),
    ];
    Ok(script)
}

fn world(fake: Fake) -> World {
    Peer::legacy(json!({"tools": {}})).put(&fake, "a");
    World::new(fake, plan_of(vec![server("a")]))
}

fn with_key(mut request: Request<bytes::Bytes>, name: &str) -> Request<bytes::Bytes> {
    request.headers_mut().insert("authorization", format!("Bearer {name}-key").parse().unwrap());
    request
}

/// A request of a client of either era.
fn send(world: &World, path: &str, era: &str, who: &str, method: &str, params: Value) -> Got {
    if era == "modern" {
        return world.send(with_key(modern(path, method, params, &json!({})), who));
    }
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello});
    let got = world.post(path, &[("authorization", &format!("Bearer {who}-key"))], &hello);
    let session = got.header("mcp-session-id").to_owned();
    world.send(with_key(legacy(path, &session, method, params), who))
}

const ERAS: [&str; 2] = ["modern", "legacy"];
const PLACES: [(&str, &str); 2] = [("/mcp", "llm__"), ("/mcp/llm", "")];

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn the_models_are_a_server_among_the_others() {
    for era in ERAS {
        let fake = Fake::default();
        provider(&fake, whole);
        let world = world(fake);
        let got = send(&world, "/mcp", era, "me", "tools/list", json!({}));
        assert_eq!(
            names(&last(&got)["result"]["tools"]),
            ["a__t", "llm__ask", "llm__models"],
            "{}",
            got.body
        );
        let got = send(&world, "/mcp/llm", era, "me", "tools/list", json!({}));
        let tools = last(&got)["result"]["tools"].clone();
        assert_eq!(names(&tools), ["ask", "models"]);
        assert_eq!(tools[0]["inputSchema"]["required"], json!(["message"]));
        // Who may use other servers alone does not see it.
        let got = send(&world, "/mcp", era, "elsewhere", "tools/list", json!({}));
        assert_eq!(names(&last(&got)["result"]["tools"]), ["a__t"]);
        assert_eq!(send(&world, "/mcp/llm", era, "elsewhere", "tools/list", json!({})).status, 404);
    }
}

#[test]
fn a_model_is_asked_by_a_tool() {
    for (path, prefix) in PLACES {
        for era in ERAS {
            let fake = Fake::default();
            let asked = provider(&fake, whole);
            let world = world(fake);
            let arguments = json!({"message": "a secret question", "system": "Be brief.", "max_tokens": 7});
            let params = json!({"name": format!("{prefix}ask"), "arguments": arguments});
            let got = send(&world, path, era, "me", "tools/call", params);
            let result = &last(&got)["result"];
            assert_eq!(result["content"], json!([{"type": "text", "text": "secret words"}]), "{}", got.body);
            let data = &result["structuredContent"];
            assert_eq!((&data["text"], &data["model"]), (&json!("secret words"), &json!("small")), "{data}");
            assert_eq!((&data["provider"], &data["finish_reason"]), (&json!("p"), &json!("stop")), "{data}");
            assert!(result["isError"].is_null());
            let asked = asked.lock().unwrap();
            assert_eq!(
                (asked.len(), &asked[0]["model"], &asked[0]["max_tokens"]),
                (1, &json!("small"), &json!(7))
            );
            assert_eq!(asked[0]["messages"][1]["content"], "a secret question");
            let lines = world.fake.logged();
            assert!(!lines.iter().any(|line| line.contains("secret")), "{lines:?}");
            let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            let line = lines.iter().find(|line| line["event"] == "ask").unwrap();
            assert_eq!((&line["caller"], &line["outcome"]), (&json!("me"), &json!("ok")));
            assert_eq!((&line["llm"]["model"], &line["llm"]["output"]), (&json!("small"), &json!(5)));
        }
    }
}

#[test]
fn who_wants_to_hear_of_progress_hears_the_words_as_they_come() {
    for (path, prefix) in PLACES {
        for era in ERAS {
            let fake = Fake::default();
            provider(&fake, streamed);
            let world = world(fake);
            let params = json!({"name": format!("{prefix}ask"), "arguments": {"message": "Hi"}, "_meta": {"progressToken": 5}});
            let got = send(&world, path, era, "me", "tools/call", params);
            let all = messages(&got.body);
            let told: Vec<&Value> =
                all.iter().filter(|message| message["method"] == "notifications/progress").collect();
            assert_eq!(told.len(), 2, "{era} {path}: {}", got.body);
            assert_eq!(told[0]["params"], json!({"progressToken": 5, "progress": 6, "message": "secret"}));
            assert_eq!(told[1]["params"], json!({"progressToken": 5, "progress": 12, "message": " words"}));
            let result = &all.last().unwrap()["result"];
            assert_eq!(result["structuredContent"]["text"], "secret words", "{}", got.body);
        }
    }
}

#[test]
fn progress_that_nobody_reads_yet_waits_in_few_notifications() {
    for words in [1000, 30_000] {
        let fake = Fake::default();
        provider(&fake, move || {
            let piece = |delta: Value, reason: Value| {
                let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
                format!("data: {}\n\n", json!({"id": "c1", "choices": [choice]}))
            };
            let said = (0..words).map(|number| piece(json!({"content": format!("{number}, ")}), Value::Null));
            let said: String = said.collect();
            let mut script = Script::new(200, "text/event-stream", said);
            script.body.push(Step::Send(piece(json!({}), json!("stop")).into()));
            script.body.push(Step::Send("data: [DONE]\n\n".into()));
            Ok(script)
        });
        let world = world(fake);
        let params =
            json!({"name": "llm__ask", "arguments": {"message": "Hi"}, "_meta": {"progressToken": 5}});
        let got = send(&world, "/mcp", "modern", "me", "tools/call", params);
        let all = messages(&got.body);
        let text = all.last().unwrap()["result"]["structuredContent"]["text"].as_str().unwrap();
        let told: Vec<&Value> = all[..all.len() - 1].iter().map(|message| &message["params"]).collect();
        assert!((1..=32).contains(&told.len()), "{}", told.len());
        assert_eq!(told.last().unwrap()["progress"], text.chars().count());
        let progress: Vec<u64> = told.iter().map(|told| told["progress"].as_u64().unwrap()).collect();
        assert!(progress.is_sorted_by(|a, b| a < b), "{progress:?}");
        let heard: String = told.iter().map(|told| told["message"].as_str().unwrap()).collect();
        match words {
            1000 => assert_eq!(heard, text, "nothing is left out"),
            _ => assert!(heard.len() < 128 * 1024 && text.ends_with("29999, "), "{}", heard.len()),
        }
    }
}

#[test]
fn what_goes_wrong_is_told_so_that_a_model_can_do_better() {
    let check = |script: fn() -> Result<Script, SeamError>, who: &str, arguments: Value, what: &str| {
        for token in [Value::Null, json!(1)] {
            for era in ERAS {
                let fake = Fake::default();
                provider(&fake, script);
                let world = world(fake);
                let mut params = json!({"name": "llm__ask", "arguments": arguments});
                if !token.is_null() {
                    params["_meta"] = json!({"progressToken": token});
                }
                let got = send(&world, "/mcp", era, who, "tools/call", params);
                let result = &last(&got)["result"];
                assert_eq!(result["isError"], true, "{era} {token}: {}", got.body);
                let text = result["content"][0]["text"].as_str().unwrap();
                assert!(text.contains(what), "{era} {token} {what}: {text}");
            }
        }
    };
    check(whole, "me", json!({"message": "Hi", "model": "gpt-9"}), "the tool `models` lists");
    check(whole, "none", json!({"message": "Hi"}), "no model \"default\" here");
    check(whole, "me", json!({}), "is missing");
    check(whole, "me", json!({"message": "Hi", "temperature": 9}), "temperature");
    check(whole, "me", json!({"message": "Hi", "tempo": 9}), "tempo");
    check(|| Err(SeamError::Connect("refused".into())), "me", json!({"message": "Hi"}), "try again later");
    check(
        || {
            Ok(Script::new(429, "application/json", r#"{"error": {"message": "slow"}}"#)
                .header("retry-after", "70"))
        },
        "me",
        json!({"message": "Hi"}),
        "try again in 70 s",
    );
    check(
        || {
            let mut script = Script::new(200, "text/event-stream", "");
            script.body = vec![Step::Send("data: {\"choices\"".into()), Step::Cut];
            Ok(script)
        },
        "me",
        json!({"message": "Hi"}),
        "provider \"p\"",
    );
}

#[test]
fn models_are_listed_and_read_by_who_may_use_them() {
    for (path, prefix) in PLACES {
        for era in ERAS {
            let fake = Fake::default();
            provider(&fake, whole);
            let world = world(fake);
            let ask =
                |who: &str, method: &str, params: Value| last(&send(&world, path, era, who, method, params));
            let listed = |who: &str, arguments: Value| {
                let params = json!({"name": format!("{prefix}models"), "arguments": arguments});
                let answer = ask(who, "tools/call", params);
                let models = answer["result"]["structuredContent"]["models"].clone();
                names(&models).into_iter().map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(listed("me", json!({})), ["default", "small", "large"], "{era} {path}");
            assert_eq!(listed("me", json!({"query": "LARG"})), ["large"]);
            assert_eq!(listed("small", json!({})), ["default", "small"]);
            assert_eq!(listed("none", json!({})), [""; 0]);

            let resources = |who: &str| {
                let answer = ask(who, "resources/list", json!({}));
                let all = answer["result"]["resources"].as_array().unwrap().clone();
                all.iter().map(|one| one["uri"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(resources("me"), ["model://default", "model://small", "model://large"]);
            assert_eq!(resources("small"), ["model://default", "model://small"], "{era} {path}");
            assert_eq!(resources("me").len(), 3, "what another may see is no matter");
            let answer = ask("me", "resources/templates/list", json!({}));
            assert_eq!(
                answer["result"]["resourceTemplates"][0]["uriTemplate"], "model://{+name}",
                "{answer}"
            );

            let answer = ask("me", "resources/read", json!({"uri": "model://p/large"}));
            let text = answer["result"]["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
            let context: Value = serde_json::from_str(text).unwrap();
            assert_eq!(context["identification"]["provider"], "p");
            assert_eq!(context["inference"]["context_length"], 8000);
            assert_eq!(context["runtime"]["prices"]["output"], 2.0);
            let answer = ask("small", "resources/read", json!({"uri": "model://large"}));
            assert!(
                answer["error"]["code"].as_i64().is_some_and(|code| code == -32602 || code == -32002),
                "{answer}"
            );
        }
    }
}

#[test]
fn a_call_that_is_given_up_asks_no_model_any_more() {
    for token in [Value::Null, json!(1)] {
        let fake = Fake::default();
        provider(&fake, || {
            let mut script = Script::json("{");
            script.body.push(Step::Stall);
            Ok(script)
        });
        let world = world(fake);
        let mut params = json!({"name": "llm__ask", "arguments": {"message": "Hi"}});
        if !token.is_null() {
            params["_meta"] = json!({"progressToken": token});
        }
        let request = with_key(modern("/mcp", "tools/call", params, &json!({})), "me");
        let before = world.fake.dropped();
        world.fake.run(world.sent(request, async |seen: &str| seen.contains(":\n")));
        assert!(world.fake.dropped() > before);
        assert!(world.fake.logged().iter().any(|line| line.contains("\"ask\"") && line.contains("\"gone\"")));
    }
}

#[test]
fn the_models_server_is_told_of_in_status_and_knows_nothing_else() {
    let fake = Fake::default();
    provider(&fake, whole);
    let world = world(fake);
    let got = world.send(with_key(
        Request::get("/status").header("host", "localhost").body(bytes::Bytes::new()).unwrap(),
        "me",
    ));
    let status = got.json();
    let own =
        status["servers"].as_array().unwrap().iter().find(|server| server["name"] == "llm").unwrap().clone();
    assert_eq!((&own["tools"], &own["eras"]), (&json!(2), &json!(["modern"])), "{own}");
    let got = send(&world, "/mcp/llm", "modern", "me", "prompts/list", json!({}));
    assert_eq!((got.status, &last(&got)["error"]["code"]), (404, &json!(-32601)), "{}", got.body);
    let got =
        send(&world, "/mcp/llm", "modern", "me", "tools/call", json!({"name": "other", "arguments": {}}));
    assert_eq!(last(&got)["error"]["code"], -32602, "{}", got.body);
    let tools = Filter { allow: vec![Glob::new("llm__models")], deny: vec![] };
    let Key { digest, caller } = key("tools", Filter::default(), tools);
    let mut plan = plan_of(vec![]);
    plan.keys.push(Key { digest, caller });
    let world = World::new(world.fake.clone(), plan);
    let got = send(&world, "/mcp", "modern", "tools", "tools/list", json!({}));
    assert_eq!(names(&last(&got)["result"]["tools"]), ["llm__models"]);
}
