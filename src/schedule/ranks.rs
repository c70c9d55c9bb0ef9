//! The programs of all ranks, from one plan.

use super::facts::{AttentionFacts, Leaf};
use super::mesh::Mesh;
use super::steps::{Step, StepOp};
use super::types::{RankProgram, SLOTS, Schedule};
use super::{build, labels};
use crate::ring::Plan;
use crate::ring::site::{LeafSite, Site};
use rayon::prelude::*;

/// Schedules a plan. What a ring receives goes into `slots` slots in turn, which are at least [`SLOTS`]: with one, a rank could
/// not send on what it holds while the next hop arrives. Slots for more hops than any rank receives are not made, and the
/// schedule does not say that they are.
pub fn schedule(plan: &Plan<'_>, slots: usize) -> Schedule {
    let (site, attention) = (&plan.site, facts(&plan.site));
    // The ranks apart, on all cores; each has its own place in the result.
    let of = |rank| build::rank_program(plan, (&attention, slots.max(SLOTS)), rank);
    let ranks: Vec<RankProgram> = (0..site.ranks()).into_par_iter().map(of).collect();
    let hops = if plan.strategy.is_ring() { ranks.iter().map(received).max().unwrap_or(0) } else { 0 };
    let [q_layout, kv_layout] = labels::labelled(site);
    Schedule {
        name: site.name.clone(),
        strategy: plan.strategy,
        mesh: Mesh::of(plan.levels.sizes()),
        slots: slots.min(hops).max(SLOTS),
        attention,
        q_layout,
        kv_layout,
        ranks,
    }
}

/// How many messages a rank of a ring receives.
fn received(program: &RankProgram) -> usize {
    let receives = |s: &&Step| matches!(&s.op, StepOp::Exchange { recvs, .. } if !recvs.is_empty());
    program.steps.iter().filter(receives).count()
}

/// What the schedule claims to compute.
fn facts(site: &Site<'_>) -> AttentionFacts {
    let a = site.attention;
    let leaf = |leaf: &LeafSite| {
        let mut shape = [1; 4];
        shape[4 - leaf.ty.rank()..].copy_from_slice(&leaf.ty.shape);
        Leaf { dtype: leaf.ty.dtype, shape, by_query_rows: leaf.by_query_rows }
    };
    AttentionFacts {
        sizes: site.sizes,
        dtype: site.dtype,
        acc: a.acc,
        scores: a.scores.clone(),
        sinks: a.sinks,
        dropout: a.dropout,
        empty_row: a.empty_row,
        lse: a.lse,
        leaves: site.leaves.iter().map(leaf).collect(),
    }
}
