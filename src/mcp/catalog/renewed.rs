//! Lists that have passed their time, renewed behind a reply.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Kind;
use crate::config::plan::{Caller, Server};
use crate::mcp::Mcp;
use crate::mcp::memory::Health;
use crate::platform::{Clock as _, Platform, Timestamp};

impl<P: Platform> Mcp<P> {
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
                let due = !self.is_known_offline(server)
                    && !list.is_fresh(now)
                    && !list.ttl.is_zero()
                    && !resting(&memory.health(), now);
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
pub(super) fn resting(health: &Health, now: Timestamp) -> bool {
    let pause = Duration::from_millis(500) * u32::try_from(health.failing.min(6)).unwrap_or(6);
    health.failing > 0 && health.last_error_at.is_some_and(|at| now < at.after(pause))
}

async fn renew<P: Platform>(mcp: Mcp<P>, server: Arc<Server>, kind: Kind, caller: Arc<Caller>) {
    let key = format!("renew {} {} {}", kind.method(), server.name, caller.name);
    if let Some(_claim) = mcp.memory.claim(&key) {
        let _ = mcp.read_list(&server, kind, &caller).await;
    }
}
