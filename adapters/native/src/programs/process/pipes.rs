//! What goes through the pipes of a process: lines in, lines out, and what it logs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::ChildStdin;
use tokio::sync::{mpsc, oneshot};

use super::Process;
use crate::log::Level;
use crate::stdio::lines::{Line, Lines};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// How many bytes that are of no use a program may print in one second; then it has to wait.
const JUNK: usize = 1024 * 1024;
/// A line may be so many times as long as allowed, or this long, before its program is ended: it may be one that never ends,
/// and nobody hears what comes behind it.
const ENDLESS: (usize, usize) = (4, 32 * 1024 * 1024);
/// How lines of its keeper begin. A program may write such lines as well, of itself.
const KEPT: &str = "causeway: ";
/// How long a line of the log that a program writes may be.
const LOGGED: usize = 16 * 1024;

/// Writes lines to a program until there are no more, or it takes no more.
pub(super) async fn write(
    mut stdin: ChildStdin,
    mut lines: mpsc::UnboundedReceiver<Bytes>,
    unread: Arc<AtomicUsize>,
) {
    while let Some(line) = lines.recv().await {
        let done = stdin.write_all(&line).await;
        unread.fetch_sub(line.len(), Ordering::Relaxed);
        if done.is_err() || stdin.flush().await.is_err() {
            // It has closed its input, or ended; its end says so.
            return;
        }
    }
}

/// Logs what a program writes to its standard error.
pub(super) async fn log(process: Arc<Process>, stderr: impl AsyncRead + Unpin) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut part = (&mut reader).take(LOGGED as u64);
        match part.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                if let Some(said) = text.strip_prefix(KEPT) {
                    process.voice.say(Level::Warn, "program.kept", said.trim_end());
                    let mut kept = process.kept.lock().unwrap_or_else(PoisonError::into_inner);
                    *kept = Some(said.trim_end().chars().take(500).collect());
                } else if !text.trim().is_empty() {
                    process.voice.say(Level::Info, "program.stderr", text.trim_end());
                }
            }
        }
    }
}

/// Reads what a program says, until it says no more.
pub(super) async fn read(
    process: Arc<Process>,
    mut stdout: impl AsyncRead + Unpin,
    most: usize,
    drained: oneshot::Sender<()>,
) {
    let mut lines = Lines::new(most);
    let mut chunk = vec![0; CHUNK];
    let (mut second, mut junk) = (Instant::now(), 0);
    let take = |line: Line| match line {
        Line::Whole(text) => {
            let size = text.len();
            if process.heard(text.trim_ascii()) { 0 } else { size }
        }
        Line::TooLong(found) => {
            process.too_long(found.id.as_deref().filter(|_| !found.has_method));
            most
        }
    };
    loop {
        let count = match stdout.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        lines.push(chunk.get(..count).unwrap_or_default(), |line| {
            junk += take(line);
            true
        });
        if lines.overlong().is_some_and(|size| size > most.saturating_mul(ENDLESS.0).max(ENDLESS.1)) {
            process.stop("it prints a line that does not end");
            break;
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, junk) = (Instant::now(), 0);
        } else if junk > JUNK {
            // It is read no faster than it makes sense.
            tokio::time::sleep(Duration::from_secs(1).saturating_sub(second.elapsed())).await;
        }
    }
    if let Some(line) = lines.complete() {
        take(line);
    }
    _ = drained.send(());
}
