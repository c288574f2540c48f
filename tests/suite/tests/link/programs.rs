//! Stdio servers behind a link: programs that the companion runs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use causeway_suite::host::{eventually, fixture_program};
use causeway_suite::processes::{below, fixtures, is_there, open_files, signal};
use causeway_suite::{Companion, Gateway, Host, Request, with};
use serde_json::{Value, json};

use super::proxy::Proxy;
use super::{CALLER, KEY, behind, error};

/// The fixture as programs, each with its arguments.
fn programs(servers: &[(&str, &[&str])]) -> Value {
    let mut all = json!({});
    for (name, arguments) in servers {
        let arguments: Vec<&str> = ["--stdio"].iter().chain(*arguments).copied().collect();
        all[name] = json!({"command": fixture_program(), "args": arguments});
    }
    json!({ "mcpServers": all })
}

async fn connected(gateway: &Gateway, offer: &Value) -> Companion {
    Companion::start(&gateway.url(""), "laptop", Some(KEY), offer, &[]).await
}

fn call(gateway: &Gateway, server: &str, tool: &str, arguments: Value) -> Request {
    let params = json!({"name": tool, "arguments": arguments});
    Request::modern(gateway.url(&format!("/mcp/{server}")), 7, "tools/call", params)
        .header("authorization", &format!("Bearer {CALLER}"))
}

async fn assert_echoes(gateway: &Gateway, server: &str) {
    let answer = call(gateway, server, "echo", json!({"text": "hi"})).answer().await;
    assert_eq!(answer.text(), "hi", "{server}: {answer:?}");
}

/// Checks that an answer is a result or one clear error, and which.
fn assert_ends_once(messages: &[Value]) -> Result<(), String> {
    let ends: Vec<&Value> = messages
        .iter()
        .filter(|message| message["result"].is_object() || message["error"].is_object())
        .collect();
    assert_eq!(ends.len(), 1, "{messages:?}");
    match ends[0]["error"]["message"].as_str() {
        None => Ok(()),
        Some(why) => {
            assert!(why.contains("server \"") || why.contains("laptop"), "{why}");
            Err(why.to_owned())
        }
    }
}

async fn open_calls(gateway: &Gateway) -> u64 {
    let request =
        Request::new("GET", gateway.url("/status")).header("authorization", &format!("Bearer {CALLER}"));
    let status: Value = serde_json::from_str(&request.send().await.text().await).unwrap();
    status["links"][0]["open"].as_u64().unwrap()
}

#[tokio::test]
async fn a_killed_process_behind_a_link_ends_each_of_its_calls_once() {
    for era in ["legacy", "modern"] {
        let gateway = Gateway::start(behind(&["one"])).await;
        let companion = connected(&gateway, &programs(&[("one", &["--era", era])])).await;
        assert_echoes(&gateway, "one").await;
        let own = companion.process().unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let slow = || {
            let meta = json!({"progressToken": "p"});
            let params = json!({"name": "slow", "arguments": {"ms": 30_000}, "_meta": meta});
            let request = Request::modern(gateway.url("/mcp/one"), 7, "tools/call", params)
                .header("authorization", &format!("Bearer {CALLER}"));
            let begun = begun.clone();
            async move {
                let mut events = request.send().await.events();
                let mut messages = Vec::new();
                while let Some((message, _)) = events.next().await {
                    if messages.is_empty() {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                    messages.push(message);
                }
                messages
            }
        };
        let calls: Vec<_> = (0..20).map(|_| tokio::spawn(slow())).collect();
        let all = eventually(async || begun.load(Ordering::Relaxed) >= calls.len()).await;
        assert!(all, "{era}: {} calls have reached the process", begun.load(Ordering::Relaxed));
        fixtures(own).into_iter().for_each(|pid| signal("KILL", pid));
        // Long before they would have been answered.
        let told = tokio::time::timeout(Duration::from_secs(25), futures_util::future::join_all(calls)).await;
        for messages in told.unwrap_or_else(|_| panic!("{era}: not all are told")) {
            let why = assert_ends_once(&messages.unwrap()).expect_err("the process was killed");
            assert!(why.contains("ended in mid-call"), "{era}: {why}");
        }
        assert_echoes(&gateway, "one").await;
    }
}

#[tokio::test]
async fn a_program_that_misbehaves_behind_a_link_hurts_nobody_else() {
    let limits = json!({"timeouts": {"first_byte": "6s", "idle": "6s", "total": "12s"}});
    for era in ["legacy", "modern"] {
        let config = with(behind(&["one", "two"]), json!({"mcpServers": {"one": limits}}));
        let gateway = Gateway::start(config).await;
        let offer = programs(&[("one", &["--era", era]), ("two", &["--era", era])]);
        let companion = connected(&gateway, &offer).await;
        assert_echoes(&gateway, "one").await;
        assert_echoes(&gateway, "two").await;
        let before = fixtures(companion.process().unwrap());
        for tool in ["break_garbage", "break_unknown_id", "break_half_line"] {
            let broken = call(&gateway, "one", tool, json!({})).answer();
            let other = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                assert_echoes(&gateway, "one").await;
            };
            let (answer, ()) = tokio::join!(broken, other);
            assert!(error(&answer).contains("server \"one\""), "{era} {tool}: {answer:?}");
        }
        let after = fixtures(companion.process().unwrap());
        assert!(after.is_superset(&before), "{era}: the processes go on: {before:?}, {after:?}");
        // An instance that comes later has sessions of its own.
        if gateway.host() != Host::Spin {
            assert_eq!(after, before, "{era}");
        }
        let flood = call(&gateway, "one", "break_flood", json!({})).answer();
        let others = async {
            for _ in 0..20 {
                let began = Instant::now();
                assert_echoes(&gateway, "two").await;
                assert!(began.elapsed() < Duration::from_secs(15), "{era}: {:?}", began.elapsed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let (answer, ()) = tokio::join!(flood, others);
        assert!(error(&answer).contains("server \"one\""), "{era}: {answer:?}");
        assert_eq!(companion.connections(), 1, "{era}: the link has held");
    }
}

/// Those of `processes` that are there.
fn left(processes: &BTreeMap<u32, String>) -> Vec<(&u32, &String)> {
    processes.iter().filter(|(pid, _)| is_there(**pid)).collect()
}

#[tokio::test]
async fn a_companion_that_is_killed_or_stopped_leaves_no_process_behind() {
    let gateway = Gateway::start(behind(&["one", "two", "three"])).await;
    let mut offer = programs(&[
        ("one", &["--era", "legacy"]),
        // It goes on when its input is closed and when it is asked to end.
        ("two", &["--era", "modern", "--manners", "stays"]),
        ("three", &["--era", "modern"]),
    ]);
    offer["mcpServers"]["three"]["sandbox"] = json!("off");
    let mut companion = connected(&gateway, &offer).await;
    let serve = async || {
        for name in ["one", "two", "three"] {
            assert_echoes(&gateway, name).await;
        }
    };
    serve().await;
    let slow = call(&gateway, "two", "slow", json!({"ms": 60_000, "quiet": true}));
    let pending = tokio::spawn(slow.answer());
    assert!(eventually(async || open_calls(&gateway).await >= 1).await);
    let all = below(companion.process().unwrap());
    assert!(all.len() >= 3 && left(&all).len() == all.len(), "{all:?}");
    companion.kill().await;
    assert!(eventually(async || left(&all).is_empty()).await, "{:?}", left(&all));
    let why = assert_ends_once(&pending.await.unwrap().messages).unwrap_err();
    assert!(why.contains("laptop"), "{why}");
    companion.again().await;
    serve().await;
    let own = companion.process().unwrap();
    let all = below(own);
    signal("TERM", own);
    let (status, said) = companion.ended().await;
    assert!(status.success(), "{said}");
    // It waits for what it has started.
    assert!(left(&all).is_empty(), "{:?}", left(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reconnects_leave_exactly_the_processes_that_are_configured() {
    // It is the companion's side that this is about. An edge that is asked and answered by way of others takes longer.
    let count = if Host::chosen() == Host::Spin { 200 } else { 1000 };
    let names = ["one", "two", "three"];
    let gateway = Arc::new(Gateway::start(behind(&names)).await);
    let proxy = Proxy::to(gateway.authority()).await;
    let mut offer = programs(&names.map(|name| (name, &["--era", "modern"][..])));
    for name in names {
        offer["mcpServers"][name]["start"] = json!("eager");
    }
    // Two ends that dial as fast as they can.
    let more = ["--pause", "0.01"];
    let companion = Companion::start(&proxy.url(), "laptop", Some(KEY), &offer, &more).await;
    for name in names {
        assert_echoes(&gateway, name).await;
    }
    let own = companion.process().unwrap();
    let (before, files) = (below(own), open_files(own));
    assert_eq!(fixtures(own).len(), names.len());
    let over = Arc::new(AtomicBool::new(false));
    let calling = tokio::spawn({
        let (over, gateway) = (over.clone(), gateway.clone());
        async move {
            let (mut results, mut errors) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                let slow = call(&gateway, "one", "slow", json!({"ms": 30, "quiet": true}));
                match assert_ends_once(&slow.answer().await.messages) {
                    Ok(()) => results += 1,
                    Err(why) => errors.push(why),
                }
            }
            (results, errors)
        }
    });
    let began = Instant::now();
    for done in 0..count {
        proxy.cut();
        let since = Instant::now();
        while companion.connections() < done + 2 {
            assert!(since.elapsed() < Duration::from_secs(30), "it does not come back from cut {done}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let (results, errors) = calling.await.unwrap();
    let (after, files_after) = (below(own), open_files(own));
    let _ = writeln!(
        std::io::stderr(),
        "{count} reconnects in {:?}: {results} results, {} errors; open files: {files} before, {files_after} after",
        began.elapsed(),
        errors.len()
    );
    assert_eq!(after, before, "the same processes, and no others");
    assert!(files_after <= files + 8, "{files} open files became {files_after}");
    assert!(results > 0, "{errors:?}");
    for name in names {
        assert_echoes(&gateway, name).await;
    }
}
