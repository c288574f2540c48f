//! A gateway (or any Streamable HTTP endpoint) offered to a client that only speaks stdio: `causeway stdio`.
//!
//! Each line from the client becomes an HTTP request, in the era that the line itself shows (`legacy`, `modern`);
//! what is answered becomes lines again. The client sees one server that is always there: a gateway that restarts,
//! a session that is lost and a stream that breaks are this program's to mend, and a request that cannot be
//! answered gets an error that says why. A request is **never** sent twice if it may have been processed.
//!
//! | file | what |
//! |---|---|
//! | `lines`, `skim`, `output` | the client's side: lines in, lines out |
//! | `flight` | requests without an answer yet |
//! | `legacy`, `session` | sessions: the exchange, and what has to be said again |
//! | `modern`, `tools` | stateless requests, subscriptions, mirrored arguments |
//! | `endpoint`, `stream`, `backoff` | the gateway's side: requests, event streams, trying again |
//! | `failure` | why there is no answer, in words |

mod backoff;
mod endpoint;
mod failure;
mod flight;
mod legacy;
pub(crate) mod lines;
mod modern;
mod output;
mod session;
pub(crate) mod skim;
mod stream;
mod tools;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use causeway::mcp::meta::{Meta, Params};
use causeway::mcp::revision::{Era, Revision};
use causeway::wire::jsonrpc::{Invalid, Message, decode_batch};
use http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::log::{Level, Log};
use endpoint::Endpoint;
use failure::{Failure, complaint};
use flight::{Cancelled, Flight, Kind, Room, Ticket};
use legacy::Errand;
use lines::Line;
use output::Output;
use session::Session;
use skim::Skimmed;
use tools::Tools;

/// JSON-RPC: the line is not JSON.
const PARSE_ERROR: i64 = -32700;
/// JSON-RPC: it is, but no message that can be taken.
const INVALID_REQUEST: i64 = -32600;
/// What went wrong is on this side.
const INTERNAL: i64 = -32603;
/// How many messages of a legacy client may wait for those before them.
const ERRANDS: usize = 1024;
/// How long ending a session may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client that is slow to read may take for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Which gateway, and how it is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// The MCP endpoint.
    pub endpoint: Uri,
    /// What every request carries: the key, above all.
    pub headers: HeaderMap,
    /// How long a request waits for a gateway that cannot be reached.
    pub wait: Duration,
    /// How long requests in flight may take when the client has closed its end.
    pub grace: Duration,
    /// The longest line that is taken from the client.
    pub max_line: usize,
    /// The largest answer, or event of a stream, that is taken from the gateway.
    pub max_answer: usize,
    /// How many requests may be in flight.
    pub max_requests: usize,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// As it should.
    Well,
    /// There were requests, and the gateway has not answered a single one of them.
    NeverReached,
}

/// A request of the client.
#[derive(Debug)]
struct Ask {
    id: Box<RawValue>,
    method: String,
    body: Bytes,
    ticket: Ticket,
}

/// What all exchanges share.
struct Bridge {
    endpoint: Endpoint,
    output: Output,
    flight: Arc<Flight>,
    session: Mutex<Session>,
    /// Held by whoever opens a new session.
    reopening: tokio::sync::Mutex<()>,
    /// The session's own stream.
    standing: Mutex<Option<AbortHandle>>,
    tools: Mutex<Tools>,
    /// Held by whoever reads the list of tools for a call.
    listing: tokio::sync::Mutex<()>,
    /// The client has spoken the way of the legacy era.
    is_legacy: AtomicBool,
    /// The client has closed its end: no new streams.
    is_closing: AtomicBool,
}

/// Serves the client behind `input` and `output` until it closes its end or `stop` resolves.
pub async fn serve(
    options: Options,
    log: Log,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    stop: impl Future<Output = ()>,
) -> Ended {
    let Options { endpoint, headers, wait, grace, max_line, max_answer, max_requests } = options;
    let bridge = Arc::new(Bridge {
        endpoint: Endpoint::new(endpoint, headers, wait, max_answer, log),
        output: Output::to(output),
        flight: Flight::new(Room { requests: max_requests, bytes: max_line.saturating_mul(16) }),
        session: Mutex::default(),
        reopening: tokio::sync::Mutex::default(),
        standing: Mutex::default(),
        tools: Mutex::default(),
        listing: tokio::sync::Mutex::default(),
        is_legacy: AtomicBool::new(false),
        is_closing: AtomicBool::new(false),
    });
    let (errands, received) = mpsc::channel(ERRANDS);
    let mut runner = tokio::spawn(bridge.clone().run_errands(received));
    let end_errands = runner.abort_handle();
    let mut lines = lines::read(input, max_line);
    let serving = async {
        while let Some(line) = lines.recv().await {
            match line {
                Line::Whole(line) => bridge.take(Bytes::from(line), &errands).await,
                Line::TooLong(seen) => bridge.refuse(&seen, max_line, &errands).await,
            }
        }
        // The client wants no more, but what it has asked it may still want to know.
        drop(errands);
        bridge.is_closing.store(true, Ordering::Relaxed);
        bridge.flight.end_all(false);
        bridge.rest();
        let landing = async {
            _ = (&mut runner).await;
            bridge.flight.idle().await;
        };
        _ = tokio::time::timeout(grace, landing).await;
    };
    tokio::select! {
        () = serving => {}
        () = stop => {}
        () = bridge.output.broken() => bridge.endpoint.note(Level::Info, "client.gone", "nobody reads the output any more"),
    }
    bridge.is_closing.store(true, Ordering::Relaxed);
    end_errands.abort();
    bridge.flight.end_all(true);
    bridge.rest();
    let (session, _) = lock(&bridge.session).headers();
    if session.contains_key(causeway::mcp::headers::SESSION)
        && let Err(failure) = bridge.endpoint.delete(&session, FAREWELL).await
    {
        bridge.endpoint.note(Level::Info, "session.left", &bridge.endpoint.words(&failure));
    }
    bridge.output.finish(LAST_LINES).await;
    if bridge.endpoint.never_reached() { Ended::NeverReached } else { Ended::Well }
}

impl Bridge {
    /// Takes a line of the client: a message, or (2025-03-26) a batch of them, which are answered one by one.
    async fn take(self: &Arc<Self>, line: Bytes, errands: &mpsc::Sender<Errand>) {
        match decode_batch(&line) {
            Ok(None) => self.message(line, errands).await,
            Ok(Some(batch)) if batch.is_empty() => {
                self.output.line(complaint(None, INVALID_REQUEST, "a batch without a message")).await;
            }
            Ok(Some(batch)) => {
                for part in batch {
                    self.message(line.slice_ref(part.get().as_bytes()), errands).await;
                }
            }
            Err(invalid) => self.complain(&line, &invalid).await,
        }
    }

    async fn message(self: &Arc<Self>, text: Bytes, errands: &mpsc::Sender<Errand>) {
        match Message::decode(&text) {
            Ok(Message::Request { id, method, params }) => {
                let modern = match is_modern(params) {
                    Ok(modern) => modern,
                    Err(why) => return self.output.line(complaint(Some(id), INVALID_REQUEST, &why)).await,
                };
                let kind = match (&*method, modern) {
                    ("initialize", false) => Kind::Handshake,
                    ("subscriptions/listen", true) => Kind::Subscription,
                    (_, true) => Kind::Call(Era::Modern),
                    (_, false) => Kind::Call(Era::Legacy),
                };
                match self.flight.admit(id, kind, text.len()) {
                    Err(why) => self.output.line(complaint(Some(id), INTERNAL, &why)).await,
                    Ok(ticket) => {
                        let (id, method) = (id.to_owned(), method.into_owned());
                        let ask = Ask { id, method, body: text, ticket };
                        if modern {
                            let bridge = self.clone();
                            Self::spawn(ask, |ask| bridge.answer_modern(ask));
                        } else {
                            self.is_legacy.store(true, Ordering::Relaxed);
                            self.send(errands, Errand::Ask(ask)).await;
                        }
                    }
                }
            }
            Ok(Message::Notification { method, params }) => {
                if let Some(errand) = self.notification(&method, params, &text) {
                    self.send(errands, errand).await;
                }
            }
            Ok(Message::Response { id, .. }) => {
                let wanted = id.is_some_and(|id| lock(&self.session).answered(id));
                if wanted && self.is_legacy() {
                    self.send(errands, Errand::Tell(text)).await;
                } else {
                    self.dropped("an answer that nobody waits for");
                }
            }
            Err(invalid) => self.complain(&text, &invalid).await,
        }
    }

    /// What is to be done about a notification.
    fn notification(&self, method: &str, params: Option<&RawValue>, text: &Bytes) -> Option<Errand> {
        #[derive(Deserialize)]
        struct Cancellation<'a> {
            #[serde(borrow, rename = "requestId")]
            id: &'a RawValue,
        }
        if method == "notifications/cancelled" {
            // 2026-07-28 Cancellation, "Error Handling": one that cannot be read is ignored.
            let cancellation: Cancellation<'_> = serde_json::from_str(params?.get()).ok()?;
            return match self.flight.cancel(cancellation.id) {
                Cancelled::Tell(number) => Some(Errand::Cancelled(text.clone(), number)),
                Cancelled::Ended | Cancelled::Nothing => None,
            };
        }
        // The modern era has no other (2026-07-28 Streamable HTTP, "Sending Messages").
        if !self.is_legacy() || is_modern(params) == Ok(true) {
            self.dropped("a notification that this revision does not have");
            return None;
        }
        Some(match method {
            "notifications/initialized" => Errand::Initialized(text.clone()),
            _ => Errand::Tell(text.clone()),
        })
    }

    /// Puts an errand at the end of the queue.
    async fn send(&self, errands: &mpsc::Sender<Errand>, errand: Errand) {
        match errands.try_send(errand) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Errand::Ask(ask))) => {
                let busy = format!("{ERRANDS} messages wait for those before them: wait, too");
                self.output.line(complaint(Some(&ask.id), INTERNAL, &busy)).await;
            }
            Err(_) => self.dropped("more than the gateway has yet taken"),
        }
    }

    /// Runs the exchange of a request beside all others.
    fn spawn<F: Future<Output = ()> + Send + 'static>(ask: Ask, answer: impl FnOnce(Ask) -> F) {
        let (flight, number) = (ask.ticket.flight().clone(), ask.ticket.number());
        let task = tokio::spawn(answer(ask));
        flight.runs(number, task.abort_handle());
    }

    /// Answers a request; one that was cancelled has no answer any more.
    async fn reply(&self, ask: &Ask, answer: Result<Option<Bytes>, Failure>) {
        if ask.ticket.is_cancelled() {
            return;
        }
        match answer {
            Ok(None) => {}
            Ok(Some(answer)) => self.output.line(answer).await,
            Err(failure) => {
                let words = format!("{}: {}", ask.method, self.endpoint.words(&failure));
                self.endpoint.note(Level::Warn, "request.failed", &words);
                self.output.line(self.endpoint.error(&failure, &ask.id)).await;
            }
        }
    }

    /// Says that a line is no message. Where it shows its id, the one who waits for the answer is told.
    async fn complain(&self, text: &[u8], invalid: &Invalid) {
        let line = match invalid {
            Invalid::Json(_) => complaint(None, PARSE_ERROR, &invalid.to_string()),
            Invalid::Shape(_) => {
                complaint(Skimmed::of(text).request(), INVALID_REQUEST, &invalid.to_string())
            }
        };
        self.output.line(line).await;
    }

    /// Says that a line was too long. An answer to the server becomes an error, so that it does not wait for it.
    async fn refuse(self: &Arc<Self>, seen: &Skimmed, most: usize, errands: &mpsc::Sender<Errand>) {
        let words = format!("the message is longer than {most} bytes: send less at once");
        self.endpoint.note(Level::Warn, "line.too_long", &words);
        match &seen.id {
            Some(id) if !seen.has_method => {
                if lock(&self.session).answered(id) && self.is_legacy() {
                    let error = complaint(Some(id), INTERNAL, &format!("the client's answer: {words}"));
                    self.send(errands, Errand::Tell(error)).await;
                }
            }
            _ => self.output.line(complaint(seen.request(), INVALID_REQUEST, &words)).await,
        }
    }

    fn is_legacy(&self) -> bool {
        self.is_legacy.load(Ordering::Relaxed)
    }

    fn dropped(&self, what: &str) {
        self.endpoint.note(Level::Warn, "message.dropped", &format!("the client has sent {what}"));
    }

    /// Closes the session's own stream.
    fn rest(&self) {
        if let Some(standing) = lock(&self.standing).take() {
            standing.abort();
        }
    }
}

/// Whether a message is of the modern era: it carries its revision, and that is none of the legacy era's.
fn is_modern(params: Option<&RawValue>) -> Result<bool, String> {
    let read =
        Params::read(params).and_then(|params| Meta::read(params.meta)).map_err(|fault| fault.message)?;
    Ok(read
        .version()
        .is_some_and(|version| Revision::parse(&version).map(Revision::era) != Some(Era::Legacy)))
}

/// Whether two ids are the same.
fn same(one: &RawValue, other: &RawValue) -> bool {
    one.get() == other.get() || flight::key(one) == flight::key(other)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
