//! Ollama's own API: `/api/chat`, `/api/tags`, `/api/embed`.
//!
//! Source: docs.ollama.com/api/chat and github.com/ollama/ollama, docs/api.md. A stream is lines of JSON.

use serde_json::{Map, Value, json};

use super::chat::{
    Chat, Choice, Event, Format, Media, Part, Role, Source, Stop, Thinking, Tool, Usage, object,
};
use super::json::{add, count, given, list, owned, put, text, unknown};
use super::refusal::{Refusal, in_stream};
use crate::fault::Kind;

const KNOWN: [&str; 12] = [
    "model",
    "created_at",
    "message",
    "done",
    "done_reason",
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
    "error",
];

/// Writes a request.
///
/// # Errors
/// When it holds what this dialect cannot.
pub fn encode(chat: &Chat) -> Result<Value, Refusal> {
    let mut body = Map::new();
    body.insert("model".into(), chat.model.clone().into());
    body.insert("messages".into(), messages(chat)?.into());
    if !chat.tools.is_empty() && chat.choice != Some(Choice::None) {
        body.insert("tools".into(), chat.tools.iter().map(tool).collect());
    }
    match &chat.format {
        Format::Text => {}
        Format::Json => _ = body.insert("format".into(), "json".into()),
        Format::Schema { schema, .. } => _ = body.insert("format".into(), schema.clone()),
    }
    match &chat.thinking {
        None => {}
        Some(Thinking::Off) => _ = body.insert("think".into(), false.into()),
        // One family of models takes a word, all others a yes.
        Some(thinking) if chat.model.starts_with("gpt-oss") => {
            put(&mut body, "think", thinking.effort());
        }
        Some(_) => _ = body.insert("think".into(), true.into()),
    }
    let mut options = Map::new();
    put(&mut options, "num_predict", chat.max_tokens);
    put(&mut options, "temperature", chat.temperature.clone());
    put(&mut options, "top_p", chat.top_p.clone());
    put(&mut options, "top_k", chat.top_k.clone());
    add(&mut options, &chat.tuning);
    if !chat.stop.is_empty() {
        options.insert("stop".into(), chat.stop.clone().into());
    }
    if let Some(Value::Object(given)) = chat.extra.get("options") {
        add(&mut options, given);
    }
    if !options.is_empty() {
        body.insert("options".into(), options.into());
    }
    // It streams unless it is told not to.
    body.insert("stream".into(), chat.stream.into());
    add(&mut body, &chat.extra);
    Ok(Value::Object(body))
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool.name.clone().into());
    put(&mut function, "description", tool.description.clone());
    function.insert("parameters".into(), tool.schema.clone());
    json!({"type": "function", "function": function})
}

fn messages(chat: &Chat) -> Result<Vec<Value>, Refusal> {
    let mut messages = Vec::new();
    if !chat.system.is_empty() {
        messages.push(json!({"role": "system", "content": chat.system.join("\n\n")}));
    }
    for turn in &chat.turns {
        let (mut words, mut thought) = (Vec::new(), Vec::new());
        let (mut images, mut calls) = (Vec::new(), Vec::new());
        for part in &turn.parts {
            match part {
                Part::Text(text) => words.push(text.as_str()),
                Part::Media(media) => images.push(image(media)?),
                Part::Reasoning { text, .. } => thought.push(text.as_str()),
                Part::Redacted(_) => {}
                Part::Call(call) => {
                    calls.push(json!({
                        "id": call.id, "function": {"name": call.name, "arguments": object(&call.arguments)},
                    }));
                }
                Part::Result { id, parts, failed } => {
                    messages.push(result(chat, id, parts, *failed, &mut images)?)
                }
            }
        }
        if words.is_empty() && images.is_empty() && calls.is_empty() {
            continue;
        }
        let mut message = Map::new();
        let role = if turn.role == Role::User { "user" } else { "assistant" };
        message.insert("role".into(), role.into());
        message.insert("content".into(), words.join("\n").into());
        if !thought.is_empty() {
            message.insert("thinking".into(), thought.join("\n").into());
        }
        if !images.is_empty() {
            message.insert("images".into(), images.into());
        }
        if !calls.is_empty() {
            message.insert("tool_calls".into(), calls.into());
        }
        messages.push(message.into());
    }
    Ok(messages)
}

fn result(
    chat: &Chat,
    id: &str,
    parts: &[Part],
    failed: bool,
    images: &mut Vec<Value>,
) -> Result<Value, Refusal> {
    let mut words = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => words.push(text.as_str()),
            Part::Media(media) => images.push(image(media)?),
            _ => {}
        }
    }
    let words = words.join("\n");
    let content = if failed { format!("Error: {words}") } else { words };
    let mut calls = chat.turns.iter().flat_map(|turn| &turn.parts).filter_map(|part| match part {
        Part::Call(call) if call.id == id => Some(call.name.as_str()),
        _ => None,
    });
    let name = calls.next_back().unwrap_or_default();
    Ok(json!({"role": "tool", "tool_name": name, "tool_call_id": id, "content": content}))
}

fn image(media: &Media) -> Result<Value, Refusal> {
    match &media.source {
        Source::Base64(data) if media.is_image() => Ok(data.clone().into()),
        Source::Base64(_) => Err(Refusal::wrong("messages", "Ollama takes images only, no other files")),
        Source::Url(_) => {
            Err(Refusal::wrong("messages", "Ollama does not fetch images: send the image as a data: URL"))
        }
    }
}

/// Reads the lines of a streamed answer.
#[derive(Debug)]
pub struct Reader {
    provider: String,
    started: bool,
    /// When the answer began, in digits: it keeps the ids of its calls apart from those of others.
    at: String,
    calls: usize,
    stopped: bool,
}

impl Reader {
    /// A reader of what `provider` says.
    #[must_use]
    pub fn new(provider: &str) -> Self {
        Self { provider: provider.to_owned(), started: false, at: String::new(), calls: 0, stopped: false }
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopped
    }

    /// Reads one line.
    pub fn push(&mut self, data: &[u8], events: &mut Vec<Event>) {
        match serde_json::from_slice::<Value>(data) {
            Ok(line) => self.line(&line, events),
            Err(_) => {
                let message = format!("provider {:?}: a piece of its answer is not JSON", self.provider);
                events.push(Event::Failed(Refusal::new(Kind::UpstreamInvalid, message)));
            }
        }
    }

    fn line(&mut self, line: &Value, events: &mut Vec<Event>) {
        if given(line, "error").is_some() {
            events.push(Event::Failed(in_stream(&self.provider, line)));
            return;
        }
        if !std::mem::replace(&mut self.started, true) {
            let at = text(line, "created_at").unwrap_or_default();
            self.at = at.chars().filter(char::is_ascii_digit).take(24).collect();
            events.push(Event::Start { id: None, model: owned(line, "model") });
        }
        let message = line.get("message").unwrap_or(&Value::Null);
        let words = |key: &str| text(message, key).filter(|text| !text.is_empty()).map(str::to_owned);
        events.extend(words("thinking").map(Event::Reasoning));
        events.extend(words("content").map(Event::Text));
        for call in list(message, "tool_calls") {
            let index = self.calls;
            self.calls += 1;
            let function = call.get("function").unwrap_or(&Value::Null);
            let name = owned(function, "name").unwrap_or_default();
            let id = owned(call, "id").unwrap_or_else(|| format!("call_{}_{index}", self.at));
            events.push(Event::Call { index, id, name, signature: None });
            let arguments = given(function, "arguments").map_or_else(|| "{}".to_owned(), ToString::to_string);
            events.push(Event::Arguments { index, json: arguments });
        }
        if line.get("done") == Some(&Value::Bool(true)) {
            self.stopped = true;
            events.push(Event::Usage(Usage {
                input: count(line, "prompt_eval_count"),
                output: count(line, "eval_count"),
                ..Usage::default()
            }));
            events.push(Event::Stop(match text(line, "done_reason") {
                Some("length") => Stop::Length,
                _ if self.calls > 0 => Stop::Tools,
                _ => Stop::End,
            }));
        }
        let extra = unknown(line, &KNOWN);
        if !extra.is_empty() {
            events.push(Event::Extra(extra));
        }
    }
}

/// The pieces of a whole answer.
pub fn whole_from(provider: &str, body: &Value) -> Vec<Event> {
    let mut reader = Reader::new(provider);
    let mut events = Vec::new();
    reader.line(body, &mut events);
    if !reader.is_over() && !events.iter().any(|event| matches!(event, Event::Failed(_))) {
        let message = format!("provider {provider:?}: its answer is not finished");
        events.push(Event::Failed(Refusal::new(Kind::UpstreamInvalid, message)));
    }
    events
}
