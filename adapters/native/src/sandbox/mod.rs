//! What a program may do to the machine that it runs on, and that nothing of it stays behind.
//!
//! Every stdio server is started through a **keeper**: a process of this same binary that stands between the gateway
//! and the server. It never touches what the two say to each other, as the server inherits stdin, stdout and stderr.
//!
//! ```text
//! gateway ── keeper ┬─ guard    the first process of the server's PID namespace: when it ends, so does everything in it
//!                   └─ server   restricted by itself before it becomes the server, so that nothing runs unrestricted
//! ```
//!
//! | process | ends when | and then |
//! |---|---|---|
//! | gateway | it likes, by SIGKILL too | the keeper is told by the system (`PR_SET_PDEATHSIG`) and ends everything |
//! | keeper | the server has ended, or it is killed | the server and the guard are ended by the system |
//! | guard | the keeper has ended | with it its namespace; without one it ends whoever carries the server's mark |
//!
//! What is asked for stands in the [plan](causeway::config::plan::Sandbox); what this system cannot do of it is said by
//! [`report`]. No part of it needs more rights than the gateway has.
//!
//! Invariant: nothing secret is on a command line, and the server's environment holds what its entry lists and
//! `base.rs` names, and nothing else of the gateway's.

mod base;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod group;
#[cfg(target_os = "linux")]
mod guard;
#[cfg(unix)]
mod keeper;
#[cfg(unix)]
mod limits;
#[cfg(target_os = "linux")]
mod mounts;
mod orders;
mod rules;
#[cfg(unix)]
mod runner;
mod system;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use causeway::config::plan::{Sandbox, SandboxMode};
use serde::Serialize;

use orders::{Bounds, Orders};
use system::System;

/// A program, and within which bounds it is to run.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    /// The server's name.
    pub name: String,
    /// What to run: a path, or a name to look up in `PATH`.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment variables, filled in. The base (`base.rs`) is added to them.
    pub env: Vec<(String, String)>,
    /// Its working directory, if the entry names one.
    pub cwd: Option<PathBuf>,
    /// What it may do.
    pub sandbox: Sandbox,
}

impl std::fmt::Debug for Spec {
    /// Arguments and variables may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec")
            .field("name", &self.name)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

impl Spec {
    /// The environment that the program gets, but for what is private to one start.
    #[must_use]
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        base::environment(self)
    }

    /// Where commands are looked up.
    #[must_use]
    pub fn path(&self) -> OsString {
        base::value(&self.environment(), "PATH").unwrap_or_default()
    }
}

/// The binary whose keeper is used.
#[derive(Debug, Clone)]
pub struct Keeper(PathBuf);

impl Keeper {
    /// The one that runs. On Linux it is found even after its file was replaced.
    #[must_use]
    pub fn own() -> Self {
        if cfg!(target_os = "linux") {
            return Self("/proc/self/exe".into());
        }
        Self(std::env::current_exe().unwrap_or_else(|_| "causeway".into()))
    }

    /// The `causeway` at `path`, for what is not `causeway` itself.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

/// Why a program is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// The command that starts the keeper, which starts the program.
///
/// Its stdin, stdout and stderr are the program's, and so is its exit status: the keeper ends as the program did. A
/// line on stderr that begins with `causeway: ` is the keeper's and says why the program could not be run (exit
/// codes 126 and 127), or why the keeper ended it (SIGKILL).
///
/// # Errors
/// If the program cannot be found, or a [required](SandboxMode::Required) sandbox cannot be had.
pub fn command(spec: &Spec, keeper: &Keeper) -> Result<tokio::process::Command, Refused> {
    let orders = orders(spec, System::of(keeper))?;
    let text = serde_json::to_string(&orders.0).map_err(|error| Refused(error.to_string()))?;
    let mut command = tokio::process::Command::new(&keeper.0);
    #[cfg(unix)]
    command.arg0("causeway");
    command.arg(orders::KEEP).arg(&spec.name).arg("--").arg(&spec.command).args(&spec.args);
    command.env_clear().env(orders::ORDERS, text);
    for (name, value) in orders.1 {
        command.env(orders::carried(&name), value);
    }
    Ok(command)
}

/// What there is to say about a program's sandbox when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether there is a sandbox.
    pub on: bool,
    /// What this system cannot do of what was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// What is likely to go wrong, and what to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.on {
            return f.write_str("sandbox: off");
        }
        f.write_str("sandbox: on")?;
        self.lacks.iter().chain(&self.notes).try_for_each(|text| write!(f, "; {text}"))
    }
}

/// What there is to say about the sandbox of `spec` on this system.
#[must_use]
pub fn report(spec: &Spec, keeper: &Keeper) -> Report {
    if spec.sandbox.mode == SandboxMode::Off {
        return Report { on: false, lacks: Vec::new(), notes: Vec::new() };
    }
    let system = System::of(keeper);
    let notes = match outline(spec) {
        Ok((program, env)) => rules::rules(spec, &program, &env, None).notes,
        Err(Refused(why)) => vec![why],
    };
    Report { on: cfg!(unix), lacks: system.lacks(&spec.sandbox), notes }
}

/// The files and folders that `spec` may read, and those that it may write.
///
/// # Errors
/// If the program cannot be found.
pub fn paths(spec: &Spec) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Refused> {
    let (program, env) = outline(spec)?;
    let rules = rules::rules(spec, &program, &env, None);
    Ok((rules.read, rules.write))
}

/// Tells the server of this keeper, and all that it started, to end (SIGTERM).
#[cfg(unix)]
pub fn terminate(keeper: u32) {
    signal(keeper, rustix::process::Signal::TERM);
}

/// Ends the server of this keeper, and all that it started, at once. The keeper ends after them.
#[cfg(unix)]
pub fn kill(keeper: u32) {
    signal(keeper, rustix::process::Signal::USR1);
}

/// The memory of the server of this keeper and all that it started, where the system tells.
#[must_use]
pub fn memory(keeper: u32) -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let mut all = group::descendants(keeper, usize::MAX);
        all.retain(|pid| !group::is_guard(*pid));
        (!all.is_empty()).then(|| group::measure(&all).memory)
    }
    #[cfg(not(target_os = "linux"))]
    {
        _ = keeper;
        None
    }
}

#[cfg(unix)]
fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        _ = rustix::process::kill_process(pid, signal);
    }
}

/// The part of `causeway` that is not for people: keeper, guard, and what becomes the server. `None` if the process
/// was started as anything else.
#[must_use]
pub fn entry() -> Option<ExitCode> {
    let word = std::env::args_os().nth(1)?;
    match word.to_str()? {
        #[cfg(unix)]
        orders::KEEP => Some(keeper::main()),
        #[cfg(unix)]
        orders::RUN => Some(runner::main()),
        #[cfg(target_os = "linux")]
        orders::GUARD => Some(guard::main()),
        #[cfg(target_os = "linux")]
        orders::PROBE => Some(system::main()),
        _ => None,
    }
}

/// What is run, and the whole environment that it gets, but for what is private to one start.
fn outline(spec: &Spec) -> Result<(PathBuf, Vec<(OsString, OsString)>), Refused> {
    let env = base::environment(spec);
    let path = base::value(&env, "PATH").unwrap_or_default();
    let program = base::program(&spec.command, spec.cwd.as_deref(), &path).ok_or_else(|| {
        Refused(if spec.command.contains('/') {
            format!("command: there is no program `{}`: write its whole path", spec.command)
        } else {
            let fix = "install it, or write its whole path";
            format!("command: `{}` is not found in PATH ({}): {fix}", spec.command, path.to_string_lossy())
        })
    })?;
    Ok((program, env))
}

/// What the keeper is told, and the program's environment.
fn orders(spec: &Spec, system: &System) -> Result<(Orders, Vec<(OsString, OsString)>), Refused> {
    let (program, mut env) = outline(spec)?;
    let sandbox = &spec.sandbox;
    let on = sandbox.mode != SandboxMode::Off;
    if sandbox.mode == SandboxMode::Required {
        let lacks = system.lacks_of_importance();
        if !lacks.is_empty() {
            let fix = "write `sandbox: on` to run it with what there is";
            return Err(Refused(format!("sandbox: is required, and {}: {fix}", lacks.join("; "))));
        }
    }
    if let Some(cwd) = &spec.cwd
        && !cwd.is_dir()
    {
        return Err(Refused(format!("cwd: {} is not a folder: make it first", cwd.display())));
    }
    let mark = base::mark(&spec.name);
    let mut orders = Orders {
        name: spec.name.clone(),
        parent: std::process::id(),
        program,
        command: spec.command.clone(),
        cwd: spec.cwd.clone(),
        private: Vec::new(),
        temp: None,
        namespaces: if on && sandbox.namespace { system.namespaces } else { system::Namespaces::None },
        bounds: None,
        mark: mark.clone(),
    };
    base::set(&mut env, orders::MARK, mark.clone().into());
    if on {
        base::sweep();
        let private = base::Private::new(spec, &mark, &env);
        private.describe(spec, &mut env);
        let mut rules = rules::rules(spec, &orders.program, &env, Some(&private));
        if orders.namespaces != system::Namespaces::None {
            // One of its own: otherwise what others share stays theirs.
            rules.write.push("/dev/shm".into());
        }
        let home = base::value(&env, "HOME").map(PathBuf::from).unwrap_or_default();
        let lost = |file: &str| home.join(file).exists() && !rules.grant(&home.join(file));
        let said = base::value(&env, "GIT_CONFIG_GLOBAL").is_some();
        if !said && [".gitconfig", ".config/git/config"].into_iter().any(lost) {
            // git does nothing at all if it has a configuration and may not read it.
            base::set(&mut env, "GIT_CONFIG_GLOBAL", "/dev/null".into());
        }
        if spec.cwd.is_none() && !rules.relative {
            orders.cwd = Some(private.temp.clone());
        }
        orders.private = vec![private.cache];
        orders.temp = Some(private.temp);
        orders.bounds = Some(Bounds {
            read: rules.read,
            write: rules.write,
            hide: rules.hide,
            network: sandbox.network,
            memory: sandbox.memory,
            cpu: sandbox.cpu.as_secs().max(1),
            processes: sandbox.processes,
            files: sandbox.files,
            file_size: sandbox.file_size,
            seccomp: system.seccomp,
            landlock: system.landlock > 0,
        });
    }
    Ok((orders, env))
}

/// Whether `inner` is `outer` or beneath it.
fn beneath(inner: &Path, outer: &Path) -> bool {
    inner.starts_with(outer)
}
