//! Models answer MCP servers (`sampling: gateway`): where the two halves of the gateway meet.
//!
//! What servers ask stands in a queue ([`Job`]), which is worked off beside the request or the mailbox that it belongs to
//! and dropped with it. Each answer is a line in the log, with who pays for it, and never with what was said.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_channel::mpsc::{UnboundedReceiver, unbounded};
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::own::serve;
use super::record::Words;
use crate::config::Plan;
use crate::config::plan::{Sampling, Transport};
use crate::fault::{Fault, Kind, Who};
use crate::instance::Instance;
use crate::llm::{Call, Metered, Opening, Refusal, sampling};
use crate::mcp::Mcp;
use crate::mcp::sampling::{Job, Models, Question};
use crate::mcp::standing::caller_of;
use crate::mcp::tasks::RELATED;
use crate::platform::{Clock as _, Entropy as _, Log as _, Platform, Timestamp};
use crate::wire::jsonrpc::Splice;

/// What goes on beside something else; mostly nothing.
pub(super) type Beside<D> = Option<Pin<Box<D>>>;

/// The way to models for the servers of `plan` that they answer, and what must go on beside whoever uses it.
pub(super) fn begin<P: Platform>(
    platform: &P,
    instance: &Arc<Instance>,
    plan: Option<&Arc<Plan>>,
    request_id: &str,
) -> (Option<Models<P>>, Beside<impl Future<Output = ()> + use<P>>) {
    let used = |plan: &&Arc<Plan>| {
        plan.servers
            .iter()
            .any(|server| server.sampling == Sampling::Gateway || server.transport == Transport::Own)
    };
    let Some(plan) = plan.filter(used) else { return (None, None) };
    let mut id = request_id.to_owned();
    if id.is_empty() {
        let mut random = [0; 12];
        platform.entropy().fill(&mut random);
        id = crate::mcp::hex(&random);
    }
    let (sender, jobs) = unbounded();
    let models = Models::new(sender, "");
    let desk = Desk {
        mcp: Mcp::new(platform.clone(), plan.clone(), instance.memory().clone()),
        instance: instance.clone(),
        id,
    };
    (Some(models.clone()), Some(Box::pin(work_off(desk, models, jobs))))
}

/// Does `work` with `driver` beside it. The caller pins it: moved in here, it would take its room twice.
pub(super) async fn beside<T, D: Future<Output = ()>>(
    mut work: Pin<&mut impl Future<Output = T>>,
    driver: &mut Beside<D>,
) -> T {
    std::future::poll_fn(move |context| {
        if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
            *driver = None;
        }
        work.as_mut().poll(context)
    })
    .await
}

/// Where questions are answered.
#[derive(Clone)]
pub(super) struct Desk<P: Platform> {
    pub(super) mcp: Mcp<P>,
    pub(super) instance: Arc<Instance>,
    id: String,
}

async fn work_off<P: Platform>(desk: Desk<P>, models: Models<P>, jobs: UnboundedReceiver<Job<P>>) {
    let mut jobs = jobs;
    let (mut running, mut count) = (FuturesUnordered::new(), 0);
    loop {
        let came = std::future::poll_fn(|context| {
            if let Poll::Ready(job) = jobs.poll_next_unpin(context) {
                return Poll::Ready(job);
            }
            // Each that is done makes room; what is left wakes by itself.
            while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {}
            Poll::Pending
        })
        .await;
        let Some(job) = came else { return };
        count += 1;
        running.push(work(desk.clone(), models.clone(), job, count));
    }
}

async fn work<P: Platform>(desk: Desk<P>, models: Models<P>, job: Job<P>, number: usize) {
    match job {
        Job::Ask(question, to) => {
            let (mcp, server) = (desk.mcp.clone(), question.server.clone());
            to.take(&mcp, &server, answer(desk, question, number)).await;
        }
        // Boxed, for it is seldom and large.
        Job::Serve(message, caller, sender) => Box::pin(serve(desk, message, &caller, sender, number)).await,
        Job::Again(again, result, mut sender) => {
            let mcp = desk.mcp.with_models(Some(models.of(&again.caller)));
            let came = {
                // Boxed, for it is seldom and large.
                let settle = Box::pin(mcp.settle(again, result));
                match select(settle, sender.cancellation()).await {
                    Either::Left((came, _)) => came,
                    Either::Right(_) => return,
                }
            };
            let _ = sender.send(came);
        }
    }
}

/// What a model says to `question`: a `CreateMessageResult`.
async fn answer<P: Platform>(
    desk: Desk<P>,
    question: Question,
    number: usize,
) -> Result<Box<RawValue>, Fault> {
    let plan = desk.mcp.plan.clone();
    let line = Line::new(&desk, "sampling", &question.caller, &question.server.name, number);
    let mut asking = Asking { line, question, call: None };
    let said = asking.said(&desk, &plan).await;
    asking.line.fault = Some(said.as_ref().err().cloned());
    said
}

/// A question that is being answered. It is noted how that ended when this is dropped.
struct Asking<P: Platform> {
    line: Line<P>,
    question: Question,
    call: Option<Box<Call<P>>>,
}

/// A line in the log about a question to a model.
pub(super) struct Line<P: Platform> {
    platform: P,
    event: &'static str,
    caller: String,
    server: String,
    began: Timestamp,
    ticks: u64,
    /// What the question is called.
    pub(super) id: String,
    /// Why there is no answer; `None` while that is not known.
    pub(super) fault: Option<Option<Fault>>,
}

impl<P: Platform> Asking<P> {
    async fn said(&mut self, desk: &Desk<P>, plan: &Arc<Plan>) -> Result<Box<RawValue>, Fault> {
        let server = self.question.server.clone();
        let (name, sampler) = (&server.name, &server.sampler);
        if self.question.number > sampler.requests {
            let most = sampler.requests;
            let message = format!(
                "server {name:?}: asked for a model's words more than {most} times in one call (sampling.requests)"
            );
            return Err(Fault::new(Kind::TooMany, message));
        }
        let _seat = desk.instance.seat(name, sampler.concurrent).ok_or_else(|| {
            let most = sampler.concurrent;
            let message = format!(
                "server {name:?}: {most} of its requests for a model's words are being answered \
                 (sampling.concurrent); try again later"
            );
            Fault::new(Kind::TooMany, message)
        })?;
        let caller = caller_of(&desk.mcp, &self.question.caller)
            .ok_or_else(|| Fault::new(Kind::Unauthorized, "whose call it is, is not known here any more"))?;
        let text = self.question.params.as_deref().map_or("{}", RawValue::get);
        if text.len() > plan.limits.body {
            let message =
                format!("sampling: the request is larger than {} bytes (limits.body)", plan.limits.body);
            return Err(Fault::new(Kind::InvalidParams, message));
        }
        let params: Value = serde_json::from_str(text)
            .map_err(|_| Fault::new(Kind::InvalidParams, "sampling: the parameters are no JSON object"))?;
        let memory = desk.instance.models();
        let platform = self.line.platform.clone();
        let call =
            sampling::sampled(platform, plan.clone(), memory, &caller, sampler, &params, &self.line.id);
        let call = self.call.insert(Box::new(call.map_err(|refusal| told(refusal, "sampling"))?));
        let late = pin!(self.line.platform.clock().sleep(sampler.time));
        // Boxed: a model may be any of several, or all of them.
        let opened = match select(Box::pin(call.open()), late).await {
            Either::Left((opened, _)) => Some(opened),
            Either::Right(_) => None,
        };
        match opened {
            None => {
                let time = sampler.time;
                let message = format!("server {name:?}: no model answered within {time:?} (sampling.time)");
                Err(Fault::new(Kind::UpstreamTimeout, message))
            }
            Some(Opening::Whole(status, headers, body)) if status.is_success() => {
                let mut splice = Splice::new(&body);
                let mut meta = Vec::new();
                if let Some(dropped) = headers.get("x-causeway-dropped").and_then(|value| value.to_str().ok())
                {
                    let dropped: Vec<&str> = dropped.split(", ").collect();
                    let dropped = serde_json::to_string(&dropped).unwrap_or_default();
                    meta.push(format!("\"causeway/dropped\":{dropped}"));
                }
                // "All requests, notifications, and responses related to a task" (2025-11-25 tasks).
                if let Some(task) = params.get("_meta").and_then(|meta| meta.get(RELATED)) {
                    meta.push(format!("\"{RELATED}\":{task}"));
                }
                if !meta.is_empty() {
                    splice.insert_first(format!("\"_meta\":{{{}}}", meta.join(",")).as_bytes());
                }
                let answer = splice.finish();
                serde_json::from_slice(&answer)
                    .map_err(|_| Fault::new(Kind::Host, "a model's answer cannot be told"))
            }
            Some(_) => {
                let refusal = call.refusal();
                let unknown = || Refusal::new(Kind::UpstreamInvalid, "the model did not answer");
                Err(told(refusal.unwrap_or_else(unknown), "sampling"))
            }
        }
    }
}

/// Why there is no answer to `what`.
pub(super) fn told(refusal: Refusal, what: &str) -> Fault {
    let mut fault = refusal.fault;
    fault.message = format!("{what}: {}", fault.message);
    fault
}

impl<P: Platform> Drop for Asking<P> {
    fn drop(&mut self) {
        if let Some(call) = &mut self.call {
            call.settle();
        }
        self.line.write(self.call.as_ref().map(|call| &call.metered));
    }
}

impl<P: Platform> Line<P> {
    /// A line about an `event` that begins: question `number` of `desk`, in a call of `caller` to `server`.
    pub(super) fn new(
        desk: &Desk<P>,
        event: &'static str,
        caller: &str,
        server: &str,
        number: usize,
    ) -> Self {
        let platform = desk.mcp.platform.clone();
        Self {
            event,
            caller: caller.to_owned(),
            server: server.to_owned(),
            began: platform.clock().now(),
            ticks: platform.clock().ticks(),
            id: format!("{}.s{number}", desk.id),
            fault: None,
            platform,
        }
    }

    /// Writes it.
    pub(super) fn write(&self, metered: Option<&Metered>) {
        #[derive(Serialize)]
        struct Record<'a> {
            ts: u64,
            level: &'static str,
            event: &'static str,
            request_id: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            caller: &'a str,
            server: &'a str,
            outcome: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a str>,
            ms: f64,
            #[serde(skip_serializing_if = "Option::is_none")]
            llm: Option<Words<'a>>,
        }
        let fault = self.fault.as_ref().and_then(Option::as_ref);
        let (outcome, level) = match (&self.fault, fault.map(|fault| fault.kind.row())) {
            (None, _) => ("gone", "info"),
            (_, Some(row)) => (row.label, if row.who == Who::Ours { "error" } else { "warn" }),
            (_, None) => ("ok", "info"),
        };
        let micros = self.platform.clock().ticks().saturating_sub(self.ticks);
        #[expect(clippy::cast_precision_loss, reason = "a duration has no use for 53 bits")]
        let ms = micros as f64 / 1000.0;
        let record = Record {
            ts: self.began.0,
            level,
            event: self.event,
            request_id: &self.id,
            caller: &self.caller,
            server: &self.server,
            outcome,
            error: fault.map(|fault| fault.message.as_str()),
            ms,
            llm: metered.map(Words::of),
        };
        if let Ok(line) = serde_json::to_string(&record) {
            self.platform.log().write(&line);
        }
    }
}
