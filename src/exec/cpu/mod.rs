//! exec/cpu: runs the schedules of all ranks in one process, streams and events honoured.
//!
//! In: a program, its schedules, whole inputs. Out: whole outputs, and what was sent.
//!
//! Invariants: a step starts only when every step before it on its stream is done and its events have happened, and nothing
//! else orders steps, so that a schedule that lacks an event fails under some seed. A transfer happens while both ends are
//! in their exchange; nothing is buffered. Bytes that nobody wrote, that are being received, or whose last
//! reader is done are NaN. Schedules
//! may come from untrusted text: every view, row and event is checked, and what cannot run is an error, never a hang.
//!
//! `program` walks the segments; `island` is the event loop of one schedule over `arena` and `kernel`; `validate` holds
//! what must be true of a schedule before a byte is touched; `rows` cuts and joins tensors by rows.

mod acc;
mod arena;
mod island;
mod kernel;
mod leaves;
mod program;
mod rows;
mod validate;

pub use island::run_island;
pub use program::{run, run_watched};

use crate::ir::Tensor;

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("rank {rank}, {at}: {why}")]
pub struct ExecError {
    /// The rank that failed first.
    pub rank: usize,
    /// Where: the segment or the island and its step.
    pub at: String,
    /// What is wrong.
    pub why: String,
}

/// What was sent, per rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes_sent: Vec<usize>,
    /// Messages.
    pub messages: Vec<usize>,
}

impl Traffic {
    fn of_ranks(ranks: usize) -> Traffic {
        Traffic { bytes_sent: vec![0; ranks], messages: vec![0; ranks] }
    }

    fn add(&mut self, other: &Traffic) {
        for (a, b) in self.bytes_sent.iter_mut().zip(&other.bytes_sent) {
            *a += b;
        }
        for (a, b) in self.messages.iter_mut().zip(&other.messages) {
            *a += b;
        }
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The segment that runs, from 0.
    pub segment: usize,
    /// How many there are.
    pub segments: usize,
    /// Steps of the island, over all ranks, that have begun.
    pub begun: usize,
    /// How many it has; 0 if the segment is no island.
    pub steps: usize,
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Whole outputs, in the order of the graph's.
    pub outputs: Vec<Tensor>,
    /// Counted by the executor, gathers included, without putting outputs together.
    pub traffic: Traffic,
}
