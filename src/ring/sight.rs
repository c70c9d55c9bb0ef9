//! Which keys of each rank the queries of each rank see, where keys stay at home, and how queries and partial results travel.
//!
//! In: a site and the levels of the machine. Out: for each piece of queries and each rank the pieces of that rank's keys that the mask
//! lets it see, and whether some pair of them is masked; and what each rank sends to each other in each [`Leg`].
//!
//! On two levels a piece of queries goes once to each other node that sees it, to the rank that stands there as its owner does, and from
//! there on within the node; partial results are merged where they leave the node, and one goes home.

use super::levels::Levels;
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

/// A piece of queries: the rank that owns it, and its number there.
pub(crate) type Piece = (usize, usize);

/// What a group of transfers carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leg {
    /// Own queries within the node.
    Near,
    /// Own queries to the other nodes.
    Far,
    /// Queries that came from other nodes go on within the node.
    On,
    /// Partial results within the node.
    Back,
    /// Partial results to the other nodes.
    Home,
}

impl Leg {
    /// Whether it leaves the node.
    pub(crate) fn is_far(self) -> bool {
        matches!(self, Leg::Far | Leg::Home)
    }
}

/// Who sees whose keys.
#[derive(Debug)]
pub(crate) struct Sight {
    ranks: usize,
    pub(crate) levels: Levels,
    /// By the rank whose queries they are, and the rank whose keys: the pieces that see any, ascending.
    seen: Vec<Vec<Seen>>,
}

impl Sight {
    /// Asks the mask for every pair of pieces.
    pub(super) fn of(site: &Site<'_>, levels: Levels) -> Sight {
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
        Sight { ranks, levels, seen }
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

    /// The number of the group of a leg.
    pub(crate) fn group(&self, leg: Leg) -> usize {
        match (leg, self.levels.are_two()) {
            (Leg::Near, _) => 1,
            (Leg::Far, _) | (Leg::Back, false) => 2,
            (Leg::On, _) => 3,
            (Leg::Back, true) => 4,
            (Leg::Home, _) => 5,
        }
    }

    /// The ranks that a rank may exchange with in a leg, ascending.
    pub(crate) fn peers(&self, leg: Leg, rank: usize) -> Vec<usize> {
        if leg.is_far() { self.levels.far(rank).collect() } else { self.levels.near(rank).collect() }
    }

    /// The pieces whose queries, or partial results, go from a rank to another in a leg.
    pub(crate) fn carried(&self, leg: Leg, from: usize, to: usize) -> Vec<Piece> {
        let seen = |of: usize, at: usize| self.seen(of, at).iter().map(move |s| (of, s.piece));
        match leg {
            Leg::Near => seen(from, to).collect(),
            Leg::Far => self.seen_on(from, self.levels.node(to)),
            Leg::On => self.levels.far(from).flat_map(|of| seen(of, to)).collect(),
            Leg::Back => [to].into_iter().chain(self.levels.far(to)).flat_map(|of| seen(of, from)).collect(),
            Leg::Home => self.seen_on(to, self.levels.node(from)),
        }
    }

    /// The pieces of a rank that see any key of a node, ascending.
    fn seen_on(&self, of: usize, node: usize) -> Vec<Piece> {
        let seen = self.levels.ranks_of(node).flat_map(|at| self.seen(of, at));
        let mut pieces: Vec<Piece> = seen.map(|s| (of, s.piece)).collect();
        pieces.sort_unstable();
        pieces.dedup();
        pieces
    }

    /// Whether a rank sends or receives anything in a leg.
    pub(crate) fn takes_part(&self, leg: Leg, rank: usize) -> bool {
        let any = |from, to| match leg {
            Leg::Near => !self.seen(from, to).is_empty(),
            _ => !self.carried(leg, from, to).is_empty(),
        };
        self.peers(leg, rank).into_iter().any(|p| any(rank, p) || any(p, rank))
    }

    /// The leg by which the queries of rank `of` come to another rank.
    pub(crate) fn comes_by(&self, of: usize, rank: usize) -> Leg {
        match () {
            () if self.levels.are_near(of, rank) => Leg::Near,
            () if self.levels.are_far(of, rank) => Leg::Far,
            () => Leg::On,
        }
    }
}
