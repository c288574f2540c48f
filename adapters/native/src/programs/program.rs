//! One server that is a program: which processes it has, who is served by which, and when there is a new one.

mod era;
mod sessions;

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::config::plan::{self, Processes, Start};
use causeway::mcp::revision::Era;
use causeway::platform::{self, SeamError};
use causeway::wire::jsonrpc::Message;
use serde_json::value::RawValue;

use super::House;
use super::launch::Launch;
use super::process::{Process, Use};
use super::session::{Place, Session};
use super::shared::{Met, Slot};
use super::table::Params;
use super::voice::Voice;
use crate::log::Level;

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

    /// Whether this process is kept for whoever comes next.
    pub(super) fn keeps_fresh(&self, process: &Arc<Process>) -> bool {
        self.state().fresh.as_ref().is_some_and(|fresh| Arc::ptr_eq(fresh, process))
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

fn hash(text: &RawValue) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.get().hash(&mut hasher);
    hasher.finish()
}
