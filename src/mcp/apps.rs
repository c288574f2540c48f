//! User interfaces of servers that a client sees as one (MCP Apps, SEP-1865).
//!
//! A tool names the resource that shows its results, `ui://…`, and that resource need not be listed. At `/mcp` such a
//! URI stays as it is, and is of the first server whose tools name it. Where another server's tools name the same one,
//! they name `ui://{server}+…` there, which `resources/read` of the same endpoint takes. At `/mcp/{server}` **nothing**
//! is changed.
//!
//! Source: MCP Apps 2026-01-26, "Resource Discovery".

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Mcp;
use super::catalog::{ALL, Item, Kind as ListKind};
use super::client::Client;
use super::extensions;
use super::upstream::UI;
use crate::config::plan::{Caller, Server};
use crate::platform::Platform;
use crate::wire::jsonrpc::{Splice, quote, string};

/// The scheme of interfaces.
const SCHEME: &str = "ui://";

/// Whether `uri` is that of an interface.
#[must_use]
pub fn is_interface(uri: &str) -> bool {
    uri.starts_with(SCHEME)
}

/// The interface `uri` of `server`, told from one of another server that is called the same.
#[must_use]
pub fn qualified(server: &str, uri: &str) -> String {
    match uri.strip_prefix(SCHEME) {
        Some(rest) => format!("{SCHEME}{server}+{rest}"),
        None => format!("{server}+{uri}"),
    }
}

/// What `server` calls the resource that [`qualified`] calls `uri`.
#[must_use]
pub fn own(server: &str, uri: &str) -> Option<String> {
    let of = |rest: &str| rest.strip_prefix(server)?.strip_prefix('+').map(str::to_owned);
    match uri.strip_prefix(SCHEME) {
        Some(rest) => of(rest).map(|own| format!("{SCHEME}{own}")),
        None => of(uri),
    }
}

/// The places in a tool's definition that name its interface: the specification's, the one that it had before, and that
/// of the Apps SDK.
fn places(tool: &RawValue) -> Vec<&RawValue> {
    #[derive(Deserialize)]
    struct Tool<'a> {
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default)]
        ui: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "ui/resourceUri")]
        flat: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "openai/outputTemplate")]
        template: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Ui<'a> {
        #[serde(borrow, default, rename = "resourceUri")]
        uri: Option<&'a RawValue>,
    }
    let tool = serde_json::from_str::<Tool<'_>>(tool.get()).ok();
    let Some(meta) = tool.and_then(|tool| tool.meta) else { return Vec::new() };
    let Ok(meta) = serde_json::from_str::<Meta<'_>>(meta.get()) else { return Vec::new() };
    let ui = meta.ui.and_then(|ui| serde_json::from_str::<Ui<'_>>(ui.get()).ok()).and_then(|ui| ui.uri);
    let all = [ui, meta.flat, meta.template].into_iter().flatten();
    all.filter(|raw| string(raw).is_some_and(|uri| is_interface(&uri))).collect()
}

/// The interfaces that a tool names.
#[must_use]
pub fn named(tool: &RawValue) -> Vec<String> {
    let mut uris: Vec<String> =
        places(tool).into_iter().filter_map(|raw| string(raw).map(std::borrow::Cow::into_owned)).collect();
    uris.sort();
    uris.dedup();
    uris
}

/// The tool, with those of its interfaces that `is_others` named as one of `server`.
#[must_use]
pub fn renamed(tool: &RawValue, server: &Server, is_others: impl Fn(&str) -> bool) -> String {
    let mut splice = Splice::new(tool.get().as_bytes());
    for place in places(tool) {
        if let Some(uri) = string(place).filter(|uri| is_others(uri)) {
            splice.replace(place, quote(&qualified(&server.name, &uri)));
        }
    }
    String::from_utf8_lossy(&splice.finish()).into_owned()
}

impl<P: Platform> Mcp<P> {
    /// Whether the tools of `server` are known to name the interface `uri`.
    pub(super) fn is_known_to_show(&self, server: &Server, caller: &Caller, uri: &str) -> bool {
        let list = self.memory.server(server).list(ListKind::Tools, &caller.name, ALL);
        server.resources.admits(uri)
            && list
                .is_some_and(|list| list.items.iter().any(|item| item.shows.iter().any(|known| known == uri)))
    }

    /// The only server with interfaces that has the tool `name`: what runs in an interface calls the tools of its server
    /// by the server's own names.
    pub(super) fn called_by_interface(
        &self,
        client: &Client,
        name: &str,
    ) -> Option<(std::sync::Arc<Server>, String)> {
        let able = RawValue::from_string(client.able().to_owned()).ok()?;
        if !extensions::has(&able, UI) {
            return None;
        }
        let shown = |item: &Item| client.caller.tools.admits(&item.offered);
        let mut having = self.plan.servers.iter().filter_map(|server| {
            let list = self.memory.server(server).list(ListKind::Tools, &client.caller.name, ALL)?;
            let shows = list.items.iter().any(|item| !item.shows.is_empty());
            let item = list.own(name).filter(|item| shows && shown(item))?;
            client.caller.servers.admits(&server.name).then(|| (server.clone(), item.key.clone()))
        });
        having.next().filter(|_| having.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_leads_back() {
        for uri in ["ui://view/x.html", "ui://v", "file:///a+b", "x"] {
            let name = qualified("srv", uri);
            assert_eq!(own("srv", &name).as_deref(), Some(uri), "{name}");
            assert_eq!(is_interface(&name), is_interface(uri));
            assert_eq!(own("other", &name), None);
        }
        assert_eq!(own("srv", "ui://srv/x"), None);
    }

    #[test]
    fn every_place_that_names_an_interface_is_found() {
        let tool = r#"{"name":"t","_meta":{"ui":{"resourceUri":"ui://a","visibility":["app"]}, "ui/resourceUri":"ui://a","openai/outputTemplate":"ui://b","x":"ui://c"}}"#;
        let raw = RawValue::from_string(tool.to_owned()).unwrap();
        assert_eq!(named(&raw), ["ui://a", "ui://b"]);
        let server = Server::new("s", "http://s/mcp".parse().unwrap());
        let other = renamed(&raw, &server, |uri| uri == "ui://a");
        assert_eq!(other, tool.replace("ui://a", "ui://s+a"));
        for none in [
            r#"{"name":"t"}"#,
            r#"{"_meta":7}"#,
            r#"{"_meta":{"ui":"ui://a"}}"#,
            r#"{"_meta":{"ui":{"resourceUri":"https://a"}}}"#,
            "7",
        ] {
            assert!(named(&RawValue::from_string(none.to_owned()).unwrap()).is_empty(), "{none}");
        }
    }
}
