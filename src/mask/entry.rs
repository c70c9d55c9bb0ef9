//! What a mask says of one batch entry: interval arithmetic over the rows of a block.

use super::term::Term;
use super::tile::Tile;

/// The terms of one batch entry.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// All terms of the mask.
    pub(super) terms: &'a [Term],
    /// Which batch entry.
    pub(super) index: usize,
}

impl<'a> Entry<'a> {
    /// The terms that hold for it.
    pub(super) fn terms(self) -> impl Iterator<Item = &'a Term> {
        self.terms.iter().flat_map(move |t| match t {
            Term::Batch { entries } => entries.get(self.index).map_or(&[][..], Vec::as_slice),
            other => std::slice::from_ref(other),
        })
    }

    /// See [`Mask::keys_of`](super::Mask::keys_of).
    pub(super) fn keys_of(self, q: usize) -> (i128, i128) {
        let (mut low, mut high) = (i128::MIN, i128::MAX);
        for term in self.terms() {
            let (least, most) = match *term {
                Term::Causal { offset } => (i128::MIN, q as i128 + i128::from(offset)),
                Term::Window { left, right, offset } => {
                    let at = q as i128 + i128::from(offset);
                    (
                        left.map_or(i128::MIN, |l| at - i128::from(l)),
                        right.map_or(i128::MAX, |r| at + i128::from(r)),
                    )
                }
                Term::Prefix { length, offset } => {
                    (i128::MIN, (q as i128 + i128::from(offset)).max(length as i128 - 1))
                }
                Term::Keys { start, end } => (start as i128, end as i128 - 1),
                Term::Segments { ref starts, offset } => document(starts, q as i128 + i128::from(offset)),
                Term::Batch { .. } | Term::Tensor { .. } => continue,
            };
            (low, high) = (low.max(least), high.min(most));
        }
        (low, high)
    }

    /// What the terms say about a block, given by its first and last rows; tensor terms and the fill left out.
    ///
    /// Where documents begin, the block is cut; within a document the other terms bound k − q or k, so that the extremes lie
    /// at the ends of the progressions.
    pub(super) fn tile(self, q: (i128, i128), k: (i128, i128)) -> Tile {
        let documents = self.terms().find_map(|t| match t {
            Term::Segments { starts, offset } => Some((starts, i128::from(*offset))),
            _ => None,
        });
        match documents {
            None => self.block(q, k),
            Some((starts, offset)) => self.by_document(q, k, starts, offset),
        }
    }

    /// Cuts a block, given by its first and last rows, where documents begin, and asks each part. More than a few parts are
    /// not asked.
    fn by_document(self, q: (i128, i128), k: (i128, i128), starts: &[usize], offset: i128) -> Tile {
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
    fn block(self, q: (i128, i128), k: (i128, i128)) -> Tile {
        // Of keys that are padding the other terms are not asked.
        let whole = k;
        let k = self.terms().fold(k, |k, t| match *t {
            Term::Keys { start, end } => (k.0.max(start as i128), k.1.min(end as i128 - 1)),
            _ => k,
        });
        if k.0 > k.1 {
            return Tile::Skip;
        }
        // The range of k − q over the block.
        let (low, high) = (k.0 - q.1, k.1 - q.0);
        let mut tile = if k == whole { Tile::Full } else { Tile::Partial };
        for term in self.terms() {
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
                Term::Prefix { length, .. } if k.1 < length as i128 => continue,
                // Of the keys behind the prefix causality alone decides.
                Term::Prefix { length, offset } => {
                    if k.0 < length as i128 {
                        tile = if high > i128::from(offset) { Tile::Partial } else { tile };
                        continue;
                    }
                    (None, Some(i128::from(offset)))
                }
                Term::Keys { .. } | Term::Batch { .. } | Term::Tensor { .. } => continue,
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

    /// Runs of query rows within which no document begins, as (first, end), ascending.
    pub(super) fn pieces(self, first: usize, end: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut at = first;
        std::iter::from_fn(move || {
            let from = at;
            let ends = self.terms().filter_map(|t| match t {
                Term::Segments { starts, offset } => {
                    let last = document(starts, from as i128 + i128::from(*offset)).1;
                    // The row after the last one whose position is in the document.
                    usize::try_from(last.checked_sub(i128::from(*offset))?.checked_add(1)?).ok()
                }
                _ => None,
            });
            at = ends.fold(end, usize::min);
            (from < end).then_some((from, at))
        })
    }

    /// See [`Mask::no_row_is_empty`](super::Mask::no_row_is_empty).
    pub(super) fn no_row_is_empty(self, q_len: usize, k_len: usize) -> bool {
        let row = |q: usize| {
            let (low, high) = self.keys_of(q);
            low.max(0) <= high.min(k_len as i128 - 1)
        };
        // Between two rows at which a document begins, both ends of a row's keys move with the row or stand still, and behind
        // a prefix do the one after the other: low ≤ high is a conjunction of conditions that are monotone in q, so holding
        // at both ends is holding between them.
        self.pieces(0, q_len).all(|(first, end)| row(first) && row(end - 1))
    }
}

/// The first and last position of the document that `position` is in; the first document has no begin, the last no end.
pub(super) fn document(starts: &[usize], position: i128) -> (i128, i128) {
    let n = starts.partition_point(|&s| s as i128 <= position);
    let first = n.checked_sub(1).map_or(i128::MIN, |i| starts[i] as i128);
    (first, starts.get(n).map_or(i128::MAX, |&s| s as i128 - 1))
}
