//! What stands between the gateway and the servers of a case, by `CAUSEWAY_BEHIND`.
//!
//! | `CAUSEWAY_BEHIND` | |
//! |---|---|
//! | nothing | the gateway asks each server itself |
//! | `link` | every server is behind a link: the gateway's file has it with `via`, and a companion that is started beside the gateway offers it |
//! | `stdio` | each fixture is a program that the gateway runs: one that passes messages on between its standard input and output and the fixture. At the edge, where nothing can be run, as `link-stdio` |
//! | `link-stdio` | each fixture is such a program, and the companion runs it |

use serde_json::{Value, json};

use crate::hash;
use crate::host::{Host, fixture_program};

/// The link that servers are behind, and the key of its companion where the configuration brings keys.
pub(crate) const LINK: &str = "suite";
pub(crate) const LINK_KEY: &str = "key-of-the-companion";

/// Whether servers are behind a link, and whether they are programs.
fn chosen() -> (bool, bool) {
    match std::env::var("CAUSEWAY_BEHIND").as_deref() {
        Ok("") | Err(_) => (false, false),
        Ok("link") => (true, false),
        Ok("stdio") => (Host::chosen() != Host::Native, true),
        Ok("link-stdio") => (true, true),
        Ok(other) => panic!("this suite cannot put servers behind {other:?}"),
    }
}

/// Whether servers are behind a link.
#[must_use]
pub fn is_behind_link() -> bool {
    chosen().0
}

/// Whether fixtures are stdio servers.
#[must_use]
pub fn is_behind_stdio() -> bool {
    chosen().1
}

/// Says on stderr why a case is left out where fixtures are stdio servers, and whether it is.
pub fn left_out_behind_stdio(case: &str, reason: &str) -> bool {
    let left_out = is_behind_stdio();
    if left_out {
        eprintln!("{case} is left out behind stdio: {reason}");
    }
    left_out
}

/// `config` as it goes into the gateway's file. `key` is that of callers who have none of their own.
pub(crate) fn written(config: &Value, key: Option<&str>, behind: bool) -> String {
    let mut config = config.clone();
    as_programs(&mut config);
    match key.filter(|_| config["keys"].is_null()) {
        Some(key) => config["keys"] = json!({"suite": {"hash": hash(key), "admin": true, "links": ["*"]}}),
        None if behind && config["keys"].is_object() => {
            config["keys"]["companion-of-the-suite"] = json!({"hash": hash(LINK_KEY), "links": ["*"]});
        }
        None => {}
    }
    if behind {
        for entry in entries(&mut config).filter(|entry| is_of_this_machine(entry)) {
            entry["via"] = json!(LINK);
        }
    }
    config.to_string()
}

/// Whether there is something in `config` to be put behind a link.
pub(crate) fn has_work(config: &Value) -> bool {
    entries(&mut config.clone()).any(|entry| is_of_this_machine(entry))
}

/// What the companion offers of `config`.
pub(crate) fn offered(config: &Value) -> Value {
    let mut offered = json!({ "mcpServers": config["mcpServers"] });
    as_programs(&mut offered);
    offered
}

fn entries(config: &mut Value) -> impl Iterator<Item = &mut Value> {
    config["mcpServers"].as_object_mut().into_iter().flat_map(|servers| servers.values_mut())
}

fn is_of_this_machine(entry: &Value) -> bool {
    (entry["url"].is_string() || entry["command"].is_string()) && entry["via"].is_null()
}

/// Makes programs of the servers that are fixtures, where fixtures are programs.
fn as_programs(config: &mut Value) {
    if !is_behind_stdio() {
        return;
    }
    for server in entries(config) {
        let Some(address) = server["url"].as_str().and_then(causeway_fixture::piped) else { continue };
        let Some(server) = server.as_object_mut() else { continue };
        server.shift_remove("url");
        server.shift_remove("headers");
        server.insert("command".to_owned(), json!(fixture_program()));
        server.insert("args".to_owned(), json!(["--pipe", address.to_string()]));
    }
}
