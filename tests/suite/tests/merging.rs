//! Many servers as one: names, order, filters, caches, and what happens when one of them is ill.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Mode, Options, Trouble, plain_tool};
use causeway_suite::host::{eventually, left_out_where_fresh};
use causeway_suite::{Client, ERAS, Era, Gateway, Host, Request, hash, names, serving, with};
use serde_json::{Value, json};

/// A server with the tools `names`.
async fn offering(options: Options, tools: &[&str]) -> Fixture {
    let fixture = Fixture::start(options).await;
    fixture.offer(tools.iter().map(|name| plain_tool(name, "A tool")).collect());
    fixture
}

async fn three() -> [Fixture; 3] {
    [
        offering(Options::modern("alpha"), &["one", "two"]).await,
        offering(Options::legacy("beta"), &["one", "two"]).await,
        offering(Options::modern("gamma"), &["one", "two"]).await,
    ]
}

async fn status(gateway: &Gateway) -> Value {
    let reply = Request::new("GET", gateway.url("/status")).send().await;
    serde_json::from_str(&reply.text().await).unwrap()
}

const ALL: [&str; 6] = ["alpha__one", "alpha__two", "beta__one", "beta__two", "gamma__one", "gamma__two"];

#[tokio::test]
async fn tools_of_all_servers_come_in_one_order() {
    let [a, b, c] = three().await;
    let gateway = Gateway::start(serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)])).await;
    for era in ERAS {
        for _ in 0..3 {
            let client = Client::connect(&gateway, "/mcp", era).await;
            assert_eq!(client.tool_names().await, ALL, "{era:?}");
        }
    }
}

#[tokio::test]
async fn each_call_goes_to_the_server_that_has_the_tool() {
    let servers = three().await;
    let [a, b, c] = &servers;
    let gateway = Gateway::start(serving(&[("alpha", a), ("beta", b), ("gamma", c)])).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        client.tool_names().await;
        for (server, name) in [(a, "alpha__one"), (b, "beta__one"), (c, "gamma__one")] {
            for server in &servers {
                server.forget();
            }
            assert_eq!(client.tool(name, json!({"text": name})).await.text(), name);
            assert!(server.trace().contains(&"tools/call".to_owned()), "{era:?} {name}");
            let asked =
                servers.iter().filter(|server| server.trace().contains(&"tools/call".to_owned())).count();
            assert_eq!(asked, 1, "{era:?} {name}");
        }
        for name in ["one", "alpha__three", "delta__one", "alpha__", "__one", ""] {
            assert_eq!(client.tool(name, json!({})).await.code(), -32602, "{era:?} {name:?}");
        }
    }
}

#[tokio::test]
async fn a_call_needs_no_list_first() {
    let [a, b, c] = three().await;
    let gateway = Gateway::start(serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)])).await;
    let params = json!({"name": "gamma__two", "arguments": {"text": "cold"}});
    let answer = Request::modern(gateway.url("/mcp"), 1, "tools/call", params).answer().await;
    assert_eq!(answer.text(), "cold");
}

#[tokio::test]
async fn one_dead_server_of_three_is_missing_and_said_to_be() {
    let [a, b, c] = three().await;
    let config = serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)]);
    b.stop();
    let gateway = Gateway::start(config).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        assert_eq!(client.tool_names().await, [ALL[0], ALL[1], ALL[4], ALL[5]], "{era:?}");
        assert_eq!(client.tool("gamma__one", json!({"text": "x"})).await.text(), "x", "{era:?}");
    }
    let status = status(&gateway).await.to_string();
    assert!(status.contains("beta"), "{status}");
    let ready = Request::new("GET", gateway.url("/ready")).send().await;
    assert_eq!(ready.status, 200, "one dead server does not make the gateway unready");
}

#[tokio::test]
async fn killing_one_server_in_the_middle_hurts_nobody_else() {
    let [a, b, c] = three().await;
    let gateway = Gateway::start(serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
    assert_eq!(client.tool_names().await, ALL);
    for round in 0..10 {
        if round == 3 {
            a.stop();
        }
        let began = Instant::now();
        assert_eq!(client.tool("beta__one", json!({"text": "b"})).await.text(), "b", "round {round}");
        assert_eq!(client.tool("gamma__one", json!({"text": "c"})).await.text(), "c", "round {round}");
        assert!(began.elapsed() < Duration::from_secs(10), "round {round}: {:?}", began.elapsed());
        let alpha = client.tool("alpha__one", json!({"text": "a"})).await;
        assert_eq!(alpha.code() == 0, round < 3, "round {round}: {}", alpha.last());
        // A program that has ended is waited for: for the next attempt to start it, if that is not far.
        assert!(began.elapsed() < Duration::from_secs(15), "round {round}: {:?}", began.elapsed());
    }
    // Its part of the list may be stale; the others' must be there.
    let tools = client.tool_names().await;
    assert!(ALL[2..].iter().all(|name| tools.contains(&(*name).to_owned())), "{tools:?}");
}

#[tokio::test]
async fn a_server_that_comes_back_is_served_again() {
    let [a, b, c] = three().await;
    let config = serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)]);
    let gateway = Gateway::start(config).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    assert_eq!(client.tool("beta__one", json!({"text": "x"})).await.text(), "x");
    b.stop();
    assert!(client.tool("beta__one", json!({"text": "x"})).await.code() != 0);
    let again = Fixture::start_at(b.address(), Options::legacy("beta")).await;
    again.offer(vec![plain_tool("one", "A tool")]);
    let healed = eventually(async || {
        client.tool("beta__one", json!({"text": "y"})).await.last()["result"]["content"][0]["text"] == "y"
    });
    assert!(healed.await);
}

#[tokio::test]
async fn a_server_that_was_down_at_the_start_turns_up_in_the_lists() {
    let [a, b, c] = three().await;
    let config = serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)]);
    let address = b.address();
    b.stop();
    let gateway = Gateway::start(config).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    assert_eq!(client.tool_names().await.len(), 4);
    let again = Fixture::start_at(address, Options::legacy("beta")).await;
    again.offer(vec![plain_tool("one", "A tool"), plain_tool("two", "A tool")]);
    assert!(eventually(async || client.tool_names().await == ALL).await);
}

#[tokio::test]
async fn a_slow_server_does_not_hold_up_a_list() {
    let [a, b, c] = three().await;
    b.trouble("*", Trouble::SlowHead(Duration::from_secs(15)));
    let limits = json!({"limits": {"merge_deadline": "500ms"}});
    let gateway = Gateway::start(with(serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)]), limits)).await;
    for era in ERAS {
        let asked = Instant::now();
        let client = Client::connect(&gateway, "/mcp", era).await;
        assert_eq!(client.tool_names().await, [ALL[0], ALL[1], ALL[4], ALL[5]], "{era:?}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{era:?}: {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn lists_are_asked_for_at_the_same_time() {
    let servers = three().await;
    for server in &servers {
        server.trouble("tools/list", Trouble::SlowHead(Duration::from_secs(2)));
    }
    let [a, b, c] = &servers;
    let gateway = Gateway::start(with(
        serving(&[("alpha", a), ("beta", b), ("gamma", c)]),
        json!({"limits": {"merge_deadline": "30s"}}),
    ))
    .await;
    let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
    let asked = Instant::now();
    assert_eq!(client.tool_names().await, ALL);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn broken_lists_of_one_server_do_not_break_the_merged_one() {
    let broken = [
        Trouble::Garbage,
        Trouble::NotRpc,
        Trouble::Html(200),
        Trouble::Html(500),
        Trouble::CutJson,
        Trouble::CutSse,
        Trouble::NoAnswer,
        Trouble::WrongId,
        Trouble::Error(200, -32603, "no".into()),
        Trouble::EndlessJson,
    ];
    for trouble in broken {
        let [a, b, c] = three().await;
        b.trouble("tools/list", trouble.clone());
        let limit = json!({"mcpServers": {"beta": {"max_response": "256KiB"}}});
        let gateway =
            Gateway::start(with(serving(&[("alpha", &a), ("beta", &b), ("gamma", &c)]), limit)).await;
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        assert_eq!(client.tool_names().await, [ALL[0], ALL[1], ALL[4], ALL[5]], "{trouble:?}");
        b.calm();
        assert!(
            eventually(async || client.tool_names().await == ALL).await,
            "{trouble:?}: then it is well again"
        );
    }
}

#[tokio::test]
async fn filters_renames_and_prefixes_shape_what_is_offered() {
    let fixture =
        offering(Options::modern("one"), &["read_a", "read_b", "write_a", "delete_a", "secret"]).await;
    let one = json!({
        "prefix": "f",
        "tools": {
            "deny": ["delete_*"],
            "overrides": {
                "read_a": {"rename": "look", "description": "Looks at it"},
                "secret": {"hide": true},
            },
        },
    });
    let gateway =
        Gateway::start(with(serving(&[("one", &fixture)]), json!({"mcpServers": {"one": one}}))).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        let tools = client.all("tools/list", "tools").await;
        assert_eq!(names(&json!(tools)), ["f__look", "f__read_b", "f__write_a"], "{era:?}");
        assert_eq!(tools[0]["description"], "Looks at it");
        assert_eq!(client.tool("f__look", json!({"text": "x"})).await.text(), "x");
        assert_eq!(fixture.seen().last().unwrap().body["params"]["name"], "read_a");
        fixture.forget();
        for name in ["f__delete_a", "f__secret", "f__read_a", "one__read_b", "read_b"] {
            assert_eq!(client.tool(name, json!({})).await.code(), -32602, "{era:?} {name}");
        }
        assert!(
            !fixture.trace().contains(&"tools/call".to_owned()),
            "{era:?}: refused without asking the server"
        );
    }
    let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
    for name in ["delete_a", "secret"] {
        assert!(!client.tool_names().await.contains(&name.to_owned()), "{name} is not there either");
        assert_eq!(client.tool(name, json!({})).await.code(), -32602, "{name}");
    }
}

#[tokio::test]
async fn only_what_is_allowed_is_offered() {
    let fixture = offering(Options::modern("one"), &["read_a", "read_b", "write_a"]).await;
    let one = json!({
        "tools": {"allow": ["read_*"], "deny": ["*_b"]},
        "prompts": {"allow": ["test_simple_*"]},
        "resources": {"deny": ["test://static-binary"]},
    });
    let gateway =
        Gateway::start(with(serving(&[("one", &fixture)]), json!({"mcpServers": {"one": one}}))).await;
    for (path, prefix) in [("/mcp", "one__"), ("/mcp/one", "")] {
        for era in ERAS {
            let client = Client::connect(&gateway, path, era).await;
            assert_eq!(client.tool_names().await, [format!("{prefix}read_a")], "{path} {era:?}");
            let prompts = names(&json!(client.all("prompts/list", "prompts").await));
            assert_eq!(prompts, [format!("{prefix}test_simple_prompt")], "{path} {era:?}");
            let prompt = json!({"name": format!("{prefix}test_prompt_with_image")});
            assert_eq!(client.ask("prompts/get", prompt).await.code(), -32602, "{path} {era:?}");
            let resources = client.all("resources/list", "resources").await;
            assert!(
                resources.iter().all(|resource| resource["uri"] != "test://static-binary"),
                "{path} {era:?}"
            );
            let read = client.ask("resources/read", json!({"uri": "test://static-binary"})).await;
            assert!(read.code() != 0, "{path} {era:?}: {}", read.last());
        }
    }
}

#[tokio::test]
async fn a_resource_of_two_servers_can_be_read_from_both() {
    let (a, b) = (Fixture::start(Options::modern("a")).await, Fixture::start(Options::legacy("b")).await);
    let gateway = Gateway::start(serving(&[("a", &a), ("b", &b)])).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        let uris: Vec<Value> = client
            .all("resources/list", "resources")
            .await
            .iter()
            .map(|resource| resource["uri"].clone())
            .collect();
        assert!(uris.contains(&json!("test://static-text")), "{uris:?}");
        assert!(uris.contains(&json!("b+test://static-text")), "{uris:?}");
        for (uri, server, other) in [("test://static-text", &a, &b), ("b+test://static-text", &b, &a)] {
            a.forget();
            b.forget();
            let read = client.ask("resources/read", json!({"uri": uri})).await;
            assert_eq!(read.result()["contents"][0]["mimeType"], "text/plain", "{era:?} {uri}");
            assert!(server.trace().contains(&"resources/read".to_owned()), "{era:?} {uri}");
            assert!(!other.trace().contains(&"resources/read".to_owned()), "{era:?} {uri}");
        }
        let missing = client.ask("resources/read", json!({"uri": "nobody://has/this"})).await;
        assert!(matches!(missing.code(), -32602 | -32002), "{era:?}: {}", missing.last());
    }
}

#[tokio::test]
async fn capabilities_and_instructions_are_those_of_all() {
    let told = |name: &str, text: &str| Options { instructions: Some(text.into()), ..Options::modern(name) };
    let a = Fixture::start(told("a", "Call alpha first.")).await;
    let b =
        Fixture::start(Options { era: causeway_fixture::Era::Legacy, ..told("b", "Beta is slow.") }).await;
    let gateway = Gateway::start(serving(&[("a", &a), ("b", &b)])).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        let instructions = client.hello["instructions"].as_str().unwrap();
        assert!(instructions.contains("Call alpha first."), "{era:?}: {instructions}");
        assert!(instructions.contains("Beta is slow."), "{era:?}: {instructions}");
        for ability in ["tools", "prompts", "resources", "completions"] {
            assert!(client.hello["capabilities"][ability].is_object(), "{era:?} {ability}: {}", client.hello);
        }
    }
}

#[tokio::test]
async fn merged_lists_come_in_pages() {
    let a = Fixture::start(Options { mode: Mode::Many(25), page: 10, ..Options::modern("a") }).await;
    let b = Fixture::start(Options { mode: Mode::Many(25), page: 7, ..Options::legacy("b") }).await;
    let gateway =
        Gateway::start(with(serving(&[("a", &a), ("b", &b)]), json!({"limits": {"page": 20}}))).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        let first = client.ask("tools/list", json!({})).await;
        assert_eq!(first.result()["tools"].as_array().unwrap().len(), 20, "{era:?}");
        let all = client.tool_names().await;
        let mut unique = all.clone();
        unique.sort();
        unique.dedup();
        assert_eq!((all.len(), unique.len()), (50, 50), "{era:?}: each once");
        let cursor = first.result()["nextCursor"].as_str().unwrap();
        let forged: String = cursor.chars().rev().collect();
        for bad in ["nonsense", forged.as_str(), ""] {
            let answer = client.ask("tools/list", json!({"cursor": bad})).await;
            assert_eq!(answer.code(), -32602, "{era:?} {bad:?}: {}", answer.last());
        }
    }
}

#[tokio::test]
async fn a_list_is_held_as_long_as_the_server_says() {
    if left_out_where_fresh("a_list_is_held_as_long_as_the_server_says") {
        return;
    }
    // One that is to be held for longer than anything here takes, and one that is not to be held for long.
    let long = Fixture::start(Options { ttl_ms: 600_000, ..Options::modern("long") }).await;
    let short = Fixture::start(Options { ttl_ms: 600, ..Options::modern("short") }).await;
    let gateway = Gateway::start_remembering(serving(&[("long", &long), ("short", &short)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    client.tool_names().await;
    long.forget();
    for fixture in [&long, &short] {
        fixture.offer(vec![plain_tool("new", "")]);
    }
    let renewed = async || client.tool_names().await.contains(&"short__new".to_owned());
    assert!(eventually(renewed).await, "asked for again");
    assert!(!client.tool_names().await.contains(&"long__new".to_owned()), "held");
    assert_eq!(long.trace(), Vec::<String>::new(), "held");
}

#[tokio::test]
async fn many_who_ask_at_once_cost_one_list_for_each_kind_of_client() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    fixture.trouble("tools/list", Trouble::SlowHead(Duration::from_millis(300)));
    fixture.forget();
    let lists = futures_util::future::join_all((0..12).map(|_| client.tool_names())).await;
    assert!(lists.iter().all(|tools| tools.contains(&"one__echo".to_owned())));
    let asked = fixture.trace().iter().filter(|method| *method == "tools/list").count();
    // For clients that can do everything, and nothing; where instances know nothing of each other, in each that was asked.
    let most = if Host::chosen() == Host::Spin { 12 * 2 } else { 2 };
    assert!((2..=most).contains(&asked), "{asked}: {:?}", fixture.trace());
}

#[tokio::test]
async fn a_private_list_is_held_for_its_caller_only() {
    if left_out_where_fresh("a_private_list_is_held_for_its_caller_only") {
        return;
    }
    let options = Options { cache_scope: "private".into(), ..Options::modern("one") };
    let fixture = Fixture::start(options).await;
    let keys = json!({"keys": {"ann": {"hash": hash("key-of-ann")}, "bob": {"hash": hash("key-of-bob")}}});
    let gateway = Gateway::start_remembering(with(serving(&[("one", &fixture)]), keys)).await;
    for path in ["/mcp", "/mcp/one"] {
        let ann = Client::connect_as(&gateway, path, Era::Modern, Some("key-of-ann")).await;
        let bob = Client::connect_as(&gateway, path, Era::Modern, Some("key-of-bob")).await;
        ann.tool_names().await;
        fixture.forget();
        let answer = bob.ask("tools/list", json!({})).await;
        let asked = fixture.trace().iter().filter(|method| *method == "tools/list").count();
        assert_eq!(asked, 1, "{path}: ann's list is not bob's");
        assert_eq!(answer.result()["cacheScope"], "private", "{path}");
    }
}

#[tokio::test]
async fn a_stale_list_is_better_than_none() {
    if left_out_where_fresh("a_stale_list_is_better_than_none") {
        return;
    }
    let fixture = Fixture::start(Options { ttl_ms: 1, ..Options::modern("one") }).await;
    let gateway = Gateway::start_remembering(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    let before = client.tool_names().await;
    fixture.stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = Instant::now();
    assert_eq!(client.tool_names().await, before);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}
