//! One call to one server, in whatever era the two sides are.
//!
//! Same era and nothing shared: the caller's bytes go out with at most the name changed, and the server's bytes
//! come back untouched. Everything else is the least rewriting that makes the two understand each other.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use serde_json::value::RawValue;

use super::memory::{Profile, UpstreamSession, lock};
use super::meta::{Declared, Params, erase};
use super::revision::{Era, Revision};
use super::serve::{Answer, Cancel, Client, Inbound};
use super::session::{Holder, carried};
use super::stream::{Mode, Rewrite, Rewritten, Stream};
use super::upstream::{
    Answered, Content, Outgoing, PASSED, content, error_of, no_answer, refused, standard_headers,
};
use super::{Mcp, catalog, forgotten, headers};
use crate::config::plan::{Server, Transport};
use crate::fault::{Fault, Kind};
use crate::platform::Platform;
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{Message, Splice, quote};
use crate::wire::sse::{Decoder, Event};

/// A JSON answer up to this size is read whole, so that a broken one can still become a proper error.
const WHOLE: usize = 1024 * 1024;
/// A JSON answer up to this size is looked through before it is passed on.
const CHECKED: usize = 16 * 1024;
/// An HTTP error's body is read no further than this.
const ERROR_BODY: usize = 64 * 1024;

/// A request, taken apart as far as routing needs.
#[derive(Debug)]
pub struct Call<'a> {
    /// The whole message.
    pub text: &'a [u8],
    /// Its id.
    pub id: &'a RawValue,
    /// Its method.
    pub method: &'a str,
    /// Its parameters.
    pub params: Option<&'a RawValue>,
    /// The parameters, taken apart.
    pub read: Params<'a>,
}

/// Where a call goes.
#[derive(Debug)]
pub struct Route<'a> {
    /// The server.
    pub server: Arc<Server>,
    /// What the server calls the tool, prompt or resource, where the method has one.
    pub name: Option<Cow<'a, str>>,
    /// The place in the message that names it otherwise.
    pub renamed: Option<&'a RawValue>,
}

/// How a call travels upstream.
struct Way {
    revision: Revision,
    session: Option<UpstreamSession>,
    holder: Option<Holder>,
    /// The id it has upstream, if the session is shared and ids could meet.
    id: Option<String>,
}

impl<P: Platform> Mcp<P> {
    /// Sends `call` along `route` and gives the answer as it comes.
    ///
    /// # Errors
    /// When the server fails before it has said anything.
    pub async fn forward(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
    ) -> Result<Answer<P>, Fault> {
        let server = &route.server;
        let mut profile = self.profile(server).await?;
        let mut tried = Tried::default();
        loop {
            let (way, line) = match self.way(server, client, call, &profile).await {
                Err(fault) if !tried.era && is_otherwise(server, &profile, &fault) => {
                    // It does not open sessions (any more): perhaps it has become a modern server.
                    tried.era = true;
                    self.memory.server(server).forget();
                    profile = self.profile(server).await?;
                    continue;
                }
                way => way?,
            };
            let outgoing = self.outgoing(inbound, client, call, route, &way).await?;
            let answered = match (line, &way.session) {
                (Some(line), Some(session)) => {
                    // Hanging up ends the session, and with it the call.
                    Box::pin(self.send_old(*line, session, outgoing, call.id.get())).await?
                }
                _ => {
                    inbound.ticket.set(cancel(client, call, &way, server));
                    let answered = self.exchange(server, outgoing).await;
                    inbound.ticket.set(None);
                    answered?
                }
            };
            if answered.status.is_success() {
                return self.deliver(inbound, client, call, way, answered).await;
            }
            match self.refusal(client, call, &way, answered, tried).await? {
                Refusal::Answer(answer) => return Ok(answer),
                Refusal::Forgotten => {
                    tried.session = true;
                    if let (Some(holder), Some(session)) = (&way.holder, &way.session) {
                        self.drop_held(server, holder, session).await?;
                    }
                }
                Refusal::OtherEra => {
                    tried.era = true;
                    self.memory.server(server).forget();
                    profile = self.profile(server).await?;
                }
            }
        }
    }

    /// How the call travels, and the stream that its answer will come on if it is there already.
    async fn way(
        &self,
        server: &Arc<Server>,
        client: &Client,
        call: &Call<'_>,
        profile: &Profile,
    ) -> Result<(Way, Option<Box<Answered<P>>>), Fault> {
        let revision = profile.revision_for(client.era());
        if revision.era() == Era::Modern {
            return Ok((Way { revision, session: None, holder: None, id: None }, None));
        }
        if profile.http_sse {
            // Boxed: only the oldest servers need it, and every call would have to make room for it.
            let (line, session) = Box::pin(self.session_of_call(server, client, call, profile)).await?;
            let way = Way { revision: session.revision, session: Some(session), holder: None, id: None };
            return Ok((way, Some(line)));
        }
        let holder = self.holder(server, client.session.as_ref(), &client.caller, profile.sessions);
        let session = self.held(server, &holder).await?;
        let shared = matches!(holder, Holder::Pool(_)) && session.id.is_some();
        let id = shared.then(|| self.memory.server(server).next_id().to_string());
        Ok((Way { revision: session.revision, session: Some(session), holder: Some(holder), id }, None))
    }

    /// The request as it goes upstream.
    async fn outgoing(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
        way: &Way,
    ) -> Result<Outgoing, Fault> {
        let mut splice = Splice::new(call.text);
        let mut changed = false;
        if let (Some(place), Some(name)) = (route.renamed, &route.name) {
            splice.replace(place, quote(name));
            changed = true;
        }
        if let Some(id) = &way.id {
            splice.replace(call.id, id.clone().into_bytes());
            changed = true;
        }
        let upstream = way.revision.era();
        match (client.era(), upstream) {
            (Era::Legacy, Era::Modern) => {
                self.declare(client, call, &mut splice);
                changed = true;
            }
            (Era::Modern, Era::Legacy) => {
                erase(&mut splice, call.read.meta);
                changed = true;
            }
            _ => {}
        }
        let body = if changed { splice.finish() } else { inbound.part(call.text) };
        let session = way.session.as_ref().and_then(|session| session.id.as_deref());
        let mut out = standard_headers(way.revision, session, call.method, route.name.as_deref());
        for name in &PASSED {
            if let Some(value) = inbound.headers.get(name) {
                out.insert(name.clone(), value.clone());
            }
        }
        if upstream == Era::Modern && call.method == "tools/call" {
            self.mirror(inbound, client, call, route, &mut out).await;
        }
        Ok(Outgoing { http: Method::POST, to: None, body, headers: out })
    }

    /// Writes what a modern server must know of a legacy client into the request.
    fn declare(&self, client: &Client, call: &Call<'_>, splice: &mut Splice<'_>) {
        let Some(session) = &client.session else { return };
        let level = lock(&session.memory.record).0.level.clone();
        let capabilities = carried(&session.facts.capabilities);
        let declared = Declared {
            version: Revision::MODERN.as_str(),
            client_info: &session.facts.client_info,
            capabilities: &capabilities,
            log_level: level.as_deref(),
        };
        declared.write(splice, call.params, call.read.meta);
    }

    /// The headers that mirror arguments: the client's own, which have been checked, or ours for a legacy client.
    async fn mirror(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
        out: &mut HeaderMap,
    ) {
        if client.era() == Era::Modern {
            for (name, value) in &inbound.headers {
                if name.as_str().starts_with(headers::PARAM) {
                    out.append(name.clone(), value.clone());
                }
            }
            return;
        }
        let Some(name) = &route.name else { return };
        let Ok(list) = self.list(&route.server, catalog::Kind::Tools, &client.caller).await else { return };
        let Some(tool) = list.own(name).filter(|tool| !tool.mirrored.is_empty()) else { return };
        headers::write_mirrored(out, &tool.mirrored, &arguments(call));
    }

    /// Passes on an answer that has begun well.
    async fn deliver(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        way: Way,
        answered: Answered<P>,
    ) -> Result<Answer<P>, Fault> {
        let server = answered.reader.server.clone();
        let rewrite = rewrite(client, call, &way, &server);
        let cancel = cancel(client, call, &way, &server);
        match content(&answered.headers) {
            Content::Json => self.deliver_json(call, answered, rewrite, cancel).await,
            Content::Events if !inbound.accepts.events => {
                let upstream_id = rewrite.as_ref().map_or_else(|| call.id.get(), |r| r.upstream_id.as_str());
                let body = self.single(answered, upstream_id).await?;
                Ok(json(StatusCode::OK, body, rewrite.as_ref()))
            }
            Content::Events => {
                let decoder = Decoder::new(server.max_response);
                let mode = match (rewrite, &way.session) {
                    (Some(rewrite), Some(session)) => Mode::Rewritten(decoder, rewrite, session.clone()),
                    _ => Mode::Events(decoder, BytesMut::new()),
                };
                let mut reader = answered.reader;
                if call.method == "subscriptions/listen" {
                    reader.open_ended();
                }
                let stream = Stream::new(self.clone(), reader, mode, Some(call.id), None);
                Ok(Answer::Stream(Box::new(stream), cancel))
            }
            Content::Other => Err(no_answer(&server)),
        }
    }

    async fn deliver_json(
        &self,
        call: &Call<'_>,
        mut answered: Answered<P>,
        rewrite: Option<Rewrite>,
        cancel: Option<Cancel>,
    ) -> Result<Answer<P>, Fault> {
        let server = answered.reader.server.clone();
        if let Some(rewrite) = rewrite {
            let body = answered.reader.all(server.max_response).await?;
            return match rewrite.apply(body) {
                Rewritten::Response(body, code) => Ok(Answer::Json(status_of(&rewrite, code), body)),
                _ => Err(no_answer(&server)),
            };
        }
        match beginning(&mut answered.reader).await? {
            (body, true) => {
                if body.len() <= CHECKED && !answers(&body, call.id) {
                    return Err(no_answer(&server));
                }
                Ok(Answer::Json(StatusCode::OK, body))
            }
            (first, false) => {
                let stream =
                    Stream::new(self.clone(), answered.reader, Mode::Json, Some(call.id), Some(first));
                Ok(Answer::Stream(Box::new(stream), cancel))
            }
        }
    }

    /// Makes sense of an HTTP error.
    async fn refusal(
        &self,
        client: &Client,
        call: &Call<'_>,
        way: &Way,
        mut answered: Answered<P>,
        tried: Tried,
    ) -> Result<Refusal<P>, Fault> {
        let server = answered.reader.server.clone();
        let status = answered.status;
        let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
        let code = error_of(&body).map(|(code, _)| code);
        if way.session.as_ref().is_some_and(|session| session.id.is_some())
            && forgotten(status)
            && !tried.session
        {
            let says = || String::from_utf8_lossy(&body).to_ascii_lowercase().contains("session");
            if status == StatusCode::NOT_FOUND && code != Some(-32601) || says() {
                return Ok(Refusal::Forgotten);
            }
        }
        if way.session.is_some() && code.is_some_and(|code| (-32022..=-32020).contains(&code)) && !tried.era {
            return Ok(Refusal::OtherEra);
        }
        let modern_code = |code: i64| matches!(code, -32099..=-32020 | -32700 | -32603..=-32600);
        if way.session.is_none()
            && matches!(status.as_u16(), 400 | 404 | 405 | 406)
            && !code.is_some_and(modern_code)
            && !tried.era
        {
            return Ok(Refusal::OtherEra);
        }
        if code.is_none() || !answers(&body, call.id) && way.id.is_none() {
            return Err(refused(&server, status));
        }
        let Some(rewrite) = rewrite(client, call, way, &server) else {
            // A legacy client takes an HTTP error for a broken connection; a modern one expects it.
            let status = if client.era() == Era::Modern { status } else { StatusCode::OK };
            return Ok(Refusal::Answer(Answer::Json(status, body)));
        };
        match rewrite.apply(body) {
            Rewritten::Response(body, code) => {
                Ok(Refusal::Answer(Answer::Json(status_of(&rewrite, code), body)))
            }
            _ => Err(refused(&server, status)),
        }
    }
}

/// What has been tried anew for a call; each is tried once, so that no server can keep us asking.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    session: bool,
    era: bool,
}

/// What an HTTP error comes down to.
enum Refusal<P: Platform> {
    /// An answer all the same.
    Answer(Answer<P>),
    /// The server does not know the session: open another and ask again.
    Forgotten,
    /// The server is not of the era that it was: ask it again what it is.
    OtherEra,
}

/// Whether `fault`, met when a session was to be opened, may mean that the server speaks otherwise than it did.
fn is_otherwise(server: &Server, profile: &Profile, fault: &Fault) -> bool {
    match fault.kind {
        Kind::UpstreamRefused => profile.legacy.is_some() && server.transport == Transport::Http,
        Kind::UpstreamInvalid => profile.http_sse && server.transport == Transport::Http,
        _ => false,
    }
}

/// How to cancel the call, where the server would not take a lost connection for that.
fn cancel(client: &Client, call: &Call<'_>, way: &Way, server: &Arc<Server>) -> Option<Cancel> {
    way.session.clone().map(|session| Cancel {
        server: server.clone(),
        id: way.id.clone().unwrap_or_else(|| call.id.get().to_owned()),
        resumable: client.era() == Era::Legacy && session.endpoint.is_none(),
        session,
    })
}

/// The arguments of a tool call; none are an empty object.
pub fn arguments(call: &Call<'_>) -> serde_json::Value {
    call.read
        .arguments
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_else(|| serde_json::Value::Object(serde_json::Map::new()))
}

/// What has to change on the way back, if anything has to.
fn rewrite(client: &Client, call: &Call<'_>, way: &Way, server: &Server) -> Option<Rewrite> {
    let modern = client.era() == Era::Modern && way.revision.era() == Era::Legacy;
    if !modern && way.id.is_none() {
        return None;
    }
    let list = catalog::Kind::of(call.method).map(|_| server.list_ttl.as_millis());
    let ttl_ms = list.or_else(|| (call.method == "resources/read").then_some(0));
    Some(Rewrite {
        upstream_id: way.id.clone().unwrap_or_else(|| call.id.get().to_owned()),
        id: call.id.to_owned(),
        modern,
        ttl_ms: ttl_ms.filter(|_| modern),
        logs: client.wants_logs || !modern,
    })
}

/// The HTTP status under a response: modern clients learn of some errors by it.
fn status_of(rewrite: &Rewrite, code: Option<i64>) -> StatusCode {
    match code {
        Some(-32601) if rewrite.modern => StatusCode::NOT_FOUND,
        Some(-32022..=-32020) if rewrite.modern => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

fn json<P: Platform>(status: StatusCode, body: Bytes, rewrite: Option<&Rewrite>) -> Answer<P> {
    match rewrite.map(|rewrite| (rewrite, rewrite.apply(body.clone()))) {
        Some((rewrite, Rewritten::Response(body, code))) => Answer::Json(status_of(rewrite, code), body),
        _ => Answer::Json(status, body),
    }
}

/// Reads a document up to [`WHOLE`] bytes; says whether that was all of it.
async fn beginning<P: Platform>(reader: &mut Reader<P>) -> Result<(Bytes, bool), Fault> {
    let Some(first) = reader.chunk().await? else { return Ok((Bytes::new(), true)) };
    let Some(second) = reader.chunk().await? else { return Ok((first, true)) };
    let mut whole = BytesMut::from(&first[..]);
    whole.extend_from_slice(&second);
    while whole.len() <= WHOLE {
        if whole.len() > reader.server.max_response {
            return Err(too_large(&reader.server, reader.server.max_response));
        }
        match reader.chunk().await? {
            Some(chunk) => whole.extend_from_slice(&chunk),
            None => return Ok((whole.freeze(), true)),
        }
    }
    Ok((whole.freeze(), false))
}

/// Whether `body` is a response to the request `id`.
fn answers(body: &[u8], id: &RawValue) -> bool {
    match Message::decode(body) {
        Ok(Message::Response { id: Some(other), .. }) => other.get() == id.get(),
        Ok(Message::Response { id: None, .. }) => true,
        _ => false,
    }
}

/// A message as one event.
pub fn event(body: Bytes) -> Bytes {
    Event::message(body).encode()
}
