//! One record for each request: who asked what of whom, what came of it and how long it took.

use std::fmt::Write as _;

use serde::Serialize;

use super::After;
use crate::fault::{Kind, Who};
use crate::llm::Metered;
use crate::llm::team::Stage;
use crate::platform::Platform;
use crate::wire::jsonrpc::quote;

impl<P: Platform> After<P> {
    /// The record as one line of JSON. `micros` is how long it took, `fault` what ended a stream, `cut` whether
    /// the caller went away.
    pub(super) fn record(&self, micros: u64, bytes: u64, fault: Option<Kind>, cut: bool) -> Option<String> {
        let note = &self.note;
        let metered = self.metered.as_deref();
        let fault = fault.or_else(|| metered.and_then(|metered| metered.fault));
        let kind = fault.or_else(|| note.fault.as_ref().map(|fault| fault.kind));
        let (outcome, level) = match kind.map(Kind::row) {
            Some(row) => (row.label, if row.who == Who::Ours { "error" } else { "warn" }),
            None if cut => ("gone", "info"),
            None => ("ok", "info"),
        };
        let caller = self.caller.as_ref().map(|caller| caller.name.as_str()).filter(|name| !name.is_empty());
        let mut line = Line(String::with_capacity(512));
        line.number("ts", self.began.0);
        line.text("level", level);
        line.text("event", "request");
        line.text("request_id", &self.request_id);
        line.text("http", self.http.as_str());
        line.text("endpoint", self.endpoint);
        line.number("status", u64::from(self.status.as_u16()));
        let named = [
            ("caller", caller),
            ("method", note.method.as_deref()),
            ("server", note.server.as_deref()),
            ("name", note.name.as_deref()),
            ("revision", note.revision),
            ("outcome", Some(outcome)),
            ("error", note.fault.as_ref().map(|fault| fault.message.as_str())),
        ];
        named.into_iter().for_each(|(key, text)| text.into_iter().for_each(|text| line.text(key, text)));
        line.millis("ms", micros);
        if bytes > 0 {
            line.number("streamed", bytes);
        }
        if let Some(metered) = metered {
            line.key("llm");
            line.0.push_str(&serde_json::to_string(&Words::of(metered)).ok()?);
        }
        line.0.push('}');
        Some(line.0)
    }
}

/// A JSON object being written. Every request writes one, so that it is done without the machinery for any value.
struct Line(String);

impl Line {
    fn key(&mut self, key: &'static str) {
        self.0.push_str(if self.0.is_empty() { "{\"" } else { ",\"" });
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.key(key);
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
        } else {
            self.0.push_str(&String::from_utf8_lossy(&quote(text)));
        }
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.key(key);
        // Writing into memory cannot fail.
        _ = write!(self.0, "{number}");
    }

    /// Microseconds as milliseconds.
    fn millis(&mut self, key: &'static str, micros: u64) {
        self.number(key, micros / 1000);
        _ = write!(self.0, ".{:03}", micros % 1000);
        // `1.5`, and `1.0` rather than `1.`.
        for _ in 0..2 {
            if self.0.ends_with('0') {
                self.0.pop();
            }
        }
    }
}

/// What a model's words were, in names and numbers: in words only where the configuration says so.
#[derive(Serialize)]
pub(super) struct Words<'a> {
    asked: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_ms: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stages: &'a [Stage],
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
}

impl<'a> Words<'a> {
    pub(super) fn of(metered: &'a Metered) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a duration has no use for 53 bits")]
        let first_ms = metered.first.map(|micros| micros as f64 / 1000.0);
        // From outside: long names tell nothing more.
        let asked = metered.asked.char_indices().nth(100).map_or(metered.asked.len(), |(at, _)| at);
        Self {
            asked: metered.asked.get(..asked).unwrap_or_default(),
            provider: metered.provider.as_deref(),
            model: metered.model.as_deref(),
            attempts: metered.attempts,
            input: metered.usage.input,
            output: metered.usage.output,
            cached: metered.usage.cached,
            reasoning: metered.usage.reasoning,
            cost: metered.cost,
            cache: metered.cache,
            first_ms,
            stages: &metered.stages,
            prompt: metered.noted.as_ref().map(|noted| noted.prompt.as_str()),
            answer: metered.noted.as_ref().map(|noted| noted.answer.as_str()),
        }
    }
}
