//! Files, TCP, signals and abstract sockets by Landlock. It needs no rights, holds for whatever the server starts, and
//! cannot be taken off.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

use super::orders::Bounds;

/// Restricts this process for good. What the kernel is too old for is left out.
pub(super) fn restrict(bounds: &Bounds) -> Result<(), String> {
    match rules(&bounds.read, &bounds.write, bounds.network) {
        Ok((RulesetStatus::NotEnforced, _)) => Err("Landlock is not in force".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("Landlock: {error}")),
    }
}

/// The version of Landlock here. Restricts this process.
pub(super) fn probe() -> i32 {
    match rules(&["/".into()], &["/".into()], true) {
        Ok((status, LandlockStatus::Available { effective_abi, .. }))
            if status != RulesetStatus::NotEnforced =>
        {
            effective_abi as i32
        }
        _ => 0,
    }
}

fn rules(
    read: &[PathBuf],
    write: &[PathBuf],
    network: bool,
) -> Result<(RulesetStatus, LandlockStatus), RulesetError> {
    // What is newer than the kernel is left out by the crate.
    let newest = ABI::V9;
    let all = AccessFs::from_all(newest);
    let mut rules = Ruleset::default().handle_access(all)?.scope(Scope::from_all(newest))?;
    if !network {
        rules = rules.handle_access(AccessNet::from_all(ABI::V4))?;
    }
    // Paths that are not there are passed over, and files get what files can have.
    let rules = rules
        .create()?
        .add_rules(path_beneath_rules(read, AccessFs::from_read(newest)))?
        .add_rules(path_beneath_rules(write, all))?
        // So that the audit log of the kernel tells what was refused.
        .log_new_exec(true)?
        .restrict_self()?;
    Ok((rules.ruleset, rules.landlock))
}
