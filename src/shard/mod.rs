//! shard: which axis of which value is the sequence, and who owns which rows.
//!
//! In: a graph with attention nodes and a number of ranks. Out: a [`Program`]: the placement of every value, and the order of
//! local segments, gathers and islands; on demand a rank's graph of a segment (`local_graph`) and of the whole program
//! (`rank_graph`).
//!
//! Invariants: a sequence is followed as a factor of an axis (`axes`), never by its size; the decision is one for all ranks;
//! only what an attention or a sum of products went into is ever gathered; a rank without rows is a rank like any other.

mod axes;
mod error;
mod factor;
#[cfg(any(feature = "dump", test))]
mod flops;
mod joins;
mod local;
mod options;
mod place;
mod propagate;
mod rank_graph;
mod rank_ops;
mod reads;
mod refusal;
mod rowwise;
mod sequences;
mod split;
mod types;
mod verify;

pub use error::ShardError;
#[cfg(any(feature = "dump", test))]
pub(crate) use flops::{local_flops, whole_flops};
pub(crate) use local::{LocalGraph, local_graph};
pub use options::{Handed, MAX_RANKS, ShardOptions};
pub(crate) use rank_graph::rank_graph;
pub(crate) use rank_ops::{RankOps, local_type};
pub(crate) use refusal::by_sizes;
pub use rowwise::Rowwise;
pub use split::shard;
pub(crate) use split::{refusals, shard_with};
pub use types::{IslandSharding, Placement, Program, Segment, Sharding};
pub(crate) use verify::verify_program;
