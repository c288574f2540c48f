//! What a call used and cost.

use super::ask::types::Attempt;
use super::chat::Usage;
use super::memory::Memory;
use super::noted::Noted;
use super::registry::facts;
use super::route::Candidate;
use super::team::Stage;
use crate::config::plan::{Llm, Prices};
use crate::fault::Kind;

/// What there is to note of a call.
#[derive(Debug, Clone, Default)]
pub struct Metered {
    /// The model, as the caller named it.
    pub asked: String,
    /// The provider that answered or was asked last.
    pub provider: Option<String>,
    /// The model's name there.
    pub model: Option<String>,
    /// How many requests were made for it.
    pub attempts: u32,
    /// Who was asked, in order.
    pub tried: Vec<Attempt>,
    /// Tokens.
    pub usage: Usage,
    /// US dollars, where the prices are known.
    pub cost: Option<f64>,
    /// Whether the answer was known: `hit` or `miss`, where answers are looked for.
    pub cache: Option<&'static str>,
    /// The stages, where several models answered together.
    pub stages: Vec<Stage>,
    /// How long the first word took, in microseconds.
    pub first: Option<u64>,
    /// Why there was no answer, or no whole one.
    pub fault: Option<Kind>,
    /// Whether the answer came to its end.
    pub complete: bool,
    /// What was asked and answered: only where the configuration says so.
    pub noted: Option<Box<Noted>>,
}

impl Metered {
    /// Takes a piece of the answer, where answers are noted.
    pub(super) fn hear(&mut self, event: &super::chat::Event) {
        if let Some(noted) = &mut self.noted {
            noted.push(event);
        }
    }

    /// How much of the answer is noted, to come back to ([`Metered::back`]).
    pub(super) fn length(&self) -> usize {
        self.noted.as_ref().map_or(0, |noted| noted.answer.len())
    }

    /// Forgets what was not said after all.
    pub(super) fn back(&mut self, length: usize) {
        if let Some(noted) = &mut self.noted {
            noted.answer.truncate(length);
        }
    }
}

/// What `usage` costs at `candidate`, whom a caller asked for as `asked`.
#[must_use]
pub fn cost(llm: &Llm, memory: &Memory, asked: &str, candidate: &Candidate, usage: &Usage) -> Option<f64> {
    if usage.is_empty() {
        return None;
    }
    let (provider, model) = (&candidate.provider, &candidate.model);
    let live = memory.listed(&provider.name, model);
    let prices = facts(llm, provider, model, asked, live.as_ref()).prices?;
    Some(priced(&prices, usage))
}

fn priced(prices: &Prices, usage: &Usage) -> f64 {
    let tokens = |count: Option<u64>| count.unwrap_or(0);
    let (cached, written) = (tokens(usage.cached), tokens(usage.cache_write));
    let fresh = tokens(usage.input).saturating_sub(cached).saturating_sub(written);
    #[expect(clippy::cast_precision_loss, reason = "no call has 2^53 tokens")]
    let millions = |count: u64| count as f64 / 1_000_000.0;
    let sum = millions(fresh) * prices.input
        + millions(cached) * prices.cached.unwrap_or(prices.input)
        + millions(written) * prices.cache_write.unwrap_or(prices.input)
        + millions(tokens(usage.output)) * prices.output;
    // A billionth of a dollar is as much as anybody wants to read.
    (sum * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_have_a_price_of_their_own() {
        let check = |cached: Option<f64>, expect: f64| {
            let prices = Prices { input: 3.0, output: 15.0, cached, cache_write: Some(3.75) };
            let usage = Usage {
                input: Some(1_000_000),
                output: Some(100_000),
                cached: Some(400_000),
                cache_write: Some(200_000),
                reasoning: Some(50_000),
            };
            assert!((priced(&prices, &usage) - expect).abs() < 1e-9, "{}", priced(&prices, &usage));
        };
        check(Some(0.3), 1.2 + 0.12 + 0.75 + 1.5);
        check(None, 1.2 + 1.2 + 0.75 + 1.5);
    }
}
