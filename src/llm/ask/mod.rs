//! `/ask`: one question, one answer, the same whoever answers.
//!
//! It is a front like those of OpenAI and Anthropic, with names of its own: what is asked is checked by the published
//! [schema] and becomes a [conversation](crate::llm::chat) together with what is known of who asks; the answer tells,
//! besides the words, who gave it, what it cost and who was asked before.

mod front;
#[cfg(feature = "schema")]
mod openapi;
mod prompt;
pub mod schema;
pub mod types;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use self::front::Writer;
pub(in crate::llm) use self::front::whole;
#[cfg(feature = "schema")]
pub use self::openapi::openapi;
use self::types::{Ask, Attempt, FormatKind};
use super::call::{Asked, Call, Opening, Task};
use super::convert::Front;
use super::{PASSED, Refusal, kept, route};
use crate::config::Plan;
use crate::config::plan::Caller;
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
pub fn ask<P: Platform>(
    platform: P,
    plan: Arc<Plan>,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    request_id: &str,
) -> Result<Asking<P>, Refusal> {
    let asked: Ask = read("Ask", body)?;
    let context = asked.context.clone().unwrap_or_default();
    let mut chat = prompt::chat(&asked, &context)?;
    let model = model(&plan, &asked)?;
    let candidates = route::candidates(&plan.llm, caller, &model).map_err(|mut unknown| {
        let place = if asked.policy.is_some() { "/policy" } else { "/model" };
        unknown.param = Some(place.to_owned());
        unknown
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
        candidates,
    };
    let ticks = platform.clock().ticks();
    let json = asked.format.as_ref().is_some_and(|format| format.kind == FormatKind::Json);
    Ok(Asking {
        call: Call::new(platform.clone(), plan, call),
        platform,
        ticks,
        json,
        began: false,
        held: BytesMut::new(),
    })
}

/// The model's name: the one that is asked for, or `default`.
fn model(plan: &Plan, asked: &Ask) -> Result<String, Refusal> {
    match (&asked.model, &asked.policy) {
        (Some(_), Some(_)) => Err(Refusal::wrong("/policy", "give either model or policy")),
        (Some(name), None) | (None, Some(name)) => Ok(name.clone()),
        (None, None) => {
            let known = plan.llm.model(DEFAULT).is_some();
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
        match self.call.open().await {
            Opening::Whole(status, headers, body) if status.is_success() => {
                let body = self.completed(&body);
                Opening::Whole(status, headers, body)
            }
            opening => opening,
        }
    }

    /// The next bytes of a stream; `None` at its end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        if !self.held.is_empty() {
            return Some(self.done());
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
        if out.is_empty() { Some(self.done()) } else { Some(out.freeze()) }
    }

    fn done(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        let mut out = BytesMut::from(DONE);
        out.extend_from_slice(&self.completed(&held));
        out.extend_from_slice(b"\n\n");
        out.freeze()
    }

    /// An answer, with all that is known of how it came about.
    fn completed(&self, body: &[u8]) -> Bytes {
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(body) else {
            return Bytes::copy_from_slice(body);
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
        Value::Object(answer).to_string().into()
    }
}

fn millis(micros: u64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "a duration has no use for 53 bits")]
    let millis = micros as f64 / 1000.0;
    millis.into()
}
