//! A candidate does not answer, or not to the end: who is asked next, and what the caller is told.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::{Call, Role, State};
use crate::fault::{Fault, Kind};
use crate::llm::convert;
use crate::llm::refusal::Refusal;
use crate::llm::route::brief;
use crate::llm::team::Stage;
use crate::platform::{Clock as _, Entropy as _, Platform, SeamError};

/// The longest time that a call waits for a provider to be asked again, instead of telling its caller when.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many attempts that came to nothing are told of.
const MOST_MISSED: usize = 8;

impl<P: Platform> Call<P> {
    /// The current candidate does not answer, or not to the end.
    pub(super) fn failed(&mut self, refusal: Refusal, raw: Option<(StatusCode, Bytes)>) {
        let state = std::mem::replace(&mut self.state, State::Over);
        self.missed(&refusal);
        if self.committed {
            if let State::Streaming { writer: Some(writer), .. } = state {
                self.said.writer = Some(writer);
            }
            if !self.goes_on(&refusal) {
                let first = self.said.refusal.take();
                self.tell(first.as_ref().unwrap_or(&refusal));
            }
            return;
        }
        self.out.clear();
        self.said.anew();
        self.metered.back(0);
        if let Some(caching) = &mut self.caching {
            caching.anew();
        }
        self.metered.usage = self.said.before;
        let (passes, mends) = (refusal.may_pass(), refusal.may_mend());
        let own_wait = refusal.wait;
        let (first, raw) = match self.refusal.take() {
            // What the preferred one says is told, unless only it cannot help.
            Some((first, raw)) if first.may_mend() || !mends => (first, raw),
            _ => (refusal, raw),
        };
        if !passes {
            return self.refuse(first, raw);
        }
        if !self.left.is_empty() {
            self.refusal = Some((first, raw));
            self.state = State::Next;
            return;
        }
        let provider = self.asked.candidates.first().map(|candidate| &candidate.provider);
        let (retries, total) = provider.map_or((0, Duration::ZERO), |p| (p.retries, p.timeouts.total));
        if self.rounds < retries && first.may_mend() {
            let wait = own_wait.or(first.wait).unwrap_or_default().max(self.backoff());
            let wake_at = self.now().after(wait);
            if wait <= PATIENCE && wake_at < self.began.after(total) {
                self.rounds += 1;
                self.wake_at = wake_at;
                self.state = State::Waiting;
                // The next round's reason is the one to tell.
                return;
            }
        }
        self.refuse(first, raw);
    }

    /// Remembers that the current candidate does not answer.
    pub(super) fn missed(&mut self, refusal: &Refusal) {
        let Some(candidate) = self.current.as_ref() else { return };
        if std::mem::take(&mut self.sent) {
            self.memory.failed(candidate, refusal, self.platform.clock().now());
            if let Some(attempt) = self.metered.tried.last_mut() {
                attempt.outcome = refusal.fault.kind.row().label;
            }
        }
        if self.missed.len() < MOST_MISSED {
            self.missed.push(format!("{}: {}", brief(&candidate.name()), refusal.fault.kind.row().label));
        }
    }

    /// A quarter of a second, twice as much each time, and a bit at random so that callers do not come back together.
    pub(super) fn backoff(&self) -> Duration {
        let base = Duration::from_millis(250) * 2u32.saturating_pow(self.rounds.min(6));
        let mut random = [0];
        self.platform.entropy().fill(&mut random);
        base + base * u32::from(random[0]) / 512
    }

    /// There is no answer.
    pub(super) fn refuse(&mut self, refusal: Refusal, raw: Option<(StatusCode, Bytes)>) {
        self.state = State::Over;
        if let Some(whole) = self.instead.take() {
            if let Some(caching) = &mut self.caching {
                caching.give_up();
            }
            self.forgone(&refusal);
            return self.deliver(whole);
        }
        self.refused = Some(refusal.clone());
        if self.promised {
            self.tell(&refusal);
            return;
        }
        self.metered.fault = Some(refusal.fault.kind);
        self.conclude(refusal.fault.kind.row().label);
        let (status, mut headers, body) =
            convert::head(self.asked.task.front(), &refusal, &self.asked.request_id);
        headers.extend(self.chosen());
        self.whole = Some(match raw {
            Some((status, body)) => (status, headers, body),
            None => (status, headers, body),
        });
    }

    /// Notes that the last stage has come to nothing.
    fn forgone(&mut self, refusal: &Refusal) {
        let Role::Last(stage, spent) = &mut self.role else { return };
        let model = self.current.as_ref().map_or_else(|| self.asked.model.clone(), |one| brief(&one.name()));
        let ms = u64::try_from(self.platform.clock().now().since(self.began).as_millis()).unwrap_or(u64::MAX);
        let outcome = refusal.fault.kind.row().label;
        let (input, output, cost, text) = (None, None, None, None);
        spent.stages.push(Stage { stage, model, input, output, cost, ms, outcome, text });
    }

    /// The stream ends with an error.
    pub(super) fn tell(&mut self, refusal: &Refusal) {
        self.metered.fault = Some(refusal.fault.kind);
        self.price();
        let front = self.asked.task.front();
        let body = convert::failure(front, refusal, &self.asked.request_id);
        front.fail(&body, &mut self.out);
        self.committed = true;
        self.conclude(refusal.fault.kind.row().label);
        self.state = State::Over;
    }

    pub(super) fn name(&self) -> &str {
        self.current.as_ref().map_or("", |candidate| &candidate.provider.name)
    }

    pub(super) fn invalid(&self, what: &str) -> Refusal {
        Refusal::new(Kind::UpstreamInvalid, format!("provider {:?}: {what}", self.name()))
    }

    pub(super) fn too_large(&self, limit: usize) -> Refusal {
        let which = if limit == self.room { "as much as each of a team may say" } else { "max_response" };
        let message =
            format!("provider {:?}: its answer is larger than {limit} bytes ({which})", self.name());
        Refusal::new(Kind::UpstreamTooLarge, message)
    }

    pub(super) fn late(&self, which: &str) -> Refusal {
        let message = format!("provider {:?}: took too long ({which})", self.name());
        Refusal::new(Kind::UpstreamTimeout, message)
    }

    pub(super) fn cut(&self) -> Refusal {
        let message = format!("provider {:?}: its answer ended before its end", self.name());
        Refusal::new(Kind::UpstreamCut, message)
    }

    pub(super) fn seam(&self, error: &SeamError) -> Refusal {
        let kind = match error {
            SeamError::Connect(_) => Kind::UpstreamConnect,
            SeamError::Denied(_) => Kind::UpstreamRefused,
            SeamError::Offline(_) => Kind::LinkOffline,
            SeamError::Timeout(_) => Kind::UpstreamTimeout,
            SeamError::Cut(_) => Kind::UpstreamCut,
            SeamError::Host(_) => Kind::Host,
        };
        Fault::new(kind, format!("provider {:?}: {error}", self.name())).into()
    }
}
