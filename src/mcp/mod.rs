//! The Model Context Protocol: both eras, both sides.

pub mod headers;
pub mod meta;
pub mod revision;
