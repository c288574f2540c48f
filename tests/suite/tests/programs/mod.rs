//! Servers that are programs, run by the gateway: how their processes are kept, and what happens when they misbehave.
//!
//! Only hosts that run processes have these cases; the others leave such servers out by name.

mod broken;
mod kept;
mod real;

use causeway_suite::host::{fixture_program, skip};
pub use causeway_suite::processes::{below, fixtures as children, is_there, signal};
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
