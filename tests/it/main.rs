//! The whole gateway on the fake platform: what goes in, what comes out, and every ask in between.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "a test that meets the unexpected has failed"
)]

mod admin;
mod arrows;
mod bridge;
mod changing;
mod old;
mod peer;
mod polled;
mod server;
mod world;

mod answered;
mod apps;
mod client;
mod companion;
mod ended;
mod eras;
mod extensions;
mod fitted;
mod heard;
mod heard_old;
mod http_sse;
mod http_sse_asks;
mod lasting;
mod lenient;
mod links;
mod listen;
mod lists;
mod llm;
mod own;
mod resume;
mod rules;
mod sampling;
mod sessions;
mod sockets;
mod streams;
mod tasks;
mod watch;
