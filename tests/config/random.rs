//! No input panics, and what is accepted survives being stored.

use causeway::config::node::Node;
use causeway::config::{Config, Format, compile, load, read};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{EDGE, LAPTOP, Vars};

const KEYS: &str = "mcpServers|servers|keys|origins|limits|sessions|lenient|inputs|llm|a|b|A b|x/y|type|url|headers|command|args|env|\
    via|disabled|enabled|prefix|tools|prompts|resources|session|sampling|timeouts|max_response|list_ttl|allow|deny|\
    overrides|rename|description|hide|hash|hashes|admin|connect|total|body|batch|page|keep_alive|é|";

fn value() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        json!("https://a.example/mcp"),
        json!("http://b.example/${TOKEN}"),
        json!("${NONE}"),
        json!("$${"),
        json!("${"),
        json!("5s"),
        json!("16MiB"),
        json!("1e9d"),
        json!("sse"),
        json!("stdio"),
        json!("shared"),
        json!("deny"),
        json!("gateway"),
        json!("*"),
        json!(""),
        json!("${HASH}"),
        json!("sha256:ab"),
        json!(0),
        json!(1),
        json!(-1),
        json!(1e300),
        json!(true),
        json!(null),
        json!("é\n"),
    ]);
    words.prop_recursive(5, 60, 6, |inner| {
        let key = prop::sample::select(KEYS.split('|').collect::<Vec<_>>()).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn server_file() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(KEYS.split('|').collect::<Vec<_>>());
    (prop::collection::vec((key, value()), 0..4), value()).prop_map(|(more, rest)| {
        let mut server = json!({ "url": "https://a.example/mcp" });
        for (key, value) in more {
            server[key] = value;
        }
        json!({ "mcpServers": { "a": server }, "keys": rest })
    })
}

fn survives(value: Value) {
    let Some(config) = read(&Node::from(value)).config else { return };
    let normalized = config.normalized();
    let back = Config::from_normalized(normalized.as_bytes());
    assert_eq!(back.as_ref(), Ok(&config), "{normalized}");
    for host in [LAPTOP, EDGE] {
        let _ = compile(&config, &Vars, host);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_safe(value in value()) {
        survives(value);
    }

    #[test]
    fn any_server_is_safe(value in server_file()) {
        survives(value);
    }

    #[test]
    fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::from_normalized(&bytes);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            for format in [Format::Json, Format::Yaml, Format::Toml] {
                let _ = load(text, format);
            }
        }
    }
}

#[test]
fn deep_json_is_refused_not_overflowed() {
    for depth in [100, 127, 128, 100_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Config::from_normalized(deep.as_bytes()).is_err(), "{depth}");
    }
}
