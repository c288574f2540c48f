//! What a program may do to the machine that it runs on.

use super::super::fill;
use super::super::node::{Node, Value};
use super::super::types::{Sandbox, SandboxMode, Size};
use super::{DAY, Reader, SECOND, join};

/// The keys of a sandbox.
const KNOWN: [&str; 10] =
    ["mode", "read", "write", "network", "memory", "cpu", "processes", "files", "file_size", "namespace"];

const MODES: [(&str, SandboxMode); 3] =
    [("on", SandboxMode::On), ("off", SandboxMode::Off), ("required", SandboxMode::Required)];

/// How many paths one list may have.
const MOST_PATHS: usize = 256;

/// What is wrong with a path that is not [`whole`], and what to do.
pub(in super::super) const NOT_WHOLE: (&str, &str) =
    ("is not a whole path", "write one that begins with `/`, or with `~/` for the home directory");

impl Reader {
    pub(super) fn sandbox(&mut self, node: &Node, path: &str) -> Sandbox {
        let mut sandbox = Sandbox::default();
        match &node.value {
            Value::Bool(on) => sandbox.mode = if *on { SandboxMode::On } else { SandboxMode::Off },
            Value::Text(_) => sandbox.mode = self.one_of(node, path, &MODES).unwrap_or_default(),
            _ => {
                for entry in self.map(node, path).unwrap_or_default() {
                    let (own, node) = (join(path, &entry.key), &entry.node);
                    match entry.key.as_str() {
                        "mode" => sandbox.mode = self.one_of(node, &own, &MODES).unwrap_or_default(),
                        "read" => sandbox.read = self.paths(node, &own),
                        "write" => sandbox.write = self.paths(node, &own),
                        // VS Code's own sandbox, which is another thing with other keys.
                        "filesystem" => self.not_ours(entry.place, &own),
                        "network" if matches!(node.value, Value::Map(_)) => self.not_ours(entry.place, &own),
                        "network" => sandbox.network = self.flag(node, &own),
                        "memory" => sandbox.memory = self.size(node, &own, Size(16 << 20), Size(1 << 40)),
                        "cpu" => sandbox.cpu = self.span(node, &own, SECOND, 365 * DAY),
                        "processes" => sandbox.processes = self.count(node, &own, 1, 100_000),
                        "files" => sandbox.files = self.count(node, &own, 16, 1_000_000),
                        "file_size" => {
                            sandbox.file_size = self.size(node, &own, Size(4 << 10), Size(1 << 40));
                        }
                        "namespace" => sandbox.namespace = self.flag(node, &own),
                        _ => self.unknown(entry, path, &KNOWN),
                    }
                }
            }
        }
        sandbox
    }

    fn not_ours(&mut self, place: super::Place, path: &str) {
        let fix = "write `read`, `write` and `network: false` beside it";
        self.warn(place, path, "is a setting of VS Code's own sandbox and is ignored", fix);
    }

    fn paths(&mut self, node: &Node, path: &str) -> Vec<String> {
        let items = self.list(node, path).unwrap_or_default();
        if items.len() > MOST_PATHS {
            let fix = "name the folder that they are in";
            self.error(node.place, path, format!("has more than {MOST_PATHS} paths"), fix);
            return Vec::new();
        }
        let mut paths = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let own = format!("{path}[{i}]");
            let Some(text) = self.text(item, &own) else { continue };
            match fill::parts(&text) {
                Err(broken) => self.error(item.place, &own, broken.to_string(), broken.fix()),
                Ok(parts) => {
                    let filled = parts.first().is_some_and(fill::Part::is_filled);
                    if filled || whole(&text) {
                        paths.push(text);
                    } else {
                        self.error(item.place, &own, NOT_WHOLE.0, NOT_WHOLE.1);
                    }
                }
            }
        }
        paths
    }
}

/// Whether a path says by itself where it is.
pub(in super::super) fn whole(path: &str) -> bool {
    (path.starts_with('/') || path == "~" || path.starts_with("~/")) && !path.contains('\0')
}
