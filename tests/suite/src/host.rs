//! Starting the gateway on the host that `CAUSEWAY_HOST` names: `native` (the default) or `cloudflare`.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
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
    Cloudflare(Cloudflare),
}

/// The `causeway` program with a configuration file that it watches.
#[derive(Debug)]
struct Native {
    folder: TempDir,
    process: Child,
    log: Arc<Mutex<String>>,
}

/// The Worker on a bare workerd. It serves nobody without a key, so that a configuration without any is given one,
/// which every request to it carries that has none of its own.
#[derive(Debug)]
struct Cloudflare {
    /// Held for its deletion at the end.
    _folder: TempDir,
    process: Child,
    log: Arc<Mutex<String>>,
}

/// Gives the suite's own access to gateways that would serve nobody without a key.
const ADMIN: &str = "the-administrator-of-this-suite";
const KEY: &str = "a-key-for-what-needs-none-elsewhere";

/// Gateways (`host:port`) whose callers need [`KEY`].
static KEYED: LazyLock<Mutex<HashMap<String, bool>>> = LazyLock::new(Mutex::default);

/// The key to send to `authority` if a request has none.
pub(crate) fn key_for(authority: &str) -> Option<&'static str> {
    KEYED.lock().unwrap().get(authority).copied().unwrap_or_default().then_some(KEY)
}

/// `config`, with a key if it has none, and whether that was so.
fn keyed(config: &Value) -> (Value, bool) {
    let mut config = config.clone();
    let without = config["keys"].as_object().is_none_or(serde_json::Map::is_empty);
    if without {
        config["keys"] = json!({"suite": {"hash": crate::hash(KEY)}});
    }
    (config, without)
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
            "cloudflare" => Self::start_cloudflare(&config, secrets).await,
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
            .envs(secrets.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway's program can be run");
        let (base, log) = listening(&mut process, Duration::from_secs(10)).await;
        Self { base, host: Host::Native(Native { folder, process, log }) }
    }

    async fn start_cloudflare(config: &Value, secrets: &[(&str, &str)]) -> Self {
        let folder = TempDir::with_prefix("causeway-suite").unwrap();
        let (config, without) = keyed(config);
        let file = folder.path().join("causeway.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hosts/workerd.mjs");
        let secrets = secrets.iter().chain(&[("CAUSEWAY_ADMIN_KEY", ADMIN)]);
        let mut process = Command::new("node")
            .arg(script)
            .arg("--front")
            .arg("--config")
            .arg(&file)
            .arg("--state")
            .arg(folder.path().join("state"))
            .args(secrets.map(|(name, value)| format!("--secret={name}={value}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node can be run");
        // Many start at the same time, and each takes a second of a processor.
        let (base, log) = listening(&mut process, Duration::from_secs(60)).await;
        KEYED.lock().unwrap().insert(base.trim_start_matches("http://").to_owned(), without);
        Self { base, host: Host::Cloudflare(Cloudflare { _folder: folder, process, log }) }
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

    /// Whether only this machine reaches it, which makes it take this machine's names and pages for its own.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.host, Host::Native(_))
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
            Host::Cloudflare(_) => {
                let (config, without) = keyed(config);
                push(self.authority(), &config.to_string());
                KEYED.lock().unwrap().insert(self.authority().to_owned(), without);
            }
        }
    }

    /// Replaces the configuration with `text`, which may be nonsense.
    pub fn configure_raw(&self, text: &str) {
        match &self.host {
            Host::Native(native) => std::fs::write(native.folder.path().join("causeway.json"), text).unwrap(),
            Host::Cloudflare(_) => push(self.authority(), text),
        }
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        match &self.host {
            Host::Native(native) => native.log.lock().unwrap().clone(),
            Host::Cloudflare(cloudflare) => cloudflare.log.lock().unwrap().clone(),
        }
    }

    /// The process id, on hosts where there is one.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        match &self.host {
            Host::Native(native) => native.process.id(),
            Host::Cloudflare(cloudflare) => cloudflare.process.id(),
        }
    }
}

/// Waits until `process` says where it listens, and goes on collecting what it logs.
async fn listening(process: &mut Child, patience: Duration) -> (String, Arc<Mutex<String>>) {
    let log = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut base = None;
    let started = tokio::time::timeout(patience, async {
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
    (base, log)
}

/// Pushes a configuration, which may be refused.
fn push(authority: &str, text: &str) {
    let mut connection = TcpStream::connect(authority).unwrap();
    let length = text.len();
    write!(
        connection,
        "PUT /admin/v1/config HTTP/1.1\r\nhost: {authority}\r\nx-api-key: {ADMIN}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 4"), "{answer}");
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
