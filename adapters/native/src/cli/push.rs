//! `causeway push`.

use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};

use super::remote::Remote;
use super::table::{table, utc};
use super::{Failure, Outcome, complain, print, print_json};
use crate::source;

const PATH: &str = "/admin/v1/config";

/// Send a configuration to a running gateway, list its versions, or roll back.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Send a configuration to a running gateway, list its versions, or roll back.\n\n\
    The file is checked here first and sent as normalized JSON. The gateway checks it again, keeps it as a new \
    version, and every instance serves it within about a minute, without a deploy. ${NAME}s stay as they are: the \
    gateway fills them in from its own secrets.",
    after_help = "Examples:\n  \
    causeway push https://gateway.example.com --config gateway.yaml\n  \
    causeway push https://gateway.example.com --list\n  \
    causeway push https://gateway.example.com --rollback        # to the version before\n  \
    causeway push https://gateway.example.com --rollback 12"
)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["config", "rollback", "list"]))]
pub(super) struct Push {
    #[command(flatten)]
    remote: Remote,

    /// The configuration to send
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Serve an older version again: the one before, or this one
    #[arg(long, value_name = "VERSION", num_args = 0..=1)]
    rollback: Option<Option<u64>>,

    /// List the versions that the gateway keeps
    #[arg(long)]
    list: bool,

    /// Print what the gateway answers, as JSON
    #[arg(long)]
    json: bool,
}

impl Push {
    pub(super) async fn run(self) -> Outcome {
        if let Some(file) = &self.config {
            let checked = source::check(file).map_err(Failure::Refused)?;
            checked.lines(&checked.reading.problems).iter().for_each(|line| complain(line));
            let config = checked.config().ok_or_else(|| Failure::Refused(String::new()))?;
            let answer = self.remote.ask(Method::PUT, PATH, Some(config.normalized().into())).await?;
            return self.say("pushed", &answer);
        }
        if let Some(version) = self.rollback {
            let body = version.map_or_else(|| json!({}), |version| json!({ "version": version })).to_string();
            let answer =
                self.remote.ask(Method::POST, "/admin/v1/config/rollback", Some(body.into())).await?;
            return self.say("rolled back to", &answer);
        }
        let answer = self.remote.ask(Method::GET, PATH, None).await?;
        if self.json { print_json(&answer) } else { print(&versions(&answer)) }
    }

    fn say(&self, done: &str, answer: &Value) -> Outcome {
        if self.json {
            return print_json(answer);
        }
        let version = answer.pointer("/current/version").and_then(Value::as_u64);
        let digest = answer.pointer("/current/digest").and_then(Value::as_str);
        print(&match (version, digest) {
            (Some(version), Some(digest)) => format!("{done} version {version} ({digest})"),
            _ => format!("{done}: the gateway agreed"),
        })
    }
}

fn versions(answer: &Value) -> String {
    let in_force = answer.pointer("/current/version");
    let rows: Vec<_> = answer
        .get("versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|one| {
            let version = one.get("version");
            let mark = if version.is_some() && version == in_force { "*" } else { "" };
            let digest = one.get("digest").and_then(Value::as_str).unwrap_or("-");
            let at = one.get("at").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), utc);
            [mark.to_owned(), version.map_or_else(String::new, ToString::to_string), digest.to_owned(), at]
        })
        .collect();
    if rows.is_empty() {
        return "nothing was pushed yet".to_owned();
    }
    table(["", "VERSION", "DIGEST", "PUSHED"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_in_force_is_marked() {
        let answer = json!({
            "current": { "version": 1, "digest": "ab", "at": 0 },
            "versions": [{ "version": 2, "digest": "cd", "at": 1_795_225_621_000_u64 }, { "version": 1 }],
        });
        assert_eq!(
            versions(&answer),
            "   VERSION  DIGEST  PUSHED\n   2        cd      2026-11-21 01:47:01Z\n*  1        -       -"
        );
        assert_eq!(versions(&json!({})), "nothing was pushed yet");
    }
}
