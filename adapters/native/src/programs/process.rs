//! One process: started, spoken to, watched, and ended in order.
//!
//! Its input and output belong to tasks on the runtime where it was started; whoever asks it something may be on
//! any thread. A process that floods, prints garbage or stops reading costs its own callers only.

mod heard;
mod pipes;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::platform::SeamError;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::launch::Launch;
use super::program::Program;
use super::session::{Place, Session, rank};
use super::shared::Slot;
use super::table::{Flight, Table, To};
use super::voice::Voice;

/// How many bytes may wait for a program to read them.
const UNREAD: usize = 32 * 1024 * 1024;

/// Whom a process serves.
#[derive(Debug, Clone)]
pub(super) enum Use {
    /// Nobody yet.
    Fresh,
    /// Stateless requests of 2026-07-28.
    Modern,
    /// Sessions that share it.
    Shared(Weak<Slot>),
    /// One session.
    Session(Weak<Session>),
}

/// A process that runs, or has run.
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) began: Instant,
    voice: Arc<Voice>,
    owner: Weak<Program>,
    input: Mutex<Option<mpsc::UnboundedSender<Bytes>>>,
    unread: Arc<AtomicUsize>,
    table: Mutex<Table>,
    serves: Mutex<Use>,
    /// It did not answer the first question, which it may take amiss.
    pub(super) silent: AtomicBool,
    /// It gets no more new work, and ends when it has none.
    retired: AtomicBool,
    /// A call was given up, and nothing is left to show that it still works.
    suspect: AtomicBool,
    pinging: AtomicBool,
    pinged: Mutex<Instant>,
    stop: Notify,
    /// Why it is being stopped, if it is.
    stopping: Mutex<Option<String>>,
    /// What its keeper has said of it: why it could not be run, or was ended.
    kept: Mutex<Option<String>>,
    gone: tokio::sync::watch::Sender<bool>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// What came of a question of our own.
#[derive(Debug)]
pub(super) enum Reply {
    /// The answer, a whole message.
    Answer(Bytes),
    /// Nothing in time.
    Silent,
    /// The process ended.
    Gone(Arc<str>),
}

/// Why a request was not sent. Nothing of it has reached the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The process takes nothing any more: another may.
    Closing,
    /// It does not read what it was sent before.
    Full,
}

impl From<Unsent> for SeamError {
    fn from(unsent: Unsent) -> Self {
        Self::Cut(match unsent {
            Unsent::Closing => "the program is being stopped".to_owned(),
            Unsent::Full => "the program does not read what it is sent".to_owned(),
        })
    }
}

/// The right to an answer. Dropping it gives the request up.
#[derive(Debug)]
pub(super) struct Ticket {
    process: Arc<Process>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.process.give_up(self.number, "the client has gone away");
    }
}

impl Process {
    /// Starts what `launch` says. To be called on the runtime that is to keep it.
    pub(super) fn start(launch: &Launch, owner: &Arc<Program>) -> Result<Arc<Self>, String> {
        let mut child = launch
            .command()?
            .spawn()
            .map_err(|error| format!("command: {} cannot be started: {error}", launch.file.display()))?;
        let (Some(stdin), Some(stdout), Some(stderr), Some(pid)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take(), child.id())
        else {
            return Err("command: the program has no input or output".to_owned());
        };
        let (input, lines) = mpsc::unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        let process = Arc::new(Self {
            pid,
            began: Instant::now(),
            voice: owner.voice.clone(),
            owner: Arc::downgrade(owner),
            input: Mutex::new(Some(input)),
            unread: unread.clone(),
            table: Mutex::new(Table::new()),
            serves: Mutex::new(Use::Fresh),
            silent: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            pinging: AtomicBool::new(false),
            pinged: Mutex::new(Instant::now()),
            stop: Notify::new(),
            stopping: Mutex::new(None),
            kept: Mutex::new(None),
            gone: tokio::sync::watch::Sender::new(false),
        });
        tokio::spawn(pipes::write(stdin, lines, unread));
        tokio::spawn(pipes::log(process.clone(), stderr));
        let (drained, drain) = oneshot::channel();
        let reader = tokio::spawn(pipes::read(process.clone(), stdout, owner.spec.max_line, drained));
        tokio::spawn(watch::keep(process.clone(), child, reader, drain));
        Ok(process)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom it serves.
    pub(super) fn serves(&self) -> Use {
        self.serves.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_use(&self, serves: Use) {
        *self.serves.lock().unwrap_or_else(PoisonError::into_inner) = serves;
    }

    /// Whether it takes new work.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.is_alive()
    }

    /// Whether it takes messages at all.
    pub(super) fn is_alive(&self) -> bool {
        self.table().ended.is_none() && self.why_stopping().is_none()
    }

    fn why_stopping(&self) -> Option<String> {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to end it if it has nothing to do: what comes at the same moment goes to another.
    fn stop_if_idle(&self, why: &str) {
        let mut table = self.table();
        if table.is_idle() {
            table.closing = true;
            drop(table);
            self.stop(why);
        }
    }

    /// Begins to end it.
    pub(super) fn stop(&self, why: &str) {
        self.table().closing = true;
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if stopping.is_none() {
            *stopping = Some(why.to_owned());
            self.stop.notify_one();
        }
    }

    /// Gives it no more new work; it ends when it has none.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Resolves when it has ended, with all its children.
    pub(super) async fn gone(&self) {
        // The sender lives as long as `self`.
        _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Sends a line.
    pub(super) fn send(&self, text: Bytes) -> Result<(), SeamError> {
        if self.unread.load(Ordering::Relaxed) > UNREAD {
            return Err(SeamError::Cut("the program does not read what it is sent".to_owned()));
        }
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let size = text.len();
        self.unread.fetch_add(size, Ordering::Relaxed);
        let sent = input.as_ref().is_some_and(|input| input.send(text).is_ok());
        if sent {
            return Ok(());
        }
        self.unread.fetch_sub(size, Ordering::Relaxed);
        Err(SeamError::Cut("the program has ended".to_owned()))
    }

    /// Sends the request that `compose` makes of its number.
    pub(super) fn begin(
        self: &Arc<Self>,
        flight: Flight,
        compose: impl FnOnce(u64) -> Bytes,
    ) -> Result<Ticket, Unsent> {
        let number = {
            let mut table = self.table();
            if table.closing || table.ended.is_some() {
                return Err(Unsent::Closing);
            }
            table.begin(flight)
        };
        let ticket = Ticket { process: self.clone(), number };
        if self.unread.load(Ordering::Relaxed) > UNREAD {
            self.table().forget(number);
            return Err(Unsent::Full);
        }
        if self.send(compose(number)).is_err() {
            self.table().forget(number);
            return Err(Unsent::Closing);
        }
        Ok(ticket)
    }

    /// Asks it something of our own.
    pub(super) async fn ask(self: &Arc<Self>, method: &str, params: &str, within: Duration) -> Reply {
        let (to, answer) = oneshot::channel();
        let ask = |number| {
            Bytes::from(format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{number},\"method\":\"{method}\",\"params\":{params}}}\n"
            ))
        };
        let ticket = match self.begin(Flight::own(to), ask) {
            Ok(ticket) => ticket,
            Err(_) => return Reply::Gone("the program is being stopped".into()),
        };
        match timeout(within, answer).await {
            Ok(Ok(Ok(answer))) => Reply::Answer(answer),
            Ok(Ok(Err(why))) => Reply::Gone(why),
            Ok(Err(_)) => Reply::Gone("the program has ended".into()),
            Err(_) => {
                if method == "server/discover"
                    && let Some(flight) = self.table().flights.get_mut(&ticket.number)
                {
                    // What comes too late is still worth knowing.
                    flight.to = To::Late;
                }
                Reply::Silent
            }
        }
    }

    /// Nobody waits for the answer to this request any more.
    pub(super) fn give_up(self: &Arc<Self>, number: u64, why: &str) {
        let mut table = self.table();
        if table.flights.get(&number).is_none_or(|flight| matches!(flight.to, To::Late)) {
            return;
        }
        let Some(flight) = table.forget(number) else { return };
        let idle = table.is_idle();
        drop(table);
        if flight.cancellable {
            let reason = String::from_utf8(causeway::wire::jsonrpc::quote(why)).unwrap_or_default();
            // A process that has ended need not be told.
            _ = self.send(Bytes::from(format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{number},\"reason\":{reason}}}}}\n"
            )));
            if idle {
                // It may be that it hangs: the next look asks.
                self.suspect.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Ends the calls of `session`, which has ended itself.
    pub(super) fn end_calls_of(self: &Arc<Self>, session: &Arc<Session>) {
        let numbers: Vec<u64> = {
            let table = self.table();
            let own = |flight: &Flight| flight.session.as_ref().is_some_and(|own| Arc::ptr_eq(own, session));
            table.flights.iter().filter(|(_, flight)| own(flight)).map(|(number, _)| *number).collect()
        };
        numbers.into_iter().for_each(|number| self.give_up(number, "the session has ended"));
    }

    /// What `/status` says of it.
    pub(super) fn state(&self) -> &'static str {
        if !self.is_alive() {
            "stopping"
        } else if self.retired.load(Ordering::Relaxed) {
            "retiring"
        } else if !self.table().is_idle() {
            "busy"
        } else if matches!(self.serves(), Use::Fresh) {
            "starting"
        } else {
            "idle"
        }
    }

    /// The session whose own it is.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        match self.serves() {
            Use::Session(session) => session.upgrade(),
            _ => None,
        }
    }
}

impl Session {
    /// The process that its requests go to now, if there is one.
    pub(super) fn process(&self) -> Option<Arc<Process>> {
        match &self.place {
            Place::Own(process) => Some(process.clone()),
            Place::Shared(slot) => slot.process(),
        }
    }

    /// Whether its client wants to hear a log message of this level.
    pub(super) fn hears(&self, level: Option<&RawValue>) -> bool {
        match (self.level(), level.and_then(rank)) {
            (Some(least), Some(this)) => this >= least,
            _ => true,
        }
    }
}
