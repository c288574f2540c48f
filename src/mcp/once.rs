//! Work that many ask for at once, done once.

use std::time::Duration;

use super::Mcp;
use crate::fault::Fault;
use crate::platform::{Clock as _, Platform};

impl<P: Platform> Mcp<P> {
    /// Does `make` once, however many ask at the same time: the first works, the others look again until
    /// `look` finds what was made or the work has failed. Nobody waits on another request's input or output,
    /// which Workers forbid.
    ///
    /// # Errors
    /// What `make` says.
    pub async fn once<T, M>(
        &self,
        key: &str,
        look: impl Fn() -> Option<T>,
        make: impl FnOnce() -> M,
    ) -> Result<T, Fault>
    where
        M: Future<Output = Result<T, Fault>>,
    {
        if let Some(found) = look() {
            return Ok(found);
        }
        let began = self.platform.clock().now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(_claim) = self.memory.claim(key) {
                if let Some(found) = look() {
                    return Ok(found);
                }
                if let Some(fault) =
                    self.memory.failure(key, began).filter(|_| pause > Duration::from_millis(1))
                {
                    return Err(fault);
                }
                let made = make().await;
                if let Err(fault) = &made {
                    self.memory.set_failure(key, self.platform.clock().now(), fault);
                }
                return made;
            }
            self.platform.clock().sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}
