//! What no provider and no caller should send, and some will.

use bytes::BytesMut;
use causeway::config::types::ProviderKind;
use causeway::fault::Kind;
use causeway::llm::chat::{Event, Whole};
use causeway::llm::convert::{Front, Reader, Writer, decode, encode, whole};
use causeway::llm::provider::dialect;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{FRONTS, answers, read, wire};

/// Any JSON, with members that mean something somewhere.
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "user",
            "assistant",
            "tool",
            "text",
            "image_url",
            "tool_use",
            "data:;base64,",
            "é\u{0}"
        ])
        .prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "model",
        "messages",
        "role",
        "content",
        "type",
        "text",
        "tools",
        "function",
        "name",
        "arguments",
        "tool_calls",
        "choices",
        "delta",
        "message",
        "usage",
        "candidates",
        "parts",
        "functionCall",
        "output",
        "toolUse",
        "error",
        "index",
        "id",
        "source",
        "data",
        "input",
        "done",
        "thinking",
        "reasoning_details",
        "finish_reason",
        "stop",
        "prompt_tokens",
        "promptFeedback",
        "content_block",
        "system",
        "response_format",
        "json_schema",
    ]);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..6).prop_map(|members| {
                Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_request_makes_anything_panic(mut request in any_json(), shape in any_json()) {
        if let Some(members) = request.as_object_mut() {
            members.insert("messages".into(), json!([{"role": "user", "content": "x"}, shape]));
        }
        for (_, front) in FRONTS {
            if let Ok(chat) = decode(front, &request) {
                for (_, kind) in ProviderKind::ALL {
                    let _ = encode(&chat, kind);
                }
            }
        }
    }

    #[test]
    fn no_answer_makes_anything_panic(body in any_json(), pieces in prop::collection::vec(any_json(), 0..6)) {
        for (_, kind) in ProviderKind::ALL {
            let _ = Whole::of(whole("p", kind, &body)).map(|whole| {
                for (_, front) in FRONTS {
                    let _ = front.whole(&whole, "i", "m", 0);
                }
            });
            let pieces: Vec<Value> = pieces
                .iter()
                .map(|piece| match dialect(kind) {
                    causeway::llm::convert::Dialect::Bedrock => json!(["contentBlockDelta", piece]),
                    causeway::llm::convert::Dialect::Anthropic => json!({"type": "content_block_delta", "delta": piece, "index": 0}),
                    _ => piece.clone(),
                })
                .collect();
            let (mut reader, mut events) = (Reader::new("p", dialect(kind), 4096), Vec::new());
            let _ = reader.push(&wire(kind, &pieces), &mut events);
            for (_, front) in FRONTS {
                let mut writer = Writer::new(front, "i".into(), "m".into(), 0, true);
                let mut out = BytesMut::new();
                events.iter().cloned().for_each(|event| writer.push(event, &mut out));
                writer.end(&mut out);
            }
        }
    }

    #[test]
    fn noise_is_no_stream(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, kind) in ProviderKind::ALL {
            let (mut reader, mut events) = (Reader::new("p", dialect(kind), 64), Vec::new());
            let _ = reader.push(&noise, &mut events);
            reader.end(&mut events);
        }
    }
}

#[test]
fn a_stream_cut_at_any_byte_is_told_apart_from_a_whole_one() {
    for (provider, kind, case, _, stream) in answers() {
        let bytes = wire(kind, &stream);
        let full = {
            let (mut reader, mut events) = (Reader::new("p", dialect(kind), 1 << 20), Vec::new());
            reader.push(&bytes, &mut events).unwrap();
            Whole::of(events).unwrap()
        };
        for at in (0..bytes.len()).step_by(5) {
            let (mut reader, mut events) = (Reader::new("p", dialect(kind), 1 << 20), Vec::new());
            reader.push(&bytes[..at], &mut events).unwrap();
            reader.end(&mut events);
            if reader.is_over() {
                // Then all that was said is there; the numbers may be missing.
                assert_eq!(Whole::of(events).unwrap().parts, full.parts, "{provider}: {case} at {at}");
            }
        }
    }
}

#[test]
fn what_is_too_large_is_refused() {
    for (provider, kind) in ProviderKind::ALL {
        let (mut reader, mut events) = (Reader::new("p", dialect(kind), 1000), Vec::new());
        let huge = json!({"x": "y".repeat(5000), "type": "ping"});
        let huge = if kind == ProviderKind::Bedrock { json!(["x", huge]) } else { huge };
        let refusal = reader.push(&wire(kind, &[huge]), &mut events).unwrap_err();
        assert_eq!(refusal.fault.kind, Kind::UpstreamTooLarge, "{provider}");
    }
}

#[test]
fn what_is_no_json_is_told_as_that() {
    for (provider, kind) in ProviderKind::ALL {
        let mut bytes = match dialect(kind) {
            causeway::llm::convert::Dialect::Ollama => b"{\"model\": oops}\n".to_vec(),
            causeway::llm::convert::Dialect::Bedrock => {
                causeway::llm::bedrock::frames::encode("event", "contentBlockDelta", b"{oops")
            }
            _ => b"data: {oops\n\n".to_vec(),
        };
        bytes.push(b'\n');
        let (mut reader, mut events) = (Reader::new("p", dialect(kind), 1000), Vec::new());
        let _ = reader.push(&bytes, &mut events);
        let [Event::Failed(refusal)] = events.as_slice() else { panic!("{provider}: {events:?}") };
        assert_eq!(refusal.fault.kind, Kind::UpstreamInvalid);
    }
}

#[test]
fn deep_json_is_refused_and_not_followed() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (_, kind) in ProviderKind::ALL {
        let (mut reader, mut events) = (Reader::new("p", dialect(kind), 1 << 20), Vec::new());
        let _ = reader.push(format!("data: {deep}\n\n").as_bytes(), &mut events);
    }
}

#[test]
fn header_injection_and_odd_names_stay_in_the_body() {
    let request = json!({"model": "a\r\nx-evil: 1", "messages": [{"role": "user", "content": "x"}]});
    let chat = decode(Front::OpenAi, &request).unwrap();
    for (_, kind) in ProviderKind::ALL {
        let provider = causeway::config::plan::Provider::new("p", kind, "http://p/v1".parse().unwrap());
        let place = causeway::llm::provider::Place::Chat { stream: true };
        let address = causeway::llm::provider::address(&provider, place, &chat.model).unwrap();
        assert!(!address.contains(['\r', '\n', ' ']), "{address:?}");
        assert!(address.parse::<http::Uri>().is_ok(), "{address:?}");
    }
    let _ = read;
}
