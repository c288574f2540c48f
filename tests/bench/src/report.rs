//! What was found out, for people and for machines.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// What one row found.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) what: String,
    /// The ways that were compared.
    pub(crate) lines: Vec<Line>,
    /// Single figures: what, how much, of what.
    pub(crate) facts: Vec<(String, f64, &'static str)>,
    /// What was asked of it.
    pub(crate) budgets: Vec<Budget>,
    /// What was left out, and why.
    pub(crate) skipped: Vec<String>,
}

/// How one way did.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// The way.
    pub(crate) way: String,
    /// How many calls were counted.
    pub(crate) calls: usize,
    /// Milliseconds.
    pub(crate) p50: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
    /// Milliseconds more than the direct call.
    pub(crate) added_p50: f64,
    /// Milliseconds more than the direct call.
    pub(crate) added_p99: f64,
    /// Calls in a second.
    pub(crate) rate: f64,
    /// The rate, divided by that of the direct call.
    pub(crate) ratio: f64,
    /// Microseconds of processor time of the program in between, for each call.
    pub(crate) cpu: Option<f64>,
}

/// A figure and what it ought to be.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What is limited.
    pub(crate) what: String,
    /// The figure.
    pub(crate) value: f64,
    /// The most it may be, or the least.
    pub(crate) limit: f64,
    /// It must be at least the limit.
    pub(crate) least: bool,
    /// The unit of both.
    pub(crate) unit: &'static str,
}

impl Budget {
    /// `what` may be `limit` at most.
    pub(crate) fn most(what: &str, value: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.to_owned(), value, limit, least: false, unit }
    }

    /// `what` must be `limit` at least.
    pub(crate) fn least(what: &str, value: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.to_owned(), value, limit, least: true, unit }
    }

    fn met(&self) -> bool {
        if self.least { self.value >= self.limit } else { self.value <= self.limit }
    }
}

/// Milliseconds.
pub(crate) fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// The `share` quantile of `sorted`.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |span| ms(*span))
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Row {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("\n{}: {}\n", self.name, self.what);
        let wide = self.lines.iter().map(|line| line.way.chars().count()).max().unwrap_or(0).max(12);
        if !self.lines.is_empty() {
            let head = "p50 ms   p99 ms  added p50  added p99   calls/s   ratio  CPU µs";
            _ = writeln!(out, "  {:wide$}   {head}", "");
        }
        for line in &self.lines {
            let direct = line.way == "direct";
            let added = |value: f64| if direct { "-".to_owned() } else { format!("{value:+.3}") };
            let cpu = line.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
            let ratio = if direct { "-".to_owned() } else { format!("{:.3}", line.ratio) };
            _ = writeln!(
                out,
                "  {:<wide$} {:>8.3} {:>8.3} {:>10} {:>10} {:>9.0} {ratio:>7} {cpu:>7}",
                line.way,
                line.p50,
                line.p99,
                added(line.added_p50),
                added(line.added_p99),
                line.rate,
            );
        }
        for (what, value, unit) in &self.facts {
            _ = writeln!(out, "  {what:<52} {:>10} {unit}", short(*value));
        }
        for why in &self.skipped {
            _ = writeln!(out, "  skipped: {why}");
        }
        for budget in &self.budgets {
            let (sign, verdict) =
                (if budget.least { '≥' } else { '≤' }, if budget.met() { "met" } else { "MISSED" });
            let (value, limit) = (short(budget.value), short(budget.limit));
            _ = writeln!(out, "  budget: {} {sign} {limit} {}: {value}, {verdict}", budget.what, budget.unit);
        }
        out
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            json!({
                "way": line.way, "calls": line.calls, "p50_ms": line.p50, "p99_ms": line.p99,
                "added_p50_ms": line.added_p50, "added_p99_ms": line.added_p99,
                "calls_per_second": line.rate, "ratio": line.ratio, "cpu_us_per_call": line.cpu,
            })
        });
        let facts =
            self.facts.iter().map(|(what, value, unit)| json!({"what": what, "value": value, "unit": unit}));
        let budgets = self.budgets.iter().map(|budget| {
            json!({
                "what": budget.what, "value": budget.value, "limit": budget.limit, "unit": budget.unit,
                "bound": if budget.least { "least" } else { "most" }, "met": budget.met(),
            })
        });
        json!({
            "name": self.name, "what": self.what, "skipped": self.skipped,
            "ways": lines.collect::<Vec<_>>(), "facts": facts.collect::<Vec<_>>(),
            "budgets": budgets.collect::<Vec<_>>(),
        })
    }
}

/// Three digits or so, and no more zeros than needed.
fn short(value: f64) -> String {
    let text = format!("{value:.*}", if value.abs() < 10.0 { 3 } else { 1 });
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How many budgets were met, and which were not.
pub(crate) fn verdict(rows: &[Row]) -> String {
    let all = || rows.iter().flat_map(|row| row.budgets.iter().map(move |budget| (row, budget)));
    let missed: Vec<_> = all()
        .filter(|(_, budget)| !budget.met())
        .map(|(row, budget)| format!("{} ({})", row.name, budget.what))
        .collect();
    let (all, met) = (all().count(), all().count() - missed.len());
    match missed.len() {
        0 => format!("\nevery answer was right; {met} of {all} budgets met\n"),
        _ => format!("\nevery answer was right; {met} of {all} budgets met; MISSED: {}\n", missed.join(", ")),
    }
}
