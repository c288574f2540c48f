//! A stdio client that hides nothing: the program it started, and each line as it comes.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_fixture::MODERN;
use causeway_suite::Gateway;
use causeway_suite::host::program;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// Nothing here takes this long unless it hangs.
const HANG: Duration = Duration::from_secs(20);

/// `causeway stdio`, and whoever has started it. Dropping it ends it.
pub struct Client {
    process: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    log: Arc<Mutex<String>>,
    logging: JoinHandle<()>,
    /// What came while something else was waited for.
    pub heard: Vec<Value>,
    next: u64,
}

/// How it ended, and what it said last.
pub struct End {
    pub status: ExitStatus,
    pub last: Vec<Value>,
    pub log: String,
}

impl Client {
    /// Starts the program in front of `url`.
    pub fn of(url: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.args(["stdio", "--url", url, "--log", "info"]).args(arguments);
        // Nothing of whoever runs the tests gets in.
        command.env_remove("CAUSEWAY_KEY").env_remove("CAUSEWAY_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("the program can be run");
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = process.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let more = log.clone();
        let logging = tokio::spawn(async move {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = said.read(&mut chunk).await {
                more.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        });
        Self { input: process.stdin.take(), process, output, log, logging, heard: Vec::new(), next: 1 }
    }

    /// Starts the program in front of `path` of `gateway`.
    pub fn at(gateway: &Gateway, path: &str) -> Self {
        let key: Vec<_> = gateway.key().into_iter().flat_map(|key| ["--key", key]).collect();
        Self::of(&gateway.url(path), &key)
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The id of its process.
    pub fn process(&self) -> u32 {
        self.process.id().unwrap()
    }

    /// Writes `text` as it is.
    pub async fn write(&mut self, text: &[u8]) {
        let input = self.input.as_mut().unwrap();
        tokio::time::timeout(HANG, input.write_all(text)).await.expect("the program reads").unwrap();
    }

    /// Writes a message.
    pub async fn say(&mut self, message: &Value) {
        self.write(format!("{message}\n").as_bytes()).await;
    }

    /// The next line, which must be a message.
    pub async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(HANG, self.output.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no line in time; {}", self.log()));
        let line = line.unwrap().unwrap_or_else(|| panic!("the output has ended; {}", self.log()));
        message(&line)
    }

    /// Whether nothing is said for `span`.
    pub async fn is_silent(&mut self, span: Duration) -> bool {
        tokio::time::timeout(span, self.output.next_line()).await.is_err()
    }

    /// The answer to the request `id`; what comes before is kept.
    pub async fn answer(&mut self, id: &Value) -> Value {
        loop {
            let message = self.hear().await;
            if message["id"] == *id && message["method"].is_null() {
                return message;
            }
            self.heard.push(message);
        }
    }

    /// The next message of `method`; what comes before is kept.
    pub async fn told(&mut self, method: &str) -> Value {
        loop {
            let message = self.hear().await;
            if message["method"] == method {
                return message;
            }
            self.heard.push(message);
        }
    }

    /// Sends a request and gives back its id.
    pub async fn send(&mut self, method: &str, params: Value) -> Value {
        let id = json!(self.next);
        self.next += 1;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    /// A request of the legacy era, and its answer.
    pub async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        self.answer(&id).await
    }

    /// Sends a request of the modern era and gives back its id.
    pub async fn send_modern(&mut self, method: &str, params: Value) -> Value {
        self.send(method, modern(params)).await
    }

    /// A request of the modern era, and its answer.
    pub async fn ask_modern(&mut self, method: &str, params: Value) -> Value {
        self.ask(method, modern(params)).await
    }

    /// Calls a tool in the legacy era.
    pub async fn tool(&mut self, name: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// Calls a tool in the modern era.
    pub async fn tool_modern(&mut self, name: &str, arguments: Value) -> Value {
        self.ask_modern("tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// Sends a notification.
    pub async fn notify(&mut self, method: &str, params: Value) {
        self.say(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// The handshake of the legacy era.
    pub async fn initialize(&mut self) -> Value {
        let hello = self.ask("initialize", hello()).await;
        assert!(hello["result"]["protocolVersion"].is_string(), "{hello}");
        self.notify("notifications/initialized", json!({})).await;
        hello
    }

    /// Closes the program's input.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Closes the program's output.
    pub fn stop_reading(self) -> (Child, Option<ChildStdin>) {
        (self.process, self.input)
    }

    /// Waits for the program to end.
    pub async fn ended(mut self) -> End {
        let mut last = Vec::new();
        let ending = async {
            while let Ok(Some(line)) = self.output.next_line().await {
                last.push(message(&line));
            }
            self.process.wait().await.unwrap()
        };
        let status = tokio::time::timeout(HANG, ending).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end; {}", self.log.lock().unwrap()));
        self.logging.await.unwrap();
        let log = self.log.lock().unwrap().clone();
        End { status, last, log }
    }

    /// Closes the program's input and waits for its end.
    pub async fn end(mut self) -> End {
        self.close();
        self.ended().await
    }
}

/// A line as the message that it must be.
fn message(line: &str) -> Value {
    let message: Value =
        serde_json::from_str(line).unwrap_or_else(|_| panic!("a line that is no message: {line}"));
    assert_eq!(message["jsonrpc"], "2.0", "{line}");
    message
}

/// The parameters of `initialize`, for a client that can be asked things.
pub fn hello() -> Value {
    json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}, "sampling": {}, "roots": {}},
        "clientInfo": {"name": "suite", "version": "1"},
    })
}

/// `params` with what every modern request carries.
pub fn modern(mut params: Value) -> Value {
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "suite", "version": "1"});
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    params
}

/// The first text of a tool's result.
pub fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// The message of an error.
pub fn complaint(answer: &Value) -> &str {
    answer["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {answer}"))
}
