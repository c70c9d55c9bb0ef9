//! ring: strategy × layout → the island graph of each rank: chunks, transfers, partial results and merges.
//!
//! In: a [`Program`](crate::shard::Program) and one of its attentions. Out: rank r's island graph, which snapshots show: its inputs are the rank's
//! rows of q, k and v and then the leaves; its outputs the rank's rows of the results. What it does stands in an `outline`
//! first, from which the schedule is made as well: a graph of every rank of a thousand is a gigabyte that nobody reads.
//!
//! Invariants:
//! * Every visible pair of rows meets exactly once over all ranks; a query row without any key gets one partial over no keys.
//! * Sinks are counted once for each query row and head, by the finish, wherever its keys were.
//! * Keys and values travel packed and un-repeated, a piece (one progression of the layout, or a stage's part of one) whole,
//!   and no further than the last rank whose rows see it. Where queries travel, or heads are dealt out, what goes to a rank is what
//!   it computes with (`sight`, `heads`), and what comes home is one partial result of a rank, or the result.
//! * On two levels of a machine what goes from node to node goes along one level at a time (`levels`): queries and rows cross once for
//!   a node, and partial results are merged before they cross.
//! * Each rank derives the plan of all ranks from the same data, so that both ends of a message agree.
//! * A transfer is started before anything is computed on what it sends.
//! * Whether a pair is visible is asked of [`Mask::tile`](crate::mask::Mask::tile), and of nothing else.

mod error;
mod graph;
pub(crate) mod heads;
pub(crate) mod levels;
pub(crate) mod outline;
mod plan;
mod route;
pub(crate) mod sight;
pub(crate) mod site;

pub use crate::ir::Strategy;
pub use error::RingError;
#[cfg(test)]
pub(crate) use graph::island;
pub use plan::Plan;
