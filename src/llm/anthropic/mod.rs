//! Anthropic's messages: the dialect of a front, and of one provider.
//!
//! Source: platform.claude.com/docs/en/api/messages and its page on streaming.

mod answer;
mod request;

pub(super) use answer::failure;
pub use answer::{Reader, Writer, whole_from, whole_to};
pub(super) use request::thinking;
pub use request::{decode, encode};

/// The names of models that only Anthropic has.
pub const MODELS: [&str; 1] = ["claude-*"];

/// The version of the API that the gateway speaks by itself.
pub const VERSION: &str = "2023-06-01";
