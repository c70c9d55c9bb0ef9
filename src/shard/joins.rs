//! Concatenations along the rows: a cache with new rows behind it.
//!
//! In: a concatenation that is asked for the rows of a sequence. Out: a sequence for each operand. The rows of the result are those
//! of the operands, one behind the other.
//!
//! Invariants: sequences are told apart by what they are tied with, never by their length. An operand without rows is none of the
//! parts; where one operand alone has rows, they are those of the result, so that a sequence of parts is longer than each of them.
//! Tied sequences that are both put together of parts of the same lengths have tied parts.

use super::factor::Factor;
use super::propagate::{Live, Sequence, Wish, Wishes};
use crate::ir::Op;

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
    fn alike(&self, other: &Join) -> bool {
        self.parts().map(|p| p.0).eq(other.parts().map(|p| p.0))
    }

    /// The sequences of the parts of both, side by side, if the parts have the same lengths.
    pub(super) fn parts_with(&self, other: &Join) -> Vec<(Sequence, Sequence)> {
        let pairs = self.parts().zip(other.parts()).map(|(a, b)| (a.1, b.1));
        if self.alike(other) { pairs.collect() } else { vec![] }
    }
}

impl Wishes {
    /// Takes note that concatenation `i` joins rows, if it does; `wish` is what its result is to carry. Returns what each
    /// operand is to carry.
    pub(super) fn join(&mut self, live: &Live, i: usize, wish: Wish) -> Option<Vec<Wish>> {
        let Op::Concat { axis } = *live.op(i) else { return None };
        let f = wish.factor;
        let types = live.types(i);
        if axis != f.axis || (f.outer, f.inner) != (1, 1) || types.len() < 2 {
            return None;
        }
        let operands = types.iter().map(|t| t.shape[axis]).map(|rows| {
            // Those of the only operand that has rows are the result's.
            (rows, if rows == f.length && rows > 0 { wish.sequence } else { self.fresh() })
        });
        let join = Join { at: i, operands: operands.collect() };
        let known = self.join_of(wish.sequence).filter(|_| join.of_parts());
        // The rows of a sequence lie in one way only: that in which they were met first.
        if known.is_some_and(|first| !first.alike(&join)) {
            return None;
        }
        let part =
            |&(rows, sequence): &(usize, Sequence)| Wish { factor: Factor::axis(axis, rows), sequence };
        let wanted = join.operands.iter().map(part).collect();
        self.remember(join, wish.sequence);
        Some(wanted)
    }

    /// The rows that a concatenation reads of each operand for its wish, if it joins rows as those of its result are joined.
    pub(super) fn joined_reads(&self, join: &Join, wish: Wish) -> Option<Vec<Option<Wish>>> {
        let same = |first: &Join| {
            let pairs = first.parts_with(join);
            !pairs.is_empty() && pairs.into_iter().all(|(a, b)| self.sequence(a) == self.sequence(b))
        };
        // Else the rows of the result were joined otherwise where they were first met.
        if join.of_parts() && !self.join_of(wish.sequence).is_some_and(same) {
            return None;
        }
        let axis = wish.factor.axis;
        let part =
            |&(rows, sequence): &(usize, Sequence)| Wish { factor: Factor::axis(axis, rows), sequence };
        Some(join.operands.iter().map(part).map(Some).collect())
    }
}
