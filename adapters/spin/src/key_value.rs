//! Read-mostly state in a Spin key-value store.

use bytes::Bytes;
use causeway::platform::{KeyValue, SeamError};
use spin_sdk::key_value::{Error, Store};

/// The store's label in `spin.toml`.
const LABEL: &str = "default";

/// The key-value store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kv;

impl Kv {
    async fn store(self) -> Result<Store, SeamError> {
        Store::open(LABEL).await.map_err(failure)
    }
}

impl KeyValue for Kv {
    async fn read(&self, key: &str) -> Result<Option<Bytes>, SeamError> {
        let value = self.store().await?.get(key).await.map_err(failure)?;
        Ok(value.map(Bytes::from))
    }

    async fn write(&self, key: &str, value: Bytes) -> Result<(), SeamError> {
        self.store().await?.set(key, value).await.map_err(failure)
    }

    async fn remove(&self, key: &str) -> Result<(), SeamError> {
        self.store().await?.delete(key).await.map_err(failure)
    }
}

fn failure(error: Error) -> SeamError {
    match error {
        Error::AccessDenied | Error::NoSuchStore => SeamError::Denied(format!(
            "there is no key-value store {LABEL:?}; name it in key_value_stores (spin.toml)"
        )),
        error => SeamError::Host(format!("key-value store: {error}")),
    }
}
