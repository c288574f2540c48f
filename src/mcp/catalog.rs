//! What servers offer: their lists, gathered in parallel, kept as long as they say, merged into one.
//!
//! One broken, slow or lying server never breaks the others: its part is stale or missing, and `/status` says why.

mod fitted;
mod item;
mod merged;
mod renewed;

use std::collections::{HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::fitted::ALL;
pub use self::item::Item;
use self::item::{item, shorten};
use super::Mcp;
use super::memory::Profile;
use super::revision::Revision;
use super::upstream::{Asked, GATEWAY, IMPLEMENTATION, everything};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind as FaultKind};
use crate::platform::{Clock as _, Log as _, Platform, Timestamp};
use crate::wire::jsonrpc::quote;

/// Pages of one server's list that are read at most; a cursor that never ends must not hold us.
const PAGES: usize = 100;
/// Items of one server's list that are kept at most.
const ITEMS: usize = 10_000;
/// A list that cannot be renewed is served this long; then its part is missing.
const STALE: Duration = Duration::from_secs(60 * 60);
/// A longer `ttlMs` is cut to this, so that no server can pin its list for ever.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    Templates,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The list that `method` asks for.
    #[must_use]
    pub fn of(method: &str) -> Option<Self> {
        [Self::Tools, Self::Prompts, Self::Resources, Self::Templates]
            .into_iter()
            .find(|kind| kind.method() == method)
    }

    /// The method that asks for it.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// The capability that a server with such a list declares.
    #[must_use]
    pub const fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources | Self::Templates => "resources",
        }
    }

    /// The result's member that holds the items.
    #[must_use]
    pub const fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }
}

/// One server's list, complete.
#[derive(Debug)]
pub struct List {
    /// The items, in the server's order.
    pub items: Vec<Item>,
    /// When it was read.
    pub read_at: Timestamp,
    /// How long it is fresh.
    pub ttl: Duration,
    /// Whether every caller may be given it.
    pub public: bool,
    /// What was wrong with items that were left out.
    pub warnings: Vec<String>,
    /// Items were left out that the server lists.
    pub reduced: bool,
    /// What the server calls those of them that have a name.
    refused: HashSet<String>,
    /// The server has said that it has changed.
    outdated: AtomicBool,
    /// Items by the name they are offered under.
    offered: HashMap<String, usize>,
    /// Tells lists apart that differ in their items.
    digest: u64,
    /// Nobody but a client of some kind is shown it, and none has been since it was read.
    unused: AtomicBool,
}

impl List {
    /// A list of which only the items are left: older than any that is read.
    pub(super) fn restored(server: &Server, kind: Kind, texts: &[Box<RawValue>]) -> Self {
        let mut items: Vec<Item> = texts
            .iter()
            .take(ITEMS)
            .filter_map(|text| item::item(server, kind, text).ok().flatten())
            .collect();
        let mut seen = HashSet::new();
        items.retain(|item| seen.insert(item.offered.clone()));
        let offered = items.iter().enumerate().map(|(index, item)| (item.offered.clone(), index)).collect();
        Self {
            read_at: Timestamp(0),
            ttl: server.list_ttl,
            public: true,
            warnings: Vec::new(),
            reduced: false,
            refused: HashSet::new(),
            outdated: AtomicBool::new(true),
            digest: digest(&items),
            unused: AtomicBool::new(false),
            items,
            offered,
        }
    }

    /// Whether it is as new as the server wants it to be.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.fresh_until()
    }

    /// Until when it is as new as the server wants it to be.
    #[must_use]
    pub fn fresh_until(&self) -> Timestamp {
        if self.is_outdated() { self.read_at } else { self.read_at.after(self.ttl) }
    }

    /// Tells lists apart that differ in their items.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether `other` has the same items.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        self.items.len() == other.items.len()
            && self.items.iter().zip(&other.items).all(|(one, two)| one.text.get() == two.text.get())
    }

    /// Whether it is to be renewed when it has passed its time.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.unused.load(Ordering::Relaxed)
    }

    /// Notes that the server has said that it has changed. It still tells where things are, but is given to nobody.
    pub fn outdate(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }

    /// Whether the server has said that it has changed.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }

    /// The item that is offered as `name` in the merged list.
    #[must_use]
    pub fn offered(&self, name: &str) -> Option<&Item> {
        self.offered.get(name).and_then(|index| self.items.get(*index))
    }

    /// Whether the server lists `key`, but in a way that no client may use it.
    #[must_use]
    pub fn refuses(&self, key: &str) -> bool {
        self.refused.contains(key)
    }

    /// The item that the server calls `key`.
    #[must_use]
    pub fn own(&self, key: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.key == key)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(default)]
    ttl_ms: Option<serde_json::Number>,
    #[serde(default)]
    cache_scope: Option<String>,
    #[serde(borrow, default)]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    prompts: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    resources: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    resource_templates: Option<Vec<&'a RawValue>>,
}

impl<P: Platform> Mcp<P> {
    /// One server's list for `caller`: kept, or read now.
    ///
    /// A list that has passed its time is served while [`Mcp::refresh`] renews it behind the reply; one whose
    /// server wants none kept (`ttlMs` 0) is read each time.
    ///
    /// # Errors
    /// When there is none and it cannot be read.
    pub async fn list(
        &self,
        server: &Arc<Server>,
        kind: Kind,
        caller: &Arc<Caller>,
    ) -> Result<Arc<List>, Fault> {
        self.list_for(server, kind, caller, ALL).await
    }

    /// The same, as the server gives it to clients that are this `able`.
    async fn list_for(
        &self,
        server: &Arc<Server>,
        kind: Kind,
        caller: &Arc<Caller>,
        able: &str,
    ) -> Result<Arc<List>, Fault> {
        if let Some(via) = &server.via
            && let Some(fault) = Box::pin(self.offline(server)).await
        {
            return Box::pin(self.kept_list(server, via, kind, caller, able, fault)).await;
        }
        let memory = self.memory.server(server);
        let usable = |list: &Arc<List>| {
            let now = self.platform.clock().now();
            let kept = !list.ttl.is_zero() && now < list.read_at.after(STALE);
            !list.is_outdated() && (list.is_fresh(now) || kept)
        };
        if let Some(list) = memory.list(kind, &caller.name, able).filter(usable) {
            if list.unused.swap(false, Ordering::Relaxed) && !list.ttl.is_zero() {
                self.memory.lower_stale_at(list.fresh_until());
            }
            return Ok(list);
        }
        let key = format!("{} {} {} {able}", kind.method(), server.name, caller.name);
        let began = self.platform.clock().now();
        let newer = || {
            memory
                .list(kind, &caller.name, able)
                .filter(|list| usable(list) || !list.is_outdated() && list.read_at > began)
        };
        // Boxed: it is seldom read, and every call would have to make room for it.
        let list = self.once(&key, newer, || Box::pin(self.read_list(server, kind, caller, able))).await;
        match (&server.via, list) {
            (Some(via), Err(fault)) if fault.kind == FaultKind::LinkOffline => {
                Box::pin(self.kept_list(server, via, kind, caller, able, fault)).await
            }
            (_, list) => list,
        }
    }

    /// Reads a list from its server, every page, and keeps it.
    pub(super) async fn read_list(
        &self,
        server: &Arc<Server>,
        kind: Kind,
        caller: &Arc<Caller>,
        able: &str,
    ) -> Result<Arc<List>, Fault> {
        let profile = self.profile(server).await?;
        let now = self.platform.clock().now();
        let changes = self.memory.server(server).changes();
        let mut list = List {
            items: Vec::new(),
            read_at: now,
            ttl: server.list_ttl,
            public: true,
            warnings: Vec::new(),
            reduced: false,
            outdated: AtomicBool::new(false),
            refused: HashSet::new(),
            offered: HashMap::new(),
            digest: 0,
            unused: AtomicBool::new(able != ALL),
        };
        if profile.has(kind.capability()) {
            self.read_pages(server, &profile, kind, able, &mut list).await?;
        }
        let mut seen = HashSet::new();
        for (index, item) in list.items.iter().enumerate() {
            if seen.insert(item.offered.clone()) {
                list.offered.insert(item.offered.clone(), index);
            } else {
                list.warnings.push(format!("{:?} is listed twice; the first is kept", shorten(&item.key)));
            }
        }
        let mut seen = HashSet::new();
        list.items.retain(|item| seen.insert(item.offered.clone()));
        list.offered =
            list.items.iter().enumerate().map(|(index, item)| (item.offered.clone(), index)).collect();
        list.digest = digest(&list.items);
        let memory = self.memory.server(server);
        if memory.changes() != changes {
            // It may be the list from before the change.
            list.outdate();
        }
        let before = memory.list(kind, &caller.name, able);
        let same = before.as_ref().is_some_and(|before| before.public == list.public && before.is_as(&list));
        let kept = memory.set_list(kind, &caller.name, able, list);
        if !kept.ttl.is_zero() && kept.is_wanted() {
            self.memory.lower_stale_at(kept.read_at.after(kept.ttl));
        }
        if !same {
            self.memory.changed();
            self.warn(server, kind, &kept.warnings);
            if server.via.is_some() && able == ALL {
                self.keep_list(server, kind, &kept).await;
            }
        }
        Ok(kept)
    }

    /// Logs what is wrong with a list, once for each time that it changes.
    fn warn(&self, server: &Server, kind: Kind, warnings: &[String]) {
        #[derive(serde::Serialize)]
        struct Warning<'a> {
            ts: u64,
            level: &'static str,
            event: &'static str,
            server: &'a str,
            method: &'static str,
            message: &'a str,
        }
        for message in warnings {
            let ts = self.platform.clock().now().0;
            let (server, method) = (server.name.as_str(), kind.method());
            let record = Warning { ts, level: "warn", event: "list.warning", server, method, message };
            if let Ok(line) = serde_json::to_string(&record) {
                self.platform.log().write(&line);
            }
        }
    }

    async fn read_pages(
        &self,
        server: &Arc<Server>,
        profile: &Profile,
        kind: Kind,
        able: &str,
        list: &mut List,
    ) -> Result<(), Fault> {
        let whole = able == ALL;
        let able = if whole { everything(server) } else { able.to_owned() };
        let holder = if whole { GATEWAY.to_owned() } else { format!("like {able}") };
        let mut line = match profile.http_sse {
            true => Some(self.open_old(server, &able, IMPLEMENTATION, Revision::LEGACY).await?),
            false => None,
        };
        let mut cursor: Option<String> = None;
        let mut ttl: Option<Duration> = None;
        for page in 0..PAGES {
            let params = match &cursor {
                None => "{}".to_owned(),
                Some(cursor) => format!("{{\"cursor\":{}}}", String::from_utf8_lossy(&quote(cursor))),
            };
            let asked = match &mut line {
                // A cursor means something to the session that it was given in.
                Some((line, session, _)) => self.ask_old(line, session, kind.method(), &params).await,
                None => self.ask_in_era(server, kind.method(), &params, &holder, &able).await,
            };
            let result = match asked {
                Ok(result) => result,
                // Servers that declare `resources` often have no templates: an empty list, not a failure.
                Err(Asked::Refused { code: -32601, .. }) if page == 0 => return Ok(()),
                Err(asked) => return Err(asked.fault(&server.name, kind.method())),
            };
            let read: Page<'_> = serde_json::from_str(result.get()).map_err(|_| invalid(server, kind))?;
            let items = match kind {
                Kind::Tools => read.tools,
                Kind::Prompts => read.prompts,
                Kind::Resources => read.resources,
                Kind::Templates => read.resource_templates,
            };
            for text in items.ok_or_else(|| invalid(server, kind))? {
                match item(server, kind, text) {
                    Ok(Some(item)) if list.items.len() < ITEMS => list.items.push(item),
                    Ok(_) => {}
                    Err(unusable) => {
                        list.reduced = true;
                        list.refused.extend(unusable.key.filter(|_| list.refused.len() < ITEMS));
                        if list.warnings.len() < 20 {
                            list.warnings.push(unusable.why);
                        }
                    }
                }
            }
            if let Some(millis) = read.ttl_ms {
                let millis = millis.as_f64().unwrap_or(0.0).clamp(0.0, LONGEST_TTL.as_secs_f64() * 1000.0);
                let this = Duration::from_secs_f64(millis / 1000.0);
                ttl = Some(ttl.map_or(this, |least| least.min(this)));
            }
            list.public &= read.cache_scope.as_deref() != Some("private");
            match read.next_cursor.filter(|next| !next.is_empty() && next.len() <= 64 * 1024) {
                Some(next) if list.items.len() < ITEMS => {
                    if cursor.as_ref() == Some(&next) {
                        list.warnings.push(format!("{}: its cursor leads in a circle", kind.method()));
                        break;
                    }
                    cursor = Some(next);
                }
                _ => {
                    cursor = None;
                    break;
                }
            }
        }
        if cursor.is_some() {
            list.warnings.push(format!("{}: longer than {PAGES} pages or {ITEMS} items; cut", kind.method()));
        }
        list.ttl = ttl.unwrap_or(server.list_ttl);
        Ok(())
    }

    /// Asks the server in its own era as a client that is this `able`, over a session of the gateway's own where it
    /// needs one.
    async fn ask_in_era(
        &self,
        server: &Arc<Server>,
        method: &str,
        params: &str,
        holder: &str,
        able: &str,
    ) -> Result<Box<RawValue>, Asked> {
        let profile = self.profile(server).await.map_err(Asked::Fault)?;
        if profile.modern.is_some() {
            return self.ask_as(server, method, params, able).await;
        }
        let session = self.pooled(server, holder, able).await.map_err(Asked::Fault)?;
        match self.ask(server, method, params, Some(&session)).await {
            Err(Asked::NotMcp(status, _) | Asked::Refused { status, .. })
                if session.id.is_some() && super::forgotten(status) =>
            {
                self.memory.server(server).unpool(holder, &session);
                let session = self.pooled(server, holder, able).await.map_err(Asked::Fault)?;
                self.ask(server, method, params, Some(&session)).await
            }
            other => other,
        }
    }
}

/// Tells lists apart that differ in their items.
fn digest(items: &[Item]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    items.iter().for_each(|item| item.text.get().hash(&mut hasher));
    hasher.finish()
}

fn invalid(server: &Server, kind: Kind) -> Fault {
    let message =
        format!("server {:?}: its {} result is not what the protocol says", server.name, kind.method());
    Fault::new(FaultKind::UpstreamInvalid, message)
}
