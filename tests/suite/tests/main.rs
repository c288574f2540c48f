//! The suite, as one program: cases that wait for a clock wait side by side, and what they share is linked once.
//!
//! CAUSEWAY_HOST=native|cloudflare|spin cargo test -p causeway-suite
//! CAUSEWAY_HOST=native cargo test -p causeway-suite link:: listen::
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod access;
mod ask;
mod eras;
mod faults;
mod http;
mod http_sse;
mod kept;
mod link;
mod listen;
mod local_model;
mod matrix;
mod merging;
mod models;
mod own;
mod programs;
mod reliable;
mod sampling;
mod stdio;
mod streams;
mod upstreams;
mod wrong;
