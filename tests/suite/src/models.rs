//! Models, as clients of OpenAI's and Anthropic's dialects see them: questions in each, and answers read as the official
//! SDKs read them.

use serde_json::{Map, Value, json};

use crate::client::Request;
use crate::host::Gateway;

/// The dialect of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
}

/// Every kind of provider, as the configuration calls it.
pub const KINDS: [&str; 10] = [
    "openai",
    "anthropic",
    "gemini",
    "bedrock",
    "ollama",
    "lmstudio",
    "openrouter",
    "azure",
    "dial",
    "openai-compatible",
];

/// Both.
pub const DIALECTS: [Dialect; 2] = [Dialect::OpenAi, Dialect::Anthropic];

/// An answer, whole or put together from a stream.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Heard {
    /// The words.
    pub text: String,
    /// The thoughts.
    pub thought: String,
    /// Calls: id, name, arguments.
    pub calls: Vec<(String, String, Value)>,
    /// Why it stopped, in the dialect's own word.
    pub stop: String,
    /// Tokens in and out.
    pub usage: (u64, u64),
    /// How often an answer began.
    pub starts: usize,
    /// The dialect's word for an error in the stream, or of the answer.
    pub error: String,
    /// Whether the stream said that it is over.
    pub over: bool,
}

impl Dialect {
    /// Where its questions go.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
        }
    }

    /// A question to `model`.
    #[must_use]
    pub fn question(self, model: &str, text: &str, stream: bool) -> Value {
        let mut body =
            json!({"model": model, "messages": [{"role": "user", "content": text}], "stream": stream});
        match self {
            Self::OpenAi if stream => body["stream_options"] = json!({"include_usage": true}),
            Self::OpenAi => {}
            Self::Anthropic => body["max_tokens"] = 4000.into(),
        }
        body
    }

    /// The tool `weather`, offered.
    #[must_use]
    pub fn with_weather(self, mut body: Value) -> Value {
        let schema =
            json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
        body["tools"] = match self {
            Self::OpenAi => {
                json!([{"type": "function", "function": {"name": "weather", "parameters": schema}}])
            }
            Self::Anthropic => json!([{"name": "weather", "input_schema": schema}]),
        };
        body
    }

    /// The conversation of `body`, continued with what was heard and with results for its calls.
    #[must_use]
    pub fn with_results(self, mut body: Value, heard: &Heard, results: &[&str]) -> Value {
        let messages = body["messages"].as_array_mut().expect("a question has messages");
        let pairs = heard.calls.iter().zip(results);
        match self {
            Self::OpenAi => {
                let calls: Vec<Value> = heard
                    .calls
                    .iter()
                    .map(|(id, name, arguments)| {
                        let function = json!({"name": name, "arguments": arguments.to_string()});
                        json!({"id": id, "type": "function", "function": function})
                    })
                    .collect();
                messages.push(json!({"role": "assistant", "content": null, "tool_calls": calls}));
                messages.extend(pairs.map(
                    |((id, ..), result)| json!({"role": "tool", "tool_call_id": id, "content": result}),
                ));
            }
            Self::Anthropic => {
                let calls = heard.calls.iter().map(
                    |(id, name, input)| json!({"type": "tool_use", "id": id, "name": name, "input": input}),
                );
                messages.push(json!({"role": "assistant", "content": calls.collect::<Vec<_>>()}));
                let results = pairs.map(
                    |((id, ..), result)| json!({"type": "tool_result", "tool_use_id": id, "content": result}),
                );
                messages.push(json!({"role": "user", "content": results.collect::<Vec<_>>()}));
            }
        }
        body
    }

    /// Asks and reads the whole answer: the status, and what was heard.
    pub async fn ask(self, gateway: &Gateway, body: &Value) -> (u16, Heard) {
        let request = Request::post(gateway.url(self.path()), body).header("anthropic-version", "2023-06-01");
        let reply = request.send().await;
        let (status, streams) = (reply.status, reply.header("content-type").starts_with("text/event-stream"));
        let text = reply.text().await;
        let heard = if streams { self.streamed(&text) } else { self.whole(&text) };
        (status, heard)
    }

    /// What a whole answer, or an error, says.
    ///
    /// # Panics
    /// When it is no JSON.
    #[must_use]
    pub fn whole(self, text: &str) -> Heard {
        let body: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("not JSON: {text:?}"));
        let mut heard = Heard { starts: 1, over: true, ..Heard::default() };
        if body["error"].is_object() {
            heard.error = self.error(&body);
            return heard;
        }
        match self {
            Self::OpenAi => {
                let message = &body["choices"][0]["message"];
                heard.text = message["content"].as_str().unwrap_or_default().to_owned();
                heard.thought = thought(message);
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let arguments = call["function"]["arguments"].as_str().expect("arguments are text");
                    heard.calls.push(parsed(&call["id"], &call["function"]["name"], arguments));
                }
                heard.stop = body["choices"][0]["finish_reason"].as_str().unwrap_or_default().to_owned();
                heard.usage = tokens(&body["usage"], "prompt_tokens", "completion_tokens");
            }
            Self::Anthropic => {
                for block in body["content"].as_array().into_iter().flatten() {
                    match block["type"].as_str().unwrap_or_default() {
                        "text" => heard.text += block["text"].as_str().unwrap_or_default(),
                        "thinking" => heard.thought += block["thinking"].as_str().unwrap_or_default(),
                        "tool_use" => {
                            heard.calls.push(parsed(
                                &block["id"],
                                &block["name"],
                                &block["input"].to_string(),
                            ));
                        }
                        _ => {}
                    }
                }
                heard.stop = body["stop_reason"].as_str().unwrap_or_default().to_owned();
                heard.usage = tokens(&body["usage"], "input_tokens", "output_tokens");
            }
        }
        heard
    }

    /// What a stream says.
    ///
    /// # Panics
    /// When a piece is no JSON.
    #[must_use]
    pub fn streamed(self, text: &str) -> Heard {
        let mut heard = Heard::default();
        let mut calls: Map<String, Value> = Map::new();
        for line in text.lines() {
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                heard.over = true;
                continue;
            }
            let event: Value = serde_json::from_str(data).unwrap_or_else(|_| panic!("not JSON: {data:?}"));
            if event["error"].is_object() {
                heard.error = self.error(&event);
                continue;
            }
            match self {
                Self::OpenAi => openai_chunk(&event, &mut heard, &mut calls),
                Self::Anthropic => anthropic_event(&event, &mut heard, &mut calls),
            }
        }
        for (_, call) in calls {
            heard.calls.push(parsed(&call["id"], &call["name"], call["json"].as_str().unwrap_or_default()));
        }
        heard
    }

    fn error(self, body: &Value) -> String {
        let error = &body["error"];
        assert!(error["message"].is_string(), "an error has a message: {body}");
        let name = match self {
            Self::OpenAi => error["code"].as_str().or_else(|| error["type"].as_str()),
            Self::Anthropic => {
                assert_eq!(body["type"], "error", "{body}");
                error["type"].as_str()
            }
        };
        name.unwrap_or_default().to_owned()
    }
}

fn openai_chunk(chunk: &Value, heard: &mut Heard, calls: &mut Map<String, Value>) {
    let choice = &chunk["choices"][0];
    let delta = &choice["delta"];
    heard.starts += usize::from(delta["role"] == "assistant");
    heard.text += delta["content"].as_str().unwrap_or_default();
    heard.thought += &thought(delta);
    for call in delta["tool_calls"].as_array().into_iter().flatten() {
        let known = calls.entry(call["index"].to_string()).or_insert_with(|| json!({"json": ""}));
        for (from, to) in [(&call["id"], "id"), (&call["function"]["name"], "name")] {
            if from.is_string() {
                known[to] = from.clone();
            }
        }
        let more = call["function"]["arguments"].as_str().unwrap_or_default();
        known["json"] = format!("{}{more}", known["json"].as_str().unwrap_or_default()).into();
    }
    if let Some(reason) = choice["finish_reason"].as_str() {
        reason.clone_into(&mut heard.stop);
    }
    if chunk["usage"].is_object() {
        heard.usage = tokens(&chunk["usage"], "prompt_tokens", "completion_tokens");
    }
}

fn anthropic_event(event: &Value, heard: &mut Heard, calls: &mut Map<String, Value>) {
    let index = event["index"].to_string();
    match event["type"].as_str().unwrap_or_default() {
        "message_start" => {
            heard.starts += 1;
            heard.usage = tokens(&event["message"]["usage"], "input_tokens", "output_tokens");
        }
        "content_block_start" if event["content_block"]["type"] == "tool_use" => {
            let block = &event["content_block"];
            calls.insert(index, json!({"id": block["id"], "name": block["name"], "json": ""}));
        }
        "content_block_delta" => {
            let delta = &event["delta"];
            heard.text += delta["text"].as_str().unwrap_or_default();
            heard.thought += delta["thinking"].as_str().unwrap_or_default();
            if let Some(more) = delta["partial_json"].as_str() {
                let known = &mut calls[&index];
                known["json"] = format!("{}{more}", known["json"].as_str().unwrap_or_default()).into();
            }
        }
        "message_delta" => {
            heard.stop = event["delta"]["stop_reason"].as_str().unwrap_or_default().to_owned();
            let (input, output) = tokens(&event["usage"], "input_tokens", "output_tokens");
            heard.usage = (heard.usage.0.max(input), output);
        }
        "message_stop" => heard.over = true,
        _ => {}
    }
}

fn thought(from: &Value) -> String {
    let plain = from["reasoning_content"].as_str().or_else(|| from["reasoning"].as_str());
    plain.unwrap_or_default().to_owned()
}

fn parsed(id: &Value, name: &Value, arguments: &str) -> (String, String, Value) {
    let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| panic!("not JSON: {arguments:?}"));
    (id.as_str().unwrap_or_default().to_owned(), name.as_str().unwrap_or_default().to_owned(), arguments)
}

fn tokens(usage: &Value, input: &str, output: &str) -> (u64, u64) {
    (usage[input].as_u64().unwrap_or(0), usage[output].as_u64().unwrap_or(0))
}
