//! The gateway as a server: one HTTP request on an MCP endpoint, in either era, to its answer.
//!
//! Source: Streamable HTTP of 2026-07-28 and of 2025-11-25. A request that carries the per-request `_meta` or a
//! modern version header is served statelessly; anything else is of the legacy era (2026-07-28, "Versioning").

mod one_server;
mod told;

pub(super) use self::told::cancelled;

use std::borrow::Cow;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::feed::Leases;
use super::forward::Call;
use super::listen::Listen;
use super::mailbox::Letter;
use super::memory::{UpstreamSession, lock};
use super::meta::{Meta, Params};
use super::revision::{Era, Revision};
use super::session::Session;
use super::stream::Stream;
use super::unknown::{unknown_method, unknown_method_legacy};
use super::{Mcp, headers};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Platform, StateStore as _};
use crate::wire::accept::Accepts;
use crate::wire::jsonrpc::{self, Invalid, Message, decode_batch, string};

/// A request on an MCP endpoint, admitted and read.
#[derive(Debug)]
pub struct Inbound {
    /// The server, on `/mcp/{server}`.
    pub target: Option<Arc<Server>>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's body.
    pub body: Bytes,
    /// What the caller takes.
    pub accepts: Accepts,
    /// Who asks.
    pub caller: Arc<Caller>,
    /// How to cancel the call while its answer has not begun.
    pub ticket: Ticket,
}

/// Knows the call that is waiting for its answer, so that it can be cancelled should the caller go away first.
#[derive(Debug, Clone, Default)]
pub struct Ticket {
    shared: Arc<Shared>,
    /// Sessions with servers that were opened for the answer alone, and end with it.
    pub leases: Leases,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// The session that the request is in, if another instance may have ended it.
    doubted: OnceLock<Session>,
}

/// What a [`Ticket`] knows of a call.
#[derive(Debug, Default)]
struct Waiting {
    cancel: Option<Cancel>,
    /// It has an answer that is not the server's.
    given_up: bool,
}

impl Ticket {
    /// A call waits for its answer (or none does any more).
    pub fn set(&self, cancel: Option<Cancel>) {
        *lock(&self.shared.waiting) = Waiting { cancel, given_up: false };
    }

    /// The call has been given up: its server is to be told behind the reply, whatever becomes of that.
    pub fn give_up(&self, cancel: Option<Cancel>) {
        *lock(&self.shared.waiting) = Waiting { cancel, given_up: true };
    }

    /// Whether the call has been given up.
    pub fn is_given_up(&self) -> bool {
        lock(&self.shared.waiting).given_up
    }

    /// The request is in `session`, which another instance may have ended.
    pub fn doubt(&self, session: &Session) {
        let _ = self.shared.doubted.set(session.clone());
    }

    /// The session that the request is in, if that is not known to live.
    pub fn doubted(&self) -> Option<&Session> {
        self.shared.doubted.get()
    }

    /// The call that waits, if any.
    pub fn take(&self) -> Option<Cancel> {
        lock(&self.shared.waiting).cancel.take()
    }
}

impl Inbound {
    /// The part of the body that is `text`, without a copy where it is one.
    pub fn part(&self, text: &[u8]) -> Bytes {
        if text.len() == self.body.len() { self.body.clone() } else { Bytes::copy_from_slice(text) }
    }

    /// The same request from a caller who takes something else.
    pub(super) fn with_accepts(&self, accepts: Accepts) -> Self {
        Self {
            target: self.target.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            accepts,
            caller: self.caller.clone(),
            ticket: self.ticket.clone(),
        }
    }

    pub(super) fn header(&self, name: &http::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What there is to say.
pub enum Answer<P: Platform> {
    /// One JSON-RPC message (or a batch of them).
    Json(StatusCode, Bytes),
    /// The same, with the id of the session that it opens.
    Opened(String, Bytes),
    /// Nothing.
    Empty(StatusCode),
    /// What comes.
    Stream(Box<Stream<P>>, Option<Cancel>),
    /// What changes, from now on.
    Listen(Box<Listen<P>>),
}

/// How to cancel a call with a legacy server, where hanging up says nothing.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// The server.
    pub server: Arc<Server>,
    /// The session that the call goes over.
    pub session: UpstreamSession,
    /// The id it has there, as JSON.
    pub id: String,
    /// The client may come back for the rest if the server gave its events ids.
    pub resumable: bool,
}

/// What happened, for the log. Holds names, never arguments.
#[derive(Debug, Default, Clone)]
pub struct Note {
    /// The method.
    pub method: Option<String>,
    /// The server that was asked.
    pub server: Option<String>,
    /// The tool, prompt or resource, by the server's own name.
    pub name: Option<String>,
    /// The revision the client speaks.
    pub revision: Option<&'static str>,
    /// What went wrong.
    pub fault: Option<Box<Fault>>,
}

/// Methods that ended with the legacy era.
const LEGACY_ONLY: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

impl<P: Platform> Mcp<P> {
    /// Answers a POST.
    pub async fn post(self, inbound: Inbound) -> (Answer<P>, Note) {
        let mut note = Note::default();
        let body = inbound.body.clone();
        let answer = {
            let work = pin!(async {
                match decode_batch(&body) {
                    Ok(None) => self.one(&inbound, &body, false, &mut note).await,
                    Ok(Some(batch)) => self.batch(&inbound, &batch, &mut note).await,
                    Err(invalid) => failed(None, &unreadable(&invalid), &mut note),
                }
            });
            self.living(&inbound.ticket, work).await
        };
        let answer = match answer {
            Ok(answer) => answer,
            // Boxed: it happens once in the life of a session.
            Err(over) => Box::pin(self.in_vain(&inbound, *over, &mut note)).await,
        };
        (answer, note)
    }

    /// Answers a message whose session has turned out to be over, and sees to it that what was begun for it ends.
    async fn in_vain(
        &self,
        inbound: &Inbound,
        (fault, done): (Fault, Option<Answer<P>>),
        note: &mut Note,
    ) -> Answer<P> {
        let begun = match done {
            Some(Answer::Stream(_, cancel)) => cancel,
            _ => inbound.ticket.take(),
        };
        inbound.ticket.give_up(begun);
        let id = readable_id(&inbound.body);
        if let (Some(session), Some(id)) = (inbound.ticket.doubted(), &id) {
            // The session's mailbox may have been given the call when it had been told already that the session is over.
            let _ = self.tell_mailbox(session, &Letter::Cancelled(id.clone())).await;
        }
        failed(id.as_deref(), &fault, note)
    }

    /// Answers a batch: each message by itself, the responses together (2025-03-26 base protocol, "Batching").
    async fn batch(&self, inbound: &Inbound, batch: &[&RawValue], note: &mut Note) -> Answer<P> {
        let invalid = |text: String| Fault::new(Kind::InvalidRequest, text);
        let limit = self.plan.limits.batch;
        if batch.is_empty() || batch.len() > limit {
            return failed(None, &invalid(format!("a batch has 1 to {limit} messages")), note);
        }
        match self.client(inbound, None, "batch").await {
            Ok(client) if client.revision <= Revision::V2025_03_26 => {}
            Ok(_) => return failed(None, &invalid("this protocol revision has no batches".to_owned()), note),
            Err(fault) => return failed(None, &fault, note),
        }
        let single = inbound.with_accepts(Accepts { json: true, events: false });
        let mut responses: Vec<u8> = Vec::new();
        for text in batch {
            let answer = Box::pin(self.one(&single, text.get().as_bytes(), true, note)).await;
            let body = match answer {
                Answer::Json(_, body) | Answer::Opened(_, body) => body,
                // Batches ended before there was anything to listen to.
                Answer::Empty(_) | Answer::Listen(_) => continue,
                Answer::Stream(stream, _) => match collect(stream).await {
                    Ok(body) => body,
                    Err(fault) => jsonrpc::error(None, fault.kind.row().code, &fault.message, None),
                },
            };
            responses.push(if responses.is_empty() { b'[' } else { b',' });
            responses.extend_from_slice(&body);
        }
        if responses.is_empty() {
            return Answer::Empty(StatusCode::ACCEPTED);
        }
        responses.push(b']');
        Answer::Json(StatusCode::OK, responses.into())
    }

    /// Answers one message.
    async fn one(&self, inbound: &Inbound, text: &[u8], batched: bool, note: &mut Note) -> Answer<P> {
        match Message::decode(text) {
            Err(invalid) => failed(readable_id(text).as_deref(), &unreadable(&invalid), note),
            Ok(Message::Request { id, method, params }) => {
                note.method = Some(brief(&method));
                let answer = match Params::read(params) {
                    Ok(read) => {
                        let call = Call { text, id, method: &method, params, read };
                        self.request(inbound, &call, batched, note).await
                    }
                    Err(fault) => Err(fault),
                };
                answer.unwrap_or_else(|fault| failed(Some(id), &fault, note))
            }
            Ok(Message::Notification { method, params }) => {
                note.method = Some(brief(&method));
                let done = self.notification(inbound, text, &method, params).await;
                done.map_or_else(|fault| failed(None, &fault, note), |()| Answer::Empty(StatusCode::ACCEPTED))
            }
            Ok(Message::Response { .. }) => {
                let done = self.response(inbound, text).await;
                done.map_or_else(|fault| failed(None, &fault, note), |()| Answer::Empty(StatusCode::ACCEPTED))
            }
        }
    }

    async fn request(
        &self,
        inbound: &Inbound,
        call: &Call<'_>,
        batched: bool,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        // Every other request has it read with what it says of its sender.
        let opens = matches!(call.method, "initialize" | "ping");
        let modern_meta = opens && Meta::read(call.read.meta)?.version().is_some();
        if call.method == "initialize" && !modern_meta {
            if batched {
                return Err(Fault::new(Kind::InvalidRequest, "initialize must not be part of a batch"));
            }
            return self.initialize_client(inbound, call, note).await;
        }
        if call.method == "ping" && !modern_meta && inbound.header(&headers::SESSION).is_none() {
            return Ok(Answer::Json(StatusCode::OK, jsonrpc::result(call.id, &serde_json::Map::new())));
        }
        let client = self.client(inbound, Some(&call.read), call.method).await?;
        note.revision = Some(client.revision.as_str());
        let legacy_only = LEGACY_ONLY.contains(&call.method);
        match (client.era(), call.method) {
            (Era::Modern, _) if legacy_only => return Err(unknown_method(call.method)),
            (Era::Legacy, "server/discover" | "subscriptions/listen") => {
                return Err(unknown_method_legacy(call.method));
            }
            (Era::Legacy, "ping") => {
                return Ok(Answer::Json(StatusCode::OK, jsonrpc::result(call.id, &serde_json::Map::new())));
            }
            _ => {}
        }
        let answer = match inbound.target.clone() {
            Some(server) => self.at_server(inbound, &client, call, server, note).await,
            None => self.at_all(inbound, &client, call, note).await,
        };
        match answer {
            Err(fault) if fault.kind == Kind::UnknownMethod && client.era() == Era::Legacy => {
                Err(Fault { kind: Kind::UnknownMethodLegacy, ..fault })
            }
            other => other,
        }
    }

    /// Whether the state store answers, for `/ready`.
    pub async fn store_answers(&self) -> bool {
        self.platform.store().load("ready").await.is_ok()
    }
}

/// Reads a stream of one JSON document to its end.
async fn collect<P: Platform>(mut stream: Box<Stream<P>>) -> Result<Bytes, Fault> {
    let mut whole = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Fault::new(Kind::UpstreamCut, error.to_string()))?;
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.into())
}

/// A fault as a JSON-RPC error.
pub fn failed<P: Platform>(id: Option<&RawValue>, fault: &Fault, note: &mut Note) -> Answer<P> {
    note.fault = Some(Box::new(fault.clone()));
    let row = fault.kind.row();
    let body = jsonrpc::error(id, row.code, &fault.message, fault.data.as_deref());
    Answer::Json(StatusCode::from_u16(row.rpc_status).unwrap_or(StatusCode::OK), body)
}

pub(super) fn unreadable(invalid: &Invalid) -> Fault {
    match invalid {
        Invalid::Json(_) => Fault::new(Kind::Malformed, format!("the body is {invalid}")),
        Invalid::Shape(_) => Fault::new(Kind::InvalidRequest, format!("the body is {invalid}")),
    }
}

/// The id of a message that is otherwise unusable, so that its sender knows what the error is about.
fn readable_id(text: &[u8]) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Id {
        id: Option<Box<RawValue>>,
    }
    let id = serde_json::from_slice::<Id>(text).ok()?.id?;
    id.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()).then_some(id)
}

/// A required string of the parameters.
pub fn text_of<'a>(raw: Option<&'a RawValue>, field: &str) -> Result<Cow<'a, str>, Fault> {
    raw.and_then(string)
        .ok_or_else(|| Fault::new(Kind::InvalidParams, format!("{field}: a string is required")))
}

/// `text`, short enough for a log line or a message.
pub fn brief(text: &str) -> String {
    let end = if text.len() <= 128 { None } else { text.char_indices().nth(128) };
    text.get(..end.map_or(text.len(), |(at, _)| at)).unwrap_or_default().to_owned()
}
