//! One layout for each sequence of the model.
//!
//! In: the attentions that are split and the kind of layout that is asked for. Out: the layouts, and which of them each
//! sequence has. Where a kind depends on masks, those of all attentions of the sequence count.

use super::error::ShardError;
use super::factor::Factor;
use super::options::{Handed, ShardOptions};
use super::propagate::{Live, Sequence, Split, Wishes};
use crate::ir::{Attention, Op, ValueId};
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
    handed: &[(ValueId, &Handed)],
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
    let by_rows = wishes.handed.keys().filter_map(|&i| wishes.wish[i]).map(|w| (w.factor.length, w.sequence));
    let parts = wishes.joins.iter().filter_map(|(at, parts)| {
        let axis = wishes.wish[*at]?.factor.axis;
        Some(live.types(*at).into_iter().map(move |t| t.shape[axis]).zip(parts.iter().copied()))
    });
    for (length, s) in by_rows.chain(parts.flatten()) {
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
    made.give(live, wishes, options.ranks, handed)?;
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
    // A sequence that is joined has the rows of its parts, whatever was given.
    for (v, input) in handed {
        let Some((at, given)) = made.given(live, wishes, options.ranks, *v, input)? else { continue };
        if made.layouts[at].rows != given.rows {
            return Err(input.refused(
                "its rows are tied to those of other values, which lie on other ranks than the given rows say; give the rows that the earlier report names".into(),
            ));
        }
    }
    Ok(made)
}

impl Sequences {
    /// Lets the sequences of inputs whose rows are given have these rows.
    fn give(
        &mut self,
        live: &Live,
        wishes: &Wishes,
        ranks: usize,
        handed: &[(ValueId, &Handed)],
    ) -> Result<(), ShardError> {
        for (v, input) in handed {
            if let Some((at, given)) = self.given(live, wishes, ranks, *v, input)? {
                self.layouts[at] = given;
            }
        }
        Ok(())
    }

    /// The layout that is given with an input, and which it is to be.
    fn given(
        &self,
        live: &Live,
        wishes: &Wishes,
        ranks: usize,
        v: ValueId,
        input: &Handed,
    ) -> Result<Option<(usize, Layout)>, ShardError> {
        let Some(rows) = &input.rows else { return Ok(None) };
        let wish = wishes.wish[live.at(v)].filter(|w| w.factor == Factor::axis(input.axis, w.factor.length));
        let at = wish.and_then(|w| Some((w, *self.index.get(&wishes.sequence(w.sequence))?)));
        let Some((wish, at)) = at else {
            return Err(input.refused(
                "no attention reads it along that axis, so that its rows cannot be given; leave out =ROWS"
                    .into(),
            ));
        };
        if rows.len() != ranks {
            return Err(
                input.refused(format!("rows of {} ranks are given, and there are {ranks}", rows.len()))
            );
        }
        let given = Layout::given(wish.factor.length, rows.clone()).map_err(|why| input.refused(why))?;
        Ok(Some((at, given)))
    }

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
