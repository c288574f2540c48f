//! What is asked and answered, for the log: only where the configuration says so (`llm.log_content`), and of each only so much.
//!
//! It **never** holds more than words of the conversation: no header, no key, no bytes of images.

use super::call::{Asked, Task};
use super::chat::{Chat, Event, Part, Role, Whole};
use super::convert;
use crate::config::Plan;

/// What was asked, and what was answered so far.
#[derive(Debug, Clone)]
pub struct Noted {
    /// The end of what was asked: that is where the question is.
    pub prompt: String,
    /// The beginning of what was answered.
    pub answer: String,
    most: usize,
}

impl Noted {
    /// What is asked by `asked`, where that is to be noted: words are asked for and answered.
    pub(super) fn of(plan: &Plan, asked: &Asked) -> Option<Box<Self>> {
        let (most, Task::Chat(front)) = (plan.llm.log_content, asked.task) else { return None };
        if most == 0 {
            return None;
        }
        let prompt = match &asked.chat {
            Some(chat) => prompt(chat, most),
            // What is no conversation is refused, with words of its own.
            None => prompt(&convert::decode(front, &serde_json::from_slice(&asked.body).ok()?).ok()?, most),
        };
        Some(Box::new(Self { prompt, answer: String::new(), most }))
    }

    /// Takes a piece of the answer.
    pub(super) fn push(&mut self, event: &Event) {
        match event {
            Event::Text(text) | Event::Arguments { json: text, .. } => self.add(text),
            Event::Call { name, .. } => {
                self.add("[");
                self.add(name);
                self.add("] ");
            }
            _ => {}
        }
    }

    /// Takes a whole answer.
    pub(super) fn take(&mut self, whole: &Whole) {
        for event in whole.clone().events() {
            self.push(&event);
        }
    }

    fn add(&mut self, text: &str) {
        let room = self.most.saturating_sub(self.answer.len());
        let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.answer.push_str(text.get(..end).unwrap_or_default());
        if end < text.len() {
            // Nothing more fits behind it.
            self.most = self.answer.len();
        }
    }
}

/// The last `most` bytes of what `chat` asks, each part behind who says it.
fn prompt(chat: &Chat, most: usize) -> String {
    let mut kept = Vec::new();
    let mut room = most;
    let said = chat.turns.iter().flat_map(|turn| {
        let who = if turn.role == Role::User { "user" } else { "assistant" };
        turn.parts.iter().map(move |part| (who, part))
    });
    for (who, part) in said.rev() {
        said_in(who, part, &mut room, &mut kept);
    }
    for text in chat.system.iter().rev() {
        keep("system", text, &mut room, &mut kept);
    }
    kept.reverse();
    kept.concat()
}

fn said_in(who: &str, part: &Part, room: &mut usize, kept: &mut Vec<String>) {
    match part {
        Part::Text(text) => keep(who, text, room, kept),
        Part::Media(media) => keep(who, &format!("[{}]", media.kind), room, kept),
        Part::Call(call) => keep(who, &format!("[{}] {}", call.name, call.arguments), room, kept),
        Part::Result { parts, .. } => {
            for part in parts.iter().rev() {
                said_in("tool", part, room, kept);
            }
        }
        Part::Reasoning { .. } | Part::Redacted(_) => {}
    }
}

fn keep(who: &str, text: &str, room: &mut usize, kept: &mut Vec<String>) {
    if *room == 0 {
        return;
    }
    let whole = format!("{who}: {text}\n");
    let from = whole.len().saturating_sub(*room);
    let from = (from..=whole.len()).find(|at| whole.is_char_boundary(*at)).unwrap_or(whole.len());
    // What is cut at its beginning is the last that fits.
    *room = if from > 0 { 0 } else { *room - whole.len() };
    kept.push(whole.get(from..).unwrap_or_default().to_owned());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::llm::convert::Front;

    fn asked(most: usize) -> String {
        let body = json!({"model": "m", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Größe?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "size", "arguments": "{\"of\":1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "7"},
            {"role": "user", "content": [
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        ]});
        prompt(&convert::decode(Front::OpenAi, &body).unwrap(), most)
    }

    #[test]
    fn the_end_of_what_was_asked_is_kept() {
        let all = asked(1000);
        assert_eq!(
            all,
            "system: Be brief.\nuser: Größe?\nassistant: [size] {\"of\":1}\ntool: 7\nuser: And this?\nuser: [image/png]\n"
        );
        for most in 0..=all.len() {
            let some = asked(most);
            assert!(all.ends_with(&some) && some.len() <= most && some.len() + 2 > most, "{most}: {some}");
        }
    }

    #[test]
    fn the_beginning_of_what_was_answered_is_kept() {
        for most in 0..12 {
            let mut noted = Noted { prompt: String::new(), answer: String::new(), most };
            for text in ["é", "", "éé", "abc"] {
                noted.push(&Event::Text(text.to_owned()));
            }
            assert!("éééabc".starts_with(&noted.answer), "{}", noted.answer);
            assert!(
                noted.answer.len() <= most && noted.answer.len() + 2 > most.min(9),
                "{most}: {}",
                noted.answer
            );
        }
    }
}
