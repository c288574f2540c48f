//! A tree to a [`Config`], with every problem found on the way.
//!
//! This is the only way to make a `Config`: from a file's tree, and from normalized JSON. It **never** stops at
//! the first problem and **never** repeats a value that may be a secret.
//!
//! A client's own `mcp.json` must load unchanged. So inside a server's entry a key we do not know is at most a
//! warning; inside the parts that only we have (`timeouts`, `tools`, `keys`, `limits`, `sessions`) it is an error.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Entry, Node, Value};
use super::plan::{MODELS, Plan, Skipped};
use super::problem::{Place, Problem, nearest};
use super::types::{Choice, Config, Limits, Named, Server, Sessions, Size, Span};

mod key;
mod llm;
mod sandbox;
mod server;

pub(super) use key::origin;
pub(super) use sandbox::{NOT_WHOLE, whole};
pub(super) use server::{endpoint, is_ours};

/// What came of reading a file.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The configuration, unless there is an error among the problems.
    pub config: Option<Config>,
    /// Errors and warnings, in the order of the file.
    pub problems: Vec<Problem>,
    places: BTreeMap<String, Place>,
}

impl Reading {
    /// Where `key` stands in the file, or the nearest key around it.
    #[must_use]
    pub fn place(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            match (self.places.get(key), key.rfind(['.', '['])) {
                (Some(place), _) => return *place,
                (None, Some(end)) => key = key.get(..end).unwrap_or_default(),
                (None, None) => return Place::default(),
            }
        }
    }

    /// Gives `problem`, which came later from [`compile`](super::compile()), its place in the file.
    #[must_use]
    pub fn locate(&self, problem: Problem) -> Problem {
        let place = self.place(&problem.key);
        problem.at(place)
    }

    /// What `plan` leaves out, as warnings with their places.
    #[must_use]
    pub fn skipped(&self, plan: &Plan) -> Vec<Problem> {
        let problem = |skipped: &Skipped| {
            let what = format!("is left out: {}", skipped.reason);
            // No server has a dot in its name; providers are told in full.
            let key = match skipped.name.contains('.') {
                true => skipped.name.clone(),
                false => join("mcpServers", &skipped.name),
            };
            self.locate(Problem::warning(key, what, ""))
        };
        plan.skipped.iter().map(problem).collect()
    }

    /// Whether there is an error among the problems.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.config.is_none()
    }

    #[cfg(feature = "text")]
    pub(super) fn refused(problem: Problem) -> Self {
        Self { config: None, problems: vec![problem], places: BTreeMap::new() }
    }
}

/// Reads a configuration from a tree.
#[must_use]
pub fn read(root: &Node) -> Reading {
    let mut reader = Reader::default();
    let config = reader.config(root);
    let Reader { mut problems, places, .. } = reader;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    let refused = problems.iter().any(Problem::is_error);
    Reading { config: config.filter(|_| !refused), problems, places }
}

/// The keys at the top of a file.
const TOP: [&str; 8] = ["mcpServers", "servers", "keys", "origins", "limits", "sessions", "inputs", "llm"];
/// Keys that clients keep in the same file, and that mean nothing to a gateway.
const FOREIGN: [&str; 16] = [
    "$schema",
    "globalShortcut",
    "scale",
    "theme",
    "locale",
    "preferences",
    "userThemeMode",
    "isUsingBuiltInNodeForMcp",
    "isDxtAutoUpdatesEnabled",
    "coworkScheduledTasksEnabled",
    "sidebarMode",
    "version",
    "name",
    "description",
    "sandbox",
    "dev",
];
/// More servers than anybody merges.
const MOST_SERVERS: usize = 256;

#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    places: BTreeMap<String, Place>,
    /// Lists of server names in `keys`, to be checked once all servers are known.
    server_lists: Vec<(String, Place, String)>,
    /// Names of links in `keys`, to be checked likewise.
    link_lists: Vec<(String, Place, String)>,
    /// Names of models that are to answer servers; `None` is `default`. To be checked likewise.
    samplers: Vec<(String, Place, Option<String>)>,
}

impl Reader {
    fn config(&mut self, root: &Node) -> Option<Config> {
        let mut config = Config::default();
        if matches!(root.value, Value::Null) {
            let fix = "begin with `mcpServers:` and a server under it";
            self.problems.push(Problem::error("", "the file is empty", fix).at(root.place));
            return None;
        }
        for entry in self.map(root, "")? {
            match entry.key.as_str() {
                key @ ("mcpServers" | "servers") => self.servers(&entry.node, key, &mut config.servers),
                "keys" => self.keys(&entry.node, &mut config.keys),
                "origins" => config.origins = self.origins(&entry.node),
                "limits" => self.limits(&entry.node, &mut config.limits),
                "sessions" => self.sessions(&entry.node, &mut config.sessions),
                // Asked of the person in front of an editor. What uses them is left out, by name, later.
                "inputs" => _ = self.list(&entry.node, "inputs"),
                "llm" => self.llm(&entry.node, &mut config.llm),
                "mcp" | "context_servers" => {
                    let fix = "move its servers under `mcpServers`";
                    self.warn(entry.place, &entry.key, "is ignored", fix);
                }
                key if FOREIGN.contains(&key) || is_comment(key) => {}
                key => match nearest(key, TOP) {
                    Some(known) => {
                        let fix = format!("did you mean `{known}`?");
                        self.error(entry.place, &segment(key), "is not a known key", fix);
                    }
                    None => {
                        let fix = "remove it, unless it is another program's";
                        self.warn(entry.place, &segment(key), "is not a known key and is ignored", fix);
                    }
                },
            }
        }
        if config.servers.is_empty()
            && config.llm.providers.is_empty()
            && !self.problems.iter().any(Problem::is_error)
        {
            let fix = "add a server under `mcpServers`";
            self.warn(root.place, "mcpServers", "there are no servers", fix);
        }
        self.check_prefixes(&config.servers);
        let models = !config.llm.providers.is_empty() && config.llm.mcp != Some(false);
        let named =
            |(name, server): &(&str, &Server)| *name == MODELS || server.prefix.as_deref() == Some(MODELS);
        if models && let Some((name, _)) = config.servers.iter().find(named) {
            let what = format!(
                "hides the models from MCP clients, which would find them as a server called `{MODELS}`"
            );
            let path = join("mcpServers", name);
            let place = self.places.get(&path).copied().unwrap_or(root.place);
            self.warn(place, &path, what, "call it otherwise, or write `llm: { mcp: false }`");
        }
        self.check_server_lists(&config.servers, models);
        self.check_link_lists(&config.servers, &config.llm.providers);
        self.check_samplers(&config.llm);
        Some(config)
    }

    fn limits(&mut self, node: &Node, into: &mut Limits) {
        const KNOWN: [&str; 14] = [
            "body",
            "batch",
            "merge_deadline",
            "page",
            "session_age",
            "keep_alive",
            "park",
            "parked",
            "rounds",
            "replay",
            "link_resume",
            "link_calls",
            "subscriptions",
            "processes",
        ];
        for entry in self.map(node, "limits").unwrap_or_default() {
            let (path, node) = (format!("limits.{}", entry.key), &entry.node);
            match entry.key.as_str() {
                "body" => into.body = self.size(node, &path, Size(1 << 10), Size(64 << 20)),
                "batch" => into.batch = self.count(node, &path, 1, 1000),
                "merge_deadline" => into.merge_deadline = self.span(node, &path, 100, 5 * MINUTE),
                "page" => into.page = self.count(node, &path, 1, 10_000),
                "session_age" => into.session_age = self.span(node, &path, MINUTE, 30 * DAY),
                "keep_alive" => into.keep_alive = self.span(node, &path, SECOND, 10 * MINUTE),
                "park" => into.park = self.span(node, &path, SECOND, 60 * MINUTE),
                "parked" => into.parked = self.count(node, &path, 1, 1000),
                "rounds" => into.rounds = self.count(node, &path, 1, 1000),
                "replay" => into.replay = self.size(node, &path, Size(4 << 10), Size(64 << 20)),
                "link_resume" => into.link_resume = self.span(node, &path, 0, 10 * MINUTE),
                "link_calls" => into.link_calls = self.count(node, &path, 1, 10_000),
                "subscriptions" => into.subscriptions = self.count(node, &path, 1, 10_000),
                "processes" => into.processes = self.count(node, &path, 1, 10_000),
                _ => self.unknown(entry, "limits", &KNOWN),
            }
        }
    }

    fn sessions(&mut self, node: &Node, into: &mut Sessions) {
        for entry in self.map(node, "sessions").unwrap_or_default() {
            match entry.key.as_str() {
                "lenient" => {
                    into.lenient = self.flag(&entry.node, "sessions.lenient").unwrap_or_default();
                }
                _ => self.unknown(entry, "sessions", &["lenient"]),
            }
        }
    }

    // What follows reads one kind of value each, and says so if it is another.

    fn error(&mut self, place: Place, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::error(key, what, fix).at(place));
    }

    fn warn(&mut self, place: Place, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::warning(key, what, fix).at(place));
    }

    fn wrong(&mut self, node: &Node, path: &str, want: &str) {
        self.error(node.place, path, format!("is {}", node.value.kind()), format!("write {want}"));
    }

    /// A key that is not known where only our own keys may be.
    fn unknown(&mut self, entry: &Entry, path: &str, known: &[&str]) {
        if is_comment(&entry.key) {
            return;
        }
        let fix = match nearest(&entry.key, known.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("the keys here are {}", listed(known, "and")),
        };
        self.error(entry.place, &join(path, &entry.key), "is not a known key", fix);
    }

    /// The entries of a map; those that stand there twice once, with an error. Nothing is an empty map.
    fn map<'n>(&mut self, node: &'n Node, path: &str) -> Option<Vec<&'n Entry>> {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => return Some(Vec::new()),
            _ => {
                self.wrong(node, path, "a map of keys and values");
                return None;
            }
        };
        let mut seen = BTreeSet::new();
        let mut once = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = join(path, &entry.key);
            if seen.insert(entry.key.as_str()) {
                if entry.place != Place::default() {
                    self.places.insert(path, entry.place);
                }
                once.push(entry);
            } else {
                self.error(entry.place, &path, "stands there twice", "remove one of the two");
            }
        }
        Some(once)
    }

    fn list<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => {
                for (i, item) in items.iter().enumerate().filter(|(_, item)| item.place != Place::default()) {
                    self.places.insert(format!("{path}[{i}]"), item.place);
                }
                Some(items)
            }
            Value::Null => Some(&[]),
            _ => {
                self.wrong(node, path, "a list");
                None
            }
        }
    }

    fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Null => None,
            Value::Number(_) | Value::Bool(_) => {
                self.wrong(node, path, "text, in quotes");
                None
            }
            Value::List(_) | Value::Map(_) => {
                self.wrong(node, path, "text");
                None
            }
        }
    }

    /// Text, where real files also write numbers and flags.
    fn loose_text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            Value::Number(number) => Some(number.clone()),
            Value::Bool(value) => Some(value.to_string()),
            _ => self.text(node, path),
        }
    }

    fn loose_texts(&mut self, node: &Node, path: &str) -> Vec<String> {
        let items = self.list(node, path).unwrap_or_default();
        let items = items.iter().enumerate();
        items.filter_map(|(i, item)| self.loose_text(item, &format!("{path}[{i}]"))).collect()
    }

    fn named_texts(&mut self, node: &Node, path: &str) -> Named<String> {
        let mut named = Vec::new();
        for entry in self.map(node, path).unwrap_or_default() {
            if let Some(text) = self.loose_text(&entry.node, &join(path, &entry.key)) {
                named.push((entry.key.clone(), text));
            }
        }
        Named(named)
    }

    fn flag(&mut self, node: &Node, path: &str) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Null => None,
            _ => {
                self.wrong(node, path, "true or false");
                None
            }
        }
    }

    /// One of some words. The first word for each value is the one that a message names.
    fn one_of<T: Copy + PartialEq>(&mut self, node: &Node, path: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, path)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let first = |i: usize, value: &T| !words.iter().take(i).any(|(_, other)| other == value);
            let known = words.iter().enumerate().filter(|(i, (_, value))| first(*i, value));
            let known: Vec<&str> = known.map(|(_, (word, _))| *word).collect();
            let fix = match nearest(&text, words.iter().map(|(word, _)| *word)) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("write {}", listed(&known, "or")),
            };
            self.error(node.place, path, format!("is {}", shown(&text)), fix);
        }
        found
    }

    fn count(&mut self, node: &Node, path: &str, least: u32, most: u32) -> Option<u32> {
        let want = || format!("a whole number from {least} to {most}");
        let Value::Number(number) = &node.value else {
            if node.value != Value::Null {
                self.wrong(node, path, &want());
            }
            return None;
        };
        let found = number.parse().ok().filter(|count| (least..=most).contains(count));
        if found.is_none() {
            self.error(node.place, path, format!("is {}", shown(number)), format!("write {}", want()));
        }
        found
    }

    /// A length of time between two bounds in milliseconds.
    fn span(&mut self, node: &Node, path: &str, least: u64, most: u64) -> Option<Span> {
        let bound = |ms| Span(std::time::Duration::from_millis(ms));
        let examples = "a time such as \"5s\", \"250ms\" or \"2m\"";
        let parse = |number: Option<f64>, text: &str| match number {
            Some(number) => Span::seconds(number),
            None => Span::parse(text),
        };
        self.amount(node, path, examples, "s", parse, (bound(least), bound(most)))
    }

    fn size(&mut self, node: &Node, path: &str, least: Size, most: Size) -> Option<Size> {
        let parse = |number: Option<f64>, text: &str| match number {
            Some(number) => Some(number).filter(|n| n.fract() == 0.0).and_then(Size::bytes),
            None => Size::parse(text),
        };
        self.amount(node, path, "a size such as \"16MiB\" or \"500kB\"", "MiB", parse, (least, most))
    }

    fn amount<T: Copy + PartialOrd + std::fmt::Display>(
        &mut self,
        node: &Node,
        path: &str,
        examples: &str,
        unit: &str,
        parse: impl Fn(Option<f64>, &str) -> Option<T>,
        (least, most): (T, T),
    ) -> Option<T> {
        let (text, found) = match &node.value {
            Value::Number(text) => (text, parse(Some(text.parse().unwrap_or(f64::NAN)), text)),
            Value::Text(text) => (text, parse(None, text)),
            Value::Null => return None,
            _ => {
                self.wrong(node, path, examples);
                return None;
            }
        };
        let within = found.filter(|found| (least..=most).contains(found));
        if within.is_none() {
            let fix = match found {
                Some(_) => format!("write a value from {least} to {most}"),
                None if text.parse::<f64>().is_ok_and(|n| n >= 0.0)
                    && matches!(node.value, Value::Text(_)) =>
                {
                    format!("add a unit, as in \"{text}{unit}\"")
                }
                None => format!("write {examples}"),
            };
            self.error(node.place, path, format!("is {}", shown(text)), fix);
        }
        within
    }

    /// `{ allow, deny }`, or a list that stands for `allow`.
    fn choice(&mut self, node: &Node, path: &str) -> Choice {
        let mut choice = Choice::default();
        if matches!(node.value, Value::List(_) | Value::Null) {
            choice.allow = self.allowed(node, path);
            return choice;
        }
        for entry in self.map(node, path).unwrap_or_default() {
            match entry.key.as_str() {
                "allow" => choice.allow = self.allowed(&entry.node, &join(path, "allow")),
                "deny" => choice.deny = self.globs(&entry.node, &join(path, "deny")),
                _ => self.unknown(entry, path, &["allow", "deny"]),
            }
        }
        choice
    }

    /// What is allowed. An empty list would read as "nothing" and mean "everything", so it is refused, as is one
    /// whose items are all commented out.
    fn allowed(&mut self, node: &Node, path: &str) -> Vec<String> {
        if matches!(&node.value, Value::List(items) if items.is_empty()) || node.value == Value::Null {
            let fix = "leave it out to allow everything, or write `deny: [\"*\"]` to allow nothing";
            self.error(node.place, path, "is empty", fix);
        }
        self.globs(node, path)
    }

    fn globs(&mut self, node: &Node, path: &str) -> Vec<String> {
        let mut globs = Vec::new();
        for (i, item) in self.list(node, path).unwrap_or_default().iter().enumerate() {
            let path = format!("{path}[{i}]");
            match self.text(item, &path) {
                Some(text) if text.is_empty() => {
                    self.error(item.place, &path, "is empty", "write a name or a pattern such as `read_*`");
                }
                Some(text) => globs.push(text),
                None if item.value == Value::Null => self.wrong(item, &path, "a name or a pattern"),
                None => {}
            }
        }
        globs
    }
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Keys that people write notes in, and that hold what YAML anchors name.
fn is_comment(key: &str) -> bool {
    ["//", "#", "_", "$", "x-"].iter().any(|mark| key.starts_with(mark))
        || matches!(key, "comment" | "comments" | "note" | "notes")
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { segment(key) } else { format!("{path}.{}", segment(key)) }
}

/// A key as a part of a path: in quotes if it could be taken for more than one part.
fn segment(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-$@/+".contains(c);
    if !key.is_empty() && key.chars().all(plain) { key.to_owned() } else { format!("{key:?}") }
}

/// A value that cannot be a secret, for a message: in quotes, and not too much of it.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

fn listed(words: &[&str], last_by: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} {last_by} {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
