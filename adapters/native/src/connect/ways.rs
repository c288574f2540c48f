//! Which way to dial with `--transport auto`: by WebSocket, and by events and `POST` where that gets nowhere.
//!
//! Some networks refuse WebSockets, and others swallow them: the request is never answered, or nothing passes behind the
//! answer. What worked there is dialled at once for a while, and then it is seen whether WebSockets pass again. A gateway
//! that cannot be reached at all **never** decides anything.

use std::time::{Duration, Instant};

use super::wire::Transport;

/// WebSockets that still get nowhere are tried less and less often, but at least so often.
const LONGEST: Duration = Duration::from_secs(6 * 60 * 60);
/// Connections in a row that have ended before anything was said: one alone is chance.
const CUTS: u8 = 2;

/// What is known of the ways.
#[derive(Debug)]
pub(super) struct Ways {
    /// What was asked for.
    transport: Transport,
    /// WebSockets got nowhere.
    nowhere: bool,
    /// Until when they are not tried, as the other way works.
    until: Option<Instant>,
    /// The first such while, and the next.
    again: Duration,
    span: Duration,
    cuts: u8,
}

impl Ways {
    /// With `transport`; `again`: how long the other way is kept to at first.
    pub(super) fn new(transport: Transport, again: Duration) -> Self {
        Self { transport, nowhere: false, until: None, again, span: again, cuts: 0 }
    }

    /// Whether there is more than one.
    pub(super) fn is_open(&self) -> bool {
        self.transport == Transport::Auto
    }

    /// Whether the next dial is by WebSocket.
    pub(super) fn websocket(&self, now: Instant) -> bool {
        match self.transport {
            Transport::Auto => !self.nowhere || self.until.is_some_and(|until| until <= now),
            Transport::Websocket => true,
            Transport::Http => false,
        }
    }

    /// When it is to be seen whether WebSockets pass again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until.filter(|_| self.nowhere && self.is_open())
    }

    /// A connection that was made by WebSocket, or not, is welcome.
    pub(super) fn welcomed(&mut self, websocket: bool, now: Instant) {
        self.cuts = 0;
        if websocket {
            (self.nowhere, self.until, self.span) = (false, None, self.again);
        } else if self.nowhere && self.until.is_none() {
            self.put_off(now);
        }
    }

    /// WebSockets are not tried for a while.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.until = Some(now + self.span);
        self.span = (self.span * 2).min(LONGEST.max(self.again));
    }

    /// A WebSocket got nowhere.
    pub(super) fn got_nowhere(&mut self) {
        (self.nowhere, self.until, self.cuts) = (true, None, 0);
    }

    /// A WebSocket has ended before anything was said.
    pub(super) fn cut(&mut self) {
        self.cuts += 1;
        if self.cuts >= CUTS {
            self.got_nowhere();
        }
    }

    /// The other way failed before anything was heard. Where it has worked, that is only held against it if there was
    /// something, but `silent`.
    pub(super) fn neither(&mut self, silent: bool) {
        if silent || self.until.is_none() {
            (self.nowhere, self.until) = (false, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_worked_is_kept_to_for_a_while_that_grows() {
        let (mut ways, mut now) = (Ways::new(Transport::Auto, MINUTE), Instant::now());
        assert!(ways.websocket(now) && ways.due().is_none());
        for expect in [1, 2, 4, 8] {
            ways.got_nowhere();
            assert!(!ways.websocket(now) && ways.due().is_none());
            ways.welcomed(false, now);
            let due = ways.due().unwrap();
            assert_eq!(due, now + MINUTE * expect);
            // Further connections do not put it off.
            ways.welcomed(false, now + MINUTE / 2);
            assert_eq!(ways.due(), Some(due));
            assert!(!ways.websocket(due - MINUTE / 2));
            now = due;
            assert!(ways.websocket(now));
        }
        for _ in 0..20 {
            ways.got_nowhere();
            ways.welcomed(false, now);
        }
        assert_eq!(ways.due(), Some(now + LONGEST));
        ways.welcomed(true, now);
        assert!(ways.websocket(now) && ways.due().is_none());
        ways.got_nowhere();
        ways.welcomed(false, now);
        assert_eq!(ways.due(), Some(now + MINUTE));
    }

    #[test]
    fn where_neither_gets_anywhere_they_take_turns() {
        let (mut ways, now) = (Ways::new(Transport::Auto, MINUTE), Instant::now());
        for _ in 0..3 {
            assert!(ways.websocket(now));
            ways.got_nowhere();
            assert!(!ways.websocket(now));
            ways.neither(false);
        }
        ways.cut();
        assert!(ways.websocket(now), "one alone is chance");
        ways.cut();
        assert!(!ways.websocket(now));
        // What has worked is not given up because the gateway is away.
        ways.welcomed(false, now);
        ways.neither(false);
        assert!(!ways.websocket(now));
        ways.neither(true);
        assert!(ways.websocket(now));
    }

    #[test]
    fn what_was_asked_for_alone_is_done() {
        let now = Instant::now();
        for (transport, expect) in [(Transport::Websocket, true), (Transport::Http, false)] {
            let mut ways = Ways::new(transport, MINUTE);
            ways.got_nowhere();
            assert_eq!(ways.websocket(now), expect);
            ways.welcomed(false, now);
            assert_eq!((ways.websocket(now + MINUTE * 2), ways.due()), (expect, None));
        }
    }
}
