//! Links at the gateway: who may open one, and what hosts do with the docks that keep them.
//!
//! A host that can take WebSockets is told to by an [`Opening`] in the extensions of a reply with status 101; it accepts the
//! connection, makes a [`Line`] of the link's dock and passes on what arrives and what is said. Everything else that
//! concerns a link, from the request of a caller to a companion's `POST`, goes through [`Docked::ask`].

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::Stream;
use futures_util::future::{Either, select};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::flow::Source;
use super::head::{Head, HeadBody};
use super::{Gateway, only};
use crate::config::Plan;
use crate::fault::{Fault, Kind};
use crate::inbound;
use crate::platform::{
    Clock as _, Entropy as _, Links, Mailboxes as _, Platform, SeamError, StateStore as _, Swap,
};
use crate::relay::through;
use crate::tunnel::dock::{self, Body, Dock, Entry, Facts, Line, Say, Terms, Watch};
use crate::tunnel::pair::{self, Message};
use crate::tunnel::{Limits, hello::SessionId};

/// How long it is remembered that a link was there.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How often what is known of a link that is connected is kept.
const KEEP: Duration = Duration::from_secs(60);

/// In the extensions of a reply with status 101: the host is to accept the request as a WebSocket and hand it to the
/// dock of the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The link's name.
    pub name: String,
    /// The caller whose key opens it.
    pub caller: String,
}

/// The dock of one link, with what it needs of its host for the moment.
#[derive(Clone)]
pub struct Docked<P: Platform> {
    platform: P,
    plan: Arc<Plan>,
    dock: Arc<Dock>,
    name: String,
}

impl<P: Platform> Gateway<P> {
    /// The dock of the link `name`, which the host keeps.
    pub fn dock(&self, name: &str, dock: Arc<Dock>) -> Docked<P> {
        let plan = self.instance.plan().unwrap_or_else(|| Arc::new(Plan::empty()));
        Docked { platform: self.platform.clone(), plan, dock, name: name.to_owned() }
    }

    /// Answers `/tunnel`.
    pub(super) async fn tunnel<B, F>(
        &self,
        head: &http::request::Parts,
        body: B,
        plan: &Plan,
        caller: &crate::config::plan::Caller,
    ) -> Result<Head<P, F>, Fault>
    where
        B: Stream<Item = Result<Bytes, SeamError>> + Unpin,
    {
        only(&head.method, &[Method::GET, Method::POST])?;
        if self.platform.abilities().links == Links::No {
            return Err(Fault::new(Kind::Conflict, "this host cannot keep links"));
        }
        let name = named(&head.uri)?;
        if !caller.may_link(&name) {
            let message = format!(
                "this key may not open a link called {name:?}: add it to `links` of the key in the gateway's configuration"
            );
            return Err(Fault::new(Kind::Forbidden, message));
        }
        if !dock::is_known(plan, &name) {
            let message = format!(
                "nothing is behind a link called {name:?}: give servers or providers `via: {name}` in the gateway's configuration"
            );
            return Err(Fault::new(Kind::NotFound, message));
        }
        if head.method == Method::GET {
            if !self.platform.abilities().links.sockets() {
                let message = "this host takes no WebSockets: use the transport of POST and events";
                return Err(Fault::new(Kind::UpgradeRequired, message));
            }
            check_upgrade(&head.headers)?;
            let mut switched = Head::full(StatusCode::SWITCHING_PROTOCOLS, "", Bytes::new());
            switched.opening = Some(Opening { name, caller: caller.name.clone() });
            return Ok(switched);
        }
        let body = inbound::body(&head.headers, body, pair::MAX_BATCH).await?;
        let mut request = through::asking(through::PAIR);
        (*request.method_mut(), *request.body_mut()) = (Method::POST, body);
        for header in [pair::SESSION, pair::FROM] {
            if let Some(value) = head.headers.get(header) {
                request.headers_mut().insert(header, value.clone());
            }
        }
        if let Ok(caller) = HeaderValue::from_str(&caller.name) {
            request.headers_mut().insert(through::CALLER, caller);
        }
        let asked = self.platform.mailboxes().ask(&through::key(&name), request).await;
        let answer = asked.map_err(|error| Fault::new(Kind::Host, format!("the link's owner: {error}")))?;
        let (answer, body) = answer.into_parts();
        let mut head = Head::full(answer.status, "", Bytes::new());
        head.headers = answer.headers;
        head.body = HeadBody::Source(Source::Plain(Box::new(body)));
        Ok(head)
    }
}

/// Whoever opens a link proves it by the `Authorization` header alone, and is no page in a browser.
pub(super) fn check_opener(headers: &HeaderMap, keys: bool) -> Result<(), Fault> {
    if headers.contains_key(ORIGIN) {
        return Err(Fault::new(Kind::OriginRefused, "links are not opened by pages in a browser"));
    }
    if keys && !headers.contains_key(http::header::AUTHORIZATION) {
        let message = "a key is required: send it as \"Authorization: Bearer KEY\"";
        return Err(Fault::new(Kind::Unauthorized, message));
    }
    Ok(())
}

/// The link's name in `/tunnel?name=…`.
fn named(uri: &http::Uri) -> Result<String, Fault> {
    let name = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|part| part.strip_prefix("name="));
    let safe = |name: &&str| {
        (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    name.filter(safe).map(str::to_owned).ok_or_else(|| {
        let message =
            "name: say which link it is, as in /tunnel?name=laptop: up to 32 letters, digits, `-` and `_`";
        Fault::new(Kind::Unprocessable, message)
    })
}

/// Checks that a GET asks for a WebSocket (RFC 6455 section 4.2.1).
fn check_upgrade(headers: &HeaderMap) -> Result<(), Fault> {
    let lists = |name: &str, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    let version = headers.get("sec-websocket-version").is_some_and(|version| version == "13");
    if lists("upgrade", "websocket") && headers.contains_key("sec-websocket-key") && version {
        return Ok(());
    }
    let message = "a link is a WebSocket of version 13, or POST and events: run `causeway connect`";
    Err(Fault::new(Kind::UpgradeRequired, message))
}

/// What a dock answers with.
pub enum Told<P: Platform> {
    /// This, and no more.
    Full(Option<Bytes>),
    /// The answer of the companion.
    Exchange(Body<P::Clock>),
    /// Changes of the link.
    Watch(Watch),
    /// What is said to a companion without a WebSocket.
    Events(Events<P>),
}

impl<P: Platform> Unpin for Told<P> {}

impl<P: Platform> Stream for Told<P> {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Self::Exchange(body) => Pin::new(body).poll_next(context),
            Self::Watch(watch) => Pin::new(watch).poll_next(context).map(|byte| byte.map(Ok)),
            Self::Events(events) => events.poll(context).map(|event| event.map(Ok)),
        }
    }
}

/// What is said to a companion without a WebSocket, as events. Dropping it loses the connection.
pub struct Events<P: Platform> {
    clock: P::Clock,
    line: Option<Line>,
}

impl<P: Platform> Events<P> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(line) = &mut self.line else { return Poll::Ready(None) };
        match line.poll_say(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Say::Message(_, message))) => Poll::Ready(Some(message.event())),
            Poll::Ready(Some(Say::Close(_)) | None) => {
                self.leave();
                Poll::Ready(None)
            }
        }
    }

    fn leave(&mut self) {
        if let Some(line) = self.line.take() {
            line.entry().lost(self.clock.now());
        }
    }
}

impl<P: Platform> Drop for Events<P> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<P: Platform> Docked<P> {
    /// Does what a request asks of the dock.
    ///
    /// # Errors
    /// When the link is not connected, or the exchange fails.
    pub async fn ask(self, request: Request<Bytes>) -> Result<Response<Told<P>>, SeamError> {
        self.recall().await;
        self.does(request).await
    }

    /// [`Self::ask`] for a host that tends a dock only while there is something to be done: what resolves, one way or the
    /// other, once that has begun. Then the dock is to be [tended](Self::tend), for what it waits for may never come.
    pub fn begin(
        self,
        request: Request<Bytes>,
    ) -> (impl Future<Output = Result<Response<Told<P>>, SeamError>> + use<P>, oneshot::Receiver<()>) {
        let (begun, has_begun) = oneshot::channel();
        let answer = async move {
            self.recall().await;
            let (mut begun, mut asking) = (Some(begun), pin!(self.does(request)));
            poll_fn(|context| {
                let answer = asking.as_mut().poll(context);
                begun = None;
                answer
            })
            .await
        };
        (answer, has_begun)
    }

    /// Has the dock know which plan is in force, and what was known of the link before.
    async fn recall(&self) {
        self.replan();
        if !self.dock.remembers() {
            let held = self.platform.store().load(&through::key(&self.name)).await.ok().flatten();
            self.dock.remember(held.and_then(|held| serde_json::from_slice(&held.value).ok()));
        }
    }

    async fn does(&self, request: Request<Bytes>) -> Result<Response<Told<P>>, SeamError> {
        let what =
            request.headers().get(through::ASK).map(|what| what.as_bytes().to_vec()).unwrap_or_default();
        match what.as_slice() {
            what if what == through::EXCHANGE.as_bytes() => {
                let clock = self.platform.clock().clone();
                let answer =
                    self.dock.exchange(clock, &self.name, self.plan.limits.link_calls, request).await?;
                Ok(answer.map(Told::Exchange))
            }
            what if what == through::STATE.as_bytes() => {
                let shown = serde_json::to_vec(&self.dock.shown()).unwrap_or_default();
                Ok(Response::new(Told::Full(Some(shown.into()))))
            }
            what if what == through::WATCH.as_bytes() => Ok(Response::new(Told::Watch(self.dock.watch()))),
            what if what == through::PAIR.as_bytes() => Ok(self.pair(request)),
            _ => Err(SeamError::Host("nothing that a link is asked".to_owned())),
        }
    }

    /// A companion's `POST`: its hello, which is answered by events, or a batch.
    fn pair(&self, request: Request<Bytes>) -> Response<Told<P>> {
        let text = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let now = self.platform.clock().now();
        if !request.headers().contains_key(pair::SESSION) {
            let mut line = self.dock.line();
            self.received(&mut line, &text(through::CALLER), Message::Frame(request.into_body()));
            let events = Events { clock: self.platform.clock().clone(), line: Some(line) };
            let mut response = Response::new(Told::Events(events));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
            return response;
        }
        let (session, from) = (text(pair::SESSION).parse::<SessionId>(), text(pair::FROM).parse::<u64>());
        let taken = match (session, from, pair::decode(request.into_body())) {
            (Ok(session), Ok(from), Ok(messages)) => {
                self.dock.batch(now, session, from, messages).map_err(|bye| (StatusCode::CONFLICT, bye.words))
            }
            (_, _, Err(bye)) => Err((StatusCode::BAD_REQUEST, bye.words)),
            _ => {
                let words = format!("{} and {} must be a session and a number", pair::SESSION, pair::FROM);
                Err((StatusCode::BAD_REQUEST, words))
            }
        };
        let (status, said) = match taken {
            Ok(received) => (StatusCode::OK, received.to_string()),
            Err((status, words)) => (status, words),
        };
        let mut response = Response::new(Told::Full(Some(said.into())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }

    /// A connection has been accepted.
    pub fn line(&self) -> Line {
        self.dock.line()
    }

    /// A message has arrived on `line`, which `caller` has opened.
    pub fn received(&self, line: &mut Line, caller: &str, message: Message) {
        if !line.is_new() {
            return self.heard(line.entry(), message);
        }
        let now = self.platform.clock().now();
        // Before its hello a companion has nothing to ask.
        let Message::Frame(message) = message else { return };
        let mut random = [0; 16];
        self.platform.entropy().fill(&mut random);
        let terms =
            Terms { name: self.name.clone(), caller: caller.to_owned(), limits: self.limits(), random };
        line.hello(now, &message, terms, &self.plan);
    }

    /// A message has arrived behind the hello.
    pub fn heard(&self, entry: &Entry, message: Message) {
        entry.received(self.platform.clock().now(), message);
    }

    /// The connection is gone.
    pub fn lost(&self, entry: &Entry) {
        entry.lost(self.platform.clock().now());
    }

    /// What this end of the link allows.
    pub fn limits(&self) -> Limits {
        let limits = &self.plan.limits;
        Limits {
            streams: u32::try_from(limits.link_calls).unwrap_or(u32::MAX),
            resume: limits.link_resume,
            watch: self.platform.abilities().links != Links::SleepingSockets,
            ..Limits::default()
        }
    }

    /// The host is going to stop: the companion is told to dial again.
    pub fn stop(&self) {
        self.dock.stop(self.platform.clock().now());
    }

    /// Has the link go by the plan that is in force.
    pub fn replan(&self) {
        self.dock.replan(self.platform.clock().now(), &self.name, &self.plan, &self.plan.digest);
    }

    /// What is to be done for the dock for as long as there is something: a future to be run by the host, whenever
    /// something was put in or asked. `None` if there is nothing, or somebody does it already.
    pub fn tend(&self) -> Option<impl Future<Output = ()> + use<P>> {
        let tended = self.dock.tend(self.platform.clock().clone());
        let unkept = self.dock.take_unkept();
        if tended.is_none() && unkept.is_none() {
            return None;
        }
        let (platform, dock, name) = (self.platform.clone(), self.dock.clone(), self.name.clone());
        Some(async move {
            if let Some(facts) = unkept {
                keep(&platform, &name, &facts).await;
            }
            if let Some(tended) = tended {
                let mut tended = pin!(tended);
                // A host may be killed, and then what it has kept is all that is known.
                while let Either::Right(_) = select(&mut tended, pin!(platform.clock().sleep(KEEP))).await {
                    keep(&platform, &name, &dock.shown().facts).await;
                }
            }
            if let Some(facts) = dock.take_unkept() {
                keep(&platform, &name, &facts).await;
            }
        })
    }
}

/// Keeps what is known of a link for when nothing of it is left but that.
async fn keep<P: Platform>(platform: &P, name: &str, facts: &Facts) {
    let key = through::key(name);
    let value = Bytes::from(serde_json::to_vec(facts).unwrap_or_default());
    for _ in 0..3 {
        let Ok(held) = platform.store().load(&key).await else { return };
        let seen = held.map(|held| held.version);
        match platform.store().swap(&key, seen, value.clone(), REMEMBERED).await {
            Ok(Swap::Stale) => {}
            // It only costs a better answer to when the link was last seen.
            Ok(Swap::Done(_)) | Err(_) => return,
        }
    }
}
