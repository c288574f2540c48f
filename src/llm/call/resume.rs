//! An answer that was cut goes on: a model is given what was said so far as the beginning of its own answer.
//!
//! Only words can go on: not thoughts, not calls of tools, not JSON that must fit a schema. The caller sees one answer:
//! it does not begin twice, and nothing of it is said twice.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::{Call, State, Task, parse};
use crate::config::types::{Feature, ProviderKind};
use crate::fault::Kind;
use crate::llm::chat::{Event, Format, Part, Role, Thinking, Turn, Usage};
use crate::llm::convert::{self, Writer};
use crate::llm::provider::dialect;
use crate::llm::refusal::Refusal;
use crate::llm::registry::facts;
use crate::llm::route::Candidate;
use crate::platform::Platform;

/// How long an answer may be that can go on.
const MOST: usize = 256 * 1024;
/// How often one may.
const OFTEN: u32 = 2;

/// What is known of an answer that is on its way, to let it go on.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The words that the caller has been given.
    words: String,
    /// How many of them are counted in `before`.
    counted: usize,
    /// Something was said that cannot go on.
    other: bool,
    /// The provider's id of the answer, and the model.
    start: (Option<String>, Option<String>),
    /// How often it has gone on.
    times: u32,
    /// What the parts before this one used, and what this one did.
    pub(super) before: Usage,
    part: Usage,
    /// White space that was said, and that the model was not given.
    owed: String,
    /// Writes the rest.
    pub(super) writer: Option<Writer>,
    /// Why it was cut in the first place.
    pub(super) refusal: Option<Refusal>,
}

impl Said {
    /// What the caller is to be given of `event`; `usage` becomes what all parts used together.
    pub(super) fn tell(&mut self, event: Event, usage: &mut Usage) -> Option<Event> {
        let event = match event {
            Event::Usage(newer) => {
                self.part.update(&newer);
                *usage = self.before.plus(&self.part);
                return Some(Event::Usage(*usage));
            }
            event if self.times > 0 => self.rest(event)?,
            event => event,
        };
        match &event {
            Event::Text(text) if self.words.len() + text.len() <= MOST => self.words.push_str(text),
            Event::Start { id, model } => self.start = (id.clone(), model.clone()),
            event => self.other |= event.is_content(),
        }
        Some(event)
    }

    /// How many words there are, to come back to ([`Said::back`]).
    pub(super) fn length(&self) -> usize {
        self.words.len()
    }

    /// Forgets what was not given to the caller after all.
    pub(super) fn back(&mut self, length: usize) {
        self.words.truncate(length);
    }

    /// Nothing was said after all, and the next candidate begins anew.
    pub(super) fn anew(&mut self) {
        let before = self.before;
        *self = Self { before, ..Self::default() };
    }

    /// Whether the answer has gone on.
    pub(super) fn has_gone_on(&self) -> bool {
        self.times > 0
    }

    fn rest(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Start { .. } => None,
            Event::Text(text) if !self.owed.is_empty() => {
                let mut rest = text.as_str();
                let mut thinks_better = false;
                for owed in std::mem::take(&mut self.owed).chars() {
                    match rest.strip_prefix(owed) {
                        Some(more) if !thinks_better => rest = more,
                        _ if rest.is_empty() => self.owed.push(owed),
                        _ => thinks_better = true,
                    }
                }
                (!rest.is_empty()).then(|| Event::Text(rest.to_owned()))
            }
            event => Some(event),
        }
    }
}

impl<P: Platform> Call<P> {
    /// Lets an answer that was cut by `refusal` go on, if somebody can: `false` if nobody.
    pub(super) fn goes_on(&mut self, refusal: &Refusal) -> bool {
        let fresh = self.said.words.len() - self.said.counted;
        if self.said.times > 0 && fresh == 0 {
            // Whoever was to go on has not: the next one may.
            self.state = State::Next;
            return !self.left.is_empty();
        }
        if self.said.times >= OFTEN || !cuts(refusal) || !self.is_plain() {
            return false;
        }
        let candidates = self.asked.candidates.iter().filter(|candidate| self.continues(candidate));
        let mut able: Vec<Candidate> = candidates.cloned().collect();
        if able.is_empty() {
            return false;
        }
        if let Some(current) = &self.current {
            let own = |candidate: &Candidate| {
                candidate.name() == current.name() && candidate.provider.slot == current.provider.slot
            };
            // Who was cut may go on at once; who is silent, or wants to be left alone, comes last.
            let silent = refusal.fault.kind == Kind::UpstreamTimeout || refusal.wait.is_some();
            able.sort_by_key(|candidate| own(candidate) == silent);
        }
        let guess = self.said.before.output.unwrap_or(0) + fresh as u64 / 4;
        let used = &mut self.metered.usage;
        used.output = used.output.max(Some(guess));
        self.said.before = *used;
        self.said.part = Usage::default();
        self.said.counted = self.said.words.len();
        self.said.times += 1;
        self.said.refusal.get_or_insert_with(|| refusal.clone());
        if self.said.writer.is_none() {
            self.said.writer = Some(self.mid_way());
        }
        if let Some(caching) = &mut self.caching {
            caching.give_up();
        }
        self.left = able.into();
        self.state = State::Next;
        true
    }

    /// Whether all that was said is words, and more words may follow.
    fn is_plain(&mut self) -> bool {
        if !matches!(self.asked.task, Task::Chat(_))
            || self.said.other
            || self.said.words.trim().is_empty()
            || self.said.words.len() > MOST - 1024
        {
            return false;
        }
        let thinks =
            |thinking: &Option<Thinking>| thinking.as_ref().is_some_and(|wish| *wish != Thinking::Off);
        self.chat().is_ok_and(|chat| chat.format == Format::Text && !thinks(&chat.thinking))
    }

    /// Whether `candidate` goes on with what it is given.
    fn continues(&self, candidate: &Candidate) -> bool {
        let (provider, model) = (&candidate.provider, &candidate.model);
        let live = self.memory.listed(&provider.name, model);
        let facts = facts(&self.plan.llm, provider, model, &self.asked.model, live.as_ref());
        match facts.features {
            Some(features) => features.has(Feature::Prefill),
            // Its templates do, whatever the model.
            None => provider.kind == ProviderKind::Ollama,
        }
    }

    /// A writer that stands where the caller is.
    fn mid_way(&mut self) -> Writer {
        let (id, model) = (self.said.start.0.clone(), self.said.start.1.clone());
        let mut writer = self.writer();
        let mut given = BytesMut::new();
        writer.push(Event::Start { id, model }, &mut given);
        writer.push(Event::Text(self.said.words.clone()), &mut given);
        writer
    }

    /// The request for the rest, for `candidate`.
    pub(super) fn rest(&mut self, candidate: &Candidate) -> Result<Bytes, Refusal> {
        let words = self.said.words.trim_end();
        // Anthropic's dialect takes no white space at the end.
        self.said.owed = self.said.words.get(words.len()..).unwrap_or_default().to_owned();
        let words = words.to_owned();
        let kind = candidate.provider.kind;
        if self.is_own() && self.asked.task.front().is(dialect(kind)) {
            let mut body = parse(&self.asked.body)?;
            if let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) {
                messages.push(json!({"role": "assistant", "content": words}));
            }
            if let Some(model) = body.get_mut("model") {
                *model = candidate.model.clone().into();
            }
            return Ok(body.to_string().into());
        }
        let mut chat = self.chat()?.clone();
        chat.model.clone_from(&candidate.model);
        chat.turns.push(Turn { role: Role::Assistant, parts: vec![Part::Text(words)] });
        Ok(convert::encode(&chat, kind)?.to_string().into())
    }
}

/// Whether an answer that ends so may be let go on.
fn cuts(refusal: &Refusal) -> bool {
    matches!(
        refusal.fault.kind,
        Kind::UpstreamCut
            | Kind::UpstreamTimeout
            | Kind::UpstreamInvalid
            | Kind::UpstreamConnect
            | Kind::Overloaded
            | Kind::RateLimited
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_not_said_twice() {
        let check = |owed: &str, pieces: &[&str], expect: &str| {
            let mut said = Said { owed: owed.to_owned(), ..Said::default() };
            let texts =
                pieces.iter().filter_map(|piece| match said.rest(Event::Text((*piece).to_owned()))? {
                    Event::Text(text) => Some(text),
                    _ => None,
                });
            assert_eq!(texts.collect::<String>(), expect, "{owed:?} {pieces:?}");
        };
        check("", &["more"], "more");
        check(" ", &[" more"], "more");
        check(" ", &["more", " and"], "more and");
        check("\n\n", &["\n", "\n", "more", "\n"], "more\n");
        check("\n\n", &["\nmore", "\n"], "more\n");
        check(" ", &["", " ", " more"], " more");
    }
}
