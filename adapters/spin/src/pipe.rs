//! Bytes from the task that has them to whoever reads, who may be another task, or change.
//!
//! What the host does for a task ends with that task, and no other may wait for it. So the task that began an exchange
//! reads it to its end, a chunk ahead of its reader and no more, and hears when that one has gone.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use causeway::platform::SeamError;
use futures_channel::{mpsc, oneshot};
use futures_util::Stream;

type Chunk = Result<Bytes, SeamError>;

/// The reading side: chunks as they come. Dropping it ends the exchange.
pub(crate) struct Reader {
    chunks: mpsc::Receiver<Chunk>,
    _reads: oneshot::Receiver<()>,
}

/// The writing side. Dropping it is the end.
pub(crate) struct Writer {
    chunks: mpsc::Sender<Chunk>,
    read: oneshot::Sender<()>,
}

/// Both sides.
pub(crate) fn pipe() -> (Writer, Reader) {
    let ((sender, chunks), (read, reads)) = (mpsc::channel(0), oneshot::channel());
    (Writer { chunks: sender, read }, Reader { chunks, _reads: reads })
}

impl Writer {
    /// Resolves when there is nothing to be read; `false` when nobody reads.
    pub(crate) async fn room(&mut self) -> bool {
        poll_fn(|context| self.chunks.poll_ready(context)).await.is_ok()
    }

    /// Resolves when nobody reads.
    pub(crate) async fn gone(&mut self) {
        self.read.cancellation().await;
    }

    /// Puts a chunk in. There must be room.
    pub(crate) fn put(&mut self, chunk: Chunk) {
        // Whoever was to read it may have gone.
        let _ = self.chunks.start_send(chunk);
    }
}

impl Stream for Reader {
    type Item = Chunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Pin::new(&mut self.chunks).poll_next(context)
    }
}
