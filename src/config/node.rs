//! A configuration file as a tree in which every key and value knows where it stands.
//!
//! The tree is what all formats have in common. It **never** interprets: that `connect` is a duration is known
//! to [`read`](super::read()), not here. `parse` needs the feature `text`; a tree can also be made of a
//! `serde_json::Value`, without places, which is all that the edge has.

use super::problem::{Place, Problem};

#[cfg(feature = "text")]
mod json;
#[cfg(feature = "text")]
mod toml;
#[cfg(feature = "text")]
mod yaml;

/// The largest text that is read, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The deepest tree that is read.
pub const MAX_DEPTH: usize = 32;
/// The most values that a tree may have, aliases counted where they are used.
pub const MAX_NODES: usize = 100_000;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// What a file can hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number, as it was written.
    Number(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file. A key may stand there twice.
    Map(Vec<Entry>),
}

/// A key of a map with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub place: Place,
    /// The value.
    pub node: Node,
}

impl Value {
    /// What kind of value this is, for a message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl From<serde_json::Value> for Node {
    /// The same value without places. The depth was bounded by `serde_json`'s own reader.
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(value),
            Json::Number(number) => Value::Number(number.to_string()),
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::List(items.into_iter().map(Self::from).collect()),
            Json::Object(map) => Value::Map(
                map.into_iter()
                    .map(|(key, value)| Entry { key, place: Place::default(), node: value.into() })
                    .collect(),
            ),
        };
        Self { place: Place::default(), value }
    }
}

/// How a configuration file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON; comments and trailing commas are fine.
    Json,
    /// YAML 1.2.
    Yaml,
    /// TOML.
    Toml,
}

impl Format {
    /// The format that a file's name tells by its ending.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "json" | "jsonc" | "json5" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

/// Reads `text` into a tree, or says where it stops being well-formed.
#[cfg(feature = "text")]
pub fn parse(text: &str, format: Format) -> Result<Node, Problem> {
    too_large(text.len())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Json => json::parse(text),
        Format::Yaml => yaml::parse(text),
        Format::Toml => toml::parse(text),
    }
}

/// Refuses a text of more than [`MAX_BYTES`].
pub(super) fn too_large(bytes: usize) -> Result<(), Problem> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(Problem::error("", "the file is larger than 1 MiB", "is this the right file?"))
}

/// Turns byte offsets into places.
#[cfg(feature = "text")]
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

#[cfg(feature = "text")]
impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let offset = (0..=offset.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at));
        let offset = offset.unwrap_or_default();
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.wrapping_sub(1)).copied().unwrap_or_default();
        // In a line of many kilobytes nobody counts characters; bytes will do, and keep this quick.
        let count = |before: &str| if before.len() > 4096 { before.len() } else { before.chars().count() };
        let column = self.text.get(start..offset).map_or(0, count) + 1;
        Place { line: narrow(line), column: narrow(column) }
    }
}

#[cfg(feature = "text")]
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Counts values and depth while a tree grows.
#[cfg(feature = "text")]
#[derive(Default)]
struct Budget(usize);

#[cfg(feature = "text")]
impl Budget {
    fn spend(&mut self, nodes: usize, depth: usize, place: Place) -> Result<(), Problem> {
        self.0 = self.0.saturating_add(nodes);
        if self.0 > MAX_NODES {
            let fix = "a configuration of that size is a mistake, or an attack";
            return Err(Problem::error("", format!("more than {MAX_NODES} values"), fix).at(place));
        }
        if depth > MAX_DEPTH {
            let what = format!("nested more than {MAX_DEPTH} deep");
            return Err(Problem::error("", what, "no key of ours lies that deep").at(place));
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "text"))]
mod tests;
