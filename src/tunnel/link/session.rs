//! The session of a link: how it begins, is resumed and ends, and what is kept for that until the other end has it.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::VERSION;
use super::super::code::{Bye, ByeCode, Reset, ResetCode};
use super::super::frame::Frame;
use super::super::hello::{Allowed, Hello, Verdict, Welcome};
use super::{ACK_BYTES, ACK_FRAMES, Effect, Greeting, Link, MOST_KEPT, Out, Phase, Side, wrong};
use crate::platform::Timestamp;

impl Link {
    /// Edge: what is to be done with a companion that says `hello` while there is this link.
    #[must_use]
    pub fn greeting(&self, now: Timestamp, hello: &Hello) -> Greeting {
        let same = hello.companion.is_some() && hello.companion == self.companion;
        if same && hello.dial <= self.dial {
            let words = "the companion has dialled again since; this hello was held up on its way";
            return Greeting::Refuse(Bye::new(ByeCode::Stale, words));
        }
        let own = hello.session.is_some() && hello.session == self.session;
        let here = self.phase == Phase::Up || self.phase == Phase::Down && !self.is_too_late(now);
        if own || same {
            let known = hello.received.is_some_and(|received| (self.base()..=self.sent).contains(&received));
            if own && known && here {
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

    pub(super) fn dialled(&mut self, now: Timestamp, out: Out<'_>) {
        let Side::Companion(offers) = &self.side else { return };
        if self.companion.is_some() {
            self.dial = self.dial.saturating_add(1);
        }
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let hello = Hello {
            version: VERSION,
            oldest: VERSION,
            name: self.name.clone(),
            agent: concat!("causeway/", env!("CARGO_PKG_VERSION")).to_owned(),
            companion: self.companion,
            dial: self.dial,
            session: self.session,
            received: self.session.filter(|_| !self.given_up).map(|_| self.received),
            offers: offers.clone(),
            window: self.limits.window,
            frame: self.limits.frame,
            streams: self.limits.streams,
            resume_ms: milliseconds(self.limits.resume),
            heartbeat_ms: milliseconds(self.limits.heartbeat),
            check: self.checks,
        };
        self.lose(now);
        self.phase = Phase::Greeting;
        self.asked_at = Some(now);
        out.push(Effect::Send { count: None, message: Frame::Hello(hello).encode() });
    }

    pub(super) fn welcomed(&mut self, now: Timestamp, welcome: Welcome, out: Out<'_>) -> Result<(), Bye> {
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

    pub(super) fn acknowledged(&mut self, count: u64, out: Out<'_>) -> Result<(), Bye> {
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

    pub(super) fn welcome(
        &mut self,
        now: Timestamp,
        hello: &Hello,
        verdicts: Vec<Verdict>,
        resumed: bool,
        out: Out<'_>,
    ) {
        let Some(session) = self.session else { return };
        (self.companion, self.dial) = (hello.companion, hello.dial);
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

    /// Sends a counted frame, now or when there is a connection again.
    pub(super) fn send(&mut self, frame: &Frame, out: Out<'_>) {
        let message = frame.encode();
        self.kept_bytes += message.len();
        self.kept.push_back(message.clone());
        let count = self.sent;
        self.sent += 1;
        if self.phase == Phase::Up {
            out.push(Effect::Send { count: Some(count), message });
        }
    }

    pub(super) fn send_again(&mut self, out: Out<'_>) {
        let again = (self.base()..).zip(&self.kept);
        out.extend(
            again.map(|(count, message)| Effect::Send { count: Some(count), message: message.clone() }),
        );
    }

    /// The number of the first frame that is kept.
    pub(super) fn base(&self) -> u64 {
        self.sent.saturating_sub(u64::try_from(self.kept.len()).unwrap_or(u64::MAX))
    }

    /// The other end has `count` frames.
    pub(super) fn trim(&mut self, count: u64) {
        while self.base() < count {
            let Some(message) = self.kept.pop_front() else { break };
            self.kept_bytes = self.kept_bytes.saturating_sub(message.len());
        }
    }

    /// Nothing of the session is left.
    pub(super) fn forget(&mut self, reset: &Reset, out: Out<'_>) {
        let open = std::mem::take(&mut self.streams);
        out.extend(open.into_keys().map(|id| Effect::Reset(id, reset.clone())));
        self.kept = VecDeque::new();
        self.kept_bytes = 0;
        (self.owed_frames, self.owed_bytes) = (0, 0);
    }

    pub(super) fn end(&mut self, bye: Bye, tell: bool, out: Out<'_>) {
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

    /// What is due after whatever has happened.
    pub(super) fn settle(&mut self, out: Out<'_>) {
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
