//! Layouts: which rows of a sequence each rank owns.
//!
//! In: a sequence length and a number of ranks. Out: a [`Layout`], a list of row progressions per rank.
//!
//! Invariants: every row of the sequence belongs to exactly one rank; no progression is empty; a rank may own no row.
//! The order of a rank's progressions is the order of the rows in its local tensors. Nothing else in annulus divides a
//! sequence length by a number of ranks.

use std::fmt;

/// Rows `start`, `start + step`, … , `len` of them. `len > 0` and `step > 0` in a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Progression {
    /// The first row, a global number.
    pub start: usize,
    /// How many rows.
    pub len: usize,
    /// The distance of neighbours.
    pub step: usize,
}

impl Progression {
    /// Adjacent rows `start .. start + len`.
    pub fn range(start: usize, len: usize) -> Progression {
        Progression { start, len, step: 1 }
    }

    /// The last row; of an empty progression its start.
    pub fn last(&self) -> usize {
        self.start + self.len.saturating_sub(1) * self.step
    }

    /// Row numbers in order.
    pub fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let p = *self;
        (0..p.len).map(move |i| p.start + i * p.step)
    }
}

/// `start:len`, or `start:len:step` where the step is not 1.
impl fmt::Display for Progression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.len)?;
        if self.step != 1 {
            write!(f, ":{}", self.step)?;
        }
        Ok(())
    }
}

/// How many rows a list of progressions has.
pub fn row_count(rows: &[Progression]) -> usize {
    rows.iter().map(|p| p.len).sum()
}

/// How a layout was made. It names the layout; the rows themselves are in [`Layout::rows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayoutKind {
    /// Rank r owns the r-th of P adjacent blocks.
    Contiguous,
    /// The sequence is cut in 2P blocks; rank r owns blocks r and 2P−1−r, so that causal work is equal on all ranks.
    Zigzag,
}

impl LayoutKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [LayoutKind; 2] = [LayoutKind::Contiguous, LayoutKind::Zigzag];

    /// The name on the command line and in text.
    pub fn name(self) -> &'static str {
        match self {
            LayoutKind::Contiguous => "contiguous",
            LayoutKind::Zigzag => "zigzag",
        }
    }

    /// The kind of that name, if there is one.
    pub fn from_name(name: &str) -> Option<LayoutKind> {
        LayoutKind::ALL.into_iter().find(|k| k.name() == name)
    }
}

impl fmt::Display for LayoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who owns which rows of one sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// How it was made.
    pub kind: LayoutKind,
    /// Length of the sequence.
    pub length: usize,
    /// For each rank its rows, in the order in which its local tensors hold them.
    pub rows: Vec<Vec<Progression>>,
}

impl Layout {
    /// The layout of `kind` for a sequence of `length` rows on `ranks` ranks (at least 1). Shares differ by at most one
    /// row per block; ranks own no rows where the sequence is too short.
    ///
    /// Block `i` of `n` holds the rows from ⌊i·length/n⌋ to ⌊(i+1)·length/n⌋.
    pub fn new(kind: LayoutKind, length: usize, ranks: usize) -> Layout {
        let blocks = match kind {
            LayoutKind::Contiguous => ranks,
            LayoutKind::Zigzag => 2 * ranks,
        };
        let bound = |i: usize| (i as u128 * length as u128 / blocks.max(1) as u128) as usize;
        let block = |i: usize| Progression::range(bound(i), bound(i + 1) - bound(i));
        let rows = (0..ranks)
            .map(|r| {
                let owned = match kind {
                    LayoutKind::Contiguous => vec![block(r)],
                    LayoutKind::Zigzag => vec![block(r), block(2 * ranks - 1 - r)],
                };
                owned.into_iter().filter(|p| p.len > 0).collect()
            })
            .collect();
        Layout { kind, length, rows }
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.rows.len()
    }

    /// How many rows rank `r` owns.
    pub fn share(&self, r: usize) -> usize {
        row_count(&self.rows[r])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_one_owner() {
        for kind in LayoutKind::ALL {
            for length in 0..70 {
                for ranks in 1..10 {
                    let layout = Layout::new(kind, length, ranks);
                    let mut rows: Vec<usize> = layout.rows.iter().flatten().flat_map(|p| p.rows()).collect();
                    assert!(layout.rows.iter().flatten().all(|p| p.len > 0));
                    rows.sort_unstable();
                    assert_eq!(rows, (0..length).collect::<Vec<_>>(), "{kind} {length} {ranks}");
                }
            }
        }
    }

    #[test]
    fn zigzag_pairs_the_first_block_with_the_last() {
        let layout = Layout::new(LayoutKind::Zigzag, 32, 4);
        assert_eq!(layout.rows[0], [Progression::range(0, 4), Progression::range(28, 4)]);
        assert_eq!(layout.rows[3], [Progression::range(12, 4), Progression::range(16, 4)]);
    }
}
