//! The companion: dials a gateway and answers what comes back through the link, from servers and models on this machine.
//!
//! | file | what |
//! |---|---|
//! | `targets` | what the file offers: servers by URL, programs, models |
//! | `desk` | the link, fed with what arrives and what its streams say; redials for as long as that makes sense |
//! | `wire` | one connection: a WebSocket, or events down and `POST` up |
//! | `ways` | which of the two is dialled next |
//! | `answer` | one stream: the request is made here, the answer goes back as it comes |
//! | `tools` | which tools are exposed, if not all |
//! | `check` | whether all that is offered answers, for `--once` |
//! | `view` | what is shown meanwhile |
//!
//! The gateway names what the file on this machine has; it **never** says which command to run, which address to ask, or
//! a path outside of what the file gives.

mod answer;
mod check;
mod desk;
mod targets;
mod tools;
mod view;
mod ways;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use causeway::config::glob::Glob;
use causeway::tunnel::Limits;
use http::HeaderValue;
use url::Url;

pub use check::Checked;
pub use targets::{Targets, read};
pub use view::Show;
pub use wire::Transport;

use crate::log::Log;

/// What a companion is told.
#[derive(Debug)]
pub struct Options {
    /// The gateway's tunnel, without the name.
    pub tunnel: Url,
    /// The `Authorization` to present.
    pub bearer: Option<HeaderValue>,
    /// The link's name.
    pub name: String,
    /// The file with the servers.
    pub file: PathBuf,
    /// Which tools are exposed, by their own name or as `server__tool`. Empty: all.
    pub allow: Vec<Glob>,
    /// How to connect.
    pub transport: Transport,
    /// How long events and `POST` are kept to at first where WebSockets get nowhere.
    pub again: Duration,
    /// How long calls in flight wait for a lost link.
    pub resume: Duration,
    /// After how much silence the gateway is asked whether it is there.
    pub heartbeat: Duration,
    /// The longest pause before dialling again.
    pub pause: Duration,
    /// Connect, check, and end.
    pub once: bool,
    /// What to show.
    pub show: Show,
    /// What programs say goes here.
    pub log: Log,
}

impl Options {
    fn limits(&self) -> Limits {
        // Each open stream of a client may be one here, and costs little while it is silent.
        Limits { resume: self.resume, heartbeat: self.heartbeat, streams: 4096, ..Limits::default() }
    }
}

/// Why a companion ended.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The gateway will not have it; in words.
    Refused(String),
    /// It has checked what it was to check.
    Checked(Vec<Checked>),
}

/// Connects and answers until `stop` resolves or there is no point in going on.
///
/// # Errors
/// When the file cannot be used, the problems of it a line each.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<Ended, Vec<String>> {
    let targets = read(&options.file, &options.name).await?;
    Ok(desk::Desk::new(options, targets).run(stop).await)
}
