//! Consistent state in SQLite: a row for each key, with a version that a write must name.
//!
//! Each write is one statement, which says by a row of its result whether it was done, so that no two can come in
//! between each other. Values whose time has passed are not seen, and removed now and then behind a write.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use causeway::platform::{Clock as _, Entropy as _, Held, Reach, SeamError, StateStore, Swap, Version};
use spin_sdk::sqlite::{Connection, Error, RowResult, Value};

use crate::platform::{Random, Time};

/// The database's label in `spin.toml`.
const LABEL: &str = "default";

const TABLE: &str = "CREATE TABLE IF NOT EXISTS causeway_state (key TEXT PRIMARY KEY, version INTEGER NOT NULL, \
                     expires INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID";
const INDEX: &str = "CREATE INDEX IF NOT EXISTS causeway_state_expires ON causeway_state (expires)";
const LOAD: &str = "SELECT version, value FROM causeway_state WHERE key = ?1 AND expires > ?2";
// Never a version that was given before, even if the value had passed its time and is made anew.
const FIRST: &str = "INSERT INTO causeway_state (key, version, expires, value) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT (key) DO UPDATE SET version = max(version + 1, excluded.version), \
                     expires = excluded.expires, value = excluded.value WHERE expires <= ?2 RETURNING version";
const NEXT: &str = "UPDATE causeway_state SET version = max(version + 1, ?2), expires = ?3, value = ?4 \
                    WHERE key = ?1 AND version = ?5 AND expires > ?2 RETURNING version";
const TIDY: &str = "DELETE FROM causeway_state WHERE key IN \
                    (SELECT key FROM causeway_state WHERE expires <= ?1 LIMIT 500)";

thread_local! {
    static OPEN: RefCell<Option<Rc<Connection>>> = const { RefCell::new(None) };
}

/// The database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sqlite;

impl Sqlite {
    async fn connection(self) -> Result<Rc<Connection>, Error> {
        if let Some(open) = OPEN.with_borrow(Clone::clone) {
            return Ok(open);
        }
        let opened = Rc::new(Connection::open(LABEL).await?);
        OPEN.set(Some(opened.clone()));
        Ok(opened)
    }

    /// The rows of a statement. The table is made by the first that misses it.
    async fn rows(self, statement: &str, values: Vec<Value>) -> Result<Vec<RowResult>, SeamError> {
        let connection = self.connection().await.map_err(failure)?;
        match run(&connection, statement, values.clone()).await {
            Err(Error::Io(words)) if words.contains("no such table") => {
                for make in [TABLE, INDEX] {
                    run(&connection, make, Vec::new()).await.map_err(failure)?;
                }
                run(&connection, statement, values).await.map_err(failure)
            }
            result => result.map_err(failure),
        }
    }
}

async fn run(connection: &Connection, statement: &str, values: Vec<Value>) -> Result<Vec<RowResult>, Error> {
    connection.execute(statement, values).await?.collect().await
}

impl StateStore for Sqlite {
    fn reach(&self) -> Reach {
        Reach::Near
    }

    async fn load(&self, key: &str) -> Result<Option<Held>, SeamError> {
        let rows = self.rows(LOAD, vec![Value::text(key), Value::Integer(now())]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        match (row.get(0), row.get::<&[u8]>(1)) {
            (Some(version), Some(value)) => {
                Ok(Some(Held { version: Version(version), value: Bytes::copy_from_slice(value) }))
            }
            _ => Err(SeamError::Host("SQLite: the stored row is damaged".to_owned())),
        }
    }

    async fn swap(
        &self,
        key: &str,
        seen: Option<Version>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Swap, SeamError> {
        let now = now();
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        let mut values = vec![
            Value::text(key),
            Value::Integer(now),
            Value::Integer(now.saturating_add(ttl)),
            Value::Blob(value.into()),
        ];
        let statement = match seen {
            None => FIRST,
            Some(Version(seen)) => {
                values.push(Value::Integer(i64::try_from(seen).unwrap_or(i64::MAX)));
                NEXT
            }
        };
        let rows = self.rows(statement, values).await?;
        let swap = match rows.first().and_then(|row| row.get(0)) {
            Some(version) => Swap::Done(Version(version)),
            None => Swap::Stale,
        };
        let mut chance = [0];
        Random.fill(&mut chance);
        if chance[0] == 0 {
            // What cannot be removed now will be another time.
            let _ = self.rows(TIDY, vec![Value::Integer(now)]).await;
        }
        Ok(swap)
    }
}

fn now() -> i64 {
    i64::try_from(Time.now().0).unwrap_or(i64::MAX)
}

fn failure(error: Error) -> SeamError {
    match error {
        Error::AccessDenied | Error::NoSuchDatabase => SeamError::Denied(format!(
            "there is no SQLite database {LABEL:?}; name it in sqlite_databases (spin.toml)"
        )),
        Error::Io(words) => SeamError::Host(format!("SQLite: {words}")),
        error => SeamError::Host(format!("SQLite: {error}")),
    }
}
