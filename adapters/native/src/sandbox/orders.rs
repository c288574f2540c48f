//! What the gateway tells the keeper, and the keeper those that it starts: one JSON text in one variable. It holds no
//! secret. The server's environment is carried beside it under other names, so that it means nothing to ours.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::system::Namespaces;

/// The first arguments by which our own processes know what they are.
pub(super) const KEEP: &str = "__keep";
pub(super) const GUARD: &str = "__guard";
pub(super) const RUN: &str = "__run";
pub(super) const PROBE: &str = "__probe";

/// The variable that holds the orders.
pub(super) const ORDERS: &str = "CAUSEWAY_KEEP";

/// The variable by which everything that a server started can be found, if it has not thrown it away.
pub(super) const MARK: &str = "CAUSEWAY_SERVER";

const CARRIED: &str = "causeway:";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The server's name.
    pub(super) name: String,
    /// The process that must live on for the server to.
    pub(super) parent: u32,
    /// What to run, and what it is called.
    pub(super) program: PathBuf,
    pub(super) command: String,
    pub(super) cwd: Option<PathBuf>,
    /// Folders to make.
    pub(super) private: Vec<PathBuf>,
    /// A folder to make, and to remove in the end.
    pub(super) temp: Option<PathBuf>,
    pub(super) namespaces: Namespaces,
    pub(super) bounds: Option<Bounds>,
    pub(super) mark: String,
}

/// What the sandbox lets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bounds {
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    /// What is covered up where there is a mount namespace: sockets by which one gets out.
    pub(super) hide: Vec<PathBuf>,
    pub(super) network: bool,
    pub(super) memory: u64,
    /// Seconds.
    pub(super) cpu: u64,
    pub(super) processes: u32,
    pub(super) files: u32,
    pub(super) file_size: u64,
    pub(super) seccomp: bool,
    pub(super) landlock: bool,
}

impl Orders {
    /// The orders that this process was given.
    pub(super) fn received() -> Option<Self> {
        serde_json::from_str(&std::env::var(ORDERS).ok()?).ok()
    }
}

/// The name under which a variable of the server is carried.
pub(super) fn carried(name: &OsStr) -> OsString {
    let mut carried = OsString::from(CARRIED);
    carried.push(name);
    carried
}

/// The server's environment, as it was carried here.
#[cfg(unix)]
pub(super) fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    use std::os::unix::ffi::OsStrExt;
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.as_bytes().strip_prefix(CARRIED.as_bytes())?;
        Some((OsStr::from_bytes(name).to_owned(), value))
    })
}

/// Says something about the server to whoever reads its stderr.
#[cfg(unix)]
pub(super) fn say(text: &str) {
    use std::io::Write;
    _ = std::io::stderr().write_all(format!("causeway: {text}\n").as_bytes());
}
