//! System calls that a server never needs, refused by seccomp: the ways to change the system, to look into other
//! processes, and to reach parts of the kernel that are known for their holes.
//!
//! What is refused fails with EPERM, so that software that only tries goes on without. What software takes for a kernel
//! that is too old fails with ENOSYS: `clone3`, whose flags a filter cannot see, and io_uring, which goes around filters.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Refused whatever its arguments.
const NEVER: &[c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // The kernel itself.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_syslog,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    // Keys of the session.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Clocks and names.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Namespaces that a process might make.
const NAMESPACES: [u64; 8] = [
    0x0002_0000, // mounts
    0x0200_0000, // cgroups
    0x0400_0000, // host name
    0x0800_0000, // IPC
    0x1000_0000, // users
    0x2000_0000, // processes
    0x4000_0000, // network
    0x0000_0080, // time; of `unshare` only, to `clone` these bits are a signal
];

/// Putting characters into the input of a terminal, and the console's own commands.
const TERMINAL: [u64; 2] = [0x5412, 0x541c];

/// Families of sockets: local, both of the Internet, and what lists network interfaces.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// Restricts this process for good. Without `network` there are no sockets but pairs.
pub(super) fn apply(network: bool) -> Result<(), String> {
    let programs = programs(network).map_err(|error| format!("seccomp: {error}"))?;
    programs.iter().try_for_each(|program| apply_filter(program)).map_err(|error| format!("seccomp: {error}"))
}

fn programs(network: bool) -> Result<Vec<BpfProgram>, Error> {
    let one = |conditions: &[(u8, seccompiler::SeccompCmpOp, u64)]| -> Result<SeccompRule, Error> {
        let conditions = conditions
            .iter()
            .map(|(arg, op, value)| SeccompCondition::new(*arg, SeccompCmpArgLen::Dword, op.clone(), *value));
        Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
    };
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in NEVER {
        refused.insert(*call, Vec::new());
    }
    let made = |flags: &[u64]| {
        flags.iter().map(|flag| one(&[(0, MaskedEq(*flag), *flag)])).collect::<Result<_, _>>()
    };
    refused.insert(libc::SYS_unshare, made(&NAMESPACES)?);
    let [of_clone @ .., _time] = &NAMESPACES;
    refused.insert(libc::SYS_clone, made(of_clone)?);
    let terminal = TERMINAL.iter().map(|command| one(&[(1, Eq, *command)])).collect::<Result<_, _>>()?;
    refused.insert(libc::SYS_ioctl, terminal);
    let sockets = if network { vec![one(&FAMILIES.map(|family| (0, Ne, family)))?] } else { Vec::new() };
    refused.insert(libc::SYS_socket, sockets);

    let absent =
        [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let absent = absent.into_iter().map(|call| (call, Vec::new())).collect();

    let arch = std::env::consts::ARCH.try_into()?;
    let compiled = |rules, error: i32| -> Result<BpfProgram, Error> {
        let action = SeccompAction::Errno(error.unsigned_abs());
        Ok(SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()?)
    };
    let mut programs = vec![compiled(refused, libc::EPERM)?, compiled(absent, libc::ENOSYS)?];
    #[cfg(target_arch = "x86_64")]
    programs.push(x32());
    programs.retain(|program| !program.is_empty());
    Ok(programs)
}

/// Refuses the calls of the x32 interface: the same calls under other numbers, which would go around the filter.
#[cfg(target_arch = "x86_64")]
fn x32() -> BpfProgram {
    use seccompiler::sock_filter;
    let (load, jump_if_less, answer) = (0x20, 0x35, 0x06);
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    vec![
        step(load, 0, 0, 0),
        // BPF_JGE: at or above the bit of x32.
        step(jump_if_less, 0x4000_0000, 0, 1),
        step(answer, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(), 0, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_with_and_without_a_network() {
        for network in [true, false] {
            let programs = programs(network).unwrap();
            assert!(programs.len() >= 2);
            assert!(programs.iter().all(|program| program.len() < 1000), "each call pays for each step");
        }
    }
}
