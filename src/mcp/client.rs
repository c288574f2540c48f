//! Who asks, and how: the era of a request, its revision, and its session.
//!
//! Source: Streamable HTTP of 2026-07-28 and of 2025-11-25. A request that carries the per-request `_meta` or a
//! modern version header is served statelessly; anything else is of the legacy era (2026-07-28, "Versioning").

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::extensions::matter;
use super::local::LEVELS;
use super::meta::{Meta, Params};
use super::revision::{Era, Revision};
use super::serve::Inbound;
use super::session::Session;
use super::{Mcp, headers, tasks};
use crate::config::plan::Caller;
use crate::fault::{Fault, Kind};
use crate::platform::Platform;
use crate::wire::jsonrpc::string;

/// Who asks, and how.
#[derive(Debug, Clone)]
pub struct Client {
    /// The caller.
    pub caller: Arc<Caller>,
    /// The revision it speaks.
    pub revision: Revision,
    /// Its session, in the legacy era.
    pub session: Option<Session>,
    /// It asked for log messages with this request.
    pub wants_logs: bool,
    /// The least level of them, in the modern era.
    pub log_level: Option<String>,
    /// A modern client's capabilities, if it can be asked anything or has extensions.
    pub capabilities: Option<Box<RawValue>>,
    /// Its name and version, likewise.
    pub info: Option<Box<RawValue>>,
}

impl Client {
    /// A legacy client.
    #[must_use]
    pub fn of_session(caller: Arc<Caller>, session: Session) -> Self {
        Self {
            caller,
            revision: session.facts.revision,
            session: Some(session),
            wants_logs: true,
            log_level: None,
            capabilities: None,
            info: None,
        }
    }

    /// What it can do, as it says it.
    #[must_use]
    pub fn able(&self) -> &str {
        match (&self.session, &self.capabilities) {
            (Some(session), _) => session.facts.capabilities.get(),
            (None, Some(capabilities)) => capabilities.get(),
            (None, None) => "{}",
        }
    }

    /// The era of its revision.
    pub fn era(&self) -> Era {
        self.revision.era()
    }
}

impl<P: Platform> Mcp<P> {
    /// Finds out who speaks and how, and checks what their revision asks of every request.
    pub(super) async fn client(
        &self,
        inbound: &Inbound,
        params: Option<&Params<'_>>,
        method: &str,
    ) -> Result<Client, Fault> {
        let header = inbound.header(&headers::VERSION);
        let meta = Meta::read(params.and_then(|params| params.meta))?;
        let declared = meta.version();
        let of = |text: &str| Revision::parse(text).map(Revision::era);
        let modern = match (header, declared.as_deref()) {
            (_, Some(declared)) => of(declared) != Some(Era::Legacy),
            (Some(header), None) => of(header) == Some(Era::Modern),
            (None, None) => false,
        };
        if modern {
            return Self::modern_client(inbound, &meta, params, method);
        }
        if let Some(header) = header
            && of(header).is_none()
        {
            return Err(unsupported(header));
        }
        let session = match inbound.header(&headers::SESSION) {
            Some(token) => {
                let (caller, server) = (&inbound.caller, inbound.target.as_deref());
                self.session(caller, server, token, Some(&inbound.ticket)).await?
            }
            // Boxed: few need it, and every request would have to make room for it.
            None if self.plan.lenient => Box::pin(self.lenient_session(inbound)).await?,
            None => {
                let message = "no Mcp-Session-Id header: send initialize first and then its session id, or send the \
                               per-request _meta of 2026-07-28; for clients that can do neither, the gateway's \
                               configuration has sessions.lenient";
                return Err(Fault::new(Kind::SessionRequired, message));
            }
        };
        Ok(Client::of_session(inbound.caller.clone(), session))
    }

    fn modern_client(
        inbound: &Inbound,
        meta: &Meta<'_>,
        params: Option<&Params<'_>>,
        method: &str,
    ) -> Result<Client, Fault> {
        let mismatch = |what: &str| {
            Fault::new(Kind::HeaderMismatch, format!("header mismatch: MCP-Protocol-Version {what}"))
        };
        let header = inbound.header(&headers::VERSION);
        let revision = match (header, meta.version()) {
            (None, _) => return Err(mismatch("is required and missing")),
            (Some(header), Some(declared)) if header != declared => {
                return Err(mismatch("does not match the body's _meta"));
            }
            (Some(header), _) => Revision::parse(header).filter(|r| r.era() == Era::Modern),
        };
        let Some(revision) = revision else { return Err(unsupported(header.unwrap_or_default())) };
        meta.require()?;
        let named = match method {
            "tools/call" | "prompts/get" => Some(params.and_then(|params| params.name)),
            "resources/read" => Some(params.and_then(|params| params.uri)),
            // Some clients leave it out, which harms nobody here (SEP-2663, "Routing Headers").
            method if tasks::is_method(method) && inbound.headers.contains_key(headers::NAME) => {
                Some(params.and_then(|params| params.task_id))
            }
            _ => None,
        };
        let name = named.map(|raw| raw.and_then(string).unwrap_or_default());
        headers::check_standard(&inbound.headers, method, name.as_deref())?;
        let known = |raw: &&RawValue| raw.get().len() > 2 && matter(raw);
        let capabilities = meta.capabilities.filter(known).map(RawValue::to_owned);
        let info = meta.client_info.filter(|_| capabilities.is_some()).map(RawValue::to_owned);
        Ok(Client {
            caller: inbound.caller.clone(),
            revision,
            session: None,
            wants_logs: meta.log_level.is_some(),
            log_level: level(meta)?,
            capabilities,
            info,
        })
    }
}

/// The log level that a request asks for.
fn level(meta: &Meta<'_>) -> Result<Option<String>, Fault> {
    let Some(raw) = meta.log_level else { return Ok(None) };
    match string(raw).filter(|level| LEVELS.contains(&level.as_ref())) {
        Some(level) => Ok(Some(level.into_owned())),
        None => {
            let message =
                format!("params._meta: {} must be one of {}", super::meta::LOG_LEVEL, LEVELS.join(", "));
            Err(Fault::new(Kind::InvalidMeta, message))
        }
    }
}

fn unsupported(requested: &str) -> Fault {
    #[derive(serde::Serialize)]
    struct Data<'a> {
        supported: Vec<&'static str>,
        requested: Cow<'a, str>,
    }
    let supported: Vec<&str> = Revision::ALL.into_iter().map(Revision::as_str).collect();
    let message = format!("unsupported protocol version; supported: {}", supported.join(", "));
    let data = Data { supported, requested: requested.chars().take(64).collect::<String>().into() };
    Fault::new(Kind::UnsupportedVersion, message).with_data(&data)
}
