//! Measures what the gateway adds to a call, next to a plain reverse proxy; `scripts/bench` builds and runs it.
//!
//! All ways to the stub are measured in one run and take turns, so that a busy machine is as unfair to one as to the
//! other. It **never** reports a figure of a run in which an answer was wrong.
#![allow(
    clippy::indexing_slicing,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a program that measures: it needs the clock, and what cannot happen may end it"
)]

mod bridge;
mod chat;
mod exchange;
mod lab;
mod link;
mod process;
mod report;
mod rows;
mod sessions;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use crate::lab::Lab;

/// What went wrong, in words.
type Outcome<T> = Result<T, String>;

/// Measures what the gateway adds to a call.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fewer rounds: a quarter of the time
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The native gateway
    #[arg(long, value_name = "PROGRAM")]
    gateway: PathBuf,
    /// The stub
    #[arg(long, value_name = "PROGRAM")]
    fixture: PathBuf,
    /// nginx
    #[arg(long, value_name = "PROGRAM")]
    nginx: Option<PathBuf>,
    /// The script that runs the Worker on a bare workerd
    #[arg(long, value_name = "SCRIPT")]
    workerd_host: Option<PathBuf>,
    /// The built Worker
    #[arg(long, value_name = "DIR")]
    worker: Option<PathBuf>,
    /// The script that runs the Spin component
    #[arg(long, value_name = "SCRIPT")]
    spin_host: Option<PathBuf>,
    /// The built component
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// Another native gateway to measure in the same run
    #[arg(long, value_name = "NAME=PROGRAM")]
    also: Vec<String>,
    /// The commit that is measured, for the report
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The date, for the report
    #[arg(long, default_value = "unknown")]
    date: String,
    /// The rows to measure, as the report calls them. All of them if none is named
    rows: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("bench: {why}");
            eprintln!("bench: no figures: a run with a wrong answer counts for nothing");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Outcome<String> {
    let wanted: Vec<&str> = match arguments.rows.as_slice() {
        [] => rows::ALL.into_iter().chain([rows::ASKS]).collect(),
        some => some.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = wanted.iter().find(|row| !rows::ALL.contains(row) && **row != rows::ASKS) {
        return Err(format!("no row called {unknown}: {} {}", rows::ALL.join(" "), rows::ASKS));
    }
    let load = load();
    let lab = Lab::open(arguments)?;
    let machine = format!("{} cores, {}", cores(), processor());
    let mut head = format!(
        "{machine}; load average {load} at the start\ncommit {}, {}; release build, default log to /dev/null; every \
         answer checked\n",
        arguments.commit, arguments.date
    );
    for missing in &lab.missing {
        head.push_str(&format!("skipped: {missing}\n"));
    }
    if !arguments.json {
        print!("{head}");
    }
    let mut done = Vec::new();
    for name in wanted {
        eprintln!("bench: {name} …");
        let row = rows::run(name, &lab, arguments).map_err(|error| format!("{name}: {error}"))?;
        if !arguments.json {
            print!("{}", row.text());
        }
        done.push(row);
    }
    if !arguments.json {
        return Ok(report::verdict(&done));
    }
    let report = json!({
        "machine": machine, "load": load, "commit": arguments.commit, "date": arguments.date,
        "quick": arguments.quick, "skipped": lab.missing,
        "rows": done.iter().map(report::Row::json).collect::<Vec<_>>(),
    });
    Ok(format!("{report:#}\n"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or("unknown processor", |model| model.trim_start_matches([' ', '\t', ':'])).to_owned()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
