//! Mailboxes: an owner for each key, in this process. What the owners do runs on the thread that wrote the letter.
//!
//! They live in memory: what they keep (half-read answers, open streams) could not outlive the process anyway. Whoever
//! writes to an owner that is gone is told so by a new one, which knows nothing.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use causeway::gateway::Gateway;
use causeway::gateway::dock::Docked;
use causeway::instance::Instance;
use causeway::mcp::mailbox::Mailbox;
use causeway::platform::{HttpClient, Mailboxes, SeamError};
use causeway::relay::through;
use causeway::tunnel::dock::Dock;
use futures_util::FutureExt as _;
use http::Request;

use crate::http::{Answer, Http};
use crate::platform::Native;

/// The owners that are in use.
#[derive(Default)]
pub struct Owners {
    open: Mutex<HashMap<String, Arc<Mailbox<Native>>>>,
    /// Where companions dial in, by the link's name. There are no more than the configuration has named.
    docks: Mutex<HashMap<String, Arc<Dock>>>,
    instance: OnceLock<Arc<Instance>>,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owners")
    }
}

impl Owners {
    /// The owners work with what `instance` knows. To be said once, before there are requests.
    pub fn serve(&self, instance: &Arc<Instance>) {
        _ = self.instance.set(instance.clone());
    }

    /// The dock of the link `name`; `None` before there is an instance.
    pub(crate) fn docked(&self, native: &Native, name: &str) -> Option<Docked<Native>> {
        let instance = self.instance.get()?;
        let mut docks = self.docks.lock().unwrap_or_else(PoisonError::into_inner);
        let dock = docks.entry(name.to_owned()).or_default().clone();
        Some(Gateway::new(native.clone(), instance.clone()).dock(name, dock))
    }

    /// Every link that has a dock.
    fn links(&self) -> Vec<String> {
        self.docks.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Another plan is in force: links go by it from now on.
    pub(crate) fn replan(&self, native: &Native) {
        self.links().iter().filter_map(|name| self.docked(native, name)).for_each(|docked| docked.replan());
    }

    /// The gateway stops: companions are told to dial again.
    pub(crate) fn stop_links(&self, native: &Native) {
        self.links().iter().filter_map(|name| self.docked(native, name)).for_each(|docked| docked.stop());
    }

    /// Lets go of the owner of `key` if it keeps nothing.
    fn tidy(&self, key: &str, mailbox: &Arc<Mailbox<Native>>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(key).is_some_and(|known| Arc::ptr_eq(known, mailbox)) && mailbox.is_idle() {
            open.remove(key);
            // A burst must not leave its space behind for ever.
            if open.capacity() > 1024 && open.len() * 4 < open.capacity() {
                open.shrink_to_fit();
            }
        }
    }
}

impl Mailboxes for Native {
    type Body = Answer;

    #[expect(refining_impl_trait, reason = "the type must be known without looking into what the owner does")]
    fn post(&self, key: &str, letter: Bytes) -> Ready<Result<Answer, SeamError>> {
        let owners = self.owners().clone();
        let Some(instance) = owners.instance.get() else {
            return ready(Err(SeamError::Denied("the gateway has not started yet".to_owned())));
        };
        // Held while the letter is taken, so that nobody tidies the owner away in between.
        let mut open = owners.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = open.entry(key.to_owned()).or_default().clone();
        let (said, work) = Gateway::new(self.clone(), instance.clone()).deliver(mailbox.clone(), &letter);
        drop(open);
        let (owners, key) = (owners.clone(), key.to_owned());
        tokio::spawn(work.map(move |()| owners.tidy(&key, &mailbox)));
        ready(Ok(Answer::Mailbox(said)))
    }

    type Sent = <Http as HttpClient>::Sent;

    fn ask(&self, key: &str, request: Request<Bytes>) -> Self::Sent {
        let docked = self.owners().docked(self, through::name(key).unwrap_or(key));
        Box::pin(async move {
            let docked =
                docked.ok_or_else(|| SeamError::Denied("the gateway has not started yet".to_owned()))?;
            let answer = docked.ask(request).await?;
            Ok(answer.map(|told| Answer::Link(Box::new(told))))
        })
    }
}
