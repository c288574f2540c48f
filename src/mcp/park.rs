//! A modern client calls a legacy server that may ask back: the call waits here while its client is away.
//!
//! The server's answer is an event stream that stays open. When a question comes on it, the client's request ends with
//! an `input_required` result that holds every question open at that moment and a sealed `requestState`; the client's
//! retry brings the answers, which go to the server, and is given what comes then. So one call upstream has one or
//! more legs downstream, each a request of the client's.
//!
//! Invariant: a `requestState` works once. It is bound to its caller, its call and a time by its seal, and to its turn
//! by the number of rounds that the call has had.
//!
//! Source: 2026-07-28 multi round-trip requests; 2025-11-25 transports, "Sending Messages to the Server".

mod answer;
mod ears;
mod run;
mod slot;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_channel::oneshot;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::ears::Ears;
pub use self::ears::{AGREED, Hear, Listener, begin as hear, run as listen};
pub use self::run::run;
use self::slot::Slot;
pub use self::state::{AGAIN, PARKED, State, digest};
use super::Mcp;
use super::mailbox::{Mailbox, Said, Work};
use super::memory::lock;
use super::tail::Log;
use crate::fault::{Fault, Kind};
use crate::platform::{Entropy as _, Platform};
use crate::wire::jsonrpc::{self, string};

/// The letter that begins a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// The key of the mailbox that it goes to.
    pub key: String,
    /// The caller's name.
    pub caller: String,
    /// The server's name.
    pub server: String,
    /// The method.
    pub method: String,
    /// The message as the server takes it, but for its id.
    pub message: Box<RawValue>,
    /// What must be the same in a retry.
    pub digest: String,
    /// The client's capabilities.
    pub capabilities: Box<RawValue>,
    /// The client's name and version.
    pub client_info: Box<RawValue>,
    /// Headers for the server.
    pub headers: Vec<(String, String)>,
    /// The first request.
    pub leg: Leg,
}

/// One request of the client's for a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leg {
    /// Its id.
    pub id: Box<RawValue>,
    /// The least level of log messages that it wants.
    pub level: Option<String>,
    /// The token that its progress goes by.
    pub token: Option<Box<RawValue>>,
}

/// The letter of a client that comes back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Retry {
    /// Which call.
    pub call: String,
    /// How many rounds the call has had.
    pub round: u64,
    /// What the client answers, by the key of the question.
    pub responses: BTreeMap<String, Box<RawValue>>,
    /// Its request.
    pub leg: Leg,
}

/// The calls of one caller to one server, and the sessions they go over.
pub struct Desk<P: Platform>(Mutex<Inner<P>>);

struct Inner<P: Platform> {
    running: HashMap<String, Running>,
    idle: Vec<Slot<P>>,
    /// Who hears the session that subscriptions are heard over.
    heard: Option<Arc<Ears>>,
    /// Who waits for such a session, if one is being opened.
    opening: Option<Vec<oneshot::Sender<()>>>,
    /// How many subscriptions there are.
    hearing: usize,
    sweeping: bool,
}

struct Running {
    round: u64,
    legs: UnboundedSender<Attached>,
    /// Who hears the session that it goes over.
    ears: Option<Arc<Ears>>,
}

/// A request that is being answered.
struct Attached {
    leg: Leg,
    log: Log,
    responses: BTreeMap<String, Box<RawValue>>,
}

/// A call that has been taken on.
pub struct Started {
    call: Call,
    id: String,
    first: Attached,
    legs: UnboundedReceiver<Attached>,
}

impl<P: Platform> Default for Desk<P> {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            running: HashMap::new(),
            idle: Vec::new(),
            heard: None,
            opening: None,
            hearing: 0,
            sweeping: false,
        }))
    }
}

impl<P: Platform> Desk<P> {
    /// Whether nothing runs and no session is kept.
    pub fn is_idle(&self) -> bool {
        let inner = lock(&self.0);
        inner.running.is_empty() && inner.idle.is_empty() && inner.hearing == 0
    }

    /// Takes a client back to its call.
    pub fn retry(&self, retry: Retry) -> Said {
        let Retry { call, round, responses, leg } = retry;
        let refuse = |text: &str| Said::fault(Some(&leg.id), &Fault::new(Kind::InvalidState, text));
        let mut inner = lock(&self.0);
        let Some(running) = inner.running.get_mut(&call) else { return refuse(GONE) };
        if running.round != round {
            return refuse(
                "params.requestState: has been used already; start again: send the request without it",
            );
        }
        let log = Log::once();
        let Some(tail) = log.tail(0) else { return refuse(GONE) };
        let attached = Attached { leg: leg.clone(), log, responses };
        if running.legs.unbounded_send(attached).is_err() {
            return refuse(GONE);
        }
        running.round += 1;
        Said::Tail(false, tail)
    }
}

/// The call that a `requestState` speaks of is not there.
pub const GONE: &str = "params.requestState: the call it belongs to has ended: its time was up, or the gateway or the \
                        connection to the server was restarted; start again: send the request without it";

/// Takes on a call.
pub fn begin<P: Platform>(mcp: &Mcp<P>, mailbox: &Mailbox<P>, call: Call) -> (Said, Work) {
    let limit = mcp.plan.limits.parked;
    let mut inner = lock(&mailbox.parked.0);
    let log = Log::once();
    let (Some(tail), true) = (log.tail(0), inner.running.len() < limit) else {
        let message = format!(
            "server {:?}: {limit} calls of yours run or wait for an answer of yours there (limits.parked); finish \
             some first",
            call.server
        );
        return (Said::fault(Some(&call.leg.id), &Fault::new(Kind::TooMany, message)), Work::None);
    };
    let mut id = [0; 12];
    mcp.platform.entropy().fill(&mut id);
    let id = super::hex(&id);
    let (sender, legs) = unbounded();
    inner.running.insert(id.clone(), Running { round: 0, legs: sender, ears: None });
    let first = Attached { leg: call.leg.clone(), log, responses: BTreeMap::new() };
    (Said::Tail(false, tail), Work::Park(Box::new(Started { call, id, first, legs })))
}

impl Fault {
    /// The error that answers the request `id`.
    pub(super) fn into_error(self, id: &RawValue) -> Bytes {
        jsonrpc::error(Some(id), self.kind.row().code, &self.message, self.data.as_deref())
    }
}

/// Headers of a caller that go on to the server.
pub fn passed(headers: &HeaderMap) -> Vec<(String, String)> {
    super::upstream::PASSED
        .iter()
        .filter_map(|name| Some((name.as_str().to_owned(), headers.get(name)?.to_str().ok()?.to_owned())))
        .collect()
}

/// The token that progress of a request goes by, if it has one.
pub fn progress_token(meta: Option<&RawValue>) -> Option<Box<RawValue>> {
    let token = super::upstream::field(meta?, "progressToken")?;
    (string(&token).is_some() || token.get().bytes().all(|b| b.is_ascii_digit() || b == b'-'))
        .then_some(token)
}
