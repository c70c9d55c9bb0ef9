//! Work outside islands.

use super::error::ShardError;
use super::local::local_graph;
use super::types::{Program, Segment};
use crate::ir::flops::{attention_flops, graph_flops};
use crate::ir::{Graph, OpId};
use std::collections::BTreeSet;

/// Floating-point operations of `rank` in local segments, counted as [`graph_flops`] counts them, and the attentions there: each
/// that is no island is computed whole, or for the rank's part of the batch.
///
/// # Errors
/// As [`local_graph`].
pub(crate) fn local_flops(program: &Program, rank: usize) -> Result<u64, ShardError> {
    let local = program.segments.iter().enumerate().filter(|(_, s)| matches!(s, Segment::Local(_)));
    let work = |graph: &Graph| graph_flops(graph).saturating_add(attention_flops(graph, |_| true));
    let graphs = local.map(|(at, _)| local_graph(program, at, rank));
    { graphs }.try_fold(0, |sum: u64, local| Ok(sum.saturating_add(work(&local?.graph))))
}

/// The same of the unsharded model: everything but the attentions that are islands.
pub(crate) fn whole_flops(program: &Program) -> u64 {
    // In a local segment: live, and no island.
    let local: BTreeSet<OpId> = program
        .segments
        .iter()
        .flat_map(|s| if let Segment::Local(ops) = s { ops.as_slice() } else { &[] })
        .copied()
        .collect();
    graph_flops(&program.graph).saturating_add(attention_flops(&program.graph, |op| local.contains(&op)))
}
