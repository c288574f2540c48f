//! The gateway's own MCP server: its models, for MCP clients.
//!
//! It speaks 2026-07-28 and nothing else, to the gateway's MCP side and to nobody else: whatever stands between a client
//! and any other server (names, rights, eras, lists) stands between a client and this one.
//!
//! Source: 2026-07-28 server, "Tools", "Resources"; basic, "Progress".

use std::fmt::Write as _;

use bytes::Bytes;
use futures_channel::mpsc::{UnboundedSender, unbounded};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::sampling::{Desk, Line, told};
use crate::config::plan::Caller;
use crate::fault::{Fault, Kind};
use crate::llm::ask::{Asking, ask};
use crate::llm::registry::ModelContext;
use crate::llm::{self, Opening, Refusal};
use crate::mcp::SERVER_META;
use crate::mcp::sampling::Served;
use crate::mcp::standing::caller_of;
use crate::platform::{Clock as _, Platform, Timestamp};
use crate::relay::Own;
use crate::wire::jsonrpc::{self, Message};
use crate::wire::sse::{Decoder, Event};

/// How the URIs of models begin.
const SCHEME: &str = "model://";
/// Models that are listed at most.
const MOST: usize = 2000;
/// A piece of a model's words, as an event.
const PIECE: usize = 8 * 1024 * 1024;
/// Notifications of progress that may wait to be read: whoever reads slowly hears of more at a time.
const WAITING: usize = 16;
/// The words that one of them may tell at a time; more are left to the result.
const TOLD: usize = 64 * 1024;
/// How long the lists hold: what models there are may change at any time, what tools there are not.
const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;

/// The tools. What `ask` takes and answers is a part of what `/ask` does.
const TOOLS: &str = include_str!("own.json");

/// Answers `message` of the caller called `name`.
pub(super) async fn serve<P: Platform>(
    desk: Desk<P>,
    message: Bytes,
    name: &str,
    mut sender: oneshot::Sender<Served>,
    number: usize,
) {
    let Ok(Message::Request { id, method, params }) = Message::decode(&message) else {
        // A notification: nobody waits for an answer.
        let _ = sender.send(whole(StatusCode::ACCEPTED, Bytes::new()));
        return;
    };
    let work = async {
        let Some(caller) = caller_of(&desk.mcp, name) else {
            return Err(Fault::new(Kind::Unauthorized, "whose call it is, is not known here any more"));
        };
        match method.as_ref() {
            "server/discover" => Ok(Made::Result(format!(
                "\"supportedVersions\":[\"2026-07-28\"],\"capabilities\":{{\"tools\":{{}},\"resources\":{{}}}},\
                 \"instructions\":\"Ask other models, and see which there are.\",\"ttlMs\":{HOUR},\
                 \"cacheScope\":\"public\""
            ))),
            "tools/list" => {
                Ok(Made::Result(format!("\"tools\":{TOOLS},\"ttlMs\":{HOUR},\"cacheScope\":\"public\"")))
            }
            "resources/templates/list" => Ok(Made::Result(format!(
                "\"resourceTemplates\":[{{\"uriTemplate\":\"{SCHEME}{{+name}}\",\"name\":\"model\",\"title\":\"Model\",\
                 \"description\":\"What is known of a model, by its name\",\"mimeType\":\"application/json\"}}],\
                 \"ttlMs\":{HOUR},\"cacheScope\":\"public\""
            ))),
            "resources/list" => {
                let models = models(&desk, &caller, None).await;
                let all: Vec<Value> =
                    models.iter().map(|(name, model)| resource(name, model.as_ref())).collect();
                let all = Value::Array(all);
                Ok(Made::Result(format!("\"resources\":{all},\"ttlMs\":{MINUTE},\"cacheScope\":\"private\"")))
            }
            "resources/read" => read(&desk, &caller, params).await.map(Made::Result),
            "tools/call" => {
                let call = Called::of(params)?;
                match call.name.as_str() {
                    "models" => Ok(Made::Result(listed(&desk, &caller, &call.arguments).await)),
                    "ask" => Ok(Made::Ask(call)),
                    _ => Err(Fault::new(Kind::InvalidParams, "params.name: there is no such tool")),
                }
            }
            _ => Err(Fault::new(Kind::UnknownMethod, "the models' server does not know this method")),
        }
    };
    let made = match select(Box::pin(work), sender.cancellation()).await {
        Either::Left((made, _)) => made,
        Either::Right(_) => return,
    };
    let call = match made {
        Ok(Made::Ask(call)) => call,
        Ok(Made::Result(members)) => return drop(sender.send(whole(StatusCode::OK, result(id, &members)))),
        Err(fault) => {
            let status = StatusCode::from_u16(fault.kind.row().rpc_status).unwrap_or_default();
            let error =
                jsonrpc::error(Some(id), fault.kind.row().code, &fault.message, fault.data.as_deref());
            return drop(sender.send(whole(status, error)));
        }
    };
    let Some(caller) = caller_of(&desk.mcp, name) else { return };
    let mut asked = Asked::new(&desk, name, number);
    if let Some(token) = call.token.clone() {
        // Whoever wants to hear of progress gets a stream.
        let (out, chunks) = unbounded();
        let (open, gone) = oneshot::channel();
        let said = Own { chunks, open: Some(open) };
        if sender.send(Served { status: StatusCode::OK, events: true, said }).is_err() {
            return;
        }
        let last = async {
            let members = asked.ask(&desk, &caller, call, Some((&token, &out))).await;
            let _ = out.unbounded_send(Event::message(result(id, &members)).encode());
        };
        select(Box::pin(last), gone).await;
    } else {
        let members =
            match select(Box::pin(asked.ask(&desk, &caller, call, None)), sender.cancellation()).await {
                Either::Left((members, _)) => members,
                Either::Right(_) => return,
            };
        let _ = sender.send(whole(StatusCode::OK, result(id, &members)));
    }
}

/// What a request comes to.
enum Made {
    /// The members of its result.
    Result(String),
    /// A model is asked.
    Ask(Called),
}

/// A call of a tool.
struct Called {
    name: String,
    arguments: Map<String, Value>,
    token: Option<Box<RawValue>>,
}

impl Called {
    fn of(params: Option<&RawValue>) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Given {
            name: String,
            #[serde(default)]
            arguments: Option<Map<String, Value>>,
            #[serde(default, rename = "_meta")]
            meta: Option<Box<RawValue>>,
        }
        let given = params.and_then(|params| serde_json::from_str::<Given>(params.get()).ok());
        let wrong =
            || Fault::new(Kind::InvalidParams, "params: the name of a tool and an object of arguments");
        let Given { name, arguments, meta } = given.ok_or_else(wrong)?;
        let token = crate::mcp::park::progress_token(meta.as_deref());
        Ok(Self { name, arguments: arguments.unwrap_or_default(), token })
    }
}

fn whole(status: StatusCode, body: Bytes) -> Served {
    let (out, chunks) = unbounded();
    let _ = out.unbounded_send(body);
    Served { status, events: false, said: Own { chunks, open: None } }
}

/// A result of these members.
fn result(id: &RawValue, members: &str) -> Bytes {
    let id = id.get();
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"complete\",{members},{SERVER_META}}}}}").into()
}

/// The members of a tool's result.
fn said(text: &str, data: Option<&Value>, failed: bool) -> String {
    let mut members = format!("\"content\":{}", json!([{"type": "text", "text": text}]));
    if let Some(data) = data {
        let _ = write!(members, ",\"structuredContent\":{data}");
    }
    if failed {
        members.push_str(",\"isError\":true");
    }
    members
}

/// A question to a model, on its way. It is noted how that ended when this is dropped.
struct Asked<P: Platform> {
    line: Line<P>,
    asking: Option<Box<Asking<P>>>,
}

impl<P: Platform> Asked<P> {
    fn new(desk: &Desk<P>, caller: &str, number: usize) -> Self {
        Self { line: Line::new(desk, "ask", caller, crate::config::plan::MODELS, number), asking: None }
    }

    /// The members of the result; `heard` is told how it goes on.
    async fn ask(
        &mut self,
        desk: &Desk<P>,
        caller: &Caller,
        call: Called,
        heard: Option<(&RawValue, &UnboundedSender<Bytes>)>,
    ) -> String {
        let mut arguments = call.arguments;
        arguments.insert("stream".to_owned(), heard.is_some().into());
        let body = Value::Object(arguments).to_string();
        let (platform, plan) = (desk.mcp.platform.clone(), desk.mcp.plan.clone());
        let (memory, headers) = (desk.instance.models(), HeaderMap::new());
        let asked = ask(platform, plan, memory, caller, &headers, body.as_bytes(), &self.line.id).await;
        let asking = match asked {
            Ok(asking) => self.asking.insert(Box::new(asking)),
            Err(refusal) => return self.refused(refusal),
        };
        let answer = match asking.open().await {
            Opening::Whole(status, _, body) if status.is_success() => serde_json::from_slice(&body).ok(),
            Opening::Whole(..) => None,
            Opening::Stream(_) => heard_through(asking, heard).await,
        };
        match answer {
            Some(answer) => {
                self.line.fault = Some(None);
                said(text_of(&answer), Some(&answer), false)
            }
            None => {
                let refusal = asking.call().refusal();
                let kind = asking.metered().fault.unwrap_or(Kind::UpstreamInvalid);
                self.refused(
                    refusal.unwrap_or_else(|| Refusal::new(kind, "the model's answer ended too early")),
                )
            }
        }
    }

    /// What a model that has asked is told, so that it can do better.
    fn refused(&mut self, refusal: Refusal) -> String {
        let wait = refusal.wait;
        let fault = told(refusal, "ask");
        let mut text = fault.message.clone();
        match fault.kind {
            Kind::UnknownModel => text.push_str("; the tool `models` lists those that there are"),
            kind if kind.row().retry => match wait {
                Some(wait) => _ = write!(text, "; try again in {} s", wait.as_secs().max(1)),
                None => text.push_str("; try again later, or ask another model"),
            },
            _ => {}
        }
        self.line.fault = Some(Some(fault));
        said(&text, None, true)
    }
}

impl<P: Platform> Drop for Asked<P> {
    fn drop(&mut self) {
        if let Some(asking) = &mut self.asking {
            asking.call().settle();
        }
        self.line.write(self.asking.as_ref().map(|asking| asking.metered()));
    }
}

fn text_of(answer: &Value) -> &str {
    answer.get("text").and_then(Value::as_str).unwrap_or_default()
}

/// Tells how an answer goes on, and gives all of it; `None` if it does not come to its end.
async fn heard_through<P: Platform>(
    asking: &mut Asking<P>,
    heard: Option<(&RawValue, &UnboundedSender<Bytes>)>,
) -> Option<Value> {
    let (mut decoder, mut events) = (Decoder::new(PIECE), Vec::new());
    let (mut length, mut untold) = (0, String::new());
    let tell = |length: usize, untold: &mut String, all: bool| {
        let Some((token, out)) = heard.filter(|(_, out)| !untold.is_empty() && (all || out.len() < WAITING))
        else {
            return;
        };
        let params = json!({"progressToken": token, "progress": length, "message": std::mem::take(untold)});
        let told = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
        let _ = out.unbounded_send(Event::message(told.to_string().into()).encode());
    };
    while let Some(chunk) = asking.next().await {
        decoder.push(&chunk, &mut events).ok()?;
        for event in events.drain(..) {
            let data: Value = serde_json::from_slice(&event.data).ok()?;
            match event.event.as_str() {
                "done" => {
                    tell(length, &mut untold, true);
                    return Some(data);
                }
                "error" => return None,
                "text" => {
                    let piece = text_of(&data);
                    length += piece.chars().count();
                    if untold.len() + piece.len() > TOLD {
                        untold.clear();
                    }
                    if piece.len() <= TOLD {
                        untold.push_str(piece);
                    }
                    tell(length, &mut untold, false);
                }
                _ => {}
            }
        }
    }
    None
}

/// The models that the caller may use, with what is known of each; those alone whose names hold `part`.
async fn models<P: Platform>(
    desk: &Desk<P>,
    caller: &Caller,
    part: Option<&str>,
) -> Vec<(String, Option<ModelContext>)> {
    let (platform, plan, memory) = (&desk.mcp.platform, &desk.mcp.plan, desk.instance.models());
    let names = llm::names(platform, plan, memory, caller, plan.limits.merge_deadline).await;
    let now = platform.clock().now();
    let part = part.map(str::to_ascii_lowercase);
    let fits = |name: &str| part.as_ref().is_none_or(|part| name.to_ascii_lowercase().contains(part));
    let found = names.into_iter().filter(|(name, _)| fits(name)).take(MOST);
    found
        .map(|(name, owner)| {
            let known = llm::context(plan, memory, caller, &name, &owner, now);
            (name, known)
        })
        .collect()
}

fn resource(name: &str, model: Option<&ModelContext>) -> Value {
    let mut resource = json!({"uri": uri(name), "name": name, "mimeType": "application/json"});
    if let (Some(model), Some(resource)) = (model, resource.as_object_mut()) {
        if let Some(title) = &model.identification.title {
            resource.insert("title".into(), title.clone().into());
        }
        resource.insert("description".into(), brief(model).into());
    }
    resource
}

/// A model in a line.
fn brief(model: &ModelContext) -> String {
    let (of, can) = (&model.identification, &model.capabilities);
    let mut text = format!("{} of {}, {}", of.model, of.provider, model.runtime.place);
    if let Some(context) = model.inference.context_length {
        let _ = write!(text, ", takes {context} tokens");
    }
    for (able, word) in [
        (can.tools, "tools"),
        (can.images, "images"),
        (can.json, "JSON"),
        (can.reasoning, "reasoning"),
        (can.documents, "documents"),
        (can.audio, "audio"),
    ] {
        if able == Some(true) {
            let _ = write!(text, ", {word}");
        }
    }
    if let Some(prices) = model.runtime.prices {
        let _ = write!(text, ", ${} in and ${} out for a million tokens", prices.input, prices.output);
    }
    if model.runtime.health != "ok" {
        let _ = write!(text, "; {} now", model.runtime.health);
    }
    text
}

/// The members of the result of the tool `models`.
async fn listed<P: Platform>(desk: &Desk<P>, caller: &Caller, arguments: &Map<String, Value>) -> String {
    let part = match arguments.get("query") {
        None | Some(Value::Null) => None,
        Some(Value::String(part)) => Some(part.as_str()),
        Some(_) => return said("query: must be a part of a name", None, true),
    };
    let models = models(desk, caller, part).await;
    let (mut text, mut all) = (String::new(), Vec::new());
    for (name, model) in &models {
        let about = model.as_ref().map(brief);
        let _ = writeln!(text, "{name}: {}", about.as_deref().unwrap_or("several models"));
        all.push(json!({"name": name, "about": about, "uri": uri(name)}));
    }
    if models.is_empty() {
        text.push_str("no model that you may use has such a name");
    }
    said(text.trim_end(), Some(&json!({ "models": all })), false)
}

/// The members of the result of `resources/read`.
async fn read<P: Platform>(
    desk: &Desk<P>,
    caller: &Caller,
    params: Option<&RawValue>,
) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Given {
        uri: String,
    }
    let given = params.and_then(|params| serde_json::from_str::<Given>(params.get()).ok());
    let given = given.ok_or_else(|| Fault::new(Kind::InvalidParams, "params.uri: a string is required"))?;
    let unknown = || {
        let fault = Fault::new(Kind::InvalidParams, "params.uri: there is no such model, or not for you");
        fault.with_data(&json!({"uri": given.uri}))
    };
    let name = given.uri.strip_prefix(SCHEME).and_then(decoded).ok_or_else(unknown)?;
    let (plan, memory) = (&desk.mcp.plan, desk.instance.models());
    let now: Timestamp = desk.mcp.platform.clock().now();
    let model = llm::context(plan, memory, caller, &name, "", now).ok_or_else(unknown)?;
    let text = serde_json::to_string(&model).unwrap_or_default();
    let contents = json!([{"uri": given.uri, "mimeType": "application/json", "text": text}]);
    Ok(format!("\"contents\":{contents},\"ttlMs\":0,\"cacheScope\":\"private\""))
}

/// The URI of a model.
fn uri(name: &str) -> String {
    let mut uri = SCHEME.to_owned();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => {
                uri.push(char::from(byte));
            }
            _ => _ = write!(uri, "%{byte:02X}"),
        }
    }
    uri
}

/// The name in what follows the scheme.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_come_back_from_their_uris() {
        for (name, expect) in [
            ("openai/gpt-5", "model://openai/gpt-5"),
            ("local/qwen3:8b", "model://local/qwen3:8b"),
            ("my model?#%", "model://my%20model%3F%23%25"),
            ("größe", "model://gr%C3%B6%C3%9Fe"),
        ] {
            assert_eq!(uri(name), expect);
            assert_eq!(decoded(expect.strip_prefix(SCHEME).unwrap()).as_deref(), Some(name));
        }
        for bad in ["", "%", "%4", "%zz", "%FF"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_tools_are_json_and_take_what_ask_takes() {
        let tools: Value = serde_json::from_str(TOOLS).unwrap();
        let published: Value = serde_json::from_str(llm::ask::schema::OPENAPI).unwrap();
        let schemas = &published["components"]["schemas"];
        for (side, name) in [("inputSchema", "Ask"), ("outputSchema", "Answer")] {
            let members = tools[0][side]["properties"].as_object().unwrap();
            for member in members.keys() {
                assert!(schemas[name]["properties"][member].is_object(), "{name} has no {member}");
            }
        }
    }
}
