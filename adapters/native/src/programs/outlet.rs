//! What is said to one reader: the messages of a call, or of a session's stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use causeway::mcp::tail::Tail;
use causeway::platform::SeamError;
use causeway::wire::sse::Event;
use futures_util::Stream;
use tokio::sync::mpsc;

use super::process::Ticket;
use super::stream::Stream as Kept;
use super::voice::Voice;
use crate::log::Level;

/// How much may wait for a reader, besides the answer; what a program says beyond is left out.
const WAITING: usize = 4 * 1024 * 1024;
/// What a message takes besides its bytes.
const OVERHEAD: usize = 64;

/// What a reader is told.
#[derive(Debug)]
pub(super) enum Item {
    /// A message; more will come.
    Message(Bytes),
    /// The last one.
    Last(Bytes),
    /// There will be no answer.
    Failed(SeamError),
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Outlet {
    to: mpsc::UnboundedSender<Item>,
    waiting: Arc<Waiting>,
    /// Where it is said that something was left out.
    voice: Option<Arc<Voice>>,
}

/// What waits for a reader.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// Messages that were left out since there was too much.
    lacks: AtomicUsize,
}

/// The reading end.
#[derive(Debug)]
pub(super) struct Inlet {
    from: mpsc::UnboundedReceiver<Item>,
    waiting: Arc<Waiting>,
}

/// The two ends of one; `voice` says in the end what was left out of it.
pub(super) fn outlet(voice: Option<Arc<Voice>>) -> (Outlet, Inlet) {
    let (to, from) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting::default());
    (Outlet { to, waiting: waiting.clone(), voice }, Inlet { from, waiting })
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let lacks = self.waiting.lacks.load(Ordering::Relaxed);
        if let Some(voice) = self.voice.as_ref().filter(|_| lacks > 0) {
            let text = format!(
                "{lacks} messages were left out: its client reads more slowly than they come, and {WAITING} bytes waited"
            );
            voice.say(Level::Warn, "program.dropped", &text);
        }
    }
}

impl Outlet {
    /// Says `message`, unless nobody reads, or too slowly. Says whether it did.
    pub(super) fn say(&self, message: Bytes) -> bool {
        let size = message.len() + OVERHEAD;
        if self.waiting.bytes.load(Ordering::Relaxed) + size > WAITING {
            self.waiting.lacks.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.waiting.bytes.fetch_add(size, Ordering::Relaxed);
        self.to.send(Item::Message(message)).is_ok()
    }

    /// Says the last there is to say.
    pub(super) fn finish(&self, item: Item) {
        // Nobody may be left to hear it.
        _ = self.to.send(item);
    }
}

impl Inlet {
    /// The next item, for whoever waits for other things, too.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let item = ready!(self.from.poll_recv(cx));
        if let Some(Item::Message(message)) = &item {
            self.waiting.bytes.fetch_sub(message.len() + OVERHEAD, Ordering::Relaxed);
        }
        Poll::Ready(item)
    }

    /// Whether something was left out.
    pub(super) fn lacks(&self) -> bool {
        self.waiting.lacks.load(Ordering::Relaxed) > 0
    }

    /// The next item; `None` when there will be no more.
    pub(super) async fn next(&mut self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

/// The body of an answer. Dropping it before its end gives up the call, unless its reader may come back.
#[derive(Debug)]
pub struct Body(Inner);

#[derive(Debug)]
enum Inner {
    Full(Bytes),
    Events(Box<Events>),
    Kept(Arc<Kept>, Tail),
}

#[derive(Debug)]
struct Events {
    first: Option<Item>,
    inlet: Inlet,
    ticket: Option<Ticket>,
    ended: bool,
}

impl Body {
    /// All there is.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Full(bytes.into()))
    }

    /// An event stream: `first`, then what comes. The ticket is kept until the end.
    pub(super) fn events(first: Option<Item>, inlet: Inlet, ticket: Option<Ticket>) -> Self {
        Self(Inner::Events(Box::new(Events { first, inlet, ticket, ended: false })))
    }

    /// What is read of a stream that is kept.
    pub(super) fn kept(stream: Arc<Kept>, tail: Tail) -> Self {
        Self(Inner::Kept(stream, tail))
    }
}

impl Stream for Body {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let events = match &mut self.get_mut().0 {
            Inner::Full(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Inner::Full(bytes) => return Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Inner::Events(events) => events,
            Inner::Kept(stream, tail) => return stream.poll(tail, cx),
        };
        if events.ended {
            return Poll::Ready(None);
        }
        let item = match events.first.take() {
            Some(item) => Some(item),
            None => ready!(events.inlet.poll(cx)),
        };
        Poll::Ready(match item {
            Some(Item::Message(message)) => Some(Ok(Event::message(message).encode())),
            last => {
                events.ended = true;
                events.ticket = None;
                match last {
                    Some(Item::Last(message)) => Some(Ok(Event::message(message).encode())),
                    Some(Item::Failed(error)) => Some(Err(error)),
                    _ => None,
                }
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Inner::Full(bytes) => (usize::from(!bytes.is_empty()), Some(usize::from(!bytes.is_empty()))),
            Inner::Events(_) | Inner::Kept(..) => (0, None),
        }
    }
}
