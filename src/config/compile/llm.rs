//! Providers of models and model names.

use std::sync::Arc;

use http::HeaderValue;
use url::Url;

use super::super::fill::fill;
use super::super::plan::{BEHIND, Credential, Llm, Model, Prices, Provider, Skipped, Target, Timeouts};
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
    for (name, entry) in given.providers.iter() {
        match provider(name, entry, secrets, host) {
            Ok(provider) => llm.providers.push(Arc::new(provider)),
            Err(reason) => skipped.push(Skipped { name: format!("llm.providers.{name}"), reason }),
        }
    }
    for (name, entry) in given.models.iter() {
        let targets = entry.targets.iter().filter_map(|target| {
            let (provider, model) = target.split_once('/')?;
            Some(Target { provider: provider.to_owned(), model: model.to_owned() })
        });
        let prices = entry.prices.map(|prices| Prices {
            input: prices.input,
            output: prices.output,
            cached: prices.cached,
            cache_write: prices.cache_write,
        });
        llm.models.push(Model { name: name.to_owned(), targets: targets.collect(), prices });
    }
    llm
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
    let key = filled("api_key", &entry.api_key)?;
    let bearer = filled("bearer", &entry.bearer)?;
    let aws = (
        filled("access_key_id", &entry.access_key_id)?,
        filled("secret_access_key", &entry.secret_access_key)?,
    );
    let credential = match (key, bearer, aws) {
        // Bedrock's keys are bearer tokens.
        (_, Some(token), _) => Credential::Bearer(token),
        (Some(key), _, _) if kind == ProviderKind::Bedrock => Credential::Bearer(key),
        (Some(key), _, _) => Credential::Key(key),
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
    Ok(Provider {
        credential,
        headers: headers(&entry.headers, secrets)?,
        api_version: filled("api_version", &entry.api_version)?,
        region,
        ..asked(name, entry, url)
    })
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
        ..plain
    }
}
