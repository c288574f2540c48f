//! The fetch event: request in, reply out, the rest behind it.

use std::pin::pin;

use bytes::Bytes;
use causeway::gateway::{After, Body, Gateway, Reply};
use causeway::platform::SeamError;
use futures_util::Stream;
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::JsFuture;
use worker::{Context, Env, event};

use crate::body::{Outgoing, explain};
use crate::platform::Worker;
use crate::{glue, http, isolate};

#[event(fetch)]
async fn fetch(request: web_sys::Request, env: Env, context: Context) -> worker::Result<web_sys::Response> {
    let platform = Worker::new(env);
    let Some(asked) = http::read_request(&request) else {
        return response(400, "", &JsValue::NULL);
    };
    let instance = isolate::instance();
    let gateway = Gateway::new(platform, instance);
    let mut gone = JsFuture::from(glue::gone(&request));
    let reply = match select(pin!(gateway.clone().handle(asked)), &mut gone).await {
        Either::Left((reply, _)) => reply,
        // Nobody is left to read this. Dropping the call has cancelled what it was waiting for.
        Either::Right(_) => return response(499, "", &JsValue::NULL),
    };
    let Reply { response: answer, after } = reply;
    let (parts, body) = answer.into_parts();
    let head = http::lines(&parts.headers);
    match body {
        Body::Full(bytes) => {
            context.wait_until(gateway.finish(after));
            // Some statuses allow no body at all, not even an empty one.
            let body = if bytes.is_empty() { JsValue::NULL } else { Uint8Array::from(bytes.as_ref()).into() };
            response(parts.status.as_u16(), &head, &body)
        }
        Body::Stream(stream) => {
            let body = Outgoing::new(stream);
            context.wait_until(behind(gateway, after, gone, body.clone()));
            response(parts.status.as_u16(), &head, &body.into_js())
        }
    }
}

/// What happens while a body is on its way and after it: a caller who goes away ends it.
async fn behind<S>(gateway: Gateway<Worker>, after: After, gone: JsFuture, body: Outgoing<S>)
where
    S: Stream<Item = Result<Bytes, SeamError>> + Unpin + 'static,
{
    if let Either::Right((_, finish)) = select(pin!(gateway.finish(after)), gone).await {
        body.end();
        finish.await;
    }
}

fn response(status: u16, head: &str, body: &JsValue) -> worker::Result<web_sys::Response> {
    glue::response(status, head, body).map_err(|error| worker::Error::RustError(explain(&error)))
}
