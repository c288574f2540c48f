//! Servers behind links: whether the link is there, and what is known of a server while it is not.
//!
//! A link that is not connected is no failure of a server: nothing is counted against it, and nobody waits for it.
//! What it offers stays listed as it was last, or is left out, as the configuration says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Mcp;
use super::catalog::{ALL, Kind, List};
use crate::config::plan::{Caller, Offline, Server, Via};
use crate::fault::{Fault, Kind as FaultKind};
use crate::platform::{Clock as _, KeyValue as _, Links, Mailboxes as _, Platform, Timestamp, UpstreamBody};
use crate::relay::through::{self, asking};
use crate::tunnel::dock::Shown;
use crate::tunnel::hello::{Offer, Verdict};

/// How long what is known of a link holds where asking costs nothing, and where it wakes its owner.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// What an owner says of a link is no longer than this.
const SHOWN: usize = 1024 * 1024;

/// A link, as `/status` shows it.
#[derive(Debug, Serialize)]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// `connected`, `lost` while it may go on where it was, or `offline`.
    pub state: &'static str,
    /// When it was opened, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When its companion was last heard of, if it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// The companion's program and version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// The caller whose key opened it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub opened_by: String,
    /// Servers that it offers and that are served.
    pub servers: Vec<String>,
    /// Providers of models that it offers and that are asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// What else it offers, and why that is not served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// Requests that went over it since it was opened.
    pub calls: u64,
    /// Requests that are on their way.
    pub open: usize,
}

/// Something that a companion offers and that is not served.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// What it is called.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl<P: Platform> Mcp<P> {
    /// How long what is known of a link holds.
    pub(super) fn link_look(&self) -> Duration {
        if self.platform.abilities().links == Links::SleepingSockets { LOOK.1 } else { LOOK.0 }
    }

    /// How the link `name` is; `None` if its owner cannot say.
    pub(super) async fn link(&self, name: &str) -> Option<Arc<Shown>> {
        self.link_within(name, self.link_look()).await
    }

    /// How the link `name` is, or was no longer ago than `age`.
    async fn link_within(&self, name: &str, age: Duration) -> Option<Arc<Shown>> {
        let now = self.platform.clock().now();
        let known = self.memory.link(name);
        if let Some((looked, shown)) = &known
            && now.since(*looked) < age
        {
            return Some(shown.clone());
        }
        let shown = Arc::new(self.look_at(name).await?);
        self.memory.set_link(name, now, shown.clone());
        let Some((_, before)) = known else { return Some(shown) };
        let differs = before.connected != shown.connected
            || before.facts.since != shown.facts.since
            || before.facts.verdicts != shown.facts.verdicts;
        if differs {
            for server in self.plan.servers.iter().filter(|server| is_behind(server, name)) {
                let memory = self.memory.server(server);
                if before.facts.since != shown.facts.since {
                    // It may be another server by now.
                    memory.forget();
                }
                if shown.connected {
                    Kind::ALL.into_iter().for_each(|kind| memory.outdate(kind));
                }
            }
            self.memory.changed();
        }
        Some(shown)
    }

    async fn look_at(&self, name: &str) -> Option<Shown> {
        let answer = self.platform.mailboxes().ask(&through::key(name), asking(through::STATE)).await.ok()?;
        let (mut body, mut whole) = (answer.into_body(), Vec::new());
        while let Some(Ok(chunk)) = body.next().await {
            whole.extend_from_slice(&chunk);
            if whole.len() > SHOWN {
                return None;
            }
        }
        serde_json::from_slice(&whole).ok()
    }

    /// A stream with a byte for each time that the link `name` is connected or lost, and one to begin with: `+` or `-`.
    pub(super) async fn watch_link(&self, name: &str) -> Option<UpstreamBody<P>> {
        let answer = self.platform.mailboxes().ask(&through::key(name), asking(through::WATCH)).await;
        answer.ok().map(http::Response::into_body)
    }

    /// Why `server` cannot be asked anything, if it is behind a link that is not there.
    pub(super) async fn offline(&self, server: &Server) -> Option<Fault> {
        let via = server.via.as_ref()?;
        let shown = self.link(&via.link).await?;
        let why = shown.why_not(self.platform.clock().now(), &via.link, &server.name)?;
        Some(Fault::new(FaultKind::LinkOffline, format!("server {:?}: {why}", server.name)))
    }

    /// Whether `server` is known to be behind a link that is not there, without asking.
    pub(super) fn is_known_offline(&self, server: &Server) -> bool {
        let Some(via) = &server.via else { return false };
        let Some((_, shown)) = self.memory.link(&via.link) else { return false };
        shown.why_not(Timestamp(0), &via.link, &server.name).is_some()
    }

    /// The list of a server whose link is not there: as it was last, if it is to stay.
    pub(super) async fn kept_list(
        &self,
        server: &Server,
        via: &Via,
        kind: Kind,
        caller: &Caller,
        able: &str,
        fault: Fault,
    ) -> Result<Arc<List>, Fault> {
        if via.offline == Offline::Hide {
            return Err(fault);
        }
        let memory = self.memory.server(server);
        let whole = || memory.list(kind, &caller.name, ALL);
        if let Some(list) = memory.list(kind, &caller.name, able).or_else(whole) {
            return Ok(list);
        }
        let stored = self.platform.key_value().read(&list_key(server, via, kind)).await.ok().flatten();
        let texts: Option<Vec<Box<RawValue>>> = stored.and_then(|text| serde_json::from_slice(&text).ok());
        match texts {
            Some(texts) => Ok(memory.set_list(kind, &caller.name, ALL, List::restored(server, kind, &texts))),
            None => Err(fault),
        }
    }

    /// Keeps a list that has just been read for when neither link nor instance is there.
    pub(super) async fn keep_list(&self, server: &Server, kind: Kind, list: &List) {
        let Some(via) = &server.via else { return };
        if list.public && via.offline == Offline::Keep {
            let texts: Vec<&RawValue> = list.items.iter().map(|item| &*item.text).collect();
            let text = Bytes::from(serde_json::to_vec(&texts).unwrap_or_default());
            // Without it the list is missing while the link is, which is all.
            let _ = self.platform.key_value().write(&list_key(server, via, kind), text).await;
        }
    }

    /// Every link that `caller` sees something behind, and how it is. Providers of models are seen by administrators.
    pub async fn links(&self, caller: &Caller) -> Vec<LinkStatus> {
        let mut names: Vec<&str> = Vec::new();
        for server in &self.plan.servers {
            if let Some(via) = &server.via
                && !names.contains(&via.link.as_str())
                && (caller.admin || caller.servers.admits(&server.name))
            {
                names.push(&via.link);
            }
        }
        for provider in self.plan.llm.providers.iter().filter(|_| caller.admin) {
            if let Some(link) = &provider.via
                && !names.contains(&link.as_str())
            {
                names.push(link);
            }
        }
        let mut all = Vec::new();
        for name in names {
            // Who looks at the numbers wants those of now.
            let shown = self.link_within(name, LOOK.0).await.unwrap_or_default();
            let facts = &shown.facts;
            let seen = |offer: &Offer| {
                caller.admin || matches!(offer, Offer::Server(name) if caller.servers.admits(name))
            };
            let offers = facts.verdicts.iter().filter(|verdict| seen(&verdict.offer));
            let (taken, refused): (Vec<_>, Vec<_>) = offers.partition(|verdict| verdict.refused.is_none());
            let refused = refused.into_iter().filter(|_| caller.admin);
            let (servers, models): (Vec<_>, Vec<_>) =
                taken.into_iter().partition(|verdict| matches!(verdict.offer, Offer::Server(_)));
            let names = |verdicts: Vec<&Verdict>| -> Vec<String> {
                verdicts.into_iter().map(|verdict| verdict.offer.name().to_owned()).collect()
            };
            all.push(LinkStatus {
                name: name.to_owned(),
                state: match (shown.connected, shown.resumable) {
                    (true, _) => "connected",
                    (false, true) => "lost",
                    (false, false) => "offline",
                },
                since: facts.since.filter(|_| shown.connected),
                last_seen: facts.seen.filter(|_| !shown.connected),
                agent: facts.agent.clone(),
                opened_by: if caller.admin { facts.caller.clone() } else { String::new() },
                servers: names(servers),
                models: names(models),
                refused: refused
                    .map(|verdict| Refused {
                        name: verdict.offer.name().to_owned(),
                        reason: verdict.refused.clone().unwrap_or_default(),
                    })
                    .collect(),
                calls: facts.calls,
                open: shown.open,
            });
        }
        all
    }
}

/// Whether `server` is behind the link `name`.
fn is_behind(server: &Server, name: &str) -> bool {
    server.via.as_ref().is_some_and(|via| via.link == name)
}

/// Where a list is kept.
fn list_key(server: &Server, via: &Via, kind: Kind) -> String {
    format!("link/{}/{}/{}", via.link, server.name, kind.member())
}
