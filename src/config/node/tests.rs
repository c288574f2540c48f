use proptest::prelude::*;

use super::*;

/// One line for a tree: every key and value with its place.
fn show(node: &Node) -> String {
    let at = format!("@{}:{}", node.place.line, node.place.column);
    match &node.value {
        Value::Null => format!("null{at}"),
        Value::Bool(value) => format!("{value}{at}"),
        Value::Number(number) => format!("{number}{at}"),
        Value::Text(text) => format!("{text:?}{at}"),
        Value::List(items) => format!("[{}]{at}", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Map(entries) => {
            let entry =
                |e: &Entry| format!("{}@{}:{}={}", e.key, e.place.line, e.place.column, show(&e.node));
            format!("{{{}}}{at}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
        }
    }
}

fn check(format: Format, text: &str, expect: &str) {
    let found = parse(text, format).map_or_else(|problem| problem.to_string(), |node| show(&node));
    assert_eq!(found, expect, "{format:?} {text:?}");
}

#[test]
fn json_gives_places() {
    check(
        Format::Json,
        "{\"a\": 1, \n \"é\": [true, null]}",
        "{a@1:2=1@1:7 é@2:2=[true@2:8 null@2:14]@2:7}@1:1",
    );
}

#[test]
fn json_takes_comments_and_trailing_commas() {
    check(Format::Json, "// c\n{\"a\": [1,], /* d */}", "{a@2:2=[1@2:8]@2:7}@2:1");
}

#[test]
fn json_that_is_broken_says_where() {
    let expect = "2:1: not well-formed JSON (unexpected token): correct the text here or just before";
    check(Format::Json, "{\"a\":\nx}", expect);
    let expect = "1:2: not well-formed JSON (expected string for object property): \
                  correct the text here or just before";
    check(Format::Json, "{a: 1}", expect);
}

#[test]
fn an_empty_text_is_null() {
    check(Format::Json, "", "null@1:1");
    check(Format::Yaml, "", "null@1:1");
    check(Format::Yaml, "# only a comment\n", "null@1:1");
    check(Format::Toml, "", "{}@1:1");
}

#[test]
fn yaml_gives_places() {
    let text = "a:\n  b: \"1\"\n  c: [1.5, yes, ~]\n";
    check(Format::Yaml, text, "{a@1:1={b@2:3=\"1\"@2:6 c@3:3=[1.5@3:7 \"yes\"@3:12 null@3:17]@3:6}@2:3}@1:1");
}

#[test]
fn yaml_aliases_and_merge_keys_unfold() {
    let text = "base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n";
    check(
        Format::Yaml,
        text,
        "{base@1:1={x@1:11=1@1:14 y@1:17=2@1:20}@1:7 use@2:1={y@4:3=3@4:6 x@3:7=1@1:14}@3:3}@1:1",
    );
}

#[test]
fn yaml_that_unfolds_into_millions_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..10 {
        let items = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
    }
    let problem = parse(&text, Format::Yaml).expect_err("must be refused");
    assert_eq!(problem.what, "more than 100000 values");
}

#[test]
fn yaml_with_two_documents_is_refused() {
    let expect = "2:1: more than one YAML document: keep one and remove the `---` line with the rest";
    check(Format::Yaml, "a: 1\n---\nb: 2\n", expect);
}

#[test]
fn toml_gives_places() {
    check(
        Format::Toml,
        "[a]\nb = 1\n[a.c]\nd = [\"x\"]\n",
        "{a@1:2={b@2:1=1@2:5 c@3:4={d@4:1=[\"x\"@4:6]@4:5}@3:1}@1:1}@1:1",
    );
}

#[test]
fn deep_nesting_is_refused_in_every_format() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for n in [40, 100, 500, 5000, 100_000] {
        assert!(parse(&deep(n), Format::Json).is_err(), "json {n}");
        assert!(parse(&deep(n), Format::Yaml).is_err(), "yaml {n}");
        assert!(parse(&format!("a = {}", deep(n)), Format::Toml).is_err(), "toml {n}");
    }
    let yaml = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    assert!(parse(&yaml, Format::Yaml).is_err());
}

#[test]
fn a_text_of_more_than_a_mebibyte_is_refused() {
    check(Format::Json, &" ".repeat(MAX_BYTES + 1), "the file is larger than 1 MiB: is this the right file?");
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]{}:,&*!|>'\"#%@`?<\\-= \na-c0-9.\\\\/~é]{0,80}") {
        for format in [Format::Json, Format::Yaml, Format::Toml] {
            let _ = parse(&text, format);
        }
    }

    #[test]
    fn any_unicode_is_safe(text in "\\PC{0,60}") {
        for format in [Format::Json, Format::Yaml, Format::Toml] {
            let _ = parse(&text, format);
        }
    }
}
