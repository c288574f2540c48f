//! The list of models: names that the configuration gives, and what the providers say they have, with what is known of
//! each. What a provider says is remembered for a while.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::select;
use futures_util::stream::FuturesUnordered;
use http::HeaderMap;
use serde_json::{Value, json};

use super::convert::Front;
use super::memory::Memory;
use super::provider::{self, Place};
use super::refusal::Refusal;
use super::registry::{self, Listed, ModelContext};
use super::route::{Candidate, candidates};
use crate::config::Plan;
use crate::config::plan::{Caller, Provider};
use crate::config::types::ProviderKind;
use crate::platform::{Clock as _, Platform, Timestamp};
use crate::relay::through::begin_model;

/// How large a list may be.
const MOST: usize = 8 * 1024 * 1024;

/// Whose the names are that the configuration gives.
const OWN: &str = "causeway";
/// How many models of one provider are asked for one by one.
const MOST_SHOWN: usize = 32;

/// Whether a request for the list is an Anthropic client's: both ask at the same path.
#[must_use]
pub fn is_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// The models that `caller` may use, each with who has it. Providers that do not answer within `deadline` are left out.
pub async fn names<P: Platform>(
    platform: &P,
    plan: &Plan,
    memory: &Memory,
    caller: &Caller,
    deadline: Duration,
) -> Vec<(String, String)> {
    let now = platform.clock().now();
    let mut names: Vec<(String, String)> = Vec::new();
    let aliases = plan.llm.models.iter().filter(|model| !model.targets.is_empty()).map(|model| &model.name);
    let own = aliases.chain(plan.llm.policies.iter().map(|policy| &policy.name));
    let own = own.chain(plan.llm.teams.iter().map(|team| &team.name));
    names.extend(own.map(|name| (name.clone(), OWN.to_owned())));
    let (mut asked, mut found) = (FuturesUnordered::new(), Vec::new());
    for provider in &plan.llm.providers {
        let named = provider.named.iter().map(|name| (name.clone(), provider.name.clone()));
        names.extend(named);
        match memory.list(provider, now) {
            Some(list) => found.push((provider.name.clone(), list)),
            // Whose models are named need not be asked which there are; what there is to know of local ones is asked.
            None if provider.named.is_empty() || provider.local => {
                asked.push(listed(platform.clone(), provider.clone(), deadline));
            }
            None => {}
        }
    }
    while let Some((provider, list)) = asked.next().await {
        let list = memory.set_list(&provider, list, now);
        found.push((provider.name.clone(), list));
    }
    // In the order of the file, whoever was first.
    for provider in plan.llm.providers.iter().filter(|provider| provider.named.is_empty()) {
        for (_, models) in found.iter().filter(|(name, _)| *name == provider.name) {
            let offered =
                |model: &&Listed| provider.models.as_ref().is_none_or(|filter| filter.admits(&model.name));
            let offered = models.iter().filter(offered);
            names.extend(offered.map(|model| (model.name.clone(), provider.name.clone())));
        }
    }
    let mut shown: Vec<(String, String)> = Vec::new();
    for (name, provider) in names {
        // A name that leads elsewhere is told in full.
        let leads = candidates(&plan.llm, caller, &name).unwrap_or_default();
        let direct = provider == OWN || leads.iter().any(|candidate| candidate.provider.name == provider);
        let name = if direct { name } else { format!("{provider}/{name}") };
        if !shown.iter().any(|(known, _)| *known == name) && candidates(&plan.llm, caller, &name).is_ok() {
            shown.push((name, provider));
        }
    }
    shown
}

/// The same, as a list in the dialect of `front`.
pub async fn models<P: Platform>(
    platform: &P,
    plan: &Plan,
    memory: &Memory,
    caller: &Caller,
    front: Front,
    deadline: Duration,
) -> Bytes {
    let shown = names(platform, plan, memory, caller, deadline).await;
    let now = platform.clock().now();
    let item = |(name, owner): &(String, String)| item(plan, memory, caller, front, name, owner, now);
    let items: Vec<Value> = shown.iter().map(item).collect();
    let ends = |item: Option<&Value>| item.and_then(|item| item.get("id")).cloned().unwrap_or_default();
    let whole = match front {
        Front::OpenAi | Front::Ask | Front::Sampling => json!({"object": "list", "data": items}),
        Front::Anthropic => {
            let (first, last) = (ends(items.first()), ends(items.last()));
            json!({"data": items, "has_more": false, "first_id": first, "last_id": last})
        }
    };
    whole.to_string().into()
}

/// One model, if `caller` may use it.
///
/// # Errors
/// [`crate::fault::Kind::UnknownModel`]
pub fn one_model(
    plan: &Plan,
    memory: &Memory,
    caller: &Caller,
    front: Front,
    name: &str,
    now: Timestamp,
) -> Result<Bytes, Refusal> {
    let found = candidates(&plan.llm, caller, name)?;
    let owner = found.first().map_or(OWN, |candidate| &candidate.provider.name);
    Ok(item(plan, memory, caller, front, name, owner, now).to_string().into())
}

/// What is known of the model that `caller` calls `name`, as far as `owner` has it.
#[must_use]
pub fn context(
    plan: &Plan,
    memory: &Memory,
    caller: &Caller,
    name: &str,
    owner: &str,
    now: Timestamp,
) -> Option<ModelContext> {
    let found = candidates(&plan.llm, caller, name).ok()?;
    let own = found.iter().find(|candidate| candidate.provider.name == owner).or_else(|| found.first())?;
    Some(known(plan, memory, name, own, now))
}

fn known(plan: &Plan, memory: &Memory, id: &str, candidate: &Candidate, now: Timestamp) -> ModelContext {
    let (provider, model) = (&candidate.provider, &candidate.model);
    let live = memory.listed(&provider.name, model);
    let facts = registry::facts(&plan.llm, provider, model, id, live.as_ref());
    let health = memory.health(candidate, now).word();
    ModelContext::new(id, provider, model, facts, memory.measured(&candidate.name(), now), health)
}

fn item(
    plan: &Plan,
    memory: &Memory,
    caller: &Caller,
    front: Front,
    name: &str,
    owner: &str,
    now: Timestamp,
) -> Value {
    let context = context(plan, memory, caller, name, owner, now);
    let title = context.as_ref().and_then(|context| context.identification.title.clone());
    let mut item = match front {
        Front::OpenAi | Front::Ask | Front::Sampling => {
            json!({"id": name, "object": "model", "created": 0, "owned_by": owner})
        }
        Front::Anthropic => json!({
            "type": "model", "id": name, "display_name": title.as_deref().unwrap_or(name),
            "created_at": "1970-01-01T00:00:00Z",
        }),
    };
    let targets = candidates(&plan.llm, caller, name).unwrap_or_default();
    if let Some(item) = item.as_object_mut() {
        if owner == OWN || targets.len() > 1 {
            item.insert("targets".to_owned(), targets.iter().map(Candidate::name).collect());
        }
        item.insert("model_context".to_owned(), serde_json::to_value(context).unwrap_or_default());
    }
    item
}

/// What one provider says it has; `None` if it does not say.
async fn listed<P: Platform>(
    platform: P,
    provider: Arc<Provider>,
    deadline: Duration,
) -> (Arc<Provider>, Option<Vec<Listed>>) {
    let mut found = None;
    {
        let wait = pin!(platform.clock().sleep(deadline));
        let work = pin!(asked(&platform, &provider, &mut found));
        // What was found until then will do.
        let _ = select(work, wait).await;
    }
    (provider, found)
}

async fn asked<P: Platform>(
    platform: &P,
    provider: &Provider,
    found: &mut Option<Vec<Listed>>,
) -> Option<()> {
    let now = platform.clock().now();
    let request =
        provider::request(provider, Place::Models, "", Bytes::new(), &HeaderMap::new(), now).ok()?;
    let body = fetched(platform, provider, request).await?;
    let list = found.insert(registry::listed(provider.kind, &body));
    if provider.kind != ProviderKind::Ollama {
        return Some(());
    }
    let mut shown = FuturesUnordered::new();
    for model in list.iter().take(MOST_SHOWN) {
        let body = json!({"model": model.name}).to_string().into();
        let request = provider::request(provider, Place::Show, "", body, &HeaderMap::new(), now).ok()?;
        let (platform, name) = (platform.clone(), model.name.clone());
        shown.push(async move { (name, fetched(&platform, provider, request).await) });
    }
    while let Some((name, body)) = shown.next().await {
        if let (Some(body), Some(model)) = (body, list.iter_mut().find(|model| model.name == name)) {
            registry::shown(&body, &mut model.facts);
        }
    }
    Some(())
}

/// A JSON answer of a provider.
async fn fetched<P: Platform>(
    platform: &P,
    provider: &Provider,
    request: http::Request<Bytes>,
) -> Option<Value> {
    let response = begin_model(platform, provider, request, "", "").await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    let (mut body, mut whole) = (response.into_body(), BytesMut::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.ok()?;
        if whole.len() + chunk.len() > MOST {
            return None;
        }
        whole.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&whole).ok()
}
