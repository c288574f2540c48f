//! Recorded payloads of every provider, and the true wire form of each.

use std::path::PathBuf;

use causeway::config::types::ProviderKind;
use causeway::llm::bedrock::frames;
use causeway::llm::convert::{Dialect, Front};
use causeway::llm::provider::dialect;
use serde_json::Value;

pub const FRONTS: [(&str, Front); 2] = [("openai", Front::OpenAi), ("anthropic", Front::Anthropic)];

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llm")
}

pub fn read(provider: &str, name: &str) -> Value {
    let path = folder().join(provider).join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every recorded answer: provider, case, the whole of it, and its stream.
pub fn answers() -> Vec<(&'static str, ProviderKind, String, Value, Vec<Value>)> {
    let mut all = Vec::new();
    for (name, kind) in ProviderKind::ALL {
        for (case, answer) in read(name, "answers")["cases"].as_object().unwrap() {
            let stream = answer["stream"].as_array().unwrap().clone();
            all.push((name, kind, case.clone(), answer["whole"].clone(), stream));
        }
    }
    all
}

/// A stream as the provider sends it.
pub fn wire(kind: ProviderKind, stream: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in stream {
        match dialect(kind) {
            Dialect::OpenAi => bytes.extend_from_slice(format!("data: {piece}\n\n").as_bytes()),
            Dialect::Anthropic => {
                let name = piece["type"].as_str().unwrap();
                bytes.extend_from_slice(format!("event: {name}\ndata: {piece}\n\n").as_bytes());
            }
            Dialect::Gemini => bytes.extend_from_slice(format!("data: {piece}\r\n\r\n").as_bytes()),
            Dialect::Ollama => bytes.extend_from_slice(format!("{piece}\n").as_bytes()),
            Dialect::Bedrock => {
                let payload = piece[1].to_string();
                bytes.extend(frames::encode("event", piece[0].as_str().unwrap(), payload.as_bytes()));
            }
        }
    }
    if dialect(kind) == Dialect::OpenAi {
        bytes.extend_from_slice(b"data: [DONE]\n\n");
    }
    bytes
}

/// The `Content-Type` of a provider's stream.
pub fn stream_type(kind: ProviderKind) -> &'static str {
    match dialect(kind) {
        Dialect::OpenAi | Dialect::Anthropic | Dialect::Gemini => "text/event-stream",
        Dialect::Ollama => "application/x-ndjson",
        Dialect::Bedrock => "application/vnd.amazon.eventstream",
    }
}
