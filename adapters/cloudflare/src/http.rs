//! HTTP: heads between JavaScript and the `http` crate, and outbound requests over `fetch`.

use std::fmt::Write as _;
use std::pin::Pin;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use bytes::Bytes;
use causeway::platform::{HttpClient, SeamError};
use js_sys::Uint8Array;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

use crate::body::{Chunks, Exchange, explain};
use crate::glue;

/// Outbound requests over `fetch`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch;

impl HttpClient for Fetch {
    type Body = Chunks;
    type Sent = Pin<Box<dyn Future<Output = Result<Response<Chunks>, SeamError>>>>;

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Chunks>, SeamError> {
        let (parts, body) = request.into_parts();
        let body = (!body.is_empty()).then(|| Uint8Array::from(body.as_ref()));
        let (exchange, signal) = Exchange::begin()?;
        let url = parts.uri.to_string();
        let sent = glue::send(&url, parts.method.as_str(), &lines(&parts.headers), body, &signal);
        let answer = match sent {
            Ok(promise) => JsFuture::from(promise).await,
            Err(error) => Err(error),
        };
        let answer: web_sys::Response = answer.map_err(|error| failure(&error))?.unchecked_into();
        read_response(&answer, exchange)
    }

    fn begin(&self, request: Request<Bytes>) -> Self::Sent {
        Box::pin(async move { Self.send(request).await })
    }
}

/// What became of a request that got no answer. `fetch` has one exception for all, so its words must tell.
fn failure(error: &JsValue) -> SeamError {
    let words = explain(error);
    let has = |part: &str| words.to_ascii_lowercase().contains(part);
    if has("timed out") || has("timeout") {
        SeamError::Timeout(words)
    } else if has("not permitted")
        || has("not allowed")
        || has("forbidden")
        || has("blocked")
        || has("too many subrequests")
    {
        SeamError::Denied(words)
    } else {
        SeamError::Connect(words)
    }
}

pub(crate) fn read_response(
    answer: &web_sys::Response,
    exchange: Exchange,
) -> Result<Response<Chunks>, SeamError> {
    let text = glue::response_head(answer);
    let mut text = text.split('\n');
    let status = text.next().and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok());
    let status = status.ok_or_else(|| SeamError::Cut("the response has no status".to_owned()))?;
    let mut headers = read_headers(text);
    if headers.contains_key(header::CONTENT_ENCODING) {
        // `fetch` has decoded the body, so these two no longer speak of it.
        headers.remove(header::CONTENT_ENCODING);
        headers.remove(header::CONTENT_LENGTH);
    }
    let body = Chunks::new(answer.as_ref(), length(&headers), Some(exchange));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The request as the core takes it. `None` if its head is none that HTTP knows.
pub(crate) fn read_request(request: &web_sys::Request) -> Option<Request<Chunks>> {
    let text = glue::request_head(request);
    let mut text = text.split('\n');
    let method = Method::from_bytes(text.next()?.as_bytes()).ok()?;
    let uri = text.next()?.parse::<Uri>().ok()?;
    let headers = read_headers(text);
    let body = Chunks::new(request.as_ref(), length(&headers), None);
    let mut read = Request::new(body);
    *read.method_mut() = method;
    *read.uri_mut() = uri;
    *read.headers_mut() = headers;
    Some(read)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn read_headers<'a>(mut text: impl Iterator<Item = &'a str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    while let (Some(name), Some(value)) = (text.next(), text.next()) {
        // The runtime has checked them; one that the two disagree on is left out rather than failing the call.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// The response as JavaScript takes it. Some statuses allow no body at all, not even an empty one.
pub(crate) fn response(status: u16, head: &str, body: &JsValue) -> worker::Result<web_sys::Response> {
    glue::response(status, head, body).map_err(|error| worker::Error::RustError(explain(&error)))
}

/// Headers as `glue.js` takes them.
pub(crate) fn lines(headers: &HeaderMap) -> String {
    let mut text = String::with_capacity(headers.len() * 48);
    for (name, value) in headers {
        if let Ok(value) = std::str::from_utf8(value.as_bytes()) {
            let _ = writeln!(text, "{name}\n{value}");
        }
    }
    text
}
