//! What is shown: a few lines that are kept up to date on a terminal, a line for each event elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use causeway::tunnel::hello::{Offer, Verdict};
use serde_json::json;

use super::targets::Targets;

/// How many of the last calls tell the latency.
const LAST: usize = 128;

/// How to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Lines that are kept up to date.
    Terminal,
    /// A line for each event.
    Lines,
    /// A JSON object for each event, a line each.
    Json,
    /// Nothing.
    Nothing,
}

impl Show {
    /// What suits stdout.
    #[must_use]
    pub fn suits(json: bool) -> Self {
        match json {
            true => Self::Json,
            false if std::io::stdout().is_terminal() => Self::Terminal,
            false => Self::Lines,
        }
    }
}

/// What is known of one target.
#[derive(Debug, Default)]
struct Row {
    what: String,
    state: String,
    calls: u64,
    errors: u64,
    open: u64,
    last: VecDeque<Duration>,
}

impl Row {
    fn median(&self) -> Option<Duration> {
        let mut all: Vec<_> = self.last.iter().copied().collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }
}

/// What is shown.
#[derive(Debug)]
pub(super) struct View {
    show: Show,
    title: String,
    state: String,
    since: Option<Instant>,
    connections: u64,
    rows: BTreeMap<String, Row>,
    drawn: usize,
    stale: bool,
}

impl View {
    pub(super) fn new(show: Show, name: &str, gateway: &str) -> Self {
        let title = format!("{name} at {gateway}");
        let state = "connecting".to_owned();
        Self { show, title, state, since: None, connections: 0, rows: BTreeMap::new(), drawn: 0, stale: true }
    }

    /// How often it is drawn anew, if it is.
    pub(super) fn every(&self) -> Option<Duration> {
        (self.show == Show::Terminal).then_some(Duration::from_millis(500))
    }

    pub(super) fn targets(&mut self, targets: &Targets) {
        let mut before = std::mem::take(&mut self.rows);
        for offer in targets.offers() {
            let key = offer.to_string();
            let mut row = before.remove(&key).unwrap_or_default();
            row.what = targets.get(&offer).map(super::targets::Target::shown).unwrap_or_default();
            self.rows.insert(key, row);
        }
        for line in &targets.warnings {
            self.event("warning", line, json!({}));
        }
        for (offer, reason) in &targets.left_out {
            let line = format!("{offer} is not offered: {reason}");
            self.event("left_out", &line, json!({ "offer": offer.to_string(), "reason": reason }));
        }
        self.stale = true;
    }

    pub(super) fn connected(&mut self, transport: &str, resumed: bool) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.connections += 1;
        }
        self.state = format!("connected ({transport})");
        let words = if resumed { "connected again, calls in flight go on" } else { "connected" };
        let line = format!("{words} by {transport}");
        self.event("connected", &line, json!({ "transport": transport, "resumed": resumed }));
    }

    pub(super) fn lost(&mut self, why: &str, pause: Duration) {
        self.since = None;
        let seconds = pause.as_secs_f32();
        self.state = format!("not connected: {why}; again in {seconds:.1} s");
        let line = format!("not connected: {why}; again in {seconds:.1} s");
        self.event("lost", &line, json!({ "why": why, "again_in_ms": pause.as_millis() }));
    }

    pub(super) fn verdicts(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            let offer = verdict.offer.to_string();
            let state = match &verdict.refused {
                None => "offered".to_owned(),
                Some(why) => format!("refused: {}", plain(why)),
            };
            let Some(row) = self.rows.get_mut(&offer) else { continue };
            if row.state != state {
                row.state.clone_from(&state);
                let accepted = verdict.refused.is_none();
                self.event(
                    "verdict",
                    &format!("{offer}: {state}"),
                    json!({ "offer": offer, "accepted": accepted }),
                );
            }
        }
    }

    pub(super) fn began(&mut self, offer: &Offer) {
        if let Some(row) = self.rows.get_mut(&offer.to_string()) {
            row.open += 1;
            self.stale = true;
        }
    }

    /// A stream has ended. `took`: how long until the answer began, if it was a call. `failed`: why it failed.
    pub(super) fn ended(&mut self, offer: &Offer, took: Option<Duration>, failed: Option<&str>) {
        let key = offer.to_string();
        let Some(row) = self.rows.get_mut(&key) else { return };
        row.open = row.open.saturating_sub(1);
        if let Some(took) = took {
            row.calls += 1;
            row.last.push_back(took);
            if row.last.len() > LAST {
                row.last.pop_front();
            }
        }
        if let Some(why) = failed {
            row.errors += 1;
            self.event("failed", &format!("{key}: {}", plain(why)), json!({ "offer": key }));
        }
        self.stale = true;
    }

    /// Something worth a line.
    pub(super) fn event(&mut self, event: &str, line: &str, more: serde_json::Value) {
        self.stale = true;
        let line = plain(line);
        let ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(ms.as_millis()).unwrap_or(u64::MAX);
        match self.show {
            Show::Lines => say(&format!("{} {line}\n", crate::cli::utc(ms))),
            Show::Json => {
                let mut record = json!({ "ts": ms, "event": event, "message": line });
                if let (Some(record), serde_json::Value::Object(more)) = (record.as_object_mut(), more) {
                    record.extend(more);
                }
                say(&format!("{record}\n"));
            }
            // What is kept up to date says the rest; what went wrong stays to be read.
            Show::Terminal if matches!(event, "failed" | "warning" | "left_out" | "problem") => {
                self.clear();
                say(&format!("{line}\n"));
            }
            Show::Terminal | Show::Nothing => {}
        }
    }

    /// Draws it anew if anything has changed.
    pub(super) fn draw(&mut self) {
        if self.show != Show::Terminal || !self.stale && self.since.is_none() {
            return;
        }
        self.stale = false;
        self.clear();
        let mut lines = vec![match self.since {
            Some(since) => format!("{}: {} for {}", self.title, self.state, span(since.elapsed())),
            None => format!("{}: {}", self.title, self.state),
        }];
        if let Some(again @ 1..) = self.connections.checked_sub(1) {
            lines.push(format!("  reconnected {again} {}", if again == 1 { "time" } else { "times" }));
        }
        for (offer, row) in &self.rows {
            let latency = match row.median() {
                Some(median) => format!("{:.1} ms", median.as_secs_f64() * 1000.0),
                None => "-".to_owned(),
            };
            lines.push(format!(
                "  {offer}  {}  {}  {} calls, {} open, {} failed, {latency}",
                row.what, row.state, row.calls, row.open, row.errors
            ));
        }
        self.drawn = lines.len();
        let width = 200;
        let text: String =
            lines.iter().map(|line| line.chars().take(width).collect::<String>() + "\n").collect();
        // Without wrapping, so that as many lines are cleared as were drawn.
        say(&format!("\x1b[?7l{text}\x1b[?7h"));
    }

    fn clear(&mut self) {
        let drawn = std::mem::take(&mut self.drawn);
        if drawn > 0 {
            say(&format!("\x1b[{drawn}A\x1b[J"));
        }
    }
}

/// Text from elsewhere, harmless to a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(1000).collect()
}

fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

fn say(text: &str) {
    // Whoever reads it may have seen enough.
    let mut out = std::io::stdout().lock();
    _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let shown = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([shown(5), shown(65), shown(7260)], ["5s", "1m05s", "2h01m"]);
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_command_a_terminal() {
        assert_eq!(plain("a\x1b[2J\nb"), "a?[2J?b");
    }

    #[test]
    fn latency_is_the_median_of_the_last_calls() {
        let mut view = View::new(Show::Nothing, "laptop", "gateway");
        let offer = Offer::server("a");
        view.rows.insert(offer.to_string(), Row::default());
        for ms in [1, 2, 300] {
            view.began(&offer);
            view.ended(&offer, Some(Duration::from_millis(ms)), (ms == 300).then_some("cut"));
        }
        let row = &view.rows[&offer.to_string()];
        assert_eq!((row.calls, row.errors, row.open), (3, 1, 0));
        assert_eq!(row.median(), Some(Duration::from_millis(2)));
    }
}
