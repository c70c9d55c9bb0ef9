//! Layouts: which rows of a sequence each rank owns.
//!
//! In: a sequence length and a number of ranks. Out: a [`Layout`], a list of row progressions per rank.
//!
//! Invariants: every row of the sequence belongs to exactly one rank; no progression is empty; a rank may own no row.
//! The order of a rank's progressions is the order of the rows in its local tensors. Nothing else in annulus divides a
//! sequence length by a number of ranks.

mod balance;

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

    /// `len` of its rows, from its row number `from` on.
    pub fn part(&self, from: usize, len: usize) -> Progression {
        Progression { start: self.start + from * self.step, len, step: if len == 1 { 1 } else { self.step } }
    }

    /// Whether `other` is a part of it: some of its rows, one after another. Neither may be empty.
    pub fn holds(&self, other: &Progression) -> bool {
        let step = self.step.max(1);
        other.start >= self.start
            && other.last() <= self.last()
            && (other.start - self.start).is_multiple_of(step)
            && (other.len == 1 || other.step == self.step)
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
#[non_exhaustive]
pub enum LayoutKind {
    /// Rank r owns the r-th of P adjacent blocks.
    Contiguous,
    /// The sequence is cut in 2P blocks; rank r owns blocks r and 2P−1−r, so that causal work is equal on all ranks.
    Zigzag,
    /// Rank r owns rows r, r + P, r + 2P, …: nearly equal work whatever the mask, every block of it masked.
    Stripe,
    /// Zigzag within each document of a packed sequence, so that work is equal whatever the lengths are.
    Document,
    /// Blocks of rows dealt out so that the ranks' numbers of visible pairs are as equal as their numbers of blocks allow.
    Balanced,
    /// As the rows are stated, and nothing more: as the host has them already, or, in a schedule, as something else than its own
    /// attention asks for them.
    Given,
}

impl LayoutKind {
    /// Every kind that can be made for a sequence, in the order of declaration.
    pub const ALL: [LayoutKind; 5] = [
        LayoutKind::Contiguous,
        LayoutKind::Zigzag,
        LayoutKind::Stripe,
        LayoutKind::Document,
        LayoutKind::Balanced,
    ];

    /// The name on the command line and in text.
    pub fn name(self) -> &'static str {
        match self {
            LayoutKind::Contiguous => "contiguous",
            LayoutKind::Zigzag => "zigzag",
            LayoutKind::Stripe => "stripe",
            LayoutKind::Document => "document",
            LayoutKind::Balanced => "balanced",
            LayoutKind::Given => "given",
        }
    }

    /// Every kind that a layout may be of.
    pub const NAMED: [LayoutKind; 6] = [
        LayoutKind::Contiguous,
        LayoutKind::Zigzag,
        LayoutKind::Stripe,
        LayoutKind::Document,
        LayoutKind::Balanced,
        LayoutKind::Given,
    ];

    /// The kind of that name, if there is one.
    pub fn from_name(name: &str) -> Option<LayoutKind> {
        LayoutKind::NAMED.into_iter().find(|k| k.name() == name)
    }
}

impl fmt::Display for LayoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who owns which rows of one sequence.
///
/// ```
/// use annulus::layout::{Layout, LayoutKind, Progression};
///
/// let layout = Layout::new(LayoutKind::Zigzag, 10, 2);
/// // Shares of any length: five rows each, in two runs from both ends.
/// assert_eq!(layout.rows[0], [Progression::range(0, 2), Progression::range(7, 3)]);
/// assert_eq!((layout.share(0), layout.share(1)), (5, 5));
/// ```
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
    /// The layout of `kind` for a sequence of `length` rows on `ranks` ranks (at least 1), as far as nothing is known of its
    /// masks: one document, every row as much work as any other. Shares differ by at most one row per block; ranks own no
    /// rows where the sequence is too short. Rows that a host would give are not known here: they are contiguous.
    pub fn new(kind: LayoutKind, length: usize, ranks: usize) -> Layout {
        let all = Progression::range(0, length);
        let own = |r: usize| match kind {
            LayoutKind::Contiguous | LayoutKind::Given => vec![block(all, r, ranks)],
            LayoutKind::Zigzag => zigzag(all, r, ranks).to_vec(),
            LayoutKind::Stripe => {
                let len = length.saturating_sub(r).div_ceil(ranks);
                vec![Progression { start: r, len, step: if len > 1 { ranks } else { 1 } }]
            }
            LayoutKind::Document | LayoutKind::Balanced => vec![],
        };
        match kind {
            LayoutKind::Document => Layout::by_document(length, ranks, &[]),
            LayoutKind::Balanced => Layout::balanced(length, ranks, |first, end| (end - first) as u128),
            _ => Layout::of(kind, length, (0..ranks).map(own)),
        }
    }

    /// Zigzag within each document. `starts` are the rows at which one begins, ascending, the first one's left out. Where the
    /// blocks of a document are uneven, the next document begins with another rank, so that shares stay even.
    pub fn by_document(length: usize, ranks: usize, starts: &[usize]) -> Layout {
        let mut rows = vec![Vec::new(); ranks];
        let (mut first, mut turn) = (0, 0);
        for end in starts.iter().copied().filter(|&s| s < length).chain([length]) {
            let document = Progression::range(first, end - first);
            for (r, own) in rows.iter_mut().enumerate() {
                own.extend(zigzag(document, (r + turn) % ranks, ranks));
            }
            turn = (turn + usize::from(!document.len.is_multiple_of(2 * ranks))) % ranks;
            first = end;
        }
        Layout::of(LayoutKind::Document, length, rows)
    }

    /// Blocks of rows dealt out so that work is equal. `area(first, end)` is the work of the query rows `first..end`.
    pub fn balanced(length: usize, ranks: usize, area: impl Fn(usize, usize) -> u128) -> Layout {
        let all = Progression::range(0, length);
        let work = |b: Progression| area(b.start, b.start + b.len);
        let deal = balance::deal(ranks, length, |n| (0..n).map(|i| work(block(all, i, n))).collect());
        let n = deal.iter().map(Vec::len).sum();
        let own = |mine: &Vec<usize>| {
            let mut rows: Vec<Progression> = Vec::new();
            mine.iter().for_each(|&i| push(&mut rows, block(all, i, n)));
            rows
        };
        Layout::of(LayoutKind::Balanced, length, deal.iter().map(own))
    }

    /// The rows that each rank has, in the order in which it has them.
    ///
    /// # Errors
    /// If a row of `0..length` has no owner, or two, or an owned row is none of them.
    pub fn given(length: usize, rows: Vec<Vec<Progression>>) -> Result<Layout, String> {
        let count = rows.iter().flatten().try_fold(0usize, |n, p| n.checked_add(p.len));
        if count != Some(length) {
            let count = count.map_or("too many".into(), |n| n.to_string());
            return Err(format!("there are {length} rows, and {count} are given"));
        }
        // No more than `length` in all.
        let mut owner: Vec<Option<usize>> = vec![None; length];
        for (rank, own) in rows.iter().enumerate() {
            for p in own {
                for i in 0..p.len {
                    let row = i.checked_mul(p.step).and_then(|d| d.checked_add(p.start));
                    match row.and_then(|row| owner.get_mut(row)) {
                        None => return Err(format!("rows {p} of rank {rank} are not all in 0..{length}")),
                        Some(Some(other)) => {
                            return Err(format!("rows {p} of rank {rank} are rows of rank {other} too"));
                        }
                        Some(free) => *free = Some(rank),
                    }
                }
            }
        }
        let plain = |p: Progression| if p.len == 1 { Progression { step: 1, ..p } } else { p };
        let rows = rows.into_iter().map(|own| own.into_iter().map(plain).collect::<Vec<_>>());
        Ok(Layout::of(LayoutKind::Given, length, rows))
    }

    /// Sequences one behind the other, the rows of each where they were: what a cache with new rows behind it has. It is
    /// named like its first part.
    pub fn joined(parts: &[&Layout]) -> Layout {
        let kind = parts.first().map_or(LayoutKind::Contiguous, |p| p.kind);
        let mut rows = vec![Vec::new(); parts.iter().map(|p| p.ranks()).max().unwrap_or(0)];
        let mut length = 0;
        for part in parts {
            for (own, more) in rows.iter_mut().zip(&part.rows) {
                more.iter().for_each(|p| push(own, Progression { start: p.start + length, ..*p }));
            }
            length += part.length;
        }
        Layout::of(kind, length, rows)
    }

    fn of(kind: LayoutKind, length: usize, rows: impl IntoIterator<Item = Vec<Progression>>) -> Layout {
        let held = |own: Vec<Progression>| own.into_iter().filter(|p| p.len > 0).collect();
        Layout { kind, length, rows: rows.into_iter().map(held).collect() }
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.rows.len()
    }

    /// How many rows rank `r` owns; none if there is no such rank.
    pub fn share(&self, r: usize) -> usize {
        self.rows.get(r).map_or(0, |own| row_count(own))
    }
}

/// Block `i` of `n`: the rows from ⌊i·length/n⌋ to ⌊(i+1)·length/n⌋ of adjacent ones.
fn block(of: Progression, i: usize, n: usize) -> Progression {
    let bound = |i: usize| (i as u128 * of.len as u128 / n.max(1) as u128) as usize;
    Progression::range(of.start + bound(i), bound(i + 1) - bound(i))
}

/// Of 2P blocks the `place`-th from the front and from the back.
fn zigzag(of: Progression, place: usize, ranks: usize) -> [Progression; 2] {
    [block(of, place, 2 * ranks), block(of, 2 * ranks - 1 - place, 2 * ranks)]
}

/// Adds rows behind those that there are; adjacent ones become one progression.
fn push(rows: &mut Vec<Progression>, more: Progression) {
    match rows.last_mut() {
        _ if more.len == 0 => {}
        Some(last) if last.step == 1 && more.step == 1 && last.start + last.len == more.start => {
            last.len += more.len;
        }
        _ => rows.push(more),
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

    /// Of the area of the causal mask over `n` rows, the part of each rank.
    fn causal_work(layout: &Layout) -> Vec<usize> {
        layout.rows.iter().map(|own| own.iter().flat_map(Progression::rows).map(|q| q + 1).sum()).collect()
    }

    #[test]
    fn work_is_balanced() {
        let causal = |first: usize, end: usize| (first..end).map(|q| q as u128 + 1).sum();
        // Four blocks of 32 rows on two ranks: 528 + 3600 and 1552 + 2576 pairs.
        assert_eq!(causal_work(&Layout::balanced(128, 2, causal)), [4128, 4128]);
        for ranks in 1..9 {
            for length in [16 * ranks, 97, 128, 1000] {
                let work = causal_work(&Layout::balanced(length, ranks, causal));
                let zigzag = causal_work(&Layout::new(LayoutKind::Zigzag, length, ranks));
                assert!(
                    work.iter().max() <= zigzag.iter().max(),
                    "{length} rows on {ranks}: {work:?} {zigzag:?}"
                );
            }
        }
        // Work that lies in the last quarter is spread by smaller blocks than halves.
        let late = |first: usize, end: usize| (first..end).map(|q| 1 + 99 * u128::from(q >= 48)).sum();
        let layout = Layout::balanced(64, 4, late);
        let work =
            layout.rows.iter().map(|own| own.iter().map(|p| late(p.start, p.start + p.len)).sum::<u128>());
        assert!(work.clone().max() < work.min().map(|w| w + w / 50), "{:?}", layout.rows);
        // Of equal work, the plainest.
        let even = Layout::new(LayoutKind::Balanced, 64, 4);
        assert_eq!(even.rows, Layout::new(LayoutKind::Contiguous, 64, 4).rows);
    }

    #[test]
    fn stripes_and_documents() {
        let stripe = Layout::new(LayoutKind::Stripe, 7, 3);
        assert_eq!(stripe.rows[0], [Progression { start: 0, len: 3, step: 3 }]);
        assert_eq!(stripe.rows[2], [Progression { start: 2, len: 2, step: 3 }]);
        // Work grows by S/P pairs from rank to rank.
        assert_eq!(
            causal_work(&Layout::new(LayoutKind::Stripe, 48, 8)),
            [126, 132, 138, 144, 150, 156, 162, 168]
        );
        let documents = Layout::by_document(20, 2, &[8, 12]);
        let range = |start, len| Progression::range(start, len);
        assert_eq!(
            documents.rows[0],
            [range(0, 2), range(6, 2), range(8, 1), range(11, 1), range(12, 2), range(18, 2)]
        );
        assert_eq!(
            documents.rows[1],
            [range(2, 2), range(4, 2), range(9, 1), range(10, 1), range(14, 2), range(16, 2)]
        );
        for (length, starts) in
            [(20, vec![8, 12]), (23, vec![1, 2, 3, 9, 22]), (5, vec![1, 2, 3, 4]), (9, vec![])]
        {
            for ranks in 1..6 {
                let layout = Layout::by_document(length, ranks, &starts);
                let mut rows: Vec<usize> = layout.rows.iter().flatten().flat_map(|p| p.rows()).collect();
                rows.sort_unstable();
                assert_eq!(rows, (0..length).collect::<Vec<_>>(), "{starts:?} {ranks}");
                let cut = |p: &Progression| starts.iter().any(|&s| p.start < s && s < p.start + p.len);
                assert!(!layout.rows.iter().flatten().any(cut), "a piece reaches over documents");
            }
        }
        // One-row documents go round.
        let shares: Vec<usize> =
            (0..4).map(|r| Layout::by_document(8, 4, &[1, 2, 3, 4, 5, 6, 7]).share(r)).collect();
        assert_eq!(shares, [2; 4]);
    }

    #[test]
    fn a_cache_and_new_rows_are_one_sequence() {
        let (past, new) = (Layout::new(LayoutKind::Contiguous, 9, 3), Layout::new(LayoutKind::Zigzag, 2, 3));
        let joined = Layout::joined(&[&past, &new]);
        assert_eq!((joined.kind, joined.length), (LayoutKind::Contiguous, 11));
        assert_eq!(joined.rows[0], [Progression::range(0, 3), Progression::range(10, 1)]);
        assert_eq!(joined.rows[1], [Progression::range(3, 3)]);
        // The last rank's new row is behind its old ones.
        let behind = Layout::joined(&[&past, &Layout::new(LayoutKind::Contiguous, 1, 3)]);
        assert_eq!(behind.rows[2], [Progression::range(6, 4)]);
    }

    #[test]
    fn given_rows_have_one_owner_each() {
        let p = |start, len, step| Progression { start, len, step };
        let given = Layout::given(7, vec![vec![p(0, 3, 2), p(6, 1, 9)], vec![], vec![p(1, 3, 2)]]).unwrap();
        assert_eq!((given.kind, given.share(0), given.share(1)), (LayoutKind::Given, 4, 0));
        assert_eq!(given.rows[0][1], p(6, 1, 1));
        let refused = |length, rows: &[Progression]| Layout::given(length, vec![rows.to_vec()]).unwrap_err();
        assert_eq!(refused(3, &[p(0, 2, 1)]), "there are 3 rows, and 2 are given");
        assert_eq!(refused(2, &[p(0, 2, 3)]), "rows 0:2:3 of rank 0 are not all in 0..2");
        assert_eq!(refused(2, &[p(0, 1, 1), p(0, 1, 1)]), "rows 0:1 of rank 0 are rows of rank 0 too");
        assert_eq!(refused(2, &[p(1, 2, 0)]), "rows 1:2:0 of rank 0 are rows of rank 0 too");
        assert!(refused(2, &[p(1, 2, usize::MAX)]).contains("not all in"));
        assert!(refused(2, &[p(0, usize::MAX, 1), p(0, usize::MAX, 1)]).contains("too many"));
    }

    #[test]
    fn zigzag_pairs_the_first_block_with_the_last() {
        let layout = Layout::new(LayoutKind::Zigzag, 32, 4);
        assert_eq!(layout.rows[0], [Progression::range(0, 4), Progression::range(28, 4)]);
        assert_eq!(layout.rows[3], [Progression::range(12, 4), Progression::range(16, 4)]);
    }
}
