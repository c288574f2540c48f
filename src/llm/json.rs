//! Short ways to read raw JSON. Reading what is not there gives nothing, and never fails.

use serde_json::{Map, Value};

/// The text at `key`.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// The text at `key`, to keep.
pub(super) fn owned(value: &Value, key: &str) -> Option<String> {
    text(value, key).map(str::to_owned)
}

/// The list at `key`; nothing where there is none.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The count at `key`; a number with a fraction is none.
pub(super) fn count(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// The value at `key`, unless it is null.
pub(super) fn given<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|value| !value.is_null())
}

/// Puts `value` at `key`, if there is one.
pub(super) fn put(into: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        into.insert(key.to_owned(), value.into());
    }
}

/// Members of `value` that are not among `known`.
pub(super) fn unknown(value: &Value, known: &[&str]) -> Map<String, Value> {
    let members = value.as_object().into_iter().flatten();
    let members = members.filter(|(key, value)| !known.contains(&key.as_str()) && !value.is_null());
    members.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Puts the members of `extra` that are not there yet.
pub(super) fn add(into: &mut Map<String, Value>, extra: &Map<String, Value>) {
    for (key, value) in extra {
        if !into.contains_key(key) {
            into.insert(key.clone(), value.clone());
        }
    }
}
