//! `subscriptions/listen`: what changes at the servers, on one stream of a modern client (2026-07-28 subscriptions).
//!
//! [`Listen`] is the request, understood: it costs nothing until it is started. [`Listening`] is the stream: the
//! acknowledgement first, then a notification for each thing that was asked for and acknowledged, and **nothing** else,
//! whatever the servers send.

mod words;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::words::{acknowledged, asked, is_part, tagged};
pub(super) use self::words::{completed, given, renamed, uri_of};
use super::catalog::Kind as ListKind;
use super::client::Client;
use super::feed::{
    Feed, Leases, Notice, Over, Source, Stepped, Topic, UPDATED, Wanted, What, declared, feed, has_flag,
};
use super::forward::{Call, event};
use super::memory::lock;
use super::serve::{Answer, Inbound};
use super::tasks::{self, Names};
use super::{Mcp, ask, extensions, sampling};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, Timestamp};
use crate::wire::jsonrpc::{Message, Splice};

/// How long the acknowledgement waits for servers to say what they will tell. The others are taken at their word:
/// what they declare, or all of it while they cannot be reached.
const PATIENCE: Duration = Duration::from_secs(2);
/// Notifications held back until the acknowledgement; with more, it does not wait any longer.
const HELD: usize = 256;

/// How many streams each caller has open.
#[derive(Debug, Default)]
pub struct Seats(Mutex<HashMap<String, usize>>);

impl Seats {
    /// A seat for one more stream of `caller`, who may have `limit`. It is free again when dropped.
    ///
    /// # Errors
    /// [`Kind::TooManyStreams`]
    pub fn take(self: &Arc<Self>, caller: &str, limit: usize) -> Result<Seat, Fault> {
        let mut taken = lock(&self.0);
        let count = taken.entry(caller.to_owned()).or_default();
        if *count >= limit {
            let message = format!(
                "{limit} subscriptions of yours are open, and no more may be (limits.subscriptions); close one"
            );
            return Err(Fault::new(Kind::TooManyStreams, message));
        }
        *count += 1;
        Ok(Seat { of: self.clone(), caller: caller.to_owned() })
    }
}

/// The right to one open stream.
#[derive(Debug)]
pub struct Seat {
    of: Arc<Seats>,
    caller: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.of.0);
        if let Some(count) = taken.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

/// A resource that is subscribed to: what its server calls it, and what the client does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The server's name.
    pub server: String,
    /// What the server calls it.
    pub own: String,
    /// What the client calls it.
    pub given: String,
}

/// A subscription that has been asked for.
pub struct Listen<P: Platform> {
    mcp: Mcp<P>,
    id: Box<RawValue>,
    /// What was asked for, in the client's words.
    asked: Wanted,
    resources: Vec<Subscribed>,
    tasks: Vec<Subscribed>,
    /// Several servers are seen as one.
    merged: bool,
    sources: Vec<Source>,
    leases: Leases,
    seat: Seat,
}

impl<P: Platform> Mcp<P> {
    /// Answers `subscriptions/listen`, for `server` alone or for all that the caller sees.
    ///
    /// # Errors
    /// When the request is wrong, or the caller has too many streams.
    pub(super) async fn listen(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        server: Option<Arc<Server>>,
    ) -> Result<Answer<P>, Fault> {
        if !inbound.accepts.events {
            let message =
                "subscriptions/listen is answered with text/event-stream, which Accept does not admit";
            return Err(Fault::new(Kind::NotAcceptable, message));
        }
        let asked = asked(call.params)?;
        let able = client.capabilities.as_deref();
        if !asked.tasks.is_empty() && !able.is_some_and(|able| extensions::has(able, extensions::TASKS)) {
            let needed = format!("{{\"requiredCapabilities\":{}}}", extensions::alone(extensions::TASKS));
            let message =
                "params.notifications.taskIds: needs a client that declares the extension for tasks";
            let fault = Fault::new(Kind::MissingCapability, message);
            return Err(Fault { data: RawValue::from_string(needed).ok(), ..fault });
        }
        let merged = server.is_none();
        let seat = self.seat(&client.caller)?;
        let (servers, resources) = match server {
            Some(server) => {
                let admitted = asked.uris.iter().filter(|uri| server.resources.admits(uri));
                let resources = admitted.map(|uri| subscribed(&server, uri, uri)).collect();
                (vec![server], resources)
            }
            None => (self.visible(&client.caller), self.resources(&client.caller, &asked.uris).await),
        };
        let tasks: Vec<Subscribed> = match servers.as_slice() {
            [server] if !merged => asked.tasks.iter().map(|id| subscribed(server, id, id)).collect(),
            _ => asked.tasks.iter().filter_map(|id| named_task(&servers, id)).collect(),
        };
        let over = Over::Parked(Arc::new(client.clone()));
        let source = |server: Arc<Server>| {
            let own = resources.iter().filter(|resource: &&Subscribed| resource.server == server.name);
            let mut uris: Vec<String> = own.map(|resource| resource.own.clone()).collect();
            uris.sort();
            uris.dedup();
            let tasks = tasks.iter().filter(|task: &&Subscribed| task.server == server.name);
            let tasks = tasks.map(|task| task.own.clone()).collect();
            let wanted = Wanted { lists: asked.lists.clone(), uris, tasks };
            Source { server, wanted, over: over.clone() }
        };
        let sources = servers.into_iter().map(source).filter(|source| !source.wanted.is_nothing()).collect();
        let (mcp, id, leases) = (self.clone(), call.id.to_owned(), inbound.ticket.leases.clone());
        let listen = Listen { mcp, id, asked, resources, tasks, merged, sources, leases, seat };
        Ok(Answer::Listen(Box::new(listen)))
    }

    /// The right of `caller` to one more stream.
    ///
    /// # Errors
    /// [`Kind::TooManyStreams`]
    pub(super) fn seat(&self, caller: &Caller) -> Result<Seat, Fault> {
        self.memory.seats.take(&caller.name, self.plan.limits.subscriptions)
    }

    fn visible(&self, caller: &Caller) -> Vec<Arc<Server>> {
        self.plan.servers.iter().filter(|server| caller.servers.admits(&server.name)).cloned().collect()
    }

    /// Where the resources `uris` of the merged endpoint are. Those that nobody has are left out.
    async fn resources(&self, caller: &Arc<Caller>, uris: &[String]) -> Vec<Subscribed> {
        if uris.iter().any(|uri| self.listed_at(caller, uri).is_none()) {
            for kind in [ListKind::Resources, ListKind::Templates] {
                self.parts(kind, caller, None).await;
            }
        }
        let mut found = Vec::new();
        let mut only = None;
        for uri in uris {
            if let Some(server) = self.listed_at(caller, uri) {
                found.push(subscribed(&server, uri, uri));
            } else if let Some((server, own)) = self.named_at(caller, uri) {
                found.push(subscribed(&server, &own, uri));
            } else {
                if only.is_none() {
                    only = Some(self.only_with_resources(caller).await);
                }
                let server = only.iter().flatten().find(|server| server.resources.admits(uri));
                found.extend(server.map(|server| subscribed(server, uri, uri)));
            }
        }
        found
    }
}

fn subscribed(server: &Server, own: &str, given: &str) -> Subscribed {
    Subscribed { server: server.name.clone(), own: own.to_owned(), given: given.to_owned() }
}

/// Whose task `id` is, at the endpoint where `servers` are seen as one.
fn named_task(servers: &[Arc<Server>], id: &str) -> Option<Subscribed> {
    let (name, own) = tasks::split(id)?;
    let server = servers.iter().find(|server| server.name == name)?;
    Some(subscribed(server, own, id))
}

impl<P: Platform> Listen<P> {
    /// Starts it.
    pub fn start(self) -> Listening<P, impl Future<Output = Stepped<P>> + use<P>> {
        let mut feed = feed(self.mcp.clone(), self.leases);
        let mut standings = HashMap::new();
        for source in self.sources {
            let (server, wanted) = (source.server.clone(), source.wanted.clone());
            standings.insert(server.name.clone(), (server, Standing::Unknown(wanted)));
            feed.add(source);
        }
        let until = self.mcp.platform.clock().now().after(PATIENCE);
        Listening {
            mcp: self.mcp,
            id: self.id,
            asked: self.asked,
            resources: self.resources,
            tasks: self.tasks,
            merged: self.merged,
            feed,
            standings,
            acknowledged: None,
            until,
            ready: VecDeque::new(),
            over: false,
            _seat: self.seat,
        }
    }
}

/// How things stand with one server.
#[derive(Debug)]
enum Standing {
    /// It has not said anything yet, and was asked for this.
    Unknown(Wanted),
    /// It cannot be reached, and will be asked for this.
    Unreached(Wanted),
    /// It tells this much.
    Agreed(Wanted),
    /// It tells nothing.
    Silent,
}

/// What a message is about, in the client's words.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    List(Topic),
    Resource(String),
    Task(String),
}

/// A subscription that is open.
pub struct Listening<P: Platform, W> {
    mcp: Mcp<P>,
    id: Box<RawValue>,
    asked: Wanted,
    resources: Vec<Subscribed>,
    tasks: Vec<Subscribed>,
    merged: bool,
    feed: Feed<P, W>,
    standings: HashMap<String, (Arc<Server>, Standing)>,
    /// What was acknowledged, in the client's words.
    acknowledged: Option<Wanted>,
    /// When it is acknowledged at the latest.
    until: Timestamp,
    ready: VecDeque<(About, Bytes)>,
    over: bool,
    _seat: Seat,
}

impl<P: Platform, W: Future<Output = Stepped<P>>> Listening<P, W> {
    /// The next event for the client; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            if self.acknowledged.is_none() {
                let now = self.mcp.platform.clock().now();
                let left = self.until.since(now);
                let unknown = |(_, standing): &(_, Standing)| matches!(standing, Standing::Unknown(_));
                if left.is_zero() || self.ready.len() > HELD || !self.standings.values().any(unknown) {
                    return Some(self.acknowledge());
                }
                let patience = pin!(self.mcp.platform.clock().sleep(left));
                let notice = match select(pin!(self.feed.next()), patience).await {
                    Either::Left((notice, _)) => notice,
                    Either::Right(_) => None,
                };
                if let Some(notice) = notice {
                    self.take(notice);
                }
                continue;
            }
            if let Some((_, message)) = self.ready.pop_front() {
                return Some(event(message));
            }
            match self.feed.next().await {
                Some(notice) => self.take(notice),
                // No server has anything more to say, now or later.
                None => return self.leave(false),
            }
        }
    }

    /// Whether the subscription was acknowledged: from then on its end is no failure.
    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged.is_some()
    }

    /// Ends it in good order ("Graceful Closure"). `moved`: whatever was offered may be another from now on.
    pub fn leave(&mut self, moved: bool) -> Option<Bytes> {
        if std::mem::replace(&mut self.over, true) {
            return None;
        }
        let mut out = Vec::new();
        if self.acknowledged.is_none() {
            out.extend_from_slice(&self.acknowledge());
        }
        let lists = self.acknowledged.iter().flat_map(|told| told.lists.iter().copied());
        let lists = if moved { lists.collect() } else { BTreeSet::new() };
        let changed = Wanted { lists, ..Wanted::default() };
        for message in changed.changes() {
            out.extend(tagged(&message, &self.id, None).map(event).unwrap_or_default());
        }
        out.extend_from_slice(&event(completed(&self.id)));
        Some(out.into())
    }

    /// The acknowledgement: what will be told, of what was asked for.
    fn acknowledge(&mut self) -> Bytes {
        let mut lists = BTreeSet::new();
        let mut own: Vec<(&str, &str)> = Vec::new();
        let mut own_tasks: Vec<(&str, &str)> = Vec::new();
        let possible: Vec<(&str, Wanted)> = self
            .standings
            .iter()
            .map(|(name, (server, standing))| {
                let told = match standing {
                    Standing::Agreed(told) => told.clone(),
                    Standing::Silent => Wanted::default(),
                    // It says what it can, or is believed to be able to do anything until it can be asked.
                    Standing::Unknown(wanted) | Standing::Unreached(wanted) => {
                        let profile = self.mcp.memory.server(server).profile();
                        profile.map_or_else(|| wanted.clone(), |known| wanted.within(&known.capabilities))
                    }
                };
                (name.as_str(), told)
            })
            .collect();
        for (name, told) in &possible {
            lists.extend(told.lists.iter().copied());
            own.extend(told.uris.iter().map(|uri| (*name, uri.as_str())));
            own_tasks.extend(told.tasks.iter().map(|task| (*name, task.as_str())));
        }
        let told = |asked: &[String], places: &[Subscribed], own: &[(&str, &str)]| -> Vec<String> {
            let told = |given: &&String| {
                let mut places = places.iter().filter(|place| place.given == **given);
                places.any(|place| own.contains(&(place.server.as_str(), place.own.as_str())))
            };
            asked.iter().filter(told).cloned().collect()
        };
        let uris = told(&self.asked.uris, &self.resources, &own);
        let tasks = told(&self.asked.tasks, &self.tasks, &own_tasks);
        let told = Wanted { lists, uris, tasks };
        let message = acknowledged(&self.id, &told);
        self.ready.retain(|(about, _)| is_told(&told, about, &self.resources));
        self.acknowledged = Some(told);
        event(message)
    }

    fn take(&mut self, notice: Notice) {
        let Notice { server, what, .. } = notice;
        let Some((_, standing)) = self.standings.get_mut(&server.name) else { return };
        match what {
            What::Message(message) => self.pass(&server, &message),
            What::Agreed(wanted) => {
                let before = std::mem::replace(standing, Standing::Agreed(wanted.clone()));
                // A server that comes late may have changed since the client was told that it is listened to.
                let late = matches!(before, Standing::Unknown(_) | Standing::Unreached(_));
                if late && self.acknowledged.is_some() {
                    for topic in &wanted.lists {
                        self.mcp.outdated(&server, topic.method());
                    }
                    wanted.changes().for_each(|message| self.pass(&server, &message));
                }
            }
            What::Down(_) => {
                if let Standing::Unknown(wanted) = standing {
                    *standing = Standing::Unreached(std::mem::take(wanted));
                }
            }
            What::Silent | What::Lost => *standing = Standing::Silent,
        }
    }

    /// Makes a server's message ready for the client, if it is one that was asked for.
    fn pass(&mut self, server: &Server, message: &[u8]) {
        let Ok(Message::Notification { method, params }) = Message::decode(message) else { return };
        if method == tasks::STATUS {
            if let Some(params) = params.filter(|params| ask::check(server, params).is_ok()) {
                let less = sampling::without_sampled(server, params, false);
                let mut splice = Splice::new(message);
                if let Some(less) = less {
                    splice.replace(params, less.into_bytes());
                }
                self.pass_task(server, splice.finish());
            }
            return;
        }
        let mut forms = Vec::new();
        if let Some(topic) = Topic::of(&method) {
            forms.push((About::List(topic), None));
        } else if method == UPDATED {
            let Some(uri) = params.and_then(uri_of) else { return };
            if server.resources.admits(&uri) {
                let given = given(&self.resources, &server.name, &uri);
                forms.extend(given.into_iter().map(|uri| (About::Resource(uri.clone()), Some(uri))));
            }
        }
        for (about, uri) in forms {
            let told = self.acknowledged.as_ref().unwrap_or(&self.asked);
            let queued = self.ready.iter().any(|(other, _)| *other == about);
            if !queued
                && is_told(told, &about, &self.resources)
                && let Some(message) = tagged(message, &self.id, uri.as_deref())
            {
                self.ready.push_back((about, message));
            }
        }
    }
}

impl<P: Platform, W> Listening<P, W> {
    /// Makes what a server says of a task ready. Of two states, the newer one counts.
    fn pass_task(&mut self, server: &Server, message: Bytes) {
        let names = if self.merged { Names::Before } else { Names::None };
        let Ok(message) = tasks::outward(message, server, names) else { return };
        let Ok(Message::Notification { params: Some(params), .. }) = Message::decode(&message) else {
            return;
        };
        let Some(about) = tasks::told_of(params).map(About::Task) else { return };
        let told = self.acknowledged.as_ref().unwrap_or(&self.asked);
        if is_told(told, &about, &self.resources)
            && let Some(message) = tagged(&message, &self.id, None)
        {
            self.ready.retain(|(other, _)| *other != about);
            self.ready.push_back((about, message));
        }
    }
}

/// Whether `told` has what a message is about. A part of a resource belongs to the resource.
fn is_told(told: &Wanted, about: &About, resources: &[Subscribed]) -> bool {
    match about {
        About::List(topic) => told.lists.contains(topic),
        About::Task(id) => told.tasks.contains(id),
        About::Resource(uri) => {
            let mut subscribed = resources.iter().filter(|resource| told.uris.contains(&resource.given));
            subscribed.any(|resource| resource.given == *uri || is_part(&resource.given, uri))
        }
    }
}

/// What a server with `capabilities` tells a modern client of through the gateway, as flags of the capability `name`.
pub(super) fn flags(capabilities: &RawValue, name: &str) -> serde_json::Map<String, serde_json::Value> {
    let all = declared(capabilities);
    let known = ["listChanged", "subscribe"].into_iter();
    known
        .filter(|flag| has_flag(&all, name, flag) && (*flag != "subscribe" || name == "resources"))
        .map(|flag| (flag.to_owned(), true.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_caller_and_given_back() {
        let seats = Arc::new(Seats::default());
        let one = seats.take("alice", 2).unwrap();
        let two = seats.take("alice", 2).unwrap();
        assert_eq!(seats.take("alice", 2).unwrap_err().kind, Kind::TooManyStreams);
        let _bob = seats.take("bob", 2).unwrap();
        drop(one);
        let _three = seats.take("alice", 2).unwrap();
        drop(two);
        assert_eq!(lock(&seats.0).len(), 2);
    }
}
