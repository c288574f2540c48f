//! Servers of the HTTP+SSE transport (2024-11-05 transports, "HTTP with SSE"): a GET opens a stream of events, its
//! first event names the endpoint that takes messages, and all that the server says comes on the stream.
//!
//! Such a server's session lives as long as its stream, and no connection may outlive the request that it was made
//! for. Only mailboxes keep one: a legacy client's ([`super::lines`]) and those of parked calls. Any other call has a
//! session of its own: opened, introduced, used once, and dropped. It is **never** shared by clients, and its messages
//! **never** go to another origin than the one that the configuration names.

use std::borrow::Cow;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use super::client::Client;
use super::extensions::{told_across, told_of};
use super::forward::Call;
use super::memory::{Profile, Running, ServerMemory, UpstreamSession, lock};
use super::revision::Revision;
use super::serve::Cancel;
use super::upstream::{
    Answered, Asked, Content, IMPLEMENTATION, Outgoing, READY, agreed, content, error_of, everything,
    http_request, introduction, not_initialized, standard_headers,
};
use super::{Mcp, ask, meta};
use crate::config::plan::{Caller, Server, Transport};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform};
use crate::relay::Reader;
use crate::relay::dropped::Dropped;
use crate::wire::jsonrpc::{self, Message};

/// How long a server of which nothing is known may take to open its stream and name its endpoint.
const DETECT: Duration = Duration::from_secs(10);
/// Longer endpoints are refused: they would not fit into what travels with a client.
const ENDPOINT: usize = 4 * 1024;

/// Messages that are kept while something else is waited for; together no larger than two of the largest answers.
const KEPT: usize = 256;

/// Messages that are kept for whoever reads the stream next. They go back when it is dropped, and what was not kept is said in
/// the log.
struct Aside<'a, P: Platform> {
    reader: &'a mut Reader<P>,
    platform: &'a P,
    messages: Vec<Bytes>,
    /// Bytes that there is room for.
    room: usize,
    dropped: usize,
}

impl<'a, P: Platform> Aside<'a, P> {
    fn new(platform: &'a P, reader: &'a mut Reader<P>) -> Self {
        // The answer to a call may be among them, whatever else is.
        let room = reader.server.max_response.saturating_mul(2);
        Self { reader, platform, messages: Vec::new(), room, dropped: 0 }
    }

    fn put(&mut self, data: Bytes) {
        if self.messages.len() >= KEPT || data.len() > self.room {
            self.dropped += 1;
        } else {
            self.room -= data.len();
            self.messages.push(data);
        }
    }
}

impl<P: Platform> Drop for Aside<'_, P> {
    fn drop(&mut self) {
        self.reader.put_back(std::mem::take(&mut self.messages));
        let dropped = Dropped {
            server: &self.reader.server.name,
            caller: "",
            messages: self.dropped,
            message: "the server said more than is kept while another answer of its was waited for; the newest have gone",
        };
        dropped.say(self.platform, "heard.dropped");
    }
}

/// What becomes of notifications and other answers that come while something else is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They stay on the stream.
    Keep,
    /// Nobody reads them.
    Drop,
}

/// What a question's id is sealed for.
const ASKS: &str = "asks";

/// Where the answer to a question goes.
#[derive(Serialize, Deserialize)]
struct Asks<'a> {
    server: Cow<'a, str>,
    /// Path and query; the origin is the server's.
    endpoint: Cow<'a, str>,
}

/// A session that has been opened: its stream, what its messages need, and the result of `initialize`.
pub type Opened<P> = (Answered<P>, UpstreamSession, Box<RawValue>);

/// Why there is no stream that names an endpoint.
enum Unconnected {
    /// What answers is no server of HTTP+SSE.
    Otherwise(Fault),
    /// It may well be one.
    Fault(Fault),
}

impl<P: Platform> Mcp<P> {
    /// Opens a session: the stream, the endpoint, `initialize`, `notifications/initialized`.
    ///
    /// The session is over when the stream is dropped. Its messages are sent by [`Mcp::send_old`] and [`Mcp::tell`].
    ///
    /// # Errors
    /// When the server cannot be reached, is none of HTTP+SSE, or does not take the client.
    pub async fn open_old(
        &self,
        server: &Arc<Server>,
        capabilities: &str,
        client_info: &str,
        revision: Revision,
    ) -> Result<Opened<P>, Fault> {
        let open = async {
            match self.connect(server, server.timeouts.first_byte).await {
                Ok((answered, endpoint)) => {
                    self.introduce(server, answered, endpoint, capabilities, client_info, revision).await
                }
                Err(Unconnected::Fault(fault)) => Err(fault),
                Err(Unconnected::Otherwise(fault)) => {
                    // Perhaps it has become a server of a newer transport; the next call finds out.
                    if server.transport == Transport::Http {
                        self.memory.server(server).forget();
                    }
                    Err(fault)
                }
            }
        };
        self.noted(server, open).await
    }

    /// Opens a session with a server that takes no message at its URL; `None` if it is none of HTTP+SSE.
    ///
    /// # Errors
    /// When it is one, or may be one, and does not take the client.
    pub(super) async fn detect_old(&self, server: &Arc<Server>) -> Result<Option<Opened<P>>, Fault> {
        match self.connect(server, DETECT.min(server.timeouts.first_byte)).await {
            Ok((answered, endpoint)) => {
                let able = everything(server);
                let open =
                    self.introduce(server, answered, endpoint, &able, IMPLEMENTATION, Revision::LEGACY);
                self.noted(server, open).await.map(Some)
            }
            Err(Unconnected::Otherwise(_)) => Ok(None),
            Err(Unconnected::Fault(fault)) => Err(fault),
        }
    }

    /// The session of one call, on behalf of its client, and with the log level that it wants.
    pub(super) async fn session_of_call(
        &self,
        server: &Arc<Server>,
        client: &Client,
        call: &Call<'_>,
        profile: &Profile,
    ) -> Result<(Box<Answered<P>>, UpstreamSession), Fault> {
        let opened = match &client.session {
            Some(session) => {
                let facts = &session.facts;
                let capabilities = told_across(server, &facts.capabilities, true);
                self.open_old(server, capabilities.get(), facts.client_info.get(), facts.revision).await?
            }
            None => {
                // Where the client can be asked something in the middle of a call, a mailbox makes the call.
                let asked = ask::BRIDGED.contains(&call.method);
                let capabilities = told_of(server, client, !asked);
                let info = client.info.as_deref().map_or(IMPLEMENTATION, RawValue::get);
                let capabilities = capabilities.as_deref().map_or("{}", RawValue::get);
                self.open_old(server, capabilities, info, Revision::LEGACY).await?
            }
        };
        let (mut answered, session, _) = opened;
        let level = match &client.session {
            Some(session) => lock(&session.memory.record).0.level.clone(),
            None => client.log_level.clone(),
        };
        if let Some(level) = level.filter(|_| profile.has("logging")) {
            self.set_level_old(&mut answered, &session, &level).await;
        }
        Ok((Box::new(answered), session))
    }

    /// Sets the log level of an open session; a server without logging refuses, which does not matter.
    pub(super) async fn set_level_old(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        level: &str,
    ) {
        let server = answered.reader.server.clone();
        let params = format!("{{\"level\":\"{level}\"}}");
        let set = self.ask_old_aside(answered, session, "logging/setLevel", &params);
        let _ = self.in_time(&server, server.timeouts.first_byte, "answer to logging/setLevel", set).await;
    }

    /// What a legacy client is to know the questions of `session` by, so that any instance can take its answers there.
    /// A modern client is asked otherwise. It holds for as long as the session `lasts`.
    pub(super) async fn seal_asks(
        &self,
        server: &Server,
        caller: &str,
        session: &UpstreamSession,
        lasts: Duration,
    ) -> Result<String, Fault> {
        // Readable by the client: the server's host is none of its business.
        let endpoint = session.endpoint.as_ref().map_or("", |url| &url[url::Position::BeforePath..]);
        let asks = Asks { server: Cow::Borrowed(&server.name), endpoint: Cow::Borrowed(endpoint) };
        let payload = serde_json::to_vec(&asks).unwrap_or_default();
        let expires = self.platform.clock().now().after(lasts);
        Ok(self.sealer().await?.seal(ASKS, caller, expires, &payload))
    }

    /// The session that [`Mcp::seal_asks`] sealed for this caller.
    pub(super) fn open_asks(&self, caller: &Caller, sealed: &str) -> Option<(Arc<Server>, UpstreamSession)> {
        let now = self.platform.clock().now();
        let payload = self.memory.sealer()?.open(ASKS, &caller.name, now, sealed)?;
        let asks: Asks<'_> = serde_json::from_slice(&payload).ok()?;
        let server = self.plan.server(&asks.server)?.clone();
        let endpoint = server.url.join(&asks.endpoint).ok()?;
        let at_home = endpoint.origin() == server.url.origin();
        let endpoint = Some(Box::new(endpoint));
        let session = UpstreamSession { id: None, revision: Revision::LEGACY, endpoint, kept: false };
        at_home.then_some((server, session))
    }

    /// Sends a message over a session, in the place of [`Mcp::exchange`]: its answer comes on the session's stream.
    /// `id` is that of the request, as JSON.
    ///
    /// # Errors
    /// When the server refuses it or is too slow to accept it.
    pub async fn send_old(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        mut outgoing: Outgoing,
        id: &str,
    ) -> Result<(), Fault> {
        let server = answered.reader.server.clone();
        let url = session.endpoint.as_deref().unwrap_or(&server.url);
        outgoing.to = session.endpoint.clone();
        answered.reader.post(Some(id), http_request(&server, url, &outgoing)?);
        match self.taken(&server, answered).await {
            Ok(()) => {
                answered.reader.session_opened();
                Ok(())
            }
            Err(fault) => {
                self.memory.server(&server).failed(self.platform.clock().now(), &fault);
                Err(fault)
            }
        }
    }

    /// A request of our own over an open session: its result. Notifications that come meanwhile are dropped.
    ///
    /// # Errors
    /// When it fails, or the server answers with an error.
    pub async fn ask_old(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        method: &str,
        params: &str,
    ) -> Result<Box<RawValue>, Asked> {
        self.ask_over(answered, session, method, params, Others::Drop).await
    }

    /// The same; notifications and other answers that come meanwhile stay on the stream.
    ///
    /// # Errors
    /// As [`Mcp::ask_old`].
    pub async fn ask_old_aside(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        method: &str,
        params: &str,
    ) -> Result<Box<RawValue>, Asked> {
        self.ask_over(answered, session, method, params, Others::Keep).await
    }

    async fn ask_over(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        method: &str,
        params: &str,
        others: Others,
    ) -> Result<Box<RawValue>, Asked> {
        let headers = standard_headers(session.revision, None, method, None);
        let id = self.post_over(answered, session, method, params, headers).map_err(Asked::Fault)?;
        let server = answered.reader.server.clone();
        self.taken(&server, answered).await.map_err(Asked::Fault)?;
        answered.reader.session_opened();
        self.answer_over(answered, session, method, &id, others).await
    }

    /// Waits until the server has accepted what was posted.
    async fn taken(&self, server: &Server, answered: &mut Answered<P>) -> Result<(), Fault> {
        let taken = self.in_time(server, server.timeouts.first_byte, "answer", answered.reader.taken());
        taken.await.and_then(|taken| taken)
    }

    /// Posts a request of our own and gives its id, as JSON.
    fn post_over(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        method: &str,
        params: &str,
        headers: HeaderMap,
    ) -> Result<String, Fault> {
        let server = answered.reader.server.clone();
        let id = own_id(&self.memory.server(&server));
        let outgoing = Outgoing {
            http: Method::POST,
            to: session.endpoint.clone(),
            body: meta::request(&id, method, params),
            headers,
        };
        let id = format!("\"{id}\"");
        let url = session.endpoint.as_deref().unwrap_or(&server.url);
        answered.reader.post(Some(&id), http_request(&server, url, &outgoing)?);
        Ok(id)
    }

    /// Reads the stream up to the answer to the request `id`.
    async fn answer_over(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        method: &str,
        id: &str,
        others: Others,
    ) -> Result<Box<RawValue>, Asked> {
        let data = self.single_old(answered, session, method, id, others).await.map_err(Asked::Fault)?;
        match Message::decode(&data) {
            Ok(Message::Response { outcome: Ok(result), .. }) => Ok(result.to_owned()),
            _ => {
                let (code, data) = error_of(&data).unwrap_or((-32603, None));
                Err(Asked::Refused { status: StatusCode::OK, code, data })
            }
        }
    }

    /// Reads the whole answer to a call that its client may give up; `None` if it has, and the server has been told.
    pub(super) async fn whole_old(
        &self,
        mut answered: Answered<P>,
        method: &str,
        cancel: &Cancel,
        running: Option<&Running>,
    ) -> Result<Option<Bytes>, Fault> {
        let given_up = async {
            match running {
                Some(running) => running.cancelled(self.platform.clock()).await,
                None => std::future::pending().await,
            }
        };
        let whole = self.single_old(&mut answered, &cancel.session, method, &cancel.id, Others::Drop);
        match select(pin!(whole), pin!(given_up)).await {
            Either::Left((whole, _)) => whole.map(Some),
            Either::Right(((), _)) => {
                self.cancel(cancel).await;
                Ok(None)
            }
        }
    }

    /// Reads the stream up to the response to the request `id`. Questions are answered with an error, as there is
    /// nobody to be asked.
    pub(super) async fn single_old(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        method: &str,
        id: &str,
        others: Others,
    ) -> Result<Bytes, Fault> {
        let server = answered.reader.server.clone();
        let mut aside = Aside::new(&self.platform, &mut answered.reader);
        while let Some(data) = aside.reader.message().await? {
            match Message::decode(&data) {
                Ok(Message::Response { id: of, .. }) if of.is_none_or(|of| of.get() == id) => {
                    return Ok(data);
                }
                Ok(Message::Notification { .. } | Message::Response { .. }) if others == Others::Keep => {
                    aside.put(data);
                }
                Ok(Message::Request { id, method, .. }) => {
                    self.tell(&server, declined(id, &method), session).await;
                }
                _ => {}
            }
        }
        Err(ended(&server, &format!("it answered {method}")))
    }

    /// Opens the stream and waits for the endpoint.
    async fn connect(
        &self,
        server: &Arc<Server>,
        limit: Duration,
    ) -> Result<(Answered<P>, Url), Unconnected> {
        let slow = |fault: Fault| match fault.kind {
            Kind::UpstreamTimeout => Unconnected::Otherwise(fault),
            _ => Unconnected::Fault(fault),
        };
        let connect = async {
            let outgoing =
                Outgoing { http: Method::GET, to: None, body: Bytes::new(), headers: HeaderMap::new() };
            let started = self.platform.clock().now();
            let mut answered = self.exchange_timed(server, outgoing, started).await.map_err(slow)?;
            match answered.status.as_u16() {
                200 if content(&answered.headers) == Content::Events => {}
                401 | 403 | 407 | 429 | 500.. => return Err(Unconnected::Fault(unopened(server, &answered))),
                _ => return Err(Unconnected::Otherwise(unopened(server, &answered))),
            }
            answered.reader.open_session();
            while let Some(event) = answered.reader.event().await.map_err(slow)? {
                if event.event == "endpoint" {
                    let endpoint = endpoint(server, &event.data).map_err(Unconnected::Fault)?;
                    return Ok((answered, endpoint));
                }
            }
            Err(Unconnected::Otherwise(ended(server, "its `endpoint` event came")))
        };
        self.in_time(server, limit, "`endpoint` event", connect)
            .await
            .map_err(Unconnected::Otherwise)
            .and_then(|connected| connected)
    }

    /// `initialize` and `notifications/initialized` (2024-11-05 lifecycle, "Initialization").
    async fn introduce(
        &self,
        server: &Arc<Server>,
        mut answered: Answered<P>,
        endpoint: Url,
        capabilities: &str,
        client_info: &str,
        revision: Revision,
    ) -> Result<Opened<P>, Fault> {
        let endpoint = Some(Box::new(endpoint));
        let mut session = UpstreamSession { id: None, revision, endpoint, kept: false };
        let params = introduction(capabilities, client_info, revision);
        // No version header: the version is not agreed yet.
        let id = self.post_over(&mut answered, &session, "initialize", &params, HeaderMap::new())?;
        let answer = self.answer_over(&mut answered, &session, "initialize", &id, Others::Keep);
        let result = self
            .in_time(server, server.timeouts.first_byte, "answer to initialize", answer)
            .await?
            .map_err(|asked| match asked {
                Asked::Refused { code, .. } => not_initialized(server, code),
                asked => asked.fault(&server.name, "initialize"),
            })?;
        session.revision = agreed(server, &result)?;
        self.tell(server, Bytes::from_static(READY), &session).await;
        Ok((answered, session, result))
    }

    /// Does `work` and notes how the server did.
    async fn noted<T>(
        &self,
        server: &Server,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let memory = self.memory.server(server);
        let ticks = self.platform.clock().ticks();
        let result = work.await;
        let now = self.platform.clock().now();
        match &result {
            Ok(_) => memory
                .answered(now, Duration::from_micros(self.platform.clock().ticks().saturating_sub(ticks))),
            Err(fault) => memory.failed(now, fault),
        }
        result
    }

    /// Does `work` within `limit`; `what` is what there is none of after it.
    async fn in_time<T>(
        &self,
        server: &Server,
        limit: Duration,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Fault> {
        match select(pin!(work), pin!(self.platform.clock().sleep(limit))).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(_) => {
                let message =
                    format!("server {:?}: no {what} within {limit:?} (timeouts.first_byte)", server.name);
                Err(Fault::new(Kind::UpstreamTimeout, message))
            }
        }
    }
}

/// The id of a request of our own. Not what other requests of ours are called: this one shares its session with a
/// client's, who may be a gateway as well.
pub(super) fn own_id(memory: &ServerMemory) -> String {
    format!("causeway-sse-{}", memory.next_id())
}

/// What a server is told that asks when there is nobody to be asked.
pub(super) fn declined(id: &RawValue, method: &str) -> Bytes {
    match method {
        "ping" => jsonrpc::result(id, &serde_json::Map::new()),
        _ => jsonrpc::error(Some(id), -32601, "the client cannot be asked now", None),
    }
}

/// Where messages go: the endpoint event's URI, which is mostly a path.
pub(super) fn endpoint(server: &Server, data: &[u8]) -> Result<Url, Fault> {
    let refused = |what: &str| {
        let message = format!("server {:?}: its `endpoint` event {what}", server.name);
        Fault::new(Kind::UpstreamRefused, message)
    };
    let text = std::str::from_utf8(data).ok().map(str::trim).filter(|text| text.len() <= ENDPOINT);
    let url = text.filter(|text| !text.is_empty()).and_then(|text| server.url.join(text).ok());
    let mut url = url.ok_or_else(|| refused("names nothing that a message could be posted to"))?;
    if url.origin() != server.url.origin() {
        return Err(refused(
            "names another origin, where its credentials must not go; let the server name a path, or set url to \
             where it really is",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("holds a user name or password; let the server leave them out"));
    }
    url.set_fragment(None);
    Ok(url)
}

/// The server did not open a stream of events.
fn unopened<P: Platform>(server: &Server, answered: &Answered<P>) -> Fault {
    let status = answered.status.as_u16();
    if status == 200 {
        let message = format!(
            "server {:?}: opens no stream of events (HTTP+SSE); check its url, or remove `type: sse`",
            server.name
        );
        return Fault::new(Kind::UpstreamInvalid, message);
    }
    let hint = match status {
        401 | 403 => "; check its headers in the configuration",
        429 => "; it limits how often it may be asked",
        500.. => "",
        _ => "; check its url, or remove `type: sse`",
    };
    let message = format!(
        "server {:?}: answered HTTP {status} when asked for its stream of events (HTTP+SSE){hint}",
        server.name
    );
    Fault::new(Kind::UpstreamRefused, message)
}

/// The stream was over too soon.
pub(super) fn ended(server: &Server, before: &str) -> Fault {
    let message = format!("server {:?}: ended its stream of events (HTTP+SSE) before {before}", server.name);
    Fault::new(Kind::UpstreamCut, message)
}
