//! Servers of the HTTP+SSE transport behind the gateway: ours, for what a session holds, and two real ones, the `sse`
//! mode of the reference server and the Python SDK. Needs the tools (`scripts/setup`); `CAUSEWAY_NPM` and `CAUSEWAY_PYTHON` say where they are.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};
use causeway_suite::host::eventually;
use causeway_suite::program::Program;
use causeway_suite::{Client, ERAS, Era, Gateway, serving};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// A server that runs, and its name in the configuration.
struct Real {
    name: &'static str,
    program: Program,
}

/// What both servers have, by their own names.
struct Offer {
    echo: (&'static str, &'static str),
    progress: (&'static str, Value),
    resource: &'static str,
    prompt: (&'static str, Value),
}

impl Real {
    async fn everything() -> Self {
        Self { name: "everything", program: Program::everything("sse").await }
    }

    async fn python() -> Self {
        Self { name: "python", program: Program::python_sse().await }
    }

    fn offer(&self) -> Offer {
        match self.name {
            "everything" => Offer {
                echo: ("echo", "message"),
                progress: ("trigger-long-running-operation", json!({"duration": 0.3, "steps": 3})),
                resource: "demo://resource/static/document/features.md",
                prompt: ("args-prompt", json!({"city": "Paris"})),
            },
            _ => Offer {
                echo: ("echo", "text"),
                progress: ("test_tool_with_progress", json!({})),
                resource: "test://static-text",
                prompt: ("test_prompt_with_arguments", json!({"arg1": "a", "arg2": "b"})),
            },
        }
    }
}

/// A gateway in front of `servers`, whose entries say their type or leave it to be found out.
async fn in_front(servers: &[&Real], typed: bool) -> Gateway {
    let entry = |server: &&Real| {
        let mut entry = json!({"url": server.program.url("/sse")});
        if typed {
            entry["type"] = "sse".into();
        }
        (server.name.to_owned(), entry)
    };
    let servers: serde_json::Map<String, Value> = servers.iter().map(entry).collect();
    Gateway::start(json!({"mcpServers": servers})).await
}

async fn uses_everything(gateway: &Gateway, server: &Real, era: Era, merged: bool) {
    let (path, prefix) = match merged {
        true => ("/mcp".to_owned(), format!("{}__", server.name)),
        false => (format!("/mcp/{}", server.name), String::new()),
    };
    let what = format!("{path} {era:?} {}", server.name);
    let offer = server.offer();
    let named = |name: &str| format!("{prefix}{name}");
    let client = Client::connect(gateway, &path, era).await;
    assert!(client.tool_names().await.contains(&named(offer.echo.0)), "{what}");
    let said = client.tool(&named(offer.echo.0), json!({(offer.echo.1): "hällo"})).await;
    assert!(said.text().contains("hällo"), "{what}: {}", said.text());
    let params = json!({"name": named(offer.progress.0), "arguments": offer.progress.1, "_meta": {"progressToken": "p"}});
    let done = client.ask("tools/call", params).await;
    let steps: Vec<_> = done
        .told("notifications/progress")
        .iter()
        .map(|told| (told["params"]["progressToken"].clone(), told["params"]["progress"].as_f64()))
        .collect();
    assert!(steps.len() >= 3 && steps.iter().all(|(token, _)| token == "p"), "{what}: {steps:?}");
    assert!(steps.windows(2).all(|two| two[0].1 < two[1].1), "{what}: {steps:?}");
    assert_eq!(done.code(), 0, "{what}: {}", done.last());
    let read = client.ask("resources/read", json!({"uri": offer.resource})).await;
    assert!(!read.result()["contents"][0]["text"].as_str().unwrap().is_empty(), "{what}");
    let prompt =
        client.ask("prompts/get", json!({"name": named(offer.prompt.0), "arguments": offer.prompt.1})).await;
    assert!(prompt.result()["messages"][0]["content"]["text"].is_string(), "{what}");
    let missing = client.tool(&named("no_such_tool"), json!({})).await;
    assert!(missing.code() != 0 || missing.result()["isError"] == true, "{what}: {}", missing.last());
    let listed = client.all("resources/list", "resources").await;
    assert!(listed.iter().any(|resource| resource["uri"] == offer.resource), "{what}");
    if era == Era::Legacy {
        assert_eq!(client.ask("ping", json!({})).await.result(), &json!({}), "{what}");
        let set = client.ask("logging/setLevel", json!({"level": "debug"})).await;
        assert_eq!(set.result(), &json!({}), "{what}");
        let said = client.tool(&named(offer.echo.0), json!({(offer.echo.1): "again"})).await;
        assert!(said.text().contains("again"), "{what}");
        assert_eq!(client.bare("DELETE").await.status, 204, "{what}");
    }
}

#[tokio::test]
async fn every_client_uses_everything_that_an_old_server_has() {
    let servers = [Real::everything().await, Real::python().await];
    for typed in [true, false] {
        let gateway = in_front(&[&servers[0], &servers[1]], typed).await;
        for server in &servers {
            for era in ERAS {
                for merged in [true, false] {
                    uses_everything(&gateway, server, era, merged).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn calls_at_the_same_time_get_each_their_own_answer() {
    let servers = [Real::everything().await, Real::python().await];
    let gateway = in_front(&[&servers[0], &servers[1]], false).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        let calls = (0..40).map(|n| {
            let server = &servers[n % 2];
            let (tool, argument) = server.offer().echo;
            let name = format!("{}__{tool}", server.name);
            let client = &client;
            async move {
                let answer = client.tool(&name, json!({(argument): format!("<{n}>")})).await;
                assert!(answer.text().contains(&format!("<{n}>")), "{era:?}: {}", answer.text());
            }
        });
        join_all(calls).await;
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_call_at_the_server() {
    let server = Real::python().await;
    let gateway = in_front(&[&server], false).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp/python", era).await;
        let name = format!("{era:?}");
        let params = json!({"name": "slow", "arguments": {"name": name}});
        let request = client.request("tools/call", params);
        let begun = format!("begun {name}\n");
        let hang_up = async { eventually(async || server.program.said().contains(&begun)).await };
        tokio::select! {
            reply = request.send() => {
                // The head is there as soon as the server has taken the call; what follows is 30 s away.
                assert_eq!(reply.status, 200);
                assert!(hang_up.await, "the call has begun");
                drop(reply);
            }
            () = tokio::time::sleep(Duration::from_secs(15)) => panic!("no answer has begun"),
        }
        let asked = Instant::now();
        let cancelled = format!("cancelled {name}\n");
        assert!(
            eventually(async || server.program.said().contains(&cancelled)).await,
            "{}",
            server.program.said()
        );
        assert!(asked.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_fails_soon_and_works_again() {
    let mut server = Real::everything().await;
    for typed in [true, false] {
        let gateway = in_front(&[&server], typed).await;
        for era in ERAS {
            let client = Client::connect(&gateway, "/mcp/everything", era).await;
            let echo = async || client.tool("echo", json!({"message": "x"})).await;
            assert!(echo().await.text().contains('x'));
            let running = client
                .send(
                    "tools/call",
                    json!({"name": "trigger-long-running-operation", "arguments": {"duration": 60}}),
                )
                .await;
            server.program.kill().await;
            let broken = running.answer().await;
            assert!(broken.complaint().contains("server \"everything\""), "{}", broken.last());
            let asked = Instant::now();
            let gone = echo().await;
            assert!(gone.complaint().contains("server \"everything\""), "{}", gone.last());
            assert!(asked.elapsed() < Duration::from_secs(20));
            server.program = Program::everything_at(server.program.port(), "sse").await;
            assert!(echo().await.text().contains('x'), "{era:?}");
        }
    }
}

/// The session that a call went over, and how many did before it.
async fn counted(client: &Client, name: &str) -> (String, u64) {
    let answer = client.tool(name, json!({})).await;
    let text = answer.text().to_owned();
    let (session, count) = text.split_once(' ').unwrap_or_else(|| panic!("{}", answer.last()));
    (session.to_owned(), count.parse().unwrap())
}

#[tokio::test]
async fn what_a_call_leaves_in_its_session_is_there_for_the_next_one() {
    let fixture = Fixture::start(Options::sse("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    for (path, name) in [("/mcp/one", "count"), ("/mcp", "one__count")] {
        let client = Client::connect(&gateway, path, Era::Legacy).await;
        let (session, first) = counted(&client, name).await;
        assert_eq!(first, 1, "{path}");
        assert_eq!(counted(&client, name).await, (session.clone(), 2), "{path}");
        let other = Client::connect(&gateway, path, Era::Legacy).await;
        let (others, first) = counted(&other, name).await;
        assert!(others != session && first == 1, "{path}: another client has another session");
        assert_eq!(counted(&client, name).await, (session, 3), "{path}");
        let at_once = join_all((0..8).map(|_| counted(&client, name))).await;
        let mut counts: Vec<u64> = at_once.iter().map(|(_, count)| *count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [4, 5, 6, 7, 8, 9, 10, 11], "{path}: calls at the same time");
    }
}

#[tokio::test]
async fn a_session_whose_server_was_killed_is_opened_anew() {
    let mut fixture = Fixture::start(Options::sse("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp/one", Era::Legacy).await;
    let (session, _) = counted(&client, "count").await;
    assert_eq!(counted(&client, "count").await, (session, 2));
    for kills in 1..=2 {
        let address = fixture.address();
        fixture.stop();
        drop(fixture);
        fixture = Fixture::start_at(address, Options::sse("one")).await;
        // A call that is made before the gateway has noticed may be told so.
        let told = client.tool("count", json!({})).await;
        assert!(told.code() == 0 || told.complaint().starts_with("server \"one\": "), "{}", told.last());
        let (session, count) = counted(&client, "count").await;
        assert_eq!(count, 1 + u64::from(told.code() == 0), "{kills}: a new session knows nothing");
        assert_eq!(counted(&client, "count").await, (session, count + 1), "{kills}");
    }
}

#[tokio::test]
async fn the_end_of_a_client_session_closes_the_stream_of_its_server() {
    let fixture = Fixture::start(Options::sse("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let before = fixture.sessions();
    for path in ["/mcp/one", "/mcp"] {
        let client = Client::connect(&gateway, path, Era::Legacy).await;
        let name = if path == "/mcp" { "one__count" } else { "count" };
        counted(&client, name).await;
        assert!(fixture.until(|fixture| fixture.sessions() == before + 1).await, "{path}: one is kept");
        assert_eq!(client.bare("DELETE").await.status, 204);
        assert!(fixture.until(|fixture| fixture.sessions() == before).await, "{path}: it has ended");
    }
}
