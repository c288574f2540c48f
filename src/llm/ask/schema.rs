//! The published schemas, which are also what bodies are checked by: what `/schema/…` says is what is taken.
//!
//! They are generated from the [types](super::types) into one file, which a test keeps true. [`check`] knows the part of
//! JSON Schema that those need, and **never** more.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::llm::Refusal;

/// The OpenAPI document.
pub const OPENAPI: &str = include_str!("../../../schema/openapi.json");
/// Where its schemas are.
const PLACE: &str = "#/components/schemas/";

static SCHEMAS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let whole: Value = serde_json::from_str(OPENAPI).unwrap_or_default();
    let schemas = whole.get("components").and_then(|components| components.get("schemas"));
    schemas.and_then(Value::as_object).cloned().unwrap_or_default()
});

/// The schema called `name`, by itself: `Ask`, `ask` and `ask.json` are the same.
#[must_use]
pub fn published(name: &str) -> Option<Bytes> {
    let name = name.strip_suffix(".json").unwrap_or(name);
    let (name, _) = SCHEMAS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    let mut whole = Map::new();
    whole.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    whole.insert("title".into(), name.as_str().into());
    whole.insert("$ref".into(), format!("{PLACE}{name}").into());
    whole.insert("$defs".into(), Value::Object(SCHEMAS.clone()));
    Some(Value::Object(whole).to_string().replace(PLACE, "#/$defs/").into())
}

/// Checks `value` by the schema called `name`, and takes away members that are null where they may be left out.
///
/// # Errors
/// Names the first place that does not fit, as a JSON pointer.
pub fn check(name: &str, value: &mut Value) -> Result<(), Refusal> {
    match SCHEMAS.get(name) {
        Some(schema) => fits(schema, value, &mut String::new()),
        None => Ok(()),
    }
}

fn fits(schema: &Value, value: &mut Value, at: &mut String) -> Result<(), Refusal> {
    let get = |key: &str| schema.get(key);
    if let Some(name) = get("$ref").and_then(Value::as_str).and_then(|place| place.strip_prefix(PLACE))
        && let Some(schema) = SCHEMAS.get(name)
    {
        return fits(schema, value, at);
    }
    if let Some(Value::Array(all)) = get("allOf") {
        for schema in all {
            fits(schema, value, at)?;
        }
    }
    if let Some(Value::Array(any)) = get("anyOf") {
        // They differ by type: the one of the value's own says best what is wrong.
        let kinds: Vec<&str> = any.iter().filter_map(|schema| schema.get("type")?.as_str()).collect();
        return match any.iter().find(|schema| schema.get("type").is_none_or(|kind| is(kind, value))) {
            Some(schema) => fits(schema, value, at),
            None => Err(wrong(at, &format!("must be one of {}, not {}", kinds.join(", "), kind(value)))),
        };
    }
    if let Some(wanted) = get("type").filter(|wanted| !is(wanted, value)) {
        let wanted = wanted.as_str().unwrap_or_default();
        let what = if wanted == "integer" && value.is_number() {
            "must be a whole number that is not negative".to_owned()
        } else {
            format!("must be of type {wanted}, not {}", kind(value))
        };
        return Err(wrong(at, &what));
    }
    // Words of an enumeration come as a list, or, where each is described, as constants.
    let mut words = get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
    let constants = get("oneOf").and_then(Value::as_array).into_iter().flatten();
    words.extend(constants.filter_map(|schema| schema.get("const").cloned()));
    if !words.is_empty() && !words.contains(value) {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        return Err(wrong(at, &format!("must be one of {}", words.join(", "))));
    }
    let size = match value {
        Value::String(text) => Some(("Length", text.chars().count(), "characters")),
        Value::Array(items) => Some(("Items", items.len(), "items")),
        Value::Object(members) => Some(("Properties", members.len(), "members")),
        _ => None,
    };
    if let Some((what, size, unit)) = size {
        let limit = |side: &str| usize::try_from(get(&format!("{side}{what}"))?.as_u64()?).ok();
        if limit("min").is_some_and(|least| size < least) {
            return Err(wrong(at, if size == 0 { "is empty" } else { "is too short" }));
        }
        if let Some(most) = limit("max").filter(|most| size > *most) {
            return Err(wrong(at, &format!("has more than {most} {unit}")));
        }
    }
    if let Some(number) = value.as_f64() {
        let limit = |key: &str| get(key).and_then(Value::as_f64);
        if let Some(least) = limit("minimum").filter(|least| number < *least) {
            return Err(wrong(at, &format!("must be at least {least}")));
        }
        if let Some(most) = limit("maximum").filter(|most| number > *most) {
            return Err(wrong(at, &format!("must be at most {most}")));
        }
    }
    match value {
        Value::Array(items) => {
            let Some(schema) = get("items") else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                inside(at, &i.to_string(), |at| fits(schema, item, at))?;
            }
        }
        Value::Object(members) => {
            let properties = get("properties").and_then(Value::as_object);
            let known = |key: &str| properties.and_then(|properties| properties.get(key));
            members.retain(|key, value| !value.is_null() || known(key).is_none_or(|schema| *schema == true));
            for key in get("required").and_then(Value::as_array).into_iter().flatten() {
                if let Some(key) = key.as_str().filter(|key| !members.contains_key(*key)) {
                    return inside(at, key, |at| Err(wrong(at, "is missing")));
                }
            }
            let others = get("additionalProperties");
            for (key, value) in members {
                match (known(key), others) {
                    (Some(schema), _) => inside(at, key, |at| fits(schema, value, at))?,
                    (None, Some(Value::Bool(false))) => {
                        let known = properties.map(|known| known.keys().map(String::as_str).collect());
                        let known: Vec<&str> = known.unwrap_or_default();
                        let what = format!("is not known here; known are {}", known.join(", "));
                        return inside(at, key, |at| Err(wrong(at, &what)));
                    }
                    (None, Some(schema)) => inside(at, key, |at| fits(schema, value, at))?,
                    (None, None) => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn is(wanted: &Value, value: &Value) -> bool {
    match wanted.as_str() {
        Some("integer") => value.is_u64(),
        Some(wanted) => wanted == kind(value),
        None => true,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn inside<T>(at: &mut String, key: &str, work: impl FnOnce(&mut String) -> T) -> T {
    let before = at.len();
    at.push('/');
    // RFC 6901. A name from outside is told as far as it helps.
    at.push_str(&crate::llm::route::brief(key).replace('~', "~0").replace('/', "~1"));
    let done = work(at);
    at.truncate(before);
    done
}

fn wrong(at: &str, what: &str) -> Refusal {
    let mut refusal = Refusal::wrong(if at.is_empty() { "the body" } else { at }, what);
    refusal.param = Some(at.to_owned());
    refusal
}
