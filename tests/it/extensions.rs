//! Extensions: who declares them to whom, and where their methods go.

use causeway::testing::Fake;
use serde_json::{Value, json};

use crate::bridge::{capable, in_session, open};
use crate::peer::{CAPABILITIES, Peer, echo, legacy, modern, result};
use crate::world::{Got, World, globs, plan, server};

const TASKS: &str = "io.modelcontextprotocol/tasks";
const UI: &str = "io.modelcontextprotocol/ui";
const INDEX: &str = "com.example/index";

fn world(fake: &Fake, names: &[&str]) -> World {
    World::new(fake.clone(), plan(names.iter().map(|name| server(name)).collect()))
}

/// What the endpoint declares to a client of either era.
fn declared(world: &World, path: &str) -> [Value; 2] {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let old = world.post(path, &[], &hello).json()["result"]["capabilities"].clone();
    let new = world.modern(path, "server/discover", json!({})).json()["result"]["capabilities"].clone();
    [new, old]
}

fn send(world: &World, request: http::Request<bytes::Bytes>) -> Value {
    let got: Got = world.send(request);
    got.json()
}

#[test]
fn all_declare_what_any_server_declares() {
    let fake = Fake::default();
    let one = json!({"tools": {}, "extensions": {TASKS: {}, UI: {"mimeTypes": ["a", "b"], "x": 1, "on": false},
        "io.modelcontextprotocol/oauth-client-credentials": {}}, "experimental": {"beta": {}}});
    let two = json!({"tools": {}, "extensions": {UI: {"mimeTypes": ["b", "c"], "x": 2, "on": true}, INDEX: {"deep": {"y": 1}}, "bad": 7},
        "tasks": {"list": {}, "requests": {"tools": {"call": {}}}}, "experimental": {"gamma": {"z": 1}}});
    Peer::modern(one).put(&fake, "a");
    Peer::legacy(two).put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    let [new, old] = declared(&world, "/mcp");
    let ui = json!({"mimeTypes": ["a", "b", "c"], "x": 1, "on": true});
    let index = json!({"deep": {"y": 1}});
    let experimental = json!({"beta": {}, "gamma": {"z": 1}});
    assert_eq!(
        new["extensions"],
        json!({TASKS: {}, UI: ui, INDEX: index}),
        "tasks of one era mean nothing in the other"
    );
    assert_eq!(old["extensions"], json!({UI: ui, INDEX: index}));
    assert_eq!((&new["experimental"], &old["experimental"]), (&experimental, &experimental));
    assert_eq!(new["tasks"], Value::Null);
    assert_eq!(old["tasks"], json!({"list": {}, "requests": {"tools": {"call": {}}}}));
    let older = world.initialize("/mcp").1.json();
    assert_eq!(older["result"]["capabilities"]["tasks"], Value::Null, "2025-06-18 has no tasks");
}

#[test]
fn one_server_declares_what_it_does_but_for_tasks_of_the_other_era() {
    let fake = Fake::default();
    let all =
        json!({"tools": {}, "extensions": {TASKS: {}, UI: {"x": 1}}, "tasks": {"list": {}, "cancel": {}}});
    Peer::modern(all.clone()).put(&fake, "a");
    Peer::legacy(all.clone()).put(&fake, "b");
    Peer::legacy(all.clone()).sessionless().put(&fake, "c");
    let world = world(&fake, &["a", "b", "c"]);
    let [new, old] = declared(&world, "/mcp/a");
    assert_eq!(new, all, "as it is");
    assert_eq!(old["extensions"], json!({UI: {"x": 1}}));
    assert_eq!(old["tasks"], Value::Null);
    let [new, old] = declared(&world, "/mcp/b");
    assert_eq!(old, all, "as it is");
    assert_eq!((&new["extensions"], &new["tasks"]), (&json!({UI: {"x": 1}}), &Value::Null));
    let [_, old] = declared(&world, "/mcp/c");
    assert_eq!(
        old["tasks"],
        json!({"cancel": {}}),
        "without a session of one's own, a list would be everybody's"
    );
}

#[test]
fn what_a_client_declares_reaches_every_server() {
    let extended = json!({"extensions": {TASKS: {}, UI: {"mimeTypes": ["m"]}}, "experimental": {"beta": {}}});
    let across = json!({"extensions": {UI: {"mimeTypes": ["m"]}}, "experimental": {"beta": {}}});
    let with = |more: &Value| {
        let mut all = capable();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    for path in ["/mcp", "/mcp/one"] {
        let fake = Fake::default();
        let log = [("a", true), ("b", false)].map(|(host, modern)| {
            let able = json!({"tools": {}});
            if modern { Peer::modern(able) } else { Peer::legacy(able) }.put(&fake, host)
        });
        let world = world(&fake, &["a", "b"]);
        for (able, crossed) in [(extended.clone(), across.clone()), (with(&extended), with(&across))] {
            let at = |server: &str| path.replace("one", server);
            let name = |server: &str| if path == "/mcp" { format!("{server}__t") } else { "t".to_owned() };
            for server in ["a", "b"] {
                send(&world, modern(&at(server), "tools/call", json!({"name": name(server)}), &able));
            }
            let told = log[0].of("tools/call").pop().unwrap()["params"]["_meta"][CAPABILITIES].clone();
            assert_eq!(told, able, "{path}: as it is");
            let told = log[1].of("initialize").pop().unwrap()["params"]["capabilities"].clone();
            assert_eq!(told, crossed, "{path}: without what is of its own era only");
            for server in ["a", "b"] {
                let session = open(&world, &at(server), &able);
                send(&world, legacy(&at(server), &session, "tools/call", json!({"name": name(server)})));
            }
            let told = log[0].of("tools/call").pop().unwrap()["params"]["_meta"][CAPABILITIES].clone();
            assert_eq!(told, crossed, "{path}");
            let told = log[1].of("initialize").pop().unwrap()["params"]["capabilities"].clone();
            assert_eq!(told, able, "{path}: as it is");
        }
    }
}

#[test]
fn clients_with_other_extensions_have_other_sessions() {
    let fake = Fake::default();
    let log = Peer::legacy(json!({"tools": {}})).put(&fake, "a");
    let world = world(&fake, &["a"]);
    let session = |able: Value| {
        send(&world, modern("/mcp/a", "tools/call", json!({"name": "t"}), &able));
        log.last().session
    };
    let ui = session(json!({"extensions": {UI: {}}}));
    let none = session(json!({}));
    assert_ne!(ui, none);
    assert_eq!(session(json!({"extensions": {UI: {}}})), ui);
    assert_eq!(session(json!({"extensions": {TASKS: {}}})), none, "which says nothing to this server");
}

#[test]
fn methods_that_nobody_here_knows_pass_to_the_one_server() {
    let fake = Fake::default();
    let logs = [("a", true), ("b", false)].map(|(host, modern)| {
        let able = json!({"tools": {}});
        if modern { Peer::modern(able) } else { Peer::legacy(able) }.react(echo).put(&fake, host)
    });
    let world = world(&fake, &["a", "b"]);
    let params = json!({"x": 1, "_meta": {"com.example/y": {"z": 1}, "io.modelcontextprotocol/z": 2}});
    for (index, path) in ["/mcp/a", "/mcp/b"].into_iter().enumerate() {
        let mut request = modern(path, "index/build", params.clone(), &json!({}));
        request.headers_mut().insert("mcp-name", "n".parse().unwrap());
        let session = open(&world, path, &json!({}));
        for (request, own) in
            [(request, index == 0), (legacy(path, &session, "index/build", params.clone()), index == 1)]
        {
            let answer = send(&world, request);
            assert_eq!(answer["result"]["asked"], "index/build", "{path} {answer}");
            let meta = &answer["result"]["echo"]["_meta"];
            assert_eq!(meta["com.example/y"], json!({"z": 1}), "{path} {answer}");
            assert_eq!(meta["io.modelcontextprotocol/z"], 2, "{path} {answer}");
            assert_eq!(meta[CAPABILITIES].is_object(), index == 0, "{path} {answer}");
            assert_eq!(answer["result"]["resultType"].is_string(), index == 0 && own || index == 1 && !own);
        }
    }
    let names: Vec<String> =
        logs[0].take().into_iter().map(|asked| asked.name).filter(|name| !name.is_empty()).collect();
    assert_eq!(names, ["n"], "what the client mirrors goes along");
}

#[test]
fn methods_go_where_what_they_name_is_or_where_their_extension_is() {
    let fake = Fake::default();
    let resources = json!([{"uri": "x://r", "name": "r"}]);
    let put = |host: &str, able: Value| {
        Peer::modern(able).resources(resources.clone()).react(echo).put(&fake, host)
    };
    let both = json!({"both": {}});
    let logs = [
        put("a", json!({"tools": {}, "resources": {}, "extensions": {INDEX: {}}, "experimental": both})),
        put("b", json!({"tools": {}, "resources": {}, "experimental": both})),
    ];
    let mut config = plan(vec![server("a"), server("b")]);
    let hidden = globs(&["t"]);
    config.servers[1] = std::sync::Arc::new(causeway::config::plan::Server { tools: hidden, ..server("b") });
    let world = World::new(fake.clone(), config);
    let session = open(&world, "/mcp", &json!({}));
    let ask = |method: &str, params: Value| {
        let new = send(&world, modern("/mcp", method, params.clone(), &json!({})));
        let old = send(&world, legacy("/mcp", &session, method, params));
        assert_eq!(new["result"]["asked"], old["result"]["asked"], "{new} {old}");
        assert_eq!(new["error"], old["error"]);
        let asked = logs.iter().map(|log| log.take()).map(|all| {
            let of = all.into_iter().filter(|asked| asked.message["method"] == method);
            of.map(|asked| asked.message["params"].clone()).collect::<Vec<_>>()
        });
        (asked.collect::<Vec<_>>(), new)
    };
    let check = |method: &str, params: Value, server: usize, expect: Value| {
        let (asked, answer) = ask(method, params);
        assert_eq!(
            asked.iter().map(Vec::len).collect::<Vec<_>>(),
            if server == 0 { [2, 0] } else { [0, 2] },
            "{method} {answer}"
        );
        for (name, value) in expect.as_object().unwrap() {
            assert_eq!(&asked[server][0][name], value, "{method}");
        }
    };
    check("index/build", json!({"x": 1}), 0, json!({"x": 1}));
    check("com.example/index/build", json!({}), 0, json!({}));
    check("other/run", json!({"name": "b__t"}), 1, json!({"name": "t"}));
    check("other/look", json!({"uri": "x://r"}), 0, json!({"uri": "x://r"}));
    check("other/look", json!({"uri": "b+x://r"}), 1, json!({"uri": "x://r"}));
    check("other/wait", json!({"taskId": "b+7+8"}), 1, json!({"taskId": "7+8"}));
    check("index/of", json!({"name": "of no tool"}), 0, json!({"name": "of no tool"}));
    let refused = |method: &str, params: Value, says: &str| {
        let (asked, answer) = ask(method, params);
        assert!(asked.iter().all(Vec::is_empty), "{method}");
        assert_eq!(answer["error"]["code"], -32601, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{answer}");
    };
    refused("both/x", json!({}), "/mcp/a, /mcp/b");
    refused("other/run", json!({}), "/mcp/{server}");
    refused("other/run", json!({"name": "b__u"}), "/mcp/{server}");
    refused("other/run", json!({"name": "t"}), "/mcp/{server}");
}

#[test]
fn metadata_of_extensions_survives_in_both_directions() {
    let fake = Fake::default();
    let answer = |message: &Value| {
        let meta = json!({"com.example/a": 1, "io.modelcontextprotocol/b": {"c": 2}});
        (message["method"] == "tools/call").then(|| {
            result(message, json!({"content": [], "_meta": meta, "echo": message["params"]["_meta"]}))
        })
    };
    Peer::modern(json!({"tools": {}})).react(answer).put(&fake, "a");
    Peer::legacy(json!({"tools": {}})).react(answer).put(&fake, "b");
    let world = world(&fake, &["a", "b"]);
    let session = open(&world, "/mcp", &json!({}));
    for name in ["a__t", "b__t"] {
        let params = json!({"name": name, "_meta": {"com.example/x": 1, "io.modelcontextprotocol/y": 2}});
        for answer in [
            send(&world, modern("/mcp", "tools/call", params.clone(), &json!({}))),
            send(&world, legacy("/mcp", &session, "tools/call", params)),
        ] {
            let result = &answer["result"];
            assert_eq!(
                result["_meta"],
                json!({"com.example/a": 1, "io.modelcontextprotocol/b": {"c": 2}}),
                "{answer}"
            );
            assert_eq!(
                (&result["echo"]["com.example/x"], &result["echo"]["io.modelcontextprotocol/y"]),
                (&json!(1), &json!(2))
            );
        }
    }
}

#[test]
fn notifications_of_extensions_go_to_the_server_they_are_for() {
    let fake = Fake::default();
    let logs = [("a", json!({"tools": {}, "extensions": {INDEX: {}}})), ("b", json!({"tools": {}}))]
        .map(|(host, able)| Peer::legacy(able).put(&fake, host));
    let world = world(&fake, &["a", "b"]);
    let tell = |path: &str, session: &str, method: &str| {
        let body = json!({"jsonrpc": "2.0", "method": method, "params": {"x": 1}});
        assert_eq!(world.send(in_session(path, session, &body)).status, 202);
        logs.iter().map(|log| log.of(method).len()).collect::<Vec<_>>()
    };
    let session = open(&world, "/mcp/b", &json!({}));
    assert_eq!(tell("/mcp/b", &session, "notifications/anything/new"), [0, 1]);
    assert_eq!(
        tell("/mcp/b", &session, "notifications/initialized"),
        [0, 2],
        "when the gateway's session and this one were opened"
    );
    let session = open(&world, "/mcp", &json!({}));
    for name in ["a__t", "b__t"] {
        send(&world, legacy("/mcp", &session, "tools/call", json!({"name": name})));
    }
    assert_eq!(tell("/mcp", &session, "notifications/index/progress"), [1, 0]);
    assert_eq!(tell("/mcp", &session, "notifications/other"), [0, 0]);
}
