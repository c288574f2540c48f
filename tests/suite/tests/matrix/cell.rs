//! One cell of the matrix: who meets whom where, and how its rows are run.

use std::sync::Arc;
use std::time::Duration;

use causeway_fixture::{Fixture, Mode, Options};
use causeway_suite::behind::{is_behind_link, is_behind_stdio};
use causeway_suite::party::{Able, Party, Target};
use causeway_suite::program::Program;
use causeway_suite::{Gateway, Host};
use serde_json::json;

use crate::matrix::behind::Behind;
use crate::matrix::table::{Mark, Running};
use crate::matrix::{rows, skips};

/// What a row may take.
const ROW: Duration = Duration::from_secs(25);

/// The server behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Legacy,
    /// Legacy, and closing each stream of a call after its first event: the client has to come back for the rest.
    Polling,
    Modern,
    /// 2024-11-05 on the HTTP+SSE transport.
    Sse,
    /// Modern, on the official SDK.
    Sdk,
    /// Legacy, `server-everything` of npm, with rows of its own.
    Everything,
    /// The same on the HTTP+SSE transport.
    EverythingSse,
}

/// Where client and server meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Without a gateway.
    Direct,
    /// At `/mcp/{server}`.
    Own,
    /// At `/mcp`, where another server is merged with it.
    Merged,
}

/// What rows get.
pub struct Cell {
    pub client: &'static str,
    pub server: Server,
    pub place: Where,
    pub target: Target,
    pub behind: Behind,
    _gateway: Option<Gateway>,
    _other: Option<Fixture>,
}

impl Cell {
    async fn start(client: &'static str, server: Server, place: Where) -> Self {
        let fixture = async |options: Options| Behind::Fixture(Fixture::start(options.matrix()).await);
        let behind = match server {
            Server::Legacy => fixture(Options::legacy("one")).await,
            Server::Polling => fixture(Options { polling: true, ..Options::legacy("one") }).await,
            Server::Modern => fixture(Options::modern("one")).await,
            Server::Sse => fixture(Options::sse("one")).await,
            Server::Sdk => Behind::Program { program: Program::sdk().await, path: "/mcp", tells: true },
            Server::Everything if place != Where::Direct && is_behind_stdio() => Behind::EverythingOnStdio,
            Server::Everything => {
                let program = Program::everything("streamableHttp").await;
                Behind::Program { program, path: "/mcp", tells: false }
            }
            Server::EverythingSse => {
                let program = Program::everything("sse").await;
                Behind::Program { program, path: "/sse", tells: false }
            }
        };
        if place == Where::Direct {
            let target = Target::new(behind.url());
            return Self { client, server, place, target, behind, _gateway: None, _other: None };
        }
        // Merged with a server of the other era, which must not get in the way.
        let other = match server {
            Server::Legacy | Server::Polling | Server::Sse | Server::Everything | Server::EverythingSse => {
                Options::modern("two")
            }
            Server::Modern | Server::Sdk => Options::legacy("two"),
        };
        let other = Fixture::start(Options { mode: Mode::Many(2), ..other }).await;
        let mut one = behind.entry();
        if matches!(server, Server::Sse | Server::EverythingSse) {
            one["type"] = json!("sse");
        }
        let config = json!({"mcpServers": {"one": one, "two": {"url": other.url()}}});
        let gateway = Gateway::start(config).await;
        let path = match (client, place) {
            ("2024-11-05", Where::Merged) => "/sse",
            ("2024-11-05", _) => "/sse/one",
            (_, Where::Merged) => "/mcp",
            (_, _) => "/mcp/one",
        };
        let target = Target::new(gateway.url(path));
        Self { client, server, place, target, behind, _gateway: Some(gateway), _other: Some(other) }
    }

    /// Whether the server is of the modern era.
    pub fn serves_modern(&self) -> bool {
        matches!(self.server, Server::Modern | Server::Sdk)
    }

    pub fn is_modern(&self) -> bool {
        self.client == "2026-07-28"
    }

    /// What the tool or prompt `name` of the server is called here.
    pub fn name(&self, name: &str) -> String {
        if self.place == Where::Merged { format!("one__{name}") } else { name.to_owned() }
    }

    /// A client that can do everything.
    pub async fn connect(&self) -> Result<Party, String> {
        self.connect_as(Able::all(self.client)).await
    }

    pub async fn connect_as(&self, able: Able) -> Result<Party, String> {
        Party::connect(&self.target, self.client, able).await
    }
}

/// What is between client and server, in words.
fn through(place: Where) -> String {
    if place == Where::Direct {
        return "nothing".to_owned();
    }
    let link = if is_behind_link() { ", a link" } else { "" };
    let stdio = if is_behind_stdio() { ", stdio" } else { "" };
    format!("{:?}{link}{stdio}", Host::chosen())
}

/// Runs every row that exists here.
pub async fn run(client: &'static str, server: Server, place: Where) {
    if let Some(reason) = skips::cell(server, place) {
        println!("{place:?} {client} -> {server:?} is left out: {reason}");
        return;
    }
    let name = format!("{place:?} {client} -> {server:?}, through {}", through(place));
    let running = Running::begin(&name);
    let cell = Arc::new(Cell::start(client, server, place).await);
    let rows = rows::of(server);
    let mut marks = Vec::new();
    let only = std::env::var("CAUSEWAY_ROW").ok();
    for (row, work) in rows {
        if only.as_deref().is_some_and(|only| !only.split(',').any(|only| only == *row)) {
            marks.push(Mark::Skipped("another row was asked for by CAUSEWAY_ROW"));
            continue;
        }
        if let Some(reason) = skips::reason(row, &cell) {
            marks.push(Mark::Skipped(reason));
            continue;
        }
        let task = tokio::spawn(work(cell.clone()));
        let stop = task.abort_handle();
        let mark = match tokio::time::timeout(ROW, task).await {
            Ok(Ok(Ok(()))) => Mark::Held,
            Ok(Ok(Err(problem))) => Mark::Failed(problem),
            Ok(Err(panic)) => Mark::Failed(panic.to_string()),
            Err(_) => Mark::Failed(format!("nothing came of it within {ROW:?}")),
        };
        stop.abort();
        let mark = match (mark, skips::known(row, &cell)) {
            (Mark::Failed(_), Some(reason)) => Mark::Known(reason),
            (Mark::Held, Some(_)) => {
                Mark::Failed("it holds, but skips.rs says that it is known to fail".into())
            }
            (mark, _) => mark,
        };
        cell.behind.forget().await;
        marks.push(mark);
    }
    let mut failures = Vec::new();
    for ((row, _), mark) in rows.iter().zip(&marks) {
        match mark {
            Mark::Held => {}
            Mark::Failed(problem) => failures.push(format!("  {row}: {problem}")),
            Mark::Known(reason) => println!("{name}: {row} is known to fail: {reason}"),
            Mark::Skipped(reason) => println!("{name}: {row} is left out: {reason}"),
        }
    }
    running.end(rows, marks);
    assert!(failures.is_empty(), "{name}: {} rows fail\n{}\n", failures.len(), failures.join("\n"));
}
