//! Masks: which query row may see which key row, as an expression over global row numbers.
//!
//! In: nothing but numbers. Out: a [`Mask`], and for a block of query rows and a block of key rows the answer
//! [`Tile::Skip`], [`Tile::Full`] or [`Tile::Partial`].
//!
//! Invariants: `Skip` and `Full` are claims about every batch entry, head and pair of the block, proved by interval
//! arithmetic; what cannot be proved is `Partial`. A leaf that is a tensor gives `Partial`, never `Skip`. A finite fill is
//! not −∞: with one, a masked key still takes part, so that no block is skipped.

mod area;
mod text;

pub use text::ParseMaskError;

use crate::layout::Progression;
use std::ops::Range;
use std::sync::Arc;

/// What a masked score becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// −∞: the key takes no part, even if its value is infinite or NaN.
    NegInf,
    /// The score is replaced by this finite number.
    Replace(f64),
    /// This finite number is added to the score, in the type of the scores.
    Add(f64),
}

/// One condition that a key must meet to be kept. `q` and `k` are global row numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// Keep if `k <= q + offset`. The offset may be negative.
    Causal {
        /// How far the last visible key is ahead of the query's own number.
        offset: i64,
    },
    /// Keep if `q + offset - left <= k <= q + offset + right`; a bound that is `None` does not bind.
    Window {
        /// Keys before the query's own position.
        left: Option<u64>,
        /// Keys after the query's own position.
        right: Option<u64>,
        /// Position of query row 0 among the keys.
        offset: i64,
    },
    /// Documents packed one after another: keep if query and key are of the same one. Query row q stands at position
    /// `q + offset` among the keys.
    Segments {
        /// The positions at which a document begins, the first one's left out; ascending, none twice, none 0.
        starts: Arc<[usize]>,
        /// Position of query row 0 among the keys.
        offset: i64,
    },
    /// Keep where the boolean operand of the attention with this index (see [`crate::ir::Attention`]) is true.
    /// It broadcasts to (batch, query head, query row, key row).
    Tensor {
        /// Index among the attention's operands.
        operand: usize,
    },
}

/// A mask: a key is kept if every term keeps it. No term: every key is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// The conditions; their order has no meaning but is kept in text.
    pub terms: Vec<Term>,
    /// What a masked score becomes.
    pub fill: Fill,
}

/// What a mask says about a block of query rows × key rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tile {
    /// No pair is kept, and a masked pair takes no part: nothing to compute.
    Skip,
    /// Every pair is kept: nothing to mask.
    Full,
    /// Anything else.
    Partial,
}

impl Tile {
    /// The name in text: `skip`, `full`, `partial`.
    pub fn name(self) -> &'static str {
        match self {
            Tile::Skip => "skip",
            Tile::Full => "full",
            Tile::Partial => "partial",
        }
    }
}

impl Mask {
    /// The mask that keeps every key.
    pub fn none() -> Mask {
        Mask { terms: vec![], fill: Fill::NegInf }
    }

    /// `causal(offset)` with fill −∞.
    pub fn causal(offset: i64) -> Mask {
        Mask { terms: vec![Term::Causal { offset }], fill: Fill::NegInf }
    }

    /// Whether some term bounds the keys from above by the query row: causal, or a window with a right end.
    pub fn is_causal(&self) -> bool {
        self.terms.iter().any(|t| matches!(t, Term::Causal { .. } | Term::Window { right: Some(0), .. }))
    }

    /// Whether the pair of global rows is kept by every term that depends on positions alone; tensor terms count as kept.
    pub fn keeps(&self, q: usize, k: usize) -> bool {
        let (low, high) = self.keys_of(q);
        (low..=high).contains(&(k as i128))
    }

    /// The first and the last position that the terms keep for query row `q`, tensor terms left out. None is kept if the
    /// first is beyond the last.
    pub fn keys_of(&self, q: usize) -> (i128, i128) {
        let (mut low, mut high) = (i128::MIN, i128::MAX);
        for term in &self.terms {
            let (least, most) = match *term {
                Term::Causal { offset } => (i128::MIN, q as i128 + i128::from(offset)),
                Term::Window { left, right, offset } => {
                    let at = q as i128 + i128::from(offset);
                    (
                        left.map_or(i128::MIN, |l| at - i128::from(l)),
                        right.map_or(i128::MAX, |r| at + i128::from(r)),
                    )
                }
                Term::Segments { ref starts, offset } => document(starts, q as i128 + i128::from(offset)),
                Term::Tensor { .. } => continue,
            };
            (low, high) = (low.max(least), high.min(most));
        }
        (low, high)
    }

    /// What the mask says about every pair of `q` and `k`. An empty block is `Skip`.
    ///
    /// Where documents begin, the block is cut; within a document the other terms bound k − q, so that the extremes lie at
    /// the ends of the progressions.
    pub fn tile(&self, q: &Progression, k: &Progression) -> Tile {
        if q.len == 0 || k.len == 0 {
            return Tile::Skip;
        }
        let (q, k) = ((q.start as i128, q.last() as i128), (k.start as i128, k.last() as i128));
        let documents = self.terms.iter().find_map(|t| match t {
            Term::Segments { starts, offset } => Some((starts, i128::from(*offset))),
            _ => None,
        });
        let tile = match documents {
            None => self.block(q, k),
            Some((starts, offset)) => self.by_document(q, k, starts, offset),
        };
        let unsure = self.fill != Fill::NegInf && tile == Tile::Skip
            || self.terms.iter().any(|t| matches!(t, Term::Tensor { .. })) && tile == Tile::Full;
        if unsure { Tile::Partial } else { tile }
    }

    /// Cuts a block, given by its first and last rows, where documents begin, and asks each part. More than a few parts are
    /// not asked.
    fn by_document(&self, q: (i128, i128), k: (i128, i128), starts: &[usize], offset: i128) -> Tile {
        const MOST_PARTS: usize = 16;
        let (q0, q1) = (q.0 + offset, q.1 + offset);
        let first = document(starts, q0.max(k.0)).0;
        let last = document(starts, q1.min(k.1)).1;
        if first > last || q0 > last || k.0 > last || q1 < first || k.1 < first {
            return Tile::Skip;
        }
        let inside = (q0.min(k.0), q1.max(k.1));
        let one = document(starts, inside.0);
        if one.1 >= inside.1 {
            return self.block(q, k);
        }
        let mut at = first;
        for _ in 0..MOST_PARTS {
            let (from, to) = document(starts, at);
            let part = |run: (i128, i128), shift: i128| {
                (run.0.max(from.saturating_sub(shift)), run.1.min(to.saturating_sub(shift)))
            };
            let (q, k) = (part(q, offset), part(k, 0));
            if q.0 <= q.1 && k.0 <= k.1 && self.block(q, k) != Tile::Skip {
                return Tile::Partial;
            }
            if to >= last {
                return Tile::Skip;
            }
            at = to + 1;
        }
        Tile::Partial
    }

    /// What the terms say about a block of adjacent rows, given by its first and last ones; tensor terms and the fill left out.
    fn block(&self, q: (i128, i128), k: (i128, i128)) -> Tile {
        // The range of k − q over the block.
        let (low, high) = (k.0 - q.1, k.1 - q.0);
        let mut tile = Tile::Full;
        for term in &self.terms {
            let (least, most) = match *term {
                Term::Causal { offset } => (None, Some(i128::from(offset))),
                Term::Window { left, right, offset } => {
                    let offset = i128::from(offset);
                    (left.map(|l| offset - i128::from(l)), right.map(|r| offset + i128::from(r)))
                }
                Term::Segments { ref starts, offset } => {
                    let q = (q.0 + i128::from(offset), q.1 + i128::from(offset));
                    let (from, to) = (document(starts, q.0), document(starts, q.1));
                    if k.1 < from.0 || k.0 > to.1 {
                        return Tile::Skip;
                    }
                    if from != to || k.0 < from.0 || k.1 > from.1 {
                        tile = Tile::Partial;
                    }
                    continue;
                }
                Term::Tensor { .. } => continue,
            };
            if least.is_some_and(|b| high < b) || most.is_some_and(|b| low > b) {
                return Tile::Skip;
            }
            let all = least.is_none_or(|b| low >= b) && most.is_none_or(|b| high <= b);
            if !all {
                tile = Tile::Partial;
            }
        }
        tile
    }

    /// Which rows of `k` some row of `q` sees by position, as indices into `k`: no row outside is kept by any pair. Of one
    /// query row it is exactly what the terms that depend on positions keep. The fill has no say.
    pub fn hull(&self, q: &Progression, k: &Progression) -> Range<usize> {
        if q.len == 0 || k.len == 0 {
            return 0..0;
        }
        // Both ends of what a row keeps move on with the row.
        let (low, high) = (self.keys_of(q.start).0, self.keys_of(q.last()).1);
        let (start, step) = (k.start as i128, k.step.max(1) as i128);
        let before = |bound: i128| -> usize {
            // How many rows of k lie below the bound.
            if bound <= start { 0 } else { ((bound - start - 1) / step + 1).min(k.len as i128) as usize }
        };
        let begin = before(low);
        begin..before(high.saturating_add(1)).max(begin)
    }

    /// Whether every query row in `0..q_len` is proved to keep at least one key in `0..k_len`. Tensor terms prove nothing.
    pub fn no_row_is_empty(&self, q_len: usize, k_len: usize) -> bool {
        if self.terms.iter().any(|t| matches!(t, Term::Tensor { .. })) {
            return q_len == 0;
        }
        let row = |q: usize| {
            let (low, high) = self.keys_of(q);
            low.max(0) <= high.min(k_len as i128 - 1)
        };
        // Between two rows at which a document begins, both ends of a row's keys move with the row or stand still: low ≤ high
        // is a conjunction of conditions that are monotone in q, so holding at both ends is holding between them.
        self.pieces(0, q_len).all(|(first, end)| row(first) && row(end - 1))
    }
}

/// The first and last position of the document that `position` is in; the first document has no begin, the last no end.
fn document(starts: &[usize], position: i128) -> (i128, i128) {
    let n = starts.partition_point(|&s| s as i128 <= position);
    let first = n.checked_sub(1).map_or(i128::MIN, |i| starts[i] as i128);
    (first, starts.get(n).map_or(i128::MAX, |&s| s as i128 - 1))
}

#[cfg(test)]
mod tests;
