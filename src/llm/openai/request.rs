//! Requests, in both directions.

use serde_json::{Map, Value, json};

use crate::config::types::ProviderKind;
use crate::llm::chat::{
    Call, Chat, Choice, Format, Media, Part, Role, Source, Thinking, Tool, Turn, parsed, unparsed,
};
use crate::llm::json::{add, count, given, list, owned, put, text, unknown};
use crate::llm::refusal::Refusal;

/// Members that are understood.
const KNOWN: [&str; 22] = [
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "response_format",
    "reasoning_effort",
    "reasoning",
    "thinking",
    "stream",
    "stream_options",
    "user",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "n",
];
/// Members that mean something to OpenAI only, and without which the answer is as good.
const WISHES: [&str; 11] = [
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "store",
    "metadata",
    "service_tier",
    "prediction",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
];

/// Reads a request.
///
/// # Errors
/// When it is none, or asks for what no other dialect can give.
pub fn decode(body: &Value) -> Result<Chat, Refusal> {
    let mut chat = Chat {
        model: owned(body, "model").unwrap_or_default(),
        max_tokens: count(body, "max_completion_tokens").or_else(|| count(body, "max_tokens")),
        temperature: given(body, "temperature").cloned(),
        top_p: given(body, "top_p").cloned(),
        top_k: given(body, "top_k").cloned(),
        parallel: body.get("parallel_tool_calls").and_then(Value::as_bool),
        stream: body.get("stream").and_then(Value::as_bool).unwrap_or_default(),
        user: owned(body, "user"),
        ..Chat::default()
    };
    chat.wants_usage = body
        .get("stream_options")
        .is_some_and(|options| options.get("include_usage") == Some(&Value::Bool(true)));
    for (member, why) in [
        ("functions", "is of an older version of the API: use tools"),
        ("audio", "this model answers in words only"),
        ("web_search_options", "this model cannot search the web by itself"),
    ] {
        if given(body, member).is_some() {
            return Err(Refusal::wrong(member, why));
        }
    }
    if count(body, "n").is_some_and(|n| n != 1) {
        return Err(Refusal::wrong("n", "this model gives one answer at a time"));
    }
    chat.stop = match body.get("stop") {
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => stops.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    for key in ["seed", "presence_penalty", "frequency_penalty"] {
        put(&mut chat.tuning, key, given(body, key).cloned());
    }
    chat.thinking = thinking(body);
    chat.format = format(body)?;
    chat.choice = choice(body)?;
    for (i, tool) in list(body, "tools").iter().enumerate() {
        let function = tool.get("function").unwrap_or(&Value::Null);
        let name = owned(function, "name");
        let name = name.ok_or_else(|| Refusal::wrong(format!("tools[{i}].function.name"), "is missing"))?;
        chat.tools.push(Tool {
            name,
            description: owned(function, "description"),
            schema: given(function, "parameters").cloned().unwrap_or_else(|| json!({"type": "object"})),
            strict: function.get("strict").and_then(Value::as_bool),
        });
    }
    let messages = body.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or_else(|| Refusal::wrong("messages", "must be a list of messages"))?;
    for (i, message) in messages.iter().enumerate() {
        self::message(message, &format!("messages[{i}]"), &mut chat)?;
    }
    if chat.turns.is_empty() {
        return Err(Refusal::wrong("messages", "must hold something that a user says"));
    }
    chat.extra = unknown(body, &KNOWN);
    chat.dropped = WISHES.iter().filter(|wish| chat.extra.remove(**wish).is_some()).copied().collect();
    chat.extra.remove("modalities");
    Ok(chat)
}

fn thinking(body: &Value) -> Option<Thinking> {
    if let Some(effort) = text(body, "reasoning_effort") {
        return Some(effort_of(effort));
    }
    if let Some(reasoning) = given(body, "reasoning") {
        return match (count(reasoning, "max_tokens"), text(reasoning, "effort")) {
            (Some(tokens), _) => Some(Thinking::Budget(tokens)),
            (None, Some(effort)) => Some(effort_of(effort)),
            (None, None) => (reasoning.get("enabled") == Some(&Value::Bool(false))).then_some(Thinking::Off),
        };
    }
    crate::llm::anthropic::thinking(body.get("thinking")?)
}

fn effort_of(effort: &str) -> Thinking {
    if effort == "none" { Thinking::Off } else { Thinking::Effort(effort.to_owned()) }
}

fn format(body: &Value) -> Result<Format, Refusal> {
    let Some(format) = given(body, "response_format") else { return Ok(Format::Text) };
    match text(format, "type") {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Json),
        Some("json_schema") => {
            let definition = format.get("json_schema").unwrap_or(&Value::Null);
            let schema = given(definition, "schema").cloned();
            Ok(Format::Schema {
                name: owned(definition, "name").unwrap_or_else(|| "answer".to_owned()),
                description: owned(definition, "description"),
                schema: schema.unwrap_or_else(|| json!({"type": "object"})),
                strict: definition.get("strict").and_then(Value::as_bool),
            })
        }
        _ => Err(Refusal::wrong("response_format.type", "must be text, json_object or json_schema")),
    }
}

fn choice(body: &Value) -> Result<Option<Choice>, Refusal> {
    Ok(match given(body, "tool_choice") {
        None => None,
        Some(Value::String(word)) => Some(match word.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "required" => Choice::Any,
            _ => return Err(Refusal::wrong("tool_choice", "must be auto, none, required or a function")),
        }),
        Some(choice) => match choice.get("function").and_then(|function| owned(function, "name")) {
            Some(name) => Some(Choice::Tool(name)),
            None => return Err(Refusal::wrong("tool_choice.function.name", "is missing")),
        },
    })
}

fn message(message: &Value, at: &str, chat: &mut Chat) -> Result<(), Refusal> {
    match text(message, "role") {
        Some("system" | "developer") => {
            let words = words(message.get("content"), &format!("{at}.content"))?;
            chat.system.push(words);
        }
        Some("user") => {
            let parts = content(message.get("content"), &format!("{at}.content"))?;
            if parts.is_empty() {
                return Err(Refusal::wrong(format!("{at}.content"), "is empty"));
            }
            say(&mut chat.turns, Role::User, parts);
        }
        Some("assistant") => {
            let mut parts = thoughts(message);
            if let Some(Value::String(_) | Value::Array(_)) = message.get("content") {
                parts.extend(content(message.get("content"), &format!("{at}.content"))?);
            }
            if let Some(refusal) = text(message, "refusal") {
                parts.push(Part::Text(refusal.to_owned()));
            }
            for (i, call) in list(message, "tool_calls").iter().enumerate() {
                let function = call.get("function").unwrap_or(&Value::Null);
                let name = owned(function, "name").ok_or_else(|| {
                    Refusal::wrong(format!("{at}.tool_calls[{i}].function.name"), "is missing")
                })?;
                parts.push(Part::Call(Call {
                    id: owned(call, "id").unwrap_or_else(|| format!("call_{i}")),
                    name,
                    arguments: parsed(text(function, "arguments").unwrap_or_default()),
                    signature: call
                        .pointer("/extra_content/google/thought_signature")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                }));
            }
            if !parts.is_empty() {
                say(&mut chat.turns, Role::Assistant, parts);
            }
        }
        Some("tool") => {
            let id = owned(message, "tool_call_id")
                .ok_or_else(|| Refusal::wrong(format!("{at}.tool_call_id"), "is missing"))?;
            let parts = content(message.get("content"), &format!("{at}.content"))?;
            say(&mut chat.turns, Role::User, vec![Part::Result { id, parts, failed: false }]);
        }
        _ => {
            let what = "must be system, developer, user, assistant or tool";
            return Err(Refusal::wrong(format!("{at}.role"), what));
        }
    }
    Ok(())
}

/// Adds what `role` says. Dialects that insist on turns by turns get them; who speaks twice has one turn.
fn say(turns: &mut Vec<Turn>, role: Role, parts: Vec<Part>) {
    match turns.last_mut() {
        Some(last) if last.role == role => last.parts.extend(parts),
        _ => turns.push(Turn { role, parts }),
    }
}

fn thoughts(message: &Value) -> Vec<Part> {
    let mut parts = Vec::new();
    for detail in list(message, "reasoning_details") {
        match text(detail, "type") {
            Some("reasoning.text") => parts.push(Part::Reasoning {
                text: owned(detail, "text").unwrap_or_default(),
                signature: owned(detail, "signature"),
            }),
            Some("reasoning.encrypted") => parts.extend(owned(detail, "data").map(Part::Redacted)),
            _ => {}
        }
    }
    if parts.is_empty()
        && let Some(text) = text(message, "reasoning_content").or_else(|| text(message, "reasoning"))
    {
        parts.push(Part::Reasoning { text: text.to_owned(), signature: None });
    }
    parts
}

/// Content that can be words only.
fn words(content: Option<&Value>, at: &str) -> Result<String, Refusal> {
    match content {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| text(part, "text")).collect();
            Ok(texts.join("\n"))
        }
        _ => Err(Refusal::wrong(at, "must be a text or a list of text parts")),
    }
}

fn content(content: Option<&Value>, at: &str) -> Result<Vec<Part>, Refusal> {
    let parts = match content {
        Some(Value::String(text)) => return Ok(vec![Part::Text(text.clone())]),
        Some(Value::Array(parts)) => parts,
        _ => return Err(Refusal::wrong(at, "must be a text or a list of parts")),
    };
    let mut found = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let missing = |what: &str| Refusal::wrong(format!("{at}[{i}].{what}"), "is missing");
        found.push(match text(part, "type") {
            Some("text") => Part::Text(owned(part, "text").ok_or_else(|| missing("text"))?),
            Some("refusal") => Part::Text(owned(part, "refusal").unwrap_or_default()),
            Some("image_url") => {
                let image = part.get("image_url");
                let url = image.and_then(|image| text(image, "url").or_else(|| image.as_str()));
                Part::Media(Media::of_url(url.ok_or_else(|| missing("image_url.url"))?))
            }
            Some("input_audio") => {
                let audio = part.get("input_audio").unwrap_or(&Value::Null);
                let data = owned(audio, "data").ok_or_else(|| missing("input_audio.data"))?;
                let kind = format!("audio/{}", text(audio, "format").unwrap_or("wav"));
                Part::Media(Media { kind, name: None, source: Source::Base64(data) })
            }
            Some("file") => {
                let file = part.get("file").unwrap_or(&Value::Null);
                let data = text(file, "file_data").ok_or_else(|| missing("file.file_data"))?;
                let mut media = Media::of_url(data);
                media.name = owned(file, "filename");
                Part::Media(media)
            }
            _ => {
                let what = "must be text, image_url, input_audio or file";
                return Err(Refusal::wrong(format!("{at}[{i}].type"), what));
            }
        });
    }
    Ok(found)
}

/// Writes a request for a provider of `kind`.
pub fn encode(chat: &Chat, kind: ProviderKind) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), chat.model.clone().into());
    body.insert("messages".into(), messages(chat, kind).into());
    if !chat.tools.is_empty() {
        body.insert("tools".into(), chat.tools.iter().map(tool).collect());
        put(&mut body, "parallel_tool_calls", chat.parallel);
        put(&mut body, "tool_choice", chat.choice.as_ref().map(choice_to));
    }
    // OpenAI's thinking models refuse the older name; servers that imitate it often know no other.
    let newest = matches!(kind, ProviderKind::Openai | ProviderKind::Azure);
    put(&mut body, if newest { "max_completion_tokens" } else { "max_tokens" }, chat.max_tokens);
    put(&mut body, "temperature", chat.temperature.clone());
    put(&mut body, "top_p", chat.top_p.clone());
    if !newest {
        put(&mut body, "top_k", chat.top_k.clone());
    }
    add(&mut body, &chat.tuning);
    if !chat.stop.is_empty() {
        body.insert("stop".into(), chat.stop.clone().into());
    }
    match &chat.format {
        Format::Text => {}
        Format::Json => _ = body.insert("response_format".into(), json!({"type": "json_object"})),
        Format::Schema { name, description, schema, strict } => {
            let mut definition = Map::new();
            definition.insert("name".into(), name.clone().into());
            put(&mut definition, "description", description.clone());
            definition.insert("schema".into(), schema.clone());
            definition.insert("strict".into(), strict.unwrap_or(true).into());
            body.insert("response_format".into(), json!({"type": "json_schema", "json_schema": definition}));
        }
    }
    match (&chat.thinking, kind) {
        (Some(Thinking::Budget(tokens)), ProviderKind::Openrouter) => {
            body.insert("reasoning".into(), json!({ "max_tokens": tokens }));
        }
        (Some(thinking), ProviderKind::Openrouter) => {
            if let Some(effort) = thinking.effort() {
                body.insert("reasoning".into(), json!({ "effort": effort }));
            }
        }
        (Some(thinking), _) => put(&mut body, "reasoning_effort", thinking.effort()),
        (None, _) => {}
    }
    put(&mut body, "user", chat.user.clone());
    if chat.stream {
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    add(&mut body, &chat.extra);
    Value::Object(body)
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool.name.clone().into());
    put(&mut function, "description", tool.description.clone());
    function.insert("parameters".into(), tool.schema.clone());
    put(&mut function, "strict", tool.strict);
    json!({"type": "function", "function": function})
}

fn choice_to(choice: &Choice) -> Value {
    match choice {
        Choice::Auto => "auto".into(),
        Choice::None => "none".into(),
        Choice::Any => "required".into(),
        Choice::Tool(name) => json!({"type": "function", "function": {"name": name}}),
    }
}

fn messages(chat: &Chat, kind: ProviderKind) -> Vec<Value> {
    let mut messages = Vec::new();
    if !chat.system.is_empty() {
        messages.push(json!({"role": "system", "content": chat.system.join("\n\n")}));
    }
    for turn in &chat.turns {
        match turn.role {
            Role::User => user(&turn.parts, &mut messages),
            Role::Assistant => messages.push(assistant(&turn.parts, kind)),
        }
    }
    messages
}

fn user(parts: &[Part], messages: &mut Vec<Value>) {
    let mut said = Vec::new();
    for part in parts {
        if let Part::Result { id, parts, failed } = part {
            let mut words = texts(parts);
            if *failed {
                words.insert_str(0, "Error: ");
            }
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": words}));
            // Here a tool answers in words only: what else there is the user shows.
            said.extend(parts.iter().filter(|part| matches!(part, Part::Media(_))).filter_map(part_to));
        } else {
            said.extend(part_to(part));
        }
    }
    let content = match said.as_slice() {
        [] => return,
        [only] if text(only, "type") == Some("text") => only.get("text").cloned().unwrap_or_default(),
        _ => said.into(),
    };
    messages.push(json!({"role": "user", "content": content}));
}

fn texts(parts: &[Part]) -> String {
    let texts: Vec<&str> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    texts.join("\n")
}

fn part_to(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Media(media) if media.is_image() => {
            json!({"type": "image_url", "image_url": {"url": media.url()}})
        }
        Part::Media(Media { kind, source: Source::Base64(data), .. }) if kind.starts_with("audio/") => {
            let format = kind.strip_prefix("audio/").unwrap_or("wav");
            json!({"type": "input_audio", "input_audio": {"data": data, "format": format}})
        }
        Part::Media(media) => {
            let name = media.name.as_deref().unwrap_or("file");
            json!({"type": "file", "file": {"filename": name, "file_data": media.url()}})
        }
        Part::Reasoning { .. } | Part::Redacted(_) | Part::Call(_) | Part::Result { .. } => return None,
    })
}

fn assistant(parts: &[Part], kind: ProviderKind) -> Value {
    let words = texts(parts);
    let calls: Vec<Value> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Call(call) => Some(call_to(call)),
            _ => None,
        })
        .collect();
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = if words.is_empty() && !calls.is_empty() { Value::Null } else { words.into() };
    message.insert("content".into(), content);
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    let details = details(parts);
    // Others refuse members that they do not know.
    if kind == ProviderKind::Openrouter && !details.is_empty() {
        message.insert("reasoning_details".into(), details.into());
    }
    Value::Object(message)
}

/// A call as a message holds it.
pub(super) fn call_to(call: &Call) -> Value {
    let function = json!({"name": call.name, "arguments": unparsed(&call.arguments)});
    let mut whole = json!({"id": call.id, "type": "function", "function": function});
    if let (Some(signature), Some(whole)) = (&call.signature, whole.as_object_mut()) {
        whole.insert("extra_content".into(), json!({"google": {"thought_signature": signature}}));
    }
    whole
}

/// Thoughts that a provider wants back, in OpenRouter's form. Those without a signature are nothing to it.
pub(super) fn details(parts: &[Part]) -> Vec<Value> {
    let detail = |part: &Part| match part {
        Part::Reasoning { text, signature: Some(signature) } => {
            Some(json!({"type": "reasoning.text", "text": text, "signature": signature}))
        }
        Part::Redacted(data) => Some(json!({"type": "reasoning.encrypted", "data": data})),
        _ => None,
    };
    parts.iter().filter_map(detail).collect()
}
