//! One layout for each sequence of the model.
//!
//! In: the attentions that are split and the kind of layout that is asked for. Out: the layouts, and which of them each
//! sequence has. Where a kind depends on masks, those of all attentions of the sequence count.

use super::propagate::{Live, Sequence, Split, Wishes};
use super::{ShardError, ShardOptions};
use crate::ir::{Attention, Op};
use crate::layout::{Layout, LayoutKind};
use crate::mask::{Fill, Mask, Term};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A sequence and who attends along it.
struct Rows {
    length: usize,
    causal: bool,
    /// Rows at which a document begins.
    starts: BTreeSet<usize>,
    /// The attentions whose queries are its rows.
    queries: Vec<Split>,
}

/// The layouts of the sequences.
pub(super) struct Sequences {
    /// One per sequence, in the order of the attentions; behind them what only a cache has.
    pub(super) layouts: Vec<Layout>,
    /// The layout of each sequence, by the one that stands for all that it is tied with.
    pub(super) index: HashMap<Sequence, usize>,
    /// See [`Program::joined`](super::Program::joined).
    pub(super) joined: BTreeMap<usize, Vec<usize>>,
}

/// One layout per sequence.
pub(super) fn sequences(
    live: &Live,
    wishes: &Wishes,
    options: &ShardOptions,
) -> Result<Sequences, ShardError> {
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
    // Then those of which an input or an old row is handed over.
    let handed = wishes.handed.keys().filter_map(|&i| wishes.wish[i]).map(|w| (w.factor.length, w.sequence));
    let parts = wishes.joins.iter().filter_map(|(at, parts)| {
        let axis = wishes.wish[*at]?.factor.axis;
        Some(live.types(*at).into_iter().map(move |t| t.shape[axis]).zip(parts.iter().copied()))
    });
    for (length, s) in handed.chain(parts.flatten()) {
        index.entry(wishes.sequence(s)).or_insert_with(|| {
            found.push(Rows { length, causal: false, starts: BTreeSet::new(), queries: vec![] });
            found.len() - 1
        });
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
    let mut made = Sequences { layouts: layouts.collect(), index, joined: BTreeMap::new() };
    // Shorter sequences first: what is joined is longer than its parts.
    let mut joins: Vec<(usize, Sequence, &[Sequence])> = Vec::new();
    for (at, parts) in &wishes.joins {
        if let Some(wish) = wishes.wish[*at] {
            let whole = wishes.sequence(wish.sequence);
            if !joins.iter().any(|j| j.1 == whole) {
                joins.push((wish.factor.length, whole, parts));
            }
        }
    }
    joins.sort_by_key(|j| j.0);
    for (_, whole, parts) in joins {
        made.join(whole, parts, wishes);
    }
    Ok(made)
}

impl Sequences {
    /// Gives a sequence the rows of its parts. Layers whose caches are alike share one layout.
    fn join(&mut self, whole: Sequence, parts: &[Sequence], wishes: &Wishes) {
        let known = parts
            .iter()
            .map(|&p| self.index.get(&wishes.sequence(p)).copied())
            .collect::<Option<Vec<usize>>>();
        let (Some(&at), Some(mut parts_at)) = (self.index.get(&whole), known) else { return };
        for (place, &part) in parts_at.iter_mut().zip(parts) {
            let equal =
                self.joined.values().flatten().copied().find(|&o| self.layouts[o] == self.layouts[*place]);
            if let Some(equal) = equal {
                *place = equal;
                self.index.insert(wishes.sequence(part), equal);
            }
        }
        let layout = Layout::joined(&parts_at.iter().map(|&p| &self.layouts[p]).collect::<Vec<_>>());
        let equal = self.joined.iter().find(|(_, parts)| **parts == parts_at).map(|(&at, _)| at);
        match equal {
            Some(equal) => {
                self.index.insert(whole, equal);
            }
            None => {
                self.layouts[at] = layout;
                self.joined.insert(at, parts_at);
            }
        }
    }
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
