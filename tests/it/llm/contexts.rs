//! `/context`: what is kept of users, and what `/ask` makes of it.

use std::time::Duration;

use bytes::Bytes;
use causeway::config::plan::{Contexts, Plan};
use causeway::config::types::ProviderKind;
use causeway::testing::{Script, Step};
use http::Request;
use serde_json::{Value, json};

use super::ask::{events, fits, lone, validator, whole_of};
use super::calls::{Asked, answering, change, saying, streaming};
use super::fixtures::wire;
use crate::world::{Got, World, globs, key};

/// A gateway with one provider that answers what was recorded of OpenAI, and what it was asked.
fn world(patch: impl FnOnce(&mut Plan)) -> (World, Asked) {
    let world = change(&lone(ProviderKind::Openai), patch);
    let asked = answering(&world, "up", vec![Ok(Script::json(whole_of(ProviderKind::Openai).to_string()))]);
    (world, asked)
}

fn ask(world: &World, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Got {
    let mut request = crate::world::request(path, headers, body);
    *request.method_mut() = method.parse().unwrap();
    world.send(request)
}

fn ids(world: &World, query: &str) -> (Vec<String>, Option<String>) {
    let got = ask(world, "GET", &format!("/context{query}"), &[], &json!({})).json();
    let ids = got["user_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
    (ids.collect(), got["next_cursor"].as_str().map(str::to_owned))
}

fn facts(world: &World, user: &str) -> Value {
    ask(world, "GET", &format!("/context/{user}"), &[], &json!({})).json()["context"]["memory"]["facts"]
        .clone()
}

fn with_fact(fact: &str) -> Value {
    json!({"context": {"memory": {"facts": [fact]}}})
}

#[test]
fn a_context_is_written_read_added_to_and_forgotten() {
    let (world, _) = world(|_| {});
    let kept = validator(&world, "kept");
    let path = "/context/ana%40example.org";
    assert_eq!(ask(&world, "GET", path, &[], &json!({})).status, 404);
    let made = ask(&world, "PUT", path, &[], &json!({"context": {"identity": {"name": "Ana"}}, "ttl": 3600}));
    assert_eq!(made.status, 201, "{}", made.body);
    fits(&kept, &made.json(), "made");
    assert_eq!((&made.json()["user_id"], &made.json()["ttl"]), (&json!("ana@example.org"), &json!(3600)));
    let read = ask(&world, "GET", path, &[], &json!({}));
    assert_eq!((read.status, &read.body, read.header("etag")), (200, &made.body, made.header("etag")));
    assert_eq!(read.trace, ["store.load context"]);
    world.fake.run(causeway::platform::Clock::sleep(
        causeway::platform::Platform::clock(&world.fake),
        Duration::from_secs(60),
    ));
    let more = json!({"context": {"identity": {"role": "ops"}, "memory": {"facts": ["likes tea"]}}});
    let added = ask(&world, "POST", path, &[], &more);
    assert_eq!(added.status, 200, "{}", added.body);
    let context = added.json()["context"].clone();
    assert_eq!(context["identity"], json!({"name": "Ana", "role": "ops"}));
    assert_ne!(added.header("etag"), made.header("etag"));
    assert_eq!(added.json()["created_at"], made.json()["created_at"]);
    let expires = |got: &Got| got.json()["expires_at"].as_u64().unwrap();
    assert!(expires(&added) >= expires(&made) + 60_000, "a write renews it");
    let replaced = ask(&world, "PUT", path, &[], &with_fact("has a cat"));
    assert_eq!(replaced.json()["context"], json!({"memory": {"facts": ["has a cat"]}}));
    let gone = ask(&world, "DELETE", path, &[], &json!({}));
    assert_eq!((gone.status, gone.body.as_str()), (204, ""));
    assert_eq!(ask(&world, "DELETE", path, &[], &json!({})).status, 404);
    assert_eq!(ask(&world, "GET", path, &[], &json!({})).status, 404);
    assert_eq!(ids(&world, "").0, [""; 0]);
}

#[test]
fn conditions_are_kept() {
    let (world, _) = world(|_| {});
    let path = "/context/ana";
    let put = |headers: &[(&str, &str)]| ask(&world, "PUT", path, headers, &with_fact("x"));
    assert_eq!(put(&[("if-match", "*")]).status, 412);
    let first = put(&[("if-none-match", "*")]);
    assert_eq!(first.status, 201);
    let old = first.header("etag").to_owned();
    assert!(old.starts_with('"') && old.ends_with('"'), "{old}");
    let got = put(&[("if-none-match", "*")]);
    assert_eq!((got.status, &got.json()["code"]), (412, &json!("precondition_failed")), "{}", got.body);
    let second = put(&[("if-match", &format!("\"other\", {old}"))]);
    assert_eq!(second.status, 200);
    assert_eq!(put(&[("if-match", &old)]).status, 412);
    assert_eq!(ask(&world, "POST", path, &[("if-match", &old)], &with_fact("y")).status, 412);
    assert_eq!(ask(&world, "DELETE", path, &[("if-match", &old)], &json!({})).status, 412);
    let new = second.header("etag");
    let unchanged = ask(&world, "GET", path, &[("if-none-match", &format!("W/{new}"))], &json!({}));
    assert_eq!((unchanged.status, unchanged.body.as_str(), unchanged.header("etag")), (304, "", new));
    assert_eq!(ask(&world, "GET", path, &[("if-none-match", &old)], &json!({})).status, 200);
    assert_eq!(ask(&world, "DELETE", path, &[("if-match", new)], &json!({})).status, 204);
}

#[test]
fn who_is_new_is_counted_before_anything_is_kept() {
    let (world, _) = world(|_| {});
    let made = ask(&world, "PUT", "/context/ana", &[], &json!({}));
    let at = |what: &str| made.trace.iter().position(|step| step == what).unwrap();
    assert!(at("store.swap contexts") < at("store.swap context"), "{:?}", made.trace);
    let again = ask(&world, "PUT", "/context/ana", &[], &json!({}));
    assert!(!again.trace.iter().any(|step| step.ends_with("contexts")), "{:?}", again.trace);
}

#[test]
fn what_is_added_has_one_place() {
    let (world, _) = world(|_| {});
    let post = |context: Value| ask(&world, "POST", "/context/ana", &[], &json!({ "context": context }));
    post(json!({
        "identity": {"name": "Ana", "attributes": {"a": "1", "b": "2"}},
        "memory": {"summary": "old", "facts": ["one"], "turns": [{"role": "user", "text": "hi"}]},
        "tools": {"definitions": [{"name": "look", "description": "old"}], "choice": "auto"},
        "docs": [{"uri": "u", "text": "old"}, {"title": "t", "text": "old"}, {"text": "plain"}],
    }));
    let got = post(json!({
        "identity": {"attributes": {"b": "3"}},
        "memory": {"summary": "new", "facts": ["one", "two"], "turns": [{"role": "user", "text": "hi"}]},
        "tools": {"definitions": [{"name": "look", "description": "new"}, {"name": "hear"}]},
        "docs": [{"uri": "u", "text": "new"}, {"title": "t", "text": "new"}, {"text": "plain"}, {"text": "other"}],
    }));
    let context = &got.json()["context"];
    assert_eq!(context["identity"]["attributes"], json!({"a": "1", "b": "3"}));
    assert_eq!(
        (&context["memory"]["summary"], &context["memory"]["facts"]),
        (&json!("new"), &json!(["one", "two"]))
    );
    assert_eq!(context["memory"]["turns"].as_array().unwrap().len(), 2);
    let tools: Vec<&Value> = context["tools"]["definitions"].as_array().unwrap().iter().collect();
    assert_eq!(
        (tools.len(), &tools[0]["description"], &context["tools"]["choice"]),
        (2, &json!("new"), &json!("auto"))
    );
    let docs: Vec<&Value> = context["docs"].as_array().unwrap().iter().map(|doc| &doc["text"]).collect();
    assert_eq!(docs, ["new", "new", "plain", "other"]);
}

#[test]
fn nothing_outgrows_its_limits() {
    let rules = Contexts { max_size: 2000, turns: 4, ..Contexts::default() };
    let (world, _) = world(|plan| plan.llm.contexts = rules);
    let large = with_fact(&"x".repeat(2000));
    for method in ["PUT", "POST"] {
        let got = ask(&world, method, "/context/ana", &[], &large);
        assert_eq!((got.status, &got.json()["code"]), (413, &json!("body_too_large")), "{}", got.body);
        assert!(got.body.contains("llm.contexts.max_size"), "{}", got.body);
    }
    let turns: Vec<Value> = (0..9).map(|i| json!({"role": "user", "text": i.to_string()})).collect();
    let got = ask(&world, "PUT", "/context/ana", &[], &json!({"context": {"memory": {"turns": turns}}}));
    let kept = got.json()["context"]["memory"]["turns"].clone();
    assert_eq!((kept.as_array().unwrap().len(), &kept[0]["text"]), (4, &json!("5")));
    let check = |path: &str, body: Value, pointer: Option<&str>| {
        let got = ask(&world, "PUT", path, &[], &body);
        assert_eq!(got.status, 422, "{}", got.body);
        assert_eq!(got.json()["errors"][0]["pointer"].as_str(), pointer, "{}", got.body);
    };
    check("/context/ana", json!({"ttl": 0}), Some("#/ttl"));
    check("/context/ana", json!({"ttl": 315_360_001_u64}), Some("#/ttl"));
    check("/context/ana", json!({"contxt": {}}), Some("#/contxt"));
    check("/context/ana", json!({"context": {"docs": [{}]}}), Some("#/context/docs/0/text"));
    check(&format!("/context/{}", "x".repeat(129)), json!({}), None);
    check("/context/a%00b", json!({}), None);
    assert_eq!(ask(&world, "GET", "/context?limit=0", &[], &json!({})).status, 422);
    assert_eq!(ask(&world, "GET", "/context?cursor=x", &[], &json!({})).status, 422);
    assert_eq!(ask(&world, "PATCH", "/context/ana", &[], &json!({})).status, 405);
    let got = ask(&world, "DELETE", "/context", &[], &json!({}));
    assert_eq!((got.status, got.header("allow")), (405, "GET"));
}

#[test]
fn what_is_added_cannot_be_more_than_may_be_written_at_once() {
    let (world, _) = world(|plan| plan.llm.contexts.max_size = 1_000_000);
    let docs = |from: usize| -> Value {
        let docs: Vec<Value> =
            (from..from + 150).map(|i| json!({"uri": i.to_string(), "text": "x"})).collect();
        json!({"context": {"docs": docs}})
    };
    assert_eq!(ask(&world, "POST", "/context/ana", &[], &docs(0)).status, 201);
    let got = ask(&world, "POST", "/context/ana", &[], &docs(150));
    assert_eq!(got.status, 422, "{}", got.body);
    assert_eq!(got.json()["errors"][0]["pointer"], json!("#/context/docs"), "{}", got.body);
}

#[test]
fn each_key_sees_its_own_unless_they_are_shared() {
    let keyed = |name: &str, shared: Option<&str>| {
        let mut key = key(name, globs(&[]), globs(&[]));
        std::sync::Arc::get_mut(&mut key.caller).unwrap().contexts = shared.map(str::to_owned);
        key
    };
    let keys = [("ann", None), ("bob", Some("sales")), ("cid", Some("sales")), ("sales", None)];
    let (world, _) = world(|plan| plan.keys = keys.map(|(name, shared)| keyed(name, shared)).into());
    let of = |who: &str, method: &str, path: &str| {
        let shown = format!("Bearer {who}-key");
        ask(&world, method, path, &[("authorization", &shown)], &with_fact(who))
    };
    assert_eq!(ask(&world, "GET", "/context/ana", &[], &json!({})).status, 401);
    assert_eq!(of("bob", "PUT", "/context/ana").status, 201);
    let fact = |who: &str| of(who, "GET", "/context/ana").json()["context"]["memory"]["facts"][0].clone();
    assert_eq!((fact("bob"), fact("cid")), (json!("bob"), json!("bob")));
    for stranger in ["ann", "sales"] {
        assert_eq!(of(stranger, "GET", "/context/ana").status, 404);
        assert_eq!(of(stranger, "GET", "/context").json()["user_ids"], json!([]));
    }
    assert_eq!(of("cid", "GET", "/context").json()["user_ids"], json!(["ana"]));
}

#[test]
fn all_are_listed_page_by_page_and_none_that_is_gone() {
    let (mut world, _) = world(|_| {});
    let mut all: Vec<String> = (0..50).map(|i| format!("user {i:02}/é")).collect();
    for id in &all {
        let path = format!("/context/{}", id.replace(' ', "%20").replace('/', "%2F").replace('é', "%C3%A9"));
        assert_eq!(ask(&world, "PUT", &path, &[], &json!({"ttl": 100})).status, 201);
    }
    let pages = |world: &World| {
        let (mut found, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..60 {
            let encoded = cursor.take().map(|cursor| {
                let bytes = cursor.bytes().map(|byte| format!("%{byte:02x}"));
                format!("&cursor={}", bytes.collect::<String>())
            });
            let (ids, next) = ids(world, &format!("?limit=7{}", encoded.unwrap_or_default()));
            assert!(ids.len() <= 7);
            found.extend(ids);
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        found.sort();
        found
    };
    assert_eq!(pages(&world), all);
    world.restart();
    // One is written again and lives on; the others' time is over.
    let sleep = |world: &World| {
        let clock = causeway::platform::Platform::clock(&world.fake);
        world.fake.run(causeway::platform::Clock::sleep(clock, Duration::from_secs(70)));
    };
    sleep(&world);
    ask(&world, "POST", "/context/user%2007%2F%C3%A9", &[], &json!({}));
    sleep(&world);
    all.retain(|id| id.contains("07"));
    assert_eq!(pages(&world), all);
    assert_eq!(ids(&world, "").0, all, "what is gone has been taken off the list");
}

#[test]
fn ask_knows_who_asks_and_remembers_what_was_said() {
    let (world, asked) = world(|_| {});
    ask(
        &world,
        "PUT",
        "/context/ana",
        &[],
        &json!({"context": {"identity": {"name": "Ana"}, "memory": {"facts": ["tea"]}}}),
    );
    let question = |text: &str| json!({"message": text, "user_id": "ana"});
    let first = world.post("/ask", &[], &question("one?"));
    assert_eq!((first.status, &first.json()["remembered"]), (200, &json!(true)), "{}", first.body);
    assert_eq!(first.trace, ["store.load context", "http.send POST up -", "store.swap context"]);
    fits(&validator(&world, "answer"), &first.json(), "remembered");
    let second = world.post("/ask", &[], &question("two?"));
    let said = first.json()["text"].clone();
    let sent: Value = serde_json::from_slice(asked.lock().unwrap().last().unwrap().body()).unwrap();
    let messages = sent["messages"].as_array().unwrap();
    let tail: Vec<&Value> =
        messages[messages.len() - 3..].iter().map(|message| &message["content"]).collect();
    assert_eq!(tail, [&json!("one?"), &said, &json!("two?")]);
    assert!(sent.to_string().contains("- name: Ana") && sent.to_string().contains("- tea"), "{sent}");
    let kept = ask(&world, "GET", "/context/ana", &[], &json!({})).json();
    let turns = kept["context"]["memory"]["turns"].as_array().unwrap();
    assert_eq!(turns.len(), 4);
    assert_eq!((&turns[2]["text"], &turns[2]["id"]), (&json!("two?"), &json!(second.header("x-request-id"))));
    // What is not to be remembered is not, and a conversation of the caller's own stands alone.
    let mut quiet = question("three?");
    quiet["remember"] = false.into();
    assert_eq!(world.post("/ask", &[], &quiet).json()["remembered"], false);
    let own = json!({"user_id": "ana", "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
    ]});
    assert_eq!(world.post("/ask", &[], &own).json()["remembered"], true);
    let sent: Value = serde_json::from_slice(asked.lock().unwrap().last().unwrap().body()).unwrap();
    assert!(!sent.to_string().contains("one?"), "{sent}");
    let kept = ask(&world, "GET", "/context/ana", &[], &json!({})).json();
    assert_eq!(kept["context"]["memory"]["turns"][4]["text"], "c");
    // Whoever has nothing kept yet has from now on.
    let new = world.post("/ask", &[], &json!({"message": "hi", "user_id": "bob"}));
    assert_eq!(new.json()["remembered"], true, "{}", new.body);
    let mut all = ids(&world, "").0;
    all.sort();
    assert_eq!(all, ["ana", "bob"]);
    assert!(world.fake.logged().iter().all(|line| !line.contains("one?") && !line.contains("tea")));
}

#[test]
fn streams_are_remembered_once_they_are_whole() {
    let (world, _) = world(|_| {});
    let kind = ProviderKind::Openai;
    let stream = super::fixtures::answers()
        .into_iter()
        .find(|(_, own, case, ..)| *own == kind && case == "plain")
        .unwrap()
        .4;
    let question = json!({"message": "hi", "user_id": "ana", "stream": true});
    answering(&world, "up", vec![Ok(streaming(kind, vec![Step::Send(wire(kind, &stream).into())]))]);
    let got = world.post("/ask", &[], &question);
    let done = events(&got.body).pop().unwrap();
    assert_eq!((done.0.as_str(), &done.1["remembered"]), ("done", &json!(true)), "{}", got.body);
    let mut steps = saying(kind, &["Half an"]);
    steps.push(Step::Cut);
    answering(&world, "up", vec![Ok(streaming(kind, steps))]);
    world.post("/ask", &[], &question);
    let kept = ask(&world, "GET", "/context/ana", &[], &json!({})).json();
    assert_eq!(kept["context"]["memory"]["turns"].as_array().unwrap().len(), 2, "{kept}");
}

#[test]
fn the_oldest_make_room_and_what_is_too_large_is_not_remembered() {
    let (world, _) = world(|plan| plan.llm.contexts.max_size = 2500);
    let say = |text: &str| world.post("/ask", &[], &json!({"message": text, "user_id": "ana"})).json();
    for i in 0..12 {
        assert_eq!(say(&format!("{i} {}", "x".repeat(400)))["remembered"], true, "{i}");
    }
    assert_eq!(say(&"x".repeat(3000))["remembered"], false);
    let kept = ask(&world, "GET", "/context/ana", &[], &json!({})).json();
    let turns = kept["context"]["memory"]["turns"].as_array().unwrap();
    assert!(turns.len() >= 2 && kept.to_string().len() <= 2500, "{kept}");
    assert!(turns[turns.len() - 2]["text"].as_str().unwrap().starts_with("11 "), "{kept}");
}

#[test]
fn what_was_forgotten_meanwhile_is_not_brought_back() {
    let (world, _) = world(|_| {});
    ask(&world, "PUT", "/context/ana", &[], &with_fact("x"));
    let body = whole_of(ProviderKind::Openai).to_string();
    let steps = vec![Step::Wait(Duration::from_secs(5)), Step::Send(body.into())];
    answering(&world, "up", vec![Ok(Script { body: steps, ..Script::new(200, "application/json", "") })]);
    let question = crate::world::request("/ask", &[], &json!({"message": "hi", "user_id": "ana"}));
    let mut forget = crate::world::request("/context/ana", &[], &json!({}));
    *forget.method_mut() = http::Method::DELETE;
    let (answer, gone) = world.fake.run(async {
        futures_util::join!(
            world.sent(question, async |_: &str| false),
            world.sent(forget, async |_: &str| false)
        )
    });
    assert_eq!((gone.status, answer.status), (204, 200));
    assert_eq!(answer.json()["remembered"], false);
    let gone = Request::get("/context/ana").header("host", "localhost").body(Bytes::new()).unwrap();
    assert_eq!(world.send(gone).status, 404);
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let (world, _) = world(|_| {});
    let post = |i: usize| crate::world::request("/context/ana", &[], &with_fact(&i.to_string()));
    let done: Vec<Got> = world.fake.run(async {
        let all = (0..8).map(|i| world.sent(post(i), async |_: &str| false));
        futures_util::future::join_all(all).await
    });
    assert!(done.iter().all(|got| got.status < 300));
    assert_eq!(facts(&world, "ana").as_array().unwrap().len(), 8);
}
