//! A gateway that can be stopped and started again at the same address.

use std::process::Stdio;

use causeway_suite::host::program;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// `causeway serve` on an address of its own. Dropping it ends it.
pub struct Serve {
    folder: TempDir,
    address: String,
    /// Whether sessions outlive the process.
    keeps: bool,
    process: Option<Child>,
}

impl Serve {
    /// A gateway with `config` that does not run yet. With `keeps` it still knows its sessions when it runs again.
    pub fn new(config: &Value, keeps: bool) -> Self {
        let folder = TempDir::with_prefix("causeway-suite").unwrap();
        std::fs::write(folder.path().join("causeway.json"), config.to_string()).unwrap();
        let port = causeway_fixture::free_port();
        Self { folder, address: format!("127.0.0.1:{port}"), keeps, process: None }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Starts it and waits until it listens.
    pub async fn start(&mut self) {
        let state = if self.keeps { self.folder.path().join("state") } else { "memory".into() };
        let mut process = Command::new(program())
            .args(["serve", "--listen", &self.address, "--grace", "0", "--state"])
            .arg(state)
            .arg("--config")
            .arg(self.folder.path().join("causeway.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway's program can be run");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = String::new();
        loop {
            match lines.next_line().await {
                Ok(Some(line)) if line.starts_with("listening on ") => break,
                Ok(Some(line)) => said.push_str(&line),
                _ => panic!("the gateway did not start: {said}"),
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.process = Some(process);
    }

    /// Stops it at once and waits until it is gone.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }
}
