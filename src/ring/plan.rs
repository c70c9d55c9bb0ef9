//! The plan of one attention under a strategy, for all ranks.
//!
//! In: a program, one of its attentions and a strategy. Out: a [`Plan`]: the site, the route of the keys round the ring, and what
//! each stage of an all-gather sends.

use super::error::RingError;
use super::heads::HeadPlan;
use super::levels::Levels;
use super::sight::Sight;
use super::{route, site};
use crate::ir::{OpId, Strategy};
use crate::layout::{Progression, row_count};
use crate::shard::Program;

/// Stages of an all-gather in stages: all but the last one's transfer lie under computation on keys that came before, and
/// what they cost is a launch and a latency each.
const STAGES: usize = 4;

/// One attention of a program under a strategy: what every rank's part is made from, derived once.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) site: site::Site<'a>,
    pub(crate) strategy: Strategy,
    pub(crate) levels: Levels,
    pub(super) route: route::Route<'a>,
    /// Of each stage of an all-gather the pieces that each rank sends.
    pub(crate) stages: Vec<Vec<Vec<Progression>>>,
    /// Where queries travel, who sees whose keys.
    pub(crate) sight: Option<Sight>,
    /// Where heads are dealt out, how.
    pub(crate) heads: Option<HeadPlan>,
}

impl<'a> Plan<'a> {
    /// The plan of the attention `op`, of ranks that all stand on one level.
    ///
    /// # Errors
    /// If the ring cannot compute this attention.
    pub fn new(program: &'a Program, op: OpId, strategy: Strategy) -> Result<Plan<'a>, RingError> {
        Plan::on_nodes(program, op, strategy, 1)
    }

    /// The plan of the attention `op` of ranks that stand on so many nodes, equally many on each: rank r on node r / (ranks / nodes).
    /// A strategy that [does not use levels](Strategy::uses_levels) is planned as on one.
    ///
    /// # Errors
    /// If the ring cannot compute this attention, or the ranks are no multiple of the nodes.
    pub fn on_nodes(
        program: &'a Program,
        op: OpId,
        strategy: Strategy,
        nodes: usize,
    ) -> Result<Plan<'a>, RingError> {
        let site = site::Site::of(program, op)?;
        let ranks = site.ranks();
        let levels = Levels::of(ranks, if strategy.uses_levels() { nodes } else { 1 });
        let levels = levels.ok_or_else(|| {
            site.refuse(format!("{ranks} ranks cannot stand on {nodes} nodes, equally many on each"))
        })?;
        let direction = match strategy {
            Strategy::RingReverse => route::Direction::Back,
            _ => route::Direction::On,
        };
        let route = route::Route::of(&site, direction);
        let parts = match strategy {
            Strategy::Ring | Strategy::RingReverse | Strategy::Queries | Strategy::Heads => 0,
            Strategy::AllGather => 1,
            Strategy::AllGatherStaged => STAGES,
        };
        let mut stages = vec![vec![Vec::new(); site.ranks()]; parts];
        if parts > 0 {
            for rank in 0..site.ranks() {
                for (stage, part) in stages.iter_mut().zip(in_parts(&route.leaves_home(rank), parts)) {
                    stage[rank] = part;
                }
            }
        }
        let sight = (strategy == Strategy::Queries).then(|| Sight::of(&site, levels));
        let heads = (strategy == Strategy::Heads).then(|| HeadPlan::of(&site, levels));
        Ok(Plan { site, strategy, levels, route, stages, sight, heads })
    }
}

/// The rows of some pieces, in order, in that many parts of nearly equal numbers of rows.
fn in_parts(pieces: &[Progression], parts: usize) -> Vec<Vec<Progression>> {
    let rows = row_count(pieces);
    let mut out = vec![Vec::new(); parts];
    for (i, part) in out.iter_mut().enumerate() {
        let (from, to) = (rows * i / parts, rows * (i + 1) / parts);
        let mut before = 0;
        for p in pieces {
            let (first, end) = (from.max(before), to.min(before + p.len));
            if first < end {
                part.push(p.part(first - before, end - first));
            }
            before += p.len;
        }
    }
    out
}
