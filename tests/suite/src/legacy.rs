//! A client of the revisions with a handshake that handles everything a server may do to it.
//!
//! It reads the answer to a POST as JSON or as a stream, takes requests from whatever stream they come on and answers
//! each by a POST on a connection of its own, waits as `retry` says and comes back with `Last-Event-ID` when a stream
//! breaks off. With [`connect_old`](Legacy::connect_old) it speaks the HTTP+SSE transport of 2024-11-05 instead.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::client::{Reply, Request};
use crate::party::{Able, Asked, Outcome, PATIENCE, Target};
use crate::sse::{Next, Source};

/// How long to wait before coming back where the server says nothing.
const RETRY: Duration = Duration::from_millis(100);

/// How often to come back to somebody who cannot be reached.
const TRIES: usize = 50;

/// A connected client. Dropping it drops its connections, without a word to the server.
#[derive(Debug)]
pub struct Legacy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    target: Target,
    /// Where to post.
    url: String,
    /// Whether this is the transport of 2024-11-05.
    old: bool,
    able: Able,
    revision: String,
    session: Option<String>,
    hello: OnceLock<Value>,
    next: AtomicU64,
    state: Mutex<State>,
    /// Something in the state has changed.
    turn: Notify,
    /// All readers are to drop their connections and come back.
    cut: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, (u16, Value)>,
    /// Calls that nobody waits for any more.
    cancelled: HashSet<String>,
    asked: Vec<Asked>,
    asking: HashSet<String>,
    heard: Vec<Heard>,
    oddities: Vec<String>,
    /// Answer nothing before this many requests are there.
    hold: usize,
    held: Vec<Value>,
    /// The HTTP status that the GET stream was last answered with.
    get: Option<u16>,
    /// The last event of the GET stream.
    last: Option<String>,
    event_ids: HashSet<String>,
}

/// A notification and the stream that it came on.
#[derive(Debug, Clone)]
pub struct Heard {
    /// `call N` or `get`.
    pub on: String,
    /// The message.
    pub message: Value,
}

/// A call that is under way.
#[derive(Debug)]
pub struct Pending {
    inner: Arc<Inner>,
    /// Its JSON-RPC id.
    pub id: u64,
    asked: usize,
    heard: usize,
    oddities: usize,
}

impl Legacy {
    /// Shakes hands at `target` in `revision`.
    ///
    /// # Errors
    /// Says what went wrong.
    pub async fn connect(target: &Target, revision: &str, able: Able) -> Result<Self, String> {
        Self::connected(target, revision, able, true).await
    }

    /// The same, as a client that never sends back the session id that it is given.
    ///
    /// # Errors
    /// Says what went wrong.
    pub async fn connect_forgetful(target: &Target, revision: &str, able: Able) -> Result<Self, String> {
        Self::connected(target, revision, able, false).await
    }

    async fn connected(target: &Target, revision: &str, able: Able, keeps: bool) -> Result<Self, String> {
        let mut inner = Inner::new(target, target.url.clone(), revision, able, false);
        let hello = inner.hello_message(revision);
        let reply = inner.post_request(&hello).try_send().await?;
        let session = Some(reply.header("mcp-session-id").to_owned()).filter(|id| !id.is_empty());
        let status = reply.status;
        let message = first_message(reply).await?;
        inner.agree(&message, status, revision)?;
        inner.session = session.filter(|_| keeps);
        let client = Self { inner: Arc::new(inner) };
        client.notify("notifications/initialized", json!({})).await?;
        Ok(client)
    }

    /// Opens the HTTP+SSE transport at `target` and shakes hands in 2024-11-05.
    ///
    /// # Errors
    /// Says what went wrong.
    pub async fn connect_old(target: &Target, able: Able) -> Result<Self, String> {
        let revision = "2024-11-05";
        let request = Request::new("GET", target.url.clone()).header("accept", "text/event-stream");
        let reply = target.keyed(request).try_send().await?;
        if reply.status != 200 || !reply.header("content-type").starts_with("text/event-stream") {
            return Err(format!("no stream but HTTP {} {}", reply.status, reply.header("content-type")));
        }
        let mut source = reply.source();
        let endpoint = match source.within(PATIENCE).await {
            Some(Next::Event(event)) if event.kind == "endpoint" => event.data,
            other => return Err(format!("the first event is no endpoint: {other:?}")),
        };
        let origin: String = target.url.split('/').take(3).collect::<Vec<_>>().join("/");
        let url = if endpoint.starts_with('/') { format!("{origin}{endpoint}") } else { endpoint };
        if !url.starts_with(&origin) {
            return Err(format!("the endpoint {url} is not of the origin of {}", target.url));
        }
        let inner = Arc::new(Inner::new(target, url, revision, able, true));
        inner.spawn(read(inner.clone(), source, "get".into(), None));
        let client = Self { inner };
        client.inner.post(&client.inner.hello_message(revision)).await?;
        let (status, message) = client.inner.answer_to(0).await?;
        client.inner.agree(&message, status, revision)?;
        client.notify("notifications/initialized", json!({})).await?;
        Ok(client)
    }

    /// The result of `initialize`.
    #[must_use]
    pub fn hello(&self) -> &Value {
        self.inner.hello.get().unwrap_or(&Value::Null)
    }

    /// The session id, if the server has given one.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.inner.session.as_deref()
    }

    /// From now on answers nothing before `count` requests of the server are there.
    pub fn hold(&self, count: usize) {
        self.inner.state.lock().unwrap().hold = count;
    }

    /// Opens the GET stream and keeps it open. Gives the HTTP status of the answer.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn listen(&self) -> Result<u16, String> {
        if self.inner.old || self.inner.state.lock().unwrap().get == Some(200) {
            return Ok(200);
        }
        let reply = self.inner.get(None).try_send().await?;
        let status = reply.status;
        self.inner.state.lock().unwrap().get = Some(status);
        if status == 200 {
            self.inner.spawn(read(self.inner.clone(), reply.source(), "get".into(), None));
        }
        Ok(status)
    }

    /// Drops the connections of all streams. Their readers come back with `Last-Event-ID`.
    pub fn cut(&self) {
        self.inner.cut.notify_waiters();
    }

    /// Sends a request and does not wait for what comes of it.
    #[must_use]
    pub fn start(&self, method: &str, params: Value) -> Pending {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let state = self.inner.state.lock().unwrap();
        let (asked, heard, oddities) = (state.asked.len(), state.heard.len(), state.oddities.len());
        drop(state);
        let inner = self.inner.clone();
        self.inner.spawn(async move {
            let sent = inner.post(&message).await;
            let mut state = inner.state.lock().unwrap();
            if let Err(problem) = sent {
                state.answers.entry(id.to_string()).or_insert((0, json!({"broken": problem})));
            }
            drop(state);
            inner.turn.notify_waiters();
        });
        Pending { inner: self.inner.clone(), id, asked, heard, oddities }
    }

    /// Makes a call and sees it through.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn call(&self, method: &str, params: Value) -> Result<Outcome, String> {
        self.start(method, params).outcome().await
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// When it is not accepted with 202.
    pub async fn notify(&self, method: &str, params: Value) -> Result<(), String> {
        self.inner.post(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await
    }

    /// Cancels `call` and stops waiting for its answer.
    ///
    /// # Errors
    /// When the notification is not accepted.
    pub async fn cancel(&self, call: &Pending) -> Result<(), String> {
        self.inner.state.lock().unwrap().cancelled.insert(call.id.to_string());
        self.notify("notifications/cancelled", json!({"requestId": call.id, "reason": "no longer wanted"}))
            .await
    }

    /// Ends the session. Gives the HTTP status.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn delete(&self) -> Result<u16, String> {
        let request = Request::new("DELETE", self.inner.target.url.clone());
        Ok(self.inner.in_session(request).try_send().await?.status)
    }

    /// A raw POST in this session, for cases that break the rules. Gives the HTTP status and the text.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn raw_post(&self, message: &Value) -> Result<(u16, String), String> {
        let reply = self.inner.post_request(message).try_send().await?;
        Ok((reply.status, reply.text().await))
    }

    /// A raw GET in this session with this `Last-Event-ID`.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn raw_get(&self, last: Option<&str>) -> Result<Reply, String> {
        self.inner.get(last).try_send().await
    }

    /// How much was heard so far, on whatever stream: a place to [`hear`](Self::hear) on from.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.inner.state.lock().unwrap().heard.len()
    }

    /// The next notification after `mark` that is `wanted`, waiting for it. `mark` moves on behind it.
    pub async fn hear(&self, mark: &mut usize, wanted: impl Fn(&Heard) -> bool) -> Option<Heard> {
        let found = self.inner.until(|state| {
            let at = (*mark..state.heard.len()).find(|at| wanted(&state.heard[*at]))?;
            Some((at, state.heard[at].clone()))
        });
        let (at, heard) = found.await?;
        *mark = at + 1;
        Some(heard)
    }

    /// Everything that was heard so far.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.inner.state.lock().unwrap().heard.clone()
    }

    /// Everything that was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.state.lock().unwrap().asked.clone()
    }

    /// Waits until the server has asked `count` things in all.
    pub async fn until_asked(&self, count: usize) -> bool {
        self.inner.until(|state| (state.asked.len() >= count).then_some(())).await.is_some()
    }

    /// What the other side did that nobody may do.
    #[must_use]
    pub fn oddities(&self) -> Vec<String> {
        self.inner.state.lock().unwrap().oddities.clone()
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        for task in self.inner.tasks.lock().unwrap().drain(..) {
            task.abort();
        }
    }
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn outcome(self) -> Result<Outcome, String> {
        let (status, answer) = self.inner.answer_to(self.id).await?;
        if let Some(problem) = answer["broken"].as_str() {
            return Err(problem.to_owned());
        }
        let state = self.inner.state.lock().unwrap();
        let own = format!("call {}", self.id);
        let heard = state.heard.iter().skip(self.heard).filter(|heard| self.inner.old || heard.on == own);
        let heard: Vec<Value> = heard.map(|heard| heard.message.clone()).collect();
        let asked: Vec<Asked> = state.asked.iter().skip(self.asked).cloned().collect();
        Ok(Outcome {
            status,
            answer,
            rounds: if asked.is_empty() { vec![] } else { vec![asked] },
            heard_in: vec![0; heard.len()],
            heard,
            oddities: state.oddities.iter().skip(self.oddities).cloned().collect(),
        })
    }

    /// Waits until the server has asked `count` things since the call began.
    pub async fn until_asked(&self, count: usize) -> bool {
        self.inner.until(|state| (state.asked.len() >= self.asked + count).then_some(())).await.is_some()
    }

    /// Waits until the call's own stream has brought `count` notifications.
    pub async fn until_heard(&self, count: usize) -> bool {
        let own = format!("call {}", self.id);
        let enough = |state: &mut State| {
            let heard = state.heard.iter().skip(self.heard).filter(|heard| self.inner.old || heard.on == own);
            (heard.count() >= count).then_some(())
        };
        self.inner.until(enough).await.is_some()
    }

    /// Whether the answer is there.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.inner.state.lock().unwrap().answers.contains_key(&self.id.to_string())
    }
}

impl Inner {
    fn new(target: &Target, url: String, revision: &str, able: Able, old: bool) -> Self {
        Self {
            target: target.clone(),
            url,
            old,
            able,
            revision: revision.to_owned(),
            session: None,
            hello: OnceLock::new(),
            next: AtomicU64::new(1),
            state: Mutex::default(),
            turn: Notify::new(),
            cut: Notify::new(),
            tasks: Mutex::default(),
        }
    }

    fn hello_message(&self, revision: &str) -> Value {
        let params = json!({
            "protocolVersion": revision,
            "capabilities": self.able.capabilities,
            "clientInfo": {"name": "suite", "version": "1"},
        });
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    }

    fn agree(&self, message: &Value, status: u16, revision: &str) -> Result<(), String> {
        let hello = self.hello.get_or_init(|| message["result"].clone());
        match hello["protocolVersion"].as_str() {
            Some(agreed) if agreed == revision => Ok(()),
            Some(agreed) => Err(format!("{revision} was asked for, the server wants {agreed}")),
            None => Err(format!("no handshake: HTTP {status} {message}")),
        }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap();
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(work).abort_handle());
    }

    fn in_session(&self, mut request: Request) -> Request {
        // 2025-06-18 Transports, "Protocol Version Header": revisions before know of none.
        if self.hello.get().is_some() && self.revision.as_str() >= "2025-06-18" {
            request = request.header("mcp-protocol-version", &self.revision);
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        self.target.keyed(request)
    }

    fn post_request(&self, message: &Value) -> Request {
        self.in_session(Request::post(self.url.clone(), message))
    }

    fn get(&self, last: Option<&str>) -> Request {
        let request = Request::new("GET", self.target.url.clone()).header("accept", "text/event-stream");
        let request = self.in_session(request);
        match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        }
    }

    /// Sends `message` on a connection of its own and reads what comes back, to the end.
    async fn post(self: &Arc<Self>, message: &Value) -> Result<(), String> {
        let reply = self.post_request(message).try_send().await?;
        let status = reply.status;
        let is_request = message["method"].is_string() && !message["id"].is_null();
        if !is_request || self.old {
            return if status == 202 {
                Ok(())
            } else {
                Err(format!("{} is answered with HTTP {status} {}", message["method"], reply.text().await))
            };
        }
        let id = id_of(message);
        if reply.header("content-type").starts_with("text/event-stream") {
            read(self.clone(), reply.source(), format!("call {id}"), Some(id)).await;
            return Ok(());
        }
        let text = reply.text().await;
        let answer: Value =
            serde_json::from_str(&text).map_err(|_| format!("HTTP {status} without a message: {text:?}"))?;
        if answer["id"] != message["id"] && !answer["id"].is_null() {
            return Err(format!("the answer to {id} has another id: {answer}"));
        }
        self.state.lock().unwrap().answers.insert(id, (status, answer));
        Ok(())
    }

    async fn answer_to(&self, id: u64) -> Result<(u16, Value), String> {
        let id = id.to_string();
        let answer = self.until(|state| state.answers.get(&id).cloned()).await;
        answer.ok_or_else(|| format!("no answer within {PATIENCE:?}"))
    }

    /// Waits until `question` has an answer.
    async fn until<T>(&self, mut question: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let wait = async {
            loop {
                let turn = self.turn.notified();
                tokio::pin!(turn);
                turn.as_mut().enable();
                if let Some(answer) = question(&mut self.state.lock().unwrap()) {
                    return answer;
                }
                turn.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.ok()
    }

    /// Takes in a message of the server that came on the stream `on`.
    fn take(self: &Arc<Self>, message: Value, on: &str) {
        let mut state = self.state.lock().unwrap();
        match (message["method"].as_str(), message["id"].is_null()) {
            (Some(method), false) => {
                state.asked.push(Asked {
                    method: method.to_owned(),
                    params: message["params"].clone(),
                    on: on.to_owned(),
                    id: message["id"].clone(),
                });
                if !state.asking.insert(id_of(&message)) {
                    state.oddities.push(format!("the request {} came twice", message["id"]));
                }
                state.held.push(message);
                if state.held.len() >= state.hold {
                    for message in state.held.drain(..) {
                        let inner = self.clone();
                        self.spawn(async move { inner.reply(message).await });
                    }
                }
            }
            (Some(_), true) => state.heard.push(Heard { on: on.to_owned(), message }),
            (None, _) => {
                let id = id_of(&message);
                if message["result"]["resultType"] == "input_required" {
                    state.oddities.push("input_required for a legacy client".into());
                }
                let own = self.old || on == format!("call {id}");
                if !own {
                    state.oddities.push(format!("the answer to {id} came on the stream {on}"));
                }
                if state.answers.insert(id.clone(), (200, message)).is_some() {
                    state.oddities.push(format!("{id} was answered twice"));
                }
            }
        }
        drop(state);
        self.turn.notify_waiters();
    }

    /// Answers a request of the server.
    async fn reply(self: Arc<Self>, request: Value) {
        let method = request["method"].as_str().unwrap_or_default();
        let mut message = json!({"jsonrpc": "2.0", "id": request["id"]});
        match self.able.answer(method, &request["params"]) {
            Ok(result) => message["result"] = result,
            Err(error) => message["error"] = error,
        }
        if let Err(problem) = self.post(&message).await {
            self.state.lock().unwrap().oddities.push(format!("the answer to {method}: {problem}"));
            self.turn.notify_waiters();
        }
    }
}

/// Reads the stream `on` to its end, coming back when it breaks off. The answer to `call` ends it.
async fn read(inner: Arc<Inner>, mut source: Source, on: String, call: Option<String>) {
    let mut last = None;
    let mut retry = RETRY;
    loop {
        let why = loop {
            let next = tokio::select! {
                next = source.next() => next,
                () = inner.cut.notified() => Next::Cut("on purpose".into()),
            };
            match next {
                Next::Event(event) => {
                    if let Some(millis) = event.retry {
                        retry = Duration::from_millis(millis);
                    }
                    let mut state = inner.state.lock().unwrap();
                    if let Some(id) = event.id.filter(|id| !id.is_empty()) {
                        // Ids are unique in a session, over all streams (2025-11-25 Transports, "Resumability").
                        if !state.event_ids.insert(id.clone()) {
                            state.oddities.push(format!("the event {id} came twice"));
                        }
                        if call.is_none() {
                            state.last = Some(id.clone());
                        }
                        last = Some(id);
                    }
                    drop(state);
                    if event.data.is_empty() {
                        continue;
                    }
                    match serde_json::from_str(&event.data) {
                        Ok(message) => inner.take(message, &on),
                        Err(_) => {
                            inner
                                .state
                                .lock()
                                .unwrap()
                                .oddities
                                .push(format!("no message: {:?}", event.data));
                        }
                    }
                }
                Next::End => break "ended".to_owned(),
                Next::Cut(reason) => break format!("was cut ({reason})"),
            }
        };
        drop(source);
        if inner.old {
            return;
        }
        let done = |state: &State| match &call {
            Some(id) => state.answers.contains_key(id) || state.cancelled.contains(id),
            None => false,
        };
        if done(&inner.state.lock().unwrap()) {
            return;
        }
        if call.is_some() && last.is_none() {
            return give_up(&inner, call.as_deref(), 200, &format!("the stream {why} without the answer"));
        }
        // A gateway that is being restarted refuses connections for a moment.
        let mut tries = 0;
        let reply = loop {
            tokio::time::sleep(retry).await;
            match inner.get(last.as_deref()).try_send().await {
                Ok(reply) => break reply,
                Err(problem) if tries == TRIES => return give_up(&inner, call.as_deref(), 0, &problem),
                Err(_) => tries += 1,
            }
        };
        let status = reply.status;
        if call.is_none() {
            inner.state.lock().unwrap().get = Some(status);
        }
        if status != 200 {
            let text = format!("the stream {why}; coming back to it is answered with HTTP {status}");
            return give_up(&inner, call.as_deref(), status, &text);
        }
        source = reply.source();
    }
}

fn give_up(inner: &Inner, call: Option<&str>, status: u16, problem: &str) {
    if let Some(id) = call {
        let answer = (status, json!({"broken": problem}));
        inner.state.lock().unwrap().answers.entry(id.to_owned()).or_insert(answer);
    }
    inner.turn.notify_waiters();
}

/// The only message that `initialize` is answered with.
async fn first_message(reply: Reply) -> Result<Value, String> {
    if !reply.header("content-type").starts_with("text/event-stream") {
        let status = reply.status;
        let text = reply.text().await;
        return serde_json::from_str(&text).map_err(|_| format!("HTTP {status} {text:?}"));
    }
    let mut source = reply.source();
    loop {
        match source.within(PATIENCE).await {
            Some(Next::Event(event)) if event.data.is_empty() => {}
            Some(Next::Event(event)) => {
                return serde_json::from_str(&event.data).map_err(|error| error.to_string());
            }
            other => return Err(format!("no answer to initialize: {other:?}")),
        }
    }
}

/// A JSON-RPC id as a map key.
fn id_of(message: &Value) -> String {
    message["id"].as_str().map_or_else(|| message["id"].to_string(), str::to_owned)
}
