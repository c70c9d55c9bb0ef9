//! The score program on one row of products q·k at a time, by this room's own reading of the steps.
//!
//! In: products of a query row with a block of a piece's keys, times the constant factors before the first other step. Out: scores,
//! of which −∞ takes no part. Invariant: a score of −∞ stays one under factors, addends and sums with a fill.

use super::acc::Acc;
use super::leaves::Leaves;
use crate::ir::{DType, Factor, ScoreStep, Scores};
use crate::layout::Progression;
use crate::mask::{Fill, Mask};
use std::ops::Range;

/// A score program, ready for rows.
pub(super) struct Program<'a> {
    /// The product of the constant factors that come first: the product q·k takes it along.
    pub(super) scale: f64,
    steps: &'a [ScoreStep],
    /// Whether fills act.
    fills: bool,
    live: &'a Mask,
}

impl<'a> Program<'a> {
    pub(super) fn of(scores: &'a Scores, fills: bool) -> Program<'a> {
        let (mut scale, mut steps) = (1.0, scores.steps());
        while let [ScoreStep::Factor(Factor::Number(c)), rest @ ..] = steps {
            (scale, steps) = (scale * c, rest);
        }
        Program { scale, steps, fills, live: scores.live() }
    }

    /// Indices of the keys outside of which no query row of the batch entry has a live one.
    pub(super) fn hull(
        &self,
        batch: usize,
        mut rows: impl Iterator<Item = usize>,
        keys: &Progression,
    ) -> Range<usize> {
        if !self.fills || self.live.terms.is_empty() {
            return 0..keys.len;
        }
        let mut all = 0..0;
        rows.by_ref().for_each(|row| {
            let one = visible(self.live, batch, row, keys);
            if !one.is_empty() {
                all = if all.is_empty() { one } else { all.start.min(one.start)..all.end.max(one.end) };
            }
        });
        all
    }

    /// Runs the steps on the row of batch entry, head, global and local query row `at`, over a block of `keys`.
    pub(super) fn run<A: Acc>(
        &self,
        leaves: &Leaves<A>,
        at: [usize; 4],
        row: &mut [A],
        keys: &Progression,
        block: &Range<usize>,
    ) {
        let key = |j: usize| keys.start + (block.start + j) * keys.step;
        let dead = |x: A| x == A::NEG_INFINITY;
        for step in self.steps {
            match *step {
                ScoreStep::Factor(Factor::Number(c)) => {
                    let c = A::of_f64(c);
                    row.iter_mut().filter(|x| !dead(**x)).for_each(|x| *x *= c);
                }
                ScoreStep::Factor(Factor::Leaf(n)) => {
                    let leaf = leaves.numbers(n, at);
                    row.iter_mut()
                        .enumerate()
                        .filter(|(_, x)| !dead(**x))
                        .for_each(|(j, x)| *x *= leaf.at(key(j)));
                }
                ScoreStep::Softcap(c) => {
                    let c = A::of_f64(c);
                    row.iter_mut().for_each(|x| *x = c * (*x / c).tanh());
                }
                ScoreStep::Add(n) => {
                    let leaf = leaves.numbers(n, at);
                    for (j, x) in row.iter_mut().enumerate() {
                        let more = leaf.at(key(j));
                        *x = if dead(*x) || dead(more) { A::NEG_INFINITY } else { *x + more };
                    }
                }
                ScoreStep::Fill(ref mask) if self.fills => {
                    let seen = visible(mask, at[0], at[2], keys);
                    let tensors: Vec<_> = step.leaves().map(|(n, _)| leaves.truths(n, at)).collect();
                    for (j, x) in row.iter_mut().enumerate() {
                        if seen.contains(&(block.start + j)) && tensors.iter().all(|t| t.at(key(j))) {
                            continue;
                        }
                        match mask.fill {
                            Fill::NegInf => *x = A::NEG_INFINITY,
                            Fill::Replace(y) => *x = A::of_f64(y),
                            Fill::Add(_) if dead(*x) => {}
                            Fill::Add(y) => *x += A::of_f64(y),
                        }
                    }
                }
                ScoreStep::Fill(_) => {}
                ScoreStep::Round(to) => round(row, to),
            }
        }
    }
}

/// Rounds a row to a floating type.
fn round<A: Acc>(row: &mut [A], to: DType) {
    row.iter_mut().for_each(|x| *x = A::of_f64(to.round((*x).to_f64())));
}

/// Which rows of `k` the query row of a batch entry sees by position, as indices into `k`.
fn visible(mask: &Mask, batch: usize, row: usize, k: &Progression) -> Range<usize> {
    mask.hull_of(batch, &Progression::range(row, 1), k)
}
