//! The whole gateway on the fake platform: what goes in, what comes out, and every ask in between.

mod server;
mod world;

mod eras;
mod lists;
mod rules;
mod sessions;
mod streams;
