//! What is not here, or not for this caller: the two look the same.

use super::serve::brief;
use crate::fault::{Fault, Kind};

/// The method does not exist; modern clients are told by HTTP 404 as well.
pub fn unknown_method(method: &str) -> Fault {
    Fault::new(Kind::UnknownMethod, format!("method {:?} is not known here", brief(method)))
}

/// The same for legacy clients, who would take a 404 for a lost session.
pub(super) fn unknown_method_legacy(method: &str) -> Fault {
    Fault::new(Kind::UnknownMethodLegacy, format!("method {:?} is not known here", brief(method)))
}

/// There is no such tool, prompt or resource, or it is not for this caller: the two look the same.
pub fn unknown_name(method: &str, name: &str) -> Fault {
    let what = match method {
        "tools/call" => "tool",
        "prompts/get" => "prompt",
        _ => "resource",
    };
    Fault::new(Kind::InvalidParams, format!("unknown {what} {:?}", brief(name)))
}
