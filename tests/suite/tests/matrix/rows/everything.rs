//! The rows of `server-everything`, whose tools we did not write.

use std::sync::Arc;

use causeway_suite::party::{Able, Outcome, Party};
use causeway_suite::{Host, names};
use serde_json::{Value, json};

use super::{Done, holds, same};
use crate::matrix::cell::Cell;

const DOCUMENT: &str = "demo://resource/dynamic/text/1";

/// All texts of the result of the tool `name`.
async fn texts(
    cell: &Cell,
    party: &Party,
    name: &str,
    arguments: Value,
) -> Result<(String, Outcome), String> {
    let outcome = party.tool(&cell.name(name), arguments).await?;
    let result = outcome.result()?;
    holds(result["isError"] != true, || format!("the tool failed: {result}"))?;
    let content = result["content"].as_array().into_iter().flatten();
    let texts: Vec<&str> = content.filter_map(|block| block["text"].as_str()).collect();
    Ok((texts.join("\n"), outcome))
}

fn contains(text: &str, wanted: &str) -> Done {
    holds(text.contains(wanted), || format!("no {wanted:?} in {text:?}"))
}

/// The parameters of the only request of `method`. Soon after the handshake this server asks for the roots, too, and that
/// may be in the middle of any call.
fn asked<'a>(outcome: &'a Outcome, method: &str) -> Result<&'a Value, String> {
    let asked = outcome.asked();
    let mut of = asked.into_iter().filter(|asked| asked.method == method);
    let first = of.next().ok_or_else(|| format!("{method} was not asked"))?;
    match of.next() {
        None => Ok(&first.params),
        Some(_) => Err(format!("{method} was asked twice")),
    }
}

pub async fn calls(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    contains(&texts(&cell, &party, "echo", json!({"message": "hello"})).await?.0, "hello")?;
    contains(&texts(&cell, &party, "get-sum", json!({"a": 2, "b": 3})).await?.0, "5")?;
    let prompt = json!({"name": cell.name("args-prompt"), "arguments": {"city": "Paris"}});
    let prompt = party.call("prompts/get", prompt).await?;
    contains(&prompt.result()?["messages"].to_string(), "Paris")?;
    let read = party.call("resources/read", json!({"uri": DOCUMENT})).await?;
    same("the resource", &read.result()?["contents"][0]["uri"], &json!(DOCUMENT))
}

/// The server offers some tools only to clients that can do what these need.
pub async fn tools_for_the_client(cell: Arc<Cell>) -> Done {
    let list = async |able: Able| {
        let party = cell.connect_as(able).await?;
        let tools = party.call("tools/list", json!({})).await?;
        Ok::<_, String>(names(&tools.result()?["tools"]))
    };
    let all = list(Able::all(cell.client)).await?;
    let few = list(Able::new(json!({}))).await?;
    for tool in ["trigger-sampling-request", "get-roots-list"] {
        let name = cell.name(tool);
        holds(all.contains(&name), || format!("{name} is not offered: {all:?}"))?;
        holds(!few.contains(&name), || format!("{name} is offered to a client that can do nothing"))?;
    }
    Ok(())
}

async fn form(cell: &Cell, answer: Value, wanted: &str) -> Done {
    let party = cell.connect_as(Able::all(cell.client).answering(move |_, _| Ok(answer.clone()))).await?;
    let (text, outcome) = texts(cell, &party, "trigger-elicitation-request", json!({})).await?;
    contains(&text, wanted)?;
    let fields = &asked(&outcome, "elicitation/create")?["requestedSchema"]["properties"];
    same("a field of the form", &fields["titledSingleSelectEnum"]["oneOf"][0]["title"], &json!("Superman"))
}

pub async fn form_accepted(cell: Arc<Cell>) -> Done {
    let content = json!({"name": "Ada", "check": true, "integer": 7});
    form(&cell, json!({"action": "accept", "content": content}), "- Name: Ada").await
}

pub async fn form_declined(cell: Arc<Cell>) -> Done {
    form(&cell, json!({"action": "decline"}), "declined").await
}

pub async fn form_cancelled(cell: Arc<Cell>) -> Done {
    form(&cell, json!({"action": "cancel"}), "cancelled").await
}

pub async fn a_page_to_visit(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let arguments = json!({"url": "https://example.com/visit", "message": "Please visit this page."});
    let (text, outcome) = texts(&cell, &party, "trigger-url-elicitation", arguments).await?;
    contains(&text, "completed")?;
    same("the page", &asked(&outcome, "elicitation/create")?["url"], &json!("https://example.com/visit"))
}

/// The server answers with -32042 first. A modern client is asked instead, and asked again in the next round.
pub async fn a_page_to_visit_first(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let arguments =
        json!({"url": "https://example.com/visit", "message": "Please visit this page.", "errorPath": true});
    if cell.is_modern() {
        let (text, outcome) = texts(&cell, &party, "trigger-url-elicitation", arguments).await?;
        contains(&text, "completed")?;
        let pages = outcome.asked().into_iter().filter(|asked| asked.method == "elicitation/create");
        let mut pages: Vec<&Value> = pages.map(|asked| &asked.params["url"]).collect();
        if Host::chosen() == Host::Spin {
            // An instance that comes later has a session of its own with the server, where it is the first time again.
            pages.dedup();
        }
        let expected = [&json!("https://modelcontextprotocol.io"), &json!("https://example.com/visit")];
        return same("the pages", pages, expected);
    }
    let first = party.tool(&cell.name("trigger-url-elicitation"), arguments.clone()).await?;
    same("the code", first.code(), -32042)?;
    let page = &first.answer["error"]["data"]["elicitations"][0]["url"];
    same("the page", page, &json!("https://modelcontextprotocol.io"))?;
    let (text, _) = texts(&cell, &party, "trigger-url-elicitation", arguments).await?;
    contains(&text, "completed")
}

pub async fn sampling(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let arguments = json!({"prompt": "What is the capital of France?", "maxTokens": 50});
    let (text, outcome) = texts(&cell, &party, "trigger-sampling-request", arguments).await?;
    contains(&text, "Paris")?;
    let params = asked(&outcome, "sampling/createMessage")?;
    same("the limit", &params["maxTokens"], &json!(50))?;
    contains(&params["messages"].to_string(), "capital of France")
}

/// This server asks for the roots on the GET stream, soon after the handshake or when the tool is called.
pub async fn roots(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    if let Party::Legacy(legacy) = &party {
        same("the GET stream", legacy.listen().await?, 200)?;
    }
    let (text, _) = texts(&cell, &party, "get-roots-list", json!({})).await?;
    contains(&text, "file:///home/ada")
}

pub async fn progress(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let params = json!({
        "name": cell.name("trigger-long-running-operation"),
        "arguments": {"duration": 0.2, "steps": 4},
        "_meta": {"progressToken": "token"},
    });
    let outcome = party.call("tools/call", params).await?;
    contains(&outcome.result()?["content"].to_string(), "completed")?;
    let steps = outcome.told("notifications/progress");
    let steps: Vec<u64> = steps.iter().filter_map(|params| params["progress"].as_u64()).collect();
    same("progress", steps, [1, 2, 3, 4])
}

/// Logs that belong to no call travel on the GET stream.
pub async fn logs_without_a_call(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let Party::Legacy(legacy) = &party else { return Err("not a legacy client".into()) };
    same("the GET stream", legacy.listen().await?, 200)?;
    legacy.call("logging/setLevel", json!({"level": "debug"})).await?.result()?;
    let mut mark = legacy.mark();
    texts(&cell, &party, "toggle-simulated-logging", json!({})).await?;
    let heard = legacy.hear(&mut mark, |heard| heard.message["method"] == "notifications/message").await;
    holds(heard.is_some(), || "no log was heard".into())?;
    texts(&cell, &party, "toggle-simulated-logging", json!({})).await.map(|_| ())
}

pub async fn a_resource_updated(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let updated = json!("notifications/resources/updated");
    match &party {
        Party::Legacy(legacy) => {
            same("the GET stream", legacy.listen().await?, 200)?;
            legacy.call("resources/subscribe", json!({"uri": DOCUMENT})).await?.result()?;
            let mut mark = legacy.mark();
            texts(&cell, &party, "toggle-subscriber-updates", json!({})).await?;
            let heard = legacy.hear(&mut mark, |heard| heard.message["method"] == updated).await;
            let heard = heard.ok_or("no update was heard")?;
            same("the resource", &heard.message["params"]["uri"], &json!(DOCUMENT))
        }
        Party::Modern(modern) => {
            let mut listening = modern.listen(json!({"resourceSubscriptions": [DOCUMENT]})).await?;
            texts(&cell, &party, "toggle-subscriber-updates", json!({})).await?;
            let heard = listening.next().await?;
            same("what was heard", &heard["method"], &updated)?;
            same("the resource", &heard["params"]["uri"], &json!(DOCUMENT))
        }
    }
}

pub async fn content(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let image = party.tool(&cell.name("get-tiny-image"), json!({})).await?;
    let content = image.result()?["content"].as_array().cloned().unwrap_or_default();
    holds(content.iter().any(|block| block["mimeType"] == "image/png"), || "no image".into())?;
    let links = party.tool(&cell.name("get-resource-links"), json!({"count": 2})).await?;
    let content = links.result()?["content"].as_array().cloned().unwrap_or_default();
    let links = content.iter().filter(|block| block["type"] == "resource_link").count();
    same("links", links, 2)?;
    let weather = party.tool(&cell.name("get-structured-content"), json!({"location": "New York"})).await?;
    holds(weather.result()?["structuredContent"].is_object(), || "no structured content".into())
}
