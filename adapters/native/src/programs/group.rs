//! Process groups: a program and whatever it has started.

/// Asks all processes of the group to end.
#[cfg(unix)]
pub(super) fn ask_to_end(group: u32) {
    signal(group, rustix::process::Signal::TERM);
}

/// Ends all processes of the group.
#[cfg(unix)]
pub(super) fn end(group: u32) {
    signal(group, rustix::process::Signal::KILL);
}

#[cfg(unix)]
fn signal(group: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw) {
        // A group that is no more has nobody to signal.
        _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// There are no groups here: the process is ended alone.
#[cfg(not(unix))]
pub(super) fn ask_to_end(_group: u32) {}

/// There are no groups here: the process is ended alone.
#[cfg(not(unix))]
pub(super) fn end(_group: u32) {}
