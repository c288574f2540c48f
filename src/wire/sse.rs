//! Server-sent events, decoded and encoded.
//!
//! The decoder takes bytes in any split and gives the same events; it holds at most one event, bounded in size.
//! It **never** interprets the data. Source: WHATWG HTML, "9.2.6 Interpreting an event stream".
//!
//! ```
//! use causeway::wire::sse::Decoder;
//! let mut decoder = Decoder::new(1024);
//! let mut events = Vec::new();
//! decoder.push(b"id: 7\nda", &mut events).unwrap();
//! decoder.push(b"ta: {}\r\n\r\n", &mut events).unwrap();
//! assert_eq!(events[0].id.as_deref(), Some("7"));
//! assert_eq!(&events[0].data[..], b"{}");
//! ```

use bytes::{BufMut, Bytes, BytesMut};

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event` field; empty means `message`.
    pub event: String,
    /// The `data` lines joined with line feeds.
    pub data: Bytes,
    /// The `id` field of this very event.
    pub id: Option<String>,
    /// The `retry` field, in milliseconds.
    pub retry: Option<u64>,
}

/// An event that is larger than allowed. The decoder is of no use after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {0} bytes")]
pub struct TooLarge(pub usize);

/// Turns bytes into events.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    boundary: Option<usize>,
    line: Vec<u8>,
    after_cr: bool,
    started: bool,
    event: String,
    data: BytesMut,
    has_data: bool,
    id: Option<String>,
    retry: Option<u64>,
}

impl Decoder {
    /// A decoder for events of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            boundary: None,
            line: Vec::new(),
            after_cr: false,
            started: false,
            event: String::new(),
            data: BytesMut::new(),
            has_data: false,
            id: None,
            retry: None,
        }
    }

    /// Takes the next bytes and appends the events that they complete.
    ///
    /// # Errors
    /// [`TooLarge`] when an event outgrows the limit.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLarge> {
        let length = bytes.len();
        self.boundary = None;
        while let Some(&first) = bytes.first() {
            if self.after_cr {
                self.after_cr = false;
                if first == b'\n' {
                    bytes = bytes.get(1..).unwrap_or_default();
                    if self.idle() {
                        self.boundary = Some(length - bytes.len());
                    }
                    continue;
                }
            }
            let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                self.keep(bytes)?;
                return Ok(());
            };
            let (line, rest) = bytes.split_at(end);
            self.after_cr = rest.first() == Some(&b'\r');
            bytes = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                self.line(line, events)?;
            } else {
                self.keep(line)?;
                let whole = std::mem::take(&mut self.line);
                self.line(&whole, events)?;
                self.line = whole;
                self.line.clear();
            }
            if self.idle() {
                self.boundary = Some(length - bytes.len());
            }
        }
        Ok(())
    }

    /// Up to where in the bytes pushed last no event is half-way: what stands before can be passed on as whole
    /// events and comments. `None` if there is no such place.
    #[must_use]
    pub fn boundary(&self) -> Option<usize> {
        self.boundary
    }

    /// Whether nothing of an event is pending.
    fn idle(&self) -> bool {
        self.line.is_empty()
            && !self.has_data
            && self.event.is_empty()
            && self.id.is_none()
            && self.retry.is_none()
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), TooLarge> {
        if self.line.len() + self.data.len() + part.len() > self.limit {
            return Err(TooLarge(self.limit));
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, mut line: &[u8], events: &mut Vec<Event>) -> Result<(), TooLarge> {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
            return Ok(());
        }
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(0) => return Ok(()),
            Some(colon) => {
                let (field, value) = line.split_at(colon);
                let value = value.get(1..).unwrap_or_default();
                (field, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => {
                if self.data.len() + value.len() + 1 > self.limit {
                    return Err(TooLarge(self.limit));
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.put_u8(b'\n');
                }
                self.data.put_slice(value);
            }
            b"event" => self.event = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            }
            _ => {}
        }
        Ok(())
    }

    /// A blank line: what has come so far is an event, if it says anything. An event without data is not
    /// dispatched by browsers; ids and retry times matter to MCP all the same, so it is given when it has one.
    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let event = Event {
            event: std::mem::take(&mut self.event),
            data: std::mem::take(&mut self.data).freeze(),
            id: self.id.take(),
            retry: self.retry.take(),
        };
        if std::mem::take(&mut self.has_data) || event.id.is_some() || event.retry.is_some() {
            events.push(event);
        }
    }
}

impl Event {
    /// A plain message with `data` and nothing else.
    #[must_use]
    pub fn message(data: Bytes) -> Self {
        Self { data, ..Self::default() }
    }

    /// The event as it goes over the wire, blank line included.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.data.len() + 64);
        if !self.event.is_empty() {
            put_field(&mut out, "event", self.event.as_bytes());
        }
        if let Some(id) = &self.id {
            put_field(&mut out, "id", id.as_bytes());
        }
        if let Some(retry) = self.retry {
            put_field(&mut out, "retry", retry.to_string().as_bytes());
        }
        for line in self.data.split(|b| *b == b'\n') {
            put_field(&mut out, "data", line);
        }
        out.put_u8(b'\n');
        out.freeze()
    }
}

fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    // A carriage return would end the line; JSON never holds a bare one, so nothing is lost.
    out.extend(value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')));
    out.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Vec<Event> {
        let (mut decoder, mut events) = (Decoder::new(1 << 16), Vec::new());
        for chunk in chunks {
            decoder.push(chunk, &mut events).unwrap();
        }
        events
    }

    fn check(input: &str, expect: &[(&str, &str, Option<&str>)]) {
        let events = decode(&[input.as_bytes()]);
        let got: Vec<_> = events
            .iter()
            .map(|e| (e.event.as_str(), std::str::from_utf8(&e.data).unwrap(), e.id.as_deref()))
            .collect();
        assert_eq!(got, expect, "{input:?}");
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        check("data: a\n\n", &[("", "a", None)]);
        check("\u{feff}data:a\r\rdata: b\r\n\r\n", &[("", "a", None), ("", "b", None)]);
        check("data: a\ndata: b\n\n", &[("", "a\nb", None)]);
        check("data\n\n", &[("", "", None)]);
        check(": comment\n\n", &[]);
        check("event: ping\n\n", &[]);
        check("id: 3\ndata:\n\n", &[("", "", Some("3"))]);
        check("event: message\nid: 1\ndata:  x\n\n", &[("message", " x", Some("1"))]);
        check("data: never finished", &[]);
        check("unknown: x\ndata: y\n\n", &[("", "y", None)]);
    }

    #[test]
    fn boundaries_lie_between_events() {
        let boundary = |chunks: &[&str]| {
            let (mut decoder, mut events) = (Decoder::new(1024), Vec::new());
            chunks.iter().for_each(|chunk| decoder.push(chunk.as_bytes(), &mut events).unwrap());
            decoder.boundary()
        };
        assert_eq!(boundary(&["data: a\n\n"]), Some(9));
        assert_eq!(boundary(&["data: a\n\ndata: b"]), Some(9));
        assert_eq!(boundary(&["data: a\n"]), None);
        assert_eq!(boundary(&["data: a\r\n\r\n"]), Some(11));
        assert_eq!(boundary(&["data: a\r\n\r", "\ndata: b"]), Some(1));
        assert_eq!(boundary(&[": comment\n"]), Some(10));
        assert_eq!(boundary(&["data: a\n: comment\n"]), None);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let (mut decoder, mut events) = (Decoder::new(64), Vec::new());
        assert_eq!(decoder.push(&[b'x'; 100], &mut events), Err(TooLarge(64)));
        let mut decoder = Decoder::new(64);
        let result = (0..100).try_for_each(|_| decoder.push(b"data: 0123456789\n", &mut events));
        assert_eq!(result, Err(TooLarge(64)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            input in prop::collection::vec(prop::sample::select(b"\r\n: data:id:7x\xEF\xBB\xBF".to_vec()), 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(input.len() + 1)).collect();
            at.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in at {
                chunks.push(&input[from..cut]);
                from = cut;
            }
            chunks.push(&input[from..]);
            prop_assert_eq!(decode(&chunks), decode(&[&input]));
        }

        #[test]
        fn what_is_encoded_decodes_to_itself(data in "[ -~\n]{0,80}", id in prop::option::of("[a-z0-9]{1,9}"), retry in prop::option::of(0u64..99999)) {
            let event = Event { event: String::new(), data: Bytes::from(data), id, retry };
            prop_assert_eq!(decode(&[&event.encode()]), vec![event]);
        }

        #[test]
        fn no_input_panics_or_outgrows_the_limit(input in prop::collection::vec(any::<u8>(), 0..400)) {
            let (mut decoder, mut events) = (Decoder::new(32), Vec::new());
            let _ = decoder.push(&input, &mut events);
            prop_assert!(decoder.line.len() + decoder.data.len() <= 64);
            prop_assert!(events.iter().all(|e| e.data.len() <= 32));
        }
    }
}
