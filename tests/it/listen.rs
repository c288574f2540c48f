//! `subscriptions/listen` of modern clients, in front of servers of both eras.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use causeway::config::glob::Filter;
use causeway::config::plan::{Server, Transport};
use causeway::gateway::{After, Body, Gateway};
use causeway::platform::{Clock as _, SeamError};
use causeway::testing::{Fake, Step};
use futures_util::future::{Either, join, select};
use futures_util::{Stream, StreamExt as _, stream};
use http::Request;
use serde_json::{Value, json};

use crate::changing::{Changing, Line, agrees, changed, says, streaming, telling, updated, wait};
use crate::old::Old;
use crate::world::{World, globs, key, meta, plan, server};

const ID: &str = "io.modelcontextprotocol/subscriptionId";

/// A subscription as its client sees it.
pub struct Open<S> {
    fake: Fake,
    gateway: Gateway<Fake>,
    body: S,
    after: Option<Box<After<Fake>>>,
    ready: VecDeque<Value>,
    comments: usize,
}

/// Opens a subscription with the id 7 to what `wanted` says.
async fn open(
    world: &World,
    path: &str,
    wanted: Value,
) -> Open<impl Stream<Item = Result<Bytes, SeamError>> + Unpin + use<>> {
    open_as(world, path, json!(7), &[], wanted).await
}

async fn open_as(
    world: &World,
    path: &str,
    id: Value,
    headers: &[(&str, &str)],
    wanted: Value,
) -> Open<impl Stream<Item = Result<Bytes, SeamError>> + Unpin + use<>> {
    open_able(world, path, id, headers, (wanted, json!({}))).await
}

/// The same of a client with these capabilities.
pub async fn open_able(
    world: &World,
    path: &str,
    id: Value,
    headers: &[(&str, &str)],
    (wanted, able): (Value, Value),
) -> Open<impl Stream<Item = Result<Bytes, SeamError>> + Unpin + use<>> {
    let mut params = json!({"notifications": wanted, "_meta": meta()});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = able;
    let message = json!({"jsonrpc": "2.0", "id": id, "method": "subscriptions/listen", "params": params});
    let mut request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "subscriptions/listen");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = stream::iter([Ok(Bytes::from(message.to_string()))]);
    let gateway = Gateway::new(world.fake.clone(), world.instance.clone());
    let reply = gateway.clone().handle(request.body(body).unwrap()).await;
    let (head, body) = reply.response.into_parts();
    let Body::Stream(body) = body else { panic!("{}: a whole body", head.status) };
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert_eq!(head.headers["x-accel-buffering"], "no");
    let (fake, ready) = (world.fake.clone(), VecDeque::new());
    Open { fake, gateway, body, after: Some(reply.after), ready, comments: 0 }
}

impl<S: Stream<Item = Result<Bytes, SeamError>> + Unpin> Open<S> {
    /// The next message, if there is one within `seconds`.
    async fn next_within(&mut self, seconds: u64) -> Option<Value> {
        let mut patience = pin!(self.fake.sleep(Duration::from_secs(seconds)));
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            let Either::Left((chunk, _)) = select(self.body.next(), &mut patience).await else { return None };
            let text = String::from_utf8(chunk?.unwrap().to_vec()).unwrap();
            for line in text.lines() {
                match line.strip_prefix("data: ") {
                    Some(data) => self.ready.push_back(serde_json::from_str(data).unwrap()),
                    None if line.starts_with(':') => self.comments += 1,
                    None => assert_eq!(line, ""),
                }
            }
        }
    }

    /// The next message; `Null` at the end.
    async fn next(&mut self) -> Value {
        self.next_within(3600).await.unwrap_or_default()
    }

    /// What is acknowledged.
    pub async fn acknowledged(&mut self) -> Value {
        let message = self.next().await;
        assert_eq!(message["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(message["params"]["_meta"][ID], 7);
        message["params"]["notifications"].clone()
    }

    /// The next notification in short; `end` for the completion of the subscription.
    async fn told(&mut self) -> String {
        let message = self.next().await;
        brief(&message)
    }

    /// Everything that is told within `seconds`.
    pub async fn told_within(&mut self, seconds: u64) -> Vec<String> {
        let until = self.fake.now().after(Duration::from_secs(seconds));
        let mut told = Vec::new();
        while let Some(message) = self.next_within(until.since(self.fake.now()).as_secs()).await {
            told.push(brief(&message));
        }
        told
    }

    /// The client goes away. Gives how many answers of servers were let go by that.
    pub async fn hang_up(self) -> u64 {
        let Self { fake, gateway, body, after, .. } = self;
        let before = fake.dropped();
        drop(body);
        let dropped = fake.dropped() - before;
        gateway.finish(after.unwrap()).await;
        dropped
    }
}

fn brief(message: &Value) -> String {
    if message["id"] == 7 {
        assert_eq!(message["result"]["resultType"], "complete", "{message}");
        assert_eq!(message["result"]["_meta"][ID], 7);
        return "end".to_owned();
    }
    if message.is_null() {
        return "nothing".to_owned();
    }
    assert_eq!(message["params"]["_meta"][ID], 7, "{message}");
    let method = message["method"].as_str().unwrap().strip_prefix("notifications/").unwrap().to_owned();
    match message["params"]["uri"].as_str() {
        Some(uri) => format!("{method} {uri}"),
        None => method,
    }
}

fn tools() -> Value {
    json!({"toolsListChanged": true})
}

fn all() -> Value {
    json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true})
}

/// A gateway in front of servers called by their places.
fn world(fake: &Fake, names: &[&str]) -> World {
    World::new(fake.clone(), plan(names.iter().map(|name| server(name)).collect()))
}

#[test]
fn a_subscription_begins_with_its_acknowledgement_and_goes_on_with_what_changes() {
    for modern in [true, false] {
        let fake = Fake::default();
        let news = [wait(3000), says(&changed("tools")), wait(1000), says(&updated("x://r"))];
        let line = if modern { telling(&news) } else { streaming(&news) };
        let a = Changing::new(modern, vec![line]).put(&fake, "a");
        let world = world(&fake, &["a"]);
        for (path, id) in [("/mcp", json!("seven")), ("/mcp", json!(7)), ("/mcp/a", json!(7))] {
            if path == "/mcp/a" && modern {
                continue;
            }
            a.rewind();
            let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["x://r"]});
            fake.run(async {
                let mut open = open_as(&world, path, id.clone(), &[], wanted.clone()).await;
                let expect = |method: &str, more: (&str, Value)| {
                    json!({"jsonrpc": "2.0", "method": format!("notifications/{method}"),
                        "params": {"_meta": {ID: id}, more.0: more.1}})
                };
                let acknowledged = open.next().await;
                assert_eq!(acknowledged, expect("subscriptions/acknowledged", ("notifications", wanted)));
                let first = open.next().await;
                assert_eq!(first["method"], "notifications/tools/list_changed");
                assert_eq!(first["params"], json!({"_meta": {ID: id}}));
                assert_eq!(open.next().await, expect("resources/updated", ("uri", json!("x://r"))));
                assert_eq!(open.next_within(9).await, None);
                open.hang_up().await;
            });
        }
    }
}

#[test]
fn a_modern_server_is_asked_for_what_it_declares_and_the_client_wants() {
    let fake = Fake::default();
    let mut a = Changing::new(true, vec![telling(&[])]);
    a.capabilities = json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}});
    let a = a.put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let wanted = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": false,
            "resourceSubscriptions": ["x://r"], "later": true});
        let mut open = open(&world, "/mcp", wanted).await;
        let expect = json!({"toolsListChanged": true, "resourceSubscriptions": ["x://r"]});
        assert_eq!(open.acknowledged().await, expect);
        let asked = a.asked_for("subscriptions/listen");
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0]["notifications"], expect);
        assert_eq!(asked[0]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
        assert_eq!(asked[0]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"], "causeway");
    });
}

#[test]
fn a_legacy_server_is_heard_over_a_session_that_ends_with_the_subscription() {
    let fake = Fake::default();
    Changing::new(false, vec![streaming(&[])]).put(&fake, "a");
    let world = world(&fake, &["a"]);
    world.modern("/mcp", "tools/list", json!({}));
    fake.run(async {
        fake.trace();
        let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["x://r"]});
        let mut open = open(&world, "/mcp/a", wanted.clone()).await;
        assert_eq!(open.acknowledged().await, wanted);
        let trace = [
            "http.send POST a initialize",
            "http.send POST a notifications/initialized [s3]",
            "http.send POST a resources/subscribe [s3]",
            "http.send GET a - [s3]",
        ];
        assert_eq!(fake.trace(), trace);
        assert_eq!(open.hang_up().await, 1, "the server's stream is let go");
        assert_eq!(fake.trace(), ["http.send DELETE a - [s3]"]);
        assert!(fake.logged().last().unwrap().contains("\"outcome\":\"ok\""));
    });
}

#[test]
fn the_merged_endpoint_acknowledges_what_any_server_tells() {
    let fake = Fake::default();
    let mut a = Changing::new(true, vec![telling(&[wait(1000), says(&changed("tools"))])]);
    a.capabilities = json!({"tools": {"listChanged": true}, "prompts": {}});
    a.put(&fake, "a");
    let mut b = Changing::new(false, vec![streaming(&[wait(2000), says(&changed("resources"))])]);
    b.capabilities = json!({"resources": {"listChanged": true}, "tools": {}});
    b.put(&fake, "b");
    let mut c = Changing::new(false, vec![Line::Dead]);
    c.capabilities = json!({"tools": {}});
    let c = c.put(&fake, "c");
    let world = world(&fake, &["a", "b", "c"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", all()).await;
        let expect = json!({"toolsListChanged": true, "resourcesListChanged": true});
        assert_eq!(open.acknowledged().await, expect);
        assert_eq!(open.told().await, "tools/list_changed");
        assert_eq!(open.told().await, "resources/list_changed");
        assert_eq!(c.connections(), 0, "a server with nothing to say is not listened to");
    });
}

#[test]
fn a_modern_server_that_agrees_to_less_is_taken_at_its_word() {
    let fake = Fake::default();
    let ack = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
        "params": {"notifications": {"promptsListChanged": true, "toolsListChanged": false}}});
    let steps = vec![says(&ack), wait(1), says(&changed("prompts")), says(&changed("tools")), Step::Stall];
    Changing::new(true, vec![Line::Events(steps)]).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", all()).await;
        assert_eq!(open.acknowledged().await, json!({"promptsListChanged": true}));
        assert_eq!(open.told_within(5).await, ["prompts/list_changed"]);
    });
}

#[test]
fn what_comes_before_the_acknowledgement_must_be_in_it_too() {
    let fake = Fake::default();
    let ack = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
        "params": {"notifications": {"promptsListChanged": true}}});
    let steps = [&ack, &changed("tools"), &changed("prompts")].map(says);
    Changing::new(true, vec![streaming(&steps)]).put(&fake, "a");
    let mut b = Changing::new(false, vec![streaming(&[])]);
    b.capabilities = json!({"prompts": {"listChanged": true}});
    let b = b.put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    world.modern("/mcp", "server/discover", json!({}));
    b.slow_from_now_on();
    fake.run(async {
        let mut open = open(&world, "/mcp", all()).await;
        assert_eq!(open.acknowledged().await, json!({"promptsListChanged": true}));
        assert_eq!(open.told().await, "prompts/list_changed");
    });
}

#[test]
fn a_part_of_a_resource_that_is_hidden_stays_so() {
    let fake = Fake::default();
    let news =
        [wait(3000), says(&updated("x://r/secret")), says(&updated("x://r/1")), says(&updated("x://rest"))];
    Changing::new(true, vec![telling(&news)]).put(&fake, "a");
    let mut hiding = server("a");
    hiding.resources = Filter { allow: vec![], deny: globs(&["*secret*"]).allow };
    let world = World::new(fake.clone(), plan(vec![hiding]));
    fake.run(async {
        let mut open = open(&world, "/mcp", json!({"resourceSubscriptions": ["x://r"]})).await;
        open.acknowledged().await;
        assert_eq!(open.told_within(9).await, ["resources/updated x://r/1"]);
    });
}

#[test]
fn resources_go_to_their_servers_and_come_back_under_the_clients_names() {
    let fake = Fake::default();
    let news = |seconds: u64| [wait(seconds * 1000), says(&updated("x://r")), says(&updated("x://r/part"))];
    let a = Changing::new(true, vec![telling(&news(3))]).put(&fake, "a");
    let b = Changing::new(false, vec![streaming(&news(4))]).put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    fake.run(async {
        let wanted = json!({"resourceSubscriptions": ["x://r", "b+x://r", "x://nowhere", "c+x://r"]});
        let mut open = open(&world, "/mcp", wanted).await;
        let expect = json!({"resourceSubscriptions": ["x://r", "b+x://r"]});
        assert_eq!(open.acknowledged().await, expect, "what nobody has is left out");
        let asked = &a.asked_for("subscriptions/listen")[0]["notifications"];
        assert_eq!(*asked, json!({"resourceSubscriptions": ["x://r"]}));
        assert_eq!(b.asked_for("resources/subscribe"), [json!({"uri": "x://r"})]);
        for name in ["x://r", "x://r/part", "b+x://r", "b+x://r/part"] {
            assert_eq!(open.told().await, format!("resources/updated {name}"));
        }
    });
}

#[test]
fn a_resource_that_is_not_listed_is_watched_where_only_one_server_can_have_it() {
    let fake = Fake::default();
    let mut a = Changing::new(false, vec![streaming(&[])]);
    a.refuses = "bad";
    a.put(&fake, "a");
    let mut b = Changing::new(true, vec![telling(&[])]);
    b.capabilities = json!({"tools": {"listChanged": true}});
    b.put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    fake.run(async {
        let wanted = json!({"resourceSubscriptions": ["x://hidden", "x://bad"]});
        let mut open = open(&world, "/mcp", wanted).await;
        let expect = json!({"resourceSubscriptions": ["x://hidden"]});
        assert_eq!(open.acknowledged().await, expect, "what a server refuses is left out");
    });
}

#[test]
fn a_list_read_after_the_notification_is_the_new_one() {
    for modern in [true, false] {
        let fake = Fake::default();
        let news = [wait(2500), says(&changed("tools"))];
        let line = if modern { telling(&news) } else { streaming(&news) };
        let a = Changing::new(modern, vec![line]).put(&fake, "a");
        let world = world(&fake, &["a"]);
        let list = |world: &World| {
            let got = world.modern("/mcp", "tools/list", json!({}));
            got.json()["result"]["tools"][0]["name"].as_str().unwrap().to_owned()
        };
        assert_eq!(list(&world), "a__t0");
        let mut open = fake.run(open(&world, "/mcp", tools()));
        fake.run(open.acknowledged());
        a.tool.store(1, Ordering::Relaxed);
        assert_eq!(list(&world), "a__t0", "nobody has said yet that it changed");
        assert_eq!(fake.run(open.told()), "tools/list_changed");
        assert_eq!(list(&world), "a__t1");
    }
}

#[test]
fn a_list_that_was_being_read_when_it_changed_is_read_again() {
    let fake = Fake::default();
    let mut a = Changing::new(true, vec![telling(&[wait(4000), says(&changed("tools"))])]);
    a.lists_take = Duration::from_secs(5);
    let a = a.put(&fake, "a");
    let world = world(&fake, &["a"]);
    let list = || async {
        let params = json!({"_meta": meta()});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params});
        let request = Request::post("/mcp")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/list")
            .body(stream::iter([Ok(Bytes::from(message.to_string()))]));
        let gateway = Gateway::new(fake.clone(), world.instance.clone());
        let reply = gateway.handle(request.unwrap()).await;
        let Body::Full(body) = reply.response.into_body() else { panic!("a stream") };
        String::from_utf8(body.to_vec()).unwrap()
    };
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        open.acknowledged().await;
        join(
            async {
                assert_eq!(open.told().await, "tools/list_changed");
                a.tool.store(1, Ordering::Relaxed);
                assert!(list().await.contains("a__t1"), "asked after the notification");
            },
            list(),
        )
        .await;
        assert!(list().await.contains("a__t1"));
    });
}

#[test]
fn a_resource_stays_where_it_is_when_its_list_changes() {
    let fake = Fake::default();
    let a = Changing::new(true, vec![telling(&[wait(1000), says(&changed("resources"))])]).put(&fake, "a");
    Changing::new(true, vec![telling(&[])]).put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    let mut open = fake.run(open(&world, "/mcp", json!({"resourcesListChanged": true})));
    world.modern("/mcp", "resources/list", json!({}));
    fake.run(open.acknowledged());
    assert_eq!(fake.run(open.told()), "resources/list_changed");
    let got = world.modern("/mcp", "resources/read", json!({"uri": "x://r"}));
    assert_eq!(got.trace, ["http.send POST a resources/read"]);
    assert_eq!(a.asked_for("resources/list").len(), 2, "for clients that can do everything, and nothing");
}

#[test]
fn a_change_that_is_passed_through_makes_the_gateway_forget_its_list_too() {
    let fake = Fake::default();
    let a = Changing::new(true, vec![telling(&[wait(1000), says(&changed("tools"))])]).put(&fake, "a");
    let world = world(&fake, &["a"]);
    let list = |world: &World| world.modern("/mcp", "tools/list", json!({})).body;
    assert!(list(&world).contains("a__t0"));
    let mut open = fake.run(open(&world, "/mcp/a", tools()));
    assert_eq!(fake.run(open.acknowledged()), tools());
    a.tool.store(1, Ordering::Relaxed);
    assert_eq!(fake.run(open.next())["method"], "notifications/tools/list_changed");
    assert!(list(&world).contains("a__t1"));
}

#[test]
fn a_line_that_breaks_is_taken_up_again_and_what_may_have_been_missed_is_announced() {
    let fake = Fake::default();
    let lines = vec![
        Line::Events(vec![agrees(), wait(60_000), Step::Cut]),
        Line::Dead,
        Line::Status(500, ""),
        telling(&[]),
    ];
    let a = Changing::new(true, lines).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["x://r"]});
        let mut open = open(&world, "/mcp", wanted.clone()).await;
        assert_eq!(open.acknowledged().await, wanted);
        assert_eq!(a.connections(), 1);
        assert_eq!(open.told().await, "tools/list_changed");
        assert_eq!(open.told().await, "resources/updated x://r");
        assert_eq!(a.connections(), 4);
        assert_eq!(open.told_within(600).await, [""; 0]);
        assert_eq!(a.connections(), 4);
    });
}

#[test]
fn a_subscription_that_its_server_ends_in_good_order_is_made_again() {
    let fake = Fake::default();
    let done = json!({"jsonrpc": "2.0", "id": "$", "result": {"resultType": "complete"}});
    let done = Step::Send(format!("data: {}\n\n", done.to_string().replace("\"$\"", "$ID")).into());
    let lines = vec![Line::Events(vec![agrees(), wait(20_000), done, Step::Stall]), telling(&[])];
    let a = Changing::new(true, lines).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        open.acknowledged().await;
        assert_eq!(open.told().await, "tools/list_changed");
        assert_eq!(a.connections(), 2);
    });
}

#[test]
fn a_server_that_never_holds_its_line_is_tried_less_and_less_often() {
    let fake = Fake::default();
    let a = Changing::new(true, vec![Line::Events(vec![agrees()])]).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        open.acknowledged().await;
        open.told_within(60).await;
        let first = a.connections();
        assert!((5..=9).contains(&first), "{first} in the first minute");
        open.told_within(600).await;
        let later = a.connections() - first;
        assert!((8..=14).contains(&later), "{later} in the next ten minutes");
    });
}

#[test]
fn a_legacy_stream_is_resumed_where_it_ended() {
    let fake = Fake::default();
    let first = [Step::Send("id: 4\nretry: 3000\ndata:\n\n".into()), wait(20_000)];
    let lines = vec![Line::Events(first.to_vec()), streaming(&[says(&changed("tools"))])];
    let a = Changing::new(false, lines).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        open.acknowledged().await;
        let began = fake.now();
        assert_eq!(open.told().await, "tools/list_changed");
        assert_eq!(fake.now().since(began), Duration::from_secs(23), "the server asked for 3 s");
        assert_eq!(open.told_within(60).await, [""; 0], "nothing was missed");
        let asked = a.asked.lock().unwrap();
        let gets: Vec<(&str, &str)> = asked
            .iter()
            .filter(|(_, message, _)| message.is_null())
            .map(|(session, _, last)| (session.as_str(), last.as_str()))
            .collect();
        assert_eq!(gets, [("s2", ""), ("s2", "4")]);
    });
}

#[test]
fn a_legacy_stream_that_cannot_be_resumed_leaves_a_gap() {
    let fake = Fake::default();
    let lines = vec![Line::Events(vec![wait(20_000)]), streaming(&[])];
    Changing::new(false, lines).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        open.acknowledged().await;
        assert_eq!(open.told_within(60).await, ["tools/list_changed"]);
    });
}

#[test]
fn a_session_that_its_server_ended_is_opened_again_with_its_subscriptions() {
    let fake = Fake::default();
    let lines = vec![Line::Events(vec![wait(20_000)]), streaming(&[])];
    let a = Changing::new(false, lines).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let wanted = json!({"resourceSubscriptions": ["x://r"]});
        let mut open = open(&world, "/mcp", wanted).await;
        open.acknowledged().await;
        a.over.store(2, Ordering::Relaxed);
        assert_eq!(open.told().await, "resources/updated x://r");
        assert_eq!(a.asked_for("resources/subscribe").len(), 2);
        fake.trace();
        open.hang_up().await;
        assert_eq!(fake.trace(), ["http.send DELETE a - [s3]"], "only what is open is ended");
    });
}

#[test]
fn a_server_that_is_down_holds_up_nobody_and_is_announced_when_it_comes() {
    let fake = Fake::default();
    Changing::new(true, vec![telling(&[])]).put(&fake, "a");
    let world = world(&fake, &["down", "a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", all()).await;
        let began = fake.now();
        assert_eq!(open.acknowledged().await, all());
        assert_eq!(fake.now(), began, "nobody waits for it");
        assert_eq!(open.told_within(5).await, [""; 0]);
        let mut down = Changing::new(false, vec![streaming(&[])]);
        down.capabilities = json!({"tools": {"listChanged": true}});
        down.put(&fake, "down");
        assert_eq!(open.told_within(90).await, ["tools/list_changed"]);
    });
}

#[test]
fn a_slow_server_is_waited_for_only_so_long() {
    let fake = Fake::default();
    let mut a = Changing::new(false, vec![streaming(&[])]);
    a.delay = Duration::from_secs(3);
    a.put(&fake, "a");
    let mut b = Changing::new(true, vec![telling(&[says(&changed("tools")), says(&changed("tools"))])]);
    b.capabilities = json!({"tools": {"listChanged": true}});
    b.put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", all()).await;
        let began = fake.now();
        assert_eq!(open.acknowledged().await, all(), "what it will tell is not known: it is believed");
        assert_eq!(fake.now().since(began), Duration::from_secs(2));
        // What was told before the acknowledgement comes after it, once.
        let expect = ["tools", "tools", "prompts", "resources"].map(|list| format!("{list}/list_changed"));
        assert_eq!(open.told_within(60).await, expect);
    });
}

#[test]
fn a_client_that_hangs_up_closes_every_line() {
    let fake = Fake::default();
    for name in ["a", "b", "c"] {
        Changing::new(name != "b", vec![telling(&[])]).put(&fake, name);
    }
    let world = world(&fake, &["a", "b", "c"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", all()).await;
        open.acknowledged().await;
        assert_eq!(open.hang_up().await, 3);
    });
}

#[test]
fn a_server_that_lies_gets_nothing_through() {
    for modern in [true, false] {
        let fake = Fake::default();
        let rubbish = [
            wait(3000),
            says(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})),
            says(&json!({"jsonrpc": "2.0", "id": 2, "method": "sampling/createMessage", "params": {}})),
            says(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}})),
            says(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}})),
            says(&json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": {"promptsListChanged": true}}})),
            says(&changed("prompts")),
            says(&updated("x://other")),
            says(
                &json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": 7}}),
            ),
            says(&json!({"jsonrpc": "2.0", "method": "notifications/resources/updated"})),
            says(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": []})),
            says(&json!([])),
            says(&json!(7)),
            Step::Send("data: {\n\n".into()),
            Step::Send("event: endpoint\ndata: /messages\n\n".into()),
            wait(1000),
            says(&changed("tools")),
        ];
        let line = if modern { telling(&rubbish) } else { streaming(&rubbish) };
        let a = Changing::new(modern, vec![line]).put(&fake, "a");
        let world = world(&fake, &["a"]);
        fake.run(async {
            let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["x://r"]});
            let mut open = open(&world, "/mcp", wanted.clone()).await;
            assert_eq!(open.acknowledged().await, wanted);
            assert_eq!(open.told_within(20).await, ["tools/list_changed"], "modern: {modern}");
            assert_eq!(a.connections(), 1);
            let asked = a.asked.lock().unwrap();
            let answers: Vec<&Value> = asked.iter().map(|(_, message, _)| message).collect();
            let answer =
                |id: u64| answers.iter().find(|answer| answer["id"] == id && answer["method"].is_null());
            if modern {
                assert!(answer(1).is_none() && answer(2).is_none(), "it must not ask, and is not answered");
            } else {
                assert_eq!(answer(1).unwrap()["result"], json!({}));
                assert_eq!(answer(2).unwrap()["error"]["code"], -32601);
            }
        });
    }
}

#[test]
fn a_server_whose_first_message_is_no_acknowledgement_is_not_believed() {
    let fake = Fake::default();
    let lines = vec![Line::Events(vec![says(&changed("tools")), Step::Stall]), telling(&[])];
    let a = Changing::new(true, lines).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        assert_eq!(open.acknowledged().await, tools());
        assert_eq!(a.connections(), 1);
        assert_eq!(open.told_within(20).await, ["tools/list_changed"]);
        assert_eq!(a.connections(), 2);
    });
}

#[test]
fn an_event_that_is_too_large_breaks_the_line_and_nothing_else() {
    for modern in [true, false] {
        let fake = Fake::default();
        let mut huge = vec![wait(20_000), Step::Send("data: ".into())];
        huge.extend(std::iter::repeat_n(Step::Send(Bytes::from(vec![b'x'; 1 << 16])), 40));
        huge.push(Step::Stall);
        let first = if modern { telling(&huge) } else { streaming(&huge) };
        let a = Changing::new(modern, vec![first, if modern { telling(&[]) } else { streaming(&[]) }]);
        let a = a.put(&fake, "a");
        let mut generous = server("a");
        generous.max_response = 16 << 20;
        let world = World::new(fake.clone(), plan(vec![generous]));
        fake.run(async {
            let mut open = open(&world, "/mcp", tools()).await;
            open.acknowledged().await;
            assert_eq!(open.told_within(60).await, ["tools/list_changed"]);
            assert_eq!(a.connections(), 2);
        });
    }
}

#[test]
fn a_batch_on_a_stream_is_taken_apart() {
    let fake = Fake::default();
    let batch = json!([changed("prompts"), changed("tools"), updated("x://r")]);
    Changing::new(false, vec![streaming(&[wait(3000), says(&batch)])]).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", all()).await;
        open.acknowledged().await;
        assert_eq!(open.told_within(9).await, ["prompts/list_changed", "tools/list_changed"]);
    });
}

#[test]
fn a_subscription_to_nothing_is_acknowledged_and_over() {
    let check = |a: Changing, wanted: Value| {
        let fake = Fake::default();
        a.put(&fake, "a");
        let world = world(&fake, &["a"]);
        fake.run(async {
            let mut open = open(&world, "/mcp", wanted).await;
            assert_eq!(open.acknowledged().await, json!({}));
            assert_eq!(open.told().await, "end");
            assert_eq!(open.told().await, "nothing");
        });
    };
    check(Changing::new(true, vec![telling(&[])]), json!({}));
    check(Changing::new(true, vec![telling(&[])]), json!({"toolsListChanged": false}));
    let no = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#;
    check(Changing::new(true, vec![Line::Status(404, no)]), tools());
    check(Changing::new(true, vec![Line::Status(200, no)]), tools());
    let mut silent = Changing::new(false, vec![streaming(&[])]);
    silent.capabilities = json!({"tools": {}});
    check(silent, tools());
    for status in [404, 405] {
        check(Changing::new(false, vec![Line::Status(status, "")]), tools());
    }
}

#[test]
fn a_session_without_a_stream_is_ended_at_once() {
    let fake = Fake::default();
    Changing::new(false, vec![Line::Status(405, "")]).put(&fake, "a");
    Changing::new(true, vec![telling(&[])]).put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        assert_eq!(open.acknowledged().await, tools());
        open.told_within(5).await;
        assert!(fake.trace().contains(&"http.send DELETE a - [s2]".to_owned()));
        fake.trace();
        open.hang_up().await;
        assert_eq!(fake.trace(), [""; 0]);
    });
}

#[test]
fn silence_on_a_subscription_is_filled_with_comments() {
    let fake = Fake::default();
    Changing::new(true, vec![telling(&[])]).put(&fake, "a");
    let world = world(&fake, &["a"]);
    fake.run(async {
        let mut open = open(&world, "/mcp", tools()).await;
        open.acknowledged().await;
        assert_eq!(open.next_within(61).await, None);
        assert_eq!(open.comments, 4);
    });
}

#[test]
fn streams_without_an_end_are_ended_in_good_order_when_the_gateway_stops() {
    let fake = Fake::default();
    Changing::new(true, vec![telling(&[])]).put(&fake, "a");
    Changing::new(false, vec![streaming(&[])]).put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    for path in ["/mcp", "/mcp/a", "/mcp/b"] {
        let world = World::new(fake.clone(), plan(vec![server("a"), server("b")]));
        fake.run(async {
            let mut open = open(&world, path, tools()).await;
            open.acknowledged().await;
            world.instance.close();
            let began = fake.now();
            assert_eq!(open.told().await, "end", "{path}");
            assert_eq!(open.told().await, "nothing");
            assert_eq!(fake.now(), began);
            open.hang_up().await;
        });
    }
    let (session, _) = world.initialize("/mcp/b");
    let get = |world: &World| {
        let request = Request::get("/mcp/b").header("host", "localhost").header("mcp-session-id", &session);
        world.send(request.header("accept", "text/event-stream").body(Bytes::new()).unwrap())
    };
    world.instance.close();
    assert_eq!((get(&world).status, get(&world).body.as_str()), (200, ""));
}

#[test]
fn a_gateway_that_stops_lets_calls_in_flight_end() {
    for kind in [crate::server::Kind::Modern, crate::server::Kind::Legacy] {
        let fake = Fake::default();
        let steps = vec![
            wait(9000),
            Step::Send("data: {\"jsonrpc\":\"2.0\",\"id\":$ID,\"result\":{\"content\":[]}}\n\n".into()),
        ];
        crate::server::put_streaming(&fake, "a", kind, steps);
        let world = world(&fake, &["a"]);
        world.instance.close();
        // A client that can be asked is answered by way of a mailbox where the server is legacy.
        let mut params = json!({"name": "a__t", "_meta": meta()});
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let headers =
            [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "a__t")];
        let got = world.post("/mcp", &headers, &message);
        assert!(got.body.contains("\"content\":[]"), "{}", got.body);
    }
}

#[test]
fn another_configuration_ends_the_streams_of_the_one_before() {
    let fake = Fake::default();
    Changing::new(true, vec![telling(&[])]).put(&fake, "a");
    for (path, expect) in [("/mcp", vec!["tools/list_changed", "end"]), ("/mcp/a", vec!["end"])] {
        let world = world(&fake, &["a"]);
        fake.run(async {
            let mut open = open(&world, path, tools()).await;
            open.acknowledged().await;
            let mut same = plan(vec![server("a")]);
            world.instance.install(std::sync::Arc::new(same));
            assert_eq!(
                open.told_within(60).await,
                [""; 0],
                "a configuration that is the same changes nothing"
            );
            same = plan(vec![server("a"), server("b")]);
            same.digest = "other".to_owned();
            world.instance.install(std::sync::Arc::new(same));
            assert_eq!(open.told_within(60).await, expect);
        });
    }
}

#[test]
fn a_caller_has_so_many_subscriptions_and_no_more() {
    let fake = Fake::default();
    Changing::new(true, vec![telling(&[])]).put(&fake, "a");
    let mut two = plan(vec![server("a")]);
    two.keys = vec![
        key("alice", Filter::default(), Filter::default()),
        key("bob", Filter::default(), Filter::default()),
    ];
    two.limits.subscriptions = 2;
    let world = World::new(fake.clone(), two);
    let alice = [("x-api-key", "alice-key")];
    let params = || json!({"notifications": tools()});
    fake.run(async {
        let merged = open_as(&world, "/mcp", json!(7), &alice, tools()).await;
        let _passed = open_as(&world, "/mcp/a", json!(7), &alice, tools()).await;
        let _bobs = open_as(&world, "/mcp", json!(7), &[("x-api-key", "bob-key")], tools()).await;
        for path in ["/mcp", "/mcp/a"] {
            let got = world.modern_with(path, &alice, "subscriptions/listen", params());
            assert_eq!(got.brief(), "429 -32600");
            assert!(got.body.contains("limits.subscriptions"));
        }
        merged.hang_up().await;
        let mut next = open_as(&world, "/mcp", json!(7), &alice, tools()).await;
        assert_eq!(next.acknowledged().await, tools());
    });
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let fake = Fake::default();
    Changing::new(true, vec![telling(&[])]).put(&fake, "a");
    Changing::new(false, vec![streaming(&[])]).put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    let check = |path: &str, notifications: Value, field: &str| {
        let got = world.modern(path, "subscriptions/listen", json!({"notifications": notifications}));
        assert_eq!(got.brief(), "200 -32602");
        assert!(got.json()["error"]["message"].as_str().unwrap().starts_with(field), "{}", got.body);
    };
    for path in ["/mcp", "/mcp/b"] {
        check(path, Value::Null, "params.notifications:");
        check(path, json!({"toolsListChanged": "yes"}), "params.notifications.toolsListChanged:");
        check(path, json!({"resourceSubscriptions": [1]}), "params.notifications.resourceSubscriptions[0]:");
    }
    let json = [("accept", "application/json")];
    let got = world.modern_with("/mcp", &json, "subscriptions/listen", json!({"notifications": tools()}));
    assert_eq!(got.status, 406);
    let (session, _) = world.initialize("/mcp");
    assert_eq!(world.legacy("/mcp", &session, "subscriptions/listen", json!({})).brief(), "200 -32601");
}

#[test]
fn a_caller_hears_only_the_servers_and_resources_that_it_sees() {
    let fake = Fake::default();
    let news = [wait(3000), says(&updated("x://r")), says(&changed("tools"))];
    let a = Changing::new(true, vec![telling(&news)]).put(&fake, "a");
    let b = Changing::new(true, vec![telling(&news)]).put(&fake, "b");
    let mut hiding = server("b");
    hiding.resources = globs(&["y://*"]);
    let mut some = plan(vec![server("a"), hiding]);
    some.keys = vec![key("alice", globs(&["b"]), Filter::default())];
    let world = World::new(fake.clone(), some);
    for path in ["/mcp", "/mcp/b"] {
        fake.run(async {
            let wanted =
                json!({"toolsListChanged": true, "resourceSubscriptions": ["x://r", "b+x://r", "a+x://r"]});
            let mut open = open_as(&world, path, json!(7), &[("x-api-key", "alice-key")], wanted).await;
            assert_eq!(open.acknowledged().await, tools(), "{path}");
            assert_eq!(open.told_within(9).await, ["tools/list_changed"], "{path}");
        });
    }
    assert_eq!((a.connections(), b.connections()), (0, 2));
    assert!(
        a.asked.lock().unwrap().is_empty(),
        "a server that the caller does not see is not asked anything"
    );
}

#[test]
fn discovery_says_what_can_be_subscribed_to() {
    let fake = Fake::default();
    let mut a = Changing::new(true, vec![]);
    a.capabilities = json!({"tools": {"listChanged": true}, "prompts": {"listChanged": false}});
    a.put(&fake, "a");
    let mut b = Changing::new(false, vec![]);
    b.capabilities = json!({"resources": {"subscribe": true}, "prompts": {}, "logging": {}});
    b.put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    let discovered = |path: &str| {
        world.modern(path, "server/discover", json!({})).json()["result"]["capabilities"].clone()
    };
    let expect = json!({"tools": {"listChanged": true}, "prompts": {}, "resources": {"subscribe": true}});
    assert_eq!(discovered("/mcp"), expect);
    assert_eq!(discovered("/mcp/b"), json!({"resources": {"subscribe": true}, "prompts": {}, "logging": {}}));
    let legacy = world.initialize("/mcp").1.json()["result"]["capabilities"].clone();
    let told = json!({"tools": {"listChanged": true}, "prompts": {}, "resources": {"subscribe": true}, "logging": {}});
    assert_eq!(legacy, told);
}

#[test]
fn a_server_of_http_sse_is_heard_over_a_session_of_its_own() {
    let fake = Fake::default();
    let old = Old::new(&fake, "a")
        .react(|old, message, session| {
            // What it says before it has answered is heard as well.
            if message["method"] == "resources/subscribe" {
                old.say(session, &json!({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}));
                old.say(session, &json!({"jsonrpc": "2.0", "id": "q", "method": "ping"}));
            }
            None
        })
        .put();
    let url = "http://a/sse".parse().unwrap();
    let entry = Server { transport: Transport::HttpSse, url, ..server("a") };
    let world = World::new(fake, plan(vec![entry]));
    let session = || old.seen.lock().unwrap().iter().map(|(session, _)| *session).max().unwrap();
    world.fake.run(async {
        let wanted = json!({"toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": ["x://r"]});
        let mut open = open(&world, "/mcp/a", wanted).await;
        let agreed = json!({"toolsListChanged": true, "resourceSubscriptions": ["x://r"]});
        assert_eq!(open.acknowledged().await, agreed, "it does not tell of prompts");
        assert_eq!(old.last("resources/subscribe")["params"]["uri"], "x://r");
        let tools = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        let first = session();
        old.say(first, &tools);
        assert_eq!(open.told().await, "tools/list_changed");
        let resource = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "x://r"}});
        old.say(first, &resource);
        assert_eq!(open.told().await, "resources/updated x://r");
        old.step(first, Step::Over);
        assert_eq!(open.told().await, "tools/list_changed", "something may have been missed");
        assert_eq!(open.told().await, "resources/updated x://r");
        assert!(session() > first, "a new session, and subscribed again");
        assert_eq!(open.hang_up().await, 1, "it ends with its stream");
    });
}
