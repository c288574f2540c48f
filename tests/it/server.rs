//! Small MCP servers in a closure, one per era.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use causeway::platform::SeamError;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

/// What a server does about sessions and eras.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Modern,
    Legacy,
    Dual,
    /// Legacy without session ids.
    Sessionless,
}

/// Puts a server with the tools `names` at `host`.
pub fn put(fake: &Fake, host: &str, kind: Kind, names: &'static [&'static str]) -> Arc<AtomicU64> {
    // Sessions are numbered; the counter says how many were opened. Setting it to 0 forgets them all.
    let sessions = Arc::new(AtomicU64::new(0));
    let counter = sessions.clone();
    fake.upstream(host, move |request| Ok(answer(request, kind, names, &counter)));
    sessions
}

/// What such a server says; `sessions` counts those it has opened.
pub fn answer(request: &Request<Bytes>, kind: Kind, names: &[&str], sessions: &AtomicU64) -> Script {
    if request.method() != "POST" {
        return Script::new(if request.method() == "DELETE" { 200 } else { 405 }, "text/plain", "");
    }
    let message: Value = serde_json::from_slice(request.body()).unwrap();
    let modern = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
    if modern && !matches!(kind, Kind::Modern | Kind::Dual) {
        let error = json!({"jsonrpc": "2.0", "error": {"code": -32000, "message": "no session id"}});
        return Script::new(400, "application/json", error.to_string());
    }
    if !modern && kind == Kind::Modern {
        let error =
            json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32020, "message": "headers"}});
        return Script::new(400, "application/json", error.to_string());
    }
    let Some(method) = message["method"].as_str() else { return Script::new(202, "text/plain", "") };
    if !modern && method != "initialize" && kind != Kind::Sessionless {
        let session =
            request.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()?.strip_prefix('s'));
        let known = session
            .and_then(|id| id.parse::<u64>().ok())
            .is_some_and(|id| id <= sessions.load(Ordering::Relaxed));
        if !known {
            return Script::new(404, "text/plain", "unknown session");
        }
    }
    if message.get("id").is_none() {
        return Script::new(202, "text/plain", "");
    }
    let hints = |mut result: Value| {
        if modern {
            result["resultType"] = "complete".into();
            result["ttlMs"] = 60_000.into();
            result["cacheScope"] = "public".into();
        }
        result
    };
    let result = match method {
        "server/discover" => hints(json!({
            "supportedVersions": if kind == Kind::Dual { json!(["2026-07-28", "2025-11-25"]) } else { json!(["2026-07-28"]) },
            "capabilities": {"tools": {}}, "instructions": "Be kind."})),
        "initialize" => {
            let number = sessions.fetch_add(1, Ordering::Relaxed) + 1;
            let result = json!({"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "s", "version": "1"}, "instructions": "Be quick."});
            let script =
                Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string());
            return if kind == Kind::Sessionless {
                script
            } else {
                script.header("mcp-session-id", &format!("s{number}"))
            };
        }
        "tools/list" => {
            let tools: Vec<Value> = names
                .iter()
                .map(|name| json!({"name": name, "inputSchema": {"type": "object"}, "x": 1.50}))
                .collect();
            hints(json!({"tools": tools}))
        }
        "tools/call" => {
            let seen: Value = request
                .headers()
                .iter()
                .filter(|(name, _)| name.as_str().starts_with("mcp-"))
                .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())))
                .collect::<serde_json::Map<_, _>>()
                .into();
            json!({"content": [], "echo": message["params"], "headers": seen, "id": message["id"]})
        }
        "slow" => json!({}),
        _ => {
            let error = json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no such method"}});
            return Script::new(if modern { 404 } else { 200 }, "application/json", error.to_string());
        }
    };
    let result = if modern && method == "tools/call" { hints(result) } else { result };
    Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
}

/// A modern server whose tool call answers with `steps` as an event stream.
pub fn put_streaming(fake: &Fake, host: &str, kind: Kind, steps: Vec<Step>) {
    let sessions = AtomicU64::new(0);
    fake.upstream(host, move |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        if message["method"] != "tools/call" {
            return Ok(answer(request, kind, &["t"], &sessions));
        }
        let mut script = Script::new(200, "text/event-stream", "");
        let id = message["id"].to_string();
        script.body = steps
            .iter()
            .map(|step| match step {
                Step::Send(bytes) => Step::Send(String::from_utf8_lossy(bytes).replace("$ID", &id).into()),
                other => other.clone(),
            })
            .collect();
        Ok(script)
    });
}

/// A server that cannot be reached.
pub fn put_dead(fake: &Fake, host: &str) {
    fake.upstream(host, |_| Err(SeamError::Connect("connection refused".to_owned())));
}
