//! The OpenAPI document, generated from the types. It is checked in, and a test keeps it true.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::types::{Answer, Ask, Context};
use super::{Keep, Kept, Listed};
use crate::config::schema::tidy;

/// The OpenAPI document of the gateway's own endpoints, with all schemas.
#[must_use]
pub fn openapi() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    generator.subschema_for::<Ask>();
    generator.subschema_for::<Answer>();
    generator.subschema_for::<Context>();
    generator.subschema_for::<Keep>();
    generator.subschema_for::<Kept>();
    generator.subschema_for::<Listed>();
    let mut schemas = Value::Object(generator.take_definitions(true));
    tidy(&mut schemas);
    tidier(&mut schemas);
    if let Some(schemas) = schemas.as_object_mut() {
        schemas.insert("Problem".into(), problem());
        schemas.sort_keys();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Causeway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "An MCP gateway and LLM router. The endpoints of OpenAI's and Anthropic's dialects take and \
                            answer what those providers document.",
            "license": {"name": "MIT"}
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the gateway."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."}
            },
            "responses": {
                "Problem": {
                    "description": "What went wrong, and what to do.",
                    "content": {"application/problem+json": {"schema": schema("Problem")}}
                }
            },
            "schemas": schemas
        }
    })
}

/// Drops what says nothing: defaults that are empty.
fn tidier(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tidier),
        Value::Object(map) => {
            let empty = |value: &Value| {
                value.is_null()
                    || *value == false
                    || *value == ""
                    || *value == json!([])
                    || *value == json!({})
            };
            if map.get("default").is_some_and(empty) {
                map.remove("default");
            }
            map.values_mut().for_each(tidier);
        }
        _ => {}
    }
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "A problem document (RFC 9457).",
        "properties": {
            "title": {"type": "string", "description": "The status in words."},
            "status": {"type": "integer", "description": "The status."},
            "detail": {"type": "string", "description": "What is wrong, with what, and what to do."},
            "code": {"type": "string", "description": "What happened, in one word for programs."},
            "request_id": {"type": "string", "description": "The request, as the gateway's log names it."},
            "errors": {
                "type": "array",
                "description": "The members of the request that are at fault.",
                "items": {
                    "type": "object",
                    "properties": {
                        "pointer": {"type": "string", "description": "Which, as a JSON pointer behind `#`."},
                        "detail": {"type": "string", "description": "What is wrong with it."}
                    },
                    "required": ["pointer", "detail"]
                }
            }
        },
        "required": ["title", "status", "detail", "code", "request_id"]
    })
}

fn answer(what: &str, content: Value) -> Value {
    json!({"200": {"description": what, "content": content}, "default": {"$ref": "#/components/responses/Problem"}})
}

fn paths() -> Value {
    let any = |what: &str| answer(what, json!({"application/json": {"schema": {"type": "object"}}}));
    let kept = |what: &str| answer(what, json!({"application/json": {"schema": schema("Kept")}}));
    let keep = || json!({"required": true, "content": {"application/json": {"schema": schema("Keep")}}});
    let passed = |summary: &str, where_: &str| {
        json!({"post": {
            "summary": summary,
            "externalDocs": {"url": where_},
            "requestBody": {"required": true, "content": {"application/json": {"schema": {"type": "object"}}}},
            "responses": any("The answer; events, where `stream` is true.")
        }})
    };
    json!({
        "/ask": {"post": {
            "summary": "Asks a model",
            "description": "With `stream` the answer comes as server-sent events: `start` (`provider`, `model`), `text` and \
                            `reasoning` (`text`), `tool_call` (`index`, `id`, `name`), `arguments` (`index`, `json`), \
                            and at the end `done` with the whole Answer, or `error` with a Problem.",
            "requestBody": {"required": true, "content": {"application/json": {"schema": schema("Ask")}}},
            "responses": answer("The answer.", json!({
                "application/json": {"schema": schema("Answer")},
                "text/event-stream": {"schema": {"type": "string"}}
            }))
        }},
        "/context": {"get": {
            "summary": "Lists whose contexts are kept",
            "parameters": [
                {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}},
                {"name": "cursor", "in": "query", "schema": {"type": "string"}}
            ],
            "responses": answer("The users.", json!({"application/json": {"schema": schema("Listed")}}))
        }},
        "/context/{user_id}": {
            "parameters": [
                {"name": "user_id", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1, "maxLength": 128}},
                {"name": "If-Match", "in": "header", "schema": {"type": "string"}},
                {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}
            ],
            "get": {"summary": "What is kept of a user", "responses": kept("It.")},
            "put": {"summary": "Replaces what is kept of a user", "requestBody": keep(), "responses": kept("It, as it is now; 201 if it is new.")},
            "post": {"summary": "Adds to what is kept of a user", "requestBody": keep(), "responses": kept("It, as it is now; 201 if it is new.")},
            "delete": {"summary": "Forgets a user", "responses": {
                "204": {"description": "Nothing is kept any more."}, "default": {"$ref": "#/components/responses/Problem"}
            }}
        },
        "/v1/chat/completions": passed("Asks a model in OpenAI's dialect", "https://platform.openai.com/docs/api-reference/chat"),
        "/v1/embeddings": passed("Makes vectors of texts, in OpenAI's dialect", "https://platform.openai.com/docs/api-reference/embeddings"),
        "/v1/messages": passed("Asks a model in Anthropic's dialect", "https://platform.claude.com/docs/en/api/messages"),
        "/v1/messages/count_tokens": passed("Counts tokens, in Anthropic's dialect", "https://platform.claude.com/docs/en/api/messages-count-tokens"),
        "/v1/models": {"get": {"summary": "Lists the models", "responses": any("The models.")}},
        "/status": {"get": {"summary": "How servers and links are doing", "responses": any("How they are doing.")}},
        "/health": {"get": {"summary": "Whether the process answers", "security": [], "responses": any("It does.")}},
        "/ready": {"get": {"summary": "Whether there is a configuration and a store", "security": [], "responses": any("There are.")}}
    })
}
