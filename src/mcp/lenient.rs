//! Clients of the legacy era that never send back the session id that they were given.
//!
//! With `sessions.lenient`, a request that names no session is of the one that all such requests share which come from
//! one caller to one endpoint by one kind of client (`User-Agent`). The session's id is made from these three, so any
//! instance finds it; what the newest `initialize` among them said is kept in its record. A session id that a client
//! does send back is **never** of such a session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::USER_AGENT;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Digest as _;

use super::mailbox::Letter;
use super::memory::{Record, SessionMemory, UpstreamSession, Upstreams, lock};
use super::revision::{Era, Revision};
use super::serve::Inbound;
use super::session::{Facts, Session, short};
use super::upstream::IMPLEMENTATION;
use super::{Mcp, headers};
use crate::fault::Fault;
use crate::platform::{Clock as _, Log as _, Platform};

/// How the ids of such sessions begin. No id that is given to a client begins so.
const MARK: &str = "~";
/// What a client speaks of which nothing is known (2025-11-25 transports, "Protocol Version Header").
const UNKNOWN: Revision = Revision::V2025_03_26;

/// What a client said of itself in `initialize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduced {
    /// The revision that was agreed.
    revision: Revision,
    /// Its name and version, as JSON.
    client_info: String,
    /// What it can do, as JSON.
    capabilities: String,
}

impl Session {
    /// Whether clients share it that name no session.
    #[must_use]
    pub fn is_lenient(&self) -> bool {
        self.facts.id.starts_with(MARK)
    }
}

impl<P: Platform> Mcp<P> {
    /// The session of a request that names none.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn lenient_session(&self, inbound: &Inbound) -> Result<Session, Fault> {
        self.say_lenient(&inbound.caller.name);
        let id = id_of(inbound);
        let now = self.platform.clock().now();
        let memory = match self.memory.session(&id) {
            Some(memory) => memory,
            None => {
                let memory = self.load_session(&id).await?;
                self.memory.keep_session(&id, memory, now)
            }
        };
        memory.used.store(now.0, Ordering::Relaxed);
        let session = session_of(inbound, &id, memory);
        if !self.recheck_due(&session) {
            return Ok(session);
        }
        // Whoever knows no session cannot be told that it has become another one: it is compared before, not behind.
        self.recheck(&session).await?;
        Ok(session_of(inbound, &id, session.memory))
    }

    /// Keeps what a client says of itself, in case that it will not send back the id that it is given.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn keep_introduction(
        &self,
        inbound: &Inbound,
        revision: Revision,
        client_info: Option<&RawValue>,
        capabilities: Option<&RawValue>,
    ) -> Result<(), Fault> {
        if !self.plan.lenient {
            return Ok(());
        }
        let introduced = Introduced {
            revision,
            client_info: short(client_info, IMPLEMENTATION).get().to_owned(),
            capabilities: short(capabilities, "{}").get().to_owned(),
        };
        let session = self.lenient_session(inbound).await?;
        let before = lock(&session.memory.record).0.clone();
        if before.introduced.as_ref() == Some(&introduced) {
            return Ok(());
        }
        self.record(&session, |record| {
            *record = Record { introduced: Some(introduced.clone()), ..Record::default() };
        })
        .await?;
        if before != Record::default() {
            self.tell_mailbox(&session, &Letter::End).await?;
        }
        // What a client can do is settled when a session with a server is opened: there will be others.
        for (server, upstream) in self.served(&before.upstreams) {
            inbound.ticket.leases.hold(&server, &upstream);
        }
        Ok(())
    }

    /// Those of the sessions held whose servers are still in the plan.
    pub(super) fn served(
        &self,
        upstreams: &Upstreams,
    ) -> Vec<(Arc<crate::config::plan::Server>, UpstreamSession)> {
        let served = upstreams.iter();
        served
            .filter_map(|(name, upstream)| Some((self.plan.server(name)?.clone(), upstream.clone())))
            .collect()
    }

    /// Says in the log, once for each caller, that there are clients that are served as well as that goes.
    fn say_lenient(&self, caller: &str) {
        #[derive(Serialize)]
        struct Lenient<'a> {
            ts: u64,
            level: &'static str,
            event: &'static str,
            caller: &'a str,
            message: &'static str,
        }
        if !self.memory.first_lenient(caller) {
            return;
        }
        let message = "requests without Mcp-Session-Id are served (sessions.lenient); they share one session for each \
                       caller, endpoint and User-Agent";
        let ts = self.platform.clock().now().0;
        let record = Lenient { ts, level: "warn", event: "session.lenient", caller, message };
        if let Ok(line) = serde_json::to_string(&record) {
            self.platform.log().write(&line);
        }
    }
}

/// The id of the session that the caller's requests to this endpoint share.
fn id_of(inbound: &Inbound) -> String {
    let mut hash = sha2::Sha256::new();
    let endpoint = inbound.target.as_ref().map_or("", |server| server.name.as_str());
    for part in [inbound.caller.name.as_bytes(), endpoint.as_bytes()] {
        hash.update(part);
        hash.update(b"\0");
    }
    hash.update(inbound.headers.get(USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes()));
    let hash = hash.finalize();
    format!("{MARK}{}", URL_SAFE_NO_PAD.encode(hash.get(..16).unwrap_or_default()))
}

/// The session, with what is known of its clients.
fn session_of(inbound: &Inbound, id: &str, memory: Arc<SessionMemory>) -> Session {
    let introduced = lock(&memory.record).0.introduced.clone();
    let named = inbound.header(&headers::VERSION).and_then(Revision::parse);
    let named = named.filter(|revision| revision.era() == Era::Legacy);
    let raw = |text: Option<String>, instead: &str| {
        RawValue::from_string(text.unwrap_or_else(|| instead.to_owned())).unwrap_or_default()
    };
    let (agreed, client_info, capabilities) = match introduced {
        Some(known) => (Some(known.revision), Some(known.client_info), Some(known.capabilities)),
        None => (None, None, None),
    };
    let facts = Facts {
        id: id.to_owned(),
        revision: named.or(agreed).unwrap_or(UNKNOWN),
        server: inbound.target.as_ref().map(|server| server.name.clone()),
        client_info: raw(client_info, IMPLEMENTATION),
        capabilities: raw(capabilities, "{}"),
    };
    Session { facts: Arc::new(facts), memory }
}
