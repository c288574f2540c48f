//! DIAL: OpenAI's dialect by deployment, with `Api-Key` as the header of the key.
//!
//! Source: docs.dialx.ai and github.com/epam/ai-dial-core.

use url::Url;

use super::bedrock::sign::encoded;
use super::provider::{Place, join, without};

/// The version of the API that is asked where the configuration names none.
const VERSION: &str = "2024-10-21";

/// Where a call to `deployment` goes.
#[must_use]
pub fn address(base: &Url, version: Option<&str>, place: Place, deployment: &str) -> Option<String> {
    let root = without(base, &["/openai"]);
    let tail = match place {
        Place::Chat { .. } => "chat/completions",
        Place::Embeddings => "embeddings",
        Place::Models => return Some(join(&root, "openai/models")),
        Place::Count | Place::Show => return None,
    };
    let path = format!("openai/deployments/{}/{tail}", encoded(deployment, false));
    Some(format!("{}?api-version={}", join(&root, &path), encoded(version.unwrap_or(VERSION), false)))
}
