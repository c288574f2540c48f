//! The black-box suite: what the gateway does, seen from outside over real HTTP, on any host.
//!
//! A case starts fixture servers, a gateway in front of them, and asks. It **never** looks inside: what counts is
//! what clients get, what the servers were asked (their log is the trace), and how long it took. The same cases
//! run on every host; `CAUSEWAY_HOST` says which, and `CAUSEWAY_BEHIND` what stands between the gateway and the servers,
//! see [`host`] and [`behind`].
//!
//! ```no_run
//! # async fn case() {
//! use causeway_suite::{Client, Era, Gateway, serving};
//! use causeway_fixture::{Fixture, Options};
//! use serde_json::json;
//!
//! let files = Fixture::start(Options::modern("files")).await;
//! let gateway = Gateway::start(serving(&[("files", &files)])).await;
//! let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
//! assert_eq!(client.tool("files__echo", json!({"text": "hi"})).await.text(), "hi");
//! # }
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test program: what cannot happen in a test may end it"
)]

pub mod behind;
pub mod client;
pub mod host;
pub mod legacy;
pub mod link;
pub mod models;
pub mod modern;
pub mod party;
pub mod processes;
pub mod program;
pub mod sse;

use std::fmt::Write as _;

use causeway_fixture::Fixture;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub use behind::left_out_behind_stdio;
pub use client::{Answer, Client, Era, Events, Reply, Request, raw};
pub use host::{Gateway, Host};
pub use link::Companion;

/// Both eras, for cases that hold in each.
pub const ERAS: [Era; 2] = [Era::Modern, Era::Legacy];

/// A configuration with `servers`, in this order, and nothing else. Without keys of its own it gets
/// one for all callers where the host needs that.
#[must_use]
pub fn serving(servers: &[(&str, &Fixture)]) -> Value {
    let servers: Map<String, Value> =
        servers.iter().map(|(name, fixture)| ((*name).to_owned(), json!({"url": fixture.url()}))).collect();
    json!({"mcpServers": servers})
}

/// `config` with `patch` laid over it: objects are merged, everything else is replaced.
#[must_use]
pub fn with(mut config: Value, patch: Value) -> Value {
    fn lay(under: &mut Value, over: Value) {
        match (under, over) {
            (Value::Object(under), Value::Object(over)) => {
                for (name, value) in over {
                    lay(under.entry(name).or_insert(Value::Null), value);
                }
            }
            (under, over) => *under = over,
        }
    }
    lay(&mut config, patch);
    config
}

/// The `hash` of a key, as the configuration wants it.
#[must_use]
pub fn hash(key: &str) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(key) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The names of the items of a list result.
#[must_use]
pub fn names(items: &Value) -> Vec<String> {
    let items = items.as_array().into_iter().flatten();
    items.filter_map(|item| item["name"].as_str()).map(str::to_owned).collect()
}
