//! The core's seam over what Spin and WASI offer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use causeway::admin::BUNDLED;
use causeway::gateway::{Gateway, Pushed};
use causeway::platform::{
    Abilities, Clock, Entropy, Links, Log, Mailboxes, Platform, SeamError, Secrets, Timestamp,
};
use causeway::polled::Polled;
use spin_sdk::variables;
use spin_sdk::wasip3::clocks::monotonic_clock;
use spin_sdk::wasip3::random::random;

use crate::http::{Chunks, Outbound, Sent, start};
use crate::key_value::Kv;
use crate::store::Sqlite;

/// What this host can do.
const ABILITIES: Abilities = Abilities {
    host: "spin",
    processes: false,
    loopback_only: false,
    keyless: false,
    config_file: false,
    mailboxes: true,
    links: Links::Posts,
};

/// Where a configuration lies that was bundled as a file (`files` in `spin.toml`).
const FILE: &str = "/causeway.json";

/// What the instance keeps between requests.
static INSTANCE: Pushed = Pushed::new();

thread_local! {
    /// The mailboxes that are owned here.
    static POLLED: Arc<Polled<Spin>> = Arc::default();
}

/// The gateway, for one request.
pub(crate) async fn gateway() -> Gateway<Spin> {
    INSTANCE.gateway(Spin).await
}

fn polled() -> Arc<Polled<Spin>> {
    POLLED.with(Arc::clone)
}

/// The host. There is nothing to it but its functions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spin;

impl Platform for Spin {
    type Http = Outbound;
    type Store = Sqlite;
    type KeyValue = Kv;
    type Mailboxes = Self;
    type Secrets = Variables;
    type Clock = Time;
    type Entropy = Random;
    type Log = Stdout;

    fn http(&self) -> &Outbound {
        &Outbound
    }
    fn store(&self) -> &Sqlite {
        &Sqlite
    }
    fn key_value(&self) -> &Kv {
        &Kv
    }
    fn mailboxes(&self) -> &Self {
        self
    }
    fn secrets(&self) -> &Variables {
        &Variables
    }
    fn clock(&self) -> &Time {
        &Time
    }
    fn entropy(&self) -> &Random {
        &Random
    }
    fn log(&self) -> &Stdout {
        &Stdout
    }
    fn abilities(&self) -> Abilities {
        ABILITIES
    }
}

/// A letter on its way.
type Posting = Pin<Box<dyn Future<Output = Result<Chunks, SeamError>>>>;

impl Mailboxes for Spin {
    type Body = Chunks;

    fn place(&self) -> String {
        polled().place(self).to_owned()
    }

    #[expect(refining_impl_trait, reason = "the type must be known without looking into what the owner does")]
    fn post(&self, key: &str, letter: Bytes) -> Posting {
        let key = key.to_owned();
        Box::pin(async move {
            let (said, work) = polled().post(gateway().await, &key, letter).await?;
            start(work).await;
            Ok(Chunks::Mailbox(said))
        })
    }

    type Sent = Sent;

    fn ask(&self, key: &str, request: http::Request<Bytes>) -> Sent {
        let key = key.to_owned();
        Box::pin(async move {
            let (answer, work) = polled().ask(gateway().await, &key, request).await?;
            start(work).await;
            Ok(answer.await?.map(|asked| Chunks::Link(Box::new(asked))))
        })
    }
}

thread_local! {
    static KNOWN: RefCell<HashMap<String, String>> = RefCell::default();
}

/// Variables of the application. `GITHUB_TOKEN` is the variable `github_token`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variables;

impl Secrets for Variables {
    fn secret(&self, name: &str) -> Option<String> {
        KNOWN.with_borrow(|known| known.get(name).cloned())
    }

    async fn prepare(&self, names: Vec<String>) {
        for name in names {
            // A variable that `spin.toml` does not name is one that is not set.
            let mut value = variables::get(name.to_ascii_lowercase()).await.ok();
            if name == BUNDLED && value.as_ref().is_none_or(String::is_empty) {
                value = std::fs::read_to_string(FILE).ok();
            }
            KNOWN.with_borrow_mut(|known| match value {
                Some(value) => known.insert(name, value),
                None => known.remove(&name),
            });
        }
    }
}

/// The host's clocks and timers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time;

thread_local! {
    static START: Instant = Instant::now();
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn ticks(&self) -> u64 {
        u64::try_from(START.with(Instant::elapsed).as_micros()).unwrap_or(u64::MAX)
    }

    #[expect(clippy::manual_async_fn, reason = "an `async fn` would borrow the clock; a sleep outlives it")]
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + 'static {
        async move { monotonic_clock::wait_for(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)).await }
    }
}

/// The host's randomness.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random;

impl Entropy for Random {
    fn fill(&self, buffer: &mut [u8]) {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            // The host may give fewer than were asked for.
            let bytes = random::get_random_bytes(rest.len() as u64);
            rest.iter_mut().zip(&bytes).for_each(|(byte, random)| *byte = *random);
            filled += bytes.len();
        }
    }
}

/// Standard output, which Spin shows and keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stdout;

impl Log for Stdout {
    fn write(&self, line: &str) {
        // There is nobody to tell if it cannot be written.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}
