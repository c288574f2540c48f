//! One tool, prompt, resource or template: as its server lists it, and as it is offered.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Kind;
use crate::config::plan::Server;
use crate::mcp::headers::{Mirrored, annotations};
use crate::mcp::{apps, names};
use crate::wire::jsonrpc::{Splice, quote, string};

/// One tool, prompt, resource or template.
#[derive(Debug)]
pub struct Item {
    /// What the server calls it: a name, a URI or a URI template.
    pub key: String,
    /// What it is called in the merged list; for resources the same as `key`.
    pub offered: String,
    /// The item as the server wrote it.
    pub text: Box<RawValue>,
    /// The item as it is offered in the merged list.
    pub merged: Box<RawValue>,
    /// The arguments that go into headers, for tools.
    pub mirrored: Vec<Mirrored>,
    /// The interfaces that show its results, for tools.
    pub shows: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) uri: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) uri_template: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) description: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) input_schema: Option<serde_json::Value>,
}

/// An item that no client could use.
pub(super) struct Unusable {
    /// Its name, if it has one.
    pub(super) key: Option<String>,
    pub(super) why: String,
}

impl Unusable {
    fn nameless(why: String) -> Self {
        Self { key: None, why }
    }
}

/// Reads one item. Refuses what no client could use.
pub(super) fn item(server: &Server, kind: Kind, text: &RawValue) -> Result<Option<Item>, Unusable> {
    let listed: Listed<'_> = serde_json::from_str(text.get())
        .map_err(|_| Unusable::nameless(format!("{}: an item is no object", kind.method())))?;
    let raw = match kind {
        Kind::Tools | Kind::Prompts => listed.name,
        Kind::Resources => listed.uri,
        Kind::Templates => listed.uri_template,
    };
    let key = raw.and_then(|raw| string(raw).map(|key| (raw, key.into_owned())));
    let Some((raw, key)) = key.filter(|(_, key)| !key.is_empty() && key.len() <= 2048) else {
        return Err(Unusable::nameless(format!("{}: an item has no usable name", kind.method())));
    };
    let filter = match kind {
        Kind::Tools => &server.tools,
        Kind::Prompts => &server.prompts,
        Kind::Resources | Kind::Templates => &server.resources,
    };
    if !filter.admits(&key) {
        return Ok(None);
    }
    let changes = (kind == Kind::Tools).then(|| server.overrides.get(&key)).flatten();
    if changes.is_some_and(|changes| changes.hide) {
        return Ok(None);
    }
    let mirrored = match (kind, &listed.input_schema) {
        (Kind::Tools, Some(schema)) => annotations(schema).map_err(|why| Unusable {
            key: Some(key.clone()),
            why: format!("tool {:?} is left out: {why}", shorten(&key)),
        })?,
        _ => Vec::new(),
    };
    let offered = match kind {
        Kind::Tools | Kind::Prompts => {
            let shown = changes.and_then(|changes| changes.rename.as_deref()).unwrap_or(&key);
            names::merged(&server.prefix, shown)
        }
        Kind::Resources | Kind::Templates => key.clone(),
    };
    let mut splice = Splice::new(text.get().as_bytes());
    if offered != key {
        splice.replace(raw, quote(&offered));
    }
    if let Some(description) = changes.and_then(|changes| changes.description.as_deref()) {
        match listed.description {
            Some(old) => splice.replace(old, quote(description)),
            None => splice.insert_first(&[b"\"description\":", &quote(description)[..]].concat()),
        }
    }
    let merged = String::from_utf8(splice.finish().to_vec())
        .ok()
        .and_then(|text| RawValue::from_string(text).ok())
        .unwrap_or_else(|| text.to_owned());
    let shows = if kind == Kind::Tools { apps::named(text) } else { Vec::new() };
    Ok(Some(Item { key, offered, text: text.to_owned(), merged, mirrored, shows }))
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
