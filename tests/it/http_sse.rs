//! Servers of the HTTP+SSE transport: what is asked of them, and what becomes of each thing that goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use causeway::config::plan::{Server, Transport};
use causeway::gateway::{Body, Gateway};
use causeway::testing::{Fake, Script, Step};
use futures_util::{StreamExt as _, stream};
use http::Request;
use serde_json::{Value, json};

use crate::old::{Old, STREAM, accepted, put_broken};
use crate::server::{self, Kind};
use crate::world::{Got, World, meta, plan, server};

const CALL: [&str; 4] = [
    "http.send GET a -",
    "http.send POST a initialize",
    "http.send POST a notifications/initialized",
    "http.send POST a tools/call",
];

fn entry(transport: Transport) -> Server {
    let mut entry = server("a");
    entry.url = "http://a/sse".parse().unwrap();
    entry.transport = transport;
    entry.headers.insert("authorization", "Bearer secret".parse().unwrap());
    entry.timeouts.idle = Duration::from_secs(40);
    entry
}

fn world(old: &Old) -> World {
    World::new(old.fake.clone(), plan(vec![entry(Transport::HttpSse)]))
}

fn old() -> Old {
    Old::new(&Fake::default(), "a")
}

fn call(world: &World) -> Got {
    world.modern("/mcp/a", "tools/call", json!({"name": "t", "arguments": {"q": 1}}))
}

/// The messages of an answer, whatever its form.
fn messages(got: &Got) -> Vec<Value> {
    if got.header("content-type") == STREAM {
        let data = got.body.lines().filter_map(|line| line.strip_prefix("data: "));
        return data.map(|data| serde_json::from_str(data).unwrap()).collect();
    }
    vec![got.json()]
}

fn last(got: &Got) -> Value {
    messages(got).pop().unwrap_or_else(|| panic!("{} {}", got.status, got.body))
}

fn complaint(got: &Got) -> String {
    last(got)["error"]["message"].as_str().unwrap_or_else(|| panic!("{}", got.body)).to_owned()
}

#[test]
fn a_call_has_its_session_in_either_era_and_at_both_endpoints() {
    let old = old().put();
    let world = world(&old);
    let check = |got: Got, modern: bool| {
        // A legacy client's is kept by its mailbox.
        let posted = usize::from(!modern);
        assert_eq!(got.trace[..posted], ["mailbox.post session"][..posted]);
        assert_eq!(got.trace[posted..], CALL, "{}", got.body);
        let last = last(&got);
        assert_eq!((&last["id"], &last["result"]["with"]["name"]), (&json!(1), &json!("t")));
        assert_eq!(last["result"]["resultType"], if modern { json!("complete") } else { Value::Null });
    };
    world.modern("/mcp", "tools/list", json!({}));
    check(world.modern("/mcp/a", "tools/call", json!({"name": "t"})), true);
    check(world.modern("/mcp", "tools/call", json!({"name": "a__t"})), true);
    let (session, got) = world.initialize("/mcp/a");
    assert!(got.trace.iter().all(|line| line.starts_with("store")), "none upstream: {:?}", got.trace);
    assert_eq!(got.json()["result"]["instructions"], "Be patient.");
    check(world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"})), false);
    let (session, _) = world.initialize("/mcp");
    check(world.legacy("/mcp", &session, "tools/call", json!({"name": "a__t"})), false);
    let heard = old.heard();
    let sessions: Vec<_> = heard.iter().filter(|line| line.ends_with("tools/call")).collect();
    assert_eq!(sessions.len(), 4);
    assert!(sessions.windows(2).all(|two| two[0] != two[1]), "{sessions:?}");
    assert!(old.keys.lock().unwrap().iter().all(|key| key == "Bearer secret"), "on the GET and on each POST");
}

#[test]
fn a_client_is_introduced_as_what_it_is() {
    let old = old().put();
    let world = world(&old);
    let (session, _) = world.initialize("/mcp/a");
    world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    let params = &old.last("initialize")["params"];
    assert_eq!(params["protocolVersion"], "2025-06-18");
    assert_eq!(params["clientInfo"]["name"], "c");
    assert_eq!(params["capabilities"], json!({"sampling": {}}));
}

#[test]
fn the_endpoint_may_be_a_path_or_a_url_of_the_same_origin() {
    let check = |endpoint: &'static str| {
        let world = world(&Old { endpoint, ..old() }.put());
        assert_eq!(last(&call(&world))["result"]["did"], "tools/call", "{endpoint}");
    };
    check("/messages?session={}");
    check("messages/?session={}");
    check("?session={}");
    check("http://a/x/y?session={}#part");
    check("//a/x?session={}");
    check(" http://a:80/x?session={} ");
    check("/moved?session={}");
}

#[test]
fn an_endpoint_elsewhere_is_refused_and_nothing_is_sent_there() {
    let check = |endpoint: &'static str, why: &str| {
        let old = Old { endpoint, ..old() }.put();
        old.fake.upstream("b", |_| panic!("asked elsewhere"));
        let got = call(&world(&old));
        let said = complaint(&got);
        assert!(said.starts_with("server \"a\": its `endpoint` event ") && said.contains(why), "{said}");
        assert_eq!(got.trace, ["http.send GET a -"]);
    };
    check("http://b/messages?session={}", "another origin");
    check("//b/messages", "another origin");
    check("https://a/messages", "another origin");
    check("http://a:8080/messages", "another origin");
    check("data:text/plain,x", "another origin");
    check("http://a@b/messages", "another origin");
    check("http://user:pass@a/messages", "user name");
    check("http://[", "nothing");
    check("", "nothing");
    let long = Box::leak(format!("/{}", "x".repeat(9000)).into_boxed_str());
    check(long, "nothing");
}

#[test]
fn what_comes_with_the_handshake_is_not_lost() {
    let note =
        |text: &str| json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": text}});
    let old = old()
        .react(move |old, message, session| {
            let id = message.get("id")?;
            let result = old.result(message)?;
            match message["method"].as_str()? {
                "initialize" => {
                    let after = note("with initialize");
                    let split = after.to_string();
                    let (half, rest) = split.split_at(20);
                    old.raw(session, &format!("data: {result}\n\nid: 7\nevent: message\ndata: {half}"));
                    old.raw(session, &format!("{rest}\n\n: ping\n\nevent: ping\ndata: x\n\n"));
                }
                "tools/call" => {
                    let progress =
                        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"id": id}});
                    old.raw(
                        session,
                        &format!("data: {progress}\r\rdata: {}\r\rdata: {result}\r\r", note("during")),
                    );
                }
                _ => return None,
            }
            Some(accepted())
        })
        .put();
    let world = world(&old);
    let (session, _) = world.initialize("/mcp/a");
    let got = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    let all: Vec<String> =
        messages(&got).iter().map(|m| format!("{} {}", m["method"], m["params"]["data"])).collect();
    assert_eq!(
        all,
        [
            "\"notifications/message\" \"with initialize\"",
            "\"notifications/progress\" null",
            "\"notifications/message\" \"during\"",
            "null null"
        ]
    );
    assert!(!got.body.contains("id: 7"), "nobody could come back for the rest: {}", got.body);
}

/// A server says so many messages of so many bytes before it takes the client, and so many of them reach it.
fn check_kept(messages_said: usize, bytes: usize, kept: usize) {
    let note =
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x".repeat(bytes)}});
    let old = old()
        .react(move |old, message, session| {
            if message["method"] == "initialize" && session > 1 {
                (0..messages_said).for_each(|_| old.say(session, &note));
            }
            None
        })
        .put();
    let entry = Server { max_response: 64 * 1024, ..entry(Transport::HttpSse) };
    let world = World::new(old.fake.clone(), plan(vec![entry]));
    let (session, _) = world.initialize("/mcp/a");
    let got = world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    let all = messages(&got);
    assert_eq!(all.last().unwrap()["result"]["did"], "tools/call", "{}", got.body);
    assert_eq!(all.len(), kept + 1);
    let said = world.fake.logged();
    let said: Vec<Value> = said.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dropped: Vec<&Value> = said.iter().filter(|line| line["event"] == "heard.dropped").collect();
    let [one] = dropped[..] else { panic!("{dropped:?}") };
    assert_eq!((&one["server"], &one["level"]), (&json!("a"), &json!("warn")));
    assert_eq!(one["messages"], messages_said - kept);
    assert!(one["message"].as_str().unwrap().contains("more than is kept"), "{one}");
}

#[test]
fn what_is_kept_while_an_answer_is_waited_for_is_bounded_and_the_rest_is_said_once() {
    check_kept(300, 10, 256);
    check_kept(5, 40 * 1024, 3);
}

/// A call to a server that answers POSTs as `react` says comes to its result all the same.
fn check_liberal(react: impl Fn(&Old, &Value, u64) -> Option<Script> + Send + Sync + 'static) {
    let world = world(&old().react(react).put());
    let (session, _) = world.initialize("/mcp/a");
    let legacy = || world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    for got in [call(&world), call(&world), legacy()] {
        let all = messages(&got);
        assert_eq!(all.iter().filter(|message| message.get("result").is_some()).count(), 1, "{}", got.body);
        assert_eq!(last(&got)["result"]["did"], "tools/call", "{}", got.body);
    }
}

#[test]
fn a_server_may_accept_a_message_with_any_success() {
    for status in [200, 201, 202, 204] {
        check_liberal(move |old, message, session| {
            old.result(message).inspect(|result| old.say(session, result));
            Some(Script::new(status, "application/json", "{\"status\":\"ok\"}"))
        });
    }
}

#[test]
fn a_server_may_answer_where_it_was_asked() {
    check_liberal(|old, message, _| {
        Some(old.result(message).map_or_else(accepted, |r| Script::json(r.to_string())))
    });
}

#[test]
fn an_answer_that_comes_both_ways_is_passed_on_once() {
    check_liberal(|old, message, session| {
        let result = old.result(message)?;
        let mut script = Script::json(result.to_string());
        old.step(session, Step::Wait(Duration::from_millis(50)));
        old.say(session, &result);
        script.delay = Duration::from_millis(if message["method"] == "tools/call" { 90 } else { 10 });
        Some(script)
    });
}

#[test]
fn a_server_may_take_as_long_to_accept_a_call_as_to_do_it() {
    let old = old()
        .react(|old, message, session| {
            if message["method"] != "tools/call" {
                return None;
            }
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}});
            for _ in 0..3 {
                old.say(session, &progress);
                old.step(session, Step::Wait(Duration::from_secs(30)));
            }
            old.say(session, &json!({"jsonrpc": "2.0", "id": 99, "method": "ping"}));
            old.say(session, &old.result(message)?);
            let mut script = Script::new(200, "text/plain", "");
            script.delay = Duration::from_secs(90);
            Some(script)
        })
        .put();
    let got = call(&world(&old));
    assert_eq!(messages(&got).len(), 4, "{}", got.body);
    assert_eq!(last(&got)["result"]["did"], "tools/call");
    assert!(got.trace.contains(&"http.send POST a -".to_owned()), "the ping is answered: {:?}", got.trace);
}

#[test]
fn a_proxy_that_gives_up_on_a_message_does_not_end_a_call_that_goes_on() {
    let world = |status: u16, said: bool| {
        world(
            &old()
                .react(move |old, message, session| {
                    if message["method"] != "tools/call" {
                        return None;
                    }
                    if said {
                        old.say(session, &json!({"jsonrpc": "2.0", "method": "notifications/progress"}));
                    }
                    old.step(session, Step::Wait(Duration::from_secs(35)));
                    old.say(session, &old.result(message)?);
                    let mut script = Script::new(status, "text/html", "<h1>gateway timeout</h1>");
                    script.delay = Duration::from_secs(30);
                    Some(script)
                })
                .put(),
        )
    };
    assert_eq!(last(&call(&world(504, true)))["result"]["did"], "tools/call");
    assert!(complaint(&call(&world(504, false))).contains("HTTP 504"));
    assert!(complaint(&call(&world(500, true))).contains("HTTP 500"));
}

/// What a call comes to when the POST of `method` is answered by `script`.
fn posted(method: &'static str, script: Script) -> String {
    let old = old().react(move |_, message, _| (message["method"] == method).then(|| script.clone()));
    complaint(&call(&world(&old.put())))
}

#[test]
fn a_message_that_is_refused_is_an_error_that_says_what_to_do() {
    for method in ["initialize", "tools/call"] {
        let check = |status: u16, hint: &str| {
            let said = posted(method, Script::new(status, "text/plain", "no"));
            assert!(
                said.starts_with(&format!("server \"a\": answered HTTP {status} to a message")),
                "{method}: {said}"
            );
            assert!(said.contains(hint), "{method}: {said}");
        };
        check(401, "headers");
        check(403, "headers");
        check(404, "instances");
        check(405, "takes no messages");
        check(413, "larger");
        check(429, "limits how often");
        check(500, "HTTP 500");
        check(418, "HTTP 418");
        let moved = Script::new(307, "text/plain", "").header("location", "http://b/x");
        assert!(posted(method, moved).contains("another origin"));
        let found = Script::new(302, "text/plain", "").header("location", "/messages");
        assert!(posted(method, found).contains("without keeping the method"));
        let circle = Script::new(308, "text/plain", "").header("location", "/messages?session=1");
        assert!(posted(method, circle).contains("more than 3 redirects"));
    }
}

#[test]
fn an_http_error_that_answers_the_call_is_its_answer() {
    let old = old().react(|_, message, _| {
        let error =
            json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32602, "message": "bad q"}});
        (message["method"] == "tools/call").then(|| Script::new(400, "application/json", error.to_string()))
    });
    let got = call(&world(&old.put()));
    assert_eq!(last(&got)["error"]["message"], "bad q");
    assert_eq!(last(&got)["id"], 1);
}

#[test]
fn a_server_that_does_not_take_the_client_is_an_error() {
    let check = |answer: Value, expect: &str| {
        let old = old().react(move |old, message, session| {
            let mut answer = answer.clone();
            answer["id"] = message["id"].clone();
            (message["method"] == "initialize").then(|| {
                old.say(session, &answer);
                accepted()
            })
        });
        let said = complaint(&call(&world(&old.put())));
        assert!(said.starts_with("server \"a\": ") && said.contains(expect), "{said}");
    };
    check(
        json!({"jsonrpc": "2.0", "error": {"code": -32000, "message": "full"}}),
        "refused initialize with error -32000",
    );
    check(json!({"jsonrpc": "2.0", "result": {"protocolVersion": "1999-01-01"}}), "nobody offered");
    check(json!({"jsonrpc": "2.0", "result": {}}), "nobody offered");
}

#[test]
fn a_stream_that_is_not_opened_is_an_error_that_says_what_to_do() {
    let check = |get: Script, expect: &[&str]| {
        let got = call(&world(&Old { get: Some(get), ..old() }.put()));
        let said = complaint(&got);
        assert!(said.starts_with("server \"a\": "), "{said}");
        assert!(expect.iter().all(|part| said.contains(part)), "{said}");
        assert!(got.trace.iter().all(|line| line == "http.send GET a -"), "{:?}", got.trace);
    };
    let plain = |status| Script::new(status, "text/plain", "");
    check(plain(401), &["HTTP 401", "headers"]);
    check(plain(403), &["HTTP 403", "headers"]);
    check(plain(404), &["HTTP 404", "url", "type: sse"]);
    check(plain(405), &["HTTP 405", "type: sse"]);
    check(plain(429), &["HTTP 429", "often"]);
    check(plain(500), &["HTTP 500"]);
    check(Script::json("{}"), &["no stream of events", "type: sse"]);
    check(Script::new(200, STREAM, ""), &["ended its stream", "endpoint"]);
    check(Script::new(302, "", "").header("location", "http://b/sse"), &["another origin"]);
    let mut late = plain(200);
    late.delay = Duration::from_secs(90);
    check(late, &["within 60s", "timeouts.first_byte"]);
    let steps = |steps: Vec<Step>| Script { body: steps, ..Script::new(200, STREAM, "") };
    check(steps(vec![Step::Stall]), &["no `endpoint` event within 60s", "timeouts.first_byte"]);
    check(steps(vec![Step::Cut]), &["cut"]);
    check(
        steps(vec![Step::Send("event: message\ndata: {}\n\n".into()), Step::Stall]),
        &["no `endpoint` event"],
    );
    check(
        steps(vec![Step::Send("data: ".into()), Step::Send("x".repeat(2 << 20).into())]),
        &["max_response"],
    );
    check(steps(vec![Step::Send(":\n".repeat(1 << 20).into()); 9]), &["larger than 16777216 bytes"]);
    let slow = || vec![Step::Send(":\n".into()), Step::Wait(Duration::from_secs(15))];
    check(steps((0..9).flat_map(|_| slow()).collect()), &["no `endpoint` event within 60s"]);
}

#[test]
fn a_stream_that_moved_within_its_origin_is_followed() {
    for status in [301, 302, 307, 308] {
        let old = old().put();
        let world = world(&old);
        let there = old.clone();
        let sessions = std::sync::atomic::AtomicU64::new(0);
        old.fake.upstream("a", move |request| {
            Ok(if request.uri().path() == "/sse" {
                Script::new(status, "", "").header("location", "/sse/")
            } else {
                there.answer(request, &sessions)
            })
        });
        assert_eq!(last(&call(&world))["result"]["did"], "tools/call", "{status}");
    }
}

/// What a call comes to when the stream goes on with `steps` instead of the answer to `method`.
fn streamed(method: &'static str, steps: &[Step]) -> String {
    let steps = steps.to_vec();
    let old = old().react(move |old, message, session| {
        (message["method"] == method).then(|| {
            steps.iter().for_each(|step| old.step(session, step.clone()));
            accepted()
        })
    });
    let got = call(&world(&old.put()));
    assert_eq!(last(&got)["id"], 1, "{}", got.body);
    complaint(&got)
}

#[test]
fn a_stream_that_breaks_is_an_error_for_the_call() {
    let text = |text: &str| Step::Send(text.to_owned().into());
    let check = |method, steps: &[Step], expect: &str| {
        let said = streamed(method, steps);
        assert!(said.starts_with("server \"a\": ") && said.contains(expect), "{method}: {said}");
    };
    check("initialize", &[Step::Over], "before it answered initialize");
    check("initialize", &[Step::Cut], "cut");
    check("initialize", &[], "no answer to initialize within 60s (timeouts.first_byte)");
    check("initialize", &[text("data: {\"half"), Step::Over], "before it answered initialize");
    check("tools/call", &[Step::Over], "without the response");
    check("tools/call", &[Step::Cut], "cut");
    check("tools/call", &[], "timeouts.idle");
    check("tools/call", &[text("data: {\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}\n\n")], "timeouts.idle");
    let beat = || [text(": ping\n\n"), Step::Wait(Duration::from_secs(30))];
    let beats: Vec<Step> = (0..30).flat_map(|_| beat()).collect();
    check("tools/call", &beats, "timeouts.total");
    for method in ["initialize", "tools/call"] {
        check(method, &[text("data: "), text(&"x".repeat(2 << 20))], "max_response");
        check(method, &vec![text(&": x\n".repeat(1 << 19)); 9], "larger than");
        check(method, &[text("data: garbage\n\n"), Step::Over], "");
    }
}

#[test]
fn a_message_that_nobody_accepts_is_given_up() {
    let never = || Script { delay: Duration::from_secs(3600), ..accepted() };
    assert!(posted("initialize", never()).contains("no answer to initialize within 60s"));
    assert!(posted("tools/call", never()).contains("no answer within 60s (timeouts.first_byte)"));
}

#[test]
fn a_server_that_cannot_be_reached_is_an_error() {
    let fake = Fake::default();
    put_broken(&fake, "a");
    let world = World::new(fake, plan(vec![entry(Transport::HttpSse)]));
    assert!(complaint(&call(&world)).contains("cut"));
}

#[test]
fn all_pages_of_a_list_are_read_over_one_session() {
    let old = old().put();
    let world = world(&old);
    let got = world.modern("/mcp", "tools/list", json!({}));
    let names: Vec<_> =
        got.json()["result"]["tools"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["a__t", "a__u"]);
    let lists: Vec<_> = old.heard().into_iter().filter(|line| line.ends_with("list")).collect();
    assert_eq!(lists[..2], ["2 tools/list", "2 tools/list"]);
    assert_eq!(lists[2..], ["3 tools/list", "3 tools/list"], "as it is for a client that can do nothing");
    let got = world.modern("/mcp", "resources/templates/list", json!({}));
    assert_eq!(got.json()["result"]["resourceTemplates"], json!([]));
}

#[test]
fn prompts_resources_and_completions_go_over_it_too() {
    let world = world(&old().put());
    let did =
        |method: &str, params: Value| last(&world.modern("/mcp", method, params))["result"]["did"].clone();
    assert_eq!(did("prompts/get", json!({"name": "a__p"})), "prompts/get");
    assert_eq!(did("resources/read", json!({"uri": "x://r"})), "resources/read");
    let of = json!({"ref": {"type": "ref/prompt", "name": "a__p"}, "argument": {"name": "n", "value": "v"}});
    assert_eq!(did("completion/complete", of), "completion/complete");
}

#[test]
fn requests_of_the_server_in_between_are_answered() {
    let old = old()
        .react(|old, message, session| {
            if message["method"] == "initialize" {
                old.say(session, &json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}));
                old.say(session, &json!({"jsonrpc": "2.0", "id": "r", "method": "roots/list"}));
            }
            None
        })
        .put();
    let got = call(&world(&old));
    assert_eq!(last(&got)["result"]["did"], "tools/call");
    let seen = old.seen.lock().unwrap();
    let replies: Vec<_> = seen.iter().map(|(_, m)| m).filter(|m| m.get("method").is_none()).collect();
    assert_eq!(*replies[0], json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
    assert_eq!(replies[1]["error"]["code"], -32601);
}

#[test]
fn a_log_level_is_set_before_the_call() {
    let old = old().put();
    let world = world(&old);
    world.modern("/mcp", "tools/list", json!({}));
    let (session, _) = world.initialize("/mcp/a");
    let got = world.legacy("/mcp/a", &session, "logging/setLevel", json!({"level": "debug"}));
    assert_eq!(got.brief(), "200 ok");
    assert!(got.trace.iter().all(|line| !line.starts_with("http")), "{:?}", got.trace);
    old.heard();
    world.legacy("/mcp/a", &session, "tools/call", json!({"name": "t"}));
    let expect = ["initialize", "notifications/initialized", "logging/setLevel", "tools/call"];
    let methods = |heard: Vec<String>| {
        heard.iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(methods(old.heard()), expect);
    let mut meta = meta();
    meta["io.modelcontextprotocol/logLevel"] = "info".into();
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "t")];
    let params = json!({"name": "t", "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let got = world.post("/mcp/a", &headers, &body);
    assert_eq!(last(&got)["result"]["did"], "tools/call");
    assert_eq!(old.last("logging/setLevel")["params"]["level"], "info");
    assert_eq!(methods(old.heard()), expect);
}

#[test]
fn what_holds_from_call_to_call_is_heard_over_a_connection_of_its_own() {
    let world = world(&old().put());
    let (session, got) = world.initialize("/mcp/a");
    assert_eq!(got.json()["result"]["capabilities"]["resources"], json!({"subscribe": true}));
    let got = world.legacy("/mcp/a", &session, "resources/subscribe", json!({"uri": "x://r"}));
    assert_eq!(got.brief(), "200 ok");
    let get = Request::get("/mcp/a")
        .header("host", "localhost")
        .header("accept", STREAM)
        .header("mcp-session-id", &session)
        .body(bytes::Bytes::new());
    let got = world.fake.run(world.sent(get.unwrap(), async |_: &str| true));
    assert_eq!((got.status, got.body.as_str()), (200, ":\n"));
    let delete = Request::delete("/mcp/a").header("host", "localhost").header("mcp-session-id", &session);
    let got = world.send(delete.body(bytes::Bytes::new()).unwrap());
    assert_eq!(got.status, 204);
    let got = world.modern("/mcp/a", "server/discover", json!({}));
    assert_eq!(got.json()["result"]["instructions"], "Be patient.");
    assert_eq!(got.trace, [""; 0]);
}

#[test]
fn a_client_that_takes_no_events_gets_a_document() {
    let world = world(&old().put());
    let got =
        world.modern_with("/mcp/a", &[("accept", "application/json")], "tools/call", json!({"name": "t"}));
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.json()["result"]["resultType"], "complete");
}

#[test]
fn a_client_that_hangs_up_cancels_the_call_before_the_session_ends() {
    let over = Arc::new(AtomicU64::new(0));
    let before = over.clone();
    let old = old()
        .react(move |old, message, session| {
            match message["method"].as_str()? {
                "tools/call" => {
                    old.say(session, &json!({"jsonrpc": "2.0", "method": "notifications/progress"}))
                }
                "notifications/cancelled" => {
                    let over = before.load(Ordering::Relaxed);
                    assert_eq!(old.fake.dropped(), over, "the stream is still there");
                }
                _ => return None,
            }
            Some(accepted())
        })
        .put();
    let world = world(&old);
    world.modern("/mcp", "tools/list", json!({}));
    let gateway = Gateway::new(world.fake.clone(), world.instance.clone());
    let body = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {"name": "t", "_meta": meta()}});
    let request = Request::post("/mcp/a")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "t")
        .body(stream::iter([Ok(bytes::Bytes::from(body.to_string()))]))
        .unwrap();
    world.fake.run(async {
        let reply = gateway.clone().handle(request).await;
        let Body::Stream(mut body) = reply.response.into_body() else { panic!("a whole body") };
        body.next().await.unwrap().unwrap();
        world.fake.trace();
        over.store(old.fake.dropped(), Ordering::Relaxed);
        drop(body);
        gateway.finish(reply.after).await;
    });
    assert_eq!(world.fake.trace(), ["http.send POST a notifications/cancelled"]);
    assert_eq!(old.last("notifications/cancelled")["params"]["requestId"], "x");
    // The answer to the notification is not read either.
    assert_eq!(world.fake.dropped(), over.load(Ordering::Relaxed) + 2, "and then it is let go");
    assert!(world.fake.logged().last().unwrap().contains("\"outcome\":\"gone\""));
}

fn shown(world: &World) -> Value {
    let request = Request::get("/status").header("host", "localhost").body(bytes::Bytes::new());
    world.send(request.unwrap()).json()
}

fn detecting(old: &Old) -> World {
    World::new(old.fake.clone(), plan(vec![entry(Transport::Http)]))
}

#[test]
fn a_server_that_takes_no_messages_at_its_url_is_asked_for_a_stream() {
    for status in [400, 404, 405] {
        for body in [
            "",
            "Not here",
            "{\"detail\":\"Method Not Allowed\"}",
            "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"no session\"}}",
        ] {
            let old = Old { refusal: (status, body), ..old() }.put();
            let world = detecting(&old);
            let got = call(&world);
            assert_eq!(last(&got)["result"]["did"], "tools/call", "{status} {body}: {}", got.body);
            let probe = ["http.send POST a server/discover", "http.send POST a initialize"];
            assert_eq!(got.trace[..2], probe);
            assert_eq!(call(&world).trace, CALL, "it is remembered");
            assert_eq!(shown(&world)["servers"][0]["transport"], "http+sse");
        }
    }
}

#[test]
fn a_server_of_a_newer_transport_is_not_taken_for_an_old_one() {
    let check = |refusal: (u16, &'static str), expect: &str| {
        let old = Old { refusal, ..old() }.put();
        let got = call(&detecting(&old));
        let said = complaint(&got);
        assert!(said.contains(expect), "{refusal:?}: {said}");
        assert!(got.trace.iter().all(|line| line.starts_with("http.send POST")), "{:?}", got.trace);
    };
    check((401, ""), "HTTP 401");
    check((500, ""), "HTTP 500");
    check((403, ""), "HTTP 403");
    check((406, ""), "HTTP 406");
    for code in [-32020, -32021, -32601] {
        let error = json!({"jsonrpc": "2.0", "error": {"code": code, "message": "m"}}).to_string();
        check((400, Box::leak(error.into_boxed_str())), &format!("refused initialize with error {code}"));
    }
}

#[test]
fn what_is_no_stream_with_an_endpoint_leaves_the_first_complaint() {
    let steps = |steps: Vec<Step>| Script { body: steps, ..Script::new(200, STREAM, "") };
    let check = |get: Script, expect: &str, limit: u64| {
        let old = Old { refusal: (404, ""), get: Some(get), ..old() }.put();
        let world = detecting(&old);
        let before = causeway::platform::Clock::now(&world.fake);
        let said = complaint(&call(&world));
        let took = causeway::platform::Clock::now(&world.fake).since(before);
        assert!(said.contains(expect), "{said}");
        assert!(took <= Duration::from_secs(limit), "{took:?}");
    };
    check(Script::new(404, "", ""), "answered HTTP 404; check its url", 0);
    check(Script::new(405, "", ""), "answered HTTP 404; check its url", 0);
    check(Script::json("{}"), "answered HTTP 404; check its url", 0);
    check(Script::new(200, "text/html", "<html>"), "answered HTTP 404; check its url", 0);
    check(Script::new(200, STREAM, ""), "answered HTTP 404; check its url", 0);
    check(steps(vec![Step::Stall]), "answered HTTP 404; check its url", 10);
    check(Script::new(401, "", ""), "HTTP 401 when asked for its stream", 0);
    check(Script::new(503, "", ""), "HTTP 503 when asked for its stream", 0);
    check(Script::new(200, STREAM, "event: endpoint\ndata: http://b/\n\n"), "another origin", 0);
}

#[test]
fn a_server_that_gets_a_newer_transport_is_asked_anew() {
    for gone in [Script::new(405, "", ""), Script::json("{}")] {
        let old = old().put();
        let world = detecting(&old);
        assert_eq!(last(&call(&world))["result"]["did"], "tools/call");
        let newer = Fake::default();
        server::put(&newer, "a", Kind::Modern, &["t"]);
        let answers = newer.clone();
        old.fake.upstream("a", move |request| {
            if request.method() == "GET" { Ok(gone.clone()) } else { answers.ask("a", request) }
        });
        let got = call(&world);
        assert_eq!(got.json()["result"]["echo"]["name"], "t", "{}", got.body);
        assert_eq!(call(&world).trace, ["http.send POST a tools/call"]);
    }
}

#[test]
fn a_list_that_is_refused_is_read_by_the_newer_transport_the_next_time() {
    let old = old().put();
    let mut entry = entry(Transport::Http);
    entry.list_ttl = Duration::ZERO;
    let world = World::new(old.fake.clone(), plan(vec![entry]));
    let names = || {
        world.fake.pass(Duration::from_secs(5));
        let got = world.modern("/mcp", "tools/list", json!({})).json();
        got["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["a__t", "a__u"]);
    server::put(&old.fake, "a", Kind::Modern, &["new"]);
    assert_eq!(names(), [""; 0]);
    assert_eq!(names(), ["a__new"]);
}

#[test]
fn a_server_that_goes_back_to_the_old_transport_is_asked_anew() {
    for kind in [Kind::Modern, Kind::Legacy] {
        let old = Old { refusal: (404, "gone"), ..old() };
        server::put(&old.fake, "a", kind, &["t"]);
        let world = detecting(&old);
        assert_eq!(call(&world).json()["result"]["echo"]["name"], "t");
        let old = old.put();
        let got = call(&world);
        assert_eq!(last(&got)["result"]["did"], "tools/call", "{kind:?}: {}", got.body);
        assert!(old.heard().iter().any(|line| line.ends_with("tools/call")));
    }
}

#[test]
fn a_server_that_fails_is_down_and_the_others_go_on() {
    let fake = Fake::default();
    let dead = Old { get: Some(Script::new(500, "", "")), ..Old::new(&fake, "a") };
    dead.put();
    server::put(&fake, "b", Kind::Modern, &["t"]);
    let world = World::new(fake, plan(vec![entry(Transport::HttpSse), server("b")]));
    let got = world.modern("/mcp", "tools/list", json!({}));
    assert_eq!(got.json()["result"]["tools"].as_array().unwrap().len(), 1);
    let one = &shown(&world)["servers"][0];
    assert_eq!((&one["name"], &one["state"]), (&json!("a"), &json!("down")));
    assert!(one["last_error"].as_str().unwrap().contains("HTTP 500"), "{one}");
}
