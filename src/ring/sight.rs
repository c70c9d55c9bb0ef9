//! Which keys of each rank the queries of each rank see, where keys stay at home.
//!
//! In: a site. Out: for each piece of queries and each rank the pieces of that rank's keys that the mask lets it see, and whether
//! some pair of them is masked.

use super::site::Site;
use crate::layout::Progression;
use crate::mask::Tile;

/// What a piece of queries sees of a rank's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The piece of queries, among those of its rank.
    pub(crate) piece: usize,
    /// Some of the rank's pieces of keys, in order; not empty.
    pub(crate) keys: Vec<Progression>,
    /// Full, or partial.
    pub(crate) tile: Tile,
}

/// Who sees whose keys.
#[derive(Debug)]
pub(crate) struct Sight {
    ranks: usize,
    /// By the rank whose queries they are, and the rank whose keys: the pieces that see any, ascending.
    seen: Vec<Vec<Seen>>,
}

impl Sight {
    /// Asks the mask for every pair of pieces.
    pub(super) fn of(site: &Site<'_>) -> Sight {
        let (ranks, scores) = (site.ranks(), &site.attention.scores);
        let mut seen = Vec::with_capacity(ranks * ranks);
        for q in &site.q_layout.rows {
            for kv in &site.kv_layout.rows {
                let of = |(piece, rows): (usize, &Progression)| {
                    let tile = |k: &Progression| scores.tile(rows, k);
                    let keys: Vec<Progression> =
                        kv.iter().copied().filter(|k| tile(k) != Tile::Skip).collect();
                    let masked = keys.iter().any(|k| tile(k) == Tile::Partial);
                    let tile = if masked { Tile::Partial } else { Tile::Full };
                    (!keys.is_empty()).then_some(Seen { piece, keys, tile })
                };
                seen.push(q.iter().enumerate().filter_map(of).collect());
            }
        }
        Sight { ranks, seen }
    }

    /// What the queries of rank `of` see of the keys of rank `at`.
    pub(crate) fn seen(&self, of: usize, at: usize) -> &[Seen] {
        &self.seen[of * self.ranks + at]
    }

    /// The ranks other than `rank` whose keys its queries see, ascending.
    pub(crate) fn helpers(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.ranks).filter(move |&at| at != rank && !self.seen(rank, at).is_empty())
    }

    /// The ranks other than `rank` whose queries see its keys, ascending.
    pub(crate) fn guests(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.ranks).filter(move |&of| of != rank && !self.seen(of, rank).is_empty())
    }
}
