//! Requests.

use serde_json::{Map, Value, json};

use crate::llm::chat::{Chat, Choice, Format, Media, Part, Role, Source, Thinking, Tool, object};
use crate::llm::json::{add, list, put};
use crate::llm::refusal::Refusal;

/// Writes a request. The model is named in the URL.
///
/// # Errors
/// When it holds what this dialect cannot.
pub fn encode(chat: &Chat) -> Result<Value, Refusal> {
    let mut body = Map::new();
    if !chat.system.is_empty() {
        body.insert("systemInstruction".into(), json!({"parts": [{"text": chat.system.join("\n\n")}]}));
    }
    let mut contents = Vec::new();
    for turn in &chat.turns {
        let role = if turn.role == Role::User { "user" } else { "model" };
        let mut parts = Vec::new();
        for part in &turn.parts {
            self::part(part, chat, &mut parts);
        }
        if !parts.is_empty() {
            contents.push(json!({"role": role, "parts": parts}));
        }
    }
    body.insert("contents".into(), contents.into());
    if !chat.tools.is_empty() {
        let functions: Vec<Value> = chat.tools.iter().map(tool).collect();
        body.insert("tools".into(), json!([{ "functionDeclarations": functions }]));
        let config = chat.choice.as_ref().map(|choice| match choice {
            Choice::Auto => json!({"mode": "AUTO"}),
            Choice::None => json!({"mode": "NONE"}),
            Choice::Any => json!({"mode": "ANY"}),
            Choice::Tool(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
        });
        if let Some(config) = config {
            body.insert("toolConfig".into(), json!({ "functionCallingConfig": config }));
        }
    }
    let config = generation(chat);
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    add(&mut body, &chat.extra);
    Ok(Value::Object(body))
}

fn generation(chat: &Chat) -> Map<String, Value> {
    let mut config = Map::new();
    put(&mut config, "maxOutputTokens", chat.max_tokens);
    put(&mut config, "temperature", chat.temperature.clone());
    put(&mut config, "topP", chat.top_p.clone());
    put(&mut config, "topK", chat.top_k.clone());
    for (from, to) in
        [("seed", "seed"), ("presence_penalty", "presencePenalty"), ("frequency_penalty", "frequencyPenalty")]
    {
        put(&mut config, to, chat.tuning.get(from).cloned());
    }
    if !chat.stop.is_empty() {
        config.insert("stopSequences".into(), chat.stop.clone().into());
    }
    match &chat.format {
        Format::Text => {}
        Format::Json => _ = config.insert("responseMimeType".into(), "application/json".into()),
        Format::Schema { schema, .. } => {
            config.insert("responseMimeType".into(), "application/json".into());
            config.insert("responseJsonSchema".into(), schema.clone());
        }
    }
    if let Some(thinking) = &chat.thinking {
        let thinking = match thinking {
            Thinking::Adaptive => json!({"thinkingBudget": -1, "includeThoughts": true}),
            Thinking::Off => json!({"thinkingBudget": 0}),
            // The third generation takes a word, those before it a number.
            Thinking::Effort(effort) if chat.model.contains("gemini-3") => {
                json!({"thinkingLevel": effort, "includeThoughts": true})
            }
            thinking => json!({"thinkingBudget": thinking.budget().unwrap_or(0), "includeThoughts": true}),
        };
        config.insert("thinkingConfig".into(), thinking);
    }
    config
}

fn tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool.name.clone().into());
    function.insert("description".into(), tool.description.clone().unwrap_or_default().into());
    // A function without arguments has no schema: one without properties is refused.
    let empty = tool.schema.get("properties").and_then(Value::as_object).is_none_or(Map::is_empty);
    if !(empty && tool.schema.get("$ref").is_none() && tool.schema.get("anyOf").is_none()) {
        function.insert("parametersJsonSchema".into(), tool.schema.clone());
    }
    Value::Object(function)
}

fn part(part: &Part, chat: &Chat, parts: &mut Vec<Value>) {
    match part {
        Part::Text(text) => parts.push(json!({ "text": text })),
        Part::Media(media) => parts.push(media_to(media)),
        // Thoughts are not sent back, only signatures, and those stand at calls.
        Part::Reasoning { .. } | Part::Redacted(_) => {}
        Part::Call(call) => {
            let mut part = json!({"functionCall": {"name": call.name, "args": object(&call.arguments)}});
            // The third generation wants each step's first call signed; this word stands for a signature that was lost
            // on the way (Thought signatures, "FAQs").
            let first = !parts.iter().any(|part| part.get("functionCall").is_some());
            let lost = (first && chat.model.contains("gemini-3"))
                .then(|| "skip_thought_signature_validator".to_owned());
            if let (Some(signature), Some(part)) = (call.signature.clone().or(lost), part.as_object_mut()) {
                part.insert("thoughtSignature".into(), signature.into());
            }
            parts.push(part);
        }
        Part::Result { id, parts: inner, failed } => {
            let texts: Vec<&str> = inner
                .iter()
                .filter_map(|part| match part {
                    Part::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect();
            let words = texts.join("\n");
            let answer = match serde_json::from_str::<Value>(&words) {
                Ok(Value::Object(answer)) if !failed => Value::Object(answer),
                _ if *failed => json!({ "error": words }),
                _ => json!({ "result": words }),
            };
            parts.push(json!({"functionResponse": {"name": called(chat, id), "response": answer}}));
            parts.extend(inner.iter().filter_map(|part| match part {
                Part::Media(media) => Some(media_to(media)),
                _ => None,
            }));
        }
    }
}

/// The name of the function that the call `id` was of: results are told by it here.
fn called<'a>(chat: &'a Chat, id: &'a str) -> &'a str {
    let mut calls = chat.turns.iter().flat_map(|turn| &turn.parts).filter_map(|part| match part {
        Part::Call(call) if call.id == id => Some(call.name.as_str()),
        _ => None,
    });
    calls.next_back().unwrap_or(id)
}

fn media_to(media: &Media) -> Value {
    match &media.source {
        Source::Base64(data) => json!({"inlineData": {"mimeType": media.kind, "data": data}}),
        Source::Url(url) => {
            let kind = if media.kind.is_empty() { guessed(url) } else { &media.kind };
            json!({"fileData": {"mimeType": kind, "fileUri": url}})
        }
    }
}

/// The media type that the ending of a URL tells.
fn guessed(url: &str) -> &'static str {
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    match path.rsplit('.').next() {
        Some("png") => "image/png",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        Some("pdf") => "application/pdf",
        _ => "image/jpeg",
    }
}

/// A request for embeddings: OpenAI's as a batch of Gemini's.
///
/// # Errors
/// When the input is none.
pub fn embeddings(body: &Value, model: &str) -> Result<Value, Refusal> {
    let inputs: Vec<&str> = match body.get("input") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(inputs)) => inputs.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if inputs.is_empty() {
        return Err(Refusal::wrong("input", "must be a text or a list of texts"));
    }
    let request = |text: &str| {
        let mut request = Map::new();
        request.insert("model".into(), format!("models/{model}").into());
        request.insert("content".into(), json!({"parts": [{ "text": text }]}));
        put(&mut request, "outputDimensionality", body.get("dimensions").cloned());
        Value::Object(request)
    };
    Ok(json!({"requests": inputs.into_iter().map(request).collect::<Vec<_>>()}))
}

/// The vectors of an answer to [`embeddings`].
pub fn embeddings_from(body: &Value) -> Vec<Value> {
    list(body, "embeddings").iter().filter_map(|embedding| embedding.get("values").cloned()).collect()
}
