//! Sessions with a legacy server that parked calls go over, one call at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Method;

use super::Call;
use super::answer::{Back, Line};
use super::ears::{Ears, Heard};
use crate::config::plan::Server;
use crate::fault::Fault;
use crate::mcp::Mcp;
use crate::mcp::mailbox::Mailbox;
use crate::mcp::memory::{UpstreamSession, lock};
use crate::mcp::revision::Revision;
use crate::mcp::upstream::{Answered, Content, Outgoing, content, standard_headers};
use crate::platform::{Clock as _, Platform, Timestamp};
use crate::relay::Reader;
use crate::wire::sse::Decoder;

/// An upstream session that nobody has used for so long is ended.
const IDLE: Duration = Duration::from_secs(60);

/// A session with the server. One call at a time goes over it, so that whatever the server asks is about that call.
pub(super) struct Slot<P: Platform> {
    pub(super) session: UpstreamSession,
    level: Option<String>,
    /// The stream of an HTTP+SSE session, which lasts as long as it does.
    line: Option<Box<Answered<P>>>,
    /// Where that lies after a call.
    back: Back<P>,
    /// Whether there have been calls over it.
    over: bool,
    /// The session's own stream, where some servers ask what belongs to a call.
    pub(super) news: Option<(Reader<P>, Decoder)>,
    /// Subscriptions that hear that stream, too.
    heard: Option<Heard>,
    pub(super) used: Timestamp,
}

impl<P: Platform> Slot<P> {
    /// A session that no other call uses: one that is there, or a new one.
    pub(super) async fn take(
        mcp: &Mcp<P>,
        mailbox: &Mailbox<P>,
        server: &Arc<Server>,
        call: &Call,
        level: Option<String>,
    ) -> Result<Self, Fault> {
        let next = || {
            let idle = &mut lock(&mailbox.parked.0).idle;
            // What the call changes there is to be heard.
            let heard = idle.iter().rposition(|slot| slot.ears().is_some());
            heard.map(|at| idle.remove(at)).or_else(|| idle.pop())
        };
        let mut idle = next();
        while idle.as_mut().is_some_and(|slot| !slot.is_alive()) {
            idle = next();
        }
        let mut slot = match idle {
            Some(slot) => slot,
            // Boxed: calls wait for long and open sessions seldom.
            None => {
                let (capabilities, client_info) = (call.capabilities.get(), call.client_info.get());
                Box::pin(Self::open(mcp, server, capabilities, client_info)).await?
            }
        };
        if let Some(level) = level.filter(|level| slot.level.as_ref() != Some(level)) {
            match &mut slot.line {
                Some(line) => mcp.set_level_old(line, &slot.session, &level).await,
                None => mcp.set_level(server, &slot.session, &level).await,
            }
            slot.level = Some(level);
        }
        Ok(slot)
    }

    /// A new one, of a client that can do this.
    pub(super) async fn open(
        mcp: &Mcp<P>,
        server: &Arc<Server>,
        capabilities: &str,
        client_info: &str,
    ) -> Result<Self, Fault> {
        let (session, line, news) = if mcp.profile(server).await?.http_sse {
            let opened = mcp.open_old(server, capabilities, client_info, Revision::LEGACY);
            let (line, session, _) = opened.await?;
            (session, Some(Box::new(line)), None)
        } else {
            let opened = mcp.initialize(server, capabilities, client_info, Revision::LEGACY);
            let (session, _) = opened.await?;
            let news = Self::news(mcp, server, &session).await;
            (session, None, news)
        };
        let used = mcp.platform.clock().now();
        Ok(Self { session, level: None, line, back: Back::default(), over: false, news, heard: None, used })
    }

    /// Those who hear its stream besides its calls.
    pub(super) fn ears(&self) -> Option<&Arc<Ears>> {
        self.heard.as_ref().map(Heard::ears).filter(|ears| !ears.is_over())
    }

    /// The same, so that there may be some from now on; `None` if it has no stream.
    pub(super) fn heard(&mut self) -> Option<Arc<Ears>> {
        self.news.as_ref()?;
        if self.ears().is_none() {
            self.heard = Some(Heard::new(&self.session));
        }
        self.ears().cloned()
    }

    pub(super) fn is_heard_by(&self, ears: &Arc<Ears>) -> bool {
        self.ears().is_some_and(|own| Arc::ptr_eq(own, ears))
    }

    /// Its stream has ended.
    pub(super) fn lose_news(&mut self) {
        (self.news, self.heard) = (None, None);
    }

    /// Tells those who hear its stream what has come on it while a call goes over it.
    pub(super) fn tell(&self, data: &Bytes) {
        if let Some(ears) = self.ears() {
            ears.tell(data);
        }
    }

    /// The stream that a call with this id is to go over, if the session has but one.
    pub(super) fn lend(&mut self, id: &str) -> Option<Line<P>> {
        let used = std::mem::replace(&mut self.over, true);
        let stream = self.line.take()?;
        Some(Line { stream, id: id.to_owned(), used, back: self.back.clone() })
    }

    /// The slot after a call. A session of HTTP+SSE whose call was not answered is not used again: what comes late on
    /// its stream would be taken for what belongs to the next one.
    pub(super) fn returned(mut self, answered: bool) -> Option<Self> {
        self.line = lock(&self.back).take();
        let old = self.session.endpoint.is_some();
        (!old || answered && self.line.is_some()).then_some(self)
    }

    /// Whether the session may still be there. What its server has said since the last call belongs to none.
    fn is_alive(&mut self) -> bool {
        let Some(line) = &mut self.line else { return true };
        loop {
            match line.reader.message().now_or_never() {
                None => return true,
                Some(Ok(Some(_))) => {}
                Some(Ok(None) | Err(_)) => return false,
            }
        }
    }

    /// The stream of a session, if the server has one.
    async fn news(
        mcp: &Mcp<P>,
        server: &Arc<Server>,
        session: &UpstreamSession,
    ) -> Option<(Reader<P>, Decoder)> {
        session.id.as_ref()?;
        let headers = standard_headers(session.revision, session.id.as_deref(), "", None);
        let outgoing = Outgoing { http: Method::GET, to: None, body: Bytes::new(), headers };
        let answered = mcp.exchange(server, outgoing).await.ok()?;
        let events = answered.status.is_success() && content(&answered.headers) == Content::Events;
        events.then(|| {
            let mut reader = answered.reader;
            reader.open_ended();
            (reader, Decoder::new(server.max_response))
        })
    }
}

/// Ends sessions that nobody has used for a while; stays until there are none.
pub(super) async fn sweep<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, server: &Arc<Server>) {
    loop {
        mcp.platform.clock().sleep(IDLE).await;
        let now = mcp.platform.clock().now();
        let old = {
            let mut inner = lock(&mailbox.parked.0);
            let all = std::mem::take(&mut inner.idle);
            let (old, kept): (Vec<_>, Vec<_>) = {
                let is_old = |slot: &Slot<P>| slot.ears().is_none() && now.since(slot.used) >= IDLE;
                all.into_iter().partition(is_old)
            };
            inner.sweeping = !kept.is_empty();
            inner.idle = kept;
            old
        };
        for slot in &old {
            mcp.end(server, &slot.session).await;
        }
        if !lock(&mailbox.parked.0).sweeping {
            return;
        }
    }
}
