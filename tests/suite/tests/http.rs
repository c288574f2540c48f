//! The rules of HTTP and of the transport: statuses, headers, bodies, and what must be refused.

use causeway_fixture::{Fixture, MODERN, Options};
use causeway_suite::host::skip;
use causeway_suite::{Answer, Client, ERAS, Era, Gateway, Host, Request, hash, raw, serving, with};
use serde_json::{Value, json};

async fn plain() -> (Fixture, Gateway) {
    let fixture = Fixture::start(Options::default()).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    (fixture, gateway)
}

/// A modern request that is fine as it is.
fn fine(gateway: &Gateway) -> Request {
    Request::modern(gateway.url("/mcp/one"), 7, "tools/list", json!({}))
}

/// A modern call of `echo` that is fine as it is.
fn call(gateway: &Gateway) -> Request {
    let params = json!({"name": "echo", "arguments": {"text": "hi"}});
    Request::modern(gateway.url("/mcp/one"), 7, "tools/call", params)
}

fn check(answer: &Answer, status: u16, code: i64, what: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{what}: {} {}", answer.text, answer.last());
    assert!(!answer.header("x-request-id").is_empty(), "{what}: every answer has an x-request-id");
}

#[tokio::test]
async fn an_accept_header_that_admits_no_answer_gets_406() {
    let (_fixture, gateway) = plain().await;
    for accept in ["text/html", "image/*", "application/xml, text/plain"] {
        check(&fine(&gateway).header("accept", accept).answer().await, 406, -32600, accept);
    }
}

#[tokio::test]
async fn a_client_that_takes_only_json_gets_json() {
    let (_fixture, gateway) = plain().await;
    for path in ["/mcp", "/mcp/one"] {
        let request = Request::modern(gateway.url(path), 1, "tools/list", json!({}));
        let answer = request.header("accept", "application/json").answer().await;
        check(&answer, 200, 0, path);
        assert!(answer.header("content-type").starts_with("application/json"));
    }
}

#[tokio::test]
async fn any_accept_header_that_admits_both_will_do() {
    let (_fixture, gateway) = plain().await;
    for accept in ["*/*", "application/*, text/*", "text/event-stream;q=0.5, application/json;q=0.9"] {
        check(&fine(&gateway).header("accept", accept).answer().await, 200, 0, accept);
    }
}

#[tokio::test]
async fn a_body_that_is_not_json_gets_415() {
    let (_fixture, gateway) = plain().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        check(&fine(&gateway).header("content-type", kind).answer().await, 415, -32600, kind);
    }
    check(&fine(&gateway).without("content-type").answer().await, 415, -32600, "none");
    for kind in ["application/json; charset=utf-8", "Application/JSON"] {
        check(&fine(&gateway).header("content-type", kind).answer().await, 200, 0, kind);
    }
}

#[tokio::test]
async fn a_foreign_origin_gets_403() {
    let fixture = Fixture::start(Options::default()).await;
    let config = with(serving(&[("one", &fixture)]), json!({"origins": ["https://chat.example.com"]}));
    let gateway = Gateway::start(config).await;
    let foreign = [
        "https://evil.example.com",
        "http://chat.example.com",
        "https://chat.example.com.evil.example",
        "https://chat.example.com:8443",
        "null",
    ];
    for origin in foreign {
        check(&fine(&gateway).header("origin", origin).answer().await, 403, -32600, origin);
    }
    check(
        &fine(&gateway).header("origin", "https://chat.example.com").answer().await,
        200,
        0,
        "from the list",
    );
    // Pages on this machine may call a gateway on this machine.
    let status = if gateway.host().is_loopback() { 200 } else { 403 };
    for origin in ["http://localhost:6274", "http://127.0.0.1:9", "http://[::1]:1"] {
        assert_eq!(fine(&gateway).header("origin", origin).send().await.status, status, "{origin}");
    }
}

#[tokio::test]
async fn a_foreign_host_on_loopback_gets_403() {
    if !Host::chosen().is_loopback() {
        return skip("a_foreign_host_on_loopback_gets_403", "its host name is whatever the operator gave it");
    }
    let (_fixture, gateway) = plain().await;
    for host in ["evil.example.com", "127.0.0.1.evil.example.com", "localhost.evil.example.com:80"] {
        check(&fine(&gateway).header("host", host).answer().await, 403, -32600, host);
    }
    check(&fine(&gateway).header("host", "localhost").answer().await, 200, 0, "localhost");
}

#[tokio::test]
async fn what_is_not_there_gets_404_as_a_problem_document() {
    let (_fixture, gateway) = plain().await;
    for path in ["/", "/nothing", "/mcp/nobody/at/all", "/.env"] {
        let reply = Request::new("GET", gateway.url(path)).send().await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.header("content-type").starts_with("application/problem+json"), "{path}");
        let problem: Value = serde_json::from_str(&reply.text().await).unwrap();
        assert_eq!(problem["status"], 404, "{path}");
        assert!(problem["title"].is_string(), "{path}");
    }
    let nobody = Request::modern(gateway.url("/mcp/nobody"), 1, "tools/list", json!({}));
    assert_eq!(nobody.send().await.status, 404, "a server that is not configured");
}

#[tokio::test]
async fn other_methods_get_405_with_allow() {
    let (_fixture, gateway) = plain().await;
    for method in ["PUT", "PATCH"] {
        let reply = Request::new(method, gateway.url("/mcp")).send().await;
        assert_eq!(reply.status, 405, "{method}");
        assert!(reply.header("allow").contains("POST"), "{method}: {}", reply.header("allow"));
    }
}

#[tokio::test]
async fn a_get_without_a_session_is_refused() {
    let (_fixture, gateway) = plain().await;
    for path in ["/mcp", "/mcp/one"] {
        let reply = Request::new("GET", gateway.url(path)).header("accept", "text/event-stream").send().await;
        assert!(matches!(reply.status, 400 | 405), "{path}: {}", reply.status);
    }
}

#[tokio::test]
async fn health_ready_and_status_answer() {
    let (_fixture, gateway) = plain().await;
    for path in ["/health", "/ready", "/status"] {
        let reply = Request::new("GET", gateway.url(path)).send().await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.header("x-request-id").is_empty(), "{path}");
        assert!(serde_json::from_str::<Value>(&reply.text().await).is_ok(), "{path} is JSON");
    }
}

#[tokio::test]
async fn a_request_id_of_the_caller_is_kept_if_it_is_harmless() {
    let (_fixture, gateway) = plain().await;
    let answer = fine(&gateway).header("x-request-id", "abc-123").answer().await;
    assert!(!answer.header("x-request-id").is_empty());
    let long = "x".repeat(5000);
    let answer = fine(&gateway).header("x-request-id", &long).answer().await;
    assert!(answer.header("x-request-id").len() <= 200, "an endless id is not repeated");
}

#[tokio::test]
async fn a_body_that_is_no_message_is_refused() {
    let (fixture, gateway) = plain().await;
    let cases: [(&[u8], i64); 9] = [
        (b"", -32700),
        (b"{", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"} trailing", -32700),
        (b"\xff\xfe{}", -32700),
        (b"null", -32600),
        (b"7", -32600),
        (b"\"tools/list\"", -32600),
        (b"{}", -32600),
        (b"{\"id\":1,\"method\":\"tools/list\"}", -32600),
    ];
    for (body, code) in cases {
        let answer = fine(&gateway).body(body).answer().await;
        check(&answer, 400, code, &String::from_utf8_lossy(body));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = fine(&gateway).body(deep).answer().await;
    assert_eq!(answer.status, 400, "deep nesting is refused, not followed");
    assert_eq!(fixture.seen().iter().filter(|seen| seen.method() == "tools/list").count(), 0);
}

#[tokio::test]
async fn ids_that_json_rpc_forbids_are_refused() {
    let (_fixture, gateway) = plain().await;
    for id in [json!({}), json!([1]), json!(true)] {
        let answer = fine(&gateway).json("/id", id.clone()).answer().await;
        check(&answer, 400, -32600, &id.to_string());
    }
    for id in [json!("a-string"), json!(0), json!(-5), json!(9_007_199_254_740_991_i64)] {
        let answer = fine(&gateway).json("/id", id.clone()).answer().await;
        check(&answer, 200, 0, &id.to_string());
        assert_eq!(answer.last()["id"], id);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_gets_413() {
    let fixture = Fixture::start(Options::default()).await;
    let config = with(serving(&[("one", &fixture)]), json!({"limits": {"body": "64KiB"}}));
    let gateway = Gateway::start(config).await;
    let large = "x".repeat(100_000);
    let answer = call(&gateway).json("/params/arguments/text", json!(large)).answer().await;
    check(&answer, 413, -32600, "a length that is declared");

    let head = "POST /mcp/one HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        accept: application/json, text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let said = raw(&gateway, format!("{head}{chunk}{chunk}{chunk}").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 413"), "a length that is not declared: {said}");

    let small = call(&gateway).json("/params/arguments/text", json!("y".repeat(60_000))).answer().await;
    check(&small, 200, 0, "just under the limit");
    assert_eq!(fixture.seen().iter().filter(|seen| seen.method() == "tools/call").count(), 1);
}

#[tokio::test]
async fn a_notification_gets_202_without_a_body() {
    let (_fixture, gateway) = plain().await;
    for path in ["/mcp", "/mcp/one"] {
        let client = Client::connect(&gateway, path, Era::Legacy).await;
        let reply = client.notify("notifications/progress", json!({"progressToken": 1, "progress": 1})).await;
        assert_eq!(reply.status, 202, "{path}");
        assert_eq!(reply.text().await, "", "{path}");
    }
}

#[tokio::test]
async fn batches_are_served_where_the_revision_has_them() {
    let (_fixture, gateway) = plain().await;
    let client = Client::connect_at(&gateway, "/mcp", "2025-03-26").await;
    assert_eq!(client.hello["protocolVersion"], "2025-03-26");
    let batch = json!([
        {"jsonrpc": "2.0", "id": "a", "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}},
        {"jsonrpc": "2.0", "id": "b", "method": "tools/call", "params": {"name": "one__echo", "arguments": {"text": "x"}}},
        {"jsonrpc": "2.0", "id": "c", "method": "no/such/method"},
    ]);
    let answer = client.raw_post(batch).await.answer().await;
    assert_eq!(answer.status, 200);
    // One JSON array, or one event for each answer.
    let answers: Vec<Value> = answer
        .messages
        .iter()
        .flat_map(|message| message.as_array().cloned().unwrap_or_else(|| vec![message.clone()]))
        .collect();
    let by_id = |id: &str| answers.iter().find(|answer| answer["id"] == id).cloned().unwrap_or_default();
    assert_eq!(answers.len(), 3, "three requests, three answers: {answers:?}");
    assert_eq!(by_id("a")["result"], json!({}));
    assert_eq!(by_id("b")["result"]["content"][0]["text"], "x");
    assert_eq!(by_id("c")["error"]["code"], -32601);

    let only_notifications = json!([{"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}]);
    assert_eq!(client.raw_post(only_notifications).await.status, 202);
    assert_eq!(client.raw_post(json!([])).await.status, 400, "an empty batch");
    let many =
        Value::Array((0..100).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "ping"})).collect());
    assert_eq!(client.raw_post(many).await.status, 400, "more messages than the limit of 64");
}

#[tokio::test]
async fn batches_are_refused_where_the_revision_has_none() {
    let (_fixture, gateway) = plain().await;
    let batch = json!([{"jsonrpc": "2.0", "id": 1, "method": "ping"}]);
    let client = Client::connect_at(&gateway, "/mcp", "2025-06-18").await;
    check(&client.raw_post(batch.clone()).await.answer().await, 400, -32600, "2025-06-18");
    let modern = fine(&gateway).body(batch.to_string()).answer().await;
    assert_eq!(modern.status, 400, "2026-07-28");
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (fixture, gateway) = plain().await;
    let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
    let before = fixture.connections();
    for n in 0..20 {
        assert_eq!(client.tool("echo", json!({"text": n.to_string()})).await.text(), n.to_string());
    }
    assert!(fixture.connections() - before <= 1, "connections to the server are kept");

    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let one = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let said = raw(&gateway, one.repeat(3).as_bytes()).await;
    assert_eq!(said.matches("HTTP/1.1 415").count(), 3, "a refusal keeps the connection: {said}");
}

#[tokio::test]
async fn the_version_header_and_the_body_must_agree() {
    let (_fixture, gateway) = plain().await;
    let version = "/params/_meta/io.modelcontextprotocol~1protocolVersion";
    check(&fine(&gateway).without("mcp-protocol-version").answer().await, 400, -32020, "missing");
    let other = fine(&gateway).json(version, json!("2026-01-01")).answer().await;
    check(&other, 400, -32020, "another version in the body");

    let unknown =
        fine(&gateway).json(version, json!("2099-01-01")).header("mcp-protocol-version", "2099-01-01");
    let answer = unknown.answer().await;
    check(&answer, 400, -32022, "a version from the future");
    let data = &answer.last()["error"]["data"];
    assert!(data["supported"].as_array().unwrap().contains(&json!(MODERN)), "{data}");
    assert_eq!(data["requested"], "2099-01-01");
    assert_eq!(answer.last()["id"], 7);
}

#[tokio::test]
async fn a_request_without_its_meta_gets_minus_32602() {
    let (_fixture, gateway) = plain().await;
    let capabilities = "/params/_meta/io.modelcontextprotocol~1clientCapabilities";
    let version = "/params/_meta/io.modelcontextprotocol~1protocolVersion";
    let info = "/params/_meta/io.modelcontextprotocol~1clientInfo";
    check(&fine(&gateway).json("/params/_meta", Value::Null).answer().await, 400, -32602, "no _meta");
    check(&fine(&gateway).json("/params", Value::Null).answer().await, 400, -32602, "no params");
    check(&fine(&gateway).json(capabilities, Value::Null).answer().await, 400, -32602, "no capabilities");
    check(&fine(&gateway).json(version, Value::Null).answer().await, 400, -32602, "no version");
    check(&fine(&gateway).json(info, Value::Null).answer().await, 200, 0, "clientInfo is optional");
}

#[tokio::test]
async fn the_standard_headers_and_the_body_must_agree() {
    // The server does not check them, so it is the gateway that does.
    let fixture = Fixture::start(Options { header_validation: false, ..Options::modern("one") }).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    let cases = [
        (fine(&gateway).without("mcp-method"), "no Mcp-Method"),
        (fine(&gateway).header("mcp-method", "tools/call"), "another Mcp-Method"),
        (fine(&gateway).header("mcp-method", "TOOLS/LIST"), "Mcp-Method in capitals"),
        (call(&gateway).without("mcp-name"), "no Mcp-Name"),
        (call(&gateway).header("mcp-name", "blob"), "another Mcp-Name"),
        (call(&gateway).header("mcp-name", "=?base64?YmxvYg==?="), "another Mcp-Name, encoded"),
        (call(&gateway).header("mcp-name", "=?base64?ZWNob?="), "an Mcp-Name that cannot be decoded"),
    ];
    for (request, what) in cases {
        check(&request.answer().await, 400, -32020, what);
    }
    assert!(fixture.trace().iter().all(|method| method != "tools/call"), "nothing of this went on");
    check(&call(&gateway).header("mcp-name", "  echo ").answer().await, 200, 0, "space around Mcp-Name");
    check(
        &call(&gateway).header("mcp-name", "=?base64?ZWNobw==?=").answer().await,
        200,
        0,
        "Mcp-Name, encoded",
    );
}

#[tokio::test]
async fn mirrored_arguments_and_the_body_must_agree() {
    let fixture = Fixture::start(Options { header_validation: false, ..Options::modern("one") }).await;
    let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
    for (path, name) in [("/mcp/one", "test_x_mcp_header"), ("/mcp", "one__test_x_mcp_header")] {
        let call = |arguments: Value| {
            Request::modern(gateway.url(path), 1, "tools/call", json!({"name": name, "arguments": arguments}))
        };
        let west = || call(json!({"region": "us-west1"}));
        let good = [
            (call(json!({})), "no argument, no header"),
            (call(json!({"region": null})), "null, no header"),
            (west().header("mcp-param-region", "us-west1"), "the same"),
            (west().header("mcp-param-region", "=?base64?dXMtd2VzdDE=?="), "the same, encoded"),
            (call(json!({"count": 42})).header("mcp-param-count", "42.0"), "the same number"),
            (call(json!({"dry": true})).header("mcp-param-dry", "true"), "the same boolean"),
            (call(json!({"where": {"zone": "b"}})).header("mcp-param-zone", "b"), "the same, further down"),
        ];
        for (request, what) in good {
            check(&request.answer().await, 200, 0, what);
        }
        let calls = || fixture.trace().iter().filter(|method| *method == "tools/call").count();
        let before = calls();
        let bad = [
            (west(), "the header is missing"),
            (west().header("mcp-param-region", "eu-west1"), "another value"),
            (west().header("mcp-param-region", "US-WEST1"), "in capitals"),
            (west().header("mcp-param-region", "=?base64?dXMtd2VzdDE?="), "wrong padding"),
            (west().header("mcp-param-region", "=?base64?dXMt!!!d2Vz?="), "not base64"),
            (call(json!({"where": {"zone": "b"}})), "the header is missing, further down"),
            (call(json!({})).header("mcp-param-region", "us-west1"), "a header without an argument"),
        ];
        for (request, what) in bad {
            check(&request.answer().await, 400, -32020, what);
        }
        assert_eq!(calls(), before, "nothing of this went on");
    }
}

#[tokio::test]
async fn an_unknown_method_is_told_so() {
    let (_fixture, gateway) = plain().await;
    for path in ["/mcp", "/mcp/one"] {
        for method in ["no/such/method", "initialize", "ping", "logging/setLevel", "resources/subscribe"] {
            let answer = Request::modern(gateway.url(path), 3, method, json!({})).answer().await;
            check(&answer, 404, -32601, &format!("{path} {method}"));
            assert_eq!(answer.last()["id"], 3);
        }
        let client = Client::connect(&gateway, path, Era::Legacy).await;
        assert_eq!(client.ask("no/such/method", json!({})).await.code(), -32601, "{path}");
    }
}

#[tokio::test]
async fn a_legacy_request_names_a_revision_that_is_served() {
    let (_fixture, gateway) = plain().await;
    let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
    let answer =
        client.request("tools/list", json!({})).header("mcp-protocol-version", "1999-01-01").answer().await;
    assert_eq!(answer.status, 400);
    let answer = client.request("tools/list", json!({})).without("mcp-protocol-version").answer().await;
    assert_eq!(answer.status, 200, "2025-03-26 did not have the header yet");
}

#[tokio::test]
async fn a_handshake_agrees_on_the_revision() {
    let (_fixture, gateway) = plain().await;
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let client = Client::connect_at(&gateway, "/mcp", revision).await;
        assert_eq!(client.hello["protocolVersion"], revision);
    }
    let client = Client::connect_at(&gateway, "/mcp", "2099-12-31").await;
    assert_eq!(client.hello["protocolVersion"], "2025-11-25", "the newest with a handshake");
}

#[tokio::test]
async fn a_session_is_needed_known_and_ones_own() {
    let fixture = Fixture::start(Options::default()).await;
    let keys = json!({"keys": {"ann": {"hash": hash("key-of-ann")}, "bob": {"hash": hash("key-of-bob")}}});
    let gateway = Gateway::start(with(serving(&[("one", &fixture)]), keys)).await;
    for path in ["/mcp", "/mcp/one"] {
        let ann = Client::connect_as(&gateway, path, Era::Legacy, Some("key-of-ann")).await;
        let list = || ann.request("tools/list", json!({}));
        let session = ann.session.clone().expect("a legacy client is given a session");
        assert!(session.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "visible ASCII only");
        check(&list().answer().await, 200, 0, "ann's");
        assert_eq!(list().without("mcp-session-id").answer().await.status, 400, "{path}: none");
        let flipped: String = session.chars().rev().collect();
        for (id, what) in [("nonsense", "unknown"), (flipped.as_str(), "forged")] {
            assert_eq!(list().header("mcp-session-id", id).answer().await.status, 404, "{path}: {what}");
        }
        let bob = list().header("authorization", "Bearer key-of-bob").answer().await;
        assert_eq!(bob.status, 404, "{path}: somebody else's");
    }
}

#[tokio::test]
async fn a_session_that_was_deleted_is_gone() {
    for options in [Options::legacy("one"), Options::modern("one")] {
        let fixture = Fixture::start(options).await;
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for path in ["/mcp", "/mcp/one"] {
            let client = Client::connect(&gateway, path, Era::Legacy).await;
            client.tool_names().await;
            let status = client.bare("DELETE").await.status;
            assert!((200..300).contains(&status) || status == 405, "{path}: {status}");
            if status != 405 {
                assert_eq!(client.send("tools/list", json!({})).await.status, 404, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_that_was_deleted_is_gone_at_every_instance_at_once() {
    for options in [Options::legacy("one"), Options::modern("one")] {
        let fixture = Fixture::start(options).await;
        let gateway = Gateway::start_twice(serving(&[("one", &fixture)])).await;
        if gateway.host() == Host::Cloudflare {
            assert_ne!(gateway.url(""), gateway.second_url(""), "there are two isolates");
        }
        for path in ["/mcp", "/mcp/one"] {
            let client = Client::connect(&gateway, path, Era::Legacy).await;
            client.tool_names().await;
            let there = client.moved(gateway.second_url(path));
            assert_eq!(there.send("tools/list", json!({})).await.status, 200, "{path}: it is known there");
            let here = there.moved(gateway.url(path));
            let status = here.bare("DELETE").await.status;
            assert!((200..300).contains(&status), "{path}: {status}");
            let there = here.moved(gateway.second_url(path));
            let name = if path == "/mcp" { "one__echo" } else { "echo" };
            let list = there.ask("tools/list", json!({})).await;
            assert_eq!(list.status, 404, "{path}: {} {}", list.text, list.last());
            let call = there.ask("tools/call", json!({"name": name, "arguments": {"text": "t"}})).await;
            assert_eq!(call.status, 404, "{path}: {} {}", call.text, call.last());
            assert_eq!(
                there.notify("notifications/roots/list_changed", json!({})).await.status,
                404,
                "{path}"
            );
            assert_eq!(there.bare("GET").await.status, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn ping_is_answered_by_the_gateway_itself() {
    let (fixture, gateway) = plain().await;
    let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
    fixture.forget();
    assert_eq!(client.ask("ping", json!({})).await.result(), &json!({}));
    assert_eq!(fixture.trace(), Vec::<String>::new());
}

#[tokio::test]
async fn results_of_each_era_have_its_shape() {
    let (_fixture, gateway) = plain().await;
    for path in ["/mcp", "/mcp/one"] {
        for era in ERAS {
            let client = Client::connect(&gateway, path, era).await;
            for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
                let answer = client.ask(method, json!({})).await;
                let result = answer.result();
                match era {
                    Era::Modern => {
                        assert_eq!(result["resultType"], "complete", "{path} {method}");
                        assert!(result["ttlMs"].is_u64(), "{path} {method}");
                        assert!(matches!(result["cacheScope"].as_str(), Some("public" | "private")));
                    }
                    Era::Legacy => assert!(!result.is_null(), "{path} {method}"),
                }
            }
        }
    }
}
