//! The request headers that mirror the body, checked and written (2026-07-28 Streamable HTTP, "Request Metadata").
//!
//! The body is the truth: a name is always taken from it, and a header that disagrees is refused.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::fault::{Fault, Kind};

/// The protocol revision of a request.
pub const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The session of a legacy request.
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// The method, mirrored from the body.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// The tool, prompt or resource, mirrored from the body.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// The prefix of headers mirrored from a tool's arguments.
pub const PARAM: &str = "mcp-param-";

/// One argument that a tool wants mirrored, found by `x-mcp-header` in its input schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// The header, `mcp-param-…`.
    pub header: HeaderName,
    /// The chain of `properties` keys that leads to the value.
    pub path: Vec<String>,
}

/// Reads the `x-mcp-header` annotations of a tool's input schema.
///
/// # Errors
/// Why the tool definition is invalid, in words: such a tool must be left out of lists.
pub fn annotations(schema: &Value) -> Result<Vec<Mirrored>, String> {
    let mut found = Vec::new();
    let mut path = Vec::new();
    walk(schema, true, &mut path, &mut found, 0)?;
    for (index, one) in found.iter().enumerate() {
        if found.iter().take(index).any(|other| other.header == one.header) {
            return Err(format!(
                "x-mcp-header {:?} stands at two properties",
                &one.header.as_str()[PARAM.len()..]
            ));
        }
    }
    Ok(found)
}

/// Walks a schema. `reachable` says that only `properties` keys lead here from the root; an annotation anywhere
/// else (in array items, under a composition keyword, behind a `$ref`) makes the definition invalid.
fn walk(
    schema: &Value,
    reachable: bool,
    path: &mut Vec<String>,
    found: &mut Vec<Mirrored>,
    depth: usize,
) -> Result<(), String> {
    if depth > 64 {
        return Err("its input schema is nested deeper than 64 levels".to_owned());
    }
    match schema {
        Value::Object(members) => {
            if let Some(annotation) = members.get("x-mcp-header") {
                if !reachable || path.is_empty() {
                    return Err("x-mcp-header stands where no chain of \"properties\" leads".to_owned());
                }
                found.push(Mirrored {
                    header: annotated(annotation, members.get("type"))?,
                    path: path.clone(),
                });
            }
            for (key, value) in members {
                match (key.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        for (name, property) in properties {
                            path.push(name.clone());
                            walk(property, reachable, path, found, depth + 1)?;
                            path.pop();
                        }
                    }
                    // Data, not schemas: what looks like an annotation in there is none.
                    ("default" | "examples" | "enum" | "const" | "x-mcp-header", _) => {}
                    (_, Value::Object(_) | Value::Array(_)) => walk(value, false, path, found, depth + 1)?,
                    _ => {}
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| walk(item, false, path, found, depth + 1)),
        _ => Ok(()),
    }
}

fn annotated(annotation: &Value, kind: Option<&Value>) -> Result<HeaderName, String> {
    let Some(name) = annotation.as_str().filter(|name| !name.is_empty()) else {
        return Err("x-mcp-header is not a string with a header name".to_owned());
    };
    if !matches!(kind.and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
        return Err(format!(
            "x-mcp-header {name:?} stands at a property that is no string, integer or boolean"
        ));
    }
    // RFC 9110 section 5.6.2: a field name is a token.
    let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    let header = format!("{PARAM}{}", name.to_ascii_lowercase());
    match HeaderName::from_bytes(header.as_bytes()) {
        Ok(header) if token => Ok(header),
        _ => Err(format!("x-mcp-header {name:?} is not a header name")),
    }
}

/// `value` as a header value: itself, or the Base64 form where it must be ("Value Encoding").
#[must_use]
pub fn encode(value: &str) -> Option<HeaderValue> {
    // A tab inside is allowed in a header, but not every hop leaves it as it is; encoded it arrives.
    let plain = value.bytes().all(|b| matches!(b, 0x20..=0x7E))
        && value.trim_matches(' ') == value
        && !(value.starts_with("=?base64?") && value.ends_with("?="));
    let text =
        if plain { Cow::Borrowed(value) } else { format!("=?base64?{}?=", STANDARD.encode(value)).into() };
    HeaderValue::from_str(&text).ok()
}

/// The value that a header carries, Base64 form decoded.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode(value: &HeaderValue) -> Result<Cow<'_, str>, &'static str> {
    let text = value.to_str().map_err(|_| "has characters outside visible ASCII")?.trim_matches([' ', '\t']);
    match text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        None => Ok(Cow::Borrowed(text)),
        Some(encoded) => {
            let bytes = STANDARD.decode(encoded).map_err(|_| "is not valid Base64")?;
            String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "is not UTF-8 under its Base64")
        }
    }
}

/// Checks the standard headers of a modern request against its body.
///
/// # Errors
/// [`Kind::HeaderMismatch`] naming the header.
pub fn check_standard(headers: &HeaderMap, method: &str, name: Option<&str>) -> Result<(), Fault> {
    check_one(headers, &METHOD, "Mcp-Method", method)?;
    name.map_or(Ok(()), |name| check_one(headers, &NAME, "Mcp-Name", name))
}

fn check_one(headers: &HeaderMap, header: &HeaderName, shown: &str, body: &str) -> Result<(), Fault> {
    let mismatch =
        |what: &str| Err(Fault::new(Kind::HeaderMismatch, format!("header mismatch: {shown} {what}")));
    let mut values = headers.get_all(header).iter();
    match (values.next(), values.next()) {
        (None, _) => mismatch("is required and missing"),
        (_, Some(_)) => mismatch("is given twice"),
        (Some(value), None) => match decode(value) {
            Ok(value) if value == body => Ok(()),
            Ok(_) => mismatch("does not match the body"),
            Err(why) => mismatch(why),
        },
    }
}

/// Checks the `Mcp-Param-*` headers of a tool call against its arguments.
///
/// # Errors
/// [`Kind::HeaderMismatch`] naming the header.
pub fn check_mirrored(headers: &HeaderMap, mirrored: &[Mirrored], arguments: &Value) -> Result<(), Fault> {
    for one in mirrored {
        let mismatch = |what: &str| {
            Err(Fault::new(Kind::HeaderMismatch, format!("header mismatch: {} {what}", one.header.as_str())))
        };
        let mut given = headers.get_all(&one.header).iter();
        match (text_at(arguments, &one.path), given.next(), given.next()) {
            (_, _, Some(_)) => return mismatch("is given twice"),
            (None, None, _) => {}
            (None, Some(_), _) => return mismatch("has a value where the arguments have none"),
            (Some(_), None, _) => return mismatch("is missing; the arguments have a value for it"),
            (Some(body), Some(header), _) => match decode(header) {
                Ok(header) if header == body || same_number(&header, &body) => {}
                Ok(_) => return mismatch("does not match the arguments"),
                Err(why) => return mismatch(why),
            },
        }
    }
    Ok(())
}

/// The headers that mirror `arguments`, for a request of ours.
pub fn write_mirrored(headers: &mut HeaderMap, mirrored: &[Mirrored], arguments: &Value) {
    for one in mirrored {
        if let Some(value) = text_at(arguments, &one.path).as_deref().and_then(encode) {
            headers.insert(one.header.clone(), value);
        }
    }
}

/// The value at `path` as a header shows it; `None` where there is none or it is `null`.
fn text_at(arguments: &Value, path: &[String]) -> Option<String> {
    let value = path.iter().try_fold(arguments, |value, key| value.get(key))?;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(decimal(number)),
        _ => None,
    }
}

/// An integer in decimal digits, however JSON wrote it: `42.0` and `4.2e1` are integers, too.
fn decimal(number: &serde_json::Number) -> String {
    /// Beyond it a fraction could not be told from none.
    const SAFE: f64 = 9_007_199_254_740_991.0;
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() <= SAFE => {
            format!("{value:.0}")
        }
        _ => number.to_string(),
    }
}

/// Numbers are compared as numbers: `42.0` and `42` are equal ("Server Validation").
fn same_number(header: &str, body: &str) -> bool {
    match (header.parse::<f64>(), body.parse::<f64>()) {
        (Ok(header), Ok(body)) => header.total_cmp(&body).is_eq() || header - body == 0.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn found(schema: Value) -> Result<Vec<String>, String> {
        annotations(&schema)
            .map(|all| all.iter().map(|m| format!("{}={}", m.header, m.path.join("/"))).collect())
    }

    #[test]
    fn annotations_are_found_where_they_may_stand() {
        let schema = json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "plain": {"type": "string", "default": {"x-mcp-header": "no"}},
        }});
        assert_eq!(found(schema).unwrap(), ["mcp-param-region=region", "mcp-param-n=deep/n"]);
    }

    #[test]
    fn annotations_elsewhere_make_a_tool_invalid() {
        let bad = |property: Value| assert!(found(json!({"properties": {"a": property}})).is_err());
        bad(json!({"type": "string", "x-mcp-header": ""}));
        bad(json!({"type": "string", "x-mcp-header": 7}));
        bad(json!({"type": "string", "x-mcp-header": "a b"}));
        bad(json!({"type": "string", "x-mcp-header": "a:b"}));
        bad(json!({"type": "string", "x-mcp-header": "h\u{e9}"}));
        bad(json!({"type": "number", "x-mcp-header": "A"}));
        bad(json!({"type": "object", "x-mcp-header": "A"}));
        bad(json!({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}));
        bad(json!({"anyOf": [{"type": "string", "x-mcp-header": "A"}]}));
        assert!(found(json!({"x-mcp-header": "A", "type": "string"})).is_err());
        let twice = json!({"properties": {
            "a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}});
        assert!(found(twice).is_err());
    }

    #[test]
    fn values_are_encoded_as_the_specification_shows() {
        let check = |value: &str, expect: &str| assert_eq!(encode(value).unwrap(), expect);
        check("us-west1", "us-west1");
        check("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?=");
        check(" padded ", "=?base64?IHBhZGRlZCA=?=");
        check("line1\nline2", "=?base64?bGluZTEKbGluZTI=?=");
        check("a\tb", "=?base64?YQli?=");
        check("a b", "a b");
        check("", "");
        check("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=");
    }

    #[test]
    fn arguments_are_written_as_the_specification_shows() {
        let written = |value: Value| {
            let schema = json!({"properties": {"v": {"type": "integer", "x-mcp-header": "V"}}});
            let mut headers = HeaderMap::new();
            write_mirrored(&mut headers, &annotations(&schema).unwrap(), &json!({"v": value}));
            headers.get("mcp-param-v").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(written(json!(42)).as_deref(), Some("42"));
        assert_eq!(written(json!(-7)).as_deref(), Some("-7"));
        assert_eq!(written(json!(42.0)).as_deref(), Some("42"));
        assert_eq!(written(json!(1e3)).as_deref(), Some("1000"));
        assert_eq!(written(json!(1.5)).as_deref(), Some("1.5"));
        assert_eq!(written(json!(true)).as_deref(), Some("true"));
        assert_eq!(written(json!("")).as_deref(), Some(""));
        assert_eq!(written(json!(null)), None);
        assert_eq!(written(json!({})), None);
    }

    #[test]
    fn mirrored_headers_must_agree_with_the_arguments() {
        let mirrored =
            annotations(&json!({"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}})).unwrap();
        let check = |header: Option<&str>, arguments: Value| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert("mcp-param-n", HeaderValue::from_str(header).unwrap());
            }
            check_mirrored(&headers, &mirrored, &arguments).is_ok()
        };
        assert!(check(Some("42"), json!({"n": 42})));
        assert!(check(Some("42.0"), json!({"n": 42})));
        assert!(check(Some("=?base64?NDI=?="), json!({"n": 42})));
        assert!(check(None, json!({})));
        assert!(check(None, json!({"n": null})));
        assert!(!check(Some("43"), json!({"n": 42})));
        assert!(!check(None, json!({"n": 42})));
        assert!(!check(Some("42"), json!({})));
        assert!(!check(Some("=?base64?!!?="), json!({"n": 42})));
    }

    proptest! {
        #[test]
        fn no_header_panics(value in prop::collection::vec(prop_oneof![32u8..=126, 128u8..=255], 0..60), wrap in any::<bool>()) {
            let value = if wrap { [b"=?base64?", &value[..], b"?="].concat() } else { value };
            if let Ok(header) = HeaderValue::from_bytes(&value) {
                let _ = decode(&header);
            }
        }

        #[test]
        fn every_value_comes_back(value in "\\PC{0,40}|[ -~\\t\\n]{0,40}") {
            let header = encode(&value).unwrap();
            prop_assert_eq!(decode(&header).unwrap(), value);
        }
    }
}
