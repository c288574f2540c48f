//! Protocol revisions and the two eras they fall into (2026-07-28, "Versioning and Compatibility", Terminology).

use serde::{Deserialize, Serialize};

/// How client and server keep what they know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Era {
    /// Handshake and session: 2024-11-05 to 2025-11-25.
    Legacy,
    /// Stateless, everything in each request: 2026-07-28 and later.
    Modern,
}

/// A protocol revision that the gateway speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Revision {
    /// The first, with the HTTP+SSE transport.
    #[serde(rename = "2024-11-05")]
    V2024_11_05,
    /// Streamable HTTP, JSON-RPC batches.
    #[serde(rename = "2025-03-26")]
    V2025_03_26,
    /// Structured content, elicitation; no batches.
    #[serde(rename = "2025-06-18")]
    V2025_06_18,
    /// The last with sessions.
    #[serde(rename = "2025-11-25")]
    V2025_11_25,
    /// The first without.
    #[serde(rename = "2026-07-28")]
    V2026_07_28,
}

impl Revision {
    /// The newest modern revision.
    pub const MODERN: Self = Self::V2026_07_28;
    /// The newest legacy revision.
    pub const LEGACY: Self = Self::V2025_11_25;
    /// Every revision, newest first, as error messages list them.
    pub const ALL: [Self; 5] =
        [Self::V2026_07_28, Self::V2025_11_25, Self::V2025_06_18, Self::V2025_03_26, Self::V2024_11_05];

    /// The revision called `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// The revision's name, as it stands in headers and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The era of this revision.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Self::V2026_07_28 => Era::Modern,
            _ => Era::Legacy,
        }
    }
}
