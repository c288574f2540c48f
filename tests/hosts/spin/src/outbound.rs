//! Requests that go out by plain HTTP: over connections that are kept, as Spin keeps them, for all instances.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use wasmtime_wasi_http::p3::RequestOptions;
use wasmtime_wasi_http::p3::bindings::http::types::{DnsErrorPayload, ErrorCode};

/// A body on its way, in either direction.
pub type Body = UnsyncBoxBody<Bytes, ErrorCode>;

/// What Spin waits for if it is not told otherwise.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(90);

/// Connections that are kept, by authority; the last that was used is the first that is used again.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<HashMap<String, Vec<Kept>>>>);

/// A connection, and its socket once more, to look at.
struct Connection {
    sender: SendRequest<Body>,
    socket: std::net::TcpStream,
}

impl Connection {
    /// Whether the other end has neither hung up nor said anything. It may have a while ago: on a busy machine the task that
    /// reads this connection has not been told yet.
    fn is_sound(&self) -> bool {
        let seen = self.socket.peek(&mut [0]);
        self.sender.is_ready() && seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

type Kept = (Instant, Connection);

impl Connections {
    fn take(&self, authority: &str) -> Option<Connection> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.get_mut(authority)?;
        kept.retain(|(since, connection)| since.elapsed() < IDLE && connection.is_sound());
        kept.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, authority: String, connection: Connection) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(authority).or_default().push((Instant::now(), connection));
    }

    /// Sends `request`: the answer with its body as it comes.
    ///
    /// # Errors
    /// What WASI says where there is no answer.
    pub async fn send(
        &self,
        request: http::Request<Body>,
        options: Option<RequestOptions>,
    ) -> Result<http::Response<Body>, ErrorCode> {
        let option = |choose: fn(RequestOptions) -> Option<Duration>| options.and_then(choose).unwrap_or(PATIENCE);
        let authority = request.uri().authority().ok_or(ErrorCode::HttpRequestUriInvalid)?;
        let authority = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let mut request = request;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        let answer = async {
            loop {
                let kept = self.take(&authority);
                let reused = kept.is_some();
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => connect(&authority, option(|options| options.connect_timeout)).await?,
                };
                match connection.sender.try_send_request(request).await {
                    Ok(response) => {
                        let (connections, authority) = (self.clone(), authority.clone());
                        tokio::spawn(async move {
                            // Once the answer was read to its end, if it ever is.
                            if connection.sender.ready().await.is_ok() {
                                connections.keep(authority, connection);
                            }
                        });
                        return Ok(response);
                    }
                    Err(mut error) => match error.take_message().filter(|_| reused) {
                        // The server has closed it meanwhile.
                        Some(unsent) => request = unsent,
                        None => return Err(ErrorCode::from_hyper_request_error(error.into_error())),
                    },
                }
            }
        };
        let first = option(|options| options.first_byte_timeout);
        let response = timeout(first, answer).await.map_err(|_| ErrorCode::ConnectionReadTimeout)??;
        Ok(response.map(|body| body.map_err(ErrorCode::from_hyper_request_error).boxed_unsync()))
    }
}

async fn connect(authority: &str, within: Duration) -> Result<Connection, ErrorCode> {
    let stream = match timeout(within, TcpStream::connect(authority)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.to_string().contains("lookup address") => {
            return Err(ErrorCode::DnsError(DnsErrorPayload { rcode: Some(error.to_string()), info_code: None }));
        }
        Ok(Err(_)) => return Err(ErrorCode::ConnectionRefused),
        Err(_) => return Err(ErrorCode::ConnectionTimeout),
    };
    let _ = stream.set_nodelay(true);
    let (stream, socket) = twice(stream).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(ErrorCode::from_hyper_request_error)?;
    // How it ends is told to whoever uses it.
    tokio::spawn(connection);
    Ok(Connection { sender, socket })
}

/// `stream`, and a second handle on its socket.
fn twice(stream: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, socket))
}
