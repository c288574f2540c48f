//! `causeway stdio`: clients that only speak stdio, in front of a gateway, in both eras and when things break.

mod client;
mod ends;
mod legacy;
mod modern;
mod serve;
mod trouble;
