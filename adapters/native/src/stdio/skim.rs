//! Finds the id of a request in a text of any size, without keeping the text.
//!
//! A client waits for an answer to what it has sent, whether or not that could be read: with the id the refusal
//! reaches the one who waits. Looks only at the members of the outermost object, and **never** checks the rest.

use serde_json::value::RawValue;

/// An id longer than this is none.
const MAX_ID: usize = 256;
/// No name that matters is longer.
const MAX_NAME: usize = 16;

/// Where in the outermost object the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a member's name, or inside of it.
    Name,
    /// Behind a name.
    Colon,
    /// In a value.
    Value,
}

/// Looks through a text, piece by piece.
#[derive(Debug)]
pub(crate) struct Skim {
    depth: usize,
    in_string: bool,
    escaped: bool,
    at: At,
    name: Vec<u8>,
    value: Vec<u8>,
    id: Option<Vec<u8>>,
    has_method: bool,
}

/// What the text is.
#[derive(Debug)]
pub(crate) struct Skimmed {
    /// Its id, a string or an integer.
    pub(crate) id: Option<Box<RawValue>>,
    /// It has a method: with an id, it is a request.
    pub(crate) has_method: bool,
}

impl Skimmed {
    /// Looks through the whole of `text`.
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut skim = Skim::new();
        skim.push(text);
        skim.finish()
    }

    /// The id that an error is to be sent under.
    pub(crate) fn request(&self) -> Option<&RawValue> {
        self.id.as_deref().filter(|_| self.has_method)
    }
}

impl Skim {
    pub(crate) fn new() -> Self {
        Self {
            depth: 0,
            in_string: false,
            escaped: false,
            at: At::Name,
            name: Vec::new(),
            value: Vec::new(),
            id: None,
            has_method: false,
        }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        piece.iter().for_each(|byte| self.byte(*byte));
    }

    fn byte(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            self.keep(byte);
            if !self.in_string && self.depth == 1 && self.at == At::Name {
                self.at = At::Colon;
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.keep(byte);
                self.depth += 1;
            }
            b'}' | b']' => {
                if self.depth == 1 {
                    self.member();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 && self.at == At::Colon => self.at = At::Value,
            b',' if self.depth == 1 => {
                self.member();
                self.at = At::Name;
            }
            _ => self.keep(byte),
        }
    }

    /// Keeps what belongs to a name, or to a value that may be an id.
    fn keep(&mut self, byte: u8) {
        if self.depth != 1 {
            return;
        }
        let (into, most) = match self.at {
            At::Name => (&mut self.name, MAX_NAME),
            At::Value => (&mut self.value, MAX_ID),
            At::Colon => return,
        };
        if into.len() <= most {
            into.push(byte);
        }
    }

    /// A member is complete.
    fn member(&mut self) {
        match self.name.trim_ascii() {
            b"\"id\"" => self.id = Some(std::mem::take(&mut self.value)),
            b"\"method\"" => self.has_method = true,
            _ => {}
        }
        self.name.clear();
        self.value.clear();
    }

    /// What was found.
    pub(crate) fn finish(self) -> Skimmed {
        let id = self.id.filter(|id| id.len() <= MAX_ID).and_then(|id| String::from_utf8(id).ok());
        let id = id.and_then(|id| RawValue::from_string(id.trim().to_owned()).ok()).filter(|id| {
            let text = id.get();
            text.starts_with('"') || text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        });
        Skimmed { id, has_method: self.has_method }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, id: Option<&str>, has_method: bool) {
        for size in [1, 2, 7, text.len().max(1)] {
            let mut skim = Skim::new();
            text.as_bytes().chunks(size).for_each(|piece| skim.push(piece));
            let found = skim.finish();
            assert_eq!(
                (found.id.as_deref().map(RawValue::get), found.has_method),
                (id, has_method),
                "{text}"
            );
        }
    }

    #[test]
    fn id_is_found_wherever_it_stands() {
        check(r#"{"jsonrpc":"2.0","id":7,"method":"m"}"#, Some("7"), true);
        check(
            r#"{"method":"m","params":{"id":1,"a":[{"id":2}]},"jsonrpc":"2.0","id":"x\"}"}"#,
            Some(r#""x\"}""#),
            true,
        );
        check(r#" { "id" : -3 , "method" : "m" } "#, Some("-3"), true);
        check(r#"{"id":4,"result":{"method":"m"}}"#, Some("4"), false);
        check(r#"{"params":"\"id\":9,","method":7}"#, None, true);
    }

    #[test]
    fn what_is_no_id_is_none() {
        check(r#"{"id":null,"method":"m"}"#, None, true);
        check(r#"{"id":{"id":1},"method":"m"}"#, None, true);
        check(r#"{"id":1.5,"method":"m"}"#, None, true);
        check(r#"[{"id":1,"method":"m"}]"#, None, false);
        check("}}}{{]", None, false);
        check("", None, false);
        check(&format!(r#"{{"id":"{}","method":"m"}}"#, "x".repeat(300)), None, true);
    }

    #[test]
    fn a_text_that_was_cut_off_keeps_what_it_said() {
        check(r#"{"id":5,"method":"m","params":{"text":"aaaaaaaa"#, Some("5"), true);
    }
}
