//! Bodies: the bytes of a JavaScript message as a stream, and a stream as the body of a response.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use causeway::platform::SeamError;
use futures_util::future::{Either, select};
use futures_util::{FutureExt, Stream, StreamExt};
use js_sys::Uint8Array;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{AbortController, AbortSignal, ReadableStreamDefaultReader};

use crate::glue::{self, Chunk, Message};
use crate::gone::Gone;

/// Bodies that say they are at most this long are taken in one piece: one wait and one crossing instead of two of each.
const ONE_PIECE: u64 = 64 * 1024;

/// Ends a running `fetch` when dropped, unless it was [finished](Exchange::finish).
pub(crate) struct Exchange(Option<AbortController>);

impl Exchange {
    /// An exchange that is about to begin, and the signal that ends it.
    pub(crate) fn begin() -> Result<(Self, AbortSignal), SeamError> {
        let controller = AbortController::new().map_err(|error| SeamError::Host(explain(&error)))?;
        let signal = controller.signal();
        Ok((Self(Some(controller)), signal))
    }

    pub(crate) fn finish(&mut self) {
        self.0 = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(controller) = self.0.take() {
            controller.abort();
        }
    }
}

/// The body of a request that came in, or of a response to one that went out.
///
/// Nothing is read before the first poll. Dropping it early cancels the rest, and the exchange it belongs to.
pub(crate) struct Chunks {
    from: From,
    exchange: Option<Exchange>,
}

enum From {
    /// Not asked for yet, and whether it may be taken in one piece.
    Message(Message, bool),
    Whole(JsFuture),
    Reader(ReadableStreamDefaultReader, Option<JsFuture>),
    End,
}

impl Chunks {
    /// The body of `message`, whose `content-length` is `length` if it tells.
    pub(crate) fn new(message: &JsValue, length: Option<u64>, exchange: Option<Exchange>) -> Self {
        let from = match length {
            Some(0) => From::End,
            length => From::Message(
                message.clone().unchecked_into(),
                length.is_some_and(|length| length <= ONE_PIECE),
            ),
        };
        let mut chunks = Self { from, exchange };
        if matches!(chunks.from, From::End) {
            chunks.end();
        }
        chunks
    }

    /// All of it.
    pub(crate) async fn whole(mut self) -> Result<Bytes, SeamError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole.freeze())
    }

    fn end(&mut self) {
        self.from = From::End;
        if let Some(exchange) = &mut self.exchange {
            exchange.finish();
        }
    }

    fn start(message: &Message, one_piece: bool) -> Result<From, JsValue> {
        if one_piece {
            return Ok(From::Whole(message.bytes()?.into()));
        }
        match message.body() {
            None => Ok(From::End),
            Some(stream) => Ok(From::Reader(ReadableStreamDefaultReader::new(&stream)?, None)),
        }
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let cut = |error: JsValue| Poll::Ready(Some(Err(SeamError::Cut(explain(&error)))));
        loop {
            match &mut self.from {
                From::End => return Poll::Ready(None),
                From::Message(message, one_piece) => match Self::start(message, *one_piece) {
                    Ok(From::End) => self.end(),
                    Ok(next) => self.from = next,
                    Err(error) => {
                        self.from = From::End;
                        return cut(error);
                    }
                },
                From::Whole(read) => {
                    let Poll::Ready(result) = read.poll_unpin(context) else { return Poll::Pending };
                    match result {
                        Ok(value) => {
                            self.end();
                            return match take(&value.unchecked_into()) {
                                bytes if bytes.is_empty() => Poll::Ready(None),
                                bytes => Poll::Ready(Some(Ok(bytes))),
                            };
                        }
                        Err(error) => {
                            self.from = From::End;
                            return cut(error);
                        }
                    }
                }
                From::Reader(reader, read) => {
                    let read = read.get_or_insert_with(|| reader.read().into());
                    let Poll::Ready(result) = read.poll_unpin(context) else { return Poll::Pending };
                    match result.map(JsCast::unchecked_into::<Chunk>) {
                        Ok(chunk) if chunk.done() => self.end(),
                        Ok(chunk) => {
                            let bytes = take(&chunk.value());
                            if let From::Reader(_, read) = &mut self.from {
                                *read = None;
                            }
                            if !bytes.is_empty() {
                                return Poll::Ready(Some(Ok(bytes)));
                            }
                        }
                        Err(error) => {
                            self.from = From::End;
                            return cut(error);
                        }
                    }
                }
            }
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if let From::Reader(reader, _) = &self.from {
            glue::drop_reader(reader);
        }
    }
}

fn take(array: &Uint8Array) -> Bytes {
    Bytes::from(array.to_vec())
}

/// `stream` as a JavaScript stream: pulled chunk by chunk, never ahead. It ends, too, when whoever asked has `gone`.
pub(crate) fn streamed<S>(stream: S, gone: Option<Gone>) -> JsValue
where
    S: Stream<Item = Result<Bytes, SeamError>> + Unpin + 'static,
{
    let outgoing = Outgoing(Rc::new(RefCell::new(Slot { stream: Some(stream), waker: None, watcher: None })));
    if let Some(gone) = gone {
        let watched = Outgoing(Rc::clone(&outgoing.0));
        spawn_local(async move {
            if let Either::Left(_) = select(gone, pin!(watched.over())).await {
                watched.end();
            }
        });
    }
    wasm_streams::ReadableStream::from_stream(Pulled(outgoing)).into_raw().into()
}

/// A body on its way to the caller. Two hold it: the JavaScript stream that pulls it, and whoever ends it when the
/// caller has gone.
struct Outgoing<S>(Rc<RefCell<Slot<S>>>);

struct Slot<S> {
    stream: Option<S>,
    waker: Option<Waker>,
    /// Who waits for its end.
    watcher: Option<Waker>,
}

impl<S> Slot<S> {
    fn over(&mut self) {
        self.stream = None;
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }
}

impl<S> Outgoing<S> {
    /// Drops the stream, wherever it is, and lets whoever waits for its next chunk see the end.
    fn end(&self) {
        let Ok(mut slot) = self.0.try_borrow_mut() else { return };
        let (stream, waker, watcher) = (slot.stream.take(), slot.waker.take(), slot.watcher.take());
        drop(slot);
        drop(stream);
        waker.into_iter().chain(watcher).for_each(Waker::wake);
    }

    /// Resolves when it has ended, one way or the other.
    async fn over(&self) {
        poll_fn(|context| {
            let Ok(mut slot) = self.0.try_borrow_mut() else { return Poll::Ready(()) };
            if slot.stream.is_none() {
                return Poll::Ready(());
            }
            slot.watcher = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The pulling side. When JavaScript lets go of it, the body ends.
struct Pulled<S>(Outgoing<S>);

impl<S: Stream<Item = Result<Bytes, SeamError>> + Unpin> Stream for Pulled<S> {
    type Item = Result<JsValue, JsValue>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Ok(mut slot) = self.0.0.try_borrow_mut() else { return Poll::Ready(None) };
        let Some(stream) = &mut slot.stream else { return Poll::Ready(None) };
        match stream.poll_next_unpin(context) {
            Poll::Pending => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(Ok(Uint8Array::from(bytes.as_ref()).into()))),
            Poll::Ready(Some(Err(error))) => {
                slot.over();
                Poll::Ready(Some(Err(js_sys::Error::new(&error.to_string()).into())))
            }
            Poll::Ready(None) => {
                // Dropped here and not with the JavaScript object, which goes whenever it is collected.
                slot.over();
                Poll::Ready(None)
            }
        }
    }
}

impl<S> Drop for Pulled<S> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What a JavaScript exception says.
pub(crate) fn explain(error: &JsValue) -> String {
    match error.dyn_ref::<js_sys::Error>() {
        Some(error) => String::from(error.message()),
        None => error.as_string().unwrap_or_else(|| "unknown error".to_owned()),
    }
}
