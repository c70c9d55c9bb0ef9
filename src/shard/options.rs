//! What is asked of the split.

use super::error::ShardError;
use crate::layout::{LayoutKind, Progression};

/// The largest number of ranks that a program is made for.
pub const MAX_RANKS: usize = 1 << 12;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Number of ranks, from 1 to [`MAX_RANKS`].
    pub ranks: usize,
    /// The layout; `None`: zigzag for a sequence with a causal attention, else contiguous. A layout by documents needs an
    /// attention whose mask names them.
    pub layout: Option<LayoutKind>,
    /// Inputs that are handed to a rank by rows.
    pub inputs: Vec<Handed>,
}

/// An input that the host hands to a rank by rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Its name.
    pub name: String,
    /// The axis that carries the sequence.
    pub axis: usize,
    /// The rows that each rank has already, in their order: the layout of an earlier `present` output, say, which this input
    /// is now. `None`: the layout is chosen.
    pub rows: Option<Vec<Vec<Progression>>>,
}

impl Handed {
    /// An input whose layout is chosen.
    pub fn new(name: impl Into<String>, axis: usize) -> Handed {
        Handed { name: name.into(), axis, rows: None }
    }

    pub(super) fn refused(&self, why: String) -> ShardError {
        ShardError::Input { name: self.name.clone(), axis: self.axis, why }
    }
}
