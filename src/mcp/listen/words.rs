//! The words of a subscription: what a client asks for is read, and what it is told is written.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Subscribed;
use crate::fault::{Fault, Kind};
use crate::mcp::feed::{Topic, Wanted, is_same};
use crate::mcp::upstream::IMPLEMENTATION;
use crate::wire::jsonrpc::{Message, Splice, quote, string};

/// Resources, and tasks, in one subscription.
const URIS: usize = 256;
/// The length of a resource's URI, and of a task's id.
const URI: usize = 2048;
/// The field that says which subscription a message belongs to.
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Reads what a client asks for.
pub(super) fn asked(params: Option<&RawValue>) -> Result<Wanted, Fault> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, default)]
        notifications: Option<&'a RawValue>,
    }
    let invalid = |what: &str| Fault::new(Kind::InvalidParams, format!("params.notifications{what}"));
    let params: Option<Params<'_>> = params.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let filter =
        params.and_then(|params| params.notifications).ok_or_else(|| invalid(": an object is required"))?;
    let fields: HashMap<String, &RawValue> =
        serde_json::from_str(filter.get()).map_err(|_| invalid(": an object is required"))?;
    let mut wanted = Wanted::default();
    for topic in Topic::ALL {
        match fields.get(topic.field()).map(|raw| raw.get()) {
            None | Some("false") => {}
            Some("true") => _ = wanted.lists.insert(topic),
            Some(_) => return Err(invalid(&format!(".{}: a boolean is required", topic.field()))),
        }
    }
    let kinds = [
        ("resourceSubscriptions", "resources", "a URI", &mut wanted.uris),
        ("taskIds", "tasks", "an id", &mut wanted.tasks),
    ];
    for (field, many, one, into) in kinds {
        let Some(listed) = fields.get(field) else { continue };
        let wrong = |what: String| invalid(&format!(".{field}{what}"));
        let listed: Vec<&RawValue> = serde_json::from_str(listed.get())
            .map_err(|_| wrong(": an array of strings is required".to_owned()))?;
        if listed.len() > URIS {
            let count = listed.len();
            return Err(wrong(format!(": {count} {many} are more than the {URIS} of one subscription")));
        }
        for (index, raw) in listed.into_iter().enumerate() {
            let text = string(raw).ok_or_else(|| wrong(format!("[{index}]: a string is required")))?;
            if text.is_empty() || text.len() > URI {
                return Err(wrong(format!("[{index}]: {one} of 1 to {URI} bytes is required")));
            }
            if !into.iter().any(|other| *other == text) {
                into.push(text.into_owned());
            }
        }
    }
    Ok(wanted)
}

/// What the client calls the resource `uri` of `server`: one name for each that it subscribed to.
///
/// "This might be a sub-resource of the one that the client actually subscribed to" (2026-07-28 schema,
/// `ResourceUpdatedNotificationParams`). What is neither subscribed to nor part of such a resource has no name.
pub(in crate::mcp) fn given(resources: &[Subscribed], server: &str, uri: &str) -> Vec<String> {
    let here = || resources.iter().filter(|resource| resource.server == server);
    let exact: Vec<String> = here()
        .filter(|resource| is_same(&resource.own, uri))
        .map(|resource| resource.given.clone())
        .collect();
    if !exact.is_empty() {
        return exact;
    }
    let whole = here().filter(|resource| is_part(&resource.own, uri));
    let whole = whole.max_by_key(|resource| resource.own.len());
    let prefix = whole.and_then(|resource| resource.given.strip_suffix(resource.own.as_str()));
    prefix.map(|prefix| format!("{prefix}{uri}")).into_iter().collect()
}

/// Whether the resource `part` lies within `whole`.
pub(super) fn is_part(whole: &str, part: &str) -> bool {
    let whole = whole.trim_end_matches('/');
    part.strip_prefix(whole).is_some_and(|rest| rest.starts_with(['/', '?', '#']))
}

pub(in crate::mcp) fn uri_of(params: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Updated {
        uri: String,
    }
    serde_json::from_str::<Updated>(params.get()).ok().map(|updated| updated.uri)
}

/// A notification as part of the subscription `id`, with another `uri` if one is given. Everything else stays as it is.
/// `None` if it is not what it ought to be.
pub(super) fn tagged(message: &[u8], id: &RawValue, uri: Option<&str>) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
        #[serde(borrow, default)]
        uri: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Tagged<'a> {
        #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
        id: Option<&'a RawValue>,
    }
    let Ok(Message::Notification { params, .. }) = Message::decode(message) else { return None };
    let mut splice = Splice::new(message);
    let tag = format!("\"{SUBSCRIPTION}\":{}", id.get());
    let Some(params) = params else {
        splice.insert_first(format!("\"params\":{{\"_meta\":{{{tag}}}}}").as_bytes());
        return Some(splice.finish());
    };
    let read: Params<'_> = serde_json::from_str(params.get()).ok()?;
    match read.meta {
        None => splice.insert_into(params, format!("\"_meta\":{{{tag}}}").as_bytes()),
        Some(meta) => match serde_json::from_str::<Tagged<'_>>(meta.get()) {
            Ok(Tagged { id: Some(other) }) => splice.replace(other, id.get().as_bytes().to_vec()),
            Ok(Tagged { id: None }) if meta.get().starts_with('{') => {
                splice.insert_into(meta, tag.as_bytes())
            }
            _ => splice.replace(meta, format!("{{{tag}}}").into_bytes()),
        },
    }
    if let (Some(place), Some(uri)) = (read.uri, uri) {
        splice.replace(place, quote(uri));
    }
    Some(splice.finish())
}

/// A notification about the resource that the client calls `uri`.
pub(in crate::mcp) fn renamed(message: &[u8], uri: &str) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        uri: &'a RawValue,
    }
    let Ok(Message::Notification { params: Some(params), .. }) = Message::decode(message) else {
        return None;
    };
    let read: Params<'_> = serde_json::from_str(params.get()).ok()?;
    let mut splice = Splice::new(message);
    splice.replace(read.uri, quote(uri));
    Some(splice.finish())
}

/// The acknowledgement of the subscription `id`: what will be `told`.
pub(super) fn acknowledged(id: &RawValue, told: &Wanted) -> Bytes {
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{{\"_meta\":\
         {{\"{SUBSCRIPTION}\":{}}},\"notifications\":{}}}}}",
        id.get(),
        told.filter()
    ))
}

/// The response that ends the subscription `id` in good order.
pub(in crate::mcp) fn completed(id: &RawValue) -> Bytes {
    let id = id.get();
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"complete\",\"_meta\":{{\"{SUBSCRIPTION}\":{id},\
         \"io.modelcontextprotocol/serverInfo\":{IMPLEMENTATION}}}}}}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_wrong_filter_is_refused_by_the_name_of_its_field() {
        let check = |params: &str, expect: &str| {
            let got = asked(Some(&raw(params))).map(|wanted| wanted.filter());
            let got = got.unwrap_or_else(|fault| fault.message);
            assert_eq!(got.strip_prefix("params.notifications").unwrap_or(&got), expect, "{params}");
        };
        check("{}", ": an object is required");
        check(r#"{"notifications":[]}"#, ": an object is required");
        check(r#"{"notifications":{}}"#, "{}");
        check(r#"{"notifications":{"toolsListChanged":true,"other":{}}}"#, r#"{"toolsListChanged":true}"#);
        check(r#"{"notifications":{"toolsListChanged":false}}"#, "{}");
        check(r#"{"notifications":{"promptsListChanged":1}}"#, ".promptsListChanged: a boolean is required");
        check(
            r#"{"notifications":{"resourcesListChanged":null}}"#,
            ".resourcesListChanged: a boolean is required",
        );
        let uris = |uris: &str, expect: &str| {
            check(&format!(r#"{{"notifications":{{"resourceSubscriptions":{uris}}}}}"#), expect);
        };
        uris("7", ".resourceSubscriptions: an array of strings is required");
        uris(r#"["a:1","a:1","a:2"]"#, r#"{"resourceSubscriptions":["a:1","a:2"]}"#);
        uris(r#"["a:1",7]"#, ".resourceSubscriptions[1]: a string is required");
        uris(r#"[""]"#, ".resourceSubscriptions[0]: a URI of 1 to 2048 bytes is required");
        uris(
            &format!("[\"{}\"]", "x".repeat(2049)),
            ".resourceSubscriptions[0]: a URI of 1 to 2048 bytes is required",
        );
        uris(
            &format!("[{}0]", "0,".repeat(256)),
            ".resourceSubscriptions: 257 resources are more than the 256 of one subscription",
        );
        check(r#"{"notifications":{"taskIds":["t","t"]}}"#, r#"{"taskIds":["t"]}"#);
        check(r#"{"notifications":{"taskIds":[7]}}"#, ".taskIds[0]: a string is required");
        assert!(asked(None).is_err());
    }

    #[test]
    fn messages_are_tagged_and_otherwise_left_alone() {
        let check = |message: &str, uri: Option<&str>, expect: &str| {
            let got = tagged(message.as_bytes(), &raw("\"s\""), uri);
            let got = got.map_or("none".to_owned(), |got| String::from_utf8(got.to_vec()).unwrap());
            assert_eq!(got.replace(&format!("\"{SUBSCRIPTION}\":\"s\""), "@"), expect, "{message}");
        };
        let head = r#"{"jsonrpc":"2.0","method":"m""#;
        check(&format!("{head}}}"), None, r#"{"params":{"_meta":{@}},"jsonrpc":"2.0","method":"m"}"#);
        check(
            &format!("{head},\"params\":{{}}}}"),
            None,
            &format!("{head},\"params\":{{\"_meta\":{{@}}}}}}"),
        );
        check(
            &format!("{head},\"params\":{{\"x\":1.50,\"uri\":\"a:1\",\"_meta\":{{\"y\":2}}}}}}"),
            Some("b+a:1"),
            &format!("{head},\"params\":{{\"x\":1.50,\"uri\":\"b+a:1\",\"_meta\":{{@,\"y\":2}}}}}}"),
        );
        check(
            &format!("{head},\"params\":{{\"_meta\":{{\"y\":2,\"{SUBSCRIPTION}\":\"causeway-7\"}}}}}}"),
            None,
            &format!("{head},\"params\":{{\"_meta\":{{\"y\":2,@}}}}}}"),
        );
        check(
            &format!("{head},\"params\":{{\"_meta\":7}}}}"),
            None,
            &format!("{head},\"params\":{{\"_meta\":{{@}}}}}}"),
        );
        check(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#, None, "none");
        check("garbage", None, "none");
    }

    #[test]
    fn a_servers_resource_gets_the_clients_name() {
        let resources = [
            ("a", "x://r", "x://r"),
            ("b", "x://r", "b+x://r"),
            ("b", "x://d/", "b+x://d/"),
            ("b", "x://r", "x://r2"),
        ];
        let resources = resources.map(|(server, own, given)| Subscribed {
            server: server.to_owned(),
            own: own.to_owned(),
            given: given.to_owned(),
        });
        let check = |server: &str, uri: &str, expect: &[&str]| {
            assert_eq!(given(&resources, server, uri), expect, "{server} {uri}");
        };
        check("a", "x://r", &["x://r"]);
        check("a", "x://r/", &["x://r"]);
        check("a", "x://r/part", &["x://r/part"]);
        check("a", "x://rest", &[]);
        check("a", "x://d/1", &[]);
        check("b", "x://r", &["b+x://r", "x://r2"]);
        check("b", "x://d/1", &["b+x://d/1"]);
        check("c", "x://r", &[]);
    }
}
