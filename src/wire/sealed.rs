//! Sealed tokens: facts that travel with the client and come back unchanged.
//!
//! A token is readable by its holder and forgeable by nobody without the key. It is bound to a purpose (`kind`),
//! an owner and an expiry; opening it under any other gives nothing. It **never** says why it did not open.
//!
//! Layout before base64url: `version(1) expires(8, ms, big-endian) payload mac(32)`, where the MAC is HMAC-SHA256
//! over `kind 0x00 owner 0x00` and everything before it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::platform::Timestamp;

const VERSION: u8 = 1;
const HEAD: usize = 9;
const MAC: usize = 32;
/// Hardly any token that we make is longer; anything longer is refused before it is decoded.
const MAX_TOKEN: usize = 8 * 1024;

/// Seals and opens tokens with one key.
#[derive(Clone)]
pub struct Sealer {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// A sealer with `key`. HMAC takes a key of any length; use 32 random bytes.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        // `new_from_slice` of HMAC has no failing length; the fallback only spares an `unwrap`.
        let mac = Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()));
        Self { mac }
    }

    /// Seals `payload` for `kind` and `owner` until `expires`. Neither `kind` nor `owner` may hold a zero byte.
    #[must_use]
    pub fn seal(&self, kind: &str, owner: &str, expires: Timestamp, payload: &[u8]) -> String {
        let mut token = Vec::with_capacity(HEAD + payload.len() + MAC);
        token.push(VERSION);
        token.extend_from_slice(&expires.0.to_be_bytes());
        token.extend_from_slice(payload);
        let mac = self.digest(kind, owner, &token).finalize().into_bytes();
        token.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The payload of `token`, if it was sealed for `kind` and `owner` and has not expired at `now`.
    #[must_use]
    pub fn open(&self, kind: &str, owner: &str, now: Timestamp, token: &str) -> Option<Vec<u8>> {
        self.open_long(kind, owner, now, token, MAX_TOKEN)
    }

    /// The same of a token that may have `most` bytes.
    #[must_use]
    pub fn open_long(
        &self,
        kind: &str,
        owner: &str,
        now: Timestamp,
        token: &str,
        most: usize,
    ) -> Option<Vec<u8>> {
        if token.len() > most {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let body = bytes.len().checked_sub(MAC)?;
        let (signed, mac) = bytes.split_at_checked(body)?;
        self.digest(kind, owner, signed).verify_slice(mac).ok()?;
        let (head, _) = signed.split_at_checked(HEAD)?;
        let (version, expires) = head.split_first()?;
        if *version != VERSION || u64::from_be_bytes(expires.try_into().ok()?) <= now.0 {
            return None;
        }
        bytes.truncate(body);
        bytes.drain(..HEAD);
        Some(bytes)
    }

    fn digest(&self, kind: &str, owner: &str, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in [kind.as_bytes(), b"\0", owner.as_bytes(), b"\0", signed] {
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000);
    const LATER: Timestamp = Timestamp(2_000);

    #[test]
    fn a_token_opens_only_for_whom_and_what_it_was_sealed() {
        let sealer = Sealer::new(b"key");
        let token = sealer.seal("session", "alice", LATER, b"facts");
        assert_eq!(sealer.open("session", "alice", NOW, &token).as_deref(), Some(&b"facts"[..]));
        assert_eq!(sealer.open("session", "bob", NOW, &token), None, "foreign");
        assert_eq!(sealer.open("cursor", "alice", NOW, &token), None, "other kind");
        assert_eq!(sealer.open("session", "alice", LATER, &token), None, "expired");
        assert_eq!(Sealer::new(b"other").open("session", "alice", NOW, &token), None, "other key");
        assert_eq!(sealer.open("session", "alice", NOW, ""), None, "empty");
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_opens(payload in prop::collection::vec(any::<u8>(), 0..200), owner in "[a-z]{0,8}") {
            let sealer = Sealer::new(b"key");
            let token = sealer.seal("k", &owner, LATER, &payload);
            prop_assert_eq!(sealer.open("k", &owner, NOW, &token), Some(payload));
        }

        #[test]
        fn no_changed_or_truncated_token_opens(payload in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), flip in 1u8..=255) {
            let sealer = Sealer::new(b"key");
            let token = sealer.seal("k", "o", LATER, &payload);
            let raw = URL_SAFE_NO_PAD.decode(&token).unwrap();
            let mut changed = raw.clone();
            changed[at.index(raw.len())] ^= flip;
            prop_assert_eq!(sealer.open("k", "o", NOW, &URL_SAFE_NO_PAD.encode(&changed)), None);
            let cut = &raw[..at.index(raw.len())];
            prop_assert_eq!(sealer.open("k", "o", NOW, &URL_SAFE_NO_PAD.encode(cut)), None);
        }

        #[test]
        fn no_input_panics(token in "\\PC{0,200}") {
            prop_assert_eq!(Sealer::new(b"key").open("k", "o", NOW, &token), None);
        }
    }
}
