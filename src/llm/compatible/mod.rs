//! Any server that speaks OpenAI's chat completions, where its user put it.
//!
//! `url` is what comes before `/chat/completions`, mostly with `/v1` at its end.

use super::provider::{Place, join};
use url::Url;

/// Where a call goes.
#[must_use]
pub fn address(base: &Url, place: Place) -> Option<String> {
    Some(match place {
        Place::Chat { .. } => join(base, "chat/completions"),
        Place::Embeddings => join(base, "embeddings"),
        Place::Models => join(base, "models"),
        Place::Count | Place::Show => return None,
    })
}
