//! The rows that do not exist for a cell, each with its reason.

use crate::cell::{Cell, Where};

/// Which clients.
#[derive(Clone, Copy)]
enum From {
    Any,
    Legacy,
    Modern,
    Revision(&'static str),
}

/// Which servers.
#[derive(Clone, Copy)]
enum To {
    Any,
    Modern,
}

use To as T;

const SKIPS: &[(&str, From, To, &str)] = &[
    ("url_accepted", From::Revision("2025-06-18"), T::Any, "2025-06-18 has no URL mode"),
    ("url_declined", From::Revision("2025-06-18"), T::Any, "2025-06-18 has no URL mode"),
    ("url_required", From::Revision("2025-06-18"), T::Any, "2025-06-18 has no URL mode"),
    (
        "silence_without_a_log_level",
        From::Legacy,
        T::Any,
        "a legacy server may log as it likes until it is told a level (2025-11-25 Logging, \"Setting Log Level\")",
    ),
    ("cancelled_while_asked", From::Modern, T::Any, "between its rounds a modern call does not run"),
    (
        "asked_without_the_capability",
        From::Any,
        T::Modern,
        "a modern server must not do that, and nothing is translated",
    ),
    ("asked_on_the_get_stream", From::Any, T::Modern, "a modern server has no GET stream"),
    ("asked_on_the_stream_of_another_call", From::Any, T::Modern, "a modern server sends no requests"),
    ("polling", From::Any, T::Modern, "streams of a modern server cannot be taken up again"),
    ("polling_and_asking", From::Any, T::Modern, "streams of a modern server cannot be taken up again"),
    ("unknown_answers_do_no_harm", From::Modern, T::Any, "a modern client posts no responses"),
    ("roots_that_change", From::Modern, T::Any, "2026-07-28 has no notifications/roots/list_changed"),
];

/// Rows that need something of the other side that a direct cell of the revision does not have.
const DIRECT_SKIPS: &[(&str, &str, &str)] = &[
    ("polling", "2025-06-18", "closing a stream to make the client poll came with 2025-11-25"),
    ("polling_and_asking", "2025-06-18", "closing a stream to make the client poll came with 2025-11-25"),
];

/// Why `row` does not exist for `cell`.
pub fn reason(row: &str, cell: &Cell) -> Option<&'static str> {
    let direct = DIRECT_SKIPS
        .iter()
        .find(|(name, client, _)| cell.place == Where::Direct && *name == row && *client == cell.client)
        .map(|(_, _, reason)| *reason);
    let general = SKIPS.iter().find(|(name, from, to, _)| {
        let from = match from {
            From::Any => true,
            From::Legacy => !cell.is_modern(),
            From::Modern => cell.is_modern(),
            From::Revision(revision) => cell.client == *revision,
        };
        let to = match to {
            To::Any => true,
            To::Modern => cell.serves_modern(),
        };
        *name == row && from && to
    });
    direct.or(general.map(|(_, _, _, reason)| *reason))
}
