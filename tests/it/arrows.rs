//! Which module may know which: read from the `use` lines, so that an arrow the wrong way fails here.

use std::collections::BTreeSet;
use std::path::Path;

/// From the top down. A module may use what stands below its own line, and nothing beside or above it.
const TIERS: [&[&str]; 11] = [
    &["polled"],
    &["gateway"],
    &["admin"],
    &["instance"],
    &["inbound", "mcp", "llm", "route", "auth", "meter"],
    &["tunnel"],
    &["relay"],
    &["config"],
    &["wire"],
    &["platform"],
    &["fault"],
];

fn tier(module: &str) -> usize {
    TIERS
        .iter()
        .position(|tier| tier.contains(&module))
        .unwrap_or_else(|| panic!("{module} has no tier: give it one"))
}

/// The modules that `text` names behind `crate::`, in `use` lines, braces and paths.
fn used(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap(),
            None => rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap(),
        };
        found.extend(names.split(',').map(|name| name.trim().split("::").next().unwrap().to_owned()));
    }
    found
}

fn check(folder: &Path, module: &str, wrong: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = if module.is_empty() { name.clone() } else { module.to_owned() };
        if path.is_dir() {
            check(&path, &module, wrong);
        } else if !matches!(module.as_str(), "lib" | "testing") && path.extension().is_some_and(|e| e == "rs")
        {
            for other in used(&std::fs::read_to_string(&path).unwrap()) {
                if other != module && tier(&other) <= tier(&module) {
                    wrong.push(format!("{} uses {other}", path.display()));
                }
            }
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    check(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path(), "", &mut wrong);
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn an_arrow_the_wrong_way_is_seen() {
    let names: Vec<String> =
        used("use crate::{mcp::serve, fault};\n// crate::gateway\nlet x = crate::wire::sse::Event;")
            .into_iter()
            .collect();
    assert_eq!(names, ["fault", "mcp", "wire"]);
    assert!(tier("mcp") < tier("wire") && tier("gateway") < tier("mcp"));
}
