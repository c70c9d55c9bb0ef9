//! schedule: the island graphs of all ranks become one program with streams, events and slots.
//!
//! In: an attention of a program and the island graph of every rank. Out: a [`Schedule`].

mod text;
pub mod types;
pub use text::parse;
pub use types::*;

use crate::ir::{Graph, OpId};
use crate::ring::Strategy;
use crate::shard::Program;

/// Why island graphs could not be scheduled. It always means a fault in the pass itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("island {island}, rank {rank}: {why}")]
pub struct ScheduleError {
    /// Name of the island.
    pub island: String,
    /// The rank.
    pub rank: usize,
    /// What is wrong.
    pub why: String,
}

/// Schedules the island graphs (one per rank) of the attention `op`.
///
/// # Errors
/// See [`ScheduleError`].
pub fn schedule(
    _program: &Program,
    op: OpId,
    _strategy: Strategy,
    _islands: &[Graph],
) -> Result<Schedule, ScheduleError> {
    Err(ScheduleError { island: format!("{}", op.index()), rank: 0, why: "not written".into() })
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rendered}")]
pub struct ParseScheduleError {
    /// The message with the line and a caret.
    pub rendered: String,
}
