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
use causeway::gateway::Gateway;
use causeway::mcp::mailbox::Mailbox as Owner;
use causeway::platform::{Clock as _, HttpClient, Mailboxes, SeamError};
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use wasm_bindgen_futures::spawn_local;
use worker::{DurableObject, Env, Response, Result, WebSocket, WebSocketIncomingMessage, durable_object};

use crate::body::{Chunks, Exchange, Outgoing, explain};
use crate::http::Fetch;
use crate::link::Links;
use crate::object::Object;
use crate::platform::Worker;
use crate::time::Time;
use crate::{glue, http, isolate, link};

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
    links: Rc<Links>,
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
        Self { state, env, owner: Arc::default(), work: Rc::default(), links: Rc::default() }
    }

    async fn fetch(&self, mut request: worker::Request) -> Result<Response> {
        if request.headers().has(link::NAME)? {
            return self.links.fetch(&self.state, &self.env, request.inner()).await;
        }
        let letter = request.bytes().await?;
        let platform = Worker::new(self.env.clone());
        let instance = isolate::instance(&platform).await;
        let (said, work) = Gateway::new(platform, instance).deliver(self.owner.clone(), &letter);
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
        let body = Outgoing::new(said).into_js();
        let answer = glue::response(200, "content-type\ntext/event-stream\n", &body);
        let answer = answer.map_err(|error| worker::Error::RustError(explain(&error)))?;
        Ok(Response::from(answer))
    }

    async fn websocket_message(&self, socket: WebSocket, message: WebSocketIncomingMessage) -> Result<()> {
        let message = match message {
            WebSocketIncomingMessage::String(text) => text.into_bytes(),
            WebSocketIncomingMessage::Binary(bytes) => bytes,
        };
        self.links.message(&self.state, &self.env, socket, message.into()).await
    }

    async fn websocket_close(&self, socket: WebSocket, _: usize, _: String, _: bool) -> Result<()> {
        self.links.closed(&self.state, &self.env, socket).await
    }

    async fn websocket_error(&self, socket: WebSocket, _: worker::Error) -> Result<()> {
        self.links.closed(&self.state, &self.env, socket).await
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
            let name = key.strip_prefix("link/").unwrap_or(&key);
            let head = format!("{}{}\n{name}\n", http::lines(&parts.headers), link::NAME);
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let body = (!body.is_empty()).then(|| Uint8Array::from(body.as_ref()));
            let answer = object(&env, &key).ask(parts.method.as_str(), path, &head, body, &signal).await?;
            let mut answer = http::read_response(&answer, exchange)?;
            let Some(kind) = answer.headers_mut().remove(link::FAULT) else { return Ok(answer) };
            let (mut body, mut words) = (answer.into_body(), Vec::new());
            while let Some(Ok(chunk)) = body.next().await {
                words.extend_from_slice(&chunk);
            }
            let words = String::from_utf8_lossy(&words).into_owned();
            Err(SeamError::from_words(kind.to_str().unwrap_or_default(), words))
        })
    }
}

/// The object of a mailbox or a link.
pub(crate) fn object<'a>(env: &'a Env, key: &'a str) -> Object<'a> {
    Object { env, binding: BINDING, key }
}
