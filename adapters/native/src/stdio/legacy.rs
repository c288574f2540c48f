//! The legacy era: a handshake, a session, a stream for what the server says unasked, answers to its questions.
//!
//! Source: 2025-11-25, Transports. Messages keep the client's order where it matters: the handshake comes before
//! everything else, and notifications and answers go out one after the other. Requests run side by side.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway::mcp::headers::SESSION;
use causeway::wire::jsonrpc::Message;
use http::{HeaderMap, HeaderName};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::endpoint::{Endpoint, Got};
use super::failure::{Failure, Said};
use super::stream::{Cursor, Events, messages, parts};
use super::{Ask, Bridge, lock, same};
use crate::http::Answer;
use crate::log::Level;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long the gateway may take to accept a notification or an answer.
const TELLING: Duration = Duration::from_secs(30);
/// What makes a session what it is, besides the handshake.
const SETTINGS: [&str; 3] = ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// What the client has said, in its order.
#[derive(Debug)]
pub(super) enum Errand {
    /// A request.
    Ask(Ask),
    /// The end of the handshake.
    Initialized(Bytes),
    /// The request of this number is cancelled.
    Cancelled(Bytes, u64),
    /// Another notification, or an answer.
    Tell(Bytes),
}

/// What to do about a stream that is not there.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// There is none, and there will be none.
    Stop,
    /// Open the session again.
    Reopen,
    /// Start anew and not where it was left.
    Anew,
    /// Try again later.
    Again,
}

impl Next {
    /// `had`: there was a stream in this session. `at`: it is to go on where it was left.
    fn after(failure: &Failure, had: bool, at: bool) -> Self {
        let status = failure.status().map_or(0, |status| status.as_u16());
        match status {
            400 if at => Self::Anew,
            // Before there ever was a stream, it only says that there is none.
            400 | 404 if had && failure.lost_session() => Self::Reopen,
            // A key that was taken away may be given back.
            401 | 403 if had => Self::Again,
            _ if failure.passes() => Self::Again,
            _ if matches!(failure, Failure::TooLarge(_)) => Self::Anew,
            _ => Self::Stop,
        }
    }
}

impl Bridge {
    /// Does the client's errands until there are no more.
    pub(super) async fn run_errands(self: Arc<Self>, mut errands: mpsc::Receiver<Errand>) {
        while let Some(errand) = errands.recv().await {
            match errand {
                Errand::Ask(ask) if ask.ticket.is_cancelled() => {}
                // Whatever comes next belongs into the session that this opens.
                Errand::Ask(ask) if ask.method == "initialize" => {
                    let answer = self.handshake(&ask).await;
                    self.reply(&ask, answer.map(Some)).await;
                }
                Errand::Ask(ask) => {
                    let bridge = self.clone();
                    Self::spawn(ask, |ask| bridge.answer_legacy(ask));
                }
                Errand::Initialized(message) => {
                    lock(&self.session).initialized(message.clone());
                    let generation = lock(&self.session).generation();
                    self.tell(&message).await;
                    // If the session was lost on the way, the new one has its stream already.
                    if lock(&self.session).generation() == generation {
                        self.stand(generation);
                    }
                }
                Errand::Cancelled(message, number) => {
                    self.tell(&message).await;
                    self.flight.end(number);
                }
                Errand::Tell(message) => self.tell(&message).await,
            }
        }
    }

    /// The client's `initialize`.
    async fn handshake(self: &Arc<Self>, ask: &Ask) -> Result<Bytes, Failure> {
        let (id, answer) = self.initialize(&ask.body, |sent| ask.ticket.sent(sent)).await?;
        let old = lock(&self.session).opened(ask.body.clone(), id, &answer);
        if let Some(old) = old {
            let bridge = self.clone();
            tokio::spawn(async move { bridge.endpoint.delete(&old, TELLING).await });
        }
        Ok(answer)
    }

    /// Opens a session: its id and the answer.
    async fn initialize(
        &self,
        body: &Bytes,
        sent: impl Fn(bool),
    ) -> Result<(Option<http::HeaderValue>, Bytes), Failure> {
        let Ok(Message::Request { id, .. }) = Message::decode(body) else {
            return Err(Failure::Unsendable("not a request"));
        };
        let response = self.endpoint.post(&HeaderMap::new(), body, sent).await?;
        let session = response.headers().get(SESSION).cloned();
        match self.endpoint.read(response).await? {
            Got::Nothing(status) => Err(Failure::Empty(status)),
            Got::Document(document) => {
                let generation = lock(&self.session).generation();
                let answer =
                    self.sort_legacy(Some(id), document, generation).await.ok_or(Failure::WrongId)?;
                Ok((session, answer))
            }
            Got::Events(mut events) => {
                while let Some(event) = events.next().await? {
                    for message in messages(event) {
                        let generation = lock(&self.session).generation();
                        if let Some(answer) = self.sort_legacy(Some(id), message, generation).await {
                            return Ok((session, answer));
                        }
                    }
                }
                Err(Failure::Ended)
            }
        }
    }

    /// Answers a request of the legacy era.
    async fn answer_legacy(self: Arc<Self>, ask: Ask) {
        let answer = self.ask(&ask).await;
        if SETTINGS.contains(&ask.method.as_str())
            && let Ok(answer) = &answer
            && Said::read(answer).is_none()
        {
            lock(&self.session).succeeded(&ask.method, &ask.body);
        }
        self.reply(&ask, answer.map(Some)).await;
    }

    /// Sends a request in the session, in a new one if that is lost.
    async fn ask(self: &Arc<Self>, ask: &Ask) -> Result<Bytes, Failure> {
        let mut may_reopen = true;
        loop {
            let (headers, generation) = lock(&self.session).headers();
            let response = self.endpoint.post(&headers, &ask.body, |sent| ask.ticket.sent(sent)).await?;
            match self.endpoint.read(response).await {
                Ok(got) => return self.follow(ask, got, generation).await,
                // Refused for its session, the request was not processed.
                Err(failure) if may_reopen && headers.contains_key(SESSION) && failure.lost_session() => {
                    may_reopen = false;
                    self.reopen(generation).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Reads on until the answer is there, over as many connections as that takes ("Resumability and Redelivery").
    async fn follow(self: &Arc<Self>, ask: &Ask, got: Got, generation: u64) -> Result<Bytes, Failure> {
        let mut events = match got {
            Got::Events(events) => events,
            Got::Nothing(status) => return Err(Failure::Empty(status)),
            Got::Document(document) => {
                let mut answer = None;
                for message in parts(document) {
                    answer = self.sort_legacy(Some(&ask.id), message, generation).await.or(answer);
                }
                return answer.ok_or(Failure::WrongId);
            }
        };
        let mut cursor = Cursor::default();
        let mut backoff = Backoff::stream();
        loop {
            let opened = Instant::now();
            let end = loop {
                match events.next().await {
                    Ok(Some(event)) => {
                        cursor.note(&event);
                        for message in messages(event) {
                            if let Some(answer) = self.sort_legacy(Some(&ask.id), message, generation).await {
                                return Ok(answer);
                            }
                        }
                    }
                    Ok(None) => break Failure::Ended,
                    Err(failure) => break failure,
                }
            };
            if cursor.last().is_none() || !end.passes() || ask.ticket.is_cancelled() {
                return Err(end);
            }
            backoff.held(opened.elapsed());
            events = self.resume(&cursor, &mut backoff, generation).await?;
        }
    }

    /// Takes a stream up where it was left.
    async fn resume(
        self: &Arc<Self>,
        cursor: &Cursor,
        backoff: &mut Backoff,
        generation: u64,
    ) -> Result<Box<Events<Answer>>, Failure> {
        let began = Instant::now();
        loop {
            tokio::time::sleep(cursor.pause(backoff)).await;
            let (mut headers, current) = lock(&self.session).headers();
            if current != generation {
                return Err(Failure::SessionLost);
            }
            cursor.last().iter().for_each(|last| _ = headers.insert(LAST_EVENT_ID, (*last).clone()));
            let failure = match get(&self.endpoint, &headers).await {
                Ok(Got::Events(events)) => return Ok(events),
                Ok(Got::Document(_) | Got::Nothing(_)) => return Err(Failure::Ended),
                Err(failure) => failure,
            };
            if failure.lost_session() {
                // What comes next is to find a session; this request went with the old one.
                _ = self.reopen(generation).await;
                return Err(Failure::SessionLost);
            }
            if !failure.passes() || began.elapsed() > self.endpoint.patience() {
                let words = self.endpoint.words(&failure);
                self.endpoint.note(Level::Warn, "stream.lost", &words);
                return Err(Failure::Cut("its stream could not be taken up again".to_owned()));
            }
        }
    }

    /// Sends what has no answer. Nobody can be told that it failed but the log.
    async fn tell(self: &Arc<Self>, message: &Bytes) {
        let (headers, generation) = lock(&self.session).headers();
        let telling = async {
            let response = self.endpoint.post(&headers, message, |_| ()).await?;
            self.endpoint.read(response).await.map(drop)
        };
        let told = tokio::time::timeout(TELLING, telling).await;
        let failure = match told {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Cut(format!("no answer in {} s", TELLING.as_secs())),
        };
        self.endpoint.note(Level::Warn, "message.lost", &self.endpoint.words(&failure));
        if headers.contains_key(SESSION) && failure.lost_session() {
            // The message belonged to the lost session. The next one should find a new one.
            _ = self.reopen(generation).await;
        }
    }

    /// Opens a new session in the place of the lost one of `generation`, unless that has been done.
    async fn reopen(self: &Arc<Self>, generation: u64) -> Result<(), Failure> {
        // On its own: the request that has noticed may be cancelled, and the others need the session all the same.
        let reopening = tokio::spawn(self.clone().reopen_once(generation));
        reopening.await.unwrap_or(Err(Failure::SessionLost))
    }

    async fn reopen_once(self: Arc<Self>, generation: u64) -> Result<(), Failure> {
        let _one = self.reopening.lock().await;
        let (current, handshake) = {
            let session = lock(&self.session);
            (session.generation(), session.handshake())
        };
        if current != generation {
            return Ok(());
        }
        let Some((initialize, initialized)) = handshake else { return Err(Failure::SessionLost) };
        let lost = "the gateway does not know the session any more: opening a new one";
        self.endpoint.note(Level::Warn, "session.lost", lost);
        let (id, answer) = self.initialize(&initialize, |_| ()).await?;
        if let Some(said) = Said::read(&answer) {
            return Err(Failure::Said(said));
        }
        lock(&self.session).reopened(id, &answer).map_err(Failure::OtherRevision)?;
        let (generation, settings) = {
            let session = lock(&self.session);
            (session.generation(), session.settings())
        };
        if let Some(initialized) = initialized {
            self.say_again(&initialized).await;
            self.stand(generation);
        }
        for setting in settings {
            self.say_again(&setting).await;
        }
        let missed = lock(&self.session).missed();
        for message in missed {
            self.output.line(message).await;
        }
        Ok(())
    }

    /// Says in a new session what the client has said in an earlier one. What is answered, it has heard before.
    async fn say_again(&self, message: &Bytes) {
        let (headers, _) = lock(&self.session).headers();
        let saying = async {
            let response = self.endpoint.post(&headers, message, |_| ()).await?;
            self.endpoint.read(response).await.map(drop)
        };
        if let Ok(Err(failure)) = tokio::time::timeout(TELLING, saying).await {
            self.endpoint.note(Level::Warn, "session.incomplete", &self.endpoint.words(&failure));
        }
    }

    /// Keeps the session's own stream open, for what the server says unasked ("Listening for Messages from the
    /// Server").
    fn stand(self: &Arc<Self>, generation: u64) {
        if self.is_closing.load(Ordering::Relaxed) {
            return;
        }
        let standing = tokio::spawn(self.clone().stand_by(generation)).abort_handle();
        if let Some(old) = lock(&self.standing).replace(standing) {
            old.abort();
        }
    }

    async fn stand_by(self: Arc<Self>, generation: u64) {
        let mut cursor = Cursor::default();
        let mut backoff = Backoff::stream();
        let mut had = false;
        loop {
            let (mut headers, current) = lock(&self.session).headers();
            if current != generation {
                return;
            }
            cursor.last().iter().for_each(|last| _ = headers.insert(LAST_EVENT_ID, (*last).clone()));
            let opened = Instant::now();
            let failure = match get(&self.endpoint, &headers).await {
                Ok(Got::Events(mut events)) => {
                    had = true;
                    loop {
                        match events.next().await {
                            Ok(Some(event)) => {
                                cursor.note(&event);
                                for message in messages(event) {
                                    self.sort_legacy(None, message, generation).await;
                                }
                            }
                            Ok(None) => break Failure::Ended,
                            Err(failure) => break failure,
                        }
                    }
                }
                Ok(Got::Document(_) | Got::Nothing(_)) => return,
                Err(failure) => failure,
            };
            let words = self.endpoint.words(&failure);
            match Next::after(&failure, had, cursor.last().is_some()) {
                Next::Stop => {
                    let status = failure.status().map(|status| format!(" (HTTP {})", status.as_u16()));
                    let none = format!(
                        "the server has no stream for the session{}",
                        status.unwrap_or_else(|| format!(": {words}"))
                    );
                    self.endpoint.note(Level::Info, "stream.none", &none);
                    return;
                }
                Next::Reopen => {
                    if self.reopen(generation).await.is_ok() {
                        return;
                    }
                }
                Next::Anew => cursor.forget(),
                Next::Again => {}
            }
            self.endpoint.note(Level::Info, "stream.broken", &format!("{words} (it is opened again)"));
            backoff.held(opened.elapsed());
            tokio::time::sleep(cursor.pause(&mut backoff)).await;
        }
    }

    /// Gives back the answer to `own`; passes on what the server has to say to the client.
    async fn sort_legacy(&self, own: Option<&RawValue>, message: Bytes, generation: u64) -> Option<Bytes> {
        let dropped = match Message::decode(&message) {
            Ok(Message::Response { id: Some(id), .. }) if own.is_some_and(|own| same(id, own)) => {
                return Some(message);
            }
            // An error about a request that could not be read: there was only this one.
            Ok(Message::Response { id: None, .. }) if own.is_some() => {
                return Said::read(&message).zip(own).map(|(said, own)| said.line(own));
            }
            Ok(Message::Request { id, .. }) => {
                lock(&self.session).asked(id, generation);
                self.output.line(message).await;
                return None;
            }
            Ok(Message::Notification { .. }) => {
                self.output.line(message).await;
                return None;
            }
            Ok(Message::Response { .. }) => "an answer to another request",
            Err(_) => "what is no message",
        };
        self.endpoint.note(Level::Warn, "message.dropped", &format!("the server has sent {dropped}"));
        None
    }
}

async fn get(endpoint: &Endpoint, headers: &HeaderMap) -> Result<Got, Failure> {
    let response = endpoint.get(headers).await?;
    endpoint.read(response).await
}

#[cfg(test)]
mod tests {
    use super::super::failure::Refused;
    use super::*;
    use http::StatusCode;

    fn check(status: u16, had: bool, at: bool, expect: &Next) {
        let status = StatusCode::from_u16(status).unwrap();
        let refused = Failure::Refused(Box::new(Refused::new(status, &HeaderMap::new(), b"")));
        assert_eq!(&Next::after(&refused, had, at), expect, "{status} {had} {at}");
    }

    #[test]
    fn a_stream_that_never_was_is_let_be() {
        check(405, false, false, &Next::Stop);
        check(404, false, false, &Next::Stop);
        check(400, false, false, &Next::Stop);
        check(401, false, false, &Next::Stop);
    }

    #[test]
    fn a_stream_that_was_comes_back() {
        check(404, true, true, &Next::Reopen);
        check(400, true, true, &Next::Anew);
        check(400, true, false, &Next::Stop);
        check(401, true, false, &Next::Again);
        for status in [409, 429, 500, 502, 503] {
            check(status, true, false, &Next::Again);
            check(status, false, false, &Next::Again);
        }
        assert_eq!(Next::after(&Failure::Ended, true, false), Next::Again);
        assert_eq!(Next::after(&Failure::TooLarge(1), true, true), Next::Anew);
    }
}
