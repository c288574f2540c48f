//! Configuration: text to a validated, immutable [`Plan`].

pub mod glob;
pub mod plan;

pub use plan::Plan;
