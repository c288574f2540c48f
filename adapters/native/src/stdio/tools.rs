//! Which arguments of which tools are mirrored in headers (2026-07-28 Streamable HTTP, "Custom Headers from Tool
//! Parameters"), learned from the lists that pass by.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use causeway::mcp::headers::{Mirrored, annotations};
use causeway::wire::jsonrpc::{Message, Splice};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The word that marks an argument.
const MARK: &[u8] = b"x-mcp-header";
/// How many tools with mirrored arguments are remembered.
const MAX_TOOLS: usize = 10_000;

/// What is known of the tools.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Only those that mirror anything.
    mirroring: HashMap<String, Arc<[Mirrored]>>,
    /// A list has been seen.
    listed: bool,
}

/// What a list has taught.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// The list as the client is to see it, if not as it came.
    pub(super) changed: Option<Bytes>,
    /// The tools that were left out, and why.
    pub(super) rejected: Vec<(String, String)>,
    /// Where the list goes on.
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    tools: &'a RawValue,
    #[serde(rename = "nextCursor")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    #[serde(default, rename = "inputSchema")]
    schema: Value,
}

impl Tools {
    /// Whether any list has been seen.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// No list is to be had, or one has been.
    pub(super) fn listed(&mut self) {
        self.listed = true;
    }

    /// The arguments of `tool` that are mirrored, if any are.
    pub(super) fn mirrored(&self, tool: &str) -> Option<Arc<[Mirrored]>> {
        self.mirroring.get(tool).cloned()
    }

    /// Learns from `answer`, the answer to a `tools/list`. A tool whose marks break the rules is taken out: this
    /// is the client of Streamable HTTP, so this is where that has to be done ("Schema Extension").
    pub(super) fn learn(&mut self, answer: &Bytes) -> Learned {
        let Ok(Message::Response { outcome: Ok(result), .. }) = Message::decode(answer) else {
            return Learned::default();
        };
        let Ok(Listed { tools, next }) = serde_json::from_str::<Listed<'_>>(result.get()) else {
            return Learned::default();
        };
        self.listed = true;
        let mut learned = Learned { next, ..Learned::default() };
        // Most lists mark nothing, and nothing has to be forgotten.
        let marked = tools.get().as_bytes().windows(MARK.len()).any(|part| part == MARK);
        if !marked && self.mirroring.is_empty() {
            return learned;
        }
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(tools.get()) else { return learned };
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            let Ok(tool) = serde_json::from_str::<Tool>(item.get()) else {
                // What is odd about it is for the client to say.
                kept.push(item.get());
                continue;
            };
            self.mirroring.remove(&tool.name);
            match annotations(&tool.schema) {
                Ok(marks) => {
                    kept.push(item.get());
                    if !marks.is_empty() && self.mirroring.len() < MAX_TOOLS {
                        self.mirroring.insert(tool.name, marks.into());
                    }
                }
                Err(why) => learned.rejected.push((tool.name, why)),
            }
        }
        if !learned.rejected.is_empty() {
            let mut splice = Splice::new(answer);
            splice.replace(tools, format!("[{}]", kept.join(",")).into_bytes());
            learned.changed = Some(splice.finish());
        }
        learned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(tools: &Value) -> Bytes {
        json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools, "nextCursor": "2", "ttlMs": 1}})
            .to_string()
            .into()
    }

    fn tool(name: &str, property: Value) -> Value {
        json!({"name": name, "inputSchema": {"type": "object", "properties": {"a": property}}})
    }

    #[test]
    fn marks_are_remembered_and_forgotten() {
        let mut tools = Tools::default();
        assert!(!tools.is_listed());
        let marked = tool("one", json!({"type": "string", "x-mcp-header": "A"}));
        let learned = tools.learn(&list(&json!([marked, tool("two", json!({}))])));
        assert!(tools.is_listed() && learned.changed.is_none() && learned.next.as_deref() == Some("2"));
        assert_eq!(tools.mirrored("one").unwrap()[0].header, "mcp-param-a");
        assert!(tools.mirrored("two").is_none());
        tools.learn(&list(&json!([tool("one", json!({}))])));
        assert!(tools.mirrored("one").is_none());
    }

    #[test]
    fn a_tool_that_breaks_the_rules_is_left_out() {
        let bad = tool("bad", json!({"type": "number", "x-mcp-header": "A"}));
        let learned =
            Tools::default().learn(&list(&json!([tool("one", json!({})), bad, tool("two", json!({}))])));
        assert_eq!(learned.rejected.len(), 1);
        assert_eq!(learned.rejected[0].0, "bad");
        let changed: Value = serde_json::from_slice(&learned.changed.unwrap()).unwrap();
        let names: Vec<_> =
            changed["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(changed["result"]["ttlMs"], 1);
    }

    #[test]
    fn what_is_no_list_teaches_nothing() {
        let mut tools = Tools::default();
        for answer in [
            "garbage",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        ] {
            tools.learn(&Bytes::from(answer));
        }
        assert!(!tools.is_listed());
    }
}
