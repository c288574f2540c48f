//! The `causeway` program: what it prints where, and its exit codes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use causeway_fixture::{Fixture, Mode, Options as Upstream};
use serde_json::{Value, json};

fn causeway(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    // Nothing of whoever runs the tests gets in.
    command.current_dir(folder).env_clear().env("HOME", folder).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    causeway(folder).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs with `arguments` over the file `g.yaml` of `text`, and compares the exit code.
fn check(text: &str, arguments: &[&str], code: i32) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("g.yaml"), text).unwrap();
    let output = run(folder.path(), arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}\n{}", out(&output), err(&output));
    output
}

const GOOD: &str = "mcpServers:\n  docs:\n    url: http://127.0.0.1:1/mcp\n";
const BAD: &str = "mcpServers:\n  docs:\n    url: ftp://127.0.0.1/mcp\n";

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    assert!(out(&check(GOOD, &["--help"], 0)).contains("Exit codes"));
    for command in ["serve", "validate", "schema", "keys", "push", "status", "call", "stdio", "version"] {
        assert!(out(&check(GOOD, &[command, "--help"], 0)).contains("Usage: causeway"), "{command}");
    }
    check(GOOD, &[], 2);
    check(GOOD, &["nonsense"], 2);
    check(GOOD, &["push", "http://127.0.0.1:1"], 2);
    check(GOOD, &["status", "ftp://127.0.0.1"], 2);
    check(GOOD, &["call", "http://127.0.0.1:1", "t", "[1]"], 2);
    check(GOOD, &["stdio"], 2);
    check(GOOD, &["stdio", "--url", "http://127.0.0.1:1", "--header", "nonsense"], 2);
    check(GOOD, &["stdio", "--url", "http://me:pw@127.0.0.1:1"], 2);
    check(GOOD, &["serve", "--listen", "nonsense", "--config", "g.yaml"], 2);
}

#[test]
fn validate_says_what_is_wrong_and_where() {
    let output = check(GOOD, &["validate", "g.yaml"], 0);
    assert!(out(&output).starts_with("g.yaml: valid: 1 server,") && err(&output).is_empty());
    let output = check(BAD, &["validate", "g.yaml"], 2);
    assert!(err(&output).starts_with("g.yaml:3:") && out(&output).is_empty(), "{}", err(&output));
    let output = check(BAD, &["validate", "g.yaml", "--json"], 2);
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&report["valid"], &report["problems"][0]["line"]), (&json!(false), &json!(3)));
    check(GOOD, &["validate", "none.yaml"], 2);
    let report: Value =
        serde_json::from_str(&out(&check(GOOD, &["validate", "none.yaml", "--json"], 2))).unwrap();
    assert_eq!(report["valid"], json!(false));
}

#[test]
fn missing_secret_is_a_warning_that_can_be_left_out() {
    let text =
        "mcpServers:\n  docs:\n    url: http://127.0.0.1:1/mcp\n    headers: { a: \"${CAUSEWAY_NO}\" }\n";
    assert!(err(&check(text, &["validate", "g.yaml"], 0)).contains("CAUSEWAY_NO"));
    assert!(err(&check(text, &["validate", "g.yaml", "--no-secrets"], 0)).is_empty());
}

#[test]
fn missing_program_is_a_warning_where_it_stands() {
    let text =
        "mcpServers:\n  a:\n    command: sh\n  b:\n    args: [x]\n    command: causeway-no-such-program\n";
    let said = err(&check(text, &["validate", "g.yaml"], 0));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(
        lines[0].starts_with("g.yaml:6:5: warning: mcpServers.b.command: `causeway-no-such-program` is not"),
        "{said}"
    );
    assert!(err(&check(text, &["validate", "g.yaml", "--no-secrets"], 0)).is_empty());
}

#[test]
fn schema_and_version_are_json() {
    let schema: Value = serde_json::from_str(&out(&check(GOOD, &["schema"], 0))).unwrap();
    assert!(schema["properties"]["mcpServers"].is_object());
    let version: Value = serde_json::from_str(&out(&check(GOOD, &["version", "--json"], 0))).unwrap();
    assert_eq!(version["version"], json!(env!("CARGO_PKG_VERSION")));
}

#[test]
fn new_key_goes_to_stdout_alone_and_hashes_to_what_was_printed() {
    let made = check(GOOD, &["keys", "new", "--name", "ann"], 0);
    let key = out(&made);
    assert!(key.starts_with("cw_") && key.trim().lines().count() == 1 && !err(&made).contains(key.trim()));
    let folder = tempfile::tempdir().unwrap();
    let mut hash = causeway(folder.path());
    hash.args(["keys", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut hash = hash.spawn().unwrap();
    hash.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
    let hash = out(&hash.wait_with_output().unwrap());
    assert!(hash.starts_with("sha256:") && err(&made).contains(hash.trim()), "{hash}");
    check(GOOD, &["keys", "hash"], 2);
    let made: Value = serde_json::from_str(&out(&check(GOOD, &["keys", "new", "--json"], 0))).unwrap();
    assert!(made["key"].is_string() && made["hash"].is_string());
}

#[test]
fn gateway_that_cannot_start_says_why() {
    let output = check(BAD, &["serve", "--config", "g.yaml", "--listen", "127.0.0.1:0"], 2);
    assert!(err(&output).contains("g.yaml:3:"), "{}", err(&output));
    let output = check(GOOD, &["serve", "--config", "g.yaml", "--listen", "0.0.0.0:0"], 2);
    assert!(err(&output).contains("--allow-public"), "{}", err(&output));
    let output = check(GOOD, &["serve", "--listen", "127.0.0.1:0"], 2);
    assert!(err(&output).contains("CAUSEWAY_ADMIN_KEY"), "{}", err(&output));
    check(GOOD, &["status", "http://127.0.0.1:1"], 1);
}

/// A gateway in a process of its own, which ends with this.
struct Serving {
    process: Child,
    url: String,
}

impl Serving {
    fn start(command: &mut Command) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let url = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
        // Somebody must read on, or the gateway would have nowhere to log to.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url: url.unwrap() }
    }

    #[cfg(unix)]
    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    #[cfg(unix)]
    fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.process.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_is_called_and_the_gateway_stops_on_a_signal() {
    let upstream = Fixture::start(Upstream { mode: Mode::Fast, ..Upstream::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "mcpServers": { "one": { "url": upstream.url() } } });
    std::fs::write(folder.path().join("g.json"), config.to_string()).unwrap();
    let serving = Serving::start(
        causeway(folder.path()).env("CAUSEWAY_CONFIG", "g.json").env("CAUSEWAY_STATE", "memory"),
    );
    let url = serving.url.as_str();
    let output = run(folder.path(), &["call", url, "one__echo", r#"{"text":"hi there"}"#]);
    assert_eq!((output.status.code(), out(&output)), (Some(0), "hi there\n".to_owned()), "{}", err(&output));
    let output = run(folder.path(), &["call", url, "one__stream", r#"{"ms":10}"#]);
    assert!(err(&output).contains("progress") && out(&output) == "streamed\n", "{}", err(&output));
    let output = run(folder.path(), &["call", url, "one__echo", r#"{"text":"x"}"#, "--json"]);
    let result: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(result["content"][0]["text"], json!("x"));
    assert_eq!(run(folder.path(), &["call", url, "one__none"]).status.code(), Some(1));
    let output = run(folder.path(), &["status", url]);
    assert!(out(&output).contains("one     up"), "{}", out(&output));
    let status: Value = serde_json::from_str(&out(&run(folder.path(), &["status", url, "--json"]))).unwrap();
    assert_eq!(status["servers"][0]["name"], json!("one"));
    // A gateway with a file is not pushed to.
    let output = causeway(folder.path()).args(["push", url, "--config", "g.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    #[cfg(unix)]
    assert_eq!(serving.stop(), Some(0));
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn second_signal_does_not_wait_for_requests() {
    let upstream = Fixture::start(Upstream::modern("one")).await;
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "mcpServers": { "one": { "url": upstream.url() } } });
    std::fs::write(folder.path().join("g.json"), config.to_string()).unwrap();
    let mut command = causeway(folder.path());
    let mut serving = Serving::start(command.env("CAUSEWAY_CONFIG", "g.json"));
    let mut call = causeway(folder.path());
    call.args(["call", &serving.url, "one__slow", r#"{"ms":9000}"#])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut call = call.spawn().unwrap();
    assert!(upstream.until(|upstream| upstream.trace().iter().any(|method| method == "tools/call")).await);
    serving.signal("-TERM");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(serving.process.try_wait().unwrap().is_none(), "the first one lets the call go on");
    let began = std::time::Instant::now();
    serving.signal("-INT");
    assert!(serving.process.wait().unwrap().code() == Some(0) && began.elapsed().as_secs() < 2);
    assert_eq!(call.wait().unwrap().code(), Some(1), "a call that was cut has failed");
}

#[test]
fn pushed_configuration_is_served_listed_rolled_back_and_kept() {
    let key = "an-administrators-key";
    let folder = tempfile::tempdir().unwrap();
    let serve = || {
        let mut command = causeway(folder.path());
        command.env("CAUSEWAY_ADMIN_KEY", key);
        Serving::start(&mut command)
    };
    let serving = serve();
    let remote = |arguments: &[&str]| {
        let url = [arguments[0], serving.url.as_str()];
        causeway(folder.path()).env("CAUSEWAY_KEY", key).args(url).args(&arguments[1..]).output().unwrap()
    };
    let output = run(folder.path(), &["push", &serving.url, "--list"]);
    assert!(output.status.code() == Some(1) && err(&output).contains("CAUSEWAY_KEY"), "{}", err(&output));
    assert_eq!(out(&remote(&["push", "--list"])), "nothing was pushed yet\n");
    std::fs::write(folder.path().join("g.yaml"), BAD).unwrap();
    assert_eq!(remote(&["push", "--config", "g.yaml"]).status.code(), Some(2));
    std::fs::write(folder.path().join("g.yaml"), GOOD).unwrap();
    let output = remote(&["push", "--config", "g.yaml"]);
    assert!(out(&output).starts_with("pushed version 1 ("), "{}", err(&output));
    std::fs::write(folder.path().join("g.yaml"), GOOD.replace("docs", "more")).unwrap();
    assert!(out(&remote(&["push", "--config", "g.yaml"])).starts_with("pushed version 2 ("));
    assert!(out(&remote(&["status"])).contains("more"));
    assert!(out(&remote(&["push", "--rollback"])).starts_with("rolled back to version 1 ("));
    assert!(out(&remote(&["status"])).contains("docs"));
    assert!(out(&remote(&["push", "--list"])).contains("*  1"));
    let listed: Value = serde_json::from_str(&out(&remote(&["push", "--list", "--json"]))).unwrap();
    assert_eq!(listed["current"]["version"], json!(1));
    assert_eq!(remote(&["push", "--rollback", "9"]).status.code(), Some(2));
    // What was pushed outlives the process: the next one needs neither file nor push.
    drop(serving);
    let serving = Serving::start(&mut causeway(folder.path()));
    assert!(out(&run(folder.path(), &["status", &serving.url])).contains("docs"));
}
