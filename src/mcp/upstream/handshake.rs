//! Opening a session with a legacy server.
//!
//! Source: 2025-11-25 lifecycle, "Initialization"; transports, "Session Management".

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::value::RawValue;

use super::{ERROR_BODY, Outgoing, error_of, field, refused};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::mcp::memory::UpstreamSession;
use crate::mcp::revision::{Era, Revision};
use crate::mcp::{Mcp, extensions, headers, meta};
use crate::platform::Platform;
use crate::wire::jsonrpc::{Message, string};

/// The holder of the gateway's own sessions.
pub const GATEWAY: &str = "";

/// What the gateway says that it can do where it only wants to know what a server offers: some offer a tool only to
/// clients that can be asked what the tool asks.
const EVERYTHING: &str = concat!(
    r#"{"sampling":{},"elicitation":{"form":{},"url":{}},"roots":{},"extensions":{"io.modelcontextprotocol/ui":"#,
    r#"{"mimeTypes":["text/html;profile=mcp-app"]}}}"#
);
/// The extension for user interfaces (MCP Apps): the one that servers fit their lists to without declaring it.
pub const UI: &str = "io.modelcontextprotocol/ui";

/// What the gateway says to `server` that it can do, for the same end: what clients could at most.
pub fn everything(server: &Server) -> String {
    let all = RawValue::from_string(EVERYTHING.to_owned()).unwrap_or_default();
    extensions::told(server, &all).get().to_owned()
}

/// What opens the exchange of messages once a session is agreed.
pub const READY: &[u8] = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}";

impl<P: Platform> Mcp<P> {
    /// Opens a session with a legacy server. Gives the session and the whole `initialize` result.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn initialize(
        &self,
        server: &Arc<Server>,
        capabilities: &str,
        client_info: &str,
        revision: Revision,
    ) -> Result<(UpstreamSession, Box<RawValue>), Fault> {
        let (session, result) = self.handshake(server, capabilities, client_info, revision).await?;
        self.confirm(server, &session).await;
        Ok((session, result))
    }

    /// The second half of opening a session.
    pub async fn confirm(&self, server: &Arc<Server>, session: &UpstreamSession) {
        self.tell(server, Bytes::from_static(READY), session).await;
    }

    /// The first half of opening a session: the server has one from here on, and is to be told that the gateway is
    /// ready ([`Self::confirm`]).
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn handshake(
        &self,
        server: &Arc<Server>,
        capabilities: &str,
        client_info: &str,
        revision: Revision,
    ) -> Result<(UpstreamSession, Box<RawValue>), Fault> {
        self.try_handshake(server, capabilities, client_info, revision).await.map_err(|(fault, _)| fault)
    }

    /// The same; a server that refuses by an HTTP error gives its status, and the code of its JSON-RPC error.
    pub(super) async fn try_handshake(
        &self,
        server: &Arc<Server>,
        capabilities: &str,
        client_info: &str,
        revision: Revision,
    ) -> Result<(UpstreamSession, Box<RawValue>), (Fault, Option<(StatusCode, Option<i64>)>)> {
        let plain = |fault| (fault, None);
        let id = format!("causeway-{}", self.memory.server(server).next_id());
        let params = introduction(capabilities, client_info, revision);
        // No version header: the version is not agreed yet (2025-11-25 transports, "Protocol Version Header").
        let body = meta::request(&id, "initialize", &params);
        let outgoing = Outgoing { http: Method::POST, to: None, body, headers: HeaderMap::new() };
        let mut answered = self.exchange(server, outgoing).await.map_err(plain)?;
        if !answered.status.is_success() {
            let status = answered.status;
            let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
            let code = error_of(&body).map(|(code, _)| code);
            let fault = code.map_or_else(|| refused(server, status), |code| not_initialized(server, code));
            return Err((fault, Some((status, code))));
        }
        let issued = session_id(&answered.headers);
        let body = self.single(answered, &format!("\"{id}\""), None).await.map_err(plain)?;
        let Ok(Message::Response { outcome: Ok(result), .. }) = Message::decode(&body) else {
            let code = error_of(&body).map_or(-32603, |(code, _)| code);
            return Err(plain(not_initialized(server, code)));
        };
        let revision = agreed(server, result).map_err(plain)?;
        Ok((UpstreamSession { id: issued, revision, endpoint: None, kept: false }, result.to_owned()))
    }
}

/// The parameters of `initialize`.
pub fn introduction(capabilities: &str, client_info: &str, revision: Revision) -> String {
    format!(
        "{{\"protocolVersion\":\"{}\",\"capabilities\":{capabilities},\"clientInfo\":{client_info}}}",
        revision.as_str()
    )
}

/// The revision that an `initialize` result agrees on.
pub fn agreed(server: &Server, result: &RawValue) -> Result<Revision, Fault> {
    let chosen = field(result, "protocolVersion").as_deref().and_then(string).as_deref().map(Revision::parse);
    chosen.flatten().filter(|revision| revision.era() == Era::Legacy).ok_or_else(|| {
        let message = format!("server {:?}: chose a protocol revision that nobody offered", server.name);
        Fault::new(Kind::UpstreamInvalid, message)
    })
}

/// The session id that an `initialize` answer carries: visible ASCII of sane length.
fn session_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(headers::SESSION)?.to_str().ok()?;
    (value.len() <= 1024 && !value.is_empty() && value.bytes().all(|b| (0x21..=0x7E).contains(&b)))
        .then(|| value.to_owned())
}

/// The server refused `initialize` with a JSON-RPC error.
pub fn not_initialized(server: &Server, code: i64) -> Fault {
    let message = format!("server {:?}: refused initialize with error {code}", server.name);
    Fault::new(Kind::UpstreamRefused, message)
}
