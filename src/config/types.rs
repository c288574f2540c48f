//! The configuration as it is written: what the file says, checked, but with `${NAME}` not filled in.
//!
//! A [`Config`] is made by [`read`](super::read()) only, so it **never** holds what was refused there. What is
//! left out in the file is left out here: defaults are the plan's. The doc comments are the descriptions of the
//! JSON Schema.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};

#[cfg(feature = "schema")]
mod describe;
mod llm;

pub use llm::{
    Breaker, Cache, Contexts, Feature, Llm, Model, Policy, Prices, Provider, ProviderKind, Rank, Team,
    Together,
};

/// The configuration of a Causeway gateway. A client's own `mcp.json` is one as it stands.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("examples" = describe::config())))]
#[non_exhaustive]
pub struct Config {
    /// The MCP servers behind the gateway, by name. VS Code's name for this, `servers`, means the same.
    #[serde(rename = "mcpServers")]
    pub servers: Named<Server>,
    /// Who may call the gateway: keys by the caller's name. Without any, only a gateway that listens on the
    /// loopback interface starts.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub keys: Named<Key>,
    /// Browser origins that may call, as `scheme://host[:port]`, or `*` for any. Loopback origins may always
    /// call a gateway on the loopback interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, extend("examples" = [["https://chat.example.com"]])))]
    pub origins: Vec<String>,
    /// Limits on what callers may send and how long things may take.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub limits: Limits,
    /// How sessions of clients of revisions before 2026-07-28 are taken.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub sessions: Sessions,
    /// Providers of models, offered at `/v1`.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub llm: Llm,
}

impl Config {
    /// What concerns the companion that dials in as `link`: the servers and providers of models that it may offer, as if
    /// they were not behind a link, and nothing of who may call them.
    #[must_use]
    pub fn behind(&self, link: &str) -> Self {
        let mut own = self.clone();
        own.servers.0.retain(|(_, server)| server.via.as_deref().is_none_or(|via| via == link));
        for (_, server) in &mut own.servers.0 {
            server.via = None;
            // Models are at the gateway: what their server asks goes there.
            if matches!(server.sampling, Sampling::Gateway(_)) {
                server.sampling = Sampling::Client;
            }
        }
        own.keys = Named::default();
        own.llm.models = Named::default();
        own.llm.mcp = Some(false);
        // One that is nowhere near and has no `via` is the gateway's own, where one file serves both ends.
        own.llm.providers.0.retain(|(_, provider)| match &provider.via {
            Some(via) => via == link,
            None => provider.kind.is_open(),
        });
        for (_, provider) in &mut own.llm.providers.0 {
            provider.via = None;
        }
        own
    }
}

/// One MCP server: `url` for one that is reached over HTTP, `command` for one that is a program, `via` for one that is
/// behind a link.
///
/// Keys of other clients that mean nothing to a gateway are ignored.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = describe::server))]
#[non_exhaustive]
pub struct Server {
    /// How the server is spoken to. Not needed: `url` or `command` tells.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The server's MCP endpoint. `${NAME}` is filled in from the host's variables and secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["https://api.githubcopilot.com/mcp/"])))]
    pub url: Option<String>,
    /// Headers to send with each request. `${NAME}` is filled in from the host's variables and secrets.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(default, extend("examples" = [{"Authorization": "Bearer ${GITHUB_TOKEN}"}]))
    )]
    pub headers: Named<String>,
    /// The program to run, for a server that speaks over its standard input and output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("examples" = ["npx", "uvx", "docker"])))]
    pub command: Option<String>,
    /// The program's arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub args: Vec<String>,
    /// The program's environment variables.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub env: Named<String>,
    /// A file with more of the program's environment variables.
    #[serde(rename = "envFile", skip_serializing_if = "Option::is_none")]
    pub env_file: Option<String>,
    /// The program's working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// How many processes of the program there are, and who shares them: `auto`, `shared`, `session`, or a number.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub processes: Processes,
    /// When the program is started.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub start: Start,
    /// A process that nobody has used for this long is stopped: 1 second to 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "10m")))]
    pub idle_stop: Option<Span>,
    /// When a process is replaced by a new one.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub recycle: Recycle,
    /// What the program may do to the machine that it runs on. A word alone is the `mode`.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, transform = describe::sandbox))]
    pub sandbox: Sandbox,
    /// The link behind which the server is: the name of a machine that dials in with `causeway connect`. How it is
    /// reached or run there (`url`, `headers`, `command` and what belongs to it) is that machine's business alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^(?!.*__)[A-Za-z0-9_-]{0,31}[A-Za-z0-9-]$")))]
    pub via: Option<String>,
    /// What becomes of the server's tools, prompts and resources while its link is not connected.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub offline: Offline,
    /// Leave the server out. `enabled: false` means the same.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub disabled: bool,
    /// What the server's tools and prompts are prefixed with at `/mcp`, before `__`. Default: the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^(?!.*__)[A-Za-z0-9_-]{0,31}[A-Za-z0-9-]$")))]
    pub prefix: Option<String>,
    /// Which tools are offered, and how. A list alone is what is allowed.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Tools>"))]
    pub tools: Tools,
    /// Which prompts are offered, by the server's own names. A list alone is what is allowed.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Choice>"))]
    pub prompts: Choice,
    /// Which resources are offered, by URI. A list alone is what is allowed.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Choice>"))]
    pub resources: Choice,
    /// Whether callers share one session with the server. Default: `isolated` if the server issues session ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Who answers the server when it asks for a model's words (`sampling/createMessage`).
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub sampling: Sampling,
    /// How long things may take.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub timeouts: Timeouts,
    /// How many bytes one answer, or one event of a stream, may have: 1 KiB to 512 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "16MiB")))]
    pub max_response: Option<Size>,
    /// How long lists of a server that gives no `ttlMs` are held fresh: 0 to 24 hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "60s")))]
    pub list_ttl: Option<Span>,
}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = describe::kind))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Streamable HTTP.
    Http,
    /// The older HTTP+SSE, with a separate stream of events (revision 2024-11-05).
    Sse,
    /// A program's standard input and output.
    Stdio,
}

/// Which names are offered. Deny wins; without `allow` everything is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Choice {
    /// What is allowed; `*` is any run of characters, `?` any one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, length(min = 1)))]
    pub allow: Vec<String>,
    /// What is refused, whatever `allow` says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub deny: Vec<String>,
}

/// Which tools are offered, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Tools {
    /// What is allowed, by the server's own names; `*` is any run of characters, `?` any one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, length(min = 1)))]
    pub allow: Vec<String>,
    /// What is refused, whatever `allow` says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub deny: Vec<String>,
    /// Changes to single tools, by the server's own tool name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub overrides: BTreeMap<String, Override>,
}

/// How one tool is presented.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Override {
    /// The name to offer instead of the server's own, before the prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^[A-Za-z0-9_-]{1,64}$")))]
    pub rename: Option<String>,
    /// The description to offer instead of the server's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Leave the tool out. It cannot be called either.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub hide: bool,
}

/// What a program may do to the machine that it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Sandbox {
    /// Whether there is a sandbox.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub mode: SandboxMode,
    /// Files and folders that the program may read, besides itself and what is installed for all users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, extend("examples" = [["~/notes", "/srv/docs"]])))]
    pub read: Vec<String>,
    /// Files and folders that the program may read, write, make and remove, besides a private folder of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, extend("examples" = [["/srv/docs"]])))]
    pub write: Vec<String>,
    /// Whether the program may use the network. Default: yes, as most servers call an API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = true)))]
    pub network: Option<bool>,
    /// Memory of the program and all that it starts together: 16 MiB to 1024 GiB. More ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "2GiB")))]
    pub memory: Option<Size>,
    /// CPU time of the program and all that it starts together: 1 second to 365 days. More ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "24h")))]
    pub cpu: Option<Span>,
    /// Processes and threads of the program and all that it starts together. More ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000), extend("default" = 512)))]
    pub processes: Option<u32>,
    /// Files and sockets that one process may have open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 16, max = 1_000_000), extend("default" = 4096)))]
    pub files: Option<u32>,
    /// How large a file may be made: 4 KiB to 1024 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "4GiB")))]
    pub file_size: Option<Size>,
    /// Whether the program sees no processes but its own, where the system can do that. Default: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = true)))]
    pub namespace: Option<bool>,
}

/// Whether a program is run in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// As much of one as the system has; what it lacks is said when the program starts.
    #[default]
    On,
    /// None.
    Off,
    /// One that lacks nothing of importance, or the program is not run.
    Required,
}

/// How sessions with a server are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Session {
    /// One for all callers.
    Shared,
    /// One for each client session, or for each caller of stateless clients.
    Isolated,
}

/// How many processes of one program there are, and who shares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Processes {
    /// One for all sessions whose client can be asked nothing, and one for each other session.
    #[default]
    Auto,
    /// One for everybody.
    Shared,
    /// One for each session.
    Session,
    /// This many, for everybody.
    Pool(u32),
}

impl Serialize for Processes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Shared => serializer.serialize_str("shared"),
            Self::Session => serializer.serialize_str("session"),
            Self::Pool(count) => serializer.serialize_u32(*count),
        }
    }
}

/// When a program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// When it is first needed.
    #[default]
    Lazy,
    /// With the gateway; it is not stopped for having nothing to do, and started again when it ends.
    Eager,
}

/// When a process is replaced by a new one. Calls that it has begun end there first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Recycle {
    /// When it is this old: 1 second to 30 days. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
    /// When it has had this many calls. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub calls: Option<u32>,
    /// When it and its children have this much memory: 1 MiB to 4 GiB. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
}

/// What becomes of what a server offers while its link is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Offline {
    /// It stays listed as it was last; calls fail and say why.
    #[default]
    Keep,
    /// It is left out of lists until the link is back.
    Hide,
}

/// Who answers a server that asks for a model's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = describe::sampling))]
pub enum Sampling {
    /// The client that made the call, if it can.
    #[default]
    Client,
    /// Nobody: the server is told that its clients cannot do it, and refused if it asks all the same.
    Deny,
    /// A model of `llm`, within limits.
    Gateway(Box<Sampler>),
}

impl serde::Serialize for Sampling {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Client => to.serialize_str("client"),
            Self::Deny => to.serialize_str("deny"),
            Self::Gateway(sampler) if is_default(sampler.as_ref()) => to.serialize_str("gateway"),
            Self::Gateway(sampler) => sampler.serialize(to),
        }
    }
}

/// Which models answer a server, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Sampler {
    /// The models that may answer, the most capable first: `provider/model`, or names of models, policies or teams.
    /// Without a wish of the server's the first is asked. Default: what is called `default`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OneOrMore"))]
    pub models: Vec<String>,
    /// How many tokens one answer may have, whatever the server asks for: 1 to 1000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = 4096), range(min = 1, max = 1_000_000)))]
    pub max_tokens: Option<u32>,
    /// How often the server may ask in one call: 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = 16), range(min = 1, max = 1000)))]
    pub requests: Option<u32>,
    /// How many of its questions are answered at once, by one instance of the gateway: 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = 8), range(min = 1, max = 1000)))]
    pub concurrent: Option<u32>,
    /// How long one answer may take: 1 second to 1 hour. The server is silent meanwhile: see `timeouts.idle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "90s")))]
    pub time: Option<Span>,
}

/// Time limits of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Timeouts {
    /// Setting up a connection: 10 milliseconds to 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "5s")))]
    pub connect: Option<Span>,
    /// From sending a request to the first byte of the answer: 10 milliseconds to 1 hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "60s")))]
    pub first_byte: Option<Span>,
    /// Silence in the middle of an answer: 10 milliseconds to 24 hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "2m")))]
    pub idle: Option<Span>,
    /// The whole exchange, whatever happens: 10 milliseconds to 24 hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "10m")))]
    pub total: Option<Span>,
}

/// A caller's key or keys, and what the caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(deny_unknown_fields, transform = describe::key)
)]
#[non_exhaustive]
pub struct Key {
    /// The hash of the key, as `causeway keys` prints it: `sha256:` and 64 hex digits. Never the key itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^(sha256:[0-9A-Fa-f]{64}|.*\$\{.+\}.*)$")))]
    pub hash: Option<String>,
    /// Hashes of further keys of the same caller, so that one can be replaced without a gap.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub hashes: Vec<String>,
    /// Which servers the caller sees. A list alone is what is allowed.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Choice>"))]
    pub servers: Choice,
    /// Which tools the caller sees, by merged name (`server__tool`). A list alone is what is allowed.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Choice>"))]
    pub tools: Choice,
    /// Which models the caller may use: by the name asked for, `provider/model`, or the model's name at its provider.
    /// A list alone is what is allowed.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default, with = "describe::OrList<Choice>"))]
    pub models: Choice,
    /// Whose stored contexts (`/context`) the caller sees: those of all callers with the same word here. Without it, those of
    /// this caller alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64), extend("examples" = ["sales"])))]
    pub contexts: Option<String>,
    /// Under which names the caller may open links (`causeway connect`); `*` is any run of characters, `?` any one.
    /// Without it, and with an empty list, under none; `admin` does not imply it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default, extend("examples" = [["laptop", "build-*"]])))]
    pub links: Vec<String>,
    /// May read the whole status and change the configuration.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub admin: bool,
}

/// Limits on what callers may send and how long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Limits {
    /// The size of a request: 1 KiB to 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "4MiB")))]
    pub body: Option<Size>,
    /// Messages in one JSON-RPC batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000), extend("default" = 64)))]
    pub batch: Option<u32>,
    /// How long a merged answer waits for slow servers: 100 milliseconds to 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "10s")))]
    pub merge_deadline: Option<Span>,
    /// Items in one page of a merged list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10000), extend("default" = 1000)))]
    pub page: Option<u32>,
    /// How long a session lives after it was made: 1 minute to 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "24h")))]
    pub session_age: Option<Span>,
    /// Silence on a stream before a keep-alive comment is sent: 1 second to 10 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "15s")))]
    pub keep_alive: Option<Span>,
    /// How long a call that asked its caller something waits for the answer: 1 second to 1 hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "10m")))]
    pub park: Option<Span>,
    /// Calls of one caller that may run or wait so at one server at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000), extend("default" = 64)))]
    pub parked: Option<u32>,
    /// How often one call may ask its caller before it is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000), extend("default" = 32)))]
    pub rounds: Option<u32>,
    /// How much of a stream is kept for a client that lost it and comes back: 4 KiB to 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "1MiB")))]
    pub replay: Option<Size>,
    /// How long a link whose connection was lost may come back and go on where it was: 0 to 10 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = "60s")))]
    pub link_resume: Option<Span>,
    /// Requests that may be on their way through one link at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10000), extend("default" = 1024)))]
    pub link_calls: Option<u32>,
    /// Open `subscriptions/listen` streams of one caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10000), extend("default" = 64)))]
    pub subscriptions: Option<u32>,
    /// Processes of all programs together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10000), extend("default" = 64)))]
    pub processes: Option<u32>,
}

/// How sessions of clients of revisions before 2026-07-28 are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Sessions {
    /// Serve clients that never send back the session id that they were given, as well as that goes: those of one caller
    /// that use one endpoint and send one `User-Agent` share a session and everything that belongs to it, and cannot
    /// cancel calls. Without it they are told what is missing.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub lenient: bool,
}

/// A map that keeps the order of the file. Names are unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<T>(pub(super) Vec<(String, T)>);

impl<T> Named<T> {
    /// Names and values, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value called `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&T> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A length of time, written as `5s`, `250ms`, `2m`, `24h` or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// What text may stand for a length of time.
    #[cfg(feature = "schema")]
    pub(super) const PATTERN: &str = r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h|d)$";

    /// Reads `5s`, `250ms`, `1.5m`, `24h`, `7d`. A number needs its unit.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, unit) = amount(text)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        Self::seconds(number * seconds)
    }

    pub(super) fn seconds(seconds: f64) -> Option<Self> {
        // Whole milliseconds, of ten years at the most: every bound is far below.
        let seconds = if seconds.is_finite() { seconds.min(315_360_000.0) } else { seconds };
        (0.0..=315_360_000.0).contains(&seconds).then(|| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range was checked"
            )]
            Self(Duration::from_millis((seconds * 1000.0).round() as u64))
        })
    }
}

impl std::fmt::Display for Span {
    /// The shortest way to write it with one unit.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_millis();
        match [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
            .into_iter()
            .find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A size, written as `16MiB`, `500kB` or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Size(pub u64);

impl Size {
    /// What text may stand for a size.
    #[cfg(feature = "schema")]
    pub(super) const PATTERN: &str = r"^[0-9]+(\.[0-9]+)? ?(B|kB|KB|MB|GB|KiB|MiB|GiB)$";

    /// Reads `16MiB`, `500kB`, `1.5 GiB`. A number needs its unit.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, unit) = amount(text)?;
        let bytes = match unit {
            "B" => 1.0,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        };
        Self::bytes(number * bytes)
    }

    pub(super) fn bytes(bytes: f64) -> Option<Self> {
        // What a number of this kind holds exactly: every bound is far below.
        const MOST: f64 = 9_007_199_254_740_992.0;
        let bytes = if bytes.is_finite() { bytes.min(MOST) } else { bytes };
        (0.0..=MOST).contains(&bytes).then(|| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range was checked"
            )]
            Self(bytes.round() as u64)
        })
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
            .into_iter()
            .find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Splits `1.5 MiB` into its number and its unit.
fn amount(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let starts_and_ends_in_digits = !number.starts_with('.') && !number.ends_with('.');
    let number = number.parse().ok().filter(|_| starts_and_ends_in_digits)?;
    Some((number, unit.strip_prefix(' ').unwrap_or(unit)))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Kind {
    /// Every way to write it that clients use.
    pub(super) const SPELLINGS: [(&str, Self); 9] = [
        ("http", Self::Http),
        ("streamable-http", Self::Http),
        ("streamableHttp", Self::Http),
        ("streamable_http", Self::Http),
        ("remote", Self::Http),
        ("sse", Self::Sse),
        ("stdio", Self::Stdio),
        ("local", Self::Stdio),
        ("command", Self::Stdio),
    ];
}
