//! Calls without input, errors, and callers who must not meet.

use std::sync::Arc;

use causeway_suite::names;
use causeway_suite::party::Able;
use serde_json::json;

use super::{Done, holds, said, same};
use crate::matrix::cell::Cell;

pub async fn plain_calls(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let tools = party.call("tools/list", json!({})).await?;
    let tools = names(&tools.result()?["tools"]);
    holds(tools.contains(&cell.name("ask_form")), || format!("ask_form is not in {tools:?}"))?;
    same("echo", said(&cell, &party, "echo", json!({"text": "hi"})).await?, json!("hi"))?;
    let name = cell.name("test_simple_prompt");
    let prompt = party.call("prompts/get", json!({"name": name})).await?;
    let text = &prompt.result()?["messages"][0]["content"]["text"];
    same("the prompt", text, &json!("This is a simple prompt for testing."))?;
    let read = party.call("resources/read", json!({"uri": "test://static-text"})).await?;
    let text = &read.result()?["contents"][0]["text"];
    same("the resource", text, &json!("This is the content of the static text resource."))
}

pub async fn errors(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let unknown = party.tool(&cell.name("no_such_tool"), json!({})).await?;
    same("an unknown tool", unknown.code(), -32602)?;
    let unknown = party.call("prompts/get", json!({"name": cell.name("no_such_prompt")})).await?;
    same("an unknown prompt", unknown.code(), -32602)?;
    // The code was changed with 2026-07-28; the era of the client decides.
    let unknown = party.call("resources/read", json!({"uri": "test://nowhere"})).await?;
    same("an unknown resource", unknown.code(), if cell.is_modern() { -32602 } else { -32002 })?;
    holds(unknown.oddities.is_empty(), || unknown.oddities.join("; "))?;
    let unknown = party.call("no/such/method", json!({})).await?;
    same("an unknown method", unknown.code(), -32601)?;
    same("its status", unknown.status, if cell.is_modern() { 404 } else { 200 })?;
    let failed = party.tool(&cell.name("fail"), json!({})).await?;
    let failed = failed.result()?;
    same("a tool's own failure", &failed["isError"], &json!(true))?;
    same("what it says", &failed["content"][0]["text"], &json!("it went wrong"))
}

/// Two clients with answers of their own, at the same time.
pub async fn several_callers(cell: Arc<Cell>) -> Done {
    let connect = async |name: &'static str| {
        let able = Able::all(cell.client)
            .answering(move |_, _| Ok(json!({"action": "accept", "content": {"name": name}})));
        cell.connect_as(able).await
    };
    let (ada, bob) = (connect("Ada").await?, connect("Bob").await?);
    let ask = async |party, name| {
        for _ in 0..5 {
            let answer = said(&cell, party, "ask_form", json!({})).await?;
            same("the answer", &answer["content"]["name"], &json!(name))?;
        }
        Ok::<_, String>(())
    };
    let (one, two) = tokio::join!(ask(&ada, "Ada"), ask(&bob, "Bob"));
    one.and(two)
}
