//! One record for each request: who asked what of whom, what came of it and how long it took.

use serde::Serialize;

use super::After;
use crate::fault::{Kind, Who};
use crate::llm::Metered;
use crate::llm::team::Stage;
use crate::platform::Platform;

impl<P: Platform> After<P> {
    /// The record as one line of JSON. `micros` is how long it took, `fault` what ended a stream, `cut` whether
    /// the caller went away.
    pub(super) fn record(&self, micros: u64, bytes: u64, fault: Option<Kind>, cut: bool) -> Option<String> {
        #[derive(Serialize)]
        struct Record<'a> {
            ts: u64,
            level: &'static str,
            event: &'static str,
            request_id: &'a str,
            http: &'a str,
            endpoint: &'static str,
            status: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            caller: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            method: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            server: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            revision: Option<&'static str>,
            outcome: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a str>,
            ms: f64,
            #[serde(skip_serializing_if = "Option::is_none")]
            streamed: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            llm: Option<Words<'a>>,
        }
        let note = &self.note;
        let metered = self.metered.as_deref();
        let fault = fault.or_else(|| metered.and_then(|metered| metered.fault));
        let kind = fault.or_else(|| note.fault.as_ref().map(|fault| fault.kind));
        let (outcome, level) = match kind.map(Kind::row) {
            Some(row) => (row.label, if row.who == Who::Ours { "error" } else { "warn" }),
            None if cut => ("gone", "info"),
            None => ("ok", "info"),
        };
        #[expect(clippy::cast_precision_loss, reason = "a duration has no use for 53 bits")]
        let ms = micros as f64 / 1000.0;
        let record = Record {
            ts: self.began.0,
            level,
            event: "request",
            request_id: &self.request_id,
            http: self.http.as_str(),
            endpoint: self.endpoint,
            status: self.status.as_u16(),
            caller: self.caller.as_ref().map(|caller| caller.name.as_str()).filter(|name| !name.is_empty()),
            method: note.method.as_deref(),
            server: note.server.as_deref(),
            name: note.name.as_deref(),
            revision: note.revision,
            outcome,
            error: note.fault.as_ref().map(|fault| fault.message.as_str()),
            ms,
            streamed: (bytes > 0).then_some(bytes),
            llm: metered.map(Words::of),
        };
        serde_json::to_string(&record).ok()
    }
}

/// What a model's words were, in names and numbers: never in words.
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
        }
    }
}
