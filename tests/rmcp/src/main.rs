//! A real server and a real client of the Rust SDK, to put behind and in front of the gateway.
//!
//! ```text
//! causeway-rmcp serve ADDRESS                       # both eras; prints `listening on URL` on stderr
//! causeway-rmcp stdio                               # the same, over standard input and output
//! causeway-rmcp client [--legacy] URL PLAN [KEY]    # PLAN: JSON, see tests/clients/run.cjs
//! ```

#![allow(clippy::indexing_slicing, reason = "indexing JSON gives null, it does not panic")]

mod client;
mod server;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["serve", address] => server::serve(address).await,
        ["stdio"] => server::stdio().await,
        ["client", "--legacy", url, plan] => client::run(url, plan, None, true).await,
        ["client", "--legacy", url, plan, key] => client::run(url, plan, Some(key), true).await,
        ["client", url, plan] => client::run(url, plan, None, false).await,
        ["client", url, plan, key] => client::run(url, plan, Some(key), false).await,
        _ => {
            eprintln!("causeway-rmcp serve ADDRESS | stdio | client [--legacy] URL PLAN [KEY]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
