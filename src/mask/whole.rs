//! A whole mask: its terms, its fill, and what it says of rows and blocks over all batch entries.

use super::entry::Entry;
use super::term::Term;
use super::tile::Tile;
use crate::layout::Progression;
use std::ops::Range;

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

/// A mask: a key is kept if every term keeps it. No term: every key is kept.
///
/// ```
/// use annulus::layout::Progression;
/// use annulus::mask::{Mask, Tile};
///
/// let mask: Mask = "causal(0) & keys(2,100)".parse()?;
/// let rows = |start| Progression::range(start, 8);
/// assert_eq!(mask.tile(&rows(16), &rows(8)), Tile::Full); // every query row sees every key
/// assert_eq!(mask.tile(&rows(16), &rows(16)), Tile::Partial); // some pairs are masked
/// assert_eq!(mask.tile(&rows(16), &rows(24)), Tile::Skip); // nothing is left to compute
/// assert!(mask.keeps(0, 5, 2) && !mask.keeps(0, 5, 1) && !mask.keeps(0, 5, 6));
/// # Ok::<(), annulus::mask::ParseMaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// The conditions; their order has no meaning but is kept in text.
    pub terms: Vec<Term>,
    /// What a masked score becomes.
    pub fill: Fill,
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

    /// Whether some term bounds the keys from above by the query row, in every batch entry: causal, or a window whose right
    /// end is the row's own position.
    pub fn is_causal(&self) -> bool {
        let causal = |t: &Term| matches!(t, Term::Causal { .. } | Term::Window { right: Some(0), .. });
        self.each_entry().all(|mut terms| terms.any(causal))
    }

    /// Whether later query rows see more keys than earlier ones, so that rows are no equal work: causal, with a prefix or not.
    pub fn grows(&self) -> bool {
        self.is_causal() || self.each_entry().all(|mut terms| terms.any(|t| matches!(t, Term::Prefix { .. })))
    }

    /// Whether some term says of each batch entry what it keeps.
    pub fn by_entry(&self) -> bool {
        self.terms.iter().any(|t| matches!(t, Term::Batch { .. }))
    }

    /// Batch entries that the mask tells apart; 1 if it says the same of all.
    pub fn entries(&self) -> usize {
        let lists = self.terms.iter().filter_map(|t| match t {
            Term::Batch { entries } => Some(entries.len()),
            _ => None,
        });
        lists.max().unwrap_or(1).max(1)
    }

    /// The mask of some of the batch entries, named in the order in which they stand there. An entry that there is not keeps every
    /// key, as it does in the mask itself.
    pub fn of_entries(&self, which: &[usize]) -> Mask {
        let own = |term: &Term| match term {
            // Of no batch entry nothing is said, and a list of none has no text.
            Term::Batch { .. } if which.is_empty() => None,
            Term::Batch { entries } => {
                let entries = which.iter().map(|&i| entries.get(i).cloned().unwrap_or_default()).collect();
                Some(Term::Batch { entries })
            }
            other => Some(other.clone()),
        };
        Mask { terms: self.terms.iter().filter_map(own).collect(), fill: self.fill }
    }

    /// For each batch entry that the mask tells apart, the terms that hold for it.
    pub fn each_entry(&self) -> impl Iterator<Item = impl Iterator<Item = &Term>> {
        (0..self.entries()).map(|entry| self.entry(entry).terms())
    }

    /// What the mask says of one batch entry.
    pub(super) fn entry(&self, index: usize) -> Entry<'_> {
        Entry { terms: &self.terms, index: if self.entries() == 1 { 0 } else { index } }
    }

    /// Whether a batch entry keeps the pair of global rows by every term that depends on positions alone; tensor terms count as
    /// kept.
    pub fn keeps(&self, entry: usize, q: usize, k: usize) -> bool {
        let (low, high) = self.keys_of(entry, q);
        (low..=high).contains(&(k as i128))
    }

    /// The first and the last position that the terms keep for query row `q` of a batch entry, tensor terms left out. None is
    /// kept if the first is beyond the last.
    pub fn keys_of(&self, entry: usize, q: usize) -> (i128, i128) {
        self.entry(entry).keys_of(q)
    }

    /// What the mask says about every pair of `q` and `k` in every batch entry. An empty block is `Skip`.
    pub fn tile(&self, q: &Progression, k: &Progression) -> Tile {
        if q.len == 0 || k.len == 0 {
            return Tile::Skip;
        }
        let (q, k) = ((q.start as i128, q.last() as i128), (k.start as i128, k.last() as i128));
        let mut tile = self.entry(0).tile(q, k);
        for entry in 1..self.entries() {
            if tile == Tile::Partial || self.entry(entry).tile(q, k) != tile {
                tile = Tile::Partial;
                break;
            }
        }
        let unsure = self.fill != Fill::NegInf && tile == Tile::Skip
            || self.terms.iter().any(|t| matches!(t, Term::Tensor { .. })) && tile == Tile::Full;
        if unsure { Tile::Partial } else { tile }
    }

    /// Which rows of `k` some row of `q` sees by position in some batch entry, as indices into `k`: no row outside is kept by
    /// any pair. The fill has no say.
    pub fn hull(&self, q: &Progression, k: &Progression) -> Range<usize> {
        let mut all = self.hull_of(0, q, k);
        for entry in 1..self.entries() {
            let one = self.hull_of(entry, q, k);
            all = match (all.is_empty(), one.is_empty()) {
                (_, true) => all,
                (true, _) => one,
                _ => all.start.min(one.start)..all.end.max(one.end),
            };
        }
        all
    }

    /// The same of one batch entry. Of one query row it is exactly what the terms that depend on positions keep.
    pub fn hull_of(&self, entry: usize, q: &Progression, k: &Progression) -> Range<usize> {
        if q.len == 0 || k.len == 0 {
            return 0..0;
        }
        // Both ends of what a row keeps move on with the row.
        let (low, high) = (self.keys_of(entry, q.start).0, self.keys_of(entry, q.last()).1);
        let (start, step) = (k.start as i128, k.step.max(1) as i128);
        let before = |bound: i128| -> usize {
            // How many rows of k lie below the bound.
            if bound <= start { 0 } else { ((bound - start - 1) / step + 1).min(k.len as i128) as usize }
        };
        let begin = before(low);
        begin..before(high.saturating_add(1)).max(begin)
    }

    /// Whether every query row in `0..q_len` of every batch entry is proved to keep at least one key in `0..k_len`. Tensor terms
    /// prove nothing.
    pub fn no_row_is_empty(&self, q_len: usize, k_len: usize) -> bool {
        if self.terms.iter().any(|t| matches!(t, Term::Tensor { .. })) {
            return q_len == 0;
        }
        (0..self.entries()).all(|entry| self.entry(entry).no_row_is_empty(q_len, k_len))
    }

    /// What is wrong with the terms over so many batch entries, whose text and operands aside.
    pub fn fault(&self, batch: usize) -> Option<String> {
        let own = |t: &Term| match t {
            Term::Segments { starts, .. } => {
                let ascending = starts.first() != Some(&0) && starts.windows(2).all(|w| w[0] < w[1]);
                (!ascending).then(|| {
                    format!("the documents of {t} do not begin one after another, the second behind 0")
                })
            }
            Term::Keys { start, end } if start > end => {
                Some(format!("the keys of {t} end before they begin"))
            }
            _ => None,
        };
        self.terms.iter().find_map(|t| match t {
            Term::Batch { entries } if entries.len() != batch => {
                Some(format!("{t} says of {} batch entries what {batch} keep", entries.len()))
            }
            Term::Batch { entries } => entries.iter().flatten().find_map(|inner| match inner {
                Term::Batch { .. } | Term::Tensor { .. } => {
                    Some(format!("{inner} cannot stand in a term for each batch entry"))
                }
                other => own(other),
            }),
            other => own(other),
        })
    }
}
