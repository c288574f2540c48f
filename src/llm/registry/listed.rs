//! What providers say of their models in the lists that they give of them.

use serde_json::Value;

use super::Facts;
use crate::config::plan::{Features, Prices};
use crate::config::types::{Feature, ProviderKind};
use crate::llm::json::{count, list, owned, text};

/// A model of a provider's list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listed {
    /// Its name there.
    pub name: String,
    /// What the list says of it.
    pub facts: Facts,
}

/// The models that a provider's list holds.
#[must_use]
pub fn listed(kind: ProviderKind, body: &Value) -> Vec<Listed> {
    let (key, of): (&str, fn(&Value) -> Option<Listed>) = match kind {
        ProviderKind::Ollama => ("models", ollama),
        ProviderKind::Lmstudio => ("data", lmstudio),
        ProviderKind::Gemini => ("models", gemini),
        ProviderKind::Bedrock => ("modelSummaries", bedrock),
        ProviderKind::Openrouter => ("data", openrouter),
        _ => ("data", plain),
    };
    let mut models: Vec<Listed> = list(body, key).iter().filter_map(of).collect();
    if kind == ProviderKind::Lmstudio {
        // Asking for one that is not loaded makes it load.
        models.sort_by_key(|model| model.facts.loaded != Some(true));
    }
    models
}

/// What Ollama's `/api/show` says of a model (docs.ollama.com/api/show).
pub fn shown(body: &Value, facts: &mut Facts) {
    let info = body.get("model_info").and_then(Value::as_object).into_iter().flatten();
    let mut lengths = info.filter(|(key, _)| key.ends_with(".context_length"));
    facts.context = lengths.find_map(|(_, value)| value.as_u64()).or(facts.context);
    if body.get("capabilities").is_some() {
        let mut features = able(body, "capabilities");
        if !features.has(Feature::Embeddings) {
            // The grammar of an answer is kept by the server, and so is its beginning, whatever the model.
            features = features.with(Feature::Json).with(Feature::Prefill);
        }
        facts.features = Some(features);
    }
}

/// The features that a list of words names, in whichever words.
fn able(value: &Value, key: &str) -> Features {
    let of = |word: &Value| {
        Some(match word.as_str()? {
            "tools" | "tool_use" | "tool_choice" => Feature::Tools,
            "vision" | "image" | "IMAGE" => Feature::Images,
            "structured_outputs" => Feature::Json,
            "thinking" | "reasoning" => Feature::Reasoning,
            "file" => Feature::Documents,
            "audio" | "SPEECH" => Feature::Audio,
            "embedding" => Feature::Embeddings,
            _ => return None,
        })
    };
    list(value, key).iter().filter_map(of).collect()
}

/// OpenAI's list says nothing but names; others that speak its dialect say more, each in words of its own.
fn plain(model: &Value) -> Option<Listed> {
    let lengths =
        ["max_model_len", "context_length", "context_window", "max_context_length", "max_input_tokens"];
    let context = lengths.iter().find_map(|key| count(model, key));
    let facts = Facts {
        // llama.cpp.
        context: context.or_else(|| model.get("meta").and_then(|meta| count(meta, "n_ctx_train"))),
        max_output: count(model, "max_tokens").or_else(|| count(model, "max_completion_tokens")),
        title: owned(model, "display_name"),
        ..Facts::default()
    };
    Some(Listed { name: owned(model, "id")?, facts })
}

/// docs.ollama.com/api/tags
fn ollama(model: &Value) -> Option<Listed> {
    let details = model.get("details").unwrap_or(&Value::Null);
    let words = ["family", "parameter_size", "quantization_level"];
    let words: Vec<&str> = words.iter().filter_map(|key| text(details, key)).collect();
    let title = Some(words.join(" ")).filter(|title| !title.is_empty());
    let name = owned(model, "model").or_else(|| owned(model, "name"))?;
    Some(Listed { name, facts: Facts { title, ..Facts::default() } })
}

/// lmstudio.ai/docs/developer/rest/endpoints
fn lmstudio(model: &Value) -> Option<Listed> {
    let mut features = able(model, "capabilities");
    match text(model, "type") {
        Some("vlm") => features = features.with(Feature::Images).with(Feature::Json),
        Some("embeddings") => features = features.with(Feature::Embeddings),
        _ => features = features.with(Feature::Json),
    }
    let facts = Facts {
        context: count(model, "loaded_context_length").or_else(|| count(model, "max_context_length")),
        features: model.get("capabilities").map(|_| features),
        title: owned(model, "arch"),
        loaded: text(model, "state").map(|state| state == "loaded"),
        ..Facts::default()
    };
    Some(Listed { name: owned(model, "id")?, facts })
}

/// ai.google.dev/api/models
fn gemini(model: &Value) -> Option<Listed> {
    let name = text(model, "name")?;
    let facts = Facts {
        context: count(model, "inputTokenLimit"),
        max_output: count(model, "outputTokenLimit"),
        title: owned(model, "displayName"),
        ..Facts::default()
    };
    Some(Listed { name: name.strip_prefix("models/").unwrap_or(name).to_owned(), facts })
}

/// docs.aws.amazon.com/bedrock/latest/APIReference/API_ListFoundationModels.html
fn bedrock(model: &Value) -> Option<Listed> {
    let facts = Facts { title: owned(model, "modelName"), ..Facts::default() };
    Some(Listed { name: owned(model, "modelId")?, facts })
}

/// openrouter.ai/docs/api-reference/list-available-models
fn openrouter(model: &Value) -> Option<Listed> {
    let own = model.get("pricing").unwrap_or(&Value::Null);
    // Dollars for one token, as text.
    let price = |key: &str| {
        let price: f64 = text(own, key)?.parse().ok()?;
        (0.0..1.0).contains(&price).then_some((price * 1e12).round() / 1e6)
    };
    let prices = price("prompt").zip(price("completion")).map(|(input, output)| Prices {
        input,
        output,
        cached: price("input_cache_read"),
        cache_write: price("input_cache_write"),
    });
    let words = able(model, "supported_parameters");
    let senses = model.get("architecture").map(|senses| able(senses, "input_modalities")).unwrap_or_default();
    let facts = Facts {
        context: count(model, "context_length"),
        max_output: model.get("top_provider").and_then(|top| count(top, "max_completion_tokens")),
        features: model.get("supported_parameters").map(|_| words.and(senses)),
        prices,
        title: owned(model, "name"),
        ..Facts::default()
    };
    Some(Listed { name: owned(model, "id")?, facts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(kind: ProviderKind, key: &str, model: Value) -> Listed {
        listed(kind, &json!({key: [model]})).remove(0)
    }

    #[test]
    fn lists_say_what_models_can_do() {
        let llama = json!({"id": "gemma", "meta": {"n_ctx_train": 32768, "n_params": 1}});
        let found = one(ProviderKind::OpenaiCompatible, "data", llama);
        assert_eq!((found.name.as_str(), found.facts.context), ("gemma", Some(32768)));
        let router = json!({
            "id": "x/y", "name": "Y", "context_length": 1000, "pricing": {"prompt": "0.000003", "completion": "0.000015"},
            "supported_parameters": ["tools", "structured_outputs"], "architecture": {"input_modalities": ["text", "image"]},
            "top_provider": {"max_completion_tokens": 64},
        });
        let found = one(ProviderKind::Openrouter, "data", router).facts;
        assert_eq!((found.context, found.max_output), (Some(1000), Some(64)));
        assert_eq!(found.prices.map(|prices| (prices.input, prices.output)), Some((3.0, 15.0)));
        let features = found.features.unwrap();
        assert!(features.has(Feature::Tools) && features.has(Feature::Json) && features.has(Feature::Images));
        assert!(!features.has(Feature::Reasoning));
        let gemini =
            json!({"name": "models/g", "inputTokenLimit": 7, "outputTokenLimit": 3, "displayName": "G"});
        let found = one(ProviderKind::Gemini, "models", gemini);
        assert_eq!((found.name.as_str(), found.facts.context), ("g", Some(7)));
        assert_eq!(found.facts.title.as_deref(), Some("G"));
    }

    #[test]
    fn models_that_are_loaded_come_first() {
        let models = json!({"data": [
            {"id": "cold", "state": "not-loaded", "type": "llm", "max_context_length": 4096},
            {"id": "warm", "state": "loaded", "type": "vlm", "capabilities": ["tool_use"]},
        ]});
        let found = listed(ProviderKind::Lmstudio, &models);
        assert_eq!(found.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["warm", "cold"]);
        assert!(found[0].facts.features.unwrap().has(Feature::Images));
        assert_eq!((found[1].facts.context, found[1].facts.features), (Some(4096), None));
    }

    #[test]
    fn ollama_says_more_when_it_is_asked_for_one() {
        let mut facts = one(
            ProviderKind::Ollama,
            "models",
            json!({"name": "q", "details": {"family": "qwen3", "parameter_size": "4B"}}),
        )
        .facts;
        assert_eq!(facts.title.as_deref(), Some("qwen3 4B"));
        let show = json!({
            "capabilities": ["completion", "tools", "thinking"],
            "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
        });
        shown(&show, &mut facts);
        assert_eq!(facts.context, Some(40960));
        let features = facts.features.unwrap();
        assert!(features.has(Feature::Tools) && features.has(Feature::Reasoning));
        assert!(!features.has(Feature::Images));
    }

    #[test]
    fn a_list_that_makes_no_sense_is_empty() {
        for (_, kind) in ProviderKind::ALL {
            for body in
                [json!(null), json!([]), json!({"data": 1, "models": {}}), json!({"data": [1, {}, null]})]
            {
                assert_eq!(listed(kind, &body), [], "{body}");
            }
        }
    }
}
