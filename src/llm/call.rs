//! One call: candidates are asked in turn until one begins to answer; then its answer goes on as it comes.
//!
//! A [`Call`] is driven by [`Call::next`], which may be dropped and called again at any time without losing anything.
//! Invariant: until the first word of an answer nothing of it is given to the caller, so another candidate can still
//! be asked; after it, the call ends with this candidate, whole or with the dialect's own error event.

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

use super::ask::types::Attempt;
use super::chat::{Chat, Event, Whole};
use super::convert::{self, Front, Reader, Writer};
use super::meter::{Metered, cost};
use super::provider::{self, Place, dialect};
use super::refusal::{Refusal, Words, retry_info, sorted};
use super::route::Candidate;
use super::{gemini, tokens};
use crate::config::Plan;
use crate::config::types::ProviderKind;
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Entropy as _, Platform, SeamError, Sent, Timestamp, UpstreamBody};
use crate::relay::through::begin_model;

/// How much of an error's body is read.
const ERROR_BODY: usize = 64 * 1024;
/// The longest time that a call waits for a provider to be asked again, instead of telling its caller when.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// The request as a conversation, where it came as no provider's dialect.
    pub chat: Option<Chat>,
    /// Headers of the caller's that go on to any provider.
    pub passed: HeaderMap,
    /// Headers of the caller's that go on to a provider of their own dialect.
    pub native: HeaderMap,
    /// The gateway's id of the request.
    pub request_id: String,
    /// The name of the caller's key.
    pub caller: String,
    /// Who may answer, in order.
    pub candidates: Vec<Candidate>,
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

/// One call.
pub struct Call<P: Platform> {
    platform: P,
    plan: Arc<Plan>,
    asked: Asked,
    left: VecDeque<Candidate>,
    current: Option<Candidate>,
    state: State<P>,
    /// The request, read as a conversation, once it must be converted.
    chat: Option<Chat>,
    rounds: u32,
    /// Why the first candidate did not answer.
    refusal: Option<(Refusal, Option<(StatusCode, Bytes)>)>,
    began: Timestamp,
    ticks: u64,
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
    /// What is known of it.
    pub metered: Metered,
}

impl<P: Platform> Call<P> {
    /// A call that has not begun.
    pub fn new(platform: P, plan: Arc<Plan>, mut asked: Asked) -> Self {
        let (now, ticks) = (platform.clock().now(), platform.clock().ticks());
        let metered = Metered { asked: asked.model.clone(), ..Metered::default() };
        Self {
            left: asked.candidates.iter().cloned().collect(),
            platform,
            plan,
            current: None,
            state: State::Next,
            chat: asked.chat.take(),
            asked,
            rounds: 0,
            refusal: None,
            began: now,
            ticks,
            first_by: now,
            done_by: now,
            heard_at: now,
            wake_at: now,
            out: BytesMut::new(),
            whole: None,
            promised: false,
            committed: false,
            metered,
        }
    }

    /// Whether the answer is wanted as it comes.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.asked.stream
    }

    /// Waits until it is known how the answer begins. Dropping the future loses nothing.
    pub async fn open(&mut self) -> Opening {
        while self.whole.is_none() && !self.committed {
            self.step().await;
        }
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

    /// Asks the next candidate.
    fn begin(&mut self) {
        let Some(candidate) = self.left.pop_front() else {
            // There is always one: whoever made the call saw to it.
            self.refuse(Refusal::new(Kind::UnknownModel, "no provider has this model"), None);
            return;
        };
        let timeouts = &candidate.provider.timeouts;
        let now = self.now();
        self.first_by = now.after(timeouts.first_byte).min(now.after(timeouts.total));
        self.done_by = now.after(timeouts.total);
        self.heard_at = now;
        self.metered.provider = Some(candidate.provider.name.clone());
        self.metered.model = Some(candidate.model.clone());
        self.current = Some(candidate.clone());
        let encoded = match self.encoded(&candidate) {
            Ok(Some(encoded)) => encoded,
            // Answered without anybody.
            Ok(None) => return,
            // What one provider's dialect cannot say another's may.
            Err(refusal) if !self.left.is_empty() => {
                self.refusal.get_or_insert((refusal, None));
                return;
            }
            Err(refusal) => return self.failed(refusal, None),
        };
        let place = match self.asked.task {
            Task::Chat(_) => Place::Chat { stream: self.asked.stream },
            Task::Embeddings => Place::Embeddings,
            Task::Count => Place::Count,
        };
        let mut passed = self.asked.passed.clone();
        if self.asked.task.front().is(dialect(candidate.provider.kind)) {
            passed.extend(self.asked.native.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        match provider::request(&candidate.provider, place, &candidate.model, encoded, &passed, now) {
            Ok(request) => {
                self.metered.attempts += 1;
                let (provider, model) = (candidate.provider.name.clone(), candidate.model.clone());
                self.metered.tried.push(Attempt { provider, model, outcome: "ok" });
                let (caller, id) = (&self.asked.caller, &self.asked.request_id);
                let sent = begin_model(&self.platform, &candidate.provider, request, caller, id);
                self.state = State::Sending(sent);
            }
            Err(refusal) => self.failed(refusal, None),
        }
    }

    /// The body for `candidate`; `None` if the answer is known already.
    fn encoded(&mut self, candidate: &Candidate) -> Result<Option<Bytes>, Refusal> {
        let kind = candidate.provider.kind;
        let native = self.asked.task.front().is(dialect(kind));
        if native {
            return Ok(Some(convert::with_model(&self.asked.body, &candidate.model)));
        }
        match self.asked.task {
            Task::Chat(_) => {
                let mut chat = self.chat()?.clone();
                chat.model.clone_from(&candidate.model);
                Ok(Some(convert::encode(&chat, kind)?.to_string().into()))
            }
            Task::Embeddings => {
                let body = parse(&self.asked.body)?;
                match kind {
                    ProviderKind::Gemini => {
                        Ok(Some(gemini::embeddings(&body, &candidate.model)?.to_string().into()))
                    }
                    _ => Ok(Some(convert::with_model(&self.asked.body, &candidate.model))),
                }
            }
            Task::Count if kind == ProviderKind::Gemini => {
                let mut chat = self.chat()?.clone();
                chat.model.clone_from(&candidate.model);
                let mut request = convert::encode(&chat, kind)?;
                if let Some(request) = request.as_object_mut() {
                    request.insert("model".into(), format!("models/{}", candidate.model).into());
                }
                Ok(Some(serde_json::json!({ "generateContentRequest": request }).to_string().into()))
            }
            Task::Count => {
                let count = tokens::estimate(self.chat()?);
                let mut headers = json_headers();
                // Nobody but the provider can count; a caller that must know can tell.
                headers.insert("x-causeway-estimated", HeaderValue::from_static("true"));
                let body = serde_json::json!({ "input_tokens": count }).to_string();
                self.finish(StatusCode::OK, headers, body.into());
                Ok(None)
            }
        }
    }

    fn chat(&mut self) -> Result<&Chat, Refusal> {
        if self.chat.is_none() {
            self.chat = Some(convert::decode(self.asked.task.front(), &parse(&self.asked.body)?)?);
        }
        self.chat.as_ref().ok_or_else(|| Refusal::new(Kind::Malformed, "the body is not JSON"))
    }

    /// The head of an answer has come.
    fn answered(&mut self, status: StatusCode, headers: HeaderMap, body: UpstreamBody<P>) {
        let Some(candidate) = &self.current else { return };
        let provider = &candidate.provider;
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Some servers answer in one piece, whatever they are asked.
        let whole = kind.trim_start().starts_with("application/json")
            && dialect(provider.kind) != convert::Dialect::Ollama;
        let streams =
            matches!(self.asked.task, Task::Chat(_)) && self.asked.stream && status.is_success() && !whole;
        if !streams {
            self.state = State::Collecting { status, headers, body, held: BytesMut::new() };
            return;
        }
        let front = self.asked.task.front();
        let own = dialect(provider.kind);
        let reader = Reader::new(&provider.name, own, provider.max_response);
        let writer = (!front.is(own)).then(|| self.writer());
        self.state = State::Streaming { body, reader, writer, tail: BytesMut::new() };
    }

    fn writer(&self) -> Writer {
        let front = self.asked.task.front();
        let wants_usage = self.chat.as_ref().is_some_and(|chat| chat.wants_usage);
        Writer::new(front, self.id(), self.model(), self.began.0 / 1000, wants_usage)
    }

    /// An id of our own for an answer whose provider gives none.
    fn id(&self) -> String {
        let front = self.asked.task.front();
        let prefix = match front {
            Front::OpenAi => "chatcmpl-",
            Front::Anthropic => "msg_",
            Front::Ask => "ask_",
        };
        format!("{prefix}{}", self.asked.request_id)
    }

    fn model(&self) -> String {
        self.current.as_ref().map_or_else(String::new, |candidate| candidate.model.clone())
    }

    /// A piece of an answer that is read to its end.
    fn collected(&mut self, chunk: Option<Result<Bytes, SeamError>>) {
        self.heard_at = self.now();
        let limit = self.current.as_ref().map_or(0, |candidate| candidate.provider.max_response);
        let State::Collecting { status, held, .. } = &mut self.state else { return };
        let error = !status.is_success();
        match chunk {
            Some(Ok(chunk)) => {
                let room = if error { ERROR_BODY } else { limit };
                if held.len() + chunk.len() <= room {
                    held.extend_from_slice(&chunk);
                    return;
                }
                if !error {
                    self.failed(self.too_large(limit), None);
                    return;
                }
            }
            Some(Err(failure)) if !error => {
                self.failed(self.seam(&failure), None);
                return;
            }
            // What has come of an error will do.
            Some(Err(_)) | None => {}
        }
        let State::Collecting { status, headers, held, .. } = std::mem::replace(&mut self.state, State::Over)
        else {
            return;
        };
        let held = held.freeze();
        if error { self.refused(status, &headers, held) } else { self.complete(&headers, held) }
    }

    /// An error has been read.
    fn refused(&mut self, status: StatusCode, headers: &HeaderMap, body: Bytes) {
        let Some(candidate) = &self.current else { return };
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut words = Words::of(&value);
        let exception = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
        words.names.extend(exception);
        let status_of = if status.is_redirection() { StatusCode::BAD_GATEWAY } else { status };
        let mut refusal = sorted(&candidate.provider.name, status_of, headers, &words);
        refusal.wait = refusal.wait.or_else(|| retry_info(&value));
        let own = self.asked.task.front().is(dialect(candidate.provider.kind));
        // Told in the very words of the provider, unless those may hold a part of the gateway's own key.
        let raw = (own && value.get("error").is_some_and(Value::is_object))
            .then_some((status, body))
            .filter(|_| refusal.fault.kind != Kind::ProviderAuthentication && status.as_u16() >= 400);
        self.failed(refusal, raw);
    }

    /// A whole answer has been read.
    fn complete(&mut self, upstream: &HeaderMap, body: Bytes) {
        let Some(candidate) = self.current.clone() else { return };
        let provider = &candidate.provider;
        let front = self.asked.task.front();
        let own = front.is(dialect(provider.kind));
        let Ok(value) = serde_json::from_slice::<Value>(&body) else {
            return self.failed(self.invalid("its answer is not JSON"), None);
        };
        match self.asked.task {
            Task::Chat(_) => {
                let events = convert::whole(&provider.name, provider.kind, &value);
                if self.asked.stream {
                    return self.stream_whole(events, own);
                }
                let whole = match Whole::of(events) {
                    Ok(whole) => whole,
                    Err(refusal) => return self.failed(refusal, None),
                };
                self.metered.usage = whole.usage;
                let mut headers = self.chosen();
                headers.extend(json_headers());
                let body = if own {
                    limits(upstream, &mut headers);
                    body
                } else {
                    let created = self.began.0 / 1000;
                    front.whole(&whole, &self.id(), &candidate.model, created).to_string().into()
                };
                self.finish(StatusCode::OK, headers, body);
            }
            Task::Embeddings => {
                let mut headers = self.chosen();
                headers.extend(json_headers());
                let tokens = value.get("usage").and_then(|usage| usage.get("prompt_tokens")?.as_u64());
                self.metered.usage.input = tokens.or_else(|| value.get("prompt_eval_count")?.as_u64());
                if own {
                    return self.finish(StatusCode::OK, headers, body);
                }
                let base64 = parse(&self.asked.body)
                    .is_ok_and(|asked| asked.get("encoding_format").is_some_and(|format| format == "base64"));
                match convert::embeddings(provider.kind, &value, &candidate.model, base64) {
                    Some(body) => self.finish(StatusCode::OK, headers, body.to_string().into()),
                    None => self.failed(self.invalid("its answer has no embeddings"), None),
                }
            }
            Task::Count => {
                let headers = json_headers();
                if own {
                    return self.finish(StatusCode::OK, headers, body);
                }
                match value.get("totalTokens").and_then(Value::as_u64) {
                    Some(count) => {
                        let body = serde_json::json!({ "input_tokens": count }).to_string();
                        self.finish(StatusCode::OK, headers, body.into());
                    }
                    None => self.failed(self.invalid("its answer has no count"), None),
                }
            }
        }
    }

    /// A whole answer where a stream was asked for.
    fn stream_whole(&mut self, events: Vec<Event>, own: bool) {
        let mut writer = if own && self.chat.is_none() {
            // Nothing was converted so far: whether usage is wanted is in the request.
            let wants_usage = self.chat().is_ok_and(|chat| chat.wants_usage);
            Writer::new(self.asked.task.front(), self.id(), self.model(), self.began.0 / 1000, wants_usage)
        } else {
            self.writer()
        };
        let mut out = BytesMut::new();
        for event in events {
            match event {
                Event::Failed(refusal) => return self.failed(refusal, None),
                Event::Usage(usage) => {
                    self.metered.usage.update(&usage);
                    writer.push(Event::Usage(usage), &mut out);
                }
                event => writer.push(event, &mut out),
            }
        }
        writer.end(&mut out);
        self.out.unsplit(out);
        self.commit();
        self.close();
    }

    /// A piece of a stream, its end, or its failure.
    fn heard(&mut self, chunk: Option<Result<Bytes, SeamError>>) {
        self.heard_at = self.now();
        let mut events = Vec::new();
        let before = self.out.len();
        let State::Streaming { reader, writer, tail, .. } = &mut self.state else { return };
        let (ended, pushed) = match chunk {
            Some(Ok(chunk)) => {
                let pushed = reader.push(&chunk, &mut events);
                if writer.is_none() {
                    match reader.boundary() {
                        Some(at) => {
                            let at = at.min(chunk.len());
                            self.out.extend_from_slice(tail);
                            self.out.extend_from_slice(chunk.get(..at).unwrap_or_default());
                            tail.clear();
                            tail.extend_from_slice(chunk.get(at..).unwrap_or_default());
                        }
                        None => tail.extend_from_slice(&chunk),
                    }
                }
                (None, pushed)
            }
            Some(Err(error)) => (Some(Some(error)), Ok(())),
            None => {
                reader.end(&mut events);
                (Some(None), Ok(()))
            }
        };
        let mut content = false;
        let mut failure = pushed.err();
        for event in events {
            if failure.is_some() {
                break;
            }
            content |= event.is_content();
            match event {
                Event::Failed(refusal) => failure = Some(refusal),
                event => {
                    if let Event::Usage(usage) = &event {
                        self.metered.usage.update(usage);
                    }
                    if let Some(writer) = writer {
                        writer.push(event, &mut self.out);
                    }
                }
            }
        }
        let (passes, whole) = (writer.is_none(), reader.is_over());
        if content {
            self.commit();
        }
        if let Some(refusal) = failure {
            if passes && matches!(refusal.fault.kind, Kind::UpstreamTooLarge | Kind::UpstreamInvalid) {
                // What makes no sense to us makes none to the caller.
                self.out.truncate(before);
            } else if passes && self.committed {
                // The provider's own error event is in the bytes already.
                self.metered.fault = Some(refusal.fault.kind);
                self.price();
                self.state = State::Over;
                return;
            }
            return self.failed(refusal, None);
        }
        match ended {
            None => {}
            Some(_) if whole => {
                if let State::Streaming { writer, tail, .. } = &mut self.state {
                    match writer {
                        Some(writer) => writer.end(&mut self.out),
                        None => self.out.extend_from_slice(tail),
                    }
                }
                self.commit();
                self.close();
            }
            Some(error) => {
                let refusal = match error {
                    Some(error) => self.seam(&error),
                    None => self.cut(),
                };
                self.failed(refusal, None);
            }
        }
    }

    /// From now on the answer is this candidate's.
    fn commit(&mut self) {
        if !std::mem::replace(&mut self.committed, true) {
            self.metered.first = Some(self.platform.clock().ticks().saturating_sub(self.ticks));
            self.refusal = None;
        }
    }

    /// The answer is whole.
    fn close(&mut self) {
        self.metered.complete = true;
        self.metered.fault = None;
        self.price();
        self.state = State::Over;
    }

    fn price(&mut self) {
        if let Some(candidate) = &self.current {
            self.metered.cost = cost(&self.plan.llm, &self.asked.model, candidate, &self.metered.usage);
        }
    }

    /// The answer is there, all of it.
    fn finish(&mut self, status: StatusCode, headers: HeaderMap, body: Bytes) {
        self.metered.first = Some(self.platform.clock().ticks().saturating_sub(self.ticks));
        self.close();
        self.whole = Some((status, headers, body));
    }

    /// The current candidate does not answer, or not to the end.
    fn failed(&mut self, refusal: Refusal, raw: Option<(StatusCode, Bytes)>) {
        self.state = State::Over;
        if let Some(attempt) = self.metered.tried.last_mut() {
            attempt.outcome = refusal.fault.kind.row().label;
        }
        if self.committed {
            self.tell(&refusal);
            return;
        }
        self.out.clear();
        self.metered.usage = super::chat::Usage::default();
        let (passes, mends) = (refusal.may_pass(), refusal.may_mend());
        let own_wait = refusal.wait;
        let (first, raw) = match self.refusal.take() {
            // What the preferred one says is told, unless only it cannot help.
            Some((first, raw)) if first.may_mend() || !mends => (first, raw),
            _ => (refusal, raw),
        };
        if !passes {
            return self.refuse(first, raw);
        }
        if !self.left.is_empty() {
            self.refusal = Some((first, raw));
            self.state = State::Next;
            return;
        }
        let provider = self.asked.candidates.first().map(|candidate| &candidate.provider);
        let (retries, total) = provider.map_or((0, Duration::ZERO), |p| (p.retries, p.timeouts.total));
        if self.rounds < retries && first.may_mend() {
            let wait = own_wait.or(first.wait).unwrap_or_default().max(self.backoff());
            let wake_at = self.now().after(wait);
            if wait <= PATIENCE && wake_at < self.began.after(total) {
                self.rounds += 1;
                self.wake_at = wake_at;
                self.state = State::Waiting;
                // The next round's reason is the one to tell.
                return;
            }
        }
        self.refuse(first, raw);
    }

    /// A quarter of a second, twice as much each time, and a bit at random so that callers do not come back together.
    fn backoff(&self) -> Duration {
        let base = Duration::from_millis(250) * 2u32.saturating_pow(self.rounds.min(6));
        let mut random = [0];
        self.platform.entropy().fill(&mut random);
        base + base * u32::from(random[0]) / 512
    }

    /// There is no answer.
    fn refuse(&mut self, refusal: Refusal, raw: Option<(StatusCode, Bytes)>) {
        self.state = State::Over;
        if self.promised {
            self.tell(&refusal);
            return;
        }
        self.metered.fault = Some(refusal.fault.kind);
        let (status, mut headers, body) =
            convert::head(self.asked.task.front(), &refusal, &self.asked.request_id);
        headers.extend(self.chosen());
        self.whole = Some(match raw {
            Some((status, body)) => (status, headers, body),
            None => (status, headers, body),
        });
    }

    /// The stream ends with an error.
    fn tell(&mut self, refusal: &Refusal) {
        self.metered.fault = Some(refusal.fault.kind);
        self.price();
        let front = self.asked.task.front();
        let body = convert::failure(front, refusal, &self.asked.request_id);
        front.fail(&body, &mut self.out);
        self.committed = true;
        self.state = State::Over;
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
        put("x-causeway-attempts", &self.metered.attempts.to_string());
        if let Some(chat) = self.chat.as_ref().filter(|chat| !chat.dropped.is_empty()) {
            put("x-causeway-dropped", &chat.dropped.join(", "));
        }
        headers
    }

    fn name(&self) -> &str {
        self.current.as_ref().map_or("", |candidate| &candidate.provider.name)
    }

    fn invalid(&self, what: &str) -> Refusal {
        Refusal::new(Kind::UpstreamInvalid, format!("provider {:?}: {what}", self.name()))
    }

    fn too_large(&self, limit: usize) -> Refusal {
        let message =
            format!("provider {:?}: its answer is larger than {limit} bytes (max_response)", self.name());
        Refusal::new(Kind::UpstreamTooLarge, message)
    }

    fn late(&self, which: &str) -> Refusal {
        let message = format!("provider {:?}: took too long ({which})", self.name());
        Refusal::new(Kind::UpstreamTimeout, message)
    }

    fn cut(&self) -> Refusal {
        let message = format!("provider {:?}: its answer ended before its end", self.name());
        Refusal::new(Kind::UpstreamCut, message)
    }

    fn seam(&self, error: &SeamError) -> Refusal {
        let kind = match error {
            SeamError::Connect(_) | SeamError::Denied(_) => Kind::UpstreamConnect,
            SeamError::Offline(_) => Kind::LinkOffline,
            SeamError::Timeout(_) => Kind::UpstreamTimeout,
            SeamError::Cut(_) => Kind::UpstreamCut,
            SeamError::Host(_) => Kind::Host,
        };
        Fault::new(kind, format!("provider {:?}: {error}", self.name())).into()
    }
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
