//! Google's Gemini API: `generateContent` and `streamGenerateContent`.
//!
//! Source: ai.google.dev/api/generate-content and its pages on function calling, thinking and structured output.

mod answer;
mod request;

pub use answer::{Reader, whole_from};
pub use request::{embeddings, embeddings_from, encode};

/// The names of models that only Google has here.
pub const MODELS: [&str; 3] = ["gemini-*", "gemma-*", "learnlm-*"];
