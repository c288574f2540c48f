//! State in one SQLite file: compare-and-swap values that expire, and read-mostly values that stay.
//!
//! One thread owns the connection; asks queue up to it, so no executor thread ever waits for the disk. Another
//! process may open the same file: every decision is one SQL statement, and SQLite locks between processes.
//!
//! Invariant: a version is never used twice, so a value that expired and was made anew cannot be mistaken for the
//! one that somebody saw before.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use causeway::platform::{Held, KeyValue, SeamError, StateStore, Swap, Version};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

/// The largest value that may be stored.
pub const MAX_VALUE: usize = 1 << 20;
/// The longest key.
pub const MAX_KEY: usize = 512;
/// How often expired values are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Rows removed in one sweep, so that a sweep never keeps an ask waiting for long.
const SWEEP_ROWS: u32 = 2_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS state (
        key TEXT PRIMARY KEY, version INTEGER NOT NULL, expires INTEGER NOT NULL, value BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS state_expires ON state (expires);
    CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";

type Ask = Box<dyn FnOnce(&Connection) + Send>;

/// The store. Clones share the one connection.
#[derive(Clone, Debug)]
pub struct Store {
    asks: mpsc::Sender<Ask>,
}

impl Store {
    /// Opens or makes the file at `path`, readable by its owner alone.
    ///
    /// # Errors
    /// When the file cannot be made, or is no database of ours.
    pub fn open(path: &Path) -> Result<Self, SeamError> {
        private(path).map_err(|error| SeamError::Host(format!("{}: {error}", path.display())))?;
        let connection = Connection::open(path).and_then(|connection| {
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // A power cut may lose the last commits but never damages the file. What must not be lost is with
            // the client, sealed.
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            Ok(connection)
        });
        Self::on(connection.map_err(|error| SeamError::Host(format!("{}: {error}", path.display())))?)
    }

    /// A store that lives in memory and ends with the process.
    ///
    /// # Errors
    /// When SQLite cannot allocate.
    pub fn memory() -> Result<Self, SeamError> {
        Self::on(Connection::open_in_memory().map_err(|error| host(&error))?)
    }

    fn on(connection: Connection) -> Result<Self, SeamError> {
        // Values are small and asks few; a megabyte of pages is plenty and keeps an idle gateway small.
        connection
            .pragma_update(None, "cache_size", -1024)
            .and_then(|()| connection.execute_batch(SCHEMA))
            .map_err(|error| host(&error))?;
        let (asks, mut queue) = mpsc::channel::<Ask>(256);
        let work = move || {
            let mut swept = None;
            while let Some(ask) = queue.blocking_recv() {
                ask(&connection);
                if swept.is_none_or(|at: Instant| at.elapsed() >= SWEEP_EVERY) {
                    // A failed sweep only leaves rows behind, which are invisible anyway.
                    _ = sweep(&connection);
                    swept = Some(Instant::now());
                }
            }
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .stack_size(256 * 1024)
            .spawn(work)
            .map_err(|error| SeamError::Host(error.to_string()))?;
        Ok(Self { asks })
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SeamError> {
        let gone = || SeamError::Host("the state store has stopped".to_owned());
        let (answer, answered) = oneshot::channel();
        // Nobody waits for the answer when the asking request was dropped; the work is done all the same.
        let ask: Ask = Box::new(move |connection| _ = answer.send(work(connection)));
        self.asks.send(ask).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map_err(|error| host(&error))
    }

    /// Removes what has expired. Reads never see expired values; this only gives back the space, for a gateway
    /// that nobody asks anything.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn sweep(&self) -> Result<(), SeamError> {
        self.ask(sweep).await
    }
}

impl StateStore for Store {
    async fn load(&self, key: &str) -> Result<Option<Held>, SeamError> {
        let key = checked(key)?;
        self.ask(move |connection| {
            connection
                .prepare_cached("SELECT version, value FROM state WHERE key = ?1 AND expires > ?2")?
                .query_row(params![key, now()], |row| {
                    let (version, value) = (row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?);
                    Ok(Held { version: Version(version.cast_unsigned()), value: value.into() })
                })
                .optional()
        })
        .await
    }

    async fn swap(
        &self,
        key: &str,
        seen: Option<Version>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Swap, SeamError> {
        let key = checked(key)?;
        fits(&value)?;
        let version = fresh_version()?;
        self.ask(move |connection| {
            let now = now();
            let expires = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
            let written = match seen {
                Some(Version(seen)) => connection
                    .prepare_cached(
                        "UPDATE state SET version = ?1, expires = ?2, value = ?3
                         WHERE key = ?4 AND version = ?5 AND expires > ?6",
                    )?
                    .execute(params![version, expires, &value[..], key, seen.cast_signed(), now])?,
                None => connection
                    .prepare_cached(
                        "INSERT INTO state (version, expires, value, key) VALUES (?1, ?2, ?3, ?4)
                         ON CONFLICT (key) DO UPDATE SET
                             version = excluded.version, expires = excluded.expires, value = excluded.value
                         WHERE state.expires <= ?5",
                    )?
                    .execute(params![version, expires, &value[..], key, now])?,
            };
            Ok(if written == 1 { Swap::Done(Version(version.cast_unsigned())) } else { Swap::Stale })
        })
        .await
    }
}

impl KeyValue for Store {
    async fn read(&self, key: &str) -> Result<Option<Bytes>, SeamError> {
        let key = checked(key)?;
        self.ask(move |connection| {
            connection
                .prepare_cached("SELECT value FROM kv WHERE key = ?1")?
                .query_row([key], |row| row.get::<_, Vec<u8>>(0).map(Bytes::from))
                .optional()
        })
        .await
    }

    async fn write(&self, key: &str, value: Bytes) -> Result<(), SeamError> {
        let key = checked(key)?;
        fits(&value)?;
        self.ask(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO kv (key, value) VALUES (?1, ?2)
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                )?
                .execute(params![key, &value[..]])
                .map(|_| ())
        })
        .await
    }

    async fn remove(&self, key: &str) -> Result<(), SeamError> {
        let key = checked(key)?;
        self.ask(move |connection| {
            connection.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([key]).map(|_| ())
        })
        .await
    }
}

fn sweep(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM state WHERE key IN (SELECT key FROM state WHERE expires <= ?1 LIMIT ?2)",
        )?
        .execute(params![now(), SWEEP_ROWS])
        .map(|_| ())
}

/// Milliseconds since the epoch. Wall-clock time, since it must mean the same after a restart.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// 53 random bits: exact in JSON, and two that are equal are not to be expected in a gateway's lifetime.
fn fresh_version() -> Result<i64, SeamError> {
    let random = getrandom::u64().map_err(|error| SeamError::Host(error.to_string()))?;
    Ok((random >> 11).cast_signed())
}

fn checked(key: &str) -> Result<String, SeamError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(SeamError::Host(format!("a state key has 1 to {MAX_KEY} bytes, not {}", key.len())));
    }
    Ok(key.to_owned())
}

fn fits(value: &Bytes) -> Result<(), SeamError> {
    if value.len() > MAX_VALUE {
        return Err(SeamError::Host(format!(
            "a stored value has at most {MAX_VALUE} bytes, not {}",
            value.len()
        )));
    }
    Ok(())
}

fn host(error: &rusqlite::Error) -> SeamError {
    SeamError::Host(format!("state store: {error}"))
}

/// Makes the folder (0700) and the file (0600) before SQLite would make them readable to others. SQLite gives
/// its WAL and index files the mode of the database.
fn private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    let mut folders = std::fs::DirBuilder::new();
    folders.recursive(true);
    #[cfg(unix)]
    {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        std::os::unix::fs::DirBuilderExt::mode(&mut folders, 0o700);
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        folders.create(folder)?;
    }
    options.open(path).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn done(swap: Swap) -> Version {
        let Swap::Done(version) = swap else { unreachable!("stale") };
        version
    }

    #[tokio::test]
    async fn swap_writes_only_over_the_version_that_was_seen() {
        let store = Store::memory().unwrap();
        assert_eq!(store.load("k").await.unwrap(), None);
        let first = done(store.swap("k", None, "1".into(), HOUR).await.unwrap());
        assert_eq!(store.swap("k", None, "x".into(), HOUR).await.unwrap(), Swap::Stale);
        let second = done(store.swap("k", Some(first), "2".into(), HOUR).await.unwrap());
        assert_eq!(store.swap("k", Some(first), "x".into(), HOUR).await.unwrap(), Swap::Stale);
        let held = store.load("k").await.unwrap().unwrap();
        assert_eq!((held.version, &held.value[..]), (second, &b"2"[..]));
        assert_eq!(store.swap("other", Some(second), "x".into(), HOUR).await.unwrap(), Swap::Stale);
    }

    #[tokio::test]
    async fn expired_value_is_gone_and_its_version_with_it() {
        let store = Store::memory().unwrap();
        let old = done(store.swap("k", None, "1".into(), Duration::ZERO).await.unwrap());
        assert_eq!(store.load("k").await.unwrap(), None);
        assert_eq!(store.swap("k", Some(old), "x".into(), HOUR).await.unwrap(), Swap::Stale);
        let new = done(store.swap("k", None, "2".into(), HOUR).await.unwrap());
        assert_ne!(old, new);
    }

    #[tokio::test]
    async fn sweep_removes_expired_rows_alone() {
        let store = Store::memory().unwrap();
        store.swap("keep", None, "1".into(), HOUR).await.unwrap();
        for n in 0..50 {
            store.swap(&format!("gone{n}"), None, "1".into(), Duration::ZERO).await.unwrap();
        }
        store.sweep().await.unwrap();
        let rows = store.ask(|c| c.query_row("SELECT count(*) FROM state", [], |row| row.get::<_, i64>(0)));
        assert_eq!(rows.await.unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn racing_swaps_lose_no_update() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.sqlite");
        // Two stores on one file stand for two processes.
        let stores = [Store::open(&path).unwrap(), Store::open(&path).unwrap()];
        let racers: Vec<_> = (0..8)
            .map(|n| {
                let store = stores[n % 2].clone();
                tokio::spawn(async move {
                    for _ in 0..25 {
                        loop {
                            let held = store.load("count").await.unwrap();
                            let count: u32 = held
                                .as_ref()
                                .map_or(0, |held| std::str::from_utf8(&held.value).unwrap().parse().unwrap());
                            let seen = held.map(|held| held.version);
                            let next = (count + 1).to_string().into();
                            match store.swap("count", seen, next, HOUR).await.unwrap() {
                                Swap::Done(_) => break,
                                Swap::Stale => {}
                            }
                        }
                    }
                })
            })
            .collect();
        for racer in racers {
            racer.await.unwrap();
        }
        assert_eq!(&stores[0].load("count").await.unwrap().unwrap().value[..], b"200");
    }

    #[tokio::test]
    async fn values_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state.sqlite");
        {
            let store = Store::open(&path).unwrap();
            store.swap("k", None, "1".into(), HOUR).await.unwrap();
            store.write("config", "{}".into()).await.unwrap();
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(&store.load("k").await.unwrap().unwrap().value[..], b"1");
        assert_eq!(&store.read("config").await.unwrap().unwrap()[..], b"{}");
        store.remove("config").await.unwrap();
        store.remove("config").await.unwrap();
        assert_eq!(store.read("config").await.unwrap(), None);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused() {
        let store = Store::memory().unwrap();
        assert!(store.write("k", vec![0; MAX_VALUE].into()).await.is_ok());
        assert!(store.write("k", vec![0; MAX_VALUE + 1].into()).await.is_err());
        assert!(store.load(&"k".repeat(MAX_KEY + 1)).await.is_err());
    }
}
