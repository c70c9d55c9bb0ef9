//! Which heads each rank computes where heads are dealt out, and in which parts they travel.
//!
//! In: a site. Out: a [`HeadPlan`]: for each rank its parts, and for all of them which pieces of queries see which keys. A part is
//! exchanged as a whole: the next one is under way while one is computed, and results go home meanwhile.

use super::site::Site;
use crate::ir::Heads;
use crate::layout::Progression;
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

/// Pieces of queries that see the same keys, equally masked: each with the rank that owns it.
#[derive(Debug)]
pub(crate) struct Group {
    /// (rank, index among its pieces).
    pub(crate) q: Vec<(usize, usize)>,
    pub(crate) keys: Vec<(usize, Progression)>,
    pub(crate) tile: Tile,
}

/// Heads dealt out over the ranks.
#[derive(Debug)]
pub(crate) struct HeadPlan {
    /// By rank. A rank without heads has none.
    pub(crate) parts: Vec<Vec<Part>>,
    /// The same for every part.
    pub(crate) groups: Vec<Group>,
}

impl HeadPlan {
    /// Deals query heads out in order, as near to equal as whole heads are.
    pub(super) fn of(site: &Site<'_>) -> HeadPlan {
        let (ranks, s) = (site.ranks(), &site.sizes);
        let share = |rank| Heads::share(s.q_heads, rank, ranks);
        let parts = (0..ranks).map(|rank| parts(share(rank), s.q_heads / s.kv_heads.max(1))).collect();
        HeadPlan { parts, groups: groups(site) }
    }

    /// The most parts of any rank.
    pub(crate) fn most(&self) -> usize {
        self.parts.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// A part of a rank, if it has so many.
    pub(crate) fn part(&self, rank: usize, part: usize) -> Option<Part> {
        self.parts[rank].get(part).copied()
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

/// All pieces of queries, by the keys that they see.
fn groups(site: &Site<'_>) -> Vec<Group> {
    let scores = &site.attention.scores;
    let mut groups: Vec<Group> = vec![];
    for (of, pieces) in site.q_layout.rows.iter().enumerate() {
        for (piece, rows) in pieces.iter().enumerate() {
            let mut keys = vec![];
            let mut tile = Tile::Full;
            for (at, theirs) in site.kv_layout.rows.iter().enumerate() {
                for k in theirs {
                    match scores.tile(rows, k) {
                        Tile::Skip => continue,
                        Tile::Full => {}
                        Tile::Partial => tile = Tile::Partial,
                    }
                    keys.push((at, *k));
                }
            }
            match groups.iter_mut().find(|g| g.tile == tile && g.keys == keys) {
                Some(group) => group.q.push((of, piece)),
                None => groups.push(Group { q: vec![(of, piece)], keys, tile }),
            }
        }
    }
    groups
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
