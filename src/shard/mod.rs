//! shard: which axis of which value is the sequence, and who owns which rows.
//!
//! In: a graph with attention nodes and a number of ranks. Out: a [`Program`].

pub mod types;
pub use types::*;

use crate::ir::{Graph, ValueId};
use crate::layout::LayoutKind;
use std::sync::Arc;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Number of ranks, at least 1.
    pub ranks: usize,
    /// The layout; `None`: zigzag for a sequence with a causal attention, else contiguous.
    pub layout: Option<LayoutKind>,
}

/// Why a graph could not be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
}

/// One rank's graph of a local segment.
#[derive(Clone, Debug)]
pub struct LocalGraph {
    /// The graph; values and operations carry the names of the program's graph.
    pub graph: Graph,
    /// For each input of `graph`, the program's value that it holds, as [`Program::held`] says: the rank's rows where it is
    /// sharded and not gathered before.
    pub inputs: Vec<ValueId>,
    /// For each output of `graph`, the program's value that it makes.
    pub outputs: Vec<ValueId>,
}

/// Splits a graph.
///
/// # Errors
/// See [`ShardError`].
pub fn shard(_graph: Arc<Graph>, _options: &ShardOptions) -> Result<Program, ShardError> {
    Err(ShardError::Options("not written".into()))
}

/// The graph of local segment `segment` on `rank`.
///
/// # Panics
/// If that segment is not local.
pub fn local_graph(_program: &Program, _segment: usize, _rank: usize) -> LocalGraph {
    unimplemented_local()
}

fn unimplemented_local() -> LocalGraph {
    LocalGraph { graph: Graph::default(), inputs: vec![], outputs: vec![] }
}

/// The printed program of a rank (see [`Program`]); `islands` holds the name of the strategy and the island graph of each
/// split attention.
pub fn rank_graph(
    _program: &Program,
    _rank: usize,
    _islands: &std::collections::BTreeMap<crate::ir::OpId, (String, Arc<Graph>)>,
) -> Graph {
    Graph::default()
}
