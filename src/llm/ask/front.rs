//! What a model says, as `/ask` tells it: the same from every provider.

use bytes::{BufMut as _, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};

use super::types::{Answer, FinishReason, ToolCall, Usage};
use crate::llm::chat::{Event, Gather, Part, Stop, Whole};

/// A whole answer. Who gave it, at what price and when is filled in [later](super::Asking).
pub(in crate::llm) fn whole(whole: &Whole, id: &str, model: &str) -> Value {
    let mut answer = Answer {
        id: id.to_owned(),
        text: String::new(),
        reasoning: String::new(),
        data: None,
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
        provider: String::new(),
        model: model.to_owned(),
        usage: Usage {
            input_tokens: whole.usage.input,
            output_tokens: whole.usage.output,
            cached_tokens: whole.usage.cached,
            reasoning_tokens: whole.usage.reasoning,
        },
        cost: None,
        latency_ms: 0.0,
        first_token_ms: None,
        attempts: Vec::new(),
        remembered: None,
    };
    for part in &whole.parts {
        match part {
            Part::Text(text) => answer.text.push_str(text),
            Part::Reasoning { text, .. } => answer.reasoning.push_str(text),
            Part::Call(call) => answer.tool_calls.push(ToolCall {
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
                signature: call.signature.clone(),
            }),
            Part::Media(_) | Part::Redacted(_) | Part::Result { .. } => {}
        }
    }
    answer.finish_reason = match &whole.stop {
        Some(Stop::Length) => FinishReason::Length,
        Some(Stop::Filtered) => FinishReason::ContentFilter,
        Some(Stop::Declined) => FinishReason::Refusal,
        Some(Stop::Paused) => FinishReason::Paused,
        // Some providers call it an ordinary end.
        _ if !answer.tool_calls.is_empty() => FinishReason::ToolCalls,
        Some(Stop::End | Stop::Sequence(_) | Stop::Tools) | None => FinishReason::Stop,
    };
    serde_json::to_value(&answer).unwrap_or_default()
}

/// Writes a streamed answer: pieces as they come, and at the end all of it once more.
#[derive(Debug)]
pub struct Writer {
    id: String,
    model: String,
    gather: Gather,
    bytes: usize,
}

/// How much of an answer is told once more at its end.
const MOST: usize = 8 * 1024 * 1024;

impl Writer {
    pub(in crate::llm) fn new(id: String, model: String) -> Self {
        Self { id, model, gather: Gather::default(), bytes: 0 }
    }

    pub(in crate::llm) fn push(&mut self, event: Event, out: &mut BytesMut) {
        let before = out.len();
        match &event {
            Event::Text(text) if !text.is_empty() => write("text", &json!({ "text": text }), out),
            Event::Reasoning(text) if !text.is_empty() => write("reasoning", &json!({ "text": text }), out),
            Event::Call { index, id, name, .. } => {
                write("tool_call", &json!({"index": index, "id": id, "name": name}), out);
            }
            Event::Arguments { index, json } if !json.is_empty() => {
                write("arguments", &json!({"index": index, "json": json}), out);
            }
            _ => {}
        }
        self.bytes += out.len() - before;
        if self.bytes <= MOST || matches!(event, Event::Usage(_) | Event::Stop(_)) {
            // A failure never comes here.
            let _ = self.gather.push(event);
        }
    }

    pub(in crate::llm) fn end(&mut self, out: &mut BytesMut) {
        let said = std::mem::take(&mut self.gather).whole();
        write("done", &whole(&said, &self.id, &self.model), out);
    }
}

/// An event of the stream.
pub(super) fn write(name: &str, data: &impl Serialize, out: &mut BytesMut) {
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\ndata: ");
    out.put_slice(&serde_json::to_vec(data).unwrap_or_default());
    out.put_slice(b"\n\n");
}
