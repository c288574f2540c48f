//! Consistent state: the Durable Object. One object holds one value, so no two keys ever wait for each other.
//!
//! It is asked over a protocol of its own, never by anyone outside: `GET` gives the value (or 204), `PUT` writes it if
//! the version is still [`SEEN`] (or 409). A request to an object without a value stores nothing, so looking costs
//! no storage; and when the value's time has passed, an alarm deletes the object's whole storage.

use std::cell::Cell;

use worker::{
    DurableObject, Env, Method, Request, Response, ResponseBuilder, Result, SqlStorage, SqlStorageValue,
    durable_object,
};

/// Response header: the value's version.
pub(crate) const VERSION: &str = "x-version";
/// Request header: the version to replace. Without it there must be no value yet.
pub(crate) const SEEN: &str = "x-seen";
/// Request header: how long the value lives, in milliseconds.
pub(crate) const TTL: &str = "x-ttl";

/// Times and versions are stored as SQLite integers but cross as JavaScript numbers.
const LATEST: i64 = (1 << 53) - 1;
/// An alarm is set at most this far ahead, and set again when it comes too early: some values live for a century.
const FAR: i64 = 30 * 24 * 60 * 60 * 1000;

/// One value with its version and the time it expires.
#[durable_object(alarm)]
pub struct State {
    state: worker::State,
    /// Whether the table is known to exist.
    made: Cell<bool>,
}

struct Row {
    version: i64,
    expires: i64,
    wakes: i64,
}

impl DurableObject for State {
    fn new(state: worker::State, _env: Env) -> Self {
        Self { state, made: Cell::new(false) }
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        match request.method() {
            Method::Get => self.load(),
            Method::Put => self.swap(request).await,
            _ => Response::error("no such method", 405),
        }
    }

    async fn alarm(&self) -> Result<Response> {
        match self.row()? {
            Some(row) if row.expires > now() => {
                // The value has, or was given, more time than the alarm.
                let wakes = row.expires.min(now() + FAR);
                self.sql().exec("UPDATE held SET wakes = ?", vec![SqlStorageValue::Integer(wakes)])?;
                self.wake(wakes).await?;
            }
            _ => {
                self.state.storage().delete_all().await?;
                self.made.set(false);
            }
        }
        Response::empty()
    }
}

impl State {
    fn sql(&self) -> SqlStorage {
        self.state.storage().sql()
    }

    fn load(&self) -> Result<Response> {
        let Some(row) = self.row()?.filter(|row| row.expires > now()) else {
            return Ok(ResponseBuilder::new().with_status(204).empty());
        };
        let values = self.sql().exec("SELECT value FROM held", None)?.raw().next().transpose()?;
        let Some(SqlStorageValue::Blob(value)) = values.and_then(|values| values.into_iter().next()) else {
            return Response::error("the stored value is damaged", 500);
        };
        ResponseBuilder::new().with_header(VERSION, &row.version.to_string())?.from_bytes(value)
    }

    async fn swap(&self, mut request: Request) -> Result<Response> {
        let number = |name: &str| -> Result<Option<i64>> {
            Ok(request.headers().get(name)?.and_then(|value| value.parse().ok()))
        };
        let (seen, ttl) = (number(SEEN)?, number(TTL)?.unwrap_or(0));
        // The last wait before the write: from the look at the version on, nobody comes in between.
        let value = request.bytes().await?;
        let now = now();
        let old = self.row()?;
        let current = old.as_ref().filter(|row| row.expires > now).map(|row| row.version);
        if current != seen {
            return Response::error("stale", 409);
        }
        // Never a version that was given before, even if the value had expired and is made anew.
        let version = old.as_ref().map_or(0, |row| row.version + 1).max(now);
        let expires = now.saturating_add(ttl).min(LATEST);
        let wakes = match &old {
            Some(row) if row.wakes > now && row.wakes <= expires => row.wakes,
            _ => expires.min(now + FAR),
        };
        self.make()?;
        self.sql().exec(
            "INSERT OR REPLACE INTO held (id, version, expires, wakes, value) VALUES (0, ?, ?, ?, ?)",
            vec![
                SqlStorageValue::Integer(version),
                SqlStorageValue::Integer(expires),
                SqlStorageValue::Integer(wakes),
                SqlStorageValue::Blob(value),
            ],
        )?;
        if old.is_none_or(|row| row.wakes != wakes) {
            self.wake(wakes).await?;
        }
        Ok(ResponseBuilder::new().with_header(VERSION, &version.to_string())?.empty())
    }

    fn row(&self) -> Result<Option<Row>> {
        if !self.made.get() {
            let table =
                self.sql().exec("SELECT 1 FROM sqlite_master WHERE name = 'held'", None)?.raw().next();
            if table.transpose()?.is_none() {
                return Ok(None);
            }
            self.made.set(true);
        }
        let Some(values) = self.sql().exec("SELECT version, expires, wakes FROM held", None)?.raw().next()
        else {
            return Ok(None);
        };
        match values?.as_slice() {
            [
                SqlStorageValue::Integer(version),
                SqlStorageValue::Integer(expires),
                SqlStorageValue::Integer(wakes),
            ] => Ok(Some(Row { version: *version, expires: *expires, wakes: *wakes })),
            _ => Err("the stored row is damaged".into()),
        }
    }

    fn make(&self) -> Result<()> {
        if !self.made.get() {
            self.sql().exec(
                "CREATE TABLE IF NOT EXISTS held (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, \
                 expires INTEGER NOT NULL, wakes INTEGER NOT NULL, value BLOB NOT NULL)",
                None,
            )?;
            self.made.set(true);
        }
        Ok(())
    }

    async fn wake(&self, at: i64) -> Result<()> {
        #[allow(clippy::cast_precision_loss)] // at most 53 bits
        let at = js_sys::Date::new(&(at as f64).into());
        self.state.storage().set_alarm(worker::ScheduledTime::new(at)).await
    }
}

#[allow(clippy::cast_possible_truncation)] // milliseconds since 1970 take 41 bits
fn now() -> i64 {
    js_sys::Date::now() as i64
}
