//! Runs the Spin component as Spin does, for tests: the registries of the machines that test have no Spin.
//!
//! It reads the very manifest (`spin.toml`) that Spin reads, as far as the gateway's needs go, and takes variables from
//! `SPIN_VARIABLE_*`. Instances are shared and let go by Spin's rules, through the same crate that Spin uses for it.
//! What differs: one component, HTTP/1.1 only, a connection of its own for each request that goes out by TLS.

mod manifest;
mod outbound;
mod serve;
mod spin;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Runs the Spin component as Spin does, for tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// The manifest.
    #[arg(long, default_value = "spin.toml")]
    from: PathBuf,
    /// Where to listen; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where state is kept.
    #[arg(long, default_value = ".spin")]
    state_dir: PathBuf,
    /// Requests that one instance takes in all; 1 gives each request an instance of its own.
    #[arg(long, default_value_t = 128)]
    max_instance_reuse_count: usize,
    /// Requests that one instance takes at a time.
    #[arg(long, default_value_t = 16)]
    max_instance_concurrent_reuse_count: usize,
    /// Seconds after which an idle instance is let go.
    #[arg(long, default_value_t = 1)]
    idle_instance_timeout: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let manifest = manifest::Manifest::read(&arguments.from)?;
    let host = spin::Host::new(&manifest, &arguments.state_dir)?;
    let rules = serve::Rules {
        in_all: arguments.max_instance_reuse_count,
        at_a_time: arguments.max_instance_concurrent_reuse_count,
        idle: Duration::from_secs(arguments.idle_instance_timeout),
    };
    serve::serve(host, rules, arguments.listen).await
}
