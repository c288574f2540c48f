//! The core's seam over bindings and globals.

use std::rc::Rc;

use causeway::gateway::{Gateway, Pushed};
use causeway::platform::{Abilities, Entropy, Links, Log, Platform, Secrets};
use worker::Env;

use crate::glue;
use crate::http::Fetch;
use crate::key_value::Kv;
use crate::mailbox::Namespace;
use crate::store::Objects;
use crate::time::Time;

/// What this host can do.
pub(crate) const ABILITIES: Abilities = Abilities {
    host: "cloudflare",
    processes: false,
    loopback_only: false,
    keyless: false,
    config_file: false,
    mailboxes: true,
    links: Links::SleepingSockets,
};

/// What the isolate keeps between requests.
static ISOLATE: Pushed = Pushed::new();

/// The gateway, for one request.
pub(crate) async fn gateway(env: Env) -> Gateway<Worker> {
    ISOLATE.gateway(Worker::new(env)).await
}

/// The host, for one request.
#[derive(Debug, Clone)]
pub(crate) struct Worker(Rc<Parts>);

#[derive(Debug)]
struct Parts {
    store: Objects,
    key_value: Kv,
    mailboxes: Namespace,
    settings: Settings,
}

impl Worker {
    fn new(env: Env) -> Self {
        let store = Objects::new(env.clone());
        let key_value = Kv::new(env.clone());
        let mailboxes = Namespace::new(env.clone());
        Self(Rc::new(Parts { store, key_value, mailboxes, settings: Settings(env) }))
    }

    /// The bindings.
    pub(crate) fn env(&self) -> &Env {
        &self.0.settings.0
    }
}

impl Platform for Worker {
    type Http = Fetch;
    type Store = Objects;
    type KeyValue = Kv;
    type Mailboxes = Namespace;
    type Secrets = Settings;
    type Clock = Time;
    type Entropy = Crypto;
    type Log = Console;

    fn http(&self) -> &Fetch {
        &Fetch
    }
    fn store(&self) -> &Objects {
        &self.0.store
    }
    fn key_value(&self) -> &Kv {
        &self.0.key_value
    }
    fn mailboxes(&self) -> &Namespace {
        &self.0.mailboxes
    }
    fn secrets(&self) -> &Settings {
        &self.0.settings
    }
    fn clock(&self) -> &Time {
        &Time
    }
    fn entropy(&self) -> &Crypto {
        &Crypto
    }
    fn log(&self) -> &Console {
        &Console
    }
    fn abilities(&self) -> Abilities {
        ABILITIES
    }
}

/// Variables and secrets of the Worker, by name.
#[derive(Debug)]
pub(crate) struct Settings(Env);

impl Secrets for Settings {
    fn secret(&self, name: &str) -> Option<String> {
        glue::setting(&self.0, name)
    }
}

/// `crypto.getRandomValues`.
#[derive(Debug)]
pub(crate) struct Crypto;

impl Entropy for Crypto {
    fn fill(&self, buffer: &mut [u8]) {
        // It takes at most 65536 bytes at a time, and fails for no other reason.
        for part in buffer.chunks_mut(65_536) {
            if glue::random(part).is_err() {
                // Going on with predictable bytes would be worse than ending here.
                std::process::abort();
            }
        }
    }
}

/// `console.log`, which Workers Logs index when a line is JSON.
#[derive(Debug)]
pub(crate) struct Console;

impl Log for Console {
    fn write(&self, line: &str) {
        glue::console_log(line);
    }
}
