//! The model router: any provider's models behind OpenAI's and Anthropic's own endpoints.
//!
//! ```text
//! body -> route      the model's name to whom it may be asked of
//!      -> policy     in which order, by what is known of each and how it is doing
//!      -> convert    the caller's dialect to the provider's, where they differ; else the bytes as they are
//!      -> call       one request; the next candidate only before the first word of an answer
//!      -> convert    the provider's answer, whole or piece by piece, to the caller's dialect
//! ```
//!
//! It logs what is asked or answered only where the configuration says so ([`noted`]): [`meter`] knows names, tokens and times.
//!
//! | module | what |
//! |---|---|
//! | [`ask`] | the gateway's own front |
//! | [`chat`] | a conversation in no provider's words: what dialects are read into and written from |
//! | [`convert`] | the grid of the fronts and all dialects |
//! | [`route`] | model names, rights and candidates |
//! | [`policy`] | which of the candidates, in which order, and why |
//! | [`noted`] | what is asked and answered, for the log, where that is wanted |
//! | [`registry`] | what is known of models |
//! | [`memory`] | how providers have been doing, and what was decided |
//! | [`provider`] | where a provider is asked, and how it knows who asks |
//! | [`refusal`] | what a provider's error means |
//! | [`team`] | several models that answer together |
//! | [`sampling`] | what MCP servers ask |
//! | [`call`](mod@call) | one call: candidates, times, retries |
//! | [`cache`] | answers that are kept for the very same question |
//!
//! ```
//! use causeway::config::types::ProviderKind;
//! use causeway::llm::convert::{Front, decode, encode};
//!
//! let asked = serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
//! let chat = decode(Front::OpenAi, &asked).unwrap();
//! let body = encode(&chat, ProviderKind::Gemini).unwrap();
//! assert_eq!(body["contents"][0]["parts"][0]["text"], "Hi");
//! ```

pub mod anthropic;
pub mod ask;
pub mod azure;
pub mod bedrock;
pub mod cache;
pub mod call;
pub mod chat;
pub mod compatible;
pub mod convert;
pub mod dial;
pub mod gemini;
mod json;
pub mod lmstudio;
pub mod memory;
pub mod meter;
mod models;
pub mod noted;
pub mod ollama;
pub mod openai;
pub mod openrouter;
pub mod policy;
pub mod provider;
pub mod refusal;
pub mod registry;
pub mod route;
pub mod sampling;
pub mod status;
pub mod team;
pub mod tokens;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;

pub use call::{Call, Opening, Task};
pub use convert::Front;
pub use memory::Memory;
pub use meter::Metered;
pub use models::{context, is_anthropic, models, names, one_model};
pub use refusal::Refusal;

use self::cache::Caching;
use self::memory::Decision;
use self::noted::Noted;
use self::policy::{Choice, Needs};
use self::team::Team;
use crate::config::Plan;
use crate::config::plan::Caller;
use crate::fault::Kind;
use crate::platform::{Clock as _, Platform, Timestamp};

/// Headers of a caller that go on to any provider: tracing and nothing else.
const PASSED: [HeaderName; 3] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];
/// Headers of a caller that go on to a provider of its own dialect.
const NATIVE: [HeaderName; 2] =
    [HeaderName::from_static("anthropic-version"), HeaderName::from_static("anthropic-beta")];

/// The call that `body` asks for.
///
/// # Errors
/// When the body is no request, or there is no such model for this caller.
#[allow(clippy::too_many_arguments, reason = "what one request brings, and where it is answered")]
pub fn call<P: Platform>(
    platform: P,
    plan: Arc<Plan>,
    memory: &Arc<Memory>,
    caller: &Caller,
    task: Task,
    headers: &HeaderMap,
    body: Bytes,
    request_id: &str,
) -> Result<Call<P>, Refusal> {
    #[derive(Deserialize)]
    struct Peek {
        #[serde(default)]
        model: serde_json::Value,
        #[serde(default)]
        stream: serde_json::Value,
    }
    let peek: Peek = serde_json::from_slice(&body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "the body is no JSON object, or names a member twice",
            _ => "the body is not well-formed JSON",
        };
        Refusal::new(Kind::Malformed, what)
    })?;
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::new(Kind::Malformed, "the body is no JSON object"));
    }
    let Some(model) = peek.model.as_str().filter(|model| !model.is_empty()) else {
        return Err(Refusal::wrong("model", "must name a model"));
    };
    let stream = match (&peek.stream, task) {
        (serde_json::Value::Bool(stream), Task::Chat(_)) => *stream,
        (serde_json::Value::Null, _) | (_, Task::Embeddings | Task::Count) => false,
        _ => return Err(Refusal::wrong("stream", "must be true or false")),
    };
    let needs = || Needs::of(&serde_json::from_slice(&body).unwrap_or_default());
    let choice = chosen(&platform, &plan, memory, caller, model, request_id, needs)?;
    let asked = call::Asked {
        task,
        model: model.to_owned(),
        stream,
        body,
        chat: None,
        passed: kept(headers, &PASSED),
        native: if task.front() == Front::Anthropic { kept(headers, &NATIVE) } else { HeaderMap::new() },
        request_id: request_id.to_owned(),
        caller: caller.name.clone(),
        candidates: choice.candidates,
        may: choice.may,
        alone: choice.alone,
        why: choice.why,
    };
    begun(platform, plan, memory, caller, headers, asked)
}

/// The call that `asked` is: of one model, or of several that answer together.
fn begun<P: Platform>(
    platform: P,
    plan: Arc<Plan>,
    memory: &Arc<Memory>,
    caller: &Caller,
    headers: &HeaderMap,
    mut asked: call::Asked,
) -> Result<Call<P>, Refusal> {
    let caching = Caching::of(&plan, caller, &asked, headers);
    if !caching.as_ref().is_some_and(Caching::looks)
        && let Some(alone) = asked.alone.take()
    {
        return Err(*alone);
    }
    let noted = Noted::of(&plan, &asked);
    let Some(given) = plan.llm.team(&asked.model).cloned() else {
        return Ok(Call::new(platform, plan, memory.clone(), asked).noted(noted).cached(caching));
    };
    let Task::Chat(front) = asked.task else {
        return Err(Refusal::wrong("model", "names models that answer together, which only say words"));
    };
    let chat = match asked.chat.take() {
        Some(chat) => chat,
        None => {
            let body = serde_json::from_slice(&asked.body)
                .map_err(|_| Refusal::new(Kind::Malformed, "the body is not well-formed JSON"))?;
            convert::decode(front, &body)?
        }
    };
    let team = Team::new(platform.clone(), plan.clone(), memory.clone(), caller, given, chat, &asked);
    Ok(Call::of(team, Call::new(platform, plan, memory.clone(), asked)).noted(noted).cached(caching))
}

/// Whom `caller` is answered by who asks for `model`; remembered where there was something to decide. Where answers are kept, it
/// may be that nobody is asked now.
fn chosen<P: Platform>(
    platform: &P,
    plan: &Plan,
    memory: &Memory,
    caller: &Caller,
    model: &str,
    request_id: &str,
    needs: impl FnOnce() -> Needs,
) -> Result<Choice, Refusal> {
    let now = platform.clock().now();
    let choice = match plan.llm.team(model) {
        Some(team) => {
            // Who is asked is chosen stage by stage; here only whether the caller may.
            route::candidates(&plan.llm, caller, model)?;
            Choice { considered: team.models.clone(), why: model.to_owned(), ..Choice::default() }
        }
        None if plan.llm.cache.is_some() => policy::consider(&plan.llm, caller, model, memory, now, needs)?,
        None => policy::choose(&plan.llm, caller, model, memory, now, needs)?,
    };
    if choice.candidates.len() > 1 || !choice.considered.is_empty() {
        memory.decided(decision(&choice, caller, model, request_id, now));
    }
    Ok(choice)
}

fn decision(choice: &Choice, caller: &Caller, asked: &str, request_id: &str, now: Timestamp) -> Decision {
    let mut considered = choice.considered.clone();
    if considered.is_empty() {
        considered.extend(choice.candidates.iter().map(|candidate| route::brief(&candidate.name())));
    }
    Decision {
        ts: now.0,
        request_id: request_id.to_owned(),
        caller: caller.name.clone(),
        asked: route::brief(asked),
        considered,
        chosen: None,
        why: choice.why.clone(),
        outcome: None,
        attempts: 0,
    }
}

/// Those of `headers` that have one of these names.
fn kept(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// A model's words on their way, whoever asked for them in whatever way.
#[allow(clippy::large_enum_variant, reason = "whoever keeps them boxes the whole")]
pub enum Words<P: Platform> {
    /// In the dialect of a provider.
    Call(Call<P>),
    /// As `/ask` tells them.
    Ask(Box<ask::Asking<P>>),
}

impl<P: Platform> Words<P> {
    fn call(&mut self) -> &mut Call<P> {
        match self {
            Self::Call(call) => call,
            Self::Ask(asking) => asking.call(),
        }
    }

    /// Notes what was used so far of a call that is given up: see [`Call::settle`].
    pub fn settle(&mut self) {
        self.call().settle();
    }

    /// Whether they are wanted as they come.
    pub fn streams(&mut self) -> bool {
        self.call().streams()
    }

    /// Waits until it is known how they begin. Dropping the future loses nothing.
    pub async fn open(&mut self) -> Opening {
        match self {
            Self::Call(call) => call.open().await,
            Self::Ask(asking) => asking.open().await,
        }
    }

    /// Makes them a stream, whatever comes: see [`Call::promise`].
    pub fn promise(&mut self) -> Opening {
        self.call().promise()
    }

    /// The next bytes of a stream; `None` at its end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Call(call) => call.next().await,
            Self::Ask(asking) => asking.next().await,
        }
    }

    /// An answer that is to be kept in the store, if there is one.
    pub fn to_keep(&mut self) -> Option<Box<cache::ToKeep>> {
        self.call().to_keep.take()
    }

    /// What is known of them.
    pub fn metered(&self) -> &Metered {
        match self {
            Self::Call(call) => &call.metered,
            Self::Ask(asking) => asking.metered(),
        }
    }
}
