//! The rows that do not exist for a cell, and those that do but are known to fail, each with its reason.
//!
//! A row does not exist where one of the two sides has no such thing by its revision. What the gateway could do but does
//! not belongs to [`KNOWN`]: such a row runs, and it fails the test when it holds after all.

use causeway_suite::Host;
use causeway_suite::behind::{is_behind_link, is_behind_stdio};

use crate::matrix::cell::{Cell, Server, Where};

/// Which clients.
#[derive(Clone, Copy)]
enum From {
    Any,
    Legacy,
    Modern,
    /// Of a revision before this one.
    Before(&'static str),
}

/// Which servers.
#[derive(Clone, Copy)]
enum To {
    Any,
    Modern,
    /// On the HTTP+SSE transport.
    Sse,
}

use To as T;

const NO_FORMS: &str = "elicitation came with 2025-06-18";
const NO_URLS: &str = "URL mode came with 2025-11-25";
const NO_STRUCTURE: &str = "structured content came with 2025-06-18";
const NO_POLLING: &str = "closing a stream to make the client poll came with 2025-11-25";
const NO_RESUMPTION: &str = "streams of a modern server cannot be taken up again";

/// Rows that ask with a form.
const FORMS: &[&str] = &[
    "several_callers",
    "form_accepted",
    "form_declined",
    "form_cancelled",
    "all_at_once",
    "one_after_another_is_open",
    "two_rounds",
    "two_rounds_and_a_no",
    "a_prompt_that_asks",
    "a_resource_that_asks",
    "asked_on_the_get_stream",
    "asked_on_the_stream_of_another_call",
    "progress_across_an_input_round",
    "cancelled_while_asked",
    "cancelled_after_an_answer",
    "polling_and_asking",
];

const SKIPS: &[(&[&str], From, To, &str)] = &[
    (FORMS, From::Before("2025-06-18"), T::Any, NO_FORMS),
    (FORMS, From::Any, T::Sse, NO_FORMS),
    (&["url_accepted", "url_declined", "url_required"], From::Before("2025-11-25"), T::Any, NO_URLS),
    (&["url_accepted", "url_declined", "url_required", "without_url_mode"], From::Any, T::Sse, NO_URLS),
    (&["structured", "a_structured_list"], From::Any, T::Sse, NO_STRUCTURE),
    (
        &["silence_without_a_log_level"],
        From::Legacy,
        T::Any,
        "a legacy server may log as it likes until it is told a level (2025-11-25 Logging, \"Setting Log Level\")",
    ),
    (&["cancelled_while_asked"], From::Modern, T::Any, "between its rounds a modern call does not run"),
    (
        &["asked_without_the_capability"],
        From::Any,
        T::Modern,
        "a modern server must not, and nothing is translated",
    ),
    (&["asked_on_the_get_stream"], From::Any, T::Modern, "a modern server has no GET stream"),
    (&["asked_on_the_stream_of_another_call"], From::Any, T::Modern, "a modern server sends no requests"),
    (
        &["asked_on_the_stream_of_another_call"],
        From::Modern,
        T::Any,
        "which calls of a modern client share a session is up to the gateway: there need be no other call in it",
    ),
    (&["polling", "polling_and_asking"], From::Any, T::Modern, NO_RESUMPTION),
    (&["polling"], From::Any, T::Sse, NO_POLLING),
    (&["unknown_answers_do_no_harm"], From::Modern, T::Any, "a modern client posts no responses"),
    (&["roots_that_change"], From::Modern, T::Any, "2026-07-28 has no notifications/roots/list_changed"),
    // Of the rows of server-everything.
    (&["a_page_to_visit", "a_page_to_visit_first"], From::Before("2025-11-25"), T::Any, NO_URLS),
    (&["logs_without_a_call"], From::Modern, T::Any, "logs of 2026-07-28 belong to a call"),
];

/// What the gateway does not do.
const KNOWN: &[(&[&str], From, To, &str)] = &[];

/// What a client without a gateway cannot have, since the server speaks its revision.
const DIRECT: &[(&str, &str, &str)] =
    &[("polling", "2025-06-18", NO_POLLING), ("polling_and_asking", "2025-06-18", NO_POLLING)];

/// Why the whole cell is left out.
pub fn cell(server: Server, place: Where) -> Option<&'static str> {
    let plain = !is_behind_link() && !is_behind_stdio();
    match (server, place) {
        (_, Where::Direct) if !plain => Some("what is behind the gateway does not matter without one"),
        (Server::Sse | Server::EverythingSse, _) if is_behind_stdio() => {
            Some("the HTTP+SSE transport is not stdio")
        }
        (Server::Sdk, _) if is_behind_stdio() => Some("it says over HTTP what it saw of its clients"),
        (Server::Polling, _) if is_behind_stdio() => Some("there are no streams to be closed on stdio"),
        _ => None,
    }
}

/// Rows that do not exist where a modern server is a program.
const MODERN_STDIO: &[(&str, &str)] = &[(
    "levels_of_two_clients",
    "on stdio nothing in a log message says which call it is about (2026-07-28 Logging): with two of them it is nobody's",
)];

/// Why `row` does not exist for `cell`.
pub fn reason(row: &str, cell: &Cell) -> Option<&'static str> {
    if is_behind_stdio() && cell.serves_modern() && cell.place != Where::Direct {
        let found = MODERN_STDIO.iter().find(|(name, _)| *name == row);
        if let Some((_, reason)) = found {
            return Some(reason);
        }
    }
    let through_spin = Host::chosen() == Host::Spin && cell.place != Where::Direct;
    if through_spin && cell.is_modern() && row == "cancelled_in_silence" {
        return Some("Spin tells nobody that a client has gone before its answer has begun");
    }
    let direct = DIRECT
        .iter()
        .find(|(name, client, _)| cell.place == Where::Direct && *name == row && *client == cell.client)
        .map(|(_, _, reason)| *reason);
    direct.or_else(|| find(SKIPS, row, cell))
}

/// Why `row` is known to fail in `cell`.
pub fn known(row: &str, cell: &Cell) -> Option<&'static str> {
    find(KNOWN, row, cell)
}

fn find(table: &[(&[&str], From, To, &'static str)], row: &str, cell: &Cell) -> Option<&'static str> {
    let found = table.iter().find(|(names, from, to, _)| {
        let from = match from {
            From::Any => true,
            From::Legacy => !cell.is_modern(),
            From::Modern => cell.is_modern(),
            From::Before(revision) => cell.client < *revision,
        };
        let to = match to {
            To::Any => true,
            To::Modern => cell.serves_modern(),
            To::Sse => cell.server == Server::Sse,
        };
        names.contains(&row) && from && to
    });
    found.map(|(_, _, _, reason)| *reason)
}
