//! One call's answer on its way to the caller: relayed as it is, or rewritten for the caller's era.
//!
//! A stream that breaks goes on over another connection where its server allows that ([`super::resume`]), or else
//! ends in a JSON-RPC error for the call, never in a bare cut. Bytes that need no change are **never** changed; they
//! are only watched, to know whether the response has come and what an event's id was.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Mcp;
use super::listen::{Seat, completed};
use super::mailbox::Letter;
use super::memory::{Running, UpstreamSession};
use super::resume::Resume;
use super::rewrite::{Rewrite, Rewritten};
use super::rounds::Rounds;
use super::sampling::{Again, Came, Samples, Settled, unanswered};
use super::serve::Cancel;
use super::upstream::{error_of, field, no_answer};
use super::watch::Watch;
use crate::config::plan::{Sampling, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, SeamError};
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{self, Message};
use crate::wire::sse::{Decoder, Event};

/// A stream of events may have so many times the bytes of one answer.
const STREAM: usize = 16;

/// How long an answer is waited for that may have to have another HTTP status than a stream.
const SOON: Duration = Duration::from_secs(1);

/// How an answer is passed on.
#[derive(Debug)]
pub enum Mode {
    /// One JSON document, as it is.
    Json,
    /// Events as they are, each passed on once it is whole, and watched for the response.
    Events(Box<Watched>),
    /// Events as they are, of a stream that carries no response (a legacy GET).
    Open,
    /// Events rewritten one by one.
    Rewritten(Box<Rewriting>),
}

/// Events that are passed on as they are.
#[derive(Debug)]
pub struct Watched {
    decoder: Decoder,
    /// What has come of the event that is not whole yet.
    held: BytesMut,
}

/// Events that are rewritten.
#[derive(Debug)]
pub struct Rewriting {
    decoder: Decoder,
    rewrite: Rewrite,
    /// The session that what the gateway answers itself goes over.
    session: Option<UpstreamSession>,
}

// Boxed: most answers are documents or need no watching, and every one would have to make room for it.
impl Mode {
    /// Events of an answer of `server`, as they are.
    #[must_use]
    pub fn events(server: &Server) -> Self {
        Self::Events(Box::new(Watched { decoder: Decoder::new(server.max_response), held: BytesMut::new() }))
    }

    /// Events of `server`, rewritten; what the gateway answers itself goes over `session`.
    #[must_use]
    pub fn rewritten(server: &Server, rewrite: Rewrite, session: Option<UpstreamSession>) -> Self {
        Self::Rewritten(Box::new(Rewriting { decoder: Decoder::new(server.max_response), rewrite, session }))
    }

    /// Events of one of several servers that the caller sees as one, of a stream that carries no response or the rest
    /// of a call's.
    #[must_use]
    pub fn routed(server: &Server, session: UpstreamSession) -> Self {
        Self::rewritten(server, Rewrite::routed_from(Some(server)), Some(session))
    }

    /// The same of the one server that the caller sees: as they are, unless some are answered by nobody.
    #[must_use]
    pub fn open(server: &Server, session: UpstreamSession) -> Self {
        match server.sampling {
            Sampling::Client => Self::Open,
            Sampling::Deny | Sampling::Gateway => {
                Self::rewritten(server, Rewrite::routed_from(None), Some(session))
            }
        }
    }
}

/// An answer on its way.
pub struct Stream<P: Platform> {
    mcp: Mcp<P>,
    reader: Reader<P>,
    mode: Mode,
    id: Option<Box<RawValue>>,
    ready: VecDeque<Bytes>,
    replies: VecDeque<Bytes>,
    /// Who goes on with the call if the server asks the caller for input: the mailbox and what it is to know.
    handover: Option<Box<(String, Rounds)>>,
    /// Set while the mailbox takes the call over, which must be waited for.
    handing: Option<Arc<AtomicBool>>,
    /// How the call is made again once models have answered what the server asks.
    again: Option<Box<Again>>,
    /// What comes of that.
    coming: Option<oneshot::Receiver<Came<P>>>,
    /// What models are asked for the server.
    samples: Option<Box<Samples>>,
    /// The call, as the client's session knows it.
    running: Option<Box<Running>>,
    watch: Option<Box<Watch<P>>>,
    /// What the server asked.
    asks: Option<Box<RawValue>>,
    line_begins: bool,
    over: bool,
    passed: usize,
    /// The connection has ended too early; kept, so that a future that is dropped loses nothing.
    broken: Option<Box<Fault>>,
    /// The response has come, or no response belongs on this stream.
    pub answered: bool,
    /// Why there was none.
    pub fault: Option<Kind>,
    /// The server gave an event an id: the client may come back for the rest.
    pub resumable: bool,
    /// Where the stream has come to, if it is one that can go on over another connection.
    pub resume: Option<Box<Resume>>,
    /// It carries news as they come, not the answer to a call: it has no end of its own.
    pub news: bool,
    /// The caller's right to have it open, where that is limited.
    pub seat: Option<Seat>,
}

impl<P: Platform> Stream<P> {
    /// An answer to the request `id`, of which `first` has been read already.
    pub fn new(
        mcp: Mcp<P>,
        reader: Reader<P>,
        mode: Mode,
        id: Option<&RawValue>,
        first: Option<Bytes>,
    ) -> Self {
        let answered = matches!(mode, Mode::Open);
        let mut stream = Self {
            mcp,
            reader,
            mode,
            id: id.map(RawValue::to_owned),
            ready: VecDeque::new(),
            replies: VecDeque::new(),
            handover: None,
            handing: None,
            again: None,
            coming: None,
            samples: None,
            running: None,
            watch: None,
            asks: None,
            line_begins: true,
            over: false,
            passed: first.as_ref().map_or(0, Bytes::len),
            broken: None,
            answered,
            fault: None,
            resumable: false,
            resume: None,
            news: false,
            seat: None,
        };
        if let Some(first) = first {
            stream.ready = VecDeque::from([first]);
        }
        stream
    }

    /// Whether the server's session ends with this, so that it must hear first that nobody waits any more.
    pub fn ends_session(&self) -> bool {
        self.reader.is_session() && !self.over
    }

    /// The same, and `handover` says who goes on if the server asks the caller for input.
    #[must_use]
    pub fn with_handover(mut self, handover: Option<Box<(String, Rounds)>>) -> Self {
        self.handing = handover.is_some().then(Arc::default);
        self.handover = handover;
        self
    }

    /// Tells whether [`Self::next`] must not be dropped now: the call is being handed over.
    pub fn hands_over(&self) -> impl Fn() -> bool + use<P> {
        let handing = self.handing.clone();
        move || handing.as_ref().is_some_and(|handing| handing.load(Ordering::Relaxed))
    }

    /// The same, and `again` says how to make the call again once models have answered what the server asks.
    #[must_use]
    pub fn with_again(mut self, again: Option<Box<Again>>) -> Self {
        self.again = again;
        self
    }

    /// The same, of a call that its client may give up.
    #[must_use]
    pub fn of(mut self, running: Option<Running>, watch: Option<Box<Watch<P>>>) -> Self {
        (self.running, self.watch) = (running.map(Box::new), watch);
        self
    }

    /// An answer that a mailbox gives, of which `first` has been read already. Whether it is whole is for the mailbox
    /// to know: it says nothing to a client that has given the call up.
    ///
    /// # Errors
    /// When what has been read is too large.
    pub fn from_mailbox(mcp: Mcp<P>, reader: Reader<P>, id: &RawValue, first: Bytes) -> Result<Self, Fault> {
        let mode = Mode::events(&reader.server);
        let mut stream = Self::new(mcp, reader, mode, Some(id), None);
        stream.answered = true;
        if !first.is_empty() {
            stream.take(first)?;
        }
        Ok(stream)
    }

    /// The error that the answer comes to, if that is the first thing that is said, and soon.
    pub async fn refusal(&mut self) -> Option<(i64, Bytes)> {
        let clock = self.mcp.platform.clock().sleep(SOON);
        let hands_over = self.hands_over();
        let first = match select(pin!(self.next()), pin!(clock)).await {
            Either::Left((first, _)) => first,
            Either::Right(((), next)) if hands_over() => next.await,
            Either::Right(_) => None,
        };
        let Some(Ok(first)) = first else { return None };
        self.ready.push_front(first.clone());
        if !self.over || self.ready.len() > 1 {
            return None;
        }
        let mut events = Vec::new();
        Decoder::new(first.len()).push(&first, &mut events).ok()?;
        let data = events.pop()?.data;
        Some((error_of(&data)?.0, data))
    }

    /// Whether the body is an event stream.
    pub fn is_events(&self) -> bool {
        !matches!(self.mode, Mode::Json)
    }

    /// Ends a stream of news in good order, with what there is to say to that; to be called until it is `None`.
    pub fn leave(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.ready.pop_front() {
            return Some(bytes);
        }
        if std::mem::replace(&mut self.over, true) {
            return None;
        }
        self.answered = true;
        self.id.as_deref().map(|id| Event::message(completed(id)).encode())
    }

    /// Whether a comment may stand here: between two lines of an event stream.
    pub fn may_comment(&self) -> bool {
        self.is_events() && self.line_begins && !self.over
    }

    /// The next bytes for the caller. Dropping the future loses nothing, but while [`Self::hands_over`] is true.
    pub async fn next(&mut self) -> Option<Result<Bytes, SeamError>> {
        loop {
            if let Mode::Rewritten(rewriting) = &self.mode
                && let (Some(session), Some(reply)) = (&rewriting.session, self.replies.front())
            {
                self.mcp.tell(&self.reader.server, reply.clone(), session).await;
                self.replies.pop_front();
                continue;
            }
            if let Some(bytes) = self.ready.pop_front() {
                self.line_begins = bytes.last() == Some(&b'\n');
                return Some(Ok(bytes));
            }
            if let Some(coming) = &mut self.coming {
                let came = coming.await.unwrap_or_else(|_| Err(unanswered(&self.reader.server)));
                self.coming = None;
                if let Err(fault) = came.and_then(|(again, settled)| self.goes_on(again, settled)) {
                    return self.fail(&fault);
                }
                continue;
            }
            if self.handover.is_none()
                && self.asks.is_some()
                && let Some(again) = self.again.take()
            {
                self.coming = self.asks.take().map(|result| self.mcp.settled(again, result));
                continue;
            }
            if let Some(result) = self.asks.take() {
                // Boxed: few calls are handed over, and every one would have to make room for it.
                if let Err(fault) = Box::pin(self.hand_over(result)).await {
                    return self.fail(&fault);
                }
                continue;
            }
            if self.over {
                return None;
            }
            // A client that has given its call up is told nothing more about it.
            if !self.answered && self.running.as_deref().is_some_and(Running::is_cancelled) {
                if let Mode::Rewritten(rewriting) = &self.mode
                    && let (Some(session), true) = (&rewriting.session, self.reader.is_session())
                {
                    // The session ends with the stream; its server must hear first why.
                    let (server, session) = (self.reader.server.clone(), session.clone());
                    let id = rewriting.rewrite.upstream_id.clone();
                    self.mcp.cancel(&Cancel { server, session, id, resumable: false }).await;
                }
                self.answered = true;
                self.over = true;
                return None;
            }
            if let Some(why) = self.broken.clone() {
                // A server that was told of it by another instance says no more.
                if let (Some(running), Some(watch)) = (&self.running, &self.watch)
                    && Box::pin(watch.is_marked(&self.mcp)).await
                {
                    running.give_up();
                    self.broken = None;
                    continue;
                }
                let Some(resume) = &mut self.resume else { return self.fail(&why) };
                // Boxed, for the same reason.
                if let Err(fault) = Box::pin(self.mcp.resume(&mut self.reader, resume, *why)).await {
                    return self.fail(&fault);
                }
                self.broken = None;
                self.begin_anew();
                continue;
            }
            let chunk = match &self.running {
                // A legacy server is told and ends the stream itself; a modern one is hung up on.
                Some(running) if self.hangs_up() => {
                    // Boxed, for the same reason.
                    let given_up = Box::pin(self.mcp.given_up(running, self.watch.as_deref_mut()));
                    match select(pin!(self.reader.chunk()), given_up).await {
                        Either::Left((chunk, _)) => chunk,
                        Either::Right(_) => continue,
                    }
                }
                _ => self.reader.chunk().await,
            };
            match chunk {
                Ok(Some(chunk)) => {
                    if let Err(fault) = self.take(chunk) {
                        return self.fail(&fault);
                    }
                }
                Ok(None) if self.answered || matches!(self.mode, Mode::Json) => {
                    self.over = true;
                    self.answered = true;
                }
                Ok(None) => self.broken = Some(Box::new(no_answer(&self.reader.server))),
                Err(fault) => self.broken = Some(Box::new(fault)),
            }
        }
    }

    /// The server asks for input: the caller's mailbox goes on with the call, and this with what it says.
    async fn hand_over(&mut self, result: Box<RawValue>) -> Result<(), Fault> {
        let Some(handover) = self.handover.take() else {
            return Err(cannot_ask(&self.reader.server.name));
        };
        let (key, rounds) = *handover;
        let letter = Letter::Rounds(Rounds { result: Some(result), ..rounds });
        let handing = |now| {
            if let Some(handing) = &self.handing {
                handing.store(now, Ordering::Relaxed);
            }
        };
        handing(true);
        let taken = self.mcp.answer_of(&self.reader.server, &key, &letter).await;
        handing(false);
        self.reader = taken?;
        self.mode = Mode::events(&self.reader.server);
        self.answered = true;
        self.resume = None;
        Ok(())
    }

    /// The call has been made again.
    fn goes_on(&mut self, again: Box<Again>, settled: Settled<P>) -> Result<(), Fault> {
        let Mode::Rewritten(rewriting) = &mut self.mode else { return Ok(()) };
        rewriting.decoder = Decoder::new(self.reader.server.max_response);
        self.again = Some(again);
        match settled {
            Settled::Asks(response) => {
                self.ready.push_back(Event::message(response).encode());
                (self.answered, self.over) = (true, true);
                Ok(())
            }
            Settled::Message(message, id) => {
                rewriting.rewrite.upstream_id = id;
                self.take(Event::message(message).encode())?;
                if self.over || self.asks.is_some() { Ok(()) } else { Err(no_answer(&self.reader.server)) }
            }
            Settled::Events(answered, id) => {
                rewriting.rewrite.upstream_id = id;
                self.reader = answered.reader;
                Ok(())
            }
        }
    }

    /// Whether hanging up is what cancels the call, or would end it.
    fn hangs_up(&self) -> bool {
        self.reader.is_session()
            || matches!(&self.mode, Mode::Rewritten(rewriting) if rewriting.rewrite.legacy.is_some())
    }

    /// Forgets the event that was cut: it comes again.
    fn begin_anew(&mut self) {
        let fresh = Decoder::new(self.reader.server.max_response);
        match &mut self.mode {
            Mode::Json | Mode::Open => {}
            Mode::Events(watched) => {
                watched.decoder = fresh;
                watched.held.clear();
            }
            Mode::Rewritten(rewriting) => rewriting.decoder = fresh,
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Fault> {
        let mut events = Vec::new();
        let limit = self.reader.server.max_response;
        self.passed = self.passed.saturating_add(chunk.len());
        let most = match self.mode {
            Mode::Json => limit,
            Mode::Events(..) | Mode::Rewritten(..) if !self.reader.is_open_ended() => {
                limit.saturating_mul(STREAM)
            }
            _ => usize::MAX,
        };
        if self.passed > most {
            return Err(too_large(&self.reader.server, most));
        }
        match &mut self.mode {
            Mode::Json | Mode::Open => self.ready.push_back(chunk),
            Mode::Events(watched) => {
                let Watched { decoder, held } = watched.as_mut();
                decoder.push(&chunk, &mut events).map_err(|_| too_large(&self.reader.server, limit))?;
                self.resumable |= events.iter().any(|event| event.id.is_some());
                if self.news {
                    let notices = events.iter().filter_map(|event| match Message::decode(&event.data) {
                        Ok(Message::Notification { method, .. }) => Some(method),
                        _ => None,
                    });
                    notices.for_each(|method| self.mcp.outdated(&self.reader.server, &method));
                }
                if let Some(resume) = &mut self.resume {
                    events.iter().for_each(|event| resume.saw(event));
                }
                if events.iter().any(|event| is_response(&event.data)) {
                    self.answered = true;
                    self.over = true;
                }
                // What is held back is part of one event, which the decoder bounds.
                let mut chunk = chunk;
                match decoder.boundary() {
                    None => held.extend_from_slice(&chunk),
                    Some(end) => {
                        let whole = chunk.split_to(end.min(chunk.len()));
                        if held.is_empty() {
                            self.ready.push_back(whole);
                        } else {
                            held.extend_from_slice(&whole);
                            self.ready.push_back(held.split().freeze());
                        }
                        held.extend_from_slice(&chunk);
                    }
                }
            }
            Mode::Rewritten(rewriting) => {
                let Rewriting { decoder, rewrite, session } = rewriting.as_mut();
                decoder.push(&chunk, &mut events).map_err(|_| too_large(&self.reader.server, limit))?;
                for event in events.into_iter().flat_map(singles) {
                    if let Some(resume) = &mut self.resume {
                        resume.saw(&event);
                    }
                    if self.news
                        && let Ok(Message::Notification { method, .. }) = Message::decode(&event.data)
                    {
                        self.mcp.outdated(&self.reader.server, &method);
                    }
                    let Event { id, retry, data, .. } = event;
                    // Only the caller's own stream can be gone on with from one of its places.
                    let id = id.and_then(|id| rewrite.place(id));
                    let retry = retry.filter(|_| rewrite.route.is_some() || rewrite.direct);
                    let event = |data| Event { id: id.clone(), retry, ..Event::message(data) }.encode();
                    self.resumable |= id.is_some();
                    if data.is_empty() {
                        if id.is_some() || retry.is_some() {
                            self.ready.push_back(event(data));
                        }
                        continue;
                    }
                    if let Some(samples) = &mut self.samples
                        && let Some(id) = cancelled_question(&data)
                        && samples.cancelled(&id)
                    {
                        continue;
                    }
                    match rewrite.apply(data, &self.reader.server) {
                        Rewritten::Sample(id, params) => {
                            let samples = self.samples.get_or_insert_default();
                            if let Some(session) = session {
                                let server = &self.reader.server;
                                self.mcp.sample(server, session, &id, params.as_deref(), samples);
                                if self.news {
                                    samples.anew();
                                }
                            }
                        }
                        Rewritten::Asks(result) => {
                            self.asks = Some(result);
                            break;
                        }
                        Rewritten::Refuse(reply, data) => {
                            self.replies.push_back(reply);
                            self.ready.push_back(event(data));
                            self.answered = true;
                            self.over = true;
                            break;
                        }
                        Rewritten::Pass(data) => self.ready.push_back(event(data)),
                        Rewritten::Response(data, _) => {
                            self.ready.push_back(event(data));
                            self.answered = true;
                            self.over = true;
                            break;
                        }
                        Rewritten::Reply(data) => self.replies.push_back(data),
                        Rewritten::Drop => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the stream with an error for the call.
    fn fail(&mut self, fault: &Fault) -> Option<Result<Bytes, SeamError>> {
        self.over = true;
        self.fault = Some(fault.kind);
        match self.mode {
            // A document that has begun cannot become another; the cut says that it is not whole.
            Mode::Json => Some(Err(SeamError::Cut(fault.message.clone()))),
            Mode::Open => None,
            // There is no call that it could be about.
            Mode::Rewritten(..) if self.id.is_none() => None,
            Mode::Events(..) | Mode::Rewritten(..) => {
                let error = jsonrpc::error(self.id.as_deref(), fault.kind.row().code, &fault.message, None);
                Some(Ok(Event::message(error).encode()))
            }
        }
    }
}

/// An event for each message of `event`: 2025-03-26 has batches on streams, too. What a stream can be gone on with
/// behind stands at the last of them.
pub(super) fn singles(event: Event) -> Vec<Event> {
    let parts = match jsonrpc::decode_batch(&event.data) {
        Ok(Some(parts)) if !parts.is_empty() => parts,
        _ => return vec![event],
    };
    let data = parts.into_iter().map(|part| Bytes::copy_from_slice(part.get().as_bytes()));
    let mut all: Vec<Event> = data.map(Event::message).collect();
    if let Some(last) = all.last_mut() {
        (last.id, last.retry) = (event.id, event.retry);
    }
    all
}

/// The id of the question that a server does not want answered any more, if `data` says so.
pub(super) fn cancelled_question(data: &[u8]) -> Option<Box<RawValue>> {
    match Message::decode(data) {
        Ok(Message::Notification { method, params: Some(params) }) if method == "notifications/cancelled" => {
            field(params, "requestId")
        }
        _ => None,
    }
}

/// The server asks, and there is no way to ask the caller.
pub fn cannot_ask(server: &str) -> Fault {
    let message = format!(
        "server {server:?}: asks the client for input, which needs an answer as an event stream: accept \
         text/event-stream and declare the capability"
    );
    Fault::new(Kind::MissingCapability, message)
}

/// Whether `data` is a response, told by its first telling member; the rest is not read.
pub fn is_response(data: &[u8]) -> bool {
    struct Seek<'a>(&'a mut bool);
    impl<'de> DeserializeSeed<'de> for Seek<'_> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
            input.deserialize_map(self)
        }
    }
    impl<'de> Visitor<'de> for Seek<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a message")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                match key.as_ref() {
                    "result" | "error" => {
                        *self.0 = true;
                        return Err(serde::de::Error::custom("seen enough"));
                    }
                    "method" => return Err(serde::de::Error::custom("seen enough")),
                    _ => _ = map.next_value::<IgnoredAny>()?,
                }
            }
            Ok(())
        }
    }
    let mut found = false;
    let mut input = serde_json::Deserializer::from_slice(data);
    let _ = Seek(&mut found).deserialize(&mut input);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_batch_come_one_by_one() {
        let event = |data: &'static str| Event { id: Some("e".to_owned()), ..Event::message(data.into()) };
        let all = singles(event(r#" [{"a":1}, {"b":2}]"#));
        let all: Vec<_> = all.iter().map(|event| (event.id.as_deref(), event.data.as_ref())).collect();
        assert_eq!(all, [(None, &br#"{"a":1}"#[..]), (Some("e"), br#"{"b":2}"#)]);
        assert_eq!(singles(event("[]")).len(), 1);
        assert_eq!(singles(event(r#"{"a":1}"#))[0].id.as_deref(), Some("e"));
    }

    #[test]
    fn a_response_is_known_by_its_first_telling_member() {
        assert!(is_response(br#"{"jsonrpc":"2.0","id":1,"result":{"method":1}}"#));
        assert!(is_response(br#"{"error":{},"id":1}"#));
        assert!(!is_response(br#"{"jsonrpc":"2.0","method":"m","params":{"result":1}}"#));
        assert!(!is_response(b"garbage"));
    }
}
