//! Causeway on Cloudflare Workers.
//!
//! One isolate serves many requests at once, each in an I/O context of its own. What outlives a request is plain
//! memory; whatever touches the network, a Durable Object or KV is made for one request and dropped with it. This crate
//! **never** decides anything about a call: it converts types and asks the core.
//!
//! | module | what |
//! |---|---|
//! | `entry` | the fetch event: request in, reply out, the rest behind it |
//! | `platform` | the core's seam over bindings and globals, and what the isolate keeps |
//! | `http` | heads of messages, and outbound requests over `fetch` |
//! | `body` | bytes of a JavaScript message as a stream, and the other way round |
//! | `object` | asking Durable Objects |
//! | `store`, `state` | consistent state: the asking side and the Durable Object |
//! | `mailbox` | an owner for each key: the asking side and the Durable Object |
//! | `link` | companions that dial in: their WebSockets, and asking through them |
//! | `key_value` | read-mostly state in Workers KV |
//! | `time` | clock and timers |
//! | `gone` | hearing that a caller has gone away |
//! | `once` | something that JavaScript tells once |
//! | `glue` | what is done in JavaScript to save crossings |
//!
//! On any other target than wasm32 the crate is empty, so that `cargo test --workspace` works everywhere.

#[cfg(target_arch = "wasm32")]
mod body;
#[cfg(target_arch = "wasm32")]
mod entry;
#[cfg(target_arch = "wasm32")]
mod glue;
#[cfg(target_arch = "wasm32")]
mod gone;
#[cfg(target_arch = "wasm32")]
mod http;
#[cfg(target_arch = "wasm32")]
mod key_value;
#[cfg(target_arch = "wasm32")]
mod link;
#[cfg(target_arch = "wasm32")]
mod mailbox;
#[cfg(target_arch = "wasm32")]
mod object;
#[cfg(target_arch = "wasm32")]
mod once;
#[cfg(target_arch = "wasm32")]
mod platform;
#[cfg(target_arch = "wasm32")]
mod state;
#[cfg(target_arch = "wasm32")]
mod store;
#[cfg(target_arch = "wasm32")]
mod time;
