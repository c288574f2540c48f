//! The sandbox and the keeper, with a program that tries to get out of them for real.
//!
//! Each attempt is made twice: in the sandbox, where it must fail, and without one, where it must succeed, so that a check
//! that can never fail is seen. As root everything is done once more as another user.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

mod ends;
#[cfg(target_os = "linux")]
mod escape;
#[cfg(target_os = "linux")]
mod other;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use causeway::config::plan::{Sandbox, SandboxMode};
use causeway_native::sandbox::{Keeper, Spec, command};
use serde_json::Value;

/// The program that tries. It is built here if it is not there, as it belongs to another package.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("CAUSEWAY_ESCAPE") {
            return program.into();
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "causeway-fixture", "--bin", "causeway-escape"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .status();
        assert!(built.unwrap().success());
        Path::new(env!("CARGO_BIN_EXE_causeway")).with_file_name("causeway-escape")
    })
}

fn keeper() -> Keeper {
    Keeper::at(env!("CARGO_BIN_EXE_causeway"))
}

/// A home directory of the tests' own, which goes with them.
fn home() -> &'static Path {
    static HOME: OnceLock<tempfile::TempDir> = OnceLock::new();
    HOME.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// Runs `causeway-escape` with these arguments.
fn spec(sandbox: Sandbox, args: &[&str]) -> Spec {
    Spec {
        name: "escape".to_owned(),
        command: program().to_str().unwrap().to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![("HOME".to_owned(), home().to_str().unwrap().to_owned())],
        cwd: None,
        sandbox,
    }
}

fn off() -> Sandbox {
    Sandbox { mode: SandboxMode::Off, ..Sandbox::default() }
}

fn started(spec: &Spec) -> Child {
    let mut command = command(spec, &keeper()).unwrap().into_std();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How an attempt went.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    /// What the program said of it, unless it was ended before it could.
    said: Option<Value>,
    stderr: String,
}

impl Ended {
    fn done(&self) -> bool {
        self.said.as_ref().is_some_and(|said| said["done"] == true)
    }

    fn what(&self) -> &str {
        self.said.as_ref().and_then(|said| said["what"].as_str()).unwrap_or_default()
    }
}

fn run(spec: &Spec) -> Ended {
    let mut child = started(spec);
    drop(child.stdin.take());
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text)
    });
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    let stderr = reader.join().unwrap().unwrap();
    let said = text.lines().find_map(|line| serde_json::from_str(line).ok());
    Ended { status: child.wait().unwrap(), said, stderr }
}

/// Whether there are no PID namespaces to be had here.
#[cfg(target_os = "linux")]
fn lacks_namespaces() -> bool {
    let report = causeway_native::sandbox::report(&spec(Sandbox::default(), &[]), &keeper());
    report.lacks.iter().any(|lack| lack.contains("no PID namespace"))
}

/// Waits until `what` holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
