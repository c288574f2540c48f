//! Which tools are exposed, if not all: calls of others are refused here, and lists are filtered.
//!
//! It is a filter for tools and nothing else, on this machine, so that whoever runs a companion need not trust the
//! gateway's own rules. A message that cannot be understood is **never** passed on: it might be a call to another reader.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use causeway::config::glob::Glob;
use causeway::wire::jsonrpc::{self, Message};
use causeway::wire::sse::{Decoder, Event};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The largest answer that is filtered.
const MAX_ANSWER: usize = 64 << 20;
/// An invalid parameter: the code for a tool that is not there (2025-11-25 server/tools, "Error Handling").
const NO_SUCH_TOOL: i64 = -32602;
/// An invalid request (JSON-RPC 2.0, section 5.1).
const INVALID: i64 = -32600;

/// The tools of one server that are exposed.
#[derive(Debug, Clone)]
pub(super) struct Exposed {
    server: String,
    allow: Arc<[Glob]>,
}

impl Exposed {
    /// Of the server called `server`, those that a pattern matches by their own name or as `server__tool`. None: all.
    pub(super) fn new(server: &str, allow: &Arc<[Glob]>) -> Option<Self> {
        (!allow.is_empty()).then(|| Self { server: server.to_owned(), allow: allow.clone() })
    }

    pub(super) fn admits(&self, tool: &str) -> bool {
        let full = format!("{}__{tool}", self.server);
        self.allow.iter().any(|glob| glob.matches(tool) || glob.matches(&full))
    }

    /// The answer to a request that calls what is not exposed, or that cannot be understood well enough to know.
    pub(super) fn refusal(&self, body: &[u8]) -> Option<Bytes> {
        let Ok(batch) = jsonrpc::decode_batch(body) else { return Some(unclear()) };
        let Some(messages) = batch else { return self.refuse(body) };
        let parts = messages.iter().map(|message| message.get().as_bytes());
        let refused: Vec<_> = parts.clone().map(|message| self.refuse(message)).collect();
        if refused.iter().all(Option::is_none) {
            return None;
        }
        // None of them is made, and each is told so.
        let why = "not sent: another message of the batch calls a tool that is not exposed by this companion";
        let answers = parts.zip(refused).filter_map(|(message, refused)| {
            refused.or_else(|| match Message::decode(message) {
                Ok(Message::Request { id, .. }) => Some(jsonrpc::error(Some(id), NO_SUCH_TOOL, why, None)),
                _ => None,
            })
        });
        Some([&b"["[..], &answers.collect::<Vec<_>>().join(&b","[..]), b"]"].concat().into())
    }

    fn refuse(&self, message: &[u8]) -> Option<Bytes> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, default)]
            name: Cow<'a, str>,
        }
        let (id, method, params) = match Message::decode(message) {
            Ok(Message::Request { id, method, params }) => (Some(id), method, params),
            // Nothing is answered to it, but it must not be a way around.
            Ok(Message::Notification { method, params }) => (None, method, params),
            Ok(Message::Response { .. }) => return None,
            Err(_) => return Some(unclear()),
        };
        if method != "tools/call" {
            return None;
        }
        let params = params.and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok());
        let name = params.map(|params| params.name).unwrap_or_default();
        if self.admits(&name) {
            return None;
        }
        let shown: String = name.chars().take(80).collect();
        let message = format!("tool {shown:?} is not exposed by this companion (causeway connect --allow)");
        Some(jsonrpc::error(id, NO_SUCH_TOOL, &message, None))
    }

    /// `answer` without the tools that are not exposed, if it lists any.
    fn filtered(&self, answer: &[u8]) -> Option<Bytes> {
        if let Ok(Some(messages)) = jsonrpc::decode_batch(answer) {
            let mut all = BytesMut::from(&b"["[..]);
            for (index, one) in messages.iter().enumerate() {
                let own = one.get().as_bytes();
                all.extend_from_slice(if index > 0 { b"," } else { b"" });
                all.extend_from_slice(&self.filtered(own).unwrap_or_else(|| Bytes::copy_from_slice(own)));
            }
            all.extend_from_slice(b"]");
            return Some(all.freeze());
        }
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            result: HashMap<Cow<'a, str>, &'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Tool<'a> {
            #[serde(borrow)]
            name: Cow<'a, str>,
        }
        let parsed: Answer<'_> = serde_json::from_slice(answer).ok()?;
        let tools = *parsed.result.get("tools")?;
        let each: Vec<&RawValue> = serde_json::from_str(tools.get()).ok()?;
        let exposed = each.iter().filter(|tool| {
            serde_json::from_str::<Tool<'_>>(tool.get()).is_ok_and(|tool| self.admits(&tool.name))
        });
        let kept = serde_json::to_vec(&exposed.collect::<Vec<_>>()).ok()?;
        let mut splice = jsonrpc::Splice::new(answer);
        splice.replace(tools, kept);
        Some(splice.finish())
    }
}

/// What might be a call to one reader and not to another is none at all.
fn unclear() -> Bytes {
    jsonrpc::error(
        None,
        INVALID,
        "the message cannot be read, so that it is not known which tool it calls",
        None,
    )
}

/// An answer on its way, being filtered.
#[derive(Debug)]
pub(super) enum Filtering {
    /// Nothing is.
    Not,
    /// A JSON document, filtered at its end.
    Whole(Exposed, BytesMut),
    /// A stream of events, each filtered.
    Events(Exposed, Box<Decoder>),
}

/// The answer is too large to be filtered.
#[derive(Debug)]
pub(super) struct TooLarge;

impl Filtering {
    /// Of an answer with this content type.
    pub(super) fn new(exposed: Option<&Exposed>, content_type: &str) -> Self {
        match exposed {
            Some(exposed) if content_type.starts_with("text/event-stream") => {
                Self::Events(exposed.clone(), Box::new(Decoder::new(MAX_ANSWER)))
            }
            Some(exposed) => Self::Whole(exposed.clone(), BytesMut::new()),
            None => Self::Not,
        }
    }

    /// What may be passed on of `chunk` and what was held back.
    pub(super) fn push(&mut self, chunk: Bytes) -> Result<Bytes, TooLarge> {
        match self {
            Self::Not => Ok(chunk),
            Self::Whole(_, held) => {
                if held.len() + chunk.len() > MAX_ANSWER {
                    return Err(TooLarge);
                }
                held.extend_from_slice(&chunk);
                Ok(Bytes::new())
            }
            Self::Events(exposed, decoder) => {
                let mut events: Vec<Event> = Vec::new();
                decoder.push(&chunk, &mut events).map_err(|_| TooLarge)?;
                let mut out = BytesMut::new();
                for mut event in events {
                    if let Some(data) = exposed.filtered(&event.data) {
                        event.data = data;
                    }
                    out.extend_from_slice(&event.encode());
                }
                if out.is_empty() {
                    // A comment keeps a stream alive that has nothing to say.
                    out.extend_from_slice(b":\n");
                }
                Ok(out.freeze())
            }
        }
    }

    /// What is left at the end.
    pub(super) fn finish(self) -> Bytes {
        match self {
            Self::Whole(exposed, held) => {
                let held = held.freeze();
                exposed.filtered(&held).unwrap_or(held)
            }
            Self::Not | Self::Events(..) => Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(patterns: &[&str]) -> Exposed {
        let allow: Arc<[Glob]> = patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        Exposed::new("files", &allow).unwrap()
    }

    fn call(name: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{name}"}}}}"#)
    }

    #[test]
    fn a_call_of_what_is_not_exposed_is_refused_with_its_id() {
        let exposed = exposed(&["read_*", "files__stat"]);
        assert!(exposed.refusal(call("read_file").as_bytes()).is_none());
        assert!(exposed.refusal(call("stat").as_bytes()).is_none());
        let refusal = exposed.refusal(call("write_file").as_bytes()).unwrap();
        let refusal: serde_json::Value = serde_json::from_slice(&refusal).unwrap();
        assert_eq!(refusal["id"], 7);
        assert_eq!(refusal["error"]["code"], NO_SUCH_TOOL);
        assert!(refusal["error"]["message"].as_str().unwrap().contains("\"write_file\""));
    }

    #[test]
    fn there_is_no_way_around() {
        let exposed = exposed(&["ok"]);
        let batch = format!("[{},{}]", call("ok"), call("no"));
        let refusal: serde_json::Value =
            serde_json::from_slice(&exposed.refusal(batch.as_bytes()).unwrap()).unwrap();
        assert_eq!(refusal.as_array().unwrap().len(), 2, "each of them is answered");
        let notification = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"no"}}"#;
        assert!(exposed.refusal(notification.as_bytes()).is_some());
        let escaped = r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"n\u006f"}}"#;
        assert!(exposed.refusal(escaped.as_bytes()).is_some());
        let nameless = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#;
        assert!(exposed.refusal(nameless.as_bytes()).is_some());
        let doubled =
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"no"}}"#;
        assert!(exposed.refusal(doubled.as_bytes()).is_some());
        let twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok","name":"no"}}"#;
        assert!(exposed.refusal(twice.as_bytes()).is_some());
        assert!(exposed.refusal(b"[{").is_some() && exposed.refusal(b"nonsense").is_some());
        assert!(exposed.refusal(br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).is_none());
    }

    #[test]
    fn lists_hold_what_is_exposed_and_keep_the_rest() {
        let exposed = exposed(&["a"]);
        let list =
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","x":1},{"name":"b"}],"ttlMs":5}}"#;
        let kept = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","x":1}],"ttlMs":5}}"#;
        let mut whole = Filtering::new(Some(&exposed), "application/json");
        assert!(whole.push(Bytes::copy_from_slice(list.as_bytes())).unwrap().is_empty());
        assert_eq!(whole.finish(), kept);
        for split in 0..list.len() {
            let stream = format!("id: 1\ndata: {list}\n\n");
            let (one, two) = stream.split_at(split);
            let mut events = Filtering::new(Some(&exposed), "text/event-stream; charset=utf-8");
            let mut out = Vec::new();
            for part in [one, two] {
                out.extend_from_slice(&events.push(Bytes::copy_from_slice(part.as_bytes())).unwrap());
            }
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(kept) && text.contains("id"), "{text}");
        }
        let other = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
        assert_eq!(exposed.filtered(other.as_bytes()), None);
    }
}
