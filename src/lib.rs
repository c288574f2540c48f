//! Causeway: an MCP gateway and LLM router that lives at the edge.
//!
//! One idea carries the rest: **the gateway is a function from a request to a reply; a platform is what it runs on.**
//! The core says what should happen and never touches a socket, a clock, a thread or the environment by itself.
//!
//! ```text
//! http::Request -> inbound   place, host, origin, size
//!               -> auth      who the caller is, by the key
//!               -> mcp       the message, taken apart as far as routing needs; the rest stays raw bytes
//!                            one request upstream, in the server's own era
//!               -> relay     upstream bytes in, caller bytes out, pulled
//!               -> Reply { response, after }    the adapter writes it, then lets finish(after) run behind it
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`polled`] | mailboxes for hosts where nothing outlives a request |
//! | [`gateway`] | the function: [`gateway::Gateway::handle`] and [`gateway::Gateway::finish`] |
//! | [`admin`] | which configuration is in force, and changing it |
//! | [`instance`] | what a process or isolate remembers between requests |
//! | [`inbound`] | what a request must be before anything else looks at it |
//! | [`auth`] | who the caller is |
//! | [`llm`] | the model router: any provider behind the endpoints of OpenAI and Anthropic
//! | [`mcp`] | the Model Context Protocol: both eras, both sides |
//! | [`tunnel`] | links to machines that only dial out: the protocol, both ends |
//! | [`relay`] | answers being read, with every limit applied |
//! | [`config`] | text to a validated, immutable plan |
//! | [`wire`] | JSON-RPC, server-sent events, sealed tokens, as incremental state machines |
//! | [`platform`] | the seam: what a host must offer |
//! | [`fault`] | what can go wrong, and the one table that says how it is told |
//!
//! Each module uses only what stands below it in this table's tiers; `tests/it/arrows.rs` fails on an arrow the wrong
//! way. A whole gateway, on a platform where nothing is real:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::sync::Arc;
//! use causeway::config::{Config, compile};
//! use causeway::gateway::{Body, Gateway};
//! use causeway::instance::Instance;
//! use causeway::platform::Platform as _;
//! use causeway::testing::Fake;
//!
//! let platform = Fake::default();
//! let config = Config::from_normalized(br#"{"mcpServers":{"docs":{"url":"http://docs/mcp"}}}"#).unwrap();
//! let plan = compile(&config, platform.secrets(), platform.abilities()).unwrap();
//! let gateway = Gateway::new(platform.clone(), Instance::new(Arc::new(plan)));
//!
//! let request = http::Request::get("/health").header("host", "localhost");
//! let request = request.body(futures_util::stream::empty()).unwrap();
//! let reply = platform.run(gateway.handle(request));
//! assert!(matches!(reply.response.body(), Body::Full(body) if body == "{\"status\":\"ok\"}"));
//! # }
//! ```

pub mod admin;
pub mod auth;
pub mod config;
pub mod fault;
pub mod gateway;
pub mod inbound;
pub mod instance;
pub mod llm;
pub mod mcp;
pub mod platform;
pub mod polled;
pub mod relay;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tunnel;
pub mod wire;
