//! `${NAME}`: what a configuration leaves to the host's variables and secrets.
//!
//! `${NAME}` and VS Code's `${env:NAME}` are a variable; `${NAME:-text}` stands for `text` where there is none
//! or it is empty; `$${` is a plain `${`. A message **never** holds a variable's value.

use std::fmt;

use crate::platform::Secrets;

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// As it stands.
    Text(&'a str),
    /// A variable, and what stands for it where there is none.
    Variable(&'a str, Option<&'a str>),
    /// What only an editor can ask the person in front of it: `${input:name}`.
    Input(&'a str),
    /// What only an editor knows: `${workspaceFolder}`, `${config:…}`.
    Editor(&'a str),
}

impl Part<'_> {
    /// Whether it is anything but itself.
    pub(super) fn is_filled(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

/// A `${` that is not a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Open,
    Name,
}

impl Broken {
    pub(super) fn fix(self) -> &'static str {
        match self {
            Self::Open => "close it with `}`, or write `$${` for a plain `${`",
            Self::Name => "write ${NAME} or ${NAME:-default}; a name has letters, digits and `_`",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "has a `${` without its `}`",
            Self::Name => "has a `${…}` that names no variable",
        })
    }
}

/// Names that editors fill in by themselves.
const EDITORS: [&str; 11] = [
    "workspaceFolder",
    "workspaceFolderBasename",
    "workspaceRoot",
    "userHome",
    "pathSeparator",
    "/",
    "file",
    "fileDirname",
    "extensionPath",
    "CLAUDE_PLUGIN_ROOT",
    "__dirname",
];

/// Takes a text apart.
pub(super) fn parts(text: &str) -> Result<Vec<Part<'_>>, Broken> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            parts.extend([Part::Text(before), Part::Text("${")]);
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        parts.push(Part::Text(before));
        let inside = from.get(2..).unwrap_or_default();
        let (inside, after) = inside.split_once('}').ok_or(Broken::Open)?;
        parts.push(part(inside)?);
        rest = after;
    }
    parts.push(Part::Text(rest));
    parts.retain(|part| *part != Part::Text(""));
    Ok(parts)
}

fn part(inside: &str) -> Result<Part<'_>, Broken> {
    if EDITORS.contains(&inside) {
        return Ok(Part::Editor(inside));
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let name = match name.split_once(':') {
        Some(("env", name)) => name,
        Some(("input", name)) => return Ok(Part::Input(name)),
        Some(_) => return Ok(Part::Editor(inside)),
        None => name,
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        Ok(Part::Variable(name, default))
    } else {
        Err(Broken::Name)
    }
}

/// The variables that a text names, each once. What is broken is left to [`fill`] to complain about.
pub(super) fn names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = text
        .split("${")
        .skip(1)
        .filter_map(|rest| match part(rest.split_once('}')?.0) {
            Ok(Part::Variable(name, _)) => Some(name.to_owned()),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A text without variables, its `$${` made plain.
pub(super) fn unescape(text: &str) -> String {
    text.replace("$${", "${")
}

/// A text with its variables filled in, or why it cannot be: what is missing, and what to do.
pub(super) fn fill(text: &str, secrets: &impl Secrets) -> Result<String, (String, String)> {
    let parts = parts(text).map_err(|broken| (broken.to_string(), broken.fix().to_owned()))?;
    let mut filled = String::new();
    for part in parts {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Variable(name, default) => {
                // A secret that came out of a file or an `echo` ends in a line break that nobody meant.
                let value = secrets.secret(name).map(|value| value.trim_end_matches(['\r', '\n']).to_owned());
                match (value.filter(|value| !value.is_empty()), default) {
                    (Some(value), _) => filled.push_str(&value),
                    (None, Some(default)) => filled.push_str(default),
                    (None, None) => {
                        let fix = format!("set {name} where the gateway runs, or write ${{{name}:-default}}");
                        return Err((format!("the variable {name} is not set"), fix));
                    }
                }
            }
            Part::Input(name) => {
                let what =
                    format!("${{input:{name}}} is asked for by an editor, and nobody is there to answer");
                return Err((what, "put a variable such as ${NAME} in its place".to_owned()));
            }
            Part::Editor(name) => {
                let what = format!("${{{name}}} is known to an editor only");
                return Err((what, "write the value itself, or a variable such as ${NAME}".to_owned()));
            }
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Vars;

    impl Secrets for Vars {
        fn secret(&self, name: &str) -> Option<String> {
            match name {
                "TOKEN" => Some("t0p\n".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            }
        }
    }

    fn check(text: &str, expect: &str) {
        let found = fill(text, &Vars).unwrap_or_else(|(what, _)| what);
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn variables_are_filled_in() {
        check("plain", "plain");
        check("Bearer ${TOKEN}", "Bearer t0p");
        check("${env:TOKEN}-${TOKEN}", "t0p-t0p");
        check("${NONE:-a:b}", "a:b");
        check("${NONE:-}", "");
        check("${EMPTY:-x}", "x");
        check("$${TOKEN} $5 {}", "${TOKEN} $5 {}");
        check("a$b", "a$b");
    }

    #[test]
    fn the_variables_of_a_text_are_found() {
        assert_eq!(
            names("${TOKEN} ${env:B:-x} ${A} ${TOKEN} ${input:c} ${1} $${D} ${E"),
            ["A", "B", "D", "TOKEN"]
        );
        assert_eq!(names("plain"), [""; 0]);
    }

    #[test]
    fn what_cannot_be_filled_in_says_why() {
        check("${NONE}", "the variable NONE is not set");
        check("${EMPTY}", "the variable EMPTY is not set");
        check("${input:token}", "${input:token} is asked for by an editor, and nobody is there to answer");
        check("${workspaceFolder}/x", "${workspaceFolder} is known to an editor only");
        check("${config:a.b}", "${config:a.b} is known to an editor only");
        check("${TOKEN", "has a `${` without its `}`");
        check("${}", "has a `${…}` that names no variable");
        check("${1}", "has a `${…}` that names no variable");
        check("${é}", "has a `${…}` that names no variable");
    }
}
