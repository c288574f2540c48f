//! Answers, whole and in pieces, in both directions.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::request::call_to;
use crate::fault::Kind;
use crate::llm::chat::{Event, Part, Stop, Usage, Whole, unparsed};
use crate::llm::json::{add, count, given, list, owned, text, unknown};
use crate::llm::refusal::{Refusal, in_stream};

const KNOWN: [&str; 9] =
    ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage", "container"];

/// Reads the pieces of a streamed answer.
#[derive(Debug)]
pub struct Reader {
    provider: String,
    /// The provider's block that each of our calls is.
    calls: Vec<u64>,
    stopped: bool,
    over: bool,
}

impl Reader {
    /// A reader of what `provider` says.
    #[must_use]
    pub fn new(provider: &str) -> Self {
        Self { provider: provider.to_owned(), calls: Vec::new(), stopped: false, over: false }
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

    /// Reads the data of one event.
    pub fn push(&mut self, data: &[u8], events: &mut Vec<Event>) {
        let Ok(event) = serde_json::from_slice::<Value>(data) else {
            let message = format!("provider {:?}: a piece of its answer is not JSON", self.provider);
            events.push(Event::Failed(Refusal::new(Kind::UpstreamInvalid, message)));
            return;
        };
        let index = count(&event, "index").unwrap_or_default();
        match text(&event, "type") {
            Some("message_start") => {
                let message = event.get("message").unwrap_or(&Value::Null);
                events.push(Event::Start { id: owned(message, "id"), model: owned(message, "model") });
                events.extend(given(message, "usage").map(|usage| Event::Usage(usage_of(usage))));
                let extra = unknown(message, &KNOWN);
                if !extra.is_empty() {
                    events.push(Event::Extra(extra));
                }
            }
            Some("content_block_start") => {
                if let Some(block) = event.get("content_block") {
                    self.block(block, index, events);
                }
            }
            Some("content_block_delta") => {
                let delta = event.get("delta").unwrap_or(&Value::Null);
                let words = |key: &str| text(delta, key).filter(|text| !text.is_empty()).map(str::to_owned);
                match text(delta, "type") {
                    Some("text_delta") => events.extend(words("text").map(Event::Text)),
                    Some("thinking_delta") => events.extend(words("thinking").map(Event::Reasoning)),
                    Some("signature_delta") => events.extend(words("signature").map(Event::Signature)),
                    Some("input_json_delta") => {
                        let call = self.calls.iter().position(|block| *block == index);
                        if let (Some(index), Some(json)) = (call, words("partial_json")) {
                            events.push(Event::Arguments { index, json });
                        }
                    }
                    // Citations and what comes later.
                    _ => {}
                }
            }
            Some("message_delta") => {
                events.extend(given(&event, "usage").map(|usage| Event::Usage(usage_of(usage))));
                let delta = event.get("delta").unwrap_or(&Value::Null);
                if let Some(reason) = text(delta, "stop_reason") {
                    self.stopped = true;
                    events.push(Event::Stop(stop(reason, owned(delta, "stop_sequence"))));
                }
            }
            Some("message_stop") => self.over = true,
            Some("error") => events.push(Event::Failed(in_stream(&self.provider, &event))),
            // `ping`, `content_block_stop`, and what comes later.
            _ => {}
        }
    }

    fn block(&mut self, block: &Value, index: u64, events: &mut Vec<Event>) {
        let words = |key: &str| text(block, key).filter(|text| !text.is_empty()).map(str::to_owned);
        match text(block, "type") {
            Some("text") => events.extend(words("text").map(Event::Text)),
            Some("thinking") => {
                events.extend(words("thinking").map(Event::Reasoning));
                events.extend(words("signature").map(Event::Signature));
            }
            Some("redacted_thinking") => events.extend(words("data").map(Event::Redacted)),
            Some("tool_use") => {
                let call = self.calls.len();
                self.calls.push(index);
                events.push(Event::Call {
                    index: call,
                    id: words("id").unwrap_or_else(|| format!("toolu_{call}")),
                    name: words("name").unwrap_or_default(),
                    signature: words("thought_signature"),
                });
                if let Some(Value::Object(input)) = block.get("input")
                    && !input.is_empty()
                {
                    events.push(Event::Arguments { index: call, json: unparsed(&input.clone().into()) });
                }
            }
            _ => {}
        }
    }
}

/// The pieces of a whole answer.
pub fn whole_from(provider: &str, body: &Value) -> Vec<Event> {
    if text(body, "type") == Some("error") || body.get("content").is_none() {
        if given(body, "error").is_some() {
            return vec![Event::Failed(in_stream(provider, body))];
        }
        let message = format!("provider {provider:?}: its answer has no content");
        return vec![Event::Failed(Refusal::new(Kind::UpstreamInvalid, message))];
    }
    let mut reader = Reader::new(provider);
    let mut events = vec![Event::Start { id: owned(body, "id"), model: owned(body, "model") }];
    for (block, index) in list(body, "content").iter().zip(0..) {
        reader.block(block, index, &mut events);
    }
    events.extend(given(body, "usage").map(|usage| Event::Usage(usage_of(usage))));
    let reason = text(body, "stop_reason").unwrap_or("end_turn");
    events.push(Event::Stop(stop(reason, owned(body, "stop_sequence"))));
    let extra = unknown(body, &KNOWN);
    if !extra.is_empty() {
        events.push(Event::Extra(extra));
    }
    events
}

fn stop(reason: &str, sequence: Option<String>) -> Stop {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Stop::Length,
        "tool_use" => Stop::Tools,
        "stop_sequence" => Stop::Sequence(sequence),
        "refusal" => Stop::Declined,
        "pause_turn" => Stop::Paused,
        _ => Stop::End,
    }
}

fn usage_of(usage: &Value) -> Usage {
    let cached = count(usage, "cache_read_input_tokens");
    let written = count(usage, "cache_creation_input_tokens");
    // Here `input_tokens` are those alone that no cache had a part in.
    let input = count(usage, "input_tokens")
        .map(|fresh| fresh.saturating_add(cached.unwrap_or(0)).saturating_add(written.unwrap_or(0)));
    Usage { input, output: count(usage, "output_tokens"), cached, cache_write: written, reasoning: None }
}

fn usage_to(usage: &Usage) -> Map<String, Value> {
    let (cached, written) = (usage.cached.unwrap_or(0), usage.cache_write.unwrap_or(0));
    let fresh = usage.input.unwrap_or(0).saturating_sub(cached).saturating_sub(written);
    let mut whole = Map::new();
    whole.insert("input_tokens".into(), fresh.into());
    whole.insert("cache_creation_input_tokens".into(), written.into());
    whole.insert("cache_read_input_tokens".into(), cached.into());
    whole.insert("output_tokens".into(), usage.output.unwrap_or(0).into());
    whole
}

fn reason(stop: Option<&Stop>, called: bool) -> (&'static str, Option<&str>) {
    match stop {
        Some(Stop::Length) => ("max_tokens", None),
        Some(Stop::Tools) => ("tool_use", None),
        Some(Stop::Filtered | Stop::Declined) => ("refusal", None),
        Some(Stop::Paused) => ("pause_turn", None),
        Some(Stop::Sequence(sequence)) => ("stop_sequence", sequence.as_deref()),
        // Some providers say that they are done where they wait for tools.
        _ if called => ("tool_use", None),
        _ => ("end_turn", None),
    }
}

/// A whole answer as a client of this dialect reads it. `id` and `model` are used where the provider gave none.
pub fn whole_to(whole: &Whole, id: &str, model: &str) -> Value {
    let block = |part: &Part| {
        Some(match part {
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Reasoning { text, signature } => {
                json!({"type": "thinking", "thinking": text, "signature": signature.as_deref().unwrap_or_default()})
            }
            Part::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
            Part::Call(call) => call_to(call),
            Part::Media(_) | Part::Result { .. } => return None,
        })
    };
    let called = whole.parts.iter().any(|part| matches!(part, Part::Call(_)));
    let (reason, sequence) = reason(whole.stop.as_ref(), called);
    let mut body = Map::new();
    body.insert("id".into(), whole.id.as_deref().unwrap_or(id).into());
    body.insert("type".into(), "message".into());
    body.insert("role".into(), "assistant".into());
    body.insert("model".into(), whole.model.as_deref().unwrap_or(model).into());
    body.insert("content".into(), whole.parts.iter().filter_map(block).collect());
    body.insert("stop_reason".into(), reason.into());
    body.insert("stop_sequence".into(), sequence.map_or(Value::Null, Into::into));
    body.insert("usage".into(), usage_to(&whole.usage).into());
    add(&mut body, &whole.extra);
    Value::Object(body)
}

/// The block that is being written.
#[derive(Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    Call(usize),
}

/// Writes a streamed answer.
#[derive(Debug)]
pub struct Writer {
    id: String,
    model: String,
    began: bool,
    open: Open,
    /// How many blocks there were.
    blocks: u64,
    /// The block that each call is.
    calls: Vec<(usize, u64)>,
    usage: Usage,
    stop: Option<Stop>,
    extra: Map<String, Value>,
}

impl Writer {
    /// A writer that uses `id` and `model` where the provider gives none.
    #[must_use]
    pub fn new(id: String, model: String) -> Self {
        Self {
            id,
            model,
            began: false,
            open: Open::Nothing,
            blocks: 0,
            calls: Vec::new(),
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
            }
            Event::Text(text) => {
                self.open(Open::Text, || json!({"type": "text", "text": ""}), out);
                self.delta(self.blocks, json!({"type": "text_delta", "text": text}), out);
            }
            Event::Reasoning(text) => {
                self.think(out);
                self.delta(self.blocks, json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Event::Signature(signature) => {
                self.think(out);
                self.delta(self.blocks, json!({"type": "signature_delta", "signature": signature}), out);
            }
            Event::Redacted(data) => {
                self.close(out);
                self.begin(out);
                self.start(json!({"type": "redacted_thinking", "data": data}), out);
                self.end_block(out);
            }
            Event::Call { index, id, name, signature } => {
                self.close(out);
                let mut block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                if let (Some(signature), Some(block)) = (signature, block.as_object_mut()) {
                    block.insert("thought_signature".into(), signature.into());
                }
                self.open(Open::Call(index), || block, out);
                self.calls.push((index, self.blocks));
            }
            Event::Arguments { index, json: arguments } => {
                // A piece of an earlier call keeps its number, though its block was closed: readers go by the number.
                let block = self.calls.iter().rev().find(|(own, _)| *own == index).map(|(_, block)| *block);
                if let Some(block) = block {
                    self.delta(block, json!({"type": "input_json_delta", "partial_json": arguments}), out);
                }
            }
            Event::Usage(usage) => self.usage.update(&usage),
            Event::Stop(stop) => self.stop = Some(stop),
            Event::Extra(extra) => self.extra.extend(extra),
            Event::Failed(_) => {}
        }
    }

    fn think(&mut self, out: &mut BytesMut) {
        self.open(Open::Thinking, || json!({"type": "thinking", "thinking": "", "signature": ""}), out);
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.began, true) {
            return;
        }
        let message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage_to(&self.usage),
        });
        write("message_start", &json!({"type": "message_start", "message": message}), out);
    }

    fn open(&mut self, kind: Open, block: impl FnOnce() -> Value, out: &mut BytesMut) {
        if self.open == kind {
            return;
        }
        self.close(out);
        self.begin(out);
        self.start(block(), out);
        self.open = kind;
    }

    fn start(&self, block: Value, out: &mut BytesMut) {
        let event = json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        write("content_block_start", &event, out);
    }

    fn delta(&self, block: u64, delta: Value, out: &mut BytesMut) {
        let event = json!({"type": "content_block_delta", "index": block, "delta": delta});
        write("content_block_delta", &event, out);
    }

    fn close(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.open, Open::Nothing) != Open::Nothing {
            self.end_block(out);
        }
    }

    fn end_block(&mut self, out: &mut BytesMut) {
        write("content_block_stop", &json!({"type": "content_block_stop", "index": self.blocks}), out);
        self.blocks += 1;
    }

    /// Writes the end of an answer that is whole.
    pub fn end(&mut self, out: &mut BytesMut) {
        self.close(out);
        self.begin(out);
        let (reason, sequence) = reason(self.stop.as_ref(), !self.calls.is_empty());
        let mut event = Map::new();
        event.insert("type".into(), "message_delta".into());
        event.insert("delta".into(), json!({"stop_reason": reason, "stop_sequence": sequence}));
        event.insert("usage".into(), usage_to(&self.usage).into());
        add(&mut event, &self.extra);
        write("message_delta", &event.into(), out);
        write("message_stop", &json!({"type": "message_stop"}), out);
    }
}

fn write(name: &str, event: &Value, out: &mut BytesMut) {
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\ndata: ");
    out.put_slice(event.to_string().as_bytes());
    out.put_slice(b"\n\n");
}

/// An error as it stands in a stream of this dialect.
pub(in crate::llm) fn failure(error: &Bytes, out: &mut BytesMut) {
    out.put_slice(b"event: error\ndata: ");
    out.put_slice(error);
    out.put_slice(b"\n\n");
}
