//! A server of the HTTP+SSE transport on the fake platform: each GET opens a session, each POST says something on
//! its stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use causeway::platform::SeamError;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

/// What a test wants done differently: given a request's message and session, an answer to the POST, or `None` for
/// the usual.
type React = dyn Fn(&Old, &Value, u64) -> Option<Script> + Send + Sync;

/// The server.
#[derive(Clone)]
pub struct Old {
    pub fake: Fake,
    pub host: &'static str,
    /// What the endpoint event says; `{}` stands for the session's number.
    pub endpoint: &'static str,
    /// What a GET gets instead of a stream.
    pub get: Option<Script>,
    /// What the stream says before the endpoint event.
    pub before: &'static str,
    /// What a POST to the stream's URL gets.
    pub refusal: (u16, &'static str),
    pub react: Arc<React>,
    /// Every message with its session, and each request's `authorization`.
    pub seen: Arc<Mutex<Vec<(u64, Value)>>>,
    pub keys: Arc<Mutex<Vec<String>>>,
}

pub const STREAM: &str = "text/event-stream";

impl Old {
    pub fn new(fake: &Fake, host: &'static str) -> Self {
        Self {
            fake: fake.clone(),
            host,
            endpoint: "/messages?session={}",
            get: None,
            before: "",
            refusal: (405, ""),
            react: Arc::new(|_, _, _| None),
            seen: Arc::default(),
            keys: Arc::default(),
        }
    }

    pub fn react(
        mut self,
        react: impl Fn(&Self, &Value, u64) -> Option<Script> + Send + Sync + 'static,
    ) -> Self {
        self.react = Arc::new(react);
        self
    }

    /// Puts the server at its host.
    pub fn put(self) -> Self {
        let (server, sessions) = (self.clone(), AtomicU64::new(0));
        self.fake.upstream(self.host, move |request| Ok(server.answer(request, &sessions)));
        self
    }

    /// Says something on a session's stream.
    pub fn say(&self, session: u64, message: &Value) {
        self.raw(session, &format!("event: message\r\ndata: {message}\r\n\r\n"));
    }

    pub fn raw(&self, session: u64, text: &str) {
        self.step(session, Step::Send(text.to_owned().into()));
    }

    pub fn step(&self, session: u64, step: Step) {
        self.fake.say(&format!("{}/{session}", self.host), step);
    }

    /// The messages that came, as `session method`.
    pub fn heard(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.iter().map(|(s, m)| format!("{s} {}", m["method"].as_str().unwrap_or("reply"))).collect()
    }

    /// The message of `method` that came last.
    pub fn last(&self, method: &str) -> Value {
        let seen = self.seen.lock().unwrap();
        seen.iter().rfind(|(_, m)| m["method"] == method).map(|(_, m)| m.clone()).unwrap_or_default()
    }

    pub fn answer(&self, request: &Request<bytes::Bytes>, sessions: &AtomicU64) -> Script {
        let key = request.headers().get("authorization").map_or("", |key| key.to_str().unwrap());
        self.keys.lock().unwrap().push(key.to_owned());
        if request.uri().path() == "/moved" {
            let to = request.uri().to_string().replace("/moved", "/messages");
            return Script::new(307, "text/plain", "").header("location", &to);
        }
        if request.method() == "GET" {
            assert_eq!(request.headers()["accept"], STREAM);
            if let Some(script) = &self.get {
                return script.clone();
            }
            let session = sessions.fetch_add(1, Ordering::Relaxed) + 1;
            let endpoint = self.endpoint.replace("{}", &session.to_string());
            let first = format!("{}event: endpoint\ndata: {endpoint}\n\n", self.before);
            let mut script = Script::new(200, "text/event-stream; charset=utf-8", first);
            script.body.push(Step::Hear(format!("{}/{session}", self.host)));
            return script;
        }
        let session = request.uri().query().and_then(|query| query.strip_prefix("session="));
        let Some(session) = session.and_then(|session| session.parse().ok()) else {
            return Script::new(self.refusal.0, "application/json", self.refusal.1);
        };
        assert_eq!(request.headers()["content-type"], "application/json");
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        self.seen.lock().unwrap().push((session, message.clone()));
        if let Some(script) = (self.react)(self, &message, session) {
            return script;
        }
        if let Some(result) = self.result(&message) {
            self.say(session, &result);
        }
        accepted()
    }

    /// The usual response to a message.
    pub fn result(&self, message: &Value) -> Option<Value> {
        let id = message.get("id")?;
        message["method"].as_str()?;
        let result = match message["method"].as_str()? {
            "initialize" => {
                json!({"protocolVersion": "2024-11-05", "serverInfo": {"name": "old", "version": "1"},
                "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}, "prompts": {},
                    "completions": {}, "logging": {}}, "instructions": "Be patient."})
            }
            "tools/list" => match message["params"]["cursor"].as_str() {
                None => {
                    json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}], "nextCursor": "2"})
                }
                Some(_) => json!({"tools": [{"name": "u", "inputSchema": {"type": "object"}}]}),
            },
            "resources/list" => json!({"resources": [{"uri": "x://r", "name": "r"}]}),
            "prompts/list" => json!({"prompts": [{"name": "p"}]}),
            "resources/templates/list" => {
                return Some(json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}}));
            }
            method => json!({"content": [], "did": method, "with": message["params"], "id": id}),
        };
        Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
    }
}

pub fn accepted() -> Script {
    Script::new(202, "text/plain", "Accepted")
}

/// A server that breaks the connection.
pub fn put_broken(fake: &Fake, host: &str) {
    fake.upstream(host, |_| Err(SeamError::Cut("reset".to_owned())));
}
