//! Calls of a legacy client that run in one instance and are given up in another.
//!
//! Hanging up is what ends a call to a modern server, and only the instance that makes the call can do it. A client's
//! `notifications/cancelled`, or the end of its session, may reach any other. So a call that takes a while is watched:
//! the session's mailbox, which every instance tells, says when it is given up. Quick calls **never** ask.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::select;
use serde_json::value::RawValue;
use sha2::Digest as _;

use super::Mcp;
use super::mailbox::{Letter, Mailbox, Said, Work};
use super::memory::{Running, lock};
use super::session::Session;
use super::tail::Log;
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, Reach, StateStore as _, UpstreamBody};

/// A call that has taken so long is watched.
const SLOW: Duration = Duration::from_secs(1);
/// How often the mailbox is asked for one call, should the asking be interrupted.
const TRIES: u8 = 3;
/// Calls of one session that are watched at most.
const WATCHED: usize = 1024;
/// How long it is known of a call that it was given up before it was watched.
const MARKED: Duration = Duration::from_secs(60);
/// What is said when a call is given up.
const GIVEN_UP: &[u8] = b": given up\n";

/// The calls of a session that are watched, by their id as JSON.
#[derive(Debug, Default)]
pub struct Desk(Mutex<Vec<(String, Log)>>);

impl Desk {
    /// Whether none is.
    pub fn is_idle(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// The client has given up the call `id`.
    pub fn cancelled(&self, id: &RawValue) {
        lock(&self.0).iter().filter(|(known, _)| known == id.get()).for_each(|(_, log)| give_up(log));
    }

    /// The session is over.
    pub fn end(&self) {
        lock(&self.0).iter().for_each(|(_, log)| give_up(log));
    }
}

fn give_up(log: &Log) {
    log.push(Bytes::from_static(GIVEN_UP));
    log.end();
}

/// A call that is watched from now on.
pub struct Started(Log);

/// Watches the call `id`.
pub fn begin<P: Platform>(mailbox: &Mailbox<P>, id: &RawValue) -> (Said, Work) {
    let log = Log::once();
    let mut watched = lock(&mailbox.watched.0);
    let Some(tail) = log.tail(0).filter(|_| watched.len() < WATCHED) else {
        return (Said::nothing(), Work::None);
    };
    watched.push((id.get().to_owned(), log.clone()));
    (Said::Tail(true, tail), Work::Watch(Started(log)))
}

/// Forgets the call when nobody watches it any more.
pub async fn run<P: Platform>(mailbox: Arc<Mailbox<P>>, started: Started) {
    started.0.unread().await;
    lock(&mailbox.watched.0).retain(|(_, log)| log.is_read());
}

/// Where it is heard that a call is given up in another instance.
pub struct Watch<P: Platform> {
    mailbox: String,
    id: Box<RawValue>,
    body: Option<UpstreamBody<P>>,
    tries: u8,
}

impl<P: Platform> Watch<P> {
    /// Of the call `id` of a client's session.
    #[must_use]
    pub fn new(session: &Session, id: &RawValue) -> Self {
        Self { mailbox: session.mailbox(), id: id.to_owned(), body: None, tries: 0 }
    }

    /// Whether the call was given up in another instance, which knows it only by what it wrote into the store.
    pub async fn is_marked(&self, mcp: &Mcp<P>) -> bool {
        let store = mcp.platform.store();
        store.reach() == Reach::Near
            && store.load(&mark(&self.mailbox, &self.id)).await.is_ok_and(|mark| mark.is_some())
    }

    /// Resolves when the call is given up in another instance. Dropping the future loses nothing.
    async fn given_up(&mut self, mcp: &Mcp<P>, running: &Running) {
        let clock = mcp.platform.clock();
        while self.body.is_none() && self.tries < TRIES && mcp.platform.abilities().mailboxes {
            clock.sleep(SLOW.saturating_sub(clock.now().since(running.begun()))).await;
            self.tries += 1;
            self.body = mcp.post_letter(&self.mailbox, &Letter::Watch(self.id.clone())).await.ok();
            if self.is_marked(mcp).await {
                return;
            }
        }
        if let Some(body) = &mut self.body {
            while let Some(Ok(chunk)) = body.next().await {
                if chunk.windows(GIVEN_UP.len()).any(|part| part == GIVEN_UP) {
                    return;
                }
            }
        }
        std::future::pending().await
    }
}

fn mark(mailbox: &str, id: &RawValue) -> String {
    let hash = sha2::Sha256::digest(id.get());
    format!("given-up/{mailbox}/{}", super::hex(hash.get(..12).unwrap_or_default()))
}

impl<P: Platform> Mcp<P> {
    /// Notes that the client has given up a call that does not run here.
    pub(super) async fn mark_given_up(&self, mailbox: &str, id: &RawValue) -> Result<(), Fault> {
        let store = self.platform.store();
        if store.reach() == Reach::Near {
            let host = |error| Fault::new(Kind::Host, format!("the state store: {error}"));
            store.swap(&mark(mailbox, id), None, Bytes::from_static(b"1"), MARKED).await.map_err(host)?;
        }
        Ok(())
    }

    /// Resolves when the client has given up the call, here or in another instance; it is noted as given up then.
    pub(super) async fn given_up(&self, running: &Running, watch: Option<&mut Watch<P>>) {
        let here = std::pin::pin!(running.cancelled(self.platform.clock()));
        let elsewhere = std::pin::pin!(async {
            match watch {
                Some(watch) => watch.given_up(self, running).await,
                None => std::future::pending().await,
            }
        });
        select(here, elsewhere).await;
        running.give_up();
    }
}
