//! Who the caller is. Keys are kept as SHA-256 hashes and compared in constant time.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::Plan;
use crate::config::plan::Caller;
use crate::fault::{Fault, Kind};
use crate::platform::Abilities;

/// The longest key that is looked at.
const MAX_KEY: usize = 512;

/// Finds out who sends `headers`: by the key in `Authorization: Bearer` or `x-api-key`.
///
/// # Errors
/// [`Kind::Unauthorized`] without a key or with one that is unknown; [`Kind::NotConfigured`] where there are no
/// keys at all on a host that others can reach.
pub fn admit(plan: &Plan, headers: &HeaderMap, abilities: Abilities) -> Result<Arc<Caller>, Fault> {
    if plan.keys.is_empty() {
        return if abilities.keyless { Ok(anonymous(abilities.loopback_only)) } else { Err(keyless()) };
    }
    let Some(key) = presented(headers) else {
        let message =
            "an API key is required: send it as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"";
        return Err(Fault::new(Kind::Unauthorized, message));
    };
    let digest: [u8; 32] = Sha256::digest(key).into();
    // Every key is compared, so that the time tells neither which one fits nor whether any does.
    let mut found = None;
    for known in &plan.keys {
        if bool::from(known.digest.ct_eq(&digest)) {
            found = Some(&known.caller);
        }
    }
    found.cloned().ok_or_else(|| Fault::new(Kind::Unauthorized, "the API key is not known here"))
}

/// The key that a request carries.
pub fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let key = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii()))?;
    (!key.is_empty() && key.len() <= MAX_KEY).then_some(key)
}

/// Whoever calls a gateway without keys. One that only its own machine reaches is called by the person at it, who
/// may change it; elsewhere it may be anyone.
fn anonymous(admin: bool) -> Arc<Caller> {
    Arc::new(Caller::anyone(admin))
}

fn keyless() -> Fault {
    let message = "no keys are configured, and this gateway can be reached by others: make one with \
                   \"causeway keys new\", put its hash under keys in the configuration, and push it";
    Fault::new(Kind::NotConfigured, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Key, Limits};
    use http::HeaderValue;

    fn plan(keys: &[(&str, &str)]) -> Plan {
        let keys = keys.iter().map(|(key, name)| Key {
            digest: Sha256::digest(key).into(),
            caller: Arc::new(Caller { name: (*name).to_owned(), ..(*anonymous(true)).clone() }),
        });
        Plan {
            digest: String::new(),
            servers: vec![],
            skipped: vec![],
            keys: keys.collect(),
            origins: vec![],
            limits: Limits::default(),
            lenient: false,
            ..Plan::empty()
        }
    }

    fn check(
        keys: &[(&str, &str)],
        headers: &[(&'static str, &'static str)],
        loopback: bool,
        expect: Result<&str, Kind>,
    ) {
        let map = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        let abilities = Abilities {
            host: "test",
            processes: false,
            loopback_only: loopback,
            keyless: loopback,
            config_file: false,
            mailboxes: true,
            links: crate::platform::Links::No,
        };
        let got =
            admit(&plan(keys), &map, abilities).map(|caller| caller.name.clone()).map_err(|fault| fault.kind);
        assert_eq!(got, expect.map(str::to_owned), "{headers:?}");
    }

    #[test]
    fn callers_are_known_by_their_keys() {
        let keys = &[("k1", "alice"), ("k2", "bob")];
        check(keys, &[("authorization", "Bearer k2")], false, Ok("bob"));
        check(keys, &[("authorization", "bearer  k1 ")], false, Ok("alice"));
        check(keys, &[("x-api-key", "k1")], false, Ok("alice"));
        check(keys, &[("x-api-key", "k3")], false, Err(Kind::Unauthorized));
        check(keys, &[("authorization", "Basic k1")], false, Err(Kind::Unauthorized));
        check(keys, &[("authorization", "Bearer ")], false, Err(Kind::Unauthorized));
        check(keys, &[], true, Err(Kind::Unauthorized));
        check(&[], &[], true, Ok(""));
        check(&[], &[("x-api-key", "k1")], false, Err(Kind::NotConfigured));
    }
}
