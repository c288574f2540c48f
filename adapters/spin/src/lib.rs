//! Causeway as a Spin application.
//!
//! One instance serves several requests at once, each a task of its own, and is forgotten when it has been idle for a
//! moment. What outlives a request is plain memory. Whatever the host does for a task (a read, a timer) belongs to that
//! task, which must be the one that drops it; what tasks share goes through `pipe`. This crate **never** decides anything
//! about a call: it converts types and asks the core.
//!
//! | module | what |
//! |---|---|
//! | `entry` | the HTTP trigger: request in, reply out, the rest behind it |
//! | `platform` | what the instance keeps, and the core's seam: mailboxes, variables, randomness, clock, log |
//! | `http` | requests that go out |
//! | `pipe` | bytes from the task that has them to whoever reads |
//! | `store` | consistent state in SQLite |
//! | `key_value` | read-mostly state in a key-value store |
//!
//! On any other target than WASI the crate is empty, so that `cargo test --workspace` works everywhere.

#[cfg(all(target_arch = "wasm32", target_os = "wasi"))]
mod entry;
#[cfg(all(target_arch = "wasm32", target_os = "wasi"))]
mod http;
#[cfg(all(target_arch = "wasm32", target_os = "wasi"))]
mod key_value;
#[cfg(all(target_arch = "wasm32", target_os = "wasi"))]
mod pipe;
#[cfg(all(target_arch = "wasm32", target_os = "wasi"))]
mod platform;
#[cfg(all(target_arch = "wasm32", target_os = "wasi"))]
mod store;
