//! The native host: sockets, files, threads and the environment, given to the core through its seam.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use causeway::platform::{Abilities, Clock, Entropy, Platform, Program, Timestamp};

use crate::http::Http;
use crate::log::Log;
use crate::mailboxes::Owners;
use crate::programs::Programs;
use crate::secrets::Secrets;
use crate::store::Store;

/// The platform. Clones share everything.
#[derive(Clone, Debug)]
pub struct Native {
    http: Http,
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    store: Store,
    secrets: Secrets,
    clock: TokioClock,
    entropy: OsEntropy,
    log: Log,
    abilities: Abilities,
    owners: Arc<Owners>,
    programs: Programs,
}

impl Native {
    /// A platform made of these parts.
    #[must_use]
    pub fn new(store: Store, secrets: Secrets, log: Log, abilities: Abilities) -> Self {
        let clock = TokioClock { start: Instant::now() };
        let (programs, owners) = (Programs::new(log.clone()), Arc::default());
        let http = Http::with_programs(programs.clone());
        let parts = Parts { store, secrets, clock, entropy: OsEntropy, log, abilities, owners, programs };
        Self { http, parts: Arc::new(parts) }
    }

    /// The owners of mailboxes.
    #[must_use]
    pub fn owners(&self) -> &Arc<Owners> {
        &self.parts.owners
    }

    /// The servers that are programs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.parts.programs
    }

    /// The same, but with outbound connections that it shares with nobody: for a thread that serves by itself.
    #[must_use]
    pub fn on_connections_of_its_own(&self) -> Self {
        Self { http: self.http.without_connections(), parts: self.parts.clone() }
    }
}

impl Platform for Native {
    type Http = Http;
    type Store = Store;
    type KeyValue = Store;
    type Mailboxes = Self;
    type Secrets = Secrets;
    type Clock = TokioClock;
    type Entropy = OsEntropy;
    type Log = Log;

    fn http(&self) -> &Http {
        &self.http
    }
    fn store(&self) -> &Store {
        &self.parts.store
    }
    fn key_value(&self) -> &Store {
        &self.parts.store
    }
    fn mailboxes(&self) -> &Self {
        self
    }
    fn secrets(&self) -> &Secrets {
        &self.parts.secrets
    }
    fn clock(&self) -> &TokioClock {
        &self.parts.clock
    }
    fn entropy(&self) -> &OsEntropy {
        &self.parts.entropy
    }
    fn log(&self) -> &Log {
        &self.parts.log
    }
    fn abilities(&self) -> Abilities {
        self.parts.abilities
    }
    fn program(&self, server: &str) -> Option<Program> {
        self.parts.programs.status(server)
    }
}

/// The system's clocks, and tokio's timers.
#[derive(Clone, Debug)]
pub struct TokioClock {
    start: Instant,
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn ticks(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    #[expect(clippy::manual_async_fn, reason = "an `async fn` would borrow the clock; a sleep outlives it")]
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + 'static {
        // The timer is registered when this is first polled, and most deadlines never are.
        async move { tokio::time::sleep(span).await }
    }
}

thread_local! {
    /// Randomness that is not used yet. What is taken from it is overwritten.
    static POOL: RefCell<([u8; 256], usize)> = const { RefCell::new(([0; 256], 0)) };
}

/// The operating system's randomness, which each thread asks for in advance: most of it is for the ids of requests.
#[derive(Clone, Copy, Debug)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        POOL.with_borrow_mut(|(pool, left)| {
            if buffer.len() > pool.len() {
                return draw(buffer);
            }
            if *left < buffer.len() {
                draw(pool);
                *left = pool.len();
            }
            let start = *left - buffer.len();
            if let Some(taken) = pool.get_mut(start..*left) {
                buffer.copy_from_slice(taken);
                taken.fill(0);
            }
            *left = start;
        });
    }
}

#[expect(
    clippy::expect_used,
    reason = "a host without randomness can keep no secret; going on would be worse"
)]
fn draw(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the operating system gives randomness");
}
