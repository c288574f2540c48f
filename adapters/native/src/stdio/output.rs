//! Standard output: one message a line, whole, from wherever it comes.
//!
//! All messages pass through one channel to one thread, so that lines of several streams **never** mix. A client
//! that does not read fills the channel; then the streams wait, and with them the gateway.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

/// How many messages may wait for the client.
const WAITING: usize = 64;
/// Messages that wait are written together, up to this many bytes.
const TOGETHER: usize = 64 * 1024;

enum Item {
    Line(Bytes),
    /// Everything before this is out.
    Mark(oneshot::Sender<()>),
}

/// Where messages for the client go.
#[derive(Clone)]
pub(super) struct Output {
    items: mpsc::Sender<Item>,
    broken: watch::Receiver<bool>,
}

impl Output {
    /// Writes to `sink` on a thread of its own, which may have to wait for whoever reads.
    pub(super) fn to(sink: impl Write + Send + 'static) -> Self {
        let (items, received) = mpsc::channel(WAITING);
        let (broke, broken) = watch::channel(false);
        let work = move || {
            if pour(sink, received).is_err() {
                _ = broke.send(true);
            }
        };
        // Without the thread the channel is closed, and so is the output.
        _ = std::thread::Builder::new().name("stdout".to_owned()).stack_size(128 * 1024).spawn(work);
        Self { items, broken }
    }

    /// Writes `message`, which must be JSON. When nobody reads any more it is lost, and [`Self::broken`] tells.
    pub(super) async fn line(&self, message: Bytes) {
        _ = self.items.send(Item::Line(one_line(message))).await;
    }

    /// Resolves when the output is closed: nobody reads it any more.
    pub(super) async fn broken(&self) {
        let mut broken = self.broken.clone();
        // The sender is dropped without a word when the thread could not be started, and at the end.
        _ = broken.wait_for(|broken| *broken).await;
    }

    /// Waits until everything is written, but no longer than `patience`.
    pub(super) async fn finish(&self, patience: Duration) {
        let (mark, reached) = oneshot::channel();
        let written = async {
            if self.items.send(Item::Mark(mark)).await.is_ok() {
                _ = reached.await;
            }
        };
        _ = tokio::time::timeout(patience, written).await;
    }
}

fn pour(mut sink: impl Write, mut items: mpsc::Receiver<Item>) -> std::io::Result<()> {
    let mut waiting = Vec::new();
    let mut marks = Vec::new();
    while let Some(first) = items.blocking_recv() {
        let mut next = Some(first);
        while let Some(item) = next.take() {
            match item {
                Item::Line(line) => {
                    waiting.extend_from_slice(&line);
                    waiting.push(b'\n');
                }
                Item::Mark(mark) => marks.push(mark),
            }
            if waiting.len() < TOGETHER {
                next = items.try_recv().ok();
            }
        }
        sink.write_all(&waiting)?;
        sink.flush()?;
        waiting.clear();
        waiting.shrink_to(TOGETHER);
        marks.drain(..).for_each(|mark| _ = mark.send(()));
    }
    Ok(())
}

/// `json` without line breaks. In JSON they stand between tokens only: inside of strings they are escaped.
fn one_line(json: Bytes) -> Bytes {
    let breaks = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !json.iter().any(breaks) {
        return json;
    }
    json.trim_ascii().iter().map(|byte| if breaks(byte) { b' ' } else { *byte }).collect::<Vec<_>>().into()
}

/// `bytes` as text for a person: one line, without terminal sequences.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        return text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().into();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::Sink;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_message_is_one_line_however_it_was_written() {
        let sink = Sink::default();
        let output = Output::to(sink.clone());
        output.line(Bytes::from_static(b"{\"a\":1}")).await;
        output.line(Bytes::from_static(b"{\r\n  \"a\": \"\\n\"\n}\n")).await;
        output.finish(Duration::from_secs(5)).await;
        assert_eq!(sink.text(), "{\"a\":1}\n{    \"a\": \"\\n\" }\n");
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_is_noticed() {
        let output = Output::to(Closed);
        output.line(Bytes::from_static(b"{}")).await;
        tokio::time::timeout(Duration::from_secs(5), output.broken()).await.unwrap();
        // Neither is anybody held up by it.
        for _ in 0..2 * WAITING {
            output.line(Bytes::from_static(b"{}")).await;
        }
        output.finish(Duration::from_secs(5)).await;
    }
}
