//! A model's answer, as a `CreateMessageResult`.

use serde_json::{Map, Value, json};

use crate::llm::chat::{Part, Stop, Whole, object};

/// Where the provider's signature of the thought that led to a call of a tool travels: servers give `_meta` back.
pub(super) const SIGNATURE: &str = "causeway/signature";

/// A whole answer; `model` is used where the provider does not name one.
pub(in crate::llm) fn whole(whole: &Whole, model: &str) -> Value {
    let (mut said, mut blocks) = (String::new(), Vec::new());
    for part in &whole.parts {
        match part {
            Part::Text(text) => said.push_str(text),
            Part::Call(call) => {
                let mut block = Map::new();
                block.insert("type".into(), "tool_use".into());
                block.insert("id".into(), call.id.clone().into());
                block.insert("name".into(), call.name.clone().into());
                block.insert("input".into(), object(&call.arguments));
                if let Some(signature) = &call.signature {
                    block.insert("_meta".into(), json!({SIGNATURE: signature}));
                }
                blocks.push(Value::Object(block));
            }
            // What a model thinks is for nobody here, and media are not spoken of by models yet.
            Part::Reasoning { .. } | Part::Redacted(_) | Part::Media(_) | Part::Result { .. } => {}
        }
    }
    let calls = !blocks.is_empty();
    if !said.is_empty() || !calls {
        blocks.insert(0, json!({"type": "text", "text": said}));
    }
    // A list only where tools were offered, and so to servers that know lists.
    let content = if calls { Value::Array(blocks) } else { blocks.pop().unwrap_or_default() };
    let stop = match &whole.stop {
        Some(Stop::Length) => "maxTokens",
        Some(Stop::Sequence(_)) => "stopSequence",
        Some(Stop::Filtered) => "contentFilter",
        Some(Stop::Declined) => "refusal",
        // Some providers call it an ordinary end.
        _ if calls => "toolUse",
        Some(Stop::End | Stop::Tools | Stop::Paused) | None => "endTurn",
    };
    let model = whole.model.as_deref().filter(|model| !model.is_empty()).unwrap_or(model);
    json!({"role": "assistant", "content": content, "model": model, "stopReason": stop})
}
