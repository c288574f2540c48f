//! Causeway: an MCP gateway and LLM router that lives at the edge.

pub mod config;
pub mod fault;
pub mod gateway;
pub mod instance;
pub mod mcp;
pub mod platform;
pub mod wire;
