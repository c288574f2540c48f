//! Links: the WebSockets of companions, in the Durable Object that keeps a link's dock.
//!
//! The object accepts them for hibernation: while a link is idle nothing of it is in memory but the connection, which
//! Cloudflare keeps and whose heartbeat it answers. While a request is on its way through the link, the request itself
//! keeps the object awake.

use std::pin::pin;
use std::sync::Arc;

use causeway::gateway::dock::Opening;
use causeway::gateway::sockets::{Socket, Sockets};
use causeway::relay::through;
use causeway::tunnel::pair::{Message, PING, PONG};
use futures_util::future::{Either, select};
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::spawn_local;
use worker::{Env, Response, Result, State, WebSocket, WebSocketPair, WebSocketRequestResponsePair};

use crate::body::streamed;
use crate::gone::Gone;
use crate::{http, platform};

/// The header with the link's name.
pub(crate) const NAME: &str = "causeway-link-name";
/// The header of an answer that is none: which kind of error, whose words are the body.
pub(crate) const FAULT: &str = "causeway-link-fault";

/// A companion's WebSocket.
#[derive(Clone)]
pub(crate) struct Wire(pub(crate) WebSocket);

impl Socket for Wire {
    fn send(&self, message: &Message) -> bool {
        let sent = match message {
            Message::Frame(bytes) => self.0.send_with_bytes(bytes),
            Message::Ping => self.0.send_with_str(PING),
            Message::Pong => self.0.send_with_str(PONG),
        };
        sent.is_ok()
    }

    fn close(&self, code: u16, reason: &str) {
        _ = self.0.close(Some(code), Some(reason));
    }

    fn put_away(&self, text: &str) {
        _ = self.0.serialize_attachment(text);
    }

    fn kept(&self) -> Option<String> {
        self.0.deserialize_attachment().ok()?
    }
}

/// Answers what is asked of a link.
pub(crate) async fn fetch(
    links: &Arc<Sockets<Wire>>,
    state: &State,
    env: &Env,
    request: &web_sys::Request,
) -> Result<Response> {
    let Some(asked) = http::read_request(request) else { return Response::error("no request", 400) };
    let (mut parts, body) = asked.into_parts();
    let text = |value: Option<::http::HeaderValue>| {
        value.and_then(|value| Some(value.to_str().ok()?.to_owned())).unwrap_or_default()
    };
    let name = text(parts.headers.remove(NAME));
    if parts.headers.contains_key("upgrade") {
        let caller = text(parts.headers.remove(through::CALLER));
        return accept(links, state, Opening { name, caller });
    }
    let Ok(body) = body.whole().await else { return Response::error("half a request", 400) };
    let gateway = platform::gateway(env.clone()).await;
    let (answer, work) = links.ask(&gateway, &name, ::http::Request::from_parts(parts, body));
    spawn_local(work);
    let mut gone = Gone::of(request);
    let answer = match select(pin!(answer), &mut gone).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => return Response::error("nobody waits", 499),
    };
    let answer = match answer {
        Ok(answer) => {
            let (parts, told) = answer.into_parts();
            let status = parts.status.as_u16();
            let body = match status {
                101 | 204 | 205 | 304 => JsValue::NULL,
                _ => streamed(told, Some(gone)),
            };
            http::response(status, &http::lines(&parts.headers), &body)
        }
        Err(error) => {
            let (kind, words) = error.into_words();
            http::response(200, &format!("{FAULT}\n{kind}\n"), &JsValue::from_str(&words))
        }
    };
    Ok(Response::from(answer?))
}

/// Accepts a companion's WebSocket.
fn accept(links: &Sockets<Wire>, state: &State, opening: Opening) -> Result<Response> {
    let WebSocketPair { client, server } = WebSocketPair::new()?;
    state.accept_web_socket(&server);
    if let Ok(heartbeat) = WebSocketRequestResponsePair::new(PING, PONG) {
        state.set_websocket_auto_response(&heartbeat);
    }
    links.accepted(&Wire(server), opening);
    Response::from_websocket(client)
}

/// Hands a companion's WebSocket to the object of its link: the answer is the Worker's.
pub(crate) async fn open(env: &Env, opening: &Opening) -> Result<web_sys::Response> {
    let Opening { name, caller } = opening;
    let head = format!("upgrade\nwebsocket\n{NAME}\n{name}\n{}\n{caller}\n", through::CALLER);
    let key = through::key(name);
    let answer = crate::mailbox::object(env, &key).ask("GET", "/", &head, None, &JsValue::UNDEFINED).await;
    answer.map_err(|error| worker::Error::RustError(error.to_string()))
}
