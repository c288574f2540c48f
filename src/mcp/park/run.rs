//! One call of a modern client to a legacy server, from its first leg to its end.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::mpsc::UnboundedReceiver;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Heard, answers, next_news};
use super::slot::{Slot, sweep};
use super::state::{AGAIN, PARKED, State, elicitations, input_required, seal};
use super::{Attached, Call, Leg, Started};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind, Who};
use crate::mcp::ask::{self, Askable};
use crate::mcp::mailbox::Mailbox;
use crate::mcp::memory::{UpstreamSession, lock};
use crate::mcp::rewrite::{Rewrite, Rewritten};
use crate::mcp::sampling::Samples;
use crate::mcp::tasks::Names;
use crate::mcp::upstream::{Outgoing, error_of, field, no_answer, standard_headers};
use crate::mcp::{Mcp, extensions};
use crate::platform::{Clock as _, Platform, Timestamp};
use crate::relay::dropped::Dropped;
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{self, Message, Splice};
use crate::wire::sse::{Decoder, Event};

/// How long to wait for more questions after one has come: servers that ask several do so in one breath.
const GATHER: Duration = Duration::from_millis(25);

/// What a leg may be behind before the server's answer is read no further.
const BACKLOG: usize = 256 * 1024;

/// Messages kept for the next leg while the client is away, and their bytes.
const HELD: usize = 256;

const HELD_BYTES: usize = 1024 * 1024;

/// Makes the call and stays with it to its end.
pub async fn run<P: Platform>(mcp: Mcp<P>, mailbox: Arc<Mailbox<P>>, started: Started) {
    let Started { call, id, first, mut legs } = started;
    let Some(server) = mcp.plan.server(&call.server).cloned() else {
        let fault = Fault::new(Kind::NotFound, format!("server {:?} is not served any more", call.server));
        lock(&mailbox.parked.0).running.remove(&id);
        first.say(&fault.clone().into_error(&first.leg.id));
        return first.log.end();
    };
    let mcp = mcp.for_caller(&call.caller);
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
        samples: Samples::default(),
    };
    let level = ran.leg.as_ref().and_then(|attached| attached.leg.level.clone());
    let slot = Slot::take(&mcp, &mailbox, &server, &call, level).await;
    let kept = match slot {
        Err(fault) => {
            if fault.kind == Kind::UpstreamRefused {
                // Perhaps it does not speak as it did; the next call finds out.
                mcp.memory.server(&server).forget();
            }
            ran.done = Some(Err(fault));
            None
        }
        Ok(slot) => {
            let slot = ran.converse(slot, &mut legs).await;
            let answered = matches!(ran.done, Some(Ok(_)));
            slot.and_then(|slot| slot.returned(ran.now(), answered))
        }
    };
    // Nobody wants to know any more.
    ran.samples = Samples::default();
    ran.close(&mut legs).await;
    let ears = kept.as_ref().and_then(|slot: &Slot<P>| slot.ears().cloned());
    let sweeps = {
        let mut inner = lock(&mailbox.parked.0);
        inner.running.remove(&id);
        inner.idle.extend(kept);
        !inner.idle.is_empty() && !std::mem::replace(&mut inner.sweeping, true)
    };
    if let Some(ears) = ears {
        ears.wake();
    }
    if sweeps {
        sweep(&mcp, &mailbox, &server).await;
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
    /// What models are asked for the server.
    samples: Samples,
}

impl<P: Platform> Run<'_, P> {
    fn now(&self) -> Timestamp {
        self.mcp.platform.clock().now()
    }

    /// Sends the call over `slot` and carries what is said both ways until it is answered or given up. Gives the
    /// session back if it can be used again.
    async fn converse(&mut self, slot: Slot<P>, legs: &mut UnboundedReceiver<Attached>) -> Option<Slot<P>> {
        let mut slot = slot;
        let mut again = true;
        'call: loop {
            if let Some(running) = lock(&self.mailbox.parked.0).running.get_mut(self.id) {
                running.ears = slot.heard();
            }
            let (mcp, server) = (self.mcp.clone(), self.server.clone());
            let session = slot.session.clone();
            let line = slot.lend(&self.upstream_id);
            let mut answer = pin!(answers(mcp, server, session, self.request(&slot.session), line));
            let mut waiting: VecDeque<Bytes> = VecDeque::new();
            self.extend();
            loop {
                if self.done.is_some() {
                    return Some(slot);
                }
                if self.due.is_some_and(|due| self.now() >= due) {
                    self.ask(&slot.session).await;
                    continue;
                }
                if let Some(news) = waiting.pop_front() {
                    slot.tell(&news);
                    self.hear(news, &slot.session).await;
                    continue;
                }
                match self.next(answer.as_mut(), &mut slot.news, &mut waiting, legs).await {
                    Next::Answer(Some(Ok(Heard::Message(data)))) => {
                        if self.leg.is_some() && self.open.is_empty() {
                            self.extend();
                        }
                        slot.tell(&data);
                        self.hear(data, &slot.session).await;
                    }
                    Next::Answer(Some(Ok(Heard::Forgotten))) if std::mem::take(&mut again) => {
                        let (able, info) = (self.call.capabilities.get(), self.call.client_info.get());
                        match Box::pin(Slot::open(self.mcp, self.server, able, info)).await {
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
                    Next::News(Some(data)) => {
                        slot.tell(&data);
                        self.hear(data, &slot.session).await;
                    }
                    Next::News(None) => slot.lose_news(),
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
            Ok(Message::Request { id, method, params })
                if ask::answerer(self.server, &method) == ask::Answerer::Gateway =>
            {
                self.mcp.sample(self.server, session, id, params, &mut self.samples);
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
                    let id = params.and_then(|params| field(params, "requestId"));
                    if let Some(id) = id {
                        self.open.retain(|question| question.id != id.get());
                        self.samples.cancelled(&id);
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
        let dropped = Dropped {
            server: &self.server.name,
            caller: &self.call.caller,
            messages: std::mem::take(&mut self.dropped),
            message: "more came while the client was away than is kept for it; the oldest have gone",
        };
        dropped.say(&self.mcp.platform, "park.dropped");
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
    pub(super) fn say(&self, message: &Bytes) {
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
