//! What is asked of the split.

use super::error::ShardError;
use super::rowwise::Rowwise;
use crate::layout::{LayoutKind, Progression};

/// The largest number of ranks that a program is made for.
pub const MAX_RANKS: usize = 1 << 12;

/// What is asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardOptions {
    /// Number of ranks, from 1 to [`MAX_RANKS`].
    pub ranks: usize,
    /// The layout; `None`: zigzag for a sequence with a causal attention, else contiguous. A layout by documents needs an
    /// attention whose mask names them.
    pub layout: Option<LayoutKind>,
    /// Inputs that are handed to a rank by rows.
    pub inputs: Vec<Handed>,
    /// Operators that annulus does not compute, and that treat rows apart from one another.
    pub rowwise: Vec<Rowwise>,
    /// Whether attention over short windows that lie in its batch axis is split along the batch, so that each rank has windows of
    /// its own and nothing is sent. Otherwise it is split along its rows, as every other attention.
    pub windows: bool,
}

impl ShardOptions {
    /// So many ranks, the layout chosen, every input handed over whole, windows split along the batch.
    pub fn new(ranks: usize) -> ShardOptions {
        ShardOptions { ranks, layout: None, inputs: vec![], rowwise: vec![], windows: true }
    }

    /// The layout of every sequence; `None` leaves it to the split.
    #[must_use]
    pub fn layout(mut self, layout: impl Into<Option<LayoutKind>>) -> ShardOptions {
        self.layout = layout.into();
        self
    }

    /// Whether short windows are split along the batch.
    #[must_use]
    pub fn windows(mut self, along_the_batch: bool) -> ShardOptions {
        self.windows = along_the_batch;
        self
    }

    /// More inputs that are handed to a rank by rows.
    #[must_use]
    pub fn inputs(mut self, handed: impl IntoIterator<Item = Handed>) -> ShardOptions {
        self.inputs.extend(handed);
        self
    }

    /// More operators that treat rows apart from one another.
    #[must_use]
    pub fn rowwise(mut self, promises: impl IntoIterator<Item = Rowwise>) -> ShardOptions {
        self.rowwise.extend(promises);
        self
    }
}

/// An input that the host hands to a rank by rows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

    /// The same input, of which the ranks have these rows already.
    ///
    /// ```
    /// use annulus::layout::Progression;
    /// use annulus::shard::Handed;
    ///
    /// // Nine old keys: four on the first rank, five on the second.
    /// let rows = vec![vec![Progression::range(0, 4)], vec![Progression::range(4, 5)]];
    /// let past = Handed::new("past_k", 2).rows(rows);
    /// assert!(past.rows.is_some());
    /// ```
    #[must_use]
    pub fn rows(mut self, rows: impl Into<Option<Vec<Vec<Progression>>>>) -> Handed {
        self.rows = rows.into();
        self
    }

    pub(super) fn refused(&self, why: String) -> ShardError {
        ShardError::Input { name: self.name.clone(), axis: self.axis, why }
    }
}
