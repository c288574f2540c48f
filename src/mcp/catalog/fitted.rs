//! Lists as a server gives them to clients that can do as much as the one that asks.
//!
//! Some servers offer a tool only to clients that can be asked what it asks, or that show what it shows. Where things
//! are is told by the list for a client that can do everything. What a client is shown is that list too, as long as the
//! server gives the same to one that can do nothing, and else the one for a client like it. Clients that can do the
//! same share it, and so does every caller that the server gives the same.

use std::sync::Arc;

use futures_util::future::join;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Kind, List};
use crate::config::plan::{Caller, Server, SessionMode};
use crate::fault::Fault;
use crate::mcp::Mcp;
use crate::mcp::ask::Askable;
use crate::mcp::extensions::{TASKS, told};
use crate::mcp::memory::Profile;
use crate::mcp::upstream::{UI, everything};
use crate::platform::Platform;

/// The list for a client that can do everything.
pub const ALL: &str = "";
/// What a client can do that can do nothing.
pub(super) const NOTHING: &str = "{}";
/// Settings of extensions that are longer than this make no list of their own.
const SETTINGS: usize = 1024;

/// What of a client's capabilities a server may fit its lists to, always written in the same way.
fn able(server: &Server, profile: &Profile, capabilities: &RawValue) -> String {
    // Whoever calls there is a client that can do nothing.
    let forgets = profile.modern.is_none() && !profile.sessions && !profile.http_sse;
    if server.session == Some(SessionMode::Shared) && profile.modern.is_none() {
        return NOTHING.to_owned();
    }
    if forgets {
        return ALL.to_owned();
    }
    let all: Map<String, Value> = serde_json::from_str(told(server, capabilities).get()).unwrap_or_default();
    let mut members = Askable::within(&all).members();
    let declared = all.get("extensions").and_then(Value::as_object);
    let both = |name: &str| name == UI || profile.extensions.iter().any(|known| known == name);
    let mut shared: Vec<(&String, &Value)> =
        declared.into_iter().flatten().filter(|(name, _)| *name != TASKS && both(name)).collect();
    shared.sort_by_key(|(name, _)| *name);
    let extensions: Map<String, Value> = shared
        .into_iter()
        .map(|(name, settings)| {
            let mut settings = settings.clone();
            settings.sort_all_objects();
            (name.clone(), settings)
        })
        .collect();
    if !extensions.is_empty() {
        let extensions = Value::Object(extensions);
        if extensions.to_string().len() <= SETTINGS {
            members.insert("extensions".to_owned(), extensions);
        }
    }
    Value::Object(members).to_string()
}

/// Whether `able` has extensions of which a client that can do everything says nothing.
fn is_special(able: &str) -> bool {
    let all: Map<String, Value> = serde_json::from_str(able).unwrap_or_default();
    let extensions = all.get("extensions").and_then(Value::as_object);
    extensions.is_some_and(|all| all.keys().any(|name| name != UI))
}

impl<P: Platform> Mcp<P> {
    /// One server's list for a client of `caller` with these capabilities.
    ///
    /// # Errors
    /// As [`Mcp::list`].
    pub(in crate::mcp) async fn fitted(
        &self,
        server: &Arc<Server>,
        kind: Kind,
        caller: &Arc<Caller>,
        capabilities: &RawValue,
    ) -> Result<Arc<List>, Fault> {
        // What is left of the list of a server that cannot be asked is what there is.
        let Ok(profile) = self.profile(server).await else { return self.list(server, kind, caller).await };
        let able = able(server, &profile, capabilities);
        let memory = self.memory.server(server);
        if able == ALL || able == everything(server) || !profile.has(kind.capability()) {
            return self.list(server, kind, caller).await;
        }
        if !is_special(&able) && !self.is_fitted(server, kind, caller).await? {
            return self.list(server, kind, caller).await;
        }
        let able = if memory.may_fit(&able) { able } else { NOTHING.to_owned() };
        match self.list_for(server, kind, caller, &able).await {
            Ok(list) => Ok(list),
            // Better too much than nothing.
            Err(_) => self.list(server, kind, caller).await,
        }
    }

    /// Whether the server gives clients that can do nothing another list than those that can do everything. One that
    /// gives them none is taken not to.
    pub(super) async fn is_fitted(
        &self,
        server: &Arc<Server>,
        kind: Kind,
        caller: &Arc<Caller>,
    ) -> Result<bool, Fault> {
        let memory = self.memory.server(server);
        let whole = self.list(server, kind, caller);
        let (whole, least) = match memory.is_looked_at(kind) {
            true => (whole.await?, None),
            // Nobody knows yet: both are asked for at once.
            false => {
                let both = join(whole, self.list_for(server, kind, caller, NOTHING)).await;
                (both.0?, Some(both.1))
            }
        };
        if let Some(fits) = memory.fitting(kind, &whole) {
            return Ok(fits);
        }
        let least = match least {
            Some(Ok(least)) if least.read_at >= whole.read_at => least,
            Some(Err(_)) => return Ok(false),
            // What was read before the other may only be older.
            _ => match Box::pin(self.read_list(server, kind, caller, NOTHING)).await {
                Ok(least) => least,
                Err(_) => return Ok(false),
            },
        };
        let fits = !whole.is_as(&least);
        memory.set_fitting(kind, &whole, fits);
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::revision::Revision;

    fn profile(extensions: &[&str]) -> Profile {
        let raw = || RawValue::from_string("{}".to_owned()).unwrap();
        Profile {
            modern: None,
            legacy: Some(Revision::LEGACY),
            sessions: true,
            http_sse: false,
            capabilities: raw(),
            extensions: extensions.iter().map(|name| (*name).to_owned()).collect(),
            tasks: false,
            info: None,
            instructions: None,
            result: raw(),
        }
    }

    #[test]
    fn clients_that_can_do_the_same_are_the_same() {
        let server = Server::new("s", "http://s/mcp".parse().unwrap());
        let check = |capabilities: &str, expect: &str| {
            let raw = RawValue::from_string(capabilities.to_owned()).unwrap();
            assert_eq!(able(&server, &profile(&["com.example/x"]), &raw), expect, "{capabilities}");
        };
        check("{}", "{}");
        check("7", "{}");
        check(r#"{"experimental":{"a":{}},"tasks":{}}"#, "{}");
        check(
            r#"{"roots":{"listChanged":true},"elicitation":{}}"#,
            r#"{"elicitation":{"form":{}},"roots":{}}"#,
        );
        let forms = r#"{"sampling":{},"elicitation":{"form":{}}}"#;
        check(r#"{"elicitation":{"form":{}},"sampling":{"tools":{}}}"#, forms);
        check(
            r#"{"extensions":{"com.example/x":{"b":1,"a":2},"com.example/y":{},"io.modelcontextprotocol/tasks":{}}}"#,
            r#"{"extensions":{"com.example/x":{"a":2,"b":1}}}"#,
        );
        check(&format!(r#"{{"extensions":{{"com.example/x":"{}"}}}}"#, "x".repeat(2000)), "{}");
    }
}
