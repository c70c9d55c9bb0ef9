//! Work of a rank outside islands.

use super::{Program, Segment, local_graph};
use crate::ir::flops::graph_flops;

/// Floating-point operations of `rank` in local segments, counted as [`graph_flops`] counts them.
///
/// # Panics
/// If there is no such rank.
pub fn local_flops(program: &Program, rank: usize) -> u64 {
    let local = program.segments.iter().enumerate().filter(|(_, s)| matches!(s, Segment::Local(_)));
    local.map(|(at, _)| graph_flops(&local_graph(program, at, rank).graph)).sum()
}
