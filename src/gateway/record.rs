//! One record for each request: who asked what of whom, what came of it and how long it took.

use serde::Serialize;

use super::After;
use crate::fault::{Kind, Who};
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
        }
        let note = &self.note;
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
        };
        serde_json::to_string(&record).ok()
    }
}
