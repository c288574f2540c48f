//! What goes over the wire: one frame a message, a kind and then what that kind has.
//!
//! Numbers are big-endian; a string is two bytes of length and UTF-8. Decoding copies no body and never looks past
//! the message. A frame that says less or more than its kind has is refused.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::code::{Bye, ByeCode, MAX_WORDS, Reset, ResetCode};
use super::hello::{Hello, MAX_NAME, MAX_OFFERS, Offer, Verdict, Welcome, check_offers};
use super::{MAX_MESSAGE, link::StreamId};

/// The most bytes that a head may have on the wire.
pub const MAX_HEAD: usize = 64 * 1024;
/// The most headers that a head may have.
pub const MAX_HEADERS: usize = 128;
/// The most bytes of a path with its query.
pub const MAX_PATH: usize = 16 * 1024;
/// The most bytes of a caller's name, a request's id or a header's name.
pub const MAX_LABEL: usize = 256;
const MAX_METHOD: usize = 32;

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const WELCOME: u8 = 0x02;
    pub(super) const BYE: u8 = 0x03;
    pub(super) const ACK: u8 = 0x04;
    pub(super) const VERDICTS: u8 = 0x05;
    /// From here on frames are counted.
    pub(super) const OPEN: u8 = 0x10;
    pub(super) const HEAD: u8 = 0x11;
    pub(super) const DATA: u8 = 0x12;
    pub(super) const END: u8 = 0x13;
    pub(super) const RESET: u8 = 0x14;
    pub(super) const CREDIT: u8 = 0x15;
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The companion begins.
    Hello(Hello),
    /// The edge takes it.
    Welcome(Welcome),
    /// The link is over.
    Bye(Bye),
    /// So many counted frames have been received in this session.
    Ack(u64),
    /// What the edge says to the offers has changed.
    Verdicts(Vec<Verdict>),
    /// A request begins.
    Open(StreamId, Request),
    /// An answer begins.
    Head(StreamId, Response),
    /// A piece of a body.
    Data(StreamId, Bytes),
    /// The body is complete.
    End(StreamId),
    /// The stream ends here, whatever is missing.
    Reset(StreamId, Reset),
    /// So many bytes more may be sent on the stream.
    Credit(StreamId, u32),
}

/// The head of a request on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whom it is for.
    pub target: Offer,
    /// The HTTP method.
    pub method: String,
    /// Path and query below the target's own address. Empty for an MCP server's endpoint itself.
    pub path: String,
    /// Who asks: the name of the caller's key.
    pub caller: String,
    /// The request's id in the gateway's log.
    pub request_id: String,
    /// The headers.
    pub headers: Headers,
}

impl Request {
    /// A `POST` without headers.
    pub fn post(target: Offer, path: impl Into<String>) -> Self {
        Self {
            target,
            method: "POST".to_owned(),
            path: path.into(),
            caller: String::new(),
            request_id: String::new(),
            headers: Headers::default(),
        }
    }
}

/// The head of an answer on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
}

impl Response {
    /// An answer without headers.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::default() }
    }
}

impl Request {
    /// Whether the other end would take it.
    pub(super) fn check(&self) -> Result<(), Reset> {
        for (what, text, most) in [
            ("target", self.target.name(), MAX_NAME),
            ("method", &self.method, MAX_METHOD),
            ("path", &self.path, MAX_PATH),
            ("caller", &self.caller, MAX_LABEL),
            ("request id", &self.request_id, MAX_LABEL),
        ] {
            if text.len() > most {
                return Err(Reset::new(ResetCode::TooLarge, format!("a {what} of more than {most} bytes")));
            }
        }
        let own = 32 + self.target.name().len() + self.method.len() + self.path.len() + 2 * MAX_LABEL;
        self.headers.check(own)
    }
}

impl Response {
    /// Whether the other end would take it.
    pub(super) fn check(&self) -> Result<(), Reset> {
        if !(200..=999).contains(&self.status) {
            return Err(Reset::new(ResetCode::Failed, format!("an answer with status {}", self.status)));
        }
        self.headers.check(32)
    }
}

/// Headers that belong to one connection (RFC 9110 section 7.6.1), or tell the length of a body, which the other end knows
/// by the end of the stream.
const OWN: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers in their order: names in lower case, values as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(pub Vec<(String, Bytes)>);

impl Headers {
    /// Whether the other end would take them in a head with so many bytes else.
    fn check(&self, own: usize) -> Result<(), Reset> {
        let large = |words: String| Err(Reset::new(ResetCode::TooLarge, words));
        if self.0.len() > MAX_HEADERS {
            return large(format!("more than {MAX_HEADERS} headers"));
        }
        if self.0.iter().any(|(name, _)| name.len() > MAX_LABEL) {
            return large(format!("a header name of more than {MAX_LABEL} bytes"));
        }
        if own + self.0.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() > MAX_HEAD {
            return large(format!("a head of more than {MAX_HEAD} bytes"));
        }
        Ok(())
    }

    /// What `map` has, without those that belong to its own connection.
    #[must_use]
    pub fn from_map(map: &http::HeaderMap) -> Self {
        let listed = |name: &str| {
            let mut named = map.get_all(http::header::CONNECTION).iter();
            named.any(|value| {
                value
                    .to_str()
                    .is_ok_and(|list| list.split(',').any(|one| one.trim().eq_ignore_ascii_case(name)))
            })
        };
        let kept = map.iter().filter(|(name, _)| !OWN.contains(&name.as_str()) && !listed(name.as_str()));
        Self(
            kept.map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
                .collect(),
        )
    }

    /// As a map. What is no valid header, or belongs to a connection, is left out.
    #[must_use]
    pub fn to_map(&self) -> http::HeaderMap {
        let mut map = http::HeaderMap::with_capacity(self.0.len());
        for (name, value) in self.0.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            let name = http::HeaderName::from_bytes(name.as_bytes());
            let value = http::HeaderValue::from_maybe_shared(value.clone());
            if let (Ok(name), Ok(value)) = (name, value) {
                map.append(name, value);
            }
        }
        map
    }
}

impl Frame {
    /// Whether it counts for resumption: what belongs to a stream does, what belongs to the link does not.
    #[must_use]
    pub fn is_counted(message: &[u8]) -> bool {
        message.first().is_some_and(|kind| *kind >= kind::OPEN)
    }

    /// As a message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(match self {
            Self::Data(_, bytes) => bytes.len() + 5,
            Self::Open(..) | Self::Head(..) => 512,
            _ => 16,
        });
        match self {
            Self::Hello(hello) => json(&mut out, kind::HELLO, hello),
            Self::Welcome(welcome) => json(&mut out, kind::WELCOME, welcome),
            Self::Verdicts(verdicts) => json(&mut out, kind::VERDICTS, verdicts),
            Self::Bye(bye) => {
                out.put_u8(kind::BYE);
                out.put_u16(bye.code.number());
                string(&mut out, &bye.words);
            }
            Self::Ack(received) => {
                out.put_u8(kind::ACK);
                out.put_u64(*received);
            }
            Self::Open(stream, request) => {
                begin(&mut out, kind::OPEN, *stream);
                out.put_u8(match request.target {
                    Offer::Server(_) => 0,
                    Offer::Model(_) => 1,
                });
                string(&mut out, request.target.name());
                string(&mut out, &request.method);
                string(&mut out, &request.path);
                string(&mut out, &request.caller);
                string(&mut out, &request.request_id);
                headers(&mut out, &request.headers);
            }
            Self::Head(stream, response) => {
                begin(&mut out, kind::HEAD, *stream);
                out.put_u16(response.status);
                headers(&mut out, &response.headers);
            }
            Self::Data(stream, bytes) => {
                begin(&mut out, kind::DATA, *stream);
                out.put_slice(bytes);
            }
            Self::End(stream) => begin(&mut out, kind::END, *stream),
            Self::Reset(stream, reset) => {
                begin(&mut out, kind::RESET, *stream);
                out.put_u16(reset.code.number());
                string(&mut out, &reset.words);
            }
            Self::Credit(stream, bytes) => {
                begin(&mut out, kind::CREDIT, *stream);
                out.put_u32(*bytes);
            }
        }
        out.freeze()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it, in words for the other end.
    pub fn decode(message: Bytes) -> Result<Self, Bye> {
        if message.len() > MAX_MESSAGE {
            let words =
                format!("a message of {} bytes; no more than {MAX_MESSAGE} are allowed", message.len());
            return Err(Bye::new(ByeCode::TooLarge, words));
        }
        let mut left = Left(message);
        let kind = left.u8()?;
        let frame = match kind {
            kind::HELLO => return left.json("hello").map(Self::Hello),
            kind::WELCOME => return left.json("welcome").map(Self::Welcome),
            kind::VERDICTS => {
                let verdicts: Vec<Verdict> = left.json("verdicts")?;
                check_offers(verdicts.iter().map(|verdict| &verdict.offer))?;
                return Ok(Self::Verdicts(verdicts));
            }
            kind::BYE => Self::Bye(Bye {
                code: ByeCode::from_number(left.u16()?),
                words: left.string("words", MAX_WORDS)?,
            }),
            kind::ACK => Self::Ack(left.u64()?),
            kind::OPEN => {
                left.limit_head()?;
                let stream = left.stream()?;
                let target: fn(String) -> Offer = match left.u8()? {
                    0 => Offer::Server,
                    1 => Offer::Model,
                    other => return Err(wrong(format!("a target of kind {other}"))),
                };
                let request = Request {
                    target: target(left.string("target", MAX_NAME)?),
                    method: left.string("method", MAX_METHOD)?,
                    path: left.string("path", MAX_PATH)?,
                    caller: left.string("caller", MAX_LABEL)?,
                    request_id: left.string("request id", MAX_LABEL)?,
                    headers: left.headers()?,
                };
                Self::Open(stream, request)
            }
            kind::HEAD => {
                left.limit_head()?;
                let stream = left.stream()?;
                let status = left.u16()?;
                if !(200..=999).contains(&status) {
                    return Err(wrong(format!("status {status}")));
                }
                Self::Head(stream, Response { status, headers: left.headers()? })
            }
            kind::DATA => return Ok(Self::Data(left.stream()?, left.0)),
            kind::END => Self::End(left.stream()?),
            kind::RESET => {
                let stream = left.stream()?;
                let code = ResetCode::from_number(left.u16()?);
                Self::Reset(stream, Reset { code, words: left.string("words", MAX_WORDS)? })
            }
            kind::CREDIT => Self::Credit(left.stream()?, left.u32()?),
            other => return Err(wrong(format!("a frame of the unknown kind 0x{other:02x}"))),
        };
        if left.0.is_empty() {
            Ok(frame)
        } else {
            Err(wrong(format!("bytes behind a frame of kind 0x{kind:02x}")))
        }
    }
}

fn wrong(what: impl Into<String>) -> Bye {
    Bye::new(ByeCode::Protocol, what)
}

fn begin(out: &mut BytesMut, kind: u8, stream: StreamId) {
    out.put_u8(kind);
    out.put_u32(stream.0);
}

fn json(out: &mut BytesMut, kind: u8, value: &impl serde::Serialize) {
    out.put_u8(kind);
    // What is written here has no map with keys that could not be written.
    _ = serde_json::to_writer(out.writer(), value);
}

/// What does not fit its two bytes of length is cut: its sender has checked what matters.
fn string(out: &mut BytesMut, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16(u16::try_from(end).unwrap_or(0));
    out.put_slice(text.as_bytes().get(..end).unwrap_or_default());
}

fn headers(out: &mut BytesMut, headers: &Headers) {
    let sendable = |(name, value): &&(String, Bytes)| {
        name.len() <= usize::from(u16::MAX) && value.len() <= usize::from(u16::MAX)
    };
    let kept: Vec<_> = headers.0.iter().filter(sendable).take(MAX_HEADERS).collect();
    out.put_u16(u16::try_from(kept.len()).unwrap_or(0));
    for (name, value) in kept {
        string(out, name);
        out.put_u16(u16::try_from(value.len()).unwrap_or(0));
        out.put_slice(value);
    }
}

/// What is left of a message.
struct Left(Bytes);

impl Left {
    fn take(&mut self, length: usize) -> Result<Bytes, Bye> {
        if length > self.0.len() {
            return Err(wrong("a frame that is too short for what it says"));
        }
        Ok(self.0.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bye> {
        let taken = self.take(N)?;
        taken.as_ref().try_into().map_err(|_| wrong("a frame that is too short for what it says"))
    }

    fn u8(&mut self) -> Result<u8, Bye> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, Bye> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Bye> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Bye> {
        self.array().map(u64::from_be_bytes)
    }

    fn stream(&mut self) -> Result<StreamId, Bye> {
        self.u32().map(StreamId)
    }

    fn limit_head(&self) -> Result<(), Bye> {
        if self.0.len() > MAX_HEAD {
            return Err(Bye::new(ByeCode::TooLarge, format!("a head of more than {MAX_HEAD} bytes")));
        }
        Ok(())
    }

    fn text(&mut self, what: &str, most: usize) -> Result<Bytes, Bye> {
        let length = usize::from(self.u16()?);
        if length > most {
            return Err(Bye::new(ByeCode::TooLarge, format!("a {what} of more than {most} bytes")));
        }
        self.take(length)
    }

    fn string(&mut self, what: &str, most: usize) -> Result<String, Bye> {
        let text = self.text(what, most)?;
        String::from_utf8(text.into()).map_err(|_| wrong(format!("a {what} that is not UTF-8")))
    }

    fn headers(&mut self) -> Result<Headers, Bye> {
        let count = usize::from(self.u16()?);
        if count > MAX_HEADERS {
            return Err(Bye::new(ByeCode::TooLarge, format!("more than {MAX_HEADERS} headers")));
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            headers.push((
                self.string("header name", MAX_LABEL)?,
                self.text("header value", usize::from(u16::MAX))?,
            ));
        }
        Ok(Headers(headers))
    }

    fn json<T: serde::de::DeserializeOwned>(self, what: &str) -> Result<T, Bye> {
        // Every offer and verdict has a few bytes, so that the message's size bounds their number.
        serde_json::from_slice(&self.0)
            .map_err(|error| wrong(format!("a {what} that cannot be read: {error}")))
    }
}

const _: () = assert!(MAX_OFFERS * MAX_NAME < MAX_MESSAGE);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Request {
        Request {
            target: Offer::server("files"),
            method: "POST".into(),
            path: "/mcp?x=1".into(),
            caller: "me".into(),
            request_id: "r-1".into(),
            headers: Headers(vec![("accept".into(), Bytes::from_static(b"text/event-stream"))]),
        }
    }

    fn all() -> Vec<Frame> {
        let one = StreamId(1);
        vec![
            Frame::Bye(Bye::new(ByeCode::Replaced, "a newer one")),
            Frame::Ack(u64::MAX),
            Frame::Verdicts(vec![Verdict::accepted(Offer::server("a"))]),
            Frame::Open(one, request()),
            Frame::Open(one, Request { target: Offer::model("m"), ..request() }),
            Frame::Head(one, Response { status: 200, headers: request().headers }),
            Frame::Data(one, Bytes::from_static(b"body")),
            Frame::Data(one, Bytes::new()),
            Frame::End(StreamId(u32::MAX)),
            Frame::Reset(one, Reset::new(ResetCode::Cut, "é")),
            Frame::Credit(one, 7),
        ]
    }

    #[test]
    fn every_frame_survives_the_wire() {
        for frame in all() {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn a_frame_that_says_less_or_more_is_refused() {
        for frame in all() {
            let message = frame.encode();
            for end in 0..message.len() {
                // A body and JSON are as long as they are.
                if !matches!(frame, Frame::Data(..)) || end < 5 {
                    assert!(Frame::decode(message.slice(..end)).is_err(), "{frame:?} cut at {end}");
                }
            }
            if !matches!(frame, Frame::Data(..)) {
                let longer: Bytes = [&message[..], b"x"].concat().into();
                assert!(Frame::decode(longer).is_err(), "{frame:?}");
            }
        }
    }

    #[test]
    fn what_belongs_to_streams_is_counted() {
        for frame in all() {
            let link = matches!(frame, Frame::Bye(_) | Frame::Ack(_) | Frame::Verdicts(_));
            assert_eq!(Frame::is_counted(&frame.encode()), !link, "{frame:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_by_name() {
        let long = Frame::Open(StreamId(1), Request { method: "M".repeat(33), ..request() });
        assert_eq!(Frame::decode(long.encode()).unwrap_err().to_string(), "a method of more than 32 bytes");
        assert_eq!(Frame::decode(vec![0x12; MAX_MESSAGE + 1].into()).unwrap_err().code, ByeCode::TooLarge);
        let many = Headers(vec![("a".into(), Bytes::from(vec![b'x'; 60_000])); 2]);
        let response = Response { status: 200, headers: many };
        assert_eq!(response.check().unwrap_err().code, ResetCode::TooLarge);
        let head = Frame::Head(StreamId(1), response);
        assert_eq!(Frame::decode(head.encode()).unwrap_err().code, ByeCode::TooLarge);
    }

    #[test]
    fn headers_of_the_connection_stay_behind() {
        let mut map = http::HeaderMap::new();
        for (name, value) in [
            ("host", "x"),
            ("connection", "x-own, close"),
            ("x-own", "1"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ] {
            map.append(name, value.parse().unwrap());
        }
        let headers = Headers::from_map(&map);
        assert_eq!(headers, Headers(vec![("accept".into(), Bytes::from_static(b"*/*"))]));
        assert_eq!(headers.to_map().len(), 1);
        assert!(Headers(vec![("host".into(), Bytes::from_static(b"x"))]).to_map().is_empty());
        assert!(
            Headers(vec![("a b".into(), Bytes::from_static(b"x")), ("a".into(), Bytes::from_static(b"\n"))])
                .to_map()
                .is_empty()
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(frame) = Frame::decode(bytes.into()) {
                prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
            }
        }

        #[test]
        fn mutated_frames_never_panic(which in 0usize..11, at in 0usize..64, byte: u8) {
            let mut message = all()[which].encode().to_vec();
            let at = at % message.len();
            message[at] = byte;
            if let Ok(frame) = Frame::decode(message.into()) {
                prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
            }
        }
    }
}
