//! Tasks of servers that a client sees as one: the id that the client knows says whose the task is.
//!
//! At `/mcp` the task `{id}` of the server `{server}` is `{server}+{id}`, wherever it is named: in the result that
//! creates it, in requests about it, in notifications, and where a message says which task it is about. So any instance
//! knows where a task is, and **never** keeps one in mind. At `/mcp/{server}` ids are the server's own.
//!
//! There are two kinds, which do not mix: tasks of 2025-11-25 (utilities, "Tasks") and the extension of 2026-07-28
//! (SEP-2663). A task id may be all that its holder needs to have the task, so none is **ever** logged.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Mcp;
use super::client::Client;
use super::extensions::{is_shared, knows_tasks, offered};
use super::forward::{Call, Route};
use super::memory::Profile;
use super::revision::Era;
use super::serve::{Answer, Inbound, Note, text_of};
use super::unknown::{unknown_method, unknown_method_legacy};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind, Who};
use crate::platform::Platform;
use crate::wire::accept::Accepts;
use crate::wire::jsonrpc::{self, Message, Splice, quote, string};

/// Where a message says which task it is about (2025-11-25 tasks, "Related Task Metadata").
const RELATED: &str = "io.modelcontextprotocol/related-task";
/// The longest id that a server may give a task: it travels in a header.
const LONGEST: usize = 1024;

/// Which messages of a call name tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// None, or the caller knows tasks by the server's own ids.
    None,
    /// Those that come before the response.
    Before,
    /// The response as well: what was called may have become a task.
    Created,
    /// The response as well: it is about a task, or several.
    Asked,
}

impl Names {
    /// Which messages of `call` name tasks at the endpoint where servers are seen as one, if both sides are of `era`.
    #[must_use]
    pub fn of(call: &Call<'_>, era: Era) -> Self {
        match (is_method(call.method), era) {
            (true, _) => Self::Asked,
            (false, Era::Legacy) if call.read.task.is_some() => Self::Created,
            (false, Era::Legacy) => Self::Before,
            (false, Era::Modern) => Self::Created,
        }
    }
}

/// Whether `method` is one about tasks.
#[must_use]
pub fn is_method(method: &str) -> bool {
    method.starts_with("tasks/")
}

/// The id that a client knows the task `own` of `server` by.
fn given(server: &Server, own: &str) -> String {
    format!("{}+{own}", server.name)
}

/// The server that an id names, and its own id.
#[must_use]
pub fn split(id: &str) -> Option<(&str, &str)> {
    id.split_once('+').filter(|(server, own)| !server.is_empty() && !own.is_empty())
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default, rename = "taskId")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "resultType")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    task: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tasks: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

fn named(object: &RawValue) -> Option<Named<'_>> {
    serde_json::from_str(object.get()).ok()
}

/// The id in the metadata of `object`.
fn related(meta: Option<&RawValue>) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default, rename = "io.modelcontextprotocol/related-task")]
        related: Option<&'a RawValue>,
    }
    let meta = meta.filter(|meta| meta.get().contains(RELATED))?;
    named(serde_json::from_str::<Meta<'_>>(meta.get()).ok()?.related?)?.id
}

/// Every place in `message` that holds the id of a task of the server's.
fn places<'a>(message: &Message<'a>, names: Names) -> Vec<&'a RawValue> {
    let mut found = Vec::new();
    match message {
        Message::Response { outcome: Ok(result), .. } if matches!(names, Names::Created | Names::Asked) => {
            let Some(result) = named(result) else { return found };
            let created = result.kind.is_some_and(|kind| kind.get() == "\"task\"");
            found.extend(result.id.filter(|_| created || names == Names::Asked));
            if names == Names::Created {
                found.extend(result.task.and_then(named).and_then(|task| task.id));
            } else if let Some(tasks) = result.tasks {
                let tasks: Vec<&RawValue> = serde_json::from_str(tasks.get()).unwrap_or_default();
                found.extend(tasks.into_iter().filter_map(|task| named(task)?.id));
            }
            found.extend(related(result.meta));
            found.extend(result.result.and_then(named).and_then(|result| related(result.meta)));
        }
        Message::Notification { method, params: Some(params) } => {
            let Some(params) = named(params) else { return found };
            let is_status = matches!(method.as_ref(), STATUS | "notifications/tasks/status");
            found.extend(params.id.filter(|_| is_status));
            found.extend(related(params.meta));
        }
        // What a server asks about a task is about one of its client's, but for what the task belongs to.
        Message::Request { params: Some(params), .. } => {
            found.extend(named(params).and_then(|params| related(params.meta)));
        }
        _ => {}
    }
    found
}

/// A message of `server` with the ids of its tasks as its client knows them.
///
/// # Errors
/// [`Kind::UpstreamInvalid`] when an id is too long.
pub fn outward(data: Bytes, server: &Server, names: Names) -> Result<Bytes, Fault> {
    const HINT: &[u8] = b"taskId";
    if names == Names::None || !data.windows(HINT.len()).any(|part| part == HINT) {
        return Ok(data);
    }
    let Ok(message) = Message::decode(&data) else { return Ok(data) };
    let mut splice = Splice::new(&data);
    let mut changed = false;
    for place in places(&message, names) {
        let Some(own) = string(place) else { continue };
        if own.is_empty() || own.len() > LONGEST {
            let message = format!(
                "server {:?}: gave a task an id of {} bytes, and only 1 to {LONGEST} can be told from those of other \
                 servers; use /mcp/{}",
                server.name,
                own.len(),
                server.name
            );
            return Err(Fault::new(Kind::UpstreamInvalid, message));
        }
        splice.replace(place, quote(&given(server, &own)));
        changed = true;
    }
    Ok(if changed { splice.finish() } else { data })
}

/// Gives the task that `meta` relates to, if it is one of `server`, the server's own id.
pub fn inward(splice: &mut Splice<'_>, server: &Server, meta: Option<&RawValue>) -> bool {
    let Some(place) = related(meta) else { return false };
    let id = string(place);
    let own = id.as_deref().and_then(split).filter(|(name, _)| *name == server.name);
    if let Some((_, own)) = own {
        splice.replace(place, quote(own));
    }
    own.is_some()
}

/// A response or notification of a client on its way to `server`; `None` if it is about a task of another one.
pub fn inward_message(data: Bytes, server: &Server, servers: impl Fn(&str) -> bool) -> Option<Bytes> {
    let meta = match Message::decode(&data) {
        Ok(Message::Response { outcome: Ok(result), .. }) => named(result).and_then(|result| result.meta),
        Ok(Message::Notification { params: Some(params), .. }) => {
            named(params).and_then(|params| params.meta)
        }
        _ => None,
    };
    let id = related(meta).and_then(string);
    let Some((name, _)) = id.as_deref().and_then(split).filter(|(name, _)| servers(name)) else {
        return Some(data);
    };
    if name != server.name {
        return None;
    }
    let mut splice = Splice::new(&data);
    inward(&mut splice, server, meta);
    Some(splice.finish())
}

/// The task that a notification of `notifications/tasks` is about.
pub fn told_of(params: &RawValue) -> Option<String> {
    named(params)?.id.and_then(string).map(std::borrow::Cow::into_owned)
}

/// Asks for the state of a task.
pub const GET: &str = "tasks/get";

/// The method of [`told_of`].
pub const STATUS: &str = "notifications/tasks";

/// There is no such task, or it is not this caller's: the two look the same.
pub fn unknown_task() -> Fault {
    let message = "params.taskId: no such task here; a task that was created at /mcp/{server} is known there";
    Fault::new(Kind::InvalidParams, message)
}

impl<P: Platform> Mcp<P> {
    /// Where a task of the merged endpoint is.
    pub(super) fn find_task<'a>(&self, caller: &Caller, id: &'a RawValue) -> Option<Route<'a>> {
        let known = string(id)?;
        let (name, own) = split(&known)?;
        let server = self.plan.server(name).filter(|server| caller.servers.admits(&server.name))?;
        Some(Route { server: server.clone(), name: Some(own.to_owned().into()), renamed: Some(id) })
    }

    /// Answers a method about tasks on the merged endpoint.
    pub(super) async fn at_tasks(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        if call.method == "tasks/list" && client.era() == Era::Legacy {
            return self.list_tasks(inbound, client, call).await;
        }
        if call.method == "tasks/list" {
            return Err(unknown_method(call.method));
        }
        text_of(call.read.task_id, "params.taskId")?;
        let route = call.read.task_id.and_then(|id| self.find_task(&client.caller, id));
        let route = route.ok_or_else(unknown_task)?;
        note.server = Some(route.server.name.clone());
        let profile = self.profile(&route.server).await?;
        // Tasks of the two eras have nothing in common but their name.
        if profile.revision_for(client.era()).era() != client.era() {
            return Err(unknown_task());
        }
        self.forward(inbound, client, call, &route).await
    }

    /// `tasks/list` of 2025-11-25 on the merged endpoint: the servers that have such a list, one after the other, each
    /// page as it is. A cursor is the server's own behind the name of the server.
    async fn list_tasks(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
    ) -> Result<Answer<P>, Fault> {
        let profiles = self.profiles(&client.caller).await;
        let listing: Vec<&Arc<Server>> =
            profiles.iter().filter(|(s, p)| has_list(s, p)).map(|(server, _)| server).collect();
        if listing.is_empty() || !knows_tasks(client.revision) {
            return Err(unknown_method_legacy(call.method));
        }
        let whole = inbound.with_accepts(Accepts { json: true, events: false });
        let cursor = match call.read.cursor.filter(|raw| raw.get() != "null") {
            None => None,
            Some(raw) => Some((raw, text_of(Some(raw), "params.cursor")?)),
        };
        let invalid =
            || Fault::new(Kind::InvalidParams, "params.cursor: not a cursor of this list; start over");
        let mut from = 0;
        if let Some((raw, cursor)) = &cursor {
            let (name, own) = cursor.split_once('+').ok_or_else(invalid)?;
            from = listing.iter().position(|server| server.name == name).ok_or_else(invalid)?;
            if !own.is_empty() {
                let server = (*listing.get(from).ok_or_else(invalid)?).clone();
                let route = Route { server, name: Some(own.to_owned().into()), renamed: Some(raw) };
                let answer = self.forward(&whole, client, call, &route).await?;
                let next = listing.get(from + 1).map(|server| server.name.as_str());
                return Ok(page(answer, &route.server, next));
            }
        }
        // The first page of the first server that has one; a broken one must not hide the others.
        let first = match cursor {
            Some((raw, _)) => without_cursor(call, raw),
            None => Bytes::copy_from_slice(call.text),
        };
        let Ok(Message::Request { id, params, .. }) = Message::decode(&first) else { return Err(invalid()) };
        let call =
            Call { text: &first, id, method: call.method, params, read: super::meta::Params::read(params)? };
        for (index, server) in listing.iter().enumerate().skip(from) {
            let route = Route { server: (*server).clone(), name: None, renamed: None };
            match self.forward(&whole, client, &call, &route).await {
                Ok(answer) if is_result(&answer) => {
                    let next = listing.get(index + 1).map(|server| server.name.as_str());
                    return Ok(page(answer, server, next));
                }
                Ok(Answer::Json(..)) => {}
                Ok(answer) => return Ok(answer),
                Err(fault) if fault.kind.row().who == Who::Upstream => {}
                Err(fault) => return Err(fault),
            }
        }
        let none = serde_json::json!({"tasks": []});
        Ok(Answer::Json(StatusCode::OK, jsonrpc::result(call.id, &none)))
    }
}

/// Whether the tasks that `server` lists are those of one caller.
fn has_list(server: &Server, profile: &Profile) -> bool {
    let offered = offered(server, profile, Era::Legacy);
    !is_shared(server, profile) && offered.get("tasks").and_then(|tasks| tasks.get("list")).is_some()
}

fn is_result<P: Platform>(answer: &Answer<P>) -> bool {
    let Answer::Json(_, body) = answer else { return false };
    matches!(Message::decode(body), Ok(Message::Response { outcome: Ok(_), .. }))
}

/// The request without its cursor.
fn without_cursor(call: &Call<'_>, cursor: &RawValue) -> Bytes {
    let mut splice = Splice::new(call.text);
    let less = call.params.and_then(|params| super::rewrite::without(params, &["cursor"]));
    match (call.params, less) {
        (Some(params), Some(less)) => splice.replace(params, less.into_bytes()),
        // It stands there, so it can be taken out.
        _ => splice.replace(cursor, b"\"\"".to_vec()),
    }
    splice.finish()
}

/// One page of a list, so that what comes next is told with the server that it comes from.
fn page<P: Platform>(answer: Answer<P>, server: &Server, next: Option<&str>) -> Answer<P> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow, default, rename = "nextCursor")]
        next: Option<&'a RawValue>,
    }
    let Answer::Json(status, body) = &answer else { return answer };
    let Ok(Message::Response { outcome: Ok(result), .. }) = Message::decode(body) else { return answer };
    let Ok(page) = serde_json::from_str::<Page<'_>>(result.get()) else { return answer };
    let mut splice = Splice::new(body);
    let own = page.next.and_then(string).filter(|own| !own.is_empty());
    match (page.next, own, next) {
        (Some(place), Some(own), _) => splice.replace(place, quote(&given(server, &own))),
        (Some(place), None, Some(next)) => splice.replace(place, quote(&format!("{next}+"))),
        (None, _, Some(next)) => {
            splice.insert_into(result, format!("\"nextCursor\":\"{next}+\"").as_bytes());
        }
        (_, None, None) | (None, Some(_), None) => {}
    }
    Answer::Json(*status, splice.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_whose_they_are_and_nothing_else_is_touched() {
        let server = Server::new("s", "http://s/mcp".parse().unwrap());
        let check = |names: Names, message: &str, expect: &str| {
            let got = outward(Bytes::from(message.to_owned()), &server, names).unwrap();
            assert_eq!(got, expect, "{names:?}");
        };
        let made = r#"{"jsonrpc":"2.0","id":1,"result":{ "resultType":"task","taskId":"t+1","ttlMs":1.50}}"#;
        check(Names::Created, made, &made.replace("t+1", "s+t+1"));
        check(Names::None, made, made);
        let old = r#"{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t"},"taskId":"no"}}"#;
        check(Names::Created, old, &old.replace("\"t\"", "\"s+t\""));
        check(Names::Before, old, old);
        let plain = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[],"taskId":"x","tasks":[{"taskId":"y"}]}}"#;
        check(Names::Created, plain, plain);
        let meta = format!(r#""_meta":{{"{RELATED}":{{"taskId":"t"}},"x":1}}"#);
        let done = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"taskId":"t","result":{{"content":[],{meta}}}}}}}"#
        );
        check(Names::Asked, &done, &done.replace("\"t\"", "\"s+t\""));
        let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tasks":[{"taskId":"a"},7,{"taskId":"b"}]}}"#;
        check(Names::Asked, list, &list.replace("\"a\"", "\"s+a\"").replace("\"b\"", "\"s+b\""));
        let status = r#"{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t"}}"#;
        check(Names::Before, status, &status.replace("\"t\"", "\"s+t\""));
        let ask = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{{"taskId":"t",{meta}}}}}"#
        );
        check(Names::Before, &ask, &ask.replace("\"taskId\":\"t\"}", "\"taskId\":\"s+t\"}"));
        let theirs = r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"the client's"}}"#;
        check(Names::Before, theirs, theirs);
        let long = made.replace("t+1", &"x".repeat(1025));
        assert!(outward(Bytes::from(long), &server, Names::Created).is_err());
    }

    #[test]
    fn what_a_client_says_of_a_task_goes_to_its_server() {
        let server = Server::new("s", "http://s/mcp".parse().unwrap());
        let of = |id: &str| {
            let meta = format!(r#""_meta":{{"{RELATED}":{{"taskId":"{id}"}}}}"#);
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"action":"accept",{meta}}}}}"#)
        };
        let check = |id: &str, expect: Option<&str>| {
            let got = inward_message(Bytes::from(of(id)), &server, |name| name != "nobody");
            assert_eq!(got.as_deref(), expect.map(of).as_deref().map(str::as_bytes), "{id}");
        };
        check("s+t+1", Some("t+1"));
        check("r+t", None);
        check("nobody+t", Some("nobody+t"));
        check("t", Some("t"));
    }
}
