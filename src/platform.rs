//! The seam: everything the gateway may ask of the host it runs on.
//!
//! Nine small traits with static dispatch. The core **never** touches a socket, a clock, a thread or the
//! environment by itself; it asks one of these. Futures carry no `Send` bound: the compiler infers it where the
//! concrete platform is known, so the same core is `Send` on a threaded host and needs no wrapper at the edge.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

/// What an adapter reports when an ask failed. The text never holds a secret, a URL's query or a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeamError {
    /// No connection could be made: refused, no such host, TLS failure.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The other side did not do something in the time that was set.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The connection ended before the message did.
    #[error("connection cut: {0}")]
    Cut(String),
    /// The host forbids this ask (an outbound host that is not allowed, an ability that is missing), or the companion
    /// behind a link does. Asked again, it will be forbidden again.
    #[error("refused: {0}")]
    Denied(String),
    /// The link behind which the other side is, is not connected.
    #[error("{0}")]
    Offline(String),
    /// The host's own storage or machinery failed.
    #[error("host failure: {0}")]
    Host(String),
}

impl SeamError {
    /// Its kind as a word, and its text: how it goes from one instance of the gateway to another.
    #[must_use]
    pub fn into_words(self) -> (&'static str, String) {
        match self {
            Self::Connect(text) => ("connect", text),
            Self::Timeout(text) => ("timeout", text),
            Self::Cut(text) => ("cut", text),
            Self::Denied(text) => ("denied", text),
            Self::Offline(text) => ("offline", text),
            Self::Host(text) => ("host", text),
        }
    }

    /// The error of these [words](Self::into_words).
    #[must_use]
    pub fn from_words(kind: &str, text: String) -> Self {
        match kind {
            "connect" => Self::Connect(text),
            "timeout" => Self::Timeout(text),
            "cut" => Self::Cut(text),
            "denied" => Self::Denied(text),
            "offline" => Self::Offline(text),
            _ => Self::Host(text),
        }
    }
}

/// Sends one HTTP request and gives the response head as soon as it is there.
///
/// Redirects are **never** followed here: the core decides. Dropping the body cancels the exchange.
/// A [`ConnectTimeout`] in the request's extensions bounds connection set-up where the host can tell it apart.
pub trait HttpClient {
    /// The response body: chunks as they arrive.
    type Body: Stream<Item = Result<Bytes, SeamError>> + Unpin + 'static;

    /// A request on its way, as a value: it can be held while other things are waited for, and moved.
    type Sent: Future<Output = Result<http::Response<Self::Body>, SeamError>> + Unpin + 'static;

    /// Sends `request` and resolves with the response head.
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> impl Future<Output = Result<http::Response<Self::Body>, SeamError>>;

    /// [`HttpClient::send`] as a value. It is sent when first polled; dropping it cancels the exchange.
    fn begin(&self, request: http::Request<Bytes>) -> Self::Sent;
}

/// How long setting up a connection may take when a request says nothing of it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Request extension: how long setting up a connection may take, if not [`CONNECT_TIMEOUT`].
#[derive(Debug, Clone, Copy)]
pub struct ConnectTimeout(pub Duration);

/// Extension of a request whose answer, or of a response whose body, is a stream of news: it may be silent for hours and
/// has no end of its own. A host may give it a connection that costs little meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Endless;

/// A version of a stored value. Opaque; only equality matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version(pub u64);

/// A stored value with the version to present when replacing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The version of `value`.
    pub version: Version,
    /// The stored bytes.
    pub value: Bytes,
}

/// What came of a [`StateStore::swap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The value was written and has this version now.
    Done(Version),
    /// Somebody wrote in between; nothing was changed. Load and decide again.
    Stale,
}

/// How a [`StateStore`] is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// No other instance writes to it: what this one remembers is so.
    Own,
    /// Several instances write to it, and it is near enough to be asked before each answer in a session.
    Near,
    /// Several instances write to it, and asking takes as long as a server does: a session is looked up side by side with
    /// what is done for it.
    Far,
}

/// Consistent state. Compare-and-swap is the only write; `Stale` is an answer, not an error.
///
/// Keys are at most 512 bytes of printable ASCII, values at most 1 MiB. A value whose `ttl` has passed is gone.
pub trait StateStore {
    /// Who else writes to it, and how long asking takes: it says when a session is looked up that another instance may
    /// have ended.
    fn reach(&self) -> Reach {
        Reach::Own
    }

    /// The value at `key`, if there is one that has not expired.
    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Held>, SeamError>>;

    /// Writes `value` if the version at `key` is still `seen` (`None`: there is no value yet).
    fn swap(
        &self,
        key: &str,
        seen: Option<Version>,
        value: Bytes,
        ttl: Duration,
    ) -> impl Future<Output = Result<Swap, SeamError>>;
}

/// Read-mostly values: quick to read anywhere, eventually consistent (about a minute on Workers KV).
pub trait KeyValue {
    /// The value at `key`.
    fn read(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, SeamError>>;

    /// Sets the value at `key`.
    fn write(&self, key: &str, value: Bytes) -> impl Future<Output = Result<(), SeamError>>;

    /// Removes the value at `key`; removing what is not there is fine.
    fn remove(&self, key: &str) -> impl Future<Output = Result<(), SeamError>>;
}

/// Mailboxes: for each key one owner, which outlives the requests that write to it and may hold what no request can
/// hand on, such as an upstream's answer that is half read.
///
/// The owner is a [`Mailbox`](crate::mcp::mailbox::Mailbox) that the host keeps while it [is in
/// use](crate::mcp::mailbox::Mailbox::is_idle), and takes letters to with
/// [`Gateway::deliver`](crate::gateway::Gateway::deliver).
pub trait Mailboxes {
    /// What the owner says, as it says it: the bytes of an event stream.
    type Body: Stream<Item = Result<Bytes, SeamError>> + Unpin + 'static;

    /// What the key of something whose owner may as well be in this instance ends in; empty where that is all the same.
    fn place(&self) -> String {
        String::new()
    }

    /// Hands `letter` to the owner of `key`. Dropping the body tells the owner that nobody reads it any more.
    ///
    /// Keys are at most 512 bytes of printable ASCII, letters at most 8 MiB.
    fn post(&self, key: &str, letter: Bytes) -> impl Future<Output = Result<Self::Body, SeamError>>;

    /// A request on its way to an owner, as a value.
    type Sent: Future<Output = Result<http::Response<Self::Body>, SeamError>> + Unpin + 'static;

    /// Hands `request` to the owner of the link `key`, a [`Dock`](crate::tunnel::dock::Dock), which the host keeps
    /// beside the mailboxes and takes requests to with [`Gateway::dock`](crate::gateway::Gateway::dock).
    ///
    /// It is sent when first polled. Dropping it, or the answer's body, tells the owner that nobody waits any more.
    fn ask(&self, key: &str, request: http::Request<Bytes>) -> Self::Sent;
}

/// Values that come from the host's environment or secret store, by name.
pub trait Secrets {
    /// The value of `name`, if the host has one.
    fn secret(&self, name: &str) -> Option<String>;

    /// Asks for the values of `names`, on hosts where that takes a while; [`Self::secret`] has them from then on.
    fn prepare(&self, names: Vec<String>) -> impl Future<Output = ()> {
        let _ = names;
        std::future::ready(())
    }
}

/// A point in time: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time from `earlier` until now; zero if the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time plus `span`.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Time.
pub trait Clock {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;

    /// Microseconds on a clock that only goes forward, for measuring. At the edge this may stand still between
    /// two network waits.
    fn ticks(&self) -> u64;

    /// Resolves after `span`. Costs nothing until first polled.
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + 'static;
}

/// Cryptographic randomness.
pub trait Entropy {
    /// Fills `buffer` with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// Where log records go. One call is one record; the adapter writes it as one line of JSON.
pub trait Log {
    /// Writes `line`, a complete JSON object without a line break.
    fn write(&self, line: &str);
}

/// What a host can do. A configuration that needs more is refused when it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// The host's name, as `/status` and error messages show it: `native`, `cloudflare`, `spin`.
    pub host: &'static str,
    /// Can run child processes (stdio servers).
    pub processes: bool,
    /// Callers reach it only over the loopback interface, so it must be asked for by that interface's names.
    pub loopback_only: bool,
    /// May serve without any key: only this machine reaches it, or whoever runs it vouches for what is in front.
    pub keyless: bool,
    /// The configuration comes from a file that the host watches; `push` is refused.
    pub config_file: bool,
    /// Has mailboxes: a call that waits for its caller may outlive the request that made it.
    pub mailboxes: bool,
    /// How companions may dial in.
    pub links: Links,
}

/// How companions may dial in to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Not at all: nobody would keep the link.
    No,
    /// By `POST` and a stream of events.
    Posts,
    /// By WebSocket, too.
    Sockets,
    /// By WebSocket, too; the owner of one that is idle sleeps, and the host answers the heartbeat in its place.
    SleepingSockets,
}

impl Links {
    /// Whether a companion may open a WebSocket.
    #[must_use]
    pub fn sockets(self) -> bool {
        matches!(self, Self::Sockets | Self::SleepingSockets)
    }
}

/// The host: one accessor for each ability.
///
/// A value may live for one request. `Clone` must be cheap.
pub trait Platform: Clone + 'static {
    /// Outbound HTTP.
    type Http: HttpClient;
    /// Consistent state.
    type Store: StateStore;
    /// Read-mostly state.
    type KeyValue: KeyValue;
    /// One owner for each key. What it says is read like what an upstream says.
    type Mailboxes: Mailboxes<Body = UpstreamBody<Self>, Sent = Sent<Self>>;
    /// Secrets by name.
    type Secrets: Secrets;
    /// Time.
    type Clock: Clock + Clone + Unpin + 'static;
    /// Randomness.
    type Entropy: Entropy;
    /// Logs.
    type Log: Log;

    /// Outbound HTTP.
    fn http(&self) -> &Self::Http;
    /// Consistent state.
    fn store(&self) -> &Self::Store;
    /// Read-mostly state.
    fn key_value(&self) -> &Self::KeyValue;
    /// One owner for each key.
    fn mailboxes(&self) -> &Self::Mailboxes;
    /// Secrets by name.
    fn secrets(&self) -> &Self::Secrets;
    /// Time.
    fn clock(&self) -> &Self::Clock;
    /// Randomness.
    fn entropy(&self) -> &Self::Entropy;
    /// Logs.
    fn log(&self) -> &Self::Log;
    /// What this host can do.
    fn abilities(&self) -> Abilities;
    /// How the program that is the server `server` is doing, on a host that runs any.
    fn program(&self, _server: &str) -> Option<Program> {
        None
    }
}

/// A server that is a program, as the host that runs it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Its processes, the oldest first.
    pub processes: Vec<Process>,
    /// How often one has ended by itself.
    pub restarts: u64,
    /// Why there is none, if it does not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// What there is to say about its sandbox, once it was started: whether there is one, what it lacks on this system,
    /// and what is likely to go wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// A process of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The system's number for it.
    pub pid: u32,
    /// `starting`, `idle`, `busy`, `retiring` (replaced, with calls to end) or `stopping`.
    pub state: &'static str,
    /// Seconds since it was started.
    pub age_s: u64,
    /// Requests that it was given.
    pub calls: u64,
    /// Its resident memory with that of its children, in bytes, where the host knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// The response body type of a platform's HTTP client.
pub type UpstreamBody<P> = <<P as Platform>::Http as HttpClient>::Body;

/// A request on its way by a platform's HTTP client.
pub type Sent<P> = <<P as Platform>::Http as HttpClient>::Sent;
