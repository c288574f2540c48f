//! What servers ask clients in the middle of a call: sampling, elicitation, roots; and how each era says it.
//!
//! The three have the same parameters and results in both eras, but for an id that URL elicitation had and has no
//! more (2026-07-28 changelog, minor change 11).

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::config::plan::{Sampling, Server};
use crate::fault::{Fault, Kind};
use crate::wire::jsonrpc::{self, quote};

/// Methods whose answer may ask for input (2026-07-28 multi round-trip requests, "Supported Requests").
pub const BRIDGED: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];
/// How many bytes one question may have.
pub const QUESTION: usize = 1024 * 1024;

/// Who answers what a server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// The client that made the call, as far as it can.
    Client,
    /// Nobody: the configuration denies it.
    Nobody,
    /// A model of the gateway's own.
    Gateway,
}

/// Who answers when `server` asks for `method`. It is decided here and nowhere else.
#[must_use]
pub fn answerer(server: &Server, method: &str) -> Answerer {
    match (method, server.sampling) {
        (SAMPLING, Sampling::Deny) => Answerer::Nobody,
        (SAMPLING, Sampling::Gateway) => Answerer::Gateway,
        _ => Answerer::Client,
    }
}

/// Asks for a model's words.
const SAMPLING: &str = "sampling/createMessage";

/// What a legacy server is told that asks for what nobody answers: as if somebody had looked at it and declined
/// (2025-11-25 sampling, "Error Handling").
#[must_use]
pub fn denied(id: &RawValue) -> Bytes {
    jsonrpc::error(
        Some(id),
        -1,
        "User rejected sampling request: the gateway denies sampling to this server",
        None,
    )
}

/// Whether `object`, a result or a task, holds requests for input of which one is answered by nobody. There is no way
/// to answer a modern server so: what cannot go on without an answer fails.
///
/// # Errors
/// [`Kind::SamplingDenied`]
pub fn check(server: &Server, object: &RawValue) -> Result<(), Fault> {
    #[derive(Deserialize)]
    struct Asks<'a> {
        #[serde(borrow, default, rename = "inputRequests")]
        requests: Option<std::collections::HashMap<std::borrow::Cow<'a, str>, Asked<'a>>>,
    }
    #[derive(Deserialize)]
    struct Asked<'a> {
        #[serde(borrow, default)]
        method: std::borrow::Cow<'a, str>,
    }
    if answerer(server, SAMPLING) != Answerer::Nobody {
        return Ok(());
    }
    let asks = serde_json::from_str::<Asks<'_>>(object.get()).ok().and_then(|asks| asks.requests);
    let mut methods = asks.iter().flat_map(std::collections::HashMap::values).map(|asked| &asked.method);
    if methods.any(|method| answerer(server, method) == Answerer::Nobody) {
        let message = format!(
            "server {:?}: asks for a model's words, which the configuration denies it (sampling: deny), and cannot \
             go on without",
            server.name
        );
        return Err(Fault::new(Kind::SamplingDenied, message));
    }
    Ok(())
}

/// What a client can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Askable {
    sampling: bool,
    form: bool,
    url: bool,
    roots: bool,
}

impl Askable {
    /// What a client with these capabilities can be asked.
    #[must_use]
    pub fn of(capabilities: &RawValue) -> Self {
        Self::within(&serde_json::from_str(capabilities.get()).unwrap_or_default())
    }

    /// The same, of capabilities that have been read.
    #[must_use]
    pub fn within(all: &Map<String, Value>) -> Self {
        let elicitation = all.get("elicitation").and_then(Value::as_object);
        let mode = |name| elicitation.is_some_and(|modes| modes.contains_key(name));
        Self {
            sampling: all.get("sampling").is_some_and(Value::is_object),
            // An empty object has always meant forms (2026-07-28 elicitation, "Capabilities").
            form: elicitation.is_some() && (mode("form") || !mode("url")),
            url: mode("url"),
            roots: all.get("roots").is_some_and(Value::is_object),
        }
    }

    /// The same as capabilities.
    #[must_use]
    pub fn members(self) -> Map<String, Value> {
        let empty = || Value::Object(Map::new());
        let modes = [("form", self.form), ("url", self.url)].into_iter().filter(|(_, can)| *can);
        let modes: Map<String, Value> = modes.map(|(mode, _)| (mode.to_owned(), empty())).collect();
        let mut all = Map::new();
        if self.sampling {
            all.insert("sampling".to_owned(), empty());
        }
        if !modes.is_empty() {
            all.insert("elicitation".to_owned(), Value::Object(modes));
        }
        if self.roots {
            all.insert("roots".to_owned(), empty());
        }
        all
    }

    /// Whether it can be asked anything.
    #[must_use]
    pub fn anything(self) -> bool {
        self != Self::default()
    }

    /// Whether it can be asked this.
    ///
    /// # Errors
    /// [`Kind::MissingCapability`] naming what it lacks; [`Kind::UpstreamInvalid`] if nobody can be asked this.
    pub fn admit(self, server: &str, method: &str, params: Option<&RawValue>) -> Result<(), Fault> {
        let (able, required) = match method {
            SAMPLING => (self.sampling, r#"{"sampling":{}}"#),
            "elicitation/create" if is_url(params) => (self.url, r#"{"elicitation":{"url":{}}}"#),
            "elicitation/create" => (self.form, r#"{"elicitation":{"form":{}}}"#),
            "roots/list" => (self.roots, r#"{"roots":{}}"#),
            _ => {
                let message =
                    format!("server {server:?}: asked the client for something that no client knows");
                return Err(Fault::new(Kind::UpstreamInvalid, message));
            }
        };
        if able {
            return Ok(());
        }
        let message = format!("server {server:?}: needs a client that answers {method}");
        let data = format!("{{\"requiredCapabilities\":{required}}}");
        let fault = Fault::new(Kind::MissingCapability, message);
        Err(Fault { data: RawValue::from_string(data).ok(), ..fault })
    }
}

/// Whether `method` is one of the questions.
#[must_use]
pub fn is_question(method: &str) -> bool {
    matches!(method, SAMPLING | "elicitation/create" | "roots/list")
}

fn is_url(params: Option<&RawValue>) -> bool {
    #[derive(serde::Deserialize)]
    struct Mode<'a> {
        #[serde(borrow, default)]
        mode: Option<std::borrow::Cow<'a, str>>,
    }
    params
        .and_then(|params| serde_json::from_str::<Mode<'_>>(params.get()).ok())
        .is_some_and(|params| params.mode.as_deref() == Some("url"))
}

/// A question of a legacy server, as a modern client is asked it: an entry of `inputRequests`.
#[must_use]
pub fn to_modern(method: &str, params: Option<&RawValue>) -> String {
    let mut members: Map<String, Value> =
        params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
    members.shift_remove("elicitationId");
    // Progress on the way to the answer, and tasks, belong to requests with an id of their own.
    members.shift_remove("task");
    if let Some(meta) = members.get_mut("_meta").and_then(Value::as_object_mut) {
        meta.shift_remove("progressToken");
        if meta.is_empty() {
            members.shift_remove("_meta");
        }
    }
    let method = String::from_utf8_lossy(&quote(method)).into_owned();
    if members.is_empty() && params.is_none() {
        return format!("{{\"method\":{method}}}");
    }
    format!("{{\"method\":{method},\"params\":{}}}", Value::Object(members))
}

/// The parameters of a modern server's question, as a legacy client is asked it; `elicitation` is the id that a URL
/// elicitation of 2025-11-25 must have.
#[must_use]
pub fn to_legacy(method: &str, params: Option<&RawValue>, elicitation: &str) -> Option<String> {
    let params = params?;
    if method != "elicitation/create" || !is_url(Some(params)) {
        return Some(params.get().to_owned());
    }
    let mut members: Map<String, Value> = serde_json::from_str(params.get()).unwrap_or_default();
    members.entry("elicitationId").or_insert_with(|| elicitation.into());
    Some(Value::Object(members).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_client_is_asked_what_it_declared_and_nothing_else() {
        let check = |capabilities: &str, method: &str, params: &str, expect: Option<&str>| {
            let got = Askable::of(&raw(capabilities)).admit("s", method, Some(&raw(params)));
            let required = got.err().map(|fault| fault.data.map_or_else(String::new, |d| d.get().to_owned()));
            assert_eq!(required.as_deref(), expect, "{capabilities} {method} {params}");
        };
        let form = r#"{"message":"m"}"#;
        let url = r#"{"mode":"url"}"#;
        check(r#"{"elicitation":{}}"#, "elicitation/create", form, None);
        check(r#"{"elicitation":{"form":{}}}"#, "elicitation/create", form, None);
        check(
            r#"{"elicitation":{"url":{}}}"#,
            "elicitation/create",
            form,
            Some(r#"{"requiredCapabilities":{"elicitation":{"form":{}}}}"#),
        );
        check(
            r#"{"elicitation":{}}"#,
            "elicitation/create",
            url,
            Some(r#"{"requiredCapabilities":{"elicitation":{"url":{}}}}"#),
        );
        check(r#"{"elicitation":{"url":{}}}"#, "elicitation/create", url, None);
        check("{}", "roots/list", "{}", Some(r#"{"requiredCapabilities":{"roots":{}}}"#));
        check(r#"{"roots":{}}"#, "roots/list", "{}", None);
        check(r#"{"sampling":{}}"#, "sampling/createMessage", "{}", None);
        check(r#"{"sampling":{}}"#, "tasks/list", "{}", Some(""));
    }

    #[test]
    fn questions_say_the_same_in_both_eras() {
        let modern = |method: &str, params: &str| to_modern(method, Some(&raw(params)));
        assert_eq!(
            modern(
                "elicitation/create",
                r#"{"mode":"url","url":"https://a","elicitationId":"e","message":"m"}"#
            ),
            r#"{"method":"elicitation/create","params":{"mode":"url","url":"https://a","message":"m"}}"#
        );
        assert_eq!(
            modern("roots/list", r#"{"_meta":{"progressToken":1}}"#),
            r#"{"method":"roots/list","params":{}}"#
        );
        assert_eq!(to_modern("roots/list", None), r#"{"method":"roots/list"}"#);
        let legacy = |params: &str| to_legacy("elicitation/create", Some(&raw(params)), "e1").unwrap();
        assert_eq!(legacy(r#"{"mode":"url","url":"u"}"#), r#"{"mode":"url","url":"u","elicitationId":"e1"}"#);
        assert_eq!(legacy(r#"{"message":"m", "x":1}"#), r#"{"message":"m", "x":1}"#);
    }
}
