//! A stream of news from a server, over a connection that is its alone.
//!
//! A session of a client with a legacy server has a stream there that may be silent for hours, and there may be
//! thousands of them: over plain HTTP they are read here, without any buffer while nothing comes. The connection is
//! **never** used again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use causeway::platform::SeamError;
use futures_util::Stream;
use http::{Request, Response};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::codec::{Framing, Head, Part, take_head, written};

/// What is read at a time.
const READ: usize = 8 * 1024;

/// Sends `request` over `stream`; gives the answer's head and what follows it.
pub(super) async fn exchange(
    mut stream: TcpStream,
    request: Request<Bytes>,
) -> Result<Response<News>, SeamError> {
    let cut = |error: io::Error| SeamError::Cut(error.to_string());
    let mut said = written(&request, true, request.body().len());
    said.extend_from_slice(request.body());
    stream.write_all(&said).await.map_err(cut)?;
    drop(said);
    let (mut read, mut seen) = (BytesMut::new(), 0);
    loop {
        if let Some(Head { response, framing, .. }) = take_head(&mut read, seen, request.method())? {
            // Without the room that is left in it.
            let read = BytesMut::from(&read[..]);
            return Ok(response.map(|()| News { stream, read, framing }));
        }
        seen = read.len();
        read.reserve(READ);
        if stream.read_buf(&mut read).await.map_err(cut)? == 0 {
            return Err(SeamError::Cut("the connection ended before the answer".to_owned()));
        }
    }
}

/// What a server says, as it says it. Dropping it closes the connection.
#[derive(Debug)]
pub struct News {
    stream: TcpStream,
    /// What was read and not yet made sense of.
    read: BytesMut,
    framing: Framing,
}

impl Stream for News {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = ready!(this.poll_part(cx));
        if next.is_err() {
            // Nothing comes behind an error.
            this.framing = Framing::Length(0);
        }
        Poll::Ready(next.transpose())
    }
}

impl News {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, SeamError>> {
        let Self { stream, read, framing } = self;
        loop {
            match framing.next(read)? {
                Some(Part::Data(data)) => return Poll::Ready(Ok(Some(data))),
                Some(Part::End) => return Poll::Ready(Ok(None)),
                None => *read = BytesMut::new(),
            }
            let mut room = [0; READ];
            let mut room = ReadBuf::new(&mut room);
            let more = ready!(Pin::new(&mut *stream).poll_read(cx, &mut room));
            more.map_err(|error| SeamError::Cut(error.to_string()))?;
            match room.filled() {
                [] if framing.may_end() => return Poll::Ready(Ok(None)),
                [] => {
                    let why = "the connection ended before the answer did";
                    return Poll::Ready(Err(SeamError::Cut(why.to_owned())));
                }
                more => *read = BytesMut::from(more),
            }
        }
    }
}
