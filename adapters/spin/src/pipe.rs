//! Bytes from the task that has them to whoever reads, who may be another task, or change.
//!
//! What the host does for a task ends with that task, and no other may wait for it. So the task that began an exchange
//! reads it to its end, a chunk ahead of its reader and no more, and hears when that one has gone.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use causeway::platform::SeamError;
use futures_util::Stream;

#[derive(Default)]
struct Shared {
    chunk: Option<Result<Bytes, SeamError>>,
    ended: bool,
    gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// The reading side: chunks as they come. Dropping it ends the exchange.
pub(crate) struct Reader(Rc<RefCell<Shared>>);

/// The writing side. Dropping it is the end.
pub(crate) struct Writer(Rc<RefCell<Shared>>);

/// Both sides.
pub(crate) fn pipe() -> (Writer, Reader) {
    let shared = Rc::<RefCell<Shared>>::default();
    (Writer(shared.clone()), Reader(shared))
}

impl Writer {
    /// Resolves when there is nothing to be read; `false` when nobody reads.
    pub(crate) async fn room(&self) -> bool {
        poll_fn(|context| {
            let mut shared = self.0.borrow_mut();
            if shared.gone {
                return Poll::Ready(false);
            }
            if shared.chunk.is_none() {
                return Poll::Ready(true);
            }
            shared.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Resolves when nobody reads.
    pub(crate) async fn gone(&self) {
        poll_fn(|context| {
            let mut shared = self.0.borrow_mut();
            if shared.gone {
                return Poll::Ready(());
            }
            shared.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Puts a chunk in. There must be room.
    pub(crate) fn put(&self, chunk: Result<Bytes, SeamError>) {
        let mut shared = self.0.borrow_mut();
        shared.chunk = Some(chunk);
        shared.wake_reader();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.ended = true;
        shared.wake_reader();
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = self.0.borrow_mut();
        match shared.chunk.take() {
            Some(chunk) => {
                shared.wake_writer();
                Poll::Ready(Some(chunk))
            }
            None if shared.ended => Poll::Ready(None),
            None => {
                shared.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.gone = true;
        shared.wake_writer();
    }
}
