//! `sampling/createMessage`: an MCP server asks for a model's words.
//!
//! What it asks becomes a [conversation](super::chat), its wishes an order among the models that the configuration allows
//! it, and the answer a `CreateMessageResult`. What a server wishes for that is none of its business, the context of other
//! servers and a provider's own parameters, is **never** passed on.
//!
//! Source: 2025-11-25 sampling; SEP-1577.

mod read;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use self::read::{Wishes, read};
pub(in crate::llm) use self::write::whole;
use super::call::{Asked, Call, Task};
use super::convert::Front;
use super::memory::Memory;
use super::policy::{Choice, Needs, consider};
use super::refusal::Refusal;
use super::registry::facts;
use super::route::{Candidate, brief};
use super::{begun, decision};
use crate::config::Plan;
use crate::config::plan::{Caller, Sampler};
use crate::fault::Kind;
use crate::platform::{Clock as _, Platform, Timestamp};

/// The call that a server's question is, at the cost of `caller`, whose call it asks in.
///
/// # Errors
/// When it makes no sense, or none of the models that may answer it is there for this caller.
pub fn sampled<P: Platform>(
    platform: P,
    plan: Arc<Plan>,
    memory: &Arc<Memory>,
    caller: &Caller,
    sampler: &Sampler,
    params: &Value,
    request_id: &str,
) -> Result<Call<P>, Refusal> {
    let (mut chat, wishes) = read(params, sampler.max_tokens)?;
    let now = platform.clock().now();
    let needs = Needs::of_chat(&chat);
    let (model, choice) = wished(&plan, memory, caller, &sampler.models, &wishes, needs, now)?;
    memory.decided(decision(&choice, caller, &model, request_id, now));
    chat.model.clone_from(&model);
    let asked = Asked {
        task: Task::Chat(Front::Sampling),
        model,
        stream: false,
        body: Bytes::new(),
        chat: Some(chat),
        passed: HeaderMap::new(),
        native: HeaderMap::new(),
        caller: caller.name.clone(),
        request_id: request_id.to_owned(),
        candidates: choice.candidates,
        may: choice.may,
        alone: choice.alone,
        why: choice.why,
    };
    // A server says nothing of a cache: what is kept is given.
    begun(platform, plan, memory, caller, &HeaderMap::new(), asked)
}

/// One who may answer.
struct Entry<'a> {
    /// The name that the configuration gives.
    name: &'a str,
    /// `None` for models that answer together.
    candidate: Option<Candidate>,
    /// The first hint that fits; as many as there are if none does.
    hint: usize,
    cost: Option<f64>,
    first: Option<f64>,
    /// 0 for the most capable, 1 for the least.
    rank: f64,
    sum: f64,
}

/// Who answers, by what a server wishes: a hint that fits goes before everything, then the priorities decide, and without
/// any the order of the configuration. Whoever is left alone is not asked, but is among those who may answer: with the wishes,
/// they are what a kept answer is found by, and that is the same however the models are doing.
fn wished(
    plan: &Arc<Plan>,
    memory: &Memory,
    caller: &Caller,
    models: &[String],
    wishes: &Wishes,
    needs: Needs,
    now: Timestamp,
) -> Result<(String, Choice), Refusal> {
    let (mut entries, mut refusal) = (Vec::new(), None);
    let (mut may, mut alone) = (Vec::new(), None);
    #[expect(clippy::cast_precision_loss, reason = "a handful of names")]
    let rank = |at: usize| if models.len() > 1 { at as f64 / (models.len() - 1) as f64 } else { 0.0 };
    for (at, name) in models.iter().enumerate() {
        let entry = |candidate: Option<Candidate>| {
            let full = candidate.as_ref().map(Candidate::name).unwrap_or_default();
            let (mut cost, mut first) = (None, None);
            if let Some(candidate) = &candidate {
                let live = memory.listed(&candidate.provider.name, &candidate.model);
                let known = facts(&plan.llm, &candidate.provider, &candidate.model, &full, live.as_ref());
                cost = known.prices.map(|prices| prices.input + prices.output);
                first = memory.measured(&brief(&full), now).and_then(|measured| measured.first_token_ms);
            }
            let hint = wishes.hints.iter().position(|hint| {
                [name.as_str(), &full].iter().any(|own| own.to_ascii_lowercase().contains(hint))
            });
            let hint = hint.unwrap_or(wishes.hints.len());
            Entry { name, candidate, hint, cost, first, rank: rank(at), sum: 0.0 }
        };
        if let Some(team) = plan.llm.team(name) {
            match super::route::candidates(&plan.llm, caller, name) {
                Ok(_) => {
                    let all = team.models.iter().chain(&team.judge).chain(&team.instruction);
                    may.extend([name].into_iter().chain(all).cloned());
                    entries.push(entry(None));
                }
                Err(refused) => _ = refusal.get_or_insert(refused),
            }
            continue;
        }
        match consider(&plan.llm, caller, name, memory, now, || needs) {
            Ok(mut choice) => {
                if plan.llm.policy(name).is_some() {
                    choice.may.sort_unstable();
                }
                may.push(name.clone());
                may.append(&mut choice.may);
                alone = alone.or(choice.alone.map(|why| (name, why)));
                entries.extend(choice.candidates.into_iter().map(|one| entry(Some(one))));
            }
            Err(refused) => _ = refusal.get_or_insert(refused),
        }
    }
    // No name is empty, so that what is wished cannot be taken for one.
    may.push(String::new());
    may.extend(wishes.hints.iter().cloned());
    let (by_cost, by_speed, by_rank) = wishes.priorities;
    may.extend([by_cost, by_speed, by_rank].map(|wish| wish.to_string()));
    let most = |of: fn(&Entry<'_>) -> Option<f64>| entries.iter().filter_map(of).fold(0.0, f64::max);
    let (cost, first) = (most(|e| e.cost), most(|e| e.first));
    let part = |value: Option<f64>, most: f64| match value {
        Some(value) if most > 0.0 => value / most,
        Some(_) => 0.0,
        // What nobody knows may be anything.
        None => 0.5,
    };
    for entry in &mut entries {
        entry.sum =
            by_cost * part(entry.cost, cost) + by_speed * part(entry.first, first) + by_rank * entry.rank;
    }
    entries.sort_by(|a, b| a.hint.cmp(&b.hint).then(a.sum.total_cmp(&b.sum)));
    let Some(best) = entries.first() else {
        if let Some((name, why)) = alone {
            return Ok((name.clone(), Choice { may, alone: Some(why), ..Choice::default() }));
        }
        return Err(refusal.unwrap_or_else(|| Refusal::new(Kind::UnknownModel, "no model may answer")));
    };
    let why = match (best.hint < wishes.hints.len(), by_cost + by_speed + by_rank > 0.0) {
        (true, _) => "sampling: fits a hint",
        (false, true) => "sampling: the best by priorities",
        (false, false) => "sampling: the first in order",
    };
    let model = best.name.to_owned();
    let together = best.candidate.is_none();
    let considered = entries.iter().map(|entry| match &entry.candidate {
        Some(candidate) => brief(&candidate.name()),
        None => entry.name.to_owned(),
    });
    let considered = considered.take(100).collect();
    let candidates = match together {
        true => Vec::new(),
        false => entries.into_iter().filter_map(|entry| entry.candidate).collect::<Vec<_>>(),
    };
    Ok((model, Choice { candidates, may, alone: None, why: why.to_owned(), considered }))
}

#[cfg(test)]
mod tests;
