//! A program and whatever it has started, by the keeper that holds them together.

/// Asks all of them to end.
#[cfg(unix)]
pub(super) fn ask_to_end(keeper: u32) {
    crate::sandbox::terminate(keeper);
}

/// Ends all of them.
#[cfg(unix)]
pub(super) fn end(keeper: u32) {
    crate::sandbox::kill(keeper);
}

/// There are no keepers here: the process is ended alone.
#[cfg(not(unix))]
pub(super) fn ask_to_end(_process: u32) {}

/// There are no keepers here: the process is ended alone.
#[cfg(not(unix))]
pub(super) fn end(_process: u32) {}
