//! The per-request fields of `_meta` (2026-07-28 basic, "Per-request protocol fields").

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rewrite::without;
use crate::fault::{Fault, Kind};
use crate::wire::jsonrpc::{Splice, string};

/// The protocol version of the request.
pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Who sends the request.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// What the sender can do.
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The least level of log messages that the sender wants.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// The fields that only modern requests carry. Official extensions have keys that begin like these, and keep them.
const RESERVED: [&str; 4] = [VERSION, CLIENT_INFO, CAPABILITIES, LOG_LEVEL];

/// The parts of a request's `params` that routing needs; all raw.
#[derive(Debug, Default, Deserialize)]
pub struct Params<'a> {
    /// A tool's or prompt's name.
    #[serde(borrow, default)]
    pub name: Option<&'a RawValue>,
    /// A resource's URI.
    #[serde(borrow, default)]
    pub uri: Option<&'a RawValue>,
    /// A tool's arguments.
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
    /// What a completion is for.
    #[serde(borrow, default, rename = "ref")]
    pub reference: Option<&'a RawValue>,
    /// Where a list goes on.
    #[serde(borrow, default)]
    pub cursor: Option<&'a RawValue>,
    /// A log level.
    #[serde(borrow, default)]
    pub level: Option<&'a RawValue>,
    /// A task's id.
    #[serde(borrow, default, rename = "taskId")]
    pub task_id: Option<&'a RawValue>,
    /// The call may become a task (2025-11-25).
    #[serde(borrow, default)]
    pub task: Option<&'a RawValue>,
    /// What an earlier answer gave to be brought back.
    #[serde(borrow, default, rename = "requestState")]
    pub request_state: Option<&'a RawValue>,
    /// What the client answers to questions of the server's.
    #[serde(borrow, default, rename = "inputResponses")]
    pub input_responses: Option<&'a RawValue>,
    /// The metadata.
    #[serde(borrow, default, rename = "_meta")]
    pub meta: Option<&'a RawValue>,
}

impl<'a> Params<'a> {
    /// Reads `params`; none at all are empty ones.
    ///
    /// # Errors
    /// [`Kind::InvalidParams`] when they are no object or a field stands there twice.
    pub fn read(params: Option<&'a RawValue>) -> Result<Self, Fault> {
        params.map_or_else(
            || Ok(Self::default()),
            |params| {
                serde_json::from_str(params.get()).map_err(|_| {
                    Fault::new(Kind::InvalidParams, "params: not an object, or a field stands in it twice")
                })
            },
        )
    }
}

/// The modern fields of a `_meta` object.
#[derive(Debug, Default, Deserialize)]
pub struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
    /// Who sends the request.
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientInfo")]
    pub client_info: Option<&'a RawValue>,
    /// What the sender can do.
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub capabilities: Option<&'a RawValue>,
    /// The least level of log messages that the sender wants.
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    pub log_level: Option<&'a RawValue>,
}

impl<'a> Meta<'a> {
    /// Reads `meta`; an absent one is empty.
    ///
    /// # Errors
    /// [`Kind::InvalidMeta`] when it is no object or a field stands there twice.
    pub fn read(meta: Option<&'a RawValue>) -> Result<Self, Fault> {
        meta.map_or_else(
            || Ok(Self::default()),
            |meta| {
                serde_json::from_str(meta.get()).map_err(|_| {
                    Fault::new(
                        Kind::InvalidMeta,
                        "params._meta: not an object, or a field stands in it twice",
                    )
                })
            },
        )
    }

    /// The protocol version that the request declares, if it declares one.
    #[must_use]
    pub fn version(&self) -> Option<Cow<'a, str>> {
        self.version.map(|raw| string(raw).unwrap_or(Cow::Borrowed("")))
    }

    /// Checks that the fields that a modern request must carry are there.
    ///
    /// # Errors
    /// [`Kind::InvalidMeta`] naming the field.
    pub fn require(&self) -> Result<(), Fault> {
        let missing = |field| Fault::new(Kind::InvalidMeta, format!("params._meta: {field} is required"));
        if self.version.and_then(string).is_none() {
            return Err(missing(VERSION));
        }
        if !self.capabilities.is_some_and(|raw| raw.get().starts_with('{')) {
            return Err(missing(CAPABILITIES));
        }
        Ok(())
    }
}

/// What a request says of its sender, to be written into a modern `_meta`.
#[derive(Debug, Clone, Copy)]
pub struct Declared<'a> {
    /// The revision.
    pub version: &'a str,
    /// The sender.
    pub client_info: &'a RawValue,
    /// What it can do.
    pub capabilities: &'a RawValue,
    /// The least log level it wants.
    pub log_level: Option<&'a str>,
}

impl Declared<'_> {
    /// The members, without braces.
    #[must_use]
    pub fn members(&self) -> String {
        let mut out = format!(
            "\"{VERSION}\":\"{}\",\"{CLIENT_INFO}\":{},\"{CAPABILITIES}\":{}",
            self.version,
            self.client_info.get(),
            self.capabilities.get()
        );
        if let Some(level) = self.log_level {
            out.push_str(&format!(",\"{LOG_LEVEL}\":\"{level}\""));
        }
        out
    }

    /// Writes the fields into a request's text.
    pub fn write(&self, splice: &mut Splice<'_>, params: Option<&RawValue>, meta: Option<&RawValue>) {
        match (params, meta) {
            (None, _) => {
                splice.insert_first(format!("\"params\":{{\"_meta\":{{{}}}}}", self.members()).as_bytes());
            }
            (Some(params), None) => {
                splice.insert_into(params, format!("\"_meta\":{{{}}}", self.members()).as_bytes());
            }
            (Some(_), Some(meta)) => {
                let kept = without_reserved(meta);
                let comma = if kept.is_empty() { "" } else { "," };
                splice.replace(meta, format!("{{{}{comma}{kept}}}", self.members()).into_bytes());
            }
        }
    }
}

/// The members of `meta` that every era has, without braces and otherwise as they were written.
#[must_use]
pub fn without_reserved(meta: &RawValue) -> String {
    let kept = without(meta, &RESERVED).unwrap_or_else(|| meta.get().to_owned());
    let members = kept.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    members.map_or_else(String::new, |members| members.trim().to_owned())
}

/// Takes the modern fields out of a request's text.
pub fn erase(splice: &mut Splice<'_>, meta: Option<&RawValue>) {
    if let Some(meta) = meta
        && let Some(kept) = without(meta, &RESERVED)
    {
        splice.replace(meta, kept.into_bytes());
    }
}

/// A request of our own.
#[must_use]
pub fn request(id: &str, method: &str, params: &str) -> Bytes {
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"method\":\"{method}\",\"params\":{params}}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::jsonrpc::Message;

    fn modern(input: &str) -> String {
        let Ok(Message::Request { params, .. }) = Message::decode(input.as_bytes()) else {
            panic!("{input}")
        };
        let read = Params::read(params).unwrap();
        let (info, caps): (Box<RawValue>, Box<RawValue>) =
            (RawValue::from_string("{}".into()).unwrap(), RawValue::from_string("{}".into()).unwrap());
        let declared = Declared { version: "V", client_info: &info, capabilities: &caps, log_level: None };
        let mut splice = Splice::new(input.as_bytes());
        declared.write(&mut splice, params, read.meta);
        let text = String::from_utf8(splice.finish().to_vec()).unwrap();
        text.replace(&declared.members(), "@")
    }

    #[test]
    fn declared_fields_are_written_where_they_belong() {
        let head = r#"{"jsonrpc":"2.0","id":1,"method":"m""#;
        assert_eq!(
            modern(&format!("{head}}}")),
            format!("{{\"params\":{{\"_meta\":{{@}}}},{}}}", &head[1..])
        );
        assert_eq!(
            modern(&format!("{head},\"params\":{{}}}}")),
            format!("{head},\"params\":{{\"_meta\":{{@}}}}}}")
        );
        assert_eq!(
            modern(&format!("{head},\"params\":{{\"a\":1,\"_meta\":{{\"progressToken\":7}}}}}}")),
            format!("{head},\"params\":{{\"a\":1,\"_meta\":{{@,\"progressToken\":7}}}}}}")
        );
    }

    #[test]
    fn keys_of_extensions_stay_when_a_request_changes_its_era() {
        let own = r#""io.modelcontextprotocol/related-task":{"taskId":"t"}, "com.example/x":1.50"#;
        let meta =
            RawValue::from_string(format!(r#"{{"{VERSION}":"V",{own},"{LOG_LEVEL}":"info"}}"#)).unwrap();
        assert_eq!(without_reserved(&meta), own.replace(", ", ","));
        assert_eq!(without_reserved(&RawValue::from_string(format!("{{{own}}}")).unwrap()), own);
        assert_eq!(without_reserved(&RawValue::from_string("[1]".to_owned()).unwrap()), "");
    }

    #[test]
    fn a_modern_request_needs_its_fields() {
        let read = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            Meta::read(Some(&raw)).and_then(|meta| meta.require()).map_err(|fault| fault.message)
        };
        assert!(read(&format!(r#"{{"{VERSION}":"2026-07-28","{CAPABILITIES}":{{}}}}"#)).is_ok());
        assert!(read(&format!(r#"{{"{VERSION}":"2026-07-28"}}"#)).unwrap_err().contains(CAPABILITIES));
        assert!(read(&format!(r#"{{"{CAPABILITIES}":{{}}}}"#)).unwrap_err().contains(VERSION));
        assert!(read(&format!(r#"{{"{VERSION}":7,"{CAPABILITIES}":{{}}}}"#)).unwrap_err().contains(VERSION));
        assert!(read("[]").is_err());
    }
}
