//! The requests that a process has not answered yet, and whom each belongs to.
//!
//! Several clients speak over one pair of pipes, so each request has a number of its own there, and so has its
//! progress token; what comes back is given the client's own again. Nothing else in a message is changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use causeway::platform::SeamError;
use causeway::wire::jsonrpc::Splice;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::outlet::{Item, Outlet};
use super::session::Session;

/// How many requests that nobody waits for any more are remembered, so that a late answer is no riddle.
const FORGOTTEN: usize = 256;

/// A request on its way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its id, as the client wrote it.
    pub(super) id: Box<RawValue>,
    /// Its progress token, as the client wrote it.
    pub(super) token: Option<Box<RawValue>>,
    /// The session that it belongs to.
    pub(super) session: Option<Arc<Session>>,
    /// It is a subscription: it has no answer for as long as it lasts.
    pub(super) listens: bool,
    /// Log messages may be said on its stream.
    pub(super) wants_logs: bool,
    /// It is told to the program when nobody waits for the answer any more.
    pub(super) cancellable: bool,
    /// Who waits.
    pub(super) to: To,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum To {
    /// A client.
    Client(Outlet),
    /// This program itself.
    Own(oneshot::Sender<Result<Bytes, Arc<str>>>),
    /// Nobody any more, but the answer would tell which era the program is of.
    Late,
}

impl Flight {
    /// One of this program's own.
    pub(super) fn own(to: oneshot::Sender<Result<Bytes, Arc<str>>>) -> Self {
        Self {
            id: RawValue::NULL.to_owned(),
            token: None,
            session: None,
            listens: false,
            wants_logs: false,
            cancellable: false,
            to: To::Own(to),
        }
    }

    pub(super) fn outlet(&self) -> Option<&Outlet> {
        match &self.to {
            To::Client(outlet) => Some(outlet),
            To::Own(_) | To::Late => None,
        }
    }
}

/// The requests of one process.
#[derive(Debug)]
pub(super) struct Table {
    next: u64,
    pub(super) flights: BTreeMap<u64, Flight>,
    forgotten: VecDeque<u64>,
    /// Why the process takes nothing any more.
    pub(super) ended: Option<Arc<str>>,
    /// The process is being stopped, and takes nothing new.
    pub(super) closing: bool,
    /// When a client last wanted or got something.
    pub(super) used: Instant,
    /// How many requests of clients it was given.
    pub(super) calls: u64,
    /// It has answered one of them.
    pub(super) useful: bool,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            flights: BTreeMap::new(),
            forgotten: VecDeque::new(),
            ended: None,
            closing: false,
            used: Instant::now(),
            calls: 0,
            useful: false,
        }
    }

    /// Takes a request in and gives its number.
    pub(super) fn begin(&mut self, flight: Flight) -> u64 {
        let number = self.next;
        self.next += 1;
        if flight.outlet().is_some() {
            self.calls += 1;
            self.used = Instant::now();
        }
        self.flights.insert(number, flight);
        number
    }

    /// Forgets a request that nobody waits for; gives it if there was no answer yet.
    pub(super) fn forget(&mut self, number: u64) -> Option<Flight> {
        let flight = self.flights.remove(&number)?;
        if self.forgotten.len() >= FORGOTTEN {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(number);
        Some(flight)
    }

    /// Whether an answer to this request may still come, though nobody waits for it.
    pub(super) fn is_forgotten(&mut self, number: u64) -> bool {
        let at = self.forgotten.iter().position(|known| *known == number);
        at.is_some_and(|at| self.forgotten.remove(at).is_some())
    }

    /// The number of the client's request `id` in `session`.
    pub(super) fn number_of(&self, session: &Arc<Session>, id: &RawValue) -> Option<u64> {
        let same = |flight: &Flight| {
            flight.id.get() == id.get()
                && flight.session.as_ref().is_some_and(|own| Arc::ptr_eq(own, session))
        };
        self.flights.iter().find(|(_, flight)| same(flight)).map(|(number, _)| *number)
    }

    /// The requests of clients that are being worked on, oldest first.
    pub(super) fn clients(&self) -> impl Iterator<Item = (&Flight, &Outlet)> {
        let clients = self.flights.values().filter_map(|flight| Some((flight, flight.outlet()?)));
        clients.filter(|(flight, _)| !flight.listens)
    }

    /// Whether no client waits for anything, subscriptions included.
    pub(super) fn is_idle(&self) -> bool {
        !self.flights.values().any(|flight| flight.outlet().is_some())
    }

    /// Ends everything: the process takes nothing any more.
    pub(super) fn end(&mut self, why: &Arc<str>) {
        self.ended.get_or_insert_with(|| why.clone());
        for flight in std::mem::take(&mut self.flights).into_values() {
            match flight.to {
                To::Client(outlet) => outlet.finish(Item::Failed(SeamError::Cut(why.to_string()))),
                // Whoever asked may have stopped waiting.
                To::Own(to) => _ = to.send(Err(why.clone())),
                To::Late => {}
            }
        }
    }
}

/// What of a request's parameters matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Params<'a> {
    #[serde(borrow, default, rename = "_meta")]
    pub(super) meta: Option<Meta<'a>>,
    #[serde(borrow, default)]
    pub(super) progress_token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) uri: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) level: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) request_state: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) protocol_version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) capabilities: Option<&'a RawValue>,
}

/// What of `_meta` matters here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    pub(super) progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
    pub(super) subscription: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    pub(super) log_level: Option<&'a RawValue>,
}

impl<'a> Params<'a> {
    /// The parts of `params`; none where they are no object that can be read.
    pub(super) fn of(params: Option<&'a RawValue>) -> Self {
        params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default()
    }

    pub(super) fn token(&self) -> Option<&'a RawValue> {
        self.meta.as_ref().and_then(|meta| meta.progress_token).filter(|token| token.get() != "null")
    }
}

/// `text` as a line: JSON holds no line break that matters.
pub(super) fn line(text: &[u8]) -> Bytes {
    let breaks = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let mut line = Vec::with_capacity(text.len() + 1);
    line.extend(text.iter().map(|byte| if breaks(byte) { b' ' } else { *byte }));
    line.push(b'\n');
    Bytes::from(line)
}

/// `text` with each place replaced by what belongs there.
pub(super) fn replaced<'a>(text: &[u8], places: impl IntoIterator<Item = (&'a RawValue, Vec<u8>)>) -> Bytes {
    let mut splice = Splice::new(text);
    for (place, new) in places {
        splice.replace(place, new);
    }
    splice.finish()
}

/// The number that `raw` is, if it is one of ours.
pub(super) fn number(raw: &RawValue) -> Option<u64> {
    raw.get().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway::wire::jsonrpc::Message;

    #[test]
    fn ids_and_tokens_are_exchanged_and_nothing_else() {
        let text = "{\"jsonrpc\":\"2.0\",\n \"id\":\"a\", \"method\":\"tools/call\",\"params\":{\"x\":1.50,\"_meta\":{\"progressToken\":\"t\",\"k\":[]}}}";
        let Ok(Message::Request { id, params, .. }) = Message::decode(text.as_bytes()) else {
            panic!("{text}")
        };
        let read = Params::of(params);
        let places = [(id, b"7".to_vec()), (read.token().unwrap(), b"7".to_vec())];
        let sent = line(&replaced(text.as_bytes(), places));
        let expect = "{\"jsonrpc\":\"2.0\",  \"id\":7, \"method\":\"tools/call\",\"params\":{\"x\":1.50,\"_meta\":{\"progressToken\":7,\"k\":[]}}}\n";
        assert_eq!(sent, expect);
    }

    #[test]
    fn late_answers_are_known_once() {
        let mut table = Table::new();
        let (to, _from) = oneshot::channel();
        let number = table.begin(Flight::own(to));
        assert!(table.forget(number).is_some() && table.forget(number).is_none());
        assert!(table.is_forgotten(number) && !table.is_forgotten(number));
    }
}
