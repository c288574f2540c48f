//! How many tokens a request has, guessed where the provider does not count.

use super::chat::{Chat, Part};

/// What an image is taken for: about as much as a large one costs at most providers.
const IMAGE: u64 = 1500;
/// What surrounds a message or a tool.
const FRAME: u64 = 4;

/// A guess: a token for every four bytes of text, which is right for English within a fifth or so.
#[must_use]
pub fn estimate(chat: &Chat) -> u64 {
    let text = |text: &str| (text.len() as u64).div_ceil(4);
    let system: u64 = chat.system.iter().map(|line| text(line) + FRAME).sum();
    let turns: u64 = chat.turns.iter().flat_map(|turn| &turn.parts).map(part).sum();
    let tools: u64 = chat
        .tools
        .iter()
        .map(|tool| {
            let about = tool.description.as_deref().map_or(0, text);
            text(&tool.name) + about + text(&tool.schema.to_string()) + FRAME
        })
        .sum();
    system + turns + chat.turns.len() as u64 * FRAME + tools
}

fn part(part: &Part) -> u64 {
    let text = |text: &str| (text.len() as u64).div_ceil(4);
    match part {
        Part::Text(words) | Part::Redacted(words) | Part::Reasoning { text: words, .. } => text(words),
        Part::Media(_) => IMAGE,
        Part::Call(call) => text(&call.name) + text(&call.arguments.to_string()) + FRAME,
        Part::Result { parts, .. } => parts.iter().map(self::part).sum::<u64>() + FRAME,
    }
}
