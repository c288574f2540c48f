//! The sessions held with legacy servers on behalf of one client session, by server.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::UpstreamSession;

/// A few sessions, each with another server. There is one of these for each client session, and most hold one or none:
/// it has room for no more than it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams(Vec<(String, UpstreamSession)>);

impl Upstreams {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The session with the server called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&UpstreamSession> {
        self.iter().find(|(known, _)| *known == name).map(|(_, session)| session)
    }

    /// All, with the names of their servers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &UpstreamSession)> {
        self.0.iter().map(|(name, session)| (name.as_str(), session))
    }

    /// Notes a session with the server called `name`; one that is there already stays.
    pub fn keep(&mut self, name: &str, session: UpstreamSession) {
        if self.get(name).is_none() {
            self.0.reserve_exact(1);
            self.0.push((name.to_owned(), session));
        }
    }

    /// Forgets the session with the server called `name`.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
        self.0.shrink_to_fit();
    }
}

impl Serialize for Upstreams {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Upstreams {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Upstreams;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("sessions by server")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Upstreams, A::Error> {
                let mut all = Upstreams::default();
                while let Some((name, session)) = map.next_entry::<String, _>()? {
                    all.keep(&name, session);
                }
                Ok(all)
            }
        }
        input.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::revision::Revision;

    fn session(id: &str) -> UpstreamSession {
        UpstreamSession { id: Some(id.to_owned()), revision: Revision::LEGACY, endpoint: None, kept: false }
    }

    #[test]
    fn what_is_held_first_stays_and_is_written_as_an_object() {
        let mut all = Upstreams::default();
        all.keep("a", session("1"));
        all.keep("b", session("2"));
        all.keep("a", session("3"));
        let text = serde_json::to_string(&all).unwrap();
        assert!(text.starts_with("{\"a\":{\"id\":\"1\"") && text.contains("},\"b\":{"), "{text}");
        assert_eq!(serde_json::from_str::<Upstreams>(&text).unwrap(), all);
        all.remove("a");
        assert_eq!((all.get("a"), all.get("b")), (None, Some(&session("2"))));
        all.remove("b");
        assert!(all.is_empty());
    }
}
