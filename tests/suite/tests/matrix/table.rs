//! The table of what came of each row in each cell.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;

use crate::matrix::rows::Row;

/// What came of a row.
#[derive(Debug, Clone)]
pub enum Mark {
    Held,
    Failed(String),
    /// It fails, as it is known to.
    Known(&'static str),
    Skipped(&'static str),
}

type Rows = &'static [(&'static str, Row)];

struct Table {
    running: usize,
    cells: BTreeMap<String, (Rows, Vec<Mark>)>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { running: 0, cells: BTreeMap::new() });

/// A cell that runs. The table is printed when no cell runs any more.
pub struct Running(String);

impl Running {
    pub fn begin(cell: &str) -> Self {
        TABLE.lock().unwrap().running += 1;
        Self(cell.to_owned())
    }

    pub fn end(self, rows: Rows, marks: Vec<Mark>) {
        TABLE.lock().unwrap().cells.insert(self.0.clone(), (rows, marks));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Ok(mut table) = TABLE.lock() else { return };
        table.running -= 1;
        if table.running == 0 && !table.cells.is_empty() {
            // Past the test harness, which shows the output of failing tests only.
            let _ = std::io::stderr().write_all(table.text().as_bytes());
        }
    }
}

impl Table {
    /// One table for each list of rows.
    fn text(&self) -> String {
        let mut lists: Vec<Rows> = Vec::new();
        for (rows, _) in self.cells.values() {
            if !lists.iter().any(|known| known[0].0 == rows[0].0) {
                lists.push(rows);
            }
        }
        lists.into_iter().map(|rows| self.of(rows)).collect()
    }

    fn of(&self, rows: Rows) -> String {
        let cells = self.cells.iter().filter(|(_, (of, _))| of[0].0 == rows[0].0);
        let cells: Vec<(&String, &Vec<Mark>)> = cells.map(|(name, (_, marks))| (name, marks)).collect();
        let mut text = String::from("\n");
        for (column, (cell, marks)) in cells.iter().enumerate() {
            let count = |wanted: fn(&Mark) -> bool| marks.iter().filter(|mark| wanted(mark)).count();
            let held = count(|mark| matches!(mark, Mark::Held));
            let failed = count(|mark| matches!(mark, Mark::Failed(_)));
            let known = count(|mark| matches!(mark, Mark::Known(_)));
            let skipped = count(|mark| matches!(mark, Mark::Skipped(_)));
            let letter = letter(column);
            let _ = writeln!(
                text,
                "  {letter}  {cell}: {held} hold, {failed} fail, {known} known to fail, {skipped} do not exist"
            );
        }
        let letters: String = (0..cells.len()).map(letter).collect();
        let _ = writeln!(text, "\n  {:<36} {letters}", "");
        for (row, (name, _)) in rows.iter().enumerate() {
            let marks: String = cells
                .iter()
                .map(|(_, marks)| match marks.get(row) {
                    Some(Mark::Held) => '+',
                    Some(Mark::Failed(_)) => 'F',
                    Some(Mark::Known(_)) => 'k',
                    Some(Mark::Skipped(_)) => '.',
                    None => ' ',
                })
                .collect();
            let _ = writeln!(text, "  {name:<36} {marks}");
        }
        text
    }
}

fn letter(column: usize) -> char {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".chars().cycle().nth(column).unwrap_or('?')
}
