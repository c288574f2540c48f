//! The server behind, and what it saw of its clients.

use std::time::{Duration, Instant};

use causeway_fixture::Fixture;
use causeway_suite::Request;
use causeway_suite::program::{Program, everything};
use serde_json::{Value, json};

/// What a server saw of its clients since it was last told to forget.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// The calls whose work was stopped.
    pub stopped: Vec<String>,
    /// The names of the tools and prompts that were called.
    pub called: Vec<String>,
    /// The methods it was sent.
    pub told: Vec<String>,
    /// How many `subscriptions/listen` are open.
    pub listeners: usize,
    /// How many legacy sessions have a stream of their own open.
    pub streams: usize,
}

/// A running server.
pub enum Behind {
    Fixture(Fixture),
    /// A program of somebody else.
    Program {
        program: Program,
        /// The path of its endpoint.
        path: &'static str,
        /// Whether it tells its [`Facts`] at `/facts`.
        tells: bool,
    },
    /// The npm package `server-everything` as a program that whoever is in front runs.
    EverythingOnStdio,
}

impl Behind {
    /// Its entry in the gateway's configuration.
    pub fn entry(&self) -> Value {
        match self {
            Self::Fixture(_) | Self::Program { .. } => json!({"url": self.url()}),
            Self::EverythingOnStdio => json!({"command": "node", "args": [everything(), "stdio"]}),
        }
    }

    /// Where clients reach it without a gateway.
    ///
    /// # Panics
    /// Where it has no URL.
    pub fn url(&self) -> String {
        match self {
            Self::Fixture(fixture) => fixture.url(),
            Self::Program { program, path, .. } => program.url(path),
            Self::EverythingOnStdio => panic!("a program has no URL"),
        }
    }

    pub async fn facts(&self) -> Facts {
        match self {
            Self::Fixture(fixture) => Facts {
                stopped: fixture.stopped(),
                called: fixture
                    .seen()
                    .iter()
                    .filter_map(|seen| seen.body["params"]["name"].as_str().map(str::to_owned))
                    .collect(),
                told: fixture.trace(),
                listeners: fixture.listeners(),
                streams: fixture.streams(),
            },
            Self::Program { tells: false, .. } | Self::EverythingOnStdio => Facts::default(),
            Self::Program { program, .. } => {
                let text = Request::new("GET", program.url("/facts")).send().await.text().await;
                let told: Value = serde_json::from_str(&text).expect("facts are JSON");
                let list = |name: &str| {
                    let items = told[name].as_array().into_iter().flatten();
                    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
                };
                let count = |name: &str| {
                    told[name].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
                };
                Facts {
                    stopped: list("stopped"),
                    called: list("called"),
                    told: list("told"),
                    listeners: count("listeners"),
                    streams: count("streams"),
                }
            }
        }
    }

    pub async fn forget(&self) {
        match self {
            Self::Fixture(fixture) => fixture.forget(),
            Self::Program { tells: false, .. } | Self::EverythingOnStdio => {}
            Self::Program { program, .. } => {
                Request::new("POST", program.url("/facts")).send().await.text().await;
            }
        }
    }

    /// Waits until `condition` holds, for at most five seconds, and says whether it does.
    pub async fn until(&self, condition: impl Fn(&Facts) -> bool) -> bool {
        let give_up = Instant::now() + Duration::from_secs(5);
        while !condition(&self.facts().await) {
            if Instant::now() > give_up {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }
}
