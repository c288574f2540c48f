//! Each recorded input, in each direction of the grid.
//!
//! `UPDATE_EXPECT=1` writes what is expected anew; the diff is the review.

use bytes::BytesMut;
use causeway::config::types::ProviderKind;
use causeway::llm::chat::{Event, Part, Whole};
use causeway::llm::convert::{Dialect, Front, Reader, Writer, decode, encode, failure, head, whole};
use causeway::llm::provider::dialect;
use causeway::llm::refusal::{Words, retry_info, sorted};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use super::fixtures::{FRONTS, answers, folder, read, wire};

/// Compares with what is expected, or writes it.
fn expect(provider: &str, name: &str, got: &Map<String, Value>) {
    let path = folder().join(provider).join(format!("{name}.json"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let text = serde_json::to_string_pretty(&Value::Object(got.clone())).unwrap();
        std::fs::write(&path, format!("{text}\n")).unwrap();
        return;
    }
    let expected = read(provider, name);
    for (case, got) in got {
        assert_eq!(got, &expected[case], "{provider}/{name}.json: {case}; UPDATE_EXPECT=1 writes it anew");
    }
    assert_eq!(
        expected.as_object().unwrap().len(),
        got.len(),
        "{provider}/{name}.json has cases that are none"
    );
}

fn events(kind: ProviderKind, chunks: &[&[u8]]) -> Vec<Event> {
    let (mut reader, mut events) = (Reader::new("p", dialect(kind), 1 << 20), Vec::new());
    for chunk in chunks {
        reader.push(chunk, &mut events).unwrap();
    }
    reader.end(&mut events);
    assert!(reader.is_over(), "the stream is not whole");
    events
}

#[test]
fn requests_of_both_fronts_are_written_for_every_provider() {
    for (provider, kind) in ProviderKind::ALL {
        let mut got = Map::new();
        for (name, front) in FRONTS {
            for (case, request) in read("requests", name)["cases"].as_object().unwrap() {
                let mut chat = decode(front, request).unwrap_or_else(|refusal| panic!("{case}: {refusal:?}"));
                chat.model = "the-model".to_owned();
                let body = match encode(&chat, kind) {
                    Ok(body) => body,
                    Err(refusal) => json!({"refused": refusal.fault.message}),
                };
                got.insert(format!("{name}/{case}"), body);
            }
        }
        expect(provider, "requests", &got);
    }
}

#[test]
fn members_that_nobody_knows_reach_the_provider() {
    for (provider, kind) in ProviderKind::ALL {
        for (name, front) in FRONTS {
            let chat = decode(front, &read("requests", name)["cases"]["plain"]).unwrap();
            let body = encode(&chat, kind).unwrap();
            let kept =
                if kind == ProviderKind::Bedrock { &body["additionalModelRequestFields"] } else { &body };
            assert_eq!(kept["x_unheard_of"], json!({"kept": [1, 2]}), "{name} to {provider}");
        }
    }
}

#[test]
fn a_stream_and_a_whole_answer_say_the_same() {
    for (provider, kind, case, body, stream) in answers() {
        let streamed = Whole::of(events(kind, &[&wire(kind, &stream)])).unwrap();
        let mut whole = Whole::of(whole("p", kind, &body)).unwrap();
        // What a provider tells in one form only.
        whole.extra.clear();
        let mut streamed = streamed;
        streamed.extra.clear();
        assert_eq!(streamed, whole, "{provider}: {case}");
    }
}

#[test]
fn every_split_of_a_stream_gives_the_same_events() {
    for (provider, kind, case, _, stream) in answers() {
        let bytes = wire(kind, &stream);
        let expected = format!("{:?}", events(kind, &[&bytes]));
        for at in (0..=bytes.len()).step_by(3) {
            let (before, after) = bytes.split_at(at);
            assert_eq!(
                format!("{:?}", events(kind, &[before, after])),
                expected,
                "{provider}: {case} at {at}"
            );
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(format!("{:?}", events(kind, &single)), expected, "{provider}: {case} byte by byte");
    }
}

#[test]
fn a_stream_without_its_end_is_not_whole() {
    for (provider, kind, case, _, stream) in answers() {
        let bytes = wire(kind, &stream[..stream.len() - 1]);
        let mut reader = Reader::new("p", dialect(kind), 1 << 20);
        let mut events = Vec::new();
        // The mark of the end itself is cut off as well; what is left must not pass for an end unless the reason to
        // stop was told.
        let bytes = bytes.strip_suffix(b"data: [DONE]\n\n").unwrap_or(&bytes);
        reader.push(bytes, &mut events).unwrap();
        reader.end(&mut events);
        let stopped = events.iter().any(|event| matches!(event, Event::Stop(_)));
        assert_eq!(reader.is_over(), stopped, "{provider}: {case}");
    }
}

fn told(front: Front, events: Vec<Event>) -> (Value, String) {
    let whole = Whole::of(events.clone()).unwrap();
    let body = front.whole(&whole, "id-1", "model-1", 1_700_000_000);
    let mut writer = Writer::new(front, "id-1".into(), "model-1".into(), 1_700_000_000, true);
    let mut out = BytesMut::new();
    for event in events {
        writer.push(event, &mut out);
    }
    writer.end(&mut out);
    (body, String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn answers_of_every_provider_are_told_to_both_fronts() {
    for (provider, _) in ProviderKind::ALL {
        let mut got = Map::new();
        for (_, kind, case, body, stream) in answers().into_iter().filter(|(name, ..)| *name == provider) {
            for (name, front) in FRONTS {
                let whole = whole("p", kind, &body);
                got.insert(format!("{name}/{case}"), told(front, whole).0);
                let (_, text) = told(front, events(kind, &[&wire(kind, &stream)]));
                let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("data: ")).collect();
                got.insert(format!("{name}/{case}/stream"), json!(lines));
            }
        }
        expect(provider, "told", &got);
    }
}

/// What a caller must be given of an answer, whatever the front.
fn essence(whole: &Whole) -> Value {
    let parts: Vec<Value> = whole
        .parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => json!({ "text": text }),
            Part::Reasoning { text, signature } => json!({ "thought": text, "signature": signature }),
            Part::Redacted(data) => json!({ "redacted": data }),
            Part::Call(call) => json!({ "call": call.name, "id": call.id, "arguments": call.arguments, "signature": call.signature }),
            other => json!(format!("{other:?}")),
        })
        .collect();
    json!({"parts": parts, "input": whole.usage.input, "output": whole.usage.output, "id": whole.id})
}

#[test]
fn what_is_told_reads_back_as_what_was_said() {
    for (provider, kind, case, _, stream) in answers() {
        for (name, front) in FRONTS {
            let (own, of) = match front {
                Front::OpenAi => (Dialect::OpenAi, ProviderKind::Openai),
                Front::Anthropic => (Dialect::Anthropic, ProviderKind::Anthropic),
                Front::Ask | Front::Sampling => unreachable!("nobody but the gateway speaks it"),
            };
            let said = events(kind, &[&wire(kind, &stream)]);
            let mut original = Whole::of(said.clone()).unwrap();
            let (body, text) = told(front, said);
            let (mut reader, mut heard) = (Reader::new("p", own, 1 << 20), Vec::new());
            reader.push(text.as_bytes(), &mut heard).unwrap();
            assert!(reader.is_over(), "{provider}: {case} to {name}");
            let streamed = Whole::of(heard).unwrap();
            let whole = Whole::of(whole("p", of, &body)).unwrap();
            original.id = original.id.or_else(|| Some("id-1".to_owned()));
            assert_eq!(essence(&streamed), essence(&original), "{provider}: {case} streamed to {name}");
            assert_eq!(essence(&whole), essence(&original), "{provider}: {case} told whole to {name}");
            assert_eq!(streamed.stop, whole.stop, "{provider}: {case} to {name}");
        }
    }
}

#[test]
fn every_error_of_every_provider_means_one_thing() {
    for (provider, kind) in ProviderKind::ALL {
        for case in read(provider, "errors")["cases"].as_array().unwrap() {
            let status = StatusCode::from_u16(case["status"].as_u64().unwrap().try_into().unwrap()).unwrap();
            let mut headers = HeaderMap::new();
            for (name, value) in case["headers"].as_object().into_iter().flatten() {
                let name: http::HeaderName = name.parse().unwrap();
                headers.insert(name, value.as_str().unwrap().parse().unwrap());
            }
            let mut words = Words::of(&case["body"]);
            words.names.extend(headers.get("x-amzn-errortype").map(|value| value.to_str().unwrap()));
            let mut refusal = sorted("p", status, &headers, &words);
            refusal.wait = refusal.wait.or_else(|| retry_info(&case["body"]));
            let label = refusal.fault.kind.row().label;
            assert_eq!(label, case["kind"], "{provider}: {}", case["body"]);
            let wait = refusal.wait.map(|wait| u64::try_from(wait.as_millis()).unwrap());
            assert_eq!(wait, case["wait_ms"].as_u64(), "{provider}: {}", case["body"]);
            assert!(!refusal.fault.message.contains("sk-ab"), "a part of the key: {}", refusal.fault.message);
            for (name, front) in FRONTS {
                let (status, headers, body) = head(front, &refusal, "req-1");
                let body: Value = serde_json::from_slice(&body).unwrap();
                assert!(status.is_client_error() || status.is_server_error());
                assert_eq!(
                    headers.contains_key("retry-after"),
                    refusal.wait.is_some(),
                    "{provider} to {name}"
                );
                assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string());
                assert_eq!(body["type"] == "error", front == Front::Anthropic);
                assert_eq!(failure(front, &refusal, "req-1"), body.to_string());
            }
        }
        let _ = kind;
    }
}

#[test]
fn fronts_tell_errors_as_their_own() {
    use causeway::fault::Kind;
    use causeway::llm::Refusal;
    let check = |kind: Kind, openai: (u16, &str, &str), anthropic: (u16, &str)| {
        let refusal = Refusal::new(kind, "m");
        let (status, _, body) = head(Front::OpenAi, &refusal, "r");
        let body: Value = serde_json::from_slice(&body).unwrap();
        let got = (
            status.as_u16(),
            body["error"]["type"].as_str().unwrap(),
            body["error"]["code"].as_str().unwrap(),
        );
        assert_eq!(got, openai, "{kind:?}");
        let (status, _, body) = head(Front::Anthropic, &refusal, "r");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status.as_u16(), body["error"]["type"].as_str().unwrap()), anthropic, "{kind:?}");
        assert_eq!(body["request_id"], "r");
    };
    let wrong = "invalid_request_error";
    check(Kind::Unauthorized, (401, wrong, "invalid_api_key"), (401, "authentication_error"));
    check(Kind::UnknownModel, (404, wrong, "model_not_found"), (404, "not_found_error"));
    check(Kind::ContextTooLong, (400, wrong, "context_length_exceeded"), (400, wrong));
    check(Kind::ContentFiltered, (400, wrong, "content_filter"), (400, wrong));
    check(Kind::Unprocessable, (400, wrong, "unprocessable"), (400, wrong));
    check(Kind::Malformed, (400, wrong, "malformed"), (400, wrong));
    check(Kind::BodyTooLarge, (413, wrong, "body_too_large"), (413, "request_too_large"));
    check(Kind::RateLimited, (429, "rate_limit_error", "rate_limit_exceeded"), (429, "rate_limit_error"));
    check(Kind::ProviderQuota, (429, "insufficient_quota", "insufficient_quota"), (429, "rate_limit_error"));
    check(Kind::Overloaded, (503, "server_error", "overloaded"), (529, "overloaded_error"));
    check(Kind::UpstreamTimeout, (504, "server_error", "upstream_timeout"), (504, "timeout_error"));
    check(Kind::UpstreamCut, (502, "server_error", "upstream_cut"), (502, "api_error"));
    let authentication = "provider_authentication";
    check(Kind::ProviderAuthentication, (502, "server_error", authentication), (502, "api_error"));
}

#[test]
fn wrong_requests_are_refused_by_their_member() {
    let check = |front: Front, patch: Value, param: &str| {
        let mut request =
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]});
        for (key, value) in patch.as_object().unwrap() {
            request[key] = value.clone();
        }
        let refusal = decode(front, &request).unwrap_err();
        assert_eq!(refusal.param.as_deref(), Some(param), "{request}");
        assert_eq!(refusal.fault.kind.row().label, "unprocessable");
    };
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (_, front) in FRONTS {
        check(front, json!({"messages": "x"}), "messages");
        check(front, json!({"messages": []}), "messages");
        check(front, json!({"messages": [{"role": "robot", "content": "x"}]}), "messages[0].role");
        check(front, json!({"messages": [1]}), "messages[0].role");
        check(front, user(json!(5)), "messages[0].content");
        check(front, user(json!([{"type": "hologram"}])), "messages[0].content[0].type");
        check(front, user(json!([{"type": "text"}])), "messages[0].content[0].text");
    }
    check(Front::OpenAi, json!({"n": 2}), "n");
    check(Front::OpenAi, json!({"tool_choice": "maybe"}), "tool_choice");
    check(Front::OpenAi, json!({"response_format": {"type": "xml"}}), "response_format.type");
    check(Front::OpenAi, json!({"tools": [{"type": "function"}]}), "tools[0].function.name");
    check(Front::OpenAi, json!({"functions": []}), "functions");
    check(
        Front::Anthropic,
        json!({"tools": [{"type": "web_search_20250305", "name": "w"}]}),
        "tools[0].type",
    );
    check(Front::Anthropic, json!({"tool_choice": {"type": "tool"}}), "tool_choice.name");
    check(
        Front::Anthropic,
        user(json!([{"type": "tool_result", "content": "x"}])),
        "messages[0].content[0].tool_use_id",
    );
    check(
        Front::Anthropic,
        user(json!([{"type": "image", "source": {"type": "file", "file_id": "f"}}])),
        "messages[0].content[0].source.type",
    );
}
