//! What flows while a call runs: progress, logs, and the end of interest.

use std::sync::Arc;
use std::time::Duration;

use causeway_suite::modern::{Modern, retry, round_token};
use causeway_suite::party::{Able, Outcome, Party, obliging};
use serde_json::{Value, json};

use super::{Done, holds, said, same};
use crate::matrix::behind::Facts;
use crate::matrix::cell::Cell;

const PROGRESS: &str = "notifications/progress";
const MESSAGE: &str = "notifications/message";

fn with_token(cell: &Cell, name: &str, arguments: Value) -> Value {
    json!({"name": cell.name(name), "arguments": arguments, "_meta": {"progressToken": "token"}})
}

fn steps(outcome: &Outcome) -> Vec<u64> {
    outcome.told(PROGRESS).iter().filter_map(|params| params["progress"].as_u64()).collect()
}

pub async fn progress(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.call("tools/call", with_token(&cell, "progress", json!({"steps": 5}))).await?;
    outcome.result()?;
    same("progress", steps(&outcome), [1, 2, 3, 4, 5])?;
    for params in outcome.told(PROGRESS) {
        same("the token", &params["progressToken"], &json!("token"))?;
        same("the total", &params["total"], &json!(5))?;
    }
    Ok(())
}

pub async fn no_progress_without_a_token(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.tool(&cell.name("progress"), json!({"steps": 3})).await?;
    outcome.result()?;
    same("progress", steps(&outcome).len(), 0)
}

/// Progress before and after the input. The rounds of a modern client have tokens of their own, and each notification
/// must use the one of its round (2026-07-28 Progress, "Behavior Requirements").
pub async fn progress_across_an_input_round(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.call("tools/call", with_token(&cell, "ask_progress", json!({}))).await?;
    same("the answer", &outcome.said()?["content"]["name"], &json!("Ada"))?;
    same("progress", steps(&outcome), [1, 2, 3])?;
    for (message, round) in outcome.heard.iter().zip(&outcome.heard_in) {
        if message["method"] == PROGRESS {
            let token = json!(round_token("token", *round));
            same("the token", &message["params"]["progressToken"], &token)?;
        }
    }
    if cell.is_modern() {
        same("the rounds of the notifications", outcome.heard_in, [0, 1, 1])?;
    }
    Ok(())
}

/// A client that wants logs at `level` and above.
async fn at_level(cell: &Cell, level: &str) -> Result<Party, String> {
    if cell.is_modern() {
        let client = Modern::connect(&cell.target, Able::all(cell.client)).await?;
        return Ok(Party::Modern(Box::new(client.at_level(level))));
    }
    let party = cell.connect().await?;
    let set = party.call("logging/setLevel", json!({"level": level})).await?;
    set.result()?;
    Ok(party)
}

fn levels(outcome: &Outcome) -> Vec<&str> {
    outcome.told(MESSAGE).iter().filter_map(|params| params["level"].as_str()).collect()
}

pub async fn logs_at_a_level(cell: Arc<Cell>) -> Done {
    let party = at_level(&cell, "warning").await?;
    let outcome = party.tool(&cell.name("log"), json!({})).await?;
    outcome.result()?;
    same("the levels", levels(&outcome), ["warning", "error", "critical", "alert", "emergency"])?;
    same("the logger", &outcome.told(MESSAGE)[0]["logger"], &json!("fixture"))
}

/// The level of one client is not that of another.
pub async fn levels_of_two_clients(cell: Arc<Cell>) -> Done {
    let (all, few) = (at_level(&cell, "debug").await?, at_level(&cell, "alert").await?);
    for _ in 0..3 {
        let name = cell.name("log");
        let (all, few) = tokio::join!(all.tool(&name, json!({})), few.tool(&name, json!({})));
        same("logs from debug on", levels(&all?).len(), 8)?;
        same("logs from alert on", levels(&few?), ["alert", "emergency"])?;
    }
    Ok(())
}

pub async fn silence_without_a_log_level(cell: Arc<Cell>) -> Done {
    let loud = at_level(&cell, "debug").await?;
    let party = cell.connect().await?;
    loud.tool(&cell.name("log"), json!({})).await?.result()?;
    let outcome = party.tool(&cell.name("log"), json!({})).await?;
    outcome.result()?;
    same("the levels", levels(&outcome), Vec::<&str>::new())
}

pub async fn a_level_that_does_not_exist(cell: Arc<Cell>) -> Done {
    if cell.is_modern() {
        let client = Modern::connect(&cell.target, Able::all(cell.client)).await?.at_level("loud");
        let round = client.once("tools/call", json!({"name": cell.name("log"), "arguments": {}})).await?;
        return same("the code", round.code(), -32602);
    }
    let party = cell.connect().await?;
    let set = party.call("logging/setLevel", json!({"level": "loud"})).await?;
    same("the code", set.code(), -32602)
}

async fn stopped(cell: &Cell, what: &str) -> Done {
    let seen = cell.behind.until(|facts| facts.stopped.iter().any(|stopped| stopped == what)).await;
    holds(seen, || format!("the server did not see that {what:?} was cancelled"))?;
    // The tool tells the same to who has no other way to know.
    let party = cell.connect().await?;
    let told = said(cell, &party, "cancelled_calls", json!({})).await?;
    holds(told.to_string().contains(what), || format!("cancelled_calls says {told}"))
}

/// A call that has begun to stream is given up.
pub async fn cancelled(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let params = with_token(&cell, "slow", json!({"ms": 8000, "key": "streaming"}));
    match &party {
        Party::Legacy(legacy) => {
            let call = legacy.start("tools/call", params);
            holds(call.until_heard(1).await, || "no progress before the cancellation".into())?;
            legacy.cancel(&call).await?;
            stopped(&cell, "tools/call slow streaming").await?;
            holds(!call.is_answered(), || "the cancelled call was answered".into())
        }
        Party::Modern(modern) => {
            let mut call = modern.begin("tools/call", params).await?;
            call.hear().await?;
            drop(call);
            stopped(&cell, "tools/call slow streaming").await
        }
    }
}

fn has(facts: &Facts, name: &str) -> bool {
    facts.called.iter().any(|called| called == name)
}

/// A call is given up before anything came of it.
pub async fn cancelled_in_silence(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let params = with_token(&cell, "slow", json!({"ms": 8000, "key": "silent", "quiet": true}));
    match &party {
        Party::Legacy(legacy) => {
            let call = legacy.start("tools/call", params);
            holds(cell.behind.until(|facts| has(facts, "slow")).await, || "it does not run".into())?;
            legacy.cancel(&call).await?;
        }
        Party::Modern(modern) => {
            let call = modern.begin("tools/call", params);
            let seen = cell.behind.until(|facts| has(facts, "slow"));
            tokio::select! {
                _ = call => return Err("it was answered".into()),
                seen = seen => holds(seen, || "it does not run".into())?,
            }
        }
    }
    stopped(&cell, "tools/call slow silent").await
}

/// A legacy client gives up a call that has asked it something.
pub async fn cancelled_while_asked(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let Party::Legacy(legacy) = &party else { return Err("not a legacy client".into()) };
    legacy.hold(usize::MAX);
    let call = legacy.start("tools/call", with_token(&cell, "ask_form", json!({"key": "asked"})));
    holds(call.until_asked(1).await, || "nothing was asked".into())?;
    legacy.cancel(&call).await?;
    match cell.serves_modern() {
        false => stopped(&cell, "tools/call ask_form asked").await?,
        // A modern server has no call to cancel: its round is over. What it must not see is a retry.
        true => {
            legacy.hold(0);
            said(&cell, &cell.connect().await?, "echo", json!({"text": "later"})).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let facts = cell.behind.facts().await;
            let calls = facts.called.iter().filter(|name| *name == "ask_form").count();
            same("calls of ask_form", calls, 1)?;
        }
    }
    holds(!call.is_answered(), || "the cancelled call was answered".into())
}

/// A call is given up that has asked and gone on with the answer.
pub async fn cancelled_after_an_answer(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let params = with_token(&cell, "ask_slow", json!({"ms": 8000, "key": "answered"}));
    match &party {
        Party::Legacy(legacy) => {
            let call = legacy.start("tools/call", params);
            holds(call.until_heard(1).await, || "no progress after the answer".into())?;
            legacy.cancel(&call).await?;
        }
        Party::Modern(modern) => {
            let first = modern.once("tools/call", params.clone()).await?;
            let wants = first.wants().ok_or_else(|| format!("nothing was asked: {}", first.answer))?;
            let requests = wants["inputRequests"].as_object().into_iter().flatten();
            let answer = |(key, request): (&String, &Value)| {
                let method = request["method"].as_str().unwrap_or_default();
                Ok((key.clone(), obliging(method, &request["params"])?))
            };
            let responses: Result<_, Value> = requests.map(answer).collect();
            let responses = responses.map_err(|error| error.to_string())?;
            let mut call = modern.begin("tools/call", retry(&params, wants, responses)).await?;
            call.hear().await?;
        }
    }
    stopped(&cell, "tools/call ask_slow answered").await
}

/// A server closes the stream in the middle of a call, as 2025-11-25 lets it.
pub async fn polling(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    same("the answer", said(&cell, &party, "poll", json!({})).await?, json!("polled"))
}

pub async fn polling_and_asking(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let answer = said(&cell, &party, "poll_ask", json!({})).await?;
    same("the answer", &answer["content"]["name"], &json!("Ada"))
}
