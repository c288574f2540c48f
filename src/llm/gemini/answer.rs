//! Answers, whole and in pieces: the same objects, one or many.

use serde_json::Value;

use crate::fault::Kind;
use crate::llm::chat::{Event, Stop, Usage};
use crate::llm::json::{count, given, list, owned, text, unknown};
use crate::llm::refusal::{Refusal, in_stream, retry_info};

const KNOWN: [&str; 6] =
    ["candidates", "usageMetadata", "modelVersion", "responseId", "promptFeedback", "error"];

/// Reads the pieces of a streamed answer.
#[derive(Debug)]
pub struct Reader {
    provider: String,
    started: bool,
    /// The answer's id.
    id: Option<String>,
    calls: usize,
    stopped: bool,
}

impl Reader {
    /// A reader of what `provider` says.
    #[must_use]
    pub fn new(provider: &str) -> Self {
        Self { provider: provider.to_owned(), started: false, id: None, calls: 0, stopped: false }
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopped
    }

    /// Reads one piece.
    pub fn push(&mut self, data: &[u8], events: &mut Vec<Event>) {
        match serde_json::from_slice::<Value>(data) {
            Ok(piece) => self.piece(&piece, events),
            Err(_) => {
                let message = format!("provider {:?}: a piece of its answer is not JSON", self.provider);
                events.push(Event::Failed(Refusal::new(Kind::UpstreamInvalid, message)));
            }
        }
    }

    fn piece(&mut self, piece: &Value, events: &mut Vec<Event>) {
        if given(piece, "error").is_some() {
            let mut refusal = in_stream(&self.provider, piece);
            refusal.wait = refusal.wait.or_else(|| retry_info(piece));
            events.push(Event::Failed(refusal));
            return;
        }
        if !std::mem::replace(&mut self.started, true) {
            self.id = owned(piece, "responseId");
            events.push(Event::Start { id: self.id.clone(), model: owned(piece, "modelVersion") });
        }
        let blocked = piece.get("promptFeedback").and_then(|feedback| text(feedback, "blockReason"));
        if let Some(why) = blocked {
            let message = format!("provider {:?}: the prompt was blocked ({why})", self.provider);
            events.push(Event::Failed(Refusal::new(Kind::ContentFiltered, message)));
            return;
        }
        let candidate = list(piece, "candidates").first().unwrap_or(&Value::Null);
        for part in candidate.get("content").map_or(&[][..], |content| list(content, "parts")) {
            self.part(part, events);
        }
        if let Some(usage) = given(piece, "usageMetadata") {
            events.push(Event::Usage(usage_of(usage)));
        }
        let extra = unknown(piece, &KNOWN);
        if !extra.is_empty() {
            events.push(Event::Extra(extra));
        }
        if let Some(reason) = text(candidate, "finishReason") {
            self.stopped = true;
            events.push(match stop(reason, self.calls > 0) {
                Some(stop) => Event::Stop(stop),
                None => {
                    let message = format!("provider {:?}: the model failed ({reason})", self.provider);
                    Event::Failed(Refusal::new(Kind::UpstreamInvalid, message))
                }
            });
        }
    }

    fn part(&mut self, part: &Value, events: &mut Vec<Event>) {
        if let Some(call) = given(part, "functionCall") {
            let index = self.calls;
            self.calls += 1;
            let name = owned(call, "name").unwrap_or_default();
            // Most calls have no id; results are told by the name, and ids are ours to keep them apart.
            let answer = self.id.as_deref().unwrap_or_default();
            let id = owned(call, "id").unwrap_or_else(|| format!("call_{answer}_{index}"));
            events.push(Event::Call { index, id, name, signature: owned(part, "thoughtSignature") });
            let arguments = given(call, "args").map_or_else(|| "{}".to_owned(), ToString::to_string);
            events.push(Event::Arguments { index, json: arguments });
            return;
        }
        if let Some(text) = text(part, "text").filter(|text| !text.is_empty()) {
            let thought = part.get("thought").and_then(Value::as_bool).unwrap_or_default();
            events.push(if thought {
                Event::Reasoning(text.to_owned())
            } else {
                Event::Text(text.to_owned())
            });
        }
    }
}

/// The pieces of a whole answer.
pub fn whole_from(provider: &str, body: &Value) -> Vec<Event> {
    let mut reader = Reader::new(provider);
    let mut events = Vec::new();
    reader.piece(body, &mut events);
    if !reader.is_over() && !events.iter().any(|event| matches!(event, Event::Failed(_))) {
        let message = format!("provider {provider:?}: its answer has no finished candidate");
        events.push(Event::Failed(Refusal::new(Kind::UpstreamInvalid, message)));
    }
    events
}

/// Why it stopped; `None` for what is a failure of the model.
fn stop(reason: &str, called: bool) -> Option<Stop> {
    Some(match reason {
        "MAX_TOKENS" => Stop::Length,
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY"
        | "LANGUAGE" => Stop::Filtered,
        "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" => return None,
        _ if called => Stop::Tools,
        _ => Stop::End,
    })
}

fn usage_of(usage: &Value) -> Usage {
    let thought = count(usage, "thoughtsTokenCount");
    // Here the candidates' tokens are those alone that were not thought.
    let output = count(usage, "candidatesTokenCount").or(thought.map(|_| 0));
    Usage {
        input: count(usage, "promptTokenCount"),
        output: output.map(|said| said.saturating_add(thought.unwrap_or(0))),
        cached: count(usage, "cachedContentTokenCount"),
        cache_write: None,
        reasoning: thought,
    }
}
