//! What an isolate keeps between requests: the instance. It is plain memory; no binding or stream ever gets in.

use std::sync::{Arc, OnceLock};

use causeway::admin;
use causeway::instance::Instance;
use causeway::platform::{Clock as _, Platform as _};

use crate::platform::Worker;

static INSTANCE: OnceLock<Arc<Instance>> = OnceLock::new();

/// The isolate's instance. The first request reads the configuration; others that come meanwhile read it too, because
/// in a Worker no request can wait for another's I/O.
pub(crate) async fn instance(platform: &Worker) -> Arc<Instance> {
    match INSTANCE.get() {
        Some(instance) => instance.clone(),
        None => {
            let started = admin::start(platform).await;
            INSTANCE.get_or_init(|| started).clone()
        }
    }
}

/// Looks for a newer configuration if it is time to. To be run behind a reply.
pub(crate) async fn look(platform: &Worker, instance: &Instance) {
    if instance.look_due(platform.clock().now()) {
        admin::look(platform, instance).await;
    }
}
