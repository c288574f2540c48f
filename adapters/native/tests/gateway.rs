//! A gateway in process: starting, reloading, stopping.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::platform::HttpClient;
use causeway_fixture::{Fixture, Options as Upstream};
use causeway_native::http::Http;
use causeway_native::running::{Options, Refused, Running, Source, State};
use futures_util::StreamExt;
use http::{Request, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn start(file: &Path) -> Running {
    Running::start(Options::new(Source::File(file.to_owned()))).await.unwrap()
}

async fn get(running: &Running, path: &str) -> (StatusCode, String) {
    let url = format!("http://127.0.0.1:{}{path}", running.address().port());
    let response = Http::new().send(Request::get(url).body(Bytes::new()).unwrap()).await.unwrap();
    let status = response.status();
    let chunks: Vec<_> = response.into_body().map(Result::unwrap).collect().await;
    (status, String::from_utf8(chunks.concat()).unwrap())
}

fn serving(url: &str) -> String {
    json!({ "mcpServers": { "one": { "url": url } } }).to_string()
}

fn configured(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.json");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

/// Waits for `condition`, for at most the two seconds that a change of the file may take.
async fn soon(condition: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > Duration::from_secs(2) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

#[tokio::test]
async fn gateway_answers_on_a_free_port() {
    let (_folder, file) = configured(&serving("http://127.0.0.1:1/mcp"));
    let running = start(&file).await;
    assert_eq!(get(&running, "/health").await.0, StatusCode::OK);
    let (status, body) = get(&running, "/status").await;
    assert!(status == StatusCode::OK && body.contains("\"native\"") && body.contains("\"one\""), "{body}");
    assert!(running.stop().await);
}

#[tokio::test]
async fn changed_file_is_in_force_within_two_seconds_and_a_bad_one_never() {
    let (_folder, file) = configured(&serving("http://127.0.0.1:1/mcp"));
    let running = start(&file).await;
    let before = running.plan().unwrap().digest.clone();
    std::fs::write(&file, "{ \"mcpServers\": ").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(running.plan().unwrap().digest, before, "what was in force goes on");
    let new = file.with_extension("new");
    std::fs::write(&new, serving("http://127.0.0.1:2/mcp")).unwrap();
    std::fs::rename(&new, &file).unwrap();
    assert!(soon(|| running.plan().unwrap().digest != before).await);
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(running.plan().is_some());
}

#[tokio::test]
async fn changed_secret_is_filled_in_without_a_restart() {
    let (folder, file) = configured(&serving("http://127.0.0.1:1/${CAUSEWAY_TEST_PATH:-unset}"));
    let running = start(&file).await;
    let path = || running.plan().unwrap().server("one").unwrap().url.path().to_owned();
    assert_eq!(path(), "/unset");
    std::fs::write(folder.path().join(".env"), "CAUSEWAY_TEST_PATH=set").unwrap();
    assert!(soon(|| path() == "/set").await);
}

#[tokio::test]
async fn reload_is_done_when_asked_for() {
    let (_folder, file) = configured(&serving("http://127.0.0.1:1/mcp"));
    let running = start(&file).await;
    let before = running.plan().unwrap();
    running.reload();
    assert!(soon(|| !std::sync::Arc::ptr_eq(&before, &running.plan().unwrap())).await);
}

#[tokio::test]
async fn keyless_gateway_is_refused_on_a_public_address() {
    let (_folder, file) = configured(&serving("http://127.0.0.1:1/mcp"));
    let public = || Options {
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        ..Options::new(Source::File(file.clone()))
    };
    let Err(Refused::Configuration(problems)) = Running::start(public()).await else { panic!("it started") };
    assert!(problems.concat().contains("--allow-public"), "{problems:?}");
    let running = Running::start(Options { allow_public: true, ..public() }).await.unwrap();
    // Nothing but the flag vouches for it, so a page that rebinds its name is still kept out.
    let url = format!("http://127.0.0.1:{}/status", running.address().port());
    let page = |origin: &str, host: &str| {
        Request::get(&url).header("origin", origin).header("host", host).body(Bytes::new()).unwrap()
    };
    let rebound = Http::new().send(page("http://evil.example", "evil.example")).await.unwrap();
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN);
    let proxied = Request::get(&url).header("host", "gateway.example").body(Bytes::new()).unwrap();
    assert_eq!(Http::new().send(proxied).await.unwrap().status(), StatusCode::OK);
    let (status, _) = get(&running, "/admin/v1/config").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "anyone is no administrator");
}

#[tokio::test]
async fn gateway_with_nothing_to_serve_does_not_start() {
    let started = Running::start(Options::new(Source::Pushed)).await;
    assert!(matches!(started, Err(Refused::Configuration(_))), "{started:?}");
    let folder = tempfile::tempdir().unwrap();
    let missing = Running::start(Options::new(Source::File(folder.path().join("none.yaml")))).await;
    let Err(Refused::Configuration(problems)) = missing else { panic!("it started") };
    assert!(problems.concat().contains("none.yaml: cannot be read"), "{problems:?}");
}

#[tokio::test]
async fn taken_address_is_said_to_be_taken() {
    let (_folder, file) = configured(&serving("http://127.0.0.1:1/mcp"));
    let first = start(&file).await;
    let again = Options { listen: first.address(), ..Options::new(Source::File(file)) };
    let Err(Refused::Host(why)) = Running::start(again).await else { panic!("it started") };
    assert!(why.contains("--listen"), "{why}");
}

/// One call of the fixture's slow tool, in flight.
fn slow_call(running: &Running, ms: u64) -> tokio::task::JoinHandle<Result<String, String>> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "one__slow", "arguments": { "ms": ms },
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        } } });
    let request = Request::post(running.url())
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "one__slow")
        .body(Bytes::from(body.to_string()))
        .unwrap();
    tokio::spawn(async move {
        let response = Http::new().send(request).await.map_err(|error| error.to_string())?;
        let mut body = response.into_body();
        let mut text = String::new();
        while let Some(chunk) = body.next().await {
            text.push_str(&String::from_utf8_lossy(&chunk.map_err(|error| error.to_string())?));
        }
        Ok(text)
    })
}

async fn upstream() -> Fixture {
    Fixture::start(Upstream::modern("one")).await
}

async fn called(upstream: &Fixture) {
    assert!(upstream.until(|upstream| upstream.trace().iter().any(|method| method == "tools/call")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_in_flight_ends_before_the_gateway_does() {
    let upstream = upstream().await;
    let (_folder, file) = configured(&serving(&upstream.url()));
    let running = start(&file).await;
    let address = running.address();
    let call = slow_call(&running, 700);
    called(&upstream).await;
    let stopping = tokio::spawn(running.stop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "no new connections");
    assert!(call.await.unwrap().unwrap().contains("slowly done"));
    assert!(stopping.await.unwrap(), "all ended in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_is_not_for_ever() {
    let upstream = upstream().await;
    let (_folder, file) = configured(&serving(&upstream.url()));
    let mut options = Options::new(Source::File(file));
    options.limits.grace = Duration::from_millis(200);
    let running = Running::start(options).await.unwrap();
    let _call = slow_call(&running, 10_000);
    called(&upstream).await;
    let began = Instant::now();
    assert!(!running.stop().await);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn head_that_is_too_large_is_refused() {
    let (_folder, file) = configured(&serving("http://127.0.0.1:1/mcp"));
    let running = start(&file).await;
    let url = format!("http://{}/health", running.address());
    let request = Request::get(url).header("x-large", "x".repeat(80 * 1024)).body(Bytes::new()).unwrap();
    let response = Http::new().send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn state_is_kept_in_the_folder_that_was_named() {
    let (folder, file) = configured(&serving("http://127.0.0.1:1/mcp"));
    let state = State::Folder(folder.path().join("state"));
    let running = Running::start(Options { state, ..Options::new(Source::File(file)) }).await.unwrap();
    assert_eq!(get(&running, "/ready").await.0, StatusCode::OK);
    assert!(folder.path().join("state/state.sqlite").exists());
}

/// A session of a legacy client, and the answer to the GET of its stream, over a connection of its own.
async fn standing(running: &Running) -> (tokio::net::TcpStream, String) {
    let opened = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    let request = Request::post(running.url())
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(Bytes::from(opened.to_string()))
        .unwrap();
    let answer = Http::new().send(request).await.unwrap();
    let session = answer.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let mut stream = tokio::net::TcpStream::connect(running.address()).await.unwrap();
    let asked = format!(
        "GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {session}\r\n\r\n",
        running.address()
    );
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap().to_lowercase())
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_news_has_its_connection_alone_and_ends_in_good_order() {
    let upstream = upstream().await;
    let (_folder, file) = configured(&serving(&upstream.url()));
    let running = start(&file).await;
    let (mut stream, head) = standing(&running).await;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(
        head.contains("transfer-encoding: chunked\r\n") && head.contains("connection: close\r\n"),
        "{head}"
    );
    // Nobody answers what is sent behind it, and it does no harm.
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    upstream.changed("tools");
    let mut said = String::new();
    while !said.contains("tools/list_changed") {
        said.push(char::from(stream.read_u8().await.unwrap()));
    }
    let stopping = tokio::spawn(running.stop());
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    assert!(!said.contains("status") && !rest.contains("status"), "{said}{rest}");
    assert!(stopping.await.unwrap(), "all ended in time");
}
