//! The shard room: programs run in lockstep against the whole graph.

mod build;
mod oracle;

mod cases;
mod given;
mod models;
mod printed;
mod random;
mod relations;
