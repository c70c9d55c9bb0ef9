//! The strategies: a word that texts, options and reports share. What each means is the work of [`ring`](crate::ring).

use std::fmt;

/// How keys and queries meet.
///
/// ```
/// use annulus::ir::Strategy;
///
/// assert_eq!(Strategy::names(), "ring, ring-reverse, all-gather, all-gather-staged, queries, heads");
/// assert_eq!(Strategy::from_name("ring"), Some(Strategy::Ring));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Strategy {
    /// Keys and values travel round the ring, one hop a step, to the next rank.
    Ring,
    /// Keys and values travel to the rank before: under a causal zigzag the ranks that need the second half of a rank's keys
    /// come first, so that only three quarters travel, whatever the number of ranks.
    RingReverse,
    /// Every rank gets all keys and values at once.
    AllGather,
    /// Every rank gets all keys and values in stages: the keys of one are computed on while the next arrives.
    AllGatherStaged,
    /// Keys and values stay where they are. Queries travel to the ranks whose keys they see, and partial results come home, where
    /// they are merged: for few queries over many keys, as when decoding over a resident cache.
    Queries,
    /// Heads are dealt out: a rank gets the rows of all in its heads, computes them whole, and results go home. Sends less than a
    /// ring where there are more ranks than query heads share a key head.
    Heads,
}

impl Strategy {
    /// Every strategy, in order.
    pub const ALL: [Strategy; 6] = [
        Strategy::Ring,
        Strategy::RingReverse,
        Strategy::AllGather,
        Strategy::AllGatherStaged,
        Strategy::Queries,
        Strategy::Heads,
    ];

    /// The name on the command line and in text.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Ring => "ring",
            Strategy::RingReverse => "ring-reverse",
            Strategy::AllGather => "all-gather",
            Strategy::AllGatherStaged => "all-gather-staged",
            Strategy::Queries => "queries",
            Strategy::Heads => "heads",
        }
    }

    /// The strategy of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The names of all, in order, as a message lists them.
    pub fn names() -> String {
        Strategy::ALL.map(Strategy::name).join(", ")
    }

    /// Whether all pairs of a query row are computed by the rank that owns it.
    pub fn is_at_home(self) -> bool {
        !matches!(self, Strategy::Queries | Strategy::Heads)
    }

    /// Whether it travels along the levels of a machine, where ranks stand on several nodes.
    pub fn uses_levels(self) -> bool {
        matches!(self, Strategy::Queries | Strategy::Heads)
    }

    /// Whether hops go round a ring.
    pub fn is_ring(self) -> bool {
        matches!(self, Strategy::Ring | Strategy::RingReverse)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
