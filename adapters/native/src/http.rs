//! Outbound HTTP: plain HTTP/1.1 on kept connections (`kept`), and over TLS one pooled client per connect timeout, with
//! hyper and rustls.
//!
//! It **never** follows a redirect, never retries what may have reached the other side, and its errors name host
//! and port at most. What TLS needs (roots, configuration) is made for the first `https` request and not before:
//! a gateway in front of local servers starts sooner and stays smaller.

mod codec;
mod kept;
mod news;

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use causeway::gateway::dock::Told;
use causeway::mcp::mailbox::Said;
use causeway::platform::{CONNECT_TIMEOUT, ConnectTimeout, Endless, HttpClient, SeamError};
use futures_util::Stream;
use http::{Request, Response, Uri, uri::Scheme};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tower_service::Service;

use self::kept::{Coming, Kept};
use self::news::News;
use crate::log::{Level, Log};
use crate::platform::Native;
use crate::programs::{Body, Programs};

/// An idle connection is closed after this long; shorter than what most servers and balancers keep.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// Idle connections kept for one host: as many as calls are likely to run at once.
const POOL_PER_HOST: usize = 128;
/// How many different connect timeouts are told apart before the next one gets the nearest pool there is.
const MAX_POOLS: usize = 32;

type Pool = Client<Connector, Full<Bytes>>;

/// The HTTP client. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Http {
    shared: Arc<Shared>,
    programs: Programs,
}

#[derive(Debug)]
struct Shared {
    tls: Arc<Tls>,
    plain: Kept,
    usual: Pool,
    /// A connector sees only the URI, so that a timeout of its own needs a pool of its own. They are few: one
    /// for each different value in a configuration.
    others: RwLock<Vec<(Duration, Pool)>>,
}

impl Http {
    /// A client without any connection yet, and without programs.
    #[must_use]
    pub fn new() -> Self {
        Self::with_programs(Programs::new(Log::stderr(Level::Off)))
    }

    /// A client without any connection yet, which speaks to `programs` as well.
    #[must_use]
    pub fn with_programs(programs: Programs) -> Self {
        Self::with(Arc::default(), programs)
    }

    /// A client without any connection yet that shares what TLS needs with this one.
    #[must_use]
    pub fn without_connections(&self) -> Self {
        Self::with(self.shared.tls.clone(), self.programs.clone())
    }

    fn with(tls: Arc<Tls>, programs: Programs) -> Self {
        let usual = pool(CONNECT_TIMEOUT, &tls);
        Self {
            shared: Arc::new(Shared { tls, plain: Kept::default(), usual, others: RwLock::default() }),
            programs,
        }
    }

    /// A connection to the host of `uri`, for a protocol that begins with HTTP/1.1 and goes on with something else.
    pub(crate) async fn connect(&self, uri: &Uri, timeout: Duration) -> Result<Connection, SeamError> {
        let mut connector = Connector::new(timeout, &self.shared.tls, true);
        match connector.call(uri.clone()).await {
            Ok(stream) => Ok(TokioIo::new(stream)),
            Err(error) => Err(match error.downcast::<SeamError>() {
                Ok(error) => *error,
                Err(error) => SeamError::Connect(error.to_string()),
            }),
        }
    }

    fn pool_for(&self, timeout: Duration) -> Pool {
        if timeout == CONNECT_TIMEOUT {
            return self.shared.usual.clone();
        }
        let known = |pools: &[(Duration, Pool)]| {
            pools.iter().find(|(span, _)| *span == timeout).map(|(_, pool)| pool.clone())
        };
        if let Some(pool) = known(&self.shared.others.read().unwrap_or_else(PoisonError::into_inner)) {
            return pool;
        }
        let mut others = self.shared.others.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = known(&others) {
            return pool;
        }
        if others.len() >= MAX_POOLS {
            let nearest = others.iter().min_by_key(|(span, _)| span.abs_diff(timeout));
            return nearest.map_or_else(|| self.shared.usual.clone(), |(_, pool)| pool.clone());
        }
        let pool = pool(timeout, &self.shared.tls);
        others.push((timeout, pool.clone()));
        pool
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpClient for Http {
    type Body = Answer;
    type Sent = Pin<Box<dyn Future<Output = Result<Response<Answer>, SeamError>> + Send>>;

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Answer>, SeamError> {
        if request.uri().scheme_str() == Some("stdio") {
            let name = request.uri().host().unwrap_or_default().to_owned();
            // Boxed, as all is that calls over plain HTTP need not make room for.
            let response = Box::pin(self.programs.send(&name, request)).await?;
            return Ok(response.map(Answer::Program));
        }
        let timeout = request.extensions().get().map_or(CONNECT_TIMEOUT, |ConnectTimeout(span)| *span);
        let connector = || Connector::new(timeout, &self.shared.tls, false);
        // Over TLS servers may well have room for many streams in one connection.
        if request.uri().scheme() == Some(&Scheme::HTTP) {
            if request.extensions().get::<Endless>().is_some() {
                let listened = async {
                    let stream = connector().plain(request.uri()).await?;
                    news::exchange(stream, request).await
                };
                return Ok(Box::pin(listened).await?.map(|news| Answer::News(Box::new(news))));
            }
            let answer = self.shared.plain.exchange(connector, request).await?;
            return Ok(answer.map(|coming| Answer::Plain(Box::new(coming))));
        }
        let response = self.pool_for(timeout).request(request.map(Full::new)).await;
        response
            .map(|response| response.map(|body| Answer::Http(Received(body))))
            .map_err(|error| sorted(&error))
    }

    fn begin(&self, request: Request<Bytes>) -> Self::Sent {
        let http = self.clone();
        Box::pin(async move { http.send(request).await })
    }
}

fn pool(timeout: Duration, tls: &Arc<Tls>) -> Pool {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_PER_HOST)
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(4 << 20)
        .build(Connector::new(timeout, tls, false))
}

fn plain() -> HttpConnector {
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    plain.set_nodelay(true);
    plain.set_keepalive(Some(Duration::from_secs(60)));
    plain
}

/// Sorts hyper's error into the seam's kinds.
fn sorted(error: &hyper_util::client::legacy::Error) -> SeamError {
    if let Some(ours) = sources(error).find_map(|source| source.downcast_ref::<SeamError>()) {
        return ours.clone();
    }
    let text = root(error);
    if error.is_connect() { SeamError::Connect(text) } else { SeamError::Cut(text) }
}

fn sources<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.source();
        Some(current)
    })
}

/// The text of the innermost cause: it says most and, coming from the OS, TLS or the HTTP parser, holds neither
/// URL nor header.
fn root(error: &(dyn StdError + 'static)) -> String {
    sources(error).last().map(ToString::to_string).unwrap_or_default()
}

/// A body as it arrives. Dropping it closes the exchange.
#[derive(Debug)]
pub struct Received(pub(crate) Incoming);

impl Stream for Received {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.0).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(Ok(data)),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => Some(Err(SeamError::Cut(root(&error)))),
                None => None,
            });
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let hint = self.0.size_hint();
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // In chunks, not bytes: all that is known is whether there is anything at all.
        (usize::from(hint.lower() > 0), hint.upper().map(size).filter(|upper| *upper == 0))
    }
}

/// What is read from the other side: an upstream over HTTP, a mailbox, or a program.
///
/// The large ones are boxed: there are thousands of streams that wait for a mailbox, and need not make room for them.
pub enum Answer {
    /// An upstream's answer.
    Http(Received),
    /// The same over plain HTTP/1.1.
    Plain(Box<Coming>),
    /// An upstream's stream of news.
    News(Box<News>),
    /// What a mailbox says.
    Mailbox(Said),
    /// What a program says.
    Program(Body),
    /// What comes through a link.
    Link(Box<Told<Native>>),
}

impl Stream for Answer {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Http(received) => Pin::new(received).poll_next(cx),
            Self::Plain(coming) => Pin::new(coming).poll_next(cx),
            Self::News(news) => Pin::new(news).poll_next(cx),
            Self::Mailbox(said) => Pin::new(said).poll_next(cx),
            Self::Program(body) => Pin::new(body).poll_next(cx),
            Self::Link(told) => Pin::new(told.as_mut()).poll_next(cx),
        }
    }
}

/// Connects within a time limit that covers name look-up, TCP and TLS, and nothing after them.
#[derive(Clone, Debug)]
struct Connector {
    timeout: Duration,
    plain: HttpConnector,
    tls: Arc<Tls>,
    /// Offers HTTP/1.1 alone.
    single: bool,
}

impl Connector {
    fn new(timeout: Duration, tls: &Arc<Tls>, single: bool) -> Self {
        Self { timeout, plain: plain(), tls: tls.clone(), single }
    }

    /// A connection without TLS.
    async fn plain(&self, uri: &Uri) -> Result<TcpStream, SeamError> {
        let mut plain = self.plain.clone();
        let connected = async { plain.call(uri.clone()).await.map_err(|error| root(&error)) };
        self.in_time(uri, connected).await.map(TokioIo::into_inner)
    }

    async fn in_time<T>(
        &self,
        uri: &Uri,
        connected: impl Future<Output = Result<T, String>>,
    ) -> Result<T, SeamError> {
        match tokio::time::timeout(self.timeout, connected).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(why)) => Err(SeamError::Connect(format!("{}: {why}", peer(uri)))),
            Err(_) => {
                let after = self.timeout.as_millis();
                Err(SeamError::Timeout(format!("{}: no connection after {after} ms", peer(uri))))
            }
        }
    }
}

/// A connection by itself.
pub(crate) type Connection = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            if uri.scheme() == Some(&Scheme::HTTP) {
                return Ok(MaybeHttpsStream::Http(TokioIo::new(connector.plain(&uri).await?)));
            }
            let connected = async {
                if uri.scheme() != Some(&Scheme::HTTPS) {
                    return Err("only http and https URLs can be reached".to_owned());
                }
                let mut secure = connector.tls.connector(connector.single).await?;
                secure.call(uri.clone()).await.map_err(|error| root(&*error))
            };
            Ok(connector.in_time(&uri, connected).await?)
        })
    }
}

/// Host and port: the one part of a URL that never holds a secret.
fn peer(uri: &Uri) -> String {
    let host = uri.host().unwrap_or("no host");
    let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
    format!("{host}:{port}")
}

/// TLS, made when first needed.
#[derive(Default, Debug)]
struct Tls {
    config: OnceCell<rustls::ClientConfig>,
    connector: OnceCell<HttpsConnector<HttpConnector>>,
}

impl Tls {
    /// For HTTP/1.1 and HTTP/2, or for HTTP/1.1 alone (`single`).
    async fn connector(&self, single: bool) -> Result<HttpsConnector<HttpConnector>, String> {
        let config = self.config.get_or_try_init(|| async {
            // Reading and parsing the system's certificates takes milliseconds of CPU and disk.
            tokio::task::spawn_blocking(client_config).await.map_err(|error| error.to_string())?
        });
        let config = config.await?;
        let builder = || HttpsConnectorBuilder::new().with_tls_config(config.clone()).https_only();
        if single {
            return Ok(builder().enable_http1().wrap_connector(plain()));
        }
        let both = || async { builder().enable_http1().enable_http2().wrap_connector(plain()) };
        Ok(self.connector.get_or_init(both).await.clone())
    }
}

/// The system's roots, so that a company's own authority works; the bundled ones where a system has none.
fn client_config() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut roots = rustls::RootCertStore::empty();
    let (added, _unusable) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
