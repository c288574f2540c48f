//! Requests.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Dialect, Front};
use crate::config::types::ProviderKind;
use crate::fault::Kind;
use crate::llm::chat::Chat;
use crate::llm::provider::dialect;
use crate::llm::refusal::Refusal;
use crate::llm::{anthropic, bedrock, gemini, ollama, openai};

/// Reads a caller's request.
///
/// # Errors
/// When it is none, or asks for what no other dialect can give.
pub fn decode(front: Front, body: &Value) -> Result<Chat, Refusal> {
    match front {
        Front::OpenAi => openai::decode(body),
        Front::Anthropic => anthropic::decode(body),
        // Their questions come as conversations.
        Front::Ask | Front::Sampling => Err(Refusal::new(Kind::Malformed, "the body is no question")),
    }
}

/// Writes a request for a provider of `kind`.
///
/// # Errors
/// When it holds what that dialect cannot.
pub fn encode(chat: &Chat, kind: ProviderKind) -> Result<Value, Refusal> {
    match dialect(kind) {
        Dialect::OpenAi => Ok(openai::encode(chat, kind)),
        Dialect::Anthropic => Ok(anthropic::encode(chat)),
        Dialect::Gemini => gemini::encode(chat),
        Dialect::Bedrock => bedrock::encode(chat),
        Dialect::Ollama => ollama::encode(chat),
    }
}

/// `body` with another `model`, and every other byte as it was.
#[must_use]
pub fn with_model(body: &Bytes, model: &str) -> Bytes {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: &'a RawValue,
    }
    let Ok(named) = serde_json::from_slice::<Named<'_>>(body) else { return body.clone() };
    let old = named.model.get();
    let new = Value::from(model).to_string();
    if old == new {
        return body.clone();
    }
    let start = (old.as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
    let (Some(before), Some(after)) = (body.get(..start), body.get(start + old.len()..)) else {
        return body.clone();
    };
    let mut whole = BytesMut::with_capacity(body.len() + new.len());
    whole.put_slice(before);
    whole.put_slice(new.as_bytes());
    whole.put_slice(after);
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_model_changes() {
        let check = |body: &'static str, expect: &str| {
            let got = with_model(&Bytes::from_static(body.as_bytes()), "b\"c");
            assert_eq!(std::str::from_utf8(&got).unwrap(), expect);
        };
        check(
            r#"{ "x": {"model": "no"},"model" : "a" , "y":1.0}"#,
            r#"{ "x": {"model": "no"},"model" : "b\"c" , "y":1.0}"#,
        );
        check(r#"{"model":"b\"c","z":[1 , 2]}"#, r#"{"model":"b\"c","z":[1 , 2]}"#);
        check("not json", "not json");
    }
}
