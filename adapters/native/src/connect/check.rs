//! Whether all that the file offers is there: taken by the gateway, and answering `tools/list` or listing its models.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use causeway::config::glob::Glob;
use causeway::config::plan::{BEHIND, Provider, Server, Transport};
use causeway::llm::provider::{Place, address};
use causeway::llm::registry;
use causeway::mcp::revision::Revision;
use causeway::mcp::{headers, meta};
use causeway::tunnel::frame::{self, Headers};
use causeway::tunnel::hello::{Offer, Verdict};
use causeway::wire::sse::Decoder;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use http::Response;
use http::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};
use url::Url;

use super::answer::{Kitchen, PATIENCE, ask, ask_model};
use super::targets::{Target, Targets};
use super::tools::Exposed;
use crate::http::Answer;

/// The largest list.
const MAX_LIST: usize = 16 << 20;
/// How many pages a list may have.
const MAX_PAGES: usize = 100;
/// What a server of sessions is asked for.
const LEGACY: &str = "2025-11-25";

/// What came of one of them.
#[derive(Debug)]
pub struct Checked {
    /// What is offered.
    pub offer: Offer,
    /// What it is.
    pub what: String,
    /// Why the gateway does not take it.
    pub refused: Option<String>,
    /// The names of its tools that are exposed, or of its models, where they can be asked for; or why it does not answer.
    pub has: Result<Option<Vec<String>>, String>,
    /// How long that took.
    pub took: Duration,
}

impl Checked {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.refused.is_none() && self.has.is_ok()
    }
}

/// Checks all that is offered, and tells of what could not be.
pub(super) async fn all(
    kitchen: &Arc<Kitchen>,
    targets: &Targets,
    verdicts: &[Verdict],
    allow: &Arc<[Glob]>,
) -> Vec<Checked> {
    let one = |offer: Offer| async move {
        let began = Instant::now();
        let has = match targets.get(&offer) {
            Some(target) => {
                let asked = async {
                    match target {
                        Target::Server(server) => tools(kitchen, server, &offer, allow).await,
                        Target::Model(provider) => models(kitchen, provider, &offer).await.map(Some),
                    }
                };
                let patience = tokio::time::timeout(PATIENCE, asked);
                patience.await.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
            }
            None => Err("is not offered".to_owned()),
        };
        let verdict = verdicts.iter().find(|verdict| verdict.offer == offer);
        let refused = match verdict {
            Some(verdict) => verdict.refused.as_deref().map(super::view::plain),
            None => Some("the gateway says nothing about it".to_owned()),
        };
        let what = targets.get(&offer).map(Target::shown).unwrap_or_default();
        Checked { offer, what, refused, has, took: began.elapsed() }
    };
    let mut checked = join_all(targets.offers().into_iter().map(one)).await;
    checked.extend(targets.left_out.iter().map(|(offer, reason)| Checked {
        offer: offer.clone(),
        what: String::new(),
        refused: Some("is not offered".to_owned()),
        has: Err(reason.clone()),
        took: Duration::ZERO,
    }));
    checked
}

/// The models that there are.
async fn models(kitchen: &Kitchen, provider: &Provider, offer: &Offer) -> Result<Vec<String>, String> {
    let there = Provider::new(&provider.name, provider.kind, Url::parse(BEHIND).map_err(|e| e.to_string())?);
    let path = address(&there, Place::Models, "").and_then(|address| Url::parse(&address).ok());
    let mut head = frame::Request::post(offer.clone(), path.as_ref().map_or("", Url::path));
    head.method = "GET".to_owned();
    let response = ask_model(kitchen, provider, &head, Bytes::new()).await.map_err(|reset| reset.words)?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("it answers with status {status}"));
    }
    let (mut body, mut whole) = (response.into_body(), BytesMut::new());
    while let Some(chunk) = body.next().await {
        whole.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
        if whole.len() > MAX_LIST {
            return Err(format!("its answer is larger than {MAX_LIST} bytes"));
        }
    }
    let list = serde_json::from_slice(&whole).map_err(|_| "its answer is no list of models".to_owned())?;
    Ok(registry::listed(provider.kind, &list).iter().map(|model| super::view::plain(&model.name)).collect())
}

async fn tools(
    kitchen: &Kitchen,
    server: &Server,
    offer: &Offer,
    allow: &Arc<[Glob]>,
) -> Result<Option<Vec<String>>, String> {
    if server.transport == Transport::HttpSse {
        // Answers come on another stream; that there is one is enough here.
        let mut head = frame::Request::post(offer.clone(), "");
        head.method = "GET".to_owned();
        head.headers.0.push((ACCEPT.as_str().to_owned(), Bytes::from_static(b"text/event-stream")));
        let response = ask(kitchen, server, &head, Bytes::new()).await.map_err(|reset| reset.words)?;
        return match response.status().as_u16() {
            200 => Ok(None),
            status => Err(format!("it answers with status {status}")),
        };
    }
    let exposed = Exposed::new(offer.name(), allow);
    let asking = Asking { kitchen, server, offer };
    let modern = json!({
        meta::VERSION: Revision::MODERN.as_str(),
        meta::CLIENT_INFO: { "name": "causeway-connect", "version": env!("CARGO_PKG_VERSION") },
        meta::CAPABILITIES: {},
    });
    if let Ok(tools) = asking.list(Some(&modern), None, exposed.as_ref()).await {
        return Ok(Some(tools));
    }
    let params = json!({
        "protocolVersion": LEGACY,
        "clientInfo": { "name": "causeway-connect", "version": env!("CARGO_PKG_VERSION") },
        "capabilities": {},
    });
    let (session, answer) = asking.say("initialize", params, None, None).await?;
    if answer.get("result").is_none() {
        return Err(why(&answer));
    }
    asking.notify("notifications/initialized", session.as_deref()).await?;
    let listed = asking.list(None, session.as_deref(), exposed.as_ref()).await;
    if session.is_some() {
        _ = asking.request("DELETE", Bytes::new(), None, session.as_deref(), None).await;
    }
    listed.map(Some)
}

/// One server being asked.
struct Asking<'a> {
    kitchen: &'a Kitchen,
    server: &'a Server,
    offer: &'a Offer,
}

impl Asking<'_> {
    async fn list(
        &self,
        meta: Option<&Value>,
        session: Option<&str>,
        exposed: Option<&Exposed>,
    ) -> Result<Vec<String>, String> {
        let (mut listed, mut cursor) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let mut params = json!({});
            if let (Some(params), Some(meta)) = (params.as_object_mut(), meta) {
                params.insert("_meta".to_owned(), meta.clone());
            }
            if let (Some(params), Some(cursor)) = (params.as_object_mut(), cursor.take()) {
                params.insert("cursor".to_owned(), cursor);
            }
            let (_, answer) = self.say("tools/list", params, meta, session).await?;
            // A server without tools need not know the method.
            if answer.pointer("/error/code").and_then(Value::as_i64) == Some(-32601) && meta.is_none() {
                return Ok(listed);
            }
            let tools =
                answer.pointer("/result/tools").and_then(Value::as_array).ok_or_else(|| why(&answer))?;
            let names = tools.iter().filter_map(|tool| tool.get("name").and_then(Value::as_str));
            let names = names.filter(|name| exposed.is_none_or(|exposed| exposed.admits(name)));
            listed.extend(names.map(super::view::plain));
            match answer.pointer("/result/nextCursor") {
                Some(next) if !next.is_null() => cursor = Some(next.clone()),
                _ => return Ok(listed),
            }
        }
        Err(format!("its list has more than {MAX_PAGES} pages"))
    }

    async fn notify(&self, method: &str, session: Option<&str>) -> Result<(), String> {
        let body = json!({ "jsonrpc": "2.0", "method": method }).to_string();
        self.request("POST", body.into(), None, session, Some(LEGACY)).await.map(drop)
    }

    /// A request: the session that was begun by it, and the answer.
    async fn say(
        &self,
        method: &str,
        params: Value,
        meta: Option<&Value>,
        session: Option<&str>,
    ) -> Result<(Option<String>, Value), String> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let version = match (meta, method) {
            (Some(_), _) => Some(Revision::MODERN.as_str()),
            (None, "initialize") => None,
            (None, _) => Some(LEGACY),
        };
        let response = self.request("POST", body.into(), meta.map(|_| method), session, version).await?;
        let status = response.status();
        let header = |name: &http::HeaderName| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let begun = header(&headers::SESSION);
        let streamed = header(&CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/event-stream"));
        match read(response.into_body(), streamed).await? {
            Some(answer) => Ok((begun, answer)),
            None => Err(format!("it answers with status {status}")),
        }
    }

    async fn request(
        &self,
        method: &str,
        body: Bytes,
        name: Option<&str>,
        session: Option<&str>,
        version: Option<&str>,
    ) -> Result<Response<Answer>, String> {
        let mut head = frame::Request::post(self.offer.clone(), "");
        head.method = method.to_owned();
        let mut own = vec![
            (CONTENT_TYPE.as_str(), "application/json"),
            (ACCEPT.as_str(), "application/json, text/event-stream"),
        ];
        let (of_version, of_name, of_session) = (headers::VERSION, headers::METHOD, headers::SESSION);
        own.extend(version.map(|version| (of_version.as_str(), version)));
        own.extend(name.map(|name| (of_name.as_str(), name)));
        own.extend(session.map(|session| (of_session.as_str(), session)));
        let owned =
            own.into_iter().map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        head.headers = Headers(owned.collect());
        ask(self.kitchen, self.server, &head, body).await.map_err(|reset| reset.words)
    }
}

/// The answer with the id that was asked with.
async fn read(mut body: Answer, streamed: bool) -> Result<Option<Value>, String> {
    let mut whole = BytesMut::new();
    let mut decoder = Decoder::new(MAX_LIST);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| error.to_string())?;
        if streamed {
            let mut events = Vec::new();
            decoder.push(&chunk, &mut events).map_err(|error| error.to_string())?;
            for event in events {
                if let Some(answer) = answer(&event.data) {
                    return Ok(Some(answer));
                }
            }
        } else {
            whole.extend_from_slice(&chunk);
        }
        if whole.len() > MAX_LIST {
            return Err(format!("its answer is larger than {MAX_LIST} bytes"));
        }
    }
    Ok(answer(&whole))
}

fn answer(text: &[u8]) -> Option<Value> {
    let answer: Value = serde_json::from_slice(text).ok()?;
    (answer.get("result").is_some() || answer.get("error").is_some()).then_some(answer)
}

/// Why an answer is none.
fn why(answer: &Value) -> String {
    match answer.pointer("/error/message").and_then(Value::as_str) {
        Some(message) => super::view::plain(message),
        None => "its answer is no list of tools".to_owned(),
    }
}
