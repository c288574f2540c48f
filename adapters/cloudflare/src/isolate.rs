//! What an isolate keeps: the instance, and when it last looked for a newer configuration.
use std::sync::{Arc, OnceLock};

use causeway::config::Plan;
use causeway::instance::Instance;

static ISOLATE: OnceLock<Arc<Instance>> = OnceLock::new();

pub(crate) fn instance() -> Arc<Instance> {
    ISOLATE
        .get_or_init(|| {
            Instance::new(Arc::new(Plan {
                digest: String::new(),
                servers: Vec::new(),
                skipped: Vec::new(),
                keys: Vec::new(),
                origins: Vec::new(),
                limits: causeway::config::plan::Limits::default(),
            }))
        })
        .clone()
}
