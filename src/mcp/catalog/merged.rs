//! The lists of all servers as one.
//!
//! One broken, slow or lying server never breaks the others: its part is stale or missing, and `/status` says why.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use serde_json::value::RawValue;

use super::item::{Item, Listed};
use super::renewed::resting;
use super::{ALL, Kind, LONGEST_TTL, List};
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind as FaultKind};
use crate::mcp::client::Client;
use crate::mcp::content::adapted;
use crate::mcp::memory::{Merged, MergedKey};
use crate::mcp::revision::{Era, Revision};
use crate::mcp::{Mcp, SERVER_META, apps};
use crate::platform::{Clock as _, Platform};
use crate::wire::jsonrpc::{Splice, quote};

/// One server's part of a merged list.
pub(in crate::mcp) enum Part {
    Has(Arc<List>),
    /// The server has no such list.
    None,
    Missing,
}

impl<P: Platform> Mcp<P> {
    /// The merged list of `kind` for `client`: the result object from item `offset` on.
    pub async fn merged(&self, kind: Kind, client: &Client, offset: usize) -> Bytes {
        let (era, caller, able) = (client.era(), &client.caller, client.able());
        let key = MergedKey {
            kind,
            era,
            caller: caller.name.clone(),
            able: able.to_owned(),
            offset,
            plan: self.plan.digest.clone(),
        };
        let now = self.platform.clock().now();
        if let Some(merged) = self.memory.merged(&key, now) {
            return merged.result.clone();
        }
        let mut generation = self.memory.generation();
        let able = RawValue::from_string(able.to_owned()).ok().map(Arc::from);
        let mut parts = self.parts(kind, caller, able.clone()).await;
        if generation != self.memory.generation() {
            // Lists were read just now; what is merged must be what the generation stands for.
            generation = self.memory.generation();
            parts = self.parts(kind, caller, able).await;
        }
        let now = self.platform.clock().now();
        let mut page = MergedPage::new(kind, offset, self.plan.limits.page);
        let mut fresh_until = now.after(LONGEST_TTL);
        let mut public = self.plan.keys.is_empty();
        let mut whole = true;
        for (server, part) in &parts {
            if server.via.is_some() {
                // A link comes and goes by itself.
                fresh_until = fresh_until.min(now.after(self.link_look()));
            }
            let list = match part {
                Part::Has(list) => list,
                Part::None => continue,
                Part::Missing => {
                    whole = false;
                    continue;
                }
            };
            public &= list.public;
            if !self.is_known_offline(server) {
                fresh_until = fresh_until.min(list.fresh_until());
            }
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
    pub(in crate::mcp) fn too_slow(&self, server: &Server, method: &str) {
        let limit = self.plan.limits.merge_deadline;
        let message =
            format!("server {:?}: no {method} within {limit:?} (limits.merge_deadline)", server.name);
        let fault = Fault::new(FaultKind::UpstreamTimeout, message);
        self.memory.server(server).failed(self.platform.clock().now(), &fault);
    }

    /// Whether `server` failed so lately that it is left alone for a moment.
    pub(in crate::mcp) fn is_resting(&self, server: &Server) -> bool {
        resting(&self.memory.server(server).health(), self.platform.clock().now())
    }

    /// Every server's part, in the order of the plan, each within the merge deadline: for a client that is this `able`,
    /// or to know where things are.
    pub(in crate::mcp) async fn parts(
        &self,
        kind: Kind,
        caller: &Arc<Caller>,
        able: Option<Arc<RawValue>>,
    ) -> Vec<(Arc<Server>, Part)> {
        let servers: Vec<Arc<Server>> =
            self.plan.servers.iter().filter(|server| caller.servers.admits(&server.name)).cloned().collect();
        let mut parts: Vec<(Arc<Server>, Part)> =
            servers.into_iter().map(|server| (server, Part::Missing)).collect();
        let mut waiting = FuturesUnordered::new();
        for (index, (server, _)) in parts.iter().enumerate() {
            let memory = self.memory.server(server);
            let now = self.platform.clock().now();
            if memory.list(kind, &caller.name, ALL).is_some() || !resting(&memory.health(), now) {
                waiting.push(numbered(
                    index,
                    self.clone(),
                    server.clone(),
                    kind,
                    caller.clone(),
                    able.clone(),
                ));
            }
        }
        let mut deadline = pin!(self.platform.clock().sleep(self.plan.limits.merge_deadline));
        loop {
            match select(waiting.next(), &mut deadline).await {
                Either::Left((Some((index, answer)), _)) => {
                    let Some((_, part)) = parts.get_mut(index) else { continue };
                    if let Ok(list) = answer {
                        *part = if list.items.is_empty() && list.warnings.is_empty() {
                            Part::None
                        } else {
                            Part::Has(list)
                        };
                    } else if answer.is_err_and(|fault| fault.kind == FaultKind::LinkOffline) {
                        *part = Part::None;
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
            let asked = memory.list(Kind::Tools, &caller.name, ALL).is_some() || memory.health().failed > 0;
            if !asked && caller.servers.admits(&server.name) {
                waiting.push(numbered(
                    index,
                    self.clone(),
                    server.clone(),
                    Kind::Tools,
                    caller.clone(),
                    None,
                ));
            }
        }
        let mut deadline = pin!(self.platform.clock().sleep(limit));
        while let Either::Left((Some(_), _)) = select(waiting.next(), &mut deadline).await {}
    }
}

/// Owned arguments: a borrowing future in a `FuturesUnordered` would not be `Send` where it is spawned.
async fn numbered<P: Platform>(
    index: usize,
    mcp: Mcp<P>,
    server: Arc<Server>,
    kind: Kind,
    caller: Arc<Caller>,
    able: Option<Arc<RawValue>>,
) -> (usize, Result<Arc<List>, Fault>) {
    let list = match &able {
        // Boxed: to know where things are is needed more often.
        Some(able) => Box::pin(mcp.fitted(&server, kind, &caller, able)).await,
        None => mcp.list(&server, kind, &caller).await,
    };
    (index, list)
}

/// One page of a merged list, being written.
struct MergedPage {
    kind: Kind,
    offset: usize,
    limit: usize,
    count: usize,
    more: bool,
    seen: HashSet<String>,
    /// The interfaces that tools name, and of which server they are.
    shown: HashMap<String, String>,
    out: String,
}

impl MergedPage {
    fn new(kind: Kind, offset: usize, limit: usize) -> Self {
        let out = format!("\"{}\":[", kind.member());
        Self { kind, offset, limit, count: 0, more: false, seen: HashSet::new(), shown: HashMap::new(), out }
    }

    fn add(&mut self, server: &Server, item: &Item) {
        let again = !self.seen.insert(item.offered.clone());
        for uri in &item.shows {
            self.shown.entry(uri.clone()).or_insert_with(|| server.name.clone());
        }
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
            (false, _) => {
                let is_others = |uri: &str| self.shown.get(uri).is_some_and(|first| *first != server.name);
                if item.shows.iter().any(|uri| is_others(uri)) {
                    let renamed = apps::renamed(&item.merged, server, is_others);
                    self.out.push_str(&renamed);
                } else {
                    self.out.push_str(item.merged.get());
                }
            }
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
                    SERVER_META
                )
            }
            None => format!("{{{}}}", self.out),
        }
    }
}

/// A resource whose URI an earlier server offers too: `{server}+{uri}`, or `ui://{server}+…`.
fn qualified(server: &Server, item: &Item) -> String {
    let listed: Option<Listed<'_>> = serde_json::from_str(item.text.get()).ok();
    let raw = listed.and_then(|listed| listed.uri.or(listed.uri_template));
    let mut splice = Splice::new(item.text.get().as_bytes());
    if let Some(raw) = raw {
        splice.replace(raw, quote(&apps::qualified(&server.name, &item.key)));
    }
    String::from_utf8_lossy(&splice.finish()).into_owned()
}
