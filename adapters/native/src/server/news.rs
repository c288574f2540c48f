//! Streams that carry news and have no end of their own, over a connection that is theirs alone.
//!
//! hyper writes the head of such an answer and is then relieved of the connection, which costs next to nothing while
//! nothing comes. The connection ends with the stream, as its head says.
//!
//! It **never** reads a request: what a client sends behind the one that the stream answers is thrown away.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use causeway::platform::SeamError;
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

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
pub(super) async fn carry(mut stream: TcpStream, mut news: News) {
    let (mut reading, mut writing) = stream.split();
    let mut gone = pin!(gone(&mut reading));
    loop {
        let chunk = match select(news.next(), gone.as_mut()).await {
            Either::Left((Some(Ok(bytes)), _)) => chunk(&bytes),
            Either::Left((None, _)) => {
                _ = writing.write_all(b"0\r\n\r\n").await;
                return;
            }
            // What was cut must not look whole.
            Either::Left((Some(Err(_)), _)) | Either::Right(_) => return,
        };
        match select(pin!(writing.write_all(&chunk)), gone.as_mut()).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_), _)) | Either::Right(_) => return,
        }
    }
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

/// Resolves when the client has gone.
async fn gone(reading: &mut ReadHalf<'_>) {
    while reading.readable().await.is_ok() {
        let mut thrown_away = [0; 512];
        match reading.try_read(&mut thrown_away) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
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
