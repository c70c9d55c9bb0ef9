//! What a schedule calls its layouts: a name only where its own head shows that the rows are those of the name.
//!
//! In: the layouts of an attention's site. Out: the same rows, under their name or as given. The rows of a sequence may be dealt
//! out by what other attentions of the model keep, by their documents or by their work, or be those of a cache with new rows
//! behind it: one attention shows no more than that they are as they are.

use crate::layout::{Layout, LayoutKind};
use crate::mask::{Mask, Term};
use crate::ring::site::Site;
use std::collections::BTreeSet;

/// The layouts of the queries and of the keys.
pub(super) fn labelled(site: &Site<'_>) -> [Layout; 2] {
    let (q, kv) = (site.q_layout, site.kv_layout);
    let (mask, keys) = (site.attention.scores.live(), site.sizes.kv_len);
    let pairs = |first, end| mask.area(first, end, keys);
    let asking = |layout| kind(layout, mask, true, pairs);
    let asked = |layout| kind(layout, mask, false, |first, end| (end - first) as u128);
    // Keys that have the rows of the queries are of one sequence with them, or as good as that.
    let one = (&q.rows, q.length) == (&kv.rows, kv.length);
    let q_kind = asking(q);
    let kv_kind = match one {
        true if q.kind == kv.kind => q_kind,
        true => asking(kv),
        false => asked(kv),
    };
    [(q, q_kind), (kv, kv_kind)].map(|(layout, kind)| Layout { kind, ..layout.clone() })
}

/// Whether the pairs of all blocks of a balanced layout are counted in fewer steps than the proof gives them: some for each
/// block, and many where a row's first or last key begins or ceases to move.
fn countable(mask: &Mask, ranks: usize) -> bool {
    let turns = |terms: &mut dyn Iterator<Item = &Term>| {
        terms.map(|t| if let Term::Segments { starts, .. } = t { starts.len() } else { 1 }).sum::<usize>()
    };
    let steps = mask.each_entry().map(|mut terms| 64 * ranks + 2400 * (1 + turns(&mut terms)));
    steps.fold(0, usize::saturating_add) < 1 << 28
}

/// The name of a layout of queries or of keys, whose blocks are that much work.
fn kind(layout: &Layout, mask: &Mask, queries: bool, work: impl Fn(usize, usize) -> u128) -> LayoutKind {
    let (length, ranks) = (layout.length, layout.ranks());
    let named = |kind, made: Layout| (made.rows == layout.rows).then_some(kind);
    let plain = |kind| named(kind, Layout::new(kind, length, ranks));
    let found = match layout.kind {
        LayoutKind::Contiguous | LayoutKind::Zigzag | LayoutKind::Stripe => plain(layout.kind),
        LayoutKind::Document => {
            let [own, other] = [queries, !queries].map(|queries| starts(mask, length, queries));
            let by = |starts: &BTreeSet<usize>| {
                let starts: Vec<usize> = starts.iter().copied().collect();
                let made = || Layout::by_document(length, ranks, &starts);
                if starts.is_empty() { None } else { named(LayoutKind::Document, made()) }
            };
            // A sequence may be asked as well as it asks.
            by(&(&own | &other)).or_else(|| by(&own)).or_else(|| plain(LayoutKind::Zigzag))
        }
        LayoutKind::Balanced if !queries || countable(mask, ranks) => {
            named(LayoutKind::Balanced, Layout::balanced(length, ranks, work))
        }
        LayoutKind::Balanced | LayoutKind::Given => None,
    };
    found.unwrap_or(LayoutKind::Given)
}

/// The rows at which the mask lets a document begin, of the queries or of the keys.
fn starts(mask: &Mask, length: usize, queries: bool) -> BTreeSet<usize> {
    let mut rows = BTreeSet::new();
    for term in &mask.terms {
        if let Term::Segments { starts, offset } = term {
            let shift = if queries { i128::from(*offset) } else { 0 };
            let own = starts.iter().filter_map(|&s| usize::try_from(s as i128 - shift).ok());
            rows.extend(own.filter(|&row| row > 0 && row < length));
        }
    }
    rows
}
