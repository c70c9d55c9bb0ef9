//! Tests of the rooms: one tree inside the crate, so that a test may use what the crate keeps to itself. A folder or a file for
//! each room, and what several of them need in [`support`].
//!
//! What needs the built program stands outside: `tests/cli`, `tests/gpu`. Where a new test goes, and how to run them:
//! `tests/README.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // helpers of tests, which no lint knows as such

mod cache;
mod cases;
mod check;
mod decode;
mod driver;
mod dump;
mod eval;
mod exec;
mod find;
mod fuzz;
mod group;
mod growth;
mod hand_back;
mod hostile;
mod import;
mod ir;
mod kernels;
mod kernels_compile;
mod lower;
mod mpi;
mod opaque;
mod ring;
mod schedule;
mod shard;
mod spine;
mod standins;
pub(crate) mod support;
