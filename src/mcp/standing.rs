//! The stream of a legacy client's session: what no call brings, told as it happens.
//!
//! It lives in the session's mailbox. Servers are heard over a [`Feed`](super::feed): legacy ones over the sessions that
//! are held with them for this client, so that what they ask reaches it, modern ones by listening. What is told is
//! kept for a client whose connection breaks; one that does not come back for a while is not waited for.
//!
//! A stream of a legacy server at `/mcp/{server}` is **never** here: that one is the server's own, passed on as it is.
//!
//! Source: 2025-11-25 transports, "Listening for Messages from the Server", "Resumability and Redelivery".

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::Mcp;
use super::ask::{Answerer, answerer};
use super::client::Client;
use super::feed::{Feed, Leases, Notice, Over, Source, Stepped, Topic, UPDATED, Wanted, What, feed};
use super::lines::Held;
use super::listen::{Subscribed, given, renamed, uri_of};
use super::mailbox::{Mailbox, Said, Work};
use super::memory::lock;
use super::revision::Era;
use super::rewrite::{Rewrite, Rewritten};
use super::rounds::OWN;
use super::sampling::Samples;
use super::session::{Holder, Session};
use super::stream::cancelled_question;
use super::tail::{Log, Tail};
use crate::config::plan::{Caller, Server};
use crate::platform::{Clock as _, Entropy as _, Platform, Timestamp};
use crate::relay::dropped::Dropped;
use crate::wire::jsonrpc::Message;
use crate::wire::sse::Event;

/// How long a stream that nobody reads is kept up.
const KEPT: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody reads.
const LOOK: Duration = Duration::from_secs(15);
/// How long the head of a stream, or the answer to a subscription, waits until the servers are heard.
const PATIENCE: Duration = Duration::from_secs(2);
/// Streams that one session may have open.
const STREAMS: usize = 4;
/// Pause before a server that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How the names of these streams begin.
const MARK: char = 'g';

/// The letter of a client that wants the stream of its session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stand {
    /// The caller's name.
    pub caller: String,
    /// The session id, as the client has it.
    pub token: String,
    /// What tells the session from others.
    pub session: String,
    /// The server, on `/mcp/{server}`.
    pub target: Option<String>,
    /// The last event that the client has seen, if it comes back.
    pub last: Option<String>,
}

/// The streams of one session.
#[derive(Debug, Default)]
pub struct Desk(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    streams: Vec<(String, Log)>,
    /// Who keeps them up, if anybody does.
    teller: Option<UnboundedSender<Told>>,
    /// The servers are heard.
    ready: bool,
}

/// What is told to who keeps the streams up.
#[derive(Debug)]
enum Told {
    /// The subscriptions are others now; the log ends when the servers have been told.
    Subscriptions(Log),
    End,
}

/// Streams that are to be kept up.
pub struct Started {
    stand: Stand,
    told: UnboundedReceiver<Told>,
    /// What was told before is lost, so that everything may have changed.
    announce: bool,
}

/// Whether `id` is that of an event on a stream of a session.
#[must_use]
pub fn is_own(id: &str) -> bool {
    id.strip_prefix(OWN).is_some_and(|rest| rest.starts_with(MARK))
}

impl Desk {
    /// Whether there is no stream.
    pub fn is_idle(&self) -> bool {
        lock(&self.0).teller.is_none()
    }

    /// The subscriptions of the session have changed: ends when the servers that matter have been told.
    pub fn subscribed(&self) -> Said {
        let inner = lock(&self.0);
        let log = Log::once();
        let told =
            inner.teller.as_ref().map(|teller| teller.unbounded_send(Told::Subscriptions(log.clone())));
        match (told, log.tail(0)) {
            (Some(Ok(())), Some(tail)) => Said::Tail(false, tail),
            _ => Said::nothing(),
        }
    }

    /// The session is over.
    pub fn end(&self) {
        let mut inner = lock(&self.0);
        if let Some(teller) = inner.teller.take() {
            let _ = teller.unbounded_send(Told::End);
        }
        inner.streams.drain(..).for_each(|(_, log)| log.end());
    }

    /// Says `message` on one stream: one that is read, if there is one ("the server MUST send each of its JSON-RPC
    /// messages on only one of the connected streams").
    fn say(&self, message: &Bytes) {
        let inner = lock(&self.0);
        let read = inner.streams.iter().rev().find(|(_, log)| log.is_read());
        if let Some((name, log)) = read.or_else(|| inner.streams.last()) {
            log.write(|number| {
                let id = Some(format!("{OWN}{name}-{number}"));
                Event { id, ..Event::message(message.clone()) }.encode()
            });
        }
    }

    fn ready(&self) {
        let mut inner = lock(&self.0);
        if !std::mem::replace(&mut inner.ready, true) {
            for (_, log) in &inner.streams {
                log.push(Bytes::from_static(b":\n"));
            }
        }
    }

    fn is_read(&self) -> bool {
        lock(&self.0).streams.iter().any(|(_, log)| log.is_read())
    }
}

/// How the names of the streams of `session` begin: none of another session's is taken for one of them.
fn mark(session: &str) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(session);
    format!("{MARK}{}", super::hex(hash.get(..6).unwrap_or_default()))
}

/// A place in a stream that the client knows; `None` if that is not kept.
fn place(inner: &Inner, id: &str) -> Option<Tail> {
    let (name, after) = id.strip_prefix(OWN)?.split_once('-')?;
    let after = after.parse().ok()?;
    let (_, log) = inner.streams.iter().find(|(known, _)| known == name)?;
    log.tail(after)
}

/// Gives a client the stream of its session, and keeps it up if nobody does. The answer begins with a comment when the
/// servers are heard; without any, the place that the client knows is not kept.
pub fn begin<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, stand: Stand) -> (Said, Work) {
    let mut inner = lock(&mailbox.standing.0);
    let runs = inner.teller.is_some();
    let announce = stand.last.is_some();
    let mark = mark(&stand.session);
    if stand
        .last
        .as_deref()
        .is_some_and(|last| !last.strip_prefix(OWN).is_some_and(|id| id.starts_with(&mark)))
    {
        return (Said::nothing(), Work::None);
    }
    if let Some(last) = stand.last.as_deref().filter(|_| runs) {
        return (place(&inner, last).map_or(Said::nothing(), |tail| Said::Tail(true, tail)), Work::None);
    }
    let unread = inner.streams.iter().find_map(|(_, log)| if log.is_read() { None } else { log.rest() });
    let tail = match unread {
        Some((tail, messages)) => {
            let message = "more came while nobody read the session's stream than is kept of it (limits.replay); the oldest \
                           have gone";
            let server = stand.target.as_deref().unwrap_or_default();
            let dropped = Dropped { server, caller: &stand.caller, messages, message };
            dropped.say(&mcp.platform, "stream.dropped");
            tail
        }
        None => {
            if inner.streams.len() >= STREAMS {
                inner.streams.remove(0).1.end();
            }
            let mut name = [0; 9];
            mcp.platform.entropy().fill(&mut name);
            let log = Log::new(mcp.plan.limits.replay);
            let Some(tail) = log.tail(0) else { return (Said::nothing(), Work::None) };
            inner.streams.reserve_exact(1);
            inner.streams.push((format!("{mark}{}", super::hex(&name)), log));
            tail
        }
    };
    if runs {
        return (Said::Tail(inner.ready, tail), Work::None);
    }
    let (teller, told) = unbounded();
    inner.teller = Some(teller);
    inner.ready = false;
    (Said::Tail(false, tail), Work::Stand(Box::new(Started { stand, told, announce })))
}

/// Keeps the streams of a session up until it ends or nobody wants them any more.
pub fn run<P: Platform>(
    mcp: Mcp<P>,
    mailbox: Arc<Mailbox<P>>,
    started: Box<Started>,
) -> impl Future<Output = ()> + use<P> {
    let mcp = mcp.for_caller(&started.stand.caller);
    async move {
        let leases = Leases::default();
        // Boxed, like all that is done seldom: what waits for so long need not make room for it.
        let attended = Box::pin(async {
            let Started { stand, told, announce } = unboxed(started);
            (Keeper::attend(&mcp, &mailbox.standing, stand, announce).await, told)
        });
        let (keeper, mut told) = attended.await;
        if let Some(mut keeper) = keeper {
            keeper.keep(&mut told, leases.clone()).await;
        }
        mailbox.standing.end();
        Box::pin(async {
            for (server, session) in leases.take() {
                mcp.end(&server, &session).await;
            }
        })
        .await;
    }
}

/// What is in the box, without the box: it would be kept until whoever has it is done.
#[expect(clippy::boxed_local, reason = "letting the box go is the point")]
fn unboxed<T>(boxed: Box<T>) -> T {
    *boxed
}

/// The caller called `name` in the plan in force.
pub fn caller_of<P: Platform>(mcp: &Mcp<P>, name: &str) -> Option<Arc<Caller>> {
    let known = mcp.plan.keys.iter().map(|key| &key.caller).find(|caller| caller.name == name);
    let anyone = mcp.plan.keys.is_empty() && name.is_empty();
    known.cloned().or_else(|| anyone.then(|| Arc::new(Caller::anyone(false))))
}

/// What the client of `session` has subscribed to at `server`, by the server's own URIs.
pub(super) fn subscribed_at(session: &Session, server: &Server) -> Vec<String> {
    let record = lock(&session.memory.record);
    let own = record.0.subscriptions.iter().filter(|subscribed| subscribed.server == server.name);
    let mut uris: Vec<String> = own.map(|subscribed| subscribed.own.clone()).collect();
    uris.sort();
    uris.dedup();
    uris
}

struct Keeper<'a, P: Platform> {
    mcp: &'a Mcp<P>,
    desk: &'a Desk,
    client: Client,
    session: Session,
    merged: bool,
    announce: bool,
    /// Servers that have not been heard yet, and who waits for that.
    unheard: Vec<String>,
    waiting: Vec<(Log, Vec<String>)>,
    over: Vec<Heard>,
    /// How long nobody has read.
    unread: Duration,
    /// Servers of which it is to be found out how they are heard, and when.
    due: Vec<(Arc<Server>, Duration)>,
    /// What models are asked for the servers.
    samples: Option<Box<Samples>>,
}

impl<'a, P: Platform> Keeper<'a, P> {
    /// Finds out whose session it is, and which servers it is about; `None` if there is no such session any more.
    async fn attend(mcp: &'a Mcp<P>, desk: &'a Desk, stand: Stand, announce: bool) -> Option<Box<Self>> {
        let server = stand.target.as_ref().and_then(|name| mcp.plan.server(name)).cloned();
        let merged = stand.target.is_none();
        let caller = caller_of(mcp, &stand.caller)?;
        let session = mcp.session(&caller, server.as_deref(), &stand.token, None).await.ok()?;
        let _ = mcp.recheck(&session).await;
        let servers = match server {
            Some(server) => vec![server],
            None => mcp.plan.servers.iter().filter(|s| caller.servers.admits(&s.name)).cloned().collect(),
        };
        let client = Client::of_session(caller, session.clone());
        let unheard = servers.iter().map(|server| server.name.clone()).collect();
        let over = Vec::with_capacity(servers.len());
        let due = servers.into_iter().map(|server| (server, Duration::ZERO)).collect();
        let (waiting, unread) = (Vec::new(), Duration::ZERO);
        let samples = None;
        let keeper = Self {
            mcp,
            desk,
            client,
            session,
            merged,
            announce,
            unheard,
            waiting,
            over,
            unread,
            due,
            samples,
        };
        Some(Box::new(keeper))
    }

    fn subscriptions(&self) -> Vec<Subscribed> {
        lock(&self.session.memory.record).0.subscriptions.clone()
    }

    fn wanted(&self, server: &Server) -> Wanted {
        let uris = subscribed_at(&self.session, server);
        Wanted { lists: Topic::ALL.into(), uris, tasks: Vec::new() }
    }

    async fn keep(&mut self, told: &mut UnboundedReceiver<Told>, leases: Leases) {
        let mut feed = feed(self.mcp.clone(), leases);
        // Few, and soon none: a set that knows whom to poll would cost more for as long as the session lasts.
        let mut preparing = Vec::new();
        let began = self.mcp.platform.clock().now();
        loop {
            for (server, after) in std::mem::take(&mut self.due) {
                preparing.push(Box::pin(prepare(self.mcp, self.client.clone(), server, after)));
            }
            let look = self.look(began);
            let next = {
                let mut looks = pin!(self.mcp.platform.clock().sleep(look));
                std::future::poll_fn(|context| {
                    if let Poll::Ready(told) = told.poll_next_unpin(context) {
                        return Poll::Ready(Next::Told(told));
                    }
                    for at in 0..preparing.len() {
                        if let Some(Poll::Ready(ready)) =
                            preparing.get_mut(at).map(|one: &mut Pin<Box<_>>| one.as_mut().poll(context))
                        {
                            drop(preparing.swap_remove(at));
                            if preparing.is_empty() {
                                preparing = Vec::new();
                            }
                            return Poll::Ready(Next::Prepared(ready));
                        }
                    }
                    if !feed.is_empty()
                        && let Poll::Ready(Some(news)) = feed.poll_next(context)
                    {
                        return Poll::Ready(Next::News(news));
                    }
                    looks.as_mut().poll(context).map(|()| Next::Look(look))
                })
                .await
            };
            // Boxed: most of the time nothing happens, and that need not make room for what does.
            if !Box::pin(self.act(&mut feed, next)).await {
                return;
            }
        }
    }

    /// Tells those who have waited long enough, and how long to wait for the next look.
    fn look(&mut self, began: Timestamp) -> Duration {
        let patience = began.after(PATIENCE).since(self.mcp.platform.clock().now());
        if self.unheard.is_empty() || patience.is_zero() {
            self.desk.ready();
        }
        self.waiting.retain(|(log, servers)| {
            let waits = !servers.is_empty();
            if !waits {
                log.end();
            }
            waits
        });
        if lock(&self.desk.0).ready { LOOK } else { patience.min(LOOK) }
    }

    /// Does what is to be done; `false` if nobody wants the streams any more.
    async fn act<W: Future<Output = Stepped<P>>>(&mut self, feed: &mut Feed<P, W>, next: Next) -> bool {
        match next {
            Next::Told(None | Some(Told::End)) => return false,
            Next::Told(Some(Told::Subscriptions(log))) => {
                let _ = self.mcp.recheck(&self.session).await;
                let mut changed = Vec::new();
                for at in 0..self.over.len() {
                    let Some(Heard { server, over, wanted }) = self.over.get(at) else { break };
                    let now = self.wanted(server);
                    if now != *wanted && matches!(over, Over::Dedicated) {
                        changed.push(server.name.clone());
                        feed.add(Source { server: server.clone(), wanted: now.clone(), over: over.clone() });
                    }
                    if let Some(heard) = self.over.get_mut(at) {
                        heard.wanted = now;
                    }
                }
                self.waiting.push((log, changed));
            }
            Next::Prepared((server, Some(how))) => {
                let wanted = self.wanted(&server);
                self.over.retain(|heard| heard.server.name != server.name);
                self.over.push(Heard { server: server.clone(), over: how.clone(), wanted: wanted.clone() });
                feed.add(Source { server, wanted, over: how });
            }
            Next::Prepared((server, None)) => self.heard(&server),
            Next::News(Notice { server, what, held }) => match what {
                What::Agreed(told) => {
                    if self.announce && self.unheard.contains(&server.name) {
                        for message in told.changes() {
                            let _ = self.tell(&server, message, None);
                        }
                    }
                    self.heard(&server);
                }
                What::Message(data) => {
                    let heard = self.over.iter().find(|heard| heard.server.name == server.name);
                    let own = heard.and_then(|heard| match &heard.over {
                        Over::Own(session) => Some(session.clone()),
                        Over::Line(_) => held.as_ref().map(|held| held.session.clone()),
                        Over::Dedicated | Over::Parked(_) => None,
                    });
                    if let Ok(Message::Request { id, method, params }) = Message::decode(&data)
                        && answerer(&server, &method) == Answerer::Gateway
                    {
                        if let Some(session) = own {
                            // Nobody knows which call it belongs to, if to any.
                            let samples = self.samples.get_or_insert_default();
                            self.mcp.sample(&server, &session, id, params, samples);
                            samples.anew();
                        }
                        return true;
                    }
                    if let Some(samples) = &mut self.samples
                        && let Some(id) = cancelled_question(&data)
                        && samples.cancelled(&id)
                    {
                        return true;
                    }
                    let reply = self.tell(&server, data, held.as_deref());
                    if let (Some(reply), Some(session)) = (reply, own) {
                        self.mcp.tell(&server, reply, &session).await;
                    }
                }
                What::Down(_) | What::Silent => self.heard(&server),
                What::Lost => {
                    self.heard(&server);
                    let place = self.over.iter().position(|heard| heard.server.name == server.name);
                    let heard = place.map(|place| self.over.swap_remove(place));
                    if let Some(Heard { server, over: Over::Own(lost), .. }) = heard {
                        let holder = Holder::Client(self.session.clone());
                        let _ = self.mcp.drop_held(&server, &holder, &lost).await;
                        self.due.push((server, AGAIN));
                    }
                }
            },
            Next::Look(look) => {
                self.unread = if self.desk.is_read() { Duration::ZERO } else { self.unread + look };
                if self.unread >= KEPT || lock(&self.session.memory.record).0.ended {
                    return false;
                }
                if self.mcp.recheck_due(&self.session) {
                    let _ = self.mcp.recheck(&self.session).await;
                }
            }
        }
        true
    }

    /// `server` is heard, or will not be for now: nobody need wait for it.
    fn heard(&mut self, server: &Server) {
        self.unheard.retain(|name| *name != server.name);
        if self.unheard.is_empty() {
            self.unheard = Vec::new();
        }
        for (_, servers) in &mut self.waiting {
            servers.retain(|name| *name != server.name);
        }
    }

    /// Passes on what a server says, if it is for this client. Gives what is to be said to it in return, if that is
    /// not for the client to say.
    fn tell(&self, server: &Server, data: Bytes, held: Option<&Held>) -> Option<Bytes> {
        match Message::decode(&data) {
            Ok(Message::Notification { method, params }) if method == UPDATED => {
                let uri = params.and_then(uri_of).filter(|uri| server.resources.admits(uri))?;
                for name in given(&self.subscriptions(), &server.name, &uri) {
                    if let Some(message) = renamed(&data, &name) {
                        self.desk.say(&message);
                    }
                }
                None
            }
            Ok(Message::Notification { method, .. }) => {
                if Topic::of(&method).is_some() {
                    self.mcp.outdated(server, &method);
                }
                self.pass(server, data, held)
            }
            Ok(Message::Request { .. }) => self.pass(server, data, held),
            _ => None,
        }
    }

    fn pass(&self, server: &Server, data: Bytes, held: Option<&Held>) -> Option<Bytes> {
        let mut rewrite = Rewrite::routed_from(self.merged.then_some(server));
        if let Some(held) = held {
            (rewrite.route, rewrite.direct) = (Some(held.asks.clone()), false);
        }
        match rewrite.apply(data, server) {
            Rewritten::Pass(message) => {
                self.desk.say(&message);
                None
            }
            Rewritten::Reply(reply) => Some(reply),
            _ => None,
        }
    }
}

/// A server that is heard, over what, and what it is asked to tell.
struct Heard {
    server: Arc<Server>,
    over: Over,
    wanted: Wanted,
}

enum Next {
    Told(Option<Told>),
    Prepared((Arc<Server>, Option<Over>)),
    News(Notice),
    /// So much time has passed.
    Look(Duration),
}

/// Finds out how `server` is to be heard; `None` if it has nothing to say but in answers.
async fn prepare<P: Platform>(
    mcp: &Mcp<P>,
    client: Client,
    server: Arc<Server>,
    after: Duration,
) -> (Arc<Server>, Option<Over>) {
    if !after.is_zero() {
        mcp.platform.clock().sleep(after).await;
    }
    loop {
        match over(mcp, &client, &server).await {
            Some(over) => return (server, over),
            None => mcp.platform.clock().sleep(AGAIN).await,
        }
    }
}

/// `None` if the server cannot be asked now.
async fn over<P: Platform>(mcp: &Mcp<P>, client: &Client, server: &Arc<Server>) -> Option<Option<Over>> {
    let profile = mcp.profile(server).await.ok()?;
    if profile.revision_for(Era::Legacy).era() == Era::Modern {
        return Some(Some(Over::Dedicated));
    }
    if profile.http_sse {
        return Some(Some(Over::Line(Arc::new(client.clone()))));
    }
    match mcp.holder(server, client, profile.sessions) {
        Holder::Pool(..) if profile.sessions => Some(Some(Over::Dedicated)),
        Holder::Pool(..) => Some(None),
        holder @ Holder::Client(_) => {
            let session = mcp.held(server, &holder).await.ok()?;
            Some(session.id.is_some().then_some(Over::Own(session)))
        }
    }
}
