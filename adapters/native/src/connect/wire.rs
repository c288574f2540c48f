//! One connection to the gateway: a WebSocket, or events down and `POST` up. It brings messages and takes messages,
//! and ends with a reason.

use std::time::Duration;

use bytes::Bytes;
use causeway::platform::{HttpClient as _, SeamError};
use causeway::tunnel::MAX_MESSAGE;
use causeway::tunnel::hello::SessionId;
use causeway::tunnel::pair::{self, Message, Outbox};
use causeway::wire::sse::Decoder;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message as Text, client::IntoClientRequest as _};
use url::Url;

use crate::http::Http;
use crate::links::frame;

const AGENT: &str = concat!("causeway/", env!("CARGO_PKG_VERSION"));
/// How long setting up a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a gateway may take to say that a connection is a WebSocket from now on.
const UPGRADE: Duration = Duration::from_secs(10);
/// Messages that have arrived and wait to be looked at; then the connection is not read for a while.
const WAITING: usize = 64;
/// Between two attempts to post the same batch.
const AGAIN: Duration = Duration::from_millis(300);
/// How much of a refusal is read.
const MAX_REFUSAL: usize = 64 * 1024;

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// WebSocket, and the other where that gets nowhere.
    Auto,
    /// WebSocket only.
    Websocket,
    /// Events down, `POST` up: for networks without WebSockets.
    Http,
}

/// Where to and as whom.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) url: Url,
    pub(super) bearer: Option<HeaderValue>,
    pub(super) http: Http,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// It may work later.
    Later(String),
    /// It will not work like this: what must be changed, in words.
    Never(String),
    /// There is something, but it takes no WebSockets.
    NoWebSocket(String),
    /// There is something, but nothing is heard of it.
    Silent(String),
    /// The WebSocket has ended before anything was heard: that says little of whether they are taken.
    Cut(String),
}

/// What a connection brings.
#[derive(Debug)]
pub(super) enum Heard {
    Message(Message),
    /// It is over.
    Over(Why),
}

/// What a connection is given: the message, its number if it is counted, and the session.
type Said = (Option<SessionId>, Option<u64>, Message);

/// A connection. Dropping it closes it, after what was said has been sent.
#[derive(Debug)]
pub(super) struct Wire {
    said: mpsc::UnboundedSender<Said>,
    heard: mpsc::Receiver<Heard>,
    reader: AbortHandle,
    /// For people.
    pub(super) transport: &'static str,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Wire {
    pub(super) fn is_websocket(&self) -> bool {
        self.transport == "websocket"
    }

    /// Sends `message`. A connection that is over says so by [`Self::next`].
    pub(super) fn say(&self, session: Option<SessionId>, count: Option<u64>, message: Message) {
        _ = self.said.send((session, count, message));
    }

    /// What comes next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Heard {
        let over = || Heard::Over(Why::Later("the connection has ended".to_owned()));
        self.heard.recv().await.unwrap_or_else(over)
    }

    /// Connects by WebSocket.
    pub(super) async fn websocket(peer: &Peer) -> Result<Self, Why> {
        let uri = peer.url.as_str().parse().map_err(|_| Why::Never("no URL to dial".to_owned()))?;
        let connection = peer.http.connect(&uri, CONNECT).await;
        let connection = connection.map_err(|error| Why::Later(error.to_string()))?;
        let connected = tokio::time::timeout(UPGRADE, handshake(peer, connection)).await;
        let late = || Why::Silent(format!("no answer within {} s", UPGRADE.as_secs()));
        let (mut sink, mut stream) = connected.map_err(|_| late())??.split();
        let (said, mut outgoing) = mpsc::unbounded_channel::<Said>();
        let (incoming, heard) = mpsc::channel(WAITING);
        // It ends by itself when nothing can be sent any more or nobody will say anything.
        tokio::spawn(async move {
            while let Some((_, _, message)) = outgoing.recv().await {
                let mut fine = sink.feed(frame(message)).await.is_ok();
                while let Ok((_, _, message)) = outgoing.try_recv() {
                    fine = fine && sink.feed(frame(message)).await.is_ok();
                }
                if !fine || sink.flush().await.is_err() {
                    return;
                }
            }
            _ = tokio::time::timeout(Duration::from_secs(2), sink.close()).await;
        });
        let reader = tokio::spawn(async move {
            loop {
                let heard = match stream.next().await {
                    Some(Ok(Text::Binary(frame))) => Heard::Message(Message::Frame(frame)),
                    Some(Ok(Text::Text(text))) => match text.as_str() {
                        pair::PING => Heard::Message(Message::Ping),
                        pair::PONG => Heard::Message(Message::Pong),
                        _ => continue,
                    },
                    Some(Ok(Text::Ping(_) | Text::Pong(_) | Text::Frame(_))) => continue,
                    Some(Ok(Text::Close(_))) | None => {
                        Heard::Over(Why::Later("the gateway has closed the connection".to_owned()))
                    }
                    Some(Err(error)) => Heard::Over(Why::Later(error.to_string())),
                };
                let over = matches!(heard, Heard::Over(_));
                if incoming.send(heard).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Self { said, heard, reader: reader.abort_handle(), transport: "websocket" })
    }

    /// A connection of events and `POST`s. What is said first, the hello, opens it.
    pub(super) fn pair(peer: &Peer) -> Self {
        let (said, mut outgoing) = mpsc::unbounded_channel::<Said>();
        let (incoming, heard) = mpsc::channel(WAITING);
        let peer = peer.clone();
        let reader = tokio::spawn(async move {
            let Some((_, _, Message::Frame(hello))) = outgoing.recv().await else { return };
            let (down, up) = (events(&peer, hello, &incoming), posts(&peer, outgoing));
            let why = tokio::select! {
                why = down => why,
                why = up => why,
            };
            _ = incoming.send(Heard::Over(why)).await;
        });
        Self { said, heard, reader: reader.abort_handle(), transport: "http" }
    }

    /// Closes it when what was said last has had a moment to be sent.
    pub(super) async fn close(self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

type Socket = tokio_tungstenite::WebSocketStream<crate::http::Connection>;

async fn handshake(peer: &Peer, connection: crate::http::Connection) -> Result<Socket, Why> {
    let mut url = peer.url.clone();
    _ = url.set_scheme(if url.scheme() == "https" { "wss" } else { "ws" });
    let mut request = url.as_str().into_client_request().map_err(|error| Why::Never(error.to_string()))?;
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(bearer) = &peer.bearer {
        request.headers_mut().insert(AUTHORIZATION, bearer.clone());
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0);
    match tokio_tungstenite::client_async_with_config(request, connection, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let (head, body) = response.into_parts();
            Err(refused(head.status, &body.unwrap_or_default(), peer.bearer.is_some()))
        }
        Err(tungstenite::Error::Io(error)) => Err(Why::Cut(error.to_string())),
        Err(tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete)) => {
            Err(Why::Cut("the connection has ended before there was an answer".to_owned()))
        }
        Err(error) => Err(Why::NoWebSocket(error.to_string())),
    }
}

/// What a refusal says, and whether to try again.
fn refused(status: StatusCode, body: &[u8], keyed: bool) -> Why {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = document.get("detail").or(document.get("title")).and_then(serde_json::Value::as_str);
    let mut words = match detail {
        Some(detail) => super::view::plain(detail),
        None => format!("the gateway answered {status}"),
    };
    match status {
        StatusCode::UNAUTHORIZED if !keyed => {
            words.push_str(": set CAUSEWAY_KEY to a key that may open this link");
            Why::Never(words)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::UNPROCESSABLE_ENTITY => {
            Why::Never(words)
        }
        StatusCode::NOT_FOUND if detail.is_none() => {
            Why::Never(format!("{words}: is this a Causeway gateway?"))
        }
        StatusCode::NOT_FOUND => Why::Never(words),
        StatusCode::UPGRADE_REQUIRED
        | StatusCode::OK
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_IMPLEMENTED => Why::NoWebSocket(words),
        _ => Why::Later(words),
    }
}

fn posting(peer: &Peer, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = peer.url.as_str().parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(pair::MEDIA_TYPE));
    if let Some(bearer) = &peer.bearer {
        headers.insert(AUTHORIZATION, bearer.clone());
    }
    request
}

/// Opens the stream of events with the hello, and brings what comes.
async fn events(peer: &Peer, hello: Bytes, incoming: &mpsc::Sender<Heard>) -> Why {
    let later = |error: SeamError| Why::Later(error.to_string());
    let response = match peer.http.send(posting(peer, hello)).await {
        Ok(response) => response,
        Err(error) => return later(error),
    };
    let status = response.status();
    let mut body = response.into_body();
    if status != StatusCode::OK {
        let mut read = Vec::new();
        while let Some(Ok(chunk)) = body.next().await {
            read.extend_from_slice(&chunk);
            if read.len() > MAX_REFUSAL {
                break;
            }
        }
        return match refused(status, &read, peer.bearer.is_some()) {
            Why::NoWebSocket(words) => Why::Never(words),
            why => why,
        };
    }
    let mut decoder = Decoder::new(2 * MAX_MESSAGE);
    let mut events = Vec::new();
    loop {
        match body.next().await {
            Some(Ok(chunk)) => {
                if decoder.push(&chunk, &mut events).is_err() {
                    return Why::Later("an event is larger than any can be".to_owned());
                }
                for event in events.drain(..) {
                    match Message::from_event(&event.data) {
                        Ok(message) => {
                            if incoming.send(Heard::Message(message)).await.is_err() {
                                return Why::Later(String::new());
                            }
                        }
                        Err(bye) => return Why::Later(bye.words),
                    }
                }
            }
            Some(Err(error)) => return later(error),
            None => return Why::Later("the gateway has ended the stream of events".to_owned()),
        }
    }
}

/// Posts what is said, each batch until it is taken.
async fn posts(peer: &Peer, mut outgoing: mpsc::UnboundedReceiver<Said>) -> Why {
    let mut outbox = Outbox::new(0);
    let mut session = None;
    let mut open = true;
    loop {
        if outbox.is_empty() {
            match outgoing.recv().await {
                Some((of, count, message)) if open => {
                    session = of;
                    outbox.push(count, message);
                }
                _ => return Why::Later(String::new()),
            }
        }
        loop {
            match outgoing.try_recv() {
                Ok((of, count, message)) => {
                    session = of;
                    outbox.push(count, message);
                }
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        let (from, body, count) = outbox.batch();
        let mut request = posting(peer, body);
        let headers = request.headers_mut();
        let Some(of) = session.and_then(|of| HeaderValue::from_str(&of.to_string()).ok()) else {
            return Why::Later("a message without a session".to_owned());
        };
        headers.insert(pair::SESSION, of);
        headers.insert(pair::FROM, HeaderValue::from(from));
        match peer.http.send(request).await {
            Ok(response) if response.status().is_success() => {
                // Read to its end, so that the connection can be used again.
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.next().await {}
                outbox.taken(count);
            }
            Ok(response) if response.status().is_client_error() => {
                return Why::Later(format!("what was posted is refused with {}", response.status()));
            }
            Ok(_) | Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, expect: &Why) {
        assert_eq!(refused(StatusCode::from_u16(status).unwrap(), body.as_bytes(), true), *expect);
    }

    #[test]
    fn a_refusal_says_whether_to_try_again() {
        let never = |words: &str| Why::Never(words.to_owned());
        check(403, r#"{"detail":"this key may not"}"#, &never("this key may not"));
        check(404, "", &never("the gateway answered 404 Not Found: is this a Causeway gateway?"));
        check(503, "", &Why::Later("the gateway answered 503 Service Unavailable".to_owned()));
        check(426, r#"{"detail":"no WebSockets"}"#, &Why::NoWebSocket("no WebSockets".to_owned()));
        check(403, "{\"detail\":\"a\\u001b[2Jb\"}", &never("a?[2Jb"));
        let unkeyed = refused(StatusCode::UNAUTHORIZED, b"", false);
        assert!(matches!(unkeyed, Why::Never(words) if words.contains("CAUSEWAY_KEY")));
    }
}
