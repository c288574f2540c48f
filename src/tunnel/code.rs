//! Why a link or a stream ended: a number for machines, words for people.

use bytes::Bytes;

use super::frame::Frame;

/// The most bytes of words that go with a code.
pub const MAX_WORDS: usize = 1024;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A code that a later version has and this one does not know.
            Other(u16),
        }

        impl $name {
            /// The number that stands for it on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$variant => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// What `number` stands for.
            #[must_use]
            pub fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }
    };
}

codes! {
    /// Why a link ended.
    ByeCode {
        /// What the other end sent is not allowed by the protocol.
        Protocol = 1,
        /// The two ends share no version of the protocol.
        Version = 2,
        /// A newer companion of this name has taken over.
        Replaced = 3,
        /// There is no right to open this link.
        Refused = 4,
        /// More was sent on a stream than it had credit for.
        Overrun = 5,
        /// A message or a part of it is larger than it may be.
        TooLarge = 6,
        /// This end stops or starts anew; dial again.
        Shutdown = 7,
        /// Too much was left unacknowledged.
        Backlog = 8,
        /// It did not come back in time after its connection was lost.
        Lost = 9,
        /// The configuration has no link of this name.
        Unknown = 10,
        /// The companion itself has dialled again since: this connection is not the one that counts.
        Stale = 11,
    }
}

impl ByeCode {
    /// Whether dialling again may help.
    #[must_use]
    pub fn may_dial_again(self) -> bool {
        !matches!(self, Self::Version | Self::Replaced | Self::Refused | Self::Unknown)
    }
}

codes! {
    /// Why a stream ended before its exchange did.
    ResetCode {
        /// Whoever asked has gone.
        Cancelled = 1,
        /// The companion does not offer this target.
        NotOffered = 2,
        /// The server behind the link cannot be reached.
        Connect = 3,
        /// The server's answer was cut.
        Cut = 4,
        /// It took too long.
        Timeout = 5,
        /// A head or a body is larger than it may be.
        TooLarge = 6,
        /// The companion's own rules forbid it.
        Refused = 7,
        /// The link was lost, or the other end no longer has this stream.
        Lost = 8,
        /// Too many streams are open.
        Busy = 9,
        /// The other end failed.
        Failed = 10,
        /// The link is not connected.
        NotConnected = 11,
    }
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Bye {
    /// For machines.
    pub code: ByeCode,
    /// For people: what was wrong, with what, and what to do.
    pub words: String,
}

impl Bye {
    /// Ends a link for this reason.
    #[must_use]
    pub fn new(code: ByeCode, words: impl Into<String>) -> Self {
        Self { code, words: cut(words.into()) }
    }

    /// The code and the reason of the close frame that ends a WebSocket so: codes from 4000 on are an application's, and no
    /// reason is longer than 123 bytes (RFC 6455 sections 7.4.2 and 5.5).
    #[must_use]
    pub fn close_frame(&self) -> (u16, &str) {
        let end = (0..=123).rev().find(|end| self.words.is_char_boundary(*end)).unwrap_or(0);
        (4000 + self.code.number(), self.words.get(..end).unwrap_or_default())
    }

    /// The message that says so.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Frame::Bye(self.clone()).encode()
    }
}

/// Why a stream ended before its exchange did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Reset {
    /// For machines.
    pub code: ResetCode,
    /// For people.
    pub words: String,
}

impl Reset {
    /// Ends a stream for this reason.
    #[must_use]
    pub fn new(code: ResetCode, words: impl Into<String>) -> Self {
        Self { code, words: cut(words.into()) }
    }
}

/// As much of `words` as may be sent.
fn cut(mut words: String) -> String {
    if words.len() > MAX_WORDS {
        let end = (0..=MAX_WORDS).rev().find(|end| words.is_char_boundary(*end)).unwrap_or(0);
        words.truncate(end);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_stands_for_itself() {
        for number in 0..64 {
            assert_eq!(ByeCode::from_number(number).number(), number);
            assert_eq!(ResetCode::from_number(number).number(), number);
        }
    }

    #[test]
    fn a_close_frame_holds_as_much_of_the_words_as_it_may() {
        let (bye, reason) = (Bye::new(ByeCode::from_number(3), "é".repeat(80)), "é".repeat(61));
        assert_eq!(bye.close_frame(), (4003, reason.as_str()));
        assert_eq!(Bye::new(ByeCode::from_number(0), "short").close_frame(), (4000, "short"));
    }

    #[test]
    fn words_are_cut_between_characters() {
        let reset = Reset::new(ResetCode::Failed, "é".repeat(1000));
        assert_eq!(reset.words.len(), MAX_WORDS);
        assert_eq!(Bye::new(ByeCode::Protocol, format!("a{}", "é".repeat(1000))).words.len(), MAX_WORDS - 1);
    }
}
