//! What an instance keeps between requests: the plan in force, and the mailboxes that are owned here.

use std::cell::OnceCell;
use std::sync::Arc;

use causeway::admin;
use causeway::instance::Instance;
use causeway::polled::Polled;

use crate::platform::Spin;

thread_local! {
    static INSTANCE: OnceCell<Arc<Instance>> = const { OnceCell::new() };
    static POLLED: OnceCell<Arc<Polled<Spin>>> = const { OnceCell::new() };
}

/// The instance. The first request reads the configuration; others that come meanwhile read it, too.
pub(crate) async fn instance() -> Arc<Instance> {
    match INSTANCE.with(|known| known.get().cloned()) {
        Some(instance) => instance,
        None => {
            let started = admin::start(&Spin).await;
            INSTANCE.with(|known| known.get_or_init(|| started).clone())
        }
    }
}

/// The mailboxes.
pub(crate) fn polled() -> Arc<Polled<Spin>> {
    POLLED.with(|known| known.get_or_init(Arc::default).clone())
}
