//! What the gateway answers itself: handshakes, discovery, and everything on the merged endpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::catalog::{ALL, Kind as ListKind, List};
use super::client::Client;
use super::extensions::{self, told};
use super::forward::{Call, Route};
use super::listen::flags;
use super::memory::{Profile, lock};
use super::revision::{Era, Revision};
use super::serve::{Answer, Inbound, Note, brief, text_of};
use super::unknown::unknown_name;
use super::upstream::IMPLEMENTATION;
use super::{Mcp, SERVER_META, apps, names, tasks};
use crate::config::glob::Glob;
use crate::config::plan::{Caller, Server};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, Program, Timestamp};
use crate::wire::jsonrpc::{self, Splice, quote};

/// The levels of RFC 5424 that `logging/setLevel` takes.
pub(super) const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
/// Merged instructions are cut here: they go into every model's context.
const INSTRUCTIONS: usize = 16 * 1024;
/// How long a client may keep what `server/discover` says of the merged endpoint, in milliseconds.
const DISCOVER_TTL: u64 = 60_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Initialize<'a> {
    #[serde(borrow)]
    protocol_version: Cow<'a, str>,
    #[serde(borrow, default)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default)]
    client_info: Option<&'a RawValue>,
}

impl<P: Platform> Mcp<P> {
    /// `initialize`: opens a session (2025-11-25 lifecycle, "Initialization").
    pub(super) async fn initialize_client(
        &self,
        inbound: &Inbound,
        call: &Call<'_>,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        let params: Initialize<'_> =
            call.params.and_then(|params| serde_json::from_str(params.get()).ok()).ok_or_else(|| {
                Fault::new(Kind::InvalidParams, "params.protocolVersion: a string is required")
            })?;
        // A version that we do not speak is answered with the newest that we do; the client then decides.
        let asked =
            Revision::parse(&params.protocol_version).filter(|revision| revision.era() == Era::Legacy);
        let revision = asked.unwrap_or(Revision::LEGACY);
        note.revision = Some(revision.as_str());
        let (info, capabilities) = (params.client_info, params.capabilities);
        let Some(server) = &inbound.target else {
            let result = self.merged_handshake(&inbound.caller, revision).await;
            let (token, _) = self.open_session(&inbound.caller, None, revision, info, capabilities).await?;
            self.keep_introduction(inbound, revision, info, capabilities).await?;
            return Ok(Answer::Opened(token, jsonrpc::result(call.id, &result)));
        };
        note.server = Some(server.name.clone());
        let profile = self.profile(server).await?;
        if profile.revision_for(Era::Legacy).era() == Era::Modern || !profile.sessions {
            let heard = (profile.modern.is_some() || profile.http_sse) && self.platform.abilities().mailboxes;
            let result = one_handshake(server, &profile, revision, heard);
            let opened =
                self.open_session(&inbound.caller, Some(server), revision, info, capabilities).await?;
            self.keep_introduction(inbound, revision, info, capabilities).await?;
            return Ok(Answer::Opened(opened.0, jsonrpc::result(call.id, &result)));
        }
        if server.session == Some(crate::config::plan::SessionMode::Shared) {
            let result = one_handshake(server, &profile, revision, self.platform.abilities().mailboxes);
            let opened =
                self.open_session(&inbound.caller, Some(server), revision, info, capabilities).await?;
            self.keep_introduction(inbound, revision, info, capabilities).await?;
            return Ok(Answer::Opened(opened.0, jsonrpc::result(call.id, &result)));
        }
        // Session to session: the server meets the client as it is, and the client the server.
        let empty = RawValue::from_string("{}".to_owned()).unwrap_or_default();
        let (upstream, result) = self
            .initialize(
                server,
                told(server, capabilities.unwrap_or(&empty)).get(),
                info.map_or(IMPLEMENTATION, RawValue::get),
                revision,
            )
            .await?;
        let agreed = upstream.revision;
        let (token, session) =
            self.open_session(&inbound.caller, Some(server), agreed, info, capabilities).await?;
        self.keep_upstream(server, &session, &upstream).await?;
        self.keep_introduction(inbound, agreed, info, capabilities).await?;
        Ok(Answer::Opened(token, jsonrpc::result(call.id, &result)))
    }

    /// What the merged endpoint is: capabilities, name and instructions of everything behind it.
    async fn merged_handshake(&self, caller: &Arc<Caller>, revision: Revision) -> Map<String, Value> {
        let profiles = self.profiles(caller).await;
        let mut result = Map::new();
        result.insert("protocolVersion".to_owned(), revision.as_str().into());
        result.insert(
            "capabilities".to_owned(),
            union(&profiles, revision, self.platform.abilities().mailboxes),
        );
        result.insert("serverInfo".to_owned(), serde_json::from_str(IMPLEMENTATION).unwrap_or_default());
        if let Some(instructions) = instructions(&profiles) {
            result.insert("instructions".to_owned(), instructions.into());
        }
        result
    }

    /// `server/discover` on the merged endpoint.
    async fn merged_discover(&self, call: &Call<'_>, caller: &Arc<Caller>) -> Bytes {
        let profiles = self.profiles(caller).await;
        let whole =
            profiles.len() == self.plan.servers.iter().filter(|s| caller.servers.admits(&s.name)).count();
        let capabilities = union(&profiles, Revision::MODERN, true);
        let instructions = instructions(&profiles);
        discovery(call, &capabilities, instructions.as_deref(), if whole { DISCOVER_TTL } else { 0 })
    }

    /// `server/discover` for a server that does not know it.
    pub(super) fn discover_one(&self, call: &Call<'_>, server: &Server, profile: &Profile) -> Bytes {
        let capabilities = heard_capabilities(server, profile, Era::Modern, profile.sessions);
        discovery(call, &capabilities, profile.instructions.as_deref(), DISCOVER_TTL)
    }

    /// The profiles of every server that the caller sees and that can be reached within the merge deadline.
    pub(super) async fn profiles(&self, caller: &Arc<Caller>) -> Vec<(Arc<Server>, Arc<Profile>)> {
        let mut found = BTreeMap::new();
        let mut asked = Vec::new();
        let mut waiting = FuturesUnordered::new();
        for (index, server) in self.plan.servers.iter().enumerate() {
            if !caller.servers.admits(&server.name) {
                continue;
            }
            match self.memory.server(server).profile() {
                Some(profile) => _ = found.insert(index, (server.clone(), profile)),
                // One that failed just now would only make everybody wait.
                None if self.is_resting(server) => {}
                None => {
                    asked.push(server.clone());
                    waiting.push(profiled(index, self.clone(), server.clone()));
                }
            }
        }
        let mut deadline = pin!(self.platform.clock().sleep(self.plan.limits.merge_deadline));
        loop {
            match select(waiting.next(), &mut deadline).await {
                Either::Left((Some(answer), _)) => {
                    if let Some((index, server, profile)) = answer {
                        found.insert(index, (server, profile));
                    }
                }
                Either::Left((None, _)) => break,
                Either::Right(_) => {
                    drop(waiting);
                    for server in asked.iter().filter(|server| self.memory.server(server).profile().is_none())
                    {
                        self.too_slow(server, "server/discover");
                    }
                    break;
                }
            }
        }
        found.into_values().collect()
    }

    /// `/mcp`: every server that the caller sees, as one.
    pub(super) async fn at_all(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        if let Some(kind) = ListKind::of(call.method) {
            let offset = match call.read.cursor.filter(|raw| raw.get() != "null") {
                None => 0,
                Some(raw) => {
                    self.sealer().await?;
                    self.open_cursor(&client.caller, kind, &text_of(Some(raw), "params.cursor")?)?
                }
            };
            let result = self.merged(kind, client, offset).await;
            return Ok(Answer::Json(StatusCode::OK, framed(call.id, &result)));
        }
        let route = match call.method {
            "server/discover" => {
                return Ok(Answer::Json(StatusCode::OK, self.merged_discover(call, &client.caller).await));
            }
            "subscriptions/listen" => return self.listen(inbound, client, call, None).await,
            "logging/setLevel" => return self.keep_level(client, call).await,
            "resources/subscribe" | "resources/unsubscribe" => {
                // Boxed, as the rest is that few ask: calls need not make room for it.
                return Box::pin(self.subscribe(inbound, client, call, None, note)).await;
            }
            "tools/call" => {
                let name = text_of(call.read.name, "params.name")?;
                self.find_named(client, ListKind::Tools, call, name).await?
            }
            "prompts/get" => {
                let name = text_of(call.read.name, "params.name")?;
                self.find_named(client, ListKind::Prompts, call, name).await?
            }
            "resources/read" => {
                let uri = text_of(call.read.uri, "params.uri")?;
                self.find_resource(client, call, uri).await?
            }
            "completion/complete" => {
                return Box::pin(self.complete(inbound, client, call, note)).await;
            }
            method if tasks::is_method(method) => {
                return Box::pin(self.at_tasks(inbound, client, call, note)).await;
            }
            _ => self.find_extended(client, call).await?,
        };
        note.server = Some(route.server.name.clone());
        if extensions::is_core(call.method) {
            note.name = route.name.as_deref().map(brief);
        }
        if call.method == "tools/call" {
            self.check_mirrored(inbound, client, call, &route).await?;
        }
        self.forward(inbound, client, call, &route).await
    }

    /// `completion/complete`: goes where its reference goes.
    async fn complete(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        #[derive(Deserialize)]
        struct Reference<'a> {
            #[serde(borrow, default)]
            name: Option<&'a RawValue>,
            #[serde(borrow, default)]
            uri: Option<&'a RawValue>,
        }
        let invalid =
            || Fault::new(Kind::InvalidParams, "params.ref: a prompt's name or a resource's uri is required");
        let reference: Reference<'_> =
            call.read.reference.and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or_else(invalid)?;
        let mut route = match (reference.name, reference.uri) {
            (Some(name), _) => {
                let named = text_of(Some(name), "params.ref.name")?;
                let mut route = self.find_named(client, ListKind::Prompts, call, named).await?;
                route.renamed = Some(name);
                route
            }
            (None, Some(uri)) => {
                let named = text_of(Some(uri), "params.ref.uri")?;
                let mut route = self.find_resource(client, call, named).await?;
                route.renamed = route.renamed.map(|_| uri);
                route
            }
            (None, None) => return Err(invalid()),
        };
        note.server = Some(route.server.name.clone());
        if route.renamed.is_none() {
            route.name = None;
        }
        self.forward(inbound, client, call, &route).await
    }

    /// `logging/setLevel`: kept with the session, told to the servers that already have one for it.
    pub(super) async fn keep_level(&self, client: &Client, call: &Call<'_>) -> Result<Answer<P>, Fault> {
        let level = text_of(call.read.level, "params.level")?;
        if !LEVELS.contains(&level.as_ref()) {
            let message = format!("params.level: must be one of {}", LEVELS.join(", "));
            return Err(Fault::new(Kind::InvalidParams, message));
        }
        if let Some(session) = &client.session {
            self.record(session, |record| record.level = Some(level.clone().into_owned())).await?;
            let body = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":\"causeway-sse-level\",\"method\":\"logging/setLevel\",\"params\":{{\"level\":\"{level}\"}}}}"
            );
            self.tell_lines(session, body.as_bytes()).await;
            if session.facts.server.is_none() {
                let upstreams = lock(&session.memory.record).0.upstreams.clone();
                for (name, upstream) in upstreams.iter() {
                    if let Some(server) = self.plan.server(name) {
                        self.set_level(server, upstream, &level).await;
                    }
                }
            }
        }
        Ok(Answer::Json(StatusCode::OK, jsonrpc::result(call.id, &Map::new())))
    }

    /// The list that is known of a server, however old, or else the one it gives now: for facts about a tool
    /// that rarely change, so that a call does not wait for a list.
    pub(super) async fn known_list(
        &self,
        server: &Arc<Server>,
        kind: ListKind,
        caller: &Arc<Caller>,
    ) -> Result<Arc<List>, Fault> {
        match self.memory.server(server).list(kind, &caller.name, ALL) {
            Some(list) => Ok(list),
            None => self.list(server, kind, caller).await,
        }
    }

    /// The list that is known if it offers `name` or is fresh, else a new one: a tool may be newer than what is known.
    async fn newest_list(
        &self,
        server: &Arc<Server>,
        kind: ListKind,
        caller: &Arc<Caller>,
        name: &str,
    ) -> Result<Arc<List>, Fault> {
        let known = self.known_list(server, kind, caller).await?;
        if known.offered(name).is_some() || known.is_fresh(self.platform.clock().now()) {
            return Ok(known);
        }
        Box::pin(self.read_list(server, kind, caller, ALL)).await
    }

    /// Where a merged tool or prompt is, and what its server calls it.
    pub(super) async fn find_named<'a>(
        &self,
        client: &Client,
        kind: ListKind,
        call: &Call<'a>,
        offered: Cow<'a, str>,
    ) -> Result<Route<'a>, Fault> {
        let caller = &client.caller;
        let unknown = || unknown_name(call.method, &offered);
        if kind == ListKind::Tools && !caller.tools.admits(&offered) {
            return Err(unknown());
        }
        let mut candidates: Vec<(&Arc<Server>, &str)> = self
            .plan
            .servers
            .iter()
            .filter(|server| caller.servers.admits(&server.name))
            .filter_map(|server| Some((server, names::split(&server.prefix, &offered)?)))
            .collect();
        // One prefix may begin another: the longest that fits is meant.
        candidates.sort_by_key(|(server, _)| std::cmp::Reverse(server.prefix.len()));
        for (server, rest) in &candidates {
            let own = match self.newest_list(server, kind, caller, &offered).await {
                Ok(list) => list.offered(&offered).map(|item| item.key.clone()),
                // Without a list the server knows best; a name that the configuration changed is never its own.
                Err(_) => {
                    let allowed = match kind {
                        ListKind::Tools => server.tools.admits(rest) && !server.overrides.contains_key(*rest),
                        _ => server.prompts.admits(rest),
                    };
                    (allowed && names::merged(&server.prefix, rest) == *offered).then(|| (*rest).to_owned())
                }
            };
            if let Some(own) = own {
                return Ok(Route {
                    server: (*server).clone(),
                    name: Some(own.into()),
                    renamed: call.read.name,
                });
            }
        }
        // What a server only offers to clients like this one, it does not offer to one that can do everything.
        let able = RawValue::from_string(client.able().to_owned()).unwrap_or_default();
        for (server, _) in candidates {
            let Ok(list) = Box::pin(self.fitted(server, kind, caller, &able)).await else { continue };
            if let Some(item) = list.offered(&offered) {
                let name = Some(item.key.clone().into());
                return Ok(Route { server: server.clone(), name, renamed: call.read.name });
            }
        }
        if kind == ListKind::Tools
            && let Some((server, own)) = self.called_by_interface(client, &offered)
        {
            return Ok(Route { server, name: Some(own.into()), renamed: call.read.name });
        }
        Err(unknown())
    }

    /// Where a resource is: listed by its URI, matched by a template, or named with its server in front.
    pub(super) async fn find_resource<'a>(
        &self,
        client: &Client,
        call: &Call<'a>,
        uri: Cow<'a, str>,
    ) -> Result<Route<'a>, Fault> {
        let caller = &client.caller;
        if let Some((server, own)) = self.place_of(caller, &uri).await {
            let renamed = (own != uri).then_some(call.read.uri).flatten();
            return Ok(Route { server, name: Some(own.into()), renamed });
        }
        match self.only_with_resources(caller).await {
            Some(server) if server.resources.admits(&uri) => {
                Ok(Route { server, name: Some(uri), renamed: None })
            }
            _ => Err(not_found(client, &uri)),
        }
    }

    /// The server that the resource `uri` is of, and what it calls it: listed, matched by a template, or named with its
    /// server in front.
    pub(super) async fn place_of(&self, caller: &Arc<Caller>, uri: &str) -> Option<(Arc<Server>, String)> {
        // What is known first; only a resource that nobody is known to have makes anybody wait, for all at once.
        let mut found = self.listed_at(caller, uri);
        if found.is_none() {
            // What tools show need not be listed, and with its server in front it is never listed.
            if apps::is_interface(uri) {
                if let Some(named) = self.named_at(caller, uri) {
                    return Some(named);
                }
                self.parts(ListKind::Tools, caller, None).await;
            }
            for kind in [ListKind::Resources, ListKind::Templates] {
                self.parts(kind, caller, None).await;
            }
            found = self.listed_at(caller, uri);
        }
        if let Some(server) = found {
            return Some((server, uri.to_owned()));
        }
        self.named_at(caller, uri)
    }

    /// The server that is known to have tools that show the resource `uri`, to list it, or a template that it matches.
    pub(super) fn listed_at(&self, caller: &Caller, uri: &str) -> Option<Arc<Server>> {
        let mut servers = self.plan.servers.iter().filter(|server| caller.servers.admits(&server.name));
        let (mut templates, mut showing) = (servers.clone(), servers.clone());
        if apps::is_interface(uri)
            && let Some(server) = showing.find(|server| self.is_known_to_show(server, caller, uri))
        {
            return Some(server.clone());
        }
        let known = |kind| move |server: &&Arc<Server>| self.is_known_to_have(server, kind, caller, uri);
        servers
            .find(known(ListKind::Resources))
            .or_else(|| templates.find(known(ListKind::Templates)))
            .cloned()
    }

    /// The server that `uri` names in front, `{server}+{uri}`, and what it calls the resource.
    pub(super) fn named_at(&self, caller: &Caller, uri: &str) -> Option<(Arc<Server>, String)> {
        let mut servers = self.plan.servers.iter().filter(|server| caller.servers.admits(&server.name));
        servers.find_map(|server| {
            let own = apps::own(&server.name, uri)?;
            server.resources.admits(&own).then(|| (server.clone(), own))
        })
    }

    /// The server that has resources, if it is the only one: it may have some that it does not list.
    pub(super) async fn only_with_resources(&self, caller: &Arc<Caller>) -> Option<Arc<Server>> {
        let profiles = self.profiles(caller).await;
        let mut able = profiles.iter().filter(|(_, profile)| profile.has("resources"));
        let first = able.next().map(|(server, _)| server.clone());
        if able.next().is_some() { None } else { first }
    }

    /// Whether `server` is known to list the resource `uri`, or a template that it matches.
    fn is_known_to_have(&self, server: &Server, kind: ListKind, caller: &Caller, uri: &str) -> bool {
        let list = self.memory.server(server).list(kind, &caller.name, ALL);
        server.resources.admits(uri)
            && list.is_some_and(|list| match kind {
                ListKind::Templates => list.items.iter().any(|item| template(&item.key).matches(uri)),
                _ => list.own(uri).is_some(),
            })
    }

    /// A server's list as `/mcp/{server}` shows it: own names, less what is left out.
    pub(super) fn own_list(
        &self,
        client: &Client,
        call: &Call<'_>,
        server: &Server,
        kind: ListKind,
        list: &List,
    ) -> Bytes {
        let shown = list
            .items
            .iter()
            .filter(|item| kind != ListKind::Tools || client.caller.tools.admits(&item.offered))
            .map(|item| own_item(server, kind, &item.key, &item.text))
            .collect::<Vec<_>>()
            .join(",");
        let hints = if client.era() == Era::Modern {
            let now = self.platform.clock().now();
            let ttl = list.fresh_until().since(now).as_millis();
            format!(",\"resultType\":\"complete\",\"ttlMs\":{ttl},\"cacheScope\":\"private\"")
        } else {
            String::new()
        };
        let result = format!("{{\"{}\":[{shown}]{hints}}}", kind.member());
        let adapted = (client.era() == Era::Legacy)
            .then(|| super::content::adapted(kind.method(), &result, client.revision))
            .flatten();
        framed(call.id, adapted.unwrap_or(result).as_bytes())
    }
}

async fn profiled<P: Platform>(
    index: usize,
    mcp: Mcp<P>,
    server: Arc<Server>,
) -> Option<(usize, Arc<Server>, Arc<Profile>)> {
    let profile = mcp.profile(&server).await.ok()?;
    Some((index, server, profile))
}

/// An item with the changes that the configuration makes to it, but without a prefix.
fn own_item(server: &Server, kind: ListKind, key: &str, text: &RawValue) -> String {
    let Some(change) = server.overrides.get(key).filter(|_| kind == ListKind::Tools) else {
        return text.get().to_owned();
    };
    let mut splice = Splice::new(text.get().as_bytes());
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: &'a RawValue,
        #[serde(borrow, default)]
        description: Option<&'a RawValue>,
    }
    if let Ok(named) = serde_json::from_str::<Named<'_>>(text.get()) {
        if let Some(rename) = &change.rename {
            splice.replace(named.name, quote(rename));
        }
        match (&change.description, named.description) {
            (Some(new), Some(old)) => splice.replace(old, quote(new)),
            (Some(new), None) => splice.insert_first(&[b"\"description\":", &quote(new)[..]].concat()),
            (None, _) => {}
        }
    }
    String::from_utf8_lossy(&splice.finish()).into_owned()
}

/// A URI template (RFC 6570) as a glob: an expression may be anything.
fn template(text: &str) -> Glob {
    let mut pattern = String::new();
    let mut inside = false;
    for c in text.chars() {
        match (inside, c) {
            (false, '{') => {
                pattern.push('*');
                inside = true;
            }
            (true, '}') => inside = false,
            (true, _) => {}
            (false, c) => pattern.push(c),
        }
    }
    Glob::new(&pattern)
}

fn not_found(client: &Client, uri: &str) -> Fault {
    // The code moved in 2026-07-28 (changelog, minor change 6).
    let kind = if client.era() == Era::Modern { Kind::InvalidParams } else { Kind::ResourceNotFound };
    let mut data = Map::new();
    data.insert("uri".to_owned(), brief(uri).into());
    Fault::new(kind, format!("unknown resource {:?}", brief(uri))).with_data(&data)
}

/// A result object that is already written, as a message.
fn framed(id: &RawValue, result: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(result.len() + id.get().len() + 40);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.get().as_bytes());
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result);
    out.push(b'}');
    out.into()
}

fn discovery(call: &Call<'_>, capabilities: &Value, instructions: Option<&str>, ttl: u64) -> Bytes {
    let versions: Vec<&str> = Revision::ALL.into_iter().map(Revision::as_str).collect();
    let instructions = instructions
        .map(|text| format!(",\"instructions\":{}", String::from_utf8_lossy(&quote(text))))
        .unwrap_or_default();
    let result = format!(
        "{{\"resultType\":\"complete\",\"supportedVersions\":[\"{}\"],\"capabilities\":{capabilities}{instructions},\
         \"ttlMs\":{ttl},\"cacheScope\":\"private\",{SERVER_META}}}",
        versions.join("\",\"")
    );
    framed(call.id, result.as_bytes())
}

/// The `initialize` result for a client of a server that has no session to offer.
fn one_handshake(server: &Server, profile: &Profile, revision: Revision, heard: bool) -> Map<String, Value> {
    let mut result = Map::new();
    result.insert("protocolVersion".to_owned(), revision.as_str().into());
    let capabilities = heard_capabilities(server, profile, Era::Legacy, heard);
    result.insert("capabilities".to_owned(), capabilities);
    let info = profile.info.as_deref().and_then(|info| serde_json::from_str(info.get()).ok());
    let info = info.unwrap_or_else(|| serde_json::from_str(IMPLEMENTATION).unwrap_or_default());
    result.insert("serverInfo".to_owned(), info);
    if let Some(instructions) = &profile.instructions {
        result.insert("instructions".to_owned(), instructions.clone().into());
    }
    result
}

/// A server's capabilities, less what needs a session of one's own; what is told of changes where they can be `heard`:
/// over a session of the gateway's own, or by listening.
fn heard_capabilities(server: &Server, profile: &Profile, era: Era, heard: bool) -> Value {
    let mut members = extensions::offered(server, profile, era);
    for (name, capability) in &mut members {
        if let Some(capability) = capability.as_object_mut() {
            capability.retain(|flag, _| !matches!(flag.as_str(), "listChanged" | "subscribe"));
            if heard {
                capability.extend(flags(&profile.capabilities, name));
                capability.extend(comes_and_goes(server, name));
            }
        }
    }
    Value::Object(members)
}

/// What is behind a link comes and goes with it, which clients are told of as a change of lists.
fn comes_and_goes(server: &Server, name: &str) -> Option<(String, Value)> {
    let listed = matches!(name, "tools" | "prompts" | "resources");
    (server.via.is_some() && listed).then(|| ("listChanged".to_owned(), true.into()))
}

/// What the merged endpoint can do: whatever any server can, as far as the gateway carries it.
fn union(profiles: &[(Arc<Server>, Arc<Profile>)], revision: Revision, heard: bool) -> Value {
    let era = revision.era();
    let mut all = Map::new();
    for name in ["tools", "prompts", "resources", "completions", "logging"] {
        // A log level is per session or per request; only servers with logging do anything with it.
        if profiles.iter().any(|(_, profile)| profile.has(name)) && (name != "logging" || era == Era::Legacy)
        {
            let told = profiles.iter().filter(|_| heard || era == Era::Modern);
            let told = told.flat_map(|(server, profile)| {
                let link = comes_and_goes(server, name).filter(|_| profile.has(name));
                flags(&profile.capabilities, name).into_iter().chain(link)
            });
            let told = told.collect();
            all.insert(name.to_owned(), Value::Object(told));
        }
    }
    all.extend(extensions::union(profiles, revision));
    Value::Object(all)
}

/// Every server's instructions under its name, in the order of the plan.
fn instructions(profiles: &[(Arc<Server>, Arc<Profile>)]) -> Option<String> {
    let parts: Vec<String> = profiles
        .iter()
        .filter_map(|(server, profile)| {
            let text = profile.instructions.as_deref().map(str::trim).filter(|text| !text.is_empty())?;
            Some(format!("## {} (tools named {}__…)\n\n{text}", server.name, server.prefix))
        })
        .collect();
    let mut whole = parts.join("\n\n");
    if whole.len() > INSTRUCTIONS {
        let cut = (0..=INSTRUCTIONS).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
        whole.truncate(cut);
    }
    (!whole.is_empty()).then_some(whole)
}

/// One server, as `/status` shows it.
#[derive(Debug, serde::Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// `up`, `down`, or `unknown` before anybody has asked; `offline` while the link that it is behind is not there.
    pub state: &'static str,
    /// The link that it is behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// When that was last there, in milliseconds since the epoch, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// The eras it speaks.
    pub eras: Vec<Era>,
    /// The newest revision of them.
    pub revision: Option<Revision>,
    /// `http+sse` if it speaks nothing newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<&'static str>,
    /// Tools known.
    pub tools: Option<usize>,
    /// Answered exchanges.
    pub answered: u64,
    /// Failed exchanges.
    pub failed: u64,
    /// Moving average of the time to the response head, in milliseconds.
    pub latency_ms: f64,
    /// The last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it was, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<Timestamp>,
    /// What is wrong with its lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Its processes, if it is a program.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
}

impl<P: Platform> Mcp<P> {
    /// How every server that `caller` sees is doing.
    pub fn statuses(&self, caller: &Caller) -> Vec<ServerStatus> {
        let seen = self.plan.servers.iter().filter(|server| caller.servers.admits(&server.name));
        seen.map(|server| self.status_of(server)).collect()
    }

    fn status_of(&self, server: &Server) -> ServerStatus {
        let memory = self.memory.server(server);
        let health = memory.health();
        let profile = memory.profile();
        let revisions: Vec<Revision> =
            profile.iter().flat_map(|profile| [profile.modern, profile.legacy]).flatten().collect();
        #[expect(clippy::cast_precision_loss, reason = "a latency has no use for 53 bits")]
        let latency_ms = health.latency_us as f64 / 1000.0;
        let link = server.via.as_ref().and_then(|via| self.memory.link(&via.link));
        let offline = self.is_known_offline(server);
        ServerStatus {
            name: server.name.clone(),
            link: server.via.as_ref().map(|via| via.link.clone()),
            last_seen: link.filter(|_| offline).and_then(|(_, shown)| shown.facts.seen),
            state: match (health.failing, health.answered) {
                _ if offline => "offline",
                (0, 0) => "unknown",
                (0, _) => "up",
                _ => "down",
            },
            eras: revisions.iter().map(|revision| revision.era()).collect(),
            revision: revisions.iter().copied().max(),
            transport: profile.is_some_and(|profile| profile.http_sse).then_some("http+sse"),
            tools: memory.count(ListKind::Tools),
            answered: health.answered,
            failed: health.failed,
            latency_ms,
            last_error: health.last_error,
            last_error_at: health.last_error_at,
            warnings: memory.warnings(),
            program: self.platform.program(&server.name),
        }
    }
}
