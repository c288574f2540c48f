//! Servers of other people, as programs of their own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use causeway_fixture::free_port;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A server that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Program {
    port: u16,
    process: Child,
    said: Arc<Mutex<String>>,
}

impl Program {
    /// The server on the official SDK 2.x in `tests/servers`: modern only.
    pub async fn sdk() -> Self {
        let port = free_port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/sdk2.cjs");
        Self::node(port, &script, &port.to_string(), &[]).await
    }

    /// The server on the official Python SDK in `tests/servers`: legacy on the HTTP+SSE transport.
    ///
    /// # Panics
    /// When the tools are not there.
    pub async fn python_sse() -> Self {
        let python = std::env::var_os("CAUSEWAY_PYTHON").expect("CAUSEWAY_PYTHON: run scripts/setup");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/python_sse.py");
        let port = free_port();
        let mut command = Command::new(python);
        command.arg(&script).arg(port.to_string());
        Self::start(port, command, &script).await
    }

    /// The npm package `@modelcontextprotocol/server-everything`: legacy only. `transport` is `streamableHttp` or `sse`.
    pub async fn everything(transport: &str) -> Self {
        Self::everything_at(free_port(), transport).await
    }

    /// The same on `port`.
    pub async fn everything_at(port: u16, transport: &str) -> Self {
        Self::node(port, &everything(), transport, &[("PORT", &port.to_string())]).await
    }

    async fn node(port: u16, script: &Path, argument: &str, env: &[(&str, &str)]) -> Self {
        npm();
        let mut command = Command::new("node");
        command.arg(script).arg(argument).envs(env.iter().copied());
        Self::start(port, command, script).await
    }

    async fn start(port: u16, mut command: Command, script: &Path) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server's program can be run");
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, hearing) = (process.stderr.take().expect("stderr is piped"), said.clone());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                hearing.lock().expect("nobody panics with it").push_str(&format!("{line}\n"));
            }
        });
        let give_up = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < give_up, "{} does not listen", script.display());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Self { port, process, said }
    }

    /// What it has said on stderr.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once.
    ///
    /// # Panics
    /// When it cannot be ended.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("a process of ours can be ended");
    }

    /// The URL of `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// The script of the npm package `@modelcontextprotocol/server-everything`; its first argument is the transport.
///
/// # Panics
/// When the tools are not there.
#[must_use]
pub fn everything() -> PathBuf {
    npm().join("node_modules/@modelcontextprotocol/server-everything/dist/index.js")
}

/// Where the npm packages of the tests are.
///
/// # Panics
/// When the tools are not there: a server that cannot be started must not pass for one that works.
fn npm() -> PathBuf {
    let tools = std::env::var_os("CAUSEWAY_NPM");
    tools.expect("CAUSEWAY_NPM: run scripts/setup, and read env.sh as scripts/lib.sh does").into()
}
