//! An answer that is known, and one that is kept.

use super::{Call, Role};
use crate::llm::chat::Usage;
use crate::platform::Platform;

impl<P: Platform> Call<P> {
    /// Answers with what was said to the very same question before, if that is known. Dropping the future loses nothing.
    pub(super) async fn recall(&mut self) {
        let Some(caching) = self.caching.as_mut().filter(|caching| caching.looks()) else { return };
        let Some((whole, by)) = caching.find(&self.platform, &self.plan, &self.memory.cache).await else {
            self.metered.cache = Some("miss");
            return;
        };
        // Whether usage is wanted is in the request.
        let _ = self.chat();
        (self.metered.provider, self.metered.model) = by;
        self.metered.cache = Some("hit");
        self.team = None;
        self.left.clear();
        "from the cache".clone_into(&mut self.asked.why);
        // Nothing was used for it.
        self.said.before = Usage { input: Some(0), output: Some(0), ..Usage::default() };
        self.deliver(whole);
        self.metered.cost = Some(0.0);
    }

    /// Keeps the answer that has come to its end, where answers are kept.
    pub(super) fn keep(&mut self) {
        let good = match &self.role {
            Role::Own => true,
            Role::Unseen => false,
            // What came about because one of them failed would be another answer the next time.
            Role::Last(_, spent) => spent.stages.iter().all(|stage| stage.outcome == "ok"),
        };
        let now = self.now();
        let Some(caching) = self.caching.as_mut().filter(|_| good) else { return };
        let by = (self.metered.provider.clone(), self.metered.model.clone());
        self.to_keep = caching.keep(&self.plan, &self.memory.cache, by, now);
    }
}
