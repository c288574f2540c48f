//! A caller's connection, as the HTTP machinery has it, and how it is taken back.
//!
//! hyper keeps 24 KiB of buffers for each connection, and the future of a request with all its branches, for as long
//! as an answer goes on. For a stream that says something every few minutes that is more than all the rest, so such a
//! stream is given the bare connection once its head is written: see [`super::news`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that two can hold: whoever speaks HTTP over it, and whoever may take it away. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Socket(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// `None` once it was taken.
    stream: Option<TcpStream>,
    /// Everything that was to be written is.
    flushed: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream: Some(stream), flushed: true })))
    }

    /// Takes the connection, unless something is still being written. Whoever has the other half must not use it again.
    pub(super) fn take(&self) -> Option<TcpStream> {
        let mut inner = self.inner();
        if inner.flushed { inner.stream.take() } else { None }
    }

    // Never contended: both halves are polled by one task.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        io: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
        flushed: bool,
    ) -> Poll<io::Result<T>> {
        let mut inner = self.inner();
        inner.flushed = flushed;
        match &mut inner.stream {
            Some(stream) => io(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner().stream {
            Some(stream) => Pin::new(stream).poll_read(cx, buffer),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes), false)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, parts), false)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    // Called when there is nothing left to be written.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx), true)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx), true)
    }
}
