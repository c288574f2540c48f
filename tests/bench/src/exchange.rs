//! What is measured as one call: a request and its answer, or all the requests that it takes until a server that asks
//! back has answered.

use std::net::SocketAddr;
use std::time::Instant;

use crate::Outcome;
use crate::lab::Place;
use crate::wire::{Connection, Request, Took, between};

/// One call of a client's.
#[derive(Debug, Clone)]
pub(crate) enum Exchange {
    /// A request and its answer.
    Plain(Request),
    /// A modern call that is asked something: the request is made again with the answer.
    Retried(Place, Request),
    /// A legacy call that is asked something in the session: the client answers on another connection.
    Answered(Place, String, Request),
}

impl From<Request> for Exchange {
    fn from(request: Request) -> Self {
        Self::Plain(request)
    }
}

/// The connections of one client.
#[derive(Debug)]
pub(crate) struct Client {
    calls: Connection,
    answers: Option<Connection>,
}

impl Exchange {
    /// Its first request.
    pub(crate) fn request(&self) -> &Request {
        match self {
            Self::Plain(request) | Self::Retried(_, request) | Self::Answered(_, _, request) => request,
        }
    }

    /// What a client needs for it.
    pub(crate) fn client(&self, address: SocketAddr) -> Outcome<Client> {
        let answers = matches!(self, Self::Answered(..)).then(|| Connection::open(address)).transpose()?;
        Ok(Client { calls: Connection::open(address)?, answers })
    }

    /// Does all of it, and checks every answer.
    pub(crate) fn run(&mut self, client: &mut Client) -> Outcome<Took> {
        let Client { calls, answers } = client;
        let began = Instant::now();
        match (self, answers) {
            (Self::Plain(request), _) => return calls.call(request),
            (Self::Retried(place, request), _) => {
                calls.call(request)?;
                let asked = String::from_utf8_lossy(calls.answer.body());
                let part = |before, after| between(&asked, before, after).ok_or("no question");
                let key = part("\"inputRequests\":{\"", "\"")?;
                let state = part("\"requestState\":\"", "\"")?;
                let mut again = place.retry(key, state);
                calls.call(&mut again)?;
            }
            (Self::Answered(place, session, request), Some(answers)) => {
                let id = calls.send(request)?;
                calls.read_past("\"elicitation/create\"")?;
                let asked = String::from_utf8_lossy(calls.answer.body());
                let own = question(&asked).ok_or_else(|| format!("no question: {asked}"))?;
                answers.call(&mut place.answer(session, own, id))?;
                calls.finish(request, id)?;
            }
            (Self::Answered(..), None) => return Err("a client without a connection for answers".to_owned()),
        }
        let all = began.elapsed();
        Ok(Took { first: all, all })
    }
}

/// The id of the last question on a stream, as JSON. It stands right before its method.
fn question(events: &str) -> Option<&str> {
    let event = events.rsplit("data: ").find(|event| event.contains("\"elicitation/create\""))?;
    between(event, "\"id\":", ",")
}
