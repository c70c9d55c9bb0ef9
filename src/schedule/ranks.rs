//! The programs of all ranks, from one plan.

use super::build;
use super::types::{AttentionFacts, Leaf, SLOTS, Schedule};
use crate::ring::Plan;
use crate::ring::site::{LeafSite, Site};
use rayon::prelude::*;

/// Schedules a plan. What a ring receives goes into `slots` slots in turn, which are at least [`SLOTS`]: with one, a rank could
/// not send on what it holds while the next hop arrives.
pub fn schedule(plan: &Plan<'_>, slots: usize) -> Schedule {
    let ring = plan.strategy.is_ring();
    let slots = if ring { slots.max(SLOTS) } else { SLOTS };
    let (site, attention) = (&plan.site, facts(&plan.site));
    // The ranks apart, on all cores; each has its own place in the result.
    let of = |rank| build::rank_program(plan, (&attention, slots), rank);
    let ranks = (0..site.ranks()).into_par_iter().map(of).collect();
    Schedule {
        name: site.name.clone(),
        strategy: plan.strategy,
        slots,
        attention,
        q_layout: site.q_layout.clone(),
        kv_layout: site.kv_layout.clone(),
        ranks,
    }
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
