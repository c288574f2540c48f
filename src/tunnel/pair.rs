//! The transport for hosts and networks without WebSockets: a stream of events down, `POST` up.
//!
//! The companion posts its hello to [`PATH`](super::PATH) and the answer is the stream of events: each event's data is
//! one message in base64. What it sends from then on it posts in batches, with the session in the header [`SESSION`]
//! and, in [`FROM`], the number of the batch's first counted frame. A batch that is posted twice does nothing the
//! second time, so that a `POST` whose answer was lost can be tried again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};

use super::frame::Frame;
use super::{Bye, ByeCode, MAX_MESSAGE};

/// The header with the session that a batch belongs to.
pub const SESSION: &str = "causeway-link-session";
/// The header with the number of the first counted frame in a batch; the first of a session has number 0.
pub const FROM: &str = "causeway-link-from";
/// The most bytes that one batch may have.
pub const MAX_BATCH: usize = 1024 * 1024;
/// The media type of a batch.
pub const MEDIA_TYPE: &str = "application/vnd.causeway.link";

/// The heartbeat's question, as it goes over the wire: a message of its own, as text where there is any.
pub const PING: &str = "ping";
/// Its answer.
pub const PONG: &str = "pong";

/// What goes one way: a frame, or one half of the heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A frame.
    Frame(Bytes),
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
}

impl Message {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        match self {
            Self::Frame(frame) => frame,
            Self::Ping => Bytes::from_static(PING.as_bytes()),
            Self::Pong => Bytes::from_static(PONG.as_bytes()),
        }
    }

    /// From bytes: no frame begins with the letters of the heartbeat.
    #[must_use]
    pub fn decode(bytes: Bytes) -> Self {
        match bytes.as_ref() {
            ping if ping == PING.as_bytes() => Self::Ping,
            pong if pong == PONG.as_bytes() => Self::Pong,
            _ => Self::Frame(bytes),
        }
    }

    /// As an event of the stream down.
    #[must_use]
    pub fn event(self) -> Bytes {
        format!("data:{}\n\n", STANDARD.encode(self.encode())).into()
    }

    /// From the data of an event.
    ///
    /// # Errors
    /// When it is no base64, or too much.
    pub fn from_event(data: &[u8]) -> Result<Self, Bye> {
        if data.len() > MAX_MESSAGE / 3 * 4 + 4 {
            return Err(Bye::new(ByeCode::TooLarge, format!("an event of {} bytes", data.len())));
        }
        let bytes = STANDARD.decode(data);
        bytes
            .map(|bytes| Self::decode(bytes.into()))
            .map_err(|_| Bye::new(ByeCode::Protocol, "an event whose data is not base64"))
    }
}

/// A batch as the body of a `POST`: each message behind four bytes of length.
pub fn encode(messages: impl IntoIterator<Item = Message>) -> Bytes {
    let mut body = BytesMut::new();
    for message in messages {
        let message = message.encode();
        body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        body.put_slice(&message);
    }
    body.freeze()
}

/// The messages of a batch.
///
/// # Errors
/// When the lengths do not add up, or it is too large.
pub fn decode(mut body: Bytes) -> Result<Vec<Message>, Bye> {
    if body.len() > MAX_BATCH {
        return Err(Bye::new(ByeCode::TooLarge, format!("a batch of more than {MAX_BATCH} bytes")));
    }
    let mut messages = Vec::new();
    while !body.is_empty() {
        let short = || Bye::new(ByeCode::Protocol, "a batch that ends within a message");
        let (length, _) = body.split_first_chunk::<4>().ok_or_else(short)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| short())?;
        if length > body.len() - 4 {
            return Err(short());
        }
        _ = body.split_to(4);
        messages.push(Message::decode(body.split_to(length)));
    }
    Ok(messages)
}

/// What waits to be posted, and is posted again until it has been taken.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: std::collections::VecDeque<(Option<u64>, Message)>,
    next: u64,
}

impl Outbox {
    /// Nothing waits; the next counted frame will have the number `next`.
    #[must_use]
    pub fn new(next: u64) -> Self {
        Self { waiting: std::collections::VecDeque::new(), next }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Has `message` wait; `count` is its number if it is counted.
    pub fn push(&mut self, count: Option<u64>, message: Message) {
        self.waiting.push_back((count, message));
    }

    /// The next batch: the number for [`FROM`], the body, and how many messages it has, for [`Self::taken`].
    #[must_use]
    pub fn batch(&self) -> (u64, Bytes, usize) {
        let mut size = 0;
        let fits = |(_, message): &&(Option<u64>, Message)| {
            size += 4 + match message {
                Message::Frame(frame) => frame.len(),
                Message::Ping | Message::Pong => 4,
            };
            size <= MAX_BATCH
        };
        let batch: Vec<_> = self.waiting.iter().take_while(fits).collect();
        let from = batch.iter().find_map(|(count, _)| *count).unwrap_or(self.next);
        (from, encode(batch.iter().map(|(_, message)| message.clone())), batch.len())
    }

    /// A batch of so many messages has been taken.
    pub fn taken(&mut self, messages: usize) {
        for (count, _) in self.waiting.drain(..messages.min(self.waiting.len())) {
            self.next = count.map_or(self.next, |count| count + 1);
        }
    }
}

/// Whether `message` is counted.
#[must_use]
pub fn is_counted(message: &Message) -> bool {
    matches!(message, Message::Frame(frame) if Frame::is_counted(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::StreamId;
    use proptest::prelude::*;

    #[test]
    fn a_batch_survives_the_wire() {
        let messages = vec![
            Message::Ping,
            Message::Frame(Frame::Ack(3).encode()),
            Message::Frame(Frame::End(StreamId(1)).encode()),
            Message::Pong,
        ];
        assert_eq!(decode(encode(messages.clone())).unwrap(), messages);
        for message in messages {
            let event = message.clone().event();
            let data = event.strip_prefix(b"data:").unwrap().strip_suffix(b"\n\n").unwrap();
            assert_eq!(Message::from_event(data), Ok(message));
        }
    }

    #[test]
    fn an_outbox_numbers_its_batches() {
        let mut outbox = Outbox::new(5);
        outbox.push(None, Message::Ping);
        assert_eq!(outbox.batch().0, 5);
        outbox.push(Some(5), Message::Frame(Frame::End(StreamId(1)).encode()));
        outbox.push(Some(6), Message::Frame(Frame::End(StreamId(2)).encode()));
        let (from, body, count) = outbox.batch();
        assert_eq!((from, decode(body).unwrap().len(), count), (5, 3, 3));
        outbox.taken(2);
        assert_eq!(outbox.batch().0, 6);
        outbox.taken(1);
        assert!(outbox.is_empty());
        assert_eq!(outbox.batch().0, 7);
    }

    proptest! {
        #[test]
        fn random_batches_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(messages) = decode(bytes.clone().into()) {
                prop_assert_eq!(encode(messages), bytes.clone());
            }
            _ = Message::from_event(&bytes);
        }
    }
}
