//! Starting the gateway on the host that `CAUSEWAY_HOST` names: `native` (the default) or `cloudflare`.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A running gateway. Dropping it ends it.
#[derive(Debug)]
pub struct Gateway {
    base: String,
    host: Host,
}

/// What keeps a gateway running, and how its configuration is replaced. A new host is a variant here.
#[derive(Debug)]
enum Host {
    Native(Native),
}

/// The `causeway` program with a configuration file that it watches.
#[derive(Debug)]
struct Native {
    folder: TempDir,
    process: Child,
    log: Arc<Mutex<String>>,
}

impl Gateway {
    /// Starts the gateway with `config`.
    pub async fn start(config: Value) -> Self {
        Self::start_with(config, &[]).await
    }

    /// Starts the gateway with `config` and values for its `${NAME}`s.
    ///
    /// # Panics
    /// When the gateway does not start: then no case means anything.
    pub async fn start_with(config: Value, secrets: &[(&str, &str)]) -> Self {
        match std::env::var("CAUSEWAY_HOST").as_deref().unwrap_or("native") {
            "native" => Self::start_native(&config, secrets).await,
            other => panic!("this suite cannot start the host {other:?}"),
        }
    }

    async fn start_native(config: &Value, secrets: &[(&str, &str)]) -> Self {
        let folder = TempDir::with_prefix("causeway-suite").unwrap();
        let file = folder.path().join("causeway.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut process = Command::new(program())
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .current_dir(folder.path())
            // State of its own: gateways that run side by side must not meet in a common folder.
            .env("XDG_STATE_HOME", folder.path())
            .envs(secrets.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway's program can be run");
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut base = None;
        let started = tokio::time::timeout(Duration::from_secs(10), async {
            while let Ok(Some(line)) = lines.next_line().await {
                log.lock().unwrap().push_str(&format!("{line}\n"));
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let url = rest.split_whitespace().next().unwrap_or_default();
                    base = Some(url.trim_end_matches("/mcp").trim_end_matches('/').to_owned());
                    break;
                }
            }
        });
        let _ = started.await;
        let Some(base) = base else { panic!("the gateway did not start:\n{}", log.lock().unwrap()) };
        let more = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                more.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self { base, host: Host::Native(Native { folder, process, log }) }
    }

    /// The URL of `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// Replaces the configuration. It takes effect a moment later: see [`eventually`].
    pub fn configure(&self, config: &Value) {
        match &self.host {
            Host::Native(native) => {
                // As careful tools write: readers see the old file or the new one.
                let new = native.folder.path().join("causeway.json.new");
                std::fs::write(&new, config.to_string()).unwrap();
                std::fs::rename(new, native.folder.path().join("causeway.json")).unwrap();
            }
        }
    }

    /// Replaces the configuration with `text`, which may be nonsense.
    pub fn configure_raw(&self, text: &str) {
        match &self.host {
            Host::Native(native) => std::fs::write(native.folder.path().join("causeway.json"), text).unwrap(),
        }
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        match &self.host {
            Host::Native(native) => native.log.lock().unwrap().clone(),
        }
    }

    /// The process id, on hosts where there is one.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        match &self.host {
            Host::Native(native) => native.process.id(),
        }
    }
}

/// The program under test: `CAUSEWAY_BIN`, or what was built next to this test.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("CAUSEWAY_BIN") {
        return program.into();
    }
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join("causeway");
    assert!(built.exists(), "build the gateway first (cargo build -p causeway-native) or set CAUSEWAY_BIN");
    built
}

/// Asks until the answer is yes, for at most ten seconds.
pub async fn eventually(mut question: impl AsyncFnMut() -> bool) -> bool {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !question().await {
        if Instant::now() > give_up {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    true
}
