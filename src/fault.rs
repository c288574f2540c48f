//! What can go wrong, and the one table that says how it is told.
//!
//! A [`Fault`] is sorted by who must act: the caller, the upstream, or we. Its message says what was wrong, with
//! what, and what to do; it never holds a token, an argument or a body.

use serde_json::value::RawValue;

/// Who has to do something about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The request must change.
    Caller,
    /// The server behind the gateway failed or refused.
    Upstream,
    /// A bug or an outage of the gateway.
    Ours,
}

/// What happened. Labels of logs and metrics come from here, never from input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The `Accept` header admits no answer we can give.
    NotAcceptable,
    /// The request body is not JSON.
    UnsupportedMediaType,
    /// The `Origin` is not allowed.
    OriginRefused,
    /// The `Host` is not this gateway's (DNS rebinding).
    HostRefused,
    /// No key, or one we do not know.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// No such path.
    NotFound,
    /// The path does not have this HTTP method.
    MethodNotAllowed,
    /// The request body is larger than allowed.
    BodyTooLarge,
    /// The request body did not arrive whole.
    BodyCut,
    /// The body is not JSON.
    Malformed,
    /// The body is JSON but no JSON-RPC message we can take.
    InvalidRequest,
    /// The parameters are wrong.
    InvalidParams,
    /// There is no such resource (legacy revisions have a code of its own for that).
    ResourceNotFound,
    /// A required field of the request's `_meta` is missing or wrong.
    InvalidMeta,
    /// Headers and body disagree.
    HeaderMismatch,
    /// The client lacks a capability that the call needs.
    MissingCapability,
    /// A `requestState` that is none of ours, another call's, expired, or used before.
    InvalidState,
    /// As much as may wait at one time does already.
    TooMany,
    /// The client answered a server's question with an error.
    ClientRefused,
    /// The protocol version is not served.
    UnsupportedVersion,
    /// The method does not exist here.
    UnknownMethod,
    /// The same, told to a client of the legacy era.
    UnknownMethodLegacy,
    /// The session id is unknown, expired or somebody else's.
    UnknownSession,
    /// A session id is needed.
    SessionRequired,
    /// The field of an HTTP API's body is wrong.
    Unprocessable,
    /// A condition of the request does not hold (`If-Match`, `If-None-Match`).
    PreconditionFailed,
    /// What is asked for conflicts with how this gateway runs.
    Conflict,
    /// The caller has as many streams open as it may have.
    TooManyStreams,
    /// What is at this path must be asked for as a WebSocket.
    UpgradeRequired,
    /// The link behind which the server is, is not connected.
    LinkOffline,
    /// The server could not be reached.
    UpstreamConnect,
    /// The server did not answer in time.
    UpstreamTimeout,
    /// The server's answer ended too early.
    UpstreamCut,
    /// The server refused: an HTTP error status.
    UpstreamRefused,
    /// The server's answer makes no sense.
    UpstreamInvalid,
    /// The server's answer is larger than allowed.
    UpstreamTooLarge,
    /// The server asks for a model's words, which it may not.
    SamplingDenied,
    /// There is no such model, or not for this caller.
    UnknownModel,
    /// The request has more tokens than the model takes.
    ContextTooLong,
    /// The provider of the model does not want to hear or say such things.
    ContentFiltered,
    /// The provider of the model finds the request wrong.
    ProviderRefused,
    /// The provider of the model does not accept the gateway's credential.
    ProviderAuthentication,
    /// What was paid for is used up at the provider of the model.
    ProviderQuota,
    /// The provider of the model has been asked too often.
    RateLimited,
    /// The provider of the model cannot keep up, or fails.
    Overloaded,
    /// The gateway has no usable configuration.
    NotConfigured,
    /// The host's storage or machinery failed.
    Host,
}

/// How a [`Kind`] is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Who must act.
    pub who: Who,
    /// The HTTP status of HTTP APIs.
    pub status: u16,
    /// The HTTP status under a JSON-RPC error.
    pub rpc_status: u16,
    /// The JSON-RPC error code.
    pub code: i64,
    /// The label in logs, metrics and problem documents.
    pub label: &'static str,
    /// Whether the same request may succeed later.
    pub retry: bool,
}

impl Kind {
    /// The table. A new kind does not compile until it has its row.
    ///
    /// JSON-RPC codes: 2026-07-28 basic, "Error Codes". Faults of an upstream are answers to a request that we
    /// accepted, so they travel under HTTP 200: an error status would hide the message from many clients.
    #[must_use]
    pub const fn row(self) -> Row {
        use Who::{Caller, Ours, Upstream};
        let (who, status, rpc_status, code, label, retry) = match self {
            Self::NotAcceptable => (Caller, 406, 406, -32600, "not_acceptable", false),
            Self::UnsupportedMediaType => (Caller, 415, 415, -32600, "unsupported_media_type", false),
            Self::OriginRefused => (Caller, 403, 403, -32600, "origin_refused", false),
            Self::HostRefused => (Caller, 403, 403, -32600, "host_refused", false),
            Self::Unauthorized => (Caller, 401, 401, -32600, "unauthorized", false),
            Self::Forbidden => (Caller, 403, 403, -32600, "forbidden", false),
            Self::NotFound => (Caller, 404, 404, -32600, "not_found", false),
            Self::MethodNotAllowed => (Caller, 405, 405, -32600, "method_not_allowed", false),
            Self::BodyTooLarge => (Caller, 413, 413, -32600, "body_too_large", false),
            Self::BodyCut => (Caller, 400, 400, -32700, "body_cut", true),
            Self::Malformed => (Caller, 400, 400, -32700, "malformed", false),
            Self::InvalidRequest => (Caller, 400, 400, -32600, "invalid_request", false),
            Self::InvalidParams => (Caller, 422, 200, -32602, "invalid_params", false),
            Self::ResourceNotFound => (Caller, 404, 200, -32002, "resource_not_found", false),
            Self::InvalidMeta => (Caller, 422, 400, -32602, "invalid_meta", false),
            Self::HeaderMismatch => (Caller, 400, 400, -32020, "header_mismatch", false),
            Self::MissingCapability => (Caller, 400, 400, -32021, "missing_capability", false),
            Self::InvalidState => (Caller, 422, 200, -32602, "invalid_state", false),
            Self::ClientRefused => (Caller, 422, 200, -32603, "client_refused", false),
            Self::TooMany => (Caller, 429, 200, -32603, "too_many", true),
            Self::UnsupportedVersion => (Caller, 400, 400, -32022, "unsupported_version", false),
            Self::UnknownMethod => (Caller, 404, 404, -32601, "unknown_method", false),
            Self::UnknownMethodLegacy => (Caller, 404, 200, -32601, "unknown_method", false),
            Self::UnknownSession => (Caller, 404, 404, -32001, "unknown_session", false),
            Self::SessionRequired => (Caller, 400, 400, -32600, "session_required", false),
            Self::Unprocessable => (Caller, 422, 422, -32602, "unprocessable", false),
            Self::PreconditionFailed => (Caller, 412, 412, -32600, "precondition_failed", false),
            Self::Conflict => (Caller, 409, 409, -32600, "conflict", false),
            Self::TooManyStreams => (Caller, 429, 429, -32600, "too_many_streams", true),
            Self::UpgradeRequired => (Caller, 426, 426, -32600, "upgrade_required", false),
            Self::LinkOffline => (Upstream, 503, 200, -32603, "link_offline", true),
            Self::UpstreamConnect => (Upstream, 502, 200, -32603, "upstream_connect", true),
            Self::UpstreamTimeout => (Upstream, 504, 200, -32603, "upstream_timeout", true),
            Self::UpstreamCut => (Upstream, 502, 200, -32603, "upstream_cut", true),
            Self::UpstreamRefused => (Upstream, 502, 200, -32603, "upstream_refused", false),
            Self::UpstreamInvalid => (Upstream, 502, 200, -32603, "upstream_invalid", false),
            Self::UpstreamTooLarge => (Upstream, 502, 200, -32603, "upstream_too_large", false),
            Self::SamplingDenied => (Upstream, 502, 200, -32603, "sampling_denied", false),
            Self::UnknownModel => (Caller, 404, 200, -32602, "unknown_model", false),
            Self::ContextTooLong => (Caller, 400, 200, -32602, "context_too_long", false),
            Self::ContentFiltered => (Caller, 400, 200, -32602, "content_filtered", false),
            Self::ProviderRefused => (Caller, 400, 200, -32602, "provider_refused", false),
            Self::ProviderAuthentication => (Upstream, 502, 200, -32603, "provider_authentication", false),
            Self::ProviderQuota => (Upstream, 429, 200, -32603, "provider_quota", false),
            Self::RateLimited => (Upstream, 429, 200, -32603, "rate_limited", true),
            Self::Overloaded => (Upstream, 503, 200, -32603, "overloaded", true),
            Self::NotConfigured => (Ours, 503, 503, -32603, "not_configured", true),
            Self::Host => (Ours, 500, 500, -32603, "host_failure", true),
        };
        Row { who, status, rpc_status, code, label, retry }
    }
}

/// Something went wrong: what, in words, and with which details.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What happened.
    pub kind: Kind,
    /// What was wrong, with what, and what to do.
    pub message: String,
    /// The `data` of the JSON-RPC error, where the specification names one.
    pub data: Option<Box<RawValue>>,
}

impl Fault {
    /// A fault of `kind` with a `message` for whoever must act.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), data: None }
    }

    /// This fault with `data` for the JSON-RPC error. Data that cannot be written as JSON is left out.
    #[must_use]
    pub fn with_data(mut self, data: &impl serde::Serialize) -> Self {
        self.data = serde_json::value::to_raw_value(data).ok();
        self
    }
}
