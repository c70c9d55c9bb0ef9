//! The Program: what each rank does, as one decision for all of them.

use crate::ir::{Graph, OpId, ValueId};
use crate::layout::Layout;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a value is held by the ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Every rank has, or computes, all of it.
    Whole,
    /// Each rank has its rows.
    Sharded(Sharding),
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
pub enum Segment {
    /// Operations that need no other rank, in order.
    Local(Vec<OpId>),
    /// A sharded value is put together on every rank.
    Gather {
        /// The value.
        value: ValueId,
        /// The operation that needs it whole, and why.
        reason: String,
    },
    /// An attention that is split over the ranks.
    Island(OpId),
}

/// A graph and how it is split. Rank r's graph is made on demand by [`super::rank_graph`], never stored P times.
#[derive(Clone, Debug)]
pub struct Program {
    /// The graph with attention nodes, whole.
    pub graph: Arc<Graph>,
    /// Number of ranks.
    pub ranks: usize,
    /// The layouts in use: one per sequence of the model.
    pub layouts: Vec<Layout>,
    /// Placement of each value where its producer leaves it. Inputs and constants are `Whole` unless the host hands rows.
    pub placements: BTreeMap<ValueId, Placement>,
    /// What is done, in order, by every rank.
    pub segments: Vec<Segment>,
    /// Attentions that are computed whole, with the reason.
    pub refused: Vec<(OpId, String)>,
}
