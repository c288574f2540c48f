//! Model providers and model names, checked and ready.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use url::Url;

use super::Timeouts;
use crate::config::glob::Filter;
use crate::config::types::ProviderKind;

/// Whom the gateway asks for a model's words, and what models are called.
#[derive(Debug, Default)]
pub struct Llm {
    /// The providers this host can reach, in the order of the file.
    pub providers: Vec<Arc<Provider>>,
    /// Names that the configuration gives, and what is known of single models.
    pub models: Vec<Model>,
}

impl Llm {
    /// The provider called `name`.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// What the configuration says of the model called `name`.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }
}

/// One provider of models.
#[derive(Debug)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: String,
    /// Whose API it speaks.
    pub kind: ProviderKind,
    /// Where the API is, as the kind counts it. Behind a link only what follows [`BEHIND`](super::BEHIND) is sent on.
    pub url: Url,
    /// The name of the link behind which it is, if it is behind one.
    pub via: Option<String>,
    /// What the gateway identifies itself with.
    pub credential: Credential,
    /// Further headers to send with each request. Values are marked sensitive.
    pub headers: HeaderMap,
    /// Which models it is asked for, if the configuration says so.
    pub models: Option<Filter>,
    /// Those of them that are named in full.
    pub named: Vec<String>,
    /// The version of the API, where that is a parameter of each request.
    pub api_version: Option<String>,
    /// The region, for AWS.
    pub region: String,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How many bytes one answer (or one event of a stream) may have.
    pub max_response: usize,
    /// How often a call is tried again at this provider when that may help.
    pub retries: u32,
}

impl Provider {
    /// A provider with everything else as it is when the configuration says nothing more.
    #[must_use]
    pub fn new(name: &str, kind: ProviderKind, url: Url) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            url,
            via: None,
            credential: Credential::None,
            headers: HeaderMap::new(),
            models: None,
            named: Vec::new(),
            api_version: None,
            region: String::new(),
            timeouts: Timeouts { first_byte: Duration::from_secs(120), ..Timeouts::default() },
            max_response: 32 * 1024 * 1024,
            retries: 2,
        }
    }
}

/// What the gateway identifies itself with. `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: a local provider.
    None,
    /// A key, in the provider's own header.
    Key(String),
    /// A token in `Authorization: Bearer`.
    Bearer(String),
    /// An AWS access key, which signs each request.
    Aws {
        /// The access key's id.
        id: String,
        /// The access key's secret.
        secret: String,
        /// The token of a temporary key.
        session: Option<String>,
    },
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// A name for one or more models, or what is known of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The name that callers use.
    pub name: String,
    /// What is asked, in this order. Empty: the model itself.
    pub targets: Vec<Target>,
    /// What it costs.
    pub prices: Option<Prices>,
}

/// A model of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The provider's name.
    pub provider: String,
    /// The model's name there.
    pub model: String,
}

/// Prices in US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Prices {
    /// What is sent.
    pub input: f64,
    /// What comes back.
    pub output: f64,
    /// What is sent and was in the provider's cache. As `input` if not given.
    pub cached: Option<f64>,
    /// What is sent and put into the provider's cache. As `input` if not given.
    pub cache_write: Option<f64>,
}
