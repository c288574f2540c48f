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
    schema.into()
}

#[cfg(test)]
mod tests;
