//! An idle link, put away and taken up again: for an owner that sleeps while nothing happens.

use std::time::Duration;

use super::Limits;
use super::hello::{Allowed, CompanionId, SessionId};
use super::link::{Link, Phase, Side};
use crate::platform::Timestamp;
use serde::{Deserialize, Serialize};

/// No saved link is longer.
pub const MAX_SAVED: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Saved {
    v: u8,
    name: String,
    session: SessionId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    companion: Option<CompanionId>,
    #[serde(default)]
    dial: u64,
    sent: u64,
    received: u64,
    last: u32,
    window: u32,
    frame: u32,
    streams: u32,
    resume_ms: u64,
    rhythm_ms: u64,
    heard_ms: u64,
}

impl Link {
    /// Edge: the link as bytes, at most [`MAX_SAVED`], if it is connected and no stream is open. What the other end
    /// has not acknowledged yet is left out: if the connection is lost just then, a new session begins.
    #[must_use]
    pub fn save(&self) -> Option<Vec<u8>> {
        let session = self.session?;
        if self.phase != Phase::Up || self.streams() > 0 || !matches!(self.side, Side::Edge) {
            return None;
        }
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let saved = Saved {
            v: 1,
            name: self.name.clone(),
            session,
            companion: self.companion,
            dial: self.dial,
            sent: self.sent,
            received: self.received,
            last: self.last,
            window: self.peer.window,
            frame: self.peer.frame,
            streams: self.peer.streams,
            resume_ms: milliseconds(self.resume),
            rhythm_ms: milliseconds(self.rhythm),
            heard_ms: self.heard_at.0,
        };
        serde_json::to_vec(&saved).ok()
    }

    /// Edge: the link that was saved, on the same connection. None if `saved` is none of this version's.
    #[must_use]
    pub fn restore(limits: Limits, saved: &[u8]) -> Option<Self> {
        let saved: Saved = serde_json::from_slice(saved).ok().filter(|saved: &Saved| saved.v == 1)?;
        let mut link = Self::new(Timestamp(saved.heard_ms), limits, Side::Edge, &saved.name);
        link.phase = Phase::Up;
        link.session = Some(saved.session);
        (link.companion, link.dial) = (saved.companion, saved.dial);
        link.peer = Allowed::new(saved.window, saved.frame, saved.streams);
        link.resume = Duration::from_millis(saved.resume_ms);
        link.rhythm = Duration::from_millis(saved.rhythm_ms);
        (link.sent, link.received, link.last) = (saved.sent, saved.received, saved.last);
        Some(link)
    }
}
