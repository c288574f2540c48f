//! Many calls at once, and many connections one after the other.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::platform::Timestamp;
use causeway::tunnel::frame::Response;
use causeway::tunnel::hello::{CompanionId, Offer};
use causeway::tunnel::{Effect, Input, Limits, Link, StreamId};
use causeway_fixture::Options;
use causeway_suite::host::skip;
use causeway_suite::link::transports;
use causeway_suite::{Gateway, Host};
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::link::{KEY, World, behind, call};

/// What a machine that has much else to do may need for all of them. Whoever is held up waits for ever.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes 200 calls at once, and says how long that took.
async fn calls_at_once(world: &World) -> Duration {
    let began = Instant::now();
    let calls = (0..200).map(|number| {
        let request = world.call("echo", json!({"text": format!("call {number}")})).within(PATIENCE);
        tokio::spawn(async move { (number, request.answer().await) })
    });
    for done in join_all(calls).await {
        let (number, answer) = done.unwrap();
        assert_eq!(answer.text(), format!("call {number}"));
    }
    began.elapsed()
}

/// Nobody waits for somebody who does not read: all of 200 calls are answered while four answers lie there unread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_nobody_but_itself() {
    // More than fits into every buffer on the way: those of the system take several MiB each.
    let long = "x".repeat(12 << 20);
    let patience = format!("{}s", PATIENCE.as_secs());
    let timeouts = json!({"first_byte": patience, "idle": patience, "total": patience});
    let patch = json!({"limits": {"body": "16MiB"}, "mcpServers": {"one": {"timeouts": timeouts}}});
    let world = World::with(Options::modern("one"), patch, &[]).await;
    world.assert_works().await;
    let alone = calls_at_once(&world).await;
    let before = world.gateway.resident();
    let mut unread = Vec::new();
    for _ in 0..4 {
        let reply = world.call("echo", json!({"text": long})).within(PATIENCE).send().await;
        assert_eq!(reply.status, 200);
        unread.push(reply);
    }
    let took = calls_at_once(&world).await;
    let after = world.gateway.resident();
    let _ = writeln!(
        std::io::stderr(),
        "200 calls in {alone:?}, and beside 4 slow readers in {took:?}; resident: {before:?}, {after:?} kB"
    );
    if let (Some(before), Some(after), Host::Native) = (before, after, world.gateway.host()) {
        assert!(after < before + 64 * 1024, "{before} kB grew to {after} kB");
    }
    // And those who come back to it get all of it.
    for reply in unread {
        assert_eq!(reply.answer().await.text().len(), long.len());
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_millis() as u64)
}

/// A companion of the suite's own, which can dial as fast as it likes.
struct Quick {
    gateway: String,
    link: Link,
    socket: Option<WebSocketStream<TcpStream>>,
    opened: Vec<StreamId>,
    resumed: usize,
}

impl Quick {
    fn new(gateway: &Gateway) -> Self {
        let limits = Limits { resume: Duration::from_secs(600), ..Limits::default() };
        Self {
            gateway: gateway.authority().to_owned(),
            link: Link::companion(limits, "laptop", vec![Offer::server("one")])
                .known_as(CompanionId([1; 16])),
            socket: None,
            opened: Vec::new(),
            resumed: 0,
        }
    }

    async fn perform(&mut self, out: Vec<Effect>) -> bool {
        let mut up = false;
        for effect in out {
            match effect {
                Effect::Send { message, .. } => {
                    let socket = self.socket.as_mut().unwrap();
                    socket.send(Message::Binary(message)).await.unwrap();
                }
                Effect::Pong => self.socket.as_mut().unwrap().send(Message::text("pong")).await.unwrap(),
                Effect::Up { resumed, .. } => {
                    up = true;
                    self.resumed += usize::from(resumed);
                }
                Effect::Open(id, _) => self.opened.push(id),
                Effect::Close(bye) => panic!("{bye:?}"),
                Effect::Reset(id, reset) => panic!("{id:?}: {reset:?}"),
                _ => {}
            }
        }
        up
    }

    async fn on(&mut self, input: Input) -> bool {
        let mut out = Vec::new();
        self.link.on(now(), input, &mut out);
        self.perform(out).await
    }

    /// Dials, and waits for the welcome.
    async fn dial(&mut self) {
        self.socket = None;
        self.on(Input::Lost).await;
        let stream = TcpStream::connect(&self.gateway).await.unwrap();
        let mut request = format!("ws://{}/tunnel?name=laptop", self.gateway).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        self.socket = Some(socket);
        self.on(Input::Dialled).await;
        while !self.step().await {}
    }

    async fn step(&mut self) -> bool {
        let heard = tokio::time::timeout(Duration::from_secs(20), self.socket.as_mut().unwrap().next()).await;
        match heard.expect("something is heard").expect("a connection").unwrap() {
            Message::Binary(frame) => self.on(Input::Frame(frame)).await,
            Message::Text(text) if text.as_str() == "ping" => self.on(Input::Ping).await,
            _ => false,
        }
    }

    async fn answer(&mut self, id: StreamId, text: &str) {
        let mut head = Response::new(200);
        head.headers.0.push(("content-type".into(), Bytes::from_static(b"application/json")));
        let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {"content": [{"type": "text", "text": text}],
            "resultType": "complete"}});
        self.on(Input::Head(id, head)).await;
        self.on(Input::Data(id, answer.to_string().into())).await;
        self.on(Input::End(id)).await;
    }
}

fn open_files(process: Option<u32>) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{}/fd", process?)).ok()?.count())
}

/// Whether the host takes no WebSockets, which is what [`Quick`] speaks; says so.
fn without_sockets(case: &str) -> bool {
    let without = !transports().contains(&"websocket");
    if without {
        skip(case, "it takes no WebSockets");
    }
    without
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reconnects_lose_nothing_and_leave_nothing() {
    if without_sockets("a_thousand_reconnects_lose_nothing_and_leave_nothing") {
        return;
    }
    let count = 1000;
    let gateway = Gateway::start(behind(&["one"])).await;
    let mut quick = Quick::new(&gateway);
    quick.dial().await;
    // The gateway asks each server once which era it is of.
    let probing = tokio::spawn(call(&gateway, "echo", json!({})).answer());
    while quick.opened.is_empty() {
        quick.step().await;
    }
    let probe = quick.opened.remove(0);
    quick.on(Input::Head(probe, Response::new(500))).await;
    quick.on(Input::End(probe)).await;
    _ = tokio::time::timeout(Duration::from_secs(1), quick.step()).await;
    probing.abort();

    let before = (gateway.resident(), open_files(gateway.process()));
    let began = Instant::now();
    for _ in 0..count {
        quick.dial().await;
    }
    let took = began.elapsed();
    let after = (gateway.resident(), open_files(gateway.process()));
    let _ = writeln!(
        std::io::stderr(),
        "{count} reconnects in {took:?}; resident and open files: {before:?} before, {after:?} after"
    );
    assert_eq!(quick.resumed, count);
    if let ((Some(kb), Some(files)), (Some(kb_after), Some(files_after)), Host::Native) =
        (before, after, gateway.host())
    {
        assert!(files_after <= files + 8, "{files} open files became {files_after}");
        assert!(kb_after <= kb + 8 * 1024, "{kb} kB grew to {kb_after} kB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_outlives_a_hundred_reconnects() {
    if without_sockets("a_call_outlives_a_hundred_reconnects") {
        return;
    }
    let world = World::new(Options::modern("one"), &[]).await;
    world.assert_works().await;
    // The suite's companion takes over from the real one, with what the gateway knows of the server.
    let mut quick = Quick::new(&world.gateway);
    quick.dial().await;
    let pending = tokio::spawn(world.call("echo", json!({"text": "x"})).answer());
    while quick.opened.is_empty() {
        quick.step().await;
    }
    let id = quick.opened.remove(0);
    for _ in 0..100 {
        quick.dial().await;
    }
    quick.answer(id, "at last").await;
    quick.dial().await;
    assert_eq!(pending.await.unwrap().text(), "at last");
}
