//! A server's question, as a conversation and wishes.

use serde_json::{Map, Value};

use crate::llm::chat::{Call, Chat, Choice, Media, Part, Role, Source, Tool, Turn};
use crate::llm::json::{count, given, list, owned, text};
use crate::llm::refusal::Refusal;

/// Hints that are looked at, and how long each may be.
const HINTS: usize = 16;
const HINT: usize = 200;

/// Which models a server would like best.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wishes {
    /// Parts of names, in lower case, the dearest first.
    pub(super) hints: Vec<String>,
    /// How much cost, speed and intelligence count.
    pub(super) priorities: (f64, f64, f64),
}

/// Reads the parameters of a `sampling/createMessage`; an answer may have `most` tokens.
pub(super) fn read(params: &Value, most: u64) -> Result<(Chat, Wishes), Refusal> {
    let mut chat = Chat {
        max_tokens: Some(count(params, "maxTokens").unwrap_or(most).clamp(1, most)),
        temperature: given(params, "temperature").filter(|value| value.is_number()).cloned(),
        system: owned(params, "systemPrompt").filter(|text| !text.is_empty()).into_iter().collect(),
        user: given(params, "metadata").and_then(|metadata| owned(metadata, "user_id")),
        ..Chat::default()
    };
    let stop = list(params, "stopSequences").iter().filter_map(Value::as_str);
    chat.stop = stop.filter(|text| !text.is_empty()).map(str::to_owned).collect();
    for (i, tool) in list(params, "tools").iter().enumerate() {
        let name = owned(tool, "name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Refusal::wrong(format!("tools[{i}].name"), "is missing"))?;
        let schema = given(tool, "inputSchema").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        chat.tools.push(Tool { name, description: owned(tool, "description"), schema, strict: None });
    }
    chat.choice = match given(params, "toolChoice").and_then(|choice| text(choice, "mode")) {
        None => None,
        Some("auto") => Some(Choice::Auto),
        Some("required") => Some(Choice::Any),
        Some("none") => Some(Choice::None),
        Some(_) => return Err(Refusal::wrong("toolChoice.mode", "must be auto, required or none")),
    };
    for (i, message) in list(params, "messages").iter().enumerate() {
        self::message(message, &format!("messages[{i}]"), &mut chat)?;
    }
    if chat.turns.is_empty() {
        return Err(Refusal::wrong("messages", "must hold at least one message"));
    }
    answered(&chat)?;
    if text(params, "includeContext").is_some_and(|wish| wish != "none") {
        chat.dropped.push("includeContext");
    }
    let meta = given(params, "metadata").and_then(Value::as_object);
    if meta.is_some_and(|meta| meta.keys().any(|key| key != "user_id")) {
        chat.dropped.push("metadata");
    }
    Ok((chat, wishes(params)))
}

fn wishes(params: &Value) -> Wishes {
    let Some(wishes) = given(params, "modelPreferences") else { return Wishes::default() };
    let hints = list(wishes, "hints").iter().take(HINTS).filter_map(|hint| text(hint, "name"));
    let hints = hints.filter(|hint| (1..=HINT).contains(&hint.len()));
    let priority = |key: &str| {
        let value = wishes.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 }
    };
    Wishes {
        hints: hints.map(str::to_ascii_lowercase).collect(),
        priorities: (priority("costPriority"), priority("speedPriority"), priority("intelligencePriority")),
    }
}

fn message(message: &Value, at: &str, chat: &mut Chat) -> Result<(), Refusal> {
    let role = match text(message, "role") {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => return Err(Refusal::wrong(format!("{at}.role"), "must be user or assistant")),
    };
    // One block alone until 2025-11-25; one or several since.
    let blocks = match message.get("content") {
        Some(Value::Array(blocks)) => blocks.as_slice(),
        Some(block @ Value::Object(_)) => std::slice::from_ref(block),
        _ => {
            return Err(Refusal::wrong(format!("{at}.content"), "must be a content block or a list of them"));
        }
    };
    let mut parts = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        parts.push(part(block, &format!("{at}.content[{i}]"), role)?);
    }
    let results = parts.iter().filter(|part| matches!(part, Part::Result { .. })).count();
    if results > 0 && results < parts.len() {
        let what = "a message with tool results must hold nothing else";
        return Err(Refusal::wrong(format!("{at}.content"), what));
    }
    match chat.turns.last_mut() {
        _ if parts.is_empty() => {}
        Some(last) if last.role == role && results == 0 => last.parts.extend(parts),
        _ => chat.turns.push(Turn { role, parts }),
    }
    Ok(())
}

fn part(block: &Value, at: &str, role: Role) -> Result<Part, Refusal> {
    let missing = |what: &str| Refusal::wrong(format!("{at}.{what}"), "is missing");
    match (text(block, "type"), role) {
        (Some("tool_use"), Role::Assistant) => Ok(Part::Call(Call {
            id: owned(block, "id").ok_or_else(|| missing("id"))?,
            name: owned(block, "name").ok_or_else(|| missing("name"))?,
            arguments: given(block, "input").cloned().unwrap_or_else(|| Value::Object(Map::new())),
            signature: given(block, "_meta").and_then(|meta| owned(meta, super::write::SIGNATURE)),
        })),
        (Some("tool_result"), Role::User) => {
            let mut parts = Vec::new();
            for (i, block) in list(block, "content").iter().enumerate() {
                parts.push(plain(block, &format!("{at}.content[{i}]"))?);
            }
            if let Some(data) = given(block, "structuredContent").filter(|_| parts.is_empty()) {
                parts.push(Part::Text(data.to_string()));
            }
            Ok(Part::Result {
                id: owned(block, "toolUseId").ok_or_else(|| missing("toolUseId"))?,
                parts,
                failed: block.get("isError").and_then(Value::as_bool).unwrap_or_default(),
            })
        }
        (Some("tool_use"), Role::User) => {
            Err(Refusal::wrong(format!("{at}.type"), "tool_use is for messages of the assistant"))
        }
        (Some("tool_result"), Role::Assistant) => {
            Err(Refusal::wrong(format!("{at}.type"), "tool_result is for messages of the user"))
        }
        _ => plain(block, at),
    }
}

/// A block that is no call of a tool.
fn plain(block: &Value, at: &str) -> Result<Part, Refusal> {
    let missing = |what: &str| Refusal::wrong(format!("{at}.{what}"), "is missing");
    let media = |of: &Value, data: &str, kind: &str| {
        let source = Source::Base64(owned(of, data).ok_or_else(|| missing(data))?);
        let kind = owned(of, "mimeType").unwrap_or_else(|| kind.to_owned());
        Ok(Part::Media(Media { kind, name: None, source }))
    };
    match text(block, "type") {
        Some("text") => Ok(Part::Text(owned(block, "text").ok_or_else(|| missing("text"))?)),
        Some("image") => media(block, "data", "image/png"),
        Some("audio") => media(block, "data", "audio/wav"),
        Some("resource_link") => Ok(Part::Text(owned(block, "uri").ok_or_else(|| missing("uri"))?)),
        Some("resource") => {
            let resource = given(block, "resource").ok_or_else(|| missing("resource"))?;
            match owned(resource, "text") {
                Some(text) => Ok(Part::Text(text)),
                None => media(resource, "blob", "application/octet-stream"),
            }
        }
        _ => {
            let what = "must be text, image, audio, tool_use or tool_result";
            Err(Refusal::wrong(format!("{at}.type"), what))
        }
    }
}

/// That every call of a tool has its result before anything else is said ("Tool Use and Result Balance").
fn answered(chat: &Chat) -> Result<(), Refusal> {
    for (i, turn) in chat.turns.iter().enumerate() {
        let calls = turn.parts.iter().filter_map(|part| match part {
            Part::Call(call) => Some(call.id.as_str()),
            _ => None,
        });
        for id in calls {
            let next = chat.turns.get(i + 1).into_iter().flat_map(|turn| &turn.parts);
            if !next.into_iter().any(|part| matches!(part, Part::Result { id: of, .. } if of == id)) {
                return Err(Refusal::wrong(
                    "messages",
                    "a tool_use has no tool_result in the message after it",
                ));
            }
        }
    }
    Ok(())
}
