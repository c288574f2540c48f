//! Callers' keys: making one, and the hash that a configuration stores in its place.
//!
//! A configuration **never** holds a key, only its SHA-256. A key has 256 random bits, so no slow hash is
//! needed. Comparing digests when a request comes is the business of whoever admits callers.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::platform::Entropy;

/// What every key begins with.
pub const PREFIX: &str = "cw_";

/// A key that was just made. Show it once and forget it.
pub struct NewKey(String);

impl NewKey {
    /// Makes a key: `cw_` and 32 random bytes in base64url.
    pub fn mint(entropy: &impl Entropy) -> Self {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The key itself, to be handed to the caller.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash to store.
    #[must_use]
    pub fn hash(&self) -> String {
        hash(&self.0)
    }
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewKey(…)")
    }
}

/// The SHA-256 of a key, to compare with [`Plan::keys`](super::Plan).
#[must_use]
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The hash of a key as a configuration stores it: `sha256:` and 64 hex digits.
///
/// ```
/// let hash = causeway::config::keys::hash("cw_example");
/// assert!(hash.starts_with("sha256:") && hash.len() == 71);
/// ```
#[must_use]
pub fn hash(key: &str) -> String {
    format!("sha256:{}", hex(&digest(key)))
}

/// Reads a stored hash, or says what is wrong with it. Never repeats it: it may be a key put in by mistake.
pub(super) fn parse_hash(text: &str) -> Result<[u8; 32], (&'static str, &'static str)> {
    const PLAIN: (&str, &str) =
        ("is not a hash, and a key must not be kept here", "store its hash: causeway keys hash");
    let digits = text.strip_prefix("sha256:").ok_or(PLAIN)?;
    let wrong = ("is not `sha256:` and 64 hex digits", "store what `causeway keys hash` prints");
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return Err(wrong);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong)?;
        if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong);
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong)?;
    }
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting;

    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
        }
    }

    #[test]
    fn a_key_is_cw_and_43_characters_and_shows_itself_only_when_asked() {
        let key = NewKey::mint(&Counting);
        assert_eq!(key.reveal(), "cw_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        assert_eq!(key.reveal().len(), 46);
        assert_eq!(format!("{key:?}"), "NewKey(…)");
    }

    #[test]
    fn a_hash_reads_back_as_the_digest() {
        let hash = hash("abc");
        assert_eq!(hash, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(parse_hash(&hash), Ok(digest("abc")));
        for broken in
            ["", "sha256:", "sha256:zz", &format!("sha256:{}", "+1".repeat(32)), "cw_x", &hash[..70]]
        {
            assert!(parse_hash(broken).is_err(), "{broken}");
        }
    }
}
