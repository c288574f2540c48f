//! Azure OpenAI and Azure AI Foundry: OpenAI's dialect, by deployment.
//!
//! Without an API version the v1 path is asked, where the deployment is the `model` of the body; with one, the
//! deployment is in the path. Source: learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle and
//! …/openai/reference.

use url::Url;

use super::bedrock::sign::encoded;
use super::provider::{Place, join, without};

/// Where a call to `deployment` goes.
#[must_use]
pub fn address(base: &Url, version: Option<&str>, place: Place, deployment: &str) -> Option<String> {
    // Foundry's own endpoint of models ends in `/models` and takes the model in the body.
    let models = base.path().trim_end_matches('/').ends_with("/models");
    let root = without(base, &["/openai/v1", "/openai"]);
    let tail = match place {
        Place::Chat { .. } => "chat/completions",
        Place::Embeddings => "embeddings",
        Place::Models => "models",
        Place::Count | Place::Show => return None,
    };
    Some(match version {
        _ if models => {
            format!("{}?api-version={}", join(base, tail), version.unwrap_or("2024-05-01-preview"))
        }
        None => join(&root, &format!("openai/v1/{tail}")),
        Some(version) if place == Place::Models => {
            format!("{}?api-version={}", join(&root, "openai/models"), encoded(version, false))
        }
        Some(version) => {
            let path = format!("openai/deployments/{}/{tail}", encoded(deployment, false));
            format!("{}?api-version={}", join(&root, &path), encoded(version, false))
        }
    })
}
