//! One call to one server, in whatever era the two sides are.
//!
//! Same era and nothing shared: the caller's bytes go out with at most the name changed, and the server's bytes
//! come back untouched. Everything else is the least rewriting that makes the two understand each other.

mod bridge;
mod deliver;

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, Method, StatusCode};
use serde_json::value::RawValue;

use self::deliver::{End, Refusal, Tried};
use super::client::Client;
use super::extensions::{self, told_across};
use super::lines::{Held, Lasting, Made};
use super::mailbox::Letter;
use super::memory::{Profile, Running, UpstreamSession, lock};
use super::meta::{Declared, Params, erase};
use super::revision::{Era, Revision};
use super::serve::{Answer, Cancel, Inbound};
use super::session::{Holder, Session};
use super::tasks::{self, Names};
use super::unknown::unknown_name;
use super::upstream::{Answered, Outgoing, PASSED, standard_headers};
use super::watch::Watch;
use super::{Mcp, ask, catalog, headers, park};
use crate::config::plan::{Sampling, Server, Transport};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform};
use crate::wire::jsonrpc::{Splice, quote};
use crate::wire::sse::Event;

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
    /// The session was there before the call, and may turn out to be over.
    used: bool,
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
        let mut over = None;
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
            let (way, line) = match self.way(inbound, server, client, call, &profile, over.as_ref()).await {
                Err(fault) if !tried.era && is_otherwise(server, &profile, &fault) => {
                    // It does not open sessions (any more): perhaps it has become a modern server.
                    tried.era = true;
                    self.memory.server(server).forget();
                    profile = self.profile(server).await?;
                    continue;
                }
                way => way?,
            };
            let mut outgoing = self.outgoing(inbound, client, call, route, &way).await?;
            let handover = self.handover(inbound, client, call, server, &way, &outgoing);
            let again = match server.sampling {
                Sampling::Gateway if handover.is_none() => {
                    // Boxed, for the same reason.
                    Box::pin(self.again(client, call, server, &way, &mut outgoing)).await?
                }
                _ => None,
            };
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
            let begin = |session: &Session| session.memory.begin(call.id, self.platform.clock().now());
            let running = client.session.as_ref().map(begin);
            let mut watch = client.session.as_ref().map(|session| Box::new(Watch::new(session, call.id)));
            let answered = match (line, &way.session, &running) {
                // Hanging up ends the session, and with it the call.
                (Some(mut line), Some(session), _) => {
                    let id = way.id.as_deref().unwrap_or(call.id.get());
                    match Box::pin(self.send_old(&mut line, session, outgoing, id)).await {
                        // The server does not have the call: the session had ended before.
                        Err(_) if way.used && over.is_none() && line.reader.is_forgotten() => {
                            over = way.session;
                            continue;
                        }
                        sent => sent.map(|()| *line),
                    }
                }
                (_, None, Some(running)) => {
                    let given_up = pin!(self.given_up(running, watch.as_deref_mut()));
                    match select(pin!(self.exchange(server, outgoing)), given_up).await {
                        Either::Left((answered, _)) => answered,
                        Either::Right(_) => return Ok(Answer::Empty(StatusCode::ACCEPTED)),
                    }
                }
                _ => {
                    inbound.ticket.set(cancel(client, call, &way, server));
                    let answered = self.exchange(server, outgoing).await;
                    match &answered {
                        Err(fault) if fault.kind == Kind::UpstreamTimeout => {
                            inbound.ticket.give_up(inbound.ticket.take());
                        }
                        _ => inbound.ticket.set(None),
                    }
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
                let end = End { handover, again, running, watch };
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
        over: Option<&UpstreamSession>,
    ) -> Result<(Way, Option<Box<Answered<P>>>), Fault> {
        let revision = profile.revision_for(client.era());
        let tasks = match inbound.target {
            None => names(client, call, profile),
            Some(_) => Names::None,
        };
        if revision.era() == Era::Modern {
            let way = Way { revision, session: None, holder: None, id: None, asks: None, tasks, used: false };
            return Ok((way, None));
        }
        if profile.http_sse {
            // Boxed: only the oldest servers need it, and every call would have to make room for it.
            return Box::pin(self.old_way(inbound, server, client, call, profile, over)).await.map(
                |(mut way, line)| {
                    way.tasks = tasks;
                    (way, Some(line))
                },
            );
        }
        let holder = self.holder(server, client, profile.sessions);
        let session = self.held(server, &holder).await?;
        let several = matches!(&holder, Holder::Client(session) if session.is_lenient());
        let shared = (several || matches!(holder, Holder::Pool(..))) && session.id.is_some();
        let id = shared.then(|| self.memory.server(server).next_id().to_string());
        let revision = session.revision;
        let (session, holder) = (Some(session), Some(holder));
        Ok((Way { revision, session, holder, id, asks: None, tasks, used: false }, None))
    }

    /// The same, to a server of HTTP+SSE: over the session that its client's mailbox keeps, if it does, or one for this
    /// call alone.
    async fn old_way(
        &self,
        inbound: &Inbound,
        server: &Arc<Server>,
        client: &Client,
        call: &Call<'_>,
        profile: &Profile,
        over: Option<&UpstreamSession>,
    ) -> Result<(Way, Box<Answered<P>>), Fault> {
        let (holder, tasks) = (None, Names::None);
        let caller = &client.caller.name;
        if let Some(session) = self.lasting(client) {
            let made = Made { token: park::progress_token(call.read.meta), asked: inbound.accepts.events };
            let lasting = self.attach(server, caller, session, Some(made), over).await?;
            let Lasting { stream, held: Held { session, asks }, id, used } = lasting;
            let (revision, id, asks) = (session.revision, Some(id), Some(asks));
            let way = Way { revision, session: Some(session), holder, id, asks, tasks, used };
            return Ok((way, Box::new(stream)));
        }
        let (line, session) = self.session_of_call(server, client, call, profile).await?;
        let asks = match client.session {
            Some(_) => Some(self.seal_asks(server, caller, &session, server.timeouts.total).await?),
            None => None,
        };
        let revision = session.revision;
        Ok((Way { revision, session: Some(session), holder, id: None, asks, tasks, used: false }, line))
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
}

/// Whether `fault`, met when a session was to be opened, may mean that the server speaks otherwise than it did.
fn is_otherwise(server: &Server, profile: &Profile, fault: &Fault) -> bool {
    match fault.kind {
        Kind::UpstreamRefused => profile.legacy.is_some() && server.transport != Transport::HttpSse,
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

/// A message as one event.
pub fn event(body: Bytes) -> Bytes {
    Event::message(body).encode()
}
