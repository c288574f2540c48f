//! Sessions with a program of an older revision, as the clients in front see them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::outlet::{Body, Inlet, Item, Outlet, outlet};
use super::process::{Process, Ticket};
use super::shared::Slot;
use super::stream::{self, Stream};
use super::voice::Voice;
use crate::log::Level;

/// How many messages wait for a client to ask for the session's stream.
const WAITING: usize = 64;
/// How many bytes they may have together.
const WAITING_BYTES: usize = 256 * 1024;
/// How long a program's request waits for that before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream that nobody reads is kept. Then its call is given up.
const KEPT: Duration = Duration::from_secs(60);
/// How many streams are kept that nobody reads.
const STREAMS: usize = 64;

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
    stream: Option<(Outlet, Arc<Stream>)>,
    /// The streams that their readers may come back to, the oldest first, and since when nobody reads them.
    kept: VecDeque<(Arc<Stream>, Option<Instant>)>,
    waiting: VecDeque<Waiting>,
    /// Messages that there was no room for while nobody read.
    left_out: usize,
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
            kept: VecDeque::new(),
            waiting: VecDeque::new(),
            left_out: 0,
            level: None,
            subscriptions: BTreeSet::new(),
            used: Instant::now(),
        };
        Arc::new(Self { id, place, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the session's stream, in the place of the one before; `voice` says what is left out of it, or was.
    pub(super) fn open(&self, voice: &Arc<Voice>) -> Body {
        let (outlet, inlet) = outlet(Some(voice.clone()));
        let stream = Stream::new(None, inlet, None);
        let body = self.keep(&stream);
        let mut state = self.state();
        state.catch_up(&outlet);
        let left_out = std::mem::take(&mut state.left_out);
        if left_out > 0 {
            let text = format!("{left_out} messages were left out: nobody read the session's stream");
            voice.say(Level::Warn, "program.dropped", &text);
        }
        state.stream = Some((outlet, stream));
        state.used = Instant::now();
        body
    }

    /// The stream of a call: `first`, then what comes.
    pub(super) fn events(&self, first: Option<Item>, inlet: Inlet, ticket: Ticket) -> Body {
        self.keep(&Stream::new(first, inlet, Some(ticket)))
    }

    /// Reads `stream`, which its reader may lose and come back to.
    fn keep(&self, stream: &Arc<Stream>) -> Body {
        let mut state = self.state();
        state.kept.push_back((stream.clone(), None));
        let unread = |(_, (stream, _)): &(usize, &(Arc<Stream>, _))| !stream.is_read();
        let too_many = state.kept.iter().filter(|(stream, _)| !stream.is_read()).count() > STREAMS;
        let oldest = state.kept.iter().enumerate().find(unread).map(|(at, _)| at).filter(|_| too_many);
        let given_up = oldest.and_then(|at| state.kept.remove(at));
        drop(state);
        // It tells the process, which may be about to say something to this session.
        drop(given_up);
        stream.read().unwrap_or_else(|| Body::full(Bytes::new()))
    }

    /// Goes on with the stream that the event `id` was on, behind it; `None` if that is not kept.
    pub(super) fn resume(&self, id: &str) -> Option<Body> {
        let place = stream::Place::of(id)?;
        let mut state = self.state();
        let (stream, since) = state.kept.iter_mut().find(|(stream, _)| stream.name() == place.name)?;
        *since = None;
        let body = stream.read_behind(place)?;
        if let Some((outlet, stream)) = state.stream.take() {
            if stream.name() == place.name {
                state.catch_up(&outlet);
            }
            state.stream = Some((outlet, stream));
        }
        state.used = Instant::now();
        Some(body)
    }

    /// Forgets streams that nobody has come back to.
    pub(super) fn sweep(&self) {
        let mut given_up = Vec::new();
        let mut state = self.state();
        for (stream, since) in &mut state.kept {
            match since {
                _ if stream.is_read() => *since = None,
                None if !stream.lacks() => *since = Some(Instant::now()),
                None => given_up.push(stream.clone()),
                Some(since) if since.elapsed() >= KEPT || stream.lacks() => given_up.push(stream.clone()),
                Some(_) => {}
            }
        }
        let gone = |stream: &Arc<Stream>| given_up.iter().any(|other| Arc::ptr_eq(stream, other));
        state.kept.retain(|(stream, _)| !gone(stream));
        if state.stream.as_ref().is_some_and(|(_, stream)| gone(stream)) {
            state.stream = None;
        }
        // The process is told of what is given up, and may be about to say something to this session.
        drop(state);
    }

    /// Whether somebody reads the session's stream.
    pub(super) fn is_read(&self) -> bool {
        self.state().stream.as_ref().is_some_and(|(_, stream)| stream.is_read())
    }

    /// Says `message` on the session's stream, or keeps it for a while if nobody reads it. `asks` is its id, if it is
    /// a request. Says whether it found room.
    pub(super) fn say(&self, message: Bytes, asks: Option<&RawValue>) -> bool {
        let mut state = self.state();
        if let Some((outlet, _)) = state.stream.as_ref().filter(|(_, stream)| stream.is_read()) {
            return outlet.say(message);
        }
        let bytes: usize = state.waiting.iter().map(|waiting| waiting.message.len()).sum();
        if bytes + message.len() > WAITING_BYTES {
            state.left_out += usize::from(asks.is_none());
            return false;
        }
        if state.waiting.len() >= WAITING {
            // The oldest news are worth least; a request is refused by the clock.
            match state.waiting.iter().position(|waiting| waiting.asks.is_none()) {
                Some(at) => {
                    state.waiting.remove(at);
                    state.left_out += 1;
                }
                None => {
                    state.left_out += usize::from(asks.is_none());
                    return false;
                }
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

    /// Ends its stream, and the calls that nobody waits for.
    pub(super) fn close(&self) {
        let mut state = self.state();
        let gone = (state.stream.take(), std::mem::take(&mut state.kept));
        state.waiting.clear();
        drop(state);
        drop(gone);
    }

    /// Ends its stream with the reason.
    pub(super) fn fail(&self, why: &str) {
        let stream = self.state().stream.take();
        if let Some((outlet, _)) = stream {
            outlet.finish(Item::Failed(causeway::platform::SeamError::Cut(why.to_owned())));
        }
    }
}

impl State {
    /// Says what has waited.
    fn catch_up(&mut self, outlet: &Outlet) {
        for waiting in std::mem::take(&mut self.waiting) {
            outlet.say(waiting.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Log;
    use crate::log::tests::Sink;
    use futures_util::StreamExt as _;

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
        let sink = Sink::default();
        let log = Log::to(Level::Info, Box::new(sink.clone()));
        let mut body = session.open(&Arc::new(Voice::new(log.clone(), "chatty", &[])));
        log.flush();
        assert!(sink.text().contains("chatty: 37 messages were left out"), "{}", sink.text());
        let first = text(&mut body).await;
        assert!(first.ends_with("data: 36\n\n"), "{first}");
        assert!(session.is_read());
        drop(body);
        assert!(!session.is_read());
    }

    async fn text(body: &mut Body) -> String {
        String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_client_that_lost_the_stream_is_told_the_rest_of_it() {
        let (session, other) = (session(), session());
        let mut body = session.open(&Arc::new(Voice::new(Log::stderr(Level::Off), "chatty", &[])));
        session.say("1".into(), None);
        session.say("2".into(), None);
        let first = text(&mut body).await;
        let id = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
        drop(body);
        session.say("3".into(), None);
        assert!(other.resume(&id).is_none(), "another session's");
        assert!(session.resume("nonsense").is_none());
        let mut body = session.resume(&id).unwrap();
        assert!(session.is_read());
        for expect in ["2", "3"] {
            assert!(text(&mut body).await.ends_with(&format!("data: {expect}\n\n")));
        }
        session.sweep();
        assert!(session.resume(&id).is_some(), "what is read is kept");
        session.close();
        assert!(session.resume(&id).is_none());
    }

    #[test]
    fn levels_are_ranked_by_urgency() {
        let of = |text: &str| rank(&RawValue::from_string(text.to_owned()).unwrap());
        assert!(of("\"debug\"") < of("\"error\"") && of("\"loud\"").is_none());
        assert_eq!(level(2), "\"notice\"");
    }
}
