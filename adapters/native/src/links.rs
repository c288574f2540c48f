//! Companions that dial in: the WebSocket of a link, between its dock and the network.

use std::future::poll_fn;
use std::time::Duration;

use causeway::gateway::dock::{Docked, Opening};
use causeway::tunnel::MAX_MESSAGE;
use causeway::tunnel::dock::Say;
use causeway::tunnel::pair::{Message, PING, PONG};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::platform::Native;

/// How long a companion may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// How long a message may wait to be taken by the network.
const SEND: Duration = Duration::from_secs(30);
/// What is read at a time. Links are many and mostly idle, and each has such a buffer.
const BUFFER: usize = 4 * 1024;

/// The headers of the answer that accepts a WebSocket (RFC 6455 section 4.2.2).
pub(crate) fn accepted(key: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert("sec-websocket-accept", accept);
    }
    headers
}

/// Serves a companion until its connection ends.
pub(crate) async fn serve(docked: Docked<Native>, opening: Opening, upgrade: OnUpgrade) {
    // A caller that hung up before the answer is its own affair.
    let Ok(upgraded) = upgrade.await else { return };
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(BUFFER)
        .write_buffer_size(0);
    let io = TokioIo::new(upgraded);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
    let (mut sink, mut source) = socket.split();
    let mut line = docked.line();
    let hello = async {
        while line.is_new() {
            match source.next().await {
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                Some(Ok(frame)) => docked.received(&mut line, &opening.caller, read(frame)),
                _ => return false,
            }
        }
        true
    };
    if tokio::time::timeout(HELLO, hello).await != Ok(true) {
        return;
    }
    tend(&docked);
    let entry = line.entry().clone();
    let hear = async {
        while let Some(Ok(frame)) = source.next().await {
            match frame {
                Frame::Close(_) => break,
                Frame::Ping(_) | Frame::Pong(_) => {}
                frame => docked.heard(&entry, read(frame)),
            }
        }
    };
    let say = async {
        while let Some(say) = poll_fn(|context| line.poll_say(context)).await {
            if !passed(&mut sink, say).await {
                return;
            }
            // What else there is goes with it.
            while let Some(Some(say)) = poll_fn(|context| line.poll_say(context)).now_or_never() {
                if !passed(&mut sink, say).await {
                    return;
                }
            }
            if !matches!(tokio::time::timeout(SEND, sink.flush()).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = say => {}
    }
    docked.lost(&entry);
    tend(&docked);
}

/// Looks after the link for as long as it needs that.
fn tend(docked: &Docked<Native>) {
    if let Some(work) = docked.tend() {
        tokio::spawn(work);
    }
}

/// What a companion says. The heartbeat comes as text.
fn read(frame: Frame) -> Message {
    Message::decode(frame.into_data())
}

/// A message as it goes over a WebSocket.
pub(crate) fn frame(message: Message) -> Frame {
    match message {
        Message::Frame(bytes) => Frame::Binary(bytes),
        Message::Ping => Frame::text(PING),
        Message::Pong => Frame::text(PONG),
    }
}

/// Sends what is to be said; `false` if nothing can be sent any more.
async fn passed<S>(sink: &mut S, say: Say) -> bool
where
    S: futures_util::Sink<Frame> + Unpin,
{
    let (frame, goes_on) = match say {
        Say::Message(_, message) => (frame(message), true),
        Say::Close(bye) => {
            let (code, reason) = bye.close_frame();
            let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
            (Frame::Close(Some(frame)), false)
        }
    };
    let sent = tokio::time::timeout(SEND, sink.feed(frame)).await;
    if !goes_on {
        _ = tokio::time::timeout(SEND, sink.flush()).await;
    }
    goes_on && matches!(sent, Ok(Ok(())))
}
