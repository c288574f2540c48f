//! Servers that are answered by the gateway's own models (`sampling: gateway`), in every pairing of eras.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway::config::glob::{Filter, Glob};
use causeway::config::plan::{
    Cache, Caller, Key, Llm, Model, Plan, Prices, Provider, Sampler, Sampling, Server, Target,
};
use causeway::config::types::ProviderKind;
use causeway::platform::SeamError;
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{FORM, capable, form, in_session, last, legacy_call, messages, open, request, retry};
use crate::old::{Old, accepted};
use crate::peer::{CAPABILITIES, Log, Peer, events, result};
use crate::world::{Got, World, key, plan, server};

const SAMPLING: &str = "sampling/createMessage";
const PLACES: [(&str, &str); 2] = [("/mcp/a", "t"), ("/mcp", "a__t")];

fn answered(name: &str) -> Server {
    let sampler = Sampler { models: vec!["fast".into()], max_tokens: 20, ..Sampler::default() };
    Server { sampling: Sampling::Gateway, sampler, ..server(name) }
}

fn plan_of(server: Server) -> Plan {
    let mut plan = plan(vec![server]);
    let mut provider = Provider::new("p", ProviderKind::OpenaiCompatible, "http://p/v1".parse().unwrap());
    provider.retries = 0;
    plan.llm = Llm {
        providers: vec![Arc::new(provider)],
        models: vec![Model {
            name: "fast".into(),
            targets: vec![Target { provider: "p".into(), model: "small".into() }],
            prices: Some(Prices { input: 1.0, output: 2.0, ..Prices::default() }),
            ..Model::default()
        }],
        ..Llm::default()
    };
    plan.keys = vec![key("me", Filter::default(), Filter::default())];
    plan
}

fn world(fake: Fake) -> World {
    World::new(fake, plan_of(answered("a")))
}

type Asked = Arc<Mutex<Vec<Value>>>;

/// A provider that answers `script` to everything; what it was asked.
fn provider(fake: &Fake, script: impl Fn() -> Result<Script, SeamError> + Send + Sync + 'static) -> Asked {
    let asked = Asked::default();
    let seen = asked.clone();
    fake.upstream("p", move |request| {
        seen.lock().unwrap().push(serde_json::from_slice(request.body()).unwrap_or_default());
        script()
    });
    asked
}

fn words(fake: &Fake) -> Asked {
    provider(fake, || Ok(Script::json(said("a secret answer", "stop").to_string())))
}

fn said(text: &str, reason: &str) -> Value {
    json!({"id": "c1", "object": "chat.completion", "model": "small-1", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500}})
}

fn wish() -> Value {
    json!({"messages": [{"role": "user", "content": {"type": "text", "text": "a secret question"}}],
        "systemPrompt": "Be brief.", "maxTokens": 100, "includeContext": "thisServer"})
}

fn question(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": SAMPLING, "params": wish()})
}

/// A legacy server whose tool asks for a model's words and then for a form, and answers when both are answered.
fn legacy(fake: &Fake, host: &str, wants_form: bool) -> Log {
    let left = Arc::new([AtomicBool::new(false), AtomicBool::new(!wants_form)]);
    let (method, params) = form();
    let done = Arc::new(AtomicBool::new(false));
    Peer::legacy(json!({"tools": {}}))
        .react(move |message| {
            if message["method"].is_null() && !message["id"].is_null() {
                left[usize::from(message["id"] == 51)].store(true, Ordering::Relaxed);
                done.store(left.iter().all(|left| left.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            if message["method"] != "tools/call" {
                return None;
            }
            left[0].store(false, Ordering::Relaxed);
            left[1].store(!wants_form, Ordering::Relaxed);
            done.store(false, Ordering::Relaxed);
            let ask = json!({"jsonrpc": "2.0", "id": 51, "method": method, "params": params});
            let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "done": true}});
            let form = wants_form.then_some(Ok(ask));
            let rest = [Err(Step::Until(done.clone())), Ok(end)];
            Some(events([Ok(question(50))].into_iter().chain(form).chain(rest).collect()))
        })
        .put(fake, host)
}

fn answer_to(log: &Log, id: u64) -> Value {
    let answers = log.of("");
    answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("{answers:?}")).clone()
}

/// That the server was told of models, and was given what one of them said.
fn check_answered(log: &Log, asked: &Asked) {
    let told: Vec<Value> =
        log.of("initialize").iter().map(|hello| hello["params"]["capabilities"].clone()).collect();
    assert!(told.iter().all(|able| able["sampling"]["tools"].is_object()), "{told:?}");
    check_words(&answer_to(log, 50)["result"]);
    check_asked(asked);
}

fn check_words(said: &Value) {
    let dropped = json!({"causeway/dropped": ["includeContext"]});
    assert_eq!(
        *said,
        json!({"role": "assistant", "content": {"type": "text", "text": "a secret answer"}, "model": "small-1",
            "stopReason": "endTurn", "_meta": dropped})
    );
}

fn check_asked(asked: &Asked) {
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0]["model"], "small");
    assert_eq!(asked[0]["messages"][0]["content"], "Be brief.");
    assert_eq!(asked[0]["messages"][1]["content"], "a secret question");
    assert_eq!(asked[0]["max_tokens"], 20, "no more than the configuration allows");
}

/// What the log says of it: who pays, for what, and no word of it.
fn check_logged(fake: &Fake, outcome: &str) -> Value {
    let lines = fake.logged();
    assert!(!lines.iter().any(|line| line.contains("secret")), "{lines:?}");
    let mut lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.rfind(|line| line["event"] == "sampling").unwrap();
    assert_eq!(
        (&line["caller"], &line["server"], &line["outcome"]),
        (&json!("me"), &json!("a"), &json!(outcome))
    );
    line
}

fn modern_call(world: &World, path: &str, params: &Value, able: &Value) -> Got {
    world.send(request(path, 1, params, able, "me-key"))
}

fn with_key(mut request: Request<bytes::Bytes>) -> Request<bytes::Bytes> {
    request.headers_mut().insert("authorization", "Bearer me-key".parse().unwrap());
    request
}

/// Opens a legacy session with the key, as a client that can do this.
fn opened(world: &World, path: &str, able: &Value) -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": able,
        "clientInfo": {"name": "c", "version": "1"}});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let got = world.post(path, &[("authorization", "Bearer me-key")], &hello);
    got.header("mcp-session-id").to_owned()
}

/// Makes a call of a legacy client that answers forms.
fn legacy_asked(world: &World, path: &str, name: &str, able: &Value) -> Got {
    let session = opened(world, path, able);
    let mut answered = false;
    world.fake.run(world.sent(with_key(legacy_call(path, &session, 9, name)), async |seen: &str| {
        if let Some(question) = messages(seen).iter().find(|message| message["method"] == FORM)
            && !std::mem::replace(&mut answered, true)
        {
            let body = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}});
            world.sent(with_key(in_session(path, &session, &body)), async |_: &str| false).await;
        }
        false
    }))
}

#[test]
fn a_legacy_server_is_answered_in_the_middle_of_a_legacy_clients_call() {
    for (path, name) in PLACES {
        for able in [json!({}), capable()] {
            let fake = Fake::default();
            let (asked, log) = (words(&fake), legacy(&fake, "a", able != json!({})));
            let world = world(fake);
            let got = legacy_asked(&world, path, name, &able);
            assert!(!got.body.contains(SAMPLING), "{}", got.body);
            assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
            check_answered(&log, &asked);
            let line = check_logged(&world.fake, "ok");
            assert_eq!((&line["llm"]["model"], &line["llm"]["input"]), (&json!("small"), &json!(1000)));
            assert_eq!(line["llm"]["cost"], 0.002);
        }
    }
}

#[test]
fn what_a_legacy_task_asks_is_answered_in_its_name() {
    for (path, name) in PLACES {
        let fake = Fake::default();
        words(&fake);
        let done = Arc::new(AtomicBool::new(false));
        let asks = json!({"io.modelcontextprotocol/related-task": {"taskId": "t"}});
        let log = Peer::legacy(json!({"tools": {}}))
            .react(move |message| {
                done.fetch_or(message["id"] == 50, Ordering::Relaxed);
                let mut question = question(50);
                question["params"]["_meta"] = asks.clone();
                let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}});
                let asked = || events(vec![Ok(question), Err(Step::Until(done.clone())), Ok(end)]);
                (message["method"] == "tools/call").then(asked)
            })
            .put(&fake, "a");
        let world = world(fake);
        legacy_asked(&world, path, name, &json!({}));
        let meta = &answer_to(&log, 50)["result"]["_meta"];
        assert_eq!(
            *meta,
            json!({"causeway/dropped": ["includeContext"],
            "io.modelcontextprotocol/related-task": {"taskId": "t"}})
        );
    }
}

#[test]
fn a_legacy_server_is_answered_in_the_middle_of_a_modern_clients_call() {
    for (path, name) in PLACES {
        let fake = Fake::default();
        let (asked, log) = (words(&fake), legacy(&fake, "a", false));
        let world = world(fake);
        let got = modern_call(&world, path, &json!({"name": name}), &json!({}));
        assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
        assert!(!got.body.contains(SAMPLING), "{}", got.body);
        check_answered(&log, &asked);
        check_logged(&world.fake, "ok");
    }
}

#[test]
fn what_a_legacy_server_asks_besides_goes_to_the_modern_client() {
    for (path, name) in PLACES {
        let fake = Fake::default();
        let (asked, log) = (words(&fake), legacy(&fake, "a", true));
        let world = world(fake);
        let params = json!({"name": name});
        let first = last(&modern_call(&world, path, &params, &capable()));
        let questions = first["result"]["inputRequests"].as_object().unwrap();
        assert_eq!(questions.len(), 1, "{first}");
        let params = retry(&params, &first, json!({"q1": {"action": "accept"}}));
        let got = modern_call(&world, path, &params, &capable());
        assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
        check_answered(&log, &asked);
    }
}

#[test]
fn a_client_that_takes_no_events_has_its_server_answered_all_the_same() {
    let fake = Fake::default();
    let (asked, log) = (words(&fake), legacy(&fake, "a", false));
    let world = world(fake);
    let mut request = request("/mcp/a", 1, &json!({"name": "t"}), &json!({}), "me-key");
    request.headers_mut().insert("accept", "application/json".parse().unwrap());
    let got = world.send(request);
    assert_eq!(got.json()["result"]["done"], true, "{}", got.body);
    check_answered(&log, &asked);
}

#[test]
fn a_legacy_server_is_answered_on_the_stream_of_the_session() {
    for (path, name) in PLACES {
        let fake = Fake::default();
        let asked = words(&fake);
        let log = Peer::legacy(json!({"tools": {}}))
            .react(|message| message.is_null().then(|| events(vec![Ok(question(50)), Err(Step::Stall)])))
            .put(&fake, "a");
        let world = world(fake);
        let session = opened(&world, path, &json!({}));
        world.send(with_key(legacy_call(path, &session, 9, name)));
        let get = Request::get(path)
            .header("host", "localhost")
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25");
        let get = with_key(get.body(bytes::Bytes::new()).unwrap());
        let got = world.fake.run(world.sent(get, async |seen: &str| seen.matches(":\n").count() > 2));
        assert!(!got.body.contains(SAMPLING), "{path}: {}", got.body);
        check_answered(&log, &asked);
    }
}

#[test]
fn a_server_of_http_and_sse_is_answered_on_its_stream() {
    for (path, name) in PLACES {
        let fake = Fake::default();
        let asked = words(&fake);
        let old = Old::new(&fake, "a")
            .react(|old, message, session| {
                match message["method"].as_str() {
                    Some("tools/call") => old.say(session, &question(50)),
                    None if message["id"] == 50 => {
                        let id = &old.last("tools/call")["id"];
                        let result = json!({"content": [], "told": message});
                        old.say(session, &json!({"jsonrpc": "2.0", "id": id, "result": result}));
                    }
                    _ => return None,
                }
                Some(accepted())
            })
            .put();
        let url = "http://a/sse".parse().unwrap();
        let transport = causeway::config::plan::Transport::HttpSse;
        let world = World::new(fake, plan_of(Server { transport, url, ..answered("a") }));
        let got = modern_call(&world, path, &json!({"name": name}), &json!({}));
        check_words(&last(&got)["result"]["told"]["result"]);
        check_asked(&asked);
        asked.lock().unwrap().clear();
        let session = opened(&world, path, &json!({}));
        let got = world.send(with_key(legacy_call(path, &session, 9, name)));
        check_words(&last(&got)["result"]["told"]["result"]);
        let seen = old.seen.lock().unwrap();
        let hellos = seen.iter().filter(|(_, message)| message["method"] == "initialize");
        assert!(hellos.clone().all(|(_, hello)| hello["params"]["capabilities"]["sampling"].is_object()));
    }
}

/// A modern server whose tool asks for a model's words, and a form if it is to, and says in the end what it was told.
fn modern(fake: &Fake, host: &str, streams: bool, wants_form: bool) -> Log {
    Peer::modern(json!({"tools": {}}))
        .react(move |message| {
            if message["method"] != "tools/call" {
                return None;
            }
            let answers = &message["params"]["inputResponses"];
            let mut asks = json!({"words": {"method": SAMPLING, "params": wish()}});
            if wants_form {
                asks["form"] = json!({"method": FORM, "params": form().1});
            }
            let whole = json!({"content": [], "told": answers, "state": message["params"]["requestState"],
                "resultType": "complete"});
            let asks =
                json!({"resultType": "input_required", "requestState": "s", "inputRequests": asks, "x": 1});
            let told = if answers["words"].is_object() { whole } else { asks };
            let response = json!({"jsonrpc": "2.0", "id": message["id"], "result": told});
            Some(match streams {
                true => events(vec![
                    Ok(json!({"jsonrpc": "2.0", "method": "notifications/progress",
                        "params": {"progressToken": 5, "progress": 1}})),
                    Ok(response),
                ]),
                false => Script::json(response.to_string()),
            })
        })
        .put(fake, host)
}

#[test]
fn a_modern_server_is_answered_without_its_client() {
    for (path, name) in PLACES {
        for streams in [false, true] {
            let fake = Fake::default();
            let (asked, log) = (words(&fake), modern(&fake, "a", streams, false));
            let world = world(fake);
            let check = |got: &Got| {
                let answer = last(got);
                assert_eq!(answer["result"]["state"], "s", "{answer}");
                check_words(&answer["result"]["told"]["words"]);
                assert!(!got.body.contains(SAMPLING), "{}", got.body);
                let calls = log.of("tools/call");
                let calls = calls.rchunks(2).next().unwrap();
                assert_ne!(calls[0]["id"], calls[1]["id"], "the second is a request of its own");
                let told = &calls[1]["params"]["_meta"][CAPABILITIES];
                assert!(told["sampling"]["tools"].is_object(), "{told}");
                check_asked(&asked);
                asked.lock().unwrap().clear();
                check_logged(&world.fake, "ok");
            };
            let got = modern_call(&world, path, &json!({"name": name}), &json!({}));
            assert_eq!(last(&got)["id"], 1);
            check(&got);
            let session = opened(&world, path, &json!({}));
            let got = world.send(with_key(legacy_call(path, &session, 9, name)));
            assert_eq!(last(&got)["id"], 9);
            check(&got);
            assert!(last(&got)["result"]["resultType"].is_null());
        }
    }
}

#[test]
fn a_kept_answer_is_found_however_the_models_are_doing() {
    let fake = Fake::default();
    Peer::modern(json!({"tools": {}}))
        .react(|message| {
            let (params, mut wish) = (&message["params"], wish());
            wish["messages"][0]["content"]["text"] = params["arguments"]["q"].clone();
            wish["modelPreferences"] = params["arguments"]["wishes"].clone();
            let told = match params["inputResponses"]["words"].is_object() {
                true => json!({"content": [], "told": params["inputResponses"]["words"], "resultType": "complete"}),
                false => json!({"resultType": "input_required",
                    "inputRequests": {"words": {"method": SAMPLING, "params": wish}}}),
            };
            (message["method"] == "tools/call").then(|| result(message, told))
        })
        .put(&fake, "a");
    let down: Arc<[AtomicBool; 2]> = Arc::default();
    for (number, host) in ["p", "q"].into_iter().enumerate() {
        let down = down.clone();
        fake.upstream(host, move |_| match down[number].load(Ordering::Relaxed) {
            true => Err(SeamError::Connect("refused".to_owned())),
            false => Ok(Script::json(said(&format!("said by {host}"), "stop").to_string())),
        });
    }
    let mut server = answered("a");
    server.sampler.models = vec!["fast".into(), "q/big".into()];
    let mut plan = plan_of(server);
    let mut other = Provider::new("q", ProviderKind::OpenaiCompatible, "http://q/v1".parse().unwrap());
    other.retries = 0;
    plan.llm.providers.push(Arc::new(other));
    plan.llm.cache = Some(Cache {
        ttl: Duration::from_secs(3600),
        size: 1 << 20,
        max_answer: 64 * 1024,
        shared: false,
        models: Filter::default(),
    });
    let world = World::new(fake, plan);
    let wished = |q: &str, wishes: Value| {
        let params = json!({"name": "t", "arguments": {"q": q, "wishes": wishes}});
        let got = last(&modern_call(&world, "/mcp/a", &params, &json!({})));
        let asked = world.fake.logged().into_iter().rfind(|line| line.contains("\"sampling\""));
        let line: Value = serde_json::from_str(&asked.unwrap()).unwrap();
        let text = got["result"]["told"]["content"]["text"].as_str().unwrap_or("nothing").to_owned();
        format!("{text}, {}", line["llm"]["cache"].as_str().unwrap_or("-"))
    };
    let asked = |q: &str| wished(q, Value::Null);
    assert_eq!(asked("first"), "said by p, miss");
    assert_eq!(asked("first"), "said by p, hit");
    down[0].store(true, Ordering::Relaxed);
    for number in 0..6 {
        assert_eq!(asked(&format!("other {number}")), "said by q, miss");
    }
    assert_eq!(asked("first"), "said by p, hit", "the first of them is left alone now");
    down[1].store(true, Ordering::Relaxed);
    for number in 0..6 {
        assert_eq!(asked(&format!("another {number}")), "nothing, miss");
    }
    assert_eq!(asked("first"), "said by p, hit", "all are left alone");
    assert_eq!(asked("other 0"), "said by q, hit");
    // Who is wished for is part of the question.
    for down in down.iter() {
        down.store(false, Ordering::Relaxed);
    }
    world.fake.pass(Duration::from_secs(120));
    assert_eq!(wished("first", json!({"hints": [{"name": "big"}]})), "said by q, miss");
    assert_eq!(wished("first", json!({"costPriority": 1})), "said by p, miss");
    assert_eq!(asked("first"), "said by p, hit");
}

#[test]
fn what_a_modern_server_asks_besides_goes_to_the_client() {
    for (path, name) in PLACES {
        for streams in [false, true] {
            let fake = Fake::default();
            let (asked, log) = (words(&fake), modern(&fake, "a", streams, true));
            let world = world(fake);
            let params = json!({"name": name, "arguments": {"n": 1}});
            let first = last(&modern_call(&world, path, &params, &capable()));
            let form = json!({"form": {"method": FORM, "params": form().1}});
            assert_eq!(first["result"]["inputRequests"], form, "{first}");
            assert_eq!((&first["id"], &first["result"]["x"]), (&json!(1), &json!(1)), "{first}");
            check_asked(&asked);
            let again = retry(&params, &first, json!({"form": {"action": "accept"}}));
            let done = last(&modern_call(&world, path, &again, &capable()));
            let told = &done["result"]["told"];
            assert_eq!(told["form"]["action"], "accept", "{done}");
            check_words(&told["words"]);
            assert_eq!(done["result"]["state"], "s");
            check_asked(&asked);
            assert_eq!(log.of("tools/call").len(), 2);

            let got = legacy_asked(&world, path, name, &capable());
            let done = last(&got);
            assert_eq!(done["result"]["told"]["form"]["action"], "accept", "{}", got.body);
            check_words(&done["result"]["told"]["words"]);
        }
    }
}

#[test]
fn what_a_client_carries_of_a_models_words_is_good_for_its_call_alone() {
    let fake = Fake::default();
    words(&fake);
    modern(&fake, "a", false, true);
    let mut plan = plan_of(answered("a"));
    plan.keys.push(key("you", Filter::default(), Filter::default()));
    let world = World::new(fake, plan);
    let params = json!({"name": "t", "arguments": {"n": 1}});
    let first = last(&modern_call(&world, "/mcp/a", &params, &capable()));
    let answers = json!({"form": {"action": "accept"}});
    let check = |params: &Value, key: &str, what: &str| {
        let got =
            last(&world.send(request("/mcp/a", 2, &retry(params, &first, answers.clone()), &capable(), key)));
        assert_eq!(got["error"]["code"], -32602, "{got}");
        assert!(got["error"]["message"].as_str().unwrap().contains(what), "{got}");
    };
    check(&params, "you-key", "none that this gateway gave to you");
    check(&json!({"name": "t", "arguments": {"n": 2}}), "me-key", "belongs to another request");
    world.fake.pass(Duration::from_secs(3600));
    check(&params, "me-key", "its time is up");
    // A state of the server's own is its own business.
    let own = json!({"name": "t", "requestState": "mine", "inputResponses": {"words": {"x": 1}}});
    let got = last(&modern_call(&world, "/mcp/a", &own, &capable()));
    assert_eq!(got["result"]["state"], "mine", "{got}");
}

#[test]
fn a_server_hears_why_no_model_answers() {
    type Fails = fn() -> Result<Script, SeamError>;
    let fails: [(Fails, i64, &str, &str); 5] = [
        (|| Err(SeamError::Connect("refused".into())), -32603, "refused", "upstream_connect"),
        (
            || Ok(Script::new(401, "application/json", r#"{"error": {"message": "bad key"}}"#)),
            -32603,
            "credential",
            "provider_authentication",
        ),
        (
            || Ok(Script::new(400, "application/json", r#"{"error": {"message": "no such thing"}}"#)),
            -32602,
            "no such thing",
            "provider_refused",
        ),
        (
            || {
                let mut script = Script::new(200, "application/json", "{\"id\":");
                script.body.push(Step::Cut);
                Ok(script)
            },
            -32603,
            "provider \"p\"",
            "upstream_cut",
        ),
        (
            || {
                let mut script = Script::json("{}");
                script.delay = Duration::from_secs(3600);
                Ok(script)
            },
            -32603,
            "sampling.time",
            "upstream_timeout",
        ),
    ];
    for (script, code, what, label) in fails {
        let fake = Fake::default();
        provider(&fake, script);
        let log = legacy(&fake, "a", false);
        let world = world(fake);
        let got = modern_call(&world, "/mcp/a", &json!({"name": "t"}), &json!({}));
        assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
        let error = answer_to(&log, 50)["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().unwrap().contains(what), "{error}");
        check_logged(&world.fake, label);

        // A modern server cannot be told: its call fails.
        for streams in [false, true] {
            let fake = Fake::default();
            provider(&fake, script);
            modern(&fake, "a", streams, false);
            let world = World::new(fake, plan_of(answered("a")));
            let session = opened(&world, "/mcp/a", &json!({}));
            for got in [
                modern_call(&world, "/mcp/a", &json!({"name": "t"}), &json!({})),
                world.send(with_key(legacy_call("/mcp/a", &session, 9, "t"))),
            ] {
                let error = last(&got)["error"].clone();
                assert_eq!(error["code"], code, "{}", got.body);
                let message = error["message"].as_str().unwrap();
                assert!(message.contains("cannot go on without") && message.contains(what), "{error}");
            }
        }
    }
}

#[test]
fn a_server_may_not_ask_more_than_it_is_allowed() {
    let fake = Fake::default();
    let asked = words(&fake);
    let done = Arc::new(AtomicBool::new(false));
    let log = Peer::legacy(json!({"tools": {}}))
        .react(move |message| {
            if message["error"].is_object() {
                done.store(true, Ordering::Relaxed);
            }
            let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "done": true}});
            let all = [50, 51, 52].map(|id| Ok(question(id)));
            let rest = [Err(Step::Until(done.clone())), Ok(end)];
            (message["method"] == "tools/call").then(|| events(all.into_iter().chain(rest).collect()))
        })
        .put(&fake, "a");
    let mut server = answered("a");
    server.sampler.requests = 2;
    let world = World::new(fake, plan_of(server));
    let got = modern_call(&world, "/mcp/a", &json!({"name": "t"}), &json!({}));
    assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
    let error = answer_to(&log, 52)["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("sampling.requests"), "{error}");
    assert!(asked.lock().unwrap().len() <= 2);
}

#[test]
fn a_server_is_answered_so_many_times_at_once() {
    let fake = Fake::default();
    provider(&fake, || {
        let mut script = Script::json(said("x", "stop").to_string());
        script.delay = Duration::from_secs(5);
        Ok(script)
    });
    let left = Arc::new(Mutex::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let log = Peer::legacy(json!({"tools": {}}))
        .react(move |message| {
            if message["method"].is_null() && !message["id"].is_null() {
                *left.lock().unwrap() += 1;
                done.store(*left.lock().unwrap() == 2, Ordering::Relaxed);
            }
            let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "done": true}});
            let steps = || vec![Ok(question(50)), Ok(question(51)), Err(Step::Until(done.clone())), Ok(end)];
            (message["method"] == "tools/call").then(|| events(steps()))
        })
        .put(&fake, "a");
    let mut server = answered("a");
    server.sampler.concurrent = 1;
    let world = World::new(fake, plan_of(server));
    let got = modern_call(&world, "/mcp/a", &json!({"name": "t"}), &json!({}));
    assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
    assert_eq!(answer_to(&log, 50)["result"]["content"]["text"], "x");
    let error = answer_to(&log, 51)["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("sampling.concurrent"), "{error}");
}

#[test]
fn the_rights_of_the_caller_decide_which_models_answer() {
    let fake = Fake::default();
    let asked = words(&fake);
    let log = legacy(&fake, "a", false);
    let mut plan = plan_of(answered("a"));
    let Key { digest, caller } = plan.keys.pop().unwrap();
    let models = Filter { allow: vec![Glob::new("other/*")], deny: vec![] };
    plan.keys.push(Key { digest, caller: Arc::new(Caller { models, ..(*caller).clone() }) });
    let world = World::new(fake, plan);
    modern_call(&world, "/mcp/a", &json!({"name": "t"}), &json!({}));
    let error = answer_to(&log, 50)["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("no model \"fast\" here"), "{error}");
    assert!(asked.lock().unwrap().is_empty());
    check_logged(&world.fake, "unknown_model");
}

#[test]
fn a_model_is_given_up_with_the_call() {
    for era in ["legacy", "modern"] {
        let fake = Fake::default();
        provider(&fake, || {
            let mut script = Script::json("{");
            script.body.push(Step::Stall);
            Ok(script)
        });
        match era {
            "legacy" => _ = legacy(&fake, "a", false),
            _ => _ = modern(&fake, "a", true, false),
        }
        let world = world(fake);
        let before = world.fake.dropped();
        let request = request("/mcp/a", 1, &json!({"name": "t"}), &json!({}), "me-key");
        world.fake.run(world.sent(request, async |seen: &str| seen.contains(":\n")));
        world.fake.settle();
        assert!(world.fake.dropped() > before, "{era}");
        check_logged(&world.fake, "gone");
    }
}

#[test]
fn a_server_may_take_its_question_back() {
    let fake = Fake::default();
    provider(&fake, || {
        let mut script = Script::json(said("x", "stop").to_string());
        script.delay = Duration::from_secs(60);
        Ok(script)
    });
    let log = Peer::legacy(json!({"tools": {}}))
        .react(|message| {
            let back =
                json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 50}});
            let end = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "done": true}});
            let steps = || {
                vec![
                    Ok(question(50)),
                    Err(Step::Wait(Duration::from_secs(1))),
                    Ok(back),
                    Err(Step::Wait(Duration::from_secs(5))),
                    Ok(end),
                ]
            };
            (message["method"] == "tools/call").then(|| events(steps()))
        })
        .put(&fake, "a");
    let world = world(fake);
    let session = opened(&world, "/mcp/a", &json!({}));
    for modern in [true, false] {
        let got = match modern {
            true => modern_call(&world, "/mcp/a", &json!({"name": "t"}), &json!({})),
            false => world.send(with_key(legacy_call("/mcp/a", &session, 9, "t"))),
        };
        assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
        let line = check_logged(&world.fake, "gone");
        assert!((900.0..3000.0).contains(&line["ms"].as_f64().unwrap()), "{line}");
    }
    assert!(log.of("").iter().all(|answer| answer["id"] != 50), "nobody wants it any more");
}

#[test]
fn servers_beside_it_are_left_alone() {
    let fake = Fake::default();
    words(&fake);
    let logs = ["a", "b"].map(|host| modern(&fake, host, false, false));
    let mut config = plan_of(answered("a"));
    config.servers.push(Arc::new(server("b")));
    let world = World::new(fake, config);
    let call = |name: &str| last(&modern_call(&world, "/mcp", &json!({"name": name}), &capable()));
    assert!(call("a__t")["result"]["told"]["words"].is_object());
    let asked = call("b__t");
    assert_eq!(asked["result"]["inputRequests"]["words"]["method"], SAMPLING, "{asked}");
    let told = &logs[1].of("tools/call")[0]["params"]["_meta"][CAPABILITIES];
    assert_eq!(told["sampling"], json!({}), "{told}");
    // Whoever only lists tools pays for nothing.
    assert_eq!(open(&world, "/mcp", &capable()), "", "and nobody is let in without a key");
}

/// Where nothing outlives a request, models answer what the instance asks that has the call, and the rest goes to whichever
/// instance the client comes back to.
#[test]
fn a_server_is_answered_where_nothing_outlives_a_request() {
    let fake = Fake::default();
    let (asked, log) = (words(&fake), legacy(&fake, "a", true));
    let first = world(fake);
    let (one, other) = (first.further(), first.further());
    let params = json!({"name": "t"});
    let waits = last(&modern_call(&one, "/mcp/a", &params, &capable()));
    assert_eq!(waits["result"]["inputRequests"].as_object().unwrap().len(), 1, "{waits}");
    let params = retry(&params, &waits, json!({"q1": {"action": "accept"}}));
    let got = modern_call(&other, "/mcp/a", &params, &capable());
    assert_eq!(last(&got)["result"]["done"], true, "{}", got.body);
    check_answered(&log, &asked);

    let fake = Fake::default();
    let asked = words(&fake);
    modern(&fake, "b", true, true);
    let first = World::new(fake, plan_of(answered("b")));
    let (one, other) = (first.further(), first.further());
    let params = json!({"name": "t"});
    let waits = last(&modern_call(&one, "/mcp/b", &params, &capable()));
    let params = retry(&params, &waits, json!({"form": {"action": "accept"}}));
    let got = modern_call(&other, "/mcp/b", &params, &capable());
    check_words(&last(&got)["result"]["told"]["words"]);
    check_asked(&asked);
}

const TASKS: &str = "io.modelcontextprotocol/tasks";

/// A modern server whose task asks for a model's words, and a form if it is to, and is done when it has what it asked
/// for. One that `forgets` takes what it is told, and asks on.
fn tasking(fake: &Fake, wants_form: bool, forgets: bool) -> Log {
    let told: Mutex<serde_json::Map<String, Value>> = Mutex::default();
    Peer::modern(json!({"tools": {}, "extensions": {TASKS: {}}}))
        .react(move |message| {
            let mut told = told.lock().unwrap();
            let mut asks = json!({"words": {"method": SAMPLING, "params": wish()}});
            if wants_form {
                asks["form"] = json!({"method": FORM, "params": form().1});
            }
            let asks = asks.as_object_mut().unwrap();
            asks.retain(|key, _| !told.contains_key(key));
            let asking = json!({"resultType": "complete", "taskId": "t", "status": "input_required", "ttlMs": 1.50,
                "inputRequests": asks});
            Some(match message["method"].as_str()? {
                "tasks/update" if forgets => result(message, json!({})),
                "tasks/update" => {
                    told.extend(message["params"]["inputResponses"].as_object().unwrap().clone());
                    result(message, json!({"resultType": "complete"}))
                }
                "tasks/get" if asks.is_empty() => {
                    let done = json!({"content": [], "told": *told});
                    result(message, json!({"taskId": "t", "status": "completed", "result": done}))
                }
                "tasks/get" => result(message, asking),
                "subscriptions/listen" => {
                    let ack = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                        "params": {"notifications": message["params"]["notifications"]}});
                    let told = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": asking});
                    events(vec![Ok(ack), Ok(told)])
                }
                _ => return None,
            })
        })
        .put(fake, "a")
}

fn task(world: &World, path: &str, method: &str, mut params: Value) -> Value {
    params["taskId"] = json!(if path == "/mcp" { "a+t" } else { "t" });
    last(&world.send(with_key(modern_request(path, method, params))))
}

fn modern_request(path: &str, method: &str, mut params: Value) -> Request<bytes::Bytes> {
    let name = params["taskId"].as_str().map(str::to_owned);
    params["_meta"] = crate::world::meta();
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"extensions": {TASKS: {}}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let mut request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = name {
        request = request.header("mcp-name", name);
    }
    request.body(body.to_string().into()).unwrap()
}

#[test]
fn what_a_task_asks_is_answered_when_its_client_asks_for_the_task() {
    for (path, _) in PLACES {
        let fake = Fake::default();
        let (log, asked) = (tasking(&fake, false, false), words(&fake));
        let world = world(fake);
        let got = task(&world, path, "tasks/get", json!({}));
        assert_eq!((&got["id"], &got["result"]["status"]), (&json!(1), &json!("completed")), "{got}");
        check_words(&got["result"]["result"]["told"]["words"]);
        let updates = log.of("tasks/update");
        assert!(updates.len() == 1 && updates[0]["params"]["taskId"] == "t", "{updates:?}");
        assert_eq!(updates[0]["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
        assert_eq!(asked.lock().unwrap().len(), 1);
        task(&world, path, "tasks/get", json!({}));
        assert_eq!(asked.lock().unwrap().len(), 1, "once");
    }
}

#[test]
fn what_a_task_asks_besides_goes_to_its_client() {
    for (path, _) in PLACES {
        let fake = Fake::default();
        let (log, asked) = (tasking(&fake, true, false), words(&fake));
        let world = world(fake);
        for _ in 0..2 {
            let got = task(&world, path, "tasks/get", json!({}));
            assert_eq!(got["result"]["status"], "input_required", "{got}");
            let asks = got["result"]["inputRequests"].as_object().unwrap();
            assert!(asks.len() == 1 && asks["form"]["method"] == FORM, "{got}");
        }
        assert_eq!((asked.lock().unwrap().len(), log.of("tasks/update").len()), (1, 1));
        let answers = json!({"inputResponses": {"form": {"action": "accept"}}});
        assert!(task(&world, path, "tasks/update", answers)["result"].is_object());
        let got = task(&world, path, "tasks/get", json!({}));
        assert_eq!(got["result"]["result"]["told"]["form"]["action"], "accept", "{got}");
    }
}

#[test]
fn a_task_that_has_not_noted_what_a_model_said_works_for_its_client() {
    let fake = Fake::default();
    let (log, asked) = (tasking(&fake, false, true), words(&fake));
    let world = world(fake);
    let got = task(&world, "/mcp/a", "tasks/get", json!({}));
    assert_eq!(
        (&got["result"]["status"], &got["result"]["inputRequests"]),
        (&json!("working"), &Value::Null)
    );
    assert_eq!((asked.lock().unwrap().len(), log.of("tasks/get").len()), (1, 2));
}

#[test]
fn a_task_that_no_model_answers_is_asked_for_in_vain_and_may_be_asked_for_again() {
    let fake = Fake::default();
    let log = tasking(&fake, false, false);
    provider(&fake, || Ok(Script::new(503, "application/json", "{}")));
    let world = world(fake.clone());
    let got = task(&world, "/mcp/a", "tasks/get", json!({}));
    let said = got["error"]["message"].as_str().unwrap_or_default();
    assert!(said.starts_with("server \"a\": cannot go on without a model's words: "), "{got}");
    assert!(log.of("tasks/update").is_empty());
    words(&fake);
    fake.pass(Duration::from_secs(120));
    assert_eq!(task(&world, "/mcp/a", "tasks/get", json!({}))["result"]["status"], "completed");
}

#[test]
fn who_listens_for_a_task_hears_nothing_of_what_models_are_asked() {
    for (path, _) in PLACES {
        let fake = Fake::default();
        let (_, asked) = (tasking(&fake, true, false), words(&fake));
        let world = world(fake);
        let id = if path == "/mcp" { "a+t" } else { "t" };
        let params = json!({"notifications": {"taskIds": [id]}});
        let listen = with_key(modern_request(path, "subscriptions/listen", params));
        let got =
            world.fake.run(world.sent(listen, async |seen: &str| seen.contains("notifications/tasks\"")));
        let told = messages(&got.body).pop().unwrap();
        assert_eq!(
            (&told["params"]["taskId"], &told["params"]["status"]),
            (&json!(id), &json!("input_required"))
        );
        let asks = told["params"]["inputRequests"].as_object().unwrap();
        assert!(asks.len() == 1 && asks.contains_key("form"), "{told}");
        assert!(asked.lock().unwrap().is_empty());
    }
}
