//! Links: how a gateway reaches servers on machines that only dial out.
//!
//! A companion (`causeway connect`) dials the gateway's `/tunnel` and both ends keep a [`Link`]: one state machine
//! for both, fed with what arrives and asked what to do. A link carries streams; a stream is one HTTP exchange, whose
//! request comes from the edge and whose answer comes from the companion. The edge names a target that the companion
//! has offered, **never** a command or an address.
//!
//! | module | what |
//! |---|---|
//! | [`frame`] | what goes over the wire, one frame a message |
//! | [`hello`] | the two frames with which a link begins or is resumed |
//! | [`link`] | the state machine: streams, credit, resumption, heartbeat, limits |
//! | [`dock`] | the edge's end on its host: connections in, requests through |
//! | [`code`] | why a link or a stream ended |
//! | [`saved`] | an idle link, put away and taken up again |
//! | [`pair`] | the transport without WebSockets: events down, `POST` up |
//!
//! The protocol is written down in `docs/tunnel.md`. A link that opens, carries a call and closes it:
//!
//! ```
//! use causeway::platform::Timestamp;
//! use causeway::tunnel::frame::{Request, Response};
//! use causeway::tunnel::hello::{CompanionId, Hello, Offer, SessionId, Verdict};
//! use causeway::tunnel::{Effect, Input, Limits, Link};
//!
//! let now = Timestamp(1);
//! let (mut up, mut down) = (Vec::new(), Vec::new());
//! let mut companion = Link::companion(Limits::default(), "laptop", vec![Offer::server("files")]);
//! companion = companion.known_as(CompanionId([3; 16]));
//! companion.on(now, Input::Dialled, &mut up);
//! let Some(Effect::Send { message, .. }) = up.pop() else { panic!() };
//! let hello = Hello::read(&message).unwrap();
//! let verdicts = vec![Verdict::accepted(Offer::server("files"))];
//! let mut edge = Link::edge(now, Limits::default(), SessionId([7; 16]), &hello, verdicts, &mut down);
//! let Some(Effect::Send { message, .. }) = down.pop() else { panic!() };
//! companion.on(now, Input::Frame(message), &mut up);
//! assert!(matches!(up[..], [Effect::Up { resumed: false, .. }]));
//!
//! let stream = edge.open(now, Request::post(Offer::server("files"), "/mcp"), &mut down).unwrap();
//! edge.on(now, Input::End(stream), &mut down);
//! for effect in down.drain(..) {
//!     let Effect::Send { message, .. } = effect else { continue };
//!     companion.on(now, Input::Frame(message), &mut up);
//! }
//! assert!(up.iter().any(|effect| matches!(effect, Effect::Open { .. })));
//! companion.on(now, Input::Head(stream, Response::new(202)), &mut up);
//! companion.on(now, Input::End(stream), &mut up);
//! ```

pub mod code;
pub mod dock;
pub mod frame;
pub mod hello;
pub mod link;
pub mod pair;
pub mod saved;

use std::time::Duration;

pub use code::{Bye, ByeCode, Reset, ResetCode};
pub use link::{Effect, Input, Link, StreamId};

/// The version of the protocol that is spoken here.
pub const VERSION: u32 = 1;
/// Where a companion dials in. The link's name is the query parameter `name`.
pub const PATH: &str = "/tunnel";
/// The most bytes that one message may have, whatever was agreed.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// What one end allows the other, and how patient it is.
///
/// Each end tells the other its own `window`, `frame` and `streams`; of `resume` the shorter holds for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How many bytes of a stream's body may be on their way or unread.
    pub window: u32,
    /// How many bytes of body one frame may hold.
    pub frame: u32,
    /// How many streams may be open at once.
    pub streams: u32,
    /// How many bytes are kept until the other end has said that it has them. Bodies wait when it is full.
    pub retain: usize,
    /// How long a link that was lost may be resumed, and calls in flight wait for that.
    pub resume: Duration,
    /// After how much silence the other end is asked whether it is there. A third of it while calls are in flight.
    pub heartbeat: Duration,
    /// How long it may take to answer that.
    pub patience: Duration,
    /// Whether an edge watches over an idle link too, by the companion's own heartbeat. A host whose links sleep,
    /// with the heartbeat answered for them, does not.
    pub watch: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 128 * 1024,
            frame: 64 * 1024,
            streams: 512,
            retain: 4 * 1024 * 1024,
            resume: Duration::from_secs(60),
            heartbeat: Duration::from_secs(20),
            patience: Duration::from_secs(10),
            watch: true,
        }
    }
}
