//! Causeway on a laptop or a server.
//!
//! | module | what |
//! |---|---|
//! | [`platform`] | the host's half of the seam, put together from [`http`], [`store`], [`secrets`] and [`log`] |
//! | [`running`] | a gateway that runs: its listener, its plan, and what keeps them up to date |
//! | [`server`] | connections in, requests to the core, replies out |
//! | [`sandbox`] | what a program may do to this machine, and that nothing of it stays behind |
//! | [`stdio`] | a gateway for clients that only speak stdio |
//! | [`connect`] | the companion: this machine's servers behind a gateway elsewhere |
//! | [`source`] | plans from files and from what was pushed |
//! | [`workers`] | the threads that serve connections, one for each core |
//! | [`watch`] | sees when a file has changed |
//! | [`programs`] | servers that are programs: their processes, kept, with the face of an HTTP server |
//! | [`mailboxes`] | what outlives a request: an owner for each key |
//! | `links` | companions that dial in |
//! | [`cli`] | the `causeway` command |
//!
//! Nothing here decides what a gateway does: that is the core's. A file here only converts types and calls it.

pub mod cli;
pub mod connect;
pub mod http;
mod links;
pub mod log;
pub mod mailboxes;
pub mod platform;
pub mod programs;
pub mod running;
pub mod sandbox;
pub mod secrets;
pub mod server;
pub mod source;
pub mod stdio;
pub mod store;
pub mod watch;
pub mod workers;
