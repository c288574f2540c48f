//! HTTP/1.1 (RFC 9112) as bytes: requests as they are written, answers as they are read.
//!
//! Nothing here reads or writes a socket. What a hostile server sends is bounded: the size of a head, the number of its
//! headers, what stands beside the chunks of a body.

use std::fmt::Write as _;
use std::mem::MaybeUninit;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use causeway::platform::SeamError;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};

/// The head of an answer is no larger than this.
pub(super) const HEAD: usize = 64 * 1024;
/// Nor has it more headers.
const HEADERS: usize = 100;
/// What a chunk may say besides its size, and all trailers together.
const ASIDE: usize = 16 * 1024;

/// The head of `request` as it goes over the wire, with room for `more` bytes behind it. The connection is used again
/// afterwards, unless it is to be the request's alone (`alone`).
pub(super) fn written(request: &Request<Bytes>, alone: bool, more: usize) -> BytesMut {
    let (uri, method, body) = (request.uri(), request.method(), request.body());
    let mut out = BytesMut::with_capacity(640 + more);
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
    if !request.headers().contains_key(HOST) {
        let host = uri.host().unwrap_or_default();
        // Writing into memory that grows cannot fail.
        _ = match uri.port_u16().filter(|port| *port != 80) {
            Some(port) => write!(out, "host: {host}:{port}\r\n"),
            None => write!(out, "host: {host}\r\n"),
        };
    }
    for (name, value) in request.headers() {
        // How the message is framed is told below.
        if matches!(*name, CONNECTION | CONTENT_LENGTH | TRANSFER_ENCODING) {
            continue;
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.put_slice(part);
        }
    }
    // RFC 9110 section 8.6: a method that gives content a meaning says also that there is none.
    if !body.is_empty() || matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        _ = write!(out, "content-length: {}\r\n", body.len());
    }
    out.put_slice(if alone { b"connection: close\r\n\r\n" } else { b"\r\n" });
    out
}

/// The head of an answer.
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The connection may be used again when the body has been read.
    pub(super) lasting: bool,
}

/// Takes the head of the answer to a request with `method` from the beginning of `read`, of which `seen` bytes were
/// there before, if it is there as a whole. Answers that are none are passed over.
pub(super) fn take_head(
    read: &mut BytesMut,
    seen: usize,
    method: &Method,
) -> Result<Option<Head>, SeamError> {
    let mut seen = seen;
    loop {
        let blank = read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        read.advance(blank);
        // What comes in small pieces must not be read from its beginning with each of them.
        let Some(end) = end_of_head(read, seen.saturating_sub(blank + 3)) else {
            return match read.len() {
                0..=HEAD => Ok(None),
                _ => Err(SeamError::Cut(format!("the head of the answer is larger than {HEAD} bytes"))),
            };
        };
        let response = parsed(&read.split_to(end).freeze())?;
        let status = response.status();
        // RFC 9110 section 15.2.
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            seen = 0;
            continue;
        }
        let framing = match *method {
            Method::HEAD => Framing::Length(0),
            _ => Framing::of(status, response.headers())?,
        };
        let lasting = response.version() == Version::HTTP_11
            && status != StatusCode::SWITCHING_PROTOCOLS
            && !closes(response.headers())
            && !framing.may_end();
        return Ok(Some(Head { response, framing, lasting }));
    }
}

/// Where the empty line behind a head ends, if it stands in `read` from `from` on.
fn end_of_head(read: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += read.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match read.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// Whether an answer is the last on its connection (RFC 9112 section 9.6), or tells its length in two ways, which is as
/// good as telling none (section 6.3).
fn closes(headers: &HeaderMap) -> bool {
    let tokens = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    tokens.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("close"))
        || headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH)
}

/// Reads a head, which is there as a whole.
fn parsed(bytes: &Bytes) -> Result<Response<()>, SeamError> {
    let unreadable = |why: &str| SeamError::Cut(format!("the head of the answer cannot be read: {why}"));
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut head = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut head, bytes, &mut headers) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(unreadable("it ends too early")),
        Err(error) => return Err(unreadable(&error.to_string())),
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.code.unwrap_or_default())
        .map_err(|_| unreadable("a status that is none"))?;
    if head.version == Some(0) {
        *response.version_mut() = Version::HTTP_10;
    }
    let all = response.headers_mut();
    all.reserve(head.headers.len());
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(header.value));
        match (name, value) {
            (Ok(name), Ok(value)) => all.append(name, value),
            _ => return Err(unreadable("a header that is none")),
        };
    }
    Ok(response)
}

/// How the end of a body is told (RFC 9112 section 6.3).
#[derive(Debug)]
pub(super) enum Framing {
    /// By its length: so much is left.
    Length(u64),
    /// It comes in chunks.
    Chunked(Chunks),
    /// By the end of the connection.
    Close,
}

impl Framing {
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Result<Self, SeamError> {
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
    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Part>, SeamError> {
        match self {
            Self::Length(0) => Ok(Some(Part::End)),
            Self::Chunked(chunks) => chunks.next(read),
            _ if read.is_empty() => Ok(None),
            Self::Close => Ok(Some(Part::Data(read.split().freeze()))),
            Self::Length(left) => Ok(Some(Part::Data(up_to(left, read)))),
        }
    }

    /// Whether the connection may end here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self, Self::Close)
    }
}

fn up_to(left: &mut u64, read: &mut BytesMut) -> Bytes {
    let part = read.split_to(usize::try_from(*left).unwrap_or(usize::MAX).min(read.len()));
    *left -= part.len() as u64;
    part.freeze()
}

/// A part of a body.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// Bytes of it.
    Data(Bytes),
    /// Nothing comes behind it.
    End,
}

/// Where in a chunked body one is (RFC 9112 section 7.1).
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunks {
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

    /// Whether the end has been read.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    fn next(&mut self, read: &mut BytesMut) -> Result<Option<Part>, SeamError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What `framing` makes of `parts`: the data, and whether the end was told, more is wanted or it is broken.
    fn read(framing: &mut Framing, parts: &[&[u8]]) -> (Vec<u8>, &'static str) {
        let mut data = Vec::new();
        for part in parts {
            let mut read = BytesMut::from(*part);
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
        let check = |request: Request<Bytes>, alone: bool, expect: &str| {
            assert_eq!(String::from_utf8_lossy(&written(&request, alone, 0)), expect);
        };
        let get = Request::get("http://user:pw@a.example:8080/mcp?x=1").header("accept", "text/event-stream");
        let get = get.header("connection", "x-a").header("transfer-encoding", "chunked");
        check(
            get.body(Bytes::new()).unwrap_or_default(),
            true,
            "GET /mcp?x=1 HTTP/1.1\r\nhost: a.example:8080\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n",
        );
        let post = Request::post("http://[::1]").header("host", "other").header("content-length", "7");
        check(
            post.body(Bytes::from_static(b"{}")).unwrap_or_default(),
            false,
            "POST / HTTP/1.1\r\nhost: other\r\ncontent-length: 2\r\n\r\n",
        );
        let post = Request::post("http://a.example:80/").body(Bytes::new()).unwrap_or_default();
        check(post, false, "POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn heads_are_read_whole_or_not_at_all() {
        let head = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx-a:\r\nX-B: 1\r\nx-b: 2\r\n\
                    content-length: 4\r\n\r\nrest";
        for cut in 0..=head.len() {
            let (one, other) = head.as_bytes().split_at(cut);
            let mut read = BytesMut::from(one);
            let mut taken = take_head(&mut read, 0, &Method::POST).unwrap();
            if taken.is_none() {
                let seen = read.len();
                read.extend_from_slice(other);
                taken = take_head(&mut read, seen, &Method::POST).unwrap();
            } else {
                read.extend_from_slice(other);
            }
            let Head { response, framing, lasting } = taken.unwrap();
            let values: Vec<_> = response.headers().get_all("x-b").iter().collect();
            assert_eq!(
                (values.as_slice(), response.headers().len()),
                (&["1", "2"].map(HeaderValue::from_static).each_ref()[..], 4),
                "{cut}"
            );
            assert_eq!(
                (format!("{framing:?}").as_str(), lasting, &read[..]),
                ("Length(4)", true, &b"rest"[..]),
                "{cut}"
            );
        }
    }

    #[test]
    fn heads_that_cannot_be_read_are_refused() {
        let check = |head: &str| {
            assert!(take_head(&mut BytesMut::from(head), 0, &Method::GET).is_err(), "{head}");
        };
        check("SSH-2.0\r\n\r\n");
        check("HTTP/1.1 099 No\r\n\r\n");
        check(&format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(HEAD)));
        check(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1)));
    }

    #[test]
    fn connections_are_used_again_where_both_ends_know_where_the_answer_ends() {
        let check = |head: &str, method: Method, expect: bool| {
            let head = take_head(&mut BytesMut::from(head), 0, &method).unwrap().unwrap();
            assert_eq!(head.lasting, expect, "{:?}", head.response);
        };
        check("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", Method::POST, true);
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Method::POST, true);
        check("HTTP/1.1 204 No Content\r\n\r\n", Method::POST, true);
        check("HTTP/1.1 200 OK\r\n\r\n", Method::HEAD, true);
        check("HTTP/1.1 200 OK\r\n\r\n", Method::POST, false);
        check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", Method::POST, false);
        check("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: x, Close\r\n\r\n", Method::POST, false);
        check("HTTP/1.1 101 Switching Protocols\r\ncontent-length: 0\r\n\r\n", Method::POST, false);
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            Method::POST,
            false,
        );
    }
}
