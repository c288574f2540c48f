//! Callers' keys, and browser origins.

use std::collections::BTreeMap;

use url::Url;

use super::super::fill;
use super::super::keys::parse_hash;
use super::super::node::{Node, Value};
use super::super::plan::MODELS;
use super::super::problem::{Place, nearest};
use super::super::types::{Choice, Key, Named, Provider, Server};
use super::{Reader, is_comment, join};

const KNOWN: [&str; 8] = ["hash", "hashes", "servers", "tools", "models", "contexts", "links", "admin"];

impl Reader {
    pub(super) fn keys(&mut self, node: &Node, into: &mut Named<Key>) {
        let mut hashes = BTreeMap::new();
        for entry in self.map(node, "keys").unwrap_or_default() {
            let path = join("keys", &entry.key);
            if is_comment(&entry.key) && !matches!(entry.node.value, Value::Map(_)) {
                continue;
            }
            if !is_caller(&entry.key) {
                let fix = "use up to 64 letters, digits and any of `_-.@+`";
                self.error(entry.place, &path, "is not a name for a caller", fix);
            }
            let key = self.key(&entry.node, &path, entry.place, &mut hashes);
            into.0.push((entry.key.clone(), key));
        }
    }

    fn key(&mut self, node: &Node, path: &str, place: Place, seen: &mut BTreeMap<String, String>) -> Key {
        let mut key = Key::default();
        if matches!(node.value, Value::Text(_)) {
            key.hash = self.hash(node, path, seen);
            return key;
        }
        let (mut given, before) = (false, self.problems.len());
        for entry in self.map(node, path).unwrap_or_default() {
            let (own, node) = (join(path, &entry.key), &entry.node);
            match entry.key.as_str() {
                "hash" => {
                    given = node.value != Value::Null;
                    key.hash = self.hash(node, &own, seen);
                }
                "hashes" => {
                    for (i, item) in self.list(node, &own).unwrap_or_default().iter().enumerate() {
                        given = true;
                        key.hashes.extend(self.hash(item, &format!("{own}[{i}]"), seen));
                    }
                }
                "servers" => {
                    key.servers = self.choice(node, &own);
                    self.remember_names(node, &own, &key.servers);
                }
                "tools" => key.tools = self.choice(node, &own),
                "models" => key.models = self.choice(node, &own),
                "contexts" => {
                    key.contexts = self.text(node, &own);
                    if key.contexts.as_ref().is_some_and(|name| !is_caller(name)) {
                        let fix = "use up to 64 letters, digits and any of `_-.@+`";
                        self.error(node.place, &own, "is not a name for what callers share", fix);
                    }
                }
                "links" => key.links = self.links(node, &own),
                "admin" => key.admin = self.flag(node, &own).unwrap_or(false),
                _ => self.unknown(entry, path, &KNOWN),
            }
        }
        if !given && self.problems.len() == before {
            let fix = "make a key with `causeway keys new` and store its hash here";
            self.error(place, path, "has no `hash`", fix);
        }
        key
    }

    fn hash(&mut self, node: &Node, path: &str, seen: &mut BTreeMap<String, String>) -> Option<String> {
        let text = self.text(node, path)?;
        if text.contains("${") {
            if let Err(broken) = fill::parts(&text) {
                self.error(node.place, path, broken.to_string(), broken.fix());
            }
            return Some(text);
        }
        let text = text.trim().to_ascii_lowercase();
        if let Err((what, fix)) = parse_hash(&text) {
            self.error(node.place, path, what, fix);
            return None;
        }
        if let Some(other) = seen.insert(text.clone(), path.to_owned()) {
            let fix = "give each caller a key of their own";
            self.error(node.place, path, format!("is the same key as {other}"), fix);
        }
        Some(text)
    }

    /// Keeps names of servers for later, with the place of each.
    fn remember_names(&mut self, node: &Node, path: &str, choice: &Choice) {
        let place = |key: &str, i: usize| {
            let list = match &node.value {
                Value::Map(entries) => {
                    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node.value)
                }
                value => Some(value),
            };
            match list {
                Some(Value::List(items)) => items.get(i).map_or(node.place, |item| item.place),
                _ => node.place,
            }
        };
        let in_list = matches!(node.value, Value::List(_));
        for (key, names) in [("allow", &choice.allow), ("deny", &choice.deny)] {
            for (i, name) in names.iter().enumerate().filter(|(_, name)| !name.contains(['*', '?'])) {
                let path = if in_list { format!("{path}[{i}]") } else { format!("{path}.{key}[{i}]") };
                self.server_lists.push((path, place(key, i), name.clone()));
            }
        }
    }

    /// Under which names links may be opened. Nothing is allowed unless it is named.
    fn links(&mut self, node: &Node, path: &str) -> Vec<String> {
        let links = self.globs(node, path);
        for (i, link) in links.iter().enumerate().filter(|(_, link)| !link.contains(['*', '?'])) {
            let place = match &node.value {
                Value::List(items) => items.get(i).map_or(node.place, |item| item.place),
                _ => node.place,
            };
            self.link_lists.push((format!("{path}[{i}]"), place, link.clone()));
        }
        links
    }

    pub(super) fn check_link_lists(&mut self, servers: &Named<Server>, providers: &Named<Provider>) {
        let links = || {
            let models = providers.iter().filter_map(|(_, provider)| provider.via.as_deref());
            servers.iter().filter_map(|(_, server)| server.via.as_deref()).chain(models)
        };
        for (path, place, name) in std::mem::take(&mut self.link_lists) {
            if !links().any(|link| link == name) {
                let fix = match nearest(&name, links()) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => format!("give what is behind it `via: {name}`"),
                };
                self.warn(
                    place,
                    &path,
                    format!("nothing is behind a link called {}", super::shown(&name)),
                    fix,
                );
            }
        }
    }

    pub(super) fn check_server_lists(&mut self, servers: &Named<Server>, models: bool) {
        for (path, place, name) in std::mem::take(&mut self.server_lists) {
            if servers.named(&name).is_none() && !(models && name == MODELS) {
                let fix = match nearest(&name, servers.iter().map(|(name, _)| name)) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "use a name under `mcpServers`".to_owned(),
                };
                self.warn(place, &path, format!("there is no server called {}", super::shown(&name)), fix);
            }
        }
    }

    pub(super) fn origins(&mut self, node: &Node) -> Vec<String> {
        let mut origins = Vec::new();
        for (i, item) in self.list(node, "origins").unwrap_or_default().iter().enumerate() {
            let path = format!("origins[{i}]");
            let Some(text) = self.text(item, &path) else {
                if item.value == Value::Null {
                    self.wrong(item, &path, "an origin");
                }
                continue;
            };
            match fill::parts(&text) {
                Err(broken) => self.error(item.place, &path, broken.to_string(), broken.fix()),
                Ok(parts) if parts.iter().any(fill::Part::is_filled) => origins.push(text),
                Ok(_) => match origin(&text) {
                    Some(origin) => origins.push(origin),
                    None => {
                        let fix = "write `scheme://host` or `scheme://host:port` and nothing more, or `*`";
                        self.error(item.place, &path, format!("is {}", super::shown(&text)), fix);
                    }
                },
            }
        }
        origins
    }
}

fn is_caller(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.@+".contains(c))
}

/// An origin as browsers send it, or `*`.
pub(in super::super) fn origin(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let url = Url::parse(text).ok().filter(|_| !text.contains(['*', '?', '#', '@', ' ']))?;
    let (scheme, rest) = text.split_once("://")?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.is_empty() || host.contains('/') {
        return None;
    }
    if matches!(url.scheme(), "http" | "https") {
        return Some(url.origin().ascii_serialization());
    }
    Some(format!("{}://{host}", scheme.to_ascii_lowercase()))
}
