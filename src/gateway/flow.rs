//! The body of a reply on its way: relayed, or still being worked on, with a sign of life when it is silent.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};

use super::sampling::{Beside, beside};
use crate::config::Plan;
use crate::fault::{Fault, Kind};
use crate::instance::Instance;
use crate::llm;
use crate::mcp::forward::event;
use crate::mcp::listen::Listen;
use crate::mcp::serve::{Answer, Cancel, Note, failed};
use crate::mcp::stream::Stream as Relayed;
use crate::platform::{Clock as _, Platform, SeamError, UpstreamBody};

/// How a streamed body ended.
pub(super) struct Ended<P: Platform> {
    pub(super) bytes: u64,
    pub(super) complete: bool,
    pub(super) resumable: bool,
    pub(super) fault: Option<Kind>,
    pub(super) late: Option<Box<(Note, Option<Cancel>)>>,
    /// What a model's words were, in numbers.
    pub(super) metered: Option<Box<llm::Metered>>,
    /// An answer that is to be kept.
    pub(super) to_keep: Option<Box<llm::cache::ToKeep>>,
    /// What must not be let go before the call has been cancelled.
    pub(super) left: Option<Box<Relayed<P>>>,
}

impl<P: Platform> Default for Ended<P> {
    fn default() -> Self {
        Self {
            bytes: 0,
            complete: false,
            resumable: false,
            fault: None,
            late: None,
            metered: None,
            to_keep: None,
            left: None,
        }
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
    /// A model's words.
    Words(Box<llm::Words<P>>),
    /// An upstream's answer.
    Relayed(Box<Relayed<P>>),
    /// A subscription that is yet to be started.
    Listen(Box<Listen<P>>),
    /// The subscription that was started.
    Listening,
    /// Bytes that go on as they come.
    Plain(Box<UpstreamBody<P>>),
    /// Nothing comes any more.
    Over,
}

impl<P: Platform, F> Source<P, F> {
    /// Whether it is known to carry news and to have no end of its own.
    pub(super) fn is_endless(&self) -> bool {
        match self {
            Self::Relayed(stream) => stream.news,
            Self::Listen(_) | Self::Listening => true,
            Self::Waiting(_) | Self::Words(_) | Self::Plain(_) | Self::Over => false,
        }
    }
}

/// A body on its way, and who tells of its end.
struct Flowing<P: Platform, F, L, D> {
    source: Source<P, F>,
    /// What goes on beside it.
    driver: Beside<D>,
    /// The subscription of [`Source::Listening`].
    listening: Option<Box<L>>,
    witness: Witness<P>,
}

impl<P: Platform, F, L, D> Drop for Flowing<P, F, L, D> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.source, Source::Over) {
            Source::Relayed(stream) if stream.ends_session() => self.witness.ended.left = Some(stream),
            // Whoever goes away has been given something all the same.
            Source::Words(mut words) => {
                words.settle();
                self.witness.ended.to_keep = words.to_keep();
                let metered = words.metered();
                self.witness.ended.complete = metered.complete;
                self.witness.ended.fault = metered.fault;
                self.witness.ended.metered = Some(Box::new(metered.clone()));
            }
            _ => {}
        }
    }
}

/// Tells the streams that have no end of their own when to end all the same.
pub(super) struct Watch {
    instance: Arc<Instance>,
    plan: Option<Arc<Plan>>,
}

impl Watch {
    /// For a stream that began under `plan`.
    pub(super) fn new(instance: Arc<Instance>, plan: Option<Arc<Plan>>) -> Self {
        Self { instance, plan }
    }

    /// Whether another plan is in force by now: servers and what the caller may see may be others.
    fn has_moved(&self) -> bool {
        let digest = |plan: &Option<Arc<Plan>>| plan.as_ref().map(|plan| plan.digest.clone());
        digest(&self.instance.plan()) != digest(&self.plan)
    }
}

/// What a body waited for.
enum Came<T> {
    Next(T),
    Silence,
    Closing,
}

/// The next thing that happens to a body: something comes, nothing comes for long, or, to one that carries news, the
/// host is going to stop.
///
/// Both are pinned by the caller: moved in, each would take its room twice.
async fn came<T>(
    next: Pin<&mut impl Future<Output = T>>,
    silence: Pin<&mut impl Future<Output = ()>>,
    watch: &Watch,
    news: bool,
) -> Came<T> {
    let next = select(next, silence);
    if !news {
        return match next.await {
            Either::Left((item, _)) => Came::Next(item),
            Either::Right(_) => Came::Silence,
        };
    }
    match select(next, pin!(watch.instance.closing())).await {
        Either::Left((Either::Left((item, _)), _)) => Came::Next(item),
        Either::Left((Either::Right(_), _)) => Came::Silence,
        Either::Right(_) => Came::Closing,
    }
}

/// The bytes of a body, with a comment on the stream whenever it has been silent for long.
pub(super) fn flow<P: Platform, F: Future<Output = (Answer<P>, Note)>, D: Future<Output = ()>>(
    platform: P,
    watch: Watch,
    source: Source<P, F>,
    keep_alive: Duration,
    witness: Witness<P>,
    driver: Beside<D>,
) -> impl Stream<Item = Result<Bytes, SeamError>> {
    let watch = Arc::new(watch);
    unfold(Flowing { source, driver, listening: None, witness }, move |mut flowing| {
        let (platform, watch) = (platform.clone(), watch.clone());
        async move {
            let Flowing { source, driver, listening, witness } = &mut flowing;
            let next = async {
                loop {
                    if matches!(source, Source::Listen(_))
                        && let Source::Listen(listen) = std::mem::replace(source, Source::Listening)
                    {
                        // Boxed: other bodies need not make room for it.
                        *listening = Some(Box::new(listen.start()));
                    }
                    let mut silence = pin!(platform.clock().sleep(keep_alive));
                    let comment = || Some(Ok(Bytes::from_static(b":\n")));
                    let item = match (&mut *source, &mut *listening) {
                        // Boxed: most answers come before the head.
                        (Source::Waiting(work), _) => match Box::pin(late(work, silence.as_mut())).await {
                            None => comment(),
                            Some((next, item, note, cancel)) => {
                                witness.ended.late = Some(Box::new((note, cancel)));
                                witness.ended.complete = item.is_some();
                                *source = next;
                                match item {
                                    Some(bytes) => Some(Ok(bytes)),
                                    None => continue,
                                }
                            }
                        },
                        // Boxed: the thousands of streams that wait for news need not make room for it.
                        (Source::Words(words), _) => {
                            match select(Box::pin(words.next()), silence.as_mut()).await {
                                Either::Left((item, _)) => item.map(Ok),
                                Either::Right(_) => comment(),
                            }
                        }
                        (Source::Relayed(stream), _) => {
                            let news = stream.news;
                            let next = if news && watch.has_moved() {
                                stream.leave().map(Ok)
                            } else {
                                let hands_over = stream.hands_over();
                                let came = {
                                    let mut next = pin!(stream.next());
                                    match came(next.as_mut(), silence.as_mut(), &watch, news).await {
                                        Came::Silence if hands_over() => Came::Next(next.await),
                                        came => came,
                                    }
                                };
                                match came {
                                    Came::Next(item) => item,
                                    Came::Silence if stream.may_comment() => comment(),
                                    Came::Silence => continue,
                                    Came::Closing => stream.leave().map(Ok),
                                }
                            };
                            witness.ended.complete = stream.answered;
                            witness.ended.fault = stream.fault;
                            witness.ended.resumable = stream.resumable;
                            next
                        }
                        (Source::Plain(body), _) => {
                            match came(pin!(body.next()), silence.as_mut(), &watch, true).await {
                                Came::Next(item) => {
                                    witness.ended.complete = item.is_none();
                                    item
                                }
                                Came::Silence => continue,
                                Came::Closing => {
                                    witness.ended.complete = true;
                                    None
                                }
                            }
                        }
                        (Source::Listening, Some(listening)) => {
                            let next = if watch.has_moved() {
                                listening.leave(true)
                            } else {
                                // Boxed: those who only hear what a session is told need not make room for it.
                                let came = {
                                    let mut next = Box::pin(listening.next());
                                    came(next.as_mut(), silence.as_mut(), &watch, true).await
                                };
                                match came {
                                    Came::Next(next) => next,
                                    Came::Silence => Some(Bytes::from_static(b":\n")),
                                    Came::Closing => listening.leave(false),
                                }
                            };
                            // A client that has heard enough goes away: that is no loss.
                            witness.ended.complete = listening.is_acknowledged();
                            next.map(Ok)
                        }
                        (Source::Listen(_) | Source::Listening | Source::Over, _) => return None,
                    };
                    if let Some(Ok(bytes)) = &item {
                        witness.ended.bytes += bytes.len() as u64;
                    }
                    return item;
                }
            };
            let item = beside(pin!(next), driver).await;
            item.map(|item| (item, flowing))
        }
    })
}

/// What an answer is that comes after the head had to go: where the rest comes from, the first of it, and what there is
/// to note.
type Late<P, F> = (Source<P, F>, Option<Bytes>, Note, Option<Cancel>);

/// Waits for an answer that comes after the head had to go, for as long as silence may be.
async fn late<P: Platform, F: Future<Output = (Answer<P>, Note)>>(
    work: &mut Pin<Box<F>>,
    silence: Pin<&mut impl Future<Output = ()>>,
) -> Option<Late<P, F>> {
    let Either::Left(((answer, mut note), _)) = select(work, silence).await else { return None };
    let (source, first, cancel) = arrived(answer, &mut note).await;
    Some((source, first, note, cancel))
}

/// Everything is an event now.
async fn arrived<P: Platform, F>(
    answer: Answer<P>,
    note: &mut Note,
) -> (Source<P, F>, Option<Bytes>, Option<Cancel>) {
    match answer {
        Answer::Json(_, body) | Answer::Opened(_, body) => (Source::Over, Some(event(body)), None),
        Answer::Empty(_) => (Source::Over, Some(Bytes::new()), None),
        Answer::Listen(listen) => (Source::Listen(listen), None, None),
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
