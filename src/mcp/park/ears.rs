//! Subscriptions that hear the session which their client's calls go over.
//!
//! What a call changes in a session with a legacy server, such as a subscription that it toggles, is told on that session's
//! own stream and nowhere else. Calls of a client that can be asked go over sessions that are kept here, so its
//! subscriptions are heard over one of these ([`Hear`]): the one that is taken for the next call, too, when it is free.
//! What its server asks while no call goes over it is **never** the client's business, and is declined.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::next_news;
use super::slot::{Slot, sweep};
use crate::config::plan::Server;
use crate::fault::Fault;
use crate::mcp::Mcp;
use crate::mcp::feed::Unsubscribed;
use crate::mcp::http_sse::declined;
use crate::mcp::mailbox::{Mailbox, Said, Work};
use crate::mcp::memory::{UpstreamSession, lock};
use crate::mcp::tail::Log;
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
    /// Each with the resources that it is subscribed to.
    logs: Vec<(Log, Vec<String>)>,
    over: bool,
    wakers: Vec<Waker>,
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
    /// Whether nobody hears it any more.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.inner).over
    }

    /// Tells everybody who hears what the server says to no call.
    pub(super) fn tell(&self, data: &Bytes) {
        if matches!(Message::decode(data), Ok(Message::Notification { .. })) {
            for (log, _) in &lock(&self.inner).logs {
                log.push(Event::message(data.clone()).encode());
                if log.room(BACKLOG).now_or_never().is_none() {
                    log.end();
                }
            }
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
        inner.logs.drain(..).for_each(|(log, _)| log.end());
        inner.wakers.drain(..).for_each(Waker::wake);
    }

    /// One more hears; `false` if it is too late for that.
    fn add(&self, log: &Log, uris: Vec<String>) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.over {
            inner.logs.push((log.clone(), uris));
        }
        !inner.over
    }

    /// One hears no more; gives those of its resources that nobody else is subscribed to. Without anybody it is over.
    fn remove(&self, log: &Log) -> Vec<String> {
        let mut inner = lock(&self.inner);
        let at = inner.logs.iter().position(|(other, _)| other.is_same(log));
        let mut uris = at.map(|at| inner.logs.swap_remove(at).1).unwrap_or_default();
        uris.retain(|uri| !inner.logs.iter().any(|(_, others)| others.contains(uri)));
        inner.over |= inner.logs.is_empty();
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
        match Box::pin(mcp.subscribe_at(server, &ears.session, &hear.uris)).await {
            Ok(taken) => {
                let taken = serde_json::to_vec(&taken).unwrap_or_default();
                log.push(Event { event: AGREED.to_owned(), ..Event::message(taken.into()) }.encode());
                return listen(mcp, mailbox, server, &ears, log).await;
            }
            Err(Unsubscribed::Lost) => {
                ears.remove(log);
                lock(&mailbox.parked.0).idle.retain(|slot| slot.session != ears.session);
            }
            Err(Unsubscribed::Failed(_)) => {
                ears.remove(log);
                return;
            }
        }
    }
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
        let params = format!("{{\"uri\":{}}}", String::from_utf8_lossy(&quote(uri)));
        // A server that does not take it ends the session later.
        let _ = mcp.ask(server, "resources/unsubscribe", &params, Some(&ears.session)).await;
    }
}

/// Makes `log` one of those who hear a session: the one that is heard already, or one that is free, or a new one. `None`
/// if there is none with a stream.
async fn attend<P: Platform>(
    mcp: &Mcp<P>,
    mailbox: &Mailbox<P>,
    server: &Arc<Server>,
    hear: &Hear,
    log: &Log,
) -> Result<Option<Arc<Ears>>, Fault> {
    let joined = |inner: &mut super::Inner<P>| {
        let known = inner.heard.as_ref().filter(|ears| ears.add(log, hear.uris.clone()));
        if let Some(ears) = known {
            return Some(ears.clone());
        }
        let free = inner.idle.iter_mut().rev().find_map(Slot::heard);
        let ears = free.filter(|ears| ears.add(log, hear.uris.clone()))?;
        inner.heard = Some(ears.clone());
        Some(ears)
    };
    if let Some(ears) = joined(&mut lock(&mailbox.parked.0)) {
        return Ok(Some(ears));
    }
    if mcp.profile(server).await?.http_sse {
        return Ok(None);
    }
    let slot = Slot::open(mcp, server, hear.capabilities.get(), hear.client_info.get()).await?;
    let mut inner = lock(&mailbox.parked.0);
    inner.idle.push(slot);
    Ok(joined(&mut inner))
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
        let mut messages = VecDeque::new();
        let came = match &mut slot.news {
            Some((reader, decoder)) => pin!(next_news(reader, decoder, &mut messages)).poll(context),
            None => Poll::Ready(None),
        };
        match came {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(first)) => {
                messages.push_front(first);
                Poll::Ready(Some(messages))
            }
            Poll::Ready(None) => {
                slot.lose_news();
                Poll::Ready(None)
            }
        }
    })
    .await
}
