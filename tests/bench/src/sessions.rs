//! The row about what waits: idle sessions, open streams, calls whose clients are away.

use std::time::Duration;

use serde_json::json;

use crate::lab::{Host, Lab, Place, fixture_of, settle, start};
use crate::process::Process;
use crate::report::{Budget, Row};
use crate::rows::{ECHO, echoed, mib};
use crate::wire::{Connection, between};
use crate::{Arguments, Outcome};

/// So many of each.
const MANY: usize = 1_000;
/// So many come and go first, so that what is needed once is there.
const FIRST: usize = 16;
/// Threads that park calls: each call takes as long as the gateway waits for more questions.
const HANDS: usize = 16;
/// How long a session with a server is kept for the next call, and a little more.
const POOLED: Duration = Duration::from_secs(63);

/// What waits.
#[derive(Clone, Copy, PartialEq)]
enum What {
    /// A legacy session that has made a call.
    Session,
    /// The same with its stream open.
    Stream,
    /// A modern client's call that the client has not come back to.
    Call,
}

struct Case {
    name: &'static str,
    what: What,
    /// The era of the server behind.
    behind: &'static str,
    place: fn(Place) -> Place,
    /// How many bytes each may cost.
    budget: Option<f64>,
}

const CASES: [Case; 9] = [
    Case {
        name: "session, /mcp, modern server",
        what: What::Session,
        behind: "modern",
        place: |place| place,
        budget: Some(1024.0),
    },
    Case {
        name: "session, /mcp, legacy server",
        what: What::Session,
        behind: "legacy",
        place: |place| place,
        budget: Some(1024.0),
    },
    Case {
        name: "session, /mcp/{server}, modern server",
        what: What::Session,
        behind: "modern",
        place: |place| place.at("/mcp/stub"),
        budget: Some(1024.0),
    },
    Case {
        name: "session, /mcp/{server}, legacy server",
        what: What::Session,
        behind: "legacy",
        place: |place| place.at("/mcp/stub"),
        budget: Some(1024.0),
    },
    Case {
        name: "stream, /mcp, modern server",
        what: What::Stream,
        behind: "modern",
        place: |place| place,
        budget: Some(8192.0),
    },
    Case {
        name: "stream, /mcp, legacy server",
        what: What::Stream,
        behind: "legacy",
        place: |place| place,
        budget: Some(8192.0),
    },
    Case {
        name: "stream, /mcp/{server}, modern server",
        what: What::Stream,
        behind: "modern",
        place: |place| place.at("/mcp/stub"),
        budget: Some(8192.0),
    },
    Case {
        name: "stream, /mcp/{server}, legacy server",
        what: What::Stream,
        behind: "legacy",
        place: |place| place.at("/mcp/stub"),
        budget: Some(8192.0),
    },
    Case {
        name: "parked call, legacy server",
        what: What::Call,
        behind: "legacy",
        place: |place| place.able(),
        budget: None,
    },
];

/// Something that waits at the gateway.
enum Held {
    Session(String),
    Stream(String, #[expect(dead_code, reason = "it is kept open")] Connection),
    Call(String, String),
}

pub(crate) fn sessions(lab: &Lab, arguments: &Arguments) -> Outcome<Row> {
    let what = format!("resident memory of the native gateway for each of {MANY} that wait");
    let mut row = Row { name: "sessions", what, ..Row::default() };
    for gateway in lab.gateways.iter().filter(|gateway| matches!(gateway.host, Host::Native(_))) {
        for case in &CASES {
            let stub = fixture_of(&arguments.fixture, "fast", case.behind)?;
            let limits = json!({ "parked": 1000, "subscriptions": 10_000 });
            let config = lab.config_with("sessions", &[("stub".to_owned(), stub.address)], limits)?;
            let process = start(&gateway.host, &config)?;
            let told = |error| format!("{}, {}: {error}", gateway.name, case.name);
            measure(&mut row, &gateway.name, case, &process, arguments.quick).map_err(told)?;
        }
    }
    Ok(row)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
fn measure(row: &mut Row, gateway: &str, case: &Case, process: &Process, quick: bool) -> Outcome<()> {
    let place = (case.place)(Place::gateway(process));
    close(place, open(place, case.what, FIRST)?)?;
    settle();
    let before = process.memory();
    let held = open(place, case.what, MANY)?;
    settle();
    let each = process.memory().saturating_sub(before) as f64 / MANY as f64;
    let name = format!("{gateway}: {}", case.name);
    row.facts.push((name.clone(), each, "bytes"));
    if let Some(budget) = case.budget.filter(|_| gateway == "causeway") {
        row.budgets.push(Budget::most(case.name, each, budget, "bytes"));
    }
    close(place, held)?;
    if quick {
        return Ok(());
    }
    // What has gone must not leave anything behind that is not used for those that come after it.
    let gone = || {
        let pause = if case.what == What::Call { POOLED } else { Duration::ZERO };
        std::thread::sleep(pause);
        settle();
        process.memory()
    };
    let first = gone();
    row.facts.push(("  when all are gone, above before".to_owned(), mib(first) - mib(before), "MiB"));
    for wave in ["  and once more", "  and a third time"] {
        close(place, open(place, case.what, MANY)?)?;
        row.facts.push((wave.to_owned(), mib(gone()) - mib(before), "MiB"));
    }
    Ok(())
}

fn open(place: Place, what: What, count: usize) -> Outcome<Vec<Held>> {
    if what == What::Call {
        return park(place, count);
    }
    let mut connection = Connection::open(place.address)?;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let session = place.open_session(&mut connection)?;
        connection.call(&mut place.legacy_call(&session, "echo", ECHO, &echoed()))?;
        all.push(match what {
            What::Session => Held::Session(session),
            What::Stream | What::Call => {
                let mut stream = Connection::open(place.address)?;
                stream.send(&mut place.listen(&session))?;
                stream.head()?;
                Held::Stream(session, stream)
            }
        });
    }
    Ok(all)
}

/// Calls that are asked something, without answering.
fn park(place: Place, count: usize) -> Outcome<Vec<Held>> {
    let hand = |number: usize| {
        let mut connection = Connection::open(place.address)?;
        let mut all = Vec::new();
        for _ in (number..count).step_by(HANDS) {
            connection.call(&mut place.modern_ask())?;
            let asked = String::from_utf8_lossy(connection.answer.body());
            let part = |before| between(&asked, before, "\"").map(str::to_owned).ok_or("no question");
            all.push(Held::Call(part("\"inputRequests\":{\"")?, part("\"requestState\":\"")?));
        }
        Ok(all)
    };
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS).map(|number| scope.spawn(move || hand(number))).collect();
        let done = hands.into_iter().map(|hand| hand.join().unwrap_or_else(|_| Err("a thread".to_owned())));
        done.collect::<Outcome<Vec<Vec<Held>>>>().map(|all| all.into_iter().flatten().collect())
    })
}

fn close(place: Place, held: Vec<Held>) -> Outcome<()> {
    let mut connection = Connection::open(place.address)?;
    for held in held {
        match held {
            Held::Session(session) | Held::Stream(session, _) => {
                connection.call(&mut place.delete(&session))?
            }
            Held::Call(key, state) => connection.call(&mut place.retry(&key, &state))?,
        };
    }
    Ok(())
}
