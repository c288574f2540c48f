//! The binary event stream of AWS (`application/vnd.amazon.eventstream`), decoded.
//!
//! A frame is: its whole length, the length of its headers, a checksum of the two, headers, payload, a checksum of
//! all. The decoder takes bytes in any split and holds at most one frame, bounded in size. Source: smithy.io, "Event
//! stream specification" and the SDKs of AWS.

use bytes::{Buf as _, Bytes, BytesMut};

/// Length, length of headers, checksum; and the checksum at the end.
const PRELUDE: usize = 12;
const LEAST: usize = PRELUDE + 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// `:message-type`: `event`, `exception` or `error`.
    pub message_type: String,
    /// `:event-type`, `:exception-type` or `:error-code`.
    pub name: String,
    /// The payload, mostly JSON.
    pub payload: Bytes,
}

/// What is wrong with a frame. The decoder is of no use after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Larger than allowed.
    #[error("a frame is larger than {0} bytes")]
    TooLarge(usize),
    /// Lengths that cannot be, or a checksum that is wrong.
    #[error("a frame is damaged")]
    Damaged,
}

/// Turns bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    held: BytesMut,
}

impl Decoder {
    /// A decoder for frames of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, held: BytesMut::new() }
    }

    /// Whether nothing of a frame is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes the next bytes and appends the frames that they complete.
    ///
    /// # Errors
    /// [`Broken`]
    pub fn push(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), Broken> {
        self.held.extend_from_slice(bytes);
        while let Some(prelude) = self.held.first_chunk::<PRELUDE>() {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *prelude;
            let total = u32::from_be_bytes([a, b, c, d]) as usize;
            let headers = u32::from_be_bytes([e, f, g, h]) as usize;
            if crc32(prelude.get(..8).unwrap_or_default()) != u32::from_be_bytes([i, j, k, l]) {
                return Err(Broken::Damaged);
            }
            if total > self.limit {
                return Err(Broken::TooLarge(self.limit));
            }
            if total < LEAST || headers > total - LEAST {
                return Err(Broken::Damaged);
            }
            if self.held.len() < total {
                return Ok(());
            }
            let mut frame = self.held.split_to(total).freeze();
            let checked = frame.slice(..total - 4);
            let sum = frame.slice(total - 4..).get_u32();
            if crc32(&checked) != sum {
                return Err(Broken::Damaged);
            }
            frame.truncate(total - 4);
            frame.advance(PRELUDE);
            let head = frame.split_to(headers);
            frames.push(read(head, frame).ok_or(Broken::Damaged)?);
        }
        Ok(())
    }
}

fn read(mut head: Bytes, payload: Bytes) -> Option<Frame> {
    let mut frame = Frame { payload, ..Frame::default() };
    while head.has_remaining() {
        let length = usize::from(head.get_u8());
        let name = take(&mut head, length)?;
        let kind = take(&mut head, 1)?.get_u8();
        let length = match kind {
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            5 | 8 => 8,
            6 | 7 => usize::from(take(&mut head, 2)?.get_u16()),
            9 => 16,
            _ => return None,
        };
        let value = take(&mut head, length)?;
        let text = || String::from_utf8_lossy(&value).into_owned();
        match &name[..] {
            b":message-type" => frame.message_type = text(),
            b":event-type" | b":exception-type" | b":error-code" => frame.name = text(),
            _ => {}
        }
    }
    Some(frame)
}

fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (from.len() >= length).then(|| from.split_to(length))
}

/// The checksum of Ethernet, gzip and PNG.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "less than 256")]
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            #[expect(clippy::indexing_slicing, reason = "a constant: it would not compile")]
            {
                table[i] = value;
            }
            i += 1;
        }
        table
    };
    let step = |sum: u32, byte: &u8| {
        let [low, ..] = sum.to_le_bytes();
        TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default() ^ (sum >> 8)
    };
    !bytes.iter().fold(!0, step)
}

/// A frame as it goes over the wire, for tests and scripted providers.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn encode(message_type: &str, name: &str, payload: &[u8]) -> Vec<u8> {
    let named = match message_type {
        "event" => ":event-type",
        "exception" => ":exception-type",
        _ => ":error-code",
    };
    let mut head = Vec::new();
    for (key, value) in
        [(":message-type", message_type), (named, name), (":content-type", "application/json")]
    {
        head.push(u8::try_from(key.len()).unwrap_or_default());
        head.extend_from_slice(key.as_bytes());
        head.push(7);
        head.extend_from_slice(&u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let length = |length: usize| u32::try_from(length).unwrap_or_default().to_be_bytes();
    let mut frame = Vec::new();
    frame.extend_from_slice(&length(LEAST + head.len() + payload.len()));
    frame.extend_from_slice(&length(head.len()));
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame.extend_from_slice(&head);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Result<Vec<Frame>, Broken> {
        let (mut decoder, mut frames) = (Decoder::new(1 << 16), Vec::new());
        for chunk in chunks {
            decoder.push(chunk, &mut frames)?;
        }
        Ok(frames)
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn frames_are_read_back() {
        let bytes =
            [encode("event", "messageStart", b"{}"), encode("exception", "throttlingException", b"x")];
        let frames = decode(&[&bytes.concat()]).unwrap();
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].message_type.as_str(), frames[0].name.as_str()), ("event", "messageStart"));
        assert_eq!((frames[1].message_type.as_str(), &frames[1].payload[..]), ("exception", &b"x"[..]));
    }

    #[test]
    fn damaged_and_oversized_frames_are_refused() {
        let good = encode("event", "contentBlockDelta", b"{\"a\":1}");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&[&bad]).is_err(), "byte {at}");
        }
        let (mut decoder, mut frames) = (Decoder::new(20), Vec::new());
        assert_eq!(decoder.push(&good, &mut frames), Err(Broken::TooLarge(20)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| encode("event", "x", payload)).collect();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in at {
                chunks.push(&bytes[from..cut]);
                from = cut;
            }
            chunks.push(&bytes[from..]);
            let frames = decode(&chunks).unwrap();
            prop_assert_eq!(frames.len(), payloads.len());
            prop_assert!(frames.iter().zip(&payloads).all(|(frame, payload)| frame.payload == payload[..]));
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), head in any::<[u8; 8]>()) {
            let _ = decode(&[&bytes]);
            // The same behind a prelude whose checksum is right.
            let with = [&head[..], &crc32(&head).to_be_bytes(), &bytes].concat();
            let _ = decode(&[&with]);
        }
    }
}
