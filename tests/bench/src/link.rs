//! The rows about servers behind a link: what it adds to a call, what it holds.
//!
//! A companion dials the native gateway over the loopback interface and forwards to the stub: four processes in a row
//! where the direct call has two.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use causeway::platform::Timestamp;
use causeway::tunnel::hello::{CompanionId, Offer};
use causeway::tunnel::{Effect, Input, Limits, Link};
use serde_json::{Map, Value, json};

use crate::lab::{Host, KEY, Lab, Place, settle, start};
use crate::process::Process;
use crate::report::{Budget, Line, Row};
use crate::rows::{ECHO, Way, added, crowd, echoed, mib, of, one};
use crate::wire::Connection;
use crate::{Arguments, Outcome};

/// What a call through a link may add.
const ADDED: f64 = 1.0;
/// So many links at once.
const MANY: usize = 200;
/// What a companion with ten servers may hold.
const COMPANION: f64 = 20.0;

/// A gateway with a companion, and where to call.
struct Linked {
    name: &'static str,
    gateway: Process,
    companion: Process,
}

impl Linked {
    fn open(lab: &Lab, arguments: &Arguments, transport: &'static str, servers: usize) -> Outcome<Self> {
        let names: Vec<String> = (0..servers)
            .map(|number| if number == 0 { "stub".to_owned() } else { format!("stub{number}") })
            .collect();
        let url = format!("http://{}/mcp", lab.stub.address);
        let entries =
            |entry: Value| names.iter().map(|name| (name.clone(), entry.clone())).collect::<Map<_, _>>();
        let host = Host::Native(arguments.gateway.clone());
        let config =
            lab.config_of(&format!("link-{transport}"), entries(json!({"via": "bench"})), json!({}))?;
        let gateway = start(&host, &config)?;
        let file = config.with_extension("companion.json");
        let offered = json!({ "mcpServers": entries(json!({ "url": url })) });
        std::fs::write(&file, offered.to_string()).map_err(|error| error.to_string())?;
        let companion = companion(&arguments.gateway, &gateway, transport, &file)?;
        let linked = Self { name: transport, gateway, companion };
        linked.connected()?;
        Ok(linked)
    }

    fn place(&self) -> Place {
        Place::gateway(&self.gateway)
    }

    /// Waits until a call comes back.
    fn connected(&self) -> Outcome<()> {
        let began = Instant::now();
        loop {
            let mut request = self.place().modern_call("echo", ECHO, &echoed());
            match Connection::open(self.gateway.address)?.call(&mut request) {
                Ok(_) => return Ok(()),
                Err(why) if began.elapsed() > Duration::from_secs(20) => {
                    return Err(format!("the companion serves nothing: {why}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn companion(binary: &Path, gateway: &Process, transport: &str, file: &Path) -> Outcome<Process> {
    let mut command = Command::new(binary);
    command.args([
        "connect",
        &format!("http://{}", gateway.address),
        "--name",
        "bench",
        "--transport",
        transport,
    ]);
    command.arg("--config").arg(file).env("CAUSEWAY_KEY", KEY);
    Process::spawn(command, gateway.address)
}

/// The direct call, the gateway without a link, and with one by each transport.
fn ways<'a>(lab: &'a Lab, linked: &'a [Linked]) -> Vec<Way<'a>> {
    let request = |place: Place| place.modern_call("echo", ECHO, &echoed());
    let direct = Place::plain(lab.stub.address);
    let mut ways = vec![Way::new("direct", direct.address, request(direct), None)];
    if let Some(gateway) = lab.gateways.first() {
        let place = Place::gateway(&gateway.process);
        ways.push(Way::new("no link", place.address, request(place), Some(&gateway.process)));
    }
    ways.extend(linked.iter().map(|linked| {
        let place = linked.place();
        Way::new(linked.name, place.address, request(place), Some(&linked.gateway))
    }));
    ways
}

fn both(lab: &Lab, arguments: &Arguments) -> Outcome<[Linked; 2]> {
    Ok([Linked::open(lab, arguments, "websocket", 1)?, Linked::open(lab, arguments, "http", 1)?])
}

/// One client.
pub(crate) fn call(lab: &Lab, arguments: &Arguments, rounds: usize) -> Outcome<Row> {
    let linked = both(lab, arguments)?;
    let lines = one(ways(lab, &linked), rounds, 100, |took| took.all)?;
    let budgets = added(&lines, "websocket", ADDED).into_iter().collect();
    let what =
        "tools/call through a link, small answer, 1 client, 2026-07-28 (CPU: the gateway's alone)".to_owned();
    Ok(Row { name: "link", what, lines, budgets, ..Row::default() })
}

/// 64 clients.
pub(crate) fn many(lab: &Lab, arguments: &Arguments, rounds: usize) -> Outcome<Row> {
    let linked = both(lab, arguments)?;
    let lines: Vec<Line> = crowd(ways(lab, &linked), rounds)?;
    let rate = of(&lines, "websocket").map_or(0.0, |line| line.rate);
    let facts = vec![("websocket: calls in a second through one link".to_owned(), rate, "/s")];
    let what = "tools/call through one link, small answer, 64 clients, 2026-07-28".to_owned();
    Ok(Row { name: "link-many", what, lines, facts, ..Row::default() })
}

/// What links and companions hold.
#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
pub(crate) fn memory(lab: &Lab, arguments: &Arguments) -> Outcome<Row> {
    let what = format!("a companion with ten servers, and each of {MANY} idle links at the native gateway");
    let mut row = Row { name: "link-memory", what, ..Row::default() };
    let linked = Linked::open(lab, arguments, "websocket", 10)?;
    settle();
    let held = mib(linked.companion.memory());
    row.facts.push(("companion with ten servers".to_owned(), held, "MiB"));
    row.budgets.push(Budget::most("companion with ten servers", held, COMPANION, "MiB"));

    let servers = (0..=MANY).map(|n| (format!("s{n}"), json!({ "via": format!("link{n}") })));
    let config = lab.config_of("links", servers.collect(), json!({}))?;
    let gateway = start(&Host::Native(arguments.gateway.clone()), &config)?;
    // What is needed once.
    let _first = idle(&gateway, MANY)?;
    settle();
    let before = gateway.memory();
    let links = (0..MANY).map(|number| idle(&gateway, number)).collect::<Outcome<Vec<_>>>()?;
    settle();
    let each = gateway.memory().saturating_sub(before) as f64 / links.len() as f64;
    row.facts.push(("idle link, websocket".to_owned(), each, "bytes"));
    Ok(row)
}

/// A link of this program's own, which does nothing.
fn idle(gateway: &Process, number: usize) -> Outcome<TcpStream> {
    let text = |error: std::io::Error| error.to_string();
    let name = format!("link{number}");
    let mut stream = TcpStream::connect(gateway.address).map_err(text)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(text)?;
    let head = format!(
        "GET /tunnel?name={name} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        gateway.address
    );
    stream.write_all(head.as_bytes()).map_err(text)?;
    until(&mut stream, |read| read.starts_with(b"HTTP/1.1 101") && read.ends_with(b"\r\n\r\n"))?;
    let companion = Link::companion(Limits::default(), &name, vec![Offer::server(format!("s{number}"))]);
    let mut companion = companion.known_as(CompanionId([7; 16]));
    let mut out = Vec::new();
    companion.on(Timestamp(1), Input::Dialled, &mut out);
    let Some(Effect::Send { message, .. }) = out.pop() else { return Err("no hello".to_owned()) };
    // A binary frame of a client, masked with zeros (RFC 6455 section 5.2).
    let length = u16::try_from(message.len()).map_err(|error| error.to_string())?;
    let frame = [&[0x82, 0x80 | 126][..], &length.to_be_bytes(), &[0; 4], &message].concat();
    stream.write_all(&frame).map_err(text)?;
    until(&mut stream, |read| read.ends_with(b"}"))?;
    Ok(stream)
}

fn until(stream: &mut TcpStream, done: impl Fn(&[u8]) -> bool) -> Outcome<()> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    while !done(&read) {
        let length = stream.read(&mut buffer).map_err(|error| error.to_string())?;
        if length == 0 || read.len() > 64 * 1024 {
            return Err(format!("not a link: {}", String::from_utf8_lossy(&read)));
        }
        read.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
    Ok(())
}
