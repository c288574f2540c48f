//! What a provider's error means: one [`Fault`] for each, whatever its dialect.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::json::{list, text};
use crate::fault::{Fault, Kind};

/// The longest text of a provider that is told on.
const MOST_TEXT: usize = 1000;

/// Why there is no answer.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What happened.
    pub fault: Fault,
    /// The member of the request that is at fault.
    pub param: Option<String>,
    /// When it may work again.
    pub wait: Option<Duration>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { fault, param: None, wait: None }
    }
}

impl Refusal {
    /// A refusal of `kind`.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Fault::new(kind, message).into()
    }

    /// The caller's request is wrong at `param`.
    #[must_use]
    pub fn wrong(param: impl Into<String>, what: &str) -> Self {
        let param = param.into();
        let message = format!("{param}: {what}");
        Self { fault: Fault::new(Kind::Unprocessable, message), param: Some(param), wait: None }
    }

    /// Whether another provider, or the same one later, may answer.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self.fault.kind,
            Kind::ProviderAuthentication
                | Kind::ProviderQuota
                | Kind::RateLimited
                | Kind::Overloaded
                | Kind::UnknownModel
                | Kind::LinkOffline
                | Kind::UpstreamConnect
                | Kind::UpstreamTimeout
                | Kind::UpstreamCut
                | Kind::UpstreamInvalid
                | Kind::UpstreamRefused
        )
    }

    /// Whether the same provider may answer when it is asked again soon.
    #[must_use]
    pub fn may_mend(&self) -> bool {
        matches!(
            self.fault.kind,
            Kind::RateLimited | Kind::Overloaded | Kind::UpstreamConnect | Kind::UpstreamCut
        )
    }
}

/// An error as a provider words it.
#[derive(Debug, Default)]
pub struct Words<'a> {
    /// What it says.
    pub message: &'a str,
    /// Its names for what happened, of whatever kind: `code`, `type`, `status`, an exception.
    pub names: Vec<&'a str>,
    /// The member of the request that is at fault.
    pub param: Option<&'a str>,
}

impl<'a> Words<'a> {
    /// The words of an error body in any of the forms in use: `{error: {message, type, code, param}}`, `{error:
    /// "text"}`, `{message}`, `[{error: …}]`.
    #[must_use]
    pub fn of(body: &'a Value) -> Self {
        let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
        let error = body.get("error").unwrap_or(body);
        if let Some(message) = error.as_str() {
            return Self { message, ..Self::default() };
        }
        let message = ["message", "Message", "detail"].iter().find_map(|key| text(error, key));
        let mut names: Vec<&str> =
            ["code", "type", "status", "__type"].iter().filter_map(|key| text(error, key)).collect();
        // Azure says more further in; Gemini in its details.
        names.extend(error.get("innererror").and_then(|inner| text(inner, "code")));
        names.extend(list(error, "details").iter().filter_map(|detail| text(detail, "reason")));
        // OpenRouter passes on what the provider behind it said.
        let raw = error.get("metadata").and_then(|metadata| text(metadata, "raw"));
        let message = match (message, raw) {
            (Some("Provider returned error") | None, Some(raw)) => raw,
            (message, _) => message.unwrap_or_default(),
        };
        Self { message, names, param: text(error, "param") }
    }
}

/// What an error of `provider` means. Sources: each provider's page on errors, named in `tests/fixtures/llm`.
#[must_use]
pub fn sorted(provider: &str, status: StatusCode, headers: &HeaderMap, words: &Words<'_>) -> Refusal {
    let lower = words.message.to_ascii_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    let named = |names: &[&str]| {
        words.names.iter().any(|name| {
            // AWS puts a shape's namespace in front, or a URL behind.
            let name = name.rsplit('#').next().unwrap_or(name).split(':').next().unwrap_or(name);
            names.iter().any(|known| known.eq_ignore_ascii_case(name))
        })
    };
    let kind = if named(&[
        "insufficient_quota",
        "billing_error",
        "billing_hard_limit_reached",
        "ServiceQuotaExceededException",
    ]) || status == StatusCode::PAYMENT_REQUIRED
        || says(&["credit balance is too low", "insufficient credits"])
    {
        Kind::ProviderQuota
    } else if named(&[
        "invalid_api_key",
        "authentication_error",
        "API_KEY_INVALID",
        "UNAUTHENTICATED",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "ExpiredTokenException",
    ]) || status == StatusCode::UNAUTHORIZED
    {
        Kind::ProviderAuthentication
    } else if named(&["context_length_exceeded", "string_above_max_length"])
        || status != StatusCode::TOO_MANY_REQUESTS
            && says(&[
                "prompt is too long",
                "maximum context length",
                "context length",
                "context window",
                "exceeds the available context size",
                "input token count",
                "input is too long",
                "too many input tokens",
            ])
    {
        Kind::ContextTooLong
    } else if named(&[
        "content_filter",
        "content_policy_violation",
        "ResponsibleAIPolicyViolation",
        "content_filter_policy",
    ]) || says(&["content management policy", "content filter", "flagged"])
        && status.is_client_error()
    {
        Kind::ContentFiltered
    } else if named(&["permission_error", "PERMISSION_DENIED", "AccessDeniedException"])
        || status == StatusCode::FORBIDDEN
    {
        Kind::ProviderAuthentication
    } else if named(&[
        "model_not_found",
        "DeploymentNotFound",
        "ResourceNotFoundException",
        "not_found_error",
        "NOT_FOUND",
    ]) || status == StatusCode::NOT_FOUND
        || status == StatusCode::BAD_REQUEST
            && says(&["invalid model", "model identifier is invalid", "not a valid model", "model not found"])
    {
        Kind::UnknownModel
    } else if named(&[
        "overloaded_error",
        "UNAVAILABLE",
        "ServiceUnavailableException",
        "ModelNotReadyException",
        "engine_overloaded",
    ]) || matches!(status.as_u16(), 503 | 529)
    {
        Kind::Overloaded
    } else if named(&["rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED", "ThrottlingException"])
        || status == StatusCode::TOO_MANY_REQUESTS
    {
        Kind::RateLimited
    } else if named(&["timeout_error", "DEADLINE_EXCEEDED", "ModelTimeoutException"])
        || matches!(status.as_u16(), 408 | 504)
    {
        Kind::UpstreamTimeout
    } else if status.is_client_error() && !named(&["ModelErrorException"])
        || named(&["invalid_request_error", "INVALID_ARGUMENT", "ValidationException"])
    {
        Kind::ProviderRefused
    } else {
        // What a provider calls its own failure: another one may do better, and so may the same one a moment later.
        Kind::Overloaded
    };
    let told: String = words.message.chars().take(MOST_TEXT).collect();
    let message = match kind {
        // Providers quote a part of the key.
        Kind::ProviderAuthentication => format!(
            "provider {provider:?}: refuses the gateway's credential (HTTP {}); check llm.providers.{provider} in the \
             configuration",
            status.as_u16()
        ),
        _ if told.is_empty() => format!("provider {provider:?}: answered HTTP {}", status.as_u16()),
        _ => format!("provider {provider:?}: {told}"),
    };
    let wait = matches!(kind, Kind::RateLimited | Kind::Overloaded | Kind::ProviderQuota)
        .then(|| wait(headers))
        .flatten();
    Refusal { fault: Fault::new(kind, message), param: words.param.map(str::to_owned), wait }
}

/// What is meant by an error that comes in the middle of a stream, where there is no status.
#[must_use]
pub fn in_stream(provider: &str, error: &Value) -> Refusal {
    let body = error.get("error").unwrap_or(error);
    let places = [body, error];
    let keys = ["code", "status", "status_code"];
    let code = places.iter().find_map(|place| keys.iter().find_map(|key| place.get(key)?.as_u64()));
    let code = code.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
    let status = code.filter(|code| !code.is_success()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut refusal = sorted(provider, status, &HeaderMap::new(), &Words::of(error));
    refusal.wait = refusal.wait.or_else(|| retry_info(error));
    refusal
}

/// When a provider may be asked again: `retry-after-ms`, `retry-after` in seconds, or the reset of a spent limit.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(millis) = get("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return seconds(millis / 1000.0);
    }
    if let Some(wait) = get("retry-after").and_then(|text| seconds(text.parse().ok()?)) {
        return Some(wait);
    }
    // Only the limit that is spent says when the call may be made.
    let spent = |what: &str| get(&format!("x-ratelimit-remaining-{what}")) == Some("0");
    ["requests", "tokens"]
        .iter()
        .filter(|what| spent(what))
        .filter_map(|what| span(get(&format!("x-ratelimit-reset-{what}"))?))
        .max()
}

/// The `RetryInfo` of a Google error.
#[must_use]
pub fn retry_info(body: &Value) -> Option<Duration> {
    let error = body.get("error").unwrap_or(body);
    let delay = list(error, "details").iter().find_map(|detail| text(detail, "retryDelay"))?;
    seconds(delay.strip_suffix('s')?.parse().ok()?)
}

fn seconds(seconds: f64) -> Option<Duration> {
    (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(86_400.0)))
}

/// `1s`, `6m0s`, `250ms`, `1h2m3s`: how OpenAI writes a time.
fn span(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, more) = rest.split_at_checked(end)?;
        let unit = more.find(|c: char| c.is_ascii_digit()).unwrap_or(more.len());
        let (unit, more) = more.split_at_checked(unit)?;
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = more;
    }
    seconds(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_openai_are_read() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(span(text).map(|span| u64::try_from(span.as_millis()).unwrap()), expect, "{text}");
        };
        check("1s", Some(1000));
        check("6m0s", Some(360_000));
        check("250ms", Some(250));
        check("1h0m1.5s", Some(3_601_500));
        check("", Some(0));
        check("soon", None);
        check("5", None);
        check("5x", None);
    }

    #[test]
    fn waits_are_read_from_headers() {
        let check = |headers: &[(&'static str, &'static str)], expect: Option<u64>| {
            let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let map: HeaderMap = map.collect();
            assert_eq!(wait(&map).map(|wait| wait.as_millis().try_into().unwrap()), expect, "{headers:?}");
        };
        check(&[("retry-after", "7")], Some(7000));
        check(&[("retry-after", "7"), ("retry-after-ms", "250")], Some(250));
        check(&[("retry-after", "-3")], None);
        check(&[("retry-after", "1e300")], Some(86_400_000));
        check(&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], None);
        check(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "6m0s")], Some(360_000));
        check(&[("x-ratelimit-remaining-tokens", "9"), ("x-ratelimit-reset-tokens", "6m0s")], None);
    }
}
