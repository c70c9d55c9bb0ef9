//! ring: strategy × layout → the island graph of each rank: chunks, transfers, partial results and merges.
//!
//! In: a [`Program`] and one of its attentions. Out: rank r's island graph, which snapshots show: its inputs are the rank's
//! rows of q, k and v and then the leaves; its outputs the rank's rows of the results. What it does stands in an `outline`
//! first, from which the schedule is made as well: a graph of every rank of a thousand is a gigabyte that nobody reads.
//!
//! Invariants:
//! * Every visible pair of rows meets exactly once over all ranks; a query row without any key gets one partial over no keys.
//! * Sinks are counted once for each query row, by the finish, wherever its keys were.
//! * Keys and values travel packed and un-repeated, a piece (one progression of the layout, or a stage's part of one) whole,
//!   and no further than the last rank whose rows see it.
//! * Each rank derives the plan of all ranks from the same data, so that both ends of a message agree.
//! * A transfer is started before anything is computed on what it sends.
//! * Whether a pair is visible is asked of [`Mask::tile`](crate::mask::Mask::tile), and of nothing else.

mod graph;
pub(crate) mod outline;
mod route;
pub(crate) mod site;

use crate::ir::{Graph, OpId};
use crate::layout::{Progression, row_count};
use crate::shard::Program;
use outline::Outline;

/// How keys and queries meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strategy {
    /// Keys and values travel round the ring, one hop a step, to the next rank.
    Ring,
    /// The same to the rank before: under a causal zigzag the ranks that need the second half of a rank's keys come first, so
    /// that only three quarters travel, whatever the number of ranks.
    RingReverse,
    /// Every rank gets all keys and values at once.
    AllGather,
    /// The same in stages: the keys of one are computed on while the next arrives.
    AllGatherStaged,
}

impl Strategy {
    /// Every strategy, in order.
    pub const ALL: [Strategy; 4] =
        [Strategy::Ring, Strategy::RingReverse, Strategy::AllGather, Strategy::AllGatherStaged];

    /// The name on the command line and in text.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Ring => "ring",
            Strategy::RingReverse => "ring-reverse",
            Strategy::AllGather => "all-gather",
            Strategy::AllGatherStaged => "all-gather-staged",
        }
    }

    /// The strategy of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// Why an attention is not split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct RingError {
    /// The attention.
    pub at: String,
    /// Why not.
    pub reason: String,
}

/// Stages of an all-gather in stages: all but the last one's transfer lie under computation on keys that came before, and
/// what they cost is a launch and a latency each.
const STAGES: usize = 4;

/// One attention of a program under a strategy: what every rank's part is made from, derived once.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) site: site::Site<'a>,
    pub(crate) strategy: Strategy,
    route: route::Route<'a>,
    /// Of each stage of an all-gather the pieces that each rank sends.
    pub(crate) stages: Vec<Vec<Vec<Progression>>>,
}

impl<'a> Plan<'a> {
    /// The plan of the attention `op`.
    ///
    /// # Errors
    /// If the ring cannot compute this attention.
    pub fn new(program: &'a Program, op: OpId, strategy: Strategy) -> Result<Plan<'a>, RingError> {
        let site = site::Site::of(program, op)?;
        let direction = match strategy {
            Strategy::RingReverse => route::Direction::Back,
            _ => route::Direction::On,
        };
        let route = route::Route::of(&site, direction);
        let parts = match strategy {
            Strategy::Ring | Strategy::RingReverse => 0,
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
        Ok(Plan { site, strategy, route, stages })
    }

    /// The island graph of a rank.
    ///
    /// # Errors
    /// If there is no such rank.
    pub fn island(&self, rank: usize) -> Result<Graph, RingError> {
        if rank >= self.site.ranks() {
            return Err(self.site.refuse(format!("there is no rank {rank} of {}", self.site.ranks())));
        }
        graph::graph(self, rank)
    }

    /// What a rank does, in order.
    pub(crate) fn outline(&self, rank: usize) -> Outline {
        Outline::of(self, rank)
    }
}

/// The island graph of `rank` for the attention `op` of the program.
///
/// # Errors
/// If the ring cannot compute this attention.
pub fn island(program: &Program, op: OpId, strategy: Strategy, rank: usize) -> Result<Graph, RingError> {
    Plan::new(program, op, strategy)?.island(rank)
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
