//! Answers, whole and in pieces.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::frames::Frame;
use crate::fault::Kind;
use crate::llm::chat::{Event, Stop, Usage};
use crate::llm::json::{count, given, list, owned, text, unknown};
use crate::llm::refusal::{Refusal, Words, sorted};

const KNOWN: [&str; 4] = ["output", "stopReason", "usage", "metrics"];

/// Reads the frames of a streamed answer.
#[derive(Debug)]
pub struct Reader {
    provider: String,
    /// The provider's block that each of our calls is.
    calls: Vec<u64>,
    stopped: bool,
}

impl Reader {
    /// A reader of what `provider` says.
    #[must_use]
    pub fn new(provider: &str) -> Self {
        Self { provider: provider.to_owned(), calls: Vec::new(), stopped: false }
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopped
    }

    /// Reads one frame.
    pub fn push(&mut self, frame: &Frame, events: &mut Vec<Event>) {
        let payload = serde_json::from_slice::<Value>(&frame.payload);
        if frame.message_type != "event" {
            let payload = payload.unwrap_or_default();
            let mut words = Words::of(&payload);
            words.names.push(&frame.name);
            let status = status_of(&frame.name);
            let refusal = sorted(&self.provider, status, &HeaderMap::new(), &words);
            events.push(Event::Failed(refusal));
            return;
        }
        let Ok(event) = payload else {
            let message = format!("provider {:?}: a piece of its answer is not JSON", self.provider);
            events.push(Event::Failed(Refusal::new(Kind::UpstreamInvalid, message)));
            return;
        };
        let block = count(&event, "contentBlockIndex").unwrap_or_default();
        match frame.name.as_str() {
            "messageStart" => events.push(Event::Start { id: None, model: None }),
            "contentBlockStart" => {
                if let Some(call) = event.get("start").and_then(|start| given(start, "toolUse")) {
                    self.call(call, block, events);
                }
            }
            "contentBlockDelta" => {
                let delta = event.get("delta").unwrap_or(&Value::Null);
                if let Some(text) = text(delta, "text").filter(|text| !text.is_empty()) {
                    events.push(Event::Text(text.to_owned()));
                }
                if let Some(thought) = given(delta, "reasoningContent") {
                    reasoning(thought, events);
                }
                let input = delta.get("toolUse").and_then(|call| text(call, "input"));
                let index = self.calls.iter().position(|own| *own == block);
                if let (Some(input), Some(index)) = (input.filter(|input| !input.is_empty()), index) {
                    events.push(Event::Arguments { index, json: input.to_owned() });
                }
            }
            "messageStop" => {
                self.stopped = true;
                let reason = text(&event, "stopReason").unwrap_or_default();
                events.push(stop(&self.provider, reason));
            }
            "metadata" => {
                events.extend(given(&event, "usage").map(|usage| Event::Usage(usage_of(usage))));
                let extra = unknown(&event, &KNOWN);
                if !extra.is_empty() {
                    events.push(Event::Extra(extra));
                }
            }
            // `contentBlockStop`, and what comes later.
            _ => {}
        }
    }

    fn call(&mut self, call: &Value, block: u64, events: &mut Vec<Event>) {
        let index = self.calls.len();
        self.calls.push(block);
        events.push(Event::Call {
            index,
            id: owned(call, "toolUseId").unwrap_or_else(|| format!("tooluse_{index}")),
            name: owned(call, "name").unwrap_or_default(),
            signature: None,
        });
        if let Some(input) = given(call, "input") {
            events.push(Event::Arguments { index, json: input.to_string() });
        }
    }
}

fn reasoning(thought: &Value, events: &mut Vec<Event>) {
    // In a whole answer the text is one step further in.
    let inner = given(thought, "reasoningText").unwrap_or(thought);
    let words = |key: &str| text(inner, key).filter(|text| !text.is_empty()).map(str::to_owned);
    events.extend(words("text").map(Event::Reasoning));
    events.extend(words("signature").map(Event::Signature));
    events.extend(words("redactedContent").map(Event::Redacted));
}

/// The pieces of a whole answer.
pub fn whole_from(provider: &str, body: &Value) -> Vec<Event> {
    let Some(message) = body.get("output").and_then(|output| given(output, "message")) else {
        let message = format!("provider {provider:?}: its answer has no message");
        return vec![Event::Failed(Refusal::new(Kind::UpstreamInvalid, message))];
    };
    let mut reader = Reader::new(provider);
    let mut events = vec![Event::Start { id: None, model: None }];
    for (block, index) in list(message, "content").iter().zip(0..) {
        events.extend(owned(block, "text").map(Event::Text));
        if let Some(thought) = given(block, "reasoningContent") {
            reasoning(thought, &mut events);
        }
        if let Some(call) = given(block, "toolUse") {
            reader.call(call, index, &mut events);
        }
    }
    events.extend(given(body, "usage").map(|usage| Event::Usage(usage_of(usage))));
    events.push(stop(provider, text(body, "stopReason").unwrap_or("end_turn")));
    let extra = unknown(body, &KNOWN);
    if !extra.is_empty() {
        events.push(Event::Extra(extra));
    }
    events
}

fn stop(provider: &str, reason: &str) -> Event {
    Event::Stop(match reason {
        "max_tokens" | "model_context_window_exceeded" => Stop::Length,
        "tool_use" => Stop::Tools,
        "stop_sequence" => Stop::Sequence(None),
        "guardrail_intervened" | "content_filtered" => Stop::Filtered,
        "malformed_model_output" | "malformed_tool_use" => {
            let message = format!("provider {provider:?}: the model failed ({reason})");
            return Event::Failed(Refusal::new(Kind::UpstreamInvalid, message));
        }
        _ => Stop::End,
    })
}

fn usage_of(usage: &Value) -> Usage {
    let cached = count(usage, "cacheReadInputTokens");
    let written = count(usage, "cacheWriteInputTokens");
    // Here `inputTokens` are those alone that no cache had a part in.
    let input = count(usage, "inputTokens")
        .map(|fresh| fresh.saturating_add(cached.unwrap_or(0)).saturating_add(written.unwrap_or(0)));
    Usage { input, output: count(usage, "outputTokens"), cached, cache_write: written, reasoning: None }
}

/// The HTTP status that an exception would have had at the beginning of an answer (ConverseStream, "Errors").
fn status_of(exception: &str) -> StatusCode {
    match exception.to_ascii_lowercase().as_str() {
        "throttlingexception" => StatusCode::TOO_MANY_REQUESTS,
        "validationexception" => StatusCode::BAD_REQUEST,
        "serviceunavailableexception" => StatusCode::SERVICE_UNAVAILABLE,
        "modeltimeoutexception" => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
