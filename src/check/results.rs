//! Partial results: which step computes what of which queries, what it goes on from, and where the results come to lie.
//!
//! `replay` writes it down while the steps run: carries are followed as bytes, through messages, so that what a step says of a
//! carry need not be believed.

use crate::layout::Progression;
use crate::schedule::{Block, Heads};

/// What one step computes, or merges, of one piece of queries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partial {
    pub(super) rank: usize,
    pub(super) step: usize,
    pub(super) rows: Progression,
    pub(super) heads: Heads,
    /// Where the numbers of what it goes on from lie in [`Results::sources`].
    from: usize,
    to: usize,
    /// Whether it counts the sinks, and whether it gives a result, not a carry.
    pub(super) sinks: bool,
    pub(super) ends: bool,
}

/// A block of a result that comes to lie where a rank gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) step: usize,
    pub(super) block: Block,
}

/// All of a schedule.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) all: Vec<Partial>,
    sources: Vec<usize>,
    /// By the rank that gives them.
    pub(super) given: Vec<Vec<Given>>,
}

impl Results {
    pub(super) fn new(ranks: usize) -> Results {
        Results { all: vec![], sources: vec![], given: vec![vec![]; ranks] }
    }

    /// The numbers of the partial results that one goes on from.
    pub(super) fn sources(&self, of: &Partial) -> &[usize] {
        &self.sources[of.from..of.to]
    }

    /// Whether none is taken in twice.
    pub(super) fn are_trees(&self) -> bool {
        let mut taken = vec![false; self.all.len()];
        self.sources.iter().all(|&s| !std::mem::replace(&mut taken[s], true))
    }

    /// Adds one, and gives it a number.
    pub(super) fn add(
        &mut self,
        (rank, step): (usize, usize),
        (rows, heads): (Progression, Heads),
        sources: &[usize],
        (sinks, ends): (bool, bool),
    ) -> usize {
        let from = self.sources.len();
        self.sources.extend(sources);
        let to = self.sources.len();
        self.all.push(Partial { rank, step, rows, heads, from, to, sinks, ends });
        self.all.len() - 1
    }
}
