//! What clients are told without a call: lists that change, resources that are updated.

use std::sync::Arc;

use causeway_suite::legacy::Legacy;
use causeway_suite::modern::Listening;
use causeway_suite::party::Party;
use serde_json::{Value, json};

use super::{Done, holds, said, same};
use crate::matrix::cell::Cell;

const WATCHED: &str = "test://watched-resource";

/// Where a client hears news: its GET stream, or a subscription.
enum Ears<'a> {
    Legacy(&'a Legacy, usize),
    Modern(Box<Listening>),
}

impl<'a> Ears<'a> {
    /// Listens for what `filter`, in the words of 2026-07-28, asks for.
    async fn open(cell: &Cell, party: &'a Party, filter: Value) -> Result<Self, String> {
        match party {
            Party::Modern(modern) => {
                let listening = modern.listen(filter.clone()).await?;
                same("what is agreed", &listening.agreed, &filter)?;
                Ok(Self::Modern(Box::new(listening)))
            }
            Party::Legacy(legacy) => {
                let mark = legacy.mark();
                same("the GET stream", legacy.listen().await?, 200)?;
                for uri in filter["resourceSubscriptions"].as_array().into_iter().flatten() {
                    legacy.call("resources/subscribe", json!({"uri": uri})).await?.result()?;
                }
                // A GET stream has no acknowledgement; what stands behind it may take a moment.
                let ready = cell.behind.until(|facts| match cell.serves_modern() {
                    true => facts.listeners > 0,
                    false => facts.streams > 0,
                });
                holds(ready.await, || "nothing listens to the server".into())?;
                Ok(Self::Legacy(legacy, mark))
            }
        }
    }

    /// The next thing that is heard.
    async fn next(&mut self) -> Result<Value, String> {
        match self {
            Self::Modern(listening) => listening.next().await,
            Self::Legacy(legacy, mark) => {
                let news = |message: &Value| {
                    let method = message["method"].as_str().unwrap_or_default();
                    method.ends_with("list_changed") || method.ends_with("updated")
                };
                let heard = legacy.hear(mark, |heard| news(&heard.message)).await;
                heard.map(|heard| heard.message).ok_or_else(|| "nothing was heard".into())
            }
        }
    }
}

async fn changed(cell: &Cell, list: &str, filter: Value) -> Done {
    let party = cell.connect().await?;
    let mut ears = Ears::open(cell, &party, filter).await?;
    for _ in 0..2 {
        said(cell, &party, "change", json!({"list": list})).await?;
        let heard = ears.next().await?;
        same("what was heard", &heard["method"], &json!(format!("notifications/{list}/list_changed")))?;
    }
    Ok(())
}

pub async fn tools_changed(cell: Arc<Cell>) -> Done {
    changed(&cell, "tools", json!({"toolsListChanged": true})).await
}

pub async fn prompts_changed(cell: Arc<Cell>) -> Done {
    changed(&cell, "prompts", json!({"promptsListChanged": true})).await
}

pub async fn resources_changed(cell: Arc<Cell>) -> Done {
    changed(&cell, "resources", json!({"resourcesListChanged": true})).await
}

/// News of other kinds do not reach who did not ask for them.
pub async fn only_what_was_asked_for(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let filter = json!({"promptsListChanged": true, "resourceSubscriptions": [WATCHED]});
    let mut ears = Ears::open(&cell, &party, filter).await?;
    if cell.is_modern() {
        said(&cell, &party, "change", json!({"list": "tools"})).await?;
        said(&cell, &party, "change", json!({"list": "resources"})).await?;
    }
    said(&cell, &party, "update", json!({"uri": "test://static-text"})).await?;
    said(&cell, &party, "change", json!({"list": "prompts"})).await?;
    same("the first news", &ears.next().await?["method"], &json!("notifications/prompts/list_changed"))
}

pub async fn a_resource_updated(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let mut ears = Ears::open(&cell, &party, json!({"resourceSubscriptions": [WATCHED]})).await?;
    for _ in 0..2 {
        said(&cell, &party, "update", json!({"uri": WATCHED})).await?;
        let heard = ears.next().await?;
        same("what was heard", &heard["method"], &json!("notifications/resources/updated"))?;
        same("the resource", &heard["params"]["uri"], &json!(WATCHED))?;
    }
    Ok(())
}

/// After the end of a subscription the other news still come.
pub async fn an_unsubscribed_resource(cell: Arc<Cell>) -> Done {
    let party = cell.connect().await?;
    let both = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]});
    let mut ears = Ears::open(&cell, &party, both).await?;
    said(&cell, &party, "update", json!({"uri": WATCHED})).await?;
    let mut before = ears.next().await?;
    while before["method"] == "notifications/tools/list_changed" {
        // A stream behind this one was opened anew, and who knows what came meanwhile.
        before = ears.next().await?;
    }
    same("before", &before["method"], &json!("notifications/resources/updated"))?;
    match &party {
        // A modern client hangs up and listens for less.
        Party::Modern(_) => {
            drop(ears);
            ears = Ears::open(&cell, &party, json!({"toolsListChanged": true})).await?;
        }
        Party::Legacy(legacy) => {
            legacy.call("resources/unsubscribe", json!({"uri": WATCHED})).await?.result()?;
            if cell.serves_modern() {
                // The gateway's own subscription ends, or goes on without the resource.
                let ended = cell.behind.until(|facts| {
                    facts.stopped.iter().any(|stopped| stopped == "subscriptions/listen")
                        && facts.listeners > 0
                });
                holds(ended.await, || "the server is still asked for the resource".into())?;
            }
        }
    }
    said(&cell, &party, "update", json!({"uri": WATCHED})).await?;
    said(&cell, &party, "change", json!({"list": "tools"})).await?;
    same("after", &ears.next().await?["method"], &json!("notifications/tools/list_changed"))
}
