//! Event streams as they come in, and where to take one up again that broke.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use causeway::platform::SeamError;
use causeway::wire::jsonrpc::decode_batch;
use causeway::wire::sse::{Decoder, Event};
use futures_util::{Stream, StreamExt};
use http::HeaderValue;

use super::backoff::Backoff;
use super::failure::Failure;

/// A server that asks for less than this is not served any sooner: a stream that ends at once must not spin.
const LEAST: Duration = Duration::from_millis(20);
/// Nor later than this.
const MOST: Duration = Duration::from_secs(600);

/// The events of a response.
#[derive(Debug)]
pub(super) struct Events<B> {
    body: B,
    decoder: Decoder,
    ready: VecDeque<Event>,
    most: usize,
}

impl<B: Stream<Item = Result<Bytes, SeamError>> + Unpin> Events<B> {
    /// The events in `body`, each of at most `most` bytes.
    pub(super) fn new(body: B, most: usize) -> Self {
        Self { body, decoder: Decoder::new(most), ready: VecDeque::new(), most }
    }

    /// The next event; `None` when the stream has ended in good order.
    ///
    /// # Errors
    /// When the stream was cut, or an event is too large.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        let mut events = Vec::new();
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            match self.body.next().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Cut(error.to_string())),
                Some(Ok(chunk)) => {
                    self.decoder.push(&chunk, &mut events).map_err(|_| Failure::TooLarge(self.most))?;
                    self.ready.extend(events.drain(..));
                }
            }
        }
    }
}

/// The messages in an event: one, or those of a batch (2025-03-26), or none.
pub(super) fn messages(event: Event) -> Vec<Bytes> {
    if !matches!(event.event.as_str(), "" | "message") || event.data.trim_ascii().is_empty() {
        return Vec::new();
    }
    parts(event.data)
}

/// The messages in a document: itself, or those of a batch.
pub(super) fn parts(data: Bytes) -> Vec<Bytes> {
    match decode_batch(&data) {
        Ok(Some(batch)) => batch.iter().map(|part| data.slice_ref(part.get().as_bytes())).collect(),
        // What is wrong with it is found where it is read.
        Ok(None) | Err(_) => vec![data],
    }
}

/// Where a stream has got to (2025-11-25 Transports, "Resumability and Redelivery").
#[derive(Debug, Default)]
pub(super) struct Cursor {
    last: Option<HeaderValue>,
    retry: Option<Duration>,
}

impl Cursor {
    /// `event` has come.
    pub(super) fn note(&mut self, event: &Event) {
        if let Some(id) = &event.id {
            // An empty id takes back the earlier one (WHATWG HTML, "9.2.6"); one that no header can hold is none.
            self.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
        }
        if let Some(ms) = event.retry {
            self.retry = Some(Duration::from_millis(ms).clamp(LEAST, MOST));
        }
    }

    /// The `Last-Event-ID` to come back with.
    pub(super) fn last(&self) -> Option<&HeaderValue> {
        self.last.as_ref()
    }

    /// The server does not know the id any more.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// How long to wait before coming back: what the server has asked for, or else what `backoff` says.
    pub(super) fn pause(&self, backoff: &mut Backoff) -> Duration {
        self.retry.unwrap_or_else(|| backoff.pause())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn event(text: &str) -> Event {
        let (mut decoder, mut events) = (Decoder::new(1024), Vec::new());
        decoder.push(text.as_bytes(), &mut events).unwrap();
        events.pop().unwrap()
    }

    #[test]
    fn a_stream_is_taken_up_where_it_was_left() {
        let mut cursor = Cursor::default();
        assert!(cursor.last().is_none());
        cursor.note(&event("id: a_1\nretry: 250\ndata:\n\n"));
        cursor.note(&event("data: {}\n\n"));
        assert_eq!(cursor.last().unwrap(), "a_1");
        assert_eq!(cursor.pause(&mut Backoff::stream()), Duration::from_millis(250));
        cursor.note(&event("id: a_2\nretry: 0\ndata: {}\n\n"));
        assert_eq!(cursor.last().unwrap(), "a_2");
        assert_eq!(cursor.pause(&mut Backoff::stream()), LEAST);
        cursor.note(&event("id:\ndata: {}\n\n"));
        assert!(cursor.last().is_none());
    }

    #[test]
    fn only_messages_are_messages() {
        let of = |text: &str| messages(event(text)).len();
        assert_eq!(of("data: {}\n\n"), 1);
        assert_eq!(of("event: message\ndata: {}\n\n"), 1);
        assert_eq!(of("event: endpoint\ndata: /x\n\n"), 0);
        assert_eq!(of("id: 1\ndata: \n\n"), 0);
        assert_eq!(of("data: [{\"a\":1}, {\"b\":2}]\n\n"), 2);
    }

    #[tokio::test]
    async fn events_come_until_the_end_or_the_cut() {
        let chunks = |end: Option<SeamError>| {
            let begin = ["data: 1\n\nda", "ta: 2\n\n"].map(|text| Ok(Bytes::from(text)));
            stream::iter(begin.into_iter().chain(end.map(Err)))
        };
        let mut events = Events::new(chunks(None), 64);
        assert_eq!(&events.next().await.unwrap().unwrap().data[..], b"1");
        assert_eq!(&events.next().await.unwrap().unwrap().data[..], b"2");
        assert!(events.next().await.unwrap().is_none());
        let mut events = Events::new(chunks(Some(SeamError::Cut("gone".to_owned()))), 64);
        for _ in 0..2 {
            events.next().await.unwrap();
        }
        assert!(matches!(events.next().await, Err(Failure::Cut(_))));
        let mut events = Events::new(chunks(None), 4);
        assert!(events.next().await.is_ok());
        assert!(matches!(events.next().await, Err(Failure::TooLarge(4))));
    }
}
