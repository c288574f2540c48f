//! What outlives a request: the owner of one key, which requests write letters to.
//!
//! Two things need one. A call of a modern client to a legacy server that asks back waits here, with the server's
//! answer half read, until the client comes back ([`park`]). And a legacy client's session has its
//! streams, the questions that are open with it ([`rounds`]) and its sessions with HTTP+SSE servers ([`lines`]) here.
//!
//! A mailbox **never** acts by itself: [`deliver`] takes a letter and gives what is said to it, and the work that it
//! sets going. The host runs the work.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::tail::Tail;
use super::{Mcp, front, lines, park, rounds, standing, watch};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::platform::{Mailboxes as _, Platform, SeamError, Timestamp, UpstreamBody};
use crate::relay::Reader;
use crate::wire::jsonrpc;
use crate::wire::sse::Event;

/// What a request writes to a mailbox.
#[derive(Debug, Serialize, Deserialize)]
pub enum Letter {
    /// A modern client calls a legacy server. The answer is the call's.
    Call(park::Call),
    /// It comes back with what the server asked for. The answer is the rest of the call's.
    Retry(park::Retry),
    /// A modern server asks a legacy client in the middle of a call. The answer is the rest of the call's.
    Rounds(rounds::Rounds),
    /// What the client says to a question: the whole response. Nothing is answered.
    Response(Box<RawValue>),
    /// The client has given up one of its calls: its id. Nothing is answered.
    Cancelled(Box<RawValue>),
    /// The client comes back to a stream behind the event with this id. Nothing is answered if it is not kept, else
    /// a comment and then the rest of the stream.
    Resume(String),
    /// A modern client subscribes at a legacy server, over a session that its calls go over.
    Hear(park::Hear),
    /// A legacy client wants the stream of its session.
    Stand(standing::Stand),
    /// A client of HTTP+SSE begins. The answer is its stream.
    Front(front::Begin),
    /// It has posted a message. Nothing is answered if there is no stream for it.
    Posted(front::Posted),
    /// The resources that a session is subscribed to are others now. The answer ends when their servers know.
    Subscribed,
    /// A call of a legacy client, by its id, is to be watched. The answer is a comment, and another when the client gives
    /// the call up.
    Watch(Box<RawValue>),
    /// Somebody wants to use the client's session with an HTTP+SSE server. The answer is like that server's stream.
    Line(lines::Attach),
    /// A message of the client's for every such server that it has a session with. Nothing is answered.
    Say(Box<RawValue>),
    /// The session is over. Nothing is answered.
    End,
}

/// What is made when it is first asked for: of mailboxes there may be thousands, and most use little of what they could.
#[derive(Debug)]
pub struct Lazy<T>(OnceLock<Box<T>>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Default> Deref for Lazy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.get_or_init(Box::default)
    }
}

/// What the owner of a key keeps.
pub struct Mailbox<P: Platform> {
    /// Calls that may have to wait for their client.
    pub parked: Lazy<park::Desk<P>>,
    /// Questions that are open with a client.
    pub rounds: Lazy<rounds::Desk>,
    /// The streams of a session.
    pub standing: standing::Desk,
    /// The stream of a client of HTTP+SSE.
    pub front: Lazy<front::Desk>,
    /// Calls that run elsewhere.
    pub watched: watch::Desk,
    /// Sessions with HTTP+SSE servers.
    pub lines: lines::Desk,
}

impl<P: Platform> Default for Mailbox<P> {
    fn default() -> Self {
        Self {
            parked: Lazy::default(),
            rounds: Lazy::default(),
            standing: standing::Desk::default(),
            front: Lazy::default(),
            watched: watch::Desk::default(),
            lines: lines::Desk::default(),
        }
    }
}

impl<P: Platform> Mailbox<P> {
    /// Whether nothing is kept: the next letter may as well be taken by a new mailbox.
    pub fn is_idle(&self) -> bool {
        self.parked.0.get().is_none_or(|desk| desk.is_idle())
            && self.rounds.0.get().is_none_or(|desk| desk.is_idle())
            && self.front.0.get().is_none_or(|desk| desk.is_idle())
            && self.standing.is_idle()
            && self.watched.is_idle()
            && self.lines.is_idle()
    }
}

/// What is said to a letter.
pub enum Said {
    /// What a log says, as it says it; and whether a comment is to go before it, as a sign that there is one.
    Tail(bool, Tail),
    /// This, and no more.
    Once(Option<Bytes>),
}

impl Said {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::Once(None)
    }

    /// An error about the request `id`.
    #[must_use]
    pub fn fault(id: Option<&RawValue>, fault: &Fault) -> Self {
        let error = jsonrpc::error(id, fault.kind.row().code, &fault.message, fault.data.as_deref());
        Self::Once(Some(Event::message(error).encode()))
    }
}

impl Stream for Said {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Self::Tail(sign, _) if *sign => {
                *sign = false;
                Poll::Ready(Some(Ok(Bytes::from_static(b":\n"))))
            }
            Self::Tail(_, tail) => Pin::new(tail).poll_next(context),
            Self::Once(once) => Poll::Ready(once.take().map(Ok)),
        }
    }
}

/// Takes `letter` to `mailbox`: what is said to it, and the work that it sets going, which must be run to its end
/// whether or not anybody reads.
pub fn deliver<P: Platform>(
    mcp: Mcp<P>,
    mailbox: Arc<Mailbox<P>>,
    letter: &[u8],
) -> (Said, impl Future<Output = ()> + use<P>) {
    let (said, work) = match serde_json::from_slice(letter) {
        Ok(Letter::Call(call)) => park::begin(&mcp, &mailbox, call),
        Ok(Letter::Retry(retry)) => (mailbox.parked.retry(retry), Work::None),
        Ok(Letter::Hear(hear)) => park::hear(&mailbox, hear),
        Ok(Letter::Rounds(rounds)) => rounds::begin(&mcp, &mailbox, rounds),
        Ok(Letter::Response(response)) => {
            mailbox.rounds.answered(&response);
            (Said::nothing(), Work::None)
        }
        Ok(Letter::Cancelled(id)) => {
            mailbox.rounds.cancelled(&id);
            mailbox.watched.cancelled(&id);
            (Said::nothing(), Work::None)
        }
        Ok(Letter::Resume(last)) => {
            (mailbox.rounds.resume(&last).map_or(Said::nothing(), |tail| Said::Tail(true, tail)), Work::None)
        }
        Ok(Letter::Stand(stand)) => standing::begin(&mcp, &mailbox, stand),
        Ok(Letter::Front(begin)) => front::begin(&mailbox, begin),
        Ok(Letter::Posted(posted)) => front::posted(&mailbox, posted),
        Ok(Letter::Subscribed) => (mailbox.standing.subscribed(), Work::None),
        Ok(Letter::Watch(id)) => watch::begin(&mailbox, &id),
        Ok(Letter::Line(attach)) => lines::begin(&mcp, &mailbox, attach),
        Ok(Letter::Say(body)) => {
            mailbox.lines.say(&body);
            (Said::nothing(), Work::None)
        }
        Ok(Letter::End) => {
            mailbox.lines.end();
            mailbox.watched.end();
            mailbox.rounds.end();
            mailbox.standing.end();
            (Said::nothing(), Work::None)
        }
        Err(_) => (Said::fault(None, &Fault::new(Kind::Host, "the letter cannot be read")), Work::None),
    };
    // Boxed: what waits for long need not keep what has gone to whoever works.
    let with = Box::new((mcp, mailbox));
    (said, async move {
        let (mcp, mailbox) = *with;
        match work {
            Work::None => {}
            // Boxed, each by itself: what lives for long need not make room for the largest of them.
            Work::Park(work) => Box::pin(park::run(mcp, mailbox, *work)).await,
            Work::Hear(work) => Box::pin(park::listen(mcp, mailbox, *work)).await,
            Work::Rounds(work) => Box::pin(rounds::run(mcp, mailbox, *work)).await,
            Work::Front(work) => Box::pin(front::run(mcp, mailbox, *work)).await,
            Work::Line(work) => Box::pin(lines::run(mcp, mailbox, *work)).await,
            Work::Watch(work) => Box::pin(watch::run(mailbox, work)).await,
            Work::Stand(work) => Box::pin(standing::run(mcp, mailbox, work)).await,
        }
    })
}

/// Whether a mailbox that knows nothing can do anything with `letter`: it begins something.
#[must_use]
pub fn founds(letter: &[u8]) -> bool {
    ["Call", "Hear", "Rounds", "Stand", "Front", "Line"].iter().any(|kind| {
        let name = letter.strip_prefix(b"{\"").and_then(|rest| rest.strip_prefix(kind.as_bytes()));
        name.is_some_and(|rest| rest.starts_with(b"\""))
    })
}

/// What is said to `letter` when its owner has gone with it; `None` where a mere end says enough.
#[must_use]
pub fn lost(letter: &[u8]) -> Option<Bytes> {
    let (id, fault) = match serde_json::from_slice(letter).ok()? {
        Letter::Call(park::Call { leg, .. }) | Letter::Retry(park::Retry { leg, .. }) => {
            (leg.id, Fault::new(Kind::InvalidState, park::GONE))
        }
        Letter::Rounds(rounds) => {
            let message = "the gateway's instance that this call ran in has gone; make the call again";
            (rounds.id, Fault::new(Kind::Host, message))
        }
        _ => return None,
    };
    Some(Event::message(fault.into_error(&id)).encode())
}

/// What a letter sets going.
pub enum Work {
    /// Nothing.
    None,
    /// A call to a legacy server.
    Park(Box<park::Started>),
    /// A subscription at a legacy server.
    Hear(Box<park::Listener>),
    /// The rest of a call to a modern server.
    Rounds(Box<rounds::Started>),
    /// The streams of a session.
    Stand(Box<standing::Started>),
    /// A session with an HTTP+SSE server.
    Line(Box<lines::Started>),
    /// Nothing but waiting until a call is over.
    Watch(watch::Started),
    /// What a client of HTTP+SSE wants.
    Front(Box<front::Started>),
}

impl<P: Platform> Mcp<P> {
    /// Writes `letter` to the owner of `key`, who answers for `server`.
    ///
    /// # Errors
    /// [`Kind::Host`] when the host cannot reach it.
    pub async fn answer_of(
        &self,
        server: &Arc<Server>,
        key: &str,
        letter: &Letter,
    ) -> Result<Reader<P>, Fault> {
        let body = self.post_letter(key, letter).await?;
        let mut reader = Reader::new(self.platform.clone(), server.clone(), body, Timestamp(u64::MAX));
        // Whoever works there watches the times.
        reader.open_ended();
        Ok(reader)
    }

    /// Writes `letter` to the owner of `key`.
    ///
    /// # Errors
    /// [`Kind::Host`] when the host cannot reach it.
    pub async fn post_letter(&self, key: &str, letter: &Letter) -> Result<UpstreamBody<P>, Fault> {
        let letter = serde_json::to_vec(letter).unwrap_or_default();
        let host = |error: SeamError| Fault::new(Kind::Host, format!("the mailbox: {error}"));
        self.platform.mailboxes().post(key, letter.into()).await.map_err(host)
    }
}
