//! What the records of polled mailboxes say, as bytes.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::platform::Timestamp;

/// Which seat owns a key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) seat: String,
}

impl Owner {
    pub(super) fn read(value: &[u8]) -> Option<String> {
        serde_json::from_slice::<Self>(value).ok().map(|owner| owner.seat)
    }

    pub(super) fn write(&self) -> Bytes {
        json(self)
    }
}

/// The inbox of a seat.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Inbox {
    /// When its owner was last seen.
    pub(super) beat: Timestamp,
    /// Nobody takes letters here any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) closed: bool,
    /// The letters that have not been taken, in the order in which they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) letters: Vec<Letter>,
}

/// A letter in an inbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) id: String,
    /// Whom it is for.
    pub(super) key: String,
    /// The letter itself, if it is short.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) text: String,
    /// How many pieces it comes in, if it is not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) pieces: usize,
    /// It is no letter: whoever sent the one with this id does not listen any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) gone: bool,
}

impl Inbox {
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    pub(super) fn write(&self) -> Bytes {
        json(self)
    }

    /// The bytes that its letters take.
    pub(super) fn size(&self) -> usize {
        self.letters.iter().map(|letter| letter.text.len() + letter.key.len() + 64).sum()
    }
}

/// What is said to a letter: a line that says how far it has come, then what has not been heard yet.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saying {
    /// How many bytes have been heard.
    pub(super) heard: u64,
    /// When the owner was last seen.
    pub(super) said: Timestamp,
    /// When the listener was last seen.
    pub(super) asked: Timestamp,
    /// Nothing comes any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) ended: bool,
    /// The letter was not taken: the owner is another.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) moved: bool,
    /// What has not been heard.
    #[serde(skip)]
    pub(super) bytes: BytesMut,
}

impl Saying {
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let end = value.iter().position(|byte| *byte == b'\n')?;
        let mut saying: Self = serde_json::from_slice(value.get(..end)?).ok()?;
        saying.bytes = value.get(end + 1..)?.into();
        Some(saying)
    }

    pub(super) fn write(&self) -> Bytes {
        let mut value = serde_json::to_vec(self).unwrap_or_default();
        value.push(b'\n');
        value.extend_from_slice(&self.bytes);
        value.into()
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    // Texts and numbers only: this cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
