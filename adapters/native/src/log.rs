//! Log records to stderr, one line of JSON each.
//!
//! Writing a record copies it into a buffer and returns; a thread empties the buffer a few milliseconds later
//! with one write. A request **never** waits for a terminal, a pipe or a disk. When whoever reads stderr falls a
//! megabyte behind, records are dropped and counted, and the count is logged.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway::platform;

/// How long records are gathered before they are written: short to a person, long to a processor.
const GATHER: Duration = Duration::from_millis(10);
/// How much may wait to be written.
const MAX_WAITING: usize = 1 << 20;

/// Which records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Level {
    /// None.
    Off,
    /// What the gateway or its host did wrong.
    Error,
    /// And what others did wrong.
    Warn,
    /// Everything, one record per request included.
    Info,
}

/// The log. Clones write to the same place.
#[derive(Clone)]
pub struct Log {
    level: Level,
    shared: Arc<Shared>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    something: Condvar,
    /// Held while writing, so that [`Log::flush`] returns only when all is out.
    sink: Mutex<Box<dyn Write + Send>>,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    dropped: u64,
}

impl Log {
    /// A log on stderr.
    #[must_use]
    pub fn stderr(level: Level) -> Self {
        Self::to(level, Box::new(std::io::stderr()))
    }

    /// A log on `sink`.
    #[must_use]
    pub fn to(level: Level, sink: Box<dyn Write + Send>) -> Self {
        let shared =
            Arc::new(Shared { waiting: Mutex::default(), something: Condvar::new(), sink: Mutex::new(sink) });
        if level > Level::Off {
            // The thread ends when the last log is gone.
            let weak = Arc::downgrade(&shared);
            let work = move || {
                while let Some(shared) = weak.upgrade() {
                    let waiting = locked(&shared.waiting);
                    let patience = Duration::from_secs(1);
                    let empty = |waiting: &mut Waiting| waiting.lines.is_empty();
                    let woken = shared.something.wait_timeout_while(waiting, patience, empty);
                    if woken.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
                        continue;
                    }
                    std::thread::sleep(GATHER);
                    shared.flush();
                }
            };
            let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(128 * 1024);
            // Without the thread, records still come out when the process flushes.
            _ = thread.spawn(work);
        }
        Self { level, shared }
    }

    /// Which records are written.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Writes out what waits. For the end of the process, and for records that somebody watches for.
    pub fn flush(&self) {
        self.shared.flush();
    }

    /// Writes a record of the host's own, `{"level":…,"event":…,"message":…}`.
    pub fn event(&self, level: Level, event: &str, message: &str) {
        if level <= self.level {
            let name = match level {
                Level::Off | Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
            };
            let ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let record = serde_json::json!({
                "ts": u64::try_from(ms.as_millis()).unwrap_or(u64::MAX),
                "level": name,
                "event": event,
                "message": message,
            });
            self.shared.push(&record.to_string());
        }
    }
}

impl platform::Log for Log {
    fn write(&self, line: &str) {
        let wanted = match self.level {
            Level::Off => false,
            // A quotation mark inside of a value is escaped, so no caller can write this.
            Level::Error => line.contains(r#""level":"error""#),
            Level::Warn => !line.contains(r#""level":"info""#),
            Level::Info => true,
        };
        if wanted {
            self.shared.push(line);
        }
    }
}

impl Shared {
    fn push(&self, line: &str) {
        let mut waiting = locked(&self.waiting);
        if waiting.lines.len() + line.len() >= MAX_WAITING {
            waiting.dropped += 1;
            return;
        }
        let was_empty = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line.as_bytes());
        waiting.lines.push(b'\n');
        drop(waiting);
        if was_empty {
            self.something.notify_one();
        }
    }

    fn flush(&self) {
        let mut sink = locked(&self.sink);
        let Waiting { mut lines, dropped } = std::mem::take(&mut *locked(&self.waiting));
        if dropped > 0 {
            let record = serde_json::json!({ "level": "error", "event": "log.dropped", "records": dropped });
            lines.extend_from_slice(record.to_string().as_bytes());
            lines.push(b'\n');
        }
        // There is nowhere to say that stderr is closed.
        _ = sink.write_all(&lines).and_then(|()| sink.flush());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("level", &self.level).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use causeway::platform::Log as _;

    /// Keeps what is written to it; clones share it.
    #[derive(Clone, Default)]
    pub(crate) struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        pub(crate) fn text(&self) -> String {
            String::from_utf8_lossy(&locked(&self.0)).into_owned()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            locked(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn check(level: Level, lines: &[&str], expect: &str) {
        let sink = Sink::default();
        let log = Log::to(level, Box::new(sink.clone()));
        lines.iter().for_each(|line| log.write(line));
        log.flush();
        assert_eq!(sink.text(), expect);
    }

    #[test]
    fn level_chooses_the_records() {
        let lines = [r#"{"level":"info"}"#, r#"{"level":"warn"}"#, r#"{"level":"error"}"#];
        let info = "{\"level\":\"info\"}\n{\"level\":\"warn\"}\n{\"level\":\"error\"}\n";
        check(Level::Info, &lines, info);
        check(Level::Warn, &lines, "{\"level\":\"warn\"}\n{\"level\":\"error\"}\n");
        check(Level::Error, &lines, "{\"level\":\"error\"}\n");
        check(Level::Off, &lines, "");
    }

    #[test]
    fn thread_writes_without_being_asked() {
        let sink = Sink::default();
        let log = Log::to(Level::Info, Box::new(sink.clone()));
        log.write("{}");
        for _ in 0..500 {
            if !locked(&sink.0).is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        unreachable!("nothing was written in a second");
    }

    #[test]
    fn slow_reader_costs_records_not_memory() {
        let sink = Sink::default();
        let log = Log::to(Level::Info, Box::new(sink.clone()));
        let held = locked(&log.shared.sink);
        let line = "x".repeat(64 * 1024);
        (0..100).for_each(|_| log.write(&line));
        drop(held);
        log.flush();
        std::thread::sleep(GATHER * 3);
        log.flush();
        let text = String::from_utf8_lossy(&locked(&sink.0)).into_owned();
        assert!(text.len() < 3 * MAX_WAITING && text.contains("log.dropped"), "{}", text.len());
    }
}
