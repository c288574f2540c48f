//! One stream: the request is made on this machine, and the answer goes back as it comes.
//!
//! A stream is a task of its own; ending it cancels the exchange. What it says goes to the desk, which owns the link.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use causeway::config::plan::{Provider, Server};
use causeway::llm::provider::{behind, identify};
use causeway::platform::{ConnectTimeout, HttpClient as _, SeamError};
use causeway::tunnel::frame::{self, Headers};
use causeway::tunnel::hello::Offer;
use causeway::tunnel::{Reset, ResetCode, StreamId};
use causeway::wire::sse::Decoder;
use futures_util::StreamExt as _;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::targets::Target;
use super::tools::{Exposed, Filtering};
use crate::http::{Answer, Http};

/// The largest body of a request.
const MAX_BODY: usize = 64 << 20;
/// How many redirects within one origin are followed.
const MAX_REDIRECTS: usize = 3;
/// How many pieces of an answer that are there already go in one frame.
const TOGETHER: usize = 64;
/// How many endpoints of servers of HTTP+SSE are remembered.
const MAX_ENDPOINTS: usize = 1024;

/// What a stream tells the desk.
#[derive(Debug)]
pub(super) enum Ask {
    /// The answer begins.
    Head(frame::Response),
    /// A piece of its body, and whom to tell when it is on its way.
    Data(Bytes, oneshot::Sender<()>),
    /// The answer is complete.
    End,
    /// It will not be.
    Reset(Reset),
    /// A piece of the request of so many bytes has been read.
    Read(usize),
}

/// What the desk tells a stream.
#[derive(Debug)]
pub(super) enum Piece {
    /// A piece of the request's body.
    Data(Bytes),
    /// The request is complete.
    End,
}

/// What all streams share.
#[derive(Debug)]
pub(super) struct Kitchen {
    pub(super) http: Http,
    /// Where servers of HTTP+SSE have said that messages are to be posted: server and path.
    endpoints: Mutex<VecDeque<(String, String)>>,
}

impl Kitchen {
    pub(super) fn new(http: Http) -> Self {
        Self { http, endpoints: Mutex::default() }
    }

    fn knows(&self, server: &str, path: &str) -> bool {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().any(|(of, known)| of == server && known == path)
    }

    fn learn(&self, server: &Server, endpoint: &str) {
        let Ok(url) = server.url.join(endpoint.trim()) else { return };
        if url.origin() != server.url.origin() {
            return;
        }
        let path = path_of(&url);
        if !self.knows(&server.name, &path) {
            let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.push_back((server.name.clone(), path));
            if endpoints.len() > MAX_ENDPOINTS {
                endpoints.pop_front();
            }
        }
    }
}

/// The way from a stream to the desk.
#[derive(Debug, Clone)]
pub(super) struct Outlet {
    pub(super) stream: StreamId,
    pub(super) desk: mpsc::UnboundedSender<(StreamId, Ask)>,
}

impl Outlet {
    fn say(&self, ask: Ask) {
        // Without a desk there is nobody to answer any more.
        _ = self.desk.send((self.stream, ask));
    }

    /// Sends a piece of the body and waits until there is room for the next.
    async fn data(&self, bytes: Bytes) {
        if !bytes.is_empty() {
            let (done, sent) = oneshot::channel();
            self.say(Ask::Data(bytes, done));
            _ = sent.await;
        }
    }
}

/// Answers one stream.
pub(super) async fn answer(
    kitchen: Arc<Kitchen>,
    target: Target,
    exposed: Option<Exposed>,
    head: frame::Request,
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    outlet: Outlet,
) {
    let answered = async {
        let body = body(&mut pieces, &outlet).await?;
        if let (Some(exposed), Offer::Server(_)) = (&exposed, &head.target)
            && !body.is_empty()
            && let Some(refusal) = exposed.refusal(&body)
        {
            let mut response = frame::Response::new(200);
            let json = (CONTENT_TYPE.as_str().to_owned(), Bytes::from_static(b"application/json"));
            response.headers.0.push(json);
            outlet.say(Ask::Head(response));
            outlet.data(refusal).await;
            return Ok(());
        }
        match target {
            Target::Server(server) => {
                let response = ask(&kitchen, &server, &head, body).await?;
                let names = names_endpoints(&head, &response).then_some((&*kitchen, &*server));
                pass(response, exposed.as_ref(), names, &outlet).await
            }
            Target::Model(provider) => {
                let response = ask_model(&kitchen, &provider, &head, body).await?;
                pass(response, None, None, &outlet).await
            }
        }
    };
    match answered.await {
        Ok(()) => outlet.say(Ask::End),
        Err(reset) => outlet.say(Ask::Reset(reset)),
    }
}

/// The whole of the request's body.
async fn body(pieces: &mut mpsc::UnboundedReceiver<Piece>, outlet: &Outlet) -> Result<Bytes, Reset> {
    let mut whole = BytesMut::new();
    let mut only = Bytes::new();
    loop {
        match pieces.recv().await {
            Some(Piece::Data(bytes)) => {
                outlet.say(Ask::Read(bytes.len()));
                if whole.len() + bytes.len() > MAX_BODY {
                    let words = format!("a request of more than {MAX_BODY} bytes");
                    return Err(Reset::new(ResetCode::TooLarge, words));
                }
                if whole.is_empty() && only.is_empty() {
                    only = bytes;
                } else {
                    whole.extend_from_slice(&std::mem::take(&mut only));
                    whole.extend_from_slice(&bytes);
                }
            }
            Some(Piece::End) => return Ok(if whole.is_empty() { only } else { whole.freeze() }),
            None => return Err(Reset::new(ResetCode::Cancelled, "the request has gone")),
        }
    }
}

/// Asks a server at its own URL and nowhere else; one that is a program has a URL of its own kind.
pub(super) async fn ask(
    kitchen: &Kitchen,
    server: &Server,
    head: &frame::Request,
    body: Bytes,
) -> Result<Response<Answer>, Reset> {
    let failed = |words: String| Reset::new(ResetCode::Failed, words);
    let mut url = server.url.clone();
    if !head.path.is_empty() {
        let there = server.url.join(&head.path).ok().filter(|url| url.origin() == server.url.origin());
        let known = there.filter(|url| kitchen.knows(&server.name, &path_of(url)));
        url = known.ok_or_else(|| {
            let words = format!("server {:?} has named no endpoint at this path", server.name);
            Reset::new(ResetCode::Refused, words)
        })?;
    }
    let method = Method::from_bytes(head.method.as_bytes()).ok();
    let method = method.filter(|method| [Method::GET, Method::POST, Method::DELETE].contains(method));
    let method = method.ok_or_else(|| failed("only GET, POST and DELETE reach a server".to_owned()))?;
    let mut headers = head.headers.to_map();
    // What is packed could not be looked into.
    headers.remove(http::header::ACCEPT_ENCODING);
    for (name, value) in own(&server.headers) {
        headers.insert(name, value);
    }
    for _ in 0..=MAX_REDIRECTS {
        let mut request = Request::new(body.clone());
        *request.method_mut() = method.clone();
        *request.uri_mut() =
            url.as_str().parse().map_err(|_| failed(format!("server {:?}: no URL to ask", server.name)))?;
        *request.headers_mut() = headers.clone();
        request.extensions_mut().insert(ConnectTimeout(server.timeouts.connect));
        let response = kitchen.http.send(request).await.map_err(|error| reset(&server.name, &error))?;
        let there = redirect(&server.url, &url, &response);
        match there {
            Some(there) => url = there,
            None => return Ok(response),
        }
    }
    Err(failed(format!("server {:?}: redirects without end", server.name)))
}

/// Asks where models are for what the gateway's router asks such a provider for, and nothing else: its file says where
/// that is and who asks. Redirects are not followed.
pub(super) async fn ask_model(
    kitchen: &Kitchen,
    provider: &Provider,
    head: &frame::Request,
    body: Bytes,
) -> Result<Response<Answer>, Reset> {
    let failed =
        |code: ResetCode, words: String| Reset::new(code, format!("provider {:?}: {words}", provider.name));
    let method = Method::from_bytes(head.method.as_bytes()).unwrap_or_default();
    let address = behind(provider, &method, &head.path).ok_or_else(|| {
        let (kind, path) = (provider.kind.name(), super::view::plain(&head.path));
        let words = format!(
            "{method} {path} is none of what providers of kind `{kind}` are asked for; both ends must name the same kind"
        );
        failed(ResetCode::Refused, words)
    })?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() =
        address.parse().map_err(|_| failed(ResetCode::Failed, "no URL to ask".to_owned()))?;
    let headers = request.headers_mut();
    *headers = head.headers.to_map();
    // Who asks is what the file on this machine says.
    headers.remove(AUTHORIZATION);
    headers.remove(COOKIE);
    provider.headers.keys().for_each(|name| _ = headers.remove(name));
    identify(provider, headers);
    request.extensions_mut().insert(ConnectTimeout(provider.timeouts.connect));
    let code = |error: &SeamError| reset(&provider.name, error).code;
    kitchen.http.send(request).await.map_err(|error| failed(code(&error), error.to_string()))
}

/// Header names with their first value and no more: those of a file are unique.
fn own(headers: &HeaderMap) -> impl Iterator<Item = (http::HeaderName, HeaderValue)> {
    headers.iter().map(|(name, value)| (name.clone(), value.clone()))
}

/// Where a redirect leads that may be followed: within the same origin, with the method kept.
fn redirect<B>(server: &Url, from: &Url, response: &Response<B>) -> Option<Url> {
    let kept = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT].contains(&response.status());
    let to = response.headers().get(LOCATION).filter(|_| kept)?.to_str().ok()?;
    from.join(to).ok().filter(|to| to.origin() == server.origin())
}

fn path_of(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

/// What an adapter reported, told of `server`.
pub(super) fn reset(server: &str, error: &SeamError) -> Reset {
    let code = match error {
        SeamError::Connect(_) | SeamError::Denied(_) | SeamError::Offline(_) => ResetCode::Connect,
        SeamError::Timeout(_) => ResetCode::Timeout,
        SeamError::Cut(_) => ResetCode::Cut,
        SeamError::Host(_) => ResetCode::Failed,
    };
    Reset::new(code, format!("server {server:?}: {error}"))
}

/// Whether the answer may be a stream of HTTP+SSE, which begins with where messages are to be posted.
fn names_endpoints<B>(head: &frame::Request, response: &Response<B>) -> bool {
    head.method == "GET" && head.path.is_empty() && content_type(response).starts_with("text/event-stream")
}

fn content_type<B>(response: &Response<B>) -> &str {
    response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Passes an answer on as it comes.
pub(super) async fn pass(
    response: Response<Answer>,
    exposed: Option<&Exposed>,
    mut names: Option<(&Kitchen, &Server)>,
    outlet: &Outlet,
) -> Result<(), Reset> {
    let mut filtering = Filtering::new(exposed, content_type(&response));
    let mut endpoint = Decoder::new(16 * 1024);
    let (head, body) = response.into_parts();
    let mut body = body.ready_chunks(TOGETHER);
    let headers = Headers::from_map(&head.headers);
    outlet.say(Ask::Head(frame::Response { status: head.status.as_u16(), headers }));
    let too_large =
        || Reset::new(ResetCode::TooLarge, "an answer that is too large for --allow to look into");
    while let Some(pieces) = body.next().await {
        let (chunk, failed) = joined(pieces);
        if let Some((kitchen, server)) = names {
            let mut events = Vec::new();
            let fine = endpoint.push(&chunk, &mut events).is_ok();
            if let Some(event) = events.first() {
                if event.event == "endpoint" {
                    kitchen.learn(server, &String::from_utf8_lossy(&event.data));
                }
                names = None;
            } else if !fine {
                names = None;
            }
        }
        outlet.data(filtering.push(chunk).map_err(|_| too_large())?).await;
        if let Some(error) = failed {
            return Err(Reset::new(ResetCode::Cut, error.to_string()));
        }
    }
    outlet.data(filtering.finish()).await;
    Ok(())
}

/// Pieces of a body as one, and the error behind them. Each would be a frame of its own, and some servers write byte by byte.
fn joined(pieces: Vec<Result<Bytes, SeamError>>) -> (Bytes, Option<SeamError>) {
    let (mut chunk, mut more) = (Bytes::new(), BytesMut::new());
    for piece in pieces {
        match piece {
            Ok(piece) if chunk.is_empty() => chunk = piece,
            Ok(piece) => {
                if more.is_empty() {
                    more.extend_from_slice(&chunk);
                }
                more.extend_from_slice(&piece);
            }
            Err(error) => return (if more.is_empty() { chunk } else { more.freeze() }, Some(error)),
        }
    }
    (if more.is_empty() { chunk } else { more.freeze() }, None)
}

/// How long a server may take to answer when it is only checked.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server::new("old", Url::parse("http://127.0.0.1:1/sse").unwrap())
    }

    async fn path(kitchen: &Kitchen, path: &str) -> Reset {
        let head = frame::Request { path: path.to_owned(), ..frame::Request::post(Offer::server("old"), "") };
        ask(kitchen, &server(), &head, Bytes::new()).await.map(drop).unwrap_err()
    }

    #[test]
    fn pieces_that_are_there_go_together() {
        let check = |pieces: &[Option<&'static str>], expect: &str, fails: bool| {
            let cut = || SeamError::Cut("cut".to_owned());
            let pieces = pieces.iter().map(|piece| piece.map(Bytes::from).ok_or_else(cut));
            let (chunk, failed) = joined(pieces.collect());
            assert_eq!((chunk, failed.is_some()), (Bytes::from(expect.to_owned()), fails));
        };
        check(&[Some("a")], "a", false);
        check(&[Some("a"), Some(""), Some("b"), Some("c")], "abc", false);
        check(&[Some("a"), Some("b"), None], "ab", true);
        check(&[None], "", true);
    }

    #[tokio::test]
    async fn only_what_the_server_has_named_is_asked() {
        let kitchen = Kitchen::new(Http::new());
        for wrong in ["/admin", "/messages", "//evil/x", "http://evil/", "../x", "/sse"] {
            assert_eq!(path(&kitchen, wrong).await.code, ResetCode::Refused, "{wrong}");
        }
        kitchen.learn(&server(), "/messages?id=1");
        kitchen.learn(&server(), "http://evil/messages");
        assert_eq!(path(&kitchen, "/messages?id=1").await.code, ResetCode::Connect);
        assert_eq!(path(&kitchen, "/messages?id=2").await.code, ResetCode::Refused);
    }

    #[test]
    fn redirects_stay_where_they_are() {
        let to = |location: &str, status: u16| {
            let response = Response::builder().status(status).header(LOCATION, location).body(()).unwrap();
            redirect(&server().url, &server().url, &response).map(|url| url.to_string())
        };
        assert_eq!(to("/sse/", 308).as_deref(), Some("http://127.0.0.1:1/sse/"));
        assert_eq!(to("/sse/", 302), None);
        assert_eq!(to("http://127.0.0.1:2/", 307), None);
    }
}
