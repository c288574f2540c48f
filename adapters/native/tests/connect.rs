//! `causeway connect` in front of an edge that does as it is told: what it offers, what it answers, and how it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::collections::HashMap;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use causeway::platform::Timestamp;
use causeway::tunnel::frame::{Headers, Request};
use causeway::tunnel::hello::{Hello, Offer, SessionId, Verdict};
use causeway::tunnel::link::Greeting;
use causeway::tunnel::{Bye, ByeCode, Effect, Input, Limits, Link, Reset, ResetCode, StreamId};
use causeway_fixture::model::{KEY, Model};
use causeway_fixture::{Fixture, Options};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway's end: a listener, the connection and the link.
struct Edge {
    listener: TcpListener,
    socket: Option<WebSocketStream<TcpStream>>,
    link: Option<Link>,
    sessions: u8,
    /// What is refused, by name.
    refused: Vec<&'static str>,
    answers: HashMap<StreamId, Answer>,
    closed: Option<Bye>,
    /// How many times a companion was welcomed to its old session.
    resumed: usize,
}

#[derive(Debug, Default)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
    over: bool,
    reset: Option<Reset>,
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

impl Edge {
    async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            socket: None,
            link: None,
            sessions: 0,
            refused: Vec::new(),
            answers: HashMap::new(),
            closed: None,
            resumed: 0,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    /// Waits for a companion and welcomes it.
    async fn accept(&mut self) -> Hello {
        let (socket, _) = tokio::time::timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
        let Some(Ok(Message::Binary(hello))) = socket.next().await else { panic!("no hello") };
        let hello = Hello::read(&hello).unwrap();
        let verdicts = hello.offers.iter().cloned().map(|offer| match self.refused.contains(&offer.name()) {
            true => Verdict::refused(offer, "the gateway's configuration does not have it"),
            false => Verdict::accepted(offer),
        });
        let verdicts: Vec<_> = verdicts.collect();
        let mut out = Vec::new();
        match self.link.as_mut().map(|link| (link.greeting(now(), &hello), link)) {
            Some((Greeting::Resume, link)) => {
                self.resumed += 1;
                link.on(now(), Input::Hello(hello.clone(), verdicts), &mut out);
            }
            _ => {
                self.sessions += 1;
                let id = SessionId([self.sessions; 16]);
                self.link = Some(Link::edge(now(), Limits::default(), id, &hello, verdicts, &mut out));
            }
        }
        self.socket = Some(socket);
        self.perform(out).await;
        hello
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { message, .. } => self.send(Message::Binary(message)).await,
                Effect::Ping => self.send(Message::text("ping")).await,
                Effect::Pong => self.send(Message::text("pong")).await,
                Effect::Head(id, head) => {
                    let answer = self.answers.entry(id).or_default();
                    (answer.status, answer.headers) = (head.status, head.headers.to_map());
                }
                Effect::Data(id, bytes) => {
                    self.answers.entry(id).or_default().body.extend_from_slice(&bytes);
                    let mut out = Vec::new();
                    self.link.as_mut().unwrap().on(now(), Input::Read(id, bytes.len()), &mut out);
                    Box::pin(self.perform(out)).await;
                }
                Effect::End(id) => self.answers.entry(id).or_default().over = true,
                Effect::Reset(id, reset) => self.answers.entry(id).or_default().reset = Some(reset),
                Effect::Close(bye) => self.closed = Some(bye),
                _ => {}
            }
        }
    }

    async fn send(&mut self, message: Message) {
        if let Some(socket) = &mut self.socket {
            _ = socket.send(message).await;
        }
    }

    /// Takes what comes; false when the connection is over.
    async fn step(&mut self) -> bool {
        let socket = self.socket.as_mut().expect("a connection");
        let heard = tokio::time::timeout(PATIENCE, socket.next()).await.expect("something is heard");
        let input = match heard {
            Some(Ok(Message::Binary(frame))) => Input::Frame(frame),
            Some(Ok(Message::Text(text))) if text.as_str() == "ping" => Input::Ping,
            Some(Ok(Message::Text(_))) => Input::Pong,
            Some(Ok(_)) => return true,
            Some(Err(_)) | None => Input::Lost,
        };
        let over = input == Input::Lost;
        let mut out = Vec::new();
        self.link.as_mut().unwrap().on(now(), input, &mut out);
        if over {
            self.socket = None;
        }
        self.perform(out).await;
        !over
    }

    async fn open(&mut self, request: Request, body: &[u8]) -> StreamId {
        let mut out = Vec::new();
        let link = self.link.as_mut().unwrap();
        let id = link.open(now(), request, &mut out).unwrap();
        if !body.is_empty() {
            assert!(link.room(id) >= body.len());
            link.on(now(), Input::Data(id, Bytes::copy_from_slice(body)), &mut out);
        }
        link.on(now(), Input::End(id), &mut out);
        self.perform(out).await;
        id
    }

    async fn answer(&mut self, id: StreamId) -> Answer {
        while !self.answers.get(&id).is_some_and(|answer| answer.over || answer.reset.is_some()) {
            assert!(self.step().await, "the connection ended before the answer did");
        }
        self.answers.remove(&id).unwrap()
    }

    async fn ask(&mut self, request: Request, body: &Value) -> Answer {
        let id = self.open(request, body.to_string().as_bytes()).await;
        self.answer(id).await
    }

    async fn close(&mut self, bye: Bye) {
        let mut out = Vec::new();
        self.link.as_mut().unwrap().on(now(), Input::Close(bye), &mut out);
        self.perform(out).await;
    }

    async fn drop_connection(&mut self) {
        self.socket = None;
        let mut out = Vec::new();
        self.link.as_mut().unwrap().on(now(), Input::Lost, &mut out);
        self.perform(out).await;
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{self:?}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// The companion as a program.
struct Companion {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    folder: TempDir,
}

impl Companion {
    fn start(edge: &str, config: &Value, more: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("mcp.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_causeway"))
            .args(["connect", edge, "--name", "laptop", "--config"])
            .arg(&file)
            .args(more)
            .env_remove("CAUSEWAY_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, folder }
    }

    async fn end(mut self) -> (ExitStatus, String, String) {
        let ended = tokio::time::timeout(PATIENCE, async {
            let (mut out, mut err) = (String::new(), String::new());
            while let Ok(Some(line)) = self.lines.next_line().await {
                out.push_str(&format!("{line}\n"));
            }
            self.process.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
            (self.process.wait().await.unwrap(), out, err)
        });
        ended.await.expect("it ends")
    }
}

fn serving(servers: &[(&str, &Fixture)]) -> Value {
    let servers: serde_json::Map<_, _> =
        servers.iter().map(|(name, fixture)| ((*name).to_owned(), json!({"url": fixture.url()}))).collect();
    json!({ "mcpServers": servers })
}

fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "edge", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn request(server: &str, method: &str, name: Option<&str>) -> Request {
    let mut request = Request::post(Offer::server(server), "");
    let mut headers = vec![
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", method),
    ];
    headers.extend(name.map(|name| ("mcp-name", name)));
    request.headers = Headers(
        headers.into_iter().map(|(name, value)| (name.to_owned(), Bytes::from(value.to_owned()))).collect(),
    );
    request
}

async fn tools(edge: &mut Edge, server: &str) -> Vec<String> {
    let answer = edge.ask(request(server, "tools/list", None), &modern("tools/list", json!({}))).await;
    let answer = answer.json();
    let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn servers_of_the_file_are_offered_and_answer() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut config = serving(&[("one", &fixture)]);
    config["mcpServers"]["one"]["headers"] = json!({"x-own": "of the file"});
    config["mcpServers"]["other"] = json!({"url": fixture.url(), "via": "desktop"});
    let mut edge = Edge::new().await;
    let _companion = Companion::start(&edge.url(), &config, &[]);
    let hello = edge.accept().await;
    assert_eq!((hello.name.as_str(), &hello.offers[..]), ("laptop", &[Offer::server("one")][..]));
    let mut asked = request("one", "tools/list", None);
    asked.headers.0.push(("x-own".to_owned(), Bytes::from_static(b"of the edge")));
    asked.headers.0.push(("host".to_owned(), Bytes::from_static(b"elsewhere.example")));
    let answer = edge.ask(asked, &modern("tools/list", json!({}))).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["result"]["tools"].is_array(), "{answer:?}");
    let seen = fixture.seen();
    assert_eq!(seen.last().unwrap().header("x-own"), Some("of the file"));
    assert_eq!(seen.last().unwrap().header("host"), Some(fixture.address().to_string().as_str()));
}

#[tokio::test]
async fn what_is_not_offered_or_lies_elsewhere_is_refused() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut config = serving(&[("one", &fixture)]);
    config["mcpServers"]["missing"] = json!({"url": "http://${CAUSEWAY_NOT_SET_HERE}/mcp"});
    let mut edge = Edge::new().await;
    let _companion = Companion::start(&edge.url(), &config, &[]);
    edge.accept().await;
    let list = modern("tools/list", json!({}));
    let reset = edge.ask(request("two", "tools/list", None), &list).await.reset.unwrap();
    assert_eq!(reset.code, ResetCode::NotOffered);
    assert_eq!(reset.words, r#"companion "laptop" does not offer server "two""#);
    let reset = edge.ask(request("missing", "tools/list", None), &list).await.reset.unwrap();
    assert!(reset.words.contains("CAUSEWAY_NOT_SET_HERE"), "and says why: {}", reset.words);
    for path in ["/admin", "http://127.0.0.1:1/mcp", "//evil.example/", "/mcp/../x"] {
        let astray = Request { path: path.to_owned(), ..request("one", "tools/list", None) };
        assert_eq!(edge.ask(astray, &list).await.reset.unwrap().code, ResetCode::Refused, "{path}");
    }
    assert_eq!(fixture.seen().len(), 0);
}

#[tokio::test]
async fn only_allowed_tools_are_listed_and_called() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut edge = Edge::new().await;
    let _companion =
        Companion::start(&edge.url(), &serving(&[("one", &fixture)]), &["--allow", "test_simple_*"]);
    edge.accept().await;
    assert_eq!(tools(&mut edge, "one").await, ["test_simple_text"]);
    let call = |name: &str| modern("tools/call", json!({"name": name, "arguments": {}}));
    let refused =
        edge.ask(request("one", "tools/call", Some("x")), &call("test_error_handling")).await.json();
    assert_eq!(refused["error"]["code"], -32602);
    assert!(refused["error"]["message"].as_str().unwrap().contains("--allow"), "{refused}");
    let fine =
        edge.ask(request("one", "tools/call", Some("test_simple_text")), &call("test_simple_text")).await;
    assert!(fine.json()["result"]["content"].is_array(), "{fine:?}");
}

#[tokio::test]
async fn once_checks_everything_and_ends() {
    let (modern, legacy) =
        (Fixture::start(Options::modern("one")).await, Fixture::start(Options::legacy("two")).await);
    let mut edge = Edge::new().await;
    let offered = serving(&[("one", &modern), ("two", &legacy)]);
    let companion = Companion::start(&edge.url(), &offered, &["--once", "--allow", "ech*"]);
    edge.accept().await;
    while edge.step().await {}
    let (status, out, err) = companion.end().await;
    assert!(status.success(), "{out}{err}");
    assert!(
        out.contains("NAME") && out.lines().filter(|line| line.contains(" tools, ")).count() == 2,
        "{out}"
    );
    // And nothing that is not exposed.
    assert!(out.contains("\none exposes echo\n") && out.contains("\ntwo exposes echo\n"), "{out}");
    assert_eq!(edge.closed.unwrap().code, ByeCode::Shutdown);
}

#[tokio::test]
async fn once_fails_for_what_is_refused_or_does_not_answer() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut config = serving(&[("one", &fixture)]);
    config["mcpServers"]["dead"] = json!({"url": "http://127.0.0.1:1/mcp"});
    let mut edge = Edge::new().await;
    edge.refused.push("one");
    let companion = Companion::start(&edge.url(), &config, &["--once", "--json"]);
    edge.accept().await;
    while edge.step().await {}
    let (status, out, _) = companion.end().await;
    assert_eq!(status.code(), Some(1));
    let report: Value = serde_json::from_str(&out).unwrap();
    let row = |name: &str| {
        let rows = report["offers"].as_array().unwrap();
        rows.iter().find(|row| row["offer"]["server"] == name).unwrap().clone()
    };
    assert_eq!(report["fine"], false);
    assert_eq!(row("one")["refused"], "the gateway's configuration does not have it");
    assert!(row("dead")["error"].as_str().unwrap().contains("connect"), "{out}");
}

#[tokio::test]
async fn a_refused_key_ends_it_and_says_what_is_missing() {
    let edge = Edge::new().await;
    let companion = Companion::start(&edge.url(), &serving(&[]), &["--key", "cw_wrong"]);
    let (mut socket, _) = edge.listener.accept().await.unwrap();
    let mut head = vec![0; 4096];
    let length = socket.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
    assert!(
        head.contains("get /tunnel?name=laptop") && head.contains("authorization: bearer cw_wrong"),
        "{head}"
    );
    let body = r#"{"title":"forbidden","detail":"this key may not open a link called \"laptop\""}"#;
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await.unwrap();
    let (status, out, err) = companion.end().await;
    assert_eq!(status.code(), Some(1), "{out}");
    assert!(err.contains("link laptop: this key may not open a link called"), "{err}");
    assert!(!out.contains("cw_wrong") && !err.contains("cw_wrong"));
}

#[tokio::test]
async fn whatever_answers_while_the_gateway_is_away_keeps_no_companion_from_dialling_again() {
    for transport in ["websocket", "auto"] {
        let mut edge = Edge::new().await;
        let more = ["--transport", transport, "--pause", "0.1", "--json"];
        let companion = Companion::start(&edge.url(), &serving(&[]), &more);
        // The gateway is killed in the middle of the first handshake.
        let (mut socket, _) = edge.listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 16]).await;
        drop(socket);
        edge.accept().await;
        edge.drop_connection().await;
        // What stands in front of the gateway answers in its place.
        for page in ["200 OK", "400 Bad Request", "501 Not Implemented"] {
            let (mut socket, _) = edge.listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await;
            let answer = format!(
                "HTTP/1.1 {page}\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwait"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
            drop(socket);
            if transport == "auto" {
                // It tries events and POST, which are not taken either.
                let (mut socket, _) = edge.listener.accept().await.unwrap();
                let _ = socket.read(&mut [0; 4096]).await;
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        edge.accept().await;
        drop(companion);
    }
}

#[tokio::test]
async fn whoever_is_replaced_ends_and_says_so() {
    let mut edge = Edge::new().await;
    let companion = Companion::start(&edge.url(), &serving(&[]), &[]);
    edge.accept().await;
    edge.close(Bye::new(ByeCode::Replaced, "a newer companion named \"laptop\" has taken over")).await;
    let (status, _, err) = companion.end().await;
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("a newer companion"), "{err}");
}

#[tokio::test]
async fn a_call_in_flight_outlives_its_connection() {
    let fixture = Fixture::start(Options::modern("one").matrix()).await;
    let mut edge = Edge::new().await;
    let _companion = Companion::start(&edge.url(), &serving(&[("one", &fixture)]), &[]);
    let first = edge.accept().await;
    assert_eq!((first.session, first.dial), (None, 1));
    assert!(first.companion.is_some());
    for round in 0..5 {
        let call = modern("tools/call", json!({"name": "slow", "arguments": {"ms": 400}}));
        let id = edge.open(request("one", "tools/call", Some("slow")), call.to_string().as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        edge.drop_connection().await;
        let again = edge.accept().await;
        assert_eq!((again.companion, again.dial), (first.companion, 2 + round));
        let answer = edge.answer(id).await;
        assert_eq!((answer.status, &answer.reset), (200, &None));
    }
    assert_eq!(edge.resumed, 5);
}

#[tokio::test]
async fn a_changed_file_is_offered_anew_on_the_same_session() {
    let fixture = Fixture::start(Options::modern("one")).await;
    let mut edge = Edge::new().await;
    let companion = Companion::start(&edge.url(), &serving(&[("one", &fixture)]), &[]);
    edge.accept().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let file = companion.folder.path().join("mcp.json");
    std::fs::write(file, serving(&[("one", &fixture), ("two", &fixture)]).to_string()).unwrap();
    while edge.step().await {}
    let hello = edge.accept().await;
    assert_eq!(hello.offers, [Offer::server("one"), Offer::server("two")]);
    assert_eq!(edge.resumed, 1);
    assert!(!tools(&mut edge, "two").await.is_empty());
}

#[tokio::test]
async fn a_call_that_is_cancelled_ends_at_the_server() {
    let fixture = Fixture::start(Options::modern("one").matrix()).await;
    let mut edge = Edge::new().await;
    let _companion = Companion::start(&edge.url(), &serving(&[("one", &fixture)]), &[]);
    edge.accept().await;
    let listen = modern("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
    let id = edge.open(request("one", "subscriptions/listen", None), listen.to_string().as_bytes()).await;
    while edge.answers.get(&id).is_none_or(|answer| answer.status != 200) {
        edge.step().await;
    }
    assert!(fixture.until(|fixture| fixture.listeners() == 1).await);
    let mut out = Vec::new();
    let gone = Reset::new(ResetCode::Cancelled, "the caller has gone");
    edge.link.as_mut().unwrap().on(now(), Input::Reset(id, gone), &mut out);
    edge.perform(out).await;
    assert!(fixture.until(|fixture| fixture.listeners() == 0).await);
}

/// A request for models behind the companion.
fn model(name: &str, method: &str, path: &str) -> Request {
    let mut request = Request::post(Offer::model(name), path);
    request.method = method.to_owned();
    request.headers = Headers(vec![("content-type".to_owned(), Bytes::from_static(b"application/json"))]);
    request
}

#[tokio::test]
async fn models_of_the_file_are_asked_with_its_own_credential_and_nothing_else_is() {
    let provider = Model::start("ollama").await;
    let config = json!({"llm": {"providers": {
        "local": provider.entry(),
        "elsewhere": {"kind": "ollama", "via": "desktop"},
        "openai": {"api_key": "sk-of-the-gateway"},
    }}});
    let mut edge = Edge::new().await;
    let _companion = Companion::start(&edge.url(), &config, &[]);
    assert_eq!(edge.accept().await.offers, [Offer::model("local")]);
    let question = json!({"model": "m-1", "messages": [{"role": "user", "content": "Hi"}], "stream": false});
    let mut chat = model("local", "POST", "/api/chat");
    for (name, value) in [("authorization", "Bearer of the edge"), ("cookie", "a=b"), ("traceparent", "00-1")]
    {
        chat.headers.0.push((name.to_owned(), Bytes::from(value)));
    }
    let answer = edge.ask(chat, &question).await;
    assert_eq!((answer.status, answer.json()["message"]["content"].as_str()), (200, Some("You said: Hi")));
    let seen = provider.seen();
    assert_eq!(seen[0].headers["authorization"], format!("Bearer {KEY}"));
    assert!(!seen[0].headers.contains_key("cookie") && seen[0].headers["traceparent"] == "00-1");
    assert_eq!(edge.ask(model("local", "GET", "/api/tags"), &json!({})).await.status, 200);
    let asked = provider.seen().len();
    let others = [
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("GET", "/api/chat"),
        ("POST", "/api/chat?x=1"),
        ("POST", "/api/../api/chat"),
        ("POST", "http://127.0.0.1:1/api/chat"),
        ("POST", "//evil.example/api/chat"),
        ("POST", ""),
    ];
    for (method, path) in others {
        let reset = edge.ask(model("local", method, path), &question).await.reset.unwrap();
        assert_eq!(reset.code, ResetCode::Refused, "{method} {path}");
        assert!(
            reset.words.contains("provider \"local\"") && reset.words.contains("`ollama`"),
            "{}",
            reset.words
        );
    }
    for name in ["elsewhere", "openai", "other"] {
        let reset = edge.ask(model(name, "POST", "/api/chat"), &question).await.reset.unwrap();
        assert_eq!(reset.code, ResetCode::NotOffered, "{name}");
    }
    let server = edge.ask(request("local", "tools/list", None), &json!({})).await.reset.unwrap();
    assert_eq!(server.code, ResetCode::NotOffered, "what is called so is no server");
    assert_eq!(provider.seen().len(), asked);
}

#[tokio::test]
async fn a_provider_that_sends_elsewhere_is_not_followed() {
    let other = Model::start("ollama").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let to = format!("{}/api/chat", other.url());
    let answering = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            _ = socket.read(&mut asked).await.unwrap();
            let answer = format!(
                "HTTP/1.1 307 Go\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let config = json!({"llm": {"providers": {"local": {"kind": "ollama", "url": format!("http://{own}")}}}});
    let mut edge = Edge::new().await;
    let _companion = Companion::start(&edge.url(), &config, &[]);
    edge.accept().await;
    assert_eq!(edge.ask(model("local", "POST", "/api/chat"), &json!({})).await.status, 307);
    assert_eq!(edge.ask(model("local", "GET", "/api/tags"), &json!({})).await.status, 307);
    answering.await.unwrap();
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn once_asks_providers_for_their_models() {
    let provider = Model::start("lmstudio").await;
    let config = json!({"llm": {"providers": {
        "local": provider.entry(),
        "dead": {"kind": "ollama", "url": "http://127.0.0.1:1"},
    }}});
    let mut edge = Edge::new().await;
    let companion = Companion::start(&edge.url(), &config, &["--once", "--json"]);
    edge.accept().await;
    while edge.step().await {}
    let (status, out, _) = companion.end().await;
    assert_eq!(status.code(), Some(1));
    let report: Value = serde_json::from_str(&out).unwrap();
    let row = |name: &str| {
        let rows = report["offers"].as_array().unwrap();
        rows.iter().find(|row| row["offer"]["model"] == name).unwrap().clone()
    };
    assert_eq!(row("local")["models"], 1, "{report}");
    assert!(row("local")["error"].is_null() && row("local")["at"].as_str().unwrap().starts_with("lmstudio "));
    assert!(row("dead")["error"].as_str().unwrap().contains("provider \"dead\": cannot connect"), "{report}");
}
