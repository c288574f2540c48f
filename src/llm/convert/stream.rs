//! Streamed answers: a provider's bytes in, events out; events in, the caller's bytes out.

use bytes::{Bytes, BytesMut};

use super::{Dialect, Front};
use crate::fault::Kind;
use crate::llm::bedrock::frames;
use crate::llm::chat::Event;
use crate::llm::refusal::Refusal;
use crate::llm::{anthropic, ask, bedrock, gemini, ollama, openai};
use crate::wire::sse;

/// How a stream is cut into messages.
#[derive(Debug)]
enum Cut {
    Events(sse::Decoder),
    Lines(Vec<u8>),
    Frames(frames::Decoder),
}

/// What the messages say.
#[derive(Debug)]
enum Say {
    OpenAi(openai::Reader),
    Anthropic(anthropic::Reader),
    Gemini(gemini::Reader),
    Bedrock(bedrock::Reader),
    Ollama(ollama::Reader),
}

/// Reads a streamed answer: any split of the same bytes gives the same events.
#[derive(Debug)]
pub struct Reader {
    provider: String,
    limit: usize,
    cut: Cut,
    say: Say,
    boundary: Option<usize>,
}

impl Reader {
    /// A reader of what `provider` says in `dialect`, in messages of at most `limit` bytes.
    #[must_use]
    pub fn new(provider: &str, dialect: Dialect, limit: usize) -> Self {
        let cut = match dialect {
            Dialect::OpenAi | Dialect::Anthropic | Dialect::Gemini => Cut::Events(sse::Decoder::new(limit)),
            Dialect::Bedrock => Cut::Frames(frames::Decoder::new(limit)),
            Dialect::Ollama => Cut::Lines(Vec::new()),
        };
        let say = match dialect {
            Dialect::OpenAi => Say::OpenAi(openai::Reader::new(provider)),
            Dialect::Anthropic => Say::Anthropic(anthropic::Reader::new(provider)),
            Dialect::Gemini => Say::Gemini(gemini::Reader::new(provider)),
            Dialect::Bedrock => Say::Bedrock(bedrock::Reader::new(provider)),
            Dialect::Ollama => Say::Ollama(ollama::Reader::new(provider)),
        };
        Self { provider: provider.to_owned(), limit, cut, say, boundary: None }
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match &self.say {
            Say::OpenAi(reader) => reader.is_over(),
            Say::Anthropic(reader) => reader.is_over(),
            Say::Gemini(reader) => reader.is_over(),
            Say::Bedrock(reader) => reader.is_over(),
            Say::Ollama(reader) => reader.is_over(),
        }
    }

    /// Whether the stream has said that it is over, where its dialect has a word for that. An answer may be whole before.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.say {
            Say::OpenAi(reader) => reader.has_ended(),
            Say::Anthropic(reader) => reader.has_ended(),
            Say::Gemini(_) | Say::Bedrock(_) | Say::Ollama(_) => self.is_over(),
        }
    }

    /// Up to where in the bytes pushed last no message is half-way; `None` if there is no such place. Of event
    /// streams only.
    #[must_use]
    pub fn boundary(&self) -> Option<usize> {
        self.boundary
    }

    /// Takes the next bytes and appends what they say.
    ///
    /// # Errors
    /// When they are no stream of the dialect. The reader is of no use after it.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Refusal> {
        match &mut self.cut {
            Cut::Events(decoder) => {
                let mut found = Vec::new();
                let done = decoder.push(bytes, &mut found);
                self.boundary = decoder.boundary();
                for event in found {
                    match &mut self.say {
                        Say::OpenAi(reader) => reader.push(&event.data, events),
                        Say::Anthropic(reader) => reader.push(&event.data, events),
                        Say::Gemini(reader) => reader.push(&event.data, events),
                        Say::Bedrock(_) | Say::Ollama(_) => {}
                    }
                }
                done.map_err(|_| too_large(&self.provider, self.limit))
            }
            Cut::Frames(decoder) => {
                let mut found = Vec::new();
                let done = decoder.push(bytes, &mut found);
                if let Say::Bedrock(reader) = &mut self.say {
                    found.iter().for_each(|frame| reader.push(frame, events));
                }
                done.map_err(|broken| match broken {
                    frames::Broken::TooLarge(limit) => too_large(&self.provider, limit),
                    frames::Broken::Damaged => {
                        let message = format!("provider {:?}: its event stream is damaged", self.provider);
                        Refusal::new(Kind::UpstreamInvalid, message)
                    }
                })
            }
            Cut::Lines(held) => {
                let Say::Ollama(reader) = &mut self.say else { return Ok(()) };
                let mut rest = bytes;
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let (line, behind) = rest.split_at(end);
                    rest = behind.get(1..).unwrap_or_default();
                    if held.len() + line.len() > self.limit {
                        return Err(too_large(&self.provider, self.limit));
                    }
                    held.extend_from_slice(line);
                    if !held.trim_ascii().is_empty() {
                        reader.push(held, events);
                    }
                    held.clear();
                }
                if held.len() + rest.len() > self.limit {
                    return Err(too_large(&self.provider, self.limit));
                }
                held.extend_from_slice(rest);
                Ok(())
            }
        }
    }

    /// The bytes have ended: what is left of them may be a message without its end.
    pub fn end(&mut self, events: &mut Vec<Event>) {
        if let (Cut::Lines(held), Say::Ollama(reader)) = (&mut self.cut, &mut self.say)
            && !held.trim_ascii().is_empty()
        {
            let line = std::mem::take(held);
            // A line that is cut is no JSON, and the answer is not whole without it.
            if serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok() {
                reader.push(&line, events);
            }
        }
    }
}

fn too_large(provider: &str, limit: usize) -> Refusal {
    let message =
        format!("provider {provider:?}: a piece of its answer is larger than {limit} bytes (max_response)");
    Refusal::new(Kind::UpstreamTooLarge, message)
}

/// Writes a streamed answer in the caller's dialect.
#[derive(Debug)]
pub enum Writer {
    /// OpenAI's.
    OpenAi(Box<openai::Writer>),
    /// Anthropic's.
    Anthropic(Box<anthropic::Writer>),
    /// The gateway's own.
    Ask(Box<ask::Writer>),
}

impl Writer {
    /// A writer that uses `id` and `model` where the provider gives none; `created` is in seconds.
    #[must_use]
    pub fn new(front: Front, id: String, model: String, created: u64, wants_usage: bool) -> Self {
        match front {
            Front::OpenAi => Self::OpenAi(openai::Writer::new(id, model, created, wants_usage).into()),
            Front::Anthropic => Self::Anthropic(anthropic::Writer::new(id, model).into()),
            // Servers are answered whole.
            Front::Ask | Front::Sampling => Self::Ask(ask::Writer::new(id, model).into()),
        }
    }

    /// Writes what `event` says.
    pub fn push(&mut self, event: Event, out: &mut BytesMut) {
        match self {
            Self::OpenAi(writer) => writer.push(event, out),
            Self::Anthropic(writer) => writer.push(event, out),
            Self::Ask(writer) => writer.push(event, out),
        }
    }

    /// Writes the end of an answer that is whole.
    pub fn end(&mut self, out: &mut BytesMut) {
        match self {
            Self::OpenAi(writer) => writer.end(out),
            Self::Anthropic(writer) => writer.end(out),
            Self::Ask(writer) => writer.end(out),
        }
    }
}

impl Front {
    /// What says that a stream is over.
    pub fn end(self, out: &mut BytesMut) {
        out.extend_from_slice(match self {
            Self::OpenAi => b"data: [DONE]\n\n".as_slice(),
            Self::Anthropic => b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            Self::Ask | Self::Sampling => b"",
        });
    }

    /// An error as it stands in a stream.
    pub fn fail(self, error: &Bytes, out: &mut BytesMut) {
        match self {
            Self::OpenAi => openai::failure(error, out),
            Self::Anthropic | Self::Ask | Self::Sampling => anthropic::failure(error, out),
        }
    }
}
