//! Calls whose stream a server leaves half-way, to be asked for the rest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway::config::plan::Timeouts;
use causeway::platform::{Clock as _, SeamError, Timestamp};
use causeway::testing::{Fake, Script, Step};
use http::Request;
use serde_json::{Value, json};

use crate::server::{Kind, put_streaming};
use crate::world::{Got, World, plan, server};

/// A GET that the server got: milliseconds since the call's stream ended, or the GET before, and the headers.
type Asked = Arc<Mutex<Vec<(u128, String)>>>;

/// What a GET is answered with.
#[derive(Clone)]
enum Rest {
    Events(Vec<Step>),
    Status(u16),
    Unreachable,
}

struct Scene {
    world: World,
    asked: Asked,
    session: String,
}

/// A legacy server whose call streams `first` and then ends, and whose GETs bring `rests`, one after the other; the
/// last one again and again.
fn scene(first: &[Step], rests: &[Rest]) -> Scene {
    let fake = Fake::default();
    let (clock, asked, first) = (fake.clone(), Asked::default(), first.to_vec());
    let (log, rests) = (asked.clone(), Mutex::new(VecDeque::from(rests.to_vec())));
    let (at, called) = (Mutex::new(Timestamp(0)), Mutex::new(Value::Null));
    fake.upstream("a", move |request| {
        let begun = clock.now();
        if request.method() == "GET" {
            let since = begun.since(std::mem::replace(&mut *at.lock().unwrap(), begun));
            log.lock().unwrap().push((since.as_millis(), described(request)));
            let mut rests = rests.lock().unwrap();
            let rest = if rests.len() > 1 { rests.pop_front() } else { rests.front().cloned() };
            return match rest {
                Some(Rest::Events(steps)) => Ok(events(&steps, &called.lock().unwrap())),
                Some(Rest::Status(status)) => Ok(Script::new(status, "text/plain", "")),
                _ => Err(SeamError::Connect("connection refused".to_owned())),
            };
        }
        let message: Value = serde_json::from_slice(request.body()).unwrap();
        let Some(id) = message.get("id") else { return Ok(Script::new(202, "text/plain", "")) };
        let result = match message["method"].as_str() {
            Some("initialize") => json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}),
            Some("tools/list") => json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}),
            Some("tools/call") => {
                *called.lock().unwrap() = id.clone();
                *at.lock().unwrap() = begun;
                return Ok(events(&first, id));
            }
            _ => return Ok(Script::new(400, "text/plain", "no session")),
        };
        let script = Script::json(json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string());
        Ok(script.header("mcp-session-id", "s1"))
    });
    let timeouts =
        Timeouts { total: Duration::from_secs(120), idle: Duration::from_secs(30), ..Timeouts::default() };
    let world = World::new(fake, plan(vec![causeway::config::plan::Server { timeouts, ..server("a") }]));
    let (session, _) = world.initialize("/mcp/a");
    Scene { world, asked, session }
}

fn events(steps: &[Step], id: &Value) -> Script {
    let mut script = Script::new(200, "text/event-stream", "");
    let fill = |step: &Step| match step {
        Step::Send(bytes) => {
            Step::Send(String::from_utf8_lossy(bytes).replace("$ID", &id.to_string()).into())
        }
        other => other.clone(),
    };
    script.body = steps.iter().map(fill).collect();
    script
}

fn described(request: &Request<bytes::Bytes>) -> String {
    let header =
        |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
    let names = ["last-event-id", "mcp-session-id", "mcp-protocol-version", "accept", "content-type"];
    names.map(header).join(" ")
}

impl Scene {
    fn legacy(&self) -> Got {
        self.world.legacy("/mcp/a", &self.session, "tools/call", json!({"name": "t"}))
    }

    fn modern(&self, accept: &str) -> Got {
        self.world.modern_with("/mcp/a", &[("accept", accept)], "tools/call", json!({"name": "t"}))
    }

    /// The pauses before the GETs, and what event they ask after.
    fn asked(&self) -> Vec<(u128, String)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().map(|(at, headers)| (at, headers.split(' ').next().unwrap().to_owned())).collect()
    }
}

fn send(text: &str) -> Step {
    Step::Send(text.to_owned().into())
}

fn rest(text: &str) -> Rest {
    Rest::Events(vec![send(text)])
}

fn pairs(expect: &[(u128, &str)]) -> Vec<(u128, String)> {
    expect.iter().map(|(at, id)| (*at, (*id).to_owned())).collect()
}

const PRIME: &str = "id: e1\nretry: 500\ndata: \n\n";
const NEWS: &str =
    "id: e2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n";
const RESULT: &str = "id: e3\ndata: {\"jsonrpc\":\"2.0\",\"id\":$ID,\"result\":{\"content\":[]}}\n\n";
const BOTH: &str = "application/json, text/event-stream";

#[test]
fn the_rest_of_a_stream_is_asked_for_after_the_time_that_the_server_names() {
    let scene = scene(&[send(PRIME)], &[rest(RESULT)]);
    let got = scene.legacy();
    assert_eq!(got.body, format!("{PRIME}{}", RESULT.replace("$ID", "1")));
    let expect = [(500, "e1 s1 2025-06-18 text/event-stream -".to_owned())];
    assert_eq!(scene.asked.lock().unwrap()[..], expect);
}

#[test]
fn clients_that_could_not_ask_themselves_get_the_rest_too() {
    let modern = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"resultType\":\"complete\",\"content\":[]}}";
    let scene = scene(&[send(PRIME)], &[rest(RESULT)]);
    assert_eq!(scene.modern(BOTH).body, format!("data: {modern}\n\n"));
    assert_eq!(scene.modern("application/json").body, modern);
    let (session, _) = scene.world.initialize("/mcp");
    let got = scene.world.legacy("/mcp", &session, "tools/call", json!({"name": "a__t"}));
    assert!(got.body.contains("\"content\":[]"), "{}", got.body);
    assert_eq!(scene.asked(), pairs(&[(500, "e1"), (500, "e1"), (500, "e1")]));
}

#[test]
fn a_server_may_be_asked_many_times_for_one_answer() {
    let rests =
        [rest("id: p1\nretry: 2000\ndata: \n\n"), rest("id: p2\ndata: \n\n"), rest(NEWS), rest(RESULT)];
    let scene = scene(&[send(PRIME)], &rests);
    let got = scene.legacy();
    assert!(got.body.ends_with(&format!("{NEWS}{}", RESULT.replace("$ID", "1"))), "{}", got.body);
    assert_eq!(scene.asked(), pairs(&[(500, "e1"), (2000, "p1"), (2000, "p2"), (2000, "e2")]));
}

#[test]
fn an_event_that_was_cut_comes_whole_and_once() {
    let (half, _) = RESULT.split_at(40);
    let scene = scene(&[send(NEWS), send(half), Step::Cut], &[rest(RESULT)]);
    assert_eq!(scene.legacy().body, format!("{NEWS}{}", RESULT.replace("$ID", "1")));
    assert_eq!(scene.asked(), pairs(&[(1000, "e2")]), "a second, where the server has not said");
    let got = scene.modern(BOTH);
    assert_eq!(got.body.matches("progress").count(), 1, "{}", got.body);
    assert_eq!(got.body.matches("complete").count(), 1, "{}", got.body);
}

#[test]
fn a_server_that_is_away_for_a_moment_is_waited_for() {
    let rests = [Rest::Unreachable, Rest::Status(503), Rest::Status(409), rest(RESULT)];
    let scene = scene(&[send("id: e1\nretry: 0\ndata: \n\n")], &rests);
    assert!(scene.legacy().body.contains("\"content\":[]"));
    assert_eq!(scene.asked(), pairs(&[(100, "e1"), (200, "e1"), (400, "e1"), (800, "e1")]));
}

#[test]
fn what_cannot_be_resumed_ends_in_an_error_at_once() {
    let check = |first: &str, last: Rest, gets: usize, says: &str| {
        let scene = scene(&[send(first)], &[last]);
        let ways = [
            Scene::legacy,
            |scene: &Scene| scene.modern(BOTH),
            |scene: &Scene| scene.modern("application/json"),
        ];
        for way in ways {
            let got = way(&scene);
            assert!(got.body.contains("\"error\"") && got.body.contains(says), "{}", got.body);
            assert_eq!(scene.asked().len(), gets, "{first}");
        }
    };
    check("data: \n\n", rest(RESULT), 0, "without the response");
    check("id: e1\ndata: \n\nid:\ndata: \n\n", rest(RESULT), 0, "without the response");
    check(PRIME, Rest::Status(405), 1, "without the response");
    check(PRIME, Rest::Status(404), 1, "without the response");
    check("id: e1\nretry: 600000\ndata: \n\n", rest(RESULT), 0, "timeouts.total");
    // Asked in vain, but not for ever.
    check(PRIME, rest(""), 10, "without the response");
    check(PRIME, rest(": nothing yet\n\n"), 10, "without the response");
    check(PRIME, Rest::Unreachable, 10, "without the response");
}

#[test]
fn a_server_that_never_comes_to_the_point_is_left_when_the_time_is_over() {
    let scene = scene(&[send(PRIME)], &[rest("id: again\ndata: \n\n")]);
    let got = scene.legacy();
    assert!(got.body.contains("timeouts.total"), "{}", got.body);
    assert_eq!(scene.asked().len(), 239, "twice a second for two minutes");
}

#[test]
fn a_client_that_waits_for_the_rest_hears_that_the_call_is_alive() {
    let scene = scene(&[send("id: e1\nretry: 40000\ndata: \n\n")], &[rest(RESULT)]);
    let got = scene.legacy();
    assert!(got.body.contains("\n\n:\n:\n"), "{}", got.body);
    assert!(got.body.contains("\"content\":[]"));
    assert_eq!(
        scene.asked(),
        pairs(&[(40_000, "e1")]),
        "waiting anew for each sign of life would take longer"
    );
}

#[test]
fn a_modern_stream_is_not_resumed() {
    let fake = Fake::default();
    put_streaming(&fake, "a", Kind::Modern, vec![send(PRIME)]);
    let world = World::new(fake, plan(vec![server("a")]));
    world.modern("/mcp/a", "tools/list", json!({}));
    let got = world.modern("/mcp/a", "tools/call", json!({"name": "t"}));
    assert!(got.body.contains("without the response"), "{}", got.body);
    assert_eq!(got.trace, ["http.send POST a tools/call"]);
}
