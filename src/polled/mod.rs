//! Mailboxes for hosts where nothing outlives a request and nobody can push: the owner of a key is found, written to and
//! heard through the state store, by asking it again and again.
//!
//! The owner of a key lives in the instance whose request wrote the first letter to it, for as long as that has work
//! for it: a request goes on behind its reply until the work is done. An instance that owns anything has a *seat*: a
//! record with its inbox, which it looks into while it works, and in which it says every few seconds that it lives.
//! Another instance that has a letter for the key puts it into that inbox, and looks for what is said to it in a
//! record of its own.
//!
//! | key | value | written by |
//! |---|---|---|
//! | `polled/owner/{key, hashed}` | which seat owns the key | the owner |
//! | `polled/inbox/{seat}` | letters that have not been taken, and when the owner was last seen | both |
//! | `polled/letter/{letter}/{n}` | a piece of a letter that is too large for an inbox | whoever sends it |
//! | `polled/said/{letter}` | what is said to the letter and has not been heard, and when both were last seen | both |
//!
//! Invariant: a letter is worked on at most once, and what is said to it is heard in order. Every write is a
//! compare-and-swap, so that taking letters out of an inbox and putting them in cannot miss each other; who was
//! thought dead and is not finds its seat closed, and owns nothing from then on. A letter that no owner has taken is
//! taken back by its sender; if the owner is gone with it, the sender is told to begin anew.
//!
//! It **never** pushes and never waits without an end: pauses grow from [`SOON`] to [`LATE`], each a little different,
//! and whoever has not been seen for [`LEASE`] is gone. What has passed its time is left to the store to forget.

mod follow;
mod link;
mod record;
mod tell;

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, future::join};

use crate::gateway::Gateway;
use crate::mcp::mailbox::{self, Mailbox, Said};
use crate::mcp::memory::lock;
use crate::mcp::tail::{Log, Tail};
use crate::platform::{
    Clock as _, Entropy as _, Platform, SeamError, StateStore as _, Swap, Timestamp, Version,
};
use crate::relay::through;
use crate::tunnel::dock::Dock;
use follow::Following;
use http::{Request, Response};
pub use link::Asked;
use record::{Inbox, Letter, Owner};
use tell::Telling;

/// The first pause of whoever waits for something.
pub const SOON: Duration = Duration::from_millis(5);
/// The longest one, while something is likely to come.
pub const LATE: Duration = Duration::from_millis(250);
/// How often everybody says that they live.
pub const BEAT: Duration = Duration::from_secs(5);
/// Who has not been seen for so long is gone.
pub const LEASE: Duration = Duration::from_secs(20);

/// How long records live that nobody touches.
const RECORD: Duration = Duration::from_secs(10 * 60);
/// How long it is known who owns a key; renewed at half of it.
const OWNED: Duration = Duration::from_secs(2 * 60 * 60);
/// Letters that an inbox holds, and the bytes of them.
const LETTERS: usize = 256;
const INBOX: usize = 512 * 1024;
/// A letter up to this size goes into the inbox itself, while all that is there has no more than so many bytes.
const SMALL: usize = 32 * 1024;
const CROWDED: usize = 40 * 1024;
/// A piece of a larger one.
const PIECE: usize = 512 * 1024;
/// The letters that an owner remembers having taken.
const TAKEN: usize = 1024;
/// How often a letter is tried to be brought to its owner while owners come and go.
const TRIES: usize = 16;

/// The mailboxes of one instance: those that it owns, and its way to those of others.
pub struct Polled<P: Platform> {
    state: Mutex<State<P>>,
    /// What tells this instance from others.
    place: std::sync::OnceLock<String>,
    /// Who looks into the inbox: one of the requests that have work.
    turn: Mutex<Turn>,
}

struct State<P: Platform> {
    seat: Option<Seat>,
    owned: HashMap<String, Owned<P>>,
    /// Letters that were taken lately, the oldest first.
    taken: VecDeque<String>,
    /// Letters that are being answered, and how to say that nobody listens any more.
    told: HashMap<String, Log>,
}

/// This instance as others see it.
#[derive(Clone)]
struct Seat {
    id: String,
    beat: Timestamp,
}

/// Whose turn it is to look into the inbox. It is told by the clock that somebody does, not by a lock: a request may be
/// forgotten by its host while it holds one, and then nobody would.
#[derive(Debug, Default)]
struct Turn {
    /// Requests that have had work so far, each of which has its number.
    requests: u64,
    holder: u64,
    /// When it was last heard of.
    at: Timestamp,
    pace: Pace,
}

/// What the owner of a key keeps: a mailbox, or where a companion dials in.
struct Kept<P: Platform> {
    mailbox: Arc<Mailbox<P>>,
    dock: Arc<Dock>,
}

impl<P: Platform> Default for Kept<P> {
    fn default() -> Self {
        Self { mailbox: Arc::default(), dock: Arc::default() }
    }
}

impl<P: Platform> Clone for Kept<P> {
    fn clone(&self) -> Self {
        Self { mailbox: self.mailbox.clone(), dock: self.dock.clone() }
    }
}

impl<P: Platform> Kept<P> {
    fn is_idle(&self) -> bool {
        self.mailbox.is_idle() && self.dock.is_idle()
    }

    /// Takes `letter` to the owner of `key`: what is said to it, and the work that it sets going.
    fn deliver(
        self,
        gateway: &Gateway<P>,
        key: &str,
        letter: &Bytes,
    ) -> (Said, impl Future<Output = ()> + use<P>) {
        match through::name(key) {
            None => {
                let (said, work) = gateway.deliver(self.mailbox, letter);
                (said, Either::Left(work))
            }
            Some(name) => {
                let (said, work) = link::answer(gateway.dock(name, self.dock), letter);
                (said, Either::Right(work))
            }
        }
    }
}

struct Owned<P: Platform> {
    kept: Kept<P>,
    /// The record that says so.
    version: Version,
    since: Timestamp,
}

/// How long to wait before looking again: longer each time that nothing was there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(SOON)
    }
}

impl Pace {
    fn quicken(&mut self) {
        self.0 = SOON;
    }

    /// The next pause, up to `longest`: a quarter more or less than due, so that many who wait do not ask all at once.
    fn next<P: Platform>(&mut self, platform: &P, longest: Duration) -> Duration {
        let pause = self.0.min(longest);
        self.0 = (self.0 * 3 / 2).min(longest);
        let mut random = [0];
        platform.entropy().fill(&mut random);
        pause * (192 + u32::from(random[0]) / 2) / 256
    }
}

/// A letter out of the inbox, and whom it is for.
struct Taken<P: Platform> {
    key: String,
    kept: Kept<P>,
    letter: Bytes,
    id: String,
    /// Ends when nobody listens to what is said any more.
    gone: Tail,
}

/// Where a letter goes.
enum Way<P: Platform> {
    /// To the owner, who is here.
    Here(Kept<P>),
    /// To nobody: there is no owner, and a new one would not know what the letter is about.
    Nowhere,
    /// Into the inbox of the owner.
    There(Following),
}

impl<P: Platform> Default for Polled<P> {
    fn default() -> Self {
        let state = State { seat: None, owned: HashMap::new(), taken: VecDeque::new(), told: HashMap::new() };
        Self { state: Mutex::new(state), place: std::sync::OnceLock::new(), turn: Mutex::default() }
    }
}

impl<P: Platform> std::fmt::Debug for Polled<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Polled")
    }
}

impl<P: Platform> Polled<P> {
    /// What tells this instance from others: the end of keys whose owner may as well be here.
    pub fn place(&self, platform: &P) -> &str {
        self.place.get_or_init(|| id(platform))
    }

    /// How many keys are owned here.
    pub fn owns(&self) -> usize {
        lock(&self.state).owned.len()
    }

    /// Hands `letter` to the owner of `key`: what is said to it, and work that must be run to its end whether or not
    /// anybody reads.
    ///
    /// # Errors
    /// When the store fails, or the owner takes no letters.
    pub async fn post(
        self: Arc<Self>,
        gateway: Gateway<P>,
        key: &str,
        letter: Bytes,
    ) -> Result<(Said, impl Future<Output = ()> + use<P>), SeamError> {
        let kept = match self.way(gateway.platform(), key, &letter, mailbox::founds(&letter)).await? {
            Way::Here(kept) => kept,
            Way::Nowhere => Kept::default(),
            Way::There(following) => {
                let log = Log::once();
                let said = log.tail(0).map_or(Said::nothing(), |tail| Said::Tail(false, tail));
                return Ok((said, Either::Right(self.followed(gateway, following, log))));
            }
        };
        let (said, work) = kept.deliver(&gateway, key, &letter);
        Ok((said, Either::Left(self.attend(gateway, key.to_owned(), work, None))))
    }

    /// Hands `request` to the owner of the link `key`: its response, and work that must be run to its end whether or not
    /// anybody waits for that.
    ///
    /// # Errors
    /// When the store fails, or the owner takes no requests.
    pub async fn ask(
        self: Arc<Self>,
        gateway: Gateway<P>,
        key: &str,
        request: Request<Bytes>,
    ) -> Result<
        (
            impl Future<Output = Result<Response<Asked<P>>, SeamError>> + use<P>,
            impl Future<Output = ()> + use<P>,
        ),
        SeamError,
    > {
        let letter = link::write(&request);
        let kept = match self.way(gateway.platform(), key, &letter, link::founds(&request)).await? {
            Way::Here(kept) => kept,
            Way::Nowhere => Kept::default(),
            Way::There(following) => {
                let log = Log::once();
                let said = log.tail(0).map_or(Said::nothing(), |tail| Said::Tail(false, tail));
                let work = self.followed(gateway, following, log);
                return Ok((Either::Left(link::response(said)), Either::Left(work)));
            }
        };
        let docked = gateway.dock(through::name(key).unwrap_or(key), kept.dock);
        let (answer, begun) = docked.clone().begin(request);
        let answer = async move { Ok(answer.await?.map(Asked::Here)) };
        let work = link::tend(docked, begun);
        Ok((Either::Right(answer), Either::Right(self.attend(gateway, key.to_owned(), work, None))))
    }

    /// Hears what is said elsewhere; or, if the owner has gone before it took the letter, here.
    async fn followed(self: Arc<Self>, gateway: Gateway<P>, following: Following, log: Log) {
        let mut following = following;
        for _ in 0..TRIES {
            let Some((key, letter)) = self.follow(gateway.platform(), following, &log).await else { return };
            let founds = match through::name(&key) {
                None => mailbox::founds(&letter),
                Some(_) => link::read(&letter).is_some_and(|request| link::founds(&request)),
            };
            let kept = match self.way(gateway.platform(), &key, &letter, founds).await {
                Ok(Way::There(next)) => {
                    following = next;
                    continue;
                }
                Ok(Way::Here(kept)) => kept,
                Ok(Way::Nowhere) => Kept::default(),
                Err(_) => break,
            };
            let (said, work) = kept.deliver(&gateway, &key, &letter);
            return self.attend(gateway, key, work, Some(Telling::Log(said, log))).await;
        }
        log.end();
    }

    /// Finds the owner of `key`; or becomes it, if the letter `founds` something.
    async fn way(&self, platform: &P, key: &str, letter: &Bytes, founds: bool) -> Result<Way<P>, SeamError> {
        let record = owner_key(key);
        let mut known = false;
        for _ in 0..TRIES {
            if let Some(kept) = self.held(platform, key) {
                return Ok(Way::Here(kept));
            }
            let own = key.ends_with(self.place(platform));
            // Nobody else takes a key that ends in this instance's name.
            let held =
                if own && !known && !self.has(key) { None } else { platform.store().load(&record).await? };
            // Unless this instance has given up the seat that it took the key for.
            known = true;
            let seat = held.as_ref().and_then(|held| Owner::read(&held.value));
            if let Some(seat) = seat.filter(|seat| !self.is_own(seat))
                && let Some(following) = self.hand_over(platform, &seat, key, letter).await?
            {
                return Ok(Way::There(following));
            }
            if !self.has(key) && !founds {
                return Ok(Way::Nowhere);
            }
            // The seat first: whoever reads that it owns the key must find it.
            let seat = self.seated(platform).await?;
            let value = Owner { seat: seat.clone() }.write();
            match platform.store().swap(&record, held.map(|held| held.version), value, OWNED).await? {
                Swap::Done(version) => {
                    let mut state = lock(&self.state);
                    if state.seat.as_ref().is_none_or(|now| now.id != seat) {
                        continue;
                    }
                    let owned = state.owned.entry(key.to_owned()).or_insert_with(|| Owned {
                        kept: Kept::default(),
                        version,
                        since: Timestamp::default(),
                    });
                    (owned.version, owned.since) = (version, platform.clock().now());
                    return Ok(Way::Here(owned.kept.clone()));
                }
                Swap::Stale => {}
            }
        }
        Err(SeamError::Host("its owner changes again and again; try again".to_owned()))
    }

    /// What is kept for `key` if it is owned here beyond doubt.
    fn held(&self, platform: &P, key: &str) -> Option<Kept<P>> {
        let state = lock(&self.state);
        let seen = state.seat.as_ref()?.beat;
        let sure = platform.clock().now().since(seen) < LEASE / 2;
        state.owned.get(key).filter(|_| sure).map(|owned| owned.kept.clone())
    }

    fn has(&self, key: &str) -> bool {
        lock(&self.state).owned.contains_key(key)
    }

    fn is_own(&self, seat: &str) -> bool {
        lock(&self.state).seat.as_ref().is_some_and(|own| own.id == seat)
    }

    /// Takes a seat, or makes sure of the one that there is.
    async fn seated(&self, platform: &P) -> Result<String, SeamError> {
        for _ in 0..TRIES {
            let now = platform.clock().now();
            let seat = lock(&self.state).seat.clone();
            let Some(seat) = seat else {
                let seat = id(platform);
                let inbox = Inbox { beat: now, ..Inbox::default() };
                platform.store().swap(&inbox_key(&seat), None, inbox.write(), RECORD).await?;
                let mut state = lock(&self.state);
                if state.seat.is_none() {
                    state.seat = Some(Seat { id: seat.clone(), beat: now });
                    return Ok(seat);
                }
                continue;
            };
            if now.since(seat.beat) < LEASE / 2 {
                return Ok(seat.id);
            }
            let record = inbox_key(&seat.id);
            let held = platform.store().load(&record).await?;
            let open = held.and_then(|held| Some((held.version, Inbox::read(&held.value)?)));
            let Some((version, mut inbox)) = open.filter(|(_, inbox)| !inbox.closed) else {
                self.unseat(&seat.id);
                continue;
            };
            inbox.beat = now;
            if let Swap::Done(_) =
                platform.store().swap(&record, Some(version), inbox.write(), RECORD).await?
            {
                self.seen(&seat.id, now);
                return Ok(seat.id);
            }
        }
        Err(SeamError::Host("no seat for this instance's mailboxes".to_owned()))
    }

    fn seen(&self, seat: &str, now: Timestamp) {
        if let Some(own) = lock(&self.state).seat.as_mut().filter(|own| own.id == seat) {
            own.beat = own.beat.max(now);
        }
    }

    /// Others have taken over what this instance owned. What works here works on for those who read it here.
    fn unseat(&self, seat: &str) {
        let mut state = lock(&self.state);
        if state.seat.as_ref().is_some_and(|own| own.id == seat) {
            state.seat = None;
            state.owned.clear();
        }
    }

    /// Runs `work` to its end, and takes turns with others of this instance in looking into the inbox meanwhile.
    async fn attend<W>(self: Arc<Self>, gateway: Gateway<P>, key: String, work: W, telling: Option<Telling>)
    where
        W: Future<Output = ()>,
    {
        let platform = gateway.platform().clone();
        let mut first = pin!(self.piece(&platform, &key, work, telling));
        let mut taken = FuturesUnordered::new();
        let number = {
            let mut turn = lock(&self.turn);
            turn.requests += 1;
            turn.requests
        };
        let mut own = true;
        while own || !taken.is_empty() {
            let (first_done, letters) = {
                let mut pieces = pin!(async {
                    let first = async { if own { first.as_mut().await } else { pending().await } };
                    let others = async {
                        if taken.next().await.is_none() {
                            pending::<()>().await;
                        }
                    };
                    matches!(select(pin!(first), pin!(others)).await, Either::Left(_))
                });
                if lock(&self.state).seat.is_none() {
                    // Nothing is owned, so that nobody writes.
                    (pieces.await, Vec::new())
                } else {
                    let due = match select(pieces.as_mut(), pin!(self.wait(&platform, number))).await {
                        Either::Left((first_done, _)) => Err(first_done),
                        Either::Right(((), _)) => Ok(()),
                    };
                    match due {
                        Err(first_done) => (first_done, Vec::new()),
                        // Not to be dropped half-way: letters that have left the inbox would be lost.
                        Ok(()) => match select(pin!(self.look(&platform)), pieces).await {
                            Either::Left((letters, _)) => (false, letters),
                            Either::Right((first_done, look)) => (first_done, look.await),
                        },
                    }
                }
            };
            own &= !first_done;
            for letter in letters {
                if let Some(Taken { key, kept, letter, id, gone }) = self.taken(&platform, letter).await {
                    let (said, work) = kept.deliver(&gateway, &key, &letter);
                    let telling = Telling::Record(id, said, gone);
                    taken.push(answered(self.clone(), platform.clone(), key, work, telling));
                }
            }
        }
        {
            let mut turn = lock(&self.turn);
            if turn.holder == number {
                turn.at = Timestamp::default();
            }
        }
        self.leave(&platform).await;
    }

    /// A piece of work for the owner of `key`, and telling what is said.
    async fn piece<W>(&self, platform: &P, key: &str, work: W, telling: Option<Telling>)
    where
        W: Future<Output = ()>,
    {
        let told = async {
            if let Some(telling) = telling {
                self.tell(platform, telling).await;
            }
        };
        join(work, told).await;
        self.release(platform, key).await;
    }

    /// Waits until it is the turn of the request with this number to look into the inbox, and time to.
    async fn wait(&self, platform: &P, number: u64) {
        loop {
            let pause = {
                let (mut turn, now) = (lock(&self.turn), platform.clock().now());
                (turn.holder == number || now.since(turn.at) >= LATE * 2).then(|| {
                    (turn.holder, turn.at) = (number, now);
                    turn.pace.next(platform, LATE)
                })
            };
            platform.clock().sleep(pause.unwrap_or(LATE)).await;
            if pause.is_some() {
                return;
            }
        }
    }

    /// Looks into the inbox and takes what is there.
    async fn look(&self, platform: &P) -> Vec<Letter> {
        let Some(seat) = lock(&self.state).seat.clone() else { return Vec::new() };
        let record = inbox_key(&seat.id);
        for _ in 0..TRIES {
            let now = platform.clock().now();
            // A store that fails now may not later; meanwhile the lease runs.
            let Ok(held) = platform.store().load(&record).await else { return Vec::new() };
            let open = held.and_then(|held| Some((held.version, Inbox::read(&held.value)?)));
            let Some((version, mut inbox)) = open.filter(|(_, inbox)| !inbox.closed) else {
                self.unseat(&seat.id);
                return Vec::new();
            };
            if inbox.letters.is_empty() && now.since(seat.beat) < BEAT {
                return Vec::new();
            }
            let letters = std::mem::take(&mut inbox.letters);
            inbox.beat = now;
            match platform.store().swap(&record, Some(version), inbox.write(), RECORD).await {
                Ok(Swap::Done(_)) => {}
                // Another letter came in between.
                Ok(Swap::Stale) => continue,
                Err(_) => return Vec::new(),
            }
            self.seen(&seat.id, now);
            if letters.is_empty() {
                self.renew(platform, &seat.id).await;
            } else {
                lock(&self.turn).pace.quicken();
            }
            return letters;
        }
        lock(&self.turn).pace.quicken();
        Vec::new()
    }

    /// Renews what says that this instance owns its keys, before that passes its time.
    async fn renew(&self, platform: &P, seat: &str) {
        let now = platform.clock().now();
        let due: Vec<(String, Version)> = lock(&self.state)
            .owned
            .iter()
            .filter(|(_, owned)| now.since(owned.since) > OWNED / 2)
            .map(|(key, owned)| (key.clone(), owned.version))
            .collect();
        for (key, version) in due {
            let value = Owner { seat: seat.to_owned() }.write();
            if let Ok(Swap::Done(version)) =
                platform.store().swap(&owner_key(&key), Some(version), value, OWNED).await
                && let Some(owned) = lock(&self.state).owned.get_mut(&key)
            {
                (owned.version, owned.since) = (version, now);
            }
        }
    }

    /// What there is to do with a letter out of the inbox.
    async fn taken(&self, platform: &P, letter: Letter) -> Option<Taken<P>> {
        let Letter { id, key, text, pieces, gone } = letter;
        if gone {
            // Nobody listens to what is said to it any more.
            if let Some(told) = lock(&self.state).told.remove(&id) {
                told.end();
            }
            return None;
        }
        let kept = {
            let mut state = lock(&self.state);
            if state.taken.contains(&id) {
                return None;
            }
            state.taken.push_back(id.clone());
            if state.taken.len() > TAKEN {
                state.taken.pop_front();
            }
            state.owned.get(&key).map(|owned| owned.kept.clone())
        };
        let text = if pieces == 0 { Some(Bytes::from(text)) } else { gathered(platform, &id, pieces).await };
        match (kept, text) {
            (Some(kept), Some(letter)) => {
                let log = Log::once();
                let gone = log.tail(0)?;
                lock(&self.state).told.insert(id.clone(), log);
                Some(Taken { key, kept, letter, id, gone })
            }
            // It was for an owner that has let go of the key: its sender tries again.
            _ => {
                self.moved(platform, &id).await;
                None
            }
        }
    }

    /// Lets go of `key` if its owner keeps nothing.
    async fn release(&self, platform: &P, key: &str) {
        let version = {
            let mut state = lock(&self.state);
            match state.owned.get(key) {
                Some(owned) if owned.kept.is_idle() => state.owned.remove(key).map(|owned| owned.version),
                _ => None,
            }
        };
        if let Some(version) = version {
            // If it cannot be written, whoever looks finds a seat that is not there.
            let _ = platform.store().swap(&owner_key(key), Some(version), Bytes::new(), Duration::ZERO).await;
        }
    }

    /// Gives the seat up if nothing is owned any more.
    async fn leave(&self, platform: &P) {
        let seat = {
            let mut state = lock(&self.state);
            if !state.owned.is_empty() || !state.told.is_empty() {
                return;
            }
            state.seat.take()
        };
        let Some(seat) = seat else { return };
        let record = inbox_key(&seat.id);
        for _ in 0..TRIES {
            let Ok(Some(held)) = platform.store().load(&record).await else { return };
            let Some(inbox) = Inbox::read(&held.value) else { return };
            let closed = Inbox { closed: true, beat: platform.clock().now(), letters: Vec::new() };
            match platform.store().swap(&record, Some(held.version), closed.write(), LEASE * 2).await {
                Ok(Swap::Stale) => {}
                Ok(Swap::Done(_)) => {
                    for letter in inbox.letters.iter().filter(|letter| !letter.gone) {
                        self.moved(platform, &letter.id).await;
                    }
                    return;
                }
                Err(_) => return,
            }
        }
    }
}

/// [`Polled::piece`] for a letter out of the inbox.
async fn answered<P: Platform, W: Future<Output = ()>>(
    polled: Arc<Polled<P>>,
    platform: P,
    key: String,
    work: W,
    telling: Telling,
) {
    polled.piece(&platform, &key, work, Some(telling)).await;
}

/// A letter that came in pieces; `None` if one is missing.
async fn gathered<P: Platform>(platform: &P, id: &str, pieces: usize) -> Option<Bytes> {
    let mut whole = Vec::new();
    for number in 0..pieces {
        let key = piece_key(id, number);
        let held = platform.store().load(&key).await.ok()??;
        whole.extend_from_slice(&held.value);
        let _ = platform.store().swap(&key, Some(held.version), Bytes::new(), Duration::ZERO).await;
    }
    Some(whole.into())
}

fn id<P: Platform>(platform: &P) -> String {
    let mut id = [0; 12];
    platform.entropy().fill(&mut id);
    crate::mcp::hex(&id)
}

fn owner_key(key: &str) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(key);
    format!("polled/owner/{}", crate::mcp::hex(hash.get(..20).unwrap_or_default()))
}

fn inbox_key(seat: &str) -> String {
    format!("polled/inbox/{seat}")
}

fn piece_key(letter: &str, number: usize) -> String {
    format!("polled/letter/{letter}/{number}")
}

fn said_key(letter: &str) -> String {
    format!("polled/said/{letter}")
}
