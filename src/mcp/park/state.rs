//! What the client of a parked call carries: the questions, and the sealed `requestState` that leads back.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fault::Fault;
use crate::mcp::Mcp;
use crate::mcp::ask::{self, Askable};
use crate::platform::{Clock as _, Platform};

/// What a sealed `requestState` of a parked call is sealed for.
pub const PARKED: &str = "parked";
/// What the `requestState` is sealed for of a call that is to be made anew.
pub const AGAIN: &str = "again";

/// What a `requestState` says.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The key of the mailbox.
    pub key: String,
    /// Which call.
    pub call: String,
    /// How many rounds it has had.
    pub round: u64,
    /// What must be the same in a retry.
    pub digest: String,
}

/// Seals `state` for the caller, for as long as the call waits.
pub(super) async fn seal<P: Platform>(
    mcp: &Mcp<P>,
    kind: &str,
    caller: &str,
    state: &State,
    time: Duration,
) -> Result<String, Fault> {
    let expires = mcp.platform.clock().now().after(time);
    let payload = serde_json::to_vec(state).unwrap_or_default();
    Ok(mcp.sealer().await?.seal(kind, caller, expires, &payload))
}

/// An `input_required` result (2026-07-28 multi round-trip requests, "InputRequiredResult").
pub(super) fn input_required(id: &RawValue, questions: &[(&str, &str)], state: &str) -> Bytes {
    let entries: Vec<String> = questions.iter().map(|(key, text)| format!("\"{key}\":{text}")).collect();
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{\"resultType\":\"input_required\",\"inputRequests\":{{{}}},\
         \"requestState\":\"{state}\"}}}}",
        id.get(),
        entries.join(",")
    ))
}

/// The elicitations that a server wants done before it takes the call (2025-11-25 elicitation, "URL Elicitation
/// Required Error"), if the client can do them all.
pub(super) fn elicitations(data: &RawValue, askable: Askable, server: &str) -> Option<Vec<(String, String)>> {
    #[derive(Deserialize)]
    struct Required {
        elicitations: Vec<Box<RawValue>>,
    }
    let required: Required = serde_json::from_str(data.get()).ok()?;
    let method = "elicitation/create";
    let all: Vec<(String, String)> = required
        .elicitations
        .iter()
        .take(32)
        .enumerate()
        .filter(|(_, params)| askable.admit(server, method, Some(params)).is_ok())
        .map(|(index, params)| (format!("q{}", index + 1), ask::to_modern(method, Some(params))))
        .collect();
    (!all.is_empty() && all.len() == required.elicitations.len()).then_some(all)
}

/// What a retry must have in common with the request that it repeats, in short.
pub fn digest(server: &str, method: &str, params: Option<&RawValue>) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let mut members: serde_json::Map<String, serde_json::Value> =
        params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
    for own in ["_meta", "inputResponses", "requestState"] {
        members.remove(own);
    }
    // Clients may write the members in another order when they write them again.
    let mut value = serde_json::Value::Object(members);
    value.sort_all_objects();
    let mut hash = sha2::Sha256::new();
    for part in [server, "\0", method, "\0", &value.to_string()] {
        hash.update(part.as_bytes());
    }
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.finalize())
}
