//! What one process or isolate remembers between requests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt as _;
use futures_util::future::{Shared, pending};

use crate::config::Plan;
use crate::config::stored::Stamp;
use crate::llm;
use crate::mcp::memory::{Memory, lock};
use crate::platform::Timestamp;

/// How often an instance looks whether a newer configuration was pushed.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Shared by every request of a process or isolate. Losing it loses nothing but time.
#[derive(Debug)]
pub struct Instance {
    plan: RwLock<Result<Arc<Plan>, String>>,
    stamp: RwLock<Option<Stamp>>,
    memory: Arc<Memory>,
    models: Arc<llm::Memory>,
    /// How many questions of each server models are answering.
    asking: Mutex<BTreeMap<String, usize>>,
    looked: AtomicU64,
    trouble: Mutex<String>,
    close: Mutex<Option<oneshot::Sender<()>>>,
    closing: Shared<oneshot::Receiver<()>>,
}

impl Instance {
    /// An instance that serves `plan`.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Arc<Self> {
        Self::with(Ok(plan))
    }

    /// An instance that has nothing to serve yet, and says why.
    #[must_use]
    pub fn unconfigured(reason: String) -> Arc<Self> {
        Self::with(Err(reason))
    }

    fn with(plan: Result<Arc<Plan>, String>) -> Arc<Self> {
        let (close, closing) = oneshot::channel();
        Arc::new(Self {
            plan: RwLock::new(plan),
            stamp: RwLock::default(),
            memory: Arc::default(),
            models: Arc::default(),
            asking: Mutex::default(),
            looked: AtomicU64::default(),
            trouble: Mutex::default(),
            close: Mutex::new(Some(close)),
            closing: closing.shared(),
        })
    }

    /// The plan in force, if there is one.
    #[must_use]
    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.plan.read().unwrap_or_else(PoisonError::into_inner).as_ref().ok().cloned()
    }

    /// Why there is no plan.
    #[must_use]
    pub fn reason(&self) -> String {
        let plan = self.plan.read().unwrap_or_else(PoisonError::into_inner);
        plan.as_ref().err().cloned().unwrap_or_default()
    }

    /// Puts `plan` in force for the requests that start from now on. What has been learned of servers that did
    /// not change is kept.
    pub fn install(&self, plan: Arc<Plan>) {
        self.memory.keep(&plan);
        self.models.keep(&plan);
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Ok(plan);
    }

    /// The stored version that the plan was made from, if it was stored.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes which stored version is in force.
    pub fn set_stamp(&self, stamp: Stamp) {
        *self.stamp.write().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
    }

    /// Gives another reason why there is no plan. A plan that is in force stays.
    pub fn explain(&self, reason: String) {
        let mut plan = self.plan.write().unwrap_or_else(PoisonError::into_inner);
        if plan.is_err() {
            *plan = Err(reason);
        }
    }

    /// Whether it is time to look for a newer configuration; says so to one asker only.
    pub fn look_due(&self, now: Timestamp) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        now >= Timestamp(looked).after(LOOK_EVERY)
            && self.looked.compare_exchange(looked, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes what is wrong with the stored configuration; an empty text: nothing. Says whether that is news.
    pub fn trouble(&self, text: &str) -> bool {
        let mut known = lock(&self.trouble);
        let news = *known != text;
        if news {
            text.clone_into(&mut known);
        }
        news && !text.is_empty()
    }

    /// Ends the streams that have no end of their own, each in good order: the host is going to stop. For hosts where
    /// all requests share their input and output; Workers do not.
    pub fn close(&self) {
        if let Some(close) = lock(&self.close).take() {
            // There may be no stream.
            let _ = close.send(());
        }
    }

    /// Resolves when the host is going to stop ([`Self::close`]).
    pub fn closing(&self) -> impl Future<Output = ()> + use<> {
        let closing = self.closing.clone();
        async move {
            if closing.await.is_err() {
                // The instance has gone without a word: nobody asked to stop.
                pending().await
            }
        }
    }

    /// The right to have a model answer `server`, which `most` may have at once.
    #[must_use]
    pub fn seat(self: &Arc<Self>, server: &str, most: usize) -> Option<Seat> {
        let mut asking = lock(&self.asking);
        let taken = asking.entry(server.to_owned()).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Seat { instance: self.clone(), server: server.to_owned() })
    }

    /// What has been learned of models and their providers.
    #[must_use]
    pub fn models(&self) -> &Arc<llm::Memory> {
        &self.models
    }

    /// What has been learned.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

/// One question of a server is being answered.
#[derive(Debug)]
pub struct Seat {
    instance: Arc<Instance>,
    server: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut asking = lock(&self.instance.asking);
        if let Some(taken) = asking.get_mut(&self.server) {
            *taken -= 1;
            if *taken == 0 {
                asking.remove(&self.server);
            }
        }
    }
}
