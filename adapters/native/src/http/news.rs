//! A stream of news from a server, over a connection that is its alone.
//!
//! hyper keeps 24 KiB of buffers and queues for each connection. A session of a client with a legacy server has a
//! stream there that may be silent for hours, and there may be thousands of them: over plain HTTP they are read here,
//! without any buffer while nothing comes. It is HTTP/1.1 (RFC 9112) as far as one exchange needs it: the connection
//! is **never** used again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use causeway::platform::SeamError;
use futures_util::Stream;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// The head of an answer is no larger than this.
const HEAD: usize = 64 * 1024;
/// Nor has it more headers.
const HEADERS: usize = 100;
/// What is read at a time.
const READ: usize = 8 * 1024;
/// What a chunk may say besides its size, and all trailers together.
const ASIDE: usize = 16 * 1024;

/// Sends `request` over `stream`; gives the answer's head and what follows it.
pub(super) async fn exchange(
    mut stream: TcpStream,
    request: Request<Bytes>,
) -> Result<Response<News>, SeamError> {
    let cut = |error: io::Error| SeamError::Cut(error.to_string());
    stream.write_all(&written(&request)).await.map_err(cut)?;
    let mut read = BytesMut::new();
    loop {
        if let Some((mut head, length)) = parsed(&read)? {
            read.advance(length);
            // What comes before the answer is of no use here (RFC 9110 section 15.2).
            if head.status().is_informational() && head.status() != StatusCode::SWITCHING_PROTOCOLS {
                continue;
            }
            let framing = Framing::of(head.status(), head.headers())?;
            let extensions = std::mem::take(head.extensions_mut());
            let mut response = head.map(|()| News { stream, read: Bytes::copy_from_slice(&read), framing });
            *response.extensions_mut() = extensions;
            return Ok(response);
        }
        if read.len() > HEAD {
            return Err(SeamError::Cut(format!("the head of the answer is larger than {HEAD} bytes")));
        }
        if more(&mut stream, &mut read).await.map_err(cut)? == 0 {
            return Err(SeamError::Cut("the connection ended before the answer".to_owned()));
        }
    }
}

async fn more(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<usize> {
    use tokio::io::AsyncReadExt as _;
    read.reserve(READ);
    stream.read_buf(read).await
}

/// `request` as it goes over the wire.
fn written(request: &Request<Bytes>) -> BytesMut {
    let (uri, body) = (request.uri(), request.body());
    let mut out = BytesMut::with_capacity(512 + body.len());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    out.put_slice(format!("{} {target} HTTP/1.1\r\n", request.method()).as_bytes());
    if !request.headers().contains_key(HOST) {
        let port = uri.port_u16().filter(|port| *port != 80).map(|port| format!(":{port}"));
        let host = format!("host: {}{}\r\n", uri.host().unwrap_or_default(), port.unwrap_or_default());
        out.put_slice(host.as_bytes());
    }
    for (name, value) in request.headers() {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    if !body.is_empty() {
        out.put_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    out.put_slice(b"connection: close\r\n\r\n");
    out.put_slice(body);
    out
}

/// The head at the beginning of `read` and how long it is, if it is there as a whole.
fn parsed(read: &[u8]) -> Result<Option<(Response<()>, usize)>, SeamError> {
    let unreadable = |why: String| SeamError::Cut(format!("the head of the answer cannot be read: {why}"));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(read) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(head.code.unwrap_or_default()).map_err(|error| unreadable(error.to_string()))?;
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        match (name, value) {
            (Ok(name), Ok(value)) => response.headers_mut().append(name, value),
            _ => return Err(unreadable("a header that is none".to_owned())),
        };
    }
    Ok(Some((response, length)))
}

/// How the end of a body is told (RFC 9112 section 6.3).
#[derive(Debug)]
enum Framing {
    /// By its length: so much is left.
    Length(u64),
    /// It comes in chunks.
    Chunked(Chunks),
    /// By the end of the connection.
    Close,
}

impl Framing {
    fn of(status: StatusCode, headers: &HeaderMap) -> Result<Self, SeamError> {
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Self::Length(0));
        }
        if let Some(last) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
            let last = last.to_str().unwrap_or_default().rsplit(',').next().unwrap_or_default().trim();
            let chunked = last.eq_ignore_ascii_case("chunked");
            return Ok(if chunked { Self::Chunked(Chunks::SIZE) } else { Self::Close });
        }
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let Some(length) = lengths.next() else { return Ok(Self::Close) };
        let same = lengths.all(|other| other == length);
        let digits = length.to_str().ok().filter(|text| same && text.bytes().all(|b| b.is_ascii_digit()));
        let length = digits.and_then(|text| text.parse().ok());
        length.map(Self::Length).ok_or_else(|| SeamError::Cut("the answer's length is no number".to_owned()))
    }

    /// What of `read` belongs to the body; `None` when more has to be read.
    fn next(&mut self, read: &mut Bytes) -> Result<Option<Part>, SeamError> {
        match self {
            Self::Length(0) => Ok(Some(Part::End)),
            Self::Chunked(chunks) => chunks.next(read),
            _ if read.is_empty() => Ok(None),
            Self::Close => Ok(Some(Part::Data(std::mem::take(read)))),
            Self::Length(left) => Ok(Some(Part::Data(up_to(left, read)))),
        }
    }

    /// Whether the connection may end here.
    fn may_end(&self) -> bool {
        matches!(self, Self::Close)
    }
}

fn up_to(left: &mut u64, read: &mut Bytes) -> Bytes {
    let part = read.split_to(usize::try_from(*left).unwrap_or(usize::MAX).min(read.len()));
    *left -= part.len() as u64;
    part
}

#[derive(Debug, PartialEq)]
enum Part {
    Data(Bytes),
    End,
}

/// Where in a chunked body one is (RFC 9112 section 7.1).
#[derive(Debug, Clone, Copy)]
enum Chunks {
    /// In the line that says how long the next chunk is: how long that is as far as it has been read, how many digits
    /// there were, and how many bytes behind them.
    Size(u64, usize, usize),
    /// In a chunk, of which so much is left.
    Data(u64),
    /// In the end of a line behind a chunk.
    Behind,
    /// In the trailers: how many bytes of this line there were, and of all.
    Trailer(usize, usize),
    /// Behind everything.
    Over,
}

impl Chunks {
    const SIZE: Self = Self::Size(0, 0, 0);

    fn next(&mut self, read: &mut Bytes) -> Result<Option<Part>, SeamError> {
        let broken = || SeamError::Cut("the answer's chunks are broken".to_owned());
        loop {
            match self {
                Self::Over => return Ok(Some(Part::End)),
                Self::Data(0) => *self = Self::Behind,
                _ if read.is_empty() => return Ok(None),
                Self::Data(left) => return Ok(Some(Part::Data(up_to(left, read)))),
                Self::Size(size, digits, aside) => match read.get_u8() {
                    b'\n' if *digits == 0 => return Err(broken()),
                    b'\n' if *size == 0 => *self = Self::Trailer(0, 0),
                    b'\n' => *self = Self::Data(*size),
                    byte => match char::from(byte).to_digit(16).filter(|_| *aside == 0) {
                        Some(_) if *digits == 15 => return Err(broken()),
                        Some(digit) => (*size, *digits) = (*size << 4 | u64::from(digit), *digits + 1),
                        // An extension, or the end of the line.
                        None if *digits == 0 || *aside == ASIDE => return Err(broken()),
                        None => *aside += 1,
                    },
                },
                Self::Behind => match read.get_u8() {
                    b'\r' => {}
                    b'\n' => *self = Self::SIZE,
                    _ => return Err(broken()),
                },
                Self::Trailer(line, all) => match read.get_u8() {
                    b'\n' if *line == 0 => *self = Self::Over,
                    b'\n' => *line = 0,
                    b'\r' => {}
                    _ if *all == ASIDE => return Err(broken()),
                    _ => (*line, *all) = (*line + 1, *all + 1),
                },
            }
        }
    }
}

/// What a server says, as it says it. Dropping it closes the connection.
#[derive(Debug)]
pub struct News {
    stream: TcpStream,
    /// What was read and not yet made sense of.
    read: Bytes,
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
                None => *read = Bytes::new(),
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
                more => *read = Bytes::copy_from_slice(more),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `framing` makes of `parts`: the data, and whether the end was told, more is wanted or it is broken.
    fn read(framing: &mut Framing, parts: &[&[u8]]) -> (Vec<u8>, &'static str) {
        let mut data = Vec::new();
        for part in parts {
            let mut read = Bytes::copy_from_slice(part);
            loop {
                match framing.next(&mut read) {
                    Ok(Some(Part::Data(more))) => data.extend_from_slice(&more),
                    Ok(Some(Part::End)) => return (data, "end"),
                    Ok(None) => break,
                    Err(_) => return (data, "broken"),
                }
            }
        }
        (data, "more")
    }

    /// The same for every way to cut `input` in two.
    fn check(framing: fn() -> Framing, input: &str, data: &str, then: &str) {
        for cut in 0..=input.len() {
            let (one, other) = input.as_bytes().split_at(cut);
            let (got, how) = read(&mut framing(), &[one, other]);
            assert_eq!((String::from_utf8_lossy(&got).as_ref(), how), (data, then), "{input:?} at {cut}");
        }
    }

    #[test]
    fn chunks_are_put_together_wherever_they_are_cut() {
        let chunked = || Framing::Chunked(Chunks::SIZE);
        check(chunked, "3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n", "abc0123456789", "end");
        check(chunked, "1\na\n0\nx: y\nz: 1\n\n", "a", "end");
        check(chunked, "0\r\nx: y\r\n\r\nrest", "", "end");
        check(chunked, "5\r\nabc", "abc", "more");
        check(chunked, "3\r\nabc\r\n0\r\n", "abc", "more");
        check(chunked, "3\r\nabcd", "abc", "broken");
        check(chunked, "\r\n", "", "broken");
        check(chunked, "x\r\n", "", "broken");
        check(chunked, "-1\r\n", "", "broken");
        check(chunked, "ffffffffffffffff\r\n", "", "broken");
        let aside = format!("1;{}", "x".repeat(ASIDE + 1));
        assert_eq!(read(&mut chunked(), &[aside.as_bytes()]).1, "broken");
        let trailers = format!("0\r\n{}", "x: y\r\n".repeat(ASIDE));
        assert_eq!(read(&mut chunked(), &[trailers.as_bytes()]).1, "broken");
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        let of = |headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            Framing::of(StatusCode::OK, &map).map(|framing| format!("{framing:?}")).map_err(drop)
        };
        assert_eq!(of(&[]), Ok("Close".to_owned()));
        assert_eq!(of(&[("content-length", "12")]), Ok("Length(12)".to_owned()));
        assert_eq!(of(&[("content-length", "12"), ("content-length", "12")]), Ok("Length(12)".to_owned()));
        assert_eq!(of(&[("content-length", "12"), ("content-length", "13")]), Err(()));
        assert_eq!(of(&[("content-length", "+12")]), Err(()));
        let chunked = Ok("Chunked(Size(0, 0, 0))".to_owned());
        assert_eq!(of(&[("transfer-encoding", "gzip, Chunked"), ("content-length", "1")]), chunked);
        assert_eq!(of(&[("transfer-encoding", "chunked, gzip")]), Ok("Close".to_owned()));
        check(|| Framing::Length(3), "abcd", "abc", "end");
        check(|| Framing::Length(3), "ab", "ab", "more");
        check(|| Framing::Close, "ab", "ab", "more");
    }

    #[test]
    fn requests_are_written_as_http_wants_them() {
        let written = |request: Request<Bytes>| String::from_utf8(written(&request).to_vec());
        let get = Request::get("http://user:pw@a.example:8080/mcp?x=1").header("accept", "text/event-stream");
        assert_eq!(
            written(get.body(Bytes::new()).unwrap_or_default()).as_deref(),
            Ok(
                "GET /mcp?x=1 HTTP/1.1\r\nhost: a.example:8080\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n"
            )
        );
        let post = Request::post("http://[::1]").header("host", "other").body(Bytes::from_static(b"{}"));
        assert_eq!(
            written(post.unwrap_or_default()).as_deref(),
            Ok("POST / HTTP/1.1\r\nhost: other\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        );
    }

    #[test]
    fn heads_are_read_whole_or_not_at_all() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nrest";
        assert!(parsed(&head.as_bytes()[..40]).is_ok_and(|head| head.is_none()));
        let (response, length) = parsed(head.as_bytes()).ok().flatten().unwrap_or_default();
        assert_eq!((response.headers().len(), &head[length..]), (1, "rest"));
        assert!(parsed(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parsed(b"HTTP/1.1 099 No\r\n\r\n").is_err());
    }
}
