//! JSON with comments and trailing commas, as editors' own `mcp.json` files have them.

use jsonc_parser::{CollectOptions, ParseOptions, ast, common::Ranged};

use super::{Budget, Entry, Lines, Node, Place, Problem, Value};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let lines = Lines::new(text);
    let parsed = jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &options).map_err(|error| {
        let kind = error.kind().to_string();
        let what = format!("not well-formed JSON ({})", kind.to_lowercase());
        Problem::error("", what, "correct the text here or just before").at(lines.place(error.range().start))
    })?;
    let mut reader = Reader { lines, budget: Budget::default() };
    match parsed.value {
        Some(value) => reader.node(value, 0),
        None => Ok(Node { place: Place { line: 1, column: 1 }, value: Value::Null }),
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    budget: Budget,
}

impl Reader<'_> {
    fn node(&mut self, value: ast::Value<'_>, depth: usize) -> Result<Node, Problem> {
        let place = self.lines.place(value.range().start);
        self.budget.spend(1, depth, place)?;
        let value = match value {
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::BooleanLit(literal) => Value::Bool(literal.value),
            ast::Value::NumberLit(literal) => Value::Number(literal.value.to_owned()),
            ast::Value::StringLit(literal) => Value::Text(literal.value.into_owned()),
            ast::Value::Array(array) => {
                let items = array.elements.into_iter().map(|item| self.node(item, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            ast::Value::Object(object) => {
                let entries = object.properties.into_iter().map(|property| {
                    let place = self.lines.place(property.name.range().start);
                    let node = self.node(property.value, depth + 1)?;
                    Ok(Entry { key: property.name.into_string(), place, node })
                });
                Value::Map(entries.collect::<Result<_, _>>()?)
            }
        };
        Ok(Node { place, value })
    }
}
