//! `llm`: providers of models, and model names.

#[cfg(feature = "schema")]
use super::describe;
use super::{Choice, Named, Size, Span, Timeouts, is_default};

/// Whom the gateway asks for a model's words, and what models are called.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Llm {
    /// The providers of models, by name.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub providers: Named<Provider>,
    /// Names of one's own for models, and what models cost. A text or a list alone is what the name stands for.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub models: Named<Model>,
    /// Names for a choice among several models, made anew for each call.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub policies: Named<Policy>,
    /// Models that answer together. One is asked for as `chain/NAME`, `cascade/NAME` or `compare/NAME`.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub teams: Named<Team>,
    /// How contexts of users are kept (`/context`).
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub contexts: Contexts,
    /// Whether the models are offered to MCP clients as a server called `llm`: its tools `llm__ask` and `llm__models`, and a
    /// resource for each model. Default: true, where there are providers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = true)))]
    pub mcp: Option<bool>,
    /// Answers are kept, and given again to the very same question. Without it none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// How much of what is asked, and of what is answered, is written to the log with each call: 1 byte to 32 KiB of each.
    /// Without it nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_content: Option<Size>,
}

/// How answers are kept for the very same question.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Cache {
    /// How old an answer may be that is given again: 1 second to 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "1h")))]
    pub ttl: Option<Span>,
    /// How large all of them may be together: 64 KiB to 1 GiB. At most 16 MiB of it are in the memory of each instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "16MiB")))]
    pub size: Option<Size>,
    /// How large one may be: 1 KiB to 1000 KiB. Larger ones are not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "64KiB")))]
    pub max_answer: Option<Size>,
    /// Whether what one caller was answered is given to others, too, who ask the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = false)))]
    pub shared: Option<bool>,
    /// Which models' answers are kept, by the names that callers ask for. A list alone is what is allowed.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Choice>"))]
    pub models: Choice,
}

/// How contexts of users are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Contexts {
    /// How long one is kept after it was written last, where the one who writes it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "30d")))]
    pub ttl: Option<Span>,
    /// How large one may be: 1 KiB to 1000 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "256KiB")))]
    pub max_size: Option<Size>,
    /// How much of what was said is kept: the newest turns, question and answer counted by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1000), extend("default" = 40)))]
    pub turns: Option<u32>,
}

/// One provider of models.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Provider {
    /// Whose API it speaks.
    pub kind: ProviderKind,
    /// Where the API is. Only `azure`, `dial` and `openai-compatible` have no usual place. `${NAME}` is filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["http://127.0.0.1:11434"])))]
    pub url: Option<String>,
    /// The gateway's key for the provider. `${NAME}` is filled in from the host's variables and secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["${OPENAI_API_KEY}"])))]
    pub api_key: Option<String>,
    /// Further keys, used in turn with `api_key`: each has its own limits and its own breaker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, extend("examples" = [["${OPENAI_API_KEY_2}"]])))]
    pub api_keys: Vec<String>,
    /// A token to send as `Authorization: Bearer`, for providers that also take a key in another way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer: Option<String>,
    /// The id of an AWS access key (`bedrock`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The secret of an AWS access key (`bedrock`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<String>,
    /// The token of a temporary AWS access key (`bedrock`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
    /// The AWS region (`bedrock`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["us-east-1"])))]
    pub region: Option<String>,
    /// The API's version, where that is a parameter (`azure`, `dial`). With it `azure` is asked by deployments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Further headers to send with each request. `${NAME}` is filled in from the host's variables and secrets.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub headers: Named<String>,
    /// Which models it is asked for, by its own names. A list alone is what is allowed. Default: those its kind is
    /// known for; any model, where a kind has no names of its own.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Choice>"))]
    pub models: Choice,
    /// The link behind which the provider is: the name of a machine that dials in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Whether what is asked stays on machines of one's own. Default: whether `url` is on this machine or in a private
    /// network, or the provider behind a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// When it is left alone for a while.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub breaker: Breaker,
    /// Leave the provider out.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub disabled: bool,
    /// How long things may take. `first_byte` is here until the first word of an answer, and `2m` if left out.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub timeouts: Timeouts,
    /// How many bytes one answer, or one event of a stream, may have: 1 KiB to 512 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "32MiB")))]
    pub max_response: Option<Size>,
    /// How often a call is tried again here, when trying again may help and no other provider has the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 10), extend("default" = 2)))]
    pub retries: Option<u32>,
}

/// Whose API a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenAI's chat completions.
    Openai,
    /// Anthropic's messages.
    Anthropic,
    /// Google's Gemini API (`generateContent`).
    Gemini,
    /// Amazon Bedrock (Converse).
    Bedrock,
    /// Ollama's own API.
    Ollama,
    /// LM Studio.
    Lmstudio,
    /// OpenRouter.
    Openrouter,
    /// Azure OpenAI and Azure AI Foundry.
    Azure,
    /// DIAL.
    Dial,
    /// Any other that speaks OpenAI's chat completions.
    #[default]
    #[serde(rename = "openai-compatible")]
    OpenaiCompatible,
}

impl ProviderKind {
    /// Every kind, with its name in the configuration.
    pub const ALL: [(&'static str, Self); 10] = [
        ("openai", Self::Openai),
        ("anthropic", Self::Anthropic),
        ("gemini", Self::Gemini),
        ("bedrock", Self::Bedrock),
        ("ollama", Self::Ollama),
        ("lmstudio", Self::Lmstudio),
        ("openrouter", Self::Openrouter),
        ("azure", Self::Azure),
        ("dial", Self::Dial),
        ("openai-compatible", Self::OpenaiCompatible),
    ];

    /// The kind called `name`.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Where its API is, unless it is where its user put it.
    #[must_use]
    pub fn usual_url(self) -> Option<&'static str> {
        Some(match self {
            Self::Openai => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com",
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta",
            // With the region in the host name.
            Self::Bedrock => "https://bedrock-runtime.{region}.amazonaws.com",
            Self::Ollama => "http://127.0.0.1:11434",
            Self::Lmstudio => "http://127.0.0.1:1234/v1",
            Self::Openrouter => "https://openrouter.ai/api/v1",
            Self::Azure | Self::Dial | Self::OpenaiCompatible => return None,
        })
    }

    /// Whether it works without any credential, as what people run on machines of their own does. Only such can be
    /// behind a link.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Ollama | Self::Lmstudio | Self::OpenaiCompatible)
    }
}

/// When a provider that fails is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Breaker {
    /// After so many failures in a row; 0 never: 0 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1000), extend("default" = 5)))]
    pub failures: Option<u32>,
    /// For so long at first, and longer each time that it still fails, up to eight times: 100 milliseconds to 1 hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "10s")))]
    pub pause: Option<Span>,
}

/// Something that a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// It calls tools.
    Tools,
    /// It looks at images.
    Images,
    /// It answers in JSON that fits a schema.
    Json,
    /// It thinks before it answers.
    Reasoning,
    /// It reads documents.
    Documents,
    /// It listens to sound.
    Audio,
    /// It makes vectors of texts.
    Embeddings,
    /// It goes on with an answer that it is given the beginning of.
    Prefill,
}

impl Feature {
    /// Every feature, with its name in the configuration.
    pub const ALL: [(&'static str, Self); 8] = [
        ("tools", Self::Tools),
        ("images", Self::Images),
        ("json", Self::Json),
        ("reasoning", Self::Reasoning),
        ("documents", Self::Documents),
        ("audio", Self::Audio),
        ("embeddings", Self::Embeddings),
        ("prefill", Self::Prefill),
    ];
}

/// A name for a choice among several models.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Policy {
    /// The models to choose among, each as `provider/model` or a name under `models` that has targets. The order counts
    /// where nothing else decides.
    #[cfg_attr(feature = "schema", schemars(length(min = 1), extend("examples" = [["local/qwen3", "openai/gpt-5-mini"]])))]
    pub targets: Vec<String>,
    /// What a model must be able to do, beyond what a request needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub needs: Vec<Feature>,
    /// How many tokens a model must take: 1 to 100000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000_000)))]
    pub context: Option<u32>,
    /// Ask nobody but local providers.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub local_only: bool,
    /// Ask local providers before others.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub local_first: bool,
    /// What makes a model better than another. Without it their order does.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub rank: Rank,
    /// How often each target is to be the first, in proportion: 0 to 1000000. A target that is not named has 0, and is
    /// asked only when others fail.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub weights: Named<u32>,
}

/// Models that answer together.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Team {
    /// How they do.
    pub how: Together,
    /// The models, 2 to 8, each as `provider/model`, a name under `models` that has targets, or a policy.
    #[cfg_attr(feature = "schema", schemars(length(min = 2, max = 8), extend("examples" = [["local/qwen3", "openai/gpt-5"]])))]
    pub models: Vec<String>,
    /// The model that checks an answer (`cascade`) or picks one (`compare`), named as those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
    /// What the one that refines, or the judge, is told in place of the usual words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// How long all of it may take: 1 second to 1 hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "2m")))]
    pub time: Option<Span>,
    /// How many US dollars it may cost: no stage begins once they are spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1000)))]
    pub cost: Option<f64>,
}

/// How models answer together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Together {
    /// Each is given the answer of the one before, to improve it.
    #[default]
    Chain,
    /// Each is asked where the answer of the one before will not do.
    Cascade,
    /// All are asked at once, and one answer is picked.
    Compare,
}

impl Together {
    /// Every way, with its name in the configuration.
    pub const ALL: [(&'static str, Self); 3] =
        [("chain", Self::Chain), ("cascade", Self::Cascade), ("compare", Self::Compare)];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, how)| *how == self).map_or("", |(name, _)| name)
    }
}

/// What makes a model better than another: how much each counts, from 0 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Rank {
    /// What a call costs.
    #[cfg_attr(feature = "schema", schemars(default, range(min = 0, max = 1000)))]
    pub cost: f64,
    /// The time to the first word, as measured.
    #[cfg_attr(feature = "schema", schemars(default, range(min = 0, max = 1000)))]
    pub latency: f64,
    /// The time from there for each token, as measured.
    #[cfg_attr(feature = "schema", schemars(default, range(min = 0, max = 1000)))]
    pub speed: f64,
}

/// A name for models, or what is known of one.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(deny_unknown_fields, transform = describe::model)
)]
#[non_exhaustive]
pub struct Model {
    /// What is asked, each as `provider/model`: the first, and the next one when that fails before it has begun to
    /// answer. Without it the entry is about the model of that very name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, extend("examples" = [["openai/gpt-5-mini"]])))]
    pub targets: Vec<String>,
    /// What it costs, in US dollars for a million tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
    /// How many tokens it takes in all: 1 to 100000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000_000)))]
    pub context: Option<u32>,
    /// How many tokens it answers with at most: 1 to 100000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000_000)))]
    pub max_output: Option<u32>,
    /// What it can do; what is left out it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<Feature>>,
}

/// Prices in US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[non_exhaustive]
pub struct Prices {
    /// What is sent.
    #[cfg_attr(feature = "schema", schemars(default, range(min = 0)))]
    pub input: f64,
    /// What comes back.
    #[cfg_attr(feature = "schema", schemars(default, range(min = 0)))]
    pub output: f64,
    /// What is sent and was in the provider's cache. As `input` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub cached: Option<f64>,
    /// What is sent and put into the provider's cache. As `input` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub cache_write: Option<f64>,
}
