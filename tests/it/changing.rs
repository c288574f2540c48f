//! Servers that tell of changes: scripted lines, one after the other, and a record of what they were asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

/// One connection to a server's notices.
#[derive(Clone)]
pub enum Line {
    /// An event stream. In what is sent, `$ID` is the request's id and `$ACK` an event with the acknowledgement.
    Events(Vec<Step>),
    /// This status, with this body.
    Status(u16, &'static str),
    /// No connection.
    Dead,
}

/// A server that tells of changes.
pub struct Changing {
    /// The lines in order; the last one goes on for ever.
    lines: Vec<Line>,
    modern: bool,
    /// What it declares.
    pub capabilities: Value,
    /// Legacy: refuses to subscribe to resources whose URI has this in it.
    pub refuses: &'static str,
    /// How long it takes to answer anything.
    pub delay: Duration,
    /// How long its lists take on top of that.
    pub lists_take: Duration,
    slow: AtomicU64,
    connections: AtomicU64,
    sessions: AtomicU64,
    /// Sessions up to this one are over.
    pub over: AtomicU64,
    /// The number that its tool has in its name.
    pub tool: AtomicU64,
    /// What it was asked: the session, the message, and the last event id.
    pub asked: Mutex<Vec<(String, Value, String)>>,
}

/// Everything that can be declared.
pub fn everything() -> Value {
    json!({"tools": {"listChanged": true}, "prompts": {"listChanged": true},
        "resources": {"listChanged": true, "subscribe": true}})
}

impl Changing {
    pub fn new(modern: bool, lines: Vec<Line>) -> Self {
        Self {
            lines,
            modern,
            capabilities: everything(),
            refuses: "nothing is refused",
            delay: Duration::ZERO,
            lists_take: Duration::ZERO,
            slow: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            over: AtomicU64::new(0),
            tool: AtomicU64::new(0),
            asked: Mutex::default(),
        }
    }

    /// Puts it at `host`.
    pub fn put(self, fake: &Fake, host: &str) -> Arc<Self> {
        let this = Arc::new(self);
        let shared = this.clone();
        fake.upstream(host, move |request| shared.answer(request));
        this
    }

    /// How often it was connected to for its notices.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on takes three seconds more for everything.
    pub fn slow_from_now_on(&self) {
        self.slow.store(3, Ordering::Relaxed);
    }

    /// Begins with the first line again.
    pub fn rewind(&self) {
        self.connections.store(0, Ordering::Relaxed);
    }

    /// The parameters of the requests for `method`.
    pub fn asked_for(&self, method: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        let mut found = asked.iter().filter(|(_, message, _)| message["method"] == method);
        found.by_ref().map(|(_, message, _)| message["params"].clone()).collect()
    }

    fn answer(&self, request: &Request<Bytes>) -> Result<Script, causeway::platform::SeamError> {
        let header = |name: &str| {
            request.headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
        };
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let (session, last) = (header("mcp-session-id"), header("last-event-id"));
        self.asked.lock().unwrap().push((session.clone(), message.clone(), last));
        let mut script = match request.method().as_str() {
            "DELETE" => Script::new(200, "text/plain", ""),
            "GET" if self.modern => Script::new(405, "text/plain", ""),
            "GET" if self.is_over(&session) => Script::new(404, "text/plain", "no such session"),
            "GET" => self.line(&message)?,
            _ if message["method"] == "subscriptions/listen" && self.modern => self.line(&message)?,
            _ => self.post(&session, &message),
        };
        script.delay += self.delay + Duration::from_secs(self.slow.load(Ordering::Relaxed));
        if message["method"].as_str().is_some_and(|method| method.ends_with("/list")) {
            script.delay += self.lists_take;
        }
        Ok(script)
    }

    fn is_over(&self, session: &str) -> bool {
        let number: u64 = session.strip_prefix('s').and_then(|number| number.parse().ok()).unwrap_or(0);
        number <= self.over.load(Ordering::Relaxed)
    }

    fn line(&self, message: &Value) -> Result<Script, causeway::platform::SeamError> {
        let index = usize::try_from(self.connections.fetch_add(1, Ordering::Relaxed)).unwrap();
        let line = self.lines.get(index).or(self.lines.last()).unwrap();
        let steps = match line {
            Line::Dead => {
                return Err(causeway::platform::SeamError::Connect("connection refused".to_owned()));
            }
            Line::Status(status, body) => return Ok(Script::new(*status, "application/json", *body)),
            Line::Events(steps) => steps,
        };
        let id = message["id"].to_string();
        let ack = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
            "_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]},
            "notifications": message["params"]["notifications"]}});
        let fill = |bytes: &Bytes| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            Bytes::from(text.replace("$ACK", &format!("data: {ack}\n\n")).replace("$ID", &id))
        };
        let mut script = Script::new(200, "text/event-stream", "");
        script.body = steps
            .iter()
            .map(|step| match step {
                Step::Send(bytes) => Step::Send(fill(bytes)),
                other => other.clone(),
            })
            .collect();
        Ok(script)
    }

    fn post(&self, session: &str, message: &Value) -> Script {
        let answer = |outcome: Value| {
            let mut whole = json!({"jsonrpc": "2.0", "id": message["id"]});
            whole.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
            Script::json(whole.to_string())
        };
        let error = |code: i64| answer(json!({"error": {"code": code, "message": "no"}}));
        let meta = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
        let method = message["method"].as_str().unwrap_or_default();
        if meta && !self.modern {
            return Script::new(400, "application/json", "");
        }
        if message["id"].is_null() || method.is_empty() {
            return Script::new(202, "text/plain", "");
        }
        if !self.modern && method != "initialize" && self.is_over(session) {
            return Script::new(404, "text/plain", "no such session");
        }
        match method {
            "server/discover" => answer(json!({"result": {"resultType": "complete",
                "supportedVersions": ["2026-07-28"], "capabilities": self.capabilities}})),
            "initialize" => {
                let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
                let result = json!({"protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": self.capabilities, "serverInfo": {"name": "s", "version": "1"}});
                answer(json!({"result": result})).header("mcp-session-id", &format!("s{number}"))
            }
            "tools/list" => {
                let name = format!("t{}", self.tool.load(Ordering::Relaxed));
                answer(
                    json!({"result": {"resultType": "complete", "tools": [{"name": name, "inputSchema": {"type": "object"}}],
                    "ttlMs": 3_600_000, "cacheScope": "public"}}),
                )
            }
            "resources/list" => answer(json!({"result": {"resultType": "complete",
                "resources": [{"uri": "x://r", "name": "r"}], "ttlMs": 3_600_000, "cacheScope": "public"}})),
            "resources/subscribe" => {
                let refused = message["params"]["uri"].as_str().unwrap_or_default().contains(self.refuses);
                if refused { error(-32602) } else { answer(json!({"result": {}})) }
            }
            _ => error(-32601),
        }
    }
}

/// An event with `message`.
pub fn says(message: &Value) -> Step {
    Step::Send(format!("data: {message}\n\n").into())
}

/// The acknowledgement of whatever was asked.
pub fn agrees() -> Step {
    Step::Send("$ACK".into())
}

/// Time passes.
pub fn wait(millis: u64) -> Step {
    Step::Wait(Duration::from_millis(millis))
}

/// The notification that a list has changed.
pub fn changed(list: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": format!("notifications/{list}/list_changed")})
}

/// The notification that a resource has changed.
pub fn updated(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
}

/// A line that agrees, then does `steps`, and then is silent.
pub fn telling(steps: &[Step]) -> Line {
    let mut all = vec![agrees()];
    all.extend_from_slice(steps);
    all.push(Step::Stall);
    Line::Events(all)
}

/// A legacy line: `steps`, and then silence.
pub fn streaming(steps: &[Step]) -> Line {
    Line::Events(steps.iter().cloned().chain([Step::Stall]).collect())
}
