//! How much memory a program and its children have.

/// The resident memory of all processes of the group, in bytes; `None` where the system does not tell.
pub(super) fn of_group(group: u32) -> Option<u64> {
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let sizes = processes.filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // `pid (program) state parent group …`; the program's name may hold anything.
        let rest = stat.rsplit_once(") ")?.1;
        let own: u32 = rest.split_whitespace().nth(2)?.parse().ok()?;
        (own == group).then(|| resident(&entry.path()))?
    });
    let sizes: Vec<u64> = sizes.collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum())
}

fn resident(process: &std::path::Path) -> Option<u64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
