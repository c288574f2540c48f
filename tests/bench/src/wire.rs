//! A client that costs as little as possible: HTTP/1.1 over one kept connection, a request that is written as it was
//! prepared, an answer that is read no further than needed to know that it is right.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Outcome;

/// Stands in a prepared request for the id of the call; as long as an id.
pub(crate) const ID: &str = "#_id_of_";
/// Ids have eight digits, so that a request's length never changes.
static NEXT: AtomicU64 = AtomicU64::new(10_000_000);
/// Nobody waits longer for anything here.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that was not used for so long is not used again: servers close idle ones, workerd after five seconds.
const LONGEST_IDLE: Duration = Duration::from_secs(2);

/// What the right answer to a request has in it.
#[derive(Debug, Clone)]
pub(crate) struct Expect {
    /// Texts that stand near one of its ends; [`ID`] is the id of the call.
    pub(crate) texts: Vec<String>,
    /// It has at least so many bytes.
    pub(crate) least: usize,
}

/// A request, ready to be sent again and again with a new id.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    ids: Vec<usize>,
    expect: Vec<Vec<u8>>,
    least: usize,
    status: u16,
}

impl Request {
    /// A POST of `body` with `headers`.
    pub(crate) fn post(
        address: SocketAddr,
        path: &str,
        headers: &[(String, String)],
        body: &str,
        expect: &Expect,
    ) -> Self {
        Self::new(&format!("POST {path}"), address, headers, body, expect)
    }

    /// A request with `line`, the method and the path; `body` may be empty.
    pub(crate) fn new(
        line: &str,
        address: SocketAddr,
        headers: &[(String, String)],
        body: &str,
        expect: &Expect,
    ) -> Self {
        let mut text = format!("{line} HTTP/1.1\r\nhost: {address}\r\n");
        text.push_str("accept: application/json, text/event-stream\r\n");
        if !body.is_empty() {
            let length = body.len();
            text.push_str(&format!("content-type: application/json\r\ncontent-length: {length}\r\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        let ids = text.match_indices(ID).map(|(at, _)| at).collect();
        let expect_texts = expect.texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        Self { bytes: text.into_bytes(), ids, expect: expect_texts, least: expect.least, status: 200 }
    }

    /// The same, and the answer has this HTTP status.
    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Puts a new id in; gives its digits.
    fn renew(&mut self) -> [u8; 8] {
        let mut digits = [b'0'; 8];
        let mut rest = NEXT.fetch_add(1, Ordering::Relaxed);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        for at in &self.ids {
            self.bytes[*at..*at + digits.len()].copy_from_slice(&digits);
        }
        digits
    }

    /// Complains unless `answer` is the right one.
    fn check(&self, answer: &Answer, id: [u8; 8]) -> Outcome<()> {
        let body = answer.body();
        let wrong = |why: &str| {
            let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            Err(format!("wrong answer ({why}): HTTP {}: {shown}", answer.status))
        };
        if answer.status != self.status {
            return wrong("status");
        }
        if body.len() < self.least {
            return wrong("too short");
        }
        // The ids and the result stand near an end, however long the rest is.
        const NEAR: usize = 600;
        let ends = [&body[..body.len().min(NEAR)], &body[body.len().saturating_sub(NEAR)..]];
        let mut wanted = Vec::with_capacity(64);
        for text in &self.expect {
            wanted.clear();
            wanted.extend_from_slice(text);
            while let Some(at) = find(&wanted, ID.as_bytes()) {
                wanted[at..at + id.len()].copy_from_slice(&id);
            }
            if !ends.iter().any(|end| find(end, &wanted).is_some()) {
                return wrong(&format!("no {}", String::from_utf8_lossy(&wanted)));
            }
        }
        Ok(())
    }
}

/// What stands in `text` between `before` and `after`.
pub(crate) fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|byte| *byte == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// How the length of a body is told.
#[derive(Debug, Clone, Copy)]
enum Length {
    Known(usize),
    Chunked,
}

/// One answer being read.
#[derive(Debug)]
pub(crate) struct Answer {
    buffer: Vec<u8>,
    filled: usize,
    head: Option<(usize, Length)>,
    /// Where the next chunk begins.
    at: usize,
    chunks: Vec<u8>,
    /// The HTTP status.
    pub(crate) status: u16,
}

impl Default for Answer {
    fn default() -> Self {
        Self { buffer: vec![0; 32 * 1024], filled: 0, head: None, at: 0, chunks: Vec::new(), status: 0 }
    }
}

impl Answer {
    fn reset(&mut self) {
        (self.filled, self.head, self.at, self.status) = (0, None, 0, 0);
        self.chunks.clear();
    }

    fn room(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// Takes `count` more bytes into account; says whether that was all.
    fn more(&mut self, count: usize) -> Outcome<bool> {
        if count == 0 {
            let when = if self.filled == 0 { "before its answer" } else { "in mid-answer" };
            return Err(format!("the connection was closed {when}"));
        }
        self.filled += count;
        let (start, length) = match self.head {
            Some(head) => head,
            None => {
                let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") else { return Ok(false) };
                let head = (end + 4, self.read_head(end)?);
                self.head = Some(head);
                self.at = head.0;
                head
            }
        };
        match length {
            Length::Known(length) if self.filled > start + length => {
                Err("more bytes than announced".to_owned())
            }
            Length::Known(length) => Ok(self.filled == start + length),
            Length::Chunked => self.read_chunks(),
        }
    }

    fn read_head(&mut self, end: usize) -> Outcome<Length> {
        let head = std::str::from_utf8(&self.buffer[..end]).map_err(|_| "a head that is no text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        self.status = status.and_then(|status| status.parse().ok()).ok_or("no HTTP status")?;
        let mut length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                let bytes = value.trim().parse().map_err(|_| "a content-length that is none")?;
                length = Some(Length::Known(bytes));
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                length = Some(Length::Chunked);
            }
        }
        // RFC 9110, "204 No Content": it ends with its head.
        length = length.or((self.status == 204).then_some(Length::Known(0)));
        length.ok_or_else(|| "an answer without a length".to_owned())
    }

    fn read_chunks(&mut self) -> Outcome<bool> {
        loop {
            let rest = &self.buffer[self.at..self.filled];
            let Some(line) = find(rest, b"\r\n") else { return Ok(false) };
            let size = std::str::from_utf8(&rest[..line]).ok();
            let size = size.and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or("a broken chunk")?;
            if rest.len() < line + 2 + size + 2 {
                return Ok(false);
            }
            self.chunks.extend_from_slice(&rest[line + 2..line + 2 + size]);
            self.at += line + 2 + size + 2;
            if size == 0 {
                return Ok(true);
            }
        }
    }

    /// The body, as far as it has come.
    pub(crate) fn body(&self) -> &[u8] {
        match self.head {
            Some((start, Length::Known(_))) => &self.buffer[start..self.filled],
            Some((_, Length::Chunked)) => &self.chunks,
            None => &[],
        }
    }

    /// The header `name`.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let head = std::str::from_utf8(&self.buffer[..self.head?.0]).ok()?;
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }
}

/// A connection for one call at a time, which blocks: nothing wakes sooner than a thread that reads.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    /// The last answer.
    pub(crate) answer: Answer,
}

/// How long one call took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// To the first whole event, for an event stream.
    pub(crate) first: Duration,
    /// To the end.
    pub(crate) all: Duration,
}

impl Connection {
    /// Connects to `address`.
    pub(crate) fn open(address: SocketAddr) -> Outcome<Self> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Self { socket, answer: Answer::default() })
    }

    /// Sends `request` with a new id and reads and checks the answer.
    pub(crate) fn call(&mut self, request: &mut Request) -> Outcome<Took> {
        let began = Instant::now();
        let id = self.send(request)?;
        let mut first = None;
        loop {
            let whole = self.read()?;
            if first.is_none() && matches!(self.answer.head, Some((_, Length::Chunked))) {
                first = find(self.answer.body(), b"\n\n").map(|_| began.elapsed());
            }
            if whole {
                break;
            }
        }
        let all = began.elapsed();
        request.check(&self.answer, id)?;
        Ok(Took { first: first.unwrap_or(all), all })
    }

    /// Sends `request` with a new id, and gives that.
    pub(crate) fn send(&mut self, request: &mut Request) -> Outcome<[u8; 8]> {
        let id = request.renew();
        self.answer.reset();
        self.socket.write_all(&request.bytes).map_err(|error| error.to_string())?;
        Ok(id)
    }

    /// Reads the head of a stream, and checks that it is one.
    pub(crate) fn head(&mut self) -> Outcome<()> {
        while self.answer.head.is_none() {
            self.read()?;
        }
        match (self.answer.status, self.answer.header("content-type").as_deref()) {
            (200, Some("text/event-stream")) => Ok(()),
            (status, kind) => Err(format!("no stream: HTTP {status}, {kind:?}")),
        }
    }

    /// Reads a stream until an event with `text` in it has come whole.
    pub(crate) fn read_past(&mut self, text: &str) -> Outcome<()> {
        loop {
            let at = find(self.answer.body(), text.as_bytes());
            if at.is_some_and(|at| find(&self.answer.body()[at..], b"\n\n").is_some()) {
                return Ok(());
            }
            if self.read()? {
                let body = String::from_utf8_lossy(self.answer.body()).into_owned();
                return Err(format!("an answer without {text}: HTTP {}: {body}", self.answer.status));
            }
        }
    }

    /// Reads the answer to `request`, which was sent with this id, to its end, and checks it.
    pub(crate) fn finish(&mut self, request: &Request, id: [u8; 8]) -> Outcome<()> {
        while !self.read()? {}
        request.check(&self.answer, id)
    }

    /// Reads once; says whether the answer is whole.
    fn read(&mut self) -> Outcome<bool> {
        let count = self.socket.read(self.answer.room()).map_err(|error| error.to_string())?;
        self.answer.more(count)
    }
}

/// Many connections, one call at a time on each, all driven by one thread.
#[derive(Debug)]
pub(crate) struct Crowd {
    runtime: tokio::runtime::Runtime,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    socket: tokio::net::TcpStream,
    request: Request,
    answer: Answer,
    took: Vec<Duration>,
    used: Instant,
}

impl Crowd {
    /// `count` connections to `address`, each to send `request`.
    pub(crate) fn open(address: SocketAddr, request: &Request, count: usize) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(runtime.block_on(Client::open(address, request.clone()))?);
        }
        Ok(Self { runtime, clients })
    }

    /// Calls for as long as `span`; gives how long each call took, and all of them together.
    pub(crate) fn run(&mut self, span: Duration) -> Outcome<(Vec<Duration>, Duration)> {
        self.until(move |began, _| began.elapsed() >= span)
    }

    /// Calls `count` times.
    pub(crate) fn calls(&mut self, count: usize) -> Outcome<(Vec<Duration>, Duration)> {
        let each = count.div_ceil(self.clients.len());
        self.until(move |_, made| made >= each)
    }

    fn until(
        &mut self,
        done: impl Fn(Instant, usize) -> bool + Copy + Send + 'static,
    ) -> Outcome<(Vec<Duration>, Duration)> {
        let clients = std::mem::take(&mut self.clients);
        let began = Instant::now();
        let ran: Outcome<Vec<Client>> = self.runtime.block_on(async {
            let started: Vec<_> = clients
                .into_iter()
                .map(|mut client| {
                    tokio::spawn(async move {
                        client.took.clear();
                        while !done(began, client.took.len()) {
                            client.call().await?;
                        }
                        Ok::<_, String>(client)
                    })
                })
                .collect();
            let mut ended = Vec::with_capacity(started.len());
            for task in started {
                ended.push(task.await.map_err(|error| error.to_string())??);
            }
            Ok(ended)
        });
        let all = began.elapsed();
        self.clients = ran?;
        Ok((self.clients.iter().flat_map(|client| client.took.iter().copied()).collect(), all))
    }
}

/// Calls that begin at a steady rate, whether or not those before them have been answered; `ways` take turns. Gives, for
/// each way, the number of the call and how long it took.
pub(crate) fn steadily(
    ways: &[(SocketAddr, Request)],
    each: Duration,
    count: u32,
) -> Outcome<Vec<Vec<(u32, Duration)>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    runtime.block_on(async move {
        let mut idle: Vec<Vec<Client>> = ways.iter().map(|_| Vec::new()).collect();
        let mut took: Vec<Vec<(u32, Duration)>> = idle.iter().map(|_| Vec::new()).collect();
        let apart = each / u32::try_from(ways.len()).unwrap_or(1);
        let mut at = tokio::time::Instant::now();
        let mut back = |idle: &mut Vec<Vec<Client>>, came: (usize, u32, Outcome<Client>)| {
            let (way, number, client) = came;
            let mut client = client?;
            took[way].extend(client.took.pop().map(|span| (number, span)));
            idle[way].push(client);
            Ok::<_, String>(())
        };
        let mut running = 0_u32;
        for number in 0..count {
            for (way, (address, request)) in ways.iter().enumerate() {
                at += apart;
                tokio::time::sleep_until(at).await;
                while let Ok(came) = receiver.try_recv() {
                    back(&mut idle, came)?;
                    running -= 1;
                }
                idle[way].retain(|client| client.used.elapsed() < LONGEST_IDLE);
                let client = idle[way].pop();
                let (address, request, sender) = (*address, request.clone(), sender.clone());
                running += 1;
                tokio::spawn(async move {
                    let called = async {
                        let mut client = match client {
                            Some(client) => client,
                            None => Client::open(address, request).await?,
                        };
                        client.call().await?;
                        Ok(client)
                    };
                    let _ = sender.send((way, number, called.await));
                });
            }
        }
        while running > 0 {
            let came = receiver.recv().await.ok_or("nothing comes any more")?;
            back(&mut idle, came)?;
            running -= 1;
        }
        Ok(took)
    })
}

impl Client {
    async fn open(address: SocketAddr, request: Request) -> Outcome<Self> {
        let socket =
            tokio::net::TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { socket, request, answer: Answer::default(), took: Vec::new(), used: Instant::now() })
    }

    async fn call(&mut self) -> Outcome<()> {
        let id = self.request.renew();
        let began = Instant::now();
        self.answer.reset();
        self.socket.write_all(&self.request.bytes).await.map_err(|error| error.to_string())?;
        loop {
            let count = self.socket.read(self.answer.room()).await.map_err(|error| error.to_string())?;
            if self.answer.more(count)? {
                break;
            }
        }
        self.took.push(began.elapsed());
        self.used = Instant::now();
        self.request.check(&self.answer, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer is the same for every split of its bytes.
    fn check(text: &str, expect: Result<&str, &str>) {
        for split in 1..text.len() {
            let mut answer = Answer::default();
            let mut outcome = Ok(false);
            for part in [&text[..split], &text[split..]] {
                answer.room()[..part.len()].copy_from_slice(part.as_bytes());
                outcome = answer.more(part.len());
                if outcome.is_err() {
                    break;
                }
            }
            let body = std::str::from_utf8(answer.body()).unwrap();
            match expect {
                Ok(expect) => assert_eq!((outcome, body), (Ok(true), expect), "split at {split}"),
                Err(why) => assert_eq!(outcome, Err(why.to_owned()), "split at {split}"),
            }
        }
    }

    #[test]
    fn answers_are_read_in_any_pieces() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", Ok("ab"));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
            Ok("abc"),
        );
        check("HTTP/1.1 200 OK\r\n\r\n", Err("an answer without a length"));
    }

    #[test]
    fn an_answer_of_another_call_is_wrong() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let expect = Expect { texts: vec![format!("\"id\":{ID}")], least: 0 };
        let mut request = Request::post(address, "/mcp", &[], &format!("{{\"id\":{ID}}}"), &expect);
        let id = request.renew();
        let body = format!("{{\"id\":{}}}", std::str::from_utf8(&id).unwrap());
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut answer = Answer::default();
        answer.room()[..text.len()].copy_from_slice(text.as_bytes());
        assert_eq!(answer.more(text.len()), Ok(true));
        assert_eq!(request.check(&answer, id), Ok(()));
        let other = request.renew();
        assert!(request.check(&answer, other).is_err());
    }
}
