//! Processes of this machine, as the system has them.

use std::collections::{BTreeMap, BTreeSet};

/// The processes below `parent`, with the names of their programs.
///
/// # Panics
/// Where there is no `/proc`.
#[must_use]
pub fn below(parent: u32) -> BTreeMap<u32, String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // `pid (program) state parent …`
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((start, rest)) = stat.rsplit_once(") ") else { continue };
        let mut rest = rest.split_whitespace();
        let (state, of) =
            (rest.next().unwrap_or_default(), rest.next().and_then(|of| of.parse::<u32>().ok()));
        if state != "Z"
            && let Some(of) = of
        {
            let name = start.split_once('(').map_or("", |(_, name)| name);
            all.push((pid, of, name.to_owned()));
        }
    }
    let mut found = BTreeMap::new();
    loop {
        let more: Vec<_> = all
            .iter()
            .filter(|(pid, of, _)| (*of == parent || found.contains_key(of)) && !found.contains_key(pid))
            .map(|(pid, _, name)| (*pid, name.clone()))
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Those of them whose program is the fixture.
#[must_use]
pub fn fixtures(parent: u32) -> BTreeSet<u32> {
    let all = below(parent).into_iter();
    all.filter(|(_, name)| name.starts_with("causeway-fixtur")).map(|(pid, _)| pid).collect()
}

/// Whether the process is there.
#[must_use]
pub fn is_there(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// How many files the process has open.
#[must_use]
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Sends the process a signal.
///
/// # Panics
/// When there is no such process.
pub fn signal(name: &str, pid: u32) {
    let done =
        std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}
