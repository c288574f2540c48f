//! What is asked and answered in the log, where the configuration says so.

use causeway::config::plan::{Plan, Provider};
use causeway::config::types::ProviderKind;
use causeway::testing::{Script, Step};
use serde_json::{Value, json};

use super::calls::{answering, change, path, provider, question, saying, streaming, world_of};
use super::fixtures::{FRONTS, answers, wire};
use crate::world::{Got, World};

fn logging(world: &World, most: usize) -> World {
    change(world, |plan: &mut Plan| plan.llm.log_content = most)
}

/// What the line of the last request says of a model's words.
fn line(world: &World) -> Value {
    let log = world.fake.logged();
    let line: Value = serde_json::from_str(log.last().unwrap()).unwrap();
    assert_eq!(line["event"], "request");
    assert!(line["request_id"].is_string());
    line
}

fn ask(world: &World, at: &str, stream: bool) -> Got {
    let got = world.post(at, &[], &question(stream));
    assert_eq!(got.status, 200, "{}", got.body);
    got
}

#[test]
fn prompt_and_answer_are_in_the_log_if_told_to_and_change_no_byte_of_the_answer() {
    for (name, kind, case, body, stream) in answers() {
        if case != "plain" {
            continue;
        }
        for (_, front) in FRONTS {
            for streams in [false, true] {
                let at = format!("{name} to {front:?}, stream {streams}");
                let script = match streams {
                    false => Script::json(body.to_string()),
                    true => streaming(kind, vec![Step::Send(wire(kind, &stream).into())]),
                };
                let silent = world_of(vec![provider("one", kind)]);
                let asked = answering(&silent, "one", vec![Ok(script)]);
                let told = ask(&silent, path(front), streams);
                let quiet = line(&silent);
                assert!(quiet["llm"]["prompt"].is_null() && quiet["llm"]["answer"].is_null(), "{at}");
                let world = logging(&silent, 4096);
                let got = ask(&world, path(front), streams);
                let text = |got: &Got| got.body.replace(got.header("x-request-id"), "ID");
                assert_eq!(text(&got), text(&told), "{at}");
                let said = line(&world);
                assert_eq!(said["level"], "info");
                assert_eq!(said["llm"]["prompt"], "user: a secret question\n", "{at}");
                let answer = said["llm"]["answer"].as_str().unwrap();
                assert!(answer.contains("Hello"), "{at}: {answer}");
                assert_eq!(answer.matches("Hello").count(), 1, "{at}: {answer}");
                assert!(
                    !said.to_string().contains("sk-upstream") && !said.to_string().contains("s3cret"),
                    "{at}"
                );
                let bodies: Vec<_> = asked.lock().unwrap().iter().map(|one| one.body().clone()).collect();
                assert_eq!(bodies[0], bodies[1], "{at}");
            }
        }
    }
}

#[test]
fn of_each_only_so_much_is_in_the_log() {
    let kind = ProviderKind::OpenaiCompatible;
    let words: Vec<String> = (0..1000).map(|number| format!(" é{number}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let world = logging(&world_of(vec![provider("one", kind)]), 100);
    let mut steps = saying(kind, &words);
    steps.push(Step::Send(
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
            .into(),
    ));
    answering(&world, "one", vec![Ok(streaming(kind, steps))]);
    let mut asked = question(true);
    asked["messages"][0]["content"] = "ü".repeat(100_000).into();
    let got = world.post("/v1/chat/completions", &[], &asked);
    assert!(got.body.contains("é999"), "the caller is told all of it");
    let said = line(&world);
    let (prompt, answer) = (said["llm"]["prompt"].as_str().unwrap(), said["llm"]["answer"].as_str().unwrap());
    assert!((98..=100).contains(&prompt.len()) && prompt.ends_with("üü\n"), "{prompt}");
    assert!((98..=100).contains(&answer.len()) && answer.starts_with(" é0 é1"), "{answer}");
}

#[test]
fn what_came_to_nothing_is_not_taken_for_an_answer() {
    let kind = ProviderKind::OpenaiCompatible;
    let quick = |name| Provider { retries: 0, ..provider(name, kind) };
    let world = logging(&world_of(vec![quick("one"), quick("two")]), 1000);
    let failed = json!({"error": {"message": "it broke", "code": 500}});
    answering(
        &world,
        "one",
        vec![Ok(streaming(kind, vec![Step::Send(format!("data: {failed}\n\n").into())]))],
    );
    let mut steps = saying(kind, &["Good", " day"]);
    steps.push(Step::Stall);
    answering(&world, "two", vec![Ok(streaming(kind, steps))]);
    // And who goes away half-way has been told what there was.
    let request = crate::world::request("/v1/chat/completions", &[], &question(true));
    world.fake.run(world.sent(request, async |seen: &str| seen.contains(" day")));
    world.fake.settle();
    let said = line(&world);
    assert_eq!(said["outcome"], "gone", "{said}");
    assert_eq!(said["llm"]["answer"], "Good day", "{said}");
    // A request that is none has no words to note.
    let got = world.post("/v1/chat/completions", &[], &json!({"model": "some-model", "messages": 7}));
    assert_ne!(got.status, 200, "{}", got.body);
    assert!(line(&world)["llm"]["prompt"].is_null());
}
