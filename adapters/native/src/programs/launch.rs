//! What a program is started with: where it is, its arguments, its environment and its folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use causeway::config::plan::Program;
use tokio::process::Command;

use crate::sandbox::{self, Keeper, Report, Spec};

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// The file to run.
    pub file: PathBuf,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there it is started as it is"))]
    keeper: Keeper,
    spec: Spec,
}

impl Launch {
    /// Looks up what `program` names.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn new(name: &str, program: &Program, keeper: &Keeper) -> Result<Self, String> {
        let folder = program.cwd.as_ref().map(PathBuf::from);
        if let Some(folder) = &folder
            && !folder.is_dir()
        {
            return Err(format!("cwd: there is no folder {}: make it, or correct cwd", folder.display()));
        }
        let mut env = BTreeMap::new();
        if let Some(file) = &program.env_file {
            env.extend(variables(&folder.as_deref().unwrap_or(Path::new("")).join(file))?);
        }
        env.extend(program.env.iter().cloned());
        let spec = Spec {
            name: name.to_owned(),
            command: program.command.clone(),
            args: program.args.clone(),
            env: env.into_iter().collect(),
            cwd: folder,
            sandbox: program.sandbox.clone(),
        };
        let file = find(&program.command, &spec.path(), spec.cwd.as_deref())?;
        Ok(Self { file, keeper: keeper.clone(), spec })
    }

    /// The command that starts it, with a pipe at each end: a keeper, which ends with all that it has started.
    ///
    /// # Errors
    /// Why it is not to be started here.
    pub fn command(&self) -> Result<Command, String> {
        #[cfg(unix)]
        let mut command =
            sandbox::command(&self.spec, &self.keeper).map_err(|refused| refused.to_string())?;
        #[cfg(not(unix))]
        let mut command = {
            let mut command = Command::new(&self.file);
            command.args(&self.spec.args).env_clear().envs(self.spec.environment());
            if let Some(folder) = &self.spec.cwd {
                command.current_dir(folder);
            }
            command
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    /// What there is to say about its sandbox.
    #[must_use]
    pub fn report(&self) -> Report {
        sandbox::report(&self.spec, &self.keeper)
    }
}

/// The variables that `file` sets.
fn variables(file: &Path) -> Result<Vec<(String, String)>, String> {
    let shown = file.display();
    let entries = dotenvy::from_path_iter(file)
        .map_err(|_| format!("envFile: {shown} cannot be read: make it, or remove envFile"))?;
    // dotenvy's own message quotes the line, and the line may hold a secret.
    let broken = |_| format!("envFile: a line of {shown} is not NAME=value: correct it");
    entries.map(|entry| entry.map_err(broken)).collect()
}

/// The file that `command` names: a path, or a name that is looked up in `path`.
fn find(command: &str, path: &OsStr, folder: Option<&Path>) -> Result<PathBuf, String> {
    let named = Path::new(command);
    if named.components().count() > 1 || named.is_absolute() {
        let file = match folder {
            Some(folder) if named.is_relative() => folder.join(named),
            _ => named.to_owned(),
        };
        return match runnable(&file) {
            Some(true) => Ok(file),
            Some(false) => Err(format!("command: {} may not be run: chmod +x it", file.display())),
            None => Err(format!("command: there is no file {}: correct command", file.display())),
        };
    }
    let mut found = None;
    for folder in std::env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty()) {
        let file = folder.join(named);
        match runnable(&file) {
            Some(true) => return Ok(file),
            Some(false) => found = Some(file),
            None => {}
        }
    }
    Err(match found {
        Some(file) => format!("command: {} may not be run: chmod +x it", file.display()),
        None => format!(
            "command: `{command}` is not in PATH: install it, name it by its whole path, or set PATH under env"
        ),
    })
}

/// Whether the file may be run, if it is there.
fn runnable(file: &Path) -> Option<bool> {
    let meta = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        Some(meta.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    {
        _ = meta;
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(program: &Program, expect: &str) {
        let said = match Launch::new("a", program, &Keeper::own()) {
            Ok(launch) => format!("{}", launch.file.display()),
            Err(why) => why,
        };
        assert_eq!(said, expect);
    }

    #[test]
    fn a_command_is_looked_up_as_a_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap().to_owned();
        std::fs::write(folder.path().join("plain"), "").unwrap();
        let with = |command: &str, cwd: Option<&str>| Program {
            env: vec![("PATH".to_owned(), format!("{root}:/bin"))],
            cwd: cwd.map(str::to_owned),
            ..Program::new(command, &[])
        };
        check(&with("sh", None), "/bin/sh");
        check(&with("/bin/sh", None), "/bin/sh");
        check(&with("plain", None), &format!("command: {root}/plain may not be run: chmod +x it"));
        check(&with("./plain", Some(&root)), &format!("command: {root}/./plain may not be run: chmod +x it"));
        check(&with("/no/such", None), "command: there is no file /no/such: correct command");
        check(
            &with("no-such-program", None),
            "command: `no-such-program` is not in PATH: install it, name it by its whole path, or set PATH under env",
        );
        check(&with("sh", Some("/no/such")), "cwd: there is no folder /no/such: make it, or correct cwd");
    }

    #[test]
    fn the_environment_is_what_the_entry_lists_and_little_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("more.env");
        std::fs::write(&file, "A=from-the-file\nB=two\n").unwrap();
        let program = Program {
            env: vec![("A".to_owned(), "own".to_owned())],
            env_file: Some(file.to_str().unwrap().to_owned()),
            ..Program::new("sh", &[])
        };
        let launch = Launch::new("a", &program, &Keeper::own()).unwrap();
        let env: BTreeMap<_, _> = launch.spec.environment().into_iter().collect();
        let of = |name: &str| env.get(OsStr::new(name)).map(|value| value.to_string_lossy().into_owned());
        assert_eq!((of("A").as_deref(), of("B").as_deref()), (Some("own"), Some("two")));
        assert!(of("PATH").is_some() && of("CARGO_MANIFEST_DIR").is_none());
        std::fs::write(&file, "sk-secret without a name\n").unwrap();
        let why = Launch::new("a", &program, &Keeper::own()).unwrap_err();
        assert!(why.contains("more.env is not NAME=value") && !why.contains("sk-secret"), "{why}");
    }
}
