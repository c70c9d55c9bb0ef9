//! Whether the rows of Q, K and V come from one sequence axis.
//!
//! A row axis is followed backwards ([`ways`](crate::find::sequence::step_back)) to where its rows come from: inputs, look-ups by index, operations
//! that are not followed. These are the origins of a row. The result of an attention has the origins of its queries, and
//! itself: what an encoder has made of a sequence is another sequence than what a decoder has. Rows of several origins, as
//! past keys and new ones, are told apart.
//!
//! It is self-attention if for some keys and some queries what keys and values have in common is in the queries, or all that
//! is in the queries is among it: positions that both sides add, or that one of them adds, make no difference.

use super::step_back::{Row, RowSource, back, row};
use crate::ir::Topology;
use crate::ir::{DType, Graph, Op, OpId, ValueId};
use std::collections::HashMap;
use std::rc::Rc;

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    Axis(Row),
    Attention(OpId),
}

/// Most origins of one row that are told apart; of more, the first ones found.
const MOST_ORIGINS: usize = 64;
/// Most runs of rows of one axis that are told apart; of more, all rows have all origins.
const MOST_RUNS: usize = 8;

/// Numbers of origins, ascending.
type Set = Rc<[usize]>;
/// Runs of rows of the same origins: where each ends, and these.
type Runs = Rc<[(usize, Set)]>;

/// What the rows of queries are to those of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relation {
    /// Of another sequence, or not known to be of one.
    Other,
    /// Of the same sequence.
    Own,
    /// The same, and a single row whose sequence has no others but those that are keys already: a step of decoding.
    Step,
}

/// Origins of the row axes seen so far.
#[derive(Default)]
pub(crate) struct Origins {
    numbers: HashMap<Origin, usize>,
    /// Of each origin whether it depends on inputs, and whether it is several rows.
    facts: Vec<(bool, bool)>,
    known: HashMap<Row, Runs>,
}

impl Origins {
    /// What the rows of q are to those of k and v, all given as axes.
    pub(crate) fn relation(
        &mut self,
        graph: &Graph,
        order: &Topology,
        axes: [(ValueId, usize); 3],
    ) -> Relation {
        let rows = axes.map(|(v, a)| row(graph, v, a));
        let [q, k, v] = rows.map(|row| self.of(graph, order, row));
        let both = spans(&k).flat_map(|(a, b, k)| {
            spans(&v).filter(move |&(c, d, _)| a < d && c < b).map(move |(_, _, v)| (k, v))
        });
        let kins = both.flat_map(|(k, v)| q.iter().map(|(_, q)| self.runs_relation(q, k, v)));
        let may_step = rows[0].extent == 1 && rows[1].extent > 1;
        kins.max().unwrap_or(Relation::Other).min(if may_step { Relation::Step } else { Relation::Own })
    }

    /// The same of rows of these origins.
    fn runs_relation(&self, q: &[usize], k: &[usize], v: &[usize]) -> Relation {
        let shared: Vec<usize> = k.iter().copied().filter(|o| v.contains(o)).collect();
        let is_dynamic = |o: &&usize| self.facts[**o].0;
        let mut memory = shared.iter().filter(is_dynamic).peekable();
        let some = memory.peek().is_some() && q.iter().any(|o| is_dynamic(&o));
        if !some || !(memory.all(|o| q.contains(o)) || q.iter().all(|o| shared.contains(o))) {
            return Relation::Other;
        }
        let several = shared.iter().filter(is_dynamic).any(|o| q.contains(o) && self.facts[*o].1);
        if several { Relation::Own } else { Relation::Step }
    }

    fn of(&mut self, graph: &Graph, order: &Topology, start: Row) -> Runs {
        let mut stack = vec![start];
        while let Some(&at) = stack.last() {
            if self.known.contains_key(&at) {
                stack.pop();
                continue;
            }
            let dynamic = order.may_depend_on_input(at.value.op);
            let sources = if dynamic { back(graph, order, at) } else { vec![] };
            let before = stack.len();
            stack.extend(sources.iter().map(|s| s.row).filter(|r| !self.known.contains_key(r)));
            if stack.len() > before {
                continue;
            }
            let op = at.value.op;
            let runs = if graph.ty(at.value).dtype == DType::Bool {
                [(at.extent, Set::from([]))].into()
            } else if sources.is_empty() {
                let own = self.number(Origin::Axis(at), dynamic, at.extent);
                [(at.extent, Set::from([own]))].into()
            } else {
                let is_attention = matches!(graph.op(op), Op::Attention(_));
                let own = is_attention.then(|| {
                    let rows = graph.ty(at.value).shape[2];
                    Set::from([self.number(Origin::Attention(op), true, rows)])
                });
                self.put_together(at.extent, &sources, own.as_ref())
            };
            self.known.insert(at, runs);
        }
        self.known[&start].clone()
    }

    /// The origins of so many rows that come from these sources; all have `own` as well.
    fn put_together(&self, extent: usize, sources: &[RowSource], own: Option<&Set>) -> Runs {
        let mut ends = vec![extent];
        for s in sources {
            let Some(shift) = s.shift else { continue };
            let borders = [0].into_iter().chain(self.known[&s.row].iter().map(|r| r.0));
            ends.extend(borders.filter_map(|b| b.checked_add_signed(shift)).filter(|&b| b > 0 && b < extent));
        }
        ends.sort_unstable();
        ends.dedup();
        if ends.len() > MOST_RUNS {
            ends = vec![extent];
        }
        let mut from = 0;
        let mut runs = vec![];
        for end in ends {
            let parts = sources.iter().flat_map(|s| {
                let overlaps = move |(first, last, _): &(usize, usize, &Set)| {
                    let placed = |n: &usize| *n as i128 + s.shift.unwrap_or(0) as i128;
                    s.shift.is_none() || placed(first) < end as i128 && placed(last) > from as i128
                };
                spans(&self.known[&s.row]).filter(overlaps).map(|(_, _, set)| set)
            });
            runs.push((end, union(parts.chain(own))));
            from = end;
        }
        runs.into()
    }

    fn number(&mut self, origin: Origin, dynamic: bool, rows: usize) -> usize {
        let next = self.facts.len();
        let n = *self.numbers.entry(origin).or_insert(next);
        if n == next {
            self.facts.push((dynamic, rows > 1));
        }
        n
    }
}

/// The runs, each with its first row and the one behind its last.
fn spans(runs: &Runs) -> impl Iterator<Item = (usize, usize, &Set)> {
    let mut from = 0;
    runs.iter().map(move |(to, set)| (std::mem::replace(&mut from, *to), *to, set))
}

fn union<'a>(sets: impl Iterator<Item = &'a Set>) -> Set {
    let mut sets = sets.peekable();
    let Some(first) = sets.next() else { return [].into() };
    let mut others = sets.filter(|s| !Rc::ptr_eq(s, first)).peekable();
    if others.peek().is_none() {
        return first.clone();
    }
    let mut all: Vec<usize> = first.iter().chain(others.flat_map(|s| s.iter())).copied().collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(MOST_ORIGINS);
    if *all == **first { first.clone() } else { all.into() }
}
