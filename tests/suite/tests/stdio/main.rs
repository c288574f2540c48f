//! `causeway stdio`: clients that only speak stdio, in front of a gateway, in both eras and when things break.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod client;
mod ends;
mod legacy;
mod modern;
mod serve;
mod trouble;
