//! Every pairing of client era and server era, what it costs, and who shares a session with whom.

use causeway_fixture::{Era as Speaks, Fixture, MODERN, Options, Probe};
use causeway_suite::host::left_out_where_fresh;
use causeway_suite::legacy::Legacy;
use causeway_suite::party::{Able, Target};
use causeway_suite::{Client, ERAS, Era, Gateway, hash, left_out_behind_stdio, serving, with};
use serde_json::{Value, json};

fn kinds() -> Vec<(&'static str, Options)> {
    vec![
        ("modern", Options::modern("one")),
        ("dual", Options::default()),
        ("legacy", Options::legacy("one")),
        ("legacy without sessions", Options { sessions: false, ..Options::legacy("one") }),
        ("legacy on streams", Options { always_sse: true, ..Options::legacy("one") }),
        ("legacy 2025-06-18", Options { revision: "2025-06-18".into(), ..Options::legacy("one") }),
        ("legacy 2025-03-26", Options { revision: "2025-03-26".into(), ..Options::legacy("one") }),
        ("modern on streams", Options { always_sse: true, ..Options::modern("one") }),
    ]
}

#[tokio::test]
async fn every_method_works_in_every_pairing() {
    for (kind, options) in kinds() {
        let fixture = Fixture::start(options).await;
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, prefix) in [("/mcp/one", ""), ("/mcp", "one__")] {
            for era in ERAS {
                let what = format!("{path} {era:?}→{kind}");
                let client = Client::connect(&gateway, path, era).await;
                let name = |name: &str| format!("{prefix}{name}");
                assert!(client.tool_names().await.contains(&name("echo")), "{what}");
                let answer = client.tool(&name("echo"), json!({"text": "hi"})).await;
                assert_eq!(answer.text(), "hi", "{what}");
                assert_eq!(answer.status, 200, "{what}");
                let failed = client.tool(&name("fail"), json!({})).await;
                assert_eq!(failed.result()["isError"], true, "{what}: a tool's own failure is a result");
                let image = client.tool(&name("test_image_content"), json!({})).await;
                assert_eq!(image.result()["content"][0]["mimeType"], "image/png", "{what}");

                let prompts = causeway_suite::names(&json!(client.all("prompts/list", "prompts").await));
                assert!(prompts.contains(&name("test_prompt_with_arguments")), "{what}");
                let arguments = json!({"arg1": "a", "arg2": "b"});
                let prompt = json!({"name": name("test_prompt_with_arguments"), "arguments": arguments});
                let prompt = client.ask("prompts/get", prompt).await;
                assert!(
                    prompt.result()["messages"][0]["content"]["text"].as_str().unwrap().contains("arg1='a'")
                );

                let resources = client.all("resources/list", "resources").await;
                assert!(resources.iter().any(|resource| resource["uri"] == "test://static-text"), "{what}");
                let read = client.ask("resources/read", json!({"uri": "test://static-text"})).await;
                assert_eq!(read.result()["contents"][0]["mimeType"], "text/plain", "{what}");
                let templates = client.all("resources/templates/list", "resourceTemplates").await;
                assert_eq!(templates[0]["uriTemplate"], "test://template/{id}/data", "{what}");
                let read = client.ask("resources/read", json!({"uri": "test://template/7/data"})).await;
                assert!(
                    read.result()["contents"][0]["text"].as_str().unwrap().contains("Data for ID: 7"),
                    "{what}"
                );

                let reference = json!({"type": "ref/prompt", "name": name("test_prompt_with_arguments")});
                let argument = json!({"name": "arg1", "value": "par"});
                let completed =
                    client.ask("completion/complete", json!({"ref": reference, "argument": argument})).await;
                assert_eq!(
                    completed.result()["completion"]["values"],
                    json!(["paris", "park", "party"]),
                    "{what}"
                );
            }
        }
    }
}

#[tokio::test]
async fn errors_of_the_server_reach_the_client_with_their_code() {
    for (kind, options) in kinds() {
        let fixture = Fixture::start(options).await;
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for era in ERAS {
            let client = Client::connect(&gateway, "/mcp/one", era).await;
            let missing = client.ask("resources/read", json!({"uri": "test://nothing"})).await;
            let code = missing.code();
            match era {
                Era::Modern => assert_eq!(code, -32602, "{era:?}→{kind}"),
                Era::Legacy => assert!(matches!(code, -32002 | -32602), "{era:?}→{kind}: {code}"),
            }
            assert_eq!(client.tool("no_such_tool", json!({})).await.code(), -32602, "{era:?}→{kind}");
            let prompt = client.ask("prompts/get", json!({"name": "test_prompt_with_arguments"})).await;
            assert_eq!(prompt.code(), -32602, "{era:?}→{kind}");
        }
    }
}

#[tokio::test]
async fn fields_that_nobody_has_heard_of_survive() {
    let odd = json!({
        "name": "odd",
        "inputSchema": {"type": "object", "x-unknown": {"deep": [1, 2.50, 1e3, "é"]}},
        "annotations": {"readOnlyHint": true, "futureHint": "yes"},
        "fromTheFuture": {"a": null},
        "_meta": {"example.com/thing": 1},
    });
    for (kind, options) in kinds() {
        let fixture = Fixture::start(options).await;
        fixture.offer(vec![odd.clone()]);
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, name) in [("/mcp/one", "odd"), ("/mcp", "one__odd")] {
            for era in ERAS {
                let client = Client::connect(&gateway, path, era).await;
                let tools = client.all("tools/list", "tools").await;
                let mut expected = odd.clone();
                expected["name"] = json!(name);
                let tool = tools.iter().find(|tool| tool["name"] == name).unwrap();
                for (key, value) in expected.as_object().unwrap() {
                    assert_eq!(&tool[key], value, "{path} {era:?}→{kind}: {key}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_call_costs_one_request() {
    if left_out_where_fresh("a_call_costs_one_request") {
        return;
    }
    for (kind, options) in kinds() {
        let fixture = Fixture::start(options).await;
        let gateway = Gateway::start_remembering(serving(&[("one", &fixture)])).await;
        for (path, name) in [("/mcp/one", "echo"), ("/mcp", "one__echo")] {
            for era in ERAS {
                let client = Client::connect(&gateway, path, era).await;
                client.tool_names().await;
                client.tool(name, json!({"text": "warm"})).await;
                fixture.forget();
                for text in ["a", "b", "c"] {
                    assert_eq!(client.tool(name, json!({"text": text})).await.text(), text);
                }
                assert_eq!(fixture.trace(), vec!["tools/call"; 3], "{path} {era:?}→{kind}");
            }
        }
    }
}

#[tokio::test]
async fn a_modern_call_is_passed_on_as_the_client_made_it() {
    if left_out_behind_stdio(
        "a call as it was made",
        "clients share a process, so ids are exchanged; no headers",
    ) {
        return;
    }
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    let meta = json!({"example.com/mine": [1, 2], "progressToken": 9, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"});
    let params =
        json!({"name": "one__echo", "arguments": {"text": "hi", "more": {"a": 1.50}}, "_meta": meta});
    let answer = client.request("tools/call", params).json("/id", json!("my-id")).answer().await;
    assert_eq!(answer.last()["id"], "my-id");
    let seen = fixture.seen().pop().unwrap();
    assert_eq!(seen.body["id"], "my-id", "the id is kept");
    assert_eq!(seen.body["params"]["name"], "echo", "the name is the server's own");
    assert_eq!(seen.header("mcp-name"), Some("echo"));
    assert_eq!(seen.header("mcp-method"), Some("tools/call"));
    assert_eq!(seen.header("mcp-protocol-version"), Some(MODERN));
    assert_eq!(seen.body["params"]["_meta"]["example.com/mine"], json!([1, 2]));
    assert_eq!(seen.body["params"]["_meta"]["progressToken"], 9);
    assert_eq!(seen.body["params"]["arguments"], json!({"text": "hi", "more": {"a": 1.50}}));
    assert!(
        seen.body["params"]["_meta"]["traceparent"]
            .as_str()
            .unwrap()
            .contains("0af7651916cd43dd8448eb211c80319c")
    );
}

#[tokio::test]
async fn the_era_of_a_server_is_found_once() {
    if left_out_where_fresh("the_era_of_a_server_is_found_once") {
        return;
    }
    for probe in [Probe::BadRequest, Probe::Empty, Probe::NotFound, Probe::Unknown] {
        let fixture = Fixture::start(Options { probe, ..Options::legacy("one") }).await;
        let gateway = Gateway::start_remembering(serving(&[("one", &fixture)])).await;
        for _ in 0..3 {
            let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
            assert_eq!(client.tool("echo", json!({"text": "x"})).await.text(), "x", "{probe:?}");
        }
        let modern =
            fixture.seen().iter().filter(|seen| seen.header("mcp-protocol-version") == Some(MODERN)).count();
        assert!(modern <= 1, "{probe:?}: {modern} modern requests to a legacy server");
    }
}

#[tokio::test]
async fn a_server_that_changes_its_era_is_found_out() {
    for (before, after) in [(Speaks::Legacy, Speaks::Modern), (Speaks::Modern, Speaks::Legacy)] {
        let fixture = Fixture::start(Options { era: before, ..Options::default() }).await;
        let address = fixture.address();
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for era in ERAS {
            let client = Client::connect(&gateway, "/mcp", era).await;
            assert_eq!(client.tool("one__echo", json!({"text": "x"})).await.text(), "x");
        }
        fixture.stop();
        drop(fixture);
        let _fixture = Fixture::start_at(address, Options { era: after, ..Options::default() }).await;
        let healed = causeway_suite::host::eventually(async || {
            let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
            client.tool("one__echo", json!({"text": "y"})).await.last()["result"]["content"][0]["text"] == "y"
        });
        assert!(healed.await, "{before:?} then {after:?}");
    }
}

fn count(answer: &causeway_suite::Answer) -> (String, u64) {
    let (session, count) = answer.text().split_once(' ').expect("a session and a count");
    (session.to_owned(), count.parse().unwrap())
}

#[tokio::test]
async fn legacy_clients_have_sessions_of_their_own_with_a_legacy_server() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    // Clients that can be asked nothing would share a process, where there are any.
    let own = json!({"mcpServers": {"one": {"processes": "session"}}});
    let gateway = Gateway::start(with(serving(&[("one", &fixture)]), own)).await;
    for (path, name) in [("/mcp/one", "count"), ("/mcp", "one__count")] {
        let (ann, bob) = (
            Client::connect(&gateway, path, Era::Legacy).await,
            Client::connect(&gateway, path, Era::Legacy).await,
        );
        let first = count(&ann.tool(name, json!({})).await);
        let second = count(&ann.tool(name, json!({})).await);
        let other = count(&bob.tool(name, json!({})).await);
        assert_eq!((second.0.clone(), second.1), (first.0.clone(), 2), "{path}: ann keeps hers");
        assert_eq!(other.1, 1, "{path}: bob starts at one");
        assert_ne!(other.0, first.0, "{path}: bob has another");
    }
}

#[tokio::test]
async fn stateless_callers_never_share_a_session_with_one_another() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let keys = json!({"keys": {"ann": {"hash": hash("key-of-ann")}, "bob": {"hash": hash("key-of-bob")}}});
    let own = json!({"mcpServers": {"one": {"processes": "session"}}});
    let gateway = Gateway::start(with(with(serving(&[("one", &fixture)]), keys), own)).await;
    let mut of = Vec::new();
    for key in ["key-of-ann", "key-of-bob"] {
        let client = Client::connect_as(&gateway, "/mcp", Era::Modern, Some(key)).await;
        of.push(count(&client.tool("one__count", json!({})).await).0);
    }
    assert_ne!(of[0], of[1]);
}

#[tokio::test]
async fn a_shared_session_is_shared() {
    if left_out_where_fresh("a_shared_session_is_shared") {
        return;
    }
    let fixture = Fixture::start(Options::legacy("one")).await;
    let config = with(serving(&[("one", &fixture)]), json!({"mcpServers": {"one": {"session": "shared"}}}));
    let gateway = Gateway::start_remembering(config).await;
    let mut of = Vec::new();
    for era in [Era::Legacy, Era::Legacy, Era::Modern] {
        let client = Client::connect(&gateway, "/mcp", era).await;
        of.push(count(&client.tool("one__count", json!({})).await).0);
    }
    assert!(of.windows(2).all(|pair| pair[0] == pair[1]), "{of:?}");
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_made_anew_in_silence() {
    if left_out_where_fresh("a_session_that_the_server_forgot_is_made_anew_in_silence") {
        return;
    }
    if left_out_behind_stdio("a forgotten session", "a session is a process, which forgets nothing") {
        return;
    }
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start_remembering(serving(&[("one", &fixture)])).await;
    for (path, name) in [("/mcp", "one__echo"), ("/mcp/one", "echo")] {
        for era in ERAS {
            let client = Client::connect(&gateway, path, era).await;
            assert_eq!(client.tool(name, json!({"text": "before"})).await.text(), "before");
            fixture.forget_sessions();
            fixture.forget();
            let answer = client.tool(name, json!({"text": "after"})).await;
            // One to one, the session is the server's: its end is the client's to hear of.
            if path == "/mcp/one" && era == Era::Legacy && answer.status == 404 {
                continue;
            }
            assert_eq!(answer.text(), "after", "{path} {era:?}");
            let trace = fixture.trace();
            assert_eq!(
                trace,
                ["tools/call", "initialize", "notifications/initialized", "tools/call"],
                "{path} {era:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_forgets_every_session_is_not_asked_for_ever() {
    use causeway_fixture::Trouble;
    if left_out_behind_stdio("forgotten sessions", "a session is a process, which forgets nothing") {
        return;
    }
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    client.tool_names().await;
    fixture.trouble("tools/call", Trouble::Status(404));
    fixture.forget();
    let answer = client.tool("one__echo", json!({"text": "x"})).await;
    assert!(answer.code() != 0, "an error, not a loop");
    let calls = fixture.trace().iter().filter(|method| *method == "tools/call").count();
    assert!(calls <= 2, "{:?}", fixture.trace());
}

#[tokio::test]
async fn ids_of_the_servers_sessions_stay_inside() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        let answer = client.tool("one__echo", json!({"text": "x"})).await;
        if era == Era::Modern {
            assert_eq!(answer.header("mcp-session-id"), "", "2026-07-28 has no sessions");
        }
        let ours = client.session.clone().unwrap_or_default();
        assert!(
            fixture
                .seen()
                .iter()
                .all(|seen| ours.is_empty() || seen.header("mcp-session-id") != Some(&*ours))
        );
    }
}

#[tokio::test]
async fn a_modern_server_behind_a_legacy_client_gets_complete_requests() {
    if left_out_behind_stdio("mirrored arguments", "there are no headers") {
        return;
    }
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
    client
        .tool("one__test_x_mcp_header", json!({"region": "Zürich", "count": 3, "where": {"zone": " b"}}))
        .await;
    let seen = fixture.seen().pop().unwrap();
    assert_eq!(seen.header("mcp-param-region"), Some("=?base64?WsO8cmljaA==?="));
    assert_eq!(seen.header("mcp-param-count"), Some("3"));
    assert_eq!(seen.header("mcp-param-zone"), Some("=?base64?IGI=?="));
    assert_eq!(seen.header("mcp-session-id"), None);
    let meta = &seen.body["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], MODERN);
    assert!(meta["io.modelcontextprotocol/clientCapabilities"].is_object());
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "suite", "who asks is passed on");
}

#[tokio::test]
async fn what_a_legacy_result_has_too_much_is_harmless() {
    // `resultType` and friends are unknown fields to a legacy client; its result must still be there.
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let client = Client::connect(&gateway, "/mcp/one", Era::Legacy).await;
    assert_eq!(client.hello["protocolVersion"], "2025-11-25");
    assert!(client.hello["serverInfo"]["name"].is_string());
    assert!(client.hello["capabilities"]["tools"].is_object());
    let result = client.tool("echo", json!({"text": "x"})).await.result().clone();
    assert_eq!(result["content"], json!([{"type": "text", "text": "x"}]));
}

#[tokio::test]
async fn server_requests_pass_through_where_the_session_is_one_to_one() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::connect(&gateway, "/mcp/one", Era::Legacy).await;
    // A second handshake, with a client that can be asked.
    let params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}, "sampling": {}, "roots": {}},
        "clientInfo": {"name": "suite", "version": "1"},
    });
    let answer = client.request("initialize", params).without("mcp-session-id").answer().await;
    client.session = Some(answer.header("mcp-session-id").to_owned());
    assert_eq!(client.notify("notifications/initialized", json!({})).await.status, 202);
    let params = json!({"name": "test_elicitation", "arguments": {"message": "well?"}});
    let mut events = client.send("tools/call", params).await.events();
    let (request, _) = events.next().await.unwrap();
    assert_eq!(request["method"], "elicitation/create");
    let result = json!({"action": "accept", "content": {"response": "yes"}});
    let reply = client.raw_post(json!({"jsonrpc": "2.0", "id": request["id"], "result": result})).await;
    assert_eq!(reply.status, 202);
    let (result, _) = events.next().await.unwrap();
    assert!(result["result"]["content"][0]["text"].as_str().unwrap().contains("\"yes\""), "{result}");
}

#[tokio::test]
async fn clients_that_forget_their_session_are_served_where_that_is_allowed() {
    let asking =
        |era| if era == "legacy" { "test_elicitation" } else { "test_input_required_result_elicitation" };
    for (era, options) in [("legacy", Options::legacy("one")), ("modern", Options::modern("one"))] {
        let fixture = Fixture::start(options).await;
        for lenient in [true, false] {
            let config = with(serving(&[("one", &fixture)]), json!({"sessions": {"lenient": lenient}}));
            let gateway = Gateway::start(config).await;
            for (path, prefix) in [("/mcp/one", ""), ("/mcp", "one__")] {
                let what = format!("{path} {era} {lenient}");
                let able = Able::all("2025-11-25");
                let target = Target::new(gateway.url(path));
                let client = Legacy::connect_forgetful(&target, "2025-11-25", able).await;
                if !lenient {
                    let refused = client.err().unwrap_or_default();
                    assert!(refused.contains("400"), "{what}: the first notification is refused: {refused}");
                    continue;
                }
                let client = client.expect(&what);
                let tools = client.call("tools/list", json!({})).await.unwrap();
                let tools = causeway_suite::names(&tools.result().unwrap()["tools"]);
                assert!(tools.contains(&format!("{prefix}echo")), "{what}");
                let params =
                    json!({"name": format!("{prefix}{}", asking(era)), "arguments": {"message": "well?"}});
                let outcome = client.call("tools/call", params).await.expect(&what);
                assert!(outcome.result().unwrap()["content"].is_array(), "{what}");
                assert_eq!(outcome.asked().len(), 1, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn an_input_required_result_passes_through() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    for (path, prefix) in [("/mcp/one", ""), ("/mcp", "one__")] {
        let client = Client::connect(&gateway, path, Era::Modern).await;
        let name = format!("{prefix}test_input_required_result_request_state");
        let meta = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
        let ask = |more: Value| {
            client.ask("tools/call", with(json!({"name": name, "arguments": {}, "_meta": meta}), more))
        };
        let first = ask(json!({})).await;
        assert_eq!(first.result()["resultType"], "input_required", "{path}");
        let responses = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
        let state = first.result()["requestState"].clone();
        let second = ask(json!({"inputResponses": responses, "requestState": state})).await;
        assert!(second.text().starts_with("state-ok"), "{path}: {}", second.last());
    }
}
