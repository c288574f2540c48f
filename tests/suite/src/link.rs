//! Companions: `causeway connect` in front of servers on this machine.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::host::{Host, eventually, program};

/// How often a companion asks and how long it waits is set short here, so that no case takes long.
const SHORT: [&str; 4] = ["--heartbeat", "3", "--resume", "60"];

/// The ways in which companions may dial in to the host.
#[must_use]
pub fn transports() -> &'static [&'static str] {
    if Host::chosen() == Host::Spin { &["http"] } else { &["websocket", "http"] }
}

/// A companion. Dropping it ends it.
#[derive(Debug)]
pub struct Companion {
    gateway: String,
    name: String,
    key: Option<String>,
    more: Vec<String>,
    secrets: Vec<(String, String)>,
    folder: TempDir,
    process: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    said: Arc<Mutex<String>>,
}

impl Companion {
    /// Starts a companion called `name` that offers what `config` has to the gateway at `gateway`, and waits until it is
    /// connected.
    ///
    /// # Panics
    /// When it does not connect.
    pub async fn start(gateway: &str, name: &str, key: Option<&str>, config: &Value, more: &[&str]) -> Self {
        let companion = Self::begin(gateway, name, key, config, more, &[]);
        companion.until_connected(1).await;
        companion
    }

    /// [`Self::start`], with values for the `${NAME}`s of its file, and without waiting.
    ///
    /// # Panics
    /// When there is no place for its file.
    #[must_use]
    pub fn begin(
        gateway: &str,
        name: &str,
        key: Option<&str>,
        config: &Value,
        more: &[&str],
        secrets: &[(String, String)],
    ) -> Self {
        let folder = TempDir::with_prefix("causeway-companion").unwrap();
        std::fs::write(folder.path().join("mcp.json"), config.to_string()).unwrap();
        let (lines, said) = (Arc::default(), Arc::default());
        let more: Vec<String> = more.iter().map(|&more| more.to_owned()).collect();
        let process = launch(gateway, name, key, &more, secrets, folder.path(), &lines, &said);
        let (gateway, name) = (gateway.to_owned(), name.to_owned());
        let (key, secrets) = (key.map(str::to_owned), secrets.to_vec());
        Self { gateway, name, key, more, secrets, folder, process, lines, said }
    }

    /// Replaces what it offers.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn configure(&self, config: &Value) {
        let new = self.folder.path().join("mcp.json.new");
        std::fs::write(&new, config.to_string()).unwrap();
        std::fs::rename(new, self.folder.path().join("mcp.json")).unwrap();
    }

    /// How often it was welcome.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.events("connected").len()
    }

    /// What it has said of `event`, in order.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn events(&self, event: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line["event"] == event).cloned().collect()
    }

    /// Waits until it was welcome `times`.
    ///
    /// # Panics
    /// When it was not.
    pub async fn until_connected(&self, times: usize) {
        let connected = eventually(async || self.connections() >= times).await;
        assert!(
            connected,
            "the companion was welcome {} times, not {times}:\n{:?}\n{}",
            self.connections(),
            self.lines.lock().unwrap(),
            self.said.lock().unwrap()
        );
    }

    /// Kills it, which gets no chance to say anything.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("a process of ours can be killed");
    }

    /// Starts it again after [`Self::kill`], and waits until it is connected.
    pub async fn again(&mut self) {
        let before = self.connections();
        self.process = launch(
            &self.gateway,
            &self.name,
            self.key.as_deref(),
            &self.more,
            &self.secrets,
            self.folder.path(),
            &self.lines,
            &self.said,
        );
        self.until_connected(before + 1).await;
    }

    /// Waits until it has ended by itself: how, and what it said on stderr.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> (ExitStatus, String) {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.process.wait()).await;
        let status = ended.expect("the companion ends").expect("a process of ours can be waited for");
        // What it has said last may still be on its way here.
        tokio::time::sleep(Duration::from_millis(100)).await;
        (status, self.said.lock().unwrap().clone())
    }

    /// The id of its process.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process.id()
    }
}

#[expect(clippy::too_many_arguments, reason = "each is one part of a command line")]
fn launch(
    gateway: &str,
    name: &str,
    key: Option<&str>,
    more: &[String],
    secrets: &[(String, String)],
    folder: &Path,
    lines: &Arc<Mutex<Vec<Value>>>,
    said: &Arc<Mutex<String>>,
) -> Child {
    let mut command = Command::new(program());
    command.args(["connect", gateway, "--name", name, "--json", "--config"]).arg(folder.join("mcp.json"));
    for short in SHORT.chunks(2).filter(|short| !more.iter().any(|more| short.contains(&more.as_str()))) {
        command.args(short);
    }
    command.args(more).env_remove("CAUSEWAY_KEY");
    if let Some(key) = key {
        command.env("CAUSEWAY_KEY", key);
    }
    command.envs(secrets.iter().map(|(name, value)| (name, value)));
    let mut process = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the companion's program can be run");
    let mut out = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut err = BufReader::new(process.stderr.take().unwrap()).lines();
    let (lines, said) = (lines.clone(), said.clone());
    tokio::spawn(async move {
        while let Ok(Some(line)) = out.next_line().await {
            if let Ok(line) = serde_json::from_str(&line) {
                lines.lock().unwrap().push(line);
            }
        }
    });
    tokio::spawn(async move {
        while let Ok(Some(line)) = err.next_line().await {
            said.lock().unwrap().push_str(&format!("{line}\n"));
        }
    });
    process
}
