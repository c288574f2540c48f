//! One process: started, spoken to, watched, and ended in order.
//!
//! Its input and output belong to tasks on the runtime where it was started; whoever asks it something may be on
//! any thread. A process that floods, prints garbage or stops reading costs its own callers only.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::platform::SeamError;
use causeway::wire::jsonrpc::{Message, decode_batch, error};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, timeout};

use super::launch::Launch;
use super::outlet::Item;
use super::program::Program;
use super::session::{Place, Session, rank};
use super::shared::Slot;
use super::table::{Flight, Params, Table, To, line, number, replaced};
use super::voice::Voice;
use crate::log::Level;
use crate::stdio::lines::{Line, Lines};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// How many bytes may wait for a program to read them.
const UNREAD: usize = 32 * 1024 * 1024;
/// How many bytes that are of no use a program may print in one second; then it has to wait.
const JUNK: usize = 1024 * 1024;
/// A line may be so many times as long as allowed, or this long, before its program is ended: it may be one that never ends,
/// and nobody hears what comes behind it.
const ENDLESS: (usize, usize) = (4, 32 * 1024 * 1024);
/// How long each step of ending a process takes at the most: its input is closed, it is asked to end, it is ended.
const STEP: Duration = Duration::from_secs(2);
/// How long the rest of the output is waited for once a process has ended.
const REST: Duration = Duration::from_millis(500);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A process that has nothing to do is asked whether it is there this often.
const PING: Duration = Duration::from_secs(60);
/// How long it may take to say so.
const PONG: Duration = Duration::from_secs(30);
/// How lines of its keeper begin. A program may write such lines as well, of itself.
const KEPT: &str = "causeway: ";
/// How long a line of the log that a program writes may be.
const LOGGED: usize = 16 * 1024;

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
    gone: watch::Sender<bool>,
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
            gone: watch::Sender::new(false),
        });
        tokio::spawn(write(stdin, lines, unread));
        tokio::spawn(log(process.clone(), stderr));
        let (drained, drain) = oneshot::channel();
        let reader = tokio::spawn(read(process.clone(), stdout, owner.spec.max_line, drained));
        tokio::spawn(keep(process.clone(), child, reader, drain));
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

    /// A line from the program. Says whether it was of use.
    fn heard(self: &Arc<Self>, text: &[u8]) -> bool {
        match decode_batch(text) {
            // Revision 2025-03-26 has batches.
            Ok(Some(batch)) => {
                batch.iter().map(|one| self.heard_one(one.get().as_bytes())).fold(true, |a, b| a & b)
            }
            Ok(None) => self.heard_one(text),
            Err(_) => self.heard_behind(text),
        }
    }

    fn heard_one(self: &Arc<Self>, text: &[u8]) -> bool {
        match Message::decode(text) {
            Ok(Message::Response { id: Some(id), .. }) => self.answered(text, id),
            Ok(Message::Response { id: None, outcome }) => self.refused_unnamed(text, outcome.err()),
            Ok(Message::Notification { method, params }) => self.told(text, &method, params),
            Ok(Message::Request { id, method, .. }) => self.asked(text, id, &method),
            Err(_) => self.heard_behind(text),
        }
    }

    /// A line that is no message. One may follow in it: what stands before it was printed without a line break.
    fn heard_behind(self: &Arc<Self>, text: &[u8]) -> bool {
        const MARK: &[u8] = b"{\"jsonrpc\"";
        let begins = text.windows(MARK.len()).rposition(|part| part == MARK);
        match begins.filter(|at| *at > 0).and_then(|at| text.split_at_checked(at)) {
            Some((before, message)) if Message::decode(message).is_ok() => {
                self.puzzled("printed what is no message", before);
                self.heard_one(message)
            }
            _ => self.puzzled("printed what is no message", text),
        }
    }

    fn answered(self: &Arc<Self>, text: &[u8], id: &RawValue) -> bool {
        let mut table = self.table();
        let known = number(id).and_then(|number| Some((number, table.flights.remove(&number)?)));
        let Some((_, flight)) = known else {
            let late = number(id).is_some_and(|number| table.is_forgotten(number));
            drop(table);
            return late || self.puzzled("answered a request that nobody made", text);
        };
        if flight.outlet().is_some() {
            table.used = Instant::now();
            table.useful = true;
        }
        drop(table);
        match flight.to {
            To::Own(to) => _ = to.send(Ok(Bytes::copy_from_slice(text))),
            To::Late => {
                if let Some(owner) = self.owner.upgrade() {
                    owner.learned_late(self, text);
                }
            }
            To::Client(outlet) => {
                if matches!(self.serves(), Use::Modern)
                    && let Some(owner) = self.owner.upgrade()
                {
                    owner.keep_state(self, text);
                }
                outlet.finish(Item::Last(replaced(text, [(id, flight.id.get().into())])));
            }
        }
        true
    }

    /// An error that names no request: if there is only one that it can be about, it is about that.
    fn refused_unnamed(&self, text: &[u8], error: Option<&RawValue>) -> bool {
        let mut table = self.table();
        let mut numbers = table.flights.keys().copied();
        let (Some(only), None, Some(error)) = (numbers.next(), numbers.next(), error) else {
            drop(table);
            return self.puzzled("printed an error about no request", text);
        };
        let Some(flight) = table.flights.remove(&only) else { return false };
        drop(table);
        let answer = Bytes::from(format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{}}}",
            if flight.outlet().is_some() { flight.id.get().to_owned() } else { only.to_string() },
            error.get()
        ));
        match flight.to {
            To::Own(to) => _ = to.send(Ok(answer)),
            To::Client(outlet) => outlet.finish(Item::Last(answer)),
            To::Late => {}
        }
        true
    }

    /// A notification.
    fn told(self: &Arc<Self>, text: &[u8], method: &str, params: Option<&RawValue>) -> bool {
        let read = Params::of(params);
        let mut table = self.table();
        if method == "notifications/progress" {
            let known =
                read.progress_token.and_then(|token| Some((token, table.flights.get(&number(token)?)?)));
            let Some((place, flight)) = known else { return false };
            let (Some(token), Some(outlet)) = (&flight.token, flight.outlet()) else { return false };
            let said = outlet.say(replaced(text, [(place, token.get().into())]));
            table.used = Instant::now();
            return said;
        }
        let subscription = read.meta.as_ref().and_then(|meta| meta.subscription);
        if let Some(place) = subscription
            && let Some(flight) = number(place).and_then(|number| table.flights.get(&number))
            && let Some(outlet) = flight.outlet()
        {
            return outlet.say(replaced(text, [(place, flight.id.get().into())]));
        }
        if method == "notifications/cancelled"
            && matches!(self.serves(), Use::Modern)
            && let Some(number) = read.request_id.and_then(number)
            && table.flights.get(&number).is_some_and(|flight| flight.listens)
        {
            // It has torn the subscription down (2026-07-28 Cancellation): the stream ends.
            return table.flights.remove(&number).is_some();
        }
        let message = || Bytes::copy_from_slice(text);
        match self.serves() {
            Use::Fresh => false,
            Use::Modern => {
                // Nothing in a log message says which request it is about. One that could be another caller's is
                // nobody's.
                let mut wanting = table.clients().filter(|(flight, _)| flight.wants_logs);
                match (wanting.next(), wanting.next()) {
                    (Some((_, outlet)), None) if method == "notifications/message" => outlet.say(message()),
                    _ => false,
                }
            }
            Use::Session(session) => {
                let Some(session) = session.upgrade() else { return false };
                let news = method.ends_with("/list_changed") || method == "notifications/resources/updated";
                let mut calls = table.clients();
                match (calls.next(), calls.next()) {
                    (Some((_, outlet)), None) if !news => outlet.say(message()),
                    (Some((_, outlet)), Some(_)) if !news && !session.is_read() => outlet.say(message()),
                    _ => session.say(message(), None),
                }
            }
            Use::Shared(slot) => {
                let news = method.ends_with("/list_changed") || method == "notifications/resources/updated";
                let mut calls = table.clients();
                if !news && let (Some((flight, outlet)), None) = (calls.next(), calls.next()) {
                    let hears = flight.session.as_ref().is_none_or(|session| session.hears(read.level));
                    return !hears || outlet.say(message());
                }
                drop(calls);
                let calling: Vec<_> =
                    table.clients().filter_map(|(flight, _)| flight.session.clone()).collect();
                drop(table);
                let (Some(owner), Some(slot)) = (self.owner.upgrade(), slot.upgrade()) else { return false };
                owner.told_all(&slot, calling, method, &read, &message())
            }
        }
    }

    /// A request of the program's.
    fn asked(self: &Arc<Self>, text: &[u8], id: &RawValue, method: &str) -> bool {
        if method == "ping" {
            _ = self
                .send(Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}\n", id.get())));
            return true;
        }
        let refuse = |why: &str| {
            _ = self.send(line(&error(Some(id), -32601, why, None)));
            self.puzzled(&format!("asked for {method}: {why}"), b"")
        };
        match self.serves() {
            // Such a server must not ask, and is not to be answered (2026-07-28 stdio, "Receiving Messages").
            Use::Modern => self.puzzled("sent a request, which servers of its revision do not", text),
            Use::Fresh => refuse("nobody has introduced themselves yet"),
            Use::Shared(_) => refuse("clients that share a process cannot be asked"),
            Use::Session(session) => {
                let Some(session) = session.upgrade() else { return refuse("the session has ended") };
                let message = Bytes::copy_from_slice(text);
                let table = self.table();
                let mut calls = table.clients();
                let said = match (calls.next(), calls.next()) {
                    (Some((_, outlet)), None) => outlet.say(message),
                    (Some((_, outlet)), Some(_)) if !session.is_read() => outlet.say(message),
                    _ => session.say(message, Some(id)),
                };
                drop(calls);
                drop(table);
                said || refuse("the client does not read")
            }
        }
    }

    /// A line that was longer than allowed.
    fn too_long(&self, id: Option<&RawValue>) {
        let limit = self.owner.upgrade().map_or(0, |owner| owner.spec.max_line);
        let why = format!("its answer is larger than {limit} bytes (max_response)");
        let flight = id.and_then(number).and_then(|number| self.table().flights.remove(&number));
        self.voice.say(
            Level::Warn,
            "program.line",
            &format!("a line is longer than {limit} bytes (max_response)"),
        );
        match flight.map(|flight| (flight.to, flight.id)) {
            Some((To::Client(outlet), id)) => {
                outlet.finish(Item::Last(error(
                    Some(&id),
                    -32603,
                    &format!("the program cannot be understood: {why}"),
                    None,
                )));
            }
            Some((To::Own(to), _)) => _ = to.send(Err(why.into())),
            Some((To::Late, _)) | None => {}
        }
    }

    fn puzzled(&self, what: &str, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text.get(..200).unwrap_or(text));
        let colon = if text.is_empty() { "" } else { ": " };
        self.voice.say(Level::Warn, "program.output", &format!("{what}{colon}{text}"));
        false
    }

    /// A look at how it is doing.
    fn look(self: &Arc<Self>) {
        let Some(owner) = self.owner.upgrade() else {
            self.stop("nobody wants it any more");
            return;
        };
        let spec = &owner.spec;
        let (idle, used, calls) = {
            let table = self.table();
            (table.is_idle(), table.used, table.calls)
        };
        let mut read = false;
        let serves = self.serves();
        match &serves {
            Use::Session(session) => {
                let Some(session) = session.upgrade() else {
                    self.stop("its session has ended");
                    return;
                };
                read = session.is_read();
                for id in session.overdue() {
                    _ = self.send(line(&error(Some(&id), -32603, "no client reads what it is asked", None)));
                }
            }
            Use::Shared(slot) => read = slot.upgrade().is_some_and(|slot| owner.is_read(&slot)),
            Use::Fresh | Use::Modern => {}
        }
        if self.is_open() {
            let recycle = &spec.recycle;
            let due = [
                recycle.age.is_some_and(|age| self.began.elapsed() >= age).then_some("its age"),
                recycle.calls.is_some_and(|most| calls >= most).then_some("the calls it has had"),
                recycle
                    .memory
                    .and_then(|most| Some(crate::sandbox::memory(self.pid)? >= most))
                    .unwrap_or_default()
                    .then_some("the memory it has taken"),
            ];
            if let Some(why) = due.into_iter().flatten().next() {
                self.voice.say(
                    Level::Info,
                    "program.recycled",
                    &format!("process {} is replaced for {why}", self.pid),
                );
                self.retire();
            }
        }
        if !idle {
            return;
        }
        if self.retired.load(Ordering::Relaxed) && !owner.keeps_state(self) {
            self.stop_if_idle("it was replaced");
            return;
        }
        let base = matches!(serves, Use::Modern | Use::Shared(_) | Use::Fresh);
        let kept = base && spec.start == causeway::config::plan::Start::Eager;
        if !read && !kept && used.elapsed() >= spec.idle_stop {
            self.stop_if_idle("nobody has used it");
            return;
        }
        let quiet = used.elapsed().min(self.pinged.lock().unwrap_or_else(PoisonError::into_inner).elapsed());
        let due = quiet >= PING || self.suspect.swap(false, Ordering::Relaxed);
        if due
            && !matches!(serves, Use::Fresh)
            && self.is_alive()
            && !self.pinging.swap(true, Ordering::Relaxed)
        {
            tokio::spawn(self.clone().ping());
        }
    }

    /// Asks whether it is there, and ends it if it is not.
    async fn ping(self: Arc<Self>) {
        let reply = match self.serves() {
            Use::Modern => self.ask("server/discover", super::program::DISCOVER, PONG).await,
            _ => self.ask("ping", "{}", PONG).await,
        };
        self.pinging.store(false, Ordering::Relaxed);
        *self.pinged.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        // A call that came meanwhile may keep it busy.
        if matches!(reply, Reply::Silent) && self.table().is_idle() && self.is_alive() {
            self.voice.say(
                Level::Warn,
                "program.hangs",
                &format!("process {} does not answer a ping", self.pid),
            );
            self.table().useful = true;
            self.stop("it did not answer a ping");
        }
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

/// Writes lines to a program until there are no more, or it takes no more.
async fn write(mut stdin: ChildStdin, mut lines: mpsc::UnboundedReceiver<Bytes>, unread: Arc<AtomicUsize>) {
    while let Some(line) = lines.recv().await {
        let done = stdin.write_all(&line).await;
        unread.fetch_sub(line.len(), Ordering::Relaxed);
        if done.is_err() || stdin.flush().await.is_err() {
            // It has closed its input, or ended; its end says so.
            return;
        }
    }
}

/// Logs what a program writes to its standard error.
async fn log(process: Arc<Process>, stderr: impl AsyncRead + Unpin) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut part = (&mut reader).take(LOGGED as u64);
        match part.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                if let Some(said) = text.strip_prefix(KEPT) {
                    process.voice.say(Level::Warn, "program.kept", said.trim_end());
                    let mut kept = process.kept.lock().unwrap_or_else(PoisonError::into_inner);
                    *kept = Some(said.trim_end().chars().take(500).collect());
                } else if !text.trim().is_empty() {
                    process.voice.say(Level::Info, "program.stderr", text.trim_end());
                }
            }
        }
    }
}

/// Reads what a program says, until it says no more.
async fn read(
    process: Arc<Process>,
    mut stdout: impl AsyncRead + Unpin,
    most: usize,
    drained: oneshot::Sender<()>,
) {
    let mut lines = Lines::new(most);
    let mut chunk = vec![0; CHUNK];
    let (mut second, mut junk) = (Instant::now(), 0);
    let take = |line: Line| match line {
        Line::Whole(text) => {
            let size = text.len();
            if process.heard(text.trim_ascii()) { 0 } else { size }
        }
        Line::TooLong(found) => {
            process.too_long(found.id.as_deref().filter(|_| !found.has_method));
            most
        }
    };
    loop {
        let count = match stdout.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        lines.push(chunk.get(..count).unwrap_or_default(), |line| {
            junk += take(line);
            true
        });
        if lines.overlong().is_some_and(|size| size > most.saturating_mul(ENDLESS.0).max(ENDLESS.1)) {
            process.stop("it prints a line that does not end");
            break;
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, junk) = (Instant::now(), 0);
        } else if junk > JUNK {
            // It is read no faster than it makes sense.
            tokio::time::sleep(Duration::from_secs(1).saturating_sub(second.elapsed())).await;
        }
    }
    if let Some(line) = lines.complete() {
        take(line);
    }
    _ = drained.send(());
}

/// Watches over a process until it has ended.
async fn keep(
    process: Arc<Process>,
    mut child: Child,
    reader: tokio::task::JoinHandle<()>,
    mut drained: oneshot::Receiver<()>,
) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut says_no_more = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            () = process.stop.notified() => break shut_down(&process, &mut child).await,
            _ = &mut drained, if !says_no_more => {
                // It may shut down by closing its output and ending (2026-07-28 stdio, "Shutdown").
                says_no_more = true;
                match timeout(STEP, child.wait()).await {
                    Ok(status) => break status.ok(),
                    Err(_) => process.stop("it has closed its output"),
                }
            }
            _ = look.tick() => process.look(),
        }
    };
    if !says_no_more {
        _ = timeout(REST, drained).await;
    }
    reader.abort();
    // Whatever it has started has gone with it: that is what its keeper is for.
    let wanted = process.why_stopping();
    let kept = process.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    let how = match (how(status), kept) {
        (how, Some(kept)) => format!("{how}: {kept}"),
        (how, None) => how,
    };
    let why: Arc<str> = match &wanted {
        Some(wanted) => format!("the program was stopped in mid-call ({wanted})").into(),
        None => {
            format!("the program ended in mid-call ({how}); whether the call was done is not known").into()
        }
    };
    process.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    process.table().end(&why);
    match &wanted {
        Some(wanted) => process.voice.say(
            Level::Info,
            "program.stopped",
            &format!("process {} was stopped: {wanted}", process.pid),
        ),
        None => process.voice.say(
            Level::Warn,
            "program.ended",
            &format!("process {} ended by itself: {how}", process.pid),
        ),
    }
    if let Some(owner) = process.owner.upgrade() {
        owner.ended(&process, wanted.is_none(), &how);
    }
    process.gone.send_replace(true);
}

/// Ends a process in order: its input is closed, it is asked to end, it is ended, with all of its group.
async fn shut_down(process: &Process, child: &mut Child) -> Option<ExitStatus> {
    process.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Ok(status) = timeout(STEP, child.wait()).await {
        return status.ok();
    }
    super::group::ask_to_end(process.pid);
    if let Ok(status) = timeout(STEP, child.wait()).await {
        return status.ok();
    }
    super::group::end(process.pid);
    #[cfg(unix)]
    if let Ok(status) = timeout(STEP, child.wait()).await {
        return status.ok();
    }
    // A keeper that does not end by itself: what it keeps ends with it all the same.
    _ = child.start_kill();
    timeout(STEP, child.wait()).await.ok()?.ok()
}

fn how(status: Option<ExitStatus>) -> String {
    let Some(status) = status else { return "nobody knows how".to_owned() };
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt as _;
        if let Some(signal) = status.signal() {
            return format!("ended by signal {signal}");
        }
    }
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => "nobody knows how".to_owned(),
    }
}
