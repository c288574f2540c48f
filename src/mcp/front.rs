//! The transport of 2024-11-05 in front: a client GETs one stream, and POSTs its messages to a place that the stream
//! names; what they bring comes on the stream.
//!
//! The stream is held by a mailbox. Each message runs there as a request to the gateway itself, in the session that its
//! `initialize` opened, and what is said to it goes onto the stream, as does what the session's own stream says. So
//! everything that Streamable HTTP has works here, but for coming back to a lost stream: there the session ends.
//!
//! Source: 2024-11-05 transports, "HTTP with SSE".

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::mailbox::{Letter, Mailbox, Said, Work};
use super::memory::lock;
use super::serve::{Answer, Inbound, Note, Ticket, failed, unreadable};
use super::standing::caller_of;
use super::stream::Stream;
use super::tail::Log;
use super::{Mcp, headers};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Entropy as _, Platform, Timestamp};
use crate::relay::Reader;
use crate::wire::accept::Accepts;
use crate::wire::jsonrpc::Message;
use crate::wire::sse::{Decoder, Event};

/// What a client may be behind before nothing more is read for it.
const BACKLOG: usize = 256 * 1024;
/// Pause before the session's own stream is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages of one client that may be worked on at a time.
const AT_ONCE: usize = 64;
/// What the place that messages are posted to is sealed for.
const PLACE: &str = "sse";

/// The letter of a client that begins.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begin {
    /// The caller's name.
    pub caller: String,
    /// The server, on `/sse/{server}`.
    pub target: Option<String>,
}

/// The letter that a message comes in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Posted {
    /// The message.
    pub message: Box<RawValue>,
}

/// What a client's place says.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    key: String,
    target: Option<String>,
}

/// The stream of one client.
#[derive(Debug, Default)]
pub struct Desk(Mutex<Option<Front>>);

#[derive(Debug, Clone)]
struct Front {
    log: Log,
    begin: Arc<Begin>,
    /// The session, once there is one.
    token: Option<String>,
    working: usize,
}

/// Work for a client.
pub enum Started {
    /// Its stream has been opened: the session ends with it.
    Stream(Log),
    /// A message.
    Message(Posted),
}

impl Desk {
    /// Whether there is no stream.
    pub fn is_idle(&self) -> bool {
        lock(&self.0).is_none()
    }

    fn front(&self) -> Option<Front> {
        lock(&self.0).clone()
    }
}

/// Opens the stream of a client.
pub fn begin<P: Platform>(mailbox: &Mailbox<P>, begin: Begin) -> (Said, Work) {
    let log = Log::once();
    let Some(tail) = log.tail(0) else { return (Said::nothing(), Work::None) };
    *lock(&mailbox.front.0) =
        Some(Front { log: log.clone(), begin: Arc::new(begin), token: None, working: 0 });
    (Said::Tail(true, tail), Work::Front(Box::new(Started::Stream(log))))
}

/// Takes a message. The answer is a comment if there is a stream for what it brings.
pub fn posted<P: Platform>(mailbox: &Mailbox<P>, posted: Posted) -> (Said, Work) {
    let mut front = lock(&mailbox.front.0);
    let Some(front) = front.as_mut().filter(|front| front.log.is_read()) else {
        return (Said::nothing(), Work::None);
    };
    if front.working >= AT_ONCE {
        let message = format!("{AT_ONCE} messages of this client are being worked on; wait for an answer");
        return (Said::fault(None, &Fault::new(Kind::TooMany, message)), Work::None);
    }
    front.working += 1;
    (Said::Once(Some(Bytes::from_static(b":\n"))), Work::Front(Box::new(Started::Message(posted))))
}

/// Works for a client.
pub async fn run<P: Platform>(mcp: Mcp<P>, mailbox: Arc<Mailbox<P>>, started: Started) {
    match started {
        Started::Stream(log) => {
            log.unread().await;
            log.end();
            let front = lock(&mailbox.front.0).take();
            let Some((inbound, mcp)) =
                front.and_then(|front| Some((inbound(&mcp, &front, Bytes::new())?, mcp)))
            else {
                return;
            };
            if inbound.headers.contains_key(headers::SESSION) {
                let (_, _, held) = mcp.clone().delete(inbound).await;
                for (server, session) in held {
                    mcp.end(&server, &session).await;
                }
            }
        }
        Started::Message(posted) => {
            if let Some(front) = mailbox.front.front() {
                let mcp = mcp.for_caller(&front.begin.caller);
                answer(&mcp, &mailbox, &front, posted).await;
            }
            if let Some(front) = lock(&mailbox.front.0).as_mut() {
                front.working = front.working.saturating_sub(1);
            }
        }
    }
}

async fn answer<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, front: &Front, posted: Posted) {
    let body = Bytes::copy_from_slice(posted.message.get().as_bytes());
    let Some(asked) = inbound(mcp, front, body) else { return front.log.end() };
    let ticket = asked.ticket.clone();
    let work = pin!(mcp.clone().post(asked));
    let answered = match select(work, pin!(front.log.unread())).await {
        Either::Left(((answer, _), _)) => answer,
        Either::Right(_) => {
            if let Some(cancel) = ticket.take() {
                mcp.cancel(&cancel).await;
            }
            return;
        }
    };
    match answered {
        Answer::Empty(_) => {}
        Answer::Json(_, body) => say(&front.log, body),
        Answer::Opened(token, body) => {
            let front = {
                let mut known = lock(&mailbox.front.0);
                let Some(known) = known.as_mut() else { return };
                known.token = Some(token);
                known.clone()
            };
            follow(mcp, &front, body).await;
        }
        Answer::Stream(stream, cancel) => {
            if !pump(&front.log, stream).await
                && let Some(cancel) = cancel
            {
                mcp.cancel(&cancel).await;
            }
        }
        // Nobody asks for this in the legacy era.
        Answer::Listen(_) => {}
    }
}

/// Carries the session's own stream over for as long as the client is there. `opened`, the answer to `initialize`, goes
/// before it, but not before the servers are heard: this client has no other way to know that they are.
async fn follow<P: Platform>(mcp: &Mcp<P>, front: &Front, opened: Bytes) {
    let mut opened = Some(opened);
    while front.log.is_read() && !front.log.is_ended() {
        let Some(asked) = inbound(mcp, front, Bytes::new()) else { return };
        let get = pin!(mcp.clone().get(asked));
        let got = match select(get, pin!(front.log.unread())).await {
            Either::Left((got, _)) => got,
            Either::Right(_) => return,
        };
        if let Some(opened) = opened.take() {
            say(&front.log, opened);
        }
        match got {
            (Answer::Stream(stream, _), _) => _ = pump(&front.log, stream).await,
            (_, Note { fault: Some(fault), .. })
                if matches!(fault.kind, Kind::MethodNotAllowed | Kind::UnknownSession) =>
            {
                return;
            }
            _ => {}
        }
        let pause = pin!(mcp.platform.clock().sleep(AGAIN));
        select(pause, pin!(front.log.unread())).await;
    }
}

/// Puts what `stream` says onto the client's; `false` if the client went away before its end.
async fn pump<P: Platform>(log: &Log, mut stream: Box<Stream<P>>) -> bool {
    let events = stream.is_events();
    let (mut decoder, mut whole) = (Decoder::new(usize::MAX), Vec::new());
    loop {
        log.room(BACKLOG).await;
        let chunk = match select(pin!(stream.next()), pin!(log.unread())).await {
            Either::Left((chunk, _)) => chunk,
            Either::Right(_) => return false,
        };
        match chunk {
            Some(Ok(chunk)) if events => {
                let mut events = Vec::new();
                if decoder.push(&chunk, &mut events).is_err() {
                    return true;
                }
                events.into_iter().filter(|event| !event.data.is_empty()).for_each(|e| say(log, e.data));
            }
            Some(Ok(chunk)) => whole.extend_from_slice(&chunk),
            Some(Err(_)) | None => break,
        }
    }
    if !events && !whole.is_empty() {
        say(log, whole.into());
    }
    true
}

fn say(log: &Log, message: Bytes) {
    log.push(Event { event: "message".to_owned(), ..Event::message(message) }.encode());
}

/// A message as a request to the gateway itself; `None` if the caller is not known any more.
fn inbound<P: Platform>(mcp: &Mcp<P>, front: &Front, body: Bytes) -> Option<Inbound> {
    let caller = caller_of(mcp, &front.begin.caller)?;
    let target = match &front.begin.target {
        Some(name) => Some(mcp.plan.server(name).filter(|s| caller.servers.admits(&s.name))?.clone()),
        None => None,
    };
    let mut headers = HeaderMap::new();
    if let Some(token) = front.token.as_ref().and_then(|token| HeaderValue::from_str(token).ok()) {
        headers.insert(headers::SESSION, token);
    }
    let accepts = Accepts { json: true, events: true };
    Some(Inbound { target, headers, body, accepts, caller, ticket: Ticket::default() })
}

impl<P: Platform> Mcp<P> {
    /// Answers `GET /sse` and `GET /sse/{server}`.
    pub async fn front(self, caller: Arc<Caller>, target: Option<Arc<Server>>) -> (Answer<P>, Note) {
        let server = target.as_ref().map(|server| server.name.clone());
        let mut note = Note { method: Some("GET".to_owned()), server, ..Note::default() };
        let answer = self.opened_front(&caller, target.as_deref()).await;
        (answer.unwrap_or_else(|fault| failed(None, &fault, &mut note)), note)
    }

    async fn opened_front(&self, caller: &Caller, target: Option<&Server>) -> Result<Answer<P>, Fault> {
        if !self.platform.abilities().mailboxes {
            return Err(Fault::new(
                Kind::MethodNotAllowed,
                "this host cannot hold the stream of the HTTP+SSE transport; use /mcp",
            ));
        }
        let seat = self.seat(caller)?;
        let mut id = [0; 16];
        self.platform.entropy().fill(&mut id);
        let target = target.map(|server| server.name.clone());
        let place = Place { key: format!("sse/{}", super::hex(&id)), target: target.clone() };
        let letter = Letter::Front(Begin { caller: caller.name.clone(), target });
        let body = self.post_letter(&place.key, &letter).await?;
        let expires = self.platform.clock().now().after(self.plan.limits.session_age);
        let sealed = serde_json::to_vec(&place).unwrap_or_default();
        let token = self.sealer().await?.seal(PLACE, &caller.name, expires, &sealed);
        let first = format!("event: endpoint\ndata: /messages?session={token}\n\n");
        let mut stream = self.said(body, Some(first.into()))?;
        stream.seat = Some(seat);
        Ok(Answer::Stream(Box::new(stream), None))
    }

    /// Answers `POST /messages`: what the message brings comes on the stream.
    pub async fn message(self, caller: &Caller, token: &str, body: &Bytes) -> (Answer<P>, Note) {
        let mut note = Note::default();
        let done = self.handed_in(caller, token, body, &mut note).await;
        let answer = done.map(|()| Answer::Empty(StatusCode::ACCEPTED));
        (answer.unwrap_or_else(|fault| failed(None, &fault, &mut note)), note)
    }

    async fn handed_in(
        &self,
        caller: &Caller,
        token: &str,
        body: &Bytes,
        note: &mut Note,
    ) -> Result<(), Fault> {
        let unknown = || {
            let message =
                "session: the stream that this belongs to has ended, or was never yours; GET /sse again";
            Fault::new(Kind::UnknownSession, message)
        };
        let now = self.platform.clock().now();
        let payload = self.sealer().await?.open(PLACE, &caller.name, now, token).ok_or_else(unknown)?;
        let place: Place = serde_json::from_slice(&payload).map_err(|_| unknown())?;
        match Message::decode(body) {
            Ok(Message::Request { method, .. } | Message::Notification { method, .. }) => {
                note.method = Some(super::serve::brief(&method));
            }
            Ok(Message::Response { .. }) => {}
            Err(invalid) => return Err(unreadable(&invalid)),
        }
        note.server = place.target;
        let message = serde_json::from_slice(body).map_err(|_| unknown())?;
        let body = self.post_letter(&place.key, &Letter::Posted(Posted { message })).await?;
        let first = self.said(body, None)?.next().await;
        match first {
            Some(Ok(sign)) if sign.starts_with(b":") => Ok(()),
            Some(_) => Err(Fault::new(Kind::TooMany, "too many messages at once; wait for an answer")),
            None => Err(unknown()),
        }
    }

    /// What a mailbox says, behind `first`.
    fn said(&self, body: crate::platform::UpstreamBody<P>, first: Option<Bytes>) -> Result<Stream<P>, Fault> {
        // A stream has a server whose limits it goes by; this one has been through them.
        let server = self.plan.servers.first().cloned();
        let server = server.ok_or_else(|| Fault::new(Kind::NotConfigured, "there are no servers"))?;
        let mut reader = Reader::new(self.platform.clone(), server, body, Timestamp(u64::MAX));
        reader.open_ended();
        let mut stream = Stream::new(self.clone(), reader, super::stream::Mode::Open, None, first);
        stream.news = true;
        Ok(stream)
    }
}
