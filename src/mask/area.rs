//! How many pairs a mask keeps: what work is balanced by.

use super::entry::{Entry, document};
use super::term::Term;
use super::whole::Mask;

impl Mask {
    /// How many pairs of a query row in `first..end` and a key in `0..k_len` the terms keep, as the mean over the batch entries,
    /// rounded up; tensor terms count as kept.
    ///
    /// Complexity: O(documents · log documents) for each batch entry told apart, whatever the number of rows.
    pub fn area(&self, first: usize, end: usize, k_len: usize) -> u128 {
        let of = |entry| self.entry(entry).area(first, end, k_len);
        (0..self.entries()).map(of).sum::<u128>().div_ceil(self.entries() as u128)
    }
}

impl Entry<'_> {
    /// See [`Mask::area`].
    fn area(self, first: usize, end: usize, k_len: usize) -> u128 {
        self.pieces(first, end).map(|(first, end)| self.piece_area(first, end, k_len)).sum()
    }

    /// Within a piece the first key of a row is the greatest of numbers that stand still or move with the row, and the last
    /// the least of such numbers: their difference is linear between the rows where another one takes over.
    fn piece_area(self, first: usize, end: usize, k_len: usize) -> u128 {
        let count = |q: usize| {
            let (low, high) = self.keys_of(q);
            (high.min(k_len as i128 - 1) - low.max(0) + 1).max(0)
        };
        let mut turns = vec![first as i128, end as i128];
        let mut moving = Vec::new();
        let mut still = vec![0, k_len as i128];
        for term in self.terms() {
            match *term {
                Term::Causal { offset } => moving.push(i128::from(offset)),
                Term::Window { left, right, offset } => {
                    let at = i128::from(offset);
                    moving.extend(left.map(|l| at - i128::from(l)));
                    moving.extend(right.map(|r| at + i128::from(r)));
                }
                Term::Segments { ref starts, offset } => {
                    let (low, high) = document(starts, first as i128 + i128::from(offset));
                    still.extend([low, high].into_iter().filter(|&x| x != i128::MIN && x != i128::MAX));
                }
                Term::Prefix { length, offset } => {
                    moving.push(i128::from(offset));
                    still.push(length as i128 - 1);
                }
                Term::Keys { start, end } => still.extend([start as i128, end as i128 - 1]),
                Term::Batch { .. } | Term::Tensor { .. } => {}
            }
        }
        // A moving end crosses one that stands still at a row, or next to it.
        for m in &moving {
            turns.extend(still.iter().flat_map(|s| [s - m - 1, s - m, s - m + 1]));
        }
        turns.retain(|&t| t >= first as i128 && t <= end as i128);
        turns.sort_unstable();
        turns.dedup();
        let mut sum = 0u128;
        for pair in turns.windows(2) {
            let (a, b) = (pair[0] as usize, pair[1] as usize);
            // Linear from a to b − 1: the mean of the ends times the number of rows.
            sum += ((count(a) + count(b - 1)) as u128) * ((b - a) as u128) / 2;
        }
        sum
    }
}
