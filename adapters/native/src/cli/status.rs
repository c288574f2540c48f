//! `causeway status`.

use http::Method;
use serde_json::Value;

use super::remote::Remote;
use super::table::table;
use super::{Outcome, print, print_json};

/// Show the servers of a running gateway and how they do.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show the servers of a running gateway: whether each answers, how it speaks, what it offers, \
    how long it takes and what went wrong last; and the links behind which servers are: whether each is connected, \
    for how long (or when it was last seen), with which companion, what it offers and how many calls it has carried."
)]
pub(super) struct Status {
    #[command(flatten)]
    remote: Remote,

    /// Print what the gateway answers, as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self) -> Outcome {
        let answer = self.remote.ask(Method::GET, "/status", None).await?;
        if self.json { print_json(&answer) } else { print(&shown(&answer)) }
    }
}

fn shown(answer: &Value) -> String {
    let mut lines = Vec::new();
    let head: Vec<_> = ["host", "version", "config"]
        .iter()
        .filter_map(|name| answer.get(name).map(|value| format!("{name} {}", cell(Some(value)))))
        .collect();
    if !head.is_empty() {
        lines.push(head.join("  "));
        lines.push(String::new());
    }
    let servers = answer.get("servers").and_then(Value::as_array);
    let rows: Vec<_> = servers
        .into_iter()
        .flatten()
        .map(|server| {
            // Zero: nothing was measured yet.
            let latency = server.get("latency_ms").and_then(Value::as_f64).filter(|ms| *ms > 0.0);
            [
                cell(server.get("name")),
                cell(server.get("state")),
                cell(server.get("eras")),
                cell(server.get("revision")),
                cell(server.get("tools")),
                latency.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
                cell(server.get("last_error")),
            ]
        })
        .collect();
    if rows.is_empty() {
        lines.push("no servers".to_owned());
    } else {
        lines.push(table(["SERVER", "STATE", "ERA", "REVISION", "TOOLS", "LATENCY", "LAST ERROR"], &rows));
    }
    let processes = processes(servers.map_or(&[], Vec::as_slice));
    if !processes.is_empty() {
        lines.push(String::new());
        lines.push(table(["PROGRAM", "PID", "STATE", "AGE", "CALLS", "MEMORY"], &processes));
    }
    for server in servers.into_iter().flatten() {
        let name = cell(server.get("name"));
        if let Some(restarts) = server.get("restarts").and_then(Value::as_u64).filter(|count| *count > 0) {
            let times = if restarts == 1 { "once" } else { "times" };
            let count = if restarts == 1 { String::new() } else { format!("{restarts} ") };
            lines.push(format!("{name}: a process has ended by itself {count}{times}"));
        }
        if let Some(why) = server.get("down").filter(|why| !why.is_null()) {
            lines.push(format!("{name}: {}", cell(Some(why))));
        }
        for warning in server.get("warnings").and_then(Value::as_array).into_iter().flatten() {
            lines.push(format!("{}: {}", cell(server.get("name")), cell(Some(warning))));
        }
    }
    let links = answer.get("links").and_then(Value::as_array);
    let rows: Vec<_> = links
        .into_iter()
        .flatten()
        .map(|link| {
            let at = if link.get("state").is_some_and(|state| state == "connected") {
                "since"
            } else {
                "last_seen"
            };
            [
                cell(link.get("name")),
                cell(link.get("state")),
                link.get(at).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), ago),
                cell(link.get("agent")),
                cell(link.get("servers")),
                cell(link.get("models")),
                cell(link.get("calls")),
            ]
        })
        .collect();
    if !rows.is_empty() {
        lines.push(String::new());
        lines.push(table(["LINK", "STATE", "FOR", "COMPANION", "SERVERS", "MODELS", "CALLS"], &rows));
    }
    for refused in links.into_iter().flatten().filter_map(|link| link.get("refused")?.as_array()).flatten() {
        lines.push(format!("not served: {}: {}", cell(refused.get("name")), cell(refused.get("reason"))));
    }
    for skipped in answer.get("skipped").and_then(Value::as_array).into_iter().flatten() {
        lines.push(format!("not served: {}: {}", cell(skipped.get("name")), cell(skipped.get("reason"))));
    }
    lines.join("\n")
}

/// How long it is since `at`, in milliseconds since the epoch.
fn ago(at: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    age(now.as_secs().saturating_sub(at / 1000))
}

/// The processes of servers that are programs.
fn processes(servers: &[Value]) -> Vec<[String; 6]> {
    let of = |server: &Value| {
        let name = cell(server.get("name"));
        let processes = server.get("processes").and_then(Value::as_array).cloned().unwrap_or_default();
        let row = move |process: Value| {
            let memory = process.get("memory").and_then(Value::as_u64);
            [
                name.clone(),
                cell(process.get("pid")),
                cell(process.get("state")),
                process.get("age_s").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), age),
                cell(process.get("calls")),
                memory.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
            ]
        };
        processes.into_iter().map(row)
    };
    servers.iter().flat_map(of).collect()
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A value as one line of text: what an upstream says may hold line breaks and terminal sequences.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => return "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join("+"),
        Some(other) => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_are_shown_as_a_table() {
        let answer = json!({
            "host": "native",
            "servers": [
                { "name": "github", "state": "up", "eras": ["modern", "legacy"], "revision": "2026-07-28", "tools": 3,
                  "latency_ms": 1.26 },
                { "name": "files", "state": "down", "eras": [], "latency_ms": 0.0, "last_error": "cannot connect\n\u{1b}[31m" },
            ],
            "links": [{ "name": "laptop", "state": "offline", "agent": "causeway/1", "servers": ["wiki", "notes"], "models": ["ollama"], "calls": 7,
                "refused": [{ "name": "x", "reason": "no such server" }] }],
            "skipped": [{ "name": "local", "reason": "needs a process" }],
        });
        assert_eq!(
            shown(&answer),
            "host native\n\n\
             SERVER  STATE  ERA            REVISION    TOOLS  LATENCY  LAST ERROR\n\
             github  up     modern+legacy  2026-07-28  3      1.3 ms   -\n\
             files   down   -              -           -      -        cannot connect  [31m\n\
             \n\
             LINK    STATE    FOR  COMPANION   SERVERS     MODELS  CALLS\n\
             laptop  offline  -    causeway/1  wiki+notes  ollama  7\n\
             not served: x: no such server\n\
             not served: local: needs a process"
        );
        assert_eq!(shown(&json!({})), "no servers");
    }

    #[test]
    fn processes_are_shown_below_the_servers() {
        let answer = json!({"servers": [{
            "name": "files", "state": "up", "eras": ["legacy"], "restarts": 2, "down": "it ended at start",
            "processes": [{ "pid": 7, "state": "idle", "age_s": 300, "calls": 12, "memory": 73_400_320 }],
        }]});
        let shown = shown(&answer);
        let below = shown.split_once("\n\n").map(|(_, below)| below);
        let expect = "PROGRAM  PID  STATE  AGE    CALLS  MEMORY\n\
             files    7    idle   5 min  12     70 MiB\n\
             files: a process has ended by itself 2 times\n\
             files: it ended at start";
        assert_eq!(below, Some(expect));
    }
}
