//! YAML 1.2 with the core schema, aliases and `<<` merge keys.
//!
//! Aliases are copied where they stand, and every copy counts against the same bound as if it had been
//! written out, so a few lines cannot unfold into millions of values.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{Budget, Entry, Node, Place, Problem, Value, narrow};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut events = Vec::new();
    for event in Parser::new_from_str(text) {
        events.push(event.map_err(|error| {
            let place =
                Place { line: narrow(error.marker().line()), column: narrow(error.marker().col() + 1) };
            let what = format!("not well-formed YAML ({})", error.info());
            Problem::error("", what, "correct the text here or just before").at(place)
        })?);
        if events.len() > super::MAX_NODES * 3 {
            Budget::default().spend(super::MAX_NODES + 1, 0, Place::default())?;
        }
    }
    let mut reader =
        Reader { events: events.into_iter(), anchors: HashMap::new(), budget: Budget::default() };
    reader.document()
}

struct Anchored {
    node: Node,
    size: usize,
    height: usize,
}

struct Reader<'a> {
    events: std::vec::IntoIter<(Event<'a>, Span)>,
    anchors: HashMap<usize, Anchored>,
    budget: Budget,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = None;
        while let Some((event, span)) = self.events.next() {
            match event {
                Event::DocumentStart(_) if root.is_some() => {
                    let fix = "keep one and remove the `---` line with the rest";
                    return Err(Problem::error("", "more than one YAML document", fix).at(place(span)));
                }
                Event::Nothing
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
                | Event::DocumentEnd => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(root.unwrap_or(Node { place: Place { line: 1, column: 1 }, value: Value::Null }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        self.events.next().ok_or_else(|| Problem::error("", "the YAML text ends too early", "complete it"))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        let at = place(span);
        self.budget.spend(1, depth, at)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_ref().filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
                (scalar(text.into_owned(), style, tag), anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (Value::List(items), anchor)
            }
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => {
                let Some(Anchored { node, size, height }) = self.anchors.get(&anchor) else {
                    let fix = "an alias cannot stand inside what it names";
                    return Err(Problem::error("", "an alias of itself", fix).at(at));
                };
                self.budget.spend(*size, depth + height, at)?;
                return Ok(Node { place: at, value: node.value.clone() });
            }
            // The parser gives none of these inside a document; an empty value stands in for it.
            _ => (Value::Null, 0),
        };
        let node = Node { place: at, value };
        if anchor > 0 {
            let (size, height) = measure(&node);
            // Holding a copy costs as much as writing one.
            self.budget.spend(size, depth, at)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), size, height });
        }
        Ok(node)
    }

    fn map(&mut self, depth: usize) -> Result<Value, Problem> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, _) => break,
                next => next,
            };
            let plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, _, _));
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            let place = key.place;
            match key.value {
                Value::Text(key) if key == "<<" && plain => merge(node, &mut merged)?,
                Value::Text(key) | Value::Number(key) => entries.push(Entry { key, place, node }),
                Value::Bool(key) => entries.push(Entry { key: key.to_string(), place, node }),
                Value::Null => entries.push(Entry { key: "null".to_owned(), place, node }),
                Value::List(_) | Value::Map(_) => {
                    let fix = "a key is one word; put it in quotes";
                    return Err(Problem::error("", "a key is a list or a map", fix).at(place));
                }
            }
        }
        if !merged.is_empty() {
            let mut seen: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
            entries.extend(merged.into_iter().filter(|entry| seen.insert(entry.key.clone())));
        }
        Ok(Value::Map(entries))
    }
}

/// Takes what `<<` names: a map, or a list of maps of which the earlier ones win.
fn merge(node: Node, into: &mut Vec<Entry>) -> Result<(), Problem> {
    match node.value {
        Value::Map(entries) => {
            into.extend(entries.into_iter().map(|entry| Entry { place: node.place, ..entry }));
            Ok(())
        }
        Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
            items.into_iter().try_for_each(|item| merge(item, into))
        }
        _ => {
            let what = "`<<` merges neither a map nor a list of maps";
            Err(Problem::error("", what, "give it an alias of a map").at(node.place))
        }
    }
}

fn measure(node: &Node) -> (usize, usize) {
    let (size, height) = match &node.value {
        Value::List(items) => items.iter().map(measure).fold((0, 0), both),
        Value::Map(entries) => entries.iter().map(|entry| measure(&entry.node)).fold((0, 0), both),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => (0, 0),
    };
    (size + 1, height + 1)
}

fn both(a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
    (a.0 + b.0, a.1.max(b.1))
}

fn place(span: Span) -> Place {
    Place { line: narrow(span.start.line()), column: narrow(span.start.col() + 1) }
}

/// YAML 1.2's core schema: only plain scalars are anything but text.
fn scalar(text: String, style: ScalarStyle, tag: Option<&str>) -> Value {
    if tag == Some("str") || !matches!(style, ScalarStyle::Plain) {
        return Value::Text(text);
    }
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        number if is_number(number) => Value::Number(text),
        _ => Value::Text(text),
    }
}

fn is_number(text: &str) -> bool {
    let bare = text.trim_start_matches(['-', '+']);
    bare.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && bare.contains(|c: char| c.is_ascii_digit())
        && text.parse::<f64>().is_ok()
        || matches!(bare, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
}
