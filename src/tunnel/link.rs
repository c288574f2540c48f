//! The state machine of both ends of a link.
//!
//! It is fed what arrives and what its owner wants, with the time, and says what to do: [`Link::on`]. It **never**
//! performs anything itself and has no clock; [`Link::wake_at`] says when it wants to be fed [`Input::Tick`].
//!
//! A link lives as long as its session. When its connection is lost both ends keep what the other has not yet
//! acknowledged, and go on where they were if the companion comes back in time; else every stream fails, with one
//! error that says so.
//!
//! Invariant: what is kept is bounded. Bodies wait for room, the heads and ends of streams are bounded by the number of
//! streams, and an end that never acknowledges anything loses the link.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::code::{Bye, ByeCode, Reset, ResetCode};
use super::frame::{Frame, Request, Response};
use super::hello::{Allowed, Hello, Offer, SessionId, Verdict, Welcome};
use super::pair::Message;
use super::{Limits, VERSION};
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
    /// It is the older one; tell it so and close its connection. This link goes on.
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

#[derive(Debug)]
struct Stream {
    /// What we may still send.
    credit: u32,
    /// What the other end may still send.
    granted: u32,
    /// What has been read and not yet been granted anew.
    read: u32,
    /// The answer's head has passed.
    head: bool,
    /// Our body, and the other's, is complete.
    sent_end: bool,
    got_end: bool,
    /// There was no room when it was asked for.
    starved: bool,
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

    /// Edge: what is to be done with a companion that says `hello` while there is this link.
    #[must_use]
    pub fn greeting(&self, now: Timestamp, hello: &Hello) -> Greeting {
        let own = hello.session.is_some() && hello.session == self.session;
        let here = self.phase == Phase::Up || self.phase == Phase::Down && !self.is_too_late(now);
        if own {
            let known = hello.received.is_some_and(|received| (self.base()..=self.sent).contains(&received));
            if known && here {
                return Greeting::Resume;
            }
            let words = "the companion has begun anew, what was in flight is lost";
            return Greeting::TakeOver(Bye::new(ByeCode::Lost, words));
        }
        if hello.session.is_some() && here {
            let words = format!("a newer companion named {:?} has taken over", self.name);
            return Greeting::Refuse(Bye::new(ByeCode::Replaced, words));
        }
        let words = format!("a newer companion named {:?} has taken over", self.name);
        Greeting::TakeOver(Bye::new(ByeCode::Replaced, words))
    }

    /// When it wants [`Input::Tick`], if nothing else comes before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Over => None,
            Phase::Down => self.lost_at.map(|lost| lost.after(self.resume)),
            Phase::Greeting => self.asked_at.map(|asked| asked.after(self.limits.patience)),
            Phase::Up => match self.asked_at {
                Some(asked) => Some(asked.after(self.limits.patience)),
                None => self.silence().map(|silence| self.quiet_since.after(silence)),
            },
        }
    }

    /// How much may be sent on `stream` at once. If there is none, [`Effect::Room`] says when there is.
    pub fn room(&mut self, stream: StreamId) -> usize {
        let room = self.room_of(stream);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.starved = room == 0;
        }
        room
    }

    fn room_of(&self, stream: StreamId) -> usize {
        let Some(stream) = self.streams.get(&stream) else { return 0 };
        if self.kept_bytes >= self.limits.retain || stream.sent_end {
            return 0;
        }
        usize::try_from(stream.credit.saturating_sub(PIECE).min(self.peer.frame)).unwrap_or(0)
    }

    /// Edge: opens a stream.
    ///
    /// # Errors
    /// When there is no connection, too much is open, or the head is too large.
    pub fn open(&mut self, now: Timestamp, request: Request, out: Out<'_>) -> Result<StreamId, Reset> {
        let not_connected =
            || Reset::new(ResetCode::NotConnected, format!("link {} is not connected", self.name));
        match self.phase {
            Phase::Up => {}
            Phase::Down if self.lost_at.is_some() && !self.is_too_late(now) => {}
            _ => return Err(not_connected()),
        }
        if !matches!(self.side, Side::Edge) {
            return Err(Reset::new(ResetCode::Failed, "only the edge opens streams"));
        }
        let name = self.name.clone();
        let busy = |what| Reset::new(ResetCode::Busy, format!("link {name}: {what}"));
        if self.streams.len() >= usize::try_from(self.peer.streams).unwrap_or(usize::MAX) {
            return Err(busy("the companion takes no more calls at once"));
        }
        if self.kept_bytes >= self.limits.retain || self.kept.len() >= MOST_KEPT / 2 {
            return Err(busy("too much waits for the companion"));
        }
        request.check()?;
        let Some(id) = self.last.checked_add(1) else {
            self.end(
                Bye::new(ByeCode::Shutdown, "the session has used up its numbers; dial again"),
                true,
                out,
            );
            return Err(busy("the session starts anew"));
        };
        self.last = id;
        if self.streams.is_empty() {
            self.quiet_since = self.quiet_since.max(now);
        }
        let id = StreamId(id);
        self.streams.insert(id, self.stream());
        self.send(&Frame::Open(id, request), out);
        Ok(id)
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

    // What the owner wants.

    fn dialled(&mut self, now: Timestamp, out: Out<'_>) {
        let Side::Companion(offers) = &self.side else { return };
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let hello = Hello {
            version: VERSION,
            oldest: VERSION,
            name: self.name.clone(),
            agent: concat!("causeway/", env!("CARGO_PKG_VERSION")).to_owned(),
            session: self.session,
            received: self.session.filter(|_| !self.given_up).map(|_| self.received),
            offers: offers.clone(),
            window: self.limits.window,
            frame: self.limits.frame,
            streams: self.limits.streams,
            resume_ms: milliseconds(self.limits.resume),
            heartbeat_ms: milliseconds(self.limits.heartbeat),
        };
        self.lose(now);
        self.phase = Phase::Greeting;
        self.asked_at = Some(now);
        out.push(Effect::Send { count: None, message: Frame::Hello(hello).encode() });
    }

    fn head(&mut self, id: StreamId, response: Response, out: Out<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.head || matches!(self.side, Side::Edge) {
            return;
        }
        if let Err(reset) = response.check() {
            return self.fail(id, reset, out);
        }
        stream.head = true;
        self.send(&Frame::Head(id, response), out);
    }

    fn data(&mut self, id: StreamId, bytes: Bytes, out: Out<'_>) {
        if bytes.is_empty() || !self.streams.contains_key(&id) {
            return;
        }
        let room = self.room_of(id);
        let edge = matches!(self.side, Side::Edge);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if bytes.len() > room || !edge && !stream.head {
            return self.fail(id, Reset::new(ResetCode::Failed, "a body was sent without room or head"), out);
        }
        stream.credit = stream.credit.saturating_sub(cost(bytes.len()));
        self.send(&Frame::Data(id, bytes), out);
    }

    fn finish(&mut self, id: StreamId, out: Out<'_>) {
        let edge = matches!(self.side, Side::Edge);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sent_end {
            return;
        }
        if !edge && !stream.head {
            return self.fail(id, Reset::new(ResetCode::Failed, "an answer without a head"), out);
        }
        stream.sent_end = true;
        if !edge {
            self.streams.remove(&id);
        }
        self.send(&Frame::End(id), out);
    }

    fn read(&mut self, id: StreamId, bytes: usize, out: Out<'_>) {
        let window = self.limits.window;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let unread = window.saturating_sub(stream.granted);
        stream.read = stream.read.saturating_add(cost(bytes)).min(unread);
        if stream.read >= window / 2 && !stream.got_end {
            let more = std::mem::take(&mut stream.read);
            stream.granted = stream.granted.saturating_add(more);
            self.send(&Frame::Credit(id, more), out);
        }
    }

    // What the other end says.

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
            Frame::Open(id, request) => {
                if edge {
                    return Err(wrong("a companion that opens a stream"));
                }
                if id.0 <= self.last {
                    return Err(wrong(format!("stream {} is opened behind stream {}", id.0, self.last)));
                }
                self.last = id.0;
                if self.streams.len() >= usize::try_from(self.limits.streams).unwrap_or(usize::MAX) {
                    let words = format!("no more than {} calls at once", self.limits.streams);
                    self.send(&Frame::Reset(id, Reset::new(ResetCode::Busy, words)), out);
                    return Ok(());
                }
                self.streams.insert(id, self.stream());
                out.push(Effect::Open(id, request));
                Ok(())
            }
            Frame::Head(id, response) => {
                if !edge {
                    return Err(wrong("an answer from the edge"));
                }
                let Some(stream) = self.known(id)? else { return Ok(()) };
                if stream.head {
                    return Err(wrong(format!("a second head on stream {}", id.0)));
                }
                stream.head = true;
                out.push(Effect::Head(id, response));
                Ok(())
            }
            Frame::Data(id, bytes) => self.got(id, bytes, edge, out),
            Frame::End(id) => {
                let Some(stream) = self.known(id)? else { return Ok(()) };
                if stream.got_end || edge && !stream.head {
                    return Err(wrong(format!("an end on stream {} that cannot be one", id.0)));
                }
                stream.got_end = true;
                if edge {
                    self.streams.remove(&id);
                }
                out.push(Effect::End(id));
                Ok(())
            }
            Frame::Reset(id, reset) => {
                if self.known(id)?.is_some() {
                    self.streams.remove(&id);
                    out.push(Effect::Reset(id, reset));
                }
                Ok(())
            }
            Frame::Credit(id, more) => {
                let Some(stream) = self.known(id)? else { return Ok(()) };
                let credit = stream.credit.checked_add(more).filter(|sum| *sum <= i32::MAX.unsigned_abs());
                stream.credit = match credit {
                    Some(credit) if more > 0 => credit,
                    _ => return Err(wrong(format!("a credit of {more} on stream {}", id.0))),
                };
                self.wake(id, out);
                Ok(())
            }
        }
    }

    fn got(&mut self, id: StreamId, bytes: Bytes, edge: bool, out: Out<'_>) -> Result<(), Bye> {
        let most = self.limits.frame;
        if bytes.is_empty() || bytes.len() > usize::try_from(most).unwrap_or(usize::MAX) {
            let words =
                format!("a piece of {} bytes on stream {}; 1 to {most} are allowed", bytes.len(), id.0);
            return Err(Bye::new(ByeCode::TooLarge, words));
        }
        let Some(stream) = self.known(id)? else { return Ok(()) };
        if stream.got_end || edge && !stream.head {
            return Err(wrong(format!("a body on stream {} where there is none", id.0)));
        }
        let Some(granted) = stream.granted.checked_sub(cost(bytes.len())) else {
            let words =
                format!("{} bytes on stream {}, which has credit for {}", bytes.len(), id.0, stream.granted);
            return Err(Bye::new(ByeCode::Overrun, words));
        };
        stream.granted = granted;
        out.push(Effect::Data(id, bytes));
        Ok(())
    }

    /// The stream `id`; none if it was open and is not any more, so that what is still on its way may be passed over.
    fn known(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Bye> {
        if id.0 > self.last || id.0 == 0 {
            return Err(wrong(format!("stream {} has not been opened", id.0)));
        }
        Ok(self.streams.get_mut(&id))
    }

    fn welcomed(&mut self, now: Timestamp, welcome: Welcome, out: Out<'_>) -> Result<(), Bye> {
        welcome.check()?;
        self.peer = Allowed::new(welcome.window, welcome.frame, welcome.streams);
        self.resume = Duration::from_millis(self.limits.resume_ms(welcome.resume_ms));
        self.phase = Phase::Up;
        self.heard(now);
        if welcome.resumed {
            if self.session != Some(welcome.session) || self.given_up {
                return Err(wrong("a session is resumed that was not asked for"));
            }
            if !(self.base()..=self.sent).contains(&welcome.received) {
                return Err(wrong("a session is resumed at a place that is not in it"));
            }
            self.lost_at = None;
            out.push(Effect::Up { resumed: true, verdicts: welcome.verdicts });
            self.trim(welcome.received);
            self.send_again(out);
            self.wake_all(out);
            return Ok(());
        }
        let words =
            "the gateway no longer has this call: it was restarted, or the link was away for too long";
        self.forget(&Reset::new(ResetCode::Lost, words), out);
        self.session = Some(welcome.session);
        (self.sent, self.received, self.last) = (0, 0, 0);
        (self.given_up, self.lost_at) = (false, None);
        out.push(Effect::Up { resumed: false, verdicts: welcome.verdicts });
        Ok(())
    }

    fn acknowledged(&mut self, count: u64, out: Out<'_>) -> Result<(), Bye> {
        if count > self.sent {
            return Err(wrong(format!("{count} frames are acknowledged and {} were sent", self.sent)));
        }
        let was_full = self.kept_bytes >= self.limits.retain;
        self.trim(count);
        if was_full {
            self.wake_all(out);
        }
        Ok(())
    }

    // What both have in common.

    fn welcome(
        &mut self,
        now: Timestamp,
        hello: &Hello,
        verdicts: Vec<Verdict>,
        resumed: bool,
        out: Out<'_>,
    ) {
        let Some(session) = self.session else { return };
        self.peer = Allowed::new(hello.window, hello.frame, hello.streams);
        self.rhythm = Duration::from_millis(hello.heartbeat_ms.clamp(100, 3_600_000));
        let resume_ms = self.limits.resume_ms(hello.resume_ms);
        self.resume = Duration::from_millis(resume_ms);
        self.phase = Phase::Up;
        self.lost_at = None;
        self.heard(now);
        // The welcome acknowledges as well.
        (self.owed_frames, self.owed_bytes) = (0, 0);
        let welcome = Welcome {
            version: VERSION,
            session,
            resumed,
            received: self.received,
            verdicts,
            window: self.limits.window,
            frame: self.limits.frame,
            streams: self.limits.streams,
            resume_ms,
        };
        out.push(Effect::Send { count: None, message: Frame::Welcome(welcome).encode() });
        self.trim(hello.received.unwrap_or(0));
        self.send_again(out);
        self.wake_all(out);
    }

    fn stream(&self) -> Stream {
        Stream {
            credit: self.peer.window,
            granted: self.limits.window,
            read: 0,
            head: false,
            sent_end: false,
            got_end: false,
            starved: false,
        }
    }

    /// Sends a counted frame, now or when there is a connection again.
    fn send(&mut self, frame: &Frame, out: Out<'_>) {
        let message = frame.encode();
        self.kept_bytes += message.len();
        self.kept.push_back(message.clone());
        let count = self.sent;
        self.sent += 1;
        if self.phase == Phase::Up {
            out.push(Effect::Send { count: Some(count), message });
        }
    }

    fn send_again(&mut self, out: Out<'_>) {
        let again = (self.base()..).zip(&self.kept);
        out.extend(
            again.map(|(count, message)| Effect::Send { count: Some(count), message: message.clone() }),
        );
    }

    /// The number of the first frame that is kept.
    fn base(&self) -> u64 {
        self.sent.saturating_sub(u64::try_from(self.kept.len()).unwrap_or(u64::MAX))
    }

    /// The other end has `count` frames.
    fn trim(&mut self, count: u64) {
        while self.base() < count {
            let Some(message) = self.kept.pop_front() else { break };
            self.kept_bytes = self.kept_bytes.saturating_sub(message.len());
        }
    }

    fn wake(&mut self, id: StreamId, out: Out<'_>) {
        if self.room_of(id) > 0
            && let Some(stream) = self.streams.get_mut(&id)
            && std::mem::take(&mut stream.starved)
        {
            out.push(Effect::Room(id));
        }
    }

    fn wake_all(&mut self, out: Out<'_>) {
        let starved: Vec<_> =
            self.streams.iter().filter(|(_, stream)| stream.starved).map(|(id, _)| *id).collect();
        starved.into_iter().for_each(|id| self.wake(id, out));
    }

    /// Ends the stream at both ends: whoever owns this one is told too.
    fn fail(&mut self, id: StreamId, reset: Reset, out: Out<'_>) {
        self.streams.remove(&id);
        self.send(&Frame::Reset(id, reset.clone()), out);
        out.push(Effect::Reset(id, reset));
    }

    /// Nothing of the session is left.
    fn forget(&mut self, reset: &Reset, out: Out<'_>) {
        let open = std::mem::take(&mut self.streams);
        out.extend(open.into_keys().map(|id| Effect::Reset(id, reset.clone())));
        self.kept = VecDeque::new();
        self.kept_bytes = 0;
        (self.owed_frames, self.owed_bytes) = (0, 0);
    }

    fn end(&mut self, bye: Bye, tell: bool, out: Out<'_>) {
        if tell && matches!(self.phase, Phase::Up | Phase::Greeting) {
            out.push(Effect::Send { count: None, message: bye.encode() });
        }
        let words = format!("link {} has ended: {}", self.name, bye.words);
        self.forget(&Reset::new(ResetCode::Lost, words), out);
        self.asked_at = None;
        self.lost_at = None;
        self.given_up = true;
        self.phase = match self.side {
            Side::Edge => Phase::Over,
            // It may dial again, with what is left: its name and which session it had.
            Side::Companion(_) => Phase::Down,
        };
        out.push(Effect::Close(bye));
    }

    fn lose(&mut self, now: Timestamp) {
        if self.phase == Phase::Up {
            self.lost_at = Some(now);
        }
        self.phase = Phase::Down;
        self.asked_at = None;
    }

    fn heard(&mut self, now: Timestamp) {
        self.heard_at = now;
        self.quiet_since = now;
        if self.phase == Phase::Up {
            self.asked_at = None;
        }
    }

    fn is_too_late(&self, now: Timestamp) -> bool {
        self.lost_at.is_some_and(|lost| lost.after(self.resume) <= now)
    }

    /// After how much silence something is done; None: it may be silent for ever.
    fn silence(&self) -> Option<Duration> {
        let busy = !self.streams.is_empty();
        match self.side {
            _ if busy => Some(self.limits.heartbeat / 3),
            Side::Companion(_) => Some(self.limits.heartbeat),
            // The companion asks. What a sleeping host answers for us is never heard here.
            Side::Edge => self.limits.watch.then(|| self.rhythm * 2 + self.limits.patience),
        }
    }

    fn time(&mut self, now: Timestamp, out: Out<'_>) {
        match self.phase {
            Phase::Up => {
                let patience = self.limits.patience;
                let asked = self.asked_at;
                if asked.is_some_and(|asked| asked.after(patience) <= now) {
                    self.lose(now);
                    out.push(Effect::Drop("the other end is silent"));
                } else if asked.is_none()
                    && let Some(silence) = self.silence()
                    && self.quiet_since.after(silence) <= now
                {
                    let idle_edge = matches!(self.side, Side::Edge) && self.streams.is_empty();
                    if idle_edge || self.quiet_since.after(silence * 4 + patience) <= now {
                        // The heartbeat has stopped; or this machine slept, and the connection did not outlive that.
                        self.lose(now);
                        out.push(Effect::Drop("nothing has been heard for too long"));
                    } else {
                        self.asked_at = Some(now);
                        out.push(Effect::Ping);
                    }
                }
            }
            Phase::Greeting => {
                if self.asked_at.is_some_and(|asked| asked.after(self.limits.patience) <= now) {
                    self.lose(now);
                    out.push(Effect::Drop("no welcome came"));
                }
            }
            Phase::Down | Phase::Over => {}
        }
        if matches!(self.phase, Phase::Down | Phase::Greeting) && self.is_too_late(now) {
            let seconds = self.resume.as_secs_f32();
            let words = format!("link {} was lost and did not come back within {seconds} s", self.name);
            self.lost_at = None;
            self.given_up = true;
            self.forget(&Reset::new(ResetCode::Lost, words.clone()), out);
            if matches!(self.side, Side::Edge) {
                self.phase = Phase::Over;
                out.push(Effect::Close(Bye::new(ByeCode::Lost, words)));
            }
        }
    }

    /// What is due after whatever has happened.
    fn settle(&mut self, out: Out<'_>) {
        if self.kept.len() > MOST_KEPT || self.kept_bytes > self.limits.retain.saturating_mul(2) {
            self.end(Bye::new(ByeCode::Backlog, "too much was sent that is not acknowledged"), true, out);
        }
        let due = self.owed_frames >= ACK_FRAMES || self.owed_bytes >= ACK_BYTES || self.streams.is_empty();
        if self.phase == Phase::Up && due && self.owed_frames > 0 {
            (self.owed_frames, self.owed_bytes) = (0, 0);
            out.push(Effect::Send { count: None, message: Frame::Ack(self.received).encode() });
        }
    }
}

/// What a piece of a body takes of a stream's credit.
fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(PIECE)
}

fn wrong(what: impl Into<String>) -> Bye {
    Bye::new(ByeCode::Protocol, what)
}
