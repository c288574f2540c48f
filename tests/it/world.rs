//! A gateway in front of fake servers, and short ways to talk to it.

use std::sync::Arc;

use bytes::Bytes;
use causeway::config::Plan;
use causeway::config::glob::{Filter, Glob};
use causeway::config::plan::{Caller, Key, Server};
use causeway::gateway::{Body, Gateway};
use causeway::instance::Instance;
use causeway::testing::Fake;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub struct World {
    pub fake: Fake,
    pub instance: Arc<Instance>,
}

/// What came back.
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    pub trace: Vec<String>,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.body))
    }

    /// The same, or nothing.
    pub fn json_or_null(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `status code` of an error, `status ok` of a result.
    pub fn brief(&self) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let what =
            if json["error"].is_object() { json["error"]["code"].to_string() } else { "ok".to_owned() };
        format!("{} {what}", self.status)
    }
}

pub fn server(name: &str) -> Server {
    Server { max_response: 1 << 20, ..Server::new(name, format!("http://{name}/mcp").parse().unwrap()) }
}

pub fn plan(servers: Vec<Server>) -> Plan {
    Plan { digest: "test".to_owned(), servers: servers.into_iter().map(Arc::new).collect(), ..Plan::empty() }
}

pub fn globs(patterns: &[&str]) -> Filter {
    Filter { allow: patterns.iter().map(|pattern| Glob::new(pattern)).collect(), deny: vec![] }
}

pub fn key(name: &str, servers: Filter, tools: Filter) -> Key {
    let caller = Caller { name: name.to_owned(), servers, tools, ..Caller::anyone(false) };
    Key { digest: Sha256::digest(format!("{name}-key")).into(), caller: Arc::new(caller) }
}

impl World {
    pub fn new(fake: Fake, plan: Plan) -> Self {
        let instance = Instance::new(Arc::new(plan));
        fake.restart(&instance);
        Self { fake, instance }
    }

    /// A further instance of a host where nothing outlives a request, in the same world.
    pub fn further(&self) -> Self {
        let instance = Instance::new(self.instance.plan().unwrap());
        Self { fake: self.fake.further(&instance), instance }
    }

    /// Forgets everything but the store, as a new isolate does.
    pub fn restart(&mut self) {
        self.instance = Instance::new(self.instance.plan().unwrap());
        self.fake.restart(&self.instance);
    }

    pub fn send(&self, request: Request<Bytes>) -> Got {
        self.fake.trace();
        self.fake.run(self.sent(request, async |_: &str| false))
    }

    /// Sends `request` and shows `seen` everything that has come of the answer whenever more of it comes; if that
    /// says so, the caller hangs up.
    pub async fn sent(&self, request: Request<Bytes>, mut seen: impl AsyncFnMut(&str) -> bool) -> Got {
        let gateway = Gateway::new(self.fake.clone(), self.instance.clone());
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, stream::iter([Ok(body)]));
        let reply = gateway.clone().handle(request).await;
        let (head, body) = reply.response.into_parts();
        let mut whole = Vec::new();
        match body {
            Body::Full(bytes) => whole.extend_from_slice(&bytes),
            Body::Stream(mut stream) => {
                while let Some(chunk) = stream.next().await {
                    match chunk {
                        Ok(chunk) => whole.extend_from_slice(&chunk),
                        Err(error) => whole.extend_from_slice(format!("<{error}>").as_bytes()),
                    }
                    if seen(&String::from_utf8_lossy(&whole)).await {
                        break;
                    }
                }
            }
        }
        let trace = self.fake.trace();
        gateway.finish(reply.after).await;
        Got {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8(whole).unwrap(),
            trace,
        }
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Got {
        self.send(request(path, headers, body))
    }

    /// A modern request, with every header and field that it must have.
    pub fn modern(&self, path: &str, method: &str, params: Value) -> Got {
        self.modern_with(path, &[], method, params)
    }

    pub fn modern_with(&self, path: &str, extra: &[(&str, &str)], method: &str, params: Value) -> Got {
        self.send(modern(path, extra, method, params))
    }

    /// Opens a legacy session.
    pub fn initialize(&self, path: &str) -> (String, Got) {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {"sampling": {}}, "clientInfo": {"name": "c", "version": "1"}});
        let got = self.post(
            path,
            &[],
            &json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}),
        );
        (got.header("mcp-session-id").to_owned(), got)
    }

    pub fn legacy(&self, path: &str, session: &str, method: &str, params: Value) -> Got {
        self.send(self.in_session(path, session, method, params))
    }

    /// A request in a legacy session.
    pub fn in_session(&self, path: &str, session: &str, method: &str, params: Value) -> Request<Bytes> {
        let headers = [("mcp-session-id", session), ("mcp-protocol-version", "2025-06-18")];
        request(path, &headers, &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    }
}

/// A POST as clients send it.
pub fn request(path: &str, headers: &[(&str, &str)], body: &Value) -> Request<Bytes> {
    let mut request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    for (name, value) in headers {
        let name = http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().unwrap().insert(name, value.parse().unwrap());
    }
    request.body(body.to_string().into()).unwrap()
}

/// A modern request, with every header and field that it must have, and `extra` ones.
pub fn modern(path: &str, extra: &[(&str, &str)], method: &str, mut params: Value) -> Request<Bytes> {
    params["_meta"] = meta();
    let name = params["name"].as_str().or_else(|| params["uri"].as_str()).unwrap_or_default().to_owned();
    let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
    if !name.is_empty() {
        headers.push(("mcp-name", &name));
    }
    headers.extend_from_slice(extra);
    request(path, &headers, &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
}

pub fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}
