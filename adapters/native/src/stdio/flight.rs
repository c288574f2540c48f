//! The client's requests that have no answer yet: how many, how large, and how to end one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway::mcp::revision::Era;
use causeway::wire::jsonrpc::string;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How much there may be at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Requests.
    pub(super) requests: usize,
    /// Bytes of all their messages: each is kept until it is answered, to be sent again if it must be.
    pub(super) bytes: usize,
}

/// What a cancellation comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cancelled {
    /// There is no such request any more, or it is one that is not to be cancelled.
    Nothing,
    /// The request was ended here, and with it its exchange: nobody needs to be told.
    Ended,
    /// Nothing will be said for the request any more, but the server must be told. Then it can be [`Flight::end`]ed.
    Tell(u64),
}

/// What is in flight.
#[derive(Debug)]
pub(super) struct Flight {
    room: Room,
    inner: Mutex<Inner>,
    landed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    bytes: usize,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    id: String,
    bytes: usize,
    kind: Kind,
    /// The gateway may have it.
    sent: bool,
    cancelled: bool,
    task: Option<AbortHandle>,
}

/// What sort of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Has one answer.
    Call(Era),
    /// The handshake, which must not be cancelled (2025-11-25 Cancellation, "Behavior Requirements").
    Handshake,
    /// A subscription, which has none until it ends.
    Subscription,
}

/// A place in flight. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Ticket {
    flight: Arc<Flight>,
    number: u64,
}

impl Flight {
    pub(super) fn new(room: Room) -> Arc<Self> {
        Arc::new(Self { room, inner: Mutex::default(), landed: Notify::new() })
    }

    /// Takes a request of `bytes` on, if there is room for it.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn admit(self: &Arc<Self>, id: &RawValue, kind: Kind, bytes: usize) -> Result<Ticket, String> {
        let mut inner = self.lock();
        if inner.entries.len() >= self.room.requests {
            let most = self.room.requests;
            return Err(format!("{most} requests are waiting for their answers: wait for one of them, too"));
        }
        if inner.bytes + bytes > self.room.bytes && !inner.entries.is_empty() {
            let most = self.room.bytes >> 20;
            return Err(format!("more than {most} MiB of requests wait for their answers: wait, too"));
        }
        inner.next += 1;
        inner.bytes += bytes;
        let number = inner.next;
        let entry = Entry { id: key(id), bytes, kind, sent: false, cancelled: false, task: None };
        inner.entries.insert(number, entry);
        Ok(Ticket { flight: self.clone(), number })
    }

    /// The client has cancelled the request `id`.
    pub(super) fn cancel(&self, id: &RawValue) -> Cancelled {
        let id = key(id);
        let mut inner = self.lock();
        // Where a client uses an id twice at once, it can only mean the later one.
        let meant =
            inner.entries.iter_mut().filter(|(_, entry)| entry.id == id).max_by_key(|(number, _)| **number);
        let Some((number, entry)) = meant else { return Cancelled::Nothing };
        if entry.kind == Kind::Handshake {
            return Cancelled::Nothing;
        }
        entry.cancelled = true;
        // In the legacy era hanging up is not cancelling (2025-11-25 Transports, "Sending Messages to the Server").
        if entry.kind == Kind::Call(Era::Legacy) && entry.sent {
            return Cancelled::Tell(*number);
        }
        let task = entry.task.clone();
        drop(inner);
        task.inspect(AbortHandle::abort);
        Cancelled::Ended
    }

    /// The exchange of a request runs as `task`.
    pub(super) fn runs(&self, number: u64, task: AbortHandle) {
        if let Some(entry) = self.lock().entries.get_mut(&number) {
            entry.task = Some(task);
        }
    }

    /// Ends the exchange of a request.
    pub(super) fn end(&self, number: u64) {
        let task = self.lock().entries.get(&number).and_then(|entry| entry.task.clone());
        task.inspect(AbortHandle::abort);
    }

    /// Ends all subscriptions, and what else is in flight if `all` of it is to end.
    pub(super) fn end_all(&self, all: bool) {
        let mut ended = Vec::new();
        for entry in self.lock().entries.values_mut() {
            if all || entry.kind == Kind::Subscription {
                entry.cancelled = true;
                ended.extend(entry.task.clone());
            }
        }
        ended.iter().for_each(AbortHandle::abort);
    }

    /// Resolves when nothing is in flight.
    pub(super) async fn idle(&self) {
        loop {
            let landed = self.landed.notified();
            if self.lock().entries.is_empty() {
                return;
            }
            landed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Whether the gateway may have the request.
    pub(super) fn sent(&self, sent: bool) {
        if let Some(entry) = self.flight.lock().entries.get_mut(&self.number) {
            entry.sent = sent;
        }
    }

    /// Whether nothing is to be said any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.flight.lock().entries.get(&self.number).is_none_or(|entry| entry.cancelled)
    }

    /// By what [`Flight::end`] knows the request.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What is in flight, this included.
    pub(super) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.flight.lock();
        if let Some(entry) = inner.entries.remove(&self.number) {
            inner.bytes -= entry.bytes;
        }
        drop(inner);
        self.flight.landed.notify_waiters();
    }
}

/// A JSON-RPC id by its meaning: text may be escaped in more than one way.
pub(super) fn key(id: &RawValue) -> String {
    string(id).map_or_else(|| id.get().to_owned(), |text| format!("\"{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn flight() -> Arc<Flight> {
        Flight::new(Room { requests: 2, bytes: 10 })
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let flight = flight();
        let one = flight.admit(&id("1"), Kind::Call(Era::Modern), 4).unwrap();
        assert!(flight.admit(&id("2"), Kind::Call(Era::Modern), 7).unwrap_err().contains("MiB"));
        let _two = flight.admit(&id("2"), Kind::Call(Era::Modern), 6).unwrap();
        assert!(flight.admit(&id("3"), Kind::Call(Era::Modern), 0).unwrap_err().contains("2 requests"));
        drop(one);
        assert!(flight.admit(&id("3"), Kind::Call(Era::Modern), 4).is_ok());
    }

    #[test]
    fn one_request_may_be_as_large_as_a_line() {
        assert!(flight().admit(&id("1"), Kind::Call(Era::Modern), 99).is_ok());
    }

    #[test]
    fn cancelling_ends_or_tells() {
        let flight = flight();
        let modern = flight.admit(&id("1"), Kind::Call(Era::Modern), 0).unwrap();
        modern.sent(true);
        assert_eq!(flight.cancel(&id("1")), Cancelled::Ended);
        assert!(modern.is_cancelled());
        let legacy = flight.admit(&id("\"a/b\""), Kind::Call(Era::Legacy), 0).unwrap();
        legacy.sent(true);
        assert_eq!(flight.cancel(&id("\"a\\/b\"")), Cancelled::Tell(legacy.number()));
        drop(legacy);
        assert_eq!(flight.cancel(&id("\"a/b\"")), Cancelled::Nothing);
    }

    #[test]
    fn what_the_gateway_never_had_it_need_not_forget() {
        let flight = flight();
        let legacy = flight.admit(&id("1"), Kind::Call(Era::Legacy), 0).unwrap();
        assert_eq!(flight.cancel(&id("1")), Cancelled::Ended);
        drop(legacy);
        let _handshake = flight.admit(&id("1"), Kind::Handshake, 0).unwrap();
        assert_eq!(flight.cancel(&id("1")), Cancelled::Nothing);
    }

    #[tokio::test]
    async fn idle_is_when_the_last_has_landed() {
        let flight = flight();
        flight.idle().await;
        let ticket = flight.admit(&id("1"), Kind::Call(Era::Modern), 0).unwrap();
        let waiting = tokio::spawn({
            let flight = flight.clone();
            async move { flight.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(ticket);
        waiting.await.unwrap();
    }
}
