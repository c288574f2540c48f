//! Globs over names: `*` is any run of characters, `?` any one; everything else is itself.

/// A glob pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// A pattern of literal characters, `*` and `?`.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Whether the whole of `text` matches. Linear in practice: one star is remembered, never a stack of them.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), text.chars());
        let mut retry = None;
        loop {
            match (pattern.next(), rest.clone().next()) {
                (Some('*'), _) => retry = Some((pattern.clone(), rest.clone())),
                (Some('?'), Some(_)) => _ = rest.next(),
                (Some(p), Some(c)) if p == c => _ = rest.next(),
                (None, None) => return true,
                _ => {
                    let Some((after_star, from)) = &mut retry else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    pattern = after_star.clone();
                    rest = from.clone();
                }
            }
        }
    }
}

/// Allow and deny lists. Deny wins; an empty allow list allows everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// What is allowed; empty means all.
    pub allow: Vec<Glob>,
    /// What is refused, whatever `allow` says.
    pub deny: Vec<Glob>,
}

impl Filter {
    /// Whether `name` passes.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(|glob| glob.matches(name)))
            && !self.deny.iter().any(|glob| glob.matches(name))
    }

    /// Whether every name passes, so that nothing need be looked at.
    #[must_use]
    pub fn admits_all(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expect: bool) {
        assert_eq!(Glob::new(pattern).matches(text), expect, "{pattern:?} on {text:?}");
    }

    #[test]
    fn globs_match_whole_names() {
        check("", "", true);
        check("*", "", true);
        check("delete_*", "delete_repo", true);
        check("delete_*", "undelete_repo", false);
        check("*_repo", "delete_repo", true);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("*a*b", "xxaxxbxb", true);
        check("*a*b", "xxaxxbx", false);
        check("é*", "éa", true);
    }

    #[test]
    fn deny_wins_and_empty_allows_all() {
        let deny = Filter { allow: vec![], deny: vec![Glob::new("rm*")] };
        assert!(deny.admits("ls") && !deny.admits("rm"));
        let both = Filter { allow: vec![Glob::new("r*")], deny: vec![Glob::new("rm*")] };
        assert!(both.admits("read") && !both.admits("rm") && !both.admits("ls"));
    }
}
