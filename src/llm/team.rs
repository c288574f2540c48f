//! Several models answer together: a chain drafts and refines, a cascade asks the strong only where the cheap will not do,
//! a comparison asks all and picks one.
//!
//! All but the last stage are whole answers that the caller does not see; the last is asked as any call is, and streams.
//! A `Team` is driven by `Team::run`, which may be dropped and called again without losing anything.
//! Invariant: no more stages than the configuration names, no more time or money than it allows, and no more memory than
//! there is room for.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use http::HeaderMap;
use serde::Serialize;

use super::ask::types::Attempt;
use super::call::{Asked, Call, Task};
use super::chat::{Chat, Format, Part, Role, Stop, Turn, Usage, Whole};
use super::convert::Front;
use super::memory::Memory;
use super::policy::{Choice, Needs, choose};
use super::refusal::Refusal;
use crate::config::Plan;
use crate::config::glob::Filter;
use crate::config::plan::{Caller, Team as Given};
use crate::config::types::Together;
use crate::fault::Kind;
use crate::platform::{Clock as _, Platform, Timestamp};

const REFINE: &str = "Improve your answer: correct what is wrong, add what is missing, leave out what does not belong. \
                      Reply with the improved answer alone, and do not mention that there was another.";
const CHECK: &str = "You check answers. Reply with the one word YES if the answer to the last message of the conversation is \
                     correct and complete, else with the one word NO.";
const PICK: &str = "You compare answers. Reply with nothing but the number of the best answer to the last message of the \
                    conversation.";
/// How large the answers of all stages may be together that the caller does not see: they are held until the end.
const ROOM: usize = 16 * 1024 * 1024;
/// How much of a conversation and of each answer a judge is shown.
const MOST: usize = 100_000;

/// A stage, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// What it was for: `draft`, `refine`, `answer`, `judge`.
    pub stage: &'static str,
    /// Who was asked: `provider/model`, or the name in the configuration if nobody was.
    pub model: String,
    /// Tokens that were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// Tokens that came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// Milliseconds.
    pub ms: u64,
    /// `ok`, or the label of a fault.
    pub outcome: &'static str,
    /// What was said, where several answers are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What the stages so far used.
#[derive(Debug, Clone, Default)]
pub(super) struct Spent {
    /// Each of them.
    pub stages: Vec<Stage>,
    /// Tokens of all.
    pub usage: Usage,
    /// US dollars of all.
    pub cost: Option<f64>,
    /// Requests that were made for all.
    pub attempts: u32,
    /// Whom they were made of.
    pub tried: Vec<Attempt>,
}

/// How it goes on once the stages that nobody sees are done.
pub(super) enum Outcome {
    /// The last stage is asked; where it does not answer, what there is will do.
    Ask { choice: Choice, chat: Box<Chat>, role: &'static str, instead: Option<Whole> },
    /// This is the answer.
    Said(Whole),
    /// There is none.
    Refused(Refusal),
}

/// A stage on its way.
struct Running<P: Platform> {
    call: Call<P>,
    index: usize,
    role: &'static str,
    began: Timestamp,
}

/// Several models that answer one request.
pub(super) struct Team<P: Platform> {
    platform: P,
    plan: Arc<Plan>,
    memory: Arc<Memory>,
    caller: Caller,
    given: Given,
    pub(super) chat: Chat,
    passed: HeaderMap,
    request_id: String,
    /// When all must be done.
    pub(super) until: Timestamp,
    /// The stage that comes next.
    at: usize,
    running: Vec<Running<P>>,
    /// The answers so far, by stage.
    answers: Vec<Option<Whole>>,
    /// What a judge said of them.
    verdict: Option<String>,
    judged: bool,
    last: Option<Refusal>,
    pub(super) spent: Spent,
}

impl<P: Platform> Team<P> {
    /// The team `given` for a request, read as `chat`.
    pub(super) fn new(
        platform: P,
        plan: Arc<Plan>,
        memory: Arc<Memory>,
        caller: &Caller,
        given: Given,
        chat: Chat,
        asked: &Asked,
    ) -> Self {
        // Whoever may use the team may use its models for it, but for those that they are denied.
        let models = Filter { allow: Vec::new(), deny: caller.models.deny.clone() };
        let until = platform.clock().now().after(given.time);
        Self {
            platform,
            plan,
            memory,
            caller: Caller { models, ..caller.clone() },
            answers: vec![None; given.models.len()],
            given,
            chat,
            passed: asked.passed.clone(),
            request_id: asked.request_id.clone(),
            until,
            at: 0,
            running: Vec::new(),
            verdict: None,
            judged: false,
            last: None,
            spent: Spent::default(),
        }
    }

    /// Works until it is known how the answer comes about. Dropping the future loses nothing.
    pub(super) async fn run(&mut self) -> Outcome {
        loop {
            if self.running.is_empty() {
                match self.next() {
                    Some(outcome) => return outcome,
                    None => continue,
                }
            }
            let limit = self.until.since(self.platform.clock().now());
            let mut timer = pin!(self.platform.clock().sleep(limit));
            let mut all = FuturesUnordered::new();
            for one in &mut self.running {
                all.push(one.call.drive());
            }
            while let Either::Left((Some(()), _)) = select(all.next(), timer.as_mut()).await {}
            drop(all);
            for one in std::mem::take(&mut self.running) {
                self.done(one);
            }
        }
    }

    /// Begins what comes next, if it is not the end.
    fn next(&mut self) -> Option<Outcome> {
        let over = self.platform.clock().now() >= self.until
            || self.given.cost.zip(self.spent.cost).is_some_and(|(most, spent)| spent >= most);
        let last = self.given.models.len().saturating_sub(1);
        match self.given.how {
            Together::Chain => {
                let draft = self.answers.iter().flatten().next_back().cloned();
                let calls = draft.as_ref().is_some_and(calls);
                if over || calls {
                    return Some(self.end(draft));
                }
                let (chat, role) = match &draft {
                    Some(draft) => (self.with_draft(draft), "refine"),
                    None => (self.chat.clone(), "draft"),
                };
                if self.at == last {
                    return Some(self.ask(last, chat, role, draft));
                }
                self.begin(self.at, chat, role);
                self.at += 1;
            }
            Together::Cascade => {
                let previous = self.at.checked_sub(1);
                let answer = previous.and_then(|at| self.answers.get(at).cloned().flatten());
                if let Some(answer) = answer {
                    let verdict = self.verdict.take();
                    match (acceptable(&answer, &self.chat.format), verdict, &self.given.judge) {
                        (true, None, Some(judge)) if !over && !calls(&answer) && !self.judged => {
                            let (judge, chat) = (judge.clone(), self.judging(CHECK, &[&answer]));
                            self.judged = true;
                            self.start(judge, self.answers.len(), chat, "judge");
                            return None;
                        }
                        (true, Some(verdict), _) if !verdict.to_ascii_uppercase().contains("YES") => {}
                        // A judge who does not answer has nothing against it.
                        (true, ..) => return Some(Outcome::Said(answer)),
                        (false, ..) => {}
                    }
                }
                self.judged = false;
                let best = self.answers.iter().flatten().next_back().cloned();
                if over {
                    return Some(self.end(best));
                }
                if self.at >= last {
                    let chat = self.chat.clone();
                    return Some(self.ask(last, chat, "answer", best));
                }
                self.begin(self.at, self.chat.clone(), "answer");
                self.at += 1;
            }
            Together::Compare => {
                if self.at == 0 {
                    for index in 0..self.given.models.len() {
                        self.begin(index, self.chat.clone(), "answer");
                    }
                    self.at = 1;
                    return None;
                }
                let answers: Vec<&Whole> = self.answers.iter().flatten().collect();
                if let (Some(judge), false, false, 2..) =
                    (&self.given.judge, self.judged, over, answers.len())
                {
                    let (judge, chat) = (judge.clone(), self.judging(PICK, &answers));
                    self.judged = true;
                    self.start(judge, self.answers.len(), chat, "judge");
                    return None;
                }
                let picked =
                    self.verdict.as_deref().and_then(number).and_then(|n| answers.get(n.checked_sub(1)?));
                let best = picked.copied().or_else(|| vote(&answers)).cloned();
                return Some(self.end(best));
            }
        }
        None
    }

    /// The end, with what there is.
    fn end(&mut self, best: Option<Whole>) -> Outcome {
        match best {
            Some(whole) => Outcome::Said(whole),
            None => {
                let late = || {
                    Refusal::new(Kind::UpstreamTimeout, "the models together took too long, or cost too much")
                };
                Outcome::Refused(self.last.take().unwrap_or_else(late))
            }
        }
    }

    fn choose(&self, name: &str, chat: &Chat) -> Result<Choice, Refusal> {
        let now = self.platform.clock().now();
        let needs = || Needs::of_chat(chat);
        choose(&self.plan.llm, &self.caller, name, &self.memory, now, needs)
    }

    /// The last stage, which the caller sees.
    fn ask(&mut self, index: usize, chat: Chat, role: &'static str, instead: Option<Whole>) -> Outcome {
        let name = self.given.models.get(index).cloned().unwrap_or_default();
        match self.choose(&name, &chat) {
            Ok(choice) => Outcome::Ask { choice, chat: chat.into(), role, instead },
            Err(refusal) => {
                self.skipped(name, role, &refusal);
                self.last = Some(refusal);
                self.end(instead)
            }
        }
    }

    fn begin(&mut self, index: usize, chat: Chat, role: &'static str) {
        let name = self.given.models.get(index).cloned().unwrap_or_default();
        self.start(name, index, chat, role);
    }

    fn start(&mut self, model: String, index: usize, mut chat: Chat, role: &'static str) {
        chat.stream = false;
        let choice = match self.choose(&model, &chat) {
            Ok(choice) => choice,
            Err(refusal) => {
                self.skipped(model, role, &refusal);
                self.last = Some(refusal);
                return;
            }
        };
        let asked = Asked {
            task: Task::Chat(Front::OpenAi),
            model,
            stream: false,
            body: bytes::Bytes::new(),
            chat: None,
            passed: self.passed.clone(),
            native: HeaderMap::new(),
            caller: self.caller.name.clone(),
            request_id: format!("{}-{}", self.request_id, self.spent.stages.len() + self.running.len() + 1),
            candidates: choice.candidates,
            may: Vec::new(),
            alone: None,
            why: choice.why,
        };
        let call = Call::unseen(
            self.platform.clone(),
            self.plan.clone(),
            self.memory.clone(),
            asked,
            chat,
            ROOM / self.given.models.len().max(1),
        );
        let began = self.platform.clock().now();
        self.running.push(Running { call, index, role, began });
    }

    fn skipped(&mut self, model: String, stage: &'static str, refusal: &Refusal) {
        let outcome = refusal.fault.kind.row().label;
        let (input, output, cost, text) = (None, None, None, None);
        self.spent.stages.push(Stage { stage, model, input, output, cost, ms: 0, outcome, text });
    }

    /// A stage has come to its end, or its time has.
    fn done(&mut self, mut one: Running<P>) {
        let metered = &one.call.metered;
        let whole = one.call.answer.take();
        let text = whole.as_ref().map(words);
        let named = metered.provider.as_ref().zip(metered.model.as_ref());
        let fault = metered.fault.unwrap_or(Kind::UpstreamTimeout);
        let stage = Stage {
            stage: one.role,
            model: named
                .map_or_else(|| metered.asked.clone(), |(provider, model)| format!("{provider}/{model}")),
            input: metered.usage.input,
            output: metered.usage.output,
            cost: metered.cost,
            ms: u64::try_from(self.platform.clock().now().since(one.began).as_millis()).unwrap_or(u64::MAX),
            outcome: if whole.is_some() { "ok" } else { fault.row().label },
            text: text.clone().filter(|_| self.given.how == Together::Compare),
        };
        self.spent.attempts += metered.attempts;
        self.spent.tried.extend_from_slice(&metered.tried);
        self.spent.usage = self.spent.usage.plus(&metered.usage);
        self.spent.cost = match (self.spent.cost, metered.cost) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.spent.stages.push(stage);
        if whole.is_none() {
            let message = format!("{}: {}", one.call.metered.asked, fault.row().label);
            self.last = Some(one.call.refused.take().unwrap_or_else(|| Refusal::new(fault, message)));
        }
        match self.answers.get_mut(one.index) {
            Some(place) => *place = whole,
            None => self.verdict = text,
        }
    }

    /// The conversation with a draft, and what is to become of it.
    fn with_draft(&self, draft: &Whole) -> Chat {
        let mut chat = self.chat.clone();
        chat.turns.push(Turn { role: Role::Assistant, parts: vec![Part::Text(words(draft))] });
        let wish = self.given.instruction.clone().unwrap_or_else(|| REFINE.to_owned());
        chat.turns.push(Turn { role: Role::User, parts: vec![Part::Text(wish)] });
        chat
    }

    /// What a judge is asked.
    fn judging(&self, wish: &str, answers: &[&Whole]) -> Chat {
        let mut shown = "Conversation:\n".to_owned();
        for turn in &self.chat.turns {
            let who = if turn.role == Role::User { "User" } else { "Assistant" };
            shown += &format!("\n{who}: {}\n", texts(&turn.parts));
        }
        // The end of a long one says what is asked.
        let from = shown.char_indices().rev().nth(MOST).map_or(0, |(at, _)| at);
        let mut shown = shown.split_off(from);
        for (i, answer) in answers.iter().enumerate() {
            let text: String = words(answer).chars().take(MOST).collect();
            shown += &format!("\nAnswer {}:\n{text}\n", i + 1);
        }
        let wish = self.given.instruction.clone().unwrap_or_else(|| wish.to_owned());
        Chat {
            system: vec![wish],
            turns: vec![Turn { role: Role::User, parts: vec![Part::Text(shown)] }],
            user: self.chat.user.clone(),
            ..Chat::default()
        }
    }
}

fn texts(parts: &[Part]) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        Part::Result { parts, .. } => Some(texts(parts)),
        Part::Media(_) => Some("[image]".to_owned()),
        _ => None,
    };
    parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

fn words(whole: &Whole) -> String {
    texts(&whole.parts)
}

fn calls(whole: &Whole) -> bool {
    whole.parts.iter().any(|part| matches!(part, Part::Call(_)))
}

/// Whether an answer is one at all: it came to its end, and looks as it was to.
fn acceptable(whole: &Whole, format: &Format) -> bool {
    if matches!(whole.stop, Some(Stop::Length | Stop::Filtered | Stop::Declined)) {
        return false;
    }
    let text = words(whole);
    match format {
        _ if calls(whole) => true,
        Format::Text => !text.trim().is_empty(),
        Format::Json | Format::Schema { .. } => serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(),
    }
}

/// The first number in a text.
fn number(text: &str) -> Option<usize> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    digits.parse().ok()
}

/// The answer that most agree on, but for spaces and capitals; of several the first.
fn vote<'a>(answers: &[&'a Whole]) -> Option<&'a Whole> {
    let plain = |whole: &Whole| words(whole).split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let said: Vec<String> = answers.iter().map(|whole| plain(whole)).collect();
    let votes = |text: &String| said.iter().filter(|other| *other == text).count();
    let most = said.iter().map(votes).max()?;
    let first = said.iter().position(|text| votes(text) == most)?;
    answers.get(first).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Whole {
        Whole { parts: vec![Part::Text(text.to_owned())], ..Whole::default() }
    }

    #[test]
    fn the_answer_that_most_agree_on_is_picked() {
        let check = |answers: &[&str], expect: &str| {
            let answers: Vec<Whole> = answers.iter().map(|text| whole(text)).collect();
            let answers: Vec<&Whole> = answers.iter().collect();
            assert_eq!(vote(&answers).map(words).as_deref(), Some(expect));
        };
        check(&["a", "B", " b\n"], "B");
        check(&["a", "b", "c"], "a");
        check(&["x"], "x");
        assert!(vote(&[]).is_none());
    }

    #[test]
    fn numbers_are_found_in_what_judges_say() {
        let check = |text: &str, expect: Option<usize>| assert_eq!(number(text), expect, "{text:?}");
        check("2", Some(2));
        check("Answer 2 is better than 1.", Some(2));
        check("**3**", Some(3));
        check("none", None);
        check("99999999999999999999999", None);
    }

    #[test]
    fn an_answer_must_look_like_one() {
        let cut = Whole { stop: Some(Stop::Length), ..whole("x") };
        assert!(!acceptable(&cut, &Format::Text) && !acceptable(&whole(" "), &Format::Text));
        assert!(acceptable(&whole("x"), &Format::Text));
        assert!(!acceptable(&whole("x"), &Format::Json) && acceptable(&whole("{}"), &Format::Json));
    }
}
