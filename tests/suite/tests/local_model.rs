//! A real model on this machine: llama.cpp's server with a small model, behind the gateway.
//!
//! It is a base model, and what it says is nonsense: what is checked is that its very words come over, with its own counts
//! and in its own time.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use causeway_fixture::free_port;
use causeway_fixture::model::{Fault, Manner, Model};
use causeway_suite::host::{eventually, skip};
use causeway_suite::link::transports;
use causeway_suite::models::{DIALECTS, Dialect};
use causeway_suite::{Companion, Gateway, Request, hash};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The model's name: the server takes any.
const MODEL: &str = "gemma";

/// llama.cpp's server. Dropping it ends it.
struct Llama {
    _process: Child,
    url: String,
}

impl Llama {
    /// Starts it; `None` where it is not installed, which is a failure where it must be (`CAUSEWAY_LOCAL_MODEL=1`).
    async fn start(case: &str) -> Option<Self> {
        let place = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.exists());
        let (Some(program), Some(model)) = (place("CAUSEWAY_LLAMA"), place("CAUSEWAY_LLAMA_MODEL")) else {
            let why = "there is no local model: run scripts/setup llama";
            assert!(std::env::var_os("CAUSEWAY_LOCAL_MODEL").is_none(), "{why}");
            skip(case, why);
            return None;
        };
        let port = free_port();
        let mut command = Command::new(program);
        command.arg("--model").arg(model).args(["--alias", MODEL, "--host", "127.0.0.1", "--port"]);
        command.arg(port.to_string()).args([
            "--ctx-size",
            "4096",
            "--parallel",
            "2",
            "--threads",
            "1",
            "--jinja",
        ]);
        command.args(["--embeddings", "--pooling", "mean"]);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("llama-server can be run");
        // What it says last is why it does not start.
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let heard = said.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                *heard.lock().unwrap() += &format!("{line}\n");
            }
        });
        let url = format!("http://127.0.0.1:{port}");
        let give_up = Instant::now() + Duration::from_secs(120);
        loop {
            let health = Request::new("GET", format!("{url}/health")).try_send().await;
            if health.is_ok_and(|reply| reply.status == 200) {
                return Some(Self { _process: process, url });
            }
            let ended = process.try_wait().ok().flatten();
            assert!(
                ended.is_none() && Instant::now() < give_up,
                "llama-server: {ended:?}\n{}",
                said.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// It as a provider of this kind.
    fn entry(&self, kind: &str) -> Value {
        let mut entry = json!({"kind": kind, "url": format!("{}/v1", self.url), "local": true});
        if kind == "anthropic" {
            entry["url"] = self.url.clone().into();
            entry["api_key"] = "none".into();
        }
        entry
    }
}

async fn ask(gateway: &Gateway, body: Value) -> Value {
    let text =
        Request::post(gateway.url("/ask"), &body).within(Duration::from_secs(120)).send().await.text().await;
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
}

#[tokio::test]
async fn a_real_model_answers_in_every_way_that_there_is() {
    let Some(llama) = Llama::start("a_real_model_answers_in_every_way_that_there_is").await else { return };
    let cloud = Model::start("anthropic").await;
    let mut there = cloud.entry();
    there["local"] = false.into();
    there["retries"] = 0.into();
    let gateway = Gateway::start(json!({"mcpServers": {}, "llm": {
        "providers": {
            "here": llama.entry("openai-compatible"),
            "studio": llama.entry("lmstudio"),
            "claude": llama.entry("anthropic"),
            "cloud": there,
        },
        "models": {
            "default": [format!("here/{MODEL}")],
            format!("here/{MODEL}"): {"features": ["tools"], "context": 4096},
        },
        "policies": {
            "near": {"targets": ["cloud/m-1", format!("here/{MODEL}")], "local_first": true},
            "private": {"targets": ["cloud/m-1", format!("here/{MODEL}")], "local_only": true},
        },
        "teams": {
            "polished": {"how": "chain", "models": [format!("here/{MODEL}"), "cloud/m-1"], "instruction": "Do better"},
        },
    }}))
    .await;

    through_ask(&gateway).await;
    in_both_dialects(&gateway).await;
    by_policy(&gateway, &cloud).await;
    as_a_draft(&gateway, &cloud).await;
    embeds(&gateway).await;
    by_official_sdks(&gateway).await;
    through_a_link(&llama).await;
}

async fn through_ask(gateway: &Gateway) {
    let schema = Request::new("GET", gateway.url("/schema/answer")).send().await.text().await;
    let schema = jsonschema::draft202012::new(&serde_json::from_str(&schema).unwrap()).unwrap();
    let answer =
        ask(gateway, json!({"message": "Once upon a time", "max_tokens": 6, "temperature": 0})).await;
    assert!(schema.is_valid(&answer), "{answer}");
    assert_eq!((&answer["provider"], &answer["model"]), (&json!("here"), &json!(MODEL)), "{answer}");
    assert!(answer["usage"]["input_tokens"].as_u64().unwrap() > 0, "{answer}");
    assert!((1..=6).contains(&answer["usage"]["output_tokens"].as_u64().unwrap()), "{answer}");
    assert!(!answer["text"].as_str().unwrap().is_empty(), "{answer}");
    assert!(answer["first_token_ms"].as_f64().unwrap() > 0.0, "{answer}");
    // With nothing left to chance the same words come once more, as a stream.
    let body = json!({"message": "Once upon a time", "max_tokens": 6, "temperature": 0, "stream": true});
    let text = Request::post(gateway.url("/ask"), &body).send().await.text().await;
    let done = text.split("event: done\ndata: ").nth(1).unwrap_or_else(|| panic!("{text}"));
    let done: Value = serde_json::from_str(done.trim()).unwrap();
    assert_eq!(done["text"], answer["text"], "{text}");
    assert!(text.matches("event: text").count() > 1, "it comes piece by piece: {text}");
}

async fn in_both_dialects(gateway: &Gateway) {
    for provider in ["here", "studio", "claude"] {
        for dialect in DIALECTS {
            for stream in [false, true] {
                let at = format!("{dialect:?} to {provider}, stream {stream}");
                let mut question = dialect.question(&format!("{provider}/{MODEL}"), "The sea is", stream);
                question["max_tokens"] = 4.into();
                let (status, heard) = dialect.ask(gateway, &question).await;
                assert_eq!((status, heard.error.as_str(), heard.starts), (200, "", 1), "{at}: {heard:?}");
                assert!(heard.over && !heard.text.is_empty(), "{at}: {heard:?}");
                assert!(heard.usage.0 > 0 && (1..=4).contains(&heard.usage.1), "{at}: {heard:?}");
            }
        }
    }
}

async fn by_policy(gateway: &Gateway, cloud: &Model) {
    let before = cloud.seen().len();
    for policy in ["near", "private"] {
        let answer = ask(gateway, json!({"message": "Hello", "policy": policy, "max_tokens": 4})).await;
        assert_eq!(answer["provider"], "here", "{policy}: {answer}");
    }
    assert_eq!(cloud.seen().len(), before, "nobody else is asked");
}

async fn as_a_draft(gateway: &Gateway, cloud: &Model) {
    for dialect in DIALECTS {
        let mut question = dialect.question("chain/polished", "The sky is", false);
        question["max_tokens"] = 4.into();
        let reply = Request::post(gateway.url(dialect.path()), &question).send().await;
        let text = reply.text().await;
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(dialect.whole(&text).text, "You said: Do better", "{text}");
        let stages = answer["causeway"]["stages"].as_array().unwrap();
        let named: Vec<&str> = stages.iter().map(|stage| stage["model"].as_str().unwrap()).collect();
        assert_eq!(named, [format!("here/{MODEL}").as_str(), "cloud/m-1"], "{answer}");
        // What it drafted is what the other was given.
        let given = cloud.seen().last().unwrap().body["messages"].as_array().unwrap().clone();
        assert_eq!(given[1]["role"], "assistant", "{given:?}");
        assert!(stages[0]["output"].as_u64().unwrap() > 0, "{answer}");
        cloud.behave_once(Manner::Fails(Fault::Overloaded));
        let (status, heard) = dialect.ask(gateway, &question).await;
        assert_eq!(status, 200, "{heard:?}");
        assert!(!heard.text.is_empty() && heard.text != "You said: Do better", "the draft stands: {heard:?}");
    }
}

async fn embeds(gateway: &Gateway) {
    let body = json!({"model": format!("here/{MODEL}"), "input": ["a cat", "a dog", "a cat"]});
    let text = Request::post(gateway.url("/v1/embeddings"), &body).send().await.text().await;
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let vector = |at: usize| -> Vec<f64> {
        let vector = answer["data"][at]["embedding"].as_array().unwrap_or_else(|| panic!("{answer}"));
        vector.iter().filter_map(Value::as_f64).collect()
    };
    let likeness = |one: &[f64], two: &[f64]| -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        dot(one, two) / (dot(one, one) * dot(two, two)).sqrt()
    };
    assert!(vector(0).len() > 100, "{answer:.300}");
    assert!(likeness(&vector(0), &vector(2)) > 0.999, "the same text has the same place");
    assert!(likeness(&vector(0), &vector(1)) < 0.9999, "another text has another");
}

/// Both official SDKs in both languages.
async fn by_official_sdks(gateway: &Gateway) {
    let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers");
    let python = std::env::var("CAUSEWAY_PYTHON").unwrap_or_default();
    for (program, script) in [("node", "local_model.mjs"), (python.as_str(), "local_model.py")] {
        if program.is_empty() || std::env::var_os("CAUSEWAY_NPM").is_none() {
            skip("by_official_sdks", "the SDKs are not there: run scripts/setup");
            continue;
        }
        let mut command = Command::new(program);
        command.arg(scripts.join(script)).arg(gateway.url("")).arg(gateway.key().unwrap_or("none"));
        command.arg(format!("here/{MODEL}"));
        let output = command.output().await.unwrap();
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.trim() == "ok", "{script}: {said}\n{complained}");
    }
}

/// The model on a machine that only dials out.
async fn through_a_link(llama: &Llama) {
    let gateway = Gateway::start(json!({
        "llm": {"providers": {"local": {"kind": "openai-compatible", "via": "laptop"}}},
        "keys": {
            "laptop": {"hash": hash("key-of-the-laptop"), "links": ["laptop"]},
            "me": {"hash": hash("key-of-mine")},
        },
    }))
    .await;
    let offer = json!({"llm": {"providers": {"local": {"kind": "openai-compatible", "url": format!("{}/v1", llama.url)}}}});
    for &transport in transports() {
        let more = ["--transport", transport];
        let companion =
            Companion::start(&gateway.url(""), "laptop", Some("key-of-the-laptop"), &offer, &more).await;
        for stream in [false, true] {
            let mut question = Dialect::Anthropic.question(&format!("local/{MODEL}"), "The wind is", stream);
            question["max_tokens"] = 4.into();
            let request = Request::post(gateway.url("/v1/messages"), &question);
            let reply = request.header("authorization", "Bearer key-of-mine").send().await;
            let (status, text) = (reply.status, reply.text().await);
            let heard =
                if stream { Dialect::Anthropic.streamed(&text) } else { Dialect::Anthropic.whole(&text) };
            assert_eq!(status, 200, "{text}");
            assert!(heard.over && heard.error.is_empty() && !heard.text.is_empty(), "{transport}: {text}");
        }
        drop(companion);
        let gone = async || {
            let status = Request::new("GET", gateway.url("/status"));
            let text = status.header("authorization", "Bearer key-of-mine").send().await.text().await;
            !text.contains("\"connected\"")
        };
        assert!(eventually(gone).await, "the link is gone");
    }
}
