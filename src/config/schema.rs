//! The JSON Schema of the configuration, generated from the types.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::types::Config;

/// Where the schema is published.
const ID: &str = "https://raw.githubusercontent.com/causeway-gateway/causeway/main/schema/causeway.json";

/// The schema, in draft 7, which all editors know.
///
/// It accepts what [`read`](super::read()) accepts, and refuses most of what that refuses: bounds on times and
/// sizes, clashes between keys and the like are checked by reading only.
#[must_use]
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>();
    schema.insert("$id".into(), ID.into());
    schema.insert("title".into(), "Causeway configuration".into());
    schema.remove("required");
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        let servers = properties.get("mcpServers").cloned().unwrap_or_default();
        properties.insert("servers".into(), servers);
        let schema = json!({ "type": "string", "description": "The schema an editor checks the file by." });
        properties.insert("$schema".into(), schema);
        let about = "VS Code's questions. A server that uses `${input:…}` is left out by name.";
        properties.insert("inputs".into(), json!({ "type": "array", "description": about }));
    }
    let mut schema = schema.into();
    tidy(&mut schema);
    schema
}

/// Drops what only a Rust type needs: `null` for what may be left out, and line breaks in descriptions.
pub(crate) fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(map) => {
            let is_null = |schema: &Value| schema.get("type").is_some_and(|kind| kind == "null");
            if let Some(mut either) = map.remove("anyOf") {
                let kept = either.as_array_mut().map_or(0, |either| {
                    either.retain(|schema| !is_null(schema));
                    either.len()
                });
                // A lone reference needs a list around it, or what stands beside it is not looked at.
                map.insert(if kept == 1 { "allOf" } else { "anyOf" }.to_owned(), either);
            }
            if let Some(Value::Array(kinds)) = map.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [kind] = kinds.as_slice() {
                    let kind = kind.clone();
                    map.insert("type".to_owned(), kind);
                }
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                let paragraphs: Vec<String> =
                    text.split("\n\n").map(|text| text.replace('\n', " ")).collect();
                *text = paragraphs.join("\n\n");
            }
            // A property may be called so, too.
            if map.get("format").is_some_and(Value::is_string) {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        _ => {}
    }
}
