//! What a run gives, and how far it has come.

use crate::ir::Tensor;

/// What was sent, per rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes_sent: Vec<usize>,
    /// Messages.
    pub messages: Vec<usize>,
}

impl Traffic {
    /// Nothing yet.
    pub(super) fn of_ranks(ranks: usize) -> Traffic {
        Traffic { bytes_sent: vec![0; ranks], messages: vec![0; ranks] }
    }

    /// What was sent in both.
    pub(super) fn add(&mut self, other: &Traffic) {
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
