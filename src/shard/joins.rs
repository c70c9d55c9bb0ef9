//! A concatenation along the rows: a cache with new rows behind it. The rows of the result are those of the operands, one behind
//! the other.
//!
//! Invariants: an operand without rows is none of the parts; where one operand alone has rows, they are those of the result, so that
//! a sequence of several parts is longer than each of them.

/// A sequence, before it is known with which others it is tied.
pub(super) type Sequence = usize;

/// A concatenation along the rows.
#[derive(Clone, Debug)]
pub(super) struct Join {
    /// Its place in [`Live::order`].
    pub(super) at: usize,
    /// The rows of each operand, and their sequence.
    pub(super) operands: Vec<(usize, Sequence)>,
}

impl Join {
    /// The operands that have rows.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, Sequence)> + '_ {
        self.operands.iter().copied().filter(|(rows, _)| *rows > 0)
    }

    /// Whether the rows of the result are those of several parts.
    pub(super) fn of_parts(&self) -> bool {
        self.parts().nth(1).is_some()
    }

    /// Whether the parts of both have the same lengths.
    pub(super) fn alike(&self, other: &Join) -> bool {
        self.parts().map(|p| p.0).eq(other.parts().map(|p| p.0))
    }

    /// The sequences of the parts of both, side by side, if the parts have the same lengths.
    pub(super) fn parts_with(&self, other: &Join) -> Vec<(Sequence, Sequence)> {
        let pairs = self.parts().zip(other.parts()).map(|(a, b)| (a.1, b.1));
        if self.alike(other) { pairs.collect() } else { vec![] }
    }
}
