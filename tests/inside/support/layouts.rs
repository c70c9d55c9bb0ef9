//! The layouts of an attention that is split by hand.

use annulus::ir::AttentionSizes;
use annulus::layout::{Layout, LayoutKind};
use annulus::mask::{Mask, Term};
use std::collections::BTreeSet;

/// The layout of `kind` of the queries, or of the keys, of an attention with this mask.
pub(crate) fn layout_of(
    kind: LayoutKind,
    sizes: &AttentionSizes,
    ranks: usize,
    mask: &Mask,
    queries: bool,
) -> Layout {
    let length = if queries { sizes.q_len } else { sizes.kv_len };
    match kind {
        LayoutKind::Document => {
            let starts = mask.terms.iter().filter_map(|t| match t {
                Term::Segments { starts, offset } => Some((starts, if queries { *offset } else { 0 })),
                _ => None,
            });
            let starts = starts.flat_map(|(s, shift)| s.iter().map(move |&s| s as i64 - shift));
            let starts: BTreeSet<usize> =
                starts.filter(|s| (1..length as i64).contains(s)).map(|s| s as usize).collect();
            Layout::by_document(length, ranks, &starts.into_iter().collect::<Vec<_>>())
        }
        LayoutKind::Balanced if queries => {
            Layout::balanced(length, ranks, |first, end| mask.area(first, end, sizes.kv_len))
        }
        _ => Layout::new(kind, length, ranks),
    }
}
