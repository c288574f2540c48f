//! The era matrix: every client revision against every kind of server, with each feature as a row.
//!
//! One test is one cell: a client, a server, and where the two meet. It runs all rows of [`rows::ROWS`] that exist for
//! it, and fails with a list of those that did not go as expected. [`skips::SKIPS`] says which rows do not exist where, and
//! why. A table of all cells is printed at the end:
//!
//! ```text
//! cargo test -p causeway-suite matrix::
//! CAUSEWAY_ROW=tools_changed,progress cargo test -p causeway-suite matrix::merged
//! ```

mod behind;
mod cell;
mod rows;
mod skips;
mod table;

use cell::{Server, Where};

macro_rules! cells {
    ($($name:ident: $client:literal, $server:ident, $place:ident;)*) => {$(
        #[tokio::test]
        async fn $name() {
            cell::run($client, Server::$server, Where::$place).await;
        }
    )*};
}

cells! {
    // Without a gateway: what the clients and the servers of this suite say to each other is right.
    direct_legacy_2025_06_18: "2025-06-18", Legacy, Direct;
    direct_legacy_2025_11_25: "2025-11-25", Legacy, Direct;
    direct_polling: "2025-11-25", Polling, Direct;
    direct_http_sse: "2024-11-05", Sse, Direct;
    direct_modern: "2026-07-28", Modern, Direct;

    direct_2025_11_25_to_everything: "2025-11-25", Everything, Direct;
    direct_modern_to_the_sdk: "2026-07-28", Sdk, Direct;

    own_2025_06_18_to_legacy: "2025-06-18", Legacy, Own;
    own_2025_11_25_to_legacy: "2025-11-25", Legacy, Own;
    own_modern_to_legacy: "2026-07-28", Legacy, Own;
    own_2025_06_18_to_modern: "2025-06-18", Modern, Own;
    own_2025_11_25_to_modern: "2025-11-25", Modern, Own;
    own_modern_to_modern: "2026-07-28", Modern, Own;
    own_2025_06_18_to_the_sdk: "2025-06-18", Sdk, Own;
    own_2025_11_25_to_the_sdk: "2025-11-25", Sdk, Own;
    own_modern_to_the_sdk: "2026-07-28", Sdk, Own;

    merged_2025_06_18_to_legacy: "2025-06-18", Legacy, Merged;
    merged_2025_11_25_to_legacy: "2025-11-25", Legacy, Merged;
    merged_modern_to_legacy: "2026-07-28", Legacy, Merged;
    merged_2025_06_18_to_modern: "2025-06-18", Modern, Merged;
    merged_2025_11_25_to_modern: "2025-11-25", Modern, Merged;
    merged_modern_to_modern: "2026-07-28", Modern, Merged;
    merged_2025_11_25_to_the_sdk: "2025-11-25", Sdk, Merged;
    merged_modern_to_the_sdk: "2026-07-28", Sdk, Merged;

    own_2025_06_18_to_everything: "2025-06-18", Everything, Own;
    own_2025_11_25_to_everything: "2025-11-25", Everything, Own;
    own_modern_to_everything: "2026-07-28", Everything, Own;
    merged_2025_11_25_to_everything: "2025-11-25", Everything, Merged;
    merged_modern_to_everything: "2026-07-28", Everything, Merged;

    // A server that makes its clients poll.
    own_2025_11_25_to_polling: "2025-11-25", Polling, Own;
    own_modern_to_polling: "2026-07-28", Polling, Own;

    // Revisions with less in them.
    own_2025_03_26_to_legacy: "2025-03-26", Legacy, Own;
    own_2025_03_26_to_modern: "2025-03-26", Modern, Own;
    merged_2025_03_26_to_modern: "2025-03-26", Modern, Merged;

    // The transport of 2024-11-05, in front and behind.
    sse_to_legacy: "2024-11-05", Legacy, Own;
    sse_to_modern: "2024-11-05", Modern, Own;
    sse_to_sse: "2024-11-05", Sse, Own;
    merged_sse_to_legacy: "2024-11-05", Legacy, Merged;
    merged_sse_to_modern: "2024-11-05", Modern, Merged;
    own_2025_11_25_to_sse: "2025-11-25", Sse, Own;
    own_modern_to_sse: "2026-07-28", Sse, Own;
    merged_2025_11_25_to_sse: "2025-11-25", Sse, Merged;
    merged_modern_to_sse: "2026-07-28", Sse, Merged;
    own_modern_to_everything_on_sse: "2026-07-28", EverythingSse, Own;
    own_2025_11_25_to_everything_on_sse: "2025-11-25", EverythingSse, Own;
}
