//! The gateway: a function from a request to a reply.
//!
//! [`Gateway::handle`] decides everything and performs nothing but what it asks of its platform. What is left to
//! do behind the reply comes back in [`After`], which the adapter hands to [`Gateway::finish`].

pub mod dock;
mod flow;
mod head;
mod own;
mod pushed;
mod record;
mod sampling;
pub mod sockets;
mod words;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::Stream;
use futures_util::future::{Either, select};
use http::header::{ALLOW, ORIGIN, UPGRADE, VARY, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;

use self::flow::{Ended, Source, Watch, Witness, flow};
use self::head::{Head, HeadBody, headed, problem, rpc_refusal};
pub use self::pushed::Pushed;
use self::sampling::Beside;
use crate::config::Plan;
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind};
use crate::inbound::{self, Endpoint};
use crate::instance::Instance;
use crate::mcp::Mcp;
use crate::mcp::headers as mcp_headers;
use crate::mcp::links::LinkStatus;
use crate::mcp::mailbox::{self, Mailbox, Said};
use crate::mcp::memory::UpstreamSession;
use crate::mcp::sampling::Models;
use crate::mcp::serve::{Answer, Cancel, Inbound, Note, Ticket};
use crate::mcp::stream::Stream as Relayed;
use crate::platform::{Clock as _, Endless, Entropy as _, Log as _, Platform, SeamError, Timestamp};
use crate::wire::accept::{Accepts, accepts};
use crate::{admin, auth, llm};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long `/status` waits for servers that nobody has asked anything yet.
const SURVEY: Duration = Duration::from_secs(2);

/// The gateway on one host. Building one is free; it may live for a single request.
#[derive(Debug, Clone)]
pub struct Gateway<P> {
    platform: P,
    instance: Arc<Instance>,
}

/// What the caller gets, and what is left to do behind it.
pub struct Reply<S, P: Platform> {
    /// The HTTP response.
    pub response: Response<Body<S>>,
    /// Hand this to [`Gateway::finish`] once the response is on its way.
    pub after: Box<After<P>>,
}

/// A response body: all there already, or coming.
#[derive(Debug)]
pub enum Body<S> {
    /// The whole body.
    Full(Bytes),
    /// Chunks, pulled as the caller reads. Dropping it cancels the call upstream.
    Stream(S),
}

/// Work for behind the reply: logging, cancelling, renewing what has passed its time.
pub struct After<P: Platform> {
    plan: Option<Arc<Plan>>,
    request_id: String,
    http: Method,
    endpoint: &'static str,
    status: StatusCode,
    began: Timestamp,
    ticks: u64,
    caller: Option<Arc<Caller>>,
    note: Note,
    cancel: Option<Box<Cancel>>,
    ticket: Ticket,
    ended: Option<oneshot::Receiver<Ended<P>>>,
    release: Vec<(Arc<Server>, UpstreamSession)>,
    metered: Option<Box<llm::Metered>>,
    to_keep: Option<Box<llm::cache::ToKeep>>,
}

/// What is known of a request before its body is read.
struct Asked {
    request_id: String,
    endpoint: Option<Endpoint>,
    caller: Option<Arc<Caller>>,
    note: Note,
    release: Vec<(Arc<Server>, UpstreamSession)>,
    ticket: Ticket,
    metered: Option<Box<llm::Metered>>,
    to_keep: Option<Box<llm::cache::ToKeep>>,
}

/// What a browser says of itself, for the answer's headers.
struct Browser {
    origin: Option<HeaderValue>,
    wanted: Option<HeaderValue>,
}

impl Browser {
    fn of(headers: &HeaderMap) -> Self {
        let origin = headers.get(ORIGIN).cloned();
        // Without an origin nobody looks at the rest.
        let wanted = origin.as_ref().and_then(|_| headers.get("access-control-request-headers").cloned());
        Self { origin, wanted }
    }
}

impl<P: Platform> Gateway<P> {
    /// A gateway on `platform` with the state that `instance` holds for the process or isolate.
    pub fn new(platform: P, instance: Arc<Instance>) -> Self {
        Self { platform, instance }
    }

    /// What it runs on.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Answers `request`. Never fails: what goes wrong is in the reply.
    pub fn handle<B>(
        self,
        request: Request<B>,
    ) -> impl Future<Output = Reply<impl Stream<Item = Result<Bytes, SeamError>> + Unpin + use<P, B>, P>> + use<P, B>
    where
        B: Stream<Item = Result<Bytes, SeamError>> + Unpin,
    {
        self.handle_with(Ticket::default(), request)
    }

    /// The same for a host that may have to drop this half-way, and then hands `ticket` in to [`Gateway::abandon`].
    pub async fn handle_with<B>(
        self,
        ticket: Ticket,
        request: Request<B>,
    ) -> Reply<impl Stream<Item = Result<Bytes, SeamError>> + Unpin + use<P, B>, P>
    where
        B: Stream<Item = Result<Bytes, SeamError>> + Unpin,
    {
        let (began, ticks) = (self.platform.clock().now(), self.platform.clock().ticks());
        let plan = self.instance.plan();
        let (head, body) = request.into_parts();
        let mut asked = Asked {
            request_id: self.request_id(&head.headers),
            endpoint: Endpoint::of(head.uri.path()),
            caller: None,
            note: Note::default(),
            release: Vec::new(),
            ticket,
            metered: None,
            to_keep: None,
        };
        let (http, browser) = (head.method.clone(), Browser::of(&head.headers));
        let front = asked.endpoint.as_ref().and_then(|endpoint| words::front(endpoint, &head.headers));
        let serves = matches!(asked.endpoint, Some(Endpoint::Mcp(_) | Endpoint::Status));
        let used = plan.as_ref().filter(|_| serves);
        let (models, mut driver) = sampling::begin(&self.platform, &self.instance, used, &asked.request_id);
        let answered = self.answer(head, body, plan.clone(), &mut asked, models, &mut driver).await;
        let mcp = matches!(asked.endpoint, Some(Endpoint::Mcp(_) | Endpoint::Sse(_) | Endpoint::Messages));
        let answered = answered.unwrap_or_else(|fault| {
            let refusal = match front {
                Some(front) => words::refusal(front, fault.clone(), &asked.request_id),
                None if mcp => rpc_refusal(&fault),
                None => problem(&fault, &asked.request_id),
            };
            asked.note.fault = Some(Box::new(fault));
            refusal
        });
        let mut witness = Witness { ended: Ended::default(), sender: None };
        let (mut ended, mut endless) = (None, false);
        let keep_alive = plan.as_ref().map_or(Duration::from_secs(15), |plan| plan.limits.keep_alive);
        let body = match answered.body {
            HeadBody::Full(bytes) => {
                witness.ended.bytes = bytes.len() as u64;
                Body::Full(bytes)
            }
            HeadBody::Source(source) => {
                let (sender, receiver) = oneshot::channel();
                witness.sender = Some(sender);
                ended = Some(receiver);
                endless = source.is_endless();
                let watch = Watch::new(self.instance.clone(), plan.clone());
                let flow = flow(self.platform.clone(), watch, source, keep_alive, witness, driver);
                Body::Stream(Box::pin(flow))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = answered.status;
        *response.headers_mut() = answered.headers;
        if endless {
            response.extensions_mut().insert(Endless);
        }
        if let Some(opening) = answered.opening {
            response.extensions_mut().insert(opening);
        }
        self.dress(&asked, &browser, &mut response);
        let after = Box::new(After {
            plan,
            request_id: asked.request_id,
            http,
            endpoint: asked.endpoint.as_ref().map_or("other", Endpoint::label),
            status: answered.status,
            began,
            ticks,
            caller: asked.caller,
            note: asked.note,
            cancel: answered.cancel.map(Box::new),
            ticket: asked.ticket,
            ended,
            release: asked.release,
            metered: asked.metered,
            to_keep: asked.to_keep,
        });
        Reply { response, after }
    }

    async fn answer<B, D>(
        &self,
        mut head: http::request::Parts,
        body: B,
        plan: Option<Arc<Plan>>,
        asked: &mut Asked,
        models: Option<Models<P>>,
        driver: &mut Beside<D>,
    ) -> Result<Head<P, impl Future<Output = (Answer<P>, Note)> + use<P, B, D>>, Fault>
    where
        D: Future<Output = ()>,
        B: Stream<Item = Result<Bytes, SeamError>> + Unpin,
    {
        let abilities = self.platform.abilities();
        let endpoint = asked.endpoint.clone().ok_or_else(|| {
            Fault::new(
                Kind::NotFound,
                "there is nothing at this path; MCP is served at /mcp and /mcp/{server}, models at /v1 and /ask",
            )
        })?;
        inbound::check_host(&head.headers, &head.uri, abilities)?;
        inbound::check_origin(&head.headers, plan.as_deref(), abilities)?;
        if head.method == Method::OPTIONS {
            return Ok(Head::full(StatusCode::NO_CONTENT, "", Bytes::new()));
        }
        if endpoint == Endpoint::Health {
            only(&head.method, &[Method::GET, Method::HEAD])?;
            return Ok(Head::full(
                StatusCode::OK,
                "application/json",
                Bytes::from_static(b"{\"status\":\"ok\"}"),
            ));
        }
        if matches!(endpoint, Endpoint::Config | Endpoint::Rollback) {
            let change = match endpoint {
                Endpoint::Config => {
                    only(&head.method, &[Method::GET, Method::PUT])?;
                    if head.method == Method::GET { admin::Change::List } else { admin::Change::Put }
                }
                _ => {
                    only(&head.method, &[Method::POST])?;
                    admin::Change::Rollback
                }
            };
            let caller = admin::admit(plan.as_deref(), &head.headers, &self.platform)?;
            asked.caller = Some(caller);
            let limit = plan.as_ref().map_or(4 * 1024 * 1024, |plan| plan.limits.body);
            let body = inbound::body(&head.headers, body, limit).await?;
            let done = Box::pin(admin::apply(&self.platform, &self.instance, change, &body)).await?;
            return Ok(Head::full(StatusCode::OK, "application/json", done));
        }
        if let Some(text) = match &endpoint {
            Endpoint::OpenApi => Some(Bytes::from_static(llm::ask::schema::OPENAPI.as_bytes())),
            Endpoint::Schema(name) => Some(llm::ask::schema::published(name).ok_or_else(|| {
                Fault::new(Kind::NotFound, "there is no such schema; /openapi.json names them all")
            })?),
            _ => None,
        } {
            // What can be asked here is no secret.
            only(&head.method, &[Method::GET, Method::HEAD])?;
            let kind =
                if endpoint == Endpoint::OpenApi { "application/json" } else { "application/schema+json" };
            return Ok(Head::full(StatusCode::OK, kind, text));
        }
        let plan = plan.ok_or_else(|| Fault::new(Kind::NotConfigured, self.instance.reason()))?;
        let mcp = Mcp::new(self.platform.clone(), plan.clone(), self.instance.memory().clone());
        if endpoint == Endpoint::Ready {
            only(&head.method, &[Method::GET, Method::HEAD])?;
            if plan.keys.is_empty() && !abilities.keyless || !mcp.store_answers().await {
                return Err(Fault::new(
                    Kind::NotConfigured,
                    "not ready: no keys, or the state store does not answer",
                ));
            }
            return Ok(Head::full(
                StatusCode::OK,
                "application/json",
                Bytes::from_static(b"{\"status\":\"ready\"}"),
            ));
        }
        if endpoint == Endpoint::Tunnel {
            dock::check_opener(&head.headers, !plan.keys.is_empty())?;
            head.headers.remove("x-api-key");
        }
        let caller = auth::admit(&plan, &head.headers, abilities)?;
        asked.caller = Some(caller.clone());
        if let Some(front) = words::front(&endpoint, &head.headers) {
            // Boxed: calls of MCP need not make room for it.
            return Box::pin(self.words(endpoint, front, head, body, &plan, &caller, asked)).await;
        }
        if endpoint == Endpoint::Tunnel {
            // Boxed: calls need not make room for it.
            return Box::pin(self.tunnel(&head, body, &plan, &caller)).await;
        }
        let mcp = mcp.on_behalf(&caller.name, &asked.request_id);
        let mcp = mcp.with_models(models.map(|models| models.of(&caller.name)));
        if endpoint == Endpoint::Messages {
            only(&head.method, &[Method::POST])?;
            inbound::check_json(&head.headers)?;
            let token = session_of(&head.uri).ok_or_else(|| {
                Fault::new(
                    Kind::SessionRequired,
                    "session: post to the place that the endpoint event of GET /sse names",
                )
            })?;
            let body = inbound::body(&head.headers, body, plan.limits.body).await?;
            // Boxed, as everything is that is no call: calls need not make room for it.
            let (answer, note) = Box::pin(mcp.message(&caller, token, &body)).await;
            asked.note = note;
            return Ok(headed(answer, Accepts { json: true, events: true }));
        }
        let (Endpoint::Mcp(target) | Endpoint::Sse(target)) = endpoint.clone() else {
            only(&head.method, &[Method::GET, Method::HEAD])?;
            sampling::beside(Box::pin(mcp.survey(&caller, SURVEY)).as_mut(), driver).await;
            let links = Box::pin(mcp.links(&caller)).await;
            return Ok(Head::full(StatusCode::OK, "application/json", self.status(&mcp, &caller, &links)));
        };
        let target = match target {
            None => None,
            Some(name) => {
                let known = plan.server(&name).filter(|server| caller.servers.admits(&server.name)).cloned();
                Some(known.ok_or_else(|| unserved(&plan, &caller, &name))?)
            }
        };
        if let Endpoint::Sse(_) = endpoint {
            // A client that tries the newer transport first is told to GET (2025-11-25 transports, "Backwards
            // Compatibility").
            only(&head.method, &[Method::GET])?;
            if !accepts(&head.headers).events {
                let message = "a GET must accept text/event-stream";
                return Err(Fault::new(Kind::NotAcceptable, message));
            }
            let (answer, note) = Box::pin(mcp.front(caller, target)).await;
            asked.note = note;
            return Ok(headed(answer, Accepts { json: true, events: true }));
        }
        only(&head.method, &[Method::POST, Method::GET, Method::DELETE])?;
        let mut inbound = Inbound {
            target,
            accepts: Accepts { json: true, events: true },
            body: Bytes::new(),
            caller,
            headers: head.headers,
            ticket: asked.ticket.clone(),
        };
        match head.method {
            Method::GET => {
                inbound.accepts = accepts(&inbound.headers);
                if !inbound.accepts.events {
                    let message = "a GET must accept text/event-stream";
                    return Err(Fault::new(Kind::NotAcceptable, message));
                }
                let (answer, note) = Box::pin(mcp.get(inbound)).await;
                asked.note = note;
                Ok(headed(answer, Accepts { json: true, events: true }))
            }
            Method::DELETE => {
                let (answer, note, release) = Box::pin(mcp.delete(inbound)).await;
                (asked.note, asked.release) = (note, release);
                Ok(headed(answer, Accepts { json: true, events: true }))
            }
            _ => {
                inbound.accepts = accepts(&inbound.headers);
                if !inbound.accepts.json && !inbound.accepts.events {
                    let message = "the Accept header admits neither application/json nor text/event-stream";
                    return Err(Fault::new(Kind::NotAcceptable, message));
                }
                inbound::check_json(&inbound.headers)?;
                inbound.body = inbound::body(&inbound.headers, body, plan.limits.body).await?;
                Ok(self.post(mcp, inbound, &plan, asked, driver).await)
            }
        }
    }

    /// Answers a POST. If that takes long, the caller is given an event stream to wait on, so that nothing
    /// between the two takes the silence for a dead connection.
    async fn post<D: Future<Output = ()>>(
        &self,
        mcp: Mcp<P>,
        inbound: Inbound,
        plan: &Plan,
        asked: &mut Asked,
        driver: &mut Beside<D>,
    ) -> Head<P, impl Future<Output = (Answer<P>, Note)> + use<P, D>> {
        let accepts = inbound.accepts;
        // The id of a session that is being opened goes into the head, so that one must wait for it.
        let waits = accepts.events && !opens_session(&inbound);
        let mut work = Box::pin(mcp.post(inbound));
        let patience = pin!(self.platform.clock().sleep(plan.limits.keep_alive));
        match sampling::beside(pin!(select(&mut work, patience)), driver).await {
            Either::Left(((answer, note), _)) => {
                asked.note = note;
                headed(answer, accepts)
            }
            Either::Right(_) if waits => Head::events(Source::Waiting(work), None),
            Either::Right(_) => {
                let (answer, note) = sampling::beside(work.as_mut(), driver).await;
                asked.note = note;
                headed(answer, accepts)
            }
        }
    }

    /// The headers that every answer carries.
    fn dress<S>(&self, asked: &Asked, browser: &Browser, response: &mut Response<Body<S>>) {
        let status = response.status();
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&asked.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"causeway\""));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static(allowed(asked.endpoint.as_ref())));
        }
        // CORS (fetch.spec.whatwg.org): only for origins that have passed the check.
        if let Some(origin) = browser.origin.as_ref().filter(|_| status != StatusCode::FORBIDDEN) {
            headers.insert("access-control-allow-origin", origin.clone());
            headers.insert(VARY, HeaderValue::from_static("Origin"));
            headers.insert(
                "access-control-expose-headers",
                HeaderValue::from_static("ETag, Mcp-Session-Id, X-Request-Id, WWW-Authenticate"),
            );
            if let Some(wanted) = &browser.wanted {
                headers.insert("access-control-allow-headers", wanted.clone());
                headers.insert(
                    "access-control-allow-methods",
                    HeaderValue::from_static("GET, POST, PUT, DELETE"),
                );
                headers.insert("access-control-max-age", HeaderValue::from_static("600"));
            }
        }
    }

    /// The caller's own id for the request if it is a sane one, else a new one.
    fn request_id(&self, headers: &HeaderMap) -> String {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let sane = |id: &&str| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        };
        given.filter(sane).map_or_else(
            || {
                let mut id = [0; 12];
                self.platform.entropy().fill(&mut id);
                crate::mcp::hex(&id)
            },
            str::to_owned,
        )
    }

    fn status(&self, mcp: &Mcp<P>, caller: &Caller, links: &[LinkStatus]) -> Bytes {
        #[derive(Serialize)]
        struct Status<'a> {
            version: &'static str,
            host: &'static str,
            config: &'a str,
            servers: Vec<crate::mcp::local::ServerStatus>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            links: &'a [LinkStatus],
            #[serde(skip_serializing_if = "Option::is_none")]
            models: Option<llm::status::Status>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            skipped: Vec<Skipped<'a>>,
        }
        #[derive(Serialize)]
        struct Skipped<'a> {
            name: &'a str,
            reason: &'a str,
        }
        let skipped = mcp.plan.skipped.iter().filter(|_| caller.admin);
        let status = Status {
            version: env!("CARGO_PKG_VERSION"),
            host: self.platform.abilities().host,
            config: &mcp.plan.digest,
            servers: mcp.statuses(caller),
            links,
            models: llm::status::status(
                &mcp.plan.llm,
                self.instance.models(),
                caller,
                self.platform.clock().now(),
            ),
            skipped: skipped.map(|s| Skipped { name: &s.name, reason: &s.reason }).collect(),
        };
        serde_json::to_vec(&status).unwrap_or_default().into()
    }

    /// Cancels the call that a request was waiting for when its caller went away before there was a reply.
    ///
    /// An adapter hands a clone of the [`Ticket`] in here if it has to drop [`Gateway::handle_with`] half-way.
    pub async fn abandon(self, ticket: Ticket) {
        let (Some(cancel), Some(plan)) = (ticket.take(), self.instance.plan()) else { return };
        Mcp::new(self.platform, plan, self.instance.memory().clone()).cancel(&cancel).await;
    }

    /// Takes `letter` to the owner of a key: gives what is said to it, and the work that it sets going, which the host
    /// runs to its end whether or not anybody reads what is said.
    pub fn deliver(
        &self,
        mailbox: Arc<Mailbox<P>>,
        letter: &[u8],
    ) -> (Said, impl Future<Output = ()> + use<P>) {
        let plan = self.instance.plan().unwrap_or_else(|| Arc::new(Plan::empty()));
        let (models, mut driver) = sampling::begin(&self.platform, &self.instance, Some(&plan), "");
        let mcp = Mcp::new(self.platform.clone(), plan, self.instance.memory().clone()).with_models(models);
        let (said, work) = mailbox::deliver(mcp, mailbox, letter);
        // Boxed: there are thousands that wait, and moved in it would take its room twice.
        let mut work = Box::pin(work);
        (said, async move { sampling::beside(work.as_mut(), &mut driver).await })
    }

    /// Looks for a newer stored configuration if it is time to: on a host whose configuration is pushed, behind replies
    /// and now and then in the course of long ones.
    pub async fn look_if_due(&self) {
        if self.instance.look_due(self.platform.clock().now()) {
            admin::look(&self.platform, &self.instance).await;
        }
    }

    /// Does what is left to do: resolves when the body has ended or was dropped and the rest is done.
    ///
    /// Everything is worked on in its place: of what waits behind streams there may be thousands.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` would keep its arguments twice")]
    pub fn finish(self, mut after: Box<After<P>>) -> impl Future<Output = ()> + use<P> {
        async move {
            let mut ended = match after.ended.take() {
                Some(ended) => ended.await.unwrap_or_default(),
                None => Ended { complete: true, ..Ended::default() },
            };
            if let Some(late) = ended.late {
                let (note, cancel) = *late;
                (after.note, after.cancel) = (note, cancel.map(Box::new));
            }
            after.metered = ended.metered.take().or(after.metered);
            let cut = !ended.complete && ended.fault.is_none();
            after.cancel = after.cancel.or_else(|| after.ticket.take().map(Box::new));
            after.release.extend(after.ticket.leases.take());
            let micros = self.platform.clock().ticks().saturating_sub(after.ticks);
            if let Some(line) = after.record(micros, ended.bytes, ended.fault, cut) {
                self.platform.log().write(&line);
            }
            if let Some(answer) = ended.to_keep.take().or(after.to_keep.take()) {
                Box::pin(answer.store(&self.platform)).await;
            }
            let Some(plan) = after.plan.clone() else { return };
            let mcp = Mcp::new(self.platform, plan, self.instance.memory().clone());
            // Who asks need not wait for ever, and "SHOULD issue a cancellation notification" then (2025-11-25 lifecycle,
            // "Timeouts").
            let limits = matches!(ended.fault, Some(Kind::UpstreamTimeout | Kind::UpstreamTooLarge));
            let given_up = limits || after.ticket.is_given_up();
            after.cancel =
                after.cancel.filter(|cancel| given_up || cut && !(cancel.resumable && ended.resumable));
            after.caller = after.caller.filter(|caller| mcp.refresh_due(caller));
            let quiet = after.cancel.is_none() && after.release.is_empty();
            if !quiet || after.caller.is_some() {
                // Boxed: most requests leave nothing to ask, and need not make room for it.
                Box::pin(asks_behind(mcp, &self.instance, after, ended.left.take())).await;
            }
        }
    }
}

/// What a request leaves to be asked of servers and the store behind its reply.
async fn asks_behind<P: Platform>(
    mcp: Mcp<P>,
    instance: &Arc<Instance>,
    after: Box<After<P>>,
    left: Option<Box<Relayed<P>>>,
) {
    if let Some(cancel) = &after.cancel {
        mcp.cancel(cancel).await;
    }
    drop(left);
    for (server, session) in &after.release {
        mcp.end(server, session).await;
    }
    if let Some(caller) = &after.caller {
        let (models, mut driver) = sampling::begin(&mcp.platform, instance, Some(&mcp.plan), "");
        let mcp = mcp.with_models(models.map(|models| models.of(&caller.name)));
        sampling::beside(pin!(mcp.refresh(caller)), &mut driver).await;
    }
}

/// The session that a message of the HTTP+SSE transport belongs to.
fn session_of(uri: &http::Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|part| part.strip_prefix("session="))
}

/// Whether a request may be an `initialize`: told without reading its body, since a wrong guess only costs patience.
fn opens_session(inbound: &Inbound) -> bool {
    // One that names another method in its head is refused if it is not that.
    if inbound.headers.get(mcp_headers::METHOD).is_some_and(|method| method != "initialize") {
        return false;
    }
    let beginning = inbound.body.get(..4096).unwrap_or(&inbound.body);
    beginning.split(|byte| *byte == b'"').any(|text| text == b"initialize")
}

fn only(method: &Method, allowed: &[Method]) -> Result<(), Fault> {
    if allowed.contains(method) {
        return Ok(());
    }
    Err(Fault::new(Kind::MethodNotAllowed, "this path does not take this HTTP method"))
}

fn allowed(endpoint: Option<&Endpoint>) -> &'static str {
    match endpoint {
        Some(Endpoint::Mcp(_)) => "POST, GET, DELETE",
        Some(Endpoint::Config) => "GET, PUT",
        Some(
            Endpoint::Rollback
            | Endpoint::Messages
            | Endpoint::Completions
            | Endpoint::ModelMessages
            | Endpoint::CountTokens
            | Endpoint::Embeddings
            | Endpoint::Ask,
        ) => "POST",
        Some(Endpoint::Context(Some(_))) => "GET, PUT, POST, DELETE",
        Some(Endpoint::Tunnel) => "GET, POST",
        _ => "GET",
    }
}

/// There is no such server for this caller; if it was left out of the plan, an administrator is told why.
fn unserved(plan: &Plan, caller: &Caller, name: &str) -> Fault {
    let skipped = plan.skipped.iter().find(|skipped| caller.admin && skipped.name == name);
    let message = match skipped {
        Some(skipped) => format!("server {name:?} is not served: {}", skipped.reason),
        None => format!("no server {:?} here", crate::mcp::serve::brief(name)),
    };
    Fault::new(Kind::NotFound, message)
}
