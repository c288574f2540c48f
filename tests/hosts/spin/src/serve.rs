//! Requests in, to instances that are shared and let go by Spin's rules.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    ErrorCode, HandlerState, Instance, Proxy, ProxyHandler, ShouldAccept, ViewFn, WorkerExpiration, WorkerState,
    WorkerStatus,
};
use wasmtime_wasi_http::p3::WasiHttpView as _;
use wasmtime_wasi_http::p3::bindings::http::types;

use crate::spin::{Guest, Host};

/// How instances are shared.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Requests that one takes in all.
    pub in_all: usize,
    /// Requests that one takes at a time.
    pub at_a_time: usize,
    /// How long an idle one is kept.
    pub idle: Duration,
}

struct State {
    host: Host,
    rules: Rules,
}

struct Expiration {
    idle: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        match status {
            WorkerStatus::Idle => {
                let end = (start + self.idle).into();
                if self.sleep.deadline() != end {
                    self.sleep.as_mut().reset(end);
                }
                self.sleep.as_mut().poll(cx)
            }
            // Spin has no limit unless it is told one.
            WorkerStatus::Requests | WorkerStatus::PostReturn => Poll::Pending,
        }
    }
}

struct Worker(Rules);

impl WorkerState for Worker {
    type StoreData = Guest;
    type RequestId = ();

    fn should_accept_request(&self, at_a_time: usize, in_all: usize) -> ShouldAccept {
        if in_all >= self.0.in_all {
            ShouldAccept::Never
        } else if at_a_time >= self.0.at_a_time {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Guest>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(std::future::pending())
    }

    fn drop(&self, _: Store<Guest>, result: wasmtime::Result<()>) {
        if let Err(error) = result {
            eprintln!("an instance failed: {error:?}");
        }
    }
}

impl HandlerState for State {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Guest, Expiration, Worker>> {
        let mut store = self.host.store();
        let service = self.host.pre().instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy: Proxy::P3(service),
            view: ViewFn::P3(Guest::http),
            expiration: Expiration {
                idle: self.rules.idle,
                sleep: Box::pin(tokio::time::sleep(self.rules.idle)),
            },
            state: Worker(self.rules),
        })
    }
}

type Body = UnsyncBoxBody<Bytes, wasmtime::Error>;

/// Serves until the process is ended.
///
/// # Errors
/// When the port cannot be had.
pub async fn serve(host: Host, rules: Rules, listen: SocketAddr) -> anyhow::Result<()> {
    let handler = ProxyHandler::new(State { host, rules });
    let listener = TcpListener::bind(listen).await?;
    let own = listener.local_addr()?;
    eprintln!("listening on http://{own}");
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(handler.clone(), request, peer));
            let mut builder = hyper::server::conn::http1::Builder::new();
            let connection = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            // A caller that went away is its own affair.
            let _ = connection.await;
        });
    }
}

async fn answer(
    handler: ProxyHandler<State>,
    request: http::Request<Incoming>,
    peer: SocketAddr,
) -> Result<http::Response<Body>, wasmtime::Error> {
    let Some(request) = prepared(request, peer) else { return Ok(plain(400)) };
    let request = request.map(|body| body.map_err(failed).boxed_unsync());
    match handler.handle((), request).await {
        Ok(response) => Ok(response),
        Err(error) => {
            eprintln!("a request failed: {error:?}");
            Ok(plain(500))
        }
    }
}

/// The request with a whole URI and the headers that Spin adds.
fn prepared(mut request: http::Request<Incoming>, peer: SocketAddr) -> Option<http::Request<Incoming>> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri: http::Uri = format!("http://{host}{path}").parse().ok()?;
    let headers = request.headers_mut();
    headers.remove("connection");
    headers.insert("spin-full-url", uri.to_string().parse().ok()?);
    headers.insert("spin-path-info", uri.path().parse().ok()?);
    headers.insert("spin-client-addr", peer.to_string().parse().ok()?);
    *request.uri_mut() = uri;
    Some(request)
}

fn failed(error: hyper::Error) -> ErrorCode {
    ErrorCode::P3(types::ErrorCode::InternalError(Some(error.to_string())))
}

fn plain(status: u16) -> http::Response<Body> {
    let body = Full::default().map_err(|never| match never {}).boxed_unsync();
    let mut response = http::Response::new(body);
    *response.status_mut() = status.try_into().unwrap_or_default();
    response
}

/// Instances belong to one thread at a time, and this is asked from many.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Arc<State>>();
};
