//! What a schedule calls its layouts: a name only where its own head shows that the rows are those of the name.
//!
//! In: the layouts of an attention's site. Out: the same rows, under their name or as given. The rows of a sequence may be dealt
//! out by what other attentions of the model keep, by their documents or by their work, or be those of a cache with new rows
//! behind it: one attention shows no more than that they are as they are.

use crate::layout::{Layout, LayoutKind};
use crate::mask::{Fill, Mask, Term};
use crate::ring::site::Site;
use std::collections::BTreeSet;

/// The layouts of the queries and of the keys.
pub(super) fn labelled(site: &Site<'_>) -> [Layout; 2] {
    let (q, kv) = (site.q_layout, site.kv_layout);
    let (mask, keys) = (&site.attention.mask, site.sizes.kv_len);
    let documents = [starts(mask, q.length, true), starts(mask, kv.length, false)];
    let pairs = |first, end| match mask.fill {
        Fill::NegInf => mask.area(first, end, keys),
        _ => (end - first) as u128 * keys as u128,
    };
    let q_kind = kind(q, &documents, 0, pairs);
    let kv_kind = match (&q.rows, q.length) == (&kv.rows, kv.length) {
        // One sequence, or as good as one.
        true if q.kind == kv.kind => q_kind,
        true => kind(kv, &documents, 0, pairs),
        false => kind(kv, &documents, 1, |first, end| (end - first) as u128),
    };
    [(q, q_kind), (kv, kv_kind)].map(|(layout, kind)| Layout { kind, ..layout.clone() })
}

/// The name of a layout; `side` is the one of `documents` that counts its rows.
fn kind(
    layout: &Layout,
    documents: &[BTreeSet<usize>; 2],
    side: usize,
    area: impl Fn(usize, usize) -> u128,
) -> LayoutKind {
    let (length, ranks) = (layout.length, layout.ranks());
    let named = |kind, made: Layout| (made.rows == layout.rows).then_some(kind);
    let plain = |kind| named(kind, Layout::new(kind, length, ranks));
    let found = match layout.kind {
        LayoutKind::Contiguous | LayoutKind::Zigzag | LayoutKind::Stripe => plain(layout.kind),
        LayoutKind::Document => {
            // A sequence may be asked as well as it asks.
            let both = &documents[0] | &documents[1];
            let by = |starts: &BTreeSet<usize>| {
                let starts: Vec<usize> = starts.iter().copied().filter(|&s| s < length).collect();
                let made = || Layout::by_document(length, ranks, &starts);
                if starts.is_empty() { None } else { named(LayoutKind::Document, made()) }
            };
            by(&both).or_else(|| by(&documents[side])).or_else(|| plain(LayoutKind::Zigzag))
        }
        LayoutKind::Balanced => named(LayoutKind::Balanced, Layout::balanced(length, ranks, area)),
        LayoutKind::Given => None,
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
