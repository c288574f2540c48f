//! The gateway as a server: one HTTP request on an MCP endpoint, in either era, to its answer.
//!
//! Source: Streamable HTTP of 2026-07-28 and of 2025-11-25. A request that carries the per-request `_meta` or a
//! modern version header is served statelessly; anything else is of the legacy era (2026-07-28, "Versioning").

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::catalog::{Kind as ListKind, List};
use super::extensions::{is_core_notification, is_shared, matter};
use super::feed::Leases;
use super::forward::{Call, Route, arguments};
use super::listen::Listen;
use super::local::LEVELS;
use super::mailbox::Letter;
use super::memory::{UpstreamSession, lock};
use super::meta::{Meta, Params};
use super::revision::{Era, Revision};
use super::session::Session;
use super::stream::{Stream, routed_question};
use super::upstream::field;
use super::{Mcp, headers, names, rounds, tasks};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, StateStore as _};
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
    waiting: Arc<Mutex<Option<Cancel>>>,
    /// Sessions with servers that were opened for the answer alone, and end with it.
    pub leases: Leases,
}

impl Ticket {
    /// A call waits for its answer (or none does any more).
    pub fn set(&self, cancel: Option<Cancel>) {
        *lock(&self.waiting) = cancel;
    }

    /// The call that waits, if any.
    pub fn take(&self) -> Option<Cancel> {
        lock(&self.waiting).take()
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

/// Who asks, and how.
#[derive(Debug, Clone)]
pub struct Client {
    /// The caller.
    pub caller: Arc<Caller>,
    /// The revision it speaks.
    pub revision: Revision,
    /// Its session, in the legacy era.
    pub session: Option<Session>,
    /// It asked for log messages with this request.
    pub wants_logs: bool,
    /// The least level of them, in the modern era.
    pub log_level: Option<String>,
    /// A modern client's capabilities, if it can be asked anything or has extensions.
    pub capabilities: Option<Box<RawValue>>,
    /// Its name and version, likewise.
    pub info: Option<Box<RawValue>>,
}

impl Client {
    /// A legacy client.
    #[must_use]
    pub fn of_session(caller: Arc<Caller>, session: Session) -> Self {
        Self {
            caller,
            revision: session.facts.revision,
            session: Some(session),
            wants_logs: true,
            log_level: None,
            capabilities: None,
            info: None,
        }
    }

    /// The era of its revision.
    pub fn era(&self) -> Era {
        self.revision.era()
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
    pub fault: Option<Fault>,
    /// The session, if it ought to be compared with the store.
    pub recheck: Option<Session>,
}

/// Methods that ended with the legacy era.
const LEGACY_ONLY: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// A list that was read so lately is not doubted, whatever a client makes of it.
const SETTLED: Duration = Duration::from_secs(1);

impl<P: Platform> Mcp<P> {
    /// Answers a POST.
    pub async fn post(self, inbound: Inbound) -> (Answer<P>, Note) {
        let mut note = Note::default();
        let body = inbound.body.clone();
        let answer = match decode_batch(&body) {
            Ok(None) => self.one(&inbound, &body, false, &mut note).await,
            Ok(Some(batch)) => self.batch(&inbound, &batch, &mut note).await,
            Err(invalid) => failed(None, &unreadable(&invalid), &mut note),
        };
        (answer, note)
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

    /// Finds out who speaks and how, and checks what their revision asks of every request.
    pub(super) async fn client(
        &self,
        inbound: &Inbound,
        params: Option<&Params<'_>>,
        method: &str,
    ) -> Result<Client, Fault> {
        let header = inbound.header(&headers::VERSION);
        let meta = Meta::read(params.and_then(|params| params.meta))?;
        let declared = meta.version();
        let of = |text: &str| Revision::parse(text).map(Revision::era);
        let modern = match (header, declared.as_deref()) {
            (_, Some(declared)) => of(declared) != Some(Era::Legacy),
            (Some(header), None) => of(header) == Some(Era::Modern),
            (None, None) => false,
        };
        if modern {
            return Self::modern_client(inbound, &meta, params, method);
        }
        if let Some(header) = header
            && of(header).is_none()
        {
            return Err(unsupported(header));
        }
        let token = inbound.header(&headers::SESSION).ok_or_else(|| {
            let message = "no Mcp-Session-Id header: send initialize first and then its session id, or send the \
                           per-request _meta of 2026-07-28";
            Fault::new(Kind::SessionRequired, message)
        })?;
        let session = self.session(&inbound.caller, inbound.target.as_deref(), token).await?;
        Ok(Client::of_session(inbound.caller.clone(), session))
    }

    fn modern_client(
        inbound: &Inbound,
        meta: &Meta<'_>,
        params: Option<&Params<'_>>,
        method: &str,
    ) -> Result<Client, Fault> {
        let mismatch = |what: &str| {
            Fault::new(Kind::HeaderMismatch, format!("header mismatch: MCP-Protocol-Version {what}"))
        };
        let header = inbound.header(&headers::VERSION);
        let revision = match (header, meta.version()) {
            (None, _) => return Err(mismatch("is required and missing")),
            (Some(header), Some(declared)) if header != declared => {
                return Err(mismatch("does not match the body's _meta"));
            }
            (Some(header), _) => Revision::parse(header).filter(|r| r.era() == Era::Modern),
        };
        let Some(revision) = revision else { return Err(unsupported(header.unwrap_or_default())) };
        meta.require()?;
        let named = match method {
            "tools/call" | "prompts/get" => Some(params.and_then(|params| params.name)),
            "resources/read" => Some(params.and_then(|params| params.uri)),
            // Some clients leave it out, which harms nobody here (SEP-2663, "Routing Headers").
            method if tasks::is_method(method) && inbound.headers.contains_key(headers::NAME) => {
                Some(params.and_then(|params| params.task_id))
            }
            _ => None,
        };
        let name = named.map(|raw| raw.and_then(string).unwrap_or_default());
        headers::check_standard(&inbound.headers, method, name.as_deref())?;
        let known = |raw: &&RawValue| raw.get().len() > 2 && matter(raw);
        let capabilities = meta.capabilities.filter(known).map(RawValue::to_owned);
        let info = meta.client_info.filter(|_| capabilities.is_some()).map(RawValue::to_owned);
        Ok(Client {
            caller: inbound.caller.clone(),
            revision,
            session: None,
            wants_logs: meta.log_level.is_some(),
            log_level: level(meta)?,
            capabilities,
            info,
        })
    }

    async fn request(
        &self,
        inbound: &Inbound,
        call: &Call<'_>,
        batched: bool,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        let modern_meta = Meta::read(call.read.meta)?.version().is_some();
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
        note.recheck = client.session.clone().filter(|session| self.recheck_due(session));
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

    /// `/mcp/{server}`: the server as it is, less what the configuration or the key leaves out.
    async fn at_server(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        server: Arc<Server>,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        note.server = Some(server.name.clone());
        let profile = self.profile(&server).await?;
        let modern_upstream = profile.revision_for(client.era()).era() == Era::Modern;
        // Neither is told anything that would hold from one call to the next.
        let forgetful = modern_upstream || profile.http_sse;
        match call.method {
            "server/discover" if !modern_upstream => {
                return Ok(Answer::Json(StatusCode::OK, self.discover_one(call, &server, &profile)));
            }
            "server/discover" => return self.discover_through(inbound, client, call, server).await,
            // What is passed through is not filtered.
            "subscriptions/listen" if !modern_upstream || !server.resources.admits_all() => {
                return self.listen(inbound, client, call, Some(server)).await;
            }
            "logging/setLevel" if forgetful => return self.keep_level(client, call).await,
            "logging/setLevel" => self.keep_level(client, call).await.map(drop)?,
            "resources/subscribe" | "resources/unsubscribe" if forgetful => {
                if !server.resources.admits(&text_of(call.read.uri, "params.uri")?) {
                    return Err(unknown_name(call.method, &text_of(call.read.uri, "params.uri")?));
                }
                return self.subscribe(inbound, client, call, Some(server), note).await;
            }
            method if LEGACY_ONLY.contains(&method) && forgetful => return Err(unknown_method(method)),
            // It would hold the tasks of everybody.
            "tasks/list" if !modern_upstream && is_shared(&server, &profile) => {
                return Err(unknown_method(call.method));
            }
            _ => {}
        }
        let filtered = self.filters(&server, &client.caller);
        // A tool whose annotations are invalid must not be shown (2026-07-28 Streamable HTTP, "Schema Extension").
        let reduced = call.method == "tools/list"
            && self.known_list(&server, ListKind::Tools, &client.caller).await.is_ok_and(|list| list.reduced);
        if let Some(kind) = ListKind::of(call.method).filter(|_| filtered || reduced) {
            return self.filtered_list(client, call, &server, kind).await;
        }
        let key = match call.method {
            "tools/call" | "prompts/get" => Some(text_of(call.read.name, "params.name")?),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                Some(text_of(call.read.uri, "params.uri")?)
            }
            _ => None,
        };
        note.name = key.as_deref().map(brief);
        let mut route = Route { server, name: key, renamed: None };
        if let Some(name) = route.name.clone() {
            if let Some(own) = self.permitted(&route.server, client, call, &name)? {
                route.renamed = call.read.name;
                route.name = Some(own.into());
            }
            if call.method == "tools/call" {
                self.check_mirrored(inbound, client, call, &route).await?;
            }
        }
        let seat =
            if call.method == "subscriptions/listen" { Some(self.seat(&client.caller)?) } else { None };
        let mut answer = self.forward(inbound, client, call, &route).await?;
        if let Answer::Stream(stream, _) = &mut answer {
            (stream.news, stream.seat) = (seat.is_some(), seat);
        }
        Ok(answer)
    }

    /// `server/discover` of a modern server, which through the gateway serves every revision that the gateway does.
    async fn discover_through(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        server: Arc<Server>,
    ) -> Result<Answer<P>, Fault> {
        let whole = inbound.with_accepts(Accepts { json: true, events: false });
        let route = Route { server, name: None, renamed: None };
        let answer = self.forward(&whole, client, call, &route).await?;
        let Answer::Json(status, body) = &answer else { return Ok(answer) };
        let Ok(Message::Response { outcome: Ok(result), .. }) = Message::decode(body) else {
            return Ok(answer);
        };
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Discovered<'a> {
            #[serde(borrow)]
            supported_versions: &'a RawValue,
        }
        let Ok(found) = serde_json::from_str::<Discovered<'_>>(result.get()) else { return Ok(answer) };
        let versions: Vec<&str> = Revision::ALL.into_iter().map(Revision::as_str).collect();
        let mut splice = jsonrpc::Splice::new(body);
        splice.replace(found.supported_versions, serde_json::to_vec(&versions).unwrap_or_default());
        Ok(Answer::Json(*status, splice.finish()))
    }

    /// Whether anything of `server` is left out or changed for `caller`.
    fn filters(&self, server: &Server, caller: &Caller) -> bool {
        !(server.tools.admits_all()
            && server.prompts.admits_all()
            && server.resources.admits_all()
            && server.overrides.is_empty()
            && caller.tools.admits_all())
    }

    /// A server's list with everything left out that the caller may not see, under the server's own names.
    async fn filtered_list(
        &self,
        client: &Client,
        call: &Call<'_>,
        server: &Arc<Server>,
        kind: ListKind,
    ) -> Result<Answer<P>, Fault> {
        let list = self.list(server, kind, &client.caller).await?;
        Ok(Answer::Json(StatusCode::OK, self.own_list(client, call, server, kind, &list)))
    }

    /// Whether a name may be used on `/mcp/{server}`; gives the server's own name where it is renamed.
    fn permitted(
        &self,
        server: &Server,
        client: &Client,
        call: &Call<'_>,
        name: &str,
    ) -> Result<Option<String>, Fault> {
        let renamed = server.overrides.iter().find(|(_, change)| change.rename.as_deref() == Some(name));
        let own = renamed.map_or(name, |(own, _)| own.as_str());
        let allowed = match call.method {
            "tools/call" => {
                let change = server.overrides.get(own);
                let shown = change.and_then(|change| change.rename.as_deref()).unwrap_or(own);
                server.tools.admits(own)
                    && !change.is_some_and(|change| {
                        change.hide || change.rename.as_ref().is_some_and(|_| shown != name)
                    })
                    && client.caller.tools.admits(&names::merged(&server.prefix, shown))
            }
            "prompts/get" => server.prompts.admits(own),
            _ => server.resources.admits(name),
        };
        if allowed { Ok((own != name).then(|| own.to_owned())) } else { Err(unknown_name(call.method, name)) }
    }

    /// Checks the mirrored arguments of a modern client's call against what the tool asks for.
    pub async fn check_mirrored(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
    ) -> Result<(), Fault> {
        if client.era() != Era::Modern {
            return Ok(());
        }
        // A server whose list cannot be read will say itself what it makes of the call.
        let Ok(list) = self.known_list(&route.server, ListKind::Tools, &client.caller).await else {
            return Ok(());
        };
        let checked = mirrors(inbound, call, route, &list);
        let now = self.platform.clock().now();
        if checked.is_ok() || now.since(list.read_at) < SETTLED {
            return checked;
        }
        // The client may have seen a newer definition of the tool than we have.
        let newer = Box::pin(self.read_list(&route.server, ListKind::Tools, &client.caller)).await;
        newer.map_or(checked, |list| mirrors(inbound, call, route, &list))
    }

    /// Answers a notification: those that a server must hear go on to it.
    async fn notification(
        &self,
        inbound: &Inbound,
        text: &[u8],
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), Fault> {
        let read = Params::read(params)?;
        let modern = Meta::read(read.meta)?.version().is_some()
            || inbound.header(&headers::VERSION).and_then(Revision::parse).map(Revision::era)
                == Some(Era::Modern);
        if modern {
            // This revision has no notifications of clients over HTTP; one that comes is taken and does nothing.
            return Ok(());
        }
        let client = self.client(inbound, None, method).await?;
        let Some(session) = &client.session else { return Ok(()) };
        if method == "notifications/cancelled"
            && let Some(id) = params.and_then(|params| field(params, "requestId"))
        {
            session.memory.cancel(&id);
            self.tell_mailbox(session, &Letter::Cancelled(id)).await?;
        }
        match method {
            "notifications/initialized" => {}
            "notifications/cancelled" | "notifications/roots/list_changed" | "notifications/progress" => {
                self.tell_upstreams(session, &inbound.part(text)).await;
            }
            _ if inbound.target.is_some() => self.tell_upstreams(session, &inbound.part(text)).await,
            _ if is_core_notification(method) => {}
            _ => self.tell_extended(session, method, inbound.part(text)).await,
        }
        Ok(())
    }

    /// Writes to the mailbox of a session, if it can have one. There is nothing to hear.
    async fn tell_mailbox(&self, session: &Session, letter: &Letter) -> Result<(), Fault> {
        if self.platform.abilities().mailboxes {
            let mut answer = self.post_letter(&session.mailbox(), letter).await?;
            while answer.next().await.is_some() {}
        }
        Ok(())
    }

    /// Passes a client's message on to every session that is held for it; one that is about a task, to its server
    /// alone.
    async fn tell_upstreams(&self, session: &Session, body: &Bytes) {
        let upstreams = lock(&session.memory.record).0.upstreams.clone();
        let merged = session.facts.server.is_none();
        let known = |name: &str| merged && self.plan.server(name).is_some();
        for (name, upstream) in &upstreams {
            let Some(server) = self.plan.server(name) else { continue };
            if let Some(body) = tasks::inward_message(body.clone(), server, known) {
                self.tell(server, body, upstream).await;
            }
        }
    }

    /// Takes a response of the client: on `/mcp/{server}` it goes to the session whose server asked.
    async fn response(&self, inbound: &Inbound, text: &[u8]) -> Result<(), Fault> {
        let client = self.client(inbound, None, "response").await.map_err(|fault| match fault.kind {
            Kind::SessionRequired => {
                Fault::new(Kind::InvalidRequest, "responses need a session that asked for them")
            }
            _ => fault,
        })?;
        let own = match Message::decode(text) {
            Ok(Message::Response { id: Some(id), .. }) => rounds::is_own(id),
            _ => false,
        };
        match (&client.session, &inbound.target) {
            (Some(session), _) if own => {
                if let Ok(response) = serde_json::from_slice(text) {
                    self.tell_mailbox(session, &Letter::Response(response)).await?;
                }
            }
            (Some(session), target) => {
                if !self.answer_routed(inbound, session, text).await && target.is_some() {
                    self.tell_upstreams(session, &inbound.part(text)).await;
                }
            }
            (None, _) => {
                return Err(Fault::new(
                    Kind::InvalidRequest,
                    "clients of 2026-07-28 must not send responses",
                ));
            }
        }
        Ok(())
    }

    /// Takes what the client says to a question of one of the servers that it sees as one, or of one whose sessions
    /// are not held for it; says whether it is such an answer.
    async fn answer_routed(&self, inbound: &Inbound, session: &Session, text: &[u8]) -> bool {
        let Ok(Message::Response { id: Some(id), .. }) = Message::decode(text) else { return false };
        let known = string(id);
        let Some((server, own)) = known.as_deref().and_then(routed_question) else { return false };
        let held = || {
            if inbound.target.is_some() {
                return None;
            }
            let upstream = lock(&session.memory.record).0.upstreams.get(server).cloned()?;
            Some((self.plan.server(server)?.clone(), upstream))
        };
        let to = held().or_else(|| self.open_asks(&inbound.caller, server));
        let Some((server, upstream)) = to else { return false };
        let mut splice = jsonrpc::Splice::new(text);
        splice.replace(id, own.get().as_bytes().to_vec());
        let known = |name: &str| inbound.target.is_none() && name == server.name;
        if let Some(body) = tasks::inward_message(splice.finish(), &server, known) {
            self.tell(&server, body, &upstream).await;
        }
        true
    }

    /// Answers a DELETE: the session ends, here and upstream.
    pub async fn delete(self, inbound: Inbound) -> (Answer<P>, Note, Vec<(Arc<Server>, UpstreamSession)>) {
        let mut note = Note { method: Some("DELETE".to_owned()), ..Note::default() };
        let ended = async {
            let modern = inbound.header(&headers::VERSION).and_then(Revision::parse).map(Revision::era);
            if modern == Some(Era::Modern) {
                return Err(Fault::new(Kind::MethodNotAllowed, "2026-07-28 has no sessions to end"));
            }
            let client = self.client(&inbound, None, "DELETE").await?;
            match &client.session {
                Some(session) => {
                    let upstreams = self.end_session(session).await?;
                    self.tell_mailbox(session, &Letter::End).await?;
                    Ok(upstreams)
                }
                None => Ok(std::collections::HashMap::new()),
            }
        };
        match ended.await {
            Ok(upstreams) => {
                let held = upstreams
                    .into_iter()
                    .filter_map(|(name, upstream)| Some((self.plan.server(&name)?.clone(), upstream)))
                    .collect();
                (Answer::Empty(StatusCode::NO_CONTENT), note, held)
            }
            Err(fault) => (failed(None, &fault, &mut note), note, Vec::new()),
        }
    }

    /// Tells a legacy server that nobody waits for a call any more.
    pub async fn cancel(&self, cancel: &Cancel) {
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{},\"reason\":\
             \"the client has gone\"}}}}",
            cancel.id
        );
        self.tell(&cancel.server, body.into(), &cancel.session).await;
    }

    /// Whether the state store answers, for `/ready`.
    pub async fn store_answers(&self) -> bool {
        self.platform.store().load("ready").await.is_ok()
    }
}

/// The log level that a request asks for.
fn level(meta: &Meta<'_>) -> Result<Option<String>, Fault> {
    let Some(raw) = meta.log_level else { return Ok(None) };
    match string(raw).filter(|level| LEVELS.contains(&level.as_ref())) {
        Some(level) => Ok(Some(level.into_owned())),
        None => {
            let message =
                format!("params._meta: {} must be one of {}", super::meta::LOG_LEVEL, LEVELS.join(", "));
            Err(Fault::new(Kind::InvalidMeta, message))
        }
    }
}

/// Whether a modern client's headers are what `list` says of the tool that it calls.
fn mirrors(inbound: &Inbound, call: &Call<'_>, route: &Route<'_>, list: &List) -> Result<(), Fault> {
    let Some(name) = route.name.as_deref() else { return Ok(()) };
    match list.own(name) {
        Some(tool) if !tool.mirrored.is_empty() => {
            headers::check_mirrored(&inbound.headers, &tool.mirrored, &arguments(call))
        }
        None if list.refuses(name) => Err(unknown_name(call.method, name)),
        _ => Ok(()),
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
    note.fault = Some(fault.clone());
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

fn unsupported(requested: &str) -> Fault {
    #[derive(serde::Serialize)]
    struct Data<'a> {
        supported: Vec<&'static str>,
        requested: Cow<'a, str>,
    }
    let supported: Vec<&str> = Revision::ALL.into_iter().map(Revision::as_str).collect();
    let message = format!("unsupported protocol version; supported: {}", supported.join(", "));
    let data = Data { supported, requested: requested.chars().take(64).collect::<String>().into() };
    Fault::new(Kind::UnsupportedVersion, message).with_data(&data)
}

/// The method does not exist; modern clients are told by HTTP 404 as well.
pub fn unknown_method(method: &str) -> Fault {
    Fault::new(Kind::UnknownMethod, format!("method {:?} is not known here", brief(method)))
}

/// The same for legacy clients, who would take a 404 for a lost session.
pub(super) fn unknown_method_legacy(method: &str) -> Fault {
    Fault::new(Kind::UnknownMethodLegacy, format!("method {:?} is not known here", brief(method)))
}

/// There is no such tool, prompt or resource, or it is not for this caller: the two look the same.
pub fn unknown_name(method: &str, name: &str) -> Fault {
    let what = match method {
        "tools/call" => "tool",
        "prompts/get" => "prompt",
        _ => "resource",
    };
    Fault::new(Kind::InvalidParams, format!("unknown {what} {:?}", brief(name)))
}

/// A required string of the parameters.
pub fn text_of<'a>(raw: Option<&'a RawValue>, field: &str) -> Result<Cow<'a, str>, Fault> {
    raw.and_then(string)
        .ok_or_else(|| Fault::new(Kind::InvalidParams, format!("{field}: a string is required")))
}

/// `text`, short enough for a log line or a message.
pub fn brief(text: &str) -> String {
    text.chars().take(128).collect()
}
