//! What an instance has learned: of servers, of their lists, of sessions. Losing it costs time, never truth.

mod upstreams;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::upstreams::Upstreams;
use super::catalog::{Kind as ListKind, List};
use super::lenient::Introduced;
use super::listen::Subscribed;
use super::revision::{Era, Revision};
use crate::config::plan::{Plan, Program, Sampling, Server, SessionMode, Transport, Via};
use crate::fault::Fault;
use crate::platform::{Clock, Timestamp, Version};
use crate::tunnel::dock::Shown;
use crate::wire::sealed::Sealer;

/// Sessions remembered at most; beyond it the ones not used for longest go, and are loaded again when needed.
const SESSIONS: usize = 50_000;
/// Merged lists held at most.
const MERGED: usize = 256;
/// What clients can do, in so many ways at most one server's lists are fitted to it.
const FITTED: usize = 48;
/// Sessions kept with one server for stateless clients.
const POOLED: usize = 4096;
/// How long a call waits at most for a stream that is being set up, and how often it looks.
const OPENING: Duration = Duration::from_secs(3);
const LOOK_FOR_STREAM: Duration = Duration::from_millis(5);
/// How often a call that runs looks whether its client has given it up.
const LOOK_FOR_CANCEL: Duration = Duration::from_millis(100);
/// How soon a list that could not be read anew is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Locks, also when a holder panicked: what is guarded here is only ever replaced whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything learned.
#[derive(Debug, Default)]
pub struct Memory {
    servers: Mutex<HashMap<String, Arc<ServerMemory>>>,
    sessions: Mutex<HashMap<String, Arc<SessionMemory>>>,
    merged: Mutex<HashMap<MergedKey, Arc<Merged>>>,
    generation: AtomicU64,
    /// When the first list passes its time, in milliseconds; until then nobody need look.
    stale_at: AtomicU64,
    /// How links were when they were last looked at, and when that was.
    links: Mutex<HashMap<String, (Timestamp, Arc<Shown>)>>,
    flights: Mutex<HashSet<String>>,
    failures: Mutex<HashMap<String, (Timestamp, Fault)>>,
    sealer: OnceLock<Sealer>,
    /// Callers of whom the log has said that they have clients without session ids.
    lenient: Mutex<HashSet<String>>,
    /// Who listens.
    pub seats: Arc<super::listen::Seats>,
}

/// Which merged list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MergedKey {
    /// Tools, prompts, resources or templates.
    pub kind: ListKind,
    /// The client's era: modern lists carry caching hints.
    pub era: Era,
    /// For whom; lists are filtered by caller.
    pub caller: String,
    /// What its clients can do, as they say it.
    pub able: String,
    /// The first item of the page.
    pub offset: usize,
    /// The plan that it was made under.
    pub plan: String,
}

/// A merged list, ready to be sent.
#[derive(Debug)]
pub struct Merged {
    /// The result object.
    pub result: Bytes,
    /// Until when every part of it is fresh.
    pub fresh_until: Timestamp,
    /// The generation of lists that it was made from.
    pub generation: u64,
}

impl Memory {
    /// What is known of `server`. A server whose address or credentials changed starts anew.
    pub fn server(&self, server: &Server) -> Arc<ServerMemory> {
        let mut servers = lock(&self.servers);
        if let Some(known) = servers.get(&server.name).filter(|known| known.fits(server)) {
            return known.clone();
        }
        let fresh = Arc::new(ServerMemory::new(server));
        servers.insert(server.name.clone(), fresh.clone());
        fresh
    }

    /// Forgets what `plan` no longer has.
    pub fn keep(&self, plan: &Plan) {
        lock(&self.servers).retain(|name, known| plan.server(name).is_some_and(|server| known.fits(server)));
        lock(&self.merged).clear();
        self.set_stale_at(Timestamp(0));
        self.changed();
    }

    /// When the first of all lists passes its time.
    pub fn stale_at(&self) -> Timestamp {
        Timestamp(self.stale_at.load(Ordering::Acquire))
    }

    /// Sets when somebody must look whether a list has passed its time.
    pub fn set_stale_at(&self, at: Timestamp) {
        self.stale_at.store(at.0, Ordering::Release);
    }

    /// Somebody must look at `at` at the latest.
    pub fn lower_stale_at(&self, at: Timestamp) {
        self.stale_at.fetch_min(at.0, Ordering::AcqRel);
    }

    /// Notes that a list changed, so that merged lists are made anew.
    pub fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts changes of lists.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The merged list at `key`, if it is still what its parts say.
    pub fn merged(&self, key: &MergedKey, now: Timestamp) -> Option<Arc<Merged>> {
        let merged = lock(&self.merged).get(key).cloned()?;
        (merged.generation == self.generation() && now < merged.fresh_until).then_some(merged)
    }

    /// Keeps a merged list.
    pub fn keep_merged(&self, key: MergedKey, merged: Arc<Merged>) {
        let mut all = lock(&self.merged);
        if all.len() >= MERGED {
            all.clear();
        }
        all.insert(key, merged);
    }

    /// What is known of the session `id`, if anything.
    pub fn session(&self, id: &str) -> Option<Arc<SessionMemory>> {
        lock(&self.sessions).get(id).cloned()
    }

    /// Remembers a session; one that is there already stays.
    pub fn keep_session(&self, id: &str, session: SessionMemory, now: Timestamp) -> Arc<SessionMemory> {
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= SESSIONS && !sessions.contains_key(id) {
            let mut used: Vec<u64> = sessions.values().map(|s| s.used.load(Ordering::Relaxed)).collect();
            let middle = used.len() / 2;
            let (_, median, _) = used.select_nth_unstable(middle);
            let median = *median;
            sessions.retain(|_, session| session.used.load(Ordering::Relaxed) > median);
        }
        session.used.store(now.0, Ordering::Relaxed);
        sessions.entry(id.to_owned()).or_insert_with(|| Arc::new(session)).clone()
    }

    /// Forgets a session that has been ended.
    pub fn forget_session(&self, id: &str) {
        let mut sessions = lock(&self.sessions);
        sessions.remove(id);
        // A burst must not leave its space behind for ever.
        if sessions.capacity() > 1024 && sessions.len() * 4 < sessions.capacity() {
            sessions.shrink_to_fit();
        }
    }

    /// How the link `name` was when it was last looked at, and when that was.
    pub fn link(&self, name: &str) -> Option<(Timestamp, Arc<Shown>)> {
        lock(&self.links).get(name).cloned()
    }

    /// Remembers how a link is.
    pub fn set_link(&self, name: &str, now: Timestamp, shown: Arc<Shown>) {
        lock(&self.links).insert(name.to_owned(), (now, shown));
    }

    /// The link `name` is otherwise than it was: it is looked at anew, and merged lists are made anew.
    pub fn link_changed(&self, name: &str) {
        if let Some((looked, _)) = lock(&self.links).get_mut(name) {
            *looked = Timestamp(0);
        }
        self.changed();
    }

    /// Claims the work called `key` for one asker; the others wait and look again. Freed when dropped.
    pub fn claim(self: &Arc<Self>, key: &str) -> Option<Claim> {
        lock(&self.flights)
            .insert(key.to_owned())
            .then(|| Claim { memory: self.clone(), key: key.to_owned() })
    }

    /// How the work called `key` failed, if it did so at or after `since`.
    pub fn failure(&self, key: &str, since: Timestamp) -> Option<Fault> {
        lock(&self.failures).get(key).filter(|(at, _)| *at >= since).map(|(_, fault)| fault.clone())
    }

    /// Remembers that the work called `key` failed, for those who wait for it.
    pub fn set_failure(&self, key: &str, now: Timestamp, fault: &Fault) {
        let mut failures = lock(&self.failures);
        if failures.len() >= 1024 {
            failures.clear();
        }
        failures.insert(key.to_owned(), (now, fault.clone()));
    }

    /// Whether it is the first time that `caller` has a client that names no session.
    pub fn first_lenient(&self, caller: &str) -> bool {
        let mut known = lock(&self.lenient);
        !known.contains(caller) && known.insert(caller.to_owned())
    }

    /// The sealer, once it has been made.
    pub fn sealer(&self) -> Option<&Sealer> {
        self.sealer.get()
    }

    /// Sets the sealer; the first one stays.
    pub fn set_sealer(&self, sealer: Sealer) -> &Sealer {
        self.sealer.get_or_init(|| sealer)
    }
}

/// The right to do one piece of work alone.
#[derive(Debug)]
pub struct Claim {
    memory: Arc<Memory>,
    key: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.memory.flights).remove(&self.key);
    }
}

/// What is known of one server.
#[derive(Debug)]
pub struct ServerMemory {
    of: Identity,
    state: Mutex<ServerState>,
    ids: AtomicU64,
    /// Counts the times that the server said that a list has changed.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct ServerState {
    profile: Option<Arc<Profile>>,
    lists: HashMap<ListKey, Arc<List>>,
    /// Whether lists are fitted to what clients can do, by the digest of the list that was looked at.
    fits: HashMap<ListKind, (u64, bool)>,
    /// What the clients can do that lists are kept for.
    fitted: HashSet<String>,
    pool: HashMap<String, UpstreamSession>,
    health: Health,
}

/// Which list of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ListKey {
    kind: ListKind,
    /// The caller that it is for; empty: everybody.
    owner: String,
    /// What its clients can do; empty: everything.
    able: String,
}

/// How a server has been doing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Health {
    /// Exchanges that were answered.
    pub answered: u64,
    /// Exchanges that failed.
    pub failed: u64,
    /// Failures since the last answer.
    pub failing: u64,
    /// A moving average of the time to the response head, in microseconds.
    pub latency_us: u64,
    /// The last failure, in words.
    pub last_error: Option<String>,
    /// When it was.
    pub last_error_at: Option<Timestamp>,
    /// When the server last answered.
    pub last_answer_at: Option<Timestamp>,
}

/// What a server is, learned by asking it.
#[derive(Debug)]
pub struct Profile {
    /// The newest modern revision that it speaks, if it speaks any.
    pub modern: Option<Revision>,
    /// The legacy revision that it chose, or [`Revision::LEGACY`] if it only said that it has some.
    pub legacy: Option<Revision>,
    /// Whether it issues session ids.
    pub sessions: bool,
    /// Whether it speaks nothing newer than the HTTP+SSE of 2024-11-05.
    pub http_sse: bool,
    /// Its capabilities.
    pub capabilities: Box<RawValue>,
    /// The extensions among them.
    pub extensions: Vec<String>,
    /// Whether tasks of 2025-11-25 are among them.
    pub tasks: bool,
    /// Its name and version.
    pub info: Option<Box<RawValue>>,
    /// What it tells models about itself.
    pub instructions: Option<String>,
    /// The result of `server/discover` or `initialize`, as it came.
    pub result: Box<RawValue>,
}

impl Profile {
    /// The revision to speak to this server for a client of `era`: the client's own era if the server has it.
    pub fn revision_for(&self, era: Era) -> Revision {
        let (first, second) = match era {
            Era::Modern => (self.modern, self.legacy),
            Era::Legacy => (self.legacy, self.modern),
        };
        first.or(second).unwrap_or(Revision::LEGACY)
    }

    /// Whether the server declares the capability `name`.
    pub fn has(&self, name: &str) -> bool {
        serde_json::from_str::<HashMap<String, serde::de::IgnoredAny>>(self.capabilities.get())
            .is_ok_and(|all| all.contains_key(name))
    }
}

/// A session that the gateway holds with a legacy server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamSession {
    /// The server's session id; `None` if it issues none.
    pub id: Option<String>,
    /// The revision that was agreed.
    pub revision: Revision,
    /// Where its messages go, if not to the server's URL: the endpoint of an HTTP+SSE session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Box<url::Url>>,
    /// The client's mailbox keeps its stream, and tells the server of calls that nobody waits for any more.
    #[serde(skip)]
    pub kept: bool,
}

impl ServerMemory {
    fn new(server: &Server) -> Self {
        let (of, state) = (Identity::new(server), Mutex::default());
        Self { of, state, ids: AtomicU64::new(1), changes: AtomicU64::new(0) }
    }

    fn fits(&self, server: &Server) -> bool {
        let Identity { url, via, transport, program, headers, session, sampling, list_ttl } = &self.of;
        *url == server.url
            && *via == server.via
            && *transport == server.transport
            && *program == server.program
            && *session == server.session
            && *sampling == server.sampling
            && *list_ttl == server.list_ttl
            && *headers == server.headers
    }

    /// A request id of our own that no other request to this server has.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// What the server is, if it has been asked.
    pub fn profile(&self) -> Option<Arc<Profile>> {
        lock(&self.state).profile.clone()
    }

    /// Remembers what the server is.
    pub fn set_profile(&self, profile: Profile) -> Arc<Profile> {
        let profile = Arc::new(profile);
        lock(&self.state).profile = Some(profile.clone());
        profile
    }

    /// Forgets what the server is and every session with it: it has turned out otherwise.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.profile = None;
        state.pool.clear();
        state.fits.clear();
        state.fitted.clear();
    }

    /// The list of `kind` that `caller` may be given, for clients that are this `able`: the public one, or the caller's
    /// own.
    pub fn list(&self, kind: ListKind, caller: &str, able: &str) -> Option<Arc<List>> {
        let key = |owner| ListKey { kind, owner, able: able.to_owned() };
        let state = lock(&self.state);
        let public = state.lists.get(&key(String::new()));
        public.or_else(|| state.lists.get(&key(scope(caller)))).cloned()
    }

    /// Keeps a list: for everybody if it is public, else for `caller` alone.
    pub fn set_list(&self, kind: ListKind, caller: &str, able: &str, list: List) -> Arc<List> {
        let mut state = lock(&self.state);
        let list = Arc::new(list);
        let of = |key: &ListKey| key.kind == kind && key.able == able;
        let owner = if list.public {
            state.lists.retain(|key, _| !of(key) || key.owner.is_empty());
            String::new()
        } else {
            state.lists.retain(|key, _| !of(key) || !key.owner.is_empty());
            scope(caller)
        };
        if state.lists.len() >= MERGED {
            state.lists.retain(|key, _| key.owner.is_empty() && key.able.is_empty());
        }
        state.lists.insert(ListKey { kind, owner, able: able.to_owned() }, list.clone());
        list
    }

    /// What the clients can do that `caller` has lists of `kind` for.
    pub fn ables(&self, kind: ListKind, caller: &str) -> Vec<String> {
        let own = scope(caller);
        let state = lock(&self.state);
        let seen =
            state.lists.keys().filter(|key| key.kind == kind && (key.owner.is_empty() || key.owner == own));
        let mut ables: Vec<String> = seen.map(|key| key.able.clone()).collect();
        ables.sort();
        ables.dedup();
        ables
    }

    /// Whether the server is known to fit its lists of `kind` to what clients can do, of which `list` is the whole.
    pub fn fitting(&self, kind: ListKind, list: &List) -> Option<bool> {
        let known = lock(&self.state).fits.get(&kind).copied();
        known.filter(|(digest, _)| *digest == list.digest()).map(|(_, fits)| fits)
    }

    /// Whether that is known of the lists of `kind` as they are or were.
    pub fn is_looked_at(&self, kind: ListKind) -> bool {
        lock(&self.state).fits.contains_key(&kind)
    }

    /// Remembers that.
    pub fn set_fitting(&self, kind: ListKind, list: &List, fits: bool) {
        lock(&self.state).fits.insert(kind, (list.digest(), fits));
    }

    /// Whether lists may be kept for clients that are this `able`: callers choose what they say that they can do.
    pub fn may_fit(&self, able: &str) -> bool {
        let fitted = &mut lock(&self.state).fitted;
        fitted.contains(able) || fitted.len() < FITTED && fitted.insert(able.to_owned())
    }

    /// Notes that the lists of `kind` have changed, as the server says.
    pub fn outdate(&self, kind: ListKind) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.fits.remove(&kind);
        let lists = state.lists.iter().filter(|(key, _)| key.kind == kind);
        lists.for_each(|(_, list)| list.outdate());
    }

    /// Counts what [`Self::outdate`] was told: a list that was being read when it grew may be an old one.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// When the first list passes its time; one that has passed it already is looked at again a little later.
    pub fn stale_at(&self, now: Timestamp) -> Option<Timestamp> {
        let state = lock(&self.state);
        let lists = state.lists.values().filter(|list| !list.ttl.is_zero() && list.is_wanted());
        lists.map(|list| list.read_at.after(list.ttl).max(now.after(LOOK_AGAIN))).min()
    }

    /// The pooled session of `holder`.
    pub fn pooled(&self, holder: &str) -> Option<UpstreamSession> {
        lock(&self.state).pool.get(holder).cloned()
    }

    /// Keeps a session for `holder`.
    pub fn pool(&self, holder: &str, session: UpstreamSession) {
        let pool = &mut lock(&self.state).pool;
        // Callers choose the capabilities that sessions are told apart by. One that is forgotten is opened again.
        if pool.len() >= POOLED && !pool.contains_key(holder) {
            pool.clear();
        }
        pool.insert(holder.to_owned(), session);
    }

    /// Drops the session of `holder` if it still is `session`.
    pub fn unpool(&self, holder: &str, session: &UpstreamSession) {
        let mut state = lock(&self.state);
        if state.pool.get(holder) == Some(session) {
            state.pool.remove(holder);
        }
    }

    /// How many items of `kind` are known, over all scopes.
    pub fn count(&self, kind: ListKind) -> Option<usize> {
        lock(&self.state)
            .lists
            .iter()
            .filter(|(key, _)| key.kind == kind)
            .map(|(_, list)| list.items.len())
            .max()
    }

    /// Warnings about what the server lists.
    pub fn warnings(&self) -> Vec<String> {
        let mut all: Vec<String> =
            lock(&self.state).lists.values().flat_map(|list| list.warnings.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Notes that the server answered after `took`.
    pub fn answered(&self, now: Timestamp, took: Duration) {
        let mut state = lock(&self.state);
        let health = &mut state.health;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        health.latency_us =
            if health.answered == 0 { micros } else { (health.latency_us.saturating_mul(7) + micros) / 8 };
        health.answered += 1;
        health.failing = 0;
        health.last_answer_at = Some(now);
    }

    /// Notes that an exchange failed.
    pub fn failed(&self, now: Timestamp, fault: &Fault) {
        let mut state = lock(&self.state);
        let health = &mut state.health;
        health.failed += 1;
        health.failing += 1;
        health.last_error = Some(fault.message.clone());
        health.last_error_at = Some(now);
    }

    /// How the server has been doing.
    pub fn health(&self) -> Health {
        lock(&self.state).health.clone()
    }
}

/// Private lists are kept under the caller's name, which an anonymous caller has not.
fn scope(caller: &str) -> String {
    format!("={caller}")
}

/// What must be the same for what we know of a server to hold.
#[derive(Debug)]
struct Identity {
    url: url::Url,
    via: Option<Via>,
    transport: Transport,
    program: Option<Arc<Program>>,
    headers: http::HeaderMap,
    session: Option<SessionMode>,
    sampling: Sampling,
    list_ttl: Duration,
}

impl Identity {
    fn new(server: &Server) -> Self {
        Self {
            url: server.url.clone(),
            via: server.via.clone(),
            transport: server.transport,
            program: server.program.clone(),
            headers: server.headers.clone(),
            session: server.session,
            sampling: server.sampling,
            list_ttl: server.list_ttl,
        }
    }
}

/// What this instance knows of one client session.
#[derive(Debug, Default)]
pub struct SessionMemory {
    /// When it was last used, in milliseconds.
    pub used: AtomicU64,
    /// When it was last compared with the store, in milliseconds.
    pub checked: AtomicU64,
    /// Its record.
    pub record: Mutex<(Record, Option<Version>)>,
    /// GET requests whose stream is being set up.
    opening: AtomicU64,
    /// Calls that run here, by their id as JSON, and whether the client has given them up.
    running: Mutex<HashMap<String, Arc<AtomicBool>>>,
}

impl SessionMemory {
    /// Takes over what is in the store, if the record is still the one that was `seen` before the store was asked.
    pub fn replace(&self, seen: Option<Version>, fresh: (Record, Option<Version>)) -> bool {
        let mut record = lock(&self.record);
        let same = record.1 == seen;
        if same {
            *record = fresh;
        }
        same
    }

    /// A stream of the session is being set up, for as long as this is kept.
    pub fn opens(self: &Arc<Self>) -> Opening {
        self.opening.fetch_add(1, Ordering::Relaxed);
        Opening(self.clone())
    }

    /// Resolves when no stream of the session is being set up, or after a while: a client that has sent its GET and
    /// then its call takes the stream to be there, and some servers ask on it what belongs to the call.
    pub async fn opened(&self, clock: &impl Clock) {
        let mut left = OPENING;
        while self.opening.load(Ordering::Relaxed) > 0 && !left.is_zero() {
            clock.sleep(LOOK_FOR_STREAM).await;
            left = left.saturating_sub(LOOK_FOR_STREAM);
        }
    }

    /// A call with this id begins.
    pub fn begin(self: &Arc<Self>, id: &RawValue, now: Timestamp) -> Running {
        let cancelled = Arc::new(AtomicBool::new(false));
        lock(&self.running).insert(id.get().to_owned(), cancelled.clone());
        Running { memory: self.clone(), id: id.get().to_owned(), cancelled, begun: now }
    }

    /// The client has given up every call.
    pub fn cancel_all(&self) {
        lock(&self.running).values().for_each(|cancelled| cancelled.store(true, Ordering::Relaxed));
    }

    /// The client has given up the call with this id; says whether it runs here.
    pub fn cancel(&self, id: &RawValue) -> bool {
        let running = lock(&self.running);
        let cancelled = running.get(id.get());
        cancelled.is_some_and(|cancelled| {
            cancelled.store(true, Ordering::Relaxed);
            true
        })
    }
}

/// A stream that is being set up.
#[derive(Debug)]
pub struct Opening(Arc<SessionMemory>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call of a legacy client that runs here. It is forgotten when dropped.
#[derive(Debug)]
pub struct Running {
    memory: Arc<SessionMemory>,
    id: String,
    cancelled: Arc<AtomicBool>,
    begun: Timestamp,
}

impl Running {
    /// When it began.
    #[must_use]
    pub fn begun(&self) -> Timestamp {
        self.begun
    }

    /// The client has given it up, as another instance was told.
    pub fn give_up(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the client has given it up.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Resolves when the client has given it up. It is looked for by the clock: who says so is another request, and on
    /// Workers none may wake another.
    pub async fn cancelled(&self, clock: &impl Clock) {
        while !self.is_cancelled() {
            clock.sleep(LOOK_FOR_CANCEL).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = lock(&self.memory.running);
        // The client may have begun another call by the same id.
        if running.get(&self.id).is_some_and(|known| Arc::ptr_eq(known, &self.cancelled)) {
            running.remove(&self.id);
        }
        if running.is_empty() {
            running.shrink_to_fit();
        }
    }
}

/// What must outlive an instance of a client session; kept in the store once there is something to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The session was ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// What clients said of themselves that name no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introduced: Option<Introduced>,
    /// The log level that the client set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The resources that it is subscribed to, where the gateway has to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<Subscribed>,
    /// The sessions held with legacy servers on its behalf, by server.
    #[serde(default, skip_serializing_if = "Upstreams::is_empty")]
    pub upstreams: Upstreams,
}
