//! The fetch event: request in, reply out, the rest behind it.

use std::pin::pin;

use causeway::admin;
use causeway::gateway::dock::Opening;
use causeway::gateway::{After, Body, Gateway, Reply};
use causeway::mcp::serve::Ticket;
use futures_util::future::{Either, join, select};
use js_sys::Uint8Array;
use wasm_bindgen::JsValue;
use worker::{Context, Env, event};

use crate::body::{Outgoing, explain};
use crate::gone::Gone;
use crate::platform::Worker;
use crate::{glue, http, isolate, link};

#[event(fetch)]
async fn fetch(request: web_sys::Request, env: Env, context: Context) -> worker::Result<web_sys::Response> {
    let platform = Worker::new(env);
    let Some(asked) = http::read_request(&request) else {
        return response(400, "", &JsValue::NULL);
    };
    let ticket = Ticket::default();
    // A caller who goes away is told by an event; without it everything below would be forgotten half-way, never
    // dropped, and what it holds in the isolate's memory with it.
    let mut gone = Gone::of(&request);
    let instance = isolate::instance(&platform).await;
    let gateway = Gateway::new(platform.clone(), instance.clone());
    let reply = match select(pin!(gateway.clone().handle_with(ticket.clone(), asked)), &mut gone).await {
        Either::Left((reply, _)) => reply,
        Either::Right(_) => {
            // Nobody is left to read this. Dropping the call has given up what it was waiting for; some servers want
            // to be told as well.
            context.wait_until(gateway.abandon(ticket));
            return response(499, "", &JsValue::NULL);
        }
    };
    let Reply { response: answer, after } = reply;
    let (parts, body) = answer.into_parts();
    if let Some(opening) = parts.extensions.get::<Opening>() {
        let answer = link::open(platform.env(), opening).await;
        context.wait_until(gateway.finish(after));
        return answer;
    }
    let (body, end): (JsValue, Box<dyn FnOnce()>) = match body {
        // Some statuses allow no body at all, not even an empty one.
        Body::Full(bytes) if bytes.is_empty() => (JsValue::NULL, Box::new(|| {})),
        Body::Full(bytes) => (Uint8Array::from(bytes.as_ref()).into(), Box::new(|| {})),
        Body::Stream(stream) => {
            let body = Outgoing::new(stream);
            let watched = body.clone();
            (body.into_js(), Box::new(move || watched.end()))
        }
    };
    context.wait_until(async move {
        join(finish(gateway, after, gone, end), admin::look_if_due(&platform, &instance)).await;
    });
    response(parts.status.as_u16(), &http::lines(&parts.headers), &body)
}

/// What is left to do while the body is on its way and after it. A caller who goes away ends the body.
async fn finish(gateway: Gateway<Worker>, after: Box<After<Worker>>, gone: Gone, end: Box<dyn FnOnce()>) {
    if let Either::Right((_, finish)) = select(pin!(gateway.finish(after)), gone).await {
        end();
        finish.await;
    }
}

fn response(status: u16, head: &str, body: &JsValue) -> worker::Result<web_sys::Response> {
    glue::response(status, head, body).map_err(|error| worker::Error::RustError(explain(&error)))
}
