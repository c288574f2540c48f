//! What a candidate answers, whole or piece by piece, goes on to the caller.

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{Call, Role, State, Task, json_headers, limits, parse};
use crate::fault::Kind;
use crate::llm::chat::{Event, Whole};
use crate::llm::convert::{self, Front, Reader, Writer};
use crate::llm::provider::dialect;
use crate::llm::refusal::{Words, retry_info, sorted};
use crate::platform::{Platform, SeamError, UpstreamBody};

/// How much of an error's body is read.
const ERROR_BODY: usize = 64 * 1024;

impl<P: Platform> Call<P> {
    /// The head of an answer has come.
    pub(super) fn answered(&mut self, status: StatusCode, headers: HeaderMap, body: UpstreamBody<P>) {
        let Some(candidate) = &self.current else { return };
        let provider = &candidate.provider;
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Some servers answer in one piece, whatever they are asked.
        let whole = kind.trim_start().starts_with("application/json")
            && dialect(provider.kind) != convert::Dialect::Ollama;
        let streams =
            matches!(self.asked.task, Task::Chat(_)) && self.asked.stream && status.is_success() && !whole;
        if !streams {
            self.state = State::Collecting { status, headers, body, held: BytesMut::new() };
            return;
        }
        let front = self.asked.task.front();
        let own = dialect(provider.kind);
        let reader = Reader::new(&provider.name, own, provider.max_response);
        let writer = match self.said.writer.take() {
            Some(writer) => Some(writer),
            None => (!(self.is_own() && front.is(own))).then(|| self.writer()),
        };
        self.state = State::Streaming { body, reader, writer, tail: BytesMut::new() };
    }

    pub(super) fn writer(&self) -> Writer {
        let front = self.asked.task.front();
        let wants_usage = self.chat.as_ref().is_some_and(|chat| chat.wants_usage);
        Writer::new(front, self.id(), self.model(), self.began.0 / 1000, wants_usage)
    }

    /// An id of our own for an answer whose provider gives none.
    pub(super) fn id(&self) -> String {
        let front = self.asked.task.front();
        let prefix = if front == Front::OpenAi { "chatcmpl-" } else { "msg_" };
        format!("{prefix}{}", self.asked.request_id)
    }

    pub(super) fn model(&self) -> String {
        self.current.as_ref().map_or_else(String::new, |candidate| candidate.model.clone())
    }

    /// A piece of an answer that is read to its end.
    pub(super) fn collected(&mut self, chunk: Option<Result<Bytes, SeamError>>) {
        self.heard_at = self.now();
        let limit =
            self.current.as_ref().map_or(0, |candidate| candidate.provider.max_response.min(self.room));
        let State::Collecting { status, held, .. } = &mut self.state else { return };
        let error = !status.is_success();
        match chunk {
            Some(Ok(chunk)) => {
                let room = if error { ERROR_BODY } else { limit };
                if held.len() + chunk.len() <= room {
                    held.extend_from_slice(&chunk);
                    return;
                }
                if !error {
                    self.failed(self.too_large(limit), None);
                    return;
                }
            }
            Some(Err(failure)) if !error => {
                self.failed(self.seam(&failure), None);
                return;
            }
            // What has come of an error will do.
            Some(Err(_)) | None => {}
        }
        let State::Collecting { status, headers, held, .. } = std::mem::replace(&mut self.state, State::Over)
        else {
            return;
        };
        let held = held.freeze();
        if error { self.refused(status, &headers, held) } else { self.complete(&headers, held) }
    }

    /// An error has been read.
    pub(super) fn refused(&mut self, status: StatusCode, headers: &HeaderMap, body: Bytes) {
        let Some(candidate) = &self.current else { return };
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut words = Words::of(&value);
        let exception = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
        words.names.extend(exception);
        let status_of = if status.is_redirection() { StatusCode::BAD_GATEWAY } else { status };
        let mut refusal = sorted(&candidate.provider.name, status_of, headers, &words);
        refusal.wait = refusal.wait.or_else(|| retry_info(&value));
        let own = self.is_own() && self.asked.task.front().is(dialect(candidate.provider.kind));
        // Told in the very words of the provider, unless those may hold a part of the gateway's own key.
        let raw = (own && value.get("error").is_some_and(Value::is_object))
            .then_some((status, body))
            .filter(|_| refusal.fault.kind != Kind::ProviderAuthentication && status.as_u16() >= 400);
        self.failed(refusal, raw);
    }

    /// A whole answer has been read.
    pub(super) fn complete(&mut self, upstream: &HeaderMap, body: Bytes) {
        let Some(candidate) = self.current.clone() else { return };
        let provider = &candidate.provider;
        let front = self.asked.task.front();
        let own = self.is_own() && front.is(dialect(provider.kind));
        let Ok(value) = serde_json::from_slice::<Value>(&body) else {
            return self.failed(self.invalid("its answer is not JSON"), None);
        };
        match self.asked.task {
            Task::Chat(_) => {
                let events = convert::whole(&provider.name, provider.kind, &value);
                if self.asked.stream {
                    return self.stream_whole(events, own);
                }
                let mut whole = match Whole::of(events) {
                    Ok(whole) => whole,
                    Err(refusal) => return self.failed(refusal, None),
                };
                self.metered.usage = self.said.before.plus(&whole.usage);
                if matches!(self.role, Role::Unseen) {
                    self.answer = Some(whole);
                    return self.finish(StatusCode::OK, HeaderMap::new(), Bytes::new());
                }
                if let Some(caching) = &mut self.caching {
                    caching.take(&whole);
                }
                if let Some(noted) = &mut self.metered.noted {
                    noted.take(&whole);
                }
                if let Some(Event::Extra(stages)) = self.itemised() {
                    whole.extra.extend(stages);
                    whole.usage = self.metered.usage;
                }
                let mut headers = self.chosen();
                headers.extend(json_headers());
                let body = if own {
                    limits(upstream, &mut headers);
                    body
                } else {
                    let created = self.began.0 / 1000;
                    front.whole(&whole, &self.id(), &candidate.model, created).to_string().into()
                };
                self.finish(StatusCode::OK, headers, body);
            }
            Task::Embeddings => {
                let mut headers = self.chosen();
                headers.extend(json_headers());
                let tokens = value.get("usage").and_then(|usage| usage.get("prompt_tokens")?.as_u64());
                self.metered.usage.input = tokens.or_else(|| value.get("prompt_eval_count")?.as_u64());
                if own {
                    return self.finish(StatusCode::OK, headers, body);
                }
                let base64 = parse(&self.asked.body)
                    .is_ok_and(|asked| asked.get("encoding_format").is_some_and(|format| format == "base64"));
                match convert::embeddings(provider.kind, &value, &candidate.model, base64) {
                    Some(body) => self.finish(StatusCode::OK, headers, body.to_string().into()),
                    None => self.failed(self.invalid("its answer has no embeddings"), None),
                }
            }
            Task::Count => {
                let headers = json_headers();
                if own {
                    return self.finish(StatusCode::OK, headers, body);
                }
                match value.get("totalTokens").and_then(Value::as_u64) {
                    Some(count) => {
                        let body = serde_json::json!({ "input_tokens": count }).to_string();
                        self.finish(StatusCode::OK, headers, body.into());
                    }
                    None => self.failed(self.invalid("its answer has no count"), None),
                }
            }
        }
    }

    /// A whole answer where a stream was asked for.
    pub(super) fn stream_whole(&mut self, events: Vec<Event>, own: bool) {
        let mut writer = if let Some(writer) = self.said.writer.take() {
            writer
        } else if own && self.chat.is_none() {
            // Nothing was converted so far: whether usage is wanted is in the request.
            let wants_usage = self.chat().is_ok_and(|chat| chat.wants_usage);
            Writer::new(self.asked.task.front(), self.id(), self.model(), self.began.0 / 1000, wants_usage)
        } else {
            self.writer()
        };
        let (mut out, length, noted) = (BytesMut::new(), self.said.length(), self.metered.length());
        for event in events {
            match event {
                Event::Failed(refusal) => {
                    self.said.back(length);
                    self.metered.back(noted);
                    return self.failed(refusal, None);
                }
                event => {
                    if let Some(event) = self.said.tell(event, &mut self.metered.usage) {
                        self.metered.hear(&event);
                        if let Some(caching) = &mut self.caching {
                            caching.push(&event);
                        }
                        writer.push(event, &mut out);
                    }
                }
            }
        }
        if let Some(stages) = self.itemised() {
            writer.push(stages, &mut out);
        }
        writer.end(&mut out);
        self.out.unsplit(out);
        self.commit();
        self.close();
    }

    /// An answer that nobody else is asked for.
    pub(super) fn deliver(&mut self, mut whole: Whole) {
        (self.current, self.sent) = (None, false);
        self.said.anew();
        self.metered.back(0);
        if let Some(noted) = &mut self.metered.noted {
            noted.take(&whole);
        }
        self.metered.usage = self.said.before;
        whole.usage = self.metered.usage;
        if let Some(Event::Extra(stages)) = self.itemised() {
            whole.extra.extend(stages);
        }
        if self.asked.stream {
            let (mut out, mut writer) = (BytesMut::new(), self.writer());
            for event in whole.events() {
                writer.push(event, &mut out);
            }
            writer.end(&mut out);
            self.out.unsplit(out);
            self.commit();
            return self.close();
        }
        let mut headers = self.chosen();
        headers.extend(json_headers());
        let (front, model, created) =
            (self.asked.task.front(), self.asked.model.clone(), self.began.0 / 1000);
        let body = front.whole(&whole, &self.id(), &model, created).to_string().into();
        self.finish(StatusCode::OK, headers, body);
    }

    /// A piece of a stream, its end, or its failure.
    pub(super) fn heard(&mut self, chunk: Option<Result<Bytes, SeamError>>) {
        self.heard_at = self.now();
        let mut events = Vec::new();
        let (before, length, noted) = (self.out.len(), self.said.length(), self.metered.length());
        let front = self.asked.task.front();
        let State::Streaming { reader, writer, tail, .. } = &mut self.state else { return };
        let (passes, was_whole) = (writer.is_none(), reader.is_over());
        let (mut ended, pushed) = match chunk {
            Some(Ok(chunk)) => {
                let pushed = reader.push(&chunk, &mut events);
                if writer.is_none() {
                    match reader.boundary() {
                        Some(at) => {
                            let at = at.min(chunk.len());
                            self.out.extend_from_slice(tail);
                            self.out.extend_from_slice(chunk.get(..at).unwrap_or_default());
                            tail.clear();
                            tail.extend_from_slice(chunk.get(at..).unwrap_or_default());
                        }
                        None => tail.extend_from_slice(&chunk),
                    }
                }
                (None, pushed)
            }
            Some(Err(error)) => (Some(Some(error)), Ok(())),
            None => {
                reader.end(&mut events);
                (Some(None), Ok(()))
            }
        };
        let mut content = false;
        let mut failure = pushed.err();
        for event in events {
            if failure.is_some() {
                break;
            }
            content |= event.is_content();
            match event {
                Event::Failed(refusal) => failure = Some(refusal),
                event => {
                    let event = self.said.tell(event, &mut self.metered.usage);
                    if let Some(event) = &event {
                        self.metered.hear(event);
                    }
                    if let (Some(caching), Some(event)) = (&mut self.caching, &event) {
                        caching.push(event);
                    }
                    if let (Some(writer), Some(event)) = (writer.as_mut(), event) {
                        writer.push(event, &mut self.out);
                    }
                }
            }
        }
        let (whole, said_so) = (reader.is_over(), reader.has_ended());
        // All has been said: what makes no sense behind it is nothing to tell anybody.
        if (was_whole || whole && !passes) && failure.take().is_some() {
            ended = Some(None);
            if passes {
                self.out.truncate(before);
                tail.clear();
            }
        }
        if content {
            self.commit();
        }
        if let Some(refusal) = failure {
            if !(passes && self.committed) {
                return self.failed(refusal, None);
            }
            let given = self.out.split_off(before);
            self.said.back(length);
            self.metered.back(noted);
            self.missed(&refusal);
            if self.goes_on(&refusal) {
                return;
            }
            if matches!(refusal.fault.kind, Kind::UpstreamTooLarge | Kind::UpstreamInvalid) {
                // What makes no sense to us makes none to the caller.
                return self.tell(&refusal);
            }
            // The provider's own error event is in the bytes already.
            self.out.unsplit(given);
            self.metered.fault = Some(refusal.fault.kind);
            self.price();
            self.state = State::Over;
            self.conclude(refusal.fault.kind.row().label);
            return;
        }
        match ended {
            None => {}
            Some(_) if whole => {
                let stages = self.itemised();
                if let State::Streaming { writer, tail, .. } = &mut self.state {
                    match writer {
                        Some(writer) => {
                            if let Some(stages) = stages {
                                writer.push(stages, &mut self.out);
                            }
                            writer.end(&mut self.out);
                        }
                        None if said_so => self.out.extend_from_slice(tail),
                        // Nor is it half a message that the caller waits for.
                        None => front.end(&mut self.out),
                    }
                }
                self.commit();
                self.close();
            }
            Some(error) => {
                let refusal = match error {
                    Some(error) => self.seam(&error),
                    None => self.cut(),
                };
                self.failed(refusal, None);
            }
        }
    }
}
