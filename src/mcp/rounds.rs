//! A modern server asks a legacy client in the middle of a call: its `input_required` results become real requests.
//!
//! The mailbox of the client's session takes the call over when the first such result has come; or makes it from the
//! beginning, where the client wants to hear of its progress and so expects it to take long. It asks the client on
//! the call's stream, all questions at once; the client answers by requests of their own, which any instance may get
//! and hands in here; then the call is made again with the answers. Rounds repeat until the server is content.
//!
//! The stream is kept for a client that loses its connection: its events have ids, and it goes on from any of them.
//!
//! Source: 2026-07-28 multi round-trip requests; 2025-11-25 transports, "Resumability and Redelivery".

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_channel::oneshot::Canceled;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Mcp;
use super::ask::{self, Askable};
use super::mailbox::{Mailbox, Said, Work};
use super::memory::lock;
use super::revision::Revision;
use super::rewrite::{Rewrite, Rewritten};
use super::sampling::{unanswered, unsampled};
use super::tail::{Log, Tail};
use super::upstream::{Content, Outgoing, content, error_of, no_answer, refused};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Entropy as _, Platform};
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{self, Message, Splice, string};
use crate::wire::sse::{Decoder, Event};

/// How long a stream that has ended is kept for a client that lost it.
const KEPT: Duration = Duration::from_secs(60);
/// Streams kept for one session.
const STREAMS: usize = 64;
/// What a client may be behind before the server's answer is read no further.
const BACKLOG: usize = 256 * 1024;
/// An HTTP error's body is read no further than this.
const ERROR_BODY: usize = 64 * 1024;
/// How the ids of our own requests and events begin.
pub const OWN: &str = "cw-";

/// The letter that hands a call over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rounds {
    /// The server's name.
    pub server: String,
    /// The client's request id.
    pub id: Box<RawValue>,
    /// The method.
    pub method: String,
    /// The client's revision.
    pub revision: Revision,
    /// The request as it went to the server.
    pub request: Box<RawValue>,
    /// The headers it went with.
    pub headers: Vec<(String, String)>,
    /// The client's capabilities.
    pub capabilities: Box<RawValue>,
    /// The server's `input_required` result; `None` if the server has not been asked yet.
    pub result: Option<Box<RawValue>>,
    /// The name of the caller whose call it is.
    #[serde(default)]
    pub caller: String,
}

/// The streams of one client session, and the questions that are open on them.
#[derive(Debug, Default)]
pub struct Desk(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the id of the question, as JSON.
    open: HashMap<String, UnboundedSender<Told>>,
    /// By the id of the client's request, as JSON.
    calls: HashMap<String, UnboundedSender<Told>>,
    streams: VecDeque<(String, Log)>,
}

/// What a client says about a call.
#[derive(Debug)]
enum Told {
    /// The answer to the question with this id.
    Answer(String, Result<Box<RawValue>, Box<RawValue>>),
    /// It has given the call up.
    Cancelled,
}

/// A call that has been taken over.
pub struct Started {
    rounds: Rounds,
    stream: String,
    log: Log,
    told: UnboundedReceiver<Told>,
    teller: UnboundedSender<Told>,
}

impl Desk {
    /// Whether nothing is open and no stream is kept.
    pub fn is_idle(&self) -> bool {
        let inner = lock(&self.0);
        inner.calls.is_empty() && inner.streams.is_empty()
    }

    /// Takes a response of the client's. One that nobody waits for is dropped: the question may have been given up.
    pub fn answered(&self, response: &RawValue) {
        let Ok(Message::Response { id: Some(id), outcome }) = Message::decode(response.get().as_bytes())
        else {
            return;
        };
        let asked = lock(&self.0).open.remove(id.get());
        if let Some(asked) = asked {
            let outcome = outcome.map(RawValue::to_owned).map_err(RawValue::to_owned);
            let _ = asked.unbounded_send(Told::Answer(id.get().to_owned(), outcome));
        }
    }

    /// The client has given up its request `id`.
    pub fn cancelled(&self, id: &RawValue) {
        if let Some(call) = lock(&self.0).calls.get(id.get()) {
            let _ = call.unbounded_send(Told::Cancelled);
        }
    }

    /// Goes on with a stream behind the event `id`.
    pub fn resume(&self, id: &str) -> Option<Tail> {
        let (stream, after) = id.strip_prefix(OWN)?.split_once('-')?;
        let after = after.parse().ok()?;
        let inner = lock(&self.0);
        let (_, log) = inner.streams.iter().find(|(name, _)| name == stream)?;
        log.tail(after)
    }

    /// Ends everything: the session is over.
    pub fn end(&self) {
        let mut inner = lock(&self.0);
        for call in inner.calls.values() {
            let _ = call.unbounded_send(Told::Cancelled);
        }
        for (_, log) in inner.streams.drain(..) {
            log.end();
        }
        inner.open.clear();
    }
}

/// Takes a call over.
pub fn begin<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, rounds: Rounds) -> (Said, Work) {
    let mut inner = lock(&mailbox.rounds.0);
    let limit = mcp.plan.limits.parked;
    let log = Log::new(mcp.plan.limits.replay);
    let (Some(tail), true) = (log.tail(0), inner.calls.len() < limit) else {
        let message =
            format!("{limit} calls of this session wait for an answer (limits.parked); answer some first");
        return (Said::fault(Some(&rounds.id), &Fault::new(Kind::TooMany, message)), Work::None);
    };
    let mut name = [0; 9];
    mcp.platform.entropy().fill(&mut name);
    let stream = super::hex(&name);
    let (teller, told) = unbounded();
    inner.calls.insert(rounds.id.get().to_owned(), teller.clone());
    if inner.streams.len() >= STREAMS
        && let Some(place) = inner.streams.iter().position(|(_, log)| log.is_ended())
    {
        inner.streams.remove(place);
    }
    inner.streams.push_back((stream.clone(), log.clone()));
    (Said::Tail(false, tail), Work::Rounds(Box::new(Started { rounds, stream, log, told, teller })))
}

/// Asks and answers until the call is over, and then keeps its stream for a while.
pub async fn run<P: Platform>(mcp: Mcp<P>, mailbox: Arc<Mailbox<P>>, started: Started) {
    let Started { rounds, stream, log, told, teller } = started;
    let mcp = mcp.for_caller(&rounds.caller);
    let mut ran = Run {
        mcp: &mcp,
        desk: &mailbox.rounds,
        rounds: &rounds,
        stream: &stream,
        log,
        told,
        teller,
        asked: 0,
        sampled: 0,
        sent: 0,
    };
    match ran.through().await {
        Ok(Some(last)) => ran.say(last),
        // Given up by the client, which expects no answer any more.
        Ok(None) => {}
        Err(fault) => ran.say(fault.into_error(&rounds.id)),
    }
    ran.log.end();
    lock(&mailbox.rounds.0).calls.remove(rounds.id.get());
    mcp.platform.clock().sleep(KEPT).await;
    lock(&mailbox.rounds.0).streams.retain(|(name, _)| *name != stream);
}

struct Run<'a, P: Platform> {
    mcp: &'a Mcp<P>,
    desk: &'a Desk,
    rounds: &'a Rounds,
    stream: &'a str,
    log: Log,
    told: UnboundedReceiver<Told>,
    teller: UnboundedSender<Told>,
    asked: usize,
    /// What models were asked.
    sampled: usize,
    sent: usize,
}

/// What an `input_required` result asks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Required {
    #[serde(default)]
    input_requests: Option<HashMap<String, Asked>>,
    #[serde(default)]
    request_state: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Asked {
    method: String,
    #[serde(default)]
    params: Option<Box<RawValue>>,
}

impl<P: Platform> Run<'_, P> {
    fn say(&self, message: Bytes) {
        self.log.write(|number| {
            let id = Some(format!("{OWN}{}-{number}", self.stream));
            Event { id, ..Event::message(message) }.encode()
        });
    }

    /// The response in the end; `None` if the client has given the call up.
    async fn through(&mut self) -> Result<Option<Bytes>, Fault> {
        let server = self.mcp.plan.server(&self.rounds.server).cloned().ok_or_else(|| {
            Fault::new(Kind::NotFound, format!("server {:?} is not served any more", self.rounds.server))
        })?;
        let limit = self.mcp.plan.limits.rounds;
        let mut result = match self.rounds.result.clone() {
            Some(result) => result,
            None => match self.again(&server, None, None).await? {
                Came::Required(result) => result,
                Came::Response(last) => return Ok(Some(last)),
                Came::Nothing => return Ok(None),
            },
        };
        for _ in 0..limit {
            let required: Required = serde_json::from_str(result.get()).map_err(|_| {
                let message = format!("server {:?}: its input_required result makes no sense", server.name);
                Fault::new(Kind::UpstreamInvalid, message)
            })?;
            let Some(responses) = self.ask(&server, required.input_requests.unwrap_or_default()).await?
            else {
                return Ok(None);
            };
            // Boxed: it is not there while the client is waited for, which is most of the time.
            match Box::pin(self.again(&server, Some(&responses), required.request_state.as_deref())).await? {
                Came::Required(next) => result = next,
                Came::Response(last) => return Ok(Some(last)),
                Came::Nothing => return Ok(None),
            }
        }
        let message = format!("server {:?}: asked more than {limit} times (limits.rounds)", server.name);
        Err(Fault::new(Kind::TooMany, message))
    }

    /// Asks the client everything at once and gives its answers, as `inputResponses`.
    async fn ask(
        &mut self,
        server: &Arc<Server>,
        questions: HashMap<String, Asked>,
    ) -> Result<Option<String>, Fault> {
        let askable = Askable::of(&self.rounds.capabilities);
        if questions.len() > self.mcp.plan.limits.rounds {
            return Err(too_large(server, ask::QUESTION));
        }
        let samples = FuturesUnordered::new();
        let mut left = HashMap::new();
        for (key, question) in questions {
            let params = question.params.as_deref();
            match self.mcp.sample_of(server, &question.method, params, self.sampled + 1) {
                Some(answer) => {
                    self.sampled += 1;
                    samples.push(answer.map(|answer| (key, answer)));
                }
                None => _ = left.insert(key, question),
            }
        }
        for question in left.values() {
            askable.admit(&server.name, &question.method, question.params.as_deref())?;
        }
        let mut waiting = HashMap::new();
        for (key, question) in left {
            self.asked += 1;
            let name = format!("{OWN}{}-q{}", self.stream, self.asked);
            let id = format!("\"{name}\"");
            let method = String::from_utf8_lossy(&jsonrpc::quote(&question.method)).into_owned();
            let params = ask::to_legacy(&question.method, question.params.as_deref(), &name);
            let params = params.map(|params| format!(",\"params\":{params}")).unwrap_or_default();
            lock(&self.desk.0).open.insert(id.clone(), self.teller.clone());
            self.say(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method}{params}}}").into());
            waiting.insert(id, (key, question.method));
        }
        let answers = self.gather(server, &mut waiting, samples).await;
        if !waiting.is_empty() {
            let mut desk = lock(&self.desk.0);
            for id in waiting.keys() {
                desk.open.remove(id);
            }
        }
        answers
    }

    async fn gather(
        &mut self,
        server: &Server,
        waiting: &mut HashMap<String, (String, String)>,
        mut samples: FuturesUnordered<impl Future<Output = (String, Sampled)>>,
    ) -> Result<Option<String>, Fault> {
        let time = self.mcp.plan.limits.park;
        let mut late = pin!(self.mcp.platform.clock().sleep(time));
        let mut answers = Vec::new();
        while !waiting.is_empty() || !samples.is_empty() {
            let sampled = async {
                match samples.next().await {
                    Some(sampled) => sampled,
                    None => std::future::pending().await,
                }
            };
            let told = match select(select(self.told.next(), pin!(sampled)), &mut late).await {
                Either::Left((Either::Right(((key, answer), _)), _)) => {
                    let answer = answer.unwrap_or_else(|_| Err(unanswered(server)));
                    let answer = answer.map_err(|fault| unsampled(server, fault))?;
                    let key = jsonrpc::quote(&key);
                    answers.push(format!("{}:{}", String::from_utf8_lossy(&key), answer.get()));
                    continue;
                }
                Either::Left((Either::Left((told, _)), _)) => Either::Left(told),
                Either::Right(_) => Either::Right(()),
            };
            match told {
                Either::Left(Some(Told::Answer(id, outcome))) => {
                    let Some((key, method)) = waiting.remove(&id) else { continue };
                    let result = match outcome {
                        Ok(result) => result.get().to_owned(),
                        // An elicitation that could not be shown was not answered by anybody.
                        Err(_) if method == "elicitation/create" => "{\"action\":\"cancel\"}".to_owned(),
                        Err(error) => return Err(refused_by_client(server, &method, &error)),
                    };
                    let key = jsonrpc::quote(&key);
                    answers.push(format!("{}:{result}", String::from_utf8_lossy(&key)));
                }
                Either::Left(Some(Told::Cancelled) | None) => return Ok(None),
                Either::Right(()) => {
                    let message = format!(
                        "server {:?}: what it asked the client was not answered within {time:?} (limits.park)",
                        server.name
                    );
                    return Err(Fault::new(Kind::UpstreamTimeout, message));
                }
            }
        }
        Ok(Some(format!("{{{}}}", answers.join(","))))
    }

    /// Makes the call, with the answers if there are any.
    async fn again(
        &mut self,
        server: &Arc<Server>,
        responses: Option<&str>,
        state: Option<&RawValue>,
    ) -> Result<Came, Fault> {
        // Neither the client's id nor that of the round before, whichever instances made those requests: the retry is a
        // request of its own (2026-07-28 multi round-trip requests).
        self.sent += 1;
        let id = format!("\"{OWN}{}-r{}\"", self.stream, self.sent);
        let text = self.rounds.request.get().as_bytes();
        let mut splice = Splice::new(text);
        let Ok(Message::Request { id: old, params: Some(params), .. }) = Message::decode(text) else {
            return Err(Fault::new(Kind::Host, "the call that was handed over cannot be read"));
        };
        splice.replace(old, id.clone().into_bytes());
        let state = state.map(|state| format!(",\"requestState\":{}", state.get())).unwrap_or_default();
        if let Some(responses) = responses {
            splice.insert_into(params, format!("\"inputResponses\":{responses}{state}").as_bytes());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.rounds.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.append(name, value);
            }
        }
        let outgoing = Outgoing { http: Method::POST, to: None, body: splice.finish(), headers };
        let rewrite =
            Rewrite::to_legacy(id, self.rounds.id.clone(), &self.rounds.method, self.rounds.revision);
        let mut came = pin!(came(self.mcp, server, outgoing, &rewrite, &self.log, self.stream));
        loop {
            match select(came.as_mut(), self.told.next()).await {
                Either::Left((came, _)) => return came,
                Either::Right((Some(Told::Answer(..)), _)) => {}
                Either::Right((Some(Told::Cancelled) | None, _)) => return Ok(Came::Nothing),
            }
        }
    }
}

/// What a model said, if it was asked to the end.
type Sampled = Result<Result<Box<RawValue>, Fault>, Canceled>;

/// What a call came to.
enum Came {
    Required(Box<RawValue>),
    Response(Bytes),
    Nothing,
}

/// Sends the call and passes on what comes before its response.
async fn came<P: Platform>(
    mcp: &Mcp<P>,
    server: &Arc<Server>,
    outgoing: Outgoing,
    rewrite: &Rewrite,
    log: &Log,
    stream: &str,
) -> Result<Came, Fault> {
    let mut answered = mcp.exchange(server, outgoing).await?;
    let status = answered.status;
    if !status.is_success() {
        let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
        let error = error_of(&body).map(|_| rewrite.apply(body, server));
        return match error {
            Some(Rewritten::Response(body, _)) => Ok(Came::Response(body)),
            _ => Err(refused(server, status)),
        };
    }
    match content(&answered.headers) {
        Content::Json => match rewrite.apply(answered.reader.all(server.max_response).await?, server) {
            Rewritten::Asks(result) => Ok(Came::Required(result)),
            Rewritten::Response(body, _) => Ok(Came::Response(body)),
            _ => Err(no_answer(server)),
        },
        Content::Events => events(server, answered.reader, rewrite, log, stream).await,
        Content::Other => Err(no_answer(server)),
    }
}

async fn events<P: Platform>(
    server: &Arc<Server>,
    mut reader: Reader<P>,
    rewrite: &Rewrite,
    log: &Log,
    stream: &str,
) -> Result<Came, Fault> {
    let (mut decoder, mut events) = (Decoder::new(server.max_response), Vec::new());
    loop {
        log.room(BACKLOG).await;
        let chunk = reader.chunk().await?.ok_or_else(|| no_answer(server))?;
        decoder.push(&chunk, &mut events).map_err(|_| too_large(server, server.max_response))?;
        for event in events.drain(..) {
            match rewrite.apply(event.data, server) {
                Rewritten::Asks(result) => return Ok(Came::Required(result)),
                Rewritten::Response(body, _) => return Ok(Came::Response(body)),
                Rewritten::Pass(data) => log.write(|number| {
                    let id = Some(format!("{OWN}{stream}-{number}"));
                    Event { id, ..Event::message(data) }.encode()
                }),
                Rewritten::Reply(_) | Rewritten::Refuse(..) | Rewritten::Sample(..) | Rewritten::Drop => {}
            }
        }
    }
}

fn refused_by_client(server: &Server, method: &str, error: &RawValue) -> Fault {
    let code = super::upstream::field(error, "code").map(|code| code.get().to_owned()).unwrap_or_default();
    let code = code.chars().take(16).collect::<String>();
    let message = format!("server {:?}: the client answered its {method} with error {code}", server.name);
    Fault::new(Kind::ClientRefused, message)
}

/// Whether `id` is that of a question of ours.
pub fn is_own(id: &RawValue) -> bool {
    string(id).is_some_and(|id| id.starts_with(OWN))
}
