//! The rows about calls between the eras, next to the same calls within one.
//!
//! Behind each gateway there are two stubs: `new` speaks 2026-07-28 alone, `old` the revisions with sessions alone.

use crate::exchange::Exchange;
use crate::lab::{Lab, Place, fixture_of, start};
use crate::process::Process;
use crate::report::{Budget, Line, Row};
use crate::rows::{ECHO, Way, added, echoed, one};
use crate::wire::{Connection, Took};
use crate::{Arguments, Outcome};

/// What a call over a pass-through may add, and so one over the bridge.
const ADDED: f64 = 0.12;

/// How a call goes through a gateway, for the report, and where that is.
type Through = (&'static str, fn(Place) -> Place);

/// The two stubs, and a gateway of each kind in front of both.
struct Between {
    old: Process,
    new: Process,
    gateways: Vec<(String, Process)>,
}

impl Between {
    fn open(lab: &Lab, arguments: &Arguments) -> Outcome<Self> {
        let old = fixture_of(&arguments.fixture, "fast", "legacy")?;
        let new = fixture_of(&arguments.fixture, "fast", "modern")?;
        let servers = [("old".to_owned(), old.address), ("new".to_owned(), new.address)];
        let mut gateways = Vec::new();
        for gateway in &lab.gateways {
            let config = lab.config(&format!("{}-bridge", gateway.name), &servers)?;
            gateways.push((gateway.name.clone(), start(&gateway.host, &config)?));
        }
        Ok(Self { old, new, gateways })
    }

    /// The direct way to `stub`, the one through nginx (its `port`th address), and for each gateway those in `through`.
    fn ways<'a>(
        &'a self,
        lab: &'a Lab,
        stub: &Process,
        port: usize,
        exchange: impl Fn(Place) -> Outcome<Exchange>,
        through: &[Through],
    ) -> Outcome<Vec<Way<'a>>> {
        let direct = Place::plain(stub.address).able();
        let mut ways = vec![Way::new("direct", stub.address, exchange(direct)?, None)];
        if let Some((process, ports)) = &lab.nginx {
            let place = Place::plain(ports[port]).able();
            ways.push(Way::new("nginx", place.address, exchange(place)?, Some(process)));
        }
        for (name, process) in &self.gateways {
            for (how, leads) in through {
                let name = format!("{name}, {how}");
                let told = |error| format!("{name}: {error}");
                let exchange = exchange(leads(Place::gateway(process))).map_err(told)?;
                ways.push(Way::new(&name, process.address, exchange, Some(process)));
            }
        }
        Ok(ways)
    }
}

fn session(place: Place) -> Outcome<String> {
    place.open_session(&mut Connection::open(place.address)?)
}

fn row(name: &'static str, what: &str, lines: Vec<Line>, limited: &[&str]) -> Row {
    let budgets: Vec<Budget> =
        limited.iter().filter_map(|how| added(&lines, &format!("causeway, {how}"), ADDED)).collect();
    Row { name, what: what.to_owned(), lines, budgets, ..Row::default() }
}

/// A modern client's plain calls.
pub(crate) fn modern(lab: &Lab, arguments: &Arguments, rounds: usize) -> Outcome<Row> {
    let between = Between::open(lab, arguments)?;
    let exchange = |place: Place| Ok(place.modern_call("echo", ECHO, &echoed()).into());
    let through: [Through; 3] = [
        ("same era", |place| place.prefix("new__").able()),
        ("mailbox", |place| place.prefix("old__").able()),
        ("pool", |place| place.prefix("old__")),
    ];
    let ways = between.ways(lab, &between.new, 0, exchange, &through)?;
    let lines = one(ways, rounds, 100, |took| took.all)?;
    let what = "tools/call, small answer, 1 client of 2026-07-28; a legacy server: mailbox for one that can be asked, \
                pool for others";
    Ok(row("bridge", what, lines, &["same era", "mailbox", "pool"]))
}

/// A legacy client's plain calls.
pub(crate) fn legacy(lab: &Lab, arguments: &Arguments, rounds: usize) -> Outcome<Row> {
    let between = Between::open(lab, arguments)?;
    let exchange = |place: Place| Ok(place.legacy_call(&session(place)?, "echo", ECHO, &echoed()).into());
    let through: [Through; 3] = [
        ("same era", |place| place.at("/mcp/old")),
        ("merged", |place| place.prefix("old__")),
        ("modern", |place| place.prefix("new__")),
    ];
    let ways = between.ways(lab, &between.old, 0, exchange, &through)?;
    let lines = one(ways, rounds, 100, |took| took.all)?;
    let what = "tools/call, small answer, 1 client of 2025-11-25; a legacy server alone and merged, and a modern one";
    Ok(row("bridge-legacy", what, lines, &["same era", "merged", "modern"]))
}

/// A modern client's calls that are asked something.
pub(crate) fn modern_round(lab: &Lab, arguments: &Arguments, rounds: usize) -> Outcome<Row> {
    let between = Between::open(lab, arguments)?;
    let exchange = |place: Place| Ok(Exchange::Retried(place, place.modern_ask()));
    let through: [Through; 2] = [
        ("same era", |place| place.prefix("new__").able()),
        ("bridged", |place| place.prefix("old__").able()),
    ];
    let ways = between.ways(lab, &between.new, 0, exchange, &through)?;
    let lines = one(ways, rounds, 25, whole)?;
    let what = "a call with one elicitation, 1 client of 2026-07-28: call, input_required, retry, result";
    Ok(row("round", what, lines, &[]))
}

/// A legacy client's calls that are asked something.
pub(crate) fn legacy_round(lab: &Lab, arguments: &Arguments, rounds: usize) -> Outcome<Row> {
    let between = Between::open(lab, arguments)?;
    let exchange = |place: Place| {
        let session = session(place)?;
        let request = place.legacy_ask(&session);
        Ok(Exchange::Answered(place, session, request))
    };
    let through: [Through; 2] =
        [("same era", |place| place.prefix("old__")), ("bridged", |place| place.prefix("new__"))];
    let ways = between.ways(lab, &between.old, 1, exchange, &through)?;
    let lines = one(ways, rounds, 25, whole)?;
    let what = "a call with one elicitation, 1 client of 2025-11-25: call, question, response, result";
    Ok(row("round-legacy", what, lines, &[]))
}

fn whole(took: Took) -> std::time::Duration {
    took.all
}
