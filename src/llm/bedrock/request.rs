//! Requests.

use serde_json::{Map, Value, json};

use crate::llm::chat::{Chat, Choice, Format, Media, Part, Role, Source, Thinking, Tool, object};
use crate::llm::json::put;
use crate::llm::refusal::Refusal;

/// Writes a request. The model is named in the URL.
///
/// # Errors
/// When it holds what this dialect cannot.
pub fn encode(chat: &Chat) -> Result<Value, Refusal> {
    let mut body = Map::new();
    if !chat.system.is_empty() {
        let blocks: Vec<Value> = chat.system.iter().map(|text| json!({ "text": text })).collect();
        body.insert("system".into(), blocks.into());
    }
    let mut messages = Vec::new();
    for turn in &chat.turns {
        let role = if turn.role == Role::User { "user" } else { "assistant" };
        let (results, rest): (Vec<&Part>, Vec<&Part>) =
            turn.parts.iter().partition(|part| matches!(part, Part::Result { .. }));
        let mut blocks = Vec::new();
        for part in results.into_iter().chain(rest) {
            blocks.extend(block(part)?);
        }
        if !blocks.is_empty() {
            messages.push(json!({"role": role, "content": blocks}));
        }
    }
    body.insert("messages".into(), messages.into());
    let claude = chat.model.contains("anthropic.");
    let wanted = chat.thinking.as_ref().filter(|thinking| **thinking != Thinking::Off);
    let wanted = wanted.filter(|_| !claude || chat.may_go_on_thinking());
    let mut inference = Map::new();
    let budget = wanted.filter(|_| claude).and_then(Thinking::budget).map(|tokens| tokens.max(1024));
    // What is thought counts, too, and must leave something to say.
    let max =
        chat.max_tokens.map(|max| budget.filter(|budget| max <= *budget).map_or(max, |budget| budget + max));
    put(&mut inference, "maxTokens", max);
    // While it thinks, a model cannot be told how to choose words.
    if budget.is_none() {
        put(&mut inference, "temperature", chat.temperature.clone());
        put(&mut inference, "topP", chat.top_p.clone());
    }
    if !chat.stop.is_empty() {
        inference.insert("stopSequences".into(), chat.stop.clone().into());
    }
    if !inference.is_empty() {
        body.insert("inferenceConfig".into(), inference.into());
    }
    // There is no word for "none": tools that must not be called are not offered, unless there were calls already,
    // which are refused without them.
    if !chat.tools.is_empty() && (chat.choice != Some(Choice::None) || chat.has_called()) {
        let tools: Vec<Value> = chat.tools.iter().map(tool).collect();
        let mut config = Map::new();
        config.insert("tools".into(), tools.into());
        let choice = match &chat.choice {
            Some(Choice::Any) => Some(json!({"any": {}})),
            Some(Choice::Tool(name)) => Some(json!({"tool": {"name": name}})),
            Some(Choice::Auto) => Some(json!({"auto": {}})),
            Some(Choice::None) | None => None,
        };
        put(&mut config, "toolChoice", choice);
        body.insert("toolConfig".into(), config.into());
    }
    if let Format::Schema { name, description, schema, .. } = &chat.format {
        let mut definition = Map::new();
        // A schema travels as text here.
        definition.insert("schema".into(), schema.to_string().into());
        definition.insert("name".into(), name.clone().into());
        put(&mut definition, "description", description.clone());
        let format = json!({"type": "json_schema", "structure": {"jsonSchema": definition}});
        body.insert("outputConfig".into(), json!({ "textFormat": format }));
    }
    if chat.format == Format::Json {
        let order = json!({"text": "Answer with a single JSON object and nothing else."});
        match body.get_mut("system").and_then(Value::as_array_mut) {
            Some(system) => system.push(order),
            None => _ = body.insert("system".into(), json!([order])),
        }
    }
    let mut further = chat.extra.clone();
    put(&mut further, "top_k", chat.top_k.clone());
    match wanted {
        None => {}
        Some(_) if claude => {
            let thinking = match budget {
                Some(tokens) => json!({"type": "enabled", "budget_tokens": tokens}),
                None => json!({"type": "adaptive"}),
            };
            further.insert("thinking".into(), thinking);
        }
        Some(thinking) => put(&mut further, "reasoning_effort", thinking.effort()),
    }
    // These are members of the request itself; anything else is the model's own.
    for member in
        ["guardrailConfig", "performanceConfig", "requestMetadata", "promptVariables", "serviceTier"]
    {
        put(&mut body, member, further.remove(member));
    }
    if !further.is_empty() {
        body.insert("additionalModelRequestFields".into(), further.into());
    }
    Ok(Value::Object(body))
}

fn tool(tool: &Tool) -> Value {
    let mut spec = Map::new();
    spec.insert("name".into(), tool.name.clone().into());
    put(&mut spec, "description", tool.description.clone().filter(|text| !text.is_empty()));
    spec.insert("inputSchema".into(), json!({"json": tool.schema}));
    json!({ "toolSpec": spec })
}

fn block(part: &Part) -> Result<Option<Value>, Refusal> {
    Ok(Some(match part {
        // Empty blocks are refused.
        Part::Text(text) if text.trim().is_empty() => return Ok(None),
        Part::Text(text) => json!({ "text": text }),
        Part::Media(media) => media_to(media)?,
        Part::Reasoning { text, signature: Some(signature) } => {
            json!({"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}})
        }
        Part::Reasoning { signature: None, .. } => return Ok(None),
        Part::Redacted(data) => json!({"reasoningContent": {"redactedContent": data}}),
        Part::Call(call) => json!({
            "toolUse": {"toolUseId": call.id, "name": call.name, "input": object(&call.arguments)},
        }),
        Part::Result { id, parts, failed } => {
            let mut content = Vec::new();
            for part in parts {
                content.extend(block(part)?);
            }
            if content.is_empty() {
                content.push(json!({"text": "(nothing)"}));
            }
            let status = if *failed { "error" } else { "success" };
            json!({"toolResult": {"toolUseId": id, "content": content, "status": status}})
        }
    }))
}

fn media_to(media: &Media) -> Result<Value, Refusal> {
    let Source::Base64(data) = &media.source else {
        let what = "Bedrock does not fetch images: send the image as a data: URL or as base64";
        return Err(Refusal::wrong("messages", what));
    };
    let bytes = json!({ "bytes": data });
    let ending = media.kind.rsplit('/').next().unwrap_or_default();
    if media.is_image() {
        let format = if ending == "jpg" { "jpeg" } else { ending };
        return Ok(json!({"image": {"format": format, "source": bytes}}));
    }
    let format = match media.kind.as_str() {
        "application/pdf" => "pdf",
        "text/plain" => "txt",
        "text/markdown" => "md",
        "text/csv" => "csv",
        "text/html" => "html",
        _ => return Err(Refusal::wrong("messages", "Bedrock takes images and documents, no other files")),
    };
    // Only letters, digits, spaces, hyphens, parentheses and brackets are names here.
    let name: String = media.name.as_deref().unwrap_or("document").chars().map(plain).take(200).collect();
    Ok(json!({"document": {"format": format, "name": name, "source": bytes}}))
}

fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || " -()[]".contains(c) { c } else { '-' }
}
