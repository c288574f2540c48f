//! How a process is watched over, and ended in order.

use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use causeway::config::plan::Start;
use causeway::wire::jsonrpc::error;
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, timeout};

use super::{Process, Reply, Use};
use crate::log::Level;
use crate::programs::group;
use crate::programs::program::DISCOVER;
use crate::programs::table::line;

/// How long each step of ending a process takes at the most: its input is closed, it is asked to end, it is ended.
const STEP: Duration = Duration::from_secs(2);
/// How long the rest of the output is waited for once a process has ended.
const REST: Duration = Duration::from_millis(500);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long one that nobody has introduced themselves to is left alone: whoever started it may have given up.
const INTRODUCED: Duration = Duration::from_secs(60);
/// A process that has nothing to do is asked whether it is there this often.
const PING: Duration = Duration::from_secs(60);
/// How long it may take to say so.
const PONG: Duration = Duration::from_secs(30);

impl Process {
    /// A look at how it is doing.
    pub(super) fn look(self: &Arc<Self>) {
        let Some(owner) = self.owner.upgrade() else {
            self.stop("nobody wants it any more");
            return;
        };
        let spec = &owner.spec;
        let (idle, used, calls) = {
            let table = self.table();
            (table.is_idle(), table.used, table.calls)
        };
        let mut read = false;
        let serves = self.serves();
        match &serves {
            Use::Session(session) => {
                let Some(session) = session.upgrade() else {
                    self.stop("its session has ended");
                    return;
                };
                read = session.is_read();
                session.sweep();
                for id in session.overdue() {
                    _ = self.send(line(&error(Some(&id), -32603, "no client reads what it is asked", None)));
                }
            }
            Use::Shared(slot) => read = slot.upgrade().is_some_and(|slot| owner.sweep(&slot)),
            Use::Fresh | Use::Modern => {}
        }
        if self.is_open() {
            let recycle = &spec.recycle;
            let due = [
                recycle.age.is_some_and(|age| self.began.elapsed() >= age).then_some("its age"),
                recycle.calls.is_some_and(|most| calls >= most).then_some("the calls it has had"),
                recycle
                    .memory
                    .and_then(|most| Some(crate::sandbox::memory(self.pid)? >= most))
                    .unwrap_or_default()
                    .then_some("the memory it has taken"),
            ];
            if let Some(why) = due.into_iter().flatten().next() {
                self.voice.say(
                    Level::Info,
                    "program.recycled",
                    &format!("process {} is replaced for {why}", self.pid),
                );
                self.retire();
            }
        }
        if !idle {
            return;
        }
        if self.retired.load(Ordering::Relaxed) && !owner.keeps_state(self) {
            self.stop_if_idle("it was replaced");
            return;
        }
        let base = matches!(serves, Use::Modern | Use::Shared(_) | Use::Fresh);
        let kept = base && spec.start == Start::Eager;
        // One that is being introduced is wanted, however long the next word to it takes.
        let introduced = !matches!(serves, Use::Fresh) || owner.keeps_fresh(self);
        let patience = if introduced { spec.idle_stop } else { spec.idle_stop.max(INTRODUCED) };
        if !read && !kept && used.elapsed() >= patience {
            self.stop_if_idle("nobody has used it");
            return;
        }
        let quiet = used.elapsed().min(self.pinged.lock().unwrap_or_else(PoisonError::into_inner).elapsed());
        let due = quiet >= PING || self.suspect.swap(false, Ordering::Relaxed);
        if due
            && !matches!(serves, Use::Fresh)
            && self.is_alive()
            && !self.pinging.swap(true, Ordering::Relaxed)
        {
            tokio::spawn(self.clone().ping());
        }
    }

    /// Asks whether it is there, and ends it if it is not.
    async fn ping(self: Arc<Self>) {
        let reply = match self.serves() {
            Use::Modern => self.ask("server/discover", DISCOVER, PONG).await,
            _ => self.ask("ping", "{}", PONG).await,
        };
        self.pinging.store(false, Ordering::Relaxed);
        *self.pinged.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        // A call that came meanwhile may keep it busy.
        if matches!(reply, Reply::Silent) && self.table().is_idle() && self.is_alive() {
            self.voice.say(
                Level::Warn,
                "program.hangs",
                &format!("process {} does not answer a ping", self.pid),
            );
            self.table().useful = true;
            self.stop("it did not answer a ping");
        }
    }
}

/// Watches over a process until it has ended.
pub(super) async fn keep(
    process: Arc<Process>,
    mut child: Child,
    reader: tokio::task::JoinHandle<()>,
    mut drained: oneshot::Receiver<()>,
) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut says_no_more = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            () = process.stop.notified() => break shut_down(&process, &mut child).await,
            _ = &mut drained, if !says_no_more => {
                // It may shut down by closing its output and ending (2026-07-28 stdio, "Shutdown").
                says_no_more = true;
                match timeout(STEP, child.wait()).await {
                    Ok(status) => break status.ok(),
                    Err(_) => process.stop("it has closed its output"),
                }
            }
            _ = look.tick() => process.look(),
        }
    };
    if !says_no_more {
        _ = timeout(REST, drained).await;
    }
    reader.abort();
    // Whatever it has started has gone with it: that is what its keeper is for.
    let wanted = process.why_stopping();
    let kept = process.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    let how = match (how(status), kept) {
        (how, Some(kept)) => format!("{how}: {kept}"),
        (how, None) => how,
    };
    let why: Arc<str> = match &wanted {
        Some(wanted) => format!("the program was stopped in mid-call ({wanted})").into(),
        None => {
            format!("the program ended in mid-call ({how}); whether the call was done is not known").into()
        }
    };
    process.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    process.table().end(&why);
    match &wanted {
        Some(wanted) => process.voice.say(
            Level::Info,
            "program.stopped",
            &format!("process {} was stopped: {wanted}", process.pid),
        ),
        None => process.voice.say(
            Level::Warn,
            "program.ended",
            &format!("process {} ended by itself: {how}", process.pid),
        ),
    }
    if let Some(owner) = process.owner.upgrade() {
        owner.ended(&process, wanted.is_none(), &how);
    }
    process.gone.send_replace(true);
}

/// Ends a process in order: its input is closed, it is asked to end, it is ended, with all of its group.
async fn shut_down(process: &Process, child: &mut Child) -> Option<ExitStatus> {
    process.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Ok(status) = timeout(STEP, child.wait()).await {
        return status.ok();
    }
    group::ask_to_end(process.pid);
    if let Ok(status) = timeout(STEP, child.wait()).await {
        return status.ok();
    }
    group::end(process.pid);
    #[cfg(unix)]
    if let Ok(status) = timeout(STEP, child.wait()).await {
        return status.ok();
    }
    // A keeper that does not end by itself: what it keeps ends with it all the same.
    _ = child.start_kill();
    timeout(STEP, child.wait()).await.ok()?.ok()
}

fn how(status: Option<ExitStatus>) -> String {
    let Some(status) = status else { return "nobody knows how".to_owned() };
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt as _;
        if let Some(signal) = status.signal() {
            return format!("ended by signal {signal}");
        }
    }
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => "nobody knows how".to_owned(),
    }
}
