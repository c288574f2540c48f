//! The listening side: connections in, requests to the core, replies out.
//!
//! HTTP/1.1 and cleartext HTTP/2 on one port. TLS is for whatever stands in front. Nothing here looks into a
//! request: what is allowed, and what is too much, the core decides.

mod news;
mod socket;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use causeway::gateway::dock::Opening;
use causeway::gateway::{self, Gateway, Reply};
use causeway::instance::Instance;
use causeway::mcp::serve::Ticket;
use causeway::platform::{Endless, Platform, SeamError};
use futures_util::{FutureExt as _, Stream};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use self::news::{Handover, News};
use self::socket::Socket;
use crate::http::Received;
use crate::links;
use crate::log::Level;
use crate::platform::Native;
use crate::workers::Workers;

/// What one gateway takes from its network.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; further ones wait in the system's queue.
    pub connections: usize,
    /// How long a request's head may take to arrive, and so how long an idle connection is kept.
    pub head_time: Duration,
    /// The size of a request's head.
    pub head_bytes: usize,
    /// How long requests may go on after the gateway was told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_time: Duration::from_secs(75),
            head_bytes: 64 * 1024,
            grace: Duration::from_secs(10),
        }
    }
}

/// How long companions may take to hear that the gateway stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves a gateway on `listener` until `stop` resolves and the requests in flight have ended, or the grace has.
///
/// Says whether all of them ended in time.
pub async fn serve(
    listener: TcpListener,
    workers: Workers,
    instance: Arc<Instance>,
    native: Native,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> bool {
    let builder = builder(limits);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    // Every connection and every piece of work behind a reply holds one; `idle` ends when the last is gone.
    let (busy, mut idle) = mpsc::channel::<()>(1);
    // The same for links, which end when everything else has.
    let (linked, mut unlinked) = mpsc::channel::<()>(1);
    let (closing, mut stop) = (instance.clone(), std::pin::pin!(stop));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, stream) = tokio::select! {
            biased;
            () = &mut stop => break,
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _peer)) => (slot, stream),
                Err(error) => {
                    turned_away(&native, &error).await;
                    continue;
                }
            },
        };
        // A small answer must not wait for the acknowledgement of the one before.
        _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        let (instance, builder) = (instance.clone(), builder.clone());
        let (busy, linked) = (busy.clone(), linked.clone());
        let watcher = graceful.watcher();
        workers.run(move |native, load| {
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            let (gateway, native) = (Gateway::new(native.clone(), instance), native.clone());
            let (behind, socket, handover) =
                ((busy.clone(), linked), Socket::new(stream), Handover::default());
            let given = handover.clone();
            let service = service_fn(move |request| {
                answer(gateway.clone(), native.clone(), behind.clone(), given.clone(), request)
            });
            let connection = TokioIo::new(socket.clone());
            let connection = builder.serve_connection_with_upgrades(connection, service).into_owned();
            let connection = watcher.watch(connection);
            tokio::spawn(async move {
                let held = (slot, busy, load);
                // A task of its own, which has room for nothing else.
                if let Some((stream, news)) = handed_over(connection, &socket, &handover).await {
                    tokio::spawn(news::carry(stream, news).map(|()| drop(held)));
                }
            });
        });
    }
    // New connections are refused from here on, not left waiting.
    drop((listener, busy, linked));
    // What has no end of its own would use up the whole grace.
    closing.close();
    let ended = async {
        graceful.shutdown().await;
        _ = idle.recv().await;
    };
    let ended = tokio::time::timeout(limits.grace, ended).await.is_ok();
    native.owners().stop_links(&native);
    _ = tokio::time::timeout(FAREWELL, unlinked.recv()).await;
    ended
}

fn builder(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(256)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Serves a connection to its end, or until it is a stream's alone.
async fn handed_over(
    connection: impl Future,
    socket: &Socket,
    handover: &Handover,
) -> Option<(TcpStream, News)> {
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        // A caller that went away or spoke no HTTP is its own affair.
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if handover.is_given()
            && let Some(stream) = socket.take()
        {
            return Poll::Ready(handover.take().map(|news| (stream, news)));
        }
        Poll::Pending
    })
    .await
}

async fn answer(
    gateway: Gateway<Native>,
    native: Native,
    (behind, linked): (mpsc::Sender<()>, mpsc::Sender<()>),
    handover: Handover,
    mut request: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = SeamError>>, SeamError> {
    let chunked = request.version() == Version::HTTP_11;
    let ticket = Ticket::default();
    // A connection can only be taken over through its request.
    let key = request.headers().get("sec-websocket-key").cloned();
    let upgrade = key.map(|key| (hyper::upgrade::on(&mut request), key));
    let waiting = Waiting(Some((gateway.clone(), ticket.clone(), behind.clone())));
    let Reply { mut response, after } = gateway.clone().handle_with(ticket, request.map(Received)).await;
    waiting.answered();
    let opening = response.extensions_mut().remove::<Opening>();
    if let (Some(opening), Some((upgrade, key))) = (opening, upgrade)
        && let Some(docked) = native.owners().docked(&native, &opening.name)
    {
        response.headers_mut().extend(links::accepted(&key));
        let linked = linked.clone();
        tokio::spawn(async move {
            links::serve(docked, opening, upgrade).await;
            drop(linked);
        });
    }
    let endless = chunked && response.extensions_mut().remove::<Endless>().is_some();
    if endless {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // Behind most replies there is nothing to wait for, and a task would cost more than the rest. What does wait is polled
    // again elsewhere: known to it, this task would stay in memory for as long as that takes.
    let mut rest = Box::pin(gateway.finish(after).map(|()| drop(behind)));
    let done = rest.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
    let rest = Rest((!done).then_some(rest));
    Ok(response.map(|body| match body {
        gateway::Body::Full(bytes) => Outgoing::Full(bytes),
        gateway::Body::Stream(stream) if endless => {
            Outgoing::News(handover, Some(Box::pin(Tailed { stream, rest })))
        }
        gateway::Body::Stream(stream) => Outgoing::Stream(stream),
    }))
}

/// What is left to do behind a reply. It is worked on when this is dropped.
struct Rest<F: Future<Output = ()> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output = ()> + Send + 'static> Drop for Rest<F> {
    fn drop(&mut self) {
        let Some(rest) = self.0.take() else { return };
        // A runtime that is going down drops streams too, and takes no new work.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(rest);
        }
    }
}

/// A stream and what there is to do behind it: no task of its own waits for the end of one that may last for days.
struct Tailed<S, F: Future<Output = ()> + Send + 'static> {
    stream: S,
    #[expect(dead_code, reason = "it is dropped behind the stream")]
    rest: Rest<F>,
}

impl<S: Stream + Unpin, F: Future<Output = ()> + Send + 'static> Stream for Tailed<S, F> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.stream).poll_next(cx)
    }
}

/// A request that has no reply yet. hyper drops it, with all it waits for, when its caller hangs up; the call that
/// it made is then cancelled where it runs.
struct Waiting(Option<(Gateway<Native>, Ticket, mpsc::Sender<()>)>);

impl Waiting {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some((gateway, ticket, behind)) = self.0.take() else { return };
        // A runtime that is going down drops requests too, and takes no new work.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                gateway.abandon(ticket).await;
                drop(behind);
            });
        }
    }
}

/// A failed accept is the caller's (it hung up first) or ours (no descriptor left). Ours goes away when other
/// connections end, and until then asking again at once would only burn a processor.
async fn turned_away(native: &Native, error: &io::Error) {
    let callers = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
    if !callers.contains(&error.kind()) && error.kind() != io::ErrorKind::Interrupted {
        native.log().event(Level::Error, "accept.failed", &error.to_string());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The core's body, as hyper wants it.
enum Outgoing<S> {
    Full(Bytes),
    Stream(S),
    /// Goes out over the bare connection as soon as hyper has written the head.
    News(Handover, Option<News>),
}

impl<S> Body for Outgoing<S>
where
    S: Stream<Item = Result<Bytes, SeamError>> + Unpin,
{
    type Data = Bytes;
    type Error = SeamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SeamError>>> {
        match &mut *self {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => {
                Pin::new(stream).poll_next(cx).map(|next| next.map(|chunk| chunk.map(Frame::data)))
            }
            Self::News(handover, news) => {
                if let Some(news) = news.take() {
                    handover.give(news);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) | Self::News(..) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never called: it compiles only while the core's futures are `Send` on the native platform, which they
    /// stop being as soon as the core boxes a `dyn Future` or keeps an `Rc` across a wait.
    #[expect(dead_code, reason = "compiling is the test")]
    fn futures_are_send(
        gateway: Gateway<Native>,
        request: Request<Received>,
        after: Box<gateway::After<Native>>,
    ) {
        fn send<T: Send>(_: T) {}
        send(gateway.clone().handle(request));
        send(gateway.finish(after));
    }
}
