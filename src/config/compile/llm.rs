//! Providers of models and model names.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use url::Url;

use super::super::fill::fill;
use super::super::plan::{
    BEHIND, Cache, Credential, Llm, Model, Policy, Prices, Provider, Skipped, Target, Team, Timeouts,
};
use super::super::read::endpoint;
use super::super::types::{self, ProviderKind};
use super::{because, bytes, filter, has_links, headers, time};
use crate::platform::{Abilities, Secrets};

/// What the configuration says, with what this host cannot ask left out.
pub(super) fn llm(
    given: &types::Llm,
    secrets: &impl Secrets,
    host: Abilities,
    skipped: &mut Vec<Skipped>,
) -> Llm {
    let mut llm = Llm::default();
    llm.contexts.ttl = time(given.contexts.ttl, llm.contexts.ttl);
    llm.contexts.max_size = bytes(given.contexts.max_size, llm.contexts.max_size);
    llm.contexts.turns = given.contexts.turns.map_or(llm.contexts.turns, |turns| turns as usize);
    llm.cache = given.cache.as_ref().map(|cache| Cache {
        ttl: time(cache.ttl, Duration::from_secs(60 * 60)),
        size: bytes(cache.size, 16 * 1024 * 1024),
        max_answer: bytes(cache.max_answer, 64 * 1024),
        shared: cache.shared.unwrap_or(false),
        models: filter(&cache.models),
    });
    llm.log_content = bytes(given.log_content, 0);
    for (name, entry) in given.providers.iter() {
        match provider(name, entry, secrets, host) {
            Ok(provider) => llm.providers.push(Arc::new(provider)),
            Err(reason) => skipped.push(Skipped { name: format!("llm.providers.{name}"), reason }),
        }
    }
    for (name, entry) in given.models.iter() {
        let prices = entry.prices.map(|prices| Prices {
            input: prices.input,
            output: prices.output,
            cached: prices.cached,
            cache_write: prices.cache_write,
        });
        llm.models.push(Model {
            name: name.to_owned(),
            targets: entry.targets.iter().filter_map(|text| target(text)).collect(),
            prices,
            context: entry.context.map(u64::from),
            max_output: entry.max_output.map(u64::from),
            features: entry.features.as_ref().map(|features| features.iter().copied().collect()),
        });
    }
    for (name, entry) in given.policies.iter() {
        let mut targets = Vec::new();
        for text in &entry.targets {
            let weight = entry.weights.named(text).copied().unwrap_or_default();
            match llm.model(text).filter(|model| !model.targets.is_empty()) {
                Some(alias) => targets.extend(alias.targets.iter().map(|target| (target.clone(), weight))),
                None => targets.extend(target(text).map(|target| (target, weight))),
            }
        }
        llm.policies.push(Policy {
            name: name.to_owned(),
            targets,
            needs: entry.needs.iter().copied().collect(),
            context: entry.context.unwrap_or_default().into(),
            local_only: entry.local_only,
            local_first: entry.local_first,
            rank: (entry.rank.cost, entry.rank.latency, entry.rank.speed),
        });
    }
    for (name, entry) in given.teams.iter() {
        llm.teams.push(Team {
            name: format!("{}/{name}", entry.how.name()),
            how: entry.how,
            models: entry.models.clone(),
            judge: entry.judge.clone(),
            instruction: entry.instruction.clone(),
            time: time(entry.time, Duration::from_secs(120)),
            cost: entry.cost,
        });
    }
    llm
}

fn target(text: &str) -> Option<Target> {
    let (provider, model) = text.split_once('/')?;
    Some(Target { provider: provider.to_owned(), model: model.to_owned() })
}

fn of_key(kind: ProviderKind, key: String) -> Credential {
    if kind == ProviderKind::Bedrock { Credential::Bearer(key) } else { Credential::Key(key) }
}

/// The provider, or why it is left out.
fn provider(
    name: &str,
    entry: &types::Provider,
    secrets: &impl Secrets,
    host: Abilities,
) -> Result<Provider, String> {
    if entry.disabled {
        return Err("disabled in the configuration".to_owned());
    }
    let kind = entry.kind;
    if let Some(link) = &entry.via {
        has_links(link, host)?;
        // How it is reached there, and with which credential, is the other end's business.
        let url = endpoint(BEHIND).map_err(|(what, fix)| because("url", what, fix))?;
        return Ok(Provider { via: Some(link.clone()), ..asked(name, entry, url) });
    }
    let filled = |key: &str, text: &Option<String>| -> Result<Option<String>, String> {
        let Some(text) = text else { return Ok(None) };
        let text = fill(text, secrets).map_err(|(what, fix)| because(key, &what, &fix))?;
        let text = text.trim().to_owned();
        if HeaderValue::from_str(&text).is_err() {
            let fix = "it holds visible ASCII characters and no line break";
            return Err(because(key, "the filled-in value cannot be sent", fix));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    };
    let region = filled("region", &entry.region)?.unwrap_or_default();
    let url = match filled("url", &entry.url)? {
        Some(url) => url,
        None => kind.usual_url().unwrap_or_default().replace("{region}", &region),
    };
    if url.is_empty() {
        let fix = "add where the API is";
        return Err(because("url", &format!("`{}` has no usual place", kind.name()), fix));
    }
    if kind == ProviderKind::Bedrock && region.is_empty() {
        return Err(because("region", "is missing", "add the AWS region, such as us-east-1"));
    }
    let url = endpoint(&url).map_err(|(what, fix)| because("url", what, fix))?;
    let mut keys = Vec::new();
    for key in entry.api_key.iter().chain(&entry.api_keys) {
        keys.extend(filled("api_key", &Some(key.clone()))?);
    }
    let mut keys = keys.into_iter();
    let key = keys.next();
    let bearer = filled("bearer", &entry.bearer)?;
    let aws = (
        filled("access_key_id", &entry.access_key_id)?,
        filled("secret_access_key", &entry.secret_access_key)?,
    );
    let credential = match (key, bearer, aws) {
        // Bedrock's keys are bearer tokens.
        (_, Some(token), _) => Credential::Bearer(token),
        (Some(key), _, _) => of_key(kind, key),
        (None, None, (Some(id), Some(secret))) => {
            Credential::Aws { id, secret, session: filled("session_token", &entry.session_token)? }
        }
        _ if kind.is_open() || !entry.headers.is_empty() => Credential::None,
        _ if kind == ProviderKind::Bedrock => {
            let fix = "add `access_key_id` and `secret_access_key`, or `api_key`";
            return Err(because("api_key", "there is no credential", fix));
        }
        _ => return Err(because("api_key", "is missing", "add the gateway's key for the provider")),
    };
    let provider = Provider {
        credential,
        headers: headers(&entry.headers, secrets)?,
        api_version: filled("api_version", &entry.api_version)?,
        region,
        ..asked(name, entry, url)
    };
    let twin = |(i, key)| {
        let credential = of_key(kind, key);
        Arc::new(Provider { credential, slot: i + 1, twins: Vec::new(), ..provider.clone() })
    };
    let twins = keys.enumerate().map(twin).collect();
    Ok(Provider { twins, ..provider })
}

/// What `entry` says besides how the provider is reached.
fn asked(name: &str, entry: &types::Provider, url: Url) -> Provider {
    let plain = Provider::new(name, entry.kind, url);
    let chosen = entry.models != types::Choice::default();
    let named = entry.models.allow.iter().filter(|name| !name.contains(['*', '?']));
    let named: Vec<String> = named.cloned().collect();
    Provider {
        models: chosen.then(|| filter(&entry.models)),
        named: if named.len() == entry.models.allow.len() { named } else { Vec::new() },
        timeouts: Timeouts {
            connect: time(entry.timeouts.connect, plain.timeouts.connect),
            first_byte: time(entry.timeouts.first_byte, plain.timeouts.first_byte),
            idle: time(entry.timeouts.idle, plain.timeouts.idle),
            total: time(entry.timeouts.total, plain.timeouts.total),
        },
        max_response: bytes(entry.max_response, plain.max_response),
        retries: entry.retries.unwrap_or(plain.retries),
        local: entry.local.unwrap_or(plain.local || entry.via.is_some()),
        breaker: (
            entry.breaker.failures.unwrap_or(plain.breaker.0),
            time(entry.breaker.pause, plain.breaker.1),
        ),
        ..plain
    }
}
