//! Answers that are kept for the very same question.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway::config::glob::Filter;
use causeway::config::plan::{Cache, Caller, Model, Plan, Policy, Prices, Provider, Target, Team};
use causeway::config::types::{ProviderKind, Together};
use causeway::llm::chat::{Stop, Whole};
use causeway::llm::convert::{Front, whole};
use causeway::platform::SeamError;
use causeway::testing::{Script, Step};
use serde_json::{Value, json};

use super::calls::{
    Asked, answering, change, heard, path, provider, question, saying, streaming, words, world_of,
};
use super::fixtures::{FRONTS, answers, wire};
use crate::world::{Got, World, globs, key};

fn cache() -> Cache {
    Cache {
        ttl: Duration::from_secs(60),
        size: 1 << 20,
        max_answer: 64 * 1024,
        shared: false,
        models: Filter::default(),
    }
}

/// Providers called `one`, `two`, … of these kinds, and what one keeps.
fn world(kinds: &[ProviderKind], more: impl FnOnce(&mut Plan)) -> World {
    let names = ["one", "two", "three"];
    let providers = kinds.iter().zip(names).map(|(kind, name)| provider(name, *kind)).collect();
    change(&world_of(providers), |plan| {
        plan.llm.cache = Some(cache());
        let prices = Some(Prices { input: 1.0, output: 2.0, ..Prices::default() });
        let model = |name: &str| Model { name: name.into(), prices, ..Model::default() };
        plan.llm.models = vec![model("one/some-model")];
        more(plan);
    })
}

/// A world with one provider of OpenAI's dialect, which says `Hello` each time.
fn simple(more: impl FnOnce(&mut Plan)) -> (World, Asked) {
    let world = world(&[ProviderKind::OpenaiCompatible], more);
    let asked = answering(&world, "one", vec![says("Hello", "stop")]);
    (world, asked)
}

fn says(text: &str, reason: &str) -> Result<Script, causeway::platform::SeamError> {
    let message = json!({"role": "assistant", "content": text});
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5});
    let choice = json!({"index": 0, "message": message, "finish_reason": reason});
    Ok(Script::json(json!({"id": "c", "choices": [choice], "usage": usage}).to_string()))
}

fn status(got: &Got) -> &str {
    got.header("cache-status")
}

fn hits(got: &Got) -> bool {
    status(got).starts_with("causeway; hit; ttl=")
}

#[test]
fn what_was_answered_once_is_answered_again_in_either_way_and_costs_nothing() {
    let mut kept = 0;
    for (name, kind, case, body, stream) in answers() {
        let expected = Whole::of(whole("p", kind, &body)).unwrap();
        for (_, front) in FRONTS {
            for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
                let at = format!("{name}: {case} to {front:?}, stream {first}, then {second}");
                let script = match first {
                    false => Script::json(body.to_string()),
                    true => streaming(kind, vec![Step::Send(wire(kind, &stream).into())]),
                };
                let world = world(&[kind], |_| {});
                let asked = answering(&world, "one", vec![Ok(script)]);
                let got = world.post(path(front), &[], &question(first));
                assert_eq!(status(&got), "causeway; fwd=miss", "{at}");
                let told = heard(front, &got, first);
                let mut again = question(second);
                again["stream_options"] = json!({"include_usage": true});
                if front == Front::Anthropic {
                    again.as_object_mut().unwrap().remove("stream_options");
                }
                let got = world.post(path(front), &[], &again);
                if !hits(&got) {
                    let good = matches!(expected.stop, Some(Stop::End | Stop::Tools));
                    assert!(!good || expected.parts.is_empty(), "{at}: not kept: {expected:?}");
                    continue;
                }
                kept += 1;
                assert_eq!(asked.lock().unwrap().len(), 1, "{at}");
                assert!(!got.trace.iter().any(|ask| ask.starts_with("http")), "{at}: {:?}", got.trace);
                let back = heard(front, &got, second);
                assert_eq!(back.parts, told.parts, "{at}: {}", got.body);
                assert_eq!(back.stop, told.stop, "{at}");
                assert_eq!((back.usage.input, back.usage.output), (Some(0), Some(0)), "{at}: {}", got.body);
                assert_eq!(got.header("x-causeway-provider"), "one", "{at}");
                assert_eq!((got.header("x-causeway-attempts"), got.header("age")), ("0", "0"), "{at}");
                let log = world.fake.logged();
                let line: Value = serde_json::from_str(log.last().unwrap()).unwrap();
                assert_eq!(
                    (&line["llm"]["cache"], &line["llm"]["cost"]),
                    (&json!("hit"), &json!(0.0)),
                    "{line}"
                );
                assert_eq!(
                    (&line["llm"]["input"], &line["llm"]["provider"]),
                    (&json!(0), &json!("one")),
                    "{line}"
                );
                assert!(!log.join("").contains("secret"), "{log:?}");
            }
        }
    }
    assert!(kept > 150, "{kept}");
}

/// Providers that are left alone as soon as they fail in a row.
fn impatient(plan: &mut Plan) {
    let once = |provider: &Arc<Provider>| Arc::new(Provider { retries: 0, ..(**provider).clone() });
    plan.llm.providers = plan.llm.providers.iter().map(once).collect();
}

fn other(number: usize) -> Value {
    let mut other = question(false);
    other["messages"][0]["content"] = format!("another question, {number}").into();
    other
}

#[test]
fn a_known_answer_is_given_while_everybody_is_left_alone() {
    for path in ["/v1/chat/completions", "/v1/messages", "/ask"] {
        let world = world(&[ProviderKind::OpenaiCompatible], impatient);
        let refused = Err(SeamError::Connect("connection refused".to_owned()));
        let asked = answering(&world, "one", vec![says("Hello", "stop"), refused]);
        let known = || match path {
            "/ask" => json!({"model": "some-model", "message": "a secret question"}),
            _ => question(false),
        };
        assert_eq!(status(&world.post(path, &[], &known())), "causeway; fwd=miss", "{path}");
        for number in 0..5 {
            assert_eq!(world.post("/v1/chat/completions", &[], &other(number)).status, 502);
        }
        let got = world.post("/v1/chat/completions", &[], &other(6));
        assert_eq!((got.status, got.header("retry-after")), (502, "10"), "{}", got.body);
        assert!(got.body.contains("left alone for 10 s"), "{}", got.body);
        assert_eq!(asked.lock().unwrap().len(), 6, "it is not asked");
        let mut streams = known();
        streams["stream"] = true.into();
        for known in [known(), streams] {
            let got = world.post(path, &[], &known);
            assert!(hits(&got) && got.status == 200, "{path}: {} {}", status(&got), got.body);
            assert!(got.body.contains("Hello"), "{path}: {}", got.body);
        }
        // Who wants no known answer is told how it is.
        for wish in ["no-cache", "no-store"] {
            let got = world.post(path, &[("cache-control", wish)], &known());
            assert_eq!((got.status, got.header("retry-after")), (502, "10"), "{path}: {}", got.body);
        }
        assert_eq!(asked.lock().unwrap().len(), 6);
    }
}

#[test]
fn an_answer_is_known_whoever_of_those_who_may_give_it_is_left_alone() {
    let kinds = [ProviderKind::OpenaiCompatible; 2];
    let world = world(&kinds, impatient);
    let refused = Err(SeamError::Connect("connection refused".to_owned()));
    answering(&world, "one", vec![says("Hello", "stop"), refused]);
    answering(&world, "two", vec![says("Good day", "stop")]);
    world.post("/v1/chat/completions", &[], &question(false));
    for number in 0..6 {
        let got = world.post("/v1/chat/completions", &[], &other(number));
        assert_eq!((got.status, got.header("x-causeway-provider")), (200, "two"), "{}", got.body);
    }
    let got = world.post("/v1/chat/completions", &[], &question(false));
    assert!(hits(&got) && got.body.contains("Hello"), "{} {}", status(&got), got.body);
}

#[test]
fn another_instance_finds_it_in_the_store_until_its_time_is_over() {
    let (mut world, asked) = simple(|_| {});
    let got = world.post("/v1/chat/completions", &[], &question(false));
    assert_eq!(got.trace, ["kv.read answers/N", "http.send POST one -"].map(|ask| place(ask, &got)));
    world.restart();
    world.fake.pass(Duration::from_secs(10));
    let got = world.post("/v1/chat/completions", &[], &question(false));
    assert!(hits(&got), "{}", status(&got));
    assert_eq!((got.header("age"), status(&got)), ("10", "causeway; hit; ttl=50"));
    assert_eq!(got.trace.len(), 1, "the store is asked once: {:?}", got.trace);
    let got = world.post("/v1/chat/completions", &[], &question(false));
    assert!(hits(&got) && got.trace.is_empty(), "now it is in memory: {:?}", got.trace);
    world.fake.pass(Duration::from_secs(50));
    assert_eq!(status(&world.post("/v1/chat/completions", &[], &question(false))), "causeway; fwd=miss");
    assert_eq!(asked.lock().unwrap().len(), 2);
}

/// `ask` with the number that the trace of `got` has.
fn place(ask: &str, got: &Got) -> String {
    let own = got.trace.iter().find_map(|own| own.strip_prefix("kv.read answers/")).unwrap_or("N");
    ask.replace("/N", &format!("/{own}"))
}

#[test]
fn only_the_very_same_question_of_the_same_caller_is_answered_so() {
    let check = |shared: bool, change: &dyn Fn(&mut Value), headers: &[(&str, &str)], same: bool| {
        let (world, _) = simple(|plan| {
            plan.llm.cache = Some(Cache { shared, ..cache() });
            plan.keys = vec![
                key("ann", Filter::default(), Filter::default()),
                key("bob", Filter::default(), Filter::default()),
            ];
        });
        let ann = [("authorization", "Bearer ann-key")];
        assert_eq!(world.post("/v1/chat/completions", &ann, &question(false)).status, 200);
        let mut again = question(false);
        change(&mut again);
        let headers = if headers.is_empty() { &ann } else { headers };
        let got = world.post("/v1/chat/completions", headers, &again);
        assert_eq!(hits(&got), same, "{shared} {again} {headers:?}: {}", status(&got));
    };
    let bob = [("authorization", "Bearer bob-key")];
    check(false, &|_| {}, &[], true);
    check(false, &|_| {}, &bob, false);
    check(true, &|_| {}, &bob, true);
    check(false, &|body| body["model"] = "one/some-model".into(), &[], true);
    check(false, &|body| body["model"] = "other-model".into(), &[], false);
    check(false, &|body| body["max_tokens"] = 51.into(), &[], false);
    check(false, &|body| body["user"] = "x".into(), &[], false);
    check(false, &|body| body["made_up"] = 1.into(), &[], false);
    check(false, &|body| body["messages"][0]["content"] = "a secret question ".into(), &[], false);
    check(
        false,
        &|body| {
            // The order of members says nothing.
            let members = body.as_object().unwrap().clone();
            *body = members.into_iter().rev().collect::<serde_json::Map<_, _>>().into();
        },
        &[],
        true,
    );
}

#[test]
fn a_team_answers_nobody_with_the_words_of_a_model_that_is_denied_to_them() {
    let world = world(&[ProviderKind::OpenaiCompatible; 2], |plan| {
        plan.llm.cache = Some(Cache { shared: true, ..cache() });
        plan.llm.teams = vec![Team {
            name: "chain/t".into(),
            how: Together::Chain,
            models: vec!["one/some-model".into(), "two/some-model".into()],
            time: Duration::from_secs(60),
            ..Team::default()
        }];
        let denying = |name: &str, deny: &[&str]| {
            let mut key = key(name, Filter::default(), Filter::default());
            let models = Filter { allow: Vec::new(), deny: globs(deny).allow };
            key.caller = Caller { models, ..(*key.caller).clone() }.into();
            key
        };
        plan.keys = vec![denying("ann", &[]), denying("bob", &[]), denying("cy", &["two/*"])];
    });
    answering(&world, "one", vec![says("One", "stop")]);
    answering(&world, "two", vec![says("Two", "stop")]);
    let ask = |name: &str| {
        let mut question = question(false);
        question["model"] = "chain/t".into();
        let key = format!("Bearer {name}-key");
        hits(&world.post("/v1/chat/completions", &[("authorization", &key)], &question))
    };
    assert!(!ask("ann"));
    assert!(ask("ann") && ask("bob"));
    assert!(!ask("cy"));
}

#[test]
fn a_caller_says_what_they_want_of_the_cache() {
    let (world, asked) = simple(|_| {});
    let ask = |headers: &[(&str, &str)]| world.post("/v1/chat/completions", headers, &question(false));
    let count = || asked.lock().unwrap().len();
    let got = ask(&[("cache-control", "no-store")]);
    assert_eq!((status(&got), got.trace.len()), ("causeway; fwd=request", 1), "the store is not asked");
    assert_eq!(status(&ask(&[])), "causeway; fwd=miss", "and nothing was kept");
    assert!(hits(&ask(&[])));
    assert_eq!(status(&ask(&[("cache-control", "no-cache")])), "causeway; fwd=request");
    assert_eq!(count(), 3);
    world.fake.pass(Duration::from_secs(20));
    assert!(hits(&ask(&[("cache-control", "max-age=30")])));
    assert_eq!(status(&ask(&[("cache-control", "max-age=10")])), "causeway; fwd=miss");
    assert_eq!(ask(&[]).header("age"), "0", "what was new is kept in its place");
    assert_eq!(count(), 4);
}

#[test]
fn what_is_not_asked_for_by_configuration_is_not_kept() {
    let (world, _) = simple(|plan| plan.llm.cache = None);
    for _ in 0..2 {
        let got = world.post("/v1/chat/completions", &[], &question(false));
        assert_eq!(
            (status(&got), got.trace.as_slice()),
            ("", ["http.send POST one -".to_owned()].as_slice())
        );
    }
    let (world, _) = simple(|plan| plan.llm.cache = Some(Cache { models: globs(&["other*"]), ..cache() }));
    world.post("/v1/chat/completions", &[], &question(false));
    assert_eq!(status(&world.post("/v1/chat/completions", &[], &question(false))), "");
}

#[test]
fn errors_and_what_is_not_whole_are_not_kept() {
    type Answer = Result<Script, causeway::platform::SeamError>;
    let part = |how: Step| {
        let mut steps = saying(ProviderKind::OpenaiCompatible, &["Half"]);
        steps.push(how);
        Ok(streaming(ProviderKind::OpenaiCompatible, steps))
    };
    let cases: Vec<(&str, Answer, bool)> = vec![
        ("an error", Ok(Script::new(400, "application/json", "{\"error\":{\"message\":\"no\"}}")), false),
        ("cut short", says("Hello", "length"), false),
        ("filtered", says("Hello", "content_filter"), false),
        ("nothing said", says("", "stop"), false),
        ("too large", says(&"x".repeat(70_000), "stop"), false),
        ("a cut", part(Step::Cut), true),
        (
            "no end",
            Ok(streaming(ProviderKind::OpenaiCompatible, saying(ProviderKind::OpenaiCompatible, &["Half"]))),
            true,
        ),
    ];
    for (what, answer, stream) in cases {
        let world = world(&[ProviderKind::OpenaiCompatible], |_| {});
        answering(&world, "one", vec![answer, says("Well", "stop")]);
        world.post("/v1/chat/completions", &[], &question(stream));
        let got = world.post("/v1/chat/completions", &[], &question(false));
        assert_eq!(status(&got), "causeway; fwd=miss", "{what}");
        assert_eq!(words(&heard(Front::OpenAi, &got, false)), "Well", "{what}");
    }
}

#[test]
fn an_answer_that_went_on_is_not_kept() {
    let kind = ProviderKind::Anthropic;
    let world = world(&[kind], |plan| {
        let model = &mut plan.llm.models[0];
        model.features = Some([causeway::config::types::Feature::Prefill].into_iter().collect());
    });
    let mut first = saying(kind, &["Half"]);
    first.push(Step::Cut);
    let (.., stream) =
        answers().into_iter().find(|(_, own, case, ..)| *own == kind && case == "plain").unwrap();
    let rest = streaming(kind, vec![Step::Send(wire(kind, &stream).into())]);
    answering(&world, "one", vec![Ok(streaming(kind, first)), Ok(rest)]);
    let got = world.post("/v1/messages", &[], &question(true));
    assert!(words(&heard(Front::Anthropic, &got, true)).starts_with("Half"), "{}", got.body);
    let got = world.post("/v1/messages", &[], &question(true));
    assert_eq!(status(&got), "causeway; fwd=miss");
}

#[test]
fn policies_and_teams_have_answers_of_their_own() {
    let target = |name: &str| (Target { provider: name.into(), model: "some-model".into() }, 0);
    let world = world(&[ProviderKind::OpenaiCompatible; 2], |plan| {
        let policy = |name: &str, targets| Policy { name: name.into(), targets, ..Policy::default() };
        plan.llm.policies = vec![
            policy("p", vec![target("one"), target("two")]),
            policy("q", vec![target("one"), target("two")]),
        ];
        plan.llm.teams = vec![Team {
            name: "chain/t".into(),
            how: Together::Chain,
            models: vec!["one/some-model".into(), "two/some-model".into()],
            time: Duration::from_secs(60),
            ..Team::default()
        }];
    });
    answering(&world, "one", vec![says("One", "stop")]);
    let two = answering(
        &world,
        "two",
        vec![Ok(Script::new(503, "application/json", "{\"error\":{}}")), says("Two", "stop")],
    );
    let ask = |model: &str| {
        let mut question = question(false);
        question["model"] = model.into();
        let got = world.post("/v1/chat/completions", &[], &question);
        (hits(&got), words(&heard(Front::OpenAi, &got, false)))
    };
    assert_eq!(ask("p"), (false, "One".to_owned()));
    assert_eq!(ask("p"), (true, "One".to_owned()));
    assert_eq!(ask("q"), (false, "One".to_owned()));
    // A draft that stands for what did not come is no answer to keep. The provider is asked until it gives up.
    for _ in 0..4 {
        let (hit, said) = ask("chain/t");
        assert!(!hit, "{said}");
        if said == "Two" {
            break;
        }
    }
    let asked = two.lock().unwrap().len();
    assert_eq!(ask("chain/t"), (true, "Two".to_owned()));
    assert_eq!(two.lock().unwrap().len(), asked);
}

#[test]
fn the_gateways_own_front_says_that_nothing_was_spent() {
    let (world, asked) = simple(|_| {});
    let ask = |stream: bool| {
        world.post(
            "/ask",
            &[],
            &json!({"message": "a secret question", "model": "some-model", "stream": stream}),
        )
    };
    assert_eq!(ask(false).json()["cost"], json!(0.00002));
    let got = ask(false);
    let answer = got.json();
    assert!(hits(&got), "{}", got.body);
    assert_eq!(
        (&answer["text"], &answer["cost"], &answer["provider"]),
        (&json!("Hello"), &json!(0.0), &json!("one"))
    );
    assert_eq!((&answer["usage"]["input_tokens"], &answer["attempts"]), (&json!(0), &json!([])), "{answer}");
    let streamed = ask(true);
    assert!(streamed.body.starts_with("event: start\ndata: {\"provider\":\"one\""), "{}", streamed.body);
    assert!(streamed.body.contains("event: done"), "{}", streamed.body);
    assert_eq!(asked.lock().unwrap().len(), 1);
    let status =
        world.send(http::Request::get("/status").header("host", "localhost").body(Bytes::new()).unwrap());
    let cache = &status.json()["models"]["cache"];
    assert_eq!(
        (&cache["hits"], &cache["misses"], &cache["answers"]),
        (&json!(2), &json!(1), &json!(1)),
        "{cache}"
    );
}

#[test]
fn what_the_store_holds_is_bounded() {
    let (world, _) = simple(|plan| {
        plan.llm.cache = Some(Cache { size: 64 * 1024, max_answer: 16 * 1024, ..cache() });
    });
    let mut places = std::collections::BTreeSet::new();
    for number in 0..40 {
        let mut question = question(false);
        question["messages"][0]["content"] = format!("question {number}").into();
        let got = world.post("/v1/chat/completions", &[], &question);
        places.extend(got.trace.into_iter().filter(|ask| ask.starts_with("kv.read answers/")));
    }
    assert_eq!(places.len(), 4, "{places:?}");
}
