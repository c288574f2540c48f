//! The link, fed with what arrives and what its streams say. It redials for as long as that makes sense.
//!
//! One task owns the link, the connection and what is shown; streams are tasks of their own that speak to it. Nothing here
//! waits for one stream: what has no room yet is put aside until there is.

use std::collections::HashMap;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use causeway::config::glob::Glob;
use causeway::platform::Timestamp;
use causeway::tunnel::frame;
use causeway::tunnel::hello::{CompanionId, Offer, Verdict};
use causeway::tunnel::pair::Message;
use causeway::tunnel::{Bye, ByeCode, Effect, Input, Link, Reset, ResetCode, StreamId};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::answer::{self, Ask, Kitchen, Outlet, Piece};
use super::targets::{self, Targets};
use super::tools::Exposed;
use super::view::{Show, View};
use super::ways::Ways;
use super::wire::{Heard, Peer, Why, Wire};
use super::{Ended, Options, check};
use crate::http::Http;
use crate::programs::Programs;
use crate::watch::Watch;

/// A machine that has slept must not wait long to notice.
const GLANCE: Duration = Duration::from_secs(5);
/// The pause before dialling again after a connection that held.
const FIRST: Duration = Duration::from_millis(100);
/// A connection that has held for this long was a good one.
const HELD: Duration = Duration::from_secs(5);

/// What the answering of a stream asks of the desk.
type Asking = (StreamId, Ask);
type Dialling = Pin<Box<dyn Future<Output = Result<Wire, Why>> + Send>>;

/// The desk.
pub(super) struct Desk {
    options: Options,
    targets: Arc<Targets>,
    allow: Arc<[Glob]>,
    kitchen: Arc<Kitchen>,
    programs: Programs,
    peer: Peer,
    clock: Wall,
    link: Link,
    state: State,
    ways: Ways,
    /// A WebSocket that is tried while the other way is used.
    trying: Option<Dialling>,
    /// Something was heard over this connection.
    spoken: bool,
    /// The next pause.
    pause: Duration,
    up_since: Option<Instant>,
    /// It was welcome at least once.
    welcomed: bool,
    streams: HashMap<StreamId, Tap>,
    asks: (mpsc::UnboundedSender<Asking>, mpsc::UnboundedReceiver<Asking>),
    view: View,
    ended: Option<Ended>,
    verdicts: Option<Vec<Verdict>>,
}

enum State {
    Waiting(tokio::time::Instant),
    Dialling(Dialling),
    Connected(Wire),
}

/// The desk's end of a stream.
struct Tap {
    task: AbortHandle,
    pieces: mpsc::UnboundedSender<Piece>,
    /// What has no room yet, and whom to tell when it has.
    waits: Option<(Bytes, oneshot::Sender<()>)>,
    offer: Offer,
    began: Instant,
    /// When the answer began.
    head: Option<Duration>,
    call: bool,
}

impl Desk {
    pub(super) fn new(options: Options, targets: Targets) -> Self {
        let programs = Programs::new(options.log.clone());
        let http = Http::with_programs(programs.clone());
        let mut url = options.tunnel.clone();
        url.query_pairs_mut().append_pair("name", &options.name);
        let gateway = options.tunnel.origin().ascii_serialization();
        let show = if options.once { Show::Nothing } else { options.show };
        let mut view = View::new(show, &options.name, &gateway);
        view.targets(&targets);
        targets.apply(&programs);
        let mut link = Link::companion(options.limits(), &options.name, targets.offers());
        let mut id = [0; 16];
        // Without chance there is nothing that it alone could be known by.
        if getrandom::fill(&mut id).is_ok() {
            link = link.known_as(CompanionId(id));
        }
        if options.once {
            link = link.checking();
        }
        Self {
            allow: options.allow.clone().into(),
            kitchen: Arc::new(Kitchen::new(http.clone())),
            programs,
            peer: Peer { url, bearer: options.bearer.clone(), http },
            targets: Arc::new(targets),
            clock: Wall::new(),
            link,
            state: State::Waiting(tokio::time::Instant::now()),
            ways: Ways::new(options.transport, options.again),
            trying: None,
            spoken: false,
            pause: FIRST.min(options.pause),
            up_since: None,
            welcomed: false,
            streams: HashMap::new(),
            asks: mpsc::unbounded_channel(),
            view,
            ended: None,
            verdicts: None,
            options,
        }
    }

    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) -> Ended {
        let mut stop = pin!(stop);
        let mut watch = pin!(self.watch());
        loop {
            let now = self.clock.now();
            let wake = self.link.wake_at().map_or(GLANCE, |at| at.since(now).min(GLANCE));
            let draw = self.view.every();
            self.view.draw();
            self.try_websocket();
            let due = self.ways.due().filter(|_| self.trying.is_none() && self.is_quiet());
            let (redial, dialling, wire) = match &mut self.state {
                State::Waiting(at) => (Some(*at), None, None),
                State::Dialling(dialling) => (None, Some(dialling), None),
                State::Connected(wire) => (None, None, Some(wire)),
            };
            let mut out = Vec::new();
            tokio::select! {
                Some((stream, ask)) = self.asks.1.recv() => {
                    self.asked(stream, ask, &mut out);
                    // What else is there already goes out with the same write.
                    for _ in 0..64 {
                        let Ok((stream, ask)) = self.asks.1.try_recv() else { break };
                        self.asked(stream, ask, &mut out);
                    }
                }
                heard = async { match wire { Some(wire) => wire.next().await, None => pending().await } } => {
                    self.heard(heard, &mut out);
                }
                dialled = async { match dialling { Some(dialling) => dialling.await, None => pending().await } } => {
                    self.dialled(dialled, &mut out);
                }
                () = async { match redial { Some(at) => tokio::time::sleep_until(at).await, None => pending().await } } => {
                    self.state = State::Dialling(self.dial());
                }
                tried = async { match &mut self.trying { Some(trying) => trying.await, None => pending().await } } => {
                    self.trying = None;
                    self.tried(tried, &mut out);
                }
                () = async { match due { Some(at) => tokio::time::sleep_until(at.into()).await, None => pending().await } } => {}
                () = sleep(wake) => self.link.on(self.clock.now(), Input::Tick, &mut out),
                () = async { match draw { Some(span) => sleep(span).await, None => pending().await } } => {}
                targets = &mut watch => {
                    self.changed(targets);
                    watch.set(self.watch());
                }
                () = &mut stop => {
                    let bye = Bye::new(ByeCode::Shutdown, "the companion stops");
                    self.link.on(self.clock.now(), Input::Close(bye), &mut out);
                    self.ended = Some(Ended::Stopped);
                }
            }
            self.perform(out);
            if self.ended.is_none() && self.options.once && self.link.is_up() {
                self.check().await;
            }
            if let Some(ended) = self.ended.take() {
                self.view.draw();
                self.streams.values().for_each(|tap| tap.task.abort());
                if let State::Connected(wire) = self.state {
                    wire.close().await;
                }
                self.programs.stop().await;
                return ended;
            }
        }
    }

    /// Resolves with what the file says when it has changed.
    fn watch(&self) -> impl Future<Output = Result<Targets, Vec<String>>> + use<> {
        let (files, file, name) =
            (self.targets.files.clone(), self.options.file.clone(), self.options.name.clone());
        async move {
            Watch::new(files).change().await;
            targets::read(&file, &name).await
        }
    }

    fn changed(&mut self, targets: Result<Targets, Vec<String>>) {
        match targets {
            Ok(targets) => {
                self.view.event("changed", "the file has changed", json!({}));
                self.view.targets(&targets);
                targets.apply(&self.programs);
                let same = targets.offers() == self.targets.offers();
                self.link.offer(targets.offers());
                self.targets = Arc::new(targets);
                if !same && self.link.is_up() {
                    // What is offered is said with a hello; calls in flight go on.
                    self.link.on(self.clock.now(), Input::Lost, &mut Vec::new());
                    self.state = State::Waiting(tokio::time::Instant::now());
                }
            }
            Err(problems) => {
                for problem in problems {
                    self.view.event("problem", &format!("the file is not taken: {problem}"), json!({}));
                }
            }
        }
    }

    fn dial(&self) -> Dialling {
        let peer = self.peer.clone();
        match self.ways.websocket(Instant::now()) {
            true => Box::pin(async move { Wire::websocket(&peer).await }),
            false => Box::pin(async move { Ok(Wire::pair(&peer)) }),
        }
    }

    /// Whether the connection is one of events and `POST`.
    fn by_pair(&self) -> bool {
        matches!(&self.state, State::Connected(wire) if !wire.is_websocket())
    }

    /// Whether it is connected in the other way and no call is in flight, so that another connection could take its place.
    fn is_quiet(&self) -> bool {
        self.by_pair() && self.link.is_up() && !self.streams.values().any(|tap| tap.call)
    }

    /// Begins to see whether WebSockets pass again, when that is due.
    fn try_websocket(&mut self) {
        let due = self.ways.due().is_some_and(|due| due <= Instant::now());
        if due && self.trying.is_none() && self.is_quiet() {
            let peer = self.peer.clone();
            self.trying = Some(Box::pin(async move { Wire::websocket(&peer).await }));
        }
    }

    fn tried(&mut self, tried: Result<Wire, Why>, out: &mut Vec<Effect>) {
        match tried {
            Ok(wire) if self.is_quiet() => {
                self.link.on(self.clock.now(), Input::Lost, &mut Vec::new());
                self.connected(wire, out);
            }
            // It passes; as soon as there is no call it is taken.
            Ok(_) => {}
            Err(_) => self.ways.put_off(Instant::now()),
        }
    }

    fn connected(&mut self, wire: Wire, out: &mut Vec<Effect>) {
        self.state = State::Connected(wire);
        (self.trying, self.spoken) = (None, false);
        self.link.on(self.clock.now(), Input::Dialled, out);
    }

    fn dialled(&mut self, dialled: Result<Wire, Why>, out: &mut Vec<Effect>) {
        match dialled {
            Ok(wire) => self.connected(wire, out),
            Err(why) => self.lost(&why),
        }
    }

    /// WebSockets get nowhere: the other way is dialled at once.
    fn turn(&mut self, why: &str) {
        let line = format!("no WebSocket ({why}): trying events and POST");
        self.view.event("transport", &line, json!({}));
        self.ways.got_nowhere();
        self.state = State::Waiting(tokio::time::Instant::now());
    }

    /// There is no connection: dial again after a pause, or never.
    fn lost(&mut self, why: &Why) {
        self.link.on(self.clock.now(), Input::Lost, &mut Vec::new());
        self.trying = None;
        let pair = self.by_pair();
        match why {
            Why::NoWebSocket(words) | Why::Silent(words) if self.ways.is_open() && !pair => {
                return self.turn(words);
            }
            Why::Cut(_) => self.ways.cut(),
            _ if pair && self.up_since.is_none() => self.ways.neither(matches!(why, Why::Silent(_))),
            _ => {}
        }
        if self.up_since.take().is_some_and(|since| since.elapsed() >= HELD) {
            self.pause = FIRST.min(self.options.pause);
        }
        match why {
            // What was right once may be so again: a configuration that was pushed by mistake is taken back, and what answers in
            // the gateway's place while that is away goes.
            Why::Never(words) | Why::NoWebSocket(words) if !self.welcomed || self.options.once => {
                self.ended = Some(Ended::Refused(words.clone()));
            }
            // Whoever waits for the result of a check need not wait for ever.
            Why::Later(words) | Why::Silent(words) | Why::Cut(words)
                if self.options.once && self.pause > Duration::from_secs(2) =>
            {
                self.ended = Some(Ended::Refused(words.clone()));
            }
            Why::Later(words)
            | Why::Silent(words)
            | Why::Cut(words)
            | Why::Never(words)
            | Why::NoWebSocket(words) => {
                let pause = jitter(self.pause);
                self.pause = (self.pause * 2).min(self.options.pause);
                self.view.lost(words, pause);
                self.state = State::Waiting(tokio::time::Instant::now() + pause);
            }
        }
    }

    fn heard(&mut self, heard: Heard, out: &mut Vec<Effect>) {
        let now = self.clock.now();
        let cut = !self.spoken && !self.by_pair();
        self.spoken |= matches!(heard, Heard::Message(_));
        match heard {
            Heard::Over(Why::Later(words)) if cut => self.lost(&Why::Cut(words)),
            Heard::Message(Message::Frame(frame)) => self.link.on(now, Input::Frame(frame), out),
            Heard::Message(Message::Ping) => self.link.on(now, Input::Ping, out),
            Heard::Message(Message::Pong) => self.link.on(now, Input::Pong, out),
            Heard::Over(why) => self.lost(&why),
        }
    }

    fn asked(&mut self, id: StreamId, ask: Ask, out: &mut Vec<Effect>) {
        let now = self.clock.now();
        let Some(tap) = self.streams.get_mut(&id) else { return };
        match ask {
            Ask::Head(head) => {
                tap.head = Some(tap.began.elapsed());
                self.link.on(now, Input::Head(id, head), out);
            }
            Ask::Data(bytes, done) => {
                tap.waits = Some((bytes, done));
                self.push(id, out);
            }
            Ask::End => {
                self.link.on(now, Input::End(id), out);
                self.close(id, None);
            }
            Ask::Reset(reset) => {
                let words = reset.words.clone();
                self.link.on(now, Input::Reset(id, reset), out);
                self.close(id, Some(&words));
            }
            Ask::Read(bytes) => self.link.on(now, Input::Read(id, bytes), out),
        }
    }

    /// Sends as much of what waits as there is room for.
    fn push(&mut self, id: StreamId, out: &mut Vec<Effect>) {
        let Some(tap) = self.streams.get_mut(&id) else { return };
        let Some((mut bytes, done)) = tap.waits.take() else { return };
        while !bytes.is_empty() {
            let room = self.link.room(id);
            if room == 0 {
                tap.waits = Some((bytes, done));
                return;
            }
            let piece = bytes.split_to(room.min(bytes.len()));
            self.link.on(self.clock.now(), Input::Data(id, piece), out);
        }
        _ = done.send(());
    }

    /// A stream is over.
    fn close(&mut self, id: StreamId, failed: Option<&str>) {
        if let Some(tap) = self.streams.remove(&id) {
            tap.task.abort();
            let took = tap.call.then(|| tap.head.unwrap_or_else(|| tap.began.elapsed()));
            self.view.ended(&tap.offer, took, failed);
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send { count, message } => self.say(count, Message::Frame(message)),
                Effect::Ping => self.say(None, Message::Ping),
                Effect::Pong => self.say(None, Message::Pong),
                Effect::Drop(why) => {
                    let why = why.to_owned();
                    self.lost(&if self.spoken { Why::Later(why) } else { Why::Silent(why) });
                }
                Effect::Close(bye) => self.over(&bye),
                Effect::Up { resumed, verdicts } => {
                    self.up_since = Some(Instant::now());
                    self.welcomed = true;
                    if let State::Connected(wire) = &self.state {
                        self.ways.welcomed(wire.is_websocket(), Instant::now());
                        self.view.connected(wire.transport, resumed);
                    }
                    self.view.verdicts(&verdicts);
                    self.verdicts = Some(verdicts);
                }
                Effect::Verdicts(verdicts) => {
                    self.view.verdicts(&verdicts);
                    self.verdicts = Some(verdicts);
                }
                Effect::Open(id, head) => {
                    let mut more = Vec::new();
                    self.open(id, head, &mut more);
                    effects.extend(more);
                }
                Effect::Data(id, bytes) => {
                    if let Some(tap) = self.streams.get(&id) {
                        _ = tap.pieces.send(Piece::Data(bytes));
                    }
                }
                Effect::End(id) => {
                    if let Some(tap) = self.streams.get(&id) {
                        _ = tap.pieces.send(Piece::End);
                    }
                }
                Effect::Reset(id, reset) => {
                    let failed = reset.code != ResetCode::Cancelled;
                    self.close(id, failed.then_some(&reset.words));
                }
                Effect::Room(id) => {
                    let mut more = Vec::new();
                    self.push(id, &mut more);
                    effects.extend(more);
                }
                // Only the edge is answered.
                Effect::Head(..) => {}
            }
        }
    }

    fn say(&self, count: Option<u64>, message: Message) {
        if let State::Connected(wire) = &self.state {
            wire.say(self.link.session(), count, message);
        }
    }

    /// The session is over.
    fn over(&mut self, bye: &Bye) {
        if self.ended.is_some() {
            return;
        }
        let words = super::view::plain(&bye.words);
        if bye.code.may_dial_again() {
            self.lost(&Why::Later(words));
        } else {
            self.ended = Some(Ended::Refused(words));
        }
    }

    fn open(&mut self, id: StreamId, head: frame::Request, out: &mut Vec<Effect>) {
        let offer = head.target.clone();
        let Some(target) = self.targets.get(&offer).cloned() else {
            let words = format!("companion {:?} does not offer {offer}", self.options.name);
            let left_out = self.targets.left_out.iter().find(|(known, _)| *known == offer);
            let words = match left_out {
                Some((_, reason)) => format!("{words}: {reason}"),
                None => words,
            };
            return self.link.on(
                self.clock.now(),
                Input::Reset(id, Reset::new(ResetCode::NotOffered, words)),
                out,
            );
        };
        self.view.began(&offer);
        let (pieces, inbox) = mpsc::unbounded_channel();
        let outlet = Outlet { stream: id, desk: self.asks.0.clone() };
        let exposed = Exposed::new(offer.name(), &self.allow);
        let call = head.method == "POST";
        let task = tokio::spawn(answer::answer(self.kitchen.clone(), target, exposed, head, inbox, outlet));
        let tap = Tap {
            task: task.abort_handle(),
            pieces,
            waits: None,
            offer,
            began: Instant::now(),
            head: None,
            call,
        };
        self.streams.insert(id, tap);
    }

    async fn check(&mut self) {
        let Some(verdicts) = self.verdicts.take() else { return };
        let checked = check::all(&self.kitchen, &self.targets, &verdicts, &self.allow).await;
        let bye = Bye::new(ByeCode::Shutdown, "the companion has checked what it offers");
        let mut out = Vec::new();
        self.link.on(self.clock.now(), Input::Close(bye), &mut out);
        self.ended = Some(Ended::Checked(checked));
        self.perform(out);
    }
}

/// Between half of `step` and all of it: many companions that lost one gateway must not come back as one.
fn jitter(step: Duration) -> Duration {
    let mut chance = [0];
    // Without chance the pauses are merely the same for everybody.
    _ = getrandom::fill(&mut chance);
    let [chance] = chance;
    step / 2 + step.mul_f64(f64::from(chance) / 510.0)
}

/// Time that goes on while the machine sleeps, and never back.
struct Wall {
    began: Instant,
    began_at: u64,
    /// How much more the wall's clock has gone than the machine's.
    slept: u64,
}

impl Wall {
    /// Less is a clock being put right.
    const NOTICED: u64 = 2000;

    fn new() -> Self {
        Self { began: Instant::now(), began_at: epoch(), slept: 0 }
    }

    fn now(&mut self) -> Timestamp {
        let awake = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at(awake, epoch())
    }

    fn at(&mut self, awake: u64, wall: u64) -> Timestamp {
        let own = self.began_at.saturating_add(awake);
        if wall > own.saturating_add(self.slept).saturating_add(Self::NOTICED) {
            self.slept = wall - own;
        }
        Timestamp(own.saturating_add(self.slept))
    }
}

fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_while_the_machine_sleeps_and_never_back() {
        let mut wall = Wall { began: Instant::now(), began_at: 1_000_000, slept: 0 };
        assert_eq!(wall.at(5, 1_000_005), Timestamp(1_000_005));
        assert_eq!(wall.at(10, 1_000_900), Timestamp(1_000_010), "a clock that is put right");
        assert_eq!(wall.at(20, 2_000_020), Timestamp(2_000_020), "a sleep");
        assert_eq!(wall.at(30, 5), Timestamp(2_000_030), "a clock that is put back");
    }

    #[test]
    fn pauses_have_chance_in_them() {
        for _ in 0..50 {
            let pause = jitter(Duration::from_millis(100));
            assert!((50..=100).contains(&pause.as_millis()));
        }
    }
}
