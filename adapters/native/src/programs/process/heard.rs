//! What a process says, and whom it concerns.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use causeway::wire::jsonrpc::{Message, decode_batch, error};
use serde_json::value::RawValue;

use super::{Process, Use};
use crate::log::Level;
use crate::programs::outlet::Item;
use crate::programs::table::{Params, To, line, number, replaced};

impl Process {
    /// A line from the program. Says whether it was of use.
    pub(super) fn heard(self: &Arc<Self>, text: &[u8]) -> bool {
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
    pub(super) fn too_long(&self, id: Option<&RawValue>) {
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
}
