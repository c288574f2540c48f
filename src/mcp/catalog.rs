//! What servers offer: their lists, gathered in parallel, kept as long as they say, merged into one.
//!
//! One broken, slow or lying server never breaks the others: its part is stale or missing, and `/status` says why.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::content::adapted;
use super::headers::{Mirrored, annotations};
use super::memory::{Health, Merged, MergedKey, Profile};
use super::revision::{Era, Revision};
use super::upstream::{Asked, GATEWAY, IMPLEMENTATION, everything};
use super::{Mcp, names};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind as FaultKind};
use crate::platform::{Clock as _, Log as _, Platform, Timestamp};
use crate::wire::jsonrpc::{Splice, quote, string};

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
}

impl List {
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

/// One tool, prompt, resource or template.
#[derive(Debug)]
pub struct Item {
    /// What the server calls it: a name, a URI or a URI template.
    pub key: String,
    /// What it is called in the merged list; for resources the same as `key`.
    pub offered: String,
    /// The item as the server wrote it.
    pub text: Box<RawValue>,
    /// The item as it is offered in the merged list.
    pub merged: Box<RawValue>,
    /// The arguments that go into headers, for tools.
    pub mirrored: Vec<Mirrored>,
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    uri: Option<&'a RawValue>,
    #[serde(borrow, default)]
    uri_template: Option<&'a RawValue>,
    #[serde(borrow, default)]
    description: Option<&'a RawValue>,
    #[serde(default)]
    input_schema: Option<serde_json::Value>,
}

/// An item that no client could use.
struct Unusable {
    /// Its name, if it has one.
    key: Option<String>,
    why: String,
}

impl Unusable {
    fn nameless(why: String) -> Self {
        Self { key: None, why }
    }
}

/// Reads one item. Refuses what no client could use.
fn item(server: &Server, kind: Kind, text: &RawValue) -> Result<Option<Item>, Unusable> {
    let listed: Listed<'_> = serde_json::from_str(text.get())
        .map_err(|_| Unusable::nameless(format!("{}: an item is no object", kind.method())))?;
    let raw = match kind {
        Kind::Tools | Kind::Prompts => listed.name,
        Kind::Resources => listed.uri,
        Kind::Templates => listed.uri_template,
    };
    let key = raw.and_then(|raw| string(raw).map(|key| (raw, key.into_owned())));
    let Some((raw, key)) = key.filter(|(_, key)| !key.is_empty() && key.len() <= 2048) else {
        return Err(Unusable::nameless(format!("{}: an item has no usable name", kind.method())));
    };
    let filter = match kind {
        Kind::Tools => &server.tools,
        Kind::Prompts => &server.prompts,
        Kind::Resources | Kind::Templates => &server.resources,
    };
    if !filter.admits(&key) {
        return Ok(None);
    }
    let changes = (kind == Kind::Tools).then(|| server.overrides.get(&key)).flatten();
    if changes.is_some_and(|changes| changes.hide) {
        return Ok(None);
    }
    let mirrored = match (kind, &listed.input_schema) {
        (Kind::Tools, Some(schema)) => annotations(schema).map_err(|why| Unusable {
            key: Some(key.clone()),
            why: format!("tool {:?} is left out: {why}", shorten(&key)),
        })?,
        _ => Vec::new(),
    };
    let offered = match kind {
        Kind::Tools | Kind::Prompts => {
            let shown = changes.and_then(|changes| changes.rename.as_deref()).unwrap_or(&key);
            names::merged(&server.prefix, shown)
        }
        Kind::Resources | Kind::Templates => key.clone(),
    };
    let mut splice = Splice::new(text.get().as_bytes());
    if offered != key {
        splice.replace(raw, quote(&offered));
    }
    if let Some(description) = changes.and_then(|changes| changes.description.as_deref()) {
        match listed.description {
            Some(old) => splice.replace(old, quote(description)),
            None => splice.insert_first(&[b"\"description\":", &quote(description)[..]].concat()),
        }
    }
    let merged = String::from_utf8(splice.finish().to_vec())
        .ok()
        .and_then(|text| RawValue::from_string(text).ok())
        .unwrap_or_else(|| text.to_owned());
    Ok(Some(Item { key, offered, text: text.to_owned(), merged, mirrored }))
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

/// One server's part of a merged list.
pub(super) enum Part {
    Has(Arc<List>),
    /// The server has no such list.
    None,
    Missing,
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
        let memory = self.memory.server(server);
        let usable = |list: &Arc<List>| {
            let now = self.platform.clock().now();
            let kept = !list.ttl.is_zero() && now < list.read_at.after(STALE);
            !list.is_outdated() && (list.is_fresh(now) || kept)
        };
        if let Some(list) = memory.list(kind, &caller.name).filter(usable) {
            return Ok(list);
        }
        let key = format!("{} {} {}", kind.method(), server.name, caller.name);
        let began = self.platform.clock().now();
        let newer = || {
            memory
                .list(kind, &caller.name)
                .filter(|list| usable(list) || !list.is_outdated() && list.read_at > began)
        };
        // Boxed: it is seldom read, and every call would have to make room for it.
        self.once(&key, newer, || Box::pin(self.read_list(server, kind, caller))).await
    }

    /// Reads a list from its server, every page, and keeps it.
    pub(super) async fn read_list(
        &self,
        server: &Arc<Server>,
        kind: Kind,
        caller: &Arc<Caller>,
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
        };
        if profile.has(kind.capability()) {
            self.read_pages(server, &profile, kind, &mut list).await?;
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
        let memory = self.memory.server(server);
        if memory.changes() != changes {
            // It may be the list from before the change.
            list.outdate();
        }
        let before = memory.list(kind, &caller.name);
        let same = before.as_ref().is_some_and(|before| {
            before.public == list.public
                && before.items.len() == list.items.len()
                && before.items.iter().zip(&list.items).all(|(old, new)| old.text.get() == new.text.get())
        });
        let kept = memory.set_list(kind, &caller.name, list);
        if !kept.ttl.is_zero() {
            self.memory.lower_stale_at(kept.read_at.after(kept.ttl));
        }
        if !same {
            self.memory.changed();
            self.warn(server, kind, &kept.warnings);
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
        list: &mut List,
    ) -> Result<(), Fault> {
        let mut line = match profile.http_sse {
            true => Some(self.open_old(server, &everything(server), IMPLEMENTATION, Revision::LEGACY).await?),
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
                None => self.ask_in_era(server, kind.method(), &params).await,
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

    /// Asks the server in its own era, over the gateway's own session where it needs one.
    async fn ask_in_era(
        &self,
        server: &Arc<Server>,
        method: &str,
        params: &str,
    ) -> Result<Box<RawValue>, Asked> {
        let profile = self.profile(server).await.map_err(Asked::Fault)?;
        if profile.modern.is_some() {
            return self.ask(server, method, params, None).await;
        }
        let able = everything(server);
        let session = self.pooled(server, GATEWAY, &able).await.map_err(Asked::Fault)?;
        match self.ask(server, method, params, Some(&session)).await {
            Err(Asked::NotMcp(status, _) | Asked::Refused { status, .. })
                if session.id.is_some() && super::forgotten(status) =>
            {
                self.memory.server(server).unpool(GATEWAY, &session);
                let session = self.pooled(server, GATEWAY, &able).await.map_err(Asked::Fault)?;
                self.ask(server, method, params, Some(&session)).await
            }
            other => other,
        }
    }

    /// The merged list of `kind` for `caller`: the result object from item `offset` on.
    pub async fn merged(&self, kind: Kind, era: Era, caller: &Arc<Caller>, offset: usize) -> Bytes {
        let key =
            MergedKey { kind, era, caller: caller.name.clone(), offset, plan: self.plan.digest.clone() };
        let now = self.platform.clock().now();
        if let Some(merged) = self.memory.merged(&key, now) {
            return merged.result.clone();
        }
        let mut generation = self.memory.generation();
        let mut parts = self.parts(kind, caller).await;
        if generation != self.memory.generation() {
            // Lists were read just now; what is merged must be what the generation stands for.
            generation = self.memory.generation();
            parts = self.parts(kind, caller).await;
        }
        let now = self.platform.clock().now();
        let mut page = MergedPage::new(kind, offset, self.plan.limits.page);
        let mut fresh_until = now.after(LONGEST_TTL);
        let mut public = self.plan.keys.is_empty();
        let mut whole = true;
        for (server, part) in &parts {
            let list = match part {
                Part::Has(list) => list,
                Part::None => continue,
                Part::Missing => {
                    whole = false;
                    continue;
                }
            };
            public &= list.public;
            fresh_until = fresh_until.min(list.fresh_until());
            for item in &list.items {
                if kind != Kind::Tools || caller.tools.admits(&item.offered) {
                    page.add(server, item);
                }
            }
        }
        let ttl = if whole { fresh_until.since(now) } else { Duration::ZERO };
        if page.more {
            // Makes the key that the cursor is sealed with; without one the list ends here.
            page.more = self.sealer().await.is_ok();
        }
        let next = page.more.then(|| self.seal_cursor(caller, kind, offset + self.plan.limits.page));
        let mut result = page.finish(next.as_deref(), (era == Era::Modern).then_some((ttl, public)));
        if era == Era::Legacy
            && let Some(adapted) = adapted(kind.method(), &result, Revision::LEGACY)
        {
            result = adapted;
        }
        let result = Bytes::from(result);
        if whole {
            let merged = Merged { result: result.clone(), fresh_until, generation };
            self.memory.keep_merged(key, Arc::new(merged));
        }
        result
    }

    /// Notes that `server` kept everybody waiting until the merge deadline.
    pub(super) fn too_slow(&self, server: &Server, method: &str) {
        let limit = self.plan.limits.merge_deadline;
        let message =
            format!("server {:?}: no {method} within {limit:?} (limits.merge_deadline)", server.name);
        let fault = Fault::new(FaultKind::UpstreamTimeout, message);
        self.memory.server(server).failed(self.platform.clock().now(), &fault);
    }

    /// Whether `server` failed so lately that it is left alone for a moment.
    pub(super) fn is_resting(&self, server: &Server) -> bool {
        resting(&self.memory.server(server).health(), self.platform.clock().now())
    }

    /// Every server's part, in the order of the plan, each within the merge deadline.
    pub(super) async fn parts(&self, kind: Kind, caller: &Arc<Caller>) -> Vec<(Arc<Server>, Part)> {
        let servers: Vec<Arc<Server>> =
            self.plan.servers.iter().filter(|server| caller.servers.admits(&server.name)).cloned().collect();
        let mut parts: Vec<(Arc<Server>, Part)> =
            servers.into_iter().map(|server| (server, Part::Missing)).collect();
        let mut waiting = FuturesUnordered::new();
        for (index, (server, _)) in parts.iter().enumerate() {
            let memory = self.memory.server(server);
            let now = self.platform.clock().now();
            if memory.list(kind, &caller.name).is_some() || !resting(&memory.health(), now) {
                waiting.push(numbered(index, self.clone(), server.clone(), kind, caller.clone()));
            }
        }
        let mut deadline = pin!(self.platform.clock().sleep(self.plan.limits.merge_deadline));
        loop {
            match select(waiting.next(), &mut deadline).await {
                Either::Left((Some((index, answer)), _)) => {
                    if let (Some((_, part)), Ok(list)) = (parts.get_mut(index), answer) {
                        *part = if list.items.is_empty() && list.warnings.is_empty() {
                            Part::None
                        } else {
                            Part::Has(list)
                        };
                    }
                }
                Either::Left((None, _)) => return parts,
                Either::Right(_) => break,
            }
        }
        drop(waiting);
        for (server, part) in &parts {
            if matches!(part, Part::Missing) {
                self.too_slow(server, kind.method());
            }
        }
        parts
    }

    /// Asks the servers that nobody has asked yet what they are and which tools they have, within `limit`.
    pub async fn survey(&self, caller: &Arc<Caller>, limit: Duration) {
        let mut waiting = FuturesUnordered::new();
        for (index, server) in self.plan.servers.iter().enumerate() {
            let memory = self.memory.server(server);
            let asked = memory.list(Kind::Tools, &caller.name).is_some() || memory.health().failed > 0;
            if !asked && caller.servers.admits(&server.name) {
                waiting.push(numbered(index, self.clone(), server.clone(), Kind::Tools, caller.clone()));
            }
        }
        let mut deadline = pin!(self.platform.clock().sleep(limit));
        while let Either::Left((Some(_), _)) = select(waiting.next(), &mut deadline).await {}
    }

    /// Renews the lists that have passed their time; for behind a reply.
    pub async fn refresh(&self, caller: &Arc<Caller>) {
        let mut waiting = FuturesUnordered::new();
        for (server, kind) in self.due(caller) {
            waiting.push(renew(self.clone(), server, kind, caller.clone()));
        }
        while waiting.next().await.is_some() {}
    }

    /// The lists that [`Mcp::refresh`] would renew.
    fn due(&self, caller: &Arc<Caller>) -> impl Iterator<Item = (Arc<Server>, Kind)> {
        let now = self.platform.clock().now();
        let kinds = [Kind::Tools, Kind::Prompts, Kind::Resources, Kind::Templates];
        self.plan.servers.iter().flat_map(move |server| {
            let memory = self.memory.server(server);
            kinds.into_iter().filter_map(move |kind| {
                let list = memory.list(kind, &caller.name)?;
                let due = !list.is_fresh(now) && !list.ttl.is_zero() && !resting(&memory.health(), now);
                due.then(|| (server.clone(), kind))
            })
        })
    }

    /// Whether [`Mcp::refresh`] has anything to do for `caller`.
    pub fn refresh_due(&self, caller: &Arc<Caller>) -> bool {
        let now = self.platform.clock().now();
        if now < self.memory.stale_at() {
            return false;
        }
        // Set before looking: a list that arrives meanwhile lowers it again.
        self.memory.set_stale_at(Timestamp(u64::MAX));
        for server in &self.plan.servers {
            if let Some(at) = self.memory.server(server).stale_at(now) {
                self.memory.lower_stale_at(at);
            }
        }
        self.due(caller).next().is_some()
    }
}

/// Whether a server failed so lately that asking it again would only make everybody wait. Grows to 3 s.
fn resting(health: &Health, now: Timestamp) -> bool {
    let pause = Duration::from_millis(500) * u32::try_from(health.failing.min(6)).unwrap_or(6);
    health.failing > 0 && health.last_error_at.is_some_and(|at| now < at.after(pause))
}

/// Owned arguments: a borrowing future in a `FuturesUnordered` would not be `Send` where it is spawned.
async fn numbered<P: Platform>(
    index: usize,
    mcp: Mcp<P>,
    server: Arc<Server>,
    kind: Kind,
    caller: Arc<Caller>,
) -> (usize, Result<Arc<List>, Fault>) {
    (index, mcp.list(&server, kind, &caller).await)
}

async fn renew<P: Platform>(mcp: Mcp<P>, server: Arc<Server>, kind: Kind, caller: Arc<Caller>) {
    let key = format!("renew {} {} {}", kind.method(), server.name, caller.name);
    if let Some(_claim) = mcp.memory.claim(&key) {
        let _ = mcp.read_list(&server, kind, &caller).await;
    }
}

fn invalid(server: &Server, kind: Kind) -> Fault {
    let message =
        format!("server {:?}: its {} result is not what the protocol says", server.name, kind.method());
    Fault::new(FaultKind::UpstreamInvalid, message)
}

/// One page of a merged list, being written.
struct MergedPage {
    kind: Kind,
    offset: usize,
    limit: usize,
    count: usize,
    more: bool,
    seen: HashSet<String>,
    out: String,
}

impl MergedPage {
    fn new(kind: Kind, offset: usize, limit: usize) -> Self {
        let out = format!("\"{}\":[", kind.member());
        Self { kind, offset, limit, count: 0, more: false, seen: HashSet::new(), out }
    }

    fn add(&mut self, server: &Server, item: &Item) {
        let again = !self.seen.insert(item.offered.clone());
        let index = self.count;
        self.count += 1;
        if index < self.offset {
            return;
        }
        if index >= self.offset + self.limit {
            self.more = true;
            return;
        }
        if !self.out.ends_with('[') {
            self.out.push(',');
        }
        match (again, self.kind) {
            (true, Kind::Resources | Kind::Templates) => self.out.push_str(&qualified(server, item)),
            (true, Kind::Tools | Kind::Prompts) => {
                // Prefixes are unique, so this takes two names that collide in their hashes as well.
                if self.out.ends_with(',') {
                    self.out.pop();
                }
            }
            (false, _) => self.out.push_str(item.merged.get()),
        }
    }

    fn finish(mut self, next: Option<&str>, hints: Option<(Duration, bool)>) -> String {
        self.out.push(']');
        if let Some(next) = next {
            self.out.push_str(&format!(",\"nextCursor\":\"{next}\""));
        }
        match hints {
            Some((ttl, public)) => {
                let scope = if public { "public" } else { "private" };
                format!(
                    "{{\"resultType\":\"complete\",{},\"ttlMs\":{},\"cacheScope\":\"{scope}\",{}}}",
                    self.out,
                    ttl.as_millis(),
                    super::SERVER_META
                )
            }
            None => format!("{{{}}}", self.out),
        }
    }
}

/// A resource whose URI an earlier server offers too: `{server}+{uri}`.
fn qualified(server: &Server, item: &Item) -> String {
    let listed: Option<Listed<'_>> = serde_json::from_str(item.text.get()).ok();
    let raw = listed.and_then(|listed| listed.uri.or(listed.uri_template));
    let mut splice = Splice::new(item.text.get().as_bytes());
    if let Some(raw) = raw {
        splice.replace(raw, quote(&format!("{}+{}", server.name, item.key)));
    }
    String::from_utf8_lossy(&splice.finish()).into_owned()
}
