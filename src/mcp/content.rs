//! Results of a modern server as an earlier revision has them.
//!
//! What a revision lacks is told in words where it stood, or left out where the words are there already; what it has
//! is **never** touched.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::revision::Revision;

/// `result` of `method` for a client of `revision`; `None` if it is one as it stands.
#[must_use]
pub fn adapted(method: &str, result: &str, revision: Revision) -> Option<String> {
    match method {
        "tools/call" => call(result, revision),
        "prompts/get" if revision < Revision::V2025_06_18 => prompt(result, revision),
        "tools/list" => tools(result),
        _ => None,
    }
}

/// A tool's definition for clients that know schemas of objects only: without an output schema of anything else
/// (2026-07-28 changelog, minor change 10). `None` if it is one as it stands.
#[must_use]
pub fn adapted_tool(tool: &RawValue) -> Option<Box<RawValue>> {
    let mut members: Map<String, Value> = serde_json::from_str(tool.get()).ok()?;
    let schema = members.get("outputSchema")?;
    if schema.get("type").and_then(Value::as_str) == Some("object") {
        return None;
    }
    members.shift_remove("outputSchema");
    serde_json::value::to_raw_value(&members).ok()
}

fn tools(result: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Tools<'a> {
        #[serde(borrow)]
        tools: Vec<&'a RawValue>,
    }
    if !result.contains("\"outputSchema\"") {
        return None;
    }
    let listed: Tools<'_> = serde_json::from_str(result).ok()?;
    let mut splice = crate::wire::jsonrpc::Splice::new(result.as_bytes());
    let mut changed = false;
    for tool in listed.tools {
        if let Some(adapted) = adapted_tool(tool) {
            splice.replace(tool, adapted.get().as_bytes().to_vec());
            changed = true;
        }
    }
    changed.then(|| String::from_utf8_lossy(&splice.finish()).into_owned())
}

fn call(result: &str, revision: Revision) -> Option<String> {
    let old = revision < Revision::V2025_06_18;
    if !result.contains("\"structuredContent\"") && !old {
        return None;
    }
    let mut members: Map<String, Value> = serde_json::from_str(result).ok()?;
    let mut changed = false;
    if old && let Some(content) = members.get_mut("content").and_then(Value::as_array_mut) {
        for block in content {
            changed |= adapt(block, revision);
        }
    }
    let structured = members.get("structuredContent");
    if structured.is_some_and(|content| old || !content.is_object())
        && let Some(structured) = members.shift_remove("structuredContent")
    {
        changed = true;
        // A server that gives structured content should say the same in words as well (2026-07-28 tools, "Structured
        // Content"); where it has not, this is all there is.
        let content = members.entry("content").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(content) = content.as_array_mut().filter(|content| content.is_empty()) {
            content.push(json!({"type": "text", "text": structured.to_string()}));
        }
    }
    changed.then(|| Value::Object(members).to_string())
}

fn prompt(result: &str, revision: Revision) -> Option<String> {
    let mut members: Map<String, Value> = serde_json::from_str(result).ok()?;
    let mut changed = false;
    for message in members.get_mut("messages")?.as_array_mut()? {
        if let Some(content) = message.get_mut("content") {
            changed |= adapt(content, revision);
        }
    }
    changed.then(|| Value::Object(members).to_string())
}

/// Puts a block of content that `revision` lacks into words.
fn adapt(block: &mut Value, revision: Revision) -> bool {
    let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
    let words = match text("type") {
        "audio" if revision < Revision::V2025_03_26 => format!("[audio: {}]", text("mimeType")),
        "resource_link" if revision < Revision::V2025_06_18 => {
            let about = [text("title"), text("description"), text("mimeType")];
            let about: Vec<&str> = about.into_iter().filter(|part| !part.is_empty()).collect();
            let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
            format!("[resource: {} {}{about}]", text("name"), text("uri"))
        }
        _ => return false,
    };
    *block = json!({"type": "text", "text": words});
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, revision: Revision, input: &Value, expect: Option<Value>) {
        let got = adapted(method, &input.to_string(), revision);
        let got = got.map(|text| serde_json::from_str::<Value>(&text).unwrap());
        assert_eq!(got, expect, "{method} {revision:?} {input}");
    }

    #[test]
    fn what_a_revision_lacks_is_told_in_words() {
        let link = json!({"type": "resource_link", "name": "n", "uri": "u:x", "mimeType": "a/b"});
        let words = json!({"type": "text", "text": "[resource: n u:x (a/b)]"});
        let audio = json!({"type": "audio", "data": "AAAA", "mimeType": "audio/wav"});
        check("tools/call", Revision::V2025_06_18, &json!({"content": [link, audio]}), None);
        check(
            "tools/call",
            Revision::V2025_03_26,
            &json!({"content": [link, audio], "x": 1}),
            Some(json!({"content": [words, audio], "x": 1})),
        );
        check(
            "tools/call",
            Revision::V2024_11_05,
            &json!({"content": [audio]}),
            Some(json!({"content": [{"type": "text", "text": "[audio: audio/wav]"}]})),
        );
        check(
            "prompts/get",
            Revision::V2025_03_26,
            &json!({"messages": [{"role": "user", "content": link}]}),
            Some(json!({"messages": [{"role": "user", "content": words}]})),
        );
    }

    #[test]
    fn structured_content_is_of_objects_only() {
        let list = json!({"content": [{"type": "text", "text": "[1]"}], "structuredContent": [1]});
        check(
            "tools/call",
            Revision::V2025_11_25,
            &list,
            Some(json!({"content": [{"type": "text", "text": "[1]"}]})),
        );
        check(
            "tools/call",
            Revision::V2025_11_25,
            &json!({"structuredContent": [1]}),
            Some(json!({"content": [{"type": "text", "text": "[1]"}]})),
        );
        check(
            "tools/call",
            Revision::V2025_06_18,
            &json!({"content": [], "structuredContent": {"a": 1}}),
            None,
        );
        let object = json!({"name": "o", "outputSchema": {"type": "object"}});
        let array = json!({"name": "l", "outputSchema": {"type": "array"}});
        check(
            "tools/list",
            Revision::V2025_11_25,
            &json!({"tools": [object, array]}),
            Some(json!({"tools": [object, {"name": "l"}]})),
        );
        check("tools/list", Revision::V2025_11_25, &json!({"tools": [object]}), None);
    }
}
