//! One call's answer on its way to the caller: relayed as it is, or rewritten for the caller's era.
//!
//! A stream that breaks ends in a JSON-RPC error for the call, never in a bare cut. Bytes that need no change are
//! **never** changed; they are only watched, to know whether the response has come.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Mcp;
use super::memory::UpstreamSession;
use super::upstream::no_answer;
use crate::fault::{Fault, Kind};
use crate::platform::{Platform, SeamError};
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{self, Message, Splice};
use crate::wire::sse::{Decoder, Event};

/// A stream of events may have so many times the bytes of one answer.
const STREAM: usize = 16;

/// What has to change in messages for the caller.
#[derive(Debug)]
pub struct Rewrite {
    /// The id that the request has upstream, as JSON.
    pub upstream_id: String,
    /// The id that the caller gave it.
    pub id: Box<RawValue>,
    /// The caller is modern and the server is not: results need what 2026-07-28 asks of them.
    pub modern: bool,
    /// The result is one that must say how long it may be kept: for so many milliseconds.
    pub ttl_ms: Option<u128>,
    /// The caller asked for log messages.
    pub logs: bool,
}

/// What becomes of one message.
#[derive(Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// It goes to the caller.
    Pass(Bytes),
    /// It is the response: it goes to the caller, and nothing comes after it. The code is an error's.
    Response(Bytes, Option<i64>),
    /// It is a request of the server that the caller cannot be asked: this goes back.
    Reply(Bytes),
    /// It is not for the caller.
    Drop,
}

impl Rewrite {
    /// Rewrites one message.
    pub fn apply(&self, data: Bytes) -> Rewritten {
        match Message::decode(&data) {
            Ok(Message::Response { id, outcome }) => {
                if id.is_some_and(|id| id.get() != self.upstream_id) {
                    return Rewritten::Drop;
                }
                let mut splice = Splice::new(&data);
                match id {
                    Some(id) => splice.replace(id, self.id.get().as_bytes().to_vec()),
                    None => splice.insert_first(format!("\"id\":{}", self.id.get()).as_bytes()),
                }
                let code = match outcome {
                    Ok(result) => {
                        self.complete(&mut splice, result);
                        None
                    }
                    Err(error) => self.error(&mut splice, error),
                };
                Rewritten::Response(splice.finish(), code)
            }
            Ok(Message::Request { id, method, .. }) => Rewritten::Reply(if method == "ping" {
                jsonrpc::result(id, &serde_json::Map::new())
            } else {
                jsonrpc::error(Some(id), -32601, "the client cannot be asked over this session", None)
            }),
            Ok(Message::Notification { method, .. }) if method == "notifications/message" && !self.logs => {
                Rewritten::Drop
            }
            Ok(Message::Notification { .. }) => Rewritten::Pass(data),
            Err(_) => Rewritten::Drop,
        }
    }

    /// Adds what a modern result must have and a legacy one has not.
    fn complete(&self, splice: &mut Splice<'_>, result: &RawValue) {
        if !self.modern || !result.get().starts_with('{') {
            return;
        }
        let present = members(result);
        let has = |name: &str| present.iter().any(|member| member == name);
        let mut added = Vec::new();
        if !has("resultType") {
            added.push("\"resultType\":\"complete\"".to_owned());
        }
        if let Some(ttl) = self.ttl_ms {
            if !has("ttlMs") {
                added.push(format!("\"ttlMs\":{ttl}"));
            }
            if !has("cacheScope") {
                added.push("\"cacheScope\":\"private\"".to_owned());
            }
        }
        splice.insert_into(result, added.join(",").as_bytes());
    }

    /// Gives an error the code that it has in the caller's era.
    fn error(&self, splice: &mut Splice<'_>, error: &RawValue) -> Option<i64> {
        #[derive(serde::Deserialize)]
        struct Coded<'a> {
            #[serde(borrow)]
            code: &'a RawValue,
        }
        let coded: Coded<'_> = serde_json::from_str(error.get()).ok()?;
        let code = coded.code.get().parse().ok()?;
        // Resource not found has moved (2026-07-28 changelog, minor change 6).
        if self.modern && code == -32002 {
            splice.replace(coded.code, b"-32602".to_vec());
            return Some(-32602);
        }
        Some(code)
    }
}

fn members(object: &RawValue) -> Vec<String> {
    serde_json::from_str::<std::collections::HashMap<String, IgnoredAny>>(object.get())
        .map(|all| all.into_keys().collect())
        .unwrap_or_default()
}

/// How an answer is passed on.
#[derive(Debug)]
pub enum Mode {
    /// One JSON document, as it is.
    Json,
    /// Events as they are, each passed on once it is whole, and watched for the response.
    Events(Decoder, BytesMut),
    /// Events as they are, of a stream that carries no response (a legacy GET).
    Open,
    /// Events rewritten one by one.
    Rewritten(Decoder, Rewrite, UpstreamSession),
}

/// An answer on its way.
pub struct Stream<P: Platform> {
    mcp: Mcp<P>,
    reader: Reader<P>,
    mode: Mode,
    id: Option<Box<RawValue>>,
    ready: VecDeque<Bytes>,
    replies: VecDeque<Bytes>,
    line_begins: bool,
    over: bool,
    passed: usize,
    /// The response has come, or no response belongs on this stream.
    pub answered: bool,
    /// Why there was none.
    pub fault: Option<Kind>,
    /// The server gave an event an id: the client may come back for the rest.
    pub resumable: bool,
}

impl<P: Platform> Stream<P> {
    /// An answer to the request `id`, of which `first` has been read already.
    pub fn new(
        mcp: Mcp<P>,
        reader: Reader<P>,
        mode: Mode,
        id: Option<&RawValue>,
        first: Option<Bytes>,
    ) -> Self {
        let answered = matches!(mode, Mode::Open);
        let mut stream = Self {
            mcp,
            reader,
            mode,
            id: id.map(RawValue::to_owned),
            ready: VecDeque::new(),
            replies: VecDeque::new(),
            line_begins: true,
            over: false,
            passed: first.as_ref().map_or(0, Bytes::len),
            answered,
            fault: None,
            resumable: false,
        };
        stream.ready.extend(first);
        stream
    }

    /// Whether the server's session ends with this, so that it must hear first that nobody waits any more.
    pub fn ends_session(&self) -> bool {
        self.reader.is_session() && !self.over
    }

    /// Whether the body is an event stream.
    pub fn is_events(&self) -> bool {
        !matches!(self.mode, Mode::Json)
    }

    /// Whether a comment may stand here: between two lines of an event stream.
    pub fn may_comment(&self) -> bool {
        self.is_events() && self.line_begins && !self.over
    }

    /// The next bytes for the caller. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes, SeamError>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.line_begins = bytes.last() == Some(&b'\n');
                return Some(Ok(bytes));
            }
            if self.over {
                return None;
            }
            if let (Mode::Rewritten(_, _, session), Some(reply)) = (&self.mode, self.replies.front()) {
                self.mcp.tell(&self.reader.server, reply.clone(), session).await;
                self.replies.pop_front();
                continue;
            }
            match self.reader.chunk().await {
                Ok(Some(chunk)) => {
                    if let Err(fault) = self.take(chunk) {
                        return self.fail(&fault);
                    }
                }
                Ok(None) => {
                    self.over = true;
                    if matches!(self.mode, Mode::Json) {
                        self.answered = true;
                    } else if !self.answered {
                        return self.fail(&no_answer(&self.reader.server));
                    }
                }
                Err(fault) => return self.fail(&fault),
            }
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Fault> {
        let mut events = Vec::new();
        let limit = self.reader.server.max_response;
        self.passed = self.passed.saturating_add(chunk.len());
        let most = match self.mode {
            Mode::Json => limit,
            Mode::Events(..) | Mode::Rewritten(..) if !self.reader.is_open_ended() => {
                limit.saturating_mul(STREAM)
            }
            _ => usize::MAX,
        };
        if self.passed > most {
            return Err(too_large(&self.reader.server, most));
        }
        match &mut self.mode {
            Mode::Json | Mode::Open => self.ready.push_back(chunk),
            Mode::Events(decoder, held) => {
                decoder.push(&chunk, &mut events).map_err(|_| too_large(&self.reader.server, limit))?;
                self.resumable |= events.iter().any(|event| event.id.is_some());
                if events.iter().any(|event| is_response(&event.data)) {
                    self.answered = true;
                    self.over = true;
                }
                // What is held back is part of one event, which the decoder bounds.
                let mut chunk = chunk;
                match decoder.boundary() {
                    None => held.extend_from_slice(&chunk),
                    Some(end) => {
                        let whole = chunk.split_to(end.min(chunk.len()));
                        if held.is_empty() {
                            self.ready.push_back(whole);
                        } else {
                            held.extend_from_slice(&whole);
                            self.ready.push_back(held.split().freeze());
                        }
                        held.extend_from_slice(&chunk);
                    }
                }
            }
            Mode::Rewritten(decoder, rewrite, _) => {
                decoder.push(&chunk, &mut events).map_err(|_| too_large(&self.reader.server, limit))?;
                for event in events {
                    match rewrite.apply(event.data) {
                        Rewritten::Pass(data) => self.ready.push_back(Event::message(data).encode()),
                        Rewritten::Response(data, _) => {
                            self.ready.push_back(Event::message(data).encode());
                            self.answered = true;
                            self.over = true;
                            break;
                        }
                        Rewritten::Reply(data) => self.replies.push_back(data),
                        Rewritten::Drop => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the stream with an error for the call.
    fn fail(&mut self, fault: &Fault) -> Option<Result<Bytes, SeamError>> {
        self.over = true;
        self.fault = Some(fault.kind);
        match self.mode {
            // A document that has begun cannot become another; the cut says that it is not whole.
            Mode::Json => Some(Err(SeamError::Cut(fault.message.clone()))),
            Mode::Open => None,
            Mode::Events(..) | Mode::Rewritten(..) => {
                let error = jsonrpc::error(self.id.as_deref(), fault.kind.row().code, &fault.message, None);
                Some(Ok(Event::message(error).encode()))
            }
        }
    }
}

/// Whether `data` is a response, told by its first telling member; the rest is not read.
pub fn is_response(data: &[u8]) -> bool {
    struct Seek<'a>(&'a mut bool);
    impl<'de> DeserializeSeed<'de> for Seek<'_> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
            input.deserialize_map(self)
        }
    }
    impl<'de> Visitor<'de> for Seek<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a message")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                match key.as_ref() {
                    "result" | "error" => {
                        *self.0 = true;
                        return Err(serde::de::Error::custom("seen enough"));
                    }
                    "method" => return Err(serde::de::Error::custom("seen enough")),
                    _ => _ = map.next_value::<IgnoredAny>()?,
                }
            }
            Ok(())
        }
    }
    let mut found = false;
    let mut input = serde_json::Deserializer::from_slice(data);
    let _ = Seek(&mut found).deserialize(&mut input);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(modern: bool) -> Rewrite {
        Rewrite {
            upstream_id: "9".to_owned(),
            id: RawValue::from_string("\"a\"".to_owned()).unwrap(),
            modern,
            ttl_ms: None,
            logs: false,
        }
    }

    fn check(input: &str, expect: &str) {
        let got = match rewrite(true).apply(Bytes::from(input.to_owned())) {
            Rewritten::Pass(data) => format!("pass {}", String::from_utf8_lossy(&data)),
            Rewritten::Response(data, code) => {
                format!("response {code:?} {}", String::from_utf8_lossy(&data))
            }
            Rewritten::Reply(data) => format!("reply {}", String::from_utf8_lossy(&data)),
            Rewritten::Drop => "drop".to_owned(),
        };
        assert_eq!(got, expect, "{input}");
    }

    #[test]
    fn messages_of_a_legacy_server_become_what_a_modern_client_expects() {
        check(
            r#"{"jsonrpc":"2.0","id":9,"result":{"content":[], "x": 1.0}}"#,
            r#"response None {"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","content":[], "x": 1.0}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","id":9,"result":{}}"#,
            r#"response None {"jsonrpc":"2.0","id":"a","result":{"resultType":"complete"}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32002,"message":"m"}}"#,
            r#"response Some(-32602) {"jsonrpc":"2.0","id":"a","error":{"code":-32602,"message":"m"}}"#,
        );
        check(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, "drop");
        check(r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#, r#"reply {"jsonrpc":"2.0","id":5,"result":{}}"#);
        check(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#, "drop");
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
            r#"pass {"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
        );
        check("garbage", "drop");
    }

    #[test]
    fn a_response_is_known_by_its_first_telling_member() {
        assert!(is_response(br#"{"jsonrpc":"2.0","id":1,"result":{"method":1}}"#));
        assert!(is_response(br#"{"error":{},"id":1}"#));
        assert!(!is_response(br#"{"jsonrpc":"2.0","method":"m","params":{"result":1}}"#));
        assert!(!is_response(b"garbage"));
    }
}
