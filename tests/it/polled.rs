//! Several instances of a host where nothing outlives a request: they share a store and nothing else.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use causeway::config::glob::{Filter, Glob};
use causeway::config::plan::{Caller, Key, Offline, Server};
use causeway::platform::{Clock as _, HttpClient as _};
use causeway::polled::{BEAT, LATE, LEASE};
use causeway::testing::{Fake, Script};
use causeway::tunnel::frame::{Frame, Headers, Response};
use causeway::tunnel::hello::{CompanionId, Offer};
use causeway::tunnel::pair::{self, Message};
use causeway::tunnel::{ByeCode, Effect, Input, Limits, Link, StreamId};
use futures_util::StreamExt as _;
use futures_util::future::{Either, join, select};
use http::Request;
use serde_json::{Value, json};

use crate::bridge::{
    answer, asking, capable, form, in_session, last, legacy_call, messages, modern_asking, open, request,
    retry,
};
use crate::links::behind;
use crate::server::{Kind, put};
use crate::world::{Got, World, key, modern, plan, server};

/// `N` instances in front of one server.
fn instances<const N: usize>(fake: &Fake) -> [World; N] {
    let first = World::new(fake.clone(), plan(vec![server("a")]));
    [(); N].map(|()| first.further())
}

fn call(world: &World, id: u64, params: &Value) -> Got {
    world.send(request("/mcp/a", id, params, &capable(), "x"))
}

fn accept() -> Value {
    json!({"q1": {"action": "accept", "content": {"name": "x"}}})
}

fn message_of(got: &Got) -> String {
    last(got)["error"]["message"].as_str().unwrap_or_else(|| panic!("{}", got.body)).to_owned()
}

#[test]
fn a_call_that_waits_in_one_instance_goes_on_from_another() {
    let fake = Fake::default();
    let server = asking(&fake, "a", vec![form()]);
    let [one, two, three] = instances(&fake);
    let params = json!({"name": "t", "arguments": {"n": 1}});
    let asked = last(&call(&one, 1, &params));
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    fake.pass(Duration::from_secs(30));
    assert_eq!((one.fake.owns(), two.fake.owns()), (1, 0));

    let before = fake.now();
    let got = call(&two, 2, &retry(&params, &asked, accept()));
    let took = fake.now().since(before);
    let all = messages(&got.body);
    assert_eq!(all[0]["params"]["progress"], 2, "{}", got.body);
    assert_eq!((&all[1]["id"], &all[1]["result"]["resultType"]), (&json!(2), &json!("complete")));
    assert_eq!(server.heard.lock().unwrap().len(), 1);
    // The fixture looks once a second whether it has been answered; the rest is polling.
    assert!(took <= LATE * 2 + Duration::from_secs(1), "{took:?}");

    let again = call(&three, 3, &retry(&params, &asked, accept()));
    assert!(message_of(&again).contains("start again"), "a state works once: {}", again.body);
    fake.pass(Duration::from_secs(130));
    assert_eq!(one.fake.owns(), 0);
    let gone = call(&two, 4, &retry(&params, &asked, accept()));
    assert!(message_of(&gone).contains("has ended"), "{}", gone.body);
}

#[test]
fn a_session_that_one_instance_has_ended_is_served_by_no_other() {
    let fake = Fake::default();
    put(&fake, "a", Kind::Modern, &["t"]);
    let [one, two] = instances(&fake);
    let session = open(&one, "/mcp/a", &json!({}));
    for world in [&one, &two] {
        assert_eq!(world.send(legacy_call("/mcp/a", &session, 1, "t")).brief(), "200 ok");
    }
    let end = Request::delete("/mcp/a").header("host", "localhost").header("mcp-session-id", &session);
    assert_eq!(two.send(end.body(Bytes::new()).unwrap()).status, 204);
    for world in [&one, &two] {
        assert_eq!(world.send(legacy_call("/mcp/a", &session, 2, "t")).status, 404);
    }
}

#[test]
fn an_answer_that_is_larger_than_an_inbox_arrives_whole() {
    let fake = Fake::default();
    let server = asking(&fake, "a", vec![form()]);
    let [one, two] = instances(&fake);
    let params = json!({"name": "t"});
    let asked = last(&call(&one, 1, &params));
    let text = "ü".repeat(700_000);
    let answers = json!({"q1": {"action": "accept", "content": {"name": text}}});
    let done = last(&call(&two, 2, &retry(&params, &asked, answers)));
    assert_eq!(done["result"]["resultType"], "complete", "{done}");
    assert_eq!(server.heard.lock().unwrap()[0]["result"]["content"]["name"], text);
}

#[test]
fn what_a_server_says_at_length_arrives_whole_and_in_order() {
    let fake = Fake::default();
    let server = asking(&fake, "a", vec![form()]);
    let [one, two] = instances(&fake);
    let params = json!({"name": "t", "arguments": {"text": "x".repeat(900_000)}});
    let asked = last(&call(&one, 1, &params));
    let got = call(&two, 2, &retry(&params, &asked, accept()));
    assert_eq!(last(&got)["result"]["echo"]["arguments"], params["arguments"]);
    assert_eq!(server.heard.lock().unwrap().len(), 1);
}

#[test]
fn a_caller_whose_instance_has_died_is_told_to_start_again() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form()]);
    let [one, two, three] = instances(&fake);
    let params = json!({"name": "t"});
    // Nobody knows yet that it is gone: the letter waits for it.
    let asked = last(&call(&one, 1, &params));
    one.fake.die();
    let before = fake.now();
    let got = call(&two, 2, &retry(&params, &asked, accept()));
    assert!(message_of(&got).contains("start again"), "{}", got.body);
    assert!(fake.now().since(before) <= LEASE / 4, "who lives would have taken the letter long ago");
    // Now it is known.
    let before = fake.now();
    let got = call(&three, 3, &retry(&params, &asked, accept()));
    assert!(message_of(&got).contains("start again"), "{}", got.body);
    assert_eq!(fake.now(), before);
    let done = last(&call(&two, 4, &params));
    assert_eq!(done["result"]["resultType"], "input_required", "{done}");
}

#[test]
fn a_caller_whose_instance_dies_while_it_listens_is_told_to_start_again() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form()]);
    let [one, two] = instances(&fake);
    let params = json!({"name": "t"});
    let asked = last(&call(&one, 1, &params));
    // It is to take the letter and then die: the answer to the question does not come to an end before.
    let retried =
        request("/mcp/a", 2, &retry(&params, &asked, json!({"q1": {"action": "accept"}})), &capable(), "x");
    let killer = async {
        fake.sleep(Duration::from_millis(600)).await;
        one.fake.die();
    };
    let (got, ()) = fake.run(join(two.sent(retried, async |_: &str| false), killer));
    assert!(message_of(&got).contains("start again"), "{}", got.body);
}

#[test]
fn a_legacy_client_is_asked_and_answers_by_way_of_any_instance() {
    for path in ["/mcp", "/mcp/a"] {
        let fake = Fake::default();
        modern_asking(&fake, "a", 2);
        let [one, two, three] = instances(&fake);
        let session = open(&one, path, &capable());
        let name = if path == "/mcp" { "a__t" } else { "t" };
        let mut done = Vec::new();
        let got = fake.run(two.sent(legacy_call(path, &session, 9, name), async |seen: &str| {
            answer(&three, path, &session, seen, &mut done).await;
            false
        }));
        let all = messages(&got.body);
        assert_eq!(all.len(), 5, "two questions, twice, and the result: {}", got.body);
        assert_eq!(all[4]["id"], 9);
        fake.pass(Duration::from_secs(130));
        assert_eq!([&one, &two, &three].map(|world| world.fake.owns()), [0; 3]);
    }
}

#[test]
fn a_legacy_client_that_lost_its_stream_goes_on_with_it_elsewhere() {
    let fake = Fake::default();
    modern_asking(&fake, "a", 1);
    let [one, two, three] = instances(&fake);
    let session = open(&one, "/mcp/a", &capable());
    let call = legacy_call("/mcp/a", &session, 9, "t");
    let got = fake.run(one.sent(call, async |seen: &str| seen.contains("id: cw-")));
    let first = messages(&got.body);
    let last_id = got.body.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let resume = Request::get("/mcp/a")
        .header("host", "localhost")
        .header("accept", "text/event-stream")
        .header("mcp-session-id", &session)
        .header("mcp-protocol-version", "2025-11-25")
        .header("last-event-id", &last_id)
        .body(Bytes::new())
        .unwrap();
    let (mut done, before) = (Vec::new(), got.body.clone());
    let got = fake.run(two.sent(resume, async |seen: &str| {
        answer(&three, "/mcp/a", &session, &format!("{before}{seen}"), &mut done).await;
        false
    }));
    let rest = messages(&got.body);
    assert_eq!(rest.len(), 2, "nothing twice and nothing lost: {}", got.body);
    assert_ne!(rest[0]["id"], first[0]["id"]);
    assert_eq!(rest[1]["id"], 9);
}

#[test]
fn a_listener_that_hangs_up_or_dies_is_not_waited_for() {
    for dies in [false, true] {
        let fake = Fake::default();
        let server = asking(&fake, "a", vec![form(), form()]);
        let [one, two] = instances(&fake);
        let params = json!({"name": "t"});
        let asked = last(&call(&one, 1, &params));
        // One of two questions is answered, so that the call goes on waiting and its caller may leave.
        let answers = json!({"q1": {"action": "accept"}, "q2": {"action": "accept"}});
        let retried = request("/mcp/a", 2, &retry(&params, &asked, answers), &capable(), "x");
        let got = fake.run(two.sent(retried, async |seen: &str| seen.contains("\"progress\":2")));
        assert!(got.body.contains("\"progress\":2"));
        if dies {
            two.fake.die();
        }
        fake.pass(LEASE * 2);
        assert_eq!(server.heard.lock().unwrap().iter().filter(|said| said["result"].is_object()).count(), 2);
        fake.pass(Duration::from_secs(130));
        assert_eq!(one.fake.owns(), 0, "dies: {dies}");
    }
}

#[test]
fn messages_of_an_http_sse_client_come_once_and_in_order_from_any_instance() {
    let fake = Fake::default();
    modern_asking(&fake, "a", 0);
    let [one, two, three] = instances(&fake);
    let get = Request::get("/sse")
        .header("host", "localhost")
        .header("accept", "text/event-stream")
        .body(Bytes::new())
        .unwrap();
    let mut posted = false;
    let got = fake.run(one.sent(get, async |seen: &str| {
        let place = seen.lines().find_map(|line| line.strip_prefix("data: /messages?")).map(str::to_owned);
        if let Some(place) = place
            && !std::mem::replace(&mut posted, true)
        {
            let params = json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
            let mut bodies =
                vec![json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})];
            bodies.extend((1..6).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "ping"})));
            for (number, body) in bodies.iter().enumerate() {
                let world = if number % 2 == 0 { &two } else { &three };
                let mut post = in_session(&format!("/messages?{place}"), "x", body);
                post.headers_mut().remove("mcp-session-id");
                assert_eq!(world.sent(post, async |_: &str| false).await.status, 202);
                fake.sleep(Duration::from_secs(3)).await;
            }
        }
        seen.contains("\"id\":5")
    }));
    let ids: Vec<u64> = messages(&got.body.replace("data: /messages", "x: "))
        .iter()
        .filter_map(|message| message["id"].as_u64())
        .collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5], "{}", got.body);
    fake.pass(Duration::from_secs(130));
    assert_eq!(one.fake.owns(), 0);
}

#[test]
fn waiting_costs_a_few_looks_a_second_and_a_call_that_asks_nothing_costs_nothing() {
    let fake = Fake::default();
    asking(&fake, "a", vec![form()]);
    let [one, two] = instances(&fake);
    let params = json!({"name": "t"});
    let asked = last(&call(&one, 1, &params));
    fake.pass(Duration::from_secs(5));
    fake.trace();
    fake.pass(Duration::from_secs(60));
    let trace = fake.trace();
    let of = |what: &str| trace.iter().filter(|line| line.starts_with(what)).count();
    assert!((200..300).contains(&of("store.load polled")), "{}", of("store.load polled"));
    assert!(of("store.swap polled") <= 13, "{}", of("store.swap polled"));
    call(&two, 2, &retry(&params, &asked, accept()));
    let got = two.send(request("/mcp/a", 3, &params, &json!({}), "x"));
    assert!(!got.trace.iter().any(|line| line.contains("polled")), "{:?}", got.trace);
}

/// Of a companion: whether it answers nothing, what it was asked meanwhile, and what was given up.
#[derive(Default)]
struct Mute {
    on: Cell<bool>,
    asked: Cell<u32>,
    resets: Cell<u32>,
}

/// A companion without WebSockets: what it is told comes from `down`, what it says goes to `up`.
async fn accompany(down: &World, up: &World) {
    accompany_mute(down, up, &Mute::default()).await;
}

async fn accompany_mute(down: &World, up: &World, mute: &Mute) {
    let fake = &down.fake;
    let link = Link::companion(Limits::default(), "laptop", vec![Offer::server("files")]);
    let mut link = link.known_as(CompanionId([4; 16]));
    let mut effects = Vec::new();
    link.on(fake.now(), Input::Dialled, &mut effects);
    let Some(Effect::Send { message: hello, .. }) = effects.pop() else { panic!("no hello") };
    let post = |headers: &[(&str, String)], body: Bytes| {
        let mut request = Request::post("/tunnel?name=laptop")
            .header("host", "localhost")
            .header("authorization", "Bearer ann-key");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.body(body).unwrap()
    };
    let (mut told, mut outbox, mut asked) = (0, pair::Outbox::new(0), Vec::new());
    // Bodies that wait for room.
    let mut sending: Vec<(StreamId, Bytes)> = Vec::new();
    let got = down.sent(post(&[], hello), async |seen: &str| {
        let events: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        let mut effects = VecDeque::new();
        for event in events.iter().skip(told) {
            let input = match Message::from_event(event.as_bytes()).unwrap() {
                Message::Frame(frame) => Input::Frame(frame),
                Message::Ping => Input::Ping,
                Message::Pong => Input::Pong,
            };
            let mut out = Vec::new();
            link.on(fake.now(), input, &mut out);
            effects.extend(out);
        }
        told = events.len();
        while let Some(effect) = effects.pop_front() {
            let mut out = Vec::new();
            match effect {
                Effect::Send { message, count } => outbox.push(count, Message::Frame(message)),
                Effect::Ping => outbox.push(None, Message::Ping),
                Effect::Pong => outbox.push(None, Message::Pong),
                Effect::Open(stream, request) => asked.push((stream, request, BytesMut::new())),
                Effect::Data(stream, piece) => {
                    asked.iter_mut().find(|(open, ..)| *open == stream).unwrap().2.extend_from_slice(&piece);
                    link.on(fake.now(), Input::Read(stream, piece.len()), &mut out);
                }
                Effect::End(_) if mute.on.get() => mute.asked.set(mute.asked.get() + 1),
                Effect::End(stream) => {
                    let place = asked.iter().position(|(open, ..)| *open == stream).unwrap();
                    let (_, request, body) = asked.swap_remove(place);
                    let mut local = Request::new(body.freeze());
                    *local.method_mut() = request.method.parse().unwrap();
                    *local.uri_mut() = "http://files/mcp".parse().unwrap();
                    *local.headers_mut() = request.headers.to_map();
                    let (head, mut body) = fake.send(local).await.unwrap().into_parts();
                    let head =
                        Response { status: head.status.as_u16(), headers: Headers::from_map(&head.headers) };
                    link.on(fake.now(), Input::Head(stream, head), &mut out);
                    let mut whole = BytesMut::new();
                    while let Some(piece) = body.next().await {
                        whole.extend_from_slice(&piece.unwrap());
                    }
                    sending.push((stream, whole.freeze()));
                }
                Effect::Reset(stream, _) => {
                    mute.resets.set(mute.resets.get() + 1);
                    sending.retain(|(open, _)| *open != stream);
                }
                Effect::Close(bye) => panic!("{bye:?}"),
                _ => {}
            }
            for (stream, body) in &mut sending {
                while let room @ 1.. = link.room(*stream).min(body.len()) {
                    link.on(fake.now(), Input::Data(*stream, body.split_to(room)), &mut out);
                }
                if body.is_empty() {
                    link.on(fake.now(), Input::End(*stream), &mut out);
                }
            }
            sending.retain(|(_, body)| !body.is_empty());
            effects.extend(out);
        }
        while !outbox.is_empty() {
            let (from, body, count) = outbox.batch();
            let session = link.session().unwrap().to_string();
            let headers = [(pair::SESSION, session), (pair::FROM, from.to_string())];
            let got = up.sent(post(&headers, body), async |_: &str| false).await;
            if got.status == 409 {
                // Whoever kept the link has gone.
                pending::<()>().await;
            }
            assert_eq!(got.status, 200, "{}", got.body);
            outbox.taken(count);
        }
        false
    });
    let got = got.await;
    panic!("the link has ended: {} {}", got.status, got.body);
}

/// What a companion is told by this stream of events.
fn told(events: &str) -> Vec<Frame> {
    let data = events.lines().filter_map(|line| line.strip_prefix("data:"));
    data.map(|data| match Message::from_event(data.as_bytes()).unwrap() {
        Message::Frame(frame) => Frame::decode(frame).unwrap(),
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn hellos_that_come_in_the_wrong_order_through_several_instances_keep_no_companion_away() {
    let fake = Fake::default().public();
    put(&fake, "files", Kind::Modern, &["read"]);
    let [one, two, three] = linked(&fake);
    let link = Link::companion(Limits::default(), "laptop", vec![Offer::server("files")]);
    let mut link = link.known_as(CompanionId([4; 16]));
    let mut dial = || {
        let mut effects = Vec::new();
        link.on(fake.now(), Input::Dialled, &mut effects);
        let Some(Effect::Send { message, .. }) = effects.pop() else { panic!("no hello") };
        let request = Request::post("/tunnel?name=laptop").header("host", "localhost");
        request.header("authorization", "Bearer ann-key").body(message).unwrap()
    };
    let (first, second, third) = (dial(), dial(), dial());
    let heard = Cell::new(0);
    let begun = one.sent(second, async |_: &str| false);
    let live = async {
        fake.sleep(Duration::from_secs(2)).await;
        let got = two.sent(third, async |seen: &str| {
            assert!(matches!(told(seen)[..], [] | [Frame::Welcome(_)]), "{:?}", told(seen));
            heard.set(told(seen).len());
            false
        });
        panic!("the link has ended: {}", got.await.body);
    };
    let late = async {
        fake.sleep(Duration::from_secs(5)).await;
        let late = three.sent(first, async |_: &str| false).await;
        let said = told(&late.body);
        assert!(matches!(&said[..], [Frame::Bye(bye)] if bye.code == ByeCode::Stale), "{said:?}");
        fake.sleep(Duration::from_secs(2)).await;
    };
    let both = join(begun, late);
    let Either::Right(((begun, ()), _)) = fake.run(select(pin!(live), pin!(both)));
    let said = told(&begun.body);
    assert!(
        matches!(&said[..], [Frame::Welcome(_), Frame::Bye(bye)] if bye.code == ByeCode::Lost),
        "{said:?}"
    );
    assert_eq!(heard.get(), 1);
}

/// Three instances with `files` behind a link.
fn linked(fake: &Fake) -> [World; 3] {
    let mut plan = plan(vec![Server { max_response: 16 << 20, ..behind("files", Offline::Keep) }]);
    let ann = key("ann", Filter::default(), Filter::default());
    let caller = Caller { links: vec![Glob::new("*")], ..(*ann.caller).clone() };
    plan.keys = vec![Key { caller: caller.into(), ..ann }];
    let first = World::new(fake.clone(), plan);
    [(); 3].map(|()| first.further())
}

/// A call of what is behind the link.
fn read() -> Request<Bytes> {
    let mut call = modern("/mcp/files", &[], "tools/call", json!({"name": "read", "arguments": {}}));
    call.headers_mut().insert("authorization", "Bearer ann-key".parse().unwrap());
    call
}

/// Has `files` say `text` to each call.
fn put_long(fake: &Fake, text: &str) {
    let (text, sessions) = (text.to_owned(), AtomicU64::new(0));
    fake.upstream("files", move |request| {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        if message["method"] != "tools/call" {
            return Ok(crate::server::answer(request, Kind::Modern, &["read"], &sessions));
        }
        let result = json!({"content": [{"type": "text", "text": text}], "resultType": "complete"});
        Ok(Script::json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()))
    });
}

#[test]
fn a_slow_reader_of_a_server_behind_a_link_gets_all_that_it_says() {
    let fake = Fake::default().public();
    let text = "x".repeat(3_000_000);
    put_long(&fake, &text);
    let [one, two, three] = linked(&fake);
    let calls = async {
        fake.sleep(Duration::from_secs(3)).await;
        let mut pauses = 0;
        let got = three.sent(read(), async |_: &str| {
            pauses += 1;
            // Longer than anybody may be silent who is there.
            if pauses <= 3 {
                fake.sleep(LEASE + BEAT).await;
            }
            false
        });
        let got = got.await;
        assert!(pauses > 3, "{pauses}: {}", got.body.replace("xxxxxxxxxx", ""));
        assert_eq!(got.json()["result"]["content"][0]["text"], text);
    };
    fake.run(select(pin!(accompany(&one, &two)), pin!(calls)));
}

#[test]
fn a_call_through_a_link_that_is_given_up_in_silence_is_given_up_at_the_companion() {
    let fake = Fake::default().public();
    put(&fake, "files", Kind::Modern, &["read"]);
    let [one, two, three] = linked(&fake);
    let mute = Mute::default();
    let calls = async {
        fake.sleep(Duration::from_secs(3)).await;
        let warm = three.sent(read(), async |_: &str| false).await;
        assert_eq!(warm.brief(), "200 ok", "{}", warm.body);
        mute.on.set(true);
        select(pin!(three.sent(read(), async |_: &str| false)), pin!(fake.sleep(Duration::from_secs(3))))
            .await;
        assert_eq!((mute.asked.get(), mute.resets.get()), (1, 0));
        fake.sleep(Duration::from_secs(3)).await;
        assert_eq!((mute.asked.get(), mute.resets.get()), (1, 1));
    };
    fake.run(select(pin!(accompany_mute(&one, &two, &mute)), pin!(calls)));
}

#[test]
fn an_answer_through_a_link_whose_instance_dies_is_cut_and_not_taken_for_whole() {
    let fake = Fake::default().public();
    put_long(&fake, &"x".repeat(3_000_000));
    let [one, two, three] = linked(&fake);
    let calls = async {
        fake.sleep(Duration::from_secs(3)).await;
        let mut dead = false;
        let got = three.sent(read(), async |_: &str| {
            if !std::mem::replace(&mut dead, true) {
                one.fake.die();
            }
            false
        });
        let got = got.await;
        let end = got.body.trim_start_matches(|c| c != '<');
        assert!(end.contains("the instance that kept the link has gone"), "{end}");
    };
    fake.run(select(pin!(accompany(&one, &two)), pin!(calls)));
}

#[test]
fn a_server_behind_a_link_is_reached_from_any_instance() {
    let fake = Fake::default().public();
    put(&fake, "files", Kind::Modern, &["read"]);
    let [one, two, three] = linked(&fake);
    let call = async |world: &World| {
        let before = fake.now();
        let got = world.sent(read(), async |_: &str| false).await;
        (got, fake.now().since(before))
    };
    let offline = message_of(&fake.run(call(&three)).0);
    assert!(offline.contains("laptop") && offline.contains("not connected"), "{offline}");

    let calls = async {
        fake.sleep(Duration::from_secs(3)).await;
        for world in [&three, &one, &two] {
            let (got, took) = call(world).await;
            assert_eq!(got.brief(), "200 ok", "{}", got.body);
            // To the owner, by way of the companion's POST, and back.
            assert!(took < LATE * 4, "{took:?}");
        }
    };
    fake.run(select(pin!(accompany(&one, &two)), pin!(calls)));
    assert_eq!((one.fake.owns(), two.fake.owns()), (1, 0));
    one.fake.die();
    fake.pass(LEASE * 2);
    let offline = message_of(&fake.run(call(&three)).0);
    assert!(offline.contains("not connected"), "{offline}");
}
