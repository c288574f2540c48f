//! The body of a reply on its way: relayed, or still being worked on, with a sign of life when it is silent.

use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::Stream;
use futures_util::future::{Either, select};
use futures_util::stream::unfold;

use crate::fault::{Fault, Kind};
use crate::mcp::forward::event;
use crate::mcp::serve::{Answer, Cancel, Note, failed};
use crate::mcp::stream::Stream as Relayed;
use crate::platform::{Clock as _, Platform, SeamError};

/// How a streamed body ended.
pub(super) struct Ended<P: Platform> {
    pub(super) bytes: u64,
    pub(super) complete: bool,
    pub(super) resumable: bool,
    pub(super) fault: Option<Kind>,
    pub(super) late: Option<(Note, Option<Cancel>)>,
    /// What must not be let go before the call has been cancelled.
    pub(super) left: Option<Box<Relayed<P>>>,
}

impl<P: Platform> Default for Ended<P> {
    fn default() -> Self {
        Self { bytes: 0, complete: false, resumable: false, fault: None, late: None, left: None }
    }
}

/// Tells how a body ended, also when it is dropped half-way.
pub(super) struct Witness<P: Platform> {
    pub(super) ended: Ended<P>,
    pub(super) sender: Option<oneshot::Sender<Ended<P>>>,
}

impl<P: Platform> Drop for Witness<P> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(std::mem::take(&mut self.ended));
        }
    }
}

/// Where the bytes of a body come from.
pub(super) enum Source<P: Platform, F> {
    /// The answer itself is still being worked on.
    Waiting(Pin<Box<F>>),
    /// An upstream's answer.
    Relayed(Box<Relayed<P>>),
    /// Nothing comes any more.
    Over,
}

/// A body on its way, and who tells of its end.
struct Flowing<P: Platform, F> {
    source: Source<P, F>,
    witness: Witness<P>,
}

impl<P: Platform, F> Drop for Flowing<P, F> {
    fn drop(&mut self) {
        if let Source::Relayed(stream) = std::mem::replace(&mut self.source, Source::Over)
            && stream.ends_session()
        {
            self.witness.ended.left = Some(stream);
        }
    }
}

/// The bytes of a body, with a comment on the stream whenever it has been silent for long.
pub(super) fn flow<P: Platform, F: Future<Output = (Answer<P>, Note)>>(
    platform: P,
    source: Source<P, F>,
    keep_alive: Duration,
    witness: Witness<P>,
) -> impl Stream<Item = Result<Bytes, SeamError>> {
    unfold(Flowing { source, witness }, move |mut flowing| {
        let platform = platform.clone();
        async move {
            loop {
                let Flowing { source, witness } = &mut flowing;
                let silence = pin!(platform.clock().sleep(keep_alive));
                let comment = || Some(Ok(Bytes::from_static(b":\n")));
                let item = match source {
                    Source::Over => return None,
                    Source::Waiting(work) => match select(work, silence).await {
                        Either::Right(_) => comment(),
                        Either::Left(((answer, mut note), _)) => {
                            let (next, item, cancel) = arrived(answer, &mut note).await;
                            witness.ended.late = Some((note, cancel));
                            witness.ended.complete = item.is_some();
                            *source = next;
                            match item {
                                Some(bytes) => Some(Ok(bytes)),
                                None => continue,
                            }
                        }
                    },
                    Source::Relayed(stream) => {
                        let next = match select(pin!(stream.next()), silence).await {
                            Either::Left((next, _)) => Some(next),
                            Either::Right(_) => None,
                        };
                        match next {
                            None if stream.may_comment() => comment(),
                            None => continue,
                            Some(item) => {
                                witness.ended.complete = stream.answered;
                                witness.ended.fault = stream.fault;
                                witness.ended.resumable = stream.resumable;
                                item
                            }
                        }
                    }
                };
                if let Some(Ok(bytes)) = &item {
                    witness.ended.bytes += bytes.len() as u64;
                }
                return item.map(|item| (item, flowing));
            }
        }
    })
}

/// An answer that came after the head had to go: everything is an event now.
async fn arrived<P: Platform, F>(
    answer: Answer<P>,
    note: &mut Note,
) -> (Source<P, F>, Option<Bytes>, Option<Cancel>) {
    match answer {
        Answer::Json(_, body) | Answer::Opened(_, body) => (Source::Over, Some(event(body)), None),
        Answer::Empty(_) => (Source::Over, Some(Bytes::new()), None),
        Answer::Stream(stream, cancel) if stream.is_events() => (Source::Relayed(stream), None, cancel),
        Answer::Stream(mut stream, cancel) => {
            let mut whole = Vec::new();
            while let Some(chunk) = stream.next().await {
                match chunk {
                    Ok(chunk) => whole.extend_from_slice(&chunk),
                    Err(error) => {
                        let fault = Fault::new(Kind::UpstreamCut, error.to_string());
                        if let Answer::Json(_, body) = failed::<P>(None, &fault, note) {
                            whole = body.to_vec();
                        }
                        break;
                    }
                }
            }
            (Source::Over, Some(event(whole.into())), cancel)
        }
    }
}
