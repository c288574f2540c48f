//! Servers that are programs: their processes, kept well, with the face of a Streamable HTTP server.
//!
//! Whoever speaks to one ([`Programs::send`]) makes HTTP requests as to any server, from any thread; sessions,
//! streams, cancellation and both eras are there. The processes, their pipes and what watches over them live on the
//! runtime on which [`Programs::apply`] was called first, and outlive every connection.
//!
//! | file | what |
//! |---|---|
//! | `face` | requests in, responses out |
//! | `program` | one server: which processes it has, and who is served by which; `era` finds out what it is, `sessions` keeps who shares |
//! | `process` | one process: started and spoken to; `pipes` reads and writes, `heard` finds whom a message concerns, `watch` watches over it and ends it in order |
//! | `table` | its requests without an answer yet, and whom each belongs to |
//! | `session`, `shared` | sessions of older revisions, and the processes that several of them share |
//! | `outlet` | what is said to one reader |
//! | `launch`, `group` | what a process is started with, and ended by |
//! | `voice` | what is logged |
//!
//! A process **never** costs anybody but its own callers: what it prints is bounded, what it does not answer ends by
//! the callers' own limits, and its end is told to each of them once.

mod face;
mod group;
mod launch;
mod outlet;
mod process;
mod program;
mod session;
mod shared;
mod stream;
mod table;
mod voice;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use causeway::config::plan::{self, Start};
use causeway::platform::{self, SeamError};
use futures_util::future::join_all;
use http::{Request, Response};
use tokio::runtime::Handle;

use crate::log::Log;
use crate::sandbox::Keeper;
pub use launch::Launch;
pub use outlet::Body;
use program::Program;

/// How long calls may go on at a program whose entry has changed or gone.
const FAREWELL: Duration = Duration::from_secs(30);
/// How long to wait for a process to end where there may be no more.
const ROOM: Duration = Duration::from_secs(5);

/// The programs. Clones share them.
#[derive(Debug, Clone)]
pub struct Programs(Arc<House>);

/// What the programs share.
#[derive(Debug)]
struct House {
    log: Log,
    keeper: Keeper,
    runtime: OnceLock<Handle>,
    open: RwLock<HashMap<String, Arc<Program>>>,
    /// Programs that were replaced and still have processes.
    leaving: Mutex<Vec<Arc<Program>>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Programs {
    /// None yet.
    #[must_use]
    pub fn new(log: Log) -> Self {
        Self(Arc::new(House {
            log,
            keeper: Keeper::own(),
            runtime: OnceLock::new(),
            open: RwLock::default(),
            leaving: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
        }))
    }

    /// From now on there are these programs, with at most `most` processes together. What has not changed goes on;
    /// calls at what has changed may end where they are. To be called on the runtime that is to keep the processes.
    pub fn apply(&self, programs: Vec<(String, Arc<plan::Program>)>, most: usize) {
        let house = &self.0;
        let home = house.runtime.get_or_init(Handle::current).clone();
        house.most.store(most, Ordering::Relaxed);
        let mut open = house.open.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *open);
        for (name, spec) in programs {
            let same = before
                .remove(&name)
                .map(|program| if program.spec == spec { Ok(program) } else { Err(program) });
            let program = match same {
                Some(Ok(program)) => program,
                other => {
                    if let Some(Err(old)) = other {
                        before.insert(format!("{name} before"), old);
                    }
                    let program = Program::new(&name, spec, house);
                    if program.spec.start == Start::Eager {
                        let program = program.clone();
                        home.spawn(async move { program.warm().await });
                    }
                    program
                }
            };
            open.insert(name, program);
        }
        drop(open);
        for old in before.into_values() {
            old.close(false, "its configuration has changed");
            house.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(old.clone());
            let house = house.clone();
            home.spawn(async move {
                if tokio::time::timeout(FAREWELL, old.gone()).await.is_err() {
                    old.close(true, "its configuration has changed");
                    old.gone().await;
                }
                let mut leaving = house.leaving.lock().unwrap_or_else(PoisonError::into_inner);
                leaving.retain(|other| !Arc::ptr_eq(other, &old));
            });
        }
    }

    /// The servers of `plan` that are programs.
    pub fn apply_plan(&self, plan: &plan::Plan) {
        let programs = plan.servers.iter();
        let programs = programs.filter_map(|server| Some((server.name.clone(), server.program.clone()?)));
        self.apply(programs.collect(), plan.limits.processes);
    }

    /// Answers a request to the program `name` as a Streamable HTTP server would; its URL does not matter.
    ///
    /// # Errors
    /// When the program cannot be started, or ends before it has answered.
    pub async fn send(&self, name: &str, request: Request<Bytes>) -> Result<Response<Body>, SeamError> {
        let program = self.0.open.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        match program {
            Some(program) => face::answer(&program, request).await,
            None => Err(SeamError::Denied(format!("there is no program {name:?}"))),
        }
    }

    /// How the program `name` is doing.
    #[must_use]
    pub fn status(&self, name: &str) -> Option<platform::Program> {
        let program = self.0.open.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        program.map(|program| program.status())
    }

    /// Ends every process in order, and resolves when there are none.
    pub async fn stop(&self) {
        let mut all: Vec<_> =
            std::mem::take(&mut *self.0.open.write().unwrap_or_else(PoisonError::into_inner))
                .into_values()
                .collect();
        all.extend(self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        all.iter().for_each(|program| program.close(true, "the gateway stops"));
        join_all(all.iter().map(|program| program.gone())).await;
    }
}

impl House {
    /// Makes room for one more process, and takes it.
    async fn room(&self) -> Result<(), SeamError> {
        let take = || {
            let most = self.most.load(Ordering::Relaxed);
            let more = |running| (running < most).then_some(running + 1);
            self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        if take() {
            return Ok(());
        }
        // Whoever has had nothing to do for longest makes room.
        let open: Vec<_> =
            self.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let idle = open.iter().flat_map(|program| program.idle()).min_by_key(|(since, _)| *since);
        if let Some((_, process)) = idle {
            process.stop("another program needs its place (limits.processes)");
            _ = tokio::time::timeout(ROOM, process.gone()).await;
        }
        if take() {
            return Ok(());
        }
        let most = self.most.load(Ordering::Relaxed);
        Err(SeamError::Denied(format!(
            "{most} processes run already and none of them is idle: raise limits.processes"
        )))
    }

    /// A process has ended, or was not started after all.
    fn leave(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}
