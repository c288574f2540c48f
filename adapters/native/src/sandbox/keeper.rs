//! The keeper: stands between the gateway and a server, and sees to it that the server and all that it started end with
//! it, with the gateway, or when they use too much. It has no part in what is said.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{WaitOptions, WaitStatus, getppid, kill_process, wait};

use super::orders::{self, Bounds, Orders, say};

/// How often the server is measured while it works, and while it does not.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);

/// The program could not be started.
const NOT_RUN: u8 = 126;

pub(super) fn main() -> ExitCode {
    let Some(orders) = Orders::received() else {
        say("this command is for `causeway` itself");
        return ExitCode::from(2);
    };
    let temp = orders.temp.clone();
    let ended = keep(&orders);
    if let Some(temp) = temp {
        _ = std::fs::remove_dir_all(temp);
    }
    match ended {
        Ok(status) => end_as(status),
        Err(why) => {
            say(&format!("`{}` is not run: {why}", orders.command));
            ExitCode::from(NOT_RUN)
        }
    }
}

/// Ends this process as the server has ended.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        _ = SigSet::all().thread_unblock();
        // Twice: the first time a signal for faults is taken for one, and only its handler goes.
        for _ in 0..2 {
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                _ = kill_process(rustix::process::getpid(), signal);
            }
        }
        // A signal that does not end a process does not end this one either.
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// Runs the server until it has ended, and everything that it started with it.
fn keep(orders: &Orders) -> Result<ExitStatus, String> {
    let mut signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
    arrange(orders)?;
    for folder in orders.private.iter().chain(&orders.temp) {
        make(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    // For as long as this process lives, however it ends.
    let _held = orders.temp.as_deref().and_then(super::base::hold);
    let guard = guard(orders)?;
    let server = Command::new(own())
        .arg0("causeway")
        .arg(orders::RUN)
        .args(std::env::args_os().skip(2))
        .spawn()
        .map_err(|error| error.to_string())?;
    // Whoever reads what the server writes is to see its end, and whoever writes to it that nobody reads.
    let_go();
    let mut group = Group { server: server.id(), guard: guard.as_ref().map(std::process::Child::id), orders };
    let mut watch = orders.bounds.as_ref().map(Watch::new);
    let mut ended = None;
    while ended.is_none() {
        match signals.next(watch.as_ref().map_or(SELDOM, |watch| watch.wait)) {
            Some(Signal::SIGTERM) => group.terminate(),
            Some(Signal::SIGUSR1) => group.kill(),
            // The parent may be another thread of the same process, and the one that started this has ended.
            Some(Signal::SIGUSR2) | None if orphaned(orders) => {
                group.kill();
                break;
            }
            None => {
                if let Some(why) = watch.as_mut().and_then(|watch| watch.look(&group)) {
                    // In this order: nobody may be reading what is said.
                    group.kill();
                    say(&format!("`{}` was ended: {why}", orders.command));
                }
            }
            Some(_) => {}
        }
        ended = group.reap();
    }
    group.kill();
    // Whatever was killed is waited for, so that nothing of it is left when this process has ended.
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        ended = ended.or(group.reap());
        if group.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        group.kill();
    }
    Ok(ended.unwrap_or_else(|| ExitStatus::from_raw(Signal::SIGKILL as i32)))
}

fn own() -> std::path::PathBuf {
    if cfg!(target_os = "linux") {
        return "/proc/self/exe".into();
    }
    std::env::current_exe().unwrap_or_else(|_| "causeway".into())
}

fn orphaned(orders: &Orders) -> bool {
    getppid().is_none_or(|parent| u32::try_from(parent.as_raw_nonzero().get()) != Ok(orders.parent))
}

/// A folder that only this user can look into.
fn make(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Frees stdin and stdout, which are the server's.
fn let_go() {
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        _ = rustix::stdio::dup2_stdin(&null);
        _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// The server, and all that it started.
struct Group<'a> {
    server: u32,
    guard: Option<u32>,
    orders: &'a Orders,
}

impl Group<'_> {
    /// What has ended is no more. The server's status, if it is among that.
    fn reap(&mut self) -> Option<ExitStatus> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or_default();
            if pid == self.server {
                ended = Some(exit_status(status));
            } else if Some(pid) == self.guard {
                self.guard = None;
                // It ends before the keeper only if somebody ends it, and then nothing holds the group together.
                self.kill();
            }
        }
        ended
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    ExitStatus::from_raw(status.as_raw())
}

/// What a server may use, and when to look again.
struct Watch<'a> {
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "there each process is limited by itself")
    )]
    bounds: &'a Bounds,
    wait: Duration,
    #[cfg(target_os = "linux")]
    cpu: Duration,
}

impl<'a> Watch<'a> {
    fn new(bounds: &'a Bounds) -> Self {
        Self {
            bounds,
            wait: OFTEN,
            #[cfg(target_os = "linux")]
            cpu: Duration::ZERO,
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use nix::sched::CloneFlags;
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{DumpableBehavior, getgid, getuid};
    use rustix::thread::{
        CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities,
    };

    use super::super::group;
    use super::super::orders::{self, Orders};
    use super::super::system::Namespaces;
    use super::{Group, OFTEN, SELDOM, Watch};

    /// Signals, one after the other, without a handler.
    pub(super) struct Signals(SignalFd);

    impl Signals {
        pub(super) fn new() -> nix::Result<Self> {
            let mask = SigSet::all();
            mask.thread_set_mask()?;
            SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
        }

        /// The next one, or none for so long.
        pub(super) fn next(&mut self, wait: Duration) -> Option<Signal> {
            let wait = Timespec::try_from(wait).ok();
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            _ = poll(&mut fds, wait.as_ref());
            let info = self.0.read_signal().ok()??;
            Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
        }
    }

    /// Makes this process one that is told of its parent's end, that nobody looks into, and whose children stay its own.
    pub(super) fn arrange(orders: &Orders) -> Result<(), String> {
        let said = |error: rustix::io::Errno| error.to_string();
        _ = rustix::thread::set_name(c"causeway-keep");
        _ = rustix::process::setsid();
        let told = rustix::process::Signal::USR2;
        rustix::process::set_parent_process_death_signal(Some(told)).map_err(said)?;
        if super::orphaned(orders) {
            return Err("its gateway has gone".to_owned());
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(said)?;
        if orders.namespaces != Namespaces::None {
            unshare(orders.namespaces).map_err(|error| format!("namespaces: {error}"))?;
        }
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(said)
    }

    /// Whether this process may make namespaces as it is.
    pub(in super::super) fn may_unshare() -> bool {
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
    }

    /// What this process starts from now on is in namespaces of its own, and may arrange its mounts.
    pub(in super::super) fn unshare(way: Namespaces) -> std::io::Result<()> {
        let own = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
        if way != Namespaces::User {
            return Ok(nix::sched::unshare(own)?);
        }
        let (user, group) = (getuid().as_raw(), getgid().as_raw());
        nix::sched::unshare(own | CloneFlags::CLONE_NEWUSER)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
        // To mount, and to give up rights: what is started keeps these two until it has done so.
        let mut sets = capabilities(None)?;
        for right in [CapabilitySet::SYS_ADMIN, CapabilitySet::SETPCAP] {
            sets.inheritable |= right;
            set_capabilities(None, sets)?;
            configure_capability_in_ambient_set(right, true)?;
        }
        Ok(())
    }

    /// Starts the guard. Its stdin tells it when this process has ended.
    pub(super) fn guard(orders: &Orders) -> Result<Option<Child>, String> {
        let text = serde_json::to_string(&Orders { bounds: None, ..orders.clone() });
        Command::new(super::own())
            .arg0("causeway")
            .args([orders::GUARD, &orders.name])
            .env_clear()
            .env(orders::ORDERS, text.map_err(|error| error.to_string())?)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Some)
            .map_err(|error| format!("the guard cannot be started: {error}"))
    }

    impl Group<'_> {
        /// All processes but the guard.
        fn all(&self, most: usize) -> Vec<u32> {
            let mut all = group::descendants(std::process::id(), most);
            all.retain(|pid| Some(*pid) != self.guard);
            all
        }

        pub(super) fn is_empty(&self) -> bool {
            self.all(usize::MAX).is_empty() && self.guard.is_none()
        }

        pub(super) fn terminate(&self) {
            group::signal(&self.all(usize::MAX), rustix::process::Signal::TERM);
        }

        pub(super) fn kill(&self) {
            let signal = rustix::process::Signal::KILL;
            if self.orders.namespaces == Namespaces::None {
                // The whole of the server's own process group in one go, before anything of it can start more.
                if let Some(server) = i32::try_from(self.server).ok().and_then(rustix::process::Pid::from_raw)
                {
                    _ = rustix::process::kill_process_group(server, signal);
                }
                group::signal(&self.all(usize::MAX), signal);
            }
            // With its namespace everything in it; without one it has nothing more to do.
            let guard: Vec<u32> = self.guard.into_iter().collect();
            group::signal(&guard, signal);
            group::signal(&[self.server], signal);
        }
    }

    impl Watch<'_> {
        /// What is too much, if something is.
        pub(super) fn look(&mut self, group: &Group<'_>) -> Option<String> {
            let most = usize::try_from(self.bounds.processes).unwrap_or(usize::MAX);
            let pids = group.all(most.saturating_add(1));
            let used = group::measure(&pids);
            let with_guard: Vec<u32> = pids.iter().copied().chain(group.guard).collect();
            let cpu = if group.guard.is_some() { group::measure(&with_guard).cpu } else { used.cpu };
            // A server that waits is left to wait.
            self.wait = if cpu == self.cpu { (self.wait * 2).min(SELDOM) } else { OFTEN };
            self.cpu = cpu;
            let (bounds, fix) = (self.bounds, "raise the limit if it needs more");
            if pids.len() > most || used.tasks > bounds.processes.into() {
                let most = bounds.processes;
                return Some(format!(
                    "it has more than {most} processes and threads (`sandbox.processes`): {fix}"
                ));
            }
            if used.memory > bounds.memory {
                let memory = group::exact_memory(&pids).unwrap_or(used.memory);
                if memory > bounds.memory {
                    let (has, most) = (memory >> 20, bounds.memory >> 20);
                    return Some(format!(
                        "it has {has} MiB of memory, more than {most} MiB (`sandbox.memory`): {fix}"
                    ));
                }
            }
            if cpu > Duration::from_secs(bounds.cpu) {
                let most = bounds.cpu;
                return Some(format!("it has used more than {most} s of CPU time (`sandbox.cpu`): {fix}"));
            }
            None
        }
    }
}

#[cfg(target_os = "linux")]
use linux::{Signals, arrange, guard};
#[cfg(target_os = "linux")]
pub(super) use linux::{may_unshare, unshare};

/// Elsewhere: no namespaces and no guard, and the server's process group is what there is of it.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::process::Child;
    use std::time::Duration;

    use nix::sys::signal::{SigSet, Signal};
    use rustix::process::{Pid, kill_process, kill_process_group, test_kill_process_group};

    use super::super::orders::Orders;
    use super::{Group, Watch};

    /// Signals, one after the other, without a handler. A thread sends one that stands for the time that has passed.
    pub(super) struct Signals(SigSet);

    impl Signals {
        pub(super) fn new() -> nix::Result<Self> {
            let mask = SigSet::all();
            mask.thread_set_mask()?;
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(Duration::from_millis(250));
                    _ = kill_process(rustix::process::getpid(), rustix::process::Signal::USR2);
                }
            });
            Ok(Self(mask))
        }

        pub(super) fn next(&mut self, _: Duration) -> Option<Signal> {
            self.0.wait().ok()
        }
    }

    pub(super) fn arrange(_: &Orders) -> Result<(), String> {
        _ = rustix::process::setsid();
        Ok(())
    }

    pub(super) fn guard(_: &Orders) -> Result<Option<Child>, String> {
        Ok(None)
    }

    impl Group<'_> {
        fn leader(&self) -> Option<Pid> {
            Pid::from_raw(i32::try_from(self.server).ok()?)
        }

        pub(super) fn is_empty(&self) -> bool {
            self.leader().is_none_or(|leader| test_kill_process_group(leader).is_err())
        }

        pub(super) fn terminate(&self) {
            self.leader().map(|leader| kill_process_group(leader, rustix::process::Signal::TERM));
        }

        pub(super) fn kill(&self) {
            self.leader().map(|leader| kill_process_group(leader, rustix::process::Signal::KILL));
        }
    }

    impl Watch<'_> {
        pub(super) fn look(&mut self, _: &Group<'_>) -> Option<String> {
            self.wait = super::SELDOM;
            None
        }
    }
}

#[cfg(not(target_os = "linux"))]
use elsewhere::{Signals, arrange, guard};
