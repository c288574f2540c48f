//! Mailboxes: a Durable Object for each key that lives for as long as its owner keeps something.
//!
//! The object is asked by `POST` with the letter as the body; its answer is what the owner says.
//! What a letter sets going runs on in the object: all its requests share one I/O context, so that an upstream's answer
//! that one of them began can be read on for another.
//!
//! An object whose requests have all ended is taken out of memory after a while, even if it waits for something. While
//! work goes on an alarm runs, which counts as a request; nothing is ever stored but the alarm.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use causeway::gateway::sockets::Sockets;
use causeway::mcp::mailbox::Mailbox as Owner;
use causeway::platform::{Clock as _, HttpClient, Mailboxes, SeamError};
use causeway::relay::through;
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use wasm_bindgen_futures::spawn_local;
use worker::{DurableObject, Env, Response, Result, WebSocket, WebSocketIncomingMessage, durable_object};

use crate::body::{Chunks, Exchange, streamed};
use crate::http::Fetch;
use crate::link::Wire;
use crate::object::Object;
use crate::platform::Worker;
use crate::time::Time;
use crate::{http, link, platform};

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "CAUSEWAY_MAILBOX";
/// Work that takes longer than this is watched over; most is over sooner, and an alarm costs a write.
const LONG: Duration = Duration::from_secs(20);
/// How long one alarm stays; Cloudflare ends one after 15 minutes.
const WATCH: Duration = Duration::from_secs(14 * 60);

/// One owner.
#[durable_object]
pub struct Mailbox {
    state: worker::State,
    env: Env,
    owner: Arc<Owner<Worker>>,
    work: Rc<Going>,
    links: Arc<Sockets<Wire>>,
}

/// The work that goes on.
#[derive(Default)]
struct Going {
    pieces: Cell<usize>,
    watched: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Going {
    fn ended(&self) {
        self.pieces.set(self.pieces.get().saturating_sub(1));
        if self.pieces.get() == 0 {
            self.wakers.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Whether it is all over before `span` is.
    async fn over_within(&self, span: Duration) -> bool {
        let over = poll_fn(|context| {
            if self.pieces.get() == 0 {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        });
        matches!(select(pin!(over), Time.sleep(span)).await, Either::Left(_))
    }
}

impl DurableObject for Mailbox {
    fn new(state: worker::State, env: Env) -> Self {
        let links = Sockets::new(state.get_websockets().into_iter().map(Wire));
        Self { state, env, owner: Arc::default(), work: Rc::default(), links }
    }

    async fn fetch(&self, mut request: worker::Request) -> Result<Response> {
        if request.headers().has(link::NAME)? {
            return link::fetch(&self.links, &self.state, &self.env, request.inner()).await;
        }
        let letter = request.bytes().await?;
        let gateway = platform::gateway(self.env.clone()).await;
        let (said, work) = gateway.deliver(self.owner.clone(), &letter);
        let going = self.work.clone();
        going.pieces.set(going.pieces.get() + 1);
        spawn_local(async move {
            work.await;
            going.ended();
        });
        if !self.work.watched.replace(true) {
            let (going, storage) = (self.work.clone(), self.state.storage());
            spawn_local(async move {
                if going.over_within(LONG).await {
                    going.watched.set(false);
                } else if storage.set_alarm(Duration::ZERO).await.is_err() {
                    // Without an alarm it may be forgotten, and whoever comes back is told to begin anew.
                    going.watched.set(false);
                }
            });
        }
        let answer = http::response(200, "content-type\ntext/event-stream\n", &streamed(said, None))?;
        Ok(Response::from(answer))
    }

    async fn websocket_message(&self, socket: WebSocket, message: WebSocketIncomingMessage) -> Result<()> {
        let message = match message {
            WebSocketIncomingMessage::String(text) => text.into_bytes(),
            WebSocketIncomingMessage::Binary(bytes) => bytes,
        };
        self.links.received(Wire(socket), message.into());
        self.go_on().await
    }

    async fn websocket_close(&self, socket: WebSocket, _: usize, _: String, _: bool) -> Result<()> {
        self.links.closed(Wire(socket));
        self.go_on().await
    }

    async fn websocket_error(&self, socket: WebSocket, _: worker::Error) -> Result<()> {
        self.links.closed(Wire(socket));
        self.go_on().await
    }

    async fn alarm(&self) -> Result<Response> {
        if self.work.over_within(WATCH).await {
            self.work.watched.set(false);
        } else {
            self.state.storage().set_alarm(Duration::ZERO).await?;
        }
        Response::empty()
    }
}

impl Mailbox {
    /// Works on what has arrived for a link.
    async fn go_on(&self) -> Result<()> {
        let gateway = platform::gateway(self.env.clone()).await;
        if let Some(work) = self.links.go_on(&gateway) {
            spawn_local(work);
        }
        Ok(())
    }
}

/// The asking side: the namespace bound as `CAUSEWAY_MAILBOX`.
#[derive(Debug)]
pub(crate) struct Namespace(Env);

impl Namespace {
    pub(crate) fn new(env: Env) -> Self {
        Self(env)
    }
}

impl Mailboxes for Namespace {
    type Body = Chunks;

    async fn post(&self, key: &str, letter: Bytes) -> std::result::Result<Chunks, SeamError> {
        let (exchange, signal) = Exchange::begin()?;
        let letter = Some(Uint8Array::from(letter.as_ref()));
        let answer = object(&self.0, key).ask("POST", "/", "", letter, &signal).await?;
        if answer.status() != 200 {
            return Err(SeamError::Host(format!(
                "Durable Object: it answered with status {}",
                answer.status()
            )));
        }
        Ok(Chunks::new(answer.as_ref(), None, Some(exchange)))
    }

    type Sent = <Fetch as HttpClient>::Sent;

    fn ask(&self, key: &str, request: Request<Bytes>) -> Self::Sent {
        let (env, key) = (self.0.clone(), key.to_owned());
        Box::pin(async move {
            let (exchange, signal) = Exchange::begin()?;
            let (parts, body) = request.into_parts();
            let name = through::name(&key).unwrap_or(&key);
            let head = format!("{}{}\n{name}\n", http::lines(&parts.headers), link::NAME);
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let body = (!body.is_empty()).then(|| Uint8Array::from(body.as_ref()));
            let answer = object(&env, &key).ask(parts.method.as_str(), path, &head, body, &signal).await?;
            let mut answer = http::read_response(&answer, exchange)?;
            let Some(kind) = answer.headers_mut().remove(link::FAULT) else { return Ok(answer) };
            let words = String::from_utf8_lossy(&answer.into_body().whole().await?).into_owned();
            Err(SeamError::from_words(kind.to_str().unwrap_or_default(), words))
        })
    }
}

/// The object of a mailbox or a link.
pub(crate) fn object<'a>(env: &'a Env, key: &'a str) -> Object<'a> {
    Object { env, binding: BINDING, key }
}
