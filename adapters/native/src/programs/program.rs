//! One server that is a program: which processes it has, who is served by which, and when there is a new one.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::config::plan::{self, Processes, Start};
use causeway::mcp::revision::{Era, Revision};
use causeway::mcp::upstream::{IMPLEMENTATION, error_of};
use causeway::platform::{self, SeamError};
use causeway::wire::jsonrpc::{Message, string};
use futures_util::future::{Either, select};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::House;
use super::launch::Launch;
use super::process::{Process, Reply, Use};
use super::session::{Place, Session, level};
use super::shared::{Met, Slot};
use super::table::{Params, line, replaced};
use super::voice::Voice;
use crate::log::Level;

/// How long a program may take to say whether it is modern before it is asked whether it is there at all.
const PROBE: Duration = Duration::from_secs(5);
/// How long it may take to say either: it may have to be fetched first.
const SLOW: Duration = Duration::from_secs(30);
/// A program that is there, and has not said by then what it is, does not know the question.
const GRACE: Duration = Duration::from_secs(1);
/// How long it may take to answer `initialize`.
const INITIALIZE: Duration = Duration::from_secs(55);
/// The same, if it has left the question before unanswered.
const IN_DOUBT: Duration = Duration::from_secs(10);
/// A process that ends sooner than this without having served anybody has failed to start.
const SOON: Duration = Duration::from_secs(10);
/// The pause before the second attempt to start a program; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// So many failures in a row, and the program is left alone for [`DOWN`].
const CEILING: u32 = 6;
/// How long a program that does not start is left alone.
const DOWN: Duration = Duration::from_secs(60);
/// A caller waits for the next attempt if it is no further than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sessions that share processes; beyond, the one that was not used for longest is forgotten.
const SESSIONS: usize = 10_000;
/// States of rounds that are remembered.
const STATES: usize = 4096;
/// How long.
const STATE_AGE: Duration = Duration::from_secs(15 * 60);

/// The parameters of our own `server/discover`.
pub(super) const DISCOVER: &str = concat!(
    "{\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",",
    "\"io.modelcontextprotocol/clientInfo\":{\"name\":\"causeway\",\"version\":\"",
    env!("CARGO_PKG_VERSION"),
    "\"},\"io.modelcontextprotocol/clientCapabilities\":{}}}"
);
const INITIALIZED: &[u8] = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";

/// A program.
pub(super) struct Program {
    pub(super) name: String,
    pub(super) spec: Arc<plan::Program>,
    pub(super) voice: Arc<Voice>,
    pub(super) house: Weak<House>,
    /// What there was to say about its sandbox when it was started first.
    sandbox: OnceLock<String>,
    state: Mutex<State>,
    /// Held while something is started that others may want as well.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    era: Option<Era>,
    /// It did not answer when it was asked, which is not to be done again.
    is_shy: bool,
    /// Asked what it is, and older than the question.
    fresh: Option<Arc<Process>>,
    modern: Vec<Arc<Process>>,
    slots: Vec<Arc<Slot>>,
    sessions: HashMap<String, Arc<Session>>,
    all: Vec<Arc<Process>>,
    /// Attempts to start that failed, in a row.
    failures: u32,
    not_before: Option<Instant>,
    down: Option<String>,
    restarts: u64,
    closed: bool,
    /// Which process a round of a modern call has to go back to, by its `requestState`.
    states: VecDeque<(u64, Weak<Process>, Instant)>,
}

/// What came of introducing a client.
pub(super) enum Opened {
    /// It has a session: the answer to `initialize` with the client's id.
    Session(Arc<Session>, Bytes),
    /// The program refused.
    Refused(Bytes),
}

/// What came of asking for a shared process.
pub(super) enum Shared {
    /// It takes requests.
    Ready(Arc<Process>, Met),
    /// The program refused to be introduced to.
    Refused(Bytes),
}

impl Program {
    pub(super) fn new(name: &str, spec: Arc<plan::Program>, house: &Arc<House>) -> Arc<Self> {
        let voice = Arc::new(Voice::new(house.log.clone(), name, &spec.env));
        Arc::new(Self {
            name: name.to_owned(),
            spec,
            voice,
            house: Arc::downgrade(house),
            sandbox: OnceLock::new(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Says once what there is to say about its sandbox.
    fn tell(&self, launch: &Launch) {
        self.sandbox.get_or_init(|| {
            let report = launch.report();
            let level =
                if report.lacks.is_empty() && report.notes.is_empty() { Level::Info } else { Level::Warn };
            self.voice.say(level, "program.sandbox", &report.to_string());
            report.to_string()
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many processes serve everybody.
    fn width(&self) -> usize {
        match self.spec.processes {
            Processes::Pool(count) => count.max(1) as usize,
            Processes::Auto | Processes::Shared | Processes::Session => 1,
        }
    }

    /// Does `work` on the runtime that keeps the processes, whatever becomes of the caller.
    async fn at_home<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, SeamError>> + Send + 'static,
    ) -> Result<T, SeamError> {
        let gone = || SeamError::Denied("the program is being stopped".to_owned());
        let home = self.house.upgrade().and_then(|house| house.runtime.get().cloned()).ok_or_else(gone)?;
        home.spawn(work).await.map_err(|_| gone())?
    }

    /// Which era the program is of: known, or asked.
    pub(super) async fn era(self: &Arc<Self>) -> Result<Era, SeamError> {
        if let Some(era) = self.state().era {
            return Ok(era);
        }
        let program = self.clone();
        self.at_home(async move { program.probe().await }).await
    }

    async fn probe(self: Arc<Self>) -> Result<Era, SeamError> {
        let _turn = self.turn.lock().await;
        if let Some(era) = self.state().era {
            return Ok(era);
        }
        let process = self.start().await?;
        let reply = asked(&process).await;
        let era = match &reply {
            Reply::Answer(answer) if is_modern(answer) => Era::Modern,
            // Older servers answer with any error, or not at all (2026-07-28 stdio, "Backward Compatibility").
            Reply::Answer(_) | Reply::Silent | Reply::Gone(_) => Era::Legacy,
        };
        process.silent.store(matches!(reply, Reply::Silent), Ordering::Relaxed);
        let what = match &reply {
            Reply::Answer(_) if era == Era::Modern => "speaks 2026-07-28",
            Reply::Answer(_) => "speaks older revisions",
            Reply::Silent => "does not answer server/discover: taken for one of an older revision",
            Reply::Gone(_) => {
                "ended when it was asked for server/discover: taken for one of an older revision"
            }
        };
        self.voice.say(Level::Info, "program.era", what);
        let mut state = self.state();
        state.era = Some(era);
        state.is_shy = !matches!(reply, Reply::Answer(_));
        match era {
            Era::Modern => {
                state.down = None;
                process.set_use(Use::Modern);
                state.modern.push(process);
            }
            Era::Legacy => {
                // One that has ended was asked too much. The next one is not.
                if !matches!(reply, Reply::Gone(_)) {
                    state.fresh = Some(process);
                }
            }
        }
        Ok(era)
    }

    /// A late answer to the question what the program is.
    pub(super) fn learned_late(&self, process: &Arc<Process>, answer: &[u8]) {
        if is_modern(answer) && matches!(process.serves(), Use::Fresh) {
            self.voice.say(Level::Info, "program.era", "speaks 2026-07-28, as it says after all");
            let mut state = self.state();
            (state.era, state.is_shy) = (Some(Era::Modern), false);
            state.fresh = None;
            process.set_use(Use::Modern);
            state.modern.push(process.clone());
        }
    }

    /// A process for a modern request; `round` is what its `requestState` comes to, if it has one.
    pub(super) async fn modern(
        self: &Arc<Self>,
        round: Option<&RawValue>,
    ) -> Result<Arc<Process>, SeamError> {
        if let Some(process) = round.and_then(|round| self.process_of(round)) {
            return Ok(process);
        }
        if let Some(process) = self.least_busy() {
            return Ok(process);
        }
        let program = self.clone();
        self.at_home(async move {
            let _turn = program.turn.lock().await;
            if let Some(process) = program.least_busy() {
                return Ok(process);
            }
            let process = program.start().await?;
            process.set_use(Use::Modern);
            program.state().modern.push(process.clone());
            Ok(process)
        })
        .await
    }

    /// The modern process with the least to do, if there are as many as there may be.
    fn least_busy(&self) -> Option<Arc<Process>> {
        let state = self.state();
        let open: Vec<_> = state.modern.iter().filter(|process| process.is_open()).collect();
        let least = open.iter().min_by_key(|process| process.table().flights.len())?;
        let free = least.table().is_idle();
        (free || open.len() >= self.width()).then(|| (*least).clone())
    }

    /// A process that has been introduced to with `params`, and its answer.
    async fn introduced(self: &Arc<Self>, params: &str) -> Result<(Arc<Process>, Bytes), SeamError> {
        let mut first = true;
        loop {
            let fresh = self.state().fresh.take().filter(|process| process.is_open());
            let probed = fresh.is_some();
            let process = match fresh {
                Some(process) => process,
                None => self.start().await?,
            };
            let doubtful = process.silent.load(Ordering::Relaxed);
            let within = if doubtful { IN_DOUBT } else { INITIALIZE };
            let reply = process.ask("initialize", params, within).await;
            // One that was asked too early may have taken it amiss; another is not.
            let again = first && probed;
            first = false;
            match reply {
                Reply::Answer(answer) => {
                    if error_of(&answer).is_none() {
                        let mut state = self.state();
                        state.down = None;
                        state.era.get_or_insert(Era::Legacy);
                    }
                    return Ok((process, answer));
                }
                Reply::Silent => {
                    process.stop("it did not answer initialize");
                    if !again || !doubtful {
                        self.state().era = None;
                        let message = format!("the program did not answer initialize within {within:?}");
                        return Err(SeamError::Timeout(message));
                    }
                }
                Reply::Gone(_) if again => {}
                Reply::Gone(why) => {
                    self.state().era = None;
                    return Err(SeamError::Connect(why.replace("in mid-call", "at start").replace(
                        "; whether the call was done is not known",
                        "; the log has what it printed",
                    )));
                }
            }
        }
    }

    /// Introduces a client.
    pub(super) async fn open(
        self: &Arc<Self>,
        id: &RawValue,
        params: Option<&RawValue>,
    ) -> Result<Opened, SeamError> {
        let read = Params::of(params);
        let shares = match self.spec.processes {
            Processes::Auto => !can_be_asked(read.capabilities),
            Processes::Shared | Processes::Pool(_) => true,
            Processes::Session => false,
        };
        if !shares {
            let params = params.map_or("{}", RawValue::get);
            let params = String::from_utf8_lossy(line(params.as_bytes()).trim_ascii_end()).into_owned();
            let (program, id) = (self.clone(), id.to_owned());
            return self.at_home(async move { program.open_own(&id, &params).await }).await;
        }
        let wanted = read.protocol_version.and_then(string).and_then(|text| Revision::parse(&text));
        let slot = self.roomiest();
        let met = match self.shared(&slot).await? {
            Shared::Ready(_, met) => met,
            Shared::Refused(answer) => return Ok(Opened::Refused(named(&answer, id))),
        };
        let answer = met.for_client(id, wanted);
        let session = Session::new(token(), Place::Shared(slot));
        self.admit(&session);
        Ok(Opened::Session(session, answer))
    }

    async fn open_own(self: Arc<Self>, id: &RawValue, params: &str) -> Result<Opened, SeamError> {
        let (process, answer) = self.introduced(params).await?;
        let named = named(&answer, id);
        if error_of(&answer).is_some() {
            self.turned_down(&process);
            return Ok(Opened::Refused(named));
        }
        let session = Session::new(token(), Place::Own(process.clone()));
        process.set_use(Use::Session(Arc::downgrade(&session)));
        self.admit(&session);
        Ok(Opened::Session(session, named))
    }

    /// A process has refused to be introduced to: unless it has turned out to be a modern one, it is of no use.
    fn turned_down(&self, process: &Arc<Process>) {
        if !matches!(process.serves(), Use::Modern) {
            self.state().era = None;
            process.stop("it refused initialize");
        }
    }

    /// Takes a session in.
    fn admit(&self, session: &Arc<Session>) {
        let mut state = self.state();
        if state.sessions.len() >= SESSIONS {
            let oldest = state.sessions.values().min_by_key(|session| session.used());
            if let Some(id) = oldest.map(|session| session.id.clone()) {
                state.sessions.remove(&id);
            }
        }
        state.sessions.insert(session.id.clone(), session.clone());
    }

    /// The shared place with the fewest sessions.
    fn roomiest(&self) -> Arc<Slot> {
        let mut state = self.state();
        while state.slots.len() < self.width() {
            let slot = Slot::new(state.slots.len());
            state.slots.push(slot);
        }
        let mut counts = vec![0_usize; state.slots.len()];
        for session in state.sessions.values() {
            if let Place::Shared(slot) = &session.place
                && let Some(count) = counts.get_mut(slot.index)
            {
                *count += 1;
            }
        }
        let roomiest = state.slots.iter().min_by_key(|slot| counts.get(slot.index).copied().unwrap_or(0));
        roomiest.cloned().unwrap_or_else(|| Slot::new(0))
    }

    /// The process of a shared place: the one there is, or a new one that knows what the one before was told.
    pub(super) async fn shared(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Shared, SeamError> {
        if let Some((process, met)) = slot.ready() {
            return Ok(Shared::Ready(process, met));
        }
        let (program, slot) = (self.clone(), slot.clone());
        self.at_home(async move {
            let _turn = program.turn.lock().await;
            if let Some((process, met)) = slot.ready() {
                return Ok(Shared::Ready(process, met));
            }
            let params = format!(
                "{{\"protocolVersion\":\"{}\",\"capabilities\":{{}},\"clientInfo\":{IMPLEMENTATION}}}",
                Revision::LEGACY.as_str()
            );
            let (process, answer) = program.introduced(&params).await?;
            let result = match Message::decode(&answer) {
                Ok(Message::Response { outcome: Ok(result), .. }) => result,
                _ => {
                    program.turned_down(&process);
                    // Sessions with what it was before are over.
                    for session in program.sessions_of(&slot) {
                        program.close_session(&session.id);
                    }
                    return Ok(Shared::Refused(answer));
                }
            };
            let chosen = Params::of(Some(result)).protocol_version.and_then(string);
            let revision = chosen.and_then(|text| Revision::parse(&text));
            let met = Met { result: Bytes::copy_from_slice(result.get().as_bytes()), revision };
            process.set_use(Use::Shared(Arc::downgrade(&slot)));
            process.send(Bytes::from_static(INITIALIZED))?;
            slot.fill(&process, met.clone());
            program.remind(&slot, &process);
            Ok(Shared::Ready(process, met))
        })
        .await
    }

    /// Tells a new shared process what the one before knew.
    fn remind(self: &Arc<Self>, slot: &Arc<Slot>, process: &Arc<Process>) {
        let sessions = self.sessions_of(slot);
        let mut uris: Vec<String> = sessions.iter().flat_map(|session| session.subscriptions()).collect();
        uris.sort();
        uris.dedup();
        let least = sessions.iter().filter_map(|session| session.level()).min();
        slot.set_level(least);
        let process = process.clone();
        if least.is_none() && uris.is_empty() {
            return;
        }
        tokio::spawn(async move {
            if let Some(least) = least {
                let params = format!("{{\"level\":{}}}", level(least));
                process.ask("logging/setLevel", &params, IN_DOUBT).await;
            }
            for uri in uris {
                process.ask("resources/subscribe", &format!("{{\"uri\":{uri}}}"), IN_DOUBT).await;
            }
        });
    }

    /// The sessions that share the process of `slot`.
    fn sessions_of(&self, slot: &Arc<Slot>) -> Vec<Arc<Session>> {
        let here = |session: &&Arc<Session>| match &session.place {
            Place::Shared(own) => Arc::ptr_eq(own, slot),
            Place::Own(_) => false,
        };
        self.state().sessions.values().filter(here).cloned().collect()
    }

    /// Whether a client of the shared process reads its session's stream.
    pub(super) fn is_read(&self, slot: &Arc<Slot>) -> bool {
        self.sessions_of(slot).iter().any(|session| session.is_read())
    }

    /// Whether another session of the place is subscribed to `uri`.
    pub(super) fn is_wanted(&self, slot: &Arc<Slot>, uri: &str) -> bool {
        self.sessions_of(slot).iter().any(|session| session.is_subscribed(uri))
    }

    /// The least urgent level that a session of the place wants to hear.
    pub(super) fn least_level(&self, slot: &Arc<Slot>) -> Option<usize> {
        self.sessions_of(slot).iter().filter_map(|session| session.level()).min()
    }

    /// What a shared process says to no call in particular. Only news are for everybody: what else it says may be
    /// about one client's affairs, and goes to that client alone, or to nobody.
    pub(super) fn told_all(
        &self,
        slot: &Arc<Slot>,
        calling: Vec<Arc<Session>>,
        method: &str,
        read: &Params<'_>,
        message: &Bytes,
    ) -> bool {
        let sessions = self.sessions_of(slot);
        if method.ends_with("/list_changed") {
            sessions.iter().for_each(|session| _ = session.say(message.clone(), None));
            return true;
        }
        if method == "notifications/resources/updated" {
            let uri = read.uri.map_or("", RawValue::get);
            let subscribed = sessions.iter().filter(|session| session.is_subscribed(uri));
            subscribed.for_each(|session| _ = session.say(message.clone(), None));
            return true;
        }
        let mut possible = if calling.is_empty() { sessions } else { calling };
        possible.dedup_by(|a, b| Arc::ptr_eq(a, b));
        match possible.as_slice() {
            [only] => !only.hears(read.level) || only.say(message.clone(), None),
            _ => false,
        }
    }

    /// The session called `id`.
    pub(super) fn session(&self, id: &str) -> Option<Arc<Session>> {
        let session = self.state().sessions.get(id).cloned()?;
        if let Place::Own(process) = &session.place
            && !process.is_alive()
        {
            return None;
        }
        session.touch();
        Some(session)
    }

    /// Ends the session called `id`; says whether there was one.
    pub(super) fn close_session(&self, id: &str) -> bool {
        let Some(session) = self.state().sessions.remove(id) else { return false };
        session.close();
        match &session.place {
            Place::Own(process) => process.stop("its session has ended"),
            Place::Shared(slot) => {
                if let Some(process) = slot.process() {
                    process.end_calls_of(&session);
                    let left = session.subscriptions().into_iter().filter(|uri| !self.is_wanted(slot, uri));
                    for uri in left.collect::<Vec<_>>() {
                        let (process, params) = (process.clone(), format!("{{\"uri\":{uri}}}"));
                        let ask = async move {
                            process.ask("resources/unsubscribe", &params, IN_DOUBT).await;
                        };
                        if let Some(home) =
                            self.house.upgrade().and_then(|house| house.runtime.get().cloned())
                        {
                            home.spawn(ask);
                        }
                    }
                }
            }
        }
        true
    }

    /// Starts a process, unless it is too soon after a failure, or there are too many.
    async fn start(self: &Arc<Self>) -> Result<Arc<Process>, SeamError> {
        let (wait, down) = {
            let state = self.state();
            let wait = state.not_before.map(|then| then.saturating_duration_since(Instant::now()));
            (wait.unwrap_or_default(), state.down.clone())
        };
        if wait > PATIENCE {
            let why = down.unwrap_or_else(|| "the program does not start".to_owned());
            return Err(SeamError::Connect(format!("{why}; it is tried again in {} s", wait.as_secs() + 1)));
        }
        tokio::time::sleep(wait).await;
        let house = self.house.upgrade().ok_or_else(|| SeamError::Denied("the gateway stops".to_owned()))?;
        house.room().await?;
        let started = {
            let mut state = self.state();
            if state.closed {
                Err("the program is being stopped".to_owned())
            } else {
                let started = Launch::new(&self.name, &self.spec, &house.keeper).and_then(|launch| {
                    self.tell(&launch);
                    Process::start(&launch, self)
                });
                if let Ok(process) = &started {
                    state.all.push(process.clone());
                }
                started
            }
        };
        match started {
            Ok(process) => {
                self.voice.say(
                    Level::Info,
                    "program.started",
                    &format!("process {} was started", process.pid),
                );
                Ok(process)
            }
            Err(why) => {
                house.leave();
                let mut state = self.state();
                if state.down.as_ref() != Some(&why) {
                    self.voice.say(Level::Error, "program.unstartable", &why);
                }
                state.down = Some(why.clone());
                Err(SeamError::Connect(why))
            }
        }
    }

    /// A process has ended.
    pub(super) fn ended(self: &Arc<Self>, process: &Arc<Process>, by_itself: bool, how: &str) {
        let mut state = self.state();
        let other = |own: &Arc<Process>| !Arc::ptr_eq(own, process);
        state.all.retain(other);
        state.modern.retain(other);
        state.fresh = state.fresh.take().filter(other);
        // Whoever listened is told that something may have been missed, and comes back to a process that is there.
        if let Use::Shared(slot) = process.serves()
            && let Some(slot) = slot.upgrade()
        {
            let here = |session: &&Arc<Session>| match &session.place {
                Place::Shared(own) => Arc::ptr_eq(own, &slot),
                Place::Own(_) => false,
            };
            state.sessions.values().filter(here).for_each(|session| session.fail(how));
        }
        state.slots.iter().for_each(|slot| slot.empty(process));
        if state.all.is_empty() && !state.is_shy {
            // The next one may be of another version (2026-07-28 Versioning, "Backward Compatibility").
            state.era = None;
        }
        state.sessions.retain(|_, session| match &session.place {
            Place::Own(own) if !other(own) => {
                session.fail(how);
                false
            }
            _ => true,
        });
        if by_itself {
            state.restarts += 1;
            let useful = process.table().useful;
            if !useful && process.began.elapsed() < SOON {
                state.failures += 1;
                let pause = match state.failures {
                    0 | 1 => Duration::ZERO,
                    many if many < CEILING => PAUSE * (1 << (many - 2)),
                    _ => DOWN,
                };
                state.not_before = Some(Instant::now() + pause);
                let times = state.failures;
                let row = if times > 1 { format!(", {times} times in a row") } else { String::new() };
                state.down =
                    Some(format!("the program ended at start ({how}){row}; the log has what it printed"));
                if state.failures >= CEILING {
                    self.voice.say(
                        Level::Error,
                        "program.down",
                        &format!(
                            "it ended at start {times} times in a row ({how}) and is left alone for {DOWN:?}"
                        ),
                    );
                }
            } else {
                (state.failures, state.not_before, state.down) = (0, None, None);
            }
        }
        let again = self.spec.start == Start::Eager && !state.closed;
        let wait = state.not_before.map(|then| then.saturating_duration_since(Instant::now()));
        drop(state);
        if let Some(house) = self.house.upgrade() {
            house.leave();
            if again && let Some(home) = house.runtime.get() {
                let program = self.clone();
                home.spawn(async move {
                    tokio::time::sleep(wait.unwrap_or_default().max(PAUSE)).await;
                    program.warm().await;
                });
            }
        }
    }

    /// Has what serves everybody ready.
    pub(super) async fn warm(self: &Arc<Self>) {
        let closed = self.state().closed;
        if closed {
            return;
        }
        let done = match self.era().await {
            Err(error) => Err(error),
            Ok(Era::Modern) => self.modern(None).await.map(|_| ()),
            Ok(Era::Legacy) if self.spec.processes == Processes::Session => Ok(()),
            Ok(Era::Legacy) => {
                for _ in 0..self.width() {
                    self.roomiest();
                }
                let slots = self.state().slots.clone();
                let mut done = Ok(());
                for slot in slots {
                    done = done.and(self.shared(&slot).await.map(|_| ()));
                }
                done
            }
        };
        if let Err(error) = done {
            self.voice.say(Level::Warn, "program.start", &error.to_string());
        }
    }

    /// Starts nothing any more, and ends what has nothing to do. With `at_once`, everything.
    pub(super) fn close(&self, at_once: bool, why: &str) {
        let mut state = self.state();
        state.closed = true;
        for process in &state.all {
            process.retire();
            if at_once || process.table().is_idle() {
                process.stop(why);
            }
        }
        for session in std::mem::take(&mut state.sessions).into_values() {
            if at_once {
                session.close();
            }
        }
    }

    /// Resolves when it has no process any more.
    pub(super) async fn gone(&self) {
        loop {
            let Some(process) = self.state().all.first().cloned() else { return };
            process.gone().await;
        }
    }

    /// Processes that have nothing to do, with the time since when.
    pub(super) fn idle(&self) -> Vec<(Instant, Arc<Process>)> {
        let state = self.state();
        let idle = state.all.iter().filter(|process| {
            process.is_open()
                && process.table().is_idle()
                && !process.session().is_some_and(|session| session.is_read())
        });
        idle.map(|process| (process.table().used, process.clone())).collect()
    }

    /// Remembers which process a round has to go back to.
    pub(super) fn keep_state(&self, process: &Arc<Process>, answer: &[u8]) {
        const MARK: &[u8] = b"input_required";
        if !answer.windows(MARK.len()).any(|part| part == MARK) {
            return;
        }
        let Ok(Message::Response { outcome: Ok(result), .. }) = Message::decode(answer) else { return };
        if let Some(round) = Params::of(Some(result)).request_state {
            let mut state = self.state();
            state.states.retain(|(_, _, since)| since.elapsed() < STATE_AGE);
            if state.states.len() >= STATES {
                state.states.pop_front();
            }
            state.states.push_back((hash(round), Arc::downgrade(process), Instant::now()));
        }
    }

    fn process_of(&self, round: &RawValue) -> Option<Arc<Process>> {
        let hash = hash(round);
        let mut state = self.state();
        let at = state.states.iter().position(|(known, _, _)| *known == hash)?;
        let process = state.states.remove(at)?.1.upgrade()?;
        process.is_alive().then_some(process)
    }

    /// Whether a round may come back to `process`.
    pub(super) fn keeps_state(&self, process: &Arc<Process>) -> bool {
        let own = |other: &Weak<Process>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(process));
        let mut state = self.state();
        state.states.retain(|(_, _, since)| since.elapsed() < STATE_AGE);
        state.states.iter().any(|(_, other, _)| own(other))
    }

    /// What `/status` says of it.
    pub(super) fn status(&self) -> platform::Program {
        let (all, restarts, down) = {
            let state = self.state();
            (state.all.clone(), state.restarts, state.down.clone())
        };
        let process = |process: &Arc<Process>| platform::Process {
            pid: process.pid,
            state: process.state(),
            age_s: process.began.elapsed().as_secs(),
            calls: process.table().calls,
            memory: crate::sandbox::memory(process.pid),
        };
        let sandbox = self.sandbox.get().cloned();
        platform::Program { processes: all.iter().map(process).collect(), restarts, down, sandbox }
    }
}

impl Met {
    /// The answer to a client's `initialize`, in the revision that it wants if that is an older one.
    fn for_client(&self, id: &RawValue, wanted: Option<Revision>) -> Bytes {
        let mut result = self.result.clone();
        if let Some(wanted) = wanted.filter(|wanted| self.revision.is_some_and(|own| *wanted < own))
            && let Ok(raw) = serde_json::from_slice::<&RawValue>(&self.result)
            && let Some(place) = Params::of(Some(raw)).protocol_version
        {
            result = replaced(&self.result, [(place, format!("\"{}\"", wanted.as_str()).into_bytes())]);
        }
        [b"{\"jsonrpc\":\"2.0\",\"id\":", id.get().as_bytes(), b",\"result\":", &result, b"}"].concat().into()
    }
}

/// Asks a process what it is. One that is slow to start is waited for, one that ignores the question is not: older
/// servers take a ping before everything else.
async fn asked(process: &Arc<Process>) -> Reply {
    let mut discovered = pin!(process.ask("server/discover", DISCOVER, SLOW));
    if let Ok(reply) = timeout(PROBE, &mut discovered).await {
        return reply;
    }
    let there = pin!(process.ask("ping", "{}", SLOW));
    match select(discovered, there).await {
        Either::Left((reply, _)) => reply,
        Either::Right((Reply::Answer(_), discovered)) => {
            timeout(GRACE, discovered).await.unwrap_or(Reply::Silent)
        }
        Either::Right((_, discovered)) => discovered.await,
    }
}

/// `answer` as one to the request `id`.
fn named(answer: &Bytes, id: &RawValue) -> Bytes {
    match Message::decode(answer) {
        Ok(Message::Response { id: Some(place), .. }) => replaced(answer, [(place, id.get().into())]),
        _ => answer.clone(),
    }
}

/// Whether a client with these capabilities can be asked something.
fn can_be_asked(capabilities: Option<&RawValue>) -> bool {
    #[derive(Default, Deserialize)]
    struct Able<'a> {
        #[serde(borrow, default)]
        sampling: Option<&'a RawValue>,
        #[serde(borrow, default)]
        elicitation: Option<&'a RawValue>,
        #[serde(borrow, default)]
        roots: Option<&'a RawValue>,
    }
    let able: Able<'_> =
        capabilities.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    able.sampling.is_some() || able.elicitation.is_some() || able.roots.is_some()
}

/// Whether this answer to `server/discover` is a modern server's.
fn is_modern(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered {
        #[serde(rename = "supportedVersions")]
        _versions: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Unsupported {
        #[serde(rename = "supported")]
        _versions: Vec<String>,
    }
    match Message::decode(answer) {
        Ok(Message::Response { outcome: Ok(result), .. }) => {
            serde_json::from_str::<Discovered>(result.get()).is_ok()
        }
        _ => match error_of(answer) {
            Some((-32022, Some(data))) => serde_json::from_str::<Unsupported>(data.get()).is_ok(),
            _ => false,
        },
    }
}

fn hash(text: &RawValue) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.get().hash(&mut hasher);
    hasher.finish()
}

/// A session id that nobody guesses.
fn token() -> String {
    let mut bytes = [0_u8; 16];
    // Without randomness ids would meet: better none at all.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = (std::process::id() as u128 ^ (Instant::now().elapsed().as_nanos())).to_le_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_can_be_asked_are_known_by_what_they_declare() {
        let of = |text: &str| can_be_asked(Some(&RawValue::from_string(text.to_owned()).unwrap()));
        assert!(
            of(r#"{"elicitation":{}}"#)
                && of(r#"{"roots":{"listChanged":true}}"#)
                && of(r#"{"sampling":{}}"#)
        );
        assert!(!of("{}") && !of(r#"{"extensions":{"x":{}}}"#) && !can_be_asked(None));
    }

    #[test]
    fn modern_answers_are_told_from_others() {
        assert!(is_modern(br#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"]}}"#));
        assert!(is_modern(
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"","data":{"supported":["x"]}}}"#
        ));
        assert!(!is_modern(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":""}}"#));
        assert!(!is_modern(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    }

    #[test]
    fn shared_processes_speak_an_older_revision_to_those_who_ask_for_it() {
        let met = Met {
            result: Bytes::from_static(br#"{"protocolVersion":"2025-11-25","x":1}"#),
            revision: Some(Revision::LEGACY),
        };
        let id = RawValue::from_string("\"a\"".to_owned()).unwrap();
        let of = |wanted| String::from_utf8(met.for_client(&id, wanted).to_vec()).unwrap();
        assert_eq!(
            of(Some(Revision::V2025_06_18)),
            r#"{"jsonrpc":"2.0","id":"a","result":{"protocolVersion":"2025-06-18","x":1}}"#
        );
        assert_eq!(of(None), r#"{"jsonrpc":"2.0","id":"a","result":{"protocolVersion":"2025-11-25","x":1}}"#);
    }
}
