//! Amazon Bedrock: Converse and ConverseStream.
//!
//! Source: docs.aws.amazon.com/bedrock/latest/APIReference, "Converse" and "ConverseStream". A request is signed
//! ([`sign`]) or carries a bearer token; a stream is binary frames ([`frames`]).

mod answer;
pub mod frames;
mod request;
pub mod sign;

pub use answer::{Reader, whole_from};
pub use request::encode;

/// The names of models as Bedrock writes them: `vendor.model`, with a region or an account in front.
pub const MODELS: [&str; 18] = [
    "anthropic.*",
    "amazon.*",
    "meta.*",
    "mistral.*",
    "cohere.*",
    "ai21.*",
    "deepseek.*",
    "openai.*",
    "qwen.*",
    "stability.*",
    "writer.*",
    "us.*.*",
    "eu.*.*",
    "apac.*.*",
    "jp.*.*",
    "au.*.*",
    "global.*.*",
    "arn:aws*",
];
