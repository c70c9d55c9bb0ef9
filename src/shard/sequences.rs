//! One layout for each sequence of the model.
//!
//! In: the attentions that are split and the kind of layout that is asked for. Out: the layouts, and which of them each
//! sequence has. Where a kind depends on masks, those of all attentions of the sequence count.
//!
//! Invariants: which sequences share a layout depends on what is known of them, never on the kind, nor on how the rows happen to
//! lie: two caches that nobody asks anything else of share one, and so do sequences that are put together of the same parts. What
//! is put together of parts lies behind them in length.

use super::error::ShardError;
use super::factor::Factor;
use super::joins::{Join, Sequence};
use super::live::Live;
use super::options::{Handed, ShardOptions};
use super::wishes::{Split, Wishes};
use crate::ir::{Attention, Op, ValueId};
use crate::layout::{Layout, LayoutKind, Progression};
use crate::mask::{Mask, Term};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A sequence and who attends along it.
struct Rows {
    length: usize,
    causal: bool,
    /// Rows at which a document begins.
    starts: BTreeSet<usize>,
    /// The attentions whose queries are its rows.
    queries: Vec<Split>,
    /// As the host has them.
    given: Option<Layout>,
}

impl Rows {
    fn new(length: usize) -> Rows {
        Rows { length, causal: false, starts: BTreeSet::new(), queries: vec![], given: None }
    }

    /// All that says how the rows lie, whatever the kind; `None` if it is more than is compared: the work of queries.
    fn known(&self) -> Option<Known> {
        let known = || (self.length, self.causal, self.starts.clone(), self.given.clone());
        self.queries.is_empty().then(known)
    }
}

/// See [`Rows::known`].
type Known = (usize, bool, BTreeSet<usize>, Option<Layout>);

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
    let mut found = Found { wishes, rows: vec![], of: HashMap::new() };
    for split in &wishes.splits {
        let operands = live.types(split.at);
        for (s, length, queries) in
            [(split.q, operands[0].shape[2], true), (split.kv, operands[1].shape[2], false)]
        {
            let rows = found.rows(s, length);
            rows.causal |= split.causal;
            rows.starts.extend(starts(&attention(live, split)?.scores.mask(), length, queries));
            if queries {
                rows.queries.push(*split);
            }
        }
    }
    if options.layout == Some(LayoutKind::Document) && found.rows.iter().all(|r| r.starts.is_empty()) {
        let why = "no attention has a mask that keeps documents apart which are known when compiling and are the same for \
                   every batch entry";
        return Err(ShardError::Layout { kind: LayoutKind::Document, why: why.into() });
    }
    // Then those of windows, and those of which an input or an old row is handed over.
    for wish in &wishes.windows {
        found.rows(wish.sequence, wish.factor.length);
    }
    for wish in wishes.handed.keys().filter_map(|&i| wishes.wish[i]) {
        found.rows(wish.sequence, wish.factor.length);
    }
    for &(length, s) in wishes.joins().iter().flat_map(|join| &join.operands) {
        found.rows(s, length);
    }
    let given = found.give(live, options.ranks, handed)?;
    let joined = found.share();
    let layouts = found.rows.iter().map(|rows| {
        let chosen = if rows.causal { LayoutKind::Zigzag } else { LayoutKind::Contiguous };
        match (&rows.given, options.layout.unwrap_or(chosen)) {
            (Some(given), _) => given.clone(),
            (None, LayoutKind::Document) => {
                let starts: Vec<usize> = rows.starts.iter().copied().collect();
                Layout::by_document(rows.length, options.ranks, &starts)
            }
            (None, LayoutKind::Balanced) if !rows.queries.is_empty() => {
                let work = |first, end| rows.queries.iter().map(|s| work(live, s, first, end)).sum();
                Layout::balanced(rows.length, options.ranks, work)
            }
            (None, kind) => Layout::new(kind, rows.length, options.ranks),
        }
    });
    let mut made = Sequences { layouts: layouts.collect(), index: found.of, joined };
    let mut wholes: Vec<usize> = made.joined.keys().copied().collect();
    // What is joined is longer than its parts.
    wholes.sort_by_key(|&at| made.layouts[at].length);
    for at in wholes {
        let parts: Vec<&Layout> = made.joined[&at].iter().map(|&part| &made.layouts[part]).collect();
        made.layouts[at] = Layout::joined(&parts);
    }
    // A sequence that is joined has the rows of its parts, whatever was given.
    for (input, sequence, rows) in given {
        let held = made.index.get(&sequence).map(|&at| &made.layouts[at]);
        if !held.is_some_and(|held| same_rows(held, &rows)) {
            return Err(input.refused(
                "its rows are tied to those of other values, which lie on other ranks than the given rows say; give the rows that the earlier report names".into(),
            ));
        }
    }
    Ok(made)
}

/// Whether each rank has the same rows in the same order, however they are written.
fn same_rows(a: &Layout, b: &Layout) -> bool {
    let rows = |own: &[Progression]| own.iter().flat_map(Progression::rows).collect::<Vec<_>>();
    a.rows.len() == b.rows.len() && a.rows.iter().zip(&b.rows).all(|(a, b)| a == b || rows(a) == rows(b))
}

/// The sequences, as they are met.
struct Found<'a> {
    wishes: &'a Wishes,
    rows: Vec<Rows>,
    /// By the sequence that stands for all that it is tied with.
    of: HashMap<Sequence, usize>,
}

impl Found<'_> {
    fn rows(&mut self, s: Sequence, length: usize) -> &mut Rows {
        let at = *self.of.entry(self.wishes.sequence(s)).or_insert_with(|| {
            self.rows.push(Rows::new(length));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// Lets the sequences of inputs whose rows are given have these rows. Returns the inputs with their sequences and rows.
    fn give<'h>(
        &mut self,
        live: &Live,
        ranks: usize,
        handed: &[(ValueId, &'h Handed)],
    ) -> Result<Vec<(&'h Handed, Sequence, Layout)>, ShardError> {
        let mut all = Vec::new();
        for &(v, input) in handed {
            let Some(rows) = &input.rows else { continue };
            let wish = self.wishes.wish[live.at(v)];
            let wish = wish.filter(|w| w.factor == Factor::axis(input.axis, w.factor.length));
            let at = wish.map(|w| (w.factor.length, self.wishes.sequence(w.sequence)));
            let Some((length, sequence)) = at.filter(|(_, s)| self.of.contains_key(s)) else {
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
            let given = Layout::given(length, rows.clone()).map_err(|why| input.refused(why))?;
            self.rows(sequence, length).given = Some(given.clone());
            all.push((input, sequence, given));
        }
        Ok(all)
    }

    /// Lets sequences share one layout: old rows of which nothing else is known, so that layers whose caches are alike are one
    /// problem, and what is put together of the same parts. Returns the parts of each layout that has some.
    fn share(&mut self) -> BTreeMap<usize, Vec<usize>> {
        let wishes = self.wishes;
        let mut stands: Vec<usize> = (0..self.rows.len()).collect();
        let mut old: HashMap<Known, usize> = HashMap::new();
        for &(_, s) in wishes.joins().iter().flat_map(|join| &join.operands) {
            let at = self.of.get(&wishes.sequence(s)).copied();
            if let Some((at, known)) =
                at.filter(|_| wishes.join_of(s).is_none()).and_then(|at| Some((at, self.rows[at].known()?)))
            {
                stands[at] = *old.entry(known).or_insert(at);
            }
        }
        let mut wholes: Vec<(usize, usize, &Join)> = wishes
            .wholes()
            .filter_map(|(s, join)| self.of.get(&s).map(|&at| (self.rows[at].length, at, join)))
            .collect();
        // What is joined is longer than its parts.
        wholes.sort_by_key(|&(length, at, _)| (length, at));
        let mut made: HashMap<Vec<usize>, usize> = HashMap::new();
        let mut joined = BTreeMap::new();
        for (_, at, join) in wholes {
            let parts = join.parts().map(|(_, s)| self.of.get(&wishes.sequence(s)).map(|&part| stands[part]));
            let Some(parts) = parts.collect::<Option<Vec<usize>>>() else { continue };
            stands[at] = *made.entry(parts.clone()).or_insert(at);
            if stands[at] == at {
                joined.insert(at, parts);
            }
        }
        // Only those that stand for themselves are left.
        let mut number = vec![0; stands.len()];
        let mut left = 0;
        let mut rows = Vec::new();
        for (at, own) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            if stands[at] == at {
                number[at] = left;
                left += 1;
                rows.push(own);
            }
        }
        self.rows = rows;
        self.of.values_mut().for_each(|at| *at = number[stands[*at]]);
        let renumbered = |(at, parts): (usize, Vec<usize>)| {
            (number[at], parts.into_iter().map(|part| number[part]).collect())
        };
        joined.into_iter().map(renumbered).collect()
    }
}

fn attention<'a>(live: &Live<'a>, split: &Split) -> Result<&'a Attention, ShardError> {
    match live.op(split.at) {
        Op::Attention(a) => Ok(a),
        other => Err(ShardError::fault(
            live.name(split.at),
            format!("{} is split as an attention is", other.name()),
        )),
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
    let Ok(Attention { scores, .. }) = attention(live, split) else { return 0 };
    // A pair that a finite number masks is computed like any other.
    let pairs = scores.live().area(first, end, k[2]);
    pairs.saturating_mul((q[0] * q[1]) as u128).saturating_mul((q[3] + v[3]) as u128)
}
