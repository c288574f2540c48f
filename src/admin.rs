//! The administration API: which configuration is in force, and changing it.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::auth;
use crate::config::glob::Filter;
use crate::config::plan::Caller;
use crate::config::stored::{self, Stamp, StoredError};
use crate::config::{Config, Plan, Problem, compile};
use crate::fault::{Fault, Kind};
use crate::instance::Instance;
use crate::platform::{Clock as _, Platform, Secrets as _};

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
    if let (Some(secret), Some(key)) = (secret, auth::presented(headers))
        && bool::from(secret.as_bytes().ct_eq(key))
    {
        return Ok(Arc::new(Caller {
            name: "admin".to_owned(),
            servers: Filter::default(),
            tools: Filter::default(),
            admin: true,
        }));
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

/// Does what is asked for and answers with JSON: the version in force, and those that are kept.
///
/// # Errors
/// When the configuration is refused, or the gateway takes its configuration from a file.
pub async fn apply<P: Platform>(
    platform: &P,
    instance: &Instance,
    change: Change,
    body: &[u8],
) -> Result<Bytes, Fault> {
    let store = platform.key_value();
    let now = platform.clock().now();
    if change != Change::List && platform.abilities().config_file {
        let message =
            "this gateway takes its configuration from a file: change the file, or serve without --config";
        return Err(Fault::new(Kind::Conflict, message));
    }
    let stamp = match change {
        Change::List => stored::pointer(store).await.map_err(fault)?,
        Change::Put => {
            let config = Config::from_normalized(body).map_err(|problems| refused(&problems))?;
            // What this host could not serve must not come into force.
            compile(&config, platform.secrets(), platform.abilities())
                .map_err(|problems| refused(&problems))?;
            Some(stored::push(store, &config, now).await.map_err(fault)?)
        }
        Change::Rollback => {
            #[derive(Deserialize, Default)]
            struct Rollback {
                #[serde(default)]
                version: Option<u64>,
            }
            let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
            let rollback: Rollback = serde_json::from_slice(body)
                .map_err(|_| Fault::new(Kind::Unprocessable, "version: a version's number is expected"))?;
            Some(stored::rollback(store, rollback.version, now).await.map_err(fault)?)
        }
    };
    if change != Change::List {
        // Other instances look again by themselves; this one need not wait.
        let _ = refresh(platform, instance).await;
    }
    #[derive(Serialize)]
    struct Answer {
        current: Option<Stamp>,
        versions: Vec<Stamp>,
    }
    let versions = stored::history(store, stored::KEPT).await.map_err(fault)?;
    Ok(serde_json::to_vec(&Answer { current: stamp, versions }).unwrap_or_default().into())
}

/// Puts the stored configuration in force if it is another than the one that is. Says whether it was.
///
/// For hosts whose configuration is pushed: called at start and now and then. What is in force stays if the
/// stored one cannot be read or served.
///
/// # Errors
/// Why not, in words.
pub async fn refresh<P: Platform>(platform: &P, instance: &Instance) -> Result<bool, String> {
    let store = platform.key_value();
    let pointer = stored::pointer(store).await.map_err(|error| error.to_string())?;
    if pointer.is_none() || pointer == instance.stamp() {
        return Ok(false);
    }
    let Some((stamp, config)) = stored::current(store).await.map_err(|error| error.to_string())? else {
        return Ok(false);
    };
    let plan = compile(&config, platform.secrets(), platform.abilities()).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!("stored version {} cannot be served: {}", stamp.version, lines.join("; "))
    })?;
    instance.install(Arc::new(plan));
    instance.set_stamp(stamp);
    Ok(true)
}

fn refused(problems: &[Problem]) -> Fault {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Fault::new(Kind::Unprocessable, lines.join("; "))
}

fn fault(error: StoredError) -> Fault {
    let kind = match &error {
        StoredError::Missing(_) | StoredError::NothingOlder => Kind::Unprocessable,
        StoredError::NotYet(_) => Kind::NotConfigured,
        StoredError::Refused { .. } => Kind::Conflict,
        StoredError::Store(_) | StoredError::Damaged(_) => Kind::Host,
    };
    Fault::new(kind, error.to_string())
}
