//! The plan: a configuration that has been checked and made ready, immutable and shared by every request.
//!
//! A plan **never** holds a value that could still be refused: names are unique, URLs parse, globs compile,
//! `${NAME}`s are filled in. What this host cannot run is in [`Plan::skipped`], by name, with the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};
use url::Url;

use super::glob::{Filter, Glob};
pub use super::types::{Processes, SandboxMode, Start};
use crate::platform::CONNECT_TIMEOUT;

mod llm;

pub use llm::{Cache, Contexts, Credential, Features, Llm, Model, Policy, Prices, Provider, Target, Team};

/// Everything the gateway needs to know, checked and ready.
#[derive(Debug)]
pub struct Plan {
    /// Identifies the configuration: the first 16 hex digits of the SHA-256 of its normalized JSON.
    pub digest: String,
    /// The servers this host can reach, in the order of the file.
    pub servers: Vec<Arc<Server>>,
    /// Entries that were left out, with the reason.
    pub skipped: Vec<Skipped>,
    /// Who may call. Empty: nobody needs a key (loopback hosts only).
    pub keys: Vec<Key>,
    /// Browser origins that may call, as `scheme://host[:port]`; `*` allows any. Loopback origins are always
    /// allowed to a loopback gateway.
    pub origins: Vec<String>,
    /// Limits on what callers may send and how long things may take.
    pub limits: Limits,
    /// Legacy clients that never send back the session id that they were given are served all the same.
    pub lenient: bool,
    /// Whom the gateway asks for a model's words.
    pub llm: Llm,
}

impl Plan {
    /// Nothing at all: what a gateway has before it is configured.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            digest: String::new(),
            servers: Vec::new(),
            skipped: Vec::new(),
            keys: Vec::new(),
            origins: Vec::new(),
            limits: Limits::default(),
            lenient: false,
            llm: Llm::default(),
        }
    }

    /// The server called `name`.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.iter().find(|server| server.name == name)
    }
}

/// An entry that is not served on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The server's name; `llm.providers.` and the name of a provider of models.
    pub name: String,
    /// Why it is not served, and what to do.
    pub reason: String,
}

/// One MCP server behind the gateway.
#[derive(Debug)]
pub struct Server {
    /// Its name in the configuration: `[A-Za-z0-9_-]`, at most 32 characters, no `__`.
    pub name: String,
    /// What its merged tools and prompts are prefixed with, before `__`. The name unless configured.
    pub prefix: String,
    /// Its MCP endpoint; with HTTP+SSE, where its stream of events is.
    pub url: Url,
    /// The link behind which it is, if it is behind one: then requests go there, and only what follows the origin of
    /// `url` says where to.
    pub via: Option<Via>,
    /// How it is spoken to.
    pub transport: Transport,
    /// What to run, with [`Transport::Stdio`].
    pub program: Option<Arc<Program>>,
    /// Headers to send with each request. Values are marked sensitive.
    pub headers: HeaderMap,
    /// Which tools are offered (by the server's own names).
    pub tools: Filter,
    /// Which prompts are offered (by the server's own names).
    pub prompts: Filter,
    /// Which resources are offered (by URI).
    pub resources: Filter,
    /// Changes to single tools, by the server's own tool name.
    pub overrides: BTreeMap<String, Override>,
    /// Whether callers share one upstream session. `None`: isolated if the server issues session ids.
    pub session: Option<SessionMode>,
    /// Who answers it when it asks for a model's words.
    pub sampling: Sampling,
    /// Which models answer it then, where [`Sampling::Gateway`] says so.
    pub sampler: Sampler,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How many bytes one answer (or one event of a stream) may have.
    pub max_response: usize,
    /// How long lists of a server that gives no `ttlMs` are held fresh.
    pub list_ttl: Duration,
    /// `url` as requests have it, once it has been asked for.
    pub uri: OnceLock<Option<Uri>>,
}

impl Server {
    /// A server with everything else as it is when the configuration says nothing more.
    #[must_use]
    pub fn new(name: &str, url: Url) -> Self {
        Self {
            name: name.to_owned(),
            prefix: name.to_owned(),
            url,
            via: None,
            transport: Transport::Http,
            program: None,
            headers: HeaderMap::new(),
            tools: Filter::default(),
            prompts: Filter::default(),
            resources: Filter::default(),
            overrides: BTreeMap::new(),
            session: None,
            sampling: Sampling::Client,
            sampler: Sampler::default(),
            timeouts: Timeouts::default(),
            max_response: 16 * 1024 * 1024,
            list_ttl: Duration::from_secs(60),
            uri: OnceLock::new(),
        }
    }

    /// `url` as requests have it; `None` if they cannot.
    #[must_use]
    pub fn uri(&self) -> Option<Uri> {
        self.uri.get_or_init(|| self.url.as_str().parse().ok()).clone()
    }
}

impl Server {
    /// The gateway's own server, which offers its models.
    #[must_use]
    pub fn own(url: Url) -> Self {
        // A model takes the time that it takes: how long it may is said where its provider is.
        let long = Duration::from_secs(60 * 60);
        let timeouts = Timeouts { first_byte: long, idle: long, total: long, ..Timeouts::default() };
        Self { transport: Transport::Own, timeouts, ..Self::new(MODELS, url) }
    }
}

/// The URL of whatever is behind a link. Nobody asks for it by this name; another origin is told from it.
pub const BEHIND: &str = "http://link/";

/// A link that a server is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The link's name.
    pub link: String,
    /// What becomes of what the server offers while the link is not connected.
    pub offline: Offline,
}

/// What becomes of what a server offers while its link is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offline {
    /// It stays listed as it was last.
    Keep,
    /// It is left out of lists.
    Hide,
}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP; HTTP+SSE if the server turns out to speak nothing newer.
    Http,
    /// The HTTP+SSE of revision 2024-11-05.
    HttpSse,
    /// A program's standard input and output. The host runs the program, and gives it the face of a Streamable HTTP
    /// server at the URL `stdio://{name}`.
    Stdio,
    /// Not at all: the gateway is that server itself, of 2026-07-28, and offers its models.
    Own,
}

/// What the gateway's own server is called.
pub const MODELS: &str = "llm";

/// A program that is a server, and how its processes are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// What to run: a path, or a name to look up in `PATH`.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment variables, besides those that each program has.
    pub env: Vec<(String, String)>,
    /// A file with more of them.
    pub env_file: Option<String>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// How many processes there are, and who shares them.
    pub processes: Processes,
    /// When it is started.
    pub start: Start,
    /// A process that nobody has used for this long is stopped.
    pub idle_stop: Duration,
    /// When a process is replaced.
    pub recycle: Recycle,
    /// How many bytes one message may have.
    pub max_line: usize,
    /// What it may do to the machine that it runs on.
    pub sandbox: Sandbox,
}

impl Program {
    /// `command` with everything else as it is when the configuration says nothing more.
    #[must_use]
    pub fn new(command: &str, args: &[&str]) -> Self {
        Self {
            command: command.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
            env_file: None,
            cwd: None,
            processes: Processes::Auto,
            start: Start::Lazy,
            idle_stop: Duration::from_secs(600),
            recycle: Recycle::default(),
            max_line: 16 * 1024 * 1024,
            sandbox: Sandbox::default(),
        }
    }
}

impl fmt::Debug for Program {
    /// Arguments and variables may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("command", &self.command).finish_non_exhaustive()
    }
}

/// When a process is replaced by a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recycle {
    /// When it is this old.
    pub age: Option<Duration>,
    /// When it has had this many calls.
    pub calls: Option<u64>,
    /// When it and its children have this many bytes of memory.
    pub memory: Option<u64>,
}

/// What a program may do to the machine that it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Whether there is a sandbox.
    pub mode: SandboxMode,
    /// Files and folders that may be read, as they are written: absolute, or from `~` on.
    pub read: Vec<String>,
    /// Files and folders that may be read and written.
    pub write: Vec<String>,
    /// Whether the network may be used.
    pub network: bool,
    /// Bytes of memory of all processes together.
    pub memory: u64,
    /// CPU time of all processes together.
    pub cpu: Duration,
    /// Processes and threads of all processes together.
    pub processes: u32,
    /// Open files of one process.
    pub files: u32,
    /// Bytes of one file.
    pub file_size: u64,
    /// Whether no processes are seen but the program's own.
    pub namespace: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            mode: SandboxMode::On,
            read: Vec::new(),
            write: Vec::new(),
            network: true,
            memory: 2 << 30,
            cpu: Duration::from_secs(24 * 60 * 60),
            processes: 512,
            files: 4096,
            file_size: 4 << 30,
            namespace: true,
        }
    }
}

/// How upstream sessions of a legacy server are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionMode {
    /// One upstream session for all callers.
    Shared,
    /// One upstream session for each client session, or for each caller of stateless clients.
    Isolated,
}

/// Who answers a server that asks for a model's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// The client that made the call, if it can.
    Client,
    /// Nobody.
    Deny,
    /// A model of the gateway's own.
    Gateway,
}

/// Which models answer a server that asks for a model's words, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampler {
    /// The models by the names that callers could use, the most capable first. Never empty.
    pub models: Vec<String>,
    /// How many tokens one answer may have.
    pub max_tokens: u64,
    /// How often the server may ask in one call.
    pub requests: usize,
    /// How many of its questions an instance answers at once.
    pub concurrent: usize,
    /// How long one answer may take.
    pub time: Duration,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            models: vec!["default".to_owned()],
            max_tokens: 4096,
            requests: 16,
            concurrent: 8,
            time: Duration::from_secs(90),
        }
    }
}

/// How one tool is presented.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Override {
    /// The name to offer instead of the server's own (before the prefix).
    pub rename: Option<String>,
    /// The description to offer instead of the server's own.
    pub description: Option<String>,
    /// Leave the tool out of lists. It cannot be called either.
    pub hide: bool,
}

/// Time limits of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Setting up a connection.
    pub connect: Duration,
    /// From sending the request to the response head.
    pub first_byte: Duration,
    /// Between two chunks of a response; any byte resets it.
    pub idle: Duration,
    /// The whole exchange, whatever happens.
    pub total: Duration,
}

/// A key and who it belongs to.
#[derive(Debug)]
pub struct Key {
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// Whom it names.
    pub caller: Arc<Caller>,
}

/// Who asks us, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name, as logs show it.
    pub name: String,
    /// Which servers they see.
    pub servers: Filter,
    /// Which tools they see, by merged name (`server__tool`).
    pub tools: Filter,
    /// Which models they may use: by the name they ask for, `provider/model`, or the model's name at its provider.
    pub models: Filter,
    /// Under which name they share stored contexts with others; alone without one.
    pub contexts: Option<String>,
    /// Under which names they may open links. None unless named.
    pub links: Vec<Glob>,
    /// May read `/status` in full and change the configuration.
    pub admin: bool,
}

impl Caller {
    /// Whoever it may be, where nobody needs a key. On a gateway that only its own machine reaches they may do
    /// everything (`all`).
    #[must_use]
    pub fn anyone(all: bool) -> Self {
        Self {
            name: String::new(),
            servers: Filter::default(),
            tools: Filter::default(),
            models: Filter::default(),
            contexts: None,
            links: if all { vec![Glob::new("*")] } else { Vec::new() },
            admin: all,
        }
    }

    /// Whether they may open a link called `name`.
    #[must_use]
    pub fn may_link(&self, name: &str) -> bool {
        self.links.iter().any(|glob| glob.matches(name))
    }
}

/// Limits on callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Request bodies, in bytes.
    pub body: usize,
    /// Messages in one JSON-RPC batch.
    pub batch: usize,
    /// How long a merged answer waits for slow servers.
    pub merge_deadline: Duration,
    /// Items in one page of a merged list.
    pub page: usize,
    /// How long a legacy session lives after it was made.
    pub session_age: Duration,
    /// Silence on a stream before a keep-alive comment is sent.
    pub keep_alive: Duration,
    /// How long a call that asked its caller something waits for the answer.
    pub park: Duration,
    /// Calls of one caller that may run or wait so at one server at a time.
    pub parked: usize,
    /// How often one call may ask before it is given up.
    pub rounds: usize,
    /// How many bytes of a stream's events are kept for a client that comes back for them.
    pub replay: usize,
    /// How long a link whose connection was lost may come back and go on where it was.
    pub link_resume: Duration,
    /// Requests that may be on their way through one link at a time.
    pub link_calls: usize,
    /// Open `subscriptions/listen` streams of one caller.
    pub subscriptions: usize,
    /// Processes of all programs together.
    pub processes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 4 * 1024 * 1024,
            batch: 64,
            merge_deadline: Duration::from_secs(10),
            page: 1000,
            session_age: Duration::from_secs(24 * 60 * 60),
            keep_alive: Duration::from_secs(15),
            park: Duration::from_secs(10 * 60),
            parked: 64,
            rounds: 32,
            replay: 1024 * 1024,
            link_resume: Duration::from_secs(60),
            link_calls: 1024,
            subscriptions: 64,
            processes: 64,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: CONNECT_TIMEOUT,
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(120),
            total: Duration::from_secs(600),
        }
    }
}
