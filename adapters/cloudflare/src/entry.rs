//! The fetch event: request in, reply out, the rest behind it.

use std::pin::pin;

use causeway::gateway::dock::Opening;
use causeway::gateway::{Body, Reply};
use causeway::mcp::serve::Ticket;
use futures_util::future::{Either, join, select};
use js_sys::Uint8Array;
use wasm_bindgen::JsValue;
use worker::{Context, Env, event};

use crate::body::streamed;
use crate::gone::Gone;
use crate::http::{self, response};
use crate::{link, platform};

#[event(fetch)]
async fn fetch(request: web_sys::Request, env: Env, context: Context) -> worker::Result<web_sys::Response> {
    let Some(asked) = http::read_request(&request) else {
        return response(400, "", &JsValue::NULL);
    };
    let ticket = Ticket::default();
    // A caller who goes away is told by an event; without it everything below would be forgotten half-way, never
    // dropped, and what it holds in the isolate's memory with it.
    let mut gone = Gone::of(&request);
    let gateway = platform::gateway(env).await;
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
    let answer = match (parts.extensions.get::<Opening>(), body) {
        (Some(opening), _) => link::open(gateway.platform().env(), opening).await,
        (None, body) => {
            let body = match body {
                Body::Full(bytes) if bytes.is_empty() => JsValue::NULL,
                Body::Full(bytes) => Uint8Array::from(bytes.as_ref()).into(),
                Body::Stream(stream) => streamed(stream, Some(gone)),
            };
            response(parts.status.as_u16(), &http::lines(&parts.headers), &body)
        }
    };
    context.wait_until(async move {
        join(gateway.clone().finish(after), gateway.look_if_due()).await;
    });
    answer
}
