//! Real servers: what people put into their `mcp.json`.

use std::path::{Path, PathBuf};

use causeway_suite::{Client, ERAS, Gateway, with};
use serde_json::{Value, json};

use super::left_out;

fn npm(script: &str) -> PathBuf {
    let tools = std::env::var_os("CAUSEWAY_NPM").expect("CAUSEWAY_NPM: run scripts/setup");
    Path::new(&tools).join("node_modules").join(script)
}

fn python() -> PathBuf {
    std::env::var_os("CAUSEWAY_PYTHON").expect("CAUSEWAY_PYTHON: run scripts/setup").into()
}

async fn gateway(server: Value) -> Gateway {
    // On a machine that is busy they take their time to start.
    let server = with(server, json!({"timeouts": {"first_byte": "3m"}}));
    Gateway::start(json!({"mcpServers": {"one": server}})).await
}

/// The text of a tool's answer.
async fn says(client: &Client, tool: &str, arguments: Value) -> String {
    client.tool(tool, arguments).await.text().to_owned()
}

#[tokio::test]
async fn everything_answers_clients_of_both_eras() {
    if left_out("server-everything") {
        return;
    }
    let script = npm("@modelcontextprotocol/server-everything/dist/index.js");
    let gateway = gateway(json!({"command": "node", "args": [script]})).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        assert_eq!(says(&client, "one__echo", json!({"message": "hi"})).await, "Echo: hi", "{era:?}");
        assert!(client.tool_names().await.contains(&"one__echo".to_owned()), "{era:?}");
        let prompts = client.all("prompts/list", "prompts").await;
        assert!(!prompts.is_empty(), "{era:?}");
        let resources = client.all("resources/list", "resources").await;
        let uri = resources[0]["uri"].clone();
        let read = client.ask("resources/read", json!({"uri": uri})).await;
        assert!(read.result()["contents"][0].is_object(), "{era:?}");
    }
}

#[tokio::test]
async fn npx_runs_what_is_installed() {
    if left_out("npx") {
        return;
    }
    // As in everybody's file; the package is found in the folder, so nothing is fetched.
    let folder = std::env::var_os("CAUSEWAY_NPM").expect("CAUSEWAY_NPM: run scripts/setup");
    let server = json!({
        "command": "npx",
        "args": ["-y", "@modelcontextprotocol/server-everything"],
        "cwd": folder.to_str(),
        "env": {"npm_config_offline": "true", "npm_config_update_notifier": "false"},
    });
    let gateway = gateway(server).await;
    let client = Client::connect(&gateway, "/mcp/one", ERAS[0]).await;
    assert_eq!(says(&client, "echo", json!({"message": "hi"})).await, "Echo: hi");
}

#[tokio::test]
async fn filesystem_reads_and_writes_its_folder() {
    if left_out("server-filesystem") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::write(root.join("a.txt"), "what is in it").unwrap();
    let script = npm("@modelcontextprotocol/server-filesystem/dist/index.js");
    let server = json!({"command": "node", "args": [script, root], "sandbox": {"write": [root]}});
    let gateway = gateway(server).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp/one", era).await;
        let listed = says(&client, "list_directory", json!({"path": root})).await;
        assert!(listed.contains("a.txt"), "{era:?}: {listed}");
        let read = says(&client, "read_text_file", json!({"path": root.join("a.txt")})).await;
        assert_eq!(read, "what is in it", "{era:?}");
        let path = root.join(format!("{era:?}.txt"));
        says(&client, "write_file", json!({"path": path, "content": "new"})).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new", "{era:?}");
    }
}

#[tokio::test]
async fn memory_is_one_for_all_clients() {
    if left_out("server-memory") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = npm("@modelcontextprotocol/server-memory/dist/index.js");
    let file = folder.path().join("memory.jsonl");
    let server = json!({
        "command": "node",
        "args": [script],
        "env": {"MEMORY_FILE_PATH": file},
        "processes": "shared",
        "sandbox": {"write": [folder.path()]},
    });
    let gateway = gateway(server).await;
    let ann = Client::connect(&gateway, "/mcp/one", ERAS[0]).await;
    let entity = json!({"name": "Causeway", "entityType": "gateway", "observations": ["is quick"]});
    ann.tool("create_entities", json!({"entities": [entity]})).await;
    let bob = Client::connect(&gateway, "/mcp/one", ERAS[1]).await;
    let graph = says(&bob, "read_graph", json!({})).await;
    assert!(graph.contains("is quick"), "{graph}");
    assert_eq!(super::processes(&gateway, "one").await.len(), 1);
}

#[tokio::test]
async fn time_tells_the_time() {
    if left_out("mcp-server-time") {
        return;
    }
    let gateway = gateway(json!({"command": python(), "args": ["-m", "mcp_server_time"]})).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        let told = says(&client, "one__get_current_time", json!({"timezone": "Asia/Tokyo"})).await;
        assert!(told.contains("+09:00"), "{era:?}: {told}");
    }
}

#[tokio::test]
async fn git_shows_a_repository() {
    if left_out("mcp-server-git") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let git =
            std::process::Command::new("git").args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(git.status.success(), "{git:?}");
    };
    git(&["init", "-q"]);
    git(&[
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "the first of all",
    ]);
    let arguments = json!(["-m", "mcp_server_git", "--repository", folder.path()]);
    let server = json!({"command": python(), "args": arguments, "sandbox": {"write": [folder.path()]}});
    let gateway = gateway(server).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp/one", era).await;
        let log = says(&client, "git_log", json!({"repo_path": folder.path()})).await;
        assert!(log.contains("the first of all"), "{era:?}: {log}");
    }
}

#[tokio::test]
async fn a_server_of_the_rust_sdk_answers_clients_of_both_eras() {
    if left_out("rmcp") {
        return;
    }
    let program = causeway_suite::host::rmcp_program();
    let gateway = gateway(json!({"command": program, "args": ["stdio"]})).await;
    for era in ERAS {
        let client = Client::connect(&gateway, "/mcp", era).await;
        assert_eq!(says(&client, "one__echo", json!({"text": "hi"})).await, "hi", "{era:?}");
    }
}
