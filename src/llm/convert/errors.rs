//! Errors, as a caller's dialect tells them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::Front;
use crate::fault::Kind;
use crate::llm::refusal::Refusal;

/// Tells both official SDKs whether trying again is of any use.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The status, headers and body of a refusal.
#[must_use]
pub fn head(front: Front, refusal: &Refusal, request_id: &str) -> (StatusCode, HeaderMap, Bytes) {
    let row = refusal.fault.kind.row();
    let status = match (front, refusal.fault.kind) {
        // These fronts tell a wrong request by 400, and overload in their own way.
        (Front::OpenAi | Front::Anthropic, Kind::Unprocessable) => 400,
        (Front::Anthropic, Kind::Overloaded) => 529,
        _ => row.status,
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = HeaderMap::new();
    let kind = if front == Front::Ask { "application/problem+json" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(wait) = refusal.wait {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if !row.retry && (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    (status, headers, failure(front, refusal, request_id))
}

/// The body of a refusal, which is also what stands in a stream.
#[must_use]
pub fn failure(front: Front, refusal: &Refusal, request_id: &str) -> Bytes {
    let kind = refusal.fault.kind;
    let message = refusal.fault.message.as_str();
    let body = match front {
        Front::OpenAi => {
            let (name, code) = openai(kind);
            let param = refusal.param.as_deref().or((kind == Kind::UnknownModel).then_some("model"));
            json!({"error": {"message": message, "type": name, "param": param, "code": code}})
        }
        Front::Anthropic => {
            let error = json!({"type": anthropic(kind), "message": message});
            json!({"type": "error", "error": error, "request_id": request_id})
        }
        Front::Ask | Front::Sampling => problem(refusal, request_id),
    };
    Value::to_string(&body).into()
}

/// A problem document (RFC 9457), which names the member of the request that is at fault.
fn problem(refusal: &Refusal, request_id: &str) -> Value {
    let row = refusal.fault.kind.row();
    let title = StatusCode::from_u16(row.status).ok().and_then(|status| status.canonical_reason());
    let mut body = json!({
        "title": title, "status": row.status, "detail": refusal.fault.message, "code": row.label,
        "request_id": request_id,
    });
    let param = refusal.param.as_ref().filter(|param| param.is_empty() || param.starts_with('/'));
    if let (Some(param), Some(body)) = (param, body.as_object_mut()) {
        body.insert(
            "errors".into(),
            json!([{"pointer": format!("#{param}"), "detail": refusal.fault.message}]),
        );
    }
    body
}

/// The `type` and `code` of OpenAI (platform.openai.com/docs/guides/error-codes).
fn openai(kind: Kind) -> (&'static str, &'static str) {
    let row = kind.row();
    match kind {
        Kind::Unauthorized => ("invalid_request_error", "invalid_api_key"),
        Kind::UnknownModel => ("invalid_request_error", "model_not_found"),
        Kind::ContextTooLong => ("invalid_request_error", "context_length_exceeded"),
        Kind::ContentFiltered => ("invalid_request_error", "content_filter"),
        Kind::ProviderQuota => ("insufficient_quota", "insufficient_quota"),
        Kind::RateLimited => ("rate_limit_error", "rate_limit_exceeded"),
        _ if row.status >= 500 => ("server_error", row.label),
        _ => ("invalid_request_error", row.label),
    }
}

/// The `type` of Anthropic (platform.claude.com/docs/en/api/errors).
fn anthropic(kind: Kind) -> &'static str {
    match (kind, kind.row().status) {
        (Kind::Overloaded, _) => "overloaded_error",
        (Kind::ProviderQuota | Kind::RateLimited, _) | (_, 429) => "rate_limit_error",
        (_, 401) => "authentication_error",
        (_, 403) => "permission_error",
        (_, 404) => "not_found_error",
        (_, 413) => "request_too_large",
        (_, 504) => "timeout_error",
        (_, 500..) => "api_error",
        _ => "invalid_request_error",
    }
}
