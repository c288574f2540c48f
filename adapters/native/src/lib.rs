//! Causeway on a laptop or a server.
//!
//! | module | what |
//! |---|---|
//! | [`platform`] | the host's half of the seam, put together from [`http`], [`store`], [`secrets`] and [`log`] |
//! | [`server`] | connections in, requests to the core, replies out |
//! | [`watch`] | sees when a file has changed |
//!
//! Nothing here decides what a gateway does: that is the core's. A file here only converts types and calls it.

pub mod http;
pub mod log;
pub mod platform;
pub mod secrets;
pub mod server;
pub mod store;
pub mod watch;
