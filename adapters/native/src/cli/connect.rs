//! `causeway connect`.

use std::path::PathBuf;
use std::time::Duration;

use causeway::config::glob::Glob;
use causeway::tunnel::hello::Offer;
use serde_json::json;
use url::Url;

use super::remote::{Key, base, gateway};
use super::table::table;
use super::{Failure, Outcome, complain, print, print_json, stdio};
use crate::connect::{self, Checked, Ended, Options, Show, Transport};
use crate::log::{Level, Log};

/// Put this machine's servers and models behind a gateway.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Put this machine's servers and models behind a gateway.\n\n\
    Dials out to the gateway and serves the calls that come back, until it is stopped: no port is opened here. It \
    offers every server of the file that has no `via` or whose `via` is this link's name, and so for the providers of \
    models under `llm.providers` that are of kind ollama, lmstudio or openai-compatible; the gateway takes those that its \
    own configuration has with `via: NAME`. Commands, addresses and credentials come from the file on this machine \
    alone.\n\n\
    A lost connection is dialled again; calls in flight go on where they were if it is back in time. Where a newer \
    companion takes over the name, this one ends.",
    after_help = "Examples:\n  \
    causeway connect https://gateway.example --config mcp.json --name laptop\n  \
    causeway connect https://gateway.example --config gateway.yaml --once     # does everything work?\n  \
    causeway connect https://gateway.example --config mcp.json --allow 'read_*' --allow 'git__*'\n\n\
    Exit codes: 0 stopped, or everything was fine with --once; 1 the gateway refuses the link, another companion has \
    taken over, or something was not fine; 2 wrong usage or configuration."
)]
pub(super) struct Connect {
    /// The gateway, as in `https://gateway.example.com`
    #[arg(value_name = "URL", value_parser = gateway)]
    url: Url,

    #[command(flatten)]
    key: Key,

    /// What to offer: an mcp.json as it is, or a gateway's configuration
    #[arg(short, long, value_name = "FILE", default_value = "mcp.json", env = "CAUSEWAY_CONFIG")]
    config: PathBuf,

    /// The link's name, as the gateway's configuration has it in `via`. Default: this machine's name
    #[arg(short, long, value_name = "NAME", env = "CAUSEWAY_LINK")]
    name: Option<String>,

    /// Connect, make sure that all that the file offers is taken and answers, print a table, and end
    #[arg(long)]
    once: bool,

    /// Expose only tools that match, by their own name or as `server__tool`; can be given more than once
    #[arg(long, value_name = "GLOB")]
    allow: Vec<String>,

    /// How to connect; `auto` is a WebSocket, and events and POST where those are refused or nothing is heard over them
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    transport: Transport,

    /// With `auto`: for how long to keep to events and POST where they work and WebSockets do not. It doubles, up to 6 hours,
    /// each time that WebSockets still do not
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    again: Duration,

    /// How long calls in flight wait for a connection that was lost
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    resume: Duration,

    /// After how much silence to ask whether the gateway is still there
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    heartbeat: Duration,

    /// The longest pause before dialling again, after one that is short and grows
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = pause)]
    pause: Duration,

    /// Print JSON: an object for each event, a line each
    #[arg(long)]
    json: bool,

    /// What to log of programs, as one line of JSON on stderr
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "CAUSEWAY_LOG")]
    log: Level,
}

fn seconds(text: &str) -> Result<Duration, String> {
    between(text, 0.1)
}

fn pause(text: &str) -> Result<Duration, String> {
    between(text, 0.01)
}

fn between(text: &str, least: f64) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds".to_owned())?;
    if (least..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("from {least} to 3600 seconds"))
    }
}

impl Connect {
    pub(super) fn run(self) -> Outcome {
        let (once, json) = (self.once, self.json);
        let log = Log::stderr(self.log);
        let options = self.options(log.clone())?;
        let name = options.name.clone();
        // What goes through a link is small work for one thread, and takes least memory.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(error.to_string()))?;
        let ended = runtime.block_on(async {
            let stop = stdio::stopped().map_err(|error| Failure::Failed(error.to_string()))?;
            connect::run(options, stop).await.map_err(|problems| Failure::Refused(problems.join("\n")))
        });
        // Whatever still runs has had its time.
        runtime.shutdown_background();
        log.flush();
        match ended? {
            Ended::Stopped if once => {
                Err(Failure::Failed("stopped before everything was checked".to_owned()))
            }
            Ended::Stopped => Ok(()),
            Ended::Refused(why) => Err(Failure::Failed(format!("link {name}: {why}"))),
            Ended::Checked(checked) => report(&checked, json),
        }
    }

    fn options(self, log: Log) -> Result<Options, Failure> {
        let name = match self.name {
            Some(name) if is_name(&name) => name,
            Some(name) => {
                let why = format!("--name {name:?}: use up to 32 letters, digits, `-` and `_`");
                return Err(Failure::Refused(why));
            }
            None => machine().ok_or_else(|| {
                Failure::Refused("this machine has no name to go by: pass --name".to_owned())
            })?,
        };
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return Err(Failure::Refused(
                "the URL holds a user or a password: pass --key instead".to_owned(),
            ));
        }
        Ok(Options {
            tunnel: base(&self.url, causeway::tunnel::PATH),
            bearer: self.key.bearer()?,
            name,
            file: self.config,
            allow: self.allow.iter().map(|pattern| Glob::new(pattern)).collect(),
            transport: self.transport,
            again: self.again,
            resume: self.resume,
            heartbeat: self.heartbeat,
            pause: self.pause,
            once: self.once,
            show: Show::suits(self.json),
            log,
        })
    }
}

/// What the gateway takes for a name.
fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// This machine's name, as far as it can be one of a link.
fn machine() -> Option<String> {
    let known = std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok();
    let name = known.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let name = name.or_else(|| std::fs::read_to_string("/etc/hostname").ok())?;
    let short = name.trim().split('.').next().unwrap_or_default();
    let name: String = short.chars().filter(|c| is_name(&c.to_string())).take(32).collect();
    (!name.is_empty()).then_some(name)
}

/// What it has several of.
fn noun(one: &Checked) -> &'static str {
    match one.offer {
        Offer::Server(_) => "tools",
        Offer::Model(_) => "models",
    }
}

fn report(checked: &[Checked], json: bool) -> Outcome {
    let fine = checked.iter().all(Checked::is_fine);
    let ms = |one: &Checked| one.took.as_secs_f64() * 1000.0;
    if json {
        let rows: Vec<_> = checked
            .iter()
            .map(|one| {
                json!({
                    "offer": one.offer,
                    "at": one.what,
                    "accepted": one.refused.is_none(),
                    "refused": one.refused,
                    noun(one): one.has.as_ref().ok().and_then(Option::as_ref).map(Vec::len),
                    "names": one.has.as_ref().ok(),
                    "error": one.has.as_ref().err(),
                    "ms": (ms(one) * 10.0).round() / 10.0,
                })
            })
            .collect();
        print_json(&json!({ "fine": fine, "offers": rows }))?;
    } else {
        let rows: Vec<_> = checked
            .iter()
            .map(|one| {
                let gateway = match &one.refused {
                    None => "taken".to_owned(),
                    Some(why) => why.clone(),
                };
                let here = match &one.has {
                    Ok(Some(names)) => format!("{} {}, {:.0} ms", names.len(), noun(one), ms(one)),
                    Ok(None) => format!("answers, {:.0} ms", ms(one)),
                    Err(why) => why.clone(),
                };
                [one.offer.name().to_owned(), one.what.clone(), gateway, here]
            })
            .collect();
        print(&table(["NAME", "AT", "GATEWAY", "HERE"], &rows))?;
        for one in checked {
            if let Ok(Some(names)) = &one.has
                && !names.is_empty()
            {
                print(&format!("\n{} exposes {}", one.offer.name(), names.join(", ")))?;
            }
        }
    }
    if checked.is_empty() {
        complain("the file offers nothing under this name");
    }
    if fine && !checked.is_empty() { Ok(()) } else { Err(Failure::Failed(String::new())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        connect: Connect,
    }

    fn options(arguments: &[&str]) -> Result<Options, String> {
        let line =
            Line::try_parse_from([&["connect"], arguments].concat()).map_err(|error| error.to_string())?;
        line.connect.options(Log::stderr(Level::Off)).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn the_tunnel_is_found_from_any_url_of_the_gateway() {
        let at = |url: &str| options(&[url, "--name", "a"]).unwrap().tunnel.to_string();
        assert_eq!(at("https://a"), "https://a/tunnel");
        assert_eq!(at("https://a/mcp/x?y=1"), "https://a/tunnel");
        assert_eq!(at("http://a:1/base/mcp"), "http://a:1/base/tunnel");
    }

    #[test]
    fn wrong_names_are_refused_before_anything_is_dialled() {
        for name in ["", "a b", "é", "a/b", &"a".repeat(33)] {
            assert!(options(&["http://a", "--name", name]).is_err(), "{name}");
        }
        assert!(options(&["http://u:p@a", "--name", "a"]).is_err());
        assert!(options(&["http://a", "--name", "a", "--resume", "0"]).is_err());
        assert!(options(&["http://a", "--name", "a", "--heartbeat", "0.5"]).is_ok());
    }
}
