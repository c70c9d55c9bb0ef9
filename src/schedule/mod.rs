//! schedule: the island graphs of all ranks become one program with streams, events and slots.
//!
//! In: an attention of a program and the island graph of every rank. Out: a [`Schedule`].
//!
//! Invariants: what is done, and in which order it is issued, stands in the island graphs; this room adds only where bytes
//! lie and what waits for what. Merges and the finish become fields of the partial before them. Events are derived from the
//! bytes that steps touch, and none can be left out. A graph that does not fit is refused: it is a fault in the pass.

mod build;
mod events;
mod fold;
mod slots;
mod text;
pub mod types;
pub use text::parse;
pub use types::*;

use crate::ir::{Graph, OpId};
use crate::ring::Strategy;
use crate::ring::site::Site;
use crate::shard::Program;

/// Why island graphs could not be scheduled. It always means a fault in the pass itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("island {island}, rank {rank}: {why}")]
pub struct ScheduleError {
    /// Name of the island.
    pub island: String,
    /// The rank.
    pub rank: usize,
    /// What is wrong.
    pub why: String,
}

/// Schedules the island graphs (one per rank) of the attention `op`.
///
/// # Errors
/// See [`ScheduleError`].
pub fn schedule(
    program: &Program,
    op: OpId,
    strategy: Strategy,
    islands: &[Graph],
) -> Result<Schedule, ScheduleError> {
    let site = Site::of(program, op).map_err(|e| ScheduleError { island: e.at, rank: 0, why: e.reason })?;
    let fault = |rank, why| ScheduleError { island: site.name.clone(), rank, why };
    if islands.len() != site.ranks() {
        return Err(fault(0, format!("{} island graphs for {} ranks", islands.len(), site.ranks())));
    }
    let attention = facts(&site);
    let ranks = islands
        .iter()
        .enumerate()
        .map(|(rank, graph)| {
            build::rank_program(&site, &attention, graph, rank).map_err(|why| fault(rank, why))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Schedule {
        name: site.name.clone(),
        strategy: strategy.name().to_owned(),
        attention,
        q_layout: site.q_layout.clone(),
        kv_layout: site.kv_layout.clone(),
        ranks,
    })
}

/// What the schedule claims to compute.
fn facts(site: &Site<'_>) -> AttentionFacts {
    let a = site.attention;
    let leaf = |leaf: &crate::ring::site::LeafSite| {
        let mut shape = [1; 4];
        shape[4 - leaf.ty.rank()..].copy_from_slice(&leaf.ty.shape);
        Leaf { dtype: leaf.ty.dtype, shape, by_query_rows: leaf.by_query_rows }
    };
    AttentionFacts {
        sizes: site.sizes,
        dtype: site.dtype,
        acc: a.acc,
        scale: a.scale,
        softcap: a.softcap,
        mask: a.mask.clone(),
        bias: a.bias,
        sinks: a.sinks,
        empty_row: a.empty_row,
        lse: a.lse,
        leaves: site.leaves.iter().map(leaf).collect(),
    }
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rendered}")]
pub struct ParseScheduleError {
    /// The message with the line and a caret.
    pub rendered: String,
}
