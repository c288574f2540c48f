//! Starting the gateway on the host that `CAUSEWAY_HOST` names: `native` (the default), `cloudflare` or `spin`.
//!
//! Each host is a program that takes a configuration file, watches it, and says `listening on URL` on stderr. The
//! Worker's is `tests/hosts/workerd.mjs` and the component's `tests/hosts/spin.mjs`, which push what changes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_fixture::free_port;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::behind::{LINK, LINK_KEY, has_work, is_behind_link, offered, written};
use crate::link::Companion;

/// The key of callers that have none of their own, on hosts that serve nobody without.
const KEY: &str = "key-of-the-suite";

/// Gateways by `host:port` that need [`KEY`].
static KEYED: Mutex<Option<HashMap<String, &'static str>>> = Mutex::new(None);

/// The key that a request to `url` needs if it brings none.
pub(crate) fn key_for(url: &str) -> Option<&'static str> {
    let authority = url.trim_start_matches("http://").split('/').next()?;
    KEYED.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(authority).copied()
}

/// Where the gateway runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The `causeway` program.
    Native,
    /// The Worker, on workerd.
    Cloudflare,
    /// The component, on what stands in for Spin, or on Spin itself.
    Spin,
}

impl Host {
    /// The host that `CAUSEWAY_HOST` names.
    ///
    /// # Panics
    /// When the suite knows no such host.
    #[must_use]
    pub fn chosen() -> Self {
        match std::env::var("CAUSEWAY_HOST").as_deref().unwrap_or("native") {
            "native" => Self::Native,
            "cloudflare" => Self::Cloudflare,
            "spin" => Self::Spin,
            other => panic!("this suite cannot start the host {other:?}"),
        }
    }

    /// Whether only programs on this machine can reach the gateway: then it serves without keys, and watches out
    /// for browsers that were tricked into calling it.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self == Self::Native
    }

    /// What starts the gateway on `port`.
    fn command(
        self,
        folder: &Path,
        secrets: &[(String, String)],
        port: u16,
        instances: Instances,
    ) -> Command {
        let file = folder.join("causeway.json");
        match self {
            Self::Native => {
                let mut command = Command::new(program());
                command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--config"]).arg(file);
                // State of its own: gateways that run side by side must not meet in a common folder.
                command.env("XDG_STATE_HOME", folder);
                command.envs(secrets.iter().map(|(name, value)| (name, value)));
                command
            }
            Self::Cloudflare | Self::Spin => {
                let (runner, own): (_, &[&str]) = match self {
                    Self::Cloudflare => ("../hosts/workerd.mjs", &["--front"]),
                    _ => ("../hosts/spin.mjs", &[]),
                };
                let mut command = Command::new("node");
                command
                    .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(runner))
                    .args(own)
                    .args(["--port", &port.to_string()])
                    .arg("--config")
                    .arg(file)
                    .arg("--state")
                    .arg(folder.join("state"));
                match (self, instances) {
                    (Self::Cloudflare, Instances::Two) => _ = command.arg("--twice"),
                    (Self::Spin, Instances::Lasting) => _ = command.args(["--idle", "600"]),
                    _ => {}
                }
                for (name, value) in secrets {
                    command.arg("--secret").arg(format!("{name}={value}"));
                }
                command
            }
        }
    }
}

/// What is asked of the host's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instances {
    /// As the host has them.
    Usual,
    /// Two at once.
    Two,
    /// Ones that stay though they are idle.
    Lasting,
}

/// A running gateway. Dropping it ends it.
#[derive(Debug)]
pub struct Gateway {
    base: String,
    host: Host,
    folder: TempDir,
    secrets: Vec<(String, String)>,
    process: Child,
    log: Arc<Mutex<String>>,
    /// Whether callers without a key of their own use [`KEY`].
    keyed: bool,
    companion: Option<Companion>,
    instances: Instances,
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
        Self::launched(config, secrets, Instances::Usual).await
    }

    /// Starts the gateway with `config` in two instances, on hosts that can be made to have two: see
    /// [`Self::second_url`].
    pub async fn start_twice(config: Value) -> Self {
        Self::launched(config, &[], Instances::Two).await
    }

    /// Starts the gateway with `config`, for a case about what an instance remembers from one request to the next: Spin
    /// forgets one that has been idle for a second, which a busy machine may take between two steps of a case.
    pub async fn start_remembering(config: Value) -> Self {
        Self::launched(config, &[], Instances::Lasting).await
    }

    async fn launched(config: Value, secrets: &[(&str, &str)], instances: Instances) -> Self {
        let host = Host::chosen();
        let keyed = !host.is_loopback() && config["keys"].is_null();
        let folder = TempDir::with_prefix("causeway-suite").unwrap();
        let behind = is_behind_link() && has_work(&config);
        std::fs::write(folder.path().join("causeway.json"), written(&config, keyed.then_some(KEY), behind))
            .unwrap();
        let secrets: Vec<(String, String)> =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let log = Arc::default();
        let (process, base) = launch(host, folder.path(), &secrets, (free_port(), instances), &log).await;
        let mut gateway =
            Self { base, host, folder, secrets, process, log, keyed, companion: None, instances };
        if keyed {
            let mut known = KEYED.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.get_or_insert_default();
            known.insert(gateway.authority().to_owned(), KEY);
            known.insert(gateway.second_url("").trim_start_matches("http://").to_owned(), KEY);
        }
        if behind {
            let key = if keyed { Some(KEY) } else { config["keys"].is_object().then_some(LINK_KEY) };
            let companion =
                Companion::begin(&gateway.base, LINK, key, &offered(&config), &[], &gateway.secrets);
            companion.until_connected(1).await;
            gateway.companion = Some(companion);
        }
        gateway
    }

    /// Kills the gateway, which gets no chance to save anything, and starts it again at the same place with the same
    /// state.
    ///
    /// # Panics
    /// When it does not start again.
    pub async fn restart(&mut self) {
        self.process.kill().await.expect("a process of ours can be killed");
        let port = self.authority().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let port = port.expect("a gateway has a port");
        let (process, _) =
            launch(self.host, self.folder.path(), &self.secrets, (port, self.instances), &self.log).await;
        self.process = process;
        if let Some(companion) = &self.companion {
            companion.until_connected(companion.connections() + 1).await;
        }
    }

    /// How many kilobytes of memory its process has resident; on workerd, workerd's, and so for Spin.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        let own = self.process.id()?;
        let process = match self.host {
            Host::Native => own,
            Host::Cloudflare => child_of(own, "workerd")?,
            Host::Spin => child_of(own, "spin")?,
        };
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// The URL of `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The URL of `path` at the second instance; where there is but one, or whoever asks cannot choose, at that.
    #[must_use]
    pub fn second_url(&self, path: &str) -> String {
        let log = self.log();
        let second = log.lines().rev().find_map(|line| line.strip_prefix("and on "));
        format!("{}{path}", second.unwrap_or(&self.base))
    }

    /// `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The key of callers that have none of their own, where one is needed.
    #[must_use]
    pub fn key(&self) -> Option<&'static str> {
        self.keyed.then_some(KEY)
    }

    /// Where it runs.
    #[must_use]
    pub fn host(&self) -> Host {
        self.host
    }

    /// Replaces the configuration. It takes effect a moment later: see [`eventually`].
    pub fn configure(&self, config: &Value) {
        // As careful tools write: readers see the old file or the new one.
        let new = self.folder.path().join("causeway.json.new");
        std::fs::write(&new, written(config, self.key(), self.companion.is_some())).unwrap();
        std::fs::rename(new, self.folder.path().join("causeway.json")).unwrap();
        if let Some(companion) = &self.companion {
            companion.configure(&offered(config));
        }
    }

    /// Replaces the configuration with `text`, which may be nonsense.
    pub fn configure_raw(&self, text: &str) {
        std::fs::write(self.folder.path().join("causeway.json"), text).unwrap();
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The id of the process that started with it.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process.id()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A runner ends what it runs, too, at once only if it is asked.
        if self.host != Host::Native
            && let Some(id) = self.process.id()
        {
            let _ = std::process::Command::new("kill").arg(id.to_string()).status();
            for _ in 0..100 {
                if !matches!(self.process.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Starts the gateway in `folder` and waits until it listens. Gives its base URL.
async fn launch(
    host: Host,
    folder: &Path,
    secrets: &[(String, String)],
    (port, instances): (u16, Instances),
    log: &Arc<Mutex<String>>,
) -> (Child, String) {
    let mut process = host
        .command(folder, secrets, port, instances)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the gateway's program can be run");
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut base = None;
    let started = tokio::time::timeout(Duration::from_secs(60), async {
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
    (process, base)
}

/// The child of the process `parent` whose program is called `name`.
fn child_of(parent: u32, name: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|process| {
        // `pid (program) state parent …`
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let Some((start, rest)) = stat.rsplit_once(") ") else { return false };
        let of = rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok());
        start.contains(name) && of == Some(parent)
    })
}

/// The fixture as a program: `CAUSEWAY_FIXTURE`, or what was built next to this test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn fixture_program() -> PathBuf {
    built("causeway-fixture", "CAUSEWAY_FIXTURE", "cargo build -p causeway-fixture")
}

/// The server of the Rust SDK: `CAUSEWAY_RMCP`, or what was built next to this test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn rmcp_program() -> PathBuf {
    built("causeway-rmcp", "CAUSEWAY_RMCP", "cargo build -p causeway-rmcp")
}

/// The program under test: `CAUSEWAY_BIN`, or what was built next to this test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn program() -> PathBuf {
    built("causeway", "CAUSEWAY_BIN", "cargo build -p causeway-native")
}

fn built(name: &str, variable: &str, how: &str) -> PathBuf {
    if let Some(program) = std::env::var_os(variable) {
        return program.into();
    }
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join(name);
    assert!(built.exists(), "build {name} first ({how}) or set {variable}");
    built
}

/// Says on stderr why a case is left out on this host.
pub fn skip(case: &str, reason: &str) {
    eprintln!("{case} is left out on {:?}: {reason}", Host::chosen());
}

/// Says on stderr why a case is left out where each request has an instance of its own (`CAUSEWAY_SPIN_FRESH=1`), and
/// whether it is.
pub fn left_out_where_fresh(case: &str) -> bool {
    let left_out = Host::chosen() == Host::Spin && std::env::var("CAUSEWAY_SPIN_FRESH").as_deref() == Ok("1");
    if left_out {
        skip(case, "an instance that serves one request remembers nothing for the next");
    }
    left_out
}

/// Asks until the answer is yes, for at most half a minute.
pub async fn eventually(mut question: impl AsyncFnMut() -> bool) -> bool {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !question().await {
        if Instant::now() > give_up {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    true
}
