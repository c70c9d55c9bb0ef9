//! Which factors of the scores are batch, heads and rows.
//!
//! In: a region. Out: its factors by their roles, the heads that K and V really have among them. Invariant: every factor of the scores but
//! those of the keys has one role.

use crate::find::axes::factors::Dim;
use crate::find::region::types::Region;

/// Which factors make up the axes of an attention.
pub(crate) struct Roles {
    pub(crate) batch: Vec<Dim>,
    pub(crate) heads: Vec<Dim>,
    pub(crate) kv_heads: Vec<Dim>,
    pub(crate) rows: Vec<Dim>,
}

/// Sorts the factors of the scores into batch, heads and rows.
///
/// Any sorting gives the right result, for attention treats batch, heads and rows alike; this one finds the names that a
/// reader expects, and what is split are rows. A factor that was cut from the same axis as the head size is a head. Of several shared
/// axes the first is the batch. Of several axes of Q alone, one that stands in Q right behind the shared heads holds the query heads that
/// share a key head; of the others the one as long as the keys, or the last, holds the rows.
pub(crate) fn roles(r: &Region) -> Roles {
    let s = &r.space;
    let base = s.resolve_all(&r.operands[0].base_axes);
    let beside_depth = |d: &Dim| base.iter().any(|a| a.contains(d) && a.iter().any(|x| r.depth.contains(x)));
    let own_first_axis = |d: &Dim| base.first().is_some_and(|a| a == &[*d]);
    let (mut batch, mut heads) = (vec![], vec![]);
    if let [only] = r.shared.as_slice() {
        for (i, d) in only.iter().enumerate() {
            let is_batch = if only.len() == 1 { own_first_axis(d) } else { i == 0 && !beside_depth(d) };
            if is_batch { batch.push(*d) } else { heads.push(*d) }
        }
    } else {
        for (i, axis) in r.shared.iter().enumerate() {
            if i == 0 { batch.extend(axis) } else { heads.extend(axis) }
        }
    }
    let long = s.product(&r.keys);
    let flat = base.concat();
    let behind_heads = |a: &[Dim]| {
        let at = a.first().and_then(|d| flat.iter().position(|x| x == d));
        at.and_then(|at| at.checked_sub(1)).is_some_and(|before| heads.contains(&flat[before]))
    };
    // What holds one row at most is told from what holds more.
    let may = |a: &[Dim]| s.product(a) > 1 && !a.iter().any(beside_depth);
    let last = |is: &dyn Fn(&[Dim]) -> bool| r.free.iter().rposition(|a| may(a) && is(a));
    let rows_axis = last(&|a| s.product(a) == long && !behind_heads(a))
        .or_else(|| last(&|a| !behind_heads(a)))
        .or_else(|| last(&|_| true))
        .unwrap_or(r.free.len().saturating_sub(1));
    let mut rows = vec![];
    for (i, axis) in r.free.iter().enumerate() {
        for d in axis {
            if i != rows_axis || beside_depth(d) { heads.push(*d) } else { rows.push(*d) }
        }
    }
    let kv_heads = kv_heads(r, &mut heads);
    Roles { batch, heads, kv_heads, rows }
}

/// The heads that K and V really have. Query heads that share one are brought side by side, should they not be: then K and V
/// need not be repeated.
fn kv_heads(r: &Region, heads: &mut [Dim]) -> Vec<Dim> {
    let has = |t: &crate::find::axes::trace::Trace, d: &Dim| {
        r.space.resolve_all(&t.base_axes).iter().any(|a| a.contains(d))
    };
    let own = |d: &Dim| has(&r.operands[1], d) || has(&r.operands[2], d);
    heads.sort_by_key(|d| !own(d));
    heads.iter().copied().filter(own).collect()
}
