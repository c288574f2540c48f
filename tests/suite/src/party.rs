//! What the clients of both eras have in common: whom they talk to, what they can be asked, what came of a call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::client::Request;
use crate::legacy::Legacy;
use crate::modern::Modern;

/// The revisions that the matrix has clients of, and those before.
pub const REVISIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];

/// Nothing in a row takes this long unless it hangs, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Where a client connects to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL of the endpoint.
    pub url: String,
    /// The key that it sends, if any.
    pub key: Option<String>,
}

impl Target {
    /// An endpoint that is entered without a key of one's own.
    #[must_use]
    pub fn new(url: String) -> Self {
        Self { url, key: None }
    }

    /// The same endpoint for the owner of `key`.
    #[must_use]
    pub fn with_key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    pub(crate) fn keyed(&self, request: Request) -> Request {
        match &self.key {
            Some(key) => request.header("authorization", &format!("Bearer {key}")),
            None => request,
        }
    }
}

/// Answers what a server asks: the result, or a JSON-RPC error.
pub type Handler = Arc<dyn Fn(&str, &Value) -> Result<Value, Value> + Send + Sync>;

/// What a client says that it can do, and what it then does.
#[derive(Clone)]
pub struct Able {
    /// The capabilities that it declares.
    pub capabilities: Value,
    /// What it answers.
    pub handler: Handler,
}

impl fmt::Debug for Able {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Able({})", self.capabilities)
    }
}

impl Able {
    /// A client that declares `capabilities` and answers as [`obliging`] does.
    #[must_use]
    pub fn new(capabilities: Value) -> Self {
        Self { capabilities, handler: Arc::new(obliging) }
    }

    /// A client that can do everything that `revision` knows.
    #[must_use]
    pub fn all(revision: &str) -> Self {
        let mut capabilities = json!({"sampling": {}, "roots": {"listChanged": true}});
        if revision >= "2025-06-18" {
            capabilities["elicitation"] = json!({});
        }
        if revision >= "2025-11-25" {
            capabilities["elicitation"] = json!({"form": {}, "url": {}});
        }
        if revision >= "2026-07-28" {
            capabilities["roots"] = json!({});
        }
        Self::new(capabilities)
    }

    /// This client with other answers.
    #[must_use]
    pub fn answering(
        self,
        handler: impl Fn(&str, &Value) -> Result<Value, Value> + Send + Sync + 'static,
    ) -> Self {
        Self { handler: Arc::new(handler), ..self }
    }

    pub(crate) fn answer(&self, method: &str, params: &Value) -> Result<Value, Value> {
        // Whoever has not said that it can be asked says that it knows no such method (JSON-RPC 2.0, "Error object").
        let ability = match method {
            "elicitation/create" => "elicitation",
            "sampling/createMessage" => "sampling",
            "roots/list" => "roots",
            "ping" => return Ok(json!({})),
            _ => return Err(json!({"code": -32601, "message": "Method not found"})),
        };
        if !self.capabilities[ability].is_object() {
            return Err(json!({"code": -32601, "message": "Method not found"}));
        }
        (self.handler)(method, params)
    }
}

/// Says yes to everything: `Ada` to each field of a form, `Paris` as a model, one root.
///
/// # Errors
/// Never; the type is that of handlers.
pub fn obliging(method: &str, params: &Value) -> Result<Value, Value> {
    Ok(match (method, params["mode"].as_str()) {
        ("elicitation/create", Some("url")) => json!({"action": "accept"}),
        ("elicitation/create", _) => {
            let fields = params["requestedSchema"]["properties"].as_object().into_iter().flatten();
            let content: Map<String, Value> = fields.map(|(name, _)| (name.clone(), json!("Ada"))).collect();
            json!({"action": "accept", "content": content})
        }
        ("roots/list", _) => json!({"roots": [{"uri": "file:///home/ada", "name": "home"}]}),
        _ => json!({
            "role": "assistant",
            "content": {"type": "text", "text": "Paris"},
            "model": "suite-model",
            "stopReason": "endTurn",
        }),
    })
}

/// A request of the server.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The parameters.
    pub params: Value,
    /// Which stream it came on: `call N`, `get`, or the key in `inputRequests`.
    pub on: String,
    /// Its JSON-RPC id; `Null` for what a modern client is asked.
    pub id: Value,
}

/// What came of a call.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The HTTP status of the last answer.
    pub status: u16,
    /// The JSON-RPC response; `Null` where there was none.
    pub answer: Value,
    /// What the client was asked, round by round. A legacy client knows of one round only.
    pub rounds: Vec<Vec<Asked>>,
    /// The notifications on the call's own stream, in order, all rounds together.
    pub heard: Vec<Value>,
    /// Which of [`heard`](Self::heard) came in which round.
    pub heard_in: Vec<usize>,
    /// What no server may do.
    pub oddities: Vec<String>,
}

impl Outcome {
    /// The result.
    ///
    /// # Errors
    /// Says what came instead.
    pub fn result(&self) -> Result<&Value, String> {
        if !self.oddities.is_empty() {
            return Err(format!("against the rules: {}", self.oddities.join("; ")));
        }
        match &self.answer["result"] {
            Value::Null => Err(format!("no result but HTTP {} {}", self.status, self.answer)),
            result => Ok(result),
        }
    }

    /// The first text of a tool's result, read as JSON where it is JSON.
    ///
    /// # Errors
    /// Says what came instead.
    pub fn said(&self) -> Result<Value, String> {
        let result = self.result()?;
        if result["isError"] == true {
            return Err(format!("the tool failed: {result}"));
        }
        let text = result["content"][0]["text"].as_str();
        let text = text.ok_or_else(|| format!("no text in {result}"))?;
        Ok(serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
    }

    /// The error code; 0 where there is no error.
    #[must_use]
    pub fn code(&self) -> i64 {
        self.answer["error"]["code"].as_i64().unwrap_or_default()
    }

    /// Everything that the client was asked.
    #[must_use]
    pub fn asked(&self) -> Vec<&Asked> {
        self.rounds.iter().flatten().collect()
    }

    /// The parameters of the notifications of `method`.
    #[must_use]
    pub fn told(&self, method: &str) -> Vec<&Value> {
        let of = self.heard.iter().filter(|message| message["method"] == method);
        of.map(|message| &message["params"]).collect()
    }
}

/// A client of either era.
#[derive(Debug)]
pub enum Party {
    /// With a handshake.
    Legacy(Legacy),
    /// Without.
    Modern(Box<Modern>),
}

impl Party {
    /// A client of `revision` at `target`.
    ///
    /// # Errors
    /// Says why there is no connection.
    pub async fn connect(target: &Target, revision: &str, able: Able) -> Result<Self, String> {
        Ok(match revision {
            "2026-07-28" => Self::Modern(Box::new(Modern::connect(target, able).await?)),
            "2024-11-05" => Self::Legacy(Legacy::connect_old(target, able).await?),
            _ => Self::Legacy(Legacy::connect(target, revision, able).await?),
        })
    }

    /// Makes a call and sees it through, answering whatever is asked.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn call(&self, method: &str, params: Value) -> Result<Outcome, String> {
        match self {
            Self::Legacy(legacy) => legacy.call(method, params).await,
            Self::Modern(modern) => modern.call(method, params).await,
        }
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn tool(&self, name: &str, arguments: Value) -> Result<Outcome, String> {
        self.call("tools/call", json!({"name": name, "arguments": arguments})).await
    }
}
