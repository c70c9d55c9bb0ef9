//! schedule: what each rank does becomes one program of all ranks, with streams, events and slots.
//!
//! In: the plan of an attention, and how many receive slots a ring has. Out: a [`Schedule`].
//!
//! Invariants: what is done, and in which order it is issued, is what the island graphs show; this room adds only where bytes
//! lie and what waits for what. Merges and the finish become fields of the partial before them. Events are derived from the
//! bytes that steps touch, and none can be left out.

mod build;
pub mod cost;
mod events;
pub(crate) mod flow;
mod slots;
mod text;
pub mod types;
pub use text::{line_of, parse};
pub use types::*;

use crate::ring::site::Site;
use crate::ring::{Plan, Strategy};
use rayon::prelude::*;

/// Receive slots of a ring where nobody says otherwise: one is computed on and sent on while the next arrives.
pub const SLOTS: usize = 2;

/// Schedules a plan. What a ring receives goes into `slots` slots in turn, which are at least [`SLOTS`]: with one, a rank could
/// not send on what it holds while the next hop arrives.
pub fn schedule(plan: &Plan<'_>, slots: usize) -> Schedule {
    let ring = matches!(plan.strategy, Strategy::Ring | Strategy::RingReverse);
    let slots = if ring { slots.max(SLOTS) } else { SLOTS };
    let (site, attention) = (&plan.site, facts(&plan.site));
    // The ranks apart, on all cores; each has its own place in the result.
    let of = |rank| build::rank_program(plan, (&attention, slots), rank);
    let ranks = (0..site.ranks()).into_par_iter().map(of).collect();
    Schedule {
        name: site.name.clone(),
        strategy: plan.strategy.name().to_owned(),
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
