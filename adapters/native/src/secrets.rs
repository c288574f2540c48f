//! Secrets by name: the process's environment first, then the `.env` files that were named.
//!
//! The environment of the process is read and **never** changed, so child processes and other threads see
//! nothing of a `.env` file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use causeway::platform;

/// Environment and `.env` files.
#[derive(Clone, Default)]
pub struct Secrets {
    files: Arc<[PathBuf]>,
    values: Arc<RwLock<HashMap<String, String>>>,
}

impl Secrets {
    /// The environment, and `.env` beside `config` and in the working directory. The one beside `config` wins.
    #[must_use]
    pub fn beside(config: Option<&Path>) -> Self {
        let folder = config.and_then(Path::parent);
        let beside = folder.map(|folder| folder.join(".env"));
        let mut files: Vec<_> = beside.into_iter().chain([PathBuf::from(".env")]).collect();
        files.dedup();
        Self { files: files.into(), values: Arc::default() }
    }

    /// The files that are read, whether they exist or not.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Reads the files again, and says what could not be read. A file that is not there is no problem.
    pub fn reload(&self) -> Vec<String> {
        let (mut values, mut problems) = (HashMap::new(), Vec::new());
        for file in self.files.iter() {
            match dotenvy::from_path_iter(file) {
                Ok(entries) => {
                    for entry in entries {
                        match entry {
                            Ok((name, value)) => _ = values.entry(name).or_insert(value),
                            // dotenvy's own message quotes the line, and the line may hold a secret.
                            Err(dotenvy::Error::LineParse(_, column)) => problems.push(format!(
                                "{}: a line is not NAME=value (character {column} of it)",
                                file.display()
                            )),
                            Err(_) => problems.push(format!("{}: cannot be read", file.display())),
                        }
                    }
                }
                Err(dotenvy::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(dotenvy::Error::Io(error)) => problems.push(format!("{}: {error}", file.display())),
                Err(_) => problems.push(format!("{}: cannot be read", file.display())),
            }
        }
        *self.values.write().unwrap_or_else(PoisonError::into_inner) = values;
        problems
    }
}

impl platform::Secrets for Secrets {
    fn secret(&self, name: &str) -> Option<String> {
        let from_file = || self.values.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        std::env::var(name).ok().or_else(from_file)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway::platform::Secrets as _;

    fn written(text: &str) -> (tempfile::TempDir, Secrets) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), text).unwrap();
        let secrets = Secrets::beside(Some(&folder.path().join("causeway.yaml")));
        (folder, secrets)
    }

    fn check(line: &str, expect: Option<&str>) {
        let (_folder, secrets) = written(line);
        secrets.reload();
        assert_eq!(secrets.secret("CAUSEWAY_TEST_A").as_deref(), expect, "{line:?}");
    }

    #[test]
    fn dotenv_lines_are_read_as_shells_read_them() {
        check("CAUSEWAY_TEST_A=1", Some("1"));
        check("export CAUSEWAY_TEST_A=1 # one", Some("1"));
        check("CAUSEWAY_TEST_A='a $b # c'", Some("a $b # c"));
        check("CAUSEWAY_TEST_A=\"a b\"\n", Some("a b"));
        check("# CAUSEWAY_TEST_A=1", None);
        check("CAUSEWAY_TEST_A=", Some(""));
        check("CAUSEWAY_TEST_A=1\nCAUSEWAY_TEST_A=2", Some("1"));
    }

    #[test]
    fn environment_wins_over_the_file() {
        let (_folder, secrets) = written("PATH=from-the-file");
        secrets.reload();
        assert_eq!(secrets.secret("PATH"), std::env::var("PATH").ok());
    }

    #[test]
    fn problem_never_quotes_the_line() {
        let (_folder, secrets) = written("sk-secret without a name\nCAUSEWAY_TEST_A=kept-quiet");
        let problems = secrets.reload();
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].contains("sk-secret") && problems[0].contains(".env"), "{problems:?}");
        assert!(!format!("{secrets:?}").contains("kept-quiet"));
    }

    #[test]
    fn no_file_is_no_problem() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Secrets::beside(Some(&folder.path().join("c.yaml"))).reload().is_empty());
    }
}
