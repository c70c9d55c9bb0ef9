//! Which pieces of keys travel how far round the ring.
//!
//! In: a site. Out: for each rank's pieces the farthest rank that needs them, and from it what each hop carries. A hop that
//! would carry nothing is no message, so that a window ends the ring early and dead halves of a zigzag stay at home.

use super::site::Site;
use crate::layout::Progression;
use crate::mask::Tile;

/// Which way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From rank r to rank r + 1.
    On,
    /// From rank r to rank r − 1.
    Back,
}

impl Direction {
    /// The rank that is `hops` further on the way from `rank`.
    fn from(self, rank: usize, hops: usize, ranks: usize) -> usize {
        match self {
            Direction::On => (rank + hops) % ranks,
            Direction::Back => (rank + ranks - hops % ranks) % ranks,
        }
    }

    fn opposite(self) -> Direction {
        match self {
            Direction::On => Direction::Back,
            Direction::Back => Direction::On,
        }
    }
}

/// How far each piece of keys goes: `reach[s][i]` is the largest number of hops after which a rank that needs piece i of
/// rank s has it; 0 if no other rank does.
#[derive(Debug)]
pub(super) struct Route<'a> {
    direction: Direction,
    pieces: &'a [Vec<Progression>],
    reach: Vec<Vec<usize>>,
}

impl<'a> Route<'a> {
    /// Asks the mask for every pair of ranks, the farthest first.
    ///
    /// Complexity: O(P²) questions at worst, O(P) where the farthest rank needs the piece.
    pub(super) fn of(site: &Site<'a>, direction: Direction) -> Route<'a> {
        let ranks = site.ranks();
        let needs = |rank: usize, piece: &Progression| {
            let rows = &site.q_layout.rows[rank];
            rows.iter().any(|q| site.attention.scores.tile(q, piece) != Tile::Skip)
        };
        let pieces = site.kv_layout.rows.as_slice();
        let reach = pieces
            .iter()
            .enumerate()
            .map(|(s, own)| {
                let there = |hops: usize| direction.from(s, hops, ranks);
                let farthest = |p: &Progression| (1..ranks).rev().find(|&d| needs(there(d), p)).unwrap_or(0);
                own.iter().map(farthest).collect()
            })
            .collect();
        Route { direction, pieces, reach }
    }

    /// The pieces of rank `rank` that another rank needs.
    pub(super) fn leaves_home(&self, rank: usize) -> Vec<Progression> {
        let own = self.pieces[rank].iter().zip(&self.reach[rank]);
        own.filter(|&(_, &reach)| reach > 0).map(|(p, _)| *p).collect()
    }

    /// The rank that `rank` sends to.
    pub(super) fn next(&self, rank: usize) -> usize {
        self.direction.from(rank, 1, self.pieces.len())
    }

    /// The rank that `rank` receives from.
    pub(super) fn before(&self, rank: usize) -> usize {
        self.source(rank, 1)
    }

    /// The pieces that leave rank `rank` on hop `hop` (from 1): of what it holds then, those that a rank ahead still needs.
    pub(super) fn sent(&self, rank: usize, hop: usize) -> impl Iterator<Item = &Progression> {
        let source = self.source(rank, hop - 1);
        let own = self.pieces[source].iter().zip(&self.reach[source]);
        own.filter(move |&(_, &reach)| reach >= hop).map(|(p, _)| p)
    }

    /// The pieces that reach rank `rank` on hop `hop`: what its neighbour sends then.
    pub(super) fn arriving(&self, rank: usize, hop: usize) -> impl Iterator<Item = &Progression> {
        self.sent(self.before(rank), hop)
    }

    /// The rank whose pieces `rank` holds after `hop` hops.
    pub(super) fn source(&self, rank: usize, hop: usize) -> usize {
        self.direction.opposite().from(rank, hop, self.pieces.len())
    }
}
