//! Requests, in both directions.

use serde_json::{Map, Value, json};

use crate::llm::chat::{Call, Chat, Choice, Format, Media, Part, Role, Source, Thinking, Tool, Turn, object};
use crate::llm::json::{add, count, given, list, owned, put, text, unknown};
use crate::llm::refusal::Refusal;

/// Members that are understood.
const KNOWN: [&str; 15] = [
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "thinking",
    "output_config",
    "output_format",
    "stream",
    "metadata",
];
/// Members that mean something to Anthropic only, and without which the answer is as good.
const WISHES: [&str; 5] = ["service_tier", "cache_control", "context_management", "inference_geo", "speed"];

/// What an answer may have at most where nobody says so: this dialect insists on a number.
const MAX_TOKENS: u64 = 8192;
/// The same for the models of the third generation, which take no more.
const MAX_TOKENS_OF_OLD: u64 = 4096;

/// Reads a request.
///
/// # Errors
/// When it is none, or asks for what no other dialect can give.
pub fn decode(body: &Value) -> Result<Chat, Refusal> {
    let mut chat = Chat {
        model: owned(body, "model").unwrap_or_default(),
        max_tokens: count(body, "max_tokens"),
        temperature: given(body, "temperature").cloned(),
        top_p: given(body, "top_p").cloned(),
        top_k: given(body, "top_k").cloned(),
        stream: body.get("stream").and_then(Value::as_bool).unwrap_or_default(),
        user: body.get("metadata").and_then(|metadata| owned(metadata, "user_id")),
        stop: list(body, "stop_sequences").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        thinking: body.get("thinking").and_then(thinking),
        ..Chat::default()
    };
    for member in ["mcp_servers", "container"] {
        if given(body, member).is_some() {
            return Err(Refusal::wrong(member, "this model's provider has nothing like it"));
        }
    }
    let config = body.get("output_config").unwrap_or(&Value::Null);
    if let (Some(effort), None) = (text(config, "effort"), &chat.thinking) {
        chat.thinking = Some(Thinking::Effort(effort.to_owned()));
    }
    if let Some(format) = given(config, "format").or_else(|| given(body, "output_format")) {
        chat.format = Format::Schema {
            name: owned(format, "name").unwrap_or_else(|| "answer".to_owned()),
            description: None,
            schema: given(format, "schema").cloned().unwrap_or_else(|| json!({"type": "object"})),
            strict: Some(true),
        };
    }
    match body.get("system") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => chat.system.push(text.clone()),
        Some(Value::Array(parts)) => chat.system.extend(parts.iter().filter_map(|part| owned(part, "text"))),
        Some(_) => return Err(Refusal::wrong("system", "must be a text or a list of text blocks")),
    }
    for (i, tool) in list(body, "tools").iter().enumerate() {
        if text(tool, "type").is_some_and(|kind| kind != "custom") {
            let what = "is a tool that only Anthropic runs; this model's provider has none";
            return Err(Refusal::wrong(format!("tools[{i}].type"), what));
        }
        let name =
            owned(tool, "name").ok_or_else(|| Refusal::wrong(format!("tools[{i}].name"), "is missing"))?;
        chat.tools.push(Tool {
            name,
            description: owned(tool, "description"),
            schema: given(tool, "input_schema").cloned().unwrap_or_else(|| json!({"type": "object"})),
            strict: tool.get("strict").and_then(Value::as_bool),
        });
    }
    if let Some(choice) = given(body, "tool_choice") {
        chat.choice = Some(match text(choice, "type") {
            Some("auto") => Choice::Auto,
            Some("none") => Choice::None,
            Some("any") => Choice::Any,
            Some("tool") => Choice::Tool(
                owned(choice, "name").ok_or_else(|| Refusal::wrong("tool_choice.name", "is missing"))?,
            ),
            _ => return Err(Refusal::wrong("tool_choice.type", "must be auto, any, tool or none")),
        });
        let single = choice.get("disable_parallel_tool_use").and_then(Value::as_bool);
        chat.parallel = single.map(|single| !single);
    }
    let messages = body.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or_else(|| Refusal::wrong("messages", "must be a list of messages"))?;
    for (i, message) in messages.iter().enumerate() {
        let at = format!("messages[{i}]");
        let role = match text(message, "role") {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system") => {
                let content = content(message.get("content"), &format!("{at}.content"))?;
                chat.system.extend(content.into_iter().filter_map(|part| match part {
                    Part::Text(text) => Some(text),
                    _ => None,
                }));
                continue;
            }
            _ => return Err(Refusal::wrong(format!("{at}.role"), "must be user or assistant")),
        };
        let parts = content(message.get("content"), &format!("{at}.content"))?;
        match chat.turns.last_mut() {
            Some(last) if last.role == role => last.parts.extend(parts),
            _ => chat.turns.push(Turn { role, parts }),
        }
    }
    if chat.turns.is_empty() {
        return Err(Refusal::wrong("messages", "must hold something that a user says"));
    }
    chat.extra = unknown(body, &KNOWN);
    chat.dropped = WISHES.iter().filter(|wish| chat.extra.remove(**wish).is_some()).copied().collect();
    Ok(chat)
}

/// The `thinking` member.
pub(in crate::llm) fn thinking(thinking: &Value) -> Option<Thinking> {
    match text(thinking, "type") {
        Some("enabled") => Some(match count(thinking, "budget_tokens") {
            Some(tokens) => Thinking::Budget(tokens),
            None => Thinking::Adaptive,
        }),
        Some("adaptive") => Some(Thinking::Adaptive),
        Some("disabled") => Some(Thinking::Off),
        _ => None,
    }
}

fn content(content: Option<&Value>, at: &str) -> Result<Vec<Part>, Refusal> {
    let blocks = match content {
        Some(Value::String(text)) => return Ok(vec![Part::Text(text.clone())]),
        Some(Value::Array(blocks)) => blocks,
        _ => return Err(Refusal::wrong(at, "must be a text or a list of blocks")),
    };
    let mut parts = Vec::with_capacity(blocks.len());
    for (i, block) in blocks.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let missing = |what: &str| Refusal::wrong(format!("{at}.{what}"), "is missing");
        match text(block, "type") {
            Some("text") => parts.push(Part::Text(owned(block, "text").ok_or_else(|| missing("text"))?)),
            Some("image" | "document") => parts.push(media(block, &at)?),
            Some("thinking") => parts.push(Part::Reasoning {
                text: owned(block, "thinking").unwrap_or_default(),
                signature: owned(block, "signature").filter(|signature| !signature.is_empty()),
            }),
            Some("redacted_thinking") => parts.extend(owned(block, "data").map(Part::Redacted)),
            Some("tool_use") => parts.push(Part::Call(Call {
                id: owned(block, "id").ok_or_else(|| missing("id"))?,
                name: owned(block, "name").ok_or_else(|| missing("name"))?,
                arguments: given(block, "input").cloned().unwrap_or_else(|| json!({})),
                signature: owned(block, "thought_signature"),
            })),
            Some("tool_result") => {
                let inner = match block.get("content") {
                    None | Some(Value::Null) => Vec::new(),
                    inner => self::content(inner, &format!("{at}.content"))?,
                };
                parts.push(Part::Result {
                    id: owned(block, "tool_use_id").ok_or_else(|| missing("tool_use_id"))?,
                    parts: inner,
                    failed: block.get("is_error").and_then(Value::as_bool).unwrap_or_default(),
                });
            }
            Some("search_result") => parts.push(Part::Text(
                list(block, "content")
                    .iter()
                    .filter_map(|part| text(part, "text"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            )),
            _ => {
                let what = "is a block that this model's provider cannot take";
                return Err(Refusal::wrong(format!("{at}.type"), what));
            }
        }
    }
    Ok(parts)
}

fn media(block: &Value, at: &str) -> Result<Part, Refusal> {
    let source = block.get("source").unwrap_or(&Value::Null);
    let missing = |what: &str| Refusal::wrong(format!("{at}.source.{what}"), "is missing");
    let name = owned(block, "title");
    let document = text(block, "type") == Some("document");
    Ok(match text(source, "type") {
        Some("base64") => Part::Media(Media {
            kind: owned(source, "media_type").ok_or_else(|| missing("media_type"))?,
            name,
            source: Source::Base64(owned(source, "data").ok_or_else(|| missing("data"))?),
        }),
        Some("url") => Part::Media(Media {
            kind: if document { "application/pdf".to_owned() } else { String::new() },
            name,
            source: Source::Url(owned(source, "url").ok_or_else(|| missing("url"))?),
        }),
        Some("text") => Part::Text(owned(source, "data").unwrap_or_default()),
        _ => return Err(Refusal::wrong(format!("{at}.source.type"), "must be base64, url or text")),
    })
}

/// Writes a request.
pub fn encode(chat: &Chat) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), chat.model.clone().into());
    let wanted = chat.thinking.as_ref().filter(|_| chat.may_go_on_thinking());
    let thinking = wanted.and_then(|thinking| match thinking {
        Thinking::Off => None,
        // This dialect wants 1024 tokens at least.
        thinking => thinking.budget().map(|tokens| tokens.max(1024)),
    });
    let usual = if chat.model.contains("claude-3-")
        && !chat.model.contains("claude-3-5")
        && !chat.model.contains("claude-3-7")
    {
        MAX_TOKENS_OF_OLD
    } else {
        MAX_TOKENS
    };
    let max = chat.max_tokens.unwrap_or(usual);
    // What is thought counts, too, and must leave something to say.
    let max = thinking.filter(|budget| max <= *budget).map_or(max, |budget| budget.saturating_add(max));
    body.insert("max_tokens".into(), max.into());
    match (wanted, thinking) {
        (Some(Thinking::Adaptive), _) => _ = body.insert("thinking".into(), json!({"type": "adaptive"})),
        (_, Some(budget)) => {
            body.insert("thinking".into(), json!({"type": "enabled", "budget_tokens": budget}));
        }
        _ => {}
    }
    if !chat.system.is_empty() {
        body.insert("system".into(), chat.system.join("\n\n").into());
    }
    body.insert("messages".into(), messages(&chat.turns).into());
    if !chat.tools.is_empty() {
        body.insert("tools".into(), chat.tools.iter().map(tool).collect());
        let choice = match &chat.choice {
            Some(Choice::None) => Some(json!({"type": "none"})),
            // While it thinks, a model cannot be made to call (Extended thinking, "Limitations").
            Some(Choice::Any) if body.get("thinking").is_none() => Some(json!({"type": "any"})),
            Some(Choice::Tool(name)) if body.get("thinking").is_none() => {
                Some(json!({"type": "tool", "name": name}))
            }
            Some(_) => Some(json!({"type": "auto"})),
            None => chat.parallel.map(|_| json!({"type": "auto"})),
        };
        if let Some(mut choice) = choice {
            if let (Some(parallel), Some(choice)) = (chat.parallel, choice.as_object_mut())
                && chat.choice != Some(Choice::None)
            {
                choice.insert("disable_parallel_tool_use".into(), (!parallel).into());
            }
            body.insert("tool_choice".into(), choice);
        }
    }
    // Nor can it be told how to choose words.
    if body.get("thinking").is_none() {
        put(&mut body, "temperature", chat.temperature.as_ref().map(tempered));
        put(&mut body, "top_p", chat.top_p.clone());
        put(&mut body, "top_k", chat.top_k.clone());
    }
    if !chat.stop.is_empty() {
        body.insert("stop_sequences".into(), chat.stop.clone().into());
    }
    match &chat.format {
        Format::Text => {}
        Format::Json => {
            let order = "Answer with a single JSON object and nothing else.";
            let system = match body.get("system").and_then(Value::as_str) {
                Some(system) => format!("{system}\n\n{order}"),
                None => order.to_owned(),
            };
            body.insert("system".into(), system.into());
        }
        Format::Schema { schema, .. } => {
            body.insert("output_config".into(), json!({"format": {"type": "json_schema", "schema": schema}}));
        }
    }
    if let Some(user) = &chat.user {
        body.insert("metadata".into(), json!({ "user_id": user }));
    }
    if chat.stream {
        body.insert("stream".into(), true.into());
    }
    add(&mut body, &chat.extra);
    Value::Object(body)
}

/// A temperature of at most 1, which is as much as this dialect takes.
fn tempered(temperature: &Value) -> Value {
    if temperature.as_f64().is_some_and(|degrees| degrees > 1.0) { 1.into() } else { temperature.clone() }
}

fn tool(tool: &Tool) -> Value {
    let mut whole = Map::new();
    whole.insert("name".into(), tool.name.clone().into());
    put(&mut whole, "description", tool.description.clone());
    whole.insert("input_schema".into(), object_schema(&tool.schema));
    put(&mut whole, "strict", tool.strict.filter(|strict| *strict));
    Value::Object(whole)
}

/// A schema that says that it is one of an object, which this dialect insists on.
fn object_schema(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(members) = schema.as_object_mut() {
        members.entry("type").or_insert_with(|| "object".into());
        return schema;
    }
    json!({"type": "object"})
}

fn messages(turns: &[Turn]) -> Vec<Value> {
    let mut messages = Vec::with_capacity(turns.len());
    for turn in turns {
        let role = if turn.role == Role::User { "user" } else { "assistant" };
        // Results come first (Tool use, "Handling tool results").
        let (results, rest): (Vec<&Part>, Vec<&Part>) =
            turn.parts.iter().partition(|part| matches!(part, Part::Result { .. }));
        let blocks: Vec<Value> = results.into_iter().chain(rest).filter_map(block).collect();
        let content = match blocks.as_slice() {
            [] => continue,
            [only] if text(only, "type") == Some("text") => only.get("text").cloned().unwrap_or_default(),
            _ => blocks.into(),
        };
        messages.push(json!({"role": role, "content": content}));
    }
    messages
}

fn block(part: &Part) -> Option<Value> {
    Some(match part {
        // Empty blocks are refused.
        Part::Text(text) if text.is_empty() => return None,
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Media(media) => media_to(media),
        Part::Reasoning { text, signature: Some(signature) } => {
            json!({"type": "thinking", "thinking": text, "signature": signature})
        }
        // Without its signature a thought is not believed.
        Part::Reasoning { signature: None, .. } => return None,
        Part::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
        Part::Call(call) => call_to(call),
        Part::Result { id, parts, failed } => {
            let blocks: Vec<Value> = parts.iter().filter_map(block).collect();
            let content = match blocks.as_slice() {
                [only] if text(only, "type") == Some("text") => only.get("text").cloned().unwrap_or_default(),
                _ => blocks.into(),
            };
            let mut whole = json!({"type": "tool_result", "tool_use_id": id, "content": content});
            if let (true, Some(whole)) = (*failed, whole.as_object_mut()) {
                whole.insert("is_error".into(), true.into());
            }
            whole
        }
    })
}

/// A call as a message holds it.
pub(super) fn call_to(call: &Call) -> Value {
    let mut whole =
        json!({"type": "tool_use", "id": call.id, "name": call.name, "input": object(&call.arguments)});
    if let (Some(signature), Some(whole)) = (&call.signature, whole.as_object_mut()) {
        whole.insert("thought_signature".into(), signature.clone().into());
    }
    whole
}

fn media_to(media: &Media) -> Value {
    let kind = if media.is_image() { "image" } else { "document" };
    let source = match &media.source {
        Source::Base64(data) => json!({"type": "base64", "media_type": media.kind, "data": data}),
        Source::Url(url) => json!({"type": "url", "url": url}),
    };
    let mut block = json!({"type": kind, "source": source});
    if let (Some(name), Some(block)) = (&media.name, block.as_object_mut())
        && kind == "document"
    {
        block.insert("title".into(), name.clone().into());
    }
    block
}
