//! The owners of links among polled mailboxes: a request to one is a letter, and what is said to it is the response.
//!
//! As bytes, a request is a line of JSON with its head and then its body. A response is a line with its head, or with why
//! there is none, and then its body in pieces, each behind its length in four bytes. Behind the last one there is
//! [`COMPLETE`], or [`CUT`] and a line that says why: a response that ends without either has lost its end.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;
use futures_util::future::{Either, join, select};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use serde::{Deserialize, Serialize};

use crate::gateway::dock::{Docked, Told};
use crate::mcp::mailbox::Said;
use crate::mcp::tail::Log;
use crate::platform::{Platform, SeamError};
use crate::relay::through;
use crate::tunnel::pair;

/// What may wait to be read before no more is taken of a response.
const BACKLOG: usize = 256 * 1024;
/// A response's head may be this long.
const HEAD: usize = 256 * 1024;
/// In place of a length: the body has come to its end.
const COMPLETE: u32 = 0;
/// In place of a length: it never will.
const CUT: u32 = u32::MAX;

/// Whether a new owner can do anything with `request`: a companion says hello.
pub(super) fn founds(request: &Request<Bytes>) -> bool {
    let is = |name: &str, value: &str| request.headers().get(name).is_some_and(|own| own == value);
    is(through::ASK, through::PAIR) && !request.headers().contains_key(pair::SESSION)
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    method: String,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Why there is no response: which error, and its words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<(String, String)>,
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned);
    headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value).ok()?))).collect()
}

fn map(listed: Vec<(String, String)>) -> HeaderMap {
    let pair = |(name, value): (String, String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in listed.into_iter().filter_map(pair) {
        headers.append(name, value);
    }
    headers
}

fn line(head: &Head) -> Vec<u8> {
    let mut line = serde_json::to_vec(head).unwrap_or_default();
    line.push(b'\n');
    line
}

/// `request` as a letter.
pub(super) fn write(request: &Request<Bytes>) -> Bytes {
    let head = Head {
        method: request.method().as_str().to_owned(),
        status: 0,
        headers: listed(request.headers()),
        error: None,
    };
    // The path is in the URI; what else there is, the owner does not go by.
    let path = request.uri().to_string();
    let head = Head { headers: [vec![("uri".to_owned(), path)], head.headers].concat(), ..head };
    let mut letter = line(&head);
    letter.extend_from_slice(request.body());
    letter.into()
}

pub(super) fn read(letter: &Bytes) -> Option<Request<Bytes>> {
    let end = letter.iter().position(|byte| *byte == b'\n')?;
    let mut head: Head = serde_json::from_slice(letter.get(..end)?).ok()?;
    let (_, uri) = (!head.headers.is_empty()).then(|| head.headers.remove(0))?;
    let mut request = Request::new(letter.slice(end + 1..));
    *request.method_mut() = head.method.parse().ok()?;
    *request.uri_mut() = uri.parse().ok()?;
    *request.headers_mut() = map(head.headers);
    Some(request)
}

/// Looks after a dock once what is asked of it has `begun`.
pub(super) async fn tend<P: Platform>(docked: Docked<P>, begun: oneshot::Receiver<()>) {
    let _ = begun.await;
    let tending = docked.tend();
    // It need not keep its plan while others may come into force.
    drop(docked);
    if let Some(tending) = tending {
        tending.await;
    }
}

/// Answers `letter` at a dock: the response as it comes, and the work for it.
pub(super) fn answer<P: Platform>(
    docked: Docked<P>,
    letter: &Bytes,
) -> (Said, impl Future<Output = ()> + use<P>) {
    let log = Log::once();
    let said = log.tail(0).map_or(Said::nothing(), |tail| Said::Tail(false, tail));
    let request = read(letter);
    let work = async move {
        let Some(request) = request else { return log.end() };
        let (answer, begun) = docked.clone().begin(request);
        let answering = async {
            // Whoever asked may leave before there is anything to be said.
            if let Either::Left((answer, _)) = select(pin!(answer), pin!(log.unread())).await {
                say(&log, answer).await;
            }
            log.end();
        };
        join(answering, tend(docked, begun)).await;
    };
    (said, work)
}

async fn say<P: Platform>(log: &Log, answer: Result<Response<Told<P>>, SeamError>) {
    let mut response = match answer {
        Ok(response) => response,
        Err(error) => {
            return log.push(why(error));
        }
    };
    let head = Head {
        method: String::new(),
        status: response.status().as_u16(),
        headers: listed(response.headers()),
        error: None,
    };
    log.push(line(&head).into());
    let body = response.body_mut();
    loop {
        log.room(BACKLOG).await;
        let next = pin!(body.next());
        match select(next, pin!(log.unread())).await {
            Either::Left((Some(Ok(bytes)), _)) if bytes.is_empty() => {}
            Either::Left((Some(Ok(bytes)), _)) => {
                log.push(length(u32::try_from(bytes.len()).unwrap_or(CUT)));
                log.push(bytes);
            }
            Either::Left((None, _)) => return log.push(length(COMPLETE)),
            Either::Left((Some(Err(error)), _)) => {
                log.push(length(CUT));
                return log.push(why(error));
            }
            Either::Right(_) => return,
        }
    }
}

fn length(length: u32) -> Bytes {
    Bytes::copy_from_slice(&length.to_be_bytes())
}

/// The line that says why there is no response, or no more of it.
fn why(error: SeamError) -> Bytes {
    let (kind, text) = error.into_words();
    let error = Some((kind.to_owned(), text));
    line(&Head { method: String::new(), status: 0, headers: Vec::new(), error }).into()
}

/// What the owner of a link answers with.
pub enum Asked<P: Platform> {
    /// It is here.
    Here(Told<P>),
    /// It is elsewhere.
    There(Pieces),
}

impl<P: Platform> Unpin for Asked<P> {}

impl<P: Platform> Stream for Asked<P> {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Here(told) => Pin::new(told).poll_next(context),
            Self::There(pieces) => pieces.poll(context),
        }
    }
}

/// The body of a response that comes from elsewhere.
pub struct Pieces {
    said: Said,
    /// What has come and was not read.
    come: BytesMut,
    /// What is still to come of a piece.
    left: usize,
    cut: bool,
    over: bool,
}

impl Pieces {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, SeamError>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if self.cut {
                if let Some(end) = self.come.iter().position(|byte| *byte == b'\n') {
                    self.over = true;
                    return Poll::Ready(Some(Err(head(&self.come, end)
                        .and_then(told)
                        .err()
                        .unwrap_or_else(gone))));
                }
            } else if self.left > 0 {
                if !self.come.is_empty() {
                    let piece = self.come.split_to(self.left.min(self.come.len()));
                    self.left -= piece.len();
                    return Poll::Ready(Some(Ok(piece.freeze())));
                }
            } else if let Some((length, _)) = self.come.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length);
                _ = self.come.split_to(4);
                match length {
                    COMPLETE => self.over = true,
                    CUT => self.cut = true,
                    length => self.left = usize::try_from(length).unwrap_or(usize::MAX),
                }
                continue;
            }
            match std::task::ready!(Pin::new(&mut self.said).poll_next(context)) {
                Some(Ok(more)) if !self.cut || self.come.len() <= HEAD => self.come.extend_from_slice(&more),
                Some(Err(error)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(_)) | None => {
                    self.over = true;
                    return Poll::Ready(Some(Err(gone())));
                }
            }
        }
    }
}

fn gone() -> SeamError {
    SeamError::Cut("the instance that kept the link has gone; try again".to_owned())
}

/// The head that ends at `end`.
fn head(come: &[u8], end: usize) -> Result<Head, SeamError> {
    let head = come.get(..end).and_then(|line| serde_json::from_slice::<Head>(line).ok());
    head.ok_or_else(|| SeamError::Host("the link's answer cannot be read".to_owned()))
}

/// The head of a response, unless it says why there is none.
fn told(mut head: Head) -> Result<Head, SeamError> {
    match head.error.take() {
        Some((kind, text)) => Err(SeamError::from_words(&kind, text)),
        None => Ok(head),
    }
}

/// The response that `said` is.
pub(super) async fn response<P: Platform>(mut said: Said) -> Result<Response<Asked<P>>, SeamError> {
    let mut come = BytesMut::new();
    loop {
        if let Some(end) = come.iter().position(|byte| *byte == b'\n') {
            let rest = come.split_off(end + 1);
            let head = told(head(&come, end)?)?;
            let pieces = Pieces { said, come: rest, left: 0, cut: false, over: false };
            let mut response = Response::new(Asked::There(pieces));
            *response.status_mut() = head.status.try_into().unwrap_or_default();
            *response.headers_mut() = map(head.headers);
            return Ok(response);
        }
        let next = said.next().await.transpose()?.filter(|_| come.len() <= HEAD);
        come.extend_from_slice(&next.ok_or_else(gone)?);
    }
}
