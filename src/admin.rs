//! The administration API: which configuration is in force, changing it, and how an instance comes by it.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::auth;
use crate::config::plan::Caller;
use crate::config::stored::{self, Stamp, StoredError};
use crate::config::{Config, Plan, Problem, compile};
use crate::fault::{Fault, Kind};
use crate::instance::Instance;
use crate::platform::{Clock as _, Log as _, Platform, Secrets as _};

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
    let secret = platform.secrets().secret(ADMIN_KEY).filter(|secret| secret.len() >= 16);
    if let (Some(secret), Some(key)) = (secret, auth::presented(headers))
        && bool::from(secret.as_bytes().ct_eq(key))
    {
        return Ok(Arc::new(Caller { name: "admin".to_owned(), links: Vec::new(), ..Caller::anyone(true) }));
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
            compiled(platform, &config).await.map_err(|problems| refused(&problems))?;
            let stamp = stored::push(store, &config, now).await.map_err(fault)?;
            // Instances look for news by themselves; this one need not wait, nor read what it has at hand.
            let _ = take(platform, instance, stamp.clone(), &config).await;
            Some(stamp)
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
            let stamp = stored::rollback(store, rollback.version, now).await.map_err(fault)?;
            if let Ok(config) = stored::at(store, &stamp).await {
                let _ = take(platform, instance, stamp.clone(), &config).await;
            }
            Some(stamp)
        }
    };
    #[derive(Serialize)]
    struct Answer {
        current: Option<Stamp>,
        versions: Vec<Stamp>,
    }
    let versions = stored::history(store, stored::KEPT).await.map_err(fault)?;
    Ok(serde_json::to_vec(&Answer { current: stamp, versions }).unwrap_or_default().into())
}

/// Puts the stored configuration in force if it is newer than the one that is. Says whether it was.
///
/// For hosts whose configuration is pushed. What is in force stays if the stored one cannot be read or served.
///
/// # Errors
/// Why not, in words.
pub async fn refresh<P: Platform>(platform: &P, instance: &Instance) -> Result<bool, String> {
    let store = platform.key_value();
    let Some(stamp) = stored::pointer(store).await.map_err(|error| error.to_string())? else {
        return Ok(false);
    };
    // A store that is eventually consistent may show an older pointer after a newer one.
    if instance.stamp().is_some_and(|known| stamp.at <= known.at) {
        return Ok(false);
    }
    let config = stored::at(store, &stamp).await.map_err(|error| error.to_string())?;
    take(platform, instance, stamp, &config).await?;
    Ok(true)
}

/// The plan that `config` makes on this host.
async fn compiled<P: Platform>(platform: &P, config: &Config) -> Result<Plan, Vec<Problem>> {
    platform.secrets().prepare(config.variables()).await;
    compile(config, platform.secrets(), platform.abilities())
}

async fn take<P: Platform>(
    platform: &P,
    instance: &Instance,
    stamp: Stamp,
    config: &Config,
) -> Result<(), String> {
    let plan = compiled(platform, config).await.map_err(|problems| {
        format!("stored version {} cannot be served: {}", stamp.version, lines(&problems))
    })?;
    instance.install(Arc::new(plan));
    instance.set_stamp(stamp);
    Ok(())
}

/// The host's secret that is an administrator's key.
pub const ADMIN_KEY: &str = "CAUSEWAY_ADMIN_KEY";

/// The variable of the host that holds a configuration as normalized JSON, for want of a pushed one.
pub const BUNDLED: &str = "CAUSEWAY_CONFIG";

/// An instance for a host whose configuration is pushed: it serves the stored configuration, or the one in the
/// host's variable [`BUNDLED`], or refuses calls and says what to do.
pub async fn start<P: Platform>(platform: &P) -> Arc<Instance> {
    let instance = Instance::unconfigured(
        "this gateway has no configuration yet: set its secret CAUSEWAY_ADMIN_KEY and run `causeway push`"
            .to_owned(),
    );
    let own = [BUNDLED, ADMIN_KEY, crate::mcp::SECRET];
    platform.secrets().prepare(own.map(str::to_owned).into()).await;
    look(platform, &instance).await;
    if instance.plan().is_some() {
        return instance;
    }
    let bundled = platform.secrets().secret(BUNDLED).filter(|text| !text.trim_ascii().is_empty());
    let Some(bundled) = bundled else { return instance };
    let plan = match Config::from_normalized(bundled.as_bytes()) {
        Ok(config) => compiled(platform, &config).await,
        Err(problems) => Err(problems),
    };
    match plan {
        Ok(plan) => instance.install(Arc::new(plan)),
        Err(problems) => {
            let reason = format!("the configuration in {BUNDLED} cannot be served: {}", lines(&problems));
            complain(platform, &reason);
            instance.explain(reason);
        }
    }
    instance
}

/// Looks for a newer stored configuration.
/// What is wrong is logged once, and told to callers while there is no plan at all.
pub async fn look<P: Platform>(platform: &P, instance: &Instance) {
    instance.look_due(platform.clock().now());
    match refresh(platform, instance).await {
        Ok(_) => {
            instance.trouble("");
        }
        Err(reason) => {
            if instance.trouble(&reason) {
                complain(platform, &reason);
            }
            instance.explain(reason);
        }
    }
}

fn complain<P: Platform>(platform: &P, message: &str) {
    #[derive(Serialize)]
    struct Record<'a> {
        ts: u64,
        level: &'static str,
        event: &'static str,
        message: &'a str,
    }
    let record = Record { ts: platform.clock().now().0, level: "error", event: "configuration", message };
    if let Ok(line) = serde_json::to_string(&record) {
        platform.log().write(&line);
    }
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

fn refused(problems: &[Problem]) -> Fault {
    Fault::new(Kind::Unprocessable, lines(problems))
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
