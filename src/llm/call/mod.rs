//! One call: candidates are asked in turn until one begins to answer; then its answer goes on as it comes.
//!
//! A [`Call`] is driven by [`Call::next`], which may be dropped and called again at any time without losing anything.
//! Invariant: until the first word of an answer nothing of it is given to the caller, so another candidate can still
//! be asked; after it, what was said stands: the answer goes on where a model takes its beginning, or ends with the
//! dialect's own error event. It never begins twice, and nothing is said twice.

mod answer;
mod ask;
mod cached;
mod fail;
mod resume;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::cache::{Caching, ToKeep};
use super::chat::{Chat, Event, Usage, Whole};
use super::convert::{Front, Reader, Writer};
use super::memory::Memory;
use super::meter::{Metered, cost};
use super::refusal::Refusal;
use super::route::Candidate;
use super::team::{Outcome, Spent, Stage, Team};
use crate::config::Plan;
use crate::fault::Kind;
use crate::platform::{Clock as _, Platform, SeamError, Sent, Timestamp, UpstreamBody};

/// How long a stream may stay open once all has been said.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A model's words.
    Chat(Front),
    /// Vectors for texts (OpenAI's dialect).
    Embeddings,
    /// How many tokens a request has (Anthropic's dialect).
    Count,
}

impl Task {
    /// Whose errors the caller understands.
    #[must_use]
    pub fn front(self) -> Front {
        match self {
            Self::Chat(front) => front,
            Self::Embeddings => Front::OpenAi,
            Self::Count => Front::Anthropic,
        }
    }
}

/// What is asked, by whom, of whom.
pub struct Asked {
    /// What for.
    pub task: Task,
    /// The model, as the caller named it.
    pub model: String,
    /// Whether the answer is wanted as it comes.
    pub stream: bool,
    /// The request, as it came.
    pub body: Bytes,
    /// The request as a conversation, where it came in no provider's dialect.
    pub chat: Option<Chat>,
    /// Headers of the caller's that go on to any provider.
    pub passed: HeaderMap,
    /// Headers of the caller's that go on to a provider of their own dialect.
    pub native: HeaderMap,
    /// The gateway's id of the request.
    pub request_id: String,
    /// The name of the caller's key.
    pub caller: String,
    /// Who is asked, in order.
    pub candidates: Vec<Candidate>,
    /// Who may answer, however they are doing, by name; of a server's question also what it wishes for.
    pub may: Vec<String>,
    /// Why nobody is asked, where all are left alone.
    pub alone: Option<Box<Refusal>>,
    /// Why in this order.
    pub why: String,
}

/// How an answer begins.
pub enum Opening {
    /// All of it is there.
    Whole(StatusCode, HeaderMap, Bytes),
    /// It goes on ([`Call::next`]).
    Stream(HeaderMap),
}

/// Where a call stands.
enum State<P: Platform> {
    /// The next candidate is to be asked.
    Next,
    /// A request is on its way.
    Sending(Sent<P>),
    /// An answer is read to its end: an error, or one that is not streamed.
    Collecting { status: StatusCode, headers: HeaderMap, body: UpstreamBody<P>, held: BytesMut },
    /// A stream is passed on.
    Streaming { body: UpstreamBody<P>, reader: Reader, writer: Option<Writer>, tail: BytesMut },
    /// All were asked, and will be once more.
    Waiting,
    /// Nothing comes any more.
    Over,
}

/// What a call is, besides a caller's own.
#[derive(Debug, Default)]
enum Role {
    /// It is a caller's own.
    #[default]
    Own,
    /// It is a stage that the caller does not see.
    Unseen,
    /// It is the last stage, after others.
    Last(&'static str, Spent),
}

/// One call.
pub struct Call<P: Platform> {
    platform: P,
    plan: Arc<Plan>,
    memory: Arc<Memory>,
    asked: Asked,
    left: VecDeque<Candidate>,
    current: Option<Candidate>,
    state: State<P>,
    /// The request, read as a conversation, once it must be converted.
    chat: Option<Chat>,
    rounds: u32,
    /// Why the first candidate did not answer.
    refusal: Option<(Refusal, Option<(StatusCode, Bytes)>)>,
    /// Who was asked before the current candidate, and what came of it.
    missed: Vec<String>,
    /// The current candidate has been asked.
    sent: bool,
    began: Timestamp,
    ticks: u64,
    /// When the current candidate was asked, and when its first word came.
    since: (u64, u64),
    /// When the current candidate must have said its first word.
    first_by: Timestamp,
    /// When it must be done.
    done_by: Timestamp,
    heard_at: Timestamp,
    /// When the next round begins.
    wake_at: Timestamp,
    /// Written, and not given out yet.
    out: BytesMut,
    whole: Option<(StatusCode, HeaderMap, Bytes)>,
    /// The caller has been told that a stream comes.
    promised: bool,
    /// Something of the answer has been given out, or may be.
    committed: bool,
    role: Role,
    /// The stages before it, while they are on their way.
    team: Option<Box<Team<P>>>,
    /// What is said if nobody answers.
    instead: Option<Whole>,
    /// How large its answer may be, if that is less than its provider's may.
    room: usize,
    /// When it must be done, if that is sooner than its provider's time.
    until: Option<Timestamp>,
    /// The answer of a stage that the caller does not see, or why there is none.
    pub(super) answer: Option<Whole>,
    pub(super) refused: Option<Refusal>,
    /// What was said so far.
    said: resume::Said,
    /// What becomes of the answer, where answers are kept.
    caching: Option<Box<Caching>>,
    /// The answer, on its way to the store.
    pub(super) to_keep: Option<Box<ToKeep>>,
    /// What is known of it.
    pub metered: Metered,
}

impl<P: Platform> Call<P> {
    /// A call that has not begun.
    pub fn new(platform: P, plan: Arc<Plan>, memory: Arc<Memory>, mut asked: Asked) -> Self {
        let (now, ticks) = (platform.clock().now(), platform.clock().ticks());
        let metered = Metered { asked: asked.model.clone(), ..Metered::default() };
        Self {
            left: asked.candidates.iter().cloned().collect(),
            platform,
            plan,
            memory,
            current: None,
            state: State::Next,
            chat: asked.chat.take(),
            asked,
            rounds: 0,
            refusal: None,
            missed: Vec::new(),
            sent: false,
            began: now,
            ticks,
            since: (ticks, ticks),
            first_by: now,
            done_by: now,
            heard_at: now,
            wake_at: now,
            out: BytesMut::new(),
            whole: None,
            promised: false,
            committed: false,
            role: Role::Own,
            team: None,
            instead: None,
            until: None,
            room: usize::MAX,
            answer: None,
            refused: None,
            said: resume::Said::default(),
            caching: None,
            to_keep: None,
            metered,
        }
    }

    /// A stage that the caller does not see: it answers `chat`, whole, in so many bytes at most.
    pub(super) fn unseen(
        platform: P,
        plan: Arc<Plan>,
        memory: Arc<Memory>,
        asked: Asked,
        chat: Chat,
        room: usize,
    ) -> Self {
        let call = Self::new(platform, plan, memory, asked);
        Self { role: Role::Unseen, chat: Some(chat), room, ..call }
    }

    /// A call that `team` answers.
    pub(super) fn of(team: Team<P>, call: Self) -> Self {
        Self { team: Some(Box::new(team)), ..call }
    }

    /// This call, of which it is noted what is asked and answered.
    pub(super) fn noted(mut self, noted: Option<Box<super::noted::Noted>>) -> Self {
        self.metered.noted = noted;
        self
    }

    /// This call, whose answer may be known, and is kept.
    pub(super) fn cached(self, caching: Option<Caching>) -> Self {
        Self { caching: caching.map(Box::new), ..self }
    }

    /// Works until it is known how the answer begins. Dropping the future loses nothing.
    pub(super) async fn drive(&mut self) {
        while self.whole.is_none() && !self.committed && !matches!(self.state, State::Over) {
            self.step().await;
        }
    }

    /// Lets the stages that the caller does not see come to their end. Dropping the future loses nothing.
    async fn stages(&mut self) {
        let Some(team) = &mut self.team else { return };
        let outcome = team.run().await;
        let (spent, until) = (std::mem::take(&mut team.spent), team.until);
        if self.chat.is_none() {
            self.chat = Some(team.chat.clone());
        }
        self.team = None;
        self.count(&spent);
        self.said.before = spent.usage;
        match outcome {
            Outcome::Ask { choice, chat, role, instead } => {
                self.left = choice.candidates.iter().cloned().collect();
                self.asked.candidates = choice.candidates;
                self.asked.why = format!("{}: {role}; {}", self.asked.model, choice.why);
                self.chat = Some(*chat);
                self.instead = instead;
                self.until = Some(until);
                self.role = Role::Last(role, spent);
            }
            Outcome::Said(whole) => {
                if let Some(caching) = &mut self.caching {
                    caching.take(&whole);
                }
                self.role = Role::Last("", spent);
                self.deliver(whole);
            }
            Outcome::Refused(refusal) => {
                self.role = Role::Last("", spent);
                self.refuse(refusal, None);
            }
        }
    }

    /// Notes what stages used whose call is given up.
    pub fn settle(&mut self) {
        if let Some(spent) = self.team.as_ref().map(|team| team.spent.clone()) {
            self.count(&spent);
        }
    }

    fn count(&mut self, spent: &Spent) {
        self.metered.usage = spent.usage;
        self.metered.cost = spent.cost;
        self.metered.attempts = spent.attempts;
        self.metered.tried.clone_from(&spent.tried);
        self.metered.stages = unworded(&spent.stages);
    }

    /// Whether the call is a caller's own, so that what is of their dialect passes through.
    fn is_own(&self) -> bool {
        matches!(self.role, Role::Own)
    }

    /// The stages, this one with them, for the answer: nothing for a caller's own call.
    fn itemised(&mut self) -> Option<Event> {
        let Role::Last(role, spent) = &self.role else { return None };
        let mut stages = spent.stages.clone();
        if self.sent
            && let Some(candidate) = &self.current
        {
            let own = self.metered.usage.minus(&spent.usage);
            let micros = self.platform.clock().ticks().saturating_sub(self.since.0);
            stages.push(Stage {
                stage: role,
                model: candidate.name(),
                input: own.input,
                output: own.output,
                cost: self.own_cost(candidate, &own),
                ms: micros / 1000,
                outcome: "ok",
                text: None,
            });
        }
        self.metered.stages = unworded(&stages);
        self.price();
        let whole =
            serde_json::json!({"model": self.asked.model, "cost": self.metered.cost, "stages": stages});
        Some(Event::Extra(serde_json::Map::from_iter([("causeway".to_owned(), whole)])))
    }

    fn own_cost(&self, candidate: &Candidate, usage: &Usage) -> Option<f64> {
        cost(&self.plan.llm, &self.memory, &self.asked.model, candidate, usage)
    }

    /// Whether the answer is wanted as it comes.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.asked.stream
    }

    /// Why there is no answer, once that is known.
    pub fn refusal(&mut self) -> Option<Refusal> {
        self.refused.take()
    }

    /// Waits until it is known how the answer begins. Dropping the future loses nothing.
    pub async fn open(&mut self) -> Opening {
        self.recall().await;
        self.stages().await;
        self.drive().await;
        match self.whole.take() {
            Some((status, headers, body)) => Opening::Whole(status, headers, body),
            None => Opening::Stream(self.chosen()),
        }
    }

    /// Makes it a stream, whatever comes: the caller has been waiting for long. Errors become events.
    pub fn promise(&mut self) -> Opening {
        self.promised = true;
        Opening::Stream(HeaderMap::new())
    }

    /// The next bytes of a stream; `None` at its end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.committed && !self.out.is_empty() {
                return Some(self.out.split().freeze());
            }
            if self.caching.as_ref().is_some_and(|caching| caching.looks()) {
                // Boxed: most streams have none.
                Box::pin(self.recall()).await;
                continue;
            }
            if self.team.is_some() {
                self.stages().await;
                continue;
            }
            if matches!(self.state, State::Over) {
                return None;
            }
            self.step().await;
        }
    }

    fn now(&self) -> Timestamp {
        self.platform.clock().now()
    }

    /// Does one thing, and waits at most for one.
    async fn step(&mut self) {
        match &mut self.state {
            State::Next => self.begin(),
            State::Sending(sent) => {
                let limit = self.first_by.since(self.platform.clock().now());
                let wait = pin!(self.platform.clock().sleep(limit));
                let came = match select(sent, wait).await {
                    Either::Left((answer, _)) => Some(answer),
                    Either::Right(_) => None,
                };
                match came {
                    Some(Ok(response)) => {
                        let (head, body) = response.into_parts();
                        self.heard_at = self.now();
                        self.answered(head.status, head.headers, body);
                    }
                    Some(Err(error)) => self.failed(self.seam(&error), None),
                    None => self.failed(self.late("timeouts.first_byte"), None),
                }
            }
            State::Collecting { body, .. } => {
                let limit = self.heard_at.after(idle(self.current.as_ref())).min(self.done_by);
                match within(&self.platform, body, limit).await {
                    Some(chunk) => self.collected(chunk),
                    None => self.failed(self.late("timeouts.idle or timeouts.total"), None),
                }
            }
            State::Streaming { body, reader, .. } => {
                let over = reader.is_over();
                let mut limit = self.heard_at.after(idle(self.current.as_ref())).min(self.done_by);
                if over {
                    limit = self.heard_at.after(FAREWELL);
                } else if !self.committed {
                    limit = limit.min(self.first_by);
                }
                match within(&self.platform, body, limit).await {
                    Some(chunk) => self.heard(chunk),
                    None if over => self.heard(None),
                    None => {
                        let which = if self.now() >= self.done_by {
                            "timeouts.total"
                        } else if self.committed {
                            "timeouts.idle"
                        } else {
                            "timeouts.first_byte"
                        };
                        self.failed(self.late(which), None);
                    }
                }
            }
            State::Waiting => {
                let wait = self.wake_at.since(self.platform.clock().now());
                self.platform.clock().sleep(wait).await;
                self.left = self.asked.candidates.iter().cloned().collect();
                self.state = State::Next;
            }
            State::Over => {}
        }
    }

    /// From now on the answer is this candidate's.
    fn commit(&mut self) {
        if !std::mem::replace(&mut self.committed, true) {
            let now = self.platform.clock().ticks();
            self.metered.first = Some(now.saturating_sub(self.ticks));
            self.since.1 = now;
            self.refusal = None;
            if let Some(candidate) = &self.current {
                self.memory.answers(candidate);
            }
        }
    }

    /// The answer is whole.
    fn close(&mut self) {
        self.metered.complete = true;
        self.metered.fault = None;
        self.keep();
        self.price();
        self.state = State::Over;
        if let Some(candidate) = self.current.as_ref().filter(|_| self.sent) {
            let (ticks, (asked, first)) = (self.platform.clock().ticks(), self.since);
            let (first, rest) = (first.saturating_sub(asked), ticks.saturating_sub(first));
            let tokens = match &self.role {
                Role::Last(_, spent) => self.metered.usage.minus(&spent.usage).output,
                Role::Own | Role::Unseen => self.metered.usage.output,
            };
            let tokens = tokens.unwrap_or(0);
            if self.said.has_gone_on() {
                self.memory.answers(candidate);
            } else {
                self.memory.answered(candidate, first, rest, tokens, self.now());
            }
        }
        self.conclude("ok");
    }

    /// Notes what came of the decision.
    fn conclude(&self, outcome: &'static str) {
        self.memory.concluded(&self.asked.request_id, |decision| {
            decision.chosen = self.current.as_ref().map(Candidate::name);
            decision.attempts = self.metered.attempts;
            decision.why = self.why();
            decision.outcome = Some(outcome);
        });
    }

    /// Why the current candidate was asked.
    fn why(&self) -> String {
        let mut why = self.asked.why.clone();
        for missed in &self.missed {
            why.push_str("; ");
            why.push_str(missed);
        }
        why
    }

    fn price(&mut self) {
        let own = match &self.role {
            Role::Last(_, spent) => (self.metered.usage.minus(&spent.usage), spent.cost),
            Role::Own | Role::Unseen => (self.metered.usage, None),
        };
        let asked = self.current.as_ref();
        self.metered.cost = match (asked.and_then(|candidate| self.own_cost(candidate, &own.0)), own.1) {
            (Some(own), Some(spent)) => Some(own + spent),
            (own, spent) => own.or(spent),
        };
    }

    /// The answer is there, all of it.
    fn finish(&mut self, status: StatusCode, headers: HeaderMap, body: Bytes) {
        let now = self.platform.clock().ticks();
        self.metered.first = Some(now.saturating_sub(self.ticks));
        self.since.1 = now;
        if let Some(candidate) = self.current.as_ref().filter(|_| self.sent) {
            self.memory.answers(candidate);
        }
        self.close();
        self.whole = Some((status, headers, body));
    }

    /// Who answers, for the response's headers.
    fn chosen(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if let Some(candidate) = &self.current {
            put("x-causeway-provider", &candidate.provider.name);
            put("x-causeway-model", &candidate.model);
        }
        if let Some(caching) = &self.caching {
            put("cache-status", &format!("causeway; {}", caching.status));
            if let Some(age) = caching.hit {
                put("age", &age.as_secs().to_string());
                put("x-causeway-provider", self.metered.provider.as_deref().unwrap_or_default());
                put("x-causeway-model", self.metered.model.as_deref().unwrap_or_default());
            }
        }
        put("x-causeway-why", &self.why());
        put("x-causeway-attempts", &self.metered.attempts.to_string());
        if let Some(chat) = self.chat.as_ref().filter(|chat| !chat.dropped.is_empty()) {
            put("x-causeway-dropped", &chat.dropped.join(", "));
        }
        headers
    }
}

/// Stages as they may be noted: never in words.
fn unworded(stages: &[Stage]) -> Vec<Stage> {
    stages.iter().map(|stage| Stage { text: None, ..stage.clone() }).collect()
}

/// The next chunk of `body`, or its end; `None` if neither comes until `limit`.
async fn within<P: Platform>(
    platform: &P,
    body: &mut UpstreamBody<P>,
    limit: Timestamp,
) -> Option<Option<Result<Bytes, SeamError>>> {
    let left = limit.since(platform.clock().now());
    if left.is_zero() {
        // A provider that never pauses would never let the timer speak.
        return None;
    }
    let wait = pin!(platform.clock().sleep(left));
    match select(body.next(), wait).await {
        Either::Left((chunk, _)) => Some(chunk),
        Either::Right(_) => None,
    }
}

fn idle(candidate: Option<&Candidate>) -> Duration {
    candidate.map_or(Duration::ZERO, |candidate| candidate.provider.timeouts.idle)
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

/// What a provider says of its limits, for a caller who speaks its dialect.
fn limits(upstream: &HeaderMap, headers: &mut HeaderMap) {
    for (name, value) in upstream {
        if ["x-ratelimit-", "anthropic-ratelimit-"].iter().any(|prefix| name.as_str().starts_with(prefix)) {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// A caller's body as JSON.
fn parse(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::new(Kind::Malformed, "the body is not JSON"))
}
