//! Where plans come from: a file, or what was pushed last.

use std::path::Path;
use std::sync::Arc;

use causeway::config::{Config, Format, Plan, Problem, Reading, ambient, compile, load, stored};
use causeway::platform::{Abilities, Platform, Secrets};

use crate::platform::Native;

/// What else can be done about a public address without keys, on this host.
const OR_NOT_IN_PUBLIC: &str =
    ", or listen on 127.0.0.1, or pass --allow-public if something in front of the gateway asks who is there";

/// A file that was read, with what is to be said about it.
#[derive(Debug)]
pub struct Checked {
    /// The file's name, as problems show it.
    pub file: String,
    /// What came of reading it.
    pub reading: Reading,
}

/// Reads `file` and checks all that can be checked without a host.
///
/// # Errors
/// When the file cannot be read at all, in words.
pub fn check(file: &Path) -> Result<Checked, String> {
    let name = file.display().to_string();
    let format = Format::of(&name).ok_or_else(|| {
        format!("{name}: the ending tells nothing: name it .yaml, .yml, .toml, .json or .jsonc")
    })?;
    let bytes = std::fs::read(file).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    let text =
        String::from_utf8(bytes).map_err(|_| format!("{name}: is not UTF-8 text: save it as UTF-8"))?;
    Ok(Checked { file: name, reading: load(&text, format) })
}

impl Checked {
    /// The configuration, unless there is an error in it.
    #[must_use]
    pub fn config(&self) -> Option<&Config> {
        self.reading.config.as_ref()
    }

    /// What `secrets` and `abilities` make of it: the plan, or more problems.
    ///
    /// # Errors
    /// All problems, those from reading included, in the order in which they were found.
    pub fn plan(&self, secrets: &impl Secrets, abilities: Abilities) -> Result<Plan, Vec<Problem>> {
        let Some(config) = &self.reading.config else { return Err(self.reading.problems.clone()) };
        compile(config, secrets, abilities).map_err(|problems| {
            let located = problems.into_iter().map(|problem| self.reading.locate(problem));
            self.reading.problems.iter().cloned().chain(located).collect()
        })
    }

    /// `problems`, each as a line that begins with the file's name.
    #[must_use]
    pub fn lines(&self, problems: &[Problem]) -> Vec<String> {
        problems.iter().map(|problem| problem.in_file(&self.file).to_string()).collect()
    }
}

/// The plan that `file` makes on this host, and what is worth saying about it.
///
/// # Errors
/// The problems, one line each.
pub async fn from_file(file: &Path, native: &Native) -> Result<(Arc<Plan>, Vec<String>), Vec<String>> {
    let (file, native) = (file.to_owned(), native.clone());
    let work = tokio::task::spawn_blocking(move || {
        let checked = check(&file).map_err(|problem| vec![problem])?;
        match checked.plan(native.secrets(), native.abilities()) {
            Ok(plan) => Ok((Arc::new(plan), checked.lines(&checked.reading.problems))),
            Err(mut problems) => {
                for problem in problems.iter_mut().filter(|problem| problem.key == "keys") {
                    problem.fix.push_str(OR_NOT_IN_PUBLIC);
                }
                Err(checked.lines(&problems))
            }
        }
    });
    work.await.unwrap_or_else(|error| Err(vec![error.to_string()]))
}

/// The plan that `LLM_PROVIDER` makes where there is no configuration; `None` where it is not set.
///
/// # Errors
/// The problems, one line each.
pub fn from_variables(native: &Native) -> Result<Option<Arc<Plan>>, Vec<String>> {
    let Some(config) = ambient(native.secrets()) else { return Ok(None) };
    let lines = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = config.map_err(lines)?;
    let plan = compile(&config, native.secrets(), native.abilities()).map_err(|mut problems| {
        for problem in problems.iter_mut().filter(|problem| problem.key == "keys") {
            problem.fix.push_str(OR_NOT_IN_PUBLIC);
        }
        lines(problems)
    })?;
    Ok(Some(Arc::new(plan)))
}

/// The plan that the pushed configuration makes on this host, with its stamp; `None` where nothing was pushed.
///
/// # Errors
/// The problems, one line each.
pub async fn pushed(native: &Native) -> Result<Option<(stored::Stamp, Arc<Plan>)>, Vec<String>> {
    let current = stored::current(native.key_value()).await.map_err(|error| vec![error.to_string()])?;
    let Some((stamp, config)) = current else { return Ok(None) };
    let plan = compile(&config, native.secrets(), native.abilities()).map_err(|problems| {
        let line = |problem: &Problem| format!("pushed version {}: {problem}", stamp.version);
        problems.iter().map(line).collect::<Vec<_>>()
    })?;
    Ok(Some((stamp, Arc::new(plan))))
}
