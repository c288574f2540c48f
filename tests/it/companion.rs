//! A companion in the fake world: the other end of a link, which passes requests on to fake servers.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use causeway::gateway::dock::Docked;
use causeway::platform::{Clock as _, Entropy as _, HttpClient as _, Platform as _, SeamError};
use causeway::testing::{Fake, FakeBody};
use causeway::tunnel::dock::{Line, Say};
use causeway::tunnel::frame::{Headers, Request, Response};
use causeway::tunnel::hello::{CompanionId, Offer};
use causeway::tunnel::pair::Message;
use causeway::tunnel::{Effect, Input, Limits, Link, Reset, ResetCode, StreamId};
use futures_util::Stream as _;
use http::HeaderMap;

/// A companion that is connected. Dropping this leaves it there.
#[derive(Clone)]
pub struct Companion {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cut: AtomicBool,
    /// Bytes of answers that were sent.
    sent: AtomicU64,
    /// What it says out of turn.
    extra: Mutex<Vec<Bytes>>,
    /// What has happened: `up`, `reset …`, `bye …`.
    log: Mutex<Vec<String>>,
    /// The link, for a companion that comes back.
    link: Mutex<Option<(Link, HashMap<StreamId, State>)>>,
    waker: Mutex<Option<std::task::Waker>>,
}

struct Working {
    fake: Fake,
    docked: Docked<Fake>,
    line: Line,
    link: Link,
    streams: HashMap<StreamId, State>,
    shared: Arc<Shared>,
}

type Sent = <Fake as causeway::platform::HttpClient>::Sent;

enum State {
    Hears(Request, BytesMut),
    Asks(Mutex<Sent>),
    Says(FakeBody, Bytes),
}

impl Companion {
    /// Dials in as `link`, with `servers` behind it, each at the host of its name.
    pub fn dial(fake: &Fake, link: &str, servers: &[&str]) -> Self {
        let offers = servers.iter().map(|name| Offer::server(*name)).collect();
        let mut id = [0; 16];
        fake.entropy().fill(&mut id);
        let end = Link::companion(Limits::default(), link, offers).known_as(CompanionId(id));
        Self::with(fake, link, end, HashMap::new())
    }

    /// Dials in again, as the one that was cut.
    pub fn back(self, fake: &Fake) -> Self {
        fake.settle();
        let (link, streams) = self.shared.link.lock().unwrap().take().unwrap();
        let name = link.name().to_owned();
        Self::with(fake, &name, link, streams)
    }

    fn with(fake: &Fake, name: &str, link: Link, streams: HashMap<StreamId, State>) -> Self {
        let shared = Arc::new(Shared::default());
        let docked = fake.dock(name);
        let line = docked.line();
        let mut working = Working { fake: fake.clone(), docked, line, link, streams, shared: shared.clone() };
        working.on(Input::Dialled);
        fake.tend(&working.docked);
        fake.spawn(working);
        fake.settle();
        Self { shared }
    }

    /// Its connection breaks.
    pub fn cut(&self, fake: &Fake) {
        self.shared.cut.store(true, Ordering::Relaxed);
        fake.settle();
    }

    /// The same, from within.
    pub fn cut_now(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
        if let Some(waker) = self.shared.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    /// Bytes of answers that it has sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// It says `message`, whatever that is.
    pub fn say(&self, fake: &Fake, message: Bytes) {
        self.shared.extra.lock().unwrap().push(message);
        fake.settle();
    }

    /// What has happened since it was last asked.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.log.lock().unwrap())
    }
}

impl Working {
    fn note(&self, what: impl Into<String>) {
        self.shared.log.lock().unwrap().push(what.into());
    }

    fn on(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.link.on(self.fake.now(), input, &mut effects);
        for effect in effects {
            self.does(effect);
        }
    }

    fn does(&mut self, effect: Effect) {
        match effect {
            Effect::Send { message, .. } => self.send(Message::Frame(message)),
            Effect::Ping => self.send(Message::Ping),
            Effect::Pong => self.send(Message::Pong),
            Effect::Up { resumed, verdicts } => {
                let refused: Vec<String> = verdicts
                    .iter()
                    .filter_map(|verdict| Some(format!("{}: {}", verdict.offer, verdict.refused.as_ref()?)))
                    .collect();
                self.note(format!("up{}", if resumed { " again" } else { "" }));
                refused.into_iter().for_each(|line| self.note(line));
            }
            Effect::Verdicts(verdicts) => {
                for verdict in verdicts {
                    self.note(format!("{} {:?}", verdict.offer, verdict.refused));
                }
            }
            Effect::Open(stream, request) => {
                self.streams.insert(stream, State::Hears(request, BytesMut::new()));
            }
            Effect::Data(stream, piece) => {
                if let Some(State::Hears(_, body)) = self.streams.get_mut(&stream) {
                    body.extend_from_slice(&piece);
                }
                self.on(Input::Read(stream, piece.len()));
            }
            Effect::End(stream) => self.ask(stream),
            Effect::Reset(stream, reset) => {
                self.streams.remove(&stream);
                self.note(format!("reset {:?}", reset.code));
            }
            Effect::Drop(why) => self.note(format!("drop {why}")),
            Effect::Close(bye) => self.note(format!("bye {:?}: {}", bye.code, bye.words)),
            Effect::Head(..) | Effect::Room(_) => {}
        }
    }

    fn send(&mut self, message: Message) {
        self.docked.received(&mut self.line, "ann", message);
        self.fake.tend(&self.docked);
    }

    fn ask(&mut self, stream: StreamId) {
        let Some(State::Hears(request, body)) = self.streams.remove(&stream) else { return };
        self.note(format!("asked by {:?} as {:?}", request.caller, request.request_id));
        let path = if request.path.is_empty() { "/mcp" } else { &request.path };
        let mut asked = http::Request::new(body.freeze());
        *asked.method_mut() = request.method.parse().unwrap();
        *asked.uri_mut() = format!("http://{}{path}", request.target.name()).parse().unwrap();
        *asked.headers_mut() = request.headers.to_map();
        let own: Vec<&str> = asked
            .headers()
            .keys()
            .map(http::HeaderName::as_str)
            .filter(|name| name.starts_with("causeway"))
            .collect();
        assert_eq!(own, [""; 0], "headers between gateway and owner go no further");
        self.streams.insert(stream, State::Asks(Mutex::new(self.fake.begin(asked))));
    }

    /// Works on a stream; `true` if something has happened.
    fn step(&mut self, stream: StreamId, context: &mut Context<'_>) -> bool {
        let Some(state) = self.streams.get_mut(&stream) else { return false };
        match state {
            State::Hears(..) => false,
            State::Asks(sent) => {
                let sent = Pin::new(sent.get_mut().unwrap());
                let Poll::Ready(answer) = std::future::Future::poll(sent, context) else { return false };
                match answer {
                    Ok(answer) => {
                        let (head, body) = answer.into_parts();
                        self.streams.insert(stream, State::Says(body, Bytes::new()));
                        let headers: &HeaderMap = &head.headers;
                        let head =
                            Response { status: head.status.as_u16(), headers: Headers::from_map(headers) };
                        self.on(Input::Head(stream, head));
                    }
                    Err(error) => {
                        self.streams.remove(&stream);
                        self.on(Input::Reset(stream, Reset::new(ResetCode::Connect, error.to_string())));
                    }
                }
                true
            }
            State::Says(body, rest) => {
                if !rest.is_empty() {
                    let room = self.link.room(stream).min(rest.len());
                    if room == 0 {
                        return false;
                    }
                    let piece = rest.split_to(room);
                    self.shared.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    self.on(Input::Data(stream, piece));
                    return true;
                }
                match Pin::new(body).poll_next(context) {
                    Poll::Pending => false,
                    Poll::Ready(Some(Ok(piece))) => {
                        *rest = piece;
                        true
                    }
                    Poll::Ready(end) => {
                        self.streams.remove(&stream);
                        self.on(match end {
                            Some(Err(SeamError::Cut(why))) => {
                                Input::Reset(stream, Reset::new(ResetCode::Cut, why))
                            }
                            _ => Input::End(stream),
                        });
                        true
                    }
                }
            }
        }
    }
}

impl Future for Working {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        *self.shared.waker.lock().unwrap() = Some(context.waker().clone());
        loop {
            if self.shared.cut.load(Ordering::Relaxed) {
                let entry = self.line.entry().clone();
                self.docked.lost(&entry);
                self.fake.tend(&self.docked);
                self.on(Input::Lost);
                let link = std::mem::replace(&mut self.link, Link::companion(Limits::default(), "-", vec![]));
                let streams = std::mem::take(&mut self.streams);
                *self.shared.link.lock().unwrap() = Some((link, streams));
                return Poll::Ready(());
            }
            let mut moved = false;
            let extra = std::mem::take(&mut *self.shared.extra.lock().unwrap());
            extra.into_iter().for_each(|message| self.send(Message::Frame(message)));
            while let Poll::Ready(say) = self.line.poll_say(context) {
                moved = true;
                match say {
                    Some(Say::Message(_, message)) => {
                        self.on(match message {
                            Message::Frame(frame) => Input::Frame(frame),
                            Message::Ping => Input::Ping,
                            Message::Pong => Input::Pong,
                        });
                    }
                    Some(Say::Close(bye)) => {
                        self.note(format!("closed {:?}", bye.code));
                        let entry = self.line.entry().clone();
                        self.docked.lost(&entry);
                        return Poll::Ready(());
                    }
                    None => return Poll::Ready(()),
                }
            }
            let streams: Vec<StreamId> = self.streams.keys().copied().collect();
            for stream in streams {
                moved |= self.step(stream, context);
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }
}
