//! What is asked and answered at `/ask`, and what is known of a user: the types that the published schemas are
//! generated from.
//!
//! Parts of messages, tools and documents are named as MCP names them (2026-07-28 server, "Tools", "Content Types"), so
//! that what a server gave can be handed on as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A question. Either `message` or `messages` says what is asked.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(default)]
pub struct Ask {
    /// What is asked.
    pub message: Option<Content>,
    /// The conversation so far; its last message is what is asked.
    #[cfg_attr(feature = "schema", schemars(length(max = 1000)))]
    pub messages: Vec<Message>,
    /// Instructions to the model.
    pub system: Option<String>,
    /// Whose stored context is used, as in `/context/{user_id}`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 128)))]
    pub user_id: Option<String>,
    /// Whether question and answer become part of the user's memory. They do, unless told otherwise.
    pub remember: Option<bool>,
    /// What the model should know. It is added to the user's stored context, for this question only.
    pub context: Option<Context>,
    /// The model: any name of `GET /v1/models`. `default` if left out.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 256)))]
    pub model: Option<String>,
    /// The policy that chooses a model, instead of `model`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 256)))]
    pub policy: Option<String>,
    /// Whether the answer is wanted as it comes, as server-sent events.
    pub stream: bool,
    /// The most tokens to answer with.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub max_tokens: Option<u64>,
    /// How freely words are chosen.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 2)))]
    pub temperature: Option<f64>,
    /// The same, by probability.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub top_p: Option<f64>,
    /// Texts that end the answer.
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub stop: Vec<String>,
    /// How much the model thinks before it answers.
    pub effort: Option<Effort>,
    /// What the answer must look like.
    pub format: Option<Format>,
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said; the result of a tool, where the role is `tool`.
    #[serde(default)]
    pub content: Option<Content>,
    /// Tools that the assistant called.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = 256)))]
    pub tool_calls: Vec<ToolCall>,
    /// Which call it is the result of, where the role is `tool`.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// Whether the tool failed, where the role is `tool`.
    #[serde(default)]
    pub is_error: bool,
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// A tool.
    Tool,
}

/// What is said: text, or parts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Content {
    /// Text alone.
    Text(String),
    /// Parts, in order.
    Parts(Vec<Part>),
}

/// A part of what is said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: PartKind,
    /// The words of a `text`.
    #[serde(default)]
    pub text: Option<String>,
    /// The bytes of an `image` or `audio`, as base64.
    #[serde(default)]
    pub data: Option<String>,
    /// The media type of `data`.
    #[serde(default)]
    pub mime_type: Option<String>,
    /// Where an `image` is, for the provider to read, instead of `data`.
    #[serde(default)]
    pub url: Option<String>,
}

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// Words.
    Text,
    /// An image.
    Image,
    /// A sound.
    Audio,
}

/// How much a model thinks before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(default)]
pub struct Format {
    /// Words, or JSON, which the answer then also has as `data`.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// The JSON Schema that the answer fits.
    pub schema: Option<Map<String, Value>>,
    /// The schema's name.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    pub name: Option<String>,
}

/// Words, or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FormatKind {
    /// Words.
    Text,
    /// JSON.
    #[default]
    Json,
}

/// What a model should know of who asks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(default)]
pub struct Context {
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What was learned and said before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// What the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// Documents to answer from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docs: Option<Docs>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(default)]
pub struct Identity {
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 500)))]
    pub name: Option<String>,
    /// What they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 500)))]
    pub role: Option<String>,
    /// Whom they work for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 500)))]
    pub organization: Option<String>,
    /// The language and region that they read, such as `de-AT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 100)))]
    pub locale: Option<String>,
    /// Where their clock is, such as `Europe/Vienna`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 100)))]
    pub timezone: Option<String>,
    /// Whatever else there is to know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("maxProperties" = 100)))]
    pub attributes: BTreeMap<String, String>,
}

/// What was learned and said before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(default)]
pub struct Memory {
    /// What came before, in short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What is known, each in a sentence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 1000)))]
    pub facts: Vec<String>,
    /// What was said, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 1000)))]
    pub turns: Vec<Turn>,
}

/// What one side said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Turn {
    /// Who.
    pub role: Side,
    /// The words.
    pub text: String,
    /// When, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The request that it was said in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 200)))]
    pub id: Option<String>,
}

/// The two sides of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// What a model may call. Whoever asks runs it, and sends the result as a message of the role `tool`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(default)]
pub struct Tools {
    /// The tools, as `tools/list` of an MCP server gives them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 256)))]
    pub definitions: Vec<Tool>,
    /// Whether one must be called: `auto`, `none`, `required`, or the name of the one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 128)))]
    pub choice: Option<String>,
    /// Whether several may be called at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<bool>,
}

/// A tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// Its name.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 128)))]
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    #[serde(default)]
    pub input_schema: Map<String, Value>,
}

/// Documents to answer from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Docs(#[cfg_attr(feature = "schema", schemars(length(max = 200)))] pub Vec<Doc>);

/// A document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Doc {
    /// What it says.
    pub text: String,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 500)))]
    pub title: Option<String>,
    /// Where it is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 2000)))]
    pub uri: Option<String>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = 200)))]
    pub mime_type: Option<String>,
}

/// An answer: the same from every provider.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Answer {
    /// The gateway's id of it.
    pub id: String,
    /// The words. Empty where the model only calls tools.
    pub text: String,
    /// What the model thought, where it tells.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub reasoning: String,
    /// The words as JSON, where JSON was asked for and came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The tools that the model wants called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub tool_calls: Vec<ToolCall>,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// Who answered.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// Tokens.
    pub usage: Usage,
    /// What it cost, in US dollars. Left out where no prices are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// How long it took, in milliseconds.
    pub latency_ms: f64,
    /// How long the first word took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    /// Who was asked, in order. The last one answered.
    pub attempts: Vec<Attempt>,
    /// Whether question and answer are in the user's memory now. Left out where no user was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remembered: Option<bool>,
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// All has been said.
    Stop,
    /// It came to its most tokens.
    Length,
    /// Tools are to be called.
    ToolCalls,
    /// The provider did not let it go on.
    ContentFilter,
    /// The model declines to answer.
    Refusal,
    /// The provider paused.
    Paused,
}

/// A tool that a model calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct ToolCall {
    /// The call's id.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 256)))]
    pub id: String,
    /// The tool.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 128)))]
    pub name: String,
    /// The arguments, mostly an object.
    #[serde(default)]
    pub arguments: Value,
    /// The provider's signature, to be sent back with the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Tokens; what a provider does not tell is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Usage {
    /// What was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// What came back, thoughts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// The part of the input that was in the provider's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// The part of the output that was thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

/// Somebody who was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Attempt {
    /// The provider.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// `ok`, or what went wrong.
    pub outcome: &'static str,
}
