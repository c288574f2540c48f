//! The guard: the first process of a server's PID namespace, which ends with it, whatever is still in it. Where there is
//! no such namespace it outlives the keeper for a moment, and ends all that carries the server's mark.

use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, wait};

use super::group;
use super::orders::Orders;
use super::system::Namespaces;

pub(super) fn main() -> ExitCode {
    let Some(orders) = Orders::received() else { return ExitCode::from(2) };
    _ = rustix::thread::set_name(c"causeway-guard");
    _ = rustix::process::setsid();
    if orders.namespaces != Namespaces::None {
        _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
    let mut mask = SigSet::all();
    _ = mask.thread_set_mask();
    mask.clear();
    mask.add(Signal::SIGCHLD);
    let Ok(signals) = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC) else {
        return ExitCode::FAILURE;
    };
    // The keeper holds the other end, and nobody else does.
    let keeper = std::io::stdin();
    loop {
        let ready = {
            let mut fds = [
                PollFd::from_borrowed_fd(keeper.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return ExitCode::FAILURE,
            }
            !fds.first().is_none_or(|fd| fd.revents().is_empty())
        };
        if ready {
            break;
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        // What lost its parent here is this process's.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
    if orders.namespaces == Namespaces::None {
        group::end_marked(&orders.mark);
    }
    ExitCode::SUCCESS
}
