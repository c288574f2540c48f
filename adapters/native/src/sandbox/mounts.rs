//! What a server sees of the file system besides what Landlock lets it read: processes of its own, shared memory of its
//! own, and none of the sockets by which a program asks another to do something for it.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

/// Enters a mount namespace and arranges it. `hide` is what is covered up.
pub(super) fn enter(hide: &[PathBuf], memory: u64, processes: u32) -> std::io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    // Or what is mounted here would be mounted for everybody.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None)?;
    if processes > 0 && limit_is_of_the_namespace() {
        // The last line: the keeper counts, but only now and then. Numbers below 300 are not used twice.
        _ = std::fs::write("/proc/sys/kernel/pid_max", processes.saturating_add(301).to_string());
    }
    if memory > 0 {
        let size = CString::new(format!("size={},mode=1777", memory / 4))?;
        _ = mount("tmpfs", "/dev/shm", "tmpfs", flags, Some(size.as_c_str()));
    }
    for path in hide {
        // What cannot be covered up is as it would be without a namespace.
        _ = if path.is_dir() {
            empty(path, flags)
        } else {
            mount_bind("/dev/null", path).map_err(Into::into)
        };
    }
    Ok(())
}

fn empty(path: &Path, flags: MountFlags) -> std::io::Result<()> {
    let size = CString::new("size=4k,mode=755")?;
    Ok(mount("tmpfs", path, "tmpfs", flags, Some(size.as_c_str()))?)
}

/// Whether `pid_max` belongs to the PID namespace. Before Linux 6.14 it is the whole machine's.
fn limit_is_of_the_namespace() -> bool {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap_or_default().split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 14),
        _ => false,
    }
}
