//! Sessions with HTTP+SSE servers that last from one call of a legacy client to the next.
//!
//! Such a session lasts as long as its stream, and only a mailbox can keep one: that of the client's own session has one
//! for each server that the client uses. A call posts its message itself, and hears of it here: what is said to its
//! letter is like a server's own stream, from the `endpoint` event on. So does the stream of the client's session, which
//! hears what belongs to no call.
//!
//! A stream is **never** shared by clients, and **never** used again once it has broken: the next call opens another
//! session. A call that nobody waits for any more is cancelled at the server, and by nobody else.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::{FutureExt as _, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::Client;
use super::extensions::told_across;
use super::feed::{Topic, UPDATED};
use super::http_sse::{declined, ended, endpoint, own_id};
use super::mailbox::{Letter, Mailbox, Said, Work};
use super::memory::{ServerMemory, UpstreamSession, lock};
use super::revision::Revision;
use super::serve::cancelled;
use super::session::Session;
use super::stream::singles;
use super::tail::Log;
use super::upstream::{Answered, Outgoing, field, http_request, standard_headers};
use super::{Mcp, meta};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform};
use crate::relay::Reader;
use crate::relay::dropped::Dropped;
use crate::wire::jsonrpc::{self, Message};
use crate::wire::sse::Event;

/// A session that nobody has used for so long, and nobody listens to, is ended.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// How often those who wait are told that the server lives, and it is looked whether they read.
const LOOK: Duration = Duration::from_secs(15);
/// What a reader may be behind before the stream is read no further; one that stays so is given up.
const BACKLOG: usize = 256 * 1024;
/// Messages of the client's that wait for a session to be open, and their bytes.
const UNSAID: usize = 256;
const UNSAID_BYTES: usize = 1024 * 1024;
/// The event that says where messages go, and the one that says why there is no session.
const ENDPOINT: &str = "endpoint";
const FAULT: &str = "fault";

/// The letter of who wants to use the session with a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attach {
    server: String,
    caller: String,
    /// What a session is opened with.
    capabilities: Box<RawValue>,
    client_info: Box<RawValue>,
    revision: Revision,
    /// The log level that the client set.
    level: Option<String>,
    /// The call that it is for; without one, it is for what belongs to none.
    call: Option<Made>,
    /// The endpoint of a session that has turned out to be over.
    over: Option<String>,
}

/// What there is to know of a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Made {
    /// What its progress goes by.
    pub token: Option<Box<RawValue>>,
    /// Its client can be asked something on its stream.
    pub asked: bool,
}

/// Where messages go.
#[derive(Serialize, Deserialize)]
struct Place {
    /// Path and query; the origin is the server's.
    endpoint: String,
    revision: Revision,
    /// See [`Held::asks`].
    asks: String,
    /// The id that the call is to have, as JSON.
    id: String,
    /// The session was there before.
    used: bool,
}

/// Why there is no session.
#[derive(Serialize, Deserialize)]
struct Why {
    label: String,
    message: String,
}

/// A session that a mailbox keeps.
#[derive(Debug)]
pub struct Held {
    /// The session.
    pub session: UpstreamSession,
    /// What its client is to know the session's questions by, so that any instance can take the answers there.
    pub asks: String,
}

/// The use of such a session.
pub(super) struct Lasting<P: Platform> {
    /// What comes for whoever uses it.
    pub(super) stream: Answered<P>,
    /// The session.
    pub(super) held: Held,
    /// The id that the call has there, as JSON.
    pub(super) id: String,
    /// It was there before, and so may be over.
    pub(super) used: bool,
}

/// The sessions of one client.
#[derive(Debug, Default)]
pub struct Desk(Mutex<Vec<Kept>>);

/// A session, or one that is being opened.
#[derive(Debug)]
struct Kept {
    server: String,
    /// The server as it was: with another address or other credentials it is another one.
    memory: Arc<ServerMemory>,
    teller: UnboundedSender<Told>,
    /// As many as use it, and one.
    uses: Arc<()>,
    queue: Arc<Queue>,
}

/// The client's messages that wait until the session is open.
#[derive(Debug, Default)]
struct Queue(Mutex<Queued>);

#[derive(Debug, Default)]
struct Queued {
    messages: usize,
    bytes: usize,
    dropped: usize,
}

impl Queue {
    /// Takes `body` in, if there is room.
    fn admit(&self, body: &Bytes) -> bool {
        let mut queued = lock(&self.0);
        let bytes = queued.bytes.saturating_add(body.len());
        if queued.messages >= UNSAID || bytes > UNSAID_BYTES {
            queued.dropped += 1;
            return false;
        }
        (queued.messages, queued.bytes) = (queued.messages + 1, bytes);
        true
    }

    /// `body` waits no more. Gives how many messages were not taken in since this was last asked.
    fn release(&self, body: &Bytes) -> usize {
        let mut queued = lock(&self.0);
        queued.messages = queued.messages.saturating_sub(1);
        queued.bytes = queued.bytes.saturating_sub(body.len());
        std::mem::take(&mut queued.dropped)
    }
}

#[derive(Debug)]
enum Told {
    Attach(Use),
    /// A message of the client's, for the server.
    Say(Bytes),
    End,
}

/// Somebody who uses a session.
#[derive(Debug)]
struct Use {
    attach: Attach,
    log: Log,
    /// The call's id, as JSON.
    id: String,
    /// It was behind when it was last looked at.
    behind: bool,
    _one: Arc<()>,
}

impl Use {
    fn say(&self, data: Bytes) {
        self.log.push(Event::message(data).encode());
    }

    /// There is no session.
    fn refuse(self, fault: &Fault) {
        let label = fault.kind.row().label.to_owned();
        self.log.push(named(FAULT, &Why { label, message: fault.message.clone() }));
        self.log.end();
    }

    /// Nothing comes any more.
    fn fail(self, fault: &Fault) {
        if let (Some(_), Ok(id)) = (&self.attach.call, serde_json::from_str::<&RawValue>(&self.id)) {
            self.say(jsonrpc::error(Some(id), fault.kind.row().code, &fault.message, None));
        }
        self.log.end();
    }

    /// Whether it has been behind for a while.
    fn is_slow(&mut self) -> bool {
        let behind = self.log.room(BACKLOG).now_or_never().is_none();
        std::mem::replace(&mut self.behind, behind) && behind
    }

    fn is_asked(&self) -> bool {
        self.attach.call.as_ref().is_some_and(|call| call.asked)
    }

    fn goes_by(&self, token: &RawValue) -> bool {
        let own = self.attach.call.as_ref().and_then(|call| call.token.as_ref());
        own.is_some_and(|own| own.get() == token.get())
    }
}

fn named(name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_vec(data).unwrap_or_default();
    Event { event: name.to_owned(), ..Event::message(data.into()) }.encode()
}

impl Desk {
    /// Whether there is no session.
    pub fn is_idle(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// The client's session is over.
    pub fn end(&self) {
        lock(&self.0).drain(..).for_each(|kept| _ = kept.teller.unbounded_send(Told::End));
    }

    /// Passes a message on to every server that there is a session with.
    pub fn say(&self, body: &RawValue) {
        let body = Bytes::copy_from_slice(body.get().as_bytes());
        let kept = lock(&self.0);
        for kept in kept.iter().filter(|kept| kept.queue.admit(&body)) {
            let _ = kept.teller.unbounded_send(Told::Say(body.clone()));
        }
    }
}

/// A session that is to be opened and kept.
pub struct Started {
    server: Arc<Server>,
    told: UnboundedReceiver<Told>,
    queue: Arc<Queue>,
}

/// Gives somebody the use of a session, which is opened if there is none.
pub fn begin<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, attach: Attach) -> (Said, Work) {
    let log = Log::once();
    let (Some(server), Some(tail)) = (mcp.plan.server(&attach.server).cloned(), log.tail(0)) else {
        return (Said::nothing(), Work::None);
    };
    let said = Said::Tail(false, tail);
    let memory = mcp.memory.server(&server);
    let mut kept = lock(&mailbox.lines.0);
    kept.retain(|kept| {
        let stays = kept.server != server.name || Arc::ptr_eq(&kept.memory, &memory);
        if !stays {
            _ = kept.teller.unbounded_send(Told::End);
        }
        stays
    });
    let there = kept.iter().find(|kept| kept.server == server.name);
    let uses = there.map_or_else(Arc::default, |kept| kept.uses.clone());
    let full = Arc::strong_count(&uses) > mcp.plan.limits.parked + 1;
    let id = memory.next_id().to_string();
    let one = Use { attach, log, id, behind: false, _one: uses.clone() };
    match there {
        Some(_) if full => one.refuse(&too_many(mcp, &server)),
        Some(there) => _ = there.teller.unbounded_send(Told::Attach(one)),
        None => {
            let (teller, told) = unbounded();
            _ = teller.unbounded_send(Told::Attach(one));
            let queue = Arc::<Queue>::default();
            kept.push(Kept { server: server.name.clone(), memory, teller, uses, queue: queue.clone() });
            return (said, Work::Line(Box::new(Started { server, told, queue })));
        }
    }
    (said, Work::None)
}

fn too_many<P: Platform>(mcp: &Mcp<P>, server: &Server) -> Fault {
    let message = format!(
        "server {:?}: {} calls of this session run there (limits.parked); wait for an answer",
        server.name, mcp.plan.limits.parked
    );
    Fault::new(Kind::TooMany, message)
}

/// Nobody is to use the session any more.
fn over(server: &Server) -> Fault {
    let message = format!("server {:?}: the session with it was ended", server.name);
    Fault::new(Kind::UpstreamCut, message)
}

/// Keeps sessions with a server, one after the other, for as long as somebody wants one.
pub async fn run<P: Platform>(mcp: Mcp<P>, mailbox: Arc<Mailbox<P>>, started: Started) {
    let Started { server, mut told, queue } = started;
    let mut waiting = Vec::new();
    loop {
        {
            let mut kept = lock(&mailbox.lines.0);
            while let Ok(told) = told.try_recv() {
                match told {
                    Told::Attach(one) => waiting.push(one),
                    // There is no session that it could be about.
                    Told::Say(body) => _ = queue.release(&body),
                    Told::End => waiting.drain(..).for_each(|one: Use| one.refuse(&over(&server))),
                }
            }
            if waiting.is_empty() {
                // Whoever comes from here on begins anew.
                told.close();
                kept.retain(|kept| !kept.teller.is_closed());
                return;
            }
        }
        // Boxed: what is kept for long need not make room for how it began.
        match Box::pin(opened(&mcp, &server, &waiting)).await {
            Err(fault) => waiting.drain(..).for_each(|one| one.refuse(&fault)),
            Ok((stream, held)) => {
                let (mcp, server, queue) = (&mcp, &server, &*queue);
                let none = (None, false, Vec::new(), None);
                let (level, used, calls, listener) = none;
                let mut line = Line { mcp, server, queue, held, level, used, calls, listener };
                match line.keep(stream, &mut told, std::mem::take(&mut waiting)).await {
                    Some(next) => waiting = next,
                    None => return,
                }
            }
        }
    }
}

/// Opens a session for the first of those who wait for one: they are all the same client's.
async fn opened<P: Platform>(
    mcp: &Mcp<P>,
    server: &Arc<Server>,
    waiting: &[Use],
) -> Result<(Answered<P>, Held), Fault> {
    let Some(Use { attach, .. }) = waiting.first() else { return Err(over(server)) };
    let (able, info) = (attach.capabilities.get(), attach.client_info.get());
    let (mut stream, session, _) = mcp.open_old(server, able, info, attach.revision).await?;
    stream.reader.session_opened();
    // Who uses it watches its own time.
    stream.reader.open_ended();
    let asks = mcp.seal_asks(server, &attach.caller, &session, mcp.plan.limits.session_age).await?;
    Ok((stream, Held { session, asks }))
}

/// An open session.
struct Line<'a, P: Platform> {
    mcp: &'a Mcp<P>,
    server: &'a Arc<Server>,
    queue: &'a Queue,
    held: Held,
    level: Option<String>,
    used: bool,
    calls: Vec<Use>,
    listener: Option<Use>,
}

enum Next {
    Told(Option<Told>),
    /// Nobody waits for this call any more.
    Gone(usize),
    Unheard,
    Came(Result<Option<Event>, Fault>),
    Look,
}

impl<P: Platform> Line<'_, P> {
    /// Keeps the session until it is over; gives those who want another, or nothing if there is to be none.
    async fn keep(
        &mut self,
        mut stream: Answered<P>,
        told: &mut UnboundedReceiver<Told>,
        waiting: Vec<Use>,
    ) -> Option<Vec<Use>> {
        let (reader, memory) = (&mut stream.reader, self.mcp.memory.server(self.server));
        for one in waiting {
            self.place(one).await;
        }
        let now = || self.mcp.platform.clock().now();
        let every = LOOK.min(self.server.timeouts.idle / 3);
        let (mut used, mut looked, mut pinged) = (now(), now(), now());
        loop {
            let now = self.mcp.platform.clock().now();
            let unused = self.calls.is_empty() && self.listener.is_none();
            let due = if unused { used.after(IDLE) } else { looked.after(every) };
            if !unused {
                used = now;
            }
            match self.next(reader, told, due.since(now)).await {
                Next::Told(None | Some(Told::End)) => {
                    self.fail(&over(self.server));
                    return None;
                }
                Next::Told(Some(Told::Say(body))) => {
                    self.say_dropped(self.queue.release(&body));
                    self.post(reader, body);
                }
                Next::Told(Some(Told::Attach(one))) if one.attach.over.as_deref() == Some(self.path()) => {
                    self.fail(&ended(self.server, "it answered"));
                    return Some(vec![one]);
                }
                Next::Told(Some(Told::Attach(one))) => self.place(one).await,
                Next::Gone(at) => self.cancel(reader, at),
                Next::Unheard => self.listener = None,
                Next::Came(Ok(Some(event))) => {
                    if matches!(event.event.as_str(), "" | "message") {
                        singles(event).into_iter().for_each(|event| self.hear(reader, event.data));
                    }
                }
                Next::Came(came) => {
                    let fault = came.err().unwrap_or_else(|| ended(self.server, "it answered"));
                    if !self.calls.is_empty() {
                        memory.failed(now, &fault);
                    }
                    self.fail(&fault);
                    return Some(Vec::new());
                }
                Next::Look if unused => return Some(Vec::new()),
                Next::Look => {
                    let (now, heard) = (self.mcp.platform.clock().now(), reader.heard_at());
                    if heard > looked {
                        let all = self.calls.iter().chain(&self.listener);
                        all.for_each(|one| one.log.push(Bytes::from_static(b":\n")));
                    } else if now.since(heard.max(pinged)) >= IDLE {
                        pinged = now;
                        self.post(reader, meta::request(&own_id(&memory), "ping", "{}"));
                    }
                    looked = now;
                    self.give_up_slow(reader);
                }
            }
        }
    }

    /// What happens next. Whatever does not happen is not lost.
    async fn next(
        &self,
        reader: &mut Reader<P>,
        told: &mut UnboundedReceiver<Told>,
        patience: Duration,
    ) -> Next {
        let mut look = pin!(self.mcp.platform.clock().sleep(patience));
        let mut event = pin!(reader.event());
        poll_fn(|context| {
            if let Poll::Ready(told) = told.poll_next_unpin(context) {
                return Poll::Ready(Next::Told(told));
            }
            let mut room = true;
            for (at, one) in self.calls.iter().chain(&self.listener).enumerate() {
                if pin!(one.log.unread()).poll(context).is_ready() {
                    return Poll::Ready(if at < self.calls.len() { Next::Gone(at) } else { Next::Unheard });
                }
                room &= pin!(one.log.room(BACKLOG)).poll(context).is_ready();
            }
            if room && let Poll::Ready(came) = event.as_mut().poll(context) {
                return Poll::Ready(Next::Came(came));
            }
            look.as_mut().poll(context).map(|()| Next::Look)
        })
        .await
    }

    fn path(&self) -> &str {
        self.held.session.endpoint.as_ref().map_or("", |url| &url[url::Position::BeforePath..])
    }

    /// Tells somebody where messages go, and is there for it from now on.
    async fn place(&mut self, one: Use) {
        if let Some(level) = one.attach.level.clone().filter(|level| self.level.as_ref() != Some(level)) {
            let (id, params) =
                (own_id(&self.mcp.memory.server(self.server)), format!("{{\"level\":\"{level}\"}}"));
            let body = meta::request(&id, "logging/setLevel", &params);
            // The server is to have it before the call.
            self.mcp.tell(self.server, body, &self.held.session).await;
            self.level = Some(level);
        }
        let place = Place {
            endpoint: self.path().to_owned(),
            revision: self.held.session.revision,
            asks: self.held.asks.clone(),
            id: one.id.clone(),
            used: std::mem::replace(&mut self.used, true),
        };
        one.log.push(named(ENDPOINT, &place));
        if one.attach.call.is_some() {
            self.calls.push(one);
        } else if let Some(before) = self.listener.replace(one) {
            before.log.end();
        }
    }

    /// Says in the log how many of the client's messages the server was not told of.
    fn say_dropped(&self, messages: usize) {
        let message = "the client told more than is kept while a session with the server is opened; the newest have gone";
        let dropped = Dropped { server: &self.server.name, caller: "", messages, message };
        dropped.say(&self.mcp.platform, "line.dropped");
    }

    /// Sends what nobody waits for an answer to.
    fn post(&self, reader: &mut Reader<P>, body: Bytes) {
        let session = &self.held.session;
        let headers = standard_headers(session.revision, None, "", None);
        let outgoing = Outgoing { http: Method::POST, to: None, body, headers };
        let url = session.endpoint.as_deref().unwrap_or(&self.server.url);
        if let Ok(request) = http_request(self.server, url, &outgoing) {
            reader.post(None, request);
        }
    }

    /// Nobody waits for a call any more.
    fn cancel(&mut self, reader: &mut Reader<P>, at: usize) {
        let call = self.calls.remove(at);
        self.post(reader, cancelled(&call.id));
        let message = format!("server {:?}: what it says was not read for too long", self.server.name);
        call.fail(&Fault::new(Kind::UpstreamCut, message));
    }

    /// The session is over.
    fn fail(&mut self, fault: &Fault) {
        self.calls.drain(..).chain(self.listener.take()).for_each(|one| one.fail(fault));
    }

    /// Gives up readers who keep the others waiting.
    fn give_up_slow(&mut self, reader: &mut Reader<P>) {
        let mut at = 0;
        while let Some(call) = self.calls.get_mut(at) {
            if call.is_slow() {
                self.cancel(reader, at);
            } else {
                at += 1;
            }
        }
        if let Some(listener) = self.listener.take_if(Use::is_slow) {
            listener.log.end();
        }
    }

    /// Passes on what the server says.
    fn hear(&mut self, reader: &mut Reader<P>, data: Bytes) {
        match Message::decode(&data) {
            Ok(Message::Response { id, .. }) => {
                let at = match id {
                    Some(id) => self.calls.iter().position(|call| call.id == id.get()),
                    None => (self.calls.len() == 1).then_some(0),
                };
                match at {
                    Some(at) => {
                        let call = self.calls.remove(at);
                        call.say(data);
                        call.log.end();
                    }
                    None => self.listener.iter().for_each(|one| one.say(data.clone())),
                }
            }
            Ok(Message::Request { id, method, .. }) => {
                let asked = self.calls.iter().rev().find(|call| call.is_asked());
                match asked.or(self.listener.as_ref()).filter(|_| method != "ping") {
                    Some(one) => one.say(data.clone()),
                    None => self.post(reader, declined(id, &method)),
                }
            }
            Ok(Message::Notification { method, params }) => {
                self.mcp.outdated(self.server, &method);
                let progress = params.filter(|_| method == "notifications/progress");
                let token = progress.and_then(|params| field(params, "progressToken"));
                let own = token.and_then(|token| self.calls.iter().find(|call| call.goes_by(&token)));
                let (last, listener) = (self.calls.last(), self.listener.as_ref());
                let news = Topic::of(&method).is_some() || method == UPDATED;
                let other = if news { listener.or(last) } else { last.or(listener) };
                if let Some(one) = own.or(other) {
                    one.say(data.clone());
                }
            }
            Err(_) => {}
        }
    }
}

impl<P: Platform> Mcp<P> {
    /// The session of a client whose mailbox keeps its sessions with HTTP+SSE servers.
    pub(super) fn lasting<'c>(&self, client: &'c Client) -> Option<&'c Session> {
        client.session.as_ref().filter(|_| self.platform.abilities().mailboxes)
    }

    /// The use of the session that the client of `session` has with `server`: for `call`, or for what belongs to none.
    /// `over` has turned out to be over.
    ///
    /// # Errors
    /// When there is no session to be had.
    pub(super) async fn attach(
        &self,
        server: &Arc<Server>,
        caller: &str,
        session: &Session,
        call: Option<Made>,
        over: Option<&UpstreamSession>,
    ) -> Result<Lasting<P>, Fault> {
        let logs = self.memory.server(server).profile().is_some_and(|profile| profile.has("logging"));
        let path = |session: &UpstreamSession| {
            Some(session.endpoint.as_ref()?[url::Position::BeforePath..].to_owned())
        };
        let letter = Letter::Line(Attach {
            server: server.name.clone(),
            caller: caller.to_owned(),
            capabilities: told_across(server, &session.facts.capabilities, true),
            client_info: session.facts.client_info.clone(),
            revision: session.facts.revision,
            level: lock(&session.memory.record).0.level.clone().filter(|_| logs),
            call,
            over: over.and_then(path),
        });
        let deadline = self.platform.clock().now().after(server.timeouts.total);
        let body = self.post_letter(&session.mailbox(), &letter).await?;
        let mut reader = Reader::new(self.platform.clone(), server.clone(), body, deadline);
        reader.open_session();
        let gone = || {
            let message = "the gateway's instance that the session ran in has gone; make the call again";
            Fault::new(Kind::Host, message)
        };
        let event = loop {
            let event = reader.event().await?.ok_or_else(gone)?;
            if matches!(event.event.as_str(), ENDPOINT | FAULT) {
                break event;
            }
        };
        if event.event == FAULT {
            let why: Why = serde_json::from_slice(&event.data).map_err(|_| gone())?;
            return Err(Fault::new(kind(&why.label), why.message));
        }
        let place: Place = serde_json::from_slice(&event.data).map_err(|_| gone())?;
        let endpoint = Some(Box::new(endpoint(server, place.endpoint.as_bytes())?));
        let session = UpstreamSession { id: None, revision: place.revision, endpoint, kept: true };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        let stream = Answered { status: StatusCode::OK, headers, reader };
        Ok(Lasting { stream, held: Held { session, asks: place.asks }, id: place.id, used: place.used })
    }

    /// Passes a client's message on to the HTTP+SSE servers that it has sessions with.
    pub(super) async fn tell_lines(&self, session: &Session, body: &[u8]) {
        let old = |server: &&Arc<Server>| {
            let own = session.facts.server.as_ref().is_none_or(|name| *name == server.name);
            own && self.memory.server(server).profile().is_none_or(|profile| profile.http_sse)
        };
        if self.plan.servers.iter().any(|server| old(&server))
            && let Ok(body) = serde_json::from_slice(body)
        {
            // There is nobody to be told if it cannot be written.
            let _ = self.tell_mailbox(session, &Letter::Say(body)).await;
        }
    }
}

/// The kind with this label, of those that opening a session comes to.
fn kind(label: &str) -> Kind {
    let all = [
        Kind::TooMany,
        Kind::UpstreamConnect,
        Kind::UpstreamTimeout,
        Kind::UpstreamRefused,
        Kind::UpstreamInvalid,
        Kind::UpstreamTooLarge,
        Kind::LinkOffline,
        Kind::Host,
    ];
    all.into_iter().find(|kind| kind.row().label == label).unwrap_or(Kind::UpstreamCut)
}
