//! Servers that ask for a model's words, and are answered by the gateway's own models (`sampling: gateway`).
//!
//! Nothing here knows a model. What is to be done stands in a queue of [`Job`]s, which whoever serves the request or the
//! mailbox works off beside it, and which ends with it: a call that nobody waits for asks no model.
//!
//! A legacy server's question is answered by a message of its own, a modern one's by making the call again: without the
//! client's knowledge where it asks for nothing else. Where it does, the client is asked the rest, and carries what the
//! models said, sealed, in the `requestState`. What a task of a modern server asks is answered when its client asks for the
//! task's state: by a `tasks/update` of the gateway's own, after which the state is asked for again.
//!
//! Source: 2025-11-25 sampling; 2026-07-28 multi round-trip requests; SEP-2663, "Task Update Requests".

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Mcp;
use super::ask::{self, Answerer, answerer};
use super::memory::UpstreamSession;
use super::rewrite::without;
use super::stream::cannot_ask;
use super::upstream::{Answered, Content, Outgoing, content, error_of, no_answer, refused};
use crate::config::plan::{Sampling, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform};
use crate::relay::{Own, too_large};
use crate::wire::jsonrpc::{self, Message, Splice, quote, string};

/// What of the gateway's answers a client may have to carry, in bytes.
const CARRIED: usize = 128 * 1024;
/// An HTTP error's body is read no further than this.
const ERROR_BODY: usize = 64 * 1024;
/// How a `requestState` begins that holds what models said, and what it is sealed for.
const MARK: &str = "cw-sampled.";
const SEALED: &str = "sampled";

/// The way to the gateway's models, for one caller. It is as small as can be: all that waits has one.
pub struct Models<P: Platform>(Arc<Way<P>>);

struct Way<P: Platform> {
    jobs: UnboundedSender<Job<P>>,
    caller: Arc<str>,
}

impl<P: Platform> Clone for Models<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Platform> Models<P> {
    /// The way that ends at the other end of `jobs`, for the caller of this name.
    pub fn new(jobs: UnboundedSender<Job<P>>, caller: &str) -> Self {
        Self(Arc::new(Way { jobs, caller: caller.into() }))
    }

    /// The same way, for the caller of this name.
    #[must_use]
    pub fn of(self, caller: &str) -> Self {
        Self::new(self.0.jobs.clone(), caller)
    }
}

/// Something to be done beside a call.
pub enum Job<P: Platform> {
    /// A model is to be asked.
    Ask(Question, To),
    /// The gateway's own server is asked: the message, the name of the caller, and where the answer goes.
    Serve(Bytes, Arc<str>, oneshot::Sender<Served>),
    /// A call is to be made again, once models have answered what its server asks.
    Again(Box<Again>, Box<RawValue>, oneshot::Sender<Came<P>>),
}

/// What the gateway's own server answers.
#[derive(Debug)]
pub struct Served {
    /// The HTTP status.
    pub status: StatusCode,
    /// Whether it is a stream of events.
    pub events: bool,
    /// What is said, piece by piece.
    pub said: Own,
}

/// What a server asks.
#[derive(Debug)]
pub struct Question {
    /// The server.
    pub server: Arc<Server>,
    /// The name of the caller whose call it is.
    pub caller: Arc<str>,
    /// The parameters of its `sampling/createMessage`.
    pub params: Option<Box<RawValue>>,
    /// How many it has asked in this call, with this one.
    pub number: usize,
}

/// To whom an answer goes.
pub enum To {
    /// To whoever waits for it.
    Asker(oneshot::Sender<Result<Box<RawValue>, Fault>>),
    /// To the server, as the response to its request.
    Server {
        /// The session that it asked in.
        session: UpstreamSession,
        /// The request's id.
        id: Box<RawValue>,
        /// Resolves when the answer is not wanted any more.
        gone: oneshot::Receiver<()>,
    },
}

impl To {
    /// Takes `answer` to where it is to go, or drops it as soon as nobody wants it.
    pub async fn take<P: Platform>(
        self,
        mcp: &Mcp<P>,
        server: &Arc<Server>,
        answer: impl Future<Output = Result<Box<RawValue>, Fault>>,
    ) {
        match self {
            Self::Asker(mut sender) => {
                let answer = match select(pin!(answer), sender.cancellation()).await {
                    Either::Left((answer, _)) => answer,
                    Either::Right(_) => return,
                };
                let _ = sender.send(answer);
            }
            Self::Server { session, id, gone } => {
                let body = match select(pin!(answer), gone).await {
                    Either::Left((Ok(result), _)) => jsonrpc::result(&id, &result),
                    Either::Left((Err(fault), _)) => fault.into_error(&id),
                    Either::Right(_) => return,
                };
                mcp.tell(server, body, &session).await;
            }
        }
    }
}

/// Questions of one legacy server that models are being asked. Dropping it gives them up.
#[derive(Debug, Default)]
pub struct Samples {
    open: Vec<(String, oneshot::Sender<()>)>,
    asked: usize,
}

impl Samples {
    /// What was asked so far counts no more: the next question belongs to another call.
    pub fn anew(&mut self) {
        self.asked = 0;
    }

    /// The server does not want the answer to the request `id` any more. Says whether that was one of these.
    pub fn cancelled(&mut self, id: &RawValue) -> bool {
        let before = self.open.len();
        self.open.retain(|(own, _)| own != id.get());
        self.open.len() < before
    }
}

/// What a call that is to be made again needs.
#[derive(Debug, Clone)]
pub struct Again {
    /// The server.
    pub server: Arc<Server>,
    /// The name of the caller whose call it is.
    pub caller: String,
    /// The client's id of the call.
    pub id: Box<RawValue>,
    /// The request as it went to the server.
    pub body: Bytes,
    /// The headers that it went with.
    pub headers: HeaderMap,
    /// What a retry of the client's must have in common with it.
    pub digest: String,
    /// Whether the client can be asked what models are not.
    pub askable: bool,
    /// What the server has asked of models so far.
    pub asked: usize,
    /// How often the call was made again.
    pub rounds: usize,
    /// It asks for the state of a task.
    pub polls: bool,
}

/// What comes of it.
pub type Came<P> = Result<(Box<Again>, Settled<P>), Fault>;

/// What a call comes to that has been made again.
pub enum Settled<P: Platform> {
    /// The client is asked for the rest: this is the response.
    Asks(Bytes),
    /// The server answers with this message, to the request of this id.
    Message(Bytes, String),
    /// It answers with a stream.
    Events(Box<Answered<P>>, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Required {
    #[serde(default)]
    input_requests: Option<BTreeMap<String, Box<RawValue>>>,
    #[serde(default)]
    request_state: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Asked {
    method: String,
    #[serde(default)]
    params: Option<Box<RawValue>>,
}

/// What the client carries while it answers the rest.
#[derive(Serialize, Deserialize)]
struct Carried {
    /// The server's own state.
    state: Option<Box<RawValue>>,
    /// What models said, by the key of the question.
    answers: BTreeMap<String, Box<RawValue>>,
    digest: String,
    asked: usize,
}

/// Whether `result` of a modern server asks for a model's words that the gateway gives.
#[must_use]
pub fn asks_model(server: &Server, result: &RawValue) -> bool {
    if server.sampling != Sampling::Gateway || !result.get().contains("input_required") {
        return false;
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind<'a> {
        #[serde(borrow, rename = "resultType", default)]
        kind: Option<std::borrow::Cow<'a, str>>,
        #[serde(borrow, default)]
        status: Option<std::borrow::Cow<'a, str>>,
        #[serde(borrow, default)]
        task_id: Option<&'a RawValue>,
    }
    let Ok(Kind { kind, status, task_id }) = serde_json::from_str(result.get()) else { return false };
    let required = match kind.as_deref() {
        Some("input_required") => true,
        Some("complete") | None => task_id.is_some() && status.as_deref() == Some("input_required"),
        Some(_) => false,
    };
    required && without_sampled(server, result, false).is_some()
}

/// The state of a task without what models answer of what it asks; `None` if that is nothing. `answered`: they have.
pub fn without_sampled(server: &Server, state: &RawValue, answered: bool) -> Option<String> {
    if server.sampling != Sampling::Gateway || !state.get().contains("inputRequests") {
        return None;
    }
    let asks = serde_json::from_str::<Required>(state.get()).ok()?.input_requests?;
    let all = asks.len();
    let rest: BTreeMap<_, _> = asks.into_iter().filter(|(_, ask)| sampled(server, ask).is_none()).collect();
    if rest.len() == all {
        return None;
    }
    let works = answered && rest.is_empty();
    let less = without(state, if works { &["inputRequests", "status"] } else { &["inputRequests"] })?;
    let members = if works {
        "\"status\":\"working\"".to_owned()
    } else {
        format!("\"inputRequests\":{}", object(&rest))
    };
    let comma = if less == "{}" { "" } else { "," };
    Some(format!("{{{members}{comma}{}", less.strip_prefix('{')?))
}

/// The question in `entry` of `inputRequests`, if a model answers it.
fn sampled(server: &Server, entry: &RawValue) -> Option<Asked> {
    let asked: Asked = serde_json::from_str(entry.get()).ok()?;
    (answerer(server, &asked.method) == Answerer::Gateway).then_some(asked)
}

impl<P: Platform> Mcp<P> {
    /// The same, with a way to models.
    #[must_use]
    pub fn with_models(mut self, models: Option<Models<P>>) -> Self {
        self.models = models;
        self
    }

    /// The same, for what is asked in a call of `caller`.
    #[must_use]
    pub(super) fn for_caller(mut self, caller: &str) -> Self {
        self.models = self.models.map(|models| models.of(caller));
        self
    }

    /// Has a model answer the request `id` of a legacy server.
    pub(super) fn sample(
        &self,
        server: &Arc<Server>,
        session: &UpstreamSession,
        id: &RawValue,
        params: Option<&RawValue>,
        samples: &mut Samples,
    ) {
        let Some(models) = &self.models else { return };
        samples.asked += 1;
        samples.open.retain(|(_, open)| !open.is_canceled());
        let (guard, gone) = oneshot::channel();
        let to = To::Server { session: session.clone(), id: id.to_owned(), gone };
        let question = self.question(models, server, params.map(RawValue::to_owned), samples.asked);
        if models.0.jobs.unbounded_send(Job::Ask(question, to)).is_ok() {
            samples.open.push((id.get().to_owned(), guard));
        }
    }

    /// The same, if that is what `message` asks.
    pub(super) fn sample_asked(
        &self,
        server: &Arc<Server>,
        session: &UpstreamSession,
        message: &[u8],
        samples: &mut Samples,
    ) {
        if server.sampling == Sampling::Gateway
            && let Ok(Message::Request { id, method, params }) = Message::decode(message)
            && answerer(server, &method) == Answerer::Gateway
        {
            self.sample(server, session, id, params, samples);
        }
    }

    /// Has a model answer a modern server's question; `None` if it asks something else.
    pub(super) fn sample_of(
        &self,
        server: &Arc<Server>,
        method: &str,
        params: Option<&RawValue>,
        number: usize,
    ) -> Option<oneshot::Receiver<Result<Box<RawValue>, Fault>>> {
        if answerer(server, method) != Answerer::Gateway {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(models) = &self.models {
            let question = self.question(models, server, params.map(RawValue::to_owned), number);
            let _ = models.0.jobs.unbounded_send(Job::Ask(question, To::Asker(sender)));
        }
        Some(receiver)
    }

    fn question(
        &self,
        models: &Models<P>,
        server: &Arc<Server>,
        params: Option<Box<RawValue>>,
        number: usize,
    ) -> Question {
        Question { server: server.clone(), caller: models.0.caller.clone(), params, number }
    }

    /// Has the gateway's own server answer `message`; `None` where nobody works for it.
    pub(super) fn serve_own(&self, message: Bytes) -> Option<oneshot::Receiver<Served>> {
        let models = self.models.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        models.0.jobs.unbounded_send(Job::Serve(message, models.0.caller.clone(), sender)).ok()?;
        Some(receiver)
    }

    /// Has [`Mcp::settle`] done beside the call, which may be waited for without care.
    pub(super) fn settled(&self, again: Box<Again>, result: Box<RawValue>) -> oneshot::Receiver<Came<P>> {
        let (sender, receiver) = oneshot::channel();
        if let Some(models) = &self.models {
            let _ = models.0.jobs.unbounded_send(Job::Again(again, result, sender));
        }
        receiver
    }

    /// Lets models answer what `result` asks, and makes the call again, if the client need not be asked anything.
    pub async fn settle(&self, mut again: Box<Again>, result: Box<RawValue>) -> Came<P> {
        let server = again.server.clone();
        let nonsense = || {
            let message = format!("server {:?}: its input_required result makes no sense", server.name);
            Fault::new(Kind::UpstreamInvalid, message)
        };
        let required: Required = serde_json::from_str(result.get()).map_err(|_| nonsense())?;
        let limit = self.plan.limits.rounds;
        if again.polls && again.rounds > 0 {
            // What it asks next, or has not noted yet, is for the next time: nobody waits for long to hear of a task.
            let state = without_sampled(&server, &result, true).ok_or_else(nonsense)?;
            let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{state}}}", again.id.get());
            return Ok((again, Settled::Asks(body.into())));
        }
        if again.rounds >= limit {
            let message = format!("server {:?}: asked more than {limit} times (limits.rounds)", server.name);
            return Err(Fault::new(Kind::TooMany, message));
        }
        let asks = required.input_requests.unwrap_or_default();
        if asks.len() > limit {
            return Err(too_large(&server, ask::QUESTION));
        }
        let (mut waiting, mut rest) = (Vec::new(), BTreeMap::new());
        for (key, ask) in asks {
            match sampled(&server, &ask) {
                None => _ = rest.insert(key, ask),
                Some(asked) => {
                    again.asked += 1;
                    let params = asked.params.as_deref();
                    if let Some(answer) = self.sample_of(&server, &asked.method, params, again.asked) {
                        waiting.push((key, answer));
                    }
                }
            }
        }
        if !rest.is_empty() && !again.askable && !again.polls {
            return Err(cannot_ask(&server.name));
        }
        let mut answers = BTreeMap::new();
        for (key, answer) in waiting {
            let answer = answer.await.unwrap_or_else(|_| Err(unanswered(&server)));
            answers.insert(key, answer.map_err(|fault| unsampled(&server, fault))?);
        }
        if !rest.is_empty() && !again.polls {
            let asks = self.asking(&again, &result, &rest, required.request_state, answers).await?;
            return Ok((again, Settled::Asks(asks)));
        }
        again.rounds += 1;
        let memory = self.memory.server(&server);
        let id = format!("\"cw-s{}\"", memory.next_id());
        let body = match again.polls {
            true => {
                self.update(&again, &format!("\"cw-s{}\"", memory.next_id()), &answers).await?;
                with_id(&again.body, &id)
            }
            false => with_answers(&again.body, Some(&id), &answers, required.request_state.as_deref()),
        };
        let outgoing = Outgoing { http: Method::POST, to: None, body, headers: again.headers.clone() };
        let mut answered = self.exchange(&server, outgoing).await?;
        if !answered.status.is_success() {
            let status = answered.status;
            let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
            return match error_of(&body) {
                Some(_) => Ok((again, Settled::Message(body, id))),
                None => Err(refused(&server, status)),
            };
        }
        let settled = match content(&answered.headers) {
            Content::Json => Settled::Message(answered.reader.all(server.max_response).await?, id),
            Content::Events => Settled::Events(Box::new(answered), id),
            Content::Other => return Err(no_answer(&server)),
        };
        Ok((again, settled))
    }

    /// Tells the task that `again` asks for what models said.
    async fn update(
        &self,
        again: &Again,
        id: &str,
        answers: &BTreeMap<String, Box<RawValue>>,
    ) -> Result<(), Fault> {
        let server = &again.server;
        let body = with_answers(&again.body, None, answers, None);
        let params = match Message::decode(&body) {
            Ok(Message::Request { params: Some(params), .. }) => params.get(),
            _ => "{}",
        };
        let method = "tasks/update";
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}");
        let mut headers = again.headers.clone();
        headers.insert(super::headers::METHOD, HeaderValue::from_static(method));
        let outgoing = Outgoing { http: Method::POST, to: None, body: body.into(), headers };
        let answered = self.exchange(server, outgoing).await?;
        if !answered.status.is_success() {
            return Err(refused(server, answered.status));
        }
        match error_of(&self.single(answered, id, None).await?) {
            None => Ok(()),
            Some((code, data)) => {
                let refused = super::upstream::Asked::Refused { status: StatusCode::OK, code, data };
                Err(refused.fault(&server.name, method))
            }
        }
    }

    /// The response that asks the client for the `rest`, and has it carry what models said.
    async fn asking(
        &self,
        again: &Again,
        result: &RawValue,
        rest: &BTreeMap<String, Box<RawValue>>,
        state: Option<Box<RawValue>>,
        answers: BTreeMap<String, Box<RawValue>>,
    ) -> Result<Bytes, Fault> {
        let models = self.models.as_ref().ok_or_else(|| unanswered(&again.server))?;
        let carried = Carried { state, answers, digest: again.digest.clone(), asked: again.asked };
        let payload = serde_json::to_vec(&carried).unwrap_or_default();
        if payload.len() > CARRIED {
            return Err(too_large(&again.server, CARRIED));
        }
        let expires = self.platform.clock().now().after(self.plan.limits.park);
        let sealed = self.sealer().await?.seal(SEALED, &models.0.caller, expires, &payload);
        let less = without(result, &["inputRequests", "requestState"]);
        let less = less.as_deref().unwrap_or("{}");
        let members = format!("\"inputRequests\":{},\"requestState\":\"{MARK}{sealed}\"", object(rest));
        let comma = if less == "{}" { "" } else { "," };
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{{members}{comma}{}}}",
            again.id.get(),
            less.strip_prefix('{').unwrap_or("}")
        );
        Ok(body.into())
    }

    /// Puts what models said before into a client's retry, which carries it: the request as its server takes it, and
    /// how much was asked of models so far. `None` if it carries nothing of the kind.
    ///
    /// # Errors
    /// [`Kind::InvalidState`] when what it carries was made for another request, or another caller, or is too old.
    pub(super) async fn carried(
        &self,
        body: &Bytes,
        state: &RawValue,
        digest: &str,
    ) -> Result<Option<(Bytes, usize)>, Fault> {
        let Some(token) = string(state) else { return Ok(None) };
        let Some((token, models)) = token.strip_prefix(MARK).zip(self.models.as_ref()) else {
            return Ok(None);
        };
        let refuse = |text: &str| Fault::new(Kind::InvalidState, format!("params.requestState: {text}"));
        let now = self.platform.clock().now();
        let opened =
            self.sealer().await?.open_long(SEALED, &models.0.caller, now, token, CARRIED + CARRIED / 2);
        let carried: Option<Carried> = opened.and_then(|payload| serde_json::from_slice(&payload).ok());
        let carried = carried.ok_or_else(|| {
            refuse("none that this gateway gave to you, or its time is up; start again: send the request without it")
        })?;
        if carried.digest != digest {
            return Err(refuse(
                "belongs to another request; repeat that one as it was, or start again: send this one without it",
            ));
        }
        let mut answers = given(body);
        // What a model was asked the client has no say in.
        answers.extend(carried.answers);
        let body = with_answers(body, None, &answers, carried.state.as_deref());
        Ok(Some((body, carried.asked)))
    }
}

/// The `inputResponses` of a request.
fn given(body: &[u8]) -> BTreeMap<String, Box<RawValue>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Given {
        #[serde(default)]
        input_responses: Option<BTreeMap<String, Box<RawValue>>>,
    }
    let Ok(Message::Request { params: Some(params), .. }) = Message::decode(body) else {
        return BTreeMap::new();
    };
    let given = serde_json::from_str::<Given>(params.get()).ok();
    given.and_then(|given| given.input_responses).unwrap_or_default()
}

/// The request `body` with these answers, and with another id if it is to have one.
fn with_answers(
    body: &Bytes,
    id: Option<&str>,
    answers: &BTreeMap<String, Box<RawValue>>,
    state: Option<&RawValue>,
) -> Bytes {
    let Ok(Message::Request { id: old, params: Some(params), .. }) = Message::decode(body) else {
        return body.clone();
    };
    let less = without(params, &["inputResponses", "requestState"]);
    let less = less.as_deref().unwrap_or(params.get()).trim_start();
    let mut members = format!("{{\"inputResponses\":{}", object(answers));
    if let Some(state) = state {
        members.push_str(",\"requestState\":");
        members.push_str(state.get());
    }
    let rest = less.strip_prefix('{').unwrap_or("}");
    if !rest.trim_start().starts_with('}') {
        members.push(',');
    }
    members.push_str(rest);
    let mut splice = Splice::new(body);
    splice.replace(params, members.into_bytes());
    if let Some(id) = id {
        splice.replace(old, id.as_bytes().to_vec());
    }
    splice.finish()
}

/// The request `body` with another id.
fn with_id(body: &Bytes, id: &str) -> Bytes {
    let Ok(Message::Request { id: old, .. }) = Message::decode(body) else { return body.clone() };
    let mut splice = Splice::new(body);
    splice.replace(old, id.as_bytes().to_vec());
    splice.finish()
}

/// An object of these members.
fn object(entries: &BTreeMap<String, Box<RawValue>>) -> String {
    let members = entries
        .iter()
        .map(|(key, value)| format!("{}:{}", String::from_utf8_lossy(&quote(key)), value.get()));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// Nobody works off what there is to be done.
pub(super) fn unanswered(server: &Server) -> Fault {
    let message = format!("server {:?}: what it asked was given up", server.name);
    Fault::new(Kind::Host, message)
}

/// No model answers a modern server, which cannot be told so: the call fails.
pub(super) fn unsampled(server: &Server, fault: Fault) -> Fault {
    let message =
        format!("server {:?}: cannot go on without a model's words: {}", server.name, fault.message);
    Fault { message, ..fault }
}
