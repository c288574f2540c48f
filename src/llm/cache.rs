//! Answers that are kept for the very same question (`llm.cache`): in the instance's memory, and in the read-mostly store,
//! where other instances find them.
//!
//! It **never** holds a question: an answer is found by a digest of who asks whom for what. What the store holds is
//! bounded, too: there are so many places, and what is new takes the place of what was there.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CACHE_CONTROL;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::call::{Asked, Task};
use super::chat::{Event, Gather, Part, Stop, Whole};
use super::convert::{Front, whole};
use super::openai;
use crate::config::Plan;
use crate::config::plan::{Cache as Given, Caller};
use crate::config::types::ProviderKind;
use crate::platform::{Clock as _, KeyValue as _, Platform, Timestamp};

/// How much an instance holds at most, whatever the configuration allows: an isolate has 128 MB for everything.
const IN_MEMORY: usize = 16 * 1024 * 1024;

/// What an answer is found by.
pub type Key = [u8; 32];

/// Who gave an answer: the provider, and the model's name there.
type By = (Option<String>, Option<String>);

/// An answer, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    key: String,
    /// When it was given, in milliseconds since 1970.
    at: u64,
    /// Who gave it.
    provider: Option<String>,
    model: Option<String>,
    /// In OpenAI's dialect.
    answer: Value,
}

impl Kept {
    /// How old it is.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(Timestamp(self.at))
    }

    /// The answer.
    pub(super) fn whole(&self) -> Option<Whole> {
        let whole = Whole::of(whole("", ProviderKind::Openai, &self.answer)).ok()?;
        Some(Whole { id: None, ..whole })
    }
}

#[derive(Debug, Default)]
struct Held {
    answers: HashMap<Key, Bytes>,
    /// The oldest first.
    order: VecDeque<Key>,
    bytes: usize,
}

/// The answers in the instance's memory.
#[derive(Debug, Default)]
pub struct Cache {
    held: Mutex<Held>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How a cache has been doing, in this instance.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Doing {
    /// Questions whose answer was there.
    pub hits: u64,
    /// Questions whose answer was not.
    pub misses: u64,
    /// Answers in memory.
    pub answers: usize,
    /// How large they are together.
    pub bytes: usize,
}

impl Cache {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: Key, answer: Bytes, most: usize) {
        let mut held = self.held();
        held.bytes += answer.len();
        match held.answers.insert(key, answer) {
            Some(old) => held.bytes -= old.len(),
            None => held.order.push_back(key),
        }
        while held.bytes > most.min(IN_MEMORY)
            && let Some(oldest) = held.order.pop_front()
        {
            held.bytes -= held.answers.remove(&oldest).map_or(0, |old| old.len());
        }
    }

    /// How it has been doing.
    pub fn doing(&self) -> Doing {
        let held = self.held();
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Doing {
            hits: count(&self.hits),
            misses: count(&self.misses),
            answers: held.answers.len(),
            bytes: held.bytes,
        }
    }
}

/// Where the store keeps the answer of `key`.
fn place(given: &Given, key: &Key) -> String {
    let places = (given.size / given.max_answer).clamp(1, 65_536);
    let number = key.iter().take(4).fold(0, |number, byte| number * 256 + usize::from(*byte));
    format!("answers/{}", number % places)
}

/// The answer of `key`, if there is one that is young enough.
async fn find<P: Platform>(platform: &P, given: &Given, cache: &Cache, key: &Key) -> Option<Kept> {
    let now = platform.clock().now();
    let read = |bytes: &[u8]| {
        let kept: Kept = serde_json::from_slice(bytes).ok()?;
        (kept.age(now) < given.ttl && kept.key == URL_SAFE_NO_PAD.encode(key)).then_some(kept)
    };
    let near = cache.held().answers.get(key).cloned();
    if let Some(kept) = near.and_then(|bytes| read(&bytes)) {
        return Some(kept);
    }
    let far = platform.key_value().read(&place(given, key)).await.ok().flatten()?;
    let kept = read(&far)?;
    cache.put(*key, far, given.size);
    Some(kept)
}

/// What becomes of one question.
#[derive(Debug)]
pub struct Caching {
    key: Key,
    /// Whether an answer is to be looked for that is no older than this.
    look: Option<Duration>,
    /// What came of it, as RFC 9211 says it.
    pub(super) status: String,
    pub(super) hit: Option<Duration>,
    /// The answer as far as it has come; `None` once it is not to be kept.
    gather: Option<(Gather, usize)>,
    most: usize,
}

impl Caching {
    /// What is to become of `asked`; `None` where there is no cache, or none for this.
    pub(super) fn of(plan: &Plan, caller: &Caller, asked: &Asked, headers: &HeaderMap) -> Option<Self> {
        let given = plan.llm.cache.as_ref()?;
        let Task::Chat(front) = asked.task else { return None };
        if !given.models.admits(&asked.model) {
            return None;
        }
        let mut caching = Self {
            key: Key::default(),
            look: Some(Duration::MAX),
            status: "fwd=miss".to_owned(),
            hit: None,
            gather: Some((Gather::default(), 0)),
            most: given.max_answer,
        };
        let question = match &asked.chat {
            Some(chat) => openai::encode(chat, ProviderKind::Openai),
            None => serde_json::from_slice(&asked.body).ok()?,
        };
        let wishes = wishes(headers);
        if wishes.forbids || !is_settled(&question) {
            (caching.look, caching.gather) = (None, None);
            caching.status = if wishes.forbids { "fwd=request" } else { "fwd=bypass" }.to_owned();
            return Some(caching);
        }
        caching.look = wishes.look;
        if caching.look.is_none() {
            caching.status = "fwd=request".to_owned();
        }
        caching.key = digest(plan, caller, front, asked, question);
        Some(caching)
    }

    /// Takes a piece of the answer.
    pub(super) fn push(&mut self, event: &Event) {
        let Some((gather, bytes)) = &mut self.gather else { return };
        *bytes += match event {
            Event::Text(text) | Event::Reasoning(text) | Event::Arguments { json: text, .. } => text.len(),
            _ => 0,
        };
        if *bytes > self.most || gather.push(event.clone()).is_err() {
            self.gather = None;
        }
    }

    /// Takes a whole answer.
    pub(super) fn take(&mut self, whole: &Whole) {
        for event in whole.clone().events() {
            self.push(&event);
        }
    }

    /// Another begins to answer: what the last one said counts for nothing.
    pub(super) fn anew(&mut self) {
        if self.gather.is_some() {
            self.gather = Some((Gather::default(), 0));
        }
    }

    /// The answer is not to be kept.
    pub(super) fn give_up(&mut self) {
        self.gather = None;
    }

    /// Looks for the answer. Dropping the future loses nothing.
    pub(super) async fn find<P: Platform>(
        &mut self,
        platform: &P,
        plan: &Plan,
        cache: &Cache,
    ) -> Option<(Whole, By)> {
        let (given, look) = (plan.llm.cache.as_ref()?, self.look?);
        let kept = find(platform, given, cache, &self.key).await;
        self.look = None;
        let now = platform.clock().now();
        let found = kept.filter(|kept| kept.age(now) <= look).and_then(|kept| Some((kept.whole()?, kept)));
        let Some((whole, kept)) = found else {
            cache.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        cache.hits.fetch_add(1, Ordering::Relaxed);
        let age = kept.age(now);
        self.status = format!("hit; ttl={}", given.ttl.saturating_sub(age).as_secs());
        self.hit = Some(age);
        self.gather = None;
        Some((whole, (kept.provider, kept.model)))
    }

    /// Whether the answer is still to be looked for.
    pub(super) fn looks(&self) -> bool {
        self.look.is_some()
    }

    /// The answer has come to its end: it is kept in memory, and what is to be kept in the store is given back.
    pub(super) fn keep(&mut self, plan: &Plan, cache: &Cache, by: By, now: Timestamp) -> Option<Box<ToKeep>> {
        let given = plan.llm.cache.as_ref()?;
        let whole = self.gather.take()?.0.whole();
        let kept = Kept {
            key: URL_SAFE_NO_PAD.encode(self.key),
            at: now.0,
            provider: by.0,
            model: by.1,
            answer: faithful(&whole)?,
        };
        let bytes = Bytes::from(serde_json::to_vec(&kept).ok()?);
        if bytes.len() > given.max_answer {
            return None;
        }
        cache.put(self.key, bytes.clone(), given.size);
        Some(Box::new(ToKeep { place: place(given, &self.key), answer: bytes }))
    }
}

/// An answer on its way to the store.
#[derive(Debug)]
pub struct ToKeep {
    place: String,
    answer: Bytes,
}

impl ToKeep {
    /// Puts it there; where that fails, the next one who asks is answered by a model.
    pub async fn store<P: Platform>(self: Box<Self>, platform: &P) {
        let _ = platform.key_value().write(&self.place, self.answer).await;
    }
}

/// An answer that came to a good end, in OpenAI's dialect, if that says all of it.
fn faithful(answer: &Whole) -> Option<Value> {
    let ended = matches!(answer.stop, Some(Stop::End | Stop::Tools | Stop::Sequence(None)));
    let said = answer.parts.iter().any(|part| matches!(part, Part::Text(_) | Part::Call(_)));
    if !ended || !said {
        return None;
    }
    let told = Front::OpenAi.whole(answer, "", "", 0);
    let back = Whole::of(whole("", ProviderKind::Openai, &told)).ok()?;
    (back.parts == answer.parts && back.stop == answer.stop && back.extra == answer.extra).then_some(told)
}

/// What a request wants of caches (RFC 9111, section 5.2.1).
struct Wishes {
    /// Nothing of it is to be kept anywhere.
    forbids: bool,
    /// How old an answer may be; `None`: it is to be new.
    look: Option<Duration>,
}

fn wishes(headers: &HeaderMap) -> Wishes {
    let mut wishes = Wishes { forbids: false, look: Some(Duration::MAX) };
    for value in headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()) {
        for word in value.split(',').map(str::trim) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if name.eq_ignore_ascii_case("no-store") {
                wishes.forbids = true;
            } else if name.eq_ignore_ascii_case("no-cache") {
                wishes.look = None;
            } else if name.eq_ignore_ascii_case("max-age") {
                let most = value.trim_matches('"').parse().map_or(Duration::ZERO, Duration::from_secs);
                wishes.look = wishes.look.map(|look| look.min(most)).filter(|look| !look.is_zero());
            }
        }
    }
    wishes
}

/// Whether a question is one that the same answer may be given to again: it does not ask for chance, nor for what only
/// the provider's own bytes say.
fn is_settled(question: &Value) -> bool {
    let number = |name: &str| question.get(name).and_then(Value::as_f64);
    let tools = question.get("tools").and_then(Value::as_array).into_iter().flatten();
    let mut kinds = tools.filter_map(|tool| tool.get("type")?.as_str());
    // What a provider's own tools find is told in ways that only its own bytes say, and is news.
    let own_tools = kinds.any(|kind| kind != "function" && kind != "custom");
    let chance = number("temperature").is_some_and(|heat| heat > 0.0) && number("seed").is_none();
    let bytes =
        ["logprobs", "top_logprobs", "prediction", "store", "audio", "web_search_options", "container"];
    !chance
        && !own_tools
        && number("n").is_none_or(|n| n <= 1.0)
        && bytes.iter().all(|name| {
            question.get(*name).is_none_or(|value| value.is_null() || *value == Value::Bool(false))
        })
}

/// What the answer of `question` is found by.
fn digest(plan: &Plan, caller: &Caller, front: Front, asked: &Asked, mut question: Value) -> Key {
    let given = plan.llm.cache.as_ref();
    let mut hash = Sha256::new();
    // Each part with its length, so that no two lists of them look the same.
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    add(b"1");
    // What is configured for a server's question, and not which of that is doing best.
    let sampled = front == Front::Sampling;
    let team = plan.llm.team(&asked.model).filter(|_| !sampled);
    let together = team.is_some() || sampled && asked.may.iter().any(|name| plan.llm.team(name).is_some());
    match given {
        // What a team says may come of a model that a key denies: whoever denies any shares no team's answer.
        Some(given) if given.shared && (caller.models.deny.is_empty() || !together) => {
            add(b"shared");
        }
        _ => {
            add(b"caller");
            add(caller.name.as_bytes());
        }
    }
    add(&[front as u8]);
    // Who may answer: what a name stands for, and not how it was called, but where somebody chooses.
    if let Some(team) = team {
        add(asked.model.as_bytes());
        for text in team.models.iter().chain(&team.judge).chain(&team.instruction) {
            add(text.as_bytes());
        }
    } else {
        let mut names = asked.may.clone();
        if plan.llm.policy(&asked.model).is_some() && !sampled {
            add(asked.model.as_bytes());
            names.sort_unstable();
        }
        for name in names {
            add(name.as_bytes());
        }
    }
    for (name, value) in &asked.native {
        add(name.as_str().as_bytes());
        add(value.as_bytes());
    }
    if let Some(members) = question.as_object_mut() {
        // How the answer is told, and by whom, makes it no other answer.
        for name in ["model", "stream", "stream_options"] {
            members.remove(name);
        }
        members.sort_keys();
    }
    add(question.to_string().as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_wants_of_caches_is_understood() {
        let check = |value: &'static str, forbids: bool, look: Option<u64>| {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, http::HeaderValue::from_static(value))]);
            let wishes = wishes(&headers);
            assert_eq!(wishes.forbids, forbids, "{value}");
            assert_eq!(wishes.look, look.map(Duration::from_secs), "{value}");
        };
        check("max-age=60", false, Some(60));
        check("No-Cache", false, None);
        check("max-age=0", false, None);
        check("max-age=nonsense", false, None);
        check("max-age=5, max-age=60", false, Some(5));
        let headers =
            HeaderMap::from_iter([(CACHE_CONTROL, http::HeaderValue::from_static("private, no-store"))]);
        assert!(wishes(&headers).forbids);
    }

    #[test]
    fn only_answers_that_came_to_a_good_end_are_kept() {
        let check = |stop: Option<Stop>, parts: Vec<Part>, kept: bool| {
            let whole = Whole { stop, parts, ..Whole::default() };
            assert_eq!(faithful(&whole).is_some(), kept, "{whole:?}");
        };
        let words = || vec![Part::Text("Hi".to_owned())];
        check(Some(Stop::End), words(), true);
        check(Some(Stop::Sequence(None)), words(), false);
        check(Some(Stop::Sequence(Some("x".to_owned()))), words(), false);
        for stop in [Stop::Length, Stop::Filtered, Stop::Declined, Stop::Paused] {
            check(Some(stop), words(), false);
        }
        check(None, words(), false);
        check(Some(Stop::End), Vec::new(), false);
        check(Some(Stop::End), vec![Part::Text(" \n".to_owned())], true);
    }

    #[test]
    fn memory_is_bounded() {
        let cache = Cache::default();
        for number in 0..=255 {
            cache.put([number; 32], vec![0; 100].into(), 1000);
        }
        let doing = cache.doing();
        assert_eq!((doing.answers, doing.bytes), (10, 1000));
        cache.put([255; 32], vec![0; 50].into(), 1000);
        assert_eq!(cache.doing().bytes, 950, "the same answer is there once");
        cache.put([1; 32], vec![0; 2000].into(), 1000);
        assert_eq!(cache.doing().bytes, 0, "what is too large for all of it is not kept");
    }

    #[test]
    fn chance_is_not_answered_from_memory() {
        let check = |question: Value, settled: bool| assert_eq!(is_settled(&question), settled, "{question}");
        check(serde_json::json!({}), true);
        check(serde_json::json!({"temperature": 0}), true);
        check(serde_json::json!({"temperature": 0.7}), false);
        check(serde_json::json!({"temperature": 0.7, "seed": 1}), true);
        check(serde_json::json!({"n": 2}), false);
        check(serde_json::json!({"tools": [{"type": "web_search_20250305"}]}), false);
        check(serde_json::json!({"tools": [{"type": "function"}, {"name": "x"}]}), true);
        check(serde_json::json!({"logprobs": true}), false);
        check(serde_json::json!({"logprobs": false, "n": 1}), true);
    }
}
