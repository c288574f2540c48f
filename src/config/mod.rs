//! Configuration: text to a validated, immutable [`Plan`].
//!
//! ```text
//! text --node::parse--> Node --read--> Config --compile--> Plan
//!                                       |  ^
//!                            normalized |  | from_normalized
//!                                       v  |
//!                                  JSON in the store, at the edge
//! ```
//!
//! The command line reads files (feature `text`); the edge has normalized JSON only, and needs no more than
//! `serde_json`. Both go through the same [`read()`], so nothing is accepted here that is refused there.
//!
//! ```
//! # #[cfg(feature = "text")] {
//! use causeway::config::{Format, load};
//!
//! let reading = load("mcpServers:\n  docs:\n    ulr: https://docs.example/mcp\n", Format::Yaml);
//! let lines: Vec<String> = reading.problems.iter().map(|p| p.in_file("gateway.yaml").to_string()).collect();
//! assert_eq!(lines, [
//!     "gateway.yaml:2:3: mcpServers.docs: has neither `url` nor `command` nor `via`: add the server's MCP endpoint, \
//!      the program to run, or the link behind which it is",
//!     "gateway.yaml:3:5: warning: mcpServers.docs.ulr: is not a known key and is ignored: did you mean `url`?",
//! ]);
//! # }
//! ```

mod ambient;
mod compile;
mod fill;
pub mod glob;
pub mod keys;
pub mod node;
mod normal;
pub mod plan;
mod problem;
mod read;
#[cfg(feature = "schema")]
pub(crate) mod schema;
pub mod stored;
pub mod types;

pub use ambient::ambient;
pub use compile::{compile, program};
pub use node::Format;
pub use plan::Plan;
pub use problem::{Place, Problem, Severity};
pub use read::{Reading, read};
#[cfg(feature = "schema")]
pub use schema::schema;
pub use types::Config;

/// Reads a configuration file's text.
#[cfg(feature = "text")]
#[must_use]
pub fn load(text: &str, format: Format) -> Reading {
    match node::parse(text, format) {
        Ok(root) => read(&root),
        Err(problem) => Reading::refused(problem),
    }
}
