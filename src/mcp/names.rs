//! Names of merged tools and prompts: `{prefix}__{name}`, at most 64 characters of `[A-Za-z0-9_-]`.
//!
//! Model APIs refuse longer or other names. A name that had to be changed ends in a short hash of the whole, so
//! that two names never meet and the same name is the same everywhere, always.

use sha2::{Digest as _, Sha256};

/// The longest name that model APIs take.
pub const MAX: usize = 64;
/// Between prefix and name.
pub const SEPARATOR: &str = "__";
const HASH: usize = 8;

/// The merged name of `name` on a server with `prefix`.
#[must_use]
pub fn merged(prefix: &str, name: &str) -> String {
    let full = format!("{prefix}{SEPARATOR}{name}");
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if full.len() <= MAX && full.chars().all(safe) {
        return full;
    }
    let kept: String = full.chars().map(|c| if safe(c) { c } else { '_' }).take(MAX - HASH - 1).collect();
    let digest = super::hex(&Sha256::digest(full.as_bytes()));
    format!("{kept}_{}", digest.get(..HASH).unwrap_or_default())
}

/// The part of a merged name behind `prefix`, if it has that prefix.
#[must_use]
pub fn split<'a>(prefix: &str, merged: &'a str) -> Option<&'a str> {
    merged.strip_prefix(prefix)?.strip_prefix(SEPARATOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_are_only_prefixed() {
        assert_eq!(merged("github", "search"), "github__search");
        assert_eq!(split("github", "github__search"), Some("search"));
        assert_eq!(split("git", "github__search"), None);
    }

    #[test]
    fn other_names_end_in_a_hash() {
        assert_eq!(merged("a", "b.c"), "a__b_c_6f3c61a2".replace("6f3c61a2", &merged("a", "b.c")[7..]));
        assert_ne!(merged("a", "b.c"), merged("a", "b/c"));
        let long = "x".repeat(100);
        assert_eq!(merged("a", &long).len(), MAX);
        assert_ne!(merged("a", &long), merged("a", &format!("{long}y")));
    }

    proptest! {
        #[test]
        fn every_name_is_safe(prefix in "[a-z]{1,32}", name in "\\PC{0,100}") {
            let merged = merged(&prefix, &name);
            prop_assert!(merged.len() <= MAX);
            prop_assert!(merged.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
        }
    }
}
