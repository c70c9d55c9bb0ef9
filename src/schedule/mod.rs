//! schedule: the island graphs of all ranks become one program with streams, events and slots.
//!
//! In: an attention of a program and the island graph of every rank. Out: a [`Schedule`].
//!
//! Invariants: what is done, and in which order it is issued, stands in the island graphs; this room adds only where bytes
//! lie and what waits for what. Merges and the finish become fields of the partial before them. Events are derived from the
//! bytes that steps touch, and none can be left out. A graph that does not fit is refused: it is a fault in the pass.

mod build;
pub mod cost;
mod events;
pub(crate) mod flow;
mod fold;
mod slots;
mod text;
pub mod types;
pub use text::{line_of, parse};
pub use types::*;

use crate::ir::{Graph, OpId};
use crate::ring::Strategy;
use crate::ring::site::Site;
use crate::shard::Program;
use std::collections::HashMap;

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
    let mut draft = Draft::new(program, op, strategy)?;
    draft.complete(islands.len())?;
    islands.iter().try_for_each(|graph| draft.rank(graph))?;
    draft.done()
}

/// A schedule that is made rank by rank, so that no more than one island graph need be there at a time.
#[derive(Debug)]
pub struct Draft<'a> {
    site: Site<'a>,
    strategy: Strategy,
    attention: AttentionFacts,
    /// The rank that owns the piece of keys with this first row; looked up, never walked.
    owners: HashMap<usize, usize>,
    ranks: Vec<RankProgram>,
}

impl<'a> Draft<'a> {
    /// The schedule of the attention `op`, still without ranks.
    ///
    /// # Errors
    /// If the program does not split that attention.
    pub fn new(program: &'a Program, op: OpId, strategy: Strategy) -> Result<Draft<'a>, ScheduleError> {
        let site =
            Site::of(program, op).map_err(|e| ScheduleError { island: e.at, rank: 0, why: e.reason })?;
        let attention = facts(&site);
        let owned = site.kv_layout.rows.iter().enumerate();
        let owners = owned.flat_map(|(r, rows)| rows.iter().map(move |p| (p.start, r))).collect();
        Ok(Draft { site, strategy, attention, owners, ranks: vec![] })
    }

    /// Schedules the island graph of the next rank.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub fn rank(&mut self, graph: &Graph) -> Result<(), ScheduleError> {
        let rank = self.ranks.len();
        if rank >= self.site.ranks() {
            return Err(self.fault(rank, format!("there are {} ranks", self.site.ranks())));
        }
        let claim = (&self.attention, self.strategy);
        let program = build::rank_program(&self.site, claim, &self.owners, graph, rank);
        self.ranks.push(program.map_err(|why| self.fault(rank, why))?);
        Ok(())
    }

    /// The schedule of all ranks.
    ///
    /// # Errors
    /// If a rank is missing.
    pub fn done(self) -> Result<Schedule, ScheduleError> {
        self.complete(self.ranks.len())?;
        Ok(Schedule {
            name: self.site.name.clone(),
            strategy: self.strategy.name().to_owned(),
            attention: self.attention,
            q_layout: self.site.q_layout.clone(),
            kv_layout: self.site.kv_layout.clone(),
            ranks: self.ranks,
        })
    }

    fn complete(&self, graphs: usize) -> Result<(), ScheduleError> {
        if graphs == self.site.ranks() {
            return Ok(());
        }
        Err(self.fault(0, format!("{graphs} island graphs for {} ranks", self.site.ranks())))
    }

    fn fault(&self, rank: usize, why: String) -> ScheduleError {
        ScheduleError { island: self.site.name.clone(), rank, why }
    }
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
