//! Whole answers.

use serde_json::{Map, Value, json};

use super::{Dialect, Front};
use crate::config::types::ProviderKind;
use crate::llm::chat::{Event, Whole};
use crate::llm::json::{count, list};
use crate::llm::provider::dialect;
use crate::llm::{anthropic, ask, bedrock, gemini, ollama, openai, sampling};

/// The pieces of a provider's whole answer.
#[must_use]
pub fn whole(provider: &str, kind: ProviderKind, body: &Value) -> Vec<Event> {
    match dialect(kind) {
        Dialect::OpenAi => openai::whole_from(provider, body),
        Dialect::Anthropic => anthropic::whole_from(provider, body),
        Dialect::Gemini => gemini::whole_from(provider, body),
        Dialect::Bedrock => bedrock::whole_from(provider, body),
        Dialect::Ollama => ollama::whole_from(provider, body),
    }
}

impl Front {
    /// A whole answer as the caller reads it. `id` and `model` are used where the provider gave none; `created` is in
    /// seconds.
    #[must_use]
    pub fn whole(self, whole: &Whole, id: &str, model: &str, created: u64) -> Value {
        match self {
            Self::OpenAi => openai::whole_to(whole, id, model, created),
            Self::Anthropic => anthropic::whole_to(whole, id, model),
            Self::Ask => ask::whole(whole, id, model),
            Self::Sampling => sampling::whole(whole, model),
        }
    }
}

/// A provider's vectors as an OpenAI client reads them, with how many tokens they were made of, if that is known.
/// `None` where there are none.
#[must_use]
pub fn embeddings(kind: ProviderKind, body: &Value, model: &str, base64: bool) -> Option<Value> {
    let (vectors, tokens) = match dialect(kind) {
        Dialect::Gemini => (gemini::embeddings_from(body), None),
        _ => (list(body, "embeddings").to_vec(), count(body, "prompt_eval_count")),
    };
    if vectors.is_empty() {
        return None;
    }
    let item = |(index, vector): (usize, Value)| {
        let vector = if base64 { packed(&vector) } else { vector };
        json!({"object": "embedding", "index": index, "embedding": vector})
    };
    let data: Vec<Value> = vectors.into_iter().enumerate().map(item).collect();
    let tokens = tokens.unwrap_or(0);
    let mut whole = Map::new();
    whole.insert("object".into(), "list".into());
    whole.insert("data".into(), data.into());
    whole.insert("model".into(), model.into());
    whole.insert("usage".into(), json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    Some(Value::Object(whole))
}

/// A vector as OpenAI packs it: base64 of its numbers as 32-bit floats, lowest byte first.
fn packed(vector: &Value) -> Value {
    use base64::Engine as _;
    let numbers = vector.as_array().into_iter().flatten().filter_map(Value::as_f64);
    #[expect(clippy::cast_possible_truncation, reason = "32 bits are what the format has")]
    let bytes: Vec<u8> = numbers.flat_map(|number| (number as f32).to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}
