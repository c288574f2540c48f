//! A server's answer to a call, on its way back.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde_json::value::RawValue;

use super::bridge::Handover;
use super::{Call, Way, cancel};
use crate::config::plan::{Sampling, Server};
use crate::fault::Fault;
use crate::mcp::client::Client;
use crate::mcp::mailbox::Letter;
use crate::mcp::memory::Running;
use crate::mcp::resume::Resume;
use crate::mcp::revision::Era;
use crate::mcp::rewrite::{Rewrite, Rewritten};
use crate::mcp::rounds::Rounds;
use crate::mcp::sampling::{Again, Settled};
use crate::mcp::serve::{Answer, Cancel, Inbound};
use crate::mcp::session::{Holder, Session};
use crate::mcp::stream::{Mode, Stream, cannot_ask};
use crate::mcp::tasks::Names;
use crate::mcp::upstream::{Answered, Content, content, error_of, no_answer, refused};
use crate::mcp::watch::Watch;
use crate::mcp::{Mcp, ask, catalog, forgets};
use crate::platform::Platform;
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::Message;

/// A JSON answer up to this size is read whole, so that a broken one can still become a proper error.
const WHOLE: usize = 1024 * 1024;
/// A JSON answer up to this size is looked through before it is passed on.
const CHECKED: usize = 16 * 1024;
/// An HTTP error's body is read no further than this.
const ERROR_BODY: usize = 64 * 1024;

/// How a call may end otherwise than by its response.
pub(super) struct End<P: Platform> {
    pub(super) handover: Handover,
    pub(super) again: Option<Box<Again>>,
    pub(super) running: Option<Running>,
    pub(super) watch: Option<Box<Watch<P>>>,
}

impl<P: Platform> Mcp<P> {
    /// Passes on an answer that has begun well.
    pub(super) async fn deliver(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        way: Way,
        mut answered: Answered<P>,
        end: End<P>,
    ) -> Result<Answer<P>, Fault> {
        let server = answered.reader.server.clone();
        let rewrite = rewrite(client, call, &way, &server);
        let cancel = cancel(client, call, &way, &server);
        match content(&answered.headers) {
            Content::Json => {
                let plain = way.revision.era() == Era::Legacy;
                let rewrite = rewrite.filter(|rewrite| !(plain && rewrite.only_routes()));
                match rewrite {
                    Some(rewrite) => {
                        let body = answered.reader.all(server.max_response).await?;
                        self.deliver_rewritten(&server, (call, inbound.accepts.events), body, rewrite, end)
                            .await
                    }
                    None => self.deliver_json(call, answered, cancel).await,
                }
            }
            Content::Events if !inbound.accepts.events || is_brief(client, call, &way) => {
                let upstream_id = rewrite.as_ref().map_or_else(|| call.id.get(), |r| r.upstream_id.as_str());
                if let Some(cancel) = cancel.filter(|cancel| cancel.session.endpoint.is_some()) {
                    let body = Box::pin(self.whole_old(answered, call.method, &cancel, end.running.as_ref()))
                        .await?;
                    let cancelled = || Ok(Answer::Empty(StatusCode::ACCEPTED));
                    return body.map_or_else(cancelled, |body| json(&server, body, rewrite.as_ref()));
                }
                let body = Box::pin(self.single(answered, upstream_id, way.session.as_ref())).await?;
                match rewrite {
                    Some(rewrite) if end.again.is_some() => {
                        self.deliver_rewritten(&server, (call, inbound.accepts.events), body, rewrite, end)
                            .await
                    }
                    rewrite => json(&server, body, rewrite.as_ref()),
                }
            }
            Content::Events => {
                let modern = rewrite.as_ref().is_some_and(|rewrite| rewrite.modern);
                let mode = match rewrite {
                    Some(rewrite) => Mode::rewritten(&server, rewrite, way.session.clone()),
                    None => Mode::events(&server),
                };
                let mut reader = answered.reader;
                if call.method == "subscriptions/listen" {
                    reader.open_ended();
                }
                let stream = Stream::new(self.clone(), reader, mode, Some(call.id), None);
                let stream = stream.with_handover(end.handover).with_again(end.again);
                let mut stream = stream.of(end.running, end.watch);
                let session = way.session.filter(|session| session.endpoint.is_none());
                stream.resume = session.map(|session| Box::new(Resume::new(session)));
                if modern {
                    // Some errors have an HTTP status that the client goes by (2026-07-28 basic, "Capabilities";
                    // Streamable HTTP, "Protocol Version Header"); a legacy server that streams has given 200 to all.
                    inbound.ticket.set(cancel.clone());
                    let refusal = Box::pin(stream.refusal()).await;
                    inbound.ticket.set(None);
                    if let Some((code, body)) = refusal
                        && modern_status(Some(code)) != StatusCode::OK
                    {
                        return Ok(Answer::Json(modern_status(Some(code)), body));
                    }
                }
                Ok(Answer::Stream(Box::new(stream), cancel))
            }
            Content::Other => Err(no_answer(&server)),
        }
    }

    /// Passes on a response that is there, and has to change.
    async fn deliver_rewritten(
        &self,
        server: &Arc<Server>,
        (call, events): (&Call<'_>, bool),
        mut body: Bytes,
        mut rewrite: Rewrite,
        mut end: End<P>,
    ) -> Result<Answer<P>, Fault> {
        loop {
            let result = match rewrite.apply(body, server) {
                Rewritten::Response(body, code) => return Ok(Answer::Json(status_of(&rewrite, code), body)),
                Rewritten::Asks(result) => result,
                _ => return Err(no_answer(server)),
            };
            if let Some(handover) = end.handover {
                let (key, rounds) = *handover;
                let letter = Letter::Rounds(Rounds { result: Some(result), ..rounds });
                let reader = self.answer_of(server, &key, &letter).await?;
                let stream = Stream::from_mailbox(self.clone(), reader, call.id, Bytes::new())?;
                return Ok(Answer::Stream(Box::new(stream), None));
            }
            let again = end.again.take().ok_or_else(|| cannot_ask(&server.name))?;
            // Boxed: few calls are made again, and every one would have to make room for it.
            let (again, settled) = Box::pin(self.settle(again, result)).await?;
            end.again = Some(again);
            match settled {
                Settled::Asks(body) => return Ok(Answer::Json(StatusCode::OK, body)),
                Settled::Message(message, id) => (body, rewrite.upstream_id) = (message, id),
                Settled::Events(answered, id) if events => {
                    rewrite.upstream_id = id;
                    let mode = Mode::rewritten(server, rewrite, None);
                    let stream = Stream::new(self.clone(), answered.reader, mode, Some(call.id), None);
                    return Ok(Answer::Stream(Box::new(stream.with_again(end.again)), None));
                }
                Settled::Events(answered, id) => {
                    body = Box::pin(self.single(*answered, &id, None)).await?;
                    rewrite.upstream_id = id;
                }
            }
        }
    }

    async fn deliver_json(
        &self,
        call: &Call<'_>,
        mut answered: Answered<P>,
        cancel: Option<Cancel>,
    ) -> Result<Answer<P>, Fault> {
        let server = answered.reader.server.clone();
        match beginning(&mut answered.reader).await? {
            (body, true) => {
                if body.len() <= CHECKED && !answers(&body, call.id) {
                    return Err(no_answer(&server));
                }
                Ok(Answer::Json(StatusCode::OK, body))
            }
            (first, false) => {
                let stream =
                    Stream::new(self.clone(), answered.reader, Mode::Json, Some(call.id), Some(first));
                Ok(Answer::Stream(Box::new(stream), cancel))
            }
        }
    }

    /// Makes sense of an HTTP error.
    pub(super) async fn refusal(
        &self,
        client: &Client,
        call: &Call<'_>,
        way: &Way,
        mut answered: Answered<P>,
        tried: Tried,
    ) -> Result<Refusal<P>, Fault> {
        let server = answered.reader.server.clone();
        let status = answered.status;
        let body = answered.reader.all(ERROR_BODY).await.unwrap_or_default();
        let code = error_of(&body).map(|(code, _)| code);
        if way.session.as_ref().is_some_and(|session| session.id.is_some())
            && forgets(status, &body)
            && !tried.session
        {
            return Ok(Refusal::Forgotten);
        }
        if way.session.is_some() && code.is_some_and(|code| (-32022..=-32020).contains(&code)) && !tried.era {
            return Ok(Refusal::OtherEra);
        }
        // It may have changed what it wants mirrored (2026-07-28 Streamable HTTP, "Client Behavior").
        if way.session.is_none() && call.method == "tools/call" && code == Some(-32020) && !tried.headers {
            let _ =
                Box::pin(self.read_list(&server, catalog::Kind::Tools, &client.caller, catalog::ALL)).await;
            // A modern client has written the headers itself and now asks for the list.
            if client.era() == Era::Legacy {
                return Ok(Refusal::OtherHeaders);
            }
        }
        // A refused version (-32022) is a modern answer as well, but the server is not what it was when it was asked.
        let modern_code =
            |code: i64| matches!(code, -32099..=-32023 | -32021..=-32020 | -32700 | -32603..=-32600);
        if way.session.is_none()
            && matches!(status.as_u16(), 400 | 404 | 405 | 406)
            && !code.is_some_and(modern_code)
            && !tried.era
        {
            return Ok(Refusal::OtherEra);
        }
        if code.is_none() || !answers(&body, call.id) && way.id.is_none() {
            return Err(refused(&server, status));
        }
        let Some(rewrite) = rewrite(client, call, way, &server) else {
            // A legacy client takes an HTTP error for a broken connection; a modern one expects it.
            let status = if client.era() == Era::Modern { status } else { StatusCode::OK };
            return Ok(Refusal::Answer(Answer::Json(status, body)));
        };
        match rewrite.apply(body, &server) {
            Rewritten::Response(body, code) => {
                Ok(Refusal::Answer(Answer::Json(status_of(&rewrite, code), body)))
            }
            _ => Err(refused(&server, status)),
        }
    }
}

/// What has been tried anew for a call; each is tried once, so that no server can keep us asking.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tried {
    pub(super) session: bool,
    pub(super) era: bool,
    pub(super) headers: bool,
}

/// What an HTTP error comes down to.
pub(super) enum Refusal<P: Platform> {
    /// An answer all the same.
    Answer(Answer<P>),
    /// The server does not know the session: open another and ask again.
    Forgotten,
    /// The tool wants other arguments mirrored than it did: ask again by the new list.
    OtherHeaders,
    /// The server is not of the era that it was: ask it again what it is.
    OtherEra,
}

/// Whether an answer over HTTP+SSE is waited for whole, so that its HTTP status can tell a modern client what it is.
fn is_brief(client: &Client, call: &Call<'_>, way: &Way) -> bool {
    way.session.as_ref().is_some_and(|session| session.endpoint.is_some())
        && client.era() == Era::Modern
        && !ask::BRIDGED.contains(&call.method)
}

/// What has to change on the way back, if anything has to.
fn rewrite(client: &Client, call: &Call<'_>, way: &Way, server: &Server) -> Option<Rewrite> {
    let modern = client.era() == Era::Modern && way.revision.era() == Era::Legacy;
    if client.era() == Era::Legacy && way.revision.era() == Era::Modern {
        let id = call.id.get().to_owned();
        return Some(Rewrite::to_legacy(id, call.id.to_owned(), call.method, client.revision));
    }
    // On the merged endpoint a server's questions must be known from those of the others when they are answered.
    let own = matches!(way.holder, Some(Holder::Client(_)));
    let several = |session: &Session| session.facts.server.is_none() || session.is_lenient();
    let route = client.session.as_ref().filter(|session| own && several(session));
    let route = way.asks.clone().or_else(|| route.map(|_| server.name.clone()));
    let as_it_is = way.tasks == Names::None && server.sampling == Sampling::Client;
    if !modern && way.id.is_none() && route.is_none() && as_it_is {
        return None;
    }
    let direct = !modern && way.id.is_none() && route.is_none();
    let list = catalog::Kind::of(call.method).map(|_| server.list_ttl.as_millis());
    let ttl_ms = list.or_else(|| (call.method == "resources/read").then_some(0));
    Some(Rewrite {
        upstream_id: way.id.clone().unwrap_or_else(|| call.id.get().to_owned()),
        id: call.id.to_owned(),
        modern,
        legacy: None,
        route,
        direct,
        tasks: way.tasks,
        ttl_ms: ttl_ms.filter(|_| modern),
        logs: client.wants_logs || !modern,
    })
}

/// The HTTP status under a response: modern clients learn of some errors by it.
fn status_of(rewrite: &Rewrite, code: Option<i64>) -> StatusCode {
    if rewrite.modern { modern_status(code) } else { StatusCode::OK }
}

pub(super) fn modern_status(code: Option<i64>) -> StatusCode {
    match code {
        Some(-32601) => StatusCode::NOT_FOUND,
        Some(-32022..=-32020) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

fn json<P: Platform>(server: &Server, body: Bytes, rewrite: Option<&Rewrite>) -> Result<Answer<P>, Fault> {
    match rewrite.map(|rewrite| (rewrite, rewrite.apply(body.clone(), server))) {
        Some((rewrite, Rewritten::Response(body, code))) => Ok(Answer::Json(status_of(rewrite, code), body)),
        Some((_, Rewritten::Asks(_))) => Err(cannot_ask(&server.name)),
        _ => Ok(Answer::Json(StatusCode::OK, body)),
    }
}

/// Reads a document up to [`WHOLE`] bytes; says whether that was all of it.
async fn beginning<P: Platform>(reader: &mut Reader<P>) -> Result<(Bytes, bool), Fault> {
    let Some(first) = reader.chunk().await? else { return Ok((Bytes::new(), true)) };
    let Some(second) = reader.chunk().await? else { return Ok((first, true)) };
    let mut whole = BytesMut::from(&first[..]);
    whole.extend_from_slice(&second);
    while whole.len() <= WHOLE {
        if whole.len() > reader.server.max_response {
            return Err(too_large(&reader.server, reader.server.max_response));
        }
        match reader.chunk().await? {
            Some(chunk) => whole.extend_from_slice(&chunk),
            None => return Ok((whole.freeze(), true)),
        }
    }
    Ok((whole.freeze(), false))
}

/// Whether `body` is a response to the request `id`.
pub(super) fn answers(body: &[u8], id: &RawValue) -> bool {
    match Message::decode(body) {
        Ok(Message::Response { id: Some(other), .. }) => other.get() == id.get(),
        Ok(Message::Response { id: None, .. }) => true,
        _ => false,
    }
}
