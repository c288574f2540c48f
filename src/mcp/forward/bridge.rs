//! Calls that go on in a mailbox, since their server may ask or has asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use http::StatusCode;
use serde_json::value::RawValue;
use sha2::Digest as _;

use super::deliver::{answers, modern_status};
use super::{Call, Route, Way};
use crate::config::plan::{Server, SessionMode};
use crate::fault::{Fault, Kind};
use crate::mcp::ask::{self, Askable};
use crate::mcp::client::Client;
use crate::mcp::extensions::{told_across, told_of};
use crate::mcp::mailbox::Letter;
use crate::mcp::memory::Profile;
use crate::mcp::meta::{Params, erase};
use crate::mcp::revision::Era;
use crate::mcp::rewrite::without;
use crate::mcp::rounds::Rounds;
use crate::mcp::sampling::Again;
use crate::mcp::serve::{Answer, Inbound, brief};
use crate::mcp::stream::Stream;
use crate::mcp::upstream::{IMPLEMENTATION, Outgoing, error_of, no_answer};
use crate::mcp::{Mcp, park, tasks};
use crate::platform::{Clock as _, Mailboxes as _, Platform};
use crate::relay::too_large;
use crate::wire::jsonrpc::{Message, Splice, quote, string};
use crate::wire::sse::{Decoder, Event};

/// Who goes on with a call if its server asks the client for input: a mailbox, and what it is to know.
pub(super) type Handover = Option<Box<(String, Rounds)>>;

impl<P: Platform> Mcp<P> {
    /// Who goes on with a legacy client's call if its modern server asks for input.
    pub(super) fn handover(
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
            caller: client.caller.name.clone(),
        };
        Some(Box::new((session.mailbox(), rounds)))
    }

    /// How a call to a modern server is made again once models have answered what that asks, where they do. What the
    /// client of a call that is on its way already carries of the kind goes into the request.
    pub(super) async fn again(
        &self,
        client: &Client,
        call: &Call<'_>,
        server: &Arc<Server>,
        way: &Way,
        outgoing: &mut Outgoing,
    ) -> Result<Option<Box<Again>>, Fault> {
        let polls = call.method == tasks::GET && client.era() == Era::Modern;
        if way.revision.era() == Era::Legacy || !polls && !ask::BRIDGED.contains(&call.method) {
            return Ok(None);
        }
        let digest = park::digest(&server.name, call.method, call.params);
        let mut asked = 0;
        if let Some(state) = call.read.request_state
            && let Some((body, before)) = self.carried(&outgoing.body, state, &digest).await?
        {
            (outgoing.body, asked) = (body, before);
        }
        Ok(Some(Box::new(Again {
            server: server.clone(),
            caller: client.caller.name.clone(),
            id: call.id.to_owned(),
            body: outgoing.body.clone(),
            headers: outgoing.headers.clone(),
            digest,
            askable: client.era() == Era::Modern,
            asked,
            rounds: 0,
            polls,
        })))
    }

    /// A modern client's call to a legacy server that may ask back: begins it in a mailbox, or goes on with it.
    /// `None` if this client cannot be asked anything, so that no mailbox is needed.
    pub(super) async fn bridge(
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
            let responses = responses(call.read.input_responses)?;
            let retry = park::Retry { call: state.call, round: state.round, responses, leg };
            return self.spoken(client, call, server, &state.key, &Letter::Retry(retry)).await.map(Some);
        }
        let Some((key, capabilities)) = self.parks(client, server, profile) else { return Ok(None) };
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

    /// The mailbox that calls of `client` to a legacy server go over, if it can be asked anything, and what the server
    /// is told that it can do.
    fn parks(&self, client: &Client, server: &Server, profile: &Profile) -> Option<(String, Box<RawValue>)> {
        let capabilities = told_of(server, client, true)?;
        let shared = server.session == Some(SessionMode::Shared) && !profile.http_sse;
        if !Askable::of(&capabilities).anything() || shared || !self.platform.abilities().mailboxes {
            return None;
        }
        let hash = sha2::Sha256::digest(format!("{}\0{}\0{capabilities}", client.caller.name, server.name));
        let place = self.platform.mailboxes().place();
        let place = if place.is_empty() { place } else { format!("/{place}") };
        Some((format!("park/{}{place}", crate::mcp::hex(hash.get(..16).unwrap_or_default())), capabilities))
    }

    /// The letter of a subscription of `client` to `uris` that is to be heard over a session which its calls go over, and
    /// where it goes; `None` if there is no such session.
    pub(in crate::mcp) fn hears(
        &self,
        client: &Client,
        server: &Server,
        profile: &Profile,
        uris: &[String],
    ) -> Option<(String, Letter)> {
        // Without one it has no stream of its own.
        let heard = profile.sessions || profile.http_sse;
        let (key, capabilities) = self.parks(client, server, profile).filter(|_| heard)?;
        let client_info = client.info.clone().unwrap_or_else(implementation);
        let (server, uris) = (server.name.clone(), uris.to_vec());
        Some((key, Letter::Hear(park::Hear { server, capabilities, client_info, uris })))
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
    pub(super) async fn spoken(
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

/// What a client answers, by the key of the question.
fn responses(raw: Option<&RawValue>) -> Result<BTreeMap<String, Box<RawValue>>, Fault> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(BTreeMap::new()) };
    let refuse = |what: String| Fault::new(Kind::InvalidParams, format!("params.inputResponses{what}"));
    let all: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get()).map_err(|_| {
        refuse(": an object is required, with the answer to each question by its key".to_owned())
    })?;
    match all.iter().find(|(_, answer)| !answer.get().starts_with('{')) {
        Some((key, _)) => {
            let key = brief(key);
            Err(refuse(format!(": {key:?}: an object is required, the result that the question asks for")))
        }
        None => Ok(all),
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
