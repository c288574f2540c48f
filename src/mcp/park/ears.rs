//! Subscriptions that hear the session which their client's calls go over.
//!
//! What a call changes in a session with a legacy server, such as a subscription that it toggles, is told in that session
//! and nowhere else. Calls of a client that can be asked go over sessions that are kept here, so its
//! subscriptions are heard over one of these ([`Hear`]): the one that is taken for the next call, too, when it is free.
//! What its server asks while no call goes over it is **never** the client's business, and is declined.
//!
//! A session with an HTTP+SSE server has one stream for all that it says. Whoever reads it tells the others what is theirs:
//! the call that goes over it, or a subscription while it is free.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker, ready};

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::slot::{Slot, sweep};
use crate::config::plan::Server;
use crate::fault::Fault;
use crate::mcp::feed::{Topic, UPDATED, Unsubscribed};
use crate::mcp::http_sse::{declined, own_id};
use crate::mcp::mailbox::{Mailbox, Said, Work};
use crate::mcp::memory::{UpstreamSession, lock};
use crate::mcp::tail::Log;
use crate::mcp::upstream::{Content, ERROR_BODY, content, refused};
use crate::mcp::{Mcp, forgotten};
use crate::platform::Platform;
use crate::wire::jsonrpc::{Message, quote};
use crate::wire::sse::Event;

/// What a subscription may be behind before it is ended: it comes back, and is told that it may have missed something.
const BACKLOG: usize = 256 * 1024;
/// The first event of what is said: the resources that the server has taken the subscription of, as a JSON array.
pub const AGREED: &str = "agreed";
/// How often another session is tried where one turns out to be over.
const TRIES: usize = 3;

/// The letter of a subscription. Nothing is answered if there is no session that has a stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hear {
    /// The server's name.
    pub server: String,
    /// The client's capabilities.
    pub capabilities: Box<RawValue>,
    /// The client's name and version.
    pub client_info: Box<RawValue>,
    /// The resources that it subscribes to.
    pub uris: Vec<String>,
}

/// A subscription that has been taken on.
pub struct Listener {
    hear: Hear,
    log: Log,
}

/// Who hears one session.
#[derive(Debug)]
pub(super) struct Ears {
    session: UpstreamSession,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ears: Vec<Ear>,
    over: bool,
    wakers: Vec<Waker>,
}

/// One of those who hear.
#[derive(Debug)]
struct Ear {
    log: Log,
    /// The resources that it is subscribed to.
    uris: Vec<String>,
    /// What has been asked of the server on its one stream, by the request's id as JSON, and not been answered.
    asked: Vec<(String, String)>,
}

impl Ear {
    /// It is subscribed to what there is.
    fn agree(&self) {
        let taken = serde_json::to_vec(&self.uris).unwrap_or_default();
        self.log.push(Event { event: AGREED.to_owned(), ..Event::message(taken.into()) }.encode());
    }
}

/// Whose session is heard keeps this; without it, it is heard no more.
#[derive(Debug)]
pub(super) struct Heard(Arc<Ears>);

impl Drop for Heard {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Heard {
    pub(super) fn new(session: &UpstreamSession) -> Self {
        Self(Arc::new(Ears { session: session.clone(), inner: Mutex::default() }))
    }

    pub(super) fn ears(&self) -> &Arc<Ears> {
        &self.0
    }
}

impl Ears {
    /// Whether it can be heard no more.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.inner).over
    }

    /// Whether anybody hears it.
    pub(super) fn is_heard(&self) -> bool {
        !lock(&self.inner).ears.is_empty()
    }

    /// Tells everybody who hears what the server says to no call.
    pub(super) fn tell(&self, data: &Bytes) {
        let ears = &mut lock(&self.inner).ears;
        match Message::decode(data) {
            Ok(Message::Notification { method, .. }) if Topic::of(&method).is_some() || method == UPDATED => {
                for Ear { log, .. } in ears {
                    log.push(Event::message(data.clone()).encode());
                    if log.room(BACKLOG).now_or_never().is_none() {
                        log.end();
                    }
                }
            }
            Ok(Message::Response { id: Some(id), outcome }) => {
                for ear in ears {
                    let Some(at) = ear.asked.iter().position(|(asked, _)| asked == id.get()) else {
                        continue;
                    };
                    let (_, uri) = ear.asked.swap_remove(at);
                    if outcome.is_err() {
                        ear.uris.retain(|other| *other != uri);
                    }
                    if ear.asked.is_empty() {
                        ear.agree();
                    }
                }
            }
            _ => {}
        }
    }

    /// Things are otherwise than they were: whoever waits looks again.
    pub(super) fn wake(&self) {
        lock(&self.inner).wakers.drain(..).for_each(Waker::wake);
    }

    fn wait(&self, waker: &Waker) {
        let wakers = &mut lock(&self.inner).wakers;
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn end(&self) {
        let mut inner = lock(&self.inner);
        inner.over = true;
        inner.ears.drain(..).for_each(|ear| ear.log.end());
        inner.wakers.drain(..).for_each(Waker::wake);
    }

    /// One more hears; `false` if it is too late for that.
    fn add(&self, log: &Log, uris: &[String]) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.over {
            inner.ears.push(Ear { log: log.clone(), uris: uris.to_vec(), asked: Vec::new() });
        }
        !inner.over
    }

    /// What is to be done with one of those who hear.
    fn at<T>(&self, log: &Log, act: impl FnOnce(&mut Ear) -> T) -> Option<T> {
        lock(&self.inner).ears.iter_mut().find(|ear| ear.log.is_same(log)).map(act)
    }

    /// One hears no more; gives those of its resources that nobody else is subscribed to.
    fn remove(&self, log: &Log) -> Vec<String> {
        let mut inner = lock(&self.inner);
        let at = inner.ears.iter().position(|ear| ear.log.is_same(log));
        let mut uris = at.map(|at| inner.ears.swap_remove(at).uris).unwrap_or_default();
        uris.retain(|uri| !inner.ears.iter().any(|ear| ear.uris.contains(uri)));
        inner.wakers.drain(..).for_each(Waker::wake);
        uris
    }
}

/// Takes on a subscription.
pub fn begin<P: Platform>(mailbox: &Mailbox<P>, hear: Hear) -> (Said, Work) {
    let log = Log::once();
    let Some(tail) = log.tail(0) else { return (Said::nothing(), Work::None) };
    lock(&mailbox.parked.0).hearing += 1;
    (Said::Tail(false, tail), Work::Hear(Box::new(Listener { hear, log })))
}

/// Hears a session for as long as somebody reads.
pub async fn run<P: Platform>(mcp: Mcp<P>, mailbox: Arc<Mailbox<P>>, listener: Listener) {
    let Listener { hear, log } = listener;
    let server = mcp.plan.server(&hear.server).cloned();
    if let Some(server) = &server {
        heard(&mcp, &mailbox, server, &hear, &log).await;
    }
    log.end();
    let sweeps = {
        let mut inner = lock(&mailbox.parked.0);
        inner.hearing = inner.hearing.saturating_sub(1);
        !inner.idle.is_empty() && !std::mem::replace(&mut inner.sweeping, true)
    };
    if let Some(server) = server.filter(|_| sweeps) {
        sweep(&mcp, &mailbox, &server).await;
    }
}

async fn heard<P: Platform>(
    mcp: &Mcp<P>,
    mailbox: &Mailbox<P>,
    server: &Arc<Server>,
    hear: &Hear,
    log: &Log,
) {
    for _ in 0..TRIES {
        // Boxed: what is heard for long need not make room for how it began.
        let Ok(Some(ears)) = Box::pin(attend(mcp, mailbox, server, hear, log)).await else { return };
        let old = ears.session.endpoint.is_some();
        let mut listens = pin!(listen(mcp, mailbox, server, &ears, log));
        let subscribed = if old {
            // The answers come on the stream.
            let subscribes = pin!(subscribe_old(mcp, server, &ears, log));
            match select(subscribes, listens.as_mut()).await {
                Either::Left((subscribed, _)) => subscribed,
                // The stream has broken.
                Either::Right(_) if log.is_read() => continue,
                Either::Right(_) => return,
            }
        } else {
            let taken = Box::pin(mcp.subscribe_at(server, &ears.session, &hear.uris)).await;
            taken.map(|taken| {
                _ = ears.at(log, |ear| {
                    ear.uris = taken;
                    ear.agree();
                });
            })
        };
        match subscribed {
            Ok(()) => return listens.await,
            Err(Unsubscribed::Lost) => {
                // Whoever else hears it comes back.
                ears.remove(log);
                ears.end();
                lock(&mailbox.parked.0).idle.retain(|slot| slot.session != ears.session);
            }
            Err(Unsubscribed::Failed(_)) => {
                ears.remove(log);
                return;
            }
        }
    }
}

/// Asks for the resources of one of those who hear a session with an HTTP+SSE server.
async fn subscribe_old<P: Platform>(
    mcp: &Mcp<P>,
    server: &Arc<Server>,
    ears: &Ears,
    log: &Log,
) -> Result<(), Unsubscribed> {
    let memory = mcp.memory.server(server);
    let asked = ears.at(log, |ear| {
        let asks = ear.uris.iter().map(|uri| (format!("\"{}\"", own_id(&memory)), uri.clone()));
        ear.asked = asks.collect();
        if ear.asked.is_empty() {
            ear.agree();
        }
        ear.asked.clone()
    });
    for (id, uri) in asked.unwrap_or_default() {
        let body = asks(&id, "resources/subscribe", &uri);
        let mut answered = mcp.put_in(server, body, &ears.session).await.map_err(Unsubscribed::Failed)?;
        let status = answered.status;
        // Some answer where they are asked, as later revisions do.
        if content(&answered.headers) == Content::Json {
            ears.tell(&answered.reader.all(ERROR_BODY).await.unwrap_or_default());
        }
        let waits = |ear: &mut Ear| ear.asked.iter().any(|(asked, _)| *asked == id);
        if !status.is_success() && ears.at(log, waits) == Some(true) {
            let refused = Unsubscribed::Failed(refused(server, status));
            return Err(if forgotten(status) { Unsubscribed::Lost } else { refused });
        }
    }
    Ok(())
}

/// A request of our own about a resource; `id` is JSON.
fn asks(id: &str, method: &str, uri: &str) -> Bytes {
    let uri = quote(uri);
    let uri = String::from_utf8_lossy(&uri);
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{{\"uri\":{uri}}}}}").into()
}

async fn listen<P: Platform>(
    mcp: &Mcp<P>,
    mailbox: &Mailbox<P>,
    server: &Arc<Server>,
    ears: &Arc<Ears>,
    log: &Log,
) {
    while let Some(messages) = next(mailbox, ears, log).await {
        for data in messages {
            if let Ok(Message::Request { id, method, .. }) = Message::decode(&data) {
                mcp.tell(server, declined(id, &method), &ears.session).await;
            }
            ears.tell(&data);
        }
    }
    let lost = ears.is_over();
    let left = ears.remove(log);
    for uri in left.iter().filter(|_| !lost) {
        // A server that does not take it ends the session later.
        if ears.session.endpoint.is_some() {
            let id = format!("\"{}\"", own_id(&mcp.memory.server(server)));
            mcp.tell(server, asks(&id, "resources/unsubscribe", uri), &ears.session).await;
        } else {
            let params = format!("{{\"uri\":{}}}", String::from_utf8_lossy(&quote(uri)));
            let _ = mcp.ask(server, "resources/unsubscribe", &params, Some(&ears.session)).await;
        }
    }
}

/// Makes `log` one of those who hear a session: the one that is heard already, or one that is free, or one that a call goes
/// over, or a new one. `None` if there is none with a stream.
async fn attend<P: Platform>(
    mcp: &Mcp<P>,
    mailbox: &Mailbox<P>,
    server: &Arc<Server>,
    hear: &Hear,
    log: &Log,
) -> Result<Option<Arc<Ears>>, Fault> {
    let joined = |inner: &mut super::Inner<P>| {
        let free = inner.idle.iter_mut().rev().filter_map(Slot::heard);
        let busy = inner.running.values().filter_map(|running| running.ears.clone());
        let mut all = inner.heard.clone().into_iter().chain(free).chain(busy);
        inner.heard = all.find(|ears| ears.add(log, &hear.uris));
        inner.heard.clone()
    };
    loop {
        let opened = {
            let mut inner = lock(&mailbox.parked.0);
            if let Some(ears) = joined(&mut inner) {
                return Ok(Some(ears));
            }
            let Some(waiting) = &mut inner.opening else {
                inner.opening = Some(Vec::new());
                break;
            };
            let (sender, opened) = oneshot::channel();
            waiting.push(sender);
            opened
        };
        // Whatever keeps one from a session keeps the others from it, too.
        if opened.await.is_err() {
            return Ok(None);
        }
    }
    let opening = Opening(mailbox);
    let slot = Slot::open(mcp, server, hear.capabilities.get(), hear.client_info.get()).await?;
    let mut inner = lock(&mailbox.parked.0);
    inner.idle.push(slot);
    let ears = joined(&mut inner);
    // Nobody else begins to open one until this is over.
    let waiting = inner.opening.replace(Vec::new()).filter(|_| ears.is_some());
    drop(inner);
    drop(opening);
    waiting.into_iter().flatten().for_each(|waits| _ = waits.send(()));
    Ok(ears)
}

/// A session is being opened that more than one may wait for. They are told that there is none when this is dropped.
struct Opening<'a, P: Platform>(&'a Mailbox<P>);

impl<P: Platform> Drop for Opening<'_, P> {
    fn drop(&mut self) {
        lock(&self.0.parked.0).opening = None;
    }
}

/// What the server says next while no call goes over the session; `None` when nobody reads `log` any more, or the session
/// is over.
async fn next<P: Platform>(mailbox: &Mailbox<P>, ears: &Arc<Ears>, log: &Log) -> Option<VecDeque<Bytes>> {
    std::future::poll_fn(|context| {
        if log.is_ended() || ears.is_over() || pin!(log.unread()).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        ears.wait(context.waker());
        let mut inner = lock(&mailbox.parked.0);
        let own = inner.idle.iter_mut().find(|slot| slot.is_heard_by(ears));
        // Otherwise a call goes over it, which hears it and says so.
        let Some(slot) = own else { return Poll::Pending };
        let messages = ready!(slot.poll_news(context));
        if !messages.is_empty() {
            return Poll::Ready(Some(messages));
        }
        if ears.session.endpoint.is_some() {
            inner.idle.retain(|slot| !slot.is_heard_by(ears));
        } else {
            slot.lose_news();
        }
        Poll::Ready(None)
    })
    .await
}
