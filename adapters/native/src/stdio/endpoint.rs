//! The gateway's side: HTTP requests to one URL, and what their answers are.
//!
//! A request is sent again only when no connection could be made for it. What is shown of the URL and of the
//! server's words **never** holds the key or the value of a header.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use causeway::platform::{HttpClient, SeamError};
use futures_util::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use serde_json::value::RawValue;

use super::backoff::Backoff;
use super::failure::{Failure, Refused};
use super::output::plain;
use super::stream::Events;
use crate::http::{Answer, Http};
use crate::log::{Level, Log};

/// The body of a refusal is read no further than this.
const MAX_REFUSAL: usize = 64 * 1024;
/// What is shorter is no secret, and taking it out of a text would only spoil the text.
const MIN_SECRET: usize = 6;

/// Where the gateway is, and who asks.
pub(super) struct Endpoint {
    http: Http,
    uri: Uri,
    /// The URL without what may be secret in it.
    shown: String,
    /// Sent with every request.
    headers: HeaderMap,
    keyed: bool,
    /// Never to be shown.
    secrets: Vec<String>,
    /// How long a request waits for a connection.
    patience: Duration,
    /// The largest answer, or event of one.
    most: usize,
    tried: AtomicBool,
    reached: AtomicBool,
    log: Log,
}

/// What an answer is.
pub(super) enum Got {
    /// Messages as they come.
    Events(Box<Events<Answer>>),
    /// A document: a message, or a batch of them.
    Document(Bytes),
    /// No message.
    Nothing(http::StatusCode),
}

impl Endpoint {
    /// The gateway at `uri`; `headers` are the caller's own.
    pub(super) fn new(uri: Uri, headers: HeaderMap, patience: Duration, most: usize, log: Log) -> Self {
        let secrets = headers.values().filter_map(|value| value.to_str().ok());
        // With the scheme, as in `Bearer …`, and without.
        let secrets = secrets.flat_map(|value| [Some(value), value.split_once(' ').map(|(_, rest)| rest)]);
        let secrets =
            secrets.flatten().filter(|value| value.len() >= MIN_SECRET).map(str::to_owned).collect();
        let scheme = uri.scheme_str().unwrap_or("http");
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let shown = format!("{scheme}://{authority}{}", uri.path());
        Self {
            http: Http::new(),
            shown,
            keyed: !headers.is_empty(),
            secrets,
            headers,
            uri,
            patience,
            most,
            tried: AtomicBool::new(false),
            reached: AtomicBool::new(false),
            log,
        }
    }

    /// How long a request waits for a connection.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether requests were made and not one was answered.
    pub(super) fn never_reached(&self) -> bool {
        self.tried.load(Ordering::Relaxed) && !self.reached.load(Ordering::Relaxed)
    }

    /// Posts `body`; `more` are the headers that go with it. `sent` is told whether the gateway may have it.
    ///
    /// # Errors
    /// When no connection can be made in the time there is for it, or the one made breaks.
    pub(super) async fn post(
        &self,
        more: &HeaderMap,
        body: &Bytes,
        sent: impl Fn(bool),
    ) -> Result<Response<Answer>, Failure> {
        let began = Instant::now();
        let mut backoff = Backoff::request();
        let mut noted = false;
        loop {
            sent(true);
            let why = match self.send(Method::POST, more, body.clone()).await {
                Ok(response) => return Ok(response),
                Err(SeamError::Connect(why) | SeamError::Timeout(why)) => why,
                Err(error) => return Err(Failure::Cut(error.to_string())),
            };
            sent(false);
            let pause = backoff.pause();
            let waited = began.elapsed();
            if is_permanent(&why) || waited + pause > self.patience {
                return Err(Failure::Unreachable(why, waited));
            }
            if !std::mem::replace(&mut noted, true) {
                self.note(Level::Warn, "gateway.unreachable", &format!("{why}: trying again"));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks for a stream, once.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn get(&self, more: &HeaderMap) -> Result<Response<Answer>, Failure> {
        self.once(Method::GET, more, Duration::from_secs(60)).await
    }

    /// Says that a session is over, once.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn delete(&self, more: &HeaderMap, patience: Duration) -> Result<(), Failure> {
        self.once(Method::DELETE, more, patience).await.map(drop)
    }

    async fn once(
        &self,
        method: Method,
        more: &HeaderMap,
        patience: Duration,
    ) -> Result<Response<Answer>, Failure> {
        let sent = tokio::time::timeout(patience, self.send(method, more, Bytes::new())).await;
        match sent {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(SeamError::Connect(why) | SeamError::Timeout(why))) => {
                Err(Failure::Unreachable(why, Duration::ZERO))
            }
            Ok(Err(error)) => Err(Failure::Cut(error.to_string())),
            Err(_) => Err(Failure::Cut(format!("no answer in {} s", patience.as_secs()))),
        }
    }

    async fn send(
        &self,
        method: Method,
        more: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Answer>, SeamError> {
        self.tried.store(true, Ordering::Relaxed);
        let accept = match method {
            Method::POST => "application/json, text/event-stream",
            _ => "text/event-stream",
        };
        let posts = method == Method::POST;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("causeway/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if posts {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.extend(self.headers.clone());
        headers.extend(more.clone());
        let response = self.http.send(request).await?;
        self.reached.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// Finds out what an answer is.
    ///
    /// # Errors
    /// When it is a refusal, or no answer of an MCP endpoint.
    pub(super) async fn read(&self, response: Response<Answer>) -> Result<Got, Failure> {
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let body = beginning(body, MAX_REFUSAL).await;
            return Err(Failure::Refused(Box::new(Refused::new(head.status, &head.headers, &body))));
        }
        let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind == "text/event-stream" {
            return Ok(Got::Events(Box::new(Events::new(body, self.most))));
        }
        let body = self.whole(body).await?;
        match (kind.as_str(), body.trim_ascii()) {
            (_, []) => Ok(Got::Nothing(head.status)),
            ("application/json" | "", _) => Ok(Got::Document(body)),
            _ => Err(Failure::NotMcp(plain(&kind).into_owned())),
        }
    }

    async fn whole(&self, mut body: Answer) -> Result<Bytes, Failure> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| Failure::Cut(error.to_string()))?;
            if whole.len() + chunk.len() > self.most {
                return Err(Failure::TooLarge(self.most));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The error to answer the request `id` with.
    pub(super) fn error(&self, failure: &Failure, id: &RawValue) -> Bytes {
        let line = failure.line(id, &self.shown, self.keyed);
        match std::str::from_utf8(&line) {
            Ok(text) if self.tells(text) => Bytes::from(self.discreet(text)),
            _ => line,
        }
    }

    /// What happened, for the log.
    pub(super) fn words(&self, failure: &Failure) -> String {
        failure.words(&self.shown, self.keyed)
    }

    /// Writes a record that holds no secret.
    pub(super) fn note(&self, level: Level, event: &str, message: &str) {
        self.log.event(level, event, &self.discreet(&plain(message)));
    }

    fn tells(&self, text: &str) -> bool {
        self.secrets.iter().any(|secret| text.contains(secret.as_str()))
    }

    /// `text` without what must not be shown, whoever wrote it there.
    fn discreet(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// The beginning of a body that is only read for an explanation.
async fn beginning(mut body: Answer, most: usize) -> Bytes {
    let mut read = BytesMut::new();
    let reading = async {
        while let Some(Ok(chunk)) = body.next().await {
            read.extend_from_slice(&chunk);
            if read.len() > most {
                break;
            }
        }
    };
    _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    read.freeze()
}

/// Whether trying again cannot help: a certificate does not become valid by waiting.
fn is_permanent(why: &str) -> bool {
    why.contains("certificate")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::AUTHORIZATION;

    fn endpoint(url: &str) -> Endpoint {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer cw_secret"));
        headers.insert("x-short", HeaderValue::from_static("a"));
        Endpoint::new(url.parse().unwrap(), headers, Duration::ZERO, 1024, Log::stderr(Level::Off))
    }

    #[test]
    fn no_secret_is_shown() {
        let endpoint = endpoint("https://gw:8443/mcp?token=t");
        assert_eq!(endpoint.shown, "https://gw:8443/mcp");
        let id = RawValue::from_string("1".to_owned()).unwrap();
        let echoed = endpoint.error(&Failure::Cut("you sent Bearer cw_secret".to_owned()), &id);
        let text = String::from_utf8(echoed.to_vec()).unwrap();
        assert!(text.contains("you sent ***") && !text.contains("cw_secret"), "{text}");
        assert_eq!(endpoint.discreet("cw_secret a"), "*** a");
    }

    #[tokio::test]
    async fn nobody_there_is_told_after_the_patience_ran_out() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoint = endpoint(&format!("http://127.0.0.1:{port}/mcp"));
        assert!(!endpoint.never_reached());
        let sent = std::cell::Cell::new(true);
        let posted = endpoint.post(&HeaderMap::new(), &Bytes::new(), |value| sent.set(value)).await;
        assert!(matches!(posted, Err(Failure::Unreachable(..))));
        assert!(endpoint.never_reached() && !sent.get());
    }
}
