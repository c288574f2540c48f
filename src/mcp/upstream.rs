//! The gateway as a client: one exchange with one server, in the server's own era.
//!
//! Source: 2026-07-28 and 2025-11-25, Streamable HTTP. Redirects are followed within the same origin only; no
//! answer is read past its limit; every wait has an end.

mod handshake;
mod profile;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::handshake::{GATEWAY, READY, UI, agreed, everything, introduction, not_initialized};
use super::memory::UpstreamSession;
use super::resume::Resume;
use super::revision::{Era, Revision};
use super::sampling::{Samples, Served};
use super::{Mcp, headers, meta};
use crate::config::plan::{Server, Transport};
use crate::fault::{Fault, Kind};
use crate::platform::{
    CONNECT_TIMEOUT, Clock as _, ConnectTimeout, Endless, Platform, Timestamp, UpstreamBody,
};
use crate::relay::through::send;
use crate::relay::{Reader, redirect, seam, too_large};
use crate::wire::jsonrpc::Message;
use crate::wire::sse::Decoder;

/// Redirects followed within one origin.
const REDIRECTS: usize = 3;
/// An error body is read no further than this: it is only looked at for a JSON-RPC error.
pub(super) const ERROR_BODY: usize = 64 * 1024;
/// How the gateway names itself to servers, and to clients.
pub const IMPLEMENTATION: &str =
    concat!("{\"name\":\"causeway\",\"title\":\"Causeway\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");

/// A request on its way to a server.
#[derive(Debug)]
pub struct Outgoing {
    /// `POST`, or `GET` and `DELETE` on a legacy session.
    pub http: Method,
    /// Where it goes, if not to the server's URL.
    pub to: Option<Box<url::Url>>,
    /// The message.
    pub body: Bytes,
    /// Headers besides the ones that each request has.
    pub headers: HeaderMap,
}

/// The headers of a message to a server.
pub fn standard_headers(
    revision: Revision,
    session: Option<&str>,
    method: &str,
    name: Option<&str>,
) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(6);
    out.insert(headers::VERSION, HeaderValue::from_static(revision.as_str()));
    if let Some(session) = session.and_then(|id| HeaderValue::from_str(id).ok()) {
        out.insert(headers::SESSION, session);
    }
    if revision.era() == Era::Modern {
        if let Ok(method) = HeaderValue::from_str(method) {
            out.insert(headers::METHOD, method);
        }
        if let Some(name) = name.and_then(headers::encode) {
            out.insert(headers::NAME, name);
        }
    }
    out
}

/// What kind of body an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// One JSON document.
    Json,
    /// An event stream.
    Events,
    /// Nothing, or nothing we know.
    Other,
}

/// The kind of body that `headers` announce.
pub fn content(headers: &HeaderMap) -> Content {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Content::Json
    } else if essence.eq_ignore_ascii_case("text/event-stream") {
        Content::Events
    } else {
        Content::Other
    }
}

/// An answer whose head has arrived.
pub struct Answered<P: Platform> {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub reader: Reader<P>,
}

impl<P: Platform> Mcp<P> {
    /// Sends one message and waits for the response head.
    ///
    /// # Errors
    /// When the server cannot be reached, is too slow, or redirects elsewhere.
    pub async fn exchange(&self, server: &Arc<Server>, outgoing: Outgoing) -> Result<Answered<P>, Fault> {
        let memory = self.memory.server(server);
        let (started, ticks) = (self.platform.clock().now(), self.platform.clock().ticks());
        let result = self.exchange_timed(server, outgoing, started).await;
        let now = match &result {
            Ok(answered) => answered.reader.heard_at(),
            Err(_) => self.platform.clock().now(),
        };
        match &result {
            Ok(answered) if answered.status.is_server_error() => {
                memory.failed(now, &refused(server, answered.status))
            }
            Ok(_) => memory
                .answered(now, Duration::from_micros(self.platform.clock().ticks().saturating_sub(ticks))),
            // Nothing is wrong with the server.
            Err(fault) if fault.kind == Kind::LinkOffline => {
                if let Some(via) = server.via.as_ref().filter(|_| !self.is_known_offline(server)) {
                    self.memory.link_changed(&via.link);
                }
            }
            Err(fault) => memory.failed(now, fault),
        }
        if let Some(via) = server.via.as_ref().filter(|_| result.is_ok() && self.is_known_offline(server)) {
            self.memory.link_changed(&via.link);
        }
        result
    }

    /// The same, without counting how it went.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub(super) async fn exchange_timed(
        &self,
        server: &Arc<Server>,
        outgoing: Outgoing,
        started: Timestamp,
    ) -> Result<Answered<P>, Fault> {
        if server.transport == Transport::Own {
            return self.own(server, outgoing, started).await;
        }
        let mut moved = None;
        let wait = pin!(self.platform.clock().sleep(server.timeouts.first_byte));
        let mut wait = wait;
        for _ in 0..=REDIRECTS {
            let url = moved.as_ref().or(outgoing.to.as_deref()).unwrap_or(&server.url);
            let mut request = http_request(server, url, &outgoing)?;
            self.sign(server, &mut request);
            let response = match select(pin!(send(&self.platform, server, request)), &mut wait).await {
                Either::Left((Ok(response), _)) => response,
                Either::Left((Err(error), _)) => return Err(seam(&server.name, &error)),
                Either::Right(((), _)) => {
                    let limit = server.timeouts.first_byte;
                    let message =
                        format!("server {:?}: no answer within {limit:?} (timeouts.first_byte)", server.name);
                    return Err(Fault::new(Kind::UpstreamTimeout, message));
                }
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(self.answered(server, response, started));
            }
            moved = Some(redirect(server, url, &response, outgoing.http == Method::GET)?);
        }
        let message = format!("server {:?}: more than {REDIRECTS} redirects", server.name);
        Err(Fault::new(Kind::UpstreamRefused, message))
    }

    /// What the gateway's own server says.
    async fn own(
        &self,
        server: &Arc<Server>,
        outgoing: Outgoing,
        started: Timestamp,
    ) -> Result<Answered<P>, Fault> {
        let Some(served) = self.serve_own(outgoing.body) else {
            let message = format!("server {:?}: cannot be asked from here", server.name);
            return Err(Fault::new(Kind::Host, message));
        };
        let Served { status, events, said } = served.await.map_err(|_| no_answer(server))?;
        let kind = if events { "text/event-stream" } else { "application/json" };
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let deadline = started.after(server.timeouts.total);
        let reader = Reader::own(self.platform.clone(), server.clone(), said, deadline);
        Ok(Answered { status, headers, reader })
    }

    fn answered(
        &self,
        server: &Arc<Server>,
        response: Response<UpstreamBody<P>>,
        started: Timestamp,
    ) -> Answered<P> {
        let (head, body) = response.into_parts();
        let deadline = started.after(server.timeouts.total);
        let reader = Reader::new(self.platform.clone(), server.clone(), body, deadline);
        Answered { status: head.status, headers: head.headers, reader }
    }

    /// Reads an answer to the end of its one response, dropping what else comes on the stream. A stream over a
    /// `session` is resumed where it breaks.
    ///
    /// # Errors
    /// When there is no such response, or reading fails.
    pub async fn single(
        &self,
        mut answered: Answered<P>,
        id: &str,
        session: Option<&UpstreamSession>,
    ) -> Result<Bytes, Fault> {
        let server = answered.reader.server.clone();
        let limit = server.max_response;
        match content(&answered.headers) {
            Content::Events => {
                let mut resume = session.cloned().map(Resume::new);
                let (mut decoder, mut events) = (Decoder::new(limit), Vec::new());
                let mut samples = Samples::default();
                loop {
                    let why = match answered.reader.chunk().await {
                        Ok(Some(chunk)) => {
                            decoder.push(&chunk, &mut events).map_err(|_| too_large(&server, limit))?;
                            for event in events.drain(..) {
                                if is_response(&event.data, id) {
                                    return Ok(event.data);
                                }
                                if let Some(session) = session {
                                    self.sample_asked(&server, session, &event.data, &mut samples);
                                }
                                if let Some(resume) = &mut resume {
                                    resume.saw(&event);
                                }
                            }
                            continue;
                        }
                        Ok(None) => no_answer(&server),
                        Err(fault) => fault,
                    };
                    let Some(resume) = &mut resume else { return Err(why) };
                    Box::pin(self.resume(&mut answered.reader, resume, why)).await?;
                    decoder = Decoder::new(limit);
                }
            }
            Content::Json => {
                let body = answered.reader.all(limit).await?;
                if is_response(&body, id) { Ok(body) } else { Err(no_answer(&server)) }
            }
            Content::Other => Err(refused(&server, answered.status)),
        }
    }

    /// A request of our own, answered: its result.
    ///
    /// # Errors
    /// When it fails, or the server answers with an error.
    pub async fn ask(
        &self,
        server: &Arc<Server>,
        method: &str,
        params: &str,
        session: Option<&UpstreamSession>,
    ) -> Result<Box<RawValue>, Asked> {
        match session {
            Some(_) => self.put(server, method, params, session).await,
            None => self.ask_as(server, method, params, "{}").await,
        }
    }

    /// The same, of a modern server, as a client with these capabilities.
    ///
    /// # Errors
    /// As [`Mcp::ask`].
    pub async fn ask_as(
        &self,
        server: &Arc<Server>,
        method: &str,
        params: &str,
        capabilities: &str,
    ) -> Result<Box<RawValue>, Asked> {
        self.put(server, method, &with_meta(params, capabilities), None).await
    }

    async fn put(
        &self,
        server: &Arc<Server>,
        method: &str,
        params: &str,
        session: Option<&UpstreamSession>,
    ) -> Result<Box<RawValue>, Asked> {
        let id = format!("causeway-{}", self.memory.server(server).next_id());
        let revision = session.map_or(Revision::MODERN, |session| session.revision);
        let headers =
            standard_headers(revision, session.and_then(|session| session.id.as_deref()), method, None);
        let body = meta::request(&id, method, params);
        let outgoing = Outgoing { http: Method::POST, to: None, body, headers };
        let mut answered = self.exchange(server, outgoing).await.map_err(Asked::Fault)?;
        let status = answered.status;
        if !status.is_success() {
            let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
            return Err(match error_of(&body) {
                Some((code, data)) => Asked::Refused { status, code, data },
                None => Asked::NotMcp(status, refused(server, status)),
            });
        }
        let quoted = format!("\"{id}\"");
        let body = self.single(answered, &quoted, session).await.map_err(Asked::Fault)?;
        match Message::decode(&body) {
            Ok(Message::Response { outcome: Ok(result), .. }) => Ok(result.to_owned()),
            _ => {
                let (code, data) = error_of(&body).unwrap_or((-32603, None));
                Err(Asked::Refused { status, code, data })
            }
        }
    }

    /// Sends a notification or a response, for which a server has nothing to say.
    pub async fn tell(&self, server: &Arc<Server>, body: Bytes, session: &UpstreamSession) {
        let _ = self.put_in(server, body, session).await;
    }

    /// Sends a message over a session.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub(super) async fn put_in(
        &self,
        server: &Arc<Server>,
        body: Bytes,
        session: &UpstreamSession,
    ) -> Result<Answered<P>, Fault> {
        let headers = standard_headers(session.revision, session.id.as_deref(), "", None);
        let outgoing = Outgoing { http: Method::POST, to: session.endpoint.clone(), body, headers };
        // Boxed: whatever now and then has to say something need not always make room for it.
        Box::pin(self.exchange(server, outgoing)).await
    }

    /// Ends a session with a legacy server; what it answers does not matter.
    pub async fn end(&self, server: &Arc<Server>, session: &UpstreamSession) {
        if session.id.is_some() {
            let headers = standard_headers(session.revision, session.id.as_deref(), "", None);
            let outgoing = Outgoing { http: Method::DELETE, to: None, body: Bytes::new(), headers };
            let _ = Box::pin(self.exchange(server, outgoing)).await;
        }
    }
}

/// The request whose answer is a stream of news.
pub(super) const LISTEN: &str = "subscriptions/listen";

/// `outgoing` as it goes to `url`.
pub(super) fn http_request(
    server: &Server,
    url: &url::Url,
    outgoing: &Outgoing,
) -> Result<Request<Bytes>, Fault> {
    let mut request = Request::new(outgoing.body.clone());
    *request.method_mut() = outgoing.http.clone();
    let uri = if std::ptr::eq(url, &server.url) { server.uri() } else { url.as_str().parse().ok() };
    *request.uri_mut() = uri.ok_or_else(|| {
        Fault::new(Kind::UpstreamConnect, format!("server {:?}: its URL cannot be used", server.name))
    })?;
    *request.headers_mut() = outgoing.headers.clone();
    let headers = request.headers_mut();
    let accept = if outgoing.http == Method::GET {
        "text/event-stream"
    } else {
        "application/json, text/event-stream"
    };
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    if outgoing.http == Method::POST {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in &server.headers {
        headers.insert(name.clone(), value.clone());
    }
    if server.timeouts.connect != CONNECT_TIMEOUT {
        request.extensions_mut().insert(ConnectTimeout(server.timeouts.connect));
    }
    let listens = outgoing.headers.get(headers::METHOD).is_some_and(|method| method == LISTEN);
    if outgoing.http == Method::GET || listens {
        request.extensions_mut().insert(Endless);
    }
    Ok(request)
}

/// Why a request of our own has no result.
#[derive(Debug)]
pub enum Asked {
    /// The exchange failed.
    Fault(Fault),
    /// The server answered with a JSON-RPC error.
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The error's code.
        code: i64,
        /// The error's data.
        data: Option<Box<RawValue>>,
    },
    /// The server answered with an HTTP error that is no JSON-RPC error.
    NotMcp(StatusCode, Fault),
}

impl Asked {
    /// The fault to tell of.
    pub fn fault(self, server: &str, method: &str) -> Fault {
        match self {
            Self::Fault(fault) | Self::NotMcp(_, fault) => fault,
            Self::Refused { code, .. } => Fault::new(
                Kind::UpstreamRefused,
                format!("server {server:?}: answered {method} with error {code}"),
            ),
        }
    }
}

/// `params` of a request of our own to a modern server, by a client with these capabilities.
pub(super) fn with_meta(params: &str, capabilities: &str) -> String {
    let members = format!(
        "\"_meta\":{{\"{}\":\"{}\",\"{}\":{IMPLEMENTATION},\"{}\":{capabilities}}}",
        meta::VERSION,
        Revision::MODERN.as_str(),
        meta::CLIENT_INFO,
        meta::CAPABILITIES
    );
    let rest = params.strip_prefix('{').unwrap_or("}");
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    format!("{{{members}{comma}{rest}")
}

/// The member `name` of an object.
pub fn field(object: &RawValue, name: &str) -> Option<Box<RawValue>> {
    let mut members: std::collections::HashMap<String, Box<RawValue>> =
        serde_json::from_str(object.get()).ok()?;
    members.remove(name)
}

/// The code and data of a JSON-RPC error.
pub fn error_of(body: &[u8]) -> Option<(i64, Option<Box<RawValue>>)> {
    #[derive(Deserialize)]
    struct Error {
        code: i64,
        #[serde(default)]
        data: Option<Box<RawValue>>,
    }
    match Message::decode(body) {
        Ok(Message::Response { outcome: Err(error), .. }) => {
            serde_json::from_str::<Error>(error.get()).ok().map(|error| (error.code, error.data))
        }
        _ => None,
    }
}

fn is_response(data: &[u8], expected: &str) -> bool {
    match Message::decode(data) {
        Ok(Message::Response { id: Some(id), .. }) => id.get() == expected,
        Ok(Message::Response { id: None, .. }) => true,
        _ => false,
    }
}

/// The server answered, but not with the response that was asked for.
pub fn no_answer(server: &Server) -> Fault {
    let message = format!("server {:?}: its answer ended without the response to the request", server.name);
    Fault::new(Kind::UpstreamInvalid, message)
}

/// The server answered with an HTTP error.
pub fn refused(server: &Server, status: StatusCode) -> Fault {
    let hint = match status.as_u16() {
        401 | 403 => "; check its headers in the configuration",
        404 | 405 => "; check its url in the configuration",
        429 => "; it limits how often it may be asked",
        _ => "",
    };
    let message = format!("server {:?}: answered HTTP {}{hint}", server.name, status.as_u16());
    Fault::new(Kind::UpstreamRefused, message)
}

/// Headers of a caller that go on to the server: tracing and nothing else.
pub const PASSED: [HeaderName; 3] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];
