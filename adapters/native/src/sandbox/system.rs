//! What this system can do, found out once by a process that tries it and ends.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use causeway::config::plan::Sandbox;
use serde::{Deserialize, Serialize};

use super::Keeper;

/// Which namespaces a server is put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Namespaces {
    /// None.
    #[default]
    None,
    /// For processes, mounts and System V IPC, by the rights that the gateway has.
    Own,
    /// The same, inside a user namespace of the same user.
    User,
}

/// What this system can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct System {
    /// The version of Landlock, 0 without it.
    pub(super) landlock: i32,
    pub(super) seccomp: bool,
    pub(super) namespaces: Namespaces,
    /// Why there are no namespaces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
}

impl System {
    /// What `keeper` finds. It looks once.
    pub(super) fn of(keeper: &Keeper) -> &'static Self {
        static KNOWN: Mutex<Option<HashMap<PathBuf, &'static System>>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        // There is one keeper, two in a test: that much is kept for good.
        known
            .get_or_insert_default()
            .entry(keeper.0.clone())
            .or_insert_with(|| Box::leak(Self::probe(keeper).into()))
    }

    #[cfg(target_os = "linux")]
    fn probe(keeper: &Keeper) -> Self {
        use std::process::{Command, Stdio};
        let asked = Command::new(&keeper.0)
            .arg(super::orders::PROBE)
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let found = asked.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok());
        found.unwrap_or_else(|| Self { why: "the keeper cannot be started".into(), ..Self::default() })
    }

    #[cfg(not(target_os = "linux"))]
    fn probe(_: &Keeper) -> Self {
        Self::default()
    }

    /// What is missing and lets a server do what it should not.
    pub(super) fn lacks_of_importance(&self) -> Vec<String> {
        if !cfg!(target_os = "linux") {
            let os = std::env::consts::OS;
            return vec![format!("{os} has no sandbox: files, network and system calls are not restricted")];
        }
        let mut lacks = Vec::new();
        if self.landlock == 0 {
            lacks.push("this kernel has no Landlock: files are not restricted".to_owned());
        }
        if !self.seccomp {
            lacks.push(
                "this kernel has no seccomp filters: network and system calls are not restricted".to_owned(),
            );
        }
        lacks
    }

    /// What of `asked` cannot be done here.
    pub(super) fn lacks(&self, asked: &Sandbox) -> Vec<String> {
        let mut lacks = self.lacks_of_importance();
        if !cfg!(target_os = "linux") {
            lacks.push(
                "memory, CPU time and processes are limited for each process, not for all together"
                    .to_owned(),
            );
            return lacks;
        }
        if (1..6).contains(&self.landlock) {
            lacks.push(format!(
                "Landlock {} (6 is needed): abstract sockets of others can be reached{}",
                self.landlock,
                if self.namespaces == Namespaces::None {
                    ", and processes of the same user signalled"
                } else {
                    ""
                }
            ));
        }
        if asked.namespace && self.namespaces == Namespaces::None {
            lacks.push(format!(
                "no PID namespace ({}): processes are seen, and found by a mark when they stay behind",
                self.why
            ));
        }
        lacks
    }
}

#[cfg(target_os = "linux")]
mod probe {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, ExitCode, Stdio};

    use super::super::{files, filter, keeper, mounts, orders};
    use super::{Namespaces, System};

    /// The process that tries: what it is restricted to ends with it.
    pub(in super::super) fn main() -> ExitCode {
        if std::env::args_os().nth(2).is_some() {
            // The second process, the first of the namespace.
            return if mounts::enter(&[], 0, 0).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        let mut system = System::default();
        let way = if keeper::may_unshare() { Namespaces::Own } else { Namespaces::User };
        match keeper::unshare(way) {
            Err(error) => system.why = error.to_string(),
            Ok(()) => {
                let mut inner = Command::new("/proc/self/exe");
                inner.arg0("causeway").args([orders::PROBE, "mount"]);
                inner.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
                match inner.status() {
                    Ok(status) if status.success() => system.namespaces = way,
                    _ => system.why = "/proc cannot be mounted".to_owned(),
                }
            }
        }
        system.landlock = files::probe();
        system.seccomp = filter::apply(true).is_ok();
        _ = serde_json::to_writer(std::io::stdout(), &system);
        ExitCode::SUCCESS
    }
}

#[cfg(target_os = "linux")]
pub(super) use probe::main;
