//! What a server is: asked once, and remembered.
//!
//! Source: 2026-07-28 versioning and Streamable HTTP, "Backward Compatibility".

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::handshake::{GATEWAY, everything};
use super::{Asked, IMPLEMENTATION, field};
use crate::config::plan::{Server, Transport};
use crate::fault::{Fault, Kind};
use crate::mcp::memory::{Profile, ServerMemory, UpstreamSession};
use crate::mcp::revision::{Era, Revision};
use crate::mcp::{Mcp, extensions};
use crate::platform::Platform;

impl<P: Platform> Mcp<P> {
    /// What the server is: remembered, or asked once.
    ///
    /// # Errors
    /// When the server cannot be reached or is no MCP server.
    pub async fn profile(&self, server: &Arc<Server>) -> Result<Arc<Profile>, Fault> {
        let memory = self.memory.server(server);
        if let Some(known) = memory.profile() {
            return Ok(known);
        }
        let key = format!("profile {}", server.name);
        // Boxed: a server is asked once, and every call would have to make room for it.
        self.once(&key, || memory.profile(), || Box::pin(self.probe(server, &memory))).await
    }

    /// Asks the server what it is: `server/discover` first, `initialize` if that is no modern answer, and if it
    /// takes neither, for the stream of HTTP+SSE (2026-07-28 Streamable HTTP, "Backward Compatibility").
    async fn probe(&self, server: &Arc<Server>, memory: &ServerMemory) -> Result<Arc<Profile>, Fault> {
        let kept = |(session, result): (UpstreamSession, Box<RawValue>)| {
            let profile = initialized(&result, &session);
            if session.endpoint.is_none() {
                memory.pool(GATEWAY, session);
            }
            memory.set_profile(profile)
        };
        if server.transport == Transport::HttpSse {
            let (_, session, result) =
                self.open_old(server, &everything(server), IMPLEMENTATION, Revision::LEGACY).await?;
            return Ok(kept((session, result)));
        }
        let mut asked = self.ask(server, "server/discover", "{}", None).await;
        if supported(&asked).is_some_and(|all| all.contains(&Some(Revision::MODERN))) {
            // It refused a version that it lists (2026-07-28 versioning, "Protocol Version Negotiation").
            asked = self.ask(server, "server/discover", "{}", None).await;
        }
        let versions = supported(&asked);
        let modern = match asked {
            Ok(result) => Some(result),
            Err(Asked::Fault(fault)) => return Err(fault),
            Err(Asked::NotMcp(status, fault)) if is_final(status) => return Err(fault),
            Err(asked) => match versions {
                // A modern server without a legacy revision has no use for `initialize`.
                Some(all) if all.contains(&Some(Revision::MODERN)) && !has_legacy(&all) => {
                    return Err(asked.fault(&server.name, "server/discover"));
                }
                Some(all) if all.iter().all(Option::is_none) => {
                    let message = format!(
                        "server {:?}: speaks none of the protocol revisions that the gateway speaks",
                        server.name
                    );
                    return Err(Fault::new(Kind::UpstreamInvalid, message));
                }
                _ => None,
            },
        };
        if let Some(result) = modern
            && let Some(profile) = discovered(&result)
        {
            return Ok(memory.set_profile(profile));
        }
        let (fault, refusal) =
            match self.try_handshake(server, &everything(server), IMPLEMENTATION, Revision::LEGACY).await {
                Ok((session, result)) => {
                    self.confirm(server, &session).await;
                    return Ok(kept((session, result)));
                }
                Err(refused) => refused,
            };
        if refusal.is_some_and(|(status, code)| may_be_old(status, code))
            && let Some((_, session, result)) = self.detect_old(server).await?
        {
            return Ok(kept((session, result)));
        }
        Err(fault)
    }
}

/// Whether a server that refused `initialize` like this may be one of HTTP+SSE: one that has newer transports says
/// what is wrong with the message (2026-07-28 Streamable HTTP, "HTTP+SSE Transport").
fn may_be_old(status: StatusCode, code: Option<i64>) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405)
        && !code.is_some_and(|code| matches!(code, -32022..=-32020 | -32601))
}

/// An HTTP error that has nothing to do with the era: trying `initialize` would only meet it again.
fn is_final(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 407 | 429) || status.is_server_error()
}

/// What an `UnsupportedProtocolVersionError` says that the server speaks; `None` in the list is a revision that the
/// gateway does not know.
fn supported(asked: &Result<Box<RawValue>, Asked>) -> Option<Vec<Option<Revision>>> {
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let Err(Asked::Refused { code: -32022, data: Some(data), .. }) = asked else { return None };
    let data: Data = serde_json::from_str(data.get()).ok()?;
    Some(data.supported.iter().map(|version| Revision::parse(version)).collect())
}

fn has_legacy(versions: &[Option<Revision>]) -> bool {
    versions.iter().flatten().any(|revision| revision.era() == Era::Legacy)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described<'a> {
    #[serde(default)]
    supported_versions: Vec<String>,
    #[serde(borrow, default)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default)]
    server_info: Option<&'a RawValue>,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

fn empty_object() -> Box<RawValue> {
    // `{}` is JSON.
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

/// Reads a `server/discover` result; `None` if it is none.
fn discovered(result: &RawValue) -> Option<Profile> {
    let described: Described<'_> = serde_json::from_str(result.get()).ok()?;
    let versions: Vec<Revision> =
        described.supported_versions.iter().filter_map(|version| Revision::parse(version)).collect();
    let newest = |era| versions.iter().copied().filter(|revision| revision.era() == era).max();
    newest(Era::Modern)?;
    let capabilities = described.capabilities.map_or_else(empty_object, RawValue::to_owned);
    Some(Profile {
        modern: newest(Era::Modern),
        legacy: newest(Era::Legacy),
        sessions: newest(Era::Legacy).is_some(),
        http_sse: false,
        extensions: extensions::names(&capabilities),
        tasks: field(&capabilities, "tasks").is_some(),
        capabilities,
        info: described.meta.and_then(|meta| field(meta, "io.modelcontextprotocol/serverInfo")),
        instructions: described.instructions,
        result: result.to_owned(),
    })
}

/// Reads an `initialize` result.
fn initialized(result: &RawValue, session: &UpstreamSession) -> Profile {
    let described = serde_json::from_str::<Described<'_>>(result.get()).ok();
    let of = |pick: fn(&Described<'_>) -> Option<Box<RawValue>>| described.as_ref().and_then(pick);
    let capabilities = of(|d| d.capabilities.map(RawValue::to_owned)).unwrap_or_else(empty_object);
    Profile {
        modern: None,
        legacy: Some(session.revision),
        sessions: session.id.is_some(),
        http_sse: session.endpoint.is_some(),
        extensions: extensions::names(&capabilities),
        tasks: field(&capabilities, "tasks").is_some(),
        capabilities,
        info: of(|d| d.server_info.map(RawValue::to_owned)),
        instructions: described.as_ref().and_then(|d| d.instructions.clone()),
        result: result.to_owned(),
    }
}
