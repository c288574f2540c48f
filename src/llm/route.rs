//! A model's name to whom it is asked of, in order. Pure: the plan and the caller in, candidates out.

use std::sync::Arc;

use super::provider::{is_usual, usual_models};
use super::refusal::Refusal;
use crate::config::plan::{Caller, Llm, Provider};
use crate::fault::Kind;

/// A provider that may answer, and what the model is called there.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The provider.
    pub provider: Arc<Provider>,
    /// The model's name at the provider.
    pub model: String,
}

impl Candidate {
    /// `provider/model`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.provider.name, self.model)
    }
}

/// Who may answer for the model that a caller calls `name`: what the configuration says of the name; else the
/// provider that the name begins with (`provider/model`); else the providers that have such a model.
///
/// # Errors
/// [`Kind::UnknownModel`]. What a caller may not use does not exist for them.
pub fn candidates(llm: &Llm, caller: &Caller, name: &str) -> Result<Vec<Candidate>, Refusal> {
    let unknown = || {
        let mut refusal = Refusal::new(Kind::UnknownModel, format!("no model {:?} here", brief(name)));
        refusal.param = Some("model".to_owned());
        refusal
    };
    let mut found = found(llm, name);
    found.retain(|candidate| {
        let full = candidate.name();
        let names = [name, full.as_str(), candidate.model.as_str()];
        let rights = &caller.models;
        let matches = |globs: &[crate::config::glob::Glob]| {
            globs.iter().any(|glob| names.iter().any(|n| glob.matches(n)))
        };
        (rights.allow.is_empty() || matches(&rights.allow)) && !matches(&rights.deny)
    });
    if found.is_empty() { Err(unknown()) } else { Ok(found) }
}

fn found(llm: &Llm, name: &str) -> Vec<Candidate> {
    if let Some(model) = llm.model(name).filter(|model| !model.targets.is_empty()) {
        let targets = model.targets.iter().filter_map(|target| {
            let provider = llm.provider(&target.provider)?.clone();
            Some(Candidate { provider, model: target.model.clone() })
        });
        return targets.collect();
    }
    if let Some(policy) = llm.policy(name) {
        let targets = policy.targets.iter().filter_map(|(target, _)| {
            let provider = llm.provider(&target.provider)?.clone();
            Some(Candidate { provider, model: target.model.clone() })
        });
        return targets.collect();
    }
    if let Some(team) = llm.team(name) {
        let names = team.models.iter().chain(&team.judge);
        return names.filter(|one| *one != name).flat_map(|one| found(llm, one)).collect();
    }
    if let Some((provider, model)) = name.split_once('/')
        && let Some(provider) = llm.provider(provider)
        && !model.is_empty()
        && offers(provider, model)
    {
        return vec![Candidate { provider: provider.clone(), model: model.to_owned() }];
    }
    let of = |wanted: fn(&Provider, &str) -> bool| -> Vec<Candidate> {
        let providers = llm.providers.iter().filter(|provider| wanted(provider, name));
        providers.map(|provider| Candidate { provider: provider.clone(), model: name.to_owned() }).collect()
    };
    // Who says that they have it, or is known for it, comes before those who may have anything.
    let known = of(|provider, name| match &provider.models {
        Some(models) => models.admits(name),
        None => is_usual(provider.kind, name),
    });
    if !known.is_empty() {
        return known;
    }
    let any = of(|provider, _| provider.models.is_none() && usual_models(provider.kind).is_empty());
    // A lone provider is asked for whatever it is: its names may be newer than ours.
    match (any.is_empty(), llm.providers.as_slice()) {
        (true, [only]) if only.models.is_none() => {
            vec![Candidate { provider: only.clone(), model: name.to_owned() }]
        }
        _ => any,
    }
}

/// Whether a provider may be asked for `model` by its own name.
fn offers(provider: &Provider, model: &str) -> bool {
    provider.models.as_ref().is_none_or(|models| models.admits(model))
}

/// A name from outside, for a message.
#[must_use]
pub fn brief(name: &str) -> String {
    let mut short: String = name.chars().take(100).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::glob::{Filter, Glob};
    use crate::config::plan::{Model, Target};
    use crate::config::types::ProviderKind;

    fn provider(name: &str, kind: ProviderKind, models: Option<&[&str]>) -> Arc<Provider> {
        let mut provider = Provider::new(name, kind, "http://x/v1".parse().unwrap());
        provider.models = models.map(filter);
        Arc::new(provider)
    }

    fn filter(globs: &[&str]) -> Filter {
        Filter { allow: globs.iter().map(|glob| Glob::new(glob)).collect(), deny: vec![] }
    }

    fn llm() -> Llm {
        let target = |provider: &str, model: &str| Target { provider: provider.into(), model: model.into() };
        Llm {
            providers: vec![
                provider("openai", ProviderKind::Openai, None),
                provider("claude", ProviderKind::Anthropic, None),
                provider("local", ProviderKind::Ollama, None),
                provider("groq", ProviderKind::OpenaiCompatible, Some(&["llama-*", "gpt-oss*"])),
                provider("box", ProviderKind::Lmstudio, None),
            ],
            models: vec![
                Model {
                    name: "fast".into(),
                    targets: vec![
                        target("openai", "gpt-5-mini"),
                        target("gone", "x"),
                        target("groq", "llama-3"),
                    ],
                    ..Model::default()
                },
                Model { name: "gpt-5".into(), targets: vec![], ..Model::default() },
            ],
            ..Llm::default()
        }
    }

    fn check(name: &str, rights: &[&str], expect: &[&str]) {
        let mut caller = Caller::anyone(false);
        caller.models = filter(rights);
        let got = candidates(&llm(), &caller, name).unwrap_or_default();
        let got: Vec<String> = got.iter().map(Candidate::name).collect();
        assert_eq!(got, expect, "{name} for {rights:?}");
    }

    #[test]
    fn models_are_found_by_alias_provider_family_and_list() {
        check("fast", &[], &["openai/gpt-5-mini", "groq/llama-3"]);
        check("gpt-5", &[], &["openai/gpt-5"]);
        check("claude-sonnet-4-5", &[], &["claude/claude-sonnet-4-5"]);
        check("llama-3", &[], &["groq/llama-3"]);
        check("gpt-oss:20b", &[], &["openai/gpt-oss:20b", "groq/gpt-oss:20b"]);
        check("qwen3", &[], &["local/qwen3", "box/qwen3"]);
        check("local/qwen3", &[], &["local/qwen3"]);
        check("groq/gemma", &[], &["local/groq/gemma", "box/groq/gemma"]);
        check("meta-llama/llama-4", &[], &["local/meta-llama/llama-4", "box/meta-llama/llama-4"]);
    }

    #[test]
    fn what_a_caller_may_not_use_is_not_there() {
        check("gpt-5", &["claude-*"], &[]);
        check("gpt-5", &["openai/*"], &["openai/gpt-5"]);
        check("fast", &["fast"], &["openai/gpt-5-mini", "groq/llama-3"]);
        check("fast", &["groq/*"], &["groq/llama-3"]);
        let mut caller = Caller::anyone(false);
        caller.models.deny = vec![Glob::new("openai/*")];
        assert!(candidates(&llm(), &caller, "gpt-5").is_err());
    }

    #[test]
    fn a_lone_provider_is_asked_for_any_name() {
        let mut llm = llm();
        llm.providers.truncate(1);
        let got = candidates(&llm, &Caller::anyone(false), "brand-new").unwrap();
        assert_eq!(got[0].name(), "openai/brand-new");
    }
}
