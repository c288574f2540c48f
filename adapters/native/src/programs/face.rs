//! The face of a Streamable HTTP server: requests in, what a program says out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway::mcp::headers;
use causeway::mcp::resume::LAST_EVENT_ID;
use causeway::mcp::revision::{Era, Revision};
use causeway::mcp::upstream::error_of;
use causeway::platform::SeamError;
use causeway::wire::jsonrpc::{Invalid, Message, error, result};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::outlet::{Body, Inlet, Item, outlet};
use super::process::{Process, Ticket, Unsent};
use super::program::{Opened, Program, Shared};
use super::session::{Place, Session, level, rank};
use super::table::{Flight, Params, To, line, replaced};

/// How long a program may be silent before an answer is begun as a stream: whoever asked then knows that it is at it.
const HEAD: Duration = Duration::from_secs(5);

/// How often a request is offered to a process that turns out to be on its way out.
const TRIES: usize = 3;

type Answer = Result<Response<Body>, SeamError>;

/// What a client asks.
#[derive(Clone, Copy)]
struct Asked<'a> {
    text: &'a [u8],
    id: &'a RawValue,
    method: &'a str,
    params: Option<&'a RawValue>,
}

/// Answers a request to `program`.
pub(super) async fn answer(program: &Arc<Program>, request: Request<Bytes>) -> Answer {
    let (head, body) = request.into_parts();
    let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let id = text(headers::SESSION);
    let modern = text(headers::VERSION).and_then(Revision::parse).is_some_and(|v| v.era() == Era::Modern);
    let session = match id.map(|id| program.session(id)) {
        Some(None) => return Ok(refusal(StatusCode::NOT_FOUND, None, -32001, "Session not found")),
        Some(Some(session)) => Some(session),
        None => None,
    };
    match (head.method, session) {
        (Method::GET, Some(session)) => {
            if let Place::Shared(slot) = &session.place
                && let Shared::Refused(_) = program.shared(slot).await?
            {
                return Ok(refusal(StatusCode::NOT_FOUND, None, -32001, "Session not found"));
            }
            let body = match head.headers.get(LAST_EVENT_ID) {
                None => session.open(&program.voice),
                Some(last) => match last.to_str().ok().and_then(|last| session.resume(last)) {
                    Some(body) => body,
                    None => {
                        let why = "Bad Request: the stream of this event is not kept";
                        return Ok(refusal(StatusCode::BAD_REQUEST, None, -32000, why));
                    }
                },
            };
            Ok(events(body))
        }
        (Method::DELETE, Some(session)) => {
            program.close_session(&session.id);
            Ok(empty(StatusCode::OK))
        }
        (Method::POST, session) => post(program, session, modern, &body).await,
        _ => {
            let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            Ok(response)
        }
    }
}

async fn post(program: &Arc<Program>, session: Option<Arc<Session>>, modern: bool, body: &[u8]) -> Answer {
    let message = match Message::decode(body) {
        Ok(message) => message,
        Err(invalid) => {
            let code = if matches!(invalid, Invalid::Json(_)) { -32700 } else { -32600 };
            return Ok(refusal(StatusCode::BAD_REQUEST, None, code, &invalid.to_string()));
        }
    };
    match (message, session) {
        (Message::Request { id, method, params }, None) if method == "initialize" && !modern => {
            open(program, id, params).await
        }
        (Message::Request { id, method, params }, Some(session)) => {
            in_session(program, &session, Asked { text: body, id, method: &method, params }).await
        }
        (Message::Notification { method, params }, Some(session)) => {
            notification(&session, body, &method, params);
            Ok(empty(StatusCode::ACCEPTED))
        }
        (Message::Response { .. }, Some(session)) => {
            // Only a process of one session asks anything.
            if let Place::Own(process) = &session.place {
                process.send(line(body))?;
            }
            Ok(empty(StatusCode::ACCEPTED))
        }
        (Message::Request { id, method, params }, None) if modern => {
            stateless(program, Asked { text: body, id, method: &method, params }).await
        }
        (Message::Request { id, .. }, None) => {
            let why = "Bad Request: Mcp-Session-Id header is required";
            Ok(refusal(StatusCode::BAD_REQUEST, Some(id), -32000, why))
        }
        (Message::Notification { .. } | Message::Response { .. }, None) => Ok(empty(StatusCode::ACCEPTED)),
    }
}

/// `initialize`.
async fn open(program: &Arc<Program>, id: &RawValue, params: Option<&RawValue>) -> Answer {
    Ok(match program.open(id, params).await? {
        Opened::Session(session, answer) => {
            let mut response = json(StatusCode::OK, answer);
            if let Ok(id) = HeaderValue::from_str(&session.id) {
                response.headers_mut().insert(headers::SESSION, id);
            }
            response
        }
        Opened::Refused(answer) => json(StatusCode::OK, answer),
    })
}

/// A request of 2026-07-28.
async fn stateless(program: &Arc<Program>, asked: Asked<'_>) -> Answer {
    let Asked { text, id, method, params } = asked;
    if program.era().await? == Era::Legacy {
        // Asked with as much as a server may make of it, only the question what it is were harmless.
        return Ok(match method {
            "server/discover" => refusal(StatusCode::BAD_REQUEST, Some(id), -32601, "Method not found"),
            _ => refusal(
                StatusCode::BAD_REQUEST,
                Some(id),
                -32000,
                "Bad Request: Unsupported protocol version",
            ),
        });
    }
    let read = Params::of(params);
    let mut tries = 0;
    let (ticket, inlet) = loop {
        let process = program.modern(read.request_state).await?;
        let (to, inlet) = outlet(Some(program.voice.clone()));
        let flight = Flight {
            id: id.to_owned(),
            token: read.token().map(RawValue::to_owned),
            session: None,
            listens: method == "subscriptions/listen",
            wants_logs: read.meta.as_ref().is_some_and(|meta| meta.log_level.is_some()),
            cancellable: true,
            to: To::Client(to),
        };
        match sent(&process, flight, text, id, read.token()) {
            Ok(ticket) => break (ticket, inlet),
            // It was stopped at this very moment.
            Err(Unsent::Closing) if tries < TRIES => tries += 1,
            Err(unsent) => return Err(unsent.into()),
        }
    };
    let response = begun(ticket, inlet, None).await?;
    Ok(response.unwrap_or_else(|answer| {
        let code = error_of(&answer).map(|(code, _)| code);
        // Some errors have an HTTP status that clients go by (2026-07-28 Streamable HTTP).
        let status = match code {
            Some(-32601) => StatusCode::NOT_FOUND,
            Some(-32022..=-32020) => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        };
        json(status, answer)
    }))
}

/// A request in a session. A process that is stopped at this very moment gives way to another.
async fn in_session(program: &Arc<Program>, session: &Arc<Session>, asked: Asked<'_>) -> Answer {
    for _ in 0..TRIES {
        match try_in_session(program, session, asked).await? {
            Ok(response) => return Ok(response),
            Err(Unsent::Full) => return Err(Unsent::Full.into()),
            Err(Unsent::Closing) if matches!(session.place, Place::Own(_)) => break,
            Err(Unsent::Closing) => {}
        }
    }
    Ok(refusal(StatusCode::NOT_FOUND, Some(asked.id), -32001, "Session not found"))
}

async fn try_in_session(
    program: &Arc<Program>,
    session: &Arc<Session>,
    asked: Asked<'_>,
) -> Result<Result<Response<Body>, Unsent>, SeamError> {
    let Asked { text, id, method, params } = asked;
    let read = Params::of(params);
    let (process, changed) = match &session.place {
        Place::Own(process) => (process.clone(), None),
        Place::Shared(slot) => {
            if method == "initialize" {
                let why = "the session is open already";
                return Ok(Ok(refusal(StatusCode::OK, Some(id), -32600, why)));
            }
            let Shared::Ready(process, _) = program.shared(slot).await? else {
                return Ok(Ok(refusal(StatusCode::NOT_FOUND, Some(id), -32001, "Session not found")));
            };
            let done = || Ok(Ok(json(StatusCode::OK, result(id, &serde_json::Map::new()))));
            match (method, read.level.map(rank), read.uri) {
                // What one session wants must not be what another gets.
                ("logging/setLevel", Some(Some(wanted)), _) => {
                    session.set_level(wanted);
                    let least = program.least_level(slot);
                    if least == slot.level() {
                        return done();
                    }
                    slot.set_level(least);
                    let place = read.level.zip(least);
                    (process, place.map(|(place, least)| (place, level(least).into_bytes())))
                }
                ("resources/subscribe", _, Some(uri)) => {
                    let wanted = program.is_wanted(slot, uri.get());
                    session.subscribe(uri.get());
                    if wanted {
                        return done();
                    }
                    (process, None)
                }
                ("resources/unsubscribe", _, Some(uri)) => {
                    session.unsubscribe(uri.get());
                    if program.is_wanted(slot, uri.get()) {
                        return done();
                    }
                    (process, None)
                }
                _ => (process, None),
            }
        }
    };
    let changed = changed.map_or_else(|| Bytes::copy_from_slice(text), |change| replaced(text, [change]));
    let (to, inlet) = outlet(Some(program.voice.clone()));
    let flight = Flight {
        id: id.to_owned(),
        token: read.token().map(RawValue::to_owned),
        session: Some(session.clone()),
        listens: false,
        wants_logs: true,
        cancellable: method != "initialize",
        to: To::Client(to),
    };
    let ticket = match Message::decode(&changed) {
        Ok(Message::Request { id, params, .. }) => {
            let token = Params::of(params).token();
            sent(&process, flight, &changed, id, token)
        }
        _ => sent(&process, flight, text, id, read.token()),
    };
    let ticket = match ticket {
        Ok(ticket) => ticket,
        Err(unsent) => return Ok(Err(unsent)),
    };
    let response = begun(ticket, inlet, Some(session)).await?;
    Ok(Ok(response.unwrap_or_else(|answer| json(StatusCode::OK, answer))))
}

/// A notification in a session.
fn notification(session: &Arc<Session>, body: &[u8], method: &str, params: Option<&RawValue>) {
    let Some(process) = session.process() else { return };
    if method == "notifications/cancelled" {
        let read = Params::of(params);
        let Some(place) = read.request_id else { return };
        let cancelled = {
            let mut table = process.table();
            let number = table.number_of(session, place);
            number.and_then(|number| table.forget(number).map(|_| number))
        };
        // A request that has been answered, or was never made, is not worth telling of.
        if let Some(number) = cancelled {
            _ = process.send(line(&replaced(body, [(place, number.to_string().into_bytes())])));
        }
        return;
    }
    if matches!(session.place, Place::Own(_)) {
        // A process that has ended shows with the next request.
        _ = process.send(line(body));
    }
}

/// Sends a request under a number of its own.
fn sent(
    process: &Arc<Process>,
    flight: Flight,
    text: &[u8],
    id: &RawValue,
    token: Option<&RawValue>,
) -> Result<Ticket, Unsent> {
    process.begin(flight, |number| {
        let number = number.to_string().into_bytes();
        let token = token.map(|token| (token, number.clone()));
        line(&replaced(text, [(id, number.clone())].into_iter().chain(token)))
    })
}

/// Waits for the beginning of an answer: all of it, or a stream.
async fn begun(
    ticket: Ticket,
    mut inlet: Inlet,
    session: Option<&Arc<Session>>,
) -> Result<Result<Response<Body>, Bytes>, SeamError> {
    let stream = |first, inlet, ticket| match session {
        Some(session) => session.events(first, inlet, ticket),
        // Streams of 2026-07-28 cannot be taken up again.
        None => Body::events(first, inlet, Some(ticket)),
    };
    match timeout(HEAD, inlet.next()).await {
        Ok(Some(Item::Last(answer))) => Ok(Err(answer)),
        Ok(Some(Item::Failed(why))) => Err(why),
        Ok(Some(first)) => Ok(Ok(events(stream(Some(first), inlet, ticket)))),
        // Cancelled: there will be no answer.
        Ok(None) => Ok(Ok(empty(StatusCode::ACCEPTED))),
        Err(_) => Ok(Ok(events(stream(None, inlet, ticket)))),
    }
}

fn events(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refusal(status: StatusCode, id: Option<&RawValue>, code: i64, why: &str) -> Response<Body> {
    json(status, error(id, code, why, None))
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::new()));
    *response.status_mut() = status;
    response
}
