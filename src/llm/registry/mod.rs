//! What is known of models: what they can do, what they take, what they cost, where they run.
//!
//! What the configuration says goes before what a provider says of its models, and that before the table that is built
//! in. What nobody says is unknown, which is not the same as no.
//!
//! ```
//! use causeway::config::types::{Feature, ProviderKind};
//! use causeway::llm::registry::known;
//!
//! let facts = known(ProviderKind::Bedrock, "eu.anthropic.claude-haiku-4-5-20251001-v1:0").unwrap();
//! assert_eq!(facts.context, Some(200_000));
//! assert!(facts.features.unwrap().has(Feature::Images));
//! ```

mod listed;

pub use listed::{Listed, listed, shown};

use serde::Serialize;

use crate::config::plan::{Features, Llm, Prices, Provider};
use crate::config::types::{Feature, ProviderKind};

/// Well-known models, one a line: name, tokens in, tokens out, prices for a million (in, out, cached, written to the
/// cache), features. Collected from the providers' price pages, as LiteLLM's list has them.
const TABLE: &str = include_str!("known.txt");
/// When the table was made.
pub const TABLE_DATE: &str = "2026-11";

/// What somebody knows of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// How many tokens it takes.
    pub context: Option<u64>,
    /// How many tokens it answers with at most.
    pub max_output: Option<u64>,
    /// What it can do.
    pub features: Option<Features>,
    /// What it costs.
    pub prices: Option<Prices>,
    /// What it is called where people read it, or its size and kind.
    pub title: Option<String>,
    /// Whether it is loaded, where models are loaded when they are asked.
    pub loaded: Option<bool>,
}

impl Facts {
    /// These, and of `others` what these do not say.
    fn or(self, others: Option<&Self>) -> Self {
        let Some(others) = others else { return self };
        Self {
            context: self.context.or(others.context),
            max_output: self.max_output.or(others.max_output),
            features: self.features.or(others.features),
            prices: self.prices.or(others.prices),
            title: self.title.or_else(|| others.title.clone()),
            loaded: self.loaded.or(others.loaded),
        }
    }
}

/// Everything that is known of `model` at `provider`; `live` is what the provider said, `asked` what a caller calls it.
#[must_use]
pub fn facts(llm: &Llm, provider: &Provider, model: &str, asked: &str, live: Option<&Facts>) -> Facts {
    let full = format!("{}/{model}", provider.name);
    let mut facts = Facts::default();
    for own in [full.as_str(), model, asked].iter().filter_map(|name| llm.model(name)) {
        let own = Facts {
            context: own.context,
            max_output: own.max_output,
            features: own.features,
            prices: own.prices,
            ..Facts::default()
        };
        facts = facts.or(Some(&own));
    }
    facts = facts.or(live).or(known(provider.kind, model).as_ref());
    if provider.local && matches!(provider.kind, ProviderKind::Ollama | ProviderKind::Lmstudio) {
        // Whatever it costs is not counted in tokens.
        facts.prices = facts.prices.or(Some(Prices::default()));
    }
    facts
}

/// What the table says of `model` at a provider of `kind`.
#[must_use]
pub fn known(kind: ProviderKind, model: &str) -> Option<Facts> {
    let mut name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let priced = match kind {
        ProviderKind::Bedrock => {
            // Behind a region and a vendor: `eu.anthropic.claude-…`.
            name = name.rsplit('.').next().unwrap_or_default().to_owned();
            true
        }
        ProviderKind::Openrouter => {
            // `anthropic/claude-sonnet-4.5` is Anthropic's `claude-sonnet-4-5`.
            if name.starts_with("claude-") {
                name = name.replace('.', "-");
            }
            true
        }
        ProviderKind::Openai | ProviderKind::Anthropic | ProviderKind::Gemini | ProviderKind::Azure => true,
        _ => false,
    };
    let of = |line: &'static str| {
        let (known, rest) = line.split_once(' ')?;
        let version = name.strip_prefix(known)?;
        is_version(version).then_some((known.len(), rest))
    };
    let (_, line) = TABLE.lines().filter_map(of).max_by_key(|(length, _)| *length)?;
    let mut words = line.split(' ');
    let mut count = || words.next().and_then(|word| word.parse().ok());
    let (context, max_output) = (count(), count());
    let mut price = || words.next().and_then(|word| word.parse::<f64>().ok());
    let (input, output, cached, cache_write) = (price(), price(), price(), price());
    let prices = Prices { input: input?, output: output?, cached, cache_write };
    let letters = words.next().unwrap_or_default();
    let able = |(letter, feature): (char, Feature)| letters.contains(letter).then_some(feature);
    let features = LETTERS.into_iter().filter_map(able).collect();
    Some(Facts {
        context,
        max_output,
        features: Some(features),
        prices: priced.then_some(prices),
        ..Facts::default()
    })
}

const LETTERS: [(char, Feature); 8] = [
    ('t', Feature::Tools),
    ('i', Feature::Images),
    ('j', Feature::Json),
    ('r', Feature::Reasoning),
    ('d', Feature::Documents),
    ('a', Feature::Audio),
    ('e', Feature::Embeddings),
    ('p', Feature::Prefill),
];

/// Whether what follows a model's name is its version, and not a part of another model's name: `-20250929`,
/// `-2025-08-07`, `-001`, `-preview-09-2025`, `-latest`, `-v1:0`, `@20250929`, `:free`.
fn is_version(rest: &str) -> bool {
    let Some(version) = rest.strip_prefix('-') else {
        return rest.is_empty() || rest.starts_with([':', '@']);
    };
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    digits >= 3
        || ["latest", "preview"].iter().any(|word| version.starts_with(word))
        || version.strip_prefix('v').is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// How a model's answers have been, measured: moving averages.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measured {
    /// Milliseconds to the first word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    /// Tokens in a second from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Of how many answers.
    pub calls: u64,
}

/// A model, as everybody may know it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelContext {
    /// What it is called, and whose it is.
    pub identification: ModelIdentification,
    /// What it can do. What is left out is not known.
    pub capabilities: ModelCapabilities,
    /// What one may ask for.
    pub inference: InferenceSettings,
    /// How its text is counted.
    pub tokenizer: TokenizerDetails,
    /// Where it runs, what it costs, how it has been doing.
    pub runtime: RuntimeProperties,
}

/// What a model is called, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelIdentification {
    /// Its name here.
    pub id: String,
    /// The provider's name in the configuration.
    pub provider: String,
    /// Whose API the provider speaks.
    pub kind: &'static str,
    /// The model's name there.
    pub model: String,
    /// What it is called where people read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelCapabilities {
    /// It calls tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<bool>,
    /// It looks at images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<bool>,
    /// It answers in JSON that fits a schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<bool>,
    /// It thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    /// It reads documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<bool>,
    /// It listens to sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<bool>,
    /// It makes vectors of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<bool>,
}

/// What one may ask a model for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InferenceSettings {
    /// How many tokens it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// How many tokens it answers with at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
}

/// How a model's text is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenizerDetails {
    /// The tokenizer, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    /// Who counts when tokens are asked for: the `provider`, or the gateway by an `estimate`.
    pub counted_by: &'static str,
}

/// Where a model runs, what it costs, how it has been doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RuntimeProperties {
    /// `local`: what is asked stays on machines of one's own; else `cloud`.
    pub place: &'static str,
    /// US dollars for a million tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prices: Option<Priced>,
    /// Whether it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded: Option<bool>,
    /// How its answers have been at this instance of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// `ok`, `limited` or `paused`.
    pub health: &'static str,
    /// The month of the table that some of it is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<&'static str>,
}

/// Prices in US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Priced {
    /// What is sent.
    pub input: f64,
    /// What comes back.
    pub output: f64,
    /// What is sent and was in the provider's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<f64>,
    /// What is sent and put into the provider's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
}

impl ModelContext {
    /// `model` of `provider`, which is called `id` here.
    #[must_use]
    pub fn new(
        id: &str,
        provider: &Provider,
        model: &str,
        facts: Facts,
        measured: Option<Measured>,
        health: &'static str,
    ) -> Self {
        let has = |feature: Feature| facts.features.map(|features| features.has(feature));
        let counts = matches!(provider.kind, ProviderKind::Anthropic | ProviderKind::Gemini);
        Self {
            identification: ModelIdentification {
                id: id.to_owned(),
                provider: provider.name.clone(),
                kind: provider.kind.name(),
                model: model.to_owned(),
                title: facts.title,
            },
            capabilities: ModelCapabilities {
                tools: has(Feature::Tools),
                images: has(Feature::Images),
                json: has(Feature::Json),
                reasoning: has(Feature::Reasoning),
                documents: has(Feature::Documents),
                audio: has(Feature::Audio),
                embeddings: has(Feature::Embeddings),
            },
            inference: InferenceSettings {
                context_length: facts.context,
                max_output_tokens: facts.max_output,
            },
            tokenizer: TokenizerDetails {
                name: tokenizer(model),
                counted_by: if counts { "provider" } else { "estimate" },
            },
            runtime: RuntimeProperties {
                place: if provider.local { "local" } else { "cloud" },
                prices: facts.prices.map(|prices| Priced {
                    input: prices.input,
                    output: prices.output,
                    cached: prices.cached,
                    cache_write: prices.cache_write,
                }),
                loaded: facts.loaded,
                measured,
                health,
                table: known(provider.kind, model).map(|_| TABLE_DATE),
            },
        }
    }
}

/// The tokenizer of a family of models.
fn tokenizer(model: &str) -> Option<&'static str> {
    const FAMILIES: [(&str, &str); 14] = [
        ("gpt-oss", "o200k_harmony"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-6", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-3.5", "cl100k_base"),
        ("text-embedding-", "cl100k_base"),
        ("claude", "claude"),
        ("gemini", "gemini"),
        ("gemma", "gemma"),
        ("llama", "llama"),
        ("qwen", "qwen"),
        ("mistral", "mistral"),
    ];
    let name = model.to_ascii_lowercase();
    FAMILIES.iter().find(|(family, _)| name.contains(family)).map(|(_, tokenizer)| *tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_is_in_order() {
        let names: Vec<&str> = TABLE.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert!(names.is_sorted(), "sort the table");
        for (name, line) in names.iter().zip(TABLE.lines()) {
            let facts = known(ProviderKind::Openai, name).unwrap_or_else(|| panic!("{line}"));
            let prices = facts.prices.unwrap();
            assert!(facts.context.unwrap() >= 1000 && prices.input > 0.0, "{line}");
            assert!(prices.output >= prices.input || prices.output == 0.0, "{line}");
            let last = line.rsplit(' ').next().unwrap();
            assert!(last.chars().all(|c| LETTERS.iter().any(|(letter, _)| c == *letter)), "{line}");
        }
    }

    #[test]
    fn models_are_known_by_every_name_that_they_go_by() {
        let check = |kind: ProviderKind, model: &str, expect: Option<(u64, Option<f64>)>| {
            let got = known(kind, model);
            let got = got.map(|facts| (facts.context.unwrap(), facts.prices.map(|prices| prices.input)));
            assert_eq!(got, expect, "{model} of {kind:?}");
        };
        use ProviderKind::{Anthropic, Azure, Bedrock, Gemini, Ollama, Openai, OpenaiCompatible, Openrouter};
        check(Anthropic, "claude-haiku-4-5", Some((200_000, Some(1.0))));
        check(Anthropic, "claude-haiku-4-5-20251001", Some((200_000, Some(1.0))));
        check(Anthropic, "claude-haiku-4-6", None);
        check(Bedrock, "eu.anthropic.claude-haiku-4-5-20251001-v1:0", Some((200_000, Some(1.0))));
        check(Bedrock, "amazon.nova-pro-v1:0", Some((300_000, Some(0.8))));
        check(Openrouter, "anthropic/claude-haiku-4.5:beta", Some((200_000, Some(1.0))));
        check(OpenaiCompatible, "claude-haiku-4-5", Some((200_000, None)));
        check(Openai, "gpt-5-mini-2025-08-07", Some((272_000, Some(0.25))));
        check(Openai, "gpt-5", Some((272_000, Some(1.25))));
        check(Openai, "gpt-5-turbo", None);
        check(Azure, "gpt-4o", Some((128_000, Some(2.5))));
        check(Gemini, "models/gemini-2.5-flash-preview-09-2025", Some((1_048_576, Some(0.3))));
        check(Ollama, "qwen3:4b", None);
        check(Openai, "", None);
    }
}
