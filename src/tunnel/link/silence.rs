//! What silence means: when the other end is asked whether it is there, and when a link that was lost is given up.

use std::time::Duration;

use super::super::code::{Bye, ByeCode, Reset, ResetCode};
use super::{Effect, Link, Out, Phase, Side};
use crate::platform::Timestamp;

impl Link {
    /// When it wants [`Input::Tick`](super::Input::Tick), if nothing else comes before.
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

    pub(super) fn lose(&mut self, now: Timestamp) {
        if self.phase == Phase::Up {
            self.lost_at = Some(now);
        }
        self.phase = Phase::Down;
        self.asked_at = None;
    }

    pub(super) fn heard(&mut self, now: Timestamp) {
        self.heard_at = now;
        self.quiet_since = now;
        if self.phase == Phase::Up {
            self.asked_at = None;
        }
    }

    pub(super) fn is_too_late(&self, now: Timestamp) -> bool {
        self.lost_at.is_some_and(|lost| lost.after(self.resume) <= now)
    }

    /// After how much silence something is done; None: it may be silent for ever.
    pub(super) fn silence(&self) -> Option<Duration> {
        let busy = !self.streams.is_empty();
        match self.side {
            _ if busy => Some(self.limits.heartbeat / 3),
            Side::Companion(_) => Some(self.limits.heartbeat),
            // The companion asks. What a sleeping host answers for us is never heard here.
            Side::Edge => self.limits.watch.then(|| self.rhythm * 2 + self.limits.patience),
        }
    }

    pub(super) fn time(&mut self, now: Timestamp, out: Out<'_>) {
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
}
