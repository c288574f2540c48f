//! Clients without a handshake.

use std::time::Duration;

use causeway_fixture::{Fixture, Options, odd_header_tools, plain_tool};
use causeway_suite::{Gateway, names, serving};
use serde_json::{Value, json};

use crate::stdio::client::{Client, modern, text};

fn regional(header: &str) -> Value {
    let region = json!({"type": "string", "x-mcp-header": header});
    json!({"name": "regional", "inputSchema": {"type": "object", "properties": {"region": region}}})
}

#[tokio::test]
async fn a_client_without_a_handshake_uses_everything() {
    for fixture in
        [Fixture::start(Options::modern("one")).await, Fixture::start(Options::legacy("one")).await]
    {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, prefix) in [("/mcp/one", ""), ("/mcp", "one__")] {
            let mut client = Client::at(&gateway, path);
            let hello = client.ask_modern("server/discover", json!({})).await;
            assert_eq!(hello["result"]["supportedVersions"][0], "2026-07-28");
            let tools = client.ask_modern("tools/list", json!({})).await;
            assert!(names(&tools["result"]["tools"]).contains(&format!("{prefix}echo")), "{path}");
            let answer = client.tool_modern(&format!("{prefix}echo"), json!({"text": "zwölf 🥊"})).await;
            assert_eq!(text(&answer), "zwölf 🥊");
            let read = client.ask_modern("resources/read", json!({"uri": "test://static-text"})).await;
            assert_eq!(read["result"]["contents"][0]["mimeType"], "text/plain");
            let arguments = json!({"arg1": "a", "arg2": "b"});
            let prompt =
                json!({"name": format!("{prefix}test_prompt_with_arguments"), "arguments": arguments});
            let prompt = client.ask_modern("prompts/get", prompt).await;
            assert!(prompt["result"]["messages"].is_array(), "{prompt}");
            let missing = client.ask_modern("resources/read", json!({"uri": "test://nöthing"})).await;
            assert_eq!(missing["error"]["code"], -32602, "{missing}");
            let end = client.end().await;
            assert!(end.status.success() && end.last.is_empty(), "{:?} {}", end.last, end.log);
        }
    }
}

#[tokio::test]
async fn the_body_is_mirrored_in_headers() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut client = Client::of(&fixture.url(), &["--header", "X-Team: blue", "--key", "cw_something"]);
    client.tool_modern("echo", json!({"text": "hi"})).await;
    client.ask_modern("resources/read", json!({"uri": "test://ä"})).await;
    let seen = fixture.seen();
    let call = seen.iter().find(|seen| seen.method() == "tools/call").unwrap();
    let header = |name| call.header(name).unwrap_or_default();
    assert_eq!(header("mcp-protocol-version"), "2026-07-28");
    assert_eq!((header("mcp-method"), header("mcp-name")), ("tools/call", "echo"));
    assert_eq!((header("x-team"), header("authorization")), ("blue", "Bearer cw_something"));
    assert_eq!(header("accept"), "application/json, text/event-stream");
    let read = seen.iter().find(|seen| seen.method() == "resources/read").unwrap();
    assert_eq!(read.header("mcp-name"), Some("=?base64?dGVzdDovL8Ok?="));
}

#[tokio::test]
async fn arguments_are_mirrored_where_a_tool_asks_for_it() {
    for direct in [true, false] {
        let fixture = Fixture::start(Options { page: 1, ttl_ms: 0, ..Options::modern("one") }).await;
        fixture.offer(vec![plain_tool("other", "first page"), regional("Region")]);
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let mut client =
            if direct { Client::of(&fixture.url(), &[]) } else { Client::at(&gateway, "/mcp/one") };
        fixture.forget();
        // Nobody has listed anything: the program does, page by page and once.
        let answer = client.tool_modern("regional", json!({"region": "süd"})).await;
        assert!(answer["error"].is_null(), "{answer}");
        client.tool_modern("regional", json!({"region": "nord"})).await;
        let of = |fixture: &Fixture, method: &str| {
            fixture.seen().into_iter().filter(|seen| seen.method() == method).collect::<Vec<_>>()
        };
        let calls = of(&fixture, "tools/call");
        assert_eq!(calls[0].header("mcp-param-region"), Some("=?base64?c8O8ZA==?="));
        assert_eq!(calls[1].header("mcp-param-region"), Some("nord"));
        if direct {
            assert_eq!(of(&fixture, "tools/list").len(), 2, "{:?}", fixture.trace());
            // The tool changes behind the client's back: refused for its headers, the call is sent again.
            fixture.offer(vec![regional("Zone")]);
            fixture.forget();
            let answer = client.tool_modern("regional", json!({"region": "west"})).await;
            assert!(answer["error"].is_null(), "{answer}");
            assert_eq!(fixture.trace(), ["tools/call", "tools/list", "tools/call"]);
            assert_eq!(of(&fixture, "tools/call")[1].header("mcp-param-zone"), Some("west"));
            assert!(client.heard.is_empty(), "the client hears nothing of it");
        }
    }
}

#[tokio::test]
async fn tools_that_break_the_rules_of_headers_are_left_out() {
    let fixture = Fixture::start(Options::modern("one")).await;
    fixture.offer(odd_header_tools());
    let mut client = Client::of(&fixture.url(), &[]);
    let tools = client.ask_modern("tools/list", json!({})).await;
    assert_eq!(names(&tools["result"]["tools"]), ["good_header"]);
    assert!(client.end().await.log.contains("space_header"), "and the log says why");
}

#[tokio::test]
async fn a_cancellation_ends_the_call() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    let arguments = json!({"ms": 8000});
    let call = json!({"name": "slow", "arguments": arguments, "_meta": {"progressToken": 1}});
    let id = client.send_modern("tools/call", call).await;
    client.told("notifications/progress").await;
    client.notify("notifications/cancelled", json!({"requestId": id})).await;
    assert!(fixture.until(|fixture| fixture.stopped() == ["tools/call slow"]).await, "{:?}", fixture.trace());
    client.heard.clear();
    assert_eq!(text(&client.tool_modern("echo", json!({"text": "next"})).await), "next");
    assert!(client.heard.iter().all(|message| message["id"] != id), "{:?}", client.heard);
    // One that is not in flight is nobody's business.
    client.notify("notifications/cancelled", json!({"requestId": "never"})).await;
    client.notify("notifications/cancelled", json!({"nonsense": 1})).await;
    assert_eq!(text(&client.tool_modern("echo", json!({"text": "on"})).await), "on");
}

#[tokio::test]
async fn a_subscription_outlives_its_connection() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let address = fixture.address();
    let mut client = Client::of(&fixture.url(), &[]);
    let wants = json!({"toolsListChanged": true, "promptsListChanged": true});
    client.say(&json!({"jsonrpc": "2.0", "id": "sub", "method": "subscriptions/listen", "params": modern(json!({"notifications": wants}))})).await;
    let first = client.hear().await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    fixture.changed("tools");
    let changed = client.hear().await;
    assert_eq!(changed["method"], "notifications/tools/list_changed");
    drop(fixture);
    let fixture = Fixture::start_at(address, Options::modern("one")).await;
    // Not acknowledged once more; but whatever changed in between would have gone unheard.
    let mut missed = [client.hear().await, client.hear().await];
    missed.sort_by_key(|message| message["method"].to_string());
    assert_eq!(missed[0]["method"], "notifications/prompts/list_changed");
    assert_eq!(missed[1]["method"], "notifications/tools/list_changed");
    assert_eq!(missed[1]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    fixture.changed("prompts");
    assert_eq!(client.hear().await["method"], "notifications/prompts/list_changed");
    client.notify("notifications/cancelled", json!({"requestId": "sub"})).await;
    assert!(fixture.until(|fixture| fixture.stopped() == ["subscriptions/listen"]).await);
    fixture.changed("tools");
    assert!(client.is_silent(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn subscriptions_are_no_reason_to_stay() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    let wants = json!({"toolsListChanged": true});
    client.send_modern("subscriptions/listen", json!({"notifications": wants})).await;
    client.told("notifications/subscriptions/acknowledged").await;
    let end = client.end().await;
    assert!(end.status.success() && end.last.is_empty(), "{:?}", end.last);
}

#[tokio::test]
async fn an_input_required_result_and_its_retry_pass_through() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    let call = |more: Value| {
        let mut params = modern(json!({"name": "test_input_required_result_request_state", "arguments": {}}));
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        for (name, value) in more.as_object().unwrap() {
            params[name] = value.clone();
        }
        params
    };
    let first = client.ask("tools/call", call(json!({}))).await;
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    let responses = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
    let state = first["result"]["requestState"].clone();
    let second =
        client.ask("tools/call", call(json!({"inputResponses": responses, "requestState": state}))).await;
    assert!(text(&second).starts_with("state-ok"), "{second}");
}

#[tokio::test]
async fn both_eras_may_be_spoken_at_once() {
    let fixture = Fixture::start(Options::default()).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let mut client = Client::at(&gateway, "/mcp/one");
    client.initialize().await;
    assert_eq!(text(&client.tool("echo", json!({"text": "a"})).await), "a");
    let answer = client.tool_modern("echo", json!({"text": "b"})).await;
    assert_eq!((text(&answer), &answer["result"]["resultType"]), ("b", &json!("complete")));
    assert_eq!(text(&client.tool("echo", json!({"text": "c"})).await), "c");
}
