//! The notices of a set of servers, as one value that is pulled.
//!
//! A feed has a line to each of its servers, in the server's own era: `subscriptions/listen`
//! where the server is modern, the GET stream of a session where it is legacy. Lines that break are taken up again
//! by themselves, and what may have been missed meanwhile is announced. A feed **never** filters or rewrites, spawns
//! nothing and runs only while it is pulled; dropping it closes every line.
//!
//! ```text
//! let mut feed = feed(mcp, Leases::default());
//! feed.add(Source { server, wanted, over: Over::Dedicated });
//! while let Some(notice) = feed.next().await { … }
//! ```

mod line;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use self::line::step;
pub use self::line::{Line, Stepped, Unsubscribed};
use super::catalog::Kind as ListKind;
use super::client::Client;
use super::lines::Held;
use super::memory::{UpstreamSession, lock};
use super::{Mcp, extensions};
use crate::config::plan::Server;
use crate::fault::Fault;
use crate::platform::Platform;
use crate::wire::jsonrpc::quote;

/// A list whose changes servers tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list` and `resources/templates/list`
    Resources,
}

impl Topic {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tools, Self::Prompts, Self::Resources];

    /// The topic that the notification `method` is about.
    #[must_use]
    pub fn of(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.method() == method)
    }

    /// The notification.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources => "notifications/resources/list_changed",
        }
    }

    /// Its field in a subscription filter.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Tools => "toolsListChanged",
            Self::Prompts => "promptsListChanged",
            Self::Resources => "resourcesListChanged",
        }
    }

    /// The capability whose `listChanged` declares it.
    #[must_use]
    pub const fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
        }
    }

    /// The lists that have changed then.
    #[must_use]
    pub const fn lists(self) -> &'static [ListKind] {
        match self {
            Self::Tools => &[ListKind::Tools],
            Self::Prompts => &[ListKind::Prompts],
            Self::Resources => &[ListKind::Resources, ListKind::Templates],
        }
    }
}

/// The notification that a resource has changed.
pub const UPDATED: &str = "notifications/resources/updated";

/// What one wants to be told of, or will be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Changes of these lists.
    pub lists: BTreeSet<Topic>,
    /// Changes of the resources with these URIs.
    pub uris: Vec<String>,
    /// The states of the tasks with these ids (SEP-2663, "Task Status Notifications").
    pub tasks: Vec<String>,
}

impl Wanted {
    /// Whether there is nothing to be told of.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.lists.is_empty() && self.uris.is_empty() && self.tasks.is_empty()
    }

    /// As much of it as a server with `capabilities` tells.
    #[must_use]
    pub fn within(&self, capabilities: &RawValue) -> Self {
        let declared = declared(capabilities);
        let mut can = self.clone();
        can.lists.retain(|topic| has_flag(&declared, topic.capability(), "listChanged"));
        if !has_flag(&declared, "resources", "subscribe") {
            can.uris.clear();
        }
        if !extensions::has(capabilities, extensions::TASKS) {
            can.tasks.clear();
        }
        can
    }

    /// As much of it as the filter object `agreed` has, too. What is no filter has nothing.
    #[must_use]
    pub fn within_filter(&self, agreed: Option<&RawValue>) -> Self {
        let agreed: Value = agreed.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let listed = |field: &str| {
            let listed = agreed.get(field).and_then(Value::as_array);
            listed.into_iter().flatten().filter_map(Value::as_str)
        };
        let mut both = self.clone();
        both.lists.retain(|topic| agreed.get(topic.field()) == Some(&Value::Bool(true)));
        both.uris.retain(|uri| listed("resourceSubscriptions").any(|agreed| is_same(agreed, uri)));
        both.tasks.retain(|task| listed("taskIds").any(|agreed| agreed == task));
        both
    }

    /// As the filter object of the protocol; what is not wanted is left out.
    #[must_use]
    pub fn filter(&self) -> String {
        let mut members: Vec<String> =
            self.lists.iter().map(|topic| format!("\"{}\":true", topic.field())).collect();
        for (field, listed) in [("resourceSubscriptions", &self.uris), ("taskIds", &self.tasks)] {
            if !listed.is_empty() {
                let listed = listed.iter().map(|text| String::from_utf8_lossy(&quote(text)).into_owned());
                members.push(format!("\"{field}\":[{}]", listed.collect::<Vec<_>>().join(",")));
            }
        }
        format!("{{{}}}", members.join(","))
    }

    /// A message for each thing that may have changed: what is said when nobody knows what was missed. The state of a
    /// task is for its client to ask for.
    pub fn changes(&self) -> impl Iterator<Item = Bytes> {
        let lists = self
            .lists
            .iter()
            .map(|topic| Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{}\"}}", topic.method())));
        let resources = self.uris.iter().map(|uri| {
            let uri = quote(uri);
            let uri = String::from_utf8_lossy(&uri);
            Bytes::from(format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"{UPDATED}\",\"params\":{{\"uri\":{uri}}}}}"
            ))
        });
        lists.chain(resources)
    }
}

/// Whether two URIs are written differently at most.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let plain = |uri: &str| uri.trim_end_matches('/').to_owned();
    let parsed = |uri: &str| url::Url::parse(uri).map(|url| plain(url.as_str()));
    one == other
        || plain(one) == plain(other)
        || parsed(one).is_ok_and(|one| parsed(other).is_ok_and(|other| one == other))
}

/// Whether `capabilities` have the flag of the capability `name`.
pub(super) fn has_flag(capabilities: &Value, name: &str, flag: &str) -> bool {
    capabilities.get(name).and_then(|capability| capability.get(flag)) == Some(&Value::Bool(true))
}

/// A server's capabilities, to look flags up in.
pub(super) fn declared(capabilities: &RawValue) -> Value {
    serde_json::from_str(capabilities.get()).unwrap_or_default()
}

/// A server to be heard.
#[derive(Debug, Clone)]
pub struct Source {
    /// The server.
    pub server: Arc<Server>,
    /// What it is asked for; and what is announced after a break.
    pub wanted: Wanted,
    /// Over what.
    pub over: Over,
}

/// What a server is heard over.
#[derive(Debug, Clone)]
pub enum Over {
    /// A listen request, or a session for nothing else: many servers allow one GET stream for each session. Only
    /// notifications come through; what such a server asks of its client is declined.
    Dedicated,
    /// The same, but for a legacy server that this client's calls go over sessions with which a mailbox keeps: one of these.
    Parked(Arc<Client>),
    /// The GET stream of a session that is there already. Everything comes through. Subscriptions are the session's
    /// own affair.
    Own(UpstreamSession),
    /// The session with an HTTP+SSE server that this client's mailbox keeps: what belongs to no call comes through.
    /// Subscriptions are made anew where another session had to be opened.
    Line(Arc<Client>),
}

/// News of one server.
#[derive(Debug)]
pub struct Notice {
    /// The server.
    pub server: Arc<Server>,
    /// The news.
    pub what: What,
    /// The session that it came over, if the client's mailbox keeps that.
    pub held: Option<Arc<Held>>,
}

/// What is new.
#[derive(Debug)]
pub enum What {
    /// The server is heard (again) and will tell this much. What it may have told since it was last heard follows, as
    /// messages of its own.
    Agreed(Wanted),
    /// A message, as it came.
    Message(Bytes),
    /// The server cannot be heard at the moment. It will be tried again.
    Down(Fault),
    /// The server has nothing to say and will not be asked again.
    Silent,
    /// The server has ended the session that it was heard over ([`Over::Own`]). It will not be asked again.
    Lost,
}

/// A session with a server.
type Leased = (Arc<Server>, UpstreamSession);

/// The sessions that are open for a feed alone, for whoever has to end them after it.
#[derive(Debug, Clone, Default)]
pub struct Leases(Arc<Mutex<Vec<Leased>>>);

impl Leases {
    /// Notes a session that has just been opened.
    pub fn hold(&self, server: &Arc<Server>, session: &UpstreamSession) {
        lock(&self.0).push((server.clone(), session.clone()));
    }

    /// Forgets a session that is over.
    pub fn let_go(&self, server: &Server, session: &UpstreamSession) {
        lock(&self.0).retain(|(at, held)| at.name != server.name || held != session);
    }

    /// Gives the sessions that are still open, to be ended.
    #[must_use]
    pub fn take(&self) -> Vec<Leased> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// Notices of many servers. `W` is the work on one line until its next notice; it has no name, so that whoever keeps a
/// feed in a type of its own is generic over it, too.
pub struct Feed<P: Platform, W> {
    mcp: Mcp<P>,
    leases: Leases,
    step: fn(Line<P>) -> W,
    /// Few mostly, and looked through each time: a set that knows whom to poll would cost more for as long as it lasts.
    /// Who had something to tell goes to the end.
    lines: Vec<(Arc<Server>, Pin<Box<W>>)>,
}

/// A feed without servers yet. Sessions that it opens are noted in `leases` until they are ended.
pub fn feed<P: Platform>(mcp: Mcp<P>, leases: Leases) -> Feed<P, impl Future<Output = Stepped<P>> + use<P>> {
    Feed { mcp, leases, step: step::<P>, lines: Vec::new() }
}

impl<P: Platform, W: Future<Output = Stepped<P>>> Feed<P, W> {
    /// Hears `source`, too; in the place of what was heard of the same server before.
    pub fn add(&mut self, source: Source) {
        self.remove(&source.server);
        let line = Line::new(self.mcp.clone(), self.leases.clone(), source);
        self.go_on(line);
    }

    /// Hears `server` no more. A session that was opened for it stays among the leases.
    pub fn remove(&mut self, server: &Server) {
        self.lines.retain(|(heard, _)| heard.name != server.name);
    }

    fn go_on(&mut self, line: Line<P>) {
        self.lines.reserve_exact(1);
        self.lines.push((line.server().clone(), Box::pin((self.step)(line))));
    }

    /// Whether no server is left to be heard.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The next notice; `None` when no server is left to be heard. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The same for whoever waits for other things, too: there is no future to make room for.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        let mut at = 0;
        while let Some((_, line)) = self.lines.get_mut(at) {
            let Poll::Ready((line, notice)) = line.as_mut().poll(context) else {
                at += 1;
                continue;
            };
            self.lines.remove(at);
            if let Some(line) = line {
                self.go_on(line);
            }
            if notice.is_some() {
                return Poll::Ready(notice);
            }
        }
        if self.lines.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl<P: Platform> Mcp<P> {
    /// Notes that the lists of `server` have changed that the notification `method` is about: whoever asks next is given
    /// the new ones.
    pub(super) fn outdated(&self, server: &Server, method: &str) {
        if let Some(topic) = Topic::of(method) {
            let memory = self.memory.server(server);
            topic.lists().iter().for_each(|kind| memory.outdate(*kind));
            self.memory.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn all() -> Wanted {
        let uris = vec!["a:1".to_owned(), "a:\"2".to_owned()];
        Wanted { lists: Topic::ALL.into(), uris, tasks: vec!["t".to_owned()] }
    }

    #[test]
    fn what_a_server_declares_is_what_it_is_asked_for() {
        let check = |capabilities: &str, expect: &str| {
            assert_eq!(all().within(&raw(capabilities)).filter(), expect, "{capabilities}");
        };
        check(r#"{"tools":{"listChanged":true},"prompts":{}}"#, r#"{"toolsListChanged":true}"#);
        check(
            r#"{"tools":{"listChanged":false},"resources":{"subscribe":true}}"#,
            r#"{"resourceSubscriptions":["a:1","a:\"2"]}"#,
        );
        check(
            r#"{"prompts":{"listChanged":true},"resources":{"listChanged":true}}"#,
            r#"{"promptsListChanged":true,"resourcesListChanged":true}"#,
        );
        check(r#"{"tools":{"listChanged":"yes"},"resources":7,"extensions":{"a/b":{}}}"#, "{}");
        check(r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#, r#"{"taskIds":["t"]}"#);
        check("[]", "{}");
    }

    #[test]
    fn an_acknowledgement_never_widens_what_was_asked() {
        let asked = Wanted {
            lists: [Topic::Tools].into(),
            uris: vec!["a:1".to_owned()],
            tasks: vec!["t".to_owned(), "u".to_owned()],
        };
        let check = |agreed: &str, expect: &str| {
            assert_eq!(asked.within_filter(Some(&raw(agreed))).filter(), expect, "{agreed}");
        };
        check(
            r#"{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["b:1","a:1"]}"#,
            r#"{"toolsListChanged":true,"resourceSubscriptions":["a:1"]}"#,
        );
        check(r#"{"toolsListChanged":1,"resourceSubscriptions":"a:1"}"#, "{}");
        check(r#"{"taskIds":["v","u"]}"#, r#"{"taskIds":["u"]}"#);
        check("7", "{}");
        assert!(asked.within_filter(None).is_nothing());
    }

    #[test]
    fn what_may_have_changed_is_said_in_messages() {
        let said: Vec<String> =
            all().changes().map(|message| String::from_utf8(message.to_vec()).unwrap()).collect();
        assert_eq!(said.len(), 5);
        assert_eq!(said[0], r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
        let last = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:\"2"}}"#;
        assert_eq!(said[4], last);
    }
}
