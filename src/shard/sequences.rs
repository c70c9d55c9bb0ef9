//! One layout for each sequence of the model.
//!
//! In: the attentions that are split and the kind of layout that is asked for. Out: the layouts, and which of them each
//! sequence has. Where a kind depends on masks, those of all attentions of the sequence count.

use super::propagate::{Live, Sequence, Split, Wishes};
use super::{ShardError, ShardOptions};
use crate::ir::{Attention, Op};
use crate::layout::{Layout, LayoutKind};
use crate::mask::{Fill, Mask, Term};
use std::collections::{BTreeSet, HashMap};

/// A sequence and who attends along it.
struct Rows {
    length: usize,
    causal: bool,
    /// Rows at which a document begins.
    starts: BTreeSet<usize>,
    /// The attentions whose queries are its rows.
    queries: Vec<Split>,
}

/// One layout per sequence, in the order of the attentions.
pub(super) fn layouts(
    live: &Live,
    wishes: &Wishes,
    options: &ShardOptions,
) -> Result<(Vec<Layout>, HashMap<Sequence, usize>), ShardError> {
    let mut index = HashMap::new();
    let mut found: Vec<Rows> = Vec::new();
    for split in &wishes.splits {
        let operands = live.types(split.at);
        for (s, length, queries) in
            [(split.q, operands[0].shape[2], true), (split.kv, operands[1].shape[2], false)]
        {
            let at = *index.entry(wishes.sequence(s)).or_insert_with(|| {
                found.push(Rows { length, causal: false, starts: BTreeSet::new(), queries: vec![] });
                found.len() - 1
            });
            let rows = &mut found[at];
            rows.causal |= split.causal;
            rows.starts.extend(starts(&attention(live, split).mask, length, queries));
            if queries {
                rows.queries.push(*split);
            }
        }
    }
    if options.layout == Some(LayoutKind::Document) && found.iter().all(|r| r.starts.is_empty()) {
        let why = "no attention has a mask that keeps documents apart which are known when compiling and are the same for \
                   every batch entry";
        return Err(ShardError::Layout { kind: LayoutKind::Document, why: why.into() });
    }
    let layouts = found.iter().map(|rows| {
        let chosen = if rows.causal { LayoutKind::Zigzag } else { LayoutKind::Contiguous };
        match options.layout.unwrap_or(chosen) {
            LayoutKind::Document => {
                let starts: Vec<usize> = rows.starts.iter().copied().collect();
                Layout::by_document(rows.length, options.ranks, &starts)
            }
            LayoutKind::Balanced if !rows.queries.is_empty() => {
                let work = |first, end| rows.queries.iter().map(|s| work(live, s, first, end)).sum();
                Layout::balanced(rows.length, options.ranks, work)
            }
            kind => Layout::new(kind, rows.length, options.ranks),
        }
    });
    Ok((layouts.collect(), index))
}

fn attention<'a>(live: &Live<'a>, split: &Split) -> &'a Attention {
    match live.op(split.at) {
        Op::Attention(a) => a,
        _ => unreachable!("only attentions are split"),
    }
}

/// The rows at which a mask lets a document begin: rows of the queries, or of the keys.
fn starts(mask: &Mask, length: usize, queries: bool) -> Vec<usize> {
    let mut rows = Vec::new();
    for term in &mask.terms {
        if let Term::Segments { starts, offset } = term {
            let shift = if queries { *offset } else { 0 };
            rows.extend(starts.iter().filter_map(|&s| usize::try_from(s as i128 - i128::from(shift)).ok()));
        }
    }
    rows.retain(|&row| 0 < row && row < length);
    rows
}

/// Multiplications of an attention for the query rows `first..end`.
fn work(live: &Live, split: &Split, first: usize, end: usize) -> u128 {
    let types = live.types(split.at);
    let (q, k, v) = (&types[0].shape, &types[1].shape, &types[2].shape);
    let mask = &attention(live, split).mask;
    let pairs = match mask.fill {
        Fill::NegInf => mask.area(first, end, k[2]),
        // A masked pair is computed like any other.
        _ => (end - first) as u128 * k[2] as u128,
    };
    pairs.saturating_mul((q[0] * q[1]) as u128).saturating_mul((q[3] + v[3]) as u128)
}
