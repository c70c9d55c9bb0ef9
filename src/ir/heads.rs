//! Runs of heads.

/// Some heads, side by side: query heads of queries, results, leaves and carries, key heads of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Heads {
    /// The first.
    pub start: usize,
    /// How many.
    pub len: usize,
}

impl Heads {
    /// As many from the first one on.
    pub fn all(len: usize) -> Heads {
        Heads { start: 0, len }
    }

    /// The part of `all` heads that is the share of a rank: as near to equal as whole heads are.
    pub fn share(all: usize, rank: usize, ranks: usize) -> Heads {
        let upto = |r: usize| (all as u128 * r as u128 / ranks.max(1) as u128) as usize;
        Heads { start: upto(rank), len: upto(rank + 1) - upto(rank) }
    }

    /// One behind the last.
    pub fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }
}
