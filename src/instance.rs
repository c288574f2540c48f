//! What one process or isolate remembers between requests.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Plan;

/// Shared by every request of a process or isolate. Losing it loses nothing but time.
#[derive(Debug)]
pub struct Instance {
    plan: RwLock<Arc<Plan>>,
}

impl Instance {
    /// An instance that serves `plan`.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Arc<Self> {
        Arc::new(Self { plan: RwLock::new(plan) })
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts `plan` in force for the requests that start from now on.
    pub fn install(&self, plan: Arc<Plan>) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = plan;
    }
}
