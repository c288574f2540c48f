//! The rows of the report.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use causeway_fixture::{Fixture, Options};

use crate::exchange::{Client, Exchange};
use crate::lab::{Host, Lab, Place, answer_id, command, fixture, settle, start};
use crate::process::Process;
use crate::report::{Budget, Line, Row, median, ms, quantile};
use crate::wire::{Connection, Crowd, Expect, ID, Request, Took};
use crate::{Arguments, Outcome, bridge, chat, link, sessions};

/// Every row, in the order of the report.
pub(crate) const ALL: [&str; 21] = [
    "call",
    "legacy",
    "many",
    "large",
    "list",
    "stream",
    "chat",
    "token",
    "tokens",
    "chat-load",
    "bridge",
    "bridge-legacy",
    "round",
    "round-legacy",
    "memory",
    "sessions",
    "link",
    "link-many",
    "link-memory",
    "start",
    "wasm",
];
/// The last row; it stands apart because it measures nothing.
pub(crate) const ASKS: &str = "asks";

pub(crate) const ECHO: &str = "{\"text\":\"ping #_id_of_\"}";
const CLIENTS: usize = 64;
const SLICE: Duration = Duration::from_millis(250);

/// Runs the row called `name`.
pub(crate) fn run(name: &str, lab: &Lab, arguments: &Arguments) -> Outcome<Row> {
    let rounds = |full: usize| if arguments.quick { full / 4 } else { full };
    match name {
        "call" => call(lab, rounds(80)),
        "legacy" => legacy(lab, rounds(80)),
        "many" => many(lab, rounds(24)),
        "large" => large(lab, rounds(40)),
        "list" => list(lab, arguments, rounds(40)),
        "stream" => stream(lab, rounds(40)),
        "chat" => chat::whole(lab, rounds(80)),
        "token" => chat::first(lab, rounds(40)),
        "tokens" => chat::tokens(lab, rounds(24)),
        "chat-load" => chat::load(lab, arguments),
        "bridge" => bridge::modern(lab, arguments, rounds(80)),
        "bridge-legacy" => bridge::legacy(lab, arguments, rounds(80)),
        "round" => bridge::modern_round(lab, arguments, rounds(40)),
        "round-legacy" => bridge::legacy_round(lab, arguments, rounds(40)),
        "sessions" => sessions::sessions(lab, arguments),
        "link" => link::call(lab, arguments, rounds(40)),
        "link-many" => link::many(lab, arguments, rounds(16)),
        "link-memory" => link::memory(lab, arguments),
        "memory" => memory(lab, arguments),
        "start" => starts(lab, arguments),
        "wasm" => wasm(arguments),
        ASKS => asks(lab),
        other => Err(format!("no row called {other}: {} {ASKS}", ALL.join(" "))),
    }
}

/// A way to the stub, with its connection and what it has shown so far.
pub(crate) struct Way<'a> {
    pub(crate) name: String,
    exchange: Exchange,
    process: Option<&'a Process>,
    address: SocketAddr,
    took: Vec<Duration>,
    /// The median of each round, and its rate.
    medians: Vec<f64>,
    rates: Vec<f64>,
    cpu: Duration,
    calls: usize,
}

impl<'a> Way<'a> {
    pub(crate) fn new(
        name: &str,
        address: SocketAddr,
        exchange: impl Into<Exchange>,
        process: Option<&'a Process>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            exchange: exchange.into(),
            process,
            address,
            took: Vec::new(),
            medians: Vec::new(),
            rates: Vec::new(),
            cpu: Duration::ZERO,
            calls: 0,
        }
    }

    /// Where it is called.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request.
    pub(crate) fn request(&self) -> &Request {
        self.exchange.request()
    }

    fn used(&self) -> Duration {
        self.process.map_or(Duration::ZERO, Process::cpu)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of calls are small")]
    fn round(&mut self, mut took: Vec<Duration>, span: Duration, cpu: Duration) {
        self.rates.push(took.len() as f64 / span.as_secs_f64());
        self.calls += took.len();
        self.cpu += cpu;
        took.sort_unstable();
        self.medians.push(quantile(&took, 0.5));
        self.took.append(&mut took);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of calls are small")]
    fn line(&mut self, direct: Option<&Line>, medians: &[f64], rates: &[f64]) -> Line {
        self.took.sort_unstable();
        let (p50, p99) = (quantile(&self.took, 0.5), quantile(&self.took, 0.99));
        let differences = self.medians.iter().zip(medians).map(|(own, direct)| own - direct).collect();
        let ratios = self.rates.iter().zip(rates).map(|(own, direct)| own / direct).collect();
        Line {
            way: self.name.clone(),
            calls: self.calls,
            p50,
            p99,
            added_p50: median(differences),
            added_p99: p99 - direct.map_or(p99, |direct| direct.p99),
            rate: median(self.rates.clone()),
            ratio: median(ratios),
            cpu: self.process.map(|_| self.cpu.as_secs_f64() * 1e6 / self.calls as f64),
        }
    }
}

fn lines(mut ways: Vec<Way<'_>>) -> Vec<Line> {
    let (medians, rates) = (ways[0].medians.clone(), ways[0].rates.clone());
    let mut lines: Vec<Line> = Vec::new();
    for way in &mut ways {
        let line = way.line(lines.first(), &medians, &rates);
        lines.push(line);
    }
    lines
}

/// Which of a call's times counts.
type Pick = fn(Took) -> Duration;

/// One client: the ways take turns, `calls` calls at a time.
pub(crate) fn one(mut ways: Vec<Way<'_>>, rounds: usize, calls: usize, pick: Pick) -> Outcome<Vec<Line>> {
    let mut clients = Vec::new();
    for way in &mut ways {
        let mut client = way.exchange.client(way.address)?;
        for _ in 0..calls.max(50) {
            call_once(way, &mut client)?;
        }
        clients.push(client);
    }
    let count = ways.len();
    for round in 0..rounds {
        for turn in 0..count {
            // Another one begins each round: what follows the slowest way may find cold caches.
            let index = (round + turn) % count;
            let (way, client) = (&mut ways[index], &mut clients[index]);
            for _ in 0..5 {
                call_once(way, client)?;
            }
            let (mut took, cpu, began) = (Vec::with_capacity(calls), way.used(), Instant::now());
            for _ in 0..calls {
                took.push(pick(call_once(way, client)?));
            }
            let span = began.elapsed();
            let cpu = way.used().saturating_sub(cpu);
            way.round(took, span, cpu);
        }
    }
    Ok(lines(ways))
}

fn call_once(way: &mut Way<'_>, client: &mut Client) -> Outcome<Took> {
    way.exchange.run(client).map_err(|error| format!("{}: {error}", way.name))
}

/// The ways to the stub: direct, nginx (its `port`th address), every gateway.
fn ways<'a>(
    lab: &'a Lab,
    port: usize,
    mut request: impl FnMut(Place) -> Outcome<Request>,
) -> Outcome<Vec<Way<'a>>> {
    let direct = Place::plain(lab.stub.address);
    let mut ways = vec![Way::new("direct", direct.address, request(direct)?, None)];
    if let Some((process, ports)) = &lab.nginx {
        let place = Place::plain(ports[port]);
        ways.push(Way::new("nginx", place.address, request(place)?, Some(process)));
    }
    for gateway in &lab.gateways {
        let place = Place::gateway(&gateway.process);
        ways.push(Way::new(&gateway.name, place.address, request(place)?, Some(&gateway.process)));
    }
    Ok(ways)
}

pub(crate) fn echoed() -> Expect {
    Expect { texts: vec![answer_id(), format!("\"text\":\"ping {ID}\"")], least: 0 }
}

pub(crate) fn of<'a>(lines: &'a [Line], way: &str) -> Option<&'a Line> {
    lines.iter().find(|line| line.way == way)
}

/// A budget on the added median of one way.
pub(crate) fn added(lines: &[Line], way: &str, limit: f64) -> Option<Budget> {
    of(lines, way).map(|line| Budget::most(&format!("{way}, added p50"), line.added_p50, limit, "ms"))
}

fn call(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let ways = ways(lab, 0, |place| Ok(place.modern_call("echo", ECHO, &echoed())))?;
    let lines = one(ways, rounds, 100, |took| took.all)?;
    let budgets = [added(&lines, "causeway", 0.12), added(&lines, "workerd", 1.0)];
    Ok(Row {
        name: "call",
        what: "tools/call, small answer, 1 client, 2026-07-28".to_owned(),
        budgets: budgets.into_iter().flatten().collect(),
        lines,
        ..Row::default()
    })
}

fn legacy(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let ways = ways(lab, 0, |place| {
        let session = place.open_session(&mut Connection::open(place.address)?)?;
        Ok(place.legacy_call(&session, "echo", ECHO, &echoed()))
    })?;
    let lines = one(ways, rounds, 100, |took| took.all)?;
    let budgets = [added(&lines, "causeway", 0.12), added(&lines, "workerd", 1.0)];
    Ok(Row {
        name: "legacy",
        what: "tools/call, small answer, 1 client, a session of 2025-11-25".to_owned(),
        budgets: budgets.into_iter().flatten().collect(),
        lines,
        ..Row::default()
    })
}

/// Many clients: the ways take turns, a slice at a time.
pub(crate) fn crowd(mut ways: Vec<Way<'_>>, rounds: usize) -> Outcome<Vec<Line>> {
    let mut crowds = Vec::new();
    for way in &ways {
        let told = |error| format!("{}: {error}", way.name);
        let mut crowd = Crowd::open(way.address, way.exchange.request(), CLIENTS).map_err(told)?;
        crowd.run(SLICE).map_err(told)?;
        crowds.push(crowd);
    }
    let count = ways.len();
    for round in 0..rounds {
        for turn in 0..count {
            let index = (round + turn) % count;
            let (way, crowd) = (&mut ways[index], &mut crowds[index]);
            let told = |error: String| format!("{}: {error}", way.name);
            // What a way leaves behind it, as collecting garbage, is not the next one's to pay.
            std::thread::sleep(SLICE / 3);
            crowd.calls(CLIENTS * 2).map_err(told)?;
            let cpu = way.used();
            let (took, span) = crowd.run(SLICE).map_err(told)?;
            let cpu = way.used().saturating_sub(cpu);
            way.round(took, span, cpu);
        }
    }
    Ok(lines(ways))
}

fn many(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let lines = crowd(ways(lab, 0, |place| Ok(place.modern_call("echo", ECHO, &echoed())))?, rounds)?;
    let mut budgets = Vec::new();
    if let Some(line) = of(&lines, "causeway") {
        budgets.push(Budget::least("causeway, ratio", line.ratio, 0.35, "x direct"));
        budgets.push(Budget::most("causeway, p99", line.p99, 6.0, "ms"));
        budgets.extend(line.cpu.map(|cpu| Budget::most("causeway, CPU per call", cpu, 60.0, "µs")));
    }
    let what = format!("tools/call, small answer, {CLIENTS} clients, 2026-07-28");
    Ok(Row { name: "many", what, lines, budgets, ..Row::default() })
}

fn large(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let expect = Expect { texts: vec![answer_id(), "\"content\"".to_owned()], least: 64 * 1000 };
    let ways = ways(lab, 0, |place| Ok(place.modern_call("blob", "{}", &expect)))?;
    let lines = one(ways, rounds, 50, |took| took.all)?;
    let what = "tools/call, 64 KB answer, 1 client, 2026-07-28".to_owned();
    Ok(Row { name: "large", what, lines, ..Row::default() })
}

fn stream(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let texts = [answer_id(), "\"progressToken\":1".to_owned(), "\"streamed\"".to_owned()];
    let expect = Expect { texts: texts.to_vec(), least: 0 };
    let ways = ways(lab, 1, |place| Ok(place.modern_call("stream", "{\"ms\":1}", &expect)))?;
    let lines = one(ways, rounds, 25, |took| took.first)?;
    let budgets = added(&lines, "causeway", 0.2).into_iter().collect();
    let what =
        "first event of a tool that streams, 1 client, 2026-07-28 (the rate is of whole calls)".to_owned();
    Ok(Row { name: "stream", what, lines, budgets, ..Row::default() })
}

/// Ten servers with twenty tools each, and gateways in front of them.
struct Ten {
    _servers: Vec<Process>,
    gateways: Vec<(String, Process)>,
}

fn ten(lab: &Lab, arguments: &Arguments, only: &[&str]) -> Outcome<Ten> {
    let mut servers = Vec::new();
    for _ in 0..10 {
        servers.push(fixture(&arguments.fixture, "list:20")?);
    }
    let named: Vec<_> =
        servers.iter().enumerate().map(|(n, server)| (format!("server{n}"), server.address)).collect();
    let mut gateways = Vec::new();
    for gateway in &lab.gateways {
        if only.is_empty() || only.contains(&gateway.name.as_str()) {
            let config = lab.config(&format!("{}-ten", gateway.name), &named)?;
            gateways.push((gateway.name.clone(), start(&gateway.host, &config)?));
        }
    }
    Ok(Ten { _servers: servers, gateways })
}

/// A list of exactly 200 tools, whose ends look as they should.
fn two_hundred(place: Place) -> Outcome<Request> {
    let expect = Expect { texts: vec![answer_id()], least: 0 };
    let mut connection = Connection::open(place.address)?;
    connection.call(&mut place.modern_list(&expect))?;
    let body = connection.answer.body();
    let whole: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let tools = whole["result"]["tools"].as_array().map_or(0, Vec::len);
    if tools != 200 {
        return Err(format!("a list of {tools} tools where there are 200"));
    }
    // Ids have one length, so every right answer is at least as long as this one.
    let expect = Expect { texts: vec![answer_id(), "\"tools\":[".to_owned()], least: body.len() };
    Ok(place.modern_list(&expect))
}

fn list(lab: &Lab, arguments: &Arguments, rounds: usize) -> Outcome<Row> {
    let ten = ten(lab, arguments, &[])?;
    let direct = Place::plain(lab.long.address);
    let mut ways = vec![Way::new("direct", direct.address, two_hundred(direct)?, None)];
    if let Some((process, ports)) = &lab.nginx {
        let place = Place::plain(ports[2]);
        ways.push(Way::new("nginx", place.address, two_hundred(place)?, Some(process)));
    }
    for (name, process) in &ten.gateways {
        let place = Place::gateway(process);
        let request = two_hundred(place).map_err(|error| format!("{name}: {error}"))?;
        ways.push(Way::new(name, place.address, request, Some(process)));
    }
    let lines = one(ways, rounds, 50, |took| took.all)?;
    let budgets = added(&lines, "causeway", 0.6).into_iter().collect();
    let what =
        "tools/list, 200 tools of 10 servers, cached, 1 client (direct: one server lists 200)".to_owned();
    Ok(Row { name: "list", what, lines, budgets, ..Row::default() })
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
fn memory(lab: &Lab, arguments: &Arguments) -> Outcome<Row> {
    const SESSIONS: u32 = 2_000;
    let mut row = Row { name: "memory", what: "resident memory, native".to_owned(), ..Row::default() };
    {
        let ten = ten(lab, arguments, &["causeway"])?;
        let process = &ten.gateways.first().ok_or("no gateway")?.1;
        settle();
        row.facts.push(("started, 10 servers, nothing asked yet".to_owned(), mib(process.memory()), "MiB"));
        two_hundred(Place::gateway(process))?;
        settle();
        row.facts.push(("idle, 10 servers, all known".to_owned(), mib(process.memory()), "MiB"));
        row.budgets.push(Budget::most("idle with 10 servers", mib(process.memory()), 12.0, "MiB"));
    }
    let native = lab.gateways.first().ok_or("no gateway")?;
    let config = lab.config("memory", &[("stub".to_owned(), lab.stub.address)])?;
    {
        let process = start(&native.host, &config)?;
        let place = Place::gateway(&process);
        let mut connection = Connection::open(place.address)?;
        for _ in 0..SESSIONS / 4 {
            place.open_session(&mut connection)?;
        }
        settle();
        let before = process.memory();
        for _ in 0..SESSIONS {
            place.open_session(&mut connection)?;
        }
        settle();
        let each = process.memory().saturating_sub(before) as f64 / f64::from(SESSIONS);
        let what = format!("each of {SESSIONS} idle sessions of 2025-11-25");
        row.facts.push((what, each, "bytes"));
        row.budgets.push(Budget::most("an idle session without a stream", each, 1024.0, "bytes"));
    }
    let process = start(&native.host, &config)?;
    let place = Place::gateway(&process);
    let request = place.modern_call("echo", ECHO, &echoed());
    let mut crowd = Crowd::open(place.address, &request, CLIENTS)?;
    let calls = if arguments.quick { 40_000 } else { 200_000 };
    crowd.calls(calls / 4)?;
    let before = process.memory();
    crowd.calls(calls)?;
    let after = process.memory();
    row.facts.push((format!("under load, {CLIENTS} clients, after {} calls", calls / 4), mib(before), "MiB"));
    row.facts.push((format!("and after {calls} calls more"), mib(after), "MiB"));
    row.budgets.push(Budget::most("growth under the soak", mib(after) - mib(before), 0.5, "MiB"));
    if let Some((process, _)) = &lab.nginx {
        row.facts.push(("for comparison: nginx, all its processes".to_owned(), mib(process.memory()), "MiB"));
    }
    Ok(row)
}

/// From starting `command` to its first right answer; and from when it takes connections.
fn first_answer(command: Command, address: SocketAddr, gateway: bool) -> Outcome<(Duration, Duration)> {
    let plain = Place::plain(address);
    let place = if gateway { Place { gateway, prefix: "stub__", ..plain } } else { plain };
    let mut request = place.modern_call("echo", ECHO, &echoed());
    let began = Instant::now();
    let mut process = Process::spawn(command, address)?;
    process.connect(Duration::from_secs(20))?;
    let listens = began.elapsed();
    Connection::open(address)?.call(&mut request)?;
    let all = began.elapsed();
    Ok((all, all - listens))
}

fn starts(lab: &Lab, arguments: &Arguments) -> Outcome<Row> {
    let mut row = Row { name: "start", what: "start to first answer, median".to_owned(), ..Row::default() };
    let times = |full: usize| if arguments.quick { full.div_ceil(4) } else { full };
    if let Some(binary) = &arguments.nginx {
        let mut all = Vec::new();
        for _ in 0..times(12) {
            let (command, address) = lab.plain_nginx(binary)?;
            all.push(ms(first_answer(command, address, false)?.0));
        }
        row.facts.push(("for comparison: nginx".to_owned(), median(all), "ms"));
    }
    for gateway in &lab.gateways {
        let config = lab.config("start", &[("stub".to_owned(), lab.stub.address)])?;
        // What counts there is how fast it answers once it listens: deployed, nobody waits for a process.
        let edge = !matches!(gateway.host, Host::Native(_));
        let (mut all, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..times(if edge { 4 } else { 24 }) {
            let (command, address) = command(&gateway.host, &config)?;
            let (whole, answer) = first_answer(command, address, true)?;
            all.push(ms(whole));
            answers.push(ms(answer));
        }
        if edge {
            let what = format!("{}, first answer of an instance", gateway.name);
            row.facts.push((format!("{what} once it listens"), median(answers.clone()), "ms"));
            let started = format!("{} with the script that starts it, from nothing", gateway.name);
            row.facts.push((started, median(all), "ms"));
            row.budgets.push(Budget::most(&what, median(answers), 50.0, "ms"));
        } else {
            row.facts.push((
                format!("{}, from starting the program", gateway.name),
                median(all.clone()),
                "ms",
            ));
            row.facts.push((format!("{}, from when it listens", gateway.name), median(answers), "ms"));
            if gateway.name == "causeway" {
                row.budgets.push(Budget::most("causeway", median(all), 30.0, "ms"));
            }
        }
    }
    Ok(row)
}

fn wasm(arguments: &Arguments) -> Outcome<Row> {
    let mut row = Row {
        name: "wasm",
        what: "the Worker's bundle and the Spin component, gzip -9".to_owned(),
        ..Row::default()
    };
    match arguments.worker.as_deref().filter(|built| built.join("index_bg.wasm").exists()) {
        None => row.skipped.push("the Worker is not built; scripts/test cloudflare".to_owned()),
        Some(built) => {
            let mut whole = 0.0;
            for name in ["index_bg.wasm", "index.js"] {
                let packed = packed(&built.join(name))?;
                whole += packed;
                row.facts.push((name.to_owned(), packed, "MiB"));
            }
            row.budgets.push(Budget::most("the Worker, compressed", whole, 1.0, "MiB"));
        }
    }
    match arguments.component.as_deref().filter(|built| built.exists()) {
        None => row.skipped.push("the component is not built; scripts/test spin".to_owned()),
        Some(built) => {
            let packed = packed(built)?;
            row.facts.push(("causeway_spin.wasm".to_owned(), packed, "MiB"));
            row.budgets.push(Budget::most("the component, compressed", packed, 1.0, "MiB"));
        }
    }
    Ok(row)
}

fn packed(file: &Path) -> Outcome<f64> {
    let output = Command::new("gzip").args(["-9", "-c"]).arg(file).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("gzip: {error}"))?;
    Ok(mib(output.stdout.len() as u64))
}

/// A server that counts, and what one call costs it.
fn asks(lab: &Lab) -> Outcome<Row> {
    const CALLS: u32 = 50;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let server = runtime.block_on(Fixture::start(Options::default()));
    let mut row =
        Row { name: ASKS, what: "requests that one call causes upstream".to_owned(), ..Row::default() };
    for gateway in &lab.gateways {
        let config = lab.config("asks", &[("stub".to_owned(), server.address())])?;
        let process = start(&gateway.host, &config)?;
        let place = Place::gateway(&process);
        let mut connection = Connection::open(place.address)?;
        let session = place.open_session(&mut connection)?;
        let eras = [
            ("2026-07-28", place.modern_call("echo", ECHO, &echoed())),
            ("a session of 2025-11-25", place.legacy_call(&session, "echo", ECHO, &echoed())),
        ];
        for (era, mut request) in eras {
            connection.call(&mut request)?;
            server.forget();
            for _ in 0..CALLS {
                connection.call(&mut request)?;
            }
            let seen = u32::try_from(server.seen().len()).unwrap_or(u32::MAX);
            let each = f64::from(seen) / f64::from(CALLS);
            let what = format!("{}, {era}", gateway.name);
            row.facts.push((what.clone(), each, "requests"));
            row.budgets.push(Budget::most(&what, each, 1.0, "requests"));
        }
    }
    Ok(row)
}
