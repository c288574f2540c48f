//! Sessions with a program of an older revision: who shares a process, and what each of them hears.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use causeway::config::plan::Processes;
use causeway::mcp::revision::Revision;
use causeway::mcp::upstream::{IMPLEMENTATION, error_of};
use causeway::platform::SeamError;
use causeway::wire::jsonrpc::{Message, string};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::era::IN_DOUBT;
use super::{Opened, Program, Shared};
use crate::programs::process::{Process, Use};
use crate::programs::session::{Place, Session, level};
use crate::programs::shared::{Met, Slot};
use crate::programs::table::{Params, line, replaced};

/// Sessions that share processes; beyond, the one that was not used for longest is forgotten.
const SESSIONS: usize = 10_000;
const INITIALIZED: &[u8] = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";

impl Program {
    /// Introduces a client.
    pub(in crate::programs) async fn open(
        self: &Arc<Self>,
        id: &RawValue,
        params: Option<&RawValue>,
    ) -> Result<Opened, SeamError> {
        let read = Params::of(params);
        let shares = match self.spec.processes {
            Processes::Auto => !can_be_asked(read.capabilities),
            Processes::Shared | Processes::Pool(_) => true,
            Processes::Session => false,
        };
        if !shares {
            let params = params.map_or("{}", RawValue::get);
            let params = String::from_utf8_lossy(line(params.as_bytes()).trim_ascii_end()).into_owned();
            let (program, id) = (self.clone(), id.to_owned());
            return self.at_home(async move { program.open_own(&id, &params).await }).await;
        }
        let wanted = read.protocol_version.and_then(string).and_then(|text| Revision::parse(&text));
        let slot = self.roomiest();
        let met = match self.shared(&slot).await? {
            Shared::Ready(_, met) => met,
            Shared::Refused(answer) => return Ok(Opened::Refused(named(&answer, id))),
        };
        let answer = met.for_client(id, wanted);
        let session = Session::new(token(), Place::Shared(slot));
        self.admit(&session);
        Ok(Opened::Session(session, answer))
    }

    async fn open_own(self: Arc<Self>, id: &RawValue, params: &str) -> Result<Opened, SeamError> {
        let (process, answer) = self.introduced(params).await?;
        let named = named(&answer, id);
        if error_of(&answer).is_some() {
            self.turned_down(&process);
            return Ok(Opened::Refused(named));
        }
        let session = Session::new(token(), Place::Own(process.clone()));
        process.set_use(Use::Session(Arc::downgrade(&session)));
        self.admit(&session);
        Ok(Opened::Session(session, named))
    }

    /// A process has refused to be introduced to: unless it has turned out to be a modern one, it is of no use.
    fn turned_down(&self, process: &Arc<Process>) {
        if !matches!(process.serves(), Use::Modern) {
            self.state().era = None;
            process.stop("it refused initialize");
        }
    }

    /// Takes a session in.
    fn admit(&self, session: &Arc<Session>) {
        let mut state = self.state();
        if state.sessions.len() >= SESSIONS {
            let oldest = state.sessions.values().min_by_key(|session| session.used());
            if let Some(id) = oldest.map(|session| session.id.clone()) {
                state.sessions.remove(&id);
            }
        }
        state.sessions.insert(session.id.clone(), session.clone());
    }

    /// The shared place with the fewest sessions.
    pub(super) fn roomiest(&self) -> Arc<Slot> {
        let mut state = self.state();
        while state.slots.len() < self.width() {
            let slot = Slot::new(state.slots.len());
            state.slots.push(slot);
        }
        let mut counts = vec![0_usize; state.slots.len()];
        for session in state.sessions.values() {
            if let Place::Shared(slot) = &session.place
                && let Some(count) = counts.get_mut(slot.index)
            {
                *count += 1;
            }
        }
        let roomiest = state.slots.iter().min_by_key(|slot| counts.get(slot.index).copied().unwrap_or(0));
        roomiest.cloned().unwrap_or_else(|| Slot::new(0))
    }

    /// The process of a shared place: the one there is, or a new one that knows what the one before was told.
    pub(in crate::programs) async fn shared(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Shared, SeamError> {
        if let Some((process, met)) = slot.ready() {
            return Ok(Shared::Ready(process, met));
        }
        let (program, slot) = (self.clone(), slot.clone());
        self.at_home(async move {
            let _turn = program.turn.lock().await;
            if let Some((process, met)) = slot.ready() {
                return Ok(Shared::Ready(process, met));
            }
            let params = format!(
                "{{\"protocolVersion\":\"{}\",\"capabilities\":{{}},\"clientInfo\":{IMPLEMENTATION}}}",
                Revision::LEGACY.as_str()
            );
            let (process, answer) = program.introduced(&params).await?;
            let result = match Message::decode(&answer) {
                Ok(Message::Response { outcome: Ok(result), .. }) => result,
                _ => {
                    program.turned_down(&process);
                    // Sessions with what it was before are over.
                    for session in program.sessions_of(&slot) {
                        program.close_session(&session.id);
                    }
                    return Ok(Shared::Refused(answer));
                }
            };
            let chosen = Params::of(Some(result)).protocol_version.and_then(string);
            let revision = chosen.and_then(|text| Revision::parse(&text));
            let met = Met { result: Bytes::copy_from_slice(result.get().as_bytes()), revision };
            process.set_use(Use::Shared(Arc::downgrade(&slot)));
            process.send(Bytes::from_static(INITIALIZED))?;
            slot.fill(&process, met.clone());
            program.remind(&slot, &process);
            Ok(Shared::Ready(process, met))
        })
        .await
    }

    /// Tells a new shared process what the one before knew.
    fn remind(self: &Arc<Self>, slot: &Arc<Slot>, process: &Arc<Process>) {
        let sessions = self.sessions_of(slot);
        let mut uris: Vec<String> = sessions.iter().flat_map(|session| session.subscriptions()).collect();
        uris.sort();
        uris.dedup();
        let least = sessions.iter().filter_map(|session| session.level()).min();
        slot.set_level(least);
        let process = process.clone();
        if least.is_none() && uris.is_empty() {
            return;
        }
        tokio::spawn(async move {
            if let Some(least) = least {
                let params = format!("{{\"level\":{}}}", level(least));
                process.ask("logging/setLevel", &params, IN_DOUBT).await;
            }
            for uri in uris {
                process.ask("resources/subscribe", &format!("{{\"uri\":{uri}}}"), IN_DOUBT).await;
            }
        });
    }

    /// The sessions that share the process of `slot`.
    fn sessions_of(&self, slot: &Arc<Slot>) -> Vec<Arc<Session>> {
        let here = |session: &&Arc<Session>| match &session.place {
            Place::Shared(own) => Arc::ptr_eq(own, slot),
            Place::Own(_) => false,
        };
        self.state().sessions.values().filter(here).cloned().collect()
    }

    /// Forgets streams of the shared process that nobody has come back to. Says whether a client of it reads its
    /// session's.
    pub(in crate::programs) fn sweep(&self, slot: &Arc<Slot>) -> bool {
        let sessions = self.sessions_of(slot);
        sessions.iter().for_each(|session| session.sweep());
        sessions.iter().any(|session| session.is_read())
    }

    /// Whether another session of the place is subscribed to `uri`.
    pub(in crate::programs) fn is_wanted(&self, slot: &Arc<Slot>, uri: &str) -> bool {
        self.sessions_of(slot).iter().any(|session| session.is_subscribed(uri))
    }

    /// The least urgent level that a session of the place wants to hear.
    pub(in crate::programs) fn least_level(&self, slot: &Arc<Slot>) -> Option<usize> {
        self.sessions_of(slot).iter().filter_map(|session| session.level()).min()
    }

    /// What a shared process says to no call in particular. Only news are for everybody: what else it says may be
    /// about one client's affairs, and goes to that client alone, or to nobody.
    pub(in crate::programs) fn told_all(
        &self,
        slot: &Arc<Slot>,
        calling: Vec<Arc<Session>>,
        method: &str,
        read: &Params<'_>,
        message: &Bytes,
    ) -> bool {
        let sessions = self.sessions_of(slot);
        if method.ends_with("/list_changed") {
            sessions.iter().for_each(|session| _ = session.say(message.clone(), None));
            return true;
        }
        if method == "notifications/resources/updated" {
            let uri = read.uri.map_or("", RawValue::get);
            let subscribed = sessions.iter().filter(|session| session.is_subscribed(uri));
            subscribed.for_each(|session| _ = session.say(message.clone(), None));
            return true;
        }
        let mut possible = if calling.is_empty() { sessions } else { calling };
        possible.dedup_by(|a, b| Arc::ptr_eq(a, b));
        match possible.as_slice() {
            [only] => !only.hears(read.level) || only.say(message.clone(), None),
            _ => false,
        }
    }

    /// The session called `id`.
    pub(in crate::programs) fn session(&self, id: &str) -> Option<Arc<Session>> {
        let session = self.state().sessions.get(id).cloned()?;
        if let Place::Own(process) = &session.place
            && !process.is_alive()
        {
            return None;
        }
        session.touch();
        Some(session)
    }

    /// Ends the session called `id`; says whether there was one.
    pub(in crate::programs) fn close_session(&self, id: &str) -> bool {
        let Some(session) = self.state().sessions.remove(id) else { return false };
        session.close();
        match &session.place {
            Place::Own(process) => process.stop("its session has ended"),
            Place::Shared(slot) => {
                if let Some(process) = slot.process() {
                    process.end_calls_of(&session);
                    let left = session.subscriptions().into_iter().filter(|uri| !self.is_wanted(slot, uri));
                    for uri in left.collect::<Vec<_>>() {
                        let (process, params) = (process.clone(), format!("{{\"uri\":{uri}}}"));
                        let ask = async move {
                            process.ask("resources/unsubscribe", &params, IN_DOUBT).await;
                        };
                        if let Some(home) =
                            self.house.upgrade().and_then(|house| house.runtime.get().cloned())
                        {
                            home.spawn(ask);
                        }
                    }
                }
            }
        }
        true
    }
}

impl Met {
    /// The answer to a client's `initialize`, in the revision that it wants if that is an older one.
    fn for_client(&self, id: &RawValue, wanted: Option<Revision>) -> Bytes {
        let mut result = self.result.clone();
        if let Some(wanted) = wanted.filter(|wanted| self.revision.is_some_and(|own| *wanted < own))
            && let Ok(raw) = serde_json::from_slice::<&RawValue>(&self.result)
            && let Some(place) = Params::of(Some(raw)).protocol_version
        {
            result = replaced(&self.result, [(place, format!("\"{}\"", wanted.as_str()).into_bytes())]);
        }
        [b"{\"jsonrpc\":\"2.0\",\"id\":", id.get().as_bytes(), b",\"result\":", &result, b"}"].concat().into()
    }
}

/// `answer` as one to the request `id`.
fn named(answer: &Bytes, id: &RawValue) -> Bytes {
    match Message::decode(answer) {
        Ok(Message::Response { id: Some(place), .. }) => replaced(answer, [(place, id.get().into())]),
        _ => answer.clone(),
    }
}

/// Whether a client with these capabilities can be asked something.
fn can_be_asked(capabilities: Option<&RawValue>) -> bool {
    #[derive(Default, Deserialize)]
    struct Able<'a> {
        #[serde(borrow, default)]
        sampling: Option<&'a RawValue>,
        #[serde(borrow, default)]
        elicitation: Option<&'a RawValue>,
        #[serde(borrow, default)]
        roots: Option<&'a RawValue>,
    }
    let able: Able<'_> =
        capabilities.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    able.sampling.is_some() || able.elicitation.is_some() || able.roots.is_some()
}

/// A session id that nobody guesses.
fn token() -> String {
    let mut bytes = [0_u8; 16];
    // Without randomness ids would meet: better none at all.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = (std::process::id() as u128 ^ (Instant::now().elapsed().as_nanos())).to_le_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_can_be_asked_are_known_by_what_they_declare() {
        let of = |text: &str| can_be_asked(Some(&RawValue::from_string(text.to_owned()).unwrap()));
        assert!(
            of(r#"{"elicitation":{}}"#)
                && of(r#"{"roots":{"listChanged":true}}"#)
                && of(r#"{"sampling":{}}"#)
        );
        assert!(!of("{}") && !of(r#"{"extensions":{"x":{}}}"#) && !can_be_asked(None));
    }

    #[test]
    fn shared_processes_speak_an_older_revision_to_those_who_ask_for_it() {
        let met = Met {
            result: Bytes::from_static(br#"{"protocolVersion":"2025-11-25","x":1}"#),
            revision: Some(Revision::LEGACY),
        };
        let id = RawValue::from_string("\"a\"".to_owned()).unwrap();
        let of = |wanted| String::from_utf8(met.for_client(&id, wanted).to_vec()).unwrap();
        assert_eq!(
            of(Some(Revision::V2025_06_18)),
            r#"{"jsonrpc":"2.0","id":"a","result":{"protocolVersion":"2025-06-18","x":1}}"#
        );
        assert_eq!(of(None), r#"{"jsonrpc":"2.0","id":"a","result":{"protocolVersion":"2025-11-25","x":1}}"#);
    }
}
