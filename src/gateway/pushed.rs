//! The instance of a process or isolate whose configuration is pushed.

use std::sync::{Arc, OnceLock};

use super::Gateway;
use crate::admin;
use crate::instance::Instance;
use crate::platform::Platform;

/// What a host keeps between requests where the first of them reads the configuration. It is plain memory: nothing of
/// any request ever gets in.
#[derive(Debug, Default)]
pub struct Pushed(OnceLock<Arc<Instance>>);

impl Pushed {
    /// Before the first request.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The gateway on `platform`. Others that come while the first request reads the configuration read it, too: hosts
    /// are not made for one request to wait for what another does.
    pub async fn gateway<P: Platform>(&self, platform: P) -> Gateway<P> {
        let instance = match self.0.get() {
            Some(instance) => instance.clone(),
            None => {
                let started = admin::start(&platform).await;
                self.0.get_or_init(|| started).clone()
            }
        };
        Gateway::new(platform, instance)
    }
}
