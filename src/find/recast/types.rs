//! What was recast: the graph as it is now, and each place at which something was.

use crate::eval::Constants;
use crate::find::types::{Applied, Numerics};
use crate::ir::{Graph, OpId, ValueId};
use std::collections::{BTreeSet, HashSet};

/// A place, by what is done there and an operation of the graph as it was.
pub(crate) type Key = (&'static str, OpId);

/// One place at which the graph was recast.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Which place it is, so that it can be left out another time.
    pub(crate) key: Key,
    /// Products that were made: each is one of an attention, or the place is left as it was.
    pub(crate) products: Vec<OpId>,
    /// Operations of the graph as it was that an attention in their place leaves without a reader, or the place is left as it was.
    pub(crate) gone: Vec<OpId>,
    /// What was done, for the reader.
    pub(crate) applied: Applied,
    /// The logarithm of a softmax's sum, if it is read.
    pub(crate) log: Option<Log>,
    /// A softmax each of whose rows must have a key.
    pub(crate) keyed: Option<OpId>,
}

/// The logarithm of a row's sum of exponentials, which is read beside a softmax.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    /// The softmax.
    pub(crate) anchor: OpId,
    /// What stands where it is read, and gives no numbers.
    pub(crate) stand_in: ValueId,
}

/// A graph that is being recast.
pub(crate) struct Recasting<'a> {
    pub(crate) graph: Graph,
    pub(crate) constants: Constants,
    /// Classes of rewriting that may be used.
    pub(crate) admitted: &'a [Numerics],
    /// Places that are left as they were.
    pub(crate) left: &'a HashSet<Key>,
    /// Where the search missed something.
    pub(crate) missed: &'a [OpId],
    pub(crate) sites: Vec<Site>,
    /// Why something that looks like such a place is none, for near misses at one of these operations.
    pub(crate) refused: Vec<(BTreeSet<OpId>, String)>,
}

impl Recasting<'_> {
    /// Whether something of this class may be done at a place.
    pub(crate) fn may(&self, key: Key, numerics: Numerics) -> bool {
        !self.left.contains(&key) && self.admitted.contains(&numerics)
    }
}
