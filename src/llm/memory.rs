//! What an instance has learned of providers: their lists of models, how they have been doing, and what was decided.
//!
//! Losing it costs time, never truth. Nothing of it is stored, and it **never** holds what was asked, nor what was answered
//! but where the configuration has answers [kept](super::cache).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::cache::Cache;
use super::refusal::Refusal;
use super::registry::{Listed, Measured};
use super::route::{Candidate, brief};
use crate::config::Plan;
use crate::config::plan::Provider;
use crate::fault::Kind;
use crate::platform::Timestamp;

/// How long a list is good for: what a local provider has changes while one works with it.
const LIST: Duration = Duration::from_secs(600);
const LOCAL_LIST: Duration = Duration::from_secs(30);
/// When a provider that did not give its list is asked again.
const NO_LIST: Duration = Duration::from_secs(10);
/// Models that are remembered at most. Callers choose their names.
const MOST: usize = 2048;
/// How long what was measured counts: what has not been asked for longer is tried again.
const STALE: Duration = Duration::from_secs(600);
/// How much the newest measure counts.
const NEWEST: f64 = 0.2;
/// How long a limit is taken for when the provider does not say.
const LIMIT: Duration = Duration::from_secs(1);
/// The same for what was paid for.
const QUOTA: Duration = Duration::from_secs(60);
/// How many decisions `/status` shows.
const DECISIONS: usize = 32;

/// How a provider, as it is asked with one of its keys for one model, is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As far as one knows, well.
    Ok,
    /// It does not want to be asked before this.
    Limited(Timestamp),
    /// It has failed so often that it is left alone until this.
    Paused(Timestamp),
}

impl Health {
    /// It in a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited(_) => "limited",
            Self::Paused(_) => "paused",
        }
    }
}

/// A provider with one of its keys.
#[derive(Debug, Default)]
struct Slot {
    /// Failures in a row.
    failures: u32,
    /// How often it has been left alone since it last answered.
    pauses: u32,
    until: Timestamp,
    /// Why it was left alone.
    reason: Option<Refusal>,
}

/// What is remembered of a model.
#[derive(Debug, Default)]
struct Known {
    /// Until when each key is limited.
    limits: Vec<(usize, Timestamp)>,
    measured: Measured,
    at: Timestamp,
}

#[derive(Debug, Default)]
struct Held {
    lists: HashMap<String, (Timestamp, Arc<Vec<Listed>>)>,
    slots: HashMap<(String, usize), Slot>,
    /// By `provider/model`.
    models: HashMap<String, Known>,
    decisions: VecDeque<Decision>,
}

/// Everything learned.
#[derive(Debug, Default)]
pub struct Memory {
    held: Mutex<Held>,
    turn: AtomicUsize,
    /// Answers that are kept.
    pub(super) cache: Cache,
}

/// Who was chosen for a call, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Decision {
    /// When, in milliseconds since 1970.
    pub ts: u64,
    /// The gateway's id of the request.
    pub request_id: String,
    /// Whose call it was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub caller: String,
    /// The model, as it was asked for.
    pub asked: String,
    /// Who was to be asked, in this order, and who was left out, each with the reason.
    pub considered: Vec<String>,
    /// Who answered, or was asked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// Why.
    pub why: String,
    /// What came of it: `ok`, or the label of a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// How many requests were made.
    pub attempts: u32,
}

impl Memory {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what `plan` may have changed.
    pub fn keep(&self, plan: &Plan) {
        let mut held = self.held();
        held.lists.clear();
        held.slots.clear();
        held.models.retain(|name, _| {
            name.split_once('/').is_some_and(|(name, _)| plan.llm.provider(name).is_some())
        });
    }

    /// The list that `provider` gave last, if that is not long ago.
    #[must_use]
    pub fn list(&self, provider: &Provider, now: Timestamp) -> Option<Arc<Vec<Listed>>> {
        let held = self.held();
        held.lists.get(&provider.name).filter(|(until, _)| now < *until).map(|(_, list)| list.clone())
    }

    /// Remembers a list; `None`: it could not be had, and the last one will have to do. Gives what is remembered.
    pub fn set_list(
        &self,
        provider: &Provider,
        list: Option<Vec<Listed>>,
        now: Timestamp,
    ) -> Arc<Vec<Listed>> {
        let mut held = self.held();
        let fresh = match (&list, provider.local) {
            (None, _) => NO_LIST,
            (Some(_), true) => LOCAL_LIST,
            (Some(_), false) => LIST,
        };
        let last = held.lists.get(&provider.name).map(|(_, list)| list.clone());
        let list = list.map(Arc::new).or(last).unwrap_or_default();
        held.lists.insert(provider.name.clone(), (now.after(fresh), list.clone()));
        list
    }

    /// What `provider` once said of `model`.
    #[must_use]
    pub fn listed(&self, provider: &str, model: &str) -> Option<super::registry::Facts> {
        let held = self.held();
        let (_, list) = held.lists.get(provider)?;
        list.iter().find(|listed| listed.name == model).map(|listed| listed.facts.clone())
    }

    /// How `candidate` is doing.
    #[must_use]
    pub fn health(&self, candidate: &Candidate, now: Timestamp) -> Health {
        let held = self.held();
        let provider = &candidate.provider;
        if let Some(slot) =
            held.slots.get(&(provider.name.clone(), provider.slot)).filter(|slot| now < slot.until)
        {
            return Health::Paused(slot.until);
        }
        let known = held.models.get(&brief(&candidate.name()));
        let limit = known.and_then(|known| known.limits.iter().find(|(slot, _)| *slot == provider.slot));
        match limit {
            Some((_, until)) if now < *until => Health::Limited(*until),
            _ => Health::Ok,
        }
    }

    /// Why `provider` is left alone, and until when.
    #[must_use]
    pub fn reason(&self, provider: &Provider) -> Option<(Refusal, Timestamp)> {
        let held = self.held();
        let slot = held.slots.get(&(provider.name.clone(), provider.slot))?;
        Some((slot.reason.clone()?, slot.until))
    }

    /// How a model's answers have been lately.
    #[must_use]
    pub fn measured(&self, name: &str, now: Timestamp) -> Option<Measured> {
        let held = self.held();
        let known = held.models.get(name)?;
        (known.measured.calls > 0 && now.since(known.at) < STALE).then_some(known.measured)
    }

    /// `candidate` is about to be asked. One that was left alone is tried by one call at a time.
    pub fn begun(&self, candidate: &Candidate, now: Timestamp) {
        let provider = &candidate.provider;
        let mut held = self.held();
        if let Some(slot) = held.slots.get_mut(&(provider.name.clone(), provider.slot))
            && slot.pauses > 0
            && slot.until <= now
        {
            slot.until = now.after(provider.breaker.1);
        }
    }

    /// `candidate` has begun to answer.
    pub fn answers(&self, candidate: &Candidate) {
        let provider = &candidate.provider;
        self.held().slots.remove(&(provider.name.clone(), provider.slot));
    }

    /// `candidate` has answered: its first word took `first`, the others `rest`, all in microseconds.
    pub fn answered(&self, candidate: &Candidate, first: u64, rest: u64, tokens: u64, now: Timestamp) {
        let mut held = self.held();
        let known = known(&mut held, candidate);
        known.limits.retain(|(slot, _)| *slot != candidate.provider.slot);
        known.at = now;
        let measured = &mut known.measured;
        measured.calls += 1;
        let average = |old: &mut Option<f64>, new: f64| {
            let next = old.map_or(new, |old| old + (new - old) * NEWEST);
            *old = Some((next * 100.0).round() / 100.0);
        };
        #[expect(clippy::cast_precision_loss, reason = "no call takes 2^53 microseconds")]
        let (first, rest, tokens) = (first as f64, rest as f64, tokens as f64);
        average(&mut measured.first_token_ms, first / 1000.0);
        // A handful of tokens that came at once says nothing.
        if tokens >= 8.0 && rest >= 1000.0 {
            average(&mut measured.tokens_per_second, tokens * 1e6 / rest);
        }
    }

    /// `candidate` has not answered.
    pub fn failed(&self, candidate: &Candidate, refusal: &Refusal, now: Timestamp) {
        let provider = &candidate.provider;
        let mut held = self.held();
        let kind = refusal.fault.kind;
        let limit = match kind {
            Kind::RateLimited => Some(refusal.wait.unwrap_or(LIMIT)),
            Kind::ProviderQuota => Some(refusal.wait.unwrap_or(QUOTA)),
            Kind::Overloaded => refusal.wait,
            _ => None,
        };
        if let Some(limit) = limit {
            let known = known(&mut held, candidate);
            known.limits.retain(|(slot, _)| *slot != provider.slot);
            known.limits.push((provider.slot, now.after(limit)));
        }
        let slot = (provider.name.clone(), provider.slot);
        let failure = matches!(
            kind,
            Kind::ProviderAuthentication
                | Kind::Overloaded
                | Kind::UpstreamConnect
                | Kind::UpstreamTimeout
                | Kind::UpstreamCut
                | Kind::UpstreamInvalid
                | Kind::UpstreamRefused
        );
        if kind == Kind::LinkOffline {
            // No failure of the provider, and whether the link is back is known at once.
            return;
        }
        if !failure {
            // Whoever refuses is there.
            held.slots.remove(&slot);
            return;
        }
        let (most, pause) = provider.breaker;
        let slot = held.slots.entry(slot).or_default();
        slot.failures = slot.failures.saturating_add(1);
        if most > 0 && slot.failures >= most {
            slot.until = now.after(pause * 2u32.pow(slot.pauses.min(3)));
            slot.pauses = slot.pauses.saturating_add(1);
            slot.reason = Some(refusal.clone());
        }
    }

    /// Whose turn it is, of things that are as good as each other.
    pub fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes a decision.
    pub fn decided(&self, decision: Decision) {
        let mut held = self.held();
        held.decisions.truncate(DECISIONS - 1);
        held.decisions.push_front(decision);
    }

    /// Notes what came of it.
    pub fn concluded(&self, request_id: &str, change: impl FnOnce(&mut Decision)) {
        if let Some(decision) =
            self.held().decisions.iter_mut().find(|decision| decision.request_id == request_id)
        {
            change(decision);
        }
    }

    /// The last decisions for `caller`, the newest first; everybody's with `None`.
    #[must_use]
    pub fn decisions(&self, caller: Option<&str>) -> Vec<Decision> {
        let held = self.held();
        let own = |decision: &&Decision| caller.is_none_or(|caller| decision.caller == caller);
        held.decisions.iter().filter(own).cloned().collect()
    }

    /// Of each model of `provider` that was asked: its name, and how it is doing with each key.
    #[must_use]
    pub fn asked(&self, provider: &str) -> Vec<String> {
        let held = self.held();
        let own = held.models.keys().filter_map(|name| name.split_once('/'));
        let mut names: Vec<String> =
            own.filter(|(name, _)| *name == provider).map(|(_, model)| model.to_owned()).collect();
        names.sort();
        names
    }
}

fn known<'a>(held: &'a mut Held, candidate: &Candidate) -> &'a mut Known {
    // Callers choose how long a name is.
    let name = brief(&candidate.name());
    if held.models.len() >= MOST && !held.models.contains_key(&name) {
        held.models.clear();
    }
    held.models.entry(name).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::types::ProviderKind;

    fn candidate(slot: usize) -> Candidate {
        let mut provider = Provider::new("p", ProviderKind::Openai, "http://x/v1".parse().unwrap());
        provider.slot = slot;
        Candidate { provider: Arc::new(provider), model: "m".to_owned() }
    }

    fn refusal(kind: Kind, wait: Option<u64>) -> Refusal {
        Refusal { wait: wait.map(Duration::from_secs), ..Refusal::new(kind, "x") }
    }

    #[test]
    fn a_provider_that_fails_in_a_row_is_left_alone_and_tried_by_one() {
        let (memory, one) = (Memory::default(), candidate(0));
        let at = |seconds: u64| Timestamp(seconds * 1000);
        for _ in 0..4 {
            memory.failed(&one, &refusal(Kind::UpstreamConnect, None), at(0));
        }
        assert_eq!(memory.health(&one, at(0)), Health::Ok);
        memory.failed(&one, &refusal(Kind::UpstreamConnect, None), at(0));
        assert_eq!(memory.health(&one, at(9)), Health::Paused(at(10)));
        assert_eq!(memory.health(&candidate(1), at(9)), Health::Ok, "each key has its own");
        assert_eq!(memory.health(&one, at(10)), Health::Ok);
        memory.begun(&one, at(10));
        assert_eq!(memory.health(&one, at(11)), Health::Paused(at(20)), "one tries at a time");
        memory.failed(&one, &refusal(Kind::UpstreamTimeout, None), at(12));
        assert_eq!(memory.health(&one, at(12)), Health::Paused(at(32)), "longer each time");
        memory.answers(&one);
        assert_eq!(memory.health(&one, at(12)), Health::Ok);
    }

    #[test]
    fn each_key_has_a_limit_of_its_own_for_each_model() {
        let (memory, one) = (Memory::default(), candidate(0));
        memory.failed(&one, &refusal(Kind::RateLimited, Some(7)), Timestamp(0));
        assert_eq!(memory.health(&one, Timestamp(0)), Health::Limited(Timestamp(7000)));
        assert_eq!(memory.health(&candidate(1), Timestamp(0)), Health::Ok);
        let other = Candidate { model: "n".to_owned(), ..one.clone() };
        assert_eq!(memory.health(&other, Timestamp(0)), Health::Ok);
        assert_eq!(memory.health(&one, Timestamp(7000)), Health::Ok);
        memory.failed(&one, &refusal(Kind::RateLimited, Some(7)), Timestamp(0));
        memory.answered(&one, 1000, 0, 1, Timestamp(1));
        assert_eq!(memory.health(&one, Timestamp(2)), Health::Ok, "an answer lifts it");
    }

    #[test]
    fn a_wrong_request_is_no_failure() {
        let (memory, one) = (Memory::default(), candidate(0));
        for _ in 0..4 {
            memory.failed(&one, &refusal(Kind::Overloaded, None), Timestamp(0));
        }
        memory.failed(&one, &refusal(Kind::ProviderRefused, None), Timestamp(0));
        memory.failed(&one, &refusal(Kind::Overloaded, None), Timestamp(0));
        assert_eq!(memory.health(&one, Timestamp(0)), Health::Ok);
    }

    #[test]
    fn measures_move_with_the_newest_and_age() {
        let (memory, one) = (Memory::default(), candidate(0));
        memory.answered(&one, 100_000, 1_000_000, 50, Timestamp(0));
        memory.answered(&one, 200_000, 1_000_000, 100, Timestamp(0));
        let measured = memory.measured("p/m", Timestamp(0)).unwrap();
        assert_eq!((measured.first_token_ms, measured.tokens_per_second), (Some(120.0), Some(60.0)));
        assert_eq!(memory.measured("p/m", Timestamp(700_000)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let memory = Memory::default();
        for i in 0..3 * MOST {
            let one = Candidate { model: format!("m{i}"), ..candidate(0) };
            memory.answered(&one, 1, 1, 1, Timestamp(0));
        }
        assert!(memory.held().models.len() <= MOST);
    }

    #[test]
    fn a_list_that_cannot_be_had_leaves_the_last_one() {
        let (memory, one) = (Memory::default(), candidate(0));
        let list = vec![Listed { name: "m".to_owned(), ..Listed::default() }];
        memory.set_list(&one.provider, Some(list.clone()), Timestamp(0));
        assert!(memory.list(&one.provider, Timestamp(599_999)).is_some());
        assert!(memory.list(&one.provider, Timestamp(600_000)).is_none());
        assert_eq!(*memory.set_list(&one.provider, None, Timestamp(600_000)), list);
    }
}
