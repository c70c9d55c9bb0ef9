//! The names of layouts: what each says of the rows, in this room's own closed form, and what rows are called instead.
//!
//! | name | rows of rank r of P, of a sequence of n |
//! |---|---|
//! | `contiguous` | ⌊rn/P⌋ up to ⌊(r+1)n/P⌋ |
//! | `zigzag` | of 2P such blocks the r-th from the front and the r-th from the back |
//! | `stripe` | r, r + P, r + 2P, … |
//! | `document` | zigzag within each document that the mask of this attention keeps apart; behind a document whose length is no multiple of 2P the next one begins with another rank |
//! | `balanced` | blocks, dealt out by the pairs that this attention computes: [`deal`] |
//! | `given` | as they are stated: nothing is claimed |
//!
//! Pieces count: rows that are cut otherwise are not those of the name, for steps and messages take pieces. A piece without
//! rows is left out; the step of a single row says nothing.

use super::kept::{Kept, TooLong};
use super::log::Log;
use crate::layout::{Layout, LayoutKind, Progression};
use crate::mask::Term;
use crate::schedule::Schedule;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Steps of counting pairs that the deal of one layout may take.
const MOST_WORK: u64 = 1 << 28;
/// Pieces of a rank that are shown.
const SHOWN: usize = 4;

/// Proves the names of both layouts.
pub(super) fn layouts(schedule: &Schedule, log: &mut Log<'_>) {
    for queries in [true, false] {
        let side = Side { schedule, queries };
        let (op, kind) = (if queries { "q_layout" } else { "kv_layout" }, side.layout().kind);
        let (rank, why) = match side.differs(kind) {
            Ok(None) => {
                log.fact();
                continue;
            }
            Ok(Some(found)) => found,
            Err(TooLong) => (0, "the pairs of its blocks are too many to count".to_owned()),
        };
        log.fail_at(rank, 0, op.to_owned(), || {
            let named = |k: &LayoutKind| *k != LayoutKind::Given && matches!(side.differs(*k), Ok(None));
            let name = LayoutKind::NAMED.into_iter().find(named).unwrap_or(LayoutKind::Given);
            format!("it is called {kind}, but {why}; these rows are called {name}")
        });
    }
}

/// The queries or the keys of a schedule.
#[derive(Clone, Copy)]
struct Side<'a> {
    schedule: &'a Schedule,
    queries: bool,
}

/// A rank, and what is wrong with its rows.
type Differs = Option<(usize, String)>;

impl Side<'_> {
    fn layout(&self) -> &Layout {
        if self.queries { &self.schedule.q_layout } else { &self.schedule.kv_layout }
    }

    /// What in the rows is not as a layout of that kind has it.
    fn differs(&self, kind: LayoutKind) -> Result<Differs, TooLong> {
        let (layout, queries) = (self.layout(), &self.schedule.q_layout);
        if !self.queries && (&queries.rows, queries.length) == (&layout.rows, layout.length) {
            // One sequence, and what is asked of it is asked by its own rows.
            return Side { queries: true, ..*self }.differs(kind);
        }
        let (ranks, length) = (layout.rows.len(), layout.length);
        let rows: Vec<Vec<Progression>> = match kind {
            LayoutKind::Given => return Ok(None),
            LayoutKind::Contiguous => (0..ranks).map(|r| vec![block(0, length, r, ranks)]).collect(),
            LayoutKind::Zigzag => {
                let both = |r| [r, 2 * ranks - 1 - r].map(|i| block(0, length, i, 2 * ranks)).to_vec();
                (0..ranks).map(both).collect()
            }
            LayoutKind::Stripe => {
                let len = |r: usize| length.saturating_sub(r).div_ceil(ranks);
                (0..ranks).map(|r| vec![Progression { start: r, len: len(r), step: ranks }]).collect()
            }
            LayoutKind::Document => return Ok(self.by_documents()),
            LayoutKind::Balanced => self.dealt(ranks, length)?,
        };
        Ok(unlike(&rows, &layout.rows))
    }

    /// Blocks of rows by the pairs that they compute. Keys compute none by themselves: each of their rows counts once.
    fn dealt(&self, ranks: usize, length: usize) -> Result<Vec<Vec<Progression>>, TooLong> {
        let a = &self.schedule.attention;
        let kept = Kept::needed(a.scores.steps());
        let mut budget = MOST_WORK;
        let owned = deal(ranks, length, |first, end| match self.queries {
            true => kept.area(first, end, a.sizes.kv_len, &mut budget),
            false => Ok((end - first) as u128),
        })?;
        let blocks = owned.iter().map(Vec::len).sum();
        let rows = |own: &Vec<usize>| {
            let mut rows: Vec<Progression> = Vec::new();
            for p in own.iter().map(|&i| block(0, length, i, blocks)).filter(|p| p.len > 0) {
                // Blocks side by side are one piece.
                match rows.last_mut().filter(|last| last.start + last.len == p.start) {
                    Some(last) => last.len += p.len,
                    None => rows.push(p),
                }
            }
            rows
        };
        Ok(owned.iter().map(rows).collect())
    }

    /// Whether the rows are dealt document by document: as the mask counts the rows of this side, or of both.
    fn by_documents(&self) -> Differs {
        let layout = self.layout();
        let starts = |queries: bool| {
            let mut rows = BTreeSet::new();
            for term in self.schedule.attention.scores.masks().flat_map(|m| &m.terms) {
                if let Term::Segments { starts, offset } = term {
                    let shift = if queries { i128::from(*offset) } else { 0 };
                    let own = starts.iter().filter_map(|&s| usize::try_from(s as i128 - shift).ok());
                    rows.extend(own.filter(|&row| row > 0 && row < layout.length));
                }
            }
            rows
        };
        let (own, other) = (starts(self.queries), starts(!self.queries));
        let both = &own | &other;
        let mut found = (0, "the mask keeps no documents apart".to_owned());
        for starts in [both, own].iter().filter(|starts| !starts.is_empty()) {
            found = unlike_documents(layout, starts)?;
        }
        Some(found)
    }
}

/// Block i of n: ⌊i·length/n⌋ up to ⌊(i+1)·length/n⌋, counted from `start`.
fn block(start: usize, length: usize, i: usize, n: usize) -> Progression {
    let bound = |i: usize| (i as u128 * length as u128 / n.max(1) as u128) as usize;
    Progression { start: start + bound(i), len: bound(i + 1) - bound(i), step: 1 }
}

/// The first rank that does not have the rows that it should have; pieces without rows are none.
fn unlike(rows: &[Vec<Progression>], have: &[Vec<Progression>]) -> Differs {
    let some = |own: &Vec<Progression>| own.iter().copied().filter(|p| p.len > 0).collect::<Vec<_>>();
    let (rank, want) = rows.iter().map(some).enumerate().find(|(r, own)| {
        own.len() != have[*r].len() || own.iter().zip(&have[*r]).any(|(a, b)| !same(a, b))
    })?;
    Some((rank, format!("rank {rank} has {}, not {}", listed(&have[rank]), listed(&want))))
}

fn same(a: &Progression, b: &Progression) -> bool {
    (a.start, a.len) == (b.start, b.len) && (a.step == b.step || a.len == 1)
}

fn listed(rows: &[Progression]) -> String {
    let shown: Vec<String> = rows.iter().take(SHOWN).map(Progression::to_string).collect();
    match rows.len() {
        0 => "no rows".to_owned(),
        n if n > SHOWN => format!("{} … ({n} pieces)", shown.join(" ")),
        _ => shown.join(" "),
    }
}

/// The first piece, in order of rows, that is not where zigzag within each document has it. Only as many pieces are made as
/// there are.
fn unlike_documents(layout: &Layout, starts: &BTreeSet<usize>) -> Differs {
    let ranks = layout.rows.len();
    let blocks = 2 * ranks;
    let mut taken = vec![0; ranks];
    let (mut first, mut turn) = (0, 0);
    for end in starts.iter().copied().chain([layout.length]) {
        let length = end - first;
        // The block that holds a row is the last that does not begin behind it; of short documents only some have a row.
        let of_row = |row: usize| ((row as u128 + 1) * blocks as u128).div_ceil(length as u128) as usize - 1;
        for n in 0..blocks.min(length) {
            let i = if length < blocks { of_row(n) } else { n };
            let piece = block(first, length, i, blocks);
            let rank = (i.min(blocks - 1 - i) + ranks - turn) % ranks;
            let have = layout.rows[rank].get(taken[rank]);
            if !have.is_some_and(|p| same(p, &piece)) {
                let have = have.map_or("nothing more".to_owned(), Progression::to_string);
                let why = format!(
                    "of the document in rows {first}..{end} rank {rank} has {have} where it should have {piece}"
                );
                return Some((rank, why));
            }
            taken[rank] += 1;
        }
        turn = (turn + usize::from(length % blocks > 0)) % ranks;
        first = end;
    }
    // All rows are met: nobody can have more.
    None
}

/// Blocks for each rank: the rows are cut in P blocks, then 2P, … 16P, and the fewest are taken whose largest load of a rank
/// is within 2 % of the mean, or else those with the least such load. Blocks go out by their work, the largest first and of
/// equals the first, each to the rank with the least load so far, of equals the first, that has fewer than its share of
/// them; one block each goes out in order.
fn deal(
    ranks: usize,
    length: usize,
    mut work: impl FnMut(usize, usize) -> Result<u128, TooLong>,
) -> Result<Vec<Vec<usize>>, TooLong> {
    let mut best: Option<(u128, Vec<Vec<usize>>)> = None;
    for each in [1, 2, 4, 8, 16] {
        if each > 1 && each * ranks > length {
            break;
        }
        let mut blocks: Vec<(u128, usize)> = Vec::with_capacity(each * ranks);
        for i in 0..each * ranks {
            let p = block(0, length, i, each * ranks);
            blocks.push((work(p.start, p.start + p.len)?, i));
        }
        let total = blocks.iter().try_fold(0u128, |n, b| n.checked_add(b.0)).ok_or(TooLong)?;
        let mut owned = vec![Vec::with_capacity(each); ranks];
        let mut loads = vec![0u128; ranks];
        if each == 1 {
            for (rank, &(work, i)) in blocks.iter().enumerate() {
                owned[rank].push(i);
                loads[rank] = work;
            }
        } else {
            blocks.sort_by_key(|&(work, i)| (Reverse(work), i));
            let mut free: BinaryHeap<Reverse<(u128, usize)>> = (0..ranks).map(|r| Reverse((0, r))).collect();
            for (work, i) in blocks {
                let Some(Reverse((load, rank))) = free.pop() else { break };
                owned[rank].push(i);
                loads[rank] = load + work;
                if owned[rank].len() < each {
                    free.push(Reverse((loads[rank], rank)));
                }
            }
            owned.iter_mut().for_each(|own| own.sort_unstable());
        }
        let most = loads.into_iter().max().unwrap_or(0);
        if best.as_ref().is_none_or(|(least, _)| most < *least) {
            best = Some((most, owned));
        }
        let least = best.as_ref().map_or(0, |b| b.0).checked_mul(100 * ranks as u128).ok_or(TooLong)?;
        if least <= total.checked_mul(102).ok_or(TooLong)? {
            break;
        }
    }
    Ok(best.map_or_else(Vec::new, |(_, owned)| owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_short_documents_are_those_with_a_row() {
        // Every document of up to 40 rows on up to 7 ranks: the pieces are those of the blocks that have rows, in order.
        for length in 1..40 {
            for ranks in 1..7 {
                let blocks = (0..2 * ranks).map(|i| (i, block(0, length, i, 2 * ranks)));
                let mut rows = vec![Vec::new(); ranks];
                for (i, piece) in blocks.filter(|(_, p)| p.len > 0) {
                    rows[i.min(2 * ranks - 1 - i)].push(piece);
                }
                let mut layout = Layout { kind: LayoutKind::Document, length, rows };
                assert_eq!(unlike_documents(&layout, &BTreeSet::new()), None, "{length} on {ranks}");
                if ranks > 1 {
                    layout.rows.rotate_left(1);
                    assert!(unlike_documents(&layout, &BTreeSet::new()).is_some(), "{length} on {ranks}");
                }
            }
        }
    }
}
