//! The outbound client, against servers that behave and servers that do not.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::platform::{ConnectTimeout, Endless, HttpClient, SeamError};
use causeway_native::http::Http;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// A server that does `serve` with every connection. Gives its authority.
async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address.to_string()
}

/// Reads one request's head.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

fn get(url: &str) -> Request<Bytes> {
    Request::get(url).body(Bytes::new()).unwrap()
}

fn within(ms: u64, mut request: Request<Bytes>) -> Request<Bytes> {
    request.extensions_mut().insert(ConnectTimeout(Duration::from_millis(ms)));
    request
}

#[tokio::test]
async fn slow_answer_is_not_a_slow_connection() {
    let authority = server(|mut stream| async move {
        head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    })
    .await;
    let response = Http::new().send(within(100, get(&format!("http://{authority}/")))).await.unwrap();
    let chunks: Vec<_> = response.into_body().collect().await;
    assert_eq!(chunks, [Ok(Bytes::from("hi"))]);
}

#[tokio::test]
async fn connect_timeout_covers_the_tls_handshake() {
    let authority = server(|mut stream| async move {
        // Takes what it is told and never answers.
        while stream.read_u8().await.is_ok() {}
    })
    .await;
    let began = Instant::now();
    let http = Http::new();
    let sent = http.send(within(200, get(&format!("https://{authority}/path?token=secret")))).await;
    let error = sent.err().unwrap();
    assert_eq!(error, SeamError::Timeout(format!("{authority}: no connection after 200 ms")));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn refused_connection_names_host_and_port_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    drop(listener);
    let sent = Http::new().send(get(&format!("http://user:pass@{authority}/path?token=secret"))).await;
    let SeamError::Connect(text) = sent.err().unwrap() else { panic!("not a failure to connect") };
    assert!(text.starts_with(&format!("{authority}: ")) && text.contains("refused"), "{text}");
    assert!(!text.contains("secret") && !text.contains("pass"), "{text}");
}

#[tokio::test]
async fn unknown_host_cannot_be_connected_to() {
    let error = Http::new().send(get("http://no-such-host.invalid/")).await.err().unwrap();
    assert!(matches!(error, SeamError::Connect(_)), "{error}");
}

#[tokio::test]
async fn redirect_is_an_answer_like_any_other() {
    let authority = server(|mut stream| async move {
        head(&mut stream).await;
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(moved.as_bytes()).await.unwrap();
    })
    .await;
    let response = Http::new().send(get(&format!("http://{authority}/"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn dropping_the_body_closes_the_exchange() {
    let (closed, mut is_closed) = mpsc::channel(1);
    let authority = server(move |mut stream| {
        let closed = closed.clone();
        async move {
            head(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
                .await
                .unwrap();
            assert!(stream.read_u8().await.is_err());
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let mut body = Http::new().send(get(&format!("http://{authority}/"))).await.unwrap().into_body();
    assert_eq!(body.next().await, Some(Ok(Bytes::from("a"))));
    drop(body);
    tokio::time::timeout(Duration::from_secs(5), is_closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn body_that_is_cut_is_an_error() {
    let authority = server(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi").await.unwrap();
    })
    .await;
    let body = Http::new().send(get(&format!("http://{authority}/"))).await.unwrap().into_body();
    let chunks: Vec<_> = body.collect().await;
    assert!(matches!(chunks.as_slice(), [Ok(_), Err(SeamError::Cut(_))]), "{chunks:?}");
}

#[tokio::test]
async fn connection_is_used_again_and_a_stale_one_replaced() {
    let (accepted, mut connections) = mpsc::unbounded_channel();
    let authority = server(move |mut stream| {
        accepted.send(()).unwrap();
        async move {
            // Two answers, then it hangs up, as servers do when they think that nobody is there.
            for _ in 0..2 {
                if head(&mut stream).await.is_some() {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            }
        }
    })
    .await;
    let http = Http::new();
    for _ in 0..10 {
        let response = http.send(get(&format!("http://{authority}/"))).await.unwrap();
        assert_eq!(response.into_body().collect::<Vec<_>>().await.len(), 1);
    }
    let mut count = 0;
    while connections.try_recv().is_ok() {
        count += 1;
    }
    assert!((5..=10).contains(&count), "{count}");
}

/// What a server that answers every request with `said` was connected to, when `calls` were made and their bodies read up to
/// the text `until`.
async fn connections(said: &'static str, calls: usize, until: &str) -> usize {
    let (accepted, mut connections) = mpsc::unbounded_channel();
    let authority = server(move |mut stream| {
        accepted.send(()).unwrap();
        async move {
            while head(&mut stream).await.is_some() && stream.write_all(said.as_bytes()).await.is_ok() {}
        }
    })
    .await;
    let http = Http::new();
    for _ in 0..calls {
        let mut body = http.send(get(&format!("http://{authority}/"))).await.unwrap().into_body();
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).ends_with(until) {
            read.extend_from_slice(&body.next().await.unwrap().unwrap());
        }
    }
    let mut count = 0;
    while connections.try_recv().is_ok() {
        count += 1;
    }
    count
}

#[tokio::test]
async fn connection_is_kept_where_the_answer_has_an_end_and_nothing_behind_it() {
    assert_eq!(connections(OK, 5, "hi").await, 1);
    // Nobody reads on behind the last event of a stream.
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(connections(chunked, 5, "hi").await, 1);
    assert_eq!(connections("HTTP/1.1 204 No Content\r\n\r\n", 5, "").await, 1);
    let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    assert_eq!(connections(closing, 5, "hi").await, 5);
    let unasked =
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(connections(unasked, 5, "hi").await, 5);
    assert_eq!(connections("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", 5, "hi").await, 5);
}

#[tokio::test]
async fn connection_is_kept_whatever_size_its_answers_have() {
    for size in [0, 1, 7 * 1024, 8 * 1024, 64 * 1024, 128 * 1024, 1 << 20] {
        let body = "x".repeat(size);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n{body}");
        assert_eq!(connections(answer.leak(), 6, &body).await, 1, "{size}");
    }
}

#[tokio::test]
async fn kept_connection_is_closed_when_its_other_end_closes_it() {
    let (closed, mut is_closed) = mpsc::channel(1);
    let authority = server(move |mut stream| {
        let closed = closed.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // Ends when the other side lets go of it as well.
            assert!(stream.read_u8().await.is_err());
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let http = Http::new();
    let response = http.send(get(&format!("http://{authority}/"))).await.unwrap();
    assert_eq!(response.into_body().collect::<Vec<_>>().await, [Ok(Bytes::from("hi"))]);
    tokio::time::timeout(Duration::from_secs(20), is_closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn answer_may_come_before_the_request_has_gone_out() {
    let authority = server(|mut stream| async move {
        head(&mut stream).await;
        let no = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(no.as_bytes()).await.unwrap();
        // It hears no more, and does not hang up either.
        std::future::pending::<()>().await;
    })
    .await;
    let body = Bytes::from(vec![b'x'; 32 << 20]);
    let request = Request::post(format!("http://{authority}/")).body(body).unwrap();
    let sent = tokio::time::timeout(Duration::from_secs(20), Http::new().send(request)).await;
    let response = sent.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(response.into_body().collect::<Vec<_>>().await, [Ok(Bytes::from("no"))]);
}

#[tokio::test]
async fn large_bodies_arrive_whole_both_ways() {
    let authority = server(|mut stream| async move {
        let asked = head(&mut stream).await.unwrap();
        let length = asked.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    for size in [0, 1, 8 * 1024, 8 * 1024 + 1, 3 << 20] {
        let body: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        let request = Request::post(format!("http://{authority}/")).body(body.clone().into()).unwrap();
        let response = Http::new().send(request).await.unwrap();
        let mut read = Vec::new();
        let mut answered = response.into_body();
        while let Some(chunk) = answered.next().await {
            read.extend_from_slice(&chunk.unwrap());
        }
        assert!(read == body, "{size}: {}", read.len());
    }
}

/// As for a stream of news.
fn news(url: &str) -> Request<Bytes> {
    let mut request = get(url);
    request.extensions_mut().insert(Endless);
    within(2000, request)
}

#[tokio::test]
async fn news_are_read_as_they_come_and_dropping_them_closes_the_connection() {
    let (closed, mut is_closed) = mpsc::channel(1);
    let authority = server(move |mut stream| {
        let closed = closed.clone();
        async move {
            let asked = head(&mut stream).await.unwrap();
            assert!(asked.starts_with("GET /mcp HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
            // In pieces, behind an answer that is none.
            let said = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\n\
                        transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
            for part in said.as_bytes().chunks(7) {
                stream.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert!(stream.read_u8().await.is_err());
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let response = Http::new().send(news(&format!("http://{authority}/mcp"))).await.unwrap();
    assert_eq!((response.status(), response.headers().get_all("x-a").iter().count()), (StatusCode::OK, 2));
    let mut body = response.into_body();
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    assert_eq!(read, b"abc");
    drop(body);
    tokio::time::timeout(Duration::from_secs(5), is_closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn news_that_are_cut_are_an_error_and_others_end() {
    let check = async |said: &'static str, expect: &str| {
        let authority = server(move |mut stream| async move {
            head(&mut stream).await;
            stream.write_all(said.as_bytes()).await.unwrap();
        })
        .await;
        let got = match Http::new().send(news(&format!("http://{authority}/"))).await {
            Err(error) => format!("no answer: {error}"),
            Ok(response) => {
                let chunks: Vec<_> = response.into_body().collect().await;
                let texts = chunks.into_iter().map(|chunk| match chunk {
                    Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                    Err(SeamError::Cut(_)) => "cut".to_owned(),
                    Err(error) => error.to_string(),
                });
                texts.collect::<Vec<_>>().join("|")
            }
        };
        assert!(got.starts_with(expect), "{said:?}: {got}");
    };
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", "hi|cut").await;
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi").await;
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhi", "cut").await;
    check("HTTP/1.1 405 No\r\ncontent-length: 3\r\n\r\nno!", "no!").await;
    check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", "hi|cut").await;
    check("HTTP/1.0 200 OK\r\n\r\nhi", "hi").await;
    check("HTTP/1.1 204 No Content\r\n\r\n", "").await;
    check("", "no answer: connection cut").await;
    check("SSH-2.0-x\r\n", "no answer: connection cut").await;
    let endless = Box::leak(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(80 * 1024)).into_boxed_str());
    check(endless, "no answer: connection cut").await;
}

#[tokio::test]
async fn news_from_where_nobody_listens_are_refused_in_the_same_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Http::new().send(news(&format!("http://user:pass@{authority}/?token=secret"))).await.err();
    let Some(SeamError::Connect(text)) = error else { panic!("not a failure to connect") };
    assert!(text.starts_with(&format!("{authority}: ")) && text.contains("refused"), "{text}");
}
