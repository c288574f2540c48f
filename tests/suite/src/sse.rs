//! Event streams as a browser reads them: ids, kinds, `retry`, and the difference between an end and a cut.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its id, to come back with.
    pub id: Option<String>,
    /// Its kind; `message` where it names none.
    pub kind: String,
    /// How many milliseconds to wait before coming back.
    pub retry: Option<u64>,
    /// Its data.
    pub data: String,
}

/// How reading went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// An event.
    Event(Event),
    /// The stream has ended in good order.
    End,
    /// The connection was cut, for this reason.
    Cut(String),
}

/// An event stream that is being read.
#[derive(Debug)]
pub struct Source {
    body: Incoming,
    buffer: Vec<u8>,
    ready: VecDeque<Event>,
    event: Event,
    any: bool,
    /// How many comments have come by.
    pub comments: usize,
}

impl Source {
    pub(crate) fn new(body: Incoming) -> Self {
        let event = Event { kind: "message".into(), ..Event::default() };
        Self { body, buffer: Vec::new(), ready: VecDeque::new(), event, any: false, comments: 0 }
    }

    /// What comes next, however long it takes.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Next::Event(event);
            }
            match self.body.frame().await {
                None => return Next::End,
                Some(Err(error)) => return Next::Cut(format!("{error:?}")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.feed(&data);
                    }
                }
            }
        }
    }

    /// What comes next; `None` if nothing comes in time.
    pub async fn within(&mut self, span: Duration) -> Option<Next> {
        tokio::time::timeout(span, self.next()).await.ok()
    }

    fn feed(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
        // A CR at the very end may be the first half of a CR LF: it has to wait.
        while let Some(end) = self.buffer.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let pair = self.buffer[end] == b'\r';
            if pair && end + 1 == self.buffer.len() {
                return;
            }
            let width = if pair && self.buffer[end + 1] == b'\n' { 2 } else { 1 };
            let line: Vec<u8> = self.buffer.drain(..end + width).take(end).collect();
            self.line(&String::from_utf8_lossy(&line));
        }
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            let next = Event { kind: "message".into(), ..Event::default() };
            let event = std::mem::replace(&mut self.event, next);
            if std::mem::take(&mut self.any) {
                self.ready.push_back(event);
            }
            return;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => self.comments += 1,
            "id" => (self.event.id, self.any) = (Some(value.to_owned()), true),
            "event" => value.clone_into(&mut self.event.kind),
            "retry" => (self.event.retry, self.any) = (value.parse().ok(), true),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.any = true;
            }
            _ => {}
        }
    }
}
