//! LM Studio: OpenAI's dialect at `/v1`, and a list of models of its own that knows which are loaded.
//!
//! Source: lmstudio.ai/docs/developer/openai-compat and lmstudio.ai/docs/developer/rest/endpoints.

use url::Url;

use super::provider::{Place, join, without};

/// Where a call goes.
#[must_use]
pub fn address(base: &Url, place: Place) -> Option<String> {
    match place {
        Place::Models => Some(join(&without(base, &["/v1"]), "api/v0/models")),
        _ => super::compatible::address(base, place),
    }
}
