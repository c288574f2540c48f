//! What the two sides declare to each other through the gateway: capabilities, and the extensions among them.
//!
//! A client's declaration goes to each server, and what servers declare goes to the client, as merged as the endpoint
//! is. Extensions pass whether or not anybody here has heard of them. What the gateway cannot carry, or was told not
//! to, is **never** declared: nobody is to rely on it.
//!
//! Source: 2026-07-28 versioning, "Extension Negotiation"; SEP-2133.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Mcp;
use super::ask::{Answerer, answerer};
use super::catalog::Kind as ListKind;
use super::client::Client;
use super::forward::{Call, Route};
use super::memory::{Profile, lock};
use super::revision::{Era, Revision};
use super::serve::brief;
use super::session::Session;
use super::upstream::field;
use crate::config::plan::{Server, SessionMode};
use crate::fault::{Fault, Kind};
use crate::platform::Platform;
use crate::wire::jsonrpc::{Splice, string};

/// Long-running work with handles (SEP-2663). It means nothing in revisions before 2026-07-28, which have tasks of
/// another kind as a capability of their own.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Extensions that are about the connection itself. Through the gateway a client's connection is with the gateway.
const CONNECTION: [&str; 2] = [
    "io.modelcontextprotocol/oauth-client-credentials",
    "io.modelcontextprotocol/enterprise-managed-authorization",
];
/// Extensions that the merged endpoint declares at most.
const EXTENSIONS: usize = 64;
/// Settings of one extension that are longer than this are not merged: they go into every handshake.
const SETTINGS: usize = 16 * 1024;

/// A client's capabilities as `server` is told of them when both are of one era: all that it may make use of.
#[must_use]
pub fn told(server: &Server, capabilities: &RawValue) -> Box<RawValue> {
    let answerer = answerer(server, "sampling/createMessage");
    if answerer == Answerer::Client {
        return capabilities.to_owned();
    }
    less(capabilities, &["sampling"], |members| {
        // Tasks of 2025-11-25 may wrap a request for a model's words as well.
        let requests = members.get_mut("tasks").and_then(|tasks| tasks.get_mut("requests"));
        if let Some(requests) = requests.and_then(Value::as_object_mut) {
            requests.shift_remove("sampling");
        }
        if answerer == Answerer::Gateway {
            // Whether or not the client could.
            members.insert("sampling".to_owned(), json!({"tools": {}}));
        }
    })
}

/// The same when the two are of different eras: without tasks, which the eras do not share. What the server asks the
/// client in the middle of a call (`asks`) is carried where it can find its way back.
#[must_use]
pub fn told_across(server: &Server, capabilities: &RawValue, asks: bool) -> Box<RawValue> {
    let told = told(server, capabilities);
    let own = answerer(server, "sampling/createMessage") == Answerer::Gateway;
    let dropped: &[&str] = match (asks, own) {
        (true, _) => &["tasks"],
        // Nobody needs to find a way back to be answered by a model.
        (false, true) => &["tasks", "elicitation", "roots"],
        (false, false) => &["tasks", "sampling", "elicitation", "roots"],
    };
    less(&told, dropped, |members| drop_extension(members, TASKS))
}

/// The same of a modern client; `None` if there is nothing that `server` could make use of.
#[must_use]
pub fn told_of(server: &Server, client: &Client, asks: bool) -> Option<Box<RawValue>> {
    match &client.capabilities {
        Some(capabilities) => Some(told_across(server, capabilities, asks)),
        None if answerer(server, "sampling/createMessage") == Answerer::Gateway => Some(by_itself(server)),
        None => None,
    }
}

/// What `server` is told of a client that can do nothing.
#[must_use]
pub fn by_itself(server: &Server) -> Box<RawValue> {
    told_across(server, &RawValue::from_string("{}".to_owned()).unwrap_or_default(), true)
}

/// `capabilities` without the members called `names` and what `also` takes out; as they were written if that is
/// nothing.
fn less(capabilities: &RawValue, names: &[&str], also: impl Fn(&mut Map<String, Value>)) -> Box<RawValue> {
    let Ok(before) = serde_json::from_str::<Map<String, Value>>(capabilities.get()) else {
        return RawValue::from_string("{}".to_owned()).unwrap_or_default();
    };
    let mut after = before.clone();
    names.iter().for_each(|name| _ = after.shift_remove(*name));
    also(&mut after);
    if after == before {
        return capabilities.to_owned();
    }
    serde_json::value::to_raw_value(&after).unwrap_or_default()
}

fn drop_extension(capabilities: &mut Map<String, Value>, name: &str) {
    if let Some(extensions) = capabilities.get_mut("extensions").and_then(Value::as_object_mut) {
        extensions.shift_remove(name);
        if extensions.is_empty() {
            capabilities.shift_remove("extensions");
        }
    }
}

/// Writes what [`told`] gives into the request of a modern client, if that is not what stands there.
pub fn tell(splice: &mut Splice<'_>, server: &Server, meta: Option<&RawValue>) -> bool {
    if answerer(server, "sampling/createMessage") == Answerer::Client {
        return false;
    }
    let declared = super::meta::Meta::read(meta).ok().and_then(|meta| meta.capabilities);
    let Some((declared, told)) = declared.map(|declared| (declared, told(server, declared))) else {
        return false;
    };
    let changed = told.get() != declared.get();
    if changed {
        splice.replace(declared, told.get().as_bytes().to_vec());
    }
    changed
}

/// The extensions that `capabilities` declare.
#[must_use]
pub fn names(capabilities: &RawValue) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Extended {
        #[serde(default)]
        extensions: Option<Map<String, Value>>,
    }
    let extended = serde_json::from_str::<Extended>(capabilities.get()).ok();
    let all = extended.and_then(|extended| extended.extensions).unwrap_or_default();
    all.into_iter().map(|(name, _)| name).take(EXTENSIONS).collect()
}

/// Whether `capabilities` declare the extension `name`.
#[must_use]
pub fn has(capabilities: &RawValue, name: &str) -> bool {
    names(capabilities).iter().any(|known| known == name)
}

/// The capabilities of a client that has the extension `name` and nothing else.
#[must_use]
pub fn alone(name: &str) -> String {
    format!("{{\"extensions\":{{\"{name}\":{{}}}}}}")
}

/// Whether `method` is a request of the core, in any revision.
#[must_use]
pub fn is_core(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "ping"
            | "server/discover"
            | "subscriptions/listen"
            | "tools/list"
            | "tools/call"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "completion/complete"
            | "logging/setLevel"
    )
}

/// Whether `method` is a notification of the core, in any revision.
#[must_use]
pub fn is_core_notification(method: &str) -> bool {
    let Some(what) = method.strip_prefix("notifications/") else { return false };
    matches!(
        what,
        "initialized" | "cancelled" | "progress" | "message" | "resources/updated" | "elicitation/complete"
    ) || what.ends_with("/list_changed")
        || what.starts_with("tasks")
        || what.starts_with("subscriptions/")
}

/// Whether a client with these capabilities has any that a server is to know of when a session with it is opened.
#[must_use]
pub fn matter(capabilities: &RawValue) -> bool {
    let all: Map<String, Value> = serde_json::from_str(capabilities.get()).unwrap_or_default();
    let has = |name: &str| all.get(name).and_then(Value::as_object).is_some_and(|all| !all.is_empty());
    super::ask::Askable::within(&all).anything() || has("extensions") || has("experimental")
}

/// What of a server's capabilities holds for a client of `era`.
#[must_use]
pub fn offered(server: &Server, profile: &Profile, era: Era) -> Map<String, Value> {
    let mut all: Map<String, Value> = serde_json::from_str(profile.capabilities.get()).unwrap_or_default();
    let same = profile.revision_for(era).era() == era;
    if !same || era == Era::Legacy {
        drop_extension(&mut all, TASKS);
    }
    if !same || era == Era::Modern {
        all.shift_remove("tasks");
    } else if is_shared(server, profile)
        && let Some(tasks) = all.get_mut("tasks").and_then(Value::as_object_mut)
    {
        // A list would hold the tasks of everybody.
        tasks.shift_remove("list");
    }
    all
}

/// Whether callers share one session with a legacy server, or the lack of one.
#[must_use]
pub fn is_shared(server: &Server, profile: &Profile) -> bool {
    match server.session {
        Some(mode) => mode == SessionMode::Shared,
        None => !profile.sessions,
    }
}

/// What the merged endpoint declares besides the core: the extensions of every server, what servers call experimental,
/// and tasks of 2025-11-25.
///
/// Where two servers declare one extension with different settings, objects are merged, lists are joined, of flags
/// `true` counts, and of anything else the value of the server that stands first.
#[must_use]
pub fn union(profiles: &[(Arc<Server>, Arc<Profile>)], revision: Revision) -> Map<String, Value> {
    let mut whole = Map::new();
    for (server, profile) in profiles {
        let offered = offered(server, profile, revision.era());
        for kind in ["extensions", "experimental"] {
            let Some(Value::Object(declared)) = offered.get(kind) else { continue };
            let fits = |name: &str, settings: &Value| {
                !CONNECTION.contains(&name) && settings.is_object() && settings.to_string().len() <= SETTINGS
            };
            for (name, settings) in declared.iter().filter(|(name, settings)| fits(name, settings)) {
                let all = whole.entry(kind).or_insert_with(|| Value::Object(Map::new()));
                let Some(all) = all.as_object_mut() else { continue };
                if all.len() < EXTENSIONS || all.contains_key(name) {
                    merge(all.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())), settings);
                }
            }
        }
        if let Some(tasks) = offered.get("tasks").filter(|tasks| tasks.is_object() && knows_tasks(revision)) {
            merge(whole.entry("tasks").or_insert_with(|| Value::Object(Map::new())), tasks);
        }
    }
    whole
}

/// Whether tasks as a capability are part of `revision`.
#[must_use]
pub fn knows_tasks(revision: Revision) -> bool {
    revision == Revision::V2025_11_25
}

/// Whether `method` belongs to the extension `name`: it begins with the whole name, or with what stands behind the
/// prefix, as the methods of official extensions do (`tasks/get` of `io.modelcontextprotocol/tasks`).
#[must_use]
pub fn belongs(method: &str, name: &str) -> bool {
    let of = |name: &str| {
        !name.is_empty()
            && method.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    of(name) || of(name.rsplit('/').next().unwrap_or_default())
}

impl<P: Platform> Mcp<P> {
    /// Where a request of the merged endpoint goes that the core does not know: to the server whose tool, prompt,
    /// resource or task it names, else to the only one that declares the extension that it belongs to.
    pub(super) async fn find_extended<'a>(
        &self,
        client: &Client,
        call: &Call<'a>,
    ) -> Result<Route<'a>, Fault> {
        let caller = &client.caller;
        if let Some(route) = call.read.task_id.and_then(|id| self.find_task(caller, id)) {
            return Ok(route);
        }
        if let Some(name) = call.read.name.and_then(string) {
            for kind in [ListKind::Tools, ListKind::Prompts] {
                if let Ok(route) = self.find_named(client, kind, call, name.clone()).await {
                    return Ok(route);
                }
            }
        }
        if let Some(uri) = call.read.uri.and_then(string)
            && let Some((server, own)) = self.place_of(caller, &uri).await
        {
            let renamed = (own != uri).then_some(call.read.uri).flatten();
            return Ok(Route { server, name: Some(own.into()), renamed });
        }
        let profiles = self.profiles(caller).await;
        let declares = |profile: &Profile| declared_by(profile).iter().any(|name| belongs(call.method, name));
        let declaring: Vec<&Arc<Server>> =
            profiles.iter().filter(|(_, profile)| declares(profile)).map(|(server, _)| server).collect();
        if let [server] = declaring.as_slice() {
            return Ok(Route { server: (*server).clone(), name: None, renamed: None });
        }
        let method = brief(call.method);
        let names: Vec<&str> = declaring.iter().take(8).map(|server| server.name.as_str()).collect();
        let message = if names.is_empty() {
            format!(
                "method {method:?} is not known here: it is not of the core, it names nothing that a server here has, \
                 and no server here declares an extension that it belongs to; a server that knows it all the same is \
                 reached at /mcp/{{server}}"
            )
        } else {
            format!(
                "method {method:?} is not known here by itself: it is of an extension that several servers have; send \
                 it to one of them: /mcp/{}",
                names.join(", /mcp/")
            )
        };
        Err(Fault::new(Kind::UnknownMethod, message))
    }
}

impl<P: Platform> Mcp<P> {
    /// Passes a notification of an extension on to the only server that it can be for, among those that hold a session
    /// for the client; there is nobody to be told that there is none.
    pub(super) async fn tell_extended(&self, session: &Session, method: &str, body: Bytes) {
        let upstreams = lock(&session.memory.record).0.upstreams.clone();
        let method = method.strip_prefix("notifications/").unwrap_or(method);
        let declares = |server: &Server| {
            let profile = self.memory.server(server).profile();
            profile.is_some_and(|profile| declared_by(&profile).iter().any(|name| belongs(method, name)))
        };
        let held = upstreams.iter().filter_map(|(name, upstream)| Some((self.plan.server(name)?, upstream)));
        let mut able = held.filter(|(server, _)| declares(server));
        if let (Some((server, upstream)), None) = (able.next(), able.next()) {
            self.tell(server, body, upstream).await;
        }
    }
}

/// What a server declares besides the core.
fn declared_by(profile: &Profile) -> Vec<String> {
    let mut names = profile.extensions.clone();
    if let Some(experimental) = field(&profile.capabilities, "experimental") {
        let all: Map<String, Value> = serde_json::from_str(experimental.get()).unwrap_or_default();
        names.extend(all.into_iter().map(|(name, _)| name).take(EXTENSIONS));
    }
    names
}

/// Adds `other` to `one`.
fn merge(one: &mut Value, other: &Value) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for (name, value) in other {
                match one.get_mut(name) {
                    Some(known) => merge(known, value),
                    None => _ = one.insert(name.clone(), value.clone()),
                }
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for item in other {
                if !one.contains(item) {
                    one.push(item.clone());
                }
            }
        }
        (Value::Bool(one), Value::Bool(other)) => *one |= other,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Sampling;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn server(sampling: Sampling) -> Server {
        Server { sampling, ..Server::new("s", "http://s/mcp".parse().unwrap()) }
    }

    #[test]
    fn a_server_is_told_what_it_may_make_use_of() {
        let able = json!({"sampling": {}, "roots": {}, "tasks": {"list": {}, "requests": {"sampling": {"createMessage": {}},
            "elicitation": {"create": {}}}}, "extensions": {TASKS: {}, "a/b": {"x": 1}}, "y": 1});
        let open = server(Sampling::Client);
        assert_eq!(told(&open, &raw(&able)).get(), able.to_string());
        let check = |told: &RawValue, expect: Value| {
            assert_eq!(serde_json::from_str::<Value>(told.get()).unwrap(), expect);
        };
        check(
            &told(&server(Sampling::Deny), &raw(&able)),
            json!({"roots": {}, "tasks": {"list": {}, "requests": {"elicitation": {"create": {}}}},
                "extensions": {TASKS: {}, "a/b": {"x": 1}}, "y": 1}),
        );
        let across = json!({"sampling": {}, "roots": {}, "extensions": {"a/b": {"x": 1}}, "y": 1});
        check(&told_across(&open, &raw(&able), true), across);
        check(&told_across(&open, &raw(&able), false), json!({"extensions": {"a/b": {"x": 1}}, "y": 1}));
        check(&told_across(&open, &raw(&json!({"extensions": {TASKS: {}}})), true), json!({}));
        check(&told_across(&open, &raw(&json!(7)), true), json!({}));
    }

    #[test]
    fn methods_are_told_by_the_names_of_extensions() {
        for (method, name, expect) in [
            ("tasks/get", TASKS, true),
            ("tasks", TASKS, true),
            ("tasksy/get", TASKS, false),
            ("io.modelcontextprotocol/tasks/get", TASKS, true),
            ("com.example/index/build", "com.example/index", true),
            ("index/build", "com.example/index", true),
            ("com.example/other", "com.example/index", false),
            ("vendor/x", "vendor", true),
            ("/x", "vendor/", false),
        ] {
            assert_eq!(belongs(method, name), expect, "{method} {name}");
        }
    }

    #[test]
    fn settings_of_one_extension_are_merged() {
        let check = |one: Value, other: Value, expect: Value| {
            let mut both = one;
            merge(&mut both, &other);
            assert_eq!(both, expect);
        };
        check(json!({}), json!({"a": 1}), json!({"a": 1}));
        check(json!({"a": 1}), json!({"a": 2, "b": {"c": 1}}), json!({"a": 1, "b": {"c": 1}}));
        check(json!({"m": ["x", "y"]}), json!({"m": ["y", "z"]}), json!({"m": ["x", "y", "z"]}));
        check(json!({"f": false, "g": true}), json!({"f": true, "g": false}), json!({"f": true, "g": true}));
        check(json!({"a": [1]}), json!({"a": 2}), json!({"a": [1]}));
    }
}
