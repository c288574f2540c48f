//! Contexts that are kept: one consistent record for each user, written by compare-and-swap.
//!
//! Beside the records stand lists of whose there are, in a few parts so that no single one grows too large or is written by
//! all. Invariant: a record that lives is listed. So a record is written first and its list after it, always, even if
//! nothing in that changes; and a name is only taken off a list whose version is from before the look at the record.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::types::{Context, Doc, Docs, Side, Turn};
use super::{read, schema};
use crate::config::plan::{Caller, Contexts};
use crate::fault::{Fault, Kind};
use crate::llm::Refusal;
use crate::platform::{Clock as _, Held, Platform, SeamError, StateStore as _, Swap, Timestamp, Version};

/// In how many parts the list is kept.
const PARTS: u8 = 16;
/// How large a part may grow.
const LARGEST_PART: usize = 768 * 1024;
/// How often a write is tried that others come in between of.
const TRIES: usize = 16;
/// How many names one page has, unless told otherwise, and how many at most.
const PAGE: usize = 100;
const MOST: usize = 1000;
/// How many records of one page are looked at because they may be gone by now.
const LOOKS: usize = 32;
/// How long a part of the list is kept: longer than anything on it.
const LISTED: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// What is asked to be kept of a user.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(default)]
pub struct Keep {
    /// What is known of the user.
    pub context: Context,
    /// For how many seconds it is kept after the last write.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 315_360_000)))]
    pub ttl: Option<u64>,
}

/// What is kept of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Kept {
    /// The user, as the caller names them.
    pub user_id: String,
    /// What is known of them.
    pub context: Context,
    /// Since when, in milliseconds since 1970.
    pub created_at: u64,
    /// When it was written last.
    pub updated_at: u64,
    /// When it is forgotten, unless it is written again.
    pub expires_at: u64,
    /// For how many seconds it is kept after a write.
    pub ttl: u64,
}

/// Whose contexts there are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Listed {
    /// The users.
    pub user_ids: Vec<String>,
    /// What to ask for the next page with. Left out on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The contexts that one caller sees.
#[derive(Debug)]
pub struct Shelf<'a, P> {
    platform: &'a P,
    rules: &'a Contexts,
    scope: String,
}

/// A record with its version.
pub(super) type Found = Option<(Kept, Version)>;

impl<'a, P: Platform> Shelf<'a, P> {
    /// Those that `caller` sees, kept by `rules`.
    pub fn new(platform: &'a P, rules: &'a Contexts, caller: &Caller) -> Self {
        // What keys share by a name of its own is none of a key that happens to be called so.
        let scope = match &caller.contexts {
            Some(shared) => format!("shared/{shared}"),
            None => format!("key/{}", caller.name),
        };
        Self { platform, rules, scope }
    }

    fn now(&self) -> Timestamp {
        self.platform.clock().now()
    }

    fn digest(&self, user: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(&self.scope);
        hash.update([0]);
        hash.update(user);
        hash.finalize().into()
    }

    fn key(&self, user: &str) -> String {
        format!("context/{}", URL_SAFE_NO_PAD.encode(self.digest(user)))
    }

    fn part_key(&self, part: u8) -> String {
        format!("contexts/{part}/{}", URL_SAFE_NO_PAD.encode(self.digest("")))
    }

    fn part_of(&self, user: &str) -> u8 {
        self.digest(user)[0] % PARTS
    }

    /// What is kept of `user`.
    pub(super) async fn load(&self, user: &str) -> Result<Found, Refusal> {
        let Some(Held { version, value }) =
            self.platform.store().load(&self.key(user)).await.map_err(host)?
        else {
            return Ok(None);
        };
        let kept = serde_json::from_slice(&value);
        let kept = kept
            .map_err(|_| Refusal::new(Kind::Host, "the state store: what is kept of the user is damaged"))?;
        Ok(Some((kept, version)))
    }

    /// Writes `kept` over the version that was seen; `None` if somebody wrote in between.
    async fn write(&self, kept: &Kept, seen: Option<Version>) -> Result<Option<Version>, Refusal> {
        let value = serde_json::to_vec(kept).unwrap_or_default();
        if value.len() > self.rules.max_size {
            let limit = self.rules.max_size;
            let what = format!(
                "the context would be larger than {limit} bytes (llm.contexts.max_size): take something out"
            );
            return Err(Refusal::new(Kind::BodyTooLarge, what));
        }
        if seen.is_none() {
            // First: what is not on the list would not be counted, and a name too many on it goes by itself.
            self.list(&kept.user_id, kept.expires_at).await?;
        }
        let ttl = Duration::from_secs(kept.ttl);
        let written = self.platform.store().swap(&self.key(&kept.user_id), seen, value.into(), ttl).await;
        Ok(match written.map_err(host)? {
            Swap::Stale => None,
            Swap::Done(version) => Some(version),
        })
    }

    /// A record of `user` that says `context`.
    fn record(&self, user: &str, context: Context, ttl: Option<u64>, old: Option<&Kept>) -> Kept {
        let now = self.now();
        let ttl = ttl.or(old.map(|old| old.ttl)).unwrap_or(self.rules.ttl.as_secs());
        let mut kept = Kept {
            user_id: user.to_owned(),
            context,
            created_at: old.map_or(now.0, |old| old.created_at),
            updated_at: now.0,
            expires_at: now.after(Duration::from_secs(ttl)).0,
            ttl,
        };
        if let Some(memory) = &mut kept.context.memory {
            let extra = memory.turns.len().saturating_sub(self.rules.turns);
            memory.turns.drain(..extra);
        }
        kept
    }

    /// Replaces what is kept of `user` by `keep`, or adds that to it (`more`), if `may` finds nothing wrong with what there is.
    async fn change(
        &self,
        user: &str,
        keep: &Keep,
        more: bool,
        may: impl Fn(Option<Version>) -> Result<(), Refusal>,
    ) -> Result<(Kept, Version, bool), Refusal> {
        for _ in 0..TRIES {
            let (old, seen) = self.load(user).await?.unzip();
            may(seen)?;
            let mut context =
                old.as_ref().filter(|_| more).map(|old| old.context.clone()).unwrap_or_default();
            add(&mut context, &keep.context);
            if more {
                // Together they may be more than each.
                let mut whole = serde_json::json!({ "context": context });
                schema::check("Keep", &mut whole)?;
            }
            let kept = self.record(user, context, keep.ttl, old.as_ref());
            if let Some(version) = self.write(&kept, seen).await? {
                return Ok((kept, version, old.is_none()));
            }
        }
        Err(Refusal::new(Kind::TooMany, "too many write this context at the same time: try again"))
    }

    /// Adds a question and its answer, which the request `id` brought, to the memory of `user`, of whom `found` was known. Says
    /// whether they are there.
    pub(super) async fn remember(
        &self,
        user: &str,
        found: &Found,
        id: &str,
        question: &str,
        answer: &str,
    ) -> bool {
        let mut found = found.clone();
        let existed = found.is_some();
        for attempt in 0..TRIES {
            if attempt > 0 {
                let Ok(newer) = self.load(user).await else { return false };
                found = newer;
            }
            let (old, seen) = found.clone().unzip();
            // Whoever had it forgotten in the meantime does not want it back.
            if existed && old.is_none() {
                return false;
            }
            let mut context = old.as_ref().map(|old| old.context.clone()).unwrap_or_default();
            let memory = context.memory.get_or_insert_default();
            if memory.turns.iter().any(|turn| turn.id.as_deref() == Some(id)) {
                return true;
            }
            let at = Some(self.now().0);
            for (role, text) in [(Side::User, question), (Side::Assistant, answer)] {
                memory.turns.push(Turn { role, text: text.to_owned(), at, id: Some(id.to_owned()) });
            }
            let mut kept = self.record(user, context, None, old.as_ref());
            let written = loop {
                match self.write(&kept, seen).await {
                    Ok(written) => break written,
                    // The oldest make room.
                    Err(refusal) if refusal.fault.kind == Kind::BodyTooLarge => {
                        let Some(memory) =
                            kept.context.memory.as_mut().filter(|memory| memory.turns.len() > 2)
                        else {
                            return false;
                        };
                        let half = (memory.turns.len() / 2).next_multiple_of(2).min(memory.turns.len() - 2);
                        memory.turns.drain(..half.max(1));
                    }
                    Err(_) => return false,
                }
            };
            if written.is_some() {
                return true;
            }
        }
        false
    }

    /// A part of the list: whose there are, and until when at least.
    async fn part(&self, part: u8) -> Result<(BTreeMap<String, u64>, Option<Version>), Refusal> {
        let held = self.platform.store().load(&self.part_key(part)).await.map_err(host)?;
        let names = held.as_ref().and_then(|held| serde_json::from_slice(&held.value).ok());
        Ok((names.unwrap_or_default(), held.map(|held| held.version)))
    }

    async fn put_part(
        &self,
        part: u8,
        names: &BTreeMap<String, u64>,
        seen: Option<Version>,
    ) -> Result<Swap, Refusal> {
        let value: Bytes = serde_json::to_vec(names).unwrap_or_default().into();
        self.platform.store().swap(&self.part_key(part), seen, value, LISTED).await.map_err(host)
    }

    /// Puts `user` on the list.
    async fn list(&self, user: &str, until: u64) -> Result<(), Refusal> {
        let part = self.part_of(user);
        for _ in 0..TRIES {
            let (mut names, seen) = self.part(part).await?;
            names.insert(user.to_owned(), until);
            if names.keys().map(|name| name.len() + 20).sum::<usize>() > LARGEST_PART {
                return Err(Refusal::new(
                    Kind::TooMany,
                    "no more contexts can be kept here: delete those of users who are gone",
                ));
            }
            if matches!(self.put_part(part, &names, seen).await?, Swap::Done(_)) {
                return Ok(());
            }
        }
        Err(Refusal::new(Kind::TooMany, "too many contexts are made at the same time: try again"))
    }

    /// Forgets `user`, if `may` finds nothing wrong with what there is. Says whether there was anything.
    async fn forget(
        &self,
        user: &str,
        may: impl Fn(Option<Version>) -> Result<(), Refusal>,
    ) -> Result<bool, Refusal> {
        let mut forgotten = false;
        for _ in 0..TRIES {
            let held = self.platform.store().load(&self.key(user)).await.map_err(host)?;
            let version = held.map(|held| held.version);
            may(version)?;
            let Some(version) = version else { break };
            let key = self.key(user);
            let gone = self.platform.store().swap(&key, Some(version), Bytes::new(), Duration::ZERO);
            if matches!(gone.await.map_err(host)?, Swap::Done(_)) {
                forgotten = true;
                break;
            }
        }
        let part = self.part_of(user);
        for _ in 0..TRIES {
            let (mut names, seen) = self.part(part).await?;
            if !names.contains_key(user) || self.lives(user).await?.is_some() {
                break;
            }
            names.remove(user);
            if matches!(self.put_part(part, &names, seen).await?, Swap::Done(_)) {
                break;
            }
        }
        Ok(forgotten)
    }

    /// Until when there is something kept of `user`; `None` if there is nothing.
    async fn lives(&self, user: &str) -> Result<Option<u64>, Refusal> {
        Ok(self.load(user).await?.map(|(kept, _)| kept.expires_at))
    }

    /// Whose contexts there are, behind `cursor`.
    async fn listed(&self, cursor: Option<&str>, limit: usize) -> Result<Listed, Refusal> {
        let (first, mut after) = match cursor {
            None => (0, String::new()),
            Some(cursor) => {
                let place = cursor
                    .split_once('.')
                    .and_then(|(part, name)| Some((part.parse().ok()?, name.to_owned())));
                place.ok_or_else(|| Refusal::wrong("cursor", "is none that this gateway gave"))?
            }
        };
        let (now, mut looks) = (self.now().0, 0);
        let mut listed = Listed { user_ids: Vec::new(), next_cursor: None };
        for part in first..PARTS {
            let (names, seen) = self.part(part).await?;
            let mut newer = names.clone();
            for (name, until) in names.range::<str, _>((Bound::Excluded(after.as_str()), Bound::Unbounded)) {
                if listed.user_ids.len() >= limit || looks >= LOOKS {
                    listed.next_cursor = Some(format!("{part}.{after}"));
                    break;
                }
                if *until <= now {
                    looks += 1;
                    match self.lives(name).await? {
                        Some(until) => _ = newer.insert(name.clone(), until),
                        None => _ = newer.remove(name),
                    }
                }
                if newer.contains_key(name) {
                    listed.user_ids.push(name.clone());
                }
                name.clone_into(&mut after);
            }
            if newer != names {
                // Whoever comes in between tidies up next time.
                self.put_part(part, &newer, seen).await?;
            }
            if listed.next_cursor.is_some() {
                break;
            }
            after.clear();
        }
        Ok(listed)
    }

    /// Answers a request to `/context`: whose there are.
    ///
    /// # Errors
    /// When it asks for no page that there can be.
    pub async fn names(&self, cursor: Option<String>, limit: Option<String>) -> Result<Told, Refusal> {
        let limit = match limit {
            None => PAGE,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                limit.ok_or_else(|| Refusal::wrong("limit", "must be a whole number from 1 to 1000"))?
            }
        };
        let listed = self.listed(cursor.as_deref(), limit).await?;
        Ok((StatusCode::OK, HeaderMap::new(), serde_json::to_vec(&listed).unwrap_or_default().into()))
    }

    /// Answers a request to `/context/{user_id}`.
    ///
    /// # Errors
    /// When it asks for what is not there, is wrong, or no longer true.
    pub async fn answer(
        &self,
        user: &str,
        method: &Method,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Told, Refusal> {
        checked(user, "user_id")?;
        let may = |seen: Option<Version>| may(headers, seen);
        let missing = || Refusal::new(Kind::NotFound, "there is nothing kept of this user");
        match *method {
            Method::PUT | Method::POST => {
                let keep: Keep = read("Keep", body)?;
                let (kept, version, new) = self.change(user, &keep, method == Method::POST, may).await?;
                Ok(told(if new { StatusCode::CREATED } else { StatusCode::OK }, &kept, version))
            }
            Method::DELETE => {
                if !self.forget(user, may).await? {
                    return Err(missing());
                }
                Ok((StatusCode::NO_CONTENT, HeaderMap::new(), Bytes::new()))
            }
            _ => {
                let (kept, version) = self.load(user).await?.ok_or_else(missing)?;
                if fits(headers, &IF_NONE_MATCH, version) == Some(true) {
                    let (status, headers, _) = told(StatusCode::NOT_MODIFIED, &kept, version);
                    return Ok((status, headers, Bytes::new()));
                }
                may(Some(version))?;
                Ok(told(StatusCode::OK, &kept, version))
            }
        }
    }
}

/// The status, headers and body of an answer.
type Told = (StatusCode, HeaderMap, Bytes);

/// Checks a user's name, which is at `place`.
pub(super) fn checked(user: &str, place: &str) -> Result<(), Refusal> {
    if user.is_empty() || user.chars().count() > 128 || user.chars().any(char::is_control) {
        return Err(Refusal::wrong(place, "must have 1 to 128 characters, none of them a control character"));
    }
    Ok(())
}

fn told(status: StatusCode, kept: &Kept, version: Version) -> Told {
    let tag = HeaderValue::from_str(&tag(version)).ok();
    let headers = tag.map(|tag| (ETAG, tag)).into_iter().collect();
    (status, headers, serde_json::to_vec(kept).unwrap_or_default().into())
}

fn tag(version: Version) -> String {
    format!("\"{:x}\"", version.0)
}

/// Whether the conditions of a request hold (RFC 9110, "Conditional Requests").
fn may(headers: &HeaderMap, seen: Option<Version>) -> Result<(), Refusal> {
    let holds = |name: &HeaderName| match seen {
        Some(version) => fits(headers, name, version),
        None => headers.contains_key(name).then_some(false),
    };
    let failed = |what: &str| Err(Refusal::new(Kind::PreconditionFailed, what));
    match (holds(&IF_MATCH), holds(&IF_NONE_MATCH)) {
        (Some(false), _) => failed("If-Match: the context is another by now; read it again"),
        (_, Some(true)) => failed("If-None-Match: there is such a context already"),
        _ => Ok(()),
    }
}

/// Whether the header called `name` names this version; `None` without such a header.
fn fits(headers: &HeaderMap, name: &HeaderName, version: Version) -> Option<bool> {
    let text = headers.get(name)?.to_str().unwrap_or_default();
    let own = tag(version);
    Some(text.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own))
}

fn host(error: SeamError) -> Refusal {
    Fault::new(Kind::Host, format!("the state store: {error}")).into()
}

/// Adds `more` to what is known: what has one place is replaced, what is a list grows, and nothing is in it twice.
pub(super) fn add(known: &mut Context, more: &Context) {
    fn take<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
        if new.is_some() {
            old.clone_from(new);
        }
    }
    fn put<T: Clone>(list: &mut Vec<T>, new: &T, same: impl Fn(&T) -> bool) {
        match list.iter_mut().find(|old| same(old)) {
            Some(old) => old.clone_from(new),
            None => list.push(new.clone()),
        }
    }
    if let Some(more) = &more.identity {
        let known = known.identity.get_or_insert_default();
        take(&mut known.name, &more.name);
        take(&mut known.role, &more.role);
        take(&mut known.organization, &more.organization);
        take(&mut known.locale, &more.locale);
        take(&mut known.timezone, &more.timezone);
        known.attributes.extend(more.attributes.clone());
    }
    if let Some(more) = &more.memory {
        let known = known.memory.get_or_insert_default();
        take(&mut known.summary, &more.summary);
        more.facts.iter().for_each(|fact| put(&mut known.facts, fact, |old| old == fact));
        known.turns.extend(more.turns.iter().cloned());
    }
    if let Some(more) = &more.tools {
        let known = known.tools.get_or_insert_default();
        take(&mut known.choice, &more.choice);
        take(&mut known.parallel, &more.parallel);
        more.definitions
            .iter()
            .for_each(|tool| put(&mut known.definitions, tool, |old| old.name == tool.name));
    }
    if let Some(Docs(more)) = &more.docs {
        let Docs(known) = known.docs.get_or_insert_default();
        let same = |old: &Doc, new: &Doc| match (&old.uri, &new.uri) {
            (Some(old), Some(new)) => old == new,
            (None, None) => old.title.is_some() && old.title == new.title || old == new,
            _ => false,
        };
        more.iter().for_each(|doc| put(known, doc, |old| same(old, doc)));
    }
}
