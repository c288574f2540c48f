//! Links: the WebSockets of companions, in the Durable Object that keeps a link's dock.
//!
//! The object accepts them for hibernation: while a link is idle nothing of it is in memory but the connection, which
//! Cloudflare keeps and whose heartbeat it answers. What the dock needs to go on is put away with the connection, and
//! taken up again when something comes. While a request is on its way through the link, the request itself keeps the
//! object awake.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use causeway::admin;
use causeway::gateway::Gateway;
use causeway::gateway::dock::{Docked, Opening};
use causeway::tunnel::dock::{Dock, Entry, Facts, Line, Say};
use causeway::tunnel::pair::Message;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use serde::{Deserialize, Serialize};
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::spawn_local;
use worker::{Env, Response, Result, State, WebSocket, WebSocketPair, WebSocketRequestResponsePair};

use crate::body::{Outgoing, explain};
use crate::gone::Gone;
use crate::platform::Worker;
use crate::{glue, http, isolate};

/// The header with the link's name.
pub(crate) const NAME: &str = "causeway-link-name";
/// The header of an answer that is none: which kind of error, whose words are the body.
pub(crate) const FAULT: &str = "causeway-link-fault";
/// "Service Restart": the companion dials again.
const RESTART: u16 = 1012;

/// What is put away with a connection.
#[derive(Serialize, Deserialize)]
struct Attachment {
    number: u64,
    name: String,
    caller: String,
    /// The link and what is known of it, while it is idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    saved: Option<(String, Facts)>,
}

/// The links of one object: one at most.
#[derive(Default)]
pub(crate) struct Links {
    dock: Arc<Dock>,
    restored: Cell<bool>,
    /// Connections whose companion is still to say hello.
    new: RefCell<HashMap<u64, Line>>,
    known: RefCell<HashMap<u64, (WebSocket, Entry)>>,
    /// The connection that has the link with it.
    put_away: Cell<Option<u64>>,
}

impl Links {
    async fn docked(self: &Rc<Self>, state: &State, env: &Env, name: &str) -> Docked<Worker> {
        let platform = Worker::new(env.clone());
        let instance = isolate::instance(&platform).await;
        let docked = Gateway::new(platform.clone(), instance.clone()).dock(name, self.dock.clone());
        if !self.restored.replace(true) {
            self.restore(state, &docked);
        }
        spawn_local(async move { admin::look_if_due(&platform, &instance).await });
        docked
    }

    /// Takes up what was put away.
    fn restore(self: &Rc<Self>, state: &State, docked: &Docked<Worker>) {
        for socket in state.get_websockets() {
            let Some(attachment) = attached(&socket) else { continue };
            let line = attachment.saved.and_then(|(saved, facts)| {
                self.dock.restore(attachment.number, saved.as_bytes(), facts, docked.limits())
            });
            match line {
                Some(line) => {
                    self.put_away.set(Some(attachment.number));
                    self.pump(socket, line);
                }
                // It was in the middle of something that is lost.
                None => _ = socket.close(Some(RESTART), Some("the gateway has started anew; dial again")),
            }
        }
    }

    /// Sends what is said on a line, for as long as something may be.
    fn pump(self: &Rc<Self>, socket: WebSocket, mut line: Line) {
        let entry = line.entry().clone();
        let number = entry.number();
        self.known.borrow_mut().insert(number, (socket.clone(), entry));
        let links = self.clone();
        spawn_local(async move {
            while let Some(say) = poll_fn(|context| line.poll_say(context)).await {
                let sent = match say {
                    Say::Message(_, Message::Frame(bytes)) => socket.send_with_bytes(&bytes),
                    Say::Message(_, Message::Ping) => socket.send_with_str("ping"),
                    Say::Message(_, Message::Pong) => socket.send_with_str("pong"),
                    Say::Close(bye) => {
                        let (code, reason) = bye.close_frame();
                        _ = socket.close(Some(code), Some(reason));
                        break;
                    }
                };
                if sent.is_err() {
                    // It is closed, which is told by an event.
                    break;
                }
            }
            links.known.borrow_mut().remove(&number);
        });
    }

    /// Does what there is to be done, then puts the link away with its connection if it is idle.
    fn tend(self: &Rc<Self>, docked: Docked<Worker>) {
        let links = self.clone();
        // Behind what has just been begun.
        spawn_local(async move {
            if let Some(work) = docked.tend() {
                links.keep();
                work.await;
            }
            links.keep();
        });
    }

    fn keep(&self) {
        let saved = self.dock.save();
        let number = match (&saved, self.put_away.get()) {
            (Some((number, ..)), _) => *number,
            (None, Some(number)) => number,
            (None, None) => return,
        };
        let known = self.known.borrow();
        let Some((socket, _)) = known.get(&number) else { return self.put_away.set(None) };
        let Some(mut attachment) = attached(socket) else { return };
        self.put_away.set(saved.as_ref().map(|_| number));
        attachment.saved = saved.and_then(|(_, link, facts)| {
            // What it offers may be long, and it knows that itself.
            Some((String::from_utf8(link).ok()?, Facts { verdicts: Vec::new(), ..facts }))
        });
        attach(socket, &attachment);
    }

    /// Answers what is asked of the link.
    pub(crate) async fn fetch(
        self: &Rc<Self>,
        state: &State,
        env: &Env,
        request: &web_sys::Request,
    ) -> Result<Response> {
        let Some(asked) = http::read_request(request) else { return Response::error("no request", 400) };
        let text = |name: &str| {
            let value = asked.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (name, caller) = (text(NAME), text(causeway::relay::through::CALLER));
        let docked = self.docked(state, env, &name).await;
        if asked.headers().contains_key("upgrade") {
            return self.accept(state, &docked, Attachment { number: 0, name, caller, saved: None });
        }
        let (mut parts, mut body) = asked.into_parts();
        parts.headers.remove(NAME);
        let mut whole = BytesMut::new();
        while let Some(Ok(chunk)) = body.next().await {
            whole.extend_from_slice(&chunk);
        }
        self.tend(docked.clone());
        let mut gone = Gone::of(request);
        let asking = docked.ask(::http::Request::from_parts(parts, whole.freeze()));
        let answer = match select(pin!(asking), &mut gone).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => return Response::error("nobody waits", 499),
        };
        let (status, head, body) = match answer {
            Ok(answer) => {
                let (parts, told) = answer.into_parts();
                let status = parts.status.as_u16();
                // Some statuses allow no body at all, not even an empty one.
                let body = if matches!(status, 101 | 204 | 205 | 304) {
                    drop(told);
                    JsValue::NULL
                } else {
                    let body = Outgoing::new(told);
                    let watched = body.clone();
                    spawn_local(async move {
                        if let Either::Left(_) = select(gone, pin!(watched.over())).await {
                            watched.end();
                        }
                    });
                    body.into_js()
                };
                (status, http::lines(&parts.headers), body)
            }
            Err(error) => {
                let (kind, words) = error.into_words();
                (200, format!("{FAULT}\n{kind}\n"), JsValue::from_str(&words))
            }
        };
        let answer = glue::response(status, &head, &body);
        Ok(Response::from(answer.map_err(|error| worker::Error::RustError(explain(&error)))?))
    }

    /// Accepts a companion's WebSocket.
    fn accept(
        self: &Rc<Self>,
        state: &State,
        docked: &Docked<Worker>,
        mut attachment: Attachment,
    ) -> Result<Response> {
        let WebSocketPair { client, server } = WebSocketPair::new()?;
        state.accept_web_socket(&server);
        if let Ok(heartbeat) = WebSocketRequestResponsePair::new("ping", "pong") {
            state.set_websocket_auto_response(&heartbeat);
        }
        let line = docked.line();
        attachment.number = line.entry().number();
        attach(&server, &attachment);
        self.new.borrow_mut().insert(attachment.number, line);
        Response::from_websocket(client)
    }

    /// A message has arrived.
    pub(crate) async fn message(
        self: &Rc<Self>,
        state: &State,
        env: &Env,
        socket: WebSocket,
        message: Bytes,
    ) -> Result<()> {
        let Some(attachment) = attached(&socket) else {
            return socket.close(Some(RESTART), Some("dial again"));
        };
        let docked = self.docked(state, env, &attachment.name).await;
        let message = Message::decode(message);
        let new = self.new.borrow_mut().remove(&attachment.number);
        match new {
            Some(mut line) => {
                docked.received(&mut line, &attachment.caller, message);
                if line.is_new() {
                    // A heartbeat before the hello.
                    self.new.borrow_mut().insert(attachment.number, line);
                } else {
                    self.pump(socket, line);
                }
            }
            None => {
                let known = self.known.borrow().get(&attachment.number).map(|(_, entry)| entry.clone());
                match known {
                    Some(entry) => docked.heard(&entry, message),
                    None => _ = socket.close(Some(RESTART), Some("dial again")),
                }
            }
        }
        self.tend(docked);
        Ok(())
    }

    /// A connection is gone.
    pub(crate) async fn closed(self: &Rc<Self>, state: &State, env: &Env, socket: WebSocket) -> Result<()> {
        let Some(attachment) = attached(&socket) else { return Ok(()) };
        let docked = self.docked(state, env, &attachment.name).await;
        self.new.borrow_mut().remove(&attachment.number);
        let known = self.known.borrow_mut().remove(&attachment.number);
        if let Some((_, entry)) = known {
            docked.lost(&entry);
        }
        // It may be closed on one side only.
        _ = socket.close(Some(1000), Some(""));
        self.tend(docked);
        Ok(())
    }
}

fn attached(socket: &WebSocket) -> Option<Attachment> {
    serde_json::from_str(&socket.deserialize_attachment::<String>().ok()??).ok()
}

fn attach(socket: &WebSocket, attachment: &Attachment) {
    if let Ok(text) = serde_json::to_string(attachment) {
        _ = socket.serialize_attachment(text);
    }
}

/// Hands a companion's WebSocket to the object of its link: the answer is the Worker's.
pub(crate) async fn open(env: &Env, opening: &Opening) -> worker::Result<web_sys::Response> {
    let head = format!(
        "upgrade\nwebsocket\n{NAME}\n{}\n{}\n{}\n",
        opening.name,
        causeway::relay::through::CALLER,
        opening.caller
    );
    let key = causeway::relay::through::key(&opening.name);
    let answer = crate::mailbox::object(env, &key).ask("GET", "/", &head, None, &JsValue::UNDEFINED).await;
    answer.map_err(|error| worker::Error::RustError(error.to_string()))
}
