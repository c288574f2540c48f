//! What a server asks in the middle of a call: forms, pages, models, roots.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_suite::party::{Able, Outcome, Party, obliging};
use serde_json::{Value, json};

use super::{Done, holds, said, same};
use crate::matrix::cell::Cell;

const FORM: &str = "elicitation/create";
const MODEL: &str = "sampling/createMessage";
const ROOTS: &str = "roots/list";

fn methods(outcome: &Outcome) -> Vec<&str> {
    outcome.asked().iter().map(|asked| asked.method.as_str()).collect()
}

/// A client that answers each form with `action`.
async fn answering(cell: &Cell, answer: Value) -> Result<Party, String> {
    cell.connect_as(Able::all(cell.client).answering(move |_, _| Ok(answer.clone()))).await
}

pub async fn form_accepted(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.tool(&cell.name("ask_form"), json!({})).await?;
    same("the answer", outcome.said()?, json!({"action": "accept", "content": {"name": "Ada"}}))?;
    same("asked", methods(&outcome), [FORM])?;
    let params = &outcome.asked()[0].params;
    same("the message", &params["message"], &json!("What is your name?"))?;
    same("the form", &params["requestedSchema"]["properties"]["name"]["type"], &json!("string"))?;
    holds(matches!(params["mode"].as_str(), None | Some("form")), || format!("the mode of {params}"))
}

pub async fn form_declined(cell: Arc<Cell>) -> Done {
    let party = answering(&cell, json!({"action": "decline"})).await?;
    let answer = said(&cell, &party, "ask_form", json!({})).await?;
    same("the answer", answer, json!({"action": "decline"}))
}

pub async fn form_cancelled(cell: Arc<Cell>) -> Done {
    let party = answering(&cell, json!({"action": "cancel"})).await?;
    let answer = said(&cell, &party, "ask_form", json!({})).await?;
    same("the answer", answer, json!({"action": "cancel"}))
}

pub async fn url_accepted(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.tool(&cell.name("ask_url"), json!({})).await?;
    same("the answer", &outcome.said()?["action"], &json!("accept"))?;
    same("asked", methods(&outcome), [FORM])?;
    let params = &outcome.asked()[0].params;
    same("the mode", &params["mode"], &json!("url"))?;
    let url = params["url"].as_str().unwrap_or_default();
    holds(url.starts_with("https://example.com/visit/"), || format!("the page is {url:?}"))?;
    // 2025-11-25 names each interaction and says when it is over; 2026-07-28 has neither.
    if !cell.is_modern() {
        holds(params["elicitationId"].is_string(), || format!("no elicitationId in {params}"))?;
    }
    let over = outcome.told("notifications/elicitation/complete");
    match (cell.is_modern(), cell.serves_modern()) {
        (true, _) => same("notifications of completion", over.len(), 0),
        (false, true) => Ok(()),
        (false, false) => {
            same("what is complete", over, [&json!({"elicitationId": params["elicitationId"]})])
        }
    }
}

pub async fn url_declined(cell: Arc<Cell>) -> Done {
    let party = answering(&cell, json!({"action": "decline"})).await?;
    same("the answer", said(&cell, &party, "ask_url", json!({})).await?, json!({"action": "decline"}))
}

/// A call that works after a visit: an error with the page in 2025-11-25, a question in 2026-07-28.
pub async fn url_required(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.tool(&cell.name("needs_url"), json!({})).await?;
    if outcome.code() == -32042 && !cell.is_modern() {
        let pages = &outcome.answer["error"]["data"]["elicitations"];
        let page = &pages[0];
        let whole = page["mode"] == "url" && page["elicitationId"].is_string() && page["url"].is_string();
        holds(whole, || format!("the page of the error: {pages}"))?;
        return same("after the visit", said(&cell, &party, "needs_url", json!({})).await?, json!("accept"));
    }
    if !cell.is_modern() && !cell.serves_modern() {
        return Err(format!("expected -32042, saw {}", outcome.answer));
    }
    same("asked", methods(&outcome), [FORM])?;
    same("the mode", &outcome.asked()[0].params["mode"], &json!("url"))?;
    same("after the visit", outcome.said()?, json!("accept"))
}

pub async fn sampling(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let prompt = "What is the capital of France?";
    let outcome = party.tool(&cell.name("ask_model"), json!({"prompt": prompt})).await?;
    let answer = outcome.said()?;
    same("the text", &answer["content"]["text"], &json!("Paris"))?;
    same("the model", &answer["model"], &json!("suite-model"))?;
    same("the stop reason", &answer["stopReason"], &json!("endTurn"))?;
    same("asked", methods(&outcome), [MODEL])?;
    let params = &outcome.asked()[0].params;
    same("the prompt", &params["messages"][0]["content"]["text"], &json!(prompt))?;
    same("the system prompt", &params["systemPrompt"], &json!("Be brief."))?;
    same("the limit", &params["maxTokens"], &json!(100))
}

pub async fn roots(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.tool(&cell.name("ask_roots"), json!({})).await?;
    same("the roots", outcome.said()?, json!({"roots": [{"uri": "file:///home/ada", "name": "home"}]}))?;
    same("asked", methods(&outcome), [ROOTS])
}

/// Three questions that are open at the same time. A modern client gets all of them in one result; a legacy client,
/// which here answers none before it has all, gets all of them before the first is answered.
pub async fn all_at_once(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let mut rounds = Vec::new();
    // A legacy server's questions come one by one, and a busy machine may take longer over them than the gateway waits for
    // the next: then they come in several results. Once they come together.
    for _ in 0..10 {
        if let Party::Legacy(legacy) = &party {
            legacy.hold(3);
        }
        let outcome = party.tool(&cell.name("ask_all"), json!({})).await?;
        let answer = outcome.said()?;
        same("the name", &answer["name"]["content"]["name"], &json!("Ada"))?;
        same("the model", &answer["model"]["content"]["text"], &json!("Paris"))?;
        same("the roots", &answer["roots"]["roots"][0]["name"], &json!("home"))?;
        let mut asked = methods(&outcome);
        asked.sort_unstable();
        same("asked", asked, [FORM, ROOTS, MODEL])?;
        rounds = outcome.rounds.iter().map(Vec::len).collect();
        if rounds == [3] || !cell.is_modern() || cell.serves_modern() {
            break;
        }
    }
    same("questions in each round", rounds, [3])
}

/// The second question comes while the first is still open.
pub async fn one_after_another_is_open(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    if let (Party::Legacy(legacy), false) = (&party, cell.serves_modern()) {
        legacy.hold(2);
    }
    let outcome = party.tool(&cell.name("ask_later"), json!({})).await?;
    let answer = outcome.said()?;
    same("the name", &answer["name"]["content"]["name"], &json!("Ada"))?;
    same("the roots", &answer["roots"]["roots"][0]["name"], &json!("home"))?;
    same("asked", methods(&outcome), [FORM, ROOTS])
}

pub async fn two_rounds(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.tool(&cell.name("ask_twice"), json!({})).await?;
    same("the answer", outcome.said()?, json!({"name": "Ada", "wish": "Ada"}))?;
    let messages: Vec<&Value> = outcome.asked().iter().map(|asked| &asked.params["message"]).collect();
    same("asked", messages, [&json!("What is your name?"), &json!("What does Ada want?")])?;
    if cell.is_modern() {
        same("rounds", outcome.rounds.len(), 2)?;
    }
    Ok(())
}

pub async fn two_rounds_and_a_no(cell: Arc<Cell>) -> Done {
    let party = answering(&cell, json!({"action": "decline"})).await?;
    let outcome = party.tool(&cell.name("ask_twice"), json!({})).await?;
    same("the answer", outcome.said()?, json!({"stopped": "decline"}))?;
    same("asked", methods(&outcome).len(), 1)
}

/// Several calls of one client wait for input at the same time, and each gets the answer to its own question.
pub async fn calls_side_by_side(cell: Arc<Cell>) -> Done {
    let able = Able::all(cell.client).answering(|_, params| {
        let prompt = &params["messages"][0]["content"]["text"];
        let content =
            json!({"type": "text", "text": format!("re: {}", prompt.as_str().unwrap_or("nothing"))});
        Ok(json!({"role": "assistant", "content": content, "model": "suite-model"}))
    });
    let party = cell.connect_as(able).await?;
    if let Party::Legacy(legacy) = &party {
        legacy.hold(5);
    }
    let ask = |number: usize| {
        let (cell, party) = (&cell, &party);
        async move {
            let prompt = format!("question {number}");
            let answer = said(cell, party, "ask_model", json!({"prompt": prompt})).await?;
            same("the answer", &answer["content"]["text"], &json!(format!("re: {prompt}")))
        }
    };
    let (a, b, c, d, e) = tokio::join!(ask(1), ask(2), ask(3), ask(4), ask(5));
    a.and(b).and(c).and(d).and(e)
}

pub async fn a_prompt_that_asks(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.call("prompts/get", json!({"name": cell.name("ask_prompt")})).await?;
    let text = outcome.result()?["messages"][0]["content"]["text"].as_str().unwrap_or_default();
    holds(text.contains("Ada"), || format!("no answer in the prompt: {}", outcome.answer))?;
    same("asked", methods(&outcome), [FORM])
}

pub async fn a_resource_that_asks(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.call("resources/read", json!({"uri": "test://asking"})).await?;
    let text = outcome.result()?["contents"][0]["text"].as_str().unwrap_or_default();
    holds(text.contains("Ada"), || format!("no answer in the resource: {}", outcome.answer))?;
    same("asked", methods(&outcome), [FORM])
}

/// The server finds that the client cannot do what it needs.
fn refused(cell: &Cell, outcome: &Outcome, word: &str, required: &Value) -> Done {
    same("asked", outcome.asked().len(), 0)?;
    holds(outcome.oddities.is_empty(), || outcome.oddities.join("; "))?;
    if cell.is_modern() && cell.serves_modern() {
        same("the code", outcome.code(), -32021)?;
        same("the status", outcome.status, 400)?;
        return same("what is missing", &outcome.answer["error"]["data"]["requiredCapabilities"], required);
    }
    // A legacy server says in a result of its own that it cannot go on. What a modern server says reaches a legacy
    // client as an error: that revision has no code for it, but the message has to name what is missing.
    let result = &outcome.answer["result"];
    let text = match cell.serves_modern() {
        false => {
            same("a tool's own failure", &result["isError"], &json!(true))?;
            result["content"].to_string()
        }
        true => {
            holds(outcome.code() != 0 || result["isError"] == true, || {
                format!("no error: {}", outcome.answer)
            })?;
            outcome.answer.to_string()
        }
    };
    holds(text.contains(word), || format!("{word} is not named in {text}"))
}

pub async fn without_sampling(cell: Arc<Cell>) -> Done {
    let party = cell.connect_as(Able::new(json!({"elicitation": {}, "roots": {}}))).await?;
    let outcome = party.tool(&cell.name("ask_model"), json!({"prompt": "well?"})).await?;
    refused(&cell, &outcome, "sampling", &json!({"sampling": {}}))?;
    // What it can do still works.
    let answer = said(&cell, &party, "ask_roots", json!({})).await?;
    same("the roots", &answer["roots"][0]["name"], &json!("home"))
}

pub async fn without_url_mode(cell: Arc<Cell>) -> Done {
    let party = cell.connect_as(Able::new(json!({"elicitation": {}}))).await?;
    let outcome = party.tool(&cell.name("ask_url"), json!({})).await?;
    refused(&cell, &outcome, "elicitation", &json!({"elicitation": {"url": {}}}))
}

/// A legacy server that asks without looking at the client's capabilities.
pub async fn asked_without_the_capability(cell: Arc<Cell>) -> Done {
    let party = cell.connect_as(Able::new(json!({"elicitation": {}}))).await?;
    let outcome = party.tool(&cell.name("ask_anyway"), json!({})).await?;
    holds(outcome.oddities.is_empty(), || outcome.oddities.join("; "))?;
    if cell.is_modern() {
        same("asked", outcome.asked().len(), 0)?;
        same("the code", outcome.code(), -32021)?;
        same("the status", outcome.status, 400)?;
        let missing = &outcome.answer["error"]["data"]["requiredCapabilities"];
        return same("what is missing", missing, &json!({"sampling": {}}));
    }
    // Whoever says no, the client or the gateway in its name, the server hears -32601.
    let result = outcome.result()?;
    same("a tool's own failure", &result["isError"], &json!(true))?;
    let text = result["content"].to_string();
    holds(text.contains("Method not found"), || format!("the server heard {text}"))
}

/// A legacy server that asks on the GET stream, as some SDKs do.
pub async fn asked_on_the_get_stream(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    if let Party::Legacy(legacy) = &party {
        same("the GET stream", legacy.listen().await?, 200)?;
        holds(cell.behind.until(|facts| facts.streams > 0).await, || "no GET stream upstream".into())?;
    }
    let outcome = party.tool(&cell.name("ask_form"), json!({"via": "get"})).await?;
    same("the answer", &outcome.said()?["content"]["name"], &json!("Ada"))?;
    same("asked", methods(&outcome), [FORM])
}

/// A legacy server that asks on the stream of another call.
pub async fn asked_on_the_stream_of_another_call(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let slow = json!({
        "name": cell.name("slow"),
        "arguments": {"ms": 1500},
        "_meta": {"progressToken": "other"},
    });
    let other = party.call("tools/call", slow);
    let asking = async {
        let running = cell.behind.until(|facts| facts.called.iter().any(|name| name == "slow"));
        holds(running.await, || "the other call does not run".into())?;
        party.tool(&cell.name("ask_form"), json!({"via": "other"})).await
    };
    let (other, outcome) = tokio::join!(other, asking);
    let (other, asked) = (other?, outcome?);
    same("the answer", &asked.said()?["content"]["name"], &json!("Ada"))?;
    same("the other call", other.said()?, json!("slowly done"))
}

pub async fn unknown_answers_do_no_harm(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let Party::Legacy(legacy) = &party else { return Err("not a legacy client".into()) };
    for answer in [
        json!({"jsonrpc": "2.0", "id": "nobody-asked", "result": {"action": "accept"}}),
        json!({"jsonrpc": "2.0", "id": 4711, "result": {}}),
        json!({"jsonrpc": "2.0", "id": "nor-this", "error": {"code": -32601, "message": "Method not found"}}),
    ] {
        let (status, text) = legacy.raw_post(&answer).await?;
        same(&format!("the status ({text})"), status, 202)?;
    }
    same("a call after that", said(&cell, &party, "echo", json!({"text": "hi"})).await?, json!("hi"))
}

/// The server hears that the roots have changed, or asks anew without that.
pub async fn roots_that_change(cell: Arc<Cell>) -> Done {
    let count = Arc::new(AtomicUsize::new(0));
    let able = Able::all(cell.client).answering(move |method, params| match method {
        ROOTS => {
            let number = count.fetch_add(1, Ordering::Relaxed);
            Ok(json!({"roots": [{"uri": format!("file:///project/{number}")}]}))
        }
        _ => obliging(method, params),
    });
    let party = cell.connect_as(able).await?;
    let Party::Legacy(legacy) = &party else { return Err("not a legacy client".into()) };
    let first = said(&cell, &party, "ask_roots", json!({})).await?;
    same("the roots", first, json!({"roots": [{"uri": "file:///project/0"}]}))?;
    legacy.notify("notifications/roots/list_changed", json!({})).await?;
    if !cell.serves_modern() {
        let news = "notifications/roots/list_changed";
        let told = cell.behind.until(|facts| facts.told.iter().any(|method| method == news));
        holds(told.await, || "the server was not told".into())?;
    }
    let second = said(&cell, &party, "ask_roots", json!({})).await?;
    same("the roots then", second, json!({"roots": [{"uri": "file:///project/1"}]}))
}
