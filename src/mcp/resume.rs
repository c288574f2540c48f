//! The rest of a call's stream, when its connection has ended before the response came.
//!
//! A legacy server may close the connection under a call and let the client ask again later, and any connection may
//! break. If the server gave its events ids, a GET that names the last one brings what came after it (2025-11-25
//! transports, "Sending Messages to the Server" 6 and "Resumability and Redelivery"). The gateway asks by itself: its
//! own client may be of the modern era, which has no such thing, or of `/mcp`, where there is nothing to GET.
//!
//! A stream of the modern era is **never** resumed; there a lost stream is a lost call. Nothing waits longer than the
//! call itself may take.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::Mcp;
use super::memory::UpstreamSession;
use super::upstream::{Content, Outgoing, content, standard_headers};
use crate::fault::{Fault, Kind};
use crate::platform::{Clock as _, Platform, Timestamp};
use crate::relay::Reader;
use crate::wire::sse::Event;

/// The event after which a stream is to go on.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long to wait where the server has not said.
const RETRY: Duration = Duration::from_secs(1);
/// The least wait, for a server that says 0 and closes each time.
const LEAST: Duration = Duration::from_millis(100);
/// Waits grow to this while asking brings nothing, unless the server wants longer ones.
const MOST: Duration = Duration::from_secs(5);
/// Connections in a row that may bring nothing.
const IN_VAIN: u32 = 10;
/// A longer event id is not sent back: it would not fit into a request's head.
const LONGEST_ID: usize = 2048;

/// Where a stream has come to.
#[derive(Debug)]
pub struct Resume {
    session: UpstreamSession,
    last: Option<HeaderValue>,
    retry: Duration,
    in_vain: u32,
    /// When to ask next, once that is settled.
    at: Option<Timestamp>,
}

impl Resume {
    /// At the beginning of a stream that goes over `session`.
    #[must_use]
    pub fn new(session: UpstreamSession) -> Self {
        Self { session, last: None, retry: RETRY, in_vain: 0, at: None }
    }

    /// An event has come, and will not have to come again.
    pub fn saw(&mut self, event: &Event) {
        if let Some(retry) = event.retry {
            self.retry = Duration::from_millis(retry);
        }
        if let Some(id) = &event.id {
            // An empty id takes back the ones before it (WHATWG HTML 9.2.6).
            let usable = !id.is_empty() && id.len() <= LONGEST_ID;
            self.last = usable.then(|| HeaderValue::from_bytes(id.as_bytes()).ok()).flatten();
        }
        if event.id.is_some() || !event.data.is_empty() {
            self.in_vain = 0;
        }
    }

    fn pause(&self) -> Duration {
        let growing = LEAST.saturating_mul(1 << self.in_vain.min(6)).min(MOST);
        self.retry.max(growing)
    }
}

/// What came of asking once.
enum Asked<P: Platform> {
    Rest(Reader<P>),
    Later,
    Never,
}

impl<P: Platform> Mcp<P> {
    /// Goes on reading a stream that ended because of `why`: when this returns, `reader` gives what comes after the
    /// last whole event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `why`, where the rest cannot be had.
    pub async fn resume(&self, reader: &mut Reader<P>, resume: &mut Resume, why: Fault) -> Result<(), Fault> {
        let Some(last) = resume.last.clone().filter(|_| is_end(&why)) else { return Err(why) };
        let clock = self.platform.clock();
        while resume.in_vain < IN_VAIN {
            let pause = resume.pause();
            let at = *resume.at.get_or_insert_with(|| clock.now().after(pause));
            let wait = at.since(clock.now());
            if reader.left() <= wait {
                return Err(reader.out_of_time());
            }
            if !wait.is_zero() {
                clock.sleep(wait).await;
            }
            let asked = self.ask_for_rest(reader, resume, last.clone()).await;
            resume.at = None;
            resume.in_vain += 1;
            match asked {
                Asked::Rest(rest) => {
                    reader.go_on(rest);
                    return Ok(());
                }
                Asked::Later => {}
                Asked::Never => break,
            }
        }
        Err(why)
    }

    async fn ask_for_rest(&self, reader: &Reader<P>, resume: &Resume, last: HeaderValue) -> Asked<P> {
        let session = &resume.session;
        let mut headers = standard_headers(session.revision, session.id.as_deref(), "", None);
        headers.insert(LAST_EVENT_ID, last);
        let outgoing = Outgoing { http: Method::GET, to: None, body: Bytes::new(), headers };
        let asked = pin!(self.exchange(&reader.server, outgoing));
        let end = pin!(self.platform.clock().sleep(reader.left()));
        let answered = match select(asked, end).await {
            Either::Left((Ok(answered), _)) => answered,
            Either::Left((Err(_), _)) | Either::Right(((), _)) => return Asked::Later,
        };
        match (answered.status, content(&answered.headers)) {
            (StatusCode::OK, Content::Events) => Asked::Rest(answered.reader),
            // 409: the server still holds the connection that we have lost for a live one.
            (StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS, _) => Asked::Later,
            (status, _) if status.is_server_error() => Asked::Later,
            _ => Asked::Never,
        }
    }
}

/// Whether a stream has come to an end that may not be its last, rather than to a limit of ours.
fn is_end(why: &Fault) -> bool {
    matches!(why.kind, Kind::UpstreamCut | Kind::UpstreamInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::revision::Revision;

    fn seen(events: &[Event]) -> Resume {
        let mut resume = Resume::new(UpstreamSession {
            id: None,
            revision: Revision::LEGACY,
            endpoint: None,
            kept: false,
        });
        events.iter().for_each(|event| resume.saw(event));
        resume
    }

    fn id(id: &str) -> Event {
        Event { id: Some(id.to_owned()), ..Event::default() }
    }

    #[test]
    fn the_last_id_counts_until_it_is_taken_back() {
        let last = |events: &[Event]| seen(events).last.map(|id| id.to_str().unwrap().to_owned());
        assert_eq!(last(&[]), None);
        assert_eq!(last(&[id("1"), id("2")]).as_deref(), Some("2"));
        assert_eq!(last(&[id("1"), Event::message("{}".into())]).as_deref(), Some("1"));
        assert_eq!(last(&[id("1"), id("")]), None);
        assert_eq!(last(&[id("1"), id(&"x".repeat(4096))]), None);
    }

    #[test]
    fn waits_are_what_the_server_says_and_grow_while_nothing_comes() {
        let pause = |retry: Option<u64>, in_vain: u32| {
            let mut resume = seen(&[Event { retry, ..Event::default() }]);
            resume.in_vain = in_vain;
            resume.pause().as_millis()
        };
        assert_eq!(pause(None, 0), 1000);
        assert_eq!(pause(Some(500), 0), 500);
        assert_eq!(pause(Some(0), 0), 100);
        assert_eq!(pause(Some(0), 3), 800);
        assert_eq!(pause(Some(0), 9), 5000);
        assert_eq!(pause(Some(20_000), 9), 20_000);
        assert_eq!(pause(Some(u64::MAX), 9), u128::from(u64::MAX));
    }
}
