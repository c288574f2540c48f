//! What a client of the legacy era has agreed with the gateway, and what has to be said again when it is lost.
//!
//! A value that is told what happened and asked what to send; it performs nothing.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use causeway::mcp::headers::{SESSION, VERSION};
use causeway::mcp::meta::Params;
use causeway::wire::jsonrpc::{Message, string};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::flight::key;

/// How many subscriptions are made again in a new session.
const MAX_SUBSCRIPTIONS: usize = 1024;
/// How many requests of the server the client may leave unanswered before they are forgotten here.
const MAX_ASKED: usize = 1024;
/// The lists whose changes are told, as `capabilities` and notifications name them.
const LISTS: [&str; 3] = ["tools", "prompts", "resources"];

/// The session, from the handshake on.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The client's own `initialize`, and its `notifications/initialized`.
    initialize: Option<Bytes>,
    initialized: Option<Bytes>,
    open: Option<Open>,
    /// Counts the sessions, so that what belongs to an earlier one is not taken for one of this.
    generation: u64,
    level: Option<Bytes>,
    subscriptions: BTreeMap<String, Bytes>,
    /// Requests of the server that wait for the client, with the session they came in.
    asked: HashMap<String, (Box<RawValue>, u64)>,
}

#[derive(Debug)]
struct Open {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// The lists whose changes the server tells.
    tells: Vec<&'static str>,
}

#[derive(Deserialize)]
struct Initialized {
    #[serde(default, rename = "protocolVersion")]
    version: String,
    #[serde(default)]
    capabilities: Value,
}

impl Open {
    fn read(id: Option<HeaderValue>, answer: &[u8]) -> Option<(Self, String)> {
        let Ok(Message::Response { outcome: Ok(result), .. }) = Message::decode(answer) else { return None };
        let said: Initialized = serde_json::from_str(result.get()).ok()?;
        let tells = |list: &&str| {
            said.capabilities.pointer(&format!("/{list}/listChanged")) == Some(&Value::Bool(true))
        };
        let tells = LISTS.into_iter().filter(tells).collect();
        Some((Self { id, version: HeaderValue::from_str(&said.version).ok(), tells }, said.version))
    }
}

impl Session {
    /// Which session this is.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The headers of a request in this session (2025-11-25 Transports, "Session Management" and "Protocol Version
    /// Header"), and which session that is.
    pub(super) fn headers(&self) -> (HeaderMap, u64) {
        let mut headers = HeaderMap::new();
        if let Some(open) = &self.open {
            open.id.iter().for_each(|id| _ = headers.insert(SESSION, id.clone()));
            open.version.iter().for_each(|version| _ = headers.insert(VERSION, version.clone()));
        }
        (headers, self.generation)
    }

    /// The client's own handshake `initialize` was answered with `answer`, which came with the session id `id`.
    /// Gives the headers of the session that this one takes the place of, if the server should be told.
    pub(super) fn opened(
        &mut self,
        initialize: Bytes,
        id: Option<HeaderValue>,
        answer: &[u8],
    ) -> Option<HeaderMap> {
        let (open, _) = Open::read(id, answer)?;
        let old = self.headers().0;
        *self = Self {
            initialize: Some(initialize),
            open: Some(open),
            generation: self.generation + 1,
            ..Self::default()
        };
        Some(old).filter(|old| old.contains_key(SESSION))
    }

    /// The client has sent its `notifications/initialized`.
    pub(super) fn initialized(&mut self, message: Bytes) {
        self.initialized = Some(message);
    }

    /// What opens the session again: the client's `initialize`, and its `notifications/initialized` if it has sent
    /// that.
    pub(super) fn handshake(&self) -> Option<(Bytes, Option<Bytes>)> {
        Some((self.initialize.clone()?, self.initialized.clone()))
    }

    /// A new session was opened with `answer` in the place of the lost one.
    ///
    /// # Errors
    /// The revision of the new session, if that is not the one that the client has agreed to.
    pub(super) fn reopened(&mut self, id: Option<HeaderValue>, answer: &[u8]) -> Result<(), String> {
        let (new, revision) = Open::read(id, answer).ok_or_else(|| "unknown".to_owned())?;
        if self.open.as_ref().is_some_and(|old| old.version != new.version) {
            return Err(revision);
        }
        self.open = Some(new);
        self.generation += 1;
        Ok(())
    }

    /// A request of the client has succeeded: what it has set is set again in a new session.
    pub(super) fn succeeded(&mut self, method: &str, message: &Bytes) {
        let uri = || {
            let Ok(Message::Request { params, .. }) = Message::decode(message) else { return None };
            Params::read(params).ok()?.uri.and_then(string).map(std::borrow::Cow::into_owned)
        };
        match method {
            "logging/setLevel" => self.level = Some(message.clone()),
            "resources/subscribe" => {
                if let Some(uri) = uri().filter(|_| self.subscriptions.len() < MAX_SUBSCRIPTIONS) {
                    self.subscriptions.insert(uri, message.clone());
                }
            }
            "resources/unsubscribe" => {
                if let Some(uri) = uri() {
                    self.subscriptions.remove(&uri);
                }
            }
            _ => {}
        }
    }

    /// What the client has set, to be said again in a new session.
    pub(super) fn settings(&self) -> Vec<Bytes> {
        self.level.iter().chain(self.subscriptions.values()).cloned().collect()
    }

    /// The server has asked the client something in session `generation`.
    pub(super) fn asked(&mut self, id: &RawValue, generation: u64) {
        if self.asked.len() >= MAX_ASKED {
            self.asked.clear();
        }
        self.asked.insert(key(id), (id.to_owned(), generation));
    }

    /// The client has answered the request `id` of the server. Whether the server of this session wants to know:
    /// in a new session the id may be that of another question.
    pub(super) fn answered(&mut self, id: &RawValue) -> bool {
        self.asked.remove(&key(id)).is_none_or(|(_, generation)| generation == self.generation)
    }

    /// What the client is to hear when a new session has taken the place of a lost one: that nobody waits for its
    /// answers any more, and that what it has listed may have changed while nobody could say so.
    pub(super) fn missed(&mut self) -> Vec<Bytes> {
        let generation = self.generation;
        let old = self.asked.extract_if(|_, (_, asked_in)| *asked_in != generation);
        let mut missed: Vec<_> = old
            .map(|(_, (id, _))| {
                let reason = "the session of this request was lost";
                let params = json!({ "requestId": id, "reason": reason });
                notification("notifications/cancelled", Some(&params))
            })
            .collect();
        let tells = self.open.iter().flat_map(|open| &open.tells);
        missed.extend(tells.map(|list| notification(&format!("notifications/{list}/list_changed"), None)));
        missed
    }
}

/// A notification of our own to the client.
pub(super) fn notification(method: &str, params: Option<&Value>) -> Bytes {
    let mut message = json!({ "jsonrpc": "2.0", "method": method });
    if let (Some(params), Some(members)) = (params, message.as_object_mut()) {
        members.insert("params".to_owned(), params.clone());
    }
    Bytes::from(message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"prompts":{}}}}"#;

    fn id(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn value(text: &'static str) -> Option<HeaderValue> {
        Some(HeaderValue::from_static(text))
    }

    fn text(messages: &[Bytes]) -> Vec<&str> {
        messages.iter().map(|message| std::str::from_utf8(message).unwrap()).collect()
    }

    fn open() -> Session {
        let mut session = Session::default();
        assert!(session.opened(Bytes::from_static(b"init"), value("s1"), ANSWER.as_bytes()).is_none());
        session
    }

    fn request(method: &str, uri: &str) -> Bytes {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"uri":"{uri}"}}}}"#).into()
    }

    #[test]
    fn what_was_agreed_is_in_every_request() {
        assert!(Session::default().headers().0.is_empty());
        let (headers, generation) = open().headers();
        assert_eq!(generation, 1);
        assert_eq!(headers[SESSION], "s1");
        assert_eq!(headers[VERSION], "2025-11-25");
    }

    #[test]
    fn a_refused_handshake_changes_nothing() {
        let mut session = open();
        let refusal = br#"{"jsonrpc":"2.0","id":0,"error":{"code":-32602,"message":"no"}}"#;
        assert!(session.opened(Bytes::from_static(b"again"), value("s2"), refusal).is_none());
        assert_eq!(session.headers().0[SESSION], "s1");
    }

    #[test]
    fn a_second_handshake_takes_the_place_of_the_first() {
        let mut session = open();
        session.succeeded("logging/setLevel", &Bytes::from_static(b"level"));
        let old = session.opened(Bytes::from_static(b"again"), value("s2"), ANSWER.as_bytes()).unwrap();
        assert_eq!(old[SESSION], "s1");
        assert_eq!(session.headers().0[SESSION], "s2");
        assert!(session.settings().is_empty());
    }

    #[test]
    fn what_was_set_is_set_again() {
        let mut session = open();
        session.succeeded("logging/setLevel", &Bytes::from_static(b"debug"));
        session.succeeded("logging/setLevel", &Bytes::from_static(b"error"));
        for uri in ["a", "b", "c"] {
            session.succeeded("resources/subscribe", &request("resources/subscribe", uri));
        }
        session.succeeded("resources/unsubscribe", &request("resources/unsubscribe", "b"));
        session.succeeded("tools/call", &request("tools/call", "x"));
        let settings = session.settings();
        let settings = text(&settings);
        assert_eq!(settings.len(), 3);
        assert!(settings[0] == "error" && settings[1].contains("\"a\"") && settings[2].contains("\"c\""));
    }

    #[test]
    fn a_new_session_is_of_the_same_revision_or_none() {
        let mut session = open();
        session.initialized(Bytes::from_static(b"inited"));
        assert_eq!(
            session.handshake(),
            Some((Bytes::from_static(b"init"), Some(Bytes::from_static(b"inited"))))
        );
        let other = ANSWER.replace("2025-11-25", "2025-06-18");
        assert_eq!(session.reopened(value("s2"), other.as_bytes()), Err("2025-06-18".to_owned()));
        assert_eq!(session.generation(), 1);
        assert_eq!(session.reopened(value("s2"), ANSWER.as_bytes()), Ok(()));
        assert_eq!(
            (session.generation(), &session.headers().0[SESSION]),
            (2, &HeaderValue::from_static("s2"))
        );
    }

    #[test]
    fn answers_go_to_the_session_that_asked() {
        let mut session = open();
        session.asked(&id("1"), 1);
        session.asked(&id("2"), 1);
        assert!(session.answered(&id("1")));
        session.reopened(value("s2"), ANSWER.as_bytes()).unwrap();
        session.asked(&id("\"3\""), 2);
        assert_eq!(
            text(&session.missed()),
            [
                r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2,"reason":"the session of this request was lost"}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
            ]
        );
        assert!(session.answered(&id("\"3\"")));
        session.asked(&id("4"), 1);
        assert!(!session.answered(&id("4")));
    }
}
