//! How a request gets to its server, or to a provider of models: over HTTP, or through the link that it is behind.
//!
//! A link is kept by an owner (`tunnel::dock`), which is asked over HTTP as well: headers that begin with [`OWN`] say what
//! for, and go no further than there.

use bytes::Bytes;
use http::{HeaderValue, Request, Response};

use crate::config::plan::{Provider, Server};
use crate::platform::{HttpClient as _, Mailboxes as _, Platform, SeamError, Sent, UpstreamBody};

/// How the headers between gateway and owner begin.
pub const OWN: &str = "causeway-link-";
/// What is asked: [`EXCHANGE`], [`STATE`], [`WATCH`] or [`PAIR`].
pub const ASK: &str = "causeway-link-ask";
/// An exchange with the server that [`SERVER`] names, or the provider of models that [`MODEL`] does.
pub const EXCHANGE: &str = "exchange";
/// How the link is, as JSON.
pub const STATE: &str = "state";
/// A byte whenever the link is connected or lost.
pub const WATCH: &str = "watch";
/// A companion's `POST`, on hosts and networks without WebSockets.
pub const PAIR: &str = "pair";
/// The header with a server's name.
pub const SERVER: &str = "causeway-link-server";
/// The header with the name of a provider of models.
pub const MODEL: &str = "causeway-link-model";
/// The header with the name of the caller's key.
pub const CALLER: &str = "causeway-link-caller";
/// The header with the request's id.
pub const REQUEST_ID: &str = "causeway-link-request-id";

/// The key of the owner of the link `name`.
#[must_use]
pub fn key(name: &str) -> String {
    format!("link/{name}")
}

/// The name of the link whose owner has `key`; `None` if that is a mailbox's.
#[must_use]
pub fn name(key: &str) -> Option<&str> {
    key.strip_prefix("link/")
}

/// A request that asks the owner of a link for `what`.
#[must_use]
pub fn asking(what: &'static str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    request.headers_mut().insert(ASK, HeaderValue::from_static(what));
    request
}

/// Sends `request` to `server`: over HTTP, or through the link that it is behind.
///
/// # Errors
/// When there is no answer.
pub async fn send<P: Platform>(
    platform: &P,
    server: &Server,
    request: Request<Bytes>,
) -> Result<Response<UpstreamBody<P>>, SeamError> {
    match &server.via {
        None => platform.http().send(request).await,
        Some(via) => through(platform, &via.link, SERVER, &server.name, request).await,
    }
}

/// [`send`] as a value.
pub fn begin<P: Platform>(platform: &P, server: &Server, request: Request<Bytes>) -> Sent<P> {
    match &server.via {
        None => platform.http().begin(request),
        Some(via) => through(platform, &via.link, SERVER, &server.name, request),
    }
}

/// Sends `request` of `caller` to `provider`: over HTTP, or through the link that it is behind.
pub fn begin_model<P: Platform>(
    platform: &P,
    provider: &Provider,
    mut request: Request<Bytes>,
    caller: &str,
    request_id: &str,
) -> Sent<P> {
    let Some(link) = &provider.via else { return platform.http().begin(request) };
    label(&mut request, CALLER, caller);
    label(&mut request, REQUEST_ID, request_id);
    through(platform, link, MODEL, &provider.name, request)
}

fn through<P: Platform>(
    platform: &P,
    link: &str,
    kind: &'static str,
    name: &str,
    mut request: Request<Bytes>,
) -> Sent<P> {
    request.headers_mut().insert(ASK, HeaderValue::from_static(EXCHANGE));
    label(&mut request, kind, name);
    platform.mailboxes().ask(&key(link), request)
}

/// Says `text` on `request`, to the owner and nobody else.
pub fn label(request: &mut Request<Bytes>, header: &'static str, text: &str) {
    if let Ok(text) = HeaderValue::from_str(text) {
        request.headers_mut().insert(header, text);
    }
}
