//! `causeway serve`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::{Failure, Outcome, complain};
use crate::log::{Level, Log};
use crate::running::{Options, Refused, Running, Source, State};
use crate::server::Limits;

/// Run the gateway on this machine.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Run the gateway on this machine.\n\n\
    Serves every MCP server of the configuration at http://ADDR/mcp. The file is watched: a valid change is in \
    force within two seconds and cuts no call; an invalid one is logged and the old one goes on. Without --config \
    the gateway serves what `causeway push` sent to it last, or, where nothing was, the models of the provider that \
    LLM_PROVIDER names (docs/models.md).",
    after_help = "Signals: SIGTERM or SIGINT stops after the requests in flight, the second one at once; SIGHUP \
    reads the configuration again."
)]
pub(super) struct Serve {
    /// The configuration: YAML, TOML or JSON, or an unchanged mcp.json. Served as pushed if not given
    #[arg(short, long, value_name = "FILE", env = "CAUSEWAY_CONFIG")]
    config: Option<PathBuf>,

    /// Where to listen; port 0 takes any free one
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:8787", env = "CAUSEWAY_LISTEN")]
    listen: String,

    /// Where to keep state: a folder, or `memory`. Otherwise $XDG_STATE_HOME/causeway or ~/.local/state/causeway
    #[arg(long, value_name = "DIR", env = "CAUSEWAY_STATE")]
    state: Option<PathBuf>,

    /// What to log, as one line of JSON on stderr
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "CAUSEWAY_LOG")]
    log: Level,

    /// Serve without keys on an address that other machines can reach
    #[arg(long)]
    allow_public: bool,

    /// How many seconds requests in flight may take to end when the gateway is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,

    /// How many connections are served at a time; further ones wait
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,
}

impl Serve {
    pub(super) fn run(self) -> Outcome {
        // It only accepts connections and watches files: they are served by threads of their own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(error.to_string()))?;
        let outcome = runtime.block_on(self.serve());
        // Whatever still runs has had its grace.
        runtime.shutdown_background();
        outcome
    }

    async fn serve(self) -> Outcome {
        let listen = resolve(&self.listen).await?;
        let log = Log::stderr(self.log);
        let state = match self.state {
            Some(memory) if memory.as_os_str() == "memory" => State::Memory,
            Some(folder) => State::Folder(folder),
            None => default_state(&log),
        };
        let source = match self.config {
            Some(file) => Source::File(file),
            None => Source::Pushed,
        };
        let limits = Limits {
            grace: Duration::from_secs(self.grace),
            connections: self.max_connections.clamp(1, tokio::sync::Semaphore::MAX_PERMITS),
            ..Limits::default()
        };
        let log_at_end = log.clone();
        let options =
            Options { source, listen, state, log: log.clone(), allow_public: self.allow_public, limits };
        // Before anything is served, so that no signal is missed.
        let mut signals = Signals::new().map_err(|error| Failure::Failed(error.to_string()))?;
        let running = Running::start(options).await.map_err(|refused| {
            log_at_end.flush();
            match refused {
                Refused::Configuration(_) => Failure::Refused(refused.to_string()),
                Refused::Host(why) => Failure::Failed(why),
            }
        })?;
        if running.plan().is_some_and(|plan| plan.keys.is_empty()) {
            let whom = if listen.ip().is_loopback() {
                "any program on this machine"
            } else {
                "anyone who gets through"
            };
            complain(&format!("warning: no keys are configured: {whom} may call"));
        }
        let listening = format!("listening on {}", running.url());
        complain(&listening);
        log.event(Level::Info, "listening", &listening);
        while matches!(signals.next().await, Signal::Reload) {
            running.reload();
        }
        log.event(Level::Info, "stopping", "no new connections; requests in flight may end");
        let ended = tokio::select! {
            ended = running.stop() => ended,
            () = signals.stop() => false,
        };
        log.event(Level::Info, "stopped", if ended { "all requests ended" } else { "requests were cut" });
        log.flush();
        Ok(())
    }
}

/// `$XDG_STATE_HOME/causeway` or `~/.local/state/causeway`. Memory where there is no home, as in many containers.
fn default_state(log: &Log) -> State {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local").join("state")));
    if let Some(base) = base {
        return State::Folder(base.join("causeway"));
    }
    let message =
        "no home folder: state is kept in memory and gone when the gateway stops; name a folder with --state";
    log.event(Level::Warn, "state.memory", message);
    State::Memory
}

async fn resolve(listen: &str) -> Result<SocketAddr, Failure> {
    let wrong = |why: String| {
        Failure::Refused(format!(
            "--listen {listen}: {why}: write an address and a port, as in 127.0.0.1:8787"
        ))
    };
    let text = listen.to_owned();
    let found = tokio::task::spawn_blocking(move || text.to_socket_addrs().map(|mut all| all.next())).await;
    match found {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err(wrong("no such host".to_owned())),
        Ok(Err(error)) => Err(wrong(error.to_string())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

enum Signal {
    Stop,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no such signal"))]
    Reload,
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        // Without a handler the system ends the process by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Stop
    }
}

impl Signals {
    async fn stop(&mut self) {
        while !matches!(self.next().await, Signal::Stop) {}
    }
}
