//! The JSON Schema agrees with the reader, and the published copy is the generated one.

use causeway::config::node::{Node, Value, parse};
use causeway::config::{Format, load, schema};
use serde_json::Value as Json;

use super::{files, folder};

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => serde_json::from_str(number).unwrap_or(Json::Null),
        Value::Text(text) => text.clone().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), json(&entry.node))).collect(),
    }
}

fn errors(text: &str, format: Format) -> Vec<String> {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let instance = json(&parse(text, format).unwrap());
    validator.iter_errors(&instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn examples_and_files_of_known_clients_fit_the_schema() {
    for path in files(&folder().join("clients")).into_iter().chain(files(&folder().join("../../examples"))) {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = errors(&text, Format::of(&path.to_string_lossy()).unwrap());
        assert_eq!(found, Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn normalized_json_fits_the_schema() {
    let text = std::fs::read_to_string(folder().join("../../examples/gateway.yaml")).unwrap();
    let normalized = load(&text, Format::Yaml).config.unwrap().normalized();
    assert_eq!(errors(&normalized, Format::Json), Vec::<String>::new());
}

#[test]
fn what_the_schema_refuses_is_refused() {
    for part in [
        "tools: { alow: [x] }",
        "tools: { allow: [] }",
        "timeouts: { connect: soon }",
        "max_response: 16M",
        "session: share",
        "sampling: model",
        "sampling: { model: a/b }",
        "sampling: { requests: 0 }",
        "sampling: { models: [] }",
        "type: htpp",
        "prefix: a__b",
        "sandbox: maybe",
        "sandbox: { writes: [] }",
        "sandbox: { files: 1 }",
        "tools: { overrides: { x: { rename: \"a b\" } } }",
    ] {
        let text = format!("mcpServers:\n  a:\n    url: https://a.example/mcp\n    {part}\n");
        assert!(!errors(&text, Format::Yaml).is_empty(), "the schema accepts {part}");
        assert!(load(&text, Format::Yaml).config.is_none(), "the reader accepts {part}");
    }
    for part in [
        "keys: { a: { hash: cw_plain } }",
        "keys: { a: {} }",
        "limits: { page: 0 }",
        "limits: { x: 1 }",
        "sessions: { lenient: 1 }",
        "sessions: { x: true }",
    ] {
        let text = format!("mcpServers: {{}}\n{part}\n");
        assert!(!errors(&text, Format::Yaml).is_empty(), "the schema accepts {part}");
        assert!(load(&text, Format::Yaml).config.is_none(), "the reader accepts {part}");
    }
}

#[test]
fn every_key_is_described() {
    fn visit(path: &str, schema: &Json, missing: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (key, property) in properties {
                let path = format!("{path}.{key}");
                if property["description"].as_str().is_none_or(str::is_empty) {
                    missing.push(path.clone());
                }
                visit(&path, property, missing);
            }
        }
        for list in ["anyOf", "allOf"] {
            schema[list].as_array().into_iter().flatten().for_each(|schema| visit(path, schema, missing));
        }
    }
    let (schema, mut missing) = (schema(), Vec::new());
    visit("", &schema, &mut missing);
    for (name, definition) in schema["definitions"].as_object().unwrap() {
        visit(name, definition, &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_published_schema_is_the_generated_one() {
    let path = folder().join("../../schema/causeway.json");
    let generated = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(published, generated, "run `UPDATE_EXPECT=1 cargo test --test config`");
}
