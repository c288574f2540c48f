//! `subscriptions/listen`: what a modern client hears of changes at servers of either era, merged and alone.

use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options, Trouble, plain_tool};
use causeway_suite::behind::{is_behind_link, is_behind_stdio};
use causeway_suite::host::{eventually, left_out_where_fresh, skip};
use causeway_suite::{Client, Era, Events, Gateway, Host, left_out_behind_stdio, serving, with};
use serde_json::{Value, json};

const WATCHED: &str = "test://watched-resource";

/// Each era of servers, by itself.
async fn servers() -> [(Era, Fixture); 2] {
    [
        (Era::Modern, Fixture::start(Options::modern("one")).await),
        (Era::Legacy, Fixture::start(Options::legacy("one")).await),
    ]
}

/// A subscription, its id and what was acknowledged.
struct Subscription {
    events: Events,
    id: Value,
    agreed: Value,
}

impl Subscription {
    async fn open(client: &Client, wanted: Value) -> Self {
        let reply = client.send("subscriptions/listen", json!({"notifications": wanted})).await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("content-type").starts_with("text/event-stream"));
        assert_eq!(reply.header("x-accel-buffering"), "no");
        let mut events = reply.events();
        let (first, _) = events.next().await.expect("an acknowledgement");
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
        let id = first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
        assert!(id.is_u64(), "{first}");
        Self { events, id, agreed: first["params"]["notifications"].clone() }
    }

    /// The next notification in short; `end` for the completion, `nothing` behind it.
    async fn told(&mut self) -> String {
        let Some((message, _)) = self.events.next().await else { return "nothing".to_owned() };
        let meta = if message["result"].is_object() { &message["result"] } else { &message["params"] };
        assert_eq!(meta["_meta"]["io.modelcontextprotocol/subscriptionId"], self.id, "{message}");
        if message["id"] == self.id {
            assert_eq!(message["result"]["resultType"], "complete");
            return "end".to_owned();
        }
        let method = message["method"].as_str().unwrap().trim_start_matches("notifications/").to_owned();
        match message["params"]["uri"].as_str() {
            Some(uri) => format!("{method} {uri}"),
            None => method,
        }
    }
}

/// Whether somebody listens to a server for the gateway's clients.
fn is_heard(era: Era, fixture: &Fixture) -> bool {
    match era {
        Era::Modern => fixture.listeners() > 0,
        Era::Legacy => fixture.streams() > 0,
    }
}

#[tokio::test]
async fn changes_are_told_to_who_asked_for_them() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        for (path, trigger) in [("/mcp", "one__test_trigger"), ("/mcp/one", "test_trigger")] {
            let client = Client::connect(&gateway, path, Era::Modern).await;
            let declared = &client.hello["capabilities"];
            assert_eq!(declared["tools"]["listChanged"], true, "{path} →{server:?}");
            assert_eq!(declared["resources"]["subscribe"], true, "{path} →{server:?}");
            let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]});
            let mut all = Subscription::open(&client, wanted.clone()).await;
            assert_eq!(all.agreed, wanted, "{path} →{server:?}");
            let mut prompts = Subscription::open(&client, json!({"promptsListChanged": true})).await;
            for name in ["tool_change", "prompt_change", "resource_update"] {
                assert_ne!(client.tool(&format!("{trigger}_{name}"), json!({})).await.text(), "");
            }
            assert_eq!(all.told().await, "tools/list_changed", "{path} →{server:?}");
            assert_eq!(all.told().await, format!("resources/updated {WATCHED}"), "{path} →{server:?}");
            assert_eq!(prompts.told().await, "prompts/list_changed", "{path} →{server:?}");
        }
    }
}

#[tokio::test]
async fn several_servers_are_heard_as_one() {
    let one = Fixture::start(Options::modern("one")).await;
    let two = Fixture::start(Options::legacy("two")).await;
    let gateway = Gateway::start(serving(&[("one", &one), ("two", &two)])).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    let other = format!("two+{WATCHED}");
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED, other, "none://such"]});
    let mut subscription = Subscription::open(&client, wanted).await;
    let expect = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED, other]});
    assert_eq!(subscription.agreed, expect);
    for (fixture, prefix, name) in [(&one, "one", WATCHED), (&two, "two", other.as_str())] {
        fixture.changed("prompts");
        fixture.changed("tools");
        assert_eq!(subscription.told().await, "tools/list_changed");
        let trigger = format!("{prefix}__test_trigger_resource_update");
        assert_ne!(client.tool(&trigger, json!({})).await.text(), "");
        assert_eq!(subscription.told().await, format!("resources/updated {name}"));
    }
}

#[tokio::test]
async fn who_lists_again_after_the_notification_gets_the_new_list() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        assert!(client.tool_names().await.contains(&"one__echo".to_owned()));
        let mut subscription = Subscription::open(&client, json!({"toolsListChanged": true})).await;
        fixture.offer(vec![plain_tool("newest", "The newest")]);
        assert_eq!(subscription.told().await, "tools/list_changed");
        assert_eq!(client.tool_names().await, ["one__newest"], "→{server:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_listened_for_no_more() {
    if left_out_where_fresh("a_client_that_leaves_is_listened_for_no_more") {
        return;
    }
    for (server, fixture) in servers().await {
        if server == Era::Legacy
            && left_out_behind_stdio("leaving an older server", "its one stream is always read")
        {
            continue;
        }
        let gateway = Gateway::start_remembering(serving(&[("one", &fixture)])).await;
        for path in ["/mcp", "/mcp/one"] {
            let client = Client::connect(&gateway, path, Era::Modern).await;
            let before = fixture.sessions();
            let subscription = Subscription::open(&client, json!({"toolsListChanged": true})).await;
            assert!(fixture.until(|fixture| is_heard(server, fixture)).await, "{path} →{server:?}");
            drop((subscription, client));
            let gone = fixture.until(|fixture| !is_heard(server, fixture) && fixture.sessions() == before);
            assert!(gone.await, "{path} →{server:?}: {:?}", fixture.trace());
        }
    }
}

#[tokio::test]
async fn a_server_that_was_away_is_announced_when_it_is_back() {
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]});
        let mut subscription = Subscription::open(&client, wanted).await;
        assert!(fixture.until(|fixture| is_heard(server, fixture)).await);
        let address = fixture.address();
        let again = if server == Era::Modern { Options::modern("one") } else { Options::legacy("one") };
        drop(fixture);
        let fixture = Fixture::start_at(address, again).await;
        // What comes first, and whether a list is announced twice, depends on how its end became known.
        let (mut tools, mut resource) = (false, false);
        while !(tools && resource) {
            match subscription.told().await.as_str() {
                "tools/list_changed" => tools = true,
                other => {
                    assert_eq!(other, format!("resources/updated {WATCHED}"), "→{server:?}");
                    resource = true;
                }
            }
        }
        fixture.changed("tools");
        assert_eq!(subscription.told().await, "tools/list_changed", "→{server:?}: it is heard again");
    }
}

#[tokio::test]
async fn a_server_that_is_away_from_the_start_holds_up_nobody() {
    for (server, fixture) in servers().await {
        let away = Fixture::start(Options::legacy("away")).await;
        let gateway = Gateway::start(serving(&[("away", &away), ("one", &fixture)])).await;
        let address = away.address();
        drop(away);
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        let asked = Instant::now();
        let mut subscription = Subscription::open(&client, json!({"toolsListChanged": true})).await;
        assert!(asked.elapsed() < Duration::from_secs(15), "→{server:?}: {:?}", asked.elapsed());
        fixture.changed("tools");
        assert_eq!(subscription.told().await, "tools/list_changed", "→{server:?}");
        let _back = Fixture::start_at(address, Options::legacy("away")).await;
        assert_eq!(subscription.told().await, "tools/list_changed", "→{server:?}: it has come");
        let names = client.tool_names().await;
        assert!(names.contains(&"away__echo".to_owned()), "→{server:?}: {names:?}");
    }
}

#[tokio::test]
async fn a_server_without_a_stream_is_not_waited_for() {
    if left_out_behind_stdio("servers without a stream", "each session with a program has one") {
        return;
    }
    for (what, options, trouble) in [
        ("without sessions", Options { sessions: false, ..Options::legacy("one") }, None),
        ("without a GET stream", Options::legacy("one"), Some(("GET", Trouble::Status(405)))),
        (
            "that knows no listen",
            Options::modern("one"),
            Some(("subscriptions/listen", Trouble::Error(404, -32601, "?".into()))),
        ),
    ] {
        let fixture = Fixture::start(options).await;
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        if let Some((method, trouble)) = trouble {
            fixture.trouble(method, trouble);
        }
        let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
        let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]});
        let mut subscription = Subscription::open(&client, wanted).await;
        assert_eq!(subscription.agreed, json!({}), "{what}");
        assert_eq!(subscription.told().await, "end", "{what}");
        assert_eq!(subscription.told().await, "nothing", "{what}");
    }
}

#[tokio::test]
async fn a_silent_subscription_is_kept_alive() {
    for (server, fixture) in servers().await {
        let config = with(serving(&[("one", &fixture)]), json!({"limits": {"keep_alive": "1s"}}));
        let gateway = Gateway::start(config).await;
        for path in ["/mcp", "/mcp/one"] {
            let client = Client::connect(&gateway, path, Era::Modern).await;
            let mut subscription = Subscription::open(&client, json!({"toolsListChanged": true})).await;
            for _ in 0..2 {
                assert!(
                    subscription.events.pull().await,
                    "{path} →{server:?}: something comes in the silence"
                );
            }
            fixture.changed("tools");
            assert_eq!(subscription.told().await, "tools/list_changed", "{path} →{server:?}");
            assert!((2..=4).contains(&subscription.events.comments), "{path} →{server:?}");
        }
    }
}

#[tokio::test]
async fn a_caller_has_so_many_subscriptions_and_no_more() {
    if Host::chosen() != Host::Native {
        return skip("a_caller_has_so_many_subscriptions_and_no_more", "each instance counts for itself");
    }
    for (server, fixture) in servers().await {
        let config = with(serving(&[("one", &fixture)]), json!({"limits": {"subscriptions": 2}}));
        let gateway = Gateway::start(config).await;
        for path in ["/mcp", "/mcp/one"] {
            let client = Client::connect(&gateway, path, Era::Modern).await;
            let wanted = json!({"toolsListChanged": true});
            let one = Subscription::open(&client, wanted.clone()).await;
            let _two = Subscription::open(&client, wanted.clone()).await;
            let refused = client.ask("subscriptions/listen", json!({"notifications": wanted})).await;
            assert_eq!((refused.status, refused.code()), (429, -32600), "{path} →{server:?}");
            drop(one);
            let free = eventually(async || {
                let reply = client.send("subscriptions/listen", json!({"notifications": wanted})).await;
                reply.status == 200
            });
            assert!(free.await, "{path} →{server:?}");
        }
    }
}

#[tokio::test]
async fn another_configuration_ends_the_subscriptions_of_the_one_before() {
    let fixture = Fixture::start(Options::legacy("one")).await;
    let more = Fixture::start(Options::modern("more")).await;
    let limits = json!({"limits": {"keep_alive": "1s"}});
    let gateway = Gateway::start(with(serving(&[("one", &fixture)]), limits.clone())).await;
    let client = Client::connect(&gateway, "/mcp", Era::Modern).await;
    let mut subscription = Subscription::open(&client, json!({"toolsListChanged": true})).await;
    gateway.configure(&with(serving(&[("one", &fixture), ("more", &more)]), limits));
    let known = eventually(async || client.tool_names().await.contains(&"more__echo".to_owned()));
    assert!(known.await);
    assert_eq!(subscription.told().await, "tools/list_changed");
    assert_eq!(subscription.told().await, "end");
    assert_eq!(subscription.told().await, "nothing");
}

#[tokio::test]
async fn a_gateway_that_is_stopped_ends_its_streams_in_good_order_and_at_once() {
    if Host::chosen() != Host::Native {
        let case = "a_gateway_that_is_stopped_ends_its_streams_in_good_order_and_at_once";
        return skip(case, "at the edge nobody is told when it stops");
    }
    for (server, fixture) in servers().await {
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        let merged = Client::connect(&gateway, "/mcp", Era::Modern).await;
        let alone = Client::connect(&gateway, "/mcp/one", Era::Modern).await;
        let wanted = json!({"toolsListChanged": true});
        let mut streams =
            [Subscription::open(&merged, wanted.clone()).await, Subscription::open(&alone, wanted).await];
        let mut get = None;
        if server == Era::Legacy {
            let legacy = Client::connect(&gateway, "/mcp/one", Era::Legacy).await;
            let reply = legacy.bare("GET").await;
            assert_eq!(reply.status, 200);
            get = Some((reply.events(), legacy));
        }
        let process = gateway.process().unwrap().to_string();
        let told = Instant::now();
        assert!(std::process::Command::new("kill").arg(process).status().unwrap().success());
        for stream in &mut streams {
            assert_eq!(stream.told().await, "end", "→{server:?}");
            assert_eq!(stream.told().await, "nothing", "→{server:?}");
        }
        if let Some((mut events, _)) = get {
            assert_eq!(events.next().await, None);
        }
        let stopped = eventually(async || gateway.log().contains("all requests ended"));
        assert!(stopped.await, "→{server:?}: {}", gateway.log());
        assert!(told.elapsed() < Duration::from_secs(9), "→{server:?}: {:?}", told.elapsed());
        // A program of a companion goes on without the gateway, and its output is always read.
        if server == Era::Legacy && !(is_behind_link() && is_behind_stdio()) {
            assert!(fixture.until(|fixture| fixture.streams() == 0).await);
        }
    }
}
