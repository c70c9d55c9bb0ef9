//! Which heads each rank computes where heads are dealt out, and in which parts they travel.
//!
//! In: a site and the levels of the machine. Out: a [`HeadPlan`]: for each rank its parts, for all of them the pieces of queries and of keys,
//! and what each rank sends to each other in each [`Leg`]. A part is exchanged as a whole: the next one is under way while one is
//! computed, and results go home meanwhile.
//!
//! On two levels rows go to the rank of the other node that stands as their owner does, in the heads of all ranks of that node, and
//! from there on within the node; results go back the same way.

use super::levels::Levels;
use super::site::Site;
use crate::ir::Heads;
use crate::layout::{Layout, Progression};
use crate::mask::Tile;

/// A rank computes its heads in at most so many parts: all but the first one's exchange lie under computation, and what a part costs is
/// two latencies.
const PARTS: usize = 4;

/// Heads that are exchanged and computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Query heads.
    pub(crate) q: Heads,
    /// The key heads that they read.
    pub(crate) keys: Heads,
    /// Whether these come with the part: else they came with the one before.
    pub(crate) keys_come: bool,
}

/// Pieces of queries over pieces of keys, each with the rank that owns it.
#[derive(Debug)]
pub(crate) struct Group {
    /// (rank, index among its pieces).
    pub(crate) q: Vec<(usize, usize)>,
    pub(crate) keys: Vec<(usize, Progression)>,
    pub(crate) tile: Tile,
}

/// What a group of transfers carries, of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leg {
    /// Own rows to the other nodes.
    Out,
    /// Own rows within the node, and those that came from other nodes.
    In,
    /// Results within the node.
    Back,
    /// Results to the other nodes.
    Home,
}

impl Leg {
    /// Whether it leaves the node.
    pub(crate) fn is_far(self) -> bool {
        matches!(self, Leg::Out | Leg::Home)
    }
}

/// Rows of a rank in the heads of some ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Whose rows they are.
    pub(crate) owner: usize,
    /// The ranks whose heads they are in, ascending.
    pub(crate) at: Vec<usize>,
}

/// Heads dealt out over the ranks.
#[derive(Debug)]
pub(crate) struct HeadPlan {
    pub(crate) levels: Levels,
    /// By rank. A rank without heads has none.
    pub(crate) parts: Vec<Vec<Part>>,
    /// The same for every part.
    pub(crate) group: Group,
}

impl HeadPlan {
    /// Deals query heads out in order, as near to equal as whole heads are.
    pub(super) fn of(site: &Site<'_>, levels: Levels) -> HeadPlan {
        let (ranks, s) = (site.ranks(), &site.sizes);
        let share = |rank| Heads::share(s.q_heads, rank, ranks);
        let parts = (0..ranks).map(|rank| parts(share(rank), s.q_heads / s.kv_heads.max(1))).collect();
        HeadPlan { levels, parts, group: all(site) }
    }

    /// The most parts of any rank.
    pub(crate) fn most(&self) -> usize {
        self.parts.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// A part of a rank, if it has so many.
    pub(crate) fn part(&self, rank: usize, part: usize) -> Option<Part> {
        self.parts[rank].get(part).copied()
    }

    /// The key heads that come to a node with a part, where they come at once for all of its ranks: each with the first part that reads
    /// them, in the order of the ranks.
    pub(crate) fn keys_of_node(&self, node: usize, part: usize) -> Vec<Heads> {
        let of = |part: usize| {
            let parts = self.levels.ranks_of(node).filter_map(move |rank| self.part(rank, part));
            parts.filter(|p| p.keys_come).map(|p| p.keys)
        };
        let mut keys: Vec<Heads> = vec![];
        for new in of(part) {
            let before = (0..part).any(|p| of(p).any(|k| k == new));
            if !before && !keys.contains(&new) {
                keys.push(new);
            }
        }
        keys
    }

    /// The number of the group of a leg of a part.
    pub(crate) fn group(&self, leg: Leg, part: usize) -> usize {
        match (leg, self.levels.are_two()) {
            (Leg::Out | Leg::In, false) => 2 * part + 1,
            (Leg::Back | Leg::Home, false) => 2 * part + 2,
            (leg, true) => 4 * part + 1 + leg as usize,
        }
    }

    /// The ranks that a rank may exchange with in a leg, ascending.
    pub(crate) fn peers(&self, leg: Leg, rank: usize) -> Vec<usize> {
        if leg.is_far() { self.levels.far(rank).collect() } else { self.levels.near(rank).collect() }
    }

    /// What goes from a rank to another in a leg of a part: rows on their way to the ranks of their heads, or results on their way home.
    /// Those of the rank through which all go come first.
    pub(crate) fn carried(&self, leg: Leg, part: usize, from: usize, to: usize) -> Vec<Item> {
        let at = |ranks: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
            ranks.filter(|&r| self.part(r, part).is_some()).collect()
        };
        let of_node = |rank| at(&mut self.levels.ranks_of(self.levels.node(rank)));
        let by = |rank| [rank].into_iter().chain(self.levels.far(rank));
        let items: Vec<Item> = match leg {
            Leg::Out => vec![Item { owner: from, at: of_node(to) }],
            Leg::In => by(from).map(|owner| Item { owner, at: at(&mut [to].into_iter()) }).collect(),
            Leg::Back => by(to).map(|owner| Item { owner, at: at(&mut [from].into_iter()) }).collect(),
            Leg::Home => vec![Item { owner: to, at: of_node(from) }],
        };
        items.into_iter().filter(|item| !item.at.is_empty()).collect()
    }
}

/// Query heads in parts that share no key head, or, where there is but one, in parts of it; `group` query heads share a key head.
fn parts(q: Heads, group: usize) -> Vec<Part> {
    if q.len == 0 || group == 0 {
        return vec![];
    }
    let keys = Heads { start: q.start / group, len: q.end().div_ceil(group) - q.start / group };
    let of = |i: usize, all: Heads, n: usize| {
        let share = Heads::share(all.len, i, n);
        Heads { start: all.start + share.start, len: share.len }
    };
    if keys.len > 1 {
        let n = PARTS.min(keys.len);
        let part = |i| {
            let keys = of(i, keys, n);
            let (start, end) = (q.start.max(keys.start * group), q.end().min(keys.end() * group));
            Part { q: Heads { start, len: end - start }, keys, keys_come: true }
        };
        return (0..n).map(part).collect();
    }
    let n = PARTS.min(q.len);
    (0..n).map(|i| Part { q: of(i, q, n), keys, keys_come: i == 0 }).collect()
}

/// All pieces of queries over all pieces of keys that any of them sees: one step, whose kernel skips what the mask does.
fn all(site: &Site<'_>) -> Group {
    let scores = &site.attention.scores;
    let pieces = |layout: &Layout| -> Vec<(usize, usize, Progression)> {
        let of = |(rank, rows): (usize, &Vec<Progression>)| {
            rows.iter().enumerate().map(move |(n, p)| (rank, n, *p)).collect::<Vec<_>>()
        };
        layout.rows.iter().enumerate().flat_map(of).collect()
    };
    let (q, kv) = (pieces(site.q_layout), pieces(site.kv_layout));
    let mut group = Group { q: vec![], keys: vec![], tile: Tile::Full };
    for &(at, _, k) in &kv {
        let mut seen = false;
        for (_, _, rows) in &q {
            let tile = scores.tile(rows, &k);
            seen |= tile != Tile::Skip;
            if tile != Tile::Full {
                group.tile = Tile::Partial;
            }
        }
        if seen {
            group.keys.push((at, k));
        }
    }
    group.q = q.into_iter().map(|(rank, piece, _)| (rank, piece)).collect();
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_heads_once_and_keys_come_once() {
        for (q_heads, kv_heads) in [(1, 1), (4, 2), (6, 2), (6, 6), (8, 1), (12, 3), (32, 8), (71, 1), (9, 3)]
        {
            for ranks in 1..=9 {
                let group = q_heads / kv_heads;
                let mut next = 0;
                for rank in 0..ranks {
                    let mut came: Vec<usize> = vec![];
                    for p in parts(Heads::share(q_heads, rank, ranks), group) {
                        assert_eq!(p.q.start, next);
                        assert!(p.q.len > 0);
                        next = p.q.end();
                        if p.keys_come {
                            assert!((p.keys.start..p.keys.end()).all(|k| !came.contains(&k)));
                            came.extend(p.keys.start..p.keys.end());
                        }
                        assert!(
                            (p.q.start..p.q.end())
                                .all(|h| (p.keys.start..p.keys.end()).contains(&(h / group)))
                        );
                        assert!((p.keys.start..p.keys.end()).all(|k| came.contains(&k)));
                    }
                }
                assert_eq!(next, q_heads, "{q_heads} heads on {ranks} ranks");
            }
        }
    }
}
