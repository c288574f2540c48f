//! Answers, whole and in pieces, in both directions.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::request::{call_to, details};
use crate::fault::Kind;
use crate::llm::chat::{Event, Part, Stop, Usage, Whole};
use crate::llm::json::{add, count, given, list, owned, put, text, unknown};
use crate::llm::refusal::{Refusal, in_stream};

const KNOWN: [&str; 12] = [
    "id",
    "object",
    "created",
    "model",
    "choices",
    "usage",
    "error",
    "system_fingerprint",
    "service_tier",
    "provider",
    "obfuscation",
    "prompt_filter_results",
];

/// Reads the pieces of a streamed answer.
#[derive(Debug)]
pub struct Reader {
    provider: String,
    started: bool,
    /// Calls by the provider's numbers and ids, in the order of ours.
    calls: Vec<(u64, String)>,
    declined: bool,
    stopped: bool,
    over: bool,
}

impl Reader {
    /// A reader of what `provider` says.
    #[must_use]
    pub fn new(provider: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            started: false,
            calls: Vec::new(),
            declined: false,
            stopped: false,
            over: false,
        }
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over || self.stopped
    }

    /// Whether the stream has said that it is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.over
    }

    /// Reads one chunk.
    pub fn push(&mut self, data: &[u8], events: &mut Vec<Event>) {
        if data.trim_ascii() == b"[DONE]" {
            self.over = true;
            return;
        }
        let Ok(chunk) = serde_json::from_slice::<Value>(data) else {
            let message = format!("provider {:?}: a piece of its answer is not JSON", self.provider);
            events.push(Event::Failed(Refusal::new(Kind::UpstreamInvalid, message)));
            return;
        };
        if given(&chunk, "error").is_some() {
            events.push(Event::Failed(in_stream(&self.provider, &chunk)));
            return;
        }
        if !std::mem::replace(&mut self.started, true) {
            events.push(Event::Start { id: owned(&chunk, "id"), model: owned(&chunk, "model") });
        }
        // Other choices are of requests that are passed through.
        for choice in list(&chunk, "choices").iter().filter(|choice| count(choice, "index").unwrap_or(0) == 0)
        {
            if let Some(delta) = choice.get("delta") {
                self.delta(delta, events);
            }
            if let Some(reason) = text(choice, "finish_reason") {
                self.stopped = true;
                events.push(Event::Stop(stop(reason, self.declined)));
            }
        }
        if let Some(usage) = given(&chunk, "usage") {
            events.push(Event::Usage(usage_of(usage)));
        }
        let extra = unknown(&chunk, &KNOWN);
        if !extra.is_empty() {
            events.push(Event::Extra(extra));
        }
    }

    fn delta(&mut self, delta: &Value, events: &mut Vec<Event>) {
        reasoning(delta, events);
        let words = |key: &str| text(delta, key).filter(|text| !text.is_empty()).map(str::to_owned);
        events.extend(words("content").map(Event::Text));
        if let Some(refusal) = words("refusal") {
            self.declined = true;
            events.push(Event::Text(refusal));
        }
        for call in list(delta, "tool_calls") {
            let function = call.get("function").unwrap_or(&Value::Null);
            let number = count(call, "index").unwrap_or(self.calls.len() as u64);
            let id = text(call, "id").filter(|id| !id.is_empty());
            // Another id begins another call, whatever its number: some servers do not count.
            let same = |(known, own): &(u64, String)| *known == number && id.is_none_or(|id| id == own);
            let index = match self.calls.iter().rposition(same) {
                Some(index) => index,
                None => {
                    let index = self.calls.len();
                    let id = id.map_or_else(|| format!("call_{index}"), str::to_owned);
                    self.calls.push((number, id.clone()));
                    events.push(Event::Call {
                        index,
                        id,
                        name: owned(function, "name").unwrap_or_default(),
                        signature: call
                            .pointer("/extra_content/google/thought_signature")
                            .and_then(Value::as_str)
                            .map(str::to_owned),
                    });
                    index
                }
            };
            if let Some(json) = text(function, "arguments").filter(|json| !json.is_empty()) {
                events.push(Event::Arguments { index, json: json.to_owned() });
            }
        }
    }
}

/// Thoughts, in the forms in use. Where a chunk has the same thought in two, one is taken.
fn reasoning(from: &Value, events: &mut Vec<Event>) {
    let plain = text(from, "reasoning_content").or_else(|| text(from, "reasoning"));
    let mut told = false;
    for detail in list(from, "reasoning_details") {
        if let Some(text) = text(detail, "text").or_else(|| text(detail, "summary")) {
            told = true;
            events.push(Event::Reasoning(text.to_owned()));
        }
        if let Some(signature) = text(detail, "signature") {
            events.push(Event::Signature(signature.to_owned()));
        }
        if text(detail, "type") == Some("reasoning.encrypted")
            && let Some(data) = text(detail, "data")
        {
            events.push(Event::Redacted(data.to_owned()));
        }
    }
    if let Some(plain) = plain.filter(|plain| !plain.is_empty() && !told) {
        events.push(Event::Reasoning(plain.to_owned()));
    }
}

/// The pieces of a whole answer.
pub fn whole_from(provider: &str, body: &Value) -> Vec<Event> {
    if given(body, "error").is_some() {
        return vec![Event::Failed(in_stream(provider, body))];
    }
    let Some(choice) = list(body, "choices").first() else {
        let message = format!("provider {provider:?}: its answer has no choices");
        return vec![Event::Failed(Refusal::new(Kind::UpstreamInvalid, message))];
    };
    let message = choice.get("message").unwrap_or(&Value::Null);
    let mut reader = Reader::new(provider);
    let mut events = vec![Event::Start { id: owned(body, "id"), model: owned(body, "model") }];
    reader.delta(message, &mut events);
    let reason = text(choice, "finish_reason").unwrap_or("stop");
    events.push(Event::Stop(stop(reason, reader.declined)));
    events.extend(given(body, "usage").map(|usage| Event::Usage(usage_of(usage))));
    let extra = unknown(body, &KNOWN);
    if !extra.is_empty() {
        events.push(Event::Extra(extra));
    }
    events
}

fn stop(reason: &str, declined: bool) -> Stop {
    match reason {
        "length" => Stop::Length,
        "tool_calls" | "function_call" => Stop::Tools,
        "content_filter" => Stop::Filtered,
        _ if declined => Stop::Declined,
        _ => Stop::End,
    }
}

fn usage_of(usage: &Value) -> Usage {
    let detail = |key: &str, name: &str| usage.get(key).and_then(|details| count(details, name));
    Usage {
        input: count(usage, "prompt_tokens"),
        output: count(usage, "completion_tokens"),
        cached: detail("prompt_tokens_details", "cached_tokens"),
        cache_write: detail("prompt_tokens_details", "cache_write_tokens"),
        reasoning: detail("completion_tokens_details", "reasoning_tokens"),
    }
}

fn usage_to(usage: &Usage) -> Value {
    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
    let mut whole = Map::new();
    whole.insert("prompt_tokens".into(), input.into());
    whole.insert("completion_tokens".into(), output.into());
    whole.insert("total_tokens".into(), input.saturating_add(output).into());
    if usage.cached.is_some() || usage.cache_write.is_some() {
        let mut details = Map::new();
        details.insert("cached_tokens".into(), usage.cached.unwrap_or(0).into());
        put(&mut details, "cache_write_tokens", usage.cache_write);
        whole.insert("prompt_tokens_details".into(), details.into());
    }
    if let Some(reasoning) = usage.reasoning {
        whole.insert("completion_tokens_details".into(), json!({ "reasoning_tokens": reasoning }));
    }
    Value::Object(whole)
}

fn reason(stop: Option<&Stop>, called: bool) -> &'static str {
    match stop {
        Some(Stop::Length) => "length",
        Some(Stop::Tools) => "tool_calls",
        Some(Stop::Filtered | Stop::Declined) => "content_filter",
        // Some providers say that they are done where they wait for tools.
        _ if called => "tool_calls",
        _ => "stop",
    }
}

/// A whole answer as a client of this dialect reads it. `id` and `model` are used where the provider gave none;
/// `created` is in seconds.
pub fn whole_to(whole: &Whole, id: &str, model: &str, created: u64) -> Value {
    let (mut words, mut thought) = (String::new(), String::new());
    let mut calls = Vec::new();
    for part in &whole.parts {
        match part {
            Part::Text(text) => words.push_str(text),
            Part::Reasoning { text, .. } => thought.push_str(text),
            Part::Call(call) => calls.push(call_to(call)),
            Part::Redacted(_) | Part::Media(_) | Part::Result { .. } => {}
        }
    }
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = if words.is_empty() && !calls.is_empty() { Value::Null } else { words.into() };
    message.insert("content".into(), content);
    message.insert("refusal".into(), Value::Null);
    if !thought.is_empty() {
        message.insert("reasoning_content".into(), thought.into());
    }
    let details = details(&whole.parts);
    if !details.is_empty() {
        message.insert("reasoning_details".into(), details.into());
    }
    let reason = reason(whole.stop.as_ref(), !calls.is_empty());
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    let mut body = Map::new();
    body.insert("id".into(), whole.id.as_deref().unwrap_or(id).into());
    body.insert("object".into(), "chat.completion".into());
    body.insert("created".into(), created.into());
    body.insert("model".into(), whole.model.as_deref().unwrap_or(model).into());
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason});
    body.insert("choices".into(), vec![choice].into());
    body.insert("usage".into(), usage_to(&whole.usage));
    add(&mut body, &whole.extra);
    Value::Object(body)
}

/// Writes a streamed answer.
#[derive(Debug)]
pub struct Writer {
    id: String,
    model: String,
    created: u64,
    wants_usage: bool,
    began: bool,
    called: bool,
    usage: Usage,
    stop: Option<Stop>,
    extra: Map<String, Value>,
}

impl Writer {
    /// A writer that uses `id` and `model` where the provider gives none; `created` is in seconds.
    #[must_use]
    pub fn new(id: String, model: String, created: u64, wants_usage: bool) -> Self {
        Self {
            id,
            model,
            created,
            wants_usage,
            began: false,
            called: false,
            usage: Usage::default(),
            stop: None,
            extra: Map::new(),
        }
    }

    /// Writes what `event` says.
    pub fn push(&mut self, event: Event, out: &mut BytesMut) {
        match event {
            Event::Start { id, model } => {
                self.id = id.unwrap_or_else(|| std::mem::take(&mut self.id));
                self.model = model.unwrap_or_else(|| std::mem::take(&mut self.model));
                self.begin(out);
            }
            Event::Text(text) => self.delta(json!({ "content": text }), out),
            Event::Reasoning(text) => self.delta(json!({ "reasoning_content": text }), out),
            Event::Signature(signature) => {
                let detail = json!({"type": "reasoning.text", "signature": signature});
                self.delta(json!({ "reasoning_details": [detail] }), out);
            }
            Event::Redacted(data) => {
                let detail = json!({"type": "reasoning.encrypted", "data": data});
                self.delta(json!({ "reasoning_details": [detail] }), out);
            }
            Event::Call { index, id, name, signature } => {
                self.called = true;
                let mut call = json!({
                    "index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""},
                });
                if let (Some(signature), Some(call)) = (signature, call.as_object_mut()) {
                    call.insert("extra_content".into(), json!({"google": {"thought_signature": signature}}));
                }
                self.delta(json!({ "tool_calls": [call] }), out);
            }
            Event::Arguments { index, json: arguments } => {
                let call = json!({"index": index, "function": {"arguments": arguments}});
                self.delta(json!({ "tool_calls": [call] }), out);
            }
            Event::Usage(usage) => self.usage.update(&usage),
            Event::Stop(stop) => self.stop = Some(stop),
            Event::Extra(extra) => self.extra.extend(extra),
            Event::Failed(_) => {}
        }
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.began, true) {
            self.choice(json!({"role": "assistant", "content": ""}), Value::Null, out);
        }
    }

    fn delta(&mut self, delta: Value, out: &mut BytesMut) {
        self.begin(out);
        self.choice(delta, Value::Null, out);
    }

    fn choice(&mut self, delta: Value, reason: Value, out: &mut BytesMut) {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
        let mut chunk = self.chunk(vec![choice]);
        if self.wants_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        write(&chunk.into(), out);
    }

    fn chunk(&self, choices: Vec<Value>) -> Map<String, Value> {
        let mut chunk = Map::new();
        chunk.insert("id".into(), self.id.as_str().into());
        chunk.insert("object".into(), "chat.completion.chunk".into());
        chunk.insert("created".into(), self.created.into());
        chunk.insert("model".into(), self.model.as_str().into());
        chunk.insert("choices".into(), choices.into());
        chunk
    }

    /// Writes the end of an answer that is whole.
    pub fn end(&mut self, out: &mut BytesMut) {
        self.begin(out);
        let reason = reason(self.stop.as_ref(), self.called);
        let choice = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": reason});
        let mut chunk = self.chunk(vec![choice]);
        if self.wants_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        add(&mut chunk, &self.extra);
        write(&chunk.into(), out);
        if self.wants_usage {
            let mut chunk = self.chunk(Vec::new());
            chunk.insert("usage".into(), usage_to(&self.usage));
            write(&chunk.into(), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }
}

fn write(chunk: &Value, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(chunk.to_string().as_bytes());
    out.put_slice(b"\n\n");
}

/// An error as it stands in a stream of this dialect.
pub(in crate::llm) fn failure(error: &Bytes, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    out.put_slice(error);
    out.put_slice(b"\n\n");
}
