//! Why a request has no answer, in words that say what to do.
//!
//! A server's own JSON-RPC error is passed on as it is, whatever HTTP status it came under: clients act on its
//! code. For everything else the code is -32603, which no client can mistake for one of the modern era's errors
//! when it probes (2026-07-28 stdio, "Backward Compatibility").

use std::time::Duration;

use bytes::Bytes;
use causeway::wire::jsonrpc::{self, Message};
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The code of what went wrong on the way.
const INTERNAL: i64 = -32603;
/// The code of a method that does not exist.
const NO_METHOD: i64 = -32601;
/// The code of headers that do not agree with the body (2026-07-28 basic, "Error Codes").
pub(super) const HEADER_MISMATCH: i64 = -32020;
/// A server's explanation is cut off here when it is quoted.
const QUOTED: usize = 500;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection could be made in this time: the request was not processed.
    Unreachable(String, Duration),
    /// The connection broke before the answer was there: the request may have been processed.
    Cut(String),
    /// The answer's stream ended in good order, without the answer.
    Ended,
    /// An HTTP status that is no success.
    Refused(Box<Refused>),
    /// A JSON-RPC error to what was asked on the client's behalf.
    Said(Said),
    /// The answer is no MCP message. Holds its content type.
    NotMcp(String),
    /// There is no message in the answer. Holds its status.
    Empty(StatusCode),
    /// An answer to something else.
    WrongId,
    /// An event or an answer of more than this many bytes.
    TooLarge(usize),
    /// The session ended while the request was being processed.
    SessionLost,
    /// The session was lost, and the new one is of another revision.
    OtherRevision(String),
    /// The request cannot be sent: what is wrong with it.
    Unsendable(&'static str),
}

/// An HTTP status that is no success, and what came with it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// The JSON-RPC error in the body.
    pub(super) said: Option<Said>,
    /// What a problem document says (RFC 9457).
    detail: Option<String>,
    /// Where else to go, or when.
    hint: Option<String>,
}

/// A server's JSON-RPC error.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    pub(super) code: i64,
    pub(super) message: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

impl Said {
    /// The error in a JSON-RPC message.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        match Message::decode(message) {
            Ok(Message::Response { outcome: Err(error), .. }) => serde_json::from_str(error.get()).ok(),
            _ => None,
        }
    }

    /// The same error for the request `id`.
    pub(super) fn line(&self, id: &RawValue) -> Bytes {
        jsonrpc::error(Some(id), self.code, &self.message, self.data.as_deref())
    }
}

impl Refused {
    /// Reads a response that is no success.
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Problem {
            detail: Option<String>,
            title: Option<String>,
        }
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let hint = if status.is_redirection() {
            // A query may hold a secret.
            header(LOCATION).map(|place| place.split(['?', '#']).next().unwrap_or_default().to_owned())
        } else {
            header(RETRY_AFTER).map(str::to_owned)
        };
        let problem = serde_json::from_slice::<Problem>(body).ok();
        let detail = problem.and_then(|problem| problem.detail.or(problem.title));
        Self { status, said: Said::read(body), detail, hint }
    }

    fn words(&self, url: &str, keyed: bool) -> String {
        let quote = |text: &str| format!(": {}", text.chars().take(QUOTED).collect::<String>());
        let own = self.said.as_ref().map(|said| said.message.as_str()).or(self.detail.as_deref());
        let own = own.map(quote).unwrap_or_default();
        let status = self.status.as_u16();
        match status {
            401 if keyed => format!(
                "{url} does not accept the key (HTTP 401{own}): pass another with --key or CAUSEWAY_KEY"
            ),
            401 => format!("{url} wants a key (HTTP 401{own}): pass one with --key or CAUSEWAY_KEY"),
            403 => format!(
                "{url} forbids this (HTTP 403{own}): use another key, or ask whoever runs the gateway"
            ),
            404 | 405 => format!(
                "there is no MCP endpoint at {url} (HTTP {status}{own}): correct --url, as in https://host/mcp"
            ),
            408 | 425 | 429 => {
                let when = self.hint.as_ref().map_or("later".to_owned(), |hint| format!("after {hint} s"));
                format!("{url} takes no more requests for now (HTTP {status}{own}): try again {when}")
            }
            413 => format!("the message is larger than {url} takes (HTTP 413{own}): send less at once"),
            300..=399 => {
                let place = self.hint.as_ref().map(|hint| format!(" to {hint}")).unwrap_or_default();
                format!("{url} redirects{place} (HTTP {status}): give --url the place where it leads")
            }
            500.. => format!(
                "{url} has failed (HTTP {status}{own}): the request may have been processed; try later"
            ),
            _ => format!("{url} has refused the request (HTTP {status}{own})"),
        }
    }
}

impl Failure {
    fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    /// The HTTP status that it came with.
    pub(super) fn status(&self) -> Option<StatusCode> {
        self.refused().map(|refused| refused.status)
    }

    /// The server's JSON-RPC error, if it is one.
    pub(super) fn code(&self) -> Option<i64> {
        self.refused()?.said.as_ref().map(|said| said.code)
    }

    /// Whether a server that was given a session id says that it does not know it. 404 is what the specification
    /// says (2025-11-25 Transports, "Session Management"); many servers answer 400, for which much else is a reason.
    pub(super) fn lost_session(&self) -> bool {
        let Some(Refused { status, said, .. }) = self.refused() else { return false };
        match (status.as_u16(), said) {
            (404, said) => said.as_ref().is_none_or(|said| said.code != NO_METHOD),
            (400, Some(said)) => said.message.to_ascii_lowercase().contains("session"),
            _ => false,
        }
    }

    /// Whether a stream that cannot be had now may be had later, with nobody changing anything on this side.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Unreachable(..) | Self::Cut(_) | Self::Ended => true,
            Self::Refused(refused) => {
                refused.status.is_server_error() || matches!(refused.status.as_u16(), 408 | 409 | 425 | 429)
            }
            _ => false,
        }
    }

    /// What happened and what to do. `url` is where the request went, without secrets; `keyed` says whether it
    /// carried any.
    pub(super) fn words(&self, url: &str, keyed: bool) -> String {
        match self {
            Self::Unreachable(why, span) => {
                let tried = match span.as_secs() {
                    0 => String::new(),
                    seconds => format!(" for {seconds} s"),
                };
                format!(
                    "{url} could not be reached{tried} ({why}); the request was not processed: check that the \
                     gateway runs and that --url is right, then try again"
                )
            }
            Self::Cut(why) => format!(
                "the connection to {url} broke before the answer was there ({why}); the request may have been \
                 processed and was not sent twice: try again if that does no harm"
            ),
            Self::Ended => format!(
                "{url} ended its stream without the answer; the request may have been processed: try again if that \
                 does no harm"
            ),
            Self::Refused(refused) => refused.words(url, keyed),
            Self::Said(said) => said.message.clone(),
            Self::NotMcp(kind) => {
                format!(
                    "{url} answers with {kind} and not with MCP messages: correct --url, as in https://host/mcp"
                )
            }
            Self::Empty(status) => {
                format!("{url} answered HTTP {} without a message: is it an MCP endpoint?", status.as_u16())
            }
            Self::WrongId => format!("{url} has answered another request than the one it was sent"),
            Self::TooLarge(most) => {
                format!("the answer is larger than {} MiB: ask for less at once", most >> 20)
            }
            Self::SessionLost => format!(
                "{url} has ended the session while the request was being processed; a new one is opened: try again \
                 if the request may run twice"
            ),
            Self::OtherRevision(revision) => format!(
                "{url} has lost the session and now speaks revision {revision}: connect again (restart this server \
                 in the client)"
            ),
            Self::Unsendable(what) => (*what).to_owned(),
        }
    }

    /// The error to answer the request `id` with.
    pub(super) fn line(&self, id: &RawValue, url: &str, keyed: bool) -> Bytes {
        let said = match self {
            Self::Said(said) => Some(said),
            _ => self.refused().and_then(|refused| refused.said.as_ref()),
        };
        match (self.status(), said) {
            // Here the advice is worth more than the server's own words, which it quotes.
            (Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), Some(said)) => {
                jsonrpc::error(Some(id), said.code, &self.words(url, keyed), said.data.as_deref())
            }
            (_, Some(said)) => said.line(id),
            (_, None) => jsonrpc::error(Some(id), INTERNAL, &self.words(url, keyed), None),
        }
    }
}

/// The error for what could not be taken from the client.
pub(super) fn complaint(id: Option<&RawValue>, code: i64, message: &str) -> Bytes {
    jsonrpc::error(id, code, message, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://gw/mcp";

    fn refused(status: u16, body: &str) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        Failure::Refused(Box::new(Refused::new(status, &HeaderMap::new(), body.as_bytes())))
    }

    fn rpc(code: i64, message: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{code},"message":"{message}","data":{{"a":1}}}}}}"#
        )
    }

    fn check(failure: &Failure, expect: &str) {
        let id = RawValue::from_string("\"x\"".to_owned()).unwrap();
        assert_eq!(String::from_utf8(failure.line(&id, URL, true).to_vec()).unwrap(), expect);
    }

    #[test]
    fn errors_of_the_server_keep_code_and_data_and_get_the_id() {
        check(
            &refused(400, &rpc(-32022, "no such version")),
            r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32022,"message":"no such version","data":{"a":1}}}"#,
        );
    }

    #[test]
    fn a_refused_key_is_explained() {
        let words = refused(401, &rpc(-32600, "unknown key")).words(URL, true);
        assert_eq!(
            words,
            "https://gw/mcp does not accept the key (HTTP 401: unknown key): pass another with --key or CAUSEWAY_KEY"
        );
        assert!(refused(401, "").words(URL, false).contains("wants a key (HTTP 401)"));
        check(
            &refused(403, &rpc(-32600, "not yours")),
            r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32600,"message":"https://gw/mcp forbids this (HTTP 403: not yours): use another key, or ask whoever runs the gateway","data":{"a":1}}}"#,
        );
    }

    #[test]
    fn every_failure_says_what_to_do() {
        let says = |failure: &Failure, what: &str| {
            let words = failure.words(URL, true);
            assert!(words.contains(what), "{words}");
        };
        says(&refused(404, "<h1>no</h1>"), "correct --url");
        says(&refused(502, r#"{"title":"Bad Gateway"}"#), "(HTTP 502: Bad Gateway)");
        says(&refused(429, ""), "try again later");
        says(&Failure::Unreachable("refused".into(), Duration::from_secs(30)), "for 30 s (refused)");
        says(&Failure::Cut("reset".into()), "may have been processed");
        says(&Failure::NotMcp("text/html".into()), "answers with text/html");
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "https://new/mcp?token=secret".parse().unwrap());
        let moved = Refused::new(StatusCode::PERMANENT_REDIRECT, &headers, b"");
        let words = Failure::Refused(Box::new(moved)).words(URL, true);
        assert!(
            words.contains("redirects to https://new/mcp (HTTP 308)") && !words.contains("secret"),
            "{words}"
        );
    }

    #[test]
    fn lost_sessions_are_told_from_other_refusals() {
        assert!(refused(404, &rpc(-32001, "Session not found")).lost_session());
        assert!(refused(404, "").lost_session());
        assert!(!refused(404, &rpc(-32601, "no such method")).lost_session());
        assert!(refused(400, &rpc(-32000, "Bad Request: No valid session ID provided")).lost_session());
        assert!(!refused(400, &rpc(-32602, "bad arguments")).lost_session());
        assert!(!refused(500, "").lost_session());
    }
}
