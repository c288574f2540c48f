//! OpenRouter: OpenAI's dialect in front of many providers.
//!
//! Its own additions are `reasoning` and `reasoning_details`, errors in the middle of a stream, and comments on a
//! stream that waits. Source: openrouter.ai/docs/api/reference.

use url::Url;

use super::provider::Place;

/// Where a call goes.
#[must_use]
pub fn address(base: &Url, place: Place) -> Option<String> {
    super::compatible::address(base, place)
}
