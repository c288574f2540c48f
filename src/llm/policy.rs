//! Whom a call is asked of, in order: what may answer, how it is doing, and what the policy prefers.
//!
//! Pure but for whose turn it is: the plan, the caller, the request and what is remembered in, a [`Choice`] out. It
//! **never** asks anybody.

use serde_json::Value;

use super::chat::{Chat, Format, Part};
use super::memory::{Health, Memory};
use super::refusal::Refusal;
use super::registry::{Facts, facts};
use super::route::{Candidate, brief, candidates};
use super::tokens::estimate;
use crate::config::plan::{Caller, Features, Llm, Policy, Prices};
use crate::config::types::Feature;
use crate::fault::Kind;
use crate::platform::Timestamp;

/// What an image is taken for, in tokens.
const IMAGE: u64 = 1500;
/// How many tokens an answer is taken for when costs are compared.
const ANSWER: u64 = 500;

/// Who is asked, and why.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Who is asked, in this order. Empty only where several models answer together, and where all are left alone.
    pub candidates: Vec<Candidate>,
    /// Who may answer, however they are doing, by name and in the order of the configuration or the policy; of a server's
    /// question also what it wishes for.
    pub may: Vec<String>,
    /// Why nobody is asked now, though some might answer: all are left alone.
    pub alone: Option<Box<Refusal>>,
    /// Why the first of them is.
    pub why: String,
    /// Everybody who was thought of, in words.
    pub considered: Vec<String>,
}

/// What a request needs of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// What it must be able to do.
    pub features: Features,
    /// How many tokens it must take: the request, and the answer that is allowed for.
    pub tokens: u64,
}

impl Needs {
    /// What `body`, in the dialect of either front, needs.
    #[must_use]
    pub fn of(body: &Value) -> Self {
        let mut needs = Self::default();
        let mut add = |feature: Feature, is: bool| {
            if is {
                needs.features = needs.features.with(feature);
            }
        };
        let filled = |key: &str| body.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        add(Feature::Tools, filled("tools") || filled("functions"));
        let schema = |at: &str| body.pointer(at).is_some_and(|kind| kind == "json_schema");
        add(Feature::Json, schema("/response_format/type") || schema("/output_config/format/type"));
        add(Feature::Embeddings, body.get("input").is_some() && body.get("messages").is_none());
        needs.tokens = needs.count(body) / 4;
        let allowed = ["max_tokens", "max_completion_tokens"].iter().find_map(|key| body.get(key)?.as_u64());
        needs.tokens = needs.tokens.saturating_add(allowed.unwrap_or(0));
        needs
    }

    /// The same of a conversation.
    #[must_use]
    pub fn of_chat(chat: &Chat) -> Self {
        let media = |part: &Part| match part {
            Part::Media(media) if media.is_image() => Some(Feature::Images),
            Part::Media(media) if media.kind.starts_with("audio/") => Some(Feature::Audio),
            Part::Media(_) => Some(Feature::Documents),
            _ => None,
        };
        let parts = chat.turns.iter().flat_map(|turn| &turn.parts);
        let tools = (!chat.tools.is_empty()).then_some(Feature::Tools);
        let json = matches!(chat.format, Format::Schema { .. }).then_some(Feature::Json);
        let features = parts.filter_map(media).chain(tools).chain(json).collect();
        Self { features, tokens: estimate(chat).saturating_add(chat.max_tokens.unwrap_or(0)) }
    }

    /// How many bytes of text there are in `value`; notes what there is besides text.
    fn count(&mut self, value: &Value) -> u64 {
        match value {
            Value::String(text) if text.starts_with("data:") => IMAGE * 4,
            Value::String(text) => text.len() as u64,
            Value::Array(items) => items.iter().map(|item| self.count(item)).sum(),
            Value::Object(members) => {
                let feature = match members.get("type").and_then(Value::as_str) {
                    Some("image_url" | "image") => Some(Feature::Images),
                    Some("input_audio") => Some(Feature::Audio),
                    Some("file" | "document") => Some(Feature::Documents),
                    // Bytes of whatever kind, not to be counted as text.
                    Some("base64") => return IMAGE * 4,
                    _ => None,
                };
                if let Some(feature) = feature {
                    self.features = self.features.with(feature);
                }
                members.values().map(|member| self.count(member)).sum()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => 2,
        }
    }
}

/// Who may answer for the model that `caller` calls `name`, in the order in which they are to be asked. `needs` is only
/// called for names that are policies.
///
/// # Errors
/// [`Kind::UnknownModel`]; where all of a policy are left out, the reasons; where all are left alone, why.
pub fn choose(
    llm: &Llm,
    caller: &Caller,
    name: &str,
    memory: &Memory,
    now: Timestamp,
    needs: impl FnOnce() -> Needs,
) -> Result<Choice, Refusal> {
    let mut choice = consider(llm, caller, name, memory, now, needs)?;
    match choice.alone.take() {
        Some(refusal) => Err(*refusal),
        None => Ok(choice),
    }
}

/// The same for somebody who may have the answer already: that all are left alone is told in the [`Choice`].
///
/// # Errors
/// [`Kind::UnknownModel`]; where all of a policy are left out, the reasons.
pub fn consider(
    llm: &Llm,
    caller: &Caller,
    name: &str,
    memory: &Memory,
    now: Timestamp,
    needs: impl FnOnce() -> Needs,
) -> Result<Choice, Refusal> {
    let found = candidates(llm, caller, name)?;
    let Some(policy) = llm.policy(name) else {
        let why = if found.len() > 1 { "the first of those that have it" } else { "asked for by name" };
        return healthy(found, why.to_owned(), Vec::new(), memory, now);
    };
    let (ranked, why, considered) = ranked(llm, policy, found, needs(), memory, now);
    if ranked.is_empty() {
        let message = format!("policy {name:?}: no model fits this request: {}", considered.join("; "));
        let mut refusal = Refusal::new(Kind::Unprocessable, message);
        refusal.param = Some("model".to_owned());
        return Err(refusal);
    }
    healthy(ranked, why, considered, memory, now)
}

/// What makes one candidate better than another.
struct Score {
    candidate: Candidate,
    weight: u32,
    remote: bool,
    cost: Option<f64>,
    first: Option<f64>,
    each: Option<f64>,
    sum: f64,
}

/// Those that fit, the best first; why; and all of them in words.
fn ranked(
    llm: &Llm,
    policy: &Policy,
    found: Vec<Candidate>,
    needs: Needs,
    memory: &Memory,
    now: Timestamp,
) -> (Vec<Candidate>, String, Vec<String>) {
    let (mut scores, mut out) = (Vec::new(), Vec::new());
    for candidate in found {
        let full = candidate.name();
        let live = memory.listed(&candidate.provider.name, &candidate.model);
        let facts = facts(llm, &candidate.provider, &candidate.model, &full, live.as_ref());
        if let Some(reason) = unfit(policy, &candidate, &facts, needs) {
            out.push(format!("{}: left out: {reason}", brief(&full)));
            continue;
        }
        let measured = memory.measured(&brief(&full), now).unwrap_or_default();
        let weight = policy.targets.iter().find(|(target, _)| {
            target.provider == candidate.provider.name && target.model == candidate.model
        });
        scores.push(Score {
            weight: weight.map_or(0, |(_, weight)| *weight),
            remote: !candidate.provider.local,
            cost: facts.prices.map(|prices| cost(&prices, needs.tokens)),
            first: measured.first_token_ms,
            each: measured.tokens_per_second.map(|speed| 1.0 / speed.max(1e-6)),
            sum: 0.0,
            candidate,
        });
    }
    let most = |of: fn(&Score) -> Option<f64>| scores.iter().filter_map(of).fold(0.0, f64::max);
    let (cost, first, each) = (most(|s| s.cost), most(|s| s.first), most(|s| s.each));
    let part = |value: Option<f64>, most: f64, unknown: f64| match value {
        Some(value) if most > 0.0 => value / most,
        Some(_) => 0.0,
        None => unknown,
    };
    let (by_cost, by_first, by_each) = policy.rank;
    for score in &mut scores {
        // A price that nobody knows may be any; what was not measured yet is to be.
        score.sum = by_cost * part(score.cost, cost, 1.0)
            + by_first * part(score.first, first, 0.0)
            + by_each * part(score.each, each, 0.0);
    }
    let ranks = by_cost + by_first + by_each > 0.0;
    scores.sort_by(|a, b| {
        let local = (policy.local_first && a.remote).cmp(&(policy.local_first && b.remote));
        local.then(a.sum.total_cmp(&b.sum))
    });
    let mut why = match (scores.first(), policy.local_first, ranks) {
        (Some(first), true, _) if !first.remote => "local first".to_owned(),
        (_, _, true) => "the best by rank".to_owned(),
        _ => "the first in order".to_owned(),
    };
    let total: u64 = scores.iter().map(|score| u64::from(score.weight)).sum();
    if total > 0 {
        // Each gets its share over time, whatever the number of instances.
        let mut at = spread(memory.turn(), total);
        let drawn = scores.iter().position(|score| {
            let own = u64::from(score.weight);
            let hit = at < own;
            at = at.saturating_sub(own);
            hit
        });
        if let Some(drawn) = drawn {
            if let Some(head) = scores.get_mut(..=drawn) {
                head.rotate_right(1);
            }
            let own = scores.first().map_or(0, |score| score.weight);
            why = format!("drawn by weight, {own} of {total}");
        }
    }
    let left = out.len();
    let said = |score: &Score| {
        let mut said = brief(&score.candidate.name());
        if ranks {
            said += &format!(": rank {:.3}", score.sum);
        }
        said
    };
    let mut considered: Vec<String> = scores.iter().map(said).collect();
    considered.append(&mut out);
    let why = match left {
        0 => format!("policy {}: {why}", policy.name),
        _ => format!("policy {}: {why}, {left} left out", policy.name),
    };
    (scores.into_iter().map(|score| score.candidate).collect(), why, considered)
}

/// A number below `total` that comes about as often as any other, and not in a row: the golden ratio's multiples.
fn spread(turn: usize, total: u64) -> u64 {
    let hashed = (turn as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u64::try_from((u128::from(hashed) * u128::from(total)) >> 64).unwrap_or(0)
}

/// Why a model is not to be asked.
fn unfit(policy: &Policy, candidate: &Candidate, facts: &Facts, needs: Needs) -> Option<String> {
    if policy.local_only && !candidate.provider.local {
        return Some("not local".to_owned());
    }
    if let Some(features) = facts.features
        && let Some(missing) = policy.needs.and(needs.features).missing(features)
    {
        return Some(format!("no {missing}"));
    }
    let tokens = policy.context.max(needs.tokens);
    match facts.context {
        Some(context) if context < tokens => Some(format!("takes {context} tokens, and {tokens} are needed")),
        _ => None,
    }
}

fn cost(prices: &Prices, tokens: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "no call has 2^53 tokens")]
    let (input, output) = (tokens as f64, ANSWER as f64);
    input * prices.input + output * prices.output
}

/// Those that are doing well before those that do not want to be asked now; those that are left alone not at all. Each
/// provider with several keys stands there with each, beginning with the one whose turn it is.
fn healthy(
    found: Vec<Candidate>,
    why: String,
    mut considered: Vec<String>,
    memory: &Memory,
    now: Timestamp,
) -> Result<Choice, Refusal> {
    let may = found.iter().map(Candidate::name).collect();
    let (mut well, mut limited) = (Vec::new(), Vec::new());
    let mut paused: Option<Candidate> = None;
    for candidate in found {
        let mut keys = vec![candidate.clone()];
        let twins = &candidate.provider.twins;
        keys.extend(twins.iter().map(|twin| Candidate { provider: twin.clone(), ..candidate.clone() }));
        if keys.len() > 1 {
            let turn = memory.turn() % keys.len();
            keys.rotate_left(turn);
        }
        for key in keys {
            let health = memory.health(&key, now);
            match health {
                Health::Ok => well.push(key),
                Health::Limited(until) => limited.push((until, key)),
                Health::Paused(_) => paused = paused.or(Some(key)),
            }
            if health != Health::Ok && considered.len() < 100 {
                considered.push(format!("{}: {}", brief(&candidate.name()), health.word()));
            }
        }
    }
    // Stable: who is limited as long as another keeps their place.
    limited.sort_by_key(|(until, _)| *until);
    well.extend(limited.into_iter().map(|(_, candidate)| candidate));
    if !well.is_empty() {
        return Ok(Choice { candidates: well, may, alone: None, why, considered });
    }
    let reason = paused.and_then(|candidate| memory.reason(&candidate.provider));
    let Some((mut refusal, until)) = reason else {
        return Err(Refusal::new(Kind::UnknownModel, "no provider has this model"));
    };
    let wait = until.since(now);
    refusal.wait = Some(wait);
    let text = &mut refusal.fault.message;
    *text = format!("{text} (left alone for {} s after failing in a row)", wait.as_millis().div_ceil(1000));
    Ok(Choice { candidates: Vec::new(), may, alone: Some(refusal.into()), why, considered })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::config::plan::{Model, Provider, Target};
    use crate::config::types::ProviderKind;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn llm(policy: impl FnOnce(&mut Policy)) -> Llm {
        let provider = |name: &str, kind: ProviderKind, url: &str| {
            Arc::new(Provider::new(name, kind, url.parse().unwrap()))
        };
        let target = |text: &str| {
            let (provider, model) = text.split_once('/').unwrap();
            (Target { provider: provider.into(), model: model.into() }, 0)
        };
        let mut made = Policy {
            name: "p".into(),
            targets: ["openai/gpt-5", "openai/gpt-5-mini", "claude/claude-haiku-4-5", "local/qwen3"]
                .map(target)
                .into(),
            ..Policy::default()
        };
        policy(&mut made);
        Llm {
            providers: vec![
                provider("openai", ProviderKind::Openai, "https://api.openai.com/v1"),
                provider("claude", ProviderKind::Anthropic, "https://api.anthropic.com"),
                provider("local", ProviderKind::Ollama, "http://127.0.0.1:11434"),
            ],
            models: vec![Model {
                name: "local/qwen3".into(),
                context: Some(4096),
                features: Some(Features::default().with(Feature::Tools)),
                ..Model::default()
            }],
            policies: vec![made],
            ..Llm::default()
        }
    }

    fn order(llm: &Llm, memory: &Memory, body: &Value) -> Result<Vec<String>, String> {
        let chosen = choose(llm, &Caller::anyone(false), "p", memory, NOW, || Needs::of(body));
        chosen
            .map(|choice| {
                choice
                    .candidates
                    .iter()
                    .map(|one| one.name().rsplit('/').next().unwrap().to_owned())
                    .collect()
            })
            .map_err(|refusal| refusal.fault.message)
    }

    fn check(policy: impl FnOnce(&mut Policy), body: Value, expect: &[&str]) {
        assert_eq!(order(&llm(policy), &Memory::default(), &body).unwrap(), expect, "{body}");
    }

    fn plain() -> Value {
        json!({"messages": [{"role": "user", "content": "Hi"}]})
    }

    #[test]
    fn preferences_decide_the_order() {
        check(|_| {}, plain(), &["gpt-5", "gpt-5-mini", "claude-haiku-4-5", "qwen3"]);
        check(|p| p.local_first = true, plain(), &["qwen3", "gpt-5", "gpt-5-mini", "claude-haiku-4-5"]);
        check(|p| p.local_only = true, plain(), &["qwen3"]);
        check(|p| p.rank.0 = 1.0, plain(), &["qwen3", "gpt-5-mini", "claude-haiku-4-5", "gpt-5"]);
    }

    #[test]
    fn who_cannot_do_what_is_asked_is_left_out() {
        let image = json!({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]});
        check(|_| {}, image, &["gpt-5", "gpt-5-mini", "claude-haiku-4-5"]);
        let long = json!({"messages": [{"role": "user", "content": "x".repeat(900_000)}]});
        check(|_| {}, long, &["gpt-5", "gpt-5-mini"]);
        check(|p| p.needs = Features::default().with(Feature::Prefill), plain(), &["claude-haiku-4-5"]);
        check(|p| p.context = 250_000, plain(), &["gpt-5", "gpt-5-mini"]);
        let llm = llm(|p| p.local_only = true);
        let schema = json!({"messages": [], "response_format": {"type": "json_schema"}});
        let why = order(&llm, &Memory::default(), &schema).unwrap_err();
        assert!(
            why.contains("openai/gpt-5: left out: not local")
                && why.contains("local/qwen3: left out: no json"),
            "{why}"
        );
    }

    #[test]
    fn what_was_measured_decides() {
        let (llm, memory) = (llm(|p| p.rank.1 = 1.0), Memory::default());
        for (name, first) in [
            ("openai/gpt-5", 900),
            ("openai/gpt-5-mini", 300),
            ("claude/claude-haiku-4-5", 200),
            ("local/qwen3", 500),
        ] {
            let (provider, model) = name.split_once('/').unwrap();
            let one = Candidate { provider: llm.provider(provider).unwrap().clone(), model: model.into() };
            memory.answered(&one, first * 1000, 0, 1, NOW);
        }
        assert_eq!(
            order(&llm, &memory, &plain()).unwrap(),
            ["claude-haiku-4-5", "gpt-5-mini", "qwen3", "gpt-5"]
        );
    }

    #[test]
    fn who_is_not_well_comes_last_or_not_at_all() {
        let (llm, memory) = (llm(|_| {}), Memory::default());
        let one = |provider: &str, model: &str| Candidate {
            provider: llm.provider(provider).unwrap().clone(),
            model: model.into(),
        };
        let limit =
            Refusal { wait: Some(Duration::from_secs(9)), ..Refusal::new(Kind::RateLimited, "slow down") };
        memory.failed(&one("openai", "gpt-5"), &limit, NOW);
        for _ in 0..5 {
            memory.failed(
                &one("claude", "claude-haiku-4-5"),
                &Refusal::new(Kind::UpstreamConnect, "gone"),
                NOW,
            );
        }
        assert_eq!(order(&llm, &memory, &plain()).unwrap(), ["gpt-5-mini", "qwen3", "gpt-5"]);
        let chosen =
            choose(&llm, &Caller::anyone(false), "claude/claude-haiku-4-5", &memory, NOW, Needs::default);
        let refusal = chosen.unwrap_err();
        assert_eq!(
            (refusal.fault.kind, refusal.wait),
            (Kind::UpstreamConnect, Some(Duration::from_secs(10)))
        );
        assert!(refusal.fault.message.starts_with("gone (left alone for 10 s"), "{}", refusal.fault.message);
        let chosen =
            choose(&llm, &Caller::anyone(false), "openai/gpt-5", &memory, NOW, Needs::default).unwrap();
        assert_eq!(chosen.candidates.len(), 1, "who is limited is asked if there is nobody else");
    }

    #[test]
    fn weights_share_out_the_first_place() {
        let (llm, memory) = (
            llm(|p| {
                p.targets[0].1 = 90;
                p.targets[2].1 = 10;
            }),
            Memory::default(),
        );
        let mut firsts = std::collections::BTreeMap::new();
        for _ in 0..1000 {
            let order = order(&llm, &memory, &plain()).unwrap();
            assert_eq!(order.len(), 4);
            *firsts.entry(order[0].clone()).or_insert(0) += 1;
        }
        let canary = firsts["claude-haiku-4-5"];
        assert!((90..=110).contains(&canary) && firsts["gpt-5"] == 1000 - canary, "{firsts:?}");
    }

    #[test]
    fn keys_of_a_provider_take_turns() {
        let mut provider = Provider::new("openai", ProviderKind::Openai, "https://x/v1".parse().unwrap());
        let twin = |slot| Arc::new(Provider { slot, ..provider.clone() });
        provider.twins = vec![twin(1), twin(2)];
        let llm = Llm { providers: vec![Arc::new(provider)], ..Llm::default() };
        let memory = Memory::default();
        let slots = || {
            let chosen = choose(&llm, &Caller::anyone(false), "gpt-5", &memory, NOW, Needs::default).unwrap();
            chosen.candidates.iter().map(|one| one.provider.slot).collect::<Vec<_>>()
        };
        assert_eq!([slots(), slots(), slots()], [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        let limited = Candidate { provider: llm.providers[0].clone(), model: "gpt-5".into() };
        memory.failed(&limited, &Refusal::new(Kind::RateLimited, "x"), NOW);
        assert_eq!(slots(), [1, 2, 0]);
    }

    #[test]
    fn what_a_request_needs_is_read_in_both_dialects() {
        let openai = json!({"tools": [{}], "response_format": {"type": "json_schema"}, "max_tokens": 100, "messages": [
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A"}}]}]});
        let needs = Needs::of(&openai);
        for feature in [Feature::Tools, Feature::Json, Feature::Audio] {
            assert!(needs.features.has(feature), "{feature:?}");
        }
        assert!((100..200).contains(&needs.tokens), "{needs:?}");
        let anthropic = json!({"tools": [], "output_config": {"format": {"type": "json_schema"}}, "messages": [
            {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "A".repeat(1 << 20)}}]}]});
        let needs = Needs::of(&anthropic);
        assert!(needs.features.has(Feature::Images) && needs.features.has(Feature::Json));
        assert!(!needs.features.has(Feature::Tools) && needs.tokens < 2000, "{needs:?}");
        assert!(Needs::of(&json!({"input": "x"})).features.has(Feature::Embeddings));
    }
}
