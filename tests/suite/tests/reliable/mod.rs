//! What holds when things break in the middle: gateways that are killed, connections that are cut, states that are
//! replayed, clients that never come back.

use causeway_fixture::{Fixture, Options};
use causeway_suite::legacy::Legacy;
use causeway_suite::modern::Modern;
use causeway_suite::party::{Able, Target};
use causeway_suite::{Gateway, serving};

/// Makes three tests of a function of a [`World`]: with a legacy server by itself, since what the clients and servers of
/// this suite do to each other must be right first, and with a server of either era behind the gateway.
macro_rules! in_each_world {
    ($($name:ident)*) => {
        mod by_itself {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::reliable::World::direct(causeway_fixture::Options::legacy("one")).await).await;
            })*
        }
        mod before_a_legacy_server {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::reliable::World::through_the_gateway(causeway_fixture::Options::legacy("one")).await).await;
            })*
        }
        mod before_a_modern_server {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::reliable::World::through_the_gateway(causeway_fixture::Options::modern("one")).await).await;
            })*
        }
    };
}

mod parked;
mod streams;
mod thousand;

/// A server with the features of the matrix, alone behind a gateway or alone.
pub struct World {
    pub fixture: Fixture,
    pub gateway: Option<Gateway>,
}

impl World {
    pub async fn through_the_gateway(options: Options) -> Self {
        let fixture = Fixture::start(options.matrix()).await;
        let gateway = Gateway::start(serving(&[("one", &fixture)])).await;
        Self { fixture, gateway: Some(gateway) }
    }

    pub async fn direct(options: Options) -> Self {
        Self { fixture: Fixture::start(options.matrix()).await, gateway: None }
    }

    /// Says in a failure which world it was.
    pub fn what(&self) -> &'static str {
        if self.gateway.is_some() { "through the gateway" } else { "directly" }
    }

    pub fn target(&self) -> Target {
        let url = self.gateway.as_ref().map_or_else(|| self.fixture.url(), |gateway| gateway.url("/mcp/one"));
        Target::new(url)
    }

    pub async fn modern(&self) -> Modern {
        Modern::connect(&self.target(), Able::all("2026-07-28")).await.unwrap()
    }

    pub async fn legacy(&self) -> Legacy {
        let revision = "2025-11-25";
        Legacy::connect(&self.target(), revision, Able::all(revision)).await.unwrap()
    }

    pub async fn restart(&mut self) {
        self.gateway.as_mut().unwrap().restart().await;
    }
}
