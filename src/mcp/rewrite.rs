//! One message of a server's, as its caller takes it.
//!
//! What needs no change is **never** changed, not even in its white space.

use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::revision::Revision;
use super::tasks::{self, Names};
use super::upstream::field;
use super::{ask, content, sampling};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::wire::jsonrpc::{self, Message, Splice};

/// What has to change in messages for the caller.
#[derive(Debug)]
pub struct Rewrite {
    /// The id that the request has upstream, as JSON.
    pub upstream_id: String,
    /// The id that the caller gave it.
    pub id: Box<RawValue>,
    /// The caller is modern and the server is not: results need what 2026-07-28 asks of them.
    pub modern: bool,
    /// The caller is legacy and the server is not: the method and the caller's revision; results lose what only
    /// 2026-07-28 has.
    pub legacy: Option<(String, Revision)>,
    /// The caller sees several legacy servers as one: which one this is, so that its questions and the places in its
    /// streams can be told from those of the others.
    pub route: Option<String>,
    /// The two sides are of one era and share a session: whatever the server says is for the caller as it is, but for
    /// what nobody answers.
    pub direct: bool,
    /// The caller sees several servers as one, and knows tasks by names of the gateway's.
    pub tasks: Names,
    /// The result is one that must say how long it may be kept: for so many milliseconds.
    pub ttl_ms: Option<u128>,
    /// The caller asked for log messages.
    pub logs: bool,
}

/// What becomes of one message.
#[derive(Debug)]
pub enum Rewritten {
    /// It goes to the caller.
    Pass(Bytes),
    /// It is the response: it goes to the caller, and nothing comes after it. The code is an error's.
    Response(Bytes, Option<i64>),
    /// It is a request of the server that the caller cannot be asked: this goes back.
    Reply(Bytes),
    /// It is a request without whose answer the call makes no sense: the first goes back, the second to the caller,
    /// and nothing comes after it.
    Refuse(Bytes, Bytes),
    /// It is the response, and asks for input, of the caller or of a model: its result.
    Asks(Box<RawValue>),
    /// It is a request of a legacy server that a model answers: its id and parameters.
    Sample(Box<RawValue>, Option<Box<RawValue>>),
    /// It is not for the caller.
    Drop,
}

/// How the ids begin that say which server they belong to.
pub const ROUTED: &str = "cw@";

/// The server and its own id in an id that [`Rewrite::routed`] made.
#[must_use]
pub fn routed(id: &str) -> Option<(&str, &str)> {
    id.strip_prefix(ROUTED)?.split_once('@')
}

/// The server and its own id of a question that the caller knows by `id`: a JSON string or integer again.
#[must_use]
pub fn routed_question(id: &str) -> Option<(&str, &RawValue)> {
    let (server, own) = routed(id)?;
    let own: &RawValue = serde_json::from_str(own).ok()?;
    jsonrpc::is_id(own).then_some((server, own))
}

/// What results of 2026-07-28 have that earlier ones have not.
const MODERN_ONLY: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

impl Rewrite {
    /// For a legacy caller of a modern server.
    #[must_use]
    pub fn to_legacy(upstream_id: String, id: Box<RawValue>, method: &str, revision: Revision) -> Self {
        Self {
            upstream_id,
            id,
            modern: false,
            legacy: Some((method.to_owned(), revision)),
            route: None,
            direct: false,
            tasks: Names::None,
            ttl_ms: None,
            logs: true,
        }
    }

    /// For messages that belong to no call that is known here; with the name of the server if the caller sees several
    /// as one.
    #[must_use]
    pub fn routed_from(server: Option<&Server>) -> Self {
        Self {
            upstream_id: String::new(),
            id: Box::<RawValue>::default(),
            modern: false,
            legacy: None,
            route: server.map(|server| server.name.clone()),
            direct: server.is_none(),
            tasks: if server.is_some() { Names::Before } else { Names::None },
            ttl_ms: None,
            logs: true,
        }
    }

    /// Whether a response of a legacy server stays as it is.
    #[must_use]
    pub fn only_routes(&self) -> bool {
        (self.route.is_some() || self.direct)
            && !self.modern
            && self.legacy.is_none()
            && matches!(self.tasks, Names::None | Names::Before)
            && self.upstream_id == self.id.get()
    }

    /// The id of an event as the caller knows it, if the stream is one that it may go on with from any place.
    pub(super) fn place(&self, id: String) -> Option<String> {
        (self.route.is_some() || self.direct).then(|| self.routed(id))
    }

    /// An id of the server's as the caller knows it.
    #[must_use]
    pub fn routed(&self, id: String) -> String {
        self.route.as_ref().map_or(id.clone(), |server| format!("{ROUTED}{server}@{id}"))
    }

    /// A question of the server's, or what it says about one, with the id that the caller knows it by.
    fn question(&self, data: &Bytes, id: &RawValue) -> Rewritten {
        let mut splice = Splice::new(data);
        splice.replace(id, jsonrpc::quote(&self.routed(id.get().to_owned())));
        Rewritten::Pass(splice.finish())
    }

    /// Rewrites one message.
    pub fn apply(&self, data: Bytes, server: &Server) -> Rewritten {
        let data = match tasks::outward(data, server, self.tasks) {
            Ok(data) => data,
            Err(_) if self.upstream_id.is_empty() => return Rewritten::Drop,
            Err(fault) => {
                let code = fault.kind.row().code;
                return Rewritten::Response(fault.into_error(&self.id), Some(code));
            }
        };
        match Message::decode(&data) {
            // On the rest of a call's stream nobody knows here which call it was: the client does.
            Ok(Message::Response { .. })
                if (self.route.is_some() || self.direct) && self.upstream_id.is_empty() =>
            {
                Rewritten::Response(data, None)
            }
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
                    Ok(result) if let Err(fault) = ask::check(server, result) => {
                        let code = fault.kind.row().code;
                        return Rewritten::Response(fault.into_error(&self.id), Some(code));
                    }
                    Ok(result) if sampling::asks_model(server, result) => {
                        return Rewritten::Asks(result.to_owned());
                    }
                    Ok(result) if self.legacy.is_some() => {
                        let kind = field(result, "resultType");
                        match kind.as_deref().map(RawValue::get) {
                            Some("\"input_required\"") => return Rewritten::Asks(result.to_owned()),
                            Some("\"task\"") => {
                                let fault = unasked_task(server);
                                let code = fault.kind.row().code;
                                return Rewritten::Response(fault.into_error(&self.id), Some(code));
                            }
                            _ => {}
                        }
                        let less = without(result, &MODERN_ONLY);
                        let whole = less.as_deref().unwrap_or(result.get());
                        let adapted = self
                            .legacy
                            .as_ref()
                            .and_then(|(method, revision)| content::adapted(method, whole, *revision));
                        if let Some(changed) = adapted.or(less) {
                            splice.replace(result, changed.into_bytes());
                        }
                        None
                    }
                    Ok(result) => {
                        self.complete(&mut splice, result);
                        None
                    }
                    Err(error) => self.error(&mut splice, error),
                };
                Rewritten::Response(splice.finish(), code)
            }
            Ok(Message::Request { id, method, params }) => {
                if method == "ping" && !self.direct {
                    return Rewritten::Reply(jsonrpc::result(id, &serde_json::Map::new()));
                }
                match ask::answerer(server, &method) {
                    ask::Answerer::Nobody => return Rewritten::Reply(ask::denied(id)),
                    ask::Answerer::Gateway => {
                        return Rewritten::Sample(id.to_owned(), params.map(RawValue::to_owned));
                    }
                    ask::Answerer::Client => {}
                }
                if self.direct {
                    return Rewritten::Pass(data);
                }
                if self.route.is_some() {
                    return self.question(&data, id);
                }
                let reply =
                    jsonrpc::error(Some(id), -32601, "the client cannot be asked over this session", None);
                match ask::Askable::default().admit(&server.name, &method, params) {
                    Err(fault) if self.modern && fault.kind == Kind::MissingCapability => {
                        Rewritten::Refuse(reply, fault.into_error(&self.id))
                    }
                    _ => Rewritten::Reply(reply),
                }
            }
            Ok(Message::Notification { method, .. }) if method == "notifications/message" && !self.logs => {
                Rewritten::Drop
            }
            Ok(Message::Notification { method, params: Some(params) })
                if self.route.is_some() && method == "notifications/cancelled" =>
            {
                #[derive(serde::Deserialize)]
                struct Cancelled<'a> {
                    #[serde(borrow, rename = "requestId")]
                    id: &'a RawValue,
                }
                match serde_json::from_str::<Cancelled<'_>>(params.get()) {
                    Ok(cancelled) => self.question(&data, cancelled.id),
                    Err(_) => Rewritten::Drop,
                }
            }
            // What a task of a modern server asks travels in its state.
            Ok(Message::Notification { params: Some(params), .. }) if ask::check(server, params).is_err() => {
                Rewritten::Drop
            }
            Ok(Message::Notification { params: Some(params), .. })
                if let Some(less) = sampling::without_sampled(server, params, false) =>
            {
                let mut splice = Splice::new(&data);
                splice.replace(params, less.into_bytes());
                Rewritten::Pass(splice.finish())
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
        let reads = self.legacy.as_ref().is_some_and(|(method, _)| method == "resources/read");
        if reads && code == -32602 && field(error, "data").is_some_and(|data| field(&data, "uri").is_some()) {
            splice.replace(coded.code, b"-32002".to_vec());
            return Some(-32002);
        }
        Some(code)
    }
}

/// `object` without the members called `names`, the others as they were written; `None` if it has none of them.
pub fn without(object: &RawValue, names: &[&str]) -> Option<String> {
    struct Members<'a>(Vec<(std::borrow::Cow<'a, str>, &'a RawValue)>);
    impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
        fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            struct Read;
            impl<'de> Visitor<'de> for Read {
                type Value = Vec<(std::borrow::Cow<'de, str>, &'de RawValue)>;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut all = Vec::new();
                    while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                        all.push((name, map.next_value()?));
                    }
                    Ok(all)
                }
            }
            input.deserialize_map(Read).map(Members)
        }
    }
    let Members(all) = serde_json::from_str(object.get()).ok()?;
    if !all.iter().any(|(name, _)| names.contains(&name.as_ref())) {
        return None;
    }
    let kept: Vec<String> = all
        .iter()
        .filter(|(name, _)| !names.contains(&name.as_ref()))
        .map(|(name, value)| format!("{}:{}", String::from_utf8_lossy(&jsonrpc::quote(name)), value.get()))
        .collect();
    Some(format!("{{{}}}", kept.join(",")))
}

fn members(object: &RawValue) -> Vec<String> {
    serde_json::from_str::<std::collections::HashMap<String, IgnoredAny>>(object.get())
        .map(|all| all.into_keys().collect())
        .unwrap_or_default()
}

/// The server made a task of a call, and its client has not said that it knows what to do with one.
fn unasked_task(server: &Server) -> Fault {
    let message = format!(
        "server {:?}: answered with a task, which a client of a revision before 2026-07-28 cannot take and did not ask for",
        server.name
    );
    Fault::new(Kind::UpstreamInvalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(modern: bool) -> Rewrite {
        Rewrite {
            upstream_id: "9".to_owned(),
            id: RawValue::from_string("\"a\"".to_owned()).unwrap(),
            modern,
            legacy: None,
            route: None,
            direct: false,
            tasks: Names::None,
            ttl_ms: None,
            logs: false,
        }
    }

    fn server() -> Server {
        Server::new("s", "http://s/mcp".parse().unwrap())
    }

    fn check(input: &str, expect: &str) {
        check_with(&rewrite(true), input, expect);
    }

    fn check_with(rewrite: &Rewrite, input: &str, expect: &str) {
        let got = match rewrite.apply(Bytes::from(input.to_owned()), &server()) {
            Rewritten::Pass(data) => format!("pass {}", String::from_utf8_lossy(&data)),
            Rewritten::Response(data, code) => {
                format!("response {code:?} {}", String::from_utf8_lossy(&data))
            }
            Rewritten::Reply(data) => format!("reply {}", String::from_utf8_lossy(&data)),
            Rewritten::Refuse(_, data) => format!("refuse {}", String::from_utf8_lossy(&data)),
            Rewritten::Asks(result) => format!("asks {result}"),
            Rewritten::Sample(id, _) => format!("sample {id}"),
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
    fn results_of_a_modern_server_become_what_a_legacy_client_knows() {
        let id = RawValue::from_string("1".to_owned()).unwrap();
        let check = |method: &str, input: &str, expect: &str| {
            check_with(
                &Rewrite::to_legacy("9".to_owned(), id.clone(), method, Revision::LEGACY),
                input,
                expect,
            );
        };
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"complete","content":[], "ttlMs":5,"x":{"resultType":1}}}"#,
            r#"response None {"jsonrpc":"2.0","id":1,"result":{"content":[],"x":{"resultType":1}}}"#,
        );
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"input_required","requestState":"s"}}"#,
            r#"asks {"resultType":"input_required","requestState":"s"}"#,
        );
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"task","taskId":"t"}}"#,
            &format!(
                "response Some(-32603) {}",
                String::from_utf8_lossy(&unasked_task(&server()).into_error(&id))
            ),
        );
        let missing = r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32602,"message":"m","data":{"uri":"u"}}}"#;
        check(
            "resources/read",
            missing,
            &format!("response Some(-32002) {}", missing.replace("32602", "32002").replace("9,", "1,")),
        );
        check("tools/call", missing, &format!("response Some(-32602) {}", missing.replace("9,", "1,")));
    }
}
