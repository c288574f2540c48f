//! Sessions with a legacy server that parked calls go over, one call at a time.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Method;

use super::Call;
use super::answer::{Back, Line, next_news};
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
    /// It was there before its next call, and so may be over.
    before: bool,
    /// Its last call was given up, and what belongs to that may still come on its one stream.
    late: bool,
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
            let heard = idle.iter().rposition(|slot| !slot.late && slot.ears().is_some());
            heard.or_else(|| idle.iter().rposition(|slot| !slot.late)).map(|at| idle.remove(at))
        };
        let mut idle = next();
        while idle.as_mut().is_some_and(|slot| !slot.is_alive()) {
            idle = next();
        }
        let mut slot = match idle {
            Some(slot) => Self { before: true, ..slot },
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
            let (mut line, session, _) = opened.await?;
            line.reader.session_opened();
            // Whoever waits for something on it watches its own time.
            line.reader.open_ended();
            (session, Some(Box::new(line)), None)
        } else {
            let opened = mcp.initialize(server, capabilities, client_info, Revision::LEGACY);
            let (session, _) = opened.await?;
            let news = Self::news(mcp, server, &session).await;
            (session, None, news)
        };
        let used = mcp.platform.clock().now();
        let (level, back, heard) = (None, Back::default(), None);
        Ok(Self { session, level, line, back, before: false, late: false, news, heard, used })
    }

    /// Those who hear its stream besides its calls.
    pub(super) fn ears(&self) -> Option<&Arc<Ears>> {
        self.heard.as_ref().map(Heard::ears).filter(|ears| ears.is_heard())
    }

    /// The same, so that there may be some from now on; `None` if it has no stream.
    pub(super) fn heard(&mut self) -> Option<Arc<Ears>> {
        if self.news.is_none() && self.line.is_none() {
            return None;
        }
        if self.heard.as_ref().is_none_or(|heard| heard.ears().is_over()) {
            self.heard = Some(Heard::new(&self.session));
        }
        self.heard.as_ref().map(|heard| heard.ears().clone())
    }

    pub(super) fn is_heard_by(&self, ears: &Arc<Ears>) -> bool {
        self.heard.as_ref().is_some_and(|heard| Arc::ptr_eq(heard.ears(), ears))
    }

    /// Its stream has ended.
    pub(super) fn lose_news(&mut self) {
        (self.news, self.heard) = (None, None);
    }

    /// Tells those who hear it what has come while a call goes over it.
    pub(super) fn tell(&self, data: &Bytes) {
        if let Some(ears) = self.ears() {
            ears.tell(data);
        }
    }

    /// The stream that a call with this id is to go over, if the session has but one.
    pub(super) fn lend(&mut self, id: &str) -> Option<Line<P>> {
        let stream = self.line.take()?;
        Some(Line { stream, id: id.to_owned(), used: self.before, back: self.back.clone() })
    }

    /// The slot after a call. A session of HTTP+SSE whose call was not answered is not used again for a while, and only
    /// heard if it is: what comes late on its stream would be taken for what belongs to the next one.
    pub(super) fn returned(mut self, now: Timestamp, answered: bool) -> Option<Self> {
        let old = self.session.endpoint.is_some();
        self.used = now;
        self.line = lock(&self.back).take();
        self.late = old && !answered;
        (!old || self.line.is_some() && (answered || self.ears().is_some())).then_some(self)
    }

    /// Whether the session may still be there. What its server has said since the last call belongs to none.
    fn is_alive(&mut self) -> bool {
        while let Some(line) = &mut self.line {
            match line.reader.message().now_or_never() {
                None => return true,
                Some(Ok(Some(data))) => self.tell(&data),
                Some(Ok(None) | Err(_)) => return false,
            }
        }
        true
    }

    /// What comes next on its own stream while no call goes over it, and with it what else has come; nothing if the stream
    /// has ended.
    pub(super) fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<VecDeque<Bytes>> {
        let mut messages = VecDeque::new();
        let first = match (&mut self.news, &mut self.line) {
            (Some((reader, decoder)), _) => {
                ready!(pin!(next_news(reader, decoder, &mut messages)).poll(context))
            }
            (None, Some(line)) => ready!(pin!(line.reader.message()).poll(context)).ok().flatten(),
            (None, None) => None,
        };
        first.into_iter().for_each(|first| messages.push_front(first));
        Poll::Ready(messages)
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
            let is_due = |slot: &Slot<P>| now.since(slot.used) >= IDLE;
            let (old, mut kept): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|slot| slot.ears().is_none() && (slot.late || is_due(slot)));
            kept.iter_mut().filter(|slot| is_due(slot)).for_each(|slot| slot.late = false);
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
