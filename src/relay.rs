//! Upstream bytes in, caller bytes out: pulled, never pushed, with every limit applied on the way.

pub mod dropped;
mod duplex;
pub mod through;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_channel::mpsc::UnboundedReceiver;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use futures_util::{FutureExt as _, StreamExt as _};
use http::Response;
use http::header::LOCATION;
use url::Url;

use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, SeamError, Timestamp, UpstreamBody};
use crate::wire::sse::Event;
use duplex::Duplex;

/// Silence after which even a stream of news is given up: the other side may have gone without a word.
const OPEN_ENDED: Duration = Duration::from_secs(60 * 60);

/// An answer being read: chunks with every time and size limit applied.
pub struct Reader<P: Platform> {
    platform: P,
    /// Which server it comes from.
    pub server: Arc<Server>,
    body: Body<P>,
    deadline: Timestamp,
    idle: Duration,
    heard_at: Timestamp,
    duplex: Option<Box<Duplex<P>>>,
}

/// Where the bytes come from.
enum Body<P: Platform> {
    Upstream(UpstreamBody<P>),
    Own(Own),
}

/// What the gateway's own server says.
#[derive(Debug)]
pub struct Own {
    /// The bytes.
    pub chunks: UnboundedReceiver<Bytes>,
    /// Tells whoever says it, by being dropped, that nobody listens any more.
    pub open: Option<oneshot::Sender<()>>,
}

impl<P: Platform> Body<P> {
    fn poll_next_unpin(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, SeamError>>> {
        match self {
            Self::Upstream(body) => body.poll_next_unpin(context),
            Self::Own(own) => own.chunks.poll_next_unpin(context).map(|chunk| chunk.map(Ok)),
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes, SeamError>> {
        std::future::poll_fn(|context| self.poll_next_unpin(context)).await
    }
}

impl<P: Platform> Reader<P> {
    /// A reader of `body`, which must have ended at `deadline`.
    pub fn new(platform: P, server: Arc<Server>, body: UpstreamBody<P>, deadline: Timestamp) -> Self {
        Self::of(platform, server, Body::Upstream(body), deadline)
    }

    /// A reader of what the gateway's own server says.
    pub fn own(platform: P, server: Arc<Server>, own: Own, deadline: Timestamp) -> Self {
        Self::of(platform, server, Body::Own(own), deadline)
    }

    fn of(platform: P, server: Arc<Server>, body: Body<P>, deadline: Timestamp) -> Self {
        let heard_at = platform.clock().now();
        let idle = server.timeouts.idle;
        Self { platform, server, body, deadline, idle, heard_at, duplex: None }
    }

    /// For a stream that carries news as they come, not the answer to a call: it may be silent, and has no end.
    pub fn open_ended(&mut self) {
        self.deadline = Timestamp(u64::MAX);
        self.idle = OPEN_ENDED;
    }

    /// Whether it is a stream of news.
    pub fn is_open_ended(&self) -> bool {
        self.idle == OPEN_ENDED
    }

    /// When something came last.
    pub fn heard_at(&self) -> Timestamp {
        self.heard_at
    }

    /// How much time the answer has left.
    pub fn left(&self) -> Duration {
        self.deadline.since(self.platform.clock().now())
    }

    /// The fault of an answer that has no time left for what it takes.
    pub fn out_of_time(&self) -> Fault {
        timed_out(&self.server, true)
    }

    /// Goes on with the bytes of `rest`, within the time that the answer had from its beginning.
    pub fn go_on(&mut self, rest: Self) {
        self.body = rest.body;
        self.heard_at = self.platform.clock().now();
    }

    /// The next chunk; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the answer is cut or takes too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.duplex.is_some() {
            // Boxed: only the oldest servers need it, and every call would have to make room for it.
            return Ok(Box::pin(self.message()).await?.map(|message| Event::message(message).encode()));
        }
        // What is there already is not waited for.
        let next = match self.body.next().now_or_never() {
            Some(next) => next,
            None => {
                let (patience, total) = self.patience()?;
                let wait = pin!(self.platform.clock().sleep(patience));
                match select(pin!(self.body.next()), wait).await {
                    Either::Left((next, _)) => next,
                    Either::Right(((), _)) => return Err(timed_out(&self.server, total)),
                }
            }
        };
        match next {
            Some(Ok(chunk)) => {
                self.heard_at = self.platform.clock().now();
                // A server that never pauses would never let the timer speak.
                if self.heard_at >= self.deadline {
                    return Err(timed_out(&self.server, true));
                }
                Ok(Some(chunk))
            }
            Some(Err(error)) => Err(seam(&self.server.name, &error)),
            None => Ok(None),
        }
    }

    /// How long to wait for more, and whether that is all the time there is.
    fn patience(&self) -> Result<(Duration, bool), Fault> {
        let left = self.left();
        if left.is_zero() {
            // A server that never pauses would never let the timer speak.
            return Err(timed_out(&self.server, true));
        }
        if self.duplex.as_ref().is_some_and(|duplex| duplex.opening()) {
            return Ok((left, true));
        }
        let idle = self.heard_at.after(self.idle).since(self.platform.clock().now());
        Ok((left.min(idle), left <= idle))
    }

    /// Everything that is left, up to `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::chunk`]; [`Kind::UpstreamTooLarge`] past the limit.
    pub async fn all(&mut self, limit: usize) -> Result<Bytes, Fault> {
        let first = self.chunk().await?.unwrap_or_default();
        let mut whole = BytesMut::new();
        let mut last = first;
        loop {
            if whole.len() + last.len() > limit {
                return Err(too_large(&self.server, limit));
            }
            match self.chunk().await? {
                None if whole.is_empty() => return Ok(last),
                None => {
                    whole.extend_from_slice(&last);
                    return Ok(whole.freeze());
                }
                Some(next) => {
                    whole.extend_from_slice(&last);
                    last = next;
                }
            }
        }
    }
}

fn timed_out(server: &Server, total: bool) -> Fault {
    let timeouts = &server.timeouts;
    let message = if total {
        format!("server {:?}: no end of the answer within {:?} (timeouts.total)", server.name, timeouts.total)
    } else {
        format!("server {:?}: silent for {:?} in mid-answer (timeouts.idle)", server.name, timeouts.idle)
    };
    Fault::new(Kind::UpstreamTimeout, message)
}

/// The server's answer is larger than it may be.
pub fn too_large(server: &Server, limit: usize) -> Fault {
    let message = format!("server {:?}: its answer is larger than {limit} bytes (max_response)", server.name);
    Fault::new(Kind::UpstreamTooLarge, message)
}

/// Where a redirect leads: within the same origin, and with the method kept unless it is a GET (`get`).
///
/// # Errors
/// When it leads elsewhere.
pub fn redirect<B>(server: &Server, from: &Url, response: &Response<B>, get: bool) -> Result<Url, Fault> {
    let refused = |why: &str| {
        let message = format!("server {:?}: redirects {why}; set url to where it really is", server.name);
        Fault::new(Kind::UpstreamRefused, message)
    };
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok()).ok_or_else(|| refused("to nowhere"))?;
    if to.origin() != from.origin() {
        return Err(refused("to another origin, where its credentials must not go"));
    }
    // 301 to 303 let a client turn POST into GET, which would lose the message (RFC 9110 section 15.4).
    if !get && !matches!(response.status().as_u16(), 307 | 308) {
        return Err(refused("without keeping the method"));
    }
    Ok(to)
}

/// What an adapter reported, told of `server`.
pub fn seam(server: &str, error: &SeamError) -> Fault {
    let kind = match error {
        SeamError::Connect(_) | SeamError::Denied(_) => Kind::UpstreamConnect,
        SeamError::Timeout(_) => Kind::UpstreamTimeout,
        SeamError::Cut(_) => Kind::UpstreamCut,
        SeamError::Offline(_) => Kind::LinkOffline,
        SeamError::Host(_) => Kind::Host,
    };
    Fault::new(kind, format!("server {server:?}: {error}"))
}
