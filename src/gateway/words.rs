//! The endpoints of models: OpenAI's and Anthropic's own and the gateway's, in front of any provider.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{Either, select};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::flow::Source;
use super::head::{Head, HeadBody};
use super::{Asked, Gateway, only};
use crate::config::Plan;
use crate::config::plan::Caller;
use crate::fault::Fault;
use crate::inbound::{self, Endpoint};
use crate::llm::ask::Shelf;
use crate::llm::{self, Front, Opening, Refusal, Task, Words};
use crate::platform::{Clock as _, Platform, SeamError};

/// Whose errors a caller of this endpoint understands; `None` for endpoints that are not of models.
pub(super) fn front(endpoint: &Endpoint, headers: &HeaderMap) -> Option<Front> {
    match endpoint {
        Endpoint::Completions | Endpoint::Embeddings => Some(Front::OpenAi),
        Endpoint::ModelMessages | Endpoint::CountTokens => Some(Front::Anthropic),
        Endpoint::Ask | Endpoint::Context(_) => Some(Front::Ask),
        Endpoint::Models(_) if llm::is_anthropic(headers) => Some(Front::Anthropic),
        Endpoint::Models(_) => Some(Front::OpenAi),
        _ => None,
    }
}

/// A refusal in the caller's dialect.
pub(super) fn refusal<P: Platform, F>(
    front: Front,
    refusal: impl Into<Refusal>,
    request_id: &str,
) -> Head<P, F> {
    let (status, headers, body) = llm::convert::head(front, &refusal.into(), request_id);
    Head { status, headers, body: HeadBody::Full(body), cancel: None, opening: None }
}

impl<P: Platform> Gateway<P> {
    /// Answers a request to an endpoint of models.
    #[expect(clippy::too_many_arguments, reason = "what `answer` has found out so far")]
    pub(super) async fn words<B, F>(
        &self,
        endpoint: Endpoint,
        front: Front,
        head: http::request::Parts,
        body: B,
        plan: &Arc<Plan>,
        caller: &Caller,
        asked: &mut Asked,
    ) -> Result<Head<P, F>, Fault>
    where
        B: Stream<Item = Result<Bytes, SeamError>> + Unpin,
    {
        let (memory, now) = (self.instance.models(), self.platform.clock().now());
        let task = match endpoint {
            Endpoint::Embeddings => Task::Embeddings,
            Endpoint::CountTokens => Task::Count,
            Endpoint::Models(name) => {
                only(&head.method, &[Method::GET, Method::HEAD])?;
                let body = match name {
                    Some(name) => match llm::one_model(plan, memory, caller, front, &name, now) {
                        Ok(body) => body,
                        Err(unknown) => return Ok(refusal(front, unknown, &asked.request_id)),
                    },
                    None => {
                        let deadline = plan.limits.merge_deadline;
                        llm::models(&self.platform, plan, memory, caller, front, deadline).await
                    }
                };
                return Ok(Head::full(StatusCode::OK, "application/json", body));
            }
            Endpoint::Context(user) => {
                let one = [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE];
                only(&head.method, if user.is_some() { &one } else { one.get(..2).unwrap_or_default() })?;
                let writes = matches!(head.method, Method::PUT | Method::POST);
                let body = if writes {
                    inbound::check_json(&head.headers)?;
                    inbound::body(&head.headers, body, plan.limits.body).await?
                } else {
                    Bytes::new()
                };
                let query = |name: &str| {
                    let mut pairs = head.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
                    pairs.find(|(key, _)| *key == name).map(|(_, value)| inbound::decoded(value))
                };
                let shelf = Shelf::new(&self.platform, &plan.llm.contexts, caller);
                let answered = match &user {
                    Some(user) => shelf.answer(user, &head.method, &head.headers, &body).await,
                    None => shelf.names(query("cursor"), query("limit")).await,
                };
                return Ok(match answered {
                    Ok((status, headers, body)) => {
                        let mut head = Head::full(status, "application/json", body);
                        head.headers.extend(headers);
                        head
                    }
                    Err(refused) => {
                        asked.note.fault = Some(Box::new(refused.fault.clone()));
                        refusal(front, refused, &asked.request_id)
                    }
                });
            }
            _ => Task::Chat(front),
        };
        only(&head.method, &[Method::POST])?;
        inbound::check_json(&head.headers)?;
        let body = inbound::body(&head.headers, body, plan.limits.body).await?;
        let (platform, id) = (self.platform.clone(), &asked.request_id);
        let headers = &head.headers;
        let call = match front {
            Front::Ask => llm::ask::ask(platform, plan.clone(), memory, caller, headers, &body, id)
                .await
                .map(|asking| Words::Ask(Box::new(asking))),
            _ => llm::call(platform, plan.clone(), memory, caller, task, headers, body, id).map(Words::Call),
        };
        let call = match call {
            Ok(call) => call,
            Err(refused) => {
                asked.note.fault = Some(Box::new(refused.fault.clone()));
                return Ok(refusal(front, refused, id));
            }
        };
        // Boxed: it is moved into the body, and other requests need not make room for it.
        let mut call = Box::new(call);
        let opening = if call.streams() {
            let patience = pin!(self.platform.clock().sleep(plan.limits.keep_alive));
            let opened = match select(pin!(call.open()), patience).await {
                Either::Left((opening, _)) => Some(opening),
                Either::Right(_) => None,
            };
            // Who has waited for long is given a stream to wait on: nothing between the two takes the silence for a
            // dead connection.
            opened.unwrap_or_else(|| call.promise())
        } else {
            call.open().await
        };
        Ok(match opening {
            Opening::Whole(status, headers, body) => {
                asked.metered = Some(Box::new(call.metered().clone()));
                asked.to_keep = call.to_keep();
                Head { status, headers, body: HeadBody::Full(body), cancel: None, opening: None }
            }
            Opening::Stream(mut headers) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
                let body = HeadBody::Source(Source::Words(call));
                Head { status: StatusCode::OK, headers, body, cancel: None, opening: None }
            }
        })
    }
}
