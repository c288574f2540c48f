//! What an isolate keeps between requests: the instance. It is plain memory; no binding or stream ever gets in.

use std::sync::{Arc, OnceLock};

use causeway::admin;
use causeway::instance::Instance;

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
