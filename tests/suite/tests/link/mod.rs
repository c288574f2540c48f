//! Servers behind a link: what holds while companions and connections come and go.

mod broken;
mod crowd;
mod models;
mod offline;
mod programs;
mod proxy;
mod rights;

use causeway_fixture::{Fixture, Options};
use causeway_suite::link::transports;
use causeway_suite::{Client, Companion, Era, Gateway, Request, hash};
use serde_json::{Value, json};

pub const KEY: &str = "key-of-laptop";
pub const CALLER: &str = "key-of-the-caller";

/// A gateway, a companion called `laptop`, and a server behind it.
pub struct World {
    pub fixture: Fixture,
    pub gateway: Gateway,
    pub companion: Companion,
}

/// The gateway's side: servers called `names` behind `laptop`.
pub fn behind(names: &[&str]) -> Value {
    let servers: serde_json::Map<_, _> =
        names.iter().map(|name| ((*name).to_owned(), json!({"via": "laptop"}))).collect();
    json!({
        "mcpServers": servers,
        "keys": {
            "laptop": {"hash": hash(KEY), "links": ["laptop"]},
            "me": {"hash": hash(CALLER), "admin": true},
        },
        "limits": {"link_resume": "6s"},
    })
}

/// The companion's side.
pub fn offering(servers: &[(&str, &Fixture)]) -> Value {
    causeway_suite::serving(servers)
}

impl World {
    pub async fn new(options: Options, more: &[&str]) -> Self {
        Self::with(options, json!({}), more).await
    }

    /// With `patch` laid over the gateway's configuration.
    pub async fn with(options: Options, patch: Value, more: &[&str]) -> Self {
        let fixture = Fixture::start(options).await;
        let gateway = Gateway::start(causeway_suite::with(behind(&["one"]), patch)).await;
        let offer = offering(&[("one", &fixture)]);
        let companion = Companion::start(&gateway.url(""), "laptop", Some(KEY), &offer, more).await;
        Self { fixture, gateway, companion }
    }

    /// A call of `tool`, not yet sent.
    pub fn call(&self, tool: &str, arguments: Value) -> Request {
        call(&self.gateway, tool, arguments)
    }

    pub async fn assert_works(&self) {
        assert_works(&self.gateway).await;
    }
}

pub fn call(gateway: &Gateway, tool: &str, arguments: Value) -> Request {
    let params = json!({"name": tool, "arguments": arguments});
    Request::modern(gateway.url("/mcp/one"), 7, "tools/call", params)
        .header("authorization", &format!("Bearer {CALLER}"))
}

pub async fn assert_works(gateway: &Gateway) {
    let answer = call(gateway, "echo", json!({"text": "hi"})).answer().await;
    assert_eq!(answer.text(), "hi", "{answer:?}");
}

/// The one error of an answer.
pub fn error(answer: &causeway_suite::Answer) -> String {
    let errors = answer.messages.iter().filter(|message| message["error"].is_object());
    let errors: Vec<_> =
        errors.map(|message| message["error"]["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(errors.len(), 1, "one error: {answer:?}");
    errors.into_iter().next().unwrap()
}

#[tokio::test]
async fn clients_of_both_eras_reach_servers_of_both_eras() {
    for &transport in transports() {
        for options in [Options::modern("one"), Options::legacy("one"), Options::sse("one")] {
            let what = format!("{:?} by {transport}", options.era);
            let world = World::new(options, &["--transport", transport]).await;
            for era in [Era::Modern, Era::Legacy] {
                let client = Client::connect_as(&world.gateway, "/mcp", era, Some(CALLER)).await;
                let answer = client.tool("one__echo", json!({"text": "hi"})).await;
                assert_eq!(answer.text(), "hi", "{era:?} to {what}: {answer:?}");
            }
            assert_eq!(world.companion.events("connected")[0]["transport"], transport);
        }
    }
}
