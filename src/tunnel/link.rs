//! The state machine of both ends of a link.
//!
//! It is fed what arrives and what its owner wants, with the time, and says what to do: [`Link::on`]. It **never**
//! performs anything itself and has no clock; [`Link::wake_at`] says when it wants to be fed [`Input::Tick`].
//!
//! A link lives as long as its session. When its connection is lost both ends keep what the other has not yet
//! acknowledged, and go on where they were if the companion comes back in time; else every stream fails, with one
//! error that says so.
//!
//! | file | what |
//! |---|---|
//! | `session` | how a session begins, is resumed and ends, and what is kept for that |
//! | `streams` | streams with credit of their own |
//! | `silence` | the heartbeat, and when a lost link is given up |
//!
//! Invariant: what is kept is bounded. Bodies wait for room, the heads and ends of streams are bounded by the number of
//! streams, and an end that never acknowledges anything loses the link.

mod session;
mod silence;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::streams::Stream;
use super::Limits;
use super::code::{Bye, ByeCode, Reset};
use super::frame::{Frame, Request, Response};
use super::hello::{Allowed, CompanionId, Hello, Offer, SessionId, Verdict};
use super::pair::Message;
use crate::platform::Timestamp;

/// What every piece of a body costs beside its bytes: tiny pieces take room too.
pub(super) const PIECE: u32 = 32;
/// Received frames and bytes are acknowledged at the latest after so many.
const ACK_FRAMES: u64 = 32;
const ACK_BYTES: usize = 64 * 1024;
/// No end keeps less: the other acknowledges only so often.
const LEAST_KEPT: usize = 4 * ACK_BYTES;
/// More frames than this without a word that they have arrived end the link.
const MOST_KEPT: usize = 64 * 1024;

/// Which stream of a session: counted up from 1 by the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// What a link is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Companion: a connection stands; the hello may be sent.
    Dialled,
    /// Edge: the companion is back with this hello, which [`Link::greeting`] has said to resume, on a new connection.
    /// What the old one still brings must not be fed any more.
    Hello(Hello, Vec<Verdict>),
    /// A frame has arrived on the connection.
    Frame(Bytes),
    /// The other end asks whether this one is there.
    Ping,
    /// The other end is there.
    Pong,
    /// The connection is gone.
    Lost,
    /// Time has passed.
    Tick,
    /// Companion: the head of the answer.
    Head(StreamId, Response),
    /// A piece of the body, of at most [`Link::room`] bytes.
    Data(StreamId, Bytes),
    /// The body is complete.
    End(StreamId),
    /// The stream is to end here.
    Reset(StreamId, Reset),
    /// A piece of the body of so many bytes, as it came in one [`Effect::Data`], has been read; there is room for more.
    Read(StreamId, usize),
    /// Edge: what it says to the offers has changed.
    Verdicts(Vec<Verdict>),
    /// The link is to end here.
    Close(Bye),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this message. `count` is its number in the session, if it is counted.
    Send {
        /// The number, from 0.
        count: Option<u64>,
        /// The frame.
        message: Bytes,
    },
    /// Send the heartbeat's question.
    Ping,
    /// Send the heartbeat's answer.
    Pong,
    /// Close the connection, for this reason. The session stays and may be resumed.
    Drop(&'static str),
    /// The session is over, for this reason. Close the connection after what was to be sent.
    Close(Bye),
    /// Companion: it is welcome. If the session was not resumed, nothing of an earlier one is left.
    Up {
        /// Whether it goes on with the session that it had.
        resumed: bool,
        /// What the edge says to each offer.
        verdicts: Vec<Verdict>,
    },
    /// Companion: what the edge says to the offers has changed.
    Verdicts(Vec<Verdict>),
    /// Companion: a request begins.
    Open(StreamId, Request),
    /// Edge: the answer begins.
    Head(StreamId, Response),
    /// A piece of the body. To be answered with [`Input::Read`] when it has been taken on.
    Data(StreamId, Bytes),
    /// The body is complete. An answer's end is the stream's.
    End(StreamId),
    /// The stream is over before its end.
    Reset(StreamId, Reset),
    /// There is room again on a stream whose [`Link::room`] was asked for and was none.
    Room(StreamId),
}

/// What is to be done with a companion that says hello under the name of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// It goes on with this session: [`Input::Hello`].
    Resume,
    /// It takes over: close this link with the reason, then begin with [`Link::edge`].
    TakeOver(Bye),
    /// It is the older one, or this is an older dial of the same one; tell it so and close its connection. This link goes
    /// on.
    Refuse(Bye),
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    pub(super) limits: Limits,
    pub(super) side: Side,
    pub(super) phase: Phase,
    pub(super) name: String,
    pub(super) session: Option<SessionId>,
    /// Which companion it is the link of, as far as that says so, and how often it had dialled when it was last welcome.
    /// At the companion's own end: how often it has dialled.
    pub(super) companion: Option<CompanionId>,
    pub(super) dial: u64,
    /// Companion: it only asks what is said to its offers.
    checks: bool,
    pub(super) peer: Allowed,
    pub(super) resume: Duration,
    /// The other end's heartbeat.
    pub(super) rhythm: Duration,
    /// Counted frames of this session: sent, and received.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// The last of those sent, until the other end has them.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// Received since they were last acknowledged.
    owed_frames: u64,
    owed_bytes: usize,
    streams: BTreeMap<StreamId, Stream>,
    pub(super) last: u32,
    pub(super) heard_at: Timestamp,
    /// Silence counts from here: an idle link may have been silent for good reason.
    quiet_since: Timestamp,
    asked_at: Option<Timestamp>,
    lost_at: Option<Timestamp>,
    /// Companion: what was in flight has been given up.
    given_up: bool,
}

/// Which end.
#[derive(Debug)]
pub(super) enum Side {
    Edge,
    Companion(Vec<Offer>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no connection.
    Down,
    /// Companion: hello is said, not yet answered.
    Greeting,
    /// There is one.
    Up,
    /// The session is over for good.
    Over,
}

type Out<'a> = &'a mut Vec<Effect>;

impl Link {
    pub(super) fn new(now: Timestamp, mut limits: Limits, side: Side, name: &str) -> Self {
        limits.retain = limits.retain.max(LEAST_KEPT);
        limits.window = limits.window.clamp(1024, i32::MAX.unsigned_abs());
        limits.frame = limits.frame.clamp(1024, 255 * 1024);
        limits.streams = limits.streams.max(1);
        Self {
            side,
            phase: Phase::Down,
            name: name.to_owned(),
            session: None,
            companion: None,
            dial: 0,
            checks: false,
            peer: Allowed::new(limits.window, limits.frame, limits.streams),
            resume: limits.resume,
            rhythm: limits.heartbeat,
            limits,
            sent: 0,
            received: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            owed_frames: 0,
            owed_bytes: 0,
            streams: BTreeMap::new(),
            last: 0,
            heard_at: now,
            quiet_since: now,
            asked_at: None,
            lost_at: None,
            given_up: false,
        }
    }

    /// The companion's end, not yet connected.
    #[must_use]
    pub fn companion(limits: Limits, name: &str, offers: Vec<Offer>) -> Self {
        Self::new(Timestamp(0), limits, Side::Companion(offers), name)
    }

    /// Companion: it says with each hello which one it is, so that the edge can tell a hello that was held up on its way
    /// from a later one. To be random, and another in each process.
    #[must_use]
    pub fn known_as(mut self, companion: CompanionId) -> Self {
        self.companion = Some(companion);
        self
    }

    /// Companion: it only asks what the edge says to its offers. A link that there is under its name goes on.
    #[must_use]
    pub fn checking(mut self) -> Self {
        self.checks = true;
        self
    }

    /// The edge's end, for a companion that has said `hello`: a new session with a random id. What is said to the
    /// offers is `verdicts`.
    #[must_use]
    pub fn edge(
        now: Timestamp,
        limits: Limits,
        session: SessionId,
        hello: &Hello,
        verdicts: Vec<Verdict>,
        out: Out<'_>,
    ) -> Self {
        let mut link = Self::new(now, limits, Side::Edge, &hello.name);
        link.session = Some(session);
        link.welcome(now, hello, verdicts, false, out);
        link
    }

    /// The link's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The session that it is in.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Whether there is a connection and the other end has been greeted.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Whether the session is over for good.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether `stream` is open.
    #[must_use]
    pub fn has(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// How many bytes are kept until the other end has said that it has them.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept_bytes
    }

    /// How many counted frames have been received in this session.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The number that the next counted frame will have.
    #[must_use]
    pub fn next_count(&self) -> u64 {
        self.sent
    }

    /// When the other end was last heard.
    #[must_use]
    pub fn heard_at(&self) -> Timestamp {
        self.heard_at
    }

    /// Companion: what it offers from its next hello on.
    pub fn offer(&mut self, offers: Vec<Offer>) {
        if let Side::Companion(old) = &mut self.side {
            *old = offers;
        }
    }

    /// What has been posted (the transport without WebSockets): messages whose first counted one has the number `from`.
    /// Those that are known already are passed over. The count of what has been received is the answer.
    ///
    /// # Errors
    /// [`ByeCode::Lost`] if the session is another one, [`ByeCode::Protocol`] if something is missing in between: the
    /// companion is to say hello again. Nothing was taken.
    pub fn batch(
        &mut self,
        now: Timestamp,
        session: SessionId,
        from: u64,
        messages: Vec<Message>,
        out: Out<'_>,
    ) -> Result<u64, Bye> {
        if self.session != Some(session) || matches!(self.phase, Phase::Over | Phase::Greeting) {
            return Err(Bye::new(ByeCode::Lost, "there is no such session; say hello again"));
        }
        if from > self.received {
            let words = format!("frames {} to {from} are missing; say hello again", self.received);
            return Err(Bye::new(ByeCode::Protocol, words));
        }
        self.heard(now);
        let mut number = from;
        for message in messages {
            match message {
                Message::Ping => out.push(Effect::Pong),
                Message::Pong => {}
                Message::Frame(frame) => {
                    if Frame::is_counted(&frame) {
                        number += 1;
                        if number <= self.received {
                            continue;
                        }
                    }
                    self.frame(now, frame, out);
                    if self.phase == Phase::Over {
                        break;
                    }
                }
            }
        }
        self.settle(out);
        Ok(self.received)
    }

    /// Feeds it `input`; what is to be done is put behind what `out` has, to be done in that order.
    pub fn on(&mut self, now: Timestamp, input: Input, out: Out<'_>) {
        if self.phase == Phase::Over {
            return;
        }
        match input {
            Input::Dialled => self.dialled(now, out),
            Input::Hello(hello, verdicts) => {
                if matches!(self.greeting(now, &hello), Greeting::Resume) {
                    self.welcome(now, &hello, verdicts, true, out);
                }
            }
            Input::Frame(message) => {
                if matches!(self.phase, Phase::Up | Phase::Greeting) {
                    self.heard(now);
                    self.frame(now, message, out);
                }
            }
            Input::Ping => {
                if self.phase == Phase::Up {
                    self.heard(now);
                    out.push(Effect::Pong);
                }
            }
            Input::Pong => {
                if self.phase == Phase::Up {
                    self.heard(now);
                }
            }
            Input::Lost => self.lose(now),
            Input::Tick => {}
            Input::Head(id, response) => self.head(id, response, out),
            Input::Data(id, bytes) => self.data(id, bytes, out),
            Input::End(id) => self.finish(id, out),
            Input::Reset(id, reset) => {
                if self.streams.remove(&id).is_some() {
                    self.send(&Frame::Reset(id, reset), out);
                }
            }
            Input::Read(id, bytes) => self.read(id, bytes, out),
            Input::Verdicts(verdicts) => {
                if self.phase == Phase::Up {
                    out.push(Effect::Send { count: None, message: Frame::Verdicts(verdicts).encode() });
                }
            }
            Input::Close(bye) => self.end(bye, true, out),
        }
        self.time(now, out);
        self.settle(out);
    }

    fn frame(&mut self, now: Timestamp, message: Bytes, out: Out<'_>) {
        let (counted, size) = (Frame::is_counted(&message), message.len());
        let taken = Frame::decode(message).and_then(|frame| {
            if self.phase == Phase::Greeting && counted {
                return Err(wrong("a frame before the welcome"));
            }
            if counted {
                self.received += 1;
                self.owed_frames += 1;
                self.owed_bytes += size;
            }
            self.take(now, frame, out)
        });
        if let Err(bye) = taken {
            self.end(bye, true, out);
        }
    }

    fn take(&mut self, now: Timestamp, frame: Frame, out: Out<'_>) -> Result<(), Bye> {
        let edge = matches!(self.side, Side::Edge);
        match frame {
            Frame::Hello(_) => Err(wrong("a second hello")),
            Frame::Welcome(welcome) => match self.phase {
                Phase::Greeting => self.welcomed(now, welcome, out),
                _ => Err(wrong("a welcome that nobody waits for")),
            },
            Frame::Bye(bye) if bye.code == ByeCode::Stale && !edge => {
                // Something on the way has said the same hello twice, or kept this one back. The session is not lost by that.
                self.lose(now);
                out.push(Effect::Drop("the gateway has heard a later dial of this companion"));
                Ok(())
            }
            Frame::Bye(bye) => {
                self.end(bye, false, out);
                Ok(())
            }
            Frame::Ack(count) => self.acknowledged(count, out),
            Frame::Verdicts(verdicts) => {
                if edge || self.phase != Phase::Up {
                    return Err(wrong("verdicts from an end that has none to give"));
                }
                out.push(Effect::Verdicts(verdicts));
                Ok(())
            }
            frame => self.streamed(frame, edge, out),
        }
    }
}

fn wrong(what: impl Into<String>) -> Bye {
    Bye::new(ByeCode::Protocol, what)
}
