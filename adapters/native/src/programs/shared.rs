//! A process that several sessions share, and what has to be said again when it is replaced.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use causeway::mcp::revision::Revision;

use super::process::Process;

/// The place of a shared process.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) index: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Arc<Process>>,
    met: Option<Met>,
    level: Option<usize>,
}

/// What a program said when it was introduced to.
#[derive(Debug, Clone)]
pub(super) struct Met {
    /// The result of `initialize`.
    pub(super) result: Bytes,
    /// The revision in it.
    pub(super) revision: Option<Revision>,
}

impl Slot {
    pub(super) fn new(index: usize) -> Arc<Self> {
        Arc::new(Self { index, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process, if there is one that takes work.
    pub(super) fn ready(&self) -> Option<(Arc<Process>, Met)> {
        let state = self.state();
        let process = state.process.clone().filter(|process| process.is_open())?;
        Some((process, state.met.clone()?))
    }

    /// Its process, even if it takes no new work.
    pub(super) fn process(&self) -> Option<Arc<Process>> {
        self.state().process.clone()
    }

    pub(super) fn fill(&self, process: &Arc<Process>, met: Met) {
        let mut state = self.state();
        state.process = Some(process.clone());
        state.met = Some(met);
    }

    /// Lets go of `process`, if it is the one.
    pub(super) fn empty(&self, process: &Arc<Process>) {
        let mut state = self.state();
        if state.process.as_ref().is_some_and(|own| Arc::ptr_eq(own, process)) {
            state.process = None;
        }
    }

    /// The log level that the process was told.
    pub(super) fn level(&self) -> Option<usize> {
        self.state().level
    }

    pub(super) fn set_level(&self, level: Option<usize>) {
        self.state().level = level;
    }
}
