//! A server and all that it started, found and measured through /proc.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::orders::MARK;

/// What a guard calls itself.
const GUARD: &str = "causeway-guard";

/// What some processes use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// Processes and their threads.
    pub(super) tasks: u64,
    /// Bytes of memory that is theirs. What two of them share after a fork counts twice.
    pub(super) memory: u64,
    pub(super) cpu: Duration,
}

/// What `root` has started, and what that started in turn; not `root` itself, and no more than `most`.
pub(super) fn descendants(root: u32, most: usize) -> Vec<u32> {
    let (mut found, mut left) = (Vec::new(), vec![root]);
    let mut seen = BTreeSet::from([root]);
    while let Some(pid) = left.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let Ok(children) = fs::read_to_string(thread.path().join("children")) else { continue };
            for child in children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
                if seen.insert(child) {
                    found.push(child);
                    left.push(child);
                }
            }
        }
        if found.len() >= most {
            break;
        }
    }
    found
}

/// Whether this is one of our own guards.
pub(super) fn is_guard(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == GUARD)
}

/// What these processes use.
pub(super) fn measure(pids: &[u32]) -> Use {
    let mut sum = Use::default();
    let tick = rustix::param::clock_ticks_per_second().max(1);
    for pid in pids {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name may hold anything, parentheses as well.
        let Some((_, fields)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<u64> =
            fields.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |i: usize| fields.get(i).copied().unwrap_or(0);
        let ticks: u64 = (11..=14).map(field).sum();
        sum.cpu += Duration::from_millis(ticks.saturating_mul(1000) / tick);
        sum.tasks += field(17).max(1);
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        sum.memory += kilobytes(&status, &["RssAnon:", "RssShmem:", "VmSwap:"]) * 1024;
    }
    sum
}

/// The memory of these processes, with what they share counted once. It takes the system some time.
pub(super) fn exact_memory(pids: &[u32]) -> Option<u64> {
    let mut sum = 0;
    for pid in pids {
        match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(rollup) => sum += kilobytes(&rollup, &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]) * 1024,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
            Err(_) => {}
        }
    }
    Some(sum)
}

fn kilobytes(text: &str, names: &[&str]) -> u64 {
    let values = text.lines().filter_map(|line| {
        let value = names.iter().find_map(|name| line.strip_prefix(name))?;
        value.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    values.sum()
}

/// Sends `signal` to all of them.
pub(super) fn signal(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        _ = kill_process(pid, signal);
    }
}

/// Ends whoever carries `mark` in the environment that it was started with, until nobody does.
pub(super) fn end_marked(mark: &str) {
    let mark = format!("{MARK}={mark}");
    let (until, mut quiet) = (Instant::now() + Duration::from_secs(10), 0);
    while quiet < 3 && Instant::now() < until {
        let marked = marked(mark.as_bytes());
        quiet = if marked.is_empty() { quiet + 1 } else { 0 };
        signal(&marked, Signal::KILL);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn marked(mark: &[u8]) -> Vec<u32> {
    let own = std::process::id();
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == mark)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_children_are_found_and_measured() {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "sleep 60 & sleep 60 & wait"]);
        let mut shell = shell.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let mut found = Vec::new();
        while found.len() < 2 && Instant::now() < until {
            found = descendants(shell.id(), 100);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(found.len(), 2);
        // A child that is still becoming what it will be grows and shrinks between two looks.
        let mut used = measure(&found);
        while exact_memory(&found).unwrap() > used.memory && Instant::now() < until {
            used = measure(&found);
        }
        assert_eq!(used.tasks, 2);
        assert!(used.memory > 0 && used.memory < 64 << 20, "{used:?}");
        assert!(exact_memory(&found).unwrap() <= used.memory);
        signal(&found, Signal::KILL);
        shell.wait().unwrap();
        assert_eq!(descendants(shell.id(), 100), Vec::<u32>::new());
    }
}
