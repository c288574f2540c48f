//! Lists that have passed their time, renewed behind a reply.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::fitted::NOTHING;
use super::{ALL, Kind};
use crate::config::plan::{Caller, Server};
use crate::mcp::Mcp;
use crate::mcp::memory::Health;
use crate::platform::{Clock as _, Platform, Timestamp};

impl<P: Platform> Mcp<P> {
    /// Renews the lists that have passed their time; for behind a reply.
    pub async fn refresh(&self, caller: &Arc<Caller>) {
        let mut waiting = FuturesUnordered::new();
        for (server, kind, able) in self.due(caller) {
            waiting.push(renew(self.clone(), server, kind, caller.clone(), able));
        }
        while waiting.next().await.is_some() {}
    }

    /// The lists that [`Mcp::refresh`] would renew.
    fn due(&self, caller: &Arc<Caller>) -> impl Iterator<Item = (Arc<Server>, Kind, String)> {
        let now = self.platform.clock().now();
        let kinds = [Kind::Tools, Kind::Prompts, Kind::Resources, Kind::Templates];
        self.plan.servers.iter().flat_map(move |server| {
            let memory = self.memory.server(server);
            let kept = kinds
                .into_iter()
                .flat_map(|kind| memory.ables(kind, &caller.name).into_iter().map(move |able| (kind, able)));
            let due = kept.filter_map(|(kind, able)| {
                let list = memory.list(kind, &caller.name, &able)?;
                let due = !list.is_fresh(now) && !list.ttl.is_zero() && list.is_wanted();
                let due = due && !self.is_known_offline(server);
                (due && !resting(&memory.health(), now)).then(|| (server.clone(), kind, able))
            });
            due.collect::<Vec<_>>()
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
pub(super) fn resting(health: &Health, now: Timestamp) -> bool {
    let pause = Duration::from_millis(500) * u32::try_from(health.failing.min(6)).unwrap_or(6);
    health.failing > 0 && health.last_error_at.is_some_and(|at| now < at.after(pause))
}

async fn renew<P: Platform>(mcp: Mcp<P>, server: Arc<Server>, kind: Kind, caller: Arc<Caller>, able: String) {
    let key = format!("renew {} {} {} {able}", kind.method(), server.name, caller.name);
    if let Some(_claim) = mcp.memory.claim(&key) {
        let read = mcp.read_list(&server, kind, &caller, &able).await;
        // If it is another list than it was, it may be another for others, too; whoever asks next need not find out.
        let memory = mcp.memory.server(&server);
        if able == ALL
            && read.is_ok_and(|whole| memory.fitting(kind, &whole).is_none())
            && memory.list(kind, &caller.name, NOTHING).is_some()
        {
            let _ = Box::pin(mcp.is_fitted(&server, kind, &caller)).await;
        }
    }
}
