//! Configuration files, good and broken: the files in this folder are the tests.
//!
//! `UPDATE_EXPECT=1 cargo test --test config` rewrites what is expected; the diff is the review.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at what it did not expect"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use causeway::config::plan::Transport;
use causeway::config::{Config, Format, Plan, Problem, Reading, compile, load};
use causeway::platform::{Abilities, Links, Secrets};

mod docs;
mod random;
mod schema;

/// A host with two variables.
struct Vars;

impl Secrets for Vars {
    fn secret(&self, name: &str) -> Option<String> {
        match name {
            "TOKEN" => Some("s3cret".to_owned()),
            "BROKEN" => Some("s3cret\nin two lines".to_owned()),
            "HASH" => Some(format!("sha256:{}", "ab".repeat(32))),
            _ => None,
        }
    }
}

const LAPTOP: Abilities = Abilities {
    host: "native",
    processes: true,
    loopback_only: true,
    keyless: true,
    config_file: true,
    mailboxes: true,
    links: Links::Sockets,
};
const EDGE: Abilities = Abilities {
    host: "cloudflare",
    processes: false,
    loopback_only: false,
    keyless: false,
    config_file: false,
    mailboxes: true,
    links: Links::Sockets,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// Everything that is said about a file, as the command line would print it.
fn say(text: &str, format: Format, host: Abilities) -> String {
    let reading = load(text, format);
    let mut problems = reading.problems.clone();
    if let Some(config) = &reading.config {
        match compile(config, &Vars, host) {
            Ok(plan) => problems.extend(reading.skipped(&plan)),
            Err(more) => problems.extend(more.into_iter().map(|problem| reading.locate(problem))),
        }
    }
    let mut said = String::new();
    for problem in &problems {
        writeln!(said, "{problem}").unwrap();
    }
    assert!(!said.contains("s3cret"), "a secret in {said:?}");
    said
}

/// A folder's file of cases: `=== name [format] [host]`, the input, `---`, what is said about it.
fn check_cases(file: &str) {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut rewritten = String::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for case in text.split("=== ").skip(1) {
        let (head, rest) = case.split_once('\n').unwrap();
        let (input, expect) = rest.split_once("---\n").unwrap_or((rest, ""));
        let format = [("[json]", Format::Json), ("[toml]", Format::Toml)];
        let format =
            format.iter().find(|(mark, _)| head.contains(mark)).map_or(Format::Yaml, |(_, format)| *format);
        let said = say(input, format, if head.contains("[edge]") { EDGE } else { LAPTOP });
        if said.trim_end() != expect.trim_end() {
            wrong.push(format!("{head}\n  expected:\n{expect}\n  said:\n{said}"));
        }
        write!(rewritten, "=== {head}\n{input}---\n{said}\n").unwrap();
        count += 1;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, rewritten).unwrap();
        return;
    }
    assert!(count > 0 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn broken_files_say_what_is_wrong_where_and_what_to_do() {
    check_cases("broken.txt");
}

#[test]
fn what_a_host_cannot_serve_is_left_out_or_refused() {
    check_cases("hosts.txt");
}

fn loaded(path: &Path) -> Reading {
    let text = std::fs::read_to_string(path).unwrap();
    load(&text, Format::of(&path.to_string_lossy()).unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| Format::of(&path.to_string_lossy()).is_some());
    files.sort();
    files
}

/// What a file of another program comes to: its servers, what is left out, and the warnings.
fn summary(reading: &Reading) -> String {
    let mut summary = String::new();
    for problem in &reading.problems {
        writeln!(summary, "{problem}").unwrap();
    }
    if let Some(config) = &reading.config {
        let plan: Plan = compile(config, &Vars, LAPTOP).unwrap();
        for server in &plan.servers {
            let way = match server.transport {
                Transport::HttpSse => " over HTTP+SSE",
                Transport::Stdio => " as a program",
                Transport::Own => " by itself",
                Transport::Http => "",
            };
            writeln!(summary, "serves {}{way} with {:?}", server.name, server.headers).unwrap();
        }
        for skipped in &plan.skipped {
            writeln!(summary, "skips {}: {}", skipped.name, skipped.reason).unwrap();
        }
    }
    summary
}

#[test]
fn files_of_known_clients_load_unchanged() {
    let files = files(&folder().join("clients"));
    assert!(files.len() >= 8, "{files:?}");
    for path in files {
        let reading = loaded(&path);
        assert!(reading.config.is_some(), "{}: {:?}", path.display(), reading.problems);
        let said = summary(&reading);
        let expect = path.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&expect, &said).unwrap();
        }
        assert_eq!(said, std::fs::read_to_string(&expect).unwrap(), "{}", path.display());
    }
}

#[test]
fn normalized_json_reads_back_as_the_same_configuration() {
    let root = folder().join("../../examples");
    for path in files(&folder().join("clients")).into_iter().chain(files(&root)) {
        let config = loaded(&path).config.unwrap();
        let normalized = config.normalized();
        let back = Config::from_normalized(normalized.as_bytes()).unwrap();
        assert_eq!(back, config, "{}", path.display());
        assert_eq!(back.normalized(), normalized);
        assert_eq!(back.digest(), config.digest());
    }
}

#[test]
fn the_three_formats_say_the_same() {
    let [json, toml, yaml] = ["json", "toml", "yaml"]
        .map(|ending| loaded(&folder().join(format!("../../examples/gateway.{ending}"))));
    assert_eq!(json.config.as_ref().map(Config::normalized), yaml.config.as_ref().map(Config::normalized));
    assert_eq!(toml.config.as_ref().map(Config::normalized), yaml.config.as_ref().map(Config::normalized));
}

#[test]
fn examples_have_no_problems() {
    for path in files(&folder().join("../../examples")) {
        assert_eq!(loaded(&path).problems, Vec::<Problem>::new(), "{}", path.display());
    }
}
