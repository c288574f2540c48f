//! The administration API: which configuration is in force, and changing it.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use subtle::ConstantTimeEq as _;

use crate::auth;
use crate::config::Plan;
use crate::config::glob::Filter;
use crate::config::plan::Caller;
use crate::fault::{Fault, Kind};
use crate::instance::Instance;
use crate::platform::{Platform, Secrets as _};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Which versions there are.
    List,
    /// A new version.
    Put,
    /// An older one.
    Rollback,
}

/// Admits an administrator: a key whose caller is one, or the host's secret `CAUSEWAY_ADMIN_KEY`, with which a
/// gateway that has no configuration yet is given its first.
///
/// # Errors
/// [`Kind::Unauthorized`], or [`Kind::Forbidden`] for a key that is no administrator's.
pub fn admit<P: Platform>(
    plan: Option<&Plan>,
    headers: &HeaderMap,
    platform: &P,
) -> Result<Arc<Caller>, Fault> {
    let secret = platform.secrets().secret("CAUSEWAY_ADMIN_KEY").filter(|secret| secret.len() >= 16);
    if let (Some(secret), Some(key)) = (secret, auth::presented(headers)) {
        if bool::from(secret.as_bytes().ct_eq(key)) {
            return Ok(Arc::new(Caller {
                name: "admin".to_owned(),
                servers: Filter::default(),
                tools: Filter::default(),
                admin: true,
            }));
        }
    }
    let Some(plan) = plan else {
        let message = "this gateway has no configuration: authenticate with its secret CAUSEWAY_ADMIN_KEY";
        return Err(Fault::new(Kind::Unauthorized, message));
    };
    let caller = auth::admit(plan, headers, platform.abilities())?;
    if caller.admin {
        return Ok(caller);
    }
    Err(Fault::new(
        Kind::Forbidden,
        "this key is no administrator's; set admin: true for it in the configuration",
    ))
}

/// Does what is asked for and answers with JSON.
///
/// # Errors
/// When the configuration is refused, or the gateway takes its configuration from a file.
pub async fn apply<P: Platform>(
    platform: &P,
    instance: &Instance,
    change: Change,
    body: &[u8],
) -> Result<Bytes, Fault> {
    let _ = (platform, instance, change, body);
    Err(Fault::new(Kind::Conflict, "this gateway takes its configuration from a file"))
}
