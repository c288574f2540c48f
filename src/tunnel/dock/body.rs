//! An exchange as its asker sees it: the head of the answer, then its body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use super::super::link::{Input, StreamId};
use super::super::{Reset, ResetCode};
use super::{Dock, error};
use crate::platform::{Clock, SeamError};
use crate::relay::through::OWN;

/// Resolves with the head of an answer. Dropping it cancels the exchange.
#[derive(Debug)]
pub struct Answering<C: Clock>(Option<Body<C>>);

/// The body of an answer, pulled: what is not read is not sent. Dropping it cancels the rest.
#[derive(Debug)]
pub struct Body<C: Clock> {
    dock: Arc<Dock>,
    clock: C,
    stream: StreamId,
}

impl<C: Clock> Answering<C> {
    pub(super) fn new(dock: Arc<Dock>, clock: C, stream: StreamId) -> Self {
        Self(Some(Body { dock, clock, stream }))
    }
}

impl<C: Clock + Unpin> Future for Answering<C> {
    type Output = Result<http::Response<Body<C>>, SeamError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gone = || SeamError::Cut("the exchange is over".to_owned());
        let Some(body) = self.0.take() else { return Poll::Ready(Err(gone())) };
        let head = {
            let mut inner = body.dock.lock();
            let Some(exchange) = inner.exchanges.get_mut(&body.stream) else {
                return Poll::Ready(Err(gone()));
            };
            match (exchange.head.take(), &mut exchange.end) {
                (Some(head), _) => Ok(head),
                (None, Some(end)) => {
                    let end = std::mem::replace(end, Ok(()));
                    Err(end.err().map_or_else(gone, error))
                }
                (None, None) => {
                    exchange.waker = Some(context.waker().clone());
                    drop(inner);
                    self.0 = Some(body);
                    return Poll::Pending;
                }
            }
        };
        Poll::Ready(head.map(|head| {
            let mut response = http::Response::new(body);
            let headers = head.headers.to_map();
            let headers = headers.into_iter().filter_map(|(name, value)| name.map(|name| (name, value)));
            // Whatever a companion sends, it speaks for nobody but its servers.
            response.headers_mut().extend(headers.filter(|(name, _)| !name.as_str().starts_with(OWN)));
            *response.status_mut() =
                http::StatusCode::from_u16(head.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
            response
        }))
    }
}

impl<C: Clock + Unpin> Stream for Body<C> {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (now, stream) = (self.clock.now(), self.stream);
        self.dock.with(|inner, wakers| {
            let Some(exchange) = inner.exchanges.get_mut(&stream) else { return Poll::Ready(None) };
            if let Some(piece) = exchange.pieces.pop_front() {
                inner.feed(now, Input::Read(stream, piece.len()), wakers);
                return Poll::Ready(Some(Ok(piece)));
            }
            match exchange.end.take() {
                None => {
                    exchange.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                Some(end) => {
                    inner.exchanges.remove(&stream);
                    Poll::Ready(end.err().map(|reset| Err(error(reset))))
                }
            }
        })
    }
}

impl<C: Clock> Drop for Body<C> {
    fn drop(&mut self) {
        let (now, stream) = (self.clock.now(), self.stream);
        self.dock.with(|inner, wakers| {
            if let Some(exchange) = inner.exchanges.remove(&stream)
                && exchange.end.is_none()
            {
                let reset = Reset::new(ResetCode::Cancelled, "whoever asked has gone");
                inner.feed(now, Input::Reset(stream, reset), wakers);
            }
        });
    }
}
