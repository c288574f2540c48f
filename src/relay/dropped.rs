//! What the log says of messages that nobody gets, as more came than is kept of them: how many, whose, and why.
//!
//! It is said once for each time that this happens, **never** once for each message.

use serde::Serialize;

use crate::platform::{Clock as _, Log as _, Platform};

/// Messages that were dropped.
#[derive(Debug)]
pub struct Dropped<'a> {
    /// The server that they came from, or were for; empty where it may be any.
    pub server: &'a str,
    /// The caller that they were for; empty where that is not known.
    pub caller: &'a str,
    /// How many.
    pub messages: usize,
    /// What there was no room for.
    pub message: &'static str,
}

impl Dropped<'_> {
    /// Says so in the log, as `event`, if there are any.
    pub fn say<P: Platform>(&self, platform: &P, event: &'static str) {
        #[derive(Serialize)]
        struct Record<'a> {
            ts: u64,
            level: &'static str,
            event: &'static str,
            #[serde(skip_serializing_if = "str::is_empty")]
            server: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            caller: &'a str,
            messages: usize,
            message: &'static str,
        }
        if self.messages == 0 {
            return;
        }
        let &Self { server, caller, messages, message } = self;
        let ts = platform.clock().now().0;
        let record = Record { ts, level: "warn", event, server, caller, messages, message };
        if let Ok(line) = serde_json::to_string(&record) {
            platform.log().write(&line);
        }
    }
}
