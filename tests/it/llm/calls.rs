//! Whole calls: a gateway in front of scripted providers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use causeway::config::glob::{Filter, Glob};
use causeway::config::plan::{Credential, Key, Llm, Model, Plan, Prices, Provider, Target};
use causeway::config::types::ProviderKind;
use causeway::llm::chat::{Part, Whole};
use causeway::llm::convert::{Dialect, Front, Reader, whole};
use causeway::llm::provider::dialect;
use causeway::platform::SeamError;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use super::fixtures::{FRONTS, answers, stream_type, wire};
use crate::world::{Got, World, key, plan};

pub(super) type Asked = Arc<Mutex<Vec<Request<Bytes>>>>;

pub(super) fn provider(name: &str, kind: ProviderKind) -> Provider {
    let mut provider = Provider::new(name, kind, format!("http://{name}/v1").parse().unwrap());
    provider.credential = match kind {
        ProviderKind::Bedrock => {
            Credential::Aws { id: "AKID".into(), secret: "s3cret".into(), session: None }
        }
        _ => Credential::Key("sk-upstream".into()),
    };
    provider.region = "us-east-1".to_owned();
    provider
}

/// A gateway in front of these providers.
pub(super) fn world_of(providers: Vec<Provider>) -> World {
    let mut plan: Plan = plan(vec![]);
    plan.llm = Llm { providers: providers.into_iter().map(Arc::new).collect(), ..Llm::default() };
    World::new(Fake::default(), plan)
}

pub(super) fn change(world: &World, change: impl FnOnce(&mut Plan)) -> World {
    let old = world.instance.plan().unwrap();
    let mut plan: Plan = plan(vec![]);
    plan.llm.providers.clone_from(&old.llm.providers);
    plan.llm.models.clone_from(&old.llm.models);
    change(&mut plan);
    World::new(world.fake.clone(), plan)
}

/// What the provider called `name` answers, in turn; the last for ever. Gives what it was asked.
pub(super) fn answering(world: &World, name: &str, scripts: Vec<Result<Script, SeamError>>) -> Asked {
    let asked: Asked = Arc::default();
    let (seen, scripts) = (asked.clone(), Mutex::new(VecDeque::from(scripts)));
    world.fake.upstream(name, move |request| {
        seen.lock().unwrap().push(request.clone());
        let mut scripts = scripts.lock().unwrap();
        if scripts.len() > 1 { scripts.pop_front().unwrap() } else { scripts.front().unwrap().clone() }
    });
    asked
}

pub(super) fn path(front: Front) -> &'static str {
    match front {
        Front::OpenAi => "/v1/chat/completions",
        Front::Anthropic => "/v1/messages",
        Front::Ask => "/ask",
        Front::Sampling => unreachable!("it has no path"),
    }
}

pub(super) fn question(stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "a secret question"}]);
    json!({"model": "some-model", "max_tokens": 50, "messages": messages, "stream": stream})
}

/// What was heard, as the caller of `front` hears it.
pub(super) fn heard(front: Front, got: &Got, stream: bool) -> Whole {
    let (own, kind) = match front {
        Front::OpenAi => (Dialect::OpenAi, ProviderKind::Openai),
        Front::Anthropic => (Dialect::Anthropic, ProviderKind::Anthropic),
        Front::Ask | Front::Sampling => unreachable!("nobody but the gateway speaks it"),
    };
    if !stream {
        return Whole::of(whole("caller", kind, &got.json()))
            .unwrap_or_else(|_| panic!("{} {}", got.status, got.body));
    }
    let (mut reader, mut events) = (Reader::new("caller", own, 1 << 20), Vec::new());
    reader.push(got.body.as_bytes(), &mut events).unwrap();
    assert!(reader.is_over(), "{}", got.body);
    Whole::of(events).unwrap_or_else(|_| panic!("{}", got.body))
}

pub(super) fn words(whole: &Whole) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        _ => None,
    };
    whole.parts.iter().filter_map(text).collect()
}

/// A stream of `kind` that says `texts`, each in a chunk of its own, without its end.
pub(super) fn saying(kind: ProviderKind, texts: &[&str]) -> Vec<Step> {
    let all = answers();
    let (.., stream) = all.iter().find(|(_, own, case, ..)| *own == kind && case == "plain").unwrap();
    let hello = stream.iter().position(|piece| piece.to_string().contains("Hello")).unwrap();
    let mut steps = vec![Step::Send(bytes_of(kind, &stream[..hello]))];
    for text in texts {
        let piece = stream[hello].to_string().replace("Hello", text);
        steps.push(Step::Send(bytes_of(kind, &[serde_json::from_str(&piece).unwrap()])));
    }
    steps
}

fn bytes_of(kind: ProviderKind, stream: &[Value]) -> Bytes {
    let bytes = wire(kind, stream);
    bytes.strip_suffix(b"data: [DONE]\n\n").map_or_else(|| bytes.clone().into(), Bytes::copy_from_slice)
}

pub(super) fn streaming(kind: ProviderKind, body: Vec<Step>) -> Script {
    Script { body, ..Script::new(200, stream_type(kind), "") }
}

#[test]
fn every_front_is_answered_by_every_provider_in_one_request() {
    for (name, kind, case, body, stream) in answers() {
        for (_, front) in FRONTS {
            for streams in [false, true] {
                let script = match streams {
                    false => Script::json(body.to_string()),
                    true => streaming(kind, vec![Step::Send(wire(kind, &stream).into())]),
                };
                let world = world_of(vec![provider("up", kind)]);
                let asked = answering(&world, "up", vec![Ok(script)]);
                let got = world.post(path(front), &[], &question(streams));
                let at = format!("{name}: {case} to {front:?}, stream {streams}: {}", got.body);
                assert_eq!(got.status, 200, "{at}");
                assert_eq!(got.trace, ["http.send POST up -"], "{at}");
                assert_eq!(got.header("x-causeway-provider"), "up");
                let kind_of = if streams { "text/event-stream; charset=utf-8" } else { "application/json" };
                assert_eq!(got.header("content-type"), kind_of);
                let expected = Whole::of(whole("p", kind, &body)).unwrap();
                let told = heard(front, &got, streams);
                assert_eq!(words(&told), words(&expected), "{at}");
                let calls =
                    |whole: &Whole| whole.parts.iter().filter(|part| matches!(part, Part::Call(_))).count();
                assert_eq!(calls(&told), calls(&expected), "{at}");
                let own = front == Front::OpenAi && dialect(kind) == Dialect::OpenAi;
                // A client that did not ask for usage is told it only by providers that cannot but tell.
                if !(streams && front == Front::OpenAi && !own) {
                    assert_eq!(told.usage.output, expected.usage.output, "{at}");
                }
                let asked = asked.lock().unwrap();
                assert_eq!(asked.len(), 1);
                let sent: Value = serde_json::from_slice(asked[0].body()).unwrap();
                assert!(sent.to_string().contains("a secret question"), "{at}");
                let log = world.fake.logged();
                let line: Value = serde_json::from_str(&log[0]).unwrap();
                assert_eq!(line["outcome"], "ok", "{line}");
                assert_eq!(line["llm"]["output"].as_u64(), expected.usage.output, "{line}");
                assert_eq!(line["llm"]["input"].as_u64(), expected.usage.input, "{line}");
                assert!(!log[0].contains("secret") && !log[0].contains("sk-"), "{line}");
            }
        }
    }
}

#[test]
fn the_gateway_shows_each_provider_its_own_credential() {
    let check = |kind: ProviderKind, header: &str, expect: &str, url: &str| {
        let world = world_of(vec![provider("up", kind)]);
        let asked = answering(&world, "up", vec![Ok(Script::json("{}"))]);
        let key = [("x-api-key", "cw_of_the_caller"), ("authorization", "Bearer cw_of_the_caller")];
        world.post("/v1/chat/completions", &key, &question(false));
        let asked = asked.lock().unwrap();
        let shown = asked[0].headers()[header].to_str().unwrap();
        assert!(shown.starts_with(expect), "{kind:?}: {shown}");
        assert!(!format!("{:?}", asked[0].headers()).contains("cw_of_the_caller"), "{kind:?}");
        assert_eq!(asked[0].uri().to_string(), url, "{kind:?}");
    };
    check(ProviderKind::Openai, "authorization", "Bearer sk-upstream", "http://up/v1/chat/completions");
    check(ProviderKind::OpenaiCompatible, "authorization", "Bearer sk-up", "http://up/v1/chat/completions");
    check(ProviderKind::Openrouter, "authorization", "Bearer sk-up", "http://up/v1/chat/completions");
    check(ProviderKind::Lmstudio, "authorization", "Bearer sk-up", "http://up/v1/chat/completions");
    check(ProviderKind::Ollama, "authorization", "Bearer sk-up", "http://up/api/chat");
    check(ProviderKind::Anthropic, "x-api-key", "sk-upstream", "http://up/v1/messages");
    check(
        ProviderKind::Gemini,
        "x-goog-api-key",
        "sk-upstream",
        "http://up/v1/models/some-model:generateContent",
    );
    check(ProviderKind::Azure, "api-key", "sk-upstream", "http://up/v1/openai/v1/chat/completions");
    let dial = "http://up/v1/openai/deployments/some-model/chat/completions?api-version=2024-10-21";
    check(ProviderKind::Dial, "api-key", "sk-upstream", dial);
    let signed = "AWS4-HMAC-SHA256 Credential=AKID/20231114/us-east-1/bedrock/aws4_request, SignedHeaders=";
    check(ProviderKind::Bedrock, "authorization", signed, "http://up/v1/model/some-model/converse");
}

#[test]
fn the_same_dialect_passes_through_untouched() {
    let request = "{ \"model\" : \"fast\",\n \"messages\":[{\"role\":\"user\",\"content\":\"\\u0068i\"}], \"n\":2, \"made_up\":1.50, \"max_tokens\":5 }";
    let cases = [
        (
            Front::OpenAi,
            ProviderKind::Openai,
            "{\"id\" : 1.0,\"choices\":[{\"index\":0,\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}] , \"new\":[ ]}",
        ),
        (
            Front::Anthropic,
            ProviderKind::Anthropic,
            "{\"content\":[ {\"type\":\"text\",\"text\":\"a\"} ],\"stop_reason\":\"end_turn\", \"new\" : 1}",
        ),
    ];
    for (front, kind, answer) in cases {
        let world = world_of(vec![provider("up", kind)]);
        let world = change(&world, |plan| {
            let target = Target { provider: "up".into(), model: "real-1".into() };
            plan.llm.models = vec![Model { name: "fast".into(), targets: vec![target], ..Model::default() }];
        });
        let asked = answering(
            &world,
            "up",
            vec![Ok(Script::json(answer).header("x-ratelimit-remaining-requests", "5"))],
        );
        let raw = |body: &'static str| {
            let request = Request::post(path(front))
                .header("host", "localhost")
                .header("content-type", "application/json");
            request.header("anthropic-beta", "x-2026").body(Bytes::from_static(body.as_bytes())).unwrap()
        };
        let got = world.send(raw(request));
        assert_eq!(got.body, answer);
        assert_eq!(got.header("x-ratelimit-remaining-requests"), "5");
        let asked = asked.lock().unwrap();
        assert_eq!(asked[0].body(), &request.replace("\"fast\"", "\"real-1\""));
        assert_eq!(asked[0].headers().contains_key("anthropic-beta"), front == Front::Anthropic);
    }
}

#[test]
fn a_stream_of_the_same_dialect_passes_through_untouched() {
    for (_, kind, case, _, stream) in answers() {
        let front = match dialect(kind) {
            Dialect::OpenAi => Front::OpenAi,
            Dialect::Anthropic => Front::Anthropic,
            _ => continue,
        };
        let mut bytes = b": a comment\r\n\r\n".to_vec();
        bytes.extend(wire(kind, &stream));
        bytes.extend_from_slice(b": the end\n");
        let world = world_of(vec![provider("up", kind)]);
        let steps = bytes.chunks(7).map(|chunk| Step::Send(Bytes::copy_from_slice(chunk))).collect();
        answering(&world, "up", vec![Ok(streaming(kind, steps))]);
        let got = world.post(path(front), &[], &question(true));
        assert_eq!(got.body.as_bytes(), bytes, "{kind:?}: {case}");
    }
}

#[test]
fn the_next_provider_answers_when_the_first_fails_before_its_first_word() {
    type Answer = fn(ProviderKind) -> Result<Script, SeamError>;
    let failing: Vec<(&str, Answer)> = vec![
        ("refused", |_| Err(SeamError::Connect("refused".into()))),
        ("overloaded", |_| Ok(Script::new(503, "application/json", "{\"error\":{\"message\":\"later\"}}"))),
        ("not authorized", |_| {
            Ok(Script::new(401, "application/json", "{\"error\":{\"message\":\"sk-upst\"}}"))
        }),
        ("no such model", |_| Ok(Script::new(404, "application/json", "{\"error\":{\"message\":\"x\"}}"))),
        ("cut", |kind| Ok(streaming(kind, vec![Step::Cut]))),
        ("ended", |kind| Ok(streaming(kind, vec![]))),
        ("cut after its start", |kind| {
            let mut steps = saying(kind, &[]);
            steps.push(Step::Cut);
            Ok(streaming(kind, steps))
        }),
        ("stalled", |kind| {
            let mut steps = saying(kind, &[]);
            steps.push(Step::Stall);
            Ok(streaming(kind, steps))
        }),
        ("silent", |kind| Ok(Script { delay: Duration::from_secs(3600), ..streaming(kind, vec![]) })),
        ("nonsense", |kind| match dialect(kind) {
            Dialect::Bedrock => Ok(streaming(kind, vec![Step::Send(Bytes::from_static(&[0xff; 64]))])),
            Dialect::Ollama => Ok(streaming(kind, vec![Step::Send(Bytes::from_static(b"oops\n"))])),
            _ => Ok(streaming(kind, vec![Step::Send(Bytes::from_static(b"data: oops\n\n"))])),
        }),
    ];
    for (_, first) in ProviderKind::ALL {
        for (_, second) in [
            ("openai", ProviderKind::Openai),
            ("anthropic", ProviderKind::Anthropic),
            ("gemini", ProviderKind::Gemini),
        ] {
            for (how, script) in &failing {
                for (_, front) in FRONTS {
                    let world = two(first, second);
                    answering(&world, "one", vec![script(first)]);
                    let mut steps = saying(second, &["It", " works"]);
                    let rest = answers()
                        .into_iter()
                        .find(|(_, own, case, ..)| *own == second && case == "plain")
                        .unwrap()
                        .4;
                    let from = rest.iter().position(|piece| piece.to_string().contains("world")).unwrap();
                    steps.push(Step::Send(wire(second, &rest[from + 1..]).into()));
                    if second == ProviderKind::Gemini {
                        steps.push(Step::Send(wire(second, &rest[from..]).into()));
                    }
                    answering(&world, "two", vec![Ok(streaming(second, steps))]);
                    let got = world.post(path(front), &[], &question(true));
                    let at = format!("{how}: {first:?} then {second:?} to {front:?}: {}", got.body);
                    assert_eq!(got.status, 200, "{at}");
                    let told = heard(front, &got, true);
                    assert!(words(&told).starts_with("It works"), "{at}");
                    let starts = match front {
                        Front::OpenAi => got.body.matches("\"role\":\"assistant\"").count(),
                        Front::Anthropic => got.body.matches("event: message_start").count(),
                        Front::Ask | Front::Sampling => got.body.matches("event: start").count(),
                    };
                    assert_eq!(starts, 1, "{at}");
                    let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
                    assert_eq!(
                        (&line["llm"]["provider"], &line["llm"]["attempts"]),
                        (&json!("two"), &json!(2)),
                        "{at}"
                    );
                }
            }
        }
    }
}

/// Two providers of `some-model`, asked in this order.
pub(super) fn two(first: ProviderKind, second: ProviderKind) -> World {
    let target = |provider: &str| Target { provider: provider.into(), model: "some-model".into() };
    let mut first = provider("one", first);
    first.timeouts.first_byte = Duration::from_secs(10);
    let world = world_of(vec![first, provider("two", second)]);
    change(&world, |plan| {
        let targets = vec![target("one"), target("two")];
        // Neither goes on with what it is given.
        let plain =
            |name: &str| Model { name: name.into(), features: Some(Default::default()), ..Model::default() };
        plan.llm.models = vec![
            Model { name: "some-model".into(), targets, ..Model::default() },
            plain("one/some-model"),
            plain("two/some-model"),
        ];
    })
}

#[test]
fn what_fails_after_its_first_word_ends_with_an_error_event_and_nothing_is_said_twice() {
    for (_, first) in ProviderKind::ALL {
        for (_, front) in FRONTS {
            for how in ["cut", "ended", "stalled"] {
                let world = two(first, ProviderKind::Openai);
                let mut steps = saying(first, &["Half an"]);
                steps.extend(match how {
                    "cut" => Some(Step::Cut),
                    "stalled" => Some(Step::Stall),
                    _ => None,
                });
                answering(&world, "one", vec![Ok(streaming(first, steps))]);
                let other = answering(&world, "two", vec![Ok(Script::json("{}"))]);
                let got = world.post(path(front), &[], &question(true));
                let at = format!("{first:?} {how} to {front:?}: {}", got.body);
                assert!(other.lock().unwrap().is_empty(), "{at}");
                assert_eq!(got.body.matches("Half an").count(), 1, "{at}");
                let label = if how == "stalled" { "upstream_timeout" } else { "upstream_cut" };
                match front {
                    Front::OpenAi => {
                        let last = got.body.trim_end().rsplit("data: ").next().unwrap();
                        let error: Value = serde_json::from_str(last).unwrap();
                        assert_eq!(error["error"]["code"], label, "{at}");
                        assert!(!got.body.contains("[DONE]"), "{at}");
                    }
                    Front::Anthropic => {
                        assert!(got.body.contains("event: error\ndata: {\"type\":\"error\""), "{at}");
                        assert!(!got.body.contains("message_stop"), "{at}");
                    }
                    Front::Ask | Front::Sampling => unreachable!(),
                }
                let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
                assert_eq!(line["outcome"], label, "{at}");
            }
        }
    }
}

#[test]
fn an_error_in_the_middle_of_a_stream_is_told_in_the_callers_dialect() {
    for (kind, error) in [
        (ProviderKind::Openrouter, Bytes::from_static(b"data: {\"id\":\"g\",\"error\":{\"code\":429,\"message\":\"slow down\"},\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n")),
        (ProviderKind::Anthropic, Bytes::from_static(b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}\n\n")),
        (ProviderKind::Gemini, Bytes::from_static(b"data: {\"error\":{\"code\":429,\"status\":\"RESOURCE_EXHAUSTED\",\"message\":\"slow down\"}}\r\n\r\n")),
        (ProviderKind::Ollama, Bytes::from_static(b"{\"error\":\"slow down\",\"status\":429}\n")),
        (ProviderKind::Bedrock, causeway::llm::bedrock::frames::encode("exception", "throttlingException", b"{\"message\":\"slow down\"}").into()),
    ] {
        for (_, front) in FRONTS {
            let world = world_of(vec![provider("up", kind)]);
            let mut steps = saying(kind, &["Half an"]);
            steps.push(Step::Send(error.clone()));
            answering(&world, "up", vec![Ok(streaming(kind, steps))]);
            let got = world.post(path(front), &[], &question(true));
            assert_eq!(got.body.matches("slow down").count(), 1, "{kind:?} to {front:?}: {}", got.body);
            let own = front.is(dialect(kind));
            if !own {
                let name = if front == Front::OpenAi { "rate_limit_exceeded" } else { "rate_limit_error" };
                assert!(got.body.contains(name), "{kind:?} to {front:?}: {}", got.body);
            }
            let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
            assert_eq!(line["outcome"], "rate_limited");
        }
    }
}

#[test]
fn a_lone_provider_is_asked_again_when_it_says_when() {
    for (_, kind) in ProviderKind::ALL {
        let later = Script::new(429, "application/json", "{\"error\":{\"message\":\"x\"}}")
            .header("retry-after", "3");
        let body =
            answers().into_iter().find(|(_, own, case, ..)| *own == kind && case == "plain").unwrap().3;
        let world = world_of(vec![provider("up", kind)]);
        let asked = answering(&world, "up", vec![Ok(later.clone()), Ok(Script::json(body.to_string()))]);
        let got = world.post("/v1/messages", &[], &question(false));
        assert_eq!((got.status, got.header("x-causeway-attempts")), (200, "2"), "{kind:?}: {}", got.body);
        assert_eq!(asked.lock().unwrap().len(), 2);
        let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
        assert!(line["ms"].as_f64().unwrap() >= 3000.0, "{line}");

        let much_later = later.header("retry-after-ms", "60000");
        let asked = answering(&world, "up", vec![Ok(much_later)]);
        let got = world.post("/v1/chat/completions", &[], &question(false));
        assert_eq!((got.status, got.header("retry-after")), (429, "60"), "{kind:?}: {}", got.body);
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
}

#[test]
fn a_caller_who_waits_for_long_is_given_a_stream_to_wait_on() {
    for (_, front) in FRONTS {
        let kind = ProviderKind::Gemini;
        let body =
            answers().into_iter().find(|(_, own, case, ..)| *own == kind && case == "plain").unwrap().4;
        let world = world_of(vec![provider("up", kind)]);
        let slow = Script {
            delay: Duration::from_secs(40),
            ..streaming(kind, vec![Step::Send(wire(kind, &body).into())])
        };
        answering(&world, "up", vec![Ok(slow)]);
        let got = world.post(path(front), &[], &question(true));
        assert_eq!(got.status, 200);
        assert!(got.body.starts_with(":\n"), "{}", got.body);
        assert_eq!(words(&heard(front, &got, true)), "Hello, world!");

        let refused = Script {
            delay: Duration::from_secs(40),
            ..Script::new(
                400,
                "application/json",
                "{\"error\":{\"code\":400,\"message\":\"no\",\"status\":\"INVALID_ARGUMENT\"}}",
            )
        };
        answering(&world, "up", vec![Ok(refused)]);
        let got = world.post(path(front), &[], &question(true));
        assert_eq!(got.status, 200);
        assert!(got.body.contains("provider_refused") || got.body.contains("event: error"), "{}", got.body);
    }
}

#[test]
fn times_are_limited_at_every_stage() {
    let check = |how: &str, script: Script, change: fn(&mut Provider), streams: bool| {
        let mut slow = provider("up", ProviderKind::Ollama);
        slow.retries = 0;
        change(&mut slow);
        let world = world_of(vec![slow]);
        answering(&world, "up", vec![Ok(script)]);
        let got = world.post("/v1/chat/completions", &[], &question(streams));
        assert!(got.body.contains("upstream_timeout"), "{how}: {} {}", got.status, got.body);
        assert!(got.status == 504 || got.status == 200 && streams, "{how}: {}", got.status);
    };
    let seconds = Duration::from_secs;
    let head = Script { delay: seconds(200), ..Script::json("{}") };
    check("the head", head, |_| {}, false);
    let idle = Script { body: vec![Step::Send("{".into()), Step::Wait(seconds(200))], ..Script::json("") };
    check("the middle", idle, |_| {}, false);
    let dripping: Vec<Step> =
        (0..40).flat_map(|_| [Step::Send(" ".into()), Step::Wait(seconds(20))]).collect();
    check("the whole", Script { body: dripping.clone(), ..Script::json("") }, |_| {}, false);
    check(
        "the first word",
        streaming(ProviderKind::Ollama, dripping),
        |p| p.timeouts.first_byte = Duration::from_secs(5),
        true,
    );
}

#[test]
fn a_caller_who_hangs_up_stops_the_provider_and_is_metered() {
    for (_, kind) in ProviderKind::ALL {
        let world = world_of(vec![provider("up", kind)]);
        let mut steps = saying(kind, &["One", "two", "three"]);
        steps.push(Step::Wait(Duration::from_secs(5)));
        steps.push(Step::Send(Bytes::new()));
        answering(&world, "up", vec![Ok(streaming(kind, steps))]);
        let request = crate::world::request("/v1/messages", &[], &question(true));
        let got = world.fake.run(world.sent(request, async |so_far: &str| so_far.contains("One")));
        assert!(got.body.contains("One"), "{kind:?}");
        assert_eq!(world.fake.dropped(), 1, "{kind:?}");
        let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
        assert_eq!(
            (&line["outcome"], &line["llm"]["provider"]),
            (&json!("gone"), &json!("up")),
            "{kind:?}: {line}"
        );
    }
}

#[test]
fn errors_are_told_in_the_callers_dialect_and_never_show_the_gateways_key() {
    for (name, kind) in ProviderKind::ALL {
        for case in super::fixtures::read(name, "errors")["cases"].as_array().unwrap() {
            for (_, front) in FRONTS {
                let mut up = provider("up", kind);
                up.retries = 0;
                let world = world_of(vec![up]);
                let status = case["status"].as_u64().unwrap().try_into().unwrap();
                let mut script = Script::new(status, "application/json", case["body"].to_string());
                for (name, value) in case["headers"].as_object().into_iter().flatten() {
                    let name: &'static str = name.clone().leak();
                    script = script.header(name, value.as_str().unwrap());
                }
                answering(&world, "up", vec![Ok(script)]);
                let got = world.post(path(front), &[], &question(true));
                let body = got.json();
                assert!(body["error"]["message"].is_string(), "{name} to {front:?}: {body}");
                assert!(!got.body.contains("sk-ab"), "{body}");
                let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
                assert_eq!(line["outcome"], case["kind"], "{name}: {line}");
                assert_eq!(
                    got.headers.contains_key("retry-after"),
                    case["wait_ms"].is_u64(),
                    "{name}: {body}"
                );
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_the_callers_dialect() {
    let world = world_of(vec![provider("up", ProviderKind::Gemini)]);
    let openai = |body: &str| {
        let request = Request::post("/v1/chat/completions")
            .header("host", "localhost")
            .header("content-type", "application/json");
        let got = world.send(request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap());
        (
            got.status,
            got.json()["error"]["code"].as_str().unwrap().to_owned(),
            got.json()["error"]["param"].clone(),
        )
    };
    assert_eq!(openai("{"), (400, "malformed".into(), Value::Null));
    assert_eq!(openai("[]"), (400, "malformed".into(), Value::Null));
    assert_eq!(openai("{}"), (400, "unprocessable".into(), "model".into()));
    assert_eq!(openai("{\"model\":\"m\",\"stream\":1}"), (400, "unprocessable".into(), "stream".into()));
    assert_eq!(openai("{\"model\":\"m\"}"), (400, "unprocessable".into(), "messages".into()));
    let huge = format!("{{\"model\":\"{}\"}}", "m".repeat(5 << 20));
    assert_eq!(openai(&huge).0, 413);
    let got = world.post("/v1/messages", &[("content-type", "text/plain")], &question(false));
    assert_eq!((got.status, &got.json()["type"]), (415, &json!("error")));
    let get = Request::get("/v1/chat/completions").header("host", "localhost").body(Bytes::new()).unwrap();
    let got = world.send(get);
    assert_eq!(
        (got.status, got.header("allow"), &got.json()["error"]["type"]),
        (405, "POST", &json!("invalid_request_error"))
    );
    assert_eq!(world.fake.trace(), [""; 0]);
}

#[test]
fn keys_open_the_models_that_they_may() {
    let world = world_of(vec![provider("up", ProviderKind::Openai)]);
    let world = change(&world, |plan| {
        let all = || key("alice", Filter::default(), Filter::default());
        let few = key("bob", Filter::default(), Filter::default());
        let mut caller = (*few.caller).clone();
        caller.models.allow = vec![Glob::new("gpt-5*")];
        plan.keys = vec![all(), Key { digest: few.digest, caller: Arc::new(caller) }];
    });
    answering(&world, "up", vec![Ok(Script::json("{\"choices\":[{\"message\":{\"content\":\"x\"}}]}"))]);
    let ask = |key: &[(&str, &str)], model: &str| {
        let mut body = question(false);
        body["model"] = model.into();
        let got = world.post("/v1/chat/completions", key, &body);
        let code = got.json()["error"]["code"].as_str().map(str::to_owned);
        (got.status, code)
    };
    assert_eq!(ask(&[], "gpt-5"), (401, Some("invalid_api_key".into())));
    assert_eq!(ask(&[("authorization", "Bearer wrong")], "gpt-5"), (401, Some("invalid_api_key".into())));
    assert_eq!(ask(&[("authorization", "Bearer alice-key")], "o3"), (200, None));
    assert_eq!(ask(&[("x-api-key", "bob-key")], "gpt-5-mini"), (200, None));
    assert_eq!(ask(&[("x-api-key", "bob-key")], "o3"), (404, Some("model_not_found".into())));
    let got = world.post("/v1/messages", &[], &question(false));
    assert_eq!((got.status, &got.json()["error"]["type"]), (401, &json!("authentication_error")));
    let list = |key: &str| {
        let request = Request::get("/v1/models").header("host", "localhost").header("x-api-key", key);
        let got = world.send(request.body(Bytes::new()).unwrap());
        let data = got.json()["data"].clone();
        data.as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    answering(&world, "up", vec![Ok(Script::json("{\"data\":[{\"id\":\"gpt-5\"},{\"id\":\"o3\"}]}"))]);
    assert_eq!(list("alice-key"), ["gpt-5", "o3"]);
    assert_eq!(list("bob-key"), ["gpt-5"]);
}

#[test]
fn models_of_all_providers_are_listed_and_a_dead_one_is_left_out() {
    let mut named = provider("groq", ProviderKind::OpenaiCompatible);
    named.named = vec!["llama-4".to_owned()];
    named.models = Some(Filter { allow: vec![Glob::new("llama-4")], deny: vec![] });
    let world = world_of(vec![
        provider("claude", ProviderKind::Anthropic),
        provider("local", ProviderKind::Ollama),
        provider("studio", ProviderKind::Lmstudio),
        provider("g", ProviderKind::Gemini),
        provider("dead", ProviderKind::Openrouter),
        named,
    ]);
    let world = change(&world, |plan| {
        let target = Target { provider: "claude".into(), model: "claude-x".into() };
        plan.llm.models = vec![Model { name: "smart".into(), targets: vec![target], ..Model::default() }];
    });
    answering(&world, "claude", vec![Ok(Script::json("{\"data\":[{\"id\":\"claude-x\"}]}"))]);
    answering(
        &world,
        "local",
        vec![Ok(Script::json(
            "{\"models\":[{\"name\":\"qwen3:4b\",\"model\":\"qwen3:4b\"},{\"name\":\"gpt-oss:20b\"}]}",
        ))],
    );
    let studio =
        "{\"data\":[{\"id\":\"cold\",\"state\":\"not-loaded\"},{\"id\":\"warm\",\"state\":\"loaded\"}]}";
    answering(&world, "studio", vec![Ok(Script::json(studio))]);
    answering(&world, "g", vec![Ok(Script::json("{\"models\":[{\"name\":\"models/gemini-3-pro\"}]}"))]);
    answering(&world, "dead", vec![Ok(Script { delay: Duration::from_secs(500), ..Script::json("{}") })]);
    let got = world.send(Request::get("/v1/models").header("host", "localhost").body(Bytes::new()).unwrap());
    let names: Vec<&str> = got.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap().to_owned().leak() as &str)
        .collect();
    assert_eq!(
        names,
        ["smart", "llama-4", "claude-x", "qwen3:4b", "gpt-oss:20b", "warm", "cold", "gemini-3-pro"]
    );
    let anthropic =
        Request::get("/v1/models").header("host", "localhost").header("anthropic-version", "2023-06-01");
    let got = world.send(anthropic.body(Bytes::new()).unwrap());
    assert_eq!((&got.json()["has_more"], &got.json()["first_id"]), (&json!(false), &json!("smart")));
    let one = |name: &str| {
        world.send(
            Request::get(format!("/v1/models/{name}"))
                .header("host", "localhost")
                .body(Bytes::new())
                .unwrap(),
        )
    };
    assert_eq!(one("local%2Fqwen3:4b").json()["id"], "local/qwen3:4b");
    assert_eq!(one("smart").json()["owned_by"], "claude");
}

#[test]
fn embeddings_come_from_whoever_has_them() {
    let ask = |kind: ProviderKind, answer: &str, format: &str| {
        let world = world_of(vec![provider("up", kind)]);
        let asked = answering(&world, "up", vec![Ok(Script::json(answer.to_owned()))]);
        let body = json!({"model": "e", "input": ["a", "b"], "encoding_format": format});
        let got = world.post("/v1/embeddings", &[], &body);
        let sent = asked
            .lock()
            .unwrap()
            .first()
            .map_or(Value::Null, |asked| serde_json::from_slice(asked.body()).unwrap());
        (got.status, got.json(), sent)
    };
    let openai = "{\"object\":\"list\",\"data\":[{\"embedding\":[0.5]}],\"usage\":{\"prompt_tokens\":2}}";
    let (_, got, sent) = ask(ProviderKind::Openai, openai, "float");
    assert_eq!((got.to_string().as_str(), &sent["input"]), (openai, &json!(["a", "b"])));
    let (_, got, sent) =
        ask(ProviderKind::Gemini, "{\"embeddings\":[{\"values\":[0.5]},{\"values\":[1]}]}", "float");
    assert_eq!(got["data"][1], json!({"object": "embedding", "index": 1, "embedding": [1]}));
    assert_eq!(sent["requests"][0]["content"]["parts"][0]["text"], "a");
    let (_, got, _) =
        ask(ProviderKind::Ollama, "{\"embeddings\":[[0.5,1]],\"prompt_eval_count\":4}", "base64");
    assert_eq!(
        (&got["data"][0]["embedding"], &got["usage"]["prompt_tokens"]),
        (&json!("AAAAPwAAgD8="), &json!(4))
    );
    let (status, got, _) = ask(ProviderKind::Anthropic, "{}", "float");
    assert_eq!((status, &got["error"]["code"]), (404, &json!("model_not_found")));
}

#[test]
fn tokens_are_counted_by_who_can_and_guessed_otherwise() {
    let ask = |kind: ProviderKind, answer: &str| {
        let world = world_of(vec![provider("up", kind)]);
        answering(&world, "up", vec![Ok(Script::json(answer.to_owned()))]);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(400)}]});
        let got = world.post("/v1/messages/count_tokens", &[], &body);
        (
            got.json()["input_tokens"].as_u64().unwrap(),
            got.header("x-causeway-estimated").to_owned(),
            got.trace.len(),
        )
    };
    assert_eq!(ask(ProviderKind::Anthropic, "{\"input_tokens\": 7}"), (7, String::new(), 1));
    assert_eq!(ask(ProviderKind::Gemini, "{\"totalTokens\": 9}"), (9, String::new(), 1));
    assert_eq!(ask(ProviderKind::Openai, ""), (104, "true".to_owned(), 0));
}

#[test]
fn what_a_call_cost_stands_in_the_log() {
    let world = world_of(vec![provider("up", ProviderKind::Openai)]);
    let world = change(&world, |plan| {
        let prices = Some(Prices { input: 2.0, output: 10.0, cached: Some(0.5), cache_write: None });
        plan.llm.models =
            vec![Model { name: "some-model".into(), targets: vec![], prices, ..Model::default() }];
    });
    let body =
        answers().into_iter().find(|(name, _, case, ..)| *name == "openai" && case == "plain").unwrap().3;
    answering(&world, "up", vec![Ok(Script::json(body.to_string()))]);
    world.post("/v1/chat/completions", &[], &question(false));
    let line: Value = serde_json::from_str(&world.fake.logged()[0]).unwrap();
    // 11 new and 8 cached tokens in, 10 out.
    assert_eq!(line["llm"]["cost"], json!(0.000_126), "{line}");
    assert_eq!((&line["llm"]["cached"], &line["llm"]["reasoning"]), (&json!(8), &json!(4)));
}

#[test]
fn a_whole_answer_where_a_stream_was_asked_for_is_told_as_a_stream() {
    for (_, front) in FRONTS {
        let kind = ProviderKind::OpenaiCompatible;
        let body =
            answers().into_iter().find(|(_, own, case, ..)| *own == kind && case == "parallel").unwrap().3;
        let world = world_of(vec![provider("up", kind)]);
        answering(&world, "up", vec![Ok(Script::json(body.to_string()))]);
        let got = world.post(path(front), &[], &question(true));
        let told = heard(front, &got, true);
        assert_eq!(told.parts.len(), 2, "{}", got.body);
    }
}
