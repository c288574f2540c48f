//! The environment of a server: what its entry lists, and what hardly any program does without.
//!
//! From the gateway's own environment a server is given
//!
//! - `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`, `LANGUAGE`, `LC_*`, `TERM`, `TMPDIR`, `TZ`;
//! - where certificates are (`SSL_CERT_FILE`, `SSL_CERT_DIR`, `NODE_EXTRA_CA_CERTS`, `REQUESTS_CA_BUNDLE`,
//!   `CURL_CA_BUNDLE`, `GIT_SSL_CAINFO`);
//! - proxies (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either case), unless their value holds a password;
//!
//! and in a sandbox `TMPDIR`, `XDG_CACHE_HOME`, `npm_config_cache` and `UV_TOOL_DIR`, which point to folders of its own.
//! What the entry lists wins.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Spec;

type Environment = Vec<(OsString, OsString)>;

/// How often it is looked for temporary folders that were left, and how old they are at least.
const SWEEP: Duration = Duration::from_secs(60 * 60);
const NEW: Duration = Duration::from_secs(10);

const PLAIN: [&str; 11] = [
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TERM",
    "TMPDIR",
    "TZ",
    // What Windows cannot do without.
    "SYSTEMROOT",
    "APPDATA",
];

/// Those whose value is a path that must be readable.
pub(super) const CERTIFICATES: [&str; 6] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];

const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// Where programs are if nobody says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of the program, without what is private to one start.
pub(super) fn environment(spec: &Spec) -> Environment {
    let mut env = Environment::new();
    for (name, value) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let proxy = PROXIES.contains(&text.to_ascii_uppercase().as_str());
        let open = !value.to_string_lossy().contains('@');
        if PLAIN.contains(&text)
            || CERTIFICATES.contains(&text)
            || text.starts_with("LC_")
            || (proxy && open)
            || (text == "PATH" && !value.is_empty())
        {
            set(&mut env, text, value);
        }
    }
    if value(&env, "PATH").is_none() {
        set(&mut env, "PATH", PATH.into());
    }
    for (name, value) in &spec.env {
        set(&mut env, name, value.into());
    }
    env
}

pub(super) fn value(env: &[(OsString, OsString)], name: &str) -> Option<OsString> {
    env.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())
}

pub(super) fn set(env: &mut Environment, name: &str, value: OsString) {
    match env.iter_mut().find(|(own, _)| own == name) {
        Some((_, old)) => *old = value,
        None => env.push((name.into(), value)),
    }
}

/// Where `command` is.
pub(super) fn program(command: &str, cwd: Option<&Path>, path: &OsStr) -> Option<PathBuf> {
    let command = Path::new(command);
    let here = || std::env::current_dir().ok();
    if command.components().count() > 1 || command.is_absolute() {
        let whole = match cwd.map(Path::to_path_buf).or_else(here) {
            Some(cwd) if command.is_relative() => cwd.join(command),
            _ => command.to_path_buf(),
        };
        // Relative to the gateway's directory as well: clients differ in what they look up from where.
        let other = here().map(|here| here.join(command)).filter(|_| command.is_relative());
        return [Some(whole), other].into_iter().flatten().find(|path| path.is_file());
    }
    std::env::split_paths(path)
        .map(|folder| folder.join(command))
        .find(|path| path.is_absolute() && runs(path))
}

fn runs(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    path.is_file()
}

/// A word that no other start of a server has, here or elsewhere on this machine.
pub(super) fn mark(name: &str) -> String {
    let mut random = [0_u8; 8];
    if getrandom::fill(&mut random).is_err() {
        // Unique is enough: it keeps no secret.
        let mut hasher = std::hash::RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        random = hasher.finish().to_be_bytes();
    }
    format!("{name}-{}-{:016x}", std::process::id(), u64::from_be_bytes(random))
}

/// Folders of a server's own.
pub(super) struct Private {
    /// Removed when it ends.
    pub(super) temp: PathBuf,
    /// Kept for the next start: what it has downloaded.
    pub(super) cache: PathBuf,
}

impl Private {
    pub(super) fn new(spec: &Spec, mark: &str, env: &[(OsString, OsString)]) -> Self {
        // Short, as sockets must fit into 108 bytes.
        let own = mark.strip_prefix(&spec.name).unwrap_or(mark);
        let temp = std::env::temp_dir().join(format!("causeway{own}"));
        let home = value(env, "HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = match caches.or_else(|| home.map(|home| home.join(".cache"))) {
            Some(caches) => caches.join("causeway/servers").join(&spec.name),
            None => temp.join("cache"),
        };
        Self { temp, cache }
    }

    /// Points programs to them, unless the entry says otherwise.
    pub(super) fn describe(&self, spec: &Spec, env: &mut Environment) {
        let home = value(env, "HOME").map(PathBuf::from).unwrap_or_default();
        let mut point = |name: &str, path: &Path| {
            if !spec.env.iter().any(|(own, _)| own == name) {
                set(env, name, path.into());
            }
        };
        for name in ["TMPDIR", "TMP", "TEMP"] {
            point(name, &self.temp);
        }
        point("XDG_CACHE_HOME", &self.cache);
        point("npm_config_cache", &self.cache.join("npm"));
        point("UV_TOOL_DIR", &self.cache.join("uv-tools"));
        point("UV_TOOL_BIN_DIR", &self.cache.join("uv-bin"));
        // What is looked for in the cache and is large, or is made by hand.
        let browsers = home.join(".cache/ms-playwright");
        if browsers.is_dir() {
            point("PLAYWRIGHT_BROWSERS_PATH", &browsers);
        }
        if !home.join(".local/share/uv/python").is_dir() {
            point("UV_PYTHON_INSTALL_DIR", &self.cache.join("python"));
        }
    }
}

/// Says that the temporary folder at `path` is in use, for as long as what this gives is there and whoever has it lives.
#[cfg(unix)]
pub(super) fn hold(path: &Path) -> Option<std::fs::File> {
    let folder = std::fs::File::open(path).ok()?;
    folder.try_lock().ok().map(|()| folder)
}

/// Removes temporary folders whose keeper was killed: beside everything else, and not too often.
pub(super) fn sweep() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_some_and(|last| last.elapsed() < SWEEP) {
        return;
    }
    *last = Some(Instant::now());
    // Without a thread they stay for another day.
    _ = std::thread::Builder::new().name("sweep".to_owned()).spawn(|| {
        let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_left(path)) {
            _ = std::fs::remove_dir_all(path);
        }
    });
}

/// Whether `path` is a folder of ours that no keeper [holds](hold) any more: of this gateway, or of one that is gone. A new
/// one may be about to be held.
fn is_left(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let Some((pid, word)) = name.strip_prefix("causeway-").and_then(|own| own.split_once('-')) else {
        return false;
    };
    let ours = word.len() == 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    let Some(pid) = pid.parse::<u32>().ok().filter(|_| ours) else { return false };
    let Ok(about) = path.symlink_metadata() else { return false };
    let old = about.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > NEW));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        // The keepers of another gateway may be of a version that holds nothing.
        (old && about.is_dir() && about.uid() == rustix::process::geteuid().as_raw())
            && (!is_alive(pid) || pid == std::process::id())
            && hold(path).is_some()
    }
    #[cfg(not(unix))]
    {
        _ = (old, pid);
        false
    }
}

#[cfg(unix)]
fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn only_folders_that_no_keeper_holds_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, age: Duration, held: bool, expect: bool| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let time = std::time::SystemTime::now() - age;
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
            let _held = held.then(|| hold(&path).unwrap());
            assert_eq!(is_left(&path), expect, "{name}");
        };
        let (new, old, own) = (Duration::ZERO, NEW * 2, std::process::id());
        check("causeway-2147483647-0123456789abcdef", old, false, true);
        check("causeway-2147483646-0123456789abcdef", new, false, false);
        check("causeway-2147483645-0123456789abcdef", old, true, false);
        check(&format!("causeway-{own}-0123456789abcdef"), old, false, true);
        check(&format!("causeway-{own}-1123456789abcdef"), old, true, false);
        check("causeway-1-0123456789abcdef", old, false, !is_alive(1));
        check("causeway-2147483647-mine", old, false, false);
        check("causeway-mine-0123456789abcdef", old, false, false);
        check("mine", old, false, false);
    }

    #[test]
    fn a_mark_is_unique() {
        assert_ne!(mark("a"), mark("a"));
    }

    #[test]
    fn the_entry_wins_over_the_base() {
        let spec = Spec {
            name: "a".into(),
            command: "true".into(),
            args: Vec::new(),
            env: vec![("PATH".into(), "/nowhere".into())],
            cwd: None,
            sandbox: Default::default(),
        };
        let env = environment(&spec);
        assert_eq!(value(&env, "PATH").unwrap(), "/nowhere");
        assert_eq!(env.iter().filter(|(name, _)| name == "PATH").count(), 1);
        assert!(value(&env, "CARGO_MANIFEST_DIR").is_none(), "nothing else of ours is handed on");
    }

    #[test]
    fn a_program_is_looked_up_in_path() {
        assert_eq!(program("sh", None, OsStr::new("/nowhere:/bin")).unwrap(), Path::new("/bin/sh"));
        assert_eq!(program("sh", None, OsStr::new("/nowhere")), None);
        assert_eq!(program("/bin/sh", None, OsStr::new("")).unwrap(), Path::new("/bin/sh"));
        assert_eq!(program("./sh", Some(Path::new("/bin")), OsStr::new("")).unwrap(), Path::new("/bin/./sh"));
    }
}
