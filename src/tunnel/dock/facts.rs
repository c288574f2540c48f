//! What is known of a link besides its protocol: who opened it, since when, what it offers.

use serde::{Deserialize, Serialize};

use super::super::hello::{Offer, Verdict};
use crate::platform::Timestamp;

/// What is known of a link. Kept by the host, so that it is known when the link is not connected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// When it was last opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When its companion was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    /// The companion's program and version.
    #[serde(default)]
    pub agent: String,
    /// The caller whose key it was opened with.
    #[serde(default)]
    pub caller: String,
    /// How many requests went over it since it was opened.
    #[serde(default)]
    pub calls: u64,
    /// What it offers, and what was said to that.
    #[serde(default)]
    pub verdicts: Vec<Verdict>,
    /// The configuration that this was said under.
    #[serde(default)]
    pub digest: String,
}

/// How a link is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Whether its companion is connected.
    pub connected: bool,
    /// Whether it was lost so lately that it may go on where it was.
    #[serde(default)]
    pub resumable: bool,
    /// Requests that are on their way.
    pub open: usize,
    /// What else is known.
    #[serde(flatten)]
    pub facts: Facts,
}

impl Shown {
    /// Why `server` cannot be asked anything through the link `name`; `None` if it can. A link that was lost a moment ago
    /// may be back before anybody has asked.
    #[must_use]
    pub fn why_not(&self, now: Timestamp, name: &str, server: &str) -> Option<String> {
        if !self.connected && !self.resumable {
            return Some(self.facts.offline(now, name));
        }
        (!self.facts.offers(&Offer::server(server))).then(|| not_offered(name))
    }
}

/// A companion is there and does not have it.
pub(super) fn not_offered(name: &str) -> String {
    format!("link {name:?} is connected and does not offer it; add it to the companion's file")
}

impl Facts {
    /// Whether the companion offers `wanted`, as far as that is known.
    #[must_use]
    pub fn offers(&self, wanted: &Offer) -> bool {
        let is = |verdict: &Verdict| verdict.offer == *wanted && verdict.refused.is_none();
        self.verdicts.is_empty() || self.verdicts.iter().any(is)
    }

    /// Why nothing can be asked of the link `name`, and what to do.
    #[must_use]
    pub fn offline(&self, now: Timestamp, name: &str) -> String {
        let seen = match self.seen {
            Some(seen) => format!("last seen {} ago", span(now.since(seen).as_secs())),
            None => "never seen".to_owned(),
        };
        format!("link {name:?} is not connected, {seen}; start `causeway connect` there")
    }
}

/// So many seconds, in words.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_when_a_companion_was_last_seen() {
        let now = Timestamp(1_000_000_000);
        let said = |ago: u64| {
            Facts { seen: Some(Timestamp(now.0 - ago * 1000)), ..Facts::default() }.offline(now, "laptop")
        };
        assert_eq!(
            said(12),
            "link \"laptop\" is not connected, last seen 12 s ago; start `causeway connect` there"
        );
        assert!(said(119).contains("119 s ago"));
        assert!(said(600).contains("10 min ago"));
        assert!(said(10_000).contains("2 h ago"));
        assert!(said(200_000).contains("2 days ago"));
        assert!(Facts::default().offline(now, "x").contains("never seen"));
    }
}
