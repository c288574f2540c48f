//! How long to wait before something is tried again.

use std::time::Duration;

/// What has held for this long was a success: the next failure is a first one.
const HELD: Duration = Duration::from_secs(10);

/// Pauses that double, with chance in them: many clients that lost one gateway must not come back as one.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// For a request that somebody waits for.
    pub(super) fn request() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// For a stream that is to be there again some time.
    pub(super) fn stream() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }

    fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let mut chance = [0];
        // Without chance the pauses are merely the same for everybody.
        _ = getrandom::fill(&mut chance);
        let [chance] = chance;
        self.pause_by(chance)
    }

    /// Between half of the step and all of it.
    fn pause_by(&mut self, chance: u8) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        step / 2 + step.mul_f64(f64::from(chance) / 510.0)
    }

    /// What was tried has held for `span`.
    pub(super) fn held(&mut self, span: Duration) {
        if span >= HELD {
            self.next = self.first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most() {
        let mut backoff = Backoff::request();
        let pauses: Vec<_> = (0..7).map(|_| backoff.pause_by(255).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.pause_by(0).as_millis(), 1000);
    }

    #[test]
    fn only_what_has_held_starts_anew() {
        let mut backoff = Backoff::stream();
        (0..3).for_each(|_| _ = backoff.pause_by(255));
        backoff.held(Duration::from_secs(1));
        assert_eq!(backoff.pause_by(255).as_millis(), 4000);
        backoff.held(HELD);
        assert_eq!(backoff.pause_by(255).as_millis(), 500);
    }
}
