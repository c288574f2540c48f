//! The grid: requests, answers, streams and errors between the fronts and every provider's dialect.
//!
//! Each dialect is read into [`chat`](super::chat) and written from it, so that a new one is one folder. Where both
//! sides speak the same, nothing is converted and the bytes stay what they were.

mod answer;
mod errors;
mod request;
mod stream;

pub use answer::{embeddings, whole};
pub use errors::{failure, head};
pub use request::{decode, encode, with_model};
pub use stream::{Reader, Writer};

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Google's `generateContent`.
    Gemini,
    /// Amazon's Converse.
    Bedrock,
    /// Ollama's own.
    Ollama,
}

/// How a caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// The gateway's own, at `/ask`.
    Ask,
    /// An MCP server's (`sampling/createMessage`).
    Sampling,
}

impl Front {
    /// Whether a provider's dialect is the caller's own.
    #[must_use]
    pub fn is(self, dialect: Dialect) -> bool {
        matches!((self, dialect), (Self::OpenAi, Dialect::OpenAi) | (Self::Anthropic, Dialect::Anthropic))
    }
}
