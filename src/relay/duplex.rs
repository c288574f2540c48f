//! A session whose two directions are apart: messages go out one by one, each in a request of its own, and
//! whatever the server says comes on one stream of events (2024-11-05 transports, "HTTP with SSE").
//!
//! It **never** holds the stream up for a request: some servers answer one only when they have done all that it
//! asks for, and meanwhile say on the stream what belongs to it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, StatusCode};

use super::dropped::Dropped;
use super::through::begin;
use super::{Body, Reader, redirect, seam, timed_out, too_large};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, SeamError, Sent, UpstreamBody};
use crate::wire::jsonrpc::Message;
use crate::wire::sse::{Decoder, Event};

/// Redirects that one message follows.
const REDIRECTS: usize = 3;
/// How many answered requests are remembered, to know an answer that comes twice.
const ANSWERED: usize = 128;
/// Between two messages of ours the stream may bring so many times the bytes of one answer.
const STREAM: usize = 16;
/// Messages that may be on their way at a time; of more, nobody waits for the oldest.
const POSTS: usize = 256;
/// The body under an HTTP error is read no further than this.
const ERROR_BODY: usize = 64 * 1024;

/// The half of a session that [`Reader`] alone has not: what was sent, and what of the stream is still to be read.
pub(super) struct Duplex<P: Platform> {
    decoder: Decoder,
    /// How many bytes the stream may bring between two messages of ours.
    most: usize,
    events: VecDeque<Event>,
    posts: Vec<Post<P>>,
    /// Messages that nobody waits for any more, as too many were on their way.
    let_go: usize,
    answered: VecDeque<String>,
    /// Bytes of the stream since a message was sent.
    bytes: usize,
    /// A message has come on the stream since one was sent.
    heard: bool,
    ended: bool,
    /// Silence is for somebody else to judge.
    opening: bool,
    /// The server may not know the session any more.
    forgotten: bool,
}

/// A message that was sent and whose exchange is not over.
struct Post<P: Platform> {
    /// The id of the request that it is, as JSON.
    id: Option<String>,
    request: Request<Bytes>,
    redirects: usize,
    state: State<P>,
}

enum State<P: Platform> {
    /// A host need not let two look at it at once. Nobody does; the lock only says so to the compiler.
    Sent(Mutex<Sent<P>>),
    Body(StatusCode, UpstreamBody<P>, BytesMut),
}

/// What happened next.
enum Step {
    /// Bytes came on the stream.
    Chunk(Bytes),
    /// The server has accepted a message.
    Taken,
    /// A message's exchange is over, and this came of it.
    Posted(Outcome),
    /// Nothing comes any more.
    End,
    /// The stream broke.
    Broken(SeamError),
}

/// What came of sending a message.
enum Outcome {
    /// The server has it; what it has to say comes on the stream.
    Nothing,
    /// The server answered where it was asked, as later revisions do.
    Message(Bytes),
    /// The server does not have it.
    Failed(Fault, But),
}

/// What there is to say about a failure.
#[derive(PartialEq)]
enum But {
    Nothing,
    /// The server may have it nevertheless: something in between gave up waiting.
    Between,
    /// It may not know the session any more.
    Forgotten,
}

impl<P: Platform> Reader<P> {
    /// Makes this the stream of a session: events come whole, one to a chunk, and [`Reader::post`] sends.
    pub fn open_session(&mut self) {
        let limit = self.server.max_response;
        self.duplex = Some(Box::new(Duplex {
            decoder: Decoder::new(limit),
            most: limit.saturating_mul(STREAM),
            events: VecDeque::new(),
            posts: Vec::new(),
            let_go: 0,
            answered: VecDeque::new(),
            bytes: 0,
            heard: false,
            ended: false,
            opening: true,
            forgotten: false,
        }));
    }

    /// The session has been opened, and the server has accepted what was posted: from here on it may not be silent
    /// for longer than in any answer. Until then whoever waits sets the limit.
    pub fn session_opened(&mut self) {
        self.heard_at = self.platform.clock().now();
        if let Some(duplex) = &mut self.duplex {
            duplex.opening = false;
        }
    }

    /// Whether this is the stream of a session, which ends with it.
    pub fn is_session(&self) -> bool {
        self.duplex.is_some()
    }

    /// Whether a message was refused as one is whose session there is none of.
    pub fn is_forgotten(&self) -> bool {
        self.duplex.as_ref().is_some_and(|duplex| duplex.forgotten)
    }

    /// Sends a message of the session; `id` is that of the request that it is, as JSON. Without one nobody waits for what
    /// comes of it, and it is only an error if the session is over.
    ///
    /// It is on its way while the stream is read, or [`Reader::taken`] waits.
    pub fn post(&mut self, id: Option<&str>, request: Request<Bytes>) {
        let sent = begin(&self.platform, &self.server, request.clone());
        let now = self.platform.clock().now();
        if let Some(duplex) = &mut self.duplex {
            if id.is_some() {
                (duplex.bytes, duplex.heard, self.heard_at) = (0, false, now);
            }
            if duplex.posts.len() >= POSTS {
                duplex.posts.remove(0);
                duplex.let_go += 1;
            }
            let id = id.map(str::to_owned);
            duplex.posts.push(Post { id, request, redirects: 0, state: State::Sent(Mutex::new(sent)) });
        }
    }

    /// Waits until the server has accepted what was posted, or says something.
    ///
    /// # Errors
    /// When it refuses, or reading fails.
    pub async fn taken(&mut self) -> Result<(), Fault> {
        while self.duplex.as_ref().is_some_and(|duplex| !duplex.heard && !duplex.is_taken()) {
            if !self.pull().await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next event; `None` at the end of the stream. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Reader::chunk`], and when the server refuses a message.
    pub async fn event(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            if let Some(event) = self.duplex.as_mut().and_then(|duplex| duplex.events.pop_front()) {
                return Ok(Some(event));
            }
            if !self.pull().await? {
                return Ok(None);
            }
        }
    }

    /// The next message; `None` at the end. An answer that comes twice, in two ways, is given once.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub async fn message(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(event) = self.event().await? {
            let named = matches!(event.event.as_str(), "" | "message") && !event.data.is_empty();
            let again = self.duplex.as_mut().is_some_and(|duplex| duplex.is_again(&event.data));
            if named && !again {
                return Ok(Some(event.data));
            }
        }
        Ok(None)
    }

    /// Puts messages back that somebody else is to read, in their order.
    pub fn put_back(&mut self, messages: Vec<Bytes>) {
        if let Some(duplex) = &mut self.duplex {
            messages.into_iter().rev().for_each(|data| duplex.events.push_front(Event::message(data)));
        }
    }

    /// Waits for the next thing to happen; `false` if nothing can any more.
    async fn pull(&mut self) -> Result<bool, Fault> {
        let (patience, total) = self.patience()?;
        let Some(duplex) = &mut self.duplex else { return Ok(false) };
        let (platform, server, body) = (&self.platform, &self.server, &mut self.body);
        let wait = pin!(platform.clock().sleep(patience));
        let next = poll_fn(|context| duplex.poll(context, platform, server, body));
        let step = match select(next, wait).await {
            Either::Left((step, _)) => step,
            Either::Right(((), _)) => return Err(timed_out(&self.server, total)),
        };
        self.heard_at = self.platform.clock().now();
        let open_ended = self.is_open_ended();
        let Some(duplex) = &mut self.duplex else { return Ok(false) };
        if !matches!(step, Step::Chunk(_) | Step::Taken) {
            let messages = std::mem::take(&mut duplex.let_go);
            let message =
                "the server takes longer for messages than they come; the oldest are not waited for";
            let dropped = Dropped { server: &self.server.name, caller: "", messages, message };
            dropped.say(&self.platform, "line.dropped");
        }
        match step {
            Step::Chunk(chunk) => {
                duplex.take(&chunk, open_ended).map_err(|limit| too_large(&self.server, limit))?;
            }
            Step::Taken | Step::Posted(Outcome::Nothing) => {}
            Step::Posted(Outcome::Message(message)) => duplex.hear(Event::message(message)),
            Step::Posted(Outcome::Failed(fault, but)) => {
                duplex.forgotten |= but == But::Forgotten;
                if !(but == But::Between && duplex.heard) {
                    return Err(fault);
                }
            }
            Step::End => return Ok(false),
            Step::Broken(error) => return Err(seam(&self.server.name, &error)),
        }
        Ok(true)
    }
}

impl<P: Platform> Duplex<P> {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        platform: &P,
        server: &Server,
        body: &mut Body<P>,
    ) -> Poll<Step> {
        for (index, post) in self.posts.iter_mut().enumerate() {
            match post.poll(context, platform, server) {
                Poll::Pending => {}
                Poll::Ready(None) => return Poll::Ready(Step::Taken),
                Poll::Ready(Some(outcome)) => {
                    self.posts.swap_remove(index);
                    return Poll::Ready(Step::Posted(outcome));
                }
            }
        }
        if self.ended {
            // What is still being sent may be answered where it was sent.
            return if self.posts.is_empty() { Poll::Ready(Step::End) } else { Poll::Pending };
        }
        match body.poll_next_unpin(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(chunk))) => Poll::Ready(Step::Chunk(chunk)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Step::Broken(error)),
            Poll::Ready(None) => {
                self.ended = true;
                if self.posts.is_empty() { Poll::Ready(Step::End) } else { Poll::Pending }
            }
        }
    }

    /// Whether it is still for others to say how long the server may be silent.
    pub(super) fn opening(&self) -> bool {
        self.opening
    }

    fn is_taken(&self) -> bool {
        self.posts.iter().all(Post::is_taken)
    }

    /// Takes bytes of the stream; the error is the limit that they break.
    fn take(&mut self, chunk: &[u8], open_ended: bool) -> Result<(), usize> {
        let mut events = Vec::new();
        self.decoder.push(chunk, &mut events).map_err(|too_large| too_large.0)?;
        self.bytes = self.bytes.saturating_add(chunk.len());
        if self.bytes > self.most && !open_ended {
            return Err(self.most);
        }
        events.into_iter().for_each(|event| self.hear(event));
        Ok(())
    }

    fn hear(&mut self, event: Event) {
        self.heard = true;
        self.events.push_back(event);
    }

    /// Whether `data` answers a request that has been answered already.
    fn is_again(&mut self, data: &[u8]) -> bool {
        let Ok(Message::Response { id: Some(id), .. }) = Message::decode(data) else { return false };
        if self.answered.iter().any(|answered| answered == id.get()) {
            return true;
        }
        if self.answered.len() >= ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(id.get().to_owned());
        false
    }
}

impl<P: Platform> Post<P> {
    /// Whether the server has said that it accepts the message.
    fn is_taken(&self) -> bool {
        matches!(&self.state, State::Body(status, ..) if status.is_success())
    }

    /// What came of it; first `None` if the server accepts it but has not ended its answer.
    fn poll(&mut self, context: &mut Context<'_>, platform: &P, server: &Server) -> Poll<Option<Outcome>> {
        loop {
            match &mut self.state {
                State::Sent(sent) => {
                    match ready!(sent.get_mut().unwrap_or_else(PoisonError::into_inner).poll_unpin(context)) {
                        Err(error) => {
                            let but = match error {
                                SeamError::Cut(_) => But::Between,
                                SeamError::Connect(_) => But::Forgotten,
                                _ => But::Nothing,
                            };
                            if self.id.is_none() && but != But::Forgotten {
                                return Poll::Ready(Some(Outcome::Nothing));
                            }
                            let fault = seam(&server.name, &error);
                            return Poll::Ready(Some(Outcome::Failed(fault, but)));
                        }
                        Ok(response) if matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) => {
                            if let Err(fault) = self.follow(platform, server, &response) {
                                return Poll::Ready(Some(Outcome::Failed(fault, But::Nothing)));
                            }
                        }
                        Ok(response) => {
                            let status = response.status();
                            self.state = State::Body(status, response.into_body(), BytesMut::new());
                            if status.is_success() {
                                return Poll::Ready(None);
                            }
                        }
                    }
                }
                State::Body(status, body, text) => {
                    let limit = if status.is_success() { server.max_response } else { ERROR_BODY };
                    match ready!(body.poll_next_unpin(context)) {
                        Some(Ok(chunk)) if text.len() + chunk.len() <= limit => {
                            text.extend_from_slice(&chunk);
                        }
                        _ => {
                            let (status, text) = (*status, text.split().freeze());
                            return Poll::Ready(Some(self.outcome(server, status, text)));
                        }
                    }
                }
            }
        }
    }

    fn follow<B>(
        &mut self,
        platform: &P,
        server: &Server,
        response: &http::Response<B>,
    ) -> Result<(), Fault> {
        let lost = |why: &str| {
            let message =
                format!("server {:?}: {why} when a message was posted to its endpoint", server.name);
            Fault::new(Kind::UpstreamRefused, message)
        };
        if self.redirects == REDIRECTS {
            return Err(lost(&format!("more than {REDIRECTS} redirects")));
        }
        self.redirects += 1;
        let from =
            self.request.uri().to_string().parse().map_err(|_| lost("redirected from no whole URL"))?;
        let to = redirect(server, &from, response, false)?;
        *self.request.uri_mut() =
            to.as_str().parse().map_err(|_| lost("redirected to what cannot be used"))?;
        self.state = State::Sent(Mutex::new(begin(platform, server, self.request.clone())));
        Ok(())
    }

    fn outcome(&self, server: &Server, status: StatusCode, text: Bytes) -> Outcome {
        let message = Message::decode(&text);
        if status.is_success() {
            return if message.is_ok() { Outcome::Message(text) } else { Outcome::Nothing };
        }
        match message {
            Ok(Message::Response { id: Some(id), .. }) if Some(id.get()) == self.id.as_deref() => {
                Outcome::Message(text)
            }
            _ => {
                let but = match status.as_u16() {
                    502 | 504 | 524 => But::Between,
                    404 | 410 => But::Forgotten,
                    // Whoever waits for nothing may have said something that is not liked.
                    400 if self.id.is_some() => But::Forgotten,
                    _ => But::Nothing,
                };
                if self.id.is_none() && but != But::Forgotten {
                    return Outcome::Nothing;
                }
                Outcome::Failed(refused(server, status), but)
            }
        }
    }
}

/// The server did not accept a message.
fn refused(server: &Server, status: StatusCode) -> Fault {
    let hint = match status.as_u16() {
        401 | 403 => "; check its headers in the configuration",
        400 | 404 | 410 => "; if it runs more than once, its instances must share their sessions",
        405 => "; it names an endpoint that takes no messages",
        413 => "; the message is larger than it takes",
        429 => "; it limits how often it may be asked",
        _ => "",
    };
    let status = status.as_u16();
    let message = format!(
        "server {:?}: answered HTTP {status} to a message for its HTTP+SSE session{hint}",
        server.name
    );
    Fault::new(Kind::UpstreamRefused, message)
}
