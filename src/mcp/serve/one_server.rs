//! `/mcp/{server}`: one server as it is, less what the configuration or the key leaves out.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Answer, Inbound, LEGACY_ONLY, Note, brief, text_of};
use crate::config::plan::{Caller, Server};
use crate::fault::Fault;
use crate::mcp::catalog::{ALL, Kind as ListKind, List};
use crate::mcp::client::Client;
use crate::mcp::extensions::is_shared;
use crate::mcp::forward::{Call, Route, arguments};
use crate::mcp::revision::{Era, Revision};
use crate::mcp::unknown::{unknown_method, unknown_name};
use crate::mcp::{Mcp, headers, names};
use crate::platform::{Clock as _, Platform};
use crate::wire::accept::Accepts;
use crate::wire::jsonrpc::{self, Message};

/// A list that was read so lately is not doubted, whatever a client makes of it.
const SETTLED: Duration = Duration::from_secs(1);

impl<P: Platform> Mcp<P> {
    /// `/mcp/{server}`: the server as it is, less what the configuration or the key leaves out.
    pub(super) async fn at_server(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        server: Arc<Server>,
        note: &mut Note,
    ) -> Result<Answer<P>, Fault> {
        note.server = Some(server.name.clone());
        let profile = self.profile(&server).await?;
        let modern_upstream = profile.revision_for(client.era()).era() == Era::Modern;
        // Neither is told anything that would hold from one call to the next.
        let forgetful = modern_upstream || profile.http_sse;
        match call.method {
            "server/discover" if !modern_upstream => {
                return Ok(Answer::Json(StatusCode::OK, self.discover_one(call, &server, &profile)));
            }
            "server/discover" => return Box::pin(self.discover_through(inbound, client, call, server)).await,
            // What is passed through is not filtered.
            "subscriptions/listen" if !modern_upstream || !server.resources.admits_all() => {
                return self.listen(inbound, client, call, Some(server)).await;
            }
            "logging/setLevel" if forgetful => return self.keep_level(client, call).await,
            "logging/setLevel" => self.keep_level(client, call).await.map(drop)?,
            "resources/subscribe" | "resources/unsubscribe" if forgetful => {
                if !server.resources.admits(&text_of(call.read.uri, "params.uri")?) {
                    return Err(unknown_name(call.method, &text_of(call.read.uri, "params.uri")?));
                }
                return Box::pin(self.subscribe(inbound, client, call, Some(server), note)).await;
            }
            method if LEGACY_ONLY.contains(&method) && forgetful => return Err(unknown_method(method)),
            // It would hold the tasks of everybody.
            "tasks/list" if !modern_upstream && is_shared(&server, &profile) => {
                return Err(unknown_method(call.method));
            }
            _ => {}
        }
        let filtered = self.filters(&server, &client.caller);
        // A tool whose annotations are invalid must not be shown (2026-07-28 Streamable HTTP, "Schema Extension").
        let reduced = call.method == "tools/list"
            && self.known_list(&server, ListKind::Tools, &client.caller).await.is_ok_and(|list| list.reduced);
        if let Some(kind) = ListKind::of(call.method).filter(|_| filtered || reduced) {
            return self.filtered_list(client, call, &server, kind).await;
        }
        let key = match call.method {
            "tools/call" | "prompts/get" => Some(text_of(call.read.name, "params.name")?),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                Some(text_of(call.read.uri, "params.uri")?)
            }
            _ => None,
        };
        note.name = key.as_deref().map(brief);
        let mut route = Route { server, name: key, renamed: None };
        if let Some(name) = route.name.clone() {
            if let Some(own) = self.permitted(&route.server, client, call, &name)? {
                route.renamed = call.read.name;
                route.name = Some(own.into());
            }
            if call.method == "tools/call" {
                self.check_mirrored(inbound, client, call, &route).await?;
            }
        }
        let seat =
            if call.method == "subscriptions/listen" { Some(self.seat(&client.caller)?) } else { None };
        let mut answer = self.forward(inbound, client, call, &route).await?;
        if let Answer::Stream(stream, _) = &mut answer {
            (stream.news, stream.seat) = (seat.is_some(), seat);
        }
        Ok(answer)
    }

    /// `server/discover` of a modern server, which through the gateway serves every revision that the gateway does.
    async fn discover_through(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        server: Arc<Server>,
    ) -> Result<Answer<P>, Fault> {
        let whole = inbound.with_accepts(Accepts { json: true, events: false });
        let route = Route { server, name: None, renamed: None };
        let answer = self.forward(&whole, client, call, &route).await?;
        let Answer::Json(status, body) = &answer else { return Ok(answer) };
        let Ok(Message::Response { outcome: Ok(result), .. }) = Message::decode(body) else {
            return Ok(answer);
        };
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Discovered<'a> {
            #[serde(borrow)]
            supported_versions: &'a RawValue,
        }
        let Ok(found) = serde_json::from_str::<Discovered<'_>>(result.get()) else { return Ok(answer) };
        let versions: Vec<&str> = Revision::ALL.into_iter().map(Revision::as_str).collect();
        let mut splice = jsonrpc::Splice::new(body);
        splice.replace(found.supported_versions, serde_json::to_vec(&versions).unwrap_or_default());
        Ok(Answer::Json(*status, splice.finish()))
    }

    /// Whether anything of `server` is left out or changed for `caller`.
    fn filters(&self, server: &Server, caller: &Caller) -> bool {
        !(server.tools.admits_all()
            && server.prompts.admits_all()
            && server.resources.admits_all()
            && server.overrides.is_empty()
            && caller.tools.admits_all())
    }

    /// A server's list with everything left out that the caller may not see, under the server's own names.
    async fn filtered_list(
        &self,
        client: &Client,
        call: &Call<'_>,
        server: &Arc<Server>,
        kind: ListKind,
    ) -> Result<Answer<P>, Fault> {
        let able = RawValue::from_string(client.able().to_owned()).unwrap_or_default();
        let list = Box::pin(self.fitted(server, kind, &client.caller, &able)).await?;
        Ok(Answer::Json(StatusCode::OK, self.own_list(client, call, server, kind, &list)))
    }

    /// Whether a name may be used on `/mcp/{server}`; gives the server's own name where it is renamed.
    fn permitted(
        &self,
        server: &Server,
        client: &Client,
        call: &Call<'_>,
        name: &str,
    ) -> Result<Option<String>, Fault> {
        let renamed = server.overrides.iter().find(|(_, change)| change.rename.as_deref() == Some(name));
        let own = renamed.map_or(name, |(own, _)| own.as_str());
        let allowed = match call.method {
            "tools/call" => {
                let change = server.overrides.get(own);
                let shown = change.and_then(|change| change.rename.as_deref()).unwrap_or(own);
                server.tools.admits(own)
                    && !change.is_some_and(|change| {
                        change.hide || change.rename.as_ref().is_some_and(|_| shown != name)
                    })
                    && client.caller.tools.admits(&names::merged(&server.prefix, shown))
            }
            "prompts/get" => server.prompts.admits(own),
            _ => server.resources.admits(name),
        };
        if allowed { Ok((own != name).then(|| own.to_owned())) } else { Err(unknown_name(call.method, name)) }
    }

    /// Checks the mirrored arguments of a modern client's call against what the tool asks for.
    pub async fn check_mirrored(
        &self,
        inbound: &Inbound,
        client: &Client,
        call: &Call<'_>,
        route: &Route<'_>,
    ) -> Result<(), Fault> {
        if client.era() != Era::Modern {
            return Ok(());
        }
        // A server whose list cannot be read will say itself what it makes of the call.
        let Ok(list) = self.known_list(&route.server, ListKind::Tools, &client.caller).await else {
            return Ok(());
        };
        let checked = mirrors(inbound, call, route, &list);
        if checked.is_ok() || self.platform.clock().now().since(list.read_at) < SETTLED {
            return checked;
        }
        // The client may have seen a newer definition of the tool than we have.
        let newer = Box::pin(self.read_list(&route.server, ListKind::Tools, &client.caller, ALL)).await;
        newer.map_or(checked, |list| mirrors(inbound, call, route, &list))
    }
}

/// Whether a modern client's headers are what `list` says of the tool that it calls.
fn mirrors(inbound: &Inbound, call: &Call<'_>, route: &Route<'_>, list: &List) -> Result<(), Fault> {
    let Some(name) = route.name.as_deref() else { return Ok(()) };
    match list.own(name) {
        Some(tool) if !tool.mirrored.is_empty() => {
            headers::check_mirrored(&inbound.headers, &tool.mirrored, &arguments(call))
        }
        None if list.refuses(name) => Err(unknown_name(call.method, name)),
        _ => Ok(()),
    }
}
