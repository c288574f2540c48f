//! LM Studio: OpenAI's dialect at `/v1`, and a list of models of its own that knows which are loaded.
//!
//! Source: lmstudio.ai/docs/developer/openai-compat and lmstudio.ai/docs/developer/rest/endpoints.

use serde_json::Value;
use url::Url;

use super::json::{list, owned, text};
use super::provider::{Place, join, without};

/// Where a call goes.
#[must_use]
pub fn address(base: &Url, place: Place) -> Option<String> {
    match place {
        Place::Models => Some(join(&without(base, &["/v1"]), "api/v0/models")),
        _ => super::compatible::address(base, place),
    }
}

/// The models of its own list, those that are loaded first: asking for another makes it load.
#[must_use]
pub fn models(body: &Value) -> Vec<String> {
    let named = |loaded: bool| {
        let of = move |model: &&Value| (text(model, "state") == Some("loaded")) == loaded;
        list(body, "data").iter().filter(of).filter_map(|model| owned(model, "id"))
    };
    named(true).chain(named(false)).collect()
}
