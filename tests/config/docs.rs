//! The reference is complete, and its examples work.

use causeway::config::{Format, Problem, load, schema};
use serde_json::Value as Json;

use super::folder;

fn reference() -> String {
    std::fs::read_to_string(folder().join("../../docs/configuration.md")).unwrap()
}

#[test]
fn examples_in_the_reference_have_no_errors() {
    let mut count = 0;
    for block in reference().split("\n```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        let Some(format) = Format::of(&format!("x.{language}")) else { continue };
        assert_eq!(load(text, format).problems, Vec::<Problem>::new(), "{text}");
        count += 1;
    }
    assert!(count >= 4);
}

#[test]
fn every_key_and_default_stands_in_the_reference() {
    fn visit(schema: &Json, reference: &str, missing: &mut Vec<String>) {
        match schema {
            Json::Object(map) => {
                for (key, property) in map.get("properties").and_then(Json::as_object).into_iter().flatten() {
                    if !reference.contains(&format!("`{key}`")) && !reference.contains(&format!("{key}:")) {
                        missing.push(key.clone());
                    }
                    let default = property.get("default").map(|value| value.to_string().replace('"', ""));
                    let default = default.filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
                    let line = |key: &str, default: &str| {
                        let starts = format!("| `{key}` |");
                        reference
                            .lines()
                            .any(|l| l.starts_with(&starts) && l.contains(&format!("| `{default}` |")))
                    };
                    missing.extend(
                        default.filter(|text| !line(key, text)).map(|text| format!("{key} = {text}")),
                    );
                }
                map.values().for_each(|schema| visit(schema, reference, missing));
            }
            Json::Array(items) => items.iter().for_each(|schema| visit(schema, reference, missing)),
            _ => {}
        }
    }
    let mut missing = Vec::new();
    visit(&schema(), &reference(), &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}
