//! `causeway validate` and `causeway schema`.

use std::path::PathBuf;

use causeway::config::plan::Server;
use causeway::config::{Problem, schema};
use causeway::platform::{Abilities, Links};
use serde_json::json;

use super::{Failure, Outcome, complain, print, print_json};
use crate::programs::Launch;
use crate::sandbox::Keeper;
use crate::secrets::Secrets;
use crate::source;

/// Check a configuration file and list every problem in it.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Check a configuration file and list every problem in it, as file:line:column: key: problem: fix.\n\n\
    Warnings name what is ignored or left out, such as a server whose ${NAME} is not set here, and programs that this \
    machine does not have; they do not make the file invalid.",
    after_help = "Examples:\n  \
    causeway validate gateway.yaml\n  \
    causeway validate ~/.cursor/mcp.json\n  \
    causeway validate gateway.yaml --no-secrets --json      # in a pipeline that has no secrets"
)]
pub(super) struct Validate {
    /// The configuration: YAML, TOML or JSON, or an unchanged mcp.json
    file: PathBuf,

    /// Check the file alone, not what its ${NAME}s stand for on this machine, nor whether its programs are there
    #[arg(long)]
    no_secrets: bool,

    /// Print the problems as JSON
    #[arg(long)]
    json: bool,
}

impl Validate {
    pub(super) fn run(self) -> Outcome {
        let checked = match source::check(&self.file) {
            Ok(checked) => checked,
            Err(problem) if self.json => {
                print_json(&json!({ "file": self.file, "valid": false, "problems": [{
                    "line": 0, "column": 0, "key": "", "what": problem, "fix": "", "severity": "error" }] }))?;
                return Err(Failure::Refused(String::new()));
            }
            Err(problem) => return Err(Failure::Refused(problem)),
        };
        let mut problems = checked.reading.problems.clone();
        if !self.no_secrets && checked.config().is_some() {
            let secrets = Secrets::beside(Some(&self.file));
            secrets.reload().iter().for_each(|problem| complain(&format!("warning: {problem}")));
            // Where it will listen, the file does not know; `serve` does.
            let abilities = Abilities {
                host: "native",
                processes: true,
                loopback_only: true,
                keyless: true,
                config_file: true,
                mailboxes: true,
                links: Links::Sockets,
            };
            match checked.plan(&secrets, abilities) {
                Ok(plan) => {
                    problems.extend(checked.reading.skipped(&plan));
                    let missing = plan.servers.iter().filter_map(|server| missing(server));
                    problems.extend(missing.map(|problem| checked.reading.locate(problem)));
                }
                Err(all) => problems = all,
            }
        }
        let valid = !problems.iter().any(Problem::is_error);
        let digest = checked.config().map(causeway::config::Config::digest);
        if self.json {
            print_json(&json!({
                "file": checked.file,
                "valid": valid,
                "digest": digest.filter(|_| valid),
                "problems": problems,
            }))?;
        } else {
            checked.lines(&problems).iter().for_each(|line| complain(line));
            if valid {
                let count = checked.config().map_or(0, |config| config.servers.iter().count());
                let servers = if count == 1 { "server" } else { "servers" };
                let digest = digest.unwrap_or_default();
                print(&format!("{}: valid: {count} {servers}, configuration {digest}", checked.file))?;
            }
        }
        if valid { Ok(()) } else { Err(Failure::Refused(String::new())) }
    }
}

/// Why the program that `server` is does not start on this machine, if it is one.
fn missing(server: &Server) -> Option<Problem> {
    let why = Launch::new(&server.name, server.program.as_ref()?, &Keeper::own()).err()?;
    let (key, what) = why.split_once(": ").unwrap_or(("command", &why));
    Some(Problem::warning(format!("mcpServers.{}.{key}", server.name), what, ""))
}

/// Print the JSON Schema of the configuration, for editors.
#[derive(Debug, clap::Args)]
#[command(long_about = "Print the JSON Schema (draft 7) of the configuration, for editors.\n\n\
    In YAML, name it in the first line: # yaml-language-server: $schema=causeway.schema.json")]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Outcome {
        print_json(&schema())
    }
}
