//! Which partial results a rank computes on the keys that it holds at each stage.
//!
//! In: the rank's query pieces and, stage after stage, the key pieces that it holds. Out: per stage the groups of query
//! pieces that one kernel can take together.

use crate::layout::Progression;
use crate::mask::{Mask, Tile};

/// Query pieces that see the same keys of a stage, and stand alike in their chain of partial results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Indices of the query pieces, ascending.
    pub(super) q: Vec<usize>,
    /// Indices of the stage's key pieces, ascending; empty for rows that see no key in any stage.
    pub(super) keys: Vec<usize>,
    /// Whether some pair is masked.
    pub(super) tile: Tile,
    /// Whether the pieces have had a partial result in an earlier stage.
    pub(super) goes_on: bool,
    /// Whether they get none in a later stage.
    pub(super) ends: bool,
}

/// The groups of each stage, in order of their first query piece. `stages[0]` must be there.
///
/// Pieces that see no key at all come in the first stage, over no keys.
pub(super) fn groups(mask: &Mask, q: &[Progression], stages: &[Vec<Progression>]) -> Vec<Vec<Group>> {
    let seen: Vec<Vec<(Vec<usize>, Tile)>> =
        q.iter().map(|piece| stages.iter().map(|keys| meet(mask, piece, keys)).collect()).collect();
    let mut out = vec![Vec::<Group>::new(); stages.len()];
    for (i, per_stage) in seen.into_iter().enumerate() {
        let busy = |s: &(usize, &(Vec<usize>, Tile))| !s.1.0.is_empty();
        let first = per_stage.iter().enumerate().find(busy).map_or(0, |(s, _)| s);
        let last = per_stage.iter().enumerate().rfind(busy).map_or(0, |(s, _)| s);
        for (s, (keys, tile)) in per_stage.into_iter().enumerate() {
            if keys.is_empty() && s != first {
                continue;
            }
            let new = Group { q: vec![i], keys, tile, goes_on: s > first, ends: s == last };
            match out[s].iter_mut().find(|g| alike(g, &new)) {
                Some(group) => group.q.push(i),
                None => out[s].push(new),
            }
        }
    }
    out
}

/// The keys that a query piece sees, and whether all of them whole.
fn meet(mask: &Mask, q: &Progression, keys: &[Progression]) -> (Vec<usize>, Tile) {
    let mut out = (Vec::new(), Tile::Full);
    for (i, k) in keys.iter().enumerate() {
        match mask.tile(q, k) {
            Tile::Skip => continue,
            Tile::Full => {}
            Tile::Partial => out.1 = Tile::Partial,
        }
        out.0.push(i);
    }
    out
}

fn alike(a: &Group, b: &Group) -> bool {
    (&a.keys, a.tile, a.goes_on, a.ends) == (&b.keys, b.tile, b.goes_on, b.ends)
}
