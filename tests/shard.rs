//! The shard room: programs run in lockstep against the whole graph.

#[path = "shard/build.rs"]
mod build;
#[path = "shard/oracle.rs"]
mod oracle;

#[path = "shard/cases.rs"]
mod cases;
