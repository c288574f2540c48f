//! Consistent state: the asking side. Each key has a Durable Object of its own; see [`crate::state`].

use std::time::Duration;

use bytes::Bytes;
use causeway::platform::{Held, Reach, SeamError, StateStore, Swap, Version};
use js_sys::Uint8Array;
use wasm_bindgen::JsValue;
use worker::Env;

use crate::body::Chunks;
use crate::object::Object;
use crate::state::{SEEN, TTL, VERSION};

/// The binding's name in `wrangler.toml`.
const BINDING: &str = "CAUSEWAY_STATE";

/// The Durable Object namespace bound as `CAUSEWAY_STATE`.
#[derive(Debug)]
pub(crate) struct Objects(Env);

impl Objects {
    pub(crate) fn new(env: Env) -> Self {
        Self(env)
    }

    async fn ask(
        &self,
        key: &str,
        method: &str,
        head: &str,
        body: Option<Uint8Array>,
    ) -> Result<web_sys::Response, SeamError> {
        let object = Object { env: &self.0, binding: BINDING, key };
        object.ask(method, "/", head, body, &JsValue::UNDEFINED).await
    }
}

impl StateStore for Objects {
    fn reach(&self) -> Reach {
        Reach::Far
    }

    async fn load(&self, key: &str) -> Result<Option<Held>, SeamError> {
        let answer = self.ask(key, "GET", "", None).await?;
        if answer.status() == 204 {
            return Ok(None);
        }
        let version = version(&answer)?;
        let value = Chunks::new(answer.as_ref(), None, None).whole().await?;
        Ok(Some(Held { version, value }))
    }

    async fn swap(
        &self,
        key: &str,
        seen: Option<Version>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Swap, SeamError> {
        let mut head = format!("{TTL}\n{}\n", ttl.as_millis());
        if let Some(Version(seen)) = seen {
            head.push_str(&format!("{SEEN}\n{seen}\n"));
        }
        let answer = self.ask(key, "PUT", &head, Some(Uint8Array::from(value.as_ref()))).await?;
        if answer.status() == 409 {
            return Ok(Swap::Stale);
        }
        Ok(Swap::Done(version(&answer)?))
    }
}

fn version(answer: &web_sys::Response) -> Result<Version, SeamError> {
    let version = answer.headers().get(VERSION).ok().flatten().and_then(|version| version.parse().ok());
    match version {
        Some(version) => Ok(Version(version)),
        None => Err(SeamError::Host(format!("Durable Object: it answered with status {}", answer.status()))),
    }
}
