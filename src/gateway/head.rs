//! The head of a reply: status, headers, and what its body will be.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::dock::Opening;
use super::flow::Source;
use crate::fault::Fault;
use crate::mcp::forward::event;
use crate::mcp::headers as mcp_headers;
use crate::mcp::serve::{Answer, Cancel};
use crate::platform::Platform;
use crate::wire::accept::Accepts;

/// An answer, as far as the head of the response knows it.
pub(super) struct Head<P: Platform, F> {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: HeadBody<P, F>,
    pub(super) cancel: Option<Cancel>,
    /// The request goes on as a WebSocket.
    pub(super) opening: Option<Opening>,
}

pub(super) enum HeadBody<P: Platform, F> {
    Full(Bytes),
    Source(Source<P, F>),
}

impl<P: Platform, F> Head<P, F> {
    pub(super) fn full(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        Self { status, headers, body: HeadBody::Full(body), cancel: None, opening: None }
    }

    pub(super) fn events(source: Source<P, F>, cancel: Option<Cancel>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Asked for by 2026-07-28 Streamable HTTP, "Receiving Messages".
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Self { status: StatusCode::OK, headers, body: HeadBody::Source(source), cancel, opening: None }
    }
}

/// The head of an answer, in the form that the caller takes.
pub(super) fn headed<P: Platform, F>(answer: Answer<P>, accepts: Accepts) -> Head<P, F> {
    match answer {
        Answer::Json(status, body) if accepts.json || !status.is_success() => {
            Head::full(status, "application/json", body)
        }
        Answer::Json(_, body) => {
            let mut head = Head::events(Source::Over, None);
            head.body = HeadBody::Full(event(body));
            head
        }
        Answer::Opened(session, body) => {
            let mut head = if accepts.json {
                Head::full(StatusCode::OK, "application/json", body)
            } else {
                let mut head = Head::events(Source::Over, None);
                head.body = HeadBody::Full(event(body));
                head
            };
            if let Ok(session) = HeaderValue::from_str(&session) {
                head.headers.insert(mcp_headers::SESSION, session);
            }
            head
        }
        Answer::Empty(status) => Head::full(status, "", Bytes::new()),
        Answer::Listen(listen) => Head::events(Source::Listen(listen), None),
        Answer::Stream(stream, cancel) if stream.is_events() => Head::events(Source::Relayed(stream), cancel),
        Answer::Stream(stream, cancel) => {
            let mut head = Head::full(StatusCode::OK, "application/json", Bytes::new());
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            head.body = HeadBody::Source(Source::Relayed(stream));
            head.cancel = cancel;
            head
        }
    }
}

/// A fault on an MCP endpoint, before there was a message to answer.
pub(super) fn rpc_refusal<P: Platform, F>(fault: &Fault) -> Head<P, F> {
    let row = fault.kind.row();
    let body = crate::wire::jsonrpc::error(None, row.code, &fault.message, fault.data.as_deref());
    let status = StatusCode::from_u16(row.rpc_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Head::full(status, "application/json", body)
}

/// A fault as a problem document (RFC 9457).
pub(super) fn problem<P: Platform, F>(fault: &Fault, request_id: &str) -> Head<P, F> {
    #[derive(Serialize)]
    struct Problem<'a> {
        title: &'static str,
        status: u16,
        detail: &'a str,
        code: &'static str,
        request_id: &'a str,
    }
    let row = fault.kind.row();
    let status = StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = Problem {
        title: status.canonical_reason().unwrap_or("Error"),
        status: row.status,
        detail: &fault.message,
        code: row.label,
        request_id,
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    Head::full(status, "application/problem+json", body.into())
}
