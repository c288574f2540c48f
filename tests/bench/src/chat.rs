//! The rows about models: what the gateway adds to a question, to the first token of an answer, and to each further one;
//! and what it adds under a steady load.
//!
//! The stub is a provider of OpenAI's dialect, which is what the client speaks, too.

use std::time::Duration;

use crate::lab::{Lab, Place, start};
use crate::process::Process;
use crate::report::{Line, Row, median, ms, quantile};
use crate::rows::{Way, added, one};
use crate::wire::{Expect, ID, Request, steadily};
use crate::{Arguments, Outcome};

/// How many tokens a long answer has.
const TOKENS: u32 = 1000;
/// The load: so many questions a second, each of which takes the provider so long.
const RATE: u32 = 100;
const TAKES: &str = ",\"seed\":200";

/// Gateways with the stub as a provider of models.
fn gateways(lab: &Lab) -> Outcome<Vec<(String, Process)>> {
    let started = lab.gateways.iter().map(|gateway| {
        let config = lab.config_chat(&format!("{}-chat", gateway.name))?;
        Ok((gateway.name.clone(), start(&gateway.host, &config)?))
    });
    started.collect()
}

/// The ways to the stub: direct, nginx (its `port`th address), every gateway.
fn ways<'a>(
    lab: &'a Lab,
    gateways: &'a [(String, Process)],
    port: usize,
    request: impl Fn(Place) -> Request,
) -> Vec<Way<'a>> {
    let direct = Place::plain(lab.stub.address);
    let mut ways = vec![Way::new("direct", direct.address, request(direct), None)];
    if let Some((process, ports)) = &lab.nginx {
        let place = Place::plain(ports[port]);
        ways.push(Way::new("nginx", place.address, request(place), Some(process)));
    }
    for (name, process) in gateways {
        let place = Place::gateway(process);
        ways.push(Way::new(name, place.address, request(place), Some(process)));
    }
    ways
}

fn said() -> String {
    format!("\"content\":\"ping {ID}\"")
}

fn streamed() -> Expect {
    Expect { texts: vec![said(), "data: [DONE]".to_owned()], least: 0 }
}

/// A question and its whole answer.
pub(crate) fn whole(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let gateways = gateways(lab)?;
    let expect = Expect { texts: vec![said()], least: 0 };
    let lines = one(ways(lab, &gateways, 0, |place| place.chat("", &expect)), rounds, 100, |took| took.all)?;
    let budgets = added(&lines, "causeway", 0.12).into_iter().collect();
    let what = "chat completion, not streamed, 1 client".to_owned();
    Ok(Row { name: "chat", what, lines, budgets, ..Row::default() })
}

/// The first token of a streamed answer.
pub(crate) fn first(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let gateways = gateways(lab)?;
    let more = ",\"stream\":true,\"max_tokens\":3,\"seed\":1";
    let ways = ways(lab, &gateways, 1, |place| place.chat(more, &streamed()));
    let lines = one(ways, rounds, 25, |took| took.first)?;
    let budgets = added(&lines, "causeway", 0.2).into_iter().collect();
    let what =
        "first token of a streamed chat completion, 1 client (the rate is of whole answers)".to_owned();
    Ok(Row { name: "token", what, lines, budgets, ..Row::default() })
}

/// Tokens through the relay, as fast as they come.
pub(crate) fn tokens(lab: &Lab, rounds: usize) -> Outcome<Row> {
    let gateways = gateways(lab)?;
    let more = format!(",\"stream\":true,\"max_tokens\":{TOKENS}");
    let lines =
        one(ways(lab, &gateways, 1, |place| place.chat(&more, &streamed())), rounds, 10, |took| took.all)?;
    let facts = lines
        .iter()
        .map(|line| (format!("{}, through one stream", line.way), line.rate * f64::from(TOKENS), "tokens/s"))
        .collect();
    let what = format!("a streamed chat completion of {TOKENS} tokens, as fast as they come, 1 client");
    Ok(Row { name: "tokens", what, lines, facts, ..Row::default() })
}

/// A steady load of a provider that takes its time: all ways at the same time, each with the same load.
pub(crate) fn load(lab: &Lab, arguments: &Arguments) -> Outcome<Row> {
    let gateways = gateways(lab)?;
    let expect = Expect { texts: vec![said()], least: 0 };
    let (seconds, warm) = if arguments.quick { (15, 2) } else { (60, 2) };
    let mut row = Row {
        name: "chat-load",
        what: format!(
            "chat completion, {RATE} a second for {seconds} s on each way at once, the provider takes 200 ms"
        ),
        ..Row::default()
    };
    let ways = ways(lab, &gateways, 0, |place| place.chat(TAKES, &expect));
    let asked: Vec<_> = ways.iter().map(|way| (way.address(), way.request().clone())).collect();
    let took = steadily(&asked, Duration::from_secs(1) / RATE, RATE * (warm + seconds))?;
    let mut direct: Option<(Line, Vec<f64>)> = None;
    for (way, took) in ways.iter().zip(took) {
        let counted = took.into_iter().filter(|(number, _)| *number >= RATE * warm);
        let mut second: Vec<Vec<Duration>> = Vec::new();
        for (number, span) in counted {
            let at = (number / RATE - warm) as usize;
            second.resize_with(second.len().max(at + 1), Vec::new);
            second[at].push(span);
        }
        let medians: Vec<f64> = second
            .iter_mut()
            .map(|spans| {
                spans.sort_unstable();
                quantile(spans, 0.5)
            })
            .collect();
        let mut all = second.concat();
        all.sort_unstable();
        let (p50, p99) = (quantile(&all, 0.5), quantile(&all, 0.99));
        let (first, base) = match &direct {
            Some((line, medians)) => (line.p99, medians.as_slice()),
            None => (p99, medians.as_slice()),
        };
        let differences = medians.iter().zip(base).map(|(own, direct)| own - direct).collect();
        let line = Line {
            way: way.name.clone(),
            calls: all.len(),
            p50,
            p99,
            added_p50: median(differences),
            added_p99: p99 - first,
            rate: f64::from(RATE),
            ratio: 1.0,
            cpu: None,
        };
        let slowest = all.last().map_or(0.0, |span| ms(*span));
        row.facts.push((format!("{}, slowest of {}, none failed", line.way, line.calls), slowest, "ms"));
        direct.get_or_insert((line.clone(), medians));
        row.lines.push(line);
    }
    let limits = [("causeway", 1.0), ("workerd", 4.0)];
    row.budgets = limits.into_iter().filter_map(|(way, limit)| added(&row.lines, way, limit)).collect();
    Ok(row)
}
