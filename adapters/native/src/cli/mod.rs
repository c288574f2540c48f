//! The command line. Answers go to stdout, all else to stderr; 0 is fine, 1 failed, 2 wrong usage or configuration.

mod ask;
mod call;
mod config;
mod connect;
mod keys;
mod push;
mod remote;
mod serve;
mod status;
mod stdio;
mod table;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub(crate) use table::utc;

/// One endpoint in front of every MCP server a team uses.
#[derive(Debug, Parser)]
#[command(name = "causeway", bin_name = "causeway", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.\n\
    Answers go to stdout, logs and progress to stderr; --json makes answers for machines.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// A comment on a command here would take the place of the long help that the command brings itself.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Connect(connect::Connect),
    Validate(config::Validate),
    Schema(config::Schema),
    Keys(keys::Keys),
    Push(push::Push),
    Status(status::Status),
    Call(call::Call),
    Ask(ask::Ask),
    Models(ask::Models),
    Stdio(stdio::Stdio),
    /// Print the version
    Version(Version),
}

#[derive(Debug, Args)]
struct Version {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a command does not end well.
#[derive(Debug)]
enum Failure {
    /// It did not work out: exit code 1.
    Failed(String),
    /// It could not have: wrong usage or configuration, exit code 2.
    Refused(String),
}

type Outcome = Result<(), Failure>;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // Whoever wrote `causeway … | head` is not to see a panic; clap prints its own usage errors and exits with 2.
    let outcome = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Connect(connect) => connect.run(),
        Command::Validate(validate) => validate.run(),
        Command::Schema(schema) => schema.run(),
        Command::Keys(keys) => keys.run(),
        Command::Push(push) => wait(push.run()),
        Command::Status(status) => wait(status.run()),
        Command::Call(call) => wait(call.run()),
        Command::Ask(ask) => wait(ask.run()),
        Command::Models(models) => wait(models.run()),
        Command::Stdio(stdio) => stdio.run(),
        Command::Version(version) => version.run(),
    };
    let (code, message) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => (1, message),
        Err(Failure::Refused(message)) => (2, message),
    };
    if !message.is_empty() {
        complain(&message);
    }
    ExitCode::from(code)
}

impl Version {
    fn run(self) -> Outcome {
        let version = env!("CARGO_PKG_VERSION");
        if self.json {
            let revisions: Vec<_> =
                causeway::mcp::revision::Revision::ALL.iter().map(|revision| revision.as_str()).collect();
            return print_json(&serde_json::json!({
                "version": version,
                "host": "native",
                "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
                "mcp": revisions,
            }));
        }
        print(&format!("causeway {version}"))
    }
}

/// Runs a command that asks another machine; one thread is enough for that.
fn wait(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Failed(error.to_string()))?.block_on(command)
}

/// Prints a line to stdout.
fn print(text: &str) -> Outcome {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(format!("cannot write to stdout: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Outcome {
    print(&serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?)
}

/// Prints lines to stderr. There is nowhere left to say that stderr is closed.
fn complain(text: &str) {
    use std::io::Write;
    _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
