//! Both ends against each other, over a wire that loses, delays and splits as told.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::super::code::ResetCode;
use super::*;

const SESSION: SessionId = SessionId([9; 16]);
const COMPANION: CompanionId = CompanionId([5; 16]);
const OTHER: CompanionId = CompanionId([6; 16]);

fn limits() -> Limits {
    Limits { window: 1024, frame: 1024, ..Limits::default() }
}

fn offers() -> Vec<Offer> {
    vec![Offer::server("files")]
}

fn companion(limits: Limits, id: CompanionId) -> Link {
    Link::companion(limits, "laptop", offers()).known_as(id)
}

fn request() -> Request {
    Request::post(Offer::server("files"), "/mcp")
}

/// Two ends and what is on its way between them.
struct World {
    now: Timestamp,
    edge: Option<Link>,
    companion: Link,
    up: VecDeque<Bytes>,
    down: VecDeque<Bytes>,
    connected: bool,
    /// The edge is on a connection whose companion has left it, and does not know.
    ghost: bool,
    /// Every hello so far.
    hellos: Vec<Bytes>,
    /// What each end's owner was told.
    at_edge: Vec<Effect>,
    at_companion: Vec<Effect>,
    sessions: u8,
    limits: Limits,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            now: Timestamp(1_000_000),
            edge: None,
            companion: companion(limits.clone(), COMPANION),
            up: VecDeque::new(),
            down: VecDeque::new(),
            connected: false,
            ghost: false,
            hellos: Vec::new(),
            at_edge: Vec::new(),
            at_companion: Vec::new(),
            sessions: 0,
            limits,
        }
    }

    fn connected(limits: Limits) -> Self {
        let mut world = Self::new(limits);
        world.dial();
        world.run();
        world.at_companion.clear();
        world
    }

    fn dial(&mut self) {
        self.connected = true;
        self.companion(Input::Dialled);
        self.hellos.extend(self.up.back().cloned());
    }

    fn lose(&mut self) {
        self.connected = false;
        self.up.clear();
        self.down.clear();
        self.companion(Input::Lost);
        self.edge(Input::Lost);
    }

    fn did_at_edge(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Send { message, .. } if self.connected && !self.ghost => self.down.push_back(message),
                Effect::Send { .. } => {}
                told => self.at_edge.push(told),
            }
        }
    }

    fn edge(&mut self, input: Input) {
        let mut out = Vec::new();
        let Some(edge) = &mut self.edge else { return };
        edge.on(self.now, input, &mut out);
        self.did_at_edge(out);
    }

    fn open(&mut self) -> StreamId {
        let mut out = Vec::new();
        let id = self.edge.as_mut().unwrap().open(self.now, request(), &mut out).unwrap();
        self.did_at_edge(out);
        id
    }

    fn companion(&mut self, input: Input) {
        let mut out = Vec::new();
        self.companion.on(self.now, input, &mut out);
        for effect in out {
            match effect {
                Effect::Send { message, .. } if self.connected => self.up.push_back(message),
                Effect::Send { .. } => {}
                told => self.at_companion.push(told),
            }
        }
    }

    /// One message arrives at the edge.
    fn step_up(&mut self) -> bool {
        let Some(message) = self.up.pop_front() else { return false };
        let Ok(hello) = Hello::read(&message) else {
            self.edge(Input::Frame(message));
            return true;
        };
        self.ghost = false;
        if let Some(bye) = self.greet(hello) {
            self.down.push_back(bye.encode());
        }
        true
    }

    /// The hello `which` arrives, which was held up until its companion had left that connection. What is said to it if it
    /// is not welcome.
    fn late(&mut self, which: usize) -> Option<ByeCode> {
        let ghost = std::mem::replace(&mut self.ghost, true);
        let refused = self.greet(Hello::read(&self.hellos[which]).unwrap());
        // Who is not welcome changes nothing.
        self.ghost = if refused.is_some() { ghost } else { true };
        refused.map(|bye| bye.code)
    }

    fn greet(&mut self, hello: Hello) -> Option<Bye> {
        let verdicts: Vec<_> = hello.offers.iter().cloned().map(Verdict::accepted).collect();
        let mut out = Vec::new();
        match self.edge.as_ref().map(|edge| edge.greeting(self.now, &hello)) {
            Some(Greeting::Resume) => self.edge(Input::Hello(hello, verdicts)),
            Some(Greeting::Refuse(bye)) => return Some(bye),
            other => {
                if let Some(Greeting::TakeOver(bye)) = other {
                    // What the old connection is told does not reach the new one.
                    let (connected, now) = (std::mem::take(&mut self.connected), self.now);
                    self.edge(Input::Close(bye));
                    (self.connected, self.now) = (connected, now);
                }
                self.sessions += 1;
                let id = SessionId([self.sessions; 16]);
                self.edge = Some(Link::edge(self.now, self.limits.clone(), id, &hello, verdicts, &mut out));
                self.did_at_edge(out);
            }
        }
        None
    }

    fn step_down(&mut self) -> bool {
        let Some(message) = self.down.pop_front() else { return false };
        self.companion(Input::Frame(message));
        true
    }

    fn run(&mut self) {
        while self.step_up() | self.step_down() {}
    }

    fn after(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.edge(Input::Tick);
        self.companion(Input::Tick);
    }

    fn resets(told: &[Effect]) -> Vec<ResetCode> {
        let code = |effect: &Effect| match effect {
            Effect::Reset(_, reset) => Some(reset.code),
            _ => None,
        };
        told.iter().filter_map(code).collect()
    }
}

fn text(bytes: &'static str) -> Bytes {
    Bytes::from_static(bytes.as_bytes())
}

#[test]
fn a_call_goes_there_and_back() {
    let mut world = World::connected(limits());
    let id = world.open();
    world.edge(Input::Data(id, text("question")));
    world.edge(Input::End(id));
    world.run();
    assert_eq!(
        world.at_companion,
        [Effect::Open(id, request()), Effect::Data(id, text("question")), Effect::End(id)]
    );
    world.companion(Input::Head(id, Response::new(200)));
    world.companion(Input::Data(id, text("answer")));
    world.companion(Input::End(id));
    world.run();
    assert_eq!(
        world.at_edge,
        [Effect::Head(id, Response::new(200)), Effect::Data(id, text("answer")), Effect::End(id)]
    );
    let edge = world.edge.unwrap();
    assert_eq!((edge.streams(), world.companion.streams()), (0, 0));
    assert_eq!((edge.kept(), world.companion.kept()), (0, 0), "an idle link owes nothing");
}

#[test]
fn a_cancelled_stream_ends_at_the_other_end() {
    let mut world = World::connected(limits());
    let id = world.open();
    world.run();
    world.edge(Input::Reset(id, Reset::new(ResetCode::Cancelled, "gone")));
    // What is on its way meanwhile is passed over.
    world.companion(Input::Head(id, Response::new(200)));
    world.run();
    assert_eq!(World::resets(&world.at_companion), [ResetCode::Cancelled]);
    assert_eq!(world.at_edge, []);
}

#[test]
fn a_slow_reader_stops_its_own_stream_only() {
    let mut world = World::connected(limits());
    let (slow, quick) = (world.open(), world.open());
    world.run();
    for id in [slow, quick] {
        world.companion(Input::Head(id, Response::new(200)));
    }
    let mut sent = 0;
    loop {
        let room = world.companion.room(slow);
        if room == 0 {
            break;
        }
        world.companion(Input::Data(slow, vec![0; room].into()));
        sent += room;
        world.run();
    }
    assert!((900..1024).contains(&sent), "a window full: {sent}");
    assert!(world.companion.room(quick) > 0);
    world.companion(Input::Data(quick, text("here")));
    world.run();
    assert!(world.at_edge.contains(&Effect::Data(quick, text("here"))));
    assert!(!world.at_companion.contains(&Effect::Room(slow)));
    world.edge(Input::Read(slow, sent));
    world.run();
    assert!(world.at_companion.contains(&Effect::Room(slow)));
    assert!(world.companion.room(slow) > 0);
}

#[test]
fn whoever_overruns_its_credit_loses_the_link() {
    let mut world = World::connected(limits());
    let id = world.open();
    world.run();
    world.up.push_back(Frame::Head(id, Response::new(200)).encode());
    for _ in 0..2 {
        world.up.push_back(Frame::Data(id, vec![0; 900].into()).encode());
    }
    world.run();
    let Some(Effect::Close(bye)) = world.at_edge.last() else { panic!("{:?}", world.at_edge) };
    assert_eq!(bye.code, ByeCode::Overrun);
    assert_eq!(bye.words, "900 bytes on stream 1, which has credit for 92");
    assert!(world.at_companion.iter().any(|told| matches!(told, Effect::Close(_))), "and is told why");
    assert_eq!(World::resets(&world.at_companion), [ResetCode::Lost]);
}

#[test]
fn what_the_protocol_forbids_ends_the_link() {
    let one = StreamId(1);
    for forbidden in [
        Frame::Open(one, request()),
        Frame::End(one),
        Frame::End(StreamId(2)),
        Frame::End(StreamId(0)),
        Frame::Data(one, text("before the head")),
        Frame::Data(one, Bytes::new()),
        Frame::Credit(one, 0),
        Frame::Credit(one, u32::MAX),
        Frame::Ack(100),
        Frame::Verdicts(Vec::new()),
    ] {
        let mut world = World::connected(limits());
        world.open();
        world.run();
        world.up.push_back(forbidden.encode());
        world.run();
        assert!(world.edge.unwrap().is_over(), "{forbidden:?}");
    }
}

#[test]
fn a_call_in_flight_outlives_a_short_drop() {
    let mut world = World::connected(limits());
    let id = world.open();
    world.edge(Input::Data(id, text("question")));
    world.run();
    world.companion(Input::Head(id, Response::new(200)));
    world.edge(Input::End(id));
    world.lose();
    world.companion(Input::Data(id, text("answer")));
    world.companion(Input::End(id));
    world.after(Duration::from_secs(30));
    world.dial();
    world.run();
    assert!(world.at_companion.iter().any(|told| matches!(told, Effect::Up { resumed: true, .. })));
    assert_eq!(
        world.at_edge,
        [Effect::Head(id, Response::new(200)), Effect::Data(id, text("answer")), Effect::End(id)]
    );
    assert_eq!(world.companion.kept(), 0);
}

#[test]
fn a_call_begun_while_the_link_is_away_is_made_when_it_is_back() {
    let mut world = World::connected(limits());
    world.lose();
    let id = world.open();
    world.edge(Input::End(id));
    world.dial();
    world.run();
    assert!(world.at_companion.contains(&Effect::End(id)));
}

#[test]
fn a_link_that_stays_away_fails_its_calls_once_at_each_end() {
    let mut world = World::connected(limits());
    world.open();
    world.run();
    world.lose();
    world.after(Duration::from_secs(59));
    assert_eq!(world.at_edge, []);
    assert_eq!(world.edge.as_ref().unwrap().wake_at(), Some(world.now.after(Duration::from_secs(1))));
    world.after(Duration::from_secs(1));
    assert_eq!(World::resets(&world.at_edge), [ResetCode::Lost]);
    assert_eq!(World::resets(&world.at_companion), [ResetCode::Lost]);
    let Effect::Reset(_, reset) = &world.at_edge[0] else { panic!() };
    assert_eq!(reset.words, "link laptop was lost and did not come back within 60 s");
    let refused = world.edge.as_mut().unwrap().open(world.now, request(), &mut Vec::new());
    assert_eq!(refused.unwrap_err().code, ResetCode::NotConnected);
    world.dial();
    world.run();
    assert!(world.at_companion.iter().any(|told| matches!(told, Effect::Up { resumed: false, .. })));
}

#[test]
fn a_gateway_that_began_anew_says_so() {
    let mut world = World::connected(limits());
    world.open();
    world.run();
    world.lose();
    world.edge = None;
    world.dial();
    world.run();
    assert_eq!(World::resets(&world.at_companion), [ResetCode::Lost]);
    let id = world.open();
    world.run();
    assert!(world.at_companion.contains(&Effect::Open(id, request())));
}

#[test]
fn a_companion_that_began_anew_takes_over() {
    let mut world = World::connected(limits());
    world.open();
    world.run();
    world.companion = companion(limits(), OTHER);
    world.dial();
    world.run();
    assert_eq!(World::resets(&world.at_edge), [ResetCode::Lost]);
    assert!(world.edge.unwrap().is_up() && world.companion.is_up());
}

#[test]
fn the_older_companion_is_told_when_it_comes_back() {
    let mut world = World::connected(limits());
    world.lose();
    let older = std::mem::replace(&mut world.companion, companion(limits(), OTHER));
    world.dial();
    world.run();
    let newer = std::mem::replace(&mut world.companion, older);
    world.dial();
    world.run();
    let Some(Effect::Close(bye)) = world.at_companion.last() else { panic!() };
    assert_eq!(bye.code, ByeCode::Replaced);
    assert!(!bye.code.may_dial_again() && newer.is_up() && world.edge.unwrap().is_up());
}

/// A companion whose network lets its dials through late, and each of them after it has given that one up.
fn held_up(mut world: World, dials: usize) -> World {
    world.lose();
    for _ in 0..dials {
        world.dial();
        world.lose();
    }
    world.dial();
    world
}

#[test]
fn a_hello_that_was_held_up_and_begins_a_session_keeps_nobody_away() {
    for first in 1..=3 {
        let mut world = World::connected(limits());
        world.open();
        world.run();
        world.edge = None;
        let mut world = held_up(world, 3);
        assert_eq!(world.late(first), None, "the edge knows of no other");
        world.run();
        assert!(matches!(world.at_companion.last(), Some(Effect::Up { resumed: false, .. })), "{first}");
        let told: Vec<_> = world.at_edge.iter().filter(|told| matches!(told, Effect::Close(_))).collect();
        assert!(matches!(told[..], [Effect::Close(Bye { code: ByeCode::Lost, .. })]), "{told:?}");
        // What else was held up comes to nothing.
        for late in 0..4 {
            assert_eq!(world.late(late), Some(ByeCode::Stale), "{late} after {first}");
        }
        let id = world.open();
        world.run();
        assert!(world.at_companion.contains(&Effect::Open(id, request())));
    }
}

#[test]
fn a_companion_that_was_never_welcome_is_not_kept_away_by_itself_either() {
    let mut world = held_up(World::new(limits()), 2);
    assert_eq!(world.late(0), None);
    world.run();
    assert!(world.companion.is_up());
    assert_eq!(world.late(1), Some(ByeCode::Stale));
    assert!(world.companion.is_up() && world.edge.unwrap().is_up());
}

#[test]
fn a_call_in_flight_outlives_hellos_in_the_wrong_order() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut world = World::connected(limits());
        let id = world.open();
        world.edge(Input::End(id));
        world.run();
        let mut world = held_up(world, 3);
        let mut newest = 0;
        for late in order {
            let stale = (late < newest).then_some(ByeCode::Stale);
            assert_eq!(world.late(late), stale, "{late} in {order:?}");
            newest = newest.max(late);
        }
        world.run();
        world.companion(Input::Head(id, Response::new(200)));
        world.companion(Input::End(id));
        world.run();
        assert_eq!(world.at_edge, [Effect::Head(id, Response::new(200)), Effect::End(id)], "{order:?}");
    }
}

#[test]
fn a_companion_that_does_not_say_which_it_is_is_known_by_its_session() {
    let mut world = World::new(limits());
    world.companion = Link::companion(limits(), "laptop", offers());
    world.dial();
    world.run();
    let mut world = held_up(world, 1);
    assert!(!String::from_utf8_lossy(&world.hellos[0]).contains("dial"));
    assert_eq!(world.late(1), None);
    world.run();
    assert!(matches!(world.at_companion.last(), Some(Effect::Up { resumed: true, .. })));
    // A gateway that has forgotten the session cannot tell.
    world.edge = None;
    let mut world = held_up(world, 1);
    assert_eq!(world.late(3), None);
    world.run();
    assert!(matches!(world.at_companion.last(), Some(Effect::Close(Bye { code: ByeCode::Replaced, .. }))));
}

#[test]
fn one_companion_takes_from_another_only_what_a_later_dial_may() {
    let mut world = World::connected(limits());
    world.lose();
    let older = std::mem::replace(&mut world.companion, companion(limits(), OTHER));
    world.dial();
    world.run();
    // The other one's dials count for themselves.
    let newer = std::mem::replace(&mut world.companion, older);
    for _ in 0..5 {
        world.lose();
        world.dial();
        let last = world.hellos.len() - 1;
        assert_eq!(world.late(last), Some(ByeCode::Replaced));
    }
    assert!(newer.is_up());
}

#[test]
fn a_companion_that_is_told_that_its_dial_is_old_dials_again_and_keeps_its_calls() {
    let mut world = World::connected(limits());
    let id = world.open();
    world.edge(Input::End(id));
    world.run();
    world.lose();
    world.dial();
    // On its way somebody has said the same twice, and answers with what was said to the second.
    let said = world.late(1);
    assert_eq!(said, None);
    world.run();
    assert_eq!(World::resets(&world.at_companion), []);
    assert!(matches!(world.at_companion.last(), Some(Effect::Drop(_))), "{:?}", world.at_companion);
    assert!(ByeCode::Stale.may_dial_again());
    world.dial();
    world.run();
    assert!(matches!(world.at_companion.last(), Some(Effect::Up { resumed: true, .. })));
    world.companion(Input::Head(id, Response::new(200)));
    world.companion(Input::End(id));
    world.run();
    assert_eq!(world.at_edge.last(), Some(&Effect::End(id)));
}

#[test]
fn dials_are_told_apart_after_a_link_was_put_away() {
    let mut world = World::connected(limits());
    world.lose();
    world.dial();
    world.run();
    let saved = world.edge.as_ref().unwrap().save().unwrap();
    world.edge = Link::restore(limits(), &saved);
    assert_eq!(world.late(0), Some(ByeCode::Stale));
    assert_eq!(world.late(1), Some(ByeCode::Stale));
    world.lose();
    world.dial();
    world.run();
    assert!(matches!(world.at_companion.last(), Some(Effect::Up { resumed: true, .. })));
    // What an earlier version has put away says nothing of that.
    let mut saved: serde_json::Value = serde_json::from_slice(&saved).unwrap();
    let removed = saved.as_object_mut().unwrap();
    assert!(removed.remove("companion").is_some() && removed.remove("dial").is_some());
    let link = Link::restore(limits(), &serde_json::to_vec(&saved).unwrap()).unwrap();
    assert!(link.is_up());
}

#[test]
fn a_companion_that_counts_as_far_as_numbers_go_only_keeps_itself_away() {
    let mut world = World::connected(limits());
    let mut hello = Hello::read(&world.hellos[0]).unwrap();
    hello.dial = u64::MAX;
    let edge = world.edge.as_ref().unwrap();
    assert_eq!(
        edge.greeting(world.now, &hello),
        edge.greeting(world.now, &Hello { dial: 2, ..hello.clone() })
    );
    assert_eq!(world.greet(hello.clone()), None);
    assert_eq!(world.greet(hello).map(|bye| bye.code), Some(ByeCode::Stale));
    world.lose();
    world.companion = companion(limits(), OTHER);
    world.dial();
    world.run();
    assert!(world.companion.is_up());
}

#[test]
fn a_dead_connection_is_noticed_by_both_ends() {
    let mut world = World::connected(limits());
    world.open();
    world.run();
    // Nothing arrives any more, and nothing says so.
    world.after(Duration::from_secs(7));
    assert!(world.at_edge.contains(&Effect::Ping) && world.at_companion.contains(&Effect::Ping));
    world.edge(Input::Pong);
    world.after(Duration::from_secs(6));
    world.edge(Input::Pong);
    world.after(Duration::from_secs(4));
    assert!(matches!(world.at_companion.last(), Some(Effect::Drop(_))));
    assert!(!world.companion.is_up() && world.edge.unwrap().is_up());
}

#[test]
fn an_idle_link_is_asked_by_the_companion_only() {
    let mut world = World::connected(limits());
    world.after(Duration::from_secs(20));
    assert_eq!((&world.at_edge[..], &world.at_companion[..]), (&[][..], &[Effect::Ping][..]));
    world.edge(Input::Ping);
    assert_eq!(world.at_edge, [Effect::Pong]);
    world.companion(Input::Pong);
    // The edge of a host that sleeps has no alarm at all.
    let mut sleeping = World::connected(Limits { watch: false, ..limits() });
    assert_eq!(sleeping.edge.as_ref().unwrap().wake_at(), None);
    sleeping.after(Duration::from_secs(3600));
    sleeping.companion(Input::Dialled);
    sleeping.at_edge.clear();
    sleeping.open();
    sleeping.edge(Input::Tick);
    assert_eq!(sleeping.at_edge, []);
}

#[test]
fn a_machine_that_slept_dials_at_once() {
    let mut world = World::connected(limits());
    world.after(Duration::from_secs(3600));
    assert!(matches!(world.at_companion.last(), Some(Effect::Drop(_))));
}

#[test]
fn an_idle_link_is_put_away_and_taken_up_again() {
    let mut world = World::connected(limits());
    let id = world.open();
    assert_eq!(world.edge.as_ref().unwrap().save(), None, "it is not idle");
    world.run();
    world.companion(Input::Head(id, Response::new(202)));
    world.companion(Input::End(id));
    world.run();
    let saved = world.edge.as_ref().unwrap().save().unwrap();
    assert!(saved.len() < super::super::saved::MAX_SAVED, "{}", saved.len());
    world.edge = Link::restore(limits(), &saved);
    let id = world.open();
    world.edge(Input::End(id));
    world.run();
    assert!(world.at_companion.contains(&Effect::End(id)));
    world.lose();
    world.companion(Input::Head(id, Response::new(202)));
    world.companion(Input::End(id));
    world.dial();
    world.run();
    assert_eq!(world.at_edge.last(), Some(&Effect::End(id)));
    assert!(Link::restore(limits(), b"{}").is_none());
}

#[test]
fn an_end_that_never_acknowledges_loses_the_link() {
    let mut world = World::connected(limits());
    for _ in 0..MOST_KEPT {
        let mut out = Vec::new();
        let edge = world.edge.as_mut().unwrap();
        match edge.open(world.now, request(), &mut out) {
            Ok(id) => world.edge(Input::Reset(id, Reset::new(ResetCode::Cancelled, ""))),
            Err(reset) => {
                assert_eq!(reset.code, ResetCode::Busy);
                return;
            }
        }
    }
    panic!("it took everything");
}

#[test]
fn what_is_kept_is_bounded_and_goes_on_when_acknowledged() {
    let wide = Limits { window: 1 << 30, retain: 0, ..limits() };
    let mut world = World::connected(wide);
    let id = world.open();
    world.run();
    world.companion(Input::Head(id, Response::new(200)));
    while world.companion.room(id) > 0 {
        world.companion(Input::Data(id, vec![0; 1000].into()));
    }
    assert!(world.companion.kept() <= LEAST_KEPT + 2000);
    world.run();
    assert!(world.at_companion.contains(&Effect::Room(id)));
}

#[test]
fn posted_batches_are_taken_once() {
    let mut world = World::connected(limits());
    let id = world.open();
    world.run();
    let session = world.companion.session().unwrap();
    let head = Message::Frame(Frame::Head(id, Response::new(200)).encode());
    let data = Message::Frame(Frame::Data(id, text("x")).encode());
    let mut out = Vec::new();
    let edge = world.edge.as_mut().unwrap();
    let now = world.now;
    assert_eq!(edge.batch(now, session, 0, vec![head.clone(), Message::Ping], &mut out), Ok(1));
    assert_eq!(out, [Effect::Head(id, Response::new(200)), Effect::Pong]);
    out.clear();
    assert_eq!(edge.batch(now, session, 0, vec![head, data.clone()], &mut out), Ok(2));
    assert_eq!(out, [Effect::Data(id, text("x"))]);
    assert_eq!(
        edge.batch(now, session, 3, vec![data.clone()], &mut out).unwrap_err().code,
        ByeCode::Protocol
    );
    assert_eq!(edge.batch(now, SESSION, 2, vec![data], &mut out).unwrap_err().code, ByeCode::Lost);
    assert!(!edge.is_over());
}

#[test]
fn too_large_a_head_fails_the_stream_and_not_the_link() {
    let mut world = World::connected(limits());
    let id = world.open();
    world.run();
    let mut response = Response::new(200);
    response.headers.0.push(("x".into(), vec![b'x'; 65_000].into()));
    response.headers.0.push(("y".into(), vec![b'x'; 65_000].into()));
    world.companion(Input::Head(id, response));
    world.run();
    assert_eq!(World::resets(&world.at_edge), [ResetCode::TooLarge]);
    assert!(world.edge.unwrap().is_up());
}

#[test]
fn a_second_life_of_a_stream_starts_at_the_same_place() {
    // Lost in every place of one exchange, at each end: it is as if nothing had happened.
    for cut in 0..12 {
        let mut world = World::connected(limits());
        let id = world.open();
        world.edge(Input::Data(id, text("question")));
        world.edge(Input::End(id));
        for step in 0.. {
            if step == cut {
                world.lose();
                world.dial();
            }
            if world.at_companion.contains(&Effect::End(id)) && world.companion.has(id) {
                world.companion(Input::Head(id, Response::new(200)));
                world.companion(Input::Data(id, text("answer")));
                world.companion(Input::End(id));
            }
            if !(world.step_down() | world.step_up()) && step > cut {
                break;
            }
        }
        let told: Vec<_> = world.at_edge.iter().filter(|told| !matches!(told, Effect::Drop(_))).collect();
        assert_eq!(told.len(), 3, "cut at {cut}: {told:?}");
    }
}

/// One thing that happens in a random world.
#[derive(Debug, Clone)]
enum Act {
    Open,
    Say {
        at_edge: bool,
        stream: usize,
        bytes: usize,
    },
    End {
        at_edge: bool,
        stream: usize,
    },
    Read {
        at_edge: bool,
    },
    Up,
    Down,
    Lose,
    Dial,
    /// A hello that was held up arrives: so many before the last.
    Late(usize),
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => Just(Act::Open),
        6 => (any::<bool>(), 0usize..4, 1usize..700).prop_map(|(at_edge, stream, bytes)| Act::Say { at_edge, stream, bytes }),
        2 => (any::<bool>(), 0usize..4).prop_map(|(at_edge, stream)| Act::End { at_edge, stream }),
        3 => any::<bool>().prop_map(|at_edge| Act::Read { at_edge }),
        6 => Just(Act::Up),
        6 => Just(Act::Down),
        1 => Just(Act::Lose),
        2 => Just(Act::Dial),
        1 => (0usize..4).prop_map(Act::Late),
        1 => (1u64..8).prop_map(Act::Wait),
    ];
    proptest::collection::vec(act, 1..200)
}

/// What each stream's ends have said and heard.
#[derive(Default)]
struct Told {
    said_down: Vec<u8>,
    said_up: Vec<u8>,
    heard_down: Vec<u8>,
    heard_up: Vec<u8>,
    ended_down: bool,
    ended_up: bool,
    heard_end_down: usize,
    heard_end_up: usize,
}

struct Random {
    world: World,
    told: BTreeMap<StreamId, Told>,
    unread_edge: Vec<(StreamId, usize)>,
    unread_companion: Vec<(StreamId, usize)>,
    next: u8,
}

impl Random {
    fn collect(&mut self) {
        for effect in std::mem::take(&mut self.world.at_companion) {
            match effect {
                Effect::Open(id, _) => {
                    self.world.companion(Input::Head(id, Response::new(200)));
                }
                Effect::Data(id, bytes) => {
                    self.unread_companion.push((id, bytes.len()));
                    self.told.get_mut(&id).unwrap().heard_down.extend_from_slice(&bytes);
                }
                Effect::End(id) => self.told.get_mut(&id).unwrap().heard_end_down += 1,
                Effect::Reset(id, reset) => panic!("{id:?} {reset:?}"),
                Effect::Close(bye) => panic!("{bye:?}"),
                _ => {}
            }
        }
        for effect in std::mem::take(&mut self.world.at_edge) {
            match effect {
                Effect::Data(id, bytes) => {
                    self.unread_edge.push((id, bytes.len()));
                    self.told.get_mut(&id).unwrap().heard_up.extend_from_slice(&bytes);
                }
                Effect::End(id) => self.told.get_mut(&id).unwrap().heard_end_up += 1,
                Effect::Reset(id, reset) => panic!("{id:?} {reset:?}"),
                Effect::Close(bye) => panic!("{bye:?}"),
                _ => {}
            }
        }
    }

    fn read(&mut self, at_edge: bool) {
        let unread = if at_edge { &mut self.unread_edge } else { &mut self.unread_companion };
        for (id, bytes) in std::mem::take(unread) {
            let input = Input::Read(id, bytes);
            if at_edge { self.world.edge(input) } else { self.world.companion(input) }
        }
    }

    fn say(&mut self, at_edge: bool, stream: usize, most: usize) {
        let Some(id) = self.told.keys().nth(stream).copied() else { return };
        let room = if at_edge {
            self.world.edge.as_mut().unwrap().room(id)
        } else if self.world.companion.has(id) {
            self.world.companion.room(id)
        } else {
            0
        };
        let bytes: Vec<u8> = (0..most.min(room)).map(|_| self.byte()).collect();
        if bytes.is_empty() {
            return;
        }
        let told = self.told.get_mut(&id).unwrap();
        if at_edge { &mut told.said_down } else { &mut told.said_up }.extend_from_slice(&bytes);
        let input = Input::Data(id, bytes.into());
        if at_edge { self.world.edge(input) } else { self.world.companion(input) }
    }

    fn byte(&mut self) -> u8 {
        self.next = self.next.wrapping_mul(5).wrapping_add(3);
        self.next
    }

    fn end(&mut self, at_edge: bool, stream: usize) {
        let Some(id) = self.told.keys().nth(stream).copied() else { return };
        let told = self.told.get_mut(&id).unwrap();
        if at_edge {
            if !told.ended_down && self.world.edge.as_ref().unwrap().has(id) {
                told.ended_down = true;
                self.world.edge(Input::End(id));
            }
        } else if !told.ended_up && told.heard_end_down > 0 && self.world.companion.has(id) {
            told.ended_up = true;
            self.world.companion(Input::End(id));
        }
    }
}

fn live(acts: &[Act]) {
    let mut random = Random {
        world: World::connected(limits()),
        told: BTreeMap::new(),
        unread_edge: Vec::new(),
        unread_companion: Vec::new(),
        next: 1,
    };
    for act in acts {
        match *act {
            Act::Open if random.told.len() < 4 => {
                let id = random.world.open();
                random.told.insert(id, Told::default());
            }
            Act::Open => {}
            Act::Say { at_edge, stream, bytes } => random.say(at_edge, stream, bytes),
            Act::End { at_edge, stream } => random.end(at_edge, stream),
            Act::Read { at_edge } => random.read(at_edge),
            Act::Up => _ = random.world.step_up(),
            Act::Down => _ = random.world.step_down(),
            Act::Lose => random.world.lose(),
            Act::Dial => {
                random.world.lose();
                random.world.dial();
            }
            Act::Late(before) => {
                // The one that counts comes as everything else does.
                if let Some(which) = random.world.hellos.len().checked_sub(2 + before) {
                    _ = random.world.late(which);
                }
            }
            Act::Wait(seconds) => {
                // Never so long that something is given up.
                if random.world.connected {
                    random.world.run();
                    random.world.edge(Input::Ping);
                    random.world.companion(Input::Pong);
                    random.world.after(Duration::from_millis(seconds * 500));
                }
            }
        }
        random.collect();
    }
    // Whatever happened, it can be brought to its end.
    random.world.lose();
    random.world.dial();
    for _ in 0..8 {
        random.world.run();
        random.collect();
        for at_edge in [true, false] {
            random.read(at_edge);
        }
        for stream in 0..4 {
            for at_edge in [true, false] {
                random.say(at_edge, stream, 100);
                random.world.run();
                random.collect();
                random.end(at_edge, stream);
                random.world.run();
                random.collect();
            }
        }
    }
    for (id, told) in &random.told {
        assert!(told.said_down == told.heard_down, "{id:?} down");
        assert!(told.said_up == told.heard_up, "{id:?} up");
        assert_eq!((told.heard_end_down, told.heard_end_up), (1, 1), "{id:?}");
    }
    assert_eq!((random.world.companion.kept(), random.world.edge.unwrap().kept()), (0, 0));
}

proptest! {
    #[test]
    fn every_byte_arrives_once_whatever_is_lost(acts in acts()) {
        live(&acts);
    }
}

#[test]
fn docs_show_the_bytes() {
    let page = include_str!("../../../docs/tunnel.md");
    let mut world = World::new(Limits::default());
    world.sessions = 8;
    world.dial();
    let json = |message: &Bytes| String::from_utf8(message[1..].to_vec()).unwrap();
    let hello = json(&world.up[0]);
    assert!(page.contains(&format!("\n{hello}\n")), "{hello}");
    world.step_up();
    let welcome = json(&world.down[0]);
    assert!(page.contains(&format!("\n{welcome}\n")), "{welcome}");
    world.run();

    let mut said = Vec::new();
    let mut take = |who: &str, way: &mut VecDeque<Bytes>| -> Vec<Bytes> {
        let messages: Vec<_> = way.drain(..).collect();
        said.extend(messages.iter().map(|message| (who.to_owned(), message.clone())));
        messages
    };
    let mut asked = request();
    (asked.path, asked.caller, asked.request_id) = (String::new(), "me".into(), "r1".into());
    asked.headers.0.push(("accept".into(), text("*/*")));
    let mut out = Vec::new();
    let id = world.edge.as_mut().unwrap().open(world.now, asked, &mut out).unwrap();
    world.did_at_edge(out);
    world.edge(Input::Data(id, text("{}")));
    world.edge(Input::End(id));
    for message in take("edge", &mut world.down) {
        world.companion(Input::Frame(message));
    }
    world.companion(Input::Head(id, Response::new(202)));
    world.companion(Input::Data(id, text("ok")));
    world.companion(Input::End(id));
    for message in take("companion", &mut world.up) {
        world.edge(Input::Frame(message));
    }
    take("edge", &mut world.down);

    let shown: Vec<(String, Vec<u8>)> = page
        .lines()
        .filter_map(|line| {
            let (who, hex) = line.split_once(' ').filter(|(who, _)| matches!(*who, "edge" | "companion"))?;
            let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
            let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).ok();
            Some((who.to_owned(), digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>()?))
        })
        .collect();
    let said: Vec<_> = said.into_iter().map(|(who, message)| (who, message.to_vec())).collect();
    assert_eq!(shown, said);
}

/// Valid traffic of a companion, for a hostile one to bend.
fn traffic() -> Vec<Bytes> {
    let id = StreamId(1);
    let frames = [
        Frame::Head(id, Response::new(200)),
        Frame::Data(id, text("some bytes of a body")),
        Frame::Credit(id, 64),
        Frame::Ack(1),
        Frame::End(id),
        Frame::Reset(StreamId(2), Reset::new(ResetCode::Failed, "no")),
        Frame::Head(StreamId(3), Response::new(404)),
        Frame::End(StreamId(3)),
        Frame::Bye(Bye::new(ByeCode::Shutdown, "enough")),
        Frame::Open(StreamId(9), request()),
        Frame::Verdicts(vec![Verdict::accepted(Offer::server("x"))]),
    ];
    frames.iter().map(Frame::encode).collect()
}

/// What a hostile end does with one message of the traffic.
#[derive(Debug, Clone)]
struct Bend {
    which: usize,
    at: usize,
    byte: u8,
    cut: Option<usize>,
    times: usize,
    tick: u64,
}

fn bends() -> impl Strategy<Value = Vec<Bend>> {
    let bend =
        (0usize..11, 0usize..64, any::<u8>(), proptest::option::of(0usize..64), 1usize..4, 0u64..20_000);
    let bend =
        bend.prop_map(|(which, at, byte, cut, times, tick)| Bend { which, at, byte, cut, times, tick });
    proptest::collection::vec(bend, 1..60)
}

/// Feeds both ends what `bends` make of valid traffic. Nothing panics, what is kept and open stays bounded, and every
/// stream ends at last.
fn hostile(bends: &[Bend]) {
    for companion in [false, true] {
        let mut world = World::connected(limits());
        for _ in 0..3 {
            world.open();
        }
        world.run();
        let mut ended = BTreeMap::<StreamId, usize>::new();
        for bend in bends {
            let mut message = traffic()[bend.which].to_vec();
            let at = bend.at % message.len();
            message[at] = bend.byte;
            message.truncate(bend.cut.map_or(usize::MAX, |cut| cut.max(1)));
            for _ in 0..bend.times {
                let input = Input::Frame(message.clone().into());
                if companion { world.companion(input) } else { world.edge(input) }
            }
            world.now = world.now.after(Duration::from_millis(bend.tick));
            if companion {
                world.companion(Input::Tick)
            } else {
                world.edge(Input::Tick)
            }
            let edge = world.edge.as_ref().unwrap();
            assert!(edge.streams() <= 512 && world.companion.streams() <= 512);
            assert!(edge.kept() <= 2 * LEAST_KEPT.max(4 << 20) && world.companion.kept() <= 2 * (4 << 20));
        }
        world.lose();
        world.after(Duration::from_secs(61));
        for effect in &world.at_edge {
            if let Effect::End(id) | Effect::Reset(id, _) = effect {
                *ended.entry(*id).or_default() += 1;
            }
        }
        assert_eq!(world.edge.as_ref().unwrap().streams(), 0, "no stream is stuck");
        assert_eq!(world.companion.streams(), 0, "no stream is stuck");
        assert!(ended.values().all(|times| *times == 1) && ended.len() == 3, "each ends once: {ended:?}");
    }
}

proptest! {
    #[test]
    fn bent_traffic_never_panics_and_never_leaves_a_stream(bends in bends()) {
        hostile(&bends);
    }
}

/// The same for as long as is wanted: `CAUSEWAY_FUZZ_SECONDS=600 cargo test --lib fuzz`.
#[test]
fn fuzz() {
    use proptest::strategy::ValueTree as _;
    #[expect(clippy::disallowed_methods, reason = "says how long the test is to take")]
    let seconds = std::env::var("CAUSEWAY_FUZZ_SECONDS");
    let seconds = seconds.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    // Time is of no matter to what is tried, only to how much of it.
    #[expect(clippy::disallowed_types, reason = "a test may look at a clock")]
    let began = std::time::Instant::now();
    let mut runner = proptest::test_runner::TestRunner::default();
    while began.elapsed() < Duration::from_secs(seconds) {
        hostile(&bends().new_tree(&mut runner).unwrap().current());
        live(&acts().new_tree(&mut runner).unwrap().current());
    }
}
