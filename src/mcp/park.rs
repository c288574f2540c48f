//! A modern client calls a legacy server that may ask back: the call waits here while its client is away.
//!
//! The server's answer is an event stream that stays open. When a question comes on it, the client's request ends with
//! an `input_required` result that holds every question open at that moment and a sealed `requestState`; the client's
//! retry brings the answers, which go to the server, and is given what comes then. So one call upstream has one or
//! more legs downstream, each a request of the client's.
//!
//! Invariant: a `requestState` works once. It is bound to its caller, its call and a time by its seal, and to its turn
//! by the number of rounds that the call has had.
//!
//! Source: 2026-07-28 multi round-trip requests; 2025-11-25 transports, "Sending Messages to the Server".

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ask::{self, Askable};
use super::mailbox::{Mailbox, Said, Work};
use super::memory::{UpstreamSession, lock};
use super::resume::Resume;
use super::revision::Revision;
use super::stream::{Rewrite, Rewritten};
use super::tail::Log;
use super::tasks::Names;
use super::upstream::{Answered, Content, Outgoing, content, error_of, no_answer, refused, standard_headers};
use super::{Mcp, extensions, forgets};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind, Who};
use crate::platform::{Clock as _, Entropy as _, Log as _, Platform, Timestamp};
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{self, Message, Splice, string};
use crate::wire::sse::{Decoder, Event};

/// How long to wait for more questions after one has come: servers that ask several do so in one breath.
const GATHER: Duration = Duration::from_millis(25);
/// What a leg may be behind before the server's answer is read no further.
const BACKLOG: usize = 256 * 1024;
/// Messages kept for the next leg while the client is away, and their bytes.
const HELD: usize = 256;
const HELD_BYTES: usize = 1024 * 1024;
/// An upstream session that nobody has used for so long is ended.
const IDLE: Duration = Duration::from_secs(60);
/// An HTTP error's body is read no further than this.
const ERROR_BODY: usize = 64 * 1024;

/// What a sealed `requestState` of a parked call is sealed for.
pub const PARKED: &str = "parked";
/// What the `requestState` is sealed for of a call that is to be made anew.
pub const AGAIN: &str = "again";

/// The letter that begins a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// The key of the mailbox that it goes to.
    pub key: String,
    /// The caller's name.
    pub caller: String,
    /// The server's name.
    pub server: String,
    /// The method.
    pub method: String,
    /// The message as the server takes it, but for its id.
    pub message: Box<RawValue>,
    /// What must be the same in a retry.
    pub digest: String,
    /// The client's capabilities.
    pub capabilities: Box<RawValue>,
    /// The client's name and version.
    pub client_info: Box<RawValue>,
    /// Headers for the server.
    pub headers: Vec<(String, String)>,
    /// The first request.
    pub leg: Leg,
}

/// One request of the client's for a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leg {
    /// Its id.
    pub id: Box<RawValue>,
    /// The least level of log messages that it wants.
    pub level: Option<String>,
    /// The token that its progress goes by.
    pub token: Option<Box<RawValue>>,
}

/// The letter of a client that comes back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Retry {
    /// Which call.
    pub call: String,
    /// How many rounds the call has had.
    pub round: u64,
    /// What the client answers, by the key of the question.
    pub responses: BTreeMap<String, Box<RawValue>>,
    /// Its request.
    pub leg: Leg,
}

/// What a `requestState` says.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The key of the mailbox.
    pub key: String,
    /// Which call.
    pub call: String,
    /// How many rounds it has had.
    pub round: u64,
    /// What must be the same in a retry.
    pub digest: String,
}

/// The calls of one caller to one server, and the sessions they go over.
pub struct Desk<P: Platform>(Mutex<Inner<P>>);

struct Inner<P: Platform> {
    running: HashMap<String, Running>,
    idle: Vec<Slot<P>>,
    sweeping: bool,
}

struct Running {
    round: u64,
    legs: UnboundedSender<Attached>,
}

/// A session with the server. One call at a time goes over it, so that whatever the server asks is about that call.
struct Slot<P: Platform> {
    session: UpstreamSession,
    level: Option<String>,
    /// The stream of an HTTP+SSE session that has not had its call. It has one, and ends with it.
    line: Option<Box<Answered<P>>>,
    /// The session's own stream, where some servers ask what belongs to a call.
    news: Option<(Reader<P>, Decoder)>,
    used: Timestamp,
}

/// A request that is being answered.
struct Attached {
    leg: Leg,
    log: Log,
    responses: BTreeMap<String, Box<RawValue>>,
}

/// A call that has been taken on.
pub struct Started {
    call: Call,
    id: String,
    first: Attached,
    legs: UnboundedReceiver<Attached>,
}

impl<P: Platform> Default for Desk<P> {
    fn default() -> Self {
        Self(Mutex::new(Inner { running: HashMap::new(), idle: Vec::new(), sweeping: false }))
    }
}

impl<P: Platform> Desk<P> {
    /// Whether nothing runs and no session is kept.
    pub fn is_idle(&self) -> bool {
        let inner = lock(&self.0);
        inner.running.is_empty() && inner.idle.is_empty()
    }

    /// Takes a client back to its call.
    pub fn retry(&self, retry: Retry) -> Said {
        let Retry { call, round, responses, leg } = retry;
        let refuse = |text: &str| Said::fault(Some(&leg.id), &Fault::new(Kind::InvalidState, text));
        let mut inner = lock(&self.0);
        let Some(running) = inner.running.get_mut(&call) else { return refuse(GONE) };
        if running.round != round {
            return refuse(
                "params.requestState: has been used already; start again: send the request without it",
            );
        }
        let log = Log::once();
        let Some(tail) = log.tail(0) else { return refuse(GONE) };
        let attached = Attached { leg: leg.clone(), log, responses };
        if running.legs.unbounded_send(attached).is_err() {
            return refuse(GONE);
        }
        running.round += 1;
        Said::Tail(false, tail)
    }
}

/// The call that a `requestState` speaks of is not there.
pub const GONE: &str = "params.requestState: the call it belongs to has ended: its time was up, or the gateway or the \
                        connection to the server was restarted; start again: send the request without it";

/// Takes on a call.
pub fn begin<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, call: Call) -> (Said, Work) {
    let limit = mcp.plan.limits.parked;
    let mut inner = lock(&mailbox.parked.0);
    let log = Log::once();
    let (Some(tail), true) = (log.tail(0), inner.running.len() < limit) else {
        let message = format!(
            "server {:?}: {limit} calls of yours run or wait for an answer of yours there (limits.parked); finish \
             some first",
            call.server
        );
        return (Said::fault(Some(&call.leg.id), &Fault::new(Kind::TooMany, message)), Work::None);
    };
    let mut id = [0; 12];
    mcp.platform.entropy().fill(&mut id);
    let id = super::hex(&id);
    let (sender, legs) = unbounded();
    inner.running.insert(id.clone(), Running { round: 0, legs: sender });
    let first = Attached { leg: call.leg.clone(), log, responses: BTreeMap::new() };
    (Said::Tail(false, tail), Work::Park(Box::new(Started { call, id, first, legs })))
}

/// Makes the call and stays with it to its end.
pub async fn run<P: Platform>(mcp: Mcp<P>, mailbox: Arc<Mailbox<P>>, started: Started) {
    let Started { call, id, first, mut legs } = started;
    let Some(server) = mcp.plan.server(&call.server).cloned() else {
        let fault = Fault::new(Kind::NotFound, format!("server {:?} is not served any more", call.server));
        lock(&mailbox.parked.0).running.remove(&id);
        first.say(&fault.clone().into_error(&first.leg.id));
        return first.log.end();
    };
    let askable = Askable::of(&call.capabilities);
    let mut ran = Run {
        mcp: &mcp,
        mailbox: &mailbox,
        server: &server,
        call: &call,
        id: &id,
        askable,
        upstream_id: mcp.memory.server(&server).next_id().to_string(),
        leg: Some(first),
        open: Vec::new(),
        asked: 0,
        due: None,
        until: Timestamp(u64::MAX),
        held: VecDeque::new(),
        dropped: 0,
        done: None,
    };
    let slot = ran.slot().await;
    let kept = match slot {
        Err(fault) => {
            if fault.kind == Kind::UpstreamRefused {
                // Perhaps it does not speak as it did; the next call finds out.
                mcp.memory.server(&server).forget();
            }
            ran.done = Some(Err(fault));
            None
        }
        // A session of HTTP+SSE has ended with its call.
        Ok(slot) => ran.converse(slot, &mut legs).await.filter(|slot| slot.session.endpoint.is_none()),
    };
    ran.close(&mut legs).await;
    let sweeps = {
        let mut inner = lock(&mailbox.parked.0);
        inner.running.remove(&id);
        inner.idle.extend(kept);
        !inner.idle.is_empty() && !std::mem::replace(&mut inner.sweeping, true)
    };
    if sweeps {
        sweep(&mcp, &mailbox, &server).await;
    }
}

/// Ends sessions that nobody has used for a while; stays until there are none.
async fn sweep<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, server: &Arc<Server>) {
    loop {
        mcp.platform.clock().sleep(IDLE).await;
        let now = mcp.platform.clock().now();
        let old = {
            let mut inner = lock(&mailbox.parked.0);
            let all = std::mem::take(&mut inner.idle);
            let (old, kept): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|slot| now.since(slot.used) >= IDLE);
            inner.sweeping = !kept.is_empty();
            inner.idle = kept;
            old
        };
        for slot in &old {
            mcp.end(server, &slot.session).await;
        }
        if !lock(&mailbox.parked.0).sweeping {
            return;
        }
    }
}

/// A question of the server's that the client has not answered.
struct Question {
    key: String,
    /// Its id with the server, as JSON.
    id: String,
    /// As an entry of `inputRequests`.
    text: String,
}

/// What has been heard of the answer.
enum Heard {
    /// A message.
    Message(Bytes),
    /// The server does not know the session.
    Forgotten,
}

/// What happens next.
enum Next {
    Answer(Option<Result<Heard, Fault>>),
    News(Option<Bytes>),
    Leg(Option<Attached>),
    Gone,
    Due,
}

/// A call on its way.
struct Run<'a, P: Platform> {
    mcp: &'a Mcp<P>,
    mailbox: &'a Mailbox<P>,
    server: &'a Arc<Server>,
    call: &'a Call,
    id: &'a str,
    askable: Askable,
    /// The id that it has with the server, as JSON.
    upstream_id: String,
    /// The client's request that waits for what comes; `None` while the client is away.
    leg: Option<Attached>,
    open: Vec<Question>,
    asked: usize,
    /// When the questions that are open go to the client.
    due: Option<Timestamp>,
    /// When the call is given up.
    until: Timestamp,
    /// What has come while the client was away.
    held: VecDeque<Bytes>,
    /// How many messages of those were not kept.
    dropped: usize,
    /// How it ended.
    done: Option<Result<Bytes, Fault>>,
}

impl<P: Platform> Run<'_, P> {
    fn now(&self) -> Timestamp {
        self.mcp.platform.clock().now()
    }

    /// A session that no other call uses: one that is there, or a new one.
    async fn slot(&mut self) -> Result<Slot<P>, Fault> {
        let idle = lock(&self.mailbox.parked.0).idle.pop();
        let mut slot = match idle {
            Some(slot) => slot,
            // Boxed, here and below: calls wait for long and open sessions seldom.
            None => Box::pin(self.new_slot()).await?,
        };
        let wanted = self.leg.as_ref().and_then(|attached| attached.leg.level.clone());
        if let Some(level) = wanted.filter(|level| slot.level.as_ref() != Some(level)) {
            match &mut slot.line {
                Some(line) => self.mcp.set_level_old(line, &slot.session, &level).await,
                None => self.mcp.set_level(self.server, &slot.session, &level).await,
            }
            slot.level = Some(level);
        }
        Ok(slot)
    }

    async fn new_slot(&self) -> Result<Slot<P>, Fault> {
        let Call { capabilities, client_info, .. } = self.call;
        let (capabilities, client_info) = (capabilities.get(), client_info.get());
        if self.mcp.profile(self.server).await?.http_sse {
            let opened = self.mcp.open_old(self.server, capabilities, client_info, Revision::LEGACY);
            let (line, session, _) = opened.await?;
            return Ok(Slot {
                session,
                level: None,
                line: Some(Box::new(line)),
                news: None,
                used: self.now(),
            });
        }
        let opened = self.mcp.initialize(self.server, capabilities, client_info, Revision::LEGACY);
        let (session, _) = opened.await?;
        let news = self.news(&session).await;
        Ok(Slot { session, level: None, line: None, news, used: self.now() })
    }

    /// The stream of a session, if the server has one.
    async fn news(&self, session: &UpstreamSession) -> Option<(Reader<P>, Decoder)> {
        session.id.as_ref()?;
        let headers = standard_headers(session.revision, session.id.as_deref(), "", None);
        let outgoing = Outgoing { http: Method::GET, to: None, body: Bytes::new(), headers };
        let answered = self.mcp.exchange(self.server, outgoing).await.ok()?;
        let events = answered.status.is_success() && content(&answered.headers) == Content::Events;
        events.then(|| {
            let mut reader = answered.reader;
            reader.open_ended();
            (reader, Decoder::new(self.server.max_response))
        })
    }

    /// Sends the call over `slot` and carries what is said both ways until it is answered or given up. Gives the
    /// session back if it can be used again.
    async fn converse(&mut self, slot: Slot<P>, legs: &mut UnboundedReceiver<Attached>) -> Option<Slot<P>> {
        let mut slot = slot;
        let mut again = true;
        'call: loop {
            let (mcp, server) = (self.mcp.clone(), self.server.clone());
            let session = slot.session.clone();
            let line = slot.line.take().map(|line| (line, self.upstream_id.clone()));
            let mut answer = pin!(answers(mcp, server, session, self.request(&slot.session), line));
            let mut waiting: VecDeque<Bytes> = VecDeque::new();
            self.extend();
            loop {
                if self.done.is_some() {
                    slot.used = self.now();
                    return Some(slot);
                }
                if self.due.is_some_and(|due| self.now() >= due) {
                    self.ask(&slot.session).await;
                    continue;
                }
                if let Some(news) = waiting.pop_front() {
                    self.hear(news, &slot.session).await;
                    continue;
                }
                match self.next(answer.as_mut(), &mut slot.news, &mut waiting, legs).await {
                    Next::Answer(Some(Ok(Heard::Message(data)))) => {
                        if self.leg.is_some() && self.open.is_empty() {
                            self.extend();
                        }
                        self.hear(data, &slot.session).await;
                    }
                    Next::Answer(Some(Ok(Heard::Forgotten))) if std::mem::take(&mut again) => {
                        match Box::pin(self.new_slot()).await {
                            Ok(fresh) => slot = fresh,
                            Err(fault) => {
                                self.done = Some(Err(fault));
                                return None;
                            }
                        }
                        continue 'call;
                    }
                    Next::Answer(Some(Err(fault))) => {
                        self.done = Some(Err(fault));
                        return None;
                    }
                    Next::Answer(_) => {
                        self.done = Some(Err(no_answer(self.server)));
                        return None;
                    }
                    Next::News(Some(data)) => self.hear(data, &slot.session).await,
                    Next::News(None) => slot.news = None,
                    Next::Leg(Some(attached)) => self.attach(attached, &slot.session).await,
                    Next::Due => {
                        if self.now() < self.until {
                            continue;
                        }
                        self.cancel(&slot.session).await;
                        let limit = self.server.timeouts.total;
                        self.done = self.leg.is_some().then(|| {
                            let message = format!(
                                "server {:?}: no answer within {limit:?} (timeouts.total)",
                                self.server.name
                            );
                            Err(Fault::new(Kind::UpstreamTimeout, message))
                        });
                        return Some(slot);
                    }
                    Next::Gone | Next::Leg(None) => {
                        self.cancel(&slot.session).await;
                        self.leg = None;
                        return Some(slot);
                    }
                }
            }
        }
    }

    /// What happens next. Whatever does not happen is not lost.
    async fn next(
        &self,
        mut answer: Pin<&mut impl Stream<Item = Result<Heard, Fault>>>,
        news: &mut Option<(Reader<P>, Decoder)>,
        waiting: &mut VecDeque<Bytes>,
        legs: &mut UnboundedReceiver<Attached>,
    ) -> Next {
        let log = self.leg.as_ref().map(|attached| &attached.log);
        let until = self.due.unwrap_or(self.until).min(self.until);
        let mut due = pin!(self.mcp.platform.clock().sleep(until.since(self.now())));
        let mut answered = pin!(async {
            if let Some(log) = log {
                log.room(BACKLOG).await;
            }
            answer.next().await
        });
        let mut told = pin!(async {
            match news {
                Some((reader, decoder)) => next_news(reader, decoder, waiting).await,
                None => std::future::pending().await,
            }
        });
        let mut gone = pin!(async {
            match log {
                Some(log) => log.unread().await,
                None => std::future::pending().await,
            }
        });
        std::future::poll_fn(move |context| {
            if let Poll::Ready(leg) = legs.poll_next_unpin(context) {
                return Poll::Ready(Next::Leg(leg));
            }
            if let Poll::Ready(heard) = answered.as_mut().poll(context) {
                return Poll::Ready(Next::Answer(heard));
            }
            if let Poll::Ready(news) = told.as_mut().poll(context) {
                return Poll::Ready(Next::News(news));
            }
            if gone.as_mut().poll(context).is_ready() {
                return Poll::Ready(Next::Gone);
            }
            due.as_mut().poll(context).map(|()| Next::Due)
        })
        .await
    }

    /// The call as it goes over `session`.
    fn request(&self, session: &UpstreamSession) -> Outgoing {
        let mut headers = standard_headers(session.revision, session.id.as_deref(), &self.call.method, None);
        for (name, value) in &self.call.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        let text = self.call.message.get().as_bytes();
        let mut splice = Splice::new(text);
        if let Ok(Message::Request { id, .. }) = Message::decode(text) {
            splice.replace(id, self.upstream_id.clone().into_bytes());
        }
        Outgoing { http: Method::POST, to: None, body: splice.finish(), headers }
    }

    /// Gives the server its whole time again: a client has come back, or there was a sign of life.
    fn extend(&mut self) {
        self.until = self.now().after(self.server.timeouts.total);
    }

    async fn hear(&mut self, data: Bytes, session: &UpstreamSession) {
        match Message::decode(&data) {
            Ok(Message::Response { id, .. }) => {
                if id.is_none_or(|id| id.get() == self.upstream_id) {
                    self.done = Some(Ok(data));
                }
            }
            Ok(Message::Request { id, method, .. })
                if ask::answerer(self.server, &method) == ask::Answerer::Nobody =>
            {
                self.mcp.tell(self.server, ask::denied(id), session).await;
            }
            Ok(Message::Request { id, method, params }) => {
                let question = self.question(&method, params);
                match question {
                    Ok(text) => {
                        self.asked += 1;
                        let key = format!("q{}", self.asked);
                        self.open.push(Question { key, id: id.get().to_owned(), text });
                        // While the client is away there is nobody to be asked; it is when it comes back.
                        self.due = self.leg.is_some().then(|| self.now().after(GATHER));
                    }
                    Err(None) => {
                        let body = jsonrpc::result(id, &serde_json::Map::new());
                        self.mcp.tell(self.server, body, session).await;
                    }
                    Err(Some(fault)) => {
                        let body = jsonrpc::error(Some(id), -32601, "the client cannot be asked this", None);
                        self.mcp.tell(self.server, body, session).await;
                        if fault.kind == Kind::MissingCapability {
                            self.cancel(session).await;
                            self.done = Some(Err(fault));
                        }
                    }
                }
            }
            Ok(Message::Notification { method, params }) => match method.as_ref() {
                "notifications/cancelled" => {
                    let id = params.and_then(|params| super::upstream::field(params, "requestId"));
                    if let Some(id) = id {
                        self.open.retain(|question| question.id != id.get());
                    }
                    if self.open.is_empty() {
                        self.due = None;
                    }
                }
                "notifications/progress" | "notifications/message" => self.pass(data),
                method if !extensions::is_core_notification(method) => self.pass(data),
                _ => {}
            },
            Err(_) => {}
        }
    }

    /// A question as the client is asked it; `None` for a ping, which it is not.
    fn question(&self, method: &str, params: Option<&RawValue>) -> Result<String, Option<Fault>> {
        if method == "ping" {
            return Err(None);
        }
        self.askable.admit(&self.server.name, method, params).map_err(Some)?;
        let text = ask::to_modern(method, params);
        if text.len() > ask::QUESTION || self.open.len() >= self.mcp.plan.limits.rounds {
            return Err(Some(too_large(self.server, ask::QUESTION)));
        }
        Ok(text)
    }

    /// Passes on a message that belongs to the call, or keeps it for the next leg.
    fn pass(&mut self, data: Bytes) {
        match &self.leg {
            Some(attached) => attached.tell(data, self.call.leg.token.as_deref()),
            None => {
                self.held.push_back(data);
                while self.held.len() > HELD || self.held.iter().map(Bytes::len).sum::<usize>() > HELD_BYTES {
                    self.held.pop_front();
                    self.dropped += 1;
                }
            }
        }
    }

    /// Gives a client that is back what came while it was away, and says in the log what was not kept.
    fn catch_up(&mut self, attached: &Attached) {
        for data in self.held.drain(..) {
            attached.tell(data, self.call.leg.token.as_deref());
        }
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            #[derive(Serialize)]
            struct Dropped<'a> {
                ts: u64,
                level: &'static str,
                event: &'static str,
                server: &'a str,
                caller: &'a str,
                messages: usize,
            }
            let (server, caller) = (self.server.name.as_str(), self.call.caller.as_str());
            let record = Dropped {
                ts: self.now().0,
                level: "warn",
                event: "park.dropped",
                server,
                caller,
                messages: dropped,
            };
            if let Ok(line) = serde_json::to_string(&record) {
                self.mcp.platform.log().write(&line);
            }
        }
    }

    /// Ends the client's request with every question that is open.
    async fn ask(&mut self, session: &UpstreamSession) {
        self.due = None;
        let Some(attached) = self.leg.take() else { return };
        let round = lock(&self.mailbox.parked.0).running.get(self.id).map_or(0, |running| running.round);
        let rounds = self.mcp.plan.limits.rounds;
        if round >= rounds as u64 {
            let message =
                format!("server {:?}: asked more than {rounds} times (limits.rounds)", self.server.name);
            self.leg = Some(attached);
            self.cancel(session).await;
            self.done = Some(Err(Fault::new(Kind::TooMany, message)));
            return;
        }
        let state = State {
            key: self.call.key.clone(),
            call: self.id.to_owned(),
            round,
            digest: self.call.digest.clone(),
        };
        let park = self.mcp.plan.limits.park;
        match seal(self.mcp, PARKED, &self.call.caller, &state, park).await {
            Ok(state) => {
                let questions =
                    self.open.iter().map(|q| (q.key.as_str(), q.text.as_str())).collect::<Vec<_>>();
                attached.say(&input_required(&attached.leg.id, &questions, &state));
                attached.log.end();
                self.until = self.now().after(park);
            }
            Err(fault) => {
                self.leg = Some(attached);
                self.cancel(session).await;
                self.done = Some(Err(fault));
            }
        }
    }

    /// The client is back.
    async fn attach(&mut self, mut attached: Attached, session: &UpstreamSession) {
        let mut responses = std::mem::take(&mut attached.responses);
        let mut open = Vec::new();
        for question in self.open.drain(..) {
            match responses.remove(&question.key) {
                Some(result) => {
                    let body =
                        format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{}}}", question.id, result.get());
                    self.mcp.tell(self.server, body.into(), session).await;
                }
                None => open.push(question),
            }
        }
        self.open = open;
        self.catch_up(&attached);
        self.leg = Some(attached);
        self.due = (!self.open.is_empty()).then(|| self.now().after(GATHER));
        self.extend();
    }

    /// Tells the server that nobody waits for the answer any more.
    async fn cancel(&self, session: &UpstreamSession) {
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{},\"reason\":\
             \"the client has gone\"}}}}",
            self.upstream_id
        );
        self.mcp.tell(self.server, body.into(), session).await;
    }

    /// Says how it ended. A client that is away is given time to come back and hear it.
    async fn close(&mut self, legs: &mut UnboundedReceiver<Attached>) {
        let Some(done) = self.done.take() else {
            return;
        };
        if self.leg.is_none() {
            let wait = pin!(self.mcp.platform.clock().sleep(self.until.since(self.now())));
            match futures_util::future::select(legs.next(), wait).await {
                futures_util::future::Either::Left((Some(attached), _)) => self.leg = Some(attached),
                _ => return,
            }
        }
        let Some(attached) = self.leg.take() else { return };
        self.catch_up(&attached);
        let last = match done {
            Ok(data) => self.last(data, &attached.leg).await,
            Err(mut fault) => {
                if self.asked > 0 && fault.kind.row().who == Who::Upstream {
                    fault.message.push_str("; the call is lost: start again, without requestState");
                }
                fault.into_error(&attached.leg.id)
            }
        };
        attached.say(&last);
        attached.log.end();
    }

    /// The response, as the client takes it.
    async fn last(&self, data: Bytes, leg: &Leg) -> Bytes {
        if let Some((-32042, Some(required))) = error_of(&data)
            && let Some(questions) = elicitations(&required, self.askable, &self.server.name)
        {
            let digest = self.call.digest.clone();
            let state = State { key: String::new(), call: String::new(), round: 0, digest };
            if let Ok(state) =
                seal(self.mcp, AGAIN, &self.call.caller, &state, self.mcp.plan.limits.park).await
            {
                let questions: Vec<(&str, &str)> =
                    questions.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
                return input_required(&leg.id, &questions, &state);
            }
        }
        let rewrite = Rewrite {
            upstream_id: self.upstream_id.clone(),
            id: leg.id.clone(),
            modern: true,
            legacy: None,
            route: None,
            direct: false,
            tasks: Names::None,
            ttl_ms: (self.call.method == "resources/read").then_some(0),
            logs: true,
        };
        match rewrite.apply(data, self.server) {
            Rewritten::Response(body, _) => body,
            _ => no_answer(self.server).into_error(&leg.id),
        }
    }
}

impl Attached {
    fn say(&self, message: &Bytes) {
        self.log.push(Event::message(message.clone()).encode());
    }

    /// Passes on a notification, if the request wants it; `token` is the one that the server knows.
    fn tell(&self, data: Bytes, token: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Progress<'a> {
            #[serde(borrow, rename = "progressToken")]
            token: &'a RawValue,
        }
        let Ok(Message::Notification { method, params }) = Message::decode(&data) else { return };
        match method.as_ref() {
            "notifications/progress" => {}
            "notifications/message" if self.leg.level.is_none() => return,
            _ => return self.say(&data),
        }
        let progress = params.and_then(|params| serde_json::from_str::<Progress<'_>>(params.get()).ok());
        let (Some(progress), Some(own), Some(token)) = (progress, &self.leg.token, token) else { return };
        if progress.token.get() != token.get() {
            return;
        }
        let mut splice = Splice::new(&data);
        splice.replace(progress.token, own.get().as_bytes().to_vec());
        let changed = splice.finish();
        self.say(&changed);
    }
}

/// The stream of an HTTP+SSE session, and the id of the request that is sent over it, as JSON.
type Line<P> = Option<(Box<Answered<P>>, String)>;

/// The answer to `outgoing`, message by message: its head is waited for when it is first polled.
fn answers<P: Platform>(
    mcp: Mcp<P>,
    server: Arc<Server>,
    session: UpstreamSession,
    outgoing: Outgoing,
    line: Line<P>,
) -> impl Stream<Item = Result<Heard, Fault>> {
    enum At<P: Platform> {
        Head(Box<Outgoing>, Line<P>),
        Body(Box<Body<P>>),
        End,
    }
    struct Body<P: Platform> {
        reader: Reader<P>,
        decoder: Decoder,
        resume: Resume,
        waiting: VecDeque<Bytes>,
    }
    unfold(At::Head(Box::new(outgoing), line), move |at| {
        let (mcp, server, session) = (mcp.clone(), server.clone(), session.clone());
        async move {
            let mut at = at;
            loop {
                at = match at {
                    At::End => return None,
                    // Boxed: the body is waited for much longer than the head.
                    At::Head(outgoing, line) => {
                        match Box::pin(first(&mcp, &server, &session, *outgoing, line)).await {
                            Ok(First::Events(reader)) => At::Body(Box::new(Body {
                                reader,
                                decoder: Decoder::new(server.max_response),
                                resume: Resume::new(session.clone()),
                                waiting: VecDeque::new(),
                            })),
                            Ok(First::Heard(heard)) => return Some((Ok(heard), At::End)),
                            Err(fault) => return Some((Err(fault), At::End)),
                        }
                    }
                    At::Body(mut body) => {
                        if let Some(data) = body.waiting.pop_front() {
                            return Some((Ok(Heard::Message(data)), At::Body(body)));
                        }
                        let why = match body.reader.chunk().await {
                            Ok(Some(chunk)) => {
                                let mut events = Vec::new();
                                if body.decoder.push(&chunk, &mut events).is_err() {
                                    return Some((Err(too_large(&server, server.max_response)), At::End));
                                }
                                events.iter().for_each(|event| body.resume.saw(event));
                                let data = events.into_iter().map(|event| event.data);
                                body.waiting.extend(data.filter(|data| !data.is_empty()));
                                None
                            }
                            Ok(None) => Some(no_answer(&server)),
                            Err(fault) => Some(fault),
                        };
                        if let Some(why) = why {
                            let Body { reader, decoder, resume, .. } = body.as_mut();
                            if let Err(fault) = mcp.resume(reader, resume, why).await {
                                return Some((Err(fault), At::End));
                            }
                            *decoder = Decoder::new(server.max_response);
                        }
                        At::Body(body)
                    }
                };
            }
        }
    })
}

enum First<P: Platform> {
    Events(Reader<P>),
    Heard(Heard),
}

async fn first<P: Platform>(
    mcp: &Mcp<P>,
    server: &Arc<Server>,
    session: &UpstreamSession,
    outgoing: Outgoing,
    line: Line<P>,
) -> Result<First<P>, Fault> {
    let in_session = outgoing.headers.contains_key(super::headers::SESSION);
    let mut answered = match line {
        Some((line, id)) => mcp.send_old(*line, session, outgoing, &id).await?,
        None => mcp.exchange(server, outgoing).await?,
    };
    let status = answered.status;
    if !status.is_success() {
        let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
        if in_session && forgets(status, &body) {
            return Ok(First::Heard(Heard::Forgotten));
        }
        return match error_of(&body) {
            Some(_) => Ok(First::Heard(Heard::Message(body))),
            None => Err(refused(server, status)),
        };
    }
    match content(&answered.headers) {
        Content::Json => Ok(First::Heard(Heard::Message(answered.reader.all(server.max_response).await?))),
        Content::Events => {
            // The call's own times are watched where it is known who is waited for.
            answered.reader.open_ended();
            Ok(First::Events(answered.reader))
        }
        Content::Other => Err(no_answer(server)),
    }
}

/// The next message on a session's own stream; `None` when there is none any more.
async fn next_news<P: Platform>(
    reader: &mut Reader<P>,
    decoder: &mut Decoder,
    waiting: &mut VecDeque<Bytes>,
) -> Option<Bytes> {
    loop {
        let chunk = reader.chunk().await.ok()??;
        let mut events = Vec::new();
        decoder.push(&chunk, &mut events).ok()?;
        waiting.extend(events.into_iter().map(|event| event.data).filter(|data| !data.is_empty()));
        if let Some(data) = waiting.pop_front() {
            return Some(data);
        }
    }
}

/// Seals `state` for the caller, for as long as the call waits.
async fn seal<P: Platform>(
    mcp: &Mcp<P>,
    kind: &str,
    caller: &str,
    state: &State,
    time: Duration,
) -> Result<String, Fault> {
    let expires = mcp.platform.clock().now().after(time);
    let payload = serde_json::to_vec(state).unwrap_or_default();
    Ok(mcp.sealer().await?.seal(kind, caller, expires, &payload))
}

/// An `input_required` result (2026-07-28 multi round-trip requests, "InputRequiredResult").
fn input_required(id: &RawValue, questions: &[(&str, &str)], state: &str) -> Bytes {
    let entries: Vec<String> = questions.iter().map(|(key, text)| format!("\"{key}\":{text}")).collect();
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{\"resultType\":\"input_required\",\"inputRequests\":{{{}}},\
         \"requestState\":\"{state}\"}}}}",
        id.get(),
        entries.join(",")
    ))
}

/// The elicitations that a server wants done before it takes the call (2025-11-25 elicitation, "URL Elicitation
/// Required Error"), if the client can do them all.
fn elicitations(data: &RawValue, askable: Askable, server: &str) -> Option<Vec<(String, String)>> {
    #[derive(Deserialize)]
    struct Required {
        elicitations: Vec<Box<RawValue>>,
    }
    let required: Required = serde_json::from_str(data.get()).ok()?;
    let method = "elicitation/create";
    let all: Vec<(String, String)> = required
        .elicitations
        .iter()
        .take(32)
        .enumerate()
        .filter(|(_, params)| askable.admit(server, method, Some(params)).is_ok())
        .map(|(index, params)| (format!("q{}", index + 1), ask::to_modern(method, Some(params))))
        .collect();
    (!all.is_empty() && all.len() == required.elicitations.len()).then_some(all)
}

impl Fault {
    /// The error that answers the request `id`.
    pub(super) fn into_error(self, id: &RawValue) -> Bytes {
        jsonrpc::error(Some(id), self.kind.row().code, &self.message, self.data.as_deref())
    }
}

/// Headers of a caller that go on to the server.
pub fn passed(headers: &HeaderMap) -> Vec<(String, String)> {
    super::upstream::PASSED
        .iter()
        .filter_map(|name| Some((name.as_str().to_owned(), headers.get(name)?.to_str().ok()?.to_owned())))
        .collect()
}

/// What a retry must have in common with the request that it repeats, in short.
pub fn digest(server: &str, method: &str, params: Option<&RawValue>) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let mut members: serde_json::Map<String, serde_json::Value> =
        params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
    for own in ["_meta", "inputResponses", "requestState"] {
        members.remove(own);
    }
    // Clients may write the members in another order when they write them again.
    let mut value = serde_json::Value::Object(members);
    value.sort_all_objects();
    let mut hash = sha2::Sha256::new();
    for part in [server, "\0", method, "\0", &value.to_string()] {
        hash.update(part.as_bytes());
    }
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// The token that progress of a request goes by, if it has one.
pub fn progress_token(meta: Option<&RawValue>) -> Option<Box<RawValue>> {
    let token = super::upstream::field(meta?, "progressToken")?;
    (string(&token).is_some() || token.get().bytes().all(|b| b.is_ascii_digit() || b == b'-'))
        .then_some(token)
}
