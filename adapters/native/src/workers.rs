//! The threads that serve connections: one for each core, each with a scheduler of its own.
//!
//! A connection stays on its thread with all that happens for it, the connections to servers included. Handing a
//! request from one core to another half-way costs more than everything that the gateway does for a call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::platform::Native;

/// Work for a thread: it begins there, and may spawn.
type Job = Box<dyn FnOnce(&Native) + Send>;

/// The threads. Dropping this ends them, with whatever still runs on them.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    queue: mpsc::UnboundedSender<Job>,
    busy: Arc<AtomicUsize>,
}

/// Counts as work of one thread for as long as it is kept.
#[derive(Debug)]
pub struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts a thread for each core.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(native: &Native) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all = (0..cores).map(|number| Worker::start(number, native.on_connections_of_its_own()));
        Ok(Self { all: all.collect::<io::Result<_>>()? })
    }

    /// Runs `job` on the thread that has the least to do. The job keeps the [`Load`] until its work is over.
    pub fn run(&self, job: impl FnOnce(&Native, Load) + Send + 'static) {
        let Some(worker) = self.all.iter().min_by_key(|worker| worker.busy.load(Ordering::Relaxed)) else {
            return;
        };
        worker.busy.fetch_add(1, Ordering::Relaxed);
        let load = Load(worker.busy.clone());
        // The thread takes jobs for as long as `self` lives.
        _ = worker.queue.send(Box::new(move |native| job(native, load)));
    }
}

impl Worker {
    fn start(number: usize, native: Native) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, mut jobs) = mpsc::unbounded_channel::<Job>();
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            runtime.block_on(async {
                while let Some(job) = jobs.recv().await {
                    job(&native);
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Self { queue, busy: Arc::default() })
    }
}
