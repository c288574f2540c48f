//! What a legacy client is told outside of calls: the GET stream of its session, and its subscriptions.
//!
//! At `/mcp/{server}` of a legacy server both are the server's own and passed on as they are. Everywhere else the
//! session's mailbox holds the stream ([`standing`]), and subscriptions are kept with the session.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::select;
use http::{Method, StatusCode};
use serde_json::Map;

use super::client::Client;
use super::feed::{declared, has_flag};
use super::forward::{Call, Route};
use super::listen::Subscribed;
use super::mailbox::Letter;
use super::memory::lock;
use super::revision::{Era, Revision};
use super::rewrite::routed;
use super::serve::{Answer, Inbound, Note, brief, failed, text_of};
use super::session::{Holder, Session};
use super::standing::{self, Stand};
use super::stream::{Mode, Stream};
use super::unknown::unknown_method_legacy;
use super::upstream::{Content, Outgoing, content, error_of, refused, standard_headers};
use super::{Mcp, forgotten, headers, resume, rounds};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, Timestamp};
use crate::relay::Reader;
use crate::wire::accept::Accepts;
use crate::wire::jsonrpc;

/// Resources that one session may be subscribed to.
const SUBSCRIPTIONS: usize = 256;
/// How long the answer to a subscription waits until the server has been told of it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

fn none() -> Fault {
    Fault::new(Kind::MethodNotAllowed, "this endpoint has no stream of its own; POST to it")
}

fn gone() -> Fault {
    let message = "Last-Event-ID: that stream is not kept any more, or not that far back; if it was a call's, make the \
                   call anew, else GET without it";
    Fault::new(Kind::InvalidRequest, message)
}

impl<P: Platform> Mcp<P> {
    /// Answers a GET: the stream of a legacy client's session, or the rest of a stream that it lost.
    pub async fn get(self, inbound: Inbound) -> (Answer<P>, Note) {
        let mut note = Note { method: Some("GET".to_owned()), ..Note::default() };
        let answer = {
            let work = pin!(self.stream_of(&inbound, &mut note));
            self.living(&inbound.ticket, work).await
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(over) => Err(over.0),
        };
        (answer.unwrap_or_else(|fault| failed(None, &fault, &mut note)), note)
    }

    async fn stream_of(&self, inbound: &Inbound, note: &mut Note) -> Result<Answer<P>, Fault> {
        if inbound.header(&headers::VERSION).and_then(Revision::parse).map(Revision::era) == Some(Era::Modern)
        {
            return Err(none());
        }
        let client = self.client(inbound, None, "GET").await?;
        let session = client.session.as_ref().ok_or_else(none)?;
        let _opening = session.memory.opens();
        note.revision = Some(client.revision.as_str());
        note.server = inbound.target.as_ref().map(|server| server.name.clone());
        let last = inbound.headers.get(resume::LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        match last {
            Some(id) if standing::is_own(id) => return self.stand(inbound, session).await,
            Some(id) if id.starts_with(rounds::OWN) => {
                let letter = Letter::Resume(id.to_owned());
                return self.mailbox_stream(session, &letter).await;
            }
            Some(id) if let Some((server, own)) = routed(id) => {
                let server = self.plan.server(server).cloned().ok_or_else(gone)?;
                return self.relayed(&server, &client, Some(own), true).await;
            }
            _ => {}
        }
        let Some(server) = &inbound.target else {
            return if last.is_none() { self.stand(inbound, session).await } else { Err(gone()) };
        };
        let profile = self.profile(server).await?;
        let own = profile.revision_for(Era::Legacy).era() == Era::Legacy
            && !profile.http_sse
            && matches!(self.holder(server, &client, profile.sessions), Holder::Client(_));
        if own {
            self.relayed(server, &client, last, false).await
        } else {
            self.stand(inbound, session).await
        }
    }

    /// The stream of the session that is held with `server` for this client, behind the event `last`; `merged`: as a
    /// client knows it that sees several servers as one.
    async fn relayed(
        &self,
        server: &Arc<Server>,
        client: &Client,
        last: Option<&str>,
        merged: bool,
    ) -> Result<Answer<P>, Fault> {
        let profile = self.profile(server).await?;
        let holder = self.holder(server, client, profile.sessions);
        let Holder::Client(_) = &holder else { return Err(none()) };
        let upstream = self.held(server, &holder).await?;
        let mut headers = standard_headers(upstream.revision, upstream.id.as_deref(), "", None);
        if let Some(last) = last.and_then(|id| id.parse().ok()) {
            headers.insert(resume::LAST_EVENT_ID, last);
        }
        let answered = self
            .exchange(server, Outgoing { http: Method::GET, to: None, body: Bytes::new(), headers })
            .await?;
        match (answered.status, content(&answered.headers)) {
            (StatusCode::OK, Content::Events) => {
                let mut reader = answered.reader;
                reader.open_ended();
                let mode = if merged { Mode::routed(server, upstream) } else { Mode::open(server, upstream) };
                let mut stream = Stream::new(self.clone(), reader, mode, None, None);
                // Also where it is the rest of a call's: whoever comes back for that may do so again.
                stream.news = true;
                stream.answered = true;
                Ok(Answer::Stream(Box::new(stream), None))
            }
            (StatusCode::METHOD_NOT_ALLOWED, _) => Err(none()),
            // Whether it does not know the event or the session is not always said; the next request will tell.
            (status, _) if forgotten(status) && last.is_some() => Err(gone()),
            (status, _) if forgotten(status) => {
                self.drop_held(server, &holder, &upstream).await?;
                Err(Fault::new(Kind::UnknownSession, "the server has ended this session; start a new one"))
            }
            (status, _) => Err(refused(server, status)),
        }
    }

    /// The stream that the session's mailbox holds.
    async fn stand(&self, inbound: &Inbound, session: &Session) -> Result<Answer<P>, Fault> {
        let token = match inbound.header(&headers::SESSION) {
            Some(token) => token.to_owned(),
            None => self.token(&inbound.caller, &session.facts).await?,
        };
        let letter = Letter::Stand(Stand {
            caller: inbound.caller.name.clone(),
            token,
            session: session.facts.id.clone(),
            target: inbound.target.as_ref().map(|server| server.name.clone()),
            last: inbound.header(&resume::LAST_EVENT_ID).map(str::to_owned),
        });
        let seat = self.seat(&inbound.caller)?;
        match self.mailbox_stream(session, &letter).await? {
            Answer::Stream(mut stream, cancel) => {
                stream.news = true;
                stream.seat = Some(seat);
                Ok(Answer::Stream(stream, cancel))
            }
            answer => Ok(answer),
        }
    }

    /// A stream of the session's mailbox. It begins with a sign that it is there.
    async fn mailbox_stream(&self, session: &Session, letter: &Letter) -> Result<Answer<P>, Fault> {
        if !self.platform.abilities().mailboxes {
            return Err(none());
        }
        let body = self.post_letter(&session.mailbox(), letter).await?;
        // A stream has a server whose limits it goes by; this one has been through them.
        let server = self.plan.servers.first().ok_or_else(none)?;
        let mut reader = Reader::new(self.platform.clone(), server.clone(), body, Timestamp(u64::MAX));
        reader.open_ended();
        let first = reader.chunk().await?.ok_or_else(gone)?;
        Ok(Answer::Stream(Box::new(Stream::new(self.clone(), reader, Mode::Open, None, Some(first))), None))
    }

    /// `resources/subscribe` and `resources/unsubscribe` where the gateway has to know.
    pub(super) async fn subscribe(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        server: Option<Arc<Server>>,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        let uri = text_of(call.read.uri, "params.uri")?;
        let on = call.method == "resources/subscribe";
        let route = match server {
            Some(server) => Route { server, name: Some(uri.clone()), renamed: None },
            None => self.find_resource(client, call, uri.clone()).await?,
        };
        let server = route.server.clone();
        note.server = Some(server.name.clone());
        let Some(session) = client.session.as_ref().filter(|_| self.platform.abilities().mailboxes) else {
            return Err(unknown_method_legacy(call.method));
        };
        let own = route.name.as_deref().unwrap_or_default().to_owned();
        let subscribed = Subscribed { server: server.name.clone(), own, given: uri.clone().into_owned() };
        let profile = self.profile(&server).await?;
        let mut answer = Answer::Json(StatusCode::OK, jsonrpc::result(call.id, &Map::new()));
        let held = matches!(self.holder(&server, client, profile.sessions), Holder::Client(_));
        if profile.revision_for(Era::Legacy).era() == Era::Legacy && (held || profile.http_sse) {
            // It goes over the session whose stream brings the updates.
            answer = match profile.http_sse {
                false => self.forward(inbound, client, call, &route).await?,
                // All of its answers come as events; this one is to be seen first.
                true => {
                    let whole = inbound.with_accepts(Accepts { json: true, events: false });
                    self.forward(&whole, client, call, &route).await?
                }
            };
            if let Answer::Json(_, body) = &answer
                && error_of(body).is_some()
            {
                return Ok(answer);
            }
        } else if on && !has_flag(&declared(&profile.capabilities), "resources", "subscribe") {
            return Err(unknown_method_legacy(call.method));
        }
        let before = lock(&session.memory.record).0.subscriptions.len();
        if on && before >= SUBSCRIPTIONS {
            let message =
                format!("{SUBSCRIPTIONS} resources are subscribed to, and no more can be; unsubscribe some");
            return Err(Fault::new(Kind::TooMany, message));
        }
        note.name = Some(brief(&uri));
        self.record(session, |record| {
            record.subscriptions.retain(|known| *known != subscribed);
            if on {
                record.subscriptions.push(subscribed.clone());
            }
        })
        .await?;
        // An update that comes right behind the answer must not be missed.
        let mut told = self.post_letter(&session.mailbox(), &Letter::Subscribed).await?;
        let patience = pin!(self.platform.clock().sleep(PATIENCE));
        let all = pin!(async { while told.next().await.is_some() {} });
        select(all, patience).await;
        Ok(answer)
    }
}
