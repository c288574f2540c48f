//! Streams that carry news and have no end of their own, over a connection that is theirs alone.
//!
//! hyper writes the head of such an answer and is then relieved of the connection, which costs next to nothing while
//! nothing comes. The connection ends with the stream, as its head says.
//!
//! It **never** reads a request: what a client sends behind the one that the stream answers is thrown away.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use causeway::platform::SeamError;
use futures_util::{Stream, StreamExt as _};
use tokio::net::TcpStream;

/// What is said, as it is said.
pub(super) type News = Pin<Box<dyn Stream<Item = Result<Bytes, SeamError>> + Send>>;

/// Where a connection's stream of news is put when hyper begins to ask for it, which is when the head is written.
#[derive(Clone, Default)]
pub(super) struct Handover(Arc<Mutex<Option<News>>>);

impl Handover {
    pub(super) fn give(&self, news: News) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(news);
    }

    pub(super) fn is_given(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take(&self) -> Option<News> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Writes `news` to `stream`, in chunks (RFC 9112 section 7.1), until it ends or the client has gone.
pub(super) fn carry(stream: TcpStream, mut news: News) -> impl Future<Output = ()> {
    let mut left = BytesMut::new();
    let mut ended = false;
    // By hand: it is what there are thousands of, and has no room to lose.
    poll_fn(move |cx| {
        loop {
            if has_gone(&stream, cx) {
                return Poll::Ready(());
            }
            if !left.is_empty() {
                match ready!(stream.poll_write_ready(cx)).and_then(|()| stream.try_write(&left)) {
                    Ok(written) => left.advance(written),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(()),
                }
            } else if ended {
                return Poll::Ready(());
            } else {
                left = match ready!(news.poll_next_unpin(cx)) {
                    Some(Ok(bytes)) => chunk(&bytes),
                    // What was cut must not look whole.
                    Some(Err(_)) => return Poll::Ready(()),
                    None => {
                        ended = true;
                        b"0\r\n\r\n"[..].into()
                    }
                };
            }
        }
    })
}

fn chunk(bytes: &Bytes) -> BytesMut {
    let mut chunk = BytesMut::with_capacity(bytes.len() + 20);
    // An empty chunk would be the end.
    if !bytes.is_empty() {
        chunk.put_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        chunk.put_slice(bytes);
        chunk.put_slice(b"\r\n");
    }
    chunk
}

/// Whether the client has gone. Whoever asks is woken when it goes.
fn has_gone(stream: &TcpStream, cx: &mut Context<'_>) -> bool {
    while let Poll::Ready(ready) = stream.poll_read_ready(cx) {
        let mut thrown_away = [0; 512];
        match ready.and_then(|()| stream.try_read(&mut thrown_away)) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_says_how_long_it_is_and_is_never_the_last() {
        assert_eq!(chunk(&Bytes::from_static(b":\n")).as_ref(), b"2\r\n:\n\r\n");
        assert_eq!(chunk(&Bytes::from(vec![b'x'; 300])).get(..5), Some(&b"12c\r\n"[..]));
        assert!(chunk(&Bytes::new()).is_empty());
    }
}
