//! The shard room: programs run in lockstep against the whole graph.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which no lint knows as such

#[path = "shard/build.rs"]
mod build;
#[path = "support/data.rs"]
mod data;
#[path = "shard/oracle.rs"]
mod oracle;

#[path = "shard/cases.rs"]
mod cases;
#[path = "shard/given.rs"]
mod given;
#[path = "shard/models.rs"]
mod models;
#[path = "shard/printed.rs"]
mod printed;
#[path = "shard/random.rs"]
mod random;
