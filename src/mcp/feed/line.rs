//! One server of a feed: connecting, reading, and connecting again when the line breaks.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{Leases, Notice, Over, Source, Topic, Wanted, What};
use crate::config::plan::Server;
use crate::fault::{Fault, Kind};
use crate::mcp::client::Client;
use crate::mcp::lines::{Held, Lasting};
use crate::mcp::memory::{Profile, UpstreamSession};
use crate::mcp::park::AGREED;
use crate::mcp::revision::{Era, Revision};
use crate::mcp::standing::subscribed_at;
use crate::mcp::upstream::{
    Answered, Asked, Content, ERROR_BODY, IMPLEMENTATION, LISTEN, Outgoing, content, error_of, no_answer,
    refused, standard_headers, with_meta,
};
use crate::mcp::{Mcp, extensions, forgotten, meta};
use crate::platform::{Clock as _, Entropy as _, Platform, Timestamp, UpstreamBody};
use crate::relay::dropped::Dropped;
use crate::relay::{Reader, too_large};
use crate::wire::jsonrpc::{self, Message, decode_batch};
use crate::wire::sse::{Decoder, Event};

/// Notices of change are short: on a line that carries nothing else, an event is no larger than this.
const NOTICE: usize = 1024 * 1024;
/// Notices that are kept while subscriptions are made over a session that is heard already; together no larger than
/// [`NOTICE`].
const EARLY: usize = 256;
/// Subscriptions made at a time with one legacy server.
const AT_A_TIME: usize = 8;
/// The first pause before a broken line is taken up again; it doubles from break to break.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A server may ask for shorter and longer pauses (`retry`), within these bounds.
const ASKED_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(300));
/// A line that has held for so long is not counted as broken when it ends.
const STEADY: Duration = Duration::from_secs(10);
/// A longer event id is not kept: it would have to go into a header.
const EVENT_ID: usize = 1024;

/// The line to one server.
pub struct Line<P: Platform> {
    mcp: Mcp<P>,
    leases: Leases,
    source: Source,
    state: State<P>,
    /// Messages of our own that are due before anything else is read.
    due: VecDeque<Bytes>,
    /// It was heard before: a break leaves a gap.
    heard: bool,
    /// Breaks in a row.
    breaks: u32,
    /// The link that the server is behind was not there at the last attempt.
    offline: bool,
    /// The lists whose changes it tells of, as was agreed last.
    told: BTreeSet<Topic>,
    /// The pause that the server asked for.
    retry: Option<Duration>,
    /// The server's last event id.
    last_id: Option<String>,
    /// The session of its own, and what it is subscribed to once that is known.
    session: Option<Box<(UpstreamSession, Option<Vec<String>>)>>,
}

enum State<P: Platform> {
    /// Not connected.
    Closed,
    /// Connected.
    Open(Box<Open<P>>),
    /// The server itself has nothing to say; its link is watched.
    Watching(Box<UpstreamBody<P>>, bool),
    /// There is nothing to be heard: what is left is to end the session.
    Leaving,
}

/// A connection that carries events.
struct Open<P: Platform> {
    reader: Reader<P>,
    decoder: Decoder,
    limit: usize,
    ready: VecDeque<Event>,
    since: Timestamp,
    /// The session for answers to the server's own requests, if they are answered here.
    session: Option<Box<UpstreamSession>>,
    /// The session, if a mailbox keeps it for its client.
    held: Option<Arc<Held>>,
    modern: bool,
    /// The server named a pause on this connection: it closes it as a matter of course.
    polled: bool,
}

/// What came of an attempt to connect.
enum Connected<P: Platform> {
    /// The server is heard, and will tell so much. The flag: nothing can have been missed since the last time.
    Heard(Box<Open<P>>, Wanted, bool),
    /// The server has nothing to say, and its link is watched: what comes and goes with it.
    Watched(Box<UpstreamBody<P>>, Wanted),
    /// The server has nothing to say.
    Nothing,
    /// The session of somebody else, over which it was to be heard, is over.
    Lost,
}

/// A line after a step, unless it is over, and what there is to tell.
pub type Stepped<P> = (Option<Line<P>>, Option<Notice>);

/// Works on a line until there is something to tell.
#[expect(clippy::manual_async_fn, reason = "an `async fn` would keep its argument twice")]
pub(super) fn step<P: Platform>(mut line: Line<P>) -> impl Future<Output = Stepped<P>> + use<P> {
    async move {
        loop {
            if let Some(message) = line.due.pop_front() {
                return line.tells(What::Message(message));
            }
            match &mut line.state {
                State::Closed => {
                    // Boxed: a line connects seldom, and every line would have to make room for it.
                    Box::pin(line.pause()).await;
                    match Box::pin(line.connect()).await {
                        Ok(Connected::Heard(open, wanted, seamless)) => {
                            line.state = State::Open(open);
                            if std::mem::replace(&mut line.heard, true) && !seamless {
                                line.announce(&wanted);
                            }
                            line.told.clone_from(&wanted.lists);
                            return line.tells(What::Agreed(wanted));
                        }
                        Ok(Connected::Watched(watch, wanted)) => {
                            line.state = State::Watching(watch, false);
                            if std::mem::replace(&mut line.heard, true) {
                                line.announce(&wanted);
                            }
                            line.told.clone_from(&wanted.lists);
                            return line.tells(What::Agreed(wanted));
                        }
                        Ok(Connected::Nothing) => {
                            line.state = State::Leaving;
                            return line.tells(What::Silent);
                        }
                        Ok(Connected::Lost) => {
                            line.state = State::Leaving;
                            return line.tells(What::Lost);
                        }
                        Err(fault) => {
                            line.offline = fault.kind == Kind::LinkOffline;
                            // What it offers when it is there was not told of before.
                            line.heard |= line.offline;
                            line.breaks = line.breaks.saturating_add(1);
                            return line.tells(What::Down(fault));
                        }
                    }
                }
                State::Open(open) => {
                    let came = open.next().await;
                    let reply = match line.came(came) {
                        Came::Tell(what) => return line.tells(*what),
                        Came::Reply(reply) => reply,
                        Came::Nothing => continue,
                    };
                    let (body, session) = reply.as_ref();
                    // Boxed, for the same reason.
                    Box::pin(line.mcp.tell(&line.source.server, body.clone(), session)).await;
                }
                State::Watching(watch, began) => match watch.next().await {
                    // How the link is to begin with.
                    Some(Ok(_)) if !std::mem::replace(began, true) => {}
                    Some(Ok(_)) => line.link_changed(),
                    Some(Err(_)) | None => {
                        line.state = State::Closed;
                        line.breaks = line.breaks.saturating_add(1);
                    }
                },
                State::Leaving => {
                    if let Some(held) = line.session.take() {
                        Box::pin(line.mcp.end(&line.source.server, &held.0)).await;
                        line.leases.let_go(&line.source.server, &held.0);
                    }
                    return (None, None);
                }
            }
        }
    }
}

/// What there is to do about what came, or did not.
enum Came {
    Tell(Box<What>),
    Reply(Box<(Bytes, UpstreamSession)>),
    Nothing,
}

/// What becomes of an event.
enum Taken {
    Message(Bytes),
    Reply(Bytes, UpstreamSession),
    End,
    Nothing,
}

impl<P: Platform> Line<P> {
    pub(super) fn new(mcp: Mcp<P>, leases: Leases, source: Source) -> Self {
        Self {
            mcp,
            leases,
            source,
            state: State::Closed,
            due: VecDeque::new(),
            heard: false,
            breaks: 0,
            offline: false,
            told: BTreeSet::new(),
            retry: None,
            last_id: None,
            session: None,
        }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.source.server
    }

    fn tells(self, what: What) -> Stepped<P> {
        let server = self.source.server.clone();
        let held = match &self.state {
            State::Open(open) => open.held.clone(),
            _ => None,
        };
        (Some(self), Some(Notice { server, what, held }))
    }

    /// Waits before the next attempt, if this is not the first.
    async fn pause(&self) {
        if self.offline && self.link_is_back().await {
            return;
        }
        if self.heard || self.breaks > 0 {
            let mut random = [0];
            self.mcp.platform.entropy().fill(&mut random);
            let [random] = random;
            self.mcp.platform.clock().sleep(pause(self.breaks, self.retry, random)).await;
        }
    }

    /// Makes sense of what came, or did not.
    fn came(&mut self, came: Result<Option<Event>, Fault>) -> Came {
        let taken = match came {
            Ok(event) => event.map_or(Taken::End, |event| self.takes(event)),
            Err(fault) => {
                self.broke();
                return Came::Tell(Box::new(What::Down(fault)));
            }
        };
        match taken {
            Taken::Message(message) => return Came::Tell(Box::new(What::Message(message))),
            Taken::Reply(reply, session) => return Came::Reply(Box::new((reply, session))),
            Taken::End => self.broke(),
            Taken::Nothing => {}
        }
        Came::Nothing
    }

    /// The connection has ended.
    fn broke(&mut self) {
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Closed) {
            let held = self.mcp.platform.clock().now().since(open.since);
            if self.source.server.via.is_some() {
                self.link_changed();
            }
            self.breaks = if open.polled || held >= STEADY { 0 } else { self.breaks.saturating_add(1) };
        }
    }

    /// Waits until the link is there that the server is behind; `false` if that cannot be told.
    async fn link_is_back(&self) -> bool {
        let Some(via) = &self.source.server.via else { return false };
        let Some(mut watch) = self.mcp.watch_link(&via.link).await else { return false };
        loop {
            match watch.next().await {
                Some(Ok(news)) if news.ends_with(b"+") => {
                    self.mcp.memory.link_changed(&via.link);
                    return self.mcp.offline(&self.source.server).await.is_none();
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }

    /// The link is otherwise than it was, and with it what is listed.
    fn link_changed(&mut self) {
        if let Some(via) = &self.source.server.via {
            self.mcp.memory.link_changed(&via.link);
        }
        self.due.extend(Wanted { lists: self.told.clone(), ..Wanted::default() }.changes());
    }

    /// Says what may have changed while the server was not heard.
    fn announce(&mut self, wanted: &Wanted) {
        self.due.extend(wanted.changes());
        for topic in &wanted.lists {
            self.mcp.outdated(&self.source.server, topic.method());
        }
    }

    async fn connect(&mut self) -> Result<Connected<P>, Fault> {
        if let Over::Own(session) = &self.source.over {
            let session = session.clone();
            return self.attend_own(&session).await;
        }
        let profile = self.mcp.profile(&self.source.server).await?;
        if let (Over::Line(client), true) = (&self.source.over, profile.http_sse) {
            let client = client.clone();
            return self.attend_kept(&profile, &client).await;
        }
        let mut wanted = self.source.wanted.within(&profile.capabilities);
        if profile.modern.is_none() {
            wanted.tasks.clear();
        }
        if wanted.is_nothing() {
            let server = &self.source.server;
            let mut listed = Wanted { lists: self.source.wanted.lists.clone(), ..Wanted::default() };
            listed.lists.retain(|topic| profile.has(topic.capability()));
            return match server.via.as_ref().filter(|_| !listed.is_nothing()) {
                None => Ok(Connected::Nothing),
                Some(via) => match self.mcp.watch_link(&via.link).await {
                    Some(watch) => Ok(Connected::Watched(Box::new(watch), listed)),
                    None => Ok(Connected::Nothing),
                },
            };
        }
        match profile.revision_for(Era::Modern).era() {
            Era::Modern => self.listen(&wanted).await,
            Era::Legacy => {
                if let Over::Parked(client) = &self.source.over {
                    let client = client.clone();
                    if let Some(heard) = self.attend_parked(&profile, &client, &wanted).await? {
                        return Ok(heard);
                    }
                }
                match profile.http_sse {
                    true => self.attend_old(&profile, wanted).await,
                    false => self.attend(&profile, wanted).await,
                }
            }
        }
    }

    /// Sends a request whose answer goes on for long. Of what goes wrong, only that the server cannot be reached counts
    /// against it: without the stream it may serve everything else.
    async fn dial(&self, outgoing: Outgoing) -> Result<Answered<P>, Fault> {
        let server = &self.source.server;
        let now = self.mcp.platform.clock().now();
        let answered = self.mcp.exchange_timed(server, outgoing, now).await;
        if let Err(fault) = &answered
            && fault.kind == Kind::UpstreamConnect
        {
            self.mcp.memory.server(server).failed(self.mcp.platform.clock().now(), fault);
        }
        answered
    }

    /// Opens `subscriptions/listen` with a modern server (2026-07-28 subscriptions, "Opening a Stream").
    async fn listen(&mut self, wanted: &Wanted) -> Result<Connected<P>, Fault> {
        let server = self.source.server.clone();
        let memory = self.mcp.memory.server(&server);
        let id = format!("causeway-{}", memory.next_id());
        let able =
            if wanted.tasks.is_empty() { "{}".to_owned() } else { extensions::alone(extensions::TASKS) };
        let params = with_meta(&format!("{{\"notifications\":{}}}", wanted.filter()), &able);
        let body = meta::request(&id, LISTEN, &params);
        let headers = standard_headers(Revision::MODERN, None, LISTEN, None);
        let mut answered = self.dial(Outgoing { http: Method::POST, to: None, body, headers }).await?;
        let status = answered.status;
        if !status.is_success() || content(&answered.headers) == Content::Json {
            let body = answered.reader.all(ERROR_BODY).await?;
            return match error_of(&body).map(|(code, _)| code) {
                Some(code) if is_no(code) => Ok(Connected::Nothing),
                code => {
                    // It may have become a server of the other era.
                    if code == Some(-32022) || code.is_none() && matches!(status.as_u16(), 400 | 404..=406) {
                        memory.forget();
                    }
                    Err(if status.is_success() { no_answer(&server) } else { refused(&server, status) })
                }
            };
        }
        let mut open = self.opened(answered, None, true)?;
        let agreed = loop {
            // Within the limits of any answer: only what follows may take its time.
            let Some(event) = open.next().await? else { return Err(no_answer(&server)) };
            if let Some(agreed) = acknowledged(&event, wanted) {
                break agreed.ok_or_else(|| unacknowledged(&server))?;
            }
            if let Some((code, _)) = error_of(&event.data) {
                return if is_no(code) { Ok(Connected::Nothing) } else { Err(no_answer(&server)) };
            }
        };
        if agreed.is_nothing() {
            return Ok(Connected::Nothing);
        }
        open.reader.open_ended();
        Ok(Connected::Heard(open, agreed, false))
    }

    /// Opens the GET stream of a session of its own with a legacy server (2025-11-25 transports, "Listening for
    /// Messages from the Server").
    async fn attend(&mut self, profile: &Profile, wanted: Wanted) -> Result<Connected<P>, Fault> {
        let server = self.source.server.clone();
        loop {
            let reused = self.session.is_some();
            let (session, subscribed) = match self.session.clone() {
                Some(held) => *held,
                None => {
                    let revision = profile.legacy.unwrap_or(Revision::LEGACY);
                    let (session, _) = self.mcp.handshake(&server, "{}", IMPLEMENTATION, revision).await?;
                    self.leases.hold(&server, &session);
                    self.session = Some(Box::new((session.clone(), None)));
                    self.mcp.confirm(&server, &session).await;
                    (session, None)
                }
            };
            let uris = match subscribed {
                Some(uris) => uris,
                None => match self.mcp.subscribe_at(&server, &session, &wanted.uris).await {
                    Ok(uris) => uris,
                    Err(Unsubscribed::Lost) if reused => {
                        self.lose(&session);
                        continue;
                    }
                    Err(Unsubscribed::Lost) => return Err(refused(&server, StatusCode::NOT_FOUND)),
                    Err(Unsubscribed::Failed(fault)) => return Err(fault),
                },
            };
            self.session = Some(Box::new((session.clone(), Some(uris.clone()))));
            let answered = self.dial(self.get(&session)).await?;
            match answered.status {
                status if status.is_success() => {
                    let seamless = reused && self.last_id.is_some();
                    let open = self.opened(answered, Some(session), false)?;
                    return Ok(Connected::Heard(open, Wanted { uris, ..wanted }, seamless));
                }
                // "MUST start a new session" (2025-11-25 transports, "Session Management").
                status if reused && forgotten(status) => self.lose(&session),
                // 405 is what the specification says; in a session that has just begun, the others mean the same.
                status if !reused && matches!(status.as_u16(), 400 | 404 | 405 | 406 | 501) => {
                    return Ok(Connected::Nothing);
                }
                status => return Err(refused(&server, status)),
            }
        }
    }

    /// Hears a session that the calls of `client` go over; `None` if there is none to be heard.
    async fn attend_parked(
        &mut self,
        profile: &Profile,
        client: &Client,
        wanted: &Wanted,
    ) -> Result<Option<Connected<P>>, Fault> {
        let server = self.source.server.clone();
        let Some((key, letter)) = self.mcp.hears(client, &server, profile, &wanted.uris) else {
            return Ok(None);
        };
        let body = self.mcp.post_letter(&key, &letter).await?;
        let platform = self.mcp.platform.clone();
        let deadline = platform.clock().now().after(server.timeouts.total);
        let mut reader = Reader::new(platform, server.clone(), body, deadline);
        reader.open_session();
        let (mut early, mut room) = (Vec::new(), NOTICE);
        let agreed = loop {
            match reader.event().await? {
                Some(event) if event.event == AGREED => break event,
                // It is heard already, and may be told of something by a call before it has its subscriptions.
                Some(event) if early.len() < EARLY && event.data.len() <= room => {
                    room -= event.data.len();
                    early.push(event.data);
                }
                None if early.is_empty() => return Ok(None),
                // It comes again, and says what may have changed.
                came => {
                    let dropped = Dropped {
                        server: &server.name,
                        caller: &client.caller.name,
                        messages: early.len() + usize::from(came.is_some()),
                        message: "more came than is kept while a subscription is made; it is made anew, and what may \
                                  have changed is announced",
                    };
                    dropped.say(&self.mcp.platform, "heard.dropped");
                    return Err(no_answer(&server));
                }
            }
        };
        reader.put_back(early);
        let uris = serde_json::from_slice(&agreed.data).map_err(|_| no_answer(&server))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        let answered = Answered { status: StatusCode::OK, headers, reader };
        let open = self.opened(answered, None, false)?;
        Ok(Some(Connected::Heard(open, Wanted { uris, ..wanted.clone() }, false)))
    }

    /// Opens a session of its own with a server of HTTP+SSE, on whose one stream everything comes (2024-11-05
    /// transports, "HTTP with SSE"). It ends with the stream.
    async fn attend_old(&mut self, profile: &Profile, wanted: Wanted) -> Result<Connected<P>, Fault> {
        let server = self.source.server.clone();
        let revision = profile.legacy.unwrap_or(Revision::LEGACY);
        let (mut answered, session, _) = self.mcp.open_old(&server, "{}", IMPLEMENTATION, revision).await?;
        let uris = self.subscribe_old(&mut answered, &session, &wanted.uris).await?;
        let open = self.opened(answered, Some(session), false)?;
        Ok(Connected::Heard(open, Wanted { uris, ..wanted }, false))
    }

    /// Hears the session with such a server that the mailbox of `client` keeps.
    async fn attend_kept(&mut self, profile: &Profile, client: &Client) -> Result<Connected<P>, Fault> {
        let server = self.source.server.clone();
        let Some(session) = &client.session else { return Ok(Connected::Nothing) };
        let attached = self.mcp.attach(&server, &client.caller.name, session, None, None).await?;
        let Lasting { mut stream, held, .. } = attached;
        let wanted = Wanted { uris: subscribed_at(session, &server), ..self.source.wanted.clone() };
        let wanted = wanted.within(&profile.capabilities);
        let uris = self.subscribe_old(&mut stream, &held.session, &wanted.uris).await?;
        let mut open = self.opened(stream, None, false)?;
        open.held = Some(Arc::new(held));
        Ok(Connected::Heard(open, Wanted { uris, ..wanted }, false))
    }

    /// Subscribes to `uris` over a session with such a server, and gives those that it has taken.
    async fn subscribe_old(
        &self,
        answered: &mut Answered<P>,
        session: &UpstreamSession,
        uris: &[String],
    ) -> Result<Vec<String>, Fault> {
        let mut taken = Vec::new();
        for uri in uris {
            let params = format!("{{\"uri\":{}}}", String::from_utf8_lossy(&jsonrpc::quote(uri)));
            match self.mcp.ask_old_aside(answered, session, "resources/subscribe", &params).await {
                Ok(_) => taken.push(uri.clone()),
                Err(Asked::Refused { .. }) => {}
                Err(asked) => return Err(asked.fault(&self.source.server.name, "resources/subscribe")),
            }
        }
        answered.reader.session_opened();
        Ok(taken)
    }

    /// Forgets a session that the server has ended.
    fn lose(&mut self, session: &UpstreamSession) {
        self.leases.let_go(&self.source.server, session);
        (self.session, self.last_id) = (None, None);
    }

    /// Opens the GET stream of somebody's session.
    async fn attend_own(&mut self, session: &UpstreamSession) -> Result<Connected<P>, Fault> {
        let answered = self.dial(self.get(session)).await?;
        match answered.status {
            status if status.is_success() => {
                let seamless = self.last_id.is_some();
                let open = self.opened(answered, None, false)?;
                Ok(Connected::Heard(open, self.source.wanted.clone(), seamless))
            }
            status if matches!(status.as_u16(), 405 | 406 | 501) => Ok(Connected::Nothing),
            status if session.id.is_some() && forgotten(status) => Ok(Connected::Lost),
            status => Err(refused(&self.source.server, status)),
        }
    }

    fn get(&self, session: &UpstreamSession) -> Outgoing {
        let mut headers = standard_headers(session.revision, session.id.as_deref(), "", None);
        if let Some(last) = self.last_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert("last-event-id", last);
        }
        Outgoing { http: Method::GET, to: None, body: Bytes::new(), headers }
    }

    /// A connection over which events come. `session` is given where the server's requests are to be declined.
    fn opened(
        &self,
        answered: Answered<P>,
        session: Option<UpstreamSession>,
        modern: bool,
    ) -> Result<Box<Open<P>>, Fault> {
        let server = &self.source.server;
        if content(&answered.headers) != Content::Events {
            return Err(no_answer(server));
        }
        let mut reader = answered.reader;
        if !modern {
            reader.open_ended();
        }
        let limit = match self.source.over {
            Over::Dedicated | Over::Parked(_) => server.max_response.min(NOTICE),
            Over::Own(_) | Over::Line(_) => server.max_response,
        };
        let since = self.mcp.platform.clock().now();
        let session = session.map(Box::new);
        let (decoder, ready) = (Decoder::new(limit), VecDeque::new());
        Ok(Box::new(Open {
            reader,
            decoder,
            limit,
            ready,
            since,
            session,
            held: None,
            modern,
            polled: false,
        }))
    }

    /// Makes sense of an event.
    fn takes(&mut self, event: Event) -> Taken {
        if let Some(id) = event.id {
            // An empty id takes back the one before (WHATWG HTML, "9.2.6 Interpreting an event stream").
            self.last_id = Some(id).filter(|id| !id.is_empty() && id.len() <= EVENT_ID);
        }
        if let Some(retry) = event.retry {
            self.retry = Some(Duration::from_millis(retry));
        }
        let State::Open(open) = &mut self.state else { return Taken::Nothing };
        open.polled |= event.retry.is_some();
        if event.data.is_empty() || !matches!(event.event.as_str(), "" | "message") {
            return Taken::Nothing;
        }
        if let Ok(Some(batch)) = decode_batch(&event.data) {
            // 2025-03-26 has batches on streams, too.
            let single = |raw: &serde_json::value::RawValue| {
                Event::message(Bytes::copy_from_slice(raw.get().as_bytes()))
            };
            batch.into_iter().rev().for_each(|raw| open.ready.push_front(single(raw)));
            return Taken::Nothing;
        }
        let own = (matches!(self.source.over, Over::Own(_)) || open.held.is_some()) && !open.modern;
        match Message::decode(&event.data) {
            Ok(Message::Notification { method, .. }) => {
                self.mcp.outdated(&self.source.server, &method);
                match method.as_ref() {
                    "notifications/cancelled" if open.modern => Taken::End,
                    "notifications/subscriptions/acknowledged" if open.modern => Taken::Nothing,
                    _ => Taken::Message(event.data),
                }
            }
            Ok(Message::Request { .. } | Message::Response { .. }) if own => Taken::Message(event.data),
            Ok(Message::Request { id, method, .. }) => match &open.session {
                Some(session) => {
                    let reply = if method == "ping" {
                        jsonrpc::result(id, &serde_json::Map::new())
                    } else {
                        jsonrpc::error(Some(id), -32601, "nobody can be asked over this session", None)
                    };
                    Taken::Reply(reply, session.as_ref().clone())
                }
                None => Taken::Nothing,
            },
            // "It SHOULD send a successful response to signal a graceful end": it will be back.
            Ok(Message::Response { .. }) if open.modern => Taken::End,
            Ok(Message::Response { .. }) | Err(_) => Taken::Nothing,
        }
    }
}

impl<P: Platform> Open<P> {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            // A line is silent for most of the time, and keeps no room for what has been read.
            self.ready = VecDeque::new();
            let Some(chunk) = self.reader.chunk().await? else { return Ok(None) };
            let mut events = Vec::new();
            let too_large = |_| too_large(&self.reader.server, self.limit);
            self.decoder.push(&chunk, &mut events).map_err(too_large)?;
            self.ready = events.into();
        }
    }
}

impl<P: Platform> Mcp<P> {
    /// Subscribes to `uris` over `session` and gives those that the server has taken, in their order.
    pub(in crate::mcp) async fn subscribe_at(
        &self,
        server: &Arc<Server>,
        session: &UpstreamSession,
        uris: &[String],
    ) -> Result<Vec<String>, Unsubscribed> {
        let mut taken = Vec::new();
        let mut left = uris.iter().cloned().enumerate();
        let mut waiting = FuturesUnordered::new();
        loop {
            while waiting.len() < AT_A_TIME
                && let Some((index, uri)) = left.next()
            {
                waiting.push(subscribed(self.clone(), server.clone(), session.clone(), index, uri));
            }
            match waiting.next().await {
                Some(Ok(Some(index))) => taken.push(index),
                Some(Ok(None)) => {}
                Some(Err(why)) => return Err(why),
                None => break,
            }
        }
        taken.sort_unstable();
        Ok(taken.into_iter().filter_map(|index| uris.get(index).cloned()).collect())
    }
}

/// Owned arguments: a borrowing future in a `FuturesUnordered` would not be `Send` where it is spawned.
async fn subscribed<P: Platform>(
    mcp: Mcp<P>,
    server: Arc<Server>,
    session: UpstreamSession,
    index: usize,
    uri: String,
) -> Result<Option<usize>, Unsubscribed> {
    let uri = jsonrpc::quote(&uri);
    let params = format!("{{\"uri\":{}}}", String::from_utf8_lossy(&uri));
    match mcp.ask(&server, "resources/subscribe", &params, Some(&session)).await {
        Ok(_) => Ok(Some(index)),
        Err(Asked::Refused { status: StatusCode::NOT_FOUND, code, .. }) if code != -32601 => {
            Err(Unsubscribed::Lost)
        }
        Err(Asked::Refused { .. }) => Ok(None),
        Err(Asked::NotMcp(status, _)) if forgotten(status) => Err(Unsubscribed::Lost),
        Err(Asked::Fault(fault) | Asked::NotMcp(_, fault)) => Err(Unsubscribed::Failed(fault)),
    }
}

/// Why subscriptions could not be made.
pub enum Unsubscribed {
    /// The server does not know the session.
    Lost,
    /// It cannot be reached, or does not answer.
    Failed(Fault),
}

/// Reads the first message of a subscription: `None` if it is none, `Some(None)` if it is another than it must be.
fn acknowledged(event: &Event, wanted: &Wanted) -> Option<Option<Wanted>> {
    #[derive(serde::Deserialize)]
    struct Agreed<'a> {
        #[serde(borrow, default)]
        notifications: Option<&'a serde_json::value::RawValue>,
    }
    match Message::decode(&event.data) {
        Ok(Message::Notification { method, params })
            if method == "notifications/subscriptions/acknowledged" =>
        {
            let agreed = params.and_then(|raw| serde_json::from_str::<Agreed<'_>>(raw.get()).ok());
            Some(Some(wanted.within_filter(agreed.and_then(|agreed| agreed.notifications))))
        }
        Ok(Message::Response { outcome: Err(_), .. }) => None,
        _ if event.data.is_empty() => None,
        _ => Some(None),
    }
}

/// Whether an error says that a server will not take a subscription, now or ever.
fn is_no(code: i64) -> bool {
    matches!(code, -32602..=-32600 | -32021)
}

fn unacknowledged(server: &Server) -> Fault {
    let message =
        format!("server {:?}: the first message of its subscription is not the acknowledgement", server.name);
    Fault::new(Kind::UpstreamInvalid, message)
}

/// How long to wait after `breaks` in a row, with the pause that the server asked for. A random part keeps the gateways
/// of one server from coming back all at once.
fn pause(breaks: u32, asked: Option<Duration>, random: u8) -> Duration {
    let asked = asked.map(|asked| asked.clamp(ASKED_PAUSE.0, ASKED_PAUSE.1));
    match asked {
        Some(asked) if breaks == 0 => asked,
        asked => {
            let grown = FIRST_PAUSE.saturating_mul(1 << breaks.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
            let spread = grown.mul_f64(0.75 + f64::from(random) / 510.0);
            asked.map_or(spread, |asked| asked.max(spread))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::feed::{Topic, UPDATED};

    #[test]
    fn pauses_grow_within_bounds_and_heed_the_server() {
        let secs =
            |breaks, asked: Option<u64>| pause(breaks, asked.map(Duration::from_millis), 128).as_secs_f64();
        let near = |got: f64, expect: f64| assert!((got / expect - 1.0).abs() < 0.01, "{got} {expect}");
        near(secs(0, None), 0.5);
        near(secs(1, None), 0.5);
        near(secs(3, None), 2.0);
        near(secs(8, None), 60.0);
        near(secs(u32::MAX, None), 60.0);
        near(secs(0, Some(3000)), 3.0);
        near(secs(0, Some(0)), 0.25);
        near(secs(4, Some(0)), 4.0);
        near(secs(2, Some(5000)), 5.0);
        near(secs(0, Some(u64::MAX)), 300.0);
        assert!(pause(1, None, 0) < pause(1, None, 255));
    }

    #[test]
    fn the_first_message_is_the_acknowledgement_or_a_mistake() {
        let wanted = Wanted { lists: Topic::ALL.into(), ..Wanted::default() };
        let check = |data: &str, expect: &str| {
            let got = acknowledged(&Event::message(Bytes::from(data.to_owned())), &wanted);
            let got = match got {
                None => "go on".to_owned(),
                Some(None) => "mistake".to_owned(),
                Some(Some(agreed)) => agreed.filter(),
            };
            assert_eq!(got, expect, "{data}");
        };
        let ack = |params: &str| {
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"{params}}}"#)
        };
        check(
            &ack(r#","params":{"notifications":{"toolsListChanged":true}}"#),
            r#"{"toolsListChanged":true}"#,
        );
        check(&ack(""), "{}");
        check("", "go on");
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"m"}}"#, "go on");
        check(&format!(r#"{{"jsonrpc":"2.0","method":"{UPDATED}","params":{{"uri":"a:1"}}}}"#), "mistake");
        check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "mistake");
        check("garbage", "mistake");
    }
}
