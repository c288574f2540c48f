//! What one process or isolate remembers between requests.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Plan;
use crate::config::stored::Stamp;
use crate::mcp::memory::Memory;

/// Shared by every request of a process or isolate. Losing it loses nothing but time.
#[derive(Debug)]
pub struct Instance {
    plan: RwLock<Result<Arc<Plan>, String>>,
    stamp: RwLock<Option<Stamp>>,
    memory: Arc<Memory>,
}

impl Instance {
    /// An instance that serves `plan`.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Arc<Self> {
        Arc::new(Self { plan: RwLock::new(Ok(plan)), stamp: RwLock::default(), memory: Arc::default() })
    }

    /// An instance that has nothing to serve yet, and says why.
    #[must_use]
    pub fn unconfigured(reason: String) -> Arc<Self> {
        Arc::new(Self { plan: RwLock::new(Err(reason)), stamp: RwLock::default(), memory: Arc::default() })
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

    /// What has been learned.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}
