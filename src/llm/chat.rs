//! A conversation with a model, as no single provider writes it: what every dialect is read into and written from.
//!
//! Reading never loses what it does not know: unknown members go along in [`Chat::extra`] and [`Event::Extra`].
//! What a dialect has no word for is left out when it is only a wish, and named in [`Chat::dropped`].

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// What is asked of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    /// The model.
    pub model: String,
    /// Instructions.
    pub system: Vec<String>,
    /// What was said so far.
    pub turns: Vec<Turn>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must.
    pub choice: Option<Choice>,
    /// Whether it may call several tools at once.
    pub parallel: Option<bool>,
    /// The most tokens to answer with.
    pub max_tokens: Option<u64>,
    /// How freely it chooses words.
    pub temperature: Option<Value>,
    /// The same, by probability.
    pub top_p: Option<Value>,
    /// The same, by rank.
    pub top_k: Option<Value>,
    /// `seed`, `presence_penalty` and `frequency_penalty`, where given.
    pub tuning: Map<String, Value>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// What the answer must look like.
    pub format: Format,
    /// How much it may think before it answers.
    pub thinking: Option<Thinking>,
    /// Whether the answer is wanted as it comes.
    pub stream: bool,
    /// Whether an OpenAI client wants the usage at the end of a stream.
    pub wants_usage: bool,
    /// Whom the request is for, as the caller names them.
    pub user: Option<String>,
    /// Members that are none of the dialect's own.
    pub extra: Map<String, Value>,
    /// Wishes that are not passed on.
    pub dropped: Vec<&'static str>,
}

impl Chat {
    /// Whether tools were called or have answered so far.
    #[must_use]
    pub fn has_called(&self) -> bool {
        let tool = |part: &Part| matches!(part, Part::Call(_) | Part::Result { .. });
        self.turns.iter().flat_map(|turn| &turn.parts).any(tool)
    }

    /// Whether the model may go on thinking: Claude does so between calls of tools only if it is given back what it
    /// thought before the last of them, as it was signed (Extended thinking, "Preserving thinking blocks").
    #[must_use]
    pub fn may_go_on_thinking(&self) -> bool {
        let last = self.turns.iter().rev().find(|turn| turn.role == Role::Assistant);
        last.is_none_or(|turn| {
            let thought =
                |part: &Part| matches!(part, Part::Reasoning { signature: Some(_), .. } | Part::Redacted(_));
            !turn.parts.iter().any(|part| matches!(part, Part::Call(_))) || turn.parts.iter().any(thought)
        })
    }
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one who asks; results of tools come from here, too.
    User,
    /// The model.
    Assistant,
}

/// What one side says at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Who.
    pub role: Role,
    /// What.
    pub parts: Vec<Part>,
}

/// A part of what is said.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Words.
    Text(String),
    /// An image, a document, a sound.
    Media(Media),
    /// What the model thought, with its provider's signature.
    Reasoning {
        /// The thought.
        text: String,
        /// Proves to the provider that it is its own.
        signature: Option<String>,
    },
    /// What the model thought, where only its provider can read it.
    Redacted(String),
    /// The model calls a tool.
    Call(Call),
    /// What a tool answered.
    Result {
        /// The call's id.
        id: String,
        /// The answer: words and media.
        parts: Vec<Part>,
        /// Whether the tool failed.
        failed: bool,
    },
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The arguments, mostly an object.
    pub arguments: Value,
    /// The provider's signature of the thought that led to it (Gemini).
    pub signature: Option<String>,
}

/// An image, a document, a sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Its media type, such as `image/png`. Empty if only its place is known.
    pub kind: String,
    /// Its file name, if it has one.
    pub name: Option<String>,
    /// The bytes, or where they are.
    pub source: Source,
}

/// Where the bytes of a [`Media`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Here, as base64.
    Base64(String),
    /// At a URL, for the provider to read.
    Url(String),
}

impl Media {
    /// Whether it is an image, as far as that is known: what is only a URL is mostly one.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.kind.is_empty() || self.kind.starts_with("image/")
    }

    /// What a URL stands for: the bytes themselves, if it is a `data:` URL.
    #[must_use]
    pub fn of_url(url: &str) -> Self {
        if let Some(rest) = url.strip_prefix("data:")
            && let Some((kind, data)) = rest.split_once(";base64,")
        {
            let kind = kind.split(';').next().unwrap_or_default().to_owned();
            return Self { kind, name: None, source: Source::Base64(data.to_owned()) };
        }
        Self { kind: String::new(), name: None, source: Source::Url(url.to_owned()) }
    }

    /// It as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.source {
            Source::Url(url) => url.clone(),
            Source::Base64(data) => format!("data:{};base64,{data}", self.kind),
        }
    }
}

/// Something that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    pub schema: Value,
    /// Whether the arguments must fit the schema to the letter.
    pub strict: Option<bool>,
}

/// Whether a tool must be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// As the model likes.
    Auto,
    /// None.
    None,
    /// Some tool.
    Any,
    /// This one.
    Tool(String),
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Format {
    /// Words.
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON that fits a schema.
    Schema {
        /// The schema's name.
        name: String,
        /// What it is for.
        description: Option<String>,
        /// The schema.
        schema: Value,
        /// Whether it must fit to the letter.
        strict: Option<bool>,
    },
}

/// How much a model may think before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thinking {
    /// Not at all.
    Off,
    /// As much as it finds right.
    Adaptive,
    /// In one word: `minimal`, `low`, `medium`, `high`, or what a provider makes of another.
    Effort(String),
    /// So many tokens.
    Budget(u64),
}

impl Thinking {
    /// It in tokens.
    #[must_use]
    pub fn budget(&self) -> Option<u64> {
        match self {
            Self::Off => Some(0),
            Self::Adaptive => None,
            Self::Budget(tokens) => Some(*tokens),
            Self::Effort(effort) => Some(match effort.as_str() {
                "none" => 0,
                "minimal" => 1024,
                "low" => 2048,
                "medium" => 8192,
                "high" => 16384,
                _ => 24576,
            }),
        }
    }

    /// It in one word.
    #[must_use]
    pub fn effort(&self) -> Option<&str> {
        match self {
            Self::Adaptive => None,
            Self::Off => Some("none"),
            Self::Effort(effort) => Some(effort),
            Self::Budget(tokens) => Some(match tokens {
                0 => "none",
                1..=1024 => "minimal",
                1025..=4096 => "low",
                4097..=12288 => "medium",
                _ => "high",
            }),
        }
    }
}

/// What a provider says, piece by piece. A whole answer is the same pieces, larger.
#[derive(Debug, Clone)]
pub enum Event {
    /// The answer begins.
    Start {
        /// The provider's id of it.
        id: Option<String>,
        /// The model that answers.
        model: Option<String>,
    },
    /// Words.
    Text(String),
    /// Thoughts.
    Reasoning(String),
    /// The signature of the thoughts before it.
    Signature(String),
    /// Thoughts that only the provider can read.
    Redacted(String),
    /// A tool is called. Calls are numbered from 0.
    Call {
        /// Which call of the answer.
        index: usize,
        /// Its id.
        id: String,
        /// The tool.
        name: String,
        /// The provider's signature of the thought that led to it.
        signature: Option<String>,
    },
    /// More of the arguments of a call, as JSON text.
    Arguments {
        /// Which call of the answer.
        index: usize,
        /// The next piece of the text.
        json: String,
    },
    /// What was used so far. What is `Some` replaces what was known.
    Usage(Usage),
    /// The model is done.
    Stop(Stop),
    /// Members that are none of the dialect's own.
    Extra(Map<String, Value>),
    /// The provider fails in the middle.
    Failed(Refusal),
}

impl Event {
    /// Whether a caller who has been given this has heard something of the answer.
    #[must_use]
    pub fn is_content(&self) -> bool {
        match self {
            Self::Text(text) | Self::Reasoning(text) => !text.is_empty(),
            Self::Signature(_) | Self::Redacted(_) | Self::Call { .. } | Self::Stop(_) => true,
            Self::Arguments { json, .. } => !json.is_empty(),
            Self::Start { .. } | Self::Usage(_) | Self::Extra(_) | Self::Failed(_) => false,
        }
    }
}

/// Why a model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It was done.
    End,
    /// It came to one of the texts that end the answer; some providers say to which.
    Sequence(Option<String>),
    /// No more tokens were allowed.
    Length,
    /// It wants tools to be called.
    Tools,
    /// The provider does not let it go on.
    Filtered,
    /// It declines to answer.
    Declined,
    /// The provider pauses: send the answer back to let it go on (Anthropic).
    Paused,
}

/// Tokens. `input` counts everything that was sent, `output` everything that came, thoughts included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// What was sent.
    pub input: Option<u64>,
    /// What came back.
    pub output: Option<u64>,
    /// The part of `input` that was in the provider's cache.
    pub cached: Option<u64>,
    /// The part of `input` that was put into the provider's cache.
    pub cache_write: Option<u64>,
    /// The part of `output` that was thought.
    pub reasoning: Option<u64>,
}

impl Usage {
    /// Takes what is known newly.
    pub fn update(&mut self, newer: &Self) {
        let take = |old: &mut Option<u64>, new: Option<u64>| *old = new.or(*old);
        take(&mut self.input, newer.input);
        take(&mut self.output, newer.output);
        take(&mut self.cached, newer.cached);
        take(&mut self.cache_write, newer.cache_write);
        take(&mut self.reasoning, newer.reasoning);
    }

    /// These and those together.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        Self {
            input: sum(self.input, more.input),
            output: sum(self.output, more.output),
            cached: sum(self.cached, more.cached),
            cache_write: sum(self.cache_write, more.cache_write),
            reasoning: sum(self.reasoning, more.reasoning),
        }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Whole {
    /// The provider's id of it.
    pub id: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// What it said: words, thoughts, calls.
    pub parts: Vec<Part>,
    /// What it used.
    pub usage: Usage,
    /// Why it stopped.
    pub stop: Option<Stop>,
    /// Members that are none of the dialect's own.
    pub extra: Map<String, Value>,
}

impl Whole {
    /// The answer that `events` make.
    ///
    /// # Errors
    /// The refusal that is among them.
    pub fn of(events: impl IntoIterator<Item = Event>) -> Result<Self, Refusal> {
        let mut whole = Self::default();
        // The text of the arguments of each call, with the call's place among the parts.
        let mut arguments: Vec<(usize, usize, String)> = Vec::new();
        for event in events {
            match event {
                Event::Start { id, model } => {
                    whole.id = id.or(whole.id);
                    whole.model = model.or(whole.model);
                }
                Event::Text(more) => match whole.parts.last_mut() {
                    Some(Part::Text(text)) => text.push_str(&more),
                    _ if more.is_empty() => {}
                    _ => whole.parts.push(Part::Text(more)),
                },
                Event::Reasoning(more) => match whole.parts.last_mut() {
                    Some(Part::Reasoning { text, signature: None }) => text.push_str(&more),
                    _ if more.is_empty() => {}
                    _ => whole.parts.push(Part::Reasoning { text: more, signature: None }),
                },
                Event::Signature(more) => match whole.parts.last_mut() {
                    Some(Part::Reasoning { signature, .. }) => {
                        signature.get_or_insert_default().push_str(&more);
                    }
                    _ => whole.parts.push(Part::Reasoning { text: String::new(), signature: Some(more) }),
                },
                Event::Redacted(data) => whole.parts.push(Part::Redacted(data)),
                Event::Call { index, id, name, signature } => {
                    arguments.push((index, whole.parts.len(), String::new()));
                    let arguments = Value::Null;
                    whole.parts.push(Part::Call(Call { id, name, arguments, signature }));
                }
                Event::Arguments { index, json } => {
                    if let Some((.., text)) = arguments.iter_mut().rev().find(|(own, ..)| *own == index) {
                        text.push_str(&json);
                    }
                }
                Event::Usage(usage) => whole.usage.update(&usage),
                Event::Stop(stop) => whole.stop = Some(stop),
                Event::Extra(extra) => whole.extra.extend(extra),
                Event::Failed(refusal) => return Err(refusal),
            }
        }
        for (_, place, text) in arguments {
            if let Some(Part::Call(call)) = whole.parts.get_mut(place) {
                call.arguments = parsed(&text);
            }
        }
        Ok(whole)
    }
}

/// Arguments as JSON: an empty text is no arguments, and a text that is no JSON stays the text that it is.
#[must_use]
pub fn parsed(text: &str) -> Value {
    if text.trim().is_empty() {
        return Value::Object(Map::new());
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Arguments as the text that a model wrote.
#[must_use]
pub fn unparsed(arguments: &Value) -> String {
    match arguments {
        Value::Null => "{}".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same, where only an object is taken.
#[must_use]
pub fn object(arguments: &Value) -> Value {
    match arguments {
        Value::Object(_) => arguments.clone(),
        Value::Null => Value::Object(Map::new()),
        other => Value::Object(Map::from_iter([("input".to_owned(), other.clone())])),
    }
}
