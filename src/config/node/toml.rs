//! TOML.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Budget, Entry, Lines, Node, Problem, Value};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| {
        let what = format!("not well-formed TOML ({})", error.message().replace('\n', " "));
        let place = error.span().map_or_else(Default::default, |span| lines.place(span.start));
        Problem::error("", what, "correct the text here or just before").at(place)
    })?;
    let mut reader = Reader { lines, budget: Budget::default() };
    let start = table.span().start;
    let value = reader.map(table.into_inner(), 0)?;
    Ok(Node { place: reader.lines.place(start), value })
}

struct Reader<'a> {
    lines: Lines<'a>,
    budget: Budget,
}

impl Reader<'_> {
    fn node(&mut self, value: Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Problem> {
        let place = self.lines.place(value.span().start);
        self.budget.spend(1, depth, place)?;
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => Value::Number(number.to_string()),
            DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(time) => Value::Text(time.to_string()),
            DeValue::Array(items) => {
                let items = items.into_iter().map(|item| self.node(item, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => self.map(table, depth)?,
        };
        Ok(Node { place, value })
    }

    fn map(&mut self, table: DeTable<'_>, depth: usize) -> Result<Value, Problem> {
        let entries = table.into_iter().map(|(key, value)| {
            let place = self.lines.place(key.span().start);
            let node = self.node(value, depth + 1)?;
            Ok(Entry { key: key.into_inner().into_owned(), place, node })
        });
        Ok(Value::Map(entries.collect::<Result<_, _>>()?))
    }
}
