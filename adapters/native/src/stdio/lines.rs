//! Standard input, line by line: each line is a message, and none is longer than allowed.

use std::io::Read;

use tokio::sync::mpsc;

use super::skim::{Skim, Skimmed};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// How many lines may wait to be looked at; then the client has to.
const WAITING: usize = 8;

/// What came in.
#[derive(Debug)]
pub(crate) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// A line that was longer than allowed, and what could be seen of it.
    TooLong(Skimmed),
}

/// Turns bytes into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    most: usize,
    begun: Vec<u8>,
    skipping: Option<(Skim, usize)>,
}

impl Lines {
    /// Lines of at most `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, begun: Vec::new(), skipping: None }
    }

    /// Takes the next bytes and hands out the lines that they complete, for as long as they are wanted.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(Line) -> bool) -> bool {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (part, rest) = bytes.split_at(end);
            self.keep(part);
            bytes = rest.get(1..).unwrap_or_default();
            if self.complete().is_some_and(|line| !take(line)) {
                return false;
            }
        }
        self.keep(bytes);
        true
    }

    /// What is left when nothing more comes: a last line without an end is a line.
    pub(crate) fn complete(&mut self) -> Option<Line> {
        if let Some((skim, _)) = self.skipping.take() {
            return Some(Line::TooLong(skim.finish()));
        }
        let line = std::mem::take(&mut self.begun);
        (!line.trim_ascii().is_empty()).then_some(Line::Whole(line))
    }

    /// The size so far of a line that is longer than allowed and has not ended yet.
    pub(crate) fn overlong(&self) -> Option<usize> {
        self.skipping.as_ref().map(|(_, size)| *size)
    }

    fn keep(&mut self, part: &[u8]) {
        if let Some((skim, size)) = &mut self.skipping {
            skim.push(part);
            *size += part.len();
        } else if self.begun.len() + part.len() > self.most {
            let (mut skim, size) = (Skim::new(), self.begun.len() + part.len());
            skim.push(&std::mem::take(&mut self.begun));
            skim.push(part);
            self.skipping = Some((skim, size));
        } else {
            self.begun.extend_from_slice(part);
        }
    }
}

/// Reads `source` on a thread of its own: what a client has opened as standard input may be anything, and of most
/// things there is no reading without waiting. The thread ends with the process; the channel, with the input.
pub(crate) fn read(mut source: impl Read + Send + 'static, most: usize) -> mpsc::Receiver<Line> {
    let (lines, received) = mpsc::channel(WAITING);
    let work = move || {
        let mut splitter = Lines::new(most);
        let mut chunk = vec![0; CHUNK];
        loop {
            match source.read(&mut chunk) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // An input that cannot be read has ended.
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let read = chunk.get(..count).unwrap_or_default();
                    if !splitter.push(read, |line| lines.blocking_send(line).is_ok()) {
                        return;
                    }
                }
            }
        }
        if let Some(line) = splitter.complete() {
            _ = lines.blocking_send(line);
        }
    };
    // Without the thread nothing can be read: the channel is closed, as if the input had ended.
    _ = std::thread::Builder::new().name("stdin".to_owned()).stack_size(128 * 1024).spawn(work);
    received
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expect: &[&str]) {
        for size in [1, 3, input.len().max(1)] {
            let (mut lines, mut got) = (Lines::new(8), Vec::new());
            let mut take = |line| {
                got.push(match line {
                    Line::Whole(line) => String::from_utf8(line).unwrap(),
                    Line::TooLong(found) => format!("too long {:?}", found.id.map(|id| id.to_string())),
                });
                true
            };
            for piece in input.as_bytes().chunks(size) {
                lines.push(piece, &mut take);
            }
            lines.complete().map(&mut take);
            assert_eq!(got, expect, "{input:?} by {size}");
        }
    }

    #[test]
    fn lines_end_where_they_end() {
        check("a\nbb\n", &["a", "bb"]);
        check("a\r\n\n  \nb", &["a\r", "b"]);
        check("12345678\n", &["12345678"]);
        check("", &[]);
    }

    #[test]
    fn a_line_too_long_costs_only_itself() {
        check("a\n{\"id\":77,\"x\":1}\nb\n", &["a", "too long Some(\"77\")", "b"]);
        check("123456789", &["too long None"]);
    }

    #[test]
    fn a_line_that_does_not_end_is_measured() {
        let mut lines = Lines::new(8);
        for (part, size) in [("a\nb", None), ("12345678", Some(9)), ("90", Some(11)), ("\nc", None)] {
            lines.push(part.as_bytes(), |_| true);
            assert_eq!(lines.overlong(), size, "{part:?}");
        }
    }

    #[test]
    fn nobody_who_wants_no_more_is_given_more() {
        let mut lines = Lines::new(8);
        let mut count = 0;
        let went_on = lines.push(b"a\nb\nc\n", |_| {
            count += 1;
            count < 2
        });
        assert!(!went_on && count == 2);
    }
}
