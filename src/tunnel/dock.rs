//! The edge's end of a link: what keeps it for as long as its companion dials in, and what requests ask.
//!
//! A dock outlives requests and connections. A companion's connection is a [`Line`] to it: what arrives is put in, what
//! comes out is sent. A request is one HTTP exchange, asked with [`Dock::exchange`] and answered by the companion. A dock
//! **never** waits, spawns or reads a clock: whoever keeps it says what time it is, and looks after it with
//! [`Dock::tend`] for as long as that says so.
//!
//! Invariant: a connection that was replaced is never heard again, and nothing more is sent on it but why.

mod body;
mod facts;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::Stream;
use futures_util::future::select;

pub use self::body::{Answering, Body};
pub use self::facts::{Facts, Shown};
use super::frame::{Headers, Request};
use super::hello::{Hello, Offer, SessionId, Verdict};
use super::link::{Effect, Greeting, Input, Link, StreamId};
use super::pair::Message;
use super::{Bye, ByeCode, Limits, Reset, ResetCode};
use crate::config::Plan;
use crate::platform::{Clock, SeamError, Timestamp};
use crate::relay::through::{CALLER, MODEL, OWN, REQUEST_ID, SERVER};

/// How long after its connection was lost a call waits for a link to be back, rather than failing at once.
const BLINK: Duration = Duration::from_secs(5);
/// Calls that wait so at a time.
const WAITING: usize = 256;

/// The edge's end of one link.
#[derive(Debug, Default)]
pub struct Dock(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    link: Option<Link>,
    /// The connection that the link is on.
    line: Option<(u64, UnboundedSender<Say>)>,
    /// Counts connections.
    lines: u64,
    exchanges: HashMap<StreamId, Exchange>,
    facts: Facts,
    /// Facts from before have been asked for.
    remembers: bool,
    /// Since when there is a link but no connection.
    lost_at: Option<Timestamp>,
    /// Counts the times that the link was connected and lost.
    epoch: u64,
    /// Who waits for that.
    waiting: Vec<Waker>,
    /// Facts that are to be kept by the host.
    unkept: bool,
    tended: bool,
    /// Until when whoever tends it sleeps, and who that is.
    asleep: Option<(Timestamp, Waker)>,
}

/// What is to be done on a connection.
#[derive(Debug)]
pub enum Say {
    /// Send this. The number: which counted frame of the session it is.
    Message(Option<u64>, Message),
    /// Close the connection, for this reason.
    Close(Bye),
}

/// One request on its way through the link, and its answer.
#[derive(Debug, Default)]
struct Exchange {
    /// What is still to be sent, until the end has been.
    request: Option<Bytes>,
    head: Option<super::frame::Response>,
    pieces: VecDeque<Bytes>,
    end: Option<Result<(), Reset>>,
    waker: Option<Waker>,
}

/// A connection of a companion.
#[derive(Debug)]
pub struct Line {
    entry: Entry,
    said: UnboundedReceiver<Say>,
    /// Until the companion has said hello.
    sender: Option<UnboundedSender<Say>>,
}

/// Where what arrives on a connection is put in.
#[derive(Debug, Clone)]
pub struct Entry {
    dock: Arc<Dock>,
    number: u64,
}

/// Who opens a link, and under which terms.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The link's name.
    pub name: String,
    /// The caller whose key it was opened with.
    pub caller: String,
    /// Limits of the edge.
    pub limits: Limits,
    /// For the id of a new session.
    pub random: [u8; 16],
}

/// What is said to `offers` under `plan`.
#[must_use]
pub fn verdicts<'a>(plan: &Plan, link: &str, offers: impl Iterator<Item = &'a Offer>) -> Vec<Verdict> {
    offers
        .map(|offer| {
            let via = match offer {
                Offer::Server(name) => {
                    plan.server(name).map(|server| server.via.as_ref().map(|via| via.link.as_str()))
                }
                Offer::Model(name) => plan.llm.provider(name).map(|provider| provider.via.as_deref()),
            };
            let why = match via {
                Some(Some(via)) if via == link => return Verdict::accepted(offer.clone()),
                Some(Some(_)) => format!("has {offer} behind another link"),
                Some(None) => format!("has {offer}, but not with `via: {link}`"),
                None => format!("has no {offer} with `via: {link}`"),
            };
            Verdict::refused(offer.clone(), format!("the gateway's configuration {why}"))
        })
        .collect()
}

/// Whether `plan` lets anything be behind a link called `name`.
#[must_use]
pub fn is_known(plan: &Plan, name: &str) -> bool {
    plan.servers.iter().any(|server| server.via.as_ref().is_some_and(|via| via.link == name))
        || plan.llm.providers.iter().any(|provider| provider.via.as_deref() == Some(name))
}

impl Dock {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` with what it keeps, and wakes whom that concerns once the lock is open.
    fn with<T>(&self, work: impl FnOnce(&mut Inner, &mut Vec<Waker>) -> T) -> T {
        let mut wakers = Vec::new();
        let done = work(&mut self.lock(), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        done
    }

    /// A connection has been accepted. It says nothing before its companion has said hello.
    #[must_use]
    pub fn line(self: &Arc<Self>) -> Line {
        let (sender, said) = unbounded();
        let mut inner = self.lock();
        inner.lines += 1;
        Line { entry: Entry { dock: self.clone(), number: inner.lines }, said, sender: Some(sender) }
    }

    /// Connections have the numbers behind `last` from now on: those up to it may still be in use.
    pub fn number_from(&self, last: u64) {
        let mut inner = self.lock();
        inner.lines = inner.lines.max(last);
    }

    /// The line `number` again, with a link that [`Dock::save`] has saved: for a host whose docks sleep. No other line may
    /// have had the number since ([`Dock::number_from`]).
    #[must_use]
    pub fn restore(
        self: &Arc<Self>,
        number: u64,
        saved: &[u8],
        facts: Facts,
        limits: Limits,
    ) -> Option<Line> {
        let link = Link::restore(limits, saved)?;
        let (sender, said) = unbounded();
        let mut inner = self.lock();
        inner.link = Some(link);
        inner.line = Some((number, sender));
        inner.facts = facts;
        inner.epoch += 1;
        Some(Line { entry: Entry { dock: self.clone(), number }, said, sender: None })
    }

    /// The link as bytes and what is known of it, with the number of its line, if it may sleep: it is connected, and no
    /// request is on its way.
    #[must_use]
    pub fn save(&self) -> Option<(u64, Vec<u8>, Facts)> {
        let inner = self.lock();
        let (number, _) = inner.line.as_ref()?;
        Some((*number, inner.link.as_ref()?.save()?, inner.facts.clone()))
    }

    /// Whether nothing is kept that could not be made anew.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.link.is_none() && inner.exchanges.is_empty() && inner.waiting.is_empty() && !inner.unkept
    }

    /// Whether the companion is connected.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lock().is_up()
    }

    /// Counts the times that the link was connected and lost.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// How the link is.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let inner = self.lock();
        let (up, mut facts) = (inner.is_up(), inner.facts.clone());
        let open = inner.link.as_ref().map_or(0, Link::streams);
        if let Some(link) = inner.link.as_ref().filter(|_| up) {
            facts.seen = facts.seen.max(Some(link.heard_at()));
        }
        Shown { connected: up, resumable: !up && inner.link.is_some(), open, facts }
    }

    /// What is known from before this dock was made.
    pub fn remember(&self, facts: Option<Facts>) {
        let mut inner = self.lock();
        inner.remembers = true;
        let Some(facts) = facts else { return };
        if inner.facts.since.is_none() {
            inner.facts = facts;
        } else if inner.facts.verdicts.is_empty() && inner.facts.since == facts.since {
            // What was put away with the connection is not all.
            inner.facts.verdicts = facts.verdicts;
        }
    }

    /// Whether it is known what was known before this dock was made.
    #[must_use]
    pub fn remembers(&self) -> bool {
        self.lock().remembers
    }

    /// What the host is to keep, if that has changed since it was last taken.
    #[must_use]
    pub fn take_unkept(&self) -> Option<Facts> {
        let mut inner = self.lock();
        std::mem::take(&mut inner.unkept).then(|| inner.facts.clone())
    }

    /// Another plan is in force: the companion is told what it means for what it offers, and has to go if the caller
    /// that opened the link may do so no more.
    pub fn replan(&self, now: Timestamp, name: &str, plan: &Plan, digest: &str) {
        self.with(|inner, wakers| {
            if inner.link.is_none() || inner.facts.digest == digest {
                return;
            }
            inner.facts.digest = digest.to_owned();
            let caller = &inner.facts.caller;
            let mut callers = plan.keys.iter().map(|key| &key.caller);
            let may = plan.keys.is_empty() && caller.is_empty()
                || callers.any(|known| known.name == *caller && known.may_link(name));
            if !may {
                let words = format!("the key may open no link called {name:?} any more");
                return inner.feed(now, Input::Close(Bye::new(ByeCode::Refused, words)), wakers);
            }
            let said = verdicts(plan, name, inner.facts.verdicts.iter().map(|verdict| &verdict.offer));
            if said != inner.facts.verdicts {
                inner.facts.verdicts = said.clone();
                inner.epoch += 1;
                wakers.append(&mut inner.waiting);
                inner.feed(now, Input::Verdicts(said), wakers);
            }
        });
    }

    /// The host is going to stop: the companion is told to dial again.
    pub fn stop(&self, now: Timestamp) {
        let bye = Bye::new(ByeCode::Shutdown, "the gateway stops; dial again");
        self.with(|inner, wakers| inner.feed(now, Input::Close(bye), wakers));
    }

    /// Sends `request` to the companion, unless `most` are on their way already; its header [`SERVER`] or [`MODEL`] says
    /// whom it is for.
    /// Resolves with the head of the answer.
    ///
    /// # Errors
    /// [`SeamError::Offline`] if the link is not connected; other errors when the exchange fails.
    pub async fn exchange<C: Clock + Clone + Unpin>(
        self: &Arc<Self>,
        clock: C,
        name: &str,
        most: usize,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Body<C>>, SeamError> {
        self.blink(&clock, name).await?;
        if self.lock().exchanges.len() >= most {
            let message =
                format!("link {name:?}: {most} requests are on their way already (limits.link_calls)");
            return Err(SeamError::Connect(message));
        }
        let (head, body) = request.into_parts();
        let text = |header| {
            let value = head.headers.get(header).and_then(|value: &http::HeaderValue| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let mut headers = Headers::from_map(&head.headers);
        headers.0.retain(|(name, _)| !name.starts_with(OWN));
        let request = Request {
            target: match text(MODEL) {
                model if !model.is_empty() => Offer::Model(model),
                _ => Offer::Server(text(SERVER)),
            },
            method: head.method.as_str().to_owned(),
            // The endpoint itself, wherever it is there.
            path: if path == "/" { String::new() } else { path.to_owned() },
            caller: text(CALLER),
            request_id: text(REQUEST_ID),
            headers,
        };
        let stream = self.with(|inner, wakers| inner.open(clock.now(), name, request, body, wakers))?;
        Answering::new(self.clone(), clock, stream).await
    }

    /// Waits for a link that was lost a moment ago.
    async fn blink(&self, clock: &impl Clock, name: &str) -> Result<(), SeamError> {
        let left = {
            let inner = self.lock();
            if inner.is_up() {
                return Ok(());
            }
            let lost = inner.lost_at.filter(|_| inner.link.is_some() && inner.waiting.len() < WAITING);
            let left = lost.map(|lost| lost.after(BLINK).since(clock.now()));
            left.filter(|left| !left.is_zero()).ok_or_else(|| inner.offline(clock.now(), name))?
        };
        let up = poll_fn(|context| {
            let mut inner = self.lock();
            if inner.is_up() || inner.link.is_none() {
                return Poll::Ready(());
            }
            inner.wait(context.waker());
            Poll::Pending
        });
        select(pin!(up), pin!(clock.sleep(left))).await;
        let inner = self.lock();
        if inner.is_up() { Ok(()) } else { Err(inner.offline(clock.now(), name)) }
    }

    /// What has been posted (the transport without WebSockets): how many counted frames have been received so far.
    ///
    /// # Errors
    /// What is said to the companion instead. Nothing was taken.
    pub fn batch(
        &self,
        now: Timestamp,
        session: SessionId,
        from: u64,
        messages: Vec<Message>,
    ) -> Result<u64, Bye> {
        self.with(|inner, wakers| {
            let Some(link) = &mut inner.link else {
                return Err(Bye::new(ByeCode::Lost, "there is no such session; say hello again"));
            };
            let mut effects = Vec::new();
            let taken = link.batch(now, session, from, messages, &mut effects);
            inner.apply(now, effects, wakers);
            taken
        })
    }

    /// Looks after the link until it can do without: a future to be run by the host. `None` if somebody does already, or
    /// it can do without as it is.
    pub fn tend<C: Clock>(self: &Arc<Self>, clock: C) -> Option<impl Future<Output = ()> + use<C>> {
        let mut inner = self.lock();
        if inner.tended || inner.link.as_ref().and_then(Link::wake_at).is_none() {
            return None;
        }
        inner.tended = true;
        drop(inner);
        let dock = self.clone();
        Some(async move {
            // However this ends, somebody else may begin.
            let _tending = Tending(&dock);
            loop {
                let now = clock.now();
                let Some(at) = dock.with(|inner, wakers| {
                    inner.feed(now, Input::Tick, wakers);
                    inner.link.as_ref().and_then(Link::wake_at)
                }) else {
                    return;
                };
                let mut woken = false;
                let earlier = poll_fn(|context| {
                    let mut inner = dock.lock();
                    if std::mem::replace(&mut woken, true) && inner.asleep.is_none() {
                        return Poll::Ready(());
                    }
                    inner.asleep = Some((at, context.waker().clone()));
                    Poll::Pending
                });
                // A link whose time has come and that does nothing would keep us here for ever.
                let span = at.since(now).max(Duration::from_millis(1));
                select(pin!(earlier), pin!(clock.sleep(span))).await;
                dock.lock().asleep = None;
            }
        })
    }

    /// Whenever the link has been connected or lost, a byte. The first comes at once.
    #[must_use]
    pub fn watch(self: &Arc<Self>) -> Watch {
        Watch { dock: self.clone(), seen: None }
    }
}

struct Tending<'a>(&'a Dock);

impl Drop for Tending<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.tended = false;
        inner.asleep = None;
    }
}

/// See [`Dock::watch`].
#[derive(Debug)]
pub struct Watch {
    dock: Arc<Dock>,
    seen: Option<u64>,
}

impl Stream for Watch {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let dock = self.dock.clone();
        let mut inner = dock.lock();
        if self.seen.replace(inner.epoch) == Some(inner.epoch) {
            inner.wait(context.waker());
            return Poll::Pending;
        }
        Poll::Ready(Some(Bytes::from_static(if inner.is_up() { b"+" } else { b"-" })))
    }
}

impl Line {
    /// Where what arrives is put in.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Whether its companion is still to say hello.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.sender.is_some()
    }

    /// Takes the first message: the companion's hello. What is said to it comes out of the line.
    pub fn hello(&mut self, now: Timestamp, message: &Bytes, terms: Terms, plan: &Plan) {
        let Some(sender) = self.sender.take() else { return };
        let refuse = |bye: Bye| {
            // Nobody may be there to hear it.
            let _ = sender.unbounded_send(Say::Message(None, Message::Frame(bye.encode())));
            let _ = sender.unbounded_send(Say::Close(bye));
        };
        let hello = match Hello::read(message) {
            Ok(hello) => hello,
            Err(bye) => return refuse(bye),
        };
        if hello.name != terms.name {
            let words =
                format!("the hello says {:?}, the connection was opened as {:?}", hello.name, terms.name);
            return refuse(Bye::new(ByeCode::Refused, words));
        }
        let said = verdicts(plan, &terms.name, hello.offers.iter());
        if hello.check {
            let (mut effects, session) = (Vec::new(), SessionId(terms.random));
            drop(Link::edge(now, terms.limits, session, &hello, said, &mut effects));
            for effect in effects {
                if let Effect::Send { count, message } = effect {
                    let _ = sender.unbounded_send(Say::Message(count, Message::Frame(message)));
                }
            }
            return drop(sender.unbounded_send(Say::Close(Bye::new(ByeCode::Shutdown, "all is said"))));
        }
        self.entry.dock.with(|inner, wakers| {
            match inner.link.as_ref().map(|link| link.greeting(now, &hello)) {
                Some(Greeting::Refuse(bye)) => return refuse(bye),
                Some(Greeting::Resume) => {
                    inner.leave("the companion is back on a new connection");
                    inner.enter(self.entry.number, sender.clone(), now, &hello, &said, &terms, plan, true);
                    inner.feed(now, Input::Hello(hello, said), wakers);
                }
                greeting => {
                    if let Some(Greeting::TakeOver(bye)) = greeting {
                        inner.feed(now, Input::Close(bye), wakers);
                    }
                    inner.enter(self.entry.number, sender.clone(), now, &hello, &said, &terms, plan, false);
                    let (mut effects, session) = (Vec::new(), SessionId(terms.random));
                    inner.link =
                        Some(Link::edge(now, terms.limits.clone(), session, &hello, said, &mut effects));
                    inner.apply(now, effects, wakers);
                }
            }
            inner.epoch += 1;
            wakers.append(&mut inner.waiting);
        });
    }

    /// What is to be done next; `None` if nothing is any more.
    pub fn poll_say(&mut self, context: &mut Context<'_>) -> Poll<Option<Say>> {
        Pin::new(&mut self.said).poll_next(context)
    }
}

impl Entry {
    /// The connection's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Takes a message that has arrived behind the hello.
    pub fn received(&self, now: Timestamp, message: Message) {
        let input = match message {
            Message::Frame(frame) => Input::Frame(frame),
            Message::Ping => Input::Ping,
            Message::Pong => Input::Pong,
        };
        self.dock.with(|inner, wakers| {
            if inner.is_on(self.number) {
                inner.feed(now, input, wakers);
            }
        });
    }

    /// The connection is gone.
    pub fn lost(&self, now: Timestamp) {
        self.dock.with(|inner, wakers| {
            if inner.is_on(self.number) {
                inner.feed(now, Input::Lost, wakers);
                inner.line = None;
            }
        });
    }
}

impl Inner {
    fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_up)
    }

    fn is_on(&self, number: u64) -> bool {
        self.line.as_ref().is_some_and(|(line, _)| *line == number)
    }

    fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|known| known.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    fn offline(&self, now: Timestamp, name: &str) -> SeamError {
        SeamError::Offline(self.facts.offline(now, name))
    }

    /// The connection that there is, is no longer the link's.
    fn leave(&mut self, why: &str) {
        if let Some((_, sender)) = self.line.take() {
            let _ = sender.unbounded_send(Say::Close(Bye::new(ByeCode::Stale, why)));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "it only writes down what its one caller knows")]
    fn enter(
        &mut self,
        number: u64,
        sender: UnboundedSender<Say>,
        now: Timestamp,
        hello: &Hello,
        said: &[Verdict],
        terms: &Terms,
        plan: &Plan,
        resumed: bool,
    ) {
        self.line = Some((number, sender));
        self.lost_at = None;
        (self.unkept, self.remembers) = (true, true);
        let facts = &mut self.facts;
        if !resumed {
            (facts.since, facts.calls) = (Some(now), 0);
        }
        facts.seen = Some(now);
        facts.agent = hello.agent.chars().filter(|c| !c.is_control()).take(80).collect();
        facts.caller.clone_from(&terms.caller);
        facts.verdicts = said.to_vec();
        facts.digest.clone_from(&plan.digest);
    }

    fn feed(&mut self, now: Timestamp, input: Input, wakers: &mut Vec<Waker>) {
        let Some(link) = &mut self.link else { return };
        let mut effects = Vec::new();
        link.on(now, input, &mut effects);
        self.apply(now, effects, wakers);
    }

    fn open(
        &mut self,
        now: Timestamp,
        name: &str,
        request: Request,
        body: Bytes,
        wakers: &mut Vec<Waker>,
    ) -> Result<StreamId, SeamError> {
        if !self.facts.offers(&request.target) {
            return Err(SeamError::Offline(facts::not_offered(name)));
        }
        let offline = self.offline(now, name);
        let Some(link) = &mut self.link else { return Err(offline) };
        let mut effects = Vec::new();
        let opened = link.open(now, request, &mut effects);
        self.apply(now, effects, wakers);
        let stream = opened.map_err(|reset| match reset.code {
            ResetCode::NotConnected => offline,
            _ => error(reset),
        })?;
        self.facts.calls += 1;
        self.exchanges.insert(stream, Exchange { request: Some(body), ..Exchange::default() });
        let mut effects = Vec::new();
        self.push(now, stream, &mut effects);
        self.apply(now, effects, wakers);
        Ok(stream)
    }

    /// Sends as much of a request's body as there is room for.
    fn push(&mut self, now: Timestamp, stream: StreamId, effects: &mut Vec<Effect>) {
        let Inner { link: Some(link), exchanges, .. } = self else { return };
        let Some(exchange) = exchanges.get_mut(&stream) else { return };
        while let Some(body) = &mut exchange.request {
            if body.is_empty() {
                exchange.request = None;
                return link.on(now, Input::End(stream), effects);
            }
            let room = link.room(stream).min(body.len());
            if room == 0 {
                return;
            }
            let piece = body.split_to(room);
            link.on(now, Input::Data(stream, piece), effects);
        }
    }

    /// Does what the link says.
    fn apply(&mut self, now: Timestamp, effects: Vec<Effect>, wakers: &mut Vec<Waker>) {
        let was_up = self.line.is_some();
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send { count, message } => self.say(Say::Message(count, Message::Frame(message))),
                Effect::Ping => self.say(Say::Message(None, Message::Ping)),
                Effect::Pong => self.say(Say::Message(None, Message::Pong)),
                Effect::Drop(why) => {
                    self.say(Say::Close(Bye::new(ByeCode::Lost, why)));
                    self.line = None;
                }
                Effect::Close(bye) => {
                    self.say(Say::Close(bye));
                    self.line = None;
                }
                Effect::Head(stream, head) => {
                    self.tell(stream, wakers, |exchange| exchange.head = Some(head))
                }
                Effect::Data(stream, piece) => {
                    self.tell(stream, wakers, |exchange| exchange.pieces.push_back(piece));
                }
                Effect::End(stream) => self.tell(stream, wakers, |exchange| exchange.end = Some(Ok(()))),
                Effect::Reset(stream, reset) => {
                    self.tell(stream, wakers, |exchange| exchange.end = Some(Err(reset)));
                }
                Effect::Room(stream) => {
                    let mut more = Vec::new();
                    self.push(now, stream, &mut more);
                    effects.extend(more);
                }
                // A companion's.
                Effect::Up { .. } | Effect::Verdicts(_) | Effect::Open(..) => {}
            }
        }
        let is_up = self.is_up();
        if let Some(link) = &self.link {
            if was_up && !is_up {
                self.facts.seen = Some(link.heard_at().max(self.facts.seen.unwrap_or_default()));
                self.lost_at = Some(now);
                self.unkept = true;
                self.epoch += 1;
                wakers.append(&mut self.waiting);
            }
            if link.is_over() {
                self.link = None;
                wakers.append(&mut self.waiting);
            }
        }
        let at = self.link.as_ref().and_then(Link::wake_at);
        if let Some((until, _)) = &self.asleep
            && at.is_none_or(|at| at < *until)
            && let Some((_, waker)) = self.asleep.take()
        {
            wakers.push(waker);
        }
    }

    fn say(&mut self, say: Say) {
        if let Some((_, sender)) = &self.line {
            // Nobody listens where the connection has just gone, which its host is about to say.
            let _ = sender.unbounded_send(say);
        }
    }

    fn tell(&mut self, stream: StreamId, wakers: &mut Vec<Waker>, news: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.exchanges.get_mut(&stream) {
            news(exchange);
            wakers.extend(exchange.waker.take());
        }
    }
}

/// What became of an exchange that was reset.
fn error(reset: Reset) -> SeamError {
    match reset.code {
        ResetCode::Timeout => SeamError::Timeout(reset.words),
        ResetCode::NotConnected => SeamError::Offline(reset.words),
        // Asking again comes to the same.
        ResetCode::Refused => SeamError::Denied(reset.words),
        ResetCode::Connect | ResetCode::NotOffered | ResetCode::Busy => SeamError::Connect(reset.words),
        _ => SeamError::Cut(reset.words),
    }
}
