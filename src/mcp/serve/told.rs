//! What a legacy client tells without asking: notifications, answers to questions, and the end of its session.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use serde_json::value::RawValue;

use super::{Answer, Cancel, Inbound, Note, failed};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::mcp::extensions::is_core_notification;
use crate::mcp::mailbox::Letter;
use crate::mcp::memory::{UpstreamSession, Upstreams, lock};
use crate::mcp::meta::{Meta, Params};
use crate::mcp::revision::{Era, Revision};
use crate::mcp::rewrite::routed_question;
use crate::mcp::session::Session;
use crate::mcp::upstream::field;
use crate::mcp::{Mcp, headers, rounds, tasks};
use crate::platform::Platform;
use crate::wire::jsonrpc::{self, Message, string};

impl<P: Platform> Mcp<P> {
    /// Answers a notification: those that a server must hear go on to it.
    pub(super) async fn notification(
        &self,
        inbound: &Inbound,
        text: &[u8],
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), Fault> {
        let read = Params::read(params)?;
        let modern = Meta::read(read.meta)?.version().is_some()
            || inbound.header(&headers::VERSION).and_then(Revision::parse).map(Revision::era)
                == Some(Era::Modern);
        if modern {
            // This revision has no notifications of clients over HTTP; one that comes is taken and does nothing.
            return Ok(());
        }
        let client = self.client(inbound, None, method).await?;
        let Some(session) = &client.session else { return Ok(()) };
        if method == "notifications/cancelled" && session.is_lenient() {
            // Several clients share the session, and so it may be another's call that has this id.
            return Ok(());
        }
        if method == "notifications/cancelled"
            && let Some(id) = params.and_then(|params| field(params, "requestId"))
        {
            if !session.memory.cancel(&id) {
                self.mark_given_up(&session.mailbox(), &id).await?;
            }
            self.tell_mailbox(session, &Letter::Cancelled(id)).await?;
        }
        match method {
            "notifications/initialized" => {}
            "notifications/cancelled" | "notifications/roots/list_changed" | "notifications/progress" => {
                self.tell_upstreams(session, &inbound.part(text)).await;
                if method != "notifications/cancelled" {
                    self.tell_lines(session, text).await;
                }
            }
            _ if inbound.target.is_some() => {
                self.tell_upstreams(session, &inbound.part(text)).await;
                self.tell_lines(session, text).await;
            }
            _ if is_core_notification(method) => {}
            _ => self.tell_extended(session, method, inbound.part(text)).await,
        }
        Ok(())
    }

    /// Writes to the mailbox of a session, if it can have one. There is nothing to hear.
    pub(in crate::mcp) async fn tell_mailbox(&self, session: &Session, letter: &Letter) -> Result<(), Fault> {
        if self.platform.abilities().mailboxes {
            let mut answer = self.post_letter(&session.mailbox(), letter).await?;
            while answer.next().await.is_some() {}
        }
        Ok(())
    }

    /// Passes a client's message on to every session that is held for it; one that is about a task, to its server
    /// alone.
    async fn tell_upstreams(&self, session: &Session, body: &Bytes) {
        let upstreams = lock(&session.memory.record).0.upstreams.clone();
        let merged = session.facts.server.is_none();
        let known = |name: &str| merged && self.plan.server(name).is_some();
        for (name, upstream) in upstreams.iter() {
            let Some(server) = self.plan.server(name) else { continue };
            if let Some(body) = tasks::inward_message(body.clone(), server, known) {
                self.tell(server, body, upstream).await;
            }
        }
    }

    /// Takes a response of the client: on `/mcp/{server}` it goes to the session whose server asked.
    pub(super) async fn response(&self, inbound: &Inbound, text: &[u8]) -> Result<(), Fault> {
        let client = self.client(inbound, None, "response").await.map_err(|fault| match fault.kind {
            Kind::SessionRequired => {
                Fault::new(Kind::InvalidRequest, "responses need a session that asked for them")
            }
            _ => fault,
        })?;
        let own = match Message::decode(text) {
            Ok(Message::Response { id: Some(id), .. }) => rounds::is_own(id),
            _ => false,
        };
        match (&client.session, &inbound.target) {
            (Some(session), _) if own => {
                if let Ok(response) = serde_json::from_slice(text) {
                    self.tell_mailbox(session, &Letter::Response(response)).await?;
                }
            }
            (Some(session), target) => {
                if !self.answer_routed(inbound, session, text).await && target.is_some() {
                    self.tell_upstreams(session, &inbound.part(text)).await;
                }
            }
            (None, _) => {
                return Err(Fault::new(
                    Kind::InvalidRequest,
                    "clients of 2026-07-28 must not send responses",
                ));
            }
        }
        Ok(())
    }

    /// Takes what the client says to a question of one of the servers that it sees as one, or of one whose sessions
    /// are not held for it; says whether it is such an answer.
    async fn answer_routed(&self, inbound: &Inbound, session: &Session, text: &[u8]) -> bool {
        let Ok(Message::Response { id: Some(id), .. }) = Message::decode(text) else { return false };
        let known = string(id);
        let Some((server, own)) = known.as_deref().and_then(routed_question) else { return false };
        let held = || {
            let one = inbound.target.as_ref();
            if one.is_some_and(|one| !session.is_lenient() || one.name != server) {
                return None;
            }
            let upstream = lock(&session.memory.record).0.upstreams.get(server).cloned()?;
            Some((self.plan.server(server)?.clone(), upstream))
        };
        let to = held().or_else(|| self.open_asks(&inbound.caller, server));
        let Some((server, upstream)) = to else { return false };
        let mut splice = jsonrpc::Splice::new(text);
        splice.replace(id, own.get().as_bytes().to_vec());
        let known = |name: &str| inbound.target.is_none() && name == server.name;
        if let Some(body) = tasks::inward_message(splice.finish(), &server, known) {
            self.tell(&server, body, &upstream).await;
        }
        true
    }

    /// Answers a DELETE: the session ends, here and upstream.
    pub async fn delete(self, inbound: Inbound) -> (Answer<P>, Note, Vec<(Arc<Server>, UpstreamSession)>) {
        let mut note = Note { method: Some("DELETE".to_owned()), ..Note::default() };
        let ended = async {
            let modern = inbound.header(&headers::VERSION).and_then(Revision::parse).map(Revision::era);
            if modern == Some(Era::Modern) {
                return Err(Fault::new(Kind::MethodNotAllowed, "2026-07-28 has no sessions to end"));
            }
            let client = self.client(&inbound, None, "DELETE").await?;
            match &client.session {
                Some(session) => {
                    let upstreams = self.end_session(session).await?;
                    self.tell_mailbox(session, &Letter::End).await?;
                    Ok(upstreams)
                }
                None => Ok(Upstreams::default()),
            }
        };
        match ended.await {
            Ok(upstreams) => (Answer::Empty(StatusCode::NO_CONTENT), note, self.served(&upstreams)),
            Err(fault) => (failed(None, &fault, &mut note), note, Vec::new()),
        }
    }

    /// Tells a legacy server that nobody waits for a call any more.
    pub async fn cancel(&self, cancel: &Cancel) {
        if cancel.session.kept {
            return;
        }
        self.tell(&cancel.server, cancelled(&cancel.id), &cancel.session).await;
    }
}

/// What a server is told of the call `id`, as JSON, that nobody waits for any more.
pub(in crate::mcp) fn cancelled(id: &str) -> Bytes {
    let body = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\"reason\":\
         \"the client has gone\"}}}}"
    );
    body.into()
}
