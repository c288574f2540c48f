//! Causeway: an MCP gateway and LLM router that lives at the edge.

pub mod admin;
pub mod auth;
pub mod config;
pub mod fault;
pub mod gateway;
pub mod inbound;
pub mod instance;
pub mod mcp;
pub mod platform;
pub mod relay;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wire;
