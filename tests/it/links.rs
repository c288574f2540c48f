//! Servers behind links: what goes through, who may open one, and what is said while nobody is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use causeway::config::glob::Glob;
use causeway::config::plan::{Caller, Key, Offline, Server, Via};
use causeway::platform::Clock as _;
use causeway::relay::through;
use causeway::testing::{Fake, Step};
use causeway::tunnel::dock::{Line, Say};
use causeway::tunnel::frame::Frame;
use causeway::tunnel::hello::{CompanionId, Offer};
use causeway::tunnel::pair::Message;
use causeway::tunnel::{Effect, Input, Limits, Link};
use futures_util::StreamExt as _;
use http::Request;
use serde_json::json;

use crate::companion::Companion;
use crate::server::{Kind, put, put_streaming};
use crate::world::{Got, World, globs, key, meta, modern, plan, server};

pub fn behind(name: &str, offline: Offline) -> Server {
    Server { via: Some(Via { link: "laptop".to_owned(), offline }), ..server(name) }
}

/// A gateway with `files` behind the link `laptop`, and `near` behind none.
fn world(offline: Offline) -> World {
    let fake = Fake::default();
    put(&fake, "near", Kind::Modern, &["n"]);
    put(&fake, "files", Kind::Legacy, &["read"]);
    World::new(fake, plan(vec![server("near"), behind("files", offline)]))
}

fn tools(got: &Got) -> Vec<String> {
    let json = got.json();
    let all = json["result"]["tools"].as_array().unwrap_or_else(|| panic!("{}", got.body));
    all.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

fn call(world: &World, name: &str) -> Got {
    world.modern("/mcp", "tools/call", json!({"name": name, "arguments": {}}))
}

fn message(got: &Got) -> String {
    got.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("{}", got.body)).to_owned()
}

#[test]
fn a_server_behind_a_link_is_called_as_any_other() {
    let world = world(Offline::Keep);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    assert_eq!(companion.log(), ["up"]);
    assert_eq!(tools(&world.modern("/mcp", "tools/list", json!({}))), ["near__n", "files__read"]);
    let got = call(&world, "files__read");
    assert_eq!(got.brief(), "200 ok", "{}", got.body);
    let asked: Vec<&String> = got.trace.iter().filter(|line| line.contains("tools/call")).collect();
    assert_eq!(asked[..2], ["link.ask laptop exchange tools/call", "http.send POST files tools/call [s3]"]);
    assert_eq!(call(&world, "near__n").trace, ["http.send POST near tools/call"]);
    let (session, _) = world.initialize("/mcp/files");
    let got = world.legacy("/mcp/files", &session, "tools/call", json!({"name": "read"}));
    assert_eq!(got.brief(), "200 ok");
}

#[test]
fn a_call_while_nobody_is_there_is_answered_at_once() {
    let world = world(Offline::Keep);
    let before = world.fake.now();
    let got = call(&world, "files__read");
    assert_eq!(
        message(&got),
        "server \"files\": link \"laptop\" is not connected, never seen; start `causeway connect` there"
    );
    assert_eq!(world.fake.now(), before);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    assert_eq!(call(&world, "files__read").brief(), "200 ok");
    companion.cut(&world.fake);
    world.fake.pass(Duration::from_secs(12));
    let got = call(&world, "files__read");
    assert!(message(&got).contains("not connected, last seen 12 s ago; start"), "{}", got.body);
}

#[test]
fn a_gateway_that_is_killed_knows_about_when_a_companion_was_there() {
    let mut world = world(Offline::Keep);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    for _ in 0..10 {
        world.fake.pass(Duration::from_secs(15));
        companion.say(&world.fake, Frame::Ack(0).encode());
    }
    // Nobody is told of anything.
    world.restart();
    let got = call(&world, "files__read");
    let said = message(&got);
    let ago = said.split_once("last seen ").and_then(|(_, ago)| ago.split_once(" s ago"));
    let ago: u64 = ago.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap();
    assert!(ago <= 75, "{said}");
}

/// Knocks at `/tunnel` with these headers.
fn knock(world: &World, query: &str, headers: &[(&str, &str)]) -> Got {
    let mut request = Request::get(format!("/tunnel{query}")).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Bytes::new()).unwrap())
}

const UPGRADE: [(&str, &str); 4] = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// A gateway that others reach: ann may open `laptop` and any `lap-…`, bob none.
fn keyed() -> World {
    let fake = Fake::default().public();
    put(&fake, "files", Kind::Legacy, &["read"]);
    let mut plan = plan(vec![behind("files", Offline::Keep)]);
    let ann = key("ann", globs(&[]), globs(&[]));
    let caller = Caller { links: vec![Glob::new("lap*"), Glob::new("desk")], ..(*ann.caller).clone() };
    plan.keys = vec![Key { caller: caller.into(), ..ann }, key("bob", globs(&[]), globs(&[]))];
    World::new(fake, plan)
}

#[test]
fn a_link_is_opened_by_a_key_with_the_right_and_under_no_other_name() {
    let world = keyed();
    let at = |query: &str, headers: &[(&str, &str)]| {
        let got = knock(&world, query, &[&UPGRADE[..], headers].concat());
        (got.status, got.json_or_null()["detail"].as_str().unwrap_or_default().to_owned())
    };
    let ann = ("authorization", "Bearer ann-key");
    assert_eq!(at("?name=laptop", &[ann]), (101, String::new()));
    assert_eq!(at("?name=laptop", &[]).0, 401);
    assert_eq!(at("?name=laptop", &[("x-api-key", "ann-key")]).0, 401, "only in the Authorization header");
    assert_eq!(at("?name=laptop", &[("authorization", "Basic x"), ("x-api-key", "ann-key")]).0, 401);
    assert_eq!(at("?name=laptop", &[("authorization", "Bearer eve-key")]).0, 401);
    let (status, why) = at("?name=laptop", &[("authorization", "Bearer bob-key")]);
    assert!(status == 403 && why.contains("may not open a link called \"laptop\""), "{why}");
    assert_eq!(at("?name=other", &[ann]).0, 403);
    let (status, why) = at("?name=desk", &[ann]);
    assert!(status == 404 && why.contains("give servers or providers `via: desk`"), "{why}");
    assert_eq!(at("", &[ann]).0, 422);
    assert_eq!(at("?name=a%2Fb", &[ann]).0, 422);
    assert_eq!(at("?name=laptop", &[ann, ("origin", "https://gw.example")]).0, 403);
    let got = knock(&world, "?name=laptop", &[ann]);
    assert_eq!((got.status, got.header("upgrade")), (426, "websocket"));
    let request = Request::delete("/tunnel?name=laptop").header("authorization", "Bearer ann-key");
    assert_eq!(world.send(request.body(Bytes::new()).unwrap()).status, 405);
}

#[test]
fn an_offer_that_the_configuration_does_not_have_is_refused_and_never_asked() {
    let world = world(Offline::Keep);
    let companion = Companion::dial(&world.fake, "laptop", &["files", "near", "secret"]);
    assert_eq!(
        companion.log(),
        [
            "up",
            "server \"near\": the gateway's configuration has server \"near\", but not with `via: laptop`",
            "server \"secret\": the gateway's configuration has no server \"secret\" with `via: laptop`",
        ]
    );
    assert_eq!(
        call(&world, "near__n").trace,
        [
            "http.send POST near server/discover",
            "http.send POST near tools/list",
            "http.send POST near tools/call"
        ]
    );
}

#[test]
fn a_server_that_the_companion_does_not_offer_is_offline() {
    let world = world(Offline::Keep);
    Companion::dial(&world.fake, "laptop", &["other"]);
    let got = call(&world, "files__read");
    assert!(message(&got).contains("link \"laptop\" is connected and does not offer it"), "{}", got.body);
}

#[test]
fn the_newer_companion_wins_and_the_older_is_told() {
    let world = world(Offline::Keep);
    let older = Companion::dial(&world.fake, "laptop", &["files"]);
    older.log();
    let newer = Companion::dial(&world.fake, "laptop", &["files"]);
    let said = older.log();
    assert!(said[0].starts_with("bye Replaced: a newer companion named \"laptop\""), "{said:?}");
    assert_eq!(newer.log(), ["up"]);
    assert_eq!(call(&world, "files__read").brief(), "200 ok");
    assert!(newer.log().iter().all(|line| line.starts_with("asked by")));
}

#[test]
fn a_dial_that_was_held_up_takes_no_link_and_gives_none_away() {
    let world = world(Offline::Keep);
    let link = Link::companion(Limits::default(), "laptop", vec![Offer::server("files")]);
    let mut link = link.known_as(CompanionId([4; 16]));
    let mut hello = || {
        let mut effects = Vec::new();
        link.on(world.fake.now(), Input::Dialled, &mut effects);
        let Some(Effect::Send { message, .. }) = effects.pop() else { panic!("no hello") };
        message
    };
    let hellos = [hello(), hello(), hello(), hello()];
    let dial = |which: usize| {
        let docked = world.fake.dock("laptop");
        let mut line = docked.line();
        docked.received(&mut line, "ann", Message::Frame(hellos[which].clone()));
        line
    };
    let mut begun = dial(1);
    assert_eq!(closed(&mut begun), "Pending", "nobody knows of another");
    let mut live = dial(3);
    assert_eq!(closed(&mut begun), "Lost");
    for late in 0..4 {
        assert_eq!(closed(&mut dial(late)), "Stale", "{late}");
    }
    assert_eq!(closed(&mut live), "Pending");
    assert_eq!(state(&world)["links"][0]["state"], "connected");
    // Another companion is another matter.
    Companion::dial(&world.fake, "laptop", &["files"]);
    assert_eq!(closed(&mut live), "Replaced");
}

#[test]
fn a_companion_that_only_checks_is_told_of_its_offers_and_takes_no_link() {
    let world = world(Offline::Keep);
    let serving = Companion::dial(&world.fake, "laptop", &["files"]);
    serving.log();
    let offers = vec![Offer::server("files"), Offer::server("near")];
    let mut link = Link::companion(Limits::default(), "laptop", offers).checking();
    let mut out = Vec::new();
    for stop in [false, true] {
        let docked = world.fake.dock("laptop");
        let mut line = docked.line();
        link.on(world.fake.now(), Input::Dialled, &mut out);
        let Some(Effect::Send { message, .. }) = out.pop() else { panic!("no hello") };
        docked.received(&mut line, "ann", Message::Frame(message));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Say::Message(_, Message::Frame(welcome)))) = line.poll_say(&mut context) else {
            panic!("no welcome");
        };
        link.on(world.fake.now(), Input::Frame(welcome), &mut out);
        let Some(Effect::Up { resumed: false, verdicts }) = out.pop() else { panic!("{out:?}") };
        assert_eq!(verdicts.iter().map(|one| one.refused.is_some()).collect::<Vec<_>>(), [false, true]);
        assert_eq!(closed(&mut line), "Shutdown");
        // What it says behind that is heard by nobody.
        docked.heard(line.entry(), Message::Frame(Frame::Ack(7).encode()));
        docked.lost(line.entry());
        assert_eq!(serving.log(), [""; 0]);
        assert_eq!(call(&world, "files__read").brief(), "200 ok");
        assert!(serving.log().iter().all(|line| line.starts_with("asked by")));
        if !stop {
            link.on(world.fake.now(), Input::Lost, &mut out);
        }
    }
}

#[test]
fn a_companion_is_told_who_asks() {
    let world = keyed();
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    let key = [("authorization", "Bearer bob-key"), ("x-request-id", "r-17")];
    let got = world.modern_with("/mcp/files", &key, "tools/call", json!({"name": "read", "arguments": {}}));
    assert_eq!(got.brief(), "200 ok", "{}", got.body);
    assert_eq!(companion.log().last().map(String::as_str), Some("asked by \"bob\" as \"r-17\""));
}

#[test]
fn a_short_drop_loses_no_call() {
    let world = world(Offline::Keep);
    let go = Arc::new(AtomicBool::new(false));
    let steps = vec![
        Step::Until(go.clone()),
        Step::Send("data: {\"jsonrpc\":\"2.0\",\"id\":$ID,\"result\":{\"content\":[]}}\n\n".into()),
    ];
    put_streaming(&world.fake, "files", Kind::Modern, steps);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    let fake = world.fake.clone();
    let dropped = Arc::new(AtomicBool::new(false));
    let (done, cut, switch) = (dropped.clone(), companion.clone(), go.clone());
    fake.clone().spawn(async move {
        fake.sleep(Duration::from_secs(2)).await;
        cut.cut_now();
        fake.sleep(Duration::from_secs(3)).await;
        cut.back(&fake);
        fake.sleep(Duration::from_secs(2)).await;
        switch.store(true, Ordering::Relaxed);
        done.store(true, Ordering::Relaxed);
    });
    let got = world.modern("/mcp/files", "tools/call", json!({"name": "t", "arguments": {}}));
    assert!(got.body.contains("\"content\":[]"), "{}", got.body);
    assert!(dropped.load(Ordering::Relaxed));
}

#[test]
fn a_link_that_does_not_come_back_fails_its_calls_with_one_clear_error() {
    let world = world(Offline::Keep);
    put_streaming(&world.fake, "files", Kind::Modern, vec![Step::Stall]);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    let fake = world.fake.clone();
    fake.clone().spawn(async move {
        fake.sleep(Duration::from_secs(2)).await;
        companion.cut_now();
    });
    let before = world.fake.now();
    let got = world.modern("/mcp/files", "tools/call", json!({"name": "t", "arguments": {}}));
    assert!(got.body.contains("was lost and did not come back within 60 s"), "{}", got.body);
    assert_eq!(got.body.matches("\"error\"").count(), 1, "{}", got.body);
    assert!(world.fake.now().since(before) < Duration::from_secs(70));
}

#[test]
fn a_caller_who_hangs_up_ends_the_call_at_the_companions_server() {
    let world = world(Offline::Keep);
    let comment = Step::Send("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\n".into());
    put_streaming(&world.fake, "files", Kind::Modern, vec![comment, Step::Stall]);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    let request = modern("/mcp/files", &[], "tools/call", json!({"name": "t", "arguments": {}}));
    world.fake.run(world.sent(request, async |_: &str| true));
    world.fake.settle();
    assert!(companion.log().contains(&"reset Cancelled".to_owned()));
    assert_eq!(world.fake.dropped(), 1, "the server's answer was dropped");
}

#[test]
fn a_slow_reader_stops_its_own_stream_and_no_other() {
    let world = world(Offline::Keep);
    let piece = Bytes::from(format!(":{}\n\n", "x".repeat(64 * 1024)));
    let mut steps = vec![Step::Send(piece); 64];
    steps.push(Step::Send("data: {\"jsonrpc\":\"2.0\",\"id\":$ID,\"result\":{\"content\":[]}}\n\n".into()));
    put_streaming(&world.fake, "files", Kind::Modern, steps);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    let docked = world.fake.dock("laptop");
    let asked = || {
        let mut request = through::asking(through::EXCHANGE);
        request.headers_mut().insert(through::SERVER, "files".parse().unwrap());
        *request.method_mut() = http::Method::POST;
        *request.body_mut() =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"_meta": meta()}})
                .to_string()
                .into();
        request
    };
    let slow = world.fake.run(docked.ask(asked())).unwrap();
    world.fake.settle();
    let waits = companion.sent();
    assert!(waits < 512 * 1024, "{waits} bytes were sent to a reader that reads nothing");
    let other = world.fake.run(world.fake.dock("laptop").ask(asked())).unwrap();
    let whole = world.fake.run(async {
        let (mut body, mut size) = (other.into_body(), 0);
        while let Some(piece) = body.next().await {
            size += piece.unwrap().len();
        }
        size
    });
    assert!(whole > 4 * 1024 * 1024);
    drop(slow);
    world.fake.settle();
    assert!(companion.log().contains(&"reset Cancelled".to_owned()));
}

#[test]
fn no_more_requests_than_allowed_are_on_their_way_at_a_time() {
    let fake = Fake::default();
    put_streaming(&fake, "files", Kind::Modern, vec![Step::Stall]);
    let mut plan = plan(vec![behind("files", Offline::Keep)]);
    plan.limits.link_calls = 2;
    let world = World::new(fake, plan);
    Companion::dial(&world.fake, "laptop", &["files"]);
    let ask = || {
        let mut request = through::asking(through::EXCHANGE);
        request.headers_mut().insert(through::SERVER, "files".parse().unwrap());
        *request.method_mut() = http::Method::POST;
        *request.body_mut() = json!({"id": 1, "method": "tools/call"}).to_string().into();
        world.fake.run(world.fake.dock("laptop").ask(request))
    };
    let (one, _two) = (ask().unwrap(), ask().unwrap());
    let refused = ask().map(drop).unwrap_err().to_string();
    assert!(refused.contains("2 requests are on their way already (limits.link_calls)"), "{refused}");
    drop(one);
    assert!(ask().is_ok());
}

#[test]
fn what_a_companion_may_not_say_ends_its_connection_and_nothing_else() {
    let world = world(Offline::Keep);
    for (what, bytes) in [
        ("Protocol", Bytes::from_static(b"\xff\xff")),
        ("TooLarge", vec![0x12; 300 * 1024].into()),
        ("Protocol", Bytes::from_static(b"GET / HTTP/1.1")),
        ("Protocol", Bytes::new()),
    ] {
        let docked = world.fake.dock("laptop");
        let mut line = docked.line();
        docked.received(&mut line, "ann", Message::Frame(bytes.clone()));
        assert!(closed(&mut line).contains(what), "before the hello: {what}");
        let companion = Companion::dial(&world.fake, "laptop", &["files"]);
        companion.say(&world.fake, bytes);
        let said = companion.log();
        assert!(said.iter().any(|line| line.contains(what)), "{what}: {said:?}");
        assert!(message(&call(&world, "files__read")).contains("not connected"), "{what}");
    }
    Companion::dial(&world.fake, "laptop", &["files"]);
    assert_eq!(call(&world, "files__read").brief(), "200 ok");
}

/// Why a line was closed.
fn closed(line: &mut Line) -> String {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match line.poll_say(&mut context) {
            Poll::Ready(Some(Say::Close(bye))) => return format!("{:?}", bye.code),
            Poll::Ready(Some(Say::Message(..))) => {}
            other => return format!("{other:?}"),
        }
    }
}

fn listed(world: &World) -> Vec<String> {
    tools(&world.modern("/mcp", "tools/list", json!({})))
}

fn state(world: &World) -> serde_json::Value {
    let request = Request::get("/status").header("host", "localhost").body(Bytes::new()).unwrap();
    world.send(request).json()
}

#[test]
fn what_is_kept_stays_listed_while_the_link_is_down_even_for_another_instance() {
    let mut world = world(Offline::Keep);
    assert_eq!(listed(&world), ["near__n"], "nobody knows yet what it has");
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(listed(&world), ["near__n", "files__read"]);
    companion.cut(&world.fake);
    world.fake.logged();
    world.fake.pass(Duration::from_secs(7200));
    assert_eq!(listed(&world), ["near__n", "files__read"]);
    assert!(message(&call(&world, "files__read")).contains("last seen 2 h ago"));
    world.restart();
    assert_eq!(listed(&world), ["near__n", "files__read"]);
    let got = call(&world, "files__read");
    assert!(message(&got).contains("last seen 2 h ago"), "it is remembered: {}", got.body);
    let logged = world.fake.logged();
    assert!(!logged.iter().any(|line| line.contains("\"level\":\"error\"")), "{logged:?}");
    let status = state(&world);
    assert_eq!(status["servers"][1]["state"], "offline");
    assert_eq!(status["servers"][1]["failed"], 0);
    assert!(status["servers"][1]["last_seen"].is_u64());
    assert_eq!(status["links"][0]["state"], "offline");
}

#[test]
fn what_is_hidden_comes_and_goes_with_the_link() {
    let world = world(Offline::Hide);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    assert_eq!(listed(&world), ["near__n", "files__read"]);
    let status = state(&world);
    assert_eq!(status["links"][0]["state"], "connected");
    assert_eq!(status["links"][0]["servers"], json!(["files"]));
    assert!(status["links"][0]["agent"].as_str().unwrap().starts_with("causeway/"), "{status}");
    companion.cut(&world.fake);
    world.fake.pass(Duration::from_secs(70));
    assert_eq!(listed(&world), ["near__n"]);
    assert_eq!(listed(&world), ["near__n"]);
    assert!(message(&call(&world, "files__read")).contains("not connected"));
    companion.back(&world.fake);
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(listed(&world), ["near__n", "files__read"]);
}

#[test]
fn a_server_that_is_another_after_the_link_was_away_is_asked_anew() {
    let world = world(Offline::Keep);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    assert_eq!(listed(&world), ["near__n", "files__read"]);
    companion.cut(&world.fake);
    put(&world.fake, "files", Kind::Modern, &["write"]);
    world.fake.pass(Duration::from_secs(70));
    assert_eq!(listed(&world), ["near__n", "files__read"]);
    companion.back(&world.fake);
    world.fake.pass(Duration::from_secs(1));
    assert_eq!(listed(&world), ["near__n", "files__write"]);
}

#[test]
fn a_client_that_listens_is_told_when_the_link_comes_and_goes() {
    let world = world(Offline::Hide);
    let companion = Companion::dial(&world.fake, "laptop", &["files"]);
    assert_eq!(listed(&world), ["near__n", "files__read"]);
    let fake = world.fake.clone();
    fake.clone().spawn(async move {
        fake.sleep(Duration::from_secs(20)).await;
        companion.cut_now();
        fake.sleep(Duration::from_secs(100)).await;
        companion.back(&fake);
    });
    let params = json!({"notifications": {"toolsListChanged": true}});
    let request = modern("/mcp", &[], "subscriptions/listen", params);
    let got = world
        .fake
        .run(world.sent(request, async |seen: &str| seen.matches("tools/list_changed").count() >= 2));
    assert!(got.body.contains("\"toolsListChanged\":true"), "{}", got.body);
}
