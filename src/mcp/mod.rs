//! The Model Context Protocol: both eras, both sides.
//!
//! [`Mcp`] answers one message at a time. It **never** keeps anything but what it has learned ([`memory`]): what
//! must outlive an instance travels sealed with the client or lies in the store.

pub mod apps;
pub mod ask;
pub mod catalog;
pub mod client;
pub mod content;
pub mod extensions;
pub mod feed;
pub mod forward;
pub mod front;
pub mod headers;
pub mod http_sse;
pub mod lenient;
pub mod lines;
pub mod links;
pub mod listen;
pub mod local;
pub mod mailbox;
pub mod memory;
pub mod meta;
pub mod names;
pub mod news;
mod once;
pub mod park;
pub mod resume;
pub mod revision;
pub mod rewrite;
pub mod rounds;
pub mod sampling;
pub mod serve;
pub mod session;
pub mod standing;
pub mod stream;
pub mod tail;
pub mod tasks;
pub mod unknown;
pub mod upstream;
pub mod watch;

use std::sync::Arc;

use http::StatusCode;

use crate::config::Plan;
use crate::config::plan::Server;
use crate::platform::Platform;
use crate::relay::through;
use memory::Memory;

/// The gateway's MCP side, for one request.
#[derive(Clone)]
pub struct Mcp<P: Platform> {
    /// The host.
    pub platform: P,
    /// The plan in force when the request came.
    pub plan: Arc<Plan>,
    /// What the instance has learned.
    pub memory: Arc<Memory>,
    /// On whose behalf, where a companion is to know that.
    asker: Option<Arc<Asker>>,
    /// Who answers servers that ask for a model's words, where a model does.
    models: Option<sampling::Models<P>>,
}

/// On whose behalf something is asked.
#[derive(Debug)]
struct Asker {
    caller: String,
    request_id: String,
}

impl<P: Platform> Mcp<P> {
    /// The MCP side of a gateway.
    pub fn new(platform: P, plan: Arc<Plan>, memory: Arc<Memory>) -> Self {
        Self { platform, plan, memory, asker: None, models: None }
    }

    /// The same for a request of `caller`, where there are links: their companions are told.
    #[must_use]
    pub fn on_behalf(mut self, caller: &str, request_id: &str) -> Self {
        if self.plan.servers.iter().any(|server| server.via.is_some()) {
            let (caller, request_id) = (caller.to_owned(), request_id.to_owned());
            self.asker = Some(Arc::new(Asker { caller, request_id }));
        }
        self
    }

    /// Says on `request` to a server behind a link on whose behalf it is.
    fn sign(&self, server: &Server, request: &mut http::Request<bytes::Bytes>) {
        let Some(asker) = self.asker.as_ref().filter(|_| server.via.is_some()) else { return };
        through::label(request, through::CALLER, &asker.caller);
        through::label(request, through::REQUEST_ID, &asker.request_id);
    }
}

/// The host's secret that tokens are sealed with. Without one a key is made, and kept in the store.
pub const SECRET: &str = "CAUSEWAY_SECRET";

/// The `_meta` that results of our own carry (2026-07-28 basic, "Per-response protocol fields").
pub(crate) const SERVER_META: &str = concat!(
    "\"_meta\":{\"io.modelcontextprotocol/serverInfo\":{\"name\":\"causeway\",\"title\":\"Causeway\",\"version\":\"",
    env!("CARGO_PKG_VERSION"),
    "\"}}"
);

/// `bytes` in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    let mut out = String::with_capacity(bytes.len() * 2);
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    out
}

/// Whether `status` may mean that a server has forgotten a session. 404 is what the specification says; many
/// servers answer 400 to a session id that they do not know.
fn forgotten(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 400)
}

/// Whether this answer to a request in a session says that the server has forgotten the session, and is not about
/// the request.
fn forgets(status: StatusCode, body: &[u8]) -> bool {
    let code = upstream::error_of(body).map(|(code, _)| code);
    let says = || String::from_utf8_lossy(body).to_ascii_lowercase().contains("session");
    forgotten(status) && (status == StatusCode::NOT_FOUND && code != Some(-32601) || says())
}
