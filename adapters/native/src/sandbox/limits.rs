//! Limits of each process, and the rights of root.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::orders::Bounds;

/// Sets the limits that the system keeps itself. They are a second line: the keeper sums up all processes.
pub(super) fn set(bounds: &Bounds, own_users: bool) -> Result<(), String> {
    // Programs reserve much that they never use: node alone has half a GiB of "data" when it does nothing.
    let data = bounds.memory.saturating_mul(2).saturating_add(2 << 30);
    let mut limits = vec![
        (Resource::Core, 0, 0),
        (Resource::Cpu, bounds.cpu, bounds.cpu.saturating_add(5)),
        (Resource::Data, data, data),
        (Resource::Fsize, bounds.file_size, bounds.file_size),
        (Resource::Nofile, bounds.files.into(), bounds.files.into()),
    ];
    if own_users {
        // Counted for the user in this user namespace, so for this server alone.
        limits.push((Resource::Nproc, bounds.processes.into(), bounds.processes.into()));
    }
    for (resource, soft, hard) in limits {
        // What the gateway itself is limited to stays in force.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit { current: Some(soft.min(most)), maximum: Some(hard.min(most)) };
        setrlimit(resource, limit).map_err(|error| format!("limits: {resource:?}: {error}"))?;
    }
    Ok(())
}

/// Gives up what root may do beyond owning files: to change the system, the limits, other users and their processes.
#[cfg(target_os = "linux")]
pub(super) fn drop_rights() -> Result<(), String> {
    use rustix::thread::{
        CapabilitySet, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities,
    };
    let kept = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::NET_BIND_SERVICE;
    for bit in 0..64 {
        let right = CapabilitySet::from_bits_retain(1 << bit);
        if !kept.contains(right) {
            // Without the right to do this there are no rights to give up, and no_new_privs keeps it so.
            _ = remove_capability_from_bounding_set(right);
        }
    }
    _ = clear_ambient_capability_set();
    let said = |error| format!("rights cannot be given up: {error}");
    let mut sets = capabilities(None).map_err(said)?;
    sets.effective &= kept;
    sets.permitted &= kept;
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets).map_err(said)
}
