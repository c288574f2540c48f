//! WebSockets of a host that forgets everything but them: what is put away, and what it goes on with.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use causeway::config::plan::Offline;
use causeway::gateway::Gateway;
use causeway::gateway::dock::{Opening, Told};
use causeway::gateway::sockets::{Socket, Sockets};
use causeway::platform::{Clock as _, SeamError};
use causeway::relay::through;
use causeway::testing::Fake;
use causeway::tunnel::dock::Shown;
use causeway::tunnel::frame::Response as Head;
use causeway::tunnel::hello::{CompanionId, Offer};
use causeway::tunnel::pair::Message;
use causeway::tunnel::{Effect, Input, Limits, Link, StreamId};
use futures_util::StreamExt as _;
use http::{HeaderValue, Request, Response};

use crate::links::behind;
use crate::world::{World, plan};

/// A connection, as its host has it.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    said: VecDeque<Message>,
    kept: Option<String>,
    closed: Option<(u16, String)>,
    /// Nothing can be sent any more.
    broken: bool,
}

impl Wire {
    /// Whether the link is put away with it.
    fn has_link(&self) -> bool {
        self.0.lock().unwrap().kept.as_ref().is_some_and(|kept| kept.contains("\"saved\""))
    }

    fn closed(&self) -> Option<(u16, String)> {
        self.0.lock().unwrap().closed.clone()
    }
}

impl Socket for Wire {
    fn send(&self, message: &Message) -> bool {
        let mut state = self.0.lock().unwrap();
        let fine = !state.broken && state.closed.is_none();
        if fine {
            state.said.push_back(message.clone());
        }
        fine
    }

    fn close(&self, code: u16, reason: &str) {
        self.0.lock().unwrap().closed.get_or_insert((code, reason.to_owned()));
    }

    fn put_away(&self, text: &str) {
        assert!(text.len() <= 2048, "{text}");
        self.0.lock().unwrap().kept = Some(text.to_owned());
    }

    fn kept(&self) -> Option<String> {
        self.0.lock().unwrap().kept.clone()
    }
}

/// The host: a world, and the object that keeps the link `laptop`, with `files` behind it.
struct Host {
    world: World,
    wires: Vec<Wire>,
    object: Arc<Sockets<Wire>>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Told<Fake>>, SeamError>>>>;

impl Host {
    fn new() -> Self {
        let world = World::new(Fake::default().sleeping(), plan(vec![behind("files", Offline::Keep)]));
        Self { world, wires: Vec::new(), object: Sockets::new([]) }
    }

    /// Forgets everything but the connections and the store.
    fn forget(&mut self) {
        self.world.restart();
        self.wires.retain(|wire| wire.closed().is_none());
        self.object = Sockets::new(self.wires.iter().cloned());
    }

    fn accept(&mut self) -> Wire {
        let wire = Wire::default();
        self.wires.push(wire.clone());
        self.object.accepted(&wire, Opening { name: "laptop".to_owned(), caller: String::new() });
        wire
    }

    /// Works on what has arrived, and lets it go as far as it can.
    fn go_on(&self) {
        let gateway = Gateway::new(self.world.fake.clone(), self.world.instance.clone());
        if let Some(work) = self.object.go_on(&gateway) {
            self.world.fake.spawn(work);
        }
        self.world.fake.settle();
    }

    fn ask(&self, what: &'static str) -> Answer {
        let gateway = Gateway::new(self.world.fake.clone(), self.world.instance.clone());
        let mut request: Request<Bytes> = through::asking(what);
        request.headers_mut().insert(through::SERVER, HeaderValue::from_static("files"));
        let (answer, work) = self.object.ask(&gateway, "laptop", request);
        self.world.fake.spawn(work);
        Box::pin(answer)
    }

    /// Asks `files` something, which is on its way from then on.
    fn call(&self) -> Answer {
        let mut call = self.ask(through::EXCHANGE);
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        self.world.fake.settle();
        call
    }

    fn shown(&self) -> Shown {
        let body = self.world.fake.run(async {
            let answer = self.ask(through::STATE).await.unwrap();
            answer.into_body().next().await.unwrap().unwrap()
        });
        serde_json::from_slice(&body).unwrap()
    }
}

/// A companion with a connection.
struct Companion {
    link: Link,
    wire: Wire,
    streams: Vec<StreamId>,
    log: Vec<&'static str>,
}

impl Companion {
    fn dial(host: &mut Host) -> Self {
        let link = Link::companion(Limits::default(), "laptop", vec![Offer::server("files")]);
        let link = link.known_as(CompanionId([7; 16]));
        let mut companion = Self { link, wire: host.accept(), streams: vec![], log: vec![] };
        companion.on(host, Input::Dialled);
        companion.hear(host);
        companion
    }

    /// Dials again on a connection of its own.
    fn dial_again(&mut self, host: &mut Host) {
        self.on(host, Input::Lost);
        self.wire = host.accept();
        self.on(host, Input::Dialled);
        self.hear(host);
    }

    fn on(&mut self, host: &Host, input: Input) {
        let mut effects = Vec::new();
        self.link.on(host.world.fake.now(), input, &mut effects);
        for effect in effects {
            let message = match effect {
                Effect::Send { message, .. } => Message::Frame(message),
                Effect::Ping => Message::Ping,
                Effect::Pong => Message::Pong,
                Effect::Up { resumed, .. } => {
                    self.log.push(if resumed { "up again" } else { "up" });
                    continue;
                }
                Effect::Open(stream, _) => {
                    self.log.push("asked");
                    self.streams.push(stream);
                    continue;
                }
                Effect::Close(_) => {
                    self.log.push("bye");
                    continue;
                }
                _ => continue,
            };
            host.object.received(self.wire.clone(), message.encode());
        }
    }

    /// Hears what is said to it, until nothing more is.
    fn hear(&mut self, host: &Host) {
        host.go_on();
        loop {
            let said = self.wire.0.lock().unwrap().said.pop_front();
            match said {
                Some(Message::Frame(frame)) => self.on(host, Input::Frame(frame)),
                Some(Message::Ping) => self.on(host, Input::Ping),
                Some(Message::Pong) => self.on(host, Input::Pong),
                None => return,
            }
            host.go_on();
        }
    }

    /// Answers what it was asked, all at once.
    fn answer(&mut self, host: &Host, text: &'static str) {
        for stream in std::mem::take(&mut self.streams) {
            self.on(host, Input::Head(stream, Head::new(200)));
            self.on(host, Input::Data(stream, Bytes::from_static(text.as_bytes())));
            self.on(host, Input::End(stream));
        }
    }
}

fn read(host: &Host, answer: Answer) -> String {
    host.world.fake.run(async {
        let mut body = answer.await.unwrap().into_body();
        let mut whole = Vec::new();
        while let Some(chunk) = body.next().await {
            whole.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(whole).unwrap()
    })
}

/// A call goes through and is answered.
fn works(host: &Host, companion: &mut Companion) {
    let call = host.call();
    companion.hear(host);
    companion.answer(host, "yes");
    host.go_on();
    assert_eq!(read(host, call), "yes");
}

const ANEW: &str = "the gateway has started anew; dial again";

#[test]
fn an_idle_link_is_put_away_and_goes_on_when_all_else_is_forgotten() {
    let mut host = Host::new();
    let mut companion = Companion::dial(&mut host);
    assert_eq!(companion.log, ["up"]);
    for calls in 1..4 {
        assert!(companion.wire.has_link());
        host.forget();
        works(&host, &mut companion);
        assert_eq!(host.shown().facts.calls, calls);
    }
    assert_eq!(companion.log, ["up", "asked", "asked", "asked"]);
    assert_eq!(companion.wire.closed(), None);
}

#[test]
fn what_arrives_on_a_connection_wakes_its_link() {
    let mut host = Host::new();
    let mut companion = Companion::dial(&mut host);
    host.forget();
    companion.on(&host, Input::Lost);
    host.object.closed(companion.wire.clone());
    host.go_on();
    let shown = host.shown();
    assert!(!shown.connected && shown.resumable, "{shown:?}");
    companion.dial_again(&mut host);
    assert_eq!(companion.log, ["up", "up again"]);
    works(&host, &mut companion);
}

#[test]
fn while_a_call_is_under_way_nothing_is_put_away_and_who_forgets_it_says_so() {
    let mut host = Host::new();
    let mut companion = Companion::dial(&mut host);
    let call = host.call();
    companion.hear(&host);
    assert_eq!(companion.log, ["up", "asked"]);
    assert!(!companion.wire.has_link());
    drop(call);
    host.forget();
    companion.answer(&host, "too late");
    host.go_on();
    assert_eq!(companion.wire.closed(), Some((1012, ANEW.to_owned())));
    companion.dial_again(&mut host);
    works(&host, &mut companion);
}

#[test]
fn a_call_that_wakes_a_link_is_given_up_when_nobody_is_there() {
    let mut host = Host::new();
    let companion = Companion::dial(&mut host);
    host.forget();
    // What was known of the link takes its time, and the call is sent behind that.
    host.world.fake.slow_loads(Duration::from_millis(300));
    let before = host.world.fake.now();
    let error = host.world.fake.run(host.ask(through::EXCHANGE)).map(|_| ()).unwrap_err();
    assert!(matches!(error, SeamError::Cut(_) | SeamError::Offline(_)), "{error}");
    let took = host.world.fake.now().since(before);
    assert!(took < Duration::from_secs(120), "{took:?}");
    assert!(companion.wire.closed().is_some());
}

#[test]
fn a_heartbeat_before_the_hello_is_no_hello() {
    let mut host = Host::new();
    let wire = host.accept();
    host.object.received(wire.clone(), Bytes::from_static(b"ping"));
    host.go_on();
    let link = Link::companion(Limits::default(), "laptop", vec![Offer::server("files")]);
    let mut companion = Companion { link, wire, streams: vec![], log: vec![] };
    companion.on(&host, Input::Dialled);
    companion.hear(&host);
    assert_eq!(companion.log, ["up"]);
}

#[test]
fn a_connection_that_had_said_nothing_yet_is_closed_when_it_does_after_all() {
    let mut host = Host::new();
    let wire = host.accept();
    host.forget();
    host.object.received(wire.clone(), Bytes::from_static(b"\x01"));
    host.go_on();
    assert_eq!(wire.closed(), Some((1012, ANEW.to_owned())));
}

#[test]
fn a_connection_that_nothing_is_known_of_is_closed_when_it_says_something() {
    let host = Host::new();
    let wire = Wire::default();
    host.object.received(wire.clone(), Bytes::from_static(b"\x01"));
    host.go_on();
    assert_eq!(wire.closed(), Some((1012, "dial again".to_owned())));
}

#[test]
fn a_link_is_put_away_with_its_newest_connection_alone() {
    let mut host = Host::new();
    let mut companion = Companion::dial(&mut host);
    let old = companion.wire.clone();
    companion.dial_again(&mut host);
    assert_eq!(companion.log, ["up", "up again"]);
    assert!(companion.wire.has_link() && !old.has_link());
    // The host has not noticed yet that the old one is closed.
    assert!(old.closed().is_some());
    old.0.lock().unwrap().closed = None;
    host.forget();
    works(&host, &mut companion);
    assert_eq!(old.closed(), Some((1012, ANEW.to_owned())));
    assert_eq!(companion.wire.closed(), None);
}

#[test]
fn the_late_end_of_a_forgotten_connection_is_nobody_elses() {
    let mut host = Host::new();
    let mut companion = Companion::dial(&mut host);
    let idle = host.accept();
    host.forget();
    works(&host, &mut companion);
    assert!(idle.closed().is_some());
    companion.dial_again(&mut host);
    host.object.closed(idle);
    host.go_on();
    assert!(host.shown().connected);
    works(&host, &mut companion);
}

#[test]
fn what_arrives_before_there_is_a_gateway_is_taken_in_order() {
    let mut host = Host::new();
    let mut companion = Companion::dial(&mut host);
    let call = host.call();
    companion.hear(&host);
    // Head, body, end and the loss of the connection, and only then a gateway.
    companion.answer(&host, "all of it");
    host.object.closed(companion.wire.clone());
    host.go_on();
    assert_eq!(read(&host, call), "all of it");
    assert!(!host.shown().connected);
}

#[test]
fn a_connection_that_takes_nothing_is_lost_at_once() {
    let mut host = Host::new();
    let mut companion = Companion::dial(&mut host);
    companion.wire.0.lock().unwrap().broken = true;
    let mut call = host.call();
    let shown = host.shown();
    assert!(!shown.connected && shown.resumable, "{shown:?}");
    companion.dial_again(&mut host);
    assert_eq!(companion.log, ["up", "up again", "asked"]);
    companion.answer(&host, "yes");
    host.go_on();
    assert!(matches!(
        call.as_mut().poll(&mut Context::from_waker(Waker::noop())),
        Poll::Ready(Ok(answer)) if answer.status() == 200
    ));
}
