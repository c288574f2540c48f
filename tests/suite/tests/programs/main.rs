//! Servers that are programs, run by the gateway: how their processes are kept, and what happens when they misbehave.
//!
//! Only hosts that run processes have these cases; the others leave such servers out by name.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod broken;
mod kept;
mod real;

use std::collections::BTreeSet;

use causeway_suite::host::{fixture_program, skip};
use causeway_suite::{Gateway, Host, Request};
use serde_json::{Value, json};

/// Whether the host runs no processes.
pub fn left_out(case: &str) -> bool {
    let left_out = Host::chosen() != Host::Native;
    if left_out {
        skip(case, "it runs no processes");
    }
    left_out
}

/// The fixture as a stdio server.
pub fn fixture(arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["--stdio"].iter().chain(arguments).copied().collect();
    json!({"command": fixture_program(), "args": arguments})
}

/// A gateway in front of one program.
pub async fn gateway(server: Value) -> Gateway {
    Gateway::start(json!({"mcpServers": {"one": server}})).await
}

/// What `/status` says of the server `name`.
pub async fn status(gateway: &Gateway, name: &str) -> Value {
    let text = Request::new("GET", gateway.url("/status")).send().await.text().await;
    let all: Value = serde_json::from_str(&text).unwrap();
    all["servers"].as_array().unwrap().iter().find(|server| server["name"] == name).unwrap().clone()
}

/// The processes of the server `name`, as `/status` has them.
pub async fn processes(gateway: &Gateway, name: &str) -> Vec<u64> {
    let status = status(gateway, name).await;
    status["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|process| process["pid"].as_u64().unwrap())
        .collect()
}

/// The processes below `parent` whose program is the fixture, as the system has them.
pub fn children(parent: u32) -> BTreeSet<u32> {
    let mut parents = Vec::new();
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
            parents.push((pid, of, start.contains("(causeway-fixtur")));
        }
    }
    let mut below = BTreeSet::from([parent]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, of, _)| below.contains(of) && !below.contains(pid))
            .map(|(pid, ..)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        below.extend(more);
    }
    parents.iter().filter(|(pid, _, fixture)| *fixture && below.contains(pid)).map(|(pid, ..)| *pid).collect()
}

/// Whether the process is there.
pub fn is_there(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Sends the process a signal.
pub fn signal(name: &str, pid: u32) {
    let done =
        std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}
