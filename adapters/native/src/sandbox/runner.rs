//! The process that becomes the server: it restricts itself, and then is replaced by the program.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::signal::SigSet;

use super::orders::{self, Orders, say};

pub(super) fn main() -> ExitCode {
    let Some(orders) = Orders::received() else {
        say("this command is for `causeway` itself");
        return ExitCode::from(2);
    };
    // The keeper blocks signals, and that is inherited.
    _ = SigSet::empty().thread_set_mask();
    // No terminal to write into, and a group of its own.
    _ = rustix::process::setsid();
    if let Err(why) = restrict(&orders) {
        say(&format!("`{}` is not run: {why}", orders.command));
        return ExitCode::from(126);
    }
    // `__run NAME -- COMMAND ARGS...`
    let args = std::env::args_os().skip(5);
    let mut program = Command::new(&orders.program);
    program.arg0(&orders.command).args(args).env_clear().envs(orders::environment());
    let error = program.exec();
    let fix = match error.kind() {
        std::io::ErrorKind::PermissionDenied if orders.bounds.is_some() => {
            ": it, or the interpreter in its first line, may not be read in the sandbox: list its folder under `sandbox.read`"
        }
        std::io::ErrorKind::NotFound => ": is the interpreter in its first line installed?",
        _ => "",
    };
    say(&format!("cannot run `{}` ({}): {error}{fix}", orders.command, orders.program.display()));
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

#[cfg(target_os = "linux")]
fn restrict(orders: &Orders) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    use super::system::Namespaces;
    use super::{files, filter, limits, mounts};

    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    // The keeper may have gone before that. In a namespace of its own the parent cannot be seen: the guard sees to it.
    if orders.namespaces == Namespaces::None && getppid().is_some_and(|parent| parent.is_init()) {
        return Err("its keeper has gone".to_owned());
    }
    // Whoever has to give up memory, let it not be the gateway.
    _ = std::fs::write("/proc/self/oom_score_adj", "500");
    if orders.namespaces != Namespaces::None {
        let (hide, memory, processes) = match &orders.bounds {
            Some(bounds) => (bounds.hide.as_slice(), bounds.memory, bounds.processes),
            None => (&[][..], 0, 0),
        };
        mounts::enter(hide, memory, processes).map_err(|error| format!("mounts: {error}"))?;
    }
    enter(orders)?;
    let Some(bounds) = &orders.bounds else { return Ok(()) };
    limits::set(bounds, orders.namespaces == Namespaces::User)?;
    limits::drop_rights()?;
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
    if bounds.landlock {
        files::restrict(bounds)?;
    }
    if bounds.seccomp {
        filter::apply(bounds.network)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn restrict(orders: &Orders) -> Result<(), String> {
    enter(orders)?;
    orders.bounds.as_ref().map_or(Ok(()), |bounds| super::limits::set(bounds, false))
}

fn enter(orders: &Orders) -> Result<(), String> {
    let Some(cwd) = &orders.cwd else { return Ok(()) };
    std::env::set_current_dir(cwd).map_err(|error| format!("cwd: {}: {error}", cwd.display()))
}
