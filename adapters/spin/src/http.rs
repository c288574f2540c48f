//! HTTP: requests that come in as the core takes them, and requests that go out.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response, header};
use bytes::Bytes;
use causeway::mcp::mailbox::Said;
use causeway::platform::{CONNECT_TIMEOUT, ConnectTimeout, HttpClient, SeamError};
use causeway::polled::Asked;
use futures_channel::oneshot;
use futures_util::Stream;
use futures_util::future::{Either, select};
use http_body::Body as _;
use http_body_util::Full;
use spin_sdk::wasip3::http::client;
use spin_sdk::wasip3::http::types::{self, ErrorCode, RequestOptions};
use spin_sdk::wasip3::http_compat::{
    IncomingBody, IncomingMessage, RequestOptionsExtension, http_from_wasi_response, http_into_wasi_request,
};
use spin_sdk::wit_bindgen::{spawn, yield_async};

use crate::pipe::{Reader, Writer, pipe};
use crate::platform::Spin;

/// The core watches how long a server may be silent; the host, which would give up after ten minutes, must not.
const SILENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// Sets `work` going. By itself that is looked at only when something else happens in this task, which may be never.
pub(crate) async fn start(work: impl Future<Output = ()> + 'static) {
    spawn(work);
    yield_async().await;
}

/// What a server or a mailbox says, or a caller.
pub(crate) enum Chunks {
    /// What comes over the network.
    Network(Reader),
    /// What a mailbox says.
    Mailbox(Said),
    /// What the owner of a link says.
    Link(Box<Asked<Spin>>),
}

impl Stream for Chunks {
    type Item = Result<Bytes, SeamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Network(reader) => Pin::new(reader).poll_next(context),
            Self::Mailbox(said) => Pin::new(said).poll_next(context),
            Self::Link(asked) => Pin::new(asked).poll_next(context),
        }
    }
}

/// The request as the core takes it.
pub(crate) async fn read_request(request: spin_sdk::http::Request) -> Request<Reader> {
    let (mut parts, body) = request.into_parts();
    // What the host adds for others.
    parts.extensions.clear();
    let (writer, reader) = pipe();
    start(read(body, writer)).await;
    Request::from_parts(parts, reader)
}

/// Reads a body to its end, as fast as it is read on.
async fn read<T: IncomingMessage>(mut body: IncomingBody<T>, mut writer: Writer) {
    while writer.room().await {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let next = match select(pin!(frame), pin!(writer.gone())).await {
            Either::Left((next, _)) => next,
            Either::Right(_) => return,
        };
        match next {
            Some(Ok(frame)) => {
                // Trailers say nothing here.
                if let Ok(bytes) = frame.into_data()
                    && !bytes.is_empty()
                {
                    writer.put(Ok(bytes));
                }
            }
            Some(Err(error)) => return writer.put(Err(failure(error))),
            None => return,
        }
    }
}

/// Requests that go out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbound;

impl HttpClient for Outbound {
    type Body = Chunks;
    type Sent = Sent;

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Chunks>, SeamError> {
        let (answered, answer) = oneshot::channel();
        start(exchange(request, answered)).await;
        answer.await.unwrap_or_else(|_| Err(SeamError::Host("the exchange was forgotten".to_owned())))
    }

    fn begin(&self, request: Request<Bytes>) -> Sent {
        Box::pin(async move { Self.send(request).await })
    }
}

/// A request on its way.
pub(crate) type Sent = Pin<Box<dyn Future<Output = Result<Response<Chunks>, SeamError>>>>;

/// Sends `request`, answers with the head, and reads the body; ends as soon as nobody waits for it.
async fn exchange(request: Request<Bytes>, answered: oneshot::Sender<Result<Response<Chunks>, SeamError>>) {
    let mut answered = answered;
    let request = outgoing(request);
    // Its body is sent by work that this has set going.
    yield_async().await;
    let sent = match request {
        Ok(request) => match select(pin!(client::send(request)), answered.cancellation()).await {
            Either::Left((sent, _)) => sent,
            Either::Right(_) => return,
        },
        Err(error) => Err(error),
    };
    match sent.and_then(http_from_wasi_response) {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let (writer, reader) = pipe();
            if answered.send(Ok(Response::from_parts(parts, Chunks::Network(reader)))).is_ok() {
                read(body, writer).await;
            }
        }
        // Whoever asked may have gone.
        Err(error) => _ = answered.send(Err(failure(error))),
    }
}

fn outgoing(request: Request<Bytes>) -> Result<types::Request, ErrorCode> {
    let (mut parts, body) = request.into_parts();
    let options = RequestOptions::new();
    let nanoseconds = |span: Duration| u64::try_from(span.as_nanos()).ok();
    // A host that knows no such times has its own.
    let connect = parts.extensions.get().map_or(CONNECT_TIMEOUT, |ConnectTimeout(time)| *time);
    let _ = options.set_connect_timeout(nanoseconds(connect));
    let _ = options.set_first_byte_timeout(nanoseconds(SILENCE));
    let _ = options.set_between_bytes_timeout(nanoseconds(SILENCE));
    parts.extensions.insert(RequestOptionsExtension(options));
    if !body.is_empty() {
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    http_into_wasi_request(Request::from_parts(parts, Full::new(body)))
}

/// What became of an exchange.
fn failure(error: ErrorCode) -> SeamError {
    let words = words(&error);
    match error {
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => SeamError::Timeout(words),
        ErrorCode::HttpRequestDenied => SeamError::Denied(
            "the application may not reach this host; name it in allowed_outbound_hosts (spin.toml)"
                .to_owned(),
        ),
        ErrorCode::DestinationIpProhibited => SeamError::Denied(words),
        ErrorCode::ConnectionLimitReached
        | ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::TlsProtocolError
        | ErrorCode::TlsCertificateError
        | ErrorCode::TlsAlertReceived(_) => SeamError::Connect(words),
        ErrorCode::ConfigurationError => SeamError::Host(words),
        _ => SeamError::Cut(words),
    }
}

/// An error's name as words: `ConnectionRefused` is `connection refused`.
fn words(error: &ErrorCode) -> String {
    if let ErrorCode::InternalError(Some(words)) = error {
        return words.chars().take(200).collect();
    }
    let name = format!("{error:?}");
    let name = name.rsplit("::").next().unwrap_or_default();
    let mut words = String::new();
    for (place, letter) in name.chars().take_while(|letter| letter.is_ascii_alphanumeric()).enumerate() {
        if letter.is_ascii_uppercase() && place > 0 {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}
