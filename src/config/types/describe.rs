//! What the derived JSON Schema cannot know by itself.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{Kind, Named, Processes, Size, Span};

/// A `T`, or a list that stands for its `allow`.
pub(super) struct OrList<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for OrList<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}OrList", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let full = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [full, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] })
    }
}

/// Texts, or one alone.
pub(super) struct OneOrMore;

impl JsonSchema for OneOrMore {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = json!({ "type": "string", "minLength": 1 });
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1, "maxItems": 32 }] })
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = if T::schema_name() == "string" {
            // Real files write ports and flags without quotes.
            json_schema!({ "type": ["string", "number", "boolean"] })
        } else {
            generator.subschema_for::<T>()
        };
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time: a number with the unit ms, s, m, h or d, or a number of seconds.",
            "anyOf": [{ "type": "string", "pattern": Self::PATTERN }, { "type": "number", "minimum": 0 }],
            "examples": ["5s", "250ms", "2m", 30],
        })
    }
}

impl JsonSchema for Processes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Processes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "enum": ["auto", "shared", "session"] },
                { "type": "integer", "minimum": 1, "maximum": 64 },
            ],
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: a number with the unit B, kB, MB, GB, KiB, MiB or GiB, or a number of bytes.",
            "anyOf": [{ "type": "string", "pattern": Self::PATTERN }, { "type": "integer", "minimum": 0 }],
            "examples": ["16MiB", "500kB", 1_048_576],
        })
    }
}

/// Other spellings, and the ways to say the same with another client's words.
pub(super) fn server(schema: &mut Schema) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    if let Some(items) = properties.get_mut("args").and_then(|args| args.get_mut("items")) {
        *items = json!({ "type": ["string", "number", "boolean"] });
    }
    properties.insert(
        "enabled".into(),
        json!({ "type": "boolean", "default": true, "description": "`false` leaves the server out." }),
    );
    for name in ["serverUrl", "httpUrl"] {
        let description = "Another client's name for `url`.";
        properties.insert(name.into(), json!({ "type": "string", "description": description }));
    }
}

/// A word or a flag alone is the mode.
pub(super) fn sandbox(schema: &mut Schema) {
    let description = schema.remove("description");
    let full = schema.clone();
    let word = json!({ "enum": ["on", "off", "required", true, false] });
    *schema = json_schema!({ "description": description, "default": "on", "anyOf": [full, word] });
}

pub(super) fn kind(schema: &mut Schema) {
    *schema = json_schema!({
        "description": "How a server is spoken to. `http` is Streamable HTTP, as are its other spellings, or \
                        HTTP+SSE if the server turns out to speak nothing newer; `sse` is the HTTP+SSE of revision \
                        2024-11-05; `stdio` is a program's standard input and output.",
        "type": "string",
        "enum": Kind::SPELLINGS.map(|(word, _)| word),
    });
}

/// A word alone, or the limits of `gateway`.
pub(super) fn sampling(schema: &mut Schema) {
    let description = schema.remove("description");
    let word = json!({ "enum": ["client", "gateway", "deny"] });
    let full = json!({ "$ref": "#/definitions/Sampler" });
    *schema = json_schema!({ "description": description, "default": "client", "anyOf": [word, full] });
}

/// A key's hash alone stands for the whole.
pub(super) fn key(schema: &mut Schema) {
    let description = schema.remove("description");
    let mut full = schema.clone();
    full.insert("anyOf".into(), json!([{ "required": ["hash"] }, { "required": ["hashes"] }]));
    let hash = json!({ "type": "string", "description": "The hash of the key, alone." });
    *schema = json_schema!({ "description": description, "anyOf": [full, hash] });
}

/// What a name stands for, alone, stands for the whole.
pub(super) fn model(schema: &mut Schema) {
    let description = schema.remove("description");
    let full = schema.clone();
    let target = json!({ "type": "string", "pattern": "^[^/]+/.+$" });
    let list = json!({ "type": "array", "items": target, "minItems": 1 });
    *schema = json_schema!({ "description": description, "anyOf": [full, target, list] });
}

pub(super) fn config() -> Value {
    json!([{ "mcpServers": { "github": {
        "url": "https://api.githubcopilot.com/mcp/",
        "headers": { "Authorization": "Bearer ${GITHUB_TOKEN}" },
        "tools": { "deny": ["delete_*"] },
    } } }])
}
