//! OpenAI's chat completions: the dialect of a front, and of most providers.
//!
//! Source: platform.openai.com/docs/api-reference/chat. What others have added to it and clients rely on is read, too:
//! `reasoning_content` and `reasoning_details` for thoughts, `extra_content` for a thought's signature on a call.

mod answer;
mod request;

pub(super) use answer::failure;
pub use answer::{Reader, Writer, whole_from, whole_to};
pub use request::{decode, encode};

/// The names of models that only OpenAI has.
pub const MODELS: [&str; 8] =
    ["gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "codex-*", "text-embedding-*", "ft:gpt-*"];
