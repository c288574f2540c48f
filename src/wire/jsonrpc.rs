//! JSON-RPC 2.0 messages: the envelope is read, everything inside stays raw bytes.
//!
//! What we do not act on is **never** parsed, so a field that nobody here has heard of survives byte for byte.
//! Changes are made by splicing bytes into the original text ([`Splice`]).
//!
//! ```
//! use causeway::wire::jsonrpc::Message;
//! let message = Message::decode(br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#).unwrap();
//! assert!(matches!(message, Message::Request { ref method, .. } if method == "ping"));
//! ```

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// One message, borrowed from the bytes it was read from.
#[derive(Debug)]
pub enum Message<'a> {
    /// Asks for an answer.
    Request {
        /// The id: a JSON string or integer, as it was written.
        id: &'a RawValue,
        /// The method.
        method: Cow<'a, str>,
        /// The parameters: a JSON object, if there are any.
        params: Option<&'a RawValue>,
    },
    /// Asks for none.
    Notification {
        /// The method.
        method: Cow<'a, str>,
        /// The parameters: a JSON object, if there are any.
        params: Option<&'a RawValue>,
    },
    /// An answer.
    Response {
        /// The id of the request; absent in an error about a request that could not be read.
        id: Option<&'a RawValue>,
        /// The result, or the error.
        outcome: Result<&'a RawValue, &'a RawValue>,
    },
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not JSON (-32700).
    #[error("not valid JSON: {0}")]
    Json(String),
    /// JSON, but not a JSON-RPC message (-32600).
    #[error("not a JSON-RPC 2.0 message: {0}")]
    Shape(&'static str),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// `null` is a value that is present, unlike a missing field.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(input: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(input).map(Some)
}

impl<'a> Message<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// [`Invalid`] when `bytes` are not JSON or not a message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let envelope: Envelope<'a> = serde_json::from_slice(bytes).map_err(|error| invalid(bytes, &error))?;
        if envelope.jsonrpc.as_deref() != Some("2.0") {
            return Err(Invalid::Shape("\"jsonrpc\" must be \"2.0\""));
        }
        if envelope.params.is_some_and(|params| !params.get().starts_with('{')) {
            return Err(Invalid::Shape("\"params\" must be an object"));
        }
        match envelope {
            Envelope { method: Some(method), id: Some(id), params, result: None, error: None, .. } => {
                if !is_id(id) {
                    return Err(Invalid::Shape("\"id\" must be a string or an integer"));
                }
                Ok(Self::Request { id, method, params })
            }
            Envelope { method: Some(method), id: None, params, result: None, error: None, .. } => {
                Ok(Self::Notification { method, params })
            }
            Envelope { method: None, id, result, error, .. } => {
                let id = id.filter(|id| id.get() != "null");
                if id.is_some_and(|id| !is_id(id)) {
                    return Err(Invalid::Shape("\"id\" must be a string or an integer"));
                }
                match (result, error) {
                    (Some(result), None) if id.is_some() => Ok(Self::Response { id, outcome: Ok(result) }),
                    (None, Some(error)) => Ok(Self::Response { id, outcome: Err(error) }),
                    _ => {
                        Err(Invalid::Shape("neither \"method\" nor exactly one of \"result\" and \"error\""))
                    }
                }
            }
            _ => Err(Invalid::Shape("both \"method\" and \"result\" or \"error\"")),
        }
    }
}

/// The messages of a batch, each as raw JSON, or `None` if `bytes` are no array.
///
/// # Errors
/// [`Invalid::Json`] when an array has begun but is not JSON.
pub fn decode_batch(bytes: &[u8]) -> Result<Option<Vec<&RawValue>>, Invalid> {
    if !bytes.trim_ascii_start().starts_with(b"[") {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(Some).map_err(|error| Invalid::Json(brief(&error)))
}

fn invalid(bytes: &[u8], error: &serde_json::Error) -> Invalid {
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Ok(_) => Invalid::Shape("a field is missing, doubled or of the wrong type"),
        Err(_) => Invalid::Json(brief(error)),
    }
}

/// Where the parser stopped; its message can quote the input, so only the place is told.
fn brief(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

/// Whether `id` is a string or an integer.
#[must_use]
pub fn is_id(id: &RawValue) -> bool {
    let text = id.get();
    text.starts_with('"')
        || (text.bytes().all(|b| b.is_ascii_digit() || b == b'-') && text.bytes().any(|b| b.is_ascii_digit()))
}

/// Changes to a text, by place; the rest stays as it is.
#[derive(Debug)]
pub struct Splice<'a> {
    text: &'a [u8],
    edits: Vec<(Range<usize>, Vec<u8>)>,
}

impl<'a> Splice<'a> {
    /// No changes to `text` yet.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, edits: Vec::new() }
    }

    /// Puts `new` in the place of `part`, which must be a slice of the text; any other slice changes nothing.
    pub fn replace(&mut self, part: &RawValue, new: Vec<u8>) {
        if let Some(range) = self.place(part) {
            self.edits.push((range, new));
        }
    }

    /// Puts `fields` (JSON members without braces) first into `object`, a slice of the text.
    pub fn insert_into(&mut self, object: &RawValue, fields: &[u8]) {
        if let Some(range) = self.place(object) {
            let at = range.start + 1;
            let empty = object.get().get(1..).is_some_and(|rest| rest.trim_start().starts_with('}'));
            let mut new = fields.to_vec();
            if !empty && !fields.is_empty() {
                new.push(b',');
            }
            self.edits.push((at..at, new));
        }
    }

    /// Puts `fields` first into the text itself, which must be an object that is not empty.
    pub fn insert_first(&mut self, fields: &[u8]) {
        if let Some(at) = self.text.iter().position(|b| *b == b'{') {
            self.edits.push((at + 1..at + 1, [fields, b","].concat()));
        }
    }

    /// The changed text.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let grown: usize = self.edits.iter().map(|(_, new)| new.len()).sum();
        let mut out = Vec::with_capacity(self.text.len() + grown);
        let mut from = 0;
        for (range, new) in self.edits {
            out.extend_from_slice(self.text.get(from..range.start).unwrap_or_default());
            out.extend_from_slice(&new);
            from = range.end;
        }
        out.extend_from_slice(self.text.get(from..).unwrap_or_default());
        Bytes::from(out)
    }

    fn place(&self, part: &RawValue) -> Option<Range<usize>> {
        let start = (part.get().as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        let end = start.checked_add(part.get().len())?;
        (end <= self.text.len()).then_some(start..end)
    }
}

/// The text of a JSON string.
#[must_use]
pub fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// `text` as a JSON string.
#[must_use]
pub fn quote(text: &str) -> Vec<u8> {
    // A string always serializes; the fallback only spares an `unwrap`.
    serde_json::to_vec(text).unwrap_or_else(|_| b"\"\"".to_vec())
}

/// A result message.
#[must_use]
pub fn result(id: &RawValue, result: &impl Serialize) -> Bytes {
    #[derive(Serialize)]
    struct Out<'a, T> {
        jsonrpc: &'static str,
        id: &'a RawValue,
        result: &'a T,
    }
    // Our own types always serialize.
    serde_json::to_vec(&Out { jsonrpc: "2.0", id, result }).unwrap_or_default().into()
}

/// An error message. Without an `id` the member is left out, as MCP asks for.
#[must_use]
pub fn error(id: Option<&RawValue>, code: i64, message: &str, data: Option<&RawValue>) -> Bytes {
    #[derive(Serialize)]
    struct Out<'a> {
        jsonrpc: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
        error: Inner<'a>,
    }
    #[derive(Serialize)]
    struct Inner<'a> {
        code: i64,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
    }
    let out = Out { jsonrpc: "2.0", id, error: Inner { code, message, data } };
    serde_json::to_vec(&out).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(input: &str, expect: &str) {
        let got = match Message::decode(input.as_bytes()) {
            Ok(Message::Request { id, method, params }) => {
                format!("request {} {method} {}", id.get(), params.map_or("-", RawValue::get))
            }
            Ok(Message::Notification { method, params }) => {
                format!("notification {method} {}", params.map_or("-", RawValue::get))
            }
            Ok(Message::Response { id, outcome }) => {
                let id = id.map_or("-", RawValue::get);
                match outcome {
                    Ok(result) => format!("result {id} {}", result.get()),
                    Err(error) => format!("error {id} {}", error.get()),
                }
            }
            Err(Invalid::Json(_)) => "json".to_owned(),
            Err(Invalid::Shape(_)) => "shape".to_owned(),
        };
        assert_eq!(got, expect, "{input}");
    }

    #[test]
    fn messages_are_told_apart_by_their_envelope() {
        check(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#, "request 1 m -");
        check(
            r#"{"jsonrpc":"2.0","id":"a","method":"m","params":{ "x" : 1.0 }}"#,
            r#"request "a" m { "x" : 1.0 }"#,
        );
        check(r#"{"jsonrpc":"2.0","method":"m\u0041"}"#, "notification mA -");
        check(r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "result 1 null");
        check(r#"{"jsonrpc":"2.0","error":{}}"#, "error - {}");
        check(r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, "error - {}");
        check(r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, "shape");
        check(r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#, "shape");
        check(r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, "shape");
        check(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#, "shape");
        check(r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#, "shape");
        check(r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#, "shape");
        check(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, "shape");
        check(r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, "shape");
        check(r#"{"id":1,"method":"m"}"#, "shape");
        check("[]", "shape");
        check("7", "shape");
        check("{", "json");
        check("", "json");
    }

    #[test]
    fn splices_leave_every_other_byte_alone() {
        #[derive(Deserialize)]
        struct Outer<'a> {
            #[serde(borrow)]
            a: &'a RawValue,
            #[serde(borrow)]
            b: &'a RawValue,
        }
        let text = r#"{ "a" : "x" , "zz": 1.50, "b": { } }"#;
        let outer: Outer<'_> = serde_json::from_str(text).unwrap();
        let mut splice = Splice::new(text.as_bytes());
        splice.insert_into(outer.b, br#""k":1"#);
        splice.replace(outer.a, quote("new\"name"));
        assert_eq!(splice.finish(), r#"{ "a" : "new\"name" , "zz": 1.50, "b": {"k":1 } }"#);
        let mut foreign = Splice::new(b"{}");
        foreign.replace(outer.a, b"1".to_vec());
        assert_eq!(foreign.finish(), "{}");
    }

    #[test]
    fn batches_are_arrays_and_nothing_else() {
        assert!(decode_batch(b"{}").unwrap().is_none());
        assert_eq!(decode_batch(b" [1, {\"a\":2}]").unwrap().unwrap()[1].get(), "{\"a\":2}");
        assert!(decode_batch(b"[1,").is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
            let _ = decode_batch(&bytes);
        }

        #[test]
        fn unknown_fields_survive_a_splice(extra in "[a-z]{1,8}", value in "[ -!#-~]{0,20}") {
            let value = value.replace('\\', "/");
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"{extra}":"{value}","method":"m","params":{{}}}}"#);
            prop_assume!(!["jsonrpc", "id", "method", "params", "result", "error"].contains(&extra.as_str()));
            let Ok(Message::Request { params: Some(params), .. }) = Message::decode(text.as_bytes()) else {
                return Err(TestCaseError::fail("not a request"));
            };
            let mut splice = Splice::new(text.as_bytes());
            splice.insert_into(params, b"\"x\":1");
            let expect = text.replace("\"params\":{}", "\"params\":{\"x\":1}");
            prop_assert_eq!(splice.finish(), expect);
        }
    }
}
