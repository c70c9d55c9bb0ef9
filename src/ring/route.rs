//! Which pieces of keys travel how far round the ring.
//!
//! In: a site. Out: for each rank's pieces the farthest rank that needs them, and from it what each hop carries. A hop that
//! would carry nothing is no message, so that a window ends the ring early and dead halves of a zigzag stay at home.

use super::site::Site;
use crate::layout::Progression;
use crate::mask::Tile;

/// How far each piece of keys goes: `reach[s][i]` is the largest distance d for which rank s + d needs piece i of rank s;
/// 0 if no other rank does.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pieces: &'a [Vec<Progression>],
    reach: Vec<Vec<usize>>,
}

impl<'a> Route<'a> {
    /// Asks the mask for every pair of ranks, the farthest first.
    ///
    /// Complexity: O(P²) questions at worst, O(P) where the farthest rank needs the piece.
    pub(super) fn of(site: &Site<'a>) -> Route<'a> {
        let ranks = site.ranks();
        let needs = |rank: usize, piece: &Progression| {
            let rows = &site.q_layout.rows[rank];
            rows.iter().any(|q| site.attention.mask.tile(q, piece) != Tile::Skip)
        };
        let pieces = site.kv_layout.rows.as_slice();
        let reach = pieces
            .iter()
            .enumerate()
            .map(|(s, own)| {
                let farthest =
                    |p: &Progression| (1..ranks).rev().find(|d| needs((s + d) % ranks, p)).unwrap_or(0);
                own.iter().map(farthest).collect()
            })
            .collect();
        Route { pieces, reach }
    }

    /// Whether any piece is needed by another rank than its owner.
    pub(super) fn anything_travels(&self) -> bool {
        self.reach.iter().flatten().any(|&d| d > 0)
    }

    /// The pieces that leave rank `rank` on hop `hop` (from 1): of what it holds then, those that a rank ahead still needs.
    pub(super) fn sent(&self, rank: usize, hop: usize) -> Vec<Progression> {
        let source = self.source(rank, hop - 1);
        let own = self.pieces[source].iter().zip(&self.reach[source]);
        own.filter(|&(_, &reach)| reach >= hop).map(|(p, _)| *p).collect()
    }

    /// The pieces that reach rank `rank` on hop `hop`: what its neighbour sends then.
    pub(super) fn received(&self, rank: usize, hop: usize) -> Vec<Progression> {
        self.sent(self.source(rank, 1), hop)
    }

    /// The rank whose pieces `rank` holds after `hop` hops.
    fn source(&self, rank: usize, hop: usize) -> usize {
        let ranks = self.pieces.len();
        (rank + ranks - hop % ranks) % ranks
    }
}
