//! Which era a program is of, and how it is introduced to.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use causeway::mcp::revision::Era;
use causeway::mcp::upstream::error_of;
use causeway::platform::SeamError;
use causeway::wire::jsonrpc::Message;
use futures_util::future::{Either, select};
use serde::Deserialize;
use tokio::time::timeout;

use super::{DISCOVER, Program};
use crate::log::Level;
use crate::programs::process::{Process, Reply, Use};

/// How long a program may take to say whether it is modern before it is asked whether it is there at all.
const PROBE: Duration = Duration::from_secs(5);
/// How long it may take to say either: it may have to be fetched first.
const SLOW: Duration = Duration::from_secs(30);
/// A program that is there, and has not said by then what it is, does not know the question.
const GRACE: Duration = Duration::from_secs(1);
/// How long it may take to answer `initialize`.
const INITIALIZE: Duration = Duration::from_secs(55);
/// The same, if it has left the question before unanswered.
pub(super) const IN_DOUBT: Duration = Duration::from_secs(10);

impl Program {
    /// Which era the program is of: known, or asked.
    pub(in crate::programs) async fn era(self: &Arc<Self>) -> Result<Era, SeamError> {
        if let Some(era) = self.state().era {
            return Ok(era);
        }
        let program = self.clone();
        self.at_home(async move { program.probe().await }).await
    }

    async fn probe(self: Arc<Self>) -> Result<Era, SeamError> {
        let _turn = self.turn.lock().await;
        if let Some(era) = self.state().era {
            return Ok(era);
        }
        let process = self.start().await?;
        let reply = asked(&process).await;
        let era = match &reply {
            Reply::Answer(answer) if is_modern(answer) => Era::Modern,
            // Older servers answer with any error, or not at all (2026-07-28 stdio, "Backward Compatibility").
            Reply::Answer(_) | Reply::Silent | Reply::Gone(_) => Era::Legacy,
        };
        process.silent.store(matches!(reply, Reply::Silent), Ordering::Relaxed);
        let what = match &reply {
            Reply::Answer(_) if era == Era::Modern => "speaks 2026-07-28",
            Reply::Answer(_) => "speaks older revisions",
            Reply::Silent => "does not answer server/discover: taken for one of an older revision",
            Reply::Gone(_) => {
                "ended when it was asked for server/discover: taken for one of an older revision"
            }
        };
        self.voice.say(Level::Info, "program.era", what);
        let mut state = self.state();
        state.era = Some(era);
        state.is_shy = !matches!(reply, Reply::Answer(_));
        match era {
            Era::Modern => {
                state.down = None;
                process.set_use(Use::Modern);
                state.modern.push(process);
            }
            Era::Legacy => {
                // One that has ended was asked too much. The next one is not.
                if !matches!(reply, Reply::Gone(_)) {
                    state.fresh = Some(process);
                }
            }
        }
        Ok(era)
    }

    /// A late answer to the question what the program is.
    pub(in crate::programs) fn learned_late(&self, process: &Arc<Process>, answer: &[u8]) {
        if is_modern(answer) && matches!(process.serves(), Use::Fresh) {
            self.voice.say(Level::Info, "program.era", "speaks 2026-07-28, as it says after all");
            let mut state = self.state();
            (state.era, state.is_shy) = (Some(Era::Modern), false);
            state.fresh = None;
            process.set_use(Use::Modern);
            state.modern.push(process.clone());
        }
    }

    /// A process that has been introduced to with `params`, and its answer.
    pub(super) async fn introduced(
        self: &Arc<Self>,
        params: &str,
    ) -> Result<(Arc<Process>, Bytes), SeamError> {
        let mut first = true;
        loop {
            let fresh = self.state().fresh.take().filter(|process| process.is_open());
            let probed = fresh.is_some();
            let process = match fresh {
                Some(process) => process,
                None => self.start().await?,
            };
            let doubtful = process.silent.load(Ordering::Relaxed);
            let within = if doubtful { IN_DOUBT } else { INITIALIZE };
            let reply = process.ask("initialize", params, within).await;
            // One that was asked too early may have taken it amiss; another is not.
            let again = first && probed;
            first = false;
            match reply {
                Reply::Answer(answer) => {
                    if error_of(&answer).is_none() {
                        let mut state = self.state();
                        state.down = None;
                        state.era.get_or_insert(Era::Legacy);
                    }
                    return Ok((process, answer));
                }
                Reply::Silent => {
                    process.stop("it did not answer initialize");
                    if !again || !doubtful {
                        self.state().era = None;
                        let message = format!("the program did not answer initialize within {within:?}");
                        return Err(SeamError::Timeout(message));
                    }
                }
                Reply::Gone(_) if again => {}
                Reply::Gone(why) => {
                    self.state().era = None;
                    return Err(SeamError::Connect(why.replace("in mid-call", "at start").replace(
                        "; whether the call was done is not known",
                        "; the log has what it printed",
                    )));
                }
            }
        }
    }
}

/// Asks a process what it is. One that is slow to start is waited for, one that ignores the question is not: older
/// servers take a ping before everything else.
async fn asked(process: &Arc<Process>) -> Reply {
    let mut discovered = pin!(process.ask("server/discover", DISCOVER, SLOW));
    if let Ok(reply) = timeout(PROBE, &mut discovered).await {
        return reply;
    }
    let there = pin!(process.ask("ping", "{}", SLOW));
    match select(discovered, there).await {
        Either::Left((reply, _)) => reply,
        Either::Right((Reply::Answer(_), discovered)) => {
            timeout(GRACE, discovered).await.unwrap_or(Reply::Silent)
        }
        Either::Right((_, discovered)) => discovered.await,
    }
}

/// Whether this answer to `server/discover` is a modern server's.
fn is_modern(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered {
        #[serde(rename = "supportedVersions")]
        _versions: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Unsupported {
        #[serde(rename = "supported")]
        _versions: Vec<String>,
    }
    match Message::decode(answer) {
        Ok(Message::Response { outcome: Ok(result), .. }) => {
            serde_json::from_str::<Discovered>(result.get()).is_ok()
        }
        _ => match error_of(answer) {
            Some((-32022, Some(data))) => serde_json::from_str::<Unsupported>(data.get()).is_ok(),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modern_answers_are_told_from_others() {
        assert!(is_modern(br#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"]}}"#));
        assert!(is_modern(
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"","data":{"supported":["x"]}}}"#
        ));
        assert!(!is_modern(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":""}}"#));
        assert!(!is_modern(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    }
}
