//! Results arrive as the client's revision can have them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Done, holds, same};
use crate::matrix::cell::{Cell, Server};

/// The kinds of content that `revision` has in a tool's result.
fn kinds(revision: &str) -> Vec<&'static str> {
    let mut kinds = vec!["text", "image", "resource"];
    if revision >= "2025-03-26" {
        kinds.push("audio");
    }
    if revision >= "2025-06-18" {
        kinds.push("resource_link");
    }
    kinds
}

pub async fn every_kind(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let outcome = party.tool(&cell.name("content"), json!({})).await?;
    let result = outcome.result()?;
    let known = kinds(cell.client);
    let content = result["content"].as_array().ok_or("no content")?;
    for block in content {
        let kind = block["type"].as_str().unwrap_or_default();
        holds(known.contains(&kind), || format!("{} has no content of type {kind:?}", cell.client))?;
    }
    // What both revisions have arrives as it is; what the client's lacks is not lost without a trace.
    let sent = kinds(if cell.server == Server::Sse { "2024-11-05" } else { "2026-07-28" });
    for kind in sent.into_iter().filter(|kind| known.contains(kind)) {
        let there = content.iter().any(|block| block["type"] == kind);
        holds(there, || format!("no content of type {kind:?}"))?;
    }
    let text = Value::Array(content.clone()).to_string();
    // A legacy server agrees on the revision of the client and sends what that has.
    if cell.serves_modern() || cell.server != Server::Sse && cell.client >= "2025-06-18" {
        for trace in ["audio/wav", "test://static-text"] {
            holds(text.contains(trace), || format!("nothing of {trace:?} in {text}"))?;
        }
        if cell.client >= "2025-06-18" {
            same("structured content", &result["structuredContent"], &json!({"answer": 42}))?;
        } else {
            same("structured content", &result["structuredContent"], &Value::Null)?;
        }
    }
    Ok(())
}

pub async fn structured(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let tools = party.call("tools/list", json!({})).await?;
    let tools = tools.result()?["tools"].as_array().cloned().unwrap_or_default();
    let tool = tools.iter().find(|tool| tool["name"] == cell.name("structured")).ok_or("no such tool")?;
    let outcome = party.tool(&cell.name("structured"), json!({})).await?;
    same("the text", outcome.said()?, json!({"answer": 42}))?;
    if cell.client >= "2025-06-18" {
        same("the schema", &tool["outputSchema"]["required"], &json!(["answer"]))?;
        return same("structured content", &outcome.result()?["structuredContent"], &json!({"answer": 42}));
    }
    Ok(())
}

/// Structured content that is no object: only 2026-07-28 has that.
pub async fn a_structured_list(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let tools = party.call("tools/list", json!({})).await?;
    let tools = tools.result()?["tools"].as_array().cloned().unwrap_or_default();
    let tool =
        tools.iter().find(|tool| tool["name"] == cell.name("structured_list")).ok_or("no such tool")?;
    let outcome = party.tool(&cell.name("structured_list"), json!({})).await?;
    let text = outcome.said()?.to_string();
    holds(text.contains("[1,2,3]"), || format!("the text is {text}"))?;
    let (schema, content) = (&tool["outputSchema"], &outcome.result()?["structuredContent"]);
    if cell.is_modern() {
        return match cell.serves_modern() {
            true => same("structured content", content, &json!([1, 2, 3])),
            false => same("structured content", content, &json!({"items": [1, 2, 3]})),
        };
    }
    // To revisions before 2025-06-18 both are fields that they do not know.
    if cell.client < "2025-06-18" {
        return Ok(());
    }
    // A legacy client that finds a schema wants content to match it, and both are of objects there.
    holds(schema.is_null() || schema["type"] == "object", || format!("the schema is {schema}"))?;
    holds(content.is_null() || content.is_object(), || format!("structured content is {content}"))?;
    holds(schema.is_null() || content.is_object(), || {
        format!("a schema, but structured content is {content}")
    })
}
