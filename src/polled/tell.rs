//! The owner's side: what is said to a letter goes to whoever listens for it.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};

use super::record::Saying;
use super::{BEAT, LATE, LEASE, Pace, Polled, RECORD, SOON, said_key};
use crate::mcp::mailbox::Said;
use crate::mcp::memory::lock;
use crate::mcp::tail::{Log, Tail};
use crate::platform::{Clock as _, Platform, StateStore as _, Swap};

/// Where what is said goes.
pub(super) enum Telling {
    /// To another instance, which listens for what is said to the letter with this id.
    ///
    /// The last part ends when nobody does.
    Record(String, Said, Tail),
    /// To a reader in this one.
    Log(Said, Log),
}

/// What may wait to be heard before no more is asked of the owner.
const BACKLOG: usize = 256 * 1024;
/// The bytes that one record holds, at most; the store takes a mebibyte.
const RECORD_BYTES: usize = 768 * 1024;

impl<P: Platform> Polled<P> {
    /// Tells until there is nothing more to say, or nobody listens.
    pub(super) async fn tell(&self, platform: &P, telling: Telling) {
        match telling {
            Telling::Log(mut said, log) => {
                loop {
                    log.room(BACKLOG).await;
                    match select(said.next(), pin!(log.unread())).await {
                        Either::Left((Some(Ok(bytes)), _)) => log.push(bytes),
                        _ => break,
                    }
                }
                log.end();
            }
            Telling::Record(id, said, gone) => {
                self.write_down(platform, &id, said, gone).await;
                lock(&self.state).told.remove(&id);
            }
        }
    }

    /// Writes down what is said to the letter `id`, until `gone` ends.
    async fn write_down(&self, platform: &P, id: &str, said: Said, mut gone: Tail) {
        let record = said_key(id);
        let mut said = Some(said);
        let (mut waiting, mut pace) = (BytesMut::new(), Pace::default());
        let began = platform.clock().now();
        let mut wrote = None;
        let mut behind = false;
        loop {
            // What comes in one breath goes in one piece.
            let patience = match &said {
                _ if behind => pace.next(platform, LATE),
                Some(_) if waiting.is_empty() => BEAT,
                _ => Duration::ZERO,
            };
            let mut late = pin!(platform.clock().sleep(patience));
            loop {
                let next = async {
                    match said.as_mut().filter(|_| waiting.len() < BACKLOG && !behind) {
                        Some(said) => said.next().await,
                        None => std::future::pending().await,
                    }
                };
                match select(pin!(next), select(late.as_mut(), gone.next())).await {
                    Either::Left((Some(Ok(bytes)), _)) => {
                        if waiting.is_empty() {
                            late.set(platform.clock().sleep(SOON / 5));
                        }
                        waiting.extend_from_slice(&bytes);
                    }
                    Either::Left((Some(Err(_)) | None, _)) => {
                        said = None;
                        break;
                    }
                    Either::Right((Either::Left(_), _)) => break,
                    Either::Right((Either::Right(_), _)) => {
                        let held = platform.store().load(&record).await.ok().flatten();
                        if let Some(held) = held {
                            let end = (Some(held.version), Bytes::new(), Duration::ZERO);
                            let _ = platform.store().swap(&record, end.0, end.1, end.2).await;
                        }
                        return;
                    }
                }
            }
            let now = platform.clock().now();
            let Ok(held) = platform.store().load(&record).await else { continue };
            let version = held.as_ref().map(|held| held.version);
            let saying = held.and_then(|held| Saying::read(&held.value));
            if saying.is_none() && wrote.is_some() {
                // It has passed its time, or whoever listened has heard enough.
                return;
            }
            let mut saying = saying.unwrap_or(Saying { asked: began, ..Saying::default() });
            if now.since(saying.asked) >= LEASE {
                return;
            }
            let room = RECORD_BYTES.saturating_sub(saying.bytes.len()).min(waiting.len());
            let before = saying.bytes.len();
            saying.bytes.extend_from_slice(waiting.get(..room).unwrap_or_default());
            saying.ended = said.is_none() && room == waiting.len();
            let due = wrote.is_none_or(|wrote| now.since(wrote) >= BEAT);
            if room > 0 || saying.ended || due {
                saying.said = now;
                match platform.store().swap(&record, version, saying.write(), RECORD).await {
                    Ok(Swap::Done(_)) => {
                        wrote = Some(now);
                        drop(waiting.split_to(room));
                        if saying.ended {
                            return;
                        }
                    }
                    // Whoever listens has heard something meanwhile.
                    Ok(Swap::Stale) => continue,
                    Err(_) => {}
                }
            }
            behind = before + room >= BACKLOG || !waiting.is_empty() && said.is_none();
            if !behind {
                pace.quicken();
            }
        }
    }

    /// Says that the letter `id` was not taken: its sender looks for the owner again.
    pub(super) async fn moved(&self, platform: &P, id: &str) {
        let saying = Saying { moved: true, said: platform.clock().now(), ..Saying::default() };
        let _ = platform.store().swap(&said_key(id), None, saying.write(), LEASE * 2).await;
    }
}
