//! The features, one row each.

mod asking;
mod basics;
mod content;
mod everything;
mod flow;
mod news;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use causeway_suite::party::Party;
use serde_json::Value;

use crate::matrix::cell::{Cell, Server};

/// What a row does: `Err` says what was expected and what came.
pub type Row = fn(Arc<Cell>) -> Pin<Box<dyn Future<Output = Done> + Send>>;

pub type Done = Result<(), String>;

macro_rules! rows {
    ($rows:ident: $($module:ident::$row:ident,)*) => {
        const $rows: &[(&str, Row)] = &[$((stringify!($row), |cell| Box::pin($module::$row(cell))),)*];
    };
}

/// The rows of `server`, in the order of the table.
pub fn of(server: Server) -> &'static [(&'static str, Row)] {
    match server {
        Server::Everything | Server::EverythingSse => EVERYTHING,
        Server::Legacy | Server::Polling | Server::Modern | Server::Sse | Server::Sdk => ROWS,
    }
}

rows! {
    ROWS:
    basics::plain_calls,
    basics::errors,
    basics::several_callers,
    asking::form_accepted,
    asking::form_declined,
    asking::form_cancelled,
    asking::url_accepted,
    asking::url_declined,
    asking::url_required,
    asking::sampling,
    asking::roots,
    asking::all_at_once,
    asking::one_after_another_is_open,
    asking::two_rounds,
    asking::two_rounds_and_a_no,
    asking::calls_side_by_side,
    asking::a_prompt_that_asks,
    asking::a_resource_that_asks,
    asking::without_sampling,
    asking::without_url_mode,
    asking::asked_without_the_capability,
    asking::asked_on_the_get_stream,
    asking::asked_on_the_stream_of_another_call,
    asking::unknown_answers_do_no_harm,
    asking::roots_that_change,
    flow::progress,
    flow::no_progress_without_a_token,
    flow::progress_across_an_input_round,
    flow::logs_at_a_level,
    flow::levels_of_two_clients,
    flow::silence_without_a_log_level,
    flow::a_level_that_does_not_exist,
    flow::cancelled,
    flow::cancelled_in_silence,
    flow::cancelled_while_asked,
    flow::cancelled_after_an_answer,
    flow::polling,
    flow::polling_and_asking,
    news::tools_changed,
    news::prompts_changed,
    news::resources_changed,
    news::only_what_was_asked_for,
    news::a_resource_updated,
    news::an_unsubscribed_resource,
    content::every_kind,
    content::structured,
    content::a_structured_list,
}

rows! {
    EVERYTHING:
    everything::calls,
    everything::tools_for_the_client,
    everything::form_accepted,
    everything::form_declined,
    everything::form_cancelled,
    everything::a_page_to_visit,
    everything::a_page_to_visit_first,
    everything::sampling,
    everything::roots,
    everything::progress,
    everything::logs_without_a_call,
    everything::a_resource_updated,
    everything::content,
}

/// `Ok` if the two are equal.
pub fn same<T: PartialEq<U> + Debug, U: Debug>(what: &str, seen: T, expected: U) -> Done {
    if seen == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, saw {seen:?}")) }
}

/// `Ok` if `holds`.
pub fn holds(holds: bool, otherwise: impl FnOnce() -> String) -> Done {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Calls the tool `name` and gives what it said.
pub async fn said(cell: &Cell, party: &Party, name: &str, arguments: Value) -> Result<Value, String> {
    party.tool(&cell.name(name), arguments).await?.said()
}
