//! The sender's side: a letter goes into its owner's inbox, and what is said to it is heard.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};

use super::record::{Inbox, Letter, Saying};
use super::{
    BEAT, CROWDED, INBOX, LATE, LEASE, LETTERS, PIECE, Pace, Polled, RECORD, SMALL, TRIES, id, inbox_key,
    piece_key, said_key,
};
use crate::mcp::mailbox;
use crate::mcp::tail::Log;
use crate::platform::{Clock as _, Platform, SeamError, StateStore as _, Swap, Timestamp};

/// What may wait to be read here before no more is fetched.
const BACKLOG: usize = 256 * 1024;
/// An owner that lives takes a letter within [`LATE`]; one that has not for so long is gone. Time in which the sender could
/// not look either, as when the whole machine stands still, does not count.
const UNTAKEN: Duration = Duration::from_secs(3);
/// How often it is looked meanwhile whether the letter is still there.
const ANXIOUS: Duration = Duration::from_secs(1);

/// A letter that lies in an inbox, or did.
pub(super) struct Following {
    id: String,
    key: String,
    letter: Bytes,
    seat: String,
    since: Timestamp,
}

/// What a look at the owner's inbox shows.
enum Seen {
    /// The owner lives, and has taken the letter or not.
    Lives(bool),
    /// It is gone, and the letter was still there: it has been taken back.
    TakenBack,
    /// It is gone, with the letter.
    Lost,
}

impl<P: Platform> Polled<P> {
    /// Puts `letter` into the inbox of `seat`; `None` if nobody is there.
    pub(super) async fn hand_over(
        &self,
        platform: &P,
        seat: &str,
        key: &str,
        letter: &Bytes,
    ) -> Result<Option<Following>, SeamError> {
        let record = inbox_key(seat);
        let began = platform.clock().now();
        let (id, mut pace, mut pieces) = (id(platform), Pace::default(), 0);
        let mut text = match std::str::from_utf8(letter) {
            Ok(text) if text.len() <= SMALL => text.to_owned(),
            _ => String::new(),
        };
        loop {
            let Some(held) = platform.store().load(&record).await? else { return Ok(None) };
            let now = platform.clock().now();
            let Some(mut inbox) = Inbox::read(&held.value).filter(|inbox| !inbox.closed) else {
                return Ok(None);
            };
            if now.since(inbox.beat) >= LEASE {
                // Gone without a word. Should it come back it finds this.
                let closed = Inbox { closed: true, beat: inbox.beat, letters: inbox.letters };
                match platform.store().swap(&record, Some(held.version), closed.write(), RECORD).await? {
                    Swap::Done(_) => return Ok(None),
                    Swap::Stale => continue,
                }
            }
            if inbox.letters.len() >= LETTERS || inbox.size() + text.len() > INBOX {
                if now.since(began) >= LEASE / 2 {
                    let message = "its owner has too many letters already; try again";
                    return Err(SeamError::Host(message.to_owned()));
                }
                platform.clock().sleep(pace.next(platform, LATE)).await;
                continue;
            }
            // Everybody who has a letter reads and writes all of an inbox: a crowded one holds no more than their names.
            if pieces == 0 && (text.is_empty() || inbox.size() + text.len() > CROWDED) {
                text.clear();
                for (number, piece) in letter.chunks(PIECE).enumerate() {
                    let piece = Bytes::copy_from_slice(piece);
                    platform.store().swap(&piece_key(&id, number), None, piece, RECORD).await?;
                    pieces = number + 1;
                }
                continue;
            }
            let own = Letter { id: id.clone(), key: key.to_owned(), text: text.clone(), pieces, gone: false };
            inbox.letters.push(own);
            if let Swap::Stale =
                platform.store().swap(&record, Some(held.version), inbox.write(), RECORD).await?
            {
                // Many who write at once would else keep each other from it, and the owner from reading.
                platform.clock().sleep(pace.next(platform, LATE)).await;
            } else {
                return Ok(Some(Following {
                    id,
                    key: key.to_owned(),
                    letter: letter.clone(),
                    seat: seat.to_owned(),
                    since: now,
                }));
            }
        }
    }

    /// Hears what is said until it ends. Gives the letter back if nobody has taken it.
    pub(super) async fn follow(
        &self,
        platform: &P,
        following: Following,
        log: &Log,
    ) -> Option<(String, Bytes)> {
        let Following { id, key, letter, seat, since } = &following;
        let record = said_key(id);
        let (mut pace, mut heard, mut looked) = (Pace::default(), 0_u64, *since);
        // When the owner was seen, by its clock; until then, when the letter was sent.
        let mut seen = *since;
        let (mut waited, mut last, mut taken) = (Duration::ZERO, *since, false);
        loop {
            let pause = pace.next(platform, LATE);
            let room = pin!(async {
                log.room(BACKLOG).await;
                platform.clock().sleep(pause).await;
            });
            // Whoever reads slowly is there all the same, which the owner wants to hear.
            let late = pin!(platform.clock().sleep(BEAT));
            let waits = select(room, late);
            let full = match select(pin!(log.unread()), waits).await {
                Either::Left(_) => {
                    self.stop_telling(platform, &following).await;
                    return None;
                }
                Either::Right((waited, _)) => matches!(waited, Either::Right(_)),
            };
            let now = platform.clock().now();
            waited += now.since(last).min(pause * 2);
            last = now;
            let held = platform.store().load(&record).await.ok().flatten();
            if let Some((version, mut saying)) =
                held.and_then(|held| Some((held.version, Saying::read(&held.value)?)))
            {
                if saying.moved {
                    let _ = platform.store().swap(&record, Some(version), Bytes::new(), Duration::ZERO).await;
                    return Some((key.clone(), letter.clone()));
                }
                (seen, taken) = (seen.max(saying.said), true);
                let known = usize::try_from(heard.saturating_sub(saying.heard)).unwrap_or(usize::MAX);
                let news = saying.bytes.get(known..).filter(|_| !full).map(Bytes::copy_from_slice);
                let news = news.unwrap_or_default();
                if !news.is_empty() {
                    heard += news.len() as u64;
                    log.push(news);
                    pace.quicken();
                }
                if saying.ended && !full {
                    let _ = platform.store().swap(&record, Some(version), Bytes::new(), Duration::ZERO).await;
                    log.end();
                    return None;
                }
                if !full && !saying.bytes.is_empty() || now.since(saying.asked) >= BEAT {
                    if !full {
                        saying.bytes.clear();
                        saying.heard = heard;
                    }
                    saying.asked = now;
                    // If the owner was quicker there is more to be heard; what was heard is not heard twice.
                    if let Ok(Swap::Stale) =
                        platform.store().swap(&record, Some(version), saying.write(), RECORD).await
                    {
                        pace.quicken();
                    }
                }
            }
            let untaken = !taken && waited >= UNTAKEN;
            if untaken && now.since(looked) >= ANXIOUS
                || now.since(seen) >= BEAT * 2 && now.since(looked) >= BEAT
            {
                looked = now;
                let silent = now.since(seen) >= LEASE;
                match self.seen_there(platform, seat, id, untaken, silent).await {
                    Seen::Lives(gone) => taken = taken || gone,
                    Seen::TakenBack => return Some((key.clone(), letter.clone())),
                    Seen::Lost => {
                        if let Some(event) = mailbox::lost(letter) {
                            log.push(event);
                        }
                        log.end();
                        return None;
                    }
                }
            }
        }
    }

    /// How it stands with the owner, which has said nothing for a while: `silent`, for longer than anybody who lives;
    /// `untaken`, it had the time to take the letter.
    async fn seen_there(&self, platform: &P, seat: &str, id: &str, untaken: bool, silent: bool) -> Seen {
        let record = inbox_key(seat);
        for _ in 0..TRIES {
            let held = match platform.store().load(&record).await {
                Ok(held) => held,
                Err(_) => return Seen::Lives(false),
            };
            let open = held.and_then(|held| Some((held.version, Inbox::read(&held.value)?)));
            let Some((version, mut inbox)) = open else { return Seen::Lost };
            let now = platform.clock().now();
            let there = inbox.letters.iter().any(|letter| letter.id == id);
            let dead = inbox.closed || now.since(inbox.beat) >= LEASE || untaken && there;
            if !dead {
                // It lives, but a letter that it took and says nothing about is one that it lost.
                return if silent && !there { Seen::Lost } else { Seen::Lives(!there) };
            }
            if !there {
                return Seen::Lost;
            }
            inbox.letters.retain(|letter| letter.id != id);
            inbox.closed = true;
            match platform.store().swap(&record, Some(version), inbox.write(), RECORD).await {
                Ok(Swap::Done(_)) => return Seen::TakenBack,
                Ok(Swap::Stale) => {}
                Err(_) => return Seen::Lives(false),
            }
        }
        Seen::Lives(false)
    }

    /// Tells the owner that nobody listens any more. If it cannot be told, it finds out by itself, later.
    async fn stop_telling(&self, platform: &P, following: &Following) {
        let record = inbox_key(&following.seat);
        for _ in 0..TRIES {
            let Ok(Some(held)) = platform.store().load(&record).await else { return };
            let Some(mut inbox) = Inbox::read(&held.value).filter(|inbox| !inbox.closed) else { return };
            let (id, key) = (following.id.clone(), String::new());
            inbox.letters.push(Letter { id, key, text: String::new(), pieces: 0, gone: true });
            match platform.store().swap(&record, Some(held.version), inbox.write(), RECORD).await {
                Ok(Swap::Stale) => {}
                _ => return,
            }
        }
    }
}
