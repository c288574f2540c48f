//! Configurations in the host's read-mostly store: versions that are never rewritten, and a pointer to one.
//!
//! | key | value |
//! |---|---|
//! | `config/v/{n}` | normalized JSON of version `n` |
//! | `config/history` | the stamps of the versions that are kept, oldest first |
//! | `config/current` | the stamp of the version in force |
//!
//! They are written in this order, so the pointer **never** names a version that was not stored. A store that is
//! eventually consistent may show the pointer first; [`current`] then says so by the digest and is asked again
//! later. Two pushes at the same moment may take the same number: the later pointer wins, as a whole.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::normal::digest;
use super::problem::Problem;
use super::types::Config;
use crate::platform::{KeyValue, SeamError, Timestamp};

/// How many versions are kept.
pub const KEPT: usize = 20;

const CURRENT: &str = "config/current";
const HISTORY: &str = "config/history";

/// Names a stored version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its number; the first is 1.
    pub version: u64,
    /// The digest of its normalized JSON.
    pub digest: String,
    /// When it was stored; in the pointer, when it came into force.
    pub at: Timestamp,
}

/// Why a stored configuration could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// The store failed.
    #[error("the configuration store failed: {0}")]
    Store(#[from] SeamError),
    /// There is no such version, or not any more.
    #[error("there is no version {0}: `history` lists those that are kept")]
    Missing(u64),
    /// There is nothing to go back to.
    #[error("there is no older version to go back to")]
    NothingOlder,
    /// The pointer is newer than the value that this place sees.
    #[error("version {0} has not arrived here yet: try again in a minute")]
    NotYet(u64),
    /// What is stored is not what we wrote.
    #[error("the stored {0} is damaged: push the configuration again")]
    Damaged(String),
    /// The stored configuration is refused by this version of the gateway.
    #[error("stored version {version} is refused: {}", first(problems))]
    Refused {
        /// Which one.
        version: u64,
        /// Why.
        problems: Vec<Problem>,
    },
}

fn first(problems: &[Problem]) -> String {
    problems.first().map(Problem::to_string).unwrap_or_default()
}

/// Stores `config` as the next version and puts it in force. What is in force already is not stored again.
pub async fn push(store: &impl KeyValue, config: &Config, now: Timestamp) -> Result<Stamp, StoredError> {
    let normalized = config.normalized();
    let digest = digest(normalized.as_bytes());
    let in_force = pointer(store).await?;
    if let Some(stamp) = &in_force
        && stamp.digest == digest
    {
        return Ok(stamp.clone());
    }
    // A history that cannot be read must not keep a good configuration from being stored.
    let mut versions = versions(store).await.or_else(|error| match error {
        StoredError::Damaged(_) => Ok(Vec::new()),
        error => Err(error),
    })?;
    let newest = versions.iter().chain(&in_force).map(|stamp| stamp.version).max();
    let stamp = Stamp { version: newest.unwrap_or(0) + 1, digest, at: later(now, in_force.as_ref()) };
    versions.push(stamp.clone());
    let dropped: Vec<Stamp> = versions.drain(..versions.len().saturating_sub(KEPT)).collect();
    store.write(&version_key(stamp.version), Bytes::from(normalized)).await?;
    store.write(HISTORY, json(&versions)).await?;
    store.write(CURRENT, json(&stamp)).await?;
    for old in dropped {
        store.remove(&version_key(old.version)).await?;
    }
    Ok(stamp)
}

/// The stamp of the version in force: one small read, to see whether there is news.
pub async fn pointer(store: &impl KeyValue) -> Result<Option<Stamp>, StoredError> {
    read(store, CURRENT).await
}

/// The configuration in force.
pub async fn current(store: &impl KeyValue) -> Result<Option<(Stamp, Config)>, StoredError> {
    let Some(stamp) = pointer(store).await? else { return Ok(None) };
    let config = at(store, &stamp).await?;
    Ok(Some((stamp, config)))
}

/// The configuration that `stamp` names.
pub async fn at(store: &impl KeyValue, stamp: &Stamp) -> Result<Config, StoredError> {
    // The bytes are compared, not what is read from them: a newer gateway may normalize otherwise.
    match store.read(&version_key(stamp.version)).await? {
        Some(bytes) if digest(&bytes) == stamp.digest => open(&bytes, stamp.version),
        _ => Err(StoredError::NotYet(stamp.version)),
    }
}

/// The configuration of one version.
pub async fn load(store: &impl KeyValue, version: u64) -> Result<Config, StoredError> {
    let bytes = store.read(&version_key(version)).await?.ok_or(StoredError::Missing(version))?;
    open(&bytes, version)
}

fn open(bytes: &[u8], version: u64) -> Result<Config, StoredError> {
    Config::from_normalized(bytes).map_err(|problems| StoredError::Refused { version, problems })
}

/// The stamps of the newest versions, newest first.
pub async fn history(store: &impl KeyValue, limit: usize) -> Result<Vec<Stamp>, StoredError> {
    Ok(versions(store).await?.into_iter().rev().take(limit).collect())
}

/// Puts version `to` in force again, or the one before the one in force.
pub async fn rollback(store: &impl KeyValue, to: Option<u64>, now: Timestamp) -> Result<Stamp, StoredError> {
    let versions = versions(store).await?;
    let in_force = pointer(store).await;
    let before = in_force.as_ref().ok().cloned().flatten();
    let target = match to {
        Some(version) => {
            let found = versions.into_iter().find(|stamp| stamp.version == version);
            found.ok_or(StoredError::Missing(version))?
        }
        None => {
            let in_force = in_force?.ok_or(StoredError::NothingOlder)?.version;
            let found = versions.into_iter().rev().find(|stamp| stamp.version < in_force);
            found.ok_or(StoredError::NothingOlder)?
        }
    };
    // Going back to what cannot be served would be worse than staying.
    load(store, target.version).await?;
    let stamp = Stamp { at: later(now, before.as_ref()), ..target };
    store.write(CURRENT, json(&stamp)).await?;
    Ok(stamp)
}

/// Now, but after `before` came into force, whatever the clocks say: an instance takes a pointer for news by its time.
fn later(now: Timestamp, before: Option<&Stamp>) -> Timestamp {
    before.map_or(now, |before| now.max(before.at.after(Duration::from_millis(1))))
}

async fn versions(store: &impl KeyValue) -> Result<Vec<Stamp>, StoredError> {
    Ok(read(store, HISTORY).await?.unwrap_or_default())
}

async fn read<T: for<'de> Deserialize<'de>>(
    store: &impl KeyValue,
    key: &str,
) -> Result<Option<T>, StoredError> {
    match store.read(key).await? {
        None => Ok(None),
        Some(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(StoredError::Damaged(key.to_owned())),
        },
    }
}

fn version_key(version: u64) -> String {
    format!("config/v/{version}")
}

fn json<T: Serialize>(value: &T) -> Bytes {
    // Texts and numbers only: this cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
