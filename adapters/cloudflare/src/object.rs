//! Asking Durable Objects.

use js_sys::{Reflect, Uint8Array};
use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::JsFuture;
use worker::Env;

use causeway::platform::SeamError;

use crate::body::explain;
use crate::glue;

/// The Durable Object of `key` in the namespace bound as `binding`.
pub(crate) struct Object<'a> {
    pub(crate) env: &'a Env,
    pub(crate) binding: &'static str,
    pub(crate) key: &'a str,
}

impl Object<'_> {
    /// What it answers. `signal` ends the exchange; undefined: nothing does.
    ///
    /// # Errors
    /// When nothing is bound, or the object cannot be reached.
    pub(crate) async fn ask(
        self,
        method: &str,
        path: &str,
        head: &str,
        body: Option<Uint8Array>,
        signal: &JsValue,
    ) -> Result<web_sys::Response, SeamError> {
        let Self { env, binding, key } = self;
        let namespace = Reflect::get(env, &JsValue::from_str(binding)).unwrap_or(JsValue::UNDEFINED);
        if namespace.is_undefined() {
            return Err(SeamError::Denied(format!(
                "there is no Durable Object namespace bound as {binding}; add one to wrangler.toml"
            )));
        }
        let asked = match glue::ask(&namespace, key, method, path, head, body, signal) {
            Ok(promise) => JsFuture::from(promise).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(answer) => Ok(answer.unchecked_into()),
            Err(error) => Err(SeamError::Host(format!("Durable Object: {}", explain(&error)))),
        }
    }
}
