//! Codecs as incremental state machines. Nothing here performs input or output.

pub mod accept;
pub mod jsonrpc;
pub mod sealed;
pub mod sse;
