//! The streams of a link: opened by the edge, each with credit of its own in both directions.
//!
//! Invariant: no more of a body is sent than the other end has given credit for, and an end that does otherwise has
//! broken the protocol.

use bytes::Bytes;

use super::super::code::{Bye, ByeCode, Reset, ResetCode};
use super::super::frame::{Frame, Request, Response};
use super::{Effect, Link, MOST_KEPT, Out, PIECE, Phase, Side, StreamId, wrong};
use crate::platform::Timestamp;

/// One exchange on its way.
#[derive(Debug)]
pub(super) struct Stream {
    /// What we may still send.
    pub(super) credit: u32,
    /// What the other end may still send.
    pub(super) granted: u32,
    /// What has been read and not yet been granted anew.
    pub(super) read: u32,
    /// The answer's head has passed.
    pub(super) head: bool,
    /// Our body, and the other's, is complete.
    pub(super) sent_end: bool,
    pub(super) got_end: bool,
    /// There was no room when it was asked for.
    pub(super) starved: bool,
}

impl Link {
    /// How much may be sent on `stream` at once. If there is none, [`Effect::Room`] says when there is.
    pub fn room(&mut self, stream: StreamId) -> usize {
        let room = self.room_of(stream);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.starved = room == 0;
        }
        room
    }

    pub(super) fn room_of(&self, stream: StreamId) -> usize {
        let Some(stream) = self.streams.get(&stream) else { return 0 };
        if self.kept_bytes >= self.limits.retain || stream.sent_end {
            return 0;
        }
        usize::try_from(stream.credit.saturating_sub(PIECE).min(self.peer.frame)).unwrap_or(0)
    }

    /// Edge: opens a stream.
    ///
    /// # Errors
    /// When there is no connection, too much is open, or the head is too large.
    pub fn open(&mut self, now: Timestamp, request: Request, out: Out<'_>) -> Result<StreamId, Reset> {
        let not_connected =
            || Reset::new(ResetCode::NotConnected, format!("link {} is not connected", self.name));
        match self.phase {
            Phase::Up => {}
            Phase::Down if self.lost_at.is_some() && !self.is_too_late(now) => {}
            _ => return Err(not_connected()),
        }
        if !matches!(self.side, Side::Edge) {
            return Err(Reset::new(ResetCode::Failed, "only the edge opens streams"));
        }
        let name = self.name.clone();
        let busy = |what| Reset::new(ResetCode::Busy, format!("link {name}: {what}"));
        if self.streams.len() >= usize::try_from(self.peer.streams).unwrap_or(usize::MAX) {
            return Err(busy("the companion takes no more calls at once"));
        }
        if self.kept_bytes >= self.limits.retain || self.kept.len() >= MOST_KEPT / 2 {
            return Err(busy("too much waits for the companion"));
        }
        request.check()?;
        let Some(id) = self.last.checked_add(1) else {
            self.end(
                Bye::new(ByeCode::Shutdown, "the session has used up its numbers; dial again"),
                true,
                out,
            );
            return Err(busy("the session starts anew"));
        };
        self.last = id;
        if self.streams.is_empty() {
            self.quiet_since = self.quiet_since.max(now);
        }
        let id = StreamId(id);
        self.streams.insert(id, self.stream());
        self.send(&Frame::Open(id, request), out);
        Ok(id)
    }

    pub(super) fn head(&mut self, id: StreamId, response: Response, out: Out<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.head || matches!(self.side, Side::Edge) {
            return;
        }
        if let Err(reset) = response.check() {
            return self.fail(id, reset, out);
        }
        stream.head = true;
        self.send(&Frame::Head(id, response), out);
    }

    pub(super) fn data(&mut self, id: StreamId, bytes: Bytes, out: Out<'_>) {
        if bytes.is_empty() || !self.streams.contains_key(&id) {
            return;
        }
        let room = self.room_of(id);
        let edge = matches!(self.side, Side::Edge);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if bytes.len() > room || !edge && !stream.head {
            return self.fail(id, Reset::new(ResetCode::Failed, "a body was sent without room or head"), out);
        }
        stream.credit = stream.credit.saturating_sub(cost(bytes.len()));
        self.send(&Frame::Data(id, bytes), out);
    }

    pub(super) fn finish(&mut self, id: StreamId, out: Out<'_>) {
        let edge = matches!(self.side, Side::Edge);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sent_end {
            return;
        }
        if !edge && !stream.head {
            return self.fail(id, Reset::new(ResetCode::Failed, "an answer without a head"), out);
        }
        stream.sent_end = true;
        if !edge {
            self.streams.remove(&id);
        }
        self.send(&Frame::End(id), out);
    }

    pub(super) fn read(&mut self, id: StreamId, bytes: usize, out: Out<'_>) {
        let window = self.limits.window;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let unread = window.saturating_sub(stream.granted);
        stream.read = stream.read.saturating_add(cost(bytes)).min(unread);
        if stream.read >= window / 2 && !stream.got_end {
            let more = std::mem::take(&mut stream.read);
            stream.granted = stream.granted.saturating_add(more);
            self.send(&Frame::Credit(id, more), out);
        }
    }

    /// What the other end says on a stream.
    pub(super) fn streamed(&mut self, frame: Frame, edge: bool, out: Out<'_>) -> Result<(), Bye> {
        match frame {
            Frame::Open(id, request) => {
                if edge {
                    return Err(wrong("a companion that opens a stream"));
                }
                if id.0 <= self.last {
                    return Err(wrong(format!("stream {} is opened behind stream {}", id.0, self.last)));
                }
                self.last = id.0;
                if self.streams.len() >= usize::try_from(self.limits.streams).unwrap_or(usize::MAX) {
                    let words = format!("no more than {} calls at once", self.limits.streams);
                    self.send(&Frame::Reset(id, Reset::new(ResetCode::Busy, words)), out);
                    return Ok(());
                }
                self.streams.insert(id, self.stream());
                out.push(Effect::Open(id, request));
                Ok(())
            }
            Frame::Head(id, response) => {
                if !edge {
                    return Err(wrong("an answer from the edge"));
                }
                let Some(stream) = self.known(id)? else { return Ok(()) };
                if stream.head {
                    return Err(wrong(format!("a second head on stream {}", id.0)));
                }
                stream.head = true;
                out.push(Effect::Head(id, response));
                Ok(())
            }
            Frame::Data(id, bytes) => self.got(id, bytes, edge, out),
            Frame::End(id) => {
                let Some(stream) = self.known(id)? else { return Ok(()) };
                if stream.got_end || edge && !stream.head {
                    return Err(wrong(format!("an end on stream {} that cannot be one", id.0)));
                }
                stream.got_end = true;
                if edge {
                    self.streams.remove(&id);
                }
                out.push(Effect::End(id));
                Ok(())
            }
            Frame::Reset(id, reset) => {
                if self.known(id)?.is_some() {
                    self.streams.remove(&id);
                    out.push(Effect::Reset(id, reset));
                }
                Ok(())
            }
            Frame::Credit(id, more) => {
                let Some(stream) = self.known(id)? else { return Ok(()) };
                let credit = stream.credit.checked_add(more).filter(|sum| *sum <= i32::MAX.unsigned_abs());
                stream.credit = match credit {
                    Some(credit) if more > 0 => credit,
                    _ => return Err(wrong(format!("a credit of {more} on stream {}", id.0))),
                };
                self.wake(id, out);
                Ok(())
            }
            // Those of the link itself.
            Frame::Hello(_) | Frame::Welcome(_) | Frame::Bye(_) | Frame::Ack(_) | Frame::Verdicts(_) => {
                Ok(())
            }
        }
    }

    pub(super) fn got(&mut self, id: StreamId, bytes: Bytes, edge: bool, out: Out<'_>) -> Result<(), Bye> {
        let most = self.limits.frame;
        if bytes.is_empty() || bytes.len() > usize::try_from(most).unwrap_or(usize::MAX) {
            let words =
                format!("a piece of {} bytes on stream {}; 1 to {most} are allowed", bytes.len(), id.0);
            return Err(Bye::new(ByeCode::TooLarge, words));
        }
        let Some(stream) = self.known(id)? else { return Ok(()) };
        if stream.got_end || edge && !stream.head {
            return Err(wrong(format!("a body on stream {} where there is none", id.0)));
        }
        let Some(granted) = stream.granted.checked_sub(cost(bytes.len())) else {
            let words =
                format!("{} bytes on stream {}, which has credit for {}", bytes.len(), id.0, stream.granted);
            return Err(Bye::new(ByeCode::Overrun, words));
        };
        stream.granted = granted;
        out.push(Effect::Data(id, bytes));
        Ok(())
    }

    /// The stream `id`; none if it was open and is not any more, so that what is still on its way may be passed over.
    pub(super) fn known(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Bye> {
        if id.0 > self.last || id.0 == 0 {
            return Err(wrong(format!("stream {} has not been opened", id.0)));
        }
        Ok(self.streams.get_mut(&id))
    }

    pub(super) fn stream(&self) -> Stream {
        Stream {
            credit: self.peer.window,
            granted: self.limits.window,
            read: 0,
            head: false,
            sent_end: false,
            got_end: false,
            starved: false,
        }
    }

    pub(super) fn wake(&mut self, id: StreamId, out: Out<'_>) {
        if self.room_of(id) > 0
            && let Some(stream) = self.streams.get_mut(&id)
            && std::mem::take(&mut stream.starved)
        {
            out.push(Effect::Room(id));
        }
    }

    pub(super) fn wake_all(&mut self, out: Out<'_>) {
        let starved: Vec<_> =
            self.streams.iter().filter(|(_, stream)| stream.starved).map(|(id, _)| *id).collect();
        starved.into_iter().for_each(|id| self.wake(id, out));
    }

    /// Ends the stream at both ends: whoever owns this one is told too.
    pub(super) fn fail(&mut self, id: StreamId, reset: Reset, out: Out<'_>) {
        self.streams.remove(&id);
        self.send(&Frame::Reset(id, reset.clone()), out);
        out.push(Effect::Reset(id, reset));
    }
}

/// What a piece of a body takes of a stream's credit.
fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(PIECE)
}
