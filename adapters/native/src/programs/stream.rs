//! A stream of a session that its reader may lose and come back to (2025-11-25 transports, "Resumability and
//! Redelivery").
//!
//! Each event has an id: the stream's name and a number. What has been read is kept within bounds; what has not been,
//! waits. A call goes on while its reader is away, for as long as the session keeps its stream.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use causeway::mcp::tail::{Log, Tail};
use causeway::platform::SeamError;
use causeway::wire::sse::Event;
use futures_util::Stream as _;

use super::outlet::{Body, Inlet, Item};
use super::process::Ticket;

/// How many bytes of events are kept for a reader that comes back.
const KEPT: usize = 256 * 1024;
/// What event ids begin with.
const MARK: char = 'p';
/// Names are of one stream in this process: an id of another session is never taken for one's own.
static NAMES: AtomicU64 = AtomicU64::new(1);

/// What is said on one stream.
#[derive(Debug)]
pub(super) struct Stream {
    name: u64,
    log: Log,
    pump: Mutex<Pump>,
}

/// Where it comes from.
#[derive(Debug)]
struct Pump {
    first: Option<Item>,
    inlet: Inlet,
    /// The right to the answer, for a call.
    ticket: Option<Ticket>,
    /// Why there is no answer.
    failed: Option<SeamError>,
    /// That has been said.
    is_lost: bool,
}

/// A place in a stream, as an event id has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: u64,
    after: u64,
}

impl Place {
    /// What `id` says; `None` if it is no id of ours.
    pub(super) fn of(id: &str) -> Option<Self> {
        let (name, after) = id.strip_prefix(MARK)?.split_once('-')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        Some(Self { name: number(name)?, after: number(after)? })
    }
}

impl Stream {
    /// A stream of `first` and what `inlet` brings. The ticket is kept until the end.
    pub(super) fn new(first: Option<Item>, inlet: Inlet, ticket: Option<Ticket>) -> Arc<Self> {
        let pump = Pump { first, inlet, ticket, failed: None, is_lost: false };
        let name = NAMES.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { name, log: Log::new(KEPT), pump: Mutex::new(pump) })
    }

    pub(super) fn name(&self) -> u64 {
        self.name
    }

    /// Whether somebody reads it.
    pub(super) fn is_read(&self) -> bool {
        self.log.is_read()
    }

    /// Whether something was left out of it: then it is of no use to a reader that comes back.
    pub(super) fn lacks(&self) -> bool {
        self.pump.lock().unwrap_or_else(PoisonError::into_inner).inlet.lacks()
    }

    /// Reads it from the beginning.
    pub(super) fn read(self: &Arc<Self>) -> Option<Body> {
        self.read_behind(Place { name: self.name, after: 0 })
    }

    /// Reads what comes behind `place`, in the place of whoever reads now; `None` if that is not kept, or there is
    /// nothing more to hear but that there was no answer.
    pub(super) fn read_behind(self: &Arc<Self>, place: Place) -> Option<Body> {
        if self.pump.lock().unwrap_or_else(PoisonError::into_inner).is_lost {
            return None;
        }
        if place.after > 0 && self.lacks() {
            return None;
        }
        let tail = self.log.tail(place.after)?;
        Some(Body::kept(self.clone(), tail))
    }

    /// The next event for the reader behind `tail`.
    pub(super) fn poll(
        &self,
        tail: &mut Tail,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, SeamError>>> {
        loop {
            match Pin::new(&mut *tail).poll_next(cx) {
                Poll::Pending => {}
                Poll::Ready(None) if self.log.is_ended() => {
                    let mut pump = self.pump.lock().unwrap_or_else(PoisonError::into_inner);
                    let failed = pump.failed.take();
                    pump.is_lost |= failed.is_some();
                    return Poll::Ready(failed.map(Err));
                }
                ready => return ready,
            }
            let mut pump = self.pump.lock().unwrap_or_else(PoisonError::into_inner);
            let item = match pump.first.take() {
                Some(item) => Some(item),
                None => match pump.inlet.poll(cx) {
                    Poll::Ready(item) => item,
                    Poll::Pending => return Poll::Pending,
                },
            };
            let (message, ended) = match item {
                Some(Item::Message(message)) => (Some(message), false),
                Some(Item::Last(message)) => (Some(message), true),
                Some(Item::Failed(why)) => {
                    pump.failed = Some(why);
                    (None, true)
                }
                None => (None, true),
            };
            let ticket = if ended { pump.ticket.take() } else { None };
            drop(pump);
            drop(ticket);
            if let Some(message) = message {
                let name = self.name;
                self.log.write(|number| {
                    let id = Some(format!("{MARK}{name}-{number}"));
                    Event { id, ..Event::message(message) }.encode()
                });
            }
            if ended {
                self.log.end();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::Sink;
    use crate::log::{Level, Log};
    use crate::programs::outlet::outlet;
    use crate::programs::voice::Voice;
    use futures_util::{FutureExt as _, StreamExt as _};

    fn read(body: &mut Body) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(Some(item)) = body.next().now_or_never() {
            let text =
                item.map_or_else(|e| e.to_string(), |b| String::from_utf8_lossy(&b).replace("\n", " "));
            out.push(text.trim().to_owned());
        }
        out
    }

    fn events(name: u64, numbers: &[u64]) -> Vec<String> {
        numbers.iter().map(|n| format!("id: p{name}-{n} data: {n}")).collect()
    }

    #[test]
    fn a_reader_that_comes_back_gets_the_rest_and_nothing_twice() {
        let (to, inlet) = outlet(None);
        let stream = Stream::new(Some(Item::Message("1".into())), inlet, None);
        let name = stream.name();
        let mut body = stream.read().unwrap();
        to.say("2".into());
        assert_eq!(read(&mut body), events(name, &[1, 2]));
        let place = |id: &str| Place::of(id).unwrap();
        // It comes back before it is known to have gone.
        let mut other = stream.read_behind(place(&format!("p{name}-1"))).unwrap();
        to.say("3".into());
        assert_eq!(body.next().now_or_never().map(|end| end.is_none()), Some(true));
        assert_eq!(read(&mut other), events(name, &[2, 3]));
        drop(other);
        assert!(!stream.is_read());
        to.say("4".into());
        to.finish(Item::Last("5".into()));
        assert!(stream.read_behind(place(&format!("p{name}-4"))).is_none(), "nobody has been told that yet");
        let mut again = stream.read_behind(place(&format!("p{name}-3"))).unwrap();
        assert_eq!(read(&mut again), events(name, &[4, 5]));
        let mut once_more = stream.read_behind(place(&format!("p{name}-4"))).unwrap();
        assert_eq!(read(&mut once_more), events(name, &[5]), "also behind its end");
    }

    #[test]
    fn that_there_is_no_answer_is_said_once() {
        let (to, inlet) = outlet(None);
        let stream = Stream::new(Some(Item::Message("1".into())), inlet, None);
        let mut body = stream.read().unwrap();
        to.finish(Item::Failed(SeamError::Cut("ended".to_owned())));
        let read = read(&mut body);
        assert!(read.len() == 2 && read[1].contains("ended"), "{read:?}");
        assert!(stream.read().is_none());
    }

    #[test]
    fn what_is_left_out_is_said_once() {
        let sink = Sink::default();
        let log = Log::to(Level::Info, Box::new(sink.clone()));
        let (to, inlet) = outlet(Some(Arc::new(Voice::new(log.clone(), "chatty", &[]))));
        let stream = Stream::new(None, inlet, None);
        let mut body = stream.read().unwrap();
        let said = (0..10).filter(|_| to.say(vec![b'x'; 1024 * 1024].into())).count();
        assert_eq!((said, stream.lacks()), (3, true));
        assert_eq!(read(&mut body).len(), 3);
        drop(to);
        log.flush();
        let text = sink.text();
        assert!(text.lines().count() == 1 && text.contains("chatty: 7 messages were left out"), "{text}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (to, inlet) = outlet(None);
        let stream = Stream::new(None, inlet, None);
        let mut body = stream.read().unwrap();
        for _ in 0..3 {
            to.say(vec![b'x'; KEPT / 2].into());
        }
        assert_eq!(read(&mut body).len(), 3);
        let behind = |after| stream.read_behind(Place { name: stream.name(), after });
        assert!(behind(1).is_none() && behind(2).is_some());
    }

    #[test]
    fn other_ids_are_none_of_ours() {
        for id in [
            "",
            "nonsense",
            "get1_99",
            "0",
            "p",
            "p1",
            "p1-",
            "p-1",
            "p+1-2",
            "p1--2",
            "p99999999999999999999-1",
        ] {
            assert_eq!(Place::of(id), None, "{id}");
        }
        assert_eq!(Place::of("p12-3"), Some(Place { name: 12, after: 3 }));
    }
}
