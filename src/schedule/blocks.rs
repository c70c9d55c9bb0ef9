//! Where bytes lie: in the arena, or in what a rank is handed and gives.

use crate::layout::Progression;

/// Bytes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct View {
    /// Index of the slot in [`RankProgram::slots`](crate::schedule::RankProgram::slots).
    pub slot: usize,
    /// First byte, counted from the slot's begin.
    pub start: usize,
    /// Length.
    pub bytes: usize,
}

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

    /// One behind the last.
    pub fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }
}

/// What a rank is handed or gives rows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// Queries.
    Q,
    /// Keys, and values behind them.
    Kv,
    /// An argument from 3 on that is handed out by query rows.
    Leaf(usize),
    /// The result.
    Out,
    /// Its log-sum-exp.
    Lse,
}

/// Rows × heads of a tensor. In an arena they lie side by side: (B, heads, rows, width), row-major; of keys and values all keys,
/// then all values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// Of what.
    pub port: Port,
    /// Global rows.
    pub rows: Progression,
    /// Which heads. A leaf that is one for all heads has them once.
    pub heads: Heads,
}

/// Bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the arena.
    Arena(View),
    /// A run of the rank's own rows, where it is handed them or gives them.
    Own(Block),
}

/// Own rows, and where they lie in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// A run of the rank's own rows.
    pub block: Block,
    /// Their place.
    pub at: View,
}

impl Place {
    /// The view of the arena, if it is one.
    pub fn view(&self) -> Option<&View> {
        match self {
            Place::Arena(view) => Some(view),
            Place::Own(_) => None,
        }
    }

    /// The own rows, if they are some.
    pub fn own(&self) -> Option<&Block> {
        match self {
            Place::Arena(_) => None,
            Place::Own(block) => Some(block),
        }
    }
}
