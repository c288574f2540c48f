//! The list of models: names that the configuration gives, and what the providers say they have.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use http::HeaderMap;
use serde_json::{Value, json};

use super::convert::Front;
use super::provider::{self, Place};
use super::refusal::Refusal;
use super::route::candidates;
use crate::config::Plan;
use crate::config::plan::{Caller, Provider};
use crate::platform::{Clock as _, Platform};
use crate::relay::through::begin_model;

/// How large a list may be.
const MOST: usize = 8 * 1024 * 1024;

/// Whether a request for the list is an Anthropic client's: both ask at the same path.
#[must_use]
pub fn is_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// The models that `caller` may use, in the dialect of `front`. Providers that do not answer within `deadline` are
/// left out.
pub async fn models<P: Platform>(
    platform: &P,
    plan: &Plan,
    caller: &Caller,
    front: Front,
    deadline: Duration,
) -> Bytes {
    let mut names: Vec<(String, String)> = Vec::new();
    let own = plan.llm.models.iter().filter(|model| !model.targets.is_empty());
    names.extend(own.map(|model| (model.name.clone(), "causeway".to_owned())));
    let mut asked = FuturesUnordered::new();
    for provider in &plan.llm.providers {
        if provider.named.is_empty() {
            asked.push(listed(platform.clone(), provider.clone(), deadline));
        } else {
            let named = provider.named.iter().map(|name| (name.clone(), provider.name.clone()));
            names.extend(named);
        }
    }
    let mut found = Vec::new();
    while let Some((provider, models)) = asked.next().await {
        found.push((provider, models));
    }
    // In the order of the file, whoever was first.
    for provider in &plan.llm.providers {
        for (_, models) in found.iter().filter(|(name, _)| *name == provider.name) {
            let offered =
                |model: &&String| provider.models.as_ref().is_none_or(|filter| filter.admits(model));
            names.extend(models.iter().filter(offered).map(|model| (model.clone(), provider.name.clone())));
        }
    }
    let mut shown: Vec<(String, String)> = Vec::new();
    for (name, provider) in names {
        // A name that leads elsewhere is told in full.
        let leads = candidates(&plan.llm, caller, &name).unwrap_or_default();
        let direct =
            provider == "causeway" || leads.iter().any(|candidate| candidate.provider.name == provider);
        let name = if direct { name } else { format!("{provider}/{name}") };
        if !shown.iter().any(|(known, _)| *known == name) && candidates(&plan.llm, caller, &name).is_ok() {
            shown.push((name, provider));
        }
    }
    let items: Vec<Value> = shown.iter().map(|(name, owner)| item(front, name, owner)).collect();
    let ends = |item: Option<&Value>| item.and_then(|item| item.get("id")).cloned().unwrap_or_default();
    let whole = match front {
        Front::OpenAi | Front::Ask => json!({"object": "list", "data": items}),
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
pub fn one_model(plan: &Plan, caller: &Caller, front: Front, name: &str) -> Result<Bytes, Refusal> {
    let found = candidates(&plan.llm, caller, name)?;
    let owner = found.first().map_or("causeway", |candidate| &candidate.provider.name);
    Ok(item(front, name, owner).to_string().into())
}

fn item(front: Front, name: &str, owner: &str) -> Value {
    match front {
        Front::OpenAi | Front::Ask => json!({"id": name, "object": "model", "created": 0, "owned_by": owner}),
        Front::Anthropic => json!({
            "type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z",
        }),
    }
}

/// What one provider says it has; nothing if it does not say.
async fn listed<P: Platform>(
    platform: P,
    provider: Arc<Provider>,
    deadline: Duration,
) -> (String, Vec<String>) {
    let name = provider.name.clone();
    let wait = pin!(platform.clock().sleep(deadline));
    let work = pin!(asked(&platform, &provider));
    match select(work, wait).await {
        Either::Left((Some(models), _)) => (name, models),
        _ => (name, Vec::new()),
    }
}

async fn asked<P: Platform>(platform: &P, provider: &Provider) -> Option<Vec<String>> {
    let now = platform.clock().now();
    let request =
        provider::request(provider, Place::Models, "", Bytes::new(), &HeaderMap::new(), now).ok()?;
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
    Some(provider::models(provider.kind, &serde_json::from_slice(&whole).ok()?))
}
