//! What is logged about a program: with its name, one line each, and never more than can be read.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::log::{Level, Log};

/// How many records a program may cause in one [`WINDOW`].
const MOST: u32 = 50;
/// The span over which records are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// How much of a line is shown.
const SHOWN: usize = 500;
/// A variable's value that is shorter than this is no secret.
const SECRET: usize = 8;

/// Speaks of one program in the log.
#[derive(Debug)]
pub(super) struct Voice {
    log: Log,
    name: String,
    /// Values that are shown as `***`: what the configuration puts into the program's environment.
    secrets: Vec<String>,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    said: u32,
    left_out: u64,
}

impl Voice {
    pub(super) fn new(log: Log, name: &str, env: &[(String, String)]) -> Self {
        let secrets = env.iter().map(|(_, value)| value.clone()).filter(|value| value.len() >= SECRET);
        let window = Mutex::new(Window { began: Instant::now(), said: 0, left_out: 0 });
        Self { log, name: name.to_owned(), secrets: secrets.collect(), window }
    }

    /// Logs `text` as `event`.
    pub(super) fn say(&self, level: Level, event: &str, text: &str) {
        if level > self.log.level() {
            return;
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= WINDOW {
            if window.left_out > 0 {
                let text = format!("{}: {} more lines were left out", self.name, window.left_out);
                self.log.event(Level::Warn, "program.flood", &text);
            }
            *window = Window { began: Instant::now(), said: 0, left_out: 0 };
        }
        window.said = window.said.saturating_add(1);
        if window.said > MOST {
            window.left_out += 1;
            return;
        }
        drop(window);
        self.log.event(level, event, &format!("{}: {}", self.name, self.shown(text)));
    }

    /// `text` as it may be shown: short, without what is secret and without what a terminal would act on.
    fn shown(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| text.contains(secret.as_str())).collect::<Vec<_>>()
        {
            text = text.replace(secret.as_str(), "***");
        }
        let mut shown: String =
            text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::Sink;

    #[test]
    fn lines_are_named_short_plain_and_few() {
        let sink = Sink::default();
        let log = Log::to(Level::Info, Box::new(sink.clone()));
        let env = [("KEY".to_owned(), "s3cret-value".to_owned()), ("PORT".to_owned(), "80".to_owned())];
        let voice = Voice::new(log.clone(), "files", &env);
        voice.say(Level::Info, "program.stderr", "key s3cret-value on port 80 \u{1b}[31m");
        voice.say(Level::Info, "program.stderr", &"x".repeat(10_000));
        (0..1000).for_each(|_| voice.say(Level::Info, "program.stderr", "again"));
        log.flush();
        let text = sink.text();
        assert!(text.contains("files: key *** on port 80  [31m"), "{text}");
        assert_eq!(text.lines().count(), MOST as usize);
        assert!(text.lines().all(|line| line.len() < 700));
    }
}
