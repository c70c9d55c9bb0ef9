//! Where bytes lie: in the arena, or in what a rank is handed and gives.

use crate::layout::Progression;
use std::fmt;

pub use crate::ir::Heads;

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

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Q => f.write_str("q"),
            Port::Kv => f.write_str("kv"),
            Port::Leaf(n) => write!(f, "leaf{n}"),
            Port::Out => f.write_str("out"),
            Port::Lse => f.write_str("lse"),
        }
    }
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
