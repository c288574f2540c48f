//! A gateway that runs: its listener, its plan, and what keeps both up to date.
//!
//! ```no_run
//! # async fn example() -> Result<(), causeway_native::running::Refused> {
//! use causeway_native::running::{Options, Running, Source};
//! let options = Options::new(Source::File("gateway.yaml".into()));
//! let running = Running::start(options).await?;
//! println!("{}", running.url());
//! running.stop().await;
//! # Ok(())
//! # }
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway::admin;
use causeway::config::Plan;
use causeway::config::plan::{Server, Transport};
use causeway::instance::Instance;
use causeway::platform::{Abilities, Links, Platform, Secrets as _};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::log::{Level, Log};
use crate::platform::Native;
use crate::secrets::Secrets;
use crate::server::{self, Limits};
use crate::source;
use crate::store::Store;
use crate::watch::Watch;
use crate::workers::Workers;

/// How often a pushed configuration is asked for.
const POLL: Duration = Duration::from_secs(1);
/// How often expired state is removed.
const SWEEP: Duration = Duration::from_secs(60);

/// The shortest `CAUSEWAY_ADMIN_KEY` that the core accepts.
const MIN_ADMIN_KEY: usize = 16;
const NOTHING_PUSHED: &str = "there is no configuration yet: name a file with --config, set LLM_PROVIDER, or set \
    CAUSEWAY_ADMIN_KEY and send one with `causeway push`";

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file, which is watched.
    File(PathBuf),
    /// What was pushed last. Where nothing was, what the variable `LLM_PROVIDER` asks for; without that, a gateway with
    /// the secret `CAUSEWAY_ADMIN_KEY` waits for a push.
    Pushed,
    /// This very plan, for ever. For tests and benchmarks.
    Fixed(Arc<Plan>),
}

/// Where state is kept.
#[derive(Debug, Clone)]
pub enum State {
    /// In a folder, in the file `state.sqlite`.
    Folder(PathBuf),
    /// In memory: gone with the process.
    Memory,
}

/// How a gateway is run.
#[derive(Debug)]
pub struct Options {
    /// Where the configuration comes from.
    pub source: Source,
    /// Where to listen. Port 0: any free one.
    pub listen: SocketAddr,
    /// Where state is kept.
    pub state: State,
    /// Where log records go.
    pub log: Log,
    /// Serve without keys on addresses that other machines can reach.
    pub allow_public: bool,
    /// What is taken from the network.
    pub limits: Limits,
}

impl Options {
    /// On any free loopback port, with state in memory and no log.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state: State::Memory,
            log: Log::stderr(Level::Off),
            allow_public: false,
            limits: Limits::default(),
        }
    }
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The configuration, or the way the gateway was asked to run, cannot work. One line for each reason.
    #[error("{}", .0.join("\n"))]
    Configuration(Vec<String>),
    /// The host failed: the address is taken, the state cannot be opened.
    #[error("{0}")]
    Host(String),
}

/// A gateway that runs. Dropping it leaves it running until its runtime ends; see [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    instance: Arc<Instance>,
    reload: Arc<Notify>,
    stop: oneshot::Sender<()>,
    native: Native,
    server: JoinHandle<bool>,
    keeper: JoinHandle<()>,
}

impl Running {
    /// Reads the configuration, binds the address and starts serving.
    ///
    /// # Errors
    /// When the configuration is refused, the address cannot be bound or the state cannot be opened.
    pub async fn start(options: Options) -> Result<Self, Refused> {
        let Options { source, listen, state, log, allow_public, limits } = options;
        let store = match &state {
            State::Folder(folder) => Store::open(&folder.join("state.sqlite")),
            State::Memory => Store::memory(),
        };
        let store =
            store.map_err(|error| Refused::Host(format!("{error}: choose another folder with --state")))?;
        let file = match &source {
            Source::File(file) => Some(file.as_path()),
            Source::Pushed | Source::Fixed(_) => None,
        };
        let loopback = listen.ip().is_loopback();
        let abilities = Abilities {
            host: "native",
            processes: true,
            loopback_only: loopback,
            keyless: loopback || allow_public,
            config_file: file.is_some(),
            mailboxes: true,
            links: Links::Sockets,
        };
        let secrets = Secrets::beside(file);
        let native = Native::new(store, secrets.clone(), log.clone(), abilities);
        // Before the first look at the files, so that no change falls between the look and the watch.
        let watch = Watch::new(watched(&source, &secrets));
        let instance = Instance::unconfigured(NOTHING_PUSHED.to_owned());
        native.owners().serve(&instance);
        let mut keeper =
            Keeper { native: native.clone(), instance: instance.clone(), source, complaint: None };
        match (keeper.load().await, &keeper.source) {
            (Ok(()), _) => {}
            // The next push may mend it.
            (Err(problems), Source::Pushed) if can_be_pushed_to(&secrets)? => keeper.refused(&problems),
            (Err(problems), _) => return Err(Refused::Configuration(problems)),
        }
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    ": another program listens there; choose a port with --listen"
                }
                _ => "",
            };
            Refused::Host(format!("cannot listen on {listen}: {error}{hint}"))
        })?;
        let address = listener.local_addr().map_err(|error| Refused::Host(error.to_string()))?;
        let workers = Workers::start(&native)
            .map_err(|error| Refused::Host(format!("cannot start a thread for each core: {error}")))?;
        let (stop, stopped) = oneshot::channel();
        let stopping = native.clone();
        let server =
            tokio::spawn(server::serve(listener, workers, instance.clone(), native, limits, async {
                // A sender that was dropped asks for nothing.
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            }));
        let reload = Arc::new(Notify::new());
        let keeper = tokio::spawn(keeper.keep(watch, reload.clone()));
        Ok(Self { address, instance, reload, stop, native: stopping, server, keeper })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint to give to MCP clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The plan in force, if there is one yet.
    #[must_use]
    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.instance.plan()
    }

    /// Reads the configuration again, changed or not.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Takes no more connections, lets requests in flight end, and says whether they all did in time.
    pub async fn stop(self) -> bool {
        // Either is gone only when the runtime is going down.
        _ = self.stop.send(());
        let ended = self.server.await.unwrap_or(false);
        self.keeper.abort();
        self.native.programs().stop().await;
        ended
    }
}

fn watched(source: &Source, secrets: &Secrets) -> Vec<PathBuf> {
    match source {
        Source::File(file) => std::iter::once(file.clone()).chain(secrets.files().iter().cloned()).collect(),
        Source::Pushed => secrets.files().to_vec(),
        Source::Fixed(_) => Vec::new(),
    }
}

fn can_be_pushed_to(secrets: &Secrets) -> Result<bool, Refused> {
    match secrets.secret("CAUSEWAY_ADMIN_KEY") {
        None => Ok(false),
        Some(key) if key.len() >= MIN_ADMIN_KEY => Ok(true),
        Some(_) => Err(Refused::Configuration(vec![format!(
            "CAUSEWAY_ADMIN_KEY is too short: give it at least {MIN_ADMIN_KEY} characters (`causeway keys new`)"
        )])),
    }
}

/// Keeps the plan what its source says.
struct Keeper {
    native: Native,
    instance: Arc<Instance>,
    source: Source,
    /// What was last said about a configuration that was refused, so that it is said once.
    complaint: Option<Vec<String>>,
}

impl Keeper {
    async fn keep(mut self, watch: Watch, reload: Arc<Notify>) {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let pushed = matches!(self.source, Source::Pushed);
        let mut change = Box::pin(watch.change());
        loop {
            let done = tokio::select! {
                watch = &mut change => {
                    change = Box::pin(watch.change());
                    self.load().await
                }
                () = reload.notified() => {
                    self.complaint = None;
                    self.load().await
                }
                _ = poll.tick(), if pushed => self.poll().await,
                _ = sweep.tick() => {
                    // It is tried again, and what has expired is invisible anyway.
                    _ = self.native.store().sweep().await;
                    continue;
                }
            };
            match done {
                Ok(()) => self.complaint = None,
                Err(problems) => self.refused(&problems),
            }
        }
    }

    /// Looks for a pushed configuration that is newer than the one in force.
    async fn poll(&mut self) -> Result<(), Vec<String>> {
        let renewed = admin::refresh(&self.native, &self.instance).await.map_err(|problem| vec![problem])?;
        if renewed && let Some(plan) = self.instance.plan() {
            self.native.programs().apply_plan(&plan);
            self.native.owners().replan(&self.native);
            self.loaded(&plan);
        }
        Ok(())
    }

    /// Reads the source and the secrets anew and puts the plan in force.
    async fn load(&mut self) -> Result<(), Vec<String>> {
        for problem in self.native.secrets().reload() {
            self.native.log().event(Level::Error, "secrets.unreadable", &problem);
        }
        let (plan, notes) = match &self.source {
            Source::Fixed(plan) => (plan.clone(), Vec::new()),
            Source::File(file) => source::from_file(file, &self.native).await?,
            Source::Pushed => match source::pushed(&self.native).await? {
                None => match source::from_variables(&self.native)? {
                    Some(plan) => (plan, Vec::new()),
                    None => return Err(vec![NOTHING_PUSHED.to_owned()]),
                },
                Some((stamp, plan)) => {
                    self.instance.set_stamp(stamp);
                    (plan, Vec::new())
                }
            },
        };
        for note in notes {
            self.native.log().event(Level::Warn, "config.note", &note);
        }
        // Before the plan: no request may ask for a program that is not there yet.
        self.native.programs().apply_plan(&plan);
        self.instance.install(plan.clone());
        self.native.owners().replan(&self.native);
        self.loaded(&plan);
        Ok(())
    }

    fn loaded(&self, plan: &Plan) {
        let log = self.native.log();
        for skipped in &plan.skipped {
            let message = format!("{} is not served: {}", skipped.name, skipped.reason);
            log.event(Level::Warn, "server.skipped", &message);
        }
        let own = |server: &&Arc<Server>| server.transport == Transport::Own;
        let count = plan.servers.len() - plan.servers.iter().filter(own).count();
        let models = match plan.llm.providers.len() {
            0 => String::new(),
            1 => " and 1 provider of models".to_owned(),
            providers => format!(" and {providers} providers of models"),
        };
        let message = format!("configuration {} with {count} servers{models} is in force", plan.digest);
        log.event(Level::Info, "config.loaded", &message);
    }

    /// Says why the plan in force stays.
    fn refused(&mut self, problems: &[String]) {
        if self.complaint.as_deref() == Some(problems) {
            return;
        }
        for problem in problems {
            match problem.as_str() {
                NOTHING_PUSHED => {
                    self.native.log().event(Level::Info, "config.awaited", "waiting for a push")
                }
                problem => self.native.log().event(Level::Error, "config.refused", problem),
            }
        }
        if self.instance.plan().is_some() {
            self.native.log().event(
                Level::Error,
                "config.kept",
                "the configuration before it stays in force",
            );
        }
        self.complaint = Some(problems.to_vec());
    }
}
