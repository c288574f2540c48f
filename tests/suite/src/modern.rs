//! A client of 2026-07-28: each request stands alone, and calls that need input are made again with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::client::{Reply, Request};
use crate::party::{Able, Asked, Outcome, PATIENCE, Target};
use crate::sse::{Next, Source};

const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LEVEL: &str = "io.modelcontextprotocol/logLevel";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// More rounds than any row needs.
const ROUNDS: usize = 8;

/// A client. It keeps nothing but a counter.
#[derive(Debug)]
pub struct Modern {
    target: Target,
    able: Able,
    level: Option<String>,
    /// The result of `server/discover`.
    hello: Value,
    next: AtomicU64,
}

/// One request and everything that came of it.
#[derive(Debug, Clone)]
pub struct Round {
    /// The HTTP status.
    pub status: u16,
    /// The JSON-RPC response.
    pub answer: Value,
    /// The notifications before it.
    pub heard: Vec<Value>,
    /// What no server may do.
    pub oddities: Vec<String>,
}

impl Round {
    /// The result, if it asks for input.
    #[must_use]
    pub fn wants(&self) -> Option<&Value> {
        Some(&self.answer["result"]).filter(|result| result["resultType"] == "input_required")
    }

    /// The error code; 0 where there is no error.
    #[must_use]
    pub fn code(&self) -> i64 {
        self.answer["error"]["code"].as_i64().unwrap_or_default()
    }

    /// The error's message.
    #[must_use]
    pub fn complaint(&self) -> &str {
        self.answer["error"]["message"].as_str().unwrap_or_default()
    }
}

impl Modern {
    /// A client at `target` that has asked who is there.
    ///
    /// # Errors
    /// Says what went wrong.
    pub async fn connect(target: &Target, able: Able) -> Result<Self, String> {
        let mut client =
            Self { target: target.clone(), able, level: None, hello: Value::Null, next: AtomicU64::new(1) };
        let round = client.once("server/discover", json!({})).await?;
        client.hello = round.answer["result"].clone();
        match client.hello["supportedVersions"].as_array() {
            Some(versions) if versions.iter().any(|version| version == "2026-07-28") => Ok(client),
            _ => Err(format!("server/discover: HTTP {} {}", round.status, round.answer)),
        }
    }

    /// This client, wanting logs of its calls at `level` and above.
    #[must_use]
    pub fn at_level(self, level: &str) -> Self {
        Self { level: Some(level.to_owned()), ..self }
    }

    /// The result of `server/discover`.
    #[must_use]
    pub fn hello(&self) -> &Value {
        &self.hello
    }

    /// Makes a call and sees it through: answers what is asked, in as many rounds as it takes.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn call(&self, method: &str, params: Value) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let mut next = params.clone();
        for number in 0..ROUNDS {
            // Each round has a token of its own: they are independent requests.
            if let Some(token) = params["_meta"]["progressToken"].as_str() {
                next["_meta"]["progressToken"] = json!(round_token(token, number));
            }
            let round = self.once(method, next).await?;
            outcome.status = round.status;
            outcome.heard_in.extend(round.heard.iter().map(|_| number));
            outcome.heard.extend(round.heard.iter().cloned());
            outcome.oddities.extend(round.oddities.iter().cloned());
            outcome.answer = round.answer.clone();
            let Some(wants) = round.wants() else { return Ok(outcome) };
            let requests = wants["inputRequests"].as_object().cloned().unwrap_or_default();
            if requests.is_empty() && wants["requestState"].is_null() {
                outcome.oddities.push("input_required that asks nothing and has no state".into());
                return Ok(outcome);
            }
            let mut asked = Vec::new();
            let mut responses = Map::new();
            for (key, request) in &requests {
                let method = request["method"].as_str().unwrap_or_default().to_owned();
                let answer = self.able.answer(&method, &request["params"]);
                asked.push(Asked {
                    method,
                    params: request["params"].clone(),
                    on: key.clone(),
                    id: Value::Null,
                });
                match answer {
                    Ok(answer) => responses.insert(key.clone(), answer),
                    // There is no way to say no to a request but to leave it.
                    Err(_) => None,
                };
            }
            let refused = responses.len() < requests.len();
            outcome.rounds.push(asked);
            if refused {
                return Ok(outcome);
            }
            next = retry(&params, wants, responses);
        }
        Err(format!("no end after {ROUNDS} rounds: {:?}", outcome.rounds))
    }

    /// Sends one request and reads all of its answer.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn once(&self, method: &str, params: Value) -> Result<Round, String> {
        self.begin(method, params).await?.end().await
    }

    /// Sends one request; the answer has begun when this is done.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn begin(&self, method: &str, params: Value) -> Result<Begun, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let reply = self.request(id, method, params).try_send().await?;
        let status = reply.status;
        let body = if reply.header("content-type").starts_with("text/event-stream") {
            Body::Stream(Box::new(reply.source()))
        } else {
            Body::Document(Box::new(reply))
        };
        Ok(Begun { id, status, body, heard: Vec::new() })
    }

    /// The request for `method`, for cases that bend it.
    #[must_use]
    pub fn request(&self, id: u64, method: &str, mut params: Value) -> Request {
        params["_meta"][CAPABILITIES] = self.able.capabilities.clone();
        if let Some(level) = &self.level {
            params["_meta"][LEVEL] = json!(level);
        }
        self.target.keyed(Request::modern(self.target.url.clone(), id, method, params))
    }

    /// Opens `subscriptions/listen` and waits for the acknowledgement.
    ///
    /// # Errors
    /// Says what came instead.
    pub async fn listen(&self, notifications: Value) -> Result<Listening, String> {
        let begun = self.begin("subscriptions/listen", json!({"notifications": notifications})).await?;
        let (id, status) = (begun.id, begun.status);
        let Body::Stream(source) = begun.body else {
            let round = begun.end().await?;
            return Err(format!("no stream but HTTP {status} {}", round.answer));
        };
        let mut listening = Listening { id, source: *source, agreed: Value::Null };
        let first = listening.any(PATIENCE).await?;
        if first["method"] != "notifications/subscriptions/acknowledged" {
            return Err(format!("the first message is no acknowledgement: {first}"));
        }
        listening.agreed = first["params"]["notifications"].clone();
        Ok(listening)
    }
}

/// The progress token of round `number` of a call with `token`.
#[must_use]
pub fn round_token(token: &str, number: usize) -> String {
    if number == 0 { token.to_owned() } else { format!("{token}-{number}") }
}

/// The parameters to make a call again with, after `wants` has asked for input.
#[must_use]
pub fn retry(params: &Value, wants: &Value, responses: Map<String, Value>) -> Value {
    let mut next = params.clone();
    next["inputResponses"] = Value::Object(responses);
    if let Some(state) = wants["requestState"].as_str() {
        next["requestState"] = json!(state);
    }
    next
}

/// A request whose answer has begun. Dropping it hangs up.
#[derive(Debug)]
pub struct Begun {
    /// The JSON-RPC id.
    pub id: u64,
    /// The HTTP status.
    pub status: u16,
    body: Body,
    heard: Vec<Value>,
}

#[derive(Debug)]
enum Body {
    Stream(Box<Source>),
    Document(Box<Reply>),
}

impl Begun {
    /// The next notification on the stream of the answer.
    ///
    /// # Errors
    /// Says what came instead.
    pub async fn hear(&mut self) -> Result<Value, String> {
        let Body::Stream(source) = &mut self.body else { return Err("the answer is no stream".into()) };
        loop {
            match source.within(PATIENCE).await {
                Some(Next::Event(event)) if event.data.is_empty() => {}
                Some(Next::Event(event)) => {
                    let message: Value =
                        serde_json::from_str(&event.data).map_err(|error| error.to_string())?;
                    if message["method"].is_null() {
                        return Err(format!("no notification but {message}"));
                    }
                    self.heard.push(message.clone());
                    return Ok(message);
                }
                other => return Err(format!("no notification: {other:?}")),
            }
        }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn end(self) -> Result<Round, String> {
        let Self { id, status, body, mut heard } = self;
        let mut oddities = Vec::new();
        let mut answer = Value::Null;
        match body {
            Body::Document(reply) => {
                let text = reply.text().await;
                answer = serde_json::from_str(&text)
                    .map_err(|_| format!("HTTP {status} without a message: {text:?}"))?;
            }
            Body::Stream(mut source) => loop {
                match source.within(PATIENCE).await {
                    Some(Next::Event(event)) if event.data.is_empty() => {}
                    Some(Next::Event(event)) => {
                        let message: Value =
                            serde_json::from_str(&event.data).map_err(|error| error.to_string())?;
                        if !answer.is_null() {
                            oddities.push(format!("a message after the answer: {message}"));
                        }
                        match (message["method"].is_string(), message["id"].is_null()) {
                            // Streamable HTTP, "Receiving Messages": no requests on this stream.
                            (true, false) => oddities.push(format!("a request of the server: {message}")),
                            (true, true) => heard.push(message),
                            (false, _) => answer = message,
                        }
                    }
                    Some(Next::End) if answer.is_null() => {
                        return Err("the stream ended without the answer".into());
                    }
                    Some(Next::End) => break,
                    Some(Next::Cut(reason)) => return Err(format!("the stream was cut: {reason}")),
                    None => return Err(format!("nothing within {PATIENCE:?}")),
                }
            },
        }
        if answer["id"] != id && !(answer["id"].is_null() && answer["error"].is_object()) {
            oddities.push(format!("the answer to {id} has the id {}", answer["id"]));
        }
        if answer["result"].is_object() && answer["result"]["resultType"].is_null() {
            oddities.push(format!("a result without its resultType: {}", answer["result"]));
        }
        if matches!(answer["error"]["code"].as_i64(), Some(-32042 | -32002)) {
            oddities.push(format!("an error code that this revision must not use: {}", answer["error"]));
        }
        Ok(Round { status, answer, heard, oddities })
    }
}

/// An open `subscriptions/listen`. Dropping it hangs up.
#[derive(Debug)]
pub struct Listening {
    id: u64,
    source: Source,
    /// What the server has agreed to tell.
    pub agreed: Value,
}

impl Listening {
    /// The next message.
    ///
    /// # Errors
    /// Says what came instead, or that nothing came.
    pub async fn next(&mut self) -> Result<Value, String> {
        self.any(PATIENCE).await
    }

    async fn any(&mut self, span: Duration) -> Result<Value, String> {
        loop {
            match self.source.within(span).await {
                Some(Next::Event(event)) if event.data.is_empty() => {}
                Some(Next::Event(event)) => {
                    let message: Value =
                        serde_json::from_str(&event.data).map_err(|error| error.to_string())?;
                    let of = match message["method"].is_string() {
                        true => &message["params"]["_meta"][SUBSCRIPTION],
                        false => &message["result"]["_meta"][SUBSCRIPTION],
                    };
                    if *of != self.id {
                        return Err(format!("the subscription is {}, the message is {message}", self.id));
                    }
                    return Ok(message);
                }
                Some(other) => return Err(format!("no message: {other:?}")),
                None => return Err(format!("nothing within {span:?}")),
            }
        }
    }
}
