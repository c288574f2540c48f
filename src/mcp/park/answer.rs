//! What a legacy server says to a parked call, message by message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;

use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::mcp::memory::{UpstreamSession, lock};
use crate::mcp::resume::Resume;
use crate::mcp::upstream::{Answered, Content, Outgoing, content, error_of, no_answer, refused};
use crate::mcp::{Mcp, forgets};
use crate::platform::Platform;
use crate::relay::{Reader, too_large};
use crate::wire::sse::Decoder;

/// An HTTP error's body is read no further than this.
const ERROR_BODY: usize = 64 * 1024;

/// What has been heard of the answer.
pub(super) enum Heard {
    /// A message.
    Message(Bytes),
    /// The server does not know the session.
    Forgotten,
}

/// The stream of an HTTP+SSE session that a request is sent over.
pub(super) struct Line<P: Platform> {
    /// The stream.
    pub(super) stream: Box<Answered<P>>,
    /// The id of the request, as JSON.
    pub(super) id: String,
    /// It was there before, and so may be over.
    pub(super) used: bool,
    /// Where it lies when the answer is read no further.
    pub(super) back: Back<P>,
}

/// Where the stream of an HTTP+SSE session lies when nobody reads it.
pub(super) type Back<P> = Arc<Mutex<Option<Box<Answered<P>>>>>;

/// A stream that is being read. It is given back when dropped, unless it has ended.
struct Lent<P: Platform> {
    stream: Option<Box<Answered<P>>>,
    back: Option<Back<P>>,
}

impl<P: Platform> Drop for Lent<P> {
    fn drop(&mut self) {
        if let Some(back) = &self.back {
            *lock(back) = self.stream.take();
        }
    }
}

/// The answer to `outgoing`, message by message: its head is waited for when it is first polled.
pub(super) fn answers<P: Platform>(
    mcp: Mcp<P>,
    server: Arc<Server>,
    session: UpstreamSession,
    outgoing: Outgoing,
    line: Option<Line<P>>,
) -> impl Stream<Item = Result<Heard, Fault>> {
    enum At<P: Platform> {
        Head(Box<Outgoing>, Option<Line<P>>),
        Body(Box<Body<P>>),
        End,
    }
    struct Body<P: Platform> {
        lent: Lent<P>,
        decoder: Decoder,
        resume: Resume,
        waiting: VecDeque<Bytes>,
    }
    unfold(At::Head(Box::new(outgoing), line), move |at| {
        let (mcp, server, session) = (mcp.clone(), server.clone(), session.clone());
        async move {
            let mut at = at;
            loop {
                at = match at {
                    At::End => return None,
                    // Boxed: the body is waited for much longer than the head.
                    At::Head(outgoing, line) => {
                        match Box::pin(first(&mcp, &server, &session, *outgoing, line)).await {
                            Ok(First::Events(lent)) => At::Body(Box::new(Body {
                                lent,
                                decoder: Decoder::new(server.max_response),
                                resume: Resume::new(session.clone()),
                                waiting: VecDeque::new(),
                            })),
                            Ok(First::Heard(heard)) => return Some((Ok(heard), At::End)),
                            Err(fault) => return Some((Err(fault), At::End)),
                        }
                    }
                    At::Body(mut body) => {
                        if let Some(data) = body.waiting.pop_front() {
                            return Some((Ok(Heard::Message(data)), At::Body(body)));
                        }
                        let Some(stream) = &mut body.lent.stream else { return None };
                        let why = match stream.reader.chunk().await {
                            Ok(Some(chunk)) => {
                                let mut events = Vec::new();
                                if body.decoder.push(&chunk, &mut events).is_err() {
                                    body.lent.stream = None;
                                    return Some((Err(too_large(&server, server.max_response)), At::End));
                                }
                                events.iter().for_each(|event| body.resume.saw(event));
                                let data = events.into_iter().map(|event| event.data);
                                body.waiting.extend(data.filter(|data| !data.is_empty()));
                                None
                            }
                            Ok(None) => Some(no_answer(&server)),
                            Err(fault) => Some(fault),
                        };
                        if let Some(why) = why {
                            let Body { lent, decoder, resume, .. } = body.as_mut();
                            let mut stream = lent.stream.take()?;
                            if let Err(fault) = mcp.resume(&mut stream.reader, resume, why).await {
                                return Some((Err(fault), At::End));
                            }
                            lent.stream = Some(stream);
                            *decoder = Decoder::new(server.max_response);
                        }
                        At::Body(body)
                    }
                };
            }
        }
    })
}

enum First<P: Platform> {
    Events(Lent<P>),
    Heard(Heard),
}

async fn first<P: Platform>(
    mcp: &Mcp<P>,
    server: &Arc<Server>,
    session: &UpstreamSession,
    outgoing: Outgoing,
    line: Option<Line<P>>,
) -> Result<First<P>, Fault> {
    let in_session = outgoing.headers.contains_key(crate::mcp::headers::SESSION);
    let (mut answered, back) = match line {
        Some(Line { mut stream, id, used, back }) => {
            match mcp.send_old(&mut stream, session, outgoing, &id).await {
                Ok(()) => (*stream, Some(back)),
                // The server does not have the call: the session may have ended since the last one.
                Err(fault) if used && matches!(fault.kind, Kind::UpstreamRefused | Kind::UpstreamConnect) => {
                    return Ok(First::Heard(Heard::Forgotten));
                }
                Err(fault) => return Err(fault),
            }
        }
        None => (mcp.exchange(server, outgoing).await?, None),
    };
    let status = answered.status;
    if !status.is_success() {
        let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
        if in_session && forgets(status, &body) {
            return Ok(First::Heard(Heard::Forgotten));
        }
        return match error_of(&body) {
            Some(_) => Ok(First::Heard(Heard::Message(body))),
            None => Err(refused(server, status)),
        };
    }
    match content(&answered.headers) {
        Content::Json => Ok(First::Heard(Heard::Message(answered.reader.all(server.max_response).await?))),
        Content::Events => {
            // The call's own times are watched where it is known who is waited for.
            answered.reader.open_ended();
            Ok(First::Events(Lent { stream: Some(Box::new(answered)), back }))
        }
        Content::Other => Err(no_answer(server)),
    }
}

/// The next message on a session's own stream; `None` when there is none any more.
pub(super) async fn next_news<P: Platform>(
    reader: &mut Reader<P>,
    decoder: &mut Decoder,
    waiting: &mut VecDeque<Bytes>,
) -> Option<Bytes> {
    loop {
        let chunk = reader.chunk().await.ok()??;
        let mut events = Vec::new();
        decoder.push(&chunk, &mut events).ok()?;
        waiting.extend(events.into_iter().map(|event| event.data).filter(|data| !data.is_empty()));
        if let Some(data) = waiting.pop_front() {
            return Some(data);
        }
    }
}
