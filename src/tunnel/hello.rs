//! The two frames with which a link begins or is resumed.
//!
//! Their bodies are JSON objects, so that a later version can say more and an earlier one pass over it.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::code::{Bye, ByeCode};
use super::frame::Frame;
use super::{Limits, MAX_MESSAGE, VERSION};

/// The most targets that one companion may offer.
pub const MAX_OFFERS: usize = 512;
/// The most bytes of a name.
pub const MAX_NAME: usize = 128;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident: $what:literal,)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Hash)]
            pub struct $name(pub [u8; 16]);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
                }
            }

            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write!(f, concat!(stringify!($name), "({})"), self)
                }
            }

            impl std::str::FromStr for $name {
                type Err = &'static str;

                fn from_str(text: &str) -> Result<Self, Self::Err> {
                    digits(text).map(Self).ok_or(concat!($what, " is 32 hexadecimal digits"))
                }
            }

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                }
            }
        )*
    };
}

ids! {
    /// Which session of a link: 16 random bytes, written as 32 hexadecimal digits.
    SessionId: "a session",
    /// Which companion: 16 random bytes that each process draws for itself, written as 32 hexadecimal digits.
    CompanionId: "a companion",
}

fn digits(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(id)
}

/// What a companion offers and a stream addresses: by name, never by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// An MCP server.
    Server(String),
    /// A model's HTTP endpoint.
    Model(String),
}

impl Offer {
    /// An MCP server.
    pub fn server(name: impl Into<String>) -> Self {
        Self::Server(name.into())
    }

    /// A model's HTTP endpoint.
    pub fn model(name: impl Into<String>) -> Self {
        Self::Model(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Server(name) | Self::Model(name) => name,
        }
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(name) => write!(f, "server {name:?}"),
            Self::Model(name) => write!(f, "model {name:?}"),
        }
    }
}

/// What the edge says to an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was offered.
    #[serde(flatten)]
    pub offer: Offer,
    /// Why it is not taken; it is taken if there is no reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Verdict {
    /// It is taken: calls may come.
    #[must_use]
    pub fn accepted(offer: Offer) -> Self {
        Self { offer, refused: None }
    }

    /// It is not taken, for this reason.
    pub fn refused(offer: Offer, why: impl Into<String>) -> Self {
        Self { offer, refused: Some(why.into()) }
    }
}

/// What a companion says first, on every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The latest version that it speaks.
    pub version: u32,
    /// The earliest version that it speaks.
    #[serde(default = "one")]
    pub oldest: u32,
    /// The link's name.
    pub name: String,
    /// The program and its version, for people.
    #[serde(default)]
    pub agent: String,
    /// Which companion it is. None: it does not say, and is known by its session alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion: Option<CompanionId>,
    /// How often that companion has dialled, this time included: what was held up on its way is told from what is new.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dial: u64,
    /// The session that it was in, to be resumed. None: it has never been welcomed, and takes over from any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// How many counted frames of that session it has received. None: it has given up what was in flight there, and
    /// only says which session it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// What it offers.
    pub offers: Vec<Offer>,
    /// See [`Limits::window`].
    pub window: u32,
    /// See [`Limits::frame`].
    pub frame: u32,
    /// See [`Limits::streams`].
    pub streams: u32,
    /// See [`Limits::resume`], in milliseconds.
    pub resume_ms: u64,
    /// After how much silence it asks whether the edge is there, in milliseconds.
    #[serde(default = "heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// It only wants to know what is said to its offers: no link begins, and one that there is goes on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub check: bool,
}

fn one() -> u32 {
    1
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn heartbeat_ms() -> u64 {
    20_000
}

impl Hello {
    /// Reads a connection's first message.
    ///
    /// # Errors
    /// Why it is none that can be welcomed: to be said with [`Bye::encode`] before the connection is closed.
    pub fn read(message: &Bytes) -> Result<Self, Bye> {
        match Frame::decode(message.clone()) {
            Ok(Frame::Hello(hello)) => {
                hello.check()?;
                Ok(hello)
            }
            Ok(_) => Err(Bye::new(ByeCode::Protocol, "the first message must be a hello")),
            Err(bye) => Err(bye),
        }
    }

    fn check(&self) -> Result<(), Bye> {
        if self.oldest > VERSION || self.version < 1 {
            return Err(Bye::new(
                ByeCode::Version,
                format!(
                    "this gateway speaks version {VERSION} of the tunnel, the companion {} to {}; update the older one",
                    self.oldest, self.version
                ),
            ));
        }
        check_name(&self.name)?;
        check_offers(self.offers.iter())?;
        check_limits(self.window, self.frame, self.streams)
    }
}

/// What the edge says first, if a hello is welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken from here on.
    pub version: u32,
    /// The session.
    pub session: SessionId,
    /// Whether it is the one that the hello named. If not, nothing of that one is left.
    pub resumed: bool,
    /// How many counted frames of the session the edge has received.
    #[serde(default)]
    pub received: u64,
    /// What is said to each offer.
    pub verdicts: Vec<Verdict>,
    /// See [`Limits::window`].
    pub window: u32,
    /// See [`Limits::frame`].
    pub frame: u32,
    /// See [`Limits::streams`].
    pub streams: u32,
    /// See [`Limits::resume`], in milliseconds: the shorter of both ends'.
    pub resume_ms: u64,
}

impl Welcome {
    pub(super) fn check(&self) -> Result<(), Bye> {
        if self.version != VERSION {
            let words =
                format!("the gateway chose version {} of the tunnel, which is not spoken here", self.version);
            return Err(Bye::new(ByeCode::Version, words));
        }
        check_offers(self.verdicts.iter().map(|verdict| &verdict.offer))?;
        check_limits(self.window, self.frame, self.streams)
    }
}

/// What the other end allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) window: u32,
    pub(super) frame: u32,
    pub(super) streams: u32,
}

impl Allowed {
    pub(super) fn new(window: u32, frame: u32, streams: u32) -> Self {
        Self { window, frame, streams }
    }
}

impl Limits {
    /// The shorter of both ends' patience.
    pub(super) fn resume_ms(&self, other: u64) -> u64 {
        other.min(u64::try_from(self.resume.as_millis()).unwrap_or(u64::MAX))
    }
}

fn check_name(name: &str) -> Result<(), Bye> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Bye::new(ByeCode::Protocol, "a name must have 1 to 128 printable characters"));
    }
    Ok(())
}

pub(super) fn check_offers<'a>(offers: impl ExactSizeIterator<Item = &'a Offer>) -> Result<(), Bye> {
    if offers.len() > MAX_OFFERS {
        return Err(Bye::new(ByeCode::TooLarge, format!("more than {MAX_OFFERS} offers on one link")));
    }
    offers.map(Offer::name).try_for_each(check_name)
}

fn check_limits(window: u32, frame: u32, streams: u32) -> Result<(), Bye> {
    let largest = u32::try_from(MAX_MESSAGE).unwrap_or(u32::MAX);
    if window < 1024
        || window > i32::MAX.unsigned_abs()
        || frame < 1024
        || frame > largest - 1024
        || streams == 0
    {
        return Err(Bye::new(
            ByeCode::Protocol,
            "limits out of range: window 1024 to 2147483647, frame 1024 to 261120, streams at least 1",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: 1,
            oldest: 1,
            name: "laptop".into(),
            agent: String::new(),
            companion: Some(CompanionId([3; 16])),
            dial: u64::MAX,
            session: None,
            received: None,
            offers: vec![Offer::server("files"), Offer::model("local")],
            window: 1024,
            frame: 1024,
            streams: 1,
            resume_ms: 0,
            heartbeat_ms: 20_000,
            check: false,
        }
    }

    fn refused(hello: Hello) -> ByeCode {
        Hello::read(&Frame::Hello(hello).encode()).unwrap_err().code
    }

    #[test]
    fn a_hello_survives_the_wire() {
        assert_eq!(Hello::read(&Frame::Hello(hello()).encode()).unwrap(), hello());
    }

    #[test]
    fn a_version_that_is_not_shared_is_refused() {
        assert_eq!(refused(Hello { version: 9, oldest: 2, ..hello() }), ByeCode::Version);
        Hello::read(&Frame::Hello(Hello { version: 9, ..hello() }).encode()).unwrap();
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        assert_eq!(refused(Hello { name: String::new(), ..hello() }), ByeCode::Protocol);
        assert_eq!(refused(Hello { name: "a\nb".into(), ..hello() }), ByeCode::Protocol);
        assert_eq!(refused(Hello { offers: vec![Offer::server("x"); 513], ..hello() }), ByeCode::TooLarge);
        assert_eq!(refused(Hello { frame: 100, ..hello() }), ByeCode::Protocol);
        assert_eq!(refused(Hello { window: 9, ..hello() }), ByeCode::Protocol);
        assert_eq!(refused(Hello { streams: 0, ..hello() }), ByeCode::Protocol);
    }

    #[test]
    fn unknown_members_are_passed_over() {
        let json = br#"{"version":1,"name":"a","offers":[{"server":"s"}],"window":2048,"frame":2048,"streams":3,"resume_ms":5,"later":{}}"#;
        let hello = Hello::read(&[&[1][..], json].concat().into()).unwrap();
        assert_eq!(hello.offers, [Offer::server("s")]);
        assert_eq!((hello.companion, hello.dial), (None, 0), "an older companion does not say");
    }

    #[test]
    fn a_companion_is_32_digits_and_its_dial_a_number() {
        let read = |members: &str| {
            let json = format!(
                r#"{{"version":1,"name":"a","offers":[],"window":2048,"frame":2048,"streams":3,"resume_ms":5,{members}}}"#
            );
            Hello::read(&[&[1][..], json.as_bytes()].concat().into()).map_err(|bye| bye.code)
        };
        let hello =
            read(r#""companion":"000102030405060708090a0b0c0d0e0F","dial":18446744073709551615"#).unwrap();
        assert_eq!(hello.companion, Some(CompanionId(std::array::from_fn(|at| u8::try_from(at).unwrap()))));
        assert_eq!(hello.dial, u64::MAX);
        for wrong in [
            r#""companion":"""#,
            r#""companion":"00""#,
            r#""companion":7"#,
            r#""dial":-1"#,
            r#""dial":1.5"#,
            r#""dial":18446744073709551616"#,
            r#""dial":"1""#,
        ] {
            assert_eq!(read(wrong), Err(ByeCode::Protocol), "{wrong}");
        }
    }

    #[test]
    fn a_session_is_exactly_32_digits() {
        let id = SessionId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "00", &"+1".repeat(16), &"zz".repeat(16), &"é".repeat(16)] {
            assert!(wrong.parse::<SessionId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_verdict_reads_like_its_offer() {
        let verdict = Verdict::refused(Offer::model("m"), "no such provider");
        let json = serde_json::to_string(&verdict).unwrap();
        assert_eq!(json, r#"{"model":"m","refused":"no such provider"}"#);
        assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
    }
}
