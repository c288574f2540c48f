//! `causeway call`.

use bytes::Bytes;
use causeway::mcp::headers;
use causeway::mcp::meta;
use causeway::mcp::revision::Revision;
use causeway::wire::sse::{Decoder, Event};
use futures_util::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Map, Value, json};

use super::remote::{Remote, endpoint};
use super::{Failure, Outcome, complain, print, print_json};
use crate::http::Answer;

/// The largest event of a stream.
const MAX_EVENT: usize = 64 << 20;
/// The code of a request whose headers do not agree with its body (2026-07-28 basic, "Error Codes").
const HEADER_MISMATCH: i64 = -32020;

/// Call one tool and print what it answers.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Call one tool and print what it answers.\n\n\
    Text goes to stdout as it is, other content as a line that describes it; progress and log messages of the tool \
    go to stderr. The exit code is 1 if the tool says that it failed.",
    after_help = "Examples:\n  \
    causeway call http://127.0.0.1:8787 time__now\n  \
    causeway call http://127.0.0.1:8787 github__search '{\"q\":\"mcp\"}' --json\n  \
    causeway call http://127.0.0.1:8787/mcp/github search - < arguments.json"
)]
pub(super) struct Call {
    #[command(flatten)]
    remote: Remote,

    /// The tool's name, as `server__tool`
    tool: String,

    /// Its arguments, a JSON object; `-` reads them from stdin
    #[arg(value_name = "JSON-ARGS")]
    arguments: Option<String>,

    /// Print the whole result as JSON
    #[arg(long)]
    json: bool,
}

impl Call {
    pub(super) async fn run(self) -> Outcome {
        let arguments = arguments(self.arguments.as_deref())?;
        let mut params = Map::new();
        params.insert("name".to_owned(), Value::from(self.tool.as_str()));
        params.insert("arguments".to_owned(), arguments.clone());
        let named = Some(self.tool.as_str());
        let mut answer = self.ask("tools/call", named, params.clone(), HeaderMap::new()).await?;
        if answer.pointer("/error/code").and_then(Value::as_i64) == Some(HEADER_MISMATCH) {
            // The tool wants arguments mirrored in headers, and its description says which.
            let mirrored = self.mirrored(&arguments).await?;
            if !mirrored.is_empty() {
                answer = self.ask("tools/call", named, params, mirrored).await?;
            }
        }
        if let Some(error) = answer.get("error") {
            if self.json {
                print_json(error)?;
            }
            let text = error.get("message").and_then(Value::as_str).unwrap_or("an error without a message");
            return Err(Failure::Failed(text.to_owned()));
        }
        let result = answer.get("result").cloned().unwrap_or_default();
        if self.json {
            print_json(&result)?;
        } else {
            for text in shown(&result) {
                print(&text)?;
            }
        }
        if result.get("resultType").and_then(Value::as_str) == Some("input_required") {
            return Err(Failure::Failed(
                "the tool asks for input, which this command cannot give".to_owned(),
            ));
        }
        match result.get("isError") {
            Some(Value::Bool(true)) => Err(Failure::Failed(String::new())),
            _ => Ok(()),
        }
    }

    /// One modern request; its answer as a JSON-RPC message.
    async fn ask(
        &self,
        method: &str,
        name: Option<&str>,
        mut params: Map<String, Value>,
        more: HeaderMap,
    ) -> Result<Value, Failure> {
        let version = Revision::MODERN.as_str();
        params.insert(
            "_meta".to_owned(),
            json!({
                meta::VERSION: version,
                meta::CLIENT_INFO: { "name": "causeway-call", "version": env!("CARGO_PKG_VERSION") },
                meta::CAPABILITIES: {},
                meta::LOG_LEVEL: "info",
                "progressToken": 1,
            }),
        );
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let mut request = self
            .remote
            .request(Method::POST, &endpoint(self.remote.url()))?
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(headers::VERSION, version)
            .header(headers::METHOD, method);
        if let Some(name) = name {
            let name = headers::encode(name)
                .ok_or_else(|| Failure::Refused("the tool's name is no name".to_owned()))?;
            request = request.header(headers::NAME, name);
        }
        let mut request: Request<Bytes> =
            request.body(body.into()).map_err(|error| Failure::Refused(error.to_string()))?;
        request.headers_mut().extend(more);
        let response = self.remote.send(request).await?;
        let status = response.status();
        let streamed = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        if streamed && status.is_success() {
            return self.streamed(response.into_body()).await;
        }
        let bytes = self.remote.whole(response.into_body()).await?;
        self.message(status, &bytes)
    }

    fn message(&self, status: StatusCode, bytes: &[u8]) -> Result<Value, Failure> {
        match serde_json::from_slice::<Value>(bytes) {
            // Errors of the protocol travel under several statuses; what they are, the message says.
            Ok(message)
                if message.get("jsonrpc").is_some()
                    && (message.get("result").is_some() || message.get("error").is_some())
                    && status != StatusCode::UNAUTHORIZED =>
            {
                Ok(message)
            }
            _ if !status.is_success() => Err(self.remote.refused(status, bytes)),
            _ => Err(Failure::Failed(
                "the answer is not a JSON-RPC message: is this an MCP endpoint?".to_owned(),
            )),
        }
    }

    /// Reads a stream up to the answer, passing on what the tool says on the way.
    async fn streamed(&self, mut body: Answer) -> Result<Value, Failure> {
        let mut decoder = Decoder::new(MAX_EVENT);
        let mut events = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| self.remote.lost(&error))?;
            decoder.push(&chunk, &mut events).map_err(|error| Failure::Failed(error.to_string()))?;
            for Event { data, .. } in events.drain(..) {
                let Ok(message) = serde_json::from_slice::<Value>(&data) else { continue };
                if message.get("result").is_some() || message.get("error").is_some() {
                    return Ok(message);
                }
                if let Some(said) = said(&message) {
                    complain(&said);
                }
            }
        }
        Err(Failure::Failed("the stream ended before the answer came".to_owned()))
    }

    /// The headers that the tool wants its arguments mirrored in.
    async fn mirrored(&self, arguments: &Value) -> Result<HeaderMap, Failure> {
        let mut cursor = None;
        let mut mirrored = HeaderMap::new();
        loop {
            let params = cursor.take().map(|cursor| ("cursor".to_owned(), cursor)).into_iter().collect();
            let page = self.ask("tools/list", None, params, HeaderMap::new()).await?;
            let tools = page.pointer("/result/tools").and_then(Value::as_array);
            let ours = |tool: &&Value| tool.get("name").and_then(Value::as_str) == Some(&self.tool);
            if let Some(tool) = tools.into_iter().flatten().find(ours) {
                let schema = tool.get("inputSchema").cloned().unwrap_or_default();
                let wanted = headers::annotations(&schema).map_err(Failure::Failed)?;
                headers::write_mirrored(&mut mirrored, &wanted, arguments);
                return Ok(mirrored);
            }
            match page.pointer("/result/nextCursor") {
                Some(next @ Value::String(_)) => cursor = Some(next.clone()),
                _ => return Ok(mirrored),
            }
        }
    }
}

fn arguments(given: Option<&str>) -> Result<Value, Failure> {
    let text = match given {
        None => return Ok(json!({})),
        Some("-") => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::Failed(format!("cannot read stdin: {error}")))?,
        Some(text) => text.to_owned(),
    };
    match serde_json::from_str(&text) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => {
            Err(Failure::Refused("the arguments are no JSON object, as in '{\"q\":\"mcp\"}'".to_owned()))
        }
        Err(error) => Err(Failure::Refused(format!("the arguments are not JSON: {error}"))),
    }
}

/// A notification, as a line for a person.
fn said(message: &Value) -> Option<String> {
    let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
    match text("/method")? {
        "notifications/progress" => {
            let number = |name: &str| message.pointer(name).filter(|value| value.is_number());
            let progress = number("/params/progress").map_or_else(String::new, ToString::to_string);
            let total = number("/params/total").map_or_else(String::new, |total| format!("/{total}"));
            let note = text("/params/message").map_or_else(String::new, |note| format!(" {note}"));
            Some(plain(&format!("progress {progress}{total}{note}")))
        }
        "notifications/message" => {
            let data = match message.pointer("/params/data") {
                Some(Value::String(text)) => text.clone(),
                other => other.map(ToString::to_string).unwrap_or_default(),
            };
            Some(plain(&format!("{}: {data}", text("/params/level").unwrap_or("log"))))
        }
        _ => None,
    }
}

/// One line without terminal sequences: it is shown among our own.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A tool's result, for a person: text as it is, everything else described.
fn shown(result: &Value) -> Vec<String> {
    let items = result.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<_> = items
        .iter()
        .map(|item| {
            let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str);
            let kind = text("/type").unwrap_or("content");
            match (kind, text("/text").or(text("/resource/text"))) {
                ("text" | "resource", Some(text)) => text.to_owned(),
                _ => {
                    let mime = text("/mimeType").or(text("/resource/mimeType"));
                    let place = text("/uri").or(text("/resource/uri"));
                    let size = text("/data").or(text("/resource/blob")).map(|data| data.len() / 4 * 3);
                    let size = size.map(|bytes| format!("about {bytes} bytes"));
                    let parts = [Some(kind), mime, place, size.as_deref()];
                    format!("[{}]", parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
                }
            }
        })
        .collect();
    if lines.is_empty()
        && let Some(structured) = result.get("structuredContent")
    {
        lines.push(serde_json::to_string_pretty(structured).unwrap_or_default());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(result: &Value, expect: &[&str]) {
        assert_eq!(shown(result), expect);
    }

    #[test]
    fn content_is_printed_or_described() {
        check(&json!({ "content": [{ "type": "text", "text": "a\nb" }] }), &["a\nb"]);
        let image = json!({ "type": "image", "mimeType": "image/png", "data": "AAAAAAAA" });
        check(&json!({ "content": [image] }), &["[image image/png about 6 bytes]"]);
        let resource = json!({ "type": "resource", "resource": { "uri": "a:b", "text": "t" } });
        check(&json!({ "content": [resource] }), &["t"]);
        check(&json!({ "content": [], "structuredContent": { "a": 1 } }), &["{\n  \"a\": 1\n}"]);
        check(&json!({}), &[]);
    }

    #[test]
    fn notifications_become_lines() {
        let progress = json!({ "method": "notifications/progress",
            "params": { "progress": 1, "total": 3, "message": "one\u{1b}[2J" } });
        assert_eq!(said(&progress).as_deref(), Some("progress 1/3 one [2J"));
        let message =
            json!({ "method": "notifications/message", "params": { "level": "info", "data": "x" } });
        assert_eq!(said(&message).as_deref(), Some("info: x"));
        assert_eq!(said(&json!({ "method": "notifications/other" })), None);
    }
}
