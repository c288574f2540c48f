//! One call's answer on its way to the caller: relayed as it is, or rewritten for the caller's era.
//!
//! A stream that breaks goes on over another connection where its server allows that ([`super::resume`]), or else
//! ends in a JSON-RPC error for the call, never in a bare cut. Bytes that need no change are **never** changed; they
//! are only watched, to know whether the response has come and what an event's id was.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::listen::{Seat, completed};
use super::mailbox::Letter;
use super::memory::{Running, UpstreamSession};
use super::resume::Resume;
use super::revision::Revision;
use super::rounds::Rounds;
use super::serve::Cancel;
use super::tasks::Names;
use super::upstream::{error_of, field, no_answer};
use super::{Mcp, ask, content, tasks};
use crate::config::plan::{Sampling, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, SeamError};
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{self, Message, Splice};
use crate::wire::sse::{Decoder, Event};

/// A stream of events may have so many times the bytes of one answer.
const STREAM: usize = 16;

/// How long an answer is waited for that may have to have another HTTP status than a stream.
const SOON: Duration = Duration::from_secs(1);

/// What has to change in messages for the caller.
#[derive(Debug)]
pub struct Rewrite {
    /// The id that the request has upstream, as JSON.
    pub upstream_id: String,
    /// The id that the caller gave it.
    pub id: Box<RawValue>,
    /// The caller is modern and the server is not: results need what 2026-07-28 asks of them.
    pub modern: bool,
    /// The caller is legacy and the server is not: the method and the caller's revision; results lose what only
    /// 2026-07-28 has.
    pub legacy: Option<(String, Revision)>,
    /// The caller sees several legacy servers as one: which one this is, so that its questions and the places in its
    /// streams can be told from those of the others.
    pub route: Option<String>,
    /// The two sides are of one era and share a session: whatever the server says is for the caller as it is, but for
    /// what nobody answers.
    pub direct: bool,
    /// The caller sees several servers as one, and knows tasks by names of the gateway's.
    pub tasks: Names,
    /// The result is one that must say how long it may be kept: for so many milliseconds.
    pub ttl_ms: Option<u128>,
    /// The caller asked for log messages.
    pub logs: bool,
}

/// What becomes of one message.
#[derive(Debug)]
pub enum Rewritten {
    /// It goes to the caller.
    Pass(Bytes),
    /// It is the response: it goes to the caller, and nothing comes after it. The code is an error's.
    Response(Bytes, Option<i64>),
    /// It is a request of the server that the caller cannot be asked: this goes back.
    Reply(Bytes),
    /// It is a request without whose answer the call makes no sense: the first goes back, the second to the caller,
    /// and nothing comes after it.
    Refuse(Bytes, Bytes),
    /// It is the response, and asks the caller for input: its result.
    Asks(Box<RawValue>),
    /// It is not for the caller.
    Drop,
}

/// How the ids begin that say which server they belong to.
pub const ROUTED: &str = "cw@";

/// The server and its own id in an id that [`Rewrite::routed`] made.
#[must_use]
pub fn routed(id: &str) -> Option<(&str, &str)> {
    id.strip_prefix(ROUTED)?.split_once('@')
}

/// The server and its own id of a question that the caller knows by `id`: a JSON string or integer again.
#[must_use]
pub fn routed_question(id: &str) -> Option<(&str, &RawValue)> {
    let (server, own) = routed(id)?;
    let own: &RawValue = serde_json::from_str(own).ok()?;
    jsonrpc::is_id(own).then_some((server, own))
}

/// What results of 2026-07-28 have that earlier ones have not.
const MODERN_ONLY: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

impl Rewrite {
    /// For a legacy caller of a modern server.
    #[must_use]
    pub fn to_legacy(upstream_id: String, id: Box<RawValue>, method: &str, revision: Revision) -> Self {
        Self {
            upstream_id,
            id,
            modern: false,
            legacy: Some((method.to_owned(), revision)),
            route: None,
            direct: false,
            tasks: Names::None,
            ttl_ms: None,
            logs: true,
        }
    }

    /// For messages that belong to no call that is known here; with the name of the server if the caller sees several
    /// as one.
    #[must_use]
    pub fn routed_from(server: Option<&Server>) -> Self {
        Self {
            upstream_id: String::new(),
            id: Box::<RawValue>::default(),
            modern: false,
            legacy: None,
            route: server.map(|server| server.name.clone()),
            direct: server.is_none(),
            tasks: if server.is_some() { Names::Before } else { Names::None },
            ttl_ms: None,
            logs: true,
        }
    }

    /// Whether a response of a legacy server stays as it is.
    #[must_use]
    pub fn only_routes(&self) -> bool {
        (self.route.is_some() || self.direct)
            && !self.modern
            && self.legacy.is_none()
            && matches!(self.tasks, Names::None | Names::Before)
            && self.upstream_id == self.id.get()
    }

    /// The id of an event as the caller knows it, if the stream is one that it may go on with from any place.
    fn place(&self, id: String) -> Option<String> {
        (self.route.is_some() || self.direct).then(|| self.routed(id))
    }

    /// An id of the server's as the caller knows it.
    #[must_use]
    pub fn routed(&self, id: String) -> String {
        self.route.as_ref().map_or(id.clone(), |server| format!("{ROUTED}{server}@{id}"))
    }

    /// A question of the server's, or what it says about one, with the id that the caller knows it by.
    fn question(&self, data: &Bytes, id: &RawValue) -> Rewritten {
        let mut splice = Splice::new(data);
        splice.replace(id, jsonrpc::quote(&self.routed(id.get().to_owned())));
        Rewritten::Pass(splice.finish())
    }

    /// Rewrites one message.
    pub fn apply(&self, data: Bytes, server: &Server) -> Rewritten {
        let data = match tasks::outward(data, server, self.tasks) {
            Ok(data) => data,
            Err(_) if self.upstream_id.is_empty() => return Rewritten::Drop,
            Err(fault) => {
                let code = fault.kind.row().code;
                return Rewritten::Response(fault.into_error(&self.id), Some(code));
            }
        };
        match Message::decode(&data) {
            // On the rest of a call's stream nobody knows here which call it was: the client does.
            Ok(Message::Response { .. })
                if (self.route.is_some() || self.direct) && self.upstream_id.is_empty() =>
            {
                Rewritten::Response(data, None)
            }
            Ok(Message::Response { id, outcome }) => {
                if id.is_some_and(|id| id.get() != self.upstream_id) {
                    return Rewritten::Drop;
                }
                let mut splice = Splice::new(&data);
                match id {
                    Some(id) => splice.replace(id, self.id.get().as_bytes().to_vec()),
                    None => splice.insert_first(format!("\"id\":{}", self.id.get()).as_bytes()),
                }
                let code = match outcome {
                    Ok(result) if let Err(fault) = ask::check(server, result) => {
                        let code = fault.kind.row().code;
                        return Rewritten::Response(fault.into_error(&self.id), Some(code));
                    }
                    Ok(result) if self.legacy.is_some() => {
                        let kind = field(result, "resultType");
                        match kind.as_deref().map(RawValue::get) {
                            Some("\"input_required\"") => return Rewritten::Asks(result.to_owned()),
                            Some("\"task\"") => {
                                let fault = unasked_task(server);
                                let code = fault.kind.row().code;
                                return Rewritten::Response(fault.into_error(&self.id), Some(code));
                            }
                            _ => {}
                        }
                        let less = without(result, &MODERN_ONLY);
                        let whole = less.as_deref().unwrap_or(result.get());
                        let adapted = self
                            .legacy
                            .as_ref()
                            .and_then(|(method, revision)| content::adapted(method, whole, *revision));
                        if let Some(changed) = adapted.or(less) {
                            splice.replace(result, changed.into_bytes());
                        }
                        None
                    }
                    Ok(result) => {
                        self.complete(&mut splice, result);
                        None
                    }
                    Err(error) => self.error(&mut splice, error),
                };
                Rewritten::Response(splice.finish(), code)
            }
            Ok(Message::Request { id, method, params }) => {
                if method == "ping" && !self.direct {
                    return Rewritten::Reply(jsonrpc::result(id, &serde_json::Map::new()));
                }
                if ask::answerer(server, &method) == ask::Answerer::Nobody {
                    return Rewritten::Reply(ask::denied(id));
                }
                if self.direct {
                    return Rewritten::Pass(data);
                }
                if self.route.is_some() {
                    return self.question(&data, id);
                }
                let reply =
                    jsonrpc::error(Some(id), -32601, "the client cannot be asked over this session", None);
                match ask::Askable::default().admit(&server.name, &method, params) {
                    Err(fault) if self.modern && fault.kind == Kind::MissingCapability => {
                        Rewritten::Refuse(reply, fault.into_error(&self.id))
                    }
                    _ => Rewritten::Reply(reply),
                }
            }
            Ok(Message::Notification { method, .. }) if method == "notifications/message" && !self.logs => {
                Rewritten::Drop
            }
            Ok(Message::Notification { method, params: Some(params) })
                if self.route.is_some() && method == "notifications/cancelled" =>
            {
                #[derive(serde::Deserialize)]
                struct Cancelled<'a> {
                    #[serde(borrow, rename = "requestId")]
                    id: &'a RawValue,
                }
                match serde_json::from_str::<Cancelled<'_>>(params.get()) {
                    Ok(cancelled) => self.question(&data, cancelled.id),
                    Err(_) => Rewritten::Drop,
                }
            }
            // What a task of a modern server asks travels in its state.
            Ok(Message::Notification { params: Some(params), .. }) if ask::check(server, params).is_err() => {
                Rewritten::Drop
            }
            Ok(Message::Notification { .. }) => Rewritten::Pass(data),
            Err(_) => Rewritten::Drop,
        }
    }

    /// Adds what a modern result must have and a legacy one has not.
    fn complete(&self, splice: &mut Splice<'_>, result: &RawValue) {
        if !self.modern || !result.get().starts_with('{') {
            return;
        }
        let present = members(result);
        let has = |name: &str| present.iter().any(|member| member == name);
        let mut added = Vec::new();
        if !has("resultType") {
            added.push("\"resultType\":\"complete\"".to_owned());
        }
        if let Some(ttl) = self.ttl_ms {
            if !has("ttlMs") {
                added.push(format!("\"ttlMs\":{ttl}"));
            }
            if !has("cacheScope") {
                added.push("\"cacheScope\":\"private\"".to_owned());
            }
        }
        splice.insert_into(result, added.join(",").as_bytes());
    }

    /// Gives an error the code that it has in the caller's era.
    fn error(&self, splice: &mut Splice<'_>, error: &RawValue) -> Option<i64> {
        #[derive(serde::Deserialize)]
        struct Coded<'a> {
            #[serde(borrow)]
            code: &'a RawValue,
        }
        let coded: Coded<'_> = serde_json::from_str(error.get()).ok()?;
        let code = coded.code.get().parse().ok()?;
        // Resource not found has moved (2026-07-28 changelog, minor change 6).
        if self.modern && code == -32002 {
            splice.replace(coded.code, b"-32602".to_vec());
            return Some(-32602);
        }
        let reads = self.legacy.as_ref().is_some_and(|(method, _)| method == "resources/read");
        if reads && code == -32602 && field(error, "data").is_some_and(|data| field(&data, "uri").is_some()) {
            splice.replace(coded.code, b"-32002".to_vec());
            return Some(-32002);
        }
        Some(code)
    }
}

/// `object` without the members called `names`, the others as they were written; `None` if it has none of them.
pub fn without(object: &RawValue, names: &[&str]) -> Option<String> {
    struct Members<'a>(Vec<(std::borrow::Cow<'a, str>, &'a RawValue)>);
    impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
        fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            struct Read;
            impl<'de> Visitor<'de> for Read {
                type Value = Vec<(std::borrow::Cow<'de, str>, &'de RawValue)>;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut all = Vec::new();
                    while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                        all.push((name, map.next_value()?));
                    }
                    Ok(all)
                }
            }
            input.deserialize_map(Read).map(Members)
        }
    }
    let Members(all) = serde_json::from_str(object.get()).ok()?;
    if !all.iter().any(|(name, _)| names.contains(&name.as_ref())) {
        return None;
    }
    let kept: Vec<String> = all
        .iter()
        .filter(|(name, _)| !names.contains(&name.as_ref()))
        .map(|(name, value)| format!("{}:{}", String::from_utf8_lossy(&jsonrpc::quote(name)), value.get()))
        .collect();
    Some(format!("{{{}}}", kept.join(",")))
}

fn members(object: &RawValue) -> Vec<String> {
    serde_json::from_str::<std::collections::HashMap<String, IgnoredAny>>(object.get())
        .map(|all| all.into_keys().collect())
        .unwrap_or_default()
}

/// How an answer is passed on.
#[derive(Debug)]
pub enum Mode {
    /// One JSON document, as it is.
    Json,
    /// Events as they are, each passed on once it is whole, and watched for the response.
    Events(Decoder, BytesMut),
    /// Events as they are, of a stream that carries no response (a legacy GET).
    Open,
    /// Events rewritten one by one.
    Rewritten(Decoder, Rewrite, Option<UpstreamSession>),
}

impl Mode {
    /// Events of one of several servers that the caller sees as one, of a stream that carries no response or the rest
    /// of a call's.
    #[must_use]
    pub fn routed(server: &Server, session: UpstreamSession) -> Self {
        let rewrite = Rewrite::routed_from(Some(server));
        Self::Rewritten(Decoder::new(server.max_response), rewrite, Some(session))
    }

    /// The same of the one server that the caller sees: as they are, unless some are answered by nobody.
    #[must_use]
    pub fn open(server: &Server, session: UpstreamSession) -> Self {
        match server.sampling {
            Sampling::Client => Self::Open,
            Sampling::Deny => {
                let rewrite = Rewrite::routed_from(None);
                Self::Rewritten(Decoder::new(server.max_response), rewrite, Some(session))
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
    /// The call, as the client's session knows it.
    running: Option<Running>,
    /// What the server asked.
    asks: Option<Box<RawValue>>,
    line_begins: bool,
    over: bool,
    passed: usize,
    /// The connection has ended too early; kept, so that a future that is dropped loses nothing.
    broken: Option<Fault>,
    /// The response has come, or no response belongs on this stream.
    pub answered: bool,
    /// Why there was none.
    pub fault: Option<Kind>,
    /// The server gave an event an id: the client may come back for the rest.
    pub resumable: bool,
    /// Where the stream has come to, if it is one that can go on over another connection.
    pub resume: Option<Resume>,
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
            running: None,
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
        stream.ready.extend(first);
        stream
    }

    /// Whether the server's session ends with this, so that it must hear first that nobody waits any more.
    pub fn ends_session(&self) -> bool {
        self.reader.is_session() && !self.over
    }

    /// The same, and `handover` says who goes on if the server asks the caller for input.
    #[must_use]
    pub fn with_handover(mut self, handover: Option<Box<(String, Rounds)>>) -> Self {
        self.handover = handover;
        self
    }

    /// The same, of a call that its client may give up.
    #[must_use]
    pub fn of(mut self, running: Option<Running>) -> Self {
        self.running = running;
        self
    }

    /// An answer that a mailbox gives, of which `first` has been read already. Whether it is whole is for the mailbox
    /// to know: it says nothing to a client that has given the call up.
    ///
    /// # Errors
    /// When what has been read is too large.
    pub fn from_mailbox(mcp: Mcp<P>, reader: Reader<P>, id: &RawValue, first: Bytes) -> Result<Self, Fault> {
        let mode = Mode::Events(Decoder::new(reader.server.max_response), BytesMut::new());
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
        let first = match select(pin!(self.next()), pin!(clock)).await {
            Either::Left((Some(Ok(first)), _)) => first,
            Either::Left(_) | Either::Right(_) => return None,
        };
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

    /// The next bytes for the caller. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes, SeamError>> {
        loop {
            if let (Mode::Rewritten(_, _, Some(session)), Some(reply)) = (&self.mode, self.replies.front()) {
                self.mcp.tell(&self.reader.server, reply.clone(), session).await;
                self.replies.pop_front();
                continue;
            }
            if let Some(bytes) = self.ready.pop_front() {
                self.line_begins = bytes.last() == Some(&b'\n');
                return Some(Ok(bytes));
            }
            if let Some(result) = self.asks.take() {
                if let Err(fault) = self.hand_over(result).await {
                    return self.fail(&fault);
                }
                continue;
            }
            if self.over {
                return None;
            }
            // A client that has given its call up is told nothing more about it.
            if !self.answered && self.running.as_ref().is_some_and(Running::is_cancelled) {
                if let (Mode::Rewritten(_, rewrite, Some(session)), true) =
                    (&self.mode, self.reader.is_session())
                {
                    // The session ends with the stream; its server must hear first why.
                    let (server, session) = (self.reader.server.clone(), session.clone());
                    let id = rewrite.upstream_id.clone();
                    self.mcp.cancel(&Cancel { server, session, id, resumable: false }).await;
                }
                self.answered = true;
                self.over = true;
                return None;
            }
            if let Some(why) = self.broken.clone() {
                let Some(resume) = &mut self.resume else { return self.fail(&why) };
                // Boxed: few streams break, and every one would have to make room for it.
                if let Err(fault) = Box::pin(self.mcp.resume(&mut self.reader, resume, why)).await {
                    return self.fail(&fault);
                }
                self.broken = None;
                self.begin_anew();
                continue;
            }
            let chunk = match &self.running {
                // A legacy server is told and ends the stream itself; a modern one is hung up on.
                Some(running) if self.hangs_up() => {
                    let clock = self.mcp.platform.clock();
                    match select(pin!(self.reader.chunk()), pin!(running.cancelled(clock))).await {
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
                Ok(None) => self.broken = Some(no_answer(&self.reader.server)),
                Err(fault) => self.broken = Some(fault),
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
        self.reader = self.mcp.answer_of(&self.reader.server, &key, &letter).await?;
        self.mode = Mode::Events(Decoder::new(self.reader.server.max_response), BytesMut::new());
        self.answered = true;
        self.resume = None;
        Ok(())
    }

    /// Whether hanging up is what cancels the call, or would end it.
    fn hangs_up(&self) -> bool {
        self.reader.is_session()
            || matches!(&self.mode, Mode::Rewritten(_, rewrite, _) if rewrite.legacy.is_some())
    }

    /// Forgets the event that was cut: it comes again.
    fn begin_anew(&mut self) {
        let fresh = Decoder::new(self.reader.server.max_response);
        match &mut self.mode {
            Mode::Json | Mode::Open => {}
            Mode::Events(decoder, held) => {
                *decoder = fresh;
                held.clear();
            }
            Mode::Rewritten(decoder, ..) => *decoder = fresh,
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
            Mode::Events(decoder, held) => {
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
            Mode::Rewritten(decoder, rewrite, _) => {
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
                    match rewrite.apply(data, &self.reader.server) {
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
fn singles(event: Event) -> Vec<Event> {
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

/// The server asks, and there is no way to ask the caller.
pub fn cannot_ask(server: &str) -> Fault {
    let message = format!(
        "server {server:?}: asks the client for input, which needs an answer as an event stream: accept \
         text/event-stream and declare the capability"
    );
    Fault::new(Kind::MissingCapability, message)
}

/// The server made a task of a call, and its client has not said that it knows what to do with one.
fn unasked_task(server: &Server) -> Fault {
    let message = format!(
        "server {:?}: answered with a task, which a client of a revision before 2026-07-28 cannot take and did not ask for",
        server.name
    );
    Fault::new(Kind::UpstreamInvalid, message)
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

    fn rewrite(modern: bool) -> Rewrite {
        Rewrite {
            upstream_id: "9".to_owned(),
            id: RawValue::from_string("\"a\"".to_owned()).unwrap(),
            modern,
            legacy: None,
            route: None,
            direct: false,
            tasks: Names::None,
            ttl_ms: None,
            logs: false,
        }
    }

    fn server() -> Server {
        Server::new("s", "http://s/mcp".parse().unwrap())
    }

    fn check(input: &str, expect: &str) {
        check_with(&rewrite(true), input, expect);
    }

    fn check_with(rewrite: &Rewrite, input: &str, expect: &str) {
        let got = match rewrite.apply(Bytes::from(input.to_owned()), &server()) {
            Rewritten::Pass(data) => format!("pass {}", String::from_utf8_lossy(&data)),
            Rewritten::Response(data, code) => {
                format!("response {code:?} {}", String::from_utf8_lossy(&data))
            }
            Rewritten::Reply(data) => format!("reply {}", String::from_utf8_lossy(&data)),
            Rewritten::Refuse(_, data) => format!("refuse {}", String::from_utf8_lossy(&data)),
            Rewritten::Asks(result) => format!("asks {result}"),
            Rewritten::Drop => "drop".to_owned(),
        };
        assert_eq!(got, expect, "{input}");
    }

    #[test]
    fn messages_of_a_legacy_server_become_what_a_modern_client_expects() {
        check(
            r#"{"jsonrpc":"2.0","id":9,"result":{"content":[], "x": 1.0}}"#,
            r#"response None {"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","content":[], "x": 1.0}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","id":9,"result":{}}"#,
            r#"response None {"jsonrpc":"2.0","id":"a","result":{"resultType":"complete"}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32002,"message":"m"}}"#,
            r#"response Some(-32602) {"jsonrpc":"2.0","id":"a","error":{"code":-32602,"message":"m"}}"#,
        );
        check(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, "drop");
        check(r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#, r#"reply {"jsonrpc":"2.0","id":5,"result":{}}"#);
        check(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#, "drop");
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
            r#"pass {"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
        );
        check("garbage", "drop");
    }

    #[test]
    fn results_of_a_modern_server_become_what_a_legacy_client_knows() {
        let id = RawValue::from_string("1".to_owned()).unwrap();
        let check = |method: &str, input: &str, expect: &str| {
            check_with(
                &Rewrite::to_legacy("9".to_owned(), id.clone(), method, Revision::LEGACY),
                input,
                expect,
            );
        };
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"complete","content":[], "ttlMs":5,"x":{"resultType":1}}}"#,
            r#"response None {"jsonrpc":"2.0","id":1,"result":{"content":[],"x":{"resultType":1}}}"#,
        );
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"input_required","requestState":"s"}}"#,
            r#"asks {"resultType":"input_required","requestState":"s"}"#,
        );
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"task","taskId":"t"}}"#,
            &format!(
                "response Some(-32603) {}",
                String::from_utf8_lossy(&unasked_task(&server()).into_error(&id))
            ),
        );
        let missing = r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32602,"message":"m","data":{"uri":"u"}}}"#;
        check(
            "resources/read",
            missing,
            &format!("response Some(-32002) {}", missing.replace("32602", "32002").replace("9,", "1,")),
        );
        check("tools/call", missing, &format!("response Some(-32602) {}", missing.replace("9,", "1,")));
    }

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
