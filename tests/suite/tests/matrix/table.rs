//! The table of what came of each row in each cell.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;

use crate::rows::ROWS;

/// What came of a row.
#[derive(Debug, Clone)]
pub enum Mark {
    Held,
    Failed(String),
    Skipped(&'static str),
}

#[derive(Default)]
struct Table {
    running: usize,
    cells: BTreeMap<String, Vec<Mark>>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { running: 0, cells: BTreeMap::new() });

/// A cell that runs. The table is printed when no cell runs any more.
pub struct Running(String);

impl Running {
    pub fn begin(cell: &str) -> Self {
        TABLE.lock().unwrap().running += 1;
        Self(cell.to_owned())
    }

    pub fn end(self, marks: Vec<Mark>) {
        TABLE.lock().unwrap().cells.insert(self.0.clone(), marks);
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
    fn text(&self) -> String {
        let mut text = String::from("\n");
        for (column, (cell, marks)) in self.cells.iter().enumerate() {
            let count = |wanted: fn(&Mark) -> bool| marks.iter().filter(|mark| wanted(mark)).count();
            let held = count(|mark| matches!(mark, Mark::Held));
            let failed = count(|mark| matches!(mark, Mark::Failed(_)));
            let skipped = count(|mark| matches!(mark, Mark::Skipped(_)));
            let letter = letter(column);
            let _ = writeln!(text, "  {letter}  {cell}: {held} hold, {failed} fail, {skipped} do not exist");
        }
        let letters: String = (0..self.cells.len()).map(letter).collect();
        let _ = writeln!(text, "\n  {:<34} {letters}", "");
        for (row, (name, _)) in ROWS.iter().enumerate() {
            let marks: String = self
                .cells
                .values()
                .map(|marks| match marks.get(row) {
                    Some(Mark::Held) => '+',
                    Some(Mark::Failed(_)) => 'F',
                    Some(Mark::Skipped(_)) => '.',
                    None => ' ',
                })
                .collect();
            let _ = writeln!(text, "  {name:<34} {marks}");
        }
        text
    }
}

fn letter(column: usize) -> char {
    char::from(b'A' + u8::try_from(column % 26).unwrap_or_default())
}
