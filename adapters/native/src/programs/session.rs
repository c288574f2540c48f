//! Sessions with a program of an older revision, as the clients in front see them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::outlet::{Inlet, Item, Outlet, outlet};
use super::process::Process;
use super::shared::Slot;

/// How many messages wait for a client to ask for the session's stream.
const WAITING: usize = 64;
/// How many bytes they may have together.
const WAITING_BYTES: usize = 256 * 1024;
/// How long a program's request waits for that before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// The levels of logs, the least urgent first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// How urgent a log level is.
pub(super) fn rank(level: &RawValue) -> Option<usize> {
    LEVELS.iter().position(|known| level.get().trim_matches('"') == *known)
}

/// The level of this rank, as JSON.
pub(super) fn level(rank: usize) -> String {
    format!("\"{}\"", LEVELS.get(rank).unwrap_or(&"debug"))
}

/// Where a session's requests go.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// To a process of its own.
    Own(Arc<Process>),
    /// To one that it shares.
    Shared(Arc<Slot>),
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) place: Place,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stream: Option<Outlet>,
    waiting: VecDeque<Waiting>,
    level: Option<usize>,
    subscriptions: BTreeSet<String>,
    used: Instant,
}

/// A message that nobody has asked for yet.
#[derive(Debug)]
struct Waiting {
    message: Bytes,
    /// The id, if it is a request.
    asks: Option<Box<RawValue>>,
    since: Instant,
}

impl Session {
    pub(super) fn new(id: String, place: Place) -> Arc<Self> {
        let state = State {
            stream: None,
            waiting: VecDeque::new(),
            level: None,
            subscriptions: BTreeSet::new(),
            used: Instant::now(),
        };
        Arc::new(Self { id, place, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the session's stream, in the place of the one before.
    pub(super) fn open(&self) -> Inlet {
        let (stream, inlet) = outlet();
        let mut state = self.state();
        for waiting in std::mem::take(&mut state.waiting) {
            stream.say(waiting.message);
        }
        state.stream = Some(stream);
        state.used = Instant::now();
        inlet
    }

    /// Whether somebody reads the session's stream.
    pub(super) fn is_read(&self) -> bool {
        self.state().stream.as_ref().is_some_and(Outlet::is_read)
    }

    /// Says `message` on the session's stream, or keeps it for a while if nobody reads it. `asks` is its id, if it is
    /// a request. Says whether it found room.
    pub(super) fn say(&self, message: Bytes, asks: Option<&RawValue>) -> bool {
        let mut state = self.state();
        if let Some(stream) = state.stream.as_ref().filter(|stream| stream.is_read()) {
            return stream.say(message);
        }
        let bytes: usize = state.waiting.iter().map(|waiting| waiting.message.len()).sum();
        if bytes + message.len() > WAITING_BYTES {
            return false;
        }
        if state.waiting.len() >= WAITING {
            // The oldest news are worth least; a request is refused by the clock.
            match state.waiting.iter().position(|waiting| waiting.asks.is_none()) {
                Some(at) => _ = state.waiting.remove(at),
                None => return false,
            }
        }
        state.waiting.push_back(Waiting {
            message,
            asks: asks.map(RawValue::to_owned),
            since: Instant::now(),
        });
        true
    }

    /// The requests that have waited too long for somebody to read them.
    pub(super) fn overdue(&self) -> Vec<Box<RawValue>> {
        let mut state = self.state();
        if !state.waiting.iter().any(|waiting| waiting.asks.is_some() && waiting.since.elapsed() >= PATIENCE)
        {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        state.waiting.retain_mut(|waiting| match waiting.since.elapsed() >= PATIENCE {
            true => {
                let asks = waiting.asks.take();
                let keeps = asks.is_none();
                overdue.extend(asks);
                keeps
            }
            false => true,
        });
        overdue
    }

    /// The log level that its client has set.
    pub(super) fn level(&self) -> Option<usize> {
        self.state().level
    }

    pub(super) fn set_level(&self, level: usize) {
        self.state().level = Some(level);
    }

    /// Notes a subscription to `uri`, as JSON; says whether it is new.
    pub(super) fn subscribe(&self, uri: &str) -> bool {
        self.state().subscriptions.insert(uri.to_owned())
    }

    /// Notes that the subscription is no more; says whether there was one.
    pub(super) fn unsubscribe(&self, uri: &str) -> bool {
        self.state().subscriptions.remove(uri)
    }

    pub(super) fn is_subscribed(&self, uri: &str) -> bool {
        self.state().subscriptions.contains(uri)
    }

    pub(super) fn subscriptions(&self) -> Vec<String> {
        self.state().subscriptions.iter().cloned().collect()
    }

    /// It is used now.
    pub(super) fn touch(&self) {
        self.state().used = Instant::now();
    }

    /// When it was last used.
    pub(super) fn used(&self) -> Instant {
        self.state().used
    }

    /// Ends its stream.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.stream = None;
        state.waiting.clear();
    }

    /// Ends its stream with the reason.
    pub(super) fn fail(&self, why: &str) {
        if let Some(stream) = self.state().stream.take() {
            stream.finish(Item::Failed(causeway::platform::SeamError::Cut(why.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Arc<Session> {
        Session::new("s".to_owned(), Place::Shared(Slot::new(0)))
    }

    #[tokio::test]
    async fn what_nobody_reads_yet_waits_within_bounds() {
        let session = session();
        for n in 0..100 {
            assert!(session.say(Bytes::from(n.to_string()), None));
        }
        assert!(!session.say(Bytes::from(vec![b'x'; WAITING_BYTES + 1]), None));
        let mut inlet = session.open();
        let Some(Item::Message(first)) = inlet.next().await else { panic!("nothing") };
        assert_eq!(first, "36");
        assert!(session.is_read());
        drop(inlet);
        assert!(!session.is_read());
    }

    #[test]
    fn levels_are_ranked_by_urgency() {
        let of = |text: &str| rank(&RawValue::from_string(text.to_owned()).unwrap());
        assert!(of("\"debug\"") < of("\"error\"") && of("\"loud\"").is_none());
        assert_eq!(level(2), "\"notice\"");
    }
}
