//! A server of one era that declares and offers what a test says, and remembers what it was asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

/// What a test wants answered: given a message, a script, or `None` for the usual.
type React = dyn Fn(&Value) -> Option<Script> + Send + Sync;

/// A server that is yet to be put somewhere.
pub struct Peer {
    modern: bool,
    sessions: bool,
    capabilities: Value,
    tools: Value,
    resources: Value,
    react: Box<React>,
}

/// What a server was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The session, or nothing.
    pub session: String,
    /// The `Mcp-Name` header.
    pub name: String,
    /// The message; `Null` for a GET.
    pub message: Value,
}

/// What a server remembers.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Asked>>>);

impl Log {
    /// Everything, and forgets it.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// The messages of `method`; answers of clients have none.
    pub fn of(&self, method: &str) -> Vec<Value> {
        let all = self.0.lock().unwrap();
        let method = |asked: &&Asked| asked.message["method"].as_str().unwrap_or_default() == method;
        all.iter()
            .filter(|asked| !asked.message.is_null())
            .filter(method)
            .map(|a| a.message.clone())
            .collect()
    }

    /// What came last.
    pub fn last(&self) -> Asked {
        self.0.lock().unwrap().last().cloned().unwrap()
    }
}

/// The capabilities that a request of a modern client declares.
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

impl Peer {
    /// A server of the modern era.
    pub fn modern(capabilities: Value) -> Self {
        Self::new(true, capabilities)
    }

    /// A server with sessions.
    pub fn legacy(capabilities: Value) -> Self {
        Self::new(false, capabilities)
    }

    fn new(modern: bool, capabilities: Value) -> Self {
        let tools = json!([{"name": "t", "inputSchema": {"type": "object"}}]);
        let react = Box::new(|_: &Value| None);
        Self { modern, sessions: true, capabilities, tools, resources: json!([]), react }
    }

    /// The same without session ids.
    pub fn sessionless(self) -> Self {
        Self { sessions: false, ..self }
    }

    /// The same with these tools.
    pub fn tools(self, tools: Value) -> Self {
        Self { tools, ..self }
    }

    /// The same with these resources.
    pub fn resources(self, resources: Value) -> Self {
        Self { resources, ..self }
    }

    /// The same, doing what `react` says.
    pub fn react(self, react: impl Fn(&Value) -> Option<Script> + Send + Sync + 'static) -> Self {
        Self { react: Box::new(react), ..self }
    }

    /// Puts it at `host`.
    pub fn put(self, fake: &Fake, host: &str) -> Log {
        let (log, sessions) = (Log::default(), AtomicU64::new(0));
        let seen = log.clone();
        fake.upstream(host, move |request| {
            let header = |name: &str| {
                request
                    .headers()
                    .get(name)
                    .map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
            };
            let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let asked = Asked {
                session: header("mcp-session-id"),
                name: header("mcp-name"),
                message: message.clone(),
            };
            seen.0.lock().unwrap().push(asked);
            Ok((self.react)(&message).unwrap_or_else(|| self.answer(request, &message, &sessions)))
        });
        log
    }

    fn answer(&self, request: &Request<Bytes>, message: &Value, sessions: &AtomicU64) -> Script {
        let modern = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
        if request.method() != "POST" {
            return Script::new(if request.method() == "DELETE" { 200 } else { 405 }, "text/plain", "");
        }
        if modern && !self.modern {
            return Script::new(400, "text/plain", "");
        }
        let Some(method) = message["method"].as_str().filter(|_| !message["id"].is_null()) else {
            return Script::new(202, "text/plain", "");
        };
        match method {
            "server/discover" => result(
                message,
                json!({"supportedVersions": ["2026-07-28"], "capabilities": self.capabilities}),
            ),
            "initialize" => {
                let number = sessions.fetch_add(1, Ordering::Relaxed) + 1;
                let hello = json!({"protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": self.capabilities, "serverInfo": {"name": "s", "version": "1"}});
                let script = result(message, hello);
                if self.sessions { script.header("mcp-session-id", &format!("s{number}")) } else { script }
            }
            "tools/list" => {
                result(message, json!({"tools": self.tools, "ttlMs": 3_600_000, "cacheScope": "public"}))
            }
            "resources/list" => result(
                message,
                json!({"resources": self.resources, "ttlMs": 3_600_000, "cacheScope": "public"}),
            ),
            "resources/templates/list" | "prompts/list" => {
                result(message, json!({"resourceTemplates": [], "prompts": [], "ttlMs": 3_600_000}))
            }
            "tools/call" | "resources/read" | "prompts/get" => {
                result(message, json!({"content": [], "did": method, "echo": message["params"]}))
            }
            "logging/setLevel" => result(message, json!({})),
            _ => {
                let error = json!({"code": -32601, "message": "no such method"});
                let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error});
                Script::new(if modern { 404 } else { 200 }, "application/json", body.to_string())
            }
        }
    }
}

/// The response to `message`, complete as a modern one.
pub fn result(message: &Value, mut result: Value) -> Script {
    if message["params"]["_meta"][CAPABILITIES].is_object() && result["resultType"].is_null() {
        result["resultType"] = "complete".into();
    }
    Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
}

/// An answer of these messages as events with the ids `e0`, `e1` and so on. Between them is what else happens.
pub fn events(steps: Vec<Result<Value, Step>>) -> Script {
    let mut script = Script::new(200, "text/event-stream", "");
    script.body = steps
        .into_iter()
        .enumerate()
        .map(|(number, step)| match step {
            Ok(message) => Step::Send(format!("id: e{number}\ndata: {message}\n\n").into()),
            Err(step) => step,
        })
        .collect();
    script
}

/// A request of a modern client with these capabilities.
pub fn modern(path: &str, method: &str, mut params: Value, capabilities: &Value) -> Request<Bytes> {
    let name = ["name", "uri", "taskId"].iter().find_map(|name| params[name].as_str()).map(str::to_owned);
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    params["_meta"][CAPABILITIES] = capabilities.clone();
    let mut request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = name {
        request = request.header("mcp-name", name);
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    request.body(body.to_string().into()).unwrap()
}

/// A request of a legacy client in `session`.
pub fn legacy(path: &str, session: &str, method: &str, params: Value) -> Request<Bytes> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    crate::bridge::in_session(path, session, &body)
}

/// An answer to whatever is asked: what it was asked.
pub fn echo(message: &Value) -> Option<Script> {
    let method = message["method"].as_str()?;
    let core = ["server/", "initialize", "tools/", "resources/", "prompts/", "notifications/"];
    (!core.iter().any(|core| method.starts_with(core)))
        .then(|| result(message, json!({"asked": method, "echo": message["params"]})))
}
