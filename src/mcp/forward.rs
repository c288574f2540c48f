//! One call to one server, in whatever era the two sides are.
//!
//! Same era and nothing shared: the caller's bytes go out with at most the name changed, and the server's bytes
//! come back untouched. Everything else is the least rewriting that makes the two understand each other.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use http::{HeaderMap, Method, StatusCode};
use serde_json::value::RawValue;
use sha2::Digest as _;

use super::ask::{self, Askable};
use super::extensions::{self, told_across};
use super::mailbox::Letter;
use super::memory::{Profile, Running, UpstreamSession, lock};
use super::meta::{Declared, Params, erase};
use super::resume::Resume;
use super::revision::{Era, Revision};
use super::rounds::Rounds;
use super::serve::{Answer, Cancel, Client, Inbound, unknown_name};
use super::session::Holder;
use super::stream::{Mode, Rewrite, Rewritten, Stream, cannot_ask, without};
use super::tasks::{self, Names};
use super::upstream::{
    Answered, Content, IMPLEMENTATION, Outgoing, PASSED, content, error_of, no_answer, refused,
    standard_headers,
};
use super::{Mcp, catalog, forgets, headers, park};
use crate::config::plan::{Sampling, Server, SessionMode, Transport};
use crate::fault::{Fault, Kind};
use crate::platform::{Mailboxes as _, Clock as _, Platform};
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{Message, Splice, quote, string};
use crate::wire::sse::{Decoder, Event};

/// A JSON answer up to this size is read whole, so that a broken one can still become a proper error.
const WHOLE: usize = 1024 * 1024;
/// A JSON answer up to this size is looked through before it is passed on.
const CHECKED: usize = 16 * 1024;
/// An HTTP error's body is read no further than this.
const ERROR_BODY: usize = 64 * 1024;

/// A request, taken apart as far as routing needs.
#[derive(Debug)]
pub struct Call<'a> {
    /// The whole message.
    pub text: &'a [u8],
    /// Its id.
    pub id: &'a RawValue,
    /// Its method.
    pub method: &'a str,
    /// Its parameters.
    pub params: Option<&'a RawValue>,
    /// The parameters, taken apart.
    pub read: Params<'a>,
}

/// Where a call goes.
#[derive(Debug)]
pub struct Route<'a> {
    /// The server.
    pub server: Arc<Server>,
    /// What the server calls the tool, prompt or resource, where the method has one.
    pub name: Option<Cow<'a, str>>,
    /// The place in the message that names it otherwise.
    pub renamed: Option<&'a RawValue>,
}

/// How a call travels upstream.
struct Way {
    revision: Revision,
    session: Option<UpstreamSession>,
    holder: Option<Holder>,
    /// The id it has upstream, if the session is shared and ids could meet.
    id: Option<String>,
    /// What tells the session's questions from those of others, if that is not the server's name.
    asks: Option<String>,
    /// Which of the server's messages name tasks that its client knows by other names.
    tasks: Names,
}

impl<P: Platform> Mcp<P> {
    /// Sends `call` along `route` and gives the answer as it comes.
    ///
    /// # Errors
    /// When the server fails before it has said anything.
    pub async fn forward(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
    ) -> Result<Answer<P>, Fault> {
        let server = &route.server;
        let mut profile = self.profile(server).await?;
        let mut tried = Tried::default();
        loop {
            if client.era() == Era::Modern
                && profile.revision_for(Era::Modern).era() == Era::Legacy
                && ask::BRIDGED.contains(&call.method)
            {
                // Boxed: calls that cannot be asked back need not make room for it.
                if let Some(answer) = Box::pin(self.bridge(inbound, client, call, route, &profile)).await? {
                    return Ok(answer);
                }
            }
            let (way, line) = match self.way(inbound, server, client, call, &profile).await {
                Err(fault) if !tried.era && is_otherwise(server, &profile, &fault) => {
                    // It does not open sessions (any more): perhaps it has become a modern server.
                    tried.era = true;
                    self.memory.server(server).forget();
                    profile = self.profile(server).await?;
                    continue;
                }
                way => way?,
            };
            let outgoing = self.outgoing(inbound, client, call, route, &way).await?;
            let handover = self.handover(inbound, client, call, server, &way, &outgoing);
            if let Some(handover) = &handover
                && park::progress_token(call.read.meta).is_some()
            {
                // Whoever wants to hear of progress expects to wait, and may lose the connection meanwhile.
                let (key, rounds) = handover.as_ref();
                return self.spoken(client, call, server, key, &Letter::Rounds(rounds.clone())).await;
            }
            if let Some(session) = &client.session {
                session.memory.opened(self.platform.clock()).await;
            }
            let running = client.session.as_ref().map(|session| session.memory.begin(call.id));
            let answered = match (line, &way.session, &running) {
                // Hanging up ends the session, and with it the call.
                (Some(line), Some(session), _) => {
                    Box::pin(self.send_old(*line, session, outgoing, call.id.get())).await
                }
                (_, None, Some(running)) => {
                    let cancelled = pin!(running.cancelled(self.platform.clock()));
                    match select(pin!(self.exchange(server, outgoing)), cancelled).await {
                        Either::Left((answered, _)) => answered,
                        Either::Right(_) => return Ok(Answer::Empty(StatusCode::ACCEPTED)),
                    }
                }
                _ => {
                    inbound.ticket.set(cancel(client, call, &way, server));
                    let answered = self.exchange(server, outgoing).await;
                    inbound.ticket.set(None);
                    answered
                }
            };
            if running.as_ref().is_some_and(Running::is_cancelled) {
                let cancel = cancel(client, call, &way, server);
                if let Some(cancel) = cancel.filter(|cancel| cancel.session.endpoint.is_some()) {
                    self.cancel(&cancel).await;
                }
                return Ok(Answer::Empty(StatusCode::ACCEPTED));
            }
            let answered = answered?;
            if answered.status.is_success() {
                let end = End { handover, running };
                return self.deliver(inbound, client, call, way, answered, end).await;
            }
            match self.refusal(client, call, &way, answered, tried).await? {
                Refusal::Answer(answer) => return Ok(answer),
                Refusal::Forgotten => {
                    tried.session = true;
                    if let (Some(holder), Some(session)) = (&way.holder, &way.session) {
                        self.drop_held(server, holder, session).await?;
                    }
                }
                Refusal::OtherHeaders => tried.headers = true,
                Refusal::OtherEra => {
                    tried.era = true;
                    self.memory.server(server).forget();
                    profile = self.profile(server).await?;
                }
            }
        }
    }

    /// How the call travels, and the stream that its answer will come on if it is there already.
    async fn way(
        &self,
        inbound: &Inbound,
        server: &Arc<Server>,
        client: &Client,
        call: &Call<'_>,
        profile: &Profile,
    ) -> Result<(Way, Option<Box<Answered<P>>>), Fault> {
        let revision = profile.revision_for(client.era());
        let tasks = match inbound.target {
            None => names(client, call, profile),
            Some(_) => Names::None,
        };
        if revision.era() == Era::Modern {
            let way = Way { revision, session: None, holder: None, id: None, asks: None, tasks };
            return Ok((way, None));
        }
        if profile.http_sse {
            // Boxed: only the oldest servers need it, and every call would have to make room for it.
            let (line, session) = Box::pin(self.session_of_call(server, client, call, profile)).await?;
            let asks = self.seal_asks(server, client, &session).await?;
            let revision = session.revision;
            let way = Way { revision, session: Some(session), holder: None, id: None, asks, tasks };
            return Ok((way, Some(line)));
        }
        let holder = self.holder(server, client, profile.sessions);
        let session = self.held(server, &holder).await?;
        let shared = matches!(holder, Holder::Pool(..)) && session.id.is_some();
        let id = shared.then(|| self.memory.server(server).next_id().to_string());
        let revision = session.revision;
        let (session, holder) = (Some(session), Some(holder));
        Ok((Way { revision, session, holder, id, asks: None, tasks }, None))
    }

    /// The request as it goes upstream.
    async fn outgoing(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
        way: &Way,
    ) -> Result<Outgoing, Fault> {
        let mut splice = Splice::new(call.text);
        let mut changed = false;
        if let (Some(place), Some(name)) = (route.renamed, &route.name) {
            splice.replace(place, quote(name));
            changed = true;
        }
        if let Some(id) = &way.id {
            splice.replace(call.id, id.clone().into_bytes());
            changed = true;
        }
        let upstream = way.revision.era();
        match (client.era(), upstream) {
            (Era::Legacy, Era::Modern) => {
                self.declare(client, call, &route.server, &mut splice);
                changed = true;
            }
            (Era::Modern, Era::Legacy) => {
                erase(&mut splice, call.read.meta);
                changed = true;
            }
            (Era::Modern, Era::Modern) => {
                changed |= extensions::tell(&mut splice, &route.server, call.read.meta);
                changed |=
                    way.tasks != Names::None && tasks::inward(&mut splice, &route.server, call.read.meta);
            }
            (Era::Legacy, Era::Legacy) => {
                changed |=
                    way.tasks != Names::None && tasks::inward(&mut splice, &route.server, call.read.meta);
            }
        }
        let body = if changed { splice.finish() } else { inbound.part(call.text) };
        let session = way.session.as_ref().and_then(|session| session.id.as_deref());
        let mut out = standard_headers(way.revision, session, call.method, route.name.as_deref());
        for name in &PASSED {
            if let Some(value) = inbound.headers.get(name) {
                out.insert(name.clone(), value.clone());
            }
        }
        // What an extension wants mirrored is for its server to check.
        if upstream == Era::Modern
            && route.name.is_none()
            && !extensions::is_core(call.method)
            && let Some(name) = inbound.headers.get(headers::NAME)
        {
            out.insert(headers::NAME, name.clone());
        }
        if upstream == Era::Modern && call.method == "tools/call" {
            self.mirror(inbound, client, call, route, &mut out).await?;
        }
        Ok(Outgoing { http: Method::POST, to: None, body, headers: out })
    }

    /// Writes what a modern server must know of a legacy client into the request.
    fn declare(&self, client: &Client, call: &Call<'_>, server: &Server, splice: &mut Splice<'_>) {
        let Some(session) = &client.session else { return };
        let level = lock(&session.memory.record).0.level.clone();
        let asks = self.platform.abilities().mailboxes;
        let capabilities = told_across(server, &session.facts.capabilities, asks);
        let declared = Declared {
            version: Revision::MODERN.as_str(),
            client_info: &session.facts.client_info,
            capabilities: &capabilities,
            log_level: level.as_deref(),
        };
        declared.write(splice, call.params, call.read.meta);
    }

    /// The headers that mirror arguments: the client's own, which have been checked, or ours for a legacy client.
    async fn mirror(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
        out: &mut HeaderMap,
    ) -> Result<(), Fault> {
        if client.era() == Era::Modern {
            for (name, value) in &inbound.headers {
                if name.as_str().starts_with(headers::PARAM) {
                    out.append(name.clone(), value.clone());
                }
            }
            return Ok(());
        }
        let Some(name) = &route.name else { return Ok(()) };
        let Ok(list) = self.list(&route.server, catalog::Kind::Tools, &client.caller).await else {
            return Ok(());
        };
        match list.own(name) {
            Some(tool) => headers::write_mirrored(out, &tool.mirrored, &arguments(call)),
            // What the call needs cannot be written.
            None if list.refuses(name) => return Err(unknown_name(call.method, name)),
            None => {}
        }
        Ok(())
    }

    /// Passes on an answer that has begun well.
    async fn deliver(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        way: Way,
        answered: Answered<P>,
        end: End,
    ) -> Result<Answer<P>, Fault> {
        let server = answered.reader.server.clone();
        let rewrite = rewrite(client, call, &way, &server);
        let cancel = cancel(client, call, &way, &server);
        match content(&answered.headers) {
            Content::Json => {
                let plain = way.revision.era() == Era::Legacy;
                let rewrite = rewrite.filter(|rewrite| !(plain && rewrite.only_routes()));
                self.deliver_json(call, answered, rewrite, cancel, end.handover).await
            }
            Content::Events if !inbound.accepts.events || is_brief(client, call, &way) => {
                let upstream_id = rewrite.as_ref().map_or_else(|| call.id.get(), |r| r.upstream_id.as_str());
                if let Some(cancel) = cancel.filter(|cancel| cancel.session.endpoint.is_some()) {
                    let body = self.whole_old(answered, call.method, &cancel, end.running.as_ref()).await?;
                    let cancelled = || Ok(Answer::Empty(StatusCode::ACCEPTED));
                    return body.map_or_else(cancelled, |body| json(&server, body, rewrite.as_ref()));
                }
                let body = self.single(answered, upstream_id, way.session.as_ref()).await?;
                json(&server, body, rewrite.as_ref())
            }
            Content::Events => {
                let decoder = Decoder::new(server.max_response);
                let modern = rewrite.as_ref().is_some_and(|rewrite| rewrite.modern);
                let mode = match rewrite {
                    Some(rewrite) => Mode::Rewritten(decoder, rewrite, way.session.clone()),
                    None => Mode::Events(decoder, BytesMut::new()),
                };
                let mut reader = answered.reader;
                if call.method == "subscriptions/listen" {
                    reader.open_ended();
                }
                let stream = Stream::new(self.clone(), reader, mode, Some(call.id), None);
                let mut stream = stream.with_handover(end.handover).of(end.running);
                stream.resume = way.session.filter(|session| session.endpoint.is_none()).map(Resume::new);
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

    async fn deliver_json(
        &self,
        call: &Call<'_>,
        mut answered: Answered<P>,
        rewrite: Option<Rewrite>,
        cancel: Option<Cancel>,
        handover: Handover,
    ) -> Result<Answer<P>, Fault> {
        let server = answered.reader.server.clone();
        if let Some(rewrite) = rewrite {
            let body = answered.reader.all(server.max_response).await?;
            return match rewrite.apply(body, &server) {
                Rewritten::Response(body, code) => Ok(Answer::Json(status_of(&rewrite, code), body)),
                Rewritten::Asks(result) => {
                    let (key, rounds) = *handover.ok_or_else(|| cannot_ask(&server.name))?;
                    let letter = Letter::Rounds(Rounds { result: Some(result), ..rounds });
                    let reader = self.answer_of(&server, &key, &letter).await?;
                    let stream = Stream::from_mailbox(self.clone(), reader, call.id, Bytes::new())?;
                    Ok(Answer::Stream(Box::new(stream), None))
                }
                _ => Err(no_answer(&server)),
            };
        }
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
    async fn refusal(
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
            let _ = Box::pin(self.read_list(&server, catalog::Kind::Tools, &client.caller)).await;
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

/// How a call may end otherwise than by its response.
struct End {
    handover: Handover,
    running: Option<Running>,
}

/// Who goes on with a call if its server asks the client for input: a mailbox, and what it is to know.
type Handover = Option<Box<(String, Rounds)>>;

impl<P: Platform> Mcp<P> {
    /// Who goes on with a legacy client's call if its modern server asks for input.
    fn handover(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        server: &Server,
        way: &Way,
        outgoing: &Outgoing,
    ) -> Handover {
        let session = client.session.as_ref()?;
        let possible = way.revision.era() == Era::Modern
            && ask::BRIDGED.contains(&call.method)
            && self.platform.abilities().mailboxes
            && inbound.accepts.events;
        let capabilities = possible.then(|| told_across(server, &session.facts.capabilities, true))?;
        let able = Askable::of(&capabilities).anything() || call.read.meta.is_some();
        let request = able.then(|| serde_json::from_slice(&outgoing.body).ok()).flatten()?;
        let headers = outgoing.headers.iter();
        let rounds = Rounds {
            server: server.name.clone(),
            id: call.id.to_owned(),
            method: call.method.to_owned(),
            revision: client.revision,
            request,
            headers: headers
                .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
                .collect(),
            capabilities,
            result: None,
        };
        Some(Box::new((session.mailbox(), rounds)))
    }

    /// A modern client's call to a legacy server that may ask back: begins it in a mailbox, or goes on with it.
    /// `None` if this client cannot be asked anything, so that no mailbox is needed.
    async fn bridge(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
        profile: &Profile,
    ) -> Result<Option<Answer<P>>, Fault> {
        let server = &route.server;
        let digest = park::digest(&server.name, call.method, call.params);
        let leg = park::Leg {
            id: call.id.to_owned(),
            level: client.log_level.clone(),
            token: park::progress_token(call.read.meta),
        };
        if let Some(state) = call.read.request_state
            && let Some(state) = self.reopen(client, state, &digest).await?
        {
            let responses = call.read.input_responses.and_then(|raw| serde_json::from_str(raw.get()).ok());
            let retry = park::Retry {
                call: state.call,
                round: state.round,
                responses: responses.unwrap_or_default(),
                leg,
            };
            return self.spoken(client, call, server, &state.key, &Letter::Retry(retry)).await.map(Some);
        }
        let Some(capabilities) = &client.capabilities else { return Ok(None) };
        let capabilities = told_across(server, capabilities, true);
        if !Askable::of(&capabilities).anything() {
            return Ok(None);
        }
        let shared = server.session == Some(SessionMode::Shared) && !profile.http_sse;
        if shared || !self.platform.abilities().mailboxes {
            return Ok(None);
        }
        let hash = sha2::Sha256::digest(format!("{}\0{}\0{capabilities}", client.caller.name, server.name));
        let place = self.platform.mailboxes().place();
        let place = if place.is_empty() { String::new() } else { format!("/{place}") };
        let key = format!("park/{}{place}", super::hex(hash.get(..16).unwrap_or_default()));
        let letter = park::Call {
            key: key.clone(),
            caller: client.caller.name.clone(),
            server: server.name.clone(),
            method: call.method.to_owned(),
            message: legacy_message(call, route)?,
            digest,
            capabilities,
            client_info: client.info.clone().unwrap_or_else(implementation),
            headers: park::passed(&inbound.headers),
            leg,
        };
        self.spoken(client, call, server, &key, &Letter::Call(letter)).await.map(Some)
    }

    /// What a `requestState` of ours says; `None` if it only says to make the call.
    async fn reopen(
        &self,
        client: &Client,
        state: &RawValue,
        digest: &str,
    ) -> Result<Option<park::State>, Fault> {
        let refuse = |text: &str| Fault::new(Kind::InvalidState, format!("params.requestState: {text}"));
        let token = string(state).ok_or_else(|| refuse("a string is required"))?;
        let now = self.platform.clock().now();
        let sealer = self.sealer().await?;
        let caller = &client.caller.name;
        let open = |kind| -> Option<park::State> {
            serde_json::from_slice(&sealer.open(kind, caller, now, &token)?).ok()
        };
        let parked = open(park::PARKED);
        let state = match parked {
            Some(state) => Some((state, true)),
            None => open(park::AGAIN).map(|state| (state, false)),
        };
        match state {
            None => Err(refuse(
                "none that this gateway gave to you, or its time is up; start again: send the request without it",
            )),
            Some((state, _)) if state.digest != digest => Err(refuse(
                "belongs to another request; repeat that one as it was, or start again: send this one without it",
            )),
            Some((state, true)) => Ok(Some(state)),
            Some((_, false)) => Ok(None),
        }
    }

    /// What the owner of `key` says to `letter`, as the answer to `call`.
    async fn spoken(
        &self,
        client: &Client,
        call: &Call<'_>,
        server: &Arc<Server>,
        key: &str,
        letter: &Letter,
    ) -> Result<Answer<P>, Fault> {
        let mut reader = self.answer_of(server, key, letter).await?;
        let (mut seen, mut events) = (BytesMut::new(), Vec::new());
        let mut decoder = Decoder::new(server.max_response);
        while events.is_empty() {
            let Some(chunk) = reader.chunk().await? else {
                // A legacy client that has given its call up is told nothing more about it.
                return match client.era() {
                    Era::Legacy => Ok(Answer::Empty(StatusCode::ACCEPTED)),
                    Era::Modern => Err(no_answer(server)),
                };
            };
            decoder.push(&chunk, &mut events).map_err(|_| too_large(server, server.max_response))?;
            seen.extend_from_slice(&chunk);
        }
        if let [Event { data, .. }, ..] = events.as_slice()
            && answers(data, call.id)
        {
            let code = error_of(data).map(|(code, _)| code);
            let status = if client.era() == Era::Modern { modern_status(code) } else { StatusCode::OK };
            return Ok(Answer::Json(status, data.clone()));
        }
        let stream = Stream::from_mailbox(self.clone(), reader, call.id, seen.freeze())?;
        Ok(Answer::Stream(Box::new(stream), None))
    }
}

/// The message of a modern client as a legacy server takes it.
fn legacy_message(call: &Call<'_>, route: &Route<'_>) -> Result<Box<RawValue>, Fault> {
    let less = call.params.and_then(|params| without(params, &["inputResponses", "requestState"]));
    let mut splice = Splice::new(call.text);
    if let (Some(params), Some(less)) = (call.params, less) {
        splice.replace(params, less.into_bytes());
    }
    let text = splice.finish();
    let mut splice = Splice::new(&text);
    if let Ok(Message::Request { params, .. }) = Message::decode(&text) {
        let read = Params::read(params)?;
        let named = if call.method == "resources/read" { read.uri } else { read.name };
        if let (Some(_), Some(place), Some(name)) = (route.renamed, named, &route.name) {
            splice.replace(place, quote(name));
        }
        erase(&mut splice, read.meta);
    }
    serde_json::from_slice(&splice.finish())
        .map_err(|_| Fault::new(Kind::InvalidRequest, "the body is not a JSON-RPC 2.0 message"))
}

fn implementation() -> Box<RawValue> {
    RawValue::from_string(IMPLEMENTATION.to_owned()).unwrap_or_default()
}

/// What has been tried anew for a call; each is tried once, so that no server can keep us asking.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    session: bool,
    era: bool,
    headers: bool,
}

/// What an HTTP error comes down to.
enum Refusal<P: Platform> {
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

/// Whether `fault`, met when a session was to be opened, may mean that the server speaks otherwise than it did.
fn is_otherwise(server: &Server, profile: &Profile, fault: &Fault) -> bool {
    match fault.kind {
        Kind::UpstreamRefused => profile.legacy.is_some() && server.transport == Transport::Http,
        Kind::UpstreamInvalid => profile.http_sse && server.transport == Transport::Http,
        _ => false,
    }
}

/// How to cancel the call, where the server would not take a lost connection for that.
fn cancel(client: &Client, call: &Call<'_>, way: &Way, server: &Arc<Server>) -> Option<Cancel> {
    way.session.clone().map(|session| Cancel {
        server: server.clone(),
        id: way.id.clone().unwrap_or_else(|| call.id.get().to_owned()),
        resumable: client.era() == Era::Legacy && session.endpoint.is_none(),
        session,
    })
}

/// The arguments of a tool call; none are an empty object.
pub fn arguments(call: &Call<'_>) -> serde_json::Value {
    call.read
        .arguments
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_else(|| serde_json::Value::Object(serde_json::Map::new()))
}

/// Which messages that a server says to a call name tasks, at the endpoint where servers are seen as one.
fn names(client: &Client, call: &Call<'_>, profile: &Profile) -> Names {
    let era = profile.revision_for(client.era()).era();
    let both = match era {
        Era::Legacy => profile.tasks,
        Era::Modern => {
            (call.method == "tools/call" || !extensions::is_core(call.method))
                && profile.extensions.iter().any(|name| name == extensions::TASKS)
                && client.capabilities.as_deref().is_some_and(|able| extensions::has(able, extensions::TASKS))
        }
    };
    if both && era == client.era() { Names::of(call, era) } else { Names::None }
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
    let route = client.session.as_ref().filter(|session| own && session.facts.server.is_none());
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

fn modern_status(code: Option<i64>) -> StatusCode {
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
fn answers(body: &[u8], id: &RawValue) -> bool {
    match Message::decode(body) {
        Ok(Message::Response { id: Some(other), .. }) => other.get() == id.get(),
        Ok(Message::Response { id: None, .. }) => true,
        _ => false,
    }
}

/// A message as one event.
pub fn event(body: Bytes) -> Bytes {
    Event::message(body).encode()
}
