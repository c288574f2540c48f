//! Client sessions of the legacy era: the id is a sealed token, so any instance takes it without a look-up.
//!
//! What cannot travel (a log level, sessions held upstream, that the session was ended) is a record in the store,
//! written only when there is something to write and remembered by the instance.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::future::{Either, poll_fn, select};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Mcp;
use super::catalog::Kind as ListKind;
use super::client::Client;
use super::extensions::{by_itself, told, told_of};
use super::memory::{Record, SessionMemory, UpstreamSession, Upstreams, lock};
use super::revision::Revision;
use super::serve::Ticket;
use super::upstream::{GATEWAY, IMPLEMENTATION};
use crate::config::plan::{Caller, Server, SessionMode};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Entropy as _, Platform, Reach, StateStore as _, Swap};
use crate::wire::sealed::Sealer;

/// Client capabilities longer than this do not travel in the session id; only their names do.
const CAPABILITIES: usize = 1024;
/// How long an instance goes by what it remembers of a session before it asks the store again.
const RECHECK: Duration = Duration::from_secs(10);
/// How often a lost race for the store is run again.
const RACES: usize = 8;

/// The holder of the sessions that all callers share.
const SHARED: &str = "shared";

/// What a session id says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Tells sessions apart.
    pub id: String,
    /// The revision that was agreed.
    pub revision: Revision,
    /// The server, on `/mcp/{server}`.
    pub server: Option<String>,
    /// The client's name and version.
    pub client_info: Box<RawValue>,
    /// What the client can do.
    pub capabilities: Box<RawValue>,
}

/// A session that has been opened.
#[derive(Debug, Clone)]
pub struct Session {
    /// What its id says.
    pub facts: Arc<Facts>,
    /// What this instance knows of it.
    pub memory: Arc<SessionMemory>,
}

impl Session {
    /// The key of its mailbox.
    #[must_use]
    pub fn mailbox(&self) -> String {
        format!("session/{}", self.facts.id)
    }
}

/// Whose upstream session a call goes over.
#[derive(Debug, Clone)]
pub enum Holder {
    /// One client session's own.
    Client(Session),
    /// A pooled one, by name: a caller's, or everybody's; and what its clients can do.
    Pool(String, Box<RawValue>),
}

impl<P: Platform> Mcp<P> {
    /// The sealer: its key is a secret of the host, or was made once and lies in the store.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sealer(&self) -> Result<&Sealer, Fault> {
        if let Some(sealer) = self.memory.sealer() {
            return Ok(sealer);
        }
        use crate::platform::Secrets as _;
        if let Some(secret) = self.platform.secrets().secret(super::SECRET).filter(|s| s.len() >= 16) {
            return Ok(self.memory.set_sealer(Sealer::new(secret.as_bytes())));
        }
        for _ in 0..RACES {
            if let Some(held) = self.platform.store().load("seal-key").await.map_err(host)? {
                return Ok(self.memory.set_sealer(Sealer::new(&held.value)));
            }
            let mut key = [0; 32];
            self.platform.entropy().fill(&mut key);
            let forever = Duration::from_secs(100 * 365 * 24 * 60 * 60);
            let swap = self.platform.store().swap("seal-key", None, Bytes::copy_from_slice(&key), forever);
            if let Swap::Done(_) = swap.await.map_err(host)? {
                return Ok(self.memory.set_sealer(Sealer::new(&key)));
            }
        }
        Err(Fault::new(Kind::Host, "the sealing key could not be agreed on in the store"))
    }

    /// Makes a session and its id.
    ///
    /// # Errors
    /// When the store that holds the sealing key fails.
    pub async fn open_session(
        &self,
        caller: &Caller,
        server: Option<&Server>,
        revision: Revision,
        client_info: Option<&RawValue>,
        capabilities: Option<&RawValue>,
    ) -> Result<(String, Session), Fault> {
        let mut id = [0; 16];
        self.platform.entropy().fill(&mut id);
        let facts = Facts {
            id: URL_SAFE_NO_PAD.encode(id),
            revision,
            server: server.map(|server| server.name.clone()),
            client_info: short(client_info, IMPLEMENTATION),
            capabilities: short(capabilities, "{}"),
        };
        let now = self.platform.clock().now();
        let token = self.token(caller, &facts).await?;
        let memory = SessionMemory::default();
        memory.checked.store(now.0, Ordering::Relaxed);
        let memory = self.memory.keep_session(&facts.id, memory, now);
        Ok((token, Session { facts: Arc::new(facts), memory }))
    }

    /// The id that a client is to know a session by.
    ///
    /// # Errors
    /// When the store that holds the sealing key fails.
    pub async fn token(&self, caller: &Caller, facts: &Facts) -> Result<String, Fault> {
        let payload = serde_json::to_vec(facts).unwrap_or_default();
        let expires = self.platform.clock().now().after(self.plan.limits.session_age);
        Ok(self.sealer().await?.seal("session", &caller.name, expires, &payload))
    }

    /// Opens the session that `token` names, if it is this caller's, for this endpoint, and has not ended. What another
    /// instance may have ended meanwhile is noted in `ticket`, for [`Self::living`].
    ///
    /// # Errors
    /// [`Kind::UnknownSession`] without saying which of these it is not; [`Kind::Host`] when the store fails.
    pub async fn session(
        &self,
        caller: &Caller,
        server: Option<&Server>,
        token: &str,
        ticket: Option<&Ticket>,
    ) -> Result<Session, Fault> {
        let unknown = unknown_session;
        let now = self.platform.clock().now();
        let payload = self.sealer().await?.open("session", &caller.name, now, token).ok_or_else(unknown)?;
        let facts: Facts = serde_json::from_slice(&payload).map_err(|_| unknown())?;
        if facts.server.as_deref() != server.map(|server| server.name.as_str()) {
            return Err(unknown());
        }
        let (memory, known) = match self.memory.session(&facts.id) {
            Some(memory) => (memory, true),
            None => {
                let memory = self.load_session(&facts.id).await?;
                (self.memory.keep_session(&facts.id, memory, now), false)
            }
        };
        memory.used.store(now.0, Ordering::Relaxed);
        let session = Session { facts: Arc::new(facts), memory };
        match self.platform.store().reach() {
            Reach::Near if known => self.recheck(&session).await?,
            Reach::Far if known => {
                if let Some(ticket) = ticket {
                    ticket.doubt(&session);
                }
            }
            Reach::Own | Reach::Near | Reach::Far => {}
        }
        if lock(&session.memory.record).0.ended {
            return Err(unknown());
        }
        Ok(session)
    }

    pub(super) async fn load_session(&self, id: &str) -> Result<SessionMemory, Fault> {
        let held = self.platform.store().load(&key(id)).await.map_err(host)?;
        let memory = SessionMemory::default();
        memory.checked.store(self.platform.clock().now().0, Ordering::Relaxed);
        if let Some(held) = held {
            let record = serde_json::from_slice(&held.value).unwrap_or_default();
            *lock(&memory.record) = (record, Some(held.version));
        }
        Ok(memory)
    }

    /// Whether it is time to compare a session with the store.
    pub fn recheck_due(&self, session: &Session) -> bool {
        let checked = crate::platform::Timestamp(session.memory.checked.load(Ordering::Relaxed));
        self.platform.clock().now().since(checked) >= RECHECK
    }

    /// Does `work` and asks the store meanwhile whether the session still lives that it turns out to be in
    /// ([`Ticket::doubt`]): what comes of it is given once that is known. If the session is over, the work goes no further
    /// and is to be dropped, and the fault is given with what had come of it.
    ///
    /// The work stays where it is: it is most of what a request takes, and moving it cost as much as reading the request.
    ///
    /// # Errors
    /// [`Kind::UnknownSession`] when another instance has ended it, [`Kind::Host`] when the store fails.
    pub async fn living<T>(
        &self,
        ticket: &Ticket,
        work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Box<(Fault, Option<T>)>> {
        if self.platform.store().reach() != Reach::Far {
            return Ok(work.await);
        }
        let asked = pin!(async {
            let doubted = poll_fn(|_| ticket.doubted().map_or(Poll::Pending, Poll::Ready)).await;
            // Boxed: most requests are in no session, and need not make room for it.
            Box::pin(self.recheck(doubted)).await?;
            if lock(&doubted.memory.record).0.ended { Err(unknown_session()) } else { Ok(()) }
        });
        match select(work, asked).await {
            Either::Left((done, _)) if ticket.doubted().is_none() => Ok(done),
            Either::Left((done, asked)) => match asked.await {
                Ok(()) => Ok(done),
                Err(fault) => Err(Box::new((fault, Some(done)))),
            },
            Either::Right((Ok(()), work)) => Ok(work.await),
            Either::Right((Err(fault), _)) => Err(Box::new((fault, None))),
        }
    }

    /// Compares a session with the store, where another instance may have changed or ended it.
    ///
    /// What comes from the store may be older than what was written here while it was on its way: then it is read again.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn recheck(&self, session: &Session) -> Result<(), Fault> {
        for _ in 0..RACES {
            let seen = lock(&session.memory.record).1;
            let fresh = self.load_session(&session.facts.id).await?;
            let fresh = std::mem::take(&mut *lock(&fresh.record));
            if session.memory.replace(seen, fresh) {
                session.memory.checked.store(self.platform.clock().now().0, Ordering::Relaxed);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Changes a session's record, here and in the store.
    ///
    /// # Errors
    /// [`Kind::UnknownSession`] when it has been ended, perhaps by another instance; [`Kind::Host`] when the store fails.
    pub async fn record(&self, session: &Session, change: impl Fn(&mut Record)) -> Result<(), Fault> {
        for _ in 0..RACES {
            let (mut record, seen) = lock(&session.memory.record).clone();
            if record.ended {
                return Err(unknown_session());
            }
            change(&mut record);
            let value = Bytes::from(serde_json::to_vec(&record).unwrap_or_default());
            let age = self.plan.limits.session_age;
            let key = key(&session.facts.id);
            match self.platform.store().swap(&key, seen, value, age).await.map_err(host)? {
                Swap::Done(version) => {
                    // If it is not what it was, somebody has read or written a later one meanwhile.
                    session.memory.replace(seen, (record, Some(version)));
                    return Ok(());
                }
                Swap::Stale => self.recheck(session).await?,
            }
        }
        Err(Fault::new(Kind::Host, "the session's record is being changed too often at once; try again"))
    }

    /// Ends a session here and in the store, and gives the upstream sessions that were held for it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn end_session(&self, session: &Session) -> Result<Upstreams, Fault> {
        let upstreams = lock(&session.memory.record).0.upstreams.clone();
        // One that is found by who asks begins anew.
        let ended = !session.is_lenient();
        self.record(session, |record| *record = Record { ended, ..Record::default() }).await?;
        session.memory.cancel_all();
        if ended {
            // The store knows, should anybody ask.
            self.memory.forget_session(&session.facts.id);
        }
        Ok(upstreams)
    }

    /// The holder of the upstream session that a call goes over.
    pub fn holder(&self, server: &Server, client: &Client, issues: bool) -> Holder {
        let nothing = || by_itself(server);
        let name = &client.caller.name;
        let able = if client.session.is_some() { None } else { told_of(server, client, true) };
        match (server.session, &client.session, able) {
            (Some(SessionMode::Shared), ..) => Holder::Pool(SHARED.to_owned(), nothing()),
            (None, ..) if !issues => Holder::Pool(GATEWAY.to_owned(), nothing()),
            (_, Some(session), _) => Holder::Client(session.clone()),
            (_, None, None) => Holder::Pool(format!("caller {name}"), nothing()),
            // What a client can do is settled when a session is opened, and some servers offer what goes with it.
            (_, None, Some(able)) => {
                let key = if able.get() == "{}" { String::new() } else { format!(" {able}") };
                Holder::Pool(format!("caller {name}{key}"), able)
            }
        }
    }

    /// The upstream session of `holder`: the one there is, or a new one.
    ///
    /// # Errors
    /// When the server does not open one.
    pub async fn held(&self, server: &Arc<Server>, holder: &Holder) -> Result<UpstreamSession, Fault> {
        match holder {
            Holder::Pool(name, capabilities) => self.pooled(server, name, capabilities.get()).await,
            Holder::Client(session) => {
                let look = || lock(&session.memory.record).0.upstreams.get(&server.name).cloned();
                if let Some(held) = look() {
                    return Ok(held);
                }
                let key = format!("session {} {}", session.facts.id, server.name);
                let open = || async {
                    let facts = &session.facts;
                    let capabilities = told(server, &facts.capabilities);
                    let info = facts.client_info.get();
                    let opened = self.initialize(server, capabilities.get(), info, facts.revision).await?.0;
                    let opened = self.keep_upstream(server, session, &opened).await?;
                    let level = lock(&session.memory.record).0.level.clone();
                    if let Some(level) = level {
                        self.set_level(server, &opened, &level).await;
                    }
                    Ok(opened)
                };
                self.once(&key, look, || Box::pin(open())).await
            }
        }
    }

    /// Records that `upstream` is held for `session`, unless another instance was quicker. Gives the session that is
    /// held now.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub async fn keep_upstream(
        &self,
        server: &Arc<Server>,
        session: &Session,
        upstream: &UpstreamSession,
    ) -> Result<UpstreamSession, Fault> {
        let name = &server.name;
        self.record(session, |record| {
            record.upstreams.keep(name, upstream.clone());
        })
        .await?;
        let held = lock(&session.memory.record).0.upstreams.get(name).cloned();
        match held {
            Some(held) if held != *upstream => {
                self.end(server, upstream).await;
                Ok(held)
            }
            _ => Ok(upstream.clone()),
        }
    }

    /// Drops an upstream session that the server has forgotten.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn drop_held(
        &self,
        server: &Arc<Server>,
        holder: &Holder,
        upstream: &UpstreamSession,
    ) -> Result<(), Fault> {
        match holder {
            Holder::Pool(name, _) => self.memory.server(server).unpool(name, upstream),
            Holder::Client(session) => {
                let gone = |record: &mut Record| {
                    if record.upstreams.get(&server.name) == Some(upstream) {
                        record.upstreams.remove(&server.name);
                    }
                };
                self.record(session, gone).await?;
            }
        }
        Ok(())
    }

    /// A pooled session: the one there is, or a new one.
    ///
    /// # Errors
    /// When the server does not open one.
    pub async fn pooled(
        &self,
        server: &Arc<Server>,
        holder: &str,
        capabilities: &str,
    ) -> Result<UpstreamSession, Fault> {
        let memory = self.memory.server(server);
        if let Some(pooled) = memory.pooled(holder) {
            return Ok(pooled);
        }
        let key = format!("pool {} {holder}", server.name);
        let open = || async {
            let (session, _) =
                self.initialize(server, capabilities, IMPLEMENTATION, Revision::LEGACY).await?;
            memory.pool(holder, session.clone());
            Ok(session)
        };
        self.once(&key, || memory.pooled(holder), || Box::pin(open())).await
    }

    /// Sets the log level of an upstream session; a server without logging refuses, which does not matter.
    pub async fn set_level(&self, server: &Arc<Server>, upstream: &UpstreamSession, level: &str) {
        let params = format!("{{\"level\":\"{level}\"}}");
        let _ = self.ask(server, "logging/setLevel", &params, Some(upstream)).await;
    }

    /// A cursor of a merged list.
    pub fn seal_cursor(&self, caller: &Caller, kind: ListKind, offset: usize) -> String {
        let expires = self.platform.clock().now().after(self.plan.limits.session_age);
        let payload = offset.to_string();
        self.memory
            .sealer()
            .map(|sealer| sealer.seal(kind.method(), &caller.name, expires, payload.as_bytes()))
            .unwrap_or_default()
    }

    /// Where a merged list goes on.
    ///
    /// # Errors
    /// [`Kind::InvalidParams`] when the cursor is none of ours.
    pub fn open_cursor(&self, caller: &Caller, kind: ListKind, cursor: &str) -> Result<usize, Fault> {
        let now = self.platform.clock().now();
        let payload = self.memory.sealer().and_then(|s| s.open(kind.method(), &caller.name, now, cursor));
        payload.and_then(|payload| String::from_utf8(payload).ok()?.parse().ok()).ok_or_else(|| {
            Fault::new(Kind::InvalidParams, "params.cursor: not a cursor of this list; start over")
        })
    }
}

fn unknown_session() -> Fault {
    Fault::new(Kind::UnknownSession, "unknown or expired session; start a new one with initialize")
}

fn key(id: &str) -> String {
    format!("session/{id}")
}

fn host(error: crate::platform::SeamError) -> Fault {
    Fault::new(Kind::Host, format!("the state store: {error}"))
}

/// A client's own words, unless there are too many of them to travel.
pub(super) fn short(given: Option<&RawValue>, instead: &str) -> Box<RawValue> {
    let own = given.filter(|raw| raw.get().len() <= CAPABILITIES && raw.get().starts_with('{'));
    own.map_or_else(|| RawValue::from_string(instead.to_owned()).unwrap_or_default(), RawValue::to_owned)
}
