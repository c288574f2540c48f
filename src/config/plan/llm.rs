//! Model providers and model names, checked and ready.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use url::{Host, Url};

use super::Timeouts;
use crate::config::glob::Filter;
use crate::config::types::{Feature, ProviderKind, Together};

/// Whom the gateway asks for a model's words, and what models are called.
#[derive(Debug, Default)]
pub struct Llm {
    /// The providers this host can reach, in the order of the file.
    pub providers: Vec<Arc<Provider>>,
    /// Names that the configuration gives, and what is known of single models.
    pub models: Vec<Model>,
    /// Names for a choice among several.
    pub policies: Vec<Policy>,
    /// Models that answer together.
    pub teams: Vec<Team>,
    /// How contexts of users are kept.
    pub contexts: Contexts,
    /// How answers are kept, where they are.
    pub cache: Option<Cache>,
    /// How many bytes of what is asked, and of what is answered, are logged with each call: 0 for nothing.
    pub log_content: usize,
}

/// How answers are kept for the very same question.
#[derive(Debug)]
pub struct Cache {
    /// How old one may be that is given again.
    pub ttl: Duration,
    /// How many bytes all of them may have.
    pub size: usize,
    /// How many bytes one may have.
    pub max_answer: usize,
    /// Whether callers share them.
    pub shared: bool,
    /// Which models' answers are kept.
    pub models: Filter,
}

/// How contexts of users are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contexts {
    /// How long one is kept after it was written last.
    pub ttl: Duration,
    /// How many bytes one may have.
    pub max_size: usize,
    /// How many turns of what was said are kept.
    pub turns: usize,
}

impl Default for Contexts {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30 * 24 * 60 * 60), max_size: 256 * 1024, turns: 40 }
    }
}

impl Llm {
    /// The provider called `name`.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// The policy called `name`.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// The team called `name`.
    #[must_use]
    pub fn team(&self, name: &str) -> Option<&Team> {
        self.teams.iter().find(|team| team.name == name)
    }

    /// What the configuration says of the model called `name`.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }
}

/// One provider of models.
#[derive(Debug, Clone)]
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
    /// Whether what is asked stays on machines of one's own.
    pub local: bool,
    /// After how many failures in a row it is left alone, and for how long at first; 0 never.
    pub breaker: (u32, Duration),
    /// Which of its keys this is.
    pub slot: usize,
    /// The same with its other keys.
    pub twins: Vec<Arc<Provider>>,
}

impl Provider {
    /// A provider with everything else as it is when the configuration says nothing more.
    #[must_use]
    pub fn new(name: &str, kind: ProviderKind, url: Url) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            local: is_local(&url),
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
            breaker: (5, Duration::from_secs(10)),
            slot: 0,
            twins: Vec::new(),
        }
    }
}

/// Whether `url` is on this machine or in a private network.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Some(Host::Domain(name)) => {
            name == "localhost" || [".localhost", ".local", ".internal"].iter().any(|end| name.ends_with(end))
        }
        None => false,
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
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    /// The name that callers use.
    pub name: String,
    /// What is asked, in this order. Empty: the model itself.
    pub targets: Vec<Target>,
    /// What it costs.
    pub prices: Option<Prices>,
    /// How many tokens it takes.
    pub context: Option<u64>,
    /// How many tokens it answers with at most.
    pub max_output: Option<u64>,
    /// What it can do.
    pub features: Option<Features>,
}

/// Things that models can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u16);

impl Features {
    /// With `feature`.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature as u16)
    }

    /// Whether `feature` is among them.
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u16 != 0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// The first of these that is not among `others`.
    #[must_use]
    pub fn missing(self, others: Self) -> Option<&'static str> {
        let missing = |(_, feature): &&(&str, Feature)| self.has(*feature) && !others.has(*feature);
        Feature::ALL.iter().find(missing).map(|(name, _)| *name)
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        features.into_iter().fold(Self::default(), Self::with)
    }
}

/// A name for a choice among several models.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// The name that callers use.
    pub name: String,
    /// The models to choose among, with how often each is to be the first.
    pub targets: Vec<(Target, u32)>,
    /// What a model must be able to do.
    pub needs: Features,
    /// How many tokens it must take.
    pub context: u64,
    /// Whether only local ones are asked.
    pub local_only: bool,
    /// Whether local ones are asked first.
    pub local_first: bool,
    /// How much cost, the time to the first word, and the time for each token count.
    pub rank: (f64, f64, f64),
}

/// Models that answer together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Team {
    /// The name that callers use: `chain/NAME`, `cascade/NAME`, `compare/NAME`.
    pub name: String,
    /// How they do.
    pub how: Together,
    /// The models, by names that callers could use.
    pub models: Vec<String>,
    /// Who checks or picks.
    pub judge: Option<String>,
    /// What who refines, checks or picks is told.
    pub instruction: Option<String>,
    /// How long all of it may take.
    pub time: Duration,
    /// How many US dollars it may cost.
    pub cost: Option<f64>,
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
