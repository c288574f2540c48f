//! A candidate is asked: the request, in its own dialect.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::{Call, State, Task, json_headers, parse};
use crate::config::types::ProviderKind;
use crate::fault::Kind;
use crate::llm::ask::types::Attempt;
use crate::llm::chat::Chat;
use crate::llm::provider::{self, Place, dialect};
use crate::llm::refusal::Refusal;
use crate::llm::route::Candidate;
use crate::llm::{convert, gemini, tokens};
use crate::platform::{Clock as _, Platform};
use crate::relay::through::begin_model;

impl<P: Platform> Call<P> {
    /// Asks the next candidate.
    pub(super) fn begin(&mut self) {
        let Some(candidate) = self.left.pop_front() else {
            // Whoever made the call saw to it that there is one, or that it is said why there is none.
            let alone = self.asked.alone.take();
            let none = || Refusal::new(Kind::UnknownModel, "no provider has this model");
            return self.refuse(alone.map_or_else(none, |alone| *alone), None);
        };
        let timeouts = &candidate.provider.timeouts;
        let now = self.now();
        self.first_by = now.after(timeouts.first_byte).min(now.after(timeouts.total));
        self.done_by = now.after(timeouts.total);
        if let Some(until) = self.until {
            self.done_by = self.done_by.min(until);
            self.first_by = self.first_by.min(until);
        }
        self.heard_at = now;
        self.metered.provider = Some(candidate.provider.name.clone());
        self.metered.model = Some(candidate.model.clone());
        self.current = Some(candidate.clone());
        self.sent = false;
        let encoded =
            if self.said.has_gone_on() { self.rest(&candidate).map(Some) } else { self.encoded(&candidate) };
        let encoded = match encoded {
            Ok(Some(encoded)) => encoded,
            // Answered without anybody.
            Ok(None) => return,
            // What one provider's dialect cannot say another's may.
            Err(refusal) if !self.left.is_empty() => {
                self.refusal.get_or_insert((refusal, None));
                return;
            }
            Err(refusal) => return self.failed(refusal, None),
        };
        let place = match self.asked.task {
            Task::Chat(_) => Place::Chat { stream: self.asked.stream },
            Task::Embeddings => Place::Embeddings,
            Task::Count => Place::Count,
        };
        let mut passed = self.asked.passed.clone();
        if self.is_own() && self.asked.task.front().is(dialect(candidate.provider.kind)) {
            passed.extend(self.asked.native.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        match provider::request(&candidate.provider, place, &candidate.model, encoded, &passed, now) {
            Ok(request) => {
                self.metered.attempts += 1;
                let (provider, model) = (candidate.provider.name.clone(), candidate.model.clone());
                self.metered.tried.push(Attempt { provider, model, outcome: "ok" });
                self.sent = true;
                self.since = (self.platform.clock().ticks(), 0);
                self.memory.begun(&candidate, now);
                let (caller, id) = (&self.asked.caller, &self.asked.request_id);
                let sent = begin_model(&self.platform, &candidate.provider, request, caller, id);
                self.state = State::Sending(sent);
            }
            Err(refusal) => self.failed(refusal, None),
        }
    }

    /// The body for `candidate`; `None` if the answer is known already.
    pub(super) fn encoded(&mut self, candidate: &Candidate) -> Result<Option<Bytes>, Refusal> {
        let kind = candidate.provider.kind;
        let native = self.is_own() && self.asked.task.front().is(dialect(kind));
        if native {
            return Ok(Some(convert::with_model(&self.asked.body, &candidate.model)));
        }
        match self.asked.task {
            Task::Chat(_) => {
                let mut chat = self.chat()?.clone();
                chat.model.clone_from(&candidate.model);
                Ok(Some(convert::encode(&chat, kind)?.to_string().into()))
            }
            Task::Embeddings => {
                let body = parse(&self.asked.body)?;
                match kind {
                    ProviderKind::Gemini => {
                        Ok(Some(gemini::embeddings(&body, &candidate.model)?.to_string().into()))
                    }
                    _ => Ok(Some(convert::with_model(&self.asked.body, &candidate.model))),
                }
            }
            Task::Count if kind == ProviderKind::Gemini => {
                let mut chat = self.chat()?.clone();
                chat.model.clone_from(&candidate.model);
                let mut request = convert::encode(&chat, kind)?;
                if let Some(request) = request.as_object_mut() {
                    request.insert("model".into(), format!("models/{}", candidate.model).into());
                }
                Ok(Some(serde_json::json!({ "generateContentRequest": request }).to_string().into()))
            }
            Task::Count => {
                let count = tokens::estimate(self.chat()?);
                let mut headers = json_headers();
                // Nobody but the provider can count; a caller that must know can tell.
                headers.insert("x-causeway-estimated", HeaderValue::from_static("true"));
                let body = serde_json::json!({ "input_tokens": count }).to_string();
                self.finish(StatusCode::OK, headers, body.into());
                Ok(None)
            }
        }
    }

    pub(super) fn chat(&mut self) -> Result<&Chat, Refusal> {
        if self.chat.is_none() {
            self.chat = Some(convert::decode(self.asked.task.front(), &parse(&self.asked.body)?)?);
        }
        self.chat.as_ref().ok_or_else(|| Refusal::new(Kind::Malformed, "the body is not JSON"))
    }
}
