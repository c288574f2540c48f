//! Programs that misbehave, and what becomes of their callers.

use std::time::{Duration, Instant};

use causeway_suite::host::eventually;
use causeway_suite::{Answer, Client, ERAS, Era, with};
use serde_json::{Value, json};

use super::{children, fixture, gateway, left_out, signal, status};

/// What went wrong, in words: of a JSON-RPC error.
fn complaint(answer: &Answer) -> String {
    answer.last()["error"]["message"].as_str().unwrap_or_default().to_owned()
}

async fn echoes(client: &Client, text: &str) -> bool {
    client.tool("echo", json!({"text": text})).await.last()["result"]["content"][0]["text"] == text
}

#[tokio::test]
async fn calls_of_a_killed_process_each_get_one_clear_error() {
    if left_out("kill -9") {
        return;
    }
    for era in ["legacy", "modern"] {
        let gateway = gateway(fixture(&["--era", era])).await;
        let own = gateway.process().unwrap();
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        assert!(echoes(&client, "x").await);
        let given = async || {
            let processes = status(&gateway, "one").await["processes"].as_array().unwrap().clone();
            processes.iter().map(|process| process["calls"].as_u64().unwrap()).sum::<u64>()
        };
        let before = given().await;
        let calls = (0..20).map(|_| client.tool("slow", json!({"ms": 20_000})));
        let kill = async {
            assert!(eventually(async || given().await >= before + 20).await);
            // Requests with which sessions begin count as well: those that are still to come would find a new process.
            tokio::time::sleep(Duration::from_millis(500)).await;
            children(own).into_iter().for_each(|pid| signal("KILL", pid));
            Instant::now()
        };
        let (answers, killed) = tokio::join!(futures_util::future::join_all(calls), kill);
        assert!(killed.elapsed() < Duration::from_secs(15), "{era}: nobody waits for what cannot come");
        for answer in &answers {
            let said = complaint(answer);
            assert!(said.contains("ended in mid-call (ended by signal 9"), "{era}: {said:?}");
            assert_eq!(answer.messages.iter().filter(|message| message["error"].is_object()).count(), 1);
        }
        assert!(echoes(&client, "y").await, "{era}: the next call starts another");
        assert!(status(&gateway, "one").await["restarts"].as_u64().unwrap() >= 1);
    }
}

#[tokio::test]
async fn garbage_unknown_ids_and_half_lines_hurt_nobody_else() {
    if left_out("garbage") {
        return;
    }
    for era in ["legacy", "modern"] {
        let limits = json!({"timeouts": {"first_byte": "2s", "idle": "2s", "total": "4s"}});
        let gateway = gateway(with(fixture(&["--era", era]), limits)).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        assert!(echoes(&client, "x").await);
        let before = children(gateway.process().unwrap());
        for tool in ["break_garbage", "break_unknown_id", "break_half_line"] {
            let broken = client.tool(tool, json!({}));
            let other = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                echoes(&client, "other").await
            };
            let (answer, other) = tokio::join!(broken, other);
            assert!(complaint(&answer).contains("server \"one\""), "{era} {tool}: {}", answer.text);
            assert!(other, "{era} {tool}");
        }
        assert_eq!(children(gateway.process().unwrap()), before, "{era}: the process goes on");
        assert!(gateway.log().contains("printed what is no message"), "{}", gateway.log());
        assert!(gateway.log().contains("answered a request that nobody made"), "{}", gateway.log());
    }
}

#[tokio::test]
async fn a_program_that_chatters_on_its_output_works() {
    if left_out("chatter") {
        return;
    }
    for era in ["legacy", "modern", "dual"] {
        let gateway = gateway(fixture(&["--era", era, "--manners", "chatters"])).await;
        for client_era in ERAS {
            let client = Client::connect(&gateway, "/mcp/one", client_era).await;
            assert!(echoes(&client, "x").await, "{client_era:?}→{era}");
        }
    }
}

#[tokio::test]
async fn a_program_whose_line_does_not_end_is_replaced() {
    if left_out("an endless line") {
        return;
    }
    for era in ["legacy", "modern"] {
        let gateway = gateway(with(fixture(&["--era", era]), json!({"max_response": "1MiB"}))).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        assert!(echoes(&client, "x").await);
        let answer = client.tool("break_endless_line", json!({})).await;
        let said = complaint(&answer);
        assert!(said.contains("it prints a line that does not end"), "{era}: {said:?}");
        assert!(echoes(&client, "y").await, "{era}: the next call starts another");
    }
}

#[tokio::test]
async fn a_flood_is_read_slowly_and_starves_nobody() {
    if left_out("a flood") {
        return;
    }
    let config = json!({"mcpServers": {
        "one": with(fixture(&["--era", "modern"]), json!({"timeouts": {"first_byte": "3s", "idle": "3s", "total": "6s"}})),
        "two": fixture(&["--era", "modern"]),
    }});
    let gateway = causeway_suite::Gateway::start(config).await;
    let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
    let other = Client::connect(&gateway, "/mcp/two", Era::Modern).await;
    let flood = client.tool("break_flood", json!({}));
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..40 {
            let begun = Instant::now();
            let answer = other.tool("echo", json!({"text": "x"})).await;
            assert_eq!(answer.text(), "x");
            slowest = slowest.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        slowest
    };
    let (answer, slowest) = tokio::join!(flood, others);
    assert!(complaint(&answer).contains("server \"one\""), "{}", answer.text);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(gateway.resident().unwrap() < 150 * 1024, "{:?} KiB", gateway.resident());
    assert!(gateway.log().lines().count() < 400, "the log is bounded");
}

#[tokio::test]
async fn a_line_that_is_too_long_fails_its_own_call() {
    if left_out("a long line") {
        return;
    }
    let gateway = gateway(with(fixture(&["--era", "legacy"]), json!({"max_response": "1MiB"}))).await;
    let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
    let answer = client.tool("break_long_line", json!({})).await;
    assert!(
        complaint(&answer).contains("max_response"),
        "{}",
        answer.text.get(..300).unwrap_or(&answer.text)
    );
    assert!(echoes(&client, "x").await);
}

#[tokio::test]
async fn a_program_that_does_not_start_says_so_and_is_left_alone() {
    if left_out("dying at start") {
        return;
    }
    let gateway = gateway(fixture(&["--era", "legacy", "--manners", "dies-at-start"])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    let told = eventually(async || {
        let said = complaint(&client.tool("one__echo", json!({"text": "x"})).await);
        assert!(!said.is_empty());
        said.contains("it is tried again in") && said.contains("at start (exit code 0)")
    });
    assert!(told.await, "{}", gateway.log());
    assert_eq!(children(gateway.process().unwrap()).len(), 0);
    let status = status(&gateway, "one").await;
    assert_eq!(status["state"], "down");
    assert!(status["down"].as_str().unwrap().contains("ended at start"), "{status}");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_named() {
    if left_out("a missing command") {
        return;
    }
    let gateway = gateway(json!({"command": "no-such-program"})).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    let said = complaint(&client.tool("one__echo", json!({})).await);
    assert!(said.contains("`no-such-program` is not in PATH"), "{said}");
    assert!(status(&gateway, "one").await["last_error"].as_str().unwrap().contains("no-such-program"));
}

#[tokio::test]
async fn a_program_that_takes_an_early_question_amiss_is_served_all_the_same() {
    if left_out("early questions") {
        return;
    }
    for arguments in [
        &["--era", "legacy", "--manners", "dies-before-initialize"][..],
        &["--era", "legacy", "--answers-probe", "off"],
    ] {
        let gateway = gateway(fixture(arguments)).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        let served = eventually(async || {
            let answer: Value = client.tool("echo", json!({"text": "x"})).await.last().clone();
            answer["result"]["content"][0]["text"] == "x"
        });
        assert!(served.await, "{arguments:?}: {}", gateway.log());
    }
}

#[tokio::test]
async fn a_program_that_ends_after_each_call_answers_each_call() {
    if left_out("ending after each call") {
        return;
    }
    for era in ["legacy", "modern"] {
        let gateway = gateway(fixture(&["--era", era, "--manners", "exits-after-call"])).await;
        let client = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        for n in 0..8 {
            let text = n.to_string();
            assert!(echoes(&client, &text).await, "{era} {n}: {}", gateway.log());
            // Whoever asks a process that is just ending is told so, which is another case.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
