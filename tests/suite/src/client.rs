//! A client of both eras that hides nothing: statuses, headers, and each message as it comes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_fixture::MODERN;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Gateway;
use crate::host::key_for;
use crate::sse::Source;

/// Nothing in this suite takes this long unless it hangs.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Revision 2026-07-28.
    Modern,
    /// Revision 2025-11-25.
    Legacy,
}

/// A request that can still be bent.
#[derive(Debug, Clone)]
pub struct Request {
    url: String,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    patience: Duration,
}

impl Request {
    /// A request with nothing but a method and a URL.
    #[must_use]
    pub fn new(method: &str, url: String) -> Self {
        let method = method.parse().unwrap();
        Self { url, method, headers: HeaderMap::new(), body: Bytes::new(), patience: HANG }
    }

    /// A POST of `body` as an MCP client makes it, without the headers of either era.
    #[must_use]
    pub fn post(url: String, body: &Value) -> Self {
        Self::new("POST", url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(body.to_string())
    }

    /// A modern request that keeps all the rules.
    #[must_use]
    pub fn modern(url: String, id: u64, method: &str, mut params: Value) -> Self {
        let meta = &mut params["_meta"];
        for (name, value) in [
            ("protocolVersion", json!(MODERN)),
            ("clientInfo", json!({"name": "suite", "version": "1"})),
            ("clientCapabilities", json!({})),
        ] {
            let name = format!("io.modelcontextprotocol/{name}");
            if meta[&name].is_null() {
                meta[&name] = value;
            }
        }
        let name = match method {
            "tools/call" | "prompts/get" => params["name"].as_str().map(str::to_owned),
            "resources/read" => params["uri"].as_str().map(str::to_owned),
            _ => None,
        };
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let request =
            Self::post(url, &body).header("mcp-protocol-version", MODERN).header("mcp-method", method);
        match name {
            Some(name) => request.header("mcp-name", &name),
            None => request,
        }
    }

    /// This request with another value of a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        self
    }

    /// This request, whose answer, and each piece of it, may take so long.
    #[must_use]
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// This request without a header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// This request with another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// This request with another value at `pointer` of its JSON body; `Null` removes it.
    #[must_use]
    pub fn json(mut self, pointer: &str, value: Value) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).unwrap();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let name = name.replace("~1", "/");
        let parent = body.pointer_mut(parent).expect("a place in the body").as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(&name);
        } else {
            parent.insert(name, value);
        }
        self.body = body.to_string().into();
        self
    }

    /// Sends it on a connection of its own.
    pub async fn send(self) -> Reply {
        self.send_by(&http()).await
    }

    async fn send_by(self, http: &Http<HttpConnector, Full<Bytes>>) -> Reply {
        self.try_send_by(http).await.expect("an HTTP answer")
    }

    /// Sends it on a connection of its own; the error says why there is no answer.
    ///
    /// # Errors
    /// When the other side cannot be reached, hangs, or closes the connection without an answer.
    pub async fn try_send(self) -> Result<Reply, String> {
        self.try_send_by(&http()).await
    }

    pub(crate) async fn try_send_by(self, http: &Http<HttpConnector, Full<Bytes>>) -> Result<Reply, String> {
        let mut request = http::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.url.parse().unwrap();
        let brings_key = self.headers.contains_key("authorization") || self.headers.contains_key("x-api-key");
        *request.headers_mut() = self.headers;
        if let (false, Some(key)) = (brings_key, key_for(&self.url)) {
            request.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
        }
        let response = tokio::time::timeout(self.patience, http.request(request)).await;
        let response = response.map_err(|_| "no answer in time")?;
        let (head, body) = response.map_err(|error| format!("no HTTP answer: {error:?}"))?.into_parts();
        let patience = self.patience;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body, patience })
    }

    /// Sends it and reads the whole answer.
    pub async fn answer(self) -> Answer {
        self.send().await.answer().await
    }
}

pub(crate) fn http() -> Http<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Http::builder(TokioExecutor::new()).build(connector)
}

/// A response whose body has yet to come.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    patience: Duration,
}

impl Reply {
    /// The header `name` as text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub async fn text(self) -> String {
        let whole = tokio::time::timeout(self.patience, self.body.collect()).await;
        let whole = whole.expect("the whole answer in time");
        String::from_utf8(whole.expect("an answer that is not cut").to_bytes().to_vec()).unwrap()
    }

    /// The events one by one as they come, with everything that the format has.
    #[must_use]
    pub fn source(self) -> Source {
        Source::new(self.body)
    }

    /// The messages one by one as they come.
    #[must_use]
    pub fn events(self) -> Events {
        Events {
            body: self.body,
            buffer: Vec::new(),
            ready: VecDeque::new(),
            comments: 0,
            unreadable: 0,
            patience: self.patience,
        }
    }

    /// The whole answer.
    pub async fn answer(self) -> Answer {
        self.try_answer().await.expect("an answer that is not cut")
    }

    /// The whole answer; `None` if the connection was cut in the middle of a document, where nothing else can be said.
    pub async fn try_answer(self) -> Option<Answer> {
        let (status, headers) = (self.status, self.headers.clone());
        let mut answer = Answer { status, headers, text: String::new(), messages: Vec::new(), unreadable: 0 };
        if self.header("content-type").starts_with("text/event-stream") {
            let mut events = self.events();
            while let Some((message, _)) = events.next().await {
                answer.messages.push(message);
            }
            answer.unreadable = events.unreadable;
        } else {
            let whole = tokio::time::timeout(self.patience, self.body.collect()).await;
            let whole = whole.expect("the whole answer in time");
            answer.text = String::from_utf8(whole.ok()?.to_bytes().to_vec()).unwrap();
            answer.messages.extend(serde_json::from_str::<Value>(&answer.text));
        }
        Some(answer)
    }
}

/// The events of a reply.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    ready: VecDeque<Value>,
    /// How many comments have come by.
    pub comments: usize,
    /// How many events were no message.
    pub unreadable: usize,
    patience: Duration,
}

impl Events {
    /// The next message and when it came; `None` when the stream has ended in good order.
    ///
    /// # Panics
    /// When the stream is cut or hangs.
    pub async fn next(&mut self) -> Option<(Value, Instant)> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some((message, Instant::now()));
            }
            if !self.pull().await {
                return None;
            }
        }
    }

    /// Reads more; says whether there was any.
    pub async fn pull(&mut self) -> bool {
        let frame =
            tokio::time::timeout(self.patience, self.body.frame()).await.expect("the next event in time");
        let Some(frame) = frame else { return false };
        if let Ok(data) = frame.expect("a stream that is not cut").into_data() {
            self.buffer.extend_from_slice(&data);
        }
        // Strict on purpose: the gateway's own events end in "\n\n"; an upstream's may end in "\r\n\r\n".
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n" || pair == b"\n\r") {
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let event = String::from_utf8(event).unwrap();
            let mut data = Vec::new();
            for line in event.trim_start_matches('\u{feff}').lines() {
                if line.starts_with(':') {
                    self.comments += 1;
                } else if let Some(rest) = line.strip_prefix("data:") {
                    data.push(rest.strip_prefix(' ').unwrap_or(rest));
                }
            }
            if data.iter().any(|line| !line.is_empty()) {
                match serde_json::from_str(&data.join("\n")) {
                    Ok(message) => self.ready.push_back(message),
                    Err(_) => self.unreadable += 1,
                }
            }
        }
        true
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, unless it was a stream of events.
    pub text: String,
    /// The JSON-RPC messages in order.
    pub messages: Vec<Value>,
    /// How many events were no message.
    pub unreadable: usize,
}

impl Answer {
    /// The header `name` as text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The last message; `Null` if there was none.
    #[must_use]
    pub fn last(&self) -> &Value {
        self.messages.last().unwrap_or(&Value::Null)
    }

    /// The result.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn result(&self) -> &Value {
        let result = &self.last()["result"];
        assert_eq!(self.unreadable, 0, "every event is a message");
        assert!(result.is_object(), "no result: status {}, {} {}", self.status, self.text, self.last());
        result
    }

    /// The JSON-RPC error code; 0 where there is no error.
    #[must_use]
    pub fn code(&self) -> i64 {
        self.last()["error"]["code"].as_i64().unwrap_or_default()
    }

    /// The JSON-RPC error message.
    #[must_use]
    pub fn complaint(&self) -> &str {
        self.last()["error"]["message"].as_str().unwrap_or_default()
    }

    /// The first text of a tool's result.
    #[must_use]
    pub fn text(&self) -> &str {
        self.result()["content"][0]["text"].as_str().unwrap_or_default()
    }

    /// The notifications of `method`.
    #[must_use]
    pub fn told(&self, method: &str) -> Vec<&Value> {
        self.messages.iter().filter(|message| message["method"] == method).collect()
    }
}

/// A client that is connected: a handshake was made where the era has one.
#[derive(Debug)]
pub struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    url: String,
    era: Era,
    key: Option<String>,
    /// The session id, for legacy clients that were given one.
    pub session: Option<String>,
    /// The result of `initialize` or `server/discover`.
    pub hello: Value,
    next: AtomicU64,
}

impl Client {
    /// A client of `era` at `path` of `gateway`.
    pub async fn connect(gateway: &Gateway, path: &str, era: Era) -> Self {
        Self::connect_as(gateway, path, era, None).await
    }

    /// A client of `era` at `path` of `gateway` with a key.
    pub async fn connect_as(gateway: &Gateway, path: &str, era: Era, key: Option<&str>) -> Self {
        let mut client = Self {
            http: http(),
            url: gateway.url(path),
            era,
            key: key.map(str::to_owned),
            session: None,
            hello: Value::Null,
            next: AtomicU64::new(1),
        };
        match era {
            Era::Modern => client.hello = client.ask("server/discover", json!({})).await.result().clone(),
            Era::Legacy => client.initialize("2025-11-25").await,
        }
        client
    }

    /// The same client, who asks at `url` from now on.
    #[must_use]
    pub fn moved(self, url: String) -> Self {
        Self { url, ..self }
    }

    /// A legacy client of `revision`.
    pub async fn connect_at(gateway: &Gateway, path: &str, revision: &str) -> Self {
        let mut client = Self {
            http: http(),
            url: gateway.url(path),
            era: Era::Legacy,
            key: None,
            session: None,
            hello: Value::Null,
            next: AtomicU64::new(1),
        };
        client.initialize(revision).await;
        client
    }

    async fn initialize(&mut self, revision: &str) {
        let params = json!({
            "protocolVersion": revision,
            "capabilities": {},
            "clientInfo": {"name": "suite", "version": "1"},
        });
        let answer = self.ask("initialize", params).await;
        self.hello = answer.result().clone();
        self.session = Some(answer.header("mcp-session-id").to_owned()).filter(|id| !id.is_empty());
        let told = self.notify("notifications/initialized", json!({})).await;
        assert_eq!(told.status, 202, "notifications/initialized is accepted");
    }

    /// The request for `method`, for cases that bend it.
    #[must_use]
    pub fn request(&self, method: &str, params: Value) -> Request {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = match self.era {
            Era::Modern => Request::modern(self.url.clone(), id, method, params),
            Era::Legacy => {
                let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
                self.in_session(Request::post(self.url.clone(), &body))
            }
        };
        self.keyed(request)
    }

    fn in_session(&self, mut request: Request) -> Request {
        if let Some(version) = self.hello["protocolVersion"].as_str() {
            request = request.header("mcp-protocol-version", version);
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        request
    }

    fn keyed(&self, request: Request) -> Request {
        match &self.key {
            Some(key) => request.header("authorization", &format!("Bearer {key}")),
            None => request,
        }
    }

    /// Sends `method` and gives the answer as it begins.
    pub async fn send(&self, method: &str, params: Value) -> Reply {
        self.request(method, params).send_by(&self.http).await
    }

    /// Sends `method` and reads the whole answer.
    pub async fn ask(&self, method: &str, params: Value) -> Answer {
        self.send(method, params).await.answer().await
    }

    /// Calls a tool.
    pub async fn tool(&self, name: &str, arguments: Value) -> Answer {
        self.ask("tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// Sends a notification.
    pub async fn notify(&self, method: &str, params: Value) -> Reply {
        let body = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.raw_post(body).await
    }

    /// Posts `body` with the headers of this client's session.
    pub async fn raw_post(&self, body: Value) -> Reply {
        let request = self.in_session(Request::post(self.url.clone(), &body));
        self.keyed(request).send_by(&self.http).await
    }

    /// Makes a request without a body: `GET` or `DELETE` in this client's session.
    pub async fn bare(&self, method: &str) -> Reply {
        let request = Request::new(method, self.url.clone()).header("accept", "text/event-stream");
        self.keyed(self.in_session(request)).send_by(&self.http).await
    }

    /// The names of all tools, page by page.
    pub async fn tool_names(&self) -> Vec<String> {
        crate::names(&Value::Array(self.all("tools/list", "tools").await))
    }

    /// All items of a list, page by page.
    pub async fn all(&self, method: &str, key: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = Value::Null;
        for _ in 0..1000 {
            let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
            let answer = self.ask(method, params).await;
            items.extend(answer.result()[key].as_array().expect("a list").iter().cloned());
            cursor = answer.result()["nextCursor"].clone();
            if cursor.is_null() {
                return items;
            }
        }
        panic!("{method} has no last page");
    }
}

/// Writes `bytes` to the gateway and gives back everything it says, up to its closing the connection or a pause.
pub async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(gateway.authority()).await.unwrap();
    let mut bytes = String::from_utf8(bytes.to_vec()).unwrap();
    if let Some(key) = key_for(&gateway.url("")) {
        bytes = bytes.replace("\r\nhost:", &format!("\r\nx-api-key: {key}\r\nhost:"));
    }
    // The gateway may have answered and closed before all was written.
    let _ = socket.write_all(bytes.as_bytes()).await;
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(500), socket.read(&mut chunk)).await
    {
        if count == 0 {
            break;
        }
        said.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&said).into_owned()
}
