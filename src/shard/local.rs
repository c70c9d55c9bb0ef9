//! A rank's graph of a local segment: the segment's operations with the rank's extents.
//!
//! In: a [`Program`], a segment and a rank. Out: a [`LocalGraph`], well typed because every type is inferred anew.

use super::error::ShardError;
use super::rank_ops::RankOps;
use super::types::{Program, Segment};
use crate::ir::{Graph, OpId, ValueId};
use std::collections::HashSet;

/// One rank's graph of a local segment.
#[derive(Clone, Debug)]
pub(crate) struct LocalGraph {
    /// The graph; values and operations carry the names of the program's graph.
    pub graph: Graph,
    /// For each input of `graph`, the program's value that it holds, as [`Program::held`] says: the rank's rows where it is
    /// sharded and not gathered before.
    pub inputs: Vec<ValueId>,
    /// For each output of `graph`, the program's value that it makes.
    pub outputs: Vec<ValueId>,
}

/// The graph of local segment `segment` on `rank`.
///
/// # Errors
/// If there is no such segment or rank, or the segment is not local; [`ShardError::Fault`] if the program is not what
/// [`verify_program`](super::verify_program) asks.
pub(crate) fn local_graph(program: &Program, segment: usize, rank: usize) -> Result<LocalGraph, ShardError> {
    program.numbered(rank)?;
    let Some(Segment::Local(ops)) = program.segments.get(segment) else {
        return Err(ShardError::Segment { segment });
    };
    let name = format!("{}.segment{segment}", program.graph.name());
    let mut rank_ops = RankOps::new(program, segment, rank, Graph::new(name));
    for &op in ops {
        rank_ops.add(op)?;
    }
    let inside: HashSet<OpId> = ops.iter().copied().collect();
    let returned: HashSet<ValueId> = program.graph.outputs().iter().map(|o| o.value).collect();
    let leaves = |v: &ValueId| {
        let live = |op: &OpId| program.placements.contains_key(&program.graph.result(*op));
        let outside = |(op, _): &(OpId, usize)| !inside.contains(op) && live(op);
        returned.contains(v) || program.graph.uses(*v).iter().any(outside)
    };
    let outputs: Vec<ValueId> = ops.iter().flat_map(|&op| program.graph.results(op)).filter(leaves).collect();
    for v in &outputs {
        let local = rank_ops.here.get(v).copied();
        let name = &program.graph.value(*v).name;
        let local = local.ok_or_else(|| ShardError::fault(name, "nothing makes it"))?;
        rank_ops.graph.output(name, local);
    }
    Ok(LocalGraph { graph: rank_ops.graph, inputs: rank_ops.inputs, outputs })
}
