//! `causeway keys`.

use std::io::{IsTerminal, Read};

use causeway::config::keys::{NewKey, hash};
use clap::Subcommand;
use serde_json::json;

use super::{Failure, Outcome, complain, print, print_json};
use crate::platform::OsEntropy;

/// The longest key that the gateway looks at.
const MAX_KEY: u64 = 512;

/// Make keys for callers, or hash them for the configuration.
#[derive(Debug, clap::Args)]
#[command(long_about = "Make keys for callers, or hash them for the configuration.\n\n\
    A key is shown once and stored nowhere. The configuration holds its hash.")]
pub(super) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print it with the entry for the configuration
    New {
        /// Whom the key is for
        #[arg(long, value_name = "NAME", default_value = "me")]
        name: String,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a key from stdin and print its hash
    Hash {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Keys {
    pub(super) fn run(self) -> Outcome {
        match self.command {
            Command::New { name, json } => new(&name, json),
            Command::Hash { json } => hash_of_stdin(json),
        }
    }
}

fn new(name: &str, json: bool) -> Outcome {
    let key = NewKey::mint(&OsEntropy);
    if json {
        return print_json(&json!({ "name": name, "key": key.reveal(), "hash": key.hash() }));
    }
    // The key alone on stdout, so that `KEY=$(causeway keys new)` works.
    print(key.reveal())?;
    // As a JSON string the name is right in YAML too, whatever it holds.
    let name = serde_json::Value::from(name);
    complain(&format!(
        "\nGive this key to the caller; it is not shown again. Put its hash into the configuration:\n\n\
         keys:\n  {name}:\n    hash: {}",
        key.hash()
    ));
    Ok(())
}

fn hash_of_stdin(json: bool) -> Outcome {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        complain("paste the key and press Enter, then Ctrl-D");
    }
    let mut key = String::new();
    stdin
        .take(MAX_KEY + 2)
        .read_to_string(&mut key)
        .map_err(|error| Failure::Failed(format!("cannot read the key from stdin: {error}")))?;
    let key = key.trim();
    if key.is_empty() || key.len() as u64 > MAX_KEY || key.contains(char::is_whitespace) {
        return Err(Failure::Refused(format!(
            "stdin holds no key: 1 to {MAX_KEY} characters without a blank"
        )));
    }
    let hash = hash(key);
    if json { print_json(&json!({ "hash": hash })) } else { print(&hash) }
}
