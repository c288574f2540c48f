//! Problems: what is wrong with a configuration, where, and what to do about it.
//!
//! A problem **never** holds a value from the file that may be a secret: no header values, keys, URLs or
//! variables' contents; only names, and values of keys that cannot hold a secret.

use std::fmt;

/// Where something stands in a text, both counted from 1 in lines and characters. Zero: not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

/// Whether a problem keeps a configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but perhaps not as meant.
    Warning,
}

/// Something wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The line, from 1; 0 if there is no text to point into.
    pub line: u32,
    /// The character in the line, from 1; 0 if there is no text to point into.
    pub column: u32,
    /// The key, as a path from the top: `mcpServers.github.timeouts.connect`. Empty: the file as a whole.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
    /// Whether the configuration can be used all the same.
    pub severity: Severity,
}

impl Problem {
    /// A problem that keeps the configuration from being used.
    pub fn error(key: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        let (key, what, fix) = (key.into(), what.into(), fix.into());
        Self { line: 0, column: 0, key, what, fix, severity: Severity::Error }
    }

    /// A problem that is only worth saying.
    pub fn warning(key: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(key, what, fix) }
    }

    /// This problem, at `place`.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { line: place.line, column: place.column, ..self }
    }

    /// Whether it keeps the configuration from being used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The problem as one line that begins with `file`: `file:line:column: key: what: fix`.
    ///
    /// ```
    /// use causeway::config::{Place, Problem};
    /// let problem = Problem::error("limits.page", "is 0", "write a number from 1 to 10000");
    /// let line = problem.at(Place { line: 3, column: 9 }).in_file("gateway.yaml").to_string();
    /// assert_eq!(line, "gateway.yaml:3:9: limits.page: is 0: write a number from 1 to 10000");
    /// ```
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        InFile(file, self)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        if !self.fix.is_empty() {
            write!(f, ": {}", self.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

struct InFile<'a>(&'a str, &'a Problem);

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.line {
            0 => write!(f, "{}: {}", self.0, self.1),
            _ => write!(f, "{}:{}", self.0, self.1),
        }
    }
}

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |s: &str| s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let near: Vec<char> = bare(word);
    if near.len() < 2 || near.len() > 40 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&near, &bare(candidate)), candidate))
        .filter(|(far, candidate)| *far <= if near.len().max(candidate.len()) > 5 { 2 } else { 1 })
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// How many insertions, removals, replacements and swaps of neighbours lie between `a` and `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let mut best =
                (at(&above, j) + usize::from(x != y)).min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_spellings_but_not_strangers() {
        let known = ["mcpServers", "servers", "keys", "origins", "limits", "max_response"];
        assert_eq!(nearest("mcpServer", known), Some("mcpServers"));
        assert_eq!(nearest("mcp_servers", known), Some("mcpServers"));
        assert_eq!(nearest("kesy", known), Some("keys"));
        assert_eq!(nearest("maxResponse", known), Some("max_response"));
        assert_eq!(nearest("theme", known), None);
        assert_eq!(nearest("kind", known), None);
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest("", known), None);
    }
}
