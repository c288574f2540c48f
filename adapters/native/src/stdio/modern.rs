//! The modern era: each request is a POST of its own, and ending that POST cancels the request.
//!
//! Source: 2026-07-28, Streamable HTTP (this program is the client) and stdio (it is the server).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use causeway::mcp::headers::{self, METHOD, NAME, VERSION};
use causeway::mcp::meta::{self, Meta, Params};
use causeway::wire::jsonrpc::{Message, quote, string};
use http::{HeaderMap, HeaderValue};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::backoff::Backoff;
use super::endpoint::Got;
use super::failure::{Failure, HEADER_MISMATCH, Said};
use super::session::notification;
use super::stream::{messages, parts};
use super::{Ask, Bridge, lock, same};
use crate::log::Level;

/// The member of `_meta` that says which subscription a message belongs to.
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// A list of tools is read up to this many pages.
const MAX_PAGES: usize = 100;

/// What a modern request says of itself, as far as it goes into headers.
#[derive(Debug)]
struct Head {
    /// The headers that every request has.
    headers: HeaderMap,
    /// The tool, in a `tools/call`.
    tool: Option<String>,
    /// What a request of our own in the client's name has in its `_meta`.
    meta: String,
}

impl Head {
    /// Reads a request ("Standard Request Headers").
    ///
    /// # Errors
    /// When a header cannot hold what it is to mirror.
    fn read(body: &[u8]) -> Result<Self, Failure> {
        let Ok(Message::Request { method, params, .. }) = Message::decode(body) else {
            return Err(Failure::Unsendable("not a request"));
        };
        let params = Params::read(params).map_err(|_| Failure::Unsendable("params: cannot be read"))?;
        let declared =
            Meta::read(params.meta).map_err(|_| Failure::Unsendable("params._meta: cannot be read"))?;
        let version = declared.version().unwrap_or_default();
        let named = match &*method {
            "tools/call" | "prompts/get" => Some(params.name),
            "resources/read" => Some(params.uri),
            _ => None,
        };
        // A name that is missing is mirrored as such, so that the server can say what is really wrong.
        let name = named.map(|raw| raw.and_then(string).unwrap_or_default());
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&version);
        headers.insert(
            VERSION,
            value.map_err(|_| Failure::Unsendable("params._meta: the protocol version is none"))?,
        );
        let long = Failure::Unsendable("a method or name that no header can hold");
        match (headers::encode(&method), name.as_deref().map(headers::encode)) {
            (Some(method), None) => _ = headers.insert(METHOD, method),
            (Some(method), Some(Some(name))) => {
                headers.insert(METHOD, method);
                headers.insert(NAME, name);
            }
            _ => return Err(long),
        }
        let mut meta = format!("\"{}\":{}", meta::VERSION, String::from_utf8_lossy(&quote(&version)));
        for (name, value) in
            [(meta::CLIENT_INFO, declared.client_info), (meta::CAPABILITIES, declared.capabilities)]
        {
            value.iter().for_each(|value| meta.push_str(&format!(",\"{name}\":{}", value.get())));
        }
        let tool = name.filter(|_| method == "tools/call").map(std::borrow::Cow::into_owned);
        Ok(Self { headers, tool, meta })
    }

    /// A `tools/list` of our own.
    fn list(&self, cursor: Option<&str>) -> (HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        self.headers.get(VERSION).iter().for_each(|version| _ = headers.insert(VERSION, (*version).clone()));
        headers.insert(METHOD, HeaderValue::from_static("tools/list"));
        let cursor = cursor.map(|cursor| format!("\"cursor\":{},", String::from_utf8_lossy(&quote(cursor))));
        let params = format!("{{{}\"_meta\":{{{}}}}}", cursor.unwrap_or_default(), self.meta);
        (headers, meta::request(LIST_ID, "tools/list", &params))
    }
}

/// The id of our own `tools/list`. It is alone in its exchange, so the client may well use the same.
const LIST_ID: &str = "causeway-tools";

/// The arguments of a call; `Null` where there are none.
fn arguments(body: &[u8]) -> Value {
    let Ok(Message::Request { params, .. }) = Message::decode(body) else { return Value::Null };
    let arguments = Params::read(params).ok().and_then(|params| params.arguments);
    arguments.and_then(|arguments| serde_json::from_str(arguments.get()).ok()).unwrap_or_default()
}

impl Bridge {
    /// Answers a request of the modern era.
    pub(super) async fn answer_modern(self: Arc<Self>, ask: Ask) {
        let answer = match ask.method.as_str() {
            "subscriptions/listen" => self.subscribe(&ask).await,
            "tools/call" => self.call(&ask).await.map(Some),
            _ => self.plain(&ask).await.map(Some),
        };
        self.reply(&ask, answer).await;
    }

    async fn plain(&self, ask: &Ask) -> Result<Bytes, Failure> {
        let head = Head::read(&ask.body)?;
        let answer = self.exchange(&head.headers, &ask.body, &ask.id, |sent| ask.ticket.sent(sent)).await?;
        if ask.method != "tools/list" {
            return Ok(answer);
        }
        let learned = lock(&self.tools).learn(&answer);
        for (name, why) in &learned.rejected {
            self.endpoint.note(
                Level::Warn,
                "tool.rejected",
                &format!("the tool {name:?} is left out: {why}"),
            );
        }
        Ok(learned.changed.unwrap_or(answer))
    }

    /// A `tools/call`, with the arguments mirrored that the tool wants mirrored ("Client Behavior").
    async fn call(&self, ask: &Ask) -> Result<Bytes, Failure> {
        let head = Head::read(&ask.body)?;
        let Some(tool) = &head.tool else { return self.plain(ask).await };
        let arguments = arguments(&ask.body);
        let has_arguments = arguments.as_object().is_some_and(|arguments| !arguments.is_empty());
        let is_listed = || lock(&self.tools).is_listed();
        if has_arguments && !is_listed() {
            // Calls that come together share one list.
            let _one = self.listing.lock().await;
            if !is_listed() {
                self.list(&head).await;
            }
        }
        let send = async || {
            let mut headers = head.headers.clone();
            if let Some(marks) = lock(&self.tools).mirrored(tool) {
                headers::write_mirrored(&mut headers, &marks, &arguments);
            }
            self.exchange(&headers, &ask.body, &ask.id, |sent| ask.ticket.sent(sent)).await
        };
        let answer = send().await;
        let code = match &answer {
            Ok(answer) => Said::read(answer).map(|said| said.code),
            Err(failure) => failure.code(),
        };
        if code != Some(HEADER_MISMATCH) || !has_arguments {
            return answer;
        }
        // The tool has changed since it was listed. A refused call was not processed.
        self.list(&head).await;
        send().await
    }

    /// Reads the list of tools, for what it says about headers. If that fails, the call itself will say why.
    async fn list(&self, head: &Head) {
        let mut cursor = None;
        let Ok(id) = RawValue::from_string(format!("\"{LIST_ID}\"")) else { return };
        for _ in 0..MAX_PAGES {
            let (headers, body) = head.list(cursor.as_deref());
            let Ok(answer) = self.exchange(&headers, &body, &id, |_| ()).await else { break };
            cursor = lock(&self.tools).learn(&answer).next;
            if cursor.is_none() {
                break;
            }
        }
        lock(&self.tools).listed();
    }

    /// One POST up to its answer; what else is said on the way goes to the client.
    async fn exchange(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        id: &RawValue,
        sent: impl Fn(bool),
    ) -> Result<Bytes, Failure> {
        let response = self.endpoint.post(headers, body, sent).await?;
        match self.endpoint.read(response).await? {
            Got::Nothing(status) => Err(Failure::Empty(status)),
            Got::Document(document) => {
                let mut answer = None;
                for message in parts(document) {
                    answer = self.sort(id, message).await.or(answer);
                }
                answer.ok_or(Failure::WrongId)
            }
            Got::Events(mut events) => {
                while let Some(event) = events.next().await? {
                    for message in messages(event) {
                        if let Some(answer) = self.sort(id, message).await {
                            return Ok(answer);
                        }
                    }
                }
                Err(Failure::Ended)
            }
        }
    }

    /// Gives back the answer to `id`; passes a notification on.
    async fn sort(&self, id: &RawValue, message: Bytes) -> Option<Bytes> {
        let dropped = match Message::decode(&message) {
            Ok(Message::Response { id: Some(own), .. }) if same(own, id) => return Some(message),
            // An error about a request that could not be read: there was only this one.
            Ok(Message::Response { id: None, .. }) => return Said::read(&message).map(|said| said.line(id)),
            Ok(Message::Notification { .. }) => {
                self.output.line(message).await;
                return None;
            }
            Ok(Message::Response { .. }) => "an answer to another request",
            // stdio, "Receiving Messages": requests to the client ended with the legacy era.
            Ok(Message::Request { .. }) => "a request, which this revision does not have",
            Err(_) => "what is no message",
        };
        self.endpoint.note(Level::Warn, "message.dropped", &format!("the server has sent {dropped}"));
        None
    }

    /// A `subscriptions/listen`. Its stream stays open for as long as the client wants it; one that breaks is
    /// opened again, which the client need not know (2026-07-28 Subscriptions, "Graceful Closure").
    async fn subscribe(&self, ask: &Ask) -> Result<Option<Bytes>, Failure> {
        let head = Head::read(&ask.body)?;
        let mut acknowledged: Option<Value> = None;
        let mut backoff = Backoff::stream();
        let began = Instant::now();
        loop {
            let opened = Instant::now();
            let failure = match self.listen(ask, &head, &mut acknowledged).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let in_time = acknowledged.is_some() || began.elapsed() < self.endpoint.patience();
            if !failure.passes() || !in_time {
                return Err(failure);
            }
            backoff.held(opened.elapsed());
            let pause = backoff.pause();
            let words = self.endpoint.words(&failure);
            self.endpoint.note(Level::Warn, "subscription.broken", &format!("{words} (it is opened again)"));
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream of a subscription, up to the answer that ends it, or the notification that there will be none.
    async fn listen(
        &self,
        ask: &Ask,
        head: &Head,
        acknowledged: &mut Option<Value>,
    ) -> Result<Option<Bytes>, Failure> {
        let response = self.endpoint.post(&head.headers, &ask.body, |sent| ask.ticket.sent(sent)).await?;
        let mut events = match self.endpoint.read(response).await? {
            Got::Events(events) => events,
            Got::Nothing(status) => return Err(Failure::Empty(status)),
            Got::Document(document) => {
                return self.sort(&ask.id, document).await.map(Some).ok_or(Failure::WrongId);
            }
        };
        while let Some(event) = events.next().await? {
            for message in messages(event) {
                match told(&message, &ask.id) {
                    Told::Acknowledged(filter) => {
                        let before = acknowledged.replace(filter.clone());
                        if before.as_ref() != Some(&filter) {
                            self.output.line(message).await;
                        }
                        // Whatever changed while nobody listened, nobody has told.
                        for missed in before.iter().flat_map(|_| missed(&filter, &ask.id)) {
                            self.output.line(missed).await;
                        }
                    }
                    // The server has ended it, and says so: there is nothing to come back for.
                    Told::Cancelled => {
                        self.output.line(message).await;
                        return Ok(None);
                    }
                    Told::Other => {
                        if let Some(answer) = self.sort(&ask.id, message).await {
                            return Ok(Some(answer));
                        }
                    }
                }
            }
        }
        Err(Failure::Ended)
    }
}

/// What a message says about the subscription that it came for.
#[derive(Debug, PartialEq)]
enum Told {
    Acknowledged(Value),
    Cancelled,
    Other,
}

fn told(message: &[u8], id: &RawValue) -> Told {
    let Ok(Message::Notification { method, params: Some(params) }) = Message::decode(message) else {
        return Told::Other;
    };
    let params: Map<String, Value> = serde_json::from_str(params.get()).unwrap_or_default();
    let own = || serde_json::from_str::<Value>(id.get()).ok();
    match &*method {
        "notifications/subscriptions/acknowledged" => {
            Told::Acknowledged(params.get("notifications").cloned().unwrap_or_default())
        }
        "notifications/cancelled" if params.get("requestId") == own().as_ref() => Told::Cancelled,
        _ => Told::Other,
    }
}

/// The notifications that say that everything in `filter` may have changed, for the subscription `id`.
fn missed(filter: &Value, id: &RawValue) -> Vec<Bytes> {
    let meta = json!({ SUBSCRIPTION: id });
    let wants = |name: &str| filter.get(format!("{name}ListChanged")) == Some(&Value::Bool(true));
    let lists = ["tools", "prompts", "resources"].into_iter().filter(|name| wants(name)).map(|name| {
        notification(&format!("notifications/{name}/list_changed"), Some(&json!({ "_meta": meta })))
    });
    let uris = filter.get("resourceSubscriptions").and_then(Value::as_array).into_iter().flatten();
    let updated =
        |uri| notification("notifications/resources/updated", Some(&json!({ "_meta": meta, "uri": uri })));
    lists.chain(uris.map(updated)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn head(method: &str, params: &str) -> Head {
        let meta = format!(
            r#""_meta":{{"{}":"2026-07-28","{}":{{"sampling":{{}}}},"progressToken":1}}"#,
            meta::VERSION,
            meta::CAPABILITIES
        );
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{meta}}}}}"#);
        Head::read(body.as_bytes()).unwrap()
    }

    fn check(head: &Head, expect: &[(&str, &str)]) {
        let mut got: Vec<_> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        got.sort_unstable();
        assert_eq!(got, expect);
    }

    #[test]
    fn headers_mirror_the_body() {
        let version = ("mcp-protocol-version", "2026-07-28");
        check(&head("tools/list", ""), &[("mcp-method", "tools/list"), version]);
        let call = head("tools/call", r#""name":"a\u00e4","#);
        check(&call, &[("mcp-method", "tools/call"), ("mcp-name", "=?base64?YcOk?="), version]);
        assert_eq!(call.tool.as_deref(), Some("aä"));
        let read = head("resources/read", r#""uri":"file:///a","#);
        check(&read, &[("mcp-method", "resources/read"), ("mcp-name", "file:///a"), version]);
        check(&head("prompts/get", ""), &[("mcp-method", "prompts/get"), ("mcp-name", ""), version]);
        // A subscription names many resources, and no header mirrors them.
        check(
            &head("completion/complete", r#""name":"x","#),
            &[("mcp-method", "completion/complete"), version],
        );
    }

    #[test]
    fn own_list_speaks_in_the_name_of_the_client() {
        let (headers, body) = head("tools/call", r#""name":"a","#).list(Some("p\"2"));
        assert_eq!(headers[METHOD], "tools/list");
        assert!(!headers.contains_key(NAME));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["params"]["cursor"], "p\"2");
        assert_eq!(
            body["params"]["_meta"],
            json!({meta::VERSION: "2026-07-28", meta::CAPABILITIES: {"sampling": {}}})
        );
    }

    #[test]
    fn a_version_that_no_header_holds_is_refused() {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"_meta":{{"{}":"a\nb"}}}}}}"#,
            meta::VERSION
        );
        assert!(matches!(Head::read(body.as_bytes()), Err(Failure::Unsendable(_))));
    }

    #[test]
    fn a_subscription_that_was_broken_tells_everything_anew() {
        let filter =
            json!({"toolsListChanged": true, "promptsListChanged": false, "resourceSubscriptions": ["a:b"]});
        let got: Vec<Value> = missed(&filter, &id("\"s\""))
            .iter()
            .map(|message| serde_json::from_slice(message).unwrap())
            .collect();
        let meta = json!({SUBSCRIPTION: "s"});
        assert_eq!(
            got,
            [
                json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": meta}}),
                json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"_meta": meta, "uri": "a:b"}}),
            ]
        );
    }

    #[test]
    fn the_end_of_a_subscription_is_told_from_that_of_another() {
        let of = |text: &str| told(text.as_bytes(), &id("7"));
        let cancelled = |id: &str| {
            of(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            ))
        };
        assert_eq!(cancelled("7"), Told::Cancelled);
        assert_eq!(cancelled("8"), Told::Other);
        assert_eq!(
            of(
                r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{}}}"#
            ),
            Told::Acknowledged(json!({}))
        );
        assert_eq!(of(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#), Told::Other);
    }
}
