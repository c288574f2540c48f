//! What is said on one stream, kept until it has been read: written by whoever works, read by whoever is there.
//!
//! A reader may go and another come back for what it missed, as long as that is still kept. What is kept is bounded;
//! the oldest goes first, and a reader whose place has gone is told so instead of being given a stream with a hole.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::Stream;

use super::memory::lock;
use crate::platform::SeamError;

/// The writing side. Clones write to the same stream.
#[derive(Debug, Clone)]
pub struct Log(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Encoded events; the first of them is number `first`.
    events: VecDeque<Bytes>,
    first: u64,
    bytes: usize,
    /// How many bytes of events are kept for readers that come back; `None`: what has been read goes at once, and
    /// what has not stays.
    keeps: Option<usize>,
    ended: bool,
    /// Which reader reads; a new one takes the place of the one before.
    reader: u64,
    /// The next event that the reader wants, if there is one.
    reads: Option<u64>,
    /// The next event that nobody has read yet.
    unread: u64,
    wakers: Vec<Waker>,
}

impl State {
    /// Bytes that wait for the reader, if there is one.
    fn backlog(&self) -> usize {
        let Some(reads) = self.reads else { return 0 };
        let read = usize::try_from(reads.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.events.iter().skip(read).map(Bytes::len).sum()
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn wait(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.reserve_exact(1);
            self.wakers.push(waker.clone());
        }
    }
}

impl Log {
    /// A log that keeps `keeps` bytes of events for readers that come back.
    #[must_use]
    pub fn new(keeps: usize) -> Self {
        Self::with(Some(keeps))
    }

    /// A log for one reader, who will not come back. Its writer waits for [`Self::room`], or bounds it otherwise.
    #[must_use]
    pub fn once() -> Self {
        Self::with(None)
    }

    fn with(keeps: Option<usize>) -> Self {
        Self(Arc::new(Mutex::new(State {
            events: VecDeque::new(),
            first: 1,
            bytes: 0,
            keeps,
            ended: false,
            reader: 0,
            reads: None,
            unread: 1,
            wakers: Vec::new(),
        })))
    }

    /// Adds an event, encoded. Nothing is added after the end.
    pub fn push(&self, event: Bytes) {
        self.write(|_| event);
    }

    /// Adds an event that knows its number: the first is 1.
    pub fn write(&self, event: impl FnOnce(u64) -> Bytes) {
        let mut state = lock(&self.0);
        if state.ended {
            return;
        }
        let event = event(state.first + state.events.len() as u64);
        state.bytes += event.len();
        if state.events.is_empty() {
            // Many streams say one thing and then nothing for long.
            state.events.reserve_exact(1);
        }
        state.events.push_back(event);
        // The last event is kept whatever its size: without it there would be nothing to be read.
        while state.keeps.is_some_and(|keeps| state.bytes > keeps) && state.events.len() > 1 {
            if let Some(oldest) = state.events.pop_front() {
                state.bytes -= oldest.len();
                state.first += 1;
            }
        }
        state.wake();
    }

    /// Whether `other` writes to the same stream.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Nothing comes any more.
    pub fn end(&self) {
        let mut state = lock(&self.0);
        state.ended = true;
        state.wake();
    }

    /// Whether nothing comes any more.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        lock(&self.0).ended
    }

    /// Whether somebody reads.
    #[must_use]
    pub fn is_read(&self) -> bool {
        lock(&self.0).reads.is_some()
    }

    /// Reads from behind event number `after` on; takes the place of whoever reads now. `None` if an event behind it
    /// is not kept any more, or there never was such an event.
    #[must_use]
    pub fn tail(&self, after: u64) -> Option<Tail> {
        let mut state = lock(&self.0);
        let next = after.checked_add(1)?;
        if next < state.first || next > state.first + state.events.len() as u64 {
            return None;
        }
        state.reader += 1;
        state.reads = Some(next);
        state.wake();
        Some(Tail { log: self.clone(), reader: state.reader })
    }

    /// Reads what nobody has read yet and is still kept; with how many events nobody has read and nobody can any more.
    #[must_use]
    pub fn rest(&self) -> Option<(Tail, usize)> {
        let (after, lost) = {
            let mut state = lock(&self.0);
            let lost = state.first.saturating_sub(state.unread);
            state.unread += lost;
            (state.unread - 1, lost)
        };
        Some((self.tail(after)?, usize::try_from(lost).unwrap_or(usize::MAX)))
    }

    /// Resolves when nobody reads.
    pub async fn unread(&self) {
        self.until(|state| state.reads.is_none()).await;
    }

    /// Resolves when the reader, if there is one, has no more than `bytes` to catch up with: for a writer that would
    /// rather wait than lose anything.
    pub async fn room(&self, bytes: usize) {
        self.until(|state| state.backlog() <= bytes).await;
    }

    async fn until(&self, is_so: impl Fn(&State) -> bool) {
        poll_fn(|context| {
            let mut state = lock(&self.0);
            if is_so(&state) {
                return Poll::Ready(());
            }
            state.wait(context.waker());
            Poll::Pending
        })
        .await;
    }
}

/// The reading side: the bytes of an event stream. Ends with the log, or when another reader takes its place.
#[derive(Debug)]
pub struct Tail {
    log: Log,
    reader: u64,
}

impl Stream for Tail {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.log.0);
        let Some(reads) = state.reads.filter(|_| state.reader == self.reader) else {
            return Poll::Ready(None);
        };
        let Some(place) = reads.checked_sub(state.first) else {
            state.reads = None;
            state.wake();
            let message = "the reader was too slow, and what it had not read is not kept any more";
            return Poll::Ready(Some(Err(SeamError::Cut(message.to_owned()))));
        };
        match usize::try_from(place).ok().and_then(|place| state.events.get(place)) {
            Some(event) => {
                let event = event.clone();
                state.reads = Some(reads + 1);
                state.unread = state.unread.max(reads + 1);
                if state.keeps.is_none() {
                    state.bytes -= event.len();
                    state.events.pop_front();
                    state.first += 1;
                }
                state.wake();
                Poll::Ready(Some(Ok(event)))
            }
            None if state.ended => Poll::Ready(None),
            None => {
                state.wait(context.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let mut state = lock(&self.log.0);
        if state.reader == self.reader {
            state.reads = None;
            state.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _};

    fn read(tail: &mut Tail) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(Some(item)) = tail.next().now_or_never() {
            out.push(
                item.map_or_else(|error| error.to_string(), |b| String::from_utf8_lossy(&b).into_owned()),
            );
        }
        out
    }

    #[test]
    fn a_reader_that_comes_back_gets_what_it_missed_and_nothing_twice() {
        let log = Log::new(1024);
        let mut tail = log.tail(0).unwrap();
        log.push("a".into());
        assert_eq!(read(&mut tail), ["a"]);
        drop(tail);
        assert!(!log.is_read());
        log.push("b".into());
        log.push("c".into());
        assert_eq!(read(&mut log.tail(2).unwrap()), ["c"]);
        assert_eq!(read(&mut log.tail(1).unwrap()), ["b", "c"]);
        assert!(log.tail(4).is_none(), "no such event yet");
    }

    #[test]
    fn a_second_reader_takes_the_place_of_the_first() {
        let log = Log::new(1024);
        let mut first = log.tail(0).unwrap();
        let mut second = log.tail(0).unwrap();
        log.push("a".into());
        assert_eq!(first.next().now_or_never(), Some(None));
        drop(first);
        assert!(log.is_read(), "the second reads on");
        assert_eq!(read(&mut second), ["a"]);
        log.end();
        assert_eq!(second.next().now_or_never(), Some(None));
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_hole_is_told() {
        let log = Log::new(4);
        let mut slow = log.tail(0).unwrap();
        for event in ["aa", "bb", "cc"] {
            log.push(event.into());
        }
        assert!(read(&mut slow)[0].contains("too slow"));
        assert!(log.tail(0).is_none());
        assert_eq!(read(&mut log.tail(1).unwrap()), ["bb", "cc"]);
        log.push("a long one that is kept all the same".into());
        assert!(log.room(0).now_or_never().is_some(), "nobody reads, so nobody has to catch up");
        let mut tail = log.tail(3).unwrap();
        assert!(log.room(4).now_or_never().is_none());
        assert_eq!(read(&mut tail).len(), 1);
        assert!(log.room(4).now_or_never().is_some());
    }
}
