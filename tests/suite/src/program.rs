//! Servers of other people, as programs of their own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A server that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Program {
    port: u16,
    _process: Child,
}

impl Program {
    /// The server on the official SDK 2.x in `tests/servers`: modern only.
    pub async fn sdk() -> Self {
        let port = free_port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/sdk2.cjs");
        Self::node(port, &script, &port.to_string(), &[]).await
    }

    /// The npm package `@modelcontextprotocol/server-everything`: legacy only. `transport` is `streamableHttp` or `sse`.
    pub async fn everything(transport: &str) -> Self {
        let script = npm().join("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
        let port = free_port();
        Self::node(port, &script, transport, &[("PORT", &port.to_string())]).await
    }

    async fn node(port: u16, script: &Path, argument: &str, env: &[(&str, &str)]) -> Self {
        npm();
        let process = Command::new("node")
            .arg(script)
            .arg(argument)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node is on the PATH");
        let give_up = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < give_up, "{} does not listen", script.display());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Self { port, _process: process }
    }

    /// The URL of `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// Where the npm packages of the tests are.
///
/// # Panics
/// When the tools are not there: a server that cannot be started must not pass for one that works.
fn npm() -> PathBuf {
    let tools = std::env::var_os("CAUSEWAY_NPM");
    tools.expect("CAUSEWAY_NPM: run scripts/setup, and read env.sh as scripts/lib.sh does").into()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
