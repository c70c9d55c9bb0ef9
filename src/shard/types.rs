//! The Program: what each rank does, as one decision for all of them.

use super::error::ShardError;
use crate::ir::{Graph, OpId, Reduction, ValueId};
use crate::layout::{Layout, Progression};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a value is held by the ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Every rank has, or computes, all of it.
    Whole,
    /// Each rank has its rows.
    Sharded(Sharding),
    /// Each rank has its part of a fold over the rows, in [`DType::part`](crate::ir::DType::part) of the value's type: the parts
    /// of all ranks, folded in this way in the order of the ranks, are the value. Nothing reads it before its
    /// [`Segment::Reduce`].
    Parts(Reduction),
}

/// Which axis of a value carries a sequence, and who owns which of its rows. The axis is taken as
/// (outer, length, inner), row-major: a flattened batch × rows has outer = batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// The axis.
    pub axis: usize,
    /// Extent outside the rows.
    pub outer: usize,
    /// Extent inside the rows.
    pub inner: usize,
    /// Index in [`Program::layouts`].
    pub layout: usize,
}

/// A piece of every rank's work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Segment {
    /// Operations that need no other rank, in order.
    Local(Vec<OpId>),
    /// A sharded value is put together on every rank; from here on it is held whole.
    Gather {
        /// The value.
        value: ValueId,
        /// The operation that needs it whole, and why.
        reason: String,
    },
    /// A value of which each rank has a part is folded over the ranks, in their order; from here on every rank holds it whole.
    Reduce {
        /// The value.
        value: ValueId,
        /// How: [`Reduction::Sum`], [`Reduction::Max`] or [`Reduction::Min`].
        kind: Reduction,
    },
    /// An attention that is split over the ranks.
    Island(OpId),
}

impl Segment {
    /// The value that every rank holds whole from here on, if this is an exchange that puts one together.
    pub fn makes_whole(&self) -> Option<ValueId> {
        match self {
            Segment::Gather { value, .. } | Segment::Reduce { value, .. } => Some(*value),
            Segment::Local(_) | Segment::Island(_) => None,
        }
    }
}

/// What an island is handed and who owns its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IslandSharding {
    /// Layout of the query rows, of the results too: an index in [`Program::layouts`].
    pub q_layout: usize,
    /// Layout of the key rows.
    pub kv_layout: usize,
    /// How a rank is handed each operand: its rows of q, k and v; of a leaf its query rows, or all of it. A value that is
    /// held whole is sliced where it is handed over.
    pub operands: Vec<Placement>,
}

/// A graph and how it is split. Rank r's graph is made on demand by [`Compiled::rank_graph`](crate::Compiled::rank_graph), never stored P times.
#[derive(Clone, Debug)]
pub struct Program {
    /// The graph with attention nodes, whole.
    pub graph: Arc<Graph>,
    /// Number of ranks.
    pub ranks: usize,
    /// The layouts in use: one per sequence of the model.
    pub layouts: Vec<Layout>,
    /// For a layout whose rows are those of others, one behind the other (a cache and the new rows): which.
    pub joined: BTreeMap<usize, Vec<usize>>,
    /// Placement of each live value where its producer leaves it; see [`Program::held`] for what a gather changes.
    /// Inputs and constants are `Whole` unless the host hands rows.
    pub placements: BTreeMap<ValueId, Placement>,
    /// What is done, in order, by every rank.
    pub segments: Vec<Segment>,
    /// The attentions that are split, and how they are handed their operands.
    pub islands: BTreeMap<OpId, IslandSharding>,
    /// Attentions that are not split along their rows, with the reason.
    pub refused: Vec<(OpId, String)>,
}

impl Program {
    /// How the ranks hold a value when `segment` begins (`segments.len()`: at the end): a sharded value is whole once it
    /// was gathered, and one that is held in parts once it was reduced. A value that no output needs is not held; it counts
    /// as whole.
    pub fn held(&self, value: ValueId, segment: usize) -> &Placement {
        match self.placements.get(&value) {
            Some(p) if !self.segments.iter().take(segment).any(|s| s.makes_whole() == Some(value)) => p,
            _ => &Placement::Whole,
        }
    }

    /// Makes the layouts of joined sequences what those of their parts say, after these were changed.
    pub fn rejoin(&mut self) {
        let mut joined: Vec<(&usize, &Vec<usize>)> = self.joined.iter().collect();
        // What is joined is no shorter than its parts.
        joined.sort_by_key(|(at, _)| self.layouts[**at].length);
        for (&at, parts) in joined {
            if !parts.contains(&at) {
                self.layouts[at] =
                    Layout::joined(&parts.iter().map(|&p| &self.layouts[p]).collect::<Vec<_>>());
            }
        }
    }

    /// The rows that `rank` owns under a sharding, by global number, in the order in which it holds them; none if there is no
    /// such rank or layout.
    pub fn rows(&self, sharding: &Sharding, rank: usize) -> &[Progression] {
        self.layouts.get(sharding.layout).and_then(|l| l.rows.get(rank)).map_or(&[], Vec::as_slice)
    }

    /// Refuses a rank that there is not.
    pub(crate) fn numbered(&self, rank: usize) -> Result<(), ShardError> {
        if rank < self.ranks { Ok(()) } else { Err(ShardError::Rank { rank, ranks: self.ranks }) }
    }
}
