//! The WebSockets of a link on a host that forgets everything but them while nothing happens, and answers the heartbeat
//! meanwhile.
//!
//! While a link is idle, what its dock needs to go on is put away with its connection, and taken up again when something
//! happens. A connection whose link was in the middle of something when it was forgotten is closed with a word: its
//! companion dials again. The host says what happens ([`Sockets::received`], [`Sockets::closed`]), has it worked on
//! as soon as it has a gateway ([`Sockets::go_on`]), and runs the work that this gives.
//!
//! Invariant: what arrives is worked on in the order in which it arrived, whenever a gateway was there for it.
//!
//! Invariant: one connection at most has a link put away with it, and no two ever have the same number.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::join3;
use http::{Request, Response};
use serde::{Deserialize, Serialize};

use super::Gateway;
use super::dock::{Docked, Opening, Told};
use crate::mcp::memory::lock;
use crate::platform::{Clock as _, Platform, SeamError};
use crate::tunnel::dock::{Dock, Entry, Facts, Line, Say};
use crate::tunnel::pair::Message;

/// "Service Restart": the companion dials again.
const RESTART: u16 = 1012;
/// "Normal Closure".
const NORMAL: u16 = 1000;

/// A WebSocket that outlasts what is in memory. Clones are the same one.
pub trait Socket: Clone {
    /// Sends `message`, a frame as bytes and the heartbeat as text; `false` if it cannot any more.
    fn send(&self, message: &Message) -> bool;

    /// Closes it, for this reason. It may be closed already.
    fn close(&self, code: u16, reason: &str);

    /// Puts `text` away with it, at most 2 KiB, in place of what there was.
    fn put_away(&self, text: &str);

    /// What was put away with it.
    fn kept(&self) -> Option<String>;
}

/// What is put away with a connection.
#[derive(Serialize, Deserialize)]
struct Kept {
    number: u64,
    name: String,
    caller: String,
    /// The link and what is known of it, while it is idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    saved: Option<(String, Facts)>,
}

/// The WebSockets of one link, and its dock.
pub struct Sockets<S> {
    dock: Arc<Dock>,
    inner: Mutex<Inner<S>>,
}

struct Inner<S> {
    /// Connections that have outlasted what was in memory, until something happens.
    asleep: Vec<(S, Kept)>,
    /// What has arrived and was not worked on; without a message: the connection is gone.
    arrived: VecDeque<(S, Option<Bytes>)>,
    /// Connections whose companion is still to say hello.
    new: HashMap<u64, Line>,
    known: HashMap<u64, (S, Entry)>,
    /// The connection that has the link with it.
    has_link: Option<(u64, S)>,
}

/// Connections on which something may be said from now on.
type Lines<S> = Vec<(S, Line)>;

impl<S: Socket> Sockets<S> {
    /// With the connections that the host still has.
    pub fn new(sockets: impl IntoIterator<Item = S>) -> Arc<Self> {
        let known = |socket: S| Some((kept(&socket)?, socket)).map(|(kept, socket)| (socket, kept));
        let asleep: Vec<_> = sockets.into_iter().filter_map(known).collect();
        let dock = Arc::<Dock>::default();
        dock.number_from(asleep.iter().map(|(_, kept)| kept.number).max().unwrap_or_default());
        let inner = Inner {
            asleep,
            arrived: VecDeque::new(),
            new: HashMap::new(),
            known: HashMap::new(),
            has_link: None,
        };
        Arc::new(Self { dock, inner: Mutex::new(inner) })
    }

    /// A connection has been accepted.
    pub fn accepted(&self, socket: &S, opening: Opening) {
        let line = self.dock.line();
        let number = line.entry().number();
        put_away(socket, &Kept { number, name: opening.name, caller: opening.caller, saved: None });
        lock(&self.inner).new.insert(number, line);
    }

    /// A message has arrived.
    pub fn received(&self, socket: S, message: Bytes) {
        lock(&self.inner).arrived.push_back((socket, Some(message)));
    }

    /// A connection is gone.
    pub fn closed(&self, socket: S) {
        lock(&self.inner).arrived.push_back((socket, None));
    }

    /// Works on what has arrived: gives what is to be done from now on, which the host runs to its end. `None` if there
    /// was nothing.
    pub fn go_on<P: Platform>(
        self: &Arc<Self>,
        gateway: &Gateway<P>,
    ) -> Option<impl Future<Output = ()> + use<P, S>> {
        let (mut lines, mut last) = (Vec::new(), None);
        while let Some((socket, message)) = self.next() {
            let Some(kept) = kept(&socket) else {
                dial_again(&socket);
                continue;
            };
            let docked = gateway.dock(&kept.name, self.dock.clone());
            self.wake(&docked, &mut lines);
            match message {
                Some(message) => self.hear(&docked, socket, &kept, message, &mut lines),
                None => self.lose(&docked, &socket, kept.number),
            }
            last = Some(docked);
        }
        Some(self.clone().run(gateway.clone(), last?, lines, None))
    }

    /// Asks the dock of the link `name`: the answer, and what is to be done meanwhile and behind it, which the host runs
    /// to its end whether or not anybody waits for the answer.
    pub fn ask<P: Platform>(
        self: &Arc<Self>,
        gateway: &Gateway<P>,
        name: &str,
        request: Request<Bytes>,
    ) -> (
        impl Future<Output = Result<Response<Told<P>>, SeamError>> + use<P, S>,
        impl Future<Output = ()> + use<P, S>,
    ) {
        let docked = gateway.dock(name, self.dock.clone());
        let mut lines = Vec::new();
        self.wake(&docked, &mut lines);
        let (answer, begun) = docked.clone().begin(request);
        (answer, self.clone().run(gateway.clone(), docked, lines, Some(begun)))
    }

    fn next(&self) -> Option<(S, Option<Bytes>)> {
        lock(&self.inner).arrived.pop_front()
    }

    /// Takes up what was put away.
    fn wake<P: Platform>(&self, docked: &Docked<P>, lines: &mut Lines<S>) {
        let asleep = std::mem::take(&mut lock(&self.inner).asleep);
        for (socket, kept) in asleep {
            let line = kept.saved.and_then(|(link, facts)| {
                self.dock.restore(kept.number, link.as_bytes(), facts, docked.limits())
            });
            match line {
                Some(line) => {
                    lock(&self.inner).has_link = Some((kept.number, socket.clone()));
                    self.enter(socket, line, lines);
                }
                // It was in the middle of something that is lost.
                None => socket.close(RESTART, "the gateway has started anew; dial again"),
            }
        }
    }

    fn enter(&self, socket: S, line: Line, lines: &mut Lines<S>) {
        let entry = line.entry().clone();
        lock(&self.inner).known.insert(entry.number(), (socket.clone(), entry));
        lines.push((socket, line));
    }

    fn hear<P: Platform>(
        &self,
        docked: &Docked<P>,
        socket: S,
        kept: &Kept,
        message: Bytes,
        lines: &mut Lines<S>,
    ) {
        let message = Message::decode(message);
        let new = lock(&self.inner).new.remove(&kept.number);
        if let Some(mut line) = new {
            docked.received(&mut line, &kept.caller, message);
            if line.is_new() {
                // A heartbeat before the hello.
                lock(&self.inner).new.insert(kept.number, line);
            } else {
                self.enter(socket, line, lines);
            }
            return;
        }
        let known = lock(&self.inner).known.get(&kept.number).map(|(_, entry)| entry.clone());
        match known {
            Some(entry) => docked.heard(&entry, message),
            None => dial_again(&socket),
        }
    }

    fn lose<P: Platform>(&self, docked: &Docked<P>, socket: &S, number: u64) {
        let known = {
            let mut inner = lock(&self.inner);
            inner.new.remove(&number);
            inner.has_link.take_if(|(has, _)| *has == number);
            inner.known.remove(&number)
        };
        if let Some((_, entry)) = known {
            docked.lost(&entry);
        }
        // It may be closed on one side only.
        socket.close(NORMAL, "");
    }

    /// Sends what is said on `lines`, looks after the dock once what was asked of it has `begun`, and puts the link away
    /// whenever it is idle.
    async fn run<P: Platform>(
        self: Arc<Self>,
        gateway: Gateway<P>,
        docked: Docked<P>,
        mut lines: Lines<S>,
        begun: Option<oneshot::Receiver<()>>,
    ) {
        let said = poll_fn(|context| {
            lines.retain_mut(|(socket, line)| {
                let goes_on = pass(socket, line, context);
                if !goes_on {
                    lock(&self.inner).known.remove(&line.entry().number());
                    // Unless the link is on another connection by now, or none.
                    line.entry().lost(gateway.platform().clock().now());
                }
                goes_on
            });
            if lines.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        let this = &self;
        let tended = async move {
            if let Some(begun) = begun {
                let _ = begun.await;
            }
            let work = docked.tend();
            // It need not keep its plan while others may come into force.
            drop(docked);
            if let Some(work) = work {
                this.keep();
                work.await;
            }
            this.keep();
        };
        join3(said, tended, gateway.look_if_due()).await;
    }

    /// Puts the link away with its connection if it is idle. What another one has of it is no longer so.
    fn keep(&self) {
        let saved = self.dock.save();
        let mut inner = lock(&self.inner);
        let number = saved.as_ref().map(|(number, ..)| *number);
        if let Some((_, socket)) = inner.has_link.take_if(|(has, _)| Some(*has) != number) {
            put_link(&socket, None);
        }
        let Some((number, link, facts)) = saved else { return };
        let Some(socket) = inner.known.get(&number).map(|(socket, _)| socket.clone()) else { return };
        // What it offers may be long, and it knows that itself.
        let facts = Facts { verdicts: Vec::new(), ..facts };
        put_link(&socket, String::from_utf8(link).ok().map(|link| (link, facts)));
        inner.has_link = Some((number, socket));
    }
}

/// Sends what is said on `line`; `false` if nothing more will be.
fn pass(socket: &impl Socket, line: &mut Line, context: &mut Context<'_>) -> bool {
    loop {
        match line.poll_say(context) {
            Poll::Pending => return true,
            Poll::Ready(Some(Say::Message(_, message))) if socket.send(&message) => {}
            Poll::Ready(Some(Say::Close(bye))) => {
                let (code, reason) = bye.close_frame();
                socket.close(code, reason);
                return false;
            }
            Poll::Ready(_) => return false,
        }
    }
}

fn dial_again(socket: &impl Socket) {
    socket.close(RESTART, "dial again");
}

fn kept(socket: &impl Socket) -> Option<Kept> {
    serde_json::from_str(&socket.kept()?).ok()
}

fn put_away(socket: &impl Socket, kept: &Kept) {
    if let Ok(text) = serde_json::to_string(kept) {
        socket.put_away(&text);
    }
}

fn put_link(socket: &impl Socket, saved: Option<(String, Facts)>) {
    if let Some(kept) = kept(socket) {
        put_away(socket, &Kept { saved, ..kept });
    }
}
