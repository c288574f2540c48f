//! Servers that ask for a model's words and are answered by the gateway's own models, over real HTTP.

use std::time::Duration;

use causeway_fixture::model::{Fault, Manner, Model};
use causeway_fixture::{Fixture, Options};
use causeway_suite::host::{eventually, fixture_program};
use causeway_suite::party::{Able, Outcome, Party, REVISIONS, Target};
use causeway_suite::{Companion, Gateway, Host, Request, hash, with};
use serde_json::{Value, json};

const MODEL: &str = "sampling/createMessage";

/// A gateway in front of these servers, each of which `model` answers.
async fn answering(model: &Model, servers: &[(&str, &Fixture)], sampling: Value) -> Gateway {
    let mut entry = model.entry();
    entry["retries"] = 0.into();
    let mut config =
        json!({"mcpServers": {}, "llm": {"providers": {"p": entry}, "models": {"default": "p/m-1"}}});
    for (name, fixture) in servers {
        config["mcpServers"][name] = json!({"url": fixture.url(), "sampling": sampling});
        if *name == "sse" {
            config["mcpServers"][name]["type"] = "sse".into();
        }
    }
    Gateway::start(config).await
}

async fn party(gateway: &Gateway, path: &str, revision: &str, able: Able) -> Party {
    Party::connect(&Target::new(gateway.url(path)), revision, able).await.unwrap()
}

/// Where a client of `revision` meets the server called `name`, and what its tools are called there.
fn places(revision: &str, name: &str) -> [(String, String); 2] {
    let [merged, own] = if revision == "2024-11-05" { ["/sse", "/sse"] } else { ["/mcp", "/mcp"] };
    [(merged.to_owned(), format!("{name}__")), (format!("{own}/{name}"), String::new())]
}

async fn ask(party: &Party, tool: &str, arguments: Value) -> Outcome {
    party.tool(tool, arguments).await.unwrap()
}

#[tokio::test]
async fn servers_of_every_era_are_answered_for_clients_of_every_era() {
    let model = Model::start("anthropic").await;
    let legacy = Fixture::start(Options::legacy("legacy").matrix()).await;
    let modern = Fixture::start(Options::modern("modern").matrix()).await;
    let sse = Fixture::start(Options::sse("sse").matrix()).await;
    let servers = [("legacy", &legacy), ("modern", &modern), ("sse", &sse)];
    let gateway = answering(&model, &servers, json!("gateway")).await;
    for revision in REVISIONS {
        for (name, _) in servers {
            for (path, prefix) in places(revision, name) {
                let at = format!("{revision} at {path} to {name}");
                let before = model.seen().len();
                // Whatever the client can do.
                let party = party(&gateway, &path, revision, Able::new(json!({}))).await;
                let outcome =
                    ask(&party, &format!("{prefix}ask_model"), json!({"prompt": "Hello there"})).await;
                let said = outcome.said().unwrap_or_else(|why| panic!("{at}: {why}"));
                assert_eq!(
                    said["content"],
                    json!({"type": "text", "text": "You said: Hello there (as told: Be brief.)"}),
                    "{at}"
                );
                assert_eq!(
                    (&said["stopReason"], &said["role"]),
                    (&json!("endTurn"), &json!("assistant")),
                    "{at}"
                );
                assert!(outcome.asked().is_empty(), "{at}: {outcome:?}");
                let seen = model.seen();
                assert_eq!(seen.len(), before + 1, "{at}: asked once");
                let body = &seen[before].body;
                assert_eq!(body["max_tokens"], 100, "{at}");
                assert!(body["system"].to_string().contains("Be brief."), "{at}: {body}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_server_asks_besides_is_asked_of_the_client() {
    let model = Model::start("openai-compatible").await;
    let legacy = Fixture::start(Options::legacy("legacy").matrix()).await;
    let modern = Fixture::start(Options::modern("modern").matrix()).await;
    let servers = [("legacy", &legacy), ("modern", &modern)];
    let gateway = answering(&model, &servers, json!({"models": "p/m-1"})).await;
    for revision in ["2025-11-25", "2026-07-28"] {
        for (name, _) in servers {
            for (path, prefix) in places(revision, name) {
                let at = format!("{revision} at {path} to {name}");
                let before = model.seen().len();
                let party = party(&gateway, &path, revision, Able::all(revision)).await;
                let outcome = ask(&party, &format!("{prefix}ask_all"), json!({})).await;
                let said = outcome.said().unwrap_or_else(|why| panic!("{at}: {why}"));
                assert_eq!(said["name"]["content"]["name"], "Ada", "{at}");
                assert_eq!(said["roots"]["roots"][0]["name"], "home", "{at}");
                let words = said["model"]["content"]["text"].as_str().unwrap_or_default();
                assert!(words.starts_with("You said: "), "{at}: {said}");
                let asked: Vec<&str> = outcome.asked().iter().map(|asked| asked.method.as_str()).collect();
                assert!(asked.len() == 2 && !asked.contains(&MODEL), "{at}: {asked:?}");
                assert_eq!(model.seen().len(), before + 1, "{at}: a retry asks no model again");
            }
        }
    }
}

#[tokio::test]
async fn a_server_hears_why_no_model_answers() {
    let model = Model::start("openai-compatible").await;
    let legacy = Fixture::start(Options::legacy("legacy").matrix()).await;
    let modern = Fixture::start(Options::modern("modern").matrix()).await;
    let servers = [("legacy", &legacy), ("modern", &modern)];
    let gateway = answering(&model, &servers, json!({"time": "1s"})).await;
    let slow = Manner::Slow(Duration::from_secs(60));
    for (manner, why) in [
        (Manner::Fails(Fault::Authentication), "credential"),
        (Manner::Fails(Fault::BadRequest), "provider"),
        (slow, "sampling.time"),
    ] {
        model.behave(manner);
        for revision in ["2025-11-25", "2026-07-28"] {
            for (name, _) in servers {
                let party = party(&gateway, &format!("/mcp/{name}"), revision, Able::new(json!({}))).await;
                let outcome = ask(&party, "ask_model", json!({"prompt": "Hello"})).await;
                let told = outcome.answer.to_string();
                assert!(told.contains("sampling") && told.contains(why), "{revision} to {name}: {told}");
                let failed =
                    outcome.answer["error"].is_object() || outcome.answer["result"]["isError"] == true;
                assert!(failed || name == "legacy", "{revision} to {name}: {told}");
            }
        }
    }
    model.behave(Manner::Well);
    let party = party(&gateway, "/mcp/modern", "2026-07-28", Able::new(json!({}))).await;
    let outcome = ask(&party, "ask_model", json!({"prompt": "Hello"})).await;
    assert_eq!(outcome.said().unwrap()["content"]["text"], "You said: Hello (as told: Be brief.)");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_asks_no_model_any_more() {
    let model = Model::start("openai-compatible").await;
    let legacy = Fixture::start(Options::legacy("legacy").matrix()).await;
    let modern = Fixture::start(Options::modern("modern").matrix()).await;
    let gateway = answering(&model, &[("legacy", &legacy), ("modern", &modern)], json!("gateway")).await;
    model.behave(Manner::Slow(Duration::from_secs(60)));
    for name in ["legacy", "modern"] {
        let before = model.seen().len();
        let params =
            json!({"name": "ask_model", "arguments": {"prompt": "Hello"}, "_meta": {"progressToken": 1}});
        let request = Request::modern(gateway.url(&format!("/mcp/{name}")), 7, "tools/call", params);
        let call = tokio::spawn(async move { request.send().await.text().await });
        assert!(eventually(async || model.seen().len() > before).await, "{name}: nobody asked");
        call.abort();
        let gone = || {
            let log = gateway.log();
            let lines = log.lines().filter_map(|line| Some(line.get(line.find('{')?..)?.to_owned()));
            lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok()).any(|line| {
                line["event"] == "sampling" && line["server"] == name && line["outcome"] == "gone"
            })
        };
        assert!(eventually(async || gone()).await, "{name}: {}", gateway.log());
    }
}

#[tokio::test]
async fn the_log_says_who_pays() {
    let model = Model::start("openai-compatible").await;
    let legacy = Fixture::start(Options::legacy("legacy").matrix()).await;
    let entry = model.entry();
    let gateway = Gateway::start(json!({
        "mcpServers": {"legacy": {"url": legacy.url(), "sampling": {"models": ["p/m-1", "p/m-2"]}}},
        "llm": {"providers": {"p": entry}, "models": {"p/m-2": {"prices": {"input": 1, "output": 2}}}},
        "keys": {"ada": {"hash": hash("cw_ada"), "models": ["p/m-2"]}, "eve": {"hash": hash("cw_eve"), "models": ["x/*"]}},
    }))
    .await;
    let connect = async |key: &str| {
        let target = Target::new(gateway.url("/mcp/legacy")).with_key(key);
        Party::connect(&target, "2025-11-25", Able::new(json!({}))).await.unwrap()
    };
    let ada = connect("cw_ada").await;
    let outcome = ask(&ada, "ask_model", json!({"prompt": "a secret"})).await;
    assert_eq!(outcome.said().unwrap()["content"]["text"], "You said: a secret (as told: Be brief.)");
    assert_eq!(model.seen()[0].body["model"], "m-2", "what the key may use");
    let eve = connect("cw_eve").await;
    let outcome = ask(&eve, "ask_model", json!({"prompt": "a secret"})).await;
    assert!(outcome.answer.to_string().contains("no model"), "{}", outcome.answer);
    assert_eq!(model.seen().len(), 1);
    let found = eventually(async || gateway.log().matches("\"sampling\"").count() >= 2).await;
    let log = gateway.log();
    assert!(found && !log.contains("a secret"), "{log}");
    let line = log.lines().find(|line| line.contains("\"sampling\"") && line.contains("ada")).unwrap();
    let line: Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
    assert_eq!(
        (&line["caller"], &line["server"], &line["outcome"]),
        (&json!("ada"), &json!("legacy"), &json!("ok"))
    );
    assert_eq!((&line["llm"]["model"], &line["llm"]["input"]), (&json!("m-2"), &json!(21)), "{line}");
    assert!(line["llm"]["cost"].as_f64().is_some_and(|cost| cost > 0.0), "{line}");
}

/// A program behind a link, and where this host runs programs one beside it.
#[tokio::test]
async fn programs_are_answered_wherever_they_run() {
    let model = Model::start("openai-compatible").await;
    let program =
        json!({"command": fixture_program(), "args": ["--stdio", "--mode", "matrix", "--era", "legacy"]});
    let config = json!({
        "mcpServers": {"far": {"via": "laptop", "sampling": "gateway"}},
        "llm": {"providers": {"p": model.entry()}, "models": {"default": "p/m-1"}},
        "keys": {"laptop": {"hash": hash("cw_laptop"), "links": ["laptop"]}, "me": {"hash": hash("cw_me")}},
    });
    let mut names = vec!["far"];
    let config = match Host::chosen() {
        Host::Native => {
            names.push("near");
            let near = with(program.clone(), json!({"sampling": "gateway"}));
            with(config, json!({"mcpServers": {"near": near}}))
        }
        Host::Cloudflare | Host::Spin => config,
    };
    let gateway = Gateway::start(config).await;
    let offer = json!({"mcpServers": {"far": program}});
    let _companion = Companion::start(&gateway.url(""), "laptop", Some("cw_laptop"), &offer, &[]).await;
    for name in names {
        for revision in ["2025-11-25", "2026-07-28"] {
            let target = Target::new(gateway.url(&format!("/mcp/{name}"))).with_key("cw_me");
            let party = Party::connect(&target, revision, Able::new(json!({}))).await.unwrap();
            let outcome = ask(&party, "ask_model", json!({"prompt": "Hello"})).await;
            let said = outcome.said().unwrap_or_else(|why| panic!("{revision} to {name}: {why}"));
            assert_eq!(
                said["content"]["text"], "You said: Hello (as told: Be brief.)",
                "{revision} to {name}"
            );
        }
    }
}
