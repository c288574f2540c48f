//! Read-mostly state in Workers KV.

use bytes::Bytes;
use causeway::platform::{KeyValue, SeamError};
use worker::Env;
use worker::kv::{KvError, KvStore};

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "CAUSEWAY_KV";

/// How long a location may answer from its own copy, in seconds. The least that KV takes: what is written here is
/// read-mostly, but a pushed configuration should not wait for the usual minute.
const COPY_AGE: u64 = 30;

/// The KV namespace bound as `CAUSEWAY_KV`.
#[derive(Debug)]
pub(crate) struct Kv(Env);

impl Kv {
    pub(crate) fn new(env: Env) -> Self {
        Self(env)
    }

    fn namespace(&self) -> Result<KvStore, SeamError> {
        self.0.kv(BINDING).map_err(|_| {
            SeamError::Denied(format!(
                "there is no KV namespace bound as {BINDING}; add one to wrangler.toml"
            ))
        })
    }
}

impl KeyValue for Kv {
    async fn read(&self, key: &str) -> Result<Option<Bytes>, SeamError> {
        let value =
            self.namespace()?.get(key).cache_ttl(COPY_AGE).bytes().await.map_err(|error| failure(&error))?;
        Ok(value.map(Bytes::from))
    }

    async fn write(&self, key: &str, value: Bytes) -> Result<(), SeamError> {
        let put = self.namespace()?.put_bytes(key, &value).map_err(|error| failure(&error))?;
        put.execute().await.map_err(|error| failure(&error))
    }

    async fn remove(&self, key: &str) -> Result<(), SeamError> {
        self.namespace()?.delete(key).await.map_err(|error| failure(&error))
    }
}

fn failure(error: &KvError) -> SeamError {
    SeamError::Host(match error {
        KvError::JavaScript(error) => format!("KV: {}", crate::body::explain(error)),
        error => format!("KV: {error}"),
    })
}
