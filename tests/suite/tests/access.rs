//! Who may call what, what the log says of it, and how a changed configuration takes effect.

use std::time::Duration;

use causeway_fixture::{Fixture, Options, plain_tool};
use causeway_suite::host::eventually;
use causeway_suite::{Client, ERAS, Era, Gateway, Request, hash, serving, with};
use serde_json::{Value, json};

async fn two() -> [Fixture; 2] {
    let [a, b] =
        [Fixture::start(Options::modern("files")).await, Fixture::start(Options::legacy("mail")).await];
    for fixture in [&a, &b] {
        fixture.offer(vec![plain_tool("read", ""), plain_tool("write", ""), plain_tool("delete", "")]);
    }
    [a, b]
}

fn keys() -> Value {
    json!({"keys": {
        "ann": {"hash": hash("key-of-ann"), "admin": true},
        "bob": {"hash": hash("key-of-bob"), "servers": {"allow": ["files"]}},
        "eve": {"hash": hash("key-of-eve"), "tools": {"allow": ["*__read", "files__*"], "deny": ["*__delete"]}},
        "old": {"hash": hash("key-one"), "hashes": [hash("key-two")]},
    }})
}

#[tokio::test]
async fn without_a_good_key_there_is_401_with_a_challenge() {
    let [files, mail] = two().await;
    let gateway = Gateway::start(with(serving(&[("files", &files), ("mail", &mail)]), keys())).await;
    for path in ["/mcp", "/mcp/files", "/mcp/no-such-server"] {
        let list = || Request::modern(gateway.url(path), 1, "tools/list", json!({}));
        let bad = [
            (list(), "no key"),
            (list().header("authorization", "Bearer wrong"), "a wrong key"),
            (list().header("authorization", "Bearer "), "an empty key"),
            (list().header("authorization", "Basic a2V5LW9mLWFubjo="), "another scheme"),
            (list().header("authorization", "key-of-ann"), "no scheme"),
            (list().header("x-api-key", "wrong"), "a wrong x-api-key"),
            (
                list().header("authorization", &format!("Bearer {}", hash("key-of-ann"))),
                "the hash for the key",
            ),
            (list().header("authorization", &format!("Bearer {}", "x".repeat(6000))), "an endless key"),
        ];
        for (request, what) in bad {
            let reply = request.send().await;
            assert_eq!(reply.status, 401, "{path}: {what}");
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{path}: {what}");
            assert!(!reply.header("x-request-id").is_empty(), "{path}: {what}");
        }
    }
    assert!(files.trace().iter().chain(&mail.trace()).all(|method| method != "tools/list"));
}

#[tokio::test]
async fn a_key_may_come_in_either_header() {
    let [files, mail] = two().await;
    let gateway = Gateway::start(with(serving(&[("files", &files), ("mail", &mail)]), keys())).await;
    let list = || Request::modern(gateway.url("/mcp"), 1, "tools/list", json!({}));
    let good = [
        list().header("authorization", "Bearer key-of-ann"),
        list().header("authorization", "bearer key-of-ann"),
        list().header("x-api-key", "key-of-ann"),
        list().header("x-api-key", "key-one"),
        list().header("x-api-key", "key-two"),
    ];
    for request in good {
        assert_eq!(request.answer().await.result()["tools"].as_array().unwrap().len(), 6);
    }
}

#[tokio::test]
async fn a_caller_sees_and_calls_only_what_is_theirs() {
    let [files, mail] = two().await;
    let gateway = Gateway::start(with(serving(&[("files", &files), ("mail", &mail)]), keys())).await;
    let all = ["files__read", "files__write", "files__delete", "mail__read", "mail__write", "mail__delete"];
    for era in ERAS {
        for (key, sees) in
            [("key-of-ann", &all[..]), ("key-of-bob", &all[..3]), ("key-of-eve", &[all[0], all[1], all[3]])]
        {
            let client = Client::connect_as(&gateway, "/mcp", era, Some(key)).await;
            assert_eq!(client.tool_names().await, sees, "{era:?} {key}");
            let nobody = client.tool("files__no_such_tool", json!({})).await;
            for name in all {
                files.forget();
                mail.forget();
                let answer = client.tool(name, json!({"text": "x"})).await;
                if sees.contains(&name) {
                    assert_eq!(answer.text(), "x", "{era:?} {key} {name}");
                } else {
                    assert_eq!(answer.code(), nobody.code(), "{era:?} {key} {name}: as if it were not there");
                    let calls =
                        files.trace().into_iter().chain(mail.trace()).filter(|method| method == "tools/call");
                    assert_eq!(calls.count(), 0, "{era:?} {key} {name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_ones_own_is_not_there() {
    let [files, mail] = two().await;
    let gateway = Gateway::start(with(serving(&[("files", &files), ("mail", &mail)]), keys())).await;
    let ask = |path: &str| {
        let request = Request::modern(gateway.url(path), 1, "tools/list", json!({}));
        request.header("authorization", "Bearer key-of-bob").send()
    };
    assert_eq!(ask("/mcp/files").await.status, 200);
    assert_eq!(ask("/mcp/mail").await.status, 404, "the same as one that does not exist");
    assert_eq!(ask("/mcp/nobody").await.status, 404);
    let eve = Client::connect_as(&gateway, "/mcp/mail", Era::Modern, Some("key-of-eve")).await;
    assert_eq!(eve.tool_names().await, ["read"], "filters hold for one server as it is, too");
    assert_eq!(eve.tool("write", json!({})).await.code(), -32602);
}

#[tokio::test]
async fn the_log_holds_no_secrets_and_no_arguments() {
    let [files, mail] = two().await;
    let headers = json!({"mcpServers": {"files": {"headers": {"Authorization": "Bearer ${FILES_TOKEN}"}}}});
    let config = with(with(serving(&[("files", &files), ("mail", &mail)]), keys()), headers);
    let gateway = Gateway::start_with(config, &[("FILES_TOKEN", "upstream-secret-1234")]).await;
    for path in ["/mcp", "/mcp/files"] {
        for era in ERAS {
            let client = Client::connect_as(&gateway, path, era, Some("key-of-ann")).await;
            client.tool("files__read", json!({"text": "private-argument"})).await;
            client.tool("read", json!({"text": "private-argument"})).await;
        }
    }
    Request::modern(gateway.url("/mcp"), 1, "tools/list", json!({}))
        .header("x-api-key", "guessed-key")
        .send()
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let log = gateway.log();
    for secret in ["upstream-secret-1234", "private-argument", "key-of-ann", "guessed-key"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let status = Request::new("GET", gateway.url("/status"))
        .header("x-api-key", "key-of-ann")
        .send()
        .await
        .text()
        .await;
    assert!(!status.contains("upstream-secret-1234"));
    let records =
        log.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|record| record.is_object()));
    assert!(records.count() > 4, "one JSON record for each request:\n{log}");
}

#[tokio::test]
async fn status_tells_strangers_little() {
    let [files, mail] = two().await;
    let gateway = Gateway::start(with(serving(&[("files", &files), ("mail", &mail)]), keys())).await;
    let ask = |key: Option<&'static str>| {
        let request = Request::new("GET", gateway.url("/status"));
        match key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    };
    let full = ask(Some("key-of-ann")).send().await;
    assert_eq!(full.status, 200);
    assert!(full.text().await.contains("mail"));
    for key in [None, Some("key-of-bob")] {
        let reply = ask(key).send().await;
        assert!(
            reply.status == 401 || reply.status == 403 || !reply.text().await.contains("mail"),
            "{key:?}"
        );
    }
}

#[tokio::test]
async fn a_changed_configuration_takes_effect_without_a_restart() {
    let [files, mail] = two().await;
    let gateway = Gateway::start(serving(&[("files", &files)])).await;
    let process = gateway.process();
    let client = Client::connect(&gateway, "/mcp", Era::Legacy).await;
    assert_eq!(client.tool_names().await.len(), 3);

    gateway.configure(&serving(&[("files", &files), ("mail", &mail)]));
    assert!(eventually(async || client.tool_names().await.len() == 6).await, "a server was added");
    assert_eq!(client.tool("mail__read", json!({"text": "x"})).await.text(), "x");

    gateway.configure(&serving(&[("mail", &mail)]));
    assert!(eventually(async || client.tool_names().await.len() == 3).await, "a server was removed");
    assert_eq!(client.tool("files__read", json!({})).await.code(), -32602);
    assert_eq!(gateway.process(), process);
}

#[tokio::test]
async fn a_key_that_was_removed_is_refused() {
    let [files, _mail] = two().await;
    let gateway = Gateway::start(with(serving(&[("files", &files)]), keys())).await;
    let bob = async || {
        let request = Request::modern(gateway.url("/mcp"), 1, "tools/list", json!({}));
        request.header("x-api-key", "key-of-bob").send().await.status
    };
    assert_eq!(bob().await, 200);
    gateway.configure(&with(
        serving(&[("files", &files)]),
        json!({"keys": {"ann": {"hash": hash("key-of-ann")}}}),
    ));
    assert!(eventually(async || bob().await == 401).await);
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing() {
    let [files, mail] = two().await;
    let gateway = Gateway::start(serving(&[("files", &files)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    for broken in ["{", "", "{\"mcpServers\": {\"bad name!\": {\"url\": \"nonsense\"}}}"] {
        gateway.configure_raw(broken);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(client.tool("files__read", json!({"text": "x"})).await.text(), "x", "{broken}");
    }
    gateway.configure(&serving(&[("files", &files), ("mail", &mail)]));
    assert!(eventually(async || client.tool_names().await.len() == 6).await, "a good one is taken again");
}

#[tokio::test]
async fn a_call_that_runs_while_the_configuration_changes_comes_to_its_end() {
    let files = Fixture::start(Options::modern("files")).await;
    let mail = Fixture::start(Options::legacy("mail")).await;
    let gateway = Gateway::start(serving(&[("files", &files)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    let params = json!({"name": "files__slow", "arguments": {"ms": 2000}, "_meta": {"progressToken": 1}});
    let mut events = client.send("tools/call", params).await.events();
    events.next().await.unwrap();
    gateway.configure(&serving(&[("mail", &mail)]));
    let mut last = Value::Null;
    while let Some((message, _)) = events.next().await {
        last = message;
    }
    assert_eq!(last["result"]["content"][0]["text"], "slowly done", "{last}");
}
