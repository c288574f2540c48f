//! Which files a server may read and write: what is installed for everybody, the program itself, what the entry lists,
//! and folders of its own. Nothing else of the home directory, and nothing of the gateway's.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::base::{self, Private};
use super::{Spec, beneath};

/// Readable for every server.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix",
    "/gnu/store",
    "/snap",
    "/home/linuxbrew/.linuxbrew",
    "/run/current-system",
    "/var/lib/ca-certificates",
    "/var/cache/fontconfig",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/etc/resolv.conf",
    "/etc/localtime",
];

/// Writable for every server.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"];

/// Below the home directory, and readable: where runtimes and what they run are installed.
const TOOLS: &[&str] = &[
    ".local/lib",
    ".local/share/uv",
    ".local/share/pipx",
    ".local/share/pnpm",
    ".local/share/mise",
    ".local/share/fnm",
    ".nvm",
    ".volta",
    ".asdf",
    ".pyenv",
    ".rbenv",
    ".sdkman",
    ".bun",
    ".deno",
    ".rustup/toolchains",
    ".cache/ms-playwright",
    ".cache/puppeteer",
];

/// Programs that run a program named by an argument.
const RUNTIMES: &[&str] = &[
    "node", "nodejs", "bun", "deno", "tsx", "ts-node", "python", "pypy", "uv", "ruby", "perl", "php", "java",
    "dotnet", "sh", "bash", "zsh", "dash", "lua", "Rscript", "julia", "guile",
];

/// What stands in the folder of a project.
const PROJECT: &[&str] = &[
    "package.json",
    "pyproject.toml",
    "setup.py",
    "requirements.txt",
    "deno.json",
    "deno.jsonc",
    "Cargo.toml",
    "go.mod",
    "Gemfile",
    "composer.json",
    "node_modules",
    ".venv",
    "venv",
];

/// Sockets by which a program gets another to act for it, and that file rules do not cover.
const HIDDEN: &[&str] = &[
    "/run/user",
    "/run/dbus",
    "/run/docker.sock",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/run/libvirt",
    "/run/systemd/private",
    "/run/screen",
    "/run/tmux",
    "/run/snapd.socket",
];

/// What a server may touch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    pub(super) hide: Vec<PathBuf>,
    /// The command or what it runs is written relative to the gateway's directory.
    pub(super) relative: bool,
    /// What is likely to go wrong, and what to do.
    pub(super) notes: Vec<String>,
}

impl Rules {
    /// Whether `path` may be read.
    pub(super) fn grant(&self, path: &Path) -> bool {
        self.read.iter().chain(&self.write).any(|granted| beneath(path, granted))
    }
}

pub(super) fn rules(
    spec: &Spec,
    program: &Path,
    env: &[(OsString, OsString)],
    private: Option<&Private>,
) -> Rules {
    let home = base::value(env, "HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let mut rules = Rules::default();
    rules.read.extend(SYSTEM.iter().map(PathBuf::from));
    rules.read.extend(etc());
    for name in base::CERTIFICATES {
        rules.read.extend(base::value(env, name).map(PathBuf::from));
    }
    let mut place = Places { home: home.as_deref(), read: &mut rules.read };
    if let Some(home) = &home {
        place.read.extend(TOOLS.iter().map(|tool| home.join(tool)));
    }
    let path = base::value(env, "PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        place.program(&folder.join("x"));
    }
    place.with_target(program);
    if let Some(interpreter) = interpreter(program, &path) {
        place.with_target(&interpreter);
    }
    rules.relative = spec.command.contains('/') && Path::new(&spec.command).is_relative();
    if let Some((argument, script)) = script(spec, program) {
        place.project(&script);
        rules.relative |= Path::new(argument).is_relative();
    }
    if let Some(folder) = project_folder(spec, program) {
        place.read.push(folder.clone());
        // Where `uv` puts what the project needs.
        rules
            .write
            .extend([folder.join(".venv"), folder.join("uv.lock")].into_iter().filter(|path| path.exists()));
    }
    rules.read.extend(spec.cwd.clone());
    for (key, listed) in [("read", &spec.sandbox.read), ("write", &spec.sandbox.write)] {
        for text in listed {
            let path = whole(text, home.as_deref());
            if !path.exists() {
                rules
                    .notes
                    .push(format!("sandbox.{key}: {text} is not there and gives no right: make it first"));
            }
            if key == "read" { &mut rules.read } else { &mut rules.write }.push(path);
        }
    }
    rules.write.extend(DEVICES.iter().map(PathBuf::from));
    if let Some(private) = private {
        rules.write.extend([private.temp.clone(), private.cache.clone()]);
    }
    let granted = |path: &Path| rules.read.iter().chain(&rules.write).any(|granted| beneath(path, granted));
    rules.hide = HIDDEN.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    let listed: Vec<PathBuf> = spec
        .sandbox
        .read
        .iter()
        .chain(&spec.sandbox.write)
        .map(|text| whole(text, home.as_deref()))
        .collect();
    rules.hide.retain(|path| !listed.iter().any(|listed| beneath(listed, path) || beneath(path, listed)));
    for argument in
        spec.args.iter().filter(|argument| argument.starts_with('/') || argument.starts_with("~/"))
    {
        let path = whole(argument, home.as_deref());
        if path.exists() && !granted(&path) && !path.canonicalize().is_ok_and(|path| granted(&path)) {
            // The argument is a path that exists, and so no secret.
            rules.notes.push(format!(
                "{} is among the arguments, and the server may not read it: list it under `sandbox.read` or `sandbox.write`",
                path.display()
            ));
        }
    }
    rules
}

fn whole(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

/// What of `/etc` anybody may read. Root could read the rest as well, so it is not given all of it.
fn etc() -> Vec<PathBuf> {
    #[cfg(target_os = "linux")]
    if rustix::process::geteuid().is_root() {
        let mut open = Vec::new();
        for entry in open_entries(Path::new("/etc")) {
            // These hold files that are root's alone beside others that everybody needs.
            match entry.file_name().and_then(OsStr::to_str) {
                Some(
                    "ssl" | "ssh" | "NetworkManager" | "letsencrypt" | "mysql" | "postgresql" | "docker"
                    | "kubernetes",
                ) => {
                    open.extend(open_entries(&entry));
                }
                _ => open.push(entry),
            }
        }
        return open;
    }
    vec!["/etc".into()]
}

#[cfg(target_os = "linux")]
fn open_entries(folder: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let open = |path: &PathBuf| {
        path.metadata().is_ok_and(|about| {
            let needed = if about.is_dir() { 0o5 } else { 0o4 };
            about.permissions().mode() & needed == needed
        })
    };
    entries.map(|entry| entry.path()).filter(open).collect()
}

/// Collects where programs are.
struct Places<'a> {
    home: Option<&'a Path>,
    read: &'a mut Vec<PathBuf>,
}

impl Places<'_> {
    /// Whether a folder holds much besides a program: the home directory, what it is in, or the root.
    fn is_wide(&self, folder: &Path) -> bool {
        let shared =
            ["/", "/home", "/root", "/srv", "/tmp", "/var", "/var/tmp", "/mnt", "/media", "/etc", "/run"];
        let is_shared = shared.iter().any(|shared| folder == Path::new(shared));
        is_shared
            || self.home.is_some_and(|home| {
                beneath(home, folder)
                    || [".local", ".config", ".cache", ".cargo", "Documents", "Desktop", "Downloads"]
                        .iter()
                        .any(|part| folder == home.join(part))
            })
    }

    /// The place of a program, and of what it is a link to.
    fn with_target(&mut self, program: &Path) {
        self.program(program);
        if let Ok(target) = program.canonicalize()
            && target != program
        {
            self.program(&target);
        }
    }

    /// The installation that a program is part of: `x` for `x/bin/program`.
    fn program(&mut self, program: &Path) {
        if SYSTEM.iter().any(|system| beneath(program, Path::new(system))) {
            return;
        }
        if let Some(modules) = modules(program) {
            self.read.push(modules);
        }
        let Some(folder) = program.parent() else { return };
        let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match folder.parent() {
            Some(installation) if matches!(name, "bin" | ".bin" | "sbin" | "shims" | "Scripts") => {
                if self.is_wide(installation) {
                    self.read.extend([folder.to_path_buf(), installation.join("lib")]);
                } else {
                    self.read.push(installation.to_path_buf());
                }
            }
            _ if self.is_wide(folder) => self.read.push(program.to_path_buf()),
            _ => self.read.push(folder.to_path_buf()),
        }
    }

    /// The project that a script is part of.
    fn project(&mut self, script: &Path) {
        for script in [Some(script.to_path_buf()), script.canonicalize().ok()].into_iter().flatten() {
            if let Some(modules) = modules(&script) {
                self.read.push(modules);
                continue;
            }
            let Some(own) = script.parent() else { continue };
            let folders: Vec<&Path> =
                own.ancestors().take(8).take_while(|folder| !self.is_wide(folder)).collect();
            let project = folders.iter().find(|folder| PROJECT.iter().any(|part| folder.join(part).exists()));
            match project.or(folders.first()) {
                Some(folder) => self.read.push(folder.to_path_buf()),
                // Beside other people's files, or in the home directory: nothing but itself.
                None => self.read.push(script.clone()),
            }
            // What a project shares with others around it.
            self.read.extend(
                folders.iter().map(|folder| folder.join("node_modules")).filter(|path| path.is_dir()),
            );
        }
    }
}

/// The outermost `node_modules` that `path` is in.
fn modules(path: &Path) -> Option<PathBuf> {
    let mut modules = PathBuf::new();
    for part in path.components() {
        modules.push(part);
        if part.as_os_str() == "node_modules" {
            return Some(modules);
        }
    }
    None
}

/// What the first line of a script names.
fn interpreter(program: &Path, path: &OsStr) -> Option<PathBuf> {
    let mut head = [0; 256];
    let count = std::fs::File::open(program).ok()?.read(&mut head).ok()?;
    let line = head.get(..count)?.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let first = words.next()?;
    if !first.ends_with("/env") {
        return Some(first.into());
    }
    let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    base::program(name, None, path)
}

fn is_runtime(program: &Path, command: &str) -> bool {
    let names =
        [program.file_name().and_then(OsStr::to_str), Path::new(command).file_name().and_then(OsStr::to_str)];
    names.into_iter().flatten().any(|name| {
        let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        RUNTIMES.contains(&plain)
    })
}

/// The file among the arguments that is the program, if the command is a runtime.
fn script<'a>(spec: &'a Spec, program: &Path) -> Option<(&'a str, PathBuf)> {
    if !is_runtime(program, &spec.command) {
        return None;
    }
    let here = spec.cwd.clone().or_else(|| std::env::current_dir().ok())?;
    let folder = project_folder(spec, program);
    spec.args.iter().filter(|argument| !argument.starts_with('-')).find_map(|argument| {
        let path = here.join(argument);
        let inside = folder.as_ref().map(|folder| folder.join(argument));
        [Some(path), inside]
            .into_iter()
            .flatten()
            .find(|path| path.is_file())
            .map(|path| (argument.as_str(), path))
    })
}

/// The project that a tool is told to run in.
fn project_folder(spec: &Spec, program: &Path) -> Option<PathBuf> {
    let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if !matches!(
        name,
        "uv" | "uvx" | "npm" | "npx" | "pnpm" | "yarn" | "bun" | "poetry" | "pdm" | "make" | "go" | "dotnet"
    ) {
        return None;
    }
    let flags = ["--directory", "--project", "--prefix", "--cwd", "--dir", "-C"];
    let mut args = spec.args.iter();
    while let Some(argument) = args.next() {
        let value = match argument.split_once('=') {
            Some((flag, value)) if flags.contains(&flag) => Some(value),
            _ if flags.contains(&argument.as_str()) => args.next().map(String::as_str),
            _ => None,
        };
        if let Some(path) = value.map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir()) {
            return Some(path);
        }
    }
    None
}
