//! How models and their providers are doing, for `/status`.

use serde::Serialize;

use super::cache::Doing;
use super::memory::{Decision, Health, Memory};
use super::registry::Measured;
use super::route::{Candidate, candidates};
use crate::config::plan::{Caller, Llm};
use crate::platform::Timestamp;

/// Models and providers, as far as a caller may know of them.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The providers, in the order of the file.
    pub providers: Vec<ProviderStatus>,
    /// The last decisions, the newest first: the caller's own, or everybody's for an administrator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
    /// How the answers that are kept have been doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Doing>,
}

/// How a provider is doing.
#[derive(Debug, Serialize)]
pub struct ProviderStatus {
    /// Its name.
    pub name: String,
    /// Whose API it speaks.
    pub kind: &'static str,
    /// `local` or `cloud`.
    pub place: &'static str,
    /// `ok`, `limited` or `paused`, for each of its keys.
    pub health: Vec<&'static str>,
    /// Why it is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The models that it was asked for lately.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelStatus>,
}

/// How a model is doing.
#[derive(Debug, Serialize)]
pub struct ModelStatus {
    /// Its name at the provider.
    pub model: String,
    /// As of its provider, for each key.
    pub health: Vec<&'static str>,
    /// How its answers have been.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// How those are doing that `caller` may use; `None` without any.
#[must_use]
pub fn status(llm: &Llm, memory: &Memory, caller: &Caller, now: Timestamp) -> Option<Status> {
    let all = caller.admin || caller.models.admits_all();
    let mut providers = Vec::new();
    for provider in &llm.providers {
        let health = |model: &str| -> Vec<Health> {
            let keys = std::iter::once(provider).chain(&provider.twins).cloned();
            keys.map(|provider| memory.health(&Candidate { provider, model: model.to_owned() }, now))
                .collect()
        };
        let words = |health: Vec<Health>| health.into_iter().map(Health::word).collect();
        let asked = memory
            .asked(&provider.name)
            .into_iter()
            .filter(|model| all || candidates(llm, caller, &format!("{}/{model}", provider.name)).is_ok());
        let models: Vec<ModelStatus> = asked
            .map(|model| ModelStatus {
                health: words(health(&model)),
                measured: memory.measured(&format!("{}/{model}", provider.name), now),
                model,
            })
            .collect();
        if !all && models.is_empty() {
            continue;
        }
        let own = health("");
        let paused = own.iter().any(|health| matches!(health, Health::Paused(_)));
        let reason = std::iter::once(provider).chain(&provider.twins).find_map(|one| memory.reason(one));
        providers.push(ProviderStatus {
            name: provider.name.clone(),
            kind: provider.kind.name(),
            place: if provider.local { "local" } else { "cloud" },
            reason: reason.filter(|_| paused).map(|(refusal, _)| refusal.fault.kind.row().label),
            health: words(own),
            models,
        });
    }
    let decisions = memory.decisions((!caller.admin).then_some(caller.name.as_str()));
    let cache = llm.cache.as_ref().map(|_| memory.cache.doing());
    (!providers.is_empty() || !decisions.is_empty()).then_some(Status { providers, decisions, cache })
}
