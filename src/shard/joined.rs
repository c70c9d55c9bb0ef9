//! What a concatenation along the rows asks of its operands, and how it reads them.
//!
//! In: a concatenation and the wish for its result. Out: a wish for each operand, or how each is read.

use super::factor::Factor;
use super::joins::{Join, Sequence};
use super::propagate::{Live, Wish, Wishes};
use crate::ir::Op;

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
