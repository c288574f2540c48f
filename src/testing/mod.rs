//! A platform for tests: virtual time, scripted upstreams, and a trace of everything the core asks for.
//!
//! Nothing sleeps and nothing is sent. [`Fake::run`] drives a future and, whenever it can only wait, moves the
//! clock to the next moment that somebody waits for.

use std::collections::{HashMap, VecDeque};
use std::future::ready;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Request, Response};

use crate::gateway::Gateway;
use crate::gateway::dock::{Docked, Told};
use crate::instance::Instance;
use crate::mcp::mailbox::{Mailbox, Said};
use crate::platform::{
    Abilities, Clock, Entropy, Held, HttpClient, KeyValue, Links, Log, Mailboxes, Platform, Reach, SeamError,
    Secrets, StateStore, Swap, Timestamp, Version,
};
use crate::polled::{Asked, Polled};
use crate::relay::through::{self, ASK};
use crate::tunnel::dock::Dock;

/// One step of an upstream's answer.
#[derive(Debug, Clone)]
pub enum Step {
    /// Time passes.
    Wait(Duration),
    /// Bytes arrive.
    Send(Bytes),
    /// Nothing happens until somebody sets this.
    Until(Arc<AtomicBool>),
    /// The connection is cut.
    Cut,
    /// Nothing comes any more, and no end either.
    Stall,
    /// What comes is what [`Fake::say`] puts under this name, until it says [`Step::Over`].
    Hear(String),
    /// The end, for [`Step::Hear`].
    Over,
}

/// An upstream's answer.
#[derive(Debug, Clone)]
pub struct Script {
    /// How long the head takes.
    pub delay: Duration,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<Step>,
}

impl Script {
    /// An answer of `content_type` with a whole body.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            delay: Duration::ZERO,
            status,
            headers: vec![("content-type", content_type.to_owned())],
            body: vec![Step::Send(body.into())],
        }
    }

    /// An answer with a JSON body.
    #[must_use]
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::new(200, "application/json", body)
    }

    /// This answer with one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// What an upstream does with a request: answers it, or cannot be reached.
pub type Upstream = Arc<dyn Fn(&Request<Bytes>) -> Result<Script, SeamError> + Send + Sync>;

#[derive(Default)]
struct World {
    now: u64,
    timers: Vec<(u64, Waker)>,
    upstreams: HashMap<String, Upstream>,
    trace: Vec<String>,
    log: Vec<String>,
    secrets: HashMap<String, String>,
    state: HashMap<String, (Held, u64)>,
    load_time: Duration,
    no_loads: bool,
    values: HashMap<String, Bytes>,
    said: HashMap<String, VecDeque<Step>>,
    hearers: Vec<Waker>,
    version: u64,
    random: u64,
    dropped: u64,
    mailboxes: HashMap<String, Arc<Mailbox<Fake>>>,
    owner: Option<Arc<Instance>>,
    docks: HashMap<String, Arc<Dock>>,
    working: Vec<Work>,
    instances: u64,
}

/// Work of an instance, by its number; 0 is the host itself.
type Work = (u64, Pin<Box<dyn Future<Output = ()> + Send>>);

/// An instance of a host where nothing outlives a request.
struct Here {
    number: u64,
    polled: Arc<Polled<Fake>>,
    instance: Arc<Instance>,
}

/// The fake platform. Clones share one world.
#[derive(Clone)]
pub struct Fake {
    world: Arc<Mutex<World>>,
    abilities: Abilities,
    here: Option<Arc<Here>>,
    reach: Reach,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Default for Fake {
    fn default() -> Self {
        let world = World { now: 1_700_000_000_000, ..World::default() };
        let abilities = Abilities {
            host: "fake",
            processes: false,
            loopback_only: true,
            keyless: true,
            config_file: false,
            mailboxes: true,
            links: Links::Sockets,
        };
        Self { world: Arc::new(Mutex::new(world)), abilities, here: None, reach: Reach::Own }
    }
}

impl Fake {
    /// The same world on a host that others can reach.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.abilities.loopback_only = false;
        self.abilities.keyless = false;
        self
    }

    /// The same world on a host with several instances that share a store which is far away.
    #[must_use]
    pub fn far(mut self) -> Self {
        self.reach = Reach::Far;
        self
    }

    /// The same world on a host whose docks sleep while nothing happens.
    #[must_use]
    pub fn sleeping(mut self) -> Self {
        self.abilities.links = Links::SleepingSockets;
        self
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an upstream at `host` (`name` or `name:port`).
    pub fn upstream(
        &self,
        host: &str,
        answer: impl Fn(&Request<Bytes>) -> Result<Script, SeamError> + Send + Sync + 'static,
    ) {
        self.world().upstreams.insert(host.to_owned(), Arc::new(answer));
    }

    /// What the upstream at `host` does with a request.
    pub fn ask(&self, host: &str, request: &Request<Bytes>) -> Result<Script, SeamError> {
        let upstream = self.world().upstreams.get(host).cloned();
        upstream.ok_or_else(|| SeamError::Connect("connection refused".to_owned()))?(request)
    }

    /// What is loaded from the store is so long on its way from now on: it may be old when it comes.
    pub fn slow_loads(&self, time: Duration) {
        self.world().load_time = time;
    }

    /// Nothing can be loaded from the store from now on, or it can again.
    pub fn fail_loads(&self, fail: bool) {
        self.world().no_loads = fail;
    }

    /// Sets a secret.
    pub fn set_secret(&self, name: &str, value: &str) {
        self.world().secrets.insert(name.to_owned(), value.to_owned());
    }

    /// A further instance, which works with what `instance` knows, of a host where nothing outlives a request: it shares
    /// the store with the others, and nothing else.
    #[must_use]
    pub fn further(&self, instance: &Arc<Instance>) -> Self {
        let number = {
            let mut world = self.world();
            world.instances += 1;
            world.instances
        };
        let here = Here { number, polled: Arc::default(), instance: instance.clone() };
        let abilities = Abilities { links: Links::Posts, ..self.abilities };
        Self { here: Some(Arc::new(here)), abilities, ..self.clone() }
    }

    /// How many mailboxes this instance owns.
    pub fn owns(&self) -> usize {
        self.here.as_ref().map_or(0, |here| here.polled.owns())
    }

    /// Ends this instance, in the middle of whatever it does.
    pub fn die(&self) {
        let number = self.here.as_ref().map_or(0, |here| here.number);
        let ended: Vec<Work> = {
            let mut world = self.world();
            let working = std::mem::take(&mut world.working);
            let (ended, others) = working.into_iter().partition(|(of, _)| *of == number);
            world.working = others;
            ended
        };
        drop(ended);
    }

    /// Mailboxes work with what `instance` knows from now on. Those that there were are gone: the host was restarted.
    pub fn restart(&self, instance: &Arc<Instance>) {
        let (mailboxes, working) = {
            let mut world = self.world();
            world.owner = Some(instance.clone());
            let gone = (std::mem::take(&mut world.mailboxes), std::mem::take(&mut world.docks));
            (gone, std::mem::take(&mut world.working))
        };
        drop((mailboxes, working));
    }

    /// The dock of the link `name`, as its host has it.
    ///
    /// # Panics
    /// When there is no instance to work with ([`Self::restart`]).
    #[expect(clippy::panic, reason = "a test that begins at the end has failed")]
    pub fn dock(&self, name: &str) -> Docked<Self> {
        let (dock, owner) = {
            let mut world = self.world();
            (world.docks.entry(name.to_owned()).or_default().clone(), world.owner.clone())
        };
        let Some(owner) = owner else { panic!("no instance to work with") };
        Gateway::new(self.clone(), owner).dock(name, dock)
    }

    /// Does what is to be done for `docked`, as its host does whenever something was put in.
    pub fn tend(&self, docked: &Docked<Self>) {
        if let Some(work) = docked.tend() {
            self.world().working.push((0, Box::pin(work)));
        }
    }

    /// How many mailboxes there are, once those that are idle have gone.
    pub fn mailboxes(&self) -> usize {
        let mut world = self.world();
        world.mailboxes.retain(|_, mailbox| !mailbox.is_idle());
        world.mailboxes.len()
    }

    /// Runs `work` beside whatever else there is.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.world().working.push((0, Box::pin(work)));
    }

    /// Lets what runs beside go on as far as it can without time passing.
    pub fn settle(&self) {
        for _ in 0..8 {
            self.work(Waker::noop());
        }
    }

    /// Lets the work of mailboxes go on as far as it can.
    fn work(&self, waker: &Waker) {
        let mut working = std::mem::take(&mut self.world().working);
        working.retain_mut(|(_, work)| work.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        let mut world = self.world();
        // What they have set going meanwhile comes behind them.
        working.append(&mut world.working);
        world.working = working;
    }

    /// Everything asked since the last call.
    pub fn trace(&self) -> Vec<String> {
        std::mem::take(&mut self.world().trace)
    }

    /// The log lines since the last call.
    pub fn logged(&self) -> Vec<String> {
        std::mem::take(&mut self.world().log)
    }

    /// Upstream bodies that were dropped before their end.
    pub fn dropped(&self) -> u64 {
        self.world().dropped
    }

    /// Puts `step` where a body hears it ([`Step::Hear`]).
    pub fn say(&self, name: &str, step: Step) {
        let mut world = self.world();
        world.said.entry(name.to_owned()).or_default().push_back(step);
        let hearers = std::mem::take(&mut world.hearers);
        drop(world);
        hearers.into_iter().for_each(Waker::wake);
    }

    /// Lets time pass.
    pub fn pass(&self, span: Duration) {
        let until = self.world().now + u64::try_from(span.as_millis()).unwrap_or(0);
        self.work(Waker::noop());
        while self.wake_next(until) {
            self.work(Waker::noop());
        }
        self.world().now = until;
    }

    /// Drives `future` to its end.
    ///
    /// # Panics
    /// When it waits for something that never comes.
    #[expect(clippy::panic, reason = "a test that cannot go on has failed")]
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        struct Flag(AtomicU64);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let flag = Arc::new(Flag(AtomicU64::new(0)));
        let waker = Waker::from(flag.clone());
        let mut future = Box::pin(future);
        loop {
            let before = flag.0.load(Ordering::Relaxed);
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.work(&waker);
                return value;
            }
            self.work(&waker);
            if flag.0.load(Ordering::Relaxed) == before && !self.wake_next(u64::MAX) {
                panic!("the future waits for something that never comes; trace: {:?}", self.trace());
            }
        }
    }

    fn wake_next(&self, until: u64) -> bool {
        let mut world = self.world();
        let Some(next) = world.timers.iter().map(|(at, _)| *at).min().filter(|at| *at <= until) else {
            return false;
        };
        world.now = world.now.max(next);
        let (due, rest): (Vec<_>, Vec<_>) = world.timers.drain(..).partition(|(at, _)| *at <= next);
        world.timers = rest;
        drop(world);
        due.into_iter().for_each(|(_, waker)| waker.wake());
        true
    }
}

/// A wait in virtual time.
struct Sleep {
    fake: Fake,
    span: u64,
    until: Option<u64>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let fake = self.fake.clone();
        let mut world = fake.world();
        let latest = world.now.saturating_add(self.span);
        let until = *self.until.get_or_insert(latest);
        if world.now >= until {
            return Poll::Ready(());
        }
        world.timers.push((until, cx.waker().clone()));
        Poll::Pending
    }
}

impl Fake {
    fn wait(&self, span: Duration) -> Sleep {
        let millis = span.as_micros().div_ceil(1000);
        Sleep { fake: self.clone(), span: u64::try_from(millis).unwrap_or(u64::MAX / 2), until: None }
    }
}

impl Clock for Fake {
    fn now(&self) -> Timestamp {
        Timestamp(self.world().now)
    }

    fn ticks(&self) -> u64 {
        self.world().now * 1000
    }

    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + 'static {
        self.wait(span)
    }
}

/// What an upstream or a mailbox says.
pub enum FakeBody {
    /// A scripted body.
    Script(ScriptBody),
    /// A mailbox's.
    Said(Said),
    /// A dock's.
    Told(Told<Fake>),
    /// A dock's, wherever it is.
    Asked(Asked<Fake>),
}

impl Stream for FakeBody {
    type Item = Result<Bytes, SeamError>;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Script(body) => Pin::new(body).poll_next(cx),
            Self::Said(said) => Pin::new(said).poll_next(cx),
            Self::Told(told) => Pin::new(told).poll_next(cx),
            Self::Asked(asked) => Pin::new(asked).poll_next(cx),
        }
    }
}

impl Mailboxes for Fake {
    type Body = FakeBody;

    fn place(&self) -> String {
        self.here.as_ref().map(|here| here.polled.place(self).to_owned()).unwrap_or_default()
    }

    #[expect(refining_impl_trait, reason = "the type must be known without looking into what the owner does")]
    fn post(&self, key: &str, letter: Bytes) -> Posting {
        self.world().trace.push(format!("mailbox.post {}", kind_of(key)));
        if let Some(here) = self.here.clone() {
            let (fake, key) = (self.clone(), key.to_owned());
            return Box::pin(async move {
                let gateway = Gateway::new(fake.clone(), here.instance.clone());
                let (said, work) = here.polled.clone().post(gateway, &key, letter).await?;
                fake.world().working.push((here.number, Box::pin(work)));
                Ok(FakeBody::Said(said))
            });
        }
        let (mailbox, owner) = {
            let mut world = self.world();
            (world.mailboxes.entry(key.to_owned()).or_default().clone(), world.owner.clone())
        };
        let Some(owner) = owner else {
            return Box::pin(ready(Err(SeamError::Denied("no instance to work with".to_owned()))));
        };
        let (said, work) = Gateway::new(self.clone(), owner).deliver(mailbox, &letter);
        self.world().working.push((0, Box::pin(work)));
        Box::pin(ready(Ok(FakeBody::Said(said))))
    }

    type Sent = <Self as HttpClient>::Sent;

    fn ask(&self, key: &str, request: Request<Bytes>) -> Self::Sent {
        let fake = self.clone();
        let name = through::name(key).unwrap_or(key).to_owned();
        Box::pin(async move {
            let what =
                request.headers().get(ASK).and_then(|what| what.to_str().ok()).unwrap_or("-").to_owned();
            fake.world().trace.push(format!("link.ask {name} {what} {}", rpc_method(request.body())));
            if let Some(here) = fake.here.clone() {
                let gateway = Gateway::new(fake.clone(), here.instance.clone());
                let (answer, work) = here.polled.clone().ask(gateway, &through::key(&name), request).await?;
                fake.world().working.push((here.number, Box::pin(work)));
                return Ok(answer.await?.map(FakeBody::Asked));
            }
            let docked = fake.dock(&name);
            fake.tend(&docked);
            let answer = docked.ask(request).await?;
            Ok(answer.map(FakeBody::Told))
        })
    }
}

/// A letter on its way.
type Posting = Pin<Box<dyn Future<Output = Result<FakeBody, SeamError>> + Send>>;

/// A scripted body.
pub struct ScriptBody {
    fake: Fake,
    steps: VecDeque<Step>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Drop for ScriptBody {
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            self.fake.world().dropped += 1;
        }
    }
}

impl Stream for ScriptBody {
    type Item = Result<Bytes, SeamError>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(wait) = &mut self.wait {
                if wait.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.wait = None;
            }
            if let Some(Step::Hear(name)) = self.steps.front() {
                let fake = self.fake.clone();
                let mut world = fake.world();
                match world.said.get_mut(name).and_then(VecDeque::pop_front) {
                    Some(step) => self.steps.push_front(step),
                    None => {
                        world.hearers.push(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
            }
            match self.steps.front() {
                Some(Step::Stall | Step::Hear(_)) => return Poll::Pending,
                Some(Step::Over) => {
                    self.steps.clear();
                    return Poll::Ready(None);
                }
                Some(Step::Until(set)) => {
                    if set.load(Ordering::Relaxed) {
                        self.steps.pop_front();
                    } else {
                        self.wait = Some(Box::pin(self.fake.wait(Duration::from_secs(1))));
                    }
                }
                Some(Step::Wait(span)) => {
                    self.wait = Some(Box::pin(self.fake.wait(*span)));
                    self.steps.pop_front();
                }
                Some(Step::Send(bytes)) => {
                    let bytes = bytes.clone();
                    self.steps.pop_front();
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Some(Step::Cut) => {
                    self.steps.clear();
                    return Poll::Ready(Some(Err(SeamError::Cut("reset by the script".to_owned()))));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl HttpClient for Fake {
    type Body = FakeBody;
    type Sent = Pin<Box<dyn Future<Output = Result<Response<FakeBody>, SeamError>> + Send>>;

    async fn send(&self, request: Request<Bytes>) -> Result<Response<FakeBody>, SeamError> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let session = request.headers().get("mcp-session-id").and_then(|id| id.to_str().ok());
        let line = format!(
            "http.send {} {} {}{}",
            request.method(),
            host,
            rpc_method(request.body()),
            session.map(|id| format!(" [{id}]")).unwrap_or_default()
        );
        self.world().trace.push(line);
        let script = self.ask(&host, &request)?;
        self.wait(script.delay).await;
        let body = ScriptBody { fake: self.clone(), steps: script.body.into(), wait: None };
        let body = FakeBody::Script(body);
        let mut response = Response::new(body);
        *response.status_mut() = script.status.try_into().unwrap_or_default();
        let headers: HeaderMap = script
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)))
            .collect();
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn begin(&self, request: Request<Bytes>) -> Self::Sent {
        let fake = self.clone();
        Box::pin(async move { fake.send(request).await })
    }
}

fn rpc_method(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    value.get("method").and_then(serde_json::Value::as_str).unwrap_or("-").to_owned()
}

impl StateStore for Fake {
    fn reach(&self) -> Reach {
        if self.here.is_some() { Reach::Near } else { self.reach }
    }

    async fn load(&self, key: &str) -> Result<Option<Held>, SeamError> {
        let (held, time) = {
            let mut world = self.world();
            world.trace.push(format!("store.load {}", kind_of(key)));
            if world.no_loads {
                return Err(SeamError::Host("the store does not answer".to_owned()));
            }
            let now = world.now;
            let held = world.state.get(key).filter(|(_, expires)| now < *expires);
            (held.map(|(held, _)| held.clone()), world.load_time)
        };
        if !time.is_zero() {
            self.wait(time).await;
        }
        Ok(held)
    }

    async fn swap(
        &self,
        key: &str,
        seen: Option<Version>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Swap, SeamError> {
        let mut world = self.world();
        world.trace.push(format!("store.swap {}", kind_of(key)));
        let now = world.now;
        let held = world.state.get(key).filter(|(_, expires)| now < *expires).map(|(held, _)| held.version);
        if held != seen {
            return Ok(Swap::Stale);
        }
        world.version += 1;
        let version = Version(world.version);
        let expires = now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        world.state.insert(key.to_owned(), (Held { version, value }, expires));
        Ok(Swap::Done(version))
    }
}

fn kind_of(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

impl KeyValue for Fake {
    async fn read(&self, key: &str) -> Result<Option<Bytes>, SeamError> {
        let mut world = self.world();
        world.trace.push(format!("kv.read {key}"));
        Ok(world.values.get(key).cloned())
    }

    async fn write(&self, key: &str, value: Bytes) -> Result<(), SeamError> {
        let mut world = self.world();
        world.trace.push(format!("kv.write {key}"));
        world.values.insert(key.to_owned(), value);
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<(), SeamError> {
        self.world().values.remove(key);
        Ok(())
    }
}

impl Secrets for Fake {
    fn secret(&self, name: &str) -> Option<String> {
        self.world().secrets.get(name).cloned()
    }
}

impl Entropy for Fake {
    fn fill(&self, buffer: &mut [u8]) {
        let mut world = self.world();
        for byte in buffer {
            // Numerical Recipes' generator: all that matters here is that values differ and tests repeat.
            world.random =
                world.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = u8::try_from(world.random >> 56).unwrap_or_default();
        }
    }
}

impl Log for Fake {
    fn write(&self, line: &str) {
        self.world().log.push(line.to_owned());
    }
}

impl Platform for Fake {
    type Http = Self;
    type Store = Self;
    type KeyValue = Self;
    type Mailboxes = Self;
    type Secrets = Self;
    type Clock = Self;
    type Entropy = Self;
    type Log = Self;

    fn http(&self) -> &Self {
        self
    }
    fn store(&self) -> &Self {
        self
    }
    fn key_value(&self) -> &Self {
        self
    }
    fn mailboxes(&self) -> &Self {
        self
    }
    fn secrets(&self) -> &Self {
        self
    }
    fn clock(&self) -> &Self {
        self
    }
    fn entropy(&self) -> &Self {
        self
    }
    fn log(&self) -> &Self {
        self
    }
    fn abilities(&self) -> Abilities {
        self.abilities
    }
}
