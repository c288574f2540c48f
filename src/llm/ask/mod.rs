//! `/ask`: one question, one answer, the same whoever answers.
//!
//! It is a front like those of OpenAI and Anthropic, with names of its own: what is asked is checked by the published
//! [schema] and becomes a [conversation](crate::llm::chat) together with what is known of who asks; the answer tells,
//! besides the words, who gave it, what it cost and who was asked before.

mod front;
mod kept;
#[cfg(feature = "schema")]
mod openapi;
mod prompt;
pub mod schema;
pub mod types;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use self::front::Writer;
pub(in crate::llm) use self::front::whole;
pub use self::kept::{Keep, Kept, Listed, Shelf};
#[cfg(feature = "schema")]
pub use self::openapi::openapi;
use self::types::{Ask, Attempt, Context, FormatKind};
use super::call::{Asked, Call, Opening, Task};
use super::convert::Front;
use super::policy::Needs;
use super::{PASSED, Refusal, begun, chosen, kept, openai};
use crate::config::Plan;
use crate::config::plan::Caller;
use crate::config::types::ProviderKind;
use crate::fault::Kind;
use crate::platform::{Clock as _, Platform};

/// What a caller's body says, once it fits the schema called `name`.
///
/// # Errors
/// When it is no JSON, or names the place that does not fit.
pub fn read<T: DeserializeOwned>(name: &str, body: &[u8]) -> Result<T, Refusal> {
    let mut value: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::new(Kind::Malformed, format!("the body is not JSON: {error}")))?;
    schema::check(name, &mut value)?;
    // What is checked can be read; should it not be so, the caller is told all the same.
    serde_json::from_value(value).map_err(|error| Refusal::wrong("", &error.to_string()))
}

/// The call that `body` asks for.
///
/// # Errors
/// When the body is no question, or there is no such model for this caller.
pub async fn ask<P: Platform>(
    platform: P,
    plan: Arc<Plan>,
    memory: &Arc<super::memory::Memory>,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    request_id: &str,
) -> Result<Asking<P>, Refusal> {
    let asked: Ask = read("Ask", body)?;
    let mut context = Context::default();
    let mut found = None;
    if let Some(user) = &asked.user_id {
        kept::checked(user, "/user_id")?;
        found = Shelf::new(&platform, &plan.llm.contexts, caller).load(user).await?;
        context = found.as_ref().map(|(kept, _)| kept.context.clone()).unwrap_or_default();
        if let Some(memory) = context.memory.as_mut().filter(|_| asked.messages.len() > 1) {
            // Whoever brings the conversation does not want another before it.
            memory.turns.clear();
        }
    }
    kept::add(&mut context, &asked.context.clone().unwrap_or_default());
    let mut chat = prompt::chat(&asked, &context)?;
    let question = prompt::question(&asked);
    let remembers = asked.user_id.clone().filter(|_| asked.remember.unwrap_or(true));
    let model = model(&plan, &asked)?;
    let needs = || Needs::of(&openai::encode(&chat, ProviderKind::Openai));
    let choice = chosen(&platform, &plan, memory, caller, &model, request_id, needs);
    let choice = choice.map_err(|mut refusal| {
        let place = if asked.policy.is_some() { "/policy" } else { "/model" };
        refusal.param = refusal.param.map(|_| place.to_owned());
        refusal
    })?;
    chat.model.clone_from(&model);
    let call = Asked {
        task: Task::Chat(Front::Ask),
        model,
        stream: asked.stream,
        body: Bytes::new(),
        chat: Some(chat),
        passed: kept(headers, &PASSED),
        native: HeaderMap::new(),
        caller: caller.name.clone(),
        request_id: request_id.to_owned(),
        candidates: choice.candidates,
        may: choice.may,
        alone: choice.alone,
        why: choice.why,
    };
    let ticks = platform.clock().ticks();
    let json = asked.format.as_ref().is_some_and(|format| format.kind == FormatKind::Json);
    Ok(Asking {
        call: begun(platform.clone(), plan.clone(), memory, caller, headers, call)?,
        platform,
        ticks,
        json,
        began: false,
        held: BytesMut::new(),
        whole: None,
        memory: asked.user_id.map(|user| {
            let remembers = remembers.is_some();
            Exchange {
                plan,
                caller: caller.clone(),
                user,
                found,
                question,
                id: request_id.to_owned(),
                remembers,
            }
        }),
    })
}

/// The model's name: the one that is asked for, or `default`.
fn model(plan: &Plan, asked: &Ask) -> Result<String, Refusal> {
    match (&asked.model, &asked.policy) {
        (Some(_), Some(_)) => Err(Refusal::wrong("/policy", "give either model or policy")),
        (Some(name), None) => Ok(name.clone()),
        (None, Some(name)) if plan.llm.policy(name).is_some() => Ok(name.clone()),
        (None, Some(name)) => {
            let what = format!("no policy {:?} here", super::route::brief(name));
            Err(Refusal { param: Some("/policy".to_owned()), ..Refusal::new(Kind::UnknownModel, what) })
        }
        (None, None) => {
            let known = plan.llm.model(DEFAULT).is_some() || plan.llm.policy(DEFAULT).is_some();
            let what = "is missing, and nothing is called \"default\" here: name one of GET /v1/models, or give \
                        llm.models.default, or LLM_MODEL, in the gateway's configuration";
            if known { Ok(DEFAULT.to_owned()) } else { Err(Refusal::wrong("/model", what)) }
        }
    }
}

const DEFAULT: &str = "default";

/// A call whose answer is told as `/ask` tells it.
pub struct Asking<P: Platform> {
    call: Call<P>,
    platform: P,
    ticks: u64,
    /// JSON was asked for.
    json: bool,
    /// The stream has told who answers.
    began: bool,
    /// The last event of the stream, while it is being completed.
    held: BytesMut,
    /// The answer that is not a stream, while it is being completed.
    whole: Option<(StatusCode, HeaderMap, Bytes)>,
    /// Whose memory it belongs to.
    memory: Option<Exchange>,
}

/// A question that belongs to a user's memory.
struct Exchange {
    plan: Arc<Plan>,
    caller: Caller,
    user: String,
    found: kept::Found,
    question: String,
    id: String,
    remembers: bool,
}

/// How the last event of a stream begins.
const DONE: &[u8] = b"event: done\ndata: ";

impl<P: Platform> Asking<P> {
    /// The call itself.
    pub fn call(&mut self) -> &mut Call<P> {
        &mut self.call
    }

    /// What is known of it.
    pub fn metered(&self) -> &super::Metered {
        &self.call.metered
    }

    /// Waits until it is known how the answer begins. Dropping the future loses nothing.
    pub async fn open(&mut self) -> Opening {
        if self.whole.is_none() {
            match self.call.open().await {
                Opening::Whole(status, headers, body) if status.is_success() => {
                    self.whole = Some((status, headers, body));
                }
                opening => return opening,
            }
        }
        let body = self.whole.as_ref().map(|(.., body)| body.clone()).unwrap_or_default();
        let body = self.completed(body).await;
        let (status, headers, _) = self.whole.take().unwrap_or_default();
        Opening::Whole(status, headers, body)
    }

    /// The next bytes of a stream; `None` at its end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        if !self.held.is_empty() {
            return Some(self.done().await);
        }
        let chunk = self.call.next().await?;
        let mut out = BytesMut::new();
        if !std::mem::replace(&mut self.began, true) && !chunk.starts_with(b"event: error") {
            let mut start = Map::new();
            let metered = &self.call.metered;
            start.insert("provider".into(), metered.provider.clone().into());
            start.insert("model".into(), metered.model.clone().into());
            front::write("start", &start, &mut out);
        }
        // An event is one line of data, so that this is never a part of one.
        match chunk.windows(DONE.len()).position(|window| window == DONE) {
            Some(at) => {
                self.held.extend_from_slice(chunk.get(at + DONE.len()..).unwrap_or_default());
                out.extend_from_slice(chunk.get(..at).unwrap_or_default());
            }
            None => out.extend_from_slice(&chunk),
        }
        if out.is_empty() { Some(self.done().await) } else { Some(out.freeze()) }
    }

    async fn done(&mut self) -> Bytes {
        let mut out = BytesMut::from(DONE);
        let held = self.held.clone().freeze();
        out.extend_from_slice(&self.completed(held).await);
        self.held.clear();
        out.extend_from_slice(b"\n\n");
        out.freeze()
    }

    /// An answer, with all that is known of how it came about.
    async fn completed(&mut self, body: Bytes) -> Bytes {
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(&body) else {
            return body;
        };
        let metered = &self.call.metered;
        let mut put = |key: &str, value: Value| _ = answer.insert(key.to_owned(), value);
        put("provider", metered.provider.clone().into());
        put("model", metered.model.clone().into());
        if let Some(cost) = metered.cost {
            put("cost", cost.into());
        }
        put("latency_ms", millis(self.platform.clock().ticks().saturating_sub(self.ticks)));
        if let Some(first) = metered.first {
            put("first_token_ms", millis(first));
        }
        let attempts: Vec<Attempt> = metered.tried.clone();
        put("attempts", serde_json::to_value(attempts).unwrap_or_default());
        if self.json
            && let Some(data) = answer.get("text").and_then(|text| serde_json::from_str(text.as_str()?).ok())
        {
            answer.insert("data".to_owned(), data);
        }
        if let Some(exchange) = &self.memory {
            let text = answer.get("text").and_then(Value::as_str).unwrap_or_default();
            // What only leads on to tools is no answer yet.
            let said = exchange.remembers
                && !text.is_empty()
                && !exchange.question.is_empty()
                && !answer.contains_key("tool_calls");
            let remembered = said && {
                let Exchange { plan, caller, user, found, question, id, .. } = exchange;
                let shelf = Shelf::new(&self.platform, &plan.llm.contexts, caller);
                shelf.remember(user, found, id, question, text).await
            };
            answer.insert("remembered".to_owned(), remembered.into());
        }
        Value::Object(answer).to_string().into()
    }
}

fn millis(micros: u64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "a duration has no use for 53 bits")]
    let millis = micros as f64 / 1000.0;
    millis.into()
}
