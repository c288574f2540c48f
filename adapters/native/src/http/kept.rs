//! Exchanges over plain HTTP/1.1, on connections that are kept for those that come next.
//!
//! An exchange is read and written by whoever waits for it: no task, no queue and no wake-up stands between a call and
//! its server. A connection goes back as soon as the answer's last byte has been read. One whose other end has hung up
//! meanwhile is **never** used, and nothing is sent twice.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use causeway::platform::SeamError;
use futures_util::Stream;
use http::uri::Authority;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::TcpStream;

use super::codec::{Framing, Head, Part, take_head, written};
use super::{Connector, POOL_IDLE, POOL_PER_HOST};

/// What is read at a time, at first and at most.
const READ: usize = 8 * 1024;
const MOST: usize = 128 * 1024;
/// What the head of an answer is taken to need of that.
const HEAD_ROOM: usize = 1024;
/// A body up to this size goes out in one piece with its head.
const TOGETHER: usize = 8 * 1024;
/// How often connections that nobody has used for long are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// Connections that wait for their next exchange. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Idle>>);

#[derive(Debug, Default)]
struct Idle {
    /// By their other end; the one that was used last stands last.
    all: Vec<(Authority, Vec<(TcpStream, Instant)>)>,
    /// The room that the last answers would have fitted into.
    room: usize,
    /// Somebody looks after them, and is woken through this when one of them has something to say.
    watched: bool,
    watcher: Option<Waker>,
}

impl Kept {
    /// Sends `request` and gives the answer's head and what follows it.
    pub(super) async fn exchange(
        &self,
        connector: impl FnOnce() -> Connector,
        request: Request<Bytes>,
    ) -> Result<Response<Coming>, SeamError> {
        let host = request.uri().authority().cloned();
        let host = host.ok_or_else(|| SeamError::Connect("a URL without a host".to_owned()))?;
        let mut stream = match self.take(&host) {
            Some(stream) => stream,
            // Boxed: few exchanges need a new one, and all would have to make room for it.
            None => Box::pin(async { connector().plain(request.uri()).await }).await?,
        };
        let (method, body) = (request.method().clone(), request.body().clone());
        let mut sending = Sending { head: written(&request, false, body.len().min(TOGETHER)), body, sent: 0 };
        drop(request);
        if sending.body.len() <= TOGETHER {
            sending.head.extend_from_slice(&std::mem::take(&mut sending.body));
        }
        let (mut read, mut seen, mut sent) = (BytesMut::new(), 0, Ok(false));
        let room = lock(&self.0).room.clamp(READ, MOST);
        let Head { response, framing, lasting } = poll_fn(|cx| {
            // A server may well answer before it has heard everything, and hear no more.
            if matches!(sent, Ok(false))
                && let Poll::Ready(done) = sending.poll(&mut stream, cx)
            {
                sent = done.map(|()| true);
            }
            loop {
                if let Some(head) = take_head(&mut read, seen, &method)? {
                    return Poll::Ready(Ok(head));
                }
                seen = read.len();
                let why = match ready!(poll_more(&mut stream, &mut read, room, cx)) {
                    Ok(0) => match &sent {
                        Ok(_) => "the connection ended before the answer".to_owned(),
                        Err(error) => error.to_string(),
                    },
                    Ok(_) => continue,
                    Err(error) => error.to_string(),
                };
                return Poll::Ready(Err(SeamError::Cut(why)));
            }
        })
        .await?;
        let home = (lasting && matches!(sent, Ok(true))).then(|| (Arc::downgrade(&self.0), host));
        if let Framing::Length(length) = framing {
            let mut idle = lock(&self.0);
            // With the head, and shrinking slowly.
            let length = usize::try_from(length).unwrap_or(MOST).saturating_add(HEAD_ROOM);
            idle.room = length.max(idle.room / 2).min(MOST);
        }
        let mut coming = Coming { stream: Some(stream), home, read, framing, broken: None };
        coming.settle();
        Ok(response.map(|()| coming))
    }

    /// A connection to `host` that is there and sound.
    fn take(&self, host: &Authority) -> Option<TcpStream> {
        loop {
            let (stream, _) = lock(&self.0).of(host)?.pop()?;
            if is_sound(&stream) {
                return Some(stream);
            }
        }
    }
}

/// Keeps `stream` for the next exchange with `host`.
fn keep(idle: &Weak<Mutex<Idle>>, host: Authority, stream: TcpStream) {
    let Some(shared) = idle.upgrade() else { return };
    let mut idle = lock(&shared);
    let watcher = idle.watcher.clone().unwrap_or_else(|| Waker::noop().clone());
    if !is_quiet(&stream, &mut Context::from_waker(&watcher)) {
        return;
    }
    if !idle.watched
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        idle.watched = true;
        runtime.spawn(watch(Arc::downgrade(&shared)));
    }
    let kept = (stream, Instant::now());
    match idle.of(&host) {
        Some(all) if all.len() < POOL_PER_HOST => all.push(kept),
        Some(_) => {}
        None => idle.all.push((host, vec![kept])),
    }
}

/// Closes connections that the other end has closed, and those that nobody has used for long, until there are none.
async fn watch(idle: Weak<Mutex<Idle>>) {
    loop {
        let mut slept = pin!(tokio::time::sleep(SWEEP));
        let over = poll_fn(|cx| {
            let Some(shared) = idle.upgrade() else { return Poll::Ready(true) };
            if lock(&shared).sweep(cx) { Poll::Ready(true) } else { slept.as_mut().poll(cx).map(|()| false) }
        });
        if over.await {
            return;
        }
    }
}

impl Idle {
    fn of(&mut self, host: &Authority) -> Option<&mut Vec<(TcpStream, Instant)>> {
        self.all.iter_mut().find(|(known, _)| known == host).map(|(_, all)| all)
    }

    /// Closes what is not to be kept; says whether nothing is left, and so nobody needs to watch.
    fn sweep(&mut self, cx: &mut Context<'_>) -> bool {
        self.all.retain_mut(|(_, all)| {
            all.retain(|(stream, since)| since.elapsed() < POOL_IDLE && is_quiet(stream, cx));
            all.shrink_to(all.len() * 2);
            !all.is_empty()
        });
        self.watched = !self.all.is_empty();
        self.watcher = self.watched.then(|| cx.waker().clone());
        !self.watched
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the other end says nothing, and has not hung up, as far as the scheduler knows; it wakes `cx` when that changes.
fn is_quiet(stream: &TcpStream, cx: &mut Context<'_>) -> bool {
    while stream.poll_read_ready(cx).is_ready() {
        // It takes a connection to have more to say whose last bytes just filled the room that there was for them.
        if !matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return false;
        }
    }
    true
}

/// Whether the other end waits for a request. The scheduler may not have looked since it hung up, so the system is asked.
#[cfg(unix)]
fn is_sound(stream: &TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(recv(stream, &mut [0; 1], flags), Err(rustix::io::Errno::AGAIN))
}

#[cfg(not(unix))]
fn is_sound(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn poll_more(
    stream: &mut TcpStream,
    read: &mut BytesMut,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    read.reserve(room);
    // It keeps nothing from one poll to the next.
    pin!(stream.read_buf(read)).poll(cx)
}

/// A request on its way out.
struct Sending {
    head: BytesMut,
    /// What is not in one piece with the head.
    body: Bytes,
    sent: usize,
}

impl Sending {
    fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let head = self.head.get(self.sent..).unwrap_or_default();
            let body = self.body.get(self.sent.saturating_sub(self.head.len())..).unwrap_or_default();
            let count = match (head, body) {
                ([], []) => return Poll::Ready(Ok(())),
                (part, []) | ([], part) => ready!(Pin::new(&mut *stream).poll_write(cx, part))?,
                (head, body) => {
                    let parts = [IoSlice::new(head), IoSlice::new(body)];
                    ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &parts))?
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
    }
}

/// An answer's body as it comes. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct Coming {
    /// `None` once nothing more has to be read from it.
    stream: Option<TcpStream>,
    /// Where the connection is kept afterwards, if it can be used again.
    home: Option<(Weak<Mutex<Idle>>, Authority)>,
    /// What was read and not yet made sense of.
    read: BytesMut,
    framing: Framing,
    /// Why nothing comes behind that.
    broken: Option<String>,
}

impl Coming {
    /// Lets the connection go if everything of the body has been read from it.
    fn settle(&mut self) {
        let rest = match &self.framing {
            Framing::Length(left) => self.read.len() as u64 >= *left,
            Framing::Chunked(chunks) => chunks.is_over(),
            Framing::Close => false,
        };
        if !rest {
            return;
        }
        let extra = match &self.framing {
            Framing::Length(left) => self.read.len() as u64 > *left,
            _ => !self.read.is_empty(),
        };
        // What stands behind the answer belongs to nobody.
        if let (Some(stream), Some((idle, host))) = (self.stream.take(), self.home.take().filter(|_| !extra))
        {
            keep(&idle, host, stream);
        }
    }

    /// Reads what there is of a body whose length is known, so that it goes on in few pieces.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let (Framing::Length(left), Some(stream)) = (&self.framing, &mut self.stream) {
            let missing = usize::try_from(*left).unwrap_or(usize::MAX).saturating_sub(self.read.len());
            if missing == 0 || self.read.len() >= MOST {
                break;
            }
            // One byte more: a read that leaves room tells the scheduler that there is nothing behind it.
            match poll_more(stream, &mut self.read, missing.min(MOST) + 1, cx) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(ended) => {
                    let why = match ended {
                        Ok(_) => "the connection ended before the answer did".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    (self.broken, self.stream) = (Some(why), None);
                }
                Poll::Pending if self.read.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        // The connection is free for the next call before this answer has gone on.
        self.settle();
        Poll::Ready(())
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, SeamError>> {
        if let Framing::Length(_) = self.framing {
            ready!(self.poll_rest(cx));
        }
        loop {
            match self.framing.next(&mut self.read)? {
                Some(Part::Data(data)) => return Poll::Ready(Ok(Some(data))),
                Some(Part::End) => {
                    self.settle();
                    return Poll::Ready(Ok(None));
                }
                None => {}
            }
            if let Some(why) = self.broken.take() {
                return Poll::Ready(Err(SeamError::Cut(why)));
            }
            let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(None)) };
            let count = ready!(poll_more(stream, &mut self.read, READ, cx));
            if count.map_err(|error| SeamError::Cut(error.to_string()))? == 0 {
                if self.framing.may_end() {
                    return Poll::Ready(Ok(None));
                }
                let why = "the connection ended before the answer did";
                return Poll::Ready(Err(SeamError::Cut(why.to_owned())));
            }
        }
    }
}

impl Drop for Coming {
    /// Whoever has the response of a stream of events reads no further; its end may have come with it.
    fn drop(&mut self) {
        for _ in 0..2 {
            while self.home.is_some() {
                match self.framing.next(&mut self.read) {
                    Ok(Some(Part::Data(_))) => {}
                    Ok(Some(Part::End)) => return self.settle(),
                    Ok(None) => break,
                    Err(_) => self.home = None,
                }
            }
            let (Some(stream), true) = (&self.stream, self.home.is_some()) else { return };
            self.read.reserve(READ);
            if !stream.try_read_buf(&mut self.read).is_ok_and(|count| count > 0) {
                return;
            }
        }
    }
}

impl Stream for Coming {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = ready!(this.poll_part(cx));
        if next.is_err() {
            // Nothing comes behind an error.
            (this.framing, this.stream, this.home) = (Framing::Length(0), None, None);
        }
        Poll::Ready(next.transpose())
    }
}
